//! What is done with a request, by its route, its size and what its client is in the middle of: decided here and nowhere else.

use super::malformed::malformed;
use super::route::{Route, Routed};
use super::state::Protocol;
use super::tracking_request::TrackingRequest;
use crate::command::{CommandId, Delays, Local, PinReason, TransactionCommand, spec};
use crate::resp::Request;
use crate::texts::{ServerVersion, exec_aborted, subscribers_may_not};

/// Says what a client is in the middle of, as far as that decides what is done with its next request. A server lets a client be in
/// the middle of more than one of these.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mode {
    /// Says what is lent to it.
    pub loan: Loan,
    /// Names the protocol in which it is subscribed to something.
    pub subscribed: Option<Protocol>,
    /// Is true while a busy server has not been told of its transaction.
    pub is_unplaced: bool,
    /// Is true while what needs the server is refused, since that cannot be asked.
    pub is_unserved: bool,
}

/// Says what is lent to a client.
#[derive(Debug, Clone, Copy, Default)]
pub enum Loan {
    /// Nothing is lent: its requests share connections.
    #[default]
    Nothing,
    /// A connection is lent, to which all its requests go.
    Connection(LentUse),
    /// A connection is lent, all frames of which are passed on as they come, since they may be messages or the commands of everybody.
    Stream,
}

/// Says what a client does with the connection lent to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct LentUse {
    /// Is true while SCRIPT DEBUG is on.
    pub debugs: bool,
    /// Is true while replies are due on one that was lent since the shared ones are held up.
    pub is_stand_in_due: bool,
    /// Is true while something has to be seen to before an EXEC is sent.
    pub prepares_exec: bool,
    /// Is true while its invalidations are redirected, or may be by what is queued.
    pub redirects: bool,
}

/// Says of what size a request is, and what is known of its kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Is true of one that is too large to share a connection.
    pub is_large: bool,
    /// Is true of one that may publish what is too much for somebody.
    pub is_weighty: bool,
    /// Is true where it cannot be told from what the server writes whether a reply of more than one frame has ended.
    pub is_distrusted: bool,
}

/// Says what is done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Destination<'a> {
    /// It is sent, or answered, amid what the connection lent to its client carries.
    Stream,
    /// It is answered as part of a transaction that a busy server has not been told of, where it is one.
    Unplaced,
    /// It is looked at again when all before it has been answered.
    Behind,
    /// It waits for its client to get a place.
    Unsettled,
    /// It ends its client without a word.
    Alien,
    /// It is answered with this error, which makes the open transaction fail, if one is.
    Refused(&'a [u8]),
    /// It is answered with this error, being none of the few that a subscriber in RESP2 may send.
    NotOfSubscriber(Vec<u8>),
    /// It is answered with what all that need the server are refused with now.
    Unserved,
    /// It is answered so too, being a command of a transaction: others belong to it.
    UnservedTransaction(TransactionCommand),
    /// It is answered by respool.
    Local(Local),
    /// It is sent on a shared connection, and may be delayed by this.
    Shared(Delays),
    /// It is sent on a shared connection, with a fence behind it.
    Fenced,
    /// It begins a transaction, or a watch: on a shared connection where the transaction is here as a whole, else on one that is lent
    /// for it.
    Begin(TransactionCommand),
    /// It is a command of a transaction, and is sent on the connection lent to its client.
    Transaction(TransactionCommand),
    /// It is about tracking, and is sent on a connection lent to its client.
    Tracking,
    /// It is sent on a connection lent to its client for this reason.
    Lent(PinReason),
    /// It is sent so too, and its reply may be more than one frame.
    LentInDoubt(PinReason),
    /// It has a story.
    Story(StoryKind),
}

/// Names the stories of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoryKind {
    /// It is a subscription command.
    Subscription,
    /// It is PING of a subscriber.
    Ping,
    /// It is a call that may wait for an element, for this reason.
    Blocking(PinReason),
    /// It is an EXEC before which something has to be seen to.
    Exec,
    /// It is WAIT or WAITAOF.
    Wait,
    /// It is MONITOR, whose client is shown what all others send.
    Monitor,
    /// It names a client to which invalidations are redirected, or is told which.
    Redirection,
    /// It is SCRIPT DEBUG.
    ScriptDebug,
    /// It is a script that the server runs under its debugger.
    Debugged,
    /// It may publish what is too much for somebody.
    Publish,
}

