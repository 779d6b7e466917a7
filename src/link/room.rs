//! Room in what a connection has to send: who waits until it takes more bytes, and whose turn it is.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use super::Link;
use crate::outlet::Outlet;
use crate::schedule::{RoomQueue, RoomTicket};
use crate::telemetry::Bound;

/// Keeps who waits until a connection takes more bytes. It is told how many are not sent, and how many that may be.
#[derive(Default)]
pub(super) struct WriteRoom {
    queue: RefCell<RoomQueue<Waker>>,
    /// The client with the outlet at this address has waited and appends next; 0: none.
    turn: Cell<usize>,
}

impl WriteRoom {
    /// Tells whether whoever has not waited yet must wait: for the kernel, or for those who wait already.
    #[inline]
    fn is_full(&self, unsent: usize, most: usize) -> bool {
        let queue = self.queue.borrow();
        !queue.is_empty() || unsent + queue.promised() > most
    }

    /// Has one wait to append about `bytes`.
    fn wait(&self, waker: Waker, bytes: usize) -> RoomTicket {
        self.queue.borrow_mut().wait(waker, bytes)
    }

    /// Tells whether the turn of this ticket has not come; `waker` is woken when it does.
    fn is_waiting(&self, ticket: RoomTicket, waker: &Waker) -> bool {
        let mut queue = self.queue.borrow_mut();
        let Some(known) = queue.waiter(ticket) else {
            return false;
        };
        if !known.will_wake(waker) {
            *known = waker.clone();
        }
        true
    }

    /// Takes in that one who waited has come, or has left. Returns whether its turn had come.
    fn settle(&self, ticket: RoomTicket) -> bool {
        self.queue.borrow_mut().settle(ticket)
    }

    /// Has the client with the outlet at `address` append next, however full it is.
    fn give_turn(&self, address: usize) {
        self.turn.set(address);
    }

    /// Tells whether it is the turn of the client with the outlet at `address`.
    #[inline]
    fn is_turn_of(&self, address: usize) -> bool {
        self.turn.get() == address
    }

    /// Tells the same, and ends the turn.
    #[inline]
    fn take_turn(&self, address: usize) -> bool {
        let is_turn = self.is_turn_of(address);
        if is_turn {
            self.turn.set(0);
        }
        is_turn
    }

    /// Has those come for whom there is room, once half of `most` is free.
    #[inline]
    pub(super) fn offer(&self, unsent: usize, most: impl Fn() -> usize) {
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            return;
        }
        let most = most();
        if unsent > most / 2 {
            return;
        }
        while let Some(waker) = queue.next(most - unsent) {
            waker.wake();
        }
    }

    /// Wakes all who wait: the connection is lost.
    pub(super) fn end(&self) {
        self.queue.take().into_all().for_each(Waker::wake);
    }
}

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
        let room = &self.link.room;
        match self.ticket.get() {
            Some(ticket) => room.is_waiting(ticket, cx.waker()),
            None if !self.link.is_full() => false,
            None => {
                self.link.thread.counters.bound(Bound::WriteBuffer).add(1);
                let ticket = room.wait(cx.waker().clone(), self.bytes);
                self.ticket.set(Some(ticket));
                true
            }
        }
    }

    /// Takes the turn that has come: the connection takes what the client appends next, if it does so before anything is awaited.
    pub fn come(self, outlet: &Rc<Outlet>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        if self.link.room.settle(ticket) {
            self.link.room.give_turn(address(outlet));
            // Whatever the client does with its turn, who waits behind it is looked at after it.
            self.link.wake();
        }
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && self.link.room.settle(ticket)
        {
            let unsent = self.link.exchange.borrow().unsent_bytes();
            self.link.offer_room(unsent);
        }
    }
}

impl Link {
    /// Tells whether whoever has not waited yet must wait before it appends more: for the kernel, or for those who wait already.
    #[inline]
    pub fn is_full(&self) -> bool {
        let unsent = self.exchange.borrow().unsent_bytes();
        self.room.is_full(unsent, self.most_unsent())
    }

