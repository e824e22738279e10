//! `ip4-fragment`: cuts packets that are longer than their next hop's MTU.
//!
//! Either all fragments of a packet are sent or, where buffers run out, none. A packet that is a fragment itself is cut the
//! same way: offsets add up, and only the last part of a last fragment says that nothing follows. Trains do not come here:
//! `ip4-rewrite` has them segmented, or tells their sender the MTU.
//!
//! - Input: packets at their IPv4 header, which allows fragmentation, time to live not yet decremented; word = adjacency.
//! - Output: fragments at their IPv4 header, in order; word = adjacency.
//! - Reads: snapshot.forwarding
//! - State: the fragments of the packet in hand (capacity fixed)
//! - Standard: RFC 791 sections 2.3 and 3.2, RFC 1812 section 4.2.2.7
//! - Cost: exception path; one copy

use dataplane::{ChainBuilder, Context, DATA_SIZE, Descriptor, Frame, Node, Segmentation, Verdict};
use wire::ip4::{DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, MORE_FRAGMENTS, RESERVED_FLAG, option};
use wire::{Header, Ip4Header, checksum};

use crate::output::checksum as layer4;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-fragment` sends packets.
    pub enum Next { Rewrite => "ip4-rewrite" }
}

dataplane::drop_reasons! {
    /// Why `ip4-fragment` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet is shorter than its headers say",
        MtuTooSmall = "mtu-too-small": "The next hop's MTU has no room for the header and eight bytes",
        TooManyFragments = "too-many-fragments": "The packet would become more fragments than are made of one",
        BeyondEnd = "beyond-end": "The fragment reaches beyond the longest packet there can be",
        BadOffload = "bad-offload": "The checksum to be filled in lies outside of the packet, or the packet is a train",
        NoBuffers = "no-buffers": "There were not enough buffers for all fragments",
    }
}

/// Fragments that one packet can become: as many as 65535 bytes make on a link with the smallest MTU, 68 bytes (RFC 791).
pub const MAX_FRAGMENTS: usize = 1366;

/// The longest IPv4 header, in bytes.
const MAX_HEADER: usize = 60;

/// See the module.
pub struct Ip4Fragment {
    made: Vec<Descriptor>,
}

impl Default for Ip4Fragment {
    fn default() -> Self {
        Self {
            made: Vec::with_capacity(MAX_FRAGMENTS),
        }
    }
}

impl Node<Snapshot> for Ip4Fragment {
    const NAME: &'static str = "ip4-fragment";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        for at in 0..frame.len() {
            let (packets, verdicts) = frame.parts_mut();
            match self.cut(&mut packets[at], cx) {
                Ok(()) => {
                    for fragment in self.made.drain(..) {
                        cx.emit(Next::Rewrite, fragment);
                    }
                    let original = frame.take(at);
                    cx.buffers.free(original);
                }
                Err(reason) => {
                    for fragment in self.made.drain(..) {
                        cx.buffers.free(fragment);
                    }
                    verdicts[at] = Verdict::discard(reason);
                }
            }
        }
    }
}

/// A header for fragments.
struct Head {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl Ip4Fragment {
    /// Makes all fragments of a packet, which stays as it is but for a checksum that was left undone.
    fn cut(&mut self, packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<(), Drop> {
        let header = Ip4Header::parse(cx.buffers.bytes(packet)).map_err(|_| Drop::Truncated)?;
        let header = *header.0;
        let (header_len, total_length) = (header.header_len(), header.total_length.get().into());
        if total_length < header_len || total_length > cx.buffers.total_length(packet) {
            return Err(Drop::Truncated);
        }
        if let Some(offload) = cx.buffers.offload(packet) {
            // The sum reaches to the end of the packet, where padding must not be.
            cx.buffers.truncate_total(packet, total_length);
            if offload.segmentation != Segmentation::None
                || offload.checksum && !layer4::fill(cx.buffers, packet, &offload)
            {
                return Err(Drop::BadOffload);
            }
            cx.buffers.set_offload(packet, None);
        }
        let payload = total_length - header_len;
        let first_unit = usize::from(header.flags_fragment.get() & FRAGMENT_OFFSET_MASK);
        if first_unit * 8 + payload > usize::from(u16::MAX) {
            return Err(Drop::BeyondEnd);
        }
        let adjacency = cx.snapshot.forwarding.adjacency(packet.word);
        let mtu = usize::from(adjacency.hot().mtu());
        let bytes = cx.buffers.bytes(packet);
        let heads = [first_head(bytes, header_len), later_head(bytes, header_len)];
        let mut done = 0;
        while done < payload || self.made.is_empty() {
            let head = &heads[usize::from(done > 0)];
            let room = mtu.checked_sub(head.len).ok_or(Drop::MtuTooSmall)?;
            let left = payload - done;
            // Parts before the last are whole units of eight bytes.
            let part = if left <= room { left } else { room & !7 };
            if part == 0 && left > 0 {
                return Err(Drop::MtuTooSmall);
            }
            if self.made.len() == MAX_FRAGMENTS {
                return Err(Drop::TooManyFragments);
            }
            let unit = first_unit + done / 8;
            let more = done + part < payload || header.more_fragments();
            let mut head = Head {
                bytes: head.bytes,
                len: head.len,
            };
            head.complete(part, unit, more);
            let fragment = copy(packet, header_len + done, part, &head, cx);
            self.made.push(fragment.ok_or(Drop::NoBuffers)?);
            done += part;
        }
        Ok(())
    }
}

impl Head {
    /// Fills in what differs between fragments.
    fn complete(&mut self, part: usize, unit: usize, more: bool) {
        let (len, bytes) = (self.len, &mut self.bytes);
        bytes[0] = 0x40 | (len / 4) as u8;
        bytes[2..4].copy_from_slice(&((len + part) as u16).to_be_bytes());
        let kept = u16::from_be_bytes([bytes[6], bytes[7]]) & (RESERVED_FLAG | DONT_FRAGMENT);
        let more = if more { MORE_FRAGMENTS } else { 0 };
        bytes[6..8].copy_from_slice(&(kept | more | unit as u16).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = checksum::checksum(&bytes[..len]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The first fragment's header: all options.
fn first_head(packet: &[u8], header_len: usize) -> Head {
    let mut bytes = [0; MAX_HEADER];
    let len = header_len.min(MAX_HEADER).min(packet.len());
    bytes[..len].copy_from_slice(&packet[..len]);
    Head { bytes, len }
}

/// The other fragments' header: the options that say that they are to be copied (RFC 791 section 3.1), filled up with
/// end-of-list bytes. What stands behind an option without a sane length is left behind.
fn later_head(packet: &[u8], header_len: usize) -> Head {
    const COPIED: u8 = 0x80;
    let mut bytes = [0; MAX_HEADER];
    let mut len = Ip4Header::LEN;
    bytes[..len].copy_from_slice(&packet[..len]);
    let mut rest = packet.get(len..header_len).unwrap_or_default();
    while let [kind, after @ ..] = rest {
        rest = match *kind {
            option::END => break,
            option::NO_OPERATION => after,
            kind => {
                let length = after.first().map_or(0, |length| usize::from(*length));
                let Some((this, next)) = rest.split_at_checked(length).filter(|_| length >= 2)
                else {
                    break;
                };
                if kind & COPIED != 0 {
                    // Not longer than the options that it is taken from.
                    bytes[len..len + length].copy_from_slice(this);
                    len += length;
                }
                next
            }
        };
    }
    Head {
        bytes,
        len: len.next_multiple_of(4),
    }
}

/// A fragment: a header and part of a packet's bytes, in as many buffers as it takes.
fn copy(
    packet: &Descriptor,
    mut from: usize,
    part: usize,
    head: &Head,
    cx: &mut Context<'_, Snapshot>,
) -> Option<Descriptor> {
    let mut fragment = cx.buffers.alloc()?;
    let count = part.min(DATA_SIZE - head.len);
    let extended = fragment.extend(head.len + count);
    debug_assert!(extended, "an empty buffer holds DATA_SIZE bytes");
    let (front, back) = cx.buffers.bytes_mut(&mut fragment).split_at_mut(head.len);
    front.copy_from_slice(&head.bytes[..head.len]);
    cx.buffers.copy_out(packet, from, back);
    let mut left = part - count;
    from += count;
    let mut chain = ChainBuilder::new(fragment);
    while left > 0 {
        let Some(mut segment) = cx.buffers.alloc() else {
            cx.buffers.free(chain.finish());
            return None;
        };
        let count = left.min(DATA_SIZE);
        let extended = segment.extend(count);
        debug_assert!(extended, "an empty buffer holds DATA_SIZE bytes");
        cx.buffers
            .copy_out(packet, from, cx.buffers.bytes_mut(&mut segment));
        chain.push(cx.buffers, segment);
        from += count;
        left -= count;
    }
    let mut fragment = chain.finish();
    fragment.interface = packet.interface;
    fragment.word = packet.word;
    // Who made the packet, and how it came, holds for its parts; a chain and a trace are marked by the pool.
    fragment.set_flags(packet.flags());
    fragment.clear_flags(dataplane::Flags::TRACED.union(dataplane::Flags::OFFLOAD));
    if let Some(trace) = cx.buffers.trace_number(packet) {
        cx.buffers.set_trace_number(&mut fragment, trace);
    }
    Some(fragment)
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use dataplane::{Flags, NodeHarness, Offload, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::MacAddr;
    use wire::builder::ip4;
    use wire::ip4::Ip4Packet;

    use super::*;
    use crate::fib::{
        ForwardingSize, ForwardingWriter, Link, NeighbourKey, NextHop, RouteAction, RouteTarget,
    };
    use crate::snapshot::{IcmpLimits, Tags, WorkerState};

    const A: [u8; 4] = [10, 0, 0, 2];
    const B: [u8; 4] = [20, 0, 0, 9];

    /// A harness, and the number of an adjacency with this MTU.
    fn harness(mtu: u16) -> (NodeHarness<Snapshot>, u32) {
        let size = ForwardingSize {
            groups: 4,
            adjacencies: 4,
            buckets: 4,
        };
        let mut writer = ForwardingWriter::new(size, 4);
        writer.add_vrf(0).expect("memory");
        let link = Link {
            port: PortId(0),
            mtu,
            vrf: 0,
            mac: MacAddr::local(1),
            tags: Tags::default(),
        };
        writer.set_link(0, link).expect("a new link");
        let hop = NextHop {
            neighbour: NeighbourKey {
                interface: 0,
                address: IpAddr::from([10, 0, 1, 1]),
            },
            weight: 1,
        };
        let target = RouteTarget::Forward(vec![hop]);
        writer
            .set_route(0, IpAddr::from([20, 0, 0, 0]), 8, target)
            .expect("room");
        let vrf = writer.vrf(0).expect("the VRF");
        let group = writer
            .forwarding()
            .group(vrf.ip4.lookup(u32::from_be_bytes(B)));
        assert_eq!(group.action(), RouteAction::Forward);
        let snapshot = Snapshot {
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        let harness = NodeHarness::new(Ip4Fragment::default, snapshot, state);
        (harness.expect("a harness"), group.payload())
    }

    fn run(mtu: u16, packet: TestPacket) -> Result<Vec<TestPacket>, &'static str> {
        let (mut harness, word) = harness(mtu);
        let packet = TestPacket { word, ..packet };
        let out = harness.run(vec![packet.clone()]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match &drops[..] {
            [] => {
                assert!(out.iter().all(|out| out.node == "ip4-rewrite"
                    && out.packet.word == word
                    && out.packet.interface == packet.interface));
                Ok(out.into_iter().map(|out| out.packet).collect())
            }
            [(reason, 1)] if out.is_empty() => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn packet(bytes: Vec<u8>) -> TestPacket {
        TestPacket {
            bytes,
            interface: 3,
            ..TestPacket::default()
        }
    }

    /// Puts fragments together as a host does: the payload, where it begins, and whether more follows.
    fn reassemble(fragments: &[TestPacket], mtu: usize) -> (Vec<u8>, usize, bool) {
        let mut payload = Vec::new();
        let mut start = None;
        let mut more = true;
        for fragment in fragments {
            assert!(fragment.bytes.len() <= mtu);
            wire::ip4::validate(&fragment.bytes).expect("a valid header");
            let parsed = Ip4Packet::parse(&fragment.bytes).expect("a packet");
            let offset = parsed.header.fragment_offset_bytes();
            let begin = *start.get_or_insert(offset);
            assert_eq!(offset - begin, payload.len(), "in order, without gaps");
            payload.extend_from_slice(parsed.payload);
            assert!(more, "nothing follows the last");
            more = parsed.header.more_fragments();
        }
        (payload, start.unwrap_or(0), more)
    }

    #[test]
    fn fragments_byte_for_byte() {
        let body: Vec<u8> = (0..50).collect();
        let original = ip4(A, B).ttl(9).tos(0x20).id(77).raw(17, &body).build();
        let got = run(44, packet(original)).expect("fragments");
        let part = |offset: u16, bytes: &[u8], more: bool| {
            let head = ip4(A, B).ttl(9).tos(0x20).id(77).fragment_offset(offset);
            let head = if more { head.more_fragments() } else { head };
            head.raw(17, bytes).build()
        };
        let expected = [
            part(0, &body[..24], true),
            part(3, &body[24..48], true),
            part(6, &body[48..], false),
        ];
        assert_eq!(got.len(), 3);
        for (got, expected) in got.iter().zip(expected) {
            assert_eq!(got.bytes, expected);
        }
    }

    #[test]
    fn only_copied_options_go_on() {
        // Record route (7) stays behind, router alert (148) and an unknown copied option (200) go on.
        let options = [7, 7, 4, 0, 0, 0, 0, 1, 148, 4, 0, 0, 200, 3, 9, 0];
        let original = ip4(A, B).options(&options).raw(17, &[5; 100]).build();
        let got = run(76, packet(original)).expect("fragments");
        let parsed: Vec<_> = got
            .iter()
            .map(|p| Ip4Packet::parse(&p.bytes).expect("a packet"))
            .collect();
        assert_eq!(parsed[0].options, options);
        assert_eq!(parsed[0].payload.len(), 40);
        for later in &parsed[1..] {
            assert_eq!(later.options, [148, 4, 0, 0, 200, 3, 9, 0]);
        }
        assert_eq!(parsed[1].payload.len(), 48);
        assert_eq!(reassemble(&got, 76).0, [5; 100]);
    }

    #[test]
    fn fragments_of_fragments_add_up() {
        for more in [false, true] {
            let head = ip4(A, B).id(5).fragment_offset(100);
            let head = if more { head.more_fragments() } else { head };
            let body: Vec<u8> = (0..1480).map(|i| (i / 3) as u8).collect();
            let got = run(576, packet(head.raw(17, &body).build())).expect("fragments");
            assert_eq!(reassemble(&got, 576), (body, 800, more));
        }
    }

    #[test]
    fn a_checksum_left_undone_is_filled_in_before_the_cut() {
        let udp = ip4(A, B).udp(1, 2).payload(&[9; 3001]);
        let finished = udp.build();
        let mut original = finished.clone();
        let pseudo = Ip4Header::view(&original)
            .expect("a header")
            .pseudo_header(3009)
            .folded();
        original[26..28].copy_from_slice(&pseudo.to_be_bytes());
        // Padding behind the packet takes no part.
        original.extend_from_slice(&[1, 2, 3]);
        let offload = Some(Offload {
            checksum: true,
            checksum_start: 20,
            checksum_field: 26,
            ..Offload::default()
        });
        let got = run(
            1500,
            TestPacket {
                offload,
                ..packet(original)
            },
        )
        .expect("fragments");
        assert_eq!(reassemble(&got, 1500).0, finished[20..]);
        assert!(got.iter().all(|part| part.offload.is_none()));
    }

    #[test]
    fn jumbo_links_get_chained_fragments() {
        let body: Vec<u8> = (0..60_000u32).map(|i| (i / 7) as u8).collect();
        let original = ip4(A, B).raw(17, &body).build();
        let flags = Flags::LOCAL;
        let got = run(
            9000,
            TestPacket {
                flags,
                ..packet(original)
            },
        )
        .expect("fragments");
        assert_eq!(got.len(), 7);
        assert!(got.iter().all(|part| part.flags.contains(Flags::LOCAL)));
        assert_eq!(reassemble(&got, 9000).0, body);
    }

    #[test]
    fn every_drop_has_its_reason() {
        let long = || packet(ip4(A, B).raw(17, &[0; 100]).build());
        let offload = |offload| TestPacket {
            offload: Some(offload),
            ..long()
        };
        let options = [1; 40];
        let beyond = ip4(A, B).fragment_offset(8191).raw(17, &[0; 100]).build();
        let widest = ip4(A, B).options(&[200, 40].into_iter().chain([0; 38]).collect::<Vec<_>>());
        for (mtu, packet, reason) in [
            (0, long(), "mtu-too-small"),
            (27, long(), "mtu-too-small"),
            (
                67,
                packet(ip4(A, B).options(&options).raw(17, &[0; 9]).build()),
                "mtu-too-small",
            ),
            (
                68,
                packet(widest.raw(17, &[0; 60_000]).build()),
                "too-many-fragments",
            ),
            (68, packet(beyond), "beyond-end"),
            (
                68,
                offload(Offload {
                    checksum: true,
                    checksum_start: 119,
                    checksum_field: 119,
                    ..Offload::default()
                }),
                "bad-offload",
            ),
            (
                68,
                offload(Offload {
                    segmentation: Segmentation::Udp,
                    segment_size: 20,
                    ..Offload::default()
                }),
                "bad-offload",
            ),
            (
                68,
                packet(ip4(A, B).total_length(121).raw(17, &[0; 100]).build()),
                "truncated",
            ),
            (
                68,
                packet(ip4(A, B).total_length(19).raw(17, &[0; 100]).build()),
                "truncated",
            ),
            (68, packet(Vec::new()), "truncated"),
        ] {
            assert_eq!(run(mtu, packet), Err(reason));
        }
    }

    #[test]
    fn without_buffers_for_all_none_is_sent() {
        // The pool has 4096 buffers: three packets of 65535 bytes become 1365 fragments each and need 33 each themselves.
        let (mut harness, word) = harness(68);
        let original = ip4(A, B).raw(17, &vec![0; 65_515]).build();
        let packets = vec![
            TestPacket {
                word,
                ..packet(original)
            };
            3
        ];
        assert_eq!(harness.run(packets).len(), 2 * 1365);
        assert_eq!(harness.drops(), [("no-buffers", 1)]);
        harness.audit().expect("balanced");
    }

    proptest! {
        // Each case builds its own tables.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn fragments_make_the_packet_again(
            length in 0usize..9000, mtu in 68u16..4000, offset in 0u16..6000, more: bool, words in 0usize..11
        ) {
            let body: Vec<u8> = (0..length).map(|i| (i * 13 + i / 256) as u8).collect();
            let head = ip4(A, B).options(&vec![1; words * 4]).fragment_offset(offset);
            let head = if more { head.more_fragments() } else { head };
            let got = run(mtu, packet(head.raw(17, &body).build())).expect("fragments");
            prop_assert_eq!(reassemble(&got, mtu.into()), (body, usize::from(offset) * 8, more));
        }

        #[test]
        fn every_packet_has_one_fate(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), likely: bool, mtu in 0u16..120, chain in 0usize..2) {
            if likely && bytes.len() > 20 {
                bytes[0] = 0x45 | bytes[0] & 11;
                let length = (bytes.len() as u16 + 3000 * chain as u16).to_be_bytes();
                bytes[2..4].copy_from_slice(&length);
                bytes[6] &= 0x0f;
            }
            bytes.resize(bytes.len() + 3000 * chain, 7);
            let (mut harness, word) = harness(mtu);
            let out = harness.run(vec![TestPacket { bytes, word, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert!(dropped <= 1 && out.is_empty() == (dropped == 1));
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            for fragment in out {
                prop_assert!(fragment.packet.bytes.len() <= usize::from(mtu));
                prop_assert!(wire::ip4::validate(&fragment.packet.bytes).is_ok());
            }
            harness.audit().expect("balanced");
        }
    }
}
