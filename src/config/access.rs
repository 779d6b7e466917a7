//! Who may connect to a unix socket: the mode and owner of its file.

use super::file::WrittenFile;
use super::problem::ConfigProblem;

/// Says what is set on the file of a unix socket before anybody can connect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// Sets the permission bits.
    pub mode: Option<u32>,
    /// Sets the owner, by user id.
    pub owner: Option<u32>,
    /// Sets the group, by group id.
    pub group: Option<u32>,
}

/// Returns the access of the listener at `path`, and what is wrong with it.
pub(super) fn access(file: &WrittenFile, path: &str) -> (AccessSettings, Vec<ConfigProblem>) {
    let mut problems = Vec::new();
    let mut id = |name: &str, list: &str| {
        let key = format!("{path}.{name}");
        let text = file.text(&key)?;
        let found = text.parse().ok().or_else(|| {
            let accounts = std::fs::read_to_string(list).unwrap_or_default();
            id_of(&accounts, &text)
        });
        // Which the kernel takes for "leave it as it is".
        let found = found.filter(|id| *id != u32::MAX);
        if found.is_none() {
            problems.push(ConfigProblem::new(
                file.line(&key),
                super::file::key_of(&key),
                format!("there is no such {name} in {list}"),
                "write its number, or a name that stands there",
            ));
        }
        found
    };
    let access = AccessSettings {
        owner: id("owner", "/etc/passwd"),
        group: id("group", "/etc/group"),
        mode: file.mode(&format!("{path}.mode")),
    };
    (access, problems)
}

/// Finds the id of a name in the text of `/etc/passwd` or `/etc/group`.
fn id_of(accounts: &str, name: &str) -> Option<u32> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        is_it.then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nredis:x:101:102::/:/bin/false\nbroken\n";
        assert_eq!(id_of(passwd, "redis"), Some(101));
        assert_eq!(id_of(passwd, "root"), Some(0));
        assert_eq!(id_of(passwd, "red"), None);
        assert_eq!(id_of(passwd, "broken"), None);
        assert_eq!(id_of("", "root"), None);
    }
}
