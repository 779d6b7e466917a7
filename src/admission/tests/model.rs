//! Random sequences against a naive model: a list of who is here, and of who came when; every answer is computed from
//! it anew. Then threads.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const MAX_CLIENTS: usize = 7;

fn model_settings() -> Settings {
    let client_name = |text| GroupMatch {
        client_name: glob(text),
        ..GroupMatch::default()
    };
    let address = vec!["10.0.0.0/8".parse().expect("a network")];
    settings(
        MAX_CLIENTS,
        2,
        vec![
            ClientGroup {
                matches: client_name("n*"),
                per: CapScope::ClientName,
                max_connections: Some(2),
                ..group("names")
            },
            ClientGroup {
                matches: client_name("e*"),
                max_connections: Some(3),
                at_limit: AtLimit::EvictIdle,
                max_connects_per_second: Some(4),
                ..group("evict")
            },
            ClientGroup {
                matches: client_name("o*"),
                per: CapScope::User,
                max_connections: Some(1),
                max_connects_per_second: Some(2),
                mode: CapMode::Observe,
                ..group("observe")
            },
            ClientGroup {
                matches: GroupMatch {
                    address,
                    ..GroupMatch::default()
                },
                per: CapScope::Address { ipv6_prefix: 64 },
                max_connections: Some(3),
                max_connects_per_second: Some(2),
                ..group("address")
            },
        ],
    )
}

fn model_identity(which: u8) -> Identity {
    let mut identity = tcp(["127.0.0.1:1", "10.0.0.1:1", "10.0.0.2:1"][usize::from(which) % 3]);
    identity.name = Box::from(["", "n1", "n2", "e", "o"][usize::from(which / 3) % 5].as_bytes());
    identity.user = Box::from(["", "u"][usize::from(which / 15) % 2].as_bytes());
    identity
}

/// Group and key of a client, decided again from the strings.
fn model_place(identity: &Identity) -> (usize, String) {
    let name = String::from_utf8(identity.name.to_vec()).expect("names of the model are text");
    let ip = identity.peer.to_string();
    let ip = ip.split(':').next().expect("an address").to_owned();
    match name.as_bytes().first() {
        Some(b'n') => (0, name),
        Some(b'e') => (1, String::new()),
        Some(b'o') => (
            2,
            String::from_utf8_lossy(identity.shown_user()).into_owned(),
        ),
        _ if ip.starts_with("10.") => (3, ip),
        _ => (4, String::new()),
    }
}

#[derive(Default)]
struct Model {
    live: Vec<(usize, String)>,
    handshaking: usize,
    /// When tokens were taken, in ms, by place.
    tokens: HashMap<(usize, String), Vec<u64>>,
    accepted: [u64; 5],
    observed: [u64; 5],
}

const CAPS: [Option<usize>; 5] = [Some(2), Some(3), Some(1), Some(3), None];
const RATES: [Option<u64>; 5] = [None, Some(4), Some(2), Some(2), None];

impl Model {
    fn count(&self, place: &(usize, String)) -> usize {
        self.live.iter().filter(|live| *live == place).count()
    }

    /// Thousandths of tokens in the bucket of `place`.
    fn level(&self, place: &(usize, String), now_ms: u64) -> Option<u64> {
        let full = RATES[place.0]? * 1000;
        let (mut level, mut at) = (full, 0);
        for &taken in self.tokens.get(place).into_iter().flatten() {
            level = full.min(level + (taken - at) * full / 1000) - 1000;
            at = taken;
        }
        Some(full.min(level + (now_ms - at) * full / 1000))
    }

    fn enter(&mut self, place: &(usize, String), now_ms: u64) -> Result<(), (RefusalReason, bool)> {
        let has_token = self.level(place, now_ms).is_none_or(|level| level >= 1000);
        let shortfall = if CAPS[place.0].is_some_and(|cap| self.count(place) >= cap) {
            Some((RefusalReason::GroupCap, place.0 == 1 && has_token))
        } else if !has_token {
            Some((RefusalReason::ConnectRate, false))
        } else {
            None
        };
        match shortfall {
            Some(refused) if place.0 != 2 => return Err(refused),
            Some(_) => self.observed[2] += 1,
            None => {}
        }
        if has_token && RATES[place.0].is_some() {
            self.tokens.entry(place.clone()).or_default().push(now_ms);
        }
        self.live.push(place.clone());
        Ok(())
    }

