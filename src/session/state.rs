//! The state a connection to the server wears and a session asks for: user, protocol version, database.

use std::fmt;
use std::rc::Rc;

use crate::auth::is_wrong_password;
use crate::resp::speak::encode_request;
use crate::texts::NOAUTH;

/// Names the protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// It is what Redis spoke first, and what a connection begins with.
    Resp2,
    /// It came with Redis 6.0.
    Resp3,
}

impl Protocol {
    /// Returns its number, as HELLO takes it.
    pub fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }

    /// Returns the null of this protocol.
    pub fn null(self) -> &'static [u8] {
        match self {
            Self::Resp2 => b"$-1\r\n",
            Self::Resp3 => b"_\r\n",
        }
    }
}

/// Is shown of a user that has no password. It is not the empty one, which clients try.
const ANY_PASSWORD: &[u8] = b"respool: has not authenticated";

/// Holds a user of the server and its password.
pub struct Credentials {
    /// Names the user; `None`: the legacy `AUTH password`, for the default user.
    pub username: Option<Box<[u8]>>,
    /// Holds the password that goes with it.
    pub password: Box<[u8]>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", String::from_utf8_lossy(self.user()))
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        self.password.zeroize();
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username && self.password == other.password
    }
}

impl Credentials {
    /// Stands for whoever has not authenticated, where the server permits that: the default user without a password takes any.
    pub fn guest() -> Self {
        Self {
            username: Some((*b"default").into()),
            password: ANY_PASSWORD.into(),
        }
    }

    /// Tells whether the server would be sent the same; told without saying where the passwords differ.
    pub fn is_same(&self, other: &Self) -> bool {
        use subtle::ConstantTimeEq as _;
        self.username == other.username && bool::from(self.password.ct_eq(&other.password))
    }

    /// Returns them with a password of `chance`, which is nobody's: a user who has none takes that as well, and no other user does.
    pub fn with_random_password(self, chance: u128) -> Self {
        Self {
            username: self.username.clone(),
            password: format!("{chance:032x}").into_bytes().into(),
        }
    }

    /// Returns the memory that they take.
    pub fn held_bytes(&self) -> usize {
        self.username.as_ref().map_or(0, |name| name.len()) + self.password.len()
    }

    /// Tells whether it is whoever has not authenticated.
    pub fn is_guest(&self) -> bool {
        *self.password == *ANY_PASSWORD && self.user() == b"default"
    }

    /// Returns the user's name.
    pub fn user(&self) -> &[u8] {
        self.username.as_deref().unwrap_or(b"default")
    }

    /// Returns the request that authenticates.
    pub fn request(&self) -> Vec<u8> {
        match &self.username {
            Some(name) => encode_request(&[b"AUTH", &name[..], &self.password]),
            None => encode_request(&[b"AUTH", &self.password[..]]),
        }
    }
}

/// Holds what must be equal for a session to use a connection.
#[derive(Debug, Clone)]
pub struct State {
    /// Says who the user is; `None`: respool's own.
    pub user: Option<Rc<Credentials>>,
    /// Names the protocol version.
    pub protocol: Protocol,
    /// Is the number of the database.
    pub database: u32,
}

impl PartialEq for State {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.database == other.database
            && self.protocol == other.protocol
            && match (&self.user, &other.user) {
                (None, None) => true,
                (Some(one), Some(two)) => Rc::ptr_eq(one, two) || one == two,
                _ => false,
            }
    }
}

impl State {
    /// Is the state of a connection just opened and authenticated as respool.
    pub const INITIAL: Self = Self {
        user: None,
        protocol: Protocol::Resp2,
        database: 0,
    };
}

/// Says what the server's acknowledgement of one command of a change means.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Everything is as on a new connection.
    Reset,
    /// The connection is this user's.
    User(Option<Rc<Credentials>>),
    /// It speaks this protocol.
    Protocol(Protocol),
    /// It is in this database.
    Database(u32),
    /// It has its name again.
    Named,
}

/// Holds one command of a change.
#[derive(Clone)]
pub struct Step {
    /// Holds the request as it is sent.
    pub request: Vec<u8>,
    /// Says what `+OK`, `+RESET` or HELLO's map in answer to it means.
    pub effect: Effect,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The request may hold a password.
        write!(f, "Step({:?})", self.effect)
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if matches!(self.effect, Effect::User(_)) {
            use zeroize::Zeroize as _;
            self.request.zeroize();
        }
    }
}

