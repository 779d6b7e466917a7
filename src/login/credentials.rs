//! Who respool itself is to the server: which secrets are shown, and when they are looked for again.
//!
//! Secrets change while respool runs. New connections use whichever of them the server takes; those that are open stay
//! authenticated, as Redis keeps them.
//!
//! Invariant: no text that is told here holds a secret.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::on_thread::read_on_thread;
use super::sigv4::{AwsKeys, token};
use super::{command, keys};
use crate::config::{Secret, SecretSource, ServerLogin, secret_in_file};
use crate::session::{Credentials, Own};

/// A command is run again when the server has been shown what it printed for this long.
const PRINTED_LASTS: Duration = Duration::from_secs(5 * 60);

/// The sources are asked once in this time at most, however many connections are refused.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Keys that are about to end are asked for this often while nobody connects.
const KEYS_ASKED_EVERY: Duration = Duration::from_secs(30);

/// Keys of AWS are renewed this long before they end, and a token signed by them is used for as long: both last for
/// longer than it takes to connect.
const MARGIN_SECONDS: u64 = 5 * 60;

/// Holds who respool is to the server, for all workers.
pub struct OwnLogin {
    login: Option<ServerLogin>,
    known: Mutex<KnownSecrets>,
    /// Counts the times the sources were asked.
    asked: watch::Sender<u64>,
    /// Counts the times another secret than before was found or taken by the server.
    changed: AtomicU64,
}

#[derive(Default)]
struct KnownSecrets {
    /// There is one place for each source; `None`: nothing has come from there yet.
    secrets: Vec<Option<Secret>>,
    /// The server took the secret of this source last.
    best: usize,
    keys: Option<AwsKeys>,
    /// The sources were last asked then, if ever.
    asked_at: Option<Instant>,
    is_asking: bool,
    /// A source gave nothing when it was asked last, for this reason.
    trouble: Option<String>,
}

/// Holds a secret that the server may take.
pub struct LoginCandidate {
    source: usize,
    /// It is shown to the server as these.
    pub credentials: Rc<Credentials>,
}

impl OwnLogin {
    /// Begins with the secrets that are there at the start.
    pub fn new(login: Option<&ServerLogin>) -> Arc<Self> {
        let at_start = |source: &SecretSource| match source {
            SecretSource::Given(secret) | SecretSource::File(_, secret) => Some(secret.clone()),
            SecretSource::Command(_) | SecretSource::Iam(_) => None,
        };
        let sources = login.map_or(&[][..], |login| &login.sources);
        let known = KnownSecrets {
            secrets: sources.iter().map(at_start).collect(),
            ..KnownSecrets::default()
        };
        Arc::new(Self {
            login: login.cloned(),
            known: Mutex::new(known),
            asked: watch::Sender::new(0),
            changed: AtomicU64::new(0),
        })
    }

    /// Tells whether respool authenticates at all.
    pub fn is_configured(&self) -> bool {
        self.login.is_some()
    }

    /// Tells whether connections have to be authenticated anew from time to time.
    pub fn expires(&self) -> bool {
        self.login.as_ref().is_some_and(ServerLogin::expires)
    }

    /// Asks the sources if what is known of them has run out, or nothing is.
    pub async fn prepare(self: &Arc<Self>) {
        if self.has_run_out() {
            self.ask_again(self.times_asked()).await;
        }
    }

    /// Asks for keys anew that are about to end, be it that nobody connects: what is open comes back from its clients' users
    /// by tokens that they sign.
    pub fn keep_keys(self: &Arc<Self>) {
        let is_due = {
            let known = self.known();
            let is_recent = |at: Instant| at.elapsed() < KEYS_ASKED_EVERY;
            let keys = known.keys.as_ref();
            keys.is_some_and(|keys| is_ending(keys, unix_seconds()))
                && !known.is_asking
                && !known.asked_at.is_some_and(is_recent)
        };
        if is_due {
            let login = Arc::clone(self);
            tokio::task::spawn_local(async move { login.prepare().await });
        }
    }

