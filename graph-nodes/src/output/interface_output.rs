//! `interface-output`: does for a frame what its port cannot do itself.
//!
//! - Input: frames at their link-layer header; word = port.
//! - Output: frames that the port takes as they are (`port-tx`), trains that it does not take (`gso-segment`); word = port.
//! - Reads: snapshot.ports
//! - State: which ports had a train segmented in this turn of the loop
//! - Standard: virtio 1.2 section 5.1.6, RFC 768, RFC 1071
//! - Cost: 4 ticks; where a checksum is computed here, 44, and 145 with 1448 bytes of payload

use dataplane::{
    Context, Descriptor, Frame, Node, Offload, PortCapabilities, Segmentation, Verdict,
};

use super::checksum;
use super::train::Train;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `interface-output` sends packets.
    pub enum Next { PortTx => "port-tx", GsoSegment => "gso-segment" }
}

dataplane::drop_reasons! {
    /// Why `interface-output` drops packets.
    pub enum Drop {
        NoPort = "no-port": "The port is gone, or was never there",
        TooLong = "too-long": "The frame, or each segment of the train, is longer than the port sends",
        BadOffload = "bad-offload": "The checksum or segmentation asked for does not fit the packet's headers",
    }
}

/// See the module.
#[derive(Default)]
pub struct InterfaceOutput {
    /// The turn of the loop (its time) to which `segmented` belongs.
    turn_ns: u64,
    /// Ports, one bit each, that had a train in this turn: what follows takes the same way, so that it does not overtake.
    segmented: [u64; 16],
}

