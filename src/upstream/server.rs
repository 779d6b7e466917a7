//! What the server says of itself: its HELLO in both protocols, its version, the commands the static table does not know.

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use crate::command::Learned;
use crate::resp::parse_integer;
use crate::resp::speak::push_header;
use crate::session::{NestedWords, Protocol};

/// What one server said of itself at the last connect.
#[derive(Debug, Default, Clone)]
pub struct Server {
    hello: [Vec<u8>; 2],
    /// Major, minor.
    version: (u32, u32),
    is_valkey: bool,
    /// The version as the server writes it.
    pub version_text: String,
    /// `master` or `slave`.
    pub role: String,
    /// Whether it answers NOAUTH to whoever has not authenticated.
    pub guests_are_refused: bool,
    /// Commands it knows and the static table does not.
    pub learned: Option<std::sync::Arc<Learned>>,
}

impl Server {
    /// Takes in the reply to HELLO of `protocol`. False when it is no HELLO reply.
    pub fn hello(&mut self, protocol: Protocol, reply: &[u8]) -> bool {
        let Ok(Some((frame, _))) = decode(reply) else {
            return false;
        };
        let fields = fields(&frame);
        if fields.is_empty() {
            return false;
        }
        for (name, value) in fields {
            let value = String::from_utf8_lossy(value).into_owned();
            match name {
                b"version" => self.version_text = value,
                b"role" => self.role = value,
                b"server" => self.is_valkey = value == "valkey",
                _ => {}
            }
        }
        let mut numbers = self
            .version_text
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        self.version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        self.hello[usize::from(protocol == Protocol::Resp3)] = reply.to_vec();
        true
    }

    /// Whether it speaks `protocol`.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        !self.hello[usize::from(protocol == Protocol::Resp3)].is_empty()
    }

    /// The id of the connection that said HELLO 2.
    pub fn connection_id(&self) -> Option<i64> {
        let (at, end) = id_line(&self.hello[0])?;
        parse_integer(self.hello[0].get(at + 1..end - 2)?)
    }

    /// The reply to a client's HELLO: the server's own, with the client's own id.
    pub fn hello_reply(&self, protocol: Protocol, client_id: u64) -> Option<Vec<u8>> {
        let reply = &self.hello[usize::from(protocol == Protocol::Resp3)];
        let (at, end) = id_line(reply)?;
        let mut own = reply[..at].to_vec();
        push_header(&mut own, b':', client_id as i64);
        own.extend_from_slice(&reply[end..]);
        Some(own)
    }

    /// Whether WAIT counts only writes of its own connection that were propagated (Redis 7.2, Valkey), rather than any
    /// command.
    pub fn wait_needs_a_write(&self) -> bool {
        self.version >= (7, 1)
    }

    /// How it refuses MULTI and WATCH inside MULTI.
    pub fn nested_words(&self) -> NestedWords {
        match self.version {
            (9.., _) if self.is_valkey => NestedWords::Valkey9,
            (8, 1..) if self.is_valkey => NestedWords::Valkey8,
            _ => NestedWords::Redis,
        }
    }
}

/// Where the line of the connection's id starts and ends in a HELLO reply.
fn id_line(reply: &[u8]) -> Option<(usize, usize)> {
    let at = memchr::memmem::find(reply, b"$2\r\nid\r\n:")? + b"$2\r\nid\r\n".len();
    Some((at, at + memchr::memchr(b'\n', &reply[at..])? + 1))
}

/// The name and text of each text field of a HELLO reply, a map in RESP3 and a flat array in RESP2.
fn fields(frame: &OwnedFrame) -> Vec<(&[u8], &[u8])> {
    match frame {
        OwnedFrame::Map { data, .. } => data
            .iter()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect(),
        OwnedFrame::Array { data, .. } => data
            .chunks_exact(2)
            .filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
            .collect(),
        _ => Vec::new(),
    }
}

fn text(frame: &OwnedFrame) -> Option<&[u8]> {
    match frame {
        OwnedFrame::BlobString { data, .. } | OwnedFrame::SimpleString { data, .. } => Some(data),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO_2: &[u8] = b"*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:3\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n";

    #[test]
    fn a_client_gets_its_own_id() {
        let mut server = Server::default();
        assert!(server.hello(Protocol::Resp2, HELLO_2));
        assert_eq!(server.connection_id(), Some(3));
        let reply = server.hello_reply(Protocol::Resp2, 1234).unwrap();
        let expected = String::from_utf8_lossy(HELLO_2).replace("id\r\n:3\r\n", "id\r\n:1234\r\n");
        assert_eq!(String::from_utf8_lossy(&reply), expected);
        assert_eq!(
            (server.version_text.as_str(), server.role.as_str()),
            ("7.0.15", "master")
        );
        assert!(!server.wait_needs_a_write());
        assert_eq!(server.hello_reply(Protocol::Resp3, 1), None);
        assert!(!server.hello(Protocol::Resp3, b"-ERR unknown command\r\n"));
    }
}
