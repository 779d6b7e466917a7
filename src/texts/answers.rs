//! What a server answers to commands of its connection alone.

use super::ServerVersion;
use crate::resp::LineSyntax;
use crate::resp::speak::{OK, error, until_nul};

/// Answers a command of clusters, on a server that is none.
const NO_CLUSTER: &[u8] = b"-ERR This instance has cluster support disabled\r\n";

/// Answers a number that is none.
pub const NOT_AN_INTEGER: &[u8] = b"-ERR value is not an integer or out of range\r\n";

/// Answers a number that does not fit into 32 bits.
pub const NOT_AN_INT: &[u8] =
    b"-ERR value is out of range, value must between -2147483648 and 2147483647\r\n";

/// Answers words that make no sense to a command.
pub const SYNTAX_ERROR: &[u8] = b"-ERR syntax error\r\n";

/// Answers SELECT of a database below 0.
pub const NO_SUCH_DATABASE: &[u8] = b"-ERR DB index is out of range\r\n";

/// Answers HELLO with a protocol version that there is not.
pub const NO_SUCH_PROTOCOL: &[u8] = b"-NOPROTO unsupported protocol version\r\n";

/// Answers HELLO with a protocol version that is no number.
pub const PROTOCOL_NOT_AN_INTEGER: &[u8] =
    b"-ERR Protocol version is not an integer or out of range\r\n";

/// Answers a name that holds what would break CLIENT LIST.
pub const BAD_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// Answers a CLIENT KILL of the old form that meets nobody.
pub const NO_SUCH_CLIENT: &str = "ERR No such client";

/// Answers CLIENT UNBLOCK with a reason that there is not.
pub const NO_SUCH_REASON: &str = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";

/// Answers each command of a client for whom there is no place.
pub const TOO_MANY_CLIENTS: &str = "-ERR max number of clients reached";

/// Answers RESET wherever it is sent.
pub const RESET: &[u8] = b"+RESET\r\n";

/// Answers a command that waits for EXEC.
pub const QUEUED: &[u8] = b"+QUEUED\r\n";

/// Answers DISCARD outside of MULTI.
pub const NOTHING_TO_DISCARD: &[u8] = b"-ERR DISCARD without MULTI\r\n";

/// Answers a write that is sent to a replica (`shared.roslaveerr`).
pub const READ_ONLY: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";

/// Answers a command whose key is of another kind.
pub const OTHER_KIND: &[u8] =
    b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// Answers a call that CLIENT UNBLOCK has ended with an error.
pub const UNBLOCKED: &[u8] = b"-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";

/// Answers any command but those that authenticate, of whoever has not done so.
pub const NOAUTH: &[u8] = b"-NOAUTH Authentication required.\r\n";

/// Answers for a user that there is not, or whose password is another.
pub const WRONGPASS: &[u8] = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n";

/// Answers `AUTH password` where the default user has none.
pub const NO_PASSWORD: &[u8] =
    b"-ERR AUTH <password> called without any password configured for the default user. Are you \
    sure your configuration is correct?\r\n";

/// Answers a word in HELLO that is none of its options.
pub fn bad_hello_option(option: &[u8]) -> Vec<u8> {
    error(
        [
            b"ERR Syntax error in HELLO option '",
            until_nul(option),
            b"'",
        ]
        .concat(),
    )
}

/// Answers CLIENT SETINFO of an attribute that there is not.
pub fn unknown_attribute(attribute: &[u8]) -> Vec<u8> {
    error([b"ERR Unrecognized option '", until_nul(attribute), b"'"].concat())
}

/// Answers CLIENT SETINFO with what would break CLIENT LIST.
pub fn bad_attribute(attribute: &[u8]) -> Vec<u8> {
    let what = b" cannot contain spaces, newlines or special characters.";
    error([b"ERR ", attribute, what].concat())
}

/// Tells, on a Redis from 7.0 to 7.1, who is blocked in XREADGROUP that the stream is no stream any more.
pub const STREAM_GONE: &[u8] = b"-UNBLOCKED the stream key no longer exists\r\n";

/// Tells, on a Redis up to 7.1, who is blocked in XREADGROUP that the stream is there and the group is not.
pub const GROUP_GONE: &[u8] =
    b"-NOGROUP the consumer group this client was blocked on no longer exists\r\n";

/// Tells whether READONLY is taken outside of a cluster: Valkey's replicas go by it where a client follows redirections.
pub fn takes_readonly(server: ServerVersion) -> bool {
    server.is_valkey_from((8, 0))
}

/// Tells whether a request without a word is one for CLIENT REPLY SKIP and CLIENT CACHING, which speak of the next: `line` is its text
/// where it is a line, and empty where it is `*0`. Redis 8.2 was seen to count none, and Valkey no line of white space.
pub fn counts_without_a_word(server: ServerVersion, line: &[u8]) -> bool {
    match server.is_valkey_from((8, 1)) {
        true => line.is_empty(),
        false => !server.is_from((8, 2)),
    }
}

/// Tells by whose rules a request that is a line of words is read.
pub fn line_syntax(server: ServerVersion) -> LineSyntax {
    match server.is_valkey_from((9, 1)) {
        true => LineSyntax::Valkey,
        false => LineSyntax::Redis,
    }
}

/// Answers READONLY outside of a cluster.
pub fn readonly(server: ServerVersion) -> &'static [u8] {
    if takes_readonly(server) {
        OK
    } else {
        NO_CLUSTER
    }
}

/// Answers READWRITE. Redis 6.2 takes it anywhere.
pub fn readwrite(server: ServerVersion) -> &'static [u8] {
    if takes_readonly(server) || !server.is_from((7, 0)) {
        OK
    } else {
        NO_CLUSTER
    }
}

/// Answers ASKING outside of a cluster.
pub fn asking() -> &'static [u8] {
    NO_CLUSTER
}

/// Answers CLIENT IMPORT-SOURCE, which means something only to a server that imports data. Respool's connections are not for that.
pub fn import_source(is_off: bool) -> &'static [u8] {
    if is_off {
        OK
    } else {
        b"-ERR Server is not in import mode\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Seen.
    #[test]
    fn what_a_client_has_sent_is_repeated_as_it_is_up_to_a_nul() {
        assert_eq!(
            bad_hello_option(b"a\xff\r\n\0b"),
            b"-ERR Syntax error in HELLO option 'a\xff  '\r\n"
        );
        assert_eq!(
            unknown_attribute(b"a\xff\0b"),
            b"-ERR Unrecognized option 'a\xff'\r\n"
        );
    }

    #[test]
    fn a_request_without_a_word_counts_as_on_each_server() {
        let counts = |server| [b"".as_slice(), b" \t"].map(|l| counts_without_a_word(server, l));
        for (server, seen) in [
            (ServerVersion::redis(6, 2, 5), [true, true]),
            (ServerVersion::redis(7, 0, 15), [true, true]),
            (ServerVersion::redis(8, 2, 3), [false, false]),
            (ServerVersion::valkey(8, 1, 8), [true, false]),
            (ServerVersion::valkey(9, 1, 2), [true, false]),
        ] {
            assert_eq!(counts(server), seen, "{server:?}");
        }
    }
}
