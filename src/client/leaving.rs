//! Noticing that a client leaves while it waits, whatever it waits for, and what becomes of what it has not been served.
//!
//! A socket that was closed looks like one whose client has only finished sending (`printf ... | nc`), until something is
//! written to it. So who has finished sending is served like anybody whom the server can serve; what waits for a server
//! that is away, for a connection that others hold, or for its turn behind others, is dropped unsent. Who has reset its
//! connection is gone at once.
//!
//! Invariant: who has finished sending is due every answer of the server to what was sent for it, counted or not; a call that waits at
//! the server ends with its client, as the server ends it.

use std::io;
use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::pinned::LentConnection;
use super::story::Awaited;
use super::{Client, Wait};
use crate::telemetry::Disconnect;
use crate::transport::PeerEnd;
use crate::upstream::Blocked;

/// Ends when the client has gone a step further: it has finished sending, or is gone.
pub(super) type EndWatch = Pinned<Box<dyn Future<Output = ()>>>;

/// Bounds how long, and for how many reads, a client that broke the protocol may take to read why it is closed.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 64;

/// After this part of its grace a call that a pause seems to put off ends with its client.
const PUT_OFF: u32 = 4;

impl Client {
    /// Lets the client read why it is closed: a socket closed with unread bytes in it takes its last words along.
    pub(super) async fn linger(&self) {
        self.stream.finish_writing();
        let emptied = async {
            for _ in 0..LINGER_READS {
                std::future::poll_fn(|cx| self.poll_last_words(cx)).await?;
                let mut scratch = self.clients.thread.scratch.borrow_mut();
                match self.stream.try_read(&mut scratch[..]) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        // However it ends, the client is closed.
        let _ = tokio::time::timeout(LINGER, emptied).await;
    }

    /// Has what the client has sent read, as far as it is here, before its socket is closed: else the client would lose the answers that
    /// it has not read yet.
    pub(super) fn empty_socket(&self, reason: Disconnect) {
        let is_due_answers = matches!(
            reason,
            Disconnect::Closed
                | Disconnect::Quit
                | Disconnect::HalfClosed
                | Disconnect::TlsKeys
                | Disconnect::Drained
        );
        if self.is_at_end || !is_due_answers {
            return;
        }
        let mut scratch = self.clients.thread.scratch.borrow_mut();
        let mut reads = 0..LINGER_READS;
        while reads.next().is_some() && matches!(self.stream.try_read(&mut scratch[..]), Ok(1..)) {}
    }

    /// Tells whether the client has finished sending, though it may not have been read up to there.
    pub(super) fn has_finished(&self) -> bool {
        self.entry.finished_micros.get() != 0
    }

    /// The client has finished sending.
    pub(super) fn note_finished(&mut self) {
        if !self.has_finished() {
            self.end_watch = None;
            self.note_progress_of_finished();
        }
    }

    /// Something went on for a client that has finished sending, or it has just done so.
    pub(super) fn note_progress_of_finished(&self) {
        let now = self.clients.thread.clock.now_micros().max(1);
        self.entry.finished_micros.set(now);
    }

    /// Looks for the end of a client that is not read. Whatever a client waits for, it passes here or is read.
    pub(super) fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Option<Disconnect> {
        loop {
            let has_finished = self.has_finished();
            if self.end_watch.is_none() {
                if has_finished && self.stream.peer_end() == PeerEnd::Gone {
                    return Some(Disconnect::Closed);
                }
                let stream = Rc::clone(&self.stream);
                self.end_watch = Some(match has_finished {
                    true => Box::pin(async move { stream.gone().await }),
                    false => Box::pin(async move { stream.finished().await }),
                });
            }
            match self.end_watch.as_mut().map(|watch| watch.as_mut().poll(cx)) {
                None | Some(Poll::Pending) => break,
                Some(Poll::Ready(())) if has_finished => return Some(Disconnect::Closed),
                Some(Poll::Ready(())) => self.note_finished(),
            }
        }
        if self.leaves_its_call() {
            return Some(Disconnect::Closed);
        }
        if self.sends_the_rest() || self.leaves_its_call_amid_messages() {
            // Sent with the next turn; or the server tells its end and its answers.
            cx.waker().wake_by_ref();
        }
        if self.is_waiting_in_vain() {
            self.drop_unsent();
            if !self.outlet.has_unwritten() {
                return self.ending;
            }
        }
        None
    }

    /// Tells whether the client, which has read all that is counted and is about to end so, is due more: that is waited for first.
    pub(super) fn is_due_more(&mut self, end: Disconnect) -> bool {
        let waits_for_nothing = matches!(self.wait, Wait::Nothing);
        end == Disconnect::Closed && waits_for_nothing && self.waits_for_place()
    }

    /// Tells whether a call that was held back behind many, sent amid messages, is to be sent now with all that is behind it: its client
    /// sends nothing more, and what then waits at the server ends with it.
    fn sends_the_rest(&mut self) -> bool {
        let waits_for_calls = |pin: &mut LentConnection| std::mem::take(&mut pin.waits_for_calls);
        if !self.is_at_end || !self.pin.as_mut().is_some_and(waits_for_calls) {
            return false;
        }
        self.wait = Wait::Nothing;
        true
    }

    /// Tells whether a call ends with its client that was sent amid messages, where nobody sees whether it waits: the server is told that
    /// nothing more comes, so it ends the call if that waits, runs nothing behind it, and answers else. Behind one that takes nothing away
    /// the rest of what the client has sent has its time; behind one that takes an element it is dropped. True: what is waited for has
    /// changed.
    fn leaves_its_call_amid_messages(&mut self) -> bool {
        let Some(link) = self.pin.as_ref().map(|pin| Rc::clone(pin.link())) else {
            return false;
        };
        let may_finish = self.has_finished() && link.is_raw() && !link.is_finishing();
        // What is here is sent while the connection takes it.
        let is_sent = match self.wait {
            Wait::Nothing => self.sent_ahead.is_some(),
            Wait::Room(_) => true,
            _ => false,
        };
        if !may_finish || is_sent || self.may_read() {
            return false;
        }
        let has_sent_all = self.is_at_end && self.has_used_all();
        let sent = link.unanswered_amid();
        if !sent.blocks || !(sent.takes || has_sent_all) {
            return false;
        }
        self.is_at_end = true;
        self.drop_input();
        self.waits_for_place();
        link.finish_sending();
        true
    }

    /// Tells whether the server is told, on a connection lent to the client, that nothing more comes: where a call that may wait is the
    /// last that the client has sent. It answers that call or, where it lets it wait, ends it; and closes.
    fn leaves_it_to_the_server(&self) -> bool {
        let Some(link) = self.pin.as_ref().map(LentConnection::link) else {
            return false;
        };
        let is_last = self.has_finished() && !self.may_read() && self.has_used_all();
        if !is_last || link.is_raw() || !link.is_blocked() {
            return false;
        }
        link.finish_sending();
        true
    }

    /// Tells whether the client has finished sending while it waits in a call that waits at the server. One that takes nothing away may yet
    /// be answered at once, and has the time for that; of one that takes an element the element stays for those who are there.
    #[inline]
    pub(super) fn leaves_its_call(&self) -> bool {
        self.has_finished() && self.leaves_what_it_is_blocked_in()
    }

    /// The same of one that has finished sending.
    fn leaves_what_it_is_blocked_in(&self) -> bool {
        // All that it has sent is read first: a socket closed with unread bytes in it takes answers along.
        if self.may_read() || !self.is_blocked() {
            return false;
        }
        let is_past_grace = || {
            let since = self.entry.finished_micros.get();
            let grace = self.clients.thread.settings().limits.half_closed_grace;
            self.clients.thread.clock.is_past(since, grace)
        };
        match &self.wait {
            // One that need not wait is answered by the server, however slow that is; one that is put off for a pause waits.
            Wait::Story(Awaited::Line(blocked)) if blocked.has_waited() => {
                blocked.takes() || is_past_grace()
            }
            Wait::Story(Awaited::Line(blocked)) => self.is_put_off(blocked),
            _ if self.leaves_it_to_the_server() => false,
            _ => self.pin.as_ref().is_some_and(|pin| pin.link().takes()) || is_past_grace(),
        }
    }

    /// Tells whether a call that the server has not answered yet is put off for a pause. That one is in force is known, or seen; one of
    /// which respool is told may be over without its knowing, and then the answer comes as soon as the server gives any.
    fn is_put_off(&self, blocked: &Blocked) -> bool {
        let (thread, upstream) = (&self.clients.thread, &self.clients.upstream);
        let since = self.entry.finished_micros.get();
        let grace = thread.settings().limits.half_closed_grace;
        let writes = blocked.takes();
        let is_known = upstream.puts_off(writes);
        // Of a pause of everything nothing can be seen.
        let is_seen = || match upstream.puts_off(false) {
            true => thread.clock.is_past(since, grace),
            false => upstream.sees_writes_held() || upstream.has_answered(since),
        };
        is_known && thread.clock.is_past(since, grace / PUT_OFF) && is_seen()
    }

    /// Tells whether the client has finished sending, and what it waits for is not to be had now: most likely it has left.
    fn is_waiting_in_vain(&self) -> bool {
        let waits = !matches!(self.wait, Wait::Nothing | Wait::Turn(_)) && !self.is_amid_request();
        if !waits || self.outlet.outstanding() > 0 || !self.has_finished() {
            return false;
        }
        let since = self.entry.finished_micros.get();
        self.patience().is_some_and(|patience| {
            patience.is_zero() || self.clients.thread.clock.is_past(since, patience)
        })
    }

    /// Returns how long what is waited for is worth waiting for; `None`: as long as the server, which is there, takes.
    fn patience(&self) -> Option<Duration> {
        let grace = self.clients.thread.settings().limits.half_closed_grace;
        let link = self.pin.as_ref().map(|pin| pin.link());
        if let Some(before) = link.and_then(|link| link.place_asked()) {
            // The client's own connection, whose silence is judged as any. A call that waits there ends with its client; none does while
            // answers come, or have yet to be taken.
            let may_wait = link.is_some_and(|link| link.is_quiet_for(grace));
            return (before.blocks && may_wait && !self.outlet.has_unwritten()).then_some(grace);
        }
        let upstream = &self.clients.upstream;
        if upstream.is_away() {
            let is_in_sight = !upstream.is_failing();
            return Some(if is_in_sight { grace } else { Duration::ZERO });
        }
        let is_pool_full = || self.clients.thread.process.budget.waiting() > 0;
        let waits_for_others = match self.wait {
            Wait::Story(Awaited::Turn) => true,
            Wait::Story(Awaited::Loan) => is_pool_full(),
            _ => false,
        };
        let is_silent = || !upstream.has_answered(self.entry.finished_micros.get());
        let is_loan = matches!(self.wait, Wait::Story(Awaited::Loan));
        if is_loan && waits_for_others && upstream.is_stalled() && is_silent() {
            // Who has what is waited for can give it back only when the server answers.
            self.note_progress_of_finished();
        }
        waits_for_others.then_some(grace)
    }

    /// Drops what has not been sent, which never will be; the replies that are due are still written.
    fn drop_unsent(&mut self) {
        self.wait = Wait::Nothing;
        self.outlet.hold_wait(0);
        self.drop_input();
        drop(self.outlet.take_unsent());
        self.ending = Some(Disconnect::HalfClosed);
    }
}
