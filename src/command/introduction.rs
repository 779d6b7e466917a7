//! What clients send before they ask for anything that serves them: who they are, and whether the server is there.
//!
//! Taken from what libraries send when they connect, each in an order of its own: ioredis, node-redis, redis-py, redis-rb,
//! Sidekiq, BullMQ, RQ, redis-rs, go-redis, Lettuce, StackExchange.Redis, redis-cli.

use super::{ClientSub, CommandId, Local, Way, spec};

/// Lists the commands for the server that tell of it, or that it is there.
const ABOUT_THE_SERVER: &[&str] = &[
    "acl|whoami",
    "client|help",
    "cluster|info",
    "cluster|myid",
    "cluster|nodes",
    "cluster|shards",
    "cluster|slots",
    "command",
    "command|count",
    "command|docs",
    "command|info",
    "command|list",
    "config|get",
    "echo",
    "info",
    "ping",
    "role",
    "time",
];

/// Tells whether a client that sends this has asked for nothing yet that a place in its group is needed for.
pub fn keeps_arriving(command: Option<CommandId>) -> bool {
    let Some(spec) = command.map(spec) else {
        return false;
    };
    match spec.way {
        Way::Local(
            Local::Hello
            | Local::Auth
            | Local::Select
            | Local::Quit
            | Local::Reset
            | Local::Readonly
            | Local::Readwrite
            | Local::Asking,
        ) => true,
        Way::Local(Local::Client(sub)) => matches!(
            sub,
            ClientSub::SetName
                | ClientSub::GetName
                | ClientSub::SetInfo
                | ClientSub::Id
                | ClientSub::Info
                | ClientSub::NoEvict
                | ClientSub::NoTouch
                | ClientSub::MaintNotifications
                | ClientSub::Capa
                | ClientSub::ImportSource
                | ClientSub::Unsupported
        ),
        _ => ABOUT_THE_SERVER.contains(&spec.name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup_full;
    use super::*;

    fn keeps(name: &str) -> bool {
        keeps_arriving(lookup_full(name.as_bytes()))
    }

    #[test]
    fn every_name_is_a_command() {
        for name in ABOUT_THE_SERVER {
            assert!(lookup_full(name.as_bytes()).is_some(), "{name}");
        }
    }

    #[test]
    fn who_says_who_it_is_is_arriving_still() {
        for name in [
            "hello",
            "auth",
            "select",
            "ping",
            "info",
            "command",
            "readonly",
            "client|setname",
            "client|setinfo",
            "client|id",
            "client|maint_notifications",
            "client|capa",
        ] {
            assert!(keeps(name), "{name}");
        }
    }

    #[test]
    fn who_asks_for_something_is_not() {
        for name in [
            "get",
            "multi",
            "subscribe",
            "monitor",
            "wait",
            "client|list",
            "client|kill",
            "client|reply",
            "client|tracking",
            "config|set",
            "no such command",
        ] {
            assert!(!keeps(name), "{name}");
        }
    }
}
