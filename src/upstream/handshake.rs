//! A connection to the server is opened in a state: authenticated, named, its protocol and database acknowledged.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use zeroize::Zeroizing;

use super::link::Link;
use super::process::Process;
use super::socket::ServerSocket;
use super::thread::Thread;
use crate::auth::{is_wrong_password, refusal_text};
use crate::budget::SocketPermit;
use crate::config::{AuthMode, Role, Settings};
use crate::failover::Node;
use crate::login::{LoginCandidate, OwnLogin};
use crate::resp::speak::encode_request;
use crate::resp::{ReplyScanner, parse_integer};
use crate::server::{LinkOrigin, ServerHello, ServerInfo};
use crate::session::{Change, Credentials, Effect, Protocol, State, name_request, steps};
use crate::telemetry::{ConnectResult, LossCause, TlsHandshake};
use crate::texts::{NOAUTH, ServerVersion};
use crate::transport::{Connector, DialError, dial};

/// Says why no connection in the wanted state came about.
pub(super) enum ConnectError {
    /// The server is not there, or does not want respool itself. Waiting may help.
    Away {
        /// The text is for people, and holds no secret.
        text: String,
        /// It is counted so.
        result: ConnectResult,
    },
    /// The server is there, and answers with this that it cannot serve now: LOADING, MASTERDOWN.
    Unready(LossCause, Vec<u8>),
    /// The server refused the client's user or database with this reply. The connection is as good as any, in the state it
    /// is in.
    Refused(Vec<u8>, Rc<Link>),
    /// The server wants a password, respool has none, and this is its answer to what the client has shown, or to nothing.
    Unauthenticated(Vec<u8>),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { text, .. } => f.write_str(text),
            Self::Unready(_, reply) => {
                let text = String::from_utf8_lossy(reply);
                write!(f, "the server said {}", text.trim_end())
            }
            Self::Refused(reply, _) | Self::Unauthenticated(reply) => {
                write!(f, "{}", String::from_utf8_lossy(reply).trim_end())
            }
        }
    }
}

fn away(text: impl Into<String>, result: ConnectResult) -> ConnectError {
    ConnectError::Away {
        text: text.into(),
        result,
    }
}

/// Holds what one connect goes by from its first step to its last, whatever is reloaded meanwhile.
struct Terms {
    settings: Arc<Settings>,
    tls: Option<Arc<Connector>>,
    login: Arc<OwnLogin>,
    begun_micros: u64,
}

impl Terms {
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
    best: Option<Node>,
) -> Result<Rc<Link>, ConnectError> {
    let terms = Terms::of(&thread.process).await;
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
        Settled {
            introduced:
                Introduced {
                    server_id,
                    run,
                    is_replica,
                    version,
                },
            worn,
            refusal,
        },
    ) = greeted?;
    socket.set_server_id(server_id, run);
    let upstream = &terms.settings.upstream;
    let origin = LinkOrigin {
        node: socket.node().clone(),
        run,
        is_replica,
        version,
        begun_micros: terms.begun_micros,
        opened_micros: thread.process.now_micros(),
    };
    let can_serve = !is_replica || upstream.role == Role::Replica;
    let failovers = &thread.process.failovers;
    failovers.opened(socket.kind(), &origin, can_serve);
    let link = Link::new(Rc::clone(thread), socket, worn, (name, server_id), origin);
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
    terms: &Terms,
    state: &State,
    name: &str,
    (permit, best): (SocketPermit, Option<Node>),
) -> Result<(ServerSocket, Settled), ConnectError> {
    let upstream = &terms.settings.upstream;
    let dialled = async {
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
                "connections of before still stand at the server, as many as there may be"
                    .to_owned(),
            ));
        }
        let has_others = nodes.len() > 1;
        let was_silent = |node: &Node| {
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
    };
    let (stream, node) = dialled.await.map_err(|error| {
        let result = match &error {
            DialError::Timeout(_) => ConnectResult::Timeout,
            DialError::Io(io) if io.kind() == io::ErrorKind::ConnectionRefused => {
                ConnectResult::Refused
            }
            DialError::Io(_) | DialError::Unresolved(_) => ConnectResult::Error,
        };
        away(error.to_string(), result)
    })?;
    let mut socket = ServerSocket::new(thread, stream, permit, node, terms.begun_micros);
    // Its bound is its own, so that it can be told apart.
    secure(thread, terms, &mut socket).await?;
    let mut talk = Talk {
        socket,
        buffer: Vec::new(),
        has_heard: false,
    };
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
    Ok((talk.socket, settled))
}

