//! One blocking call: its bytes, and what its reply hands out, by the form that its command and protocol have.

use std::time::Duration;

use super::expect::Mismatch;
use super::ledger::{Holds, Place};
use crate::harness::Value;

/// Says how a reply tells what it hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// It is the key and the element.
    Pair,
    /// It is the key, the element and its score.
    Scored,
    /// It is the element alone.
    Bare,
    /// It is the key and the elements.
    Several,
    /// It is the key and the elements, each with its score.
    SeveralScored,
    /// It is the streams with their entries.
    Entries,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) args: Vec<String>,
    pub(super) places: Vec<Place>,
    pub(super) limit: Duration,
    /// The most elements it takes.
    pub(super) most: usize,
    /// Is true when what it takes goes to the list of moved elements.
    pub(super) moves: bool,
    form: Form,
}

/// One element that a reply hands out.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) place: Place,
    pub(super) element: String,
    pub(super) score: Option<String>,
    /// Its id in a stream.
    pub(super) id: Option<String>,
}

impl Call {
    /// Makes a call of BLPOP, BRPOP, BZPOPMIN or BZPOPMAX.
    pub(super) fn pop(verb: &str, places: Vec<Place>, limit: Duration) -> Self {
        let mut args = vec![verb.to_owned()];
        args.extend(places.iter().map(|place| place.key.clone()));
        args.push(seconds(limit));
        let form = match places[0].holds {
            Holds::Sorted => Form::Scored,
            _ => Form::Pair,
        };
        Self::new(args, places, limit, form)
    }

    /// Makes a call of BLMOVE.
    pub(super) fn relocate(place: Place, to: &str, ends: [&str; 2], limit: Duration) -> Self {
        let args = ["BLMOVE", &place.key, to, ends[0], ends[1], &seconds(limit)];
        Self {
            moves: true,
            ..Self::new(owned(&args), vec![place.clone()], limit, Form::Bare)
        }
    }

    /// Makes a call of BRPOPLPUSH.
    pub(super) fn rotate(place: Place, to: &str, limit: Duration) -> Self {
        let args = ["BRPOPLPUSH", &place.key, to, &seconds(limit)];
        Self {
            moves: true,
            ..Self::new(owned(&args), vec![place.clone()], limit, Form::Bare)
        }
    }

    /// Makes a call of BLMPOP or BZMPOP.
    pub(super) fn pop_several(
        verb: &str,
        places: Vec<Place>,
        end: &str,
        most: usize,
        limit: Duration,
    ) -> Self {
        let mut args = owned(&[verb, &seconds(limit), &places.len().to_string()]);
        args.extend(places.iter().map(|place| place.key.clone()));
        args.extend(owned(&[end, "COUNT", &most.to_string()]));
        let form = match places[0].holds {
            Holds::Sorted => Form::SeveralScored,
            _ => Form::Several,
        };
        Self {
            most,
            ..Self::new(args, places, limit, form)
        }
    }

    /// Makes a call of XREAD.
    pub(super) fn read(place: Place, after: &str, most: usize, limit: Duration) -> Self {
        let (most_text, block) = (most.to_string(), limit.as_millis().to_string());
        let args = [
            "XREAD", "COUNT", &most_text, "BLOCK", &block, "STREAMS", &place.key, after,
        ];
        Self {
            most,
            ..Self::new(owned(&args), vec![place.clone()], limit, Form::Entries)
        }
    }

    /// Makes a call of XREADGROUP.
    pub(super) fn read_in_group(
        place: Place,
        group: &str,
        consumer: &str,
        most: usize,
        limit: Duration,
    ) -> Self {
        let (most_text, block) = (most.to_string(), limit.as_millis().to_string());
        let mut args = owned(&["XREADGROUP", "GROUP", group, consumer]);
        args.extend(owned(&[
            "COUNT", &most_text, "BLOCK", &block, "STREAMS", &place.key, ">",
        ]));
        Self {
            most,
            ..Self::new(args, vec![place], limit, Form::Entries)
        }
    }

