//! What becomes of a flow's destination.

use std::sync::Arc;

use tables::Tick;
use tables::acl::{Address, Key};

use super::{Affinities, Pool, Refusal, Services};

/// What is sent to an address, a port or a prefix of this host, and where it goes instead.
#[derive(Clone, Debug)]
pub struct Destination<A> {
    /// What packets are sent to.
    pub address: A,
    /// Bits of it that count: less than all of them for one-to-one translation of a prefix.
    pub prefix_len: u8,
    /// Only this protocol.
    pub protocol: Option<u8>,
    /// Only ports from first to last: of a single address and a protocol that has ports.
    pub ports: Option<(u16, u16)>,
    /// What the address becomes; bits behind the prefix stay.
    pub to: A,
    /// What the first of the ports becomes, and so on; `None`: they stay.
    pub port: Option<u16>,
    /// The source becomes one of this pool, too (twice NAT, RFC 2663 section 4.3), whatever other rules say.
    pub source: Option<Arc<Pool<A>>>,
}

/// Rules about destinations. Services are found first, ports of an address before prefixes, long prefixes before short ones, and of
/// rules that overlap the one that was given first.
#[derive(Clone, Debug)]
pub struct DestinationRules<A> {
    rules: Box<[Destination<A>]>,
    /// Numbers of the rules about ports, by address, protocol and first port.
    ports: Box<[(A, u8, u16, u32)]>,
    /// By prefix length, longest first: numbers of the rules about all that is sent to a prefix, by protocol and prefix.
    prefixes: Box<[OfLength<A>]>,
    /// Ranges of addresses that sources become, sorted.
    externals: Box<[(A, A)]>,
    services: Services<A>,
}

/// What was found for a packet. It holds for the rules that said so, and no others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// The rule with this number is about it.
    Rule(u32),
    /// The service with this number sends it to the backend at this position.
    Backend(u32, u16),
    /// A service is meant, and does not take it.
    Refused(Refusal),
}

/// What the destination of a packet becomes.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a, A> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: u16,
    /// What the source becomes one of, whatever other rules say.
    pub source: Option<&'a Pool<A>>,
    /// A service has chosen it.
    pub served: bool,
}

/// Rules about prefixes of one length: prefix and number.
type OfLength<A> = (u8, Box<[(A, u32)]>);

impl<A: Address> DestinationRules<A> {
    /// Compiles rules. `externals` are ranges of addresses that sources become and that this host has for nothing else: what is sent
    /// there outside of flows has no receiver.
    pub fn new(rules: &[Destination<A>], externals: &[(A, A)]) -> Self {
        let mut ports = Vec::new();
        let mut by_length: Vec<(u8, Vec<(A, u32)>)> = Vec::new();
        for (rule, number) in rules.iter().zip(0..) {
            if let (Some(protocol), Some((first, _))) = (rule.protocol, rule.ports) {
                ports.push((rule.address, protocol, first, number));
                continue;
            }
            let entry = (masked(rule.address, rule.prefix_len), number);
            match by_length
                .iter_mut()
                .find(|(length, _)| *length == rule.prefix_len)
            {
                Some((_, entries)) => entries.push(entry),
                None => by_length.push((rule.prefix_len, vec![entry])),
            }
        }
        ports.sort();
        by_length.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        let sorted = |(length, mut entries): (u8, Vec<(A, u32)>)| {
            entries.sort();
            (length, entries.into())
        };
        let mut externals = externals.to_vec();
        externals.sort();
        Self {
            rules: rules.into(),
            ports: ports.into(),
            prefixes: by_length.into_iter().map(sorted).collect(),
            externals: externals.into(),
            services: Services::default(),
        }
    }

    /// With these services.
    pub fn with_services(self, services: Services<A>) -> Self {
        Self { services, ..self }
    }

    /// The services.
    pub fn services(&self) -> &Services<A> {
        &self.services
    }

