//! How much the server is asked about topics that it has not answered yet: there is a bound to it, since what was asked for a client
//! stays asked when the client has gone.

use super::{COPIES, PendingRequest, RequestPurpose, TOPIC_BYTES, TopicFanout};

/// The server is asked for nothing more that a client wants while what it is asked, and has not answered, takes so much memory: some
/// ten thousand channels. A server that answers is never asked for so much.
const MOST_ASKED_BYTES: usize = 4 * 1024 * 1024;

impl<T> PendingRequest<T> {
    /// Returns the memory that its topics take until the server has answered it.
    pub(super) fn held_bytes(&self) -> usize {
        let names: usize = self.topics.iter().map(|name| name.len()).sum();
        let table = match self.what {
            RequestPurpose::Subscribe => TOPIC_BYTES,
            // They are in no table any more.
            _ => size_of::<std::rc::Rc<[u8]>>() * 2,
        };
        COPIES * names + table * self.topics.len()
    }
}

impl<T: Clone> TopicFanout<T> {
    /// Tells whether the server may be asked for more that a client wants. Otherwise it may when it has answered.
    pub fn may_ask(&self) -> bool {
        self.asked_bytes <= MOST_ASKED_BYTES
    }

    pub(super) fn has_asked(&mut self, request: PendingRequest<T>) {
        self.asked_bytes += request.held_bytes();
        self.asked.push_back(request);
    }

    /// Takes out the request that the server answers.
    pub(super) fn take_answered(&mut self) -> Option<PendingRequest<T>> {
        let answered = self.asked.pop_front()?;
        self.asked_bytes = self.asked_bytes.saturating_sub(answered.held_bytes());
        Some(answered)
    }

    /// Takes out all requests: the server answers none of them.
    pub(super) fn take_asked(&mut self) -> impl Iterator<Item = PendingRequest<T>> + use<T> {
        self.asked_bytes = 0;
        std::mem::take(&mut self.asked).into_iter()
    }
}
