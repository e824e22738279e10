//! The parsers, the checksums and the builder of this package against etherparse, which shares no code
//! with them.
//!
//! Where the two differ on purpose, the comparison says so:
//! - A UDP length of 0 is malformed here; etherparse takes it for "all that is left" (jumbograms).
//! - An IPv6 payload length of 0 means no payload here; etherparse takes all that is left.
//! - The walk over IPv6 extension headers ends here at a fragment other than the first, whose payload is
//!   data, and refuses a second fragment header; etherparse walks on through both.
//! - An ICMP timestamp may have any length of 8 bytes or more here; etherparse demands 20.
//! - TCP options of unknown kinds are stepped over here; etherparse stops at them with an error.

mod made;

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, IpNumber, Ipv4HeaderSlice,
    Ipv4Slice, Ipv6ExtensionsSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, NetSlice,
    SingleVlanHeaderSlice, SlicedPacket, TcpOptionElement, TcpOptionReadError, TcpOptionsIterator,
    TcpSlice, TransportSlice, UdpSlice,
};
use made::{Made, Net, Upper, made};
use proptest::prelude::*;
use wire::checksum;
use wire::ip4::Ip4Packet;
use wire::ip6::{FragmentHeader, Ip6Packet, walk_extensions};
use wire::tcp::{TcpOption, TcpOptions, TcpSegment};
use wire::vlan::parse_vlans;
use wire::{
    ArpPacket, Header, Icmp4Header, Icmp4Type, Icmp6Header, Ip4Header, Ip6Header, IpProtocol,
    ParseError, TcpFlags, UdpHeader, describe, fuzzing, ip4,
};

/// Both parsers over the same bytes, as if each header started there.
fn compare_all(bytes: &[u8]) {
    compare_link(bytes);
    compare_ip4(bytes);
    compare_ip6(bytes);
    compare_udp(bytes);
    compare_tcp(bytes);
    compare_icmp(bytes);
    compare_arp(bytes);
}

fn compare_link(bytes: &[u8]) {
    let ours = parse_vlans(bytes);
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(bytes) else {
        assert_eq!(ours, Err(ParseError::Truncated));
        return;
    };
    let mut ethertype = ethernet.ether_type().0;
    let mut offset = 14;
    let mut tags = Vec::new();
    while tags.len() < 2 && matches!(ethertype, 0x8100 | 0x88a8 | 0x9100) {
        let Ok(tag) = SingleVlanHeaderSlice::from_slice(&bytes[offset..]) else {
            assert_eq!(ours, Err(ParseError::Truncated));
            return;
        };
        tags.push((
            tag.priority_code_point().value(),
            tag.drop_eligible_indicator(),
            tag.vlan_identifier().value(),
        ));
        ethertype = tag.ether_type().0;
        offset += 4;
    }
    let ours = ours.expect("etherparse accepts it");
    assert_eq!(ours.ethernet.src.0, ethernet.source());
    assert_eq!(ours.ethernet.dst.0, ethernet.destination());
    assert_eq!((ours.ethertype.value(), ours.offset), (ethertype, offset));
    let our_tags: Vec<_> = [ours.outer, ours.inner]
        .into_iter()
        .flatten()
        .map(|tag| (tag.pcp(), tag.dei(), tag.vid()))
        .collect();
    assert_eq!(our_tags, tags);
}

