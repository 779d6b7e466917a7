//! Connections are lent to one client each, for as long as its state lives there.
//!
//! Invariant: nobody gets a connection that holds anything of the client before: it was left clear, or has been scrubbed
//! and the server has acknowledged it, or it is closed. One whose reads the server remembers (CLIENT TRACKING) is closed always: only
//! that makes it forget them.

mod idle;
mod made;

pub(super) use idle::IdleConnections;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{NO_SECRET, Upstream};
use crate::budget::{IdleDemand, PinLease, SocketKind, SocketPermit};
use crate::failover::ServerNode;
use crate::link::Link;
use crate::outlet::Outlet;
use crate::resp::speak::encode_request;
use crate::session::{Change, State, steps};
use crate::telemetry::{Bound, LossCause};

/// A blocked call of a client that has left may take this long to be unblocked; then its connection is closed.
const UNBLOCK_WITHIN: Duration = Duration::from_secs(1);

/// Says why one is closed whose client has tracked keys: after TRACKING OFF and RESET the server tells of them whoever tracks on it next.
const REMEMBERS_KEYS: &str = "the server remembers what its client has read";

/// Says why no connection could be lent.
#[derive(Debug)]
pub enum PinError {
    /// None became free within `upstream.borrow_timeout`.
    Timeout,
    /// The server is away, or does not take respool.
    Unreachable,
    /// The server refused the client's state with this reply, or every connect, as it cannot serve now.
    Refused(Vec<u8>),
}

/// Is a connection that is lent to one client. Its drop gives it back.
pub struct Pin {
    link: Rc<Link>,
    upstream: Rc<Upstream>,
    lease: Option<PinLease>,
    /// Is true where the client has left nothing on it.
    is_clear: bool,
}

impl Pin {
    /// Returns the connection that is lent.
    pub fn link(&self) -> &Rc<Link> {
        &self.link
    }

    /// Returns the index of the group that holds its lease.
    pub fn group(&self) -> usize {
        self.lease.as_ref().map_or(0, PinLease::group)
    }

    /// Gives it back with nothing of the client's left on it.
    pub fn give_back_clear(mut self) {
        self.is_clear = true;
        self.link.set_may_debug(false);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let lease = self.lease.take();
        self.link.lend_to(None);
        if !self.link.is_alive() {
            return;
        }
        let link = &self.link;
        let is_amid = link.is_raw() || link.is_partial() || link.may_never_end();
        let found = match () {
            () if is_amid || self.upstream.is_stopping() => LinkFound::Amid,
            () if link.is_distrusted() => LinkFound::Distrusted,
            () if link.keeps_traces() => LinkFound::Traced,
            () if link.is_doubtful() || link.in_flight() > 0 || link.is_held() => LinkFound::Owing,
            () if link.may_remember_keys() => LinkFound::Remembered,
            () => LinkFound::Settled,
        };
        match found.next(self.is_clear) {
            GivenBack::Idle => self.upstream.keep_idle(Rc::clone(link)),
            GivenBack::Close(why) => link.close(why),
            GivenBack::Scrub => {
                let upstream = Rc::clone(&self.upstream);
                tokio::task::spawn_local(upstream.scrub(Rc::clone(link), lease));
            }
        }
    }
}

/// Tells how a connection is found when its client gives it back, the worst of all first.
#[derive(Debug, Clone, Copy)]
enum LinkFound {
    /// Something on it has begun and not ended, or respool ends.
    Amid,
    /// A request on it may have been answered with more than a reply.
    Distrusted,
    /// Its client may have left something on it that not even RESET undoes.
    Traced,
    /// Something is owed on it.
    Owing,
    /// All is answered on it, and the server may remember the keys that its client has read.
    Remembered,
    /// All is answered on it.
    Settled,
}

