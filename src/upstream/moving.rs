//! Leaving a server that has moved or was demoted, or a connection that another is to replace (its TLS keys are nearly used up, a reload has changed how it is opened): each connection takes no new work, finishes what is under way and goes.
//!
//! Invariant: at a server that has moved or was demoted what is under way on a lent connection goes on for at most
//! `upstream.move_timeout`; a shared one that owes replies is left when nothing has moved on it for [`STUCK_AFTER`].

use std::rc::Rc;
use std::time::Duration;

use super::link::{Leaving, Link};
use super::pins::Pin;
use super::pool::Upstream;
use crate::config::Role;
use crate::failover::Node;
use crate::resp::speak::encode_request;
use crate::session::{Protocol, State};
use crate::telemetry::{Bound, LossCause};

/// A server that has moved away and is silent for this long is not waited for: its place is needed.
const STUCK_AFTER: Duration = Duration::from_secs(1);

impl Upstream {
    /// Leaves the connections to be left, each from a random moment on so that not all are opened anew at once.
    pub(super) fn move_on(self: &Rc<Self>) {
        self.close_surplus();
        let changes = self.thread.process.whereabouts.changes();
        let now = self.thread.clock.now_micros();
        let links = self.all_links();
        for link in &links {
            if link.checked.replace(changes) != changes && link.leaving().is_none() {
                self.check(link, now);
            }
            if link.leaving().is_none() && link.is_worn_out() {
                // What is under way has time to end: the keys last for a while yet.
                link.set_leaving(Leaving {
                    cause: LossCause::TlsKeys,
                    from_micros: now,
                    until_micros: u64::MAX,
                });
            }
        }
        for link in &links {
            let Some(leaving) = link.leaving() else {
                continue;
            };
            if leaving.from_micros > now && leaving.cause == LossCause::Moved {
                // A client must not go to and fro between two servers: from the first connection to the new one on none
                // is used to the old one.
                let node = &link.origin().node;
                let is_there = |other: &Rc<Link>| {
                    other.is_alive() && other.leaving().is_none() && other.origin().node != *node
                };
                if links.iter().any(is_there) {
                    link.leave_at(now);
                }
            }
            if link
                .leaving()
                .is_some_and(|leaving| leaving.from_micros <= now)
            {
                self.leave(link, now);
            }
        }
    }

    /// Ends the shared connections that a smaller pool has no place for, each when it owes nothing.
    fn close_surplus(&self) {
        for link in self.links.borrow().iter().flatten() {
            let is_surplus = self.schedule.borrow().is_surplus(link.slot.get());
            let is_free = link.in_flight() == 0 && !link.is_dressing();
            if is_surplus
                && is_free
                && link.slot.get() != usize::MAX
                && !self.schedule.borrow().is_promised(link.slot.get())
            {
                link.close("the pool is smaller than it was");
            }
        }
    }

    pub(super) fn all_links(&self) -> Vec<Rc<Link>> {
        let mut all: Vec<Rc<Link>> = self.links.borrow().iter().flatten().cloned().collect();
        all.extend(self.pins.borrow().iter().filter_map(std::rc::Weak::upgrade));
        all.extend(
            self.both_subscriptions()
                .filter_map(|some| some.connection()),
        );
        all
    }

    fn check(&self, link: &Link, now: u64) {
        let origin = link.origin();
        let whereabouts = &self.thread.process.whereabouts;
        let Some(cause) = whereabouts.is_to_be_left(&origin.node, origin.begun_micros, now) else {
            return;
        };
        let settings = self.thread.settings();
        let spread = (settings.upstream.reconnect.max / 4).mul_f64(rand::random::<f64>());
        let from_micros = now + spread.as_micros() as u64;
        let mut leaving = Leaving {
            cause,
            from_micros,
            until_micros: u64::MAX,
        };
        if !leaving.is_patient() {
            let limit = settings.upstream.move_timeout;
            leaving.until_micros = from_micros + limit.as_micros() as u64;
        }
        link.set_leaving(leaving);
        if cause == LossCause::Moved && link.is_alive() {
            let failovers = &self.thread.process.failovers;
            failovers.left(&origin.node, cause, origin.begun_micros, now);
        }
        tracing::info!(
            connection = link.name,
            server = %origin.node,
            cause = cause.label(),
            "a connection is left for another"
        );
    }

    fn leave(self: &Rc<Self>, link: &Rc<Link>, now: u64) {
        let Some(leaving) = link.leaving().filter(|_| link.is_alive()) else {
            return;
        };
        let is_shared = link.slot.get() != usize::MAX;
        let is_idle = self
            .idle_pins
            .borrow()
            .iter()
            .any(|idle| Rc::ptr_eq(idle, link));
        let is_subscription = self
            .both_subscriptions()
            .filter_map(|some| some.connection())
            .any(|other| Rc::ptr_eq(&other, link));
        if is_shared {
            if !link.is_dressing() {
                self.schedule.borrow_mut().closing(link.slot.get());
                self.finish(link);
            }
            let patience = leaving.from_micros + STUCK_AFTER.as_micros() as u64;
            let is_silent = link.is_stuck(STUCK_AFTER) && !leaving.is_patient();
            if now >= patience && is_silent {
                link.lose(leaving.cause, leaving.why());
            }
        } else if is_idle || is_subscription {
            link.lose(leaving.cause, leaving.why());
        } else if now >= leaving.until_micros {
            self.thread.counters.bound(Bound::MoveTimeout).add(1);
            link.lose(
                leaving.cause,
                "upstream.move_timeout has passed since the server moved",
            );
        } else {
            self.vacate(link);
        }
    }

