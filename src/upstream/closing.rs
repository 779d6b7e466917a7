//! Sockets that respool has closed and the server has not: they count as long as it may see them.
//!
//! A server that hangs, or is busy, keeps them among its connections, accepted or not, until it comes to read their end; a
//! reset would not change that. So the signs are that it closes its side, that its host does not answer any more, or that it says
//! so where another process holds the socket open (see [`super::unseen_ends`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::pool::Upstream;
use super::thread::Thread;
use super::unseen_ends::{ServerId, UnseenEnd};
use crate::budget::{Kind, SocketPermit};
use crate::failover::Node;
use crate::telemetry::LossCause;
use crate::transport::Stream;

/// How long a server usually takes at most to close its side.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How long a host may acknowledge nothing, not even a probe of the kernel, until it is taken for gone. What a server that
/// hangs has not room for is not acknowledged either, so this is longer than most servers hang.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// How long a server may not close its side before it is worth a line in the log: it may have been asked by then whether it has.
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// Least time between two log lines about sockets that the server does not close.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Where sockets stand that count no more, since their server is another one now: when it is the server again nothing is
/// dialled there before they have been counted again.
#[derive(Default)]
pub struct Uncounted(Mutex<Vec<Node>>);

impl Uncounted {
    /// Whether any stands at `node`.
    pub(super) fn holds(&self, node: &Node) -> bool {
        self.nodes().contains(node)
    }

    fn add(&self, node: &Node) {
        self.nodes().push(node.clone());
    }

