//! A private `redis-server`: free port, own directory, nothing persisted.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::at_hand::{self, AT_HAND};
use super::client::Client;
use super::pki::{Everywhere, Pair, Pki};
use super::ports::free_port;
use super::value::Value;
use super::{eventually, eventually_some, has_stopped, lock};

/// A server that lives as long as this value. The binary is `$REDIS_SERVER` or `redis-server` of the path.
pub(crate) struct Redis {
    dir: TempDir,
    host: &'static str,
    port: u16,
    tls_port: Option<u16>,
    everywhere: Option<Everywhere>,
    options: Vec<String>,
    child: Mutex<Option<Child>>,
    /// The test's own connection, made when first needed.
    control: Mutex<Option<Client>>,
}

impl Redis {
    /// Starts a server with options as on its command line (`&["--maxclients", "64"]`) and waits until it answers.
    #[track_caller]
    pub(crate) fn start(options: &[&str]) -> Self {
        match Everywhere::asked() {
            None => Self::start_with(
                None,
                None,
                &options.iter().map(|&o| o.to_owned()).collect::<Vec<_>>(),
            ),
            Some(everywhere) => {
                let (port, all) = tls_options(&everywhere.pki, &everywhere.pair, options);
                Self::start_with(Some(port), Some(everywhere), &all)
            }
        }
    }

    /// A server without TLS, whatever `RESPOOL_TLS` asks for.
    pub(super) fn start_plain() -> Self {
        Self::start_with(None, None, &[])
    }

    /// A server without TLS on an address of its own, `127.0.0.2`, and the port of another: a name can stand for either.
    #[track_caller]
    pub(crate) fn start_at(host: &'static str, port: u16, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        Self::start_on(host, port, None, None, &options)
    }

    /// As [`Redis::start`], with TLS on a port of its own. It trusts `pki` and asks no certificate of anybody, unless the
    /// options say so.
    #[track_caller]
    pub(crate) fn start_tls(pki: &Pki, own: &Pair, options: &[&str]) -> Self {
        let (port, all) = tls_options(pki, own, options);
        Self::start_with(Some(port), None, &all)
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
    fn start_with(
        tls_port: Option<u16>,
        everywhere: Option<Everywhere>,
        options: &[String],
    ) -> Self {
        Self::start_on("127.0.0.1", free_port(), tls_port, everywhere, options)
    }

    #[track_caller]
    fn start_on(
        host: &'static str,
        port: u16,
        tls_port: Option<u16>,
        everywhere: Option<Everywhere>,
        options: &[String],
    ) -> Self {
        let redis = Self {
            host,
            port,
            tls_port,
            everywhere,
            dir: tempfile::Builder::new()
                .prefix("respool-redis-")
                .tempdir()
                .expect("a temporary directory"),
            options: options.to_vec(),
            child: Mutex::new(None),
            control: Mutex::new(None),
        };
        redis.restart();
        redis
    }

    /// Starts it again after [`Redis::kill_hard`], on the same port, empty.
    #[track_caller]
    pub(crate) fn restart(&self) {
        let mut child = lock(&self.child);
        assert!(child.is_none(), "the server runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a log file");
        let program = at_hand::program();
        let debug: &[&str] = match AT_HAND.locks_debug() {
            true => &["--enable-debug-command", "local"],
            false => &[],
        };
        let mut started = Command::new(&program)
            .args([
                "--port",
                &self.port.to_string(),
                "--bind",
                self.host,
                "--daemonize",
                "no",
            ])
            .args(["--save", "", "--appendonly", "no"])
            .args(debug)
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--unixsocket")
            .arg(self.unix_path())
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("start {program}: {e} (set REDIS_SERVER)"));
        eventually(
            || {
                if let Some(status) = started.try_wait().expect("a child can be asked") {
                    panic!("redis-server ended at once, {status}:\n{}", self.log_text());
                }
                let answer = Client::try_connect(&self.addr())
                    .ok()
                    .and_then(|mut c| c.try_cmd(&["PING"]));
                answer == Some(Value::simple("PONG"))
            },
            "redis-server answers",
        );
        *child = Some(started);
    }

    /// Ends it by SIGKILL: connections are reset, nothing is finished.
    #[track_caller]
    pub(crate) fn kill_hard(&self) {
        lock(&self.control).take();
        let mut child = lock(&self.child);
        let mut running = child.take().expect("the server runs");
        running.kill().expect("a child can be killed");
        running.wait().expect("a killed child can be awaited");
    }