/// Says who respool itself is to the server.
#[derive(Debug, Clone)]
pub enum Own {
    /// It is whoever a connection is that has not authenticated.
    Unnamed,
    /// It is this user.
    User(Rc<Credentials>),
    /// It is nobody that the server serves: that wants a password, and respool has none. Connections are their clients' users'.
    Nobody,
}

/// Says how a change of state begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only what differs is changed.
    Difference,
    /// Only what differs is changed, as the user whose the connection is: a client asks for it, and nothing of it may be undone.
    InPlace,
    /// The same of a SELECT, which is sent though the connection seems to be in that database: an EXEC may have left it in another.
    Select,
    /// The user is authenticated anew, even if the connection is theirs.
    Authenticate,
    /// Everything the connection holds is undone first.
    Scrub,
}

/// Returns the commands that take a connection from `current` to `target`.
///
/// Every user may send AUTH, HELLO and RESET, and not every one SELECT: unless a client asks for it, respool's own user
/// selects the database.
pub fn steps(current: &State, target: &State, change: Change, own: &Own, name: &str) -> Vec<Step> {
    if matches!(own, Own::Nobody) {
        return steps_of_clients(current, target, change);
    }
    let mut steps = Vec::new();
    let mut current = current.clone();
    let is_anew = change == Change::Authenticate;
    let as_client = matches!(change, Change::InPlace | Change::Select);
    let moves = current.database != target.database && !as_client;
    let is_own = match target.user {
        None => current.user.is_none() && !is_anew,
        Some(_) => current.user.is_none() || !moves,
    };
    if change == Change::Scrub || !is_own {
        become_own(&mut steps, &mut current, change, own, name);
    }
    if current.database != target.database || change == Change::Select {
        steps.push(select(target.database));
    }
    // A login stands alone: HELLO travels with what is before it, but where a client shows what may be refused.
    let greets_first = matches!(change, Change::Difference | Change::Scrub);
    let greeting = (current.protocol != target.protocol).then(|| hello(target.protocol));
    let (before, behind) = match greets_first {
        true => (greeting, None),
        false => (None, greeting),
    };
    steps.extend(before);
    if let Some(user) = &target.user
        && (is_anew || current.user != target.user)
    {
        steps.push(Step {
            request: user.request(),
            effect: Effect::User(target.user.clone()),
        });
    }
    steps.extend(behind);
    steps
}

/// Returns the same where respool is nobody: the client's user does everything, once it is authenticated.
fn steps_of_clients(current: &State, target: &State, change: Change) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut current = current.clone();
    let leaves = target.user.is_none() && current.user.is_some();
    if change == Change::Scrub || leaves {
        steps.push(Step {
            request: encode_request(&["RESET"]),
            effect: Effect::Reset,
        });
        current = State::INITIAL;
    }
    if let Some(user) = &target.user
        && (change == Change::Authenticate || current.user != target.user)
    {
        steps.push(Step {
            request: user.request(),
            effect: Effect::User(target.user.clone()),
        });
    }
    if current.database != target.database || change == Change::Select {
        steps.push(select(target.database));
    }
    if current.protocol != target.protocol {
        steps.push(hello(target.protocol));
    }
    steps
}

fn select(database: u32) -> Step {
    Step {
        request: encode_request(&["SELECT", &database.to_string()]),
        effect: Effect::Database(database),
    }
}

fn hello(protocol: Protocol) -> Step {
    Step {
        request: encode_request(&["HELLO", &protocol.number().to_string()]),
        effect: Effect::Protocol(protocol),
    }
}

/// Adds the commands that make a connection respool's own user's.
fn become_own(steps: &mut Vec<Step>, current: &mut State, change: Change, own: &Own, name: &str) {
    let resets = change == Change::Scrub || matches!(own, Own::Unnamed);
    if resets {
        // RESET (Redis 6.2) also de-authenticates and takes the name.
        steps.push(Step {
            request: encode_request(&["RESET"]),
            effect: Effect::Reset,
        });
        *current = State::INITIAL;
    }
    if let Own::User(own) = own {
        steps.push(Step {
            request: own.request(),
            effect: Effect::User(None),
        });
        current.user = None;
    }
    if resets {
        steps.push(Step {
            request: name_request(name),
            effect: Effect::Named,
        });
    }
}

