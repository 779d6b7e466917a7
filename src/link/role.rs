//! What a connection is for, and so who gets the frames on it that answer no request.

use std::rc::Rc;
use std::time::Duration;

use super::frames::{ClientFrames, ForwardedFrames, SubscriberFrames};
use crate::exchange::Violation;
use crate::fanout::{ConfirmedSubscriptions, QueuedSubscription};
use crate::outlet::Outlet;

/// Says what a connection is for.
#[derive(Default)]
pub(super) enum LinkRole {
    /// Respool itself uses it: a blocked call is sent on it, or what its last client has left is undone.
    #[default]
    Own,
    /// Nobody uses it: it is kept for who wants one next.
    Idle,
    /// Many clients share it; it stands at this place among the worker's shared connections.
    Shared(usize),
    /// It is lent to a client, which gets the frames, and is closed when the connection is lost.
    Lent(ClientFrames),
    /// It stands for a client of respool at the server, as what others have their invalidations redirected to.
    Standing(ForwardedFrames),
    /// It brings the messages of all subscribers of the worker.
    Subscribed(SubscriberStream),
}

/// Hands every frame of a connection to the subscribers of the worker.
pub(super) struct SubscriberStream {
    subscribers: Rc<dyn SubscriberFrames>,
    /// Is true while frames have been read that there was no time for in their turn.
    is_behind: bool,
}

impl LinkRole {
    /// Makes the role of a connection that is lent to `client`; `None`: to respool itself.
    pub(super) fn lent_to(client: Option<Rc<Outlet>>) -> Self {
        client.map_or(Self::Own, |client| Self::Lent(ClientFrames::of(client)))
    }

    /// Makes the role of a connection that brings the messages of `subscribers`.
    pub(super) fn of_subscribers(subscribers: Rc<dyn SubscriberFrames>) -> Self {
        Self::Subscribed(SubscriberStream {
            subscribers,
            is_behind: false,
        })
    }

    /// Returns its place among the worker's shared connections, where it is one.
    #[inline]
    pub(super) fn slot(&self) -> Option<usize> {
        match self {
            Self::Shared(slot) => Some(*slot),
            Self::Own | Self::Idle | Self::Lent(_) | Self::Standing(_) | Self::Subscribed(_) => {
                None
            }
        }
    }

    /// Tells whether another connection may take its place at once: nobody waits for a reply on it.
    pub(super) fn is_replaceable(&self) -> bool {
        match self {
            Self::Idle | Self::Subscribed(_) => true,
            Self::Own | Self::Shared(_) | Self::Lent(_) | Self::Standing(_) => false,
        }
    }

    /// Tells whether something that pushes may have been asked for on it.
    pub(super) fn takes_pushes(&self) -> bool {
        match self {
            Self::Shared(_) => false,
            Self::Own | Self::Idle | Self::Lent(_) | Self::Standing(_) | Self::Subscribed(_) => {
                true
            }
        }
    }

    /// Tells whether the server's `timeout` would not end the client's own connection: it stands for another client, its client is subscribed,
    /// elsewhere, or has sent something not long ago that the server has not seen.
    pub(super) fn is_exempt(&self, now_ms: u64, silent_for: Duration) -> bool {
        match self {
            Self::Standing(_) => true,
            Self::Lent(frames) => frames.is_exempt(now_ms, silent_for),
            Self::Own | Self::Idle | Self::Shared(_) | Self::Subscribed(_) => false,
        }
    }

    /// Returns the client that it is lent to.
    pub(super) fn client(&self) -> Option<&Rc<Outlet>> {
        match self {
            Self::Lent(frames) => Some(frames.client()),
            Self::Standing(frames) => frames.owner(),
            Self::Own | Self::Idle | Self::Shared(_) | Self::Subscribed(_) => None,
        }
    }

    /// Returns the frames of the client that it is lent to.
    fn lent(&mut self) -> Option<&mut ClientFrames> {
        match self {
            Self::Lent(frames) => Some(frames),
            _ => None,
        }
    }

    /// Returns the subscribers of the worker, where the frames are theirs.
    pub(super) fn subscribers(&self) -> Option<&dyn SubscriberFrames> {
        match self {
            Self::Subscribed(stream) => Some(&*stream.subscribers),
            _ => None,
        }
    }

    /// Tells once that frames have been read that there was no time for in their turn.
    pub(super) fn take_behind(&mut self) -> bool {
        match self {
            Self::Subscribed(stream) => std::mem::take(&mut stream.is_behind),
            _ => false,
        }
    }

