//! Who arrives, who is an operator, and what each costs: one by one, then random sequences against a naive model.

use proptest::prelude::*;

use super::*;
use crate::config::{Address, AuthMode, ListenerSettings};

/// Group `named` takes names `n*`, at most two; `default` one; four clients in all, three of them arriving.
fn places() -> Settings {
    let named = ClientGroup {
        matches: GroupMatch {
            client_name: glob("n*"),
            ..GroupMatch::default()
        },
        max_connections: Some(2),
        ..group("named")
    };
    let mut settings = settings(4, 2, vec![named]);
    settings.groups[1].max_connections = Some(1);
    settings.limits.max_arriving = 3;
    settings.limits.arriving_timeout = Duration::from_secs(10);
    settings
}

fn with_operators() -> Settings {
    let mut settings = places();
    settings.operators = vec!["ops".to_owned()];
    settings.limits.operator_places = 2;
    settings
}

#[test]
fn silent_strangers_leave_the_places_of_an_admin_listener_alone() {
    let (mut settings, now) = (with_operators(), Instant::now());
    settings.limits.operator_places = 5;
    settings.limits.max_arriving = 20;
    settings.listeners.push(ListenerSettings {
        address: Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 7000,
        },
        name: "127.0.0.1:7000".to_owned(),
        backlog: 1,
        tls: None,
        access: Default::default(),
        admin: true,
    });
    let admission = Admission::new(&settings);
    let strangers: Vec<ClientPermit> = (0..20)
        .filter_map(|_| admission.arrive(&named(""), now).ok())
        .collect();
    assert_eq!(strangers.len(), 4 + 2, "those below the cap, and half");
    let by_listener = Identity::new(named("").peer, Arc::from("127.0.0.1:7000"));
    let operators: Vec<ClientPermit> = (0..20)
        .filter_map(|_| admission.arrive(&by_listener, now).ok())
        .filter(ClientPermit::is_operator)
        .collect();
    assert_eq!(operators.len(), 3);
}

#[test]
fn a_stranger_evicts_nobody_where_clients_must_authenticate() {
    for (mode, arrives) in [
        (AuthMode::Passthrough, true),
        (AuthMode::Proxy, true),
        (AuthMode::Optional, false),
        (AuthMode::None, false),
    ] {
        let mut settings = settings(100, 10, Vec::new());
        let now = Instant::now();
        settings.auth.mode = mode;
        settings.limits.max_arriving = 1;
        settings.limits.arriving_timeout = std::time::Duration::from_secs(1);
        settings.groups[0].max_connections = Some(1);
        settings.groups[0].at_limit = AtLimit::EvictIdle;
        let admission = Admission::new(&settings);
        let mut first = admission.arrive(&named(""), now).expect("there is room");
        assert_eq!(first.is_arriving(), arrives);
        first.settle(&named(""), now).expect("there is room");
        let second = admission.arrive(&named(""), now);
        let third = admission.arrive(&named(""), now);
        assert_eq!(second.is_ok(), arrives);
        let refusal = third.expect_err("the group is full, and somebody arrives");
        assert_eq!(refusal.evict, !arrives, "{mode:?}");
        if let Ok(mut second) = second {
            let refusal = second.settle(&named(""), now).expect_err("it is full");
            assert!(refusal.evict, "it has authenticated by now");
        }
    }
}

#[test]
fn a_full_group_of_the_nameless_keeps_out_nobody_who_has_a_name() {
    let admission = Admission::new(&places());
    let now = Instant::now();
    let mut first = admission.arrive(&named(""), now).expect("it arrives");
    first.settle(&named(""), now).expect("default has room");
    let mut second = admission.arrive(&named(""), now).expect("it arrives");
    let mut third = admission.arrive(&named(""), now).expect("it arrives");
    assert_eq!(admission.crowd().arriving, 2);
    let refusal = second.settle(&named(""), now).expect_err("default is full");
    assert_eq!(
        (refusal.reason, refusal.count),
        (RefusalReason::GroupCap, 1)
    );
    assert_eq!(third.regroup(&named("n1"), now), Ok(Some(GroupId(0))));
    assert!(third.is_arriving(), "saying it takes no place");
    third.settle(&named("n1"), now).expect("named has room");
    drop(second);
    assert_eq!((admission.total(), admission.crowd().arriving), (2, 0));
}

