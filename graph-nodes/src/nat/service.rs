//! Services: destinations that several backends stand behind, one of which is chosen for each flow.
//!
//! ```text
//!  address, protocol, port ──► service ──► allowed sources ──► hash of the flow, or of the client ──► Maglev table ──► backend
//! ```
//!
//! Asked about a flow's first packet alone: the flow's record keeps what was chosen, so backends that come and go move no flow that
//! is there. Rules and terms are those of Kubernetes' Service; what kube-proxy does is the reference.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

use tables::acl::{Address, Key, PORT_PROTOCOLS};
use tables::{ExactMap, ExactMapError, LegFlags, Maglev, MaglevError, Tick};

use super::apply::has_ports;
use super::destination::masked;
use super::{Affinities, Pool, Redirect};

/// Of a flow whose destination a service chose: it ends with its backend where its protocol has no end of its own.
pub(crate) const SERVED: LegFlags = LegFlags::from_bits(1 << 5);

/// One of those who serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend<A> {
    /// Where.
    pub address: A,
    /// On which port.
    pub port: u16,
    /// A hash of its name. Which flows it gets depends on it: it is to be the same as long as the backend exists, and on all
    /// gateways that should agree.
    pub identity: u64,
    /// Its share of new flows. With 0 it gets none and keeps those that it has: so a backend ends that still terminates.
    pub weight: u32,
    /// Its answers come through this host whatever the source of the packets is, as those of a workload here do.
    pub local: bool,
}

/// Those who serve, and who of them gets which new flow. Shared by all addresses and ports that lead to them.
#[derive(Clone, Debug)]
pub struct Backends<A> {
    list: Box<[Backend<A>]>,
    choice: Choice,
    /// Where they are, sorted.
    places: Box<[(A, u16)]>,
}

#[derive(Clone, Debug)]
enum Choice {
    Nobody,
    Only(u16),
    Table(Maglev),
}

/// Which flows of a client have the same backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    /// Each flow for itself.
    #[default]
    None,
    /// All that begin before the client has begun none for so long, as long as their backend takes new ones. The choice is by a hash of
    /// the client's address: nothing has to be remembered for it while backends stay, also over the timeout and on all workers.
    /// Where they change, each worker goes on sending the clients that it remembers ([`Affinities`]) to the backends that they had;
    /// those that it does not remember (too many clients since, or their earlier flows were all another worker's) move as the
    /// table does: a hundredth of them where one of a hundred backends leaves.
    Client {
        /// Seconds.
        timeout_secs: u32,
    },
}

/// What becomes of the source of packets to a service, in front of what rules about sources say of packets that leave. Of a source
/// that is kept the port may change: where a flow to the same backend has it already, or answers would come to another worker.
#[derive(Clone, Debug)]
pub enum ClientSource<A> {
    /// It stays. A backend that asks its own service for itself gets no answer.
    Kept,
    /// It stays, but for a backend that is the client itself: that would answer past this host.
    Hairpin(Arc<Pool<A>>),
    /// As `Hairpin`, and where the backend is not local, too.
    Remote(Arc<Pool<A>>),
    /// Always one of the pool.
    Pool(Arc<Pool<A>>),
}

/// Sources that a service is there for: prefixes, compiled to disjoint ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceRanges<A>(Box<[(A, A)]>);

/// An address and a port that stand for backends.
#[derive(Clone, Debug)]
pub struct Service<A> {
    /// What packets are sent to.
    pub address: A,
    /// Of a protocol that has ports.
    pub protocol: u8,
    /// Not 0.
    pub port: u16,
    /// Names the service among others, for its clients' affinity: a hash of its name. Several addresses of one service have the same.
    pub identity: u64,
    /// Who serves. Where nobody does, senders are told so.
    pub backends: Arc<Backends<A>>,
    /// Which flows of a client stay together.
    pub affinity: Affinity,
    /// Who may ask; everybody where `None`. What others send is dropped.
    pub allowed: Option<Arc<SourceRanges<A>>>,
    /// What becomes of sources.
    pub source: ClientSource<A>,
}

/// Why a service takes no flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The source is not one that it is there for.
    Source,
    /// There is no backend for new flows.
    NoBackends,
}

/// What makes the choice of backends unpredictable. All workers have the same; so have all gateways that should choose alike.
#[derive(Clone, Copy, Debug)]
pub struct Secret([u64; 4]);

/// Services of one VRF, found by address, protocol and port: one line of memory, or two for IPv6.
#[derive(Clone, Debug)]
pub struct Services<A> {
    list: Box<[Service<A>]>,
    /// By number of the address, protocol and port.
    numbers: Option<ExactMap<u32>>,
    /// Numbers of addresses that do not fit into a key with protocol and port.
    addresses: Option<ExactMap<u32>>,
    secret: Secret,
}

