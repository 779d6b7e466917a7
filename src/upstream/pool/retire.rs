//! Connections are left whose server has moved or was demoted, or which others are to replace (their TLS keys are nearly used up, a
//! reload has changed how they are opened): each takes no new work, finishes what is under way and goes.
//!
//! Invariant: at a server that has moved or was demoted what is under way on a lent connection goes on for at most
//! `upstream.move_timeout`; a shared one that owes replies is left when nothing has moved on it for [`STUCK_AFTER`].

use std::rc::Rc;
use std::time::Duration;

use super::Upstream;
use super::lent::Pin;
use crate::config::ServerRole;
use crate::failover::ServerNode;
use crate::link::{Leaving, Link};
use crate::resp::speak::encode_request;
use crate::session::{Protocol, State};
use crate::telemetry::{Bound, LossCause};
use crate::texts::is_unknown_command;

/// A server that has moved away and is silent for this long is not waited for: its place is needed.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Tells what a connection is used for, as far as that decides how it is left.
#[derive(Debug, Clone, Copy)]
enum LinkUse {
    /// Clients share the connection.
    Shared {
        /// A change of its state is under way.
        is_changing: bool,
        /// It owes replies, and nothing has moved on it for [`STUCK_AFTER`].
        is_stuck: bool,
    },
    /// Nobody is in the middle of anything on it: it is idle, or another takes over its subscriptions.
    Replaceable,
    /// A client, or a call for blocked ones, has it.
    Lent,
}

/// Tells what is to be done next with a connection that is being left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeavingStep {
    /// It goes on until its state has changed.
    Wait,
    /// It takes no new work, and ends when all is answered.
    Finish,
    /// It ends at once.
    Lose,
    /// It ends now, for its time is over.
    LoseOverdue,
    /// A call of blocked clients on it goes elsewhere; a client's goes on.
    Vacate,
}

/// Decides what is to be done with a connection whose time to be left has come.
fn next_step(leaving: &Leaving, used: LinkUse, now: u64) -> LeavingStep {
    let patience = leaving
        .from_micros
        .saturating_add(STUCK_AFTER.as_micros() as u64);
    match used {
        LinkUse::Shared { is_stuck: true, .. } if now >= patience && !leaving.is_patient() => {
            LeavingStep::Lose
        }
        LinkUse::Shared {
            is_changing: true, ..
        } => LeavingStep::Wait,
        LinkUse::Shared { .. } => LeavingStep::Finish,
        LinkUse::Replaceable => LeavingStep::Lose,
        LinkUse::Lent if now >= leaving.until_micros => LeavingStep::LoseOverdue,
        LinkUse::Lent => LeavingStep::Vacate,
    }
}

/// Decides from when until when a connection is left: from a moment within `spread`, of which `chance` is taken, so that not all are opened
/// anew at once. What must not wait for ever has until `limit` after that.
fn leaving_within(
    cause: LossCause,
    (spread, chance): (Duration, f64),
    limit: Duration,
    now: u64,
) -> Leaving {
    let from_micros = now + spread.mul_f64(chance).as_micros() as u64;
    let mut leaving = Leaving {
        cause,
        from_micros,
        until_micros: u64::MAX,
    };
    if !leaving.is_patient() {
        leaving.until_micros = from_micros + limit.as_micros() as u64;
    }
    leaving
}

/// Tells whether an answer to HELLO, or to INFO, is that of a replica.
fn is_from_replica(reply: &[u8]) -> bool {
    let is = |role: &[u8]| memchr::memmem::find(reply, role).is_some();
    is(b"\r\nreplica\r\n") || is(b"\r\nslave\r\n") || is(b"\r\nrole:slave\r\n")
}

