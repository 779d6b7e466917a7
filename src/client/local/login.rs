//! AUTH and HELLO, and what a client may do before it has shown who it is.

use std::rc::Rc;

use super::attempts::{Admitted, Attempt};
use super::changing_user::LoginUnderWay;
use super::client_name;
use crate::auth::{AttemptOutcome, is_wrong_password};
use crate::client::refusals::TOO_MANY_ATTEMPTS;
use crate::client::story::{Awaited, Told};
use crate::client::{Client, Wait};
use crate::command::same_word;
use crate::config::AuthMode;
use crate::resp::speak::{OK, error};
use crate::resp::{Bounds, Request, parse_integer};
use crate::session::{Change, Credentials, Protocol, State};
use crate::telemetry::Disconnect;
use crate::texts::{
    NO_PASSWORD, NO_SUCH_PROTOCOL, NOAUTH, PROTOCOL_NOT_AN_INTEGER, SYNTAX_ERROR, WRONGPASS,
    bad_hello_option, hello_without_auth, unknown_command,
};

/// Bytes of errors a client may leave unread that has to authenticate.
const MOST_UNREAD: usize = 256 * 1024;

/// Least microseconds between two log lines of a worker about failed attempts to authenticate.
const LOG_EVERY_MICROS: u64 = 10_000_000;

/// A name or a password that measures more is nobody's: before authentication Redis takes no longer word either.
const MOST_SHOWN: usize = 16 * 1024;

/// HELLO's protocol and name.
type Hello = (Protocol, Option<Box<[u8]>>);

/// Holds what AUTH or HELLO asks for, once its user is acknowledged.
pub(in crate::client) struct Login {
    /// The user as the server knows it, which is asked.
    pub(in crate::client) user: Option<Rc<Credentials>>,
    /// The user that respool has verified itself.
    pub(in crate::client) verified: Option<Box<[u8]>>,
    /// HELLO's protocol and name; `None`: AUTH.
    pub(in crate::client) hello: Option<Hello>,
    /// The attempt, where a password was shown.
    pub(in crate::client) attempt: Option<Attempt>,
    /// Says that such a one is under way, until it is answered.
    _under_way: Option<LoginUnderWay>,
}

impl Login {
    /// Memory that it takes while it is waited for.
    pub(in crate::client) fn held_bytes(&self) -> usize {
        let user = self.user.as_ref().map_or(0, |user| user.held_bytes());
        let verified = self.verified.as_ref().map_or(0, |user| user.len());
        user + verified + name_bytes(self.hello.as_ref())
    }
}

/// Holds what a client has shown, and what else it has asked for.
pub(in crate::client) struct Shown(Rc<Credentials>, Option<Hello>, LoginUnderWay);

impl Shown {
    fn held_bytes(&self) -> usize {
        self.0.held_bytes() + name_bytes(self.1.as_ref())
    }
}

/// Memory that the name takes which HELLO gives.
fn name_bytes(hello: Option<&Hello>) -> usize {
    let name = hello.and_then(|(_, name)| name.as_ref());
    name.map_or(0, |name| name.len())
}

impl Client {
    /// Tells whether the client has to authenticate before anything else.
    pub(in crate::client) fn must_authenticate(&self) -> bool {
        !self.is_known() && self.clients.demands_authentication()
    }

    /// Tells whether the client has shown who it is, or need not.
    fn is_known(&self) -> bool {
        match self.clients.thread.settings().auth.mode {
            AuthMode::None => true,
            // Where respool is nobody, so is whoever has not authenticated.
            AuthMode::Optional => {
                self.session.state.user.is_some() || !self.clients.thread.was_nobody()
            }
            AuthMode::Proxy => self.session.is_verified,
            AuthMode::Passthrough => self.session.state.user.is_some() && !self.session.is_guest(),
        }
    }

    /// A reload has given respool a secret: whoever has not authenticated is not its own user any more. What holds a connection as
    /// that user, or waits for one, ends.
    pub(in crate::client) fn become_guest(&mut self) {
        let is_passed_through = self.clients.thread.settings().auth.mode == AuthMode::Passthrough;
        if !is_passed_through || self.session.state.user.is_some() {
            return;
        }
        self.session.state.user = self.clients.guest();
        self.note_user();
        // It is lent in the state in which it was asked for; all else is looked at anew when it comes.
        let is_lent_to = matches!(self.wait, Wait::Story(Awaited::Loan));
        let goes_on = self.pin.is_some() || self.is_blocked() || is_lent_to;
        if self.session.state.user.is_some() && goes_on {
            self.outlet.close(Disconnect::AuthenticationLost);
        }
    }

