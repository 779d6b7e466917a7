//! The connection that stands for a client to which another client's invalidations are redirected, and how what the server sends
//! there comes to that client, wherever it is.
//!
//! Invariant: a connection that has stood for a client is lent on only when the server has acknowledged that nothing is
//! redirected to it any more; in every other case it is closed, and its id is never used again.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::site::{Errand, Resident, Site};
use crate::failover::Node;
use crate::identity::{Card, Flag};
use crate::resp::ReplyScanner;
use crate::telemetry::Disconnect;
use crate::upstream::{Outlet, Pin, broken_redirection};

/// How the server begins an invalidation in RESP3; an array of keys or a null follows.
const INVALIDATE: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";

/// How it begins one for a RESP2 client with subscriptions.
const INVALIDATE_MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";

/// What a redirection is called at the server, and here.
#[derive(Debug, Clone, Copy)]
pub(super) struct RedirectionNames {
    /// The connection that stands for the client.
    pub(super) server_id: i64,
    /// The client.
    pub(super) to: u64,
    /// Something was to go to it when it had gone.
    pub(super) is_broken: bool,
}

impl RedirectionNames {
    /// The same connection, standing for another client.
    pub(super) fn leading_to(self, to: u64) -> Self {
        Self {
            to,
            is_broken: false,
            ..self
        }
    }
}

/// A connection that stands for the client to which another client's invalidations are redirected.
pub struct Redirection {
    pub(super) server_id: i64,
    /// The client that gets them.
    pub(super) to: Cell<u64>,
    /// Something was to go to it when it had gone.
    is_broken: Cell<bool>,
    pub(super) lent: RefCell<Option<Pin>>,
    /// The client whose they are: closed when one of them is lost.
    owner: (Rc<Outlet>, Arc<Card>),
    /// What this turn has brought.
    pending: RefCell<Vec<u8>>,
    post: Arc<Post>,
    site: Weak<Site>,
}

impl Redirection {
    pub(super) fn new(
        site: &Rc<Site>,
        owner: (Rc<Outlet>, Arc<Card>),
        pin: Pin,
        to: u64,
    ) -> Rc<Self> {
        let link = Rc::clone(pin.link());
        let redirection = Rc::new(Self {
            server_id: link.server_id,
            to: to.into(),
            is_broken: false.into(),
            lent: Some(pin).into(),
            owner,
            pending: RefCell::default(),
            post: Arc::default(),
            site: Rc::downgrade(site),
        });
        let this = Rc::downgrade(&redirection);
        link.forward_pushes(Box::new(move |frame| {
            if let Some(this) = this.upgrade() {
                this.take(frame);
            }
        }));
        redirection
    }

    /// The number by which the server knows its connection, and that of the client that it stands for.
    pub(super) fn names(&self) -> RedirectionNames {
        RedirectionNames {
            server_id: self.server_id,
            to: self.to.get(),
            is_broken: self.is_broken.get(),
        }
    }

    /// The server to which its connection is one; `None`: that has ended.
    pub(super) fn node(&self) -> Option<Node> {
        let lent = self.lent.borrow();
        let link = lent
            .as_ref()
            .map(Pin::link)
            .filter(|link| link.is_alive())?;
        Some(link.origin().node.clone())
    }

    fn is_open(&self) -> bool {
        let lent = self.lent.borrow();
        lent.as_ref().is_some_and(|pin| pin.link().is_alive())
    }

    /// Ends it, whatever the server has acknowledged: it closes the connection and marks the redirection as broken.
    pub fn end(&self) {
        if let Some(pin) = self.lent.take() {
            pin.link().lend_to(None);
            pin.link().close("what was redirected to it ends");
        }
    }

    /// Ends it when the client it leads to is gone, and its owner when something was lost on the way.
    pub fn check(&self, site: &Site) {
        if site.registry.find(self.to.get()).is_none() {
            self.end();
        } else if self.post.has_lost.load(Ordering::Relaxed) {
            self.owner.0.close(Disconnect::UpstreamLost);
        }
    }

    /// One frame of the server. All of one turn go on together.
    fn take(self: &Rc<Self>, frame: &[u8]) {
        if !frame.starts_with(INVALIDATE) {
            return;
        }
        let is_first = self.pending.borrow().is_empty();
        self.pending.borrow_mut().extend_from_slice(frame);
        if is_first {
            let this = Rc::clone(self);
            tokio::task::spawn_local(async move { this.pass_on() });
        }
    }

