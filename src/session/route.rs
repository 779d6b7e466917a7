//! Where a request goes: decided here and nowhere else, from the command table and what the group denies.

use super::malformed::unauthenticated;
use super::restrictions::Restrictions;
use crate::command::{
    CommandId, Delays, DenySet, Learned, Local, NamedCommand, PinReason, TransactionCommand, Way,
    asks_to_block, identify, is_container, keeps_arriving, lookup, runs_script, spec, takes_words,
    transaction, writes,
};
use crate::config::ServerRole;
use crate::resp::{Bounds, Request, RequestScanner, Scan};
use crate::texts::{
    NOAUTH, PackedVersion, READ_ONLY, ServerVersion, closes_aliens_first, has_command,
    resets_strangers, unknown_command, unknown_subcommand,
};

/// Says where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// It goes to any shared connection in the session's state.
    Shared,
    /// It goes where `Shared` does, but with a fence behind it: its reply may be more than one frame.
    Fenced,
    /// It is a command of a transaction: it goes to the connection lent to the client or, with a MULTI that arrived whole, to a shared one.
    Transaction(TransactionCommand),
    /// It goes to a connection lent to the client, for this reason.
    Pinned(PinReason),
    /// It is a subscription command.
    Subscribed,
    /// It is answered by respool.
    Local(Local),
    /// It is answered with this error.
    Refused(Vec<u8>),
    /// It goes nowhere before its client has a place, who has yet to say who it is.
    Unsettled,
    /// It is what no Redis client sends (`POST`, `Host:`): its client is closed without a word, as Redis does.
    Alien,
}

/// Holds a request's command, where the table knows it, and its route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Is its place in the command table.
    pub command: Option<CommandId>,
    /// Says where it goes.
    pub route: Route,
}

/// Holds what a client's group may not use, and what the client is told that uses it all the same.
#[derive(Clone, Copy)]
pub struct Denial<'a> {
    /// Lists the commands that the group may not use.
    pub commands: &'a DenySet,
    /// Returns what the server would answer the client whose rules do not permit it a command of this name.
    pub refusal: &'a dyn Fn(&str) -> Vec<u8>,
}

/// Holds what a request is held against, beside the command table.
#[derive(Clone, Copy, Default)]
pub struct Rules<'a> {
    /// Says what the client's group may not use.
    pub deny: Option<Denial<'a>>,
    /// Holds what the server said of the commands that the table does not know.
    pub learned: Option<&'a Learned>,
    /// Says what the server is for.
    pub role: ServerRole,
    /// Says which server it is.
    pub server: PackedVersion,
    /// Says what stands between its client's requests and where they go.
    pub restrictions: Restrictions,
}

/// Says how a command travels that the table does not know while the server has not told of its commands: it may be any.
const UNKNOWN: Way = Way::Pinned(PinReason::Unlisted);

/// Answers a replica that takes respool for its primary.
const NO_REPLICATION: &[u8] =
    b"-ERR respool: replication does not go through respool, connect to the server itself\r\n";

/// Decides the route of a request from its name and, for containers, its second word.
#[inline]
pub fn route(name: &[u8], request: &Request<'_>, rules: &Rules<'_>) -> Routed {
    let routed = by_command(name, request, rules);
    if rules.restrictions.is_empty() {
        routed
    } else {
        restricted(request, routed, rules)
    }
}

/// Decides where a request goes that does not simply go where its command leads.
#[cold]
fn restricted(request: &Request<'_>, mut routed: Routed, rules: &Rules<'_>) -> Routed {
    let restrictions = rules.restrictions;
    if restrictions.is_locked() {
        // Before it is given a place: who must authenticate and has not takes nobody's.
        routed.route = locked_out(
            rules.server.version(),
            request,
            routed.route,
            routed.command,
        );
    }
    let is_answered = match &routed.route {
        Route::Alien => true,
        Route::Refused(_) if restrictions.is_locked() => true,
        _ => keeps_arriving(routed.command),
    };
    // Nor is it for ever that it says who it is: the next attempt to authenticate may stand behind the last at all times.
    if restrictions.is_arriving()
        && routed.route != Route::Alien
        && (!is_answered || restrictions.is_overdue())
    {
        routed.route = Route::Unsettled;
    }
    routed
}

/// Decides where a request goes that has to wait for its client to authenticate: nowhere, but for those that do so.
fn locked_out(
    server: ServerVersion,
    request: &Request<'_>,
    route: Route,
    command: Option<CommandId>,
) -> Route {
    match route {
        Route::Local(Local::Auth | Local::Hello | Local::Quit) => route,
        Route::Alien if closes_aliens_first(server) => route,
        Route::Alien => Route::Refused(NOAUTH.to_vec()),
        Route::Local(Local::Reset) if resets_strangers(server) => route,
        _ => Route::Refused(unauthenticated(server, request, command)),
    }
}

