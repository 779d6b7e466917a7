//! The server that is tested: which one it is, and which tests are left out because it cannot do what they are about.
//!
//! ```text
//! #[test]
//! fn libraries_survive() {
//!     needs!("FUNCTION FLUSH");                          // left out where the server answers this with an error
//!     needs!("CONFIG GET maxmemory-clients");            // or with an empty list: there is no such setting
//!     needs!(tls);                                       // left out where its program was built without
//!     ...
//! ```
//!
//! The reason is what the server itself answered. A test that is left out says so on the standard error, past libtest's
//! capture, and as a line `test TAB reason` in the file that `RESPOOL_LEFT_OUT` names: `scripts/servers` counts those.

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::LazyLock;

use super::ports::free_port;
use super::redis::Redis;
use super::value::Value;

/// Says whether the server is Valkey, and its version: `redis-server --version` tells it without a start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestedServer {
    pub(crate) is_valkey: bool,
    pub(crate) version: (u32, u32),
}

/// The server that every test of this process starts: `$REDIS_SERVER` or `redis-server` of the path.
pub(crate) static TESTED_SERVER: LazyLock<TestedServer> = LazyLock::new(|| {
    let program = program();
    let output = Command::new(&program)
        .arg("--version")
        .output()
        .unwrap_or_else(|e| panic!("start {program}: {e} (set REDIS_SERVER)"));
    TestedServer::parse(&String::from_utf8_lossy(&output.stdout))
});

/// Names the program of the server.
pub(crate) fn program() -> String {
    std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

impl TestedServer {
    /// Reads `Redis server v=7.0.15 sha=...` or `Valkey server v=9.1.2 sha=...`.
    #[track_caller]
    pub(crate) fn parse(line: &str) -> Self {
        let version = line.split_once(" v=").map(|(_, rest)| rest);
        let mut numbers = version.unwrap_or_default().split(['.', ' ']);
        let mut number = || numbers.next().and_then(|n| n.parse().ok());
        match (number(), number()) {
            (Some(major), Some(minor)) => Self {
                is_valkey: line.starts_with("Valkey"),
                version: (major, minor),
            },
            _ => panic!("no version of a server: {line}"),
        }
    }

    /// Names it as the corpus and the documents do, `Redis 6.2`.
    pub(crate) fn name(self) -> String {
        let kind = if self.is_valkey { "Valkey" } else { "Redis" };
        let (major, minor) = self.version;
        format!("{kind} {major}.{minor}")
    }

    /// Tells whether it has what Redis 7.0 brought: shard channels, `BLMPOP` and `BZMPOP`, subcommands as commands of their own.
    pub(crate) fn is_7_or_later(self) -> bool {
        self.is_valkey || self.version >= (7, 0)
    }

    /// Tells whether it answers a login that fails wherever it stands in a write. Redis 8.2.3 gives no reply to one that another
    /// request stands before: docs/servers.md.
    pub(crate) fn answers_every_login(self) -> bool {
        self.is_valkey || self.version != (8, 2)
    }

    /// Tells whether it takes `--enable-debug-command`; Redis before 7.0 has no such setting, and DEBUG is open to everybody.
    pub(crate) fn locks_debug(self) -> bool {
        self.is_7_or_later()
    }
}

/// Leaves the test out where the server answers a command with an error or an empty list. The command's words are
/// divided by spaces.
macro_rules! needs {
    (tls) => {
        fn here() {}
        if $crate::harness::is_left_out(
            std::any::type_name_of_val(&here),
            $crate::harness::NEEDS_TLS,
        ) {
            return;
        }
    };
    ($command:literal) => {
        fn here() {}
        if $crate::harness::is_left_out(std::any::type_name_of_val(&here), $command) {
            return;
        }
    };
}
pub(crate) use needs;

/// Stands for what [`needs!`] asks for with `tls`.
pub(crate) const NEEDS_TLS: &str = "--tls-port";

/// Tells whether the test is left out, and says so if it is. `here` is the path of an item inside the test, `command` what the server
/// must have: behind `not `, what it must refuse.
pub(crate) fn is_left_out(here: &str, command: &str) -> bool {
    what_is_missing(command).is_some_and(|reason| leave_out(here, &reason))
}

/// Says and counts that the test is left out; always true.
pub(crate) fn leave_out(here: &str, reason: &str) -> bool {
    let test = here.trim_end_matches("::here");
    let test = test.split_once("::").map_or(test, |(_, test)| test);
    // The macros that print are captured by libtest; a test that did not run is not to be passed over in silence.
    let _ = writeln!(std::io::stderr(), "left out: {test}: {reason}");
    if let Some(path) = std::env::var_os("RESPOOL_LEFT_OUT") {
        let file = File::options().create(true).append(true).open(&path);
        let line = format!("{test}\t{reason}\n");
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    true
}

/// Tells what the server answers if it has not got what the command is about.
pub(crate) fn what_is_missing(command: &str) -> Option<String> {
    if command == NEEDS_TLS {
        return tls_is_missing();
    }
    let (command, is_refused) = match command.strip_prefix("not ") {
        Some(command) => (command, true),
        None => (command, false),
    };
    let words: Vec<_> = command.split(' ').collect();
    match Redis::start_plain(&[]).cmd(&words) {
        answer if is_refused => {
            let text = format!("`{command}` is answered `{answer:?}`");
            (!answer.is_error()).then_some(text)
        }
        Value::Array(items) if items.is_empty() => {
            Some(format!("`{command}` is answered with an empty list"))
        }
        answer if answer.is_error() => Some(format!("`{command}` is answered `{}`", answer.text())),
        _ => None,
    }
}

/// Tells what the program says of a port for TLS if it was built without. It ends in any case: no certificate is named.
fn tls_is_missing() -> Option<String> {
    let output = Command::new(program())
        .args(["--port", "0", "--tls-port", &free_port().to_string()])
        .output()
        .expect("the server's program starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let without = ["Bad directive", "Missing implement of connection type tls"];
    let found = without.into_iter().find(|text| said.contains(text));
    found.map(|text| format!("a start with `--tls-port` ends with `{text}`"))
}
