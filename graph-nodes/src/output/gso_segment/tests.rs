//! Trains against a plain slow function, and every way to refuse one.

use dataplane::{NodeHarness, PortCapabilities, TestPacket};
use proptest::prelude::*;
use wire::builder::{Builder, Carrier, LinkLayer, NetworkLayer, eth};
use wire::checksum::checksum;
use wire::{MacAddr, TcpFlags};

use super::*;
use crate::snapshot::{IcmpLimits, Port, WorkerState};

/// Port 0 takes nothing, port 1 partial checksums.
fn harness() -> NodeHarness<Snapshot> {
    let port = |checksum| Port {
        capabilities: PortCapabilities {
            checksum,
            max_frame: 9014,
            ..PortCapabilities::default()
        },
        ..Port::default()
    };
    let snapshot = Snapshot {
        ports: vec![port(false), port(true)],
        ..Snapshot::default()
    };
    let state = || WorkerState::new(IcmpLimits::default());
    NodeHarness::new(GsoSegment::default, snapshot, state).expect("a harness")
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// What the train should become, byte by byte, by no code of the node: `ip` and `layer4` are given, sums are made over copies.
#[derive(Clone, Debug)]
struct Slow {
    frame: Vec<u8>,
    ip: usize,
    layer4: usize,
    udp: bool,
    segment: usize,
    ecn: bool,
}

impl Slow {
    fn headers(&self) -> usize {
        let tcp = || usize::from(self.frame[self.layer4 + 12] / 16) * 4;
        self.layer4 + if self.udp { 8 } else { tcp() }
    }

    fn sum_at(&self) -> usize {
        self.layer4 + if self.udp { 6 } else { 16 }
    }

    fn is_ip6(&self) -> bool {
        self.frame[self.ip] >> 4 == 6
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let addresses = if self.is_ip6() { 8..40 } else { 12..20 };
        let mut bytes = self.frame[self.ip..][addresses].to_vec();
        bytes.extend_from_slice(&(length as u32).to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, if self.udp { 17 } else { 6 }]);
        bytes
    }

    fn run(&self) -> Vec<Vec<u8>> {
        let (headers, payload) = self.frame.split_at(self.headers());
        let chunks: Vec<&[u8]> = payload.chunks(self.segment).collect();
        let mut out = Vec::new();
        for (number, chunk) in chunks.iter().enumerate() {
            let mut frame = [headers, chunk].concat();
            let length = frame.len() - self.ip;
            if self.is_ip6() {
                put(&mut frame, self.ip + 4, length - 40);
            } else {
                put(&mut frame, self.ip + 2, length);
                let id = word(headers, self.ip + 4) + number;
                put(&mut frame, self.ip + 4, id);
                put(&mut frame, self.ip + 10, 0);
                let end = self.ip + usize::from(headers[self.ip] & 15) * 4;
                let sum = checksum(&frame[self.ip..end]);
                put(&mut frame, self.ip + 10, usize::from(sum));
            }
            let at = self.layer4;
            let length = frame.len() - at;
            if self.udp {
                put(&mut frame, at + 4, length);
            } else {
                let seq = u32::from_be_bytes(headers[at + 4..at + 8].try_into().expect("4 bytes"));
                let seq = seq.wrapping_add((number * self.segment) as u32);
                frame[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
                if number + 1 != chunks.len() {
                    frame[at + 13] &= !0x09;
                }
                if number != 0 && self.ecn {
                    frame[at + 13] &= !0x80;
                }
            }
            put(&mut frame, self.sum_at(), 0);
            let mut summed = self.pseudo_header(length);
            summed.extend_from_slice(&frame[at..]);
            let sum = checksum(&summed);
            let sum = if self.udp && sum == 0 { 0xffff } else { sum };
            put(&mut frame, self.sum_at(), usize::from(sum));
            out.push(frame);
        }
        out
    }

    /// The train as a host hands it over: the pseudo-header's sum in the checksum's place.
    fn packet(&self, port: u32, partial: bool) -> TestPacket {
        let mut bytes = self.frame.clone();
        if partial {
            let pseudo = !checksum(&self.pseudo_header(bytes.len() - self.layer4));
            put(&mut bytes, self.sum_at(), usize::from(pseudo));
        }
        TestPacket {
            bytes,
            word: port,
            interface: 3,
            flags: Flags::LINK_BROADCAST,
            offload: Some(Offload {
                segmentation: match (self.udp, self.is_ip6()) {
                    (true, _) => Segmentation::Udp,
                    (_, true) => Segmentation::Tcp6,
                    _ => Segmentation::Tcp4,
                },
                checksum: partial,
                ecn: self.ecn,
                segment_size: self.segment as u16,
                checksum_start: if partial { self.layer4 as u16 } else { 0 },
                checksum_field: if partial { self.sum_at() as u16 } else { 0 },
            }),
            ..TestPacket::default()
        }
    }
}

#[derive(Clone, Debug)]
struct Shape {
    tags: usize,
    ip6: bool,
    /// Options or extension headers: units of 4 or 8 bytes.
    options: usize,
    udp: bool,
    tcp_options: usize,
    flags: u8,
    ecn: bool,
    segment: usize,
    payload: usize,
    seed: u8,
}

fn any_shape() -> impl Strategy<Value = Shape> {
    (
        (
            0usize..3,
            any::<bool>(),
            0usize..8,
            any::<bool>(),
            0usize..11,
        ),
        (
            any::<u8>(),
            any::<bool>(),
            64usize..9000,
            1usize..60_000,
            any::<u8>(),
        ),
    )
        .prop_map(
            |((tags, ip6, options, udp, tcp_options), (flags, ecn, segment, payload, seed))| {
                Shape {
                    tags,
                    ip6,
                    options,
                    udp,
                    tcp_options,
                    flags,
                    ecn,
                    segment,
                    payload,
                    seed,
                }
            },
        )
}

impl Shape {
    fn slow(&self) -> Slow {
        let link = eth(MacAddr::local(1), MacAddr::local(2));
        let (link_len, frame, l3_len) = match self.tags {
            0 => self.network(14, link),
            1 => self.network(18, link.vlan(5)),
            _ => self.network(22, link.qinq(6, 7)),
        };
        Slow {
            frame,
            ip: link_len,
            layer4: link_len + l3_len,
            udp: self.udp,
            segment: self.segment,
            ecn: self.ecn,
        }
    }

    fn network<L: LinkLayer + Carrier>(
        &self,
        link_len: usize,
        link: Builder<L>,
    ) -> (usize, Vec<u8>, usize) {
        if !self.ip6 {
            let options = vec![1; 4 * self.options];
            let ip = link
                .ip4([10, 0, 0, 1], [10, 9, 8, self.seed])
                .id(u16::from(self.seed) << 8 | 0xf0)
                .options(&options);
            return (link_len, self.transport(ip), 20 + options.len());
        }
        let (a, b) = ("2001:db8::1", "2001:db8::2");
        let parse = |text: &str| text.parse::<core::net::Ipv6Addr>().expect("an address");
        let ip = link.ip6(parse(a), parse(b));
        if self.options == 0 {
            return (link_len, self.transport(ip), 40);
        }
        let padding = [
            vec![1, (8 * self.options - 4) as u8],
            vec![0; 8 * self.options - 4],
        ]
        .concat();
        let ip = ip.destination_options(&padding);
        (link_len, self.transport(ip), 40 + 8 * self.options)
    }

    fn transport<L: NetworkLayer>(&self, ip: Builder<L>) -> Vec<u8> {
        let payload: Vec<u8> = (0..self.payload)
            .map(|i| (i * 31 + i / 251) as u8 ^ self.seed)
            .collect();
        if self.udp {
            return ip.udp(1000, 2000).payload(&payload).build();
        }
        ip.tcp(1000, 2000)
            .seq(0xffff_0000 | u32::from(self.seed))
            .flags(TcpFlags(self.flags))
            .options(&vec![1; 4 * self.tcp_options])
            .payload(&payload)
            .build()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn segments_are_what_the_slow_function_makes(shape in any_shape(), partial: bool) {
        let slow = shape.slow();
        let expected = slow.run();
        let mut harness = harness();
        let mut input = slow.packet(0, partial);
        // Link-layer padding belongs to no segment.
        input.bytes.extend_from_slice(&vec![0; usize::from(shape.seed % 3)]);
        let out = harness.run(vec![input]);
        if expected.len() * (slow.headers() + slow.segment).div_ceil(DATA_SIZE) > MAX_BUFFERS {
            prop_assert!(out.len() == expected.len() || harness.drops() == [("too-many-segments", 1)]);
            return Ok(());
        }
        prop_assert_eq!(harness.drops(), []);
        let plain: Vec<_> = out.iter().map(|out| &out.packet.bytes).collect();
        prop_assert_eq!(plain, expected.iter().collect::<Vec<_>>());
        for out in &out {
            prop_assert_eq!(out.packet.offload, None);
            prop_assert_eq!((out.packet.interface, out.packet.word), (3, 0));
            prop_assert!(out.packet.flags.contains(Flags::LINK_BROADCAST));
        }
        // A port that sums gets the same with the rest of the sum left to it.
        let out = harness.run(vec![slow.packet(1, partial)]);
        prop_assert_eq!(out.len(), expected.len());
        for (out, expected) in out.iter().zip(&expected) {
            let offload = out.packet.offload.expect("the sum is left");
            prop_assert_eq!(usize::from(offload.checksum_start), slow.layer4);
            prop_assert_eq!(usize::from(offload.checksum_field), slow.sum_at());
            prop_assert!(offload.checksum && offload.segmentation == Segmentation::None);
            let mut bytes = out.packet.bytes.clone();
            let mut sum = checksum(&bytes[slow.layer4..]);
            if slow.udp && sum == 0 {
                sum = 0xffff;
            }
            put(&mut bytes, slow.sum_at(), usize::from(sum));
            prop_assert_eq!(&bytes, expected);
        }
        prop_assert_eq!(harness.audit(), Ok(()));
    }

    #[test]
    fn damaged_trains_leave_once_or_are_dropped(
        shape in any_shape(), changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6), cut in 0usize..200
    ) {
        let shape = Shape { payload: shape.payload % 3000 + 1, ..shape };
        let slow = shape.slow();
        let mut packet = slow.packet(u32::from(shape.seed % 3), shape.flags & 1 == 0);
        for (at, value) in changes {
            if let Some(byte) = packet.bytes.get_mut(at) {
                *byte = value;
            }
        }
        if cut < 100 {
            packet.bytes.truncate(cut);
        }
        let mut harness = harness();
        let out = harness.run(vec![packet]);
        let drops = harness.drops();
        match &drops[..] {
            [] => prop_assert!(!out.is_empty()),
            [(name, 1)] => prop_assert!(out.is_empty() && *name != "undecided"),
            _ => prop_assert!(false, "{:?}", drops),
        }
        prop_assert_eq!(harness.audit(), Ok(()));
    }
}

fn plain_shape() -> Shape {
    Shape {
        tags: 0,
        ip6: false,
        options: 0,
        udp: false,
        tcp_options: 3,
        flags: 0x98,
        ecn: true,
        segment: 1448,
        payload: 4000,
        seed: 1,
    }
}

#[test]
fn flags_of_the_ends_stay_at_the_ends() {
    let shape = Shape {
        flags: 0x99,
        ..plain_shape()
    };
    let mut harness = harness();
    let flags = |ecn| {
        let slow = Shape {
            ecn,
            ..shape.clone()
        }
        .slow();
        slow.packet(0, true)
    };
    let out = harness.run(vec![flags(true), flags(false)]);
    let seen: Vec<u8> = out
        .iter()
        .map(|out| out.packet.bytes[14 + 20 + 13])
        .collect();
    // CWR is 0x80, ACK 0x10, PSH and FIN 0x09. Without the mark (accurate ECN, RFC 9768) CWR is part of a counter.
    assert_eq!(seen, [0x90, 0x10, 0x19, 0x90, 0x90, 0x99]);
    let ids: Vec<usize> = out.iter().map(|out| word(&out.packet.bytes, 18)).collect();
    assert_eq!(ids, [0x1f0, 0x1f1, 0x1f2, 0x1f0, 0x1f1, 0x1f2]);
    harness.audit().expect("balanced");
}

#[test]
fn trains_above_64_kib_have_no_length_of_their_own() {
    let shape = Shape {
        payload: 150_000,
        ..plain_shape()
    };
    for ip6 in [false, true] {
        let mut slow = Shape {
            ip6,
            ..shape.clone()
        }
        .slow();
        let at = if ip6 { 18 } else { 16 };
        put(&mut slow.frame, at, 0);
        // The slow function starts from the header as it came.
        let sum_at = 14 + 10;
        if !ip6 {
            put(&mut slow.frame, sum_at, 0);
            let sum = checksum(&slow.frame[14..34]);
            put(&mut slow.frame, sum_at, usize::from(sum));
        }
        let mut harness = harness();
        let out = harness.run(vec![slow.packet(0, true)]);
        let expected = slow.run();
        assert_eq!(out.len(), 104);
        assert!(
            out.iter()
                .zip(expected)
                .all(|(out, expected)| out.packet.bytes == expected)
        );
        harness.audit().expect("balanced");
    }
}

#[test]
fn datagrams_without_checksum_stay_without() {
    let slow = Shape {
        udp: true,
        ..plain_shape()
    }
    .slow();
    for port in [0, 1] {
        let mut packet = slow.packet(port, false);
        put(&mut packet.bytes, slow.sum_at(), 0);
        let mut harness = harness();
        let out = harness.run(vec![packet]);
        assert_eq!(out.len(), 3);
        assert!(
            out.iter()
                .all(|out| word(&out.packet.bytes, slow.sum_at()) == 0)
        );
        assert!(out.iter().all(|out| out.packet.offload.is_none()));
        harness.audit().expect("balanced");
    }
}

#[test]
fn what_is_no_train_keeps_its_place() {
    let slow = plain_shape().slow();
    let small = |mark: u8| TestPacket {
        bytes: vec![mark; 60],
        ..TestPacket::default()
    };
    let mut harness = harness();
    let out = harness.run(vec![small(1), slow.packet(0, true), small(2)]);
    let lengths: Vec<usize> = out.iter().map(|out| out.packet.bytes.len()).collect();
    assert_eq!(lengths, [60, 1514, 1514, 1170, 60]);
    assert_eq!((out[0].packet.bytes[0], out[4].packet.bytes[0]), (1, 2));
    harness.audit().expect("balanced");
}

#[test]
fn a_train_of_headers_alone_is_one_packet() {
    let mut slow = plain_shape().slow();
    slow.frame.truncate(slow.headers());
    put(&mut slow.frame, 16, 52);
    put(&mut slow.frame, 24, 0);
    let sum = checksum(&slow.frame[14..34]);
    put(&mut slow.frame, 24, usize::from(sum));
    let mut harness = harness();
    let out = harness.run(vec![slow.packet(0, true)]);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].packet.bytes.len(), 66);
    harness.audit().expect("balanced");
}

