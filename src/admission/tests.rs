//! The rules one by one; `model` has random sequences and threads.

mod arriving;
mod fixture;
mod model;
mod reload;

use std::time::Duration;

use super::*;
use crate::identity::{ClientArrival, ClientRegistry};

use fixture::{admission, by_user, glob, group, named, settings, tcp};

#[test]
fn the_first_group_that_matches_in_everything_takes_a_client() {
    let networks = ["10.0.0.0/8", "2001:db8::/32"]
        .map(|net| net.parse().expect("a network"))
        .to_vec();
    let unix = Identity::new(
        PeerAddress::Unix(Arc::from("/run/r.sock")),
        Arc::from("unix:/run/r.sock"),
    );
    let admission = admission(vec![
        ClientGroup {
            matches: GroupMatch {
                address: networks.clone(),
                client_name: glob("test-*"),
                ..GroupMatch::default()
            },
            ..group("both")
        },
        ClientGroup {
            matches: GroupMatch {
                address: networks,
                ..GroupMatch::default()
            },
            ..group("network")
        },
        ClientGroup {
            matches: GroupMatch {
                listener: glob("unix:*"),
                ..GroupMatch::default()
            },
            ..group("socket")
        },
        ClientGroup {
            matches: GroupMatch {
                client_name: glob("bull:*/x"),
                ..GroupMatch::default()
            },
            ..group("bull")
        },
        ClientGroup {
            matches: GroupMatch {
                user: glob("c?"),
                ..GroupMatch::default()
            },
            ..group("ci")
        },
        ClientGroup {
            matches: GroupMatch {
                user: glob("default"),
                ..GroupMatch::default()
            },
            ..group("nobody")
        },
    ]);
    let index = |identity: &Identity| admission.group_of(identity).index();
    let far = tcp("10.1.2.3:5");
    assert_eq!(
        index(&Identity {
            name: Box::from(&b"test-1"[..]),
            ..far.clone()
        }),
        0
    );
    assert_eq!(index(&far), 1);
    assert_eq!(index(&tcp("[2001:db8::1]:5")), 1);
    assert_eq!(
        index(&tcp("[::ffff:10.0.0.1]:5")),
        1,
        "IPv4 by a dual-stack listener"
    );
    assert_eq!(index(&unix), 2);
    assert_eq!(index(&named("bull:cXVldWU=/x")), 3);
    assert_eq!(index(&by_user("ci")), 4);
    assert_eq!(index(&named("test-1")), 5, "no user is the default user");
    assert_eq!(index(&by_user("\u{fffd}else")), 6);
    let no_utf8 = Identity {
        name: Box::from(&b"bull:\xff/x"[..]),
        ..tcp("127.0.0.1:5000")
    };
    assert_eq!(index(&no_utf8), 3, "names are bytes");
}

#[test]
fn a_full_group_refuses_and_a_drop_makes_room() {
    let admission = admission(vec![ClientGroup {
        matches: GroupMatch {
            client_name: glob("b"),
            ..GroupMatch::default()
        },
        max_connections: Some(2),
        ..group("billing")
    }]);
    let now = Instant::now();
    let first = admission.admit(&named("b"), now).expect("room");
    let _second = admission.admit(&named("b"), now).expect("room");
    let refusal = admission.admit(&named("b"), now).expect_err("full");
    assert_eq!(
        (refusal.reason, refusal.count, refusal.cap),
        (RefusalReason::GroupCap, 2, 2)
    );
    assert_eq!(
        refusal.to_string(),
        "group \"billing\" is at its cap: 2 of 2 connections (group.max_connections)"
    );
    assert_eq!(
        refusal.client_text(false),
        b"-ERR max number of clients reached\r\n"
    );
    let explained =
        "-ERR max number of clients reached (group \"billing\": 2 of 2, group.max_connections)\r\n";
    assert_eq!(refusal.client_text(true), explained.as_bytes());
    assert!(!refusal.evict);
    let _other = admission
        .admit(&named("c"), now)
        .expect("another group is unaffected");
    assert_eq!(
        admission.rows()[0].rejected_total[1],
        (RefusalReason::GroupCap, 0),
        "not counted before it is final"
    );
    assert!(admission.rejected(&refusal, now).is_some());
    assert_eq!(
        admission.rows()[0].rejected_total[1],
        (RefusalReason::GroupCap, 1)
    );
    drop(first);
    let _third = admission.admit(&named("b"), now).expect("room again");
    assert_eq!(admission.rows()[0].accepted_total, 3);
    assert_eq!(admission.total(), 3);
}

