//! Starting: opens what respool listens on, starts the workers, and runs until the process has ended.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::accept::ClientIntake;
use super::drain::ProcessEnd;
#[cfg(debug_assertions)]
use super::fault::FaultMaker;
use super::listeners::BoundListener;
use super::logging::ProcessLog;
use super::reload::{self, ConfigReloader, ReloadRequest};
use super::signals::SignalStream;
use super::watch::PartsWatch;
use super::workers::start_workers;
use crate::admin::{self, EndpointScope, StatusView};
use crate::config::Settings;
use crate::transport::{
    ClientAcceptor, EndpointFile, OpenListeners, bind_admin, keep_descriptors,
    raise_descriptor_limit,
};

/// Says why respool does not run.
#[derive(Debug)]
pub(super) enum RunError {
    /// It did not start.
    Start(String),
    /// It lost a part without which it cannot go on.
    Lost(String),
}

impl RunError {
    /// Returns the exit code that tells one from the other: 70 (`EX_SOFTWARE`) is a bug of respool.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Start(_) => 1,
            Self::Lost(_) => 70,
        }
    }
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(why) => f.write_str(why),
            Self::Lost(part) => write!(f, "{part}: respool cannot go on"),
        }
    }
}

/// Runs until a signal ends the process; a reload reads the configuration at `path` again. `content` is its fingerprint from before it was
/// read.
///
/// # Errors
/// [`RunError`] when it cannot start, or cannot go on.
pub(super) fn run(
    settings: Settings,
    path: &Path,
    content: u64,
    logging: &Arc<ProcessLog>,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(|error| RunError::Start(format!("no runtime: {error}")))?;
    let ended = runtime.block_on(serve(Arc::new(settings), path, content, logging));
    // Not waited for: a name that is being looked up, a file on a device that does not answer.
    runtime.shutdown_background();
    ended
}

async fn serve(
    settings: Arc<Settings>,
    path: &Path,
    content: u64,
    logging: &Arc<ProcessLog>,
) -> Result<(), RunError> {
    // Before there is a file of a socket: what ends respool has it removed.
    let signals = SignalStream::new()
        .map_err(|error| RunError::Start(format!("cannot handle signals: {error}")))?;
    let descriptors = enough_descriptors(&settings);
    let bound = bind_listeners(&settings)?;
    let (admin, endpoint_files) = bind_endpoint(&settings)?;
    keep_descriptors(
        settings.descriptors_needed(),
        settings.upstream.max_connections,
    );
    let start = Instant::now();
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let open = bound.iter().map(|bound| Arc::clone(&bound.listener));
    let listeners = OpenListeners::new(open.collect());
    let (intake, view) = start_workers(&settings, start, listeners, endpoint_files)
        .map_err(|error| RunError::Start(format!("cannot start: {error}")))?;
    let intake = Arc::new(intake);
    let reloads = start_reloader(path.to_owned(), &intake, &view, (descriptors, content));
    let (over, ended) = watch::channel(false);
    serve_endpoint(admin, &endpoint(&intake, view, &reloads), &intake, &ended);
    tracing::info!("respool {} starts", env!("CARGO_PKG_VERSION"));
    for line in crate::config::report(&settings).lines() {
        tracing::info!("{line}");
    }
    for listener in bound {
        if !listener.begin(&intake).await {
            return Err(RunError::Start("the first worker has ended".to_owned()));
        }
    }
    let logging = Arc::clone(logging);
    let end = ProcessEnd {
        process: &intake.process,
        admission: &intake.admission,
        workers: &intake.workers,
        draining: &intake.draining,
        takes_nobody: &intake.takes_nobody,
        watch: PartsWatch::new(
            Arc::clone(&intake.parts),
            Box::new(move || logging.has_ended()),
        ),
        signals,
        reload: Box::new(|| {
            tokio::task::spawn_local(reload::ask(reloads.clone(), "SIGHUP"));
        }),
    };
    let ended = end.run().await;
    let _ = over.send(true);
    ended.map_err(RunError::Lost)
}

/// Raises the limit of open files, warns where it stays below what the caps allow, and returns it.
fn enough_descriptors(settings: &Settings) -> u64 {
    let descriptors = raise_descriptor_limit();
    let needed = settings.descriptors_needed();
    if descriptors < needed as u64 {
        tracing::warn!(
            descriptors,
            needed,
            "fewer file descriptors than the caps allow connections: raise the limit of open files (ulimit -n)"
        );
    }
    descriptors
}

