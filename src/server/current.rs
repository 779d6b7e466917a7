//! The server that is there now, as it has introduced itself: every worker goes by it, and each new connection may change it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwapOption, Guard};

use super::hello::ServerHello;
use super::info::ServerInfo;
use crate::command::Learned;
use crate::telemetry::ServerHealth;
use crate::texts::PackedVersion;

/// Holds what the server has said of itself, for all workers.
#[derive(Debug, Default)]
pub struct CurrentServer {
    /// `None` until the server was reached for the first time.
    hello: ArcSwapOption<ServerHello>,
    /// The version stands here for those who have no time to look it up there.
    version: AtomicU32,
}

impl CurrentServer {
    /// Returns what the server has said; `None` until it was reached for the first time.
    pub fn load(&self) -> Guard<Option<Arc<ServerHello>>> {
        self.hello.load()
    }

    /// Returns the same, to be kept.
    pub fn load_full(&self) -> Option<Arc<ServerHello>> {
        self.hello.load_full()
    }

    /// Returns whose words are spoken. It costs what reading a number costs.
    #[inline]
    pub fn packed_version(&self) -> PackedVersion {
        PackedVersion::of_bits(self.version.load(Ordering::Relaxed))
    }

    /// Takes in a server that has introduced itself on a new connection. Returns whether its commands may be others than before.
    pub fn greeted(&self, server: &ServerHello, health: &ServerHealth) -> bool {
        let knows = |known: &Option<Arc<ServerHello>>| {
            let mut server = server.clone();
            if let Some(known) = known {
                server.remember(known);
            }
            Some(Arc::new(server))
        };
        let known = self.hello.rcu(|known| knows(known));
        health.set_role(&server.role);
        self.tell_version(health);
        known.is_some_and(|known| server.has_other_commands(&known))
    }

    /// Takes in what the server has said in INFO. Returns what is another than what was said before.
    pub fn informed(&self, info: &ServerInfo, health: &ServerHealth) -> InfoChange {
        health.set_role(info.role.as_deref().unwrap_or_default());
        let known = self.hello.rcu(|known| {
            let mut server = known.as_deref().cloned()?;
            server.take_in(info);
            Some(Arc::new(server))
        });
        self.tell_version(health);
        let differs = |before: Option<u64>, now: Option<u64>| {
            before.is_some_and(|before| now.is_some_and(|now| now != before))
        };
        let run = known.as_ref().and_then(|known| known.run());
        let instance = known.as_ref().and_then(|known| known.instance());
        InfoChange {
            is_another_run: differs(run, info.run),
            has_other_modules: differs(instance, info.instance),
        }
    }

    /// Remembers that the server answers NOAUTH to whoever has not authenticated, be it that it was never reached.
    pub fn refuses_unauthenticated(&self) {
        self.hello.rcu(|known| {
            let mut server = known.as_deref().cloned().unwrap_or_default();
            server.refuses_unauthenticated = true;
            Some(Arc::new(server))
        });
    }

    /// Takes in the server's list of commands. Returns whether it is another one than before.
    pub fn listed(&self, learned: Learned) -> bool {
        let learned = Arc::new(learned);
        let before = self.hello.rcu(|server| {
            let mut server = server.as_deref().cloned().unwrap_or_default();
            server.learned = Some(Arc::clone(&learned));
            Some(Arc::new(server))
        });
        let before = before.as_ref().and_then(|server| server.learned.as_deref());
        before.is_none_or(|before| *before != *learned)
    }

    /// Tells whether the server's list of commands was read.
    pub fn has_list(&self) -> bool {
        let server = self.load();
        server
            .as_ref()
            .is_some_and(|server| server.learned.is_some())
    }

    /// Forgets the list of commands: the server has another address.
    pub fn forget_list(&self) {
        self.hello.rcu(|server| {
            let mut server = server.as_deref().cloned()?;
            server.learned = None;
            Some(Arc::new(server))
        });
    }

    /// Has everybody speak as the server that is known now.
    fn tell_version(&self, health: &ServerHealth) {
        let server = self.load();
        if let Some(name) = server.as_ref().and_then(|server| server.name()) {
            self.version
                .store(name.version.to_bits(), Ordering::Relaxed);
            health.set_version(name.version.product, &name.text);
        }
    }
}

/// Tells what INFO says that it did not say before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoChange {
    /// Another process of the server answers.
    pub is_another_run: bool,
    /// Another process answers, or its modules are others.
    pub has_other_modules: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_and_other_modules_are_told_apart() {
        let (server, health) = (
            CurrentServer::default(),
            ServerHealth::new("test".to_owned()),
        );
        let info = |run: u64, instance: u64| ServerInfo {
            run: Some(run),
            instance: Some(instance),
            ..ServerInfo::default()
        };
        let told = |info: &ServerInfo| {
            let change = server.informed(info, &health);
            (change.is_another_run, change.has_other_modules)
        };
        assert_eq!(told(&info(1, 1)), (false, false), "it was never reached");
        assert!(server.load().is_none());
        assert!(!server.greeted(&ServerHello::default(), &health));
        assert_eq!(told(&info(1, 1)), (false, false), "it had said nothing");
        assert_eq!(told(&info(1, 1)), (false, false));
        assert_eq!(told(&info(1, 2)), (false, true));
        assert_eq!(told(&info(3, 4)), (true, true));
        assert_eq!(told(&ServerInfo::default()), (false, false));
        assert_eq!(told(&info(3, 4)), (false, false), "silence forgets nothing");
    }
}
