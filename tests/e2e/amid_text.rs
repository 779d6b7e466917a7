//! Text that a script has written amid messages (Redis 8.2 writes the line ends of its error as they are): whatever it announces, what ends
//! its client, or is answered by respool, comes in its place; and nobody waits for a place for ever.

use crate::amid_messages::amid_messages;
use crate::harness::{Redis, Respool, Value, encode, eventually, show};

/// Starts a respool with one connection to lend, so that who comes second has that of who came first if anybody has.
fn with_one_pin(redis: &Redis) -> Respool {
    Respool::lending_one(redis, "5s")
        .upstream("reply_timeout = \"500ms\"")
        .start()
}

/// Checks that the one connection that can be lent is free.
fn is_lent_on(respool: &Respool) {
    let mut client = respool.client();
    let watches = || client.cmd(&["WATCH", "k"]) == Value::ok();
    eventually(watches, "a connection is lent");
    assert_eq!(client.cmd(&["UNWATCH"]), Value::ok());
}

#[test]
fn what_a_script_announces_swallows_no_place() {
    let redis = Redis::start(&[]);
    let respool = with_one_pin(&redis);
    let ends = [
        encode(&["QUIT"]),
        [encode(&["RESET"]), encode(&["QUIT"])].concat(),
        b"*1\r\n$abc\r\n".to_vec(),
        b"ECHO \"a\r\n".to_vec(),
        [
            encode(&["CLIENT", "GETNAME"]),
            encode(&["ECHO", "y"]),
            encode(&["CLIENT", "GETNAME"]),
            encode(&["QUIT"]),
        ]
        .concat(),
    ];
    for text in [
        r"a\r\n$5000\r\nb",
        r"a\r\n*9\r\n+",
        r"a\r\n$3\r\nb",
        r"a\r\nb",
        r"a\r\n-ERR unknown command 'respool:",
    ] {
        let script = format!("error(\"{text}\")");
        let asked = [encode(&["EVAL", &script, "0"]), encode(&["ECHO", "x"])].concat();
        for protocol in ["2", "3"] {
            for end in &ends {
                let bytes = [&asked[..], end].concat();
                let [direct, through] = [redis.client(), respool.client()].map(|client| {
                    let mut client = amid_messages(client, protocol);
                    client.send(&bytes);
                    show(&client.read_to_end())
                });
                assert_eq!(through, direct, "RESP{protocol}: {}", show(&bytes));
                is_lent_on(&respool);
            }
        }
    }
}

#[test]
fn a_place_is_not_waited_for_for_ever() {
    let redis = Redis::start(&[]);
    let respool = with_one_pin(&redis);
    for end in [encode(&["QUIT"]), b"*1\r\n$abc\r\n".to_vec()] {
        let mut client = amid_messages(respool.client(), "2");
        redis.pause();
        client.send([encode(&["ECHO", "x"]), end].concat());
        assert_eq!(show(&client.read_to_end()), "");
        redis.resume();
        is_lent_on(&respool);
    }
}
