//! What a case is, and which there are.

use std::str::FromStr;

use graph_nodes::Snapshot;
use graph_nodes::fib::ForwardingWriter;
use ports::Template;

use crate::{forwarding, nat, policy, services};

/// A benchmark case. Names carry CSIT's suite name behind `pg-`: packet generator, no wire.
#[derive(Clone, Copy)]
pub struct Case {
    /// `pg-ip4base`.
    pub name: &'static str,
    /// What it measures, in a sentence.
    pub description: &'static str,
    /// The shortest frame it can have, frame check sequence included, as CSIT counts.
    pub default_frame: u16,
    pub(crate) build: fn(Frames) -> Setup,
}

/// How long frames are, in bytes with the frame check sequence (which the packets here do not carry).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frames {
    /// All alike.
    Fixed(u16),
    /// 28 x 64, 16 x 570, 4 x 1518, as CSIT's IMIX_v4_1.
    Imix,
}

/// Everything a case is made of.
pub(crate) struct Setup {
    /// What each port receives.
    pub(crate) ports: Vec<Vec<Template>>,
    pub(crate) snapshot: Snapshot,
    /// Kept alive: it owns the tables.
    pub(crate) writer: ForwardingWriter,
    /// Whether a frame that leaves a port is right.
    pub(crate) check: fn(port: usize, frame: &[u8]) -> bool,
    pub(crate) flows: u64,
    pub(crate) routes: u64,
    /// Room in each worker's flow table; 0 for the default.
    pub(crate) flow_table: u32,
    /// Packets that pass before the clock counts: until all flows are known.
    pub(crate) warm_up: u64,
}

/// A case of access lists: name, on output, entries that do not match, with tracking, addresses, ports.
macro_rules! access {
    ($name:literal, $out:literal, $deny:literal, $reflect:literal, $hosts:literal, $ports:literal) => {
        Case {
            name: $name,
            description: "IPv4 forwarding through CSIT's access list, both ways: `sl` permits each packet, `sf` tracks flows",
            default_frame: 64,
            build: policy::access::<$out, $deny, $reflect, $hosts, $ports>,
        }
    };
}

/// A case of sessions with translated sources: name, hosts of 63 sessions each, both directions, in random order.
macro_rules! nat44 {
    ($name:literal, $hosts:literal, $both:literal, $random:literal) => {
        Case {
            name: $name,
            description: "NAT44, endpoint-dependent, 63 sessions per host: `udir` from inside only, `bidir` both ways, `rnd` in random order, else in CSIT's",
            default_frame: 64,
            build: nat::sessions::<$hosts, $both, $random>,
        }
    };
}

