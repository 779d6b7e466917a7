//! The machine against a model: a server that answers in order whenever it likes, and clients that come and go.

use super::model::{Step, World, words};
use super::*;
use proptest::prelude::*;

fn topic() -> impl Strategy<Value = String> {
    "[abcd]"
}

fn step() -> impl Strategy<Value = Step> {
    let topics = || prop::collection::vec(topic(), 1..4);
    prop_oneof![
        6 => (0..4u64, 0..3usize, topics()).prop_map(|(c, k, t)| Step::Subscribe(c, k, t)),
        3 => (0..4u64, 0..3usize, topics()).prop_map(|(c, k, t)| Step::Unsubscribe(c, k, Some(t))),
        1 => (0..4u64, 0..3usize).prop_map(|(c, k)| Step::Unsubscribe(c, k, None)),
        1 => (0..4u64).prop_map(Step::Leave),
        4 => Just(Step::Send),
        6 => (1..4usize).prop_map(Step::Hear),
        1 => Just(Step::Lose),
        1 => prop::option::of(topic()).prop_map(Step::Forbid),
        1 => any::<bool>().prop_map(Step::Busy),
        2 => Just(Step::AskAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn subscribers_are_who_was_told_so(steps in prop::collection::vec(step(), 1..60)) {
        model::run(steps);
    }

    /// Runs what `cargo fuzz` runs, with bytes at random.
    #[test]
    fn subscribers_are_who_was_told_so_whatever_decides(data in prop::collection::vec(any::<u8>(), 0..200)) {
        model::check(&data);
    }
}

fn one(name: &str) -> impl Iterator<Item = &[u8]> {
    std::iter::once(name.as_bytes())
}

#[test]
fn a_subscription_made_after_a_loss_waits_for_the_server() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.settle();
    world.fanout.lost();
    assert_eq!(
        world.fanout.subscribe(2, &2, Kind::Channel, one("a")),
        Begun::Asked
    );
}

#[test]
fn a_name_is_no_longer_than_its_client_may_hold() {
    let mut fanout = Fanout::new(10, 5);
    fanout.connected();
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Channel, one("abcdef")),
        Begun::TooMany
    );
    fanout.subscribe(1, &1, Kind::Channel, one("abc"));
    fanout.confirmed(Kind::Channel, true, Some(b"abc")).unwrap();
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Channel, one("def")),
        Begun::TooMany
    );
}

#[test]
fn whatever_the_server_answers_to_a_ping_it_is_there() {
    let mut fanout: Fanout<u64> = Fanout::new(2, 100);
    fanout.connected();
    fanout.ping();
    fanout.refused(b"-BUSY\r\n").unwrap();
    fanout.ping();
    fanout.ponged().unwrap();
    assert!(fanout.ponged().is_err());
}

#[test]
fn a_login_stands_alone() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.send();
    world.subscribe(2, Kind::Channel, &["b".into()]);
    world.fanout.login(b"AUTH\r\n");
    world.subscribe(3, Kind::Channel, &["c".into()]);
    world.fanout.login(b"AUTH\r\n");
    // What was asked before it goes, and is answered.
    world.send();
    assert!(world.fanout.take_requests().is_empty());
    world.hear();
    assert!(world.fanout.take_requests().is_empty());
    world.hear();
    assert_eq!(world.fanout.take_requests(), b"AUTH\r\n");
    world.subscribe(4, Kind::Channel, &["d".into()]);
    assert!(world.fanout.take_requests().is_empty());
    world.fanout.refused(b"-WRONGPASS\r\n").unwrap();
    assert_eq!(world.fanout.take_login().unwrap(), b"-WRONGPASS\r\n");
    assert_eq!(world.fanout.take_login(), None);
    let asked = words(&world.fanout.take_requests());
    assert_eq!(asked, [["subscribe", "c"], ["subscribe", "d"]]);
    // What was lost with a connection is not said on the next one.
    world.fanout.login(b"AUTH\r\n");
    world.lose();
    let asked = world.fanout.take_requests();
    assert!(!asked.is_empty() && !asked.starts_with(b"AUTH"));
    world.fanout.login(b"AUTH\r\n");
    assert!(world.fanout.take_requests().is_empty());
}

#[test]
fn a_second_subscriber_costs_the_server_nothing() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.settle();
    world.subscribe(2, Kind::Channel, &["a".into()]);
    assert!(world.fanout.take_requests().is_empty());
    assert_eq!(world.fanout.subscribers(Kind::Channel, b"a").count(), 2);
    world.leave(1);
    assert!(world.fanout.take_requests().is_empty());
    world.leave(2);
    assert_eq!(words(&world.fanout.take_requests()), [["unsubscribe", "a"]]);
}

