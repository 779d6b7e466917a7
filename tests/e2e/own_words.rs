//! Texts that respool says itself, which are what the tested server would say: some four hundred requests, most of them wrong in some way,
//! are sent to one server directly and to another through respool, by clients in every mode.
//!
//! `own_words/requests.txt` has a request a line, quoted as in redis-cli. A line may begin with a mark: of `?` only the kind of
//! the reply is compared, of `&` the names of its `name=value` fields and their order, line by line.
//! `RESPOOL_WORDS=text` sends only those that contain the text.

use respool::checked::{LineSyntax, split_inline};

use crate::harness::{Client, Redis, Respool, TESTED_SERVER, Value, encode, show};

const REQUESTS: &str = include_str!("own_words/requests.txt");

/// Says what a client has done before the request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// It has done nothing, and nothing is asked of it.
    Fresh,
    /// It has done nothing, and the server wants a password.
    Locked,
    /// It has shown the password.
    Known,
    Subscribed,
    InMulti,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Resp2,
    Resp3,
}

#[derive(Clone, Copy, PartialEq)]
enum Compare {
    Bytes,
    Kind,
    FieldNames,
}

struct Line {
    text: &'static str,
    compare: Compare,
    words: Vec<Vec<u8>>,
}

impl Line {
    fn parse(line: &'static str) -> Self {
        let (compare, text) = match line.split_once(' ') {
            Some(("?", text)) => (Compare::Kind, text),
            Some(("&", text)) => (Compare::FieldNames, text),
            _ => (Compare::Bytes, line),
        };
        let words = split_inline(text.as_bytes(), LineSyntax::Redis);
        Self {
            text,
            compare,
            words: words.unwrap_or_else(|_| panic!("quotes are missing in {text}")),
        }
    }

    /// Tells why a line is not asked about in this mode, if it is not.
    fn left_out(&self, mode: Mode) -> Option<&'static str> {
        let first = self.words[0].to_ascii_uppercase();
        let is = |name: &str| first == name.as_bytes();
        match mode {
            Mode::Locked | Mode::Subscribed if is("DEBUG") => {
                Some("whether DEBUG is enabled is the server's to know, and it is not asked")
            }
            Mode::InMulti if is("HELLO") || is("AUTH") => {
                Some("who a client is does not change inside MULTI")
            }
            Mode::InMulti if is("CLIENT") || is("WAIT") || is("WAITAOF") => {
                Some("has a test of its own")
            }
            Mode::Locked | Mode::Known
                if self.text.starts_with("HELLO 3 AUTH default wrong SETNAME") =>
            {
                Some("before 7.2 HELLO looked at one option after the other")
            }
            _ => None,
        }
    }
}

/// Tells what the request was answered, and what came behind it.
fn answers(mut client: Client, mode: Mode, protocol: Protocol, line: &Line) -> Vec<Vec<u8>> {
    let mut prepare = |words: &[&str]| {
        client.send(encode(words));
        client.reply_bytes()
    };
    if mode == Mode::Known {
        assert_eq!(prepare(&["AUTH", "secret"]), b"+OK\r\n");
    }
    if protocol == Protocol::Resp3 {
        prepare(&["HELLO", "3"]);
    }
    let behind: &[&str] = match mode {
        Mode::Fresh | Mode::Locked | Mode::Known => &[],
        Mode::Subscribed => {
            prepare(&["SUBSCRIBE", "ch"]);
            &["PING", "behind"]
        }
        Mode::InMulti => {
            prepare(&["MULTI"]);
            &["EXEC"]
        }
    };
    client.send(encode(&line.words));
    let mut answers = vec![client.try_reply_bytes()];
    if !behind.is_empty() && client.try_send(encode(behind)).is_ok() {
        answers.push(client.try_reply_bytes());
    }
    // Whoever asks next is to find nobody to count or kill.
    client.finish_sending();
    client.read_to_end();
    let ended = || b"(the connection ended)".to_vec();
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(ended))
        .collect()
}