#[test]
fn all_groups_together_stay_below_max_clients_even_when_observed() {
    let watched = ClientGroup {
        mode: CapMode::Observe,
        max_connections: Some(1),
        ..group("watched")
    };
    let admission = Admission::new(&settings(2, 10, vec![watched]));
    let now = Instant::now();
    let first = admission.admit(&named("a"), now).expect("room");
    assert_eq!(first.observed, None);
    let second = admission
        .admit(&named("a"), now)
        .expect("observed, not refused");
    let line = "group \"watched\" is at its cap: 1 of 1 connections (group.max_connections); admitted, because group.mode is \"observe\"";
    assert_eq!(second.observed.as_deref(), Some(line));
    let refusal = admission
        .admit(&named("a"), now)
        .expect_err("limits.max_clients");
    assert_eq!(refusal.reason, RefusalReason::MaxClients);
    assert_eq!(
        refusal.to_string(),
        "there are as many clients as there may be, 2 of 2 in all groups and arriving (limits.max_clients); refused one of group \"watched\""
    );
    let explained = b"-ERR max number of clients reached (2 of 2, limits.max_clients)\r\n";
    assert_eq!(refusal.client_text(true), explained);
    let row = &admission.rows()[0];
    assert_eq!(
        (row.connections, row.limit, row.observed_total[1].1),
        (2, Some(1), 1)
    );
}

#[test]
fn each_key_has_a_count_of_its_own() {
    let limited = |per| {
        admission(vec![ClientGroup {
            per,
            max_connections: Some(1),
            ..group("g")
        }])
    };
    let now = Instant::now();
    let unix = |path: &str| Identity::new(PeerAddress::Unix(Arc::from(path)), Arc::from("unix:x"));
    let mapped = tcp("[::ffff:127.0.0.1]:1");
    let cases = [
        (
            CapScope::Address { ipv6_prefix: 64 },
            tcp("127.0.0.1:1"),
            mapped,
            tcp("127.0.0.2:1"),
            "address 127.0.0.1",
        ),
        (
            CapScope::Address { ipv6_prefix: 64 },
            unix("/a"),
            unix("/a"),
            unix("/b"),
            "socket /a",
        ),
        (
            CapScope::ClientName,
            named("a"),
            named("a"),
            named(""),
            "client name \"a\"",
        ),
        (
            CapScope::User,
            by_user(""),
            by_user("default"),
            by_user("ci"),
            "user \"default\"",
        ),
    ];
    for (per, first, same, other, shown) in cases {
        let admission = limited(per);
        let _first = admission.admit(&first, now).expect("room");
        let _other = admission.admit(&other, now).expect("another key");
        let refusal = admission.admit(&same, now).expect_err("the same key");
        assert_eq!(refusal.key.as_deref(), Some(shown));
        assert!(
            refusal
                .to_string()
                .starts_with(&format!("group \"g\" is at its cap for {shown}: 1 of 1 ")),
            "{refusal}"
        );
        assert_eq!(admission.fullest_keys(refusal.group, 9).len(), 2);
    }
}

#[test]
fn endless_names_count_by_their_beginning() {
    let admission = admission(vec![ClientGroup {
        per: CapScope::ClientName,
        max_connections: Some(1),
        ..group("g")
    }]);
    let now = Instant::now();
    let _first = admission
        .admit(&named(&"x".repeat(1000)), now)
        .expect("room");
    assert!(admission.admit(&named(&"x".repeat(2000)), now).is_err());
    assert!(admission.admit(&named(&"x".repeat(255)), now).is_ok());
}

#[test]
fn connects_are_bounded_by_a_bucket_as_large_as_the_rate() {
    let admission = admission(vec![ClientGroup {
        max_connects_per_second: Some(3),
        ..group("g")
    }]);
    let start = Instant::now();
    for _ in 0..3 {
        drop(admission.admit(&named("a"), start).expect("a token"));
    }
    let refusal = admission.admit(&named("a"), start).expect_err("no token");
    assert_eq!(
        refusal.to_string(),
        "group \"g\" is at its connect rate: 3 of 3 connections a second (group.max_connects_per_second)"
    );
    let explained = "-ERR max number of clients reached (group \"g\": 3 of 3 a second, group.max_connects_per_second)\r\n";
    assert_eq!(refusal.client_text(true), explained.as_bytes());
    let third = Duration::from_nanos(333_333_333);
    assert!(admission.admit(&named("a"), start + third).is_err());
    assert!(
        admission
            .admit(&named("a"), start + third + Duration::from_nanos(1))
            .is_ok()
    );
    assert!(
        admission.admit(&named("a"), start).is_err(),
        "a clock read earlier gains nothing"
    );
    let later = start + Duration::from_secs(3600);
    let admitted = (0..10)
        .filter(|_| admission.admit(&named("a"), later).is_ok())
        .count();
    assert_eq!(admitted, 3, "a bucket holds no more than its rate");
}

