//! Which of the users that clients have shown is looked up at the server next: each every two seconds, as long as there are no
//! more of them than may be asked about.
//!
//! Told who is there and the time; a user costs the same however many clients it has.

use std::collections::HashMap;

/// Each is looked up this often.
const EVERY_MICROS: u64 = 2_000_000;

/// Bounds the users that are asked about at once, and those asked about in a second.
const MOST_AT_ONCE: usize = 16;
const MOST_A_SECOND: u32 = 500;

#[derive(Debug)]
struct UserRound {
    due_micros: u64,
    is_asked: bool,
    /// It was in this count of who is there last.
    counted: u64,
}

/// Asks in turn about the users of one worker's clients.
#[derive(Debug, Default)]
pub struct UserRounds {
    users: HashMap<Box<[u8]>, UserRound>,
    counts: u64,
    asked: usize,
    /// Holds the second that passes, and how many were asked about in it.
    second: (u64, u32),
}

impl UserRounds {
    /// Notes that these users have clients; what was known of others is over.
    pub fn here(&mut self, users: impl Iterator<Item = Box<[u8]>>, now: u64) {
        self.counts += 1;
        let counts = self.counts;
        for user in users {
            let round = self.users.entry(user).or_insert(UserRound {
                due_micros: now,
                is_asked: false,
                counted: counts,
            });
            round.counted = counts;
        }
        self.users
            .retain(|_, round| round.counted == counts || round.is_asked);
    }

    /// Returns those to be asked about now, who are under way until [`Self::told`]: first those that are due for longest.
    pub fn due(&mut self, now: u64) -> Vec<Box<[u8]>> {
        let second = now / 1_000_000;
        if self.second.0 != second {
            self.second = (second, 0);
        }
        let left = MOST_A_SECOND.saturating_sub(self.second.1) as usize;
        let most = MOST_AT_ONCE.saturating_sub(self.asked).min(left);
        if most == 0 {
            return Vec::new();
        }
        let is_due = |round: &UserRound| !round.is_asked && round.due_micros <= now;
        let mut due: Vec<(u64, Box<[u8]>)> = self
            .users
            .iter()
            .filter(|(_, round)| is_due(round))
            .map(|(user, round)| (round.due_micros, user.clone()))
            .collect();
        due.sort_unstable();
        due.truncate(most);
        for (_, user) in &due {
            if let Some(round) = self.users.get_mut(user) {
                round.is_asked = true;
            }
        }
        self.asked += due.len();
        self.second.1 += due.len() as u32;
        due.into_iter().map(|(_, user)| user).collect()
    }

    /// Notes that the server has said what there is to be said of a user, or that it could not be asked.
    pub fn told(&mut self, user: &[u8], now: u64) {
        if let Some(round) = self.users.get_mut(user)
            && round.is_asked
        {
            round.is_asked = false;
            round.due_micros = now + EVERY_MICROS;
            self.asked -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<Box<[u8]>> {
        (0..count)
            .map(|user| user.to_string().into_bytes().into())
            .collect()
    }

    #[test]
    fn a_user_is_asked_about_at_once_and_then_every_two_seconds() {
        let mut rounds = UserRounds::default();
        rounds.here(names(1).into_iter(), 5);
        assert_eq!(rounds.due(5), names(1));
        assert!(rounds.due(9_000_000).is_empty(), "it is under way");
        rounds.told(b"0", 9_000_000);
        assert!(rounds.due(10_999_999).is_empty());
        assert_eq!(rounds.due(11_000_000), names(1));
        rounds.told(b"0", 11_000_000);
        // Nobody is it any more.
        rounds.here(std::iter::empty(), 12_000_000);
        assert!(rounds.due(20_000_000).is_empty() && rounds.users.is_empty());
    }

    #[test]
    fn of_many_users_each_has_its_turn_within_a_bound() {
        let mut rounds = UserRounds::default();
        let users = names(900);
        let mut last: HashMap<Box<[u8]>, u64> = HashMap::new();
        let mut asked_in_all = 0;
        for step in 0..1000 {
            let now = step * 10_000;
            rounds.here(users.iter().cloned(), now);
            let due = rounds.due(now);
            assert!(due.len() <= MOST_AT_ONCE);
            asked_in_all += due.len();
            for user in due {
                if let Some(before) = last.insert(user.clone(), now) {
                    assert!(now - before < 4_000_000, "{}", now - before);
                }
                rounds.told(&user, now);
            }
        }
        assert_eq!(last.len(), users.len());
        assert!(asked_in_all <= 11 * MOST_A_SECOND as usize);
    }
}
