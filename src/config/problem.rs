//! What is wrong with a configuration: all of it at once, each with line, key and remedy.
//!
//! Invariant: no text in here holds the value of a key that can hold a secret, nor a line of the file.

use std::fmt;
use std::path::{Path, PathBuf};

/// Describes one thing that the operator has to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Says on which line of the file it is, from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    /// Names the key as `docs/configuration.md` does; it is empty when no key is to blame.
    pub key: String,
    /// Says what is wrong.
    pub what: String,
    /// Says what to do about it.
    pub remedy: String,
}

impl ConfigProblem {
    pub(super) fn new(
        line: Option<usize>,
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            line,
            key: key.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// Holds everything that is wrong with one configuration, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblems {
    file: Option<PathBuf>,
    list: Vec<ConfigProblem>,
}

impl ConfigProblems {
    /// Sorts `list` by line; what has no line comes last.
    pub(super) fn new(mut list: Vec<ConfigProblem>) -> Self {
        list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Self { file: None, list }
    }

    /// Tells the same problems as those of `file`.
    pub(super) fn of_file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// Returns the problems one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigProblem> {
        self.list.iter()
    }

    /// Counts the problems; there is at least 1.
    pub fn count(&self) -> usize {
        self.list.len()
    }
}

impl<'a> IntoIterator for &'a ConfigProblems {
    type Item = &'a ConfigProblem;
    type IntoIter = std::slice::Iter<'a, ConfigProblem>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigProblems {
    /// Writes one line each, without a newline after the last: `config/respool.toml:12: upstream.x: what; remedy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&self.file, problem.line) {
                (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
                (Some(file), None) => write!(f, "{}: ", file.display())?,
                (None, Some(line)) => write!(f, "line {line}: ")?,
                (None, None) => {}
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigProblems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_problem_is_one_line_in_the_order_of_the_file() {
        let problems = ConfigProblems::new(vec![
            ConfigProblem::new(None, "upstream.address", "missing", "add it"),
            ConfigProblem::new(Some(9), "", "not TOML", "correct it"),
            ConfigProblem::new(Some(2), "workers", "0 is too few", "write 1 or more"),
        ])
        .of_file(Path::new("config/x.toml"));
        assert_eq!(
            problems.to_string(),
            "config/x.toml:2: workers: 0 is too few; write 1 or more\n\
             config/x.toml:9: not TOML; correct it\n\
             config/x.toml: upstream.address: missing; add it"
        );
    }
}
