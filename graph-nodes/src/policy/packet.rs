//! What policy reads of a packet: the key of its flow, and what rules ask beyond it. Written once for both versions of IP.

use std::hash::Hash;

use dataplane::{BufferView, Descriptor, Flags};
use tables::acl::{Key, PORT_PROTOCOLS};
use tables::{FlowKey, FlowKey4, FlowKey6, Prefix4, Prefix6, TcpFlags, Tick};
use wire::IpProtocol;
use wire::ip6::{DEFAULT_EXTENSION_LIMIT, walk_extensions};

use super::decide::Way;
use super::fragments::{Fragments, Transport};
use super::owner::{Home, Owned};
use super::{Drop, InterfacePolicy, JudgedAddress, Policy, SetAddress};
use crate::fib::{Group, RouteAction};
use crate::flow_hash;
use crate::nat::{Translated, Translation};
use crate::snapshot::{NO_INTERFACE, Snapshot};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a packet is, beside its flow's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Head {
    bits: u16,
    /// Flags of TCP; of none for other protocols.
    pub(super) tcp: TcpFlags,
    /// ICMP type and code.
    icmp: (u8, u8),
}

impl Head {
    /// It is for this host without a look at routes: a group, broadcast or link-local address.
    pub(super) const TO_HOST: u16 = 1 << 0;
    /// An untracked list has allowed it.
    pub(super) const UNTRACKED: u16 = 1 << 1;
    /// An ICMP error; the key is that of packets that go against the one that it quotes.
    pub(super) const RELATED: u16 = 1 << 2;
    /// It has its verdict already.
    pub(super) const DECIDED: u16 = 1 << 3;
    /// Its flow was decided from another generation of policy.
    pub(super) const STALE: u16 = 1 << 4;
    /// It begins no flow: an ICMP error.
    pub(super) const LONE: u16 = 1 << 5;
    const ICMP: u16 = 1 << 6;
    /// It belongs to another worker; decided.
    pub(super) const ELSEWHERE: u16 = 1 << 7;
    /// It was not read as a plain packet: it may be a later fragment, have options, or be of another protocol.
    pub(super) const ODD: u16 = 1 << 8;
    /// Of a packet that is [`ELSEWHERE`](Self::ELSEWHERE): a fragment on its way to where all of them meet.
    pub(super) const FRAGMENT: u16 = Self::STALE;

    /// Nothing more to be decided.
    pub(super) const fn decided() -> Self {
        Self {
            bits: Self::DECIDED,
            tcp: TcpFlags::NONE,
            icmp: (0, 0),
        }
    }

    /// TCP or UDP right behind a plain header, and nothing is known about it.
    #[inline(always)]
    pub(super) const fn is_plain(self) -> bool {
        self.bits == 0
    }

    /// True where one of these is set.
    #[inline(always)]
    pub(super) const fn is(self, bits: u16) -> bool {
        self.bits & bits != 0
    }

    #[inline(always)]
    pub(super) const fn set(&mut self, bits: u16) {
        self.bits |= bits;
    }
}

/// Where a packet would go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    Host,
    Interface(u16),
    Nowhere,
}

/// Headers of a packet, taken apart.
pub(crate) struct Dissected {
    protocol: u8,
    /// Bytes in front of the transport header.
    transport: usize,
    /// Identification, and offset in bytes.
    fragment: Option<(u32, usize)>,
}

/// A version of IP.
pub(crate) trait Version: Send + 'static {
    type Address: SetAddress + JudgedAddress;
    type Key: Translated + Owned + Hash;
    /// Type of the echo request.
    const ECHO: u8;
    /// Type of the echo reply.
    const ECHO_REPLY: u8;

    fn key(
        ends: (Self::Address, Self::Address),
        ports: (u16, u16),
        protocol: u8,
        zone: u16,
    ) -> Self::Key;
    /// Source and destination of a key.
    fn ends(key: &Self::Key) -> (Self::Address, Self::Address);
    fn ports(key: &Self::Key) -> (u16, u16);
    /// Source and destination of a packet, whose header is whole.
    fn addresses(packet: &[u8]) -> (Self::Address, Self::Address);
    /// The way of almost all packets: TCP or UDP right behind a plain header.
    fn plain(packet: &[u8], zone: u16) -> Option<(Self::Key, Head)>;
    /// Any packet, or the beginning of one that is quoted.
    fn dissect(packet: &[u8]) -> Result<Dissected, Drop>;
    /// Bytes of the packet with its header, as the header says.
    fn total_length(packet: &[u8]) -> u32;
    fn is_error(icmp_type: u8) -> bool;
    /// Addresses of this host, and of all on a link, that are not in the tables of routes.
    fn is_to_host(address: Self::Address) -> bool;
    /// The address space of a packet on an interface of a VRF.
    fn zone(ends: (Self::Address, Self::Address), vrf: u16, interface: u16) -> u16;
    /// Whether a workload may send from the address.
    fn may_send(policy: &InterfacePolicy, address: Self::Address) -> bool;
    /// The route to an address from an interface.
    fn route(snapshot: &Snapshot, interface: u16, address: Self::Address) -> Group;
    /// The hash by which the look-up chooses among next hops.
    fn hash(packet: &[u8]) -> u32;
    /// What is translated.
    fn translation(snapshot: &Snapshot) -> &Translation<Self::Address>;
    /// Tells the look-up of a packet's new destination.
    fn redirect(packet: &mut Descriptor, snapshot: &Snapshot, destination: u128);
}

