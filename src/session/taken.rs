//! What clients have shown that the server has taken, kept once for all clients that show the same.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::state::Credentials;
use crate::auth::{SecretHash, ServedSecret, ServedSecrets};

/// At so many entries those that nobody is served by any more are looked for, and again at twice as many.
const LOOKED_AT: usize = 64;

/// Holds them by the user's name, and by a keyed hash: nearly always one password each, but of a user without a password each client may show
/// one of its own, and nobody is to pay for the others'.
#[derive(Debug, Default)]
pub struct TakenCredentials {
    by_name: HashMap<Box<[u8]>, HashMap<SecretHash, Kept>>,
    /// Counts those that are kept, of all users.
    kept: usize,
    looked_at: usize,
    /// Holds what the clients of all workers are served by.
    served: Arc<ServedSecrets>,
}

/// Holds something that clients of this worker are served by, and that is known to the others.
#[derive(Debug)]
struct Kept {
    credentials: Weak<Credentials>,
    _served: ServedSecret,
}

impl TakenCredentials {
    /// Nobody of this worker is served by anything yet.
    pub fn new(served: Arc<ServedSecrets>) -> Self {
        Self {
            served,
            ..Self::default()
        }
    }

    /// Returns the same as what is shown, if somebody is served by it. How long the answer takes tells no more than lengths.
    pub fn find(&self, shown: &Credentials) -> Option<Rc<Credentials>> {
        self.find_as(self.hash_of(shown), shown)
    }

    fn find_as(&self, hash: SecretHash, shown: &Credentials) -> Option<Rc<Credentials>> {
        let of_user = self.by_name.get(shown.user())?;
        let known = of_user.get(&hash)?.credentials.upgrade()?;
        known.is_same(shown).then_some(known)
    }

    fn hash_of(&self, shown: &Credentials) -> SecretHash {
        let name = shown.username.as_deref();
        self.served.hash(name, &shown.password)
    }

    /// Returns the users that somebody is.
    pub fn users(&mut self) -> Vec<Box<[u8]>> {
        self.forget();
        self.by_name.keys().cloned().collect()
    }

    /// Returns all that is shown of one user.
    pub fn all_of(&self, user: &[u8]) -> Vec<Rc<Credentials>> {
        let known = self.by_name.get(user).into_iter().flat_map(HashMap::values);
        known
            .filter_map(|kept| kept.credentials.upgrade())
            .collect()
    }

    /// Returns how many users there may be.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    fn forget(&mut self) {
        self.kept = 0;
        self.by_name.retain(|_, known| {
            known.retain(|_, kept| kept.credentials.strong_count() > 0);
            self.kept += known.len();
            !known.is_empty()
        });
    }

    /// Notes that the server has taken it. Returns what is kept of it.
    pub fn keep(&mut self, taken: Rc<Credentials>) -> Rc<Credentials> {
        let hash = self.hash_of(&taken);
        if let Some(known) = self.find_as(hash, &taken) {
            return known;
        }
        if self.kept >= self.looked_at.max(LOOKED_AT) {
            self.forget();
            self.looked_at = 2 * self.kept;
        }
        let kept = Kept {
            credentials: Rc::downgrade(&taken),
            _served: self.served.serve(hash),
        };
        let of_user = self.by_name.entry(taken.user().into()).or_default();
        if of_user.insert(hash, kept).is_none() {
            self.kept += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(name: &str, password: &str) -> Rc<Credentials> {
        Rc::new(Credentials {
            username: Some(name.as_bytes().into()),
            password: password.as_bytes().into(),
        })
    }

    #[test]
    fn what_two_clients_show_is_kept_once_and_as_long_as_one_is_served_by_it() {
        let mut taken = TakenCredentials::default();
        assert!(taken.find(&credentials("ann", "pw")).is_none());
        let first = taken.keep(credentials("ann", "pw"));
        let second = taken.keep(credentials("ann", "pw"));
        assert!(Rc::ptr_eq(&first, &second));
        let other = taken.keep(credentials("ann", "other"));
        assert!(!Rc::ptr_eq(&first, &other));
        assert!(taken.find(&credentials("bob", "pw")).is_none());
        assert!(taken.find(&credentials("ann", "p")).is_none());
        let legacy = Credentials {
            username: None,
            password: (*b"pw").into(),
        };
        assert!(
            taken.find(&legacy).is_none(),
            "another request at the server"
        );
        drop((first, second));
        assert!(taken.find(&credentials("ann", "pw")).is_none());
        assert!(taken.find(&other).is_some());
        assert_eq!(taken.all_of(b"ann"), [Rc::clone(&other)]);
        assert_eq!(taken.users(), [Box::from(&b"ann"[..])]);
        drop(other);
        assert!(taken.users().is_empty() && taken.count() == 0);
    }

    #[test]
    fn what_a_client_of_another_worker_is_served_by_is_served() {
        let served = Arc::new(ServedSecrets::default());
        let mut here = TakenCredentials::new(Arc::clone(&served));
        let mut there = TakenCredentials::new(Arc::clone(&served));
        let listener = served.listener();
        let is_served = |shown: &Credentials| {
            let name = shown.username.as_deref();
            let hash = served.hash(name, &shown.password);
            listener.look(hash).is_none()
        };
        let first = there.keep(credentials("ann", "pw"));
        assert!(is_served(&first) && here.find(&first).is_none());
        assert!(!is_served(&credentials("ann", "wrong")));
        let second = here.keep(credentials("ann", "pw"));
        drop(first);
        assert!(there.users().is_empty() && is_served(&second));
        drop(second);
        assert!(here.users().is_empty());
        assert!(!is_served(&credentials("ann", "pw")));
    }

    #[test]
    fn of_one_user_thousands_of_passwords_are_told_apart_and_forgotten() {
        let mut taken = TakenCredentials::default();
        let number = |number: usize| credentials("ann", &number.to_string());
        let stay: Vec<Rc<Credentials>> = (0..5000).map(|one| taken.keep(number(one))).collect();
        for (at, known) in stay.iter().enumerate() {
            assert!(Rc::ptr_eq(&taken.keep(number(at)), known));
        }
        assert!(taken.find(&number(5000)).is_none());
        for one in 5000..30_000 {
            drop(taken.keep(number(one)));
            assert!(taken.kept <= 2 * 5000, "{one}: {}", taken.kept);
        }
        assert_eq!(taken.all_of(b"ann").len(), 5000);
    }

    #[test]
    fn users_who_have_left_are_forgotten() {
        let mut taken = TakenCredentials::default();
        let stays = taken.keep(credentials("stays", "pw"));
        for user in 0..10_000 {
            drop(taken.keep(credentials(&user.to_string(), "pw")));
            assert!(taken.by_name.len() <= 2 * LOOKED_AT, "{user}");
        }
        assert!(taken.find(&stays).is_some());
    }
}
