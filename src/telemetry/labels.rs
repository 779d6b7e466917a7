//! The constant label values: why a client was disconnected, which bound was reached, how a connect ended.

/// Makes an enum whose variants index an array of counters, with the label of each beside it.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Lists every variant, in the order of its index.
            pub const ALL: [Self; [$($label),+].len()] = [$(Self::$variant),+];

            /// The value of the metric's label.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

labels! {
    /// Tells why a client's connection ended.
    Disconnect {
        /// The client closed its connection.
        Closed => "closed",
        /// The client sent QUIT.
        Quit => "quit",
        /// Reading or writing its socket failed.
        SocketError => "socket_error",
        /// It left more replies unread than `limits.max_client_buffer` and took none for `limits.reply_stall_timeout`, or as
        /// much of what nobody asks for (MONITOR, invalidations).
        OutputBuffer => "output_buffer",
        /// It sent more than `limits.max_client_query_buffer` behind a call that waits.
        QueryBuffer => "query_buffer",
        /// `limits.max_memory` left no room, and it was the largest holder.
        Memory => "memory",
        /// It left more messages unread than `limits.pubsub_buffer`.
        PubsubBuffer => "pubsub_buffer",
        /// Messages were lost with the connection to the server, or the server refused to renew a subscription
        /// (`upstream.on_subscription_loss = "close"`).
        SubscriptionLost => "subscription_lost",
        /// The server ended the connection of its subscriptions more than once: its messages were more than the server holds
        /// (`client-output-buffer-limit pubsub`).
        ServerBuffer => "server_buffer",
        /// It sent what the protocol, or `limits.max_request`, does not allow.
        ProtocolError => "protocol_error",
        /// It was silent for `idle_timeout`.
        IdleTimeout => "idle_timeout",
        /// It sent what is not TLS, or no certificate that is accepted, to a listener with TLS.
        TlsHandshake => "tls_handshake",
        /// The keys of its TLS 1.2 session have encrypted as much as they may.
        TlsKeys => "tls_keys",
        /// Its first request, or its TLS handshake, did not end within `limits.handshake_timeout`, or it did not authenticate.
        HandshakeTimeout => "handshake_timeout",
        /// It had sent its last byte, and what it waited for was not to be had (`limits.half_closed_grace`).
        HalfClosed => "half_closed",
        /// No byte of its large request came for `limits.request_stall_timeout`.
        RequestStalled => "request_stalled",
        /// Its large request did not go on while others waited for its connection (`limits.upload_patience`).
        UploadStalled => "upload_stalled",
        /// The server was lost while a command of this client may have been running.
        UpstreamLost => "upstream_lost",
        /// The server no longer takes the password its user had shown.
        AuthenticationLost => "authentication_lost",
        /// The server has deleted its user, or taken a channel from it that it was subscribed to.
        PermissionLost => "permission_lost",
        /// It was named by `CLIENT KILL`.
        Killed => "killed",
        /// It gave its place in the group to a newcomer (`at_limit = "evict-idle"`).
        Evicted => "evicted",
        /// A reload lowered a cap that it was past (`limits.enforce_on_reload`).
        OverCap => "over_cap",
        /// The group it moved to was full.
        Rejected => "rejected",
        /// The process is shutting down.
        Drained => "drained",
        /// It met a bug of respool in its path.
        Panic => "panic",
    }
}

labels! {
    /// Names a configured bound that was reached.
    Bound {
        /// The bound is `upstream.queue.max_commands`.
        QueueFull => "queue_full",
        /// The bound is `upstream.queue.timeout`.
        QueueTimeout => "queue_timeout",
        /// The bound is `upstream.borrow_timeout`.
        BorrowTimeout => "borrow_timeout",
        /// The bound is `upstream.max_write_buffer`.
        WriteBuffer => "write_buffer",
        /// The bound is `upstream.reply_timeout`.
        ReplyTimeout => "reply_timeout",
        /// The bound is `upstream.busy_timeout`.
        BusyTimeout => "busy_timeout",
        /// The bound is `auth.free_failures`: an attempt to authenticate waits for its turn.
        AuthDelayed => "auth_delayed",
        /// The bound is `auth.max_attempts_waiting`.
        AuthWaiting => "auth_waiting",
        /// The bound is `limits.max_client_read_ahead`: what a client sends behind a call that waits is kept apart.
        ReadAhead => "read_ahead",
        /// The bound is `limits.max_client_query_buffer`.
        QueryBuffer => "query_buffer",
        /// So many questions about permissions are under way that a client's has to wait.
        PermissionQuestions => "permission_questions",
        /// The server owes so much about channels for clients that have gone that one who subscribes has to wait.
        UnwantedTopics => "unwanted_topics",
        /// The bound is `limits.max_client_in_flight`.
        InFlight => "in_flight",
        /// The bound is a client's share of a shared connection: 5 ms of the server's time.
        ClientShare => "client_share",
        /// The bound is `limits.max_client_buffer`: the requests of a client wait for it to read.
        OutputBuffer => "output_buffer",
        /// The bound is `limits.reply_stall_timeout`.
        ReplyStall => "reply_stall",
        /// The bound is `limits.max_memory`.
        Memory => "memory",
        /// The bound is `limits.pubsub_buffer`.
        PubsubBuffer => "pubsub_buffer",
        /// The bound is `limits.max_client_subscriptions`.
        Subscriptions => "subscriptions",
        /// The bound is `limits.max_request`.
        Request => "request",
        /// The bound is `limits.idle_timeout`, or the group's.
        IdleTimeout => "idle_timeout",
        /// The bound is `limits.handshake_timeout`.
        HandshakeTimeout => "handshake_timeout",
        /// The bound is `limits.half_closed_grace`.
        HalfClosed => "half_closed_grace",
        /// The bound is `limits.request_stall_timeout`.
        RequestStall => "request_stall_timeout",
        /// The bound is `limits.upload_patience`.
        UploadPatience => "upload_patience",
        /// The bound is `limits.reject_hold`, or the number of commands answered while held.
        RejectHold => "reject_hold",
        /// The bound is `limits.max_rejected`.
        Rejected => "rejected",
        /// The bound is `limits.max_arriving`: a newcomer was placed before it could say who it is.
        Arriving => "arriving",
        /// The bound is `group.max_pinned`.
        Pinned => "pinned",
        /// The bound is `drain_timeout` of the process.
        Drain => "drain",
        /// The bound is `upstream.max_connects_per_second`.
        ConnectRate => "connect_rate",
        /// The bound is `upstream.move_timeout`.
        MoveTimeout => "move_timeout",
        /// The bound is `upstream.circuit.after`.
        Circuit => "circuit",
    }
}

