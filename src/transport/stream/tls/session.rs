//! One TLS session without its socket: records in, plain bytes out, and the other way round.
//!
//! Uses rustls' unbuffered interface: records are decrypted in the buffer they were read into, so that an idle session
//! holds no buffer at all.

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error, HandshakeKind, SupportedCipherSuite};

/// Bounds a record with its head, as TLS 1.2 allows it.
pub(super) const RECORD: usize = 5 + 16 * 1024 + 2048;

/// Counts the plain bytes of one record.
const FRAGMENT: usize = 16 * 1024;

/// Bounds the bytes of records kept because they are not whole: a record, or a message of the handshake (64 KiB) in
/// several. Towards a client there are none of these once the handshake is over.
const MOST_INCOMPLETE: usize = 64 * 1024 + RECORD;

/// Bounds the plain bytes encrypted at once: a whole read of the other side, with what was carried before it.
pub(super) const MOST_PLAIN: usize = crate::transport::READ_SIZE + 16 * 1024;

/// Bounds what `MOST_PLAIN` becomes: each record of 16 KiB costs its head and tail, beside messages of TLS itself.
pub(super) const MOST_CIPHER: usize = MOST_PLAIN + 16 * 1024;

/// Tells whose part respool plays.
pub(super) enum SessionSide {
    /// It stands towards the server.
    Client(UnbufferedClientConnection),
    /// It stands towards a client.
    Server(UnbufferedServerConnection),
}

/// Holds a session: what is known of the records, and the bytes that wait on either side.
pub(super) struct TlsSession {
    side: SessionSide,
    /// Holds the start of a record that has not arrived whole.
    incoming: Vec<u8>,
    /// Holds what is decrypted and not taken yet.
    plain: ByteQueue,
    /// Holds what is encrypted and not sent yet.
    out: ByteQueue,
    is_closed: bool,
    /// Is true where nothing more will be sent: what comes is not looked at any more.
    has_said_goodbye: bool,
    /// Is true where an error has ended it: rustls is asked nothing any more.
    is_broken: bool,
    /// Records encrypted for what was to be sent.
    records: u64,
}

/// Holds bytes taken from the front; it holds no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    bytes: Vec<u8>,
    at: usize,
}

impl ByteQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn front(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn held_bytes(&self) -> usize {
        self.bytes.capacity()
    }

    /// Forgets all bytes and their memory.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes off the first `count` bytes, which are done with.
    pub(super) fn advance(&mut self, count: usize) {
        self.at += count;
        if self.at == self.bytes.len() {
            self.clear();
        }
    }
}

/// Tells what one step of rustls came to.
enum SessionStep {
    Again,
    Done,
    Closed,
    /// It encrypted so many bytes.
    Encrypted(usize),
}

impl TlsSession {
    pub(super) fn new(side: SessionSide) -> Self {
        Self {
            side,
            incoming: Vec::new(),
            plain: ByteQueue::default(),
            out: ByteQueue::default(),
            is_closed: false,
            has_said_goodbye: false,
            is_broken: false,
            records: 0,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.side {
            SessionSide::Client(connection) => connection,
            SessionSide::Server(connection) => connection,
        }
    }

    /// Tells whether nothing of the client's or server's own can be said yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Tells whether the other side has said that it sends no more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Tells whether the handshake was spared by an earlier one.
    pub(super) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Tells whether its keys have encrypted nearly as many records as they may. There is still time to finish what is
    /// under way; at the limit itself rustls ends the session.
    pub(super) fn is_worn_out(&self) -> bool {
        match self.state().negotiated_cipher_suite() {
            // A connection of 10,000 turns a second has 100 s for the last sixteenth of 2^24 records.
            Some(SupportedCipherSuite::Tls12(suite)) => {
                let limit = suite.common.confidentiality_limit;
                self.records >= limit - limit / 16
            }
            // TLS 1.3 changes its keys as it goes.
            _ => false,
        }
    }

    /// Returns the certificate of the other side.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.state().peer_certificates()?.first()
    }

    /// Returns what is to be sent.
    pub(super) fn out(&mut self) -> &mut ByteQueue {
        &mut self.out
    }

    /// Returns what was decrypted and not taken.
    pub(super) fn plain(&mut self) -> &mut ByteQueue {
        &mut self.plain
    }

    /// Returns the start of a record that has not arrived whole; [`TlsSession::feed`] wants it in front of what comes
    /// next.
    pub(super) fn incoming(&self) -> &[u8] {
        &self.incoming
    }

