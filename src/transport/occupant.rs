//! What stands where the file of a unix socket is to be: nothing, what a process that was killed has left there, or what is
//! not ours to remove.
//!
//! Invariant: a socket on which somebody may listen is not removed; nor is a link, whatever it points to.

use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::socket_access::{folder_of, set_mode};

/// The kernel's table of unix sockets.
const TABLE: &str = "/proc/self/net/unix";

/// The right of a file's owner to write to it, and thus to connect by it.
const OWNER_WRITES: u32 = 0o200;

/// Whether there is the file of a socket on which nobody listens any more: left over from a process that was killed. Whoever
/// listens and does not accept, its backlog full, is not waited for. False: nothing is there.
///
/// # Errors
/// Something else is: another kind of file, or a socket on which somebody listens, or may.
pub fn is_left_over(path: &Path) -> io::Result<bool> {
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

/// Removes what [`is_left_over`].
///
/// # Errors
/// What is there is something else, or not ours to remove.
pub(super) fn remove_left_over(path: &Path) -> io::Result<()> {
    if !is_left_over(path)? {
        return Ok(());
    }
    fs::remove_file(path).map_err(|error| {
        let text = format!("the socket that was left over there cannot be removed: {error}");
        io::Error::new(error.kind(), text)
    })
}

/// What helps against an error of binding, if not what its text says.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "free the address, or take another",
        io::ErrorKind::AlreadyExists => "remove it, or take another path",
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

/// As [`is_left_over`], of a socket that respool's user may not connect to.
fn unreachable(path: &Path, about: &Metadata) -> io::Result<bool> {
    let unknown =
        "there is a socket that respool's user may not connect to, and somebody may listen on it";
    let unknown = || io::Error::new(io::ErrorKind::AddrInUse, unknown);
    let me = geteuid().as_raw();
    if about.uid() == me && about.mode() & OWNER_WRITES == 0 {
        return match connect_as_owner(path, about) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
            Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => Err(unknown()),
        };
    }
    // The table has no sockets of another network namespace: it is believed only of respool's own folder.
    let folder = fs::metadata(folder_of(path))?;
    let name = path.file_name().unwrap_or_default();
    match fs::read(TABLE) {
        Ok(table) if folder.uid() == me && !is_bound(&table, name.as_bytes()) => Ok(true),
        _ => Err(unknown()),
    }
}

/// Connects by a file of one's own whose mode lets its owner do that for a moment.
fn connect_as_owner(path: &Path, about: &Metadata) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let found = rustix::fs::fstat(&file)?;
    if (found.st_dev, found.st_ino) != (about.dev(), about.ino()) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    let mode = found.st_mode & 0o777;
    set_mode(file.as_fd(), path, mode | OWNER_WRITES)?;
    let connected = connect(path);
    set_mode(file.as_fd(), path, mode)?;
    connected
}

/// Whether the kernel's table has a socket that was bound under this name, in whatever folder: it may be mounted elsewhere.
fn is_bound(table: &[u8], name: &[u8]) -> bool {
    table.split(|byte| *byte == b'\n').skip(1).any(|row| {
        // The last of eight columns; a name may have blanks in it.
        let path = row.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        path == name || row.ends_with(&[b" ", name].concat())
    })
}

fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
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
            let told = remove_left_over(&at(name)).expect_err(name);
            assert!(told.to_string().contains(what), "{name}: {told}");
            assert_eq!(remedy(&told), "remove it, or take another path");
            assert!(fs::symlink_metadata(at(name)).is_ok(), "{name} stays");
        }
        remove_left_over(&at("nothing")).expect("nothing is there");
        remove_left_over(&at("stale")).expect("nobody listens");
        assert!(!at("stale").exists());
    }

    #[test]
    fn the_owner_of_a_file_without_rights_sees_whether_somebody_listens() {
        let folder = folder();
        let path = folder.path().join("socket");
        let mode = || fs::metadata(&path).expect("a file").mode() & 0o777;
        let listener = UnixListener::bind(&path).expect("bound");
        fs::set_permissions(&path, Permissions::from_mode(0o060)).expect("set");
        let about = fs::symlink_metadata(&path).expect("a file");
        connect_as_owner(&path, &about).expect("somebody listens");
        assert_eq!(mode(), 0o060, "as it was");
        drop(listener);
        let error = connect_as_owner(&path, &about).expect_err("nobody does");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(mode(), 0o060, "as it was");
    }

    #[test]
    fn the_table_tells_who_is_bound_under_a_name() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000014dbb98f: 00000003 00000000 00000000 0001 03 40695367\n\
            0000000014dbb990: 00000002 00000000 00010000 0001 01 40695368 /run/own.sock\n\
            0000000014dbb991: 00000002 00000000 00010000 0001 01 40695369 bare.sock\n\
            0000000014dbb992: 00000002 00000000 00010000 0001 01 40695370 /run/with blank.sock\n";
        for bound in ["own.sock", "bare.sock", "with blank.sock"] {
            assert!(is_bound(table, bound.as_bytes()), "{bound}");
        }
        for free in ["wn.sock", "other.sock", "run"] {
            assert!(!is_bound(table, free.as_bytes()), "{free}");
        }
        let folder = folder();
        let path = folder.path().join("listed.sock");
        let listed = || {
            let table = fs::read(TABLE).expect("a table");
            is_bound(&table, b"listed.sock")
        };
        let listener = UnixListener::bind(&path).expect("bound");
        assert!(listed());
        drop(listener);
        assert!(!listed());
    }
}
