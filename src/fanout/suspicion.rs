//! Finds who has cost a worker the connection of its subscribers, by dividing them.
//!
//! A server that holds too much for a connection (`client-output-buffer-limit pubsub`) ends it and sends none of that:
//! nothing tells whose message it was. So those who most likely get such messages go to a second connection, and whoever
//! is on the one that is not lost next is cleared. Who is found is closed, as the server would have closed it.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::SubscriberId;

/// A subscriber that has been cleared is remembered as such for this time after the last loss.
const REMEMBERED_MICROS: u64 = 600_000_000;

/// Two connections lost within this may have been lost for the same message.
const AT_ONCE_MICROS: u64 = 1_000_000;

/// Names one of the two connections for the subscribers of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionSide {
    /// Everybody who was not moved is here.
    Usual,
    /// Those are here who may cost the others their connection.
    Apart,
}

/// Describes one of those on a connection that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossSuspect {
    /// It is this subscriber.
    pub subscriber: SubscriberId,
    /// It has many patterns, or for what it is subscribed to no message has come yet, or much of what came last.
    pub(super) is_likely: bool,
    /// All who are subscribed to the same have the same number here: they get the same messages.
    pub(super) kin: u64,
}

/// Says whether all who can have been the cause of a loss are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuspectPresence {
    /// All of them are.
    All,
    /// Somebody has left since the connection brought anything last.
    SomebodyLeft,
}

/// Says what is to be done about a loss, beside connecting anew.
#[derive(Debug, PartialEq, Eq)]
pub enum LossRemedy {
    /// Nothing is to be done.
    Nothing,
    /// These go to the other connection.
    Move(Vec<SubscriberId>),
    /// It was one of these, who are subscribed to the same.
    Close(Vec<SubscriberId>),
}

/// Knows who may have been the cause of losses.
#[derive(Debug, Default)]
pub struct LossSuspicion {
    /// These were on the other connection when one was lost.
    cleared: HashSet<SubscriberId>,
    /// Each was lost last at this time.
    lost_micros: [Option<u64>; 2],
}

impl LossSuspicion {
    /// Tells whether a connection was lost not long ago: who comes now is not trusted either.
    pub fn is_alarmed(&self, now_micros: u64) -> bool {
        let since = |at: &u64| now_micros.saturating_sub(*at) < REMEMBERED_MICROS;
        self.lost_micros.iter().flatten().any(since)
    }

    /// Returns what is to be done when the server has ended a connection with `here` on it, while `there` are on the other
    /// one. Where the cause may have left nobody is to pay for it: those who were kept apart go back to the others, so that
    /// newcomers, who come apart, have nobody but their like to cost anything.
    pub fn lost(
        &mut self,
        (side, presence): (SubscriptionSide, SuspectPresence),
        here: Vec<LossSuspect>,
        there: impl IntoIterator<Item = SubscriberId>,
        now_micros: u64,
    ) -> LossRemedy {
        let is_first = !self.is_alarmed(now_micros);
        if is_first {
            self.cleared.clear();
        }
        let there: HashSet<SubscriberId> = there.into_iter().collect();
        let has_nobody_else = side == SubscriptionSide::Usual && there.is_empty();
        let is_here: HashSet<SubscriberId> = here.iter().map(|one| one.subscriber).collect();
        let is_there = |id: &SubscriberId| there.contains(id) || is_here.contains(id);
        self.cleared.retain(is_there);
        let other = self.lost_micros[1 - side as usize];
        if other.is_none_or(|at| now_micros.saturating_sub(at) > AT_ONCE_MICROS) {
            self.cleared.extend(there);
        }
        self.lost_micros[side as usize] = Some(now_micros);
        if presence == SuspectPresence::SomebodyLeft {
            let back: Vec<_> = here.iter().map(|one| one.subscriber).collect();
            return match side {
                SubscriptionSide::Apart if !back.is_empty() => LossRemedy::Move(back),
                _ => LossRemedy::Nothing,
            };
        }
        let is_suspect = |one: &LossSuspect| !self.cleared.contains(&one.subscriber);
        let mut suspects: Vec<LossSuspect> = here.iter().copied().filter(is_suspect).collect();
        if suspects.is_empty() {
            // There is more than one.
            here.iter().for_each(|one| {
                self.cleared.remove(&one.subscriber);
            });
            suspects = here;
        }
        let mut newest: HashMap<u64, SubscriberId> = HashMap::new();
        for one in &suspects {
            let last = newest.entry(one.kin).or_default();
            *last = one.subscriber.max(*last);
        }
        // Most who do harm do it soon.
        suspects.sort_by_key(|one| (!one.is_likely, Reverse(newest[&one.kin]), one.subscriber));
        let remedy = divided(&suspects, side, is_first);
        match remedy {
            // Nobody else loses anything by them.
            LossRemedy::Close(_) if has_nobody_else && suspects.len() == is_here.len() => {
                LossRemedy::Nothing
            }
            remedy => remedy,
        }
    }
}

