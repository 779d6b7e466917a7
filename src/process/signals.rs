//! The signals that the process acts on.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Says what a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalRequest {
    /// The process is to end; the signal's name is told.
    End(&'static str),
    /// The configuration is to be read again.
    Reload,
}

#[derive(Debug)]
pub(super) struct SignalStream {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl SignalStream {
    /// Handles the signals from now on.
    ///
    /// # Errors
    /// The runtime cannot.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Cancelling it loses none.
    pub(super) async fn next(&mut self) -> SignalRequest {
        tokio::select! {
            _ = self.terminate.recv() => SignalRequest::End("SIGTERM"),
            _ = self.interrupt.recv() => SignalRequest::End("SIGINT"),
            _ = self.hangup.recv() => SignalRequest::Reload,
        }
    }
}
