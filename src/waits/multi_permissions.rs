//! Remembers whether the server lets a user use MULTI, as far as tries have told.
//!
//! Without it a call waits at the server by itself, for a moment, and whoever stands behind it waits too.

use crate::texts::{is_no_permission, is_unknown_command};

/// Bounds the users that are remembered; the one known longest is forgotten first.
const MAX_USERS: usize = 64;

/// Says what is known of one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultiPermission {
    /// No try has told yet.
    Unknown,
    /// A try that will tell is under way.
    Asked,
    /// It may use MULTI.
    Allowed,
    /// It may not use it.
    Refused,
}

/// Remembers what is known of the users whose clients wait. `None` among them is respool's own.
#[derive(Debug, Default)]
pub struct MultiPermissions {
    known: Vec<(Option<Box<[u8]>>, MultiPermission)>,
}

impl MultiPermissions {
    /// Returns what is known of `user`.
    pub fn of(&self, user: Option<&[u8]>) -> MultiPermission {
        let mut known = self.known.iter();
        let found = known.find(|(known, _)| known.as_deref() == user);
        found.map_or(MultiPermission::Unknown, |(_, verdict)| *verdict)
    }

    /// Notes that a try is sent that will tell.
    pub fn ask(&mut self, user: Option<&[u8]>) {
        self.note(user, MultiPermission::Asked);
    }

    /// Notes that a try that was to tell is over, whether it has told or not.
    pub fn asked(&mut self, user: Option<&[u8]>) {
        if self.of(user) == MultiPermission::Asked {
            self.note(user, MultiPermission::Unknown);
        }
    }

    /// Notes that the server has answered this to MULTI.
    pub fn told(&mut self, user: Option<&[u8]>, answer: &[u8]) {
        if answer.starts_with(b"+") {
            self.note(user, MultiPermission::Allowed);
        } else if is_no_permission(answer) || is_unknown_command(answer) {
            self.note(user, MultiPermission::Refused);
        }
        // Anything else tells of the server's state.
    }

    fn note(&mut self, user: Option<&[u8]>, verdict: MultiPermission) {
        if self.of(user) == verdict {
            return;
        }
        self.known.retain(|(known, _)| known.as_deref() != user);
        if verdict == MultiPermission::Unknown {
            return;
        }
        if self.known.len() >= MAX_USERS {
            self.known.remove(0);
        }
        self.known.push((user.map(Into::into), verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_last_counts() {
        let mut verdicts = MultiPermissions::default();
        let eve = Some(&b"eve"[..]);
        assert_eq!(verdicts.of(eve), MultiPermission::Unknown);
        verdicts.ask(eve);
        assert_eq!(verdicts.of(eve), MultiPermission::Asked);
        verdicts.told(eve, b"-NOPERM no\r\n");
        verdicts.asked(eve);
        assert_eq!(verdicts.of(eve), MultiPermission::Refused);
        assert_eq!(verdicts.of(None), MultiPermission::Unknown);
        verdicts.told(eve, b"+OK\r\n");
        assert_eq!(verdicts.of(eve), MultiPermission::Allowed);
        verdicts.told(eve, b"-LOADING the dataset\r\n");
        assert_eq!(verdicts.of(eve), MultiPermission::Allowed);
    }

    #[test]
    fn who_was_asked_about_and_nothing_told_is_unknown() {
        let mut verdicts = MultiPermissions::default();
        verdicts.ask(None);
        verdicts.asked(None);
        assert_eq!(verdicts.of(None), MultiPermission::Unknown);
    }

    #[test]
    fn not_everybody_is_remembered() {
        let mut verdicts = MultiPermissions::default();
        for user in 0..1_000_u32 {
            verdicts.told(Some(&user.to_le_bytes()), b"+OK\r\n");
        }
        assert_eq!(verdicts.known.len(), MAX_USERS);
        assert_eq!(
            verdicts.of(Some(&999_u32.to_le_bytes())),
            MultiPermission::Allowed
        );
    }
}
