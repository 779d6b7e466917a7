//! What the server has answered when it was asked whether a user may run what respool answers itself.
//!
//! An answer holds for a while, so that a busy client pays no round trip for each of its commands, and is asked for again
//! soon after the server's rules have changed.

use std::collections::HashMap;

use crate::command::ClientSub;
use crate::texts::is_no_permission;

/// An answer holds for this long: what an operator changes is heeded within five seconds, the asking included.
const HOLDS_MICROS: u64 = 3_000_000;

/// The answers of this many users are kept; past it those go whose answers hold no more, and then all.
const MOST_USERS: usize = 1024;

/// Tells whether it reaches other clients.
pub fn concerns_others(sub: ClientSub) -> bool {
    matches!(sub, ClientSub::List | ClientSub::Kill | ClientSub::Unblock)
}

/// These words stand in the errors of a command that the server has begun to run, and whose arguments it finds wrong.
const ABOUT_ARGUMENTS: [&str; 8] = [
    "invalid client",
    "client-id should",
    "not an integer",
    "out of range",
    "syntax error",
    "no such",
    "unknown subcommand",
    "wrong number of arguments",
];

/// These words stand in what a server says of a command that it does not have, or has not for anybody.
const NOT_TO_BE_HAD: [&str; 5] = [
    "unknown command",
    "not allowed",
    "not permitted",
    "not supported",
    "disabled",
];

/// Tells whether the server has refused a command when it was asked whether it may be run, rather than its arguments. A command that
/// reaches other clients is permitted by the errors that it is known to answer alone. What the server says with another word than `ERR`, as
/// that it is busy, it says after it has looked whether the user may.
pub fn is_refusal(sub: Option<ClientSub>, answer: &[u8]) -> bool {
    if is_no_permission(answer) || answer.starts_with(b"-NOAUTH") {
        return true;
    }
    let Some(text) = answer.strip_prefix(b"-ERR ") else {
        return false;
    };
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    match sub.is_some_and(concerns_others) {
        true => text.starts_with(NOT_TO_BE_HAD[0]) || !says(&ABOUT_ARGUMENTS),
        false => says(&NOT_TO_BE_HAD),
    }
}

/// Says whether something is permitted; `Err` holds the server's refusal.
pub type PermissionResult = Result<(), Vec<u8>>;

/// Says what is known of a permission.
#[derive(Debug, PartialEq, Eq)]
pub enum KnownPermission {
    /// The server has said so just now.
    Now(PermissionResult),
    /// The server has said so, and may say otherwise by now.
    Before(PermissionResult),
    /// It was never asked.
    Nothing,
}

#[derive(Debug)]
struct PermissionAnswer {
    sub: ClientSub,
    permission: PermissionResult,
    micros: u64,
}

/// Keeps the answers of one server, by user.
#[derive(Debug, Default)]
pub struct UserPermissions {
    /// Keeps those of respool's own user.
    own: Vec<PermissionAnswer>,
    users: HashMap<Box<[u8]>, Vec<PermissionAnswer>>,
}

impl UserPermissions {
    /// Returns what is known at `now` of whether `user` (`None`: respool's own) may run a subcommand of CLIENT.
    pub fn of(&self, user: Option<&[u8]>, sub: ClientSub, now: u64) -> KnownPermission {
        let answers = match user {
            None => Some(&self.own),
            Some(user) => self.users.get(user),
        };
        let answer = answers.and_then(|answers| answers.iter().find(|answer| answer.sub == sub));
        match answer {
            None => KnownPermission::Nothing,
            Some(answer) if now.saturating_sub(answer.micros) < HOLDS_MICROS => {
                KnownPermission::Now(answer.permission.clone())
            }
            Some(answer) => KnownPermission::Before(answer.permission.clone()),
        }
    }

    /// Notes what the server, asked at `micros`, has answered.
    pub fn told(
        &mut self,
        user: Option<&[u8]>,
        sub: ClientSub,
        permission: PermissionResult,
        micros: u64,
    ) {
        let answers = match user {
            None => &mut self.own,
            Some(user) => {
                if !self.users.contains_key(user) {
                    self.make_room(micros);
                }
                self.users.entry(user.into()).or_default()
            }
        };
        answers.retain(|answer| answer.sub != sub);
        answers.push(PermissionAnswer {
            sub,
            permission,
            micros,
        });
    }

