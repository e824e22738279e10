//! `ip4-rpf-check`: lets in only packets whose source address could have come this way.
//!
//! Strict mode wants a route to the source that leads out of the receiving interface: one of several next hops is enough.
//! Loose mode wants any route that leads out. Neither lets a packet in from outside that claims an address of this node, and a
//! route that discards packets counts as none (RFC 5635 section 4).
//!
//! - Input: packets at their IPv4 header, validated by `ip4-input`; word = destination address.
//! - Output: packets as they came, word included; to the next enabled feature of the arc `ip4-unicast`, or to its end.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: none
//! - Standard: RFC 3704 sections 2.2 and 2.4
//! - Cost: one more lookup per packet, where the feature is on

use dataplane::{Context, Descriptor, Frame, Node, Verdict};

use crate::fib::RouteAction;
use crate::ip4::arc;
use crate::snapshot::{NO_INTERFACE, Snapshot};

dataplane::next_nodes! {
    /// Where `ip4-rpf-check` sends packets: what stands behind it on the arc.
    pub enum Next { Policy => "ip4-policy", Lookup => "ip4-lookup" }
}

dataplane::drop_reasons! {
    /// Why `ip4-rpf-check` drops packets.
    pub enum Drop {
        NoRoute = "no-route": "There is no route to the source address, or one that discards packets",
        WrongInterface = "wrong-interface": "The route to the source address leads out of another interface (strict mode)",
        OwnSource = "own-source": "The source address is this node's own",
        Truncated = "truncated": "The packet has no whole IPv4 header: a defect in the node before",
        NoVrf = "no-vrf": "The interface has no routing table",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip4RpfCheck;

/// How far ahead the tables' lines are prefetched, in packets.
const AHEAD: usize = 8;

impl Node<Snapshot> for Ip4RpfCheck {
    const NAME: &'static str = "ip4-rpf-check";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let mut current = NO_INTERFACE;
        let mut checked = None;
        for (at, verdict) in verdicts.iter_mut().enumerate() {
            let packet = &packets[at];
            if packet.interface != current || checked.is_none() {
                current = packet.interface;
                checked = cx
                    .snapshot
                    .interfaces
                    .get(usize::from(current))
                    .zip(cx.snapshot.vrf_of(current));
            }
            let Some((interface, vrf)) = checked else {
                *verdict = Verdict::discard(Drop::NoVrf);
                continue;
            };
            // Packets of another interface may belong to another table: then the line is asked for in vain.
            if let Some(source) = packets.get(at + AHEAD).and_then(|ahead| source(ahead, cx)) {
                vrf.ip4.prefetch(source);
            }
            let Some(source) = source(packet, cx) else {
                *verdict = Verdict::discard(Drop::Truncated);
                continue;
            };
            let group = vrf.ip4.lookup(source);
            let outcome = check(group, current, interface.rpf_strict, cx.snapshot);
            *verdict = match outcome {
                Ok(()) => arc::next_after(arc::RPF_CHECK, interface.ip4_unicast),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// Source address of a packet.
#[inline(always)]
fn source(packet: &Descriptor, cx: &Context<'_, Snapshot>) -> Option<u32> {
    let header = cx.buffers.head::<20>(packet)?;
    Some(u32::from_be_bytes([
        header[12], header[13], header[14], header[15],
    ]))
}

/// Judges the route to a source.
#[inline]
fn check(group: u32, interface: u16, strict: bool, snapshot: &Snapshot) -> Result<(), Drop> {
    let forwarding = &snapshot.forwarding;
    let group = forwarding.group(group);
    let leads_here = match group.action() {
        RouteAction::Local => return Err(Drop::OwnSource),
        RouteAction::NoRoute
        | RouteAction::Blackhole
        | RouteAction::Unreachable
        | RouteAction::Prohibit => return Err(Drop::NoRoute),
        _ if !strict => return Ok(()),
        RouteAction::Glean => group.payload() == u32::from(interface),
        RouteAction::Forward => {
            forwarding.adjacency(group.payload()).hot().interface() == interface
        }
        RouteAction::Multipath => (0..=group.bucket_mask()).any(|hash| {
            let adjacency = forwarding.bucket(group, hash);
            forwarding.adjacency(adjacency).hot().interface() == interface
        }),
    };
    leads_here.then_some(()).ok_or(Drop::WrongInterface)
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use dataplane::{NO_FEATURES, NodeHarness, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::MacAddr;
    use wire::builder::ip4;

    use super::*;
    use crate::fib::{ForwardingSize, ForwardingWriter, Link, NeighbourKey, NextHop, RouteTarget};
    use crate::snapshot::{IcmpLimits, Interface, Tags, WorkerState};

    /// Interfaces 0 and 1 strict, 2 loose; 3 in a VRF that is not there.
    fn harness() -> NodeHarness<Snapshot> {
        let size = ForwardingSize {
            groups: 32,
            adjacencies: 16,
            buckets: 64,
        };
        let mut writer = ForwardingWriter::new(size, 16);
        writer.add_vrf(0).expect("memory");
        let via = |interface: u16| NextHop {
            neighbour: NeighbourKey {
                interface,
                address: IpAddr::from([10, 0, interface as u8, 9]),
            },
            weight: 1,
        };
        for interface in 0..3 {
            let link = Link {
                port: PortId(interface),
                mtu: 1500,
                vrf: 0,
                mac: MacAddr::local(u32::from(interface)),
                tags: Tags::default(),
            };
            writer.set_link(interface, link).expect("a new link");
        }
        for (net, target) in [
            ([10, 0, 0, 0], RouteTarget::Connected(0)),
            ([10, 0, 1, 0], RouteTarget::Connected(1)),
            ([20, 0, 0, 0], RouteTarget::Forward(vec![via(0)])),
            ([21, 0, 0, 0], RouteTarget::Forward(vec![via(1)])),
            ([22, 0, 0, 0], RouteTarget::Forward(vec![via(0), via(1)])),
            ([23, 0, 0, 0], RouteTarget::Forward(vec![via(1), via(2)])),
            ([30, 0, 0, 0], RouteTarget::Local),
            ([31, 0, 0, 0], RouteTarget::Blackhole),
            ([32, 0, 0, 0], RouteTarget::Unreachable),
            ([33, 0, 0, 0], RouteTarget::Prohibit),
        ] {
            writer
                .set_route(0, IpAddr::from(net), 24, target)
                .expect("room");
        }
        let interface = |vrf, rpf_strict| Interface {
            up: true,
            vrf,
            rpf_strict,
            ip4_unicast: NO_FEATURES.with(arc::RPF_CHECK),
            ..Interface::absent()
        };
        let snapshot = Snapshot {
            interfaces: vec![
                interface(0, true),
                interface(0, true),
                interface(0, false),
                interface(7, true),
            ],
            vrfs: vec![writer.vrf(0).expect("the VRF")],
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(|| Ip4RpfCheck, snapshot, state).expect("a harness")
    }

    fn packet(source: [u8; 4], interface: u16) -> TestPacket {
        TestPacket {
            bytes: ip4(source, [99, 1, 2, 3]).udp(1, 2).build(),
            interface,
            word: 0x6301_0203,
            ..TestPacket::default()
        }
    }

    fn fate(packet: TestPacket) -> &'static str {
        let mut harness = harness();
        let out = harness.run(vec![packet.clone()]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match (&out[..], &drops[..]) {
            ([one], []) => {
                assert_eq!(one.packet, packet, "untouched");
                one.node
            }
            ([], [(reason, 1)]) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn strict_and_loose() {
        let on = "ip4-lookup";
        for (source, strict, loose) in [
            ([10, 0, 0, 5], on, on),
            ([10, 0, 1, 5], "wrong-interface", on),
            ([20, 0, 0, 5], on, on),
            ([21, 0, 0, 5], "wrong-interface", on),
            ([22, 0, 0, 5], on, on),
            ([23, 0, 0, 5], "wrong-interface", on),
            ([30, 0, 0, 5], "own-source", "own-source"),
            ([31, 0, 0, 5], "no-route", "no-route"),
            ([32, 0, 0, 5], "no-route", "no-route"),
            ([33, 0, 0, 5], "no-route", "no-route"),
            ([40, 0, 0, 5], "no-route", "no-route"),
        ] {
            assert_eq!(fate(packet(source, 0)), strict, "{source:?} strict");
            assert_eq!(fate(packet(source, 2)), loose, "{source:?} loose");
        }
        assert_eq!(fate(packet([22, 0, 0, 5], 1)), on);
    }

    #[test]
    fn what_cannot_be_looked_up_is_dropped() {
        assert_eq!(fate(packet([10, 0, 0, 5], 3)), "no-vrf");
        assert_eq!(fate(packet([10, 0, 0, 5], 77)), "no-vrf");
        let short = TestPacket {
            bytes: vec![0x45; 19],
            ..packet([10, 0, 0, 5], 0)
        };
        assert_eq!(fate(short), "truncated");
    }

    #[test]
    fn frames_of_several_interfaces_are_judged_each_by_its_own() {
        let mut harness = harness();
        let packets: Vec<_> = (0..60).map(|at| packet([20, 0, 0, 5], at % 3)).collect();
        assert_eq!(harness.run(packets).len(), 40);
        assert_eq!(harness.drops(), [("wrong-interface", 20)]);
        harness.audit().expect("balanced");
    }

    proptest! {
        // Each case builds its own tables.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_packet_has_one_fate(bytes in proptest::collection::vec(any::<u8>(), 0..60), interface in 0u16..5) {
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, interface, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            harness.audit().expect("balanced");
        }
    }
}
