//! What `respool check` tries out, so that it refuses what `respool run` would: addresses, folders of sockets, TLS.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use crate::config::{
    Address, AdminAddress, ConfigProblem, ListenerSettings, Settings, share_a_port,
};
use crate::transport::{
    AccessHindrance, ClientTls, TlsConnector, folder_of, is_full, is_to_be_cleared, is_to_stay,
    mode_trouble, remedy, try_bind, ungiven,
};

/// Knows what keeps a respool with these settings from starting here.
#[derive(Debug, Default)]
pub(super) struct StartTrial {
    /// It would not start.
    pub(super) problems: Vec<ConfigProblem>,
    /// It starts, or would but for an address that is in use, as it is when this respool runs already.
    pub(super) warnings: Vec<ConfigProblem>,
    /// It would listen there by now, each place with what is written for it.
    taken: Vec<(ListenPlace, String)>,
}

/// Says where a socket listens.
#[derive(Debug)]
enum ListenPlace {
    Port(SocketAddr),
    /// It listens at a file: this is the folder without links, and the name in it.
    File(PathBuf),
}

/// Says what is in the way of an address.
enum ListenObstacle {
    /// This respool itself would listen on it already.
    Own(String),
    Other(io::Error),
}

impl From<io::Error> for ListenObstacle {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

impl StartTrial {
    /// Tries what a start would do and takes it back at once. Nothing listens meanwhile.
    pub(super) fn of(settings: &Settings) -> Self {
        let mut trial = Self::default();
        for listener in &settings.listeners {
            trial.address("listener.address", &listener.address);
            let tls = listener.tls.as_ref().map(ClientTls::new);
            if let Some(Err(why)) = tls {
                let what = format!("{}: {why}", listener.name);
                trial.problem("listener.tls", what, "correct the certificate and the key");
            }
            trial.owner(listener);
            if let Address::Unix(path) = &listener.address {
                trial.mode("listener.mode", path, listener.access.mode);
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
                Some(AdminAddress::Unix(path)) => {
                    trial.address(key, &Address::Unix(path.clone()));
                    trial.mode("admin.mode", path, admin.mode);
                }
                None => {}
            }
        }
        if let Some(Err(why)) = settings.upstream.tls.as_ref().map(TlsConnector::new) {
            trial.problem("upstream.tls", why.what, why.remedy);
        }
        trial
    }

    /// Checks whether respool may give the file of the socket to those who are to have it, and remove it in the end.
    fn owner(&mut self, listener: &ListenerSettings) {
        let Address::Unix(path) = &listener.address else {
            return;
        };
        let told = |why: AccessHindrance| {
            let key = format!("listener.{}", why.key);
            problem(&key, format!("{}: {}", listener.name, why.what), why.remedy)
        };
        let ungiven = ungiven(path, &listener.access);
        if ungiven.is_empty() {
            let stays = is_to_stay(path, &listener.access);
            self.warnings.extend(stays.map(told));
        }
        self.problems.extend(ungiven.into_iter().map(told));
    }

    /// Checks whether the mode of the socket's file can be set here.
    fn mode(&mut self, key: &str, path: &Path, mode: Option<u32>) {
        if let Some((what, remedy)) = mode.and_then(|_| mode_trouble(path)) {
            let what = format!("unix:{}: {what}", path.display());
            self.problem(key, what, remedy);
        }
    }

    fn address(&mut self, key: &str, address: &Address) {
        let tried = match address {
            Address::Tcp { host, port } => self.port(host, *port),
            Address::Unix(path) => self.file(path),
        };
        let (place, obstacle) = match tried {
            Ok(place) => (Some(place), None),
            Err((place, obstacle)) => (place, Some(obstacle)),
        };
        self.taken
            .extend(place.map(|place| (place, address.to_string())));
        let error = match obstacle {
            None => return,
            Some(ListenObstacle::Own(other)) => {
                let what = format!("cannot listen on {address}: {other} is the same");
                return self.problem(key, what, "listen on another port or path");
            }
            Some(ListenObstacle::Other(error)) => error,
        };
        let what = format!("cannot listen on {address}: {error}");
        if error.kind() == io::ErrorKind::AddrInUse {
            let remedy = format!("fine if this respool runs already; else {}", remedy(&error));
            return self.warnings.push(problem(key, what, &remedy));
        }
        self.problem(key, what, remedy(&error));
    }

