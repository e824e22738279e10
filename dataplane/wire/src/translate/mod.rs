//! Packets of IPv4 turned into packets of IPv6 and back (RFC 7915), as stateful NAT64 (RFC 6146) needs it.
//!
//! The caller decides which addresses and ports a packet gets ([`To6`], [`To4`]); the functions here do
//! the rest: headers, fragments, checksums, ICMP messages and the packets quoted in them.
//!
//! ```text
//!            replaces                     end
//!  |<------------------------>|            |
//!  +--------------------------+------------+---------+
//!  | old headers              | payload    | padding |   the packet
//!  +--------------------------+------------+---------+
//!       +---------------------+
//!       | new headers         |                            out[..header_len]
//!       +---------------------+
//! ```
//!
//! The payload stays where it is, transport headers are changed in place, and the new IP header (in
//! ICMP errors: all headers up to those of the quoted transport) comes out in an array, to be copied in
//! front of the payload ([`Edit`]). A packet that is refused ([`Refusal`]) is left as it was.
//!
//! - [`to6`], [`to4`]: everything but ICMP errors. TCP, UDP, DCCP, UDP-Lite and ICMP echo get their
//!   ports or identifiers; other protocols pass with new addresses (RFC 7915 section 4.5).
//! - [`error_to6`], [`error_to4`]: ICMP errors, with bindings for the message and for the packet in it.
//! - [`inspect4`], [`inspect6`]: addresses and ports of a packet, and of the one quoted in it, to find
//!   the bindings by.
//! - [`Ip6Fragments`]: a packet whose sender allowed fragmentation, in pieces that IPv6 links can carry.
//!
//! Packets must have passed [`ip4::validate`](crate::ip4::validate) or
//! [`ip6::validate`](crate::ip6::validate): lengths are checked here again, the IPv4 header checksum is
//! not. Time to live and hop limit are copied, to be decremented by whoever forwards the packet; checks
//! against the MTU of the next hop are theirs too. Checksums of transports are adjusted, not computed
//! afresh, so damage stays visible.
//!
//! ```
//! use wire::translate::{self, MAX_HEADERS, Policy, Ports, To6, Tuple};
//! use wire::{Pref64, builder};
//!
//! let mut packet = builder::ip4([198, 51, 100, 1], [203, 0, 113, 1]).udp(53, 40000).payload(b"hello").build();
//! let policy = Policy::default();
//! let seen = translate::inspect4(&packet)?;
//!
//! // The binding says that 203.0.113.1:40000 is port 5353 of an IPv6 host.
//! let prefix = Pref64::new("2001:db8:64::".parse().unwrap(), 96).unwrap();
//! let binding = To6::new(&seen.tuple, &Tuple {
//!     source: prefix.embed(seen.tuple.source).unwrap(),
//!     destination: "2001:db8::1".parse().unwrap(),
//!     ports: Ports { destination: 5353, ..seen.tuple.ports },
//! });
//!
//! let mut out = [0; MAX_HEADERS];
//! let edit = translate::to6(&mut packet, &binding, &policy, &mut out)?;
//! let translated = [&out[..edit.header_len], &packet[edit.replaces..edit.end]].concat();
//! assert_eq!(
//!     wire::describe::describe_l3(&translated),
//!     "IPv6 2001:db8:64::c633:6401 > 2001:db8::1 hlim 64 UDP 53 > 5353 len 53"
//! );
//! # Ok::<(), translate::Refusal>(())
//! ```

mod error;
mod fragments;
mod icmp;
mod refusal;
mod to4;
mod to6;
mod transport;

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::IpProtocol;
use crate::checksum::{Delta, Sum};

pub use fragments::Ip6Fragments;
pub use refusal::Refusal;
pub use to4::{error_to4, inspect6, segments_left_pointer, to4};
pub use to6::{error_to6, inspect4, to6};

/// The longest headers that a translation makes, bytes: IPv6, ICMPv6, and IPv6 with a fragment header.
pub const MAX_HEADERS: usize = 40 + 8 + 40 + 8;
/// The most by which headers become longer, bytes: the headroom that packets need in front of them. That much
/// an ICMP error grows that is about a fragment and has extensions; what is no error grows by 28 or less.
pub const MAX_GROWTH: usize = 20 + 28 + 4;

/// What an operator decides about translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether the TOS byte becomes the traffic class and back; else the new header has zero there
    /// (RFC 7915 sections 4.1 and 5.1).
    pub copy_traffic_class: bool,
    /// What becomes of whole UDP packets that have no checksum in IPv4 (RFC 7915 section 4.5).
    pub zero_checksum: ZeroChecksum,
    /// The largest IPv6 packet, bytes, that every path behind the translator carries: IPv4 packets that
    /// may be fragmented are fragmented beyond it (RFC 7915 section 4.1). Below 1280 counts as 1280.
    pub lowest_ip6_mtu: u16,
    /// MTU of the next hop in IPv4, bytes: the bound for MTUs in ICMP errors.
    pub ip4_mtu: u16,
    /// MTU of the next hop in IPv6, bytes: the bound for MTUs in ICMP errors.
    pub ip6_mtu: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            copy_traffic_class: true,
            zero_checksum: ZeroChecksum::Compute,
            lowest_ip6_mtu: crate::ip6::MIN_MTU,
            ip4_mtu: u16::MAX,
            ip6_mtu: u16::MAX,
        }
    }
}

