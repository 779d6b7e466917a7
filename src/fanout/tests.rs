//! The machine against a model: a server that answers in order whenever it likes, and clients that come and go.

use super::model::{SubscriptionStep, SubscriptionWorld, words};
use super::*;
use proptest::prelude::*;

fn topic() -> impl Strategy<Value = String> {
    "[abcd]"
}

fn step() -> impl Strategy<Value = SubscriptionStep> {
    let topics = || prop::collection::vec(topic(), 1..4);
    prop_oneof![
        6 => (0..4u64, 0..3usize, topics()).prop_map(|(c, k, t)| SubscriptionStep::Subscribe(c, k, t)),
        3 => (0..4u64, 0..3usize, topics()).prop_map(|(c, k, t)| SubscriptionStep::Unsubscribe(c, k, Some(t))),
        1 => (0..4u64, 0..3usize).prop_map(|(c, k)| SubscriptionStep::Unsubscribe(c, k, None)),
        1 => (0..4u64).prop_map(SubscriptionStep::Leave),
        4 => Just(SubscriptionStep::Send),
        6 => (1..4usize).prop_map(SubscriptionStep::Hear),
        1 => Just(SubscriptionStep::Lose),
        1 => prop::option::of(topic()).prop_map(SubscriptionStep::Forbid),
        1 => any::<bool>().prop_map(SubscriptionStep::Busy),
        2 => Just(SubscriptionStep::AskAgain),
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
    let mut world = SubscriptionWorld::new();
    world.subscribe(1, TopicKind::Channel, &["a".into()]);
    world.settle();
    world.fanout.lost();
    assert_eq!(
        world.fanout.subscribe(2, &2, TopicKind::Channel, one("a")),
        SubscriptionStart::Asked
    );
}

#[test]
fn a_name_is_no_longer_than_its_client_may_hold() {
    let mut fanout = TopicFanout::new(10, 5);
    fanout.connected();
    assert_eq!(
        fanout.subscribe(1, &1, TopicKind::Channel, one("abcdef")),
        SubscriptionStart::TooMany
    );
    fanout.subscribe(1, &1, TopicKind::Channel, one("abc"));
    fanout
        .confirmed(TopicKind::Channel, true, Some(b"abc"))
        .unwrap();
    assert_eq!(
        fanout.subscribe(1, &1, TopicKind::Channel, one("def")),
        SubscriptionStart::TooMany
    );
}

#[test]
fn whatever_the_server_answers_to_a_ping_it_is_there() {
    let mut fanout: TopicFanout<u64> = TopicFanout::new(2, 100);
    fanout.connected();
    fanout.ping();
    fanout.refused(b"-BUSY\r\n").unwrap();
    fanout.ping();
    fanout.ponged().unwrap();
    assert!(fanout.ponged().is_err());
}

#[test]
fn a_login_stands_alone() {
    let mut world = SubscriptionWorld::new();
    world.subscribe(1, TopicKind::Channel, &["a".into()]);
    world.send();
    world.subscribe(2, TopicKind::Channel, &["b".into()]);
    world.fanout.login(b"AUTH\r\n");
    world.subscribe(3, TopicKind::Channel, &["c".into()]);
    world.fanout.login(b"AUTH\r\n");
    // What was asked before it goes, and is answered.
    world.send();
    assert!(world.fanout.take_requests().is_empty());
    world.hear();
    assert!(world.fanout.take_requests().is_empty());
    world.hear();
    assert_eq!(world.fanout.take_requests(), b"AUTH\r\n");
    world.subscribe(4, TopicKind::Channel, &["d".into()]);
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
    let mut world = SubscriptionWorld::new();
    world.subscribe(1, TopicKind::Channel, &["a".into()]);
    world.settle();
    world.subscribe(2, TopicKind::Channel, &["a".into()]);
    assert!(world.fanout.take_requests().is_empty());
    assert_eq!(
        world.fanout.subscribers(TopicKind::Channel, b"a").count(),
        2
    );
    world.leave(1);
    assert!(world.fanout.take_requests().is_empty());
    world.leave(2);
    assert_eq!(words(&world.fanout.take_requests()), [["unsubscribe", "a"]]);
}

#[test]
fn everything_is_asked_for_again_after_a_loss() {
    let mut world = SubscriptionWorld::new();
    world.subscribe(1, TopicKind::Channel, &["a".into()]);
    world.settle();
    world.subscribe(2, TopicKind::Pattern, &["b*".into(), "c*".into()]);
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
    let mut world = SubscriptionWorld::new();
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
    let mut world = SubscriptionWorld::new();
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
    let mut fanout = TopicFanout::new(10, 100);
    fanout.connected();
    assert_eq!(
        fanout.subscribe(1, &1, TopicKind::Channel, one("a")),
        SubscriptionStart::Asked
    );
    fanout
        .confirmed(TopicKind::Channel, true, Some(b"a"))
        .unwrap();
    assert_eq!(fanout.counts(1).channels, 1);
    fanout.lost();
    fanout.connected();
    fanout.refused(b"-NOPERM\r\n").unwrap();
    assert_eq!(fanout.counts(1).total(), 0);
    assert_eq!(fanout.take_unrenewed(), [1]);
    assert!(fanout.is_empty());
}

#[test]
fn a_refusal_hits_only_the_client_that_named_what_is_forbidden() {
    let mut world = SubscriptionWorld::new();
    world.server.forbidden = Some("b".into());
    world.subscribe(1, TopicKind::Channel, &["a".into(), "b".into()]);
    world.subscribe(2, TopicKind::Channel, &["a".into()]);
    world.send();
    world.hear();
    assert_eq!(world.waits, HashSet::from([2]));
    world.settle();
    assert_eq!(world.told[&2].len(), 1);
}

/// Has the server answer all that it is asked by an error, until it is asked no more.
fn refuse_all(fanout: &mut TopicFanout<u64>, error: &[u8]) -> Vec<(u64, bool)> {
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
            let mut fanout: TopicFanout<u64> = TopicFanout::new(10, 100);
            let two = || ["a", "b"].into_iter().map(str::as_bytes);
            assert_eq!(
                fanout.subscribe(1, &1, kind, one("a")),
                SubscriptionStart::Asked
            );
            assert_eq!(
                fanout.subscribe(2, &2, kind, two()),
                SubscriptionStart::Asked
            );
            assert_eq!(
                fanout.subscribe(3, &3, kind, one("c")),
                SubscriptionStart::Asked
            );
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
    let mut fanout: TopicFanout<u64> = TopicFanout::new(10, 100);
    fanout.connected();
    fanout.subscribe(1, &1, TopicKind::Channel, one("a"));
    fanout
        .confirmed(TopicKind::Channel, true, Some(b"a"))
        .unwrap();
    fanout.settled();
    fanout.lost();
    let both = || ["b", "a"].into_iter().map(str::as_bytes);
    assert_eq!(
        fanout.subscribe(2, &2, TopicKind::Channel, one("a")),
        SubscriptionStart::Asked
    );
    assert_eq!(
        fanout.subscribe(3, &3, TopicKind::Channel, both()),
        SubscriptionStart::Asked
    );
    fanout.connected();
    let failed = refuse_all(&mut fanout, b"-BUSY\r\n");
    assert_eq!(failed, [(2, true), (3, true)]);
    assert!(fanout.take_unrenewed().is_empty() && !fanout.is_awaited());
    assert_eq!((fanout.counts(1).channels, fanout.topics()), (1, 1));
    // Put off, it is asked for again, and so is who comes before that.
    assert_eq!(
        fanout.subscribe(4, &4, TopicKind::Channel, one("a")),
        SubscriptionStart::Asked
    );
    fanout.ask_again();
    assert_eq!(words(&fanout.take_requests()), [["subscribe", "a"]]);
    fanout
        .confirmed(TopicKind::Channel, true, Some(b"a"))
        .unwrap();
    assert_eq!(fanout.settled().len(), 1);
    assert_eq!(fanout.subscribers(TopicKind::Channel, b"a").count(), 2);
}

#[test]
fn a_subscriber_that_was_moved_to_what_is_refused_for_now_keeps_it() {
    let (mut here, mut there): (TopicFanout<u64>, TopicFanout<u64>) =
        (TopicFanout::new(10, 100), TopicFanout::new(10, 100));
    here.connected();
    there.connected();
    here.subscribe(1, &1, TopicKind::Channel, one("a"));
    here.confirmed(TopicKind::Channel, true, Some(b"a"))
        .unwrap();
    // Another has asked for it already.
    there.subscribe(2, &2, TopicKind::Channel, one("a"));
    there.adopt(1, here.take(1).expect("it is there"));
    there.refused(b"-BUSY\r\n").unwrap();
    let told: Vec<u64> = there.settled().iter().map(|one| one.subscriber).collect();
    assert_eq!((told, there.counts(1).channels), (vec![2], 1));
    assert!(there.take_unrenewed().is_empty());
}

#[test]
fn a_client_has_no_more_subscriptions_than_it_may() {
    let mut fanout = TopicFanout::new(2, 100);
    fanout.connected();
    let three = ["a", "b", "c"];
    let all = three.iter().map(|name| name.as_bytes());
    assert_eq!(
        fanout.subscribe(1, &1, TopicKind::Channel, all),
        SubscriptionStart::TooMany
    );
    assert!(fanout.is_empty() && fanout.take_requests().is_empty());
    assert_eq!(
        fanout.subscribe(1, &1, TopicKind::Pattern, one("a")),
        SubscriptionStart::Asked
    );
}

#[test]
fn a_confirmation_nobody_asked_for_ends_the_connection() {
    let mut fanout: TopicFanout<u64> = TopicFanout::new(2, 100);
    fanout.connected();
    assert!(
        fanout
            .confirmed(TopicKind::Channel, true, Some(b"a"))
            .is_err()
    );
    assert!(fanout.refused(b"-ERR\r\n").is_err());
}

#[test]
fn unsubscribing_from_nothing_is_confirmed_once() {
    let mut fanout: TopicFanout<u64> = TopicFanout::new(2, 100);
    let nothing = None::<std::iter::Empty<&[u8]>>;
    assert_eq!(
        fanout.unsubscribe(1, &1, TopicKind::Channel, nothing),
        SubscriptionStart::Confirmed(vec![TopicConfirmation {
            topic: None,
            count: 0
        }])
    );
}

#[test]
fn tables_shrink_when_most_of_what_they_held_is_gone() {
    const MANY: usize = 10_000;
    let names: Vec<String> = (0..MANY).map(|number| number.to_string()).collect();
    let mut fanout = TopicFanout::new(MANY, 1 << 20);
    fanout.connected();
    let all = || names.iter().map(|name| name.as_bytes());
    // One client leaves; another stays with a few.
    for client in [1, 2] {
        fanout.subscribe(client, &client, TopicKind::Channel, all());
    }
    for name in all() {
        fanout
            .confirmed(TopicKind::Channel, true, Some(name))
            .unwrap();
    }
    fanout.take_requests();
    fanout.leave(1);
    for name in all().skip(10) {
        let one = Some(std::iter::once(name));
        fanout.unsubscribe(2, &2, TopicKind::Channel, one);
    }
    for name in all().skip(10) {
        fanout
            .confirmed(TopicKind::Channel, false, Some(name))
            .unwrap();
    }
    while fanout.has_changed() {
        fanout.take_changed(1000);
    }
    assert_eq!((fanout.topics(), fanout.counts(2).channels), (10, 10));
    assert!(fanout.topics[0].capacity() < 1000);
    assert!(fanout.subscribers[&2].sets[0].capacity() < 1000);
    assert!(fanout.asked.capacity() < 1000);
    assert!(fanout.changed.capacity() < 1000);
    // Many clients of one channel leave it.
    for client in 10..MANY as u64 {
        fanout.subscribe(client, &client, TopicKind::Channel, one("0"));
    }
    for client in 10..MANY as u64 {
        fanout.leave(client);
    }
    let topic = &fanout.topics[0][b"0".as_slice()];
    assert!(topic.subscribers.capacity() < 1000 && fanout.subscribers.capacity() < 1000);
}

#[test]
fn what_is_asked_and_nobody_wants_is_counted_until_it_is_answered() {
    let mut fanout = TopicFanout::new(100, 1 << 20);
    fanout.connected();
    for (client, name) in [(1, "a"), (2, "b")] {
        fanout.subscribe(client, &client, TopicKind::Channel, one(name));
    }
    assert_eq!(fanout.unwanted_bytes(), 0, "both are there");
    fanout.leave(1);
    let asked = fanout.unwanted_bytes();
    assert!(asked >= TOPIC_BYTES);
    fanout
        .confirmed(TopicKind::Channel, true, Some(b"a"))
        .unwrap();
    // It is given up.
    let given_up = fanout.unwanted_bytes();
    assert!((1..asked).contains(&given_up));
    fanout
        .confirmed(TopicKind::Channel, true, Some(b"b"))
        .unwrap();
    assert!(fanout.is_confirmed(TopicKind::Channel, b"b"));
    // Who unsubscribes waits for that, and then not any more.
    fanout.unsubscribe(2, &2, TopicKind::Channel, Some(one("b")));
    assert_eq!(fanout.unwanted_bytes(), given_up);
    fanout.leave(2);
    assert!(fanout.unwanted_bytes() > given_up && fanout.may_ask());
    for name in [b"a", b"b"] {
        fanout
            .confirmed(TopicKind::Channel, false, Some(name))
            .unwrap();
    }
    assert_eq!(fanout.unwanted_bytes(), 0);
    // A lost connection owes nothing.
    fanout.subscribe(3, &3, TopicKind::Channel, one("c"));
    fanout.leave(3);
    fanout.lost();
    assert_eq!(fanout.unwanted_bytes(), 0);
}
