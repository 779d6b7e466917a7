//! Replies: each byte that comes goes to whom it is due.

use super::request::DueEntry;
use super::{
    ClientHandle, ConnectionEvents, Exchange, FrameFlow, Offence, OwnReply, RequestKind, Show,
    Violation,
};
use crate::fences::{Before, ends_transaction};
use crate::resp::{ReplyScanner, ScanProgress};
use crate::session::{PinnedCommand, StreamKind};
use crate::waits::PoppedElements;

/// Bounds a reply that is gathered for respool itself; `COMMAND` of Redis 7 measures about 200 KiB.
const MAX_OWN_REPLY: usize = 4 * 1024 * 1024;

/// Places for replies that are due that a connection keeps when it has few: as many as a worker's clients have in a turn.
const MOST_DUE_KEPT: usize = 4096;

impl<H: ClientHandle> Exchange<H> {
    /// Returns the start of a line that has come: it stands before what is read next.
    #[inline]
    pub fn carry(&self) -> &[u8] {
        &self.carry
    }

    /// Hands out what was read, behind [`Self::carry`], which it begins with.
    ///
    /// # Errors
    /// The connection ends for what the server has sent; what came before that was handed out.
    #[inline]
    pub fn received(
        &mut self,
        arrived: &[u8],
        now_micros: u64,
        events: &impl ConnectionEvents,
    ) -> Result<(), Violation> {
        self.carry.clear();
        self.pulse.heard(now_micros, self.sent_total);
        let (due, asked) = (self.due_count, self.due.front().map(DueEntry::sent_micros));
        let used = self.dispatch(arrived, now_micros, events);
        self.measure(now_micros, due, asked);
        self.carry.extend_from_slice(&arrived[used?..]);
        Ok(())
    }

    /// Goes on with frames for which there was no time in the turn in which they were read.
    ///
    /// # Errors
    /// The connection ends for what the server has sent.
    pub fn catch_up(
        &mut self,
        now_micros: u64,
        events: &impl ConnectionEvents,
    ) -> Result<(), Violation> {
        let mut frames = std::mem::take(&mut self.carry);
        let used = self.dispatch(&frames, now_micros, events)?;
        frames.drain(..used);
        self.carry = frames;
        Ok(())
    }

    /// Tells whether anything has come that respool acts on.
    #[inline]
    pub fn has_answered(&self) -> bool {
        !self.answered.is_empty() || !self.orphans.is_empty()
    }

    /// Returns the replies to respool itself that have come, to be acted on.
    #[inline]
    pub fn take_answered(&mut self) -> Vec<(OwnReply, Vec<u8>)> {
        std::mem::take(&mut self.answered)
    }

    /// Returns what was popped for clients that have left, and the replies that brought it.
    #[inline]
    pub fn take_orphans(&mut self) -> Vec<(PoppedElements, Vec<u8>)> {
        std::mem::take(&mut self.orphans)
    }

    /// Hands every byte to whom it is due. Returns how many bytes were used; the rest is the start of a line.
    pub(super) fn dispatch(
        &mut self,
        buf: &[u8],
        now: u64,
        events: &impl ConnectionEvents,
    ) -> Result<usize, Violation> {
        let mut at = 0;
        while at < buf.len() {
            let starts = self.scanner.at_boundary();
            if starts {
                if self.flow == FrameFlow::Debugger {
                    events.pushed(&buf[at..], true)?;
                    return Ok(buf.len());
                }
                match self.begins_push(&buf[at..], events)? {
                    Some(is_push) => self.is_push = is_push,
                    None => break,
                }
            }
            let (used, goes_on) = if self.is_push {
                match self.is_raw() {
                    true => self.pass_amid(&buf[at..], events)?,
                    false => self.push(&buf[at..], events)?,
                }
            } else {
                match self.due.front() {
                    None if self.is_distrusted => self.drop_surplus(&buf[at..]),
                    None => return Err(Violation::unasked(&buf[at..])),
                    Some(DueEntry::Client {
                        client,
                        kind: RequestKind::Plain | RequestKind::Block,
                        show: Show::Pass,
                        ..
                    }) if client.is_plain() && !self.shows_commands => {
                        self.run(&buf[at..], now, events)?
                    }
                    Some(_) if self.awaits_fence() => self.at_fence(&buf[at..], now, events)?,
                    Some(_) => self.single(&buf[at..], starts, now, events)?,
                }
            };
            at += used;
            self.check_offence()?;
            if !goes_on {
                break;
            }
        }
        Ok(at)
    }

