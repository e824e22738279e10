//! Translation between IPv4 and IPv6 against a plain twin, there and back again, and by example.

mod twin;

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
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

/// What the upper layer of a generated packet is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Upper {
    Tcp,
    Udp,
    UdpWithoutChecksum,
    UdpLite,
    Dccp,
    EchoRequest,
    EchoReply,
    /// Any ICMP message, by its type.
    Icmp(u8),
    /// Any protocol.
    Raw(u8),
}

impl Upper {
    fn protocol(self, version: u8) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp | Self::UdpWithoutChecksum => 17,
            Self::UdpLite => 136,
            Self::Dccp => 33,
            Self::EchoRequest | Self::EchoReply | Self::Icmp(_) if version == 4 => 1,
            Self::EchoRequest | Self::EchoReply | Self::Icmp(_) => 58,
            Self::Raw(protocol) => protocol,
        }
    }

    /// The whole upper-layer packet with a right checksum.
    fn bytes(
        self,
        version: u8,
        ports: Ports,
        data: &[u8],
        pseudo: impl Fn(u8, usize) -> u64,
    ) -> Vec<u8> {
        let protocol = self.protocol(version);
        let header_len = match self {
            Self::Tcp => 20,
            Self::Dccp => 12,
            Self::Raw(_) => return data.to_vec(),
            _ => 8,
        };
        let mut bytes: Vec<u8> = (0..header_len).collect();
        bytes.extend(data);
        match self {
            Self::Udp | Self::UdpLite => {
                let len = bytes.len() as u16;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
            }
            Self::UdpWithoutChecksum => {
                let len = bytes.len() as u16;
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                bytes[6..8].fill(0);
                bytes[..2].copy_from_slice(&ports.source.to_be_bytes());
                bytes[2..4].copy_from_slice(&ports.destination.to_be_bytes());
                return bytes;
            }
            // The twin turns the other version's types into this one's.
            Self::EchoRequest => bytes[0] = if version == 4 { 128 } else { 8 },
            Self::EchoReply => bytes[0] = if version == 4 { 129 } else { 0 },
            Self::Icmp(icmp_type) => bytes[0] = icmp_type,
            _ => {}
        }
        if matches!(self, Self::EchoRequest | Self::EchoReply) {
            // Code 0, and a sequence number that the data decides, so that replies of nothing but zeros occur.
            bytes[1] = 0;
            let sequence = [data.first().copied().unwrap_or(0), 0];
            bytes[6..8].copy_from_slice(&sequence);
        }
        twin::upper(protocol, &bytes, ports, pseudo)
    }
}

fn upper() -> impl Strategy<Value = Upper> {
    prop_oneof![
        4 => Just(Upper::Tcp),
        4 => Just(Upper::Udp),
        2 => Just(Upper::UdpWithoutChecksum),
        1 => Just(Upper::UdpLite),
        1 => Just(Upper::Dccp),
        3 => Just(Upper::EchoRequest),
        3 => Just(Upper::EchoReply),
        1 => any::<u8>().prop_map(Upper::Icmp),
        1 => prop::sample::select(vec![2u8, 4, 41, 47, 50, 51, 59, 89, 132, 135, 253]).prop_map(Upper::Raw),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    let port = prop_oneof![any::<u16>(), Just(0), Just(0xffff)];
    (port.clone(), port).prop_map(|(source, destination)| Ports {
        source,
        destination,
    })
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..100),
        1 => prop::collection::vec(Just(0u8), 0..100),
        2 => prop::collection::vec(any::<u8>(), 1100..1700),
    ]
}

fn address4() -> impl Strategy<Value = Ipv4Addr> + Clone {
    prop_oneof![
        20 => (1u8..127, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| Ipv4Addr::new(a, b, c, d)),
        1 => prop::sample::select(vec![
            Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST,
            Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::new(240, 0, 0, 1), Ipv4Addr::new(223, 255, 255, 255),
        ]),
    ]
}

fn address6() -> impl Strategy<Value = Ipv6Addr> + Clone {
    prop_oneof![
        20 => any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits >> 3 | 1 << 125)),
        1 => prop::sample::select(vec!["::", "::1", "::2", "fe80::1", "febf::1", "fec0::1", "ff02::1", "fd00::1"])
            .prop_map(|text| text.parse().unwrap()),
    ]
}