/// Why services could not be compiled. Services are named by their positions in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ServiceError {
    /// Port 0, or a protocol without ports.
    NoPort {
        /// The service.
        service: usize,
    },
    /// A backend has another port than the service, and the protocol's checksum does not let ports change.
    PortChanges {
        /// The service.
        service: usize,
        /// Position among its backends.
        backend: usize,
    },
    /// Two have the same address, protocol and port.
    Twice {
        /// The one.
        first: usize,
        /// The other.
        second: usize,
    },
    /// The system refuses the memory.
    OutOfMemory,
}

impl<A: Address> Backends<A> {
    /// Compiles a list, in any order; 1.6 ms for up to 1024 backends (see [`Maglev::build`]), microseconds for up to six.
    ///
    /// # Errors
    /// There are more than a table takes, or two have the same identity.
    pub fn new(list: &[Backend<A>]) -> Result<Self, MaglevError> {
        let weighted: Vec<_> = list.iter().map(|one| (one.identity, one.weight)).collect();
        let choice = match &weighted[..] {
            [] => Choice::Nobody,
            [(_, weight)] if *weight > 0 => Choice::Only(0),
            _ => match Maglev::build(&weighted, Maglev::size_for(weighted.len())) {
                Ok(table) => Choice::Table(table),
                Err(MaglevError::NoBackend) => Choice::Nobody,
                Err(error) => return Err(error),
            },
        };
        let mut places: Vec<_> = list.iter().map(|one| (one.address, one.port)).collect();
        places.sort();
        Ok(Self {
            list: list.into(),
            choice,
            places: places.into(),
        })
    }

    /// Position of the backend that gets a new flow with this hash, whose upper bits decide.
    pub fn pick(&self, hash: u64) -> Option<u16> {
        match &self.choice {
            Choice::Nobody => None,
            Choice::Only(position) => Some(*position),
            Choice::Table(table) => Some(table.pick(hash) as u16),
        }
    }

    /// Whether one of them is there, with whatever weight.
    pub fn has(&self, address: A, port: u16) -> bool {
        self.places.binary_search(&(address, port)).is_ok()
    }

    /// The backends, in the order of the list.
    pub fn list(&self) -> &[Backend<A>] {
        &self.list
    }

    /// Position of the backend with an identity, if it takes new flows; linear in their number.
    pub(super) fn takes(&self, identity: u64) -> Option<u16> {
        let takes = |one: &Backend<A>| one.identity == identity && one.weight > 0;
        let position = self.list.iter().position(takes)?;
        Some(position as u16)
    }
}

impl<A: Address> SourceRanges<A> {
    /// Of prefixes: addresses, and how many of their bits count.
    pub fn new(prefixes: &[(A, u8)]) -> Self {
        let range = |(address, length): &(A, u8)| {
            let rest = A::BITS.saturating_sub((*length).into());
            let first = masked(*address, *length).widen();
            let hosts = 1_u128.checked_shl(rest).map_or(u128::MAX, |size| size - 1);
            (first, first | hosts)
        };
        let mut ranges: Vec<(u128, u128)> = prefixes.iter().map(range).collect();
        ranges.sort_unstable_by_key(|(first, last)| (*first, Reverse(*last)));
        // Prefixes overlap where one is inside the other.
        ranges.dedup_by(|next, kept| next.1 <= kept.1);
        let narrow = |(first, last)| (A::narrow(first), A::narrow(last));
        Self(ranges.into_iter().map(narrow).collect())
    }

    /// Whether a source is in one of them.
    pub fn contains(&self, address: A) -> bool {
        let behind = self.0.partition_point(|(first, _)| *first <= address);
        let range = behind.checked_sub(1).and_then(|at| self.0.get(at));
        range.is_some_and(|(_, last)| address <= *last)
    }
}

impl<A: Address> ClientSource<A> {
    /// What the source becomes one of, where it does not stay.
    pub(super) fn pool(&self, client: A, backend: &Backend<A>) -> Option<&Pool<A>> {
        let own = client == backend.address;
        match self {
            Self::Pool(pool) => Some(pool),
            Self::Remote(pool) if own || !backend.local => Some(pool),
            Self::Hairpin(pool) if own => Some(pool),
            Self::Kept | Self::Hairpin(_) | Self::Remote(_) => None,
        }
    }
}