    /// Stops its process for a while (SIGSTOP): connections stay, nothing is answered. End it with [`Redis::resume`].
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        eventually(|| has_stopped(pid), "it has stopped");
    }

    /// Its process id.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).as_ref().expect("the server runs").id()
    }

    /// Lets a paused process run on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// `127.0.0.1:port`
    pub(crate) fn addr(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Its address and its port.
    pub(crate) fn host_and_port(&self) -> (&'static str, u16) {
        (self.host, self.port)
    }

    /// Where respool finds it, by `RESPOOL_TLS`.
    pub(crate) fn server_addr(&self) -> String {
        match self.everywhere {
            None => self.addr(),
            Some(_) => self.tls_addr(),
        }
    }

    /// What `RESPOOL_TLS` asks for.
    pub(super) fn everywhere(&self) -> Option<&Everywhere> {
        self.everywhere.as_ref()
    }

    /// `127.0.0.1:port` of TLS.
    #[track_caller]
    pub(crate) fn tls_addr(&self) -> String {
        let port = self.tls_port.expect("the server was started with TLS");
        format!("127.0.0.1:{port}")
    }

    /// Its unix socket.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// A new direct connection.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    /// One command on the test's own direct connection, which is kept.
    #[track_caller]
    pub(crate) fn cmd<A: AsRef<[u8]>>(&self, args: &[A]) -> Value {
        let mut control = lock(&self.control);
        control.get_or_insert_with(|| self.client()).cmd(args)
    }

    /// A field of INFO; panics when there is none of that name.
    #[track_caller]
    pub(crate) fn info(&self, field: &str) -> String {
        let text = self.cmd(&["INFO", "everything"]).text();
        find_field(&text, field).unwrap_or_else(|| panic!("no field {field} in INFO"))
    }

    /// A field of INFO that is a number.
    #[track_caller]
    pub(crate) fn info_number(&self, field: &str) -> u64 {
        self.info(field).parse().expect("the field is a number")
    }

    /// How often the server was asked to run a command.
    #[track_caller]
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats = self.cmd(&["INFO", "commandstats"]).text();
        let head = format!("cmdstat_{command}:calls=");
        let found = stats.lines().find_map(|line| line.strip_prefix(&head));
        let number = found.and_then(|rest| rest.split(',').next());
        number.map_or(0, |number| number.parse().expect("calls are counted"))
    }

    /// Connections at the server, without the test's own that asks. Other direct clients of the test count.
    #[track_caller]
    pub(crate) fn connected_clients(&self) -> usize {
        self.info_number("connected_clients") as usize - 1
    }

    /// Watches [`Redis::connected_clients`] from a thread and a connection of its own.
    #[track_caller]
    pub(crate) fn watch_connections(&self) -> ConnectionWatch {
        ConnectionWatch::start(self.client())
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

    fn signal(&self, signal: Signal) {
        let child = lock(&self.child);
        let running = child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(running), signal).expect("a child can be signalled");
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
        if let Some(mut running) = lock(&self.child).take() {
            let _ = running.kill();
            let _ = running.wait();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- redis-server on {} ---\n{}",
                self.addr(),
                last_lines(&self.log_text(), 30)
            );
        }
    }
}

/// The most connections a server held at once, sampled without pause.
pub(crate) struct ConnectionWatch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    samples: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl ConnectionWatch {
    fn start(mut client: Client) -> Self {
        let mut watch = Self {
            stop: Arc::default(),
            most: Arc::default(),
            samples: Arc::default(),
            thread: None,
        };
        let (stop, most, samples) = (
            watch.stop.clone(),
            watch.most.clone(),
            watch.samples.clone(),
        );
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Some(reply) = client.try_cmd(&["INFO", "clients"]) else {
                    return;
                };
                let found: Option<usize> =
                    find_field(&reply.text(), "connected_clients").and_then(|n| n.parse().ok());
                // Its own connection is one of them.
                most.fetch_max(found.map_or(0, |n| n - 1), Ordering::Relaxed);
                samples.fetch_add(1, Ordering::Relaxed);
                // A sample each few milliseconds leaves the processor to what is tested.
                std::thread::park_timeout(std::time::Duration::from_millis(2));
            }
        });
        watch.thread = Some(thread);
        eventually(
            || watch.samples.load(Ordering::Relaxed) > 0,
            "the first sample of connected_clients",
        );
        watch
    }

    /// Ends the watch; the most connections seen, without the watch's own. The test's control connection counts.
    #[track_caller]
    pub(crate) fn most(self) -> usize {
        self.finish();
        self.most.load(Ordering::Relaxed)
    }

    fn finish(&self) {
        let seen = self.samples.load(Ordering::Relaxed);
        // One more sample, so that a short test has at least one from its busy time.
        let ended = || self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        eventually_some(
            || (self.samples.load(Ordering::Relaxed) > seen || ended()).then_some(()),
            "another sample of connected_clients",
        );
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for ConnectionWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A free port, and the options of a server that speaks TLS there.
fn tls_options(pki: &Pki, own: &Pair, more: &[&str]) -> (u16, Vec<String>) {
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

/// The end of a log.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
