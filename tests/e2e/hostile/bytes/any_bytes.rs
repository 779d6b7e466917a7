//! Any bytes that a server may send: a reply goes to whom it is due, or the connection ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{Client, Respool, Value, encode, uninterrupted};

/// A server that answers the handshake, gathers what else it is asked, and writes what the test tells it to.
struct PuppetServer {
    address: String,
    orders: Sender<PuppetOrder>,
    asked: Receiver<String>,
}

/// Says what is to be written on the connection on which it was asked last, in pieces of so many bytes.
struct PuppetOrder {
    bytes: Vec<u8>,
    piece: usize,
}

impl PuppetServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (orders, to_write) = channel::<PuppetOrder>();
        let (ask, asked) = channel();
        let to_write = std::sync::Arc::new(std::sync::Mutex::new(to_write));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (ask, to_write) = (ask.clone(), std::sync::Arc::clone(&to_write));
                std::thread::spawn(move || serve(stream, &ask, &to_write));
            }
        });
        Self {
            address,
            orders,
            asked,
        }
    }

    /// Waits until it was asked for `count` values. Returns how many questions of respool's own stand before them, each of
    /// which is due a frame too.
    fn until_asked(&self, count: usize) -> usize {
        let (mut own, mut left) = (0, count);
        while left > 0 {
            let asked = self.asked.recv_timeout(Duration::from_secs(60));
            match asked.expect("what clients ask arrives").as_str() {
                "get" => left -= 1,
                _ => own += 1,
            }
        }
        own
    }
}

fn serve(
    mut stream: TcpStream,
    ask: &Sender<String>,
    to_write: &std::sync::Mutex<Receiver<PuppetOrder>>,
) {
    let wait = Some(Duration::from_millis(1));
    stream.set_read_timeout(wait).expect("a socket takes it");
    stream.set_nodelay(true).expect("a socket takes it");
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    let mut has_asked = false;
    loop {
        while let Ok((request, length)) = Value::parse(&buffer) {
            buffer.drain(..length);
            let word = request.items()[0].text().to_lowercase();
            has_asked |= matches!(word.as_str(), "get" | "multi");
            if has_asked {
                // Answered by what the test says alone, in the order of what was asked.
                if !matches!(word.as_str(), "multi" | "exec") {
                    let _ = ask.send(word);
                }
                continue;
            }
            let answer = match word.as_str() {
                "hello" => {
                    "*8\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:7\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
                }
                "command" => "*0\r\n",
                "info" => "$0\r\n\r\n",
                "ping" => "+PONG\r\n",
                "client" if request.items()[1].text().eq_ignore_ascii_case("id") => ":7\r\n",
                _ => "+OK\r\n",
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        let take = || to_write.try_lock().ok()?.try_recv().ok();
        if has_asked && let Some(order) = take() {
            for piece in order.bytes.chunks(order.piece) {
                if stream.write_all(piece).is_err() {
                    return;
                }
            }
            // Nothing more comes: whoever is still due something loses the connection.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            stream.set_read_timeout(None).expect("a socket takes it");
            while matches!(uninterrupted(|| stream.read(&mut chunk)), Ok(read) if read > 0) {}
            return;
        }
        match uninterrupted(|| stream.read(&mut chunk)) {
            Ok(0) => return,
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return,
        }
    }
}

/// Tells where the first frame of `bytes` ends, by the letter of RESP, if one is whole.
fn frame_end(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0, 1usize);
    while left > 0 {
        left -= 1;
        let line = bytes.get(at..)?.windows(2).position(|two| two == b"\r\n")? + at;
        let (kind, text) = (*bytes.get(at)?, bytes.get(at + 1..line)?);
        at = line + 2;
        let number = || -> Option<i64> {
            let text = std::str::from_utf8(text).ok()?;
            let number: i64 = text.parse().ok()?;
            (number.to_string() == text).then_some(number)
        };
        match kind {
            b'+' | b'-' | b':' => {}
            b'$' => match number()? {
                -1 => {}
                length => {
                    let end = at + usize::try_from(length).ok()?;
                    if bytes.get(end..end + 2)? != b"\r\n" {
                        return None;
                    }
                    at = end + 2;
                }
            },
            b'*' => match number()? {
                -1 => {}
                count => left += usize::try_from(count).ok()?,
            },
            _ => return None,
        }
    }
    Some(at)
}

/// Makes mostly frames, some of them cut, spoiled or with line ends of their own.
fn replies() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            &b"$3\r\nabc\r\n"[..], b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n",
            b"*2\r\n$1\r\na\r\n:2\r\n", b"+QUEUED\r\n", b"-ERR a\nb\rc\r\n", b"$4\r\n\r\n\r\n\r\n",
            b"-EXECABORT no\r\n", b"-ERR EXEC without MULTI\r\n", b"*0\r\n",
        ])
        .prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(prop::sample::select(b"+-:$*123\r\nab".to_vec()), 1..12),
        1 => prop::sample::select(vec![&b"\r"[..], b"\n", b"$2\r\nabcd", b"*1\rX", b"$100\r\n", b"+"])
            .prop_map(<[u8]>::to_vec),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Makes what each of the clients asks for: so many values one behind the other, or a block around so many.