fn tuple<A: std::fmt::Debug>(
    address: impl Strategy<Value = A> + Clone,
) -> impl Strategy<Value = Tuple<A>> {
    (address.clone(), address, ports()).prop_map(|(source, destination, ports)| Tuple {
        source,
        destination,
        ports,
    })
}

fn tuple4() -> impl Strategy<Value = Tuple<Ipv4Addr>> {
    tuple(any::<[u8; 4]>().prop_map(Ipv4Addr::from))
}

fn tuple6() -> impl Strategy<Value = Tuple<Ipv6Addr>> {
    tuple(any::<u128>().prop_map(Ipv6Addr::from_bits))
}

fn policy() -> impl Strategy<Value = Policy> {
    (
        any::<(bool, bool)>(),
        1280u16..1600,
        prop_oneof![Just(u16::MAX), 68u16..2000],
        prop_oneof![Just(u16::MAX), 1280u16..2000],
    )
        .prop_map(
            |((copy_traffic_class, compute), lowest_ip6_mtu, ip4_mtu, ip6_mtu)| Policy {
                copy_traffic_class,
                zero_checksum: if compute {
                    ZeroChecksum::Compute
                } else {
                    ZeroChecksum::Refuse
                },
                lowest_ip6_mtu,
                ip4_mtu,
                ip6_mtu,
            },
        )
}

/// A part of a packet that is fragmented: first unit of 8 bytes and number of units.
type Cut = Option<(usize, usize)>;

fn cut() -> impl Strategy<Value = Cut> {
    prop_oneof![3 => Just(None), 1 => (0usize..30, 1usize..30).prop_map(Some)]
}

/// The bytes of `whole` that a cut takes, their offset in units, and whether more follow.
fn take(whole: &[u8], cut: Cut) -> (&[u8], u16, bool) {
    let Some((first, units)) = cut else {
        return (whole, 0, false);
    };
    // A second fragment that starts inside of a transport header belongs to a first one that is refused.
    let start = match first % (whole.len() / 8 + 1) {
        0..3 => 0,
        unit => unit * 8,
    };
    let end = whole.len().min(start + units * 8);
    (&whole[start..end], (start / 8) as u16, end < whole.len())
}

/// A generated packet and the whole upper-layer packet that it carries a part of.
#[derive(Debug, Clone)]
struct Made {
    bytes: Vec<u8>,
    whole: Vec<u8>,
    protocol: u8,
    headers_len: usize,
}

/// Options of IPv4 headers, the last two with a source route that is not at its end.
const OPTIONS: [&[u8]; 7] = [
    &[],
    &[],
    &[148, 4, 0, 0],
    &[1, 7, 7, 4, 0, 0, 0, 0],
    &[131, 7, 8, 192, 0, 2, 1],
    &[131, 7, 4, 192, 0, 2, 1],
    &[1, 137, 11, 8, 192, 0, 2, 1, 192, 0, 2, 2],
];

fn packet4() -> impl Strategy<Value = (Made, Tuple<Ipv4Addr>)> {
    (
        (tuple(address4()), upper(), data()),
        any::<(u8, u8, u16, bool, bool)>(),
        0..OPTIONS.len(),
        cut(),
    )
        .prop_map(
            |((tuple, upper, data), (tos, ttl, id, df, reserved), options, cut)| {
                let whole = upper.bytes(4, tuple.ports, &data, |protocol, len| match protocol {
                    1 => 0,
                    _ => twin::pseudo4(&tuple, protocol, len),
                });
                let (part, offset, more) = take(&whole, cut);
                let protocol = upper.protocol(4);
                let mut ip = ip4(tuple.source, tuple.destination)
                    .tos(tos)
                    .ttl(ttl)
                    .id(id)
                    .options(OPTIONS[options])
                    .fragment_offset(offset);
                if df {
                    ip = ip.dont_fragment();
                }
                if reserved {
                    ip = ip.reserved_flag();
                }
                if more {
                    ip = ip.more_fragments();
                }
                let bytes = ip.raw(protocol, part).build();
                let made = Made {
                    headers_len: bytes.len() - part.len(),
                    bytes,
                    whole,
                    protocol,
                };
                (made, tuple)
            },
        )
}

