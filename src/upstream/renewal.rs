//! Showing the server respool's own secret again on connections that are open, before what they were opened with runs out.
//!
//! ElastiCache ends a connection of an IAM user twelve hours after it was last authenticated. Between six and eleven, each
//! at a time of its own, AUTH is sent on it, outside of transactions and not while it is blocked. A refusal leaves the
//! connection as it is. What its clients send meanwhile waits for the answer, see `alone.rs`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::link::Link;
use super::pool::Upstream;
use super::thread::Thread;
use crate::auth::refusal_text;
use crate::session::Own;

/// Says how long after a refusal it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// When the login of one connection has to be renewed.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// 0: never.
    pub(super) after_micros: Cell<u64>,
    pub(super) due_micros: Cell<u64>,
}

impl Renewal {
    /// From here on it is due at a random time between `after` and 11/6 of it.
    pub(super) fn begin(&self, after: Duration, now_micros: u64) {
        let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX / 4);
        self.after_micros.set(after.min(u64::MAX / 4));
        self.renewed(now_micros);
    }

    /// It was renewed.
    pub(super) fn renewed(&self, now_micros: u64) {
        let after = self.after_micros.get();
        let spread = (after as f64 * 5.0 / 6.0 * rand::random::<f64>()) as u64;
        self.due_micros
            .set(now_micros.saturating_add(after).saturating_add(spread));
    }

    fn postpone(&self, now_micros: u64) {
        let after = (AGAIN_AFTER.as_micros() as u64).min(self.after_micros.get());
        self.due_micros.set(now_micros.saturating_add(after));
    }

    /// Tells whether it is due.
    pub(super) fn is_due(&self, now_micros: u64) -> bool {
        self.after_micros.get() > 0 && now_micros >= self.due_micros.get()
    }
}

impl Upstream {
    /// Renews the logins that are due, as far as their connections take one now; the others are looked at again.
    pub(super) fn renew_logins(self: &Rc<Self>) {
        let login = self.thread.process.login();
        login.keep_keys();
        if !login.expires() || self.is_renewing.get() || self.is_stopping() {
            return;
        }
        let now = self.thread.clock.now_micros();
        if self.due_links(now).is_empty()
            && self.overdue_seats(now).is_empty()
            && self
                .both_subscriptions()
                .all(|some| some.overdue_link(now).is_none())
        {
            return;
        }
        self.is_renewing.set(true);
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            // What is shown must not have run out itself.
            upstream.thread.process.login().prepare().await;
            let now = upstream.thread.clock.now_micros();
            for link in upstream.due_links(now) {
                upstream.renew(&link);
            }
            for some in upstream.both_subscriptions() {
                if let Some(link) = some.overdue_link(now)
                    && let Some(Own::User(own)) = upstream.thread.own()
                {
                    link.renewal.postpone(now);
                    some.renew_login(&Zeroizing::new(own.request()));
                }
            }
            // Their calls are issued again, and before that their logins renewed.
            for seat in upstream.overdue_seats(now) {
                upstream.unblock_seat(seat);
            }
            upstream.is_renewing.set(false);
        });
    }

    fn due_links(&self, now_micros: u64) -> Vec<Rc<Link>> {
        let links = self.links.borrow();
        let pins = self.pins.borrow();
        let shared = links.iter().flatten().cloned();
        let lent = pins.iter().filter_map(std::rc::Weak::upgrade);
        shared
            .chain(lent)
            .filter(|link| link.renewal.is_due(now_micros) && link.takes_login())
            .collect()
    }

    /// Sends AUTH on a connection that takes it.
    pub(super) fn renew(self: &Rc<Self>, link: &Rc<Link>) {
        let Some(Own::User(own)) = self.thread.own() else {
            return;
        };
        let now = self.thread.clock.now_micros();
        // Not asked again while the answer is on its way.
        link.renewal.postpone(now);
        let request = Zeroizing::new(own.request());
        let told = link.ask(&request);
        let (thread, link) = (Rc::clone(&self.thread), Rc::clone(link));
        tokio::task::spawn_local(async move {
            // A connection that was lost needs no renewal.
            let Ok(reply) = told.await else { return };
            answered(&thread, &link, &reply);
        });
    }
}

/// The server's answer to the AUTH that renews the login of `link`.
pub(super) fn answered(thread: &Rc<Thread>, link: &Link, reply: &[u8]) {
    if reply.starts_with(b"+OK") {
        link.renewal.renewed(thread.clock.now_micros());
        return thread.counters.renewals.add(1);
    }
    thread.counters.renewals_refused.add(1);
    tracing::warn!(
        connection = link.name,
        "the server refused to renew respool's login: {}; it is shown another secret in a minute",
        refusal_text(reply)
    );
    let login = thread.process.login();
    tokio::task::spawn_local(async move { login.ask_again(login.times_asked()).await });
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
