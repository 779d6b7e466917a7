//! The respool binary, started with a configuration written for the test.

use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use tempfile::TempDir;

use super::client::Client;
use super::ports::free_port;
use super::redis::{Redis, last_lines};
use super::{PATIENCE, eventually, eventually_some, has_stopped, lock};

/// A running respool; gets SIGTERM on drop, SIGKILL if that is not enough.
pub(crate) struct Respool {
    dir: TempDir,
    port: u16,
    admin: u16,
    /// What its clients speak, unless they are asked to speak something else.
    tls: Option<Arc<ClientConfig>>,
    /// `None` once its end was awaited.
    child: Mutex<Option<Child>>,
}

/// Settings for a respool to be started; see [`Respool::with`].
pub(crate) struct Settings {
    upstream_address: String,
    top: String,
    listener: String,
    upstream: String,
    limits: String,
    admin: String,
    sections: String,
    /// `admin.users`.
    operators: Vec<String>,
    unix: bool,
    tls: Option<Arc<ClientConfig>>,
    /// Prefix of variables that are taken away, and those that are set.
    without: Option<String>,
    environment: Vec<(String, String)>,
    /// Where its standard error goes, unless that is the file of its log.
    stderr: Option<Stdio>,
    /// A command that becomes respool, and its arguments.
    through: Vec<String>,
}

impl Respool {
    /// Starts it before `redis`, everything else by default.
    #[track_caller]
    pub(crate) fn start(redis: &Redis) -> Self {
        Self::with(redis).start()
    }

    /// Settings to be completed and started.
    pub(crate) fn with(redis: &Redis) -> Settings {
        let Some(everywhere) = redis.everywhere() else {
            return Self::before(&redis.addr());
        };
        let ca = everywhere.pki.ca_file();
        let mut settings = Self::before(&redis.tls_addr()).upstream(&format!(
            "tls = {{ enabled = true, ca_file = \"{}\" }}",
            ca.display()
        ));
        if everywhere.clients_too {
            settings = settings.listener(&format!("tls = {{ {} }}", everywhere.pair.toml()));
            settings.tls = Some(everywhere.pki.client(None));
        }
        settings
    }

    /// As [`Respool::with`], for any upstream address.
    pub(crate) fn before(upstream_address: &str) -> Settings {
        Settings {
            upstream_address: upstream_address.to_owned(),
            top: String::new(),
            listener: String::new(),
            upstream: String::new(),
            limits: String::new(),
            admin: String::new(),
            sections: String::new(),
            operators: Vec::new(),
            unix: false,
            tls: None,
            without: None,
            environment: Vec::new(),
            stderr: None,
            through: Vec::new(),
        }
    }

