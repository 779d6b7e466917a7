//! Who gets the frames of a connection that answer no request.
//!
//! A lent connection's are its client's. One that stands for a client of respool as the target of CLIENT TRACKING REDIRECT
//! has them gathered, frame by frame, and forwarded. Those of the connection of subscribers are handed to them as they come.

use std::rc::Rc;
use std::time::Duration;

use crate::exchange::Violation;
use crate::fanout::{ConfirmedSubscriptions, QueuedSubscription};
use crate::outlet::Outlet;
use crate::resp::speak::push_header;

/// Redis tells a client so that what it redirects to is gone; the id follows.
const BROKEN: &[u8] = b">2\r\n$21\r\ntracking-redir-broken\r\n:";

/// A gathered frame has at most so many bytes: as many as a connection may read at once, many times over. Redis sends no more keys in
/// one than were changed by one command.
const MAX_GATHERED: usize = 32 * 1024 * 1024;

/// The longest id and its line end have so many bytes.
const LONGEST_ID: usize = 24;

/// Gets the frames that are forwarded.
pub trait Forward {
    /// Takes a whole frame.
    fn take(&self, frame: &[u8]);
    /// Learns that the connection is lost. Returns whether the client that it is lent to is closed with it.
    fn lost(&self) -> bool;
}

/// Gets the frames of a connection that brings the messages of many.
pub trait SubscriberFrames {
    /// Takes bytes of a frame; `complete`: it ends with them. Returns whether there is time for the frame behind it in this turn.
    ///
    /// # Errors
    /// The connection is of no further use.
    fn take(&self, bytes: &[u8], complete: bool) -> Result<bool, Violation>;
    /// Tells whether messages of an earlier turn have not been handed to sockets yet.
    fn has_unsent(&self) -> bool;
}

/// Gets the frames of a connection that answer no request.
#[derive(Default)]
pub(super) enum FrameSink {
    /// They are dropped.
    #[default]
    Nobody,
    /// They are for the client that the connection is lent to, which is closed when the connection is lost.
    Client(ClientFrames),
    /// They are gathered and forwarded, whole.
    Forwarded(ForwardedFrames),
    /// They are for all the subscribers of the worker.
    Subscribers(Rc<dyn SubscriberFrames>),
}

impl FrameSink {
    pub(super) fn of(client: Option<Rc<Outlet>>) -> Self {
        client.map_or(Self::Nobody, |client| {
            Self::Client(ClientFrames {
                client,
                confirmed: None,
                stands_for: None,
                gathered: Vec::new(),
                passing: false,
            })
        })
    }

    /// Forwards from now on what its client would get.
    pub(super) fn forward(&mut self, forward: Box<dyn Forward>) {
        let owner = self.client().cloned();
        *self = Self::Forwarded(ForwardedFrames {
            forward,
            owner,
            gathered: Vec::new(),
        });
    }

    /// Returns the subscribers of the worker, where the frames are theirs.
    pub(super) fn subscribers(&self) -> Option<&dyn SubscriberFrames> {
        match self {
            Self::Subscribers(subscribers) => Some(&**subscribers),
            _ => None,
        }
    }

    pub(super) fn stand_for(&mut self, names: Option<(i64, u64)>) {
        if let Self::Client(frames) = self {
            frames.stands_for = names;
        }
    }

    /// Takes in that an EXEC is sent that may run these commands of its client.
    pub(super) fn expect(&mut self, queued: Vec<QueuedSubscription>) {
        if let Self::Client(frames) = self {
            frames.confirmed = Some(Box::new(ConfirmedSubscriptions::executed(queued)));
        }
    }

    /// Returns what its client has said of its subscriptions, since an EXEC has run a command about them.
    pub(super) fn confirmed(&mut self) -> Option<&mut ConfirmedSubscriptions> {
        match self {
            Self::Client(frames) => frames.confirmed.as_deref_mut(),
            _ => None,
        }
    }

    /// Hears more bytes of a frame of a connection on which its client's own subscriptions are confirmed.
    pub(super) fn heed(&mut self, bytes: &[u8], complete: bool) {
        if let Self::Client(frames) = self {
            frames.heed(bytes, complete);
        }
    }