/// Tells what becomes of a connection that was given back.
#[derive(Debug, PartialEq, Eq)]
enum GivenBack {
    /// The next client gets it as it is.
    Idle,
    /// The next client gets it when what is left on it has been undone.
    Scrub,
    /// Nobody gets it, for this reason.
    Close(&'static str),
}

impl LinkFound {
    /// Decides what becomes of it; `is_clear`: its client vouches that it has left nothing.
    fn next(self, is_clear: bool) -> GivenBack {
        match self {
            Self::Amid => GivenBack::Close("its client left in the middle of something"),
            Self::Distrusted => GivenBack::Close(
                "what it was lent for may have been answered with more than a reply",
            ),
            Self::Traced => {
                GivenBack::Close("its client may have left something on it that nothing undoes")
            }
            Self::Remembered => GivenBack::Close(REMEMBERS_KEYS),
            Self::Settled if is_clear => GivenBack::Idle,
            Self::Settled | Self::Owing => GivenBack::Scrub,
        }
    }
}

impl Upstream {
    /// Lends an idle connection that is in `state` already, if the group may have one and nobody waits before it.
    pub fn try_pin(
        self: &Rc<Self>,
        group: usize,
        state: &State,
        outlet: &Rc<Outlet>,
    ) -> Option<Pin> {
        let has_one = |link: &Rc<Link>| {
            link.is_alive() && link.leaving().is_none() && *link.state() == *state
        };
        let at = self.idle.all().iter().position(has_one)?;
        let lease = self
            .thread
            .process
            .budget
            .try_lease(group, self.thread.index)?;
        let link = self.idle.take_at(at);
        Some(self.lend(link, lease, Some(outlet)))
    }

    /// Lends a connection in `state`, when the group's turn comes.
    ///
    /// # Errors
    /// [`PinError`] says why there is none.
    pub async fn pin(
        self: Rc<Self>,
        group: usize,
        state: State,
        outlet: Rc<Outlet>,
    ) -> Result<Pin, PinError> {
        self.pin_as(group, || state.clone(), outlet).await
    }

    /// Lends one in any database, to who needs none: a server that a script keeps busy changes to none. `has_turn` becomes true when the
    /// wait is for the server alone.
    ///
    /// # Errors
    /// [`PinError`] says why there is none.
    pub async fn pin_anywhere(
        self: &Rc<Self>,
        (group, state): (usize, &State),
        outlet: Rc<Outlet>,
        has_turn: &Cell<bool>,
    ) -> Result<Pin, PinError> {
        let wanted = || {
            has_turn.set(true);
            self.in_any_database(state)
        };
        self.pin_as(group, wanted, outlet).await
    }

    /// Lends a connection in the state that `wanted` names, when the group's turn comes.
    async fn pin_as(
        self: &Rc<Self>,
        group: usize,
        wanted: impl Fn() -> State,
        outlet: Rc<Outlet>,
    ) -> Result<Pin, PinError> {
        let failovers = &self.thread.process.failovers;
        if failovers.is_open() && self.is_away() {
            failovers.failed(1);
            return Err(PinError::Unreachable);
        }
        let settings = self.thread.settings();
        let upstream = &settings.upstream;
        let budget = &self.thread.process.budget;
        let turn = budget.wait_lease(group, self.thread.index);
        let Some(lease) = self.thread.within(upstream.borrow_timeout, turn).await else {
            self.thread.counters.bound(Bound::BorrowTimeout).add(1);
            return Err(PinError::Timeout);
        };
        // From here on the wait is for the server, not for other clients.
        let limit = upstream.borrow_timeout.max(upstream.queue.timeout);
        let unused = self.unused_as(wanted);
        let Some(link) = self.thread.within(limit, unused).await else {
            self.thread.counters.bound(Bound::QueueTimeout).add(1);
            if self.is_away() {
                failovers.failed(1);
            }
            return Err(self.not_in_time());
        };
        Ok(self.lend(link?, lease, Some(&outlet)))
    }

    /// Says what a wait for a connection has come to that was too long: the server is away or takes no more connections, it says at
    /// each connect that it cannot serve now, or it is there and has no more of them to give within the bounds on connecting.
    pub fn not_in_time(&self) -> PinError {
        if self.is_away() || self.is_refused() {
            return PinError::Unreachable;
        }
        match self.says_unready() {
            Some(said) => PinError::Refused(said.into()),
            None => PinError::Timeout,
        }
    }

    /// Returns what the server said at a connect since `needed`, where it cannot serve now. Those whose commands go on shared connections
    /// that are still up hear so from it at once; who waits for another one need not wait in vain, and is not told what may have
    /// been true only before it asked. While none is up everybody waits alike, for a server that may be about to be ready.
    fn unready_since(&self, needed: Instant) -> Option<PinError> {
        if self.is_away() {
            return None;
        }
        self.says_unready_since(needed)
            .map(|said| PinError::Refused(said.into()))
    }

