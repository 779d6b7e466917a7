//! The steps in which it is changed who may connect by the file of a socket, and how what was begun is undone.
//!
//! Invariant: nobody is let in who might not connect before, until nothing of the whole reload can be refused any more, and
//! then nobody who may neither before nor after. Left out are those who could let themselves in anyway: respool's own user and
//! the owner before, and in the last steps the owner after.

use std::fmt;

use crate::config::AccessSettings;

/// Holds the mode and the owners of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileAccess {
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
}

impl FileAccess {
    /// Returns what `wanted` says, and what is here where that says nothing.
    pub(super) fn overlaid(self, wanted: &AccessSettings) -> Self {
        Self {
            mode: wanted.mode.unwrap_or(self.mode),
            owner: wanted.owner.unwrap_or(self.owner),
            group: wanted.group.unwrap_or(self.group),
        }
    }

    /// Returns where it is another than `other`; the rest is `None`.
    pub(super) fn unlike(self, other: Self) -> AccessSettings {
        let only = |mine: u32, other: u32| Some(mine).filter(|mine| *mine != other);
        AccessSettings {
            mode: only(self.mode, other.mode),
            owner: only(self.owner, other.owner),
            group: only(self.group, other.group),
        }
    }
}

impl fmt::Display for FileAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, group) = (self.owner, self.group);
        write!(f, "mode {:04o}, owner {owner}, group {group}", self.mode)
    }
}

/// Is one call that changes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessStep {
    Mode(u32),
    Owner(u32),
    Group(u32),
}

impl AccessStep {
    /// Tells what of a file that is `at` becomes by it.
    fn of(self, at: FileAccess) -> FileAccess {
        match self {
            Self::Mode(mode) => FileAccess { mode, ..at },
            Self::Owner(owner) => FileAccess { owner, ..at },
            Self::Group(group) => FileAccess { group, ..at },
        }
    }
}

/// Lists the steps from `now` to `next` for a file by which nobody can connect yet. It is given away last, since only
/// its owner changes its mode.
pub(super) fn outright(now: FileAccess, next: FileAccess) -> Vec<AccessStep> {
    let changed = next.unlike(now);
    let group = changed.group.map(AccessStep::Group);
    let mode = changed.mode.map(AccessStep::Mode);
    let owner = changed.owner.map(AccessStep::Owner);
    [group, mode, owner].into_iter().flatten().collect()
}

/// Plans how one file is changed while clients connect by it.
#[derive(Debug)]
pub(super) struct AccessPlan {
    pub(super) before: FileAccess,
    pub(super) next: FileAccess,
    /// Owns it until it is given away for good, so that its mode can be changed.
    holder: u32,
    /// It has this mode until then: it lets in nobody whom `before` does not, nor whom `next` does not, whichever of the owners
    /// and groups it has.
    narrow: u32,
}

impl AccessPlan {
    /// Plans from `before` to `next`, by user `me`, who may set the file's mode as it is now, or may not.
    pub(super) fn new(before: FileAccess, next: FileAccess, me: u32, may_set_mode: bool) -> Self {
        let holder = match may_set_mode && next.owner != me {
            true => before.owner,
            false => me,
        };
        Self {
            before,
            next,
            holder,
            narrow: narrow(before, next, holder),
        }
    }

    /// Lists the steps that let in nobody who might not connect before, and can be undone. What could be refused later
    /// on is tried here: a file is given to its owner to be, and taken back, since no mode is set of another's file.
    fn first(&self) -> Vec<AccessStep> {
        let (before, next) = (self.before, self.next);
        let mut steps = Vec::new();
        if self.holder != before.owner {
            steps.push(AccessStep::Owner(self.holder));
        }
        if self.narrow != before.mode {
            steps.push(AccessStep::Mode(self.narrow));
        }
        if next.owner != self.holder && next.owner != before.owner {
            steps.extend([
                AccessStep::Owner(next.owner),
                AccessStep::Owner(self.holder),
            ]);
        }
        steps
    }

    /// Returns the step that gives it to its group to be, if that is another. It comes after the rest of all files: who
    /// may give a file to a group that it is in may not give it back to one that it is not in.
    fn group(&self) -> Option<AccessStep> {
        let changed = self.next.unlike(self.before);
        changed.group.map(AccessStep::Group)
    }

    /// Tells from which group to which it is given, if to another, and who owns it then.
    pub(super) fn regrouped(&self) -> Option<(u32, u32, u32)> {
        let (from, to) = (self.before.group, self.next.group);
        (from != to).then_some((from, to, self.holder))
    }

