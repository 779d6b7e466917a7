//! Calls that are issued for blocked clients are ended, where the server lets respool (`CLIENT UNBLOCK`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{CallLink, LONGEST_PAUSE};
use crate::auth::KnownPermission;
use crate::budget::PinLease;
use crate::command::ClientSub;
use crate::exchange::{Answer, AnswerPace, OwnCall, OwnReply};
use crate::failover::ServerNode;
use crate::link::{Leaving, Link};
use crate::resp::speak::encode_request;
use crate::server::COMES_FIRST;
use crate::session::{State, stand_in_for};
use crate::telemetry::{Bound, LossCause};
use crate::upstream::pool::Upstream;
use crate::waits::CallConnectionId;

/// A server that has not done a write for this long may hold it back.
const PROBED_WITHIN: Duration = Duration::from_millis(200);

/// The probe waits this long for a connection; after that it is looked whether the server gives any.
const APART_WITHIN: Duration = Duration::from_secs(1);

/// A pause that has held a probe back is believed to be in force for this time.
const HELD_FOR: Duration = Duration::from_secs(1);

/// Answers to a PFCOUNT that was done begin so, whatever the key holds; and those of a server that does nothing now.
const DONE: [&[u8]; 3] = [b":", b"-WRONGTYPE", b"-INVALIDOBJ"];
const LATER: [&[u8]; 3] = [b"-BUSY", b"-LOADING", b"-MASTERDOWN"];

/// An answer to PFCOUNT, or an error, has at most this many bytes.
const PROBE_ANSWER: usize = 4 * 1024;

/// A server that has refused PFCOUNT is not sent another for this long: each is a line of its ACL LOG.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// After so many answers that there is nobody to unblock, a call that is of no use any more ends with its connection; and the pause between
/// two questions grows beyond [`LONGEST_PAUSE`], up to this.
const UNHEEDED: u32 = 4;
const LONGEST_UNHEEDED: Duration = Duration::from_millis(500);

/// Remembers the write that tells whether a pause is in force.
#[derive(Default)]
pub(in crate::upstream) struct PauseProbe {
    /// The one that is under way was sent then; 0: there is none.
    sent_micros: Cell<u64>,
    /// The server has refused one then; 0: it has not.
    refused_micros: Cell<u64>,
    /// One was given up then that was held back; 0: none was.
    held_micros: Cell<u64>,
    /// Is true while one is to be sent soon for calls that have just been sent.
    is_planned: Cell<bool>,
}

/// Tells whether the server can be asked to end a call.
enum MayAsk {
    Yes,
    /// A pause may have put the call off: that is neither known nor can it be ruled out.
    Perhaps,
    /// It cannot now; it will be known whether.
    Soon,
    /// It cannot as long as a pause is in force.
    No,
    /// It is not known, and will not be.
    Never,
}

impl Upstream {
    /// Ends the call on a connection. The server is asked until it has answered: the call itself may still be on its way, the server be busy, or
    /// a pause be in force, which who waits for the call sits out. A call for which nobody is there any more does not outlast a pause.
    pub(super) async fn end_call(self: &Rc<Self>, id: CallConnectionId, connection: &CallLink) {
        let is_left = || self.blocked.waits.borrow().is_left(id);
        let (mut pause, mut unheeded) = (Duration::from_millis(1), 0);
        while connection.is_calling.get() && connection.link.is_alive() {
            match self.may_ask_to_end(connection, is_left()) {
                MayAsk::Never => return self.finish_call(connection).await,
                MayAsk::Perhaps | MayAsk::No if is_left() => {
                    return self.finish_call(connection).await;
                }
                MayAsk::Yes | MayAsk::Perhaps => match self.ask_to_end(connection, is_left).await {
                    UnblockAnswer::Over => return,
                    UnblockAnswer::Left => return self.finish_call(connection).await,
                    UnblockAnswer::Refused => pause = LONGEST_PAUSE,
                    UnblockAnswer::Unheeded => unheeded += 1,
                    UnblockAnswer::Heard => unheeded = 0,
                },
                MayAsk::Soon | MayAsk::No => {}
            }
            if unheeded >= UNHEEDED && is_left() {
                return self.finish_call(connection).await;
            }
            if connection.is_calling.get() {
                tokio::time::sleep(pause).await;
                let longest = match unheeded {
                    0..UNHEEDED => LONGEST_PAUSE,
                    _ => LONGEST_UNHEEDED,
                };
                pause = (pause * 2).min(longest);
            }
        }
    }

