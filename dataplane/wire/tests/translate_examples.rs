//! Translation between IPv4 and IPv6 by example: what comes out is what the builder makes of the same parts.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::builder::{ip4, ip6};
use wire::translate::{
    self, Edit, Kind, MAX_HEADERS, Policy, Ports, Quoted, Refusal, To4, To6, Tuple, ZeroChecksum,
};
use wire::{Header, Icmp4Header, Icmp6Header, Ip4Header, IpProtocol, icmp4};

/// The IPv6 host behind the translator, and its port.
const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// Its address in IPv4: one of the translator's.
const HOST4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The IPv4 server.
const SERVER4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Its address in IPv6.
const SERVER6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc633, 0x6407);
/// A router on the IPv4 side, and its address in IPv6.
const ROUTER4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc000, 0x2fe);

fn tuple<A>(source: A, source_port: u16, destination: A, destination_port: u16) -> Tuple<A> {
    Tuple {
        source,
        destination,
        ports: Ports {
            source: source_port,
            destination: destination_port,
        },
    }
}

/// Packets of the host to the server.
fn outbound() -> To4 {
    To4::new(
        &tuple(HOST6, 5000, SERVER6, 80),
        &tuple(HOST4, 40000, SERVER4, 80),
    )
}

/// Packets of the server to the host.
fn inbound() -> To6 {
    To6::new(
        &tuple(SERVER4, 80, HOST4, 40000),
        &tuple(SERVER6, 80, HOST6, 5000),
    )
}

/// Errors of the router to the host about packets of the host to the server.
fn about_outbound() -> (To6, To6) {
    let outer = To6::new(&tuple(ROUTER4, 0, HOST4, 0), &tuple(ROUTER6, 0, HOST6, 0));
    let inner = To6::new(
        &tuple(HOST4, 40000, SERVER4, 80),
        &tuple(HOST6, 5000, SERVER6, 80),
    );
    (outer, inner)
}

fn run(
    packet: &[u8],
    translate: impl FnOnce(&mut [u8], &mut [u8; MAX_HEADERS]) -> Result<Edit, Refusal>,
) -> Result<Vec<u8>, Refusal> {
    let (mut packet, mut out) = (packet.to_vec(), [0; MAX_HEADERS]);
    let edit = translate(&mut packet, &mut out)?;
    Ok([&out[..edit.header_len], &packet[edit.replaces..edit.end]].concat())
}

fn to6(packet: &[u8], binding: &To6) -> Result<Vec<u8>, Refusal> {
    run(packet, |p, out| {
        translate::to6(p, binding, &Policy::default(), out)
    })
}

fn to4(packet: &[u8], binding: &To4) -> Result<Vec<u8>, Refusal> {
    run(packet, |p, out| {
        translate::to4(p, binding, 0x1234, &Policy::default(), out)
    })
}

fn error_to6(packet: &[u8], policy: &Policy) -> Result<Vec<u8>, Refusal> {
    let (outer, inner) = about_outbound();
    run(packet, |p, out| {
        translate::error_to6(p, &outer, &inner, policy, out)
    })
}

/// Errors of the host about packets of the server.
fn error_to4(packet: &[u8], policy: &Policy) -> Result<Vec<u8>, Refusal> {
    let inner = To4::new(
        &tuple(SERVER6, 80, HOST6, 5000),
        &tuple(SERVER4, 80, HOST4, 40000),
    );
    run(packet, |p, out| {
        translate::error_to4(p, &outbound(), &inner, 0x1234, policy, out)
    })
}

#[test]
fn tcp_and_udp() {
    let options = [2, 4, 5, 0xb4];
    let packet = ip6(HOST6, SERVER6)
        .traffic_class(0xb9)
        .ttl(17)
        .flow_label(0xabcde)
        .hop_by_hop(&[5, 2, 0, 0])
        .tcp(5000, 80)
        .options(&options)
        .payload(b"GET /")
        .build();
    let expected = ip4(HOST4, SERVER4)
        .tos(0xb9)
        .ttl(17)
        .id(0x1234)
        .tcp(40000, 80)
        .options(&options)
        .payload(b"GET /");
    assert_eq!(to4(&packet, &outbound()), Ok(expected.build()));

    let packet = ip4(SERVER4, HOST4)
        .tos(3)
        .ttl(1)
        .id(9)
        .options(&[148, 4, 0, 0])
        .udp(80, 40000)
        .payload(b"200")
        .pad_to(60)
        .build();
    let expected = ip6(SERVER6, HOST6)
        .traffic_class(3)
        .ttl(1)
        .udp(80, 5000)
        .payload(b"200");
    assert_eq!(to6(&packet, &inbound()), Ok(expected.build()));
}

