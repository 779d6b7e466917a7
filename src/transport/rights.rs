//! What the kernel lets this process do with the files of its sockets: whom they may be given to, and whether they can be
//! removed.

use std::fs;

use rustix::process::{getegid, geteuid, getgroups};

use crate::config::AccessSettings;

/// Are numbers of capabilities, as in `capabilities(7)`.
const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const FOWNER: u32 = 3;

/// The kernel shows whoever has no number in a user namespace as this one: `/proc/sys/kernel/overflowuid`, unless it was changed.
/// Where all numbers are known, it is one of them; where some are, nobody can tell.
const OVERFLOW: u32 = 65_534;

/// Is the bit of a folder whose files only their owners remove.
const STICKY: u32 = 0o1000;

/// Is the bit of a folder whose files get its group.
const SET_GROUP: u32 = 0o2000;

/// Describes a folder, as far as it decides about its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct FolderAccess {
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) group: u32,
}

/// Tells why a file is not given to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UngivenFile {
    /// The number of this owner stands for nobody in the user namespace.
    OwnerUnmapped(u32),
    /// Giving it to this owner takes a right.
    Owner(u32),
    /// The number of this group stands for none in the user namespace.
    GroupUnmapped(u32),
    /// Giving it to this group takes being in it.
    Group(u32),
    /// It is given to this owner by nobody: it gets a group of its folder that stands for none in the user namespace.
    OwnerAmidUnmapped(u32),
    /// It is given to this group by nobody who is not in it, as with the owner.
    GroupAmidUnmapped(u32),
}

/// Holds the numbers that a user namespace knows, each with how many follow it; `None` where they are all, as far as is
/// known.
#[derive(Debug, Clone, Default)]
struct MappedIds(Option<Vec<(u32, u32)>>);

/// Holds the rights of this process.
#[derive(Debug, Clone)]
pub(super) struct ProcessRights {
    user: u32,
    /// Files that the process makes get this group.
    group: u32,
    /// Lists all groups that it is in.
    groups: Vec<u32>,
    /// Holds one bit for each capability.
    effective: u64,
    users_mapped: MappedIds,
    groups_mapped: MappedIds,
}

impl ProcessRights {
    /// Reads those that it has now.
    pub(super) fn now() -> Self {
        let user = geteuid();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        // Without /proc: root is taken to have all of them.
        let unknown = if user.is_root() { u64::MAX } else { 0 };
        let mapped = |file: &str| MappedIds::of(&fs::read_to_string(file).unwrap_or_default());
        let groups = getgroups().unwrap_or_default().into_iter();
        Self {
            user: user.as_raw(),
            group: getegid().as_raw(),
            groups: groups.chain([getegid()]).map(|one| one.as_raw()).collect(),
            effective: effective(&status).unwrap_or(unknown),
            users_mapped: mapped("/proc/self/uid_map"),
            groups_mapped: mapped("/proc/self/gid_map"),
        }
    }

    pub(super) fn is_root(&self) -> bool {
        self.user == 0
    }

    fn has(&self, capability: u32) -> bool {
        self.effective >> capability & 1 != 0
    }

    /// Tells whether it writes in every folder, whatever the mode says.
    pub(super) fn writes_everywhere(&self) -> bool {
        self.has(DAC_OVERRIDE)
    }

    /// Tells whether `capability` is one over a file that is shown as of `owner` and `group`: not over those whom the
    /// namespace does not know, neither the one nor the other.
    fn has_over(&self, capability: u32, owner: u32, group: u32) -> bool {
        // Its own are those of the files that it makes.
        let knows_owner = owner == self.user || self.users_mapped.is_surely(owner);
        let knows_group = group == self.group || self.groups_mapped.is_surely(group);
        self.has(capability) && knows_owner && knows_group
    }

    /// Returns the group of a file that it makes in the folder.
    pub(super) fn group_in(&self, folder: FolderAccess) -> u32 {
        match folder.mode & SET_GROUP {
            0 => self.group,
            _ => folder.group,
        }
    }

    /// Tells whether it removes a file of `owner` and `group` from a folder in which it may write.
    pub(super) fn removes(&self, (owner, group): (u32, u32), folder: FolderAccess) -> bool {
        folder.mode & STICKY == 0
            || [owner, folder.owner].contains(&self.user)
            || self.has_over(FOWNER, owner, group)
    }

    /// Tells whether it gives a file of `owner` and the group `from` to the group `to`.
    pub(super) fn regroups(&self, owner: u32, from: u32, to: u32) -> bool {
        let is_member = self.user == owner && self.groups.contains(&to);
        self.groups_mapped.has(to) && (is_member || self.has_over(CHOWN, owner, from))
    }

