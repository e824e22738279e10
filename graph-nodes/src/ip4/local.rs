//! `ip4-local`: delivers IPv4 packets that are for this node.
//!
//! Nothing here listens on UDP or TCP ports, so their senders are told so, once the packet's own checksum shows that it is what
//! they sent. Fragments are not put together again: they end in a drop with a counter of its own.
//!
//! - Input: packets at their IPv4 header, validated by `ip4-input`; word unused.
//! - Output: word = the error to `icmp4-error`; unused to `icmp4-input`.
//! - Reads: snapshot.interfaces
//! - State: none
//! - Standard: RFC 1122 sections 3.2.2.1, 3.3.2 and 4.1.3.1, RFC 1812 section 5.2.3
//! - Cost: exception path

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};
use wire::icmp4::unreachable;
use wire::{Header, Icmp4Type, Ip4Header, IpProtocol, UdpHeader};

use crate::icmp::ErrorWord;
use crate::ip4::{address, payload};
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-local` sends packets.
    pub enum Next { Icmp => "icmp4-input", Error => "icmp4-error" }
}

dataplane::drop_reasons! {
    /// Why `ip4-local` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet is shorter than its headers say",
        Reassembly = "reassembly": "The packet is a fragment: fragments for this node are not put together",
        Multicast = "multicast": "The packet is for a group that nothing here listens to",
        Broadcast = "broadcast": "The packet is a broadcast that nothing here listens to",
        BadChecksum = "bad-checksum": "The UDP or TCP checksum is wrong",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip4Local;

impl Node<Snapshot> for Ip4Local {
    const NAME: &'static str = "ip4-local";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match deliver(packet, cx) {
                Ok(next) => next.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

fn deliver(packet: &mut Descriptor, cx: &Context<'_, Snapshot>) -> Result<Next, Drop> {
    let bytes = cx.buffers.bytes(packet);
    let (header, transport) = Ip4Header::parse(bytes).map_err(|_| Drop::Truncated)?;
    let total_length = usize::from(header.total_length.get());
    if total_length < header.header_len() || total_length > cx.buffers.total_length(packet) {
        return Err(Drop::Truncated);
    }
    if header.is_fragment() {
        return Err(Drop::Reassembly);
    }
    if header.protocol == IpProtocol::ICMP4 {
        return Ok(Next::Icmp);
    }
    // RFC 1122 section 3.2.2: no errors about packets that went to many.
    let destination = header.dst.get();
    if address::is_multicast(destination) {
        return Err(Drop::Multicast);
    }
    let broadcast = |interface| address::is_broadcast(interface, destination);
    if packet.flags().contains(Flags::LINK_BROADCAST)
        || destination == u32::MAX
        || cx
            .snapshot
            .interface(packet.interface)
            .is_some_and(broadcast)
    {
        return Err(Drop::Broadcast);
    }
    let code = match header.protocol {
        IpProtocol::UDP => {
            let udp = UdpHeader::view(transport).map_err(|_| Drop::Truncated)?;
            let length = udp.length.get();
            if usize::from(length) < UdpHeader::LEN || usize::from(length) > header.payload_len() {
                return Err(Drop::Truncated);
            }
            // A sender may leave UDP's checksum out over IPv4 (RFC 768).
            if udp.checksum.get() != 0 {
                verify(packet, cx, header, length)?;
            }
            unreachable::PORT
        }
        IpProtocol::TCP => {
            let length = header.payload_len();
            if length < 20 {
                return Err(Drop::Truncated);
            }
            // At most 65535 - 20.
            verify(packet, cx, header, length as u16)?;
            unreachable::PORT
        }
        _ => unreachable::PROTOCOL,
    };
    packet.word = ErrorWord::new(Icmp4Type::DESTINATION_UNREACHABLE.0, code).to_word();
    Ok(Next::Error)
}

/// Verifies the layer-4 checksum over `length` bytes of payload, unless the port did or it was never computed.
fn verify(
    packet: &Descriptor,
    cx: &Context<'_, Snapshot>,
    header: &Ip4Header,
    length: u16,
) -> Result<(), Drop> {
    if packet
        .flags()
        .intersects(Flags::CHECKSUM_GOOD.union(Flags::OFFLOAD))
    {
        return Ok(());
    }
    let sum = payload::add(
        header.pseudo_header(length),
        cx.buffers,
        packet,
        header.header_len(),
        usize::from(length),
    );
    sum.is_valid().then_some(()).ok_or(Drop::BadChecksum)
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use dataplane::{NodeHarness, Offload, TestPacket};
    use proptest::prelude::*;
    use wire::builder::ip4;

    use super::*;
    use crate::snapshot::{IcmpLimits, Interface, InterfaceAddress, WorkerState};

    const PEER: [u8; 4] = [10, 0, 0, 2];
    const US: [u8; 4] = [10, 0, 0, 1];

    fn harness() -> NodeHarness<Snapshot> {
        let lan = Interface {
            up: true,
            ip4: vec![InterfaceAddress {
                address: Ipv4Addr::from(US),
                prefix_len: 24,
            }],
            ..Interface::absent()
        };
        let snapshot = Snapshot {
            interfaces: vec![lan],
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(|| Ip4Local, snapshot, state).expect("a harness")
    }

    fn packet(bytes: Vec<u8>) -> TestPacket {
        TestPacket {
            bytes,
            ..TestPacket::default()
        }
    }

    /// Where one packet goes: node and word, or the drop.
    fn fate(packet: TestPacket) -> (&'static str, u32) {
        let mut harness = harness();
        let out = harness.run(vec![packet]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match (&out[..], &drops[..]) {
            ([one], []) => (one.node, one.packet.word),
            ([], [(reason, 1)]) => (reason, 0),
            other => panic!("{other:?}"),
        }
    }

    const PORT: u32 = 0x0303_0000;
    const PROTOCOL: u32 = 0x0302_0000;

    #[test]
    fn protocols_find_their_nodes() {
        let udp = ip4(PEER, US).udp(1000, 53).payload(b"hello!!");
        assert_eq!(fate(packet(udp.build())), ("icmp4-error", PORT));
        let udp = ip4(PEER, US).udp(1000, 53).no_checksum().payload(b"x");
        assert_eq!(fate(packet(udp.build())), ("icmp4-error", PORT));
        let tcp = ip4(PEER, US)
            .options(&[1, 1, 1, 0])
            .tcp(1000, 80)
            .payload(b"x");
        assert_eq!(fate(packet(tcp.build())), ("icmp4-error", PORT));
        let long = ip4(PEER, US).udp(1000, 80).payload(&[7; 5001]);
        assert_eq!(fate(packet(long.build())), ("icmp4-error", PORT));
        let gre = ip4(PEER, US).raw(47, b"whatever").build();
        assert_eq!(fate(packet(gre)), ("icmp4-error", PROTOCOL));
        let echo = ip4(PEER, US).icmp4_echo(1, 2).build();
        assert_eq!(fate(packet(echo)).0, "icmp4-input");
    }

    #[test]
    fn fragments_are_counted() {
        let first = ip4(PEER, US).more_fragments().udp(1, 2).payload(&[0; 16]);
        assert_eq!(fate(packet(first.build())).0, "reassembly");
        let later = ip4(PEER, US).fragment_offset(2).raw(17, &[0; 16]);
        assert_eq!(fate(packet(later.build())).0, "reassembly");
        let icmp = ip4(PEER, US).more_fragments().icmp4_echo(1, 2);
        assert_eq!(fate(packet(icmp.build())).0, "reassembly");
    }

    #[test]
    fn nothing_is_said_about_packets_to_many() {
        let to = |address: [u8; 4]| packet(ip4(PEER, address).udp(1, 2).build());
        assert_eq!(fate(to([224, 0, 0, 5])).0, "multicast");
        assert_eq!(fate(to([255; 4])).0, "broadcast");
        assert_eq!(fate(to([10, 0, 0, 255])).0, "broadcast");
        let by_link = TestPacket {
            flags: Flags::LINK_BROADCAST,
            ..to(US)
        };
        assert_eq!(fate(by_link).0, "broadcast");
        // Echo requests to groups are icmp4-input's to judge.
        let echo = ip4(PEER, [224, 0, 0, 1]).icmp4_echo(1, 2).build();
        assert_eq!(fate(packet(echo)).0, "icmp4-input");
    }

    #[test]
    fn damaged_packets_are_not_answered() {
        let udp = packet(
            ip4(PEER, US)
                .udp(1, 2)
                .checksum(0xbad)
                .payload(b"x")
                .build(),
        );
        assert_eq!(fate(udp.clone()).0, "bad-checksum");
        let tcp = packet(ip4(PEER, US).tcp(1, 2).checksum(0xbad).build());
        assert_eq!(fate(tcp.clone()).0, "bad-checksum");
        let mut long = ip4(PEER, US).udp(1, 2).payload(&[7; 5000]).build();
        *long.last_mut().expect("bytes") ^= 1;
        assert_eq!(fate(packet(long)).0, "bad-checksum");
        // What the port verified, or the sender's kernel left out, is not summed again.
        for spared in [udp, tcp] {
            let good = TestPacket {
                flags: Flags::CHECKSUM_GOOD,
                ..spared.clone()
            };
            assert_eq!(fate(good), ("icmp4-error", PORT));
            let undone = TestPacket {
                offload: Some(Offload {
                    checksum: true,
                    checksum_start: 20,
                    checksum_field: 26,
                    ..Offload::default()
                }),
                ..spared
            };
            assert_eq!(fate(undone), ("icmp4-error", PORT));
        }
        for bytes in [
            ip4(PEER, US).udp(1, 2).length(7).build(),
            ip4(PEER, US).udp(1, 2).length(9).build(),
            ip4(PEER, US).raw(17, &[0; 7]).build(),
            ip4(PEER, US).raw(6, &[0; 19]).build(),
            ip4(PEER, US).total_length(29).udp(1, 2).build(),
            ip4(PEER, US).total_length(19).udp(1, 2).build(),
            vec![0x45; 19],
            Vec::new(),
        ] {
            assert_eq!(fate(packet(bytes.clone())).0, "truncated", "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn every_packet_has_one_fate(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), likely: bool, flags in 0u8..4) {
            if let (true, Some(first)) = (likely, bytes.first_mut()) {
                *first = 0x45 | *first & 7;
                if bytes.len() > 7 {
                    bytes[6..8].fill(0);
                    let length = (bytes.len() as u16).to_be_bytes();
                    bytes[2..4].copy_from_slice(&length);
                }
            }
            let flags = [Flags::default(), Flags::LINK_BROADCAST, Flags::CHECKSUM_GOOD, Flags::LOCAL][usize::from(flags)];
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, flags, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            harness.audit().expect("balanced");
        }
    }
}
