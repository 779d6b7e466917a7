//! The steps in which it is changed who may connect by the file of a socket, and how what was begun is undone.
//!
//! Invariant: nobody is let in who might not connect before, until nothing of the whole reload can be refused any more, and
//! then nobody who may neither before nor after. Left out are those who could let themselves in anyway: respool's own user and
//! the owner before, and in the last steps the owner after.

use std::fmt;

use crate::config::Access;

/// Mode and owners of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileAccess {
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
}

impl FileAccess {
    /// What `wanted` says, and as it is here where that says nothing.
    pub(super) fn overlaid(self, wanted: &Access) -> Self {
        Self {
            mode: wanted.mode.unwrap_or(self.mode),
            owner: wanted.owner.unwrap_or(self.owner),
            group: wanted.group.unwrap_or(self.group),
        }
    }

    /// Where it is another than `other`; the rest is `None`.
    pub(super) fn unlike(self, other: Self) -> Access {
        let only = |mine: u32, other: u32| Some(mine).filter(|mine| *mine != other);
        Access {
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

/// One call that changes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Mode(u32),
    Owner(u32),
    Group(u32),
}

/// The steps from `now` to `next` for a file by which nobody can connect yet. It is given away last, since only its owner
/// changes its mode.
pub(super) fn outright(now: FileAccess, next: FileAccess) -> Vec<Step> {
    let changed = next.unlike(now);
    let group = changed.group.map(Step::Group);
    let mode = changed.mode.map(Step::Mode);
    let owner = changed.owner.map(Step::Owner);
    [group, mode, owner].into_iter().flatten().collect()
}

/// How one file is changed while clients connect by it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) before: FileAccess,
    pub(super) next: FileAccess,
    /// Who owns it until it is given away for good, so that its mode can be changed.
    holder: u32,
    /// Its mode until then: it lets in nobody whom `before` does not, whichever of the owners and groups it has.
    narrow: u32,
}

impl Plan {
    /// From `before` to `next`, by user `me`, who may set the file's mode as it is now, or may not.
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

    /// The steps that let in nobody who might not connect before. What could be refused later on is tried here: a file is
    /// given to its owner to be, and taken back, since no mode is set of another's file.
    fn first(&self) -> Vec<Step> {
        let (before, next) = (self.before, self.next);
        let mut steps = Vec::new();
        if self.holder != before.owner {
            steps.push(Step::Owner(self.holder));
        }
        if self.narrow != before.mode {
            steps.push(Step::Mode(self.narrow));
        }
        if next.group != before.group {
            steps.push(Step::Group(next.group));
        }
        if next.owner != self.holder && next.owner != before.owner {
            steps.extend([Step::Owner(next.owner), Step::Owner(self.holder)]);
        }
        steps
    }

    /// The steps that let in who may connect from now on.
    fn last(&self) -> Vec<Step> {
        let mode = (self.next.mode != self.narrow).then_some(Step::Mode(self.next.mode));
        let owner = (self.next.owner != self.holder).then_some(Step::Owner(self.next.owner));
        mode.into_iter().chain(owner).collect()
    }

    /// Takes away what is to be taken away, and tries whether the rest can be done.
    ///
    /// # Errors
    /// The step that was refused: those before it have been taken, and are to be undone.
    pub(super) fn begin<E>(
        &self,
        mut take: impl FnMut(Step) -> Result<(), E>,
    ) -> Result<(), (Step, E)> {
        let mut steps = self.first().into_iter();
        steps.try_for_each(|step| take(step).map_err(|error| (step, error)))
    }

    /// Lets in who may connect from now on. Returns the steps that were refused.
    pub(super) fn finish<E>(&self, mut take: impl FnMut(Step) -> Result<(), E>) -> Vec<(Step, E)> {
        let refused = |step| take(step).err().map(|error| (step, error));
        self.last().into_iter().filter_map(refused).collect()
    }

    /// Makes it what it was before, as far as that goes: it is `at` now, and not finished. Returns the steps that were
    /// refused; then it lets in fewer than before.
    pub(super) fn undo<E>(
        &self,
        at: FileAccess,
        mut take: impl FnMut(Step) -> Result<(), E>,
    ) -> Vec<(Step, E)> {
        let mut refused = Vec::new();
        if at == self.before {
            return refused;
        }
        let mut try_to = |step, is_due: bool| {
            let error = is_due.then(|| take(step).err()).flatten();
            refused.extend(error.map(|error| (step, error)));
            refused.is_empty()
        };
        try_to(Step::Owner(self.holder), at.owner != self.holder);
        let is_as_before = try_to(
            Step::Group(self.before.group),
            at.group != self.before.group,
        );
        let mode = match is_as_before {
            true => self.before.mode,
            false => at.mode & self.narrow,
        };
        try_to(Step::Mode(mode), at.mode != mode);
        let owner = self.before.owner;
        try_to(Step::Owner(owner), owner != self.holder);
        refused
    }

