//! Makes tries: what each sends, and what its answer means for whoever waits.

use std::collections::BTreeSet;

use super::BlockingCalls;
use crate::command::Delays;
use crate::resp::speak::push_request;
use crate::texts::{OTHER_KIND, is_other_kind, is_unknown_command};
use crate::waits::arrivals::OmittedKeys;
use crate::waits::blocked::{WaitEnding, WaitStatus, WaitingClient};
use crate::waits::call::CallTimeout;
use crate::waits::class::{ClassStage, WaitClass};
use crate::waits::ids::{ClassId, TryId, WaiterId};
use crate::waits::lines::KeyLine;
use crate::waits::reply::{
    CallAnswer, TransactionRefusal, frames, is_of_memory, is_passing, last_entry, transaction,
};
use crate::waits::tries::{PendingTry, RequestBatch, TryFailure, TryPurpose};
use crate::waits::{LineKey, MAX_AHEAD, WaitAction, WaitOutcome};

/// The server may wait this long where the call runs by itself, because MULTI was refused or whatever stands inside it.
const A_MOMENT: CallTimeout = CallTimeout::Millis(1);

/// Says what the answers to a try for a class have told.
struct TryFindings {
    /// Something was found under this key last, and the answer was so large.
    hit: Option<(LineKey, usize)>,
    /// Something was asked for and not found.
    missed: bool,
    /// The server refuses a call, maybe for one of the waiters alone.
    is_refused: bool,
    /// The last answer does not tell whether the server does what it is asked.
    is_passed_over: bool,
}

impl<S: Clone + PartialEq> BlockingCalls<S> {
    /// Asks for a try on a shared connection.
    pub(super) fn attempt(&mut self, kind: TryPurpose, state: S) {
        self.attempt_as(kind, state, false);
    }

    /// Asks for a try outside MULTI: the server has refused one for want of memory, as it does up to Redis 7.0 with whatever
    /// stands inside. A call that takes something away is served outside, and waits for a moment otherwise.
    fn attempt_bare(&mut self, kind: TryPurpose) {
        let state = match kind {
            TryPurpose::Resolve(waiter) | TryPurpose::Newcomer(waiter) => {
                let waiter = self.blocked.waiter(waiter);
                let waiter = waiter.filter(|waiter| waiter.status == WaitStatus::Trying);
                waiter.map(|waiter| waiter.state.clone())
            }
            TryPurpose::Poll(class) | TryPurpose::FollowUp(class) | TryPurpose::Look(class) => {
                let class = self.blocked.class(class);
                class.map(|class| class.state.clone())
            }
        };
        if let Some(state) = state {
            self.attempt_as(kind, state, true);
        }
    }

    fn attempt_as(&mut self, kind: TryPurpose, state: S, is_bare: bool) {
        if let TryPurpose::Poll(class) | TryPurpose::FollowUp(class) = kind
            && let Some(class) = self.blocked.class_mut(class)
        {
            class.attempts += 1;
        }
        let attempt = self.keep(kind, is_bare);
        let (group, delays) = (self.group_of(kind), self.delays_of(kind));
        self.actions.push_back(WaitAction::Try {
            attempt,
            state,
            group,
            is_bare,
            delays,
        });
    }

    /// Says what may delay a try: it is a write where its call takes something away.
    fn delays_of(&self, kind: TryPurpose) -> Delays {
        let class = match kind {
            TryPurpose::Resolve(_) | TryPurpose::Look(_) => None,
            TryPurpose::Newcomer(waiter) => {
                self.blocked.waiter(waiter).and_then(|waiter| waiter.class)
            }
            TryPurpose::Poll(class) | TryPurpose::FollowUp(class) => Some(class),
        };
        let class = class.and_then(|class| self.blocked.class(class));
        match class.is_some_and(WaitClass::takes) {
            true => Delays::PAUSE,
            false => Delays::NONE,
        }
    }

    fn group_of(&self, kind: TryPurpose) -> usize {
        let group = match kind {
            TryPurpose::Resolve(waiter) | TryPurpose::Newcomer(waiter) => {
                let waiter = self.blocked.waiter(waiter);
                waiter.map(|waiter| waiter.whose.group)
            }
            TryPurpose::Poll(class) | TryPurpose::FollowUp(class) | TryPurpose::Look(class) => {
                let class = self.blocked.class(class);
                class.and_then(|class| class.groups.keys().next().copied())
            }
        };
        group.unwrap_or_default()
    }