/// Decides the route of a request whose client nothing stands in the way of.
#[inline]
fn by_command(name: &[u8], request: &Request<'_>, rules: &Rules<'_>) -> Routed {
    let id = match lookup(name) {
        Some(id) if !is_container(id) => id,
        _ => match identify(name, request.argument(1)) {
            NamedCommand::Known(id) => id,
            NamedCommand::Torn => return torn(name, request, rules.server.version()),
            NamedCommand::Unknown => return unknown(route_unknown(name, request, rules)),
        },
    };
    if let Some(deny) = rules.deny
        && deny.commands.denies(id)
    {
        return Routed {
            command: Some(id),
            route: Route::Refused((deny.refusal)(spec(id).name)),
        };
    }
    if rules.role == ServerRole::Replica
        && let Some(route) = on_replica(id, name, request, rules.learned)
    {
        return Routed {
            command: Some(id),
            route,
        };
    }
    let route = match spec(id).way {
        Way::Shared => match transaction(id) {
            None => Route::Shared,
            Some(verb) => Route::Transaction(verb),
        },
        Way::Fenced => Route::Fenced,
        Way::Pinned(PinReason::BlockingOption) if !asks_to_block(request.arguments().skip(1)) => {
            Route::Shared
        }
        Way::Pinned(PinReason::Watch | PinReason::Multi) => match transaction(id) {
            Some(verb) => Route::Transaction(verb),
            None => Route::Shared,
        },
        Way::Pinned(reason) => Route::Pinned(reason),
        Way::Subscribed if has_command(rules.server.version(), spec(id).name) => Route::Subscribed,
        Way::Subscribed => Route::Refused(unknown_command(rules.server.version(), request)),
        Way::Local(local) => Route::Local(local),
        Way::Refused => Route::Refused(NO_REPLICATION.to_vec()),
    };
    Routed {
        command: Some(id),
        route,
    }
}

/// Decides where a command goes that does not go its usual way where the server takes no writes. Redis checks the same, in this
/// order: the number of words, permission, and only then whether it may write.
fn on_replica(
    id: CommandId,
    name: &[u8],
    request: &Request<'_>,
    learned: Option<&Learned>,
) -> Option<Route> {
    let learned_write = || {
        let second = request.argument(1);
        is_container(id)
            && learned.is_some_and(|learned| learned.writes(name, second, request.count()))
    };
    if (writes(id) && takes_words(id, request.count())) || learned_write() {
        return Some(Route::Refused(READ_ONLY.to_vec()));
    }
    runs_script(id).then_some(Route::Pinned(PinReason::ReplicaScript))
}

/// Refuses a name with a NUL in it, which is nobody's.
fn torn(name: &[u8], request: &Request<'_>, server: ServerVersion) -> Routed {
    let container = lookup(name).filter(|&id| is_container(id));
    let refusal = match container {
        Some(_) => unknown_subcommand(server, request),
        None => unknown_command(server, request),
    };
    Routed {
        command: container,
        route: Route::Refused(refusal),
    }
}

fn unknown(route: Route) -> Routed {
    Routed {
        command: None,
        route,
    }
}

fn route_unknown(name: &[u8], request: &Request<'_>, rules: &Rules<'_>) -> Route {
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        return Route::Alien;
    }
    if let Some(deny) = rules.deny
        && deny
            .commands
            .denies_unknown(name, request.argument(1), rules.learned)
    {
        let name = String::from_utf8_lossy(name).to_lowercase();
        return Route::Refused((deny.refusal)(&name));
    }
    if rules.role == ServerRole::Replica {
        match rules.learned {
            // It may write: then only a connection of its own may be closed for it.
            None => return Route::Pinned(PinReason::Learned),
            Some(learned) if learned.writes(name, request.argument(1), request.count()) => {
                return Route::Refused(READ_ONLY.to_vec());
            }
            Some(_) => {}
        }
    }
    match rules.learned.map_or(UNKNOWN, |learned| learned.way(name)) {
        Way::Pinned(reason) => Route::Pinned(reason),
        Way::Refused => Route::Refused(unknown_command(rules.server.version(), request)),
        _ => Route::Fenced,
    }
}

/// Says what stands behind a MULTI.
#[derive(Debug, PartialEq, Eq)]
pub enum Block {
    /// It is a transaction that has arrived whole and leaves no trace.
    Whole {
        /// Counts the bytes from MULTI to the end of EXEC.
        length: usize,
        /// Counts the requests, both included.
        count: u32,
        /// Says what may delay any of them.
        delays: Delays,
    },
    /// It may become one with more bytes.
    Partial,
    /// It needs a connection of its own.
    Pinned,
}

