//! Clients that hold too much: who stalls past its own bound, and who goes when the process has no room.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Client, Clients, Wait};
use crate::identity::ClientRecord;
use crate::memory::{MemoryHolder, ReplyStalls, who_goes};
use crate::telemetry::{Bound, Disconnect, Throttle};
use crate::transport::queued_bytes;

/// Is next to nothing: names, a call over a few keys. Who holds no more goes only where many do.
const NEXT_TO_NOTHING: u64 = 4 * 1024;

/// Holds what a worker knows of those who hold too much.
#[derive(Debug, Default)]
pub(super) struct Room {
    stalls: RefCell<ReplyStalls>,
    /// Another worker has the largest holder, and has been told so in this tick.
    has_told: Cell<bool>,
    shed_line: Throttle,
    waits_line: Throttle,
}

impl Clients {
    /// Lets somebody go, from now on, with the first byte for which there is no room.
    pub(super) fn keep_room(self: &Rc<Self>) {
        let clients = Rc::downgrade(self);
        self.thread.account.on_excess(Rc::new(move || {
            if let Some(clients) = clients.upgrade() {
                clients.shed();
            }
        }));
    }

    /// Makes room: respool's own spare buffers go first, then those who were not admitted, then the clients that hold most,
    /// in order, until there is room; those of other workers that hold more are closed by those.
    pub(super) fn shed(&self) {
        let memory = self.thread.account.memory();
        if memory.excess() == 0 {
            return;
        }
        self.spares.clear();
        self.thread.account.say();
        self.shed_strangers(memory.excess());
        let excess = memory.excess();
        // When there is hardly time left nobody is asked.
        let is_urgent = memory.is_urgent();
        if excess == 0 || (self.room.has_told.get() && !is_urgent) {
            return;
        }
        // Borrowed otherwise only while a client comes or goes: it is looked again with the next bytes.
        let Ok(entries) = self.entries.try_borrow() else {
            return;
        };
        let holders = entries.iter().filter(|(_, held)| !held.outlet.is_closed());
        let holders = holders.map(|(&id, held)| MemoryHolder {
            id,
            bytes: held.outlet.held_bytes() as u64,
        });
        let most = memory.next_to_nothing();
        for holder in who_goes(holders.collect(), excess, NEXT_TO_NOTHING, most) {
            memory.set_largest(self.thread.index, holder.bytes);
            if !is_urgent && !memory.is_largest(self.thread.index, holder.bytes) {
                self.room.has_told.set(true);
                return self.tell_workers.tell_all(&super::ClientsMessage::Shed);
            }
            let entry = &entries[&holder.id];
            entry.outlet.shed();
            if let Some(others) = self.room.shed_line.write(self.thread.clock.now_micros()) {
                tracing::warn!(
                    client = %entry.record.peer(),
                    held = holder.bytes,
                    others,
                    "a client was closed: limits.max_memory left no room, and it held the most"
                );
            }
        }
        self.thread.account.say();
    }

    fn shed_strangers(&self, excess: u64) {
        let told = self.thread.strangers.make_room(excess);
        if told > 0 {
            self.thread.counters.bound(Bound::Memory).add(told as u64);
            self.thread.account.say();
        }
    }

    /// Closes clients for whom nothing has moved for too long while they left more replies unread than they may.
    pub(super) fn check_unread(&self) {
        let timeout = self.thread.settings().limits.reply_stall_timeout;
        let now_micros = self.thread.clock.now_micros();
        let (mut unread, mut largest) = (Vec::new(), 0);
        let entries = self.entries.borrow();
        for (&id, entry) in entries.iter() {
            let outlet = &entry.outlet;
            largest = largest.max(outlet.held_bytes());
            if outlet.held_replies_bytes() == 0 || outlet.is_closed() {
                continue;
            }
            let held = outlet.held_replies_bytes() as u64;
            entry.record.output_bytes.set(held);
            if outlet.is_over() && !self.room.stalls.borrow().knows(id) {
                self.tell_over(&entry.record, held);
            }
            if outlet.is_over() {
                let moved = outlet.bytes_out() + entry.record.bytes_in.get();
                unread.push((id, moved));
            }
        }
        let tables = std::cell::OnceCell::new();
        let queued = |id| {
            let inode = entries.get(&id)?.outlet.inode()?;
            tables.get_or_init(queued_bytes).get(&inode).copied()
        };
        let mut stalls = self.room.stalls.borrow_mut();
        let stalled = stalls.look(&unread, now_micros, timeout, queued);
        drop(stalls);
        for entry in stalled.iter().filter_map(|id| entries.get(id)) {
            entry.outlet.close(Disconnect::OutputBuffer);
        }
        // Those who were not admitted go before everybody, whatever they hold.
        let largest = match self.thread.strangers.hold_something() {
            true => u64::MAX,
            false => largest as u64,
        };
        let memory = self.thread.account.memory();
        memory.set_largest(self.thread.index, largest);
        self.thread.account.say();
        self.room.has_told.set(false);
        drop(entries);
        self.shed();
    }
}

impl Clients {
    /// Counts and tells that a client has come to its bound.
    fn tell_over(&self, record: &ClientRecord, held: u64) {
        self.thread.counters.bound(Bound::OutputBuffer).add(1);
        if let Some(others) = self.room.waits_line.write(self.thread.clock.now_micros()) {
            tracing::warn!(
                client = %record.peer(),
                held,
                others,
                "a client leaves more unread than limits.max_client_buffer: its requests wait until it reads"
            );
        }
    }
}

impl Client {
    /// Its next request waits while more is held for it than it may leave unread.
    #[inline]
    pub(super) fn wait_if_over(&mut self) {
        if self.outlet.is_over() && matches!(self.wait, Wait::Nothing) {
            self.wait = Wait::Unread;
        }
    }
}
