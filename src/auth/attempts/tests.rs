//! Addresses that fail are slowed, and nobody else.

use std::cell::Cell;

use super::record::{LOOKS_A_SECOND, REMEMBERED};
use super::*;

const BOUNDS: AttemptBounds = AttemptBounds {
    free_failures: 3,
    max_delay: Duration::from_secs(1),
    max_in_flight: 4,
    max_waiting: 5,
    max_addresses: 8,
};

fn attempts() -> LoginAttempts {
    LoginAttempts::new(BOUNDS)
}

/// Something that nobody has shown before.
fn another() -> SecretHash {
    thread_local! { static SHOWN: Cell<u64> = const { Cell::new(1_000_000) } }
    SHOWN.set(SHOWN.get() + 1);
    SecretHash::numbered(SHOWN.get())
}

fn begin(attempts: &mut LoginAttempts, source: AttemptSource, now: u64) -> AttemptTurn {
    attempts.begin(source, another(), || false, false, now)
}

fn release(attempts: &mut LoginAttempts, now: u64) -> Vec<(AttemptSource, AttemptTicket)> {
    attempts.release(|_| false, now)
}

/// Fails so often, one after another, each as soon as it may.
fn fail(attempts: &mut LoginAttempts, source: AttemptSource, times: usize, mut now: u64) -> u64 {
    for _ in 0..times {
        match begin(attempts, source, now) {
            AttemptTurn::Now => {}
            AttemptTurn::Wait(ticket, _) => loop {
                if release(attempts, now).contains(&(source, ticket)) {
                    break;
                }
                now += 1000;
            },
            AttemptTurn::Refused => panic!("nobody else waits"),
        }
        attempts.ended(source, AttemptOutcome::Wrong, now);
    }
    now
}

#[test]
fn who_fails_is_slowed_and_others_are_not() {
    let mut attempts = attempts();
    assert_eq!(fail(&mut attempts, 1, 4, 0), 0, "these cost nothing");
    assert!(matches!(
        begin(&mut attempts, 1, 0),
        AttemptTurn::Wait(_, true)
    ));
    assert_eq!(begin(&mut attempts, 2, 0), AttemptTurn::Now);
    let mut attempts = super::tests::attempts();
    let after = fail(&mut attempts, 1, 12, 0);
    // 25 + 50 + ... + 800 ms, and then a second each.
    assert!((3_500_000..6_000_000).contains(&after), "{after}");
}

#[test]
fn of_an_address_that_has_not_failed_everybody_waits() {
    let mut attempts = attempts();
    for number in 0..500 {
        let turn = begin(&mut attempts, 1, 0);
        assert_eq!(turn == AttemptTurn::Now, number < BOUNDS.max_in_flight);
        assert_ne!(turn, AttemptTurn::Refused, "attempt {number}");
    }
    let (mut taken, mut in_flight) = (0, BOUNDS.max_in_flight);
    while in_flight > 0 {
        taken += in_flight;
        for _ in 0..in_flight {
            attempts.ended(1, AttemptOutcome::Taken, 0);
        }
        in_flight = release(&mut attempts, 0).len();
    }
    assert_eq!((taken, attempts.len()), (500, 0));
}

#[test]
fn a_second_later_there_is_one_more_attempt_however_many_wait() {
    let mut attempts = attempts();
    let now = fail(&mut attempts, 1, 14, 0);
    for _ in 0..5 {
        assert!(matches!(
            begin(&mut attempts, 1, now),
            AttemptTurn::Wait(..)
        ));
    }
    assert_eq!(begin(&mut attempts, 1, now), AttemptTurn::Refused);
    let mut begun = 0;
    for step in 0..3000 {
        let now = now + step * 1000;
        for (source, _) in release(&mut attempts, now) {
            begun += 1;
            attempts.ended(source, AttemptOutcome::Wrong, now);
        }
    }
    assert!((2..=4).contains(&begun), "{begun} in three seconds");
}

#[test]
fn who_has_not_failed_goes_before_those_who_have() {
    let mut attempts = attempts();
    let now = fail(&mut attempts, 1, 10, 0);
    let AttemptTurn::Wait(failed, _) = attempts.begin(1, another(), || false, true, now) else {
        panic!("it waits");
    };
    let AttemptTurn::Wait(fresh, _) = begin(&mut attempts, 1, now) else {
        panic!("it waits");
    };
    assert_eq!(release(&mut attempts, now + 1_000_000), [(1, fresh)]);
    attempts.ended(1, AttemptOutcome::Taken, now + 1_000_000);
    assert_eq!(release(&mut attempts, now + 2_100_000), [(1, failed)]);
}