    fn keep(&mut self, kind: TryPurpose, is_bare: bool) -> TryId {
        let id = TryId(self.blocked.fresh());
        self.attempts.insert(id, PendingTry::new(kind, is_bare));
        id
    }

    /// Says what to send for a try, for which a connection is there; `None` where it is not wanted any more.
    pub fn begin(&mut self, attempt: TryId, now: u64) -> Option<RequestBatch> {
        self.now = now;
        let sending = match self.attempts.get(&attempt)?.kind {
            TryPurpose::Resolve(waiter) => self.blocked.waiter(waiter).map(|waiter| {
                let (bytes, replies) = waiter.call.last_entries();
                RequestBatch {
                    bytes,
                    replies,
                    takes: 0,
                }
            }),
            TryPurpose::Newcomer(waiter) => self.begin_newcomer(attempt, waiter),
            TryPurpose::Poll(class) => self.begin_poll(attempt, class),
            TryPurpose::FollowUp(class) => self.begin_follow_up(attempt, class),
            TryPurpose::Look(class) => self.begin_look(attempt, class),
        };
        if sending.is_none() {
            self.drop_attempt(attempt);
        }
        sending
    }

    fn begin_newcomer(&mut self, attempt: TryId, id: WaiterId) -> Option<RequestBatch> {
        let waiter = self.blocked.waiters.get(&id)?;
        if waiter.status != WaitStatus::Trying {
            return None;
        }
        let (class, keys) = (waiter.class?, waiter.keys.clone());
        let of = self.blocked.classes.get_mut(&class)?;
        if of.takes() && !of.lines.has_room(&keys) {
            of.held.insert(id);
            return None;
        }
        let mut call = Vec::new();
        waiter.call.push(&mut call, A_MOMENT);
        Some(self.begun(attempt, class, keys, &call, 1))
    }

    fn begin_poll(&mut self, attempt: TryId, id: ClassId) -> Option<RequestBatch> {
        let class = self.blocked.class(id)?;
        if !class.is_polled() || class.begun > 0 || class.waiting == 0 {
            return None;
        }
        let keys = self.blocked.next_keys(id);
        if keys.is_empty() {
            return None;
        }
        let mut call = Vec::new();
        let class = self.blocked.class_mut(id)?;
        class.sends(&keys);
        class.tried_call().push_over(&mut call, &keys, A_MOMENT);
        Some(self.begun(attempt, id, keys, &call, 1))
    }

    fn begin_follow_up(&mut self, attempt: TryId, id: ClassId) -> Option<RequestBatch> {
        let class = self.blocked.class(id)?;
        if !class.wants_connection() || class.begun > 0 {
            return None;
        }
        self.follow_up_now(attempt, id)
    }

    /// Sends what the class follows up, as far as it is of use.
    fn follow_up_now(&mut self, attempt: TryId, id: ClassId) -> Option<RequestBatch> {
        let (keys, count) = self.followed_up(id)?;
        let mut call = Vec::new();
        let class = self.blocked.class(id)?;
        class.call.push_over(&mut call, &keys, A_MOMENT);
        Some(self.begun(attempt, id, keys, &call, count))
    }

    fn followed_up(&self, id: ClassId) -> Option<(Vec<LineKey>, u32)> {
        let class = self.blocked.class(id)?;
        let follow_up = class.follow_up.as_ref()?;
        let count = follow_up.count(class.lines.get(&follow_up.key).map_or(0, KeyLine::room));
        (count > 0).then(|| (vec![LineKey::clone(&follow_up.key)], count))
    }

    /// Makes the tries to be sent in front of the call about to be issued, for the key that has just answered.
    pub(super) fn ahead(&mut self, id: ClassId) -> Option<(TryId, RequestBatch)> {
        self.followed_up(id)?;
        self.blocked.class_mut(id)?.attempts += 1;
        let attempt = self.keep(TryPurpose::FollowUp(id), false);
        let sending = self.follow_up_now(attempt, id)?;
        Some((attempt, sending))
    }

