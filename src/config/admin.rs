//! The operator's endpoint: where it listens, who may ask, and who may change something.

use std::path::Path;

use super::file::WrittenFile;
use super::files::read_text;
use super::machine::FileSurroundings;
use super::problem::ConfigProblem;
use super::{AdminAddress, PasswordDigest, auth};

/// Says where the operator's endpoint is and whom it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminSettings {
    /// Everything is served there.
    pub address: Option<AdminAddress>,
    /// `/livez` and `/readyz` are served there, and nothing else.
    pub health_address: Option<AdminAddress>,
    /// Sets the permission bits of the files of unix sockets.
    pub mode: Option<u32>,
    /// Bounds the connections at each address.
    pub max_connections: usize,
    /// It may be asked by these names, beside IP addresses and `localhost`: lower case, `*.` stands for any labels.
    pub hosts: Vec<String>,
    /// Whoever changes something must show this.
    pub token: Option<PasswordDigest>,
    /// Is true where whoever reads must show it, too; probes never must.
    pub read_token: bool,
}

impl AdminSettings {
    /// Tells whether it may be asked by this name, which a browser takes from the page's own address: another site's name that leads here
    /// is not one of ours.
    pub fn is_known_as(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else {
            return false;
        };
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.parse::<std::net::IpAddr>().is_ok() {
            return true;
        }
        self.hosts
            .iter()
            .any(|known| match known.strip_prefix('*') {
                Some(end) => name.len() > end.len() && name.ends_with(end),
                None => name == *known,
            })
    }
}

/// Returns the name in a `Host`, without its port and the brackets of an IPv6 address.
fn name_of(host: &str) -> Option<&str> {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let (name, port) = rest.split_once(']')?;
        let is_whole = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return Some(name).filter(|name| is_whole && name.contains(':'));
    }
    match host.split_once(':') {
        None => Some(host),
        Some((name, port)) => is_port(port).then_some(name),
    }
}

/// Lists the keys by which the token can be written.
const TOKEN_KEYS: [&str; 3] = ["admin.token", "admin.token_file", "admin.token_env"];

/// Returns what whoever changes something must show, by the first key that says so, and adds to the problems where one cannot be read.
fn token(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    problems: &mut Vec<ConfigProblem>,
) -> Option<PasswordDigest> {
    let mut first = None;
    for key in TOKEN_KEYS {
        match auth::secret(file, around, key) {
            Ok(found) => first = first.or(found),
            Err(problem) => problems.push(problem),
        }
    }
    first.map(|token| PasswordDigest::of(token.expose().as_bytes()))
}

/// Returns the endpoint that `file` means, and what is wrong with it.
pub(super) fn admin(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
) -> (AdminSettings, Vec<ConfigProblem>) {
    let mut problems = Vec::new();
    let token = token(file, around, &mut problems);
    let written: Vec<&str> = TOKEN_KEYS
        .into_iter()
        .filter(|key| file.line(key).is_some())
        .collect();
    let mut wrong = |key: &str, what: &str, remedy: &str| {
        problems.push(ConfigProblem::new(file.line(key), key, what, remedy));
    };
    if let [_, second, ..] = written[..] {
        wrong(second, "there are two tokens", "keep one of them");
    }
    let read_token = file.flag("admin.read_token");
    if read_token && written.is_empty() {
        wrong(
            "admin.read_token",
            "reading is to need a token, and none is set",
            "add token_file = \"...\" to [admin], or remove read_token",
        );
    }
    let admin = AdminSettings {
        address: file.admin_address("admin.address"),
        health_address: file.admin_address("admin.health_address"),
        mode: file.mode("admin.mode"),
        max_connections: file.number("admin.max_connections"),
        hosts: file.texts("admin.hosts"),
        token,
        read_token,
    };
    let has_file = [&admin.address, &admin.health_address]
        .iter()
        .any(|one| matches!(one, Some(AdminAddress::Unix(_))));
    if admin.mode.is_some() && !has_file {
        wrong(
            "admin.mode",
            "only the file of a unix socket has a mode",
            "remove it, or write address = \"unix:/path\"",
        );
    }
    if admin.address.is_none() && !written.is_empty() && !file.is_refused("admin.address") {
        wrong(
            written[0],
            "a token is set, and no admin endpoint that would ask for it",
            "add address = \"...\" to [admin]",
        );
    }
    (admin, problems)
}

