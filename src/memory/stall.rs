//! Which of those who hold too much make no progress.

use std::collections::HashMap;
use std::time::Duration;

/// Tells how far a client was, and since when.
#[derive(Debug, Clone, Copy)]
struct ReadProgress {
    moved_bytes: u64,
    since_micros: u64,
    /// Counts the bytes that the kernel had for it and it had not taken, halfway through its time.
    queued_bytes: Option<u64>,
}

/// Watches the clients that leave more unread than they may: when they last took any of it.
#[derive(Debug, Default)]
pub struct ReplyStalls {
    seen: HashMap<u64, ReadProgress>,
}

impl ReplyStalls {
    /// Tells whether this client was among them when they were last looked at.
    pub fn knows(&self, id: u64) -> bool {
        self.seen.contains_key(&id)
    }

    /// Looks at all who leave too much unread now: their number, and the bytes that have ever moved between them and respool.
    /// Returns those for whom none has for `timeout` while they did.
    ///
    /// The kernel takes bytes by the megabyte, so that a client that reads 20 KB a second seems to stand still for a minute.
    /// `queued` tells what the kernel still has for a client; it is asked only of one that may have stalled, twice.
    pub fn look(
        &mut self,
        over: &[(u64, u64)],
        now_micros: u64,
        timeout: Duration,
        mut queued: impl FnMut(u64) -> Option<u64>,
    ) -> Vec<u64> {
        if over.is_empty() {
            self.seen = HashMap::new();
            return Vec::new();
        }
        let timeout = timeout.as_micros() as u64;
        let mut seen = HashMap::with_capacity(over.len());
        let mut stalled = Vec::new();
        for &(id, moved_bytes) in over {
            let anew = ReadProgress {
                moved_bytes,
                since_micros: now_micros,
                queued_bytes: None,
            };
            let before = self.seen.get(&id).copied();
            let mut progress = before
                .filter(|before| before.moved_bytes == moved_bytes)
                .unwrap_or(anew);
            let waited = now_micros.saturating_sub(progress.since_micros);
            if waited >= timeout {
                let before = progress.queued_bytes;
                if before.is_none() || queued(id) == before {
                    stalled.push(id);
                    continue;
                }
                progress = anew;
            } else if waited >= timeout / 2 && progress.queued_bytes.is_none() {
                progress.queued_bytes = queued(id);
            }
            seen.insert(id, progress);
        }
        self.seen = seen;
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_micros(100);

    #[test]
    fn who_takes_something_in_time_is_never_closed() {
        let mut stalls = ReplyStalls::default();
        for turn in 0..1000 {
            assert!(
                stalls
                    .look(&[(1, turn)], turn * 99, TIMEOUT, |_| None)
                    .is_empty()
            );
        }
    }

    #[test]
    fn who_takes_nothing_is_told_once_in_time() {
        let mut stalls = ReplyStalls::default();
        assert!(
            stalls
                .look(&[(1, 5), (2, 5)], 0, TIMEOUT, |_| None)
                .is_empty()
        );
        assert!(
            stalls
                .look(&[(1, 5), (2, 6)], 99, TIMEOUT, |_| None)
                .is_empty()
        );
        assert_eq!(stalls.look(&[(1, 5), (2, 6)], 100, TIMEOUT, |_| None), [1]);
        assert_eq!(stalls.look(&[(2, 6)], 199, TIMEOUT, |_| None), [2]);
    }

    #[test]
    fn who_was_under_its_bound_in_between_begins_anew() {
        let mut stalls = ReplyStalls::default();
        assert!(stalls.look(&[(1, 5)], 0, TIMEOUT, |_| None).is_empty());
        assert!(stalls.look(&[], 50, TIMEOUT, |_| None).is_empty());
        assert!(stalls.look(&[(1, 5)], 120, TIMEOUT, |_| None).is_empty());
        assert_eq!(stalls.look(&[(1, 5)], 220, TIMEOUT, |_| None), [1]);
    }

    #[test]
    fn who_takes_what_the_kernel_has_is_not_closed() {
        let mut stalls = ReplyStalls::default();
        let mut left = 1_000_000;
        for turn in 0..100 {
            let queued = |_| {
                left -= 1;
                Some(left)
            };
            assert!(
                stalls
                    .look(&[(1, 5)], turn * 50, TIMEOUT, queued)
                    .is_empty()
            );
        }
        let mut closed = Vec::new();
        for turn in 100..104 {
            closed.extend(stalls.look(&[(1, 5)], turn * 50, TIMEOUT, |_| Some(7)));
        }
        assert_eq!(closed, [1]);
    }
}
