//! What `limits.max_memory` has to suffice for: the clients that may be there, and respool itself.

use super::Limits;
use super::file::WrittenFile;
use super::problem::ConfigProblem;
use super::value::size_text;

/// A client that is connected and does nothing costs this: 2.3 KiB were measured, without TLS.
pub const CLIENT_BYTES: usize = 3 * 1024;

/// A client that is connected with TLS and does nothing costs this: some 10 KiB were measured.
pub const TLS_CLIENT_BYTES: usize = 10 * 1024;

/// respool takes this without a client: 8.2 to 8.9 MiB were measured with one to four workers.
pub const PROCESS_BYTES: usize = 9 * 1024 * 1024;

/// Returns the least `limits.max_memory` for so many clients, who take `client_bytes` each: they have half of it, and with respool itself
/// three quarters. An eighth is kept free, and one remains for what they hold.
pub const fn memory_for(clients: usize, client_bytes: usize) -> usize {
    let standing = clients.saturating_mul(client_bytes);
    let (of_clients, of_all) = (
        standing.saturating_mul(2),
        standing
            .saturating_add(PROCESS_BYTES)
            .div_ceil(3)
            .saturating_mul(4),
    );
    if of_clients > of_all {
        of_clients
    } else {
        of_all
    }
}

pub(super) const MEMORY: &str = "limits.max_memory";
pub(super) const CLIENTS: &str = "limits.max_clients";

/// Says what is wrong with `limits.max_memory` when a client takes so much, and what to do about it.
pub(super) fn too_little(
    limits: &Limits,
    client_bytes: usize,
    kind: &str,
) -> Option<(String, String)> {
    const MIB: usize = 1024 * 1024;
    let needed = memory_for(limits.max_clients, client_bytes);
    if needed <= limits.max_memory {
        return None;
    }
    let size = |bytes: usize| size_text(bytes as u64);
    let of_all = (limits.max_memory / 4 * 3).saturating_sub(PROCESS_BYTES);
    let fit = of_all.min(limits.max_memory / 2) / client_bytes;
    let what = format!(
        "{} is too little for {} clients{kind} ({CLIENTS}) of {} each, which have half of it, and with respool's own {} three quarters",
        size(limits.max_memory),
        limits.max_clients,
        size(client_bytes),
        size(PROCESS_BYTES),
    );
    let needed = size(needed.div_ceil(MIB) * MIB);
    let mut remedy = format!("set max_memory to at least \"{needed}\"");
    if fit > 0 {
        remedy += &format!(", or max_clients to at most {fit}");
    }
    Some((what, remedy))
}

/// Warns where `limits.max_memory` may not be kept: it follows from the machine, or clients come with TLS, and all may be there at once.
pub(super) fn memory_warnings(
    file: &WrittenFile,
    limits: &Limits,
    has_tls: bool,
) -> Vec<ConfigProblem> {
    let is_written = file.line(MEMORY).is_some();
    let plain = too_little(limits, CLIENT_BYTES, "");
    let found = match plain {
        Some(_) if is_written => None,
        None if has_tls => too_little(limits, TLS_CLIENT_BYTES, " with TLS"),
        plain => plain,
    };
    let line = file.line(MEMORY).or_else(|| file.line(CLIENTS));
    let warning = found.map(|(what, remedy)| ConfigProblem::new(line, MEMORY, what, remedy));
    warning.into_iter().collect()
}
