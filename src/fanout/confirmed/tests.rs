//! What is believed of a client's subscriptions, against a server of their own.

use super::*;
use crate::fanout::PUBSUB_KINDS;
use proptest::prelude::*;

fn confirmation(verb: &str, topic: Option<&str>, count: usize) -> String {
    let topic = topic.map_or("$-1\r\n".to_owned(), |topic| {
        format!("${}\r\n{topic}\r\n", topic.len())
    });
    format!("*3\r\n${}\r\n{verb}\r\n{topic}:{count}\r\n", verb.len())
}

fn none() -> ConfirmedSubscriptions {
    ConfirmedSubscriptions::executed(Vec::new())
}

/// Returns what holds after each of these frames, which answer subscription commands.
fn after(frames: &[String]) -> Vec<bool> {
    let mut confirmed = none();
    confirmed.sent_now(SentNow::Subscriptions);
    let mut after = |frame: &String| confirmed.take(frame.as_bytes(), true);
    frames.iter().map(&mut after).collect()
}

#[test]
fn the_counts_of_the_server_hold() {
    let one = |verb, count| confirmation(verb, Some("c"), count);
    assert_eq!(
        after(&[
            one("subscribe", 1),
            one("psubscribe", 2),
            one("unsubscribe", 1),
            one("punsubscribe", 0),
            one("ssubscribe", 1),
            one("subscribe", 1),
            one("sunsubscribe", 0),
            one("unsubscribe", 0),
            confirmation("unsubscribe", None, 0),
            confirmation("unsubscribe", None, 0).replace("$-1", "_"),
            one("subscribe", 1).replace('*', ">"),
            one("unsubscribe", 0).replace('*', ">"),
        ]),
        [
            true, true, true, false, true, true, true, false, false, false, true, false
        ]
    );
}

fn queued(place: u32, subscribes: bool, topics: u32) -> QueuedSubscription {
    QueuedSubscription {
        place,
        kind: TopicKind::Channel,
        subscribes,
        topics,
    }
}

/// Returns what holds after an EXEC that was answered with these elements.
fn after_exec(commands: &[QueuedSubscription], elements: &[&str]) -> bool {
    let mut confirmed = ConfirmedSubscriptions::executed(commands.to_vec());
    let reply = format!("*{}\r\n{}", elements.len(), elements.concat());
    confirmed.take(reply.as_bytes(), true)
}

#[test]
fn confirmations_stand_inside_exec_too() {
    let subscribed = &*confirmation("subscribe", Some("c"), 1);
    let left = &*confirmation("unsubscribe", Some("c"), 0);
    let error = "-ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client\r\n";
    let (one, off) = (queued(0, true, 1), queued(0, false, 1));
    assert!(after_exec(&[one], &[subscribed]));
    assert!(!after_exec(&[one], &[error]));
    assert!(!after_exec(&[off], &[left]));
    let off_last = queued(2, false, 1);
    assert!(!after_exec(&[one, off_last], &[subscribed, ":3\r\n", left]));
    let on_last = queued(2, true, 1);
    assert!(after_exec(
        &[off, on_last],
        &[left, "$3\r\nabc\r\n", subscribed]
    ));
    assert!(after_exec(&[on_last], &[left, left, subscribed]));
    // Refused, and behind it what looks like what was refused.
    assert!(!after_exec(&[one], &[error, subscribed]));
    assert!(after_exec(&[one], &[subscribed, left]));
    assert!(!after_exec(&[queued(1, false, 1)], &[subscribed, left]));
}

#[test]
fn what_leaves_all_is_confirmed_once_for_each() {
    let two = [("a", 1), ("b", 2)].map(|(c, n)| confirmation("subscribe", Some(c), n));
    let gone = [("a", 1), ("b", 0)].map(|(c, n)| confirmation("unsubscribe", Some(c), n));
    let fake = confirmation("subscribe", Some("c"), 1);
    let commands = [queued(0, true, 2), queued(1, false, 0)];
    assert!(!after_exec(
        &commands,
        &[&two.concat(), &gone.concat(), &fake]
    ));
    let mut confirmed = ConfirmedSubscriptions::executed(commands.to_vec());
    let reply = format!("*3\r\n{}{}:1\r\n", two.concat(), gone[0]);
    assert!(confirmed.take(reply.as_bytes(), true));
}

