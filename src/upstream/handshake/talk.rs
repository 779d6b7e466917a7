//! What is said on a connection before it carries traffic: requests of respool's own, each answered before the next is sent.

use std::io;

use super::error::{ConnectError, away, out_of_place};
use crate::link::ServerSocket;
use crate::resp::ReplyScanner;
use crate::telemetry::{ConnectResult, LossCause};

/// Holds a connection until it carries traffic.
pub(super) struct OpeningTalk {
    socket: ServerSocket,
    buffer: Vec<u8>,
    /// Is true once the server has answered something whole.
    has_heard: bool,
}

impl OpeningTalk {
    pub(super) fn new(socket: ServerSocket) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
            has_heard: false,
        }
    }

    pub(super) fn into_socket(self) -> ServerSocket {
        self.socket
    }

    /// Asks something, and waits for the answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, ConnectError> {
        self.send(request).await?;
        self.reply().await
    }

    /// Checks that whatever the server has sent answers what it was asked: nothing is left.
    pub(super) fn nothing_is_left(&self) -> Result<(), ConnectError> {
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(out_of_place()),
        }
    }

    /// Sends requests, all that came before being answered.
    pub(super) async fn send(&mut self, mut request: &[u8]) -> Result<(), ConnectError> {
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

    /// Waits for the next answer.
    pub(super) async fn reply(&mut self) -> Result<Vec<u8>, ConnectError> {
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

    fn heard(reply: &str) -> Result<Vec<u8>, ConnectError> {
        refuse_full(reply.as_bytes().to_vec())
    }

    #[test]
    fn a_refusal_that_comes_instead_of_an_answer_is_told_by_what_may_help() {
        let full = heard("-ERR max number of clients reached\r\n");
        assert!(matches!(
            full,
            Err(ConnectError::Away {
                result: ConnectResult::MaxClients,
                ..
            })
        ));
        let denied = heard("-DENIED Redis is running in protected mode\r\n");
        let Err(ConnectError::Away { text, result }) = denied else {
            panic!("it is refused");
        };
        assert_eq!(result, ConnectResult::HandshakeError);
        assert_eq!(
            text,
            "the server said -DENIED Redis is running in protected mode"
        );
        for (reply, cause) in [
            ("-LOADING Redis is loading\r\n", LossCause::Loading),
            (
                "-MASTERDOWN Link with MASTER is down\r\n",
                LossCause::MasterDown,
            ),
        ] {
            let unready = heard(reply);
            let Err(ConnectError::Unready(told, said)) = unready else {
                panic!("it is refused");
            };
            assert_eq!((told, said), (cause, reply.as_bytes().to_vec()));
        }
    }

    #[test]
    fn an_error_that_is_an_answer_is_one() {
        for reply in [
            "-NOAUTH Authentication required.\r\n",
            "-ERR unknown command `HELLO`\r\n",
            "-BUSY Redis is busy\r\n",
            "-NOPERM this user has no permissions\r\n",
            "-LOADINGS\r\n",
            "+OK\r\n",
        ] {
            let heard = heard(reply);
            assert!(heard.is_ok_and(|same| same == reply.as_bytes()), "{reply}");
        }
    }
}
