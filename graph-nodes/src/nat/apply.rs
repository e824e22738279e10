//! How a packet becomes what its flow says: addresses, ports, checksums.
//!
//! Checksums change by differences (RFC 1624) that were computed when the flow was made, so a packet that came damaged stays damaged.
//! Later fragments have no ports: their addresses change, and nothing else. ICMP errors carry the beginning of a packet that went the
//! other way, which becomes again what its sender sent (RFC 5508 section 4).

use core::net::Ipv6Addr;

use tables::{FlowKey, FlowKey4, FlowKey6, Rewrite4, Rewrite6};
use wire::IpProtocol;
use wire::checksum::{Delta, udp_value};
use wire::ip6::{DEFAULT_EXTENSION_LIMIT, walk_extensions};

const ICMP4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMP6: u8 = 58;
const UDP_LITE: u8 = 136;
/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;
/// Bytes of a quoted packet behind which nothing changes: an IPv4 header with all options or an IPv6 header with some extensions, and a
/// transport header's checksum.
const QUOTE: usize = 256;

/// Keys of packets that can be translated.
pub(crate) trait Translated: FlowKey {
    /// What makes packets with the key `to` of packets with this one. Ports of protocols that do not allow it must be the same.
    fn rewrite_to(&self, to: &Self) -> Self::Rewrite;

    /// Rewrites TCP or UDP right behind a plain header, all of which is there.
    fn apply_plain(packet: &mut [u8], rewrite: &Self::Rewrite);

    /// Rewrites any packet; `partial`: the transport checksum is a sum over the pseudo-header that somebody else completes.
    fn apply(packet: &mut [u8], rewrite: &Self::Rewrite, partial: bool);

    /// Rewrites an ICMP error: its own addresses as `rewrite` says, where they differ from those of the key `of` that it belongs
    /// to; and in the packet that it quotes, what `quote` says.
    fn apply_error(packet: &mut [u8], of: &Self, rewrite: &Self::Rewrite, quote: &Self::Rewrite);

    /// The new destination.
    fn destination(rewrite: &Self::Rewrite) -> u128;
}

/// Whether the transport checksum covers the addresses.
const fn has_pseudo_header(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | UDP_LITE | ICMP6)
}

/// Whether the ports of a protocol may change: they are covered by a checksum that differences can change.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | UDP_LITE)
}

/// Where a transport header has its checksum.
const fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP | DCCP | UDP_LITE => Some(6),
        ICMP4 | ICMP6 => Some(2),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value;
    }
}

/// What changes behind the addresses.
#[derive(Clone, Copy)]
struct Transport {
    protocol: u8,
    ports: (u16, u16),
    /// Of addresses and ports, as far as the checksum covers them.
    delta: Delta,
    /// Of addresses alone.
    addresses: Delta,
    partial: bool,
}

impl Transport {
    /// Rewrites a transport header, of which there may be no more than the beginning.
    fn apply(self, header: &mut [u8]) {
        let Self { protocol, .. } = self;
        if has_ports(protocol) {
            let (source, destination) = self.ports;
            put(header, 0, source.to_be_bytes());
            put(header, 2, destination.to_be_bytes());
        } else if protocol == ICMP4 || protocol == ICMP6 {
            let (request, reply) = if protocol == ICMP4 {
                (8, 0)
            } else {
                (128, 129)
            };
            match header.first() {
                Some(kind) if *kind == request => put(header, 4, self.ports.0.to_be_bytes()),
                Some(kind) if *kind == reply => put(header, 4, self.ports.1.to_be_bytes()),
                _ => {}
            }
        }
        let Some(at) = checksum_at(protocol) else {
            return;
        };
        let Some(checksum) = be16(header, at) else {
            return;
        };
        let checksum = if self.partial {
            // A sum, not its complement, and of the addresses alone.
            match has_pseudo_header(protocol) {
                true => !self.addresses.apply(!checksum),
                false => checksum,
            }
        } else if protocol == UDP {
            self.delta.apply_udp(checksum)
        } else if protocol == UDP_LITE {
            udp_value(self.delta.apply(checksum))
        } else {
            self.delta.apply(checksum)
        };
        put(header, at, checksum.to_be_bytes());
    }
}

/// The change that ports, or an identifier, make.
fn port_delta(protocol: u8, from: (u16, u16), to: (u16, u16)) -> Delta {
    // Of ICMP, one of both is the identifier, the other a constant.
    if has_ports(protocol) || matches!(protocol, ICMP4 | ICMP6) {
        Delta::of16(from.0, to.0).and(Delta::of16(from.1, to.1))
    } else {
        Delta::NONE
    }
}

