//! What the machine does with tries: what each sends, and what its answer means for whoever waits.

use std::collections::BTreeSet;

use super::Waits;
use crate::command::Delays;
use crate::resp::speak::push_request;
use crate::texts::OTHER_KIND;
use crate::waits::arrivals::Fewer;
use crate::waits::blocked::{Ending, Status, Waiter};
use crate::waits::call::Patience;
use crate::waits::class::{Class, Place};
use crate::waits::ids::{ClassId, TryId, WaiterId};
use crate::waits::lines::Line;
use crate::waits::reply::{
    Refusal, Said, frames, is_of_memory, is_passing, last_entry, transaction,
};
use crate::waits::tries::{Attempt, Failure, Kind, Sending};
use crate::waits::{Action, Key, MAX_AHEAD, Outcome};

/// The server may wait so long where the call runs by itself, because MULTI was refused or whatever stands inside it.
const A_MOMENT: Patience = Patience::Millis(1);

/// Says what the answers to a try for a class have told.
struct Found {
    /// Something was found under this key last, and the answer was so large.
    hit: Option<(Key, usize)>,
    /// Something was asked for and not found.
    missed: bool,
    /// The server refuses a call, maybe for one of the waiters alone.
    is_refused: bool,
    /// The last answer does not tell whether the server does what it is asked.
    is_passed_over: bool,
}

impl<S: Clone + PartialEq> Waits<S> {
    /// Asks for a try on a shared connection.
    pub(super) fn attempt(&mut self, kind: Kind, state: S) {
        self.attempt_as(kind, state, false);
    }

    /// Asks for a try outside MULTI: the server has refused one for want of memory, as it does up to Redis 7.0 with whatever
    /// stands inside. A call that takes something away is served outside, and waits for a moment otherwise.
    fn attempt_bare(&mut self, kind: Kind) {
        let state = match kind {
            Kind::Resolve(waiter) | Kind::Newcomer(waiter) => {
                let waiter = self.blocked.waiter(waiter);
                let waiter = waiter.filter(|waiter| waiter.status == Status::Trying);
                waiter.map(|waiter| waiter.state.clone())
            }
            Kind::Poll(class) | Kind::Chase(class) | Kind::Look(class) => {
                let class = self.blocked.class(class);
                class.map(|class| class.state.clone())
            }
        };
        if let Some(state) = state {
            self.attempt_as(kind, state, true);
        }
    }

    fn attempt_as(&mut self, kind: Kind, state: S, is_bare: bool) {
        if let Kind::Poll(class) | Kind::Chase(class) = kind
            && let Some(class) = self.blocked.class_mut(class)
        {
            class.attempts += 1;
        }
        let attempt = self.keep(kind, is_bare);
        let (group, delays) = (self.group_of(kind), self.delays_of(kind));
        self.actions.push_back(Action::Try {
            attempt,
            state,
            group,
            is_bare,
            delays,
        });
    }

    /// Says what may delay a try: it is a write where its call takes something away.
    fn delays_of(&self, kind: Kind) -> Delays {
        let class = match kind {
            Kind::Resolve(_) | Kind::Look(_) => None,
            Kind::Newcomer(waiter) => self.blocked.waiter(waiter).and_then(|waiter| waiter.class),
            Kind::Poll(class) | Kind::Chase(class) => Some(class),
        };
        let class = class.and_then(|class| self.blocked.class(class));
        match class.is_some_and(Class::takes) {
            true => Delays::PAUSE,
            false => Delays::NONE,
        }
    }

    fn group_of(&self, kind: Kind) -> usize {
        let group = match kind {
            Kind::Resolve(waiter) | Kind::Newcomer(waiter) => {
                let waiter = self.blocked.waiter(waiter);
                waiter.map(|waiter| waiter.whose.group)
            }
            Kind::Poll(class) | Kind::Chase(class) | Kind::Look(class) => {
                let class = self.blocked.class(class);
                class.and_then(|class| class.groups.keys().next().copied())
            }
        };
        group.unwrap_or_default()
    }

    fn keep(&mut self, kind: Kind, is_bare: bool) -> TryId {
        let id = TryId(self.blocked.fresh());
        self.attempts.insert(id, Attempt::new(kind, is_bare));
        id
    }