    /// Notes that the server is being asked again: what is known holds until it has answered.
    pub fn renews(&mut self, user: Option<&[u8]>, sub: ClientSub, now: u64) {
        let answers = match user {
            None => Some(&mut self.own),
            Some(user) => self.users.get_mut(user),
        };
        let answer =
            answers.and_then(|answers| answers.iter_mut().find(|answer| answer.sub == sub));
        if let Some(answer) = answer {
            answer.micros = now;
        }
    }

    fn make_room(&mut self, now: u64) {
        if self.users.len() < MOST_USERS {
            return;
        }
        let holds = |answer: &PermissionAnswer| now.saturating_sub(answer.micros) < HOLDS_MICROS;
        self.users.retain(|_, answers| answers.iter().any(holds));
        if self.users.len() >= MOST_USERS {
            self.users.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_not_said_yes_to_is_refused() {
        let list = Some(ClientSub::List);
        let name = Some(ClientSub::SetName);
        for answer in [
            "-NOPERM no",
            "-NOAUTH no",
            "-ERR unknown command 'CLIENT', with args beginning with: 'KILL' 'ID' 'x' ",
            "-ERR unknown command `CLIENT`, with args beginning with: `syntax error`, ",
            "-ERR this command is not allowed here",
        ] {
            for sub in [list, name, None] {
                assert!(is_refusal(sub, answer.as_bytes()), "{answer}");
            }
        }
        for answer in [
            "-ERR Invalid client ID",
            "-ERR client-id should be greater than 0",
            "-ERR value is not an integer or out of range",
            "-ERR syntax error",
            "-BUSY Redis is busy running a script.",
            "$0",
            "+OK",
        ] {
            for sub in [list, name, None] {
                assert!(!is_refusal(sub, answer.as_bytes()), "{answer}");
            }
        }
        let strange = b"-ERR CLIENT is something that nobody has heard of";
        assert!(is_refusal(list, strange) && !is_refusal(name, strange));
    }

    fn refusal() -> PermissionResult {
        Err(b"-NOPERM no\r\n".to_vec())
    }

    #[test]
    fn an_answer_holds_for_three_seconds_and_is_remembered_after_that() {
        let mut known = UserPermissions::default();
        let sub = ClientSub::List;
        assert_eq!(known.of(None, sub, 7), KnownPermission::Nothing);
        known.told(None, sub, refusal(), 10);
        assert_eq!(
            known.of(None, sub, 2_999_999),
            KnownPermission::Now(refusal())
        );
        assert_eq!(
            known.of(None, sub, 3_000_010),
            KnownPermission::Before(refusal())
        );
        known.told(None, sub, Ok(()), 3_000_020);
        assert_eq!(known.of(None, sub, 3_000_021), KnownPermission::Now(Ok(())));
    }

    #[test]
    fn an_answer_is_about_one_user_and_one_command() {
        let mut known = UserPermissions::default();
        known.told(Some(b"ann"), ClientSub::Kill, refusal(), 1);
        assert_eq!(
            known.of(Some(b"ann"), ClientSub::Kill, 1),
            KnownPermission::Now(refusal())
        );
        assert_eq!(
            known.of(Some(b"ann"), ClientSub::List, 1),
            KnownPermission::Nothing
        );
        assert_eq!(
            known.of(Some(b"bob"), ClientSub::Kill, 1),
            KnownPermission::Nothing
        );
        assert_eq!(known.of(None, ClientSub::Kill, 1), KnownPermission::Nothing);
        known.renews(Some(b"ann"), ClientSub::Kill, 9_000_000);
        assert_eq!(
            known.of(Some(b"ann"), ClientSub::Kill, 9_000_001),
            KnownPermission::Now(refusal())
        );
    }

    #[test]
    fn users_without_end_are_not_remembered_without_end() {
        let mut known = UserPermissions::default();
        for user in 0..3 * MOST_USERS {
            let name = user.to_string();
            known.told(Some(name.as_bytes()), ClientSub::Id, Ok(()), user as u64);
            assert!(known.users.len() <= MOST_USERS);
            let told = known.of(Some(name.as_bytes()), ClientSub::Id, user as u64);
            assert_eq!(told, KnownPermission::Now(Ok(())));
        }
    }
}