/// Extension headers of generated IPv6 packets; the last two are refused.
const EXTENSIONS: [&[&str]; 10] = [
    &[],
    &[],
    &[],
    &["hop-by-hop"],
    &["destination"],
    &["routing"],
    &["hop-by-hop", "destination", "routing", "destination"],
    &["hop-by-hop", "routing", "destination"],
    &["destination", "hop-by-hop"],
    &["hop-by-hop", "segments left"],
];

fn packet6() -> impl Strategy<Value = (Made, Tuple<Ipv6Addr>)> {
    let fragment = prop_oneof![
        4 => Just(None),
        1 => any::<u32>().prop_map(|id| Some((id, None))),
        2 => (any::<u32>(), cut()).prop_map(Some),
    ];
    (
        (tuple(address6()), upper(), data()),
        (any::<u8>(), any::<u8>(), 0u32..1 << 20),
        0..EXTENSIONS.len(),
        fragment,
    )
        .prop_map(
            |((tuple, upper, data), (class, hops, flow), extensions, fragment)| {
                let whole = upper.bytes(6, tuple.ports, &data, |protocol, len| {
                    twin::pseudo6(&tuple, protocol, len)
                });
                let protocol = upper.protocol(6);
                let (part, offset, more) = take(&whole, fragment.and_then(|(_, cut)| cut));
                // From the inside out.
                let (mut next, mut inner) = (protocol, part.to_vec());
                let mut push = |number: u8, mut header: Vec<u8>| {
                    header[0] = next;
                    header.extend(&inner);
                    (next, inner) = (number, header);
                };
                if let Some((id, _)) = fragment {
                    let mut header = vec![0, 0];
                    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    header.extend(id.to_be_bytes());
                    push(44, header);
                }
                for name in EXTENSIONS[extensions].iter().rev() {
                    match *name {
                        "hop-by-hop" => push(0, vec![0, 0, 5, 2, 0, 0, 1, 0]),
                        "destination" => push(60, [&[0, 1, 1, 12][..], &[0; 12]].concat()),
                        "routing" => push(43, vec![0, 0, 4, 0, 0, 0, 0, 0]),
                        _ => push(43, [&[0, 2, 4, 1][..], &[0; 20]].concat()),
                    }
                }
                let bytes = ip6(tuple.source, tuple.destination)
                    .traffic_class(class)
                    .hop_limit(hops)
                    .flow_label(flow)
                    .raw(next, &inner)
                    .build();
                let made = Made {
                    headers_len: bytes.len() - part.len(),
                    bytes,
                    whole,
                    protocol,
                };
                (made, tuple)
            },
        )
}

/// How the packet in an ICMP error is quoted.
#[derive(Debug, Clone)]
struct Quoting {
    /// How much of it after its IP headers, bytes; the rest is cut off.
    payload: usize,
    /// Extensions after it (RFC 4884).
    extension: Option<Vec<u8>>,
}

fn quoting() -> impl Strategy<Value = Quoting> {
    let payload = prop_oneof![4 => 0usize..60, 1 => 60usize..1400, 1 => Just(1400)];
    let extension = prop::collection::vec(any::<u8>(), 8..80);
    (payload, prop::option::weighted(0.4, extension)).prop_map(|(payload, extension)| Quoting {
        // Half a checksum, which is left as it is, is not for the twin.
        payload: if matches!(payload, 7 | 17) {
            payload + 1
        } else {
            payload
        },
        extension,
    })
}

