//! Waiting until a connection takes more bytes.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;

use super::super::outlet::Outlet;
use super::super::traffic::Inner;
use super::Link;
use crate::schedule::RoomTicket;
use crate::telemetry::Bound;

/// One client's wait until a connection takes its next requests; dropping it passes its turn on.
pub struct RoomWait {
    link: Rc<Link>,
    bytes: usize,
    ticket: Cell<Option<RoomTicket>>,
}

impl RoomWait {
    /// A wait to append about `bytes` to what `link` has to send.
    pub fn new(link: &Rc<Link>, bytes: usize) -> Self {
        Self {
            link: Rc::clone(link),
            bytes,
            ticket: Cell::new(None),
        }
    }

    /// Whether there is no room yet; the client's task is woken when its turn comes, or the connection is lost.
    pub fn is_pending(&self, cx: &Context<'_>) -> bool {
        if !self.link.is_alive() {
            return false;
        }
        let Some(ticket) = self.ticket.get() else {
            if !self.link.is_full() {
                return false;
            }
            self.link.thread.counters.bound(Bound::WriteBuffer).add(1);
            let room = &mut self.link.inner.borrow_mut().room;
            self.ticket
                .set(Some(room.wait(cx.waker().clone(), self.bytes)));
            return true;
        };
        let room = &mut self.link.inner.borrow_mut().room;
        let Some(waker) = room.waiter(ticket) else {
            return false;
        };
        if !waker.will_wake(cx.waker()) {
            *waker = cx.waker().clone();
        }
        true
    }

    /// Its turn has come: the connection takes what the client appends next, if it does so before anything is awaited.
    pub fn come(self, outlet: &Rc<Outlet>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        if self.link.inner.borrow_mut().room.settle(ticket) {
            self.link.turn.set(Rc::as_ptr(outlet) as usize);
            // Whatever the client does with its turn, who waits behind it is looked at after it.
            self.link.wake();
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let inner = &mut *self.link.inner.borrow_mut();
            if inner.room.settle(ticket) {
                self.link.offer_room(inner);
            }
        }
    }
}

impl Link {
    /// Whether whoever has not waited yet must wait before it appends more: for the kernel, or for those who wait already.
    #[inline]
    pub fn is_full(&self) -> bool {
        let inner = self.inner.borrow();
        let behind = inner.out.len() - inner.written + inner.room.promised();
        !inner.room.is_empty() || behind > self.thread.settings().upstream.max_write_buffer
    }

    /// Whether this client may append more now: it has waited, or need not.
    #[inline]
    pub fn has_room(&self, outlet: &Rc<Outlet>) -> bool {
        self.takes_turn(outlet) || !self.is_full()
    }

    /// Whether it is this client's turn, which is over with that.
    #[inline]
    fn takes_turn(&self, outlet: &Rc<Outlet>) -> bool {
        let is_turn = self.turn.get() == Rc::as_ptr(outlet) as usize;
        if is_turn {
            self.turn.set(0);
        }
        is_turn
    }

    /// Whether it is this client's turn here.
    #[inline]
    pub fn expects(&self, outlet: &Rc<Outlet>) -> bool {
        self.turn.get() == Rc::as_ptr(outlet) as usize
    }

    /// Has those come for whom there is room, once half of the write buffer is free.
    pub(super) fn offer_room(&self, inner: &mut Inner) {
        if inner.room.is_empty() {
            return;
        }
        let most = self.thread.settings().upstream.max_write_buffer;
        let behind = inner.out.len() - inner.written;
        if behind > most / 2 {
            return;
        }
        while let Some(waker) = inner.room.next(most - behind) {
            waker.wake();
        }
    }
}
