//! Why a connection has not come about, and what is told of that.

use std::fmt;
use std::rc::Rc;

use crate::link::Link;
use crate::login::OwnLogin;
use crate::telemetry::{ConnectResult, LossCause};

/// Says why no connection in the wanted state came about.
pub(in crate::upstream) enum ConnectError {
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

/// Says that there is no connection, for a reason that waiting may end.
pub(super) fn away(text: impl Into<String>, result: ConnectResult) -> ConnectError {
    ConnectError::Away {
        text: text.into(),
        result,
    }
}

/// Says that the server has not answered what it was asked.
pub(super) fn out_of_place() -> ConnectError {
    away(
        "the server answered respool's first commands with something else than they are answered with",
        ConnectResult::HandshakeError,
    )
}

/// Says that the server does not take respool, or that there is no secret to show it.
pub(super) fn refused_login(answer: &str, login: &OwnLogin) -> ConnectError {
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