    /// Tells whether there is a secret to show the server, where respool authenticates.
    ///
    /// # Errors
    /// The text says why there is none.
    pub fn is_ready(&self) -> Result<(), String> {
        if !self.is_configured() || !self.candidates().is_empty() {
            return Ok(());
        }
        let why = self.trouble();
        let why = why.unwrap_or_else(|| format!("check {}", self.settings_text()));
        Err(format!("no secret for the server: {why}"))
    }

    /// Counts how often the sources have been asked. By value: the channel is locked while its content is borrowed.
    pub fn times_asked(&self) -> u64 {
        *self.asked.borrow()
    }

    /// Asks the sources, unless somebody has since they had been asked `seen` times. Whoever comes while they are being
    /// asked waits for the same answer.
    pub async fn ask_again(self: &Arc<Self>, seen: u64) {
        let mut asked = self.asked.subscribe();
        {
            let mut known = self.known();
            let is_fresh = |at: Instant| at.elapsed() < ASKED_AGAIN_AFTER;
            if self.times_asked() != seen || known.asked_at.is_some_and(is_fresh) {
                return;
            }
            if !known.is_asking {
                known.is_asking = true;
                // On its own: whoever asked may give up on its connection.
                tokio::task::spawn_local(Arc::clone(self).ask());
            }
        }
        // The sender lives as long as this does.
        let _ = asked.wait_for(|times| *times != seen).await;
    }

    /// Returns the secrets to be tried, that which the server took last before the others.
    pub fn candidates(&self) -> Vec<LoginCandidate> {
        let Some(login) = &self.login else {
            return Vec::new();
        };
        let known = self.known();
        let rest = (0..known.secrets.len()).filter(|source| *source != known.best);
        std::iter::once(known.best)
            .chain(rest)
            .filter_map(|source| {
                let secret = match login.sources.get(source)? {
                    SecretSource::Iam(iam) => token(iam, known.keys.as_ref()?, unix_seconds()),
                    _ => known.secrets[source].clone()?,
                };
                let credentials = Rc::new(Credentials {
                    username: login.username.as_ref().map(|name| name.as_bytes().into()),
                    password: secret.expose().as_bytes().into(),
                });
                Some(LoginCandidate {
                    source,
                    credentials,
                })
            })
            .collect()
    }

    /// Remembers that the server took this one.
    pub fn taken(&self, candidate: &LoginCandidate) {
        let mut known = self.known();
        if known.best != candidate.source {
            known.best = candidate.source;
            drop(known);
            self.changed.fetch_add(1, Ordering::Relaxed);
            tracing::info!("the server takes the other of respool's own passwords now");
        }
    }

    /// Names the settings that decide what respool shows, for people.
    pub fn settings_text(&self) -> String {
        let login = self.login.as_ref();
        login.map(ServerLogin::settings_text).unwrap_or_default()
    }

    /// Says why a source gave nothing when it was asked last.
    pub fn trouble(&self) -> Option<String> {
        self.known().trouble.clone()
    }

    fn has_run_out(&self) -> bool {
        let Some(login) = &self.login else {
            return false;
        };
        let known = self.known();
        let is_old = || {
            known
                .asked_at
                .is_none_or(|at| at.elapsed() >= PRINTED_LASTS)
        };
        login.sources.iter().any(|source| match source {
            SecretSource::Given(_) | SecretSource::File(..) => false,
            SecretSource::Command(_) => is_old(),
            SecretSource::Iam(_) => known
                .keys
                .as_ref()
                .is_none_or(|keys| is_ending(keys, unix_seconds())),
        })
    }

