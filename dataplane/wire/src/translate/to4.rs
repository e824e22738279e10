//! From IPv6 to IPv4 (RFC 7915 section 5).

use core::net::Ipv6Addr;

use super::error::{self, Format, ICMP_LEN, Layout};
use super::icmp::{self, Class};
use super::transport::{self, Transport};
use super::{
    Edit, Inspected, Kind, MAX_HEADERS, Policy, Ports, Quoted, Refusal, To4, Tuple, identifier,
};
use crate::checksum::{self, Delta, Sum};
use crate::ip4::{DONT_FRAGMENT, MORE_FRAGMENTS, VERSION_IHL_PLAIN};
use crate::ip6::{self, FragmentHeader};
use crate::{Header, Icmp6Header, Ip4Header, Ip6Header, IpProtocol};

/// The longest IPv4 packet, bytes, that routers may fragment if its IPv6 sender did not (RFC 7915 section 5.1):
/// what fits in the smallest MTU of IPv6.
const MAX_WITHOUT_DF: u16 = ip6::MIN_MTU - (Ip6Header::LEN - Ip4Header::LEN) as u16;
/// Messages in ICMPv4. The length field of extended ones counts 32-bit words.
const ICMP4: Format = Format {
    unit: 4,
    max_message: (u16::MAX as usize - Ip4Header::LEN) & !1,
};
/// What the length field of extended ICMPv6 messages counts, bytes.
const ICMP6_UNIT: usize = 8;

