//! Which commands of the command table a server does not have yet.
//!
//! Almost all commands are passed on, and the server itself says so. This is for those that respool answers in its place,
//! and for clients whose commands it may not pass on: who has not authenticated, or is subscribed.

use super::ServerVersion;

/// Lists those that came with 7.0.
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

/// Tells whether the server has the command `name`, lower case, a subcommand as `client|list`.
pub fn has_command(server: ServerVersion, name: &str) -> bool {
    match name {
        "client|setinfo" | "client|no-touch" | "waitaof" => server.is_from((7, 2)),
        "client|capa" => server.is_valkey_from((8, 0)),
        "client|import-source" => server.is_valkey_from((8, 1)),
        // Some managed Redis has it; respool does not pass on what it would tell.
        "client|maint_notifications" => false,
        _ if server.is_from((7, 0)) => true,
        _ => {
            let container = name.split('|').next().unwrap_or(name);
            !OF_7_0.contains(&name) && !OF_7_0.contains(&container)
        }
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
