//! Translation between IPv4 and IPv6 against a plain twin, there and back again, and by example.

mod packets;
mod twin;

use std::net::{Ipv4Addr, Ipv6Addr};

use packets::{error4, error6, packet4, packet6, policy, tuple4, tuple6};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use wire::builder::{ip4, ip6};
use wire::translate::{
    self, Edit, Ip6Fragments, Kind, MAX_HEADERS, Policy, Ports, Refusal, To4, To6, Tuple,
    ZeroChecksum,
};
use wire::{Header, Ip4Header, Ip6Header, IpProtocol, fuzzing, ip6 as wire_ip6};

/// The packet that an edit makes.
fn assemble(edit: Edit, out: &[u8], packet: &[u8]) -> Vec<u8> {
    [&out[..edit.header_len], &packet[edit.replaces..edit.end]].concat()
}

fn run(
    packet: &[u8],
    translate: impl FnOnce(&mut [u8], &mut [u8; MAX_HEADERS]) -> Result<Edit, Refusal>,
) -> Result<Vec<u8>, Refusal> {
    let (mut packet, mut out) = (packet.to_vec(), [0xee; MAX_HEADERS]);
    let edit = translate(&mut packet, &mut out)?;
    Ok(assemble(edit, &out, &packet))
}

fn to6(packet: &[u8], binding: &To6, policy: &Policy) -> Result<Vec<u8>, Refusal> {
    run(packet, |packet, out| {
        translate::to6(packet, binding, policy, out)
    })
}

fn to4(packet: &[u8], binding: &To4, id: u16, policy: &Policy) -> Result<Vec<u8>, Refusal> {
    run(packet, |packet, out| {
        translate::to4(packet, binding, id, policy, out)
    })
}

/// Bindings are for the message and for the packet quoted in it.
fn error_to6(packet: &[u8], bindings: &(To6, To6), policy: &Policy) -> Result<Vec<u8>, Refusal> {
    run(packet, |packet, out| {
        translate::error_to6(packet, &bindings.0, &bindings.1, policy, out)
    })
}

/// Bindings are for the message and for the packet quoted in it.
fn error_to4(
    packet: &[u8],
    bindings: &(To4, To4),
    id: u16,
    policy: &Policy,
) -> Result<Vec<u8>, Refusal> {
    run(packet, |packet, out| {
        translate::error_to4(packet, &bindings.0, &bindings.1, id, policy, out)
    })
}

/// Many of the generated packets are translated, and every expected refusal occurs.
fn tally<M>(
    packets: impl Strategy<Value = M>,
    translate: impl Fn(M) -> Result<Vec<u8>, Refusal>,
    expected: &[Refusal],
) {
    const SAMPLES: usize = 4000;
    let mut runner = TestRunner::deterministic();
    let mut sample = || packets.new_tree(&mut runner).unwrap().current();
    let outcomes: Vec<_> = (0..SAMPLES).map(|_| translate(sample())).collect();
    let translated = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    assert!(translated > SAMPLES / 4, "{translated} translated");
    for why in expected {
        assert!(outcomes.contains(&Err(*why)), "never refused: {why}");
    }
}

