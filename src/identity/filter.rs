//! Whom a `CLIENT KILL` or a `CLIENT LIST` means. What may be asked for, and how what is wrong with it is said, differs by
//! server (`parse`).

mod parse;

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use super::line::letters;
use super::{ClientFlag, ClientNames, ClientRecord, ClientRegistry, PeerAddress, shown_user};
use crate::resp::speak::encode_request;

/// A class of clients that Redis tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientType {
    /// It is everybody who is nothing else, MONITOR included.
    Normal,
    /// No client of respool is one: it has the server's replicas refused.
    Master,
    /// No client of respool is one of these either.
    Replica,
    /// It has at least one subscription.
    Pubsub,
}

impl ClientType {
    /// Returns the class of a client.
    pub fn of(record: &ClientRecord) -> Self {
        if record.has(ClientFlag::Pubsub) {
            Self::Pubsub
        } else {
            Self::Normal
        }
    }
}

/// Says by what a client may be told. What is not given says nothing of anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct ClientTraits {
    /// Lists numbers in their order, none of them twice.
    ids: Option<Vec<u64>>,
    class: Option<ClientType>,
    user: Option<Box<[u8]>>,
    addr: Option<Box<[u8]>>,
    laddr: Option<Box<[u8]>>,
    ip: Option<Box<[u8]>>,
    name: Option<Box<[u8]>>,
    lib_name: Option<Box<[u8]>>,
    lib_ver: Option<Box<[u8]>>,
    /// Holds letters of `flags`, all of which the client must have.
    flags: Option<Box<[u8]>>,
    /// Holds letters of `capa`, all of which the client must have.
    capabilities: Option<Box<[u8]>>,
    database: Option<u32>,
}

impl ClientTraits {
    /// Tells for each that is given whether it is true of `record`.
    fn of<'a>(&'a self, record: &'a ClientRecord) -> impl Iterator<Item = bool> + 'a {
        let is =
            |wanted: &Option<Box<[u8]>>, text: &dyn Fn(&[u8]) -> bool| wanted.as_deref().map(text);
        let names = self.is_about_names().then(|| record.names());
        let names = names.as_deref();
        // No name is no text, not even the empty one.
        let is_named = |wanted: &Option<Box<[u8]>>, name: fn(&ClientNames) -> &[u8]| {
            is(wanted, &|wanted| {
                !wanted.is_empty() && names.is_some_and(|names| name(names) == wanted)
            })
        };
        let told = [
            self.ids
                .as_ref()
                .map(|ids| ids.binary_search(&record.id()).is_ok()),
            self.class.map(|class| ClientType::of(record) == class),
            is(&self.user, &|wanted| {
                names.is_some_and(|names| wanted == shown_user(&names.user))
            }),
            is(&self.addr, &|wanted| is_written(record.peer(), wanted)),
            is(&self.laddr, &|wanted| is_written(record.laddr(), wanted)),
            is(&self.ip, &|wanted| is_host(record.peer(), wanted)),
            is_named(&self.name, |names| &names.name),
            is_named(&self.lib_name, |names| &names.lib_name),
            is_named(&self.lib_ver, |names| &names.lib_ver),
            is(&self.flags, &|wanted| {
                let flags = letters(record);
                wanted.iter().all(|flag| flags.as_bytes().contains(flag))
            }),
            is(&self.capabilities, &|wanted| {
                wanted.iter().all(|_| record.has(ClientFlag::Redirects))
            }),
            self.database.map(|database| record.db.get() == database),
        ];
        told.into_iter().flatten()
    }

    /// Tells whether it takes a look at what the client, or somebody else, may be changing: everything else is read for nothing.
    fn is_about_names(&self) -> bool {
        [&self.user, &self.name, &self.lib_name, &self.lib_ver]
            .iter()
            .any(|wanted| wanted.is_some())
    }

    /// Brings the numbers into their order once all are there.
    fn order_ids(&mut self) {
        if let Some(ids) = &mut self.ids {
            ids.sort_unstable();
            ids.dedup();
        }
    }
}

/// Tells whether the address, without its port, is written so.
fn is_host(peer: &PeerAddress, wanted: &[u8]) -> bool {
    match peer {
        PeerAddress::Tcp(address) => match address.ip() {
            IpAddr::V4(ip) => is_written(ip, wanted),
            IpAddr::V6(ip) => is_written(ip, wanted),
        },
        PeerAddress::Unix(path) => path.as_bytes() == wanted,
    }
}

/// Tells whether `thing` is written so; it is written no further than to where it is not.
fn is_written(thing: impl fmt::Display, wanted: &[u8]) -> bool {
    struct UnwrittenRest<'a>(&'a [u8]);

    impl fmt::Write for UnwrittenRest<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(text.as_bytes()).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    let mut rest = UnwrittenRest(wanted);
    write!(rest, "{thing}").is_ok() && rest.0.is_empty()
}

