//! What becomes of the listeners at a reload: new ones are opened, others closed, the rest changed where they are.
//!
//! Invariant: what can fail comes before anything is changed; a listener that is closed keeps its clients.

use std::sync::Arc;
use std::time::Duration;

use super::accept::{ClientIntake, accept};
use crate::config::{Address, ListenerSettings, ListenerTls, Settings};
use crate::transport::{
    AcceptingEnd, BoundSocket, ChangedAccess, ClientTls, OpenListener, OpenListeners, bind,
};
use crate::worker::{StartListening, WorkerMessage};

/// Closing a listener may take this long.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Is bound and does not accept yet.
pub(super) struct BoundListener {
    bound: BoundSocket,
    accepting: AcceptingEnd,
    settings: ListenerSettings,
    pub(super) listener: Arc<OpenListener>,
}

impl BoundListener {
    /// Binds a listener.
    ///
    /// # Errors
    /// Says in words why it cannot.
    pub(super) fn new(settings: &ListenerSettings, keepalive: Duration) -> Result<Self, String> {
        let bound = bind(settings, keepalive)?;
        let (listener, accepting) = bound.opened(settings.name.clone());
        Ok(Self {
            bound,
            accepting,
            settings: settings.clone(),
            listener,
        })
    }

    /// Has the first worker accept: what it keeps for itself needs no hand-over between threads. Returns false where the worker has ended.
    pub(super) async fn begin(self, intake: &Arc<ClientIntake>) -> bool {
        let Self {
            bound,
            accepting,
            settings,
            ..
        } = self;
        let of_listener = Arc::clone(intake);
        let listen: StartListening =
            Box::new(move || Box::pin(accept(bound, accepting, settings, of_listener)));
        let sent = intake.workers[0]
            .mailbox()
            .send(WorkerMessage::Listen(listen));
        sent.await.is_ok()
    }
}

/// Stays open; it holds what the listener is from now on.
struct KeptListener {
    listener: Arc<OpenListener>,
    acceptance: Option<ClientTls>,
    settings: ListenerSettings,
    /// Is true where the settings let others connect than before.
    is_access_new: bool,
    /// Is true of a unix socket whose clients may have to show less from now on. Whether the file changes says nothing: who may connect is
    /// narrowed by hand, too, or by its folder.
    asks_less: bool,
}

/// Holds what a reload does to the listeners, ready to be done.
#[derive(Default)]
pub(super) struct ListenerChanges {
    opened: Vec<BoundListener>,
    kept: Vec<KeptListener>,
    closed: Vec<Arc<OpenListener>>,
    access: ChangedAccess,
}

impl ListenerChanges {
    /// Prepares what leads from the listeners that are open to those of `next`.
    ///
    /// # Errors
    /// Says in words that one cannot be opened, or the TLS of one is not taken. Nothing is open then that was not before.
    pub(super) fn prepare(
        open: &OpenListeners,
        now: &Settings,
        next: &Settings,
    ) -> Result<Self, String> {
        let before = open.all();
        let is_wanted = |one: &&Arc<OpenListener>| {
            next.listeners
                .iter()
                .any(|listener| listener.name == one.name())
        };
        let (stay, closed): (Vec<_>, Vec<_>) = before.iter().partition(is_wanted);
        let mut changes = Self {
            opened: Vec::new(),
            kept: Vec::new(),
            closed: closed.into_iter().map(Arc::clone).collect(),
            access: ChangedAccess::default(),
        };
        for settings in &next.listeners {
            let Some(listener) = stay.iter().find(|one| one.name() == settings.name) else {
                let opened = BoundListener::new(settings, next.limits.keepalive);
                let opened = opened.map_err(|text| in_the_way(text, settings, &changes.closed))?;
                changes.opened.push(opened);
                continue;
            };
            let acceptance = settings.tls.as_ref().map(ClientTls::new).transpose();
            let acceptance =
                acceptance.map_err(|text| format!("listener {}: {text}", settings.name))?;
            let earlier = now.listeners.iter().find(|one| one.name == settings.name);
            changes.kept.push(KeptListener {
                listener: Arc::clone(listener),
                acceptance,
                settings: settings.clone(),
                is_access_new: earlier.is_none_or(|earlier| earlier.access != settings.access),
                asks_less: matches!(settings.address, Address::Unix(_))
                    && earlier.is_none_or(|earlier| may_ask_less(earlier, settings)),
            });
        }
        Ok(changes)
    }

    /// Begins to change who may connect to unix sockets: the one change that can still fail. It takes away only; and who has come by what
    /// was until now is accepted by the settings until now: the kernel has asked who may connect, and asks no more.
    ///
    /// # Errors
    /// Says in words that a file is not ours to change, or that those who have come are not accepted; all files are as they were once this
    /// is dropped.
    pub(super) async fn begin_access(&mut self) -> Result<(), String> {
        // All of them: the file may be another than the settings in force say.
        for kept in &self.kept {
            self.access
                .begin(&kept.listener, &kept.settings, kept.is_access_new)?;
        }
        for kept in self.kept.iter().filter(|kept| kept.asks_less) {
            kept.listener.take_queued().await?;
        }
        self.access.regroup()
    }

    /// Puts the changes in force, unless respool drains: what was prepared is undone then as it is dropped.
    pub(super) async fn put_in_force(self, open: &OpenListeners, intake: &Arc<ClientIntake>) {
        if intake.takes_nobody() {
            tracing::info!(
                "the listeners stay as they are: respool drains, and accepts no client any more"
            );
            return;
        }
        let Self {
            opened,
            kept,
            closed,
            access,
        } = self;
        let mut now = Vec::new();
        for kept in kept {
            kept.listener.change(kept.acceptance, kept.settings.backlog);
            now.push(kept.listener);
        }
        // Only now: whoever it lets in is met by all that the reload is about.
        access.finish();
        for listener in closed {
            let name = listener.name();
            if tokio::time::timeout(CLOSED_WITHIN, listener.close())
                .await
                .is_err()
            {
                tracing::error!("the listener {name} is not closed yet");
            } else {
                tracing::info!("listens no longer on {name}; its clients stay until they leave");
            }
        }
        for opened in opened {
            let listener = Arc::clone(&opened.listener);
            if opened.begin(intake).await {
                tracing::info!("listens on {}", listener.name());
                now.push(listener);
            }
        }
        open.replace(now);
    }
}

/// Tells whether clients may have to show less than earlier, or be more: operators.
fn may_ask_less(earlier: &ListenerSettings, next: &ListenerSettings) -> bool {
    let authorities = |tls: &ListenerTls| tls.client_authorities.clone();
    let is_other_tls = earlier.tls.is_some()
        && earlier.tls.as_ref().map(authorities) != next.tls.as_ref().map(authorities);
    is_other_tls || earlier.admin != next.admin
}

/// Says so where a listener that is to be closed has the port of one that is to be opened.
fn in_the_way(text: String, settings: &ListenerSettings, closed: &[Arc<OpenListener>]) -> String {
    let port = |address: &Address| match address {
        Address::Tcp { port, .. } => Some(*port),
        Address::Unix(_) => None,
    };
    let wanted = port(&settings.address).map(|port| format!(":{port}"));
    let other = closed.iter().find(|one| {
        wanted
            .as_ref()
            .is_some_and(|port| one.name().ends_with(port))
    });
    match other {
        None => text,
        Some(other) => format!(
            "{text}; {} has this port: remove it in a reload of its own first, and add {} in the next",
            other.name(),
            settings.name
        ),
    }
}
