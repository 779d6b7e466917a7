//! When a connection has heard and sent, and how much that may take long is due on it.

use crate::command::Delays;
use crate::silence::OvertakenSilence;

/// Measures when a connection has heard and sent, and counts what it owes that may take long.
#[derive(Debug, Default)]
pub(super) struct LinkPulse {
    /// The server has sent the last byte at that time.
    pub(super) heard_micros: u64,
    /// The server had been sent this number of bytes by then.
    pub(super) heard_at_bytes: u64,
    /// The kernel has taken the last byte at that time.
    pub(super) written_micros: u64,
    /// A request that is passed on as it arrives began or ended at that time.
    pub(super) whole_micros: u64,
    /// The server may work for long on so many entries that are due.
    pub(super) may_work: u32,
    /// A pause of writes holds back so many entries that are due.
    pub(super) may_pause: u32,
    /// Tells since when the server is known to have answered elsewhere.
    pub(super) overtaken: OvertakenSilence,
    /// The server has answered here within this long at best.
    pub(super) quickest_micros: u64,
    /// The kernel has been told to be as patient with unacknowledged bytes as with a busy server.
    pub(super) is_patient: bool,
}

impl LinkPulse {
    /// Begins the pulse of a connection that was opened now, which has taken so long.
    pub(super) fn begun(now_micros: u64, connect_micros: u64) -> Self {
        Self {
            quickest_micros: connect_micros,
            heard_micros: now_micros,
            written_micros: now_micros,
            ..Self::default()
        }
    }

    /// The server has sent something, when it had been sent so many bytes.
    #[inline]
    pub(super) fn heard(&mut self, now_micros: u64, sent_total: u64) {
        self.heard_micros = now_micros;
        self.heard_at_bytes = sent_total;
    }

    /// Something was answered after so long.
    #[inline]
    pub(super) fn answered(&mut self, waited_micros: u64) {
        self.quickest_micros = self.quickest_micros.min(waited_micros);
    }

    /// An entry that is due has come to be delayed by `after`.
    #[inline]
    pub(super) fn joined(&mut self, before: Delays, after: Delays) {
        self.may_work += u32::from(after.may_work()) - u32::from(before.may_work());
        self.may_pause += u32::from(after.may_pause()) - u32::from(before.may_pause());
    }

    /// An entry is due no more.
    #[inline]
    pub(super) fn left(&mut self, delays: Delays) {
        self.may_work -= u32::from(delays.may_work());
        self.may_pause -= u32::from(delays.may_pause());
    }
}