    /// Ends a shared connection that is being left if all is answered on it, and no blocked call is to be ended beside it.
    fn finish(&self, link: &Link) {
        let leaving = link.leaving().filter(|leaving| {
            leaving.from_micros <= self.thread.clock.now_micros() && !link.is_dressing()
        });
        if let Some(leaving) = leaving
            && link.in_flight() == 0
            && link.is_alive()
            && !self.has_seat_at(&link.origin().node)
        {
            link.lose(leaving.cause, leaving.why());
        }
    }

    /// Heeds what a read has brought: that the server is no primary, or the last reply of a connection that is being left.
    #[inline]
    pub(super) fn heed(self: &Rc<Self>, link: &Rc<Link>) {
        for (request, elements) in link.take_returns() {
            self.put_back(link.worn().clone(), request, elements, Some(link.origin()));
        }
        if let Some(cause) = link.take_alarm() {
            self.suspect(link, cause);
        }
        if link.leaving().is_some() && link.slot.get() != usize::MAX && !self.is_offered(link) {
            self.finish(link);
        }
    }

    fn is_offered(&self, link: &Link) -> bool {
        self.schedule.borrow().is_offered(link.slot.get())
    }

    /// The server has answered as a replica does. A script can say so too: the server itself is asked, once at a time.
    fn suspect(self: &Rc<Self>, link: &Rc<Link>, cause: LossCause) {
        let is_expected = self.thread.role() == Role::Replica;
        if is_expected
            || !self.thread.process.is_demotion_due()
            || self.is_asking_role.replace(true)
        {
            return;
        }
        let node = link.origin().node.clone();
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let limit = upstream.thread.settings().upstream.reply_timeout;
            let asked = tokio::time::timeout(limit, upstream.is_replica(&node)).await;
            upstream.is_asking_role.set(false);
            if matches!(asked, Ok(Some(true))) {
                upstream.thread.process.demoted(&node, cause);
            }
        });
    }

    /// Whether the server at `node` calls itself a replica. HELLO is permitted to every user, and changes nothing when it
    /// names the protocol that is spoken.
    async fn is_replica(&self, node: &Node) -> Option<bool> {
        let link = self.shared_at(node, |_| true)?;
        let version = match link.worn().protocol {
            Protocol::Resp2 => "2",
            Protocol::Resp3 => "3",
        };
        let mut reply = ask(&link, &encode_request(&["HELLO", version])).await?;
        if reply.starts_with(b"-ERR unknown command") {
            // A server older than HELLO.
            reply = ask(&link, &encode_request(&["INFO", "replication"])).await?;
        }
        let is = |role: &[u8]| memchr::memmem::find(&reply, role).is_some();
        Some(is(b"\r\nreplica\r\n") || is(b"\r\nslave\r\n") || is(b"\r\nrole:slave\r\n"))
    }

    /// A shared connection to `node` for a request of respool's own.
    pub(super) fn shared_at(&self, node: &Node, fits: impl Fn(&Link) -> bool) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let usable = links
            .iter()
            .flatten()
            .filter(|link| link.is_alive() && !link.is_dressing() && link.origin().node == *node);
        self.least_held_up(usable.filter(|link| fits(link)))
    }

    /// Asks the server at `node` something, as respool's own user where that can be had: a client's may not have the
    /// permissions. `None`: there is no connection to it, or it was lost.
    pub async fn ask_at(self: &Rc<Self>, node: &Node, request: &[u8]) -> Option<Vec<u8>> {
        let is_own = |link: &Link| link.worn().user.is_none();
        if self.has_lanes()
            && !self.thread.is_nobody()
            && self
                .shared_at(node, |link| is_own(link) && !self.is_held_up(link))
                .is_none()
            && self.may_lend(0)
        {
            let asked = self.on_lent(0, State::INITIAL, async |pin: Pin| {
                let is_there = pin.link().origin().node == *node;
                let answer = match is_there {
                    true => ask(pin.link(), request).await,
                    false => None,
                };
                pin.give_back_clear();
                answer
            });
            if let Ok(answer) = asked.await {
                return Some(answer);
            }
        }
        let mut link = self.shared_at(node, is_own);
        if link.is_none()
            && !self.thread.is_nobody()
            && self
                .shared_at(node, |link| link.leaving().is_none())
                .is_some()
        {
            let wait = self.wait_shared(&State::INITIAL, 1).ok()?;
            // Whatever it is given, there is one then.
            std::future::poll_fn(|cx| wait.poll(cx)).await.ok()?;
            link = self.shared_at(node, is_own);
        }
        // A client's user may not have the permissions that respool's own has; it is better than none.
        let link = link.or_else(|| self.shared_at(node, |_| true))?;
        ask(&link, request).await
    }

    /// A blocked call on `link`, if there is one, is ended there and issued anew on another connection.
    pub(super) fn vacate(self: &Rc<Self>, link: &Rc<Link>) {
        let seats = self.waiting.seats.borrow();
        let seat = seats.iter().find(|(_, seat)| Rc::ptr_eq(&seat.link, link));
        let Some(id) = seat.map(|(id, _)| *id) else {
            return;
        };
        drop(seats);
        let now = self.thread.clock.now_micros();
        self.waiting.waits.borrow_mut().vacate(id, now);
        self.carry_out();
    }

    /// Whether a call for blocked clients is issued at `node` on a connection that is being left.
    pub(super) fn has_seat_at(&self, node: &Node) -> bool {
        let seats = self.waiting.seats.borrow();
        seats.values().any(|seat| {
            let link = &seat.link;
            link.is_alive() && link.leaving().is_some() && link.origin().node == *node
        })
    }
}

/// `None`: the connection was lost.
async fn ask(link: &Link, request: &[u8]) -> Option<Vec<u8>> {
    let told = link.ask(request);
    told.await.ok()
}
