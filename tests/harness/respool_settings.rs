//! The settings of a respool to be started: lines of its configuration, its environment, and how it is started.

use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::ClientConfig;

use super::process::respool_program;
use super::redis::Redis;
use super::respool::Respool;

/// Holds the settings of a respool to be started; see [`Respool::with`].
pub(crate) struct RespoolSettings {
    upstream_address: String,
    top: String,
    listener: String,
    upstream: String,
    limits: String,
    admin: String,
    sections: String,
    /// Holds the names in `admin.users`.
    operators: Vec<String>,
    /// Tells whether it listens on a unix socket too.
    pub(super) unix: bool,
    /// Is what its clients speak, unless they are asked to speak something else.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Variables whose names begin so are taken away, before others are set.
    without: Option<String>,
    environment: Vec<(String, String)>,
    /// Its standard error goes there, or to the file of its log.
    stderr: Option<Stdio>,
    /// This command becomes respool; its arguments stand behind it.
    through: Vec<String>,
}

impl RespoolSettings {
    /// Begins with those of a respool before `redis`, everything else by default.
    pub(super) fn with(redis: &Redis) -> Self {
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

    /// Begins with those of a respool before any address, everything else by default.
    pub(super) fn before(upstream_address: &str) -> Self {
        Self {
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

    /// Adds lines before the first table: `drain_timeout`, `workers`, `instance`.
    pub(crate) fn top(mut self, lines: &str) -> Self {
        add(&mut self.top, lines);
        self
    }

    /// Adds lines of the TCP listener.
    pub(crate) fn listener(mut self, lines: &str) -> Self {
        add(&mut self.listener, lines);
        self
    }

    /// Adds lines of `[upstream]`.
    pub(crate) fn upstream(mut self, lines: &str) -> Self {
        add(&mut self.upstream, lines);
        self
    }

    /// Adds lines of `[limits]`.
    pub(crate) fn limits(mut self, lines: &str) -> Self {
        add(&mut self.limits, lines);
        self
    }

    /// Adds lines of `[admin]`.
    pub(crate) fn admin(mut self, lines: &str) -> Self {
        add(&mut self.admin, lines);
        self
    }

    /// Adds whole sections, with their heads: `[[group]]`, `[log]`.
    pub(crate) fn section(mut self, text: &str) -> Self {
        add(&mut self.sections, text);
        self
    }

    /// Names the users for whom places are kept.
    pub(crate) fn operators(mut self, users: &[&str]) -> Self {
        self.operators = users.iter().map(ToString::to_string).collect();
        self
    }

    /// Lets the clients of this test speak no TLS whatever `RESPOOL_TLS` says: they write from two threads, or bytes of their own.
    pub(crate) fn plain_clients(mut self) -> Self {
        if self.tls.take().is_some() {
            self.listener.clear();
        }
        self
    }

    /// Sets a variable of its environment.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes all variables away whose names begin so.
    pub(crate) fn without_environment(mut self, prefix: &str) -> Self {
        self.without = Some(prefix.to_owned());
        self
    }

    /// Sends its standard error there instead of to a file.
    pub(crate) fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it by this command, such as `setpriv`, which becomes respool itself; as another user it can read its files.
    pub(crate) fn through(mut self, command: &[String]) -> Self {
        self.through = command.to_vec();
        self
    }

    /// Lets it listen on a unix socket too.
    pub(crate) fn unix_listener(mut self) -> Self {
        self.unix = true;
        self
    }

    /// Writes the configuration, starts respool and waits until it listens. No connection is made to see that.
    #[track_caller]
    pub(crate) fn start(self) -> Respool {
        Respool::started(self)
    }

    /// Makes the command that runs `respool`, whose configuration is written.
    pub(super) fn command(&mut self, respool: &Respool) -> Command {
        let mut line = self.through.clone();
        line.push(respool_program().to_owned());
        if line.len() > 1 {
            let all = Permissions::from_mode(0o755);
            std::fs::set_permissions(respool.folder(), all).expect("one's own folder");
        }
        let mut command = Command::new(&line[0]);
        if let Some(prefix) = &self.without {
            let names = std::env::vars_os().map(|(name, _)| name);
            let names = names.filter(|name| name.to_string_lossy().starts_with(prefix));
            for name in names {
                command.env_remove(name);
            }
        }
        let log = File::create(respool.log_file()).expect("a log file");
        command
            .args(&line[1..])
            .envs(self.environment.iter().cloned())
            .args(["run", "--config"])
            .arg(respool.config())
            .stdout(log.try_clone().expect("a file can be cloned"))
            .stderr(self.stderr.take().unwrap_or_else(|| log.into()));
        command
    }

    /// Writes the configuration, for the ports and the paths of `respool`.
    pub(super) fn toml(&self, respool: &Respool) -> String {
        let mut text = self.top.clone();
        let mut listen = |address: &str, lines: &str| {
            add(
                &mut text,
                &format!("[[listener]]\naddress = \"{address}\"\n{lines}"),
            );
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
        let admin = respool.admin_addr();
        let users = match operators.is_empty() {
            true => String::new(),
            false => format!("users = {operators:?}\n"),
        };
        format!(
            "{text}[upstream]\naddress = \"{upstream_address}\"\n{upstream}\n[limits]\n{limits}\n\
             [admin]\naddress = \"{admin}\"\n{users}{of_admin}\n{sections}"
        )
    }
}

fn add(text: &mut String, lines: &str) {
    writeln!(text, "{lines}").expect("a String takes everything");
}