    fn begun(
        &mut self,
        attempt: TryId,
        id: ClassId,
        keys: Vec<LineKey>,
        call: &[u8],
        count: u32,
    ) -> RequestBatch {
        let (mut is_bare, mut kinds) = (false, (Vec::new(), 0));
        if let Some(attempt) = self.attempts.get_mut(&attempt) {
            is_bare = attempt.is_bare;
            attempt.class = Some(id);
            attempt.keys = keys.clone();
            attempt.count = count;
            if let Some(class) = self.blocked.class_mut(id) {
                if class.takes() {
                    class
                        .lines
                        .change_each(&keys, |line| line.pops += count as usize);
                }
                match attempt.kind {
                    TryPurpose::Newcomer(_) => class.newcomers += 1,
                    _ => class.begun += 1,
                }
                if matches!(attempt.kind, TryPurpose::Poll(_)) {
                    kinds = class.ask_kinds();
                }
            }
            attempt.kinds = kinds.1;
        }
        let takes = self.blocked.class(id).is_some_and(WaitClass::takes);
        let (kinds, asked) = kinds;
        let mut bytes = Vec::with_capacity(kinds.len() + call.len() * count as usize + 32);
        if !is_bare {
            push_request(&mut bytes, &["MULTI"]);
        }
        bytes.extend_from_slice(&kinds);
        for _ in 0..count {
            bytes.extend_from_slice(call);
        }
        if !is_bare {
            push_request(&mut bytes, &["EXEC"]);
        }
        RequestBatch {
            bytes,
            replies: asked + count as usize + if is_bare { 0 } else { 2 },
            takes: if takes { count as usize } else { 0 },
        }
    }

    /// Forgets a try that is over, with all that was counted of it.
    fn drop_attempt(&mut self, id: TryId) -> Option<PendingTry> {
        let attempt = self.attempts.remove(&id)?;
        let of = match attempt.kind {
            TryPurpose::Poll(class) | TryPurpose::FollowUp(class) | TryPurpose::Look(class) => {
                Some(class)
            }
            _ => attempt.class,
        };
        if let Some(class) = of.and_then(|class| self.blocked.class_mut(class)) {
            let is_begun = attempt.class.is_some();
            match attempt.kind {
                TryPurpose::Newcomer(_) => class.newcomers -= 1,
                TryPurpose::Look(_) => class.is_looking = false,
                _ => {
                    class.attempts -= 1;
                    class.begun -= usize::from(is_begun);
                }
            }
            if is_begun && class.takes() {
                let count = attempt.count as usize;
                class
                    .lines
                    .change_each(&attempt.keys, |line| line.pops -= count);
            }
        }
        if attempt.class.is_none()
            && let Some(class) = of
        {
            self.tend(class, &[]);
        }
        Some(attempt)
    }

    /// Reads the answer to a try: `replies` stand one behind the other.
    pub fn tried(&mut self, attempt: TryId, replies: &[u8], now: u64) {
        self.now = now;
        let Some(attempt) = self.drop_attempt(attempt) else {
            return;
        };
        if let TryPurpose::Resolve(waiter) = attempt.kind {
            return self.resolved(waiter, replies);
        }
        let Some(class) = attempt.class else {
            return;
        };
        if let TryPurpose::Look(_) = attempt.kind {
            return self.looked(class, &attempt.keys, replies);
        }
        let answers = if attempt.is_bare {
            Ok(frames(replies))
        } else {
            transaction(replies, attempt.kinds + attempt.count as usize)
        };
        match (attempt.kind, answers) {
            (
                kind @ (TryPurpose::Newcomer(_) | TryPurpose::Poll(_)),
                Err(TransactionRefusal::Call(error)),
            ) if is_of_memory(error) && self.may_be_full(class) => {
                self.attempt_bare(kind);
            }
            (TryPurpose::Newcomer(waiter), Ok(answers)) => {
                let first = answers.first();
                let answer = first.map_or(CallAnswer::Null, |first| CallAnswer::by(first));
                self.newcomer_tried(class, waiter, answer);
            }
            (TryPurpose::Newcomer(waiter), Err(TransactionRefusal::Call(error))) => {
                self.newcomer_tried(class, waiter, CallAnswer::Error(error));
            }
            // What is wrong with the call itself is told where it stands alone.
            (TryPurpose::Newcomer(waiter), Err(TransactionRefusal::Exec(error))) => {
                if !self.waits_on(waiter, error) {
                    self.tell(waiter, WaitOutcome::OwnConnection);
                }
            }
            (_, Ok(answers)) => {
                let (kinds, answers) = answers.split_at(attempt.kinds.min(answers.len()));
                self.class_tried(class, &attempt, kinds, answers);
            }
            (_, Err(refusal)) if refusal.is_passing() => {}
            (_, Err(refusal)) if attempt.kinds > 0 && refusal.is_of_rights() => {
                self.kinds_refused(class, &attempt.keys);
            }
            (_, Err(_)) => self.retry_all(class, &attempt.keys),
        }
        self.tend(class, &attempt.keys);
    }