impl Node<Snapshot> for InterfaceOutput {
    const NAME: &'static str = "interface-output";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        if self.turn_ns != cx.now_ns {
            self.turn_ns = cx.now_ns;
            self.segmented = [0; 16];
        }
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            let port = packet.word;
            *verdict = match prepare(packet, cx) {
                Ok(Next::PortTx) if !self.is_segmented(port) => Next::PortTx.into(),
                Ok(next) => {
                    if next == Next::GsoSegment {
                        self.note_segmented(port);
                    }
                    Next::GsoSegment.into()
                }
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

impl InterfaceOutput {
    #[inline(always)]
    fn is_segmented(&self, port: u32) -> bool {
        let word = self.segmented.get(port as usize / 64);
        word.is_some_and(|word| word >> (port % 64) & 1 != 0)
    }

    fn note_segmented(&mut self, port: u32) {
        if let Some(word) = self.segmented.get_mut(port as usize / 64) {
            *word |= 1 << (port % 64);
        }
    }
}

/// Makes the packet one that its port takes, or says where that is done.
#[inline(always)]
fn prepare(packet: &mut Descriptor, cx: &Context<'_, Snapshot>) -> Result<Next, Drop> {
    let Some(port) = cx.snapshot.ports.get(packet.word as usize) else {
        return Err(Drop::NoPort);
    };
    match cx.buffers.offload(packet) {
        None if cx.buffers.total_length(packet) > port.capabilities.max_frame as usize => {
            Err(Drop::TooLong)
        }
        None => Ok(Next::PortTx),
        Some(offload) => with_offload(packet, cx, &port.capabilities, &offload),
    }
}

fn with_offload(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    port: &PortCapabilities,
    offload: &Offload,
) -> Result<Next, Drop> {
    let checksum_taken = port.checksum || !offload.checksum;
    let takes_trains = match offload.segmentation {
        Segmentation::None => {
            if cx.buffers.total_length(packet) > port.max_frame as usize {
                return Err(Drop::TooLong);
            }
            if offload.checksum && !port.checksum {
                if !checksum::fill(cx.buffers, packet, offload) {
                    return Err(Drop::BadOffload);
                }
                cx.buffers.set_offload(packet, None);
            } else if offload.checksum && checksum::positions(packet, offload).is_none() {
                return Err(Drop::BadOffload);
            }
            return Ok(Next::PortTx);
        }
        Segmentation::Tcp4 => port.tcp4_segmentation,
        Segmentation::Tcp6 => port.tcp6_segmentation,
        Segmentation::Udp => port.udp_segmentation,
    };
    let train = Train::of(packet, cx.buffers, offload).ok_or(Drop::BadOffload)?;
    if train.longest_frame() > port.max_frame as usize {
        return Err(Drop::TooLong);
    }
    Ok(if takes_trains && checksum_taken {
        Next::PortTx
    } else {
        Next::GsoSegment
    })
}

#[cfg(test)]
mod tests {
    use dataplane::{Collected, NodeHarness, TestPacket};
    use proptest::prelude::*;
    use wire::MacAddr;
    use wire::builder::eth;

    use super::*;
    use crate::snapshot::{IcmpLimits, Port, WorkerState};

    /// Port 0 does nothing itself, port 1 checksums, port 2 everything.
    fn snapshot() -> Snapshot {
        let plain = PortCapabilities {
            max_frame: 1514,
            ..PortCapabilities::default()
        };
        let sums = PortCapabilities {
            checksum: true,
            ..plain
        };
        let all = PortCapabilities {
            tcp4_segmentation: true,
            tcp6_segmentation: true,
            udp_segmentation: true,
            ..sums
        };
        let ports = [plain, sums, all].map(|capabilities| Port {
            capabilities,
            ..Port::default()
        });
        Snapshot {
            ports: ports.into(),
            ..Snapshot::default()
        }
    }

    fn harness() -> NodeHarness<Snapshot> {
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(InterfaceOutput::default, snapshot(), state).expect("a harness")
    }

    /// A TCP frame whose checksum is still to be filled, and the same frame with it.
    fn partial(payload: &[u8], segmentation: Segmentation) -> (TestPacket, Vec<u8>) {
        let whole = eth(MacAddr::local(1), MacAddr::local(2))
            .ip4([10, 0, 0, 1], [10, 0, 0, 2])
            .tcp(1, 2)
            .payload(payload)
            .build();
        let mut bytes = whole.clone();
        let length = (whole.len() - 34) as u16;
        let pseudo = wire::checksum::Sum::pseudo_header4(
            [10, 0, 0, 1].into(),
            [10, 0, 0, 2].into(),
            wire::IpProtocol::TCP,
            length,
        );
        bytes[50..52].copy_from_slice(&pseudo.folded().to_be_bytes());
        let train = segmentation != Segmentation::None;
        let packet = TestPacket {
            bytes,
            offload: Some(Offload {
                segmentation,
                checksum: true,
                segment_size: if train { 1000 } else { 0 },
                checksum_start: 34,
                checksum_field: 50,
                ..Offload::default()
            }),
            ..TestPacket::default()
        };
        (packet, whole)
    }

    fn to(port: u32, packet: TestPacket) -> TestPacket {
        TestPacket {
            word: port,
            ..packet
        }
    }

    fn nodes(out: &[Collected]) -> Vec<&'static str> {
        out.iter().map(|out| out.node).collect()
    }

    #[test]
    fn a_checksum_is_filled_for_ports_that_cannot() {
        let mut harness = harness();
        let (packet, whole) = partial(b"odd payload", Segmentation::None);
        let out = harness.run(vec![to(0, packet.clone())]);
        assert_eq!(nodes(&out), ["port-tx"]);
        assert_eq!(
            (&out[0].packet.bytes, out[0].packet.offload),
            (&whole, None)
        );
        let out = harness.run(vec![to(1, packet.clone())]);
        assert_eq!(nodes(&out), ["port-tx"]);
        assert_eq!(out[0].packet.bytes, packet.bytes);
        assert_eq!(out[0].packet.offload, packet.offload);
        harness.audit().expect("balanced");
    }

    #[test]
    fn trains_go_to_ports_that_take_them_and_to_segmentation_otherwise() {
        let mut harness = harness();
        let (train, _) = partial(&[7; 40_000], Segmentation::Tcp4);
        let out = harness.run(vec![
            to(0, train.clone()),
            to(1, train.clone()),
            to(2, train.clone()),
        ]);
        let mut ways = out
            .iter()
            .map(|out| (out.packet.word, out.node))
            .collect::<Vec<_>>();
        ways.sort();
        assert_eq!(
            ways,
            [(0, "gso-segment"), (1, "gso-segment"), (2, "port-tx")]
        );
        assert!(out.iter().all(|out| out.packet.bytes == train.bytes));
        harness.audit().expect("balanced");
    }

    #[test]
    fn nothing_overtakes_a_train() {
        let mut harness = harness();
        harness.set_time(5);
        let (train, _) = partial(&[7; 4000], Segmentation::Tcp4);
        let (small, whole) = partial(b"end", Segmentation::None);
        let out = harness.run(vec![
            to(0, small.clone()),
            to(0, train),
            to(0, small.clone()),
            to(2, small.clone()),
        ]);
        let of_port = |port| {
            let out = out.iter().filter(move |out| out.packet.word == port);
            out.map(|out| out.node).collect::<Vec<_>>()
        };
        // The harness shows each node's packets together.
        let mut zero = of_port(0);
        zero.sort();
        assert_eq!(zero, ["gso-segment", "gso-segment", "port-tx"]);
        assert_eq!(
            of_port(2),
            ["port-tx"],
            "another port's packets do not wait"
        );
        assert!(
            out.iter()
                .any(|out| out.node == "gso-segment" && out.packet.bytes == whole)
        );
        harness.set_time(6);
        assert_eq!(nodes(&harness.run(vec![to(0, small)])), ["port-tx"]);
        harness.audit().expect("balanced");
    }

    #[test]
    fn what_no_port_can_send_is_dropped() {
        let mut harness = harness();
        let frame = |length: usize| TestPacket {
            bytes: vec![0; length],
            ..TestPacket::default()
        };
        assert_eq!(harness.run(vec![to(0, frame(1514))]).len(), 1);
        let (mut wide, _) = partial(&[7; 4000], Segmentation::Tcp4);
        if let Some(offload) = &mut wide.offload {
            offload.segment_size = 1461;
        }
        let (mut odd, _) = partial(&[7; 4000], Segmentation::Tcp4);
        if let Some(offload) = &mut odd.offload {
            offload.segmentation = Segmentation::Udp;
        }
        let (mut outside, _) = partial(b"x", Segmentation::None);
        if let Some(offload) = &mut outside.offload {
            offload.checksum_field = 1000;
        }
        let dropped = [
            to(0, frame(1515)),
            to(2, frame(5000)),
            to(3, frame(60)),
            to(u32::MAX, frame(60)),
            to(2, wide.clone()),
            to(0, wide),
            to(2, odd),
            to(0, outside.clone()),
            to(2, outside),
        ];
        assert!(harness.run(dropped.into()).is_empty());
        let drops = [("no-port", 2), ("too-long", 4), ("bad-offload", 3)];
        assert_eq!(harness.drops(), drops);
        harness.audit().expect("balanced");
    }

    fn any_offload() -> impl Strategy<Value = Offload> {
        let kind = prop_oneof![
            Just(Segmentation::None),
            Just(Segmentation::Tcp4),
            Just(Segmentation::Tcp6),
            Just(Segmentation::Udp),
        ];
        (kind, any::<[bool; 2]>(), any::<u16>(), 0u16..200, 0u16..200).prop_map(
            |(segmentation, [checksum, ecn], segment_size, start, field)| Offload {
                segmentation,
                checksum,
                ecn,
                segment_size,
                checksum_start: start,
                checksum_field: field,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_packet_leaves_once(
            packets in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..3000), prop::option::of(any_offload()), 0u32..4), 1..20)
        ) {
            let mut harness = harness();
            let count = packets.len();
            let packets = packets.into_iter().map(|(bytes, offload, word)| TestPacket {
                bytes, offload, word, ..TestPacket::default()
            });
            let out = harness.run(packets.collect()).len();
            let dropped: u64 = harness.drops().iter().map(|(_, count)| *count).sum();
            prop_assert_eq!(out + dropped as usize, count);
            prop_assert!(!harness.drops().iter().any(|(name, _)| *name == "undecided"));
            prop_assert_eq!(harness.audit(), Ok(()));
        }
    }
}
