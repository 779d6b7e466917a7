//! A few lines that say what a configuration means, for `respool check` and the start of a run.

use std::fmt::Write;

use super::value::duration_text;
use super::{
    AdminAddress, AdminSettings, AtLimit, AuthMode, AuthSettings, CapMode, CapScope, ClientGroup,
    ListenerSettings, SecretSource, ServerLogin, ServerVerification, Settings, TrustedAuthorities,
    UpstreamTls,
};

/// Tells the gist of `settings` in some lines, without a newline after the last. Nothing secret is in it.
pub fn report(settings: &Settings) -> String {
    let mut text = String::new();
    let names: Vec<String> = settings.listeners.iter().map(listener_text).collect();
    let upstream = &settings.upstream;
    let tls = upstream.tls.as_ref().map(tls_text).unwrap_or_default();
    let authentication = upstream.login.as_ref().map(login_text).unwrap_or_default();
    let (total, shared) = (upstream.max_connections, upstream.shared_connections);
    let lent = total.saturating_sub(shared);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "listens on        {}", names.join(", "));
    let _ = writeln!(
        text,
        "server            {}{tls}{authentication}: at most {total} connections, {shared} shared and {lent} to lend",
        upstream.address
    );
    if let Some(clients) = clients_text(&settings.auth) {
        let _ = writeln!(text, "clients           {clients}");
    }
    let _ = writeln!(
        text,
        "workers           {} (instance {:?})",
        settings.workers, settings.instance
    );
    let _ = writeln!(
        text,
        "memory            at most {} (limits.max_memory)",
        rounded(settings.limits.max_memory)
    );
    let _ = writeln!(text, "admin endpoint    {}", admin_text(&settings.admin));
    for group in settings.order.iter().map(|&index| &settings.groups[index]) {
        let _ = writeln!(
            text,
            "group             {}",
            group_text(group, settings.limits.max_clients)
        );
    }
    let _ = write!(text, "file descriptors  {}", descriptors(settings));
    text
}

/// Writes a size in whole mebibytes, since a share of the machine's memory is seldom a round number.
fn rounded(bytes: usize) -> String {
    format!("{}MiB", bytes >> 20)
}

fn listener_text(listener: &ListenerSettings) -> String {
    let tls = match &listener.tls {
        None => "",
        Some(tls) if tls.client_authorities.is_some() => " (TLS, with client certificates)",
        Some(_) => " (TLS)",
    };
    let operators = if listener.admin {
        " (for operators)"
    } else {
        ""
    };
    format!("{}{tls}{operators}", listener.name)
}

fn admin_text(admin: &AdminSettings) -> String {
    let text = match &admin.address {
        None => "off".to_owned(),
        Some(AdminAddress::Tcp(address)) => format!("http://{address}"),
        Some(address) => address.to_string(),
    };
    let token = match (&admin.token, admin.read_token) {
        (None, _) => "",
        (Some(_), false) => ", a reload takes a token",
        (Some(_), true) => ", all but health takes a token",
    };
    let health = match &admin.health_address {
        None => String::new(),
        Some(address) => format!(", health at {address}"),
    };
    format!("{text}{token}{health}")
}

fn tls_text(tls: &UpstreamTls) -> String {
    let name = tls.server_name.to_str();
    let trust = match (tls.verification, &tls.authorities) {
        (ServerVerification::Skipped, _) => return format!(", TLS to {name:?} NOT VERIFIED"),
        (_, TrustedAuthorities::System) => "the system's authorities".to_owned(),
        (_, TrustedAuthorities::Given(list)) => format!("{} of ca_file", list.len()),
    };
    let identity = if tls.identity.is_some() {
        ", with a client certificate"
    } else {
        ""
    };
    format!(", TLS verified as {name:?} by {trust}{identity}")
}

fn login_text(login: &ServerLogin) -> String {
    let user = match &login.username {
        Some(user) => format!(", as user {user:?}"),
        None => String::new(),
    };
    let what = match login.sources.as_slice() {
        [SecretSource::Iam(_)] => " with tokens of IAM",
        [SecretSource::Command(_)] => " with what password_command prints",
        [_] => " with a password",
        _ => " with one of two passwords",
    };
    format!("{}{what}", if user.is_empty() { "," } else { &user })
}

fn clients_text(auth: &AuthSettings) -> Option<String> {
    match auth.mode {
        AuthMode::Optional => None,
        AuthMode::None => Some("not authenticated (auth.mode)".to_owned()),
        AuthMode::Proxy => Some(format!(
            "authenticated by {} users of the configuration (auth.mode)",
            auth.users.len()
        )),
        AuthMode::Passthrough => Some("authenticated by the server (auth.mode)".to_owned()),
    }
}

fn descriptors(settings: &Settings) -> String {
    format!(
        "{} needed: {} clients + {} operators + {} rejected + {} to the server + {} listeners + {} spare",
        settings.descriptors_needed(),
        settings.limits.max_clients,
        settings.limits.operator_places,
        settings.limits.max_rejected,
        settings.upstream.max_connections,
        settings.listeners.len(),
        settings.spare_descriptors(),
    )
}

fn group_text(group: &ClientGroup, max_clients: usize) -> String {
    let each = match group.per {
        CapScope::Group => "",
        CapScope::Address { .. } => " for each address",
        CapScope::ClientName => " for each client name",
        CapScope::User => " for each user",
    };
    let mut parts = vec![match group.max_connections {
        Some(cap) => format!("at most {cap}{each}"),
        None => format!("no cap of its own (limits.max_clients {max_clients})"),
    }];
    parts.extend(
        group
            .warn_connections
            .map(|warn| format!("warned of from {warn}")),
    );
    parts.extend(
        group
            .max_connects_per_second
            .map(|rate| format!("{rate} connects a second")),
    );
    parts.extend(group.max_pinned.map(|pinned| format!("{pinned} pinned")));
    if !group.idle_timeout.is_zero() {
        parts.push(format!(
            "closed after {} idle",
            duration_text(group.idle_timeout)
        ));
    }
    if group.at_limit == AtLimit::EvictIdle {
        parts.push("evicts idle clients".to_owned());
    }
    if !group.deny_commands.is_empty() {
        parts.push(format!("denied {}", group.deny_commands.join(" ")));
    }
    if group.mode == CapMode::Observe {
        parts.push("only observed".to_owned());
    }
    format!("{}: {}", group.name, parts.join(", "))
}
