//! From IPv4 to IPv6 (RFC 7915 section 4).

use core::net::Ipv4Addr;
use core::ops::Range;

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::error::{self, Format, ICMP_LEN, Layout};
use super::icmp::{self, Class};
use super::transport::{self, Transport};
use super::{
    Edit, Inspected, Kind, MAX_HEADERS, Policy, Ports, Quoted, Refusal, To6, Tuple, ZeroChecksum,
    identifier,
};
use crate::checksum::{Delta, Sum};
use crate::ip4::{
    DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, Ip4Option, Ip4Options, MORE_FRAGMENTS, VERSION_IHL_PLAIN,
};
use crate::ip6::{self, FragmentHeader};
use crate::{Header, Icmp4Header, Ip4Header, Ip6Header, IpProtocol};

/// Length of IPv6 header and fragment header, bytes.
const WITH_FRAGMENT: usize = Ip6Header::LEN + FragmentHeader::LEN;
/// Messages in ICMPv6: the packet must fit in the smallest MTU (RFC 4443 section 2.4), and the length field of
/// extended ones counts 64-bit words.
const ICMP6: Format = Format {
    unit: 8,
    max_message: ip6::MIN_MTU as usize - Ip6Header::LEN,
};
/// What the length field of extended ICMPv4 messages counts, bytes.
const ICMP4_UNIT: usize = 4;