    /// Lists the steps that let in who may connect from now on.
    fn last(&self) -> Vec<AccessStep> {
        let mode = (self.next.mode != self.narrow).then_some(AccessStep::Mode(self.next.mode));
        let owner = (self.next.owner != self.holder).then_some(AccessStep::Owner(self.next.owner));
        mode.into_iter().chain(owner).collect()
    }

    /// Takes away what is to be taken away, and tries whether it can be given to its owner to be.
    ///
    /// # Errors
    /// The step that was refused: those before it have been taken, and can be undone.
    pub(super) fn begin<E>(
        &self,
        mut take: impl FnMut(AccessStep) -> Result<(), E>,
    ) -> Result<(), (AccessStep, E)> {
        let mut steps = self.first().into_iter();
        steps.try_for_each(|step| take(step).map_err(|error| (step, error)))
    }

    /// Gives it to its group to be.
    ///
    /// # Errors
    /// The step that was refused: what was begun is to be undone.
    pub(super) fn regroup<E>(
        &self,
        mut take: impl FnMut(AccessStep) -> Result<(), E>,
    ) -> Result<(), (AccessStep, E)> {
        let mut steps = self.group().into_iter();
        steps.try_for_each(|step| take(step).map_err(|error| (step, error)))
    }

    /// Lets in who may connect from now on. Returns the steps that were refused.
    pub(super) fn finish<E>(
        &self,
        mut take: impl FnMut(AccessStep) -> Result<(), E>,
    ) -> Vec<(AccessStep, E)> {
        let refused = |step| take(step).err().map(|error| (step, error));
        self.last().into_iter().filter_map(refused).collect()
    }

    /// Makes it what it was before, as far as that goes: it is `at` now, and not finished. Returns the steps that were
    /// refused; then it lets in fewer than before, and its owner as before where that is in its hands.
    pub(super) fn undo<E>(
        &self,
        at: FileAccess,
        mut take: impl FnMut(AccessStep) -> Result<(), E>,
    ) -> Vec<(AccessStep, E)> {
        let (before, mut refused, mut now) = (self.before, Vec::new(), at);
        if at == before {
            return refused;
        }
        let mut try_to = |step: AccessStep| {
            let is_due = step.of(now) != now;
            match is_due.then(|| take(step)) {
                Some(Ok(())) => now = step.of(now),
                Some(Err(error)) => refused.push((step, error)),
                None => {}
            }
            now
        };
        try_to(AccessStep::Owner(self.holder));
        let grouped = try_to(AccessStep::Group(before.group));
        try_to(AccessStep::Mode(self.kept(grouped)));
        if before.owner != self.holder {
            try_to(AccessStep::Owner(before.owner));
        }
        refused
    }

    /// Tells what the mode may be of a file that is `at` while it is undone: all that it was before, but for classes
    /// that others may be in than before.
    fn kept(&self, at: FileAccess) -> u32 {
        let before = self.before;
        let is_in_hand = at.owner == before.owner || at.owner == self.holder;
        before.mode & of_classes(before.mode, !is_in_hand, at.group != before.group)
    }

    /// Tells which setting `step` was taken for.
    pub(super) fn wanted_by(&self, step: AccessStep) -> AccessStep {
        let changed = self.next.unlike(self.before);
        let owner = changed.owner.map(AccessStep::Owner);
        match step {
            AccessStep::Group(_) => step,
            AccessStep::Owner(_) if owner == Some(step) => step,
            _ => {
                let mode = changed.mode.map(AccessStep::Mode);
                let group = changed.group.map(AccessStep::Group);
                mode.or(group).or(owner).unwrap_or(step)
            }
        }
    }
}

/// Returns what of a mode may stay while the file changes hands: it lets in nobody who may not before as well as after.
fn narrow(before: FileAccess, next: FileAccess, holder: u32) -> u32 {
    let is_owner_new = next.owner != before.owner || holder != before.owner;
    let kept = |mode: u32| mode & of_classes(mode, is_owner_new, next.group != before.group);
    kept(before.mode) & kept(next.mode)
}

