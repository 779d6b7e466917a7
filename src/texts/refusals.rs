//! What the server refuses a request with before it runs it.

use super::ServerVersion;
use crate::resp::Request;
use crate::resp::speak::{error, until_nul};

/// Bounds the bytes of a word that an error repeats.
const MOST_SHOWN: usize = 128;

/// Answers HELLO without AUTH among its options, of whoever has not authenticated.
pub fn hello_without_auth(server: ServerVersion) -> &'static [u8] {
    if server.is_from((7, 2)) {
        b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
          option can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
    } else {
        b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option \
          can be used to authenticate the client and select the RESP protocol version at the same time\r\n"
    }
}

/// Tells whether who has not authenticated is told so whatever is wrong with a request beside, or only where nothing
/// is.
pub fn asks_authentication_first(server: ServerVersion) -> bool {
    server.is_valkey_from((9, 1))
}

/// Tells whether what no client sends (`POST`, `Host:`) ends a connection before it is asked whether that has
/// authenticated: up to Redis 6.2 they are commands like others.
pub fn closes_aliens_first(server: ServerVersion) -> bool {
    server.is_from((7, 0))
}

/// Tells whether RESET is for those who have not authenticated, too.
pub fn resets_strangers(server: ServerVersion) -> bool {
    server.is_from((7, 0))
}

/// Answers too few or too many words for the command `name`, of the command table.
pub fn wrong_arity(server: ServerVersion, name: &str, request: &Request<'_>) -> Vec<u8> {
    if name.contains('|') && !server.is_from((7, 0)) {
        // Each subcommand looked after itself then.
        return match name {
            "client|kill" => error("ERR syntax error"),
            _ => unknown_subcommand(server, request),
        };
    }
    error(format!(
        "ERR wrong number of arguments for '{name}' command"
    ))
}

/// Answers a subcommand that there is not.
pub fn unknown_subcommand(server: ServerVersion, request: &Request<'_>) -> Vec<u8> {
    if !server.is_from((7, 0)) {
        let word = until_nul(request.argument(1).unwrap_or_default());
        return subcommand_refusal(
            "Unknown subcommand or wrong number of arguments for",
            word,
            request,
        );
    }
    subcommand_refusal(
        "unknown subcommand",
        first_bytes(request.argument(1)),
        request,
    )
}

/// Answers a subcommand whose words make no sense to itself.
pub fn senseless_subcommand(server: ServerVersion, request: &Request<'_>) -> Vec<u8> {
    if !server.is_from((7, 0)) {
        return unknown_subcommand(server, request);
    }
    let what = "unknown subcommand or wrong number of arguments for";
    subcommand_refusal(what, first_bytes(request.argument(1)), request)
}

fn subcommand_refusal(what: &str, word: &[u8], request: &Request<'_>) -> Vec<u8> {
    let container = until_nul(request.argument(0).unwrap_or_default()).to_ascii_uppercase();
    let mut text = format!("ERR {what} '").into_bytes();
    text.extend_from_slice(word);
    text.extend_from_slice(b"'. Try ");
    text.extend(container);
    text.extend_from_slice(b" HELP.");
    error(text)
}

/// Answers a command that there is not.
pub fn unknown_command(server: ServerVersion, request: &Request<'_>) -> Vec<u8> {
    let mut arguments = request.arguments();
    let name = arguments.next().unwrap_or_default();
    let (quotes, separator, name) = if server.is_from((7, 0)) {
        (["'", "'"], " ", first_bytes(Some(name)))
    } else {
        (["`", "`"], ", ", until_nul(name))
    };
    let mut text = format!("ERR unknown command {}", quotes[0]).into_bytes();
    text.extend_from_slice(name);
    text.extend_from_slice(quotes[1].as_bytes());
    text.extend_from_slice(b", with args beginning with: ");
    let begins = text.len();
    for argument in arguments {
        let shown = text.len() - begins;
        if shown >= MOST_SHOWN {
            break;
        }
        let piece = until_nul(argument);
        text.extend_from_slice(quotes[0].as_bytes());
        text.extend_from_slice(&piece[..piece.len().min(MOST_SHOWN - shown)]);
        text.extend_from_slice(quotes[1].as_bytes());
        text.extend_from_slice(separator.as_bytes());
    }
    error(text)
}

/// Answers a command that the rules for its user do not permit.
pub fn no_permission(server: ServerVersion, user: &[u8], command: &str) -> Vec<u8> {
    if server.is_from((7, 2)) {
        let what = format!(" has no permissions to run the '{command}' command");
        return error([b"NOPERM User ", user, what.as_bytes()].concat());
    }
    let this_user = "NOPERM this user has no permissions to run the";
    error(if server.is_from((7, 0)) {
        format!("{this_user} '{command}' command")
    } else {
        let container = container(command);
        format!("{this_user} '{container}' command or its subcommand")
    })
}

/// Answers a command of a RESP2 client that is subscribed.
pub fn subscribers_may_not(server: ServerVersion, command: &str) -> Vec<u8> {
    let (letters, command) = if server.is_from((7, 0)) {
        ("P|S", command)
    } else {
        ("P", container(command))
    };
    error(format!(
        "ERR Can't execute '{command}': only ({letters})SUBSCRIBE / ({letters})UNSUBSCRIBE / PING / QUIT / RESET are allowed \
         in this context"
    ))
}

/// Tells whether MULTI and WATCH inside MULTI spoil the transaction: on Valkey from 8.1 on, as any other error does.
pub fn nesting_spoils(server: ServerVersion) -> bool {
    server.is_valkey_from((8, 1))
}