    fn admit(&mut self, place: &(usize, String), now_ms: u64) -> Result<(), (RefusalReason, bool)> {
        if self.live.len() + self.handshaking >= MAX_CLIENTS {
            return Err((RefusalReason::MaxClients, false));
        }
        self.take_place(place, now_ms)
    }

    fn take_place(
        &mut self,
        place: &(usize, String),
        now_ms: u64,
    ) -> Result<(), (RefusalReason, bool)> {
        self.enter(place, now_ms)?;
        self.accepted[place.0] += 1;
        Ok(())
    }

    fn leave(&mut self, place: &(usize, String)) {
        let index = self
            .live
            .iter()
            .position(|live| live == place)
            .expect("it is here");
        self.live.swap_remove(index);
    }

    fn check(&self, admission: &Admission) {
        assert_eq!(admission.total(), self.live.len());
        assert_eq!(admission.handshaking(), self.handshaking);
        assert!(self.live.len() + self.handshaking <= MAX_CLIENTS);
        for (index, row) in admission.rows().iter().enumerate() {
            let here: Vec<_> = self.live.iter().filter(|place| place.0 == index).collect();
            assert_eq!(row.connections, here.len(), "group {index}");
            let fullest = here
                .iter()
                .map(|place| self.count(place))
                .max()
                .unwrap_or(0);
            assert_eq!(row.fullest, fullest);
            assert!(index == 2 || CAPS[index].is_none_or(|cap| fullest <= cap));
            assert_eq!(row.accepted_total, self.accepted[index]);
            let keys = admission.fullest_keys(GroupId(index as u16), 99).len();
            assert!(admission.counts().groups[index].table_len() >= keys);
            assert_eq!(
                row.observed_total.iter().map(|o| o.1).sum::<u64>(),
                self.observed[index]
            );
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u8),
    Regroup(u8, u8),
    Drop(u8),
    Begin(u8),
    Finish(u8),
    GiveUp,
    Hold,
    Release,
}

fn step() -> impl Strategy<Value = (Step, u64)> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(Step::Admit),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(who, what)| Step::Regroup(who, what)),
        3 => any::<u8>().prop_map(Step::Drop),
        2 => any::<u8>().prop_map(Step::Begin),
        2 => any::<u8>().prop_map(Step::Finish),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
    ];
    (
        step,
        prop_oneof![3 => Just(0_u64), 2 => 0_u64..400, 1 => 900_u64..3000],
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn counts_are_exactly_the_live_permits(steps in proptest::collection::vec(step(), 1..120)) {
        let start = Instant::now();
        let admission = Admission::new(&model_settings());
        let mut model = Model::default();
        let mut now_ms = 0;
        let (mut held, mut shaking) = (Vec::new(), Vec::new());
        let mut permits: Vec<(ClientPermit, (usize, String))> = Vec::new();
        for (step, pause_ms) in steps {
            now_ms += pause_ms;
            let now = start + Duration::from_millis(now_ms);
            match step {
                Step::Admit(what) => {
                    let identity = model_identity(what);
                    let place = model_place(&identity);
                    let expected = model.admit(&place, now_ms);
                    match admission.admit(&identity, now) {
                        Ok(permit) => {
                            prop_assert_eq!(expected, Ok(()));
                            prop_assert_eq!(permit.group().index(), place.0);
                            permits.push((permit, place));
                        }
                        Err(refusal) => prop_assert_eq!(expected, Err((refusal.reason, refusal.evict))),
                    }
                }
                Step::Regroup(who, what) if !permits.is_empty() => {
                    let who = usize::from(who) % permits.len();
                    let identity = model_identity(what);
                    let new = model_place(&identity);
                    let (permit, place) = &mut permits[who];
                    let moved = permit.regroup(&identity, now);
                    if new == *place {
                        prop_assert_eq!(moved, Ok(None));
                    } else {
                        model.leave(place);
                        match model.enter(&new, now_ms) {
                            Ok(()) => {
                                prop_assert_eq!(moved.map(|group| group.map(GroupId::index)), Ok(Some(new.0)));
                                model.accepted[new.0] += u64::from(new.0 != place.0);
                                *place = new;
                            }
                            Err(expected) => {
                                let refusal = moved.expect_err("the model refuses");
                                prop_assert_eq!(expected, (refusal.reason, refusal.evict));
                                prop_assert!(!permit.has_place());
                                prop_assert_eq!(permit.regroup(&identity, now), Ok(None));
                                permits.swap_remove(who);
                            }
                        }
                    }
                }
                Step::Drop(who) if !permits.is_empty() => {
                    let (permit, place) = permits.swap_remove(usize::from(who) % permits.len());
                    drop(permit);
                    model.leave(&place);
                }
                Step::Begin(what) => match admission.begin(&model_identity(what)) {
                    Ok(permit) => {
                        shaking.push(permit);
                        model.handshaking += 1;
                    }
                    Err(refusal) => {
                        prop_assert_eq!((refusal.reason, refusal.evict), (RefusalReason::MaxClients, false));
                        prop_assert_eq!(model.live.len() + model.handshaking, MAX_CLIENTS);
                    }
                },
                Step::Finish(what) => if let Some(permit) = shaking.pop() {
                    let identity = model_identity(what);
                    let place = model_place(&identity);
                    let expected = model.take_place(&place, now_ms);
                    match permit.admit(&identity, now) {
                        Ok(permit) => {
                            prop_assert_eq!(expected, Ok(()));
                            model.handshaking -= 1;
                            permits.push((permit, place));
                        }
                        Err((permit, refusal)) => {
                            prop_assert_eq!(expected, Err((refusal.reason, refusal.evict)));
                            shaking.push(permit);
                        }
                    }
                },
                Step::GiveUp => if shaking.pop().is_some() {
                    model.handshaking -= 1;
                },
                Step::Hold => match admission.hold(now) {
                    Some(hold) => held.push(hold),
                    None => prop_assert_eq!(held.len(), 2),
                },
                Step::Release => drop(held.pop()),
                Step::Regroup(..) | Step::Drop(_) => {}
            }
            prop_assert_eq!(admission.held(), held.len());
            model.check(&admission);
        }
        drop((permits, held, shaking));
        prop_assert_eq!(admission.total() + admission.held() + admission.handshaking(), 0);
        prop_assert!(admission.rows().iter().all(|row| row.connections == 0 && row.fullest == 0));
    }
}

