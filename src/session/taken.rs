//! What clients have shown that the server has taken, kept once for all clients that show the same.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::state::Credentials;
use crate::auth::{ServedSecret, ServedSecrets};

/// Entries past which those that nobody is served by any more are looked for, and again at twice as many.
const LOOKED_AT: usize = 64;

/// By the user's name: nearly always one password each.
#[derive(Debug, Default)]
pub struct TakenCredentials {
    by_name: HashMap<Box<[u8]>, Vec<Kept>>,
    looked_at: usize,
    /// What the clients of all workers are served by.
    served: Arc<ServedSecrets>,
}

/// Something that clients of this worker are served by, and that it is known to the others.
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

    /// Returns whether a client of any worker is served by what is shown. How long the answer takes tells no more than lengths. What
    /// the last client of another worker has left by is known for some seconds more.
    pub fn serves(&self, shown: &Credentials) -> bool {
        let served = &self.served;
        self.find(shown).is_some() || served.is_served(shown.username.as_deref(), &shown.password)
    }

    /// The same as what is shown, if somebody is served by it. How long the answer takes tells no more than lengths.
    pub fn find(&self, shown: &Credentials) -> Option<Rc<Credentials>> {
        let known = self.by_name.get(shown.user())?;
        let mut served = known.iter().filter_map(Kept::upgrade);
        served.find(|known| known.is_same(shown))
    }

    /// The users that somebody is.
    pub fn users(&mut self) -> Vec<Box<[u8]>> {
        self.forget();
        self.by_name.keys().cloned().collect()
    }

    /// All that is shown of one user.
    pub fn all_of(&self, user: &[u8]) -> Vec<Rc<Credentials>> {
        let known = self.by_name.get(user).into_iter().flatten();
        known.filter_map(Kept::upgrade).collect()
    }

    /// How many users there may be.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    fn forget(&mut self) {
        self.by_name.retain(|_, known| {
            known.retain(Kept::is_needed);
            !known.is_empty()
        });
    }

    /// The server has taken it. Returns what is kept of it.
    pub fn keep(&mut self, taken: Rc<Credentials>) -> Rc<Credentials> {
        if let Some(known) = self.find(&taken) {
            return known;
        }
        if self.by_name.len() >= self.looked_at.max(LOOKED_AT) {
            self.forget();
            self.looked_at = 2 * self.by_name.len();
        }
        let known = self.by_name.entry(taken.user().into()).or_default();
        known.retain(Kept::is_needed);
        let name = taken.username.as_deref();
        known.push(Kept {
            credentials: Rc::downgrade(&taken),
            _served: self.served.serve(name, &taken.password),
        });
        taken
    }
}

impl Kept {
    fn upgrade(&self) -> Option<Rc<Credentials>> {
        self.credentials.upgrade()
    }

    fn is_needed(&self) -> bool {
        self.credentials.strong_count() > 0
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
        let mut there = TakenCredentials::new(served);
        let first = there.keep(credentials("ann", "pw"));
        assert!(here.serves(&first) && here.find(&first).is_none());
        assert!(!here.serves(&credentials("ann", "wrong")));
        let second = here.keep(credentials("ann", "pw"));
        drop(first);
        assert!(there.users().is_empty() && there.serves(&second));
        drop(second);
        assert!(here.users().is_empty());
        assert!(!there.serves(&credentials("ann", "pw")));
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