impl Policy {
    #[inline]
    fn class(&self, class: u8) -> u8 {
        if self.copy_traffic_class { class } else { 0 }
    }
}

/// What becomes of UDP packets without a checksum on their way to IPv6, where it is mandatory.
/// Fragments of such packets are always refused, since the checksum covers all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroChecksum {
    /// The checksum is computed, which reads the whole packet.
    Compute,
    /// The packet is refused with [`Refusal::UdpWithoutChecksum`].
    Refuse,
}

/// Ports of a packet. ICMP echo messages have an identifier instead, which stands in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ports {
    /// Source port, or the identifier.
    pub source: u16,
    /// Destination port, or the identifier.
    pub destination: u16,
}

impl Ports {
    /// The identifier of an ICMP echo message.
    #[inline]
    pub const fn identifier(identifier: u16) -> Self {
        Self {
            source: identifier,
            destination: identifier,
        }
    }

    #[inline]
    fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.source.to_be_bytes(), self.destination.to_be_bytes());
        [a, b, c, d]
    }

    #[inline]
    const fn from_bytes(bytes: [u8; 4]) -> Self {
        Self {
            source: u16::from_be_bytes([bytes[0], bytes[1]]),
            destination: u16::from_be_bytes([bytes[2], bytes[3]]),
        }
    }
}

/// Addresses and ports of a packet, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Ports or identifier; zero where [`Kind`] says that there are none.
    pub ports: Ports,
}

/// What the IPv4 packets of a flow get on their way to IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    /// As they are on the wire.
    ports: [u8; 4],
    /// The change of the addresses in pseudo-headers.
    addresses: Delta,
}

impl To6 {
    /// Packets from and to the addresses of `old` get addresses and ports of `new`. Made once per flow;
    /// the addresses of `old` must be those of the packets, its ports do not matter.
    #[inline]
    pub fn new(old: &Tuple<Ipv4Addr>, new: &Tuple<Ipv6Addr>) -> Self {
        Self {
            source: new.source,
            destination: new.destination,
            ports: new.ports.to_bytes(),
            addresses: Delta::of16(
                sum4(old.source, old.destination).folded(),
                sum6(&new.source, &new.destination).folded(),
            ),
        }
    }
}

/// What the IPv6 packets of a flow get on their way to IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct To4 {
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// As they are on the wire.
    ports: [u8; 4],
    /// The change of the addresses in pseudo-headers.
    addresses: Delta,
}

impl To4 {
    /// Packets from and to the addresses of `old` get addresses and ports of `new`. Made once per flow;
    /// the addresses of `old` must be those of the packets, its ports do not matter.
    #[inline]
    pub fn new(old: &Tuple<Ipv6Addr>, new: &Tuple<Ipv4Addr>) -> Self {
        Self {
            source: new.source,
            destination: new.destination,
            ports: new.ports.to_bytes(),
            addresses: Delta::of16(
                sum6(&old.source, &old.destination).folded(),
                sum4(new.source, new.destination).folded(),
            ),
        }
    }
}

/// How to make the new packet: `out[..header_len]` followed by `packet[replaces..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edit {
    /// Length of the new headers, bytes.
    pub header_len: usize,
    /// How many bytes at the start of the packet they replace.
    pub replaces: usize,
    /// Where the packet ends: what lies behind is padding of the link, or was cut off.
    pub end: usize,
    /// The new packet is longer than [`Policy::lowest_ip6_mtu`], and its sender allowed fragmentation: it
    /// should be sent in the pieces that [`Ip6Fragments`] makes. Its headers then end with a fragment
    /// header, so it is a legal packet as it is, too.
    pub fragment: bool,
}

impl Edit {
    /// Length of the new packet, bytes.
    #[inline]
    pub const fn packet_len(&self) -> usize {
        self.header_len + self.end - self.replaces
    }
}

/// What a packet is to a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The ports are those of a transport.
    Ports,
    /// An ICMP echo request or reply; the ports are its identifier.
    Echo,
    /// An ICMP error.
    Error,
    /// A fragment other than the first: ports are known only from the first one.
    LaterFragment,
    /// A protocol that has no ports, or whose ports are not translated.
    Other,
}

/// What a packet says about its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected<A> {
    /// What it is.
    pub kind: Kind,
    /// The protocol of the payload; ICMP has its own number in each version of IP.
    pub protocol: IpProtocol,
    /// Addresses and ports.
    pub tuple: Tuple<A>,
    /// The packet quoted in an ICMP error, as it travelled: from the receiver of the error.
    pub quoted: Option<Quoted<A>>,
}

/// What a packet that is quoted in an ICMP error says about its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted<A> {
    /// What it is; never an error.
    pub kind: Kind,
    /// The protocol of its payload.
    pub protocol: IpProtocol,
    /// Addresses and ports.
    pub tuple: Tuple<A>,
}

#[inline]
fn sum4(source: Ipv4Addr, destination: Ipv4Addr) -> Sum {
    Sum::new()
        .word32(source.to_bits())
        .word32(destination.to_bits())
}

#[inline]
fn sum6(source: &Ipv6Addr, destination: &Ipv6Addr) -> Sum {
    Sum::new()
        .bytes(&source.octets())
        .bytes(&destination.octets())
}

/// The identifier of an echo message among the ports of a binding.
#[inline]
const fn identifier(ports: [u8; 4]) -> u16 {
    u16::from_be_bytes([ports[0], ports[1]])
}
