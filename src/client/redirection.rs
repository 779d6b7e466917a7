//! The connection that stands for a client to which another client's invalidations are redirected, and how what the server sends
//! there comes to that client, wherever it is.
//!
//! Invariant: one stands for one client for as long as it is lent, since nothing orders what comes on it and what the server says
//! to who redirects. It is given up when the server has answered a PING on it: what it has sent there before has come then. It is
//! lent on only when the server has also acknowledged that nothing is redirected to it any more; in every other case it is
//! closed, and its id is never used again.
//!
//! Invariant: while the server may redirect to it, it stays open though its client has left. The server would go on writing to one
//! that is closed until it sees that, and nobody would know. Each invalidation that reaches nobody is told to whom it was redirected by,
//! as the server does, or that client is closed. Where it ends all the same, as somebody waits for a connection, or an EXEC that may
//! redirect to it is to find nobody there, that client is told beforehand.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::story::{Awaited, Told};
use super::{Client, ClientEntry, ClientMessage, Clients};
use crate::failover::ServerNode;
use crate::identity::{ClientFlag, ClientRecord};
use crate::link::{Forward, Link, SocketEnd, broken_redirection};
use crate::memory::{HeldBytes, MemoryAccount};
use crate::outlet::Outlet;
use crate::resp::ReplyScanner;
use crate::resp::speak::encode_request;
use crate::session::{OwnCommand, OwnElement, OwnElements};
use crate::telemetry::Disconnect;
use crate::thread::Thread;
use crate::upstream::Pin;

/// Bounds how long the server may take to answer what tells that everything redirected has come. A server that is held up for longer is
/// most likely gone, and others wait for the connection.
const DRAINED_WITHIN: Duration = Duration::from_secs(5);

/// Says how often what is under way to other workers is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Says how often it is looked at whether the server has closed a connection, for which an EXEC waits. It does so as soon as it sees the
/// end.
const LOOK_FOR_END_EVERY: Duration = Duration::from_millis(1);

/// Is how the server begins an invalidation in RESP3; an array of keys or a null follows.
const INVALIDATE: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";

/// Is how it begins one for a RESP2 client with subscriptions.
const INVALIDATE_MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";

/// Says what a redirection is called at the server, and here.
#[derive(Debug, Clone, Copy)]
pub(super) struct RedirectionNames {
    /// The connection that stands for the client.
    pub(super) server_id: i64,
    /// Names the client by respool's number.
    pub(super) to: u64,
    /// Something was to go to it when it had gone.
    pub(super) is_broken: bool,
}

/// A connection that stands for the client to which another client's invalidations are redirected.
pub struct Redirection {
    pub(super) server_id: i64,
    /// The client that gets them.
    pub(super) to: u64,
    /// Something was to go to it when it had gone.
    is_broken: Cell<bool>,
    /// The server has been asked to redirect to it, and may do so.
    is_in_use: Cell<bool>,
    /// Nothing is redirected to it any more; what was may still come.
    is_over: Cell<bool>,
    lent: RefCell<Option<Pin>>,
    /// Of the connection, since it was ended here.
    closing: RefCell<SocketEnd>,
    /// The client whose they are: closed when one of them is lost. `None`: it has left, or has forgotten what it tracked.
    owner: RefCell<Option<(Rc<Outlet>, Arc<ClientRecord>)>>,
    gathered: GatheredFrames,
    clients: Weak<Clients>,
}

impl Redirection {
    pub(super) fn new(
        clients: &Rc<Clients>,
        owner: (Rc<Outlet>, Arc<ClientRecord>),
        pin: Pin,
        to: u64,
    ) -> Rc<Self> {
        let link = Rc::clone(pin.link());
        let redirection = Rc::new(Self {
            server_id: link.server_id(),
            to,
            is_broken: false.into(),
            is_in_use: false.into(),
            is_over: false.into(),
            lent: Some(pin).into(),
            closing: RefCell::default(),
            owner: Some(owner).into(),
            gathered: GatheredFrames::new(&clients.thread.account),
            clients: Rc::downgrade(clients),
        });
        link.forward_pushes(Box::new(Rc::downgrade(&redirection)));
        redirection
    }

    /// The number by which the server knows its connection, and that of the client that it stands for.
    pub(super) fn names(&self) -> RedirectionNames {
        RedirectionNames {
            server_id: self.server_id,
            to: self.to,
            is_broken: self.is_broken.get(),
        }
    }