impl Translated for FlowKey4 {
    fn rewrite_to(&self, to: &Self) -> Rewrite4 {
        let protocol = self.protocol();
        let addresses = Delta::of32(self.src(), to.src()).and(Delta::of32(self.dst(), to.dst()));
        let ports = port_delta(
            protocol,
            (self.src_port(), self.dst_port()),
            (to.src_port(), to.dst_port()),
        );
        let transport = if has_pseudo_header(protocol) {
            addresses.and(ports)
        } else {
            ports
        };
        Rewrite4 {
            src: to.src(),
            dst: to.dst(),
            src_port: to.src_port(),
            dst_port: to.dst_port(),
            l3_delta: addresses.to_bits(),
            l4_delta: transport.to_bits(),
        }
    }

    #[inline(always)]
    fn apply_plain(packet: &mut [u8], rewrite: &Rewrite4) {
        let Some(header) = packet.first_chunk_mut::<28>() else {
            return;
        };
        let checksum = u16::from_be_bytes([header[10], header[11]]);
        let checksum = Delta::from_bits(rewrite.l3_delta).apply(checksum);
        let addresses = u64::from(rewrite.src) << 32 | u64::from(rewrite.dst);
        let ports = u32::from(rewrite.src_port) << 16 | u32::from(rewrite.dst_port);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header[12..20].copy_from_slice(&addresses.to_be_bytes());
        header[20..24].copy_from_slice(&ports.to_be_bytes());
        let delta = Delta::from_bits(rewrite.l4_delta);
        if header[9] == UDP {
            let checksum = delta.apply_udp(u16::from_be_bytes([header[26], header[27]]));
            header[26..28].copy_from_slice(&checksum.to_be_bytes());
        } else if let Some(header) = packet.first_chunk_mut::<40>() {
            let checksum = delta.apply(u16::from_be_bytes([header[36], header[37]]));
            header[36..38].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    fn apply(packet: &mut [u8], rewrite: &Rewrite4, partial: bool) {
        let Some(header) = packet.first_chunk_mut::<20>() else {
            return;
        };
        let length = usize::from(header[0] & 15) * 4;
        let protocol = header[9];
        let is_later_fragment = (header[6] & 0x1f) | header[7] != 0;
        let addresses = Delta::from_bits(rewrite.l3_delta);
        let checksum = addresses.apply(u16::from_be_bytes([header[10], header[11]]));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header[12..16].copy_from_slice(&rewrite.src.to_be_bytes());
        header[16..20].copy_from_slice(&rewrite.dst.to_be_bytes());
        if is_later_fragment {
            return;
        }
        let transport = Transport {
            protocol,
            ports: (rewrite.src_port, rewrite.dst_port),
            delta: Delta::from_bits(rewrite.l4_delta),
            addresses,
            partial,
        };
        transport.apply(packet.get_mut(length..).unwrap_or_default());
    }

    fn apply_error(packet: &mut [u8], of: &Self, rewrite: &Rewrite4, quote: &Rewrite4) {
        let Some(header) = packet.first_chunk_mut::<20>() else {
            return;
        };
        let length = usize::from(header[0] & 15) * 4;
        let mut delta = Delta::NONE;
        for (at, from, to) in [(12, of.src(), rewrite.src), (16, of.dst(), rewrite.dst)] {
            let now =
                u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            if from != to {
                delta = delta.and(Delta::of32(now, to));
                header[at..at + 4].copy_from_slice(&to.to_be_bytes());
            }
        }
        let checksum = delta.apply(u16::from_be_bytes([header[10], header[11]]));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        apply_quote::<Self>(
            packet.get_mut(length..).unwrap_or_default(),
            quote,
            Delta::NONE,
        );
    }

    fn destination(rewrite: &Rewrite4) -> u128 {
        rewrite.dst.into()
    }
}

/// Rewrites an ICMP message behind its IP header: the packet that it quotes, and the checksum for that and for `outside`.
fn apply_quote<K: Translated>(message: &mut [u8], quote: &K::Rewrite, outside: Delta) {
    let Some(quoted) = message.get_mut(ICMP_HEADER..) else {
        return;
    };
    let changing = quoted.len().min(QUOTE);
    let quoted = &mut quoted[..changing];
    let mut before = [0; QUOTE];
    let before = &mut before[..changing];
    before.copy_from_slice(quoted);
    K::apply(quoted, quote, false);
    let delta = Delta::of_bytes(before, quoted).and(outside);
    if let Some(checksum) = be16(message, 2) {
        put(message, 2, delta.apply(checksum).to_be_bytes());
    }
}

/// The change of the pseudo-header that new addresses make.
fn addresses6(old: (u128, u128), new: (u128, u128)) -> Delta {
    let of =
        |old: u128, new: u128| Delta::of_ip6(&Ipv6Addr::from_bits(old), &Ipv6Addr::from_bits(new));
    of(old.0, new.0).and(of(old.1, new.1))
}

fn take6(packet: &[u8]) -> Option<(u128, u128)> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let (addresses, _) = header[8..].as_chunks::<16>();
    Some((
        u128::from_be_bytes(addresses[0]),
        u128::from_be_bytes(addresses[1]),
    ))
}

/// The protocol behind the extension headers, and where; `None` where there is none, or no more than a later fragment of it.
fn transport6(packet: &[u8]) -> Option<(u8, usize)> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let payload = &packet[40..];
    // A train is longer than its header can say.
    let payload = if length == 0 {
        payload
    } else {
        &payload[..payload.len().min(length)]
    };
    let chain = walk_extensions(IpProtocol(header[6]), payload, DEFAULT_EXTENSION_LIMIT);
    let is_later = chain
        .fragment
        .is_some_and(|(fragment, _)| fragment.offset_bytes() > 0);
    (!is_later).then_some((chain.protocol.0, 40 + chain.offset))
}