fn asks() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((1usize..4, prop::bool::weighted(0.3)), 1..5)
}

/// Tells the frames due to each client by the order in which they asked, `own` of respool's own before each; what follows a block
/// that has not ended is nobody's.
fn due(asks: &[(usize, bool)], own: &[usize], mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut open = true;
    let give = |(&(count, is_block), &before): (&(usize, bool), &usize)| {
        for _ in 0..before {
            match frame_end(bytes) {
                Some(end) => bytes = &bytes[end..],
                None => open = false,
            }
        }
        let mut own = Vec::new();
        let frames = count + if is_block { 2 } else { 0 };
        for number in 0..frames {
            let Some(end) = frame_end(bytes).filter(|_| open) else {
                // A frame that has begun may be passed on in part.
                own.extend_from_slice(if open { bytes } else { b"" });
                open = false;
                break;
            };
            let frame = &bytes[..end];
            own.extend_from_slice(frame);
            bytes = &bytes[end..];
            let is_over = frame.starts_with(b"*")
                || frame.starts_with(b"-EXECABORT ")
                || frame == b"-ERR EXEC without MULTI\r\n";
            if is_block && number + 1 == frames && !is_over {
                open = false;
            }
        }
        own
    };
    asks.iter().zip(own).map(give).collect()
}

#[test]
fn a_reply_goes_to_whom_it_is_due_or_the_connection_ends() {
    let puppet = PuppetServer::start();
    let start = || {
        Respool::before(&puppet.address)
            .top("workers = 1")
            .upstream("max_connections = 4\nshared_connections = 1\nreconnect = { initial = \"1ms\", max = \"1ms\" }")
            .start()
    };
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let respool = std::cell::RefCell::new(start());
    let cases = (asks(), replies(), 1usize..40);
    runner
        .run(&cases, |(asks, bytes, piece)| {
            if asks.iter().any(|ask| ask.1) {
                // Blocks of a user that have not ended share no connection again.
                *respool.borrow_mut() = start();
            }
            let respool = respool.borrow();
            // Questions of respool's own that nobody answered any more.
            puppet.asked.try_iter().for_each(drop);
            let mut clients: Vec<Client> = Vec::new();
            let mut own = Vec::new();
            for &(count, is_block) in &asks {
                let get = encode(&["GET", "k"]).repeat(count);
                let request = match is_block {
                    false => get,
                    true => [encode(&["MULTI"]), get, encode(&["EXEC"])].concat(),
                };
                let mut client = respool.client();
                client.send(request);
                own.push(puppet.until_asked(count));
                clients.push(client);
            }
            let expected = due(&asks, &own, &bytes);
            let order = PuppetOrder { bytes, piece };
            puppet.orders.send(order).expect("the server is there");
            for (number, client) in clients.iter_mut().enumerate() {
                client.finish_sending();
                let got = client.read_to_end();
                prop_assert!(
                    expected[number].starts_with(&got),
                    "client {number} got {:?}, due was {:?}",
                    String::from_utf8_lossy(&got),
                    String::from_utf8_lossy(&expected[number])
                );
            }
            Ok(())
        })
        .expect("what each client gets is its own");
}
