//! Requests: appended, sent, and due from then on.

use super::logins::is_login;
use super::request::DueEntry;
use super::{ClientHandle, Exchange, OwnReply, RequestKind, Show, Unsent};
use crate::command::Delays;

/// A connection reads this many bytes at once.
const READ_SIZE: usize = 64 * 1024;

/// Room for requests that a connection keeps from one turn to the next, and from one tick to the next. Memory that is new to
/// the process costs a page fault for each 4 KiB: SET of 16 KiB by 50 clients 11.9 µs each instead of 9.
const MOST_OUT_KEPT: usize = 16 * READ_SIZE;
const MOST_OUT_KEPT_LONG: usize = 4 * READ_SIZE;

impl<H: ClientHandle> Exchange<H> {
    /// Appends `count` requests of a client.
    #[inline]
    pub fn request(
        &mut self,
        client: &H,
        bytes: &[u8],
        count: u32,
        (kind, delays): (RequestKind, Delays),
        show: Show,
        now_micros: u64,
    ) {
        let start = self.append(bytes);
        client.sent(count, show != Show::Hide);
        self.due_for(client, count, (kind, delays), show, (start, now_micros));
    }

    /// Appends again what another connection lost unsent; its replies have their places already.
    pub fn request_again(&mut self, client: &H, unsent: Unsent, now_micros: u64) {
        let start = self.append(&unsent.bytes);
        client.sent(unsent.count, false);
        let show = if unsent.visible {
            Show::Pass
        } else {
            Show::Hide
        };
        let kind = (unsent.kind, unsent.delays);
        self.due_for(client, unsent.count, kind, show, (start, now_micros));
    }

    /// Tells whether nothing stands before what is appended now, so that the socket may take it at once.
    pub fn is_clear(&self) -> bool {
        self.out.is_empty() && self.logins.is_empty()
    }

    /// Appends one request of a client of which the socket has taken the first `taken` bytes.
    pub fn request_through(
        &mut self,
        client: &H,
        (bytes, taken): (&[u8], usize),
        kind: (RequestKind, Delays),
        show: Show,
        now_micros: u64,
    ) {
        let start = self.appended_total;
        self.appended_total += taken as u64;
        self.sent_total += taken as u64;
        self.pulse.written_micros = now_micros;
        self.append(&bytes[taken..]);
        client.sent(1, show != Show::Hide);
        self.due_for(client, 1, kind, show, (start, now_micros));
    }

    /// Appends more bytes of a request that is due already, one that is streamed.
    pub fn more(&mut self, bytes: &[u8]) {
        self.append(bytes);
    }

    /// Appends requests of respool's own.
    pub fn own_request(&mut self, bytes: &[u8], reply: OwnReply, now_micros: u64) {
        let start = self.append(bytes);
        if is_login(bytes) {
            self.logins.add(start..self.appended_total);
        }
        self.due_count += reply.replies();
        if self.due.is_empty() {
            self.times.begin(now_micros);
        }
        let due = DueEntry::Own {
            reply,
            sent_micros: now_micros,
            start,
        };
        self.pulse.joined(Delays::NONE, due.delays());
        self.due.push_back(due);
    }

    /// Returns what may be sent now.
    #[inline]
    pub fn sendable(&mut self) -> &[u8] {
        let end = self.sendable_end().max(self.written);
        &self.out[self.written..end]
    }

    /// The kernel has taken the next `taken` bytes.
    #[inline]
    pub fn wrote(&mut self, taken: usize, now_micros: u64) {
        self.written += taken;
        self.sent_total += taken as u64;
        self.pulse.written_micros = now_micros;
    }

    /// Returns how many bytes have been appended that the kernel has not taken.
    #[inline]
    pub fn unsent_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Tells whether the kernel has taken all.
    #[inline]
    pub fn is_all_sent(&self) -> bool {
        self.written == self.out.len()
    }

    /// Lets go of the memory of what was written.
    #[inline]
    pub fn forget_written(&mut self) {
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
            if self.out.capacity() > MOST_OUT_KEPT {
                self.out = Vec::new();
            }
        } else if self.written > READ_SIZE.max(self.out.len() / 2) {
            // No more is moved than has been written since it was moved last: a full buffer was moved at each write.
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Gives back room that is kept for the next turn: called with each tick.
    pub fn shrink(&mut self) {
        if self.out.is_empty() && self.out.capacity() > MOST_OUT_KEPT_LONG {
            self.out = Vec::new();
        }
    }

    /// Appends bytes; returns where they start among all bytes ever appended.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) -> u64 {
        let start = self.appended_total;
        if bytes.len() > READ_SIZE.max(self.out.len()) {
            // Doubled, it would hold as much again for nothing. What is there already is moved no more often than if it were.
            self.out.reserve_exact(bytes.len());
        }
        self.out.extend_from_slice(bytes);
        self.appended_total += bytes.len() as u64;
        start
    }

    #[inline]
    fn due_for(
        &mut self,
        client: &H,
        more: u32,
        (kind, more_delays): (RequestKind, Delays),
        show: Show,
        (start, now): (u64, u64),
    ) {
        self.due_count += more as usize;
        // One client's requests of one turn are one entry; not across what was sent already.
        if let Some(DueEntry::Client {
            client: last,
            count,
            kind: RequestKind::Plain,
            show: last_show,
            delays,
            start,
            sent_micros,
        }) = self.due.back_mut()
            && matches!(kind, RequestKind::Plain)
            && *last_show == show
            && last.is_same(client)
            && *start >= self.sent_total
            && *sent_micros == now
        {
            *count += more;
            let before = std::mem::replace(delays, delays.and(more_delays));
            self.pulse.joined(before, *delays);
            return;
        }
        // A fence is nobody's: who stands before it counts.
        let is_own = |due: &&DueEntry<H>| !due.is_fence();
        match self.due.iter().rev().find(is_own) {
            None => self.times.begin(now),
            Some(DueEntry::Client { client: last, .. }) if !last.is_same(client) => {
                self.mixed_micros = Some(now);
            }
            Some(_) => {}
        }
        self.pulse.joined(Delays::NONE, more_delays);
        let is_fenced = matches!(kind, RequestKind::Fenced);
        self.due.push_back(DueEntry::Client {
            client: client.clone(),
            count: more,
            kind,
            show,
            delays: more_delays,
            sent_micros: now,
            start,
        });
        if is_fenced {
            self.ask(now, OwnReply::Fence);
        }
    }
}