#[test]
fn what_another_is_served_by_waits_for_nothing_as_long_as_nobody_guesses() {
    let mut attempts = attempts();
    let now = fail(&mut attempts, 1, 10, 0);
    let now = (now / 1_000_000 + 1) * 1_000_000;
    let right = |attempts: &mut LoginAttempts| attempts.begin(1, another(), || true, true, now);
    for _ in 0..10 * LOOKS_A_SECOND {
        assert_eq!(right(&mut attempts), AttemptTurn::Now);
    }
    // Whoever guesses learns no more often what is wrong, and nothing of what is right.
    let mut looks = 0;
    for _ in 0..3 * LOOKS_A_SECOND {
        let is_served = || {
            looks += 1;
            false
        };
        let turn = attempts.begin(1, another(), is_served, true, now);
        if let AttemptTurn::Wait(ticket, _) = turn {
            attempts.leave(1, ticket);
        }
    }
    assert_eq!(looks, LOOKS_A_SECOND);
    assert!(matches!(right(&mut attempts), AttemptTurn::Wait(..)));
}

#[test]
fn who_goes_on_showing_an_old_password_costs_no_looks() {
    let mut attempts = attempts();
    let now = fail(&mut attempts, 1, 14, 0);
    let now = (now / 1_000_000 + 2) * 1_000_000;
    for attempt in 0..20 * LOOKS_A_SECOND {
        let old = SecretHash::numbered(attempt % REMEMBERED as u64);
        let turn = attempts.begin(1, old, || false, true, now);
        assert_eq!(
            turn == AttemptTurn::Refused,
            attempt > BOUNDS.max_waiting as u64,
            "{attempt}"
        );
    }
    // And who is right is served, though as many wait as may.
    let turn = attempts.begin(1, another(), || true, false, now);
    assert_eq!(turn, AttemptTurn::Now);
}

/// So many begin to wait, each of whom shows something else.
fn many_wait(
    attempts: &mut LoginAttempts,
    many: u64,
    now: u64,
) -> Vec<(AttemptTicket, SecretHash)> {
    let begun = (0..many).filter_map(|number| {
        let hash = SecretHash::numbered(number);
        match attempts.begin(1, hash, || false, false, now) {
            AttemptTurn::Wait(ticket, _) => Some((ticket, hash)),
            _ => None,
        }
    });
    begun.collect()
}

/// A slowed address, of which a thousand wait that have all been looked at.
fn thousand_looked_at() -> (LoginAttempts, Vec<(AttemptTicket, SecretHash)>, u64) {
    let mut attempts = LoginAttempts::new(AttemptBounds {
        max_waiting: 10_000,
        max_delay: Duration::from_secs(3600),
        ..BOUNDS
    });
    // The next turn is most of a minute away.
    let now = fail(&mut attempts, 1, 16, 0);
    let now = (now / 1_000_000 + 1) * 1_000_000;
    let waiting = many_wait(&mut attempts, 1000, now);
    assert_eq!(waiting.len(), 1000);
    let looks = Cell::new(0);
    for second in 1..=5 {
        let before = looks.get();
        for step in 0..20 {
            let count = |_| {
                looks.set(looks.get() + 1);
                false
            };
            let later = now + second * 1_000_000 + step * 1000;
            assert!(attempts.release(count, later).is_empty());
        }
        assert!(looks.get() - before <= LOOKS_A_SECOND, "{second}");
    }
    assert!(looks.get() >= 1000 - LOOKS_A_SECOND);
    (attempts, waiting, now + 6_000_000)
}

#[test]
fn who_waits_is_let_in_as_soon_as_another_is_served_by_the_same() {
    let (mut attempts, waiting, now) = thousand_looked_at();
    let mut in_flight = 0;
    for (ticket, hash) in waiting.iter().step_by(2) {
        assert_eq!(attempts.served(*hash), [(1, *ticket)]);
        assert!(attempts.served(*hash).is_empty(), "it waits no longer");
        in_flight += 1;
    }
    assert_eq!(in_flight, 500);
    for _ in 0..in_flight {
        attempts.ended(1, AttemptOutcome::Taken, now);
    }
    let nothing = |_: AttemptTicket| -> bool { panic!("nobody is looked at a second time") };
    assert!(attempts.release(nothing, now).is_empty());
    // Whoever has left is not let in, and all who show the same are.
    let (left, hash) = waiting[1];
    let AttemptTurn::Wait(ticket, _) = attempts.begin(1, hash, || false, true, now) else {
        panic!("it waits");
    };
    let AttemptTurn::Wait(other, _) = attempts.begin(1, hash, || false, false, now) else {
        panic!("it waits");
    };
    attempts.leave(1, left);
    assert_eq!(attempts.served(hash), [(1, ticket), (1, other)]);
}

#[test]
fn what_others_are_served_by_costs_the_address_of_those_who_wait_no_looks() {
    let (mut attempts, _, now) = thousand_looked_at();
    for step in 0..50_000 {
        assert!(attempts.served(another()).is_empty());
        if step % 100 == 0 {
            let turn = attempts.begin(1, another(), || true, false, now + step);
            assert_eq!(turn, AttemptTurn::Now);
        }
    }
}

