//! Reads which channels the server's ACL leaves a user, as `ACL GETUSER` tells: Redis closes a subscriber that has lost one of its own.

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

use super::pattern::may_match;
use super::topic::TopicKind;
use crate::resp::parts::{pairs, text};

/// Keeps the patterns of channels that a user may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelRights {
    /// They are those of all selectors; `None` stands for every channel.
    patterns: Option<Vec<Box<[u8]>>>,
}

/// Says what the server has told of a user.
#[derive(Debug, PartialEq, Eq)]
pub enum UserTold {
    /// There is none of that name.
    Gone,
    /// It may have these channels.
    Rights(ChannelRights),
    /// It has said nothing of it: who asks may not, or it is older than that.
    Nothing,
}

impl UserTold {
    /// Reads the reply to `ACL GETUSER`, in either protocol.
    pub fn read(reply: &[u8]) -> Self {
        if [&b"$-1\r\n"[..], b"*-1\r\n", b"_\r\n"].contains(&reply) {
            return Self::Gone;
        }
        let Ok(Some((frame, _))) = decode(reply) else {
            return Self::Nothing;
        };
        let mut patterns = Vec::new();
        match gather(&frame, &mut patterns) {
            false => Self::Nothing,
            true => Self::Rights(ChannelRights {
                patterns: (!patterns.iter().any(|one| **one == *b"*")).then_some(patterns),
            }),
        }
    }
}

impl ChannelRights {
    /// Tells whether a user that may have no more than this is left on a topic. A pattern is permitted by the same pattern
    /// alone.
    pub fn allows(&self, kind: TopicKind, topic: &[u8]) -> bool {
        let Some(patterns) = &self.patterns else {
            return true;
        };
        patterns.iter().any(|pattern| match kind {
            TopicKind::Pattern => **pattern == *topic,
            TopicKind::Channel | TopicKind::Shard => may_match(pattern, topic),
        })
    }

    /// Tells whether every topic is permitted.
    pub fn allows_all(&self) -> bool {
        self.patterns.is_none()
    }
}

/// Adds the patterns of a user or a selector. False: it tells no channels.
fn gather(frame: &OwnedFrame, patterns: &mut Vec<Box<[u8]>>) -> bool {
    let mut has_told = false;
    for (name, value) in pairs(frame) {
        match text(name) {
            // Redis 7.0 and later: "&one &two"; before that a list of them.
            Some(b"channels") => {
                has_told = true;
                match (text(value), value) {
                    (Some(line), _) => patterns.extend(
                        line.split(|byte| *byte == b' ')
                            .filter_map(|rule| rule.strip_prefix(b"&"))
                            .map(Box::from),
                    ),
                    (None, OwnedFrame::Array { data, .. }) => {
                        patterns.extend(data.iter().filter_map(text).map(Box::from));
                    }
                    _ => {}
                }
            }
            Some(b"selectors") => {
                if let OwnedFrame::Array { data, .. } = value {
                    for selector in data {
                        gather(selector, patterns);
                    }
                }
            }
            _ => {}
        }
    }
    has_told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(reply: &str) -> ChannelRights {
        match UserTold::read(reply.as_bytes()) {
            UserTold::Rights(rights) => rights,
            told => panic!("{told:?}"),
        }
    }

    const REDIS_6: &str = "*10\r\n$5\r\nflags\r\n*2\r\n$2\r\non\r\n$7\r\nallkeys\r\n$9\r\npasswords\r\n*1\r\n$1\r\n1\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n*1\r\n$1\r\n*\r\n$8\r\nchannels\r\n*2\r\n$2\r\nx*\r\n$1\r\ny\r\n";
    const REDIS_7: &str = "*12\r\n$5\r\nflags\r\n*1\r\n$2\r\non\r\n$9\r\npasswords\r\n*0\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n$2\r\n~*\r\n$8\r\nchannels\r\n$6\r\n&x* &y\r\n$9\r\nselectors\r\n*1\r\n*6\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n$4\r\nkeys\r\n$0\r\n\r\n$8\r\nchannels\r\n$2\r\n&z\r\n";
    const RESP_3: &str = "%2\r\n$8\r\nchannels\r\n$2\r\n&*\r\n$9\r\nselectors\r\n*0\r\n";

    #[test]
    fn every_servers_answer_is_read() {
        for (reply, third) in [(REDIS_6, false), (REDIS_7, true)] {
            let rights = rights(reply);
            assert!(!rights.allows_all());
            for (kind, topic, allowed) in [
                (TopicKind::Channel, "xyz", true),
                (TopicKind::Shard, "xyz", true),
                (TopicKind::Channel, "y", true),
                (TopicKind::Channel, "yy", false),
                (TopicKind::Channel, "z", third),
                (TopicKind::Pattern, "x*", true),
                (TopicKind::Pattern, "xyz", false),
                (TopicKind::Pattern, "*", false),
            ] {
                let told = rights.allows(kind, topic.as_bytes());
                assert_eq!(told, allowed, "{kind:?} {topic}");
            }
        }
        assert!(rights(RESP_3).allows_all());
        assert!(rights(RESP_3).allows(TopicKind::Pattern, b"any"));
        let none = rights("*2\r\n$8\r\nchannels\r\n$0\r\n\r\n");
        assert!(!none.allows(TopicKind::Channel, b"") && !none.allows(TopicKind::Channel, b"x"));
    }

    #[test]
    fn nobody_is_told_apart_from_nothing() {
        for reply in ["$-1\r\n", "_\r\n", "*-1\r\n"] {
            assert_eq!(UserTold::read(reply.as_bytes()), UserTold::Gone);
        }
        for reply in [
            "-NOPERM this user has no permissions to run the 'acl|getuser' command\r\n",
            "-ERR unknown command 'ACL'\r\n",
            "*0\r\n",
            "+OK\r\n",
            "",
        ] {
            assert_eq!(
                UserTold::read(reply.as_bytes()),
                UserTold::Nothing,
                "{reply}"
            );
        }
    }
}