/// Translates an IPv6 packet that is not an ICMP error. `id` is the identification of the new packet,
/// unless the old one has a fragment header. See the [module](super) for what comes out where.
///
/// A UDP checksum of zero, which tunnels may send (RFC 6935), stays zero. Straight-line work for TCP and UDP.
///
/// # Errors
/// Why the packet must be dropped; it is unchanged then.
#[inline]
pub fn to4(
    packet: &mut [u8],
    binding: &To4,
    id: u16,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Result<Edit, Refusal> {
    match plain(packet, binding, id, policy, out) {
        Some(edit) => Ok(edit),
        None => any(packet, binding, id, policy, out),
    }
}

/// TCP and UDP packets without extension headers. `None` for everything else, and for what is to be refused.
#[inline]
fn plain(
    packet: &mut [u8],
    binding: &To4,
    id: u16,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Option<Edit> {
    let (header, rest) = Ip6Header::split_mut(packet).ok()?;
    if header.version() != 6 || !is_host(&header.source()) {
        return None;
    }
    let payload_len = usize::from(header.payload_length.get());
    let payload = rest.get_mut(..payload_len)?;
    let total_length = total_length(payload_len).ok()?;
    let transport = Transport::plain(header.next_header, payload)?;
    transport.rewrite(payload, binding.ports, binding.addresses);
    let protocol = header.next_header;
    let flags = flags_by_length(total_length);
    write_ip4_header(
        out,
        header,
        binding,
        protocol,
        total_length,
        (id, flags),
        policy,
    );
    Some(Edit {
        header_len: Ip4Header::LEN,
        replaces: Ip6Header::LEN,
        end: Ip6Header::LEN + payload_len,
        fragment: false,
    })
}

/// Every packet.
#[inline(never)]
fn any(
    packet: &mut [u8],
    binding: &To4,
    id: u16,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Result<Edit, Refusal> {
    let ip = Outer::parse(packet)?;
    if !is_host(&ip.header.source()) {
        return Err(Refusal::IllegalSource);
    }
    let protocol = protocol(ip.chain.protocol)?;
    let payload_len = ip.end - ip.headers_len;
    let total_length = total_length(payload_len)?;
    let payload = &mut packet[ip.headers_len..ip.end];
    if protocol == IpProtocol::ICMP4 {
        echo(&ip, payload, binding)?;
    } else if let Some(transport) = Transport::of(protocol)
        && !ip.chain.is_later_fragment()
    {
        transport.check(payload, ip.chain.is_fragment())?;
        transport.rewrite(payload, binding.ports, binding.addresses);
    }
    let fragmentation = fragmentation(&ip.chain, total_length, id);
    write_ip4_header(
        out,
        &ip.header,
        binding,
        protocol,
        total_length,
        fragmentation,
        policy,
    );
    Ok(Edit {
        header_len: Ip4Header::LEN,
        replaces: ip.headers_len,
        end: ip.end,
        fragment: false,
    })
}

/// Translates an ICMPv6 error: `outer` is for the message, `inner` for the packet quoted in it, `id` the
/// identification of the new packet. See the [module](super) for what comes out where.
///
/// Linear in the message only where extensions (RFC 4884) must be moved or cut off.
///
/// # Errors
/// Why the packet must be dropped; it is unchanged then.
pub fn error_to4(
    packet: &mut [u8],
    outer: &To4,
    inner: &To4,
    id: u16,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Result<Edit, Refusal> {
    let ip = Outer::parse(packet)?;
    let message = ErrorMessage::parse(&ip, packet)?;
    let quoted = &message.quoted;
    let header = icmp::error_to4(&message.icmp, quoted.chain.fragment.is_some(), policy)?;
    let inner_protocol = protocol(quoted.chain.protocol)?;
    let payload = message.layout.quoted_payload(quoted.payload_len);
    // Looks at everything that could be wrong before anything is written.
    inspect_quoted(quoted, &packet[payload.clone()])?;

    // Nobody looks at the identification of a quoted packet that had none.
    let inner_length = total_length(quoted.payload_len)?;
    let mut inner_header = [0; Ip4Header::LEN];
    write_ip4_header(
        &mut inner_header,
        &quoted.header,
        inner,
        inner_protocol,
        inner_length,
        fragmentation(&quoted.chain, inner_length, 0),
        policy,
    );
    let old_message = &packet[message.layout.icmp_at..ip.end];
    let old_pseudo = ip
        .header
        .pseudo_header(IpProtocol::ICMP6, old_message.len() as u32);
    let made = error::assemble(
        packet,
        &message.layout,
        header,
        &inner_header,
        &ICMP4,
        |kept| {
            let len = kept.len().min(payload.len());
            let payload = &mut kept[..len];
            if inner_protocol == IpProtocol::ICMP4 {
                let pseudo = quoted
                    .header
                    .pseudo_header(IpProtocol::ICMP6, quoted.payload_len as u32);
                rewrite_echo(payload, inner, pseudo);
            } else if let Some(transport) = Transport::of(inner_protocol)
                && !quoted.chain.is_later_fragment()
            {
                transport.rewrite(payload, inner.ports, inner.addresses);
            }
        },
        &mut out[Ip4Header::LEN..],
    );
    let checksum = Delta::of16(old_pseudo.folded(), 0).apply(made.checksum);
    out[Ip4Header::LEN + 2..Ip4Header::LEN + 4].copy_from_slice(&checksum.to_be_bytes());
    // No overflow: that much room was left by the longest message.
    let outer_length = (Ip4Header::LEN + made.len) as u16;
    write_ip4_header(
        out,
        &ip.header,
        outer,
        IpProtocol::ICMP4,
        outer_length,
        fragmentation(&ip.chain, outer_length, id),
        policy,
    );
    Ok(Edit {
        header_len: Ip4Header::LEN + ICMP_LEN + Ip4Header::LEN,
        replaces: made.replaces,
        end: made.end,
        fragment: false,
    })
}

/// Addresses and ports of an IPv6 packet, and of the packet quoted in an ICMP error.
///
/// # Errors
/// Why the packet would not be translated, as far as that does not depend on the [`Policy`].
pub fn inspect6(packet: &[u8]) -> Result<Inspected<Ipv6Addr>, Refusal> {
    let ip = Outer::parse(packet)?;
    let protocol = protocol(ip.chain.protocol)?;
    let payload = &packet[ip.headers_len..ip.end];
    let is_error = protocol == IpProtocol::ICMP4
        && Icmp6Header::view(payload)
            .is_ok_and(|icmp| icmp::class6(icmp.icmp_type) == Ok(Class::Error));
    let (kind, ports, quoted) = if is_error {
        let message = ErrorMessage::parse(&ip, packet)?;
        let payload = message.layout.quoted_payload(message.quoted.payload_len);
        let (kind, ports) = inspect_quoted(&message.quoted, &packet[payload])?;
        let quoted = Quoted {
            kind,
            protocol: message.quoted.chain.protocol,
            tuple: tuple(&message.quoted.header, ports),
        };
        (Kind::Error, Ports::default(), Some(quoted))
    } else {
        if !is_host(&ip.header.source()) {
            return Err(Refusal::IllegalSource);
        }
        let (kind, ports) = inspect_payload(&ip.chain, protocol, payload)?;
        (kind, ports, None)
    };
    Ok(Inspected {
        kind,
        protocol: ip.chain.protocol,
        tuple: tuple(&ip.header, ports),
        quoted,
    })
}

/// Where in an IPv6 packet the "segments left" field stands for which it was refused with
/// [`Refusal::RoutingHeader`], bytes from its start: the pointer of the answer.
pub fn segments_left_pointer(packet: &[u8]) -> Option<u32> {
    let (header, rest) = Ip6Header::parse(packet).ok()?;
    match Chain::walk(header.next_header, rest) {
        Err((Refusal::RoutingHeader, offset)) => Some((Ip6Header::LEN + offset + 3) as u32),
        _ => None,
    }
}

/// The headers between the fixed IPv6 header and what is translated.
struct Chain {
    protocol: IpProtocol,
    /// Length of all of them, bytes.
    len: usize,
    fragment: Option<FragmentHeader>,
}

impl Chain {
    /// Steps over the extension headers that are ignored, up to and including a fragment header. The error
    /// comes with the offset of the header that it is about.
    ///
    /// Unlike [`ip6::walk_extensions`], it takes an authentication header for the payload, as IPv4 does.
    #[inline]
    fn walk(first: IpProtocol, payload: &[u8]) -> Result<Self, (Refusal, usize)> {
        let chain = Self {
            protocol: first,
            len: 0,
            fragment: None,
        };
        match first {
            IpProtocol::HOP_BY_HOP
            | IpProtocol::ROUTING
            | IpProtocol::FRAGMENT
            | IpProtocol::DESTINATION_OPTIONS => chain.step(payload),
            _ => Ok(chain),
        }
    }

    fn step(mut self, payload: &[u8]) -> Result<Self, (Refusal, usize)> {
        for count in 0.. {
            let is_options = match self.protocol {
                IpProtocol::HOP_BY_HOP if count > 0 => {
                    return Err((Refusal::ExtensionOrder, self.len));
                }
                IpProtocol::HOP_BY_HOP | IpProtocol::DESTINATION_OPTIONS => true,
                IpProtocol::ROUTING | IpProtocol::FRAGMENT => false,
                _ => break,
            };
            if count == ip6::DEFAULT_EXTENSION_LIMIT {
                return Err((Refusal::TooManyExtensions, self.len));
            }
            let rest = payload.get(self.len..).unwrap_or_default();
            let Some(&[next, units, _, segments_left, ..]) = rest.first_chunk::<8>() else {
                return Err((Refusal::Truncated, self.len));
            };
            if self.protocol == IpProtocol::FRAGMENT {
                self.fragment = FragmentHeader::view(rest).ok().copied();
                self.len += FragmentHeader::LEN;
                self.protocol = IpProtocol(next);
                if is_extension(self.protocol) {
                    return Err((Refusal::FragmentedExtension, self.len));
                }
                break;
            }
            let len = (usize::from(units) + 1) * 8;
            if len > rest.len() {
                return Err((Refusal::Truncated, self.len));
            }
            if !is_options && segments_left != 0 {
                return Err((Refusal::RoutingHeader, self.len));
            }
            self.len += len;
            self.protocol = IpProtocol(next);
        }
        Ok(self)
    }

    #[inline]
    fn is_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| !fragment.is_atomic())
    }

    #[inline]
    fn is_later_fragment(&self) -> bool {
        self.fragment
            .is_some_and(|fragment| fragment.offset_bytes() != 0)
    }
}

/// An IPv6 packet whose lengths have been checked.
struct Outer {
    header: Ip6Header,
    chain: Chain,
    /// Length of fixed header and extension headers, bytes.
    headers_len: usize,
    end: usize,
}

impl Outer {
    #[inline]
    fn parse(packet: &[u8]) -> Result<Self, Refusal> {
        let (header, rest) = Ip6Header::split(packet).map_err(|_| Refusal::Truncated)?;
        if header.version() != 6 {
            return Err(Refusal::BadVersion);
        }
        let Some(payload) = rest.get(..header.payload_length.get().into()) else {
            return Err(Refusal::BadLength);
        };
        let chain = Chain::walk(header.next_header, payload).map_err(|(why, _)| why)?;
        if let Some(fragment) = chain.fragment {
            let len = payload.len() - chain.len;
            if fragment.more_fragments() && !len.is_multiple_of(8)
                || fragment.offset_bytes() + len > usize::from(u16::MAX)
            {
                return Err(Refusal::BadFragment);
            }
        }
        Ok(Self {
            header: *header,
            headers_len: Ip6Header::LEN + chain.len,
            end: Ip6Header::LEN + payload.len(),
            chain,
        })
    }
}

/// The packet quoted in an error.
struct QuotedPacket {
    header: Ip6Header,
    chain: Chain,
    /// Length of its payload after all headers, bytes, most of which need not be there.
    payload_len: usize,
}

/// An ICMPv6 error and the packet quoted in it.
struct ErrorMessage {
    icmp: Icmp6Header,
    quoted: QuotedPacket,
    layout: Layout,
}

impl ErrorMessage {
    fn parse(ip: &Outer, packet: &[u8]) -> Result<Self, Refusal> {
        if ip.chain.protocol != IpProtocol::ICMP6 {
            return Err(Refusal::NotAnError);
        }
        if ip.chain.is_fragment() {
            return Err(Refusal::FragmentedIcmp);
        }
        let (icmp, rest) =
            Icmp6Header::split(&packet[ip.headers_len..ip.end]).map_err(|_| Refusal::Truncated)?;
        if icmp::class6(icmp.icmp_type)? != Class::Error {
            return Err(Refusal::NotAnError);
        }
        let has_length = matches!(
            icmp.icmp_type,
            crate::Icmp6Type::DESTINATION_UNREACHABLE | crate::Icmp6Type::TIME_EXCEEDED
        );
        let units = if has_length { icmp.rest[0] } else { 0 };
        let quote_len = Layout::quote_len(units, ICMP6_UNIT, rest.len());
        let quote = &rest[..quote_len];
        let (header, after) = Ip6Header::split(quote).map_err(|_| Refusal::QuoteTruncated)?;
        if header.version() != 6 {
            return Err(Refusal::BadQuote);
        }
        let chain = Chain::walk(header.next_header, after).map_err(|(why, _)| match why {
            Refusal::Truncated => Refusal::QuoteTruncated,
            // The sender could not have got it through a translator.
            _ => Refusal::BadQuote,
        })?;
        let payload_len = usize::from(header.payload_length.get())
            .checked_sub(chain.len)
            .ok_or(Refusal::BadQuote)?;
        Ok(Self {
            icmp: *icmp,
            layout: Layout {
                icmp_at: ip.headers_len,
                inner_len: Ip6Header::LEN + chain.len,
                quote_len,
                end: ip.end,
            },
            quoted: QuotedPacket {
                header: *header,
                chain,
                payload_len,
            },
        })
    }
}

/// Kind and ports of a packet that is not an ICMP error.
fn inspect_payload(
    chain: &Chain,
    protocol: IpProtocol,
    payload: &[u8],
) -> Result<(Kind, Ports), Refusal> {
    if protocol == IpProtocol::ICMP4 {
        echo_type(chain, payload)?;
        let id = transport::word(payload, 4).ok_or(Refusal::Truncated)?;
        return Ok((Kind::Echo, Ports::identifier(id)));
    }
    if chain.is_later_fragment() {
        return Ok((Kind::LaterFragment, Ports::default()));
    }
    match Transport::of(protocol) {
        None => Ok((Kind::Other, Ports::default())),
        Some(transport) => {
            transport.check(payload, chain.is_fragment())?;
            let ports = transport::ports(payload).ok_or(Refusal::Truncated)?;
            Ok((Kind::Ports, ports))
        }
    }
}

/// Kind and ports of a quoted packet, of whose payload only the start is there.
fn inspect_quoted(quoted: &QuotedPacket, payload: &[u8]) -> Result<(Kind, Ports), Refusal> {
    let protocol = protocol(quoted.chain.protocol)?;
    if protocol == IpProtocol::ICMP4 {
        return match echo_type(&quoted.chain, payload) {
            Ok(_) => {
                let id = transport::word(payload, 4).ok_or(Refusal::QuoteTruncated)?;
                Ok((Kind::Echo, Ports::identifier(id)))
            }
            Err(Refusal::IcmpError) => Err(Refusal::NestedError),
            Err(Refusal::Truncated) => Err(Refusal::QuoteTruncated),
            Err(why) => Err(why),
        };
    }
    if quoted.chain.is_later_fragment() {
        return Ok((Kind::LaterFragment, Ports::default()));
    }
    match Transport::of(protocol) {
        None => Ok((Kind::Other, Ports::default())),
        Some(_) => {
            let ports = transport::ports(payload).ok_or(Refusal::QuoteTruncated)?;
            Ok((Kind::Ports, ports))
        }
    }
}

fn tuple(header: &Ip6Header, ports: Ports) -> Tuple<Ipv6Addr> {
    Tuple {
        source: header.source(),
        destination: header.destination(),
        ports,
    }
}

/// Whether an address can be that of a packet's sender beyond its link: neither unspecified nor loopback,
/// link-local or multicast (RFC 4291 section 2.5 and 2.7).
#[inline]
fn is_host(source: &Ipv6Addr) -> bool {
    let bits = source.to_bits();
    bits > 1 && bits >> 120 != 0xff && bits >> 118 != 0xfe80 >> 6
}

/// The IPv4 protocol that stands for a next header.
#[inline]
fn protocol(protocol: IpProtocol) -> Result<IpProtocol, Refusal> {
    match protocol {
        IpProtocol::ICMP6 => Ok(IpProtocol::ICMP4),
        // IPv4 would take what follows for ICMP of its own.
        IpProtocol::ICMP4 | IpProtocol::IGMP => Err(Refusal::Protocol),
        other => Ok(other),
    }
}

/// Whether a number is that of an extension header to which fragments may not be translated (RFC 7915
/// section 5.1.1): all that IANA lists, except for ESP.
fn is_extension(protocol: IpProtocol) -> bool {
    /// Mobility, host identity, shim6, and two for experiments.
    const OTHERS: [u8; 5] = [135, 139, 140, 253, 254];
    protocol.is_ip6_extension() || OTHERS.contains(&protocol.0)
}

/// The total length of a packet, bytes.
#[inline]
fn total_length(payload_len: usize) -> Result<u16, Refusal> {
    u16::try_from(Ip4Header::LEN + payload_len).map_err(|_| Refusal::TooLong)
}

/// Identification and flags with fragment offset: those of the fragment header, else `id` and what the length
/// asks for.
#[inline]
fn fragmentation(chain: &Chain, total_length: u16, id: u16) -> (u16, u16) {
    match &chain.fragment {
        Some(fragment) => {
            let more = if fragment.more_fragments() {
                MORE_FRAGMENTS
            } else {
                0
            };
            (
                fragment.id.get() as u16,
                fragment.offset_more.get() >> 3 | more,
            )
        }
        None => (id, flags_by_length(total_length)),
    }
}

/// Flags of a packet that had no fragment header.
#[inline]
fn flags_by_length(total_length: u16) -> u16 {
    if total_length <= MAX_WITHOUT_DF {
        0
    } else {
        DONT_FRAGMENT
    }
}

#[inline]
fn write_ip4_header(
    out: &mut [u8],
    old: &Ip6Header,
    binding: &To4,
    protocol: IpProtocol,
    total_length: u16,
    (id, flags): (u16, u16),
    policy: &Policy,
) {
    // In words, since a header of many small stores takes long to be copied.
    let (source, destination) = (binding.source.to_bits(), binding.destination.to_bits());
    let first = u64::from(VERSION_IHL_PLAIN) << 56
        | u64::from(policy.class(old.traffic_class())) << 48
        | u64::from(total_length) << 32
        | u64::from(id) << 16
        | u64::from(flags);
    let second = u64::from(old.hop_limit) << 24 | u64::from(protocol.0) << 16;
    let sum =
        (first >> 32) + (first & 0xffff_ffff) + second + u64::from(source) + u64::from(destination);
    let second = (second | u64::from(!checksum::fold(sum))) << 32 | u64::from(source);
    out[..8].copy_from_slice(&first.to_be_bytes());
    out[8..16].copy_from_slice(&second.to_be_bytes());
    out[16..20].copy_from_slice(&destination.to_be_bytes());
}

/// The type in ICMPv4 of an echo message.
#[inline]
fn echo_type(chain: &Chain, message: &[u8]) -> Result<u8, Refusal> {
    if chain.is_fragment() {
        return Err(Refusal::FragmentedIcmp);
    }
    let icmp = Icmp6Header::view(message).map_err(|_| Refusal::Truncated)?;
    match icmp::class6(icmp.icmp_type)? {
        Class::Echo(icmp_type) => Ok(icmp_type),
        Class::Error => Err(Refusal::IcmpError),
    }
}

fn echo(ip: &Outer, message: &mut [u8], binding: &To4) -> Result<(), Refusal> {
    echo_type(&ip.chain, message)?;
    let pseudo = ip
        .header
        .pseudo_header(IpProtocol::ICMP6, message.len() as u32);
    rewrite_echo(message, binding, pseudo);
    Ok(())
}

/// Type, identifier and checksum of an echo message, all or the start of which is `message`. The checksum
/// no longer covers the pseudo-header.
fn rewrite_echo(message: &mut [u8], binding: &To4, pseudo: Sum) {
    let Ok((icmp, data)) = Icmp6Header::split_mut(message) else {
        return;
    };
    let Ok(Class::Echo(icmp_type)) = icmp::class6(icmp.icmp_type) else {
        return;
    };
    let type_code = |icmp_type: u8| u16::from_be_bytes([icmp_type, icmp.code]);
    let delta = Delta::of16(type_code(icmp.icmp_type.0), type_code(icmp_type))
        .and(Delta::of16(icmp.id(), identifier(binding.ports)))
        .and(Delta::of16(pseudo.folded(), 0));
    let mut checksum = delta.apply(icmp.checksum.get());
    icmp.icmp_type.0 = icmp_type;
    [icmp.rest[0], icmp.rest[1]] = [binding.ports[0], binding.ports[1]];
    // A reply of nothing but zeros has no other sum than zero, so its checksum is the other one.
    if checksum == 0
        && (icmp.icmp_type.0, icmp.code, icmp.rest) == (0, 0, [0; 4])
        && data.iter().all(|&byte| byte == 0)
    {
        checksum = 0xffff;
    }
    icmp.checksum.set(checksum);
}