    /// Tells whether this client may append more now: it has waited, or need not.
    #[inline]
    pub fn has_room(&self, outlet: &Rc<Outlet>) -> bool {
        self.room.take_turn(address(outlet)) || !self.is_full()
    }

    /// Tells whether it is this client's turn here.
    #[inline]
    pub fn expects(&self, outlet: &Rc<Outlet>) -> bool {
        self.room.is_turn_of(address(outlet))
    }

    /// Has those come for whom there is room; so many bytes are not sent.
    #[inline]
    pub(super) fn offer_room(&self, unsent: usize) {
        self.room.offer(unsent, || self.most_unsent());
    }

    #[inline]
    fn most_unsent(&self) -> usize {
        self.thread.settings().upstream.max_write_buffer
    }
}

#[inline]
fn address(outlet: &Rc<Outlet>) -> usize {
    Rc::as_ptr(outlet) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    const MOST: usize = 1000;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waiting(room: &WriteRoom, bytes: usize) -> (Arc<Woken>, RoomTicket) {
        let woken = Arc::<Woken>::default();
        let ticket = room.wait(Waker::from(Arc::clone(&woken)), bytes);
        (woken, ticket)
    }

    fn times(woken: &Woken) -> usize {
        woken.0.load(Ordering::Relaxed)
    }

    #[test]
    fn it_is_full_past_the_bound_and_while_somebody_waits() {
        let room = WriteRoom::default();
        assert!(!room.is_full(MOST, MOST) && room.is_full(MOST + 1, MOST));
        let (_, ticket) = waiting(&room, 10);
        assert!(room.is_full(0, MOST), "nobody goes before who waits");
        assert!(!room.settle(ticket), "its turn had not come");
        assert!(!room.is_full(0, MOST));
    }

    #[test]
    fn who_waits_comes_when_half_is_free_as_far_as_there_is_room() {
        let room = WriteRoom::default();
        let (first, first_ticket) = waiting(&room, 300);
        let (second, _) = waiting(&room, 300);
        room.offer(MOST / 2 + 1, || MOST);
        assert_eq!((times(&first), times(&second)), (0, 0));
        room.offer(MOST / 2, || MOST);
        assert_eq!((times(&first), times(&second)), (1, 0), "600 do not fit");
        let waker = Waker::noop();
        assert!(!room.is_waiting(first_ticket, waker));
        room.offer(MOST / 2, || MOST);
        assert_eq!(times(&second), 0, "what is promised is not offered again");
        assert!(room.settle(first_ticket), "its turn had come");
        room.offer(MOST / 2, || MOST);
        assert_eq!((times(&first), times(&second)), (1, 1));
    }

    #[test]
    fn what_is_promised_counts_as_if_it_were_sent() {
        let room = WriteRoom::default();
        let (_, ticket) = waiting(&room, 300);
        room.offer(0, || MOST);
        assert!(!room.is_full(700, MOST) && room.is_full(701, MOST));
        assert!(room.settle(ticket));
        assert!(!room.is_full(MOST, MOST));
    }

    #[test]
    fn somebody_comes_whatever_it_wants() {
        let room = WriteRoom::default();
        let (woken, _) = waiting(&room, 5 * MOST);
        room.offer(0, || MOST);
        assert_eq!(times(&woken), 1);
    }

    #[test]
    fn a_turn_is_one_clients_and_is_taken_once() {
        let room = WriteRoom::default();
        room.give_turn(8);
        assert!(room.is_turn_of(8) && !room.is_turn_of(16));
        assert!(!room.take_turn(16), "it stays the other's");
        assert!(room.take_turn(8) && !room.take_turn(8));
    }

    #[test]
    fn who_is_polled_by_another_task_is_woken_there_and_all_are_when_it_ends() {
        let room = WriteRoom::default();
        let (first, ticket) = waiting(&room, 1);
        let (other, _) = waiting(&room, 1);
        let later = Arc::<Woken>::default();
        assert!(room.is_waiting(ticket, &Waker::from(Arc::clone(&later))));
        room.end();
        assert_eq!((times(&first), times(&later), times(&other)), (0, 1, 1));
        assert!(!room.is_full(0, MOST));
    }
}
