//! What `respool check` tries out, so that it refuses what `respool run` would: addresses, folders of sockets, TLS.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::config::{Address, AdminAddress, Problem, Settings};
use crate::transport::{Acceptance, Connector, is_left_over, try_bind};

/// What keeps a respool with these settings from starting here.
#[derive(Debug, Default)]
pub struct Trial {
    /// It would not start.
    pub problems: Vec<Problem>,
    /// It would not start now: an address is in use, as it is when this respool runs already.
    pub warnings: Vec<Problem>,
}

impl Trial {
    /// Tries what a start would do and takes it back at once. Nothing listens meanwhile.
    pub fn of(settings: &Settings) -> Self {
        let mut trial = Self::default();
        for listener in &settings.listeners {
            trial.address("listener.address", &listener.address);
            let tls = listener.tls.as_ref().map(Acceptance::new);
            if let Some(Err(why)) = tls {
                let what = format!("{}: {why}", listener.name);
                trial.problem("listener.tls", what, "correct the certificate and the key");
            }
            let owns = listener.access.owner;
            let me = rustix::process::geteuid();
            if owns.is_some_and(|owner| !me.is_root() && owner != me.as_raw()) {
                let what = format!("{}: only root gives files away", listener.name);
                trial.problem("listener.owner", what, "remove it, or run as root");
            }
        }
        let admin = &settings.admin;
        let of_admin = [
            ("admin.address", &admin.address),
            ("admin.health_address", &admin.health_address),
        ];
        for (key, address) in of_admin {
            match address {
                Some(AdminAddress::Tcp(address)) => {
                    let (host, port) = (address.ip().to_string(), address.port());
                    trial.address(key, &Address::Tcp { host, port });
                }
                Some(AdminAddress::Unix(path)) => trial.address(key, &Address::Unix(path.clone())),
                None => {}
            }
        }
        if let Some(Err(why)) = settings.upstream.tls.as_ref().map(Connector::new) {
            trial.problem("upstream.tls", why, "correct it");
        }
        trial
    }

    fn address(&mut self, key: &str, address: &Address) {
        let error = match address {
            Address::Tcp { host, port } => try_bind(host, *port).err(),
            Address::Unix(path) => unix_trouble(path),
        };
        let Some(error) = error else { return };
        let what = format!("cannot listen on {address}: {error}");
        if error.kind() == io::ErrorKind::AddrInUse {
            let remedy =
                "fine if this respool runs already; else free the address, or take another";
            return self.warnings.push(problem(key, what, remedy));
        }
        let remedy = match error.kind() {
            io::ErrorKind::AddrNotAvailable => "listen on an address of this host",
            io::ErrorKind::PermissionDenied => {
                "take what respool's user may have, or permit it: CAP_NET_BIND_SERVICE for ports below 1024, writing for folders"
            }
            _ => "correct the address",
        };
        self.problem(key, what, remedy);
    }

    fn problem(&mut self, key: &str, what: String, remedy: &str) {
        self.problems.push(problem(key, what, remedy));
    }
}

fn problem(key: &str, what: String, remedy: &str) -> Problem {
    Problem {
        line: None,
        key: key.to_owned(),
        what,
        remedy: remedy.to_owned(),
    }
}

/// Why no unix socket can be made at `path`, without making one.
fn unix_trouble(path: &Path) -> Option<io::Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match std::fs::metadata(folder) {
        Err(error) => return Some(error),
        Ok(about) if !about.is_dir() => return Some(io::ErrorKind::NotADirectory.into()),
        Ok(_) => {}
    }
    if let Err(error) = access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        return Some(error.into());
    }
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => {
            Some(io::Error::other("there is a file that is no socket"))
        }
        // One that nobody listens on is removed.
        Ok(_) if !is_left_over(path) => Some(io::ErrorKind::AddrInUse.into()),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(toml: &str) -> (Vec<String>, Vec<String>) {
        let text = format!("{toml}\n[upstream]\naddress = \"127.0.0.1:1\"\n");
        let settings = Settings::from_toml(&text).expect("it reads well");
        let trial = Trial::of(&settings);
        let keys = |list: &[Problem]| list.iter().map(|one| one.key.clone()).collect();
        (keys(&trial.problems), keys(&trial.warnings))
    }

    fn listening(address: &str) -> (Vec<String>, Vec<String>) {
        keys(&format!("[[listener]]\naddress = \"{address}\""))
    }

    #[test]
    fn what_cannot_be_listened_on_is_told() {
        let one = || vec!["listener.address".to_owned()];
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| format!("unix:{}", dir.path().join(name).display());
        std::fs::write(dir.path().join("file"), "").expect("a file");
        for wrong in [
            "192.0.2.77:6380".to_owned(),
            at("nothing/here.sock"),
            at("file/here.sock"),
            at("file"),
        ] {
            assert_eq!(listening(&wrong), (one(), Vec::new()), "{wrong}");
        }
        for right in ["127.0.0.1:0".to_owned(), at("new.sock")] {
            assert_eq!(listening(&right), (Vec::new(), Vec::new()), "{right}");
        }
        assert!(
            !dir.path().join("new.sock").exists(),
            "nothing is left behind"
        );
    }

    #[test]
    fn what_is_in_use_is_a_warning() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("bound").to_string();
        let (problems, warnings) = listening(&address);
        assert_eq!((problems.len(), warnings.len()), (0, 1));
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("own.sock");
        let _taken = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let (problems, warnings) = listening(&format!("unix:{}", path.display()));
        assert_eq!((problems.len(), warnings.len()), (0, 1));
        assert!(path.exists());
        let admin =
            format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"{address}\"");
        assert_eq!(keys(&admin), (Vec::new(), vec!["admin.address".to_owned()]));
    }
}