    /// Shows as which user the client's commands run.
    fn note_user(&self) {
        self.entry.user.set(self.session.state.user.clone());
    }

    /// The client may have become known, or be so no longer: its time to authenticate ends, or begins.
    pub(in crate::client) fn note_known(&self) {
        self.note_user();
        let unknown = &self.entry.unknown_micros;
        if self.is_known() {
            unknown.set(0);
        } else if unknown.get() == 0 {
            unknown.set(self.clients.thread.clock.now_micros().max(1));
        }
    }

    /// Returns what a request may measure now.
    pub(in crate::client) fn bounds(&mut self) -> Bounds {
        let most = self.clients.thread.settings().limits.max_request;
        self.restrictions.set_locked(self.must_authenticate());
        let unread = self.clients.thread.settings().limits.max_client_buffer;
        self.outlet
            .set_limit_bytes(match self.restrictions.is_locked() {
                true => unread.min(MOST_UNREAD),
                false => unread,
            });
        if self.restrictions.is_locked() {
            Bounds::before_authentication(most)
        } else {
            Bounds::new(most)
        }
    }

    pub(in crate::client) fn auth(&mut self, request: &Request<'_>) {
        let words: Vec<&[u8]> = request.arguments().skip(1).collect();
        let user = match words.as_slice() {
            [password] => Credentials {
                username: None,
                password: (*password).into(),
            },
            [name, password] => Credentials {
                username: Some((*name).into()),
                password: (*password).into(),
            },
            _ => return self.answer(SYNTAX_ERROR),
        };
        self.verify(Some(user), None);
    }

    pub(in crate::client) fn hello(&mut self, request: &Request<'_>) {
        let words: Vec<&[u8]> = request.arguments().skip(1).collect();
        let mut protocol = self.session.state.protocol;
        let (mut user, mut name) = (None, None);
        if let Some((version, mut options)) = words.split_first() {
            protocol = match parse_integer(version) {
                Some(2) => Protocol::Resp2,
                Some(3) => Protocol::Resp3,
                Some(_) => return self.answer(NO_SUCH_PROTOCOL),
                None => return self.answer(PROTOCOL_NOT_AN_INTEGER),
            };
            while let Some((option, rest)) = options.split_first() {
                options = match rest {
                    [login, password, rest @ ..] if same_word(option, b"auth") => {
                        user = Some(Credentials {
                            username: Some((*login).into()),
                            password: (*password).into(),
                        });
                        rest
                    }
                    [text, rest @ ..] if same_word(option, b"setname") => {
                        if let Err(why) = client_name(text) {
                            return self.answer(&error(why));
                        }
                        name = Some(Box::from(*text));
                        rest
                    }
                    _ => return self.answer(&bad_hello_option(option)),
                };
            }
        }
        self.verify(user, Some((protocol, name)));
    }

    /// Has whoever knows the users look at what was shown, when its turn has come.
    fn verify(&mut self, shown: Option<Credentials>, hello: Option<Hello>) {
        let Some(shown) = shown else {
            if self.must_authenticate() {
                return self.answer(hello_without_auth(self.clients.thread.server_version()));
            }
            return self.log_in(Login {
                user: None,
                verified: None,
                hello,
                attempt: None,
                _under_way: None,
            });
        };
        if shown.user().len() > MOST_SHOWN {
            self.count_failure();
            return self.answer(WRONGPASS);
        }
        let clients = Rc::clone(&self.clients);
        // A user without a password takes any, and what is taken is kept and sent with every change.
        let shown = Rc::new(match shown.password.len() > MOST_SHOWN {
            true => shown.with_random_password(rand::random()),
            false => shown,
        });
        let admitted = clients.begin_attempt(self.record.peer(), &shown, self.session.has_failed);
        let under_way = LoginUnderWay::begin(&clients, &self.entry);
        let shown = Shown(shown, hello, under_way);
        match admitted {
            Admitted::Now(attempt) => self.attempt(Some(attempt), shown),
            Admitted::Refused => self.answer(TOO_MANY_ATTEMPTS),
            Admitted::Waits(waiting) => {
                self.note_kept(shown.held_bytes());
                self.then(async move |client: &mut Self| {
                    let attempt = client.meanwhile(waiting.turn(), Awaited::Turn).await?;
                    client.note_kept(0);
                    client.attempt(attempt, shown);
                    Ok(())
                });
            }
        }
    }