/// Decides what is done with a request.
pub fn destination<'a>(
    routed: &'a Routed,
    request: &Request<'_>,
    mode: &Mode,
    measured: Measured,
    server: ServerVersion,
) -> Destination<'a> {
    let lent = match mode.loan {
        Loan::Stream => return Destination::Stream,
        Loan::Connection(lent) => Some(lent),
        Loan::Nothing => None,
    };
    if lent.is_some_and(|lent| lent.debugs) && is_debugged(routed) {
        return Destination::Story(StoryKind::Debugged);
    }
    if mode.subscribed == Some(Protocol::Resp2) {
        if let Some(reply) = subscriber_refusal(server, request, routed) {
            return Destination::NotOfSubscriber(reply);
        }
        if routed.route == Route::Shared && is_ping(routed.command) {
            return Destination::Story(StoryKind::Ping);
        }
    }
    if mode.is_unplaced {
        return Destination::Unplaced;
    }
    if lent.is_some_and(|lent| lent.is_stand_in_due) && !may_follow_on_stand_in(routed) {
        return Destination::Behind;
    }
    match &routed.route {
        Route::Unsettled => Destination::Unsettled,
        Route::Alien => Destination::Alien,
        Route::Refused(reply) => Destination::Refused(reply),
        Route::Local(Local::NumSub | Local::ShardNumSub) if mode.is_unserved => {
            Destination::Unserved
        }
        &Route::Local(local) => Destination::Local(local),
        &Route::Transaction(verb) if mode.is_unserved => Destination::UnservedTransaction(verb),
        _ if mode.is_unserved => Destination::Unserved,
        Route::Shared => shared(routed.command, mode, measured),
        Route::Fenced if measured.is_large => Destination::LentInDoubt(PinReason::LargeRequest),
        Route::Fenced if lent.is_some() || measured.is_distrusted => {
            Destination::LentInDoubt(PinReason::RawError)
        }
        Route::Fenced => Destination::Fenced,
        &Route::Transaction(verb) => of_transaction(verb, request, lent),
        &Route::Pinned(reason) => pinned(reason, routed.command, request, lent),
        Route::Subscribed => Destination::Story(StoryKind::Subscription),
    }
}

/// Decides what is done with a request that leaves no trace.
fn shared(command: Option<CommandId>, mode: &Mode, measured: Measured) -> Destination<'static> {
    match mode.loan {
        _ if mode.subscribed.is_some() && is_ping(command) => Destination::Story(StoryKind::Ping),
        _ if measured.is_weighty => Destination::Story(StoryKind::Publish),
        Loan::Nothing if !measured.is_large => Destination::Shared(Delays::of(command)),
        // Where a connection is lent already the reason lends nothing.
        _ => Destination::Lent(PinReason::LargeRequest),
    }
}

/// Decides what is done with a command of a transaction.
fn of_transaction(
    verb: TransactionCommand,
    request: &Request<'_>,
    lent: Option<LentUse>,
) -> Destination<'static> {
    let is_whole = request.count() == 1;
    match (verb, lent) {
        (TransactionCommand::Exec, Some(lent)) if lent.prepares_exec && is_whole => {
            Destination::Story(StoryKind::Exec)
        }
        (_, Some(_)) => Destination::Transaction(verb),
        (TransactionCommand::Watch, None) => Destination::Begin(verb),
        (TransactionCommand::Multi, None) if is_whole => Destination::Begin(verb),
        // Without a transaction these leave no trace.
        (_, None) => Destination::Shared(Delays::NONE),
    }
}