    /// Tells whether the frame that begins with `buf` answers no request; `None`: more bytes must tell.
    #[inline]
    fn begins_push(
        &mut self,
        buf: &[u8],
        events: &impl ConnectionEvents,
    ) -> Result<Option<bool>, Violation> {
        let Some(is_own) = self.is_own_amid_stream(buf) else {
            return Ok(None);
        };
        if !is_own && self.is_push(buf[0], events)? {
            return Ok(Some(true));
        }
        if !self.judge_end(buf) {
            return Ok(None);
        }
        Ok(match self.shows_commands {
            true => is_shown_command(buf),
            false => Some(false),
        })
    }

    /// Tells whether a frame that starts with `first` answers no request. Where the answer to a fence is due it is no frame at all, and
    /// on a connection that is closed with its loan it is dropped.
    #[inline]
    fn is_push(&mut self, first: u8, events: &impl ConnectionEvents) -> Result<bool, Violation> {
        if self.is_raw() {
            return Ok(true);
        }
        // What nothing has asked for can only be text that a script has written.
        let is_written = first == b'>' && !events.takes_pushes();
        if is_written && !self.is_distrusted && !self.awaits_fence() {
            return Err(self.surplus());
        }
        Ok(first == b'>' && !is_written)
    }

    /// Tells whether the frame that starts with `head` may be handed on: whether it ends a transaction is known, where that matters.
    #[inline]
    fn judge_end(&mut self, head: &[u8]) -> bool {
        let is_shared = match self.due.front() {
            Some(DueEntry::Client {
                kind: RequestKind::Block,
                count: 1,
                ..
            }) => true,
            Some(DueEntry::Own {
                reply: OwnReply::Call(call),
                ..
            }) if call.is_transaction() && call.replies == 1 => true,
            // On a connection of its own it may be left open.
            Some(DueEntry::Client {
                kind: RequestKind::Pinned(PinnedCommand::EXEC),
                ..
            }) => false,
            _ => return true,
        };
        match ends_transaction(head) {
            None => return false,
            Some(false) if is_shared => self.offence = Some(Offence::OpenTransaction),
            Some(_) => {}
        }
        true
    }

    /// Ends the connection once the frame has ended for which nobody else is to get any.
    #[inline]
    fn check_offence(&self) -> Result<(), Violation> {
        match self.offence {
            Some(offence) if self.scanner.at_boundary() => Err(Violation::Offence(offence)),
            _ => Ok(()),
        }
    }

    /// Notes that the server sent what was not asked for: the connection ends, and the user to blame is remembered.
    pub(super) fn surplus(&mut self) -> Violation {
        self.offence = Some(Offence::Surplus);
        Violation::Offence(Offence::Surplus)
    }

    #[inline]
    fn advance(&mut self, buf: &[u8]) -> Result<ScanProgress, Violation> {
        self.scanner.advance(buf).map_err(|_| Violation::Malformed)
    }

    /// Takes bytes that reach nobody, frames or not: what was asked for here has been answered with more than a reply.
    fn drop_surplus(&mut self, buf: &[u8]) -> (usize, bool) {
        match self.advance(buf) {
            Ok(step) => (step.used, step.complete),
            Err(_) => {
                self.scanner = ReplyScanner::default();
                (buf.len(), true)
            }
        }
    }

    /// Takes bytes of a frame that answers no request. Returns how many, and whether more frames may follow now.
    pub(super) fn push(
        &mut self,
        buf: &[u8],
        events: &impl ConnectionEvents,
    ) -> Result<(usize, bool), Violation> {
        let step = self.advance(buf)?;
        let mut goes_on = true;
        if step.used > 0 {
            goes_on = events.pushed(&buf[..step.used], step.complete)?;
        }
        Ok((step.used, step.complete && goes_on))
    }

