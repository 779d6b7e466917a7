//! Who may come: the one place that decides whether a client gets a place, and in which group.
//!
//! A place is a [`ClientPermit`]; a client cannot be served without one, and it gives the place back on drop, once. What is
//! refused is a [`AdmissionRefusal`], which says why in words for the log and in Redis' words for the client.
//!
//! Invariants: the counts are exactly the live permits. No group in mode `enforce` and no key of it ever exceeds its
//! cap, and all groups together, with those in their handshake and those arriving, never exceed `limits.max_clients`, in
//! mode `observe` too; only a reload can put those who are there already above a cap ([`Admission::reload`]). Past
//! `limits.max_clients` there are at most `limits.operator_places` more.
//!
//! One lock guards the counts. It is taken when a client comes, leaves or changes its name, never for a command. Time
//! is passed in.

mod arriving;
mod bucket;
mod damping;
mod handshake;
mod hold;
mod key;
mod log_line;
mod permit;
mod refusal;
mod tally;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::config::{AtLimit, CapMode, CapScope, ClientGroup, GroupMatch, Settings};
use crate::identity::{Identity, PeerAddress};

use arriving::NewcomerRules;
use damping::DampedReason;
use damping::EvictionDamping;
pub use handshake::HandshakePermit;
pub use hold::HoldPermit;
use key::CountKey;
use log_line::LineThrottle;
use log_line::LogLine;
pub use permit::ClientPermit;
use refusal::PlaceShortfall;
pub use refusal::{AdmissionRefusal, RefusalReason};
use tally::{GroupTally, TakenPlace};

/// Identifies a group by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(u16);

impl GroupId {
    /// Returns its index in `Settings::groups`.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Holds what admission goes by of a group.
#[derive(Debug)]
struct GroupRule {
    name: Arc<str>,
    matches: GroupMatch,
    per: CapScope,
    cap: Option<usize>,
    warn: Option<usize>,
    connects_per_second: Option<u32>,
    at_limit: AtLimit,
    damping: EvictionDamping,
    mode: CapMode,
}

impl GroupRule {
    fn new(group: &ClientGroup) -> Self {
        Self {
            name: Arc::from(group.name.as_str()),
            matches: group.matches.clone(),
            per: group.per,
            cap: group.max_connections,
            warn: group.warn_connections,
            connects_per_second: group.max_connects_per_second,
            at_limit: group.at_limit,
            damping: EvictionDamping {
                pause: group.evict_pause,
                per_second: group.max_evictions_per_second,
            },
            mode: group.mode,
        }
    }

    fn takes(&self, identity: &Identity) -> bool {
        let wanted = &self.matches;
        self.takes_by_origin(identity)
            && wanted
                .client_name
                .as_ref()
                .is_none_or(|glob| glob.0.is_match(as_path(&identity.name)))
            && wanted
                .user
                .as_ref()
                .is_none_or(|glob| glob.0.is_match(as_path(identity.shown_user())))
    }

