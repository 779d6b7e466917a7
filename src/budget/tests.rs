//! The rules one by one, random sequences against a naive model, a world of lease holders, and threads.

mod model;
mod workers;

use std::sync::atomic::AtomicU32;
use std::task::Wake;
use std::time::{Duration, Instant};

use super::*;

/// Counts how often it was woken.
#[derive(Default)]
struct Bell(AtomicU32);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll<F: Future + Unpin>(wait: &mut F, bell: &Arc<Bell>) -> Option<F::Output> {
    let waker = Waker::from(Arc::clone(bell));
    match Pin::new(wait).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A clock that stands still.
fn standing() -> u64 {
    0
}

fn ticking() -> impl Fn() -> u64 + Send + Sync {
    let start = Instant::now();
    move || start.elapsed().as_micros() as u64
}

fn now_ready<F: Future + Unpin>(wait: &mut F) -> Option<F::Output> {
    poll(wait, &Arc::default())
}

#[test]
fn shared_sockets_are_reserved_and_the_rest_is_for_pins_and_subscriptions() {
    let budget = SocketBudget::new(5, 2, vec![None], 1, standing);
    let shared: Vec<_> = (0..3)
        .map(|_| budget.try_socket(SocketKind::Shared))
        .collect();
    assert_eq!(shared.iter().flatten().count(), 2);
    let pinned: Vec<_> = (0..2)
        .map(|_| budget.try_socket(SocketKind::Pinned))
        .collect();
    let subscription = budget.try_socket(SocketKind::Subscription);
    assert_eq!(budget.counts(), (2, 2, 1));
    assert!(budget.try_socket(SocketKind::Pinned).is_none());
    assert!(budget.try_socket(SocketKind::Subscription).is_none());
    assert_eq!(budget.limit(), 5);
    drop((shared, pinned, subscription));
    assert_eq!(budget.counts(), (0, 0, 0));
}

#[test]
fn sockets_go_to_waiters_in_order_of_arrival() {
    let budget = SocketBudget::new(2, 1, vec![None], 1, standing);
    let held = budget.try_socket(SocketKind::Pinned).expect("one is free");
    let (mut first, mut second) = (
        budget.wait_socket(SocketKind::Pinned, 0),
        budget.wait_socket(SocketKind::Subscription, 0),
    );
    let bells = [Arc::<Bell>::default(), Arc::<Bell>::default()];
    assert!(poll(&mut first, &bells[0]).is_none());
    assert!(poll(&mut second, &bells[1]).is_none());
    assert!(budget.sockets_wanted());
    assert_eq!(budget.waiting(), 2);
    drop(held);
    assert_eq!(bells.each_ref().map(|bell| bell.rings()), [1, 0]);
    assert!(
        budget.try_socket(SocketKind::Pinned).is_none(),
        "nobody overtakes"
    );
    let held = now_ready(&mut first).expect("granted");
    assert_eq!(held.kind(), SocketKind::Pinned);
    assert!(now_ready(&mut second).is_none());
    drop(held);
    assert_eq!(
        now_ready(&mut second).expect("granted").kind(),
        SocketKind::Subscription
    );
    assert!(!budget.sockets_wanted());
    assert_eq!(budget.counts(), (0, 0, 0));
}

#[test]
fn what_is_lent_to_multiplexed_traffic_is_lent_again_when_a_place_of_its_own_is_given_back() {
    let budget = SocketBudget::new(4, 1, vec![None], 2, standing);
    let held_up = budget
        .try_socket(SocketKind::Shared)
        .expect("it is reserved");
    let lease = budget.try_lease(0, 0).expect("none is lent");
    let lent = budget
        .try_socket(SocketKind::Pinned)
        .expect("it has a lease");
    let lent = lent.share(lease);
    assert_eq!((budget.counts(), budget.leases()), ((2, 0, 0), 0));
    assert_eq!(
        (lent.kind(), budget.shared_beyond()),
        (SocketKind::Shared, 1)
    );
    assert!(!budget.is_exceeded());
    // Two are left to lend, and every lease finds its socket.
    let leases: Vec<_> = std::iter::from_fn(|| budget.try_lease(0, 0)).collect();
    let pins: Vec<_> = std::iter::from_fn(|| budget.try_socket(SocketKind::Pinned)).collect();
    assert_eq!((leases.len(), pins.len()), (2, 2));
    assert!(budget.try_socket(SocketKind::Shared).is_none());
    let mut lease = budget.wait_lease(0, 1);
    assert!(now_ready(&mut lease).is_none());
    drop(held_up);
    assert_eq!((budget.counts(), budget.shared_beyond()), ((1, 2, 0), 0));
    let _lease = now_ready(&mut lease).expect("the third is lent again");
    let _pin = budget.try_socket(SocketKind::Pinned).expect("its socket");
    // Whichever of them ends, the other is in the place that is reserved.
    drop(lent);
    assert_eq!(budget.counts(), (0, 3, 0));
    assert!(budget.try_socket(SocketKind::Pinned).is_none());
    assert!(budget.try_socket(SocketKind::Shared).is_some());
}

#[test]
fn a_granted_socket_that_nobody_claims_goes_to_the_next() {
    let budget = SocketBudget::new(2, 1, vec![None], 1, standing);
    for kind in [
        SocketKind::Shared,
        SocketKind::Pinned,
        SocketKind::Subscription,
    ] {
        let held = budget.try_socket(kind).expect("one is free");
        let first = budget.wait_socket(kind, 0);
        let cancelled = budget.wait_socket(kind, 0);
        let mut last = budget.wait_socket(kind, 0);
        let bell = Arc::default();
        assert!(poll(&mut last, &bell).is_none());
        drop(held);
        drop(cancelled);
        assert_eq!(bell.rings(), 0);
        drop(first);
        assert_eq!(bell.rings(), 1);
        assert!(now_ready(&mut last).is_some());
        assert_eq!((budget.counts(), budget.waiting()), ((0, 0, 0), 0));
    }
}

#[test]
fn the_waker_of_the_last_poll_is_the_one_called() {
    let budget = SocketBudget::new(2, 1, vec![None], 1, standing);
    let held = budget.try_lease(0, 0);
    let mut wait = budget.wait_lease(0, 0);
    let bells = [Arc::<Bell>::default(), Arc::<Bell>::default()];
    assert!(poll(&mut wait, &bells[0]).is_none());
    assert!(poll(&mut wait, &bells[1]).is_none());
    drop(held);
    assert_eq!(bells.each_ref().map(|bell| bell.rings()), [0, 1]);
}

#[test]
fn only_other_workers_are_asked_for_idle_pins_and_only_when_there_is_none() {
    let budget = SocketBudget::new(3, 1, vec![None], 3, standing);
    let asked: [Arc<Bell>; 3] = Default::default();
    for (worker, bell) in asked.iter().enumerate() {
        let (bell, budget) = (Arc::clone(bell), Arc::clone(&budget));
        // A reclaimer may use the budget: it is called outside the lock.
        budget.clone().set_reclaimer(
            worker,
            Box::new(move || {
                assert!(budget.sockets_wanted());
                Arc::clone(&bell).wake();
            }),
        );
    }
    let rings = || asked.each_ref().map(|bell| bell.rings());
    let mut free = budget.wait_socket(SocketKind::Pinned, 1);
    let _first = now_ready(&mut free).expect("one is free");
    let _second = budget.try_socket(SocketKind::Pinned).expect("one is free");
    assert_eq!(rings(), [0, 0, 0]);
    let pinned = budget.wait_socket(SocketKind::Pinned, 1);
    assert_eq!(rings(), [1, 0, 1]);
    let subscription = budget.wait_socket(SocketKind::Subscription, 0);
    assert_eq!(rings(), [1, 1, 2]);
    drop((pinned, subscription));
    assert!(!budget.sockets_wanted());
    let _shared = budget.try_socket(SocketKind::Shared).expect("one is free");
    let _waits = budget.wait_socket(SocketKind::Shared, 0);
    assert_eq!(rings(), [1, 1, 2], "no pin helps a shared connection");
    assert!(!budget.sockets_wanted());
}

#[test]
fn leases_go_in_order_of_arrival_and_a_full_group_holds_up_nobody() {
    let budget = SocketBudget::new(4, 1, vec![Some(1), None, Some(0)], 1, standing);
    let first = budget.try_lease(0, 0).expect("one is left");
    assert!(
        budget.try_lease(0, 0).is_none(),
        "the group is at its max_pinned"
    );
    assert!(budget.try_lease(2, 0).is_none(), "max_pinned is 0");
    let mut full = budget.wait_lease(0, 0);
    let second = budget
        .try_lease(1, 0)
        .expect("nobody waits who could be served");
    let third = budget.try_lease(1, 0).expect("one is left");
    assert!(budget.try_lease(1, 0).is_none(), "none is left");
    let mut late = budget.wait_lease(1, 0);
    drop(second);
    assert!(now_ready(&mut full).is_none());
    let late = now_ready(&mut late).expect("the full group is passed over");
    let mut last = budget.wait_lease(1, 0);
    drop(first);
    assert!(now_ready(&mut last).is_none());
    let full = now_ready(&mut full).expect("its group has room and it came first");
    assert_eq!((full.group(), budget.leases()), (0, 3));
    drop((third, late, full));
    assert!(now_ready(&mut last).is_some());
    drop(last);
    assert_eq!((budget.leases(), budget.waiting()), (0, 0));
}

#[test]
fn a_granted_lease_that_nobody_claims_goes_to_the_next() {
    let budget = SocketBudget::new(2, 1, vec![Some(1)], 1, standing);
    let held = budget.try_lease(0, 0);
    let first = budget.wait_lease(0, 0);
    let cancelled = budget.wait_lease(0, 0);
    let mut last = budget.wait_lease(0, 0);
    let bell = Arc::default();
    assert!(poll(&mut last, &bell).is_none());
    drop(held);
    drop(cancelled);
    assert_eq!(bell.rings(), 0);
    drop(first);
    assert_eq!(bell.rings(), 1);
    assert!(now_ready(&mut last).is_some());
    assert_eq!((budget.leases(), budget.waiting()), (0, 0));
}

#[test]
fn subscriptions_leave_fewer_leases_and_wait_for_one_to_end() {
    let budget = SocketBudget::new(3, 1, vec![None], 1, standing);
    let subscription = budget
        .try_socket(SocketKind::Subscription)
        .expect("one is free");
    let lease = budget.try_lease(0, 0).expect("one is left");
    assert!(budget.try_lease(0, 0).is_none());
    // The holder has no socket yet, but the one that is free is its own.
    let mut second = budget.wait_socket(SocketKind::Subscription, 0);
    assert!(now_ready(&mut second).is_none());
    assert!(budget.is_lease_wanted(0, 0) && !budget.is_lease_wanted(0, 1));
    let pin = budget
        .try_socket(SocketKind::Pinned)
        .expect("the holder's own");
    let mut next_lease = budget.wait_lease(0, 0);
    drop(lease);
    assert!(
        now_ready(&mut next_lease).is_none(),
        "the subscription comes first"
    );
    assert!(now_ready(&mut second).is_none(), "the pin is still open");
    drop(pin);
    let second = now_ready(&mut second).expect("both are given back");
    assert!(now_ready(&mut next_lease).is_none());
    drop(subscription);
    assert!(now_ready(&mut next_lease).is_some());
    drop(second);
    assert_eq!(budget.counts(), (0, 0, 0));
}

#[test]
fn a_subscription_that_stops_waiting_leaves_its_lease_to_the_next() {
    let budget = SocketBudget::new(2, 1, vec![None], 1, standing);
    let lease = budget.try_lease(0, 0).expect("one is left");
    let pin = budget.try_socket(SocketKind::Pinned);
    let subscription = budget.wait_socket(SocketKind::Subscription, 0);
    let mut next = budget.wait_lease(0, 0);
    drop(lease);
    assert!(now_ready(&mut next).is_none());
    drop(subscription);
    assert!(now_ready(&mut next).is_some());
    drop(pin);
}

/// Runs a future on this thread; fails rather than hang when a wake-up is lost.
fn block_on<F: Future + Unpin>(mut wait: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Poll::Ready(output) = Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
        assert!(Instant::now() < deadline, "a wake-up was lost");
    }
}

