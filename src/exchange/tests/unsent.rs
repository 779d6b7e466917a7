//! Courses that the model takes seldom or never: what comes back when a connection ends, and fences that are refused together.

use super::client::ModelClient;
use super::heard::Heard;
use crate::command::Delays;
use crate::exchange::{Ending, Exchange, RequestKind, Show};

const GET: &[u8] = b"*1\r\n$3\r\nGET\r\n";
const PLAIN: (RequestKind, Delays) = (RequestKind::Plain, Delays::NONE);

/// Hands on what is to be sent, and returns it as text.
fn sent(exchange: &mut Exchange<ModelClient>) -> String {
    let bytes = exchange.sendable().to_vec();
    exchange.wrote(bytes.len(), 1);
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_request_behind_one_of_the_same_moment_that_was_sent_comes_back() {
    let (mut exchange, heard) = (Exchange::begun(0, 0, rand::random), Heard::default());
    let client = ModelClient::default();
    exchange.request(&client, GET, 1, PLAIN, Show::Pass, 1);
    sent(&mut exchange);
    exchange.request(&client, GET, 1, PLAIN, Show::Pass, 1);
    assert_eq!(exchange.received(b"+first\r\n", 1, &heard), Ok(()));
    let ended = exchange.end(None, Ending::Lost);
    assert_eq!(ended.disconnected, 0);
    let unsent = client.0.unsent.borrow();
    assert_eq!(unsent.len(), 1);
    assert_eq!((&unsent[0].bytes[..], unsent[0].count), (GET, 1));
    assert_eq!(client.0.outstanding.get(), 0);
    assert_eq!(&client.0.bytes.borrow()[..], b"+first\r\n");
}

#[test]
fn a_request_whose_reply_is_said_instead_does_not_come_back() {
    let mut exchange = Exchange::begun(0, 0, rand::random);
    let [said, asked] = [ModelClient::default(), ModelClient::default()];
    let instead = Show::Replace(b"+instead\r\n"[..].into());
    exchange.request(&said, GET, 1, PLAIN, instead, 1);
    exchange.request(&asked, GET, 1, PLAIN, Show::Pass, 1);
    let ended = exchange.end(None, Ending::Lost);
    assert_eq!(ended.disconnected, 1);
    assert_eq!(said.0.ended.get(), Some(Ending::Lost));
    assert!(said.0.unsent.borrow().is_empty());
    assert_eq!(
        (asked.0.ended.get(), asked.0.unsent.borrow().len()),
        (None, 1)
    );
}

#[test]
fn two_scripts_whose_fences_are_refused_together_are_answered() {
    const BUSY: &str = "-BUSY a script runs\r\n";
    let (mut exchange, heard) = (Exchange::begun(0, 0, rand::random), Heard::default());
    let clients = [ModelClient::default(), ModelClient::default()];
    for client in &clients {
        let script = (RequestKind::Fenced, Delays::NONE);
        exchange.request(client, GET, 1, script, Show::Pass, 1);
    }
    assert_eq!(sent(&mut exchange).matches("PING").count(), 2);
    // Each script is refused, and so is each fence: a script may have written such lines as well.
    let refused = BUSY.repeat(4);
    assert_eq!(exchange.received(refused.as_bytes(), 1, &heard), Ok(()));
    assert_eq!(&clients[1].0.bytes.borrow()[..], b"");
    let asked = sent(&mut exchange);
    let number = asked.split("\r\n").nth(6).expect("HELLO 2 and a number");
    let last = format!("-ERR Syntax error in HELLO option '{number}'\r\n");
    assert_eq!(exchange.received(last.as_bytes(), 1, &heard), Ok(()));
    for client in &clients {
        assert_eq!(&client.0.bytes.borrow()[..], BUSY.as_bytes());
        assert_eq!(client.0.outstanding.get(), 0);
    }
    assert!(exchange.is_empty(), "nothing is waited for");
}
