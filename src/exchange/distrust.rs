//! Users whose commands have ended a connection that others shared: a second one is not to be lost the same way.

use std::time::Duration;

/// Most users remembered; past it everybody is kept apart.
pub const MAX_USERS: usize = 64;

/// A user who has not offended for this long is trusted again: what was to blame may have been mended, or its permissions changed.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// Names what a user's commands have done, or may have done, to a connection that others share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// A transaction that was sent whole did not end.
    OpenTransaction,
    /// A reply was more than one frame, or nothing tells whether it was.
    Surplus,
}

impl Offence {
    /// Says to people what the server has done.
    pub fn text(self) -> &'static str {
        match self {
            Self::OpenTransaction => "the server left a transaction open",
            Self::Surplus => "the server sent more frames than it was asked for",
        }
    }

    /// Says to people what respool does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::OpenTransaction => "transactions of this user are lent connections for an hour",
            Self::Surplus => "scripts of this user are lent connections for an hour",
        }
    }
}

/// Remembers who is kept apart, and for what. `None` among the users is respool's own.
#[derive(Debug, Default)]
pub struct DistrustedUsers {
    users: Vec<OffendingUser>,
}

#[derive(Debug)]
struct OffendingUser {
    user: Option<Box<[u8]>>,
    offence: Offence,
    /// The user was seen last to offend so at that time.
    seen_micros: u64,
}

impl OffendingUser {
    fn counts(&self, now_micros: u64) -> bool {
        now_micros.saturating_sub(self.seen_micros) < FORGOTTEN_AFTER.as_micros() as u64
    }
}

impl DistrustedUsers {
    /// Is true while nobody is kept apart.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Remembers `user`, and forgets who has not offended for long. True: it was not known before.
    pub fn note(&mut self, user: Option<&[u8]>, offence: Offence, now_micros: u64) -> bool {
        self.users.retain(|known| known.counts(now_micros));
        let is_it =
            |known: &&mut OffendingUser| known.offence == offence && known.user.as_deref() == user;
        if let Some(known) = self.users.iter_mut().find(is_it) {
            known.seen_micros = now_micros;
            return false;
        }
        if self.users.len() >= MAX_USERS {
            // Everybody is kept apart, and who offends no more makes room.
            return false;
        }
        self.users.push(OffendingUser {
            user: user.map(Into::into),
            offence,
            seen_micros: now_micros,
        });
        true
    }

    /// Tells whether commands of `user` that may offend so are kept apart.
    pub fn covers(&self, user: Option<&[u8]>, offence: Offence, now_micros: u64) -> bool {
        let counting = || self.users.iter().filter(|known| known.counts(now_micros));
        let is_it =
            |known: &OffendingUser| known.offence == offence && known.user.as_deref() == user;
        counting().count() >= MAX_USERS || counting().any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_remembered_up_to_a_bound_and_then_all_are() {
        let mut distrust = DistrustedUsers::default();
        assert!(distrust.note(Some(b"u"), Offence::OpenTransaction, 0));
        assert!(!distrust.note(Some(b"u"), Offence::OpenTransaction, 0));
        assert!(distrust.covers(Some(b"u"), Offence::OpenTransaction, 0));
        assert!(!distrust.covers(Some(b"u"), Offence::Surplus, 0));
        assert!(!distrust.covers(None, Offence::OpenTransaction, 0));
        for number in 0..2 * MAX_USERS {
            distrust.note(Some(number.to_string().as_bytes()), Offence::Surplus, 0);
        }
        assert!(distrust.covers(None, Offence::OpenTransaction, 0));
    }

    #[test]
    fn who_offends_no_more_is_trusted_again() {
        let long = FORGOTTEN_AFTER.as_micros() as u64;
        let mut distrust = DistrustedUsers::default();
        for number in 0..MAX_USERS {
            distrust.note(Some(number.to_string().as_bytes()), Offence::Surplus, 10);
        }
        distrust.note(Some(b"0"), Offence::Surplus, 20);
        let covers = |distrust: &DistrustedUsers, user: Option<&[u8]>, now| {
            distrust.covers(user, Offence::Surplus, now)
        };
        assert!(covers(&distrust, None, 9 + long), "all are kept apart");
        assert!(!covers(&distrust, None, 10 + long));
        assert!(!covers(&distrust, Some(b"1"), 10 + long));
        assert!(
            covers(&distrust, Some(b"0"), 19 + long),
            "it has offended again"
        );
        assert!(!covers(&distrust, Some(b"0"), 20 + long));
        assert!(
            distrust.note(None, Offence::Surplus, 20 + long),
            "there is room"
        );
        assert!(covers(&distrust, None, 20 + long));
    }
}
