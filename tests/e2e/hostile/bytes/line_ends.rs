//! Requests that not every server takes.

use super::{busy_script, look_on, on_one_connection, others, until_busy};
use crate::harness::{Redis, Respool, Value, encode};

/// Is what Valkey answers to a line or an argument that does not end with CRLF, and closes.
const NO_LINE_END: &str = "ERR Protocol error: invalid CRLF in request";

/// Lists requests that some of the servers respool stands before close their connection for.
const MALFORMED: &[(&[u8], &str)] = &[
    (b"*1\r\n$4\r\nPINGxx", NO_LINE_END),
    (b"*1\r\n$4\r\nPING\n\n", NO_LINE_END),
    (b"*1\r\n$4\r\nPING\rx", NO_LINE_END),
    (b"*1\r\n$4\r\nPINGx\n", NO_LINE_END),
    (b"*1\r\n$4\r\nPING\n\r", NO_LINE_END),
    (b"*2\r\n$4\r\nECHOxx$1\r\na\r\n", NO_LINE_END),
    (b"*2\r\n$4\r\nECHO\r\n$1\r\naxx", NO_LINE_END),
    (b"*1\rX$4\r\nPING\r\n", NO_LINE_END),
    (b"*1\r\n$4\rXPING\r\n", NO_LINE_END),
    (b"*0\rX", NO_LINE_END),
    (b"*-1\rX", NO_LINE_END),
    (
        b"*\x001\r\n$4\r\nPING\r\n",
        "ERR Protocol error: invalid multibulk length",
    ),
    (
        b"*1\r\n\x00\r\n",
        "ERR Protocol error: expected '$', got '\0'",
    ),
];

#[test]
fn what_any_server_would_close_for_is_never_forwarded() {
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    for &(bytes, text) in MALFORMED {
        let mut client = respool.client();
        let ended = look_on(&mut others, || client.send(bytes));
        assert_eq!(ended, (0, 0), "{bytes:?}");
        assert_eq!(client.reply(), Value::error(text), "{bytes:?}");
        client.expect_end();
    }
    // Within a block, nothing of which has run.
    let mut client = respool.client();
    let start = [encode(&["MULTI"]), encode(&["SET", "a", "1"])].concat();
    let ended = look_on(&mut others, || {
        client.send([&start[..], b"*1\r\n$4\r\nEXECxx"].concat());
    });
    assert_eq!(ended, (0, 0));
    client.read_to_end();
    assert_eq!(redis.cmd(&["EXISTS", "a"]), Value::Int(0));
}

#[test]
fn what_any_server_would_close_for_is_told_however_it_is_cut() {
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    for &(bytes, text) in MALFORMED {
        let mut client = respool.client();
        for byte in bytes {
            // The end is told with the byte that is wrong.
            if client.try_send([*byte]).is_err() {
                break;
            }
        }
        assert_eq!(client.reply(), Value::error(text), "{bytes:?}");
        client.expect_end();
    }
}

#[test]
fn a_request_too_large_to_share_ends_with_crlf_too() {
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    for cut in [0, 1] {
        let mut client = respool.client();
        let mut bytes = b"*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$300000\r\n".to_vec();
        bytes.resize(bytes.len() + 300_000, b'x');
        let rest = if cut == 0 { &b"xx"[..] } else { b"x" };
        bytes.extend_from_slice(if cut == 0 { b"" } else { b"\r" });
        let ended = look_on(&mut others, || {
            client.send(&bytes);
            client.send(rest);
        });
        assert_eq!(ended, (0, 0));
        assert_eq!(client.reply(), Value::error(NO_LINE_END));
        client.expect_end();
        assert_eq!(redis.cmd(&["EXISTS", "large"]), Value::Int(0));
    }
}

#[test]
fn a_line_end_is_demanded_before_authentication() {
    let redis = Redis::start(&[]);
    let respool = Respool::with(&redis)
        .section(
            "[auth]\nmode = \"proxy\"\n[[auth.user]]\nname = \"default\"\npassword = \"secret\"",
        )
        .start();
    let mut client = respool.client();
    client.send(b"*1\r\n$4\r\nPINGxx");
    assert_eq!(client.reply(), Value::error(NO_LINE_END));
    client.expect_end();
}

#[test]
fn others_on_the_connection_keep_what_they_asked_for() {
    let redis = Redis::start(&[]);
    let respool = on_one_connection(&redis);
    let mut others = others(&respool);
    let (mut slow, mut hostile) = (respool.client(), respool.client());
    let ended = look_on(&mut others, || {
        slow.send(busy_script());
        until_busy(&redis);
        hostile.send(b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPINGxx");
    });
    assert_eq!(ended, (0, 0));
    assert_eq!(slow.reply(), Value::Int(1));
}
