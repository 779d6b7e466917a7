//! A client that authenticates anew while the server is asked whether it takes what the client has shown before: the answer is
//! about a password that the client may just be leaving behind, and closes it only where the new one is not taken.

use std::cell::Cell;
use std::rc::Rc;

use crate::client::{ClientEntry, Clients};

/// Says where a client stands that shows a user and a password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::client) enum LoginState {
    /// It shows nothing now.
    #[default]
    Settled,
    /// It has shown something that nobody has judged yet.
    UnderWay,
    /// The same, and the server takes no more what it has shown before.
    LastHope,
}

/// The state of one client's login.
#[derive(Debug, Default)]
pub(in crate::client) struct LoginCell(Cell<LoginState>);

impl LoginCell {
    /// The server takes no more what the client has shown before. True: it is closed now; else, when it shows something that is
    /// not taken either.
    pub(in crate::client) fn is_lost_now(&self) -> bool {
        let is_settled = self.0.get() == LoginState::Settled;
        if !is_settled {
            self.0.set(LoginState::LastHope);
        }
        is_settled
    }

    fn begin(&self) {
        self.0.set(LoginState::UnderWay);
    }

    /// Notes that what the client has shown is taken.
    pub(in crate::client) fn is_taken(&self) {
        self.0.set(LoginState::Settled);
    }

    /// The login is over, whatever came of it. True: it was the client's last hope.
    fn end(&self) -> bool {
        self.0.take() == LoginState::LastHope
    }
}

/// A login, until it is dropped: from the moment in which it is shown to the one in which its reply is written.
pub(in crate::client) struct LoginUnderWay {
    clients: Rc<Clients>,
    entry: Rc<ClientEntry>,
}

impl LoginUnderWay {
    /// The client shows a user and a password.
    pub(in crate::client) fn begin(clients: &Rc<Clients>, entry: &Rc<ClientEntry>) -> Self {
        entry.login.begin();
        Self {
            clients: Rc::clone(clients),
            entry: Rc::clone(entry),
        }
    }
}

impl Drop for LoginUnderWay {
    fn drop(&mut self) {
        if self.entry.login.end() {
            self.clients.close_without_password(&self.entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shows_another_password_meanwhile_is_lost_only_with_that() {
        let login = LoginCell::default();
        assert!(login.is_lost_now(), "it shows nothing else");
        assert!(!login.end());
        login.begin();
        assert!(!login.is_lost_now() && !login.is_lost_now());
        assert!(login.end(), "the other one was not taken");
        assert!(!login.end());
        login.begin();
        assert!(!login.is_lost_now());
        login.is_taken();
        assert!(!login.end(), "the other one holds");
        login.begin();
        assert!(!login.end(), "nobody has asked");
    }
}
