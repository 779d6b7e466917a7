//! What INFO says of the server, read without trust: sections may be refused, fields missing, doubled or nonsense.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::name::ServerName;
use crate::resp::ReplyScanner;
use crate::texts::ServerProduct;

/// A field of more bytes counts as missing.
const LONGEST_WORD: usize = 64;

/// A refusal is kept as far as it has this many bytes.
const LONGEST_REFUSAL: usize = 200;

/// Holds what the sections told that were asked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// The server is this one: Valkey by its own version, not by that of the Redis it is compatible with.
    pub name: Option<ServerName>,
    /// It calls itself `master` or `slave`.
    pub role: Option<String>,
    /// It has this many clients, those that came past respool too.
    pub connected_clients: Option<u64>,
    /// It takes this many clients.
    pub maxclients: Option<u64>,
    /// This number of its clients are blocked.
    pub blocked_clients: Option<u64>,
    /// One number stands for its process and its modules; `None`: it does not say.
    pub instance: Option<u64>,
    /// One number stands for its process; `None`: it does not say.
    pub run: Option<u64>,
    /// This was the first error that came instead of a section.
    pub refusal: Option<String>,
}

impl ServerInfo {
    /// Reads whole replies to INFO, of RESP2 or RESP3, one behind the other.
    pub fn read(replies: &[u8]) -> Self {
        let mut info = Self::default();
        let (mut rest, mut redis, mut valkey) = (replies, None, None);
        let mut instance = InstanceSum::default();
        while let Ok(frame) = ReplyScanner::default().advance(rest) {
            if !frame.complete || frame.used == 0 {
                break;
            }
            let (reply, behind) = rest.split_at(frame.used);
            rest = behind;
            if let Some(error) = reply.strip_prefix(b"-") {
                info.refusal.get_or_insert_with(|| refusal(error));
                continue;
            }
            for line in reply.split(|&byte| byte == b'\n') {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let Some(colon) = memchr::memchr(b':', line) else {
                    continue;
                };
                let (name, value) = (&line[..colon], &line[colon + 1..]);
                instance.note(name, line);
                match name {
                    b"valkey_version" => keep(&mut valkey, word(value)),
                    b"redis_version" => keep(&mut redis, word(value)),
                    b"role" => keep(&mut info.role, word(value)),
                    b"connected_clients" => keep(&mut info.connected_clients, number(value)),
                    b"maxclients" => keep(&mut info.maxclients, number(value)),
                    b"blocked_clients" => keep(&mut info.blocked_clients, number(value)),
                    _ => {}
                }
            }
        }
        info.run = instance.run;
        info.instance = instance.number();
        let named = |product, text: Option<String>| ServerName::of(product, text?);
        info.name =
            named(ServerProduct::Valkey, valkey).or_else(|| named(ServerProduct::Redis, redis));
        info
    }
}

/// Sums up what tells one run of a server, and its modules, from another.
#[derive(Default)]
struct InstanceSum {
    /// Order does not matter: servers list their modules in any.
    sum: u64,
    run: Option<u64>,
}

impl InstanceSum {
    fn note(&mut self, name: &[u8], line: &[u8]) {
        let is_run_id = name == b"run_id";
        if is_run_id || name == b"module" {
            let mut hasher = DefaultHasher::new();
            line.hash(&mut hasher);
            let number = hasher.finish();
            self.sum = self.sum.wrapping_add(number);
            if is_run_id {
                self.run = Some(number);
            }
        }
    }

    fn number(self) -> Option<u64> {
        self.run.map(|_| self.sum)
    }
}

/// Keeps the first of several values.
fn keep<T>(field: &mut Option<T>, value: Option<T>) {
    if field.is_none() {
        *field = value;
    }
}

/// Reads letters, digits and what stands in versions: the word becomes a metric's label.
fn word(value: &[u8]) -> Option<String> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_+".contains(byte);
    let is_word = (1..=LONGEST_WORD).contains(&value.len()) && value.iter().all(fits);
    is_word.then(|| String::from_utf8_lossy(value).into_owned())
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn refusal(error: &[u8]) -> String {
    let shown = &error[..error.len().min(LONGEST_REFUSAL)];
    let text = String::from_utf8_lossy(shown);
    text.trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bulk(text: &str) -> Vec<u8> {
        format!("${}\r\n{text}\r\n", text.len()).into_bytes()
    }

    #[test]
    fn sections_of_a_real_server_are_read() {
        let clients = "txt:# Clients\r\nconnected_clients:7\r\nmaxclients:9\r\n";
        let replies = [
            bulk("# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1\r\nos:Linux x86_64\r\n"),
            format!("={}\r\n{clients}\r\n", clients.len()).into_bytes(),
            bulk("# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\n"),
        ];
        let whole = ServerInfo {
            name: ServerName::of(ServerProduct::Valkey, "8.0.1".to_owned()),
            role: Some("slave".to_owned()),
            connected_clients: Some(7),
            maxclients: Some(9),
            ..ServerInfo::default()
        };
        assert_eq!(ServerInfo::read(&replies.concat()), whole);
        let cut = replies.concat();
        let cut = ServerInfo::read(&cut[..cut.len() - 1]);
        assert_eq!(
            (cut.role, cut.maxclients),
            (None, Some(9)),
            "of whole replies only"
        );
    }

    #[test]
    fn a_refused_section_is_told_and_the_others_are_read() {
        let replies = [
            &b"-NOPERM this user has no permissions to run the 'info' command\r\n"[..],
            &bulk(
                "connected_clients:5\r\nblocked_clients:1\r\nmaxclients:many\r\nconnected_clients:6\r\n",
            ),
            b"-ERR other\r\n",
        ];
        let info = ServerInfo::read(&replies.concat());
        let refusal = "NOPERM this user has no permissions to run the 'info' command";
        assert_eq!(info.refusal.as_deref(), Some(refusal));
        assert_eq!(
            (
                info.connected_clients,
                info.blocked_clients,
                info.maxclients
            ),
            (Some(5), Some(1), None)
        );
    }

    proptest! {
        #[test]
        fn anything_is_read_and_nothing_long_is_kept(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let info = ServerInfo::read(&bytes);
            prop_assert!(info.name.is_none_or(|named| named.text.len() <= LONGEST_WORD));
            // What is no UTF-8 is replaced, by three bytes each.
            prop_assert!(info.refusal.is_none_or(|text| text.len() <= 3 * LONGEST_REFUSAL));
        }

        #[test]
        fn any_lines_around_the_fields_are_passed_over(
            before in "[ -~\r\n]{0,300}",
            behind in "[ -~\r\n]{0,300}",
            connected: u64,
            verbatim: bool,
        ) {
            let text = format!("{before}\r\nblocked_clients:{connected}\r\nrole:master\r\n{behind}");
            let reply = if verbatim {
                format!("={}\r\ntxt:{text}\r\n", text.len() + 4)
            } else {
                format!("${}\r\n{text}\r\n", text.len())
            };
            let info = ServerInfo::read(reply.as_bytes());
            // Nothing generated before it spells a field of this name.
            prop_assume!(!before.contains("clients") && !before.contains("role"));
            prop_assert_eq!(info.blocked_clients, Some(connected));
            prop_assert_eq!(info.role.as_deref(), Some("master"));
        }
    }
}
