//! The modes of the command line, each with what it says and the exit code it ends with.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use super::logging::{ProcessLog, say};
use super::start;
use super::trial::StartTrial;
use crate::config::{self, AdminAddress, ConfigProblem, Settings};

/// The admin endpoint is asked here when nobody says where it is.
const DEFAULT_ADMIN: &str = "127.0.0.1:9180";

/// Serves clients by the configuration at `path` until a signal ends the process.
pub fn run(path: &Path) -> ExitCode {
    // Before it is read: what changes from here on is seen by `reload.watch`.
    let content = config::fingerprint(path);
    let Some(settings) = load(path) else {
        return ExitCode::FAILURE;
    };
    let logging = match ProcessLog::start(&settings.log) {
        Ok(logging) => Arc::new(logging),
        Err(error) => return fail(&error),
    };
    let ended = start::run(settings, path, content, &logging);
    logging.finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Checks the configuration at `path` and tells what it means, or all that is wrong with it.
pub fn check(path: &Path) -> ExitCode {
    let Some(settings) = load(path) else {
        return ExitCode::FAILURE;
    };
    let trial = StartTrial::of(&settings);
    for problem in &trial.problems {
        say(&format!("{}: {problem}", path.display()));
    }
    if !trial.problems.is_empty() {
        return ExitCode::FAILURE;
    }
    print(&config::report(&settings));
    for warning in settings.warnings.iter().chain(&trial.warnings) {
        print(&warning_text(path, warning));
    }
    ExitCode::SUCCESS
}

/// Asks a running respool whether it lives: at `admin`, or where the configuration at `of` says.
pub fn healthcheck(admin: Option<AdminAddress>, of: Option<&Path>) -> ExitCode {
    let address = match (admin, of) {
        (Some(address), _) => Ok(address),
        (None, Some(path)) => config::health_address(path),
        (None, None) => DEFAULT_ADMIN.parse(),
    };
    match address.and_then(|address| crate::admin::healthcheck(&address)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Says on standard error why respool does not do what it was asked to.
pub fn fail(text: &str) -> ExitCode {
    say(&format!("respool: {text}"));
    ExitCode::FAILURE
}

fn load(path: &Path) -> Option<Settings> {
    config::load(path)
        .map_err(|problems| say(&problems.to_string()))
        .ok()
}

fn warning_text(path: &Path, warning: &ConfigProblem) -> String {
    let line = warning
        .line
        .map_or_else(String::new, |line| format!(":{line}"));
    format!("warning: {}{line}: {warning}", path.display())
}

/// Prints a line; standard output may be closed, and that is not ours to report.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{text}");
}
