//! Log lines, as text for people or as one JSON object each.
//!
//! Whoever logs what a client sent logs it with `?`, which escapes line ends; a value logged with `%` is written as it
//! is.

use std::sync::OnceLock;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogSettings};

/// Sets up logging by `writer` for the whole process, once. Its writers are given each event at once.
///
/// # Errors
///
/// If `log.level` is not a level (or a `tracing` filter such as `info,respool::upstream=debug`), or if logging was set
/// up before.
pub fn init<W>(log: &LogSettings, writer: W, colours: bool) -> Result<(), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (subscriber, change) = subscriber(log, writer, colours)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| "logging is already set up".to_owned())?;
    // Whoever set up the subscriber is the first here.
    let _ = CHANGE.set(change);
    Ok(())
}

/// Writes from `level` on. A text that is no level changes nothing; the configuration has none.
pub fn set_level(level: &str) {
    if let (Some(change), Ok(filter)) = (CHANGE.get(), filter(level)) {
        change(filter);
    }
}

/// Changes what the process logs.
type ChangeFilter = Box<dyn Fn(EnvFilter) + Send + Sync>;

static CHANGE: OnceLock<ChangeFilter> = OnceLock::new();

fn subscriber<W>(
    log: &LogSettings,
    writer: W,
    colours: bool,
) -> Result<(Box<dyn Subscriber + Send + Sync>, ChangeFilter), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(&log.level)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would print that a write failed, where nothing can be written.
        .log_internal_errors(false)
        .with_writer(writer);
    Ok(match log.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(colours).with_filter_reloading();
            let handle = lines.reload_handle();
            // It fails only when the subscriber is gone.
            let change = move |filter| drop(handle.reload(filter));
            (Box::new(lines.finish()), Box::new(change))
        }
        LogFormat::Json => {
            let lines = lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_filter_reloading();
            let handle = lines.reload_handle();
            let change = move |filter| drop(handle.reload(filter));
            (Box::new(lines.finish()), Box::new(change))
        }
    })
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong =
        || format!("log.level = {level:?} is not a level; use error, warn, info, debug or trace");
    // A lone word that is no level would be taken for the name of a module, and nothing else would be logged.
    let known =
        |directive: &str| directive.contains('=') || directive.parse::<LevelFilter>().is_ok();
    if level.is_empty() || !level.split(',').all(|directive| known(directive.trim())) {
        return Err(wrong());
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("{}: {error}", wrong()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct LoggedLines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for LoggedLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0
                .lock()
                .expect("no writer panics")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, format: LogFormat, write: impl FnOnce()) -> String {
        let lines = LoggedLines::default();
        let writer = lines.clone();
        let log = LogSettings {
            level: level.into(),
            format,
            buffer: 0,
        };
        let (subscriber, _) =
            subscriber(&log, move || writer.clone(), false).expect("a valid level");
        tracing::subscriber::with_default(subscriber, write);
        let bytes = lines.0.lock().expect("no writer panics").clone();
        String::from_utf8(bytes).expect("log lines are UTF-8")
    }

    #[test]
    fn json_lines_parse_and_carry_the_fields() {
        let line = logged("info", LogFormat::Json, || {
            tracing::warn!(group = "billing", count = 50, name = ?"a\"b\nc", "group is at its cap");
        });
        let value: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "group is at its cap");
        assert_eq!(value["group"], "billing");
        assert_eq!(value["count"], 50);
    }

    #[test]
    fn text_lines_stay_single_and_plain_whatever_a_client_calls_itself() {
        let text = logged("info", LogFormat::Text, || {
            tracing::info!(name = ?"evil\nFATAL \x1b[31mred", "client connected");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\x1b'));
        assert!(text.contains("client connected"));
    }

    #[test]
    fn less_severe_levels_are_not_written() {
        let text = logged("warn", LogFormat::Text, || {
            tracing::info!("quiet");
            tracing::error!("loud");
        });
        assert!(text.contains("loud") && !text.contains("quiet"));
    }

    #[test]
    fn a_wrong_level_is_refused_with_the_setting_named() {
        for level in ["respool=loudest", "loud", ""] {
            let log = LogSettings {
                level: level.into(),
                format: LogFormat::Text,
                buffer: 0,
            };
            let error = subscriber(&log, io::sink, false)
                .err()
                .expect("not a level");
            assert!(error.contains("log.level"), "{error}");
        }
        assert!(filter("info,respool::upstream=debug").is_ok());
    }
}