    /// Says what to send for a try, for which a connection is there; `None` where it is not wanted any more.
    pub fn begin(&mut self, attempt: TryId, now: u64) -> Option<Sending> {
        self.now = now;
        let sending = match self.attempts.get(&attempt)?.kind {
            Kind::Resolve(waiter) => self.blocked.waiter(waiter).map(|waiter| {
                let (bytes, replies) = waiter.call.last_entries();
                Sending {
                    bytes,
                    replies,
                    takes: 0,
                }
            }),
            Kind::Newcomer(waiter) => self.begin_newcomer(attempt, waiter),
            Kind::Poll(class) => self.begin_poll(attempt, class),
            Kind::Chase(class) => self.begin_chase(attempt, class),
            Kind::Look(class) => self.begin_look(attempt, class),
        };
        if sending.is_none() {
            self.drop_attempt(attempt);
        }
        sending
    }

    fn begin_newcomer(&mut self, attempt: TryId, id: WaiterId) -> Option<Sending> {
        let waiter = self.blocked.waiters.get(&id)?;
        if waiter.status != Status::Trying {
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

    fn begin_poll(&mut self, attempt: TryId, id: ClassId) -> Option<Sending> {
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

    fn begin_chase(&mut self, attempt: TryId, id: ClassId) -> Option<Sending> {
        let class = self.blocked.class(id)?;
        if !class.wants_seat() || class.begun > 0 {
            return None;
        }
        self.chase_now(attempt, id)
    }

    /// Sends what the class follows up, as far as it is of use.
    fn chase_now(&mut self, attempt: TryId, id: ClassId) -> Option<Sending> {
        let (keys, count) = self.chased(id)?;
        let mut call = Vec::new();
        let class = self.blocked.class(id)?;
        class.call.push_over(&mut call, &keys, A_MOMENT);
        Some(self.begun(attempt, id, keys, &call, count))
    }

    fn chased(&self, id: ClassId) -> Option<(Vec<Key>, u32)> {
        let class = self.blocked.class(id)?;
        let chase = class.chase.as_ref()?;
        let count = chase.count(class.lines.get(&chase.key).map_or(0, Line::room));
        (count > 0).then(|| (vec![Key::clone(&chase.key)], count))
    }

    /// Makes the tries to be sent in front of the call about to be issued, for the key that has just answered.
    pub(super) fn ahead(&mut self, id: ClassId) -> Option<(TryId, Sending)> {
        self.chased(id)?;
        self.blocked.class_mut(id)?.attempts += 1;
        let attempt = self.keep(Kind::Chase(id), false);
        let sending = self.chase_now(attempt, id)?;
        Some((attempt, sending))
    }

    fn begun(
        &mut self,
        attempt: TryId,
        id: ClassId,
        keys: Vec<Key>,
        call: &[u8],
        count: u32,
    ) -> Sending {
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
                    Kind::Newcomer(_) => class.newcomers += 1,
                    _ => class.begun += 1,
                }
                if matches!(attempt.kind, Kind::Poll(_)) {
                    kinds = class.ask_kinds();
                }
            }
            attempt.kinds = kinds.1;
        }
        let takes = self.blocked.class(id).is_some_and(Class::takes);
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
        Sending {
            bytes,
            replies: asked + count as usize + if is_bare { 0 } else { 2 },
            takes: if takes { count as usize } else { 0 },
        }
    }

