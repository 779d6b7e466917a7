//! The users of the configuration and whether a password is one of theirs.
//!
//! Invariant: how long the answer takes tells nothing but how many passwords a user may have.

use std::collections::HashMap;

use subtle::{Choice, ConstantTimeEq};

use crate::config::{AuthUser, PasswordDigest};

/// Knows users and the digests of their passwords.
pub struct ConfiguredUsers {
    by_name: HashMap<Box<[u8]>, Box<[PasswordDigest]>>,
    /// The digest of a password is compared with this one where there is no such user. No password has this digest that anybody
    /// could find.
    nobody: Box<[PasswordDigest]>,
}

impl ConfiguredUsers {
    /// Makes those of the configuration.
    pub fn new(configured: &[AuthUser]) -> Self {
        let entry = |user: &AuthUser| (user.name.as_bytes().into(), user.passwords.clone().into());
        let most = configured.iter().map(|user| user.passwords.len()).max();
        Self {
            by_name: configured.iter().map(entry).collect(),
            nobody: vec![PasswordDigest([0; 32]); most.unwrap_or(1)].into(),
        }
    }

    /// Tells whether there is a user of this name with this password.
    pub fn verifies(&self, name: &[u8], password: &[u8]) -> bool {
        let digest = PasswordDigest::of(password);
        let known = self.by_name.get(name);
        let mut equal = Choice::from(0);
        for candidate in known.unwrap_or(&self.nobody) {
            equal |= candidate.0.ct_eq(&digest.0);
        }
        bool::from(equal) && known.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, passwords: &[&str]) -> AuthUser {
        AuthUser {
            name: name.to_owned(),
            passwords: passwords
                .iter()
                .map(|password| PasswordDigest::of(password.as_bytes()))
                .collect(),
        }
    }

    #[test]
    fn every_password_of_a_user_is_good_and_nobody_elses() {
        let users = ConfiguredUsers::new(&[user("ann", &["one", "two"]), user("bob", &["three"])]);
        for (name, password, good) in [
            ("ann", "one", true),
            ("ann", "two", true),
            ("bob", "three", true),
            ("ann", "three", false),
            ("bob", "one", false),
            ("ann", "", false),
            ("ann", "on", false),
            ("Ann", "one", false),
            ("", "one", false),
            ("carl", "one", false),
        ] {
            let verified = users.verifies(name.as_bytes(), password.as_bytes());
            assert_eq!(verified, good, "{name} {password}");
        }
        assert!(!ConfiguredUsers::new(&[]).verifies(b"ann", b"one"));
    }
}
