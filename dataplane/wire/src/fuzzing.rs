//! Checks over arbitrary bytes, shared by the property tests and the fuzz targets. Each panics if a
//! promise of this package is broken.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::{self, Sum};
use crate::icmp4::Icmp4Header;
use crate::ip4::{Ip4Options, Ip4Packet};
use crate::ip6::{FragmentHeader, Ip6Options, Ip6Packet, walk_extensions};
use crate::nd::{NdMessage, NdOptions};
use crate::tcp::{TcpOptions, TcpSegment};
use crate::translate::{
    self, Edit, Ip6Fragments, Kind, MAX_GROWTH, MAX_HEADERS, Policy, Ports, Refusal, To4, To6,
    Tuple,
};
use crate::{
    ArpPacket, EthernetHeader, Header, Icmp6Header, Ip4Header, Ip6Header, IpProtocol, TcpHeader,
    UdpHeader, VlanTag, describe, ip4, ip6, nd, tcp, udp, vlan,
};

/// Runs every parser, walker and description over `bytes`.
pub fn check_all(bytes: &[u8]) {
    check_link(bytes);
    check_ip4(bytes);
    check_ip6(bytes);
    check_transport(bytes);
    check_options(bytes);
    check_checksum(bytes);
    check_describe(bytes);
    check_translate(bytes);
    // The same, where a frame would carry it.
    if let Ok(tagged) = vlan::parse_vlans(bytes) {
        check_ip4(tagged.rest);
        check_ip6(tagged.rest);
        check_translate(tagged.rest);
    }
}

/// Ethernet, VLAN, ARP: fixed headers split exactly at their length.
pub fn check_link(bytes: &[u8]) {
    check_split::<EthernetHeader>(bytes);
    check_split::<VlanTag>(bytes);
    check_split::<ArpPacket>(bytes);
    if let Ok((arp, _)) = ArpPacket::parse(bytes) {
        let reply = arp.reply_from(arp.target_mac);
        assert!(ArpPacket::parse(zerocopy::IntoBytes::as_bytes(&reply)).is_ok());
    }
    if let Ok(frame) = vlan::parse_vlans(bytes) {
        assert!(matches!(frame.offset, 14 | 18 | 22));
        assert_eq!(&bytes[frame.offset..], frame.rest);
    }
}

/// IPv4: what validates also parses, and the parts make up the packet.
pub fn check_ip4(bytes: &[u8]) {
    check_split::<Ip4Header>(bytes);
    let parsed = Ip4Packet::parse(bytes);
    if let Ok(packet) = parsed {
        let total = usize::from(packet.header.total_length.get());
        assert_eq!(20 + packet.options.len() + packet.payload.len(), total);
        assert_eq!(packet.header.payload_len(), packet.payload.len());
        assert!(packet.options().count() <= 40);
        check_transport(packet.payload);
    }
    if ip4::validate(bytes).is_ok() {
        let header_len = Ip4Header::parse(bytes).map(|(header, _)| header.header_len());
        let header_len = header_len.expect("a valid header parses");
        assert!(parsed.is_ok());
        assert!(checksum::is_valid(&bytes[..header_len]));
        check_rewrite4(bytes, header_len);
    }
}

/// IPv6: the walk over extension headers is bounded and stays inside.
pub fn check_ip6(bytes: &[u8]) {
    check_split::<Ip6Header>(bytes);
    check_split::<FragmentHeader>(bytes);
    assert_eq!(
        ip6::validate(bytes).is_ok(),
        Ip6Packet::parse(bytes).is_ok()
    );
    if let Ok(packet) = Ip6Packet::parse(bytes) {
        check_walk(packet.header.next_header, packet.payload);
        let chain = packet.walk(ip6::DEFAULT_EXTENSION_LIMIT);
        let upper = &packet.payload[chain.offset..];
        check_transport(upper);
        if chain.protocol == IpProtocol::ICMP6 {
            let _ = nd::validate(packet.header, upper);
        }
        // The field that named the upper layer is where the walk says.
        assert_eq!(bytes[chain.next_header_at], chain.protocol.0);
    }
    if let Some((&first, rest)) = bytes.split_first() {
        check_walk(IpProtocol(first), rest);
    }
}

