//! The process: starts the workers, hands clients to them, drains and ends.

mod listeners;
mod reload;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Scope, View};
use crate::admission::{Admission, Refusal};
use crate::budget::Budget;
use crate::client::{ClientMessage, Evictor, TellWorkers, tell_rejection};
use crate::command::PinReason;
use crate::config::{Listener, Settings};
use crate::identity::{Identity, Peer, Registry};
use crate::login::OwnLogin;
use crate::memory::Memory;
#[cfg(debug_assertions)]
use crate::process::Faults;
use crate::process::{Ending, Logging, Signals, Watch};
use crate::telemetry::{self, LastReload, Parts, ServerHealth, Throttle, WorkerCounters};
use crate::transport::{
    Accepted, AcceptedSocket, Accepting, Acceptor, Bound, Connector, EndpointFile, ListenerOrder,
    OpenListeners, Queued, bind_admin, keep_descriptors, raise_descriptor_limit,
};
use crate::upstream::{Passing, Process};
use listeners::Opened;
use reload::{Reloader, Request};

use crate::worker::{Charge, Message, Newcomer, Place, Rejected, Worker, mailbox};

/// Groups that reloads may add and that are counted by themselves; those past them count as one.
const SPARE_GROUPS: usize = 64;

/// Why respool does not run.
#[derive(Debug)]
pub enum RunError {
    /// It did not start.
    Start(String),
    /// It lost a part without which it cannot go on.
    Lost(String),
}