/// Binds the addresses at which clients come.
fn bind_listeners(settings: &Settings) -> Result<Vec<BoundListener>, RunError> {
    let keepalive = settings.limits.keepalive;
    let listeners = settings.listeners.iter();
    listeners
        .map(|listener| BoundListener::new(listener, keepalive).map_err(RunError::Start))
        .collect()
}

/// Serves the operator's endpoint at each of its addresses until `ended` says so.
fn serve_endpoint(
    admin: Vec<(&'static str, ClientAcceptor, EndpointScope)>,
    endpoint: &admin::AdminEndpoint,
    intake: &ClientIntake,
    ended: &watch::Receiver<bool>,
) {
    for (name, acceptor, scope) in admin {
        let guard = intake.parts.guard(name, false);
        let serving = admin::serve(acceptor, endpoint.clone(), scope, until(ended.clone()));
        tokio::task::spawn_local(async move {
            let _guard = guard;
            serving.await;
        });
    }
}

/// Holds what accepts at the addresses of the operator's endpoint, and the files of those that are unix sockets.
type BoundEndpoint = (
    Vec<(&'static str, ClientAcceptor, EndpointScope)>,
    Arc<[EndpointFile]>,
);

/// Binds the addresses of the operator's endpoint.
fn bind_endpoint(settings: &Settings) -> Result<BoundEndpoint, RunError> {
    let admin = &settings.admin;
    let addresses = [
        ("admin", "admin.address", &admin.address, EndpointScope::All),
        (
            "health",
            "admin.health_address",
            &admin.health_address,
            EndpointScope::Health,
        ),
    ];
    let (mut bound, mut files) = (Vec::new(), Vec::new());
    for (name, key, address, scope) in addresses {
        let Some(address) = address else {
            continue;
        };
        let acceptor = bind_admin(key, address, admin.mode).map_err(RunError::Start)?;
        let acceptor = acceptor.open().map_err(|error| {
            RunError::Start(format!("{key}: cannot listen on {address}: {error}"))
        })?;
        files.extend(acceptor.endpoint_file(key));
        bound.push((name, acceptor, scope));
    }
    Ok((bound, files.into()))
}

/// Returns what the operator's endpoint shows and does.
fn endpoint(
    intake: &Arc<ClientIntake>,
    view: StatusView,
    reloads: &mpsc::Sender<ReloadRequest>,
) -> admin::AdminEndpoint {
    let reloads = reloads.clone();
    #[cfg(debug_assertions)]
    let faults = FaultMaker {
        workers: intake
            .workers
            .iter()
            .map(|worker| worker.mailbox().clone())
            .collect(),
        accepting: Arc::clone(&intake.fault),
    };
    admin::AdminEndpoint {
        view: Arc::new(move || view.scrape()),
        reload: Arc::new(move || Box::pin(reload::ask(reloads.clone(), "POST /reload"))),
        admin: {
            let process = Arc::clone(&intake.process);
            Arc::new(move || Arc::clone(&process.configured.load().admin))
        },
        draining: Arc::clone(&intake.draining),
        parts: Arc::clone(&intake.parts),
        #[cfg(debug_assertions)]
        fault: Arc::new(move |what| faults.make(what)),
    }
}

/// Starts the task that reloads, and returns how it is asked to.
fn start_reloader(
    path: PathBuf,
    intake: &Arc<ClientIntake>,
    view: &StatusView,
    (descriptors, seen): (u64, u64),
) -> mpsc::Sender<ReloadRequest> {
    let mailboxes = intake.workers.iter().map(|worker| worker.mailbox().clone());
    let reloader = Arc::new(ConfigReloader {
        path,
        process: Arc::clone(&intake.process),
        admission: Arc::clone(&intake.admission),
        registry: Arc::clone(&intake.registry),
        workers: mailboxes.collect(),
        is_reading: Arc::default(),
        listeners: Arc::clone(&view.listeners),
        endpoint_files: Arc::clone(&view.endpoint_files),
        intake: Arc::clone(intake),
        descriptors,
        last: Arc::clone(&view.last_reload),
    });
    let (ask, asked) = mpsc::channel(1);
    let guard = intake.parts.guard("reload", false);
    tokio::task::spawn_local(async move {
        let _guard = guard;
        reloader.run(asked, seen).await;
    });
    ask
}

async fn until(mut ended: watch::Receiver<bool>) {
    // The sender gone means the same.
    let _ = ended.wait_for(|ended| *ended).await;
}
