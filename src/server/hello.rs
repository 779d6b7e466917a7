//! What the server says of itself: its HELLO in both protocols, its version, the commands that the static table does not know.

use std::sync::Arc;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use super::info::ServerInfo;
use super::name::ServerName;
use crate::command::Learned;
use crate::resp::parse_integer;
use crate::resp::parts::{pairs, text};
use crate::resp::speak::push_header;
use crate::session::Protocol;
use crate::texts::{ServerProduct, ServerVersion};

/// Holds what one server has said of itself at the last connect, and in INFO since.
#[derive(Debug, Default, Clone)]
pub struct ServerHello {
    hello: [Vec<u8>; 2],
    /// It called itself this in HELLO, where it is known there.
    greeted: Option<ServerName>,
    /// It called itself this in INFO, while it goes on saying the same in HELLO: a Valkey that is configured to be taken for
    /// Redis says who it is in INFO alone.
    informed: Option<ServerName>,
    /// It has these modules, as it tells in HELLO.
    modules: Vec<u8>,
    /// Stands for its process and its modules, as it said in INFO.
    instance: Option<u64>,
    /// Stands for its process, as it said in INFO.
    run: Option<u64>,
    /// It calls itself `master` or `slave`.
    pub role: String,
    /// Is true while it answers NOAUTH to whoever has not authenticated.
    pub refuses_unauthenticated: bool,
    /// It knows these commands, and the static table does not.
    pub learned: Option<Arc<Learned>>,
}

impl ServerHello {
    /// Takes in the reply to HELLO of `protocol`. Returns false when it is no HELLO reply.
    pub fn hello(&mut self, protocol: Protocol, reply: &[u8]) -> bool {
        let Ok(Some((frame, _))) = decode(reply) else {
            return false;
        };
        let fields = fields(&frame);
        if fields.is_empty() {
            return false;
        }
        let (mut product, mut version) = (ServerProduct::Redis, String::new());
        for (name, value) in fields {
            let value = String::from_utf8_lossy(value).into_owned();
            match name {
                b"version" => version = value,
                b"role" => self.role = value,
                b"server" if value == ServerProduct::Valkey.name() => {
                    product = ServerProduct::Valkey
                }
                _ => {}
            }
        }
        self.greeted = ServerName::of(product, version);
        if protocol == Protocol::Resp2 {
            self.modules = modules(reply).to_vec();
        }
        self.hello[usize::from(protocol == Protocol::Resp3)] = reply.to_vec();
        true
    }

    /// Tells whether it speaks `protocol`.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        !self.hello[usize::from(protocol == Protocol::Resp3)].is_empty()
    }

    /// Returns the id of the connection that said HELLO 2.
    pub fn connection_id(&self) -> Option<i64> {
        let (at, end) = id_line(&self.hello[0])?;
        parse_integer(self.hello[0].get(at + 1..end - 2)?)
    }

    /// Returns the reply to a client's HELLO: the server's own, with the client's own id.
    pub fn hello_reply(&self, protocol: Protocol, client_id: u64) -> Option<Vec<u8>> {
        let reply = &self.hello[usize::from(protocol == Protocol::Resp3)];
        let (at, end) = id_line(reply)?;
        let mut own = reply[..at].to_vec();
        push_header(&mut own, b':', client_id as i64);
        own.extend_from_slice(&reply[end..]);
        Some(own)
    }

    /// Tells whether WAIT counts only writes of its own connection that were propagated (Redis 7.2, Valkey), rather than any
    /// command.
    pub fn wait_needs_a_write(&self) -> bool {
        self.version().is_from((7, 1))
    }

    /// Takes in what it calls itself in INFO.
    pub fn inform(&mut self, name: ServerName) {
        self.informed = Some(name);
    }

    /// Takes in all that INFO says of it.
    pub(super) fn take_in(&mut self, info: &ServerInfo) {
        self.informed = info.name.clone().or(self.informed.take());
        self.instance = info.instance.or(self.instance);
        self.run = info.run.or(self.run);
    }

    /// Tells whether the server that `known` is may have had other commands.
    pub(super) fn has_other_commands(&self, known: &Self) -> bool {
        self.greeted != known.greeted || self.modules != known.modules
    }

    /// Takes over what was learned of the server that `known` is, as far as it can be the same one.
    pub(super) fn remember(&mut self, known: &Self) {
        self.learned = known.learned.clone();
        self.instance = known.instance;
        self.run = known.run;
        if self.greeted == known.greeted {
            self.informed = known.informed.clone();
        }
    }

    /// Returns what it calls itself, once it has.
    pub fn name(&self) -> Option<&ServerName> {
        self.informed.as_ref().or(self.greeted.as_ref())
    }

    /// Returns which server it is.
    pub fn version(&self) -> ServerVersion {
        self.name()
            .map_or(ServerVersion::UNKNOWN, |name| name.version)
    }

    /// Returns what stands for its process, where it has said in INFO.
    pub(super) fn run(&self) -> Option<u64> {
        self.run
    }

    /// Returns what stands for its process and its modules, where it has said in INFO.
    pub(super) fn instance(&self) -> Option<u64> {
        self.instance
    }
}

