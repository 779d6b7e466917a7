//! When the login of one connection has to be renewed.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::auth::refusal_text;
use crate::thread::Thread;

/// Says how long after a refusal it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Tells when the login of one connection has to be renewed.
#[derive(Debug, Default)]
pub struct Renewal {
    /// It lasts so long; 0: for ever.
    pub(super) after_micros: Cell<u64>,
    pub(super) due_micros: Cell<u64>,
}

impl Renewal {
    /// Has it due from here on at a random time between `after` and 11/6 of it.
    pub fn begin(&self, after: Duration, now_micros: u64) {
        let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX / 4);
        self.after_micros.set(after.min(u64::MAX / 4));
        self.renewed(now_micros);
    }

    /// Notes that it was renewed.
    pub(super) fn renewed(&self, now_micros: u64) {
        let after = self.after_micros.get();
        let spread = (after as f64 * 5.0 / 6.0 * rand::random::<f64>()) as u64;
        self.due_micros
            .set(now_micros.saturating_add(after).saturating_add(spread));
    }

    /// Has it tried again in a while: it was refused.
    pub fn postpone(&self, now_micros: u64) {
        let after = (AGAIN_AFTER.as_micros() as u64).min(self.after_micros.get());
        self.due_micros.set(now_micros.saturating_add(after));
    }

    /// Takes in the server's answer to the AUTH that renews the login of `connection`.
    pub fn answered(&self, thread: &Rc<Thread>, connection: &str, reply: &[u8]) {
        if reply.starts_with(b"+OK") {
            self.renewed(thread.clock.now_micros());
            return thread.counters.renewals.add(1);
        }
        thread.counters.renewals_refused.add(1);
        tracing::warn!(
            connection,
            "the server refused to renew respool's login: {}; it is shown another secret in a minute",
            refusal_text(reply)
        );
        let login = thread.process.login();
        tokio::task::spawn_local(async move { login.ask_again(login.times_asked()).await });
    }

    /// Tells whether it is due.
    pub fn is_due(&self, now_micros: u64) -> bool {
        self.after_micros.get() > 0 && now_micros >= self.due_micros.get()
    }

    /// Returns what [`Self::set_times`] takes on another thread, whose clock started at the same time.
    pub(super) fn times(&self) -> (u64, u64) {
        (self.after_micros.get(), self.due_micros.get())
    }

    /// Takes over what [`Self::times`] has returned.
    pub(super) fn set_times(&self, (after, due): (u64, u64)) {
        self.after_micros.set(after);
        self.due_micros.set(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600 * 1_000_000;

    #[test]
    fn a_login_is_due_between_six_and_eleven_hours() {
        let mut earliest = u64::MAX;
        let mut latest = 0;
        for _ in 0..1000 {
            let renewal = Renewal::default();
            assert!(!renewal.is_due(u64::MAX), "never, unless it is begun");
            renewal.begin(Duration::from_secs(6 * 3600), HOUR);
            assert!(!renewal.is_due(7 * HOUR - 1));
            assert!(renewal.is_due(12 * HOUR));
            earliest = earliest.min(renewal.due_micros.get());
            latest = latest.max(renewal.due_micros.get());
            renewal.renewed(100 * HOUR);
            assert!(!renewal.is_due(106 * HOUR - 1) && renewal.is_due(111 * HOUR));
        }
        // Of a thousand, some are in the first hour and some in the last.
        assert!(
            earliest < 8 * HOUR && latest > 11 * HOUR,
            "{earliest} {latest}"
        );
    }

    #[test]
    fn a_refused_one_is_tried_again_soon() {
        let renewal = Renewal::default();
        renewal.begin(Duration::from_secs(6 * 3600), 0);
        renewal.postpone(7 * HOUR);
        assert!(!renewal.is_due(7 * HOUR + 59_000_000));
        assert!(renewal.is_due(7 * HOUR + 60_000_000));
    }
}