    /// The port of the TCP listener.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port` of the TCP listener.
    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Path of the unix listener, if there is one.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.dir.path().join("respool.sock")
    }

    /// A new connection to the TCP listener.
    #[track_caller]
    pub(crate) fn client(&self) -> Client {
        self.secured(Client::connect(self.addr()))
    }

    #[track_caller]
    fn secured(&self, client: Client) -> Client {
        match &self.tls {
            None => client,
            Some(config) => client
                .with_tls(config)
                .unwrap_or_else(|e| panic!("TLS to {}: {e}", self.addr())),
        }
    }

    /// A new connection to the TCP listener, with TLS.
    #[track_caller]
    pub(crate) fn tls_client(&self, config: &Arc<ClientConfig>) -> Client {
        Client::try_connect_tls(&self.addr(), config)
            .unwrap_or_else(|e| panic!("TLS to {}: {e}", self.addr()))
    }

    /// A new connection to the TCP listener from another address of this machine, `127.0.0.2`.
    #[track_caller]
    pub(crate) fn client_from(&self, source: &str) -> Client {
        self.secured(Client::connect_from(source, self.addr()))
    }

    /// A new connection to the TCP listener that bears a name.
    #[track_caller]
    pub(crate) fn client_named(&self, name: &str) -> Client {
        let mut client = self.client();
        let reply = client.cmd(&["CLIENT", "SETNAME", name]);
        assert_eq!(reply, super::Value::ok(), "CLIENT SETNAME {name}");
        client
    }

    /// A new connection to the unix listener.
    #[track_caller]
    pub(crate) fn unix_client(&self) -> Client {
        Client::connect_unix(&self.unix_path())
    }

    /// Status code and body of a path of the admin endpoint.
    #[track_caller]
    pub(crate) fn http(&self, path: &str) -> (u16, String) {
        self.try_http(path)
            .unwrap_or_else(|e| panic!("GET {path} from the admin endpoint: {e}"))
    }

    /// The text of `/metrics`.
    #[track_caller]
    pub(crate) fn metrics(&self) -> String {
        let (code, body) = self.http("/metrics");
        assert_eq!(code, 200, "/metrics: {body}");
        body
    }

    /// A metric by name and labels, `name{group="default"}`: the sum over all labels not given. Panics without any.
    #[track_caller]
    pub(crate) fn metric(&self, wanted: &str) -> f64 {
        let text = self.metrics();
        find_metric(&text, wanted).unwrap_or_else(|| panic!("no metric {wanted} in\n{text}"))
    }

    /// As [`Respool::metric`], 0 when it is not there: a labelled counter may appear with its first increment.
    #[track_caller]
    pub(crate) fn metric_or_zero(&self, wanted: &str) -> f64 {
        find_metric(&self.metrics(), wanted).unwrap_or(0.0)
    }

    /// `respool_client_connections` of a group.
    #[track_caller]
    pub(crate) fn clients_of(&self, group: &str) -> usize {
        self.metric_or_zero(&format!("respool_client_connections{{group=\"{group}\"}}")) as usize
    }

    /// The text of `/status`, which is JSON.
    #[track_caller]
    pub(crate) fn status(&self) -> String {
        let (code, body) = self.http("/status");
        assert_eq!(code, 200, "/status: {body}");
        body
    }

    /// Its process id; panics when its end was awaited.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        lock(&self.child).as_ref().expect("respool runs").id()
    }

    /// Panics unless the process that was started still runs.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let mut child = lock(&self.child);
        let status = child
            .as_mut()
            .expect("respool runs")
            .try_wait()
            .expect("a child can be asked");
        drop(child);
        assert!(status.is_none(), "respool ended: {status:?}");
    }

    /// Resident memory in bytes.
    #[track_caller]
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    /// The most memory that the process has had at any time.
    pub(crate) fn most_resident_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    fn memory_bytes(&self, label: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a process has a status");
        let kib = text.lines().find_map(|line| {
            let number = line.strip_prefix(label)?.trim().strip_suffix(" kB")?;
            number.parse::<u64>().ok()
        });
        kib.expect("a running process has memory") * 1024
    }

    /// Writes another configuration, for the same ports, in place of the one it was started with.
    #[track_caller]
    pub(crate) fn rewrite(&self, settings: &Settings) {
        std::fs::write(self.config(), settings.toml(self)).expect("a file can be written");
    }

    /// The file of its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("respool.toml")
    }

    /// `POST /reload`: status code and text.
    #[track_caller]
    pub(crate) fn post_reload(&self) -> (u16, String) {
        self.try_ask("POST", "/reload")
            .unwrap_or_else(|e| panic!("POST /reload to the admin endpoint: {e}"))
    }

    /// `POST` to any path: status code and text.
    #[track_caller]
    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        self.try_ask("POST", path)
            .unwrap_or_else(|e| panic!("POST {path} to the admin endpoint: {e}"))
    }

    /// As [`Respool::rewrite`], put in force by `POST /reload`.
    #[track_caller]
    pub(crate) fn reload(&self, settings: &Settings) {
        self.rewrite(settings);
        assert_eq!(self.post_reload(), (200, "reloaded\n".to_owned()));
    }

    /// Stops its process for a while (SIGSTOP): connections stay, nothing is answered. End it with [`Respool::resume`].
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let pid = self.pid();
        eventually(|| has_stopped(pid), "it has stopped");
    }

    /// Lets a paused process run on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGHUP.
    #[track_caller]
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends SIGTERM.
    #[track_caller]
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Awaits the end of the process.
    #[track_caller]
    pub(crate) fn wait(&self) -> ExitStatus {
        let status = eventually_some(
            || {
                lock(&self.child)
                    .as_mut()?
                    .try_wait()
                    .expect("a child can be asked")
            },
            "respool ends",
        );
        lock(&self.child).take();
        status
    }

    /// Waits until its log says `text`: a line is written by another thread, after what it tells of has happened.
    #[track_caller]
    pub(crate) fn eventually_logs(&self, text: &str) {
        let is_said = || self.log_text().contains(text);
        eventually(is_said, &format!("{text:?} in the log"));
    }

    /// Everything it wrote to its log so far; see [`Respool::eventually_logs`].
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("respool.log")).unwrap_or_default()
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        let child = lock(&self.child);
        kill_process(
            Pid::from_child(child.as_ref().expect("respool runs")),
            signal,
        )
        .expect("a child can be signalled");
    }

    /// `127.0.0.1:port` of the admin endpoint.
    pub(crate) fn admin_addr(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
    }

    fn try_http(&self, path: &str) -> io::Result<(u16, String)> {
        self.try_ask("GET", path)
    }

    fn try_ask(&self, method: &str, path: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Version 1.0: the body ends with the connection and is never chunked.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| io::Error::other("no end of the head"))?;
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok());
        Ok((
            code.ok_or_else(|| io::Error::other(head.to_owned()))?,
            body.to_owned(),
        ))
    }
}

