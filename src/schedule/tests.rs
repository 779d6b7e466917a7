//! The schedule against a server that answers changes when told to.

use super::*;
use proptest::prelude::*;

/// Makes so many replies that are owed, and nothing that works.
fn owes(replies: usize) -> Option<OwedReplies> {
    Some(OwedReplies {
        may_work: false,
        replies,
    })
}

/// A server that answers changes when told to, and clients that each want one request served in their state.
struct ScheduleWorld {
    schedule: StateSchedule<u8, (usize, u8)>,
    /// The server has acknowledged this on each link, and was asked for that.
    served_state: Vec<Option<u8>>,
    asked: Vec<Option<u8>>,
    in_flight: Vec<usize>,
    served: Vec<usize>,
    may_dial: bool,
}

impl ScheduleWorld {
    fn new(links: usize) -> Self {
        Self {
            schedule: StateSchedule::new(links),
            served_state: vec![None; links],
            asked: vec![None; links],
            in_flight: vec![0; links],
            served: Vec::new(),
            may_dial: true,
        }
    }

    fn act(&mut self) {
        let in_flight = self.in_flight.clone();
        let may_dial = self.may_dial;
        while let Some(action) = self
            .schedule
            .next(0, |link| owes(in_flight[link]), || may_dial)
        {
            match action {
                ScheduleAction::Dial { link, state } => {
                    assert!(!self.schedule.is_surplus(link));
                    assert!(self.served_state[link].is_none() && self.asked[link].is_none());
                    self.asked[link] = Some(state);
                }
                ScheduleAction::ChangeState { link, state, .. } => {
                    assert!(self.served_state[link].is_some() && self.asked[link].is_none());
                    self.asked[link] = Some(state);
                }
            }
        }
    }

    /// Says that there are to be so many links; those past it are closed when nothing is due on them.
    fn resize(&mut self, links: usize) {
        self.schedule.resize(links);
        self.act();
    }

    fn settle(&mut self, link: usize) {
        self.in_flight[link] = 0;
        if self.schedule.is_surplus(link)
            && self.asked[link].is_none()
            && self.served_state[link].is_some()
        {
            self.schedule.closing(link);
            self.schedule.lost(link);
            self.served_state[link] = None;
        }
        self.act();
    }

    fn request(&mut self, client: usize, state: u8) {
        match self
            .schedule
            .pick(&state, 0, |link| self.in_flight[link] as u64)
        {
            Some((link, _)) => self.serve(link, client, state),
            None => {
                self.schedule.wait(&state, (client, state));
            }
        }
        self.act();
    }

    fn serve(&mut self, link: usize, client: usize, state: u8) {
        assert_eq!(
            self.served_state[link],
            Some(state),
            "served in a state of its own"
        );
        assert!(!self.schedule.is_surplus(link));
        assert_eq!(
            self.asked[link], None,
            "nothing is sent behind an unanswered change"
        );
        self.schedule.served(link, 1, 0, 0);
        self.in_flight[link] += 1;
        self.served.push(client);
    }

    fn acknowledge(&mut self, link: usize) {
        let Some(state) = self.asked[link].take() else {
            return;
        };
        self.served_state[link] = Some(state);
        for (client, wanted) in self.schedule.changed(link, &state) {
            assert_eq!(wanted, state);
            self.serve(link, client, wanted);
            self.schedule.settled(link);
        }
        self.act();
    }
}

proptest! {
    #[test]
    fn everyone_is_served_in_their_own_state(
        links in 1usize..4,
        steps in prop::collection::vec((0u8..6, 0u8..6, 0usize..4), 1..400),
    ) {
        const MOST: usize = 4;
        let mut world = ScheduleWorld::new(MOST);
        world.resize(links);
        let mut clients = 0;
        for (what, state, link) in steps {
            match what {
                0 | 1 => { world.request(clients, state); clients += 1; }
                2 => world.acknowledge(link),
                3 => world.settle(link),
                // The first is always opened by its keeper.
                4 => world.may_dial = state % 2 == 0 || world.served_state[0].is_none(),
                _ => world.resize(1 + usize::from(state) % MOST),
            }
        }
        // With a server that answers, nobody is left waiting, if only one of the connections is up.
        world.may_dial |= (0..MOST).all(|link| {
            world.schedule.is_surplus(link) || (world.served_state[link].is_none() && world.asked[link].is_none())
        });
        for _ in 0..clients * 2 + 2 {
            for link in 0..MOST { world.settle(link); world.acknowledge(link); }
        }
        world.served.sort_unstable();
        prop_assert_eq!(world.served, (0..clients).collect::<Vec<_>>());
        prop_assert_eq!(world.schedule.waiting(), 0);
    }
}

#[test]
fn a_busy_state_gives_way_after_its_quantum() {
    let mut world = ScheduleWorld::new(1);
    world.request(0, 1);
    world.acknowledge(0);
    world.request(1, 2);
    assert_eq!(world.asked[0], None, "in flight and within its quantum");
    let mut sent = 0;
    while world.asked[0].is_none() {
        world.request(100 + sent, 1);
        sent += 1;
        assert!(sent <= QUANTUM as usize + 1);
    }
    assert_eq!(world.asked[0], Some(2));
    world.acknowledge(0);
    assert!(world.served.contains(&1));
}