    /// Looks at what was shown, or has the server do so. `None`: respool is ending.
    fn attempt(&mut self, attempt: Option<Attempt>, shown: Shown) {
        let Shown(shown, hello, under_way) = shown;
        let mut login = Login {
            user: None,
            verified: None,
            hello,
            attempt,
            _under_way: Some(under_way),
        };
        let is_good = match self.clients.thread.settings().auth.mode {
            AuthMode::Optional | AuthMode::Passthrough => {
                let known = self.clients.taken.borrow().find(&shown);
                login.user = Some(known.unwrap_or(shown));
                return self.log_in(login);
            }
            AuthMode::None if shown.username.is_none() => return self.reply(NO_PASSWORD),
            // As a server whose only user, the default one, has no password.
            AuthMode::None => shown.user() == b"default",
            AuthMode::Proxy => {
                let users = self.clients.users();
                users.is_some_and(|users| users.verifies(shown.user(), &shown.password))
            }
        };
        if is_good {
            login.verified = Some(shown.user().into());
            self.log_in(login);
        } else {
            self.count_wrong(&login);
            self.reply(WRONGPASS);
        }
    }

    /// Does at once what AUTH or HELLO asks for where the server has acknowledged it before, or has it asked.
    fn log_in(&mut self, login: Login) {
        let is_server_known = || self.clients.thread.process.server.load().is_some();
        let is_settled = match login.hello {
            _ if login.user.is_some() => false,
            Some(_) => self.pin.is_none() && is_server_known(),
            None => true,
        };
        if is_settled {
            return self.logged_in(login);
        }
        self.note_kept(login.held_bytes());
        self.then(async move |client: &mut Self| client.log_in_at_server(login).await);
    }

    /// Has the server acknowledge what AUTH or HELLO asks for.
    async fn log_in_at_server(&mut self, login: Login) -> Told {
        let told = match self.pin {
            Some(_) => self.acknowledged_on_pin(&login).await?,
            None => Some(self.acknowledged_on_shared(&login).await?),
        };
        match told {
            Some(Ok(())) => self.logged_in(login),
            Some(Err(reply)) => {
                self.login_refused(&login, &reply);
                self.end_if_not_asked(&reply);
            }
            // The client is closed with the connection it was lent.
            None => {}
        }
        Ok(())
    }

    /// Tells the state that the client asks for.
    fn state_asked(&self, login: &Login) -> State {
        let own = self.session.state.clone();
        State {
            user: login.user.clone().or(own.user),
            protocol: login
                .hello
                .as_ref()
                .map_or(own.protocol, |(protocol, _)| *protocol),
            database: own.database,
        }
    }

    async fn acknowledged_on_shared(&mut self, login: &Login) -> Told<Result<(), Vec<u8>>> {
        self.link = None;
        let (target, upstream) = (self.state_asked(login), Rc::clone(&self.clients.upstream));
        let wait = match login.user {
            Some(_) => upstream.log_in(
                &target,
                self.clients
                    .login_place(login.user.as_ref(), login.attempt.as_ref()),
            ),
            None => upstream.wait_shared(&target, 1),
        };
        let served = self.served_by(wait, None).await?;
        Ok(served.map(|link| self.link = link))
    }

