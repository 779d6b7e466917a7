//! What becomes of the frames of a connection that answer no request: a client gets them as they come, or they are gathered and
//! forwarded, whole.

use std::rc::Rc;
use std::time::Duration;

use crate::exchange::Violation;
use crate::fanout::{ConfirmedSubscriptions, QueuedSubscription};
use crate::memory::{MemoryAccount, UnfinishedFrame};
use crate::outlet::Outlet;
use crate::resp::speak::push_header;

/// Redis tells a client so that what it redirects to is gone; the id follows.
const BROKEN: &[u8] = b">2\r\n$21\r\ntracking-redir-broken\r\n:";

/// A gathered frame has at most so many bytes: as many as a connection may read at once, many times over. Redis sends no more keys in
/// one than were changed by one command.
pub(super) const MAX_GATHERED: usize = 32 * 1024 * 1024;

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
    /// Passes frames on to `client`.
    pub(super) fn of(client: Rc<Outlet>) -> Self {
        Self {
            client,
            confirmed: None,
            stands_for: None,
            gathered: Vec::new(),
            passing: false,
        }
    }

    pub(super) fn client(&self) -> &Rc<Outlet> {
        &self.client
    }

    pub(super) fn into_client(self) -> Rc<Outlet> {
        self.client
    }

    /// Names a connection from now on by the second number where the server names it by the first.
    pub(super) fn stand_for(&mut self, names: Option<(i64, u64)>) {
        self.stands_for = names;
    }

    /// Takes in that an EXEC is sent that may run these commands.
    pub(super) fn expect(&mut self, queued: Vec<QueuedSubscription>) {
        self.confirmed = Some(Box::new(ConfirmedSubscriptions::executed(queued)));
    }

    pub(super) fn confirmed(&mut self) -> Option<&mut ConfirmedSubscriptions> {
        self.confirmed.as_deref_mut()
    }

    /// Tells whether the client is subscribed, or has sent something within `silent_for`.
    pub(super) fn is_exempt(&self, now_ms: u64, silent_for: Duration) -> bool {
        let silent_ms = now_ms.saturating_sub(self.client.last_active_ms());
        self.client.is_subscribed() || u128::from(silent_ms) < silent_for.as_millis()
    }

    /// Hears more bytes of a frame on a connection that confirms the client's own subscriptions.
    pub(super) fn heed(&mut self, bytes: &[u8], complete: bool) {
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

    /// Takes more bytes of a frame; `complete`: it ends with them.
    pub(super) fn take(&mut self, bytes: &[u8], complete: bool) {
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
    gathered: UnfinishedFrame,
}

impl ForwardedFrames {
    /// Forwards what the client that the connection is lent to would get.
    pub(super) fn new(
        forward: Box<dyn Forward>,
        owner: Option<Rc<Outlet>>,
        account: &Rc<MemoryAccount>,
    ) -> Self {
        Self {
            forward,
            owner,
            gathered: UnfinishedFrame::new(account),
        }
    }

    pub(super) fn owner(&self) -> Option<&Rc<Outlet>> {
        self.owner.as_ref()
    }

    pub(super) fn forget_owner(&mut self) {
        self.owner = None;
    }

    /// Takes in that the connection is lost. Returns the client that is closed with it.
    pub(super) fn lost(self) -> Option<Rc<Outlet>> {
        let closes = self.forward.lost();
        self.owner.filter(|_| closes)
    }

    /// Takes more bytes of a frame; `complete`: it ends with them.
    pub(super) fn take(&mut self, bytes: &[u8], complete: bool) -> Result<(), Violation> {
        if self.gathered.bytes().len() + bytes.len() > MAX_GATHERED {
            return Err(Violation::MessageTooLarge);
        }
        if complete && self.gathered.bytes().is_empty() {
            self.forward.take(bytes);
            return Ok(());
        }
        self.gathered.append(bytes);
        if complete {
            self.forward.take(&self.gathered.take());
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
}