    /// Tells whether the server's `timeout` would not end the client's own connection: it stands for another client, its client is subscribed,
    /// elsewhere, or has sent something not long ago that the server has not seen.
    pub(super) fn is_exempt(&self, now_ms: u64, silent_for: Duration) -> bool {
        match self {
            Self::Forwarded(_) => true,
            Self::Client(ClientFrames { client, .. }) => {
                let silent_ms = now_ms.saturating_sub(client.last_active_ms());
                client.is_subscribed() || u128::from(silent_ms) < silent_for.as_millis()
            }
            Self::Nobody | Self::Subscribers(_) => false,
        }
    }

    /// Takes the last bytes of what seemed to be a frame, or several, and was text.
    pub(super) fn break_off(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.take(bytes, true)?;
        if let Some(confirmed) = self.confirmed() {
            confirmed.break_off();
        }
        Ok(())
    }

    /// Returns the client it is lent to.
    pub(super) fn client(&self) -> Option<&Rc<Outlet>> {
        match self {
            Self::Client(frames) => Some(&frames.client),
            Self::Forwarded(frames) => frames.owner.as_ref(),
            Self::Nobody | Self::Subscribers(_) => None,
        }
    }

    /// Takes in that the client it was lent to has left. What has come of a frame that is forwarded stays.
    pub(super) fn forget_client(&mut self) {
        match self {
            Self::Forwarded(frames) => frames.owner = None,
            Self::Client(_) => *self = Self::Nobody,
            Self::Nobody | Self::Subscribers(_) => {}
        }
    }

    /// Takes in that the connection is lost. Returns the client that is closed with it.
    pub(super) fn lost(self) -> Option<Rc<Outlet>> {
        match self {
            Self::Client(frames) => Some(frames.client),
            Self::Forwarded(frames) => {
                let closes = frames.forward.lost();
                frames.owner.filter(|_| closes)
            }
            Self::Nobody | Self::Subscribers(_) => None,
        }
    }

    /// Takes more bytes of a frame; `complete`: it ends with them. Returns whether there is time for the frame behind it in this turn.
    pub(super) fn take(&mut self, bytes: &[u8], complete: bool) -> Result<bool, Violation> {
        match self {
            Self::Nobody => {}
            Self::Client(frames) => frames.take(bytes, complete),
            Self::Forwarded(frames) => frames.take(bytes, complete)?,
            Self::Subscribers(subscribers) => return subscribers.take(bytes, complete),
        }
        Ok(true)
    }
}

/// Passes frames on to the client that the connection is lent to.
pub(super) struct ClientFrames {
    client: Rc<Outlet>,
    /// The connection says this of the subscriptions of its client, since an EXEC has run a command about them.
    confirmed: Option<Box<ConfirmedSubscriptions>>,
    /// The first is the id of a connection at the server, the second that of the client it stands for.
    stands_for: Option<(i64, u64)>,
    /// It holds the frame under way, as far as it may have to be changed.
    gathered: Vec<u8>,
    /// Is true while the frame under way is passed on as it comes.
    passing: bool,
}

impl ClientFrames {
    fn heed(&mut self, bytes: &[u8], complete: bool) {
        let Some(confirmed) = &mut self.confirmed else {
            return;
        };
        let is_subscribed = confirmed.take(bytes, complete);
        if self.client.is_subscribed() != is_subscribed {
            self.client.note_subscribed(is_subscribed);
            if !is_subscribed {
                // What has come since the frame began that says so.
                self.client.drop_amid();
            }
        }
    }

    fn take(&mut self, bytes: &[u8], complete: bool) {
        self.heed(bytes, complete);
        match self.stands_for {
            Some((at_server, own)) if !self.passing => {
                self.gathered.extend_from_slice(bytes);
                let compared = self.gathered.len().min(BROKEN.len());
                let may_be = self.gathered[..compared] == BROKEN[..compared]
                    && self.gathered.len() < BROKEN.len() + LONGEST_ID;
                if may_be && !complete {
                    return;
                }
                let frame = std::mem::take(&mut self.gathered);
                self.client
                    .deliver_unasked(&renamed(frame, at_server, own), !complete);
            }
            _ => self.client.deliver_unasked(bytes, !complete),
        }
        self.passing = !complete;
    }
}