#[test]
fn slow_requests_of_a_state_give_way_after_their_time() {
    let mut schedule: StateSchedule<u8, &str> = StateSchedule::new(1);
    schedule.wait(&1, "one");
    assert!(schedule.next(0, |_| owes(0), || true).is_some());
    assert_eq!(schedule.changed(0, &1), ["one"]);
    schedule.settled(0);
    assert!(schedule.serves(0, &1, 1_000_000), "it has not begun yet");
    schedule.served(0, 1, 1_000_000, 100);
    schedule.wait(&2, "two");
    let until = 1_000_000 + QUANTUM_MICROS + 300;
    assert!(schedule.serves(0, &1, until - 1));
    assert_eq!(schedule.next(until - 1, |_| owes(3), || true), None);
    assert!(!schedule.serves(0, &1, until));
    assert!(schedule.next(until, |_| owes(3), || true).is_some());
}

#[test]
fn a_refused_state_fails_those_who_wait_for_it_and_nobody_else() {
    let mut schedule: StateSchedule<u8, &str> = StateSchedule::new(1);
    schedule.wait(&1, "one");
    assert_eq!(
        schedule.next(0, |_| owes(0), || true),
        Some(ScheduleAction::Dial { link: 0, state: 1 })
    );
    assert_eq!(schedule.changed(0, &1), ["one"]);
    schedule.settled(0);
    schedule.wait(&99, "bad");
    schedule.wait(&2, "good");
    assert_eq!(
        schedule.next(0, |_| owes(0), || true),
        Some(ScheduleAction::ChangeState {
            link: 0,
            state: 99,
            reauthenticates: false
        })
    );
    assert_eq!(schedule.refused(0, &1), ["bad"]);
    assert!(schedule.serves(0, &1, 0));
    assert_eq!(
        schedule.next(0, |_| owes(0), || true),
        Some(ScheduleAction::ChangeState {
            link: 0,
            state: 2,
            reauthenticates: false
        })
    );
    assert_eq!(schedule.changed(0, &2), ["good"]);
}

#[test]
fn a_forced_change_is_asked_of_a_connection_that_wears_the_state() {
    let mut schedule: StateSchedule<u8, &str> = StateSchedule::new(1);
    schedule.wait(&1, "plain");
    assert!(schedule.next(0, |_| owes(0), || true).is_some());
    assert_eq!(schedule.changed(0, &1), ["plain"]);
    schedule.settled(0);
    schedule.log_in(&1, LoginPlace::Behind(0), "verified");
    assert_eq!(
        schedule.next(0, |_| owes(0), || true),
        Some(ScheduleAction::ChangeState {
            link: 0,
            state: 1,
            reauthenticates: true
        })
    );
    assert!(
        !schedule.serves(0, &1, 0),
        "nothing goes behind a change that is not acknowledged"
    );
    assert_eq!(schedule.changed(0, &1), ["verified"]);
}

#[test]
fn who_goes_elsewhere_is_waited_for_no_more() {
    let mut schedule: StateSchedule<u8, &str> = StateSchedule::new(1);
    for (state, who) in [(1, "stays"), (1, "goes"), (2, "goes")] {
        schedule.wait(&state, who);
    }
    assert_eq!(schedule.take_each(|who| *who == "goes"), ["goes", "goes"]);
    assert_eq!(schedule.waiting(), 1);
    assert!(schedule.next(0, |_| owes(0), || true).is_some());
    assert_eq!(schedule.changed(0, &1), ["stays"]);
}

#[test]
fn who_leaves_is_forgotten() {
    let mut schedule: StateSchedule<u8, ()> = StateSchedule::new(1);
    let ticket = schedule.wait(&1, ());
    assert!(schedule.leave(ticket));
    assert!(!schedule.leave(ticket));
    assert_eq!(
        (schedule.waiting(), schedule.next(0, |_| owes(0), || true)),
        (0, None)
    );
}

/// Returns those who wait for one connection on which all are refused, in the order of their turns: each refusal ends it, and
/// its place comes back a while later.
fn order(schedule: &mut StateSchedule<u8, u8>) -> Vec<u8> {
    let mut order = Vec::new();
    loop {
        assert_eq!(
            schedule.next(0, |_| owes(0), || false),
            None,
            "no place yet"
        );
        let Some(ScheduleAction::Dial { link, .. }) = schedule.next(0, |_| owes(0), || true) else {
            return order;
        };
        assert_eq!(
            schedule.next(0, |_| owes(0), || true),
            None,
            "it is taken care of"
        );
        order.extend(schedule.refused_and_closed(link));
    }
}

