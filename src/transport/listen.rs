//! Listening: bound sockets, and an acceptor that never spins when descriptors run out.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};

use super::endpoint_file::EndpointFile;
use super::foreseen::{clear, explained};
use super::named::NamedSocket;
use super::occupant::remedy;
use super::open::{AcceptingEnd, OpenListener};
use super::reserve::{DescriptorReserve, reserve};
use super::socket_file::SocketFile;
use super::stream::tls::{ClientTls, TlsAcceptor};
use super::stream::{Stream, set_keepalive};
use crate::config::{AccessSettings, Address, AdminAddress, ListenerSettings};
use crate::telemetry::PROCESS;
use crate::texts::TOO_MANY_CLIENTS;

/// Says how long to pause after the process ran out of descriptors: long enough for clients to leave, short enough to
/// be back at once.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// Bounds the connections to the operator's endpoint that the kernel holds until they are accepted.
const ADMIN_BACKLOG: i32 = 1024;

/// Is a bound, listening socket, not yet on any runtime.
#[derive(Debug)]
pub struct BoundSocket {
    named: NamedSocket<Arc<Socket>>,
    tls: Arc<TlsAcceptor>,
    is_for_clients: bool,
    backlog: u32,
}

impl BoundSocket {
    /// Accepts on the runtime this is called on.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn open(self) -> io::Result<ClientAcceptor> {
        let spare = File::open("/dev/null").ok();
        Ok(ClientAcceptor {
            named: self.named.try_map(register)?,
            spare,
            tls: self.tls,
            is_for_clients: self.is_for_clients,
            exhausted: 0,
        })
    }

    /// Makes what it is changed and closed by while it accepts.
    pub fn opened(&self, name: String) -> (Arc<OpenListener>, AcceptingEnd) {
        let NamedSocket { file, socket } = &self.named;
        let file = file.as_ref().map(|file| file.bound().clone());
        OpenListener::new(name, socket, file, Arc::clone(&self.tls), self.backlog)
    }

    /// Returns the address clients connect to, where there is only one.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let bound = self.named.socket.local_addr().ok()?.as_socket()?;
        Some(bound).filter(|address| !address.ip().is_unspecified())
    }
}

/// Is a listening socket on a runtime.
#[derive(Debug)]
pub struct ClientAcceptor {
    named: NamedSocket<AsyncFd<Arc<Socket>>>,
    /// Is given up for a moment when descriptors run out, so that the client at hand can be accepted and told.
    spare: Option<File>,
    tls: Arc<TlsAcceptor>,
    /// Is true where others may have what is kept back of the process' descriptors.
    is_for_clients: bool,
    exhausted: u64,
}

impl ClientAcceptor {
    /// Returns the file of the operator's unix socket, whose address is `key` in the settings.
    pub fn endpoint_file(&self, key: &'static str) -> Option<EndpointFile> {
        let file = self.named.file.as_ref()?;
        Some(EndpointFile::new(key, file.bound().clone()))
    }
}

/// Is a client that has connected, not yet on any worker.
#[derive(Debug)]
pub struct AcceptedClient {
    pub socket: AcceptedSocket,
    /// Says what it is to be shown, on a listener with TLS.
    pub tls: Option<Arc<ClientTls>>,
}

/// Tells who was next in the kernel's queue.
#[derive(Debug)]
pub enum NextAccepted {
    Nobody,
    Client(AcceptedClient),
    /// Somebody has gone, or was turned away for want of descriptors.
    Away,
    /// Somebody cannot even be turned away.
    Stuck,
}

/// Is the socket of a client, by the kind of its listener.
#[derive(Debug)]
pub enum AcceptedSocket {
    /// It came from a TCP listener, with the peer's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// It came from a unix listener.
    Unix(std::os::unix::net::UnixStream),
}

impl AcceptedClient {
    /// Puts the socket on this runtime, before any TLS, and tells what TLS it is to speak.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn open(self) -> io::Result<(Stream, Option<Arc<ClientTls>>)> {
        let stream = match self.socket {
            AcceptedSocket::Tcp(socket, _) => TcpStream::from_std(socket).map(Stream::Tcp),
            AcceptedSocket::Unix(socket) => UnixStream::from_std(socket).map(Stream::Unix),
        };
        Ok((stream?, self.tls))
    }

    /// Tells it `text`, as far as that goes without waiting, and closes. With TLS it is told nothing: that would take a
    /// handshake.
    pub fn turn_away(self, text: &[u8]) {
        if self.tls.is_some() {
            return;
        }
        // Whoever does not take it is closed all the same.
        let _ = match &self.socket {
            AcceptedSocket::Tcp(stream, _) => io::Write::write(&mut &*stream, text),
            AcceptedSocket::Unix(stream) => io::Write::write(&mut &*stream, text),
        };
        let _ = match &self.socket {
            AcceptedSocket::Tcp(stream, _) => stream.shutdown(std::net::Shutdown::Write),
            AcceptedSocket::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }
}