#[test]
fn buckets_of_passers_by_do_not_pile_up() {
    let limited = ClientGroup {
        per: CapScope::ClientName,
        max_connects_per_second: Some(5),
        ..group("g")
    };
    let admission = Admission::new(&settings(50, 1, vec![limited]));
    let start = Instant::now();
    for i in 0..200 {
        drop(
            admission
                .admit(&named(&i.to_string()), start)
                .expect("every name has a bucket"),
        );
    }
    assert_eq!(
        admission.counts().groups[0].table_len(),
        50,
        "at most max_clients names without clients"
    );
    let _one = admission
        .admit(&named("one"), start + Duration::from_secs(2))
        .expect("room");
    assert_eq!(
        admission.counts().groups[0].table_len(),
        1,
        "full buckets are forgotten"
    );
}

#[test]
fn evict_idle_asks_for_room_only_where_room_would_help() {
    let limited = ClientGroup {
        per: CapScope::ClientName,
        max_connections: Some(1),
        max_connects_per_second: Some(2),
        at_limit: AtLimit::EvictIdle,
        ..group("g")
    };
    let admission = Admission::new(&settings(5, 1, vec![limited]));
    let registry = ClientRegistry::new();
    let record = |name: &str, group: u32| {
        let (identity, laddr) = (named(name), tcp("127.0.0.1:1").peer);
        registry.register(ClientArrival {
            identity,
            laddr,
            fd: -1,
            worker: 0,
            group,
            now_ms: 0,
        })
    };
    let now = Instant::now();
    let first = admission.admit(&named("a"), now).expect("room");
    let refusal = admission.admit(&named("a"), now).expect_err("full");
    assert!(refusal.evict);
    assert!(refusal.frees(&record("a", 0)));
    assert!(!refusal.frees(&record("b", 0)), "another key is no room");
    assert!(!refusal.frees(&record("a", 1)), "another group is no room");
    drop(first);
    let _second = admission.admit(&named("a"), now).expect("room was made");
    let refusal = admission
        .admit(&named("a"), now)
        .expect_err("full, and too fast");
    assert!(
        !refusal.evict,
        "nobody is closed for one that its rate refuses"
    );
    let _others: Vec<_> = (0..4)
        .map(|i| admission.admit(&named(&i.to_string()), now).expect("room"))
        .collect();
    let refusal = admission
        .admit(&named("a"), now + Duration::from_secs(9))
        .expect_err("full");
    assert_eq!(
        (refusal.reason, refusal.evict),
        (RefusalReason::MaxClients, false)
    );
}

#[test]
fn a_cap_of_zero_refuses_everyone_and_evicts_nobody() {
    let closed = ClientGroup {
        max_connections: Some(0),
        at_limit: AtLimit::EvictIdle,
        ..group("g")
    };
    let refusal = admission(vec![closed])
        .admit(&named("a"), Instant::now())
        .expect_err("closed");
    assert_eq!((refusal.count, refusal.cap, refusal.evict), (0, 0, false));
}