impl Upstream {
    /// Leaves the connections to be left, each from a random moment on so that not all are opened anew at once.
    pub(super) fn move_on(self: &Rc<Self>) {
        self.close_surplus();
        let changes = self.thread.process.address.changes();
        let now = self.thread.clock.now_micros();
        let links = self.all_links();
        for link in &links {
            if link.may_have_to_leave(changes) {
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
            let schedule = self.schedule.borrow();
            let is_unwanted = |slot| schedule.is_surplus(slot) && !schedule.is_promised(slot);
            let is_free = link.in_flight() == 0 && !link.is_changing_state();
            if is_free && link.slot().is_some_and(is_unwanted) {
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
        let address = &self.thread.process.address;
        let Some(cause) = address.is_to_be_left(&origin.node, origin.begun_micros, now) else {
            return;
        };
        let settings = self.thread.settings();
        let spread = (settings.upstream.reconnect.max / 4, rand::random());
        let limit = settings.upstream.move_timeout;
        link.set_leaving(leaving_within(cause, spread, limit, now));
        if cause == LossCause::Moved && link.is_alive() {
            let failovers = &self.thread.process.failovers;
            failovers.left(&origin.node, cause, origin.begun_micros, now);
        }
        tracing::info!(
            connection = link.name(),
            server = %origin.node,
            cause = cause.label(),
            "a connection is left for another"
        );
    }

    fn leave(self: &Rc<Self>, link: &Rc<Link>, now: u64) {
        let Some(leaving) = link.leaving().filter(|_| link.is_alive()) else {
            return;
        };
        let step = next_step(&leaving, Self::use_of(link), now);
        match step {
            LeavingStep::Wait => {}
            LeavingStep::Finish => {
                if let Some(slot) = link.slot() {
                    self.schedule.borrow_mut().closing(slot);
                }
                self.finish(link);
            }
            LeavingStep::Lose => link.lose(leaving.cause, leaving.why()),
            LeavingStep::LoseOverdue => {
                self.thread.counters.bound(Bound::MoveTimeout).add(1);
                link.lose(
                    leaving.cause,
                    "upstream.move_timeout has passed since the server moved",
                );
            }
            LeavingStep::Vacate => self.vacate(link),
        }
    }

    /// Tells what a connection that is being left is used for.
    fn use_of(link: &Link) -> LinkUse {
        if link.slot().is_some() {
            return LinkUse::Shared {
                is_changing: link.is_changing_state(),
                is_stuck: link.is_stuck(STUCK_AFTER),
            };
        }
        match link.is_replaceable() {
            true => LinkUse::Replaceable,
            false => LinkUse::Lent,
        }
    }

    /// Ends a shared connection that is being left if all is answered on it, and no blocked call is to be ended beside it.
    fn finish(&self, link: &Link) {
        let leaving = link.leaving().filter(|leaving| {
            leaving.from_micros <= self.thread.clock.now_micros() && !link.is_changing_state()
        });
        if let Some(leaving) = leaving
            && link.in_flight() == 0
            && link.is_alive()
            && !self.has_call_at(&link.origin().node)
        {
            link.lose(leaving.cause, leaving.why());
        }
    }

    /// Heeds what a read has brought: that the server is no primary, or the last reply of a connection that is being left.
    #[inline]
    pub(super) fn heed(self: &Rc<Self>, link: &Rc<Link>) {
        for (request, elements) in link.take_returns() {
            self.put_back(link.state().clone(), request, elements, Some(link.origin()));
        }
        if let Some(cause) = link.take_alarm() {
            self.suspect(link, cause);
        }
        let is_offered = |slot| self.schedule.borrow().is_offered(slot);
        if link.leaving().is_some() && link.slot().is_some_and(|slot| !is_offered(slot)) {
            self.finish(link);
        }
    }

    /// Takes in that the server has answered as a replica does. A script can say so too: the server itself is asked, once at a time.
    fn suspect(self: &Rc<Self>, link: &Rc<Link>, cause: LossCause) {
        let process = &self.thread.process;
        let is_expected = self.thread.role() == ServerRole::Replica;
        if is_expected
            || !process.address.is_demotion_due(process.now_micros())
            || self.is_asking_role.replace(true)
        {
            return;
        }
        let node = link.origin().node.clone();
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let limit = upstream.thread.settings().upstream.reply_timeout;
            let asking = upstream.is_replica(&node);
            let asked = upstream.thread.while_running(limit, asking).await;
            upstream.is_asking_role.set(false);
            if asked.flatten() == Some(true) {
                upstream.thread.process.demoted(&node, cause);
            }
        });
    }

    /// Tells whether the server at `node` calls itself a replica. HELLO is permitted to every user, and changes nothing when it
    /// names the protocol that is spoken.
    async fn is_replica(&self, node: &ServerNode) -> Option<bool> {
        let link = self.shared_at(node, |_| true)?;
        let version = match link.state().protocol {
            Protocol::Resp2 => "2",
            Protocol::Resp3 => "3",
        };
        let mut reply = ask(&link, &encode_request(&["HELLO", version])).await?;
        if is_unknown_command(&reply) {
            // A server older than HELLO.
            reply = ask(&link, &encode_request(&["INFO", "replication"])).await?;
        }
        Some(is_from_replica(&reply))
    }

    /// Returns a shared connection to `node` for a request of respool's own.
    pub(super) fn shared_at(
        &self,
        node: &ServerNode,
        fits: impl Fn(&Link) -> bool,
    ) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        let usable = links.iter().flatten().filter(|link| {
            link.is_alive() && !link.is_changing_state() && link.origin().node == *node
        });
        self.least_held_up(usable.filter(|link| fits(link)))
    }