#[test]
fn threads_share_few_pins_without_losing_a_wake_up() {
    const WORKERS: usize = 4;
    let budget = SocketBudget::new(3, 1, vec![Some(1), None], WORKERS, ticking());
    let idle: Arc<Vec<Mutex<Option<SocketPermit>>>> =
        Arc::new((0..WORKERS).map(|_| Mutex::default()).collect());
    let take_idle = |idle: &[Mutex<Option<SocketPermit>>], worker: usize| {
        idle[worker].lock().expect("no panic").take()
    };
    for worker in 0..WORKERS {
        let idle = Arc::clone(&idle);
        budget.set_reclaimer(worker, Box::new(move || drop(take_idle(&idle, worker))));
    }
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (budget, idle, served) = (&budget, &idle, &served);
            scope.spawn(move || {
                for round in 0..300 {
                    if (round + worker) % 5 == 0 {
                        drop(budget.wait_lease(0, worker));
                        drop(budget.wait_socket(SocketKind::Subscription, worker));
                    }
                    let lease = block_on(budget.wait_lease(round % 2, worker));
                    let kept = take_idle(idle, worker);
                    let pin = kept.unwrap_or_else(|| {
                        block_on(budget.wait_socket(SocketKind::Pinned, worker))
                    });
                    let (shared, pinned, subscription) = budget.counts();
                    assert!(shared <= 1 && pinned + subscription <= 2 && budget.leases() <= 2);
                    served.fetch_add(1, Ordering::SeqCst);
                    *idle[worker].lock().expect("no panic") = Some(pin);
                    if budget.sockets_wanted() {
                        drop(take_idle(idle, worker));
                    }
                    drop(lease);
                }
                drop(take_idle(idle, worker));
            });
        }
    });
    assert_eq!(served.into_inner(), WORKERS * 300);
    assert_eq!(
        (budget.counts(), budget.leases(), budget.waiting()),
        ((0, 0, 0), 0, 0)
    );
}