#[test]
fn threads_never_exceed_a_cap_and_leave_nothing_behind() {
    let admission = Admission::new(&model_settings());
    let now = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let admission = &admission;
            scope.spawn(move || {
                let mut permits = Vec::new();
                for round in 0..2000_u32 {
                    let what = (round.wrapping_mul(7) % 30) as u8 + thread;
                    let now = now + Duration::from_millis(u64::from(round));
                    match admission.admit(&model_identity(what), now) {
                        Ok(permit) => permits.push(permit),
                        Err(refusal) => _ = admission.rejected(&refusal, now),
                    }
                    let rows = admission.rows();
                    assert!(rows.iter().map(|row| row.connections).sum::<usize>() <= MAX_CLIENTS);
                    let full =
                        |row: &GroupFigures| row.limit.is_some_and(|limit| row.fullest > limit);
                    assert!(
                        !rows
                            .iter()
                            .any(|row| row.mode == CapMode::Enforce && full(row))
                    );
                    if let Some(permit) = permits.first_mut() {
                        _ = permit.regroup(&model_identity(what.wrapping_mul(3)), now);
                    }
                    if round % 3 == 0 || permits.len() > 2 {
                        drop(permits.pop());
                    }
                }
            });
        }
    });
    assert_eq!(admission.total(), 0);
    let rows = admission.rows();
    assert!(rows.iter().all(|row| row.connections == 0));
    assert!(rows.iter().map(|row| row.accepted_total).sum::<u64>() > 0);
}
