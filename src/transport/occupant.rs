//! What stands where the file of a unix socket is to be: nothing, what a process that was killed has left there, or what is
//! not ours to remove.
//!
//! Invariant: a socket on which somebody may listen is not removed; nor is a link, whatever it points to. Whether somebody
//! listens is told by connecting alone: the kernel's list of sockets has the name that each was bound under, and a file can
//! be renamed.

use std::error::Error;
use std::fmt;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket_access::set_mode;

/// The right of a file's owner to write to it, and thus to connect by it.
const OWNER_WRITES: u32 = 0o200;

/// Tells whether there is the file of a socket on which nobody listens any more: left over from a process that was
/// killed. Whoever listens and does not accept, its backlog full, is not waited for. Where it is false nothing is
/// there.
///
/// # Errors
/// Something else is: another kind of file, or a socket on which somebody listens, or may.
pub(super) fn is_left_over(path: &Path) -> io::Result<bool> {
    let Ok(about) = fs::symlink_metadata(path) else {
        return Ok(false);
    };
    if !about.file_type().is_socket() {
        let what = kind(about.file_type());
        let text = format!("there is {what}, not a socket that respool could replace");
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    match connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unreachable(path, &about),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Says what helps against an error of binding, if not what its text says.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse
            if error
                .get_ref()
                .is_some_and(<dyn Error + Send + Sync>::is::<UnreachableOccupant>) =>
        {
            "remove it by hand if nobody listens on it, or take another path"
        }
        io::ErrorKind::AddrInUse => "free the address, or take another",
        io::ErrorKind::AlreadyExists => "remove it, or take another path",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "remove files there (df -i counts them), or take a path on another file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "have the file system mounted so that it can be written, or take a path on another"
        }
        io::ErrorKind::PermissionDenied
            if error
                .get_ref()
                .is_some_and(<dyn Error + Send + Sync>::is::<UnremovableOccupant>) =>
        {
            "remove it by hand, or take another path"
        }
        io::ErrorKind::AddrNotAvailable => "listen on an address of this host",
        io::ErrorKind::PermissionDenied => {
            "take what respool's user may have, or permit it: CAP_NET_BIND_SERVICE for ports below 1024, writing for folders"
        }
        _ => "correct the address",
    }
}

fn kind(file: FileType) -> &'static str {
    if file.is_symlink() {
        "a link"
    } else if file.is_dir() {
        "a folder"
    } else {
        "a file"
    }
}

/// Says that there is a socket of which respool's user cannot tell whether somebody listens on it.
#[derive(Debug)]
struct UnreachableOccupant {
    owner: u32,
}

impl fmt::Display for UnreachableOccupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner;
        write!(
            f,
            "there is a socket of user {owner} that respool's user may not connect to, and somebody may listen on it"
        )
    }
}

impl Error for UnreachableOccupant {}

/// Says that there is a socket that nobody listens on, and respool may not remove it.
#[derive(Debug)]
pub(super) struct UnremovableOccupant {
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) folder: u32,
}

impl fmt::Display for UnremovableOccupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner,
            group,
            folder,
        } = self;
        write!(
            f,
            "there is a socket of user {owner} and group {group} on which nobody listens, in a sticky folder of user {folder}, from which respool \
             may not remove it"
        )
    }
}

impl Error for UnremovableOccupant {}

/// Answers as [`is_left_over`] of a socket that respool's user may not connect to: of one of its own, connecting by
/// force tells.
fn unreachable(path: &Path, about: &Metadata) -> io::Result<bool> {
    let owner = about.uid();
    if owner == geteuid().as_raw() && about.mode() & OWNER_WRITES == 0 {
        match connect_as_owner(path, about, || connect(path)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            Ok(()) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => {}
        }
    }
    let unknown = UnreachableOccupant { owner };
    Err(io::Error::new(io::ErrorKind::AddrInUse, unknown))
}

/// Connects by a file of one's own whose mode lets its owner do that for a moment.
fn connect_as_owner(
    path: &Path,
    about: &Metadata,
    connect: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&file)?;
    if (found.st_dev, found.st_ino) != (about.dev(), about.ino()) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let mode = found.st_mode & 0o777;
    set_mode(file.as_fd(), path, mode | OWNER_WRITES)?;
    let connected = connect();
    let now = rustix::fs::fstat(&file)?.st_mode & 0o777;
    // Another that whoever listens has set meanwhile, as at a reload, holds.
    if now == mode | OWNER_WRITES {
        set_mode(file.as_fd(), path, mode)?;
    }
    connected
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn nobody_waits_for_a_listener_that_does_not_accept() {
        let folder = folder();
        let path = folder.path().join("socket");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        let address = SockAddr::unix(&path).expect("an address");
        listener.bind(&address).expect("bound");
        listener.listen(0).expect("it listens");
        let mut held = Vec::new();
        // Until its backlog is full.
        loop {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("set");
            match socket.connect(&address) {
                Ok(()) => held.push(socket),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(held.len() < 100, "it takes everybody");
        }
        let told = is_left_over(&path).expect_err("somebody listens");
        assert_eq!(told.kind(), io::ErrorKind::AddrInUse);
        drop((listener, held));
        assert!(is_left_over(&path).expect("nobody does"));
    }

    #[test]
    fn the_owner_of_a_file_without_rights_sees_whether_somebody_listens() {
        let folder = folder();
        let path = folder.path().join("socket");
        let mode = || fs::metadata(&path).expect("a file").mode() & 0o777;
        let listener = UnixListener::bind(&path).expect("bound");
        fs::set_permissions(&path, Permissions::from_mode(0o060)).expect("set");
        let about = fs::symlink_metadata(&path).expect("a file");
        let connect_as_owner = || connect_as_owner(&path, &about, || connect(&path));
        connect_as_owner().expect("somebody listens");
        assert_eq!(mode(), 0o060, "as it was");
        drop(listener);
        let error = connect_as_owner().expect_err("nobody does");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(mode(), 0o060, "as it was");
    }

    #[test]
    fn a_mode_that_is_set_while_its_owner_connects_holds() {
        let folder = folder();
        let path = folder.path().join("socket");
        let set = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        let _listener = UnixListener::bind(&path).expect("bound");
        set(0o066);
        let about = fs::symlink_metadata(&path).expect("a file");
        let meanwhile = || {
            let now = fs::metadata(&path).expect("a file").mode() & 0o777;
            assert_eq!(now, 0o266, "its owner may connect");
            set(0o060);
            Ok(())
        };
        connect_as_owner(&path, &about, meanwhile).expect("somebody listens");
        let mode = fs::metadata(&path).expect("a file").mode() & 0o777;
        assert_eq!(mode, 0o060);
    }

    #[test]
    fn what_cannot_be_told_is_for_somebody_to_remove() {
        let folder = folder();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bound");
        let about = fs::symlink_metadata(&path).expect("a file");
        // Its owner may write to it, and something else hinders.
        let told = unreachable(&path, &about).expect_err("unknown");
        let owner = format!("a socket of user {} that", about.uid());
        assert!(told.to_string().contains(&owner), "{told}");
        assert!(remedy(&told).starts_with("remove it by hand if nobody"));
        drop(listener);
        unreachable(&path, &about).expect_err("unknown");
        let other = folder.path().join("other");
        let _listener = UnixListener::bind(&other).expect("bound");
        let told = is_left_over(&other).expect_err("somebody listens");
        assert_eq!(remedy(&told), "free the address, or take another");
    }
}