impl Secret {
    /// One that others know, too.
    pub const fn new(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// Drawn once, and the same as long as this process runs: over changes of services, whose flows and clients would move
    /// otherwise.
    pub fn of_process() -> Self {
        static DRAWN: LazyLock<[u64; 4]> =
            LazyLock::new(|| [(); 4].map(|()| RandomState::new().hash_one(0)));
        Self(*DRAWN)
    }

    /// A hash of two addresses and up to 64 bits beside.
    fn hash(&self, from: u128, to: u128, tail: u64) -> u64 {
        let [a, b, c, d] = self.0;
        let word = |value: u128, at: u32| (value >> at) as u64;
        let from = fold(word(from, 64) ^ a, word(from, 0) ^ b);
        let to = fold(word(to, 64) ^ c, word(to, 0) ^ d);
        let inner = fold(from ^ a.rotate_left(32), to.rotate_left(17) ^ tail ^ b);
        fold(inner ^ c, d | 1)
    }
}

/// Both halves of a product: every bit of either factor reaches every bit.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

impl<A: Address> Services<A> {
    /// Compiles services, in any order; linear in their number.
    ///
    /// # Errors
    /// See [`ServiceError`].
    pub fn new(list: Vec<Service<A>>, secret: Secret) -> Result<Self, ServiceError> {
        for (service, at) in list.iter().enumerate() {
            at.check(service)?;
        }
        let mut services = Self {
            list: list.into(),
            secret,
            ..Self::default()
        };
        if !fits::<A>() {
            let mut known: HashMap<A, u32> = HashMap::new();
            for service in &services.list {
                let next = known.len() as u32;
                known.entry(service.address).or_insert(next);
            }
            let entries = known.into_iter().map(|(of, number)| (of.widen(), number));
            let addresses = ExactMap::build(entries).map_err(|_| ServiceError::OutOfMemory)?;
            services.addresses = Some(addresses);
        }
        let key_of = |one: &Service<A>| services.key(one.address, one.protocol, one.port);
        let keys = services.list.iter().map(|one| key_of(one).unwrap_or(0));
        let numbers = ExactMap::build(keys.zip(0..)).map_err(|error| match error {
            ExactMapError::Duplicate { key } => {
                let same = |one: &Service<A>| key_of(one) == Some(key);
                let first = services.list.iter().position(same).unwrap_or(0);
                let second = services.list.iter().rposition(same).unwrap_or(0);
                ServiceError::Twice { first, second }
            }
            _ => ServiceError::OutOfMemory,
        })?;
        services.numbers = Some(numbers);
        Ok(services)
    }

    /// The service at an address and a port, and its number.
    pub fn at(&self, address: A, protocol: u8, port: u16) -> Option<(u32, &Service<A>)> {
        let numbers = self.numbers.as_ref()?;
        let number = numbers.get(self.key(address, protocol, port)?)?;
        Some((number, self.service(number)?))
    }

    /// The service with a number.
    pub fn service(&self, number: u32) -> Option<&Service<A>> {
        self.list.get(number as usize)
    }

    /// What becomes of a flow that begins with a packet.
    pub(super) fn redirect(
        &self,
        key: &Key<A>,
        affinities: &mut Affinities<A>,
        now: Tick,
    ) -> Option<Redirect> {
        let ports = key.ports()?;
        let (client, address) = (key.source(), key.destination());
        let (number, service) = self.at(address, key.protocol(), ports.1)?;
        if let Some(allowed) = &service.allowed
            && !allowed.contains(client)
        {
            return Some(Redirect::Refused(Refusal::Source));
        }
        let backend = match service.affinity {
            Affinity::None => {
                let tail =
                    u64::from(key.protocol()) << 32 | u64::from(ports.0) << 16 | u64::from(ports.1);
                let hash = self.secret.hash(client.widen(), address.widen(), tail);
                service.backends.pick(hash)
            }
            Affinity::Client { timeout_secs } => {
                let hash = self.secret.hash(client.widen(), 0, service.identity);
                let asked = (client, service.identity);
                affinities.choose(asked, hash, &service.backends, timeout_secs, now)
            }
        };
        Some(match backend {
            Some(backend) => Redirect::Backend(number, backend),
            None => Redirect::Refused(Refusal::NoBackends),
        })
    }

    fn key(&self, address: A, protocol: u8, port: u16) -> Option<u128> {
        let name = match fits::<A>() {
            true => address.widen(),
            false => self.addresses.as_ref()?.get(address.widen())?.into(),
        };
        Some(name << 24 | u128::from(protocol) << 16 | u128::from(port))
    }
}

/// Whether an address has room in a key beside protocol and port.
const fn fits<A: Address>() -> bool {
    A::BITS <= 128 - 24
}

impl<A: Address> Service<A> {
    fn check(&self, service: usize) -> Result<(), ServiceError> {
        if self.port == 0 || !PORT_PROTOCOLS.contains(&self.protocol) {
            return Err(ServiceError::NoPort { service });
        }
        let changes = |one: &Backend<A>| one.port != self.port;
        match self.backends.list().iter().position(changes) {
            Some(backend) if !has_ports(self.protocol) => {
                Err(ServiceError::PortChanges { service, backend })
            }
            _ => Ok(()),
        }
    }
}

impl<A: Address> Default for Services<A> {
    /// None.
    fn default() -> Self {
        Self {
            list: Box::default(),
            numbers: None,
            addresses: None,
            secret: Secret::new([0; 4]),
        }
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort { service } => write!(
                f,
                "service {service} has port 0, or a protocol without ports"
            ),
            Self::PortChanges { service, backend } => write!(
                f,
                "backend {backend} of service {service} has another port, which the protocol does not allow"
            ),
            Self::Twice { first, second } => write!(
                f,
                "services {first} and {second} have the same address, protocol and port"
            ),
            Self::OutOfMemory => write!(f, "the system refused memory for the services"),
        }
    }
}

impl Error for ServiceError {}
