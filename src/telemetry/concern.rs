//! What about the server is not as it should be and yet no fault: told in `/status` while it holds, and logged when it begins.

use super::ServerSnapshot;
use crate::config::ServerRole;

/// Says from how many tenths of the server's `maxclients` on it is nearly full.
const NEARLY_FULL_TENTHS: u64 = 9;

/// Names what is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorConcern {
    /// The server has hardly a place left for clients.
    NearlyFull,
    /// It takes writes, though it is configured as a replica.
    NotAReplica,
    /// It is a replica, though it is configured as the primary.
    NotAPrimary,
    /// It does not tell how it is.
    InfoRefused,
}

impl OperatorConcern {
    /// Says in few words what it is.
    pub fn label(self) -> &'static str {
        match self {
            Self::NearlyFull => "the server is nearly full",
            Self::NotAReplica => "the server is no replica",
            Self::NotAPrimary => "the server is no primary",
            Self::InfoRefused => "the server refuses INFO",
        }
    }
}

impl ServerSnapshot {
    /// Lists what is not as it should be with a server that is configured as `role`, each with a line for the operator.
    pub fn concerns(&self, role: ServerRole) -> Vec<(OperatorConcern, String)> {
        let mut concerns = Vec::new();
        let address = &self.address;
        if let (Some(connected), Some(max)) = (self.connected_clients, self.maxclients)
            && connected.saturating_mul(10) >= max.saturating_mul(NEARLY_FULL_TENTHS)
        {
            let text = format!(
                "the server {address} is nearly full: {connected} of {max} clients (its maxclients), respool's connections \
                 among them; past that it takes nobody"
            );
            concerns.push((OperatorConcern::NearlyFull, text));
        }
        match (role, self.role.as_str()) {
            (ServerRole::Replica, "master") => {
                let text = format!(
                    "the server {address} says that it is a primary, and upstream.role = \"replica\" refuses writes all the \
                     same: check upstream.address, or set upstream.role = \"primary\""
                );
                concerns.push((OperatorConcern::NotAReplica, text));
            }
            (ServerRole::Primary, "replica") => {
                let text = format!(
                    "the server {address} says that it is a replica, which takes no writes: check upstream.address, or set \
                     upstream.role = \"replica\" for a reader endpoint"
                );
                concerns.push((OperatorConcern::NotAPrimary, text));
            }
            _ => {}
        }
        if let Some(refusal) = &self.refusal {
            let text = format!(
                "the server {address} does not answer INFO ({refusal}): respool_server_connected_clients, \
                 respool_server_maxclients and respool_server_blocked_clients may be absent; permit INFO to respool's user \
                 (ACL: +info), or set upstream.health_interval = \"0s\""
            );
            concerns.push((OperatorConcern::InfoRefused, text));
        }
        concerns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concerns(server: &ServerSnapshot, role: ServerRole) -> Vec<OperatorConcern> {
        let concerns = server.concerns(role);
        concerns.into_iter().map(|(concern, _)| concern).collect()
    }

    #[test]
    fn a_server_is_nearly_full_from_nine_tenths_on() {
        let of = |connected, max| {
            let server = ServerSnapshot {
                connected_clients: connected,
                maxclients: max,
                ..ServerSnapshot::default()
            };
            concerns(&server, ServerRole::Primary)
        };
        assert_eq!(of(Some(90), Some(100)), [OperatorConcern::NearlyFull]);
        assert_eq!(of(Some(89), Some(100)), []);
        assert_eq!(
            of(Some(u64::MAX), Some(u64::MAX)),
            [OperatorConcern::NearlyFull]
        );
        assert_eq!(of(None, Some(100)), []);
        assert_eq!(of(Some(100), None), []);
    }

    #[test]
    fn a_server_in_another_role_is_told_once_it_says_so() {
        let of = |says: &str, role| {
            let server = ServerSnapshot {
                role: says.to_owned(),
                ..ServerSnapshot::default()
            };
            concerns(&server, role)
        };
        assert_eq!(
            of("master", ServerRole::Replica),
            [OperatorConcern::NotAReplica]
        );
        assert_eq!(
            of("replica", ServerRole::Primary),
            [OperatorConcern::NotAPrimary]
        );
        for (says, role) in [
            ("master", ServerRole::Primary),
            ("replica", ServerRole::Replica),
            ("", ServerRole::Replica),
        ] {
            assert_eq!(of(says, role), [], "{says}");
        }
    }
}