    /// What is said about a packet that begins a flow. Of a service the backend is chosen here, once per flow: `affinities` hears
    /// of it where the client is to have it again.
    pub fn find(
        &self,
        key: &Key<A>,
        affinities: &mut Affinities<A>,
        now: Tick,
    ) -> Option<Redirect> {
        let service = self.services.redirect(key, affinities, now);
        service.or_else(|| {
            let rule = self.port(key).or_else(|| self.prefix(key));
            rule.map(Redirect::Rule)
        })
    }

    /// Whether there are rules beside services.
    pub(crate) fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The rule about a packet, where that is no service's to decide: what it says is always the same.
    pub(crate) fn fixed(&self, key: &Key<A>) -> Option<&Destination<A>> {
        let number = self.port(key).or_else(|| self.prefix(key))?;
        self.rules.get(number as usize)
    }

    /// What becomes of a packet, by its source, and its destination with the port. `None` where it is refused.
    pub fn arrival(
        &self,
        redirect: Redirect,
        from: A,
        (address, port): (A, u16),
    ) -> Option<Arrival<'_, A>> {
        match redirect {
            Redirect::Rule(number) => {
                let rule = self.rules.get(number as usize)?;
                let (address, port) = rule.apply(address, port);
                Some(Arrival {
                    address,
                    port,
                    source: rule.source.as_deref(),
                    served: false,
                })
            }
            Redirect::Backend(number, position) => {
                let service = self.services.service(number)?;
                let backend = service.backends.list().get(usize::from(position))?;
                Some(Arrival {
                    address: backend.address,
                    port: backend.port,
                    source: service.source.pool(from, backend),
                    served: true,
                })
            }
            Redirect::Refused(_) => None,
        }
    }

    /// Whether an address is one that sources become, and nothing else.
    pub fn is_external(&self, address: A) -> bool {
        let behind = self
            .externals
            .partition_point(|(first, _)| *first <= address);
        let range = behind.checked_sub(1).and_then(|at| self.externals.get(at));
        range.is_some_and(|(_, last)| address <= *last)
    }

    fn port(&self, key: &Key<A>) -> Option<u32> {
        let (_, port) = key.ports()?;
        let (address, protocol) = (key.destination(), key.protocol());
        let behind = self
            .ports
            .partition_point(|(a, p, first, _)| (*a, *p, *first) <= (address, protocol, port));
        // The rule that begins last at or below the port; those that begin before it may reach further.
        let here = self.ports[..behind].iter().rev();
        let here = here.take_while(|(a, p, ..)| (*a, *p) == (address, protocol));
        let reaches = |number: &u32| {
            let range = self.rules.get(*number as usize).and_then(|rule| rule.ports);
            range.is_some_and(|(_, last)| port <= last)
        };
        here.map(|(.., number)| *number).filter(reaches).min()
    }

    fn prefix(&self, key: &Key<A>) -> Option<u32> {
        self.prefixes.iter().find_map(|(length, entries)| {
            let prefix = masked(key.destination(), *length);
            let first = entries.partition_point(|(of, _)| *of < prefix);
            let same = entries[first..].iter().take_while(|(of, _)| *of == prefix);
            let fits = |number: &u32| {
                let protocol = self.rules.get(*number as usize).map(|rule| rule.protocol);
                protocol.is_some_and(|of| of.is_none_or(|of| of == key.protocol()))
            };
            same.map(|(_, number)| *number).find(fits)
        })
    }
}

impl<A: Address> Destination<A> {
    /// What the address and the port of a packet become that the rule matches.
    pub fn apply(&self, address: A, port: u16) -> (A, u16) {
        let port = match (self.ports, self.port) {
            (Some((first, _)), Some(to)) => to.wrapping_add(port.wrapping_sub(first)),
            _ => port,
        };
        (spliced(self.to, address, self.prefix_len), port)
    }
}

/// The first bits of an address, the others 0.
pub(super) fn masked<A: Address>(address: A, prefix_len: u8) -> A {
    spliced(address, A::narrow(0), prefix_len)
}

/// The first bits of one address and the others of another.
pub(super) fn spliced<A: Address>(prefix: A, host: A, prefix_len: u8) -> A {
    let rest = A::BITS.saturating_sub(prefix_len.into());
    let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
    A::narrow(prefix.widen() & mask | host.widen() & !mask)
}