    /// Tells whether a server whose memory is full lets the calls of a class run outside MULTI.
    fn may_be_full(&self, class: ClassId) -> bool {
        let class = self.blocked.class(class);
        class.is_some_and(|class| !class.call.takes_memory())
    }

    fn newcomer_tried(&mut self, class: ClassId, id: WaiterId, answer: CallAnswer<'_>) {
        match answer {
            CallAnswer::Error(error) if self.waits_on(id, error) => {}
            // It repeats the words of the try, and the timeout among them is not the caller's.
            CallAnswer::Error(error) if is_unknown_command(error) => {
                self.tell(id, WaitOutcome::OwnConnection);
            }
            CallAnswer::Error(error) => self.tell(id, WaitOutcome::reply(error)),
            CallAnswer::Element(element) => {
                self.deliver(class, element, Some(id));
                // It went to somebody earlier in line: there may be more.
                self.try_again(id);
            }
            CallAnswer::Null => {
                let Some(waiter) = self.blocked.waiter(id) else {
                    return;
                };
                if waiter.status != WaitStatus::Trying {
                    return;
                }
                if waiter.is_late(self.now) {
                    return self
                        .blocked
                        .set_status(id, WaitStatus::Ending(WaitEnding::Null));
                }
                if waiter.call.is_relative() {
                    // The key was no stream when it was asked about, and is none that answers an error now.
                    return self.resolve_again(id);
                }
                let keys = waiter.keys.clone();
                self.blocked.set_status(id, WaitStatus::Waiting);
                self.unbar(class, &keys);
            }
        }
    }

    /// Has one who has waited already wait on where the server refuses calls that arrive: it does not learn of that before
    /// its class has found out what is due.
    fn waits_on(&mut self, id: WaiterId, error: &[u8]) -> bool {
        let waiter = self.blocked.waiter(id);
        let is_of_arrival = |waiter: &WaitingClient<S>| {
            let class = waiter.class;
            class.is_some_and(|class| self.is_of_arrival(class, error) || self.bars(class, error))
        };
        let Some(waiter) = waiter
            .filter(|waiter| waiter.has_waited && (is_passing(error) || is_of_arrival(waiter)))
        else {
            return false;
        };
        let (class, keys) = (waiter.class, waiter.keys.clone());
        if waiter.status == WaitStatus::Trying {
            self.blocked.set_status(id, WaitStatus::Waiting);
        }
        if let Some(class) = class.filter(|class| self.bars(*class, error)) {
            self.bar(class, &keys);
        }
        true
    }

    fn try_again(&mut self, id: WaiterId) {
        if let Some(waiter) = self.blocked.waiter(id)
            && waiter.status == WaitStatus::Trying
        {
            let state = waiter.state.clone();
            self.attempt(TryPurpose::Newcomer(id), state);
        }
    }

    /// Reads what the server answered to tries for a class without asking anybody in particular.
    fn class_tried(
        &mut self,
        id: ClassId,
        attempt: &PendingTry,
        kinds: &[&[u8]],
        answers: &[&[u8]],
    ) {
        let class = self.blocked.class_mut(id);
        let fewer = class.map_or(OmittedKeys::None, |class| {
            class.sort_out(self.server, kinds)
        });
        let mut found = TryFindings {
            hit: None,
            missed: answers.is_empty(),
            is_refused: false,
            is_passed_over: false,
        };
        for answer in answers {
            self.take_answer(id, attempt, answer, (fewer, kinds), &mut found);
        }
        if found.is_refused {
            self.retry_all(id, &attempt.keys);
        }
        if !found.is_passed_over
            && let Some(class) = self.blocked.class_mut(id)
            && matches!(class.stage, ClassStage::Resting { .. })
        {
            // The server does what it is asked again.
            class.is_doubted &= found.is_refused;
            self.dequeue(id);
        }
        self.try_next(id, attempt, fewer, &found);
    }