    /// Which setting `step` was taken for.
    pub(super) fn wanted_by(&self, step: Step) -> Step {
        let changed = self.next.unlike(self.before);
        let owner = changed.owner.map(Step::Owner);
        match step {
            Step::Group(_) => step,
            Step::Owner(_) if owner == Some(step) => step,
            _ => {
                let mode = changed.mode.map(Step::Mode);
                let group = changed.group.map(Step::Group);
                mode.or(group).or(owner).unwrap_or(step)
            }
        }
    }
}

/// What of a mode may stay while the file changes hands: whoever comes to be in another class than before was let in there
/// as well.
fn narrow(before: FileAccess, next: FileAccess, holder: u32) -> u32 {
    let class = |shift: u32| before.mode >> shift & 0o7;
    let (members, others) = (class(3), class(0));
    let (mut of_owner, mut of_members, mut of_others) = (0o7, 0o7, 0o7);
    if next.owner != before.owner || holder != before.owner {
        of_owner = members & others;
    }
    if next.group != before.group {
        of_members = others;
        of_others = members;
    }
    before.mode & next.mode & (of_owner << 6 | of_members << 3 | of_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Respool's user.
    const ME: u32 = 1;

    /// The file's group before, and another.
    const GROUPS: [u32; 2] = [1, 2];

    /// Modes in which each class may connect or not.
    fn modes() -> impl Iterator<Item = u32> {
        let bit = |bits: u32, from: u32, to: u32| if bits & from != 0 { to } else { 0 };
        (0..8).map(move |bits| bit(bits, 1, 0o600) | bit(bits, 2, 0o060) | bit(bits, 4, 0o006))
    }

    /// Every change of one file by [`ME`], who may change the mode of others' files or may not.
    fn plans() -> Vec<Plan> {
        let mut plans = Vec::new();
        for (mode, next_mode) in modes().flat_map(|one| modes().map(move |other| (one, other))) {
            for (owner, next_owner) in [(1, 1), (1, 3), (2, 2), (2, 1), (2, 3)] {
                for group in GROUPS {
                    let file = |mode, owner, group| FileAccess { mode, owner, group };
                    let (before, next) = (
                        file(mode, owner, GROUPS[0]),
                        file(next_mode, next_owner, group),
                    );
                    plans.push(Plan::new(before, next, ME, true));
                    if owner != ME {
                        plans.push(Plan::new(before, next, ME, false));
                    }
                }
            }
        }
        plans
    }

    /// Who is neither respool nor an owner of the file before.
    #[derive(Debug, Clone, Copy)]
    struct Somebody {
        user: u32,
        /// Whether in each of [`GROUPS`].
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

    /// A file that is changed, and all that it has been. Of the steps those of which the bit is set are refused.
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

        fn take(&mut self, step: Step) -> Result<(), ()> {
            self.steps += 1;
            if self.refused >> (self.steps - 1) & 1 != 0 {
                return Err(());
            }
            match step {
                Step::Mode(mode) => self.at.mode = mode,
                Step::Owner(owner) => self.at.owner = owner,
                Step::Group(group) => self.at.group = group,
            }
            self.was.push(self.at);
            Ok(())
        }
    }

    /// That nobody at any time might connect by `was` who may by none of `allowed`, but for the owner of one of these.
    #[track_caller]
    fn assert_lets_in_only(was: &[FileAccess], allowed: &[FileAccess], plan: &Plan) {
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
            let first = plan.first().len();
            // None of its own, as where another file's is: all is undone then.
            for begun in 0..=first {
                // Undoing takes four steps at most.
                for undone in 0..16 {
                    let of_its_own = if begun < first { 1 << begun } else { 0 };
                    let refused = of_its_own | undone << (begun + 1).min(first);
                    let mut file = Changed::new(plan.before, refused);
                    let done = plan.begin(|step| file.take(step));
                    assert_eq!(done.is_ok(), begun == first);
                    let at = file.at;
                    let wrong = plan.undo(at, |step| file.take(step));
                    assert_lets_in_only(&file.was, &[plan.before], &plan);
                    assert!(!wrong.is_empty() || file.at == plan.before, "{plan:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_is_let_in_who_may_neither_before_nor_after() {
        for plan in plans() {
            for refused in 0..4 {
                let mut file = Changed::new(plan.before, refused << plan.first().len());
                plan.begin(|step| file.take(step)).expect("not refused");
                assert_lets_in_only(&file.was, &[plan.before], &plan);
                let wrong = plan.finish(|step| file.take(step));
                assert_eq!(wrong.is_empty(), file.at == plan.next, "{plan:?}");
                assert_lets_in_only(&file.was, &[plan.before, plan.next], &plan);
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
                assert!(is_ours || !matches!(step, Step::Mode(_)), "{plan:?}");
                file.take(step)
            };
            plan.begin(&mut take).expect("not refused");
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
            plan.begin(|step| file.take(step)).expect("not refused");
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
        let (mode, owner) = (Step::Mode, Step::Owner);
        let plan = |before, next| Plan::new(before, next, ME, false);
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
            Plan::new(before, next, ME, false)
        };
        let mode = to(0o600, 1);
        assert_eq!(mode.wanted_by(Step::Owner(ME)), Step::Mode(0o600));
        let group = to(0o660, 2);
        assert_eq!(group.wanted_by(Step::Owner(ME)), Step::Group(2));
        assert_eq!(group.wanted_by(Step::Mode(0)), Step::Group(2));
        assert_eq!(group.wanted_by(Step::Group(2)), Step::Group(2));
    }
}