/// The generators make packets of all kinds, or the comparisons with the twin would say little.
#[test]
fn generators_reach_everything() {
    let policy = Policy {
        zero_checksum: ZeroChecksum::Refuse,
        ..Policy::default()
    };
    let ports = Ports::default();
    let old4 = Tuple {
        source: Ipv4Addr::LOCALHOST,
        destination: Ipv4Addr::LOCALHOST,
        ports,
    };
    let old6 = Tuple {
        source: Ipv6Addr::LOCALHOST,
        destination: Ipv6Addr::LOCALHOST,
        ports,
    };
    let (six, four) = (To6::new(&old4, &old6), To4::new(&old6, &old4));
    tally(
        packet4(),
        |(made, _)| to6(&made.bytes, &six, &policy),
        &[
            Refusal::SourceRoute,
            Refusal::IllegalSource,
            Refusal::Protocol,
            Refusal::FragmentedIcmp,
            Refusal::TinyFragment,
            Refusal::UdpWithoutChecksum,
            Refusal::FragmentedUdpWithoutChecksum,
            Refusal::IcmpError,
            Refusal::IcmpType,
            Refusal::IcmpOneHop,
            Refusal::IcmpWithoutCounterpart,
        ],
    );
    tally(
        packet6(),
        |(made, _)| to4(&made.bytes, &four, 0, &policy),
        &[
            Refusal::RoutingHeader,
            Refusal::ExtensionOrder,
            Refusal::IllegalSource,
            Refusal::Protocol,
            Refusal::FragmentedIcmp,
            Refusal::FragmentedExtension,
            Refusal::TinyFragment,
            Refusal::IcmpError,
            Refusal::IcmpType,
            Refusal::IcmpOneHop,
        ],
    );
    let errors = [
        Refusal::FragmentedIcmp,
        Refusal::IcmpCode,
        Refusal::IcmpPointer,
        Refusal::NestedError,
        Refusal::QuoteTruncated,
    ];
    tally(
        error4(),
        |made| error_to6(&made.packet, &(six, six), &policy),
        &errors,
    );
    tally(
        error6(),
        |made| error_to4(&made.packet, &(four, four), 0, &policy),
        &[&errors[..], &[Refusal::BadQuote]].concat(),
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 500 } else { 4000 }))]

    #[test]
    fn to6_agrees_with_the_twin((made, old) in packet4(), new in tuple6(), policy in policy(), padding in 0usize..9) {
        let mut packet = made.bytes.clone();
        packet.resize(packet.len() + padding, 0xaa);
        let ours = to6(&packet, &To6::new(&old, &new), &policy);
        prop_assert_eq!(ours, twin::to6(&made.bytes, &made.whole, &new, &policy));
    }

    #[test]
    fn to4_agrees_with_the_twin((made, old) in packet6(), new in tuple4(), policy in policy(), id: u16, padding in 0usize..9) {
        let mut packet = made.bytes.clone();
        packet.resize(packet.len() + padding, 0xaa);
        let ours = to4(&packet, &To4::new(&old, &new), id, &policy);
        prop_assert_eq!(ours, twin::to4(&made.bytes, &made.whole, &new, id, &policy));
    }

    #[test]
    fn error_to6_agrees_with_the_twin(made in error4(), outer in tuple6(), inner in tuple6(), policy in policy()) {
        let bindings = (To6::new(&made.outer, &outer), To6::new(&made.inner, &inner));
        let ours = error_to6(&made.packet, &bindings, &policy);
        prop_assert_eq!(ours, twin::error_to6(&made.packet, &made.quoted.whole, &outer, &inner, &policy));
    }

    #[test]
    fn error_to4_agrees_with_the_twin(
        made in error6(), outer in tuple4(), inner in tuple4(), policy in policy(), id: u16,
    ) {
        let bindings = (To4::new(&made.outer, &outer), To4::new(&made.inner, &inner));
        let ours = error_to4(&made.packet, &bindings, id, &policy);
        prop_assert_eq!(ours, twin::error_to4(&made.packet, &made.quoted.whole, &outer, &inner, id, &policy));
    }

    /// IPv4 to IPv6 and back: lost are options, the reserved flag, and of packets that are not fragments the
    /// identification and "don't fragment"; a UDP checksum is gained.
    #[test]
    fn there_and_back_from_4((made, old) in packet4(), new in tuple6(), id: u16) {
        let policy = Policy::default();
        let new = Tuple { source: Ipv6Addr::from_bits(new.source.to_bits() >> 3 | 1 << 125), ..new };
        let Ok(there) = to6(&made.bytes, &To6::new(&old, &new), &policy) else { return Ok(()); };
        let back = match to4(&there, &To4::new(&new, &old), id, &policy) {
            // A protocol of IPv4 whose number is that of an extension header.
            Err(Refusal::FragmentedExtension) if matches!(made.protocol, 51 | 135 | 253) => return Ok(()),
            back => back.unwrap(),
        };
        let header = *Ip4Header::view(&made.bytes).unwrap();
        let has_fragment_header = there[6] == 44;
        let payload = &made.bytes[made.headers_len..];
        let total = 20 + payload.len();
        let mut ip = ip4(old.source, old.destination)
            .tos(header.tos)
            .ttl(header.ttl)
            .id(if has_fragment_header { header.id.get() } else { id })
            .fragment_offset(header.flags_fragment.get());
        if header.more_fragments() {
            ip = ip.more_fragments();
        }
        if !has_fragment_header && total > 1260 {
            ip = ip.dont_fragment();
        }
        let mut expected = ip.raw(made.protocol, payload).build();
        if made.protocol == 17 && !header.is_fragment() && payload[6..8] == [0, 0] {
            expected[26..28].copy_from_slice(&back[26..28]);
            let pseudo = Ip4Header::view(&back).unwrap().pseudo_header(payload.len() as u16);
            prop_assert_eq!(wire::udp::verify_checksum(pseudo, &back[20..], false), Ok(()));
        }
        prop_assert_eq!(back, expected);
    }

    /// IPv6 to IPv4 and back: lost are flow label, extension headers, the upper half of identifications, and
    /// fragment headers of whole packets.
    #[test]
    fn there_and_back_from_6((made, old) in packet6(), new in tuple4(), id: u16) {
        let policy = Policy::default();
        let new = Tuple { source: Ipv4Addr::from_bits(new.source.to_bits() >> 3 | 1 << 29), ..new };
        let Ok(there) = to4(&made.bytes, &To4::new(&old, &new), id, &policy) else { return Ok(()); };
        let payload = &made.bytes[made.headers_len..];
        if made.protocol == 17 && there.get(26..28) == Some(&[0, 0]) {
            // Illegal in IPv6, so whoever sent it gets a checksum or a refusal on the way back.
            return Ok(());
        }
        let back = to6(&there, &To6::new(&new, &old), &policy).unwrap();
        let header = *Ip6Header::view(&made.bytes).unwrap();
        let ip = ip6(old.source, old.destination)
            .traffic_class(header.traffic_class())
            .hop_limit(header.hop_limit);
        let chain = wire_ip6::Ip6Packet::parse(&made.bytes).unwrap().walk(8);
        let expected = match chain.fragment {
            Some((fragment, _)) if !fragment.is_atomic() || 40 + payload.len() > 1280 => ip
                .fragment(fragment.id.get() & 0xffff, (fragment.offset_bytes() / 8) as u16, fragment.more_fragments())
                .raw(made.protocol, payload)
                .build(),
            _ => ip.raw(made.protocol, payload).build(),
        };
        prop_assert_eq!(back, expected);
    }

    /// An IPv4 packet that had to be fragmented for IPv6 arrives in pieces that make up the packet.
    #[test]
    fn pieces_make_up_the_packet((made, old) in packet4(), new in tuple6(), mtu in 1000u16..1600) {
        let policy = Policy { lowest_ip6_mtu: mtu, ..Policy::default() };
        let (mut packet, mut out) = (made.bytes.clone(), [0; MAX_HEADERS]);
        let Ok(edit) = translate::to6(&mut packet, &To6::new(&old, &new), &policy, &mut out) else { return Ok(()); };
        let header = *Ip4Header::view(&made.bytes).unwrap();
        if !edit.fragment {
            prop_assert!(header.dont_fragment() || edit.packet_len() <= usize::from(mtu.max(1280)));
            return Ok(());
        }
        let body = &packet[edit.replaces..edit.end];
        let mut joined: Vec<u8> = Vec::new();
        let pieces: Vec<_> = Ip6Fragments::new(&out[..edit.header_len], mtu).unwrap().collect();
        for (at, (part, headers)) in pieces.iter().enumerate() {
            let piece = [&headers[..], &body[part.clone()]].concat();
            prop_assert!(piece.len() <= usize::from(mtu.max(1280)));
            let chain = wire_ip6::Ip6Packet::parse(&piece).unwrap().walk(8);
            let (fragment, _) = chain.fragment.unwrap();
            prop_assert_eq!(fragment.id.get(), u32::from(header.id.get()));
            prop_assert_eq!(fragment.offset_bytes(), header.fragment_offset_bytes() + joined.len());
            let last = at + 1 == pieces.len();
            prop_assert_eq!(fragment.more_fragments(), !last || header.more_fragments());
            joined.extend(&body[part.clone()]);
        }
        prop_assert_eq!(&joined[..], body);
    }

    /// Inspection finds what the generator put in, and predicts refusals.
    #[test]
    fn inspection_agrees((made4, old4) in packet4(), (made6, old6) in packet6()) {
        let policy = Policy::default();
        let binding = To6::new(&old4, &old6);
        let mut checked = [0; MAX_HEADERS];
        match (translate::inspect4(&made4.bytes), translate::to6(&mut made4.bytes.clone(), &binding, &policy, &mut checked)) {
            (Ok(seen), Ok(_) | Err(Refusal::FragmentedUdpWithoutChecksum)) => {
                prop_assert_eq!((seen.tuple.source, seen.tuple.destination), (old4.source, old4.destination));
                prop_assert_eq!(seen.protocol, IpProtocol(made4.protocol));
                match seen.kind {
                    Kind::Ports => prop_assert_eq!(seen.tuple.ports, old4.ports),
                    Kind::Echo => prop_assert_eq!(seen.tuple.ports, Ports::identifier(old4.ports.source)),
                    Kind::Error => prop_assert!(false, "an error was translated"),
                    Kind::LaterFragment | Kind::Other => prop_assert_eq!(seen.tuple.ports, Ports::default()),
                }
            }
            (Err(seen), Err(why)) => prop_assert!(seen == why || why == Refusal::IcmpError || why == Refusal::IllegalSource),
            (Ok(seen), Err(why)) => prop_assert_eq!((seen.kind, why), (Kind::Error, Refusal::IcmpError)),
            other => prop_assert!(false, "{:?}", other),
        }
        let binding = To4::new(&old6, &old4);
        match (translate::inspect6(&made6.bytes), translate::to4(&mut made6.bytes.clone(), &binding, 0, &policy, &mut checked)) {
            (Ok(seen), Ok(_)) => {
                prop_assert_eq!((seen.tuple.source, seen.tuple.destination), (old6.source, old6.destination));
                prop_assert_eq!(seen.protocol, IpProtocol(made6.protocol));
                match seen.kind {
                    Kind::Ports => prop_assert_eq!(seen.tuple.ports, old6.ports),
                    Kind::Echo => prop_assert_eq!(seen.tuple.ports, Ports::identifier(old6.ports.source)),
                    Kind::Error => prop_assert!(false, "an error was translated"),
                    Kind::LaterFragment | Kind::Other => prop_assert_eq!(seen.tuple.ports, Ports::default()),
                }
            }
            (Err(seen), Err(why)) => prop_assert!(seen == why || why == Refusal::IcmpError || why == Refusal::IllegalSource),
            (Ok(seen), Err(why)) => prop_assert_eq!((seen.kind, why), (Kind::Error, Refusal::IcmpError)),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    /// No input makes it panic, and what is refused stays as it was.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 4u8..7) {
        let mut bytes = bytes;
        fuzzing::check_translate(&bytes);
        // Steer past the first checks.
        if let Some(first) = bytes.first_mut() {
            *first = version << 4 | *first & 0x0f;
        }
        fuzzing::check_translate(&bytes);
        let len = (bytes.len() as u16).to_be_bytes();
        if version == 4 && bytes.len() >= 20 {
            bytes[2..4].copy_from_slice(&len);
            bytes[6..8].fill(0);
            bytes[9] = [1, 6, 17][usize::from(bytes[9] % 3)];
        } else if bytes.len() >= 40 {
            let payload_len = ((bytes.len() - 40) as u16).to_be_bytes();
            bytes[4..6].copy_from_slice(&payload_len);
            bytes[6] = [58, 6, 17, 0, 43, 44, 60][usize::from(bytes[6] % 7)];
        }
        fuzzing::check_translate(&bytes);
    }

    /// The same for packets with a few bytes changed or cut off.
    #[test]
    fn damaged_packets(
        (inner4, _) in packet4(),
        (inner6, _) in packet6(),
        (whole4, whole6) in (error4(), error6()),
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        (cut, error, units) in (any::<usize>(), any::<(u8, u8)>(), any::<u8>()),
    ) {
        let error4 = ip4([192, 0, 2, 1], [192, 0, 2, 2])
            .icmp4([3, 11, 12][usize::from(error.0 % 3)], error.1 % 16, [units % 24, units, 0, 0])
            .payload(&inner4.bytes).build();
        let error6 = ip6(Ipv6Addr::from_bits(1 << 125), Ipv6Addr::from_bits(2))
            .icmp6(error.0 % 4 + 1, error.1 % 5, [units, 0, 0, units])
            .payload(&inner6.bytes).build();
        for mut bytes in [inner4.bytes, inner6.bytes, error4, error6, whole4.packet, whole6.packet] {
            fuzzing::check_translate(&bytes);
            fuzzing::check_translate(&bytes[..cut % (bytes.len() + 1)]);
            for &(at, value) in &flips {
                // Half of them among the headers, where they matter most.
                let len = if at % 2 == 0 { bytes.len().min(100) } else { bytes.len() };
                bytes[at / 2 % len] = value;
            }
            fuzzing::check_translate(&bytes);
        }
    }
}