/// Decides what is done with a request that needs a connection lent to its client.
fn pinned(
    reason: PinReason,
    command: Option<CommandId>,
    request: &Request<'_>,
    lent: Option<LentUse>,
) -> Destination<'static> {
    match reason {
        PinReason::Blocking | PinReason::BlockingOption if lent.is_none() => {
            Destination::Story(StoryKind::Blocking(reason))
        }
        PinReason::Wait => Destination::Story(StoryKind::Wait),
        PinReason::Monitor => Destination::Story(StoryKind::Monitor),
        PinReason::ScriptDebug => Destination::Story(StoryKind::ScriptDebug),
        PinReason::Tracking => {
            let asked = TrackingRequest::by(request);
            if asked.names_a_client(lent.is_some_and(|lent| lent.redirects)) {
                Destination::Story(StoryKind::Redirection)
            } else if lent.is_none() && asked.changes_nothing() {
                // Where tracking is off, as on every shared connection, it leaves no trace.
                Destination::Shared(Delays::of(command))
            } else {
                Destination::Tracking
            }
        }
        _ => Destination::Lent(reason),
    }
}

/// Tells whether a request is a script that the server runs under its debugger where SCRIPT DEBUG is on.
fn is_debugged(routed: &Routed) -> bool {
    let is_script = |id| matches!(spec(id).name, "eval" | "eval_ro");
    matches!(
        routed.route,
        Route::Fenced | Route::Pinned(PinReason::ReplicaScript)
    ) && routed.command.is_some_and(is_script)
}

/// Tells whether a request may follow others on a connection that was lent since shared ones are held up: one that may be held up
/// itself might keep it.
fn may_follow_on_stand_in(routed: &Routed) -> bool {
    routed.route == Route::Shared && !Delays::of(routed.command).may_pause()
}

fn is_ping(command: Option<CommandId>) -> bool {
    command.is_some_and(|id| spec(id).name == "ping")
}

