//! Connections that carry something beside replies: messages, among which the answers have their places, and the commands of everybody.

use proptest::prelude::*;

use super::client::ModelClient;
use super::heard::Heard;
use crate::command::Delays;
use crate::exchange::{Exchange, MayTake, OwnReply, RequestKind, Show, Violation};
use crate::session::PinnedCommand;
use std::cell::RefCell;
use std::rc::Rc;

/// Hands `bytes` to the exchange, cut into pieces of these sizes.
fn feed(
    exchange: &mut Exchange<ModelClient>,
    heard: &Heard,
    bytes: &[u8],
    cuts: &[usize],
) -> Result<(), Violation> {
    let (mut cuts, mut rest) = (cuts.iter().cycle(), bytes);
    while !rest.is_empty() {
        let most = *cuts.next().unwrap_or(&usize::MAX);
        let (piece, behind) = rest.split_at(most.clamp(1, rest.len()));
        rest = behind;
        let arrived = [exchange.carry(), piece].concat();
        exchange.received(&arrived, 1, heard)?;
        for (reply, bytes) in exchange.take_answered() {
            if let OwnReply::Place(_, tell) | OwnReply::Asked(tell) = reply {
                tell(bytes);
            }
        }
    }
    Ok(())
}

/// What is sent now.
fn sent(exchange: &mut Exchange<ModelClient>) -> String {
    let bytes = exchange.sendable().to_vec();
    exchange.wrote(bytes.len(), 1);
    String::from_utf8(bytes).expect("text")
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n".to_owned()),
        Just("-ERR unknown command 'respool:0123456789abcdef'\r\n".to_owned()),
        Just("$5000\r\n".to_owned()),
        Just("+OK\r\n".to_owned()),
        Just("*2\r\n".to_owned()),
        "[a-z ]{0,20}\r\n",
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_answers_the_question_for_a_place_is_taken_out_and_nothing_else(
        before in texts(),
        cuts in prop::collection::vec(1usize..40, 1..20),
    ) {
        let (mut exchange, heard) = (Exchange::begun(0, 0, rand::random), Heard::default());
        exchange.set_raw();
        exchange.request_amid(b"*1\r\n$3\r\nGET\r\n", MayTake { blocks: true, ..MayTake::NO_TIME });
        prop_assert!(exchange.unanswered_amid().blocks);
        let told = Rc::new(RefCell::new(Vec::new()));
        let teller = Rc::clone(&told);
        let tell = Box::new(move |reply| teller.borrow_mut().push(reply));
        prop_assert!(exchange.ask_for_place(tell, 1));
        prop_assert!(exchange.place_asked().is_some_and(|before| before.blocks));
        let request = sent(&mut exchange);
        let at = request.find("respool:").expect("it is asked");
        let line = format!("-ERR unknown command '{}', with args\r\n", &request[at..at + 24]);
        let behind = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
        let bytes = [&before[..], line.as_bytes(), behind].concat();
        prop_assert_eq!(feed(&mut exchange, &heard, &bytes, &cuts), Ok(()));
        prop_assert_eq!(&*heard.pushed.borrow(), &[&before[..], behind].concat());
        prop_assert_eq!(&*told.borrow(), &[line.into_bytes()]);
        prop_assert!(exchange.place_asked().is_none() && !exchange.unanswered_amid().blocks);
        prop_assert!(exchange.is_raw() && exchange.in_flight() == 0);
    }

    #[test]
    fn the_answer_to_reset_ends_the_stream(cuts in prop::collection::vec(1usize..9, 1..20)) {
        let (mut exchange, heard) = (Exchange::begun(0, 0, rand::random), Heard::default());
        exchange.set_raw();
        let told = Rc::new(RefCell::new(Vec::new()));
        let teller = Rc::clone(&told);
        let tell = Box::new(move |reply| teller.borrow_mut().push(reply));
        exchange.own_request(b"*1\r\n$5\r\nRESET\r\n", OwnReply::Asked(tell), 1);
        let message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
        let bytes = [&message[..], b"+RESET\r\n"].concat();
        prop_assert_eq!(feed(&mut exchange, &heard, &bytes, &cuts), Ok(()));
        prop_assert_eq!(&heard.pushed.borrow()[..], &message[..]);
        prop_assert_eq!(&*told.borrow(), &[b"+RESET\r\n".to_vec()]);
        prop_assert!(!exchange.is_raw());
    }

    #[test]
    fn commands_of_everybody_are_told_from_replies(cuts in prop::collection::vec(1usize..60, 1..20)) {
        let (mut exchange, heard) = (Exchange::begun(0, 0, rand::random), Heard::default());
        let client = ModelClient::default();
        client.0.is_plain.set(true);
        let kind = RequestKind::Pinned(PinnedCommand::Monitor);
        exchange.request(&client, b"*1\r\n$7\r\nMONITOR\r\n", 1, (kind, Delays::NONE), Show::Pass, 1);
        let kind = (RequestKind::Plain, Delays::NONE);
        exchange.request(&client, b"*1\r\n$4\r\nPING\r\n", 1, kind, Show::Pass, 1);
        let shown = b"+1795263685.026881 [3 127.0.0.1:36104] \"SELECT\" \"3\"\r\n";
        let bytes = [b"+OK\r\n", &shown[..], b"+PONG\r\n", shown].concat();
        prop_assert_eq!(feed(&mut exchange, &heard, &bytes, &cuts), Ok(()));
        prop_assert_eq!(&client.0.bytes.borrow()[..], b"+OK\r\n+PONG\r\n");
        prop_assert_eq!(&*heard.pushed.borrow(), &shown.repeat(2));
        prop_assert!(exchange.shows_commands());
    }
}

#[test]
fn every_byte_of_a_debugger_is_its_clients() {
    let (mut exchange, heard) = (Exchange::begun(0, 0, rand::random), Heard::default());
    let client = ModelClient::default();
    let kind = RequestKind::Pinned(PinnedCommand::Debugged);
    let request = b"*1\r\n$4\r\nEVAL\r\n";
    exchange.request(&client, request, 1, (kind, Delays::NONE), Show::Hide, 1);
    let said = b"*1\r\n+* Stopped at 1\r\n";
    let more = b"no RESP at all\n";
    let bytes = [&said[..], more].concat();
    assert_eq!(feed(&mut exchange, &heard, &bytes, &[3, 40]), Ok(()));
    assert_eq!(*client.0.bytes.borrow(), said, "whatever CLIENT REPLY says");
    assert_eq!(*heard.pushed.borrow(), more);
    assert!(exchange.is_debugging() && !exchange.is_awaited_amid_stream());
}