/// UDP, TCP, ICMP, neighbour discovery.
pub fn check_transport(bytes: &[u8]) {
    check_split::<UdpHeader>(bytes);
    check_split::<TcpHeader>(bytes);
    check_split::<Icmp4Header>(bytes);
    check_split::<Icmp6Header>(bytes);
    if let Ok((udp, payload)) = UdpHeader::parse(bytes) {
        assert_eq!(payload.len() + 8, usize::from(udp.length.get()));
    }
    if let Ok(segment) = TcpSegment::parse(bytes) {
        assert_eq!(
            20 + segment.options.len() + segment.payload.len(),
            bytes.len()
        );
        if let Some(at) = tcp::maximum_segment_size_offset(segment.options) {
            assert!(segment.options.len() >= at + 2);
        }
    }
    let _ = udp::verify_checksum(Sum::new(), bytes, true);
    let _ = tcp::verify_checksum(Sum::new(), bytes);
    let _ = crate::icmp4::verify_checksum(bytes);
    if let Ok(message) = NdMessage::parse(bytes) {
        let _ = (message.source_link_layer(), message.target_link_layer());
    }
}

/// Option walkers: each ends, and reports at most one error, last.
pub fn check_options(bytes: &[u8]) {
    check_walker(Ip4Options::new(bytes), bytes.len());
    check_walker(Ip6Options::new(bytes), bytes.len());
    check_walker(TcpOptions::new(bytes), bytes.len());
    check_walker(NdOptions::new(bytes), bytes.len());
    let _ = Ip6Options::of_header(bytes).map(Ip6Options::validate);
}

/// Checksums: a string split anywhere sums to the same, and holds its own checksum.
pub fn check_checksum(bytes: &[u8]) {
    let whole = checksum::checksum(bytes);
    for at in [0, 1, bytes.len() / 3, bytes.len() / 2] {
        let (a, b) = bytes.split_at(at.min(bytes.len()));
        assert_eq!(Sum::new().bytes(a).bytes(b).checksum(), whole);
    }
    if bytes.len().is_multiple_of(2) {
        assert!(Sum::new().bytes(bytes).word16(whole).is_valid());
    }
}

/// Descriptions never fail, and differences are empty only between equals.
pub fn check_describe(bytes: &[u8]) {
    assert!(!describe::describe(bytes).is_empty());
    assert!(!describe::describe_l3(bytes).is_empty());
    assert_eq!(
        describe::hexdump(bytes).lines().count(),
        bytes.len().div_ceil(16)
    );
    let (a, b) = bytes.split_at(bytes.len() / 2);
    assert_eq!(describe::diff(a, b).is_empty(), a == b);
}

/// Translation: what is refused stays as it was, what is not becomes a packet whose lengths are right.
pub fn check_translate(bytes: &[u8]) {
    let policy = Policy::default();
    let ports = Ports {
        source: 1024,
        destination: 53,
    };
    let new6 = Tuple {
        source: Ipv6Addr::from_bits(0x0064_ff9b << 96 | 0x0808_0808),
        destination: Ipv6Addr::from_bits(0x2001_0db8 << 96 | 1),
        ports,
    };
    let new4 = Tuple {
        source: Ipv4Addr::new(198, 51, 100, 1),
        destination: Ipv4Addr::new(8, 8, 8, 8),
        ports,
    };
    let (to6, to4) = (To6::new(&new4, &new6), To4::new(&new6, &new4));

    let (seen4, seen6) = (translate::inspect4(bytes), translate::inspect6(bytes));
    assert!(
        seen4.is_err() || seen6.is_err(),
        "versions exclude each other"
    );
    let pointer = translate::segments_left_pointer(bytes);
    assert!(pointer.is_none_or(|at| bytes[at as usize] != 0));

    check_translation(bytes, |packet, out| {
        let edit = translate::to6(packet, &to6, &policy, out)?;
        assert!(seen4.is_ok_and(|seen| seen.kind != Kind::Error));
        Ok(edit)
    });
    check_translation(bytes, |packet, out| {
        let edit = translate::error_to6(packet, &to6, &to6, &policy, out)?;
        assert!(seen4.is_ok_and(|seen| seen.quoted.is_some()));
        assert!(edit.packet_len() <= 1280 && !edit.fragment);
        Ok(edit)
    });
    check_translation(bytes, |packet, out| {
        let edit = translate::to4(packet, &to4, 7, &policy, out)?;
        assert!(seen6.is_ok_and(|seen| seen.kind != Kind::Error));
        Ok(edit)
    });
    check_translation(bytes, |packet, out| {
        let edit = translate::error_to4(packet, &to4, &to4, 7, &policy, out)?;
        assert!(seen6.is_ok_and(|seen| seen.quoted.is_some()));
        Ok(edit)
    });
}

