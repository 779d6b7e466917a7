//! From a path or a text to [`Settings`], or to all of its problems.

use std::hash::{Hash as _, Hasher as _};
use std::path::Path;

use super::Settings;
use super::check;
use super::conflicts;
use super::file::WrittenFile;
use super::files::{is_plain_file, read_bytes, read_text};
use super::machine::{FileSurroundings, MachineResources};
use super::problem::{ConfigProblem, ConfigProblems};

/// Reads and checks the file at `path` against this machine and this process' environment.
///
/// # Errors
/// Everything is told that is wrong with it; the texts begin with `path`.
pub fn load(path: &Path) -> Result<Settings, ConfigProblems> {
    let settings = match read_text(path) {
        Ok(text) => {
            let dir = path.parent().unwrap_or(Path::new("."));
            parse(&text, dir, &MachineResources::here(), &|name| {
                std::env::var(name).ok()
            })
        }
        Err(why) => {
            let remedy = "give the path of a readable TOML file with --config";
            Err(ConfigProblems::new(vec![ConfigProblem::new(
                None,
                "",
                format!("cannot be read: {why}"),
                remedy,
            )]))
        }
    };
    settings.map_err(|problems| problems.of_file(path))
}

/// Checks a configuration; relative paths in it start at `dir`, `environment` tells the value of a variable.
///
/// # Errors
/// Everything is told that is wrong with it: keys, values, and what does not fit together or on `machine`.
pub fn parse(
    text: &str,
    dir: &Path,
    machine: &MachineResources,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigProblems> {
    let (file, mut problems) =
        WrittenFile::read(text).map_err(|problem| ConfigProblems::new(vec![problem]))?;
    let (settings, more) = check::settings(
        &file,
        &FileSurroundings {
            dir,
            machine,
            environment,
        },
    );
    problems.extend(more);
    problems.extend(conflicts::find(&settings, &file, machine));
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(ConfigProblems::new(problems))
    }
}

/// Returns a figure for the content of the configuration at `path` and of the files it names (certificates, keys, passwords), which another
/// content does not have but by rare chance. It need not be valid; what cannot be read counts as that. Paths and dates do not count: a
/// mounted folder swaps links without any content changing.
pub fn fingerprint(path: &Path) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    // A pipe can be read once only (`--config <(...)`), and has but one content: it is left to whoever loads it.
    if !is_plain_file(path) {
        return hasher.finish();
    }
    let Ok(text) = read_text(path) else {
        return hasher.finish();
    };
    text.as_bytes().hash(&mut hasher);
    let dir = path.parent().unwrap_or(Path::new("."));
    // A text that is no TOML names none.
    let file = WrittenFile::read(&text)
        .map(|(file, _)| file)
        .unwrap_or_default();
    for path in file.texts_of("_file") {
        let path = dir.join(path);
        let bytes = is_plain_file(&path).then(|| read_bytes(&path).ok());
        match bytes.flatten() {
            Some(bytes) => (true, bytes.as_slice()).hash(&mut hasher),
            None => false.hash(&mut hasher),
        }
    }
    hasher.finish()
}