    /// The replies of one client's run of requests leave in one piece.
    #[inline]
    fn run(
        &mut self,
        buf: &[u8],
        now: u64,
        events: &impl ConnectionEvents,
    ) -> Result<(usize, bool), Violation> {
        let Some(DueEntry::Client {
            client,
            count,
            kind,
            sent_micros,
            ..
        }) = self.due.front()
        else {
            return Ok((0, false));
        };
        let (mut at, mut complete, mut goes_on) = (0, 0, true);
        // The end of a block is looked at before it is handed on.
        let is_block = matches!(kind, RequestKind::Block) && *count > 1;
        let most = *count - u32::from(is_block);
        while complete < most && at < buf.len() {
            // Only these two marks need a look at where they stand.
            let is_marked = matches!(buf[at], b'>' | b'-') && self.scanner.at_boundary();
            if is_marked && buf[at] == b'>' {
                break;
            }
            let step = self
                .scanner
                .advance(&buf[at..])
                .map_err(|_| Violation::Malformed)?;
            if is_marked && step.complete {
                events.refused(&buf[at..at + step.used]);
            }
            at += step.used;
            if !step.complete {
                goes_on = false;
                break;
            }
            complete += 1;
        }
        client.deliver(&buf[..at], complete, !self.scanner.at_boundary());
        if complete > 0 {
            let waited = now.saturating_sub(*sent_micros);
            events.reached(*sent_micros);
            self.pulse.answered(waited);
            events.replied(waited, complete);
            self.answered(complete);
        }
        Ok((at, goes_on))
    }

    /// Takes bytes of one reply that does not simply pass.
    fn single(
        &mut self,
        buf: &[u8],
        starts: bool,
        now: u64,
        events: &impl ConnectionEvents,
    ) -> Result<(usize, bool), Violation> {
        let step = self.advance(buf)?;
        if step.used == 0 {
            return Ok((0, false));
        }
        let bytes = &buf[..step.used];
        if starts {
            if step.complete && buf[0] == b'-' {
                self.tell_of_refusal(bytes, events);
            }
            events.reply_begins(bytes);
        }
        self.frame(bytes, starts, step.complete)?;
        self.begin_stream(bytes, step.complete, events);
        if step.complete {
            if let Some(due) = self.due.front() {
                if !due.is_blocking() {
                    events.reached(due.sent_micros());
                }
                if let DueEntry::Client { sent_micros, .. } = due {
                    events.replied(now.saturating_sub(*sent_micros), 1);
                }
            }
            self.answered(1);
        }
        Ok((step.used, step.complete))
    }

    fn tell_of_refusal(&self, error: &[u8], events: &impl ConnectionEvents) {
        match self.due.front() {
            // Who calls the server hears of it by itself.
            Some(DueEntry::Own {
                reply: OwnReply::Call(_),
                ..
            }) => {}
            Some(DueEntry::Client {
                kind: RequestKind::Fenced,
                ..
            }) => {
                events.refused(error);
                events.script_refused(error);
            }
            _ => events.refused(error),
        }
    }

    /// Takes bytes of the reply at the front that do not simply pass in a run.
    fn frame(&mut self, bytes: &[u8], starts: bool, complete: bool) -> Result<(), Violation> {
        match self.due.front_mut() {
            None => Ok(()),
            Some(DueEntry::Own { reply, .. }) => {
                let gathered = self.gathered.get_or_insert_default();
                if let OwnReply::Call(call) = reply {
                    call.gather(gathered, bytes);
                    return Ok(());
                }
                gathered.extend_from_slice(bytes);
                if let OwnReply::Vouch(fence) = *reply {
                    return self.check_vouch(fence);
                }
                match gathered.len() > MAX_OWN_REPLY {
                    true => Err(Violation::TooLarge),
                    false => Ok(()),
                }
            }
            Some(DueEntry::Client { .. }) => self.client_frame(bytes, starts, complete),
        }
    }

    fn client_frame(
        &mut self,
        bytes: &[u8],
        starts: bool,
        complete: bool,
    ) -> Result<(), Violation> {
        let Some(DueEntry::Client {
            client, kind, show, ..
        }) = self.due.front_mut()
        else {
            return Ok(());
        };
        if starts {
            let verb = match kind {
                RequestKind::Pinned(verb) => *verb,
                // Whatever it is, inside MULTI it is queued as everything is.
                _ => PinnedCommand::Queue,
            };
            client.transaction_answered(verb, bytes);
            match kind {
                RequestKind::Blocking(_) if client.is_gone() => self.gathered = Some(Vec::new()),
                RequestKind::Fenced => self.before_fence = Before::of(bytes),
                RequestKind::RawError => self.is_distrusted |= !is_clean(bytes),
                // A debugger speaks whatever CLIENT REPLY says.
                RequestKind::Pinned(PinnedCommand::Debugged) if bytes.first() != Some(&b'-') => {
                    *show = Show::Pass;
                }
                _ => {}
            }
        }
        match (&mut self.gathered, show) {
            (Some(gathered), _) if gathered.len() + bytes.len() <= MAX_OWN_REPLY => {
                gathered.extend_from_slice(bytes);
            }
            (Some(_), _) => return Err(Violation::TooLargeToReturn),
            (None, Show::Pass) => client.deliver(bytes, u32::from(complete), !complete),
            (None, Show::Replace(text)) if complete => client.deliver(text, 1, false),
            (None, Show::Executed(executing)) => executing.pass(client, bytes, complete)?,
            (None, Show::Hide | Show::Replace(_)) => {}
        }
        Ok(())
    }

