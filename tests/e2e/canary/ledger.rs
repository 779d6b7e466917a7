//! The account of elements that canaries push for each other: each is handed to one of them, or still there, or was taken by one that
//! is gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::expect::Mismatch;

/// Says what a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Holds {
    List,
    Sorted,
    /// It is a stream of which everybody may have every element.
    Stream,
    /// It is a stream whose elements are shared out among the consumers of a group.
    Group,
}

/// Says where an element was put.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) holds: Holds,
    pub(super) database: u32,
    pub(super) key: String,
}

/// Says how an element was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Popped,
    /// It is in the list of moved elements now.
    Moved,
}

/// Says what came of the command that pushed an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Unknown,
    Yes,
    /// respool said that it did not send the command.
    No,
}

#[derive(Debug)]
struct Element {
    place: Place,
    /// The phase of the server when it was sent: a restart takes all.
    phase: usize,
    pushed: Pushed,
    received: Option<(Way, usize)>,
}

#[derive(Debug, Default)]
struct Entries {
    elements: Vec<Element>,
    /// Counts elements that may have gone to clients that ended while they waited, by phase and place.
    taken: HashMap<(usize, Place), usize>,
    /// Counts elements that may have gone down with a connection to the server, by phase.
    sunk: HashMap<usize, usize>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Entries>);

/// Says how many elements of a place there are, by what became of them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Balance {
    pub(super) pushed: usize,
    pub(super) received: usize,
    pub(super) left: usize,
    pub(super) lost: usize,
    /// Bounds how many may be lost here.
    pub(super) allowed: usize,
}

impl Balance {
    pub(super) fn and(self, other: &Self) -> Self {
        Self {
            pushed: self.pushed + other.pushed,
            received: self.received + other.received,
            left: self.left + other.left,
            lost: self.lost + other.lost,
            allowed: self.allowed + other.allowed,
        }
    }
}

/// Holds what the server still has of a place.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    pub(super) elements: Vec<String>,
    /// Holds those of [`Holds::Group`] that were handed to a consumer and not acknowledged.
    pub(super) pending: Vec<String>,
}

impl Ledger {
    /// Registers a new element before it is sent, and tells its text.
    pub(super) fn register(&self, place: &Place, phase: usize) -> String {
        let mut entries = self.entries();
        entries.elements.push(Element {
            place: place.clone(),
            phase,
            pushed: Pushed::Unknown,
            received: None,
        });
        text(entries.elements.len() - 1, place)
    }

    /// Notes that the server has it.
    pub(super) fn pushed(&self, element: &str) {
        self.settle(element, Pushed::Yes);
    }

    /// Notes that it was never sent, so nobody may ever have it.
    pub(super) fn refused(&self, element: &str) {
        self.settle(element, Pushed::No);
    }

    fn settle(&self, element: &str, pushed: Pushed) {
        let mut entries = self.entries();
        let found = entries.find(element).expect("it was registered");
        assert!(
            pushed != Pushed::No || found.received.is_none(),
            "{element} was handed to client {:?} and is said not to have been sent",
            found.received
        );
        found.pushed = pushed;
    }

    /// Notes that a client was handed this element of a place, as the only one.
    pub(super) fn received(
        &self,
        element: &str,
        place: &Place,
        way: Way,
        by: usize,
    ) -> Result<(), Mismatch> {
        let mut entries = self.entries();
        let found = entries.find(element)?;
        if found.place != *place {
            return Err(Mismatch(format!("{element} out of {place:?}")));
        }
        if found.pushed == Pushed::No {
            return Err(Mismatch(format!(
                "{element}, which was said not to have been sent"
            )));
        }
        if let Some((_, first)) = found.received.replace((way, by)) {
            return Err(Mismatch(format!(
                "{element}, which client {first} has already"
            )));
        }
        Ok(())
    }

    /// Notes that a client has read this element of a stream, as others do.
    pub(super) fn seen(&self, element: &str, place: &Place) -> Result<(), Mismatch> {
        let mut entries = self.entries();
        let found = entries.find(element)?;
        if found.place != *place || found.pushed == Pushed::No {
            return Err(Mismatch(format!("{element} out of {place:?}")));
        }
        Ok(())
    }

    /// Notes that a client is gone, or will be, that may have taken so many elements of this place with it.
    pub(super) fn taken(&self, place: &Place, phase: usize, most: usize) {
        *self
            .entries()
            .taken
            .entry((phase, place.clone()))
            .or_default() += most;
    }

    /// Notes that a connection to the server was killed that may have had so many elements on it.
    pub(super) fn sunk(&self, phase: usize, most: usize) {
        *self.entries().sunk.entry(phase).or_default() += most;
    }

    /// Tells how many elements may have gone down with connections to the server.
    pub(super) fn sunk_in(&self, phase: usize) -> usize {
        self.entries().sunk.get(&phase).copied().unwrap_or(0)
    }

