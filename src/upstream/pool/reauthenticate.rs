//! The server is shown respool's own secret again on connections that are open, before what they were opened with runs out.
//!
//! ElastiCache ends a connection of an IAM user twelve hours after it was last authenticated. Between six and eleven, each
//! at a time of its own, AUTH is sent on it, outside of transactions and not while it is blocked. A refusal leaves the
//! connection as it is. What its clients send meanwhile waits for the answer, see `exchange/logins.rs`.

use std::rc::Rc;

use zeroize::Zeroizing;

use super::Upstream;
use crate::link::Link;
use crate::session::Own;

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
            && self.overdue_calls(now).is_empty()
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
            for connection in upstream.overdue_calls(now) {
                upstream.unblock_call(connection);
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
            link.renewal.answered(&thread, link.name(), &reply);
        });
    }
}