#[test]
fn everything_is_asked_for_again_after_a_loss() {
    let mut world = World::new();
    world.subscribe(1, Kind::Channel, &["a".into()]);
    world.settle();
    world.subscribe(2, Kind::Pattern, &["b*".into(), "c*".into()]);
    world.lose();
    let mut asked = words(&world.fanout.take_requests());
    asked.iter_mut().for_each(|request| request[1..].sort());
    assert_eq!(
        asked,
        [vec!["subscribe", "a"], vec!["psubscribe", "b*", "c*"]]
    );
}

#[test]
fn many_topics_are_asked_for_again_a_part_at_a_time() {
    let mut world = World::new();
    let names: Vec<String> = (0..2500).map(|number| format!("{number}")).collect();
    for some in names.chunks(500) {
        world.many(1, some);
    }
    world.fanout.lost();
    world.forget_server();
    // Who subscribes meanwhile is told when all its topics are there, whichever parts they are in.
    for client in 2..30 {
        let own = [names[client as usize * 80].clone(), format!("own{client}")];
        world.many(client, &own);
    }
    world.fanout.connected();
    let asked = words(&world.fanout.take_requests());
    assert_eq!(asked.len(), 2, "two requests at once");
    assert!(asked.iter().all(|request| request.len() <= 1001));
    world.lose();
    world.settle();
    assert_eq!(world.told[&1].len(), 2500);
}

#[test]
fn a_client_with_many_topics_leaves_them_a_part_at_a_time() {
    let mut world = World::new();
    let names: Vec<String> = (0..250).map(|number| format!("{number}")).collect();
    world.many(1, &names);
    world.fanout.abandon(1);
    for left in [150, 50] {
        assert!(world.fanout.leave_some(1, 100));
        assert_eq!(world.fanout.counts(1).total(), left);
    }
    assert!(!world.fanout.leave_some(1, 100));
    let asked = words(&world.fanout.take_requests());
    let lengths: Vec<usize> = asked.iter().map(Vec::len).collect();
    assert_eq!(lengths, [101, 101, 51]);
    assert!(world.fanout.is_empty());
}

#[test]
fn what_is_refused_after_a_loss_is_subscribed_to_no_more() {
    let mut fanout = Fanout::new(10, 100);
    fanout.connected();
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Channel, one("a")),
        Begun::Asked
    );
    fanout.confirmed(Kind::Channel, true, Some(b"a")).unwrap();
    assert_eq!(fanout.counts(1).channels, 1);
    fanout.lost();
    fanout.connected();
    fanout.refused(b"-NOPERM\r\n").unwrap();
    assert_eq!(fanout.counts(1).total(), 0);
    assert_eq!(fanout.take_bereft(), [1]);
    assert!(fanout.is_empty());
}

#[test]
fn a_refusal_hits_only_the_client_that_named_what_is_forbidden() {
    let mut world = World::new();
    world.server.forbidden = Some("b".into());
    world.subscribe(1, Kind::Channel, &["a".into(), "b".into()]);
    world.subscribe(2, Kind::Channel, &["a".into()]);
    world.send();
    world.hear();
    assert_eq!(world.waits, HashSet::from([2]));
    world.settle();
    assert_eq!(world.told[&2].len(), 1);
}

/// Has the server answer all that it is asked by an error, until it is asked no more.
fn refuse_all(fanout: &mut Fanout<u64>, error: &[u8]) -> Vec<(u64, bool)> {
    let mut failed = Vec::new();
    while !words(&fanout.take_requests()).is_empty() {
        while fanout.refused(error).is_ok() {}
        let settled = fanout.settled().into_iter().map(|settled| {
            let is_told = settled.result == Err(error.to_vec());
            (settled.subscriber, is_told)
        });
        failed.extend(settled);
    }
    failed.sort_unstable();
    failed
}

