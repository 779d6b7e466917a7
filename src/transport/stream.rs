//! One connection, TCP or unix, with TLS or without, used through `&self` so that its reader and its writer need no lock.

pub(super) mod tls;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::Socket;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::let_others_go_first;
use tls::TlsStream;

/// Reads of a socket that is being closed before other tasks get their turn.
const READS_A_TURN: usize = 16;

/// Says how long what was sent to the server may stay unacknowledged before its host counts as gone. The timer of the
/// kernel is a little coarse: this keeps it below ten seconds.
pub const DEAD_AFTER: Duration = Duration::from_secs(9);

/// Is a connected, non-blocking socket, or TLS on one.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// It is either of them with TLS.
    Tls(Box<TlsStream>),
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr, tls => $tls:expr) => {
        match $self {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $tls,
        }
    };
}

impl Stream {
    /// Tells whether it may not be used much longer ([`TlsStream`] of version 1.2): another is to take its place, between
    /// requests.
    pub fn is_worn_out(&self) -> bool {
        self.tls().is_some_and(TlsStream::is_worn_out)
    }

    /// Has this thread's runtime wait for the socket, rather than the one that did until now.
    ///
    /// # Errors
    /// It cannot.
    pub fn rehome(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
            Self::Tls(mut stream) => {
                stream.rehome()?;
                Self::Tls(stream)
            }
        })
    }

    /// Waits until the socket may have bytes to read.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read_ready(cx), tls => stream.poll_read_ready(cx))
    }

    /// Waits until the socket may take bytes.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_write_ready(cx), tls => stream.poll_write_ready(cx))
    }

    /// Reads what is there; 0: the peer has closed, or with TLS has said that it sends no more.
    ///
    /// A read that does not fill `buf` has emptied the socket; its readiness is then cleared, which saves the read that
    /// would only say so. Bytes that arrive in between make it ready again.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; whatever ended the connection.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let emptied = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        let read = each!(self, stream => {
            let read = stream.try_read(buf)?;
            if read > 0 && read < buf.len() {
                let _ = stream.try_io(Interest::READABLE, emptied);
            }
            read
        }, tls => stream.try_read(buf)?);
        Ok(read)
    }

    /// Reads as [`Self::try_read`] does, to the room that `buf` has left. `None` stands for TLS, which has to be read
    /// elsewhere first.
    ///
    /// # Errors
    /// As there.
    pub fn try_read_to(&self, buf: &mut Vec<u8>) -> Option<io::Result<usize>> {
        let room = buf.capacity() - buf.len();
        let emptied = || -> io::Result<()> { Err(io::ErrorKind::WouldBlock.into()) };
        macro_rules! read {
            ($stream:expr) => {{
                let read = $stream.try_read_buf(buf);
                if matches!(read, Ok(read) if read > 0 && read < room) {
                    let _ = $stream.try_io(Interest::READABLE, emptied);
                }
                Some(read)
            }};
        }
        match self {
            Self::Tcp(stream) => read!(stream),
            Self::Unix(stream) => read!(stream),
            Self::Tls(_) => None,
        }
    }

    /// Tells whether bytes to read, or the end, are known to have arrived. It asks what the runtime has been told, not
    /// the kernel.
    pub fn has_arrived(&self) -> bool {
        let nothing = || Ok(());
        each!(
            self,
            stream => stream.try_io(Interest::READABLE, nothing).is_ok(),
            tls => stream.socket().has_arrived()
        )
    }

    /// Writes what the socket takes. With TLS more is taken than the socket has; see [`Self::has_unflushed`].
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; whatever ended the connection.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.try_write(buf), tls => stream.try_write(buf))
    }

    /// Tells whether bytes that were taken wait to be sent: [`Self::poll_flush`] sends them. Only TLS has such.
    #[inline]
    pub fn has_unflushed(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.has_unflushed(),
            Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Counts the memory that is held beside the kernel's: records that have not been sent, or have not arrived whole.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.tls().map_or(0, TlsStream::held_bytes)
    }

    /// Lets go of what is held: nothing more can be read or written.
    pub fn let_go(&self) {
        if let Some(tls) = self.tls() {
            tls.let_go();
        }
    }

    /// Sends what was taken and waits for the socket to take it.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => stream.poll_flush(cx),
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    /// Says that nothing more will be written. The peer's end can still be awaited, and its bytes can be read; with TLS they
    /// are dropped.
    pub fn finish_writing(&self) {
        let done = match self {
            Self::Tcp(stream) => socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write),
            Self::Unix(stream) => {
                socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write)
            }
            Self::Tls(stream) => return stream.finish_writing(),
        };
        // A socket that is gone already needs no goodbye.
        drop(done);
    }

    /// Ends the socket's own direction and nothing else: what comes is still read, with TLS too, which says no goodbye here.
    pub fn finish_socket(&self) {
        match self {
            Self::Tls(stream) => stream.socket().finish_writing(),
            plain => plain.finish_writing(),
        }
    }

    /// Waits until the peer has closed its socket too, or the kernel knows the connection to be gone; what comes until then
    /// is dropped unread. The peer's goodbye in TLS is not its end: the socket below is what it still holds.
    pub fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Tls(stream) = self {
            return stream.socket().poll_end(cx);
        }
        let mut dropped = [0; 16 * 1024];
        for _ in 0..READS_A_TURN {
            match self.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            match self.try_read(&mut dropped) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        let_others_go_first(cx)
    }

    /// Has the kernel find out within about `limit` that the peer's host is gone, whatever is under way; a peer that only does
    /// nothing is not gone. Unix sockets have no such peer.
    pub fn probe_peer(&self, limit: Duration) {
        match self {
            Self::Tcp(stream) => {
                let socket = socket2::SockRef::from(stream);
                // Without, it takes longer.
                let _ = socket.set_tcp_user_timeout(Some(limit));
                let _ = set_keepalive(&socket, limit / 6);
            }
            Self::Unix(_) => {}
            Self::Tls(stream) => stream.socket().probe_peer(limit),
        }
    }

    /// Returns the number by which the kernel's tables know its socket.
    pub fn inode(&self) -> Option<u64> {
        each!(self, stream => Some(rustix::fs::fstat(stream).ok()?.st_ino), tls => stream.socket().inode())
    }

    /// Returns the number of its file descriptor.
    pub fn descriptor(&self) -> i32 {
        use std::os::fd::AsRawFd as _;
        each!(self, stream => stream.as_raw_fd(), tls => stream.socket().descriptor())
    }

    /// Returns its TLS, where it has any.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(stream) => Some(stream),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Sets no-delay, keepalive and how long bytes may stay unacknowledged; unix sockets need none of them.
    pub(super) fn tune(&self, keepalive: Duration) {
        if let Self::Tcp(stream) = self {
            // All only improve the connection; it works without.
            let _ = stream.set_nodelay(true);
            let _ = set_keepalive(&socket2::SockRef::from(stream), keepalive);
        }
        self.bear_unacknowledged(DEAD_AFTER);
    }

    /// Has the kernel end the connection when the peer has acknowledged nothing for so long of what it was sent, or has
    /// read nothing of what waits for it. Only Linux can; elsewhere the kernel's own patience holds.
    pub fn bear_unacknowledged(&self, limit: Duration) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        match self {
            Self::Tcp(stream) => {
                // It only improves the connection.
                let socket = socket2::SockRef::from(stream);
                let _ = socket.set_tcp_user_timeout(Some(limit));
            }
            Self::Unix(_) => {}
            Self::Tls(stream) => stream.socket().bear_unacknowledged(limit),
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = limit;
    }
}

/// Sends keepalive probes after `idle` of silence, three before the peer is given up; zero means none.
pub(super) fn set_keepalive(socket: &Socket, idle: Duration) -> io::Result<()> {
    if idle.is_zero() {
        return Ok(());
    }
    let every = socket2::TcpKeepalive::new()
        .with_time(idle)
        .with_interval((idle / 3).max(Duration::from_secs(1)))
        .with_retries(3);
    socket.set_tcp_keepalive(&every)
}
