//! Clients that have connected and not yet said who they are.
//!
//! Client libraries send their name and their user in the first commands, each in an order of its own. Until a client asks
//! for something that serves it, it is *arriving*: it counts in `limits.max_clients` and in no group, so that a group which
//! is full of clients without a name locks nobody out who has one. What it may ask meanwhile is told by
//! [`keeps_arriving`](crate::command::keeps_arriving); for how long, by `limits.arriving_timeout`.
//!
//! Whoever is in the same place whatever it calls itself does not arrive: its cap is asked when it connects. Operators have
//! places of their own, so that `CLIENT LIST` and `CLIENT KILL` are in reach when everything is full.

use std::sync::Arc;
use std::time::Instant;

use super::permit::PermitHolding;
use super::{Admission, AdmissionCounts, AdmissionPlan, AdmissionRefusal, ClientPermit, GroupRule};
use crate::config::{AtLimit, AuthMode, CapScope, Settings};
use crate::identity::Identity;

/// Says what the settings have of newcomers.
#[derive(Debug)]
pub(super) struct NewcomerRules {
    /// Bounds the clients that are arriving; 0: nobody arrives.
    max_arriving: usize,
    pub(super) operator_places: usize,
    operators: Vec<Box<[u8]>>,
    /// Names the listeners whose clients are operators.
    admin_listeners: Vec<String>,
    /// Is true where nobody is served who has not authenticated.
    must_authenticate: bool,
}

impl NewcomerRules {
    pub(super) fn new(settings: &Settings) -> Self {
        let limits = &settings.limits;
        let users = settings.operators.iter();
        let listeners = settings.listeners.iter();
        Self {
            max_arriving: match limits.arriving_timeout.is_zero() {
                true => 0,
                false => limits.max_arriving,
            },
            operator_places: limits.operator_places,
            operators: users.map(|user| user.as_bytes().into()).collect(),
            admin_listeners: listeners
                .filter(|listener| listener.admin)
                .map(|listener| listener.name.clone())
                .collect(),
            must_authenticate: matches!(
                settings.auth.mode,
                AuthMode::Proxy | AuthMode::Passthrough
            ),
        }
    }

    /// Tells whether an operator's place is kept for this client.
    pub(super) fn is_operator(&self, identity: &Identity) -> bool {
        self.admin_listeners
            .iter()
            .any(|name| **name == *identity.listener)
            || self
                .operators
                .iter()
                .any(|user| **user == *identity.shown_user())
    }
}

impl GroupRule {
    /// Tells whether it looks at what a client says of itself.
    fn listens(&self) -> bool {
        self.matches.client_name.is_some() || self.matches.user.is_some()
    }
}

impl AdmissionPlan {
    /// Tells whether the place of this client depends on what it has yet to say.
    pub(super) fn depends_on_words(&self, identity: &Identity) -> bool {
        if !self.welcome.operators.is_empty() {
            return true;
        }
        // The first that takes it by where it comes from takes it whatever it says, unless it listens.
        let mut rules = self.order.iter().map(|&group| self.rule(group));
        rules
            .find(|rule| rule.takes_by_origin(identity))
            .is_some_and(|rule| {
                rule.listens()
                    || matches!(rule.per, CapScope::ClientName | CapScope::User)
                    // A stranger is to throw out nobody who has authenticated.
                    || (rule.at_limit == AtLimit::EvictIdle && self.welcome.must_authenticate)
            })
    }

    /// Tells whether one of the places kept for operators is free.
    pub(super) fn has_operator_place(&self, counts: &AdmissionCounts) -> bool {
        counts.operators + counts.beyond < self.welcome.operator_places
    }

    /// Tells whether one of them is free for somebody who may turn out to be an operator. Where operators have a listener of their own, no
    /// more than half of the places are for those who say nothing yet: the rest is theirs.
    fn has_place_beyond(&self, counts: &AdmissionCounts) -> bool {
        let welcome = &self.welcome;
        let most = match welcome.admin_listeners.is_empty() {
            true => welcome.operator_places,
            false => welcome.operator_places / 2,
        };
        !welcome.operators.is_empty() && counts.beyond < most && self.has_operator_place(counts)
    }
}

/// Counts who is here beside the clients of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UngroupedCounts {
    /// Counts the clients that are arriving.
    pub arriving: usize,
    /// Counts the operators in the places kept for them.
    pub operators: usize,
    /// Counts the newcomers that were placed at once because `limits.max_arriving` were arriving.
    pub unheard: u64,
}

