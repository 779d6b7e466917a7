//! The server is asked how it is, once for the whole process, on a shared connection beside the clients' commands, and told to
//! the operator when something about it is not as it should be.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Upstream;
use crate::exchange::{Answer, AnswerPace, OwnCall, OwnReply};
use crate::resp::speak::encode_request;
use crate::server::ServerInfo;
use crate::telemetry::OperatorConcern;
use crate::texts::is_busy;

/// These sections are asked for, each by itself: servers before Redis 7.0 take one at a time.
const SECTIONS: [&str; 4] = ["server", "clients", "replication", "modules"];

/// A longer answer, of all sections together, is not read; Redis 7 sends about 2 KiB.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Remembers what the server was asked, in the first worker only.
#[derive(Default)]
pub(super) struct HealthWatch {
    /// The server was asked last then; `None`: not yet.
    asked_micros: Cell<Option<u64>>,
    is_asking: Cell<bool>,
    /// The operator has been told of these.
    told: RefCell<Vec<OperatorConcern>>,
}

impl Upstream {
    /// Asks the server how it is, when it is time to and this worker's to do.
    pub(super) fn watch_health(self: &Rc<Self>) {
        let interval = self.thread.settings().upstream.health_interval;
        let watch = &self.health;
        if self.thread.index != 0 {
            return;
        }
        if interval.is_zero() {
            if watch.asked_micros.take().is_some() {
                // Switched off: what was told is not true for long.
                self.thread.process.health.set_clients(None, None, None);
                self.thread.process.health.set_refusal(None);
            }
            return;
        }
        let asked = watch.asked_micros.get();
        let is_due = asked.is_none_or(|asked| {
            self.thread.clock.is_past(asked, interval) || self.may_be_another_run(asked)
        });
        let can_ask = !self.is_away() || self.thread.is_nobody();
        if !is_due || !can_ask || watch.is_asking.replace(true) {
            return;
        }
        watch.asked_micros.set(Some(self.thread.clock.now_micros()));
        let upstream = Rc::clone(self);
        tokio::task::spawn_local(async move {
            upstream.ask_health().await;
            upstream.health.is_asking.set(false);
        });
    }

    /// Tells whether every connection is younger than a pause that is believed to be in force, and the server was not asked since: it may have
    /// been started anew, and then holds nothing back.
    fn may_be_another_run(&self, asked_micros: u64) -> bool {
        let now = self.thread.clock.now_micros();
        let taken = self.thread.process.pulse.pauses.taken_micros(now);
        let (Some(taken), Some(oldest)) = (taken, self.oldest_link()) else {
            return false;
        };
        oldest > taken && asked_micros < oldest
    }

    /// Returns when the oldest of the shared connections was begun.
    fn oldest_link(&self) -> Option<u64> {
        let links = self.links.borrow();
        let begun = links
            .iter()
            .flatten()
            .map(|link| link.origin().begun_micros);
        begun.min()
    }

    async fn ask_health(self: &Rc<Self>) {
        // Clients' users may not have the permission that respool's own has.
        let Some(link) = self.own_link().await else {
            return;
        };
        let requests: Vec<u8> = SECTIONS
            .iter()
            .flat_map(|section| encode_request(&["INFO", section]))
            .collect();
        let (tell, told) = oneshot::channel();
        let asked = Instant::now();
        // Whoever asked may have ended with the process.
        let call = move |answer| drop(tell.send(answer));
        let call = OwnCall::new(SECTIONS.len(), LONGEST_ANSWER, AnswerPace::Prompt, call);
        link.send_own(&requests, OwnReply::Call(call));
        let info = match told.await {
            Ok(Answer::Replies(replies)) if is_busy(&replies) => {
                // It lives, and will tell when its script has ended.
                self.thread.pulse.heard_busy(self.thread.clock.now_micros());
                let health = &self.thread.process.health;
                return health.answered(asked.elapsed().as_micros() as u64);
            }
            Ok(Answer::Replies(replies)) => ServerInfo::read(&replies),
            Ok(Answer::TooLarge) => ServerInfo {
                refusal: Some(format!("an answer of more than {LONGEST_ANSWER} bytes")),
                ..ServerInfo::default()
            },
            // Whoever loses a connection tells so.
            Ok(Answer::Lost { .. }) | Err(_) => return,
        };
        let health = Arc::clone(&self.thread.process.health);
        health.answered(asked.elapsed().as_micros() as u64);
        health.set_clients(
            info.connected_clients,
            info.maxclients,
            info.blocked_clients,
        );
        let is_another = self.thread.process.informed(&info);
        if let Some(oldest) = self.oldest_link().filter(|_| is_another) {
            self.thread.process.pulse.pauses.another_run(oldest);
        }
        health.set_refusal(info.refusal);
        self.tell_concerns();
    }

    /// Logs what has become a concern, and what is none any more: once each time.
    fn tell_concerns(&self) {
        let role = self.thread.role();
        let concerns = self.thread.process.health.snapshot().concerns(role);
        let told = self
            .health
            .told
            .replace(concerns.iter().map(|(concern, _)| *concern).collect());
        for (concern, text) in &concerns {
            if !told.contains(concern) {
                tracing::warn!("{text}");
            }
        }
        for concern in told {
            if concerns.iter().all(|(now, _)| *now != concern) {
                tracing::info!("no longer: {}", concern.label());
            }
        }
    }
}
