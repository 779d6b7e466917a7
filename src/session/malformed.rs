//! What a server finds wrong with a request before it asks who has sent it, in which mode, and whether they may.

use crate::command::{CommandId, is_container, spec};
use crate::resp::Request;
use crate::texts::{
    NOAUTH, ServerVersion, asks_authentication_first, exec_aborted, has_command, unknown_command,
    unknown_subcommand, wrong_arity,
};

/// Returns the server's answer to a request with too few or too many words; `None`: it has as many as it needs.
pub fn miscounted(
    server: ServerVersion,
    request: &Request<'_>,
    command: Option<CommandId>,
) -> Option<Vec<u8>> {
    let spec = command.map(spec)?;
    let (arity, count) = (i64::from(spec.arity), request.count() as i64);
    let is_wrong = (arity > 0 && count != arity) || count < arity.abs();
    is_wrong.then(|| wrong_arity(server, spec.name, request))
}

/// Returns the server's answer to a request that it does not understand: the command is unknown, or the subcommand, or there are too
/// few or too many words.
pub fn malformed(
    server: ServerVersion,
    request: &Request<'_>,
    command: Option<CommandId>,
) -> Option<Vec<u8>> {
    let Some(id) = command else {
        return Some(unknown_command(server, request));
    };
    let name = spec(id).name;
    let knows_subcommands = server.is_from((7, 0));
    let is_subcommand = name.contains('|');
    if !has_command(server, name) {
        return match is_subcommand && has_command(server, container(name)) {
            false => Some(unknown_command(server, request)),
            true if knows_subcommands => Some(unknown_subcommand(server, request)),
            true => None,
        };
    }
    if is_container(id) && request.count() > 1 {
        return knows_subcommands.then(|| unknown_subcommand(server, request));
    }
    if is_subcommand && !knows_subcommands {
        return None;
    }
    let reply = miscounted(server, request, command)?;
    Some(if name == "exec" {
        exec_aborted(&reply)
    } else {
        reply
    })
}

/// Returns what a subcommand says itself of its words, on a server on which subcommands are no commands of their own: it is not
/// there, or there are too few or too many of them.
pub fn misused(
    server: ServerVersion,
    request: &Request<'_>,
    command: Option<CommandId>,
) -> Option<Vec<u8>> {
    if server.is_from((7, 0)) {
        return None;
    }
    let id = command?;
    if !has_command(server, spec(id).name) || (is_container(id) && request.count() > 1) {
        return Some(unknown_subcommand(server, request));
    }
    miscounted(server, request, command)
}

/// Returns what a request gets, other than those that authenticate, of a client that has not authenticated and has to.
pub(super) fn unauthenticated(
    server: ServerVersion,
    request: &Request<'_>,
    command: Option<CommandId>,
) -> Vec<u8> {
    let wrong = malformed(server, request, command);
    if let Some(reply) = wrong.filter(|_| !asks_authentication_first(server)) {
        return reply;
    }
    match command.map(|id| spec(id).name) {
        Some("exec") => exec_aborted(NOAUTH),
        _ => NOAUTH.to_vec(),
    }
}

fn container(name: &str) -> &str {
    name.split('|').next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::NamedCommand;
    use crate::command::identify;
    use crate::resp::speak::encode_request;

    const OLD: ServerVersion = ServerVersion::redis(6, 2, 5);
    const REDIS: ServerVersion = ServerVersion::redis(7, 0, 15);
    const VALKEY: ServerVersion = ServerVersion::valkey(9, 1, 2);

    fn refused(server: ServerVersion, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let bytes = encode_request(&words);
        let request = Request::new(&bytes);
        let command = match identify(words[0].as_bytes(), request.argument(1)) {
            NamedCommand::Known(id) => Some(id),
            _ => None,
        };
        let reply = unauthenticated(server, &request, command);
        String::from_utf8(reply)
            .expect("it is text")
            .trim_end()
            .to_owned()
    }

    // All seen, of a client that has not authenticated.
    #[test]
    fn what_is_wrong_with_a_request_comes_before_or_after_who_sent_it() {
        let noauth = "-NOAUTH Authentication required.";
        for (line, old, redis) in [
            ("GET k", noauth, noauth),
            (
                "GET",
                "-ERR wrong number of arguments for 'get' command",
                "",
            ),
            (
                "CLIENT",
                "-ERR wrong number of arguments for 'client' command",
                "",
            ),
            (
                "CLIENT ID x",
                noauth,
                "-ERR wrong number of arguments for 'client|id' command",
            ),
            (
                "CLIENT NOSUCH",
                noauth,
                "-ERR unknown subcommand 'NOSUCH'. Try CLIENT HELP.",
            ),
            (
                "PUBSUB NOSUCH",
                noauth,
                "-ERR unknown subcommand 'NOSUCH'. Try PUBSUB HELP.",
            ),
            (
                "CLIENT CAPA",
                noauth,
                "-ERR unknown subcommand 'CAPA'. Try CLIENT HELP.",
            ),
            (
                "CLIENT SETINFO a b",
                noauth,
                "-ERR unknown subcommand 'SETINFO'. Try CLIENT HELP.",
            ),
            (
                "NOSUCH a",
                "-ERR unknown command `NOSUCH`, with args beginning with: `a`,",
                "-ERR unknown command 'NOSUCH', with args beginning with: 'a'",
            ),
            (
                "FUNCTION LIST",
                "-ERR unknown command `FUNCTION`, with args beginning with: `LIST`,",
                noauth,
            ),
            (
                "EXEC x",
                "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command",
                "",
            ),
            (
                "EXEC",
                "-EXECABORT Transaction discarded because of: NOAUTH Authentication required.",
                "",
            ),
        ] {
            assert_eq!(refused(OLD, line), old, "{line}");
            let redis = if redis.is_empty() { old } else { redis };
            assert_eq!(refused(REDIS, line), redis, "{line}");
            let valkey = if line.starts_with("EXEC") {
                "-EXECABORT Transaction discarded because of: NOAUTH Authentication required."
            } else {
                noauth
            };
            assert_eq!(refused(VALKEY, line), valkey, "{line}");
        }
    }
}