/// Translates an IPv4 packet that is not an ICMP error. See the [module](super) for what comes out where.
///
/// Straight-line work for TCP and UDP. Linear in the packet only where a UDP checksum must be computed.
///
/// # Errors
/// Why the packet must be dropped; it is unchanged then.
#[inline]
pub fn to6(
    packet: &mut [u8],
    binding: &To6,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Result<Edit, Refusal> {
    match plain(packet, binding, policy, out) {
        Some(edit) => Ok(edit),
        None => any(packet, binding, policy, out),
    }
}

/// Whole TCP and UDP packets without options that need no fragment header. `None` for everything else, and for what
/// is to be refused.
#[inline]
fn plain(
    packet: &mut [u8],
    binding: &To6,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Option<Edit> {
    let (header, rest) = Ip4Header::split_mut(packet).ok()?;
    let flags = header.flags_fragment.get();
    if header.version_ihl != VERSION_IHL_PLAIN
        || flags & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) != 0
        || !is_host(header.source())
    {
        return None;
    }
    let end = usize::from(header.total_length.get());
    let payload_len = end.checked_sub(Ip4Header::LEN)?;
    let payload = rest.get_mut(..payload_len)?;
    let fits = Ip6Header::LEN + payload_len <= usize::from(lowest_mtu(policy));
    if !fits && flags & DONT_FRAGMENT == 0 {
        return None;
    }
    let transport = Transport::plain(header.protocol, payload)?;
    transport.rewrite(payload, binding.ports, binding.addresses);
    let protocol = header.protocol;
    write_ip6_header(
        out,
        header,
        binding,
        protocol,
        Ip6Header::LEN,
        payload_len,
        policy,
    );
    Some(Edit {
        header_len: Ip6Header::LEN,
        replaces: Ip4Header::LEN,
        end,
        fragment: false,
    })
}

/// Every packet.
#[inline(never)]
fn any(
    packet: &mut [u8],
    binding: &To6,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Result<Edit, Refusal> {
    let ip = Outer::parse(packet)?;
    if !is_host(ip.header.source()) {
        return Err(Refusal::IllegalSource);
    }
    let next_header = protocol(ip.header.protocol)?;
    let payload = &mut packet[ip.header_len..ip.end];
    if next_header == IpProtocol::ICMP6 {
        echo(&ip.header, payload, binding)?;
    } else if let Some(transport) = Transport::of(next_header)
        && !ip.header.is_later_fragment()
    {
        let is_fragment = ip.header.is_fragment();
        transport.check(payload, is_fragment)?;
        if transport.lacks_checksum(payload) {
            let length = computable_length(payload, is_fragment, policy)?;
            transport.rewrite(payload, binding.ports, binding.addresses);
            fill_udp_checksum(&mut payload[..length], binding);
        } else {
            transport.rewrite(payload, binding.ports, binding.addresses);
        }
    }

    let payload_len = ip.end - ip.header_len;
    let dont_fragment = ip.header.flags_fragment.get() & DONT_FRAGMENT != 0;
    let is_fragment = ip.header.is_fragment();
    let len = payload_len
        + if is_fragment {
            WITH_FRAGMENT
        } else {
            Ip6Header::LEN
        };
    let fragment = !dont_fragment && len > usize::from(lowest_mtu(policy));
    let header_len = if is_fragment || fragment {
        write_fragment_header(&mut out[Ip6Header::LEN..], &ip.header, next_header);
        WITH_FRAGMENT
    } else {
        Ip6Header::LEN
    };
    write_ip6_header(
        out,
        &ip.header,
        binding,
        next_header,
        header_len,
        payload_len,
        policy,
    );
    Ok(Edit {
        header_len,
        replaces: ip.header_len,
        end: ip.end,
        fragment,
    })
}

/// Translates an ICMPv4 error: `outer` is for the message, `inner` for the packet quoted in it. See the
/// [module](super) for what comes out where. The result is cut to 1280 bytes (RFC 4443 section 2.4).
///
/// Linear in the message only where extensions (RFC 4884) must be moved or something is cut off.
///
/// # Errors
/// Why the packet must be dropped; it is unchanged then.
pub fn error_to6(
    packet: &mut [u8],
    outer: &To6,
    inner: &To6,
    policy: &Policy,
    out: &mut [u8; MAX_HEADERS],
) -> Result<Edit, Refusal> {
    let ip = Outer::parse(packet)?;
    let message = ErrorMessage::parse(&ip, packet)?;
    let header = icmp::error_to6(&message.icmp, message.quoted.total_length.get(), policy)?;
    let next_header = protocol(message.quoted.protocol)?;
    let payload = message.quoted_payload();
    // Looks at everything that could be wrong before anything is written.
    inspect_quoted(&message.quoted, &packet[payload.clone()])?;

    let quoted = &message.quoted;
    let quoted_payload_len = usize::from(quoted.total_length.get()) - quoted.header_len();
    let mut inner_headers = [0; WITH_FRAGMENT];
    let inner_len = if quoted.is_fragment() {
        write_fragment_header(&mut inner_headers[Ip6Header::LEN..], quoted, next_header);
        WITH_FRAGMENT
    } else {
        Ip6Header::LEN
    };
    write_ip6_header(
        &mut inner_headers,
        quoted,
        inner,
        next_header,
        inner_len,
        quoted_payload_len,
        policy,
    );

    let made = error::assemble(
        packet,
        &message.layout,
        header,
        &inner_headers[..inner_len],
        &ICMP6,
        |kept| {
            let len = kept.len().min(payload.len());
            let payload = &mut kept[..len];
            if next_header == IpProtocol::ICMP6 {
                rewrite_echo(payload, inner, quoted_payload_len);
            } else if let Some(transport) = Transport::of(next_header)
                && !quoted.is_later_fragment()
            {
                transport.rewrite(payload, inner.ports, inner.addresses);
            }
        },
        &mut out[Ip6Header::LEN..],
    );
    let pseudo = pseudo_header(outer, made.len);
    let checksum = Delta::of16(0, pseudo.folded()).apply(made.checksum);
    out[Ip6Header::LEN + 2..Ip6Header::LEN + 4].copy_from_slice(&checksum.to_be_bytes());
    write_ip6_header(
        out,
        &ip.header,
        outer,
        IpProtocol::ICMP6,
        Ip6Header::LEN,
        made.len,
        policy,
    );
    Ok(Edit {
        header_len: Ip6Header::LEN + ICMP_LEN + inner_len,
        replaces: made.replaces,
        end: made.end,
        fragment: false,
    })
}

/// Addresses and ports of an IPv4 packet, and of the packet quoted in an ICMP error.
///
/// # Errors
/// Why the packet would not be translated, as far as that does not depend on the [`Policy`].
pub fn inspect4(packet: &[u8]) -> Result<Inspected<Ipv4Addr>, Refusal> {
    let ip = Outer::parse(packet)?;
    let next_header = protocol(ip.header.protocol)?;
    let payload = &packet[ip.header_len..ip.end];
    let is_error = next_header == IpProtocol::ICMP6
        && Icmp4Header::view(payload)
            .is_ok_and(|icmp| icmp::class4(icmp.icmp_type) == Ok(Class::Error));
    let (kind, ports, quoted) = if is_error {
        let message = ErrorMessage::parse(&ip, packet)?;
        let (kind, ports) = inspect_quoted(&message.quoted, &packet[message.quoted_payload()])?;
        let quoted = Quoted {
            kind,
            protocol: message.quoted.protocol,
            tuple: tuple(&message.quoted, ports),
        };
        (Kind::Error, Ports::default(), Some(quoted))
    } else {
        if !is_host(ip.header.source()) {
            return Err(Refusal::IllegalSource);
        }
        let (kind, ports) = inspect_payload(&ip.header, next_header, payload)?;
        (kind, ports, None)
    };
    Ok(Inspected {
        kind,
        protocol: ip.header.protocol,
        tuple: tuple(&ip.header, ports),
        quoted,
    })
}

/// An IPv4 packet whose lengths have been checked.
struct Outer {
    header: Ip4Header,
    header_len: usize,
    end: usize,
}

impl Outer {
    #[inline]
    fn parse(packet: &[u8]) -> Result<Self, Refusal> {
        let header = *Ip4Header::view(packet).map_err(|_| Refusal::Truncated)?;
        if header.version() != 4 {
            return Err(Refusal::BadVersion);
        }
        let (header_len, end) = (header.header_len(), usize::from(header.total_length.get()));
        if header_len < Ip4Header::LEN || end < header_len || end > packet.len() {
            return Err(Refusal::BadLength);
        }
        if header_len > Ip4Header::LEN {
            check_options(&packet[Ip4Header::LEN..header_len])?;
        }
        let flags = header.flags_fragment.get();
        if flags & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) != 0 {
            let payload_len = end - header_len;
            if flags & MORE_FRAGMENTS != 0 && !payload_len.is_multiple_of(8)
                || header.fragment_offset_bytes() + payload_len > usize::from(u16::MAX)
            {
                return Err(Refusal::BadFragment);
            }
        }
        Ok(Self {
            header,
            header_len,
            end,
        })
    }
}

/// An ICMPv4 error and the packet quoted in it.
struct ErrorMessage {
    icmp: Icmp4Header,
    quoted: Ip4Header,
    layout: Layout,
}

impl ErrorMessage {
    fn parse(ip: &Outer, packet: &[u8]) -> Result<Self, Refusal> {
        if ip.header.protocol != IpProtocol::ICMP4 {
            return Err(Refusal::NotAnError);
        }
        if ip.header.is_fragment() {
            return Err(Refusal::FragmentedIcmp);
        }
        let (icmp, rest) =
            Icmp4Header::split(&packet[ip.header_len..ip.end]).map_err(|_| Refusal::Truncated)?;
        if icmp::class4(icmp.icmp_type)? != Class::Error {
            return Err(Refusal::NotAnError);
        }
        let quote_len = Layout::quote_len(icmp.rest[1], ICMP4_UNIT, rest.len());
        let quoted = *Ip4Header::view(&rest[..quote_len]).map_err(|_| Refusal::QuoteTruncated)?;
        let inner_len = quoted.header_len();
        if quoted.version() != 4
            || inner_len < Ip4Header::LEN
            || usize::from(quoted.total_length.get()) < inner_len
        {
            return Err(Refusal::BadQuote);
        }
        if inner_len > quote_len {
            return Err(Refusal::QuoteTruncated);
        }
        Ok(Self {
            icmp: *icmp,
            quoted,
            layout: Layout {
                icmp_at: ip.header_len,
                inner_len,
                quote_len,
                end: ip.end,
            },
        })
    }
}

impl ErrorMessage {
    /// Where the quoted packet's payload is, as far as it is there; padding is no part of it.
    fn quoted_payload(&self) -> Range<usize> {
        let payload_len = usize::from(self.quoted.total_length.get()) - self.layout.inner_len;
        self.layout.quoted_payload(payload_len)
    }
}

/// Kind and ports of a packet that is not an ICMP error.
fn inspect_payload(
    header: &Ip4Header,
    next_header: IpProtocol,
    payload: &[u8],
) -> Result<(Kind, Ports), Refusal> {
    if next_header == IpProtocol::ICMP6 {
        echo_type(header, payload)?;
        let id = transport::word(payload, 4).ok_or(Refusal::Truncated)?;
        return Ok((Kind::Echo, Ports::identifier(id)));
    }
    if header.is_later_fragment() {
        return Ok((Kind::LaterFragment, Ports::default()));
    }
    match Transport::of(next_header) {
        None => Ok((Kind::Other, Ports::default())),
        Some(transport) => {
            transport.check(payload, header.is_fragment())?;
            let ports = transport::ports(payload).ok_or(Refusal::Truncated)?;
            Ok((Kind::Ports, ports))
        }
    }
}

/// Kind and ports of a quoted packet, of whose payload only the start is there.
fn inspect_quoted(quoted: &Ip4Header, payload: &[u8]) -> Result<(Kind, Ports), Refusal> {
    let next_header = protocol(quoted.protocol)?;
    if next_header == IpProtocol::ICMP6 {
        return match echo_type(quoted, payload) {
            Ok(_) => {
                let id = transport::word(payload, 4).ok_or(Refusal::QuoteTruncated)?;
                Ok((Kind::Echo, Ports::identifier(id)))
            }
            Err(Refusal::IcmpError) => Err(Refusal::NestedError),
            Err(Refusal::Truncated) => Err(Refusal::QuoteTruncated),
            Err(why) => Err(why),
        };
    }
    if quoted.is_later_fragment() {
        return Ok((Kind::LaterFragment, Ports::default()));
    }
    match Transport::of(next_header) {
        None => Ok((Kind::Other, Ports::default())),
        Some(_) => {
            let ports = transport::ports(payload).ok_or(Refusal::QuoteTruncated)?;
            Ok((Kind::Ports, ports))
        }
    }
}

fn tuple(header: &Ip4Header, ports: Ports) -> Tuple<Ipv4Addr> {
    Tuple {
        source: header.source(),
        destination: header.destination(),
        ports,
    }
}

/// Whether an address can be that of a packet's sender: not of this network, loopback, multicast or reserved
/// (RFC 1812 section 5.3.7).
#[inline]
fn is_host(source: Ipv4Addr) -> bool {
    !matches!(source.octets()[0], 0 | 127 | 224..)
}

/// The next header that stands for an IPv4 protocol.
#[inline]
fn protocol(protocol: IpProtocol) -> Result<IpProtocol, Refusal> {
    match protocol {
        IpProtocol::ICMP4 => Ok(IpProtocol::ICMP6),
        // IPv6 would take what follows for extension headers or for ICMPv6.
        IpProtocol::HOP_BY_HOP
        | IpProtocol::ROUTING
        | IpProtocol::FRAGMENT
        | IpProtocol::DESTINATION_OPTIONS
        | IpProtocol::ICMP6
        | IpProtocol::IGMP => Err(Refusal::Protocol),
        other => Ok(other),
    }
}

/// Options are dropped, all but source routes that still have somewhere to go.
#[cold]
fn check_options(options: &[u8]) -> Result<(), Refusal> {
    for option in Ip4Options::new(options) {
        match option {
            // The pointer counts from 1 at the option's first byte, three bytes before the route.
            Ok(Ip4Option::SourceRoute { pointer, route, .. })
                if usize::from(pointer) <= route.len() + 3 =>
            {
                return Err(Refusal::SourceRoute);
            }
            Ok(_) => {}
            Err(_) => return Err(Refusal::BadOption),
        }
    }
    Ok(())
}

/// Writes the IPv6 header in front of a fragment header (if `header_len` says so) and a payload.
#[inline]
fn write_ip6_header(
    out: &mut [u8],
    old: &Ip4Header,
    binding: &To6,
    next_header: IpProtocol,
    header_len: usize,
    payload_len: usize,
    policy: &Policy,
) {
    let next_header = match header_len {
        Ip6Header::LEN => next_header,
        _ => IpProtocol::FRAGMENT,
    };
    // Cannot overflow: the IPv4 header that went away is longer than the fragment header.
    let payload_len = (header_len - Ip6Header::LEN + payload_len) as u16;
    // One word, since a header of many small stores takes long to be copied.
    let first = 6 << 60
        | u64::from(policy.class(old.tos)) << 52
        | u64::from(payload_len) << 16
        | u64::from(next_header.0) << 8
        | u64::from(old.ttl);
    out[..8].copy_from_slice(&first.to_be_bytes());
    out[8..24].copy_from_slice(&binding.source.octets());
    out[24..40].copy_from_slice(&binding.destination.octets());
}

#[inline]
fn lowest_mtu(policy: &Policy) -> u16 {
    policy.lowest_ip6_mtu.max(ip6::MIN_MTU)
}

fn write_fragment_header(out: &mut [u8], old: &Ip4Header, next_header: IpProtocol) {
    let flags = old.flags_fragment.get();
    let header = FragmentHeader {
        next_header,
        reserved: 0,
        offset_more: U16::new(
            (flags & FRAGMENT_OFFSET_MASK) << 3 | u16::from(flags & MORE_FRAGMENTS != 0),
        ),
        id: U32::new(old.id.get().into()),
    };
    out[..FragmentHeader::LEN].copy_from_slice(header.as_bytes());
}

/// The type in ICMPv6 of an echo message.
#[inline]
fn echo_type(header: &Ip4Header, message: &[u8]) -> Result<u8, Refusal> {
    if header.is_fragment() {
        return Err(Refusal::FragmentedIcmp);
    }
    let icmp = Icmp4Header::view(message).map_err(|_| Refusal::Truncated)?;
    match icmp::class4(icmp.icmp_type)? {
        Class::Echo(icmp_type) => Ok(icmp_type),
        Class::Error => Err(Refusal::IcmpError),
    }
}

fn echo(header: &Ip4Header, message: &mut [u8], binding: &To6) -> Result<(), Refusal> {
    echo_type(header, message)?;
    let len = message.len();
    rewrite_echo(message, binding, len);
    Ok(())
}

/// Type, identifier and checksum of an echo message that is `message_len` bytes long, all or the start of
/// which is `message`. The checksum now covers a pseudo-header.
fn rewrite_echo(message: &mut [u8], binding: &To6, message_len: usize) {
    let Ok(icmp) = Icmp4Header::view_mut(message) else {
        return;
    };
    let Ok(Class::Echo(icmp_type)) = icmp::class4(icmp.icmp_type) else {
        return;
    };
    let type_code = |icmp_type: u8| u16::from_be_bytes([icmp_type, icmp.code]);
    let delta = Delta::of16(type_code(icmp.icmp_type.0), type_code(icmp_type))
        .and(Delta::of16(icmp.id(), identifier(binding.ports)))
        .and(Delta::of16(0, pseudo_header(binding, message_len).folded()));
    icmp.checksum.set(delta.apply(icmp.checksum.get()));
    icmp.icmp_type.0 = icmp_type;
    [icmp.rest[0], icmp.rest[1]] = [binding.ports[0], binding.ports[1]];
}

fn pseudo_header(binding: &To6, message_len: usize) -> Sum {
    let len = message_len as u32;
    Sum::pseudo_header6(
        &binding.source,
        &binding.destination,
        IpProtocol::ICMP6,
        len,
    )
}

/// The length of a UDP packet whose checksum may and can be computed.
#[cold]
fn computable_length(payload: &[u8], is_fragment: bool, policy: &Policy) -> Result<usize, Refusal> {
    if is_fragment {
        return Err(Refusal::FragmentedUdpWithoutChecksum);
    }
    if policy.zero_checksum == ZeroChecksum::Refuse {
        return Err(Refusal::UdpWithoutChecksum);
    }
    match crate::UdpHeader::parse(payload) {
        Ok((udp, _)) => Ok(udp.length.get().into()),
        Err(_) => Err(Refusal::BadUdpLength),
    }
}

#[cold]
fn fill_udp_checksum(datagram: &mut [u8], binding: &To6) {
    let len = datagram.len() as u32;
    let pseudo = Sum::pseudo_header6(&binding.source, &binding.destination, IpProtocol::UDP, len);
    let checksum = pseudo.bytes(datagram).udp_checksum();
    if let Ok(udp) = crate::UdpHeader::view_mut(datagram) {
        udp.checksum.set(checksum);
    }
}