    /// Reads one of these answers.
    fn take_answer(
        &mut self,
        id: ClassId,
        attempt: &PendingTry,
        answer: &[u8],
        (fewer, kinds): (OmittedKeys, &[&[u8]]),
        found: &mut TryFindings,
    ) {
        let class = self.blocked.class(id);
        match CallAnswer::by(answer) {
            CallAnswer::Null => {
                found.missed = true;
                // Nothing is known of the keys that were left out.
                found.is_passed_over = fewer != OmittedKeys::None;
            }
            CallAnswer::Error(error) if is_passing(error) => {
                (found.missed, found.is_passed_over) = (true, true);
            }
            CallAnswer::Error(error) if self.is_of_arrival(id, error) => {
                (found.missed, found.is_passed_over) = (true, true);
                self.refused_on_arrival(id, attempt, error, (fewer, kinds));
            }
            CallAnswer::Element(_)
                if class.is_some_and(|c| c.ends_with_error(self.server, fewer)) =>
            {
                self.tell_who_waited(id, &attempt.keys, OTHER_KIND);
            }
            CallAnswer::Error(error) if self.bars(id, error) => {
                found.missed = true;
                self.bar(id, &attempt.keys);
            }
            CallAnswer::Error(_) => found.is_refused = true,
            CallAnswer::Element(element) => {
                found.is_passed_over = fewer != OmittedKeys::None;
                if let Some(key) = self.deliver(id, element, None) {
                    found.hit = Some((key, element.len()));
                }
            }
        }
    }

    /// Decides what is tried next for a class: where something was, there may be more, under this key or another.
    fn try_next(
        &mut self,
        id: ClassId,
        attempt: &PendingTry,
        fewer: OmittedKeys,
        found: &TryFindings,
    ) {
        let Some(class) = self.blocked.class_mut(id) else {
            return;
        };
        class.hides_kinds &= found.is_refused || found.is_passed_over;
        match (attempt.kind, &found.hit) {
            (TryPurpose::FollowUp(_), Some((key, bytes))) if !found.missed && !found.is_refused => {
                class.follow_up(key, *bytes);
                if let Some(follow_up) = &mut class.follow_up {
                    follow_up.count = (attempt.count * 2).min(MAX_AHEAD);
                }
            }
            (TryPurpose::Poll(_), Some((key, bytes))) => class.follow_up(key, *bytes),
            _ => class.follow_up = None,
        }
        let is_free = class.attempts == 0 && class.waiting > 0;
        let goes_on = class.wants_connection() && is_free;
        let follows_up = class.follow_up.as_ref().is_some_and(|follow_up| {
            let line = class.lines.get(&follow_up.key);
            line.is_some_and(|line| line.room() > 0)
        });
        let state = class.state.clone();
        if fewer != OmittedKeys::None && found.hit.is_some() && is_free {
            return self.attempt(TryPurpose::Poll(id), state);
        }
        let may_be_more = found.hit.is_some() || matches!(attempt.kind, TryPurpose::FollowUp(_));
        match (goes_on, follows_up, may_be_more) {
            (true, true, _) => self.attempt(TryPurpose::FollowUp(id), state),
            (true, false, true) => self.attempt(TryPurpose::Poll(id), state),
            _ => {}
        }
    }

    /// Goes on after a try that has no replies.
    pub fn failed(&mut self, attempt: TryId, failure: TryFailure, now: u64) {
        self.now = now;
        let Some(attempt) = self.drop_attempt(attempt) else {
            return;
        };
        let (outcome, refusal) = match failure {
            TryFailure::Lost { sent } => return self.try_lost(&attempt, sent),
            TryFailure::TooLarge => return self.try_too_large(&attempt),
            TryFailure::Unreachable => (WaitOutcome::Unreachable, Vec::new()),
            TryFailure::Refused(reply) => (WaitOutcome::reply(&reply), reply),
        };
        match attempt.kind {
            TryPurpose::Resolve(waiter) => self.tell(waiter, outcome),
            TryPurpose::Look(class) => {
                self.look_failed(class, &attempt.keys, Some((&outcome, &refusal)));
            }
            TryPurpose::Newcomer(id) if self.waits_on(id, &refusal) => {}
            TryPurpose::Newcomer(id) => {
                let Some(waiter) = self.blocked.waiter(id) else {
                    return;
                };
                let class = waiter.class;
                if waiter.status == WaitStatus::Trying {
                    self.tell(id, outcome);
                }
                if let Some(class) = class {
                    self.tend(class, &[]);
                }
            }
            // A class that has got a connection meanwhile is served there.
            TryPurpose::Poll(class) | TryPurpose::FollowUp(class)
                if is_passing(&refusal)
                    || !self.blocked.class(class).is_some_and(WaitClass::is_polled) => {}
            TryPurpose::Poll(class) | TryPurpose::FollowUp(class) => {
                self.fail_class(class, &outcome)
            }
        }
    }

