//! What would hinder the file of a unix socket, told before there is one. `respool check` goes by it; a start tries, since a
//! file system may allow more than can be seen, and says of what the kernel refuses what is said here.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Access as Wanted, AtFlags, CWD};
use rustix::io::Errno;

use super::occupant::{UnremovableOccupant, is_left_over};
use super::rights::{FolderAccess, ProcessRights, UngivenFile};
use super::socket_access::folder_of;
use crate::config::AccessSettings;

/// Says what is wrong with a setting of a unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessHindrance {
    /// Names the setting, without its table.
    pub key: &'static str,
    /// Says what is wrong.
    pub what: String,
    /// Says what to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for AccessHindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, what, remedy } = self;
        write!(f, "listener.{key}: {what}; {remedy}")
    }
}

/// Tells whether a socket can be made at `path` once what is left over there is removed. Where it is false nothing is
/// left over.
///
/// # Errors
/// None can be made: the folder is not there or not to be written in, or what stands there stays.
pub fn is_to_be_cleared(path: &Path) -> io::Result<bool> {
    let (folder, about) = folder(path)?;
    if !about.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let rights = ProcessRights::now();
    may_write(folder, &rights)?;
    if !is_left_over(path)? {
        return Ok(false);
    }
    let file = fs::symlink_metadata(path)?;
    let (owner, group) = (file.uid(), file.gid());
    if rights.removes((owner, group), as_folder(&about)) {
        return Ok(true);
    }
    let folder = about.uid();
    let stays = UnremovableOccupant {
        owner,
        group,
        folder,
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, stays))
}

/// Removes a socket that is left over at `path`.
///
/// # Errors
/// What stands there stays; why, as [`is_to_be_cleared`] says it.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    if !is_left_over(path)? {
        return Ok(());
    }
    fs::remove_file(path).map_err(|error| {
        is_to_be_cleared(path).err().unwrap_or_else(|| {
            let text = format!("the socket that was left over there cannot be removed: {error}");
            io::Error::new(error.kind(), text)
        })
    })
}

/// Tells whether the file system of `path` has no room for another file, where that can be told without making one.
pub fn is_full(path: &Path) -> bool {
    // Where files are not counted there are none in all.
    let is_full = |about: rustix::fs::StatVfs| about.f_files > 0 && about.f_favail == 0;
    fs::symlink_metadata(path).is_err() && rustix::fs::statvfs(folder_of(path)).is_ok_and(is_full)
}

/// Lists why the file of a socket at `path` cannot be given to those who are to have it.
pub fn ungiven(path: &Path, wanted: &AccessSettings) -> Vec<AccessHindrance> {
    let Ok((_, folder)) = folder(path) else {
        return Vec::new();
    };
    let why = ProcessRights::now().ungiven(wanted, as_folder(&folder));
    why.into_iter().map(hindrance).collect()
}

/// Says what to tell where the kernel has refused to give it away: `refused`, or what is known of the setting that it
/// tells of.
pub(super) fn explained(path: &Path, wanted: &AccessSettings, refused: String) -> String {
    let known = ungiven(path, wanted);
    let is_told = |why: &&AccessHindrance| refused.starts_with(&format!("listener.{}:", why.key));
    match known.iter().find(is_told) {
        Some(why) => why.to_string(),
        None => refused,
    }
}

/// Says why nobody gives a file away, with whatever rights.
const AMID_UNMAPPED: &str = "its folder gives it a group that has no number in respool's user namespace (/proc/self/gid_map), \
     and no right there is one over such a file";

/// Says what to do then.
const REMAP: &str = "remove the key, take a folder of another group or without the setgid bit, or map the group where the namespace is made";