#[test]
fn bad_trains_are_dropped() {
    let slow = plain_shape().slow();
    let train = slow.packet(0, true);
    let with = |change: &dyn Fn(&mut TestPacket, &mut Offload)| {
        let mut packet = train.clone();
        let mut offload = packet.offload.expect("a train");
        change(&mut packet, &mut offload);
        packet.offload = Some(offload);
        packet
    };
    // Headers that leave less than half of a buffer for payload.
    let long = [&[60, 127, 1, 255][..], &[0; 1020]].concat();
    let mut extended = Shape {
        ip6: true,
        ..plain_shape()
    }
    .slow();
    extended.frame.splice(54..54, long);
    extended.frame[20] = 60;
    extended.frame[54] = 6;
    extended.layer4 += 1024;
    put(&mut extended.frame, 18, 1024 + 32 + 4000);
    let extended = extended.packet(0, true);
    let bad = vec![
        with(&|_, offload| offload.segment_size = 0),
        with(&|_, offload| offload.segmentation = Segmentation::Tcp6),
        with(&|_, offload| offload.segmentation = Segmentation::Udp),
        with(&|_, offload| offload.checksum_start += 2),
        with(&|_, offload| offload.checksum_field += 2),
        // Data offset beyond the packet's headers, and below the minimum.
        with(&|packet, _| packet.bytes.truncate(60)),
        with(&|packet, _| packet.bytes[46] = 0x40),
        // A fragment; another protocol; more than there is; cut inside the headers.
        with(&|packet, _| packet.bytes[20] = 0x20),
        with(&|packet, _| packet.bytes[23] = 47),
        with(&|packet, _| put(&mut packet.bytes, 16, 5000)),
        with(&|packet, _| put(&mut packet.bytes, 16, 40)),
        with(&|packet, _| packet.bytes.truncate(20)),
        with(&|packet, _| packet.bytes.clear()),
        // Longer than a length field can say.
        with(&|packet, offload| {
            packet.bytes.resize(70_000, 0);
            put(&mut packet.bytes, 16, 0);
            offload.segment_size = u16::MAX;
        }),
        extended,
    ];
    let count = bad.len() as u64;
    let mut harness = harness();
    assert_eq!(harness.run(bad), []);
    assert_eq!(harness.drops(), [("malformed", count)]);
    let many = with(&|_, offload| offload.segment_size = 3);
    assert_eq!(harness.run(vec![many]), []);
    assert_eq!(
        harness.drops(),
        [("malformed", count), ("too-many-segments", 1)]
    );
    harness.audit().expect("balanced");
}

#[test]
fn an_exhausted_pool_costs_the_train_and_nothing_else() {
    // 4096 buffers: a train of 1000 segments and the three buffers that it comes in fit four times and not a fifth.
    let shape = Shape {
        segment: 4,
        payload: 4000,
        ..plain_shape()
    };
    let mut harness = harness();
    let out = harness.run(vec![shape.slow().packet(0, true); 5]);
    assert_eq!(harness.drops(), [("no-buffers", 1)]);
    assert_eq!(out.len(), 4000);
    let small = plain_shape().slow().packet(0, true);
    assert_eq!(harness.run(vec![small]).len(), 3, "the buffers are back");
    harness.audit().expect("balanced");
}
