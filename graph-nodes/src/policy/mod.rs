//! Policy: what may pass, decided once per flow.
//!
//! ```text
//!               ┌ living flow ──────────────────────────────────────────────► passes
//!  parse ──► flow table
//!               └ none ──► way out ──► lists of both interfaces ([`decide`]) ──► a flow is made, passes, or is dropped
//! ```
//!
//! `ip4-policy` and `ip6-policy` are one piece of work for two versions of IP. A packet of a flow that is remembered, in either
//! direction, meets no list any more; every other packet meets all that concern it. ICMP errors belong to the flow of the packet
//! that they quote, fragments to that of the first. An error that belongs to no flow is invalid where a policy has a say.
//!
//! What this host itself sends are answers: echo replies, ICMP errors and TCP resets about packets that came in, neighbour discovery. They
//! belong to what they answer and pass, but for replies to requests that an untracked list let in ([`decide::answer`]). Nothing here
//! begins a connection, so nothing asks the egress lists of host endpoints for what the host itself sends.

mod ahead;
mod case;
mod classes;
mod counters;
pub mod decide;
mod enforce;
pub mod events;
mod fragments;
mod housekeeping;
pub mod ip4_policy;
pub mod ip6_policy;
pub mod owner;
pub(crate) mod packet;
#[cfg(test)]
mod plain;
pub mod program;
mod runs;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tables::FlowTimeouts;
use tables::acl::{Address, Key, SetClasses};
use tables::address_sets::{AddressSets, ClassId, IpPortSets};

pub use counters::{RuleCount, RuleCounters, WorkerRules};
pub use ip4_policy::Ip4Policy;
pub use ip6_policy::Ip6Policy;
pub use program::{Decision, JudgedAddress, Judgement, LogRule, Outcome, Program, RuleId, Stage};

/// What the nodes read about policy; empty by default, and then it costs nothing.
#[derive(Clone, Default)]
pub struct Policy {
    /// Grows with every change that may change a verdict; from 1 on where there is any policy.
    pub generation: u32,
    /// Which sets contain an address, and an address with protocol and port.
    pub sets: Option<Sets>,
    /// By interface number; interfaces beyond the end have none.
    pub interfaces: Vec<Option<Arc<InterfacePolicy>>>,
    /// Settings that concern all endpoints.
    pub settings: Settings,
    /// Where decisions are counted by rule; `None` where nobody asks.
    pub counters: Option<Arc<RuleCounters>>,
    /// Some list remembers flows: then packets are handed over to the workers that their flows belong to. To be set by
    /// [`Snapshot::set_policy_features`](crate::Snapshot::set_policy_features).
    pub tracks_flows: bool,
    /// No interface has a say about what leaves by it: then a packet that only an access list is asked about needs no look at its
    /// route. [`Snapshot::set_policy_features`](crate::Snapshot::set_policy_features) finds out; false is always right, and
    /// slower.
    pub exits_are_free: bool,
}

/// The sets that rules refer to.
#[derive(Clone, Debug)]
pub struct Sets {
    /// Of addresses.
    pub addresses: AddressSets,
    /// Of addresses with protocol and port.
    pub ip_ports: IpPortSets,
    /// What the classes of both mean, by the same numbers.
    pub classes: Arc<SetClasses>,
}

/// Settings that concern all endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Denied packets are answered (ICMP administratively prohibited, TCP reset) in place of dropped, but for what untracked lists
    /// deny.
    pub reject: bool,
    /// Live flows are judged again when policy changes.
    pub reevaluate: bool,
    /// What a workload's egress policy allows may reach this host itself.
    pub workload_to_host: bool,
    /// How long flows live without packets. A change holds for the flows that are there, too.
    pub timeouts: FlowTimeouts,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            reject: false,
            reevaluate: false,
            workload_to_host: true,
            timeouts: FlowTimeouts::default(),
        }
    }
}

/// Whose policy an interface has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointKind {
    /// Nobody's: access lists only.
    None,
    /// A workload is behind it.
    Workload,
    /// It is one of the host's own.
    Host,
}