impl Settings {
    /// Lines before the first table: `drain_timeout`, `workers`, `instance`.
    pub(crate) fn top(mut self, lines: &str) -> Self {
        writeln!(self.top, "{lines}").expect("a String takes everything");
        self
    }

    /// Lines of the TCP listener.
    pub(crate) fn listener(mut self, lines: &str) -> Self {
        writeln!(self.listener, "{lines}").expect("a String takes everything");
        self
    }

    /// Lines of `[upstream]`.
    pub(crate) fn upstream(mut self, lines: &str) -> Self {
        writeln!(self.upstream, "{lines}").expect("a String takes everything");
        self
    }

    /// Lines of `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        writeln!(self.limits, "{lines}").expect("a String takes everything");
        self
    }

    /// Lines of `[admin]`.
    pub(crate) fn admin(mut self, lines: &str) -> Self {
        writeln!(self.admin, "{lines}").expect("a String takes everything");
        self
    }

    /// Whole sections, with their heads: `[[group]]`, `[log]`.
    pub(crate) fn section(mut self, text: &str) -> Self {
        writeln!(self.sections, "{text}").expect("a String takes everything");
        self
    }

    /// Users for whom places are kept.
    pub(crate) fn operators(mut self, users: &[&str]) -> Self {
        self.operators = users.iter().map(ToString::to_string).collect();
        self
    }

    /// The clients of this test speak no TLS whatever `RESPOOL_TLS` says: they write from two threads, or bytes of their own.
    pub(crate) fn plain_clients(mut self) -> Self {
        if self.tls.take().is_some() {
            self.listener.clear();
        }
        self
    }

    /// A variable of its environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes all variables away whose names begin so.
    pub(crate) fn without_environment(mut self, prefix: &str) -> Self {
        self.without = Some(prefix.to_owned());
        self
    }

    /// Its standard error goes there instead of to a file.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Is started by this command, such as `setpriv`, which becomes respool itself; as another user it can read its files.
    pub(crate) fn through(mut self, command: &[String]) -> Self {
        self.through = command.to_vec();
        self
    }

    /// Listens on a unix socket too.
    pub(crate) fn unix_listener(mut self) -> Self {
        self.unix = true;
        self
    }

    /// Writes the configuration, starts respool and waits until it listens. No connection is made to see that.
    #[track_caller]
    pub(crate) fn start(mut self) -> Respool {
        let dir = tempfile::Builder::new()
            .prefix("respool-")
            .tempdir()
            .expect("a temporary directory");
        let respool = Respool {
            dir,
            port: free_port(),
            admin: free_port(),
            tls: self.tls.clone(),
            child: Mutex::new(None),
        };
        respool.rewrite(&self);
        let config = respool.config();
        let log = File::create(respool.dir.path().join("respool.log")).expect("a log file");
        let mut line = self.through.clone();
        line.push(env!("CARGO_BIN_EXE_respool").to_owned());
        if line.len() > 1 {
            let all = Permissions::from_mode(0o755);
            std::fs::set_permissions(respool.dir.path(), all).expect("one's own folder");
        }
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        if let Some(prefix) = &self.without {
            let names = std::env::vars_os().map(|(name, _)| name);
            let names = names.filter(|name| name.to_string_lossy().starts_with(prefix));
            for name in names {
                command.env_remove(name);
            }
        }
        let child = command
            .envs(self.environment.iter().cloned())
            .arg("run")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(self.stderr.take().unwrap_or_else(|| log.into()))
            .spawn()
            .expect("respool can be started");
        let pid = child.id();
        *lock(&respool.child) = Some(child);
        eventually(
            || {
                respool.assert_alive();
                let unix_ready = !self.unix || respool.unix_path().exists();
                unix_ready
                    && listens(pid, respool.port)
                    && matches!(respool.try_http("/livez"), Ok((200, _)))
            },
            "respool listens and /livez answers",
        );
        respool
    }

    fn toml(&self, respool: &Respool) -> String {
        let mut text = self.top.clone();
        let mut listen = |address: &str, lines: &str| {
            writeln!(text, "[[listener]]\naddress = \"{address}\"\n{lines}")
                .expect("a String takes everything");
        };
        listen(&respool.addr(), &self.listener);
        if self.unix {
            listen(&format!("unix:{}", respool.unix_path().display()), "");
        }
        let Self {
            upstream_address,
            upstream,
            limits,
            sections,
            operators,
            admin: of_admin,
            ..
        } = self;
        let admin = respool.admin;
        let users = match operators.is_empty() {
            true => String::new(),
            false => format!("users = {operators:?}\n"),
        };
        format!(
            "{text}[upstream]\naddress = \"{upstream_address}\"\n{upstream}\n[limits]\n{limits}\n\
             [admin]\naddress = \"127.0.0.1:{admin}\"\n{users}{of_admin}\n{sections}"
        )
    }
}

