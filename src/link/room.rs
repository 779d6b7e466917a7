//! Waiting until a connection takes more bytes.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;

use super::Link;
use crate::outlet::Outlet;
use crate::schedule::RoomTicket;
use crate::telemetry::Bound;

/// Holds one client's wait until a connection takes its next requests. Its drop passes the turn on.
pub struct RoomWait {
    link: Rc<Link>,
    bytes: usize,
    ticket: Cell<Option<RoomTicket>>,
}

impl RoomWait {
    /// Begins to wait to append about `bytes` to what `link` has to send.
    pub fn new(link: &Rc<Link>, bytes: usize) -> Self {
        Self {
            link: Rc::clone(link),
            bytes,
            ticket: Cell::new(None),
        }
    }

    /// Tells whether there is no room yet; the client's task is woken when its turn comes, or the connection is lost.
    pub fn is_pending(&self, cx: &Context<'_>) -> bool {
        if !self.link.is_alive() {
            return false;
        }
        let Some(ticket) = self.ticket.get() else {
            if !self.link.is_full() {
                return false;
            }
            self.link.thread.counters.bound(Bound::WriteBuffer).add(1);
            let room = &mut self.link.room.borrow_mut();
            self.ticket
                .set(Some(room.wait(cx.waker().clone(), self.bytes)));
            return true;
        };
        let room = &mut self.link.room.borrow_mut();
        let Some(waker) = room.waiter(ticket) else {
            return false;
        };
        if !waker.will_wake(cx.waker()) {
            *waker = cx.waker().clone();
        }
        true
    }

    /// Takes the turn that has come: the connection takes what the client appends next, if it does so before anything is awaited.
    pub fn come(self, outlet: &Rc<Outlet>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        if self.link.room.borrow_mut().settle(ticket) {
            self.link.turn.set(Rc::as_ptr(outlet) as usize);
            // Whatever the client does with its turn, who waits behind it is looked at after it.
            self.link.wake();
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            let is_turn = self.link.room.borrow_mut().settle(ticket);
            if is_turn {
                let unsent = self.link.exchange.borrow().unsent_bytes();
                self.link.offer_room(unsent);
            }
        }
    }
}

impl Link {
    /// Tells whether whoever has not waited yet must wait before it appends more: for the kernel, or for those who wait already.
    #[inline]
    pub fn is_full(&self) -> bool {
        let room = self.room.borrow();
        let behind = self.exchange.borrow().unsent_bytes() + room.promised();
        !room.is_empty() || behind > self.thread.settings().upstream.max_write_buffer
    }

    /// Tells whether this client may append more now: it has waited, or need not.
    #[inline]
    pub fn has_room(&self, outlet: &Rc<Outlet>) -> bool {
        self.takes_turn(outlet) || !self.is_full()
    }

    /// Tells whether it is this client's turn, which is over with that.
    #[inline]
    fn takes_turn(&self, outlet: &Rc<Outlet>) -> bool {
        let is_turn = self.turn.get() == Rc::as_ptr(outlet) as usize;
        if is_turn {
            self.turn.set(0);
        }
        is_turn
    }

    /// Tells whether it is this client's turn here.
    #[inline]
    pub fn expects(&self, outlet: &Rc<Outlet>) -> bool {
        self.turn.get() == Rc::as_ptr(outlet) as usize
    }

    /// Has those come for whom there is room, once half of the write buffer is free; so many bytes of it are not sent.
    #[inline]
    pub(super) fn offer_room(&self, unsent: usize) {
        let mut room = self.room.borrow_mut();
        if room.is_empty() {
            return;
        }
        let most = self.thread.settings().upstream.max_write_buffer;
        if unsent > most / 2 {
            return;
        }
        while let Some(waker) = room.next(most - unsent) {
            waker.wake();
        }
    }
}
