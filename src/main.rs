//! The command line: one match of modes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use respool::config::AdminAddress;

/// glibc keeps freed buffers of a megabyte for good where the kernel could have them: `limits.max_memory` is of the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A connection-limiting, multiplexing proxy for Redis and Valkey.
#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    mode: Option<RunMode>,
    /// The configuration file, for `run`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum RunMode {
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
        (Some(RunMode::Run { config }), _) | (None, Some(config)) => respool::run(&config),
        (Some(RunMode::Check { config }), _) => respool::check(&config),
        (Some(RunMode::Healthcheck { admin, of }), _) => respool::healthcheck(admin, of.as_deref()),
        (None, None) => respool::fail("no configuration: respool run --config FILE"),
    }
}