#[test]
fn a_move_takes_the_place_along_or_loses_it() {
    let admission = admission(vec![
        ClientGroup {
            matches: GroupMatch {
                client_name: glob("a*"),
                ..GroupMatch::default()
            },
            per: CapScope::ClientName,
            max_connections: Some(1),
            ..group("as")
        },
        ClientGroup {
            matches: GroupMatch {
                user: glob("ci"),
                ..GroupMatch::default()
            },
            max_connects_per_second: Some(1),
            ..group("ci")
        },
    ]);
    let now = Instant::now();
    let counts = || {
        admission
            .rows()
            .iter()
            .map(|row| row.connections)
            .collect::<Vec<_>>()
    };
    let mut permit = admission.admit(&named(""), now).expect("room");
    assert_eq!((permit.group().index(), counts()), (2, vec![0, 0, 1]));
    assert_eq!(
        permit.regroup(&named("x"), now),
        Ok(None),
        "the same group, counted as one"
    );
    assert_eq!(permit.regroup(&named("a1"), now), Ok(Some(GroupId(0))));
    assert_eq!(
        permit.regroup(&named("a2"), now),
        Ok(Some(GroupId(0))),
        "another key of the same group"
    );
    assert_eq!(
        (counts(), admission.rows()[0].accepted_total),
        (vec![1, 0, 0], 1)
    );
    let mut second = admission
        .admit(&named("a1"), now)
        .expect("that key was given back");
    let refusal = second.regroup(&named("a2"), now).expect_err("full");
    assert_eq!(refusal.key.as_deref(), Some("client name \"a2\""));
    assert!(!second.has_place());
    assert_eq!(
        (counts(), admission.total()),
        (vec![1, 0, 0], 1),
        "the old place is given back"
    );
    assert_eq!(
        second.regroup(&named("z"), now),
        Ok(None),
        "rejected from then on"
    );
    drop(second);
    assert_eq!(admission.total(), 1, "and not given back twice");
    assert_eq!(permit.regroup(&by_user("ci"), now), Ok(Some(GroupId(1))));
    let mut third = admission.admit(&named(""), now).expect("room");
    let refusal = third
        .regroup(&by_user("ci"), now)
        .expect_err("a move is an arrival");
    assert_eq!(
        (refusal.reason, third.group().index()),
        (RefusalReason::ConnectRate, 1)
    );
    drop((permit, third));
    assert_eq!((counts(), admission.total()), (vec![0, 0, 0], 0));
}

#[test]
fn a_warning_is_given_once_for_each_crossing_and_at_a_bounded_rate() {
    let admission = admission(vec![ClientGroup {
        per: CapScope::User,
        max_connections: Some(4),
        warn_connections: Some(2),
        ..group("g")
    }]);
    let start = Instant::now();
    let warning = |permit: &ClientPermit| permit.warning.clone();
    let first = admission.admit(&by_user("ci"), start).expect("room");
    let mut second = admission.admit(&by_user("ci"), start).expect("room");
    let third = admission.admit(&by_user("ci"), start).expect("room");
    let text = "group \"g\" has reached its warning threshold for user \"ci\": 2 of 4 connections (group.warn_connections)";
    assert_eq!(
        (
            warning(&first),
            second.warning.take().as_deref(),
            warning(&third)
        ),
        (None, Some(text), None)
    );
    drop((second, third));
    let soon = admission
        .admit(&by_user("ci"), start + Duration::from_secs(9))
        .expect("room");
    assert_eq!(warning(&soon), None, "at most one line in ten seconds");
    drop(soon);
    let later = admission
        .admit(&by_user("ci"), start + Duration::from_secs(10))
        .expect("room");
    assert_eq!(
        warning(&later).as_deref(),
        Some(format!("{text} (1 more not logged)").as_str())
    );
}

#[test]
fn rejections_are_counted_each_and_logged_at_a_bounded_rate() {
    let full = |name: &str| ClientGroup {
        max_connections: Some(0),
        matches: GroupMatch {
            client_name: glob(name),
            ..GroupMatch::default()
        },
        ..group(name)
    };
    let admission = admission(vec![full("a"), full("b")]);
    let start = Instant::now();
    let refuse = |name: &str, seconds| {
        let now = start + Duration::from_secs(seconds);
        let refusal = admission.admit(&named(name), now).expect_err("closed");
        admission.rejected(&refusal, now)
    };
    assert_eq!(refuse("a", 0), Some(LogLine { suppressed: 0 }));
    assert_eq!(
        refuse("b", 0),
        Some(LogLine { suppressed: 0 }),
        "a group of its own"
    );
    assert_eq!(refuse("a", 1), None);
    assert_eq!(refuse("a", 9), None);
    assert_eq!(refuse("a", 10), Some(LogLine { suppressed: 2 }));
    assert_eq!(
        admission.rows()[0].rejected_total,
        [
            (RefusalReason::MaxClients, 0),
            (RefusalReason::GroupCap, 4),
            (RefusalReason::ConnectRate, 0)
        ]
    );
    assert_eq!(
        LogLine { suppressed: 2 }.to_string(),
        " (2 more not logged)"
    );
    assert_eq!(
        RefusalReason::ALL.map(RefusalReason::label),
        ["max_clients", "group_cap", "connect_rate"]
    );
}

#[test]
fn rejected_sockets_are_held_up_to_their_bound() {
    let admission = Admission::new(&settings(1, 2, Vec::new()));
    let held: Vec<_> = (0..3).map(|_| admission.hold(Instant::now())).collect();
    assert_eq!(held.iter().filter(|hold| hold.is_some()).count(), 2);
    assert_eq!(
        (admission.held(), admission.total()),
        (2, 0),
        "they count nowhere else"
    );
    drop(held);
    assert_eq!(admission.held(), 0);
    assert!(admission.hold(Instant::now()).is_some());
}