#[test]
fn large_packets_must_not_be_fragmented() {
    // 1260 bytes fit in the smallest IPv6 MTU after growing by 20.
    for (payload, dont_fragment) in [(1260 - 28, false), (1261 - 28, true)] {
        let packet = ip6(HOST6, SERVER6).udp(5000, 80).payload(&vec![1; payload]);
        let packet = to4(&packet.build(), &outbound()).unwrap();
        let header = Ip4Header::view(&packet).unwrap();
        assert_eq!(header.dont_fragment(), dont_fragment, "{payload}");
    }
}

#[test]
fn pings() {
    let packet = ip6(HOST6, SERVER6).icmp6_echo(5000, 7).payload(b"abc");
    let expected = ip4(HOST4, SERVER4)
        .id(0x1234)
        .icmp4_echo(40000, 7)
        .payload(b"abc");
    assert_eq!(to4(&packet.build(), &outbound()), Ok(expected.build()));

    let binding = To6::new(
        &tuple(SERVER4, 0, HOST4, 0),
        &Tuple {
            source: SERVER6,
            destination: HOST6,
            ports: Ports::identifier(5000),
        },
    );
    let packet = ip4(SERVER4, HOST4)
        .icmp4_echo_reply(40000, 7)
        .payload(b"abc");
    let expected = ip6(SERVER6, HOST6)
        .icmp6_echo_reply(5000, 7)
        .payload(b"abc");
    assert_eq!(to6(&packet.build(), &binding), Ok(expected.build()));
}

