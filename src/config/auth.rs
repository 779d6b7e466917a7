//! Who clients are, and who respool is to the server: users with their passwords, and the sources of respool's own.
//!
//! No problem told here names a file, a variable or anything in them: more than once a password was written where its place
//! was asked for.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::file::{WrittenFile, key_of};
use super::files::read_text;
use super::machine::FileSurroundings;
use super::problem::ConfigProblem;
use super::typed_value::TypedValue;
use super::{PasswordDigest, Secret, keys};

/// Says how clients show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// AUTH is verified by the server; a client that sends none is respool's own user.
    #[default]
    Optional,
    /// Nothing is asked of clients, as by a server without a password.
    None,
    /// Users and passwords are those of the configuration; at the server all are respool's own user.
    Proxy,
    /// Users and passwords are the server's; nobody is respool's own user.
    Passthrough,
}

/// Says how clients show who they are, and which users the configuration has.
#[derive(Debug, Clone, Default)]
pub struct AuthSettings {
    /// Says who verifies them.
    pub mode: AuthMode,
    /// Lists the users of [`AuthMode::Proxy`], names unique; else none.
    pub users: Vec<AuthUser>,
    /// One address may fail this often at no cost.
    pub free_failures: u32,
    /// Bounds the time between two attempts of an address that has failed too often; zero: none is held back.
    pub max_failure_delay: Duration,
    /// Bounds the attempts of one address that the server is asked about at once.
    pub max_attempts_in_flight: usize,
    /// Bounds the attempts of one address that wait.
    pub max_attempts_waiting: usize,
    /// Bounds the addresses whose failures each worker remembers.
    pub max_failing_addresses: usize,
}

/// Describes a user of the configuration.
#[derive(Clone)]
pub struct AuthUser {
    /// Names the user, as AUTH does.
    pub name: String,
    /// Holds the user's passwords, at least one, each of them good.
    pub passwords: Vec<PasswordDigest>,
}

impl fmt::Debug for AuthUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthUser({:?})", self.name)
    }
}

/// Says who respool is to the server.
#[derive(Debug, Clone)]
pub struct ServerLogin {
    /// Names the user; `None`: the legacy `AUTH password`, of the default user.
    pub username: Option<String>,
    /// Says where the secrets come from, at least one, in the order in which they are tried.
    pub sources: Vec<SecretSource>,
    /// Names the setting of each source.
    pub keys: Vec<String>,
}

impl ServerLogin {
    /// Tells whether it shows the server what `other` shows it.
    pub fn is_same(&self, other: &Self) -> bool {
        let is_same = |(one, two): (&SecretSource, &SecretSource)| match (one, two) {
            (SecretSource::Given(one), SecretSource::Given(two)) => one.expose() == two.expose(),
            (SecretSource::File(one, before), SecretSource::File(two, after)) => {
                one == two && before.expose() == after.expose()
            }
            (SecretSource::Command(one), SecretSource::Command(two)) => one == two,
            (SecretSource::Iam(one), SecretSource::Iam(two)) => one == two,
            _ => false,
        };
        self.username == other.username
            && self.keys == other.keys
            && self.sources.len() == other.sources.len()
            && self.sources.iter().zip(&other.sources).all(is_same)
    }

    /// Returns the settings that decide what it shows, in words.
    pub fn settings_text(&self) -> String {
        let is_written = self.username.is_some() && self.keys != ["upstream.iam"];
        let user = is_written.then_some("upstream.username");
        let keys: Vec<&str> = user
            .into_iter()
            .chain(self.keys.iter().map(String::as_str))
            .collect();
        match keys.as_slice() {
            [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            keys => keys.join(", "),
        }
    }

    /// Tells whether what it shows runs out, so that connections have to be authenticated anew.
    pub fn expires(&self) -> bool {
        let runs_out = |source: &SecretSource| {
            matches!(source, SecretSource::Command(_) | SecretSource::Iam(_))
        };
        self.sources.iter().any(runs_out)
    }
}

/// Says where a secret comes from.
#[derive(Debug, Clone)]
pub enum SecretSource {
    /// It comes from the configuration itself, or the environment, which a process cannot see change.
    Given(Secret),
    /// It comes from a file, which is read again when the server refuses what was in it.
    File(PathBuf, Secret),
    /// A command prints the secret.
    Command(SecretCommand),
    /// It is a token signed for each connect.
    Iam(IamLogin),
}

/// Describes a command that prints a password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretCommand {
    /// Holds the program and its arguments.
    pub argv: Vec<String>,
    /// The command may take this long.
    pub timeout: Duration,
}

impl fmt::Debug for SecretCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments are where secrets should not be, and sometimes are.
        write!(f, "SecretCommand({} arguments)", self.argv.len())
    }
}

/// Says how respool authenticates by IAM at ElastiCache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IamLogin {
    /// Names the region of the cache.
    pub region: String,
    /// Names the replication group or serverless cache, in lower case.
    pub cluster: String,
    /// Holds the user's id, which for IAM is its name too.
    pub user: String,
    /// Is true of a serverless cache.
    pub serverless: bool,
}