    /// Forgets a try that is over, with all that was counted of it.
    fn drop_attempt(&mut self, id: TryId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        let of = match attempt.kind {
            Kind::Poll(class) | Kind::Chase(class) | Kind::Look(class) => Some(class),
            _ => attempt.class,
        };
        if let Some(class) = of.and_then(|class| self.blocked.class_mut(class)) {
            let is_begun = attempt.class.is_some();
            match attempt.kind {
                Kind::Newcomer(_) => class.newcomers -= 1,
                Kind::Look(_) => class.is_looking = false,
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
        if let Kind::Resolve(waiter) = attempt.kind {
            return self.resolved(waiter, replies);
        }
        let Some(class) = attempt.class else {
            return;
        };
        if let Kind::Look(_) = attempt.kind {
            return self.looked(class, &attempt.keys, replies);
        }
        let answers = if attempt.is_bare {
            Ok(frames(replies))
        } else {
            transaction(replies, attempt.kinds + attempt.count as usize)
        };
        match (attempt.kind, answers) {
            (kind @ (Kind::Newcomer(_) | Kind::Poll(_)), Err(Refusal::Call(error)))
                if is_of_memory(error) && self.may_be_full(class) =>
            {
                self.attempt_bare(kind);
            }
            (Kind::Newcomer(waiter), Ok(answers)) => {
                let first = answers.first();
                let answer = first.map_or(Said::Null, |first| Said::by(first));
                self.newcomer_tried(class, waiter, answer);
            }
            (Kind::Newcomer(waiter), Err(Refusal::Call(error))) => {
                self.newcomer_tried(class, waiter, Said::Error(error));
            }
            // What is wrong with the call itself is told where it stands alone.
            (Kind::Newcomer(waiter), Err(Refusal::Exec(error))) => {
                if !self.waits_on(waiter, error) {
                    self.tell(waiter, Outcome::OwnConnection);
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

    fn newcomer_tried(&mut self, class: ClassId, id: WaiterId, answer: Said<'_>) {
        match answer {
            Said::Error(error) if self.waits_on(id, error) => {}
            // It repeats the words of the try, and the timeout among them is not the caller's.
            Said::Error(error) if error.starts_with(b"-ERR unknown command") => {
                self.tell(id, Outcome::OwnConnection);
            }
            Said::Error(error) => self.tell(id, Outcome::reply(error)),
            Said::Element(element) => {
                self.deliver(class, element, Some(id));
                // It went to somebody earlier in line: there may be more.
                self.try_again(id);
            }
            Said::Null => {
                let Some(waiter) = self.blocked.waiter(id) else {
                    return;
                };
                if waiter.status != Status::Trying {
                    return;
                }
                if waiter.is_late(self.now) {
                    return self.blocked.set_status(id, Status::Ending(Ending::Null));
                }
                if waiter.call.is_relative() {
                    // The key was no stream when it was asked about, and is none that answers an error now.
                    return self.resolve_again(id);
                }
                let keys = waiter.keys.clone();
                self.blocked.set_status(id, Status::Waiting);
                self.unbar(class, &keys);
            }
        }
    }

    /// Has one who has waited already wait on where the server refuses calls that arrive: it does not learn of that before
    /// its class has found out what is due.
    fn waits_on(&mut self, id: WaiterId, error: &[u8]) -> bool {
        let waiter = self.blocked.waiter(id);
        let is_of_arrival = |waiter: &Waiter<S>| {
            let class = waiter.class;
            class.is_some_and(|class| self.is_of_arrival(class, error) || self.bars(class, error))
        };
        let Some(waiter) = waiter
            .filter(|waiter| waiter.has_waited && (is_passing(error) || is_of_arrival(waiter)))
        else {
            return false;
        };
        let (class, keys) = (waiter.class, waiter.keys.clone());
        if waiter.status == Status::Trying {
            self.blocked.set_status(id, Status::Waiting);
        }
        if let Some(class) = class.filter(|class| self.bars(*class, error)) {
            self.bar(class, &keys);
        }
        true
    }

    fn try_again(&mut self, id: WaiterId) {
        if let Some(waiter) = self.blocked.waiter(id)
            && waiter.status == Status::Trying
        {
            let state = waiter.state.clone();
            self.attempt(Kind::Newcomer(id), state);
        }
    }

    /// Reads what the server answered to tries for a class without asking anybody in particular.
    fn class_tried(&mut self, id: ClassId, attempt: &Attempt, kinds: &[&[u8]], answers: &[&[u8]]) {
        let class = self.blocked.class_mut(id);
        let fewer = class.map_or(Fewer::None, |class| class.sort_out(self.server, kinds));
        let mut found = Found {
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
            && matches!(class.place, Place::Resting { .. })
        {
            // The server does what it is asked again.
            class.is_doubted &= found.is_refused;
            self.dequeue(id);
        }
        self.follow_up(id, attempt, fewer, &found);
    }

    /// Reads one of these answers.
    fn take_answer(
        &mut self,
        id: ClassId,
        attempt: &Attempt,
        answer: &[u8],
        (fewer, kinds): (Fewer, &[&[u8]]),
        found: &mut Found,
    ) {
        let class = self.blocked.class(id);
        match Said::by(answer) {
            Said::Null => {
                found.missed = true;
                // Nothing is known of the keys that were left out.
                found.is_passed_over = fewer != Fewer::None;
            }
            Said::Error(error) if is_passing(error) => {
                (found.missed, found.is_passed_over) = (true, true);
            }
            Said::Error(error) if self.is_of_arrival(id, error) => {
                (found.missed, found.is_passed_over) = (true, true);
                self.refused_on_arrival(id, attempt, error, (fewer, kinds));
            }
            Said::Element(_) if class.is_some_and(|c| c.ends_with_error(self.server, fewer)) => {
                self.tell_seated_out(id, &attempt.keys, OTHER_KIND);
            }
            Said::Error(error) if self.bars(id, error) => {
                found.missed = true;
                self.bar(id, &attempt.keys);
            }
            Said::Error(_) => found.is_refused = true,
            Said::Element(element) => {
                found.is_passed_over = fewer != Fewer::None;
                if let Some(key) = self.deliver(id, element, None) {
                    found.hit = Some((key, element.len()));
                }
            }
        }
    }

    /// Decides what is tried next for a class: where something was, there may be more, under this key or another.
    fn follow_up(&mut self, id: ClassId, attempt: &Attempt, fewer: Fewer, found: &Found) {
        let Some(class) = self.blocked.class_mut(id) else {
            return;
        };
        class.hides_kinds &= found.is_refused || found.is_passed_over;
        match (attempt.kind, &found.hit) {
            (Kind::Chase(_), Some((key, bytes))) if !found.missed && !found.is_refused => {
                class.chase(key, *bytes);
                if let Some(chase) = &mut class.chase {
                    chase.count = (attempt.count * 2).min(MAX_AHEAD);
                }
            }
            (Kind::Poll(_), Some((key, bytes))) => class.chase(key, *bytes),
            _ => class.chase = None,
        }
        let is_free = class.attempts == 0 && class.waiting > 0;
        let goes_on = class.wants_seat() && is_free;
        let chases = class.chase.as_ref().is_some_and(|chase| {
            let line = class.lines.get(&chase.key);
            line.is_some_and(|line| line.room() > 0)
        });
        let state = class.state.clone();
        if fewer != Fewer::None && found.hit.is_some() && is_free {
            return self.attempt(Kind::Poll(id), state);
        }
        let may_be_more = found.hit.is_some() || matches!(attempt.kind, Kind::Chase(_));
        match (goes_on, chases, may_be_more) {
            (true, true, _) => self.attempt(Kind::Chase(id), state),
            (true, false, true) => self.attempt(Kind::Poll(id), state),
            _ => {}
        }
    }

    /// Goes on after a try that has no replies.
    pub fn failed(&mut self, attempt: TryId, failure: Failure, now: u64) {
        self.now = now;
        let Some(attempt) = self.drop_attempt(attempt) else {
            return;
        };
        let (outcome, refusal) = match failure {
            Failure::Lost { sent } => return self.try_lost(&attempt, sent),
            Failure::TooLarge => return self.try_too_large(&attempt),
            Failure::Unreachable => (Outcome::Unreachable, Vec::new()),
            Failure::Refused(reply) => (Outcome::reply(&reply), reply),
        };
        match attempt.kind {
            Kind::Resolve(waiter) => self.tell(waiter, outcome),
            Kind::Look(class) => {
                self.look_failed(class, &attempt.keys, Some((&outcome, &refusal)));
            }
            Kind::Newcomer(id) if self.waits_on(id, &refusal) => {}
            Kind::Newcomer(id) => {
                let Some(waiter) = self.blocked.waiter(id) else {
                    return;
                };
                let class = waiter.class;
                if waiter.status == Status::Trying {
                    self.tell(id, outcome);
                }
                if let Some(class) = class {
                    self.tend(class, &[]);
                }
            }
            // A class that has got a seat meanwhile is served there.
            Kind::Poll(class) | Kind::Chase(class)
                if is_passing(&refusal)
                    || !self.blocked.class(class).is_some_and(Class::is_polled) => {}
            Kind::Poll(class) | Kind::Chase(class) => self.fail_class(class, &outcome),
        }
    }

    fn try_lost(&mut self, attempt: &Attempt, sent: bool) {
        if let Kind::Look(class) = attempt.kind {
            return self.look_failed(class, &attempt.keys, None);
        }
        let Some(class_id) = attempt.class else {
            if let Kind::Resolve(waiter) = attempt.kind {
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
            Kind::Newcomer(waiter) if has_run => self.tell(waiter, Outcome::Lost),
            Kind::Newcomer(waiter) => self.try_again(waiter),
            _ if has_run => self.lose(class_id, &attempt.keys, attempt.count as usize),
            _ => {}
        }
        self.tend(class_id, &attempt.keys);
    }

    fn try_too_large(&mut self, attempt: &Attempt) {
        match (attempt.kind, attempt.class) {
            (Kind::Resolve(waiter), _) => self.tell(waiter, Outcome::OwnConnection),
            (Kind::Look(class), _) => self.look_failed(class, &attempt.keys, None),
            (_, None) => {}
            (kind, Some(class)) => {
                let newcomer = match kind {
                    Kind::Newcomer(waiter) => Some(waiter),
                    _ => None,
                };
                self.let_go(class, &attempt.keys, newcomer);
                self.tend(class, &attempt.keys);
            }
        }
    }

    /// Gives up what the server answered with more than may be gathered. What was popped is lost, and who asked for it is
    /// closed; who only reads reads it on a connection of its own.
    pub(super) fn let_go(&mut self, class: ClassId, keys: &[Key], newcomer: Option<WaiterId>) {
        if self.blocked.class(class).is_some_and(Class::takes) {
            self.actions.push_back(Action::Orphaned(1));
            return self.tell_all(newcomer, &Outcome::Lost);
        }
        let all = self.blocked.seated_out(class, keys);
        self.tell_all(all.into_iter().chain(newcomer), &Outcome::OwnConnection);
    }

    /// Gives up calls that may have popped up to `count` elements of each key and have no answer: whoever would have got them
    /// has lost them.
    pub(super) fn lose(&mut self, class: ClassId, keys: &[Key], count: usize) {
        let Some(of) = self.blocked.class(class) else {
            return;
        };
        // Who might be due is known before anybody is told: the next in line for another key of the first is not.
        let lines = keys.iter().filter_map(|key| of.lines.get(key));
        let lost: BTreeSet<WaiterId> = lines
            .flat_map(|line| line.living.iter().copied().take(count))
            .collect();
        self.tell_all(lost, &Outcome::Lost);
    }

    /// Ends the waits of a class of which nobody can be served.
    pub(super) fn fail_class(&mut self, id: ClassId, outcome: &Outcome) {
        let Some(class) = self.blocked.class(id) else {
            return;
        };
        let members: Vec<WaiterId> = class.members.iter().copied().collect();
        for member in members {
            let status = self.blocked.waiter(member).map(|waiter| waiter.status);
            if status == Some(Status::Waiting) {
                self.tell(member, outcome.clone());
            }
        }
        self.tend(id, &[]);
    }

    fn resolve_again(&mut self, id: WaiterId) {
        if let Some(waiter) = self.blocked.waiter(id) {
            let state = waiter.state.clone();
            self.unclass(id);
            self.attempt(Kind::Resolve(id), state);
        }
    }

    fn resolved(&mut self, id: WaiterId, replies: &[u8]) {
        let mut ids = Vec::new();
        for reply in frames(replies) {
            ids.push(match Said::by(reply) {
                Said::Error(error) if error.starts_with(b"-ERR no such key") => {
                    Some(b"0-0".to_vec())
                }
                // The server itself says what is wrong with it.
                Said::Error(error) if error.starts_with(b"-WRONGTYPE") => None,
                _ => match last_entry(reply) {
                    Some(id) => Some(id),
                    None => return self.tell(id, Outcome::OwnConnection),
                },
            });
        }
        if let Some(waiter) = self.blocked.waiters.get_mut(&id) {
            waiter.call.resolve(ids);
            self.join(id);
        }
    }
}
