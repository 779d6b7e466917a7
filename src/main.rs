//! The command line: one match of modes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use respool::config::{self, AdminAddress, Settings};
use respool::{Logging, Trial};

/// glibc keeps freed buffers of a megabyte for good where the kernel could have them: `limits.max_memory` is of the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Where the admin endpoint is when nobody says so.
const DEFAULT_ADMIN: &str = "127.0.0.1:9180";

/// A connection-limiting, multiplexing proxy for Redis and Valkey.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// The configuration file, for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Mode {
    /// Serve clients (the default).
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Check a configuration: all problems at once, each with line, key and remedy.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Ask a running respool whether it lives; for containers without a shell.
    Healthcheck {
        /// Its admin endpoint: `IP:PORT` or `unix:/path`; without it and --config 127.0.0.1:9180.
        #[arg(long, value_name = "ADDRESS", conflicts_with = "of")]
        admin: Option<AdminAddress>,
        /// Its configuration file, which tells the address.
        #[arg(long = "config", value_name = "FILE", id = "of")]
        of: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    match (line.mode, line.config) {
        (Some(Mode::Run { config }), _) | (None, Some(config)) => run(&config),
        (Some(Mode::Check { config }), _) => check(&config),
        (Some(Mode::Healthcheck { admin, of }), _) => healthcheck(admin, of.as_deref()),
        (None, None) => fail("no configuration: respool run --config FILE"),
    }
}

fn run(path: &Path) -> ExitCode {
    // Before it is read: what changes from here on is seen by `reload.watch`.
    let content = config::fingerprint(path);
    let Some(settings) = load(path) else {
        return ExitCode::FAILURE;
    };
    let logging = match Logging::start(&settings.log) {
        Ok(logging) => Arc::new(logging),
        Err(error) => return fail(&error),
    };
    let ended = respool::run(settings, path, content, &logging);
    logging.finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

fn check(path: &Path) -> ExitCode {
    let Some(settings) = load(path) else {
        return ExitCode::FAILURE;
    };
    let trial = Trial::of(&settings);
    for problem in &trial.problems {
        respool::say(&format!("{}: {problem}", path.display()));
    }
    if !trial.problems.is_empty() {
        return ExitCode::FAILURE;
    }
    say(&config::report(&settings));
    for warning in settings.warnings.iter().chain(&trial.warnings) {
        say(&warning_text(path, warning));
    }
    ExitCode::SUCCESS
}

fn warning_text(path: &Path, warning: &config::Problem) -> String {
    let line = warning
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    format!("warning: {}{line}: {warning}", path.display())
}

fn healthcheck(admin: Option<AdminAddress>, of: Option<&Path>) -> ExitCode {
    let address = match (admin, of) {
        (Some(address), _) => Ok(address),
        (None, Some(path)) => config::health_address(path),
        (None, None) => DEFAULT_ADMIN.parse(),
    };
    match address.and_then(|address| respool::healthcheck(&address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn load(path: &Path) -> Option<Settings> {
    config::load(path)
        .map_err(|problems| respool::say(&problems.to_string()))
        .ok()
}

fn fail(text: &str) -> ExitCode {
    respool::say(&format!("respool: {text}"));
    ExitCode::FAILURE
}

/// Standard output may be closed; that is not ours to report.
fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