    /// Tells whether it takes this client as far as that is known when it has connected.
    fn takes_by_origin(&self, identity: &Identity) -> bool {
        let wanted = &self.matches;
        (wanted.address.is_empty()
            || address_of(&identity.peer)
                .is_some_and(|ip| wanted.address.iter().any(|net| net.contains(&ip))))
            && wanted
                .listener
                .as_ref()
                .is_none_or(|glob| glob.0.is_match(&*identity.listener))
            && wanted.certificate_name.as_ref().is_none_or(|glob| {
                !identity.certificate.is_empty() && glob.0.is_match(&*identity.certificate)
            })
    }
}

/// Makes bytes a path, since globs match paths; on unix a path is any bytes.
fn as_path(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Returns the peer's IP address; an IPv4 client of a dual-stack listener has its IPv4 address.
fn address_of(peer: &PeerAddress) -> Option<IpAddr> {
    match peer {
        PeerAddress::Tcp(address) => Some(address.ip().to_canonical()),
        PeerAddress::Unix(_) => None,
    }
}

/// Says where a client counts: in its group, under its key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GroupPlace {
    group: GroupId,
    key: CountKey,
    /// The plan by which the place was given has this number.
    generation: u64,
}

impl GroupPlace {
    fn is_at(&self, other: &Self) -> bool {
        self.group == other.group && self.key == other.key
    }
}

/// Decides who may come. It is shared by all threads.
#[derive(Debug)]
pub struct Admission {
    plan: ArcSwap<AdmissionPlan>,
    counts: Mutex<AdmissionCounts>,
}

/// Says what the settings have of admission, as of one reload.
#[derive(Debug)]
struct AdmissionPlan {
    /// Holds the rules by group.
    rules: Vec<GroupRule>,
    /// Lists the groups in order of matching. Invariant: at least one, and the last takes everyone.
    order: Vec<GroupId>,
    max_clients: usize,
    max_rejected: usize,
    reject_hold: Duration,
    welcome: NewcomerRules,
    /// Grows with each reload.
    generation: u64,
}

#[derive(Debug)]
struct AdmissionCounts {
    /// Counts who is admitted.
    total: usize,
    /// Counts who is in a handshake after which they may be admitted.
    handshaking: usize,
    /// Counts who is arriving: they have not asked for anything that a place is needed for.
    arriving: usize,
    /// Counts those arriving beyond `limits.max_clients`: they are in an operator's place until it is known whose they are.
    beyond: usize,
    /// Counts the operators in the places kept for them.
    operators: usize,
    /// Counts the newcomers that were placed at once because `limits.max_arriving` were arriving.
    unheard: u64,
    unheard_lines: LineThrottle,
    /// Counts who is rejected and held.
    held: usize,
    /// Counts those held that are in a handshake.
    shaking: usize,
    /// The plan by which places are given now has this number.
    generation: u64,
    /// Counts the places given by an older plan, of clients that have not been moved yet.
    stale: usize,
    groups: Vec<GroupTally>,
}

impl AdmissionPlan {
    fn new(settings: &Settings, generation: u64) -> Self {
        let id = |&index: &usize| GroupId(u16::try_from(index).unwrap_or(u16::MAX));
        Self {
            rules: settings.groups.iter().map(GroupRule::new).collect(),
            order: settings.order.iter().map(id).collect(),
            max_clients: settings.limits.max_clients,
            max_rejected: settings.limits.max_rejected,
            reject_hold: settings.limits.reject_hold,
            welcome: NewcomerRules::new(settings),
            generation,
        }
    }

    fn group_of(&self, identity: &Identity) -> GroupId {
        let takes = |group: &&GroupId| self.rule(**group).takes(identity);
        let taken = self.order.iter().find(takes).or(self.order.last());
        taken.copied().unwrap_or(GroupId(0))
    }

    fn place_of(&self, identity: &Identity) -> GroupPlace {
        let group = self.group_of(identity);
        let per = self.rule(group).per;
        GroupPlace {
            group,
            key: CountKey::of(per, &identity.peer, &identity.name, &identity.user),
            generation: self.generation,
        }
    }

    fn rule(&self, group: GroupId) -> &GroupRule {
        &self.rules[group.index()]
    }

    fn refusal(&self, place: &GroupPlace, shortfall: PlaceShortfall) -> AdmissionRefusal {
        AdmissionRefusal::new(self.rule(place.group), place, shortfall)
    }

    /// Checks whether all groups together have room for one more.
    fn has_room(
        &self,
        counts: &AdmissionCounts,
        place: &GroupPlace,
    ) -> Result<(), AdmissionRefusal> {
        let count = counts.below_max_clients();
        if count < self.max_clients {
            return Ok(());
        }
        let shortfall = PlaceShortfall {
            reason: RefusalReason::MaxClients,
            count,
            cap: self.max_clients,
            evict: false,
            damped: None,
        };
        Err(self.refusal(place, shortfall))
    }

    fn enter(
        &self,
        counts: &mut AdmissionCounts,
        place: &GroupPlace,
        identity: &Identity,
        now: Instant,
    ) -> Result<TakenPlace, AdmissionRefusal> {
        self.move_in(counts, place, (identity, now), true)
    }

    /// Takes a place in a group; without `is_accepted`, for one that was in the group before.
    fn move_in(
        &self,
        counts: &mut AdmissionCounts,
        place: &GroupPlace,
        (identity, now): (&Identity, Instant),
        is_accepted: bool,
    ) -> Result<TakenPlace, AdmissionRefusal> {
        let who = || self.returner(identity);
        let entry = counts.groups[place.group.index()]
            .enter(self.rule(place.group), &place.key, now, who)
            .map_err(|shortfall| self.refusal(place, shortfall))?;
        counts.total += 1;
        counts.groups[place.group.index()].accepted += u64::from(is_accepted);
        Ok(entry)
    }
}

impl Admission {
    /// Makes the admission by these settings, with nobody admitted.
    pub fn new(settings: &Settings) -> Arc<Self> {
        let max_clients = settings.limits.max_clients;
        let tallies = settings.groups.iter().map(|_| GroupTally::new(max_clients));
        Arc::new(Self {
            plan: ArcSwap::from_pointee(AdmissionPlan::new(settings, 0)),
            counts: Mutex::new(AdmissionCounts {
                total: 0,
                handshaking: 0,
                arriving: 0,
                beyond: 0,
                operators: 0,
                unheard: 0,
                unheard_lines: LineThrottle::default(),
                held: 0,
                shaking: 0,
                generation: 0,
                stale: 0,
                groups: tallies.collect(),
            }),
        })
    }