#[test]
fn after_a_reload_those_who_wait_are_looked_at_again() {
    let (mut attempts, waiting, now) = thousand_looked_at();
    attempts.reload(attempts.bounds);
    attempts.leave(1, waiting[0].0);
    let is_right = |ticket: AttemptTicket| ticket.is_multiple_of(2);
    let mut released = Vec::new();
    for _ in 0..=1000 / AGAIN_AT_ONCE {
        let looks = Cell::new(0);
        let is_served = |ticket| {
            looks.set(looks.get() + 1);
            is_right(ticket)
        };
        released.extend(attempts.release(is_served, now));
        assert!(looks.get() <= AGAIN_AT_ONCE);
        let turn = attempts.begin(1, another(), || true, false, now);
        assert_eq!(
            turn,
            AttemptTurn::Now,
            "that takes no looks from those who come"
        );
    }
    let tickets = waiting[1..].iter().map(|(ticket, _)| *ticket);
    let expected: Vec<(AttemptSource, AttemptTicket)> = tickets
        .filter(|one| is_right(*one))
        .map(|one| (1, one))
        .collect();
    assert_eq!(released, expected);
}

#[test]
fn who_found_no_look_left_is_looked_at_in_the_next_second() {
    let mut attempts = LoginAttempts::new(AttemptBounds {
        max_waiting: 10_000,
        ..BOUNDS
    });
    let now = fail(&mut attempts, 1, 14, 0);
    let now = (now / 1_000_000 + 1) * 1_000_000;
    many_wait(&mut attempts, LOOKS_A_SECOND + 1, now);
    let mut waiting = Vec::new();
    for _ in 0..50 {
        match attempts.begin(1, another(), || true, false, now) {
            AttemptTurn::Wait(ticket, _) => waiting.push(ticket),
            turn => panic!("{turn:?}"),
        }
    }
    let unseen = |ticket: AttemptTicket| waiting.contains(&ticket);
    assert!(attempts.release(unseen, now).is_empty());
    let released = attempts.release(unseen, now + 1_000_000);
    let released = released.iter().map(|(_, ticket)| *ticket);
    let released: Vec<AttemptTicket> = released.filter(|ticket| waiting.contains(ticket)).collect();
    assert_eq!(released, waiting);
}

#[test]
fn nothing_is_left_of_those_who_have_come_and_gone() {
    let (mut attempts, waiting, now) = thousand_looked_at();
    for (ticket, _) in waiting {
        attempts.leave(1, ticket);
    }
    assert!(attempts.waiting.is_empty() && attempts.due.is_empty());
    assert_eq!((attempts.len(), attempts.idle.len()), (1, 1));
    let forgotten = now + 20 * 2 * 3_600_000_000;
    assert!(release(&mut attempts, forgotten).is_empty());
    assert_eq!((attempts.len(), attempts.idle.len()), (0, 0));
}

#[test]
fn of_an_address_that_has_not_failed_a_few_at_a_time_are_looked_at() {
    let mut attempts = attempts();
    for _ in 0..BOUNDS.max_in_flight {
        assert_eq!(begin(&mut attempts, 1, 0), AttemptTurn::Now);
    }
    let AttemptTurn::Wait(ticket, false) = begin(&mut attempts, 1, 0) else {
        panic!("it waits");
    };
    assert!(release(&mut attempts, 0).is_empty());
    attempts.ended(1, AttemptOutcome::Taken, 0);
    assert_eq!(release(&mut attempts, 0), [(1, ticket)]);
}

#[test]
fn time_forgives_and_whoever_leaves_is_not_waited_for() {
    let mut attempts = attempts();
    let now = fail(&mut attempts, 1, 10, 0);
    let AttemptTurn::Wait(ticket, _) = begin(&mut attempts, 1, now) else {
        panic!("it waits");
    };
    attempts.leave(1, ticket);
    assert!(release(&mut attempts, now + 5_000_000).is_empty());
    let later = now + 60_000_000;
    assert!(release(&mut attempts, later).is_empty());
    assert_eq!(attempts.len(), 0, "nothing is known of it any more");
    for _ in 0..BOUNDS.max_in_flight {
        assert_eq!(begin(&mut attempts, 1, later), AttemptTurn::Now);
    }
}

#[test]
fn addresses_without_end_are_not_remembered_without_end() {
    let mut attempts = attempts();
    let now = fail(&mut attempts, 0, 8, 0);
    for source in 1..100 {
        fail(&mut attempts, source, 1, now);
        assert!(attempts.len() <= BOUNDS.max_addresses);
    }
    // Who has failed most is not among those that had to go.
    assert!(matches!(
        begin(&mut attempts, 0, now),
        AttemptTurn::Wait(..)
    ));
}

#[test]
fn nobody_is_held_back_where_that_is_off() {
    let off = AttemptBounds {
        max_delay: Duration::ZERO,
        ..BOUNDS
    };
    let mut attempts = LoginAttempts::new(off);
    for _ in 0..100 {
        assert_eq!(begin(&mut attempts, 1, 0), AttemptTurn::Now);
        attempts.ended(1, AttemptOutcome::Wrong, 0);
    }
    assert_eq!(fail(&mut attempts, 1, 100, 0), 0);
}