impl Translated for FlowKey6 {
    fn rewrite_to(&self, to: &Self) -> Rewrite6 {
        let protocol = self.protocol();
        let ports = port_delta(
            protocol,
            (self.src_port(), self.dst_port()),
            (to.src_port(), to.dst_port()),
        );
        let transport = if has_pseudo_header(protocol) {
            ports.and(addresses6((self.src(), self.dst()), (to.src(), to.dst())))
        } else {
            ports
        };
        Rewrite6 {
            src: to.src(),
            dst: to.dst(),
            src_port: to.src_port(),
            dst_port: to.dst_port(),
            l4_delta: transport.to_bits(),
            spare: 0,
        }
    }

    #[inline(always)]
    fn apply_plain(packet: &mut [u8], rewrite: &Rewrite6) {
        let Some(header) = packet.first_chunk_mut::<48>() else {
            return;
        };
        let ports = u32::from(rewrite.src_port) << 16 | u32::from(rewrite.dst_port);
        header[8..24].copy_from_slice(&rewrite.src.to_be_bytes());
        header[24..40].copy_from_slice(&rewrite.dst.to_be_bytes());
        header[40..44].copy_from_slice(&ports.to_be_bytes());
        let delta = Delta::from_bits(rewrite.l4_delta);
        if header[6] == UDP {
            let checksum = delta.apply_udp(u16::from_be_bytes([header[46], header[47]]));
            header[46..48].copy_from_slice(&checksum.to_be_bytes());
        } else if let Some(header) = packet.first_chunk_mut::<60>() {
            let checksum = delta.apply(u16::from_be_bytes([header[56], header[57]]));
            header[56..58].copy_from_slice(&checksum.to_be_bytes());
        }
    }

    fn apply(packet: &mut [u8], rewrite: &Rewrite6, partial: bool) {
        let Some(old) = take6(packet) else { return };
        let behind = transport6(packet);
        put(packet, 8, rewrite.src.to_be_bytes());
        put(packet, 24, rewrite.dst.to_be_bytes());
        let Some((protocol, at)) = behind else { return };
        let transport = Transport {
            protocol,
            ports: (rewrite.src_port, rewrite.dst_port),
            delta: Delta::from_bits(rewrite.l4_delta),
            addresses: addresses6(old, (rewrite.src, rewrite.dst)),
            partial,
        };
        transport.apply(packet.get_mut(at..).unwrap_or_default());
    }

    fn apply_error(packet: &mut [u8], of: &Self, rewrite: &Rewrite6, quote: &Rewrite6) {
        let Some(old) = take6(packet) else { return };
        let Some((_, at)) = transport6(packet) else {
            return;
        };
        let new = (
            if of.src() == rewrite.src {
                old.0
            } else {
                rewrite.src
            },
            if of.dst() == rewrite.dst {
                old.1
            } else {
                rewrite.dst
            },
        );
        put(packet, 8, new.0.to_be_bytes());
        put(packet, 24, new.1.to_be_bytes());
        apply_quote::<Self>(
            packet.get_mut(at..).unwrap_or_default(),
            quote,
            addresses6(old, new),
        );
    }

    fn destination(rewrite: &Rewrite6) -> u128 {
        rewrite.dst
    }
}