    /// Returns what comes behind the reply at the front beside replies.
    pub(super) fn started_stream(&self) -> Option<StreamKind> {
        match self.due.front() {
            Some(DueEntry::Client {
                client,
                kind:
                    RequestKind::Pinned(
                        PinnedCommand::EXEC | PinnedCommand::Monitor | PinnedCommand::Debugged,
                    ),
                ..
            }) => client.stream(),
            _ => None,
        }
    }

    /// `complete` replies of the entry at the front have come.
    #[inline]
    pub(super) fn answered(&mut self, complete: u32) {
        if !self.due.front().is_some_and(DueEntry::is_fence) {
            self.due_count -= complete as usize;
        }
        let ended = match self.due.front_mut() {
            Some(DueEntry::Client { client, count, .. }) => {
                *count -= complete;
                if client.is_measured() {
                    match self.charged.last_mut() {
                        Some((last, count)) if last.is_same(client) => *count += complete,
                        _ => self.charged.push((client.clone(), complete)),
                    }
                }
                client.answered(complete);
                *count == 0
            }
            Some(DueEntry::Own {
                reply: OwnReply::Call(call),
                ..
            }) => {
                call.replies -= complete as usize;
                call.replies == 0
            }
            _ => true,
        };
        if !ended {
            return;
        }
        if self.due.capacity() > MOST_DUE_KEPT && self.due.len() < self.due.capacity() / 8 {
            self.due.shrink_to(MOST_DUE_KEPT);
        }
        let gathered = self.gathered.take();
        if let Some(due) = self.due.front() {
            let delays = due.delays();
            self.pulse.left(delays);
        }
        match (self.due.pop_front(), gathered) {
            (Some(DueEntry::Own { reply, .. }), gathered) => {
                self.answered.push((reply, gathered.unwrap_or_default()))
            }
            (
                Some(DueEntry::Client {
                    kind: RequestKind::Blocking(popped),
                    ..
                }),
                Some(bytes),
            ) => {
                self.orphans.push((popped, bytes));
            }
            _ => {}
        }
    }
}

/// Tells whether a reply that starts with `head` is no error, and none that anything was written into.
fn is_clean(head: &[u8]) -> bool {
    head.starts_with(b"+OK") || matches!(head.first(), Some(b'$' | b'*' | b'~' | b'%'))
}

/// Tells whether a frame is a command as MONITOR shows it (`+1339518083.107412 [0 127.0.0.1:60866] "keys" "*"`), which no reply
/// looks like; `None`: more bytes must tell.
fn is_shown_command(frame: &[u8]) -> Option<bool> {
    const LONGEST_TIME: usize = 24;
    let Some(text) = frame.strip_prefix(b"+") else {
        return Some(false);
    };
    let digits = text
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
        .count();
    match text.get(digits..digits + 2) {
        Some(behind) => Some(digits > 0 && behind == b" ["),
        None if digits > LONGEST_TIME => Some(false),
        // "+" alone, a time that has not ended, or a reply of one letter.
        None => match text.get(digits) {
            Some(byte) if *byte != b' ' => Some(false),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_commands_are_told_from_replies_however_they_are_cut() {
        let line = b"+1795263685.026881 [3 127.0.0.1:36104] \"SELECT\" \"3\"\r\n";
        for cut in 1..=line.len() {
            let told = is_shown_command(&line[..cut]);
            assert_eq!(told, if cut < 20 { None } else { Some(true) }, "{cut}");
        }
        for reply in [
            &b"+OK\r\n"[..],
            b"+PONG",
            b"+",
            b":1\r\n",
            b"-ERR x\r\n",
            b"$1\r\n",
            b"+1\r\n",
            b"+12.5 x\r\n",
            b"+ [\r\n",
            b"+1234567890123456789012345",
        ] {
            let told = is_shown_command(reply);
            assert_eq!(told, if reply == b"+" { None } else { Some(false) });
        }
    }
}