/// The programs of one endpoint, or what staged policies would make of them. `None` does not decide: the packet goes on as if the
/// list were not there, except for a workload: one without a normal list has no policy yet and is closed in that direction.
#[derive(Clone, Default, Debug)]
pub struct Lists {
    /// To the endpoint (or host), and from it.
    pub normal: [Option<Arc<Program>>; 2],
    /// Traffic that a host endpoint's interface forwards: in, and out. Of a workload: those of the host endpoint for all interfaces.
    pub forward: [Option<Arc<Program>>; 2],
    /// Of a host endpoint, before destination translation: in. Of a workload: as `forward`. Ends with an allow by rule 0 where no rule matches: the packet goes
    /// on to the other lists.
    pub pre_dnat: Option<Arc<Program>>,
    /// Of a host endpoint, before tracking: in, and out. `Allow` ends without tracking; the end is as of `pre_dnat`. The list for
    /// what goes out is asked about what this host itself sends, not about what it forwards.
    pub untracked: [Option<Arc<Program>>; 2],
}

/// Index of the list for packets to an endpoint, in the arrays of [`Lists`].
pub const INGRESS: usize = 0;
/// Index of the list for packets from an endpoint.
pub const EGRESS: usize = 1;

/// Policy of one interface.
#[derive(Clone, Debug)]
pub struct InterfacePolicy {
    /// Whose.
    pub kind: EndpointKind,
    /// A workload whose policy is not there yet: nothing passes.
    pub closed: bool,
    /// What is enforced.
    pub lists: Lists,
    /// What staged policies would decide; only reported.
    pub staged: Option<Lists>,
    /// Sources that a workload may send from: addresses in host order under masks; empty for no check.
    pub sources4: Vec<tables::Prefix4>,
    /// Likewise.
    pub sources6: Vec<tables::Prefix6>,
    /// Access lists on what it receives and on what it sends.
    pub access: [Option<Arc<AccessProgram>>; 2],
}

impl InterfacePolicy {
    /// A host endpoint's list for what comes in, before tracking.
    pub fn untracked_input(&self) -> Option<&Program> {
        let list = self.lists.untracked[INGRESS].as_deref();
        list.filter(|_| self.kind == EndpointKind::Host)
    }
}

/// Index of the access list on what an interface receives, in [`InterfacePolicy::access`].
pub const INPUT: usize = 0;
/// Index of the access list on what an interface sends.
pub const OUTPUT: usize = 1;

/// An access list, compiled: one stage.
#[derive(Clone, Debug)]
pub struct AccessProgram {
    /// Permits and denials; what no rule matches is denied.
    pub program: Program,
    /// Numbers of the rules whose flows are tracked, so that replies pass; sorted.
    pub reflects: Vec<RuleId>,
}

dataplane::drop_reasons! {
    /// Why `ip4-policy` and `ip6-policy` drop packets.
    pub enum Drop {
        PolicyDenied = "policy-denied": "A policy, or the end of a tier or profile, denies the packet",
        AccessList = "access-list": "An access list denies the packet",
        Spoofed = "spoofed": "A workload sends from an address that is not its own",
        Closed = "closed": "The workload has no policy yet",
        WorkloadToHost = "workload-to-host": "Workloads may not reach this host (defaultEndpointToHostAction)",
        Fragment = "fragment": "A fragment came before the first of its packet, or overlaps the TCP header",
        Invalid = "invalid": "The TCP flags are none that a connection sends, or the packet is an ICMP error or an answer that belongs to no flow",
        FlowTableFull = "flow-table-full": "There is no room to remember the packet's flow",
        NatNoSession = "nat-no-session": "The packet is for an address that sources are translated to, and belongs to no flow; or it may not leave untranslated and begins none",
        NatExhausted = "nat-exhausted": "No address and port of the pool are free for the packet's flow",
        ServiceSource = "service-source": "The packet's source is none that the service it is sent to is there for (loadBalancerSourceRanges)",
        ServiceNoBackends = "service-no-backends": "The service that the packet is sent to has no backends",
        Truncated = "truncated": "The packet ends inside its headers",
        Malformed = "malformed": "The IPv6 extension headers are malformed",
    }
}

impl Drop {
    /// Whether senders are told, where [`Settings::reject`] says so.
    const fn is_answered(self) -> bool {
        matches!(
            self,
            Self::PolicyDenied | Self::AccessList | Self::WorkloadToHost
        )
    }
}

impl InterfacePolicy {
    /// True where some rule that is enforced logs.
    pub fn has_logs(&self) -> bool {
        let lists = &self.lists;
        let programs = lists.normal.iter().chain(&lists.forward);
        let early = lists.untracked.iter().chain([&lists.pre_dnat]);
        programs
            .chain(early)
            .flatten()
            .any(|program| program.has_logs())
    }
}

