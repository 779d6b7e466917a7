//! Settings and identities for the tests.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::config::{
    Address, Glob, Limits, LogFormat, LogSettings, OnSubscriptionLoss, QueueBounds,
    ReconnectDelays, ReloadSettings, ServerRole, UpstreamSettings, WrittenDefaults,
};

pub(super) fn group(name: &str) -> ClientGroup {
    ClientGroup {
        name: name.to_owned(),
        matches: GroupMatch::default(),
        per: CapScope::Group,
        max_connections: None,
        warn_connections: None,
        max_connects_per_second: None,
        max_pinned: None,
        idle_timeout: Duration::ZERO,
        at_limit: AtLimit::Reject,
        evict_pause: Duration::ZERO,
        max_evictions_per_second: 1_000_000,
        mode: CapMode::Enforce,
        deny_commands: Vec::new(),
    }
}

pub(super) fn glob(text: &str) -> Option<Glob> {
    Some(Glob(
        globset::Glob::new(text).expect("a glob").compile_matcher(),
    ))
}

fn log() -> LogSettings {
    LogSettings {
        buffer: 0,
        level: "info".to_owned(),
        format: LogFormat::Text,
    }
}

fn limits(max_clients: usize, max_rejected: usize) -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        max_clients,
        max_memory: 1,
        max_client_buffer: 1,
        reply_stall_timeout: second,
        pubsub_buffer: 1,
        max_client_subscriptions: 1,
        max_client_in_flight: 1,
        max_client_read_ahead: 1,
        max_client_query_buffer: 1,
        max_request: 1,
        idle_timeout: Duration::ZERO,
        handshake_timeout: Duration::ZERO,
        half_closed_grace: Duration::ZERO,
        request_stall_timeout: Duration::ZERO,
        upload_patience: Duration::ZERO,
        keepalive: Duration::ZERO,
        explain_rejections: false,
        reject_hold: second,
        max_rejected,
        max_arriving: 0,
        arriving_timeout: Duration::ZERO,
        operator_places: 0,
        enforce_on_reload: false,
    }
}

pub(super) fn settings(
    max_clients: usize,
    max_rejected: usize,
    mut groups: Vec<ClientGroup>,
) -> Settings {
    let second = Duration::from_secs(1);
    groups.push(group("default"));
    Settings {
        workers: 1,
        written: WrittenDefaults {
            workers: true,
            instance: true,
        },
        order: (0..groups.len()).collect(),
        reload: ReloadSettings {
            watch: false,
            interval: second,
        },
        instance: "test".to_owned(),
        drain: Default::default(),
        drain_timeout: second,
        stall_timeout: second,
        listeners: Vec::new(),
        warnings: Vec::new(),
        auth: Default::default(),
        upstream: UpstreamSettings {
            tls: None,
            address: Address::Tcp {
                host: "127.0.0.1".to_owned(),
                port: 6379,
            },
            role: ServerRole::Primary,
            hosts_file: None,
            resolve_interval: second,
            move_timeout: second,
            max_connects_per_second: 1,
            circuit_after: second,
            max_connections: 2,
            shared_connections: 1,
            connect_timeout: second,
            reply_timeout: second,
            busy_timeout: second,
            keepalive: second,
            ping_interval: Duration::ZERO,
            health_interval: Duration::ZERO,
            reconnect: ReconnectDelays {
                initial: second,
                max: second,
            },
            queue: QueueBounds {
                timeout: second,
                max_commands: 1,
            },
            borrow_timeout: second,
            max_write_buffer: 1,
            max_shared_request: 1,
            on_subscription_loss: OnSubscriptionLoss::Resubscribe,
            login: None,
            reauthenticate_after: Duration::ZERO,
        },
        limits: limits(max_clients, max_rejected),
        groups,
        operators: Vec::new(),
        admin: Default::default(),
        log: log(),
    }
}

pub(super) fn admission(groups: Vec<ClientGroup>) -> Arc<Admission> {
    Admission::new(&settings(1000, 10, groups))
}

pub(super) fn tcp(address: &str) -> Identity {
    let address: SocketAddr = address.parse().expect("an address");
    Identity::new(PeerAddress::Tcp(address), Arc::from("127.0.0.1:6380"))
}

pub(super) fn named(name: &str) -> Identity {
    Identity {
        name: Box::from(name.as_bytes()),
        ..tcp("127.0.0.1:5000")
    }
}

pub(super) fn by_user(user: &str) -> Identity {
    Identity {
        user: Box::from(user.as_bytes()),
        ..tcp("127.0.0.1:5000")
    }
}