/// All cases.
pub fn cases() -> &'static [Case] {
    &[
        Case {
            name: "pg-ip4base",
            description: "IPv4 forwarding between two connected subnets, both ways, 253 flows each",
            default_frame: 64,
            build: forwarding::ip4_base,
        },
        Case {
            name: "pg-ip4base-64kdst",
            description: "IPv4 forwarding by one route to 65536 destinations, both ways: the traffic of VPP's reference figure",
            default_frame: 64,
            build: forwarding::ip4_many_destinations,
        },
        Case {
            name: "pg-ip6base",
            description: "IPv6 forwarding between two connected subnets, both ways, 253 flows each",
            default_frame: 78,
            build: forwarding::ip6_base,
        },
        Case {
            name: "pg-dot1q-ip4base",
            description: "pg-ip4base with an 802.1Q tag on both ports",
            default_frame: 68,
            build: forwarding::dot1q_ip4_base,
        },
        access!("pg-iacl1sl-100flows", false, 1, false, 10, 10),
        access!("pg-iacl1sl-10kflows", false, 1, false, 10, 1000),
        access!("pg-iacl1sl-100kflows", false, 1, false, 100, 1000),
        access!("pg-iacl1sf-100flows", false, 1, true, 10, 10),
        access!("pg-iacl1sf-10kflows", false, 1, true, 10, 1000),
        access!("pg-iacl1sf-100kflows", false, 1, true, 100, 1000),
        access!("pg-iacl10sl-100flows", false, 10, false, 10, 10),
        access!("pg-iacl10sl-10kflows", false, 10, false, 10, 1000),
        access!("pg-iacl10sl-100kflows", false, 10, false, 100, 1000),
        access!("pg-iacl10sf-100flows", false, 10, true, 10, 10),
        access!("pg-iacl10sf-10kflows", false, 10, true, 10, 1000),
        access!("pg-iacl10sf-100kflows", false, 10, true, 100, 1000),
        access!("pg-iacl50sl-100flows", false, 50, false, 10, 10),
        access!("pg-iacl50sl-10kflows", false, 50, false, 10, 1000),
        access!("pg-iacl50sl-100kflows", false, 50, false, 100, 1000),
        access!("pg-iacl50sf-100flows", false, 50, true, 10, 10),
        access!("pg-iacl50sf-10kflows", false, 50, true, 10, 1000),
        access!("pg-iacl50sf-100kflows", false, 50, true, 100, 1000),
        access!("pg-oacl50sf-10kflows", true, 50, true, 10, 1000),
        Case {
            name: "pg-flow-64k",
            description: "65,536 tracked connections, packets of both directions in random order",
            default_frame: 64,
            build: policy::flows::<1>,
        },
        Case {
            name: "pg-flow-1m",
            description: "1,048,576 tracked connections, packets of both directions in random order",
            default_frame: 64,
            build: policy::flows::<16>,
        },
        Case {
            name: "pg-flow-4m",
            description: "4,194,304 tracked connections, packets of both directions in random order",
            default_frame: 64,
            build: policy::flows::<64>,
        },
        Case {
            name: "pg-policy-newflows-10rules",
            description: "Every packet begins a flow: 10 rules about a set of 100,000 addresses; mpps is new flows per microsecond",
            default_frame: 64,
            build: policy::new_flows::<10>,
        },
        Case {
            name: "pg-policy-newflows-1krules",
            description: "Every packet begins a flow: 1000 rules about a set of 100,000 addresses; mpps is new flows per microsecond",
            default_frame: 64,
            build: policy::new_flows::<1000>,
        },
        Case {
            name: "pg-policy-newflows-10krules",
            description: "Every packet begins a flow: 10000 rules about a set of 100,000 addresses; mpps is new flows per microsecond",
            default_frame: 64,
            build: policy::new_flows::<10000>,
        },
        nat44!("pg-nat44ed-64k-udir", 1024, false, false),
        nat44!("pg-nat44ed-64k-udir-rnd", 1024, false, true),
        nat44!("pg-nat44ed-64k-bidir", 1024, true, false),
        nat44!("pg-nat44ed-64k-bidir-rnd", 1024, true, true),
        nat44!("pg-nat44ed-1m-udir", 16_384, false, false),
        nat44!("pg-nat44ed-1m-udir-rnd", 16_384, false, true),
        nat44!("pg-nat44ed-1m-bidir", 16_384, true, false),
        nat44!("pg-nat44ed-1m-bidir-rnd", 16_384, true, true),
        nat44!("pg-nat44ed-4m-udir", 65_536, false, false),
        nat44!("pg-nat44ed-4m-bidir", 65_536, true, false),
        Case {
            name: "pg-nat44ed-cps",
            description: "NAT44, endpoint-dependent: every packet begins a session; mpps is new sessions per microsecond",
            default_frame: 64,
            build: nat::new_sessions,
        },
        Case {
            name: "pg-acl50sf-nat44ed-16k",
            description: "NAT44 of 16,128 sessions from inside, in random order, behind CSIT's access list of 50 denials and a permit with tracking",
            default_frame: 64,
            build: nat::behind_access_list::<256>,
        },
        Case {
            name: "pg-lb-maglev-64k",
            description: "65,536 UDP flows to 10 services of 100 backends each, from the clients only, in random order",
            default_frame: 64,
            build: services::balanced::<1024>,
        },
        Case {
            name: "pg-lb-maglev-1m",
            description: "1,048,576 UDP flows to 10 services of 100 backends each, from the clients only, in random order",
            default_frame: 64,
            build: services::balanced::<16_384>,
        },
        Case {
            name: "pg-stack-64k",
            description: "pg-flow-64k through everything: policy, a service of 100 backends, source NAT, route; both directions in random order",
            default_frame: 64,
            build: services::stacked::<1>,
        },
        Case {
            name: "pg-stack-1m",
            description: "pg-flow-1m through everything: policy, a service of 100 backends, source NAT, route; both directions in random order",
            default_frame: 64,
            build: services::stacked::<16>,
        },
    ]
}

/// The case with this name; `pg-ethip4-ip4base` and the like, CSIT's full names, are understood.
pub fn find(name: &str) -> Option<&'static Case> {
    let short = name
        .replace("pg-ethip4-", "pg-")
        .replace("pg-ethip6-", "pg-")
        .replace("pg-ethip4udp-ip4base-", "pg-");
    cases().iter().find(|case| case.name == short)
}

impl Frames {
    /// Frame lengths without frame check sequence, with their shares.
    pub(crate) fn lengths(self) -> Vec<(usize, u16)> {
        match self {
            Self::Fixed(bytes) => vec![(usize::from(bytes).saturating_sub(4), 1)],
            Self::Imix => vec![(60, 28), (566, 16), (1514, 4)],
        }
    }
}

impl FromStr for Frames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let bytes = text
            .parse()
            .ok()
            .filter(|bytes| (64..=2048).contains(bytes));
        bytes
            .map(Self::Fixed)
            .ok_or_else(|| format!("{text:?} is no frame size: give 64 to 2048 bytes, or imix"))
    }
}
