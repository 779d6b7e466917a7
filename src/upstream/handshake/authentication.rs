//! Who shows the server what on a new connection: respool its own secret, or, where it has none, the client for whom it is opened.

use std::rc::Rc;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::ConnectTerms;
use super::error::{ConnectError, away, refused_login};
use super::talk::OpeningTalk;
use crate::auth::{is_wrong_password, refusal_text};
use crate::config::AuthMode;
use crate::login::{LoginCandidate, OwnLogin};
use crate::resp::speak::encode_request;
use crate::session::{Credentials, State};
use crate::telemetry::ConnectResult;
use crate::texts::NOAUTH;
use crate::thread::Thread;

/// Tells whether the server has whoever does not authenticate do so. It is asked only where that decides what clients get.
pub(super) async fn asks_unauthenticated(
    talk: &mut OpeningTalk,
    terms: &ConnectTerms,
) -> Result<bool, ConnectError> {
    let matters = terms.settings.auth.mode == AuthMode::Passthrough;
    if !matters || !terms.login.is_configured() {
        return Ok(false);
    }
    let reply = talk.ask(&encode_request(&["PING"])).await?;
    Ok(reply.starts_with(b"-NOAUTH"))
}

/// Shows the server respool's own secret, where there is one: if it is refused the others, and, when they were asked for
/// again, whatever has taken their place.
pub(super) async fn authenticate(
    talk: &mut OpeningTalk,
    login: &Arc<OwnLogin>,
) -> Result<(), ConnectError> {
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

/// Authenticates the connection as the client whose state it is to be in, where respool has no secret.
pub(super) async fn log_in_as_client(
    talk: &mut OpeningTalk,
    thread: &Thread,
    terms: &ConnectTerms,
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
