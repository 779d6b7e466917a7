//! One client's loop and its gate: the loop reads, hands requests on and writes what is due; a request that is slow has a story, which
//! waits at the same gate.
//!
//! Invariant: a client waits nowhere but in [`Client::poll_gate`], whatever it waits for.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::story::{Awaited, Interrupted, Story, Told};
use super::{Client, Wait};
use crate::schedule::goes_on_at;
use crate::telemetry::Disconnect;
use crate::transport::{READ_SIZE, let_others_go_first};

/// Takes what is here of the rest of a request, or comes: returns how many bytes are done with, and whether more is wanted.
type TakeRest<'a> = dyn FnMut(&mut Client, &[u8]) -> ControlFlow<usize, usize> + 'a;

/// Bounds what is read in a turn of a client whose requests respool answers itself: who has to authenticate first, or sent half as
/// much since a request of its went to the server. Each is answered on the spot, and 64 KiB hold ten thousand of them: 1,500 clients without a password that sent
/// `PING` as fast as they could made everybody else wait for two seconds, and one that sent `RESET` for 400 ms.
const ANSWERED_READ_SIZE: usize = 2 * 1024;

/// Names what a client is at its gate for.
enum Sought<'a> {
    /// It goes on with its requests.
    Requests,
    /// It waits, in a story, until this has come.
    Work(&'a mut dyn FnMut(&mut Context<'_>) -> Poll<()>),
    /// It waits, in a story, for what any request may have to wait for.
    Wait,
    /// It waits, in a story, for the rest of a request, which this takes.
    Rest(&'a mut TakeRest<'a>),
}

/// Says how a client has passed its gate.
enum Passed {
    /// It is to be closed.
    Ended(Disconnect),
    /// It waited in a story for what is not to be had, or not wanted any more.
    InVain,
    /// It waited in a story for what has come; or, where it has none, one is to begin.
    On,
}

/// Says what has become of what a client waits for.
enum Resumed {
    /// A story is to begin now.
    Begins,
    /// Something has changed since.
    Moved,
    /// Nothing has changed since.
    Still,
}

impl Resumed {
    fn of(wait: &Wait, moved: bool) -> Self {
        match moved {
            _ if wait.is_to_begin() => Self::Begins,
            true => Self::Moved,
            false => Self::Still,
        }
    }
}

impl Client {
    /// Serves the client until it is to be closed, and says why.
    pub(super) async fn serve(&mut self) -> Disconnect {
        loop {
            if let Passed::Ended(end) =
                poll_fn(|cx| self.poll_gate(cx, &mut Sought::Requests)).await
            {
                return end;
            }
            let ended = self.begin().await;
            self.outlet.hold_wait(0);
            self.note_state(0);
            self.outlet.flush();
            if let Err(Interrupted::Ended(end)) = ended {
                return end;
            }
        }
    }

