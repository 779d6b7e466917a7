//! Reading what a configuration names: of which kind it is, how long it may be, and how long it may take.
//!
//! Invariant: nothing that stands under a path holds a reader up for good. A pipe to which nobody writes, a device, a file
//! without an end are told; a pipe with a writer (`--config <(...)`) is read to its end.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// No configuration, certificate or password is longer than this many bytes; a wrong file is.
const LONGEST_FILE: u64 = 1 << 20;

/// No file of hosts is longer than this; those that block advertisements take some 5 MiB.
const LONGEST_HOSTS: u64 = 32 << 20;

/// No file of authorities is longer than this; those of a system take some 220 KiB.
const LONGEST_AUTHORITIES: u64 = 16 << 20;

/// A pipe that has nothing yet is looked at this often.
const PAUSE: Duration = Duration::from_millis(10);

/// A pipe is given up after this many pauses, 2 s, while nobody has written to it.
const PAUSES_FOR_A_WRITER: u32 = 200;

/// A pipe is given up after this many pauses, 10 s, whoever writes. They are counted, since nothing here looks at a clock: each takes its
/// time at least.
const PAUSES: u32 = 1000;

/// Reads the bytes of a file, which are wiped when dropped; the error is one line and without anything of the content.
pub(super) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    read_within(path, LONGEST_FILE, PAUSES)
}

/// Reads the text of a file, as [`read_bytes`].
pub(super) fn read_text(path: &Path) -> Result<Zeroizing<String>, String> {
    text_of(&read_bytes(path)?)
}

/// Reads the text of a file of the form of `/etc/hosts`. It is read again and again, which a pipe cannot be.
///
/// # Errors
/// Says in one line why it cannot be read.
pub fn read_hosts(path: &Path) -> Result<Zeroizing<String>, String> {
    if is_pipe(path) {
        return Err("it is a pipe, which can be read only once".to_owned());
    }
    text_of(&read_within(path, LONGEST_HOSTS, PAUSES)?)
}

/// Reads the bytes of a file of authorities that the environment names. It is read again at every reload.
///
/// # Errors
/// Says in one line why it cannot be read.
pub fn read_authorities(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    if is_pipe(path) {
        return Err("it is a pipe, not a file".to_owned());
    }
    read_within(path, LONGEST_AUTHORITIES, PAUSES)
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo())
}

/// Tells whether a plain file stands there, which has the same content however often it is read.
pub(super) fn is_plain_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file())
}

fn read_within(path: &Path, most: u64, pauses: u32) -> Result<Zeroizing<Vec<u8>>, String> {
    let told = |error: std::io::Error| error.to_string();
    // Before it is opened: opening some devices does something.
    refuse_kind(&std::fs::metadata(path).map_err(told)?)?;
    let file = OpenOptions::new()
        .read(true)
        // A pipe without a writer would hold up the opening itself.
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)
        .map_err(told)?;
    let about = file.metadata().map_err(told)?;
    refuse_kind(&about)?;
    read_to_end(file, &about, most, pauses)
}

/// Refuses what can never be read to an end.
fn refuse_kind(about: &Metadata) -> Result<(), String> {
    let kind = about.file_type();
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        return Ok(());
    };
    Err(format!("it is {what}, not a file"))
}

fn read_to_end(
    mut file: File,
    about: &Metadata,
    most: u64,
    pauses: u32,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let is_pipe = about.file_type().is_fifo();
    let too_long = || Err(format!("longer than {} MiB", most >> 20));
    if !is_pipe && about.len() > most {
        // Not read in vain, again and again.
        return too_long();
    }
    // As large as it will be: what a vector leaves behind when it grows is not wiped. A pipe does not say.
    let length = if is_pipe { most } else { about.len().min(most) };
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    let mut paused = 0;
    loop {
        let left = most + 1 - bytes.len() as u64;
        let read = file.by_ref().take(left).read_to_end(&mut bytes);
        let has_writer = match read {
            _ if bytes.len() as u64 > most => return too_long(),
            Ok(_) if !is_pipe || !bytes.is_empty() => return Ok(bytes),
            // Its writer has not come yet, or never will.
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock && is_pipe => true,
            // As of the kernel's log, which it shows as a plain file.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err("it has no end, as a file has".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        if !has_writer && paused >= PAUSES_FOR_A_WRITER {
            return Err("it is a pipe to which nobody writes (any more)".to_owned());
        }
        if paused >= pauses {
            return Err("its end has not come within 10 s".to_owned());
        }
        paused += 1;
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "configurations and secrets are read on threads that serve nobody"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

fn text_of(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            Err(format!("not UTF-8 in line {line}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    fn pipe(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("pipe");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).expect("a pipe");
        path
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let dir = folder();
        let socket = dir.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (path, why) in [
            (dir.path(), "it is a folder, not a file"),
            (Path::new("/dev/zero"), "it is a device, not a file"),
            (&socket, "it is a socket, not a file"),
            (
                &pipe(&dir),
                "it is a pipe to which nobody writes (any more)",
            ),
        ] {
            assert_eq!(read_bytes(path).expect_err("refused"), why);
        }
        let long = dir.path().join("long");
        let file = File::create(&long).expect("a file");
        file.set_len(LONGEST_FILE).expect("sparse");
        assert!(read_bytes(&long).is_ok());
        file.set_len(LONGEST_FILE + 1).expect("sparse");
        assert_eq!(read_bytes(&long).expect_err("refused"), "longer than 1 MiB");
        assert!(read_hosts(&long).is_ok(), "hosts may be longer");
    }

    #[test]
    fn a_pipe_with_a_writer_is_read_to_its_end_however_slow_that_is() {
        let dir = folder();
        let path = pipe(&dir);
        let there = path.clone();
        let writer = std::thread::spawn(move || {
            // Waits for the reader.
            let mut pipe = OpenOptions::new().write(true).open(there).expect("opened");
            for part in ["one", " two", "\nthree"] {
                pipe.write_all(part.as_bytes()).expect("written");
                // Read before more comes.
                while rustix::io::ioctl_fionread(&pipe).expect("a pipe") > 0 {
                    std::thread::yield_now();
                }
            }
        });
        let read = read_text(&path).expect("read");
        writer.join().expect("it wrote");
        assert_eq!(*read, "one two\nthree");
        assert!(read_hosts(&path).is_err());
    }

    #[test]
    fn a_writer_that_never_ends_is_given_up() {
        let dir = folder();
        let path = pipe(&dir);
        let both = OpenOptions::new().read(true).write(true).open(&path);
        let mut both = both.expect("opened");
        both.write_all(b"half").expect("written");
        let why = read_within(&path, 10, 20).expect_err("refused");
        assert_eq!(why, "its end has not come within 10 s");
        both.write_all(&[b'x'; 4096]).expect("written");
        let why = read_within(&path, 4095, 20).expect_err("refused");
        assert_eq!(why, "longer than 0 MiB", "it is not read on");
    }
}