#[test]
fn reply_of_nothing_but_zeros() {
    let binding = To4::new(&tuple(HOST6, 0, SERVER6, 0), &tuple(HOST4, 0, SERVER4, 0));
    let packet = ip6(HOST6, SERVER6).icmp6_echo_reply(77, 0).payload(&[0; 5]);
    let packet = to4(&packet.build(), &binding).unwrap();
    assert_eq!(packet[20..], [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(icmp4::verify_checksum(&packet[20..]), Ok(()));
}

#[test]
fn udp_without_checksum() {
    let base = ip4(SERVER4, HOST4);
    let packet = base.clone().udp(80, 40000).no_checksum().payload(b"hi");
    let expected = ip6(SERVER6, HOST6).udp(80, 5000).payload(b"hi");
    assert_eq!(to6(&packet.build(), &inbound()), Ok(expected.build()));

    let strict = Policy {
        zero_checksum: ZeroChecksum::Refuse,
        ..Policy::default()
    };
    let refused = run(&packet.build(), |p, out| {
        translate::to6(p, &inbound(), &strict, out)
    });
    assert_eq!(refused, Err(Refusal::UdpWithoutChecksum));

    let first = base.clone().more_fragments().udp(80, 40000).no_checksum();
    let first = first.payload(&[0; 8]).build();
    assert_eq!(
        to6(&first, &inbound()),
        Err(Refusal::FragmentedUdpWithoutChecksum)
    );
    // Without a checksum the length is what the sum is taken over.
    for length in [7, 11] {
        let packet = base.clone().udp(80, 40000).no_checksum().length(length);
        let refused = to6(&packet.payload(b"hi").build(), &inbound());
        assert_eq!(refused, Err(Refusal::BadUdpLength));
    }
}

#[test]
fn fragments() {
    let packet = ip4(SERVER4, HOST4)
        .id(0xbeef)
        .fragment_offset(3)
        .more_fragments()
        .raw(17, &[7; 16]);
    let expected = ip6(SERVER6, HOST6)
        .fragment(0xbeef, 3, true)
        .raw(17, &[7; 16]);
    assert_eq!(to6(&packet.build(), &inbound()), Ok(expected.build()));

    let packet = ip6(HOST6, SERVER6)
        .fragment(0xdead_beef, 3, true)
        .raw(6, &[7; 16]);
    let expected = ip4(HOST4, SERVER4)
        .id(0xbeef)
        .fragment_offset(3)
        .more_fragments()
        .raw(6, &[7; 16]);
    assert_eq!(to4(&packet.build(), &outbound()), Ok(expected.build()));

    // A whole packet with a fragment header may be fragmented again, however long it is.
    let packet = ip6(HOST6, SERVER6)
        .fragment(5, 0, false)
        .udp(5000, 80)
        .payload(&[1; 1300]);
    let expected = ip4(HOST4, SERVER4).id(5).udp(40000, 80).payload(&[1; 1300]);
    assert_eq!(to4(&packet.build(), &outbound()), Ok(expected.build()));

    let tiny = ip4(SERVER4, HOST4).more_fragments().raw(6, &[0; 16]);
    assert_eq!(to6(&tiny.build(), &inbound()), Err(Refusal::TinyFragment));
    let odd = ip4(SERVER4, HOST4).more_fragments().raw(17, &[0; 17]);
    assert_eq!(to6(&odd.build(), &inbound()), Err(Refusal::BadFragment));
    let beyond = ip4(SERVER4, HOST4).fragment_offset(8191).raw(17, &[0; 8]);
    assert_eq!(to6(&beyond.build(), &inbound()), Err(Refusal::BadFragment));
    let beyond = ip6(HOST6, SERVER6)
        .fragment(1, 8191, false)
        .raw(17, &[0; 8]);
    assert_eq!(to4(&beyond.build(), &outbound()), Err(Refusal::BadFragment));
    let extension = ip6(HOST6, SERVER6).fragment(1, 0, true).raw(60, &[0; 8]);
    assert_eq!(
        to4(&extension.build(), &outbound()),
        Err(Refusal::FragmentedExtension)
    );
}

#[test]
fn fragment_needed_of_every_mtu() {
    let unbounded = Policy::default();
    let bounded = Policy {
        ip4_mtu: 1400,
        ip6_mtu: 1450,
        ..unbounded
    };
    for (mtu, quoted_len, policy, expected) in [
        (1500, 1500, unbounded, 1520),
        (1300, 1500, unbounded, 1320),
        // No less than every IPv6 link carries.
        (576, 1500, unbounded, 1280),
        (1260, 1500, unbounded, 1280),
        (65535, 1500, unbounded, 65535),
        // What the next hops carry.
        (1500, 1500, bounded, 1420),
        // From routers that do not say: the next plateau of RFC 1191.
        (0, 65535, unbounded, 32020),
        (0, 32000, unbounded, 17934),
        (0, 1500, unbounded, 1512),
        (0, 1492, unbounded, 1280),
        (0, 40, unbounded, 1280),
    ] {
        let quoted = ip4(HOST4, SERVER4).total_length(quoted_len).udp(40000, 80);
        let packet = ip4(ROUTER4, HOST4).icmp4_error(3, 4, mtu, &quoted.build());
        let packet = error_to6(&packet.build(), &policy).unwrap();
        let icmp = Icmp6Header::view(&packet[40..]).unwrap();
        assert_eq!((icmp.icmp_type.0, icmp.code), (2, 0));
        assert_eq!(
            u32::from_be_bytes(icmp.rest),
            expected,
            "{mtu} {quoted_len}"
        );
    }
}

#[test]
fn packet_too_big_of_every_mtu() {
    let unbounded = Policy::default();
    let bounded = Policy {
        ip4_mtu: 1400,
        ip6_mtu: 1410,
        ..unbounded
    };
    for (mtu, fragment, policy, expected) in [
        (1500, false, unbounded, 1480),
        (1500, true, unbounded, 1472),
        (1280, false, unbounded, 1260),
        (1500, false, bounded, 1390),
        (u32::MAX, false, unbounded, 65515),
        // An MTU of zero would mean another thing.
        (0, false, unbounded, 68),
        (88, true, unbounded, 68),
    ] {
        let quoted = ip6(SERVER6, HOST6);
        let quoted = if fragment {
            quoted.fragment(1, 0, true).udp(80, 5000).build()
        } else {
            quoted.udp(80, 5000).build()
        };
        let packet = ip6(HOST6, SERVER6).icmp6_error(2, 0, mtu, &quoted).build();
        let packet = error_to4(&packet, &policy).unwrap();
        let icmp = Icmp4Header::view(&packet[20..]).unwrap();
        assert_eq!((icmp.icmp_type.0, icmp.code), (3, 4));
        assert_eq!(u32::from_be_bytes(icmp.rest), expected, "{mtu}");
    }
}

#[test]
fn pointers_of_every_value() {
    // Figures 3 and 6 of RFC 7915, byte by byte.
    const NONE: u32 = u32::MAX;
    let to6 = [
        0, 1, 4, 4, NONE, NONE, NONE, NONE, 7, 6, NONE, NONE, 8, 8, 8, 8, 24, 24, 24, 24,
    ];
    let quoted = ip4(HOST4, SERVER4).udp(40000, 80).build();
    for pointer in 0..=255u8 {
        for (code, expected) in [(0, Refusal::IcmpPointer), (2, Refusal::IcmpPointer)] {
            let packet = ip4(ROUTER4, HOST4).icmp4(12, code, [pointer, 0, 0, 0]);
            let ours = error_to6(&packet.payload(&quoted).build(), &Policy::default());
            match to6.get(usize::from(pointer)) {
                None | Some(&NONE) => assert_eq!(ours, Err(expected), "{pointer}"),
                Some(new) => assert_eq!(ours.unwrap()[40..48][4..], new.to_be_bytes()),
            }
        }
    }
    let mut to4 = vec![0, 1, NONE, NONE, 2, 2, 9, 8];
    to4.extend([12; 16]);
    to4.extend([16; 16]);
    let quoted = ip6(SERVER6, HOST6).udp(80, 5000).build();
    for pointer in (0..300).chain([0x0100_0000, u32::MAX]) {
        let packet = ip6(HOST6, SERVER6).icmp6_error(4, 0, pointer, &quoted);
        let ours = error_to4(&packet.build(), &Policy::default());
        match to4.get(pointer as usize) {
            None | Some(&NONE) => assert_eq!(ours, Err(Refusal::IcmpPointer), "{pointer}"),
            Some(new) => assert_eq!(ours.unwrap()[20..28][4..], [*new as u8, 0, 0, 0]),
        }
    }
}

#[test]
fn errors_carry_the_translated_packet() {
    let quoted = ip4(HOST4, SERVER4).ttl(1).tos(4).tcp(40000, 80).build();
    let packet = ip4(ROUTER4, HOST4)
        .ttl(60)
        .icmp4_error(11, 0, 0, &quoted)
        .build();
    let seen = translate::inspect4(&packet).unwrap();
    assert_eq!((seen.kind, seen.protocol), (Kind::Error, IpProtocol::ICMP4));
    assert_eq!(
        seen.quoted,
        Some(Quoted {
            kind: Kind::Ports,
            protocol: IpProtocol::TCP,
            tuple: tuple(HOST4, 40000, SERVER4, 80),
        })
    );
    let quoted6 = ip6(HOST6, SERVER6)
        .ttl(1)
        .traffic_class(4)
        .tcp(5000, 80)
        .build();
    let expected = ip6(ROUTER6, HOST6).ttl(60).icmp6_error(3, 0, 0, &quoted6);
    assert_eq!(error_to6(&packet, &Policy::default()), Ok(expected.build()));

    // The other way, about a ping with extension headers.
    let quoted = ip6(SERVER6, HOST6)
        .hop_by_hop(&[])
        .icmp6_echo(5000, 1)
        .build();
    let packet = ip6(HOST6, SERVER6).icmp6_error(1, 3, 0, &quoted).build();
    let inner = To4::new(
        &tuple(SERVER6, 0, HOST6, 0),
        &Tuple {
            source: SERVER4,
            destination: HOST4,
            ports: Ports::identifier(40000),
        },
    );
    let quoted4 = ip4(SERVER4, HOST4).icmp4_echo(40000, 1).build();
    let expected = ip4(HOST4, SERVER4)
        .id(0x1234)
        .icmp4_error(3, 1, 0, &quoted4);
    let ours = run(&packet, |p, out| {
        translate::error_to4(p, &outbound(), &inner, 0x1234, &Policy::default(), out)
    });
    assert_eq!(ours, Ok(expected.build()));
}

#[test]
fn errors_about_errors() {
    let innermost = ip4(SERVER4, HOST4).udp(80, 40000).build();
    let quoted = ip4(HOST4, SERVER4).icmp4_error(3, 3, 0, &innermost).build();
    let packet = ip4(ROUTER4, HOST4).icmp4_error(11, 0, 0, &quoted).build();
    assert_eq!(
        error_to6(&packet, &Policy::default()),
        Err(Refusal::NestedError)
    );
    let innermost = ip6(HOST6, SERVER6).udp(5000, 80).build();
    let quoted = ip6(SERVER6, HOST6).icmp6_error(1, 4, 0, &innermost).build();
    let packet = ip6(HOST6, SERVER6).icmp6_error(3, 0, 0, &quoted).build();
    assert_eq!(
        error_to4(&packet, &Policy::default()),
        Err(Refusal::NestedError)
    );
}

#[test]
fn errors_fit_in_the_smallest_mtu() {
    let quoted = ip4(HOST4, SERVER4)
        .udp(40000, 80)
        .payload(&[9; 1400])
        .build();
    let packet = ip4(ROUTER4, HOST4)
        .icmp4(3, 3, [0; 4])
        .payload(&quoted)
        .build();
    let quoted6 = ip6(HOST6, SERVER6)
        .udp(5000, 80)
        .payload(&[9; 1400])
        .build();
    let expected = ip6(ROUTER6, HOST6)
        .icmp6(1, 4, [0; 4])
        .payload(&quoted6[..1232])
        .build();
    assert_eq!(expected.len(), 1280);
    assert_eq!(error_to6(&packet, &Policy::default()), Ok(expected));
}

#[test]
fn extensions_keep_their_place() {
    // MPLS label stack (RFC 4950) after 128 bytes of packet: these become 148, padded to 152.
    let labels = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 2, 3];
    let quoted = ip4(HOST4, SERVER4)
        .udp(40000, 80)
        .payload(&[9; 500])
        .build();
    let packet = ip4(ROUTER4, HOST4)
        .icmp4(11, 0, [0, 32, 0, 0])
        .payload(&quoted[..128])
        .payload(&labels)
        .build();
    let quoted6 = ip6(HOST6, SERVER6).udp(5000, 80).payload(&[9; 500]).build();
    let expected = ip6(ROUTER6, HOST6)
        .icmp6(3, 0, [19, 0, 0, 0])
        .payload(&quoted6[..148])
        .payload(&[0; 4])
        .payload(&labels);
    assert_eq!(error_to6(&packet, &Policy::default()), Ok(expected.build()));

    // 128 bytes of IPv6 packet become 108, and are filled up to 128.
    let quoted = ip6(SERVER6, HOST6).udp(80, 5000).payload(&[9; 500]).build();
    let packet = ip6(HOST6, SERVER6)
        .icmp6(1, 4, [16, 0, 0, 0])
        .payload(&quoted[..128])
        .payload(&labels)
        .build();
    let quoted4 = ip4(SERVER4, HOST4)
        .udp(80, 40000)
        .payload(&[9; 500])
        .build();
    let expected = ip4(HOST4, SERVER4)
        .id(0x1234)
        .icmp4(3, 3, [0, 32, 0, 0])
        .payload(&quoted4[..108])
        .payload(&[0; 20])
        .payload(&labels);
    assert_eq!(error_to4(&packet, &Policy::default()), Ok(expected.build()));

    // "Packet too big" has no room for a length: the extensions go.
    let quoted = ip4(HOST4, SERVER4)
        .udp(40000, 80)
        .payload(&[9; 500])
        .build();
    let packet = ip4(ROUTER4, HOST4)
        .icmp4(3, 4, [0, 32, 5, 220])
        .payload(&quoted[..128])
        .payload(&labels)
        .build();
    let expected = ip6(ROUTER6, HOST6)
        .icmp6(2, 0, [0, 0, 5, 240])
        .payload(&quoted6[..148]);
    assert_eq!(error_to6(&packet, &Policy::default()), Ok(expected.build()));
}

#[test]
fn refused_with_an_answer() {
    // Pointer 4 of a route with one address: the address is still to be visited.
    let route = [131, 7, 4, 192, 0, 2, 1];
    let packet = ip4(SERVER4, HOST4).options(&route).udp(80, 40000).build();
    let why = to6(&packet, &inbound()).unwrap_err();
    assert_eq!(why, Refusal::SourceRoute);
    assert_eq!((why.icmp4(), why.icmp6()), (Some((3, 5)), None));

    let packet = ip6(HOST6, SERVER6)
        .destination_options(&[])
        .routing(4, 1, &[0; 20])
        .udp(5000, 80)
        .build();
    let why = to4(&packet, &outbound()).unwrap_err();
    assert_eq!(why, Refusal::RoutingHeader);
    assert_eq!((why.icmp4(), why.icmp6()), (None, Some((4, 0))));
    assert_eq!(translate::segments_left_pointer(&packet), Some(40 + 8 + 3));
    assert_eq!(packet[51], 1);
}

#[test]
fn refused_silently() {
    let from = |source: [u8; 4]| ip4(source, HOST4).udp(80, 40000).build();
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 5], [255; 4]] {
        assert_eq!(to6(&from(source), &inbound()), Err(Refusal::IllegalSource));
    }
    for source in ["::", "::1", "ff02::1", "fe80::1"] {
        let source: Ipv6Addr = source.parse().unwrap();
        let packet = ip6(source, SERVER6).udp(5000, 80).build();
        assert_eq!(to4(&packet, &outbound()), Err(Refusal::IllegalSource));
    }
    for (protocol, expected) in [
        (0, Refusal::Protocol),
        (2, Refusal::Protocol),
        (43, Refusal::Protocol),
        (44, Refusal::Protocol),
        (58, Refusal::Protocol),
        (60, Refusal::Protocol),
        (6, Refusal::Truncated),
        (1, Refusal::Truncated),
    ] {
        let packet = ip4(SERVER4, HOST4).raw(protocol, &[1; 7]).build();
        assert_eq!(to6(&packet, &inbound()), Err(expected), "{protocol}");
    }
    for protocol in [1, 2] {
        let packet = ip6(HOST6, SERVER6).raw(protocol, &[1; 8]).build();
        assert_eq!(to4(&packet, &outbound()), Err(Refusal::Protocol));
    }
    for (icmp_type, expected) in [
        (3, Refusal::IcmpError),
        (4, Refusal::IcmpWithoutCounterpart),
        (5, Refusal::IcmpOneHop),
        (9, Refusal::IcmpOneHop),
        (10, Refusal::IcmpOneHop),
        (13, Refusal::IcmpWithoutCounterpart),
        (18, Refusal::IcmpWithoutCounterpart),
        (42, Refusal::IcmpType),
    ] {
        let packet = ip4(SERVER4, HOST4).icmp4(icmp_type, 0, [0; 4]).build();
        assert_eq!(to6(&packet, &inbound()), Err(expected), "{icmp_type}");
    }
    for (icmp_type, expected) in [
        (1, Refusal::IcmpError),
        (130, Refusal::IcmpOneHop),
        (135, Refusal::IcmpOneHop),
        (143, Refusal::IcmpOneHop),
        (5, Refusal::IcmpType),
        (200, Refusal::IcmpType),
    ] {
        let packet = ip6(HOST6, SERVER6).icmp6(icmp_type, 0, [0; 4]).build();
        assert_eq!(to4(&packet, &outbound()), Err(expected), "{icmp_type}");
    }
    let too_long = ip6(HOST6, SERVER6).raw(59, &[0; 65535]).build();
    assert_eq!(to4(&too_long, &outbound()), Err(Refusal::TooLong));
    for (extensions, expected) in [(8, None), (9, Some(Refusal::TooManyExtensions))] {
        let first = ip6(HOST6, SERVER6).destination_options(&[]);
        let many = (1..extensions).fold(first, |ip, _| ip.destination_options(&[]));
        let ours = to4(&many.udp(5000, 80).build(), &outbound());
        assert_eq!(ours.err(), expected, "{extensions}");
    }
    let swapped = ip4(SERVER4, HOST4).udp(80, 40000).build();
    assert_eq!(to4(&swapped, &outbound()), Err(Refusal::Truncated));
    assert_eq!(
        to4(&[&swapped[..], &[0; 40]].concat(), &outbound()),
        Err(Refusal::BadVersion)
    );
    assert_eq!(to6(&swapped[..27], &inbound()), Err(Refusal::BadLength));
    assert_eq!(
        error_to6(&swapped, &Policy::default()),
        Err(Refusal::NotAnError)
    );
}

#[test]
fn quotes_that_say_too_little() {
    let quoted = ip4(HOST4, SERVER4)
        .udp(40000, 80)
        .payload(&[1; 100])
        .build();
    let about = |quote: &[u8]| {
        let packet = ip4(ROUTER4, HOST4).icmp4(3, 3, [0; 4]).payload(quote);
        error_to6(&packet.build(), &Policy::default()).map(|_| ())
    };
    assert_eq!(about(&quoted[..24]), Ok(()));
    for len in [0, 19, 20, 23] {
        assert_eq!(about(&quoted[..len]), Err(Refusal::QuoteTruncated), "{len}");
    }
    let six = ip6(HOST6, SERVER6).udp(5000, 80).build();
    assert_eq!(about(&six), Err(Refusal::BadQuote));
    let short = ip4(HOST4, SERVER4).total_length(19).udp(40000, 80).build();
    assert_eq!(about(&short), Err(Refusal::BadQuote));
    // Of later fragments there are no ports to be had.
    let later = ip4(HOST4, SERVER4).fragment_offset(9).raw(17, &[1]).build();
    assert_eq!(about(&later), Ok(()));
}
