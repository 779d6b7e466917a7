//! Frames that nobody asked for, blocks that end otherwise than they should, requests that servers read differently.

mod any_bytes;
mod blocks;
mod fence;
mod line_ends;
mod surplus;

use crate::harness::{Client, Redis, Respool, Value, encode, eventually};

/// This number of other clients look on.
const OTHERS: usize = 30;

/// Starts a respool whose plain traffic shares one connection, so that whatever one client does to it is met by the others.
fn on_one_connection(redis: &Redis) -> Respool {
    Respool::with(redis)
        .top("workers = 1")
        .upstream("max_connections = 6\nshared_connections = 1")
        .start()
}

/// Connects clients that have each a key of their own, with its name as its value.
fn others(respool: &Respool) -> Vec<Client> {
    (0..OTHERS)
        .map(|number| {
            let mut client = respool.client();
            let key = format!("own:{number}");
            assert_eq!(client.cmd(&["SET", &key, &key]), Value::ok());
            client
        })
        .collect()
}

/// Lets each ask for its own key while `hostile` has something under way. Returns how many got something else, and how many lost
/// their connection.
fn look_on(others: &mut [Client], hostile: impl FnOnce()) -> (usize, usize) {
    hostile();
    for (number, client) in others.iter_mut().enumerate() {
        client.send(encode(&["GET", &format!("own:{number}")]));
    }
    let (mut wrong, mut lost) = (0, 0);
    for (number, client) in others.iter_mut().enumerate() {
        match client.try_reply() {
            Some(reply) if reply == Value::bulk(format!("own:{number}")) => {}
            Some(_) => wrong += 1,
            None => lost += 1,
        }
    }
    (wrong, lost)
}

/// Makes a script that keeps the server for a while (some 100 ms), so that what is sent behind it is answered together.
fn busy_script() -> Vec<u8> {
    let script = "local sum = 0 for i = 1, 10000000 do sum = sum + i end return 1";
    encode(&["EVAL", script, "0"])
}

/// Waits until the server has somebody's command under way.
fn until_busy(redis: &Redis) {
    eventually(
        || {
            let mut probe = redis.client();
            probe.send(encode(&["PING"]));
            probe
                .reply_within(std::time::Duration::from_millis(20))
                .is_none()
        },
        "the server runs the script",
    );
}
