//! What stands between a client's requests and where they go, looked at with every request: one byte.

/// Holds why a request may not simply go where its command leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions(u8);

/// Is set while the client has to authenticate before it may do anything else; looked at anew with every batch of requests.
const LOCKED: u8 = 1;

/// Is set while the client has yet to say who it is.
const ARRIVING: u8 = 1 << 1;

/// Is set while the client has been arriving for as long as it may.
const OVERDUE: u8 = 1 << 2;

impl Restrictions {
    /// Tells whether every request goes where its command leads.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Tells whether the client has to authenticate first.
    pub fn is_locked(self) -> bool {
        self.0 & LOCKED != 0
    }

    /// Tells whether the client is arriving.
    pub fn is_arriving(self) -> bool {
        self.0 & ARRIVING != 0
    }

    /// Tells whether the client has been arriving for as long as it may.
    pub fn is_overdue(self) -> bool {
        self.0 & OVERDUE != 0
    }

    /// Returns the same of a client that has been arriving for as long as it may.
    #[must_use]
    pub fn overdue(self) -> Self {
        Self(self.0 | OVERDUE)
    }

    /// Locks the client out until it authenticates, or lets it in.
    pub fn set_locked(&mut self, on: bool) {
        self.set(LOCKED, on);
    }

    /// Takes the client for one that is arriving, or that has said who it is.
    pub fn set_arriving(&mut self, on: bool) {
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
