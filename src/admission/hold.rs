//! Rejected sockets that are held and answered: how many, until when, and how many of them may shake hands at once.

use std::sync::Arc;
use std::time::Instant;

use super::Admission;

/// One in this many of `limits.max_rejected` may be in its TLS handshake at once: it costs a thousand times what the answer
/// costs, and nobody rejected is to take the time of those who are served.
const ONE_IN: usize = 8;

/// Is the right to hold one rejected socket for a time. Its drop gives it back.
#[derive(Debug)]
pub struct HoldPermit {
    admission: Arc<Admission>,
    until: Instant,
    is_shaking: bool,
}

impl Admission {
    /// Returns a place to hold a rejected socket and answer it; `None` when `limits.max_rejected` are held already, or when
    /// `limits.reject_hold` is zero.
    pub fn hold(self: &Arc<Self>, now: Instant) -> Option<HoldPermit> {
        let plan = self.plan.load();
        let (most, hold) = (plan.max_rejected, plan.reject_hold);
        let mut counts = self.counts();
        if hold.is_zero() || counts.held >= most {
            return None;
        }
        counts.held += 1;
        Some(HoldPermit {
            admission: Arc::clone(self),
            until: now + hold,
            is_shaking: false,
        })
    }

    /// Does as [`Admission::hold`], for one that must shake hands before it can be answered; `None` also when enough do.
    pub fn hold_to_shake(self: &Arc<Self>, now: Instant) -> Option<HoldPermit> {
        let most = self.plan.load().max_rejected.div_ceil(ONE_IN);
        let mut permit = self.hold(now)?;
        let mut counts = self.counts();
        if counts.shaking < most {
            counts.shaking += 1;
            permit.is_shaking = true;
        }
        drop(counts);
        Some(permit).filter(|permit| permit.is_shaking)
    }
}

impl HoldPermit {
    /// Returns when the socket is to be closed.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Notes that its handshake is over: another may begin.
    pub fn has_shaken(&mut self) {
        if std::mem::take(&mut self.is_shaking) {
            self.admission.counts().shaking -= 1;
        }
    }
}

impl Drop for HoldPermit {
    fn drop(&mut self) {
        self.has_shaken();
        self.admission.counts().held -= 1;
    }
}
