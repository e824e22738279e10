//! Checks over arbitrary bytes, shared by the property tests and the fuzz targets. Each panics if a
//! promise of this package is broken.

use crate::checksum::{self, Sum};
use crate::icmp4::Icmp4Header;
use crate::ip4::{Ip4Options, Ip4Packet};
use crate::ip6::{FragmentHeader, Ip6Options, Ip6Packet, walk_extensions};
use crate::nd::{NdMessage, NdOptions};
use crate::tcp::{TcpOptions, TcpSegment};
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
    // The same, where a frame would carry it.
    if let Ok(tagged) = vlan::parse_vlans(bytes) {
        check_ip4(tagged.rest);
        check_ip6(tagged.rest);
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
        header.set_destination(core::net::Ipv4Addr::new(192, 0, 2, 1));
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
