//! Accepting: who comes is admitted and handed to a worker, or turned away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::admission::{Admission, AdmissionRefusal};
use crate::client::{Evictor, TellWorkers, tell_rejection};
use crate::config::ListenerSettings;
use crate::identity::{ClientRegistry, Identity, PeerAddress};
use crate::telemetry::{self, ProcessParts};
use crate::thread::Process;
use crate::transport::{
    AcceptedClient, AcceptedSocket, AcceptingEnd, BoundSocket, ClientAcceptor, ListenerOrder,
    NextAccepted,
};
use crate::worker::{Newcomer, NewcomerPlace, RejectedClient, Worker, WorkerMessage};

/// Takes in whoever connects: a newcomer is admitted and handed to a worker, or turned away.
pub(super) struct ClientIntake {
    pub(super) admission: Arc<Admission>,
    pub(super) registry: Arc<ClientRegistry>,
    pub(super) tell_workers: TellWorkers,
    pub(super) workers: Vec<Worker>,
    pub(super) process: Arc<Process>,
    pub(super) start: Instant,
    pub(super) draining: Arc<AtomicBool>,
    /// Is true once the listeners are closed for good, or about to be.
    pub(super) takes_nobody: AtomicBool,
    pub(super) parts: Arc<ProcessParts>,
    /// Has the accepting task panic with the next client, for a test.
    #[cfg(debug_assertions)]
    pub(super) fault: Arc<AtomicBool>,
}

pub(super) async fn accept(
    bound: BoundSocket,
    mut accepting: AcceptingEnd,
    listener: ListenerSettings,
    intake: Arc<ClientIntake>,
) {
    let name: Arc<str> = listener.name.as_str().into();
    // Asked of each client's socket only where the listener has no one address of its own.
    let own = bound.local_address();
    let mut acceptor = match bound.open() {
        Ok(acceptor) => acceptor,
        Err(error) => {
            let wrong = format!("cannot accept: {error}");
            return intake.parts.lose(&format!("accepting on {name}"), &wrong);
        }
    };
    let _guard = intake.parts.guard(&format!("accepting on {name}"), true);
    loop {
        let told = tokio::select! {
            socket = acceptor.accept() => {
                intake.receive(socket, &name, own).await;
                continue;
            }
            told = accepting.told() => told,
        };
        match told {
            ListenerOrder::Stop => return,
            ListenerOrder::TakeQueued { most, done } => {
                let is_done = intake.take_queued(&mut acceptor, most, &name, own).await;
                // Whoever asked has given up.
                let _ = done.send(is_done);
            }
        }
    }
}

impl ClientIntake {
    /// Tells whether respool drains: its listeners are closed for good, or about to be.
    pub(super) fn takes_nobody(&self) -> bool {
        self.takes_nobody.load(Ordering::Relaxed)
    }

    /// Accepts those who wait in the kernel's queue, of whom there are `most` at most. Returns false where it cannot.
    async fn take_queued(
        self: &Arc<Self>,
        acceptor: &mut ClientAcceptor,
        most: u32,
        name: &Arc<str>,
        own: Option<SocketAddr>,
    ) -> bool {
        for _ in 0..most {
            match acceptor.take_queued() {
                NextAccepted::Client(socket) => self.receive(socket, name, own).await,
                NextAccepted::Away => {}
                NextAccepted::Nobody => return true,
                NextAccepted::Stuck => return false,
            }
            // However many come: those who are there have their turn.
            tokio::task::yield_now().await;
        }
        true
    }

    /// Takes in who has connected to the listener `name`, with `own` address, or turns it away.
    async fn receive(
        self: &Arc<Self>,
        socket: AcceptedClient,
        name: &Arc<str>,
        own: Option<SocketAddr>,
    ) {
        #[cfg(debug_assertions)]
        assert!(!self.fault.load(Ordering::Relaxed), "a test asked for this");
        let (peer, laddr) = match &socket.socket {
            AcceptedSocket::Tcp(stream, peer) => {
                let laddr = own.unwrap_or_else(|| stream.local_addr().unwrap_or(*peer));
                (PeerAddress::Tcp(*peer), PeerAddress::Tcp(laddr))
            }
            AcceptedSocket::Unix(_) => {
                let path: Arc<str> = name.strip_prefix("unix:").unwrap_or(name).into();
                (
                    PeerAddress::Unix(Arc::clone(&path)),
                    PeerAddress::Unix(path),
                )
            }
        };
        let identity = Identity::new(peer, Arc::clone(name));
        let tls = socket.tls.as_ref();
        if tls.is_some_and(|tls| tls.asks_for_certificate()) {
            // Which group it belongs to is known after its handshake.
            match self.admission.begin(&identity) {
                Ok(permit) => {
                    self.hand_over(socket, NewcomerPlace::Unknown(permit), identity, laddr)
                        .await
                }
                Err(refusal) => self.reject(socket, &refusal, &identity).await,
            }
            return;
        }
        match self.admission.arrive(&identity, Instant::now()) {
            Ok(permit) => {
                self.hand_over(socket, NewcomerPlace::Admitted(permit), identity, laddr)
                    .await
            }
            Err(refusal) if refusal.evict => {
                let intake = Arc::clone(self);
                tokio::task::spawn_local(async move {
                    intake.make_room(socket, identity, laddr, refusal).await
                });
            }
            Err(refusal) => self.reject(socket, &refusal, &identity).await,
        }
    }

    /// Returns the worker that takes who comes: of those that live, and read what they are told, the one with the fewest clients.
    fn worker(&self) -> Option<&Worker> {
        let living = || self.workers.iter().filter(|one| one.takes_newcomers());
        let reading = living().filter(|one| one.mailbox().capacity() > 0);
        let fewest = reading.min_by_key(|one| one.clients());
        fewest.or_else(|| living().next())
    }

    /// Hands a client to that worker.
    async fn hand_over(
        &self,
        socket: AcceptedClient,
        place: NewcomerPlace,
        identity: Identity,
        laddr: PeerAddress,
    ) {
        let Some(worker) = self.worker() else {
            // The process ends: the socket is closed.
            return;
        };
        let newcomer = Newcomer {
            socket,
            place,
            identity,
            laddr,
            counted: worker.count_client(),
        };
        // A worker that has ended takes nobody; the socket is closed with the message.
        let _ = worker
            .mailbox()
            .send(WorkerMessage::Arrived(Box::new(newcomer)))
            .await;
    }

    async fn make_room(
        &self,
        socket: AcceptedClient,
        identity: Identity,
        laddr: PeerAddress,
        refusal: AdmissionRefusal,
    ) {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let evictor = Evictor {
            admission: Arc::clone(&self.admission),
            registry: Arc::clone(&self.registry),
            tell_workers: Arc::clone(&self.tell_workers),
        };
        if evictor.make_room(&refusal, &identity, now_ms, 0).await
            && let Ok(permit) = self.admission.admit(&identity, Instant::now())
        {
            let place = NewcomerPlace::Admitted(permit);
            return self.hand_over(socket, place, identity, laddr).await;
        }
        self.reject(socket, &refusal, &identity).await;
    }

    /// Turns a client away: it is held and answered, or, when enough are held, told at once and closed.
    async fn reject(
        &self,
        socket: AcceptedClient,
        refusal: &AdmissionRefusal,
        identity: &Identity,
    ) {
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
                let rejected = RejectedClient {
                    socket,
                    text,
                    permit,
                    counted: worker.count_client(),
                };
                let _ = worker
                    .mailbox()
                    .send(WorkerMessage::Rejected(Box::new(rejected)))
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