/// Holds what was told before a connection carries traffic.
struct Settled {
    introduced: Introduced,
    /// It is in the wanted state, or as far on the way to it as the server took it.
    worn: State,
    /// The server answered this to the state of a client.
    refusal: Option<Vec<u8>>,
}

/// Holds what the server has said of itself and of the connection.
struct Introduced {
    /// The connection has this number there; 0: it is not known.
    server_id: i64,
    /// This process of a server answers; `None`: it does not say.
    run: Option<u64>,
    /// Is true where the server calls itself a replica.
    is_replica: bool,
    /// The server is this one.
    version: ServerVersion,
}

/// Says what is to be said before a connection carries traffic.
async fn settle(
    talk: &mut Talk,
    thread: &Rc<Thread>,
    terms: &Terms,
    state: &State,
    name: &str,
) -> Result<Settled, ConnectError> {
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
    let worn = State {
        user,
        ..State::INITIAL
    };
    let (worn, refusal) = change_state(talk, thread, (worn, state), name).await?;
    talk.nothing_is_left()?;
    Ok(Settled {
        introduced,
        worn,
        refusal,
    })
}

/// Authenticates the connection as the client whose state it is to be in, where respool has no secret.
async fn log_in_as_client(
    talk: &mut Talk,
    thread: &Thread,
    terms: &Terms,
    state: &State,
) -> Result<Rc<Credentials>, ConnectError> {
    let asks_server = matches!(
        terms.settings.auth.mode,
        AuthMode::Optional | AuthMode::Passthrough
    );
    if !asks_server || terms.login.is_configured() {
        let text = "the server wants a password: set upstream.password_file";
        return Err(away(text, ConnectResult::HandshakeError));
    }
    thread.server_wants_password();
    let Some(user) = state.user.clone().filter(|user| !user.is_guest()) else {
        return Err(ConnectError::Unauthenticated(NOAUTH.to_vec()));
    };
    let reply = talk.ask(&Zeroizing::new(user.request())).await?;
    match reply.starts_with(b"+OK") {
        true => Ok(user),
        false => Err(ConnectError::Unauthenticated(reply)),
    }
}

