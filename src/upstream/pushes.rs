//! Who gets the frames of a connection that answer no request.
//!
//! A lent connection's are its client's. One that stands for a client of respool as the target of CLIENT TRACKING REDIRECT
//! has them gathered, frame by frame, and forwarded.

use std::rc::Rc;
use std::time::Duration;

use super::outlet::Outlet;
use super::pool::Subscriptions;
use crate::exchange::Violation;
use crate::fanout::{ConfirmedSubscriptions, QueuedSubscription};
use crate::resp::speak::push_header;

/// How Redis tells a client that what it redirects to is gone; the id follows.
const BROKEN: &[u8] = b">2\r\n$21\r\ntracking-redir-broken\r\n:";

/// Most bytes of a gathered frame: as many as a connection may read at once, many times over. Redis sends no more keys in
/// one than were changed by one command.
const MAX_GATHERED: usize = 32 * 1024 * 1024;

/// Bytes of the longest id and its line end.
const LONGEST_ID: usize = 24;

/// Whoever gets what is forwarded.
pub trait Forward {
    /// One whole frame.
    fn take(&self, frame: &[u8]);
    /// The connection is lost. Whether the client that it is lent to is closed with it.
    fn lost(&self) -> bool;
}

/// Who gets the frames of a connection that answer no request.
#[derive(Default)]
pub(super) struct Pushes {
    /// The client it is lent to, closed when the connection is lost.
    client: Option<Rc<Outlet>>,
    /// The subscribers of the worker, who get whole frames as they come.
    subscribers: Option<Rc<Subscriptions>>,
    forward: Option<Box<dyn Forward>>,
    /// What the connection says of the subscriptions of the client it is lent to, since an EXEC has run a command about them.
    confirmed: Option<Box<ConfirmedSubscriptions>>,
    /// The id of a connection at the server, and of the client it stands for.
    stands_for: Option<(i64, u64)>,
    /// The frame under way, as far as it may have to be changed or is forwarded.
    gathered: Vec<u8>,
    /// The frame under way is passed on as it comes.
    passing: bool,
}

impl Pushes {
    pub(super) fn of(client: Option<Rc<Outlet>>) -> Self {
        Self {
            client,
            ..Self::default()
        }
    }

    pub(super) fn of_subscribers(subscriptions: Rc<Subscriptions>) -> Self {
        Self {
            subscribers: Some(subscriptions),
            ..Self::default()
        }
    }

    /// Tells whether they go to all the subscribers of the worker.
    pub(super) fn are_fanned_out(&self) -> bool {
        self.subscribers.is_some()
    }

    /// Tells whether as many messages have been handed out as one turn may take.
    pub(super) fn is_spent(&self) -> bool {
        let subscribers = self.subscribers.as_ref();
        subscribers.is_some_and(|subscribers| subscribers.is_spent())
    }

    /// Tells whether messages of an earlier turn have not been handed to sockets yet.
    pub(super) fn has_unsent(&self) -> bool {
        let subscribers = self.subscribers.as_ref();
        subscribers.is_some_and(|subscribers| subscribers.has_unsent())
    }

    pub(super) fn forward(&mut self, forward: Box<dyn Forward>) {
        self.forward = Some(forward);
    }

    pub(super) fn stand_for(&mut self, names: Option<(i64, u64)>) {
        self.stands_for = names;
    }

    /// An EXEC is sent that may run these commands of its client.
    pub(super) fn expect(&mut self, queued: Vec<QueuedSubscription>) {
        self.confirmed = Some(Box::new(ConfirmedSubscriptions::executed(queued)));
    }

    /// What its client has said of its subscriptions, since an EXEC has run a command about them.
    pub(super) fn confirmed(&mut self) -> Option<&mut ConfirmedSubscriptions> {
        self.confirmed.as_deref_mut()
    }

    /// More bytes of a frame of a connection on which its client's own subscriptions are confirmed.
    pub(super) fn heed(&mut self, bytes: &[u8], complete: bool) {
        let Some(client) = &self.client else { return };
        let Some(confirmed) = &mut self.confirmed else {
            return;
        };
        let is_subscribed = confirmed.take(bytes, complete);
        if client.is_subscribed() != is_subscribed {
            client.note_subscribed(is_subscribed);
            if !is_subscribed {
                // What has come since the frame began that says so.
                client.drop_amid();
            }
        }
    }