    fn pass_on(&self) {
        let frames = self.pending.take();
        let Some(site) = self.site.upgrade() else {
            return;
        };
        let to = self.to.get();
        if let Some(resident) = site.residents.borrow().get(&to) {
            return resident.invalidated(&frames);
        }
        if site.registry.find(to).is_some() {
            let most = site.thread.settings().limits.max_client_buffer;
            if let Some(letter) = Letter::new(to, frames, &self.post, most) {
                (site.errands)(Errand::Invalidate(Arc::new(letter)));
            }
            return;
        }
        // As the server does when it finds the connection gone.
        self.is_broken.set(true);
        let (outlet, card) = &self.owner;
        if card.resp.get() == 3 && self.is_open() {
            outlet.push(&broken_redirection(to));
        }
        self.end();
    }
}

impl Drop for Redirection {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is on its way from one redirection to clients of other workers.
#[derive(Debug, Default)]
struct Post {
    bytes: AtomicUsize,
    has_lost: AtomicBool,
}

/// Invalidations for a client of another worker. One that nobody takes is noted as lost by its drop.
#[derive(Debug)]
pub struct Letter {
    to: u64,
    frames: Vec<u8>,
    post: Arc<Post>,
    is_delivered: AtomicBool,
}

impl Letter {
    /// `None`, and lost: more than `most` bytes are under way.
    fn new(to: u64, frames: Vec<u8>, post: &Arc<Post>, most: usize) -> Option<Self> {
        let under_way = post.bytes.fetch_add(frames.len(), Ordering::Relaxed);
        let letter = Self {
            to,
            frames,
            post: Arc::clone(post),
            is_delivered: false.into(),
        };
        // One alone always goes: the client's own bound judges it.
        (under_way == 0 || under_way + letter.frames.len() <= most).then_some(letter)
    }

    /// Hands it to its client if that is one of this worker's.
    pub fn deliver(&self, site: &Site) {
        if let Some(resident) = site.residents.borrow().get(&self.to) {
            self.is_delivered.store(true, Ordering::Relaxed);
            resident.invalidated(&self.frames);
        }
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        self.post
            .bytes
            .fetch_sub(self.frames.len(), Ordering::Relaxed);
        if !self.is_delivered.load(Ordering::Relaxed) {
            self.post.has_lost.store(true, Ordering::Relaxed);
        }
    }
}

impl Resident {
    /// Whether it has a subscription: Redis asks no more of a RESP2 client to which invalidations are redirected, not even
    /// that it is subscribed to `__redis__:invalidate`.
    fn is_subscribed(&self) -> bool {
        self.card.has(Flag::Pubsub)
    }

    /// Passes on invalidations that were redirected to it.
    fn invalidated(&self, frames: &[u8]) {
        if self.card.resp.get() == 3 {
            self.outlet.push(frames);
        } else if self.is_subscribed() {
            self.outlet.push(&as_messages(frames));
        }
    }
}

/// Whole invalidations of RESP3 as the messages that RESP2 has for them.
fn as_messages(mut frames: &[u8]) -> Vec<u8> {
    let mut messages = Vec::with_capacity(2 * frames.len());
    while let Some(value) = frames.strip_prefix(INVALIDATE) {
        let Ok(end) = ReplyScanner::default().advance(value) else {
            break;
        };
        messages.extend_from_slice(INVALIDATE_MESSAGE);
        messages.extend_from_slice(&value[..end.used]);
        frames = &value[end.used..];
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalidations_become_messages() {
        let frames = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n";
        let head = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
        let expected = format!("{head}*2\r\n$1\r\na\r\n$1\r\nb\r\n{head}_\r\n");
        assert_eq!(String::from_utf8_lossy(&as_messages(frames)), expected);
    }

    #[test]
    fn a_letter_nobody_takes_is_lost() {
        let post = Arc::new(Post::default());
        let letter = Letter::new(1, vec![0; 10], &post, 15).unwrap();
        letter.is_delivered.store(true, Ordering::Relaxed);
        drop(letter);
        assert!(!post.has_lost.load(Ordering::Relaxed));
        let waiting = Letter::new(1, vec![0; 10], &post, 15).unwrap();
        assert!(
            Letter::new(1, vec![0; 10], &post, 15).is_none(),
            "too much is under way"
        );
        assert!(post.has_lost.load(Ordering::Relaxed));
        drop(waiting);
        assert_eq!(post.bytes.load(Ordering::Relaxed), 0);
    }
}