/// Warns of what is no mistake and yet worth a word.
pub(super) fn warnings(file: &WrittenFile, admin: &AdminSettings) -> Vec<ConfigProblem> {
    let is_far = |address: &AdminAddress| match address {
        AdminAddress::Tcp(address) => !address.ip().is_loopback(),
        AdminAddress::Unix(_) => false,
    };
    let open = admin.address.as_ref().is_some_and(is_far) && admin.token.is_none();
    let warning = open.then(|| {
        ConfigProblem::new(
            file.line("admin.address"),
            "admin.address",
            "other hosts reach it, and whoever does may reload",
            "set admin.token_file, or listen on 127.0.0.1",
        )
    });
    warning.into_iter().collect()
}

/// Returns the address at which to ask whether the respool of the configuration at `path` lives, whatever else is wrong with it.
///
/// # Errors
/// One line for people says that it cannot be read, or that there is no such address.
pub fn health_address(path: &Path) -> Result<AdminAddress, String> {
    let of_file = |why: String| format!("{}: {why}", path.display());
    let text = read_text(path).map_err(|why| of_file(format!("cannot be read: {why}")))?;
    address_of(&text)
        .map_err(|problem| of_file(problem.to_string()))?
        .ok_or_else(|| {
            of_file(
                "there is no address to ask: add address = \"127.0.0.1:9180\" to [admin]"
                    .to_owned(),
            )
        })
}

fn address_of(text: &str) -> Result<Option<AdminAddress>, ConfigProblem> {
    let (file, _) = WrittenFile::read(text)?;
    let health = file.admin_address("admin.health_address");
    Ok(health.or_else(|| file.admin_address("admin.address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_known() {
        let admin = AdminSettings {
            hosts: vec![
                "respool.example.com".to_owned(),
                "*.svc.cluster.local".to_owned(),
            ],
            ..AdminSettings::default()
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:9180",
            "10.1.2.3:1",
            "[::1]",
            "[::1]:9180",
            "localhost",
            "LocalHost:9180",
            "localhost.",
            "respool.example.com:80",
            "RESPOOL.example.com.",
            "a.b.svc.cluster.local:9180",
        ] {
            assert!(admin.is_known_as(host), "{host}");
        }
        for host in [
            "",
            "evil.example.com",
            "127.0.0.1.evil.example.com",
            "127.0.0.1:",
            "127.0.0.1:9180:1",
            "127.0.0.1:80@evil.example.com",
            "evil@127.0.0.1",
            "localhost.evil.com",
            "svc.cluster.local",
            ".svc.cluster.local",
            "xsvc.cluster.local",
            "[127.0.0.1]",
            "[::1",
            "[::1]x",
            "0x7f.1",
            "127.1",
            "respool.example.com.evil.com",
        ] {
            assert!(!admin.is_known_as(host), "{host}");
        }
    }

    #[test]
    fn health_is_asked_where_it_is_told_whatever_else_is_wrong() {
        let own = "wrong = 1\n[admin]\naddress = \"0.0.0.0:1\"\nhealth_address = \"unix:/run/x\"\n";
        let told = address_of(own).expect("TOML");
        assert_eq!(
            told.map(|one| one.to_string()).as_deref(),
            Some("unix:/run/x")
        );
        let told = address_of("[admin]\naddress = \"0.0.0.0:1\"\n").expect("TOML");
        assert_eq!(
            told.map(|one| one.to_string()).as_deref(),
            Some("0.0.0.0:1")
        );
        assert!(matches!(address_of("[upstream]\n"), Ok(None)));
        assert!(address_of("[admin\n").is_err());
    }
}
