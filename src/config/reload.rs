//! What a reload may change, and what of the running process it must keep.
//!
//! Pure. A configuration succeeds another whole or not at all.

use super::problem::{ConfigProblem, ConfigProblems};
use super::{ClientGroup, Settings};

/// Bounds the groups that there ever were in one process, those that reloads removed included: each keeps its index, and with it
/// its counters.
pub(super) const MOST_GROUPS: usize = 1024;

const RESTART: &str = "restart respool to change it, or take the change back";

/// Returns `next` as it follows on `now` in a process that may have `descriptors` files open: groups at the indices they have, workers as
/// they run.
///
/// # Errors
/// Everything in it is told that cannot change while respool runs, by its key.
pub fn succeed(
    now: &Settings,
    mut next: Settings,
    descriptors: u64,
) -> Result<Settings, ConfigProblems> {
    let mut problems = Vec::new();
    if !next.written.workers {
        next.workers = now.workers;
    }
    if !next.written.instance {
        next.instance.clone_from(&now.instance);
    }
    fixed(now, &next, &mut problems);
    pool(&next, &mut problems);
    let needed = next.descriptors_needed();
    // What was too much at the start was warned of then.
    if needed as u64 > descriptors && needed > now.descriptors_needed() {
        problems.push(ConfigProblem::new(
            None,
            "limits.max_clients",
            format!("{needed} file descriptors are needed, and the process may open {descriptors}"),
            "raise its limit of open files (ulimit -n) and restart it, or lower limits.max_clients",
        ));
    }
    match align(now, &mut next) {
        Ok(()) if problems.is_empty() => Ok(next),
        Ok(()) => Err(ConfigProblems::new(problems)),
        Err(problem) => {
            problems.push(problem);
            Err(ConfigProblems::new(problems))
        }
    }
}

/// Refuses to change what was decided when the process started.
fn fixed(now: &Settings, next: &Settings, problems: &mut Vec<ConfigProblem>) {
    let mut keep = |key: &str, is_same: bool| {
        if !is_same {
            let what = "cannot change while respool runs";
            problems.push(ConfigProblem::new(None, key, what, RESTART));
        }
    };
    keep("workers", now.workers == next.workers);
    keep("instance", now.instance == next.instance);
    let (was, is) = (&now.admin, &next.admin);
    keep("admin.address", was.address == is.address);
    keep(
        "admin.health_address",
        was.health_address == is.health_address,
    );
    keep("admin.mode", was.mode == is.mode);
    keep("log.format", now.log.format == next.log.format);
    keep("log.buffer", now.log.buffer == next.log.buffer);
    keep(
        "limits.keepalive",
        now.limits.keepalive == next.limits.keepalive,
    );
    keep("auth.mode", now.auth.mode == next.auth.mode);
    // Clients that have not authenticated would be another user from one command to the next. A secret that comes or goes is
    // another matter: it says who respool is where nobody has said so before.
    if let (Some(now), Some(next)) = (&now.upstream.login, &next.upstream.login) {
        keep("upstream.username", now.username == next.username);
    }
}

/// Checks what the workers that run need of the pool.
fn pool(next: &Settings, problems: &mut Vec<ConfigProblem>) {
    let upstream = &next.upstream;
    let workers = next.workers;
    if upstream.shared_connections < workers {
        problems.push(ConfigProblem::new(
            None,
            "upstream.shared_connections",
            format!(
                "{} are fewer than the {workers} workers that run",
                upstream.shared_connections
            ),
            format!("set it to at least {workers}, or restart respool with fewer workers"),
        ));
    }
    // As the number would have been chosen: each worker may take one for its subscriptions.
    let lent = upstream
        .max_connections
        .saturating_sub(upstream.shared_connections);
    if !next.written.workers && workers > 1 && lent <= workers {
        problems.push(ConfigProblem::new(
            None,
            "upstream.max_connections",
            format!("{lent} connections to lend are not enough for the {workers} workers that run"),
            format!(
                "set it to at least {}, or restart respool, which then starts fewer workers",
                upstream.shared_connections + workers + 1
            ),
        ));
    }
}

/// Puts the groups at the indices they have in `now`, new ones behind.
fn align(now: &Settings, next: &mut Settings) -> Result<(), ConfigProblem> {
    let mut groups = now.groups.clone();
    let wanted = std::mem::take(&mut next.groups);
    let order = std::mem::take(&mut next.order);
    // Those that are gone hold nothing and nobody: only their names and indices stay.
    groups.iter_mut().for_each(retire);
    let mut place =
        |group: ClientGroup| match groups.iter().position(|known| known.name == group.name) {
            Some(index) => {
                groups[index] = group;
                index
            }
            None => {
                groups.push(group);
                groups.len() - 1
            }
        };
    let placed: Vec<usize> = wanted.into_iter().map(&mut place).collect();
    next.order = order.into_iter().map(|index| placed[index]).collect();
    next.groups = groups;
    if next.groups.len() <= MOST_GROUPS {
        return Ok(());
    }
    Err(ConfigProblem::new(
        None,
        "group",
        format!(
            "with those that reloads have removed there would be more than {MOST_GROUPS} groups"
        ),
        "restart respool, which forgets the removed ones",
    ))
}