/// Looks ahead from a MULTI, the first request of `buf`.
pub fn block(buf: &[u8], most_bytes: usize, most: u32, rules: &Rules<'_>) -> Block {
    let bounds = Bounds::new(most_bytes);
    let (mut at, mut count, mut delays) = (0, 0, Delays::NONE);
    while at < buf.len() && at <= most_bytes && count < most {
        let mut scanner = RequestScanner::default();
        let length = match scanner.scan(&buf[at..], &bounds) {
            Scan::Request { length } => length,
            Scan::Incomplete => break,
            // Inline requests, empty ones and violations are rare here; a connection of its own serves them all.
            _ => return Block::Pinned,
        };
        let request = Request::new(&buf[at..at + length]);
        let name = scanner.name();
        let routed = route(&buf[at + name.start..at + name.end], &request, rules);
        at += length;
        count += 1;
        match routed.route {
            Route::Transaction(TransactionCommand::Multi) if count == 1 && request.count() == 1 => {
            }
            // A user without DISCARD would leave the connection in MULTI; EXEC ends it even when it is refused (6.2 to 9.1).
            Route::Transaction(TransactionCommand::Exec) if request.count() == 1 => {
                return Block::Whole {
                    length: at,
                    count,
                    delays,
                };
            }
            Route::Shared if count > 1 => delays = delays.and(Delays::of(routed.command)),
            _ => return Block::Pinned,
        }
    }
    if at > most_bytes || count >= most || buf.len() > most_bytes {
        Block::Pinned
    } else {
        Block::Partial
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;

    fn of(line: &str) -> Route {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = encode_request(&words);
        route(
            words[0].as_bytes(),
            &Request::new(&bytes),
            &Rules::default(),
        )
        .route
    }

    fn on_replica(line: &str, rules: Rules<'_>) -> Route {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = encode_request(&words);
        let rules = Rules {
            role: ServerRole::Replica,
            ..rules
        };
        route(words[0].as_bytes(), &Request::new(&bytes), &rules).route
    }

    fn pipeline(lines: &[&str]) -> Vec<u8> {
        lines
            .iter()
            .flat_map(|line| encode_request(&line.split(' ').collect::<Vec<_>>()))
            .collect()
    }

    fn ahead(bytes: &[u8]) -> Block {
        block(bytes, 64 * 1024, 1000, &Rules::default())
    }

    #[test]
    fn commands_go_where_the_table_says() {
        assert_eq!(of("get k"), Route::Shared);
        assert_eq!(of("XREAD STREAMS s 0"), Route::Shared);
        assert_eq!(
            of("xread BLOCK 0 STREAMS s 0"),
            Route::Pinned(PinReason::BlockingOption)
        );
        assert_eq!(of("BLPOP k 0"), Route::Pinned(PinReason::Blocking));
        assert_eq!(of("WATCH k"), Route::Transaction(TransactionCommand::Watch));
        assert_eq!(of("exec"), Route::Transaction(TransactionCommand::Exec));
        assert_eq!(
            of("client kill x"),
            Route::Local(Local::Client(crate::command::ClientSub::Kill))
        );
        assert_eq!(of("POST / HTTP/1.1"), Route::Alien);
        assert_eq!(
            of("json.get k"),
            Route::Pinned(PinReason::Unlisted),
            "nobody has told what it is"
        );
        assert_eq!(of("evalsha x 0"), Route::Fenced);
        assert_eq!(of("function LOAD x"), Route::Pinned(PinReason::RawError));
        assert!(matches!(of("PSYNC ? -1"), Route::Refused(_)));
        assert!(
            matches!(of("multi\0x"), Route::Refused(_)),
            "a torn name is never forwarded"
        );
    }

    #[test]
    fn who_must_authenticate_is_refused_all_else_and_who_arrives_gets_a_place_for_it() {
        let told = |line: &str, locked, arriving, overdue| {
            let words: Vec<&str> = line.split(' ').collect();
            let bytes = encode_request(&words);
            let mut restrictions = Restrictions::default();
            restrictions.set_locked(locked);
            restrictions.set_arriving(arriving);
            let rules = Rules {
                restrictions: if overdue {
                    restrictions.overdue()
                } else {
                    restrictions
                },
                ..Rules::default()
            };
            route(words[0].as_bytes(), &Request::new(&bytes), &rules).route
        };
        for line in ["GET k", "MULTI", "SUBSCRIBE c", "CLIENT LIST", "BLPOP k 0"] {
            assert!(
                matches!(told(line, true, false, false), Route::Refused(_)),
                "{line}"
            );
            // Nobody's place is taken for a refusal.
            assert!(
                matches!(told(line, true, true, false), Route::Refused(_)),
                "{line}"
            );
            assert_eq!(told(line, false, true, false), Route::Unsettled, "{line}");
        }
        for (line, local) in [
            ("AUTH x", Local::Auth),
            ("HELLO 3", Local::Hello),
            ("QUIT", Local::Quit),
        ] {
            for (locked, arriving) in [(true, false), (false, true), (true, true)] {
                assert_eq!(
                    told(line, locked, arriving, false),
                    Route::Local(local),
                    "{line}"
                );
            }
            assert_eq!(told(line, true, true, true), Route::Unsettled, "{line}");
        }
        assert_eq!(told("PING", false, true, false), Route::Shared);
        assert_eq!(told("POST / HTTP/1.1", false, true, true), Route::Alien);
    }

    #[test]
    fn denied_commands_are_told_by_their_names() {
        let deny = DenySet::build(&["flushall", "@dangerous", "json.get"]).unwrap();
        for (line, name) in [
            ("FLUSHALL", "flushall"),
            ("keys *", "keys"),
            ("JSON.GET k", "json.get"),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let bytes = encode_request(&words);
            let rules = Rules {
                deny: Some(Denial {
                    commands: &deny,
                    refusal: &|name| name.into(),
                }),
                ..Rules::default()
            };
            let routed = route(words[0].as_bytes(), &Request::new(&bytes), &rules).route;
            assert_eq!(routed, Route::Refused(name.into()), "{line}");
        }
    }

    #[test]
    fn a_whole_transaction_is_told_from_the_rest() {
        let whole = pipeline(&["MULTI", "SET a 1", "INCR b", "EXEC", "GET a"]);
        let length = whole.len() - pipeline(&["GET a"]).len();
        let delays = Delays::PAUSE;
        assert_eq!(
            ahead(&whole),
            Block::Whole {
                length,
                count: 4,
                delays
            }
        );
        assert_eq!(ahead(&whole[..length - 1]), Block::Partial);
        assert_eq!(ahead(&pipeline(&["MULTI"])), Block::Partial);
        for inner in [
            "BLPOP k 0",
            "SELECT 3",
            "WATCH k",
            "CLIENT KILL x",
            "SUBSCRIBE c",
            "MULTI",
            "HELLO 3",
            "EXEC now",
            "FUNCTION LOAD x",
            "EVAL x 0",
            "json.get k",
        ] {
            assert_eq!(
                ahead(&pipeline(&["MULTI", inner, "EXEC"])),
                Block::Pinned,
                "{inner}"
            );
        }
        assert_eq!(
            block(
                &pipeline(&["MULTI", "SET a 1"]),
                40,
                1000,
                &Rules::default()
            ),
            Block::Pinned
        );
    }

    #[test]
    fn a_replica_is_sent_no_write_and_no_script_that_may_write_beside_others() {
        let learned = Learned::from_command_reply(
            b"*2\r\n*6\r\n$5\r\nblpop\r\n:-3\r\n*1\r\n+blocking\r\n:1\r\n:-2\r\n:1\r\n\
              *7\r\n$5\r\nm.put\r\n:2\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n*0\r\n",
        )
        .unwrap();
        let knows = Rules {
            learned: Some(&learned),
            ..Rules::default()
        };
        for line in [
            "SET k v",
            "sort l",
            "BLPOP l 0",
            "xreadgroup GROUP g c STREAMS s >",
            "function load x",
            "m.put k",
        ] {
            assert_eq!(
                on_replica(line, knows),
                Route::Refused(READ_ONLY.to_vec()),
                "{line}"
            );
        }
        for line in ["GET k", "SET k", "PFCOUNT k", "PUBLISH c m", "sort_ro l"] {
            assert_eq!(on_replica(line, knows), Route::Shared, "{line}");
        }
        for line in ["eval_ro x 0", "m.put k k"] {
            assert_eq!(on_replica(line, knows), Route::Fenced, "{line}");
        }
        assert_eq!(
            on_replica("m.get k", knows),
            Route::Pinned(PinReason::Unlisted)
        );
        for line in ["eval x 0", "EVALSHA x 0", "fcall f 0"] {
            assert_eq!(
                on_replica(line, knows),
                Route::Pinned(PinReason::ReplicaScript),
                "{line}"
            );
        }
        assert_eq!(
            on_replica("m.get k", Rules::default()),
            Route::Pinned(PinReason::Learned),
            "nobody has told yet whether it writes"
        );
        let deny = DenySet::build(&["set"]).unwrap();
        let denies = Rules {
            deny: Some(Denial {
                commands: &deny,
                refusal: &|name| name.into(),
            }),
            ..Rules::default()
        };
        assert_eq!(on_replica("SET k v", denies), Route::Refused("set".into()));
    }
}
