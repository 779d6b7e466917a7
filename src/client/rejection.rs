//! What is logged of a client that is turned away: why, and who it is.

use std::time::Instant;

use crate::admission::{Admission, AdmissionRefusal};
use crate::identity::Identity;

/// Counts a rejection and logs it, as often as its group's lines may come.
pub fn tell_rejection(admission: &Admission, refusal: &AdmissionRefusal, identity: &Identity) {
    if let Some(line) = admission.rejected(refusal, Instant::now()) {
        tell_of(identity, &format!("rejected: {refusal}{line}"));
    }
}

/// Logs something that concerns one client, with who it is.
pub(super) fn tell_of(identity: &Identity, text: &str) {
    tracing::warn!(
        client = %identity.peer,
        listener = %identity.listener,
        name = ?identity.shown_name(),
        user = ?String::from_utf8_lossy(identity.shown_user()),
        "{text}"
    );
}