    /// The server to which its connection is one; `None`: that has ended.
    pub(super) fn node(&self) -> Option<ServerNode> {
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
            self.closing.replace(pin.link().socket_end());
            pin.link().lend_to(None);
            pin.link().close("what was redirected to it ends");
        }
    }

    /// The server is about to be asked to redirect to it.
    pub(super) fn note_in_use(&self) {
        self.is_in_use.set(true);
    }

    /// Tells whether the client it leads to takes nothing any more.
    fn leads_nowhere(&self, clients: &Clients) -> bool {
        match clients.entries.borrow().get(&self.to) {
            Some(entry) => entry.outlet.is_closed(),
            None => clients.registry.find(self.to).is_none(),
        }
    }

    /// Tells of what was lost on the way to another worker, and ends it when it leads nowhere and the server does not redirect to it yet.
    /// True: it leads nowhere, and stays until somebody waits for a connection.
    pub(super) fn check(&self, clients: &Clients) -> bool {
        if self.gathered.post.has_lost.swap(false, Ordering::AcqRel) {
            self.note_loss();
        }
        self.gathered.count();
        if !self.is_open() || !self.leads_nowhere(clients) {
            return false;
        }
        if !self.is_in_use.get() {
            self.end();
        }
        self.is_open()
    }

    /// Ends one that leads nowhere: nobody knows then what was still to come on it.
    fn give_up(&self) {
        if self.is_in_use.get() {
            self.tell_broken(1);
        }
        self.end();
    }

    /// Tells whether it was ended, and the server has not closed it yet.
    pub(super) fn is_closing(&self) -> bool {
        !self.closing.borrow().is_over()
    }

    /// The group that holds its lease.
    fn group(&self) -> usize {
        let lent = self.lent.borrow();
        lent.as_ref().map_or(0, Pin::group)
    }

    /// Returns the thread on which it is waited for what has been sent, where there is something to wait for and somebody who could.
    fn may_drain(&self) -> Option<Rc<Thread>> {
        let clients = self.clients.upgrade()?;
        let may = self.is_open() && !clients.upstream.is_stopping();
        may.then(|| Rc::clone(&clients.thread))
    }

    /// The server has acknowledged that nothing is redirected to it any more. What it has sent there before goes on to its client;
    /// then the connection may be lent on.
    pub(super) fn finish(self: Rc<Self>) {
        self.is_over.set(true);
        let Some(thread) = self.may_drain() else {
            return self.end();
        };
        tokio::task::spawn_local(async move {
            match thread.while_running(DRAINED_WITHIN, self.drained()).await {
                Some(true) => drop(self.lent.take()),
                Some(false) => self.end(),
                None => {
                    self.end();
                    self.note_loss();
                }
            }
            let delivered = async {
                while self.gathered.post.bytes.load(Ordering::Acquire) > 0 {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            let delivered = thread.while_running(DRAINED_WITHIN, delivered).await;
            if delivered.is_none() || self.gathered.post.has_lost.load(Ordering::Acquire) {
                self.note_loss();
            }
        });
    }

    /// Something did not reach its client: the owner is told, where that client has left, and closed where it has not.
    fn note_loss(&self) {
        if self.must_close_owner()
            && let Some((outlet, _)) = &*self.owner.borrow()
        {
            outlet.close(Disconnect::UpstreamLost);
        }
    }

    /// Something did not reach its client: the owner is told, where that client has left. True: it is to be closed.
    fn must_close_owner(&self) -> bool {
        let clients = self.clients.upgrade();
        if clients.is_some_and(|clients| self.leads_nowhere(&clients)) {
            self.tell_broken(1);
            return false;
        }
        let owner = self.owner.borrow();
        owner
            .as_ref()
            .is_some_and(|(_, record)| self.is_minded(record))
    }

    /// Tells whether its owner remembers anything that could be outdated.
    fn is_minded(&self, owner: &ClientRecord) -> bool {
        !self.is_over.get() || owner.has(ClientFlag::Tracking)
    }

    /// Tells the owner that so many invalidations were for a client that has left, as the server tells it when it finds the connection
    /// gone.
    fn tell_broken(&self, times: usize) {
        let owner = self.owner.borrow();
        let Some((outlet, record)) = &*owner else {
            return;
        };
        if !self.is_minded(record) {
            return;
        }
        if !self.is_over.get() {
            self.is_broken.set(true);
            record.raise(ClientFlag::BrokenRedirection);
        }
        if record.resp.get() == 3 {
            outlet.push(&broken_redirection(self.to).repeat(times));
        }
    }

    /// Its owner has left, or has forgotten what it tracked: nobody minds any more what is lost.
    fn forget_owner(&self) {
        self.is_over.set(true);
        self.owner.take();
        if let Some(pin) = &*self.lent.borrow() {
            pin.link().forget_client();
        }
    }

    /// Tells whether the server has answered on the connection: what it has sent there before has come then, and gone on.
    async fn drained(&self) -> bool {
        let link = self.lent.borrow().as_ref().map(|pin| Rc::clone(pin.link()));
        let Some(link) = link.filter(|link| link.is_alive()) else {
            return false;
        };
        let is_answered = all_answered(&link).await.is_ok();
        self.pass_on();
        is_answered
    }

    /// One frame of the server. All of one turn go on together.
    fn take(self: &Rc<Self>, frame: &[u8]) {
        if !frame.starts_with(INVALIDATE) {
            return;
        }
        if self.gathered.append(frame) {
            let this = Rc::clone(self);
            tokio::task::spawn_local(async move { this.pass_on() });
        }
    }

    fn pass_on(&self) {
        let frames = self.gathered.take();
        let Some(clients) = self.clients.upgrade().filter(|_| !frames.is_empty()) else {
            return;
        };
        if self.leads_nowhere(&clients) {
            return self.tell_broken(values(&frames).count());
        }
        if let Some(entry) = clients.entries.borrow().get(&self.to) {
            return entry.invalidated(&frames);
        }
        let most = clients.thread.settings().limits.max_client_buffer;
        if let Some(invalidations) = Invalidations::new(self.to, frames, &self.gathered.post, most)
        {
            clients.tell_worker_of(self.to, ClientMessage::Invalidate(invalidations));
        }
        self.gathered.count();
    }
}

impl Forward for Weak<Redirection> {
    fn take(&self, frame: &[u8]) {
        if let Some(this) = self.upgrade() {
            this.take(frame);
        }
    }

    fn lost(&self) -> bool {
        let Some(this) = self.upgrade() else {
            return false;
        };
        this.pass_on();
        let closes = this.must_close_owner();
        if !closes {
            // Others may have its lease.
            this.end();
        }
        closes
    }
}

impl Drop for Redirection {
    fn drop(&mut self) {
        self.end();
    }
}

/// Asks for an answer that comes behind all others, and behind what the server has sent unasked until then.
fn all_answered(link: &Link) -> oneshot::Receiver<Vec<u8>> {
    link.ask(&encode_request(&["PING"]))
}

/// Counts what is on its way from one redirection to clients of other workers.
#[derive(Debug, Default)]
struct Post {
    bytes: AtomicUsize,
    has_lost: AtomicBool,
}

/// Holds what the server has sent to a redirection in this turn, and counts it with what is on its way from there.
struct GatheredFrames {
    frames: RefCell<Vec<u8>>,
    post: Arc<Post>,
    held: HeldBytes,
}

impl GatheredFrames {
    fn new(account: &Rc<MemoryAccount>) -> Self {
        Self {
            frames: RefCell::default(),
            post: Arc::default(),
            held: HeldBytes::new(account),
        }
    }

    /// Appends a frame. Returns true where it is the first of its turn.
    fn append(&self, frame: &[u8]) -> bool {
        let mut frames = self.frames.borrow_mut();
        let is_first = frames.is_empty();
        frames.extend_from_slice(frame);
        drop(frames);
        self.count();
        is_first
    }

    /// Takes out what has been gathered.
    fn take(&self) -> Vec<u8> {
        let frames = self.frames.take();
        self.count();
        frames
    }

    /// Sets what is held to what there is now: other workers take what is on its way without a word.
    fn count(&self) {
        let under_way = self.post.bytes.load(Ordering::Relaxed);
        self.held.set(self.frames.borrow().capacity() + under_way);
    }
}

/// Invalidations for a client of another worker. One that nobody takes is noted as lost by its drop.
#[derive(Debug)]
pub struct Invalidations {
    to: u64,
    frames: Vec<u8>,
    post: Arc<Post>,
    is_delivered: AtomicBool,
}

impl Invalidations {
    /// `None`, and lost: more than `most` bytes are under way.
    fn new(to: u64, frames: Vec<u8>, post: &Arc<Post>, most: usize) -> Option<Self> {
        let under_way = post.bytes.fetch_add(frames.len(), Ordering::Relaxed);
        let invalidations = Self {
            to,
            frames,
            post: Arc::clone(post),
            is_delivered: false.into(),
        };
        // One alone always goes: the client's own bound judges it.
        (under_way == 0 || under_way + invalidations.frames.len() <= most).then_some(invalidations)
    }

    /// Hands it to its client if that is one of this worker's, and takes anything still.
    pub fn deliver(&self, clients: &Clients) {
        let entries = clients.entries.borrow();
        let entry = entries.get(&self.to);
        if let Some(entry) = entry.filter(|entry| !entry.outlet.is_closed()) {
            self.is_delivered.store(true, Ordering::Relaxed);
            entry.invalidated(&self.frames);
        }
    }
}

impl Drop for Invalidations {
    fn drop(&mut self) {
        // In this order: who sees nothing under way any more sees what was lost.
        if !self.is_delivered.load(Ordering::Relaxed) {
            self.post.has_lost.store(true, Ordering::Release);
        }
        self.post
            .bytes
            .fetch_sub(self.frames.len(), Ordering::Release);
    }
}

/// Holds what one look at all clients of a worker finds of redirections.
#[derive(Default)]
pub(super) struct RedirectionLook {
    leading_nowhere: Vec<Rc<Redirection>>,
    /// Counts those that have ended, and that the server has not closed yet.
    closing: usize,
}

impl RedirectionLook {
    /// Looks at those of one client.
    pub(super) fn check(&mut self, entry: &ClientEntry, clients: &Clients) {
        for redirection in &entry.redirections.borrow()[..] {
            if redirection.check(clients) {
                self.leading_nowhere.push(Rc::clone(redirection));
            }
            self.closing += usize::from(redirection.is_closing());
        }
    }

    /// Of those that lead nowhere ends as many as others wait for.
    pub(super) fn end(mut self, clients: &Clients) {
        let budget = &clients.thread.process.budget;
        for redirection in self.leading_nowhere {
            if budget.is_lease_wanted(redirection.group(), self.closing) {
                redirection.give_up();
                self.closing += 1;
            }
        }
    }
}

impl Client {
    /// Ends what stands for clients that have left to whom the EXEC at hand may redirect, and waits until the server has closed all of
    /// that: it is to find nobody there, and nothing orders what it gets on different connections.
    pub(super) async fn end_queued_redirections(&mut self) -> Told {
        let redirected = |element: &OwnElement| match element.command {
            OwnCommand::Redirected(to) => Some(to),
            _ => None,
        };
        let queued: Vec<u64> = {
            let transaction = self.outlet.transaction();
            let queued = transaction.own().map_or(&[][..], OwnElements::queued);
            queued.iter().filter_map(redirected).collect()
        };
        let closing = self.entry.end_leading_nowhere(&queued, &self.clients);
        if closing.is_empty() {
            return Ok(());
        }
        let ending = async move {
            while closing.iter().any(|redirection| redirection.is_closing()) {
                tokio::time::sleep(LOOK_FOR_END_EVERY).await;
            }
        };
        self.meanwhile(ending, Awaited::Server).await
    }
}

impl ClientEntry {
    /// Returns what the connections are called to which its invalidations are redirected, or may be by what is queued.
    pub(super) fn redirection_names(&self) -> Box<[RedirectionNames]> {
        let all = self.redirections.borrow();
        all.iter().map(|redirection| redirection.names()).collect()
    }

    /// The server is about to be asked to redirect to `to`, or (`None`) to any of those that may be queued.
    pub(super) fn use_redirections(&self, to: Option<u64>) {
        let all = self.redirections.borrow();
        all.iter()
            .filter(|redirection| to.is_none_or(|to| redirection.to == to))
            .for_each(|redirection| redirection.note_in_use());
    }

    pub(super) fn add_redirection(&self, redirection: Rc<Redirection>) {
        let mut all = self.redirections.take().into_vec();
        all.push(redirection);
        self.redirections.replace(all.into());
    }

    /// Ends those that stand for one of these clients and lead nowhere. Returns those of them that the server has not closed yet.
    fn end_leading_nowhere(&self, to: &[u64], clients: &Clients) -> Vec<Rc<Redirection>> {
        let all = self.redirections.borrow();
        let those = all.iter().filter(|one| to.contains(&one.to));
        those
            .filter(|one| {
                if one.is_open() && one.leads_nowhere(clients) {
                    one.give_up();
                }
                one.is_closing()
            })
            .cloned()
            .collect()
    }

    /// Takes out those that are not to be kept.
    pub(super) fn keep_redirections(
        &self,
        keeps: impl Fn(&Redirection) -> bool,
    ) -> Vec<Rc<Redirection>> {
        let all = self.redirections.take().into_vec();
        let (kept, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| keeps(one));
        self.redirections.replace(kept.into());
        others
    }

    /// It tracks nothing any more, as it leaves or is reset: what the server has sent, or sends for what it has been asked, still
    /// goes to whom it was redirected to. The server has acknowledged nothing, so that the connections are closed then.
    pub fn leave_redirections(&self) {
        let all = self.redirections.take();
        if all.is_empty() {
            return;
        }
        all.iter()
            .for_each(|redirection| redirection.forget_owner());
        if !all
            .iter()
            .any(|redirection| redirection.may_drain().is_some())
        {
            return all.iter().for_each(|redirection| redirection.end());
        }
        let own = self.pinned.borrow().clone();
        let asked = own
            .filter(|link| link.is_alive() && link.in_flight() > 0)
            .filter(|link| !link.is_raw() && !link.is_partial())
            .map(|link| all_answered(&link));
        tokio::task::spawn_local(async move {
            let drained = async {
                if let Some(answered) = asked {
                    // Lost with the connection there is nothing to wait for either.
                    let _ = answered.await;
                }
                for redirection in &all {
                    redirection.drained().await;
                }
            };
            // However it ends, they are closed.
            let _ = tokio::time::timeout(DRAINED_WITHIN, drained).await;
            all.iter().for_each(|redirection| redirection.end());
        });
    }

    /// Tells whether it has a subscription, by the last confirmation that was placed with it: Redis asks no more of a RESP2 client to which
    /// invalidations are redirected, not even that it is subscribed to `__redis__:invalidate`.
    fn is_subscribed(&self) -> bool {
        self.record.has(ClientFlag::Pubsub)
    }

    /// Passes on invalidations that were redirected to it.
    fn invalidated(&self, frames: &[u8]) {
        if self.record.resp.get() == 3 {
            self.outlet.push(frames);
        } else if self.is_subscribed() {
            self.outlet.push(&as_messages(frames));
        }
    }
}

/// Lists what each of these whole invalidations of RESP3 says to be invalid.
fn values(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let rest = frames.strip_prefix(INVALIDATE)?;
        let end = ReplyScanner::default().advance(rest).ok()?;
        let (value, behind) = rest.split_at(end.used);
        frames = behind;
        Some(value)
    })
}