labels! {
    /// Tells why a connection to the operator's endpoint, or a request on it, came to nothing.
    AdminRefusal {
        /// The connection made room for another (`admin.max_connections`).
        Displaced => "displaced",
        /// It was asked by a name that is none of `admin.hosts`.
        Host => "host",
        /// It did not show `admin.token`.
        Token => "token",
        /// It came from a page of another origin.
        Origin => "origin",
    }
}

labels! {
    /// Tells how an attempt to connect to the server ended.
    ConnectResult {
        /// The connection is up, and the handshake succeeded.
        Ok => "ok",
        /// The server's port refused.
        Refused => "refused",
        /// The time of `upstream.connect_timeout` passed.
        Timeout => "timeout",
        /// The server took the connection and refused the handshake (AUTH, HELLO, SELECT).
        HandshakeError => "handshake_error",
        /// The server has no place left (`maxclients`).
        MaxClients => "max_clients",
        /// The server took the connection, but is loading its data, or is a replica without its primary (LOADING,
        /// MASTERDOWN).
        Unready => "unready",
        /// The server took the connection, but there was no TLS: the certificate, its name, or a server that speaks
        /// none.
        TlsError => "tls_error",
        /// It failed otherwise: resolution, routing, a reset.
        Error => "error",
    }
}

labels! {
    /// Tells why a connection to the server was lost or left, or what the server said that it cannot do.
    LossCause {
        /// The connection was reset.
        Reset => "reset",
        /// The server closed the connection.
        Closed => "closed",
        /// Replies were due, and none came within `upstream.reply_timeout`.
        Timeout => "timeout",
        /// It was idle, and neither keepalive nor a question of respool's own was answered.
        HalfOpen => "half_open",
        /// The server was demoted: it answered READONLY where a primary was expected.
        Readonly => "readonly",
        /// The server closed it at a write, being a replica.
        ReplicaWriteClose => "replica_write_close",
        /// The server answered LOADING.
        Loading => "loading",
        /// The server answered MASTERDOWN.
        MasterDown => "masterdown",
        /// The address is not the server's any more.
        Moved => "moved",
        /// A reload changed how connections are opened: another took its place.
        Renewed => "renewed",
        /// The keys of its TLS 1.2 session had encrypted nearly as much as they may: another took its place.
        TlsKeys => "tls_keys",
        /// The server sent what is no RESP, or nobody had asked for.
        Protocol => "protocol",
        /// It was lost for another reason.
        Error => "error",
    }
}

labels! {
    /// Tells how a TLS handshake ended.
    TlsHandshake {
        /// It was made in full.
        Full => "full",
        /// It was spared by an earlier session.
        Resumed => "resumed",
        /// It ended without TLS.
        Failed => "failed",
    }
}

impl TlsHandshake {
    /// Tells how a handshake was made that came to an end.
    pub fn of(is_resumed: bool) -> Self {
        if is_resumed {
            Self::Resumed
        } else {
            Self::Full
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn variants_index_their_list_and_labels_differ() {
        let disconnects = Disconnect::ALL.map(|d| (d as usize, d.label())).to_vec();
        let bounds = Bound::ALL.map(|b| (b as usize, b.label())).to_vec();
        let connects = ConnectResult::ALL.map(|c| (c as usize, c.label())).to_vec();
        for list in [disconnects, bounds, connects] {
            assert!(list.iter().enumerate().all(|(at, (index, _))| at == *index));
            let labels: HashSet<_> = list.iter().map(|(_, label)| label).collect();
            assert_eq!(labels.len(), list.len());
        }
    }
}