/// Returns what the `[auth]` of `file` means, and what is wrong with it.
pub(super) fn auth(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
) -> (AuthSettings, Vec<ConfigProblem>) {
    let mode = match file.choice("auth.mode") {
        Some("none") => AuthMode::None,
        Some("proxy") => AuthMode::Proxy,
        Some("passthrough") => AuthMode::Passthrough,
        _ => AuthMode::Optional,
    };
    let mut problems = Vec::new();
    let mut users: Vec<AuthUser> = Vec::new();
    let tables = file.tables("auth.user");
    for index in 0..tables {
        let path = format!("auth.user[{index}]");
        match user(file, around, &path) {
            Ok(user) if users.iter().any(|other| other.name == user.name) => {
                problems.push(ConfigProblem::new(
                    file.line(&format!("{path}.name")),
                    "auth.user.name",
                    "there is an earlier user of this name",
                    "give one [[auth.user]] all passwords of a user",
                ));
            }
            Ok(user) => users.push(user),
            Err(problem) => problems.extend(problem),
        }
    }
    if mode == AuthMode::Proxy && tables == 0 && !file.is_refused("auth.user") {
        problems.push(ConfigProblem::new(
            file.line("auth.mode"),
            "auth.mode",
            "nobody could authenticate: there is no user",
            "add [[auth.user]] with a name and a password",
        ));
    }
    if mode != AuthMode::Proxy && tables > 0 && !file.is_refused("auth.mode") {
        problems.push(ConfigProblem::new(
            file.line("auth.user[0]"),
            "auth.user",
            "users of the configuration are asked only with mode = \"proxy\"",
            "set auth.mode = \"proxy\", or remove the users",
        ));
    }
    let auth = AuthSettings {
        mode,
        users,
        free_failures: u32::try_from(file.number("auth.free_failures")).unwrap_or(u32::MAX),
        max_failure_delay: file.time("auth.max_failure_delay"),
        max_attempts_in_flight: file.number("auth.max_attempts_in_flight"),
        max_attempts_waiting: file.number("auth.max_attempts_waiting"),
        max_failing_addresses: file.number("auth.max_failing_addresses"),
    };
    (auth, problems)
}

/// Reads one user. `Err` holds what is wrong, or nothing where that is told already.
fn user(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    path: &str,
) -> Result<AuthUser, Option<ConfigProblem>> {
    let at = |name: &str| format!("{path}.{name}");
    let mut passwords = Vec::new();
    for name in ["password", "password_file", "password_env"] {
        let found = secret(file, around, &at(name)).map_err(Some)?;
        passwords.extend(found.map(|secret| PasswordDigest::of(secret.expose().as_bytes())));
    }
    if let Some(TypedValue::Digests(digests)) = file.value(&at("password_sha256")) {
        passwords.extend(digests);
    }
    let keys = [
        "password",
        "password_file",
        "password_env",
        "password_sha256",
    ];
    if keys.iter().any(|name| file.is_refused(&at(name))) {
        return Err(None);
    }
    if passwords.is_empty() {
        return Err(Some(ConfigProblem::new(
            file.line(path),
            "auth.user",
            "this user has no password",
            "add password_file, password_env or password_sha256",
        )));
    }
    // A name that is missing is told with all that is required.
    let name = file.text(&at("name")).ok_or(None)?;
    Ok(AuthUser { name, passwords })
}

/// Of each four keys at most one gives the password: the first four give the one in use, the others the one to come.
const PASSWORDS: [[&str; 4]; 2] = [
    [
        "password",
        "password_file",
        "password_env",
        "password_command",
    ],
    [
        "password_next",
        "password_next_file",
        "password_next_env",
        "",
    ],
];

/// Returns who respool is to the server; `None`: nobody.
pub(super) fn login(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
) -> (Option<ServerLogin>, Vec<ConfigProblem>) {
    let mut problems = Vec::new();
    let (mut sources, mut keys) = (Vec::new(), Vec::new());
    for names in PASSWORDS {
        match source(file, around, names) {
            Ok(None) => {}
            Ok(Some((key, found))) => {
                keys.push(key);
                sources.push(found);
            }
            Err(problem) => problems.push(problem),
        }
    }
    let mut username = file.text("upstream.username");
    if let Some(line) = file.line("upstream.iam") {
        match iam(file, around) {
            Ok(iam) => {
                let others = ["username"]
                    .into_iter()
                    .chain(PASSWORDS.into_iter().flatten());
                let other = others
                    .filter(|name| !name.is_empty())
                    .map(|name| format!("upstream.{name}"))
                    .find(|key| file.line(key).is_some());
                if let Some(key) = other {
                    problems.push(ConfigProblem::new(
                        file.line(&key),
                        key,
                        "the server is shown a token of upstream.iam already",
                        "keep one of the two; the user is upstream.iam.user",
                    ));
                }
                username = Some(iam.user.clone());
                sources = vec![SecretSource::Iam(iam)];
                keys = vec!["upstream.iam".to_owned()];
            }
            Err(what) => problems.extend(what.map(|(what, remedy)| {
                ConfigProblem::new(Some(line), "upstream.iam", what, remedy)
            })),
        }
    }
    let login = (!sources.is_empty()).then_some(ServerLogin {
        username,
        sources,
        keys,
    });
    (login, problems)
}

