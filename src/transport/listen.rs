//! Listening: bound sockets, and an acceptor that never spins when descriptors run out.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use crate::config::{Address, Listener};

/// Pause after the process ran out of descriptors: long enough for clients to leave, short enough to be back at once.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(100);

/// A bound, listening socket, not yet on any runtime.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    path: Option<SocketFile>,
}

/// The file of a unix socket, removed when nobody listens on it any more.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already, or not ours to remove: nothing is lost.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    /// Accepts on the runtime this is called on.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn open(self) -> io::Result<Acceptor> {
        let spare = File::open("/dev/null").ok();
        Ok(Acceptor {
            socket: register(self.socket)?,
            spare,
            path: self.path,
            exhausted: 0,
        })
    }

    /// The address clients connect to, where there is only one.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let bound = self.socket.local_addr().ok()?.as_socket()?;
        Some(bound).filter(|address| !address.ip().is_unspecified())
    }
}

/// A listening socket on a runtime.
#[derive(Debug)]
pub struct Acceptor {
    socket: AsyncFd<Socket>,
    /// Given up for a moment when descriptors run out, so that the client at hand can be accepted and told.
    spare: Option<File>,
    path: Option<SocketFile>,
    exhausted: u64,
}

/// A client's socket, not yet on any worker.
#[derive(Debug)]
pub enum Accepted {
    /// From a TCP listener, with the peer's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// From a unix listener.
    Unix(std::os::unix::net::UnixStream),
}

/// Binds `listener`.
///
/// # Errors
/// The address is taken, not ours or not permitted.
pub fn bind(listener: &Listener, keepalive: Duration) -> io::Result<Bound> {
    let (socket, path) = match &listener.address {
        Address::Tcp { host, port } => (bind_tcp((host.as_str(), *port).to_socket_addrs()?)?, None),
        Address::Unix(path) => (bind_unix(path)?, Some(path.clone())),
    };
    if path.is_none() {
        // Accepted sockets inherit both: set here once, not by five system calls for each client.
        socket.set_tcp_nodelay(true)?;
        set_keepalive(&socket, keepalive)?;
    }
    socket.set_nonblocking(true)?;
    socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))?;
    Ok(Bound {
        socket,
        path: path.map(SocketFile),
    })
}

/// Keepalive probes after `idle` of silence, three before the peer is given up; zero: none.
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

#[expect(
    deprecated,
    reason = "unsound only for descriptors that can be closed meanwhile; the socket is owned"
)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
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

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A socket file that nobody listens on any more is left over from a process that was killed.
    if std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path)?;
    }
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    Ok(socket)
}

impl Acceptor {
    /// Times the process had no descriptor for a client.
    pub fn exhausted(&self) -> u64 {
        self.exhausted
    }

    /// Waits for the next client. Cancelling it loses none.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            let accepted = {
                let Ok(mut ready) = self.socket.readable().await else {
                    tokio::time::sleep(DESCRIPTOR_PAUSE).await;
                    continue;
                };
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                match ready
                    .try_io(|socket| Ok(rustix::net::acceptfrom_with(socket.get_ref(), flags)?))
                {
                    Err(_would_block) => continue,
                    Ok(accepted) => accepted,
                }
            };
            match accepted {
                Ok((socket, peer)) => {
                    if self.spare.is_none() {
                        self.spare = File::open("/dev/null").ok();
                    }
                    return self.typed(socket, peer);
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    fn typed(&self, socket: OwnedFd, peer: Option<rustix::net::SocketAddrAny>) -> Accepted {
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        match (peer, &self.path) {
            (Some(peer), None) => Accepted::Tcp(socket.into(), peer),
            (_, Some(_)) => Accepted::Unix(socket.into()),
            (None, None) => Accepted::Tcp(socket.into(), SocketAddr::from(([0, 0, 0, 0], 0))),
        }
    }

    /// Without descriptors the kernel reports the same client again at once: turn that client away with the descriptor
    /// kept for this, then pause.
    async fn failed(&mut self, error: &io::Error) {
        let exhausted = matches!(
            rustix::io::Errno::from_io_error(error),
            Some(
                rustix::io::Errno::MFILE
                    | rustix::io::Errno::NFILE
                    | rustix::io::Errno::NOBUFS
                    | rustix::io::Errno::NOMEM
            )
        );
        if !exhausted {
            // The client itself went away between the kernel's queue and here.
            return;
        }
        self.exhausted += 1;
        if self.exhausted.is_power_of_two() {
            tracing::error!(
                times = self.exhausted,
                "no file descriptor for a new client: {error}; raise the limit of open files (ulimit -n) or lower limits.max_clients"
            );
        }
        self.spare = None;
        if let Ok((socket, _)) =
            rustix::net::acceptfrom_with(self.socket.get_ref(), SocketFlags::NONBLOCK)
        {
            let _ = rustix::io::write(&socket, b"-ERR max number of clients reached\r\n");
        }
        self.spare = File::open("/dev/null").ok();
        tokio::time::sleep(DESCRIPTOR_PAUSE).await;
    }
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