    /// Lists why a file that it makes in the folder cannot be given to those who are to have it.
    pub(super) fn ungiven(
        &self,
        wanted: &AccessSettings,
        folder: FolderAccess,
    ) -> Vec<UngivenFile> {
        let owner = wanted.owner.filter(|owner| *owner != self.user);
        // What it has as it is made is not given to it.
        let made = self.group_in(folder);
        let group = wanted.group.filter(|group| *group != made);
        let is_known = |group| self.groups_mapped.has(group);
        let of_group = |group| match (is_known(group), self.has(CHOWN)) {
            (false, _) => Some(UngivenFile::GroupUnmapped(group)),
            _ if self.groups.contains(&group) || self.regroups(self.user, made, group) => None,
            (true, false) => Some(UngivenFile::Group(group)),
            (true, true) => Some(UngivenFile::GroupAmidUnmapped(group)),
        };
        let ungrouped = group.and_then(of_group);
        // It is given to its group first.
        let has = group.filter(|_| ungrouped.is_none()).unwrap_or(made);
        let of_owner = |owner| match (self.users_mapped.has(owner), self.has(CHOWN)) {
            (false, _) => Some(UngivenFile::OwnerUnmapped(owner)),
            (true, false) => Some(UngivenFile::Owner(owner)),
            (true, true) => {
                // Its own, or what it has been given, it has surely.
                let is_sure = has != made || has == self.group;
                let is_known = is_sure || self.groups_mapped.is_surely(has);
                (!is_known).then_some(UngivenFile::OwnerAmidUnmapped(owner))
            }
        };
        let owner = owner.and_then(of_owner);
        owner.into_iter().chain(ungrouped).collect()
    }
}

impl MappedIds {
    /// Reads `/proc/self/uid_map` or its like.
    fn of(text: &str) -> Self {
        let range = |line: &str| {
            let mut numbers = line.split_ascii_whitespace();
            let first = numbers.next()?.parse().ok()?;
            Some((first, numbers.nth(1)?.parse().ok()?))
        };
        let ranges: Option<Vec<_>> = text.lines().map(range).collect();
        Self(ranges.filter(|ranges| !ranges.is_empty()))
    }

    /// Tells whether a file that is shown as of this number is of it.
    fn is_surely(&self, number: u32) -> bool {
        self.has(number) && (number != OVERFLOW || self.0.is_none() || self.has(u32::MAX - 1))
    }

    fn has(&self, number: u32) -> bool {
        let is_in = |(first, count): &(u32, u32)| {
            number.checked_sub(*first).is_some_and(|past| past < *count)
        };
        self.0
            .as_ref()
            .is_none_or(|ranges| ranges.iter().any(is_in))
    }
}