impl Drop for Respool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- respool on {} ---\n{}",
                self.addr(),
                last_lines(&self.log_text(), 60)
            );
        }
        let Some(mut running) = lock(&self.child).take() else {
            return;
        };
        let _ = kill_process(Pid::from_child(&running), Signal::TERM);
        // Clients of the test may outlive it; they must not hold up the drain.
        let deadline = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline && !matches!(running.try_wait(), Ok(Some(_))) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = running.kill();
        let _ = running.wait();
    }
}

/// Whether a TCP socket listens on this port, seen without connecting: a probe would be counted as a client.
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    let local = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next().is_some_and(|a| a.ends_with(&local)) && columns.nth(1) == Some(LISTEN)
    })
}

/// The sum of all samples of this name that bear at least these labels; `None` when there are none.
pub(crate) fn find_metric(text: &str, wanted: &str) -> Option<f64> {
    let (wanted_name, wanted_labels) = name_and_labels(wanted);
    let samples = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (metric, value) = line.rsplit_once(' ')?;
            let (name, labels) = name_and_labels(metric);
            let matches = name == wanted_name && wanted_labels.iter().all(|l| labels.contains(l));
            matches.then(|| value.parse::<f64>().ok())?
        });
    samples.reduce(|a, b| a + b)
}

/// `a{x="1",y="2"}` as the name and the labels. Label values of respool hold no comma.
fn name_and_labels(metric: &str) -> (&str, Vec<&str>) {
    let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
    (
        name,
        labels
            .trim_end_matches('}')
            .split(',')
            .filter(|l| !l.is_empty())
            .collect(),
    )
}