    fn try_lost(&mut self, attempt: &PendingTry, sent: bool) {
        if let TryPurpose::Look(class) = attempt.kind {
            return self.look_failed(class, &attempt.keys, None);
        }
        let Some(class_id) = attempt.class else {
            if let TryPurpose::Resolve(waiter) = attempt.kind {
                self.resolve_again(waiter);
            }
            return;
        };
        let has_run = sent
            && self
                .blocked
                .class(class_id)
                .is_some_and(|class| class.takes());
        match attempt.kind {
            TryPurpose::Newcomer(waiter) if has_run => self.tell(waiter, WaitOutcome::Lost),
            TryPurpose::Newcomer(waiter) => self.try_again(waiter),
            _ if has_run => self.lose(class_id, &attempt.keys, attempt.count as usize),
            _ => {}
        }
        self.tend(class_id, &attempt.keys);
    }

    fn try_too_large(&mut self, attempt: &PendingTry) {
        match (attempt.kind, attempt.class) {
            (TryPurpose::Resolve(waiter), _) => self.tell(waiter, WaitOutcome::OwnConnection),
            (TryPurpose::Look(class), _) => self.look_failed(class, &attempt.keys, None),
            (_, None) => {}
            (kind, Some(class)) => {
                let newcomer = match kind {
                    TryPurpose::Newcomer(waiter) => Some(waiter),
                    _ => None,
                };
                self.let_go(class, &attempt.keys, newcomer);
                self.tend(class, &attempt.keys);
            }
        }
    }

    /// Gives up what the server answered with more than may be gathered. What was popped is lost, and who asked for it is
    /// closed; who only reads reads it on a connection of its own.
    pub(super) fn let_go(&mut self, class: ClassId, keys: &[LineKey], newcomer: Option<WaiterId>) {
        if self.blocked.class(class).is_some_and(WaitClass::takes) {
            self.actions.push_back(WaitAction::Orphaned(1));
            return self.tell_all(newcomer, &WaitOutcome::Lost);
        }
        let all = self.blocked.who_waited(class, keys);
        self.tell_all(all.into_iter().chain(newcomer), &WaitOutcome::OwnConnection);
    }

    /// Gives up calls that may have popped up to `count` elements of each key and have no answer: whoever would have got them
    /// has lost them.
    pub(super) fn lose(&mut self, class: ClassId, keys: &[LineKey], count: usize) {
        let Some(of) = self.blocked.class(class) else {
            return;
        };
        // Who might be due is known before anybody is told: the next in line for another key of the first is not.
        let lines = keys.iter().filter_map(|key| of.lines.get(key));
        let lost: BTreeSet<WaiterId> = lines
            .flat_map(|line| line.living.iter().copied().take(count))
            .collect();
        self.tell_all(lost, &WaitOutcome::Lost);
    }

    /// Ends the waits of a class of which nobody can be served.
    pub(super) fn fail_class(&mut self, id: ClassId, outcome: &WaitOutcome) {
        let Some(class) = self.blocked.class(id) else {
            return;
        };
        let members: Vec<WaiterId> = class.members.iter().copied().collect();
        for member in members {
            let status = self.blocked.waiter(member).map(|waiter| waiter.status);
            if status == Some(WaitStatus::Waiting) {
                self.tell(member, outcome.clone());
            }
        }
        self.tend(id, &[]);
    }

    fn resolve_again(&mut self, id: WaiterId) {
        if let Some(waiter) = self.blocked.waiter(id) {
            let state = waiter.state.clone();
            self.unclass(id);
            self.attempt(TryPurpose::Resolve(id), state);
        }
    }

    fn resolved(&mut self, id: WaiterId, replies: &[u8]) {
        let mut ids = Vec::new();
        for reply in frames(replies) {
            ids.push(match CallAnswer::by(reply) {
                CallAnswer::Error(error) if error.starts_with(b"-ERR no such key") => {
                    Some(b"0-0".to_vec())
                }
                // The server itself says what is wrong with it.
                CallAnswer::Error(error) if is_other_kind(error) => None,
                _ => match last_entry(reply) {
                    Some(id) => Some(id),
                    None => return self.tell(id, WaitOutcome::OwnConnection),
                },
            });
        }
        if let Some(waiter) = self.blocked.waiters.get_mut(&id) {
            waiter.call.resolve(ids);
            self.join(id);
        }
    }
}