/// Whole invalidations of RESP3 as the messages that RESP2 has for them.
fn as_messages(frames: &[u8]) -> Vec<u8> {
    let mut messages = Vec::with_capacity(2 * frames.len());
    for value in values(frames) {
        messages.extend_from_slice(INVALIDATE_MESSAGE);
        messages.extend_from_slice(value);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryRoom;

    #[test]
    fn invalidations_become_messages() {
        let frames = b">2\r\n$10\r\ninvalidate\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n";
        let head = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
        let expected = format!("{head}*2\r\n$1\r\na\r\n$1\r\nb\r\n{head}_\r\n");
        assert_eq!(String::from_utf8_lossy(&as_messages(frames)), expected);
        assert_eq!(values(frames).count(), 2, "each is told as broken");
    }

    #[test]
    fn what_is_gathered_and_what_is_on_its_way_is_counted() {
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
        let gathered = GatheredFrames::new(&account);
        assert!(gathered.append(&[0; 1000]), "the first of a turn");
        assert!(!gathered.append(&[0; 1000]), "the second");
        assert!(account.held() >= 2000, "{}", account.held());
        let frames = gathered.take();
        assert_eq!((frames.len(), account.held()), (2000, 0));
        let under_way = Invalidations::new(1, frames, &gathered.post, 4000).unwrap();
        gathered.count();
        assert_eq!(account.held(), 2000, "another worker has not taken it yet");
        drop(under_way);
        gathered.count();
        assert_eq!(account.held(), 0);
        gathered.append(&[0; 10]);
        drop(gathered);
        assert_eq!(account.held(), 0, "it goes with what holds it");
    }

    #[test]
    fn what_nobody_takes_is_lost() {
        let post = Arc::new(Post::default());
        let invalidations = Invalidations::new(1, vec![0; 10], &post, 15).unwrap();
        invalidations.is_delivered.store(true, Ordering::Relaxed);
        drop(invalidations);
        assert!(!post.has_lost.load(Ordering::Relaxed));
        let waiting = Invalidations::new(1, vec![0; 10], &post, 15).unwrap();
        assert!(
            Invalidations::new(1, vec![0; 10], &post, 15).is_none(),
            "too much is under way"
        );
        assert!(post.has_lost.load(Ordering::Relaxed));
        drop(waiting);
        assert_eq!(post.bytes.load(Ordering::Relaxed), 0);
    }
}
