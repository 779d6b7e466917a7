//! Which commands of the command table a server does not have yet.
//!
//! Almost all commands are passed on, and the server itself says so. This is for those that respool answers in its place,
//! and for clients whose commands it may not pass on: who has not authenticated, or is subscribed.

use super::ServerVersion;

/// Lists those that came with Redis 7.0.
const OF_7_0: [&str; 19] = [
    "blmpop",
    "bzmpop",
    "eval_ro",
    "evalsha_ro",
    "expiretime",
    "fcall",
    "fcall_ro",
    "function",
    "lcs",
    "lmpop",
    "pexpiretime",
    "sintercard",
    "sort_ro",
    "spublish",
    "ssubscribe",
    "sunsubscribe",
    "zintercard",
    "zmpop",
    "client|no-evict",
];

/// Tells whether the server has the command `name`, lower case, a subcommand as `client|list`. A module's are taken to be there in the
/// Redis that brings it along (vector sets, from 8.0 on).
pub fn has_command(server: ServerVersion, name: &str) -> bool {
    let container = name.split('|').next().unwrap_or(name);
    // The first Redis and the first Valkey that has it, as far as either does.
    let has = |redis: Option<(u8, u8)>, valkey: Option<(u8, u8)>| match server.is_valkey() {
        false => redis.is_some_and(|first| server.is_from(first)),
        true => valkey.is_some_and(|first| server.is_valkey_from(first)),
    };
    match name {
        "stralgo" => !server.is_from((7, 0)),
        "client|setinfo" | "client|no-touch" | "waitaof" | "cluster|myshardid" => {
            server.is_from((7, 2))
        }
        "hexpire" | "hexpireat" | "hexpiretime" | "hpersist" | "hpexpire" | "hpexpireat"
        | "hpexpiretime" | "hpttl" | "httl" => has(Some((7, 4)), Some((9, 0))),
        "hgetex" | "hsetex" => has(Some((8, 0)), Some((9, 0))),
        "hgetdel" => has(Some((8, 0)), Some((9, 1))),
        "vadd" | "vcard" | "vdim" | "vemb" | "vgetattr" | "vinfo" | "vismember" | "vlinks"
        | "vrandmember" | "vrange" | "vrem" | "vsetattr" | "vsim" => has(Some((8, 0)), None),
        "cluster|slot-stats" => has(Some((8, 2)), Some((8, 0))),
        "xackdel" | "xdelex" => has(Some((8, 2)), None),
        "delex" | "digest" | "cluster|migration" => has(Some((8, 4)), None),
        "msetex" => has(Some((8, 4)), Some((9, 1))),
        "client|capa" | "script|show" => has(None, Some((8, 0))),
        "client|import-source" => has(None, Some((8, 1))),
        "delifeq"
        | "cluster|cancelslotmigrations"
        | "cluster|flushslot"
        | "cluster|getslotmigrations"
        | "cluster|migrateslots"
        | "cluster|syncslots" => has(None, Some((9, 0))),
        "clusterscan" => has(None, Some((9, 1))),
        _ if container == "commandlog" => has(None, Some((8, 1))),
        // Some managed Redis has it; respool does not pass on what it would tell.
        "client|maint_notifications" => false,
        _ if server.is_from((7, 0)) => true,
        _ => !OF_7_0.contains(&name) && !OF_7_0.contains(&container),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_there_from_its_release_on() {
        let servers = [
            ServerVersion::redis(6, 2, 5),
            ServerVersion::redis(7, 0, 15),
            ServerVersion::redis(8, 2, 3),
            ServerVersion::valkey(8, 1, 8),
            ServerVersion::valkey(9, 1, 2),
        ];
        for (name, has) in [
            ("get", [true; 5]),
            ("client|list", [true; 5]),
            ("function|list", [false, true, true, true, true]),
            ("client|no-evict", [false, true, true, true, true]),
            ("client|no-touch", [false, false, true, true, true]),
            ("client|capa", [false, false, false, true, true]),
            ("stralgo", [true, false, false, false, false]),
            ("hexpire", [false, false, true, false, true]),
            ("hgetdel", [false, false, true, false, true]),
            ("xdelex", [false, false, true, false, false]),
            ("msetex", [false, false, false, false, true]),
            ("delex", [false; 5]),
            ("delifeq", [false, false, false, false, true]),
            ("commandlog|get", [false, false, false, true, true]),
            ("cluster|slot-stats", [false, false, true, true, true]),
            ("client|maint_notifications", [false; 5]),
        ] {
            assert_eq!(
                servers.map(|server| has_command(server, name)),
                has,
                "{name}"
            );
        }
    }
}
