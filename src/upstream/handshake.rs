//! A connection to the server is opened in a state: authenticated, named, its protocol and database acknowledged.

mod authentication;
mod error;
mod introduction;
mod talk;

pub(super) use error::ConnectError;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use authentication::{asks_unauthenticated, authenticate, log_in_as_client};
use error::{away, out_of_place, refused_login};
use introduction::{ServerIntroduction, introduce};
use talk::OpeningTalk;

use crate::budget::SocketPermit;
use crate::config::{ServerRole, Settings, UpstreamSettings};
use crate::failover::ServerNode;
use crate::link::{Link, ServerSocket};
use crate::login::OwnLogin;
use crate::server::LinkOrigin;
use crate::session::{Change, State, steps};
use crate::telemetry::{ConnectResult, TlsHandshake};
use crate::texts::NOAUTH;
use crate::thread::{Process, Thread};
use crate::transport::{DialError, Stream, TlsConnector, dial};

/// Holds what one connect goes by from its first step to its last, whatever is reloaded meanwhile.
struct ConnectTerms {
    settings: Arc<Settings>,
    tls: Option<Arc<TlsConnector>>,
    login: Arc<OwnLogin>,
    begun_micros: u64,
}

impl ConnectTerms {
    async fn of(process: &Process) -> Self {
        loop {
            let login = process.login();
            // Before the socket is open: a command may take its time.
            login.prepare().await;
            let _whole = process.in_force();
            if Arc::ptr_eq(&login, &process.login()) {
                return Self {
                    settings: process.settings(),
                    tls: process.tls.load_full(),
                    login,
                    begun_micros: process.now_micros(),
                };
            }
        }
    }
}

/// Opens a connection that is in `state` and is called `name` at the server, to `best` where that is one of it. It is awaited
/// to its end, by a task that no client can end.
///
/// # Errors
/// [`ConnectError`] says why there is none. Each attempt is counted by its result.
pub(super) async fn connect(
    thread: &Rc<Thread>,
    state: &State,
    name: String,
    permit: SocketPermit,
    best: Option<ServerNode>,
) -> Result<Rc<Link>, ConnectError> {
    let terms = ConnectTerms::of(&thread.process).await;
    let greeted = greet(thread, &terms, state, &name, (permit, best)).await;
    let result = match &greeted {
        Ok(_) | Err(ConnectError::Refused(..)) => ConnectResult::Ok,
        Err(ConnectError::Unready(cause, _)) => {
            thread.counters.losses(*cause).add(1);
            ConnectResult::Unready
        }
        Err(ConnectError::Unauthenticated(_)) => ConnectResult::HandshakeError,
        Err(ConnectError::Away { result, .. }) => *result,
    };
    thread.counters.connects(result).add(1);
    let (
        mut socket,
        SettledState {
            introduced:
                ServerIntroduction {
                    server_id,
                    run,
                    is_replica,
                    version,
                },
            reached,
            refusal,
        },
    ) = greeted?;
    socket.set_server_id(server_id, run);
    let upstream = &terms.settings.upstream;
    let origin = LinkOrigin {
        name,
        server_id,
        node: socket.node().clone(),
        run,
        is_replica,
        version,
        begun_micros: terms.begun_micros,
        opened_micros: thread.process.now_micros(),
    };
    let can_serve = !is_replica || upstream.role == ServerRole::Replica;
    let failovers = &thread.process.failovers;
    failovers.opened(socket.kind(), &origin, can_serve);
    let link = Link::new(Rc::clone(thread), socket, reached, origin);
    if terms.login.expires() {
        link.renewal
            .begin(upstream.reauthenticate_after, thread.clock.refresh());
    }
    match refusal {
        None => Ok(link),
        Some(reply) => Err(ConnectError::Refused(reply, link)),
    }
}

/// Dials, and says what is to be said first. The permit is the socket's from the moment there is one.
async fn greet(
    thread: &Rc<Thread>,
    terms: &ConnectTerms,
    state: &State,
    name: &str,
    (permit, best): (SocketPermit, Option<ServerNode>),
) -> Result<(ServerSocket, SettledState), ConnectError> {
    let upstream = &terms.settings.upstream;
    let dialled = dial_server(thread, upstream, best).await;
    let (stream, node) = dialled.map_err(unreached)?;
    let mut socket = ServerSocket::new(thread, stream, permit, node, terms.begun_micros);
    // Its bound is its own, so that it can be told apart.
    secure(thread, terms, &mut socket).await?;
    let mut talk = OpeningTalk::new(socket);
    let limit = upstream.connect_timeout;
    let settling = settle(&mut talk, thread, terms, state, name);
    let settled = thread.within(limit, settling).await.unwrap_or_else(|| {
        Err(away(
            format!(
                "the server did not answer respool's first commands within {limit:?} (upstream.connect_timeout)"
            ),
            ConnectResult::Timeout,
        ))
    })?;
    Ok((talk.into_socket(), settled))
}

