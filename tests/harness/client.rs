//! A client that speaks bytes: blocking sockets, no retries, no opinions.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::request::encode;
use super::value::{Unparsed, Value, show};
use super::{PATIENCE, REJECTION, uninterrupted};

/// Holds one connection, direct or through respool.
///
/// Methods named `try_...` tell the end of the connection by `None` or an error; the others panic at it.
pub(crate) struct Client {
    stream: ClientStream,
    buffer: Vec<u8>,
    /// The bytes of `buffer` up to here have been handed out.
    used: usize,
    patience: Duration,
}

enum ClientStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    /// Connects to an address by TCP.
    #[track_caller]
    pub(crate) fn connect(address: impl AsRef<str>) -> Self {
        let address = address.as_ref();
        Self::try_connect(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"))
    }

    /// Connects to an address by TCP, if somebody listens there.
    pub(crate) fn try_connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Self::new(ClientStream::Tcp(stream))
    }

    /// Connects by TCP and shakes hands, as `localhost`.
    pub(crate) fn try_connect_tls(address: &str, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Self::try_connect(address)?.with_tls(config)
    }

    /// Shakes hands on a TCP connection that has not been used.
    pub(crate) fn with_tls(self, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let ClientStream::Tcp(mut socket) = self.stream else {
            return Err(io::Error::other("no TCP connection"));
        };
        socket.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session =
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut socket)?;
        }
        Self::new(ClientStream::Tls(Box::new(StreamOwned::new(
            session, socket,
        ))))
    }

    /// Tells whether TLS spared its handshake by an earlier one.
    #[track_caller]
    pub(crate) fn is_resumed(&self) -> bool {
        match &self.stream {
            ClientStream::Tls(s) => s.conn.handshake_kind() == Some(HandshakeKind::Resumed),
            _ => panic!("this client speaks no TLS"),
        }
    }

    /// Connects by TCP from an address of this machine: `127.0.0.2` is another client than `127.0.0.1`.
    #[track_caller]
    pub(crate) fn connect_from(source: &str, address: impl AsRef<str>) -> Self {
        let address: SocketAddr = address.as_ref().parse().expect("an address and a port");
        let source: SocketAddr = format!("{source}:0").parse().expect("an IPv4 address");
        let connect = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&source.into())?;
            socket.connect(&address.into())?;
            socket.set_tcp_nodelay(true)?;
            Self::new(ClientStream::Tcp(socket.into()))
        };
        connect().unwrap_or_else(|e| panic!("connect from {source} to {address}: {e}"))
    }

    /// Connects to a unix socket.
    #[track_caller]
    pub(crate) fn connect_unix(path: &Path) -> Self {
        let stream = UnixStream::connect(path)
            .unwrap_or_else(|e| panic!("connect to {}: {e}", path.display()));
        Self::new(ClientStream::Unix(stream)).expect("timeouts can be set on a unix socket")
    }

    fn new(stream: ClientStream) -> io::Result<Self> {
        stream.set_write_timeout(PATIENCE)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            used: 0,
            patience: PATIENCE,
        })
    }

    /// Makes a second handle on the same connection, for writing from another thread.
    pub(crate) fn writer(&self) -> Self {
        let stream = match &self.stream {
            ClientStream::Tcp(s) => {
                ClientStream::Tcp(s.try_clone().expect("a socket can be cloned"))
            }
            ClientStream::Unix(s) => {
                ClientStream::Unix(s.try_clone().expect("a socket can be cloned"))
            }
            ClientStream::Tls(_) => panic!("TLS has one end for both ways"),
        };
        Self {
            stream,
            buffer: Vec::new(),
            used: 0,
            patience: self.patience,
        }
    }

    /// Tells the client's own TCP address, as respool and CLIENT LIST know it.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        match &self.stream {
            ClientStream::Tcp(s) => s.local_addr().expect("a connected socket has an address"),
            ClientStream::Unix(_) => panic!("a unix socket has no TCP address"),
            ClientStream::Tls(s) => s.sock.local_addr().expect("it has an address"),
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("send: {e}"));
    }

    /// Sends bytes as they are.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.stream {
            ClientStream::Tcp(s) => s.write_all(bytes.as_ref()),
            ClientStream::Unix(s) => s.write_all(bytes.as_ref()),
            ClientStream::Tls(s) => s.write_all(bytes.as_ref()).and_then(|()| s.flush()),
        }
    }

    /// Drops so many bytes of what comes; false when the connection has ended before.
    pub(crate) fn drop_bytes(&mut self, bytes: usize) -> bool {
        while self.buffer.len() - self.used < bytes {
            if self.ended() {
                return false;
            }
        }
        self.used += bytes;
        true
    }

    /// Sends bytes as they are on the socket below TLS.
    pub(crate) fn try_send_below_tls(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        match &mut self.stream {
            ClientStream::Tls(s) => s.sock.write_all(bytes.as_ref()),
            ClientStream::Tcp(_) | ClientStream::Unix(_) => panic!("this client speaks no TLS"),
        }
    }

    /// Sends one command and reads one reply.
    #[track_caller]
    pub(crate) fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.send(encode(args));
        self.reply()
    }

    /// Asks for the client's id, as text.
    #[track_caller]
    pub(crate) fn id(&mut self) -> String {
        self.cmd(&["CLIENT", "ID"]).int().to_string()
    }

    /// Sends a PING; panics unless it is answered as always.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        assert_eq!(self.cmd(&["PING"]), Value::simple("PONG"));
    }

    /// Sends a PING; panics unless it gets the rejection.
    #[track_caller]
    pub(crate) fn assert_rejected(&mut self) {
        self.send(encode(&["PING"]));
        self.assert_told_rejection();
    }

    /// Panics unless the next reply is the rejection.
    #[track_caller]
    pub(crate) fn assert_told_rejection(&mut self) {
        assert_eq!(show(&self.reply_bytes()), show(REJECTION));
    }

    /// Sends one command and reads one reply; `None` when the connection ended instead.
    #[track_caller]
    pub(crate) fn try_cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Option<Value> {
        self.try_send(encode(args)).ok()?;
        self.try_reply()
    }

    /// Reads the next reply.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Value {
        self.try_reply()
            .unwrap_or_else(|| panic!("the connection ended where a reply was awaited"))
    }

    /// Reads the next reply as the bytes it came in.
    #[track_caller]
    pub(crate) fn reply_bytes(&mut self) -> Vec<u8> {
        self.try_reply_bytes()
            .unwrap_or_else(|| panic!("the connection ended where a reply was awaited"))
    }

    /// Reads the next reply as the bytes it came in; `None` when the connection ended instead.
    #[track_caller]
    pub(crate) fn try_reply_bytes(&mut self) -> Option<Vec<u8>> {
        self.next().map(|(_, bytes)| bytes)
    }

    /// Reads the next reply; `None` when the connection ended instead.
    #[track_caller]
    pub(crate) fn try_reply(&mut self) -> Option<Value> {
        self.next().map(|(value, _)| value)
    }

    /// Reads the next reply if it comes within `wait`, to see that none does. Panics at the end of the connection.
    #[track_caller]
    pub(crate) fn reply_within(&mut self, wait: Duration) -> Option<Value> {
        loop {
            if let Ok((value, length)) = Value::parse(&self.buffer[self.used..]) {
                self.used += length;
                return Some(value);
            }
            match self.read_some(wait) {
                Ok(0) => panic!("the connection ended where a reply was awaited"),
                Ok(_) => {}
                Err(e) if is_timeout(&e) => return None,
                Err(e) => panic!("read: {e}"),
            }
        }
    }

    /// Reads for as long as `wait`; false when the connection ended meanwhile.
    pub(crate) fn is_open_after(&mut self, wait: Duration) -> bool {
        match self.read_some(wait) {
            Ok(read) => read > 0,
            Err(e) => is_timeout(&e),
        }
    }

    /// Tells whether a reply has come, which is kept for whoever reads next, or the connection has ended.
    pub(crate) fn has_reply(&mut self) -> bool {
        match self.read_some(Duration::from_millis(1)) {
            Ok(0) => true,
            Err(e) if !is_timeout(&e) => true,
            _ => Value::parse(&self.buffer[self.used..]).is_ok(),
        }
    }

    /// Reads everything up to the end of the connection.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while !self.ended() {}
        self.buffer.split_off(self.used)
    }

    /// Reads so many bytes, whatever they are part of.
    #[track_caller]
    pub(crate) fn take(&mut self, bytes: usize) -> Vec<u8> {
        while self.buffer.len() - self.used < bytes {
            assert!(!self.ended(), "the connection ended inside a reply");
        }
        self.used += bytes;
        self.buffer[self.used - bytes..self.used].to_vec()
    }

    /// Tells whether the connection ends before so many more bytes have come, in the middle of a reply or not.
    #[track_caller]
    pub(crate) fn ends_before(&mut self, bytes: usize) -> bool {
        while self.buffer.len() - self.used < bytes {
            if self.ended() {
                return true;
            }
        }
        false
    }

    /// Panics unless the other side ends the connection without another byte.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert!(
            rest.is_empty(),
            "the connection should just end, got {}",
            show(&rest)
        );
    }

    /// Says that nothing more will be sent; replies can still be read.
    pub(crate) fn finish_sending(&mut self) {
        let _ = match &mut self.stream {
            ClientStream::Tcp(s) => s.shutdown(Shutdown::Write),
            ClientStream::Unix(s) => s.shutdown(Shutdown::Write),
            ClientStream::Tls(s) => {
                s.conn.send_close_notify();
                s.flush()
            }
        };
    }

    /// Ends the connection by a reset instead of an orderly close.
    pub(crate) fn abort(self) {
        let socket = match &self.stream {
            ClientStream::Tcp(s) => socket2::SockRef::from(s),
            ClientStream::Tls(s) => socket2::SockRef::from(&s.sock),
            ClientStream::Unix(_) => return,
        };
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("SO_LINGER can be set");
    }

    /// Sets how long this client waits for a reply before it panics.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Makes the kernel hold few unread bytes for this client, so that a slow reader is soon felt at the other end.
    pub(crate) fn shrink_receive_buffer(&mut self, bytes: usize) {
        let socket = match &self.stream {
            ClientStream::Tcp(s) => socket2::SockRef::from(s),
            ClientStream::Tls(s) => socket2::SockRef::from(&s.sock),
            ClientStream::Unix(_) => return,
        };
        socket
            .set_recv_buffer_size(bytes)
            .expect("SO_RCVBUF can be set");
    }

    #[track_caller]
    fn next(&mut self) -> Option<(Value, Vec<u8>)> {
        loop {
            let wanted = match Value::parse(&self.buffer[self.used..]) {
                Ok((value, length)) => {
                    let bytes = self.buffer[self.used..self.used + length].to_vec();
                    self.used += length;
                    return Some((value, bytes));
                }
                Err(Unparsed::NeedAtLeast(n)) => n,
                Err(Unparsed::NotResp(text)) => panic!("not RESP: {text}"),
            };
            while self.buffer.len() - self.used < wanted {
                if self.ended() {
                    let cut = &self.buffer[self.used..];
                    assert!(
                        cut.is_empty(),
                        "the connection ended inside a reply: {}",
                        show(cut)
                    );
                    return None;
                }
            }
        }
    }

    /// Reads once; true at the end of the connection, in order or by reset.
    #[track_caller]
    fn ended(&mut self) -> bool {
        match self.read_some(self.patience) {
            Ok(n) => n == 0,
            Err(e) if is_timeout(&e) => panic!("nothing came within {:?}", self.patience),
            Err(_) => true,
        }
    }

    fn read_some(&mut self, wait: Duration) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
        }
        self.stream.set_read_timeout(wait)?;
        // On the stack, so that thousands of idle clients cost the test little.
        let mut chunk = [0; 16 * 1024];
        let count = uninterrupted(|| match &mut self.stream {
            ClientStream::Tcp(s) => s.read(&mut chunk),
            ClientStream::Unix(s) => s.read(&mut chunk),
            ClientStream::Tls(s) => s.read(&mut chunk),
        })?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

impl ClientStream {
    fn set_read_timeout(&self, wait: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_read_timeout(Some(wait)),
            Self::Unix(s) => s.set_read_timeout(Some(wait)),
            Self::Tls(s) => s.sock.set_read_timeout(Some(wait)),
        }
    }

    fn set_write_timeout(&self, wait: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(s) => s.set_write_timeout(Some(wait)),
            Self::Unix(s) => s.set_write_timeout(Some(wait)),
            Self::Tls(s) => s.sock.set_write_timeout(Some(wait)),
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
