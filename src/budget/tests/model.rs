//! Random sequences against a naive model, which keeps one list of all who wait in order of arrival and looks through
//! it from the start after every step; and against a world of lease holders, for progress.

use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::super::ledger::TURN_MICROS;
use super::*;

const WORKERS: usize = 3;
const MAX: usize = 5;
const SHARED: usize = 2;
const PINNED: usize = MAX - SHARED;
const MAX_PINNED: [Option<usize>; 3] = [Some(1), Some(2), None];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Thing {
    Socket(SocketKind),
    Lease(usize),
}

#[derive(Debug)]
struct Waiter {
    thing: Thing,
    worker: usize,
    since: u64,
    granted: bool,
}

/// What is lent, claimed or granted, and who waits.
#[derive(Debug, Default)]
struct Model {
    /// With the worker it is lent to.
    lent: Vec<(Thing, usize)>,
    line: Vec<(u32, Waiter)>,
    /// When a lease last went to another worker for its turn.
    turned: Option<u64>,
}

impl Model {
    fn lent(&self, thing: Thing) -> usize {
        let granted = self
            .line
            .iter()
            .filter(|(_, waiter)| waiter.granted && waiter.thing == thing)
            .count();
        self.lent.iter().filter(|(lent, _)| *lent == thing).count() + granted
    }

    fn sockets(&self) -> [usize; 3] {
        [
            SocketKind::Shared,
            SocketKind::Pinned,
            SocketKind::Subscription,
        ]
        .map(|kind| self.lent(Thing::Socket(kind)))
    }

    fn leases(&self) -> usize {
        (0..MAX_PINNED.len())
            .map(|group| self.lent(Thing::Lease(group)))
            .sum()
    }

    fn waiting(&self, of: impl Fn(Thing) -> bool) -> usize {
        self.line
            .iter()
            .filter(|(_, waiter)| !waiter.granted && of(waiter.thing))
            .count()
    }

    fn is_free(&self, thing: Thing) -> bool {
        let [shared, pinned, subscription] = self.sockets();
        let free = pinned + subscription < PINNED;
        match thing {
            Thing::Socket(SocketKind::Shared) => shared < SHARED,
            Thing::Socket(SocketKind::Pinned) => free,
            Thing::Socket(SocketKind::Subscription) => {
                free && self.leases() + subscription < PINNED
            }
            Thing::Lease(group) => {
                let set_aside =
                    self.waiting(|thing| thing == Thing::Socket(SocketKind::Subscription));
                self.leases() + subscription + set_aside < PINNED
                    && MAX_PINNED[group].is_none_or(|max| self.lent(thing) < max)
            }
        }
    }

    fn leases_of(&self, worker: usize) -> usize {
        let is_lease = |thing: &Thing| matches!(thing, Thing::Lease(_));
        let lent = self.lent.iter();
        let lent = lent.filter(|(thing, of)| is_lease(thing) && *of == worker);
        let line = self.line.iter();
        let granted = line.filter(|(_, waiter)| {
            waiter.granted && is_lease(&waiter.thing) && waiter.worker == worker
        });
        lent.count() + granted.count()
    }

    /// Serves whoever can be served, sockets first, each from the front of the line; of the leases those of the worker that
    /// has given one back, unless it is another's turn.
    fn serve(&mut self, returned: Option<(usize, u64)>) {
        loop {
            let first = |leases: bool, of: Option<usize>| {
                self.line.iter().position(|(_, waiter)| {
                    let is_lease = matches!(waiter.thing, Thing::Lease(_));
                    let is_meant = of.is_none_or(|of| waiter.worker == of);
                    !waiter.granted && is_lease == leases && is_meant && self.is_free(waiter.thing)
                })
            };
            if let Some(socket) = first(false, None) {
                self.line[socket].1.granted = true;
                continue;
            }
            let Some(oldest) = first(true, None) else {
                return;
            };
            let mut next = oldest;
            if let Some((worker, now)) = returned
                && let Some(own) = first(true, Some(worker))
                && self.line[oldest].1.worker != worker
            {
                let waits = |at: usize| now - self.line[at].1.since;
                let is_time = waits(oldest) >= TURN_MICROS
                    && self.turned.is_none_or(|turned| now - turned >= TURN_MICROS);
                let has_none = self.leases_of(self.line[oldest].1.worker) == 0;
                if is_time && (has_none || waits(oldest) >= 2 * waits(own)) {
                    self.turned = Some(now);
                } else {
                    next = own;
                }
            }
            self.line[next].1.granted = true;
        }
    }

    fn take_out(&mut self, number: u32) -> Waiter {
        let index = self
            .line
            .iter()
            .position(|(other, _)| *other == number)
            .expect("it is in the line");
        self.line.remove(index).1
    }

    fn give_back(&mut self, thing: (Thing, usize)) {
        let index = self
            .lent
            .iter()
            .position(|lent| *lent == thing)
            .expect("it is lent");
        self.lent.swap_remove(index);
    }
}