/// Empties a group that was removed: it takes nobody and limits nothing. What it denied holds until its clients have moved.
fn retire(group: &mut ClientGroup) {
    *group = ClientGroup {
        max_connections: None,
        warn_connections: None,
        max_connects_per_second: None,
        max_pinned: None,
        ..group.clone()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str =
        "[[listener]]\naddress = \"127.0.0.1:6380\"\n[upstream]\naddress = \"127.0.0.1:6379\"\n";

    fn settings(more: &str) -> Settings {
        settings_of("", more)
    }

    fn settings_of(upstream: &str, more: &str) -> Settings {
        let text = format!("workers = 2\ninstance = \"a\"\n{BASE}{upstream}\n{more}");
        Settings::from_toml(&text).expect("valid settings")
    }

    fn refused(now: &Settings, next: Settings) -> Vec<String> {
        let problems = succeed(now, next, 100_000).expect_err("a refusal");
        problems.iter().map(|problem| problem.key.clone()).collect()
    }

    fn shown(settings: &Settings) -> Vec<(&str, usize)> {
        let named = settings
            .order
            .iter()
            .map(|&index| (settings.groups[index].name.as_str(), index));
        named.collect()
    }

    #[test]
    fn a_group_keeps_its_index_whatever_becomes_of_the_others() {
        let three = "[[group]]\nname = \"a\"\nmatch = { user = \"a\" }\n[[group]]\nname = \"b\"\nmatch = { user = \"b\" }\n";
        let now = settings(three);
        assert_eq!(shown(&now), [("a", 0), ("b", 1), ("default", 2)]);
        let other = "[[group]]\nname = \"c\"\nmatch = { user = \"c\" }\n[[group]]\nname = \"b\"\nmatch = { user = \"b\" }\nmax_connections = 7\n";
        let next = succeed(&now, settings(other), 100_000).expect("nothing fixed changes");
        assert_eq!(shown(&next), [("c", 3), ("b", 1), ("default", 2)]);
        assert_eq!(next.groups[0].name, "a", "its index stays taken");
        assert_eq!(next.groups[1].max_connections, Some(7));
        let back = succeed(&next, settings(three), 100_000).expect("nothing fixed changes");
        assert_eq!(shown(&back), [("a", 0), ("b", 1), ("default", 2)]);
        assert_eq!(back.groups.len(), 4);
    }

    #[test]
    fn a_removed_group_limits_nothing() {
        let now = settings(
            "[[group]]\nname = \"a\"\nmatch = { user = \"a\" }\nmax_connections = 3\nmax_pinned = 1\n",
        );
        let next = succeed(&now, settings(""), 100_000).expect("nothing fixed changes");
        let gone = &next.groups[0];
        assert_eq!((gone.max_connections, gone.max_pinned), (None, None));
        assert_eq!(shown(&next), [("default", 1)]);
    }

    #[test]
    fn what_is_fixed_is_refused_by_its_name() {
        let now = settings("");
        let mut next = settings("");
        next.workers = 1;
        next.instance = "b".to_owned();
        next.log.format = crate::config::LogFormat::Json;
        next.admin = std::sync::Arc::new(super::super::AdminSettings {
            address: Some("127.0.0.1:1".parse().expect("an address")),
            ..Default::default()
        });
        next.limits.keepalive = std::time::Duration::from_secs(7);
        let keys = [
            "workers",
            "instance",
            "admin.address",
            "log.format",
            "limits.keepalive",
        ];
        assert_eq!(refused(&now, next), keys);
        let as_user =
            |name: &str| settings_of(&format!("username = \"{name}\"\npassword = \"x\""), "");
        assert!(succeed(&now, as_user("a"), 100_000).is_ok());
        assert!(succeed(&as_user("a"), settings(""), 100_000).is_ok());
        assert_eq!(refused(&as_user("a"), as_user("b")), ["upstream.username"]);
        let without = settings("[auth]\nmode = \"none\"");
        assert_eq!(refused(&now, without), ["auth.mode"]);
        let mut moved = settings("");
        moved.listeners[0].name = "127.0.0.1:1".to_owned();
        moved.listeners[0].backlog = 7;
        assert!(succeed(&now, moved, 100_000).is_ok(), "listeners change");
    }

    #[test]
    fn workers_that_nobody_wrote_stay_as_they_run() {
        let now = settings("");
        let mut next = settings("");
        next.written.workers = false;
        next.workers = 1;
        next.upstream.shared_connections = 3;
        assert_eq!(
            succeed(&now, next.clone(), 100_000)
                .expect("it follows")
                .workers,
            2
        );
        next.upstream.shared_connections = 1;
        assert_eq!(refused(&now, next.clone()), ["upstream.shared_connections"]);
        next.upstream.shared_connections = 2;
        next.upstream.max_connections = 4;
        assert_eq!(refused(&now, next.clone()), ["upstream.max_connections"]);
        next.written.workers = true;
        next.workers = 2;
        assert!(
            succeed(&now, next, 100_000).is_ok(),
            "a number that is written stands"
        );
    }

    #[test]
    fn a_host_that_is_called_otherwise_is_the_same_instance() {
        let now = settings("");
        let mut next = settings("");
        next.written.instance = false;
        next.instance = "another".to_owned();
        let next = succeed(&now, next, 100_000).expect("it follows");
        assert_eq!(next.instance, "a");
    }

    #[test]
    fn more_clients_than_descriptors_are_refused() {
        let now = settings("");
        let mut next = settings("");
        next.limits.max_clients = 20_000;
        let problems = succeed(&now, next, 15_000).expect_err("a refusal");
        assert!(
            problems.to_string().contains("limits.max_clients"),
            "{problems}"
        );
    }

    #[test]
    fn groups_of_the_past_are_bounded() {
        let mut now = settings("");
        let filler = now.groups[0].clone();
        let name = |index: usize| ClientGroup {
            name: format!("old-{index}"),
            ..filler.clone()
        };
        now.groups.extend((1..MOST_GROUPS).map(name));
        let full = succeed(&now, settings(""), 100_000).expect("none is new");
        assert_eq!(full.groups.len(), MOST_GROUPS);
        let one_more = settings("[[group]]\nname = \"new\"\nmatch = { user = \"a\" }\n");
        assert_eq!(refused(&full, one_more), ["group"]);
    }
}