    /// Returns `state` for who needs no database: in that of the idle pin that would be lent, so that it need not change.
    pub fn in_any_database(&self, state: &State) -> State {
        let idle = self.idle.all();
        let fits = |link: &&Rc<Link>| {
            let database = link.state().database;
            let state = State {
                database,
                ..state.clone()
            };
            link.is_alive() && *link.state() == state
        };
        let lent = idle.iter().find(fits).or(idle.last());
        State {
            database: lent.map_or(0, |link| link.state().database),
            ..state.clone()
        }
    }

    /// Gives an idle connection to a worker that waits for one, or closes it when somebody waits for its place.
    pub fn give_up_idle(&self) {
        let budget = &self.thread.process.budget;
        if !self.idle.has_spare() || !budget.sockets_wanted() {
            return;
        }
        let wanted = budget.wanted_of(self.thread.index);
        if wanted == IdleDemand::Nothing || self.is_on_its_way(wanted) {
            return;
        }
        if let Some(link) = self.idle.pop()
            && !self.pass_on(&link, wanted)
        {
            link.close("its place in the budget is needed");
        }
    }

    pub(super) fn lend(
        self: &Rc<Self>,
        link: Rc<Link>,
        lease: PinLease,
        outlet: Option<&Rc<Outlet>>,
    ) -> Pin {
        link.lend_to(outlet.cloned());
        Pin {
            link,
            upstream: Rc::clone(self),
            lease: Some(lease),
            is_clear: false,
        }
    }

    pub(super) fn keep_idle(&self, link: Rc<Link>) {
        if !link.is_alive() {
            return;
        }
        if self.is_stopping() {
            return link.close("respool is ending");
        }
        if link.in_flight() > 0 {
            return link.close("replies are due on it that are nobody's");
        }
        if link.may_remember_keys() {
            return link.close(REMEMBERS_KEYS);
        }
        if let Some(leaving) = link.leaving() {
            return link.lose(leaving.cause, leaving.why());
        }
        link.set_idle();
        if !self.idle.put(link) {
            self.give_up_idle();
        }
    }

    /// Waits for a place for a new connection. `None`: one of this worker's own fell idle meanwhile.
    pub(super) async fn place(&self) -> Option<SocketPermit> {
        let borrower = self.idle.await_one();
        tokio::select! {
            biased;
            () = borrower.fell_idle() => None,
            permit = self.permit(SocketKind::Pinned) => Some(permit),
        }
    }

    /// Returns a connection in `state` that nobody uses: an idle one, changed if it must be, or a new one. Whoever stops waiting for
    /// it ends neither: what becomes of it is kept as an idle one.
    pub(super) async fn unused(self: &Rc<Self>, state: &State) -> Result<Rc<Link>, PinError> {
        self.unused_as(|| state.clone()).await
    }

    /// Returns one in the state that `wanted` names, which may depend on what idle ones there are.
    async fn unused_as(self: &Rc<Self>, wanted: impl Fn() -> State) -> Result<Rc<Link>, PinError> {
        let needed = Instant::now();
        loop {
            let state = wanted();
            if let Some(link) = self.take_idle(&state) {
                if *link.state() == state {
                    return Ok(link);
                }
                match self.changed(link, &state).await {
                    Some(result) => return result,
                    None => continue,
                }
            }
            if let Some(unready) = self.unready_since(needed) {
                return Err(unready);
            }
            self.pause().await;
            // From here to the wait for a place nothing is awaited: no pin falls idle unseen.
            if !self.idle.all().is_empty() {
                continue;
            }
            let Some(permit) = self.place().await else {
                continue;
            };
            self.connect_turn(SocketKind::Pinned).await;
            if self.unready_since(needed).is_some() {
                // Another has asked meanwhile.
                continue;
            }
            if let Some(result) = self.opened(&state, permit).await {
                return result;
            }
        }
    }

    /// Returns the server to which the shared connections of this worker go: what is lent is best there too, where a blocked call
    /// on it can be ended.
    pub(super) fn node_of_shared(&self) -> Option<ServerNode> {
        let links = self.links.borrow();
        let mut serving = links
            .iter()
            .flatten()
            .filter(|link| link.is_alive() && link.leaving().is_none());
        serving.next().map(|link| link.origin().node.clone())
    }

    fn take_idle(&self, state: &State) -> Option<Rc<Link>> {
        self.idle.retain(|link| match link.leaving() {
            // Nobody is to have it, and its place is wanted.
            Some(leaving) => {
                link.lose(leaving.cause, leaving.why());
                false
            }
            None => link.is_alive(),
        });
        let link = self.idle.take_best(|link| *link.state() == *state)?;
        link.lend_to(None);
        Some(link)
    }