pub(crate) struct Ip4;
pub(crate) struct Ip6;

/// Reads any packet.
pub(super) fn parse<V: Version>(
    packet: &[u8],
    vrf: u16,
    interface: u16,
    fragments: &mut Fragments<V::Key>,
    now: Tick,
    gather: Option<Home>,
) -> Result<(V::Key, Head), Drop> {
    let headers = V::dissect(packet)?;
    let ends = V::addresses(packet);
    let zone = V::zone(ends, vrf, interface);
    let protocol = headers.protocol;
    let mut head = Head::default();
    head.set(Head::ODD);
    if V::is_to_host(ends.1) {
        head.set(Head::TO_HOST);
    }
    if let (Some(home), Some(_)) = (gather, headers.fragment) {
        let meeting_point = V::key(ends, (0, 0), protocol, zone);
        if !home.is_meeting_point(&meeting_point) {
            head.set(Head::DECIDED | Head::ELSEWHERE | Head::FRAGMENT);
            return Ok((meeting_point, head));
        }
    }
    let name = |id: u32| V::key(ends, ((id >> 16) as u16, id as u16), protocol, zone);
    let mut related = None;
    let transport = match headers.fragment {
        Some((id, offset)) if offset > 0 => {
            // RFC 3128: it would write over the flags that were judged.
            if protocol == TCP && offset < 20 {
                return Err(Drop::Fragment);
            }
            if protocol == TCP {
                head.tcp = TcpFlags::ACK;
            }
            fragments.recall(&name(id), now).ok_or(Drop::Fragment)?
        }
        first => {
            let bytes = packet.get(headers.transport..).unwrap_or_default();
            let transport = transport::<V>(protocol, bytes).ok_or(Drop::Truncated)?;
            if protocol == TCP {
                head.tcp = TcpFlags::from_bits(*bytes.get(13).ok_or(Drop::Truncated)?);
            }
            if let Some((id, _)) = first {
                fragments.remember(name(id), transport, now);
            }
            related = transport
                .icmp
                .filter(|(icmp_type, _)| V::is_error(*icmp_type))
                .and_then(|_| quoted::<V>(bytes.get(8..)?, ends.1, zone));
            transport
        }
    };
    if let Some(icmp) = transport.icmp {
        head.set(Head::ICMP);
        head.icmp = icmp;
        if V::is_error(icmp.0) {
            head.set(Head::LONE);
        }
    }
    if let Some(key) = related {
        head.set(Head::RELATED);
        return Ok((key, head));
    }
    Ok((V::key(ends, transport.ports, protocol, zone), head))
}

/// The key of the flow that an ICMP error belongs to: of the packets that go the same way, against the one that it quotes and whose
/// sender is who is told.
fn quoted<V: Version>(quote: &[u8], told: V::Address, zone: u16) -> Option<V::Key> {
    let key = key_of::<V>(quote, zone)?;
    (V::ends(&key).0 == told).then(|| key.reversed())
}

/// The key of a packet of which the beginning is there; `None` where it does not say.
pub(crate) fn key_of<V: Version>(packet: &[u8], zone: u16) -> Option<V::Key> {
    let headers = V::dissect(packet).ok()?;
    if headers.fragment.is_some_and(|(_, offset)| offset > 0) {
        return None;
    }
    let transport = transport::<V>(headers.protocol, packet.get(headers.transport..)?)?;
    let ends = V::addresses(packet);
    Some(V::key(ends, transport.ports, headers.protocol, zone))
}

