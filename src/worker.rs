//! One worker: a thread with a runtime of its own, its clients, its connections to the server.
//!
//! Invariant: what a worker owns never leaves its thread; the rest of the process reaches it by messages only.

mod arrival;
mod process_memory;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use process_memory::ProcessMemory;

use crate::admission::{Admission, ClientPermit, HandshakePermit, HoldPermit};
use crate::client::{ClientMessage, Clients, ClientsMessage, TellWorkers};
use crate::identity::{ClientRegistry, Identity, PeerAddress};
use crate::telemetry::WorkerCounters;
use crate::thread::{Process, Thread};
use crate::transport::AcceptedClient;
use crate::upstream::Upstream;

/// A worker may be behind with this many messages before whoever sends them waits.
const MAILBOX: usize = 4096;

/// The worker looks this often for what time makes due: deadlines are kept to within this.
const TICK: Duration = Duration::from_millis(50);

/// Closing the connections to the server may take this long at the end.
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// Says what the rest of the process tells a worker.
pub enum WorkerMessage {
    /// It serves this client.
    Arrived(Box<Newcomer>),
    /// It holds this rejected socket.
    Rejected(Box<RejectedClient>),
    /// It accepts clients, by a task that runs until respool drains.
    Listen(StartListening),
    /// It does something to a client of its own.
    Client(ClientMessage),
    /// It does something to those clients that are its own.
    Clients(ClientsMessage),
    /// The process goes by other settings: it tells when it does, too.
    Reload(oneshot::Sender<()>),
    /// Clients are admitted by other settings: it has each move to where they put it, and tells when they know.
    Reassign(oneshot::Sender<()>),
    /// Another worker waits for the place of an idle pin.
    Reclaim,
    /// It closes clients between requests, then ends.
    Drain,
    /// It ends at once.
    Stop,
    /// It fails, as a test asks.
    #[cfg(debug_assertions)]
    Fault(WorkerFault),
}

/// Says what a test has a worker do.
#[cfg(debug_assertions)]
#[derive(Debug, Clone, Copy)]
pub enum WorkerFault {
    /// The worker's own thread panics.
    Panic,
    /// A task panics that the worker needs.
    TaskPanic,
    /// It stands still for so long.
    Hang(Duration),
}

#[cfg(debug_assertions)]
impl WorkerFault {
    fn happen(self, clients: &Clients) {
        match self {
            Self::TaskPanic => clients.thread.keep("does what a test asks", async {
                panic!("a test asked for this");
            }),
            Self::Panic => panic!("a test asked for this"),
            Self::Hang(time) => {
                let begun = std::time::Instant::now();
                while begun.elapsed() < time {
                    std::thread::park_timeout(time.saturating_sub(begun.elapsed()));
                }
            }
        }
    }
}

/// Starts accepting on the worker it is sent to.
pub type StartListening = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Says which place a client has when it is handed over.
#[derive(Debug)]
pub enum NewcomerPlace {
    /// It has one in its group.
    Admitted(ClientPermit),
    /// It has none in a group yet: its certificate decides.
    Unknown(HandshakePermit),
}

/// Holds a client on its way to its worker.
pub struct Newcomer {
    pub socket: AcceptedClient,
    pub place: NewcomerPlace,
    pub identity: Identity,
    /// It has connected to this address.
    pub laddr: PeerAddress,
    /// Counts it among its worker's clients.
    pub counted: CountedClient,
}

/// Holds a rejected socket on its way to the worker that keeps it open.
pub struct RejectedClient {
    pub socket: AcceptedClient,
    /// Each of its commands is answered with this.
    pub text: Vec<u8>,
    /// Gives the right to hold it.
    pub permit: HoldPermit,
    /// Counts it among its worker's clients, so that they are spread as those are.
    pub counted: CountedClient,
}

/// Counts one of a worker's clients from its hand-over until it has left.
pub struct CountedClient(Arc<AtomicUsize>);

impl CountedClient {
    fn take(clients: &Arc<AtomicUsize>) -> Self {
        clients.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(clients))
    }
}