/// Selects the clients to which all given filters apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFilter {
    is: ClientTraits,
    is_not: ClientTraits,
    max_age_s: Option<u64>,
    idle_s: Option<u64>,
    skip_me: bool,
    /// Holds pairs of words about which the server alone knows whether they are wrong: users and databases that there may not be.
    unsure: Vec<[Box<[u8]>; 2]>,
}

impl ClientFilter {
    /// Tells whether `record` is meant when the client `own_id` asks at `now_ms`.
    pub fn selects(&self, record: &ClientRecord, own_id: u64, now_ms: u64) -> bool {
        let age_s = now_ms.saturating_sub(record.created_ms()) / 1000;
        !(self.skip_me && record.id() == own_id)
            && self.max_age_s.is_none_or(|least| age_s >= least)
            && self
                .idle_s
                .is_none_or(|least| record.idle_ms(now_ms) / 1000 >= least)
            && self.is.of(record).all(|is| is)
            && !self.is_not.of(record).any(|is| is)
    }

    /// Returns those who are meant, by their numbers.
    fn choose(
        &self,
        registry: &ClientRegistry,
        own_id: u64,
        now_ms: u64,
    ) -> Vec<Arc<ClientRecord>> {
        let is_meant = |record: &ClientRecord| self.selects(record, own_id, now_ms);
        match &self.is.ids {
            None => registry.select(is_meant),
            Some(ids) => {
                let named = ids.iter().filter_map(|&id| registry.find(id));
                named.filter(|record| is_meant(record)).collect()
            }
        }
    }

    /// Counts how many clients are looked at for that.
    fn price(&self, registry: &ClientRegistry) -> usize {
        self.is
            .ids
            .as_ref()
            .map_or_else(|| registry.len(), Vec::len)
    }

    /// Returns the request by which the server says what is wrong with the words about which it alone knows, and which otherwise concerns
    /// nobody; `None`: there are no such words.
    fn question(&self, subcommand: &str) -> Option<Vec<u8>> {
        if self.unsure.is_empty() {
            return None;
        }
        let nobody = i64::MAX.to_string();
        let mut words = vec![b"CLIENT".as_slice(), subcommand.as_bytes()];
        words.extend(self.unsure.iter().flatten().map(|word| &**word));
        words.extend([b"ID".as_slice(), nobody.as_bytes()]);
        Some(encode_request(&words))
    }
}

/// Says whom a `CLIENT KILL` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillFilter {
    clients: ClientFilter,
    is_old_form: bool,
}

impl KillFilter {
    /// Tells whether this is `CLIENT KILL addr`, answered by `+OK` or the error `ERR No such client` rather than by a count.
    pub fn is_old_form(&self) -> bool {
        self.is_old_form
    }

    /// Tells whether `record` is meant when the client `own_id` asks at `now_ms`.
    pub fn selects(&self, record: &ClientRecord, own_id: u64, now_ms: u64) -> bool {
        self.clients.selects(record, own_id, now_ms)
    }

    /// Returns those who are meant when the client `own_id` asks at `now_ms`, by their numbers.
    pub fn choose(
        &self,
        registry: &ClientRegistry,
        own_id: u64,
        now_ms: u64,
    ) -> Vec<Arc<ClientRecord>> {
        self.clients.choose(registry, own_id, now_ms)
    }

    /// Counts how many clients are looked at for that.
    pub fn price(&self, registry: &ClientRegistry) -> usize {
        self.clients.price(registry)
    }
}

/// Says whom a `CLIENT LIST` lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListFilter {
    /// It lists these, in this order, one line for each time one is named; unknown ones are left out. So Redis understands `ID`.
    Ids(Vec<i64>),
    /// It lists these, by their numbers.
    Clients(Box<ClientFilter>),
}

impl ListFilter {
    /// Returns the clients listed when the client `own_id` asks at `now_ms`, in the order of their lines.
    pub fn choose(
        &self,
        registry: &ClientRegistry,
        own_id: u64,
        now_ms: u64,
    ) -> Vec<Arc<ClientRecord>> {
        match self {
            Self::Ids(ids) => ids
                .iter()
                .filter_map(|&id| u64::try_from(id).ok())
                .filter_map(|id| registry.find(id))
                .collect(),
            Self::Clients(filter) => filter.choose(registry, own_id, now_ms),
        }
    }

    /// Counts how many clients are looked at for that.
    pub fn price(&self, registry: &ClientRegistry) -> usize {
        match self {
            Self::Ids(ids) => ids.len(),
            Self::Clients(filter) => filter.price(registry),
        }
    }
}
