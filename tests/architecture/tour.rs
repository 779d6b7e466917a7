//! The tour of the code, held to the code: every file, function and type that `docs/tour.md` names is there.

use super::source::{read, type_names};
use super::{files, has_word, root};

/// Looks up what stands between backticks: a file (`client/serve.rs`), a function of the file named last (`serve()`), a type
/// (`Route`) or what a type has (`Route::Shared`). Anything else is not looked at.
#[test]
fn the_tour_names_what_is_there() {
    let page = read(&root().join("docs/tour.md"));
    let mut problems = Vec::new();
    let mut file = String::new();
    for (index, line) in page.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let problem = if word.ends_with(".rs") || word.ends_with('/') {
                file = word.to_owned();
                missing_file(word)
            } else if let Some(function) = word.strip_suffix("()") {
                missing_function(function, &file)
            } else {
                missing_type(word)
            };
            problems
                .extend(problem.map(|problem| format!("docs/tour.md:{}: {problem}", index + 1)));
        }
    }
    assert!(!file.is_empty(), "the tour names files");
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// A file is named as it stands below `src`, or below the project.
fn missing_file(name: &str) -> Option<String> {
    let is_there = ["src", ""]
        .iter()
        .any(|folder| root().join(folder).join(name).exists());
    (!is_there).then(|| format!("there is no file {name}"))
}

fn missing_function(name: &str, file: &str) -> Option<String> {
    let found = files()
        .iter()
        .find(|one| one.path.ends_with(format!("src/{file}")));
    let is_there = found.is_some_and(|file| has_name(&file.code, &format!("fn {name}")));
    (!is_there).then(|| format!("there is no function {name} in {file}"))
}

/// `None` as well for what is no type's name: a command or a setting.
fn missing_type(word: &str) -> Option<String> {
    let (name, member) = word.split_once("::").unwrap_or((word, ""));
    let is_type = name.starts_with(char::is_uppercase)
        && name.contains(char::is_lowercase)
        && name.chars().all(char::is_alphanumeric);
    let mut defined = files()
        .iter()
        .filter(|file| type_names(&file.code).contains(&name));
    let is_there = defined.any(|file| has_name(&file.code, member));
    (is_type && !is_there).then(|| format!("there is no {word}"))
}

/// Finds `name` in `code` where no name goes on before it or behind it.
fn has_name(code: &str, name: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    let mut places = code.match_indices(name);
    has_word(code, name) && places.any(|(at, _)| ends(&code[at + name.len()..]))
}