/// Returns the source that one of `names` gives, with its key.
fn source(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    names: [&str; 4],
) -> Result<Option<(String, SecretSource)>, ConfigProblem> {
    let key = |name: &str| format!("upstream.{name}");
    let written: Vec<&str> = names
        .into_iter()
        .filter(|name| !name.is_empty() && file.line(&key(name)).is_some())
        .collect();
    let name = match written.as_slice() {
        [] => return Ok(None),
        [name] => *name,
        [.., last] => {
            let [first, .., end] = names.map(|name| if name.is_empty() { names[2] } else { name });
            return Err(ConfigProblem::new(
                file.line(&key(last)),
                key(last),
                "the password is given more than once",
                format!("keep one of {first} to {end}"),
            ));
        }
    };
    if let Some(TypedValue::Texts(argv)) = file.value(&key(name)) {
        let command = SecretSource::Command(SecretCommand {
            argv,
            timeout: file
                .duration("upstream.password_command_timeout")
                .unwrap_or_default(),
        });
        return Ok(Some((key(name), command)));
    }
    let secret = secret(file, around, &key(name))?;
    let source = |secret| match file.value(&key(name)) {
        Some(TypedValue::Text(path)) if name.ends_with("_file") => {
            SecretSource::File(around.dir.join(path), secret)
        }
        _ => SecretSource::Given(secret),
    };
    Ok(secret.map(|secret| (key(name), source(secret))))
}

/// Returns the secret under `path`, wherever it is kept; `None`: it is not written, or refused and told.
pub(super) fn secret(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
    path: &str,
) -> Result<Option<Secret>, ConfigProblem> {
    if file.line(path).is_none() {
        return Ok(None);
    }
    let refused = |what: String, remedy: &str| {
        ConfigProblem::new(file.line(path), key_of(path), what, remedy)
    };
    let text = match file.value(path) {
        Some(TypedValue::Secret(secret)) => return Ok(Some(secret)),
        Some(TypedValue::Text(place)) if path.ends_with("_file") => {
            return secret_in_file(&around.dir.join(place))
                .map(Some)
                .map_err(|why| {
                    refused(
                        why,
                        "name a file that respool's user can read, with the password in it",
                    )
                });
        }
        Some(TypedValue::Text(name)) => (around.environment)(&name).map(Zeroizing::new),
        _ => return Ok(None),
    };
    let Some(text) = text else {
        let what = "the environment variable is not set".to_owned();
        return Err(refused(what, "set it for respool's process"));
    };
    match trimmed(&text) {
        "" => Err(refused(
            "there is no password in it".to_owned(),
            "put the password there, or remove the key",
        )),
        password => Ok(Some(Secret::new(password.to_owned()))),
    }
}

/// Reads the password in a file.
///
/// # Errors
/// Says why there is none, without the path or anything of the content.
pub fn secret_in_file(path: &Path) -> Result<Secret, String> {
    let text = read_text(path).map_err(|why| format!("the file cannot be read: {why}"))?;
    match trimmed(&text) {
        "" => Err("there is no password in it".to_owned()),
        password => Ok(Secret::new(password.to_owned())),
    }
}

/// Returns the text without the line end that editors, `echo` and most commands put behind it.
pub fn trimmed(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Reads `upstream.iam`. `Err(None)`: something in it was refused and told.
fn iam(
    file: &WrittenFile,
    around: &FileSurroundings<'_>,
) -> Result<IamLogin, Option<(&'static str, &'static str)>> {
    if keys::in_table("upstream.iam").any(|key| file.is_refused(key.path()))
        || file.is_refused("upstream.iam")
    {
        return Err(None);
    }
    let word = |name: &str| file.text(&format!("upstream.iam.{name}"));
    let region = word("region")
        .or_else(|| (around.environment)("AWS_REGION"))
        .or_else(|| (around.environment)("AWS_DEFAULT_REGION"))
        .filter(|region| !region.is_empty());
    let region = region.ok_or(Some((
        "no region",
        "add region = \"...\", or set AWS_REGION for respool's process",
    )))?;
    let cluster = word("cluster").ok_or(Some((
        "no cluster",
        "add cluster = \"...\": the name of the replication group or serverless cache",
    )))?;
    let user = word("user").ok_or(Some((
        "no user",
        "add user = \"...\": the id of the ElastiCache user with authentication by IAM",
    )))?;
    Ok(IamLogin {
        region,
        cluster: cluster.to_ascii_lowercase(),
        user,
        serverless: file.flag("upstream.iam.serverless"),
    })
}
