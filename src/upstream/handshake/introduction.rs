//! What a server says of itself on a new connection, and which answer is to which question.

use std::rc::Rc;

use super::ConnectTerms;
use super::error::{ConnectError, away, out_of_place};
use super::talk::OpeningTalk;
use crate::resp::parse_integer;
use crate::resp::speak::encode_request;
use crate::server::{ServerHello, ServerInfo};
use crate::session::{Effect, Protocol, name_request};
use crate::telemetry::ConnectResult;
use crate::texts::{ServerVersion, is_busy};
use crate::thread::Thread;

/// Holds what the server has said of itself and of the connection.
pub(super) struct ServerIntroduction {
    /// The connection has this number there; 0: it is not known.
    pub(super) server_id: i64,
    /// This process of a server answers; `None`: it does not say.
    pub(super) run: Option<u64>,
    /// Is true where the server calls itself a replica.
    pub(super) is_replica: bool,
    /// The server is this one.
    pub(super) version: ServerVersion,
}

/// Learns the server's HELLO in both protocols, the connection's id, and which server it is; leaves it named
/// and in RESP2. `None`: the server wants a password first.
pub(super) async fn introduce(
    talk: &mut OpeningTalk,
    (thread, terms): (&Rc<Thread>, &ConnectTerms),
    name: &str,
    refuses_unauthenticated: bool,
) -> Result<Option<ServerIntroduction>, ConnectError> {
    // Where the operator has switched INFO off it is not known.
    let asks_run = !terms.settings.upstream.health_interval.is_zero();
    talk.send(&introduction_request(name, asks_run)).await?;
    let (three, two) = (talk.reply().await?, talk.reply().await?);
    let (named, id) = (talk.reply().await?, talk.reply().await?);
    let ping = talk.reply().await?;
    let info = match asks_run {
        true => Some(talk.reply().await?),
        false => None,
    };
    let run = info
        .as_ref()
        .and_then(|info| ServerInfo::read(info).instance);
    if !are_in_place([&three, &two], &named, &id, &ping, info.as_deref()) {
        return Err(out_of_place());
    }
    if is_busy(&ping) {
        // Else a script on another connection would be taken for a pause of writes: the server answers here.
        thread.pulse.heard_busy(thread.clock.refresh());
    }
    let mut server = ServerHello::default();
    server.refuses_unauthenticated = refuses_unauthenticated;
    if !server.hello(Protocol::Resp2, &two) && needs_login(&two)? {
        return Ok(None);
    }
    server.hello(Protocol::Resp3, &three);
    let told = server.connection_id();
    let is_replica = matches!(server.role.as_str(), "replica" | "slave");
    if server.name().is_none() {
        // HELLO has another name there, or none.
        let said = talk.ask(&encode_request(&["INFO", "server"])).await?;
        if let Some(name) = ServerInfo::read(&said).name {
            server.inform(name);
        }
    }
    thread.process.greeted(&server);
    let number = id
        .strip_prefix(b":")
        .and_then(|line| parse_integer(line.trim_ascii_end()));
    Ok(Some(ServerIntroduction {
        server_id: told.or(number).unwrap_or(0),
        run,
        is_replica,
        version: server.version(),
    }))
}

/// Writes what is sent at once: HELLO twice, the name of the connection, and what asks for its number, for life and for the run.
fn introduction_request(name: &str, asks_run: bool) -> Vec<u8> {
    // While a script runs HELLO is all that is answered; servers older than it know CLIENT alone.
    let mut request = encode_request(&["HELLO", "3"]);
    request.extend(encode_request(&["HELLO", "2", "SETNAME", name]));
    request.extend(name_request(name));
    request.extend(encode_request(&["CLIENT", "ID"]));
    // A server that is loading, or a replica that may not serve stale data, answers all of these but PING.
    request.extend(encode_request(&["PING"]));
    if asks_run {
        request.extend(encode_request(&["INFO", "server"]));
    }
    request
}

/// Tells whether HELLO, which the server has refused, wants a login before it; a server that does not know it can be talked to without.
fn needs_login(refusal: &[u8]) -> Result<bool, ConnectError> {
    let text = String::from_utf8_lossy(refusal).trim_end().to_owned();
    let is_wanted = text.starts_with("-NOAUTH");
    if is_wanted || text.starts_with("-ERR unknown command") {
        return Ok(is_wanted);
    }
    Err(away(
        format!("the server answered HELLO with {text}"),
        ConnectResult::HandshakeError,
    ))
}

/// Tells whether each answer of an introduction is an error, or what its command is answered with: a line too many before them would
/// else move all of them by one, and what answers one command be taken for the answer to the next.
fn are_in_place(
    hello: [&[u8]; 2],
    named: &[u8],
    id: &[u8],
    ping: &[u8],
    info: Option<&[u8]>,
) -> bool {
    let is_greeting = |reply: &[u8]| matches!(reply.first(), Some(b'%' | b'*' | b'-'));
    hello.into_iter().all(is_greeting)
        && Effect::Named.is_answered_by(named)
        && matches!(id.first(), Some(b':' | b'-'))
        && (ping == b"+PONG\r\n" || ping.first() == Some(&b'-'))
        && info.is_none_or(|info| matches!(info.first(), Some(b'$' | b'=' | b'-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server answers this to an introduction.
    const USUAL: [&str; 6] = [
        "%1\r\n+proto\r\n:3\r\n",
        "*2\r\n+proto\r\n:2\r\n",
        "+OK\r\n",
        ":7\r\n",
        "+PONG\r\n",
        "$0\r\n\r\n",
    ];

    fn fit(replies: &[&str]) -> bool {
        let reply = |at: usize| replies[at].as_bytes();
        let info = replies.get(5).map(|info| info.as_bytes());
        are_in_place([reply(0), reply(1)], reply(2), reply(3), reply(4), info)
    }

    #[test]
    fn answers_in_their_places_are_told_from_those_that_a_surplus_line_has_moved() {
        let refused = |at: &[usize], with: &'static str| {
            let mut replies = USUAL;
            at.iter().for_each(|&at| replies[at] = with);
            replies
        };
        // Servers before HELLO, users who may not run what they are asked, a script that runs.
        let real = [
            USUAL,
            refused(&[0, 1], "-ERR unknown command `HELLO`\r\n"),
            refused(&[4], "-NOPERM this user has no permissions\r\n"),
            refused(&[2, 3, 4, 5], "-BUSY Redis is busy\r\n"),
        ];
        for replies in real {
            assert!(fit(&replies), "{replies:?}");
            assert!(fit(&replies[..5]), "{replies:?}");
        }
        for surplus in ["-ERR more\r\n", "+OK\r\n", "+PONG\r\n", ":7\r\n", "$-1\r\n"] {
            for replies in &real[..3] {
                let mut moved = vec![surplus];
                moved.extend(&replies[..5]);
                assert!(!fit(&moved), "{moved:?}");
            }
        }
        assert!(!fit(&refused(&[4], "+OK\r\n")));
    }
}