    fn new(args: Vec<String>, places: Vec<Place>, limit: Duration, form: Form) -> Self {
        Self {
            args,
            places,
            limit,
            most: 1,
            moves: false,
            form,
        }
    }

    /// Tells what this reply hands out, at least one element.
    pub(super) fn handed(&self, reply: &Value, resp3: bool) -> Result<Vec<Handed>, Mismatch> {
        let handed = self.read_reply(reply, resp3)?;
        if handed.is_empty() || handed.len() > self.most {
            return Err(Mismatch(format!("{} elements", handed.len())));
        }
        Ok(handed)
    }

    fn read_reply(&self, reply: &Value, resp3: bool) -> Result<Vec<Handed>, Mismatch> {
        let not = || Mismatch("not a reply to this call".into());
        match (self.form, reply) {
            (Form::Bare, Value::Bulk(_)) => Ok(vec![plain(self.places[0].clone(), reply)?]),
            (Form::Pair, Value::Array(items)) => match &items[..] {
                [key, element] => Ok(vec![plain(self.place(key)?, element)?]),
                _ => Err(not()),
            },
            (Form::Scored, Value::Array(items)) => match &items[..] {
                [key, element, score] => Ok(vec![scored(self.place(key)?, element, score, resp3)?]),
                _ => Err(not()),
            },
            (Form::Several | Form::SeveralScored, Value::Array(items)) => {
                let [key, Value::Array(elements)] = &items[..] else {
                    return Err(not());
                };
                let place = self.place(key)?;
                let each = elements.iter().map(|element| match (self.form, element) {
                    (Form::Several, element) => plain(place.clone(), element),
                    (_, Value::Array(pair)) if pair.len() == 2 => {
                        scored(place.clone(), &pair[0], &pair[1], resp3)
                    }
                    _ => Err(not()),
                });
                each.collect()
            }
            (Form::Entries, Value::Map(streams)) if resp3 => match &streams[..] {
                [(key, entries)] => entries_of(&self.place(key)?, entries),
                _ => Err(not()),
            },
            (Form::Entries, Value::Array(streams)) if !resp3 => match &streams[..] {
                [Value::Array(stream)] if stream.len() == 2 => {
                    entries_of(&self.place(&stream[0])?, &stream[1])
                }
                _ => Err(not()),
            },
            _ => Err(not()),
        }
    }

    /// Tells the place of which a reply speaks; it must be one that was asked for.
    fn place(&self, key: &Value) -> Result<Place, Mismatch> {
        let key = key.text();
        let found = self.places.iter().find(|place| place.key == key);
        found
            .cloned()
            .ok_or_else(|| Mismatch(format!("{key} was not asked for")))
    }
}

fn plain(place: Place, element: &Value) -> Result<Handed, Mismatch> {
    let Value::Bulk(_) = element else {
        return Err(Mismatch("no element".into()));
    };
    Ok(Handed {
        place,
        element: element.text(),
        score: None,
        id: None,
    })
}

fn scored(place: Place, element: &Value, score: &Value, resp3: bool) -> Result<Handed, Mismatch> {
    if matches!(score, Value::Double(_)) != resp3 {
        return Err(Mismatch("a score of the other protocol".into()));
    }
    Ok(Handed {
        score: Some(score.text()),
        ..plain(place, element)?
    })
}

fn entries_of(place: &Place, entries: &Value) -> Result<Vec<Handed>, Mismatch> {
    let not = || Mismatch("no entry".into());
    let Value::Array(entries) = entries else {
        return Err(not());
    };
    let entry = |entry: &Value| {
        let Value::Array(parts) = entry else {
            return Err(not());
        };
        let [id, Value::Array(fields)] = &parts[..] else {
            return Err(not());
        };
        let [_, element] = &fields[..] else {
            return Err(not());
        };
        Ok(Handed {
            id: Some(id.text()),
            ..plain(place.clone(), element)?
        })
    };
    entries.iter().map(entry).collect()
}

fn seconds(limit: Duration) -> String {
    format!("{:.3}", limit.as_secs_f64())
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|&arg| arg.to_owned()).collect()
}