/// Who gave back, where that decides who is next.
fn returned(thing: Thing, worker: usize, now: u64) -> Option<(usize, u64)> {
    matches!(thing, Thing::Lease(_)).then_some((worker, now))
}

enum Wait {
    Socket(SocketWait),
    Lease(LeaseWait),
}

#[expect(dead_code, reason = "permits are held for their drop")]
enum Held {
    Socket(SocketPermit),
    Lease(PinLease),
}

/// A waiter of the real budget, with the bell of its last poll.
struct Waiting {
    number: u32,
    wait: Wait,
    bell: Option<Arc<Bell>>,
}

impl Waiting {
    fn poll(&mut self) -> Option<Held> {
        let bell = Arc::default();
        let held = match &mut self.wait {
            Wait::Socket(wait) => poll(wait, &bell).map(Held::Socket),
            Wait::Lease(wait) => poll(wait, &bell).map(Held::Lease),
        };
        self.bell = Some(bell);
        held
    }
}

#[derive(Debug, Clone)]
enum Step {
    Try(Thing, usize),
    Wait(Thing, usize, bool),
    Time(u64),
    Poll(usize),
    Cancel(usize),
    Return(usize),
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        1 => Just(Thing::Socket(SocketKind::Shared)),
        2 => Just(Thing::Socket(SocketKind::Pinned)),
        1 => Just(Thing::Socket(SocketKind::Subscription)),
        3 => (0..MAX_PINNED.len()).prop_map(Thing::Lease),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (thing(), 0..WORKERS).prop_map(|(thing, worker)| Step::Try(thing, worker)),
        4 => (thing(), 0..WORKERS, any::<bool>())
            .prop_map(|(thing, worker, polled)| Step::Wait(thing, worker, polled)),
        2 => (0..2 * TURN_MICROS).prop_map(Step::Time),
        3 => any::<usize>().prop_map(Step::Poll),
        1 => any::<usize>().prop_map(Step::Cancel),
        4 => any::<usize>().prop_map(Step::Return),
    ]
}

fn check(budget: &SocketBudget, model: &Model, waiting: &[Waiting]) {
    let (shared, pinned, subscription) = budget.counts();
    assert_eq!([shared, pinned, subscription], model.sockets());
    assert!(shared <= SHARED && pinned + subscription <= PINNED);
    assert_eq!(budget.leases(), model.leases());
    assert!(
        budget.leases() + subscription <= PINNED,
        "every holder of a lease can have a socket"
    );
    assert_eq!(budget.waiting(), model.waiting(|_| true));
    let wanted = model.waiting(|thing| {
        matches!(
            thing,
            Thing::Socket(SocketKind::Pinned | SocketKind::Subscription)
        )
    });
    assert_eq!(budget.sockets_wanted(), wanted > 0);
    for Waiting { number, bell, .. } in waiting {
        let (_, expected) = model
            .line
            .iter()
            .find(|(other, _)| other == number)
            .expect("it is in the line");
        let rings = bell.as_ref().map(|bell| bell.rings());
        // Polled while it waited, it was woken if and only if it was served.
        assert!(
            rings.is_none_or(|rings| rings == u32::from(expected.granted)),
            "{expected:?} {rings:?}"
        );
    }
}

fn run(steps: Vec<Step>) {
    let clock = Arc::new(AtomicU64::new(0));
    let time = Arc::clone(&clock);
    let budget = SocketBudget::new(MAX, SHARED, MAX_PINNED.to_vec(), WORKERS, move || {
        time.load(Ordering::Relaxed)
    });
    let mut model = Model::default();
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut held: Vec<(Held, (Thing, usize))> = Vec::new();
    for (number, step) in (0_u32..).zip(steps) {
        let now = clock.load(Ordering::Relaxed);
        match step {
            Step::Time(passes) => drop(clock.fetch_add(passes, Ordering::Relaxed)),
            Step::Try(thing, worker) => {
                let taken = match thing {
                    Thing::Socket(kind) => budget.try_socket(kind).map(Held::Socket),
                    Thing::Lease(group) => budget.try_lease(group, worker).map(Held::Lease),
                };
                assert_eq!(taken.is_some(), model.is_free(thing), "{thing:?}");
                if let Some(taken) = taken {
                    held.push((taken, (thing, worker)));
                    model.lent.push((thing, worker));
                }
            }
            Step::Wait(thing, worker, polled) => {
                let wait = match thing {
                    Thing::Socket(kind) => Wait::Socket(budget.wait_socket(kind, worker)),
                    Thing::Lease(group) => Wait::Lease(budget.wait_lease(group, worker)),
                };
                waiting.push(Waiting {
                    number,
                    wait,
                    bell: None,
                });
                let waiter = Waiter {
                    thing,
                    worker,
                    since: now,
                    granted: false,
                };
                model.line.push((number, waiter));
                model.serve(None);
                if polled {
                    claim(waiting.len() - 1, &mut waiting, &mut held, &mut model);
                }
            }
            Step::Poll(which) if !waiting.is_empty() => {
                claim(which % waiting.len(), &mut waiting, &mut held, &mut model);
            }
            Step::Cancel(which) if !waiting.is_empty() => {
                let gone = waiting.swap_remove(which % waiting.len());
                let left = model.take_out(gone.number);
                let by = returned(left.thing, left.worker, now);
                model.serve(by.filter(|_| left.granted));
                drop(gone);
            }
            Step::Return(which) if !held.is_empty() => {
                let (gone, thing) = held.swap_remove(which % held.len());
                model.give_back(thing);
                model.serve(returned(thing.0, thing.1, now));
                drop(gone);
            }
            Step::Poll(_) | Step::Cancel(_) | Step::Return(_) => {}
        }
        check(&budget, &model, &waiting);
    }
    drop((waiting, held));
    assert_eq!(
        (budget.counts(), budget.leases(), budget.waiting()),
        ((0, 0, 0), 0, 0)
    );
}

