//! From a path or a text to [`Settings`], or to all of its problems.

use std::hash::{Hash as _, Hasher as _};
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use super::Settings;
use super::check;
use super::conflicts;
use super::file::File;
use super::machine::Machine;
use super::problem::{Problem, Problems};

/// No configuration and no password is longer than this many bytes; a device or a wrong file is.
const LONGEST_FILE: u64 = 1 << 20;

/// Reads and checks the file at `path` against this machine and this process' environment.
///
/// # Errors
/// Everything that is wrong with it; the texts begin with `path`.
pub fn load(path: &Path) -> Result<Settings, Problems> {
    let settings = match read_text(path) {
        Ok(text) => {
            let dir = path.parent().unwrap_or(Path::new("."));
            parse(&text, dir, &Machine::here(), &|name| {
                std::env::var(name).ok()
            })
        }
        Err(why) => {
            let remedy = "give the path of a readable TOML file with --config";
            Err(Problems::new(vec![Problem::new(
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
/// Everything that is wrong with it: keys, values, and what does not fit together or on `machine`.
pub fn parse(
    text: &str,
    dir: &Path,
    machine: &Machine,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Problems> {
    let (file, mut problems) = File::read(text).map_err(|problem| Problems::new(vec![problem]))?;
    let (settings, more) = check::settings(
        &file,
        &check::Surroundings {
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
        Err(Problems::new(problems))
    }
}

/// A figure for the content of the configuration at `path` and of the files it names (certificates, keys, passwords), which
/// another content does not have but by rare chance. It need not be valid; what cannot be read counts as that. Paths and
/// dates do not count: a mounted folder swaps links without any content changing.
pub fn fingerprint(path: &Path) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    // A pipe can be read once only (`--config <(...)`), and has but one content.
    if std::fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return hasher.finish();
    }
    let Ok(text) = read_text(path) else {
        return hasher.finish();
    };
    text.as_bytes().hash(&mut hasher);
    let dir = path.parent().unwrap_or(Path::new("."));
    // A text that is no TOML names none.
    let file = File::read(&text).map(|(file, _)| file).unwrap_or_default();
    for path in file.texts_of("_file") {
        match read_bytes(&dir.join(path)) {
            Ok(bytes) => (true, bytes.as_slice()).hash(&mut hasher),
            Err(_) => false.hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// The bytes of a file, wiped when dropped; the error is one line and without anything of the content.
pub(super) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let length = file
        .metadata()
        .map_or(0, |about| about.len().min(LONGEST_FILE));
    // As large as it will be: what a vector leaves behind when it grows is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    file.take(LONGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err("longer than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// The text of a file, as [`read_bytes`].
pub(super) fn read_text(path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = read_bytes(path)?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => {
            let line = bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            Err(format!("not UTF-8 in line {line}"))
        }
    }
}