    /// Begins the story of the request at hand, or what goes before it. It is boxed, and for no longer than it lasts: an idle client
    /// carries none.
    fn begin(&mut self) -> Story<'_> {
        let outlet = Rc::clone(&self.outlet);
        let (story, held): (Story<'_>, usize) = if let Some(next) = self.wait.take_next() {
            let held = size_of_val(&*next);
            (next(self), held)
        } else if let Some(slow) = self.slow.take() {
            let held = slow.held_bytes();
            self.hold_requests();
            (self.story(slow), held)
        } else {
            (Box::pin(async { Ok(()) }), 0)
        };
        outlet.hold_wait(held + size_of_val(&*story));
        story
    }

    /// Waits in a story for what is to be waited for.
    ///
    /// # Errors
    /// Why it is not waited for any more: the story ends then.
    pub(super) async fn waited_for(&mut self) -> Told {
        if let Some(next) = self.wait.take_next() {
            return next(self).await;
        }
        match poll_fn(|cx| self.poll_gate(cx, &mut Sought::Wait)).await {
            Passed::On => Ok(()),
            Passed::Ended(end) => Err(Interrupted::Ended(end)),
            Passed::InVain => Err(Interrupted::InVain),
        }
    }

    /// Waits in a story for `work`, no longer than `awaited` is worth waiting for, and sees meanwhile to everything that has to do with
    /// the client.
    ///
    /// # Errors
    /// Why it is not waited for any more: the story ends then.
    pub(super) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        awaited: Awaited,
    ) -> Result<T, Interrupted> {
        let (mut work, mut result) = (pin!(work), None);
        self.wait = Wait::Story(awaited);
        let mut poll = |cx: &mut Context<'_>| {
            let mut cx = Context::from_waker(cx.waker());
            work.as_mut().poll(&mut cx).map(|done| result = Some(done))
        };
        let mut sought = Sought::Work(&mut poll);
        let passed = poll_fn(|cx| self.poll_gate(cx, &mut sought)).await;
        self.wait = Wait::Nothing;
        match (passed, result) {
            (Passed::On, Some(result)) => Ok(result),
            (Passed::Ended(end), _) => Err(Interrupted::Ended(end)),
            _ => Err(Interrupted::InVain),
        }
    }

    /// Waits in a story for the rest of a request: `take` is given what is here, and what comes, until it wants no more.
    ///
    /// # Errors
    /// Why no more comes, [`Interrupted::InVain`] where the client has finished sending: the story ends then.
    pub(super) async fn rest(
        &mut self,
        mut take: impl FnMut(&mut Self, &[u8]) -> ControlFlow<usize, usize>,
    ) -> Told {
        self.wait = Wait::Story(Awaited::Rest);
        self.note_state(0);
        let mut sought = Sought::Rest(&mut take);
        let passed = poll_fn(|cx| self.poll_gate(cx, &mut sought)).await;
        self.wait = Wait::Nothing;
        match passed {
            Passed::On => Ok(()),
            Passed::Ended(end) => Err(Interrupted::Ended(end)),
            Passed::InVain => Err(Interrupted::InVain),
        }
    }

    /// Gives to `take` what is here of a request. Returns how much of it is done with.
    fn give(&mut self, take: &mut TakeRest<'_>, data: &[u8]) -> usize {
        match take(self, data) {
            ControlFlow::Continue(used) => used,
            ControlFlow::Break(used) => {
                self.wait = Wait::Nothing;
                used
            }
        }
    }

    /// Gives to `take` what has been read of a request and is still here. `None`: it wants no more; else whether it has taken any.
    fn give_input(&mut self, take: &mut TakeRest<'_>) -> Option<bool> {
        let mut used = 0;
        if self.is_amid_request() && !self.input.is_empty() {
            let input = std::mem::take(&mut self.input);
            used = self.give(take, &input);
            self.keep(input, used);
            self.note_state(used);
        }
        self.is_amid_request().then_some(used > 0)
    }

    /// The one place in which a client waits, for requests or for what its story needs. Whatever it waits for, its end is
    /// seen here (closed, evicted, its memory, its socket, a drain), its replies are written, and what it sends meanwhile is read as far
    /// as that is wanted.
    fn poll_gate(&mut self, cx: &mut Context<'_>, sought: &mut Sought<'_>) -> Poll<Passed> {
        self.outlet.register(cx);
        self.clients.thread.clock.refresh();
        self.look_at_bytes_out();
        if self.entry.must_reassign.take() {
            self.reassign();
        }
        loop {
            if let Some(end) = self.outlet.end() {
                // Replies already received are still passed on, as far as the socket takes them.
                self.outlet.flush();
                return Poll::Ready(Passed::Ended(end));
            }
            if self.outlet.has_unwritten() {
                let _ = self.outlet.poll_flush(cx);
                if self.outlet.is_closed() {
                    continue;
                }
            }
            let moved = match self.poll_sought(cx, sought) {
                ControlFlow::Break(passed) => return Poll::Ready(passed),
                ControlFlow::Continue(moved) => moved,
            };
            if let Some(end) = self.has_ended() {
                if self.is_due_more(end) {
                    continue;
                }
                return Poll::Ready(Passed::Ended(end));
            }
            if moved {
                self.note_moved();
                continue;
            }
            self.wake_when_answered();
            if self.may_read() {
                self.leave_unread(cx);
            }
            if !self.may_read()
                && let Some(end) = self.poll_leaving(cx)
            {
                return Poll::Ready(Passed::Ended(end));
            }
            if !matches!(sought, Sought::Requests) && matches!(self.wait, Wait::Nothing) {
                // Not to be had, or not wanted any more.
                return Poll::Ready(Passed::InVain);
            }
            if self.may_read() && self.makes_way(cx) {
                return Poll::Pending;
            }
            let read = self.poll_read(cx, sought);
            if let Some(passed) = self.look_at_read(cx, read) {
                return passed;
            }
        }
    }

    /// Goes on with what the client is at its gate for: tells whether anything has changed, or that it has passed.
    #[inline]
    fn poll_sought(
        &mut self,
        cx: &mut Context<'_>,
        sought: &mut Sought<'_>,
    ) -> ControlFlow<Passed, bool> {
        let moved = match sought {
            Sought::Requests => match self.resume(cx) {
                Resumed::Begins => None,
                Resumed::Moved => Some(true),
                Resumed::Still => Some(false),
            },
            Sought::Work(work) => work(cx).is_pending().then_some(false),
            Sought::Wait if self.poll_wait(cx) || self.wait.is_to_begin() => None,
            Sought::Wait => Some(false),
            Sought::Rest(take) => match self.give_input(take) {
                Some(false) if self.has_sent_all() => return ControlFlow::Break(Passed::InVain),
                moved => moved,
            },
        };
        moved.map_or_else(
            || {
                self.note_moved();
                ControlFlow::Break(Passed::On)
            },
            ControlFlow::Continue,
        )
    }

    /// Looks at what a read has brought. `None`: it is gone on at once.
    #[inline]
    fn look_at_read(
        &mut self,
        cx: &Context<'_>,
        read: Poll<io::Result<usize>>,
    ) -> Option<Poll<Passed>> {
        match read {
            Poll::Pending => {
                self.note_record();
                let is_waiting = !matches!(self.wait, Wait::Nothing) && !self.is_amid_request();
                self.entry.is_waiting.set(is_waiting);
                let was_drained = std::mem::replace(&mut self.is_drained, true);
                // Else what is here is all there is: a transaction that was hoped to arrive whole did not.
                (was_drained || self.input.is_empty()).then_some(Poll::Pending)
            }
            Poll::Ready(Ok(0)) => {
                self.is_at_end = true;
                self.is_drained = true;
                self.note_finished();
                None
            }
            // One read a turn: the others' requests join this turn's write, also those that have yet to be read.
            Poll::Ready(Ok(_)) if !self.is_drained => {
                let mut cx = Context::from_waker(cx.waker());
                Some(let_others_go_first(&mut cx))
            }
            Poll::Ready(Ok(_)) => None,
            Poll::Ready(Err(_)) => Some(Poll::Ready(Passed::Ended(Disconnect::SocketError))),
        }
    }

    /// Has the client's task woken by its last answer where that may change what becomes of the client.
    fn wake_when_answered(&self) {
        let ends = self.is_at_end || self.ending.is_some() || self.clients.draining.get();
        if self.outlet.outstanding() > 0 && (self.pin.is_some() || ends) {
            self.outlet.wake_at(0);
        }
    }

    /// Notes that something has come that was waited for: whoever has finished sending has not left yet.
    fn note_moved(&self) {
        if self.has_finished() {
            self.note_progress_of_finished();
        }
    }

    /// Goes on with what was waited for and with requests that are here.
    fn resume(&mut self, cx: &Context<'_>) -> Resumed {
        if !self.poll_wait(cx) {
            return Resumed::of(&self.wait, false);
        }
        self.release_pin();
        if !matches!(self.wait, Wait::Nothing) {
            return Resumed::of(&self.wait, true);
        }
        if self.outlet.has_unsent() {
            self.send_again();
            return Resumed::of(&self.wait, true);
        }
        if self.ending.is_some() {
            return Resumed::Still;
        }
        if self.slow.is_some() {
            if self.outlet.outstanding() > 0 {
                // What came back unsent has been sent again: the story begins behind its answers.
                self.wait = Wait::Answers;
                return Resumed::Moved;
            }
            self.wait_if_over();
            return match &self.wait {
                Wait::Nothing => Resumed::Begins,
                _ => Resumed::Moved,
            };
        }
        if self.input.is_empty() {
            return Resumed::Still;
        }
        let used = self.use_input();
        self.release_pin();
        self.outlet.flush();
        self.note_state(used);
        let moved = self.slow.is_some() || (used > 0 && !self.input.is_empty());
        Resumed::of(&self.wait, moved || !matches!(self.wait, Wait::Nothing))
    }

    /// Passes on the requests that are here. Returns how many bytes are done with.
    pub(super) fn use_input(&mut self) -> usize {
        let mut input = Cow::Owned(std::mem::take(&mut self.input));
        let used = self.requests(&mut input);
        self.keep(input.into_owned(), used);
        used
    }

    /// Tells whether nothing is waited for any more.
    fn poll_wait(&mut self, cx: &Context<'_>) -> bool {
        let goes_on_at = goes_on_at(self.most_in_flight());
        match &mut self.wait {
            Wait::Nothing => true,
            &mut Wait::Turn(is_due) => self.has_its_turn(is_due, cx),
            Wait::Answers if self.outlet.outstanding() > 0 => {
                self.outlet.wake_at(0);
                false
            }
            Wait::InFlight if self.outlet.outstanding() > goes_on_at => {
                self.outlet.wake_at(goes_on_at);
                false
            }
            Wait::Unread if !self.outlet.has_room() => {
                if self.outlet.outstanding() > 0 {
                    self.outlet.wake_at(0);
                }
                false
            }
            Wait::Room(room) if room.is_pending(cx) => false,
            Wait::Answers | Wait::InFlight | Wait::Unread | Wait::Room(_) => {
                if let Wait::Room(room) = std::mem::replace(&mut self.wait, Wait::Nothing) {
                    room.come(&self.outlet);
                }
                true
            }
            // A story begins with it, which the gate passes on; it never looks at the other wait meanwhile.
            Wait::Next(_) | Wait::Story(_) => false,
        }
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        sought: &mut Sought<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(taken) = self.use_ahead() {
            return Poll::Ready(Ok(taken));
        }
        if !self.may_read() {
            return Poll::Pending;
        }
        self.end_watch = None;
        let reads_ahead = self.reads_ahead();
        let most = match self.is_answered_here() {
            true => ANSWERED_READ_SIZE,
            false => READ_SIZE,
        };
        let clients = Rc::clone(&self.clients);
        let mut scratch = clients.thread.scratch.borrow_mut();
        let mut is_gathered;
        let read = loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ready) => ready?,
            }
            let gathered = if reads_ahead { None } else { self.read_on() };
            is_gathered = gathered.is_some();
            match gathered.unwrap_or_else(|| self.stream.try_read(&mut scratch[..most])) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => break read?,
            }
        };
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        if !is_gathered {
            self.is_drained = read < most;
        }
        self.count_read(read as u64);
        let used = if reads_ahead {
            self.keep_ahead(&scratch[..read])
        } else if is_gathered {
            None
        } else if let Sought::Rest(take) = sought
            && self.input.is_empty()
        {
            let used = self.give(take, &scratch[..read]);
            self.keep_rest(&scratch[used..read]);
            Some(used)
        } else {
            self.use_read(&scratch[..read])
        };
        drop(scratch);
        self.settle_read(used);
        Poll::Ready(Ok(read))
    }

    /// Tells whether respool answers itself what the client sends, as far as can be told before it is read.
    #[inline]
    fn is_answered_here(&self) -> bool {
        // A request that has not come whole may be one for the server.
        let is_all = || {
            let is_between = self.input.len() < ANSWERED_READ_SIZE || !self.scanner.is_inside();
            is_between && !self.is_amid_request()
        };
        self.restrictions.is_locked()
            || (self.outlet.read_since_sent() as usize >= ANSWERED_READ_SIZE / 2 && is_all())
    }

    /// Counts bytes that were read.
    #[inline]
    fn count_read(&self, bytes: u64) {
        self.outlet.note_read(bytes);
        self.record.bytes_in.add(bytes);
        let counters = self.clients.thread.counters.group(self.group());
        counters.bytes_in.add(bytes);
    }

    /// Keeps what is left of `input`.
    pub(super) fn keep(&mut self, mut input: Vec<u8>, used: usize) {
        if used >= input.len() {
            return self.clients.spares.keep(input);
        }
        if used > 0 {
            input.drain(..used);
        }
        if input.capacity() > 4 * READ_SIZE && input.len() < input.capacity() / 16 {
            input.shrink_to_fit();
        }
        self.input = input;
    }

    /// Tells why it is time to close; `None`: it is not.
    fn has_ended(&self) -> Option<Disconnect> {
        if self.leaves_its_call() {
            return Some(Disconnect::Closed);
        }
        if matches!(self.wait, Wait::Story(Awaited::Line(_))) {
            // Nothing is coming that a drain would cut off.
            return self.clients.draining.get().then_some(Disconnect::Drained);
        }
        if self.outlet.outstanding() > 0 || self.outlet.has_unwritten() || self.outlet.has_unsent()
        {
            // A blocked client has nothing coming that a drain would cut off.
            return (self.clients.draining.get() && self.is_blocked())
                .then_some(Disconnect::Drained);
        }
        if let Some(ending) = self.ending {
            return Some(ending);
        }
        if !matches!(self.wait, Wait::Nothing) || self.slow.is_some() {
            return None;
        }
        if self.has_sent_all() {
            return Some(Disconnect::Closed);
        }
        if !self.has_used_all() || !self.outlet.transaction().is_clear() {
            return None;
        }
        if self.stream.is_worn_out() {
            // Cut off later it would lose what it has asked for.
            return Some(Disconnect::TlsKeys);
        }
        self.clients.draining.get().then_some(Disconnect::Drained)
    }
}