/// Dials the nodes of the server, `best` before the others.
async fn dial_server(
    thread: &Rc<Thread>,
    upstream: &UpstreamSettings,
    best: Option<ServerNode>,
) -> Result<(Stream, ServerNode), DialError> {
    let process = &thread.process;
    let nodes = process
        .address
        .locate(upstream, &process.look_up_terms())
        .await?;
    let mut nodes = process.address.order(&nodes, process.now_micros());
    if let Some(best) = best
        && let Some(at) = nodes.iter().position(|node| *node == best)
    {
        nodes[..=at].rotate_right(1);
    }
    let is_uncounted = |node| process.uncounted.holds(node);
    if nodes.iter().any(is_uncounted) || process.budget.is_over_total() {
        // An address that was the server's before: what stands there counts first.
        return Err(DialError::Unresolved(
            "connections of before still stand at the server, as many as there may be".to_owned(),
        ));
    }
    let has_others = nodes.len() > 1;
    let was_silent = |node: &ServerNode| {
        if has_others {
            process.address.was_silent(node, process.now_micros());
        }
    };
    let limit = upstream.connect_timeout;
    let dialled = dial(&nodes, limit, upstream.keepalive, was_silent).await?;
    if has_others {
        process.address.has_answered(&dialled.1);
    }
    Ok(dialled)
}

/// Tells why the server was not reached, by how it failed.
fn unreached(error: DialError) -> ConnectError {
    let result = match &error {
        DialError::Timeout(_) => ConnectResult::Timeout,
        DialError::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
            ConnectResult::Refused
        }
        DialError::Io(_) | DialError::Unresolved(_) => ConnectResult::Error,
    };
    away(error.to_string(), result)
}

/// Holds what was told before a connection carries traffic.
struct SettledState {
    introduced: ServerIntroduction,
    /// It is in the wanted state, or as far on the way to it as the server took it.
    reached: State,
    /// The server answered this to the state of a client.
    refusal: Option<Vec<u8>>,
}

/// Says what is to be said before a connection carries traffic.
async fn settle(
    talk: &mut OpeningTalk,
    thread: &Rc<Thread>,
    terms: &ConnectTerms,
    state: &State,
    name: &str,
) -> Result<SettledState, ConnectError> {
    let started = Instant::now();
    let refuses_unauthenticated = asks_unauthenticated(talk, terms).await?;
    authenticate(talk, &terms.login).await?;
    let introduced = introduce(talk, (thread, terms), name, refuses_unauthenticated).await?;
    let elapsed = || started.elapsed().as_micros() as u64;
    let (user, introduced) = match introduced {
        Some(introduced) => (None, introduced),
        None => {
            thread.process.health.answered(elapsed());
            let user = log_in_as_client(talk, thread, terms, state).await?;
            let introduced = introduce(talk, (thread, terms), name, true).await?;
            let refused = || ConnectError::Unauthenticated(NOAUTH.to_vec());
            (Some(user), introduced.ok_or_else(refused)?)
        }
    };
    thread.process.health.answered(elapsed());
    let reached = State {
        user,
        ..State::INITIAL
    };
    let (reached, refusal) = change_state(talk, thread, (reached, state), name).await?;
    talk.nothing_is_left()?;
    Ok(SettledState {
        introduced,
        reached,
        refusal,
    })
}

/// Makes TLS of the connection, where the server speaks it.
async fn secure(
    thread: &Thread,
    terms: &ConnectTerms,
    socket: &mut ServerSocket,
) -> Result<(), ConnectError> {
    let Some(connector) = &terms.tls else {
        return Ok(());
    };
    let handshakes = |result| thread.counters.server_handshakes(result).add(1);
    socket.secure(connector).await.map_err(|failed| {
        handshakes(TlsHandshake::Failed);
        away(failed.to_string(), ConnectResult::TlsError)
    })?;
    if let Some(tls) = socket.tls() {
        handshakes(TlsHandshake::of(tls.is_resumed()));
        let not_after = tls.peer().map(|certificate| certificate.not_after.0);
        thread.process.health.set_certificate_expiry(not_after);
    }
    Ok(())
}

/// Goes from the state that the connection is in to `state`, or as far as the server takes it; a refusal is the client's.
async fn change_state(
    talk: &mut OpeningTalk,
    thread: &Thread,
    (mut reached, state): (State, &State),
    name: &str,
) -> Result<(State, Option<Vec<u8>>), ConnectError> {
    let login = thread.process.login();
    let own = thread.own();
    let own = own.ok_or_else(|| refused_login("", &login))?;
    for step in steps(&reached, state, Change::Difference, &own, name) {
        let reply = talk.ask(&step.request).await?;
        if reply.first() == Some(&b'-') {
            return Ok((reached, Some(step.effect.refusal(reply))));
        }
        if !step.effect.is_answered_by(&reply) {
            return Err(out_of_place());
        }
        step.effect.apply(&mut reached);
    }
    Ok((reached, None))
}
