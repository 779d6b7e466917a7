//! What its client has begun on a lent connection and has yet to go on with: none of respool's own may come between.
//!
//! CLIENT CACHING is for the next command of its client, and must end with that command though the server may never see it.

use super::Link;
use crate::exchange::OwnReply;
use crate::resp::speak::encode_request;

/// Says what its client has begun on a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum BegunRequest {
    /// It has begun nothing.
    #[default]
    None,
    /// A request was sent in part: nothing but its rest may follow.
    Part,
    /// The last request was CLIENT CACHING, which is for the next one.
    Announcement,
}

impl Link {
    /// Says whether a request has been sent in part.
    pub fn set_partial(&self, is_partial: bool) {
        self.begun.set(match is_partial {
            true => BegunRequest::Part,
            false => BegunRequest::None,
        });
        let now = self.thread.clock.now_micros();
        self.exchange.borrow_mut().set_partial(now);
    }

    /// Tells whether a request has been sent in part.
    pub fn is_partial(&self) -> bool {
        self.begun.get() == BegunRequest::Part
    }

    /// Takes in that the request sent last, CLIENT CACHING, is for the next one.
    pub fn set_announcing(&self) {
        self.begun.set(BegunRequest::Announcement);
    }

    /// Tells whether it waits for the next request.
    pub fn is_announcing(&self) -> bool {
        self.begun.get() == BegunRequest::Announcement
    }

    /// Sends another command in the place of the next one, which has been answered without the server.
    pub fn end_announcing(&self) {
        self.begun.set(BegunRequest::None);
        if self.is_alive() && !self.is_raw() {
            // No user's rules forbid it.
            self.send_own(&encode_request(&["HELLO"]), OwnReply::Ignore);
        }
    }
}