fn compare_arp(bytes: &[u8]) {
    let theirs = ArpPacketSlice::from_slice(bytes).ok();
    let theirs = theirs.and_then(|packet| packet.to_packet().try_eth_ipv4().ok());
    match (ArpPacket::parse(bytes), theirs) {
        (Ok((ours, _)), Some(theirs)) => {
            assert_eq!(ours.operation.value(), theirs.operation.0);
            assert_eq!(ours.sender_mac.0, theirs.sender_mac);
            assert_eq!(ours.target_mac.0, theirs.target_mac);
            assert_eq!(ours.sender_ip().octets(), theirs.sender_ipv4);
            assert_eq!(ours.target_ip().octets(), theirs.target_ipv4);
        }
        (Err(_), None) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
}

fn compare_ip4(bytes: &[u8]) {
    let ours = Ip4Header::parse(bytes);
    let theirs = Ipv4HeaderSlice::from_slice(bytes);
    let (ours, theirs) = match (ours, theirs) {
        (Ok((ours, rest)), Ok(theirs)) => {
            assert_eq!(rest.len() + theirs.slice().len(), bytes.len());
            (ours, theirs)
        }
        (Err(_), Err(_)) => {
            assert!(ip4::validate(bytes).is_err() && Ip4Packet::parse(bytes).is_err());
            return;
        }
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    };
    assert_eq!(
        (ours.version(), ours.ihl()),
        (theirs.version(), theirs.ihl())
    );
    assert_eq!(ours.dscp(), theirs.dcp().value());
    assert_eq!(ours.ecn() as u8, theirs.ecn().value());
    assert_eq!(ours.total_length.get(), theirs.total_len());
    assert_eq!(ours.id.get(), theirs.identification());
    assert_eq!(ours.dont_fragment(), theirs.dont_fragment());
    assert_eq!(ours.more_fragments(), theirs.more_fragments());
    assert_eq!(
        ours.fragment_offset_bytes(),
        usize::from(theirs.fragments_offset().value()) * 8
    );
    assert_eq!(ours.is_fragment(), theirs.is_fragmenting_payload());
    assert_eq!(
        (ours.ttl, ours.protocol.0),
        (theirs.ttl(), theirs.protocol().0)
    );
    assert_eq!(ours.source(), theirs.source_addr());
    assert_eq!(ours.destination(), theirs.destination_addr());
    assert_eq!(ours.checksum.get(), theirs.header_checksum());
    let checksum_is_valid = theirs.to_header().calc_header_checksum() == theirs.header_checksum();
    // The reserved flag is part of our sum, but etherparse's header does not carry it.
    let reserved = ours.flags_fragment.get() & ip4::RESERVED_FLAG != 0;

    let packet = Ip4Packet::parse(bytes);
    match Ipv4Slice::from_slice(bytes) {
        Ok(slice) if slice.extensions().is_empty() => {
            let packet = packet.expect("etherparse accepts it");
            assert_eq!(packet.options, theirs.options());
            assert_eq!(packet.payload, slice.payload().payload);
            if !reserved {
                assert_eq!(ip4::validate(bytes).is_ok(), checksum_is_valid);
            }
        }
        // etherparse also parses an authentication header.
        Ok(_) => assert!(packet.is_ok()),
        Err(_) if ours.protocol == IpProtocol::AH => {}
        Err(_) => assert!(packet.is_err() && ip4::validate(bytes).is_err()),
    }
}

fn compare_ip6(bytes: &[u8]) {
    let (ours, theirs) = match (Ip6Header::parse(bytes), Ipv6HeaderSlice::from_slice(bytes)) {
        (Ok((ours, _)), Ok(theirs)) => (ours, theirs),
        (Err(_), Err(_)) => return,
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    };
    assert_eq!(ours.version(), theirs.version());
    assert_eq!(ours.traffic_class(), theirs.traffic_class());
    assert_eq!(ours.dscp(), theirs.dscp().value());
    assert_eq!(ours.ecn() as u8, theirs.ecn().value());
    assert_eq!(ours.flow_label(), theirs.flow_label().value());
    assert_eq!(ours.payload_length.get(), theirs.payload_length());
    assert_eq!(ours.next_header.0, theirs.next_header().0);
    assert_eq!(ours.hop_limit, theirs.hop_limit());
    assert_eq!(ours.source(), theirs.source_addr());
    assert_eq!(ours.destination(), theirs.destination_addr());
    match Ip6Packet::parse(bytes) {
        Ok(packet) => {
            assert!(packet.payload.len() <= bytes.len() - 40);
            compare_extensions(packet.header.next_header, packet.payload);
        }
        Err(error) => {
            assert_eq!(error, ParseError::BadTotalLength);
            assert!(usize::from(theirs.payload_length()) + 40 > bytes.len());
        }
    }
}

fn compare_extensions(first: IpProtocol, payload: &[u8]) {
    let ours = walk_extensions(first, payload, usize::from(u8::MAX));
    if let Some((fragment, at)) = ours.fragment {
        let theirs =
            Ipv6FragmentHeaderSlice::from_slice(&payload[at..]).expect("8 bytes are there");
        assert_eq!(fragment.next_header.0, theirs.next_header().0);
        assert_eq!(
            fragment.offset_bytes(),
            usize::from(theirs.fragment_offset().value()) * 8
        );
        assert_eq!(fragment.more_fragments(), theirs.more_fragments());
        assert_eq!(fragment.id.get(), theirs.identification());
        // A second fragment header, and what follows a later fragment: different on purpose.
        if ours.is_later_fragment() || ours.protocol == IpProtocol::FRAGMENT {
            return;
        }
    }
    match Ipv6ExtensionsSlice::from_slice(IpNumber(first.0), payload) {
        Ok((_, protocol, rest)) => {
            assert_eq!(ours.fault, None);
            assert_eq!(ours.protocol.0, protocol.0);
            assert_eq!(&payload[ours.offset..], rest);
        }
        Err(_) => assert!(ours.fault.is_some(), "{ours:?}"),
    }
}

fn compare_udp(bytes: &[u8]) {
    match (UdpHeader::parse(bytes), UdpSlice::from_slice(bytes)) {
        (Ok((ours, payload)), Ok(theirs)) => {
            assert_eq!(ours.src_port.get(), theirs.source_port());
            assert_eq!(ours.dst_port.get(), theirs.destination_port());
            assert_eq!(ours.length.get(), theirs.length());
            assert_eq!(ours.checksum.get(), theirs.checksum());
            assert_eq!(payload, theirs.payload());
        }
        (Err(ParseError::BadTotalLength), Ok(theirs)) => assert_eq!(theirs.length(), 0),
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
}

fn compare_tcp(bytes: &[u8]) {
    let (ours, theirs) = match (TcpSegment::parse(bytes), TcpSlice::from_slice(bytes)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(_), Err(_)) => return,
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    };
    let header = ours.header;
    assert_eq!(header.src_port.get(), theirs.source_port());
    assert_eq!(header.dst_port.get(), theirs.destination_port());
    assert_eq!(header.seq.get(), theirs.sequence_number());
    assert_eq!(header.ack.get(), theirs.acknowledgment_number());
    assert_eq!(header.header_len(), usize::from(theirs.data_offset()) * 4);
    assert_eq!(header.accurate_ecn(), theirs.ns());
    let flags = [
        (TcpFlags::FIN, theirs.fin()),
        (TcpFlags::SYN, theirs.syn()),
        (TcpFlags::RST, theirs.rst()),
        (TcpFlags::PSH, theirs.psh()),
        (TcpFlags::ACK, theirs.ack()),
        (TcpFlags::URG, theirs.urg()),
        (TcpFlags::ECE, theirs.ece()),
        (TcpFlags::CWR, theirs.cwr()),
    ];
    for (flag, set) in flags {
        assert_eq!(header.flags.contains(flag), set, "{flag:?}");
    }
    assert_eq!(header.window.get(), theirs.window_size());
    assert_eq!(header.checksum.get(), theirs.checksum());
    assert_eq!(header.urgent.get(), theirs.urgent_pointer());
    assert_eq!(
        (ours.options, ours.payload),
        (theirs.options(), theirs.payload())
    );
    compare_tcp_options(ours.options);
}

fn compare_tcp_options(options: &[u8]) {
    let mut theirs = TcpOptionsIterator::from_slice(options);
    for ours in TcpOptions::new(options) {
        if let Ok(TcpOption::Other { kind, .. }) = ours {
            match theirs.next() {
                Some(Err(TcpOptionReadError::UnknownId(id))) => assert_eq!(id, kind),
                other => panic!("{other:?}"),
            }
            return;
        }
        match (ours, theirs.next()) {
            (Ok(TcpOption::NoOperation), Some(Ok(TcpOptionElement::Noop))) => {}
            (
                Ok(TcpOption::MaximumSegmentSize(a)),
                Some(Ok(TcpOptionElement::MaximumSegmentSize(b))),
            ) => assert_eq!(a, b),
            (Ok(TcpOption::WindowScale(a)), Some(Ok(TcpOptionElement::WindowScale(b)))) => {
                assert_eq!(a, b);
            }
            (
                Ok(TcpOption::SackPermitted),
                Some(Ok(TcpOptionElement::SelectiveAcknowledgementPermitted)),
            ) => {}
            (
                Ok(TcpOption::Sack(blocks)),
                Some(Ok(TcpOptionElement::SelectiveAcknowledgement(first, more))),
            ) => {
                let all = std::iter::once(first).chain(more.into_iter().flatten());
                let all: Vec<u8> = all
                    .flat_map(|(a, b)| [a.to_be_bytes(), b.to_be_bytes()].concat())
                    .collect();
                assert_eq!(blocks, all);
            }
            (
                Ok(TcpOption::Timestamps { value, echo }),
                Some(Ok(TcpOptionElement::Timestamp(a, b))),
            ) => assert_eq!((value, echo), (a, b)),
            (Err(_), Some(Err(_))) => return,
            (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
        }
    }
    assert!(theirs.next().is_none());
}

fn compare_icmp(bytes: &[u8]) {
    match (Icmp4Header::parse(bytes), Icmpv4Slice::from_slice(bytes)) {
        (Ok((ours, _)), Ok(theirs)) => {
            assert_eq!(
                (ours.icmp_type.0, ours.code),
                (theirs.type_u8(), theirs.code_u8())
            );
            assert_eq!(ours.checksum.get(), theirs.checksum());
            assert_eq!(ours.rest, theirs.bytes5to8());
        }
        (Ok((ours, _)), Err(_)) => assert!(matches!(
            ours.icmp_type,
            Icmp4Type::TIMESTAMP | Icmp4Type::TIMESTAMP_REPLY
        )),
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
    match (Icmp6Header::parse(bytes), Icmpv6Slice::from_slice(bytes)) {
        (Ok((ours, payload)), Ok(theirs)) => {
            assert_eq!(
                (ours.icmp_type.0, ours.code),
                (theirs.type_u8(), theirs.code_u8())
            );
            assert_eq!(ours.checksum.get(), theirs.checksum());
            assert_eq!(ours.rest, theirs.bytes5to8());
            assert_eq!(payload.len() + 8, bytes.len());
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("ours {ours:?}, theirs {theirs:?}"),
    }
}

/// What etherparse reads out of a frame is what the builder was told, and every checksum is right.
fn check_made(made: &Made, net: &Net) {
    let packet = SlicedPacket::from_ethernet(&made.frame).expect("etherparse accepts it");
    let vids: Vec<u16> = packet.vlan_ids().iter().map(|vid| vid.value()).collect();
    assert_eq!(vids, made.vids);
    let addresses = match (packet.net.as_ref(), net) {
        (
            Some(NetSlice::Ipv4(slice)),
            Net::V4 {
                from,
                to,
                ttl,
                id,
                tos,
                df,
                options,
            },
        ) => {
            let header = slice.header();
            assert_eq!((header.source(), header.destination()), (*from, *to));
            assert_eq!((header.ttl(), header.identification()), (*ttl, *id));
            assert_eq!(header.dcp().value() << 2 | header.ecn().value(), *tos);
            assert_eq!(
                (header.dont_fragment(), header.more_fragments()),
                (*df, false)
            );
            assert_eq!(header.options(), options);
            assert_eq!(
                header.to_header().calc_header_checksum(),
                header.header_checksum()
            );
            Some((*from, *to))
        }
        (
            Some(NetSlice::Ipv6(slice)),
            Net::V6 {
                from,
                to,
                hops,
                class,
                flow,
                ..
            },
        ) => {
            let header = slice.header();
            assert_eq!((header.source(), header.destination()), (*from, *to));
            assert_eq!(
                (header.hop_limit(), header.traffic_class()),
                (*hops, *class)
            );
            assert_eq!(header.flow_label().value(), *flow);
            None
        }
        (theirs, ours) => panic!("theirs {theirs:?}, ours {ours:?}"),
    };
    let (from6, to6) = match net {
        Net::V6 { from, to, .. } => (*from, *to),
        Net::V4 { .. } => Default::default(),
    };
    match (packet.transport.as_ref(), &made.upper) {
        (Some(TransportSlice::Udp(udp)), Upper::Udp(from, to)) => {
            assert_eq!((udp.source_port(), udp.destination_port()), (*from, *to));
            assert_eq!(udp.payload(), made.payload);
            let header = udp.to_header();
            let expected = match addresses {
                Some((from, to)) => header.calc_checksum_ipv4_raw(from, to, udp.payload()),
                None => header.calc_checksum_ipv6_raw(from6, to6, udp.payload()),
            };
            assert_eq!(udp.checksum(), expected.unwrap());
        }
        (
            Some(TransportSlice::Tcp(tcp)),
            Upper::Tcp {
                ports,
                seq,
                ack,
                flags,
                window,
                options,
            },
        ) => {
            assert_eq!((tcp.source_port(), tcp.destination_port()), *ports);
            assert_eq!(
                (tcp.sequence_number(), tcp.acknowledgment_number()),
                (*seq, *ack)
            );
            assert_eq!((tcp.window_size(), tcp.slice()[13]), (*window, *flags));
            assert_eq!(
                (tcp.options(), tcp.payload()),
                (&options[..], &made.payload[..])
            );
            let expected = match addresses {
                Some((from, to)) => tcp.calc_checksum_ipv4(from, to),
                None => tcp.calc_checksum_ipv6(from6, to6),
            };
            assert_eq!(tcp.checksum(), expected.unwrap());
        }
        (Some(TransportSlice::Icmpv4(icmp)), Upper::Echo(id, sequence)) => {
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (8, 0));
            assert_eq!(icmp.bytes5to8(), echo_words(*id, *sequence));
            assert_eq!(icmp.payload(), made.payload);
            let expected = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), expected);
        }
        (Some(TransportSlice::Icmpv6(icmp)), Upper::Echo(id, sequence)) => {
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (128, 0));
            assert_eq!(icmp.bytes5to8(), echo_words(*id, *sequence));
            assert_eq!(icmp.payload(), made.payload);
            assert!(icmp.is_checksum_valid(from6, to6));
        }
        (theirs, ours) => panic!("theirs {theirs:?}, ours {ours:?}"),
    }
}