/// Returns what to do about `suspects`, the likeliest of whom come first.
fn divided(suspects: &[LossSuspect], side: SubscriptionSide, is_first: bool) -> LossRemedy {
    let ids = |some: &[LossSuspect]| some.iter().map(|one| one.subscriber).collect::<Vec<_>>();
    let likely = suspects.iter().filter(|one| one.is_likely).count();
    let tells = likely > 0 && likely < suspects.len();
    if is_first && !tells {
        // A connection may end for once, and nobody stands out.
        return LossRemedy::Nothing;
    }
    let is_end_of_kin = |&at: &usize| suspects[at - 1].kin != suspects[at].kin;
    let half = suspects.len() / 2;
    let at = match tells {
        true => Some(likely),
        false => (1..suspects.len())
            .filter(is_end_of_kin)
            .min_by_key(|at| at.abs_diff(half)),
    };
    match (at, side) {
        (None, _) if suspects.is_empty() => LossRemedy::Nothing,
        (None, _) => LossRemedy::Close(ids(suspects)),
        (Some(at), SubscriptionSide::Usual) => LossRemedy::Move(ids(&suspects[..at])),
        (Some(at), SubscriptionSide::Apart) => LossRemedy::Move(ids(&suspects[at..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Subscribers on two connections of a server that ends the one with the culprit on it.
    struct SubscriptionWorld {
        suspicion: LossSuspicion,
        sides: [Vec<LossSuspect>; 2],
        now: u64,
        closed: Vec<SubscriberId>,
        losses: std::collections::HashMap<SubscriberId, usize>,
    }

    impl SubscriptionWorld {
        fn new(usual: Vec<LossSuspect>) -> Self {
            Self {
                suspicion: LossSuspicion::default(),
                sides: [usual, Vec::new()],
                now: 0,
                closed: Vec::new(),
                losses: Default::default(),
            }
        }

        fn strike(&mut self, culprit: SubscriberId) {
            self.now += 10_000_000;
            let holds = |side: &Vec<LossSuspect>| side.iter().any(|one| one.subscriber == culprit);
            let Some(at) = self.sides.iter().position(holds) else {
                return;
            };
            let side = [SubscriptionSide::Usual, SubscriptionSide::Apart][at];
            for one in &self.sides[at] {
                *self.losses.entry(one.subscriber).or_default() += 1;
            }
            let there: Vec<_> = self.sides[1 - at]
                .iter()
                .map(|one| one.subscriber)
                .collect();
            let here = self.sides[at].clone();
            let lost = (side, SuspectPresence::All);
            let remedy = self.suspicion.lost(lost, here, there, self.now);
            let (gone, to) = match remedy {
                LossRemedy::Nothing => return,
                LossRemedy::Move(ids) => (ids, Some(1 - at)),
                LossRemedy::Close(ids) => (ids, None),
            };
            let is_gone = |one: &LossSuspect| gone.contains(&one.subscriber);
            let moved: Vec<_> = self.sides[at].iter().copied().filter(is_gone).collect();
            self.sides[at].retain(|one| !is_gone(one));
            match to {
                Some(to) => self.sides[to].extend(moved),
                None => self.closed.extend(gone),
            }
        }
    }

    fn candidate(subscriber: SubscriberId, is_likely: bool) -> LossSuspect {
        LossSuspect {
            subscriber,
            is_likely,
            kin: subscriber,
        }
    }

    #[test]
    fn bystanders_lose_once_what_one_who_stands_out_does_again_and_again() {
        let all = (1..=20).map(|id| candidate(id, id == 7)).collect();
        let mut world = SubscriptionWorld::new(all);
        (0..5).for_each(|_| world.strike(7));
        assert_eq!(world.closed, [7]);
        assert!((1..=20).all(|id| world.losses[&id] == 1 + usize::from(id == 7)));
        // Those who come next are not trusted, and found at once wherever they are.
        world.sides[1].push(candidate(30, true));
        world.strike(30);
        assert_eq!(world.closed, [7, 30]);
        world.sides[0].push(candidate(31, true));
        world.strike(31);
        assert_eq!(world.closed, [7, 30, 31]);
    }

    #[test]
    fn where_nobody_stands_out_the_newest_are_looked_at_first() {
        let mut world = SubscriptionWorld::new((1..=16).map(|id| candidate(id, false)).collect());
        (0..6).for_each(|_| world.strike(16));
        assert_eq!(world.closed, [16]);
        assert!((1..=8).all(|id| world.losses[&id] == 2));
    }

    #[test]
    fn nobody_pays_for_who_has_left() {
        let mut suspicion = LossSuspicion::default();
        let all = vec![candidate(1, true), candidate(2, false)];
        let gone = |side| (side, SuspectPresence::SomebodyLeft);
        let usual = suspicion.lost(gone(SubscriptionSide::Usual), all, [], 0);
        assert_eq!(usual, LossRemedy::Nothing);
        for now in 1..20 {
            let apart = suspicion.lost(
                gone(SubscriptionSide::Apart),
                vec![candidate(1, true)],
                [2],
                now,
            );
            assert_eq!(apart, LossRemedy::Move(vec![1]), "back to the others");
        }
        let nobody = suspicion.lost(gone(SubscriptionSide::Apart), Vec::new(), [1, 2], 20);
        assert_eq!(nobody, LossRemedy::Nothing);
    }

    #[test]
    fn those_who_are_subscribed_to_the_same_go_together() {
        let kin = |id: u64| LossSuspect {
            subscriber: id,
            is_likely: id < 3,
            kin: if id < 3 { 0 } else { id },
        };
        let mut world = SubscriptionWorld::new((1..=6).map(kin).collect());
        (0..2).for_each(|_| world.strike(2));
        assert_eq!(world.closed, [1, 2]);
    }

    #[test]
    fn one_loss_closes_nobody_and_neither_do_losses_far_apart() {
        let mut world = SubscriptionWorld::new(vec![candidate(1, true)]);
        for _ in 0..5 {
            world.strike(1);
            world.now += REMEMBERED_MICROS;
        }
        assert_eq!((world.closed.len(), world.sides[0].len()), (0, 1));
        // Whom it costs nobody anything to keep, is kept.
        let mut alone = SubscriptionWorld::new(vec![candidate(1, false)]);
        (0..3).for_each(|_| alone.strike(1));
        assert!(alone.closed.is_empty());
        let mut two = SubscriptionWorld::new(vec![candidate(1, false), candidate(2, false)]);
        (0..3).for_each(|_| two.strike(1));
        assert_eq!(two.closed, [1]);
    }

    proptest! {
        #[test]
        fn the_one_is_found_by_halves_and_nobody_else_is_closed(
            likely in prop::collection::vec(any::<bool>(), 1..200),
            chosen in any::<prop::sample::Index>(),
        ) {
            let all: Vec<LossSuspect> = likely
                .iter()
                .enumerate()
                .map(|(id, is_likely)| candidate(id as u64, *is_likely))
                .collect();
            let culprit = chosen.index(all.len()) as u64;
            let closed: Vec<u64> = (all.len() > 1).then_some(culprit).into_iter().collect();
            let halves = all.len().next_power_of_two().ilog2() as usize;
            let mut world = SubscriptionWorld::new(all);
            for _ in 0..halves + 3 {
                world.strike(culprit);
            }
            prop_assert_eq!(world.closed, closed);
        }
    }
}
