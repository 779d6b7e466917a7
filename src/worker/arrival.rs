//! A client on its way in: its TLS handshake, the group that its certificate gives it, and its first turn.
//!
//! Invariant: a client in its handshake has its permit, so that handshakes are bounded as clients are.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Newcomer, Seat};
use crate::admission::{HoldPermit, Permit, Refusal};
use crate::client::{Arrived, Client, Site, hold, make_room};
use crate::identity::Identity;
use crate::telemetry::{Bound, Disconnect, TlsHandshake};
use crate::transport::{AcceptError, Acceptance, Accepted, Stream};

/// Handshakes that failed are logged once in this time, by each worker: anybody can cause them without end.
const LOG_EVERY: Duration = Duration::from_secs(10);

thread_local! {
    static LAST_LOGGED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    static UNLOGGED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Takes in a client that has connected.
pub(super) fn arrive(site: &Rc<Site>, newcomer: Newcomer) {
    let Newcomer {
        socket,
        permit,
        identity,
        laddr,
        seat,
    } = newcomer;
    let (stream, tls) = match socket.open() {
        Ok(opened) => opened,
        Err(error) => return tracing::warn!("a client could not be served: {error}"),
    };
    let arrived = Arrived {
        stream,
        permit,
        identity,
        laddr,
        arrived_micros: site.thread.clock.now_micros(),
    };
    match tls {
        None => begin(site, arrived, seat),
        // A task of its own, so that the client's holds nothing of the handshake.
        Some(acceptance) => drop(tokio::task::spawn_local(welcome(
            Rc::clone(site),
            acceptance,
            arrived,
            seat,
        ))),
    }
}

/// Serves a client until it leaves.
fn begin(site: &Rc<Site>, arrived: Arrived, seat: Seat) {
    let client = Client::new(Rc::clone(site), arrived);
    tokio::task::spawn_local(async move {
        client.run().await;
        drop(seat);
    });
}

/// The handshake of a client, and the place that its certificate gives it.
async fn welcome(site: Rc<Site>, acceptance: Arc<Acceptance>, arrived: Arrived, seat: Seat) {
    let Arrived {
        stream,
        mut permit,
        mut identity,
        laddr,
        arrived_micros,
    } = arrived;
    let stream = match greet(&site, &acceptance, stream, &identity).await {
        Ok(stream) => stream,
        Err(reason) => return count(&site, &permit, reason),
    };
    if let Some(name) = common_name(&stream) {
        identity.certificate = name;
        match regroup(&site, permit, &identity).await {
            Ok(moved) => permit = moved,
            Err((refused, refusal)) => {
                count(&site, &refused, Disconnect::Rejected);
                drop((refused, seat));
                return turn_away(&site, stream, &refusal).await;
            }
        }
    }
    let arrived = Arrived {
        stream,
        permit,
        identity,
        laddr,
        arrived_micros,
    };
    begin(&site, arrived, seat);
}

/// Holds a rejected socket and answers it, through TLS where it speaks that.
pub(super) async fn reject(site: Rc<Site>, socket: Accepted, text: Vec<u8>, permit: HoldPermit) {
    let stream = match socket.open() {
        Ok((stream, None)) => stream,
        Ok((stream, Some(acceptance))) => {
            // No longer than it would be held.
            let limit = site.thread.settings().limits.reject_hold;
            match Box::pin(acceptance.accept(stream, limit)).await {
                Ok(stream) => stream,
                // It is not wanted anyway.
                Err(_) => return,
            }
        }
        Err(error) => return tracing::debug!("a rejected socket could not be held: {error}"),
    };
    let thread = Rc::clone(&site.thread);
    hold(thread, Rc::new(stream), text, Vec::new(), permit).await;
}

async fn greet(
    site: &Site,
    acceptance: &Arc<Acceptance>,
    stream: Stream,
    identity: &Identity,
) -> Result<Stream, Disconnect> {
    let limit = site.thread.settings().limits.handshake_timeout;
    let handshakes = |result| site.thread.counters.client_handshakes(result).add(1);
    let error = match acceptance.accept(stream, limit).await {
        Ok(stream) => {
            let is_resumed = stream.tls().is_some_and(|tls| tls.is_resumed());
            handshakes(TlsHandshake::of(is_resumed));
            return Ok(stream);
        }
        Err(error) => error,
    };
    handshakes(TlsHandshake::Failed);
    log(identity, &error);
    Err(match error {
        AcceptError::Closed => Disconnect::Closed,
        AcceptError::Timeout => Disconnect::HandshakeTimeout,
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

/// Moves the client's place to the group that its certificate gives it.
async fn regroup(
    site: &Rc<Site>,
    mut permit: Permit,
    identity: &Identity,
) -> Result<Permit, (Permit, Refusal)> {
    // What its first place crossed would be forgotten with it.
    for line in [permit.warning.take(), permit.observed.take()]
        .into_iter()
        .flatten()
    {
        tracing::warn!("{line}");
    }
    let refusal = match permit.regroup(identity, Instant::now()) {
        Ok(_) => return Ok(permit),
        Err(refusal) => refusal,
    };
    if refusal.evict {
        let (registry, errands) = (Arc::clone(&site.registry), Arc::clone(&site.errands));
        let now_ms = site.thread.clock.now_ms();
        if make_room(registry, errands, refusal.clone(), now_ms, 0).await
            && let Ok(permit) = site.admission.admit(identity, Instant::now())
        {
            return Ok(permit);
        }
    }
    Err((permit, refusal))
}

/// The group that the client's certificate gives it is full.
async fn turn_away(site: &Rc<Site>, stream: Stream, refusal: &Refusal) {
    if let Some(line) = site.admission.rejected(refusal, Instant::now()) {
        tracing::warn!("rejected: {refusal}{line}");
    }
    let text = refusal.client_text(site.thread.settings().limits.explain_rejections);
    match site.admission.hold() {
        Some(permit) => {
            let thread = Rc::clone(&site.thread);
            hold(thread, Rc::new(stream), text, Vec::new(), permit).await;
        }
        None => site.thread.counters.bound(Bound::Rejected).add(1),
    }
}

fn count(site: &Site, permit: &Permit, reason: Disconnect) {
    let group = permit.group().index();
    site.thread.counters.group(group).disconnect(reason).add(1);
}