    /// Asks every source. What one gave before stays when it gives nothing now.
    async fn ask(self: Arc<Self>) {
        let sources = self.login.as_ref().map_or(&[][..], |login| &login.sources);
        let mut asking = AskingSources {
            login: &self,
            trouble: None,
        };
        for (index, source) in sources.iter().enumerate() {
            let found = match source {
                SecretSource::Given(_) => continue,
                SecretSource::File(path, _) => {
                    let path = path.clone();
                    let read = read_on_thread(move || secret_in_file(&path)).await;
                    read.and_then(|found| found).map(FoundSecret::Secret)
                }
                SecretSource::Command(command) => {
                    command::output(command).await.map(FoundSecret::Secret)
                }
                SecretSource::Iam(iam) => keys::keys(iam).await.map(FoundSecret::Keys),
            };
            match found {
                Ok(FoundSecret::Secret(secret)) => self.found(index, secret),
                Ok(FoundSecret::Keys(keys)) => {
                    self.known().keys = Some(keys);
                    self.changed.fetch_add(1, Ordering::Relaxed);
                }
                Err(why) => {
                    let key = self.login.as_ref().and_then(|login| login.keys.get(index));
                    let why = format!("{}: {why}", key.map_or("", String::as_str));
                    // Told once: it is asked with every attempt to connect.
                    if self.known().trouble.as_ref() != Some(&why) {
                        tracing::warn!("no secret for the server from {why}");
                    }
                    asking.trouble = Some(why);
                }
            }
        }
    }