    fn remove(&self, node: &Node) {
        let mut nodes = self.nodes();
        if let Some(at) = nodes.iter().position(|other| other == node) {
            nodes.swap_remove(at);
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sockets of one worker that are being closed.
#[derive(Default)]
pub(super) struct Closings {
    sockets: RefCell<Vec<Closing>>,
    waker: RefCell<Option<Waker>>,
    logged_micros: Cell<u64>,
    /// From when on this worker may ask the server about such; `u64::MAX`: a question is under way.
    pub(super) next_question_micros: Cell<u64>,
}

struct Closing {
    stream: Stream,
    kind: Kind,
    /// `None`: its server is not the server any more.
    permit: Option<SocketPermit>,
    end: ServerEnd,
    since_micros: u64,
    /// The server is being asked about it.
    unseen: Option<Arc<UnseenEnd>>,
}

/// The server's end of a socket.
#[derive(Debug, Clone)]
pub(super) struct ServerEnd {
    /// The server's address.
    pub(super) node: Node,
    /// When its connect began.
    pub(super) begun_micros: u64,
    /// Which of its connections it is to the server; `None`: it is not known.
    pub(super) id: Option<ServerId>,
}

impl Closings {
    /// Closes a socket, and keeps it until the server has closed it too.
    pub(super) fn add(&self, stream: Stream, permit: SocketPermit, end: ServerEnd, now: u64) {
        stream.finish_writing();
        let has_ended = stream.poll_end(&mut Context::from_waker(Waker::noop()));
        if has_ended.is_ready() {
            // The socket first.
            drop(stream);
            return drop(permit);
        }
        stream.probe_peer(GONE_AFTER);
        self.sockets.borrow_mut().push(Closing {
            stream,
            kind: permit.kind(),
            permit: Some(permit),
            end,
            since_micros: now,
            unseen: None,
        });
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.sockets.borrow().is_empty()
    }

    /// Forgets those that the server has closed. Ready: some; and whether it had kept one for longer than servers do.
    fn poll_ended(&self, cx: &mut Context<'_>, thread: &Thread) -> Poll<bool> {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let now = thread.clock.refresh();
        let ended: Vec<Closing> = {
            let mut sockets = self.sockets.borrow_mut();
            let is_over = |closing: &mut Closing| closing.stream.poll_end(cx).is_ready();
            sockets.extract_if(.., is_over).collect()
        };
        let uncounted = ended.iter().filter(|closing| closing.permit.is_none());
        uncounted.for_each(|closing| thread.process.uncounted.remove(&closing.end.node));
        let linger = LINGER.as_micros() as u64;
        let is_late = |closing: &Closing| now.saturating_sub(closing.since_micros) > linger;
        match ended.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(ended.iter().any(is_late)),
        }
    }

    /// Does what time has made due: what goes to a server that is not the server any more counts for a moment only, and
    /// again when it is the server again.
    fn tick(&self, thread: &Thread) {
        if self.is_empty() {
            return;
        }
        let now = thread.clock.now_micros();
        let process = &thread.process;
        let mut given_back = Vec::new();
        for closing in &mut *self.sockets.borrow_mut() {
            if !thread.clock.is_past(closing.since_micros, LINGER) {
                continue;
            }
            let ServerEnd {
                node, begun_micros, ..
            } = &closing.end;
            let left = process.whereabouts.is_to_be_left(node, *begun_micros, now);
            match (left, &closing.permit) {
                (Some(LossCause::Moved), Some(_)) => {
                    process.uncounted.add(&closing.end.node);
                    given_back.extend(closing.permit.take());
                }
                (Some(LossCause::Moved), None) | (_, Some(_)) => {}
                (_, None) => {
                    closing.permit = Some(process.budget.count_again(closing.kind));
                    process.uncounted.remove(&closing.end.node);
                }
            }
        }
        drop(given_back);
        self.note_unseen(thread);
        self.tell(thread);
    }

    /// Has the server asked about those that have waited for long, by whichever worker can.
    fn note_unseen(&self, thread: &Thread) {
        for closing in &mut *self.sockets.borrow_mut() {
            if closing.permit.is_none() {
                closing.unseen = None;
            } else if closing.unseen.is_none()
                && closing.is_overdue(thread, LINGER)
                && let Some(id) = closing.end.id
            {
                let unseen = UnseenEnd::new(&closing.end.node, id, thread);
                closing.unseen = Some(thread.process.unseen_ends.add(unseen));
            }
        }
    }

    /// Forgets those that the server says it has closed. Returns how many.
    pub(super) fn let_go(&self) -> usize {
        let is_over = |closing: &mut Closing| {
            closing
                .unseen
                .as_ref()
                .is_some_and(|unseen| unseen.is_gone())
        };
        let ended: Vec<Closing> = self.sockets.borrow_mut().extract_if(.., is_over).collect();
        ended.len()
    }

    fn tell(&self, thread: &Thread) {
        let sockets = self.sockets.borrow();
        let held = |closing: &&Closing| closing.is_overdue(thread, TOLD_AFTER);
        let count = sockets.iter().filter(held).count();
        let last = self.logged_micros.get();
        if count > 0 && (last == 0 || thread.clock.is_past(last, LOG_EVERY)) {
            self.logged_micros.set(thread.clock.now_micros());
            tracing::warn!(
                worker = thread.index,
                count,
                "connections that respool has closed count still, since it does not see that the server has closed them too: it hangs, \
                 is busy, or has forked a process that holds them open"
            );
        }
    }
}

impl Closing {
    /// Whether it counts, and the server has not closed it for longer than `limit`.
    fn is_overdue(&self, thread: &Thread, limit: Duration) -> bool {
        self.permit.is_some() && thread.clock.is_past(self.since_micros, limit)
    }
}

impl Upstream {
    /// Gives back the permits of sockets as the server closes them, which those who wait may need. When one that hung closes them,
    /// it is back.
    pub(super) async fn keep_closing(self: Rc<Self>) {
        loop {
            let closings = &self.thread.closings;
            let was_late = std::future::poll_fn(|cx| closings.poll_ended(cx, &self.thread)).await;
            if was_late {
                self.stirred();
            }
            // At the next tick each of a hundred wrong passwords took 40 ms where the server answers in one.
            if self.schedule.borrow().waiting() > 0 && !self.is_stopping() {
                self.act();
            }
        }
    }

    /// Looks at the sockets that are being closed.
    pub(super) fn watch_closings(self: &Rc<Self>) {
        self.thread.closings.tick(&self.thread);
        self.ask_for_ends();
    }
}