    /// Goes by these settings from now on, in which every group has the index it had. Nobody loses a place: each client
    /// is to be moved by [`ClientPermit::reassign`], whatever the caps say.
    pub fn reload(&self, settings: &Settings) {
        let mut counts = self.counts();
        counts.generation += 1;
        counts.stale = counts.total;
        let max_clients = settings.limits.max_clients;
        for group in &mut counts.groups {
            group.set_max_vacant(max_clients);
        }
        counts
            .groups
            .resize_with(settings.groups.len(), || GroupTally::new(max_clients));
        let plan = AdmissionPlan::new(settings, counts.generation);
        // Under the lock: places are given by the plan of the generation that is counted.
        self.plan.store(Arc::new(plan));
    }

    /// Counts the clients that have not been moved to where the last reload puts them.
    pub fn stale(&self) -> usize {
        self.counts().stale
    }

    /// Lists what is past its cap after a reload, and by how many: groups and keys in mode `enforce`, and all clients together.
    pub fn excess(&self) -> Vec<(AdmissionRefusal, usize)> {
        let plan = self.plan.load();
        let counts = self.counts();
        let mut found = Vec::new();
        for &group in &plan.order {
            let rule = plan.rule(group);
            let Some(cap) = rule.cap.filter(|_| rule.mode == CapMode::Enforce) else {
                continue;
            };
            for (key, count) in counts.groups[group.index()].above(cap) {
                let place = GroupPlace {
                    group,
                    key,
                    generation: plan.generation,
                };
                let shortfall = PlaceShortfall {
                    reason: RefusalReason::GroupCap,
                    count,
                    cap,
                    evict: false,
                    damped: None,
                };
                found.push((plan.refusal(&place, shortfall), count - cap));
            }
        }
        found
    }

    /// Counts the clients above `limits.max_clients`, which a reload can lower.
    pub fn excess_in_all(&self) -> usize {
        let max_clients = self.plan.load().max_clients;
        self.counts().total.saturating_sub(max_clients)
    }

    /// Returns the group of a client: the first that matches.
    pub fn group_of(&self, identity: &Identity) -> GroupId {
        self.plan.load().group_of(identity)
    }

    /// Gives a newcomer a place. What is refused is not counted yet: see [`Admission::rejected`].
    ///
    /// # Errors
    /// It returns a [`AdmissionRefusal`]; when its `evict` is set the caller may close one client for which [`AdmissionRefusal::frees`] holds and ask again.
    pub fn admit(
        self: &Arc<Self>,
        identity: &Identity,
        now: Instant,
    ) -> Result<ClientPermit, AdmissionRefusal> {
        let (plan, mut counts, place) = self.decide(identity);
        plan.has_room(&counts, &place)?;
        let entry = plan.enter(&mut counts, &place, identity, now)?;
        drop(counts);
        Ok(self.permit(&plan, place, entry))
    }

    /// Returns what gives back the place that has been taken.
    fn permit(
        self: &Arc<Self>,
        plan: &AdmissionPlan,
        place: GroupPlace,
        entry: TakenPlace,
    ) -> ClientPermit {
        let mut permit = ClientPermit::new(self, place.group, plan.generation);
        permit.take_place(plan, place, entry);
        permit
    }

    /// Counts a refusal that is final, once, and says whether to log it: at most one line for each group in ten
    /// seconds.
    pub fn rejected(&self, refusal: &AdmissionRefusal, now: Instant) -> Option<LogLine> {
        self.counts().groups[refusal.group.index()].reject(refusal, now)
    }

    /// Counts an eviction by which `refusal` was averted, of the client that is `victim`, and says whether to log it.
    pub fn evicted(
        &self,
        refusal: &AdmissionRefusal,
        victim: &Identity,
        now: Instant,
    ) -> Option<LogLine> {
        let (plan, mut counts, _) = self.decide(victim);
        let group = refusal.group;
        counts.groups[group.index()].evicted(plan.returner(victim), plan.rule(group), now)
    }

    /// Returns how many clients count in `limits.max_clients`, and how many may.
    pub fn fill(&self) -> (usize, usize) {
        let max_clients = self.plan.load().max_clients;
        (self.counts().below_max_clients(), max_clients)
    }

    /// Counts the clients admitted in all groups.
    pub fn total(&self) -> usize {
        self.counts().total
    }

    /// Counts the rejected sockets held.
    pub fn held(&self) -> usize {
        self.counts().held
    }