/// Returns the request that names a connection.
pub fn name_request(name: &str) -> Vec<u8> {
    encode_request(&["CLIENT", "SETNAME", name])
}

impl Effect {
    /// Tells whether the server may answer the step with this reply, be it a refusal.
    pub fn is_answered_by(&self, reply: &[u8]) -> bool {
        match self {
            Self::Reset => reply.starts_with(b"+RESET"),
            // HELLO answers a map, or in RESP2 an array.
            Self::Protocol(_) => matches!(reply.first(), Some(b'%' | b'*' | b'-')),
            _ => reply.starts_with(b"+OK") || reply.first() == Some(&b'-'),
        }
    }

    /// Returns what a client gets whose state the server refused with this reply. Whoever has not authenticated is told that they
    /// have to, as by the server itself.
    pub fn refusal(&self, reply: Vec<u8>) -> Vec<u8> {
        match self {
            Self::User(Some(user)) if user.is_guest() && is_wrong_password(&reply) => {
                NOAUTH.to_vec()
            }
            _ => reply,
        }
    }

    /// Takes an acknowledged step into `current`.
    pub fn apply(&self, current: &mut State) {
        match self {
            Self::Reset => *current = State::INITIAL,
            Self::User(user) => current.user.clone_from(user),
            Self::Protocol(protocol) => current.protocol = *protocol,
            Self::Database(database) => current.database = *database,
            Self::Named => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Option<Rc<Credentials>> {
        let credentials = Credentials {
            username: Some(name.as_bytes().into()),
            password: (*b"secret").into(),
        };
        Some(Rc::new(credentials))
    }

    fn sent(steps: &[Step]) -> Vec<String> {
        let text = |step: &Step| String::from_utf8(step.request.clone()).unwrap();
        steps
            .iter()
            .map(|step| {
                text(step)
                    .split("\r\n")
                    .filter(|part| !part.starts_with(['*', '$']))
                    .collect::<Vec<_>>()
                    .join(" ")
                    .trim()
                    .to_owned()
            })
            .collect()
    }

    fn applied(current: &State, steps: &[Step]) -> State {
        let mut current = current.clone();
        steps
            .iter()
            .for_each(|step| step.effect.apply(&mut current));
        current
    }

    const CHANGES: [Change; 5] = [
        Change::Difference,
        Change::InPlace,
        Change::Select,
        Change::Authenticate,
        Change::Scrub,
    ];

    fn respool() -> Own {
        user("respool").map_or(Own::Unnamed, Own::User)
    }

    /// Says whose a connection is at the server.
    #[derive(Debug, PartialEq)]
    enum Whose {
        /// Nobody has authenticated on it.
        Nobodys,
        Respools,
        Clients,
    }

    /// Goes through the steps as a server whose clients may not SELECT, and which obeys nobody who has not authenticated
    /// where respool does so.
    fn only_respool_selects(current: &State, steps: &[Step], own: &Own) {
        let unnamed = matches!(own, Own::Unnamed);
        let mut whose = match current.user {
            Some(_) => Whose::Clients,
            None if unnamed => Whose::Nobodys,
            None => Whose::Respools,
        };
        for step in steps {
            let is_own = whose == Whose::Respools || (unnamed && whose == Whose::Nobodys);
            match &step.effect {
                Effect::Reset => whose = Whose::Nobodys,
                Effect::User(None) => whose = Whose::Respools,
                Effect::User(Some(_)) => whose = Whose::Clients,
                Effect::Protocol(_) => assert!(is_own || whose == Whose::Clients, "{steps:?}"),
                Effect::Database(_) | Effect::Named => assert!(is_own, "{current:?} {steps:?}"),
            }
        }
    }

    #[test]
    fn every_change_ends_in_its_target() {
        let users = [None, user("ci"), user("app")];
        let mut states = Vec::new();
        for user in users {
            for protocol in [Protocol::Resp2, Protocol::Resp3] {
                for database in [0, 7] {
                    states.push(State {
                        user: user.clone(),
                        protocol,
                        database,
                    });
                }
            }
        }
        for own in [Own::Unnamed, respool()] {
            for current in &states {
                for target in &states {
                    for change in CHANGES {
                        let steps = steps(current, target, change, &own, "respool:x");
                        assert_eq!(&applied(current, &steps), target);
                        if !matches!(change, Change::InPlace | Change::Select) {
                            only_respool_selects(current, &steps, &own);
                        }
                        if current == target && change == Change::Difference {
                            assert!(steps.is_empty());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_what_differs_is_sent() {
        let target = State {
            database: 3,
            ..State::INITIAL
        };
        assert_eq!(
            sent(&steps(
                &State::INITIAL,
                &target,
                Change::Difference,
                &Own::Unnamed,
                "n"
            )),
            ["SELECT 3"]
        );
        let target = State {
            protocol: Protocol::Resp3,
            ..State::INITIAL
        };
        assert_eq!(
            sent(&steps(
                &State::INITIAL,
                &target,
                Change::Difference,
                &Own::Unnamed,
                "n"
            )),
            ["HELLO 3"]
        );
        let scrub = steps(&target, &State::INITIAL, Change::Scrub, &Own::Unnamed, "n");
        assert_eq!(sent(&scrub), ["RESET", "CLIENT SETNAME n"]);
        let back = State {
            user: user("ci"),
            ..State::INITIAL
        };
        assert_eq!(
            sent(&steps(
                &back,
                &State::INITIAL,
                Change::Difference,
                &Own::Unnamed,
                "n"
            )),
            ["RESET", "CLIENT SETNAME n"]
        );
    }

    #[test]
    fn where_respool_is_nobody_clients_do_everything_once_they_are_authenticated() {
        let of = |name: &str, database| State {
            user: user(name),
            database,
            protocol: Protocol::Resp3,
        };
        let from = |current: &State, target: &State, change| {
            sent(&steps(current, target, change, &Own::Nobody, "n"))
        };
        let change = Change::Difference;
        let opened = from(&State::INITIAL, &of("ci", 3), change);
        assert_eq!(opened, ["AUTH ci secret", "SELECT 3", "HELLO 3"]);
        let changed = from(&of("ci", 3), &of("ops", 0), change);
        assert_eq!(changed, ["AUTH ops secret", "SELECT 0"]);
        assert_eq!(from(&of("ci", 3), &State::INITIAL, change), ["RESET"]);
        let scrubbed = from(&of("ci", 3), &of("ci", 0), Change::Scrub);
        assert_eq!(scrubbed, ["RESET", "AUTH ci secret", "HELLO 3"]);
        let anew = from(&of("ci", 3), &of("ci", 3), Change::Authenticate);
        assert_eq!(anew, ["AUTH ci secret"]);
    }

    #[test]
    fn a_client_that_asks_for_a_database_asks_as_itself() {
        let current = State {
            user: user("ci"),
            ..State::INITIAL
        };
        let target = State {
            database: 5,
            ..current.clone()
        };
        let asked = steps(&current, &target, Change::InPlace, &respool(), "n");
        assert_eq!(sent(&asked), ["SELECT 5"]);
        // What it seems to be in may not be what it is in.
        for own in [respool(), Own::Unnamed, Own::Nobody] {
            let asked = steps(&target, &target, Change::Select, &own, "n");
            assert_eq!(sent(&asked), ["SELECT 5"]);
        }
        let changed = steps(&current, &target, Change::Difference, &respool(), "n");
        let expected = ["AUTH respool secret", "SELECT 5", "AUTH ci secret"];
        assert_eq!(sent(&changed), expected);
        let changed = steps(&target, &current, Change::Difference, &Own::Unnamed, "n");
        let expected = ["RESET", "CLIENT SETNAME n", "AUTH ci secret"];
        assert_eq!(sent(&changed), expected);
    }

    #[test]
    fn a_guest_is_told_to_authenticate_where_anybody_elses_password_is_wrong() {
        let wrong = || crate::texts::WRONGPASS.to_vec();
        let guest = Effect::User(Some(Rc::new(Credentials::guest())));
        assert_eq!(guest.refusal(wrong()), NOAUTH);
        assert_eq!(guest.refusal(b"-NOPERM x\r\n".to_vec()), b"-NOPERM x\r\n");
        assert_eq!(Effect::User(user("ci")).refusal(wrong()), wrong());
        assert_eq!(Effect::User(None).refusal(wrong()), wrong());
    }

    #[test]
    fn a_password_is_never_printed() {
        let state = State {
            user: user("ci"),
            ..State::INITIAL
        };
        let steps = steps(
            &State::INITIAL,
            &state,
            Change::Difference,
            &Own::Unnamed,
            "n",
        );
        assert!(!format!("{state:?} {steps:?}").contains("secret"));
    }
}