#[test]
fn where_multi_is_refused_what_was_to_be_queued_is_confirmed_by_itself() {
    let mut confirmed = none();
    confirmed.sent_now(SentNow::Transaction);
    confirmed.queue(queued(0, true, 1));
    let refused = "-NOPERM no permissions to run the 'multi' command\r\n";
    assert!(!confirmed.take(refused.as_bytes(), true));
    assert!(confirmed.take(confirmation("subscribe", Some("c"), 1).as_bytes(), true));
    confirmed.sent_now(SentNow::Transaction);
    confirmed.queue(queued(0, false, 1));
    for line in [
        ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n",
        "+OK\r\n",
        "+QUEUED\r\n",
    ] {
        assert!(confirmed.take(line.as_bytes(), true));
    }
    let left = confirmation("unsubscribe", Some("c"), 0);
    assert!(!confirmed.take(format!("*1\r\n{left}").as_bytes(), true));
}

#[test]
fn what_only_looks_like_one_is_none() {
    let real = confirmation("subscribe", Some("c"), 1);
    let quoted = format!("${}\r\n{real}\r\n", real.len());
    for frame in [
        quoted.clone(),
        format!("*2\r\n$1\r\na\r\n{quoted}"),
        format!("*1\r\n{real}"),
        format!("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n{quoted}"),
        "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n$1\r\n1\r\n".into(),
        "*3\r\n+subscribe\r\n$1\r\nc\r\n:1\r\n".into(),
        "*3\r\n$9\r\nsubscribe\r\n:1\r\n:1\r\n".into(),
        "*3\r\n$10\r\nsubscribed\r\n$1\r\nc\r\n:1\r\n".into(),
        "-ERR *3\n$9\n\r$9\r subscribe :1\r\n".into(),
        format!("+{}\r\n", "x".repeat(100)),
        format!("={}\r\ntxt:{real}\r\n", real.len() + 4),
    ] {
        assert_eq!(after(std::slice::from_ref(&frame)), [false], "{frame}");
        assert_eq!(after(&[real.clone(), frame.clone()]), [true, true]);
        assert_eq!(after(&[frame, real.clone()]), [false, true]);
    }
}

#[test]
fn it_ends_amid_a_frame_and_begins_at_its_end() {
    let frame = format!(
        "*3\r\n{}{}$1\r\nx\r\n",
        confirmation("unsubscribe", Some("c"), 0),
        confirmation("subscribe", Some("c"), 1)
    );
    let mut confirmed = none();
    confirmed.sent_now(SentNow::Subscriptions);
    assert!(confirmed.take(confirmation("subscribe", Some("c"), 1).as_bytes(), true));
    confirmed.sent_now(SentNow::Transaction);
    confirmed.queue(queued(0, false, 1));
    confirmed.queue(queued(1, true, 1));
    assert!(confirmed.take(b"+OK\r\n", true));
    let mut bytes = frame.bytes().peekable();
    let mut seen = Vec::new();
    while let Some(byte) = bytes.next() {
        seen.push(confirmed.take(&[byte], bytes.peek().is_none()));
    }
    seen.dedup();
    assert_eq!(seen, [true, false, true]);
}

/// Keeps a server's subscriptions of one client.
#[derive(Default)]
struct SubscriptionServer {
    topics: [Vec<String>; 3],
    mark: &'static str,
}

impl SubscriptionServer {
    fn count(&self, kind: usize) -> usize {
        match kind {
            2 => self.topics[2].len(),
            _ => self.topics[0].len() + self.topics[1].len(),
        }
    }

