//! What may keep a server that lives from answering a command at once: a property of the table, and where the table knows
//! nothing, the worst.

use super::spec::CommandFlags;
use super::{CommandId, spec};

/// Says what may keep the server from answering a command at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delays(u8);

impl Delays {
    /// Says that the command is quick, and that no pause of writes holds it back.
    pub const NONE: Self = Self(0);
    /// Says that the server may work on it for seconds, and answer nobody meanwhile.
    pub const WORK: Self = Self(1);
    /// Says that it waits while writes are paused.
    pub const PAUSE: Self = Self(1 << 1);
    /// Stands for a command of which nothing is known.
    pub const ANY: Self = Self(Self::WORK.0 | Self::PAUSE.0);

    /// Tells what may delay a command; `None` is one that the table does not know.
    #[inline]
    pub fn of(command: Option<CommandId>) -> Self {
        let Some(id) = command else { return Self::ANY };
        let flags = spec(id).flags;
        let mut delays = Self::NONE;
        if flags.contains(CommandFlags::LONG) {
            delays = delays.and(Self::WORK);
        }
        if flags.contains(CommandFlags::WRITE) || flags.contains(CommandFlags::MAY_REPLICATE) {
            delays = delays.and(Self::PAUSE);
        }
        delays
    }

    /// Joins what may delay either of two.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Tells whether the server may work on it for seconds.
    #[inline]
    pub const fn may_work(self) -> bool {
        self.0 & Self::WORK.0 != 0
    }

    /// Tells whether it waits while writes are paused.
    #[inline]
    pub const fn may_pause(self) -> bool {
        self.0 & Self::PAUSE.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup_full;
    use super::*;

    #[test]
    fn what_delays_a_command_is_told_by_the_table() {
        let of = |name: &str| Delays::of(Some(lookup_full(name.as_bytes()).expect(name)));
        for name in ["get", "mget", "hgetall", "lrange", "ping", "exists", "info"] {
            assert_eq!(of(name), Delays::NONE, "{name}");
        }
        for name in ["set", "incr", "lpush", "publish", "pfcount", "unlink"] {
            assert_eq!(of(name), Delays::PAUSE, "{name}");
        }
        for name in ["keys", "debug", "sort_ro", "sunion", "eval_ro", "save"] {
            assert_eq!(of(name), Delays::WORK, "{name}");
        }
        for name in [
            "eval",
            "evalsha",
            "fcall",
            "flushall",
            "del",
            "sort",
            "exec",
            "sunionstore",
        ] {
            assert_eq!(of(name), Delays::ANY, "{name}");
        }
        assert_eq!(Delays::of(None), Delays::ANY, "of a module");
    }
}
