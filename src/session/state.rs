//! The state a connection to the server wears and a session asks for: user, protocol version, database.

use std::fmt;
use std::rc::Rc;

use crate::auth::{NOAUTH, is_wrong_password};
use crate::resp::speak::{encode_request, push_request};

/// The protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2.
    Resp2,
    /// RESP3.
    Resp3,
}

impl Protocol {
    /// Its number, as HELLO takes it.
    pub fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// What is shown of a user that has no password. Not the empty one, which clients try.
const ANY_PASSWORD: &[u8] = b"respool: has not authenticated";

/// A user of the server and its password.
pub struct Credentials {
    /// `None`: the legacy `AUTH password`, for the default user.
    pub username: Option<Box<[u8]>>,
    /// The password.
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
    /// Whoever has not authenticated, where the server permits that: the default user without a password takes any.
    pub fn guest() -> Self {
        Self {
            username: Some((*b"default").into()),
            password: ANY_PASSWORD.into(),
        }
    }

    /// Whether it is whoever has not authenticated.
    pub fn is_guest(&self) -> bool {
        *self.password == *ANY_PASSWORD && self.user() == b"default"
    }

    /// The user's name.
    pub fn user(&self) -> &[u8] {
        self.username.as_deref().unwrap_or(b"default")
    }

    /// The request that authenticates.
    pub fn request(&self) -> Vec<u8> {
        match &self.username {
            Some(name) => encode_request(&[b"AUTH", &name[..], &self.password]),
            None => encode_request(&[b"AUTH", &self.password[..]]),
        }
    }
}

/// What must be equal for a session to use a connection.
#[derive(Debug, Clone)]
pub struct State {
    /// `None`: respool's own user.
    pub user: Option<Rc<Credentials>>,
    /// Protocol version.
    pub protocol: Protocol,
    /// Database.
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
    /// The state of a connection just opened and authenticated as respool.
    pub const INITIAL: Self = Self {
        user: None,
        protocol: Protocol::Resp2,
        database: 0,
    };
}

/// What the server's acknowledgement of one command of a change means.
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

/// One command of a change.
#[derive(Clone)]
pub struct Step {
    /// The request.
    pub request: Vec<u8>,
    /// What `+OK`, `+RESET` or HELLO's map in answer to it means.
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

/// How a change of state begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only what differs.
    Difference,
    /// The user is authenticated anew, even if the connection is theirs.
    Authenticate,
    /// Everything the connection holds is undone first.
    Scrub,
}

/// The commands that take a connection from `worn` to `target`.
pub fn steps(
    worn: &State,
    target: &State,
    change: Change,
    own: Option<&Rc<Credentials>>,
    name: &str,
) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut worn = worn.clone();
    let another_user = worn.user != target.user || change == Change::Authenticate;
    let back_to_nobody = another_user && target.user.is_none() && own.is_none();
    if change == Change::Scrub || back_to_nobody {
        // RESET (Redis 6.2) also de-authenticates and takes the name.
        steps.push(Step {
            request: encode_request(&["RESET"]),
            effect: Effect::Reset,
        });
        if let Some(own) = own {
            steps.push(Step {
                request: own.request(),
                effect: Effect::User(None),
            });
        }
        steps.push(Step {
            request: name_request(name),
            effect: Effect::Named,
        });
        worn = State::INITIAL;
    }
    if (worn.user != target.user || change == Change::Authenticate)
        && let Some(credentials) = target.user.as_ref().or(own)
    {
        steps.push(Step {
            request: credentials.request(),
            effect: Effect::User(target.user.clone()),
        });
    }
    if worn.protocol != target.protocol {
        let mut request = Vec::new();
        push_request(
            &mut request,
            &[
                "HELLO",
                if target.protocol == Protocol::Resp3 {
                    "3"
                } else {
                    "2"
                },
            ],
        );
        steps.push(Step {
            request,
            effect: Effect::Protocol(target.protocol),
        });
    }
    if worn.database != target.database {
        let request = encode_request(&["SELECT", &target.database.to_string()]);
        steps.push(Step {
            request,
            effect: Effect::Database(target.database),
        });
    }
    steps
}

/// The request that names a connection.
pub fn name_request(name: &str) -> Vec<u8> {
    encode_request(&["CLIENT", "SETNAME", name])
}

impl Effect {
    /// Whether the server may answer the step with this reply, be it a refusal.
    pub fn is_answered_by(&self, reply: &[u8]) -> bool {
        match self {
            Self::Reset => reply.starts_with(b"+RESET"),
            // HELLO answers a map, or in RESP2 an array.
            Self::Protocol(_) => matches!(reply.first(), Some(b'%' | b'*' | b'-')),
            _ => reply.starts_with(b"+OK") || reply.first() == Some(&b'-'),
        }
    }

    /// What a client gets whose state the server refused with this reply. Whoever has not authenticated is told that they
    /// have to, as by the server itself.
    pub fn refusal(&self, reply: Vec<u8>) -> Vec<u8> {
        match self {
            Self::User(Some(user)) if user.is_guest() && is_wrong_password(&reply) => {
                NOAUTH.to_vec()
            }
            _ => reply,
        }
    }

    /// Takes an acknowledged step into `worn`.
    pub fn apply(&self, worn: &mut State) {
        match self {
            Self::Reset => *worn = State::INITIAL,
            Self::User(user) => worn.user.clone_from(user),
            Self::Protocol(protocol) => worn.protocol = *protocol,
            Self::Database(database) => worn.database = *database,
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

    fn applied(worn: &State, steps: &[Step]) -> State {
        let mut worn = worn.clone();
        steps.iter().for_each(|step| step.effect.apply(&mut worn));
        worn
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
        for own in [None, user("respool")] {
            for worn in &states {
                for target in &states {
                    for change in [Change::Difference, Change::Authenticate, Change::Scrub] {
                        let steps = steps(worn, target, change, own.as_ref(), "respool:x");
                        assert_eq!(&applied(worn, &steps), target);
                        if worn == target && change == Change::Difference {
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
                None,
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
                None,
                "n"
            )),
            ["HELLO 3"]
        );
        let scrub = steps(&target, &State::INITIAL, Change::Scrub, None, "n");
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
                None,
                "n"
            )),
            ["RESET", "CLIENT SETNAME n"]
        );
    }

    #[test]
    fn a_guest_is_told_to_authenticate_where_anybody_elses_password_is_wrong() {
        let wrong = || crate::auth::WRONGPASS.to_vec();
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
        let steps = steps(&State::INITIAL, &state, Change::Difference, None, "n");
        assert!(!format!("{state:?} {steps:?}").contains("secret"));
    }
}
