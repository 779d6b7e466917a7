//! What errors of the server tell of it: that it is no primary, loads its data, or runs a script.

use std::cell::Cell;

use crate::telemetry::LossCause;
use crate::texts::{is_busy, is_loading};

/// Says what an error of the server tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorSign {
    /// The error tells nothing of the server.
    Nothing,
    /// A script keeps it from answering others.
    Busy,
    /// It loads its data and may be lost so.
    Loading,
    /// It is a replica and has lost its primary.
    MasterDown,
    /// It is a replica and refuses writes.
    Readonly,
}

impl ErrorSign {
    /// Reads a whole reply. Only whole first words count, and only replies of their own: an error in a transaction's or a script's array is
    /// the client's.
    pub(super) fn of(error: &[u8]) -> Self {
        if error.starts_with(b"-READONLY ") {
            Self::Readonly
        } else if error.starts_with(b"-MASTERDOWN ") {
            Self::MasterDown
        } else if is_loading(error) {
            Self::Loading
        } else if is_busy(error) {
            Self::Busy
        } else {
            Self::Nothing
        }
    }
}

/// Remembers what one connection has told of a server that is no primary.
#[derive(Default)]
pub(super) struct ReplicaSigns {
    /// The server has said that it is none, and nobody has heeded that yet.
    alarm: Cell<Option<LossCause>>,
    has_refused_write: Cell<bool>,
}

impl ReplicaSigns {
    /// Takes in what an error tells. Returns the loss that is counted for it.
    pub(super) fn hear(&self, sign: ErrorSign) -> Option<LossCause> {
        match sign {
            ErrorSign::Nothing | ErrorSign::Busy => None,
            ErrorSign::Loading => Some(LossCause::Loading),
            ErrorSign::MasterDown => {
                self.alarm.set(Some(LossCause::MasterDown));
                Some(LossCause::MasterDown)
            }
            ErrorSign::Readonly => {
                self.has_refused_write.set(true);
                self.alarm.set(Some(LossCause::Readonly));
                // It is counted when the server is known to be a replica: a script can say so too.
                None
            }
        }
    }

    /// Returns once that the server has said that it is no primary.
    #[inline]
    pub(super) fn take_alarm(&self) -> Option<LossCause> {
        self.alarm.take()
    }

    /// Tells whether the server has refused a write, being a replica.
    pub(super) fn has_refused_write(&self) -> bool {
        self.has_refused_write.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_first_words_are_signs() {
        for (error, sign) in [
            (
                &b"-READONLY You can't write against a read only replica.\r\n"[..],
                ErrorSign::Readonly,
            ),
            (b"-READONLYX no\r\n", ErrorSign::Nothing),
            (
                b"-MASTERDOWN Link with MASTER is down\r\n",
                ErrorSign::MasterDown,
            ),
            (b"-MASTERDOWNS no\r\n", ErrorSign::Nothing),
            (
                b"-LOADING Redis is loading the dataset in memory\r\n",
                ErrorSign::Loading,
            ),
            (
                b"-BUSY Redis is busy running a script.\r\n",
                ErrorSign::Busy,
            ),
            (b"-ERR READONLY \r\n", ErrorSign::Nothing),
            (b"+READONLY \r\n", ErrorSign::Nothing),
        ] {
            assert_eq!(ErrorSign::of(error), sign, "{}", error.escape_ascii());
        }
    }

    #[test]
    fn an_alarm_is_heeded_once_and_a_refused_write_is_remembered() {
        // The sign, the loss that is counted, the alarm, and whether a write was refused.
        for (sign, counted, alarm, refused) in [
            (ErrorSign::Nothing, None, None, false),
            (ErrorSign::Busy, None, None, false),
            (ErrorSign::Loading, Some(LossCause::Loading), None, false),
            (
                ErrorSign::MasterDown,
                Some(LossCause::MasterDown),
                Some(LossCause::MasterDown),
                false,
            ),
            (ErrorSign::Readonly, None, Some(LossCause::Readonly), true),
        ] {
            let signs = ReplicaSigns::default();
            assert_eq!(signs.hear(sign), counted, "{sign:?}");
            assert_eq!(signs.take_alarm(), alarm, "{sign:?}");
            assert_eq!(signs.take_alarm(), None, "{sign:?}");
            assert_eq!(signs.has_refused_write(), refused, "{sign:?}");
        }
    }
}