/// Gathers frames, and forwards each when it is whole.
pub(super) struct ForwardedFrames {
    forward: Box<dyn Forward>,
    /// The connection is lent to this client.
    owner: Option<Rc<Outlet>>,
    /// It holds the frame under way.
    gathered: Vec<u8>,
}

impl ForwardedFrames {
    fn take(&mut self, bytes: &[u8], complete: bool) -> Result<(), Violation> {
        if self.gathered.len() + bytes.len() > MAX_GATHERED {
            return Err(Violation::MessageTooLarge);
        }
        self.gathered.extend_from_slice(bytes);
        if complete {
            self.forward.take(&std::mem::take(&mut self.gathered));
        }
        Ok(())
    }
}

/// Returns the frame with the client's id in the place of the connection's that stands for it.
fn renamed(frame: Vec<u8>, at_server: i64, own: u64) -> Vec<u8> {
    let mut broken = BROKEN[..BROKEN.len() - 1].to_vec();
    push_header(&mut broken, b':', at_server);
    if frame == broken {
        broken_redirection(own)
    } else {
        frame
    }
}

/// Returns what a RESP3 client is told when `id`, to which its invalidations are redirected, is gone.
pub fn broken_redirection(id: u64) -> Vec<u8> {
    let mut frame = BROKEN[..BROKEN.len() - 1].to_vec();
    push_header(&mut frame, b':', id as i64);
    frame
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

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

    /// Remembers what was forwarded, and whether it was told of the loss.
    #[derive(Default)]
    struct Forwarded {
        frames: RefCell<Vec<Vec<u8>>>,
        is_lost: Cell<bool>,
    }

    impl Forward for Rc<Forwarded> {
        fn take(&self, frame: &[u8]) {
            self.frames.borrow_mut().push(frame.to_vec());
        }

        fn lost(&self) -> bool {
            self.is_lost.replace(true);
            true
        }
    }

    fn forwarding() -> (Rc<Forwarded>, FrameSink) {
        let forwarded = Rc::<Forwarded>::default();
        let mut sink = FrameSink::default();
        sink.forward(Box::new(Rc::clone(&forwarded)));
        (forwarded, sink)
    }

    #[test]
    fn forwarded_frames_are_whole_however_they_arrive() {
        let frame = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
        for cut in 1..frame.len() {
            let (forwarded, mut sink) = forwarding();
            for _ in 0..2 {
                assert!(sink.take(&frame[..cut], false).unwrap());
                // Its client leaves in between.
                sink.forget_client();
                assert!(sink.take(&frame[cut..], true).unwrap());
            }
            assert_eq!(*forwarded.frames.borrow(), [frame.to_vec(), frame.to_vec()]);
        }
    }

    #[test]
    fn a_frame_without_end_ends_the_connection() {
        let (forwarded, mut sink) = forwarding();
        let piece = vec![b'x'; MAX_GATHERED / 4];
        for _ in 0..4 {
            sink.take(&piece, false).unwrap();
        }
        assert_eq!(sink.take(b"x", true), Err(Violation::MessageTooLarge));
        assert!(forwarded.frames.borrow().is_empty());
    }

    #[test]
    fn whoever_forwards_learns_of_the_loss_though_no_client_has_the_connection() {
        let (forwarded, sink) = forwarding();
        assert!(sink.client().is_none());
        assert!(sink.lost().is_none());
        assert!(forwarded.is_lost.get());
    }

    struct Busy;

    impl SubscriberFrames for Busy {
        fn take(&self, _: &[u8], complete: bool) -> Result<bool, Violation> {
            Ok(!complete)
        }

        fn has_unsent(&self) -> bool {
            true
        }
    }

    #[test]
    fn subscribers_alone_may_have_no_time_for_the_next_frame() {
        let mut sink = FrameSink::Subscribers(Rc::new(Busy));
        assert!(sink.take(b"*3", false).unwrap());
        assert!(!sink.take(b"\r\n", true).unwrap());
        assert!(sink.subscribers().is_some_and(|all| all.has_unsent()));
        let mut nobody = FrameSink::default();
        assert!(nobody.take(b"*3", true).unwrap());
        assert!(nobody.subscribers().is_none());
        assert!(!nobody.is_exempt(0, Duration::ZERO));
    }
}
