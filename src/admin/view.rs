//! What the operator is shown, gathered when asked.

use std::sync::Arc;
use std::time::SystemTime;

use crate::admission::Admission;
use crate::identity::{Card, Flag, Registry, shown_user};
use crate::telemetry::{
    ClientRow, GroupRow, Reload, Scrape, ServerHealth, Standing, UpstreamCounts, WorkerCounters,
};
use crate::upstream::Process;

/// A client silent for this long counts as idle.
const IDLE_MS: u64 = 1_000;

/// Clients named in `/status`.
const TOP_CLIENTS: usize = 20;

/// Read-only sight of everything that is told.
pub struct View {
    /// What the workers share.
    pub process: Arc<Process>,
    /// Who may come.
    pub admission: Arc<Admission>,
    /// All clients.
    pub registry: Arc<Registry>,
    /// What the workers count.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// When respool started, and last read its configuration.
    pub started: SystemTime,
}

impl View {
    /// Everything at this moment.
    pub fn scrape(&self) -> Scrape {
        let now_ms = self.process.start.elapsed().as_millis() as u64;
        let cards = self.registry.list();
        let (shared, pinned, subscription) = self.process.budget.counts();
        let health: &ServerHealth = &self.process.health;
        let standing = Standing {
            groups: self.groups(&cards, now_ms),
            upstream: UpstreamCounts {
                shared: shared as u64,
                pinned: pinned as u64,
                subscription: subscription as u64,
                limit: self.process.budget.limit() as u64,
                waiting: self.process.budget.waiting() as u64,
            },
            server: health.snapshot(),
            last_reload: Reload {
                at: self.started,
                error: None,
            },
            held_rejected: self.admission.held() as u64,
            top_clients: self.top_clients(cards, now_ms),
            uptime: self.process.start.elapsed(),
        };
        Scrape::gather(&self.counters, standing)
    }

    fn groups(&self, cards: &[Arc<Card>], now_ms: u64) -> Vec<GroupRow> {
        let mut idle = vec![(0u64, None::<u64>); self.process.settings.groups.len()];
        for card in cards {
            let silent = card.idle_ms(now_ms);
            if let Some((count, oldest)) = idle.get_mut(card.group.get() as usize)
                && silent >= IDLE_MS
            {
                *count += 1;
                *oldest = Some(oldest.unwrap_or(0).max(silent / 1000));
            }
        }
        let rows = self.admission.rows().into_iter().zip(idle);
        rows.map(|(row, (idle_connections, oldest_idle_seconds))| GroupRow {
            name: row.name.to_string(),
            connections: row.connections as u64,
            limit: row.limit.map(|limit| limit as u64),
            warn: row.warn.map(|warn| warn as u64),
            accepted_total: row.accepted_total,
            rejected: rejected(&row),
            observed_total: observed(&row),
            idle_connections,
            oldest_idle_seconds,
        })
        .collect()
    }

    fn top_clients(&self, mut cards: Vec<Arc<Card>>, now_ms: u64) -> Vec<ClientRow> {
        cards.sort_by_key(|card| std::cmp::Reverse(card.commands.get()));
        cards.truncate(TOP_CLIENTS);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let row = |card: Arc<Card>| {
            let names = card.names();
            ClientRow {
                id: card.id(),
                address: card.peer().to_string(),
                name: text(&names.name),
                user: text(shown_user(&names.user)),
                group: self.process.settings.groups[card.group.get() as usize]
                    .name
                    .clone(),
                age_s: now_ms.saturating_sub(card.created_ms()) / 1000,
                idle_s: card.idle_ms(now_ms) / 1000,
                commands: card.commands.get(),
                bytes_in: card.bytes_in.get(),
                bytes_out: card.bytes_out.get(),
                state: state(&card),
            }
        };
        cards.into_iter().map(row).collect()
    }
}

/// Rejections by reason; those that `mode = "observe"` would have made have a reason of their own.
fn rejected(row: &crate::admission::GroupRow) -> Vec<(&'static str, u64)> {
    let reasons = row
        .rejected_total
        .iter()
        .map(|(reason, total)| (reason.label(), *total));
    reasons.chain([("observed", observed(row))]).collect()
}

fn observed(row: &crate::admission::GroupRow) -> u64 {
    row.observed_total.iter().map(|(_, total)| total).sum()
}

fn state(card: &Card) -> &'static str {
    let states = [
        (Flag::Rejected, "rejected"),
        (Flag::Monitor, "monitor"),
        (Flag::Pubsub, "subscribed"),
        (Flag::Blocked, "blocked"),
        (Flag::Multi, "transaction"),
        (Flag::Watching, "watching"),
        (Flag::Tracking, "tracking"),
        (Flag::Pinned, "pinned"),
    ];
    states
        .into_iter()
        .find(|(flag, _)| card.has(*flag))
        .map_or("shared", |(_, name)| name)
}