/// Returns what a HELLO reply says of modules, and behind it.
fn modules(reply: &[u8]) -> &[u8] {
    memchr::memmem::find(reply, b"$7\r\nmodules\r\n").map_or(b"", |at| &reply[at..])
}

/// Finds where the line of the connection's id starts and ends in a HELLO reply.
fn id_line(reply: &[u8]) -> Option<(usize, usize)> {
    let at = memchr::memmem::find(reply, b"$2\r\nid\r\n:")? + b"$2\r\nid\r\n".len();
    Some((at, at + memchr::memchr(b'\n', &reply[at..])? + 1))
}

/// Returns the name and text of each text field of a HELLO reply.
fn fields(frame: &OwnedFrame) -> Vec<(&[u8], &[u8])> {
    let both = |(name, value)| Some((text(name)?, text(value)?));
    pairs(frame).into_iter().filter_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO_2: &[u8] = b"*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";

    #[test]
    fn a_valkey_taken_for_redis_is_known_by_its_info_until_another_server_answers() {
        let mut server = ServerHello::default();
        assert_eq!(server.version(), ServerVersion::UNKNOWN);
        let disguised = String::from_utf8_lossy(HELLO_2).replace("$6\r\n7.0.15", "$5\r\n7.2.4");
        assert!(server.hello(Protocol::Resp2, disguised.as_bytes()));
        assert_eq!(server.version(), ServerVersion::redis(7, 2, 4));
        server.inform(ServerName::of(ServerProduct::Valkey, "8.1.8".to_owned()).unwrap());
        let greeted_by = |reply: &[u8]| {
            let mut next = ServerHello::default();
            assert!(next.hello(Protocol::Resp2, reply));
            next.remember(&server);
            next.version()
        };
        let same = greeted_by(disguised.as_bytes());
        assert_eq!(same, ServerVersion::valkey(8, 1, 8));
        assert_eq!(greeted_by(HELLO_2), ServerVersion::redis(7, 0, 15));
    }

    #[test]
    fn a_client_gets_its_own_id() {
        let mut server = ServerHello::default();
        assert!(server.hello(Protocol::Resp2, HELLO_2));
        assert_eq!(server.connection_id(), Some(3));
        let reply = server.hello_reply(Protocol::Resp2, 1234).unwrap();
        let expected = String::from_utf8_lossy(HELLO_2).replace("id\r\n:3\r\n", "id\r\n:1234\r\n");
        assert_eq!(String::from_utf8_lossy(&reply), expected);
        assert_eq!(
            (server.version(), server.role.as_str()),
            (ServerVersion::redis(7, 0, 15), "master")
        );
        assert!(!server.wait_needs_a_write());
        assert_eq!(server.hello_reply(Protocol::Resp3, 1), None);
        assert!(!server.hello(Protocol::Resp3, b"-ERR unknown command\r\n"));
    }
}