#[test]
fn who_is_where_it_is_whatever_it_says_does_not_arrive() {
    let address = ClientGroup {
        matches: GroupMatch {
            address: vec!["127.0.0.2/32".parse().expect("a network")],
            ..GroupMatch::default()
        },
        max_connections: Some(1),
        ..group("address")
    };
    let mut settings = places();
    settings.groups.insert(0, address);
    settings.order.push(2);
    let admission = Admission::new(&settings);
    let now = Instant::now();
    let first = admission.arrive(&tcp("127.0.0.2:1"), now).expect("room");
    assert!(!first.is_arriving());
    admission
        .arrive(&tcp("127.0.0.2:2"), now)
        .expect_err("full already");
    let other = admission.arrive(&tcp("127.0.0.3:1"), now).expect("room");
    assert!(other.is_arriving());
}

#[test]
fn a_key_of_words_is_waited_for() {
    let mut settings = places();
    settings.groups[0].matches = GroupMatch::default();
    settings.groups[0].per = CapScope::User;
    let admission = Admission::new(&settings);
    let arrived = admission.arrive(&tcp("127.0.0.1:1"), Instant::now());
    assert!(arrived.expect("room").is_arriving());
}

#[test]
fn past_max_arriving_a_newcomer_is_placed_at_once() {
    let mut settings = places();
    settings.limits.max_arriving = 1;
    let admission = Admission::new(&settings);
    let now = Instant::now();
    let first = admission.arrive(&named(""), now).expect("it arrives");
    let second = admission.arrive(&named(""), now).expect("placed");
    assert!(first.is_arriving() && !second.is_arriving());
    assert!(
        second
            .warning
            .as_ref()
            .is_some_and(|line| line.contains("limits.max_arriving"))
    );
    admission
        .arrive(&named(""), now)
        .expect_err("default is full");
    assert_eq!(admission.crowd().unheard, 2);
}

#[test]
fn operators_are_served_past_every_cap_and_only_so_many() {
    let admission = Admission::new(&with_operators());
    let now = Instant::now();
    let fill = |name: &str| {
        let mut permit = admission.arrive(&named(name), now).expect("it arrives");
        permit.settle(&named(name), now).map(|()| permit)
    };
    let _here = [
        fill("").expect("room"),
        fill("n1").expect("room"),
        fill("n2").expect("room"),
    ];
    let fourth = admission.arrive(&named(""), now).expect("it arrives");
    let mut operator = admission
        .arrive(&named(""), now)
        .expect("it may be an operator");
    operator.settle(&by_user("ops"), now).expect("it is one");
    assert!(operator.is_operator());
    let mut stranger = admission
        .arrive(&named(""), now)
        .expect("it may be an operator");
    let refusal = stranger.settle(&named("n1"), now).expect_err("it is none");
    assert_eq!(refusal.reason, RefusalReason::MaxClients);
    let refusal = admission
        .arrive(&named(""), now)
        .expect_err("both places are taken");
    assert_eq!(refusal.reason, RefusalReason::MaxClients);
    drop(stranger);
    let mut another = admission
        .arrive(&named(""), now)
        .expect("one is free again");
    another.settle(&by_user("ops"), now).expect("it is one");
    drop(fourth);
    let mut third = admission
        .arrive(&named(""), now)
        .expect("max_clients has room");
    let refusal = third
        .settle(&by_user("ops"), now)
        .expect_err("as anybody else");
    assert_eq!(refusal.reason, RefusalReason::GroupCap);
}