    /// Tells whether there is no place left where this client is: in the process, in its group or under its key.
    pub fn is_full(&self, identity: &Identity) -> bool {
        let (plan, counts, place) = self.decide(identity);
        let here = counts.groups[place.group.index()].count(&place.key);
        let cap = plan.rule(place.group).cap;
        counts.below_max_clients() >= plan.max_clients || cap.is_some_and(|cap| here >= cap)
    }

    /// Returns a row for each group, by its index; those that a reload removed have no cap and keep what they counted.
    pub fn rows(&self) -> Vec<GroupFigures> {
        let plan = self.plan.load();
        let counts = self.counts();
        let row = |(rule, tallies): (&GroupRule, &GroupTally)| GroupFigures {
            name: Arc::clone(&rule.name),
            per: rule.per,
            mode: rule.mode,
            connections: tallies.connections,
            fullest: tallies.fullest(),
            fullest_key: match rule.per {
                CapScope::Group => None,
                _ => tallies.fullest_key().and_then(|(key, _)| key.shown()),
            },
            keys_at_limit: rule.cap.map_or(0, |cap| tallies.keys_from(cap)),
            keys_at_warn: rule.warn.map_or(0, |warn| tallies.keys_from(warn)),
            limit: rule.cap,
            warn: rule.warn,
            accepted_total: tallies.accepted,
            evicted_total: tallies.evictions.total,
            damped_total: DampedReason::ALL.map(|damped| (damped, tallies.damped[damped as usize])),
            rejected_total: RefusalReason::ALL
                .map(|reason| (reason, tallies.rejected[reason as usize])),
            observed_total: RefusalReason::ALL
                .map(|reason| (reason, tallies.observed[reason as usize])),
        };
        plan.rules.iter().zip(&counts.groups).map(row).collect()
    }

    /// Returns the up to `most` keys (addresses, names or users) of a group with most clients, the fullest first, in words.
    #[cfg(test)]
    fn fullest_keys(&self, group: GroupId, most: usize) -> Vec<(String, usize)> {
        let mut keys = self.counts().groups[group.index()].keys();
        keys.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        keys.truncate(most);
        keys
    }

    /// Returns the place of a client, with the plan it is by and the counts under their lock: no reload comes between.
    fn decide(
        &self,
        identity: &Identity,
    ) -> (
        Arc<AdmissionPlan>,
        MutexGuard<'_, AdmissionCounts>,
        GroupPlace,
    ) {
        loop {
            let plan = self.plan.load_full();
            let place = plan.place_of(identity);
            let counts = self.counts();
            if counts.generation == plan.generation {
                return (plan, counts, place);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, AdmissionCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdmissionCounts {
    /// Counts those who count in `limits.max_clients`.
    fn below_max_clients(&self) -> usize {
        self.total + self.handshaking + self.arriving - self.beyond
    }

    /// Gives back `place` in its group; the client still counts among all.
    fn leave(&mut self, place: &GroupPlace) {
        self.settle(place);
        self.groups[place.group.index()].leave(&place.key);
    }

    /// Notes that whoever had `place` need not be moved any more.
    fn settle(&mut self, place: &GroupPlace) {
        if place.generation != self.generation {
            self.stale -= 1;
        }
    }
}

/// Holds the figures of one group.
#[derive(Debug, Clone)]
pub struct GroupFigures {
    /// Names the group as the configuration does.
    pub name: Arc<str>,
    /// Says what its cap counts.
    pub per: CapScope,
    /// Says whether the cap is enforced.
    pub mode: CapMode,
    /// Counts the clients in it.
    pub connections: usize,
    /// Counts the clients of the key that has most; the whole group when it is counted as one.
    pub fullest: usize,
    /// Says in words which key that is; `None`: the group is counted as one, or is empty.
    pub fullest_key: Option<String>,
    /// Counts the keys at the cap or past it.
    pub keys_at_limit: usize,
    /// Counts the keys at the warning threshold or past it.
    pub keys_at_warn: usize,
    /// Says how many each key may have, as configured.
    pub limit: Option<usize>,
    /// Says from how many of a key on a warning is given, as configured.
    pub warn: Option<usize>,
    /// Counts the clients that got a place in it, by connecting or by moving in.
    pub accepted_total: u64,
    /// Counts the clients closed to make room for others.
    pub evicted_total: u64,
    /// Counts the clients refused because nobody was evicted for them, by the reason.
    pub damped_total: [(DampedReason, u64); 2],
    /// Counts the clients refused, by reason.
    pub rejected_total: [(RefusalReason, u64); 3],
    /// Counts the clients admitted that mode `enforce` would have refused, by reason.
    pub observed_total: [(RefusalReason, u64); 3],
}

#[cfg(test)]
mod tests;
