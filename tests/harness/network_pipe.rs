//! A network between respool and its server that can be cut, or swallow what it is given.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{lock, uninterrupted};

/// Passes bytes on between whoever connects to it and a server, until it is dropped.
pub(crate) struct NetworkPipe {
    address: String,
    state: Arc<PipeState>,
}

#[derive(Default)]
struct PipeState {
    /// Connections with a number below this pass nothing on any more.
    frozen_below: AtomicU64,
    /// Connections with a number below this are over.
    over_below: AtomicU64,
    next: AtomicU64,
    /// Is true when an end is passed on as it is: the other direction goes on.
    ends_apart: AtomicBool,
    /// The address to which later connections lead.
    target: Mutex<String>,
    /// Holds the ends towards respool, to be reset.
    ends: Mutex<Vec<TcpStream>>,
}

impl NetworkPipe {
    /// Opens a pipe to the server at `target`.
    #[track_caller]
    pub(crate) fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        listener
            .set_nonblocking(true)
            .expect("a socket takes options");
        let state = Arc::new(PipeState::default());
        *lock(&state.target) = target;
        let of_listener = Arc::clone(&state);
        std::thread::spawn(move || of_listener.listen(&listener));
        Self { address, state }
    }

    /// Tells the address where it listens.
    pub(crate) fn addr(&self) -> &str {
        &self.address
    }

    /// Passes on an end from one side to the other from now on, which ends the connection when it ends itself.
    pub(crate) fn end_apart(&self) {
        self.state.ends_apart.store(true, Ordering::SeqCst);
    }

    /// Leads later connections to the server at `target`, as a balancer does.
    pub(crate) fn turn_to(&self, target: String) {
        *lock(&self.state.target) = target;
    }

    /// Lets the connections there are stay open and pass nothing on from now on; later ones do.
    pub(crate) fn freeze(&self) {
        let next = self.state.next.load(Ordering::SeqCst);
        self.state.frozen_below.store(next, Ordering::SeqCst);
    }

    /// Resets the connections there are.
    pub(crate) fn reset(&self) {
        let mut ends = lock(&self.state.ends);
        for end in ends.drain(..) {
            let socket = socket2::SockRef::from(&end);
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
        let next = self.state.next.load(Ordering::SeqCst);
        self.state.over_below.store(next, Ordering::SeqCst);
    }
}

impl Drop for NetworkPipe {
    fn drop(&mut self) {
        self.state.over_below.store(u64::MAX, Ordering::SeqCst);
    }
}

impl PipeState {
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        while self.over_below.load(Ordering::SeqCst) < u64::MAX {
            let Ok((near, _)) = listener.accept() else {
                std::thread::park_timeout(Duration::from_millis(2));
                continue;
            };
            let target = lock(&self.target).clone();
            let Ok(far) = TcpStream::connect(target) else {
                continue;
            };
            let copy = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
            for stream in [&near, &far] {
                stream
                    .set_nonblocking(false)
                    .expect("a socket takes options");
                stream.set_nodelay(true).expect("a socket takes options");
                let wait = Some(Duration::from_millis(5));
                stream
                    .set_read_timeout(wait)
                    .expect("a socket takes options");
            }
            // At one with its number: a reset concerns all of it or nothing.
            let mut ends = lock(&self.ends);
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            ends.push(copy(&near));
            drop(ends);
            for (from, to) in [(copy(&near), copy(&far)), (far, near)] {
                let state = Arc::clone(self);
                std::thread::spawn(move || state.pass_on(number, from, to));
            }
        }
    }

    fn pass_on(&self, number: u64, mut from: TcpStream, mut to: TcpStream) {
        let mut chunk = [0; 16 * 1024];
        while number >= self.over_below.load(Ordering::SeqCst) {
            match uninterrupted(|| from.read(&mut chunk)) {
                Ok(0) if self.ends_apart.load(Ordering::SeqCst) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(0) => break,
                Ok(_) if number < self.frozen_below.load(Ordering::SeqCst) => {}
                Ok(read) if to.write_all(&chunk[..read]).is_err() => break,
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => break,
            }
        }
        // What is over otherwise is reset as its last handle goes.
        if number >= self.over_below.load(Ordering::SeqCst) {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        }
    }
}
