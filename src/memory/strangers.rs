//! Those who have connected and have not been admitted, in their handshake or rejected and held: they hold memory for as long
//! as nobody who was admitted needs it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::{HeldBytes, MemoryAccount, MemoryHolder, largest_first};

/// Lists the strangers of one worker.
#[derive(Debug)]
pub struct StrangerList {
    account: Rc<MemoryAccount>,
    places: RefCell<Slab<Rc<StrangerPlace>>>,
}

#[derive(Debug)]
struct StrangerPlace {
    holding: HeldBytes,
    is_told: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Stands for one who has not been admitted; what it holds is given back when this is dropped.
#[derive(Debug)]
pub struct Stranger {
    strangers: Rc<StrangerList>,
    key: usize,
    place: Rc<StrangerPlace>,
    /// Counts what it takes, whatever it does.
    standing: usize,
}

impl StrangerList {
    /// Makes a list with nobody on it.
    pub fn new(account: &Rc<MemoryAccount>) -> Rc<Self> {
        Rc::new(Self {
            account: Rc::clone(account),
            places: RefCell::default(),
        })
    }

    /// Enters somebody who takes `standing` bytes whatever they do, and holds nothing yet.
    pub fn enter(self: &Rc<Self>, standing: usize) -> Stranger {
        self.account.enter(standing);
        let place = Rc::new(StrangerPlace {
            holding: HeldBytes::new(&self.account),
            is_told: Cell::new(false),
            waker: RefCell::default(),
        });
        let key = self.places.borrow_mut().insert(Rc::clone(&place));
        Stranger {
            strangers: Rc::clone(self),
            key,
            place,
            standing,
        }
    }

    /// Tells those who hold most to go, until `excess` bytes will be given back. Returns how many were told.
    pub fn make_room(&self, excess: u64) -> usize {
        let places = self.places.borrow();
        let staying = places.iter().filter(|(_, place)| !place.is_told.get());
        let holders = staying.map(|(key, place)| MemoryHolder {
            id: key as u64,
            bytes: place.holding.bytes() as u64,
        });
        let gone = largest_first(holders.collect(), excess);
        for place in gone
            .iter()
            .filter_map(|holder| places.get(holder.id as usize))
        {
            place.is_told.set(true);
            place.holding.go();
            if let Some(waker) = place.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        gone.len()
    }

    /// Tells whether any of them holds something.
    pub fn hold_something(&self) -> bool {
        let places = self.places.borrow();
        places.iter().any(|(_, place)| place.holding.bytes() > 0)
    }
}

impl Stranger {
    /// Sets what it holds now. Returns false where it has been told to go.
    pub fn hold(&self, bytes: usize) -> bool {
        self.place.holding.set(bytes);
        !self.place.is_told.get()
    }

    /// Tells whether nothing is read of it in this turn: those who were told to go let go of their memory first.
    pub fn makes_way(&self) -> bool {
        self.place.holding.account().awaits_room()
    }

    /// Waits until it is told to go.
    pub fn poll_told(&self, cx: &Context<'_>) -> Poll<()> {
        if self.place.is_told.get() {
            return Poll::Ready(());
        }
        *self.place.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.place.holding.set(0);
        self.strangers.account.leave(self.standing);
        self.strangers.places.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::MemoryRoom;

    #[test]
    fn the_largest_are_told_and_no_more_than_must() {
        let memory = Arc::new(MemoryRoom::new(16 << 20, 1));
        let account = MemoryAccount::new(Arc::clone(&memory), 0);
        let strangers = StrangerList::new(&account);
        let sizes = [70_000, 10_000, 90_000, 0];
        let comers: Vec<_> = sizes.iter().map(|_| strangers.enter(0)).collect();
        for (comer, bytes) in comers.iter().zip(sizes) {
            assert!(comer.hold(bytes));
        }
        assert_eq!(strangers.make_room(100_000), 2);
        let stay: Vec<bool> = comers
            .iter()
            .zip(sizes)
            .map(|(comer, bytes)| comer.hold(bytes))
            .collect();
        assert_eq!(stay, [false, true, false, true]);
        assert_eq!(strangers.make_room(100_000), 1, "who was told is not again");
        assert_eq!(strangers.make_room(1), 0, "who holds nothing stays");
        drop(comers);
        assert_eq!(account.held(), 0);
        assert!(!strangers.hold_something());
    }

    #[test]
    fn who_is_told_is_woken() {
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(16 << 20, 1)), 0);
        let strangers = StrangerList::new(&account);
        let stranger = strangers.enter(0);
        stranger.hold(1);
        let cx = Context::from_waker(Waker::noop());
        assert!(stranger.poll_told(&cx).is_pending());
        strangers.make_room(1);
        assert!(stranger.poll_told(&cx).is_ready());
    }
}