    /// Tells whether such frames are left.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self, Self::Subscribed(stream) if stream.is_behind)
    }

    /// Has the client told of another by the id it knows, where the server names a connection by its own.
    pub(super) fn stand_for(&mut self, names: Option<(i64, u64)>) {
        if let Some(frames) = self.lent() {
            frames.stand_for(names);
        }
    }

    /// Takes in that an EXEC is sent that may run these commands of its client.
    pub(super) fn expect(&mut self, queued: Vec<QueuedSubscription>) {
        if let Some(frames) = self.lent() {
            frames.expect(queued);
        }
    }

    /// Returns what its client has said of its subscriptions, since an EXEC has run a command about them.
    pub(super) fn confirmed(&mut self) -> Option<&mut ConfirmedSubscriptions> {
        self.lent()?.confirmed()
    }

    /// Hears more bytes of a frame of a connection on which its client's own subscriptions are confirmed.
    pub(super) fn heed(&mut self, bytes: &[u8], complete: bool) {
        if let Some(frames) = self.lent() {
            frames.heed(bytes, complete);
        }
    }

    /// Takes more bytes of a frame; `complete`: it ends with them. Returns whether there is time for the frame behind it in this turn.
    pub(super) fn take(&mut self, bytes: &[u8], complete: bool) -> Result<bool, Violation> {
        match self {
            Self::Own | Self::Idle | Self::Shared(_) => {}
            Self::Lent(frames) => frames.take(bytes, complete),
            Self::Standing(frames) => frames.take(bytes, complete)?,
            Self::Subscribed(stream) => {
                let has_time = stream.subscribers.take(bytes, complete)?;
                stream.is_behind |= !has_time;
                return Ok(has_time);
            }
        }
        Ok(true)
    }

    /// Takes the last bytes of what seemed to be a frame, or several, and was text.
    pub(super) fn break_off(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        self.take(bytes, true)?;
        if let Some(confirmed) = self.confirmed() {
            confirmed.break_off();
        }
        Ok(())
    }

    /// Takes in that the client it was lent to has left. What has come of a frame that is forwarded stays.
    pub(super) fn forget_client(&mut self) {
        match self {
            Self::Standing(frames) => frames.forget_owner(),
            Self::Lent(_) => *self = Self::Own,
            Self::Own | Self::Idle | Self::Shared(_) | Self::Subscribed(_) => {}
        }
    }

    /// Takes in that the connection is lost. Returns the client that is closed with it.
    pub(super) fn lost(self) -> Option<Rc<Outlet>> {
        match self {
            Self::Lent(frames) => Some(frames.into_client()),
            Self::Standing(frames) => frames.lost(),
            Self::Own | Self::Idle | Self::Shared(_) | Self::Subscribed(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::Arc;

    use super::super::frames::{Forward, MAX_GATHERED};
    use super::*;
    use crate::memory::{MemoryAccount, MemoryRoom};

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

    fn standing() -> (Rc<Forwarded>, LinkRole) {
        let forwarded = Rc::<Forwarded>::default();
        let memory = Arc::new(MemoryRoom::new(1 << 30, 1));
        let account = MemoryAccount::new(memory, 0);
        let frames = ForwardedFrames::new(Box::new(Rc::clone(&forwarded)), None, &account);
        (forwarded, LinkRole::Standing(frames))
    }

    #[test]
    fn forwarded_frames_are_whole_however_they_arrive() {
        let frame = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
        for cut in 1..frame.len() {
            let (forwarded, mut role) = standing();
            for _ in 0..2 {
                assert!(role.take(&frame[..cut], false).unwrap());
                // Its client leaves in between.
                role.forget_client();
                assert!(role.take(&frame[cut..], true).unwrap());
            }
            assert_eq!(*forwarded.frames.borrow(), [frame.to_vec(), frame.to_vec()]);
        }
    }

    #[test]
    fn a_frame_without_end_ends_the_connection() {
        let (forwarded, mut role) = standing();
        let piece = vec![b'x'; MAX_GATHERED / 4];
        for _ in 0..4 {
            role.take(&piece, false).unwrap();
        }
        assert_eq!(role.take(b"x", true), Err(Violation::MessageTooLarge));
        assert!(forwarded.frames.borrow().is_empty());
    }

    #[test]
    fn whoever_forwards_learns_of_the_loss_though_no_client_has_the_connection() {
        let (forwarded, role) = standing();
        assert!(role.client().is_none());
        assert!(role.lost().is_none());
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
        let mut role = LinkRole::of_subscribers(Rc::new(Busy));
        assert!(role.take(b"*3", false).unwrap());
        assert!(!role.is_behind());
        assert!(!role.take(b"\r\n", true).unwrap());
        assert!(role.is_behind() && role.take_behind() && !role.is_behind());
        assert!(role.subscribers().is_some_and(|all| all.has_unsent()));
        for mut role in [LinkRole::Own, LinkRole::Idle, LinkRole::Shared(3)] {
            assert!(role.take(b"*3", true).unwrap());
            assert!(!role.take_behind() && role.subscribers().is_none());
            assert!(!role.is_exempt(0, Duration::ZERO));
        }
    }

    #[test]
    fn each_role_says_what_may_become_of_the_connection() {
        let (_, standing) = standing();
        let subscribed = LinkRole::of_subscribers(Rc::new(Busy));
        // Its place, whether another may take that, and whether pushes may come.
        let roles = [
            (LinkRole::Own, None, false, true),
            (LinkRole::Idle, None, true, true),
            (LinkRole::Shared(0), Some(0), false, false),
            (standing, None, false, true),
            (subscribed, None, true, true),
        ];
        for (number, (role, slot, is_replaceable, takes_pushes)) in roles.iter().enumerate() {
            assert_eq!(role.slot(), *slot, "{number}");
            assert_eq!(role.is_replaceable(), *is_replaceable, "{number}");
            assert_eq!(role.takes_pushes(), *takes_pushes, "{number}");
        }
        assert!(matches!(LinkRole::lent_to(None), LinkRole::Own));
    }
}