    fn found(&self, source: usize, secret: Secret) {
        let place = &mut self.known().secrets[source];
        let is_other = place
            .as_ref()
            .is_none_or(|known| known.expose() != secret.expose());
        if is_other {
            *place = Some(secret);
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Locks what is known. Everything in it is replaced whole, so what a thread that panicked has left is as good as any.
    fn known(&self) -> MutexGuard<'_, KnownSecrets> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lives while the sources are being asked. On drop, be it that the worker which asks ends, whoever waits for them goes on.
struct AskingSources<'a> {
    login: &'a OwnLogin,
    trouble: Option<String>,
}

impl Drop for AskingSources<'_> {
    fn drop(&mut self) {
        {
            let mut known = self.login.known();
            known.asked_at = Some(Instant::now());
            known.is_asking = false;
            known.trouble = self.trouble.take();
        }
        self.login.asked.send_modify(|times| *times += 1);
    }
}

enum FoundSecret {
    Secret(Secret),
    Keys(AwsKeys),
}

fn is_ending(keys: &AwsKeys, now: u64) -> bool {
    keys.expires.is_some_and(|end| end < now + MARGIN_SECONDS)
}

/// Returns the time by the clock on the wall, which is what AWS compares.
fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Keeps what one worker shows the server where a connection comes back from another user, while it holds good.
#[derive(Default)]
pub struct LikelyLogin {
    kept: RefCell<Option<LikelySecret>>,
}

/// Holds the secret that the server most likely takes.
struct LikelySecret {
    credentials: Rc<Credentials>,
    /// It is of this login, after this many changes.
    of: (Arc<OwnLogin>, u64),
    since: Instant,
}

impl LikelyLogin {
    /// Returns who respool is, with the secret that the server most likely takes; `None`: no secret is known yet.
    pub fn of(&self, own: &Arc<OwnLogin>) -> Option<Own> {
        if !own.is_configured() {
            return Some(Own::Unnamed);
        }
        let changed = own.changed.load(Ordering::Relaxed);
        let mut kept = self.kept.borrow_mut();
        let lasts = Duration::from_secs(MARGIN_SECONDS);
        let holds = |best: &&LikelySecret| {
            let (login, of) = &best.of;
            Arc::ptr_eq(login, own) && *of == changed && best.since.elapsed() < lasts
        };
        if let Some(best) = kept.as_ref().filter(holds) {
            return Some(Own::User(Rc::clone(&best.credentials)));
        }
        let credentials = own.candidates().into_iter().next()?.credentials;
        *kept = Some(LikelySecret {
            credentials: Rc::clone(&credentials),
            of: (Arc::clone(own), changed),
            since: Instant::now(),
        });
        Some(Own::User(credentials))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(sources: Vec<SecretSource>) -> ServerLogin {
        ServerLogin {
            username: None,
            keys: vec!["upstream.password_file".to_owned(); sources.len()],
            sources,
        }
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn passwords(own: &OwnLogin) -> Vec<String> {
        let text = |candidate: LoginCandidate| {
            String::from_utf8_lossy(&candidate.credentials.password).into_owned()
        };
        own.candidates().into_iter().map(text).collect()
    }

    fn password(own: Option<Own>) -> String {
        match own {
            Some(Own::User(user)) => String::from_utf8_lossy(&user.password).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_server_took_is_tried_first() {
        let given = ["old", "new"].map(|text| SecretSource::Given(secret(text)));
        let own = OwnLogin::new(Some(&login(given.to_vec())));
        let likely = LikelyLogin::default();
        assert_eq!(passwords(&own), ["old", "new"]);
        assert_eq!(password(likely.of(&own)), "old");
        own.taken(&own.candidates()[1]);
        assert_eq!(passwords(&own), ["new", "old"]);
        assert_eq!(password(likely.of(&own)), "new");
        assert!(!own.expires() && !own.has_run_out());
    }

    #[test]
    fn nobody_has_nothing_to_show() {
        let own = OwnLogin::new(None);
        assert!(!own.is_configured() && !own.has_run_out() && own.candidates().is_empty());
        assert!(matches!(
            LikelyLogin::default().of(&own),
            Some(Own::Unnamed)
        ));
        assert_eq!(own.is_ready(), Ok(()));
    }

    #[test]
    fn whoever_has_no_secret_yet_is_not_taken_for_nobody() {
        let command = SecretSource::Command(crate::config::SecretCommand {
            argv: vec!["/bin/false".to_owned()],
            timeout: Duration::from_secs(1),
        });
        let own = OwnLogin::new(Some(&login(vec![command])));
        assert!(LikelyLogin::default().of(&own).is_none());
        assert!(own.is_ready().is_err());
    }

    #[test]
    fn keys_are_renewed_before_they_end() {
        let keys = |expires| AwsKeys {
            id: String::new(),
            secret: secret("x"),
            session: None,
            expires,
        };
        assert!(!is_ending(&keys(None), 1000));
        assert!(!is_ending(&keys(Some(1000 + MARGIN_SECONDS)), 1000));
        assert!(is_ending(&keys(Some(999 + MARGIN_SECONDS)), 1000));
        assert!(is_ending(&keys(Some(0)), 1000));
    }

    #[tokio::test(flavor = "local")]
    async fn a_file_is_read_again_when_it_is_asked_for_and_keeps_what_it_gave() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("password");
        let source = SecretSource::File(path.clone(), secret("first"));
        let own = OwnLogin::new(Some(&login(vec![source])));
        std::fs::write(&path, "second\n").expect("written");
        assert_eq!(passwords(&own), ["first"]);
        own.ask_again(own.times_asked()).await;
        assert_eq!(passwords(&own), ["second"]);
        // Not again at once, whoever asks.
        std::fs::write(&path, "third\n").expect("written");
        own.ask_again(own.times_asked()).await;
        assert_eq!(passwords(&own), ["second"]);
        let is_long_ago = || own.known().asked_at = None;
        is_long_ago();
        std::fs::remove_file(&path).expect("removed");
        let seen = own.times_asked();
        own.ask_again(seen).await;
        assert_eq!(passwords(&own), ["second"]);
        let trouble = own.trouble().expect("told");
        assert!(trouble.starts_with("upstream.password_file: "), "{trouble}");
        // Whoever saw less than there is asks nobody.
        is_long_ago();
        own.ask_again(seen).await;
        assert_eq!(own.times_asked(), seen + 1);
    }
}
