//! One worker's account of what it holds, kept as it changes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::MemoryRoom;

/// A worker says what it holds when that has changed by this much: the others know it to within this.
const STEP: u64 = 64 * 1024;

/// Is called when more is held than there is room for, or than was when the process was measured.
type ActOnExcess = Rc<dyn Fn()>;

/// Counts what one worker holds for its clients.
pub struct MemoryAccount {
    memory: Arc<MemoryRoom>,
    worker: usize,
    held: Cell<u64>,
    /// Counts what of it those still hold who have been told to go.
    going: Cell<u64>,
    /// Counts what its clients take that are there, whatever they do.
    standing: Cell<u64>,
    /// Counts what the other workers know of.
    said: Cell<u64>,
    measure: RefCell<Option<ActOnExcess>>,
    shed: RefCell<Option<ActOnExcess>>,
}

impl MemoryAccount {
    /// Makes the account of `worker`, which holds nothing yet.
    pub fn new(memory: Arc<MemoryRoom>, worker: usize) -> Rc<Self> {
        Rc::new(Self {
            memory,
            worker,
            held: Cell::new(0),
            going: Cell::new(0),
            standing: Cell::new(0),
            said: Cell::new(0),
            measure: RefCell::default(),
            shed: RefCell::default(),
        })
    }

    /// Has `shed` called from now on at the very byte past which there is no room, and with every [`STEP`] from there on.
    pub fn on_excess(&self, shed: ActOnExcess) {
        *self.shed.borrow_mut() = Some(shed);
    }

    /// Has `measure` called from now on whenever the process [is to be measured](MemoryRoom::is_to_be_measured).
    pub fn on_growth(&self, measure: ActOnExcess) {
        *self.measure.borrow_mut() = Some(measure);
    }

    /// Returns the memory of the process.
    pub fn memory(&self) -> &MemoryRoom {
        &self.memory
    }

    /// Counts what the worker holds.
    #[cfg(test)]
    pub fn held(&self) -> u64 {
        self.held.get()
    }

    /// Notes that somebody has come who takes so much, whatever they do.
    pub fn enter(&self, bytes: usize) {
        self.stand(self.standing.get() + bytes as u64);
    }

    /// Notes that they have gone.
    pub fn leave(&self, bytes: usize) {
        self.stand(self.standing.get().saturating_sub(bytes as u64));
    }

    fn stand(&self, bytes: u64) {
        self.standing.set(bytes);
        self.memory.set_standing(self.worker, bytes);
    }

    /// Tells the other workers what this one holds.
    pub fn say(&self) {
        self.said.set(self.held.get());
        self.memory
            .set_held(self.worker, self.held.get(), self.going.get());
    }

    /// Tells whether those who were told to go have to let go before anybody else is read: there is no room until they have. They do with
    /// their next turn, which comes before anybody else's next one.
    #[inline]
    pub fn awaits_room(&self) -> bool {
        self.going.get() > 0 && self.memory.is_full()
    }

    fn changed(&self, from: usize, to: usize) {
        let held = (self.held.get() + to as u64).saturating_sub(from as u64);
        self.held.set(held);
        if held.abs_diff(self.said.get()) < STEP {
            return;
        }
        self.say();
        if to <= from {
            return;
        }
        if self.memory.is_to_be_measured() {
            Self::act(&self.measure);
        }
        if self.memory.is_over() {
            Self::act(&self.shed);
        }
    }

    fn act(act: &RefCell<Option<ActOnExcess>>) {
        let act = act.borrow().clone();
        if let Some(act) = act {
            act();
        }
    }
}

impl std::fmt::Debug for MemoryAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Account({} bytes)", self.held.get())
    }
}

/// Counts what one holder has put on the account.
#[derive(Debug)]
pub struct HeldBytes {
    account: Rc<MemoryAccount>,
    /// Counts it in bytes; with [`GOING`] set when the holder has been told to go.
    bytes: Cell<usize>,
}