#[test]
fn the_clients_of_an_admin_listener_are_operators() {
    let mut settings = with_operators();
    settings.operators.clear();
    settings.listeners = Settings::from_toml(
        "[[listener]]\naddress = \"127.0.0.1:6390\"\nadmin = true\n[upstream]\naddress = \"127.0.0.1:6379\"\n",
    )
    .expect("settings")
    .listeners;
    let admission = Admission::new(&settings);
    let now = Instant::now();
    let by_admin = Identity {
        listener: Arc::from("127.0.0.1:6390"),
        ..named("")
    };
    let first = admission.arrive(&by_admin, now).expect("an operator");
    let mut second = admission.arrive(&by_admin, now).expect("an operator");
    assert!(first.is_operator() && second.is_operator());
    assert_eq!(second.regroup(&named("n1"), now).map(|_| ()), Ok(()));
    assert!(!second.is_operator(), "by another listener it is none");
    assert_eq!((admission.total(), admission.crowd().operators), (1, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Arrive,
    Say(u8, u8),
    Settle(u8),
    Leave(u8),
    Shake,
    Shaken,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Arrive),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(who, what)| Step::Say(who, what)),
        4 => any::<u8>().prop_map(Step::Settle),
        3 => any::<u8>().prop_map(Step::Leave),
        1 => Just(Step::Shake),
        1 => Just(Step::Shaken),
    ]
}

/// Where somebody is, by the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Arriving,
    Beyond,
    Group(usize),
    Operator,
}

struct Client {
    permit: ClientPermit,
    identity: Identity,
    at: Where,
}

#[derive(Default)]
struct Model {
    here: Vec<Client>,
    shaking: Vec<HandshakePermit>,
}

impl Model {
    fn count(&self, at: Where) -> usize {
        self.here.iter().filter(|client| client.at == at).count()
    }

    fn below_max(&self) -> usize {
        let beyond = self.count(Where::Beyond) + self.count(Where::Operator);
        self.here.len() - beyond + self.shaking.len()
    }

    fn operator_places(&self) -> usize {
        2 - self.count(Where::Operator) - self.count(Where::Beyond)
    }

    fn room_in(&self, identity: &Identity) -> Option<Where> {
        let group = usize::from(!identity.name.starts_with(b"n"));
        (self.count(Where::Group(group)) < [2, 1][group]).then_some(Where::Group(group))
    }

    /// Where a newcomer without a name goes.
    fn arrival(&self, has_shaken: bool) -> Option<Where> {
        let fits = has_shaken || self.below_max() < 4;
        let is_heard = self.count(Where::Arriving) + self.count(Where::Beyond) < 3;
        match (is_heard, fits) {
            (true, true) => Some(Where::Arriving),
            (true, false) if self.operator_places() > 0 => Some(Where::Beyond),
            (false, true) => self.room_in(&named("")),
            _ => None,
        }
    }

    fn settled(&self, who: usize) -> Option<Where> {
        let Client { identity, at, .. } = &self.here[who];
        let is_operator = *identity.user == *b"ops";
        match at {
            Where::Beyond if is_operator => Some(Where::Operator),
            Where::Arriving if is_operator && self.operator_places() > 0 => Some(Where::Operator),
            Where::Beyond if self.below_max() >= 4 => None,
            Where::Arriving | Where::Beyond => self.room_in(identity),
            at => Some(*at),
        }
    }

    fn renamed(&self, who: usize, to: &Identity) -> Option<Where> {
        let at = self.here[who].at;
        let is_operator = *to.user == *b"ops";
        let group = usize::from(!to.name.starts_with(b"n"));
        match at {
            Where::Arriving | Where::Beyond => Some(at),
            Where::Operator if is_operator => Some(at),
            Where::Operator if self.below_max() >= 4 => None,
            Where::Group(_) if is_operator && self.operator_places() > 0 => Some(Where::Operator),
            Where::Group(now) if now == group => Some(at),
            _ => self.room_in(to),
        }
    }