/// Binds `listener`.
///
/// # Errors
/// The address is taken, not ours or not permitted; or what rustls does not take of the TLS settings: in words, with the
/// setting and what to do.
pub fn bind(listener: &ListenerSettings, keepalive: Duration) -> Result<BoundSocket, String> {
    let name = &listener.name;
    let told = |error: io::Error| cannot_listen("listener.address", name, &error);
    let (socket, file) = match &listener.address {
        Address::Tcp { host, port } => {
            let addresses = (host.as_str(), *port).to_socket_addrs().map_err(told)?;
            (bind_tcp(addresses).map_err(told)?, None)
        }
        Address::Unix(path) => {
            let (socket, file) = bind_unix(path).map_err(told)?;
            // Before it listens: until then nobody can connect, whatever the umask allows.
            let permitted = file.permit(&listener.access, "listener");
            permitted.map_err(|why| {
                let why = explained(path, &listener.access, why);
                format!("cannot listen on {name}: {why}")
            })?;
            (socket, Some(file))
        }
    };
    let tls = TlsAcceptor::new(listener.tls.as_ref());
    let tls = tls.map_err(|why| format!("cannot listen on {name}: listener.tls: {why}"))?;
    if file.is_none() {
        // Accepted sockets inherit both: set here once, not by five system calls for each client.
        socket.set_tcp_nodelay(true).map_err(told)?;
        set_keepalive(&socket, keepalive).map_err(told)?;
    }
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    listen(&socket, file.as_ref(), backlog).map_err(told)?;
    let socket = Arc::new(socket);
    Ok(BoundSocket {
        named: NamedSocket { file, socket },
        tls: Arc::new(tls),
        is_for_clients: true,
        backlog: listener.backlog,
    })
}

/// Binds an address of the operator's endpoint, which is `key` in the settings; the file of a unix socket gets `mode`.
///
/// # Errors
/// The address is taken, not ours or not permitted: in words, with the setting and what to do.
pub fn bind_admin(
    key: &str,
    address: &AdminAddress,
    mode: Option<u32>,
) -> Result<BoundSocket, String> {
    let told = |error: io::Error| cannot_listen(key, address, &error);
    let (socket, file) = match address {
        AdminAddress::Tcp(address) => {
            let socket = bind_tcp(std::iter::once(*address)).map_err(told)?;
            (socket, None)
        }
        AdminAddress::Unix(path) => {
            let (socket, file) = bind_unix(path).map_err(told)?;
            let access = AccessSettings {
                mode,
                ..AccessSettings::default()
            };
            let permitted = file.permit(&access, "admin");
            permitted.map_err(|why| format!("cannot listen on {address}: {why}"))?;
            (socket, Some(file))
        }
    };
    listen(&socket, file.as_ref(), ADMIN_BACKLOG).map_err(told)?;
    let socket = Arc::new(socket);
    Ok(BoundSocket {
        named: NamedSocket { file, socket },
        tls: Arc::default(),
        is_for_clients: false,
        backlog: ADMIN_BACKLOG.unsigned_abs(),
    })
}

fn cannot_listen(key: &str, address: &dyn Display, error: &io::Error) -> String {
    let remedy = remedy(error);
    format!("{key}: cannot listen on {address}: {error}; {remedy}")
}

/// Lets clients connect from here on.
fn listen(socket: &Socket, file: Option<&SocketFile>, backlog: i32) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.listen(backlog)?;
    match file.map(|file| file.bound().open()) {
        // What is bound and does not listen yet looks like left over to somebody else that starts.
        Some(Err(_)) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "the file of the socket that was bound there just now is gone: another process that starts has taken its place",
        )),
        _ => Ok(()),
    }
}

/// Binds `address` as [`bind`] would, and gives it back at once without having listened.
///
/// # Errors
/// The address is taken, not ours or not permitted.
pub fn try_bind(address: SocketAddr) -> io::Result<()> {
    bind_tcp(std::iter::once(address)).map(drop)
}

#[expect(
    deprecated,
    reason = "unsound only for descriptors that can be closed meanwhile; the socket is owned"
)]
fn register(socket: Arc<Socket>) -> io::Result<AsyncFd<Arc<Socket>>> {
    AsyncFd::new(socket)
}