    /// Lists every place into which something was put in this phase.
    pub(super) fn places(&self, phase: usize) -> Vec<Place> {
        let entries = self.entries();
        let elements = entries
            .elements
            .iter()
            .filter(|element| element.phase == phase);
        let mut places: Vec<Place> = elements.map(|element| element.place.clone()).collect();
        places.sort();
        places.dedup();
        places
    }

    /// Holds what the server has left against what it was given and what was received. `moved`: the elements of the database's list
    /// of moved ones.
    pub(super) fn balance(
        &self,
        place: &Place,
        phase: usize,
        left: &Leftovers,
        moved: &HashSet<String>,
    ) -> Balance {
        let mut entries = self.entries();
        let mut balance = Balance::default();
        let mut is_left = HashSet::new();
        for text in &left.elements {
            assert!(is_left.insert(text), "{text} is twice in {place:?}");
            let found = entries
                .find(text)
                .unwrap_or_else(|e| panic!("in {place:?}: {}", e.0));
            assert!(
                found.place == *place && found.pushed != Pushed::No,
                "{text} is in {place:?}"
            );
            let may_be_both = matches!(place.holds, Holds::Stream | Holds::Group);
            assert!(
                may_be_both || found.received.is_none(),
                "{text} is in {place:?}, and was handed out: {:?}",
                found.received
            );
        }
        let is_pending: HashSet<&String> = left.pending.iter().collect();
        for (id, element) in entries.elements.iter().enumerate() {
            if element.phase != phase || element.place != *place || element.pushed != Pushed::Yes {
                continue;
            }
            balance.pushed += 1;
            let text = text(id, place);
            let is_received = element.received.is_some();
            balance.received += usize::from(is_received);
            let is_here = is_left.contains(&text);
            let is_taken = match place.holds {
                Holds::List | Holds::Sorted => !is_here && !is_received,
                // What is read stays, and what was handed to somebody is pending until it is acknowledged.
                Holds::Stream | Holds::Group => {
                    assert!(is_here, "{text} is gone from {place:?}");
                    is_pending.contains(&text) && !is_received
                }
            };
            balance.left += usize::from(is_here && !is_received && !is_taken);
            balance.lost += usize::from(is_taken);
            if let Some((Way::Moved, by)) = element.received {
                assert!(
                    moved.contains(&text),
                    "{text} was moved for client {by} and is nowhere"
                );
            }
        }
        balance.allowed = entries
            .taken
            .get(&(phase, place.clone()))
            .copied()
            .unwrap_or(0);
        balance
    }

    /// Checks a database's list of moved elements: each is there once, and nobody popped it.
    pub(super) fn moved(&self, database: u32, moved: Vec<String>) -> HashSet<String> {
        let mut entries = self.entries();
        let mut found = HashSet::new();
        for text in moved {
            let element = entries
                .find(&text)
                .unwrap_or_else(|e| panic!("among the moved: {}", e.0));
            let is_popped = matches!(element.received, Some((Way::Popped, _)));
            assert!(
                element.place.database == database && !is_popped,
                "{text} is among the moved of {database}: {element:?}"
            );
            assert!(found.insert(text.clone()), "{text} was moved twice");
        }
        found
    }

    /// Tells how many elements of this phase were received.
    pub(super) fn received_in(&self, phase: usize) -> usize {
        let entries = self.entries();
        let of_phase = entries
            .elements
            .iter()
            .rev()
            .take_while(|element| element.phase == phase);
        of_phase
            .filter(|element| element.received.is_some())
            .count()
    }

    /// Tells how many were pushed, and received, over all phases.
    pub(super) fn totals(&self) -> BTreeMap<&'static str, usize> {
        let entries = self.entries();
        let count = |which: fn(&&Element) -> bool| entries.elements.iter().filter(which).count();
        BTreeMap::from([
            (
                "elements pushed",
                count(|element| element.pushed == Pushed::Yes),
            ),
            (
                "elements received",
                count(|element| element.received.is_some()),
            ),
        ])
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // A canary that fails while it holds this has told why; the others end too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn find(&mut self, text: &str) -> Result<&mut Element, Mismatch> {
        let not = || Mismatch(format!("{text:.100?}, no element that anybody pushed"));
        let id: usize = text
            .strip_prefix('e')
            .and_then(|rest| rest.split_once('@'))
            .and_then(|(id, _)| id.parse().ok())
            .ok_or_else(not)?;
        let place = &self.elements.get(id).ok_or_else(not)?.place;
        if self::text(id, place) != text {
            return Err(not());
        }
        Ok(&mut self.elements[id])
    }
}

fn text(id: usize, place: &Place) -> String {
    format!("e{id}@{} {};", place.database, place.key)
}