    /// Returns what it answers to a subscription command; one without topics leaves all.
    fn run(&mut self, kind: usize, subscribes: bool, topics: &[&str]) -> String {
        let all = self.topics[kind].clone();
        let mut named: Vec<Option<&str>> = topics.iter().copied().map(Some).collect();
        if named.is_empty() {
            named = all.iter().map(|topic| Some(&**topic)).collect();
        }
        if named.is_empty() {
            named.push(None);
        }
        let mut answer = String::new();
        for topic in named {
            let name = topic.unwrap_or_default();
            self.topics[kind].retain(|other| other != name);
            if subscribes {
                self.topics[kind].push(name.to_owned());
            }
            let verb = PUBSUB_KINDS[kind].verb(subscribes);
            let one = confirmation(verb, topic, self.count(kind));
            answer += &one.replacen('*', self.mark, 1);
        }
        answer
    }
}

/// A command is data that the server answers with, or a subscription.
#[derive(Debug, Clone)]
enum PendingCommand {
    Data(String),
    Subscription(usize, bool, usize),
}

fn data() -> impl Strategy<Value = PendingCommand> {
    let lookalike = (0usize..3, any::<bool>(), 0usize..4)
        .prop_map(|(kind, on, count)| confirmation(PUBSUB_KINDS[kind].verb(on), Some("c"), count));
    let quoted = lookalike
        .clone()
        .prop_map(|one| format!("${}\r\n{one}\r\n", one.len()));
    let nested = lookalike
        .clone()
        .prop_map(|one| format!("*2\r\n{one}:1\r\n"));
    prop_oneof![
        lookalike,
        quoted,
        nested,
        Just("+OK\r\n".to_owned()),
        Just("-ERR no\r\n".to_owned()),
        Just("*0\r\n".to_owned()),
        Just("%1\r\n+a\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:7\r\n".to_owned()),
        Just("$-1\r\n".to_owned()),
    ]
    .prop_map(PendingCommand::Data)
}

fn subscription() -> impl Strategy<Value = PendingCommand> {
    (0usize..3, any::<bool>(), 0usize..4).prop_map(|(kind, subscribes, topics)| {
        PendingCommand::Subscription(kind, subscribes, topics.max(usize::from(subscribes)))
    })
}

proptest! {
    #[test]
    fn the_counts_are_the_servers_whatever_stands_among_them(
        sent in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(data(), 1..5).prop_map(|all| (SentNow::Others, all)),
                prop::collection::vec(subscription(), 1..4)
                    .prop_map(|all| (SentNow::Subscriptions, all)),
                prop::collection::vec(prop_oneof![data(), subscription()], 1..6)
                    .prop_map(|all| (SentNow::Transaction, all)),
            ],
            1..8,
        ),
        resp3 in any::<bool>(),
        cuts in prop::collection::vec(1usize..30, 1..50),
    ) {
        let mut server = SubscriptionServer { mark: if resp3 { ">" } else { "*" }, ..SubscriptionServer::default() };
        let mut confirmed = none();
        let mut cuts = cuts.into_iter().cycle();
        for (kind, commands) in sent {
            confirmed.sent_now(kind);
            let mut answers = String::new();
            for (place, command) in (0..).zip(&commands) {
                answers += &match command {
                    PendingCommand::Data(data) => data.clone(),
                    &PendingCommand::Subscription(of, subscribes, topics) => {
                        confirmed.queue(QueuedSubscription {
                            place,
                            kind: PUBSUB_KINDS[of],
                            subscribes,
                            topics: u32::try_from(topics).unwrap(),
                        });
                        server.run(of, subscribes, &["c", "d", "a"][..topics])
                    }
                };
            }
            if kind == SentNow::Transaction {
                let queued = "+QUEUED\r\n".repeat(commands.len());
                answers = format!("+OK\r\n{queued}*{}\r\n{answers}", commands.len());
            }
            let mut rest = answers.as_bytes();
            let mut told = false;
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                told = confirmed.take(piece, behind.is_empty());
                rest = behind;
            }
            prop_assert_eq!(told, server.count(0) + server.count(2) > 0);
            let counts = (confirmed.channels, confirmed.shard_channels);
            prop_assert_eq!(counts, (server.count(0) as u64, server.count(2) as u64));
        }
    }
}