fn check_translation(
    bytes: &[u8],
    translate: impl FnOnce(&mut [u8], &mut [u8; MAX_HEADERS]) -> Result<Edit, Refusal>,
) {
    let (mut copy, mut out) = (bytes.to_vec(), [0; MAX_HEADERS]);
    let Ok(edit) = translate(&mut copy, &mut out) else {
        assert_eq!(copy, bytes);
        return;
    };
    let packet = [&out[..edit.header_len], &copy[edit.replaces..edit.end]].concat();
    assert_eq!(packet.len(), edit.packet_len());
    assert!(edit.header_len <= edit.replaces + MAX_GROWTH);
    match ip4::validate(&packet) {
        Ok(header) => assert_eq!(usize::from(header.total_length.get()), packet.len()),
        Err(_) => {
            let header = ip6::validate(&packet).expect("a packet of one version or the other");
            assert_eq!(usize::from(header.payload_length.get()) + 40, packet.len());
        }
    }
    let pieces = Ip6Fragments::new(&out[..edit.header_len], 1280);
    assert!(pieces.is_some() || !edit.fragment);
    let mut at = 0;
    for (part, headers) in pieces.into_iter().flatten() {
        assert!(part.start == at && part.len() + headers.len() <= 1280);
        at = part.end;
    }
    assert!(at == 0 || at == edit.end - edit.replaces);
}

fn check_split<H: Header>(bytes: &[u8]) {
    match H::split(bytes) {
        Ok((_, rest)) => assert_eq!(rest.len() + H::LEN, bytes.len()),
        Err(_) => assert!(bytes.len() < H::LEN),
    }
    assert_eq!(H::view(bytes).is_ok(), bytes.len() >= H::LEN);
    let mut copy = bytes.to_vec();
    assert_eq!(H::view_mut(&mut copy).is_ok(), bytes.len() >= H::LEN);
    assert_eq!(H::split_mut(&mut copy).is_ok(), bytes.len() >= H::LEN);
}

/// Rewriting a valid header in place leaves a valid header.
fn check_rewrite4(bytes: &[u8], header_len: usize) {
    let mut copy = bytes.to_vec();
    if let Ok(header) = Ip4Header::view_mut(&mut copy) {
        if header.ttl > 0 {
            header.decrement_ttl();
        }
        header.set_source(header.destination());
        header.set_destination(Ipv4Addr::new(192, 0, 2, 1));
        header.set_tos(0x2e);
    }
    assert!(checksum::is_valid(&copy[..header_len]));
}

fn check_walk(first: IpProtocol, payload: &[u8]) {
    for limit in [0, 1, ip6::DEFAULT_EXTENSION_LIMIT, usize::MAX] {
        let chain = walk_extensions(first, payload, limit);
        assert!(chain.offset <= payload.len());
        assert!(usize::from(chain.extensions) <= limit.min(payload.len() / 8));
        if chain.has_upper_layer() {
            assert!(!chain.protocol.is_ip6_extension());
        }
    }
}

fn check_walker<T, E>(mut walker: impl Iterator<Item = Result<T, E>>, bytes: usize) {
    let mut steps = 0;
    while let Some(option) = walker.next() {
        steps += 1;
        assert!(steps <= bytes, "every option takes at least one byte");
        if option.is_err() {
            assert!(walker.next().is_none(), "nothing follows an error");
            break;
        }
    }
}