impl Drop for CountedClient {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Holds what every worker is given.
#[derive(Clone)]
pub struct WorkerEquipment {
    /// The workers share this.
    pub process: Arc<Process>,
    /// Decides who may come.
    pub admission: Arc<Admission>,
    /// Lists the clients of all workers.
    pub registry: Arc<ClientRegistry>,
    /// Sends messages to the clients of any worker.
    pub tell_workers: TellWorkers,
}

/// Is what the rest of the process has of a worker.
pub struct Worker {
    mailbox: mpsc::Sender<WorkerMessage>,
    clients: Arc<AtomicUsize>,
    /// Holds what it counts.
    pub counters: Arc<WorkerCounters>,
    /// Is true while it has not moved for long, as whoever looks after it says.
    is_stuck: AtomicBool,
    thread: Option<JoinHandle<()>>,
}

/// Makes a worker's mailbox, before the worker is there to read it.
pub fn mailbox() -> (mpsc::Sender<WorkerMessage>, mpsc::Receiver<WorkerMessage>) {
    mpsc::channel(MAILBOX)
}

impl Worker {
    /// Starts worker `index` with `shared` of the shared connections.
    ///
    /// # Errors
    /// The thread or its runtime cannot be had.
    pub fn start(
        index: usize,
        shared: usize,
        charge: WorkerEquipment,
        counters: Arc<WorkerCounters>,
        (mailbox, messages): (mpsc::Sender<WorkerMessage>, mpsc::Receiver<WorkerMessage>),
    ) -> io::Result<Self> {
        // Built on its own thread, but what can fail is reported here.
        let (told, started) = std::sync::mpsc::sync_channel(1);
        let of_worker = Arc::clone(&counters);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(told.send(Err(error))),
                };
                let _ = told.send(Ok(()));
                // As a task of its own, so that its wake-ups cost no system call.
                runtime.block_on(async {
                    let serving =
                        tokio::task::spawn_local(serve(index, shared, charge, of_worker, messages));
                    // A panic has been reported where it happened; the thread ends.
                    let _ = serving.await;
                });
            })?;
        started
            .recv()
            .map_err(|_| io::Error::other("a worker ended before it began"))??;
        Ok(Self {
            mailbox,
            clients: Arc::default(),
            counters,
            is_stuck: AtomicBool::new(false),
            thread: Some(thread),
        })
    }

    /// Returns how many clients it has.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Counts one more of its clients, until that is dropped.
    pub fn count_client(&self) -> CountedClient {
        CountedClient::take(&self.clients)
    }

    /// Returns the way to tell it something.
    pub fn mailbox(&self) -> &mpsc::Sender<WorkerMessage> {
        &self.mailbox
    }

    /// Tells whether it is known to stand still.
    pub fn set_stuck(&self, is_stuck: bool) {
        self.is_stuck.store(is_stuck, Ordering::Relaxed);
    }

    /// Tells whether clients that come would be served by it.
    pub fn takes_newcomers(&self) -> bool {
        !self.is_stuck.load(Ordering::Relaxed) && !self.has_ended()
    }

    /// Tells whether its thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

async fn serve(
    index: usize,
    shared: usize,
    charge: WorkerEquipment,
    counters: Arc<WorkerCounters>,
    mut messages: mpsc::Receiver<WorkerMessage>,
) {
    let thread = Rc::new(Thread::new(index, Arc::clone(&charge.process), counters));
    let upstream = Upstream::new(thread, shared);
    upstream.start();
    let clients = Clients::new(
        upstream,
        charge.admission,
        charge.registry,
        charge.tell_workers,
    );
    let process_memory = Rc::new(ProcessMemory::of_this_process(index == 0));
    clients.thread.account.on_growth({
        let (process_memory, process) = (Rc::clone(&process_memory), charge.process);
        Rc::new(move || process_memory.measure(&process.memory))
    });
    let mut listening = Vec::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                None | Some(WorkerMessage::Stop) => break,
                Some(WorkerMessage::Listen(listen)) => listening.push(tokio::task::spawn_local(listen())),
                Some(message) => take(&clients, message),
            },
            _ = tick.tick() => {
                clients.thread.counters.beats.add(1);
                let now = clients.thread.clock.refresh();
                if index == 0 {
                    process_memory.measure(clients.thread.account.memory());
                }
                // What has come while it was stopped is read before anybody is judged.
                if !clients.thread.stopped.look(now) {
                    clients.upstream.tick();
                    clients.tick();
                }
            }
        }
        if clients.draining.get() {
            listening.drain(..).for_each(|accepting| accepting.abort());
        }
        if clients.draining.get() && clients.entries.borrow().is_empty() {
            break;
        }
    }
    close(&clients.upstream).await;
}

/// Closes the connections to the server. What is under way on them, and then the server, has [`CLOSING_TIME`] each.
async fn close(upstream: &Rc<Upstream>) {
    // Elements popped for clients that have just been closed find their way back.
    let settled = async {
        while upstream.has_waits_under_way() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(CLOSING_TIME, settled).await;
    upstream.stop();
    let emptied = async {
        while upstream.is_connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // The server drops what has not said goodbye in time.
    let _ = tokio::time::timeout(CLOSING_TIME, emptied).await;
}

fn take(clients: &Rc<Clients>, message: WorkerMessage) {
    clients.thread.clock.refresh();
    match message {
        WorkerMessage::Arrived(newcomer) => arrival::arrive(clients, *newcomer),
        WorkerMessage::Rejected(rejected) => {
            tokio::task::spawn_local(arrival::reject(Rc::clone(clients), *rejected));
        }
        WorkerMessage::Client(message) => clients.run(message),
        WorkerMessage::Clients(message) => clients.run_for_all(message),
        WorkerMessage::Reload(done) => {
            clients.reload();
            let _ = done.send(());
        }
        WorkerMessage::Reassign(done) => {
            clients.reassign();
            let _ = done.send(());
        }
        WorkerMessage::Reclaim => clients.upstream.give_up_idle(),
        WorkerMessage::Drain => clients.drain(),
        #[cfg(debug_assertions)]
        WorkerMessage::Fault(fault) => fault.happen(clients),
        WorkerMessage::Listen(_) | WorkerMessage::Stop => {}
    }
}