#[test]
fn a_smaller_budget_takes_nothing_away_and_lends_nothing_more() {
    let budget = SocketBudget::new(6, 2, vec![None], 1, standing);
    let leases: Vec<_> = (0..4).map_while(|_| budget.try_lease(0, 0)).collect();
    let mut pins: Vec<_> = (0..4)
        .map_while(|_| budget.try_socket(SocketKind::Pinned))
        .collect();
    let shared = [SocketKind::Shared; 2].map(|kind| budget.try_socket(kind));
    assert_eq!((leases.len(), pins.len()), (4, 4));
    budget.resize(6, 4, &[None]);
    assert!(budget.sockets_wanted(), "two are lent beyond what is left");
    assert!(
        budget.try_socket(SocketKind::Shared).is_none(),
        "six are open"
    );
    pins.pop();
    let third = budget.try_socket(SocketKind::Shared);
    assert!(third.is_some() && budget.try_socket(SocketKind::Pinned).is_none());
    pins.pop();
    assert!(!budget.sockets_wanted());
    assert_eq!(budget.leases_wanted(), 2, "and two leases too many");
    drop((leases, pins, shared, third));
    budget.resize(3, 1, &[Some(1)]);
    assert_eq!((budget.limit(), budget.leases_wanted()), (3, 0));
    let lease = budget.try_lease(0, 0);
    assert!(
        lease.is_some() && budget.try_lease(0, 0).is_none(),
        "the group's own share"
    );
    budget.resize(3, 1, &[None]);
    assert!(budget.try_lease(0, 0).is_some());
}

#[test]
fn a_full_group_wants_its_own_leases_only() {
    let budget = SocketBudget::new(9, 1, vec![Some(1), None], 1, standing);
    let _held = budget.try_lease(0, 0).expect("the group's only one");
    assert!(!budget.is_lease_wanted(0, 0) && !budget.is_lease_wanted(1, 0));
    let mut wait = std::pin::pin!(budget.wait_lease(0, 0));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(wait.as_mut().poll(&mut cx).is_pending());
    assert!(budget.is_lease_wanted(0, 1) && !budget.is_lease_wanted(1, 0));
}

#[test]
fn a_larger_budget_serves_who_waits() {
    let budget = SocketBudget::new(2, 1, vec![None], 1, standing);
    let _first = budget.try_lease(0, 0).expect("one is left");
    let mut wait = std::pin::pin!(budget.wait_lease(0, 0));
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    assert!(wait.as_mut().poll(&mut cx).is_pending());
    budget.resize(3, 1, &[None]);
    assert!(wait.as_mut().poll(&mut cx).is_ready());
}