/// Returns, of `mode`, what lets in nobody else where the owner or the group is another: whoever comes to be in another
/// class than before was let in there as well.
fn of_classes(mode: u32, is_owner_new: bool, is_group_new: bool) -> u32 {
    let class = |shift: u32| mode >> shift & 0o7;
    let (members, others) = (class(3), class(0));
    let (mut of_owner, mut of_members, mut of_others) = (0o7, 0o7, 0o7);
    if is_owner_new {
        of_owner = members & others;
    }
    if is_group_new {
        of_members = others;
        of_others = members;
    }
    of_owner << 6 | of_members << 3 | of_others
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Respool runs as this user.
    const ME: u32 = 1;

    /// Lists the file's group before, and another.
    const GROUPS: [u32; 2] = [1, 2];

    /// Modes in which each class may connect or not.
    fn modes() -> impl Iterator<Item = u32> {
        let bit = |bits: u32, from: u32, to: u32| if bits & from != 0 { to } else { 0 };
        (0..8).map(move |bits| bit(bits, 1, 0o600) | bit(bits, 2, 0o060) | bit(bits, 4, 0o006))
    }

    /// Lists every change of one file.
    fn changes() -> Vec<(FileAccess, FileAccess)> {
        let mut changes = Vec::new();
        for (mode, next_mode) in modes().flat_map(|one| modes().map(move |other| (one, other))) {
            for (owner, next_owner) in [(1, 1), (1, 3), (2, 2), (2, 1), (2, 3)] {
                for group in GROUPS {
                    let file = |mode, owner, group| FileAccess { mode, owner, group };
                    changes.push((
                        file(mode, owner, GROUPS[0]),
                        file(next_mode, next_owner, group),
                    ));
                }
            }
        }
        changes
    }

    /// Plans all of them by [`ME`], who may change the mode of others' files or may not.
    fn plans() -> Vec<AccessPlan> {
        let plans_of = |(before, next): (FileAccess, FileAccess)| {
            let plan = move |may_set_mode| AccessPlan::new(before, next, ME, may_set_mode);
            let other = (before.owner != ME).then(|| plan(false));
            [plan(true)].into_iter().chain(other)
        };
        changes().into_iter().flat_map(plans_of).collect()
    }

    /// Begins all of it.
    fn begin<E>(
        plan: &AccessPlan,
        mut take: impl FnMut(AccessStep) -> Result<(), E>,
    ) -> Result<(), (AccessStep, E)> {
        plan.begin(&mut take)?;
        plan.regroup(&mut take)
    }

    /// Counts the steps that [`begin`] takes.
    fn steps_of(plan: &AccessPlan) -> u32 {
        (plan.first().len() + plan.group().iter().len()) as u32
    }

    /// Stands for somebody who is neither respool nor an owner of the file before.
    #[derive(Debug, Clone, Copy)]
    struct Somebody {
        user: u32,
        /// Tells whether in each of [`GROUPS`].
        is_in: [bool; 2],
    }

    impl Somebody {
        fn all() -> impl Iterator<Item = Self> {
            // The owner to be, and a stranger.
            [3, 4].into_iter().flat_map(|user| {
                let of = move |is_in| Self { user, is_in };
                [[false, false], [true, false], [false, true], [true, true]].map(of)
            })
        }

        fn may_connect(self, at: FileAccess) -> bool {
            let is_in = |(group, is_in): (u32, bool)| is_in && at.group == group;
            let class = if self.user == at.owner {
                0o200
            } else if GROUPS.into_iter().zip(self.is_in).any(is_in) {
                0o020
            } else {
                0o002
            };
            at.mode & class != 0
        }
    }

    /// Follows a file that is changed, and all that it has been. Of the steps those of which the bit is set are refused.
    struct Changed {
        at: FileAccess,
        was: Vec<FileAccess>,
        steps: u32,
        refused: u32,
    }

    impl Changed {
        fn new(at: FileAccess, refused: u32) -> Self {
            Self {
                at,
                was: vec![at],
                steps: 0,
                refused,
            }
        }

        fn take(&mut self, step: AccessStep) -> Result<(), ()> {
            self.steps += 1;
            if self.refused >> (self.steps - 1) & 1 != 0 {
                return Err(());
            }
            self.at = step.of(self.at);
            self.was.push(self.at);
            Ok(())
        }
    }

    /// Asserts that nobody might at any time connect by `was` who may by none of `allowed`, but for the owner of one of these.
    #[track_caller]
    fn assert_lets_in_only(was: &[FileAccess], allowed: &[FileAccess], plan: &AccessPlan) {
        let owns = |one: &Somebody| allowed.iter().any(|at| at.owner == one.user);
        for somebody in Somebody::all().filter(|one| !owns(one)) {
            let may = |at: &FileAccess| somebody.may_connect(*at);
            assert!(
                allowed.iter().any(may) || !was.iter().any(may),
                "{somebody:?}: {plan:?} by way of {was:?}"
            );
        }
    }

    #[test]
    fn whatever_is_refused_lets_in_nobody_who_might_not_connect_before() {
        for plan in plans() {
            let first = steps_of(&plan);
            // None of its own, as where another file's is: all is undone then.
            for begun in 0..=first {
                // Undoing takes four steps at most.
                for undone in 0..16 {
                    let of_its_own = if begun < first { 1 << begun } else { 0 };
                    let refused = of_its_own | undone << (begun + 1).min(first);
                    let mut file = Changed::new(plan.before, refused);
                    let done = begin(&plan, |step| file.take(step));
                    assert_eq!(done.is_ok(), begun == first);
                    let at = file.at;
                    let wrong = plan.undo(at, |step| file.take(step));
                    assert_lets_in_only(&file.was, &[plan.before], &plan);
                    assert!(!wrong.is_empty() || file.at == plan.before, "{plan:?}");
                }
            }
        }
    }

    /// Says what the kernel lets [`ME`] do.
    #[derive(Debug, Clone, Copy)]
    struct Kernel {
        gives_away: bool,
        sets_modes: bool,
        /// Tells whether it is in each of [`GROUPS`].
        is_in: [bool; 2],
    }

    impl Kernel {
        fn all() -> impl Iterator<Item = Self> {
            (0..16).map(|bits: u32| Self {
                gives_away: bits & 1 != 0,
                sets_modes: bits & 2 != 0,
                is_in: [bits & 4 != 0, bits & 8 != 0],
            })
        }

        fn take(self, at: &mut FileAccess, step: AccessStep) -> Result<(), ()> {
            let (is_ours, is_same) = (at.owner == ME, step.of(*at) == *at);
            let is_in = |wanted: u32| {
                GROUPS
                    .into_iter()
                    .zip(self.is_in)
                    .any(|one| one == (wanted, true))
            };
            let may = match step {
                AccessStep::Mode(_) => is_ours || self.sets_modes,
                AccessStep::Owner(_) => self.gives_away || is_ours && is_same,
                AccessStep::Group(group) => self.gives_away || is_ours && (is_same || is_in(group)),
            };
            may.then(|| *at = step.of(*at)).ok_or(())
        }

        /// Tells whether nothing hinders that a file that is `at` becomes `next`.
        fn lets(self, at: FileAccess, next: FileAccess) -> bool {
            let changed = next.unlike(at);
            let (mode, owner) = (
                changed.mode.map(AccessStep::Mode),
                changed.owner.map(AccessStep::Owner),
            );
            let steps = [mode, changed.group.map(AccessStep::Group), owner];
            let alone = |step| self.take(&mut at.clone(), step).is_ok();
            steps.into_iter().flatten().all(alone)
        }

        fn plan(self, before: FileAccess, next: FileAccess) -> AccessPlan {
            AccessPlan::new(before, next, ME, before.owner == ME || self.sets_modes)
        }
    }

    #[test]
    fn a_refused_reload_leaves_respools_own_user_as_it_was_whenever_the_kernel_lets_it() {
        let with_kernel = |change| Kernel::all().map(move |kernel| (change, kernel));
        for ((before, next), kernel) in changes().into_iter().flat_map(with_kernel) {
            let plan = kernel.plan(before, next);
            let mut at = before;
            let begun = begin(&plan, |step| kernel.take(&mut at, step));
            let now = at;
            let wrong = plan.undo(now, |step| kernel.take(&mut at, step));
            let told = || format!("{kernel:?}: {plan:?}: {at:?}");
            // Of its own nothing is refused after what cannot be undone; of another file something may be.
            assert!(begun.is_ok() || at == before, "{}", told());
            assert_eq!(wrong.is_empty(), at == before, "{}", told());
            let is_given_back = kernel.gives_away || kernel.is_in[0] || next.group == before.group;
            assert!(!is_given_back || at == before, "{}", told());
            assert_eq!(at.owner, before.owner, "{}", told());
            assert_eq!(at.mode & 0o700, before.mode & 0o700, "{}", told());
            // And what is written next is had.
            let group = at.group;
            for next in [next, FileAccess { group, ..before }] {
                let (mut at, plan) = (at, kernel.plan(at, next));
                if at != next && kernel.lets(at, next) {
                    let begun = begin(&plan, |step| kernel.take(&mut at, step));
                    let wrong = plan.finish(|step| kernel.take(&mut at, step));
                    assert!(begun.is_ok() && wrong.is_empty(), "{kernel:?}: {plan:?}");
                    assert_eq!(at, next, "{kernel:?}: {plan:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_is_let_in_who_may_neither_before_nor_after() {
        for plan in plans() {
            for refused in 0..4 {
                let mut file = Changed::new(plan.before, refused << steps_of(&plan));
                begin(&plan, |step| file.take(step)).expect("not refused");
                assert_lets_in_only(&file.was, &[plan.before], &plan);
                let wrong = plan.finish(|step| file.take(step));
                assert_eq!(wrong.is_empty(), file.at == plan.next, "{plan:?}");
                assert_lets_in_only(&file.was, &[plan.before, plan.next], &plan);
            }
        }
    }

    #[test]
    fn who_connects_once_it_is_begun_may_before_and_after() {
        for plan in plans() {
            let mut file = Changed::new(plan.before, 0);
            plan.begin(|step| file.take(step)).expect("not refused");
            let begun = file.at;
            plan.regroup(|step| file.take(step)).expect("not refused");
            for at in [begun, file.at] {
                assert_lets_in_only(&[at], &[plan.before], &plan);
                let owns = |one: &Somebody| one.user == plan.before.owner;
                for one in Somebody::all().filter(|one| !owns(one) && one.user != plan.next.owner) {
                    let may = |at| one.may_connect(at);
                    assert!(!may(at) || may(plan.next), "{one:?}: {plan:?}");
                }
            }
        }
    }

    #[test]
    fn a_mode_is_set_only_while_that_is_permitted() {
        for plan in plans() {
            let (may_set, me) = (plan.holder == plan.before.owner, ME);
            let mut file = Changed::new(plan.before, 0);
            let mut take = |step| {
                let is_ours =
                    file.at.owner == me || (may_set && file.at.owner == plan.before.owner);
                assert!(is_ours || !matches!(step, AccessStep::Mode(_)), "{plan:?}");
                file.take(step)
            };
            begin(&plan, &mut take).expect("not refused");
            plan.finish(&mut take);
        }
    }

    #[test]
    fn who_may_before_and_after_may_meanwhile_where_the_file_stays_in_its_hands() {
        for plan in plans() {
            let is_in_hand = plan.before.group == plan.next.group
                && plan.before.owner == plan.next.owner
                && plan.holder == plan.before.owner;
            let mut file = Changed::new(plan.before, 0);
            begin(&plan, |step| file.take(step)).expect("not refused");
            plan.finish(|step| file.take(step));
            for somebody in Somebody::all().filter(|_| is_in_hand) {
                let may = |at| somebody.may_connect(at);
                let is_kept = may(plan.before) && may(plan.next);
                assert!(!is_kept || file.was.iter().all(|at| may(*at)), "{plan:?}");
            }
        }
    }

    #[test]
    fn a_file_is_taken_first_and_given_away_last() {
        let of = |mode, owner| FileAccess {
            mode,
            owner,
            group: 1,
        };
        let (mode, owner) = (AccessStep::Mode, AccessStep::Owner);
        let plan = |before, next| AccessPlan::new(before, next, ME, false);
        let given = plan(of(0o600, ME), of(0o660, 2));
        assert_eq!(given.first(), [mode(0), owner(2), owner(ME)]);
        assert_eq!(given.last(), [mode(0o660), owner(2)]);
        let taken = plan(of(0o660, 2), of(0o600, ME));
        assert_eq!(taken.first(), [owner(ME), mode(0)]);
        assert_eq!(taken.last(), [mode(0o600)]);
        let outright = outright(of(0o600, ME), of(0o660, 2));
        assert_eq!(outright, [mode(0o660), owner(2)]);
    }

    #[test]
    fn a_step_on_the_way_is_told_as_what_it_was_for() {
        let before = FileAccess {
            mode: 0o660,
            owner: 2,
            group: 1,
        };
        let to = |mode, group| {
            let next = FileAccess {
                mode,
                group,
                ..before
            };
            AccessPlan::new(before, next, ME, false)
        };
        let mode = to(0o600, 1);
        assert_eq!(
            mode.wanted_by(AccessStep::Owner(ME)),
            AccessStep::Mode(0o600)
        );
        let group = to(0o660, 2);
        assert_eq!(group.wanted_by(AccessStep::Owner(ME)), AccessStep::Group(2));
        assert_eq!(group.wanted_by(AccessStep::Mode(0)), AccessStep::Group(2));
        assert_eq!(group.wanted_by(AccessStep::Group(2)), AccessStep::Group(2));
    }
}