    pub(super) fn keep_driving(self: &Rc<Self>, link: &Rc<Link>) {
        self.pins.borrow_mut().push(Rc::downgrade(link));
        let (upstream, link) = (Rc::clone(self), Rc::clone(link));
        tokio::task::spawn_local(async move {
            let forget = || {
                upstream.idle.retain(|idle| !Rc::ptr_eq(idle, &link));
            };
            let ended = link.drive(|link| upstream.heed(link), forget).await;
            tracing::debug!(
                connection = link.name(),
                cause = ended.cause.map(LossCause::label),
                "a pinned connection to the server ended: {}",
                ended.why
            );
        });
    }

    /// Changes a connection nobody else uses; `None`: it was lost meanwhile.
    pub async fn change(
        &self,
        link: &Rc<Link>,
        target: &State,
        change: Change,
    ) -> Option<Result<(), Vec<u8>>> {
        if !link.is_alive() {
            return None;
        }
        // What a script has written behind its error, and has not arrived yet, would acknowledge the change. A scrub is vouched for
        // when it is done.
        if change != Change::Scrub && !link.vouched().await {
            link.close("what it carried may have been answered with more than a reply");
            return None;
        }
        let Some(own) = self.thread.own() else {
            link.close(NO_SECRET);
            return None;
        };
        let steps = steps(&link.state(), target, change, &own, link.name());
        let (tell, told) = oneshot::channel();
        // Who asked may have gone; the change itself goes on.
        link.change_state(steps, Box::new(move |result| drop(tell.send(result))));
        told.await.ok().filter(|_| link.is_alive())
    }

    /// Undoes whatever a client left on its connection, or closes it.
    async fn scrub(self: Rc<Self>, link: Rc<Link>, lease: Option<PinLease>) {
        let limit = self.thread.settings().upstream.connect_timeout;
        let thread = &self.thread;
        let scrubbed = async {
            while link.is_held() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if link.is_blocked() {
                thread
                    .while_running(UNBLOCK_WITHIN, self.unblock(&link))
                    .await?;
            }
            if link.may_debug() {
                let debugs_no_more = thread.while_running(limit, link.debugs_no_more()).await?;
                debugs_no_more.then_some(())?;
            }
            let change = self.change(&link, &State::INITIAL, Change::Scrub);
            let changed = thread.while_running(limit, change).await??;
            changed.ok()?;
            let is_vouched = thread.while_running(limit, link.vouched()).await?;
            is_vouched.then_some(())
        };
        if scrubbed.await.is_some() {
            self.keep_idle(link);
        } else {
            // The server forgets a blocked client when its connection closes.
            link.close("what its client left on it could not be undone");
        }
        drop(lease);
    }

    /// Ends the blocked call at the server, which is asked again until it has answered: the call itself may still be on its way.
    async fn unblock(self: &Rc<Self>, link: &Rc<Link>) {
        let request = encode_request(&["CLIENT", "UNBLOCK", &link.server_id().to_string()]);
        let mut pause = Duration::from_millis(1);
        while link.is_alive() && link.is_blocked() {
            let may_fault = link.origin().version.faults_on_unblock();
            let sent_micros = link.blocked_micros();
            if may_fault || sent_micros.is_some_and(|sent| self.may_be_put_off(sent, true)) {
                // The server forgets it as that of any client that leaves: a pause may have put it off. What it has answered before goes back.
                self.until_finished(link).await;
                return link.close("its client has left amid a blocking call");
            }
            // Another server has other clients by the same ids.
            match self.ask_at(&link.origin().node, &request).await {
                Some(_) => {}
                None => {
                    // Nor one on which it could be seen whether it has been answered.
                    self.until_finished(link).await;
                    return link.close("no connection left to unblock it with");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_clear_and_owes_nothing_goes_to_the_next_client_as_it_is() {
        assert_eq!(LinkFound::Settled.next(true), GivenBack::Idle);
        for (found, is_clear) in [
            (LinkFound::Settled, false),
            (LinkFound::Owing, false),
            (LinkFound::Owing, true),
        ] {
            assert_eq!(found.next(is_clear), GivenBack::Scrub, "{found:?}");
        }
        for found in [
            LinkFound::Amid,
            LinkFound::Distrusted,
            LinkFound::Traced,
            LinkFound::Remembered,
        ] {
            for is_clear in [false, true] {
                let next = found.next(is_clear);
                assert!(matches!(next, GivenBack::Close(_)), "{found:?}");
            }
        }
    }
}
