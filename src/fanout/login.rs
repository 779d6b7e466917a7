//! Shows the server who respool is on a connection that carries subscriptions.
//!
//! Invariant: the login is sent when all before it is answered, and what is behind it when it is answered itself: Redis 8.2.3 never
//! answers one that fails behind another request.

use zeroize::Zeroizing;

use super::{RequestPurpose, TopicFanout};

/// Says where the login is that is to be answered.
#[derive(Debug, Default)]
pub(super) enum PendingLogin {
    /// No login is to be answered.
    #[default]
    Nothing,
    /// It waits for the answers to what was asked before it.
    Waits {
        request: Zeroizing<Vec<u8>>,
        /// This many bytes of the requests not yet handed over stand before it.
        before: usize,
    },
    /// It is at the server.
    Sent,
}

impl<T: Clone> TopicFanout<T> {
    /// Shows the server who respool is, by an AUTH in RESP3; see [`Self::take_login`]. There is one at a time.
    pub fn login(&mut self, request: &[u8]) {
        if !self.is_connected || !matches!(self.login, PendingLogin::Nothing) {
            return;
        }
        self.login = PendingLogin::Waits {
            request: Zeroizing::new(request.to_vec()),
            before: self.requests.len(),
        };
        self.ask_aside(RequestPurpose::Login, b"");
    }

    /// Returns the server's answer to [`Self::login`], once.
    pub fn take_login(&mut self) -> Option<Vec<u8>> {
        self.login_answer.take()
    }

    /// Keeps what the server has answered to the login.
    pub(super) fn logged_in(&mut self, answer: &[u8]) {
        self.login = PendingLogin::Nothing;
        self.login_answer = Some(answer.to_vec());
    }

    /// Forgets the login: there is no connection any more on which it could be answered.
    pub(super) fn forget_login(&mut self) {
        self.login = PendingLogin::Nothing;
        self.login_answer = None;
    }

    /// Returns the requests made since this was called last, as far as they may be sent.
    pub fn take_requests(&mut self) -> Vec<u8> {
        let is_next = self
            .asked
            .front()
            .is_some_and(|asked| asked.what == RequestPurpose::Login);
        match &mut self.login {
            PendingLogin::Nothing => std::mem::take(&mut self.requests),
            PendingLogin::Sent => Vec::new(),
            PendingLogin::Waits { before, .. } if !is_next => {
                let behind = self.requests.split_off(std::mem::take(before));
                std::mem::replace(&mut self.requests, behind)
            }
            PendingLogin::Waits { request, .. } => {
                let request = std::mem::take(&mut **request);
                self.login = PendingLogin::Sent;
                request
            }
        }
    }
}