    /// Tries the addresses of `host` in their order, as a start does, and says which it is.
    ///
    /// # Errors
    /// None can be had; with the one that is in use, as it is by this respool itself when it runs already.
    fn port(
        &self,
        host: &str,
        port: u16,
    ) -> Result<ListenPlace, (Option<ListenPlace>, ListenObstacle)> {
        let addresses = (host, port).to_socket_addrs();
        let addresses = addresses.map_err(|error| (None, error.into()))?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable).into();
        let mut in_use = None;
        for at in addresses {
            let is_here = |(place, _): &&(ListenPlace, String)| match place {
                ListenPlace::Port(other) => share_a_port(*other, at),
                ListenPlace::File(_) => false,
            };
            if let Some((_, other)) = self.taken.iter().find(is_here) {
                last = ListenObstacle::Own(other.clone());
                continue;
            }
            match try_bind(at) {
                Ok(()) => return Ok(ListenPlace::Port(at)),
                Err(error) => {
                    if error.kind() == io::ErrorKind::AddrInUse {
                        in_use = in_use.or(Some(ListenPlace::Port(at)));
                    }
                    last = error.into();
                }
            }
        }
        Err((in_use, last))
    }

    /// Says which file the socket would have.
    ///
    /// # Errors
    /// There can be none; with the one where somebody listens, as this respool itself does when it runs already.
    fn file(&self, path: &Path) -> Result<ListenPlace, (Option<ListenPlace>, ListenObstacle)> {
        let folder = folder_of(path);
        let name = path.file_name().unwrap_or_default();
        let file = folder.canonicalize().map(|folder| folder.join(name));
        let file = file.map_err(|error| (None, error.into()))?;
        let is_here = |(place, _): &&(ListenPlace, String)| match place {
            ListenPlace::Port(_) => false,
            ListenPlace::File(other) => *other == file,
        };
        if let Some((_, other)) = self.taken.iter().find(is_here) {
            return Err((None, ListenObstacle::Own(other.clone())));
        }
        match unix_trouble(path) {
            None => Ok(ListenPlace::File(file)),
            Some(error) => {
                let is_in_use = error.kind() == io::ErrorKind::AddrInUse;
                Err((is_in_use.then_some(ListenPlace::File(file)), error.into()))
            }
        }
    }

    fn problem(&mut self, key: &str, what: String, remedy: &str) {
        self.problems.push(problem(key, what, remedy));
    }
}

fn problem(key: &str, what: String, remedy: &str) -> ConfigProblem {
    ConfigProblem {
        line: None,
        key: key.to_owned(),
        what,
        remedy: remedy.to_owned(),
    }
}

/// Returns why no unix socket can be made at `path`, without making one.
fn unix_trouble(path: &Path) -> Option<io::Error> {
    match is_to_be_cleared(path) {
        Err(error) => Some(error),
        Ok(_) if is_full(path) => Some(rustix::io::Errno::NOSPC.into()),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(toml: &str) -> (Vec<String>, Vec<String>) {
        let text = format!("{toml}\n[upstream]\naddress = \"127.0.0.1:1\"\n");
        let settings = Settings::from_toml(&text).expect("it reads well");
        let trial = StartTrial::of(&settings);
        let keys = |list: &[ConfigProblem]| list.iter().map(|one| one.key.clone()).collect();
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
    fn no_two_sockets_are_in_one_place() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("inner")).expect("a folder");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).expect("a link");
        let file = |path: &str| format!("unix:{}", dir.path().join(path).display());
        let own = file("own.sock");
        for other in [file("inner/../own.sock"), file("link/own.sock")] {
            let two = format!("[[listener]]\naddress = \"{own}\"\n");
            let two = two + &format!("[[listener]]\naddress = \"{other}\"");
            assert_eq!(
                keys(&two),
                (vec!["listener.address".to_owned()], Vec::new()),
                "{other}"
            );
            let admin =
                format!("[[listener]]\naddress = \"{own}\"\n[admin]\naddress = \"{other}\"");
            assert_eq!(
                keys(&admin),
                (vec!["admin.address".to_owned()], Vec::new()),
                "{other}"
            );
        }
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