/// Makes TLS of the connection, where the server speaks it.
async fn secure(
    thread: &Thread,
    terms: &Terms,
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

/// Tells whether the server has whoever does not authenticate do so. It is asked only where that decides what clients get.
async fn asks_unauthenticated(talk: &mut Talk, terms: &Terms) -> Result<bool, ConnectError> {
    let matters = terms.settings.auth.mode == AuthMode::Passthrough;
    if !matters || !terms.login.is_configured() {
        return Ok(false);
    }
    let reply = talk.ask(&encode_request(&["PING"])).await?;
    Ok(reply.starts_with(b"-NOAUTH"))
}

/// Shows the server respool's own secret, where there is one: if it is refused the others, and, when they were asked for
/// again, whatever has taken their place.
async fn authenticate(talk: &mut Talk, login: &Arc<OwnLogin>) -> Result<(), ConnectError> {
    if !login.is_configured() {
        return Ok(());
    }
    let mut refused: Vec<LoginCandidate> = Vec::new();
    let mut answer = String::new();
    for is_last in [false, true] {
        let seen = login.times_asked();
        for candidate in login.candidates() {
            let is_same = |other: &LoginCandidate| other.credentials == candidate.credentials;
            if refused.iter().any(is_same) {
                continue;
            }
            let reply = talk.ask(&candidate.credentials.request()).await?;
            if reply.starts_with(b"+OK") {
                login.taken(&candidate);
                return Ok(());
            }
            answer = refusal_text(&reply);
            if !is_wrong_password(&reply) {
                return Err(refused_login(&answer, login));
            }
            refused.push(candidate);
        }
        if !is_last {
            login.ask_again(seen).await;
        }
    }
    Err(refused_login(&answer, login))
}

fn refused_login(answer: &str, login: &OwnLogin) -> ConnectError {
    let keys = login.settings_text();
    let text = match (answer, login.trouble()) {
        ("", Some(trouble)) => format!("no secret for the server: {trouble}"),
        ("", None) => format!("no secret for the server: check {keys}"),
        (answer, trouble) => {
            let trouble = trouble.map_or_else(String::new, |why| format!("; {why}"));
            format!("the server refused respool's own login: {answer}; check {keys}{trouble}")
        }
    };
    away(text, ConnectResult::HandshakeError)
}

/// Learns the server's HELLO in both protocols, the connection's id, and which server it is; leaves it named
/// and in RESP2. `None`: the server wants a password first.
async fn introduce(
    talk: &mut Talk,
    (thread, terms): (&Rc<Thread>, &Terms),
    name: &str,
    refuses_unauthenticated: bool,
) -> Result<Option<Introduced>, ConnectError> {
    // While a script runs HELLO is all that is answered; servers older than it know CLIENT alone.
    let mut request = encode_request(&["HELLO", "3"]);
    request.extend(encode_request(&["HELLO", "2", "SETNAME", name]));
    request.extend(name_request(name));
    request.extend(encode_request(&["CLIENT", "ID"]));
    // A server that is loading, or a replica that may not serve stale data, answers all of these but PING.
    request.extend(encode_request(&["PING"]));
    // Where the operator has switched INFO off it is not known.
    let asks_run = !terms.settings.upstream.health_interval.is_zero();
    if asks_run {
        request.extend(encode_request(&["INFO", "server"]));
    }
    talk.send(&request).await?;
    let (three, two) = (talk.reply().await?, talk.reply().await?);
    let (named, id) = (talk.reply().await?, talk.reply().await?);
    let ping = talk.reply().await?;
    let info = match asks_run {
        true => Some(talk.reply().await?),
        false => None,
    };
    let run = info
        .as_ref()
        .and_then(|info| ServerInfo::read(info).instance);
    if !are_in_place([&three, &two], &named, &id, &ping, info.as_deref()) {
        return Err(out_of_place());
    }
    if ping.starts_with(b"-BUSY ") {
        // Else a script on another connection would be taken for a pause of writes: the server answers here.
        thread.pulse.heard_busy(thread.clock.refresh());
    }
    let mut server = ServerHello::default();
    server.refuses_unauthenticated = refuses_unauthenticated;
    if !server.hello(Protocol::Resp2, &two) {
        let text = String::from_utf8_lossy(&two).trim_end().to_owned();
        if text.starts_with("-NOAUTH") {
            return Ok(None);
        }
        if !text.starts_with("-ERR unknown command") {
            return Err(away(
                format!("the server answered HELLO with {text}"),
                ConnectResult::HandshakeError,
            ));
        }
    }
    server.hello(Protocol::Resp3, &three);
    let told = server.connection_id();
    let is_replica = matches!(server.role.as_str(), "replica" | "slave");
    if server.name().is_none() {
        // HELLO has another name there, or none.
        let said = talk.ask(&encode_request(&["INFO", "server"])).await?;
        if let Some(name) = ServerInfo::read(&said).name {
            server.inform(name);
        }
    }
    thread.process.greeted(&server);
    let number = id
        .strip_prefix(b":")
        .and_then(|line| parse_integer(line.trim_ascii_end()));
    Ok(Some(Introduced {
        server_id: told.or(number).unwrap_or(0),
        run,
        is_replica,
        version: server.version(),
    }))
}

/// Tells whether each answer of an introduction is an error, or what its command is answered with: a line too many before them would
/// else move all of them by one, and what answers one command be taken for the answer to the next.
fn are_in_place(
    hello: [&[u8]; 2],
    named: &[u8],
    id: &[u8],
    ping: &[u8],
    info: Option<&[u8]>,
) -> bool {
    let is_greeting = |reply: &[u8]| matches!(reply.first(), Some(b'%' | b'*' | b'-'));
    hello.into_iter().all(is_greeting)
        && Effect::Named.is_answered_by(named)
        && matches!(id.first(), Some(b':' | b'-'))
        && (ping == b"+PONG\r\n" || ping.first() == Some(&b'-'))
        && info.is_none_or(|info| matches!(info.first(), Some(b'$' | b'=' | b'-')))
}

fn out_of_place() -> ConnectError {
    away(
        "the server answered respool's first commands with something else than they are answered with",
        ConnectResult::HandshakeError,
    )
}

/// Goes from the state that the connection is in to `state`, or as far as the server takes it; a refusal is the client's.
async fn change_state(
    talk: &mut Talk,
    thread: &Thread,
    (mut worn, state): (State, &State),
    name: &str,
) -> Result<(State, Option<Vec<u8>>), ConnectError> {
    let login = thread.process.login();
    let own = thread.own();
    let own = own.ok_or_else(|| refused_login("", &login))?;
    for step in steps(&worn, state, Change::Difference, &own, name) {
        let reply = talk.ask(&step.request).await?;
        if reply.first() == Some(&b'-') {
            return Ok((worn, Some(step.effect.refusal(reply))));
        }
        if !step.effect.is_answered_by(&reply) {
            return Err(out_of_place());
        }
        step.effect.apply(&mut worn);
    }
    Ok((worn, None))
}

/// Is a connection before it carries traffic.
struct Talk {
    socket: ServerSocket,
    buffer: Vec<u8>,
    /// Is true once the server has answered something whole.
    has_heard: bool,
}

impl Talk {
    async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, ConnectError> {
        self.send(request).await?;
        self.reply().await
    }

    /// Checks that whatever the server has sent answers what it was asked: nothing is left.
    fn nothing_is_left(&self) -> Result<(), ConnectError> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(out_of_place()),
        }
    }

    async fn send(&mut self, mut request: &[u8]) -> Result<(), ConnectError> {
        self.nothing_is_left()?;
        while !request.is_empty() {
            std::future::poll_fn(|cx| self.socket.poll_write_ready(cx))
                .await
                .map_err(|error| self.cut_off(error))?;
            match self.socket.try_write(request) {
                Ok(taken) => request = &request[taken..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.cut_off(error)),
            }
        }
        std::future::poll_fn(|cx| self.socket.poll_flush(cx))
            .await
            .map_err(|error| self.cut_off(error))
    }

    /// Says how a write has failed. A server that refuses respool's certificate says so and closes: what it said is worth more than that
    /// it is gone.
    fn cut_off(&self, error: io::Error) -> ConnectError {
        match self.socket.try_read(&mut [0; 4096]) {
            Err(said) if said.kind() == io::ErrorKind::InvalidData => self.lost(said),
            _ => self.lost(error),
        }
    }

    async fn reply(&mut self) -> Result<Vec<u8>, ConnectError> {
        let mut scanner = ReplyScanner::default();
        let mut used = 0;
        loop {
            if used < self.buffer.len() {
                let step = scanner.advance(&self.buffer[used..]).map_err(|_| {
                    away(
                        format!("the server sent something that is no RESP{}", self.hint()),
                        ConnectResult::HandshakeError,
                    )
                })?;
                used += step.used;
                if step.complete {
                    self.has_heard = true;
                    let rest = self.buffer.split_off(used);
                    let reply = std::mem::replace(&mut self.buffer, rest);
                    return refuse_full(reply);
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ConnectError> {
        std::future::poll_fn(|cx| self.socket.poll_read_ready(cx))
            .await
            .map_err(|error| self.lost(error))?;
        let mut piece = [0; 4096];
        match self.socket.try_read(&mut piece) {
            Ok(0) => Err(away(
                format!(
                    "the server closed the connection during the handshake{}",
                    self.hint()
                ),
                ConnectResult::Error,
            )),
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn lost(&self, error: io::Error) -> ConnectError {
        away(
            format!(
                "the connection was lost during the handshake: {error}{}",
                self.hint()
            ),
            ConnectResult::Error,
        )
    }

    /// Says what may be behind it when the first bytes are not answered as Redis does.
    fn hint(&self) -> &'static str {
        if self.has_heard || self.socket.tls().is_some() {
            ""
        } else {
            "; if it speaks TLS only, set upstream.tls = { enabled = true }"
        }
    }
}

/// Checks a reply for the server's own refusal at accept, which comes instead of the first one.
fn refuse_full(reply: Vec<u8>) -> Result<Vec<u8>, ConnectError> {
    let text = String::from_utf8_lossy(&reply);
    if text.starts_with("-ERR max number of clients") {
        return Err(away(
            "the server has no place left (its maxclients is reached): other clients connect to it past respool, or \
             upstream.max_connections of all respools together is too high",
            ConnectResult::MaxClients,
        ));
    }
    let unready = [
        ("-LOADING ", LossCause::Loading),
        ("-MASTERDOWN ", LossCause::MasterDown),
    ];
    if let Some((_, cause)) = unready.iter().find(|(word, _)| text.starts_with(word)) {
        return Err(ConnectError::Unready(*cause, reply));
    }
    if text.starts_with("-DENIED") {
        return Err(away(
            format!("the server said {}", text.trim_end()),
            ConnectResult::HandshakeError,
        ));
    }
    Ok(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server answers this to an introduction.
    const USUAL: [&str; 6] = [
        "%1\r\n+proto\r\n:3\r\n",
        "*2\r\n+proto\r\n:2\r\n",
        "+OK\r\n",
        ":7\r\n",
        "+PONG\r\n",
        "$0\r\n\r\n",
    ];

    fn fit(replies: &[&str]) -> bool {
        let reply = |at: usize| replies[at].as_bytes();
        let info = replies.get(5).map(|info| info.as_bytes());
        are_in_place([reply(0), reply(1)], reply(2), reply(3), reply(4), info)
    }

    #[test]
    fn answers_in_their_places_are_told_from_those_that_a_surplus_line_has_moved() {
        let refused = |at: &[usize], with: &'static str| {
            let mut replies = USUAL;
            at.iter().for_each(|&at| replies[at] = with);
            replies
        };
        // Servers before HELLO, users who may not run what they are asked, a script that runs.
        let real = [
            USUAL,
            refused(&[0, 1], "-ERR unknown command `HELLO`\r\n"),
            refused(&[4], "-NOPERM this user has no permissions\r\n"),
            refused(&[2, 3, 4, 5], "-BUSY Redis is busy\r\n"),
        ];
        for replies in real {
            assert!(fit(&replies), "{replies:?}");
            assert!(fit(&replies[..5]), "{replies:?}");
        }
        for surplus in ["-ERR more\r\n", "+OK\r\n", "+PONG\r\n", ":7\r\n", "$-1\r\n"] {
            for replies in &real[..3] {
                let mut moved = vec![surplus];
                moved.extend(&replies[..5]);
                assert!(!fit(&moved), "{moved:?}");
            }
        }
        assert!(!fit(&refused(&[4], "+OK\r\n")));
    }
}
