//! Data that looks like the server's confirmations, on a lent connection that carries messages: it says nothing of whether the client
//! is subscribed.

use crate::harness::{Client, Redis, Respool, encode, encode_all, show};

const ON: &str = "return {'subscribe', 'c', 1}";
const OFF: &str = "return {'unsubscribe', 'd', 0}";

/// Tells all that is answered to `bytes`, sent at once, and then to what shows whether the client is subscribed.
fn answered(mut client: Client, protocol: &str, bytes: &[u8]) -> String {
    client.cmd(&["HELLO", protocol]);
    client.send(bytes);
    client.send(encode_all(&[
        &["CLIENT", "GETNAME"],
        &["ECHO", "x"],
        &["QUIT"],
    ]));
    show(&client.read_to_end())
}

#[test]
fn what_looks_like_a_confirmation_changes_nothing() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    redis.cmd(&["MSET", "fa", "subscribe", "fb", "c"]);
    let begun = encode_all(&[&["MULTI"], &["SUBSCRIBE", "c"], &["EXEC"]]);
    let begins: [&[&str]; 2] = [&["UNSUBSCRIBE", "c"], &["ECHO", "subscribed"]];
    let cases: [&[&[&str]]; 12] = [
        &[&["EVAL", ON, "0"]],
        &[
            &["MULTI"],
            &["GET", "fa"],
            &["GET", "fb"],
            &["STRLEN", "fb"],
            &["EXEC"],
        ],
        &[&["SUBSCRIBE", "d"], &["EVAL", OFF, "0"]],
        &[
            &["SUBSCRIBE", "d"],
            &["UNSUBSCRIBE", "d", "c"],
            &["EVAL", ON, "0"],
        ],
        &[&["EVAL", ON, "0"], &["SUBSCRIBE", "d"], &["UNSUBSCRIBE"]],
        &[
            &["MULTI"],
            &["EVAL", ON, "0"],
            &["UNSUBSCRIBE"],
            &["EVAL", ON, "0"],
            &["EXEC"],
        ],
        &[
            &["MULTI"],
            &["EVAL", OFF, "0"],
            &["SUBSCRIBE", "d"],
            &["EVAL", OFF, "0"],
            &["EXEC"],
        ],
        &[
            &["MULTI"],
            &["PSUBSCRIBE", "p*"],
            &["SUBSCRIBE", "d", "e"],
            &["UNSUBSCRIBE"],
            &["EVAL", "return {'punsubscribe', 'p*', 0}", "0"],
            &["EXEC"],
        ],
        &[
            &["MULTI"],
            &["SUBSCRIBE", "d"],
            &["DISCARD"],
            &["EVAL", ON, "0"],
        ],
        &[
            &["MULTI"],
            &["SUBSCRIBE"],
            &["EVAL", ON, "0"],
            &["EXEC"],
            &["EVAL", ON, "0"],
        ],
        &[
            &["UNSUBSCRIBE", "c"],
            &["MULTI"],
            &["UNSUBSCRIBE"],
            &["EVAL", ON, "0"],
            &["EXEC"],
        ],
        // Redis 8.2 writes the line ends as they are.
        &[&[
            "EVAL",
            r"error('a\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1')",
            "0",
        ]],
    ];
    for protocol in ["2", "3"] {
        for begin in begins {
            for lines in cases {
                let bytes = [begun.clone(), encode(begin), encode_all(lines)].concat();
                let direct = answered(redis.client(), protocol, &bytes);
                let through = answered(respool.client(), protocol, &bytes);
                assert_eq!(through, direct, "RESP{protocol}: {begin:?} {lines:?}");
            }
        }
    }
}

#[test]
fn what_looks_like_one_in_the_exec_that_subscribes_changes_nothing() {
    let redis = Redis::start(&[]);
    let respool = Respool::start(&redis);
    let cases: [&[&[&str]]; 4] = [
        &[&["SUBSCRIBE", "d"], &["EVAL", OFF, "0"]],
        &[
            &["EVAL", ON, "0"],
            &["UNSUBSCRIBE", "d"],
            &["EVAL", ON, "0"],
        ],
        &[
            &["SUBSCRIBE", "d", "e"],
            &["UNSUBSCRIBE"],
            &["EVAL", ON, "0"],
        ],
        &[
            &["PSUBSCRIBE", "d", "e"],
            &["UNSUBSCRIBE"],
            &["EVAL", OFF, "0"],
        ],
    ];
    for protocol in ["2", "3"] {
        for lines in cases {
            let bytes = [encode(&["MULTI"]), encode_all(lines), encode(&["EXEC"])].concat();
            let direct = answered(redis.client(), protocol, &bytes);
            let through = answered(respool.client(), protocol, &bytes);
            assert_eq!(through, direct, "RESP{protocol}: {lines:?}");
        }
    }
}
