//! A client on its way in: its TLS handshake, the group that its certificate gives it, and its first turn.
//!
//! Invariant: a client in its handshake has its place, so that handshakes are bounded as clients are: in its group, or, where
//! its certificate decides the group, among all clients.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{CountedClient, Newcomer, NewcomerPlace, RejectedClient};
use crate::admission::{AdmissionRefusal, ClientPermit, HandshakePermit};
use crate::client::{Arrived, Client, Clients, hold, tell_rejection};
use crate::config::TLS_CLIENT_BYTES;
use crate::identity::Identity;
use crate::telemetry::{Bound, Disconnect, Throttle, TlsHandshake};
use crate::transport::{AcceptError, ClientTls, Stream, TlsStream};

/// A handshake may take this long where `limits.handshake_timeout` is off.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes that failed are logged once in this time, by each worker: anybody can cause them without end.
const LOG_EVERY: Duration = Duration::from_secs(10);

thread_local! {
    static UNSERVED: Throttle = Throttle::default();
    static LAST_LOGGED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    static UNLOGGED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Takes in a client that has connected.
pub(super) fn arrive(clients: &Rc<Clients>, newcomer: Newcomer) {
    let Newcomer {
        socket,
        place,
        identity,
        laddr,
        counted,
    } = newcomer;
    let (stream, tls) = match socket.open() {
        Ok(opened) => opened,
        Err(error) => {
            let now = clients.thread.clock.now_micros();
            if let Some(unwritten) = UNSERVED.with(|line| line.write(now)) {
                tracing::warn!(unwritten, "a client could not be served: {error}");
            }
            return;
        }
    };
    let arrived_micros = clients.thread.clock.now_micros();
    let take_in = move |stream, permit, identity| Arrived {
        stream,
        permit,
        identity,
        laddr,
        arrived_micros,
    };
    match (tls, place) {
        (None, NewcomerPlace::Admitted(permit)) => {
            begin(clients, take_in(stream, permit, identity), counted)
        }
        // Only a certificate is waited for, and without TLS there is none.
        (None, NewcomerPlace::Unknown(_)) => {}
        // A task of its own, so that the client's holds nothing of the handshake.
        (Some(acceptance), place) => {
            let clients = Rc::clone(clients);
            tokio::task::spawn_local(async move {
                let welcomed = welcome(&clients, &acceptance, stream, place, identity).await;
                if let Some((stream, permit, identity)) = welcomed {
                    begin(&clients, take_in(stream, permit, identity), counted);
                }
            });
        }
    }
}

/// Serves a client until it leaves.
fn begin(clients: &Rc<Clients>, arrived: Arrived, counted: CountedClient) {
    let client = Client::new(Rc::clone(clients), arrived);
    tokio::task::spawn_local(async move {
        client.run().await;
        drop(counted);
    });
}

/// Shakes hands with a client and takes the place that its certificate gives it. `None`: it has been told, or has gone.
async fn welcome(
    clients: &Rc<Clients>,
    acceptance: &ClientTls,
    stream: Stream,
    place: NewcomerPlace,
    mut identity: Identity,
) -> Option<(Stream, ClientPermit, Identity)> {
    let stream = match greet(clients, acceptance, stream, &identity).await {
        Ok(stream) => stream,
        Err(reason) => {
            // Of one that showed no certificate, the group of those without.
            let group = match &place {
                NewcomerPlace::Admitted(permit) => permit.group(),
                NewcomerPlace::Unknown(_) => clients.admission.group_of(&identity),
            };
            let counters = &clients.thread.counters;
            counters.group(group.index()).disconnect(reason).add(1);
            if reason == Disconnect::HandshakeTimeout {
                counters.bound(Bound::HandshakeTimeout).add(1);
            }
            return None;
        }
    };
    let permit = match place {
        NewcomerPlace::Admitted(permit) => permit,
        NewcomerPlace::Unknown(permit) => {
            identity.certificate = common_name(&stream).unwrap_or_default();
            match admit(clients, permit, &identity, &stream).await {
                Ok(permit) => permit,
                Err(refusal) => {
                    turn_away(clients, stream, &refusal, &identity).await;
                    return None;
                }
            }
        }
    };
    Some((stream, permit, identity))
}

/// Holds a rejected socket and answers it, through TLS where it speaks that.
pub(super) async fn reject(clients: Rc<Clients>, rejected: RejectedClient) {
    let RejectedClient {
        socket,
        text,
        mut permit,
        counted,
    } = rejected;
    let stream = match socket.open() {
        Ok((stream, None)) => stream,
        Ok((stream, Some(acceptance))) => {
            // No longer than it is held in all.
            let left = permit.until().saturating_duration_since(Instant::now());
            let limit = left.min(handshake_limit(&clients));
            match Box::pin(shake(&clients, &acceptance, stream, limit)).await {
                Ok(stream) => stream,
                // It is not wanted anyway.
                Err(_) => return,
            }
        }
        Err(error) => return tracing::debug!("a rejected socket could not be held: {error}"),
    };
    permit.has_shaken();
    let thread = Rc::clone(&clients.thread);
    hold(thread, Rc::new(stream), text, Default::default(), permit).await;
    drop(counted);
}

fn handshake_limit(clients: &Clients) -> Duration {
    let limit = clients.thread.settings().limits.handshake_timeout;
    if limit.is_zero() {
        LONGEST_HANDSHAKE
    } else {
        limit
    }
}

/// Shakes hands, and counts how that ended.
async fn shake(
    clients: &Clients,
    acceptance: &ClientTls,
    stream: Stream,
    limit: Duration,
) -> Result<Stream, AcceptError> {
    let stranger = clients.thread.strangers.enter(TLS_CLIENT_BYTES);
    // What it has sent while respool was stopped is read first.
    let shaking = acceptance.accept(stream, &stranger);
    let shaken = clients.thread.while_running(limit, shaking).await;
    let shaken = shaken.unwrap_or(Err(AcceptError::Timeout));
    let result = match &shaken {
        Ok(stream) => TlsHandshake::of(stream.tls().is_some_and(TlsStream::is_resumed)),
        Err(_) => TlsHandshake::Failed,
    };
    clients.thread.counters.client_handshakes(result).add(1);
    shaken
}

async fn greet(
    clients: &Clients,
    acceptance: &ClientTls,
    stream: Stream,
    identity: &Identity,
) -> Result<Stream, Disconnect> {
    let error = match shake(clients, acceptance, stream, handshake_limit(clients)).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    log(identity, &error);
    Err(match error {
        AcceptError::Closed => Disconnect::Closed,
        AcceptError::Timeout => Disconnect::HandshakeTimeout,
        AcceptError::NoRoom => Disconnect::Memory,
        AcceptError::Plain | AcceptError::Failed(_) => Disconnect::TlsHandshake,
    })
}

fn log(identity: &Identity, error: &AcceptError) {
    let now = Instant::now();
    let is_due = LAST_LOGGED.get().is_none_or(|last| now - last >= LOG_EVERY);
    if matches!(error, AcceptError::Closed) || !is_due {
        UNLOGGED.set(UNLOGGED.get() + 1);
        tracing::debug!(client = %identity.peer, listener = %identity.listener, "no TLS with a client: {error}");
        return;
    }
    LAST_LOGGED.set(Some(now));
    let others = UNLOGGED.take();
    tracing::warn!(client = %identity.peer, listener = %identity.listener, others, "no TLS with a client: {error}");
}

fn common_name(stream: &Stream) -> Option<Box<str>> {
    let name = stream.tls()?.peer()?.common_name?;
    Some(name.into_boxed_str()).filter(|name| !name.is_empty())
}

/// Takes the client's place in the group that its certificate gives it; one of that group may have to go for it.
async fn admit(
    clients: &Rc<Clients>,
    permit: HandshakePermit,
    identity: &Identity,
    stream: &Stream,
) -> Result<ClientPermit, Box<AdmissionRefusal>> {
    let (permit, refusal) = match permit.admit(identity, Instant::now()) {
        Ok(permit) => return Ok(permit),
        Err(refused) => refused,
    };
    if !refusal.evict {
        return Err(refusal);
    }
    let evictor = clients.evictor();
    let now_ms = clients.thread.clock.now_ms();
    // Meanwhile it keeps the place that its handshake had.
    let made = tokio::select! {
        made = evictor.make_room(&refusal, identity, now_ms, 0) => made,
        // It has left meanwhile.
        () = stream.finished() => false,
    };
    if !made {
        return Err(refusal);
    }
    permit.admit(identity, Instant::now()).map_err(|_| refusal)
}

/// Turns a client away: the group that its certificate gives it is full.
async fn turn_away(
    clients: &Rc<Clients>,
    stream: Stream,
    refusal: &AdmissionRefusal,
    identity: &Identity,
) {
    tell_rejection(&clients.admission, refusal, identity);
    let text = refusal.client_text(clients.thread.settings().limits.explain_rejections);
    match clients.admission.hold(Instant::now()) {
        Some(permit) => {
            let thread = Rc::clone(&clients.thread);
            hold(thread, Rc::new(stream), text, Default::default(), permit).await;
        }
        None => {
            clients.thread.counters.bound(Bound::Rejected).add(1);
            // As far as that goes without waiting.
            let _ = stream.try_write(&text);
            stream.finish_writing();
        }
    }
}