impl Quoting {
    /// The body of an error about `made`, and what the length field says.
    fn body(&self, made: &Made, unit: usize) -> (Vec<u8>, u8) {
        let end = made.bytes.len().min(made.headers_len + self.payload);
        let Some(extension) = &self.extension else {
            return (made.bytes[..end].to_vec(), 0);
        };
        // A quote that is followed by extensions is long enough, or holds the whole packet and is padded.
        let end = (end.max(128) / unit).min(255) * unit;
        let mut body = made.bytes[..made.bytes.len().min(end)].to_vec();
        body.resize(body.len().next_multiple_of(unit).max(128), 0);
        let units = body.len() / unit;
        body.extend(extension);
        (body, units as u8)
    }
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
    fn error_to6_agrees_with_the_twin(
        (quoted, old_inner) in packet4(),
        quoting in quoting(),
        (old_outer, outer, inner, policy) in (tuple(address4()), tuple6(), tuple6(), policy()),
        type_code in prop_oneof![
            5 => (Just(3u8), 0u8..17), 2 => (Just(11u8), 0u8..3), 2 => (Just(12u8), 0u8..4),
        ],
        (rest, mtu) in (any::<[u8; 4]>(), prop_oneof![Just(0u16), any::<u16>()]),
        (options, fragment, pointer) in (0..OPTIONS.len(), prop::bool::weighted(0.02), 0u8..24),
    ) {
        let (body, units) = quoting.body(&quoted, 4);
        let mut rest = match type_code {
            (3, 4) => { let [a, b] = mtu.to_be_bytes(); [0, 0, a, b] }
            (12, _) => [pointer, 0, 0, 0],
            _ => rest,
        };
        rest[1] = units;
        let mut ip = ip4(old_outer.source, old_outer.destination).tos(9).ttl(7).id(5).options(OPTIONS[options]);
        if fragment {
            ip = ip.fragment_offset(1);
        }
        let packet = ip.icmp4(type_code.0, type_code.1, rest).payload(&body).build();
        let ours = run(&packet, |packet, out| {
            let (outer, inner) = (To6::new(&old_outer, &outer), To6::new(&old_inner, &inner));
            translate::error_to6(packet, &outer, &inner, &policy, out)
        });
        prop_assert_eq!(ours, twin::error_to6(&packet, &quoted.whole, &outer, &inner, &policy));
    }

    #[test]
    fn error_to4_agrees_with_the_twin(
        (quoted, old_inner) in packet6(),
        quoting in quoting(),
        (old_outer, outer, inner, policy) in (tuple(address6()), tuple4(), tuple4(), policy()),
        type_code in prop_oneof![
            3 => (Just(1u8), 0u8..8), 2 => (Just(2u8), 0u8..2), 2 => (Just(3u8), 0u8..3), 2 => (Just(4u8), 0u8..4),
        ],
        (rest, value) in (any::<u32>(), prop_oneof![Just(0u32), 0u32..80, 1200u32..1600, any::<u32>()]),
        (extension, fragment, id) in (any::<bool>(), 0u8..40, any::<u16>()),
    ) {
        // Only two types have a field for the length that extensions need.
        let extended = matches!(type_code.0, 1 | 3);
        let quoting = Quoting { extension: quoting.extension.filter(|_| extended), ..quoting };
        let (body, units) = quoting.body(&quoted, 8);
        let rest = match type_code.0 {
            1 | 3 => { let mut rest = rest.to_be_bytes(); rest[0] = units; rest }
            _ => value.to_be_bytes(),
        };
        let ip = ip6(old_outer.source, old_outer.destination).traffic_class(9).hop_limit(7);
        let packet = match (extension, fragment) {
            (false, _) => ip.icmp6(type_code.0, type_code.1, rest).payload(&body).build(),
            (true, 0) => ip.fragment(1, 1, false).icmp6(type_code.0, type_code.1, rest).payload(&body).build(),
            (true, 1..=9) => ip.fragment(0x12345, 0, false).icmp6(type_code.0, type_code.1, rest).payload(&body).build(),
            _ => ip.hop_by_hop(&[]).icmp6(type_code.0, type_code.1, rest).payload(&body).build(),
        };
        let ours = run(&packet, |packet, out| {
            let (outer, inner) = (To4::new(&old_outer, &outer), To4::new(&old_inner, &inner));
            translate::error_to4(packet, &outer, &inner, id, &policy, out)
        });
        prop_assert_eq!(ours, twin::error_to4(&packet, &quoted.whole, &outer, &inner, id, &policy));
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
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        (cut, error, units) in (any::<usize>(), any::<(u8, u8)>(), any::<u8>()),
    ) {
        let error4 = ip4([192, 0, 2, 1], [192, 0, 2, 2])
            .icmp4([3, 11, 12][usize::from(error.0 % 3)], error.1 % 16, [units % 24, units, 0, 0])
            .payload(&inner4.bytes).build();
        let error6 = ip6(Ipv6Addr::from_bits(1 << 125), Ipv6Addr::from_bits(2))
            .icmp6(error.0 % 4 + 1, error.1 % 5, [units, 0, 0, units])
            .payload(&inner6.bytes).build();
        for mut bytes in [inner4.bytes, inner6.bytes, error4, error6] {
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
