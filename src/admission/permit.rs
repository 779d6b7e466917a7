//! A client's place, for as long as it is here.
//!
//! Invariant: what a permit holds is counted, and its drop gives it back, once.

use std::sync::Arc;
use std::time::Instant;

use super::tally::TakenPlace;
use super::{Admission, AdmissionPlan, AdmissionRefusal, GroupId, GroupPlace, refusal};
use crate::identity::Identity;

/// Says what a permit holds.
#[derive(Debug)]
pub(super) enum PermitHolding {
    /// It holds a place in a group.
    Place(GroupPlace),
    /// It holds a place among those that arrive; `is_beyond`: past `limits.max_clients`, in an operator's place.
    Arriving { is_beyond: bool },
    /// It holds one of the places kept for operators.
    Operator,
    /// It holds nothing: the client was refused by a group that it moved to.
    Nothing,
}

/// Is a client's place. Its drop gives the place back.
#[derive(Debug)]
pub struct ClientPermit {
    pub(super) admission: Arc<Admission>,
    pub(super) group: GroupId,
    pub(super) held: PermitHolding,
    /// Is that of the plan by which its group was told.
    generation: u64,
    /// Is set when this client brought its group to `warn_connections`, or had to be placed at once: a line to log, once.
    pub warning: Option<String>,
    /// Is set when a group in mode `observe` would have refused this client: a line to log, once.
    pub observed: Option<String>,
}

impl ClientPermit {
    /// Makes one that holds nothing yet.
    pub(super) fn new(admission: &Arc<Admission>, group: GroupId, generation: u64) -> Self {
        Self {
            admission: Arc::clone(admission),
            group,
            held: PermitHolding::Nothing,
            generation,
            warning: None,
            observed: None,
        }
    }

    /// Returns the client's group; while it arrives, the one it would be in; after a refusal, the group that refused it.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Tells whether the client holds a place of any kind; without one it is rejected for the rest of its life.
    pub fn has_place(&self) -> bool {
        !matches!(self.held, PermitHolding::Nothing)
    }

    /// Moves the place after the client's name or user has changed: to another group, to another key of the same one, to or
    /// from an operator's place. A move counts against the connect rate where it arrives, and as accepted in a new group.
    /// `Ok(None)`: it stays where it is, or it has no place any more. Who is arriving goes on arriving.
    ///
    /// # Errors
    /// The refusal of the new group; the old place is given back at once and the client has none from then on. When
    /// `evict` is set the caller may make room and ask [`Admission::admit`] for a new permit.
    pub fn regroup(
        &mut self,
        identity: &Identity,
        now: Instant,
    ) -> Result<Option<GroupId>, AdmissionRefusal> {
        let admission = Arc::clone(&self.admission);
        let (plan, mut counts, new) = admission.decide(identity);
        let is_kept = plan.welcome.is_operator(identity);
        let is_from_operator = match &self.held {
            PermitHolding::Nothing => return Ok(None),
            PermitHolding::Arriving { .. } => return Ok(self.look_at(&plan, &new)),
            PermitHolding::Operator if is_kept => return Ok(self.look_at(&plan, &new)),
            PermitHolding::Operator => true,
            PermitHolding::Place(old) => {
                if is_kept && plan.has_operator_place(&counts) {
                    counts.leave(old);
                    counts.total -= 1;
                    counts.operators += 1;
                    self.held = PermitHolding::Operator;
                    self.look_at(&plan, &new);
                    return Ok(Some(self.group));
                }
                if new.is_at(old) {
                    counts.settle(old);
                    self.held = PermitHolding::Place(new);
                    return Ok(None);
                }
                counts.leave(old);
                false
            }
        };
        if is_from_operator {
            counts.operators -= 1;
        } else {
            counts.total -= 1;
        }
        let moves_in = self.group != new.group || is_from_operator;
        // Whatever comes of it, the old place is given back.
        self.held = PermitHolding::Nothing;
        self.look_at(&plan, &new);
        let entered = match is_from_operator {
            true => plan.has_room(&counts, &new),
            false => Ok(()),
        };
        let entry =
            entered.and_then(|()| plan.move_in(&mut counts, &new, (identity, now), moves_in))?;
        drop(counts);
        self.take_place(&plan, new, entry);
        Ok(Some(self.group))
    }

    /// Notes the group that the client is in by `plan`, without a place of its own there.
    fn look_at(&mut self, plan: &AdmissionPlan, place: &GroupPlace) -> Option<GroupId> {
        self.generation = plan.generation;
        let has_moved = self.group != place.group;
        self.group = place.group;
        has_moved.then_some(self.group)
    }

    /// Tells whether it was given before the last reload.
    pub fn is_stale(&self) -> bool {
        let generation = match &self.held {
            PermitHolding::Place(place) => place.generation,
            PermitHolding::Arriving { .. } | PermitHolding::Operator => self.generation,
            PermitHolding::Nothing => return false,
        };
        generation != self.admission.plan.load().generation
    }

    /// Moves the place to where a reload puts it, whatever the caps say: nobody is dropped by a reload. Returns true where that is another
    /// group. It counts neither as accepted nor against the connect rate. Who is arriving, or in an operator's place, stays there.
    pub fn reassign(&mut self, identity: &Identity) -> bool {
        let admission = Arc::clone(&self.admission);
        let (plan, mut counts, new) = admission.decide(identity);
        match &self.held {
            PermitHolding::Nothing => return false,
            PermitHolding::Arriving { .. } => return self.look_at(&plan, &new).is_some(),
            PermitHolding::Operator if plan.welcome.is_operator(identity) => {
                return self.look_at(&plan, &new).is_some();
            }
            PermitHolding::Operator => {
                counts.operators -= 1;
                counts.total += 1;
                counts.groups[new.group.index()].force(&new.key);
            }
            PermitHolding::Place(old) if new.is_at(old) => counts.settle(old),
            PermitHolding::Place(old) => {
                counts.leave(old);
                counts.groups[new.group.index()].force(&new.key);
            }
        }
        drop(counts);
        let has_moved = self.look_at(&plan, &new).is_some();
        self.held = PermitHolding::Place(new);
        has_moved
    }

    pub(super) fn take_place(
        &mut self,
        plan: &AdmissionPlan,
        place: GroupPlace,
        entry: TakenPlace,
    ) {
        let rule = plan.rule(place.group);
        self.warning = entry
            .warning
            .map(|line| refusal::warning(rule, &place.key, &line));
        self.observed = entry.observed.map(|(shortfall, line)| {
            refusal::would_reject(&plan.refusal(&place, shortfall), &line)
        });
        self.group = place.group;
        self.held = PermitHolding::Place(place);
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        let held = std::mem::replace(&mut self.held, PermitHolding::Nothing);
        if matches!(held, PermitHolding::Nothing) {
            return;
        }
        let mut counts = self.admission.counts();
        match held {
            PermitHolding::Place(place) => {
                counts.leave(&place);
                counts.total -= 1;
            }
            PermitHolding::Arriving { is_beyond } => counts.has_arrived(is_beyond),
            PermitHolding::Operator => counts.operators -= 1,
            PermitHolding::Nothing => {}
        }
    }
}
