//! Why somebody was refused: for the log, for the metric and for the client.

use std::fmt;
use std::sync::Arc;

use super::damping::DampedReason;
use super::key::CountKey;
use super::log_line::LogLine;
use super::{GroupId, GroupPlace, GroupRule};
use crate::config::CapScope;
use crate::identity::ClientRecord;
use crate::texts::TOO_MANY_CLIENTS;

/// Says why a newcomer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// All groups together are at `limits.max_clients`.
    MaxClients,
    /// The group, or the newcomer's key in it, is at `group.max_connections`.
    GroupCap,
    /// The group, or the newcomer's key in it, is at `group.max_connects_per_second`.
    ConnectRate,
}

impl RefusalReason {
    /// Lists every reason, in the order of the metrics.
    pub const ALL: [Self; 3] = [Self::MaxClients, Self::GroupCap, Self::ConnectRate];

    /// Returns its value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::MaxClients => "max_clients",
            Self::GroupCap => "group_cap",
            Self::ConnectRate => "connect_rate",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::MaxClients => "limits.max_clients",
            Self::GroupCap => "group.max_connections",
            Self::ConnectRate => "group.max_connects_per_second",
        }
    }
}

/// Says what was missing for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlaceShortfall {
    pub(super) reason: RefusalReason,
    pub(super) count: usize,
    pub(super) cap: usize,
    pub(super) evict: bool,
    /// Says why nobody is evicted where the group does that.
    pub(super) damped: Option<DampedReason>,
}

/// Refuses a client that may not come. Shown, it says what is full, how full, and by which setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionRefusal {
    /// The group it would have been in.
    pub group: GroupId,
    /// Names the group for people.
    group_name: Arc<str>,
    /// Says why it is refused.
    pub reason: RefusalReason,
    /// Counts those there are: clients, or connects within the last second.
    pub count: usize,
    /// Bounds how many there may be.
    pub cap: usize,
    /// The address, client name or user by which the group counts, in words; `None`: it counts as a whole.
    pub key: Option<String>,
    /// The group makes room by closing one of its own: the caller may do so and ask again.
    pub evict: bool,
    /// Says why nobody is closed for it where the group does that.
    pub damped: Option<DampedReason>,
    per: CapScope,
    place_key: CountKey,
}

impl AdmissionRefusal {
    pub(super) fn new(rule: &GroupRule, place: &GroupPlace, shortfall: PlaceShortfall) -> Self {
        Self {
            group: place.group,
            group_name: Arc::clone(&rule.name),
            reason: shortfall.reason,
            count: shortfall.count,
            cap: shortfall.cap,
            key: place.key.shown(),
            evict: shortfall.evict,
            damped: shortfall.damped,
            per: rule.per,
            place_key: place.key.clone(),
        }
    }

    /// Tells whether closing this client would make the room that is missing: it counts in the same group under the same key.
    pub fn frees(&self, record: &ClientRecord) -> bool {
        record.group.get() as usize == self.group.index() && {
            let names = record.names();
            CountKey::of(self.per, record.peer(), &names.name, &names.user) == self.place_key
        }
    }

    /// Returns the reply to each command of the refused client. Client libraries compare the plain text byte for byte; `explain`
    /// (`limits.explain_rejections`) appends group, count and cap.
    pub fn client_text(&self, explain: bool) -> Vec<u8> {
        let Self {
            count, cap, reason, ..
        } = self;
        let setting = reason.setting();
        let name = self.group_name.replace(char::is_control, " ");
        let detail = match reason {
            _ if !explain => String::new(),
            RefusalReason::MaxClients => format!(" ({count} of {cap}, {setting})"),
            RefusalReason::GroupCap => format!(" (group \"{name}\": {count} of {cap}, {setting})"),
            RefusalReason::ConnectRate => {
                format!(" (group \"{name}\": {count} of {cap} a second, {setting})")
            }
        };
        format!("{TOO_MANY_CLIENTS}{detail}\r\n").into_bytes()
    }
}

impl fmt::Display for AdmissionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group_name,
            count,
            cap,
            reason,
            ..
        } = self;
        let setting = reason.setting();
        let of_key = OfKey(self.key.as_deref());
        match reason {
            RefusalReason::MaxClients => {
                write!(
                    f,
                    "there are as many clients as there may be, {count} of {cap} in all groups and arriving ({setting}); "
                )?;
                write!(f, "refused one of group \"{group_name}\"")
            }
            RefusalReason::GroupCap => {
                write!(
                    f,
                    "group \"{group_name}\" is at its cap{of_key}: {count} of {cap} connections ({setting}){}",
                    self.damped.map_or("", DampedReason::text)
                )
            }
            RefusalReason::ConnectRate => {
                write!(f, "group \"{group_name}\" is at its connect rate{of_key}: ")?;
                write!(f, "{count} of {cap} connections a second ({setting})")
            }
        }
    }
}

/// Returns the line for a group that has reached its warning threshold.
pub(super) fn warning(rule: &GroupRule, key: &CountKey, line: &LogLine) -> String {
    let key = key.shown();
    let (name, warn, of_key) = (
        &rule.name,
        rule.warn.unwrap_or_default(),
        OfKey(key.as_deref()),
    );
    let cap = rule.cap.map_or(String::new(), |cap| format!(" of {cap}"));
    format!(
        "group \"{name}\" has reached its warning threshold{of_key}: {warn}{cap} connections (group.warn_connections){line}"
    )
}

/// Returns the line for a refusal that mode `observe` did not carry out.
pub(super) fn would_reject(refusal: &AdmissionRefusal, line: &LogLine) -> String {
    format!("{refusal}; admitted, because group.mode is \"observe\"{line}")
}

/// Writes ` for address 10.0.0.1`, or nothing.
struct OfKey<'a>(Option<&'a str>);

impl fmt::Display for OfKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| write!(f, " for {key}"))
    }
}