    /// Has it acknowledged on the connection lent to the client. HELLO is sent only behind an AUTH that was taken: the client goes on in
    /// its protocol where it was not. `None`: the connection is lost.
    async fn acknowledged_on_pin(&mut self, login: &Login) -> Told<Option<Result<(), Vec<u8>>>> {
        let target = self.state_asked(login);
        let Some(current) = self.pin.as_ref().map(|pin| pin.link().state().clone()) else {
            return Ok(None);
        };
        if login.user.is_none() {
            return self.change_pin(&target, Change::InPlace).await;
        }
        let protocol = current.protocol;
        let authenticated = State {
            user: target.user,
            ..current
        };
        let told = self
            .change_pin(&authenticated, Change::Authenticate)
            .await?;
        if told != Some(Ok(())) || protocol == target.protocol {
            return Ok(told);
        }
        // It is the user's from here on, whatever becomes of the protocol.
        self.session.state.user.clone_from(&authenticated.user);
        self.entry.login.is_taken();
        self.note_user();
        let greeted = State {
            protocol: target.protocol,
            ..authenticated
        };
        self.change_pin(&greeted, Change::InPlace).await
    }

    fn logged_in(&mut self, login: Login) {
        let reply = match &login.hello {
            None => OK.to_vec(),
            Some((protocol, _)) => {
                let server = self.clients.thread.process.server.load_full();
                match server.and_then(|server| server.hello_reply(*protocol, self.record.id())) {
                    Some(reply) => reply,
                    None => {
                        // A server older than HELLO.
                        let request = crate::resp::speak::encode_request(&["HELLO"]);
                        let server = self.clients.thread.server_version();
                        return self.answer(&unknown_command(server, &Request::new(&request)));
                    }
                }
            }
        };
        let mut is_renamed = false;
        if let Some(attempt) = &login.attempt {
            attempt.came_to(AttemptOutcome::Taken);
            self.entry.login.is_taken();
        }
        if let Some(user) = login.user {
            let user = self.clients.taken.borrow_mut().keep(user);
            self.record.names().user = user.user().into();
            self.session.state.user = Some(user);
            is_renamed = true;
        }
        if let Some(user) = login.verified {
            self.record.names().user = user;
            self.session.is_verified = true;
            is_renamed = true;
        }
        if let Some((protocol, name)) = login.hello {
            self.session.state.protocol = protocol;
            self.record.resp.set(u32::from(protocol.number()));
            self.outlet.speak(protocol);
            self.note_subscriptions();
            if let Some(name) = name {
                self.record.names().name = name;
                is_renamed = true;
            }
        }
        self.restrictions.set_locked(self.must_authenticate());
        self.note_known();
        self.note_kept(0);
        if is_renamed {
            self.regroup(reply)
        } else {
            self.answer(&reply)
        }
    }

    /// The server refused what AUTH or HELLO asked for.
    fn login_refused(&mut self, login: &Login, reply: &[u8]) {
        self.note_kept(0);
        if login.user.is_none() {
            // The user is the one it was before: whoever has not authenticated is told what HELLO tells them.
            let reply = match reply == NOAUTH {
                true => hello_without_auth(self.clients.thread.server_version()),
                false => reply,
            };
            self.answer(reply);
            return self.end_if_lost(reply);
        }
        if is_wrong_password(reply) {
            self.count_wrong(login);
        }
        self.answer(reply);
    }

    /// A client whose user's password the server no longer takes is closed behind the server's answer: it cannot be served,
    /// and connecting anew it shows the password that holds now.
    pub(in crate::client) fn end_if_lost(&mut self, reply: &[u8]) {
        if is_wrong_password(reply) {
            self.ending = Some(Disconnect::AuthenticationLost);
        }
    }

    fn count_wrong(&mut self, login: &Login) {
        self.session.has_failed = true;
        if let Some(attempt) = &login.attempt {
            attempt.came_to(AttemptOutcome::Wrong);
        }
        self.count_failure();
    }

    /// Counts a failed attempt, and says so from time to time; what was shown is told nowhere, not even the user, in whose
    /// place some write their password.
    fn count_failure(&self) {
        let thread = &self.clients.thread;
        thread.counters.group(self.group()).auth_failures.add(1);
        let now = thread.clock.now_micros();
        let (count, last) = self.clients.auth_failures.get();
        let count = count + 1;
        if last.is_some_and(|last| now.saturating_sub(last) < LOG_EVERY_MICROS) {
            return self.clients.auth_failures.set((count, last));
        }
        self.clients.auth_failures.set((0, Some(now)));
        let group = &thread.settings().groups[self.group()].name;
        tracing::warn!(
            client = %self.record.peer(),
            group,
            failures = count,
            "a client failed to authenticate: wrong password, or a user that is unknown or disabled; failures since the \
             last such line are counted in it"
        );
    }
}
