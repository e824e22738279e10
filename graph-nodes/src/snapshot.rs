//! The snapshot: everything that the nodes read, compiled by control from the desired state.

use core::net::{Ipv4Addr, Ipv6Addr};

use dataplane::{Features, PortCapabilities, PortId};
use tables::{FlowConfig, FlowTable, Lpm4, Lpm6, TokenBucket};
use wire::{EtherType, MacAddr};

use crate::fib::Forwarding;
use crate::nat::Nat;
use crate::policy::Policy;
use crate::policy::events::FlowWatch;
use crate::{ip4, ip6};

/// Interface numbers below this one are physical interfaces and equal their port's number.
pub const FIRST_SUB_INTERFACE: u16 = PortId::MAX;

/// No interface.
pub const NO_INTERFACE: u16 = u16::MAX;

/// What all nodes read. Lists are indexed by the number of what they hold; a number beyond a list's end is a drop, never a
/// panic.
#[derive(Default)]
pub struct Snapshot {
    /// By port number.
    pub ports: Vec<Port>,
    /// By interface number.
    pub interfaces: Vec<Interface>,
    /// By VRF number.
    pub vrfs: Vec<Vrf>,
    /// Next-hop groups and adjacencies: changed in place.
    pub forwarding: Forwarding,
    /// Limits on what this node says about itself.
    pub icmp: IcmpLimits,
    /// What may pass.
    pub policy: Policy,
    /// What is translated.
    pub nat: Nat,
}

/// What the nodes of one worker share.
pub struct WorkerState {
    limits: IcmpLimits,
    errors: TokenBucket,
    flows: Option<FlowTable>,
    watch: FlowWatch,
}

/// Flows that a worker's table has room for where nothing else is said.
pub const DEFAULT_FLOWS: u32 = 1 << 18;

impl WorkerState {
    /// A worker that has sent nothing yet, with room for [`DEFAULT_FLOWS`]; memory is taken as flows come. Where the system has no
    /// memory for the table, no flow can be remembered.
    pub fn new(limits: IcmpLimits) -> Self {
        Self {
            limits,
            errors: TokenBucket::new(limits.errors_per_second, limits.burst, 0),
            flows: FlowTable::new(&FlowConfig::new(DEFAULT_FLOWS)).ok(),
            watch: FlowWatch::default(),
        }
    }

    /// With somebody to tell of flows.
    #[must_use]
    pub fn with_watch(self, watch: FlowWatch) -> Self {
        Self { watch, ..self }
    }

    /// With another flow table.
    #[must_use]
    pub fn with_flows(self, flows: FlowTable) -> Self {
        Self {
            flows: Some(flows),
            ..self
        }
    }

    /// What was decided about connections; `None` where there was no memory.
    #[inline]
    pub fn flows(&mut self) -> Option<&mut FlowTable> {
        self.flows.as_mut()
    }

    /// Who is told of flows.
    #[inline]
    pub fn watch(&mut self) -> &mut FlowWatch {
        &mut self.watch
    }

    /// Both.
    #[inline]
    pub fn flows_and_watch(&mut self) -> (Option<&mut FlowTable>, &mut FlowWatch) {
        (self.flows.as_mut(), &mut self.watch)
    }

    /// ICMP and ICMPv6 errors and redirects that this worker may still send. New limits hold at once, and begin with a whole burst.
    pub fn icmp_errors(&mut self, limits: IcmpLimits, now_ns: u64) -> &mut TokenBucket {
        if self.limits != limits {
            self.limits = limits;
            self.errors = TokenBucket::new(limits.errors_per_second, limits.burst, now_ns);
        }
        &mut self.errors
    }
}

impl dataplane::Snapshot for Snapshot {
    type WorkerState = WorkerState;

    fn port_of(&self, interface: u16) -> Option<PortId> {
        self.interfaces
            .get(usize::from(interface))
            .map(|interface| interface.port)
    }
}

/// A port as the nodes see it.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// What it carries without help.
    pub capabilities: PortCapabilities,
    /// Sub-interface by VLAN of frames with one 802.1Q tag; empty where there are none, else 4096 long.
    pub vlans: Vec<u16>,
    /// Sub-interface by outer and inner VLAN (outer in the upper half), sorted.
    pub stacked_vlans: Vec<(u32, u16)>,
}

/// VLAN tags of a sub-interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tags {
    /// Outer VLAN, where there are two tags, and the type in front of it.
    pub outer: Option<(EtherType, u16)>,
    /// The VLAN next to the packet; `None` for untagged interfaces.
    pub inner: Option<u16>,
}

