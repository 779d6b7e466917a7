//! What stands between a client's requests and where they go, looked at with every request: one byte.

/// Holds why a request may not simply go where its command leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Restrictions(u8);

/// Is set while the client has to authenticate before it may do anything else; looked at anew with every batch of requests.
const LOCKED: u8 = 1;

/// Is set while the client has yet to say who it is.
const ARRIVING: u8 = 1 << 1;

impl Restrictions {
    /// Tells whether every request goes where its command leads.
    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether the client has to authenticate first.
    pub(super) fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// Tells whether the client is arriving.
    pub(super) fn is_arriving(self) -> bool {
        self.0 & ARRIVING != 0
    }

    pub(super) fn set_locked(&mut self, on: bool) {
        self.set(LOCKED, on);
    }

    pub(super) fn set_arriving(&mut self, on: bool) {
        self.set(ARRIVING, on);
    }

    fn set(&mut self, bit: u8, on: bool) {
        if on {
            self.0 |= bit;
        } else {
            self.0 &= !bit;
        }
    }
}
