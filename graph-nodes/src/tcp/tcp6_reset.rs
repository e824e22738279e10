//! `tcp6-reset`: tells who sent a TCP segment over IPv6 that nobody takes it, as a closed port does.
//!
//! The reset comes from the address and port that the segment was for. Resets are not answered, nor fragments, whose length and
//! checksum nobody knows.
//!
//! - Input: packets at their IPv6 header; word unused; interface = the one that received the packet.
//! - Output: TCP resets at their IPv6 header, flag LOCAL; word unused.
//! - Reads: snapshot.icmp
//! - State: the worker's bucket of ICMP errors, shared with `icmp6-error`
//! - Standard: RFC 9293 section 3.10.7.1, RFC 1122 section 4.2.3.10 (nothing to many)
//! - Cost: exception path

use core::net::Ipv6Addr;

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};
use wire::ip6::{DEFAULT_EXTENSION_LIMIT, walk_extensions};
use wire::{Header, Ip6Header, IpProtocol, TcpFlags, TcpHeader};

use super::{Segment, write};
use crate::icmp::{TTL, errors_left, take_error};
use crate::ip4::payload;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `tcp6-reset` sends packets.
    pub enum Next { Lookup => "ip6-lookup" }
}

dataplane::drop_reasons! {
    /// Why `tcp6-reset` drops packets without an answer.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IPv6 and TCP header, or is shorter than they say",
        Local = "local": "The packet was made by this node",
        NotTcp = "not-tcp": "The packet is not TCP: a defect of the node before, please report it",
        Fragment = "fragment": "The packet is a fragment of a segment",
        AboutReset = "about-reset": "The segment is a reset itself",
        ToMany = "to-many": "The packet was sent to a multicast address, or in a broadcast or multicast frame",
        BadSource = "bad-source": "The packet's source address does not name one node",
        BadChecksum = "bad-checksum": "The TCP checksum is wrong",
        RateLimited = "rate-limited": "This worker has sent as many resets and ICMP errors as it may",
        NoBuffer = "no-buffer": "There was no buffer for the reset",
    }
}

/// See the module.
#[derive(Default)]
pub struct Tcp6Reset;

/// Bytes of a reset.
const LENGTH: usize = Ip6Header::LEN + TcpHeader::LEN;

