//! A private `redis-server`: free port, own directory, nothing persisted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::process::Signal;
use tempfile::TempDir;

use super::client::Client;
use super::peak_watch::PeakWatch;
use super::pki::{CertificatePair, Pki, TlsEverywhere};
use super::ports::free_port;
use super::process::ChildProcess;
use super::tested_server::{self, TESTED_SERVER};
use super::value::Value;
use super::{eventually, lock, private_folder};

/// Runs a server for as long as this value lives. The program is `$REDIS_SERVER`, or `redis-server` of the path.
pub(crate) struct Redis {
    dir: TempDir,
    host: &'static str,
    port: u16,
    tls_port: Option<u16>,
    everywhere: Option<TlsEverywhere>,
    options: Vec<String>,
    process: ChildProcess,
    /// Holds the test's own connection, which is made when it is first needed.
    control: Mutex<Option<Client>>,
}

impl Redis {
    /// Starts a server with options as on its command line (`&["--maxclients", "64"]`) and waits until it answers.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Self {
        let Some(everywhere) = TlsEverywhere::asked() else {
            return Self::start_plain(options);
        };
        let (tls_port, options) = tls_options(&everywhere.pki, &everywhere.pair, options);
        Self::start_on(
            ("127.0.0.1", free_port()),
            Some(tls_port),
            Some(everywhere),
            options,
        )
    }

    /// Starts a server without TLS, whatever `RESPOOL_TLS` asks for.
    #[track_caller]
    pub(crate) fn start_plain(options: &[&str]) -> Self {
        Self::start_at("127.0.0.1", free_port(), options)
    }

    /// Starts a server without TLS on an address of its own, `127.0.0.2`, and the port of another: a name can stand for either.
    #[track_caller]
    pub(crate) fn start_at(host: &'static str, port: u16, options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned());
        Self::start_on((host, port), None, None, options.collect())
    }

    /// Does as [`Redis::start`], with TLS on a port of its own. It trusts `pki` and asks no certificate of anybody, unless the
    /// options say so.
    #[track_caller]
    pub(crate) fn start_tls(pki: &Pki, own: &CertificatePair, options: &[&str]) -> Self {
        let (tls_port, options) = tls_options(pki, own, options);
        Self::start_on(("127.0.0.1", free_port()), Some(tls_port), None, options)
    }

    /// Starts a replica of `primary` with options, and waits until it has all that the primary has.
    #[track_caller]
    pub(crate) fn start_replica(primary: &Self, options: &[&str]) -> Self {
        // Else it is sent what there is only after five seconds, in which others might ask for the same.
        let at_once = ["CONFIG", "SET", "repl-diskless-sync-delay", "0"];
        assert_eq!(primary.cmd(&at_once), Value::ok());
        let port = primary.port.to_string();
        let replica = Self::start(&[&["--replicaof", "127.0.0.1", &port], options].concat());
        eventually(
            || replica.info("master_link_status") == "up",
            "the replica follows its primary",
        );
        replica
    }

    #[track_caller]
    fn start_on(
        (host, port): (&'static str, u16),
        tls_port: Option<u16>,
        everywhere: Option<TlsEverywhere>,
        options: Vec<String>,
    ) -> Self {
        let redis = Self {
            dir: private_folder("respool-redis-"),
            host,
            port,
            tls_port,
            everywhere,
            options,
            process: ChildProcess::default(),
            control: Mutex::new(None),
        };
        redis.restart();
        redis
    }

    /// Starts it again after [`Redis::kill_hard`], on the same port, empty.
    #[track_caller]
    pub(crate) fn restart(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a log file");
        let debug: &[&str] = match TESTED_SERVER.locks_debug() {
            true => &["--enable-debug-command", "local"],
            false => &[],
        };
        let mut command = Command::new(tested_server::program());
        command
            .args(["--port", &self.port.to_string(), "--bind", self.host])
            .args(["--daemonize", "no", "--save", "", "--appendonly", "no"])
            .args(debug)
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--unixsocket")
            .arg(self.unix_path())
            .args(&self.options)
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log);
        self.process.start(&mut command);
        eventually(
            || {
                if let Some(status) = self.process.status() {
                    panic!("redis-server ended at once, {status}:\n{}", self.log_text());
                }
                let answer = Client::try_connect(&self.addr())
                    .ok()
                    .and_then(|mut c| c.try_cmd(&["PING"]));
                answer == Some(Value::simple("PONG"))
            },
            "redis-server answers",
        );
    }

    /// Ends it by SIGKILL: connections are reset, nothing is finished.
    #[track_caller]
    pub(crate) fn kill_hard(&self) {
        lock(&self.control).take();
        assert!(self.process.kill(), "the server runs");
    }

    /// Stops its process for a while (SIGSTOP): connections stay, nothing is answered. End it with [`Redis::resume`].
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    /// Lets a paused process run on.
    #[track_caller]
    pub(crate) fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Tells its process id.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Tells its address, `127.0.0.1:port`.
    pub(crate) fn addr(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Tells its address and its port.
    pub(crate) fn host_and_port(&self) -> (&'static str, u16) {
        (self.host, self.port)
    }

    /// Tells where respool finds it, by `RESPOOL_TLS`.
    pub(crate) fn server_addr(&self) -> String {
        match self.everywhere {
            None => self.addr(),
            Some(_) => self.tls_addr(),
        }
    }

    /// Tells what `RESPOOL_TLS` asks for.
    pub(super) fn everywhere(&self) -> Option<&TlsEverywhere> {
        self.everywhere.as_ref()
    }

    /// Tells the address where it speaks TLS.
    #[track_caller]
    pub(crate) fn tls_addr(&self) -> String {
        let port = self.tls_port.expect("the server was started with TLS");
        format!("127.0.0.1:{port}")
    }

    /// Tells the path of its unix socket.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Makes a new direct connection.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    /// Sends one command on the test's own direct connection, which is kept.
    #[track_caller]
    pub(crate) fn cmd<A: AsRef<[u8]>>(&self, args: &[A]) -> Value {
        let mut control = lock(&self.control);
        control.get_or_insert_with(|| self.client()).cmd(args)
    }

    /// Reads a field of INFO; panics when there is none of that name.
    #[track_caller]
    pub(crate) fn info(&self, field: &str) -> String {
        let text = self.cmd(&["INFO", "everything"]).text();
        find_field(&text, field).unwrap_or_else(|| panic!("no field {field} in INFO"))
    }

    /// Reads a field of INFO that is a number.
    #[track_caller]
    pub(crate) fn info_number(&self, field: &str) -> u64 {
        self.info(field).parse().expect("the field is a number")
    }

    /// Tells how often the server was asked to run a command.
    #[track_caller]
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats = self.cmd(&["INFO", "commandstats"]).text();
        let head = format!("cmdstat_{command}:calls=");
        let found = stats.lines().find_map(|line| line.strip_prefix(&head));
        let number = found.and_then(|rest| rest.split(',').next());
        number.map_or(0, |number| number.parse().expect("calls are counted"))
    }

    /// Counts the connections at the server, without the test's own that asks. Other direct clients of the test count.
    #[track_caller]
    pub(crate) fn connected_clients(&self) -> usize {
        self.info_number("connected_clients") as usize - 1
    }

    /// Watches the most connections that the server has at once, as it counts them itself. The watch has one of its own, which
    /// does not count; the test's own does.
    #[track_caller]
    pub(crate) fn watch_connections(&self) -> PeakWatch {
        let mut client = self.client();
        PeakWatch::start(1, move || {
            let text = client.try_cmd(&["INFO", "clients"])?.text();
            let count = find_field(&text, "connected_clients");
            Some(count.and_then(|n| n.parse().ok()).unwrap_or(0))
        })
    }

    /// Sets rules of a user of the server.
    #[track_caller]
    pub(crate) fn set_user(&self, name: &str, rules: &[&str]) {
        let words = [&["ACL", "SETUSER", name][..], rules].concat();
        assert_eq!(self.cmd(&words), Value::ok(), "{words:?}");
    }

    /// Empties databases, scripts and, where the server has them, functions.
    #[track_caller]
    pub(crate) fn flush(&self) {
        for command in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"]] {
            assert_eq!(self.cmd(command), Value::ok(), "{command:?}");
        }
        let functions = self.cmd(&["FUNCTION", "FLUSH"]);
        assert!(functions == Value::ok() || functions.text().starts_with("ERR unknown command"));
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("redis.log")
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!(
                "--- redis-server on {} ---\n{}",
                self.addr(),
                last_lines(&self.log_text(), 30)
            );
        }
    }
}

/// Finds a free port, and makes the options of a server that speaks TLS there.
fn tls_options(pki: &Pki, own: &CertificatePair, more: &[&str]) -> (u16, Vec<String>) {
    let port = free_port();
    let text = |path: &Path| path.display().to_string();
    let (port_text, ca) = (port.to_string(), text(&pki.ca_file()));
    let (cert, key) = (text(&own.cert), text(&own.key));
    let tls = [
        ["--tls-port", &port_text],
        ["--tls-cert-file", &cert],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &ca],
        ["--tls-auth-clients", "no"],
    ];
    let all = tls.as_flattened().iter().chain(more);
    (port, all.map(|&option| option.to_owned()).collect())
}

fn find_field(info: &str, field: &str) -> Option<String> {
    info.lines()
        .find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.to_owned()))
}

/// Cuts the end out of a log.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
