//! The meaning of a valid configuration.

use std::path::PathBuf;
use std::time::Duration;

use respool::config::{Address, AtLimit, CapMode, CapScope};

use crate::{minimal_and, told, valid};

#[test]
fn the_minimal_file_means_the_defaults_of_the_design() {
    let settings = valid(&minimal_and(""));
    assert_eq!((settings.workers, settings.instance.as_str()), (2, "web-1"));
    assert_eq!(settings.drain_timeout, Duration::from_secs(10));
    assert_eq!(settings.listeners[0].backlog, 1024);
    assert_eq!(
        (
            settings.upstream.max_connections,
            settings.upstream.shared_connections
        ),
        (10, 4)
    );
    assert_eq!(
        settings.upstream.reconnect.initial,
        Duration::from_millis(50)
    );
    assert_eq!(settings.upstream.queue.max_commands, 10_000);
    assert_eq!(settings.upstream.max_shared_request, 65_536);
    assert_eq!(
        (settings.limits.max_clients, settings.limits.max_rejected),
        (10_000, 1000)
    );
    assert_eq!(settings.limits.max_client_buffer, 32 << 20);
    assert!(!settings.limits.explain_rejections && settings.admin.address.is_none());
    let [group] = settings.groups.as_slice() else {
        panic!("{:?}", settings.groups)
    };
    assert!(group.name == "default" && group.matches.is_empty() && group.max_connections.is_none());
    assert_eq!(
        settings.descriptors_needed(),
        10_000 + 5 + 1000 + 10 + 1 + 64 + 2 * 4
    );
}

#[test]
fn a_group_is_read_with_all_its_keys() {
    let settings = valid(&minimal_and(
        "[limits]\nidle_timeout = '5m'\n[[group]]\nname = 'ci'\nper = 'client_name'\nmax_connections = 20\n\
         warn_connections = 15\nmax_connects_per_second = 50\nmax_pinned = 2\nat_limit = 'evict-idle'\nmode = 'observe'\n\
         deny_commands = ['FLUSHALL', 'Config|Set', '@dangerous']\n\
         match = { address = ['10.1.2.3/8', '::1'], listener = '127.*', client_name = 'test-*', user = 'ci' }\n",
    ));
    let [group, default] = settings.groups.as_slice() else {
        panic!("{:?}", settings.groups)
    };
    assert_eq!(group.per, CapScope::ClientName);
    assert_eq!(
        (
            group.max_connections,
            group.warn_connections,
            group.max_pinned
        ),
        (Some(20), Some(15), Some(2))
    );
    assert_eq!(group.max_connects_per_second, Some(50));
    assert_eq!(
        (group.at_limit, group.mode),
        (AtLimit::EvictIdle, CapMode::Observe)
    );
    assert_eq!(
        group.deny_commands,
        ["flushall", "config|set", "@dangerous"]
    );
    assert_eq!(group.matches.address[0].to_string(), "10.0.0.0/8");
    let name = group.matches.client_name.as_ref().expect("a glob");
    assert!(name.matches(b"test-1") && !name.matches(b"web"));
    assert_eq!(
        (group.idle_timeout, default.idle_timeout),
        (Duration::from_secs(300), Duration::from_secs(300))
    );
    assert_eq!(default.name, "default");
}

#[test]
fn the_operator_may_write_the_default_group() {
    let settings = valid(&minimal_and(
        "[[group]]\nname = 'default'\nmax_connections = 7\n",
    ));
    assert_eq!(settings.groups.len(), 1);
    assert_eq!(settings.groups[0].max_connections, Some(7));
}

#[test]
fn workers_give_way_to_shared_connections_unless_they_are_written() {
    let one = valid(&minimal_and("shared_connections = 1\n"));
    assert_eq!(one.workers, 1);
    assert_eq!(
        told(&format!(
            "workers = 2\n{}",
            minimal_and("shared_connections = 1\n")
        )),
        [
            "1: workers: 2 workers need a shared connection each, and there are 1; \
          set workers to at most 1, or raise upstream.shared_connections"
        ]
    );
}

#[test]
fn sockets_of_files_are_addresses_too() {
    let settings = valid(
        "upstream.address = 'unix:/run/redis.sock'\n[[listener]]\naddress = 'unix:/run/respool.sock'\n",
    );
    assert_eq!(
        settings.upstream.address,
        Address::Unix(PathBuf::from("/run/redis.sock"))
    );
    assert_eq!(settings.listeners[0].name, "unix:/run/respool.sock");
}

#[test]
fn an_ipv6_address_counts_by_its_network_where_clients_count_by_address() {
    let group = |lines: &str| minimal_and(&format!("[[group]]\nname = \"g\"\n{lines}\n"));
    let per = |lines: &str| valid(&group(lines)).groups[0].per;
    let prefix = |ipv6_prefix| CapScope::Address { ipv6_prefix };
    let by_address = "max_connections = 3\nper = \"address\"\n";
    assert_eq!(per(by_address), prefix(64));
    for bits in [1, 48, 128] {
        let lines = format!("{by_address}per_ipv6_prefix = {bits}");
        assert_eq!(per(&lines), prefix(bits));
    }
    for bits in ["0", "129"] {
        let told = told(&group(&format!("{by_address}per_ipv6_prefix = {bits}")));
        assert!(told[0].contains("group.per_ipv6_prefix: "), "{told:?}");
    }
    let told = told(&group("max_connections = 3\nper_ipv6_prefix = 48"));
    assert!(
        told[0].contains("group.per_ipv6_prefix: group \"g\" does not count by address"),
        "{told:?}"
    );
}