/// Reads the capabilities of a process of which `/proc/self/status` reads so. Root may lack some, as in a container.
fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: FolderAccess = FolderAccess {
        mode: 0o755,
        owner: 0,
        group: 7,
    };

    fn rights(effective: u64) -> ProcessRights {
        ProcessRights {
            user: 1,
            group: 1,
            groups: vec![1, 2],
            effective,
            users_mapped: MappedIds::default(),
            groups_mapped: MappedIds::default(),
        }
    }

    fn wanted(owner: Option<u32>, group: Option<u32>) -> AccessSettings {
        AccessSettings {
            owner,
            group,
            ..AccessSettings::default()
        }
    }

    #[test]
    fn capabilities_are_read() {
        let status =
            |rights: &str| format!("Name:\trespool\nCapPrm:\t{rights}\nCapEff:\t{rights}\n");
        assert_eq!(effective(&status("00000000a80425fa")), Some(0xa804_25fa));
        assert_eq!(effective("Name:\trespool\n"), None);
        let all = rights(effective(&status("000001ffffffffff")).expect("a number"));
        assert!(all.has(CHOWN) && all.has(FOWNER) && all.writes_everywhere());
        assert!(!rights(0xa804_25fa).has(CHOWN) && rights(0xa804_25fa).has(FOWNER));
    }

    #[test]
    fn giving_away_takes_a_right_and_a_group_that_one_is_in_takes_none() {
        let (none, root) = (rights(0), rights(1 << CHOWN));
        let own = [(Some(1), Some(2)), (None, Some(1)), (None, None)];
        for (owner, group) in own {
            assert_eq!(none.ungiven(&wanted(owner, group), PLAIN), []);
        }
        let other = wanted(Some(3), None);
        assert_eq!(none.ungiven(&other, PLAIN), [UngivenFile::Owner(3)]);
        assert_eq!(root.ungiven(&other, PLAIN), []);
        let other = wanted(None, Some(7));
        assert_eq!(none.ungiven(&other, PLAIN), [UngivenFile::Group(7)]);
        assert_eq!(root.ungiven(&other, PLAIN), []);
        let gives_its_group = FolderAccess {
            mode: 0o2755,
            ..PLAIN
        };
        assert_eq!(none.ungiven(&other, gives_its_group), []);
        let third = wanted(None, Some(8));
        assert_eq!(
            none.ungiven(&third, gives_its_group),
            [UngivenFile::Group(8)]
        );
    }

    #[test]
    fn nothing_is_given_to_whom_the_namespace_does_not_know() {
        let known =
            MappedIds::of("         0       1000          1\n         5     100000         10\n");
        for (number, is_known) in [(0, true), (1, false), (5, true), (14, true), (15, false)] {
            assert_eq!(known.has(number), is_known, "{number}");
        }
        let all = MappedIds::of("         0          0 4294967295\n");
        assert!(all.has(0) && all.is_surely(OVERFLOW) && MappedIds::of("").is_surely(OVERFLOW));
        // That of most containers whose root is nobody outside of them: it may be its own nobody, or anybody outside.
        let most = MappedIds::of("         0     100000      65536\n");
        assert!(most.has(OVERFLOW) && !most.is_surely(OVERFLOW) && most.is_surely(5));
        let contained = ProcessRights {
            user: 0,
            users_mapped: most.clone(),
            groups_mapped: most,
            ..rights(u64::MAX)
        };
        let shared = FolderAccess {
            mode: 0o1777,
            ..PLAIN
        };
        assert!(contained.removes((5, 5), FolderAccess { owner: 6, ..shared }));
        assert!(!contained.removes((OVERFLOW, 5), FolderAccess { owner: 6, ..shared }));
        assert!(!contained.removes((5, OVERFLOW), FolderAccess { owner: 6, ..shared }));
        let root = ProcessRights {
            user: 0,
            group: 0,
            users_mapped: known.clone(),
            groups_mapped: known,
            ..rights(u64::MAX)
        };
        let ungiven = |owner, group| root.ungiven(&wanted(owner, group), PLAIN);
        assert_eq!(ungiven(Some(15), None), [UngivenFile::OwnerUnmapped(15)]);
        assert_eq!(ungiven(Some(5), Some(1)), [UngivenFile::GroupUnmapped(1)]);
        assert_eq!(ungiven(Some(5), Some(5)), []);
        let both = [
            UngivenFile::OwnerUnmapped(15),
            UngivenFile::GroupUnmapped(1),
        ];
        assert_eq!(ungiven(Some(15), Some(1)), both);
        let sticky = FolderAccess {
            mode: 0o1777,
            owner: 5,
            group: 5,
        };
        let removes = |owner, group| root.removes((owner, group), sticky);
        assert!(removes(6, 6) && !removes(OVERFLOW, 6) && !removes(6, OVERFLOW));
        // A folder that gives its files a group which the namespace does not know.
        let of_unknown = |root: &ProcessRights, owner, group| {
            let folder = FolderAccess {
                mode: 0o2755,
                owner: 5,
                group: OVERFLOW,
            };
            root.ungiven(&wanted(owner, group), folder)
        };
        let refused = of_unknown(&root, Some(6), None);
        assert_eq!(refused, [UngivenFile::OwnerAmidUnmapped(6)]);
        let refused = of_unknown(&root, None, Some(6));
        assert_eq!(refused, [UngivenFile::GroupAmidUnmapped(6)]);
        assert_eq!(of_unknown(&root, Some(0), None), [], "its own");
        // Of a group that it is in it can be, and is known then.
        let member = ProcessRights {
            groups: vec![0, 6],
            ..root.clone()
        };
        assert_eq!(of_unknown(&member, Some(6), Some(6)), []);
        assert!(member.regroups(0, OVERFLOW, 6) && !member.regroups(0, 6, OVERFLOW));
        assert!(!root.regroups(0, OVERFLOW, 6) && root.regroups(0, 6, 5));
    }

    #[test]
    fn a_sticky_folder_keeps_the_files_of_others() {
        let sticky = FolderAccess {
            mode: 0o1777,
            ..PLAIN
        };
        let own = FolderAccess { owner: 1, ..sticky };
        assert!(rights(0).removes((1, 7), sticky) && !rights(0).removes((2, 7), sticky));
        assert!(rights(0).removes((2, 7), own) && rights(0).removes((2, 7), PLAIN));
        assert!(rights(1 << FOWNER).removes((2, 7), sticky));
        assert!(!rights(1 << CHOWN | 1 << DAC_OVERRIDE).removes((2, 7), sticky));
    }
}
