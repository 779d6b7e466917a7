//! Which shared connection a client's requests go to, and how many of them at once.
//!
//! Invariant: while replies are due to a client its next request goes to the connection that they come from.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Context;

use super::refusals::unserved;
use super::story::{Awaited, Told};
use super::{Client, Next, Wait};
use crate::command::{Delays, PinReason};
use crate::link::{Link, RoomWait};
use crate::resp::count_requests;
use crate::schedule::goes_on_at;
use crate::telemetry::Bound;
use crate::transport::READ_SIZE;
use crate::upstream::{SharedWait, WaitError};

impl Client {
    pub(super) fn in_flight_limit(&self) -> u32 {
        u32::try_from(self.clients.thread.settings().limits.max_client_in_flight)
            .unwrap_or(u32::MAX)
    }

    /// Returns how many requests of this client may be at the server, or on their way: the configured bound, and its share of a shared
    /// connection.
    #[inline]
    pub(super) fn most_in_flight(&self) -> u32 {
        self.in_flight_limit().min(self.outlet.window())
    }

    pub(super) fn wait_in_flight(&mut self) {
        let bound = if self.outlet.outstanding() >= self.in_flight_limit() {
            Bound::InFlight
        } else {
            Bound::ClientShare
        };
        self.clients.thread.counters.bound(bound).add(1);
        self.wait = Wait::InFlight;
    }

    /// Tells whether `count` requests that belong together may be sent now; if not, what to wait for has been set. What is more than may
    /// ever be there goes alone.
    pub(super) fn has_share_for(&mut self, count: u32) -> bool {
        let (outstanding, most) = (self.outlet.outstanding(), self.most_in_flight());
        if outstanding == 0 || outstanding.saturating_add(count) <= most {
            return true;
        }
        if count <= most - goes_on_at(most) {
            self.wait_in_flight();
        } else {
            self.wait = Wait::Answers;
        }
        false
    }

    /// Sees to it that `self.link` can take requests now. `held` are the requests held back meanwhile.
    ///
    /// # Errors
    /// How the requests go on that it cannot take; [`Next::Used`] where every one at hand is refused, or a connection was lent for them.
    pub(super) fn link_ready(&mut self, held: &[u8], delays: Delays) -> Result<(), Next> {
        if !self.in_lane(delays) {
            return Err(Next::Wait);
        }
        if self.outlet.outstanding() > 0 {
            // Replies come in order, so the next request goes where they come from or waits.
            match &self.link {
                Some(link) if self.clients.upstream.serves(link, &self.session.state) => {
                    return self.has_room_for(held);
                }
                _ => {
                    self.wait = Wait::Answers;
                    return Err(Next::Wait);
                }
            }
        }
        if let Some(link) = &self.link
            && self
                .clients
                .upstream
                .is_best(link, &self.session.state, &self.outlet)
        {
            // Nearly always.
        } else {
            let upstream = &self.clients.upstream;
            self.link = upstream.shared_for(&self.session.state, delays);
        }
        if self.link.is_some() {
            return self.has_room_for(held);
        }
        let upstream = &self.clients.upstream;
        if upstream.has_lanes() && upstream.lends_instead(&self.session.state, delays) {
            self.pinned_link(PinReason::Stalled)?;
            return Err(Next::Used(0));
        }
        // They are counted only where they have to be held: what a client has sent ahead can be long.
        let commands = if upstream.is_away() {
            count_requests(held)
        } else {
            1
        };
        match upstream.wait_shared(&self.session.state, commands) {
            Ok(wait) => {
                self.then(async move |client: &mut Self| client.wait_served(wait, delays).await);
                Err(Next::Wait)
            }
            Err(error) => {
                self.refusing = Some(unserved(error));
                Err(Next::Used(0))
            }
        }
    }

    /// Waits for a shared connection for the requests at hand; they are refused where there is none.
    async fn wait_served(&mut self, wait: SharedWait, delays: Delays) -> Told {
        match self.served_by(Ok(wait), Some(delays)).await? {
            // Acknowledged, even if the connection has been lost since: the next request asks for another.
            Ok(link) => self.link = link,
            Err(reply) => self.refusing = Some(reply),
        }
        Ok(())
    }

    /// Waits for a shared connection; `lent` is what may delay the request that can be sent on a lent one as well.
    ///
    /// # Errors
    /// Within it, what the client gets where there is none.
    pub(super) async fn served_by(
        &mut self,
        wait: Result<SharedWait, WaitError>,
        lent: Option<Delays>,
    ) -> Told<Result<Option<Rc<Link>>, Vec<u8>>> {
        let wait = match wait {
            Ok(wait) => wait,
            Err(error) => return Ok(Err(unserved(error))),
        };
        if let Some(delays) = lent {
            wait.may_be_lent(delays);
        }
        let served = self
            .meanwhile(poll_fn(|cx| wait.poll(cx)), Awaited::Server)
            .await?;
        Ok(served.map_err(unserved))
    }

    /// Sees to it that `self.link` takes bytes for the server; else that is waited for.
    fn has_room_for(&mut self, held: &[u8]) -> Result<(), Next> {
        match &self.link {
            Some(link) if link.has_room(&self.outlet) => return Ok(()),
            Some(link) => self.wait = Wait::Room(RoomWait::new(link, held.len())),
            None => {}
        }
        Err(Next::Wait)
    }

    /// Leaves what the client has sent with the kernel while the connection that it would go to takes no more, and waits for
    /// its turn there. Read before, it would be held once for each who waits: with 4,000 clients that write 50 KB each, nine
    /// tenths of the processor time went into memory for that.
    #[inline]
    pub(super) fn leave_unread(&mut self, cx: &mut Context<'_>) {
        let is_full = self
            .link
            .as_ref()
            .is_some_and(|link| link.is_full() && !link.expects(&self.outlet));
        if is_full {
            self.wait_unread(cx);
        }
    }

    #[cold]
    fn wait_unread(&mut self, cx: &mut Context<'_>) {
        // What has begun is read to its end, and what passes a stalled connection by is told only by reading it.
        let is_between =
            matches!(self.wait, Wait::Nothing) && self.input.is_empty() && self.pin.is_none();
        let upstream = &self.clients.upstream;
        if !is_between || upstream.has_lanes() || self.stream.poll_read_ready(cx).is_pending() {
            return;
        }
        if self.outlet.outstanding() == 0 {
            self.link = upstream.shared_for(&self.session.state, Delays::NONE);
        }
        let Some(link) = &self.link else { return };
        let room = RoomWait::new(link, READ_SIZE);
        if room.is_pending(cx) {
            self.wait = Wait::Room(room);
        }
    }
}