#[test]
fn who_waits_for_the_connection_gets_what_the_server_says_whatever_it_is() {
    for error in [
        &b"-ERR unknown command 'subscribe'\r\n"[..],
        b"-BUSY\r\n",
        b"-LOADING\r\n",
    ] {
        for kind in PUBSUB_KINDS {
            let mut fanout: Fanout<u64> = Fanout::new(10, 100);
            let two = || ["a", "b"].into_iter().map(str::as_bytes);
            assert_eq!(fanout.subscribe(1, &1, kind, one("a")), Begun::Asked);
            assert_eq!(fanout.subscribe(2, &2, kind, two()), Begun::Asked);
            assert_eq!(fanout.subscribe(3, &3, kind, one("c")), Begun::Asked);
            fanout.connected();
            let failed = refuse_all(&mut fanout, error);
            assert_eq!(failed, [(1, true), (2, true), (3, true)]);
            assert!(fanout.is_empty() && !fanout.is_awaited());
            fanout.ask_again();
            assert!(fanout.take_requests().is_empty());
        }
    }
}

#[test]
fn what_somebody_is_subscribed_to_is_asked_for_again_and_who_comes_meanwhile_is_told() {
    let mut fanout: Fanout<u64> = Fanout::new(10, 100);
    fanout.connected();
    fanout.subscribe(1, &1, Kind::Channel, one("a"));
    fanout.confirmed(Kind::Channel, true, Some(b"a")).unwrap();
    fanout.settled();
    fanout.lost();
    let both = || ["b", "a"].into_iter().map(str::as_bytes);
    assert_eq!(
        fanout.subscribe(2, &2, Kind::Channel, one("a")),
        Begun::Asked
    );
    assert_eq!(fanout.subscribe(3, &3, Kind::Channel, both()), Begun::Asked);
    fanout.connected();
    let failed = refuse_all(&mut fanout, b"-BUSY\r\n");
    assert_eq!(failed, [(2, true), (3, true)]);
    assert!(fanout.take_bereft().is_empty() && !fanout.is_awaited());
    assert_eq!((fanout.counts(1).channels, fanout.topics()), (1, 1));
    // Put off, it is asked for again, and so is who comes before that.
    assert_eq!(
        fanout.subscribe(4, &4, Kind::Channel, one("a")),
        Begun::Asked
    );
    fanout.ask_again();
    assert_eq!(words(&fanout.take_requests()), [["subscribe", "a"]]);
    fanout.confirmed(Kind::Channel, true, Some(b"a")).unwrap();
    assert_eq!(fanout.settled().len(), 1);
    assert_eq!(fanout.subscribers(Kind::Channel, b"a").count(), 2);
}

#[test]
fn a_subscriber_that_was_moved_to_what_is_refused_for_now_keeps_it() {
    let (mut here, mut there): (Fanout<u64>, Fanout<u64>) =
        (Fanout::new(10, 100), Fanout::new(10, 100));
    here.connected();
    there.connected();
    here.subscribe(1, &1, Kind::Channel, one("a"));
    here.confirmed(Kind::Channel, true, Some(b"a")).unwrap();
    // Another has asked for it already.
    there.subscribe(2, &2, Kind::Channel, one("a"));
    there.adopt(1, here.take(1).expect("it is there"));
    there.refused(b"-BUSY\r\n").unwrap();
    let told: Vec<u64> = there.settled().iter().map(|one| one.subscriber).collect();
    assert_eq!((told, there.counts(1).channels), (vec![2], 1));
    assert!(there.take_bereft().is_empty());
}

#[test]
fn a_client_has_no_more_subscriptions_than_it_may() {
    let mut fanout = Fanout::new(2, 100);
    fanout.connected();
    let three = ["a", "b", "c"];
    let all = three.iter().map(|name| name.as_bytes());
    assert_eq!(fanout.subscribe(1, &1, Kind::Channel, all), Begun::TooMany);
    assert!(fanout.is_empty() && fanout.take_requests().is_empty());
    assert_eq!(
        fanout.subscribe(1, &1, Kind::Pattern, one("a")),
        Begun::Asked
    );
}

#[test]
fn a_confirmation_nobody_asked_for_ends_the_connection() {
    let mut fanout: Fanout<u64> = Fanout::new(2, 100);
    fanout.connected();
    assert!(fanout.confirmed(Kind::Channel, true, Some(b"a")).is_err());
    assert!(fanout.refused(b"-ERR\r\n").is_err());
}

#[test]
fn unsubscribing_from_nothing_is_confirmed_once() {
    let mut fanout: Fanout<u64> = Fanout::new(2, 100);
    let nothing = None::<std::iter::Empty<&[u8]>>;
    assert_eq!(
        fanout.unsubscribe(1, &1, Kind::Channel, nothing),
        Begun::Confirmed(vec![Confirmation {
            topic: None,
            count: 0
        }])
    );
}