#[test]
fn each_address_that_logs_in_has_one_turn_and_who_has_failed_comes_behind() {
    let mut schedule: StateSchedule<u8, u8> = StateSchedule::new(1);
    // Ten attempts of each of three addresses, and one of an address that has failed twice.
    for address in 0..3 {
        for attempt in 0..10 {
            let who = address * 10 + attempt;
            schedule.log_in(&who, LoginPlace::Behind(attempt.into()), who);
        }
    }
    schedule.log_in(&99, LoginPlace::Behind(2), 99);
    schedule.log_in(&100, LoginPlace::Behind(0), 100);
    schedule.log_in(&101, LoginPlace::First, 101);
    let order = order(&mut schedule);
    assert_eq!(order[..11], [101, 0, 10, 20, 100, 1, 11, 21, 2, 12, 22]);
    assert_eq!((order[11], order.len()), (99, 33));
    assert_eq!(schedule.waiting(), 0);
}

#[test]
fn who_comes_first_of_those_who_show_the_same_has_the_turn_for_all() {
    let mut schedule: StateSchedule<u8, u8> = StateSchedule::new(1);
    schedule.log_in(&1, LoginPlace::Behind(5), 1);
    schedule.log_in(&2, LoginPlace::Behind(1), 2);
    let left = schedule.log_in(&3, LoginPlace::Behind(0), 3);
    schedule.log_in(&1, LoginPlace::Behind(0), 4);
    assert!(schedule.leave(left));
    assert_eq!(order(&mut schedule), [1, 4, 2]);
}

#[test]
fn newcomers_without_end_keep_nobody_waiting_for_ever() {
    let mut schedule: StateSchedule<u16, u16> = StateSchedule::new(1);
    schedule.log_in(&0, LoginPlace::Behind(3), 0);
    for newcomer in 1..=3 * TURNS_BEHIND as u16 + 2 {
        schedule.log_in(&newcomer, LoginPlace::Behind(0), newcomer);
        assert!(schedule.next(0, |_| owes(0), || true).is_some());
        if schedule.refused_and_closed(0) == [0] {
            return;
        }
    }
    panic!("it still waits");
}

#[test]
fn those_who_log_in_and_those_who_have_take_turns() {
    let mut schedule: StateSchedule<u8, u8> = StateSchedule::new(1);
    for guess in 10..20 {
        schedule.log_in(&guess, LoginPlace::Behind(0), guess);
    }
    for served in 1..3 {
        schedule.wait(&served, served);
    }
    assert_eq!(order(&mut schedule)[..6], [10, 1, 11, 2, 12, 13]);
}

#[test]
fn who_joins_others_that_show_the_same_leaves_them_where_they_stand() {
    let mut schedule: StateSchedule<u8, u8> = StateSchedule::new(1);
    for who in 1..6 {
        schedule.log_in(&who, LoginPlace::Behind(0), who);
    }
    // Of the same turn, of a later one, and one that brings an earlier.
    schedule.log_in(&2, LoginPlace::Behind(0), 12);
    schedule.log_in(&3, LoginPlace::Behind(7), 13);
    schedule.log_in(&5, LoginPlace::First, 15);
    schedule.log_in(&6, LoginPlace::First, 6);
    schedule.log_in(&5, LoginPlace::First, 25);
    let expected = [5, 15, 25, 6, 1, 2, 12, 3, 13, 4];
    assert_eq!(order(&mut schedule), expected);
}

#[test]
fn commands_have_their_turn_though_each_login_between_is_refused() {
    let mut schedule: StateSchedule<u8, u8> = StateSchedule::new(1);
    schedule.wait(&1, 1);
    let mut before = Vec::new();
    for guess in 10..20 {
        schedule.log_in(&guess, LoginPlace::First, guess);
        let dial = schedule.next(0, |_| owes(0), || true);
        let Some(ScheduleAction::Dial { state: 1, .. }) = dial else {
            before.extend(schedule.refused_and_closed(0));
            continue;
        };
        assert_eq!(schedule.changed(0, &1), [1]);
        assert_eq!(before.len(), 1, "behind one login: {before:?}");
        return;
    }
    panic!("it still waits");
}

#[test]
fn a_change_stands_behind_what_may_work_only_where_nothing_else_is_left() {
    let script = OwedReplies {
        may_work: true,
        replies: 1,
    };
    // Two connections that have served their state for as long as they may while others wait.
    let chosen = |owed: [Option<OwedReplies>; 2]| {
        let mut schedule: StateSchedule<u8, u8> = StateSchedule::new(2);
        for link in 0..2 {
            schedule.open(link, &0);
            schedule.changed(link, &0);
            schedule.served(link, QUANTUM, 0, 0);
        }
        schedule.wait(&1, 0);
        match schedule.next(0, |link| owed[link], || false) {
            Some(ScheduleAction::ChangeState { link, .. }) => Some(link),
            _ => None,
        }
    };
    assert_eq!(chosen([Some(script), owes(100)]), Some(1));
    assert_eq!(chosen([owes(100), Some(script)]), Some(0));
    assert_eq!(chosen([owes(100), owes(99)]), Some(1));
    assert_eq!(chosen([Some(script), None]), Some(0), "no reply comes");
    assert_eq!(chosen([None, None]), None);
}