/// Returns what a subscriber in RESP2 gets for a request that is none of the few that it may send. `None`: it may send it, or the server
/// answers, since the table does not know the command: nearly always, that it does not know it either.
pub fn subscriber_refusal(
    server: ServerVersion,
    request: &Request<'_>,
    routed: &Routed,
) -> Option<Vec<u8>> {
    if matches!(
        routed.route,
        Route::Subscribed | Route::Alien | Route::Local(Local::Quit | Local::Reset)
    ) {
        return None;
    }
    let name = spec(routed.command?).name;
    malformed(server, request, routed.command).or_else(|| match name {
        "ping" => None,
        "exec" => Some(exec_aborted(&subscribers_may_not(server, name))),
        _ => Some(subscribers_may_not(server, name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;
    use crate::session::{Rules, route};

    const LARGE: Measured = Measured {
        is_large: true,
        is_weighty: false,
        is_distrusted: false,
    };

    const LENT: LentUse = LentUse {
        debugs: false,
        is_stand_in_due: false,
        prepares_exec: false,
        redirects: false,
    };

    fn lent(lent: LentUse) -> Mode {
        Mode {
            loan: Loan::Connection(lent),
            ..Mode::default()
        }
    }

    fn subscribed(protocol: Protocol) -> Mode {
        Mode {
            subscribed: Some(protocol),
            ..Mode::default()
        }
    }

    fn unserved(mode: Mode) -> Mode {
        Mode {
            is_unserved: true,
            ..mode
        }
    }

    fn unplaced(mode: Mode) -> Mode {
        Mode {
            is_unplaced: true,
            ..mode
        }
    }

    /// Shows what is done with a request, as its debug text.
    fn of(line: &str, mode: &Mode, measured: Measured) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = encode_request(&words);
        let request = Request::new(&bytes);
        let routed = route(words[0].as_bytes(), &request, &Rules::default());
        let server = ServerVersion::UNKNOWN;
        match destination(&routed, &request, mode, measured, server) {
            Destination::Refused(_) => "Refused".to_owned(),
            Destination::NotOfSubscriber(_) => "NotOfSubscriber".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// Lists where each goes of a client that shares connections, of one that is lent one, and of one that is refused what needs the server.
    const KINDS: &[(&str, &str, &str, &str)] = &[
        (
            "GET k",
            "Shared(Delays(0))",
            "Lent(LargeRequest)",
            "Unserved",
        ),
        (
            "SET k v",
            "Shared(Delays(2))",
            "Lent(LargeRequest)",
            "Unserved",
        ),
        ("EVAL x 0", "Fenced", "LentInDoubt(RawError)", "Unserved"),
        (
            "BLPOP k 0",
            "Story(Blocking(Blocking))",
            "Lent(Blocking)",
            "Unserved",
        ),
        (
            "XREAD BLOCK 0 STREAMS s 0",
            "Story(Blocking(BlockingOption))",
            "Lent(BlockingOption)",
            "Unserved",
        ),
        (
            "MULTI",
            "Begin(Multi)",
            "Transaction(Multi)",
            "UnservedTransaction(Multi)",
        ),
        (
            "MULTI x",
            "Shared(Delays(0))",
            "Transaction(Multi)",
            "UnservedTransaction(Multi)",
        ),
        (
            "WATCH k",
            "Begin(Watch)",
            "Transaction(Watch)",
            "UnservedTransaction(Watch)",
        ),
        (
            "EXEC",
            "Shared(Delays(0))",
            "Transaction(Exec)",
            "UnservedTransaction(Exec)",
        ),
        (
            "DISCARD",
            "Shared(Delays(0))",
            "Transaction(Discard)",
            "UnservedTransaction(Discard)",
        ),
        (
            "UNWATCH",
            "Shared(Delays(0))",
            "Transaction(Unwatch)",
            "UnservedTransaction(Unwatch)",
        ),
        ("WAIT 1 0", "Story(Wait)", "Story(Wait)", "Unserved"),
        ("MONITOR", "Story(Monitor)", "Story(Monitor)", "Unserved"),
        (
            "SCRIPT DEBUG yes",
            "Story(ScriptDebug)",
            "Story(ScriptDebug)",
            "Unserved",
        ),
        ("CLIENT TRACKING on", "Tracking", "Tracking", "Unserved"),
        (
            "CLIENT TRACKING off",
            "Shared(Delays(0))",
            "Tracking",
            "Unserved",
        ),
        (
            "CLIENT CACHING yes",
            "Shared(Delays(0))",
            "Tracking",
            "Unserved",
        ),
        (
            "CLIENT GETREDIR",
            "Shared(Delays(0))",
            "Tracking",
            "Unserved",
        ),
        (
            "CLIENT TRACKING on REDIRECT 7",
            "Story(Redirection)",
            "Story(Redirection)",
            "Unserved",
        ),
        ("CLIENT PAUSE 7", "Lent(Pause)", "Lent(Pause)", "Unserved"),
        ("json.get k", "Lent(Unlisted)", "Lent(Unlisted)", "Unserved"),
        (
            "SUBSCRIBE c",
            "Story(Subscription)",
            "Story(Subscription)",
            "Unserved",
        ),
        (
            "SELECT 3",
            "Local(Select)",
            "Local(Select)",
            "Local(Select)",
        ),
        (
            "PUBSUB NUMSUB c",
            "Local(NumSub)",
            "Local(NumSub)",
            "Unserved",
        ),
        ("PSYNC ? -1", "Refused", "Refused", "Refused"),
        ("POST /", "Alien", "Alien", "Alien"),
    ];

    #[test]
    fn each_kind_of_command_goes_where_it_must_in_each_mode() {
        let plain = Mode::default();
        let on_lent = lent(LENT);
        for &(line, shares, has_one, is_unserved) in KINDS {
            let usual = Measured::default();
            assert_eq!(of(line, &plain, usual), shares, "{line}");
            assert_eq!(of(line, &on_lent, usual), has_one, "{line}");
            assert_eq!(of(line, &unserved(plain), usual), is_unserved, "{line}");
            assert_eq!(of(line, &unserved(on_lent), usual), is_unserved, "{line}");
            let resp3 = subscribed(Protocol::Resp3);
            assert_eq!(of(line, &resp3, usual), shares, "{line}");
            assert_eq!(of(line, &unplaced(plain), usual), "Unplaced", "{line}");
            let stream = Mode {
                loan: Loan::Stream,
                ..unserved(unplaced(resp3))
            };
            assert_eq!(of(line, &stream, LARGE), "Stream", "{line}");
        }
    }

    #[test]
    fn what_is_too_large_to_share_is_lent_a_connection() {
        for (line, expected) in [
            ("GET k", "Lent(LargeRequest)"),
            ("EVAL x 0", "LentInDoubt(LargeRequest)"),
            ("BLPOP k 0", "Story(Blocking(Blocking))"),
            ("SUBSCRIBE c", "Story(Subscription)"),
        ] {
            assert_eq!(of(line, &Mode::default(), LARGE), expected, "{line}");
        }
        let distrusted = Measured {
            is_distrusted: true,
            ..Measured::default()
        };
        let fenced = of("EVAL x 0", &Mode::default(), distrusted);
        assert_eq!(fenced, "LentInDoubt(RawError)");
        let weighty = Measured {
            is_weighty: true,
            ..LARGE
        };
        for mode in [Mode::default(), lent(LENT)] {
            assert_eq!(of("PUBLISH c m", &mode, weighty), "Story(Publish)");
        }
    }

    #[test]
    fn a_subscriber_in_resp2_may_do_little_else_whatever_it_is_in_the_middle_of() {
        let usual = Measured::default();
        for loan in [Loan::Nothing, Loan::Connection(LENT)] {
            let mode = Mode {
                loan,
                ..unplaced(unserved(subscribed(Protocol::Resp2)))
            };
            for line in ["GET k", "MULTI", "EXEC", "HELLO 3", "BLPOP k 0"] {
                assert_eq!(of(line, &mode, usual), "NotOfSubscriber", "{line}");
            }
            assert_eq!(of("PING", &mode, usual), "Story(Ping)");
            for line in ["SUBSCRIBE c", "QUIT", "RESET", "json.get k"] {
                assert_eq!(of(line, &mode, usual), "Unplaced", "{line}");
            }
        }
        let mode = subscribed(Protocol::Resp2);
        assert_eq!(of("SUBSCRIBE d", &mode, usual), "Story(Subscription)");
        assert_eq!(of("QUIT", &mode, usual), "Local(Quit)");
        let resp3 = subscribed(Protocol::Resp3);
        assert_eq!(of("PING", &resp3, usual), "Story(Ping)");
        assert_eq!(of("PING", &unserved(resp3), usual), "Unserved");
        let bytes = encode_request(&["PING"]);
        let routed = Routed {
            command: crate::command::lookup(b"ping"),
            route: Route::Refused(b"-NOPERM\r\n".to_vec()),
        };
        let request = Request::new(&bytes);
        let told = destination(&routed, &request, &mode, usual, ServerVersion::UNKNOWN);
        assert_eq!(told, Destination::Refused(b"-NOPERM\r\n"));
    }

    #[test]
    fn what_a_lent_connection_is_used_for_decides_too() {
        let usual = Measured::default();
        let debugs = lent(LentUse {
            debugs: true,
            ..LENT
        });
        assert_eq!(of("EVAL x 0", &debugs, usual), "Story(Debugged)");
        assert_eq!(of("EVALSHA x 0", &debugs, usual), "LentInDoubt(RawError)");
        let prepares = lent(LentUse {
            prepares_exec: true,
            ..LENT
        });
        assert_eq!(of("EXEC", &prepares, usual), "Story(Exec)");
        assert_eq!(of("EXEC now", &prepares, usual), "Transaction(Exec)");
        assert_eq!(of("DISCARD", &prepares, usual), "Transaction(Discard)");
        let redirects = lent(LentUse {
            redirects: true,
            ..LENT
        });
        assert_eq!(
            of("CLIENT GETREDIR", &redirects, usual),
            "Story(Redirection)"
        );
        assert_eq!(of("CLIENT CACHING yes", &redirects, usual), "Tracking");
        let stands_in = lent(LentUse {
            is_stand_in_due: true,
            ..LENT
        });
        assert_eq!(of("GET k", &stands_in, usual), "Lent(LargeRequest)");
        for line in ["SET k v", "EVAL x 0", "SELECT 3", "MULTI"] {
            assert_eq!(of(line, &stands_in, usual), "Behind", "{line}");
        }
    }
}
