//! Sockets that respool has closed and the server has not: they count as long as the server may see them.
//!
//! A server that hangs, or is busy, keeps them among its connections, accepted or not, until it comes to read their end; a
//! reset would not change that. So the signs are that it closes its side, that its host does not answer any more, or that it says
//! so where another process holds the socket open (see `unseen_ends.rs`).

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::process::Process;
use crate::budget::{SocketKind, SocketPermit};
use crate::failover::ServerNode;
use crate::server::{ServerId, UnseenEnd};
use crate::telemetry::LossCause;
use crate::transport::{Clock, Stream};

/// A server usually takes no longer to close its side.
pub const LINGER: Duration = Duration::from_secs(1);

/// A host that acknowledges nothing for this long, not even a probe of the kernel, is taken for gone. What a server that
/// hangs has not room for is not acknowledged either, so this is longer than most servers hang.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// A server that has not closed its side for this long is worth a line in the log: it may have been asked by then whether it has.
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// At least this long lies between two log lines about sockets that the server does not close.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Holds the sockets of one worker that are being closed.
pub struct ClosingSockets {
    process: Arc<Process>,
    /// It is that of this worker.
    worker: usize,
    sockets: RefCell<Vec<ClosingSocket>>,
    waker: RefCell<Option<Waker>>,
    logged_micros: Cell<u64>,
    /// This worker may ask the server about them from then on; `u64::MAX`: a question is under way.
    pub next_question_micros: Cell<u64>,
}

struct ClosingSocket {
    stream: Stream,
    kind: SocketKind,
    /// `None`: its server is not the server any more.
    permit: Option<SocketPermit>,
    end: ServerEnd,
    since_micros: u64,
    /// `Some` while the server is being asked about it.
    unseen: Option<Arc<UnseenEnd>>,
}

/// Tells which end of the server's a socket leads to.
#[derive(Debug, Clone)]
pub struct ServerEnd {
    /// It is at this address.
    pub node: ServerNode,
    /// Its connect began then.
    pub begun_micros: u64,
    /// It is this of the server's connections; `None`: it is not known.
    pub id: Option<ServerId>,
}

impl ClosingSockets {
    /// Begins without any, for worker `worker`.
    pub fn new(process: Arc<Process>, worker: usize) -> Self {
        Self {
            process,
            worker,
            sockets: RefCell::default(),
            waker: RefCell::default(),
            logged_micros: Cell::default(),
            next_question_micros: Cell::default(),
        }
    }

    /// Closes a socket, and keeps it until the server has closed it too.
    pub fn add(&self, stream: Stream, permit: SocketPermit, end: ServerEnd, now: u64) {
        stream.finish_writing();
        let has_ended = stream.poll_end(&mut Context::from_waker(Waker::noop()));
        if has_ended.is_ready() {
            // The socket first.
            drop(stream);
            return drop(permit);
        }
        stream.probe_peer(GONE_AFTER);
        self.sockets.borrow_mut().push(ClosingSocket {
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

    /// Tells whether none is left.
    pub fn is_empty(&self) -> bool {
        self.sockets.borrow().is_empty()
    }

    /// Forgets those that the server has closed. Ready: some; and whether it had kept one for longer than servers do.
    pub fn poll_ended(&self, cx: &mut Context<'_>, clock: &Clock) -> Poll<bool> {
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        let now = clock.refresh();
        let ended: Vec<ClosingSocket> = {
            let mut sockets = self.sockets.borrow_mut();
            let is_over = |closing: &mut ClosingSocket| closing.stream.poll_end(cx).is_ready();
            sockets.extract_if(.., is_over).collect()
        };
        let uncounted = ended.iter().filter(|closing| closing.permit.is_none());
        uncounted.for_each(|closing| self.process.uncounted.remove(&closing.end.node));
        let linger = LINGER.as_micros() as u64;
        let is_late = |closing: &ClosingSocket| now.saturating_sub(closing.since_micros) > linger;
        match ended.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(ended.iter().any(is_late)),
        }
    }

    /// Does what time has made due: what goes to a server that is not the server any more counts for a moment only, and
    /// again when it is the server again.
    pub fn tick(&self, clock: &Clock) {
        if self.is_empty() {
            return;
        }
        let now = clock.now_micros();
        let process = &self.process;
        let mut given_back = Vec::new();
        for closing in &mut *self.sockets.borrow_mut() {
            if !clock.is_past(closing.since_micros, LINGER) {
                continue;
            }
            let ServerEnd {
                node, begun_micros, ..
            } = &closing.end;
            let left = process.address.is_to_be_left(node, *begun_micros, now);
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
        self.note_unseen(clock);
        self.tell(clock);
    }

    /// Has the server asked about those that have waited for long, by whichever worker can.
    fn note_unseen(&self, clock: &Clock) {
        for closing in &mut *self.sockets.borrow_mut() {
            if closing.permit.is_none() {
                closing.unseen = None;
            } else if closing.unseen.is_none()
                && closing.is_overdue(clock, LINGER)
                && let Some(id) = closing.end.id
            {
                let unseen = UnseenEnd::new(&closing.end.node, id, self.worker, clock.now_micros());
                closing.unseen = Some(self.process.unseen_ends.add(unseen));
            }
        }
    }

    /// Forgets those that the server says it has closed. Returns how many.
    pub fn let_go(&self) -> usize {
        let is_over = |closing: &mut ClosingSocket| {
            closing
                .unseen
                .as_ref()
                .is_some_and(|unseen| unseen.is_gone())
        };
        let ended: Vec<ClosingSocket> = self.sockets.borrow_mut().extract_if(.., is_over).collect();
        ended.len()
    }

    fn tell(&self, clock: &Clock) {
        let sockets = self.sockets.borrow();
        let held = |closing: &&ClosingSocket| closing.is_overdue(clock, TOLD_AFTER);
        let count = sockets.iter().filter(held).count();
        let last = self.logged_micros.get();
        if count > 0 && (last == 0 || clock.is_past(last, LOG_EVERY)) {
            self.logged_micros.set(clock.now_micros());
            tracing::warn!(
                worker = self.worker,
                count,
                "connections that respool has closed count still, since it does not see that the server has closed them too: it hangs, \
                 is busy, or has forked a process that holds them open"
            );
        }
    }
}

impl ClosingSocket {
    /// Tells whether it counts, and the server has not closed it for longer than `limit`.
    fn is_overdue(&self, clock: &Clock, limit: Duration) -> bool {
        self.permit.is_some() && clock.is_past(self.since_micros, limit)
    }
}