/// Answers MULTI or WATCH, `multi` or `watch`, inside MULTI.
pub fn no_nesting(server: ServerVersion, command: &str) -> Vec<u8> {
    if server.is_valkey_from((9, 0)) {
        return error(format!(
            "ERR Command '{command}' not allowed inside a transaction"
        ));
    }
    error(match command {
        _ if nesting_spoils(server) => "ERR Command not allowed inside a transaction",
        "watch" => "ERR WATCH inside MULTI is not allowed",
        _ => "ERR MULTI calls can not be nested",
    })
}

/// Answers EXEC in the place of any of these refusals.
pub fn exec_aborted(refusal: &[u8]) -> Vec<u8> {
    let reason = refusal.get(1..).unwrap_or_default();
    // It names the code of an error that has one of its own.
    let reason = reason.strip_prefix(b"ERR ").unwrap_or(reason);
    [b"-EXECABORT Transaction discarded because of: ", reason].concat()
}

/// Returns the command whose subcommand it is, or itself.
fn container(command: &str) -> &str {
    command.split('|').next().unwrap_or(command)
}

/// Returns as much of a word as an error repeats of it.
fn first_bytes(word: Option<&[u8]>) -> &[u8] {
    let word = until_nul(word.unwrap_or_default());
    &word[..word.len().min(MOST_SHOWN)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::speak::encode_request;

    const OLD: ServerVersion = ServerVersion::redis(6, 2, 5);
    const REDIS: ServerVersion = ServerVersion::redis(7, 0, 15);
    const VALKEY: ServerVersion = ServerVersion::valkey(9, 1, 2);

    fn said(words: &[&[u8]], say: impl Fn(&Request<'_>) -> Vec<u8>) -> String {
        let bytes = encode_request(words);
        let reply = say(&Request::new(&bytes));
        let text = reply.strip_suffix(b"\r\n").expect("a line ends");
        assert!(!text.contains(&b'\n') && !text.contains(&b'\r'));
        String::from_utf8_lossy(text).into_owned()
    }

    // All texts below were seen.
    #[test]
    fn unknown_commands_are_refused_as_by_each_server() {
        let unknown =
            |server, words: &[&[u8]]| said(words, |request| unknown_command(server, request));
        let words: [&[u8]; 3] = [b"NO\r\nSUCH", b"a", b"b\r\nc"];
        assert_eq!(
            unknown(OLD, &words),
            "-ERR unknown command `NO  SUCH`, with args beginning with: `a`, `b  c`, "
        );
        for server in [REDIS, VALKEY] {
            assert_eq!(
                unknown(server, &words),
                "-ERR unknown command 'NO  SUCH', with args beginning with: 'a' 'b  c' "
            );
        }
        let long = [b'x'; 200];
        assert_eq!(
            unknown(REDIS, &[&long, b"a\0b", &long, b"more"]),
            format!(
                "-ERR unknown command '{}', with args beginning with: 'a' '{}' ",
                "x".repeat(128),
                "x".repeat(124)
            )
        );
    }

    #[test]
    fn subcommands_are_refused_as_by_each_server() {
        let arity = |server, name: &str, words: &[&[u8]]| {
            said(words, |request| wrong_arity(server, name, request))
        };
        let old = "-ERR Unknown subcommand or wrong number of arguments for 'Id'. Try CLIENT HELP.";
        assert_eq!(arity(OLD, "client|id", &[b"client", b"Id", b"x"]), old);
        assert_eq!(
            arity(OLD, "client|kill", &[b"CLIENT", b"KILL"]),
            "-ERR syntax error"
        );
        assert_eq!(
            arity(OLD, "get", &[b"get"]),
            "-ERR wrong number of arguments for 'get' command"
        );
        assert_eq!(
            arity(VALKEY, "client|id", &[b"client", b"Id", b"x"]),
            "-ERR wrong number of arguments for 'client|id' command"
        );
        let unknown = |server| {
            said(&[b"client", b"No\nSuch"], |request| {
                unknown_subcommand(server, request)
            })
        };
        assert_eq!(
            unknown(REDIS),
            "-ERR unknown subcommand 'No Such'. Try CLIENT HELP."
        );
        assert_eq!(
            unknown(OLD),
            "-ERR Unknown subcommand or wrong number of arguments for 'No Such'. Try CLIENT HELP."
        );
    }

    #[test]
    fn what_may_not_be_run_is_refused_as_by_each_server() {
        let text = |reply: Vec<u8>| String::from_utf8(reply).expect("it is text");
        for (server, denied, subscribed) in [
            (
                OLD,
                "-NOPERM this user has no permissions to run the 'client' command or its subcommand\r\n",
                "-ERR Can't execute 'client': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
                 context\r\n",
            ),
            (
                REDIS,
                "-NOPERM this user has no permissions to run the 'client|list' command\r\n",
                "-ERR Can't execute 'client|list': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                 in this context\r\n",
            ),
            (
                VALKEY,
                "-NOPERM User u has no permissions to run the 'client|list' command\r\n",
                "-ERR Can't execute 'client|list': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
                 in this context\r\n",
            ),
        ] {
            assert_eq!(text(no_permission(server, b"u", "client|list")), denied);
            assert_eq!(text(subscribers_may_not(server, "client|list")), subscribed);
        }
        assert_eq!(
            exec_aborted(b"-ERR wrong number of arguments for 'exec' command\r\n"),
            b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"
        );
    }
}
