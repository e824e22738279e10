//! Network address translation: which flows are translated, to what, and how their packets become it.
//!
//! ```text
//!  first packet ──► destination rules ──► route, policy ──► source rules ──► port ──► flow: a rewrite per direction
//!  later packets ─► flow ──► rewrite
//! ```
//!
//! Translation has no nodes of its own: `ip4-policy` and `ip6-policy`, which look flows up, do it. What is decided about a flow's first
//! packet is kept in its two records, and everything behind finds the packet as it will leave. The order is Linux's and Calico's: lists
//! before translation see the destination that the sender wrote, all others the one that it becomes and the source that was.
//!
//! A destination rule is a port forward, a prefix one to one, or a service: an address and a port that several backends stand behind.
//!
//! Names and requirements are those of RFC 2663, RFC 4787, RFC 5382 and RFC 5508.

mod affinity;
mod apply;
mod destination;
mod pool;
#[cfg(test)]
mod reference;
mod restore;
mod service;
#[cfg(test)]
mod service_tests;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tables::acl::Address;

use crate::policy::RuleCounters;

pub use affinity::Affinities;
pub(crate) use apply::{Translated, has_ports};
pub use destination::{Arrival, Destination, DestinationRules, Redirect};
pub use pool::Pool;
pub(crate) use restore::restore;
pub(crate) use service::SERVED;
pub use service::{
    Affinity, Backend, Backends, ClientSource, Refusal, Secret, Service, ServiceError, Services,
    SourceRanges,
};
pub use source::{Source, SourceRules};

/// What the nodes read about translation; empty by default, and then it costs nothing.
#[derive(Clone, Default, Debug)]
pub struct Nat {
    /// Another one with every change of services. Flows of UDP, which say no end, end then if their backend has gone; those of
    /// other protocols stay.
    pub generation: u32,
    /// Of IPv4.
    pub ip4: Translation<u32>,
    /// Of IPv6.
    pub ip6: Translation<u128>,
    /// By [`Pool::number`] plus one: allowed are flows that got an address and a port, denied those that found none. `None` where
    /// nobody asks.
    pub counters: Option<Arc<RuleCounters>>,
}

/// Translation of one version of IP. Places in the lists that are empty or beyond the end translate nothing.
#[derive(Clone, Debug)]
pub struct Translation<A: Address> {
    /// What becomes of sources, by the number of the interface that packets leave by.
    pub source: Vec<Option<Arc<SourceRules<A>>>>,
    /// By VRF number: what becomes of sources where a translated destination lies behind an interface without rules of its own, so
    /// that the answers come back (hairpinning, RFC 4787 section 6). Rules are asked about the destination that the sender wrote.
    pub hairpin: Vec<Option<Arc<SourceRules<A>>>>,
    /// What becomes of destinations, by VRF number.
    pub destination: Vec<Option<Arc<DestinationRules<A>>>>,
}

impl<A: Address> Default for Translation<A> {
    fn default() -> Self {
        Self {
            source: Vec::new(),
            hairpin: Vec::new(),
            destination: Vec::new(),
        }
    }
}

impl Nat {
    /// Whether anything may be translated.
    pub fn is_on(&self) -> bool {
        self.ip4.is_on() || self.ip6.is_on()
    }
}

impl<A: Address> Translation<A> {
    /// Whether anything may be translated.
    pub fn is_on(&self) -> bool {
        self.source.iter().any(Option::is_some) || self.destination.iter().any(Option::is_some)
    }

    /// The rules for what leaves by an interface.
    #[inline]
    pub fn source_of(&self, interface: u16) -> Option<&SourceRules<A>> {
        self.source.get(usize::from(interface))?.as_deref()
    }

    /// The rules for what goes back inside a VRF.
    #[inline]
    pub fn hairpin_of(&self, vrf: u16) -> Option<&SourceRules<A>> {
        self.hairpin.get(usize::from(vrf))?.as_deref()
    }

    /// The rules for what comes into a VRF.
    #[inline]
    pub fn destination_of(&self, vrf: u16) -> Option<&DestinationRules<A>> {
        self.destination.get(usize::from(vrf))?.as_deref()
    }

    /// Whether a flow may stay that goes from an address and a port of a VRF, `to`, to another, `by`; `served`: because a service
    /// has said so when it began.
    pub(crate) fn still_serves(
        &self,
        vrf: u16,
        protocol: u8,
        to: (A, u16),
        by: (A, u16),
        served: bool,
    ) -> bool {
        let rules = self.destination_of(vrf);
        match rules.and_then(|rules| rules.services().at(to.0, protocol, to.1)) {
            Some((_, service)) => service.backends.has(by.0, by.1),
            None => !served,
        }
    }
}