/// What the first bytes of a transport header say; `None` where they are not there.
///
/// An echo request has its identifier and its type as ports, so that the reply's are the same the other way round; other ICMP
/// messages have type and code, twice.
fn transport<V: Version>(protocol: u8, bytes: &[u8]) -> Option<Transport> {
    if PORT_PROTOCOLS.contains(&protocol) {
        let [a, b, c, d] = *bytes.first_chunk()?;
        return Some(Transport {
            ports: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            icmp: None,
        });
    }
    if protocol != <V::Address as tables::acl::Address>::ICMP {
        return Some(Transport::default());
    }
    let [kind, code, _, _, high, low, ..] = *bytes.first_chunk::<8>()?;
    let id = u16::from_be_bytes([high, low]);
    let ports = if kind == V::ECHO {
        (id, V::ECHO.into())
    } else if kind == V::ECHO_REPLY {
        (V::ECHO.into(), id)
    } else {
        let both = u16::from_be_bytes([kind, code]);
        (both, both)
    };
    Some(Transport {
        ports,
        icmp: Some((kind, code)),
    })
}

/// Bytes of a packet from its header on, in all its buffers.
#[inline(always)]
pub(super) fn length<V: Version>(packet: &Descriptor, view: BufferView<'_>) -> u32 {
    if packet.flags().contains(Flags::CHAINED) {
        V::total_length(view.bytes(packet))
    } else {
        packet.length() as u32
    }
}

/// What rules are asked about a packet.
#[inline]
pub(super) fn question<V: Version>(key: &V::Key, head: Head, packet: &[u8]) -> Key<V::Address> {
    if head.is(Head::RELATED) {
        let (source, destination) = V::addresses(packet);
        return Key::icmp(source, destination, head.icmp.0, head.icmp.1);
    }
    let (source, destination) = V::ends(key);
    if head.is(Head::ICMP) {
        return Key::icmp(source, destination, head.icmp.0, head.icmp.1);
    }
    let ports = V::ports(key);
    Key::with_ports(source, destination, key.protocol(), ports.0, ports.1)
}

/// What rules were asked about the first packet of a flow.
pub(super) fn question_of_flow<V: Version>(key: &V::Key) -> Key<V::Address> {
    let (source, destination) = V::ends(key);
    let ports = V::ports(key);
    if key.protocol() != <V::Address as tables::acl::Address>::ICMP {
        return Key::with_ports(source, destination, key.protocol(), ports.0, ports.1);
    }
    let echo = u16::from(V::ECHO);
    let (kind, code) = if ports.0 == ports.1 && ports.0 != echo {
        ((ports.0 >> 8) as u8, ports.0 as u8)
    } else if ports.1 == echo {
        (V::ECHO, 0)
    } else {
        (V::ECHO_REPLY, 0)
    };
    Key::icmp(source, destination, kind, code)
}

/// The key of a flow's own packets with their destination translated and their source not, from the keys of both directions.
pub(super) fn redirected<V: Version>(forward: &V::Key, reply: &V::Key) -> V::Key {
    let ends = (V::ends(forward).0, V::ends(reply).0);
    let ports = (V::ports(forward).0, V::ports(reply).0);
    V::key(ends, ports, forward.protocol(), forward.zone())
}

/// What rules are asked about an echo reply, and about the request that it answers. `None` for other packets.
pub(super) fn echo_reply<V: Version>(packet: &[u8]) -> Option<[Key<V::Address>; 2]> {
    let headers = V::dissect(packet).ok()?;
    let transport = transport::<V>(headers.protocol, packet.get(headers.transport..)?)?;
    let (source, destination) = V::addresses(packet);
    match transport.icmp {
        Some((kind, code)) if kind == V::ECHO_REPLY => Some([
            Key::icmp(source, destination, kind, code),
            Key::icmp(destination, source, V::ECHO, code),
        ]),
        _ => None,
    }
}

/// Where a packet that came in by `interface` would go.
#[inline]
pub(super) fn exit<V: Version>(
    snapshot: &Snapshot,
    interface: u16,
    head: Head,
    destination: V::Address,
    packet: &[u8],
) -> Exit {
    if head.is(Head::TO_HOST) {
        return Exit::Host;
    }
    let forwarding = &snapshot.forwarding;
    let group = V::route(snapshot, interface, destination);
    let adjacency = match group.action() {
        RouteAction::Forward => group.payload(),
        RouteAction::Multipath => forwarding.bucket(group, V::hash(packet)),
        RouteAction::Glean => return Exit::Interface(group.payload() as u16),
        RouteAction::Local => return Exit::Host,
        RouteAction::NoRoute
        | RouteAction::Blackhole
        | RouteAction::Unreachable
        | RouteAction::Prohibit => return Exit::Nowhere,
    };
    Exit::Interface(forwarding.adjacency(adjacency).hot().interface())
}

