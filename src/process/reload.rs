//! Reloading the configuration: read, checked, held against the one in force, and then put in force whole, or not at all.
//!
//! Invariant: everything that can fail comes before anything is changed. Invariant: a group is known to every worker
//! before anybody is admitted to it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use super::accept::ClientIntake;
use super::listeners::ListenerChanges;
use crate::admission::Admission;
use crate::client::ClientsMessage;
use crate::config::{self, AuthMode, ServerLogin, Settings, UpstreamSettings, UpstreamTls};
use crate::identity::{ClientRecord, ClientRegistry};
use crate::login::OwnLogin;
use crate::telemetry::{Disconnect, LastReload, LossCause, log};
use crate::thread::Process;
use crate::transport::{EndpointFile, OpenListeners, TlsConnector};
use crate::worker::WorkerMessage;

/// Clients may take this long to be where a reload puts them, before those past a cap are looked for.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// Reading the configuration may take this long: files can be on a device that does not answer.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// A worker may take this long to hear of a reload: one that stands still must not hold up the others for good.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// It is looked at this often whether they are there.
const SETTLED_POLL: Duration = Duration::from_millis(5);

/// Says at whose wish it is, and where the answer goes.
pub(super) type ReloadRequest = (&'static str, oneshot::Sender<Result<(), String>>);

/// Asks for a reload and waits for how it went.
///
/// # Errors
/// See [`ConfigReloader::run`]: nothing has changed then.
pub(super) async fn ask(
    requests: mpsc::Sender<ReloadRequest>,
    asked: &'static str,
) -> Result<(), String> {
    let (answer, answered) = oneshot::channel();
    let ended = |()| "respool is ending".to_owned();
    requests
        .send((asked, answer))
        .await
        .map_err(|_| ended(()))?;
    answered.await.map_err(|_| ended(()))?
}

/// Reloads the configuration; it holds what of the process that takes.
pub(super) struct ConfigReloader {
    pub(super) path: PathBuf,
    pub(super) process: Arc<Process>,
    pub(super) admission: Arc<Admission>,
    pub(super) registry: Arc<ClientRegistry>,
    pub(super) workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// Lists the listeners that are open.
    pub(super) listeners: Arc<OpenListeners>,
    /// Holds the files of the endpoint's own unix sockets.
    pub(super) endpoint_files: Arc<[EndpointFile]>,
    /// Takes in the clients of new listeners.
    pub(super) intake: Arc<ClientIntake>,
    /// The process may have this many files open.
    pub(super) descriptors: u64,
    /// Is true while the configuration is being read.
    pub(super) is_reading: Arc<AtomicBool>,
    /// Tells how the last one went.
    pub(super) last: Arc<Mutex<LastReload>>,
}

/// Holds what a reload puts in force, ready to be.
struct PreparedReload {
    settings: Arc<Settings>,
    connector: Option<Arc<TlsConnector>>,
    listeners: ListenerChanges,
    /// Says who respool is to the server, where that is another than before.
    login: Option<Arc<OwnLogin>>,
}

impl ConfigReloader {
    /// Carries out `requests`, and reloads whenever the content of the configuration, or of a file it names, is not what
    /// `seen` stands for any more, where that is wanted.
    pub(super) async fn run(
        self: Arc<Self>,
        mut requests: mpsc::Receiver<ReloadRequest>,
        mut seen: u64,
    ) {
        loop {
            let reload = self.process.settings().reload;
            tokio::select! {
                request = requests.recv() => match request {
                    None => return,
                    Some((asked, answer)) => {
                        seen = self.fingerprint().await.unwrap_or(seen);
                        // Whoever asked may have gone.
                        let _ = answer.send(self.reload(asked).await);
                    }
                },
                () = tokio::time::sleep(reload.interval), if reload.watch => {
                    let content = self.fingerprint().await.unwrap_or(seen);
                    if content != seen {
                        // Taken before the reload reads it: what changes meanwhile is another content. What is refused
                        // is tried again when it has changed again.
                        seen = content;
                        let _ = self.reload("a file has changed").await;
                    }
                }
            }
        }
    }

    /// Returns what stands for the content of the configuration and of the files that it names.
    async fn fingerprint(&self) -> Option<u64> {
        let path = self.path.clone();
        on_a_thread(&self.is_reading, move || config::fingerprint(&path))
            .await
            .ok()
    }

    /// Reloads, logs how it went, and keeps that for `/status`.
    ///
    /// # Errors
    /// Everything is told that is wrong with the configuration, or that cannot change while respool runs. Nothing has changed then.
    async fn reload(self: &Arc<Self>, asked: &str) -> Result<(), String> {
        let reloader = Arc::clone(self);
        let prepared = on_a_thread(&self.is_reading, move || reloader.prepare()).await;
        let prepared = match prepared.unwrap_or_else(Err) {
            Ok(prepared) => is_known(prepared).await,
            Err(text) => Err(text),
        };
        let prepared = match prepared {
            Ok(mut prepared) => {
                let begun = prepared.listeners.begin_access().await;
                begun.map(|()| prepared)
            }
            Err(text) => Err(text),
        };
        let done = match prepared {
            Ok(prepared) => {
                self.put_in_force(prepared).await;
                Ok(())
            }
            Err(text) => Err(text),
        };
        match &done {
            Ok(()) => tracing::info!("{asked}: the configuration is reloaded"),
            Err(text) => {
                tracing::error!(
                    "{asked}: the configuration is not reloaded, the one before stays in force"
                );
                for line in text.lines() {
                    tracing::error!("{line}");
                }
            }
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = LastReload {
            at: SystemTime::now(),
            error: done.clone().err(),
        };
        done
    }

    fn prepare(&self) -> Result<PreparedReload, String> {
        let wanted = config::load(&self.path).map_err(|problems| problems.to_string())?;
        let now = self.process.settings();
        let settings = config::succeed(&now, wanted, self.descriptors)
            .map_err(|problems| problems.to_string())?;
        let upstream = settings.upstream.tls.as_ref();
        let connector = upstream.map(TlsConnector::new).transpose()?.map(Arc::new);
        let listeners = match self.intake.takes_nobody() {
            true => ListenerChanges::default(),
            false => ListenerChanges::prepare(&self.listeners, &now, &settings)?,
        };
        let login = settings.upstream.login.as_ref();
        let is_same = is_same_login(now.upstream.login.as_ref(), login);
        let login = (!is_same).then(|| OwnLogin::new(login));
        Ok(PreparedReload {
            settings: Arc::new(settings),
            connector,
            listeners,
            login,
        })
    }

    async fn put_in_force(&self, prepared: PreparedReload) {
        let PreparedReload {
            settings,
            connector,
            listeners,
            login,
        } = prepared;
        let before = self.process.settings();
        let upstream = &settings.upstream;
        let comes = settings.auth.mode == AuthMode::Passthrough && before.upstream.login.is_none();
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        log::set_level(&settings.log.level);
        {
            // A connect goes by all of it, or by nothing.
            let _whole = self.process.in_force();
            self.process.configured.store(Arc::clone(&settings));
            let limit = settings.limits.max_memory as u64;
            self.process.memory.set_limit(limit);
            self.process.tls.store(connector);
            if !comes && let Some(login) = &login {
                self.process.login.store(Arc::clone(login));
            }
        }
        let groups: Vec<_> = settings
            .groups
            .iter()
            .map(|group| group.max_pinned)
            .collect();
        self.process.budget.resize(
            upstream.max_connections,
            upstream.shared_connections,
            &groups,
        );
        self.tell_workers(WorkerMessage::Reload).await;
        // Only now: a worker knows the groups that its clients come in.
        self.admission.reload(&settings);
        self.tell_workers(WorkerMessage::Reassign).await;
        if let Some(login) = login.filter(|_| comes) {
            // Only now: no client that has not authenticated is respool's own user any more.
            let _whole = self.process.in_force();
            self.process.login.store(login);
        }
        listeners.put_in_force(&self.listeners, &self.intake).await;
        for trouble in self.endpoint_files.iter().filter_map(EndpointFile::trouble) {
            tracing::warn!("{trouble}");
        }
        self.process.server_may_have_moved();
        if let Some(cause) = loss_cause(&before.upstream, upstream) {
            self.process.renew_connections(cause);
            self.process
                .health
                .set_address(upstream.address.to_string());
        }
        if settings.limits.enforce_on_reload {
            self.enforce().await;
        }
    }

    /// Tells every worker, and waits until each has done it.
    async fn tell_workers(&self, message: impl Fn(oneshot::Sender<()>) -> WorkerMessage) {
        let mut told = Vec::new();
        for worker in &self.workers {
            let (done, heard) = oneshot::channel();
            // One that has ended has nothing to reload; one that stands still has a full mailbox in the end.
            let sent = tokio::time::timeout(HEARD_WITHIN, worker.send(message(done))).await;
            if matches!(sent, Ok(Ok(()))) {
                told.push(heard);
            }
        }
        for heard in told {
            if tokio::time::timeout(HEARD_WITHIN, heard).await.is_err() {
                tracing::error!(
                    "a worker does not move, and goes on with the settings before the reload until it does (stall_timeout)"
                );
            }
        }
    }

    /// Closes those who are past a cap: who holds nothing and was silent for longest goes first.
    async fn enforce(&self) {
        let give_up = Instant::now() + SETTLED_WITHIN;
        while self.admission.stale() > 0 && Instant::now() < give_up {
            tokio::time::sleep(SETTLED_POLL).await;
        }
        let now_ms = self.process.start.elapsed().as_millis() as u64;
        let mut records = self.registry.list();
        records.retain(|record| record.counts_in_group());
        records.sort_by_cached_key(|record| {
            let is_busy = record.is_busy();
            (
                is_busy,
                std::cmp::Reverse(record.idle_ms(now_ms)),
                record.id(),
            )
        });
        let mut closed: Vec<u64> = Vec::new();
        for (refusal, beyond) in self.admission.excess() {
            let here = records.iter().filter(|record| refusal.frees(record));
            let ids: Vec<u64> = here.map(|record| record.id()).collect();
            // Those in their handshake have a place and no record: they will be refused by it, or leave.
            let unseen = refusal.count.saturating_sub(ids.len());
            let chosen = &ids[..beyond.saturating_sub(unseen).min(ids.len())];
            tracing::warn!(
                "{refusal}; {} are closed (limits.enforce_on_reload)",
                chosen.len()
            );
            closed.extend(chosen);
        }
        let unseen = self.admission.total().saturating_sub(records.len());
        let beyond = self.admission.excess_in_all();
        let beyond = beyond.saturating_sub(unseen + closed.len());
        let is_left = |record: &&Arc<ClientRecord>| !closed.contains(&record.id());
        let left = records.iter().filter(is_left).map(|record| record.id());
        let more: Vec<u64> = left.take(beyond).collect();
        if !more.is_empty() {
            tracing::warn!(
                "there are more clients than limits.max_clients; {} are closed (limits.enforce_on_reload)",
                more.len()
            );
            closed.extend(more);
        }
        if closed.is_empty() {
            return;
        }
        let message = ClientsMessage::Close(closed.into(), Disconnect::OverCap);
        for worker in &self.workers {
            // Not as other messages are sent, which a worker that is far behind does not get.
            let _ = worker.send(WorkerMessage::Clients(message.clone())).await;
        }
    }
}

/// Marks the one reading that is under way; those on a device that does not answer must not pile up.
struct OneReading(Arc<AtomicBool>);

impl Drop for OneReading {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A command, or IAM, is asked before it counts: what is open comes back from its clients' users by the secret.
async fn is_known(prepared: PreparedReload) -> Result<PreparedReload, String> {
    if let Some(login) = &prepared.login {
        login.prepare().await;
        login.is_ready()?;
    }
    Ok(prepared)
}

/// Does what may take long, as files on a device that does not answer do, where it holds up nobody.
async fn on_a_thread<T: Send + 'static>(
    is_reading: &Arc<AtomicBool>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    if is_reading.swap(true, Ordering::AcqRel) {
        return Err("an earlier reading of the configuration has not come to its end".to_owned());
    }
    let (tell, told) = oneshot::channel();
    let reading = OneReading(Arc::clone(is_reading));
    let work = move || {
        let done = work();
        drop(reading);
        // Whoever waited may have given up.
        let _ = tell.send(done);
    };
    let thread = std::thread::Builder::new().name("reload".to_owned());
    thread
        .spawn(work)
        .map_err(|error| format!("no thread to read the configuration: {error}"))?;
    match tokio::time::timeout(READ_WITHIN, told).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err("reading the configuration failed in respool itself".to_owned()),
        Err(_) => Err(format!(
            "reading the configuration and the files it names took longer than {READ_WITHIN:?}"
        )),
    }
}

/// Tells whether what is known of the one's secrets holds for the other.
fn is_same_login(now: Option<&ServerLogin>, next: Option<&ServerLogin>) -> bool {
    match (now, next) {
        (Some(now), Some(next)) => now.is_same(next),
        _ => now.is_none() && next.is_none(),
    }
}

/// Says why connections by the settings `now` are lost where those of `next` come in force; `None`: they stay.
fn loss_cause(now: &UpstreamSettings, next: &UpstreamSettings) -> Option<LossCause> {
    if now.address != next.address {
        return Some(LossCause::Moved);
    }
    // Those that were opened by a token end with it.
    let expired = now.login.as_ref().is_some_and(ServerLogin::expires);
    let expires = next.login.as_ref().is_some_and(ServerLogin::expires);
    // And those that were opened by none, or by one that is gone, are somebody else's.
    let is_other = now.login.is_some() != next.login.is_some();
    let is_over = (expired && !expires) || is_other;
    let is_renewed = is_over || is_another(now.tls.as_ref(), next.tls.as_ref());
    is_renewed.then_some(LossCause::Renewed)
}

/// Tells whether connections with the one cannot stand in for connections with the other.
fn is_another(now: Option<&UpstreamTls>, next: Option<&UpstreamTls>) -> bool {
    match (now, next) {
        (None, None) => false,
        (Some(now), Some(next)) => {
            now.server_name != next.server_name || now.verification != next.verification
        }
        _ => true,
    }
}