    /// Tells whether the server's `timeout` would not end the client's own connection: it stands for another client, its client is subscribed,
    /// elsewhere, or has sent something not long ago that the server has not seen.
    pub(super) fn is_exempt(&self, now_ms: u64, silent_for: Duration) -> bool {
        let is_active = |client: &Outlet| {
            let silent_ms = now_ms.saturating_sub(client.last_active_ms());
            u128::from(silent_ms) < silent_for.as_millis()
        };
        let client = self.client.as_ref();
        self.forward.is_some()
            || client.is_some_and(|client| client.is_subscribed() || is_active(client))
    }

    /// The last bytes of what seemed to be a frame, or several, and was text.
    pub(super) fn break_off(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.take(bytes, true)?;
        if let Some(confirmed) = &mut self.confirmed {
            confirmed.break_off();
        }
        Ok(())
    }

    /// The client it is lent to.
    pub(super) fn client(&self) -> Option<&Rc<Outlet>> {
        self.client.as_ref()
    }

    /// The client it was lent to has left. What has come of a frame stays.
    pub(super) fn forget_client(&mut self) {
        self.client = None;
    }

    /// The connection is lost: the client that is closed with it.
    pub(super) fn lost(self) -> Option<Rc<Outlet>> {
        let closes = self.forward.is_none_or(|forward| forward.lost());
        self.client.filter(|_| closes)
    }

    /// More bytes of a frame; `complete`: its last.
    pub(super) fn take(&mut self, bytes: &[u8], complete: bool) -> Result<(), Violation> {
        if let Some(subscribers) = &self.subscribers {
            return subscribers
                .take(bytes, complete)
                .map_err(|_| Violation::NoSubscription);
        }
        if let Some(forward) = &self.forward {
            if self.gathered.len() + bytes.len() > MAX_GATHERED {
                return Err(Violation::MessageTooLarge);
            }
            self.gathered.extend_from_slice(bytes);
            if complete {
                forward.take(&std::mem::take(&mut self.gathered));
            }
            return Ok(());
        }
        if self.confirmed.is_some() {
            self.heed(bytes, complete);
        }
        let Some(client) = &self.client else {
            return Ok(());
        };
        match self.stands_for {
            Some((at_server, own)) if !self.passing => {
                self.gathered.extend_from_slice(bytes);
                let compared = self.gathered.len().min(BROKEN.len());
                let may_be = self.gathered[..compared] == BROKEN[..compared]
                    && self.gathered.len() < BROKEN.len() + LONGEST_ID;
                if may_be && !complete {
                    return Ok(());
                }
                let frame = std::mem::take(&mut self.gathered);
                client.deliver_unasked(&renamed(frame, at_server, own), !complete);
                self.passing = !complete;
            }
            _ => {
                client.deliver_unasked(bytes, !complete);
                self.passing = !complete;
            }
        }
        Ok(())
    }
}

/// The frame with the client's id in the place of the connection's that stands for it.
fn renamed(frame: Vec<u8>, at_server: i64, own: u64) -> Vec<u8> {
    let mut broken = BROKEN[..BROKEN.len() - 1].to_vec();
    push_header(&mut broken, b':', at_server);
    if frame == broken {
        broken_redirection(own)
    } else {
        frame
    }
}

/// What a RESP3 client is told when `id`, to which its invalidations are redirected, is gone.
pub fn broken_redirection(id: u64) -> Vec<u8> {
    let mut frame = BROKEN[..BROKEN.len() - 1].to_vec();
    push_header(&mut frame, b':', id as i64);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_connections_own_id_is_replaced() {
        let broken = |id| broken_redirection(id);
        assert_eq!(broken(12), b">2\r\n$21\r\ntracking-redir-broken\r\n:12\r\n");
        assert_eq!(renamed(broken(12), 12, 3), broken(3));
        assert_eq!(renamed(broken(11), 12, 3), broken(11));
        let other = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n".to_vec();
        assert_eq!(renamed(other.clone(), 12, 3), other);
    }

    struct Seen(Rc<std::cell::RefCell<Vec<Vec<u8>>>>);

    impl Forward for Seen {
        fn take(&self, frame: &[u8]) {
            self.0.borrow_mut().push(frame.to_vec());
        }

        fn lost(&self) -> bool {
            true
        }
    }

    #[test]
    fn forwarded_frames_are_whole_however_they_arrive() {
        let frame = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
        for cut in 1..frame.len() {
            let seen = Rc::new(std::cell::RefCell::new(Vec::new()));
            let mut pushes = Pushes::default();
            pushes.forward(Box::new(Seen(Rc::clone(&seen))));
            for _ in 0..2 {
                pushes.take(&frame[..cut], false).unwrap();
                pushes.take(&frame[cut..], true).unwrap();
            }
            assert_eq!(*seen.borrow(), [frame.to_vec(), frame.to_vec()]);
        }
    }
}