#[test]
fn few_of_those_held_may_shake_hands_at_once() {
    let admission = Admission::new(&settings(1, 17, Vec::new()));
    let now = Instant::now();
    let mut shaking: Vec<_> = (0..9)
        .filter_map(|_| admission.hold_to_shake(now))
        .collect();
    assert_eq!((shaking.len(), admission.held()), (3, 3));
    let plain: Vec<_> = (0..20).filter_map(|_| admission.hold(now)).collect();
    assert_eq!((plain.len(), admission.held()), (14, 17));
    shaking[0].has_shaken();
    shaking[0].has_shaken();
    assert!(
        admission.hold_to_shake(now).is_none(),
        "all places are taken"
    );
    drop(plain);
    shaking.extend(admission.hold_to_shake(now));
    assert!(shaking.len() == 4 && admission.hold_to_shake(now).is_none());
    drop(shaking);
    let again: Vec<_> = (0..9)
        .filter_map(|_| admission.hold_to_shake(now))
        .collect();
    assert_eq!((again.len(), admission.held()), (3, 3));
}

#[test]
fn who_is_held_for_no_time_is_not_held() {
    let mut settings = settings(1, 2, Vec::new());
    let now = Instant::now();
    let until = Admission::new(&settings).hold(now).map(|hold| hold.until());
    assert_eq!(until, Some(now + Duration::from_secs(1)));
    settings.limits.reject_hold = Duration::ZERO;
    let admission = Admission::new(&settings);
    assert!(admission.hold(now).is_none() && admission.hold_to_shake(now).is_none());
    assert_eq!(admission.held(), 0);
}

#[test]
fn a_handshake_touches_no_group() {
    let billing = ClientGroup {
        matches: GroupMatch {
            certificate_name: glob("billing-*"),
            ..GroupMatch::default()
        },
        max_connections: Some(1),
        at_limit: AtLimit::EvictIdle,
        ..group("billing")
    };
    let rest = ClientGroup {
        max_connections: Some(1),
        warn_connections: Some(1),
        max_connects_per_second: Some(1),
        at_limit: AtLimit::EvictIdle,
        ..group("rest")
    };
    let admission = Admission::new(&settings(4, 10, vec![billing, rest]));
    let now = Instant::now();
    let stranger = tcp("127.0.0.1:5000");
    let certified = |name: &str| Identity {
        certificate: Box::from(name),
        ..stranger.clone()
    };
    let web = admission.begin(&stranger).unwrap();
    let web = web.admit(&certified("web"), now).unwrap();
    assert!(web.warning.is_some());
    // The rest is full, and its rate is spent.
    let mut shaking: Vec<_> = (0..3)
        .map(|_| admission.begin(&stranger).unwrap())
        .collect();
    let row = admission.rows().remove(1);
    assert_eq!((row.connections, row.accepted_total), (1, 1));
    assert_eq!((admission.total(), admission.handshaking()), (1, 3));
    let refusal = admission.begin(&stranger).unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.count, refusal.evict),
        (RefusalReason::MaxClients, 4, false)
    );
    assert_eq!(
        admission.admit(&stranger, now).unwrap_err().reason,
        RefusalReason::MaxClients
    );
    let first = shaking
        .pop()
        .unwrap()
        .admit(&certified("billing-1"), now)
        .unwrap();
    assert_eq!(first.group().index(), 0);
    let (waiting, refusal) = shaking
        .pop()
        .unwrap()
        .admit(&certified("billing-2"), now)
        .unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.evict),
        (RefusalReason::GroupCap, true)
    );
    // It keeps its place while another makes room for it.
    assert_eq!((admission.total(), admission.handshaking()), (2, 2));
    drop(first);
    let second = waiting.admit(&certified("billing-2"), now).unwrap();
    assert_eq!((admission.total(), admission.handshaking()), (2, 1));
    drop((shaking, second, web));
    assert_eq!((admission.total(), admission.handshaking()), (0, 0));
    assert!(admission.rows().iter().all(|row| row.connections == 0));
}

#[test]
fn values_stay_small() {
    assert!(
        size_of::<ClientPermit>() <= 128,
        "{}",
        size_of::<ClientPermit>()
    );
    assert!(
        size_of::<AdmissionRefusal>() <= 128,
        "{}",
        size_of::<AdmissionRefusal>()
    );
}