/// An address of an interface with its prefix length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceAddress<A> {
    /// The address.
    pub address: A,
    /// Bits of the connected prefix.
    pub prefix_len: u8,
}

/// An interface: a port, or a VLAN on one.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Packets are let in and out.
    pub up: bool,
    /// The port below.
    pub port: PortId,
    /// The tags on its frames.
    pub tags: Tags,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The longest IP packet that it carries, in bytes.
    pub mtu: u16,
    /// Number of its VRF.
    pub vrf: u16,
    /// Features between `ip4-input` and `ip4-lookup`.
    pub ip4_unicast: Features,
    /// Features between `ip6-input` and `ip6-lookup`.
    pub ip6_unicast: Features,
    /// Reverse-path check where that feature is on: true for strict mode (RFC 3704).
    pub rpf_strict: bool,
    /// Answers ARP requests for addresses that it has a route to through another interface.
    pub proxy_arp: bool,
    /// Sends ICMP redirects to hosts on its link about packets that leave by it again.
    pub redirects: bool,
    /// IPv4 addresses; the first is the source of what this interface says.
    pub ip4: Vec<InterfaceAddress<Ipv4Addr>>,
    /// IPv6 addresses without the link-local one.
    pub ip6: Vec<InterfaceAddress<Ipv6Addr>>,
    /// The link-local address; `None` where IPv6 is off.
    pub link_local: Option<Ipv6Addr>,
}

impl Interface {
    /// An interface that is there but carries nothing: fills gaps in the list.
    pub fn absent() -> Self {
        Self {
            up: false,
            port: PortId(u16::MAX),
            tags: Tags::default(),
            mac: MacAddr::default(),
            mtu: 0,
            vrf: 0,
            ip4_unicast: Features(0),
            ip6_unicast: Features(0),
            rpf_strict: false,
            proxy_arp: false,
            redirects: false,
            ip4: Vec::new(),
            ip6: Vec::new(),
            link_local: None,
        }
    }

    /// True where IPv6 packets are let in.
    #[inline]
    pub fn ip6_enabled(&self) -> bool {
        self.link_local.is_some()
    }
}

/// The routing tables of a VRF. Values are next-hop groups.
#[derive(Clone, Debug)]
pub struct Vrf {
    /// IPv4.
    pub ip4: Lpm4,
    /// IPv6.
    pub ip6: Lpm6,
}

/// Limits on ICMP and ICMPv6 errors and redirects, per worker (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IcmpLimits {
    /// Errors per second in the long run.
    pub errors_per_second: u64,
    /// Errors at once.
    pub burst: u64,
}

impl Default for IcmpLimits {
    fn default() -> Self {
        Self {
            errors_per_second: 1000,
            burst: 100,
        }
    }
}

impl Snapshot {
    /// Puts the nodes of policy on the way of packets where [`Snapshot::policy`] or [`Snapshot::nat`] has something to say, and off
    /// it where not: to be called after policy, translation or interfaces were changed, before the snapshot is published.
    pub fn set_policy_features(&mut self) {
        let on = self.policy.is_on() || self.nat.is_on();
        self.policy.tracks_flows = self.policy.has_tracking() || self.nat.is_on();
        self.policy.exits_are_free = self.policy.has_free_exits() && !self.nat.is_on();
        for interface in &mut self.interfaces {
            interface.ip4_unicast = interface.ip4_unicast.without(ip4::arc::POLICY);
            interface.ip6_unicast = interface.ip6_unicast.without(ip6::arc::POLICY);
            if on {
                interface.ip4_unicast = interface.ip4_unicast.with(ip4::arc::POLICY);
                interface.ip6_unicast = interface.ip6_unicast.with(ip6::arc::POLICY);
            }
        }
    }

    /// The interface with this number, where it is there and up.
    #[inline]
    pub fn interface(&self, number: u16) -> Option<&Interface> {
        self.interfaces
            .get(usize::from(number))
            .filter(|interface| interface.up)
    }

    /// Whether an interface is up and sends redirects.
    #[inline]
    pub fn redirects(&self, interface: u16) -> bool {
        self.interface(interface)
            .is_some_and(|interface| interface.redirects)
    }

    /// The tables of the VRF that an interface belongs to.
    #[inline]
    pub fn vrf_of(&self, interface: u16) -> Option<&Vrf> {
        let vrf = self.interfaces.get(usize::from(interface))?.vrf;
        self.vrfs.get(usize::from(vrf))
    }
}