/// Nobody holds so much that it needs this bit: beside it a flag would cost each client eight bytes.
const GOING: usize = 1 << (usize::BITS - 1);

impl HeldBytes {
    /// Makes a holder that holds nothing yet.
    pub fn new(account: &Rc<MemoryAccount>) -> Self {
        Self {
            account: Rc::clone(account),
            bytes: Cell::new(0),
        }
    }

    /// Sets what it holds now.
    #[inline]
    pub fn set(&self, bytes: usize) {
        let was = self.bytes.get();
        let before = was & !GOING;
        if before == bytes {
            return;
        }
        self.bytes.set(bytes | (was & GOING));
        if was & GOING != 0 {
            let going = &self.account.going;
            going.set((going.get() + bytes as u64).saturating_sub(before as u64));
        }
        self.account.changed(before, bytes);
    }

    /// Notes that it has been told to go: nobody else goes for what it holds until it has.
    pub fn go(&self) {
        let was = self.bytes.get();
        if was & GOING == 0 {
            self.bytes.set(was | GOING);
            self.account
                .going
                .set(self.account.going.get() + was as u64);
        }
    }

    /// Counts what it holds.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes.get() & !GOING
    }

    /// Returns the account it is on.
    pub fn account(&self) -> &Rc<MemoryAccount> {
        &self.account
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Holds bytes once that many clients wait for.
#[derive(Debug)]
pub struct SharedFrame {
    bytes: Box<[u8]>,
    _holding: HeldBytes,
}

impl SharedFrame {
    /// Holds `bytes`, or a copy of them.
    pub fn new(bytes: impl Into<Box<[u8]>>, account: &Rc<MemoryAccount>) -> Rc<Self> {
        let bytes = bytes.into();
        let holding = HeldBytes::new(account);
        holding.set(bytes.len());
        Rc::new(Self {
            bytes,
            _holding: holding,
        })
    }

    /// Returns the bytes that are held.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Holds the start of a frame that has not come whole. It is nobody's yet, and is on the account as large as its buffer.
#[derive(Debug)]
pub struct UnfinishedFrame {
    bytes: Vec<u8>,
    holding: HeldBytes,
}

impl UnfinishedFrame {
    /// Begins with nothing.
    pub fn new(account: &Rc<MemoryAccount>) -> Self {
        Self {
            bytes: Vec::new(),
            holding: HeldBytes::new(account),
        }
    }

    /// Returns what has come of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes room for a frame of this many bytes at once: a buffer that grows leaves smaller ones behind.
    pub fn expect(&mut self, bytes: usize) {
        self.bytes
            .reserve_exact(bytes.saturating_sub(self.bytes.len()));
        self.holding.set(self.bytes.capacity());
    }

    /// Appends what has come next.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.holding.set(self.bytes.capacity());
    }

    /// Takes out what has come, which is on the account no more.
    pub fn take(&mut self) -> Vec<u8> {
        self.holding.set(0);
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_account_is_the_sum_of_what_is_held(
            changes in prop::collection::vec((0usize..5, 0usize..1 << 20, 0u8..4), 1..100),
        ) {
            let memory = Arc::new(MemoryRoom::new(1 << 40, 1));
            let account = MemoryAccount::new(Arc::clone(&memory), 0);
            let mut holders: Vec<Option<HeldBytes>> = (0..5).map(|_| None).collect();
            let mut goes = [false; 5];
            for (index, bytes, what) in changes {
                match what {
                    0 => (holders[index], goes[index]) = (None, false),
                    1 if holders[index].is_some() => {
                        holders[index].iter().for_each(HeldBytes::go);
                        goes[index] = true;
                    }
                    _ => holders[index].get_or_insert_with(|| HeldBytes::new(&account)).set(bytes),
                }
                let held = |holder: &Option<HeldBytes>| holder.as_ref().map_or(0, HeldBytes::bytes) as u64;
                prop_assert_eq!(account.held(), holders.iter().map(held).sum::<u64>());
                let going = holders.iter().zip(goes).filter(|(_, goes)| *goes);
                prop_assert_eq!(account.going.get(), going.map(|(holder, _)| held(holder)).sum::<u64>());
                prop_assert!(memory.held().abs_diff(account.held()) < STEP);
            }
            holders.clear();
            prop_assert_eq!((account.held(), account.going.get()), (0, 0));
        }
    }

    #[test]
    fn the_first_bytes_too_many_are_noticed_at_once() {
        let memory = Arc::new(MemoryRoom::new(16 << 20, 2));
        let account = MemoryAccount::new(Arc::clone(&memory), 0);
        let calls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&calls);
        account.on_excess(Rc::new(move || counted.set(counted.get() + 1)));
        let holding = HeldBytes::new(&account);
        holding.set(13 << 20);
        assert_eq!(calls.get(), 0);
        holding.set(15 << 20);
        assert_eq!(calls.get(), 1, "an eighth is kept free");
        holding.set(1 << 20);
        assert_eq!(calls.get(), 1, "nobody goes for what is given back");
    }

    #[test]
    fn what_else_there_is_is_known_before_too_much_is_held() {
        let memory = Arc::new(MemoryRoom::new(64 << 20, 1));
        let account = MemoryAccount::new(Arc::clone(&memory), 0);
        let measured = Arc::clone(&memory);
        // As much again as is held is on no account.
        account.on_growth(Rc::new(move || measured.measured(2 * measured.held(), 0)));
        let calls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&calls);
        account.on_excess(Rc::new(move || counted.set(counted.get() + 1)));
        let holding = HeldBytes::new(&account);
        for kib in (0..27 << 10).step_by(64) {
            holding.set(kib << 10);
        }
        assert_eq!(calls.get(), 0);
        for kib in (27 << 10..30 << 10).step_by(64) {
            holding.set(kib << 10);
        }
        assert!(
            calls.get() > 0,
            "an eighth is kept free, and half is not theirs"
        );
    }

    #[test]
    fn nobody_else_goes_for_what_those_hold_who_were_told_to_go() {
        let memory = Arc::new(MemoryRoom::new(16 << 20, 1));
        let account = MemoryAccount::new(Arc::clone(&memory), 0);
        let holding = HeldBytes::new(&account);
        holding.set(15 << 20);
        assert!(memory.is_over() && !account.awaits_room());
        holding.go();
        account.say();
        assert!(!memory.is_over() && memory.excess() == 0);
        assert!(account.awaits_room(), "it holds it still");
        drop(holding);
        account.say();
        assert!(!account.awaits_room());
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn what_has_not_come_whole_is_held_as_large_as_its_buffer() {
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
        let mut frame = UnfinishedFrame::new(&account);
        for _ in 0..100 {
            frame.append(&[0; 1000]);
            let held = account.held() as usize;
            assert_eq!(held, frame.bytes.capacity());
            assert!(held >= frame.bytes().len());
        }
        assert_eq!(frame.take().len(), 100_000);
        assert_eq!((account.held(), frame.bytes().len()), (0, 0));
        frame.append(b"another");
        frame.expect(1 << 20);
        assert_eq!(account.held(), 1 << 20);
        frame.append(&[0; (1 << 20) - 7]);
        assert_eq!(account.held(), 1 << 20);
        drop(frame);
        assert_eq!(account.held(), 0);
    }

    #[test]
    fn what_is_shared_is_held_until_the_last_lets_go() {
        let account = MemoryAccount::new(Arc::new(MemoryRoom::new(1 << 30, 1)), 0);
        let frame = SharedFrame::new([0; 1000], &account);
        let other = Rc::clone(&frame);
        drop(frame);
        assert_eq!((account.held(), other.bytes().len()), (1000, 1000));
        drop(other);
        assert_eq!(account.held(), 0);
    }
}
