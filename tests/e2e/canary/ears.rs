//! Frames that may come to a canary unasked, told from the replies to what it asked.

use super::expect::{Mismatch, is_bulk};
use super::subscriptions::Subscriptions;
use crate::harness::Value;

/// Says what a canary listens to.
#[derive(Debug)]
pub(super) enum Ears {
    /// It listens to nothing: every frame is the reply to a request.
    Closed,
    /// It hears the messages of its subscriptions.
    Subscribed(Subscriptions),
    /// It hears the invalidations of the keys it tracks.
    Tracking(Tracking),
    /// It hears what the server is asked by anybody.
    Monitoring(Monitoring),
}

/// Says what one frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sound {
    Reply,
    Unasked,
}

impl Ears {
    /// Takes in a frame that came over a connection of protocol 3 (or 2).
    pub(super) fn hear(&mut self, frame: &Value, resp3: bool) -> Result<Sound, Mismatch> {
        match self {
            Self::Closed if matches!(frame, Value::Push(_)) => Err(Mismatch(
                "a push for somebody who listens to nothing".into(),
            )),
            Self::Closed => Ok(Sound::Reply),
            Self::Subscribed(subscriptions) => subscriptions.hear(frame, resp3),
            Self::Tracking(tracking) => tracking.hear(frame),
            Self::Monitoring(monitoring) => monitoring.hear(frame),
        }
    }

    pub(super) fn are_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }

    /// Tells what it knows as a subscriber; panics when it is none.
    #[track_caller]
    pub(super) fn subscriptions(&mut self) -> &mut Subscriptions {
        match self {
            Self::Subscribed(subscriptions) => subscriptions,
            other => panic!("not a subscriber: {other:?}"),
        }
    }

    /// Tells whether it has heard that this key of its own is invalid, or the request with this text, since it awaits it.
    pub(super) fn has_heard_awaited(&self) -> bool {
        match self {
            Self::Tracking(tracking) => tracking.awaited.is_none(),
            Self::Monitoring(monitoring) => monitoring.awaited.is_none(),
            _ => false,
        }
    }

    /// Lets it await this key, or this text, from now on.
    pub(super) fn await_text(&mut self, text: &str) {
        match self {
            Self::Tracking(tracking) => tracking.awaited = Some(text.to_owned()),
            Self::Monitoring(monitoring) => monitoring.awaited = Some(text.to_owned()),
            other => panic!("awaits nothing: {other:?}"),
        }
    }
}

/// Is what a client with CLIENT TRACKING may hear.
#[derive(Debug)]
pub(super) struct Tracking {
    /// Holds what all its own keys start with.
    prefix: String,
    awaited: Option<String>,
}

impl Tracking {
    pub(super) fn new(number: usize) -> Self {
        Self {
            prefix: format!("c{number}."),
            awaited: None,
        }
    }

    fn hear(&mut self, frame: &Value) -> Result<Sound, Mismatch> {
        let Value::Push(items) = frame else {
            return Ok(Sound::Reply);
        };
        match &items[..] {
            [word, Value::Array(keys)] if is_bulk(word, "invalidate") => {
                for key in keys {
                    let key = key.text();
                    if !key.starts_with(&self.prefix) {
                        return Err(Mismatch(format!("invalidation of another's key {key}")));
                    }
                    self.awaited.take_if(|awaited| *awaited == key);
                }
                Ok(Sound::Unasked)
            }
            _ => Err(Mismatch("a push that is no invalidation".into())),
        }
    }
}

/// Is what a client that sent MONITOR may hear.
#[derive(Debug, Default)]
pub(super) struct Monitoring {
    awaited: Option<String>,
}

impl Monitoring {
    fn hear(&mut self, frame: &Value) -> Result<Sound, Mismatch> {
        match frame {
            Value::Simple(line) if is_line(line) => {
                if let Some(awaited) = &self.awaited
                    && line.ends_with(format!("\"ECHO\" \"{awaited}\"").as_bytes())
                {
                    self.awaited = None;
                }
                Ok(Sound::Unasked)
            }
            // Bulk strings and `+OK`, `+RESET` are replies; they are compared with what was asked.
            _ => Ok(Sound::Reply),
        }
    }
}

/// Tells whether this is `1700000000.123456 [0 127.0.0.1:1234] "GET" "k"`.
fn is_line(line: &[u8]) -> bool {
    let Some(space) = line.iter().position(|&b| b == b' ') else {
        return false;
    };
    let (time, rest) = line.split_at(space);
    let of_digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let is_time = match time.iter().position(|&b| b == b'.') {
        Some(dot) => {
            of_digits(&time[..dot]) && time.len() - dot == 7 && of_digits(&time[dot + 1..])
        }
        None => false,
    };
    let Some(end) = rest.windows(3).position(|w| w == b"] \"") else {
        return false;
    };
    is_time && rest.starts_with(b" [") && rest[2..end].contains(&b' ') && rest.ends_with(b"\"")
}