fn hindrance(why: UngivenFile) -> AccessHindrance {
    let of_user = |owner| format!("its file cannot be given to the user {owner}");
    let of_group = |group| format!("its file cannot be given to the group {group}");
    let unmapped = "write one that is there, or map it where the namespace is made";
    let (key, what, remedy) = match why {
        UngivenFile::Owner(owner) => (
            "owner",
            format!(
                "{}: only root, or who has CAP_CHOWN, gives files away",
                of_user(owner)
            ),
            "remove the key, or run respool as root or with CAP_CHOWN",
        ),
        UngivenFile::Group(group) => (
            "group",
            format!("{}: respool's user is not in it", of_group(group)),
            "remove the key, or take respool's user into the group",
        ),
        UngivenFile::OwnerAmidUnmapped(owner) => (
            "owner",
            format!("{}: {AMID_UNMAPPED}", of_user(owner)),
            REMAP,
        ),
        UngivenFile::GroupAmidUnmapped(group) => (
            "group",
            format!("{}: {AMID_UNMAPPED}", of_group(group)),
            REMAP,
        ),
        UngivenFile::OwnerUnmapped(owner) => (
            "owner",
            format!(
                "{}: in respool's user namespace (/proc/self/uid_map) there is none of this number",
                of_user(owner)
            ),
            unmapped,
        ),
        UngivenFile::GroupUnmapped(group) => (
            "group",
            format!(
                "{}: in respool's user namespace (/proc/self/gid_map) there is none of this number",
                of_group(group)
            ),
            unmapped,
        ),
    };
    AccessHindrance { key, what, remedy }
}

/// Says so where respool may not remove the file of a socket at `path` any more once it is given away.
pub fn is_to_stay(path: &Path, wanted: &AccessSettings) -> Option<AccessHindrance> {
    let owner = wanted.owner?;
    let (_, folder) = folder(path).ok()?;
    let (rights, as_folder) = (ProcessRights::now(), as_folder(&folder));
    let group = wanted.group.unwrap_or(rights.group_in(as_folder));
    if rights.removes((owner, group), as_folder) {
        return None;
    }
    let other = folder.uid();
    Some(AccessHindrance {
        key: "owner",
        what: format!(
            "its file is given to the user {owner} in a sticky folder of user {other}, from which respool may not remove it then: \
             it stays after the end, and no start takes its place until it is removed by hand"
        ),
        remedy: "take a folder of respool's user, or one that is not sticky",
    })
}

fn folder(path: &Path) -> io::Result<(&Path, fs::Metadata)> {
    let folder = folder_of(path);
    Ok((folder, fs::metadata(folder)?))
}

fn as_folder(about: &fs::Metadata) -> FolderAccess {
    FolderAccess {
        mode: about.mode(),
        owner: about.uid(),
        group: about.gid(),
    }
}

/// # Errors
/// This process may not make files in the folder.
fn may_write(folder: &Path, rights: &ProcessRights) -> io::Result<()> {
    let wanted = Wanted::WRITE_OK | Wanted::EXEC_OK;
    match rustix::fs::accessat(CWD, folder, wanted, AtFlags::EACCESS) {
        // Old kernels ask for a user who is not root as if it had no rights.
        Err(Errno::ACCESS) if rights.writes_everywhere() && !rights.is_root() => Ok(()),
        // As where a container's filter does not know the call.
        Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => Ok(rustix::fs::access(folder, wanted)?),
        asked => Ok(asked?),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::super::occupant::remedy;
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn what_is_no_socket_stays_and_is_named() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "x").expect("written");
        fs::create_dir(at("folder")).expect("made");
        drop(UnixListener::bind(at("stale")).expect("bound"));
        symlink(at("stale"), at("link")).expect("linked");
        symlink(at("nothing"), at("dangling")).expect("linked");
        for (name, what) in [
            ("file", "a file"),
            ("folder", "a folder"),
            ("link", "a link"),
            ("dangling", "a link"),
        ] {
            let told = clear(&at(name)).expect_err(name);
            assert!(told.to_string().contains(what), "{name}: {told}");
            assert_eq!(remedy(&told), "remove it, or take another path");
            assert!(fs::symlink_metadata(at(name)).is_ok(), "{name} stays");
        }
        clear(&at("nothing")).expect("nothing is there");
        clear(&at("stale")).expect("nobody listens");
        assert!(!at("stale").exists());
    }

    #[test]
    fn the_group_of_a_folder_that_gives_its_group_is_no_hindrance() {
        let folder = folder();
        let path = folder.path().join("socket");
        let about = fs::metadata(folder.path()).expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o2755)).expect("set");
        let wanted = AccessSettings {
            group: Some(about.gid()),
            owner: Some(about.uid()),
            ..AccessSettings::default()
        };
        assert_eq!(ungiven(&path, &wanted), []);
        assert_eq!(is_to_stay(&path, &wanted), None, "one's own folder");
        assert!(!is_full(&path));
    }
}
