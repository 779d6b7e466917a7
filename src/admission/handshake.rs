//! Clients whose group is not known before their TLS handshake is over, because their certificate decides it.
//!
//! Until then they count under `limits.max_clients` alone: no group's cap, rate, warning or eviction is moved by somebody
//! who has shown nothing yet.
//!
//! Invariant: the count is exactly the live [`HandshakePermit`]s, and together with the clients admitted it never exceeds
//! `limits.max_clients`.

use std::sync::Arc;
use std::time::Instant;

use super::{Admission, AdmissionRefusal, ClientPermit};
use crate::identity::Identity;

/// A place under `limits.max_clients` and in no group. Its drop gives it back.
#[derive(Debug)]
pub struct HandshakePermit {
    admission: Arc<Admission>,
    /// Is false once the place has become a [`ClientPermit`].
    is_counted: bool,
}

impl Admission {
    /// Gives a newcomer a place for its handshake. What is refused is not counted yet: see [`Admission::rejected`].
    ///
    /// # Errors
    /// It returns a [`AdmissionRefusal`] by `limits.max_clients`, told of the group that the newcomer belongs to without a certificate.
    pub fn begin(
        self: &Arc<Self>,
        identity: &Identity,
    ) -> Result<HandshakePermit, AdmissionRefusal> {
        let (plan, mut counts, place) = self.decide(identity);
        plan.has_room(&counts, &place)?;
        counts.handshaking += 1;
        Ok(HandshakePermit {
            admission: Arc::clone(self),
            is_counted: true,
        })
    }

    /// Counts the clients in their handshake that have no group yet.
    pub fn handshaking(&self) -> usize {
        self.counts().handshaking
    }
}

impl HandshakePermit {
    /// Turns it into a place in the group that the client belongs to, now that its certificate is known; or among those that arrive, where
    /// that depends on what they say.
    ///
    /// # Errors
    /// It fails as [`Admission::admit`] does, but for `limits.max_clients`, under which the client counts already; the permit is handed
    /// back, for as long as the caller makes room.
    pub fn admit(
        mut self,
        identity: &Identity,
        now: Instant,
    ) -> Result<ClientPermit, (Self, Box<AdmissionRefusal>)> {
        let admission = Arc::clone(&self.admission);
        match admission.take_in(identity, now, true) {
            Ok(permit) => {
                self.is_counted = false;
                Ok(permit)
            }
            Err(refusal) => Err((self, Box::new(refusal))),
        }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        if self.is_counted {
            self.admission.counts().handshaking -= 1;
        }
    }
}
