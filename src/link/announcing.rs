//! CLIENT CACHING, which is for the next command of its client: none of respool's own may come between, and it must end with that command
//! though the server may never see it.

use super::Link;
use crate::exchange::OwnReply;
use crate::resp::speak::encode_request;

impl Link {
    /// Takes in that the request sent last, CLIENT CACHING, is for the next one.
    pub fn set_announcing(&self) {
        self.announces.set(true);
    }

    /// Tells whether it waits for the next request.
    pub fn is_announcing(&self) -> bool {
        self.announces.get()
    }

    /// Sends another command in the place of the next one, which has been answered without the server.
    pub fn end_announcing(&self) {
        self.announces.set(false);
        if self.is_alive() && !self.is_raw() && !self.is_partial() {
            // No user's rules forbid it.
            self.send_own(&encode_request(&["HELLO"]), OwnReply::Ignore);
        }
    }
}
