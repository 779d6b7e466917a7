//! A server that does what a real one will not do on demand: answers, or ends the connection, as the test says.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::value::Value;
use super::{lock, uninterrupted};

/// Says what the server does with a command.
pub(crate) enum ScriptedAct {
    /// Does what a server does: the handshake, PING, ECHO, an empty COMMAND, an error to what is asked to have one; `+OK` to all else.
    Usual,
    /// Answers with this text.
    Say(&'static str),
    /// Answers this where nothing has arrived with the command, and nothing where something has.
    SayAlone(&'static str),
    /// Answers this once the flag is up.
    SayWhen(Arc<AtomicBool>, &'static str),
    /// Answers this and ends the connection.
    SayAndClose(&'static str),
}

type Script = dyn FnMut(&[String]) -> ScriptedAct + Send;

/// Serves until it is dropped.
pub(crate) struct ScriptedServer {
    address: String,
    state: Arc<ScriptedState>,
}

struct ScriptedState {
    script: Mutex<Box<Script>>,
    connections: AtomicUsize,
    is_replica: AtomicBool,
    is_over: AtomicBool,
}

impl ScriptedServer {
    /// Starts it; `script` decides about each command of each connection, its words in lower case.
    #[track_caller]
    pub(crate) fn start(script: impl FnMut(&[String]) -> ScriptedAct + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(ScriptedState {
            script: Mutex::new(Box::new(script)),
            connections: AtomicUsize::new(0),
            is_replica: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        listener
            .set_nonblocking(true)
            .expect("a socket takes options");
        let of_listener = Arc::clone(&state);
        std::thread::spawn(move || of_listener.listen(&listener));
        Self { address, state }
    }

    /// Tells the address where it listens.
    pub(crate) fn addr(&self) -> &str {
        &self.address
    }

    /// Tells how many connections it has taken.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Sets the role that its HELLO tells from now on.
    pub(crate) fn call_itself_replica(&self, is_replica: bool) {
        self.state.is_replica.store(is_replica, Ordering::SeqCst);
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
    }
}

impl ScriptedState {
    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_over.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    self.connections.fetch_add(1, Ordering::SeqCst);
                    let state = Arc::clone(self);
                    std::thread::spawn(move || state.serve(stream));
                }
                Err(_) => std::thread::park_timeout(Duration::from_millis(2)),
            }
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        stream
            .set_nonblocking(false)
            .expect("a socket takes options");
        let wait = Some(Duration::from_millis(20));
        stream
            .set_read_timeout(wait)
            .expect("a socket takes options");
        let (mut buffer, mut chunk) = (Vec::new(), [0; 16 * 1024]);
        while !self.is_over.load(Ordering::SeqCst) {
            let mut is_first = true;
            while let Ok((request, length)) = Value::parse(&buffer) {
                buffer.drain(..length);
                let is_alone = std::mem::take(&mut is_first) && buffer.is_empty();
                let Value::Array(words) = request else { return };
                let words: Vec<String> = words.iter().map(|w| w.text().to_lowercase()).collect();
                let act = (lock(&self.script))(&words);
                let (answer, is_last) = match act {
                    ScriptedAct::Usual => (self.usual(&words), false),
                    ScriptedAct::Say(text) => (text.to_owned(), false),
                    ScriptedAct::SayAlone(text) if is_alone => (text.to_owned(), false),
                    ScriptedAct::SayAlone(_) => (String::new(), false),
                    ScriptedAct::SayWhen(flag, text) => {
                        while !flag.load(Ordering::SeqCst) && !self.is_over.load(Ordering::SeqCst) {
                            std::thread::park_timeout(Duration::from_millis(2));
                        }
                        (text.to_owned(), false)
                    }
                    ScriptedAct::SayAndClose(text) => (text.to_owned(), true),
                };
                if stream.write_all(answer.as_bytes()).is_err() || is_last {
                    return;
                }
            }
            match uninterrupted(|| stream.read(&mut chunk)) {
                Ok(0) => return,
                Ok(read) => buffer.extend_from_slice(&chunk[..read]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }

    fn usual(&self, words: &[String]) -> String {
        let role = if self.is_replica.load(Ordering::SeqCst) {
            "replica"
        } else {
            "master"
        };
        let fields = |head: &str| {
            format!(
                "{head}\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$2\r\nid\r\n:7\r\n$4\r\nrole\r\n${}\r\n{role}\r\n",
                role.len()
            )
        };
        match words
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            ["hello", "2", option] => {
                format!("-ERR Syntax error in HELLO option '{option}'\r\n")
            }
            ["hello", "3", ..] => fields("%4"),
            ["hello", ..] => fields("*8"),
            ["client", "id"] => ":7\r\n".into(),
            ["ping"] => "+PONG\r\n".into(),
            ["command"] => "*0\r\n".into(),
            ["reset"] => "+RESET\r\n".into(),
            ["info", ..] => "$0\r\n\r\n".into(),
            ["ping" | "echo", text] => format!("${}\r\n{text}\r\n", text.len()),
            _ => "+OK\r\n".into(),
        }
    }
}
