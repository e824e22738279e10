//! What a case is, and which there are.

use std::str::FromStr;

use graph_nodes::Snapshot;
use graph_nodes::fib::ForwardingWriter;
use ports::Template;

use crate::forwarding;

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
    ]
}

/// The case with this name; `pg-ethip4-ip4base` and the like, CSIT's full names, are understood.
pub fn find(name: &str) -> Option<&'static Case> {
    let short = name
        .replace("pg-ethip4-", "pg-")
        .replace("pg-ethip6-", "pg-");
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