    /// Counts the memory that its records take, and what was in them.
    pub(super) fn held_bytes(&self) -> usize {
        self.incoming.capacity() + self.plain.held_bytes() + self.out.held_bytes()
    }

    /// Forgets all records: it is of no further use, and says so to nobody.
    pub(super) fn let_go(&mut self) {
        self.incoming = Vec::new();
        self.plain.clear();
        self.out.clear();
        self.is_broken = true;
    }

    /// Takes in records: what was [`TlsSession::incoming`], with what has arrived behind it. Plain bytes fill `into` from
    /// `filled` on, then [`TlsSession::plain`].
    ///
    /// # Errors
    /// The records are wrong; an alert that says so may be in [`TlsSession::out`]. Not after [`TlsSession::close`]: from then on
    /// they are dropped as they are.
    pub(super) fn feed(
        &mut self,
        records: &mut [u8],
        into: &mut [u8],
        filled: &mut usize,
    ) -> Result<(), Error> {
        let plain = &mut self.plain;
        let mut take = |bytes: &[u8]| {
            let room = into.len() - *filled;
            let fits = if plain.is_empty() {
                room.min(bytes.len())
            } else {
                0
            };
            into[*filled..*filled + fits].copy_from_slice(&bytes[..fits]);
            *filled += fits;
            plain.push(&bytes[fits..]);
        };
        if self.is_broken {
            return Err(Error::HandshakeNotComplete);
        }
        if self.has_said_goodbye {
            // What is wrong with them nobody could be told any more: rustls takes a second alert for a fault of its caller.
            self.incoming = Vec::new();
            return Ok(());
        }
        let mut used = 0;
        let result = loop {
            let rest = &mut records[used..];
            let (discard, step) = match &mut self.side {
                SessionSide::Client(connection) => step(
                    connection.process_tls_records(rest),
                    &mut self.out,
                    &mut take,
                ),
                SessionSide::Server(connection) => step(
                    connection.process_tls_records(rest),
                    &mut self.out,
                    &mut take,
                ),
            };
            used += discard;
            match step {
                Ok(SessionStep::Again) => {}
                Ok(SessionStep::Closed) => self.is_closed = true,
                Ok(SessionStep::Done | SessionStep::Encrypted(_)) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = result {
            self.collect_alert();
            return Err(error);
        }
        self.keep(&records[used..])
    }

    /// Keeps the start of a record that has not come whole.
    ///
    /// # Errors
    /// It is longer than a record can be by now: nothing more is fed.
    fn keep(&mut self, rest: &[u8]) -> Result<(), Error> {
        let is_open_client =
            matches!(&self.side, SessionSide::Server(session) if !session.is_handshaking());
        let most = if is_open_client {
            RECORD
        } else {
            MOST_INCOMPLETE
        };
        if rest.len() > most {
            self.is_broken = true;
            return Err(Error::General(
                "a message of TLS itself is too long".to_owned(),
            ));
        }
        if rest.is_empty() {
            self.incoming = Vec::new();
        } else {
            self.incoming.clear();
            self.incoming.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Goes on without new records: how a handshake begins.
    ///
    /// # Errors
    /// As [`TlsSession::feed`].
    pub(super) fn start(&mut self) -> Result<(), Error> {
        self.feed(&mut [], &mut [], &mut 0)
    }

    /// Encrypts `plain`, at most [`MOST_PLAIN`] bytes, into `cipher`, which has [`MOST_CIPHER`]. Returns how many bytes that
    /// became.
    ///
    /// # Errors
    /// The session has ended, or has been used for as long as its keys allow.
    pub(super) fn encrypt(&mut self, plain: &[u8], cipher: &mut [u8]) -> Result<usize, Error> {
        self.records += plain.len().div_ceil(FRAGMENT) as u64;
        self.write(&mut |state| match state.encrypt(plain, cipher) {
            Ok(length) => Ok(length),
            Err(EncryptError::InsufficientSize(_)) => {
                Err(Error::General("the buffer for records is too small".into()))
            }
            Err(EncryptError::EncryptExhausted) => Err(Error::EncryptError),
        })
    }

    /// Says that nothing more will be sent: what to send is in [`TlsSession::out`] then. What comes from here on is dropped.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.has_said_goodbye, true) {
            return;
        }
        let mut cipher = [0; 256];
        let closed = self.write(&mut |state| {
            // A session that cannot even say goodbye just ends.
            Ok(state.close(&mut cipher).unwrap_or(0))
        });
        if let Ok(length) = closed {
            self.out.push(&cipher[..length]);
        }
    }

    fn write(
        &mut self,
        act: &mut dyn FnMut(&mut dyn WritingState) -> Result<usize, Error>,
    ) -> Result<usize, Error> {
        if self.is_broken {
            return Err(Error::HandshakeNotComplete);
        }
        // What is left of the records must be shown again: rustls remembers places in them.
        let mut used = 0;
        loop {
            let rest = &mut self.incoming[used..];
            let (discard, step) = match &mut self.side {
                SessionSide::Client(connection) => {
                    writing_step(connection.process_tls_records(rest), &mut self.out, act)
                }
                SessionSide::Server(connection) => {
                    writing_step(connection.process_tls_records(rest), &mut self.out, act)
                }
            };
            used += discard;
            let step = step.inspect_err(|_| self.is_broken = true)?;
            let length = match step {
                SessionStep::Again => continue,
                SessionStep::Closed => {
                    self.is_closed = true;
                    continue;
                }
                SessionStep::Encrypted(length) => length,
                SessionStep::Done => return Err(Error::HandshakeNotComplete),
            };
            self.incoming.drain(..used);
            return Ok(length);
        }
    }

    /// Collects after an error the alert that tells the other side.
    fn collect_alert(&mut self) {
        self.is_broken = true;
        // Only as long as there is something: behind it rustls would read on, in records that are not there any more.
        while self.state().wants_write() {
            let (_, step) = match &mut self.side {
                SessionSide::Client(connection) => step(
                    connection.process_tls_records(&mut []),
                    &mut self.out,
                    &mut |_| {},
                ),
                SessionSide::Server(connection) => step(
                    connection.process_tls_records(&mut []),
                    &mut self.out,
                    &mut |_| {},
                ),
            };
            if step.is_err() {
                return;
            }
        }
    }
}

/// The one state of rustls in which plain bytes can be sent, whichever side it is on.
trait WritingState {
    fn encrypt(&mut self, plain: &[u8], cipher: &mut [u8]) -> Result<usize, EncryptError>;
    fn close(&mut self, cipher: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<Data> WritingState for rustls::unbuffered::WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plain: &[u8], cipher: &mut [u8]) -> Result<usize, EncryptError> {
        Self::encrypt(self, plain, cipher)
    }

    fn close(&mut self, cipher: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(cipher)
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut ByteQueue,
    take: &mut dyn FnMut(&[u8]),
) -> (usize, Result<SessionStep, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let step = state.and_then(|state| advance(state, out, take));
    (discard, step)
}

fn writing_step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut ByteQueue,
    act: &mut dyn FnMut(&mut dyn WritingState) -> Result<usize, Error>,
) -> (usize, Result<SessionStep, Error>) {
    let UnbufferedStatus { discard, state } = status;
    let step = state.and_then(|state| match state {
        ConnectionState::WriteTraffic(mut traffic) => act(&mut traffic).map(SessionStep::Encrypted),
        // All that had arrived was read before.
        other => advance(other, out, &mut |_| {}),
    });
    (discard, step)
}

fn advance<D>(
    state: ConnectionState<'_, '_, D>,
    out: &mut ByteQueue,
    take: &mut dyn FnMut(&[u8]),
) -> Result<SessionStep, Error> {
    match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                take(record?.payload);
            }
            Ok(SessionStep::Again)
        }
        ConnectionState::EncodeTlsData(mut message) => {
            let mut length = 0;
            if let Err(EncodeError::InsufficientSize(size)) = message.encode(&mut []) {
                length = size.required_size;
            }
            let mut record = vec![0; length];
            // It is as long as it said.
            let _ = message.encode(&mut record);
            out.push(&record);
            Ok(SessionStep::Again)
        }
        ConnectionState::TransmitTlsData(transmit) => {
            // Kept in order in `out`, and sent before anything behind it.
            transmit.done();
            Ok(SessionStep::Again)
        }
        ConnectionState::PeerClosed => Ok(SessionStep::Closed),
        // Never offered nor allowed: a command that is replayed would run twice.
        ConnectionState::ReadEarlyData(_) => Err(Error::General("early data".to_owned())),
        _ => Ok(SessionStep::Done),
    }
}

#[cfg(test)]
mod tests;