    /// Has the server forget the call on a connection, as that of a client that leaves: it is told that nothing more comes on the
    /// connection.
    async fn finish_call(&self, connection: &CallLink) {
        self.until_finished(&connection.link).await;
        connection.link.close("its call was ended with it");
    }

    /// Tells the server that nothing more comes on `link`, and waits until it has answered what need not wait, and closed; or has not within
    /// `upstream.reply_timeout`. Nothing is to be sent on it any more.
    pub(in super::super) async fn until_finished(&self, link: &Link) {
        link.finish_sending();
        let limit = self.thread.settings().upstream.reply_timeout;
        let ended = async {
            let mut pause = Duration::from_millis(1);
            while link.is_alive() && link.in_flight() > 0 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        // However it ends, the connection goes.
        let _ = tokio::time::timeout(limit, ended).await;
    }

    /// Tells whether the server may be asked to end the call on a connection. A pause may have put the call off, of which respool need not have been told, and
    /// some servers do not bear that it is unblocked: there a write must have been done that was sent later.
    fn may_ask_to_end(self: &Rc<Self>, connection: &CallLink, is_for_nobody: bool) -> MayAsk {
        let (called, writes) = (connection.called_micros.get(), connection.takes.get());
        let node = &connection.link.origin().node;
        let may_fault = connection.link.origin().version.faults_on_unblock();
        // Where it faults at nothing it says itself whether it has put the call off.
        if may_fault && self.may_be_put_off(called, writes) || self.holds_up_questions(node) {
            return MayAsk::No;
        }
        let is_same =
            |leaving: Leaving| matches!(leaving.cause, LossCause::TlsKeys | LossCause::Renewed);
        let is_left = connection.link.leaving().is_some_and(|leaving| {
            let stays = |link: &Link| link.leaving().is_none();
            !is_same(leaving) || self.shared_at(node, stays).is_none()
        });
        if may_fault && writes && is_left {
            // What is done elsewhere tells nothing of the server that is left.
            return MayAsk::Never;
        }
        if !may_fault || !writes || self.has_come_to_wait(connection) {
            return MayAsk::Yes;
        }
        let (now, probe) = (self.thread.clock.now_micros(), &self.blocked.probe);
        let (sent, refused) = (probe.sent_micros.get(), probe.refused_micros.get());
        let is_past = |since, limit| self.thread.clock.is_past(since, limit);
        if refused > 0 && !is_past(refused, REFUSED_FOR) {
            return MayAsk::Perhaps;
        }
        let held = probe.held_micros.get();
        if held > 0 && !is_past(held, HELD_FOR) {
            return MayAsk::No;
        }
        let is_due = connection.unread.get().may_be_proven(now);
        if sent == 0 && is_due && !self.send_probe(node, !is_for_nobody) {
            return MayAsk::No;
        }
        match sent > 0 && is_past(sent, PROBED_WITHIN) {
            true => MayAsk::No,
            false => MayAsk::Soon,
        }
    }

    /// Tells whether the call on a connection is known to wait, rather than to be put off.
    fn has_come_to_wait(&self, connection: &CallLink) -> bool {
        let (pulse, now) = (&self.thread.pulse, self.thread.clock.now_micros());
        let unread = connection.unread.get().by(pulse, now);
        connection.unread.set(unread);
        unread.is_over(pulse)
    }

    /// Takes in that a call was sent that takes something away: that it waits, rather than is put off, is known before it is to be ended.
    pub(in crate::upstream) fn plan_probe(self: &Rc<Self>, link: &Link) {
        let may_fault = link.origin().version.faults_on_unblock();
        if !may_fault || self.blocked.probe.is_planned.replace(true) {
            return;
        }
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(COMES_FIRST * 2).await;
            upstream.blocked.probe.is_planned.set(false);
            upstream.probe_for_calls();
        });
    }

    fn probe_for_calls(self: &Rc<Self>) {
        let now = self.thread.clock.refresh();
        let connections = self.blocked.connections.borrow();
        let is_unknown = |connection: &&Rc<CallLink>| {
            let waits =
                connection.is_calling.get() && connection.takes.get() && connection.link.is_alive();
            let may_fault = connection.link.origin().version.faults_on_unblock();
            waits && may_fault && !self.has_come_to_wait(connection)
        };
        let is_due = |connection: &&Rc<CallLink>| {
            is_unknown(connection) && connection.unread.get().may_be_proven(now)
        };
        let due = connections.values().find(is_due);
        if due.is_none()
            && let Some(later) = connections.values().find(is_unknown)
        {
            self.plan_probe(&later.link);
        }
        let node = due.map(|connection| connection.link.origin().node.clone());
        drop(connections);
        let probe = &self.blocked.probe;
        let is_refused = probe.refused_micros.get() > 0
            && !self
                .thread
                .clock
                .is_past(probe.refused_micros.get(), REFUSED_FOR);
        if let Some(node) = node
            && probe.sent_micros.get() == 0
            && !is_refused
            && !self.puts_off(true)
        {
            // A try has just gone there for each call, and is a write as well.
            self.send_probe(&node, true);
        }
    }

    /// Sends a write that changes nothing, and that a pause of writes holds back: on a connection lent for it, where nobody stands behind it, or
    /// else on a shared one, if it may. False: it is not sent.
    fn send_probe(self: &Rc<Self>, node: &ServerNode, may_be_shared: bool) -> bool {
        // A server that takes no more connections gives none to wait for.
        let is_to_be_had = !self.is_refused() || !self.idle.all().is_empty();
        let may_be_lent = is_to_be_had && !self.thread.is_nobody();
        let lend = || self.thread.process.budget.try_lease(0, self.thread.index);
        if let Some(lease) = may_be_lent.then(lend).flatten() {
            let now = self.thread.clock.now_micros();
            self.blocked.probe.sent_micros.set(now);
            tokio::task::spawn_local(Rc::clone(self).probe_apart(lease));
            return true;
        }
        let is_own = |link: &Link| link.state().user.is_none();
        let link = self.shared_at(node, is_own);
        let link = link.or_else(|| self.shared_at(node, |_| true));
        let Some(link) = link.filter(|_| may_be_shared) else {
            return false;
        };
        self.probe(&link, || {});
        true
    }

    /// Probes on a connection lent for it, which it does not keep for as long as a pause is.
    async fn probe_apart(self: Rc<Self>, lease: PinLease) {
        let limit = self.thread.settings().upstream.connect_timeout;
        let unused = self.unused(&State::INITIAL);
        let Some(Ok(link)) = self.thread.within(limit.min(APART_WITHIN), unused).await else {
            return self.blocked.probe.sent_micros.set(0);
        };
        let pin = self.lend(Rc::clone(&link), lease, None);
        let (tell, told) = oneshot::channel::<()>();
        self.probe(&link, move || drop(tell));
        // It ends with an error as soon as the other end is dropped.
        match tokio::time::timeout(PROBED_WITHIN, told).await {
            Ok(_) => pin.give_back_clear(),
            Err(_) => {
                self.blocked
                    .probe
                    .held_micros
                    .set(self.thread.clock.refresh());
                link.close("a pause holds back what asks whether one is in force");
            }
        }
    }

    fn probe(self: &Rc<Self>, link: &Rc<Link>, over: impl FnOnce() + 'static) {
        let sent_micros = self.thread.clock.refresh();
        let answered_micros = self.thread.pulse.answered_micros();
        self.blocked.probe.sent_micros.set(sent_micros);
        let upstream = Rc::downgrade(self);
        let call = move |answer| {
            if let Some(upstream) = upstream.upgrade() {
                upstream.probed(sent_micros, answered_micros, &answer);
            }
            over();
        };
        let call = OwnCall::new(1, PROBE_ANSWER, AnswerPace::Writing, call);
        let request = encode_request(&["PFCOUNT", "respool"]);
        link.send_own(&request, OwnReply::Call(call));
    }

    fn probed(self: &Rc<Self>, sent_micros: u64, answered_micros: u64, answer: &Answer) {
        let probe = &self.blocked.probe;
        probe.sent_micros.set(0);
        match answer {
            Answer::Replies(reply) if DONE.iter().any(|done| reply.starts_with(done)) => {
                self.note_written(sent_micros, answered_micros);
                // Where nothing else was answered since the calls were sent, the next is behind the answer to this one.
                self.probe_for_calls();
            }
            Answer::Replies(reply) if !LATER.iter().any(|later| reply.starts_with(later)) => {
                probe.refused_micros.set(self.thread.clock.now_micros());
            }
            _ => {}
        }
    }

    /// Takes in that the server lets respool end no call: from now on each ends by itself. Returns whether others may be under way that do not.
    fn calls_end_by_themselves(&self) -> bool {
        let had_endless = self.blocked.waits.borrow_mut().can_end_calls(false);
        if !self.blocked.has_told_of_ends.replace(true) {
            tracing::warn!(
                "the server refuses CLIENT UNBLOCK to respool's own user: blocking calls are issued again and again, ten times a \
                 second, and clients may wait a tenth of a second longer than they asked for; permit it (ACL: +client|unblock)"
            );
        }
        had_endless
    }

    /// Goes by what the server has said of ending calls. Where it has refused that, it is asked again while somebody waits.
    pub(in crate::upstream) fn note_whether_calls_can_be_ended(self: &Rc<Self>) {
        let server = self.thread.server_version();
        self.blocked.waits.borrow_mut().served_by(server);
        match self.thread.permission(None, ClientSub::Unblock) {
            KnownPermission::Now(Ok(())) => {
                self.blocked.waits.borrow_mut().can_end_calls(true);
                if self.blocked.has_told_of_ends.replace(false) {
                    tracing::info!(
                        "the server lets respool end calls (CLIENT UNBLOCK): blocking calls are issued once again"
                    );
                }
            }
            KnownPermission::Now(Err(_)) => {
                self.calls_end_by_themselves();
            }
            KnownPermission::Before(Err(_)) => {
                self.calls_end_by_themselves();
                self.ask_whether_calls_can_be_ended();
            }
            // It has been asked, and will have said so soon.
            KnownPermission::Nothing => {
                self.blocked.waits.borrow_mut().can_end_calls(false);
            }
            KnownPermission::Before(Ok(())) => {}
        }
    }

    fn ask_whether_calls_can_be_ended(self: &Rc<Self>) {
        let sub = ClientSub::Unblock;
        let Some(question) = stand_in_for(sub).filter(|_| !self.is_away()) else {
            return;
        };
        // Once, until it has answered or what it has said before has become old again.
        self.thread.renews_permission(None, sub);
        let asker = (State::INITIAL, None);
        let asking = Rc::clone(self).ask_permission(asker, sub, encode_request(question));
        tokio::task::spawn_local(async move { drop(asking.await) });
    }

    /// Asks the server to end the call on a connection.
    async fn ask_to_end(
        self: &Rc<Self>,
        connection: &CallLink,
        is_left: impl Fn() -> bool,
    ) -> UnblockAnswer {
        let node = &connection.link.origin().node;
        let server_id = connection.link.server_id().to_string();
        let request = encode_request(&["CLIENT", "UNBLOCK", &server_id]);
        let limit = self.thread.settings().upstream.reply_timeout;
        let mut since = self.thread.clock.refresh();
        // Another server has other clients by the same ids.
        let mut asking = std::pin::pin!(self.ask_at(node, &request));
        let asked = loop {
            tokio::select! {
                biased;
                asked = &mut asking => break asked,
                () = tokio::time::sleep(LONGEST_PAUSE) => {}
            }
            if self.holds_up_questions(node) {
                if is_left() {
                    return UnblockAnswer::Left;
                }
                since = self.thread.clock.now_micros();
            } else if self.thread.clock.is_past(since, limit) {
                self.thread.counters.bound(Bound::ReplyTimeout).add(1);
                let why = "its call did not end within upstream.reply_timeout";
                connection.link.lose(LossCause::Timeout, why);
                return UnblockAnswer::Over;
            }
        };
        if let (None, Some(leaving)) = (&asked, connection.link.leaving()) {
            let why = "its call cannot be ended at a server that has moved";
            connection.link.lose(leaving.cause, why);
            return UnblockAnswer::Over;
        }
        if asked.is_none() && !connection.takes.get() {
            // Nothing is lost with it, and nobody else can end it.
            let why = "its call cannot be ended: no other connection leads to its server";
            connection.link.close(why);
            return UnblockAnswer::Over;
        }
        let reply = asked.unwrap_or_default();
        let refused: [&[u8]; 3] = [b"-NOPERM", b"-NOAUTH", b"-ERR unknown"];
        if refused.iter().any(|refused| reply.starts_with(refused)) {
            self.thread
                .told_permission(None, ClientSub::Unblock, Err(reply));
            if self.calls_end_by_themselves() {
                connection.link.close("its call cannot be ended");
                return UnblockAnswer::Over;
            }
            return UnblockAnswer::Refused;
        }
        match reply.starts_with(b":0") {
            true => UnblockAnswer::Unheeded,
            false => UnblockAnswer::Heard,
        }
    }
}

/// Tells what has come of a CLIENT UNBLOCK.
enum UnblockAnswer {
    /// There is no such call any more.
    Over,
    /// Nobody is there any more for whom it is, and a pause keeps the server from ending it.
    Left,
    /// The server lets respool end none.
    Refused,
    /// It has found nobody to unblock: the call is on its way, has been answered, or is put off.
    Unheeded,
    /// It has answered something else.
    Heard,
}