fn compared(answer: &[u8], compare: Compare) -> Vec<u8> {
    match compare {
        Compare::Kind => answer.iter().copied().take(1).collect(),
        Compare::FieldNames if answer.first() != Some(&b'-') => field_names(answer).into_bytes(),
        _ => without_id(answer),
    }
}

/// Tells the names of the fields of each line, the values left out. Lines that are alike count as one: a server goes on for a moment to
/// list who has left.
fn field_names(answer: &[u8]) -> String {
    let text = Value::parse(answer).map_or_else(|_| String::new(), |(value, _)| value.text());
    let names = |line: &str| {
        let field = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        line.split(' ').map(field).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = text.lines().map(names).collect();
    lines.dedup();
    lines.join("\n")
}

/// Cuts out the number of the connection, which HELLO tells.
fn without_id(answer: &[u8]) -> Vec<u8> {
    const ID: &[u8] = b"$2\r\nid\r\n:";
    let Some(at) = answer.windows(ID.len()).position(|piece| piece == ID) else {
        return answer.to_vec();
    };
    let (before, id) = answer.split_at(at + ID.len());
    let digits = id.iter().take_while(|byte| byte.is_ascii_digit()).count();
    [before, &id[digits..]].concat()
}

/// Sends all requests of clients in this mode, and panics with all that differs.
#[track_caller]
fn same_words(mode: Mode, protocol: Protocol) {
    let password = matches!(mode, Mode::Locked | Mode::Known);
    let (redis, behind) = (Redis::start(&[]), Redis::start(&[]));
    let mut settings = Respool::with(&behind);
    if password {
        for server in [&redis, &behind] {
            let set = server.cmd(&["CONFIG", "SET", "requirepass", "secret"]);
            assert_eq!(set, Value::ok());
        }
        settings = settings
            .upstream("password = \"secret\"")
            .section("[auth]\nmode = \"passthrough\"");
    }
    let respool = settings.start();
    let only = std::env::var("RESPOOL_WORDS").unwrap_or_default();
    let mut differences = Vec::new();
    for line in REQUESTS.lines().map(Line::parse) {
        if !line.text.contains(&only) || line.left_out(mode).is_some() {
            continue;
        }
        let direct = answers(redis.client(), mode, protocol, &line);
        let ours = answers(respool.client(), mode, protocol, &line);
        for (direct, ours) in direct.iter().zip(&ours) {
            if compared(direct, line.compare) != compared(ours, line.compare) {
                let (text, direct, ours) = (line.text, show(direct), show(ours));
                differences.push(format!(
                    "{text}\n    direct:  {direct}\n    respool: {ours}"
                ));
            }
        }
    }
    respool.assert_alive();
    assert!(
        differences.is_empty(),
        "{:?} {mode:?} {protocol:?}: {} of the answers differ:\n{}",
        *TESTED_SERVER,
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn a_resp2_client_hears_the_servers_words() {
    same_words(Mode::Fresh, Protocol::Resp2);
}

#[test]
fn a_resp3_client_hears_the_servers_words() {
    same_words(Mode::Fresh, Protocol::Resp3);
}

#[test]
fn who_has_to_authenticate_hears_the_servers_words() {
    same_words(Mode::Locked, Protocol::Resp2);
}

#[test]
fn who_has_authenticated_hears_the_servers_words() {
    same_words(Mode::Known, Protocol::Resp2);
    same_words(Mode::Known, Protocol::Resp3);
}

#[test]
fn a_resp2_subscriber_hears_the_servers_words() {
    same_words(Mode::Subscribed, Protocol::Resp2);
}

#[test]
fn a_resp3_subscriber_hears_the_servers_words() {
    same_words(Mode::Subscribed, Protocol::Resp3);
}

#[test]
fn who_queues_commands_hears_the_servers_words() {
    same_words(Mode::InMulti, Protocol::Resp2);
    same_words(Mode::InMulti, Protocol::Resp3);
}
