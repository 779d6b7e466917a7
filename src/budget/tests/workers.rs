//! Leases between workers: who gets one that is given back, how long anybody waits, how often connections change hands.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::super::ledger::TURN_MICROS;
use super::*;

fn told() -> (Arc<AtomicU64>, impl Fn() -> u64 + Send + Sync + 'static) {
    let clock = Arc::new(AtomicU64::new(0));
    let time = Arc::clone(&clock);
    (clock, move || time.load(Ordering::Relaxed))
}

#[test]
fn a_lease_goes_to_a_waiter_of_the_same_worker_within_the_turn() {
    let (clock, time) = told();
    let budget = SocketBudget::new(2, 1, vec![None], 2, time);
    let held = budget.try_lease(0, 1).expect("one is left");
    let mut other = budget.wait_lease(0, 0);
    let mut own = budget.wait_lease(0, 1);
    clock.store(TURN_MICROS - 1, Ordering::Relaxed);
    drop(held);
    assert!(now_ready(&mut other).is_none());
    let held = now_ready(&mut own).expect("its worker has the connection");
    let mut own = budget.wait_lease(0, 1);
    clock.store(TURN_MICROS, Ordering::Relaxed);
    drop(held);
    assert!(now_ready(&mut own).is_none());
    let held = now_ready(&mut other).expect("the turn is over");
    let mut other = budget.wait_lease(0, 0);
    drop(held);
    assert!(now_ready(&mut own).is_none(), "the next turn has begun");
    assert!(now_ready(&mut other).is_some());
}

#[test]
fn what_is_not_wanted_by_the_worker_goes_to_another_at_once() {
    let budget = SocketBudget::new(2, 1, vec![None], 2, standing);
    let held = budget.try_lease(0, 1).expect("one is left");
    let mut other = budget.wait_lease(0, 0);
    drop(held);
    assert!(now_ready(&mut other).is_some());
}

fn wanted(worker: usize, waiters: usize) -> IdleDemand {
    IdleDemand::Connection { worker, waiters }
}

#[test]
fn an_idle_connection_is_wanted_by_the_worker_that_waits_for_it() {
    let budget = SocketBudget::new(3, 1, vec![None], 3, standing);
    let mut held: Vec<_> = (0..2)
        .map_while(|_| budget.try_socket(SocketKind::Pinned))
        .collect();
    assert_eq!(budget.wanted_of(0), IdleDemand::Nothing);
    let own = budget.wait_socket(SocketKind::Pinned, 0);
    assert_eq!(
        budget.wanted_of(0),
        IdleDemand::Nothing,
        "its own waiter takes it itself"
    );
    let others = [1, 2, 1].map(|worker| budget.wait_socket(SocketKind::Pinned, worker));
    assert_eq!(budget.wanted_of(0), wanted(1, 2));
    assert_eq!(budget.wanted_of(1), wanted(0, 1));
    let subscription = budget.wait_socket(SocketKind::Subscription, 1);
    assert_eq!(
        budget.wanted_of(0),
        IdleDemand::Place,
        "a subscription needs the place"
    );
    drop((own, others, subscription));
    held.clear();
    assert_eq!((budget.counts(), budget.waiting()), ((0, 0, 0), 0));
}

/// A crowd of clients that each want a lease again as soon as they have had one, in the time that passes by itself.
struct Crowd {
    clock: Arc<AtomicU64>,
    budget: Arc<SocketBudget>,
    waiting: Vec<(usize, u64, LeaseWait)>,
    /// Until when each is used.
    used: VecDeque<(u64, usize, PinLease)>,
    /// Connections of each worker; one more or less is one that has changed hands.
    connections: Vec<usize>,
    moves: usize,
    longest: Vec<u64>,
    served: Vec<usize>,
}

impl Crowd {
    fn new(leases: usize, clients: &[usize]) -> Self {
        let (clock, time) = told();
        let budget = SocketBudget::new(leases + 1, 1, vec![None], clients.len(), time);
        let mut waiting = Vec::new();
        for (worker, &count) in clients.iter().enumerate() {
            waiting.extend((0..count).map(|_| (worker, 0, budget.wait_lease(0, worker))));
        }
        Self {
            clock,
            budget,
            waiting,
            used: VecDeque::new(),
            connections: vec![0; clients.len()],
            moves: 0,
            longest: vec![0; clients.len()],
            served: vec![0; clients.len()],
        }
    }

    fn live(&mut self, until: u64, holds: u64) {
        loop {
            let now = self.clock.load(Ordering::Relaxed);
            let mut granted = Vec::new();
            self.waiting
                .retain_mut(|(worker, since, wait)| match now_ready(wait) {
                    Some(lease) => {
                        granted.push((*worker, *since, lease));
                        false
                    }
                    None => true,
                });
            for (worker, since, lease) in granted {
                self.longest[worker] = self.longest[worker].max(now - since);
                self.served[worker] += 1;
                self.used.push_back((now + holds, worker, lease));
                let in_use = self.used.iter().filter(|(_, of, _)| *of == worker).count();
                if in_use > self.connections[worker] {
                    self.connections[worker] += 1;
                    // Beyond those there are, it is another worker's.
                    let all: usize = self.connections.iter().sum();
                    if all > self.budget.limit() - 1 {
                        self.moves += 1;
                        let idle = |of: &usize| {
                            let used = self.used.iter().filter(|(_, by, _)| by == of).count();
                            self.connections[*of] > used
                        };
                        let from = (0..self.connections.len()).find(idle);
                        self.connections[from.expect("one is idle")] -= 1;
                    }
                }
            }
            // One at a time, as they end.
            let Some((ends, worker, lease)) = self.used.pop_front() else {
                return;
            };
            if ends > until {
                return;
            }
            self.clock.store(ends, Ordering::Relaxed);
            drop(lease);
            self.waiting
                .push((worker, ends, self.budget.wait_lease(0, worker)));
        }
    }
}

#[test]
fn in_a_steady_state_no_connection_changes_hands() {
    for clients in [[25, 25], [40, 10], [30, 20]] {
        let mut crowd = Crowd::new(6, &clients);
        crowd.live(1_000_000, 700);
        crowd.moves = 0;
        crowd.live(5_000_000, 700);
        assert!(
            crowd.moves <= 5,
            "{clients:?}: {} moves in 4 s",
            crowd.moves
        );
    }
}

proptest! {
    /// Whatever the crowds and the uses: whoever comes is served within some turns and the uses before it; and where each
    /// worker has somebody who waits, a connection changes hands at most once a turn.
    #[test]
    fn nobody_starves(
        leases in 1_usize..7,
        clients in prop::collection::vec(1_usize..30, 2..4),
        holds in 50_u64..5_000,
    ) {
        const UNTIL: u64 = 2_000_000;
        let mut crowd = Crowd::new(leases, &clients);
        crowd.live(UNTIL, holds);
        let all: u64 = clients.iter().sum::<usize>() as u64;
        // The rounds of all who may come before it, twice, and a turn for each of the workers.
        let rounds = 2 * all * holds;
        let turns = 2 * clients.len() as u64 * TURN_MICROS;
        for (worker, longest) in crowd.longest.iter().enumerate() {
            prop_assert!(*longest <= rounds + turns, "worker {worker}: {longest} of {} + {turns}", rounds);
            prop_assert!(crowd.served[worker] > 0);
        }
        let most = UNTIL / TURN_MICROS + leases as u64;
        let is_crowded = clients.iter().all(|count| *count > leases);
        prop_assert!(!is_crowded || crowd.moves as u64 <= most, "{} moves, {most} turns", crowd.moves);
    }
}