impl RunError {
    /// The exit code that tells one from the other: 70 (`EX_SOFTWARE`) is a bug of respool.
    pub fn exit_code(&self) -> u8 {
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

/// Labels of the reasons to pin, by their index.
const PIN_REASONS: [&str; PinReason::ALL.len()] = {
    let mut labels = [""; PinReason::ALL.len()];
    let mut at = 0;
    while at < labels.len() {
        labels[at] = PinReason::ALL[at].label();
        at += 1;
    }
    labels
};

/// What accepting a client needs.
struct Door {
    admission: Arc<Admission>,
    registry: Arc<Registry>,
    tell_workers: TellWorkers,
    workers: Vec<Worker>,
    process: Arc<Process>,
    start: Instant,
    draining: Arc<AtomicBool>,
    /// The listeners are closed for good, or about to be.
    takes_nobody: AtomicBool,
    parts: Arc<Parts>,
    /// A test has the accepting task panic with the next client.
    #[cfg(debug_assertions)]
    fault: Arc<AtomicBool>,
}

/// Runs until a signal ends it; a reload reads the configuration at `path` again. `content` is its fingerprint from before
/// it was read.
///
/// # Errors
/// [`RunError`] when it cannot start, or cannot go on.
pub fn run(
    settings: Settings,
    path: &Path,
    content: u64,
    logging: &Arc<Logging>,
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
    logging: &Arc<Logging>,
) -> Result<(), RunError> {
    // Before there is a file of a socket: what ends respool has it removed.
    let signals = Signals::new()
        .map_err(|error| RunError::Start(format!("cannot handle signals: {error}")))?;
    let descriptors = raise_descriptor_limit();
    let needed = settings.descriptors_needed();
    if descriptors < needed as u64 {
        tracing::warn!(
            descriptors,
            needed,
            "fewer file descriptors than the caps allow connections: raise the limit of open files (ulimit -n)"
        );
    }
    let mut acceptors = Vec::new();
    for listener in &settings.listeners {
        let opened = Opened::new(listener, settings.limits.keepalive).map_err(RunError::Start)?;
        acceptors.push(opened);
    }
    let (admin, endpoint_files) = bind_endpoint(&settings)?;
    keep_descriptors(needed, settings.upstream.max_connections);
    let start = Instant::now();
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let opened = acceptors.iter().map(|opened| Arc::clone(&opened.listener));
    let listeners = OpenListeners::new(opened.collect());
    let (door, view) = open(&settings, start, listeners, endpoint_files)
        .map_err(|error| RunError::Start(format!("cannot start: {error}")))?;
    let door = Arc::new(door);
    let reloads = start_reloader(path.to_owned(), &door, &view, (descriptors, content));
    let (over, ended) = watch::channel(false);
    let endpoint = endpoint(&door, view, &reloads);
    for (name, acceptor, scope) in admin {
        let guard = door.parts.guard(name, false);
        let serving = admin::serve(acceptor, endpoint.clone(), scope, until(ended.clone()));
        tokio::task::spawn_local(async move {
            let _guard = guard;
            serving.await;
        });
    }
    tracing::info!("respool {} starts", env!("CARGO_PKG_VERSION"));
    for line in crate::config::report(&settings).lines() {
        tracing::info!("{line}");
    }
    for opened in acceptors {
        if !opened.begin(&door).await {
            return Err(RunError::Start("the first worker has ended".to_owned()));
        }
    }
    let logging = Arc::clone(logging);
    let ending = Ending {
        process: &door.process,
        admission: &door.admission,
        workers: &door.workers,
        draining: &door.draining,
        takes_nobody: &door.takes_nobody,
        watch: Watch::new(
            Arc::clone(&door.parts),
            Box::new(move || logging.has_ended()),
        ),
        signals,
        reload: Box::new(|| {
            tokio::task::spawn_local(reload::ask(reloads.clone(), "SIGHUP"));
        }),
    };
    let ended = ending.run().await;
    let _ = over.send(true);
    ended.map_err(RunError::Lost)
}

/// What accepts at the addresses of the operator's door, and the files of those that are unix sockets.
type BoundEndpoint = (Vec<(&'static str, Acceptor, Scope)>, Arc<[EndpointFile]>);

/// Binds the addresses of the operator's door.
fn bind_endpoint(settings: &Settings) -> Result<BoundEndpoint, RunError> {
    let admin = &settings.admin;
    let addresses = [
        ("admin", "admin.address", &admin.address, Scope::All),
        (
            "health",
            "admin.health_address",
            &admin.health_address,
            Scope::Health,
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

/// What the operator's door shows and does.
fn endpoint(door: &Arc<Door>, view: View, reloads: &mpsc::Sender<Request>) -> admin::Endpoint {
    let reloads = reloads.clone();
    #[cfg(debug_assertions)]
    let faults = Faults {
        workers: door
            .workers
            .iter()
            .map(|worker| worker.mailbox().clone())
            .collect(),
        accepting: Arc::clone(&door.fault),
    };
    admin::Endpoint {
        view: Arc::new(move || view.scrape()),
        reload: Arc::new(move || Box::pin(reload::ask(reloads.clone(), "POST /reload"))),
        admin: {
            let process = Arc::clone(&door.process);
            Arc::new(move || Arc::clone(&process.configured.load().admin))
        },
        draining: Arc::clone(&door.draining),
        parts: Arc::clone(&door.parts),
        #[cfg(debug_assertions)]
        fault: Arc::new(move |what| faults.make(what)),
    }
}

/// Starts what reloads, and returns how it is asked to.
fn start_reloader(
    path: PathBuf,
    door: &Arc<Door>,
    view: &View,
    (descriptors, seen): (u64, u64),
) -> mpsc::Sender<Request> {
    let mailboxes = door.workers.iter().map(|worker| worker.mailbox().clone());
    let reloader = Arc::new(Reloader {
        path,
        process: Arc::clone(&door.process),
        admission: Arc::clone(&door.admission),
        registry: Arc::clone(&door.registry),
        workers: mailboxes.collect(),
        is_reading: Arc::default(),
        listeners: Arc::clone(&view.listeners),
        endpoint_files: Arc::clone(&view.endpoint_files),
        door: Arc::clone(door),
        descriptors,
        last: Arc::clone(&view.last_reload),
    });
    let (ask, asked) = mpsc::channel(1);
    let guard = door.parts.guard("reload", false);
    tokio::task::spawn_local(async move {
        let _guard = guard;
        reloader.run(asked, seen).await;
    });
    ask
}

/// What the workers share.
fn process(settings: &Arc<Settings>, start: Instant) -> io::Result<Arc<Process>> {
    let upstream = &settings.upstream;
    let tls = upstream.tls.as_ref().map(Connector::new).transpose();
    let tls = tls.map_err(|why| io::Error::other(String::from(why)))?;
    let tls = tls.map(Arc::new);
    let max_pinned = settings
        .groups
        .iter()
        .map(|group| group.max_pinned)
        .collect();
    let budget = Budget::new(
        upstream.max_connections,
        upstream.shared_connections,
        max_pinned,
        settings.workers,
        move || start.elapsed().as_micros() as u64,
    );
    Ok(Arc::new(Process {
        configured: ArcSwap::new(Arc::clone(settings)),
        budget,
        memory: Arc::new(Memory::new(
            settings.limits.max_memory as u64,
            settings.workers,
        )),
        login: OwnLogin::new(upstream.login.as_ref()).into(),
        health: Arc::new(ServerHealth::new(upstream.address.to_string())),
        server: Default::default(),
        server_version: Default::default(),
        tls: tls.into(),
        queued: Default::default(),
        queued_logins: Default::default(),
        audiences: Default::default(),
        served: Arc::default(),
        weights: Default::default(),
        seats_wanted: Default::default(),
        uncounted: Default::default(),
        unseen_ends: Default::default(),
        passing: Passing::new(settings.workers),
        whereabouts: Default::default(),
        failovers: Default::default(),
        listing: Default::default(),
        pulse: Default::default(),
        in_force: Default::default(),
        parts: Arc::default(),
        start,
    }))
}

fn open(
    settings: &Arc<Settings>,
    start: Instant,
    listeners: Arc<OpenListeners>,
    endpoint_files: Arc<[EndpointFile]>,
) -> io::Result<(Door, View)> {
    let process = process(settings, start)?;
    let (budget, workers) = (&process.budget, settings.workers);
    let admission = Admission::new(settings);
    let registry = Registry::new();
    let mailboxes: Vec<_> = (0..workers).map(|_| mailbox()).collect();
    let senders: Vec<_> = mailboxes.iter().map(|(sender, _)| sender.clone()).collect();
    for (index, sender) in senders.iter().enumerate() {
        let sender = sender.clone();
        // A worker so far behind looks for itself when its next pin falls idle.
        budget.set_reclaimer(
            index,
            Box::new(move || drop(sender.try_send(Message::Reclaim))),
        );
    }
    let tell_workers = tell_workers(senders);
    let charge = Charge {
        process: Arc::clone(&process),
        admission,
        registry,
        tell_workers,
    };
    let mut started = Vec::new();
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let shared = settings.shared_of_worker(index);
        let counters = Arc::new(WorkerCounters::new(
            settings.groups.len() + SPARE_GROUPS,
            &PIN_REASONS,
        ));
        started.push(Worker::start(
            index,
            shared,
            charge.clone(),
            counters,
            mailbox,
        )?);
    }
    let parts = Arc::clone(&process.parts);
    let view = View {
        process: Arc::clone(&process),
        admission: Arc::clone(&charge.admission),
        registry: Arc::clone(&charge.registry),
        counters: started
            .iter()
            .map(|worker| Arc::clone(&worker.counters))
            .collect(),
        listeners,
        endpoint_files,
        parts: Arc::clone(&parts),
        last_reload: Arc::new(Mutex::new(LastReload {
            at: SystemTime::now(),
            error: None,
        })),
    };
    let door = Door {
        admission: charge.admission,
        registry: charge.registry,
        tell_workers: charge.tell_workers,
        workers: started,
        process,
        start,
        draining: Arc::default(),
        takes_nobody: AtomicBool::new(false),
        parts,
        #[cfg(debug_assertions)]
        fault: Arc::default(),
    };
    Ok((door, view))
}

/// Tells every worker; the one that has the client acts.
fn tell_workers(senders: Vec<mpsc::Sender<Message>>) -> TellWorkers {
    let (start, line) = (Instant::now(), Mutex::new(Throttle::default()));
    Arc::new(move |message: ClientMessage| {
        for sender in &senders {
            if sender.try_send(Message::Client(message.clone())).is_ok() {
                continue;
            }
            let line = line.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(unwritten) = line.write(start.elapsed().as_micros() as u64) {
                tracing::warn!(
                    unwritten,
                    "a worker is too far behind to be told of a CLIENT KILL, UNBLOCK or eviction"
                );
            }
        }
    })
}

async fn accept(bound: Bound, mut accepting: Accepting, listener: Listener, door: Arc<Door>) {
    let name: Arc<str> = listener.name.as_str().into();
    // Asked of each client's socket only where the listener has no one address of its own.
    let own = bound.local_address();
    let mut acceptor = match bound.open() {
        Ok(acceptor) => acceptor,
        Err(error) => {
            let wrong = format!("cannot accept: {error}");
            return door.parts.lose(&format!("accepting on {name}"), &wrong);
        }
    };
    let _guard = door.parts.guard(&format!("accepting on {name}"), true);
    loop {
        let told = tokio::select! {
            socket = acceptor.accept() => {
                door.receive(socket, &name, own).await;
                continue;
            }
            told = accepting.told() => told,
        };
        match told {
            ListenerOrder::Stop => return,
            ListenerOrder::TakeQueued { most, done } => {
                let is_done = door.take_queued(&mut acceptor, most, &name, own).await;
                // Whoever asked has given up.
                let _ = done.send(is_done);
            }
        }
    }
}

impl Door {
    /// Returns whether respool drains: its listeners are closed for good, or about to be.
    fn takes_nobody(&self) -> bool {
        self.takes_nobody.load(Ordering::Relaxed)
    }

    /// Accepts those who wait in the kernel's queue, of whom there are `most` at most. Whether it has.
    async fn take_queued(
        self: &Arc<Self>,
        acceptor: &mut Acceptor,
        most: u32,
        name: &Arc<str>,
        own: Option<SocketAddr>,
    ) -> bool {
        for _ in 0..most {
            match acceptor.take_queued() {
                Queued::Client(socket) => self.receive(socket, name, own).await,
                Queued::Away => {}
                Queued::Nobody => return true,
                Queued::Stuck => return false,
            }
            // However many come: those who are there have their turn.
            tokio::task::yield_now().await;
        }
        true
    }

    /// Takes in who has connected to the listener `name`, with `own` address, or turns it away.
    async fn receive(self: &Arc<Self>, socket: Accepted, name: &Arc<str>, own: Option<SocketAddr>) {
        #[cfg(debug_assertions)]
        assert!(!self.fault.load(Ordering::Relaxed), "a test asked for this");
        let (peer, laddr) = match &socket.socket {
            AcceptedSocket::Tcp(stream, peer) => {
                let laddr = own.unwrap_or_else(|| stream.local_addr().unwrap_or(*peer));
                (Peer::Tcp(*peer), Peer::Tcp(laddr))
            }
            AcceptedSocket::Unix(_) => {
                let path: Arc<str> = name.strip_prefix("unix:").unwrap_or(name).into();
                (Peer::Unix(Arc::clone(&path)), Peer::Unix(path))
            }
        };
        let identity = Identity::new(peer, Arc::clone(name));
        let tls = socket.tls.as_ref();
        if tls.is_some_and(|tls| tls.asks_for_certificate()) {
            // Which group it belongs to is known after its handshake.
            match self.admission.begin(&identity) {
                Ok(permit) => {
                    self.hand_over(socket, Place::Unknown(permit), identity, laddr)
                        .await
                }
                Err(refusal) => self.reject(socket, &refusal, &identity).await,
            }
            return;
        }
        match self.admission.arrive(&identity, Instant::now()) {
            Ok(permit) => {
                self.hand_over(socket, Place::Admitted(permit), identity, laddr)
                    .await
            }
            Err(refusal) if refusal.evict => {
                let door = Arc::clone(self);
                tokio::task::spawn_local(async move {
                    door.make_room(socket, identity, laddr, refusal).await
                });
            }
            Err(refusal) => self.reject(socket, &refusal, &identity).await,
        }
    }

    /// The worker that takes who comes: of those that live, and read what they are told, the one with the fewest.
    fn worker(&self) -> Option<&Worker> {
        let living = || self.workers.iter().filter(|one| one.takes_newcomers());
        let reading = living().filter(|one| one.mailbox().capacity() > 0);
        let fewest = reading.min_by_key(|one| one.clients());
        fewest.or_else(|| living().next())
    }

    /// Hands a client to the worker with the fewest.
    async fn hand_over(&self, socket: Accepted, place: Place, identity: Identity, laddr: Peer) {
        let Some(worker) = self.worker() else {
            // The process ends: the socket is closed.
            return;
        };
        let newcomer = Newcomer {
            socket,
            place,
            identity,
            laddr,
            seat: worker.seat(),
        };
        // A worker that has ended takes nobody; the socket is closed with the message.
        let _ = worker
            .mailbox()
            .send(Message::Arrived(Box::new(newcomer)))
            .await;
    }

    async fn make_room(&self, socket: Accepted, identity: Identity, laddr: Peer, refusal: Refusal) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let evictor = Evictor {
            admission: Arc::clone(&self.admission),
            registry: Arc::clone(&self.registry),
            tell_workers: Arc::clone(&self.tell_workers),
        };
        if evictor.make_room(&refusal, &identity, now_ms, 0).await
            && let Ok(permit) = self.admission.admit(&identity, Instant::now())
        {
            let place = Place::Admitted(permit);
            return self.hand_over(socket, place, identity, laddr).await;
        }
        self.reject(socket, &refusal, &identity).await;
    }

    /// Turns a client away: held and answered, or, when enough are held, told at once and closed.
    async fn reject(&self, socket: Accepted, refusal: &Refusal, identity: &Identity) {
        tell_rejection(&self.admission, refusal, identity);
        let explain = self.process.configured.load().limits.explain_rejections;
        let text = refusal.client_text(explain);
        let worker = self.worker();
        let hold = match &socket.tls {
            None => self.admission.hold(Instant::now()),
            Some(_) => self.admission.hold_to_shake(Instant::now()),
        };
        match (hold, worker) {
            (Some(permit), Some(worker)) => {
                let rejected = Rejected {
                    socket,
                    text,
                    permit,
                    seat: worker.seat(),
                };
                let _ = worker
                    .mailbox()
                    .send(Message::Rejected(Box::new(rejected)))
                    .await;
            }
            _ => {
                // Clients are accepted on the first worker's thread.
                self.workers[0]
                    .counters
                    .bound(telemetry::Bound::Rejected)
                    .add(1);
                socket.turn_away(&text);
            }
        }
    }
}

async fn until(mut ended: watch::Receiver<bool>) {
    // The sender gone means the same.
    let _ = ended.wait_for(|ended| *ended).await;
}