    fn check(&self, admission: &Admission) {
        let crowd = admission.crowd();
        let arriving = self.count(Where::Arriving) + self.count(Where::Beyond);
        assert_eq!(
            (crowd.arriving, crowd.operators),
            (arriving, self.count(Where::Operator))
        );
        assert_eq!(admission.handshaking(), self.shaking.len());
        for (index, row) in admission.rows().iter().enumerate() {
            assert_eq!(
                row.connections,
                self.count(Where::Group(index)),
                "group {index}"
            );
        }
        assert_eq!(
            admission.total(),
            self.count(Where::Group(0)) + self.count(Where::Group(1))
        );
        assert!(self.below_max() <= 4 && crowd.operators + self.count(Where::Beyond) <= 2);
    }
}

fn said(what: u8) -> Identity {
    Identity {
        user: Box::from([&b""[..], b"", b"ops", b"other"][usize::from(what / 4) % 4]),
        ..named(["", "n1", "n2", "other"][usize::from(what) % 4])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn everybody_is_where_the_model_has_them(steps in proptest::collection::vec(step(), 1..100)) {
        let now = Instant::now();
        let admission = Admission::new(&with_operators());
        let mut model = Model::default();
        for step in steps {
            let who = |index: u8| usize::from(index) % model.here.len().max(1);
            match step {
                Step::Arrive => {
                    let expected = model.arrival(false);
                    let arrived = admission.arrive(&named(""), now);
                    prop_assert_eq!(arrived.is_ok(), expected.is_some());
                    if let (Ok(permit), Some(at)) = (arrived, expected) {
                        prop_assert_eq!(permit.is_arriving(), matches!(at, Where::Arriving | Where::Beyond));
                        model.here.push(Client { permit, identity: named(""), at });
                    }
                }
                Step::Say(index, what) if !model.here.is_empty() => {
                    let (who, to) = (who(index), said(what));
                    let expected = model.renamed(who, &to);
                    let client = &mut model.here[who];
                    let moved = client.permit.regroup(&to, now);
                    prop_assert_eq!(moved.is_ok(), expected.is_some());
                    match expected {
                        Some(at) => (client.identity, client.at) = (to, at),
                        None => {
                            prop_assert!(!client.permit.has_place());
                            model.here.swap_remove(who);
                        }
                    }
                }
                Step::Settle(index) if !model.here.is_empty() => {
                    let who = who(index);
                    let expected = model.settled(who);
                    let client = &mut model.here[who];
                    let settled = client.permit.settle(&client.identity.clone(), now);
                    prop_assert_eq!(settled.is_ok(), expected.is_some());
                    client.at = expected.unwrap_or(client.at);
                }
                Step::Leave(index) if !model.here.is_empty() => {
                    let who = who(index);
                    drop(model.here.swap_remove(who));
                }
                Step::Shake => match admission.begin(&named("")) {
                    Ok(permit) => {
                        prop_assert!(model.below_max() < 4);
                        model.shaking.push(permit);
                    }
                    Err(_) => prop_assert_eq!(model.below_max(), 4),
                },
                Step::Shaken => if let Some(permit) = model.shaking.pop() {
                    let expected = model.arrival(true);
                    match permit.admit(&named(""), now) {
                        Ok(permit) => {
                            let at = expected.expect("the model has it refused");
                            model.here.push(Client { permit, identity: named(""), at });
                        }
                        Err((permit, _)) => {
                            prop_assert_eq!(expected, None);
                            model.shaking.push(permit);
                        }
                    }
                },
                Step::Say(..) | Step::Settle(_) | Step::Leave(_) => {}
            }
            model.check(&admission);
        }
        drop(model);
        Model::default().check(&admission);
    }
}
