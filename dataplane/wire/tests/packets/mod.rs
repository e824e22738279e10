//! Random packets for the comparison of translators: legal ones of all kinds, and some that are to be refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use wire::builder::{ip4, ip6};
use wire::translate::{Policy, Ports, Tuple, ZeroChecksum};

use crate::twin;

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
        1 => prop::sample::select(vec![1u8, 2, 3, 4, 5, 9, 11, 12, 13, 130, 135, 143]).prop_map(Upper::Icmp),
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

pub fn tuple4() -> impl Strategy<Value = Tuple<Ipv4Addr>> {
    tuple(any::<[u8; 4]>().prop_map(Ipv4Addr::from))
}

pub fn tuple6() -> impl Strategy<Value = Tuple<Ipv6Addr>> {
    tuple(any::<u128>().prop_map(Ipv6Addr::from_bits))
}

pub fn policy() -> impl Strategy<Value = Policy> {
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
    // The large ones are too large for IPv6, too.
    prop_oneof![
        6 => Just(None),
        2 => (0usize..30, 1usize..30).prop_map(Some),
        1 => (Just(0usize), 1usize..4).prop_map(Some),
        1 => (0usize..30, 150usize..180).prop_map(Some),
    ]
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
pub struct Made {
    pub bytes: Vec<u8>,
    pub whole: Vec<u8>,
    pub protocol: u8,
    pub headers_len: usize,
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

pub fn packet4() -> impl Strategy<Value = (Made, Tuple<Ipv4Addr>)> {
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

pub fn packet6() -> impl Strategy<Value = (Made, Tuple<Ipv6Addr>)> {
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

/// A generated ICMP error.
#[derive(Debug, Clone)]
pub struct MadeError<A> {
    pub packet: Vec<u8>,
    pub outer: Tuple<A>,
    pub quoted: Made,
    pub inner: Tuple<A>,
}

pub fn error4() -> impl Strategy<Value = MadeError<Ipv4Addr>> {
    let type_code = prop_oneof![
        5 => (Just(3u8), 0u8..17),
        2 => (Just(11u8), 0u8..3),
        2 => (Just(12u8), 0u8..4),
    ];
    let mtu = prop_oneof![Just(0u16), any::<u16>()];
    (
        (packet4(), quoting(), tuple(address4()), type_code),
        (any::<[u8; 4]>(), mtu, 0u8..24),
        (0..OPTIONS.len(), prop::bool::weighted(0.02)),
    )
        .prop_map(
            |(
                ((quoted, inner), quoting, outer, type_code),
                (rest, mtu, pointer),
                (options, fragment),
            )| {
                let (body, units) = quoting.body(&quoted, 4);
                let [high, low] = mtu.to_be_bytes();
                let mut rest = match type_code {
                    (3, 4) => [0, 0, high, low],
                    (12, _) => [pointer, 0, 0, 0],
                    _ => rest,
                };
                rest[1] = units;
                let packet = ip4(outer.source, outer.destination)
                    .tos(9)
                    .ttl(7)
                    .id(5)
                    .options(OPTIONS[options])
                    .fragment_offset(fragment.into())
                    .icmp4(type_code.0, type_code.1, rest)
                    .payload(&body)
                    .build();
                MadeError {
                    packet,
                    outer,
                    quoted,
                    inner,
                }
            },
        )
}

pub fn error6() -> impl Strategy<Value = MadeError<Ipv6Addr>> {
    let type_code = prop_oneof![
        3 => (Just(1u8), 0u8..8),
        2 => (Just(2u8), 0u8..2),
        2 => (Just(3u8), 0u8..3),
        2 => (Just(4u8), 0u8..4),
    ];
    let value = prop_oneof![Just(0u32), 0u32..80, 1200u32..1600, any::<u32>()];
    (
        (packet6(), quoting(), tuple(address6()), type_code),
        (any::<u32>(), value, 0u8..60),
    )
        .prop_map(
            |(((quoted, inner), quoting, outer, type_code), (rest, value, headers))| {
                // Only two types have a field for the length that extensions need.
                let extended = matches!(type_code.0, 1 | 3);
                let quoting = Quoting {
                    extension: quoting.extension.filter(|_| extended),
                    ..quoting
                };
                let (body, units) = quoting.body(&quoted, 8);
                let mut rest = if extended { rest } else { value }.to_be_bytes();
                if extended {
                    rest[0] = units;
                }
                let (icmp_type, code) = type_code;
                let ip = ip6(outer.source, outer.destination)
                    .traffic_class(9)
                    .hop_limit(7);
                let message = match headers {
                    0 => ip.fragment(1, 1, false).icmp6(icmp_type, code, rest),
                    1..=9 => ip.fragment(0x12345, 0, false).icmp6(icmp_type, code, rest),
                    10..=19 => ip.hop_by_hop(&[]).icmp6(icmp_type, code, rest),
                    _ => ip.icmp6(icmp_type, code, rest),
                };
                MadeError {
                    packet: message.payload(&body).build(),
                    outer,
                    quoted,
                    inner,
                }
            },
        )
}
