//! `tcp4-reset`: tells who sent a TCP segment over IPv4 that nobody takes it, as a closed port does.
//!
//! The reset comes from the address and port that the segment was for. Resets are not answered, nor fragments, whose length and
//! checksum nobody knows.
//!
//! - Input: packets at their IPv4 header; word unused; interface = the one that received the packet.
//! - Output: TCP resets at their IPv4 header, flag LOCAL; word = destination address.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: the worker's bucket of ICMP errors, shared with `icmp4-error`
//! - Standard: RFC 9293 section 3.10.7.1, RFC 1122 section 4.2.3.10 (nothing to many), RFC 6864 (identification 0 under DF)
//! - Cost: exception path

use core::net::Ipv4Addr;

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};
use wire::ip4::DONT_FRAGMENT;
use wire::{Header, Ip4Header, IpProtocol, TcpFlags, TcpHeader};

use super::{Segment, write};
use crate::icmp::icmp4_error::{is_broadcast, is_broadcast_anywhere};
use crate::icmp::{TTL, errors_left, take_error};
use crate::ip4::{address, payload};
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `tcp4-reset` sends packets.
    pub enum Next { Lookup => "ip4-lookup" }
}

dataplane::drop_reasons! {
    /// Why `tcp4-reset` drops packets without an answer.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IPv4 and TCP header, or is shorter than they say",
        Local = "local": "The packet was made by this node",
        NotTcp = "not-tcp": "The packet is not TCP: a defect of the node before, please report it",
        Fragment = "fragment": "The packet is a fragment of a segment",
        AboutReset = "about-reset": "The segment is a reset itself",
        ToMany = "to-many": "The packet was sent to a broadcast or multicast address",
        BadSource = "bad-source": "The packet's source address is not a host's",
        BadChecksum = "bad-checksum": "The TCP checksum is wrong",
        RateLimited = "rate-limited": "This worker has sent as many resets and ICMP errors as it may",
        NoBuffer = "no-buffer": "There was no buffer for the reset",
    }
}

/// See the module.
#[derive(Default)]
pub struct Tcp4Reset;

/// Bytes of a reset.
const LENGTH: usize = Ip4Header::LEN + TcpHeader::LEN;