/// Polls a waiter: it is served exactly when the model says so.
fn claim(
    index: usize,
    waiting: &mut Vec<Waiting>,
    held: &mut Vec<(Held, (Thing, usize))>,
    model: &mut Model,
) {
    let number = waiting[index].number;
    let (_, expected) = model
        .line
        .iter()
        .find(|(other, _)| *other == number)
        .expect("it is in the line");
    let taken = waiting[index].poll();
    assert_eq!(taken.is_some(), expected.granted, "{expected:?}");
    if let Some(taken) = taken {
        let waiter = model.take_out(number);
        waiting.swap_remove(index);
        held.push((taken, (waiter.thing, waiter.worker)));
        model.lent.push((waiter.thing, waiter.worker));
    }
}

/// A client with a lease: it has its socket, or waits for it.
enum Holder {
    Waits(PinLease, SocketWait),
    Has(PinLease, SocketPermit),
}

#[derive(Debug, Clone)]
enum Act {
    Borrow(usize),
    Finish(usize),
    Subscribe,
    Unsubscribe(usize),
}

/// Holders keep their pins idle when they finish; all idle pins are closed as soon as somebody wants a socket.
fn live(acts: Vec<Act>) {
    let budget = SocketBudget::new(MAX, SHARED, MAX_PINNED.to_vec(), 2, standing);
    let (mut holders, mut idle) = (Vec::new(), Vec::new());
    let (mut asking, mut subscribed) = (Vec::new(), Vec::new());
    for act in acts {
        match act {
            Act::Borrow(group) => {
                if let Some(lease) = budget.try_lease(group, 0) {
                    holders.push(Holder::Waits(
                        lease,
                        budget.wait_socket(SocketKind::Pinned, 0),
                    ));
                }
            }
            Act::Finish(which) if !holders.is_empty() => {
                if let Holder::Has(_lease, pin) = holders.swap_remove(which % holders.len()) {
                    idle.push(pin);
                }
            }
            Act::Subscribe => asking.push(budget.wait_socket(SocketKind::Subscription, 1)),
            Act::Unsubscribe(which) if !subscribed.is_empty() => {
                drop(subscribed.swap_remove(which % subscribed.len()));
            }
            Act::Finish(_) | Act::Unsubscribe(_) => {}
        }
        if budget.sockets_wanted() {
            idle.clear();
        }
        holders = holders
            .into_iter()
            .map(|holder| match holder {
                Holder::Waits(lease, mut wait) => {
                    let pin = now_ready(&mut wait)
                        .expect("a holder of a lease has a socket once idle pins are closed");
                    Holder::Has(lease, pin)
                }
                has @ Holder::Has(..) => has,
            })
            .collect();
        asking.retain_mut(|wait| match now_ready(wait) {
            Some(permit) => {
                subscribed.push(permit);
                false
            }
            None => true,
        });
    }
    // When the holders finish, every subscription that fits is served.
    let expected = (asking.len() + subscribed.len()).min(PINNED);
    holders.clear();
    idle.clear();
    subscribed.extend(asking.iter_mut().filter_map(now_ready));
    assert_eq!(subscribed.len(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn every_answer_and_every_wake_up_is_that_of_the_model(steps in proptest::collection::vec(step(), 1..150)) {
        run(steps);
    }

    #[test]
    fn a_holder_of_a_lease_always_gets_a_socket(acts in proptest::collection::vec(prop_oneof![
        4 => (0..MAX_PINNED.len()).prop_map(Act::Borrow),
        3 => any::<usize>().prop_map(Act::Finish),
        1 => Just(Act::Subscribe),
        1 => any::<usize>().prop_map(Act::Unsubscribe),
    ], 1..100)) {
        live(acts);
    }
}