impl Node<Snapshot> for Tcp6Reset {
    const NAME: &'static str = "tcp6-reset";
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
    let (header, rest) = Ip6Header::parse(cx.buffers.bytes(packet)).map_err(|_| Drop::Truncated)?;
    let payload_length = usize::from(header.payload_length.get());
    let head = &rest[..rest.len().min(payload_length)];
    let chain = walk_extensions(header.next_header, head, DEFAULT_EXTENSION_LIMIT);
    if chain.fault.is_some() || Ip6Header::LEN + payload_length > cx.buffers.total_length(packet) {
        return Err(Drop::Truncated);
    }
    if chain.fragment.is_some_and(|(part, _)| !part.is_atomic()) {
        return Err(Drop::Fragment);
    }
    if chain.protocol != IpProtocol::TCP {
        return Err(Drop::NotTcp);
    }
    let transport = head.get(chain.offset..).unwrap_or_default();
    let segment = Segment::read(transport).ok_or(Drop::Truncated)?;
    let (header, skip) = (*header, Ip6Header::LEN + chain.offset);
    let length = payload_length - chain.offset;
    if segment.header < TcpHeader::LEN || segment.header > length {
        return Err(Drop::Truncated);
    }
    if segment.flags.contains(TcpFlags::RST) {
        return Err(Drop::AboutReset);
    }
    let (source, destination) = (header.source(), header.destination());
    if destination.is_multicast() || packet.flags().contains(Flags::LINK_BROADCAST) {
        return Err(Drop::ToMany);
    }
    if source.is_unspecified() || source.is_multicast() || source.is_loopback() {
        return Err(Drop::BadSource);
    }
    // Before the look over the payload, so that a flood costs little; taken when the answer is certain.
    if errors_left(cx) == 0 {
        return Err(Drop::RateLimited);
    }
    let checked = Flags::CHECKSUM_GOOD.union(Flags::OFFLOAD);
    if !packet.flags().intersects(checked) {
        // The payload of an IPv6 packet is shorter than 65536 bytes.
        let pseudo = header.pseudo_header(IpProtocol::TCP, length as u32);
        if !payload::add(pseudo, cx.buffers, packet, skip, length).is_valid() {
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
    (from, to): (Ipv6Addr, Ipv6Addr),
    cx: &mut Context<'_, Snapshot>,
) -> Result<Descriptor, Drop> {
    let header = wire::ip6::header(from, to, IpProtocol::TCP, TTL, TcpHeader::LEN);
    let mut reset = cx.buffers.alloc().ok_or(Drop::NoBuffer)?;
    if !reset.extend(LENGTH) {
        cx.buffers.free(reset);
        return Err(Drop::NoBuffer);
    }
    if !take_error(cx) {
        cx.buffers.free(reset);
        return Err(Drop::RateLimited);
    }
    if let Ok((place, rest)) = Ip6Header::split_mut(cx.buffers.bytes_mut(&mut reset)) {
        *place = header;
        let pseudo = header.pseudo_header(IpProtocol::TCP, TcpHeader::LEN as u32);
        write(tcp, pseudo, rest);
    }
    reset.interface = packet.interface;
    reset.set_flags(Flags::LOCAL);
    if let Some(trace) = cx.buffers.trace_number(packet) {
        cx.buffers.set_trace_number(&mut reset, trace);
    }
    Ok(reset)
}

#[cfg(test)]
mod tests {
    use dataplane::{NodeHarness, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Builder, Ip6, ip6};

    use super::*;
    use crate::snapshot::{IcmpLimits, Interface, WorkerState};

    const PEER: &str = "2001:db8::99";
    const FAR: &str = "2001:db8:5::5";

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    fn harness() -> NodeHarness<Snapshot> {
        let limits = IcmpLimits {
            errors_per_second: 10,
            burst: 3,
        };
        let snapshot = Snapshot {
            icmp: limits,
            interfaces: vec![Interface {
                up: true,
                ..Interface::absent()
            }],
            ..Snapshot::default()
        };
        NodeHarness::new(|| Tcp6Reset, snapshot, move || WorkerState::new(limits))
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
                assert_eq!((one.node, out.len()), ("ip6-lookup", 0));
                Ok(one.packet)
            }
            (None, [(reason, 1)]) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn to(destination: &str) -> Builder<Ip6> {
        ip6(address(PEER), address(destination))
    }

    fn answer(seq: u32, ack: u32, flags: TcpFlags) -> Vec<u8> {
        let packet = ip6(address(FAR), address(PEER))
            .hop_limit(64)
            .tcp(80, 40000);
        packet.seq(seq).ack(ack).flags(flags).window(0).build()
    }

    #[test]
    fn segments_are_answered_as_by_a_closed_port() {
        let (syn, ack) = (TcpFlags::SYN, TcpFlags::ACK);
        let back = TcpFlags::RST | ack;
        let segment = |flags| to(FAR).tcp(40000, 80).seq(1000).ack(77).flags(flags);
        let behind = to(FAR).destination_options(&[0; 6]).tcp(40000, 80);
        let atomic = to(FAR).fragment(7, 0, false).tcp(40000, 80);
        for (bytes, expected) in [
            (segment(syn).build(), answer(0, 1001, back)),
            (
                segment(syn).payload(b"early").build(),
                answer(0, 1006, back),
            ),
            (segment(TcpFlags::FIN).build(), answer(0, 1001, back)),
            (
                segment(TcpFlags::NONE).payload(&[9; 5000]).build(),
                answer(0, 6000, back),
            ),
            (
                segment(ack).payload(b"data").build(),
                answer(77, 0, TcpFlags::RST),
            ),
            (segment(syn | ack).build(), answer(77, 0, TcpFlags::RST)),
            (
                behind.seq(5).flags(syn).payload(b"abc").build(),
                answer(0, 9, back),
            ),
            (atomic.seq(5).flags(syn).build(), answer(0, 6, back)),
            (segment(syn).pad_to(80).build(), answer(0, 1001, back)),
        ] {
            let got = run(packet(bytes)).expect("an answer");
            assert_eq!(got.bytes, expected);
            assert!(got.flags.contains(Flags::LOCAL));
            assert_eq!((got.interface, got.offload), (0, None));
        }
    }

    #[test]
    fn when_nothing_is_said() {
        let from = |source: &str| packet(ip6(address(source), address(FAR)).tcp(1, 2).build());
        let flagged = |flags| TestPacket {
            flags,
            ..from(PEER)
        };
        let whole = to(FAR).tcp(1, 2).payload(b"data").build();
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("bytes") ^= 1;
        let cut = |length: usize| packet(whole[..length].to_vec());
        let fragment = |offset, more| {
            let fragment = to(FAR).fragment(7, offset, more);
            packet(fragment.raw(6, &[0; 24]).build())
        };
        let reset = to(FAR).tcp(1, 2).flags(TcpFlags::RST).build();
        for (packet, reason) in [
            (packet(reset), "about-reset"),
            (flagged(Flags::LOCAL), "local"),
            (packet(to(FAR).udp(1, 2).build()), "not-tcp"),
            (fragment(0, true), "fragment"),
            (fragment(1, false), "fragment"),
            (packet(to("ff02::1").tcp(1, 2).build()), "to-many"),
            (flagged(Flags::LINK_BROADCAST), "to-many"),
            (from("::"), "bad-source"),
            (from("::1"), "bad-source"),
            (from("ff02::1"), "bad-source"),
            (packet(damaged), "bad-checksum"),
            (cut(63), "truncated"),
            (cut(59), "truncated"),
            (cut(39), "truncated"),
            (cut(0), "truncated"),
            (
                packet(to(FAR).tcp(1, 2).data_offset(4).build()),
                "truncated",
            ),
            (
                packet(to(FAR).tcp(1, 2).data_offset(6).build()),
                "truncated",
            ),
        ] {
            assert_eq!(run(packet.clone()), Err(reason), "{packet:?}");
        }
    }

    #[test]
    fn resets_are_limited() {
        let mut harness = harness();
        let burst = || vec![packet(to(FAR).tcp(1, 2).build()); 5];
        assert_eq!(harness.run(burst()).len(), 3);
        assert_eq!(harness.drops(), [("rate-limited", 2)]);
        harness.set_time(200_000_000);
        assert_eq!(harness.run(burst()).len(), 2);
        harness.audit().expect("balanced");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_packet_has_one_fate(mut bytes in prop::collection::vec(any::<u8>(), 0..200), likely: bool) {
            if likely && bytes.len() > 40 {
                let length = bytes.len() as u16 - 40;
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                bytes[6] = 6;
                bytes[8] = 0x20;
                bytes[24] = 0x20;
            }
            let flags = if likely { Flags::CHECKSUM_GOOD } else { Flags::default() };
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, flags, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            for reset in out {
                let header = wire::ip6::validate(&reset.packet.bytes).expect("a whole packet");
                let pseudo = header.pseudo_header(IpProtocol::TCP, 20);
                prop_assert!(pseudo.bytes(&reset.packet.bytes[40..]).is_valid());
            }
            harness.audit().expect("balanced");
        }
    }
}
