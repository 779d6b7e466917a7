//! The respool binary, started with a configuration written for the test.

use std::io::{self, Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

use super::client::Client;
use super::kernel::is_listened_at;
use super::metrics::find_metric;
use super::ports::free_port;
use super::process::ChildProcess;
use super::redis::{Redis, last_lines};
use super::respool_settings::RespoolSettings;
use super::value::Value;
use super::{PATIENCE, eventually, private_folder};

/// Runs respool until this value is dropped: it gets SIGTERM then, and SIGKILL if that is not enough.
pub(crate) struct Respool {
    dir: TempDir,
    port: u16,
    admin: u16,
    /// Is what its clients speak, unless they are asked to speak something else.
    tls: Option<Arc<ClientConfig>>,
    process: ChildProcess,
}

impl Respool {
    /// Starts it before `redis`, everything else by default.
    #[track_caller]
    pub(crate) fn start(redis: &Redis) -> Self {
        Self::with(redis).start()
    }

    /// Begins settings, to be completed and started.
    pub(crate) fn with(redis: &Redis) -> RespoolSettings {
        RespoolSettings::with(redis)
    }

    /// Begins settings with two connections, one of which is shared and one lent: who comes second gets that of who came first, or
    /// waits for it as long as `borrow_timeout`.
    pub(crate) fn lending_one(redis: &Redis, borrow_timeout: &str) -> RespoolSettings {
        Self::with(redis).upstream(&format!(
            "max_connections = 2\nshared_connections = 1\nborrow_timeout = \"{borrow_timeout}\""
        ))
    }

    /// Does as [`Respool::with`], for any upstream address.
    pub(crate) fn before(upstream_address: &str) -> RespoolSettings {
        RespoolSettings::before(upstream_address)
    }

    /// Starts it as its settings say, and waits until it listens.
    #[track_caller]
    pub(super) fn started(mut settings: RespoolSettings) -> Self {
        let respool = Self {
            dir: private_folder("respool-"),
            port: free_port(),
            admin: free_port(),
            tls: settings.tls.clone(),
            process: ChildProcess::default(),
        };
        respool.rewrite(&settings);
        respool.process.start(&mut settings.command(&respool));
        let pid = respool.pid();
        eventually(
            || {
                respool.assert_alive();
                let unix_ready = !settings.unix || respool.unix_path().exists();
                unix_ready
                    && is_listened_at(pid, respool.port)
                    && matches!(respool.try_ask("GET", "/livez"), Ok((200, _)))
            },
            "respool listens and /livez answers",
        );
        respool
    }

    /// Tells the port of the TCP listener.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Tells the address of the TCP listener, `127.0.0.1:port`.
    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Tells the path of the unix listener, if there is one.
    pub(crate) fn unix_path(&self) -> PathBuf {
        self.folder().join("respool.sock")
    }

    /// Makes a new connection to the TCP listener.
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

    /// Makes a new connection to the TCP listener, with TLS.
    #[track_caller]
    pub(crate) fn tls_client(&self, config: &Arc<ClientConfig>) -> Client {
        Client::try_connect_tls(&self.addr(), config)
            .unwrap_or_else(|e| panic!("TLS to {}: {e}", self.addr()))
    }

    /// Makes a new connection to the TCP listener from another address of this machine, `127.0.0.2`.
    #[track_caller]
    pub(crate) fn client_from(&self, source: &str) -> Client {
        self.secured(Client::connect_from(source, self.addr()))
    }

    /// Makes a new connection to the TCP listener that bears a name.
    #[track_caller]
    pub(crate) fn client_named(&self, name: &str) -> Client {
        let mut client = self.client();
        let reply = client.cmd(&["CLIENT", "SETNAME", name]);
        assert_eq!(reply, Value::ok(), "CLIENT SETNAME {name}");
        client
    }

    /// Makes a new connection to the TCP listener that speaks RESP3.
    #[track_caller]
    pub(crate) fn resp3_client(&self) -> Client {
        let mut client = self.client();
        assert!(!client.cmd(&["HELLO", "3"]).is_error());
        client
    }

    /// Makes a new connection to the unix listener.
    #[track_caller]
    pub(crate) fn unix_client(&self) -> Client {
        Client::connect_unix(&self.unix_path())
    }

    /// Asks for a path of the admin endpoint: status code and body.
    #[track_caller]
    pub(crate) fn http(&self, path: &str) -> (u16, String) {
        self.try_ask("GET", path)
            .unwrap_or_else(|e| panic!("GET {path} from the admin endpoint: {e}"))
    }

    /// Reads the text of `/metrics`.
    #[track_caller]
    pub(crate) fn metrics(&self) -> String {
        let (code, body) = self.http("/metrics");
        assert_eq!(code, 200, "/metrics: {body}");
        body
    }

    /// Reads a metric by name and labels, `name{group="default"}`: the sum over all labels not given. Panics without any.
    #[track_caller]
    pub(crate) fn metric(&self, wanted: &str) -> f64 {
        let text = self.metrics();
        find_metric(&text, wanted).unwrap_or_else(|| panic!("no metric {wanted} in\n{text}"))
    }

    /// Does as [`Respool::metric`], but tells 0 when it is not there: a labelled counter may appear with its first increment.
    #[track_caller]
    pub(crate) fn metric_or_zero(&self, wanted: &str) -> f64 {
        find_metric(&self.metrics(), wanted).unwrap_or(0.0)
    }

    /// Reads `respool_client_connections` of a group.
    #[track_caller]
    pub(crate) fn clients_of(&self, group: &str) -> usize {
        self.metric_or_zero(&format!("respool_client_connections{{group=\"{group}\"}}")) as usize
    }

    /// Tells how many connections have been lent for this reason.
    #[track_caller]
    pub(crate) fn pins(&self, reason: &str) -> f64 {
        self.metric_or_zero(&format!("respool_pins_total{{reason=\"{reason}\"}}"))
    }

    /// Tells how many clients have been disconnected for this reason.
    #[track_caller]
    pub(crate) fn disconnects(&self, reason: &str) -> f64 {
        self.metric_or_zero(&format!(
            "respool_client_disconnects_total{{reason=\"{reason}\"}}"
        ))
    }

    /// Counts the clients that wait in a blocking call, as a client of its own sees them.
    #[track_caller]
    pub(crate) fn blocked_clients(&self) -> usize {
        let list = self.client().cmd(&["CLIENT", "LIST"]).text();
        let is_blocked = |line: &&str| line.contains(" flags=b");
        list.lines().filter(is_blocked).count()
    }

    /// Tells whether a connection can be lent to a client of its own, which gives it back.
    #[track_caller]
    pub(crate) fn can_lend(&self) -> bool {
        let mut other = self.client();
        let lent = other.cmd(&["WATCH", "k"]) == Value::ok();
        assert_eq!(other.cmd(&["RESET"]), Value::simple("RESET"));
        lent
    }

    /// Reads the text of `/status`, which is JSON.
    #[track_caller]
    pub(crate) fn status(&self) -> String {
        let (code, body) = self.http("/status");
        assert_eq!(code, 200, "/status: {body}");
        body
    }

    /// Reads `/status` as a value.
    #[track_caller]
    pub(crate) fn status_json(&self) -> serde_json::Value {
        serde_json::from_str(&self.status()).expect("/status is JSON")
    }

    /// Reads the warnings of `/status` that hold `part`.
    #[track_caller]
    pub(crate) fn warnings(&self, part: &str) -> Vec<String> {
        let status = self.status_json();
        let all = status["warnings"].as_array().expect("a list").iter();
        let texts = all.map(|line| line.as_str().expect("text").to_owned());
        texts.filter(|text| text.contains(part)).collect()
    }

    /// Tells its process id; panics when its end was awaited.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Panics unless the process that was started still runs.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let status = self.process.status();
        assert!(status.is_none(), "respool ended: {status:?}");
    }

    /// Tells its resident memory in bytes.
    #[track_caller]
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    /// Tells the most resident memory that the process has had at any time.
    #[track_caller]
    pub(crate) fn most_resident_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    #[track_caller]
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
    pub(crate) fn rewrite(&self, settings: &RespoolSettings) {
        std::fs::write(self.config(), settings.toml(self)).expect("a file can be written");
    }

    /// Tells the file of its configuration.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder().join("respool.toml")
    }

    /// Posts `/reload`: status code and text.
    #[track_caller]
    pub(crate) fn post_reload(&self) -> (u16, String) {
        self.post("/reload")
    }

    /// Posts any path: status code and text.
    #[track_caller]
    pub(crate) fn post(&self, path: &str) -> (u16, String) {
        self.try_ask("POST", path)
            .unwrap_or_else(|e| panic!("POST {path} to the admin endpoint: {e}"))
    }

    /// Does as [`Respool::rewrite`], and puts it in force by `POST /reload`.
    #[track_caller]
    pub(crate) fn reload(&self, settings: &RespoolSettings) {
        self.rewrite(settings);
        assert_eq!(self.post_reload(), (200, "reloaded\n".to_owned()));
    }

    /// Stops its process for a while (SIGSTOP): connections stay, nothing is answered. End it with [`Respool::resume`].
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    /// Lets a paused process run on.
    #[track_caller]
    pub(crate) fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Sends SIGHUP to the process.
    #[track_caller]
    pub(crate) fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }

    /// Sends SIGTERM to the process.
    #[track_caller]
    pub(crate) fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Awaits the end of the process.
    #[track_caller]
    pub(crate) fn wait(&self) -> ExitStatus {
        self.process.wait("respool ends")
    }

    /// Waits until its log says `text`: a line is written by another thread, after what it tells of has happened.
    #[track_caller]
    pub(crate) fn eventually_logs(&self, text: &str) {
        let is_said = || self.log_text().contains(text);
        eventually(is_said, &format!("{text:?} in the log"));
    }

    /// Reads everything that it wrote to its log so far; see [`Respool::eventually_logs`].
    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Tells the file of its log.
    pub(super) fn log_file(&self) -> PathBuf {
        self.folder().join("respool.log")
    }

    /// Tells the folder of its files.
    pub(super) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Tells the address of the admin endpoint, `127.0.0.1:port`.
    pub(crate) fn admin_addr(&self) -> String {
        format!("127.0.0.1:{}", self.admin)
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

impl Drop for Respool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- respool on {} ---\n{}",
                self.addr(),
                last_lines(&self.log_text(), 60)
            );
        }
        // Clients of the test may outlive it; they must not hold up the drain.
        self.process.end_within(Duration::from_millis(500));
    }
}