    /// Asks the server at `node` something, as respool's own user where that can be had: a client's may not have the
    /// permissions. `None`: there is no connection to it, or it was lost.
    pub async fn ask_at(self: &Rc<Self>, node: &ServerNode, request: &[u8]) -> Option<Vec<u8>> {
        let is_own = |link: &Link| link.state().user.is_none();
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

    /// Has a blocked call on `link`, if there is one, ended there and issued anew on another connection.
    pub(super) fn vacate(self: &Rc<Self>, link: &Rc<Link>) {
        let connections = self.blocked.connections.borrow();
        let connection = connections
            .iter()
            .find(|(_, connection)| Rc::ptr_eq(&connection.link, link));
        let Some(id) = connection.map(|(id, _)| *id) else {
            return;
        };
        drop(connections);
        let now = self.thread.clock.now_micros();
        self.blocked.waits.borrow_mut().vacate(id, now);
        self.carry_out();
    }

    /// Tells whether a call for blocked clients is issued at `node` on a connection that is being left.
    pub(super) fn has_call_at(&self, node: &ServerNode) -> bool {
        let connections = self.blocked.connections.borrow();
        connections.values().any(|connection| {
            let link = &connection.link;
            link.is_alive() && link.leaving().is_some() && link.origin().node == *node
        })
    }
}

/// Asks something on `link`. `None`: the connection was lost.
async fn ask(link: &Link, request: &[u8]) -> Option<Vec<u8>> {
    let told = link.ask(request);
    told.await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn left(cause: LossCause) -> Leaving {
        Leaving {
            cause,
            from_micros: 5 * SECOND,
            until_micros: 8 * SECOND,
        }
    }

    fn shared(is_changing: bool, is_stuck: bool) -> LinkUse {
        LinkUse::Shared {
            is_changing,
            is_stuck,
        }
    }

    #[test]
    fn a_shared_connection_finishes_unless_nothing_moves_at_a_server_that_is_gone() {
        let moved = left(LossCause::Moved);
        let step = |used, now| next_step(&moved, used, now);
        assert_eq!(step(shared(false, false), 5 * SECOND), LeavingStep::Finish);
        assert_eq!(step(shared(false, false), 99 * SECOND), LeavingStep::Finish);
        assert_eq!(step(shared(true, false), 99 * SECOND), LeavingStep::Wait);
        for is_changing in [false, true] {
            let stuck = shared(is_changing, true);
            assert_ne!(step(stuck, 6 * SECOND - 1), LeavingStep::Lose);
            assert_eq!(step(stuck, 6 * SECOND), LeavingStep::Lose);
        }
    }

    #[test]
    fn a_connection_that_another_replaces_is_waited_for() {
        for cause in [LossCause::TlsKeys, LossCause::Renewed] {
            let step = |used| next_step(&left(cause), used, 99 * SECOND);
            assert_eq!(step(shared(false, true)), LeavingStep::Finish);
            assert_eq!(step(shared(true, true)), LeavingStep::Wait);
        }
    }

    #[test]
    fn what_nobody_is_amid_ends_at_once_and_what_is_lent_in_time() {
        let moved = left(LossCause::Moved);
        let step = |used, now| next_step(&moved, used, now);
        assert_eq!(step(LinkUse::Replaceable, 5 * SECOND), LeavingStep::Lose);
        assert_eq!(step(LinkUse::Lent, 8 * SECOND - 1), LeavingStep::Vacate);
        assert_eq!(step(LinkUse::Lent, 8 * SECOND), LeavingStep::LoseOverdue);
        let never = Leaving {
            until_micros: u64::MAX,
            ..left(LossCause::TlsKeys)
        };
        let step = next_step(&never, LinkUse::Lent, 99 * SECOND);
        assert_eq!(step, LeavingStep::Vacate);
    }

    #[test]
    fn a_connection_is_left_within_the_spread_and_only_one_that_must_not_wait_has_an_end() {
        let spread = |chance| (Duration::from_secs(4), chance);
        let limit = Duration::from_secs(30);
        let leaving = |cause, chance| {
            let leaving = leaving_within(cause, spread(chance), limit, 7 * SECOND);
            (leaving.from_micros, leaving.until_micros)
        };
        for cause in [LossCause::Moved, LossCause::Readonly, LossCause::MasterDown] {
            assert_eq!(leaving(cause, 0.0), (7 * SECOND, 37 * SECOND));
            assert_eq!(leaving(cause, 0.5), (9 * SECOND, 39 * SECOND));
        }
        for cause in [LossCause::Renewed, LossCause::TlsKeys] {
            assert_eq!(leaving(cause, 0.25), (8 * SECOND, u64::MAX));
        }
    }

    #[test]
    fn a_replica_is_told_by_its_role_alone() {
        let hello = |role: &str| format!("*4\r\n$4\r\nrole\r\n${}\r\n{role}\r\n", role.len());
        assert!(is_from_replica(hello("replica").as_bytes()));
        assert!(is_from_replica(hello("slave").as_bytes()));
        assert!(!is_from_replica(hello("master").as_bytes()));
        let info = |role: &str| format!("$99\r\n# Replication\r\nrole:{role}\r\nslaves:0\r\n");
        assert!(is_from_replica(info("slave").as_bytes()));
        assert!(!is_from_replica(info("master").as_bytes()));
        assert!(!is_from_replica(b"-NOAUTH replica\r\n"));
    }
}