impl Admission {
    /// Lets a newcomer arrive, or gives it the place that it has whatever it says; an operator gets one of those kept for them while there
    /// are some. What is refused is not counted yet: see [`Admission::rejected`].
    ///
    /// # Errors
    /// It fails as [`Admission::admit`] does.
    pub fn arrive(
        self: &Arc<Self>,
        identity: &Identity,
        now: Instant,
    ) -> Result<ClientPermit, AdmissionRefusal> {
        self.take_in(identity, now, false)
    }

    /// Does as [`Admission::arrive`]; with `has_shaken`, for one that counts in `limits.max_clients` already, by its handshake, which is
    /// over when it is taken in.
    pub(super) fn take_in(
        self: &Arc<Self>,
        identity: &Identity,
        now: Instant,
        has_shaken: bool,
    ) -> Result<ClientPermit, AdmissionRefusal> {
        let (plan, mut counts, place) = self.decide(identity);
        let welcome = &plan.welcome;
        let mut permit = ClientPermit::new(self, place.group, plan.generation);
        if welcome.is_operator(identity) && plan.has_operator_place(&counts) {
            counts.operators += 1;
            counts.handshaking -= usize::from(has_shaken);
            drop(counts);
            permit.held = PermitHolding::Operator;
            return Ok(permit);
        }
        let room = match has_shaken {
            true => Ok(()),
            false => plan.has_room(&counts, &place),
        };
        let arrives = welcome.max_arriving > 0 && plan.depends_on_words(identity);
        if arrives && counts.arriving < welcome.max_arriving {
            // Past the cap of all there is room for who may turn out to be an operator, and only where some are named.
            let is_beyond = room.is_err();
            if is_beyond && !plan.has_place_beyond(&counts) {
                room?;
            }
            counts.arriving += 1;
            counts.beyond += usize::from(is_beyond);
            counts.handshaking -= usize::from(has_shaken);
            drop(counts);
            permit.held = PermitHolding::Arriving { is_beyond };
            return Ok(permit);
        }
        room?;
        let mut unheard = None;
        if arrives {
            counts.unheard += 1;
            unheard = counts.unheard_lines.pass(now);
        }
        let entry = plan.enter(&mut counts, &place, identity, now);
        let entry = entry.map_err(|mut refusal| {
            refusal.evict &= !(arrives && welcome.must_authenticate);
            refusal
        })?;
        counts.handshaking -= usize::from(has_shaken);
        drop(counts);
        permit.take_place(&plan, place, entry);
        if let Some(line) = unheard {
            let most = welcome.max_arriving;
            permit.warning = Some(format!(
                "{most} clients are arriving (limits.max_arriving): a newcomer was placed before it could say who it is{line}"
            ));
        }
        Ok(permit)
    }

    /// Counts who is here beside the clients of groups.
    pub fn crowd(&self) -> UngroupedCounts {
        let counts = self.counts();
        UngroupedCounts {
            arriving: counts.arriving,
            operators: counts.operators,
            unheard: counts.unheard,
        }
    }
}

impl ClientPermit {
    /// Tells whether its client has yet to say who it is.
    pub fn is_arriving(&self) -> bool {
        matches!(self.held, PermitHolding::Arriving { .. })
    }

    /// Tells whether its client has one of the places kept for operators.
    pub fn is_operator(&self) -> bool {
        matches!(self.held, PermitHolding::Operator)
    }

    /// Gives the client that has arrived its place, by the name and the user that it has now.
    ///
    /// # Errors
    /// It fails as [`Admission::admit`] does; the client is arriving still, so that the caller may make room and ask again.
    pub fn settle(&mut self, identity: &Identity, now: Instant) -> Result<(), AdmissionRefusal> {
        let PermitHolding::Arriving { is_beyond } = self.held else {
            return Ok(());
        };
        let admission = Arc::clone(&self.admission);
        let (plan, mut counts, place) = admission.decide(identity);
        self.group = place.group;
        let is_operator = plan.welcome.is_operator(identity);
        if is_operator && (is_beyond || plan.has_operator_place(&counts)) {
            counts.operators += 1;
            counts.has_arrived(is_beyond);
            drop(counts);
            self.held = PermitHolding::Operator;
            return Ok(());
        }
        if is_beyond {
            plan.has_room(&counts, &place)?;
        }
        let entry = plan.enter(&mut counts, &place, identity, now)?;
        counts.has_arrived(is_beyond);
        drop(counts);
        self.take_place(&plan, place, entry);
        Ok(())
    }
}

impl AdmissionCounts {
    /// Notes that one who was arriving is so no longer.
    pub(super) fn has_arrived(&mut self, is_beyond: bool) {
        self.arriving -= 1;
        self.beyond -= usize::from(is_beyond);
    }
}