impl Exit {
    /// The same, with the policy of what it leaves by.
    #[inline(always)]
    pub(super) fn way(self, policy: &Policy) -> Way<'_> {
        match self {
            Self::Host => Way::Host,
            Self::Interface(number) => Way::Out(policy.of(number)),
            Self::Nowhere => Way::Nowhere,
        }
    }

    /// The interface where answers come in.
    pub(super) const fn interface(self) -> u16 {
        match self {
            Self::Interface(number) => number,
            Self::Host | Self::Nowhere => NO_INTERFACE,
        }
    }
}

impl Version for Ip4 {
    type Address = u32;
    type Key = FlowKey4;
    const ECHO: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn key(ends: (u32, u32), ports: (u16, u16), protocol: u8, zone: u16) -> FlowKey4 {
        FlowKey4::new(ends.0, ends.1, ports.0, ports.1, protocol, zone)
    }

    #[inline(always)]
    fn ends(key: &FlowKey4) -> (u32, u32) {
        (key.src(), key.dst())
    }

    #[inline(always)]
    fn ports(key: &FlowKey4) -> (u16, u16) {
        (key.src_port(), key.dst_port())
    }

    #[inline(always)]
    fn addresses(packet: &[u8]) -> (u32, u32) {
        let word = |at: usize| {
            let bytes = packet.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        (word(12), word(16))
    }

    #[inline(always)]
    fn plain(packet: &[u8], zone: u16) -> Option<(FlowKey4, Head)> {
        let header: &[u8; 28] = packet.first_chunk()?;
        let (words, _) = header.as_chunks::<8>();
        let (first, second) = (u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]));
        let third = u64::from_be_bytes(words[2]);
        let protocol = (second >> 48) as u8;
        let destination = (third >> 32) as u32;
        // Version and header length; not a fragment.
        let plain = (first >> 56 == 0x45) & (first & 0x3fff == 0) & (destination < 0xe000_0000);
        if !plain {
            return None;
        }
        let tcp = match protocol {
            UDP => TcpFlags::NONE,
            TCP => TcpFlags::from_bits(packet.first_chunk::<40>()?[33]),
            _ => return None,
        };
        let ports = third as u32;
        let key = FlowKey4::new(
            second as u32,
            destination,
            (ports >> 16) as u16,
            ports as u16,
            protocol,
            zone,
        );
        let head = Head {
            tcp,
            ..Head::default()
        };
        Some((key, head))
    }

    fn dissect(packet: &[u8]) -> Result<Dissected, Drop> {
        let header: &[u8; 20] = packet.first_chunk().ok_or(Drop::Truncated)?;
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let id = u16::from_be_bytes([header[4], header[5]]);
        let transport = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || transport < 20 {
            return Err(Drop::Truncated);
        }
        Ok(Dissected {
            protocol: header[9],
            transport,
            fragment: (fragment & 0x3fff != 0)
                .then_some((id.into(), usize::from(fragment & 0x1fff) * 8)),
        })
    }

    fn total_length(packet: &[u8]) -> u32 {
        let length = packet.get(2..).and_then(|bytes| bytes.first_chunk());
        length.map_or(0, |bytes| u16::from_be_bytes(*bytes).into())
    }

    fn is_error(icmp_type: u8) -> bool {
        wire::Icmp4Type(icmp_type).is_error()
    }

    #[inline(always)]
    fn is_to_host(address: u32) -> bool {
        address >= 0xe000_0000
    }

    fn zone(_: (u32, u32), vrf: u16, _: u16) -> u16 {
        vrf
    }

    fn may_send(policy: &InterfacePolicy, address: u32) -> bool {
        let sources = &policy.sources4;
        sources.is_empty() || sources.iter().any(|net: &Prefix4| net.contains(address))
    }

    #[inline(always)]
    fn route(snapshot: &Snapshot, interface: u16, address: u32) -> Group {
        let vrf = snapshot.vrf_of(interface);
        let number = vrf.map_or(0, |vrf| vrf.ip4.lookup(address));
        snapshot.forwarding.group(number)
    }

    fn hash(packet: &[u8]) -> u32 {
        flow_hash::ip4(packet)
    }

    #[inline(always)]
    fn translation(snapshot: &Snapshot) -> &Translation<u32> {
        &snapshot.nat.ip4
    }

    #[inline(always)]
    fn redirect(packet: &mut Descriptor, snapshot: &Snapshot, destination: u128) {
        packet.word = destination as u32;
        if let Some(vrf) = snapshot.vrf_of(packet.interface) {
            vrf.ip4.prefetch(packet.word);
        }
    }
}