impl Policy {
    /// True where some interface has a policy: then all interfaces need the nodes, for what goes out of that one, and for answers.
    pub fn is_on(&self) -> bool {
        self.interfaces.iter().any(Option::is_some)
    }

    /// Whether any list lets flows be remembered.
    pub(crate) fn has_tracking(&self) -> bool {
        let tracks = |policy: &Arc<InterfacePolicy>| {
            let lists = &policy.lists;
            let mut access = policy.access.iter().flatten();
            access.any(|list| !list.reflects.is_empty())
                || policy.kind != EndpointKind::None
                    && [&lists.normal, &lists.forward]
                        .into_iter()
                        .flatten()
                        .chain([&lists.pre_dnat])
                        .any(Option::is_some)
        };
        self.interfaces.iter().flatten().any(tracks)
    }

    /// Whether no interface has a say about what leaves by it.
    pub(crate) fn has_free_exits(&self) -> bool {
        let is_free = |policy: &Arc<InterfacePolicy>| {
            let listed = policy.access[OUTPUT].is_some();
            let judged = match policy.kind {
                EndpointKind::None => false,
                EndpointKind::Workload => true,
                EndpointKind::Host => policy.lists.forward[EGRESS].is_some(),
            };
            !listed && !judged
        };
        self.interfaces.iter().flatten().all(is_free)
    }

    /// The interface's policy, where it has one.
    #[inline]
    pub fn of(&self, interface: u16) -> Option<&InterfacePolicy> {
        self.interfaces.get(usize::from(interface))?.as_deref()
    }

    /// Whether answers of this host to packets from an interface have to pass the nodes of policy.
    pub fn judges_answers(&self, interface: u16) -> bool {
        self.of(interface)
            .is_some_and(|policy| policy.untracked_input().is_some())
    }

    /// A key with the classes that the sets of addresses give its ends.
    pub fn classify<A: SetAddress>(&self, key: Key<A>) -> Key<A> {
        match &self.sets {
            Some(sets) => sets.classify(key),
            None => key,
        }
    }
}

impl Sets {
    /// A key with the classes that these sets give its ends.
    pub fn classify<A: SetAddress>(&self, key: Key<A>) -> Key<A> {
        let key = key.address_classes(
            A::class(&self.addresses, key.source()),
            A::class(&self.addresses, key.destination()),
        );
        self.classify_ports(key)
    }

    /// With the classes of addresses with ports alone.
    fn classify_ports<A: SetAddress>(&self, key: Key<A>) -> Key<A> {
        match key.ports() {
            Some((source, destination)) if !self.ip_ports.is_empty() => key.port_classes(
                A::port_class(&self.ip_ports, key.source(), key.protocol(), source),
                A::port_class(
                    &self.ip_ports,
                    key.destination(),
                    key.protocol(),
                    destination,
                ),
            ),
            _ => key,
        }
    }
}

/// Addresses that sets are asked about.
pub trait SetAddress: Address {
    /// The class of an address.
    fn class(sets: &AddressSets, address: Self) -> u32;
    /// The classes of many addresses. The shorter slice decides how many.
    fn classes(sets: &AddressSets, addresses: &[Self], out: &mut [ClassId]);
    /// The class of an address with protocol and port.
    fn port_class(sets: &IpPortSets, address: Self, protocol: u8, port: u16) -> u32;
}

impl SetAddress for u32 {
    fn class(sets: &AddressSets, address: Self) -> u32 {
        sets.class4(address).0
    }
    fn classes(sets: &AddressSets, addresses: &[u32], out: &mut [ClassId]) {
        sets.classes4(addresses, out);
    }
    fn port_class(sets: &IpPortSets, address: Self, protocol: u8, port: u16) -> u32 {
        sets.class4(address, protocol, port).0
    }
}

impl SetAddress for u128 {
    fn class(sets: &AddressSets, address: Self) -> u32 {
        sets.class6(address).0
    }
    fn classes(sets: &AddressSets, addresses: &[u128], out: &mut [ClassId]) {
        sets.classes6(addresses, out);
    }
    fn port_class(sets: &IpPortSets, address: Self, protocol: u8, port: u16) -> u32 {
        sets.class6(address, protocol, port).0
    }
}