fn bind_tcp(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<Socket> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        match socket.bind(&address.into()) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Binds the socket and its file, which goes with it also when something fails from here on.
fn bind_unix(path: &Path) -> io::Result<(Socket, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    clear(path)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let file = SocketFile::new(path)?;
    Ok((socket, file))
}

impl ClientAcceptor {
    /// Waits for the next client. Cancelling it loses none.
    pub async fn accept(&mut self) -> AcceptedClient {
        loop {
            let accepted = {
                let Ok(mut ready) = self.named.socket.readable().await else {
                    tokio::time::sleep(DESCRIPTOR_PAUSE).await;
                    continue;
                };
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                match ready
                    .try_io(|socket| Ok(rustix::net::acceptfrom_with(&**socket.get_ref(), flags)?))
                {
                    Err(_would_block) => continue,
                    Ok(accepted) => accepted,
                }
            };
            match accepted {
                Ok((socket, peer)) => {
                    if self.is_for_clients && reserve().is_some_and(|kept| kept.keeps(&socket)) {
                        self.turn_away(socket);
                        // However many come: those who are there have their turn.
                        tokio::task::yield_now().await;
                        continue;
                    }
                    if self.spare.is_none() {
                        self.spare = File::open("/dev/null").ok();
                    }
                    return self.typed(socket, peer);
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// Accepts one who waits in the kernel's queue, without waiting for anybody or for descriptors.
    pub fn take_queued(&mut self) -> NextAccepted {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match rustix::net::acceptfrom_with(&**self.named.socket.get_ref(), flags) {
            Err(Errno::AGAIN) => NextAccepted::Nobody,
            Ok((socket, _)) if reserve().is_some_and(|kept| kept.keeps(&socket)) => {
                self.turn_away(socket);
                NextAccepted::Away
            }
            Ok((socket, peer)) => NextAccepted::Client(self.typed(socket, peer)),
            Err(error) if is_exhausted(error) => match self.turn_next_away() {
                true => NextAccepted::Away,
                false => NextAccepted::Stuck,
            },
            // The client itself went away, as below.
            Err(_) => NextAccepted::Away,
        }
    }

    fn typed(&self, socket: OwnedFd, peer: Option<rustix::net::SocketAddrAny>) -> AcceptedClient {
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let socket = match (peer, &self.named.file) {
            (Some(peer), None) => AcceptedSocket::Tcp(socket.into(), peer),
            (_, Some(_)) => AcceptedSocket::Unix(socket.into()),
            (None, None) => AcceptedSocket::Tcp(socket.into(), SocketAddr::from(([0, 0, 0, 0], 0))),
        };
        AcceptedClient {
            socket,
            tls: self.tls.current(),
        }
    }

    /// Waits out a failure to accept. Without descriptors the kernel reports the same client again at once: that client
    /// is turned away with the descriptor kept for this, then comes a pause.
    async fn failed(&mut self, error: &io::Error) {
        let exhausted = Errno::from_io_error(error).is_some_and(is_exhausted);
        if !exhausted {
            // The client itself went away between the kernel's queue and here.
            return;
        }
        if !self.is_for_clients {
            // Tried again at once with what was kept back for this.
            if !reserve().is_some_and(DescriptorReserve::give_up) {
                tokio::time::sleep(DESCRIPTOR_PAUSE).await;
            }
            return;
        }
        self.turn_next_away();
        tokio::time::sleep(DESCRIPTOR_PAUSE).await;
    }

    /// Accepts the next with the descriptor kept for this, and turns it away. False: not even that can be done.
    fn turn_next_away(&mut self) -> bool {
        self.spare = None;
        let next =
            rustix::net::acceptfrom_with(&**self.named.socket.get_ref(), SocketFlags::NONBLOCK);
        let is_away = next.map(|(socket, _)| self.turn_away(socket)).is_ok();
        self.spare = File::open("/dev/null").ok();
        is_away
    }

    /// Tells a client for which there is no descriptor so, as far as that goes without waiting, and closes it.
    fn turn_away(&mut self, socket: OwnedFd) {
        self.exhausted += 1;
        PROCESS.without_descriptor();
        if self.exhausted.is_power_of_two() {
            let peer = rustix::net::getpeername(&socket).ok().flatten();
            let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
            tracing::error!(
                client = ?peer,
                times = self.exhausted,
                "no file descriptor for a new client, which is turned away; raise the limit of open files (ulimit -n) or lower \
                 limits.max_clients"
            );
        }
        // With TLS it would take a handshake.
        if self.tls.current().is_none() {
            let _ = rustix::io::write(&socket, format!("{TOO_MANY_CLIENTS}\r\n").as_bytes());
            let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
        }
    }
}

fn is_exhausted(error: Errno) -> bool {
    matches!(
        error,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM
    )
}

/// Raises the soft limit of open files to the hard one. Returns the limit now in force.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