/// Set in the zones of link-local flows, whose addresses mean something on one link only: the rest is the interface.
const LINK_ZONE: u16 = 0x8000;

impl Version for Ip6 {
    type Address = u128;
    type Key = FlowKey6;
    const ECHO: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn key(ends: (u128, u128), ports: (u16, u16), protocol: u8, zone: u16) -> FlowKey6 {
        FlowKey6::new(ends.0, ends.1, ports.0, ports.1, protocol, zone)
    }

    #[inline(always)]
    fn ends(key: &FlowKey6) -> (u128, u128) {
        (key.src(), key.dst())
    }

    #[inline(always)]
    fn ports(key: &FlowKey6) -> (u16, u16) {
        (key.src_port(), key.dst_port())
    }

    #[inline(always)]
    fn addresses(packet: &[u8]) -> (u128, u128) {
        let word = |at: usize| {
            let bytes = packet
                .get(at..at + 16)
                .and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u128::from_be_bytes(*bytes))
        };
        (word(8), word(24))
    }

    #[inline(always)]
    fn plain(packet: &[u8], zone: u16) -> Option<(FlowKey6, Head)> {
        let header: &[u8; 48] = packet.first_chunk()?;
        // Both addresses global: no link, no group.
        if (header[8] >> 5 != 1) | (header[24] >> 5 != 1) {
            return None;
        }
        let tcp = match header[6] {
            UDP => TcpFlags::NONE,
            TCP => TcpFlags::from_bits(packet.first_chunk::<60>()?[53]),
            _ => return None,
        };
        let (source, destination) = Self::addresses(header);
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let key = FlowKey6::new(source, destination, port(40), port(42), header[6], zone);
        let head = Head {
            tcp,
            ..Head::default()
        };
        Some((key, head))
    }

    fn dissect(packet: &[u8]) -> Result<Dissected, Drop> {
        let header: &[u8; 40] = packet.first_chunk().ok_or(Drop::Truncated)?;
        if header[0] >> 4 != 6 {
            return Err(Drop::Truncated);
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = &packet[40..];
        let payload = &payload[..payload.len().min(length)];
        let chain = walk_extensions(IpProtocol(header[6]), payload, DEFAULT_EXTENSION_LIMIT);
        if chain.fault.is_some() {
            return Err(Drop::Malformed);
        }
        let fragment = chain.fragment.filter(|(header, _)| !header.is_atomic());
        Ok(Dissected {
            protocol: chain.protocol.0,
            transport: 40 + chain.offset,
            fragment: fragment.map(|(header, _)| (header.id.get(), header.offset_bytes())),
        })
    }

    fn total_length(packet: &[u8]) -> u32 {
        let length = packet.get(4..).and_then(|bytes| bytes.first_chunk());
        length.map_or(0, |bytes| 40 + u32::from(u16::from_be_bytes(*bytes)))
    }

    fn is_error(icmp_type: u8) -> bool {
        icmp_type < 128
    }

    #[inline(always)]
    fn is_to_host(address: u128) -> bool {
        address >> 120 == 0xff || is_link_local(address)
    }

    fn zone(ends: (u128, u128), vrf: u16, interface: u16) -> u16 {
        if is_link_local(ends.0) || is_link_local(ends.1) {
            LINK_ZONE | interface
        } else {
            vrf
        }
    }

    fn may_send(policy: &InterfacePolicy, address: u128) -> bool {
        let sources = &policy.sources6;
        sources.is_empty() || sources.iter().any(|net: &Prefix6| net.contains(address))
    }

    #[inline(always)]
    fn route(snapshot: &Snapshot, interface: u16, address: u128) -> Group {
        let vrf = snapshot.vrf_of(interface);
        let number = vrf.map_or(0, |vrf| vrf.ip6.lookup(address));
        snapshot.forwarding.group(number)
    }

    fn hash(packet: &[u8]) -> u32 {
        flow_hash::ip6(packet)
    }

    #[inline(always)]
    fn translation(snapshot: &Snapshot) -> &Translation<u128> {
        &snapshot.nat.ip6
    }

    #[inline(always)]
    fn redirect(_: &mut Descriptor, _: &Snapshot, _: u128) {}
}

fn is_link_local(address: u128) -> bool {
    address >> 118 == 0xfe80 >> 6
}
