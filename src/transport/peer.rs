//! What the peer has done with its end of a connection, told without reading: its bytes may have to stay where they are.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;

use super::Stream;

/// Tells how far the peer has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEnd {
    /// It may still send and read.
    Open,
    /// It sends no more. It may still read: a socket that was closed looks the same until something is written to it.
    Finished,
    /// It has reset the connection, or closed its unix socket: it reads nothing any more.
    Gone,
}

impl Stream {
    /// Tells how far the peer has gone, whatever is still to be read.
    pub fn peer_end(&self) -> PeerEnd {
        match self.bare() {
            Self::Tcp(stream) => peer_end(stream),
            Self::Unix(stream) => peer_end(stream),
            Self::Tls(_) => PeerEnd::Open,
        }
    }

    /// Waits until the peer has finished sending, or is gone.
    pub async fn finished(&self) {
        // Beside urgent bytes, which nobody sends, this tells of the end alone.
        self.ready(Interest::PRIORITY).await;
    }

    /// Waits until the peer, which has finished sending, is gone.
    pub async fn gone(&self) {
        self.ready(Interest::ERROR).await;
    }

    async fn ready(&self, interest: Interest) {
        let ready = match self.bare() {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
            Self::Tls(_) => return std::future::pending().await,
        };
        // It fails when the runtime ends, and then nobody waits.
        drop(ready);
    }

    /// Returns the socket below TLS, or the socket.
    fn bare(&self) -> &Self {
        self.tls().map_or(self, super::TlsStream::socket)
    }
}

fn peer_end(socket: &impl AsFd) -> PeerEnd {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
    if !matches!(poll(&mut asked, Some(&at_once)), Ok(1..)) {
        return PeerEnd::Open;
    }
    if asked[0]
        .revents()
        .intersects(PollFlags::HUP | PollFlags::ERR)
    {
        PeerEnd::Gone
    } else {
        PeerEnd::Finished
    }
}