impl Node<Snapshot> for Tcp4Reset {
    const NAME: &'static str = "tcp4-reset";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match reset(packet, cx) {
                Ok(reset) => {
                    let original = std::mem::replace(packet, reset);
                    cx.buffers.free(original);
                    Next::Lookup.into()
                }
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// The answer to a segment, where there is one.
fn reset(packet: &Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<Descriptor, Drop> {
    if packet.flags().contains(Flags::LOCAL) {
        return Err(Drop::Local);
    }
    let bytes = cx.buffers.bytes(packet);
    let (header, transport) = Ip4Header::parse(bytes).map_err(|_| Drop::Truncated)?;
    if header.protocol != IpProtocol::TCP {
        return Err(Drop::NotTcp);
    }
    if header.is_fragment() {
        return Err(Drop::Fragment);
    }
    let segment = Segment::read(transport).ok_or(Drop::Truncated)?;
    let header = *header;
    let length = header.payload_len();
    let whole = usize::from(header.total_length.get()) <= cx.buffers.total_length(packet);
    if !whole || segment.header < TcpHeader::LEN || segment.header > length {
        return Err(Drop::Truncated);
    }
    if segment.flags.contains(TcpFlags::RST) {
        return Err(Drop::AboutReset);
    }
    let (source, destination) = (header.src.get(), header.dst.get());
    if packet.flags().contains(Flags::LINK_BROADCAST)
        || address::is_multicast(destination)
        || destination == u32::MAX
    {
        return Err(Drop::ToMany);
    }
    if !address::is_host(source) {
        return Err(Drop::BadSource);
    }
    // Before the look into tables and over the payload, so that a flood costs little; taken when the answer is certain.
    if errors_left(cx) == 0 {
        return Err(Drop::RateLimited);
    }
    if is_broadcast(packet.interface, source, cx.snapshot) {
        return Err(Drop::BadSource);
    }
    if is_broadcast_anywhere(packet.interface, destination, cx.snapshot) {
        return Err(Drop::ToMany);
    }
    let checked = Flags::CHECKSUM_GOOD.union(Flags::OFFLOAD);
    if !packet.flags().intersects(checked) {
        // The payload of an IPv4 packet is shorter than 65536 bytes.
        let pseudo = header.pseudo_header(length as u16);
        let sum = payload::add(pseudo, cx.buffers, packet, header.header_len(), length);
        if !sum.is_valid() {
            return Err(Drop::BadChecksum);
        }
    }
    let answer = segment.reset(length);
    build(packet, answer, (destination, source), cx)
}

/// A packet around a TCP header, from one address to another, in a buffer of its own.
fn build(
    packet: &Descriptor,
    tcp: TcpHeader,
    (from, to): (u32, u32),
    cx: &mut Context<'_, Snapshot>,
) -> Result<Descriptor, Drop> {
    let mut header = wire::ip4::header(
        Ipv4Addr::from_bits(from),
        Ipv4Addr::from_bits(to),
        IpProtocol::TCP,
        TTL,
        TcpHeader::LEN,
    );
    header.flags_fragment.set(DONT_FRAGMENT);
    header.fill_checksum();
    let mut reset = cx.buffers.alloc().ok_or(Drop::NoBuffer)?;
    if !reset.extend(LENGTH) {
        cx.buffers.free(reset);
        return Err(Drop::NoBuffer);
    }
    if !take_error(cx) {
        cx.buffers.free(reset);
        return Err(Drop::RateLimited);
    }
    if let Ok((place, rest)) = Ip4Header::split_mut(cx.buffers.bytes_mut(&mut reset)) {
        *place = header;
        write(tcp, header.pseudo_header(TcpHeader::LEN as u16), rest);
    }
    reset.interface = packet.interface;
    reset.word = to;
    reset.set_flags(Flags::LOCAL);
    if let Some(trace) = cx.buffers.trace_number(packet) {
        cx.buffers.set_trace_number(&mut reset, trace);
    }
    Ok(reset)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use dataplane::{NodeHarness, Offload, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::MacAddr;
    use wire::builder::{Builder, Tcp, ip4};

    use super::*;
    use crate::fib::{ForwardingSize, ForwardingWriter, Link, RouteTarget};
    use crate::snapshot::{IcmpLimits, Interface, InterfaceAddress, Tags, WorkerState};

    const PEER: [u8; 4] = [10, 0, 0, 2];
    const FAR: [u8; 4] = [20, 0, 0, 9];

    /// Interface 0 has 10.0.0.1/24; 10.0.2.0/24 is connected to interface 2.
    fn harness() -> NodeHarness<Snapshot> {
        let up = |address: [u8; 4]| Interface {
            up: true,
            ip4: vec![InterfaceAddress {
                address: Ipv4Addr::from(address),
                prefix_len: 24,
            }],
            ..Interface::absent()
        };
        let size = ForwardingSize {
            groups: 16,
            adjacencies: 16,
            buckets: 16,
        };
        let mut writer = ForwardingWriter::new(size, 16);
        writer.add_vrf(0).expect("memory");
        let link = Link {
            port: PortId(2),
            mtu: 1500,
            vrf: 0,
            mac: MacAddr::local(2),
            tags: Tags::default(),
        };
        writer.set_link(2, link).expect("a new link");
        let connected = RouteTarget::Connected(2);
        writer
            .set_route(0, IpAddr::from([10, 0, 2, 0]), 24, connected)
            .expect("room");
        let limits = IcmpLimits {
            errors_per_second: 10,
            burst: 3,
        };
        let snapshot = Snapshot {
            icmp: limits,
            interfaces: vec![up([10, 0, 0, 1]), Interface::absent(), up([10, 0, 2, 1])],
            vrfs: vec![writer.vrf(0).expect("the VRF")],
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        NodeHarness::new(|| Tcp4Reset, snapshot, move || WorkerState::new(limits))
            .expect("a harness")
    }

    fn packet(bytes: Vec<u8>) -> TestPacket {
        TestPacket {
            bytes,
            ..TestPacket::default()
        }
    }

    fn run(packet: TestPacket) -> Result<TestPacket, &'static str> {
        let mut harness = harness();
        let mut out = harness.run(vec![packet]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match (out.pop(), &drops[..]) {
            (Some(one), []) => {
                assert_eq!((one.node, out.len()), ("ip4-lookup", 0));
                Ok(one.packet)
            }
            (None, [(reason, 1)]) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn segment(flags: TcpFlags) -> Builder<Tcp> {
        ip4(PEER, FAR).tcp(40000, 80).seq(1000).ack(77).flags(flags)
    }

    fn answer(seq: u32, ack: u32, flags: TcpFlags) -> Vec<u8> {
        let packet = ip4(FAR, PEER).ttl(64).dont_fragment().tcp(80, 40000);
        packet.seq(seq).ack(ack).flags(flags).window(0).build()
    }

    #[test]
    fn segments_are_answered_as_by_a_closed_port() {
        let (syn, fin, ack) = (TcpFlags::SYN, TcpFlags::FIN, TcpFlags::ACK);
        let back = TcpFlags::RST | ack;
        let with = |flags, payload: &[u8]| segment(flags).payload(payload).build();
        let options = segment(syn).options(&[2, 4, 5, 180]).build();
        for (bytes, expected) in [
            (with(syn, &[]), answer(0, 1001, back)),
            (options.clone(), answer(0, 1001, back)),
            (with(syn, b"early"), answer(0, 1006, back)),
            (with(syn | fin, b"x"), answer(0, 1003, back)),
            (with(fin, &[]), answer(0, 1001, back)),
            (with(TcpFlags::NONE, &[9; 1400]), answer(0, 2400, back)),
            (with(ack, b"data"), answer(77, 0, TcpFlags::RST)),
            (with(syn | ack, &[]), answer(77, 0, TcpFlags::RST)),
            (with(fin | ack, &[9; 5000]), answer(77, 0, TcpFlags::RST)),
            // Padding of the link is no part of the segment.
            (segment(syn).pad_to(60).build(), answer(0, 1001, back)),
            (
                segment(syn).seq(u32::MAX).payload(b"ab").build(),
                answer(0, 2, back),
            ),
        ] {
            let got = run(packet(bytes)).expect("an answer");
            assert_eq!(got.bytes, expected);
            assert!(got.flags.contains(Flags::LOCAL));
            let word = u32::from_be_bytes(PEER);
            assert_eq!((got.word, got.interface, got.offload), (word, 0, None));
        }
    }

    #[test]
    fn a_checksum_left_undone_is_not_looked_at() {
        let mut bytes = segment(TcpFlags::SYN).build();
        bytes[36..38].fill(0);
        assert_eq!(run(packet(bytes.clone())), Err("bad-checksum"));
        let offload = Some(Offload {
            checksum: true,
            checksum_start: 20,
            checksum_field: 36,
            ..Offload::default()
        });
        let got = run(TestPacket {
            offload,
            ..packet(bytes)
        });
        let expected = answer(0, 1001, TcpFlags::RST | TcpFlags::ACK);
        assert_eq!(got.expect("an answer").bytes, expected);
    }

    #[test]
    fn when_nothing_is_said() {
        let from = |source: [u8; 4]| packet(ip4(source, FAR).tcp(1, 2).build());
        let to = |destination: [u8; 4]| packet(ip4(PEER, destination).tcp(1, 2).build());
        let flagged = |flags| TestPacket {
            flags,
            ..from(PEER)
        };
        let whole = segment(TcpFlags::SYN).payload(b"data").build();
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("bytes") ^= 1;
        let fragment = ip4(PEER, FAR).more_fragments().tcp(1, 2).build();
        let later = ip4(PEER, FAR).fragment_offset(1).raw(6, &[0; 20]).build();
        for (packet, reason) in [
            (packet(segment(TcpFlags::RST).build()), "about-reset"),
            (
                packet(segment(TcpFlags::RST | TcpFlags::ACK).build()),
                "about-reset",
            ),
            (flagged(Flags::LOCAL), "local"),
            (packet(ip4(PEER, FAR).udp(1, 2).build()), "not-tcp"),
            (packet(fragment), "fragment"),
            (packet(later), "fragment"),
            (to([224, 0, 0, 1]), "to-many"),
            (to([255; 4]), "to-many"),
            (to([10, 0, 0, 255]), "to-many"),
            (to([10, 0, 2, 255]), "to-many"),
            (flagged(Flags::LINK_BROADCAST), "to-many"),
            (from([0; 4]), "bad-source"),
            (from([127, 0, 0, 1]), "bad-source"),
            (from([224, 0, 0, 1]), "bad-source"),
            (from([10, 0, 0, 255]), "bad-source"),
            (packet(damaged), "bad-checksum"),
            (packet(whole[..43].to_vec()), "truncated"),
            (packet(whole[..39].to_vec()), "truncated"),
            (packet(whole[..19].to_vec()), "truncated"),
            (packet(Vec::new()), "truncated"),
            (
                packet(segment(TcpFlags::SYN).data_offset(4).build()),
                "truncated",
            ),
            (
                packet(segment(TcpFlags::SYN).data_offset(6).build()),
                "truncated",
            ),
        ] {
            assert_eq!(run(packet.clone()), Err(reason), "{packet:?}");
        }
    }

    #[test]
    fn resets_are_limited() {
        let mut harness = harness();
        let burst = || vec![packet(segment(TcpFlags::SYN).build()); 5];
        assert_eq!(harness.run(burst()).len(), 3);
        assert_eq!(harness.drops(), [("rate-limited", 2)]);
        harness.set_time(100_000_000);
        assert_eq!(harness.run(burst()).len(), 1);
        harness.audit().expect("balanced");
    }

    proptest! {
        // Each case builds its own tables.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_packet_has_one_fate(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), likely: bool) {
            if likely && bytes.len() > 40 {
                let total = bytes.len() as u16;
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&total.to_be_bytes());
                bytes[6..8].fill(0);
                bytes[9] = 6;
                bytes[12] = 10;
                bytes[16] = 20;
            }
            let offload = Some(Offload { checksum: true, checksum_start: 20, checksum_field: 36, ..Offload::default() });
            let offload = offload.filter(|_| likely);
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, offload, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            for reset in out {
                let header = wire::ip4::validate(&reset.packet.bytes).expect("a whole packet");
                prop_assert!(header.pseudo_header(20).bytes(&reset.packet.bytes[20..]).is_valid());
            }
            harness.audit().expect("balanced");
        }
    }
}
