//! Messages of a client's subscriptions: how they begin, and by which connection they come.

use std::cell::Cell;

use crate::session::Protocol;

/// Says in which form one client gets its messages.
#[derive(Debug, Default)]
pub(super) struct MessageForm {
    /// Is true in RESP3, where they are pushes; in RESP2 they are arrays.
    are_pushes: Cell<bool>,
    /// Is true while some have come that were not sent yet.
    are_placed: Cell<bool>,
    /// Is true where they come by the second connection of subscribers.
    are_apart: Cell<bool>,
}

impl MessageForm {
    pub(super) fn speak(&self, protocol: Protocol) {
        self.are_pushes.set(match protocol {
            Protocol::Resp2 => false,
            Protocol::Resp3 => true,
        });
    }

    pub(super) fn are_pushes(&self) -> bool {
        self.are_pushes.get()
    }

    /// Returns the byte that messages begin with.
    pub(super) fn mark(&self) -> u8 {
        match self.are_pushes.get() {
            true => b'>',
            false => b'*',
        }
    }

    /// Returns the null of what messages are made of.
    pub(super) fn null(&self) -> &'static [u8] {
        match self.are_pushes.get() {
            true => b"_\r\n",
            false => b"$-1\r\n",
        }
    }

    /// Takes in that one has come. Returns whether it is the first since they were sent.
    pub(super) fn placed(&self) -> bool {
        !self.are_placed.replace(true)
    }

    /// Takes in that they are being sent.
    pub(super) fn sent(&self) {
        self.are_placed.set(false);
    }

    pub(super) fn are_apart(&self) -> bool {
        self.are_apart.get()
    }

    pub(super) fn set_apart(&self, are_apart: bool) {
        self.are_apart.set(are_apart);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_arrays_until_the_client_speaks_resp3() {
        let form = MessageForm::default();
        assert_eq!((form.mark(), form.null()), (b'*', &b"$-1\r\n"[..]));
        form.speak(Protocol::Resp3);
        assert_eq!((form.mark(), form.null()), (b'>', &b"_\r\n"[..]));
        form.speak(Protocol::Resp2);
        assert_eq!(form.mark(), b'*');
    }

    #[test]
    fn only_the_first_message_of_a_turn_is_told() {
        let form = MessageForm::default();
        assert!(form.placed() && !form.placed());
        form.sent();
        assert!(form.placed());
    }
}
