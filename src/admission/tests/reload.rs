//! Reloads between admissions: counts stay those of live places, nobody loses one, and what is past a cap is known.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Three configurations of the same two groups and `default`; in the last `b` is gone.
fn plan(which: u8) -> Settings {
    let name = |text| GroupMatch {
        client_name: glob(text),
        ..GroupMatch::default()
    };
    let (first, second) = match which % 3 {
        0 => (
            ("x*", CapScope::Group, Some(2)),
            Some(("y*", CapScope::ClientName, Some(1))),
        ),
        1 => (
            ("y*", CapScope::User, Some(1)),
            Some(("x*", CapScope::Group, Some(3))),
        ),
        _ => (("*2", CapScope::ClientName, None), None),
    };
    let made =
        |called: &str, (text, per, cap): (&'static str, CapScope, Option<usize>)| ClientGroup {
            matches: name(text),
            per,
            max_connections: cap,
            ..group(called)
        };
    let mut settings = settings(6, 2, vec![made("a", first), group("b")]);
    match second {
        Some(second) => settings.groups[1] = made("b", second),
        None => settings.order = vec![0, 2],
    }
    settings
}

fn identity(which: u8) -> Identity {
    let name = ["x1", "x2", "y1", "y2", "z"][usize::from(which) % 5];
    Identity {
        user: Box::from(if which & 8 == 0 { &b"u"[..] } else { &b"w"[..] }),
        ..named(name)
    }
}

/// Group and key, decided again from the configuration.
fn place(which: u8, identity: &Identity) -> (usize, String) {
    let name = String::from_utf8_lossy(&identity.name).into_owned();
    let user = String::from_utf8_lossy(&identity.user).into_owned();
    match (which % 3, name.as_bytes()[0]) {
        (0, b'x') => (0, String::new()),
        (0, b'y') => (1, name),
        (1, b'y') => (0, user),
        (1, b'x') => (1, String::new()),
        (2, _) if name.ends_with('2') => (0, name),
        _ => (2, String::new()),
    }
}

fn cap(which: u8, group: usize) -> Option<usize> {
    match (which % 3, group) {
        (0, 0) => Some(2),
        (0, 1) | (1, 0) => Some(1),
        (1, 1) => Some(3),
        _ => None,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Admit(u8),
    Rename(u8, u8),
    Leave(u8),
    Reload(u8),
    Reassign(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Admit),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(who, what)| Step::Rename(who, what)),
        2 => any::<u8>().prop_map(Step::Leave),
        1 => any::<u8>().prop_map(Step::Reload),
        4 => any::<u8>().prop_map(Step::Reassign),
    ]
}

/// One who has a place.
struct Live {
    permit: ClientPermit,
    identity: Identity,
    place: (usize, String),
    is_stale: bool,
}

fn check(admission: &Admission, which: u8, live: &[Live]) {
    let mut counts: HashMap<&(usize, String), usize> = HashMap::new();
    for one in live {
        *counts.entry(&one.place).or_default() += 1;
        assert_eq!(one.permit.is_stale(), one.is_stale);
    }
    assert_eq!(admission.total(), live.len());
    assert_eq!(
        admission.stale(),
        live.iter().filter(|one| one.is_stale).count()
    );
    for (index, row) in admission.rows().iter().enumerate() {
        let here = counts.iter().filter(|(place, _)| place.0 == index);
        assert_eq!(
            row.connections,
            here.map(|(_, count)| count).sum::<usize>(),
            "group {index}"
        );
    }
    if live.iter().any(|one| one.is_stale) {
        return;
    }
    let mut beyond: Vec<usize> = admission
        .excess()
        .iter()
        .map(|(_, beyond)| *beyond)
        .collect();
    let mut expected: Vec<usize> = counts
        .iter()
        .filter_map(|(place, count)| {
            count
                .checked_sub(cap(which, place.0)?)
                .filter(|beyond| *beyond > 0)
        })
        .collect();
    beyond.sort_unstable();
    expected.sort_unstable();
    assert_eq!(beyond, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_reload_moves_everybody_and_loses_nobody(steps in proptest::collection::vec(step(), 1..100)) {
        let now = Instant::now();
        let mut which = 0;
        let admission = Admission::new(&plan(which));
        let mut live: Vec<Live> = Vec::new();
        for step in steps {
            match step {
                Step::Admit(what) => {
                    let identity = identity(what);
                    let place = place(which, &identity);
                    let count = live.iter().filter(|one| one.place == place).count();
                    let fits = live.len() < 6 && cap(which, place.0).is_none_or(|cap| count < cap);
                    let admitted = admission.admit(&identity, now);
                    prop_assert_eq!(admitted.is_ok(), fits);
                    live.extend(admitted.map(|permit| Live { permit, identity, place, is_stale: false }));
                }
                Step::Rename(who, what) if !live.is_empty() => {
                    let who = usize::from(who) % live.len();
                    let one = &mut live[who];
                    one.identity = identity(what);
                    let _ = one.permit.regroup(&one.identity, now);
                    if one.permit.has_place() {
                        one.place = place(which, &one.identity);
                        one.is_stale = false;
                    } else {
                        live.swap_remove(who);
                    }
                }
                Step::Leave(who) if !live.is_empty() => drop(live.swap_remove(usize::from(who) % live.len())),
                Step::Reload(to) => {
                    which = to;
                    admission.reload(&plan(which));
                    live.iter_mut().for_each(|one| one.is_stale = true);
                }
                Step::Reassign(who) if !live.is_empty() => {
                    let who = usize::from(who) % live.len();
                    let one = &mut live[who];
                    let was = one.place.0;
                    one.place = place(which, &one.identity);
                    one.is_stale = false;
                    prop_assert_eq!(one.permit.reassign(&one.identity), one.place.0 != was);
                }
                Step::Rename(..) | Step::Leave(_) | Step::Reassign(_) => {}
            }
            check(&admission, which, &live);
        }
        live.clear();
        check(&admission, which, &live);
    }
}