fn echo_words(id: u16, sequence: u16) -> [u8; 4] {
    (u32::from(id) << 16 | u32::from(sequence)).to_be_bytes()
}

/// Every header of a frame through both parsers.
fn compare_layers(frame: &[u8]) {
    compare_all(frame);
    if let Ok(tagged) = parse_vlans(frame) {
        compare_all(tagged.rest);
        if let Ok(packet) = Ip4Packet::parse(tagged.rest) {
            compare_all(packet.payload);
        }
        if let Ok(packet) = Ip6Packet::parse(tagged.rest) {
            let chain = packet.walk(8);
            compare_all(&packet.payload[chain.offset..]);
        }
    }
}

proptest! {
    #[test]
    fn built_packets_read_the_same_in_etherparse((made, net) in made()) {
        check_made(&made, &net);
        compare_layers(&made.frame);
        fuzzing::check_all(&made.frame);
        let text = describe::describe(&made.frame);
        prop_assert!(!text.contains("malformed") && !text.contains("does not match"), "{}", text);
    }

    #[test]
    fn damaged_packets_read_the_same_in_etherparse(
        (made, _) in made(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut frame = made.frame;
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if !whole {
            frame.truncate(cut.index(frame.len() + 1));
        }
        compare_layers(&frame);
        fuzzing::check_all(&frame);
    }

    #[test]
    fn random_bytes_read_the_same_in_etherparse(
        first in prop::sample::select(vec![0x00u8, 0x45, 0x46, 0x4f, 0x44, 0x60, 0x6f, 0x80, 0x08]),
        bytes in prop::collection::vec(any::<u8>(), 0..160),
    ) {
        compare_all(&bytes);
        fuzzing::check_all(&bytes);
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        // Lengths that fit bring the parsers further than random ones.
        if bytes.len() >= 40 && first == 0x60 {
            let length = bytes.len() as u16 - 40;
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if bytes.len() >= 20 && first >> 4 == 4 {
            let length = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
        }
        compare_all(&bytes);
        fuzzing::check_all(&bytes);
    }

    #[test]
    fn random_extension_chains_read_the_same_in_etherparse(
        first in prop::sample::select(vec![0u8, 43, 44, 51, 60, 17]),
        payload in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 17, 43, 44, 51, 60, 59]), 0..160),
    ) {
        compare_extensions(IpProtocol(first), &payload);
    }

    #[test]
    fn random_tcp_options_read_the_same_in_etherparse(
        options in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 3, 4, 5, 8, 10, 18, 30]), 0..40),
    ) {
        compare_tcp_options(&options);
    }

    #[test]
    fn incremental_header_checksum_equals_recomputed(
        mut bytes: [u8; 20],
        from: u32,
        to: u32,
        tos: u8,
    ) {
        bytes[0] = 0x45;
        let mut header = *Ip4Header::view(&bytes).unwrap();
        header.fill_checksum();
        header.ttl = header.ttl.max(1);
        header.fill_checksum();
        header.decrement_ttl();
        header.set_source(Ipv4Addr::from_bits(from));
        header.set_destination(Ipv4Addr::from_bits(to));
        header.set_tos(tos);
        let mut recomputed = header;
        recomputed.fill_checksum();
        prop_assert_eq!(header, recomputed);
    }

    #[test]
    fn nat_rewrite_by_delta_equals_a_new_packet(
        from: [u8; 4], to: [u8; 4], new: [u8; 4], ports: (u16, u16), new_port: u16,
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let build = |from: [u8; 4], port| {
            wire::builder::ip4(from, to).udp(port, ports.1).payload(&payload).build()
        };
        let (before, after) = (build(from, ports.0), build(new, new_port));
        let of = |packet: &[u8]| UdpHeader::view(&packet[20..]).unwrap().checksum.get();
        let delta = checksum::Delta::of32(u32::from_be_bytes(from), u32::from_be_bytes(new))
            .and(checksum::Delta::of16(ports.0, new_port));
        prop_assert_eq!(delta.apply_udp(of(&before)), of(&after));
    }
}

#[test]
fn addresses_at_the_edges_are_the_standard_types() {
    let header = ip4::header(
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        IpProtocol::UDP,
        1,
        8,
    );
    assert_eq!(
        (header.source(), header.destination()),
        (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST)
    );
    let header = wire::ip6::header(
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::UNSPECIFIED,
        IpProtocol::UDP,
        1,
        8,
    );
    assert_eq!(header.source(), Ipv6Addr::LOCALHOST);
    assert_eq!(FragmentHeader::LEN, 8);
}
