//! `arp-input`: answers ARP requests for this node's addresses, and hands what is worth learning to the slow path.
//!
//! - An address is answered for on the interface that has it, and only there. Probes (RFC 5227 section 2.1.1) are answered like
//!   other requests: that is how an address is defended.
//! - What is local on the link without being an interface's is translation's (a NAT pool, a forwarded port): it is answered for on
//!   that link, and who claims it is not believed.
//! - Proxy ARP, where the interface has it on, answers for what is routed out of another interface; never for probes and
//!   announcements, which ask about the link itself.
//! - A sender is learned from if it can be a neighbour on this link and speaks to us or announces itself: strangers' talk
//!   teaches nothing, so no flood of it reaches the slow path.
//! - Someone else who claims our address is counted and handed to the slow path, which decides about the defence.
//!
//! - Input: packets at their ARP header, the link-layer header still in front; interface = interface number.
//! - Output: replies at their link-layer header, flag LOCAL; word = port.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: none
//! - Standard: RFC 826, RFC 5227, RFC 1027 section 2.4 (proxy)
//! - Cost: exception path

use dataplane::{Context, Descriptor, Flags, Frame, Node, PuntHeader, Verdict};
use wire::{ArpOperation, ArpPacket, EtherType, Header, MacAddr, ParseError};

use crate::fib::{Rewrite, RouteAction};
use crate::ip4::address;
use crate::punt::Punt;
use crate::snapshot::{Interface, Snapshot};

dataplane::next_nodes! {
    /// Where `arp-input` sends packets.
    pub enum Next { Output => "interface-output" }
}

dataplane::drop_reasons! {
    /// Where packets end that `arp-input` does not answer.
    pub enum Drop {
        Truncated = "truncated": "The packet is shorter than an ARP packet, or longer than a buffer",
        BadType = "bad-type": "The packet is not about IPv4 over Ethernet",
        BadLength = "bad-length": "The lengths of addresses are not 6 and 4",
        BadOperation = "bad-operation": "The packet is neither a request nor a reply",
        BadSenderMac = "bad-sender-mac": "The sender's Ethernet address is zero or a group's",
        BadSenderIp = "bad-sender-ip": "The sender's IPv4 address is not a host's",
        InterfaceDown = "interface-down": "The interface is not configured or not up",
        OwnPacket = "own-packet": "The packet came from this interface itself: the link has a loop",
        Conflict = "conflict": "Another station claims an IPv4 address that is this interface's or translation's",
        Learned = "learned": "Not an error: the sender's address was handed to the slow path and there is nothing to answer",
        NotForUs = "not-for-us": "The packet is between other stations",
        NoRoom = "no-room": "There is no room in front of the packet for its link-layer header",
    }
}

/// See the module.
#[derive(Default)]
pub struct ArpInput;

impl Node<Snapshot> for ArpInput {
    const NAME: &'static str = "arp-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match receive(packet, cx) {
                Ok(()) => Next::Output.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// Judges one packet; where it is answered, it is the reply afterwards.
fn receive(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<(), Drop> {
    let arp = parse(packet, cx)?;
    let number = packet.interface;
    let snapshot = cx.snapshot;
    let interface = snapshot.interface(number).ok_or(Drop::InterfaceDown)?;
    if arp.sender_mac == interface.mac {
        return Err(Drop::OwnPacket);
    }
    let (sender, target) = (arp.sender_ip.get(), arp.target_ip.get());
    if address::is_own(interface, sender) {
        // RFC 5227 section 2.4.
        punt(&arp, number, cx);
        return Err(Drop::Conflict);
    }
    if is_translated(number, interface, sender, snapshot) {
        return Err(Drop::Conflict);
    }
    let request = arp.operation == ArpOperation::REQUEST;
    let ours =
        address::is_own(interface, target) || is_translated(number, interface, target, snapshot);
    let answered = request && (ours || proxied(&arp, number, interface, snapshot));
    let worth_learning = answered || ours || arp.is_gratuitous();
    let learned = worth_learning && address::is_neighbour(interface, sender);
    if learned {
        punt(&arp, number, cx);
    }
    if answered {
        return reply(packet, &arp, interface, cx);
    }
    Err(if learned {
        Drop::Learned
    } else {
        Drop::NotForUs
    })
}

/// The packet, checked as far as that is possible without knowing where it came from.
fn parse(packet: &Descriptor, cx: &Context<'_, Snapshot>) -> Result<ArpPacket, Drop> {
    if packet.flags().contains(Flags::CHAINED) {
        return Err(Drop::Truncated);
    }
    let arp = match ArpPacket::parse(cx.buffers.bytes(packet)) {
        Ok((arp, _)) => *arp,
        Err(ParseError::BadType) => return Err(Drop::BadType),
        Err(ParseError::BadHeaderLength) => return Err(Drop::BadLength),
        Err(_) => return Err(Drop::Truncated),
    };
    if !matches!(arp.operation, ArpOperation::REQUEST | ArpOperation::REPLY) {
        return Err(Drop::BadOperation);
    }
    if !arp.sender_mac.is_unicast() {
        return Err(Drop::BadSenderMac);
    }
    if !arp.is_probe() && !address::is_host(arp.sender_ip.get()) {
        return Err(Drop::BadSenderIp);
    }
    Ok(arp)
}

/// True for an address of the link that is this node's, but no interface's.
fn is_translated(number: u16, interface: &Interface, target: u32, snapshot: &Snapshot) -> bool {
    address::is_neighbour(interface, target)
        && snapshot.vrf_of(number).is_some_and(|vrf| {
            let group = snapshot.forwarding.group(vrf.ip4.lookup(target));
            group.action() == RouteAction::Local
        })
}

/// True where a request is answered for somebody behind this node.
fn proxied(arp: &ArpPacket, number: u16, interface: &Interface, snapshot: &Snapshot) -> bool {
    let target = arp.target_ip.get();
    if !interface.proxy_arp
        || arp.is_probe()
        || arp.is_gratuitous()
        || !address::is_host(target)
        || address::is_broadcast(interface, target)
    {
        return false;
    }
    let Some(vrf) = snapshot.vrf_of(number) else {
        return false;
    };
    let forwarding = &snapshot.forwarding;
    let leaves_by = |adjacency| forwarding.adjacency(adjacency).hot().interface();
    let group = forwarding.group(vrf.ip4.lookup(target));
    match group.action() {
        RouteAction::Forward => leaves_by(group.payload()) != number,
        RouteAction::Glean => group.payload() != u32::from(number),
        // Where one of the next hops is on the asker's link, it is that one's to answer.
        RouteAction::Multipath => (0..=group.bucket_mask())
            .all(|hash| leaves_by(forwarding.bucket(group, hash)) != number),
        _ => false,
    }
}

/// Hands the packet to the slow path.
fn punt(arp: &ArpPacket, interface: u16, cx: &mut Context<'_, Snapshot>) {
    let header = PuntHeader {
        kind: Punt::Arp as u16,
        interface,
        word: 0,
    };
    // A full ring is counted there; the sender will ask again.
    cx.punt(header, [bytes_of(arp).as_slice()]);
}

fn bytes_of(arp: &ArpPacket) -> [u8; ArpPacket::LEN] {
    let mut bytes = [0; ArpPacket::LEN];
    if let Ok(slot) = ArpPacket::view_mut(&mut bytes) {
        *slot = *arp;
    }
    bytes
}

/// Makes the reply in the request's buffer, link-layer header included.
fn reply(
    packet: &mut Descriptor,
    arp: &ArpPacket,
    interface: &Interface,
    cx: &mut Context<'_, Snapshot>,
) -> Result<(), Drop> {
    packet.truncate(ArpPacket::LEN);
    let slot = ArpPacket::view_mut(cx.buffers.bytes_mut(packet)).map_err(|_| Drop::Truncated)?;
    *slot = arp.reply_from(interface.mac);
    let (header, len) = link_header(arp.sender_mac, interface);
    if !packet.retreat(len) {
        return Err(Drop::NoRoom);
    }
    cx.buffers.bytes_mut(packet)[..len].copy_from_slice(&header[..len]);
    cx.buffers.set_offload(packet, None);
    packet.clear_flags(Flags::LINK_BROADCAST.union(Flags::CHECKSUM_GOOD));
    packet.set_flags(Flags::LOCAL);
    packet.word = Context::<Snapshot>::port_word(interface.port);
    Ok(())
}

/// The link-layer header of an interface's ARP packets, and its length. As [`crate::fib::link_header`], without memory of its
/// own.
fn link_header(destination: MacAddr, interface: &Interface) -> ([u8; Rewrite::MAX_LEN], usize) {
    let mut header = [0; Rewrite::MAX_LEN];
    header[..6].copy_from_slice(&destination.octets());
    header[6..12].copy_from_slice(&interface.mac.octets());
    let mut len = 12;
    let mut push = |word: u16| {
        header[len..len + 2].copy_from_slice(&word.to_be_bytes());
        len += 2;
    };
    if let Some((tpid, vid)) = interface.tags.outer {
        push(tpid.value());
        push(vid);
    }
    if let Some(vid) = interface.tags.inner {
        push(EtherType::VLAN.value());
        push(vid);
    }
    push(EtherType::ARP.value());
    (header, len)
}

#[cfg(test)]
mod tests {
    use core::net::{IpAddr, Ipv4Addr};

    use dataplane::{NodeHarness, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Arp, Builder, eth};

    use super::*;
    use crate::fib::{
        ForwardingSize, ForwardingWriter, Link, NeighbourKey, NextHop, RouteTarget,
        link_header as fib_link_header,
    };
    use crate::snapshot::{IcmpLimits, InterfaceAddress, Tags, WorkerState};

    const US: MacAddr = MacAddr::local(1);
    const PEER: MacAddr = MacAddr::local(2);
    const OUR_IP: [u8; 4] = [10, 0, 0, 1];
    const PEER_IP: [u8; 4] = [10, 0, 0, 2];

    fn tags(number: u16) -> Tags {
        match number {
            1 => Tags {
                outer: None,
                inner: Some(10),
            },
            2 => Tags {
                outer: Some((EtherType::VLAN_AD, 20)),
                inner: Some(10),
            },
            _ => Tags::default(),
        }
    }

    /// Interface 0 to 2 have 10.0.N.1/24 on ports 5 to 7, untagged, with one tag and with two; interface 0 is a proxy. 10.0.0.16/28 and
    /// 10.0.1.20 are translation's.
    fn harness() -> NodeHarness<Snapshot> {
        let size = ForwardingSize {
            groups: 32,
            adjacencies: 16,
            buckets: 64,
        };
        let mut writer = ForwardingWriter::new(size, 16);
        writer.add_vrf(0).expect("memory");
        let mut interfaces = Vec::new();
        for number in 0..3u16 {
            let link = Link {
                port: PortId(number + 5),
                mtu: 1500,
                vrf: 0,
                mac: US,
                tags: tags(number),
            };
            writer.set_link(number, link).expect("a new link");
            let net = IpAddr::from([10, 0, number as u8, 0]);
            writer
                .set_route(0, net, 24, RouteTarget::Connected(number))
                .expect("room");
            interfaces.push(Interface {
                up: true,
                port: link.port,
                tags: link.tags,
                mac: US,
                mtu: 1500,
                proxy_arp: number == 0,
                ip4: vec![InterfaceAddress {
                    address: Ipv4Addr::new(10, 0, number as u8, 1),
                    prefix_len: 24,
                }],
                ..Interface::absent()
            });
        }
        let via = |interface: u16| NextHop {
            neighbour: NeighbourKey {
                interface,
                address: IpAddr::from([10, 0, interface as u8, 9]),
            },
            weight: 1,
        };
        for (net, target) in [
            ([20, 0, 0, 0], RouteTarget::Forward(vec![via(0)])),
            ([21, 0, 0, 0], RouteTarget::Forward(vec![via(1)])),
            ([22, 0, 0, 0], RouteTarget::Forward(vec![via(0), via(1)])),
            ([23, 0, 0, 0], RouteTarget::Forward(vec![via(1), via(2)])),
            ([31, 0, 0, 0], RouteTarget::Blackhole),
        ] {
            writer
                .set_route(0, IpAddr::from(net), 24, target)
                .expect("room");
        }
        for (net, length) in [
            ([10, 0, 0, 16], 28),
            ([10, 0, 1, 20], 32),
            ([32, 0, 0, 0], 24),
        ] {
            let net = IpAddr::from(net);
            writer
                .set_route(0, net, length, RouteTarget::Local)
                .expect("room");
        }
        let snapshot = Snapshot {
            interfaces,
            vrfs: vec![writer.vrf(0).expect("the VRF")],
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(|| ArpInput, snapshot, state).expect("a harness")
    }

    /// A frame from the peer as `ethernet-input` hands it on.
    fn packet(interface: u16, arp: Builder<Arp>) -> TestPacket {
        let frame = arp.pad_to(60).build();
        let (before, bytes) = frame.split_at(14);
        TestPacket {
            before: before.to_vec(),
            bytes: bytes.to_vec(),
            interface,
            flags: Flags::LINK_BROADCAST,
            ..TestPacket::default()
        }
    }

    fn asks(sender: [u8; 4], target: [u8; 4]) -> Builder<Arp> {
        eth(PEER, MacAddr::BROADCAST).arp_request(sender, target)
    }

    fn tells(sender: [u8; 4], target: [u8; 4]) -> Builder<Arp> {
        eth(PEER, US).arp_reply(sender, target)
    }

    /// What came of a packet: the reply or the drop, and whether the slow path heard of it.
    fn run(packet: TestPacket) -> (Result<TestPacket, &'static str>, bool) {
        let mut harness = harness();
        let mut out = harness.run(vec![packet.clone()]);
        let drops = harness.drops();
        let punts = harness.punts();
        harness.audit().expect("balanced");
        for (header, bytes) in &punts {
            assert_eq!(
                (header.kind, header.interface),
                (Punt::Arp as u16, packet.interface)
            );
            assert_eq!(bytes[..], packet.bytes[..28], "the packet as it came");
        }
        assert!(punts.len() < 2);
        let result = match (out.pop(), &drops[..]) {
            (Some(one), []) => {
                assert_eq!((one.node, out.len()), ("interface-output", 0));
                Ok(one.packet)
            }
            (None, [(reason, 1)]) => Err(*reason),
            other => panic!("{other:?}"),
        };
        (result, !punts.is_empty())
    }

    fn fate(packet: TestPacket) -> (&'static str, bool) {
        let (result, punted) = run(packet);
        (result.map_or_else(|reason| reason, |_| "answered"), punted)
    }

    #[test]
    fn requests_for_our_address_are_answered() {
        for interface in 0..3u8 {
            let (peer, ours) = ([10, 0, interface, 2], [10, 0, interface, 1]);
            let (reply, punted) = run(packet(interface.into(), asks(peer, ours)));
            let reply = reply.expect("a reply");
            let link = eth(US, PEER);
            let expected = match interface {
                0 => link.arp_reply(ours, peer).build(),
                1 => link.vlan(10).arp_reply(ours, peer).build(),
                _ => link.qinq(20, 10).arp_reply(ours, peer).build(),
            };
            assert_eq!(reply.bytes, expected);
            assert_eq!((reply.word, punted), (u32::from(interface) + 5, true));
            assert!(
                reply.flags.contains(Flags::LOCAL)
                    && !reply.flags.intersects(Flags::LINK_BROADCAST)
            );
        }
    }

    #[test]
    fn the_link_header_is_that_of_other_packets() {
        for number in 0..3 {
            let link = Link {
                port: PortId(0),
                mtu: 1500,
                vrf: 0,
                mac: US,
                tags: tags(number),
            };
            let interface = Interface {
                mac: US,
                tags: tags(number),
                ..Interface::absent()
            };
            let (header, len) = link_header(PEER, &interface);
            let expected = fib_link_header(PEER, &link, EtherType::ARP);
            assert_eq!(&header[..len], expected.as_slice());
        }
    }

    #[test]
    fn probes_for_our_address_are_defended_without_learning() {
        let (reply, punted) = run(packet(0, asks([0; 4], OUR_IP)));
        let expected = eth(US, PEER).arp_reply(OUR_IP, [0; 4]).build();
        assert_eq!((reply.expect("a reply").bytes, punted), (expected, false));
        assert_eq!(
            fate(packet(0, asks([0; 4], PEER_IP))),
            ("not-for-us", false)
        );
    }

    #[test]
    fn who_is_learned_from() {
        for (arp, expected) in [
            (asks([10, 0, 0, 7], OUR_IP), ("answered", true)),
            // Not on this link: answered, not learned.
            (asks([10, 0, 1, 7], OUR_IP), ("answered", false)),
            (asks([10, 0, 0, 255], OUR_IP), ("answered", false)),
            (tells(PEER_IP, OUR_IP), ("learned", true)),
            (tells([10, 0, 1, 7], OUR_IP), ("not-for-us", false)),
            // Announcements, as requests and as replies.
            (asks(PEER_IP, PEER_IP), ("learned", true)),
            (tells(PEER_IP, PEER_IP), ("learned", true)),
            (asks([10, 0, 1, 7], [10, 0, 1, 7]), ("not-for-us", false)),
            // Others' talk.
            (asks(PEER_IP, [10, 0, 0, 3]), ("not-for-us", false)),
            (tells(PEER_IP, [10, 0, 0, 3]), ("not-for-us", false)),
            // An address of ours, on another interface of ours.
            (asks(PEER_IP, [99, 0, 1, 1]), ("not-for-us", false)),
        ] {
            assert_eq!(fate(packet(0, arp.clone())), expected, "{arp:?}");
        }
        assert_eq!(
            fate(packet(1, asks([10, 0, 1, 2], OUR_IP))),
            ("not-for-us", false)
        );
    }

    #[test]
    fn conflicts_are_told() {
        for arp in [
            asks(OUR_IP, OUR_IP),
            tells(OUR_IP, PEER_IP),
            asks(OUR_IP, PEER_IP),
        ] {
            assert_eq!(fate(packet(0, arp)), ("conflict", true));
        }
    }

    #[test]
    fn addresses_of_translation_are_answered_for_on_their_link() {
        for (interface, target, expected) in [
            (0, [10, 0, 0, 16], ("answered", true)),
            (0, [10, 0, 0, 31], ("answered", true)),
            (0, [10, 0, 0, 32], ("not-for-us", false)),
            (1, [10, 0, 1, 20], ("answered", true)),
            (1, [10, 0, 1, 21], ("not-for-us", false)),
            // On another link, and on none.
            (2, [10, 0, 0, 16], ("not-for-us", false)),
            (0, [10, 0, 1, 20], ("not-for-us", false)),
            (0, [32, 0, 0, 1], ("not-for-us", false)),
        ] {
            let asked = asks([10, 0, interface, 2], target);
            let fate = fate(packet(interface.into(), asked));
            assert_eq!(fate, expected, "{interface} {target:?}");
        }
        let (reply, _) = run(packet(0, asks([0; 4], [10, 0, 0, 17])));
        let expected = eth(US, PEER).arp_reply([10, 0, 0, 17], [0; 4]).build();
        assert_eq!(reply.expect("a reply").bytes, expected);
        // Who claims one is no neighbour, whatever is asked.
        for arp in [
            asks([10, 0, 0, 17], [10, 0, 0, 17]),
            asks([10, 0, 0, 17], OUR_IP),
            tells([10, 0, 0, 17], OUR_IP),
        ] {
            assert_eq!(fate(packet(0, arp)), ("conflict", false));
        }
    }

    #[test]
    fn a_proxy_answers_for_what_is_behind_it() {
        for (target, expected) in [
            ([21, 0, 0, 5], ("answered", true)),
            ([23, 0, 0, 5], ("answered", true)),
            ([10, 0, 1, 77], ("answered", true)),
            ([20, 0, 0, 5], ("not-for-us", false)),
            ([22, 0, 0, 5], ("not-for-us", false)),
            ([10, 0, 0, 77], ("not-for-us", false)),
            ([31, 0, 0, 5], ("not-for-us", false)),
            ([40, 0, 0, 5], ("not-for-us", false)),
            ([224, 0, 0, 5], ("not-for-us", false)),
            ([255; 4], ("not-for-us", false)),
        ] {
            assert_eq!(
                fate(packet(0, asks(PEER_IP, target))),
                expected,
                "{target:?}"
            );
        }
        // Not for probes, announcements and replies, and not where it is off.
        assert_eq!(fate(packet(0, asks([0; 4], [21, 0, 0, 5]))).0, "not-for-us");
        assert_eq!(
            fate(packet(0, asks([21, 0, 0, 5], [21, 0, 0, 5]))).0,
            "not-for-us"
        );
        assert_eq!(
            fate(packet(0, tells(PEER_IP, [21, 0, 0, 5]))).0,
            "not-for-us"
        );
        assert_eq!(
            fate(packet(2, asks([10, 0, 2, 2], [21, 0, 0, 5]))).0,
            "not-for-us"
        );
    }

    #[test]
    fn malformed_packets_end_in_their_drops() {
        let good = packet(0, asks(PEER_IP, OUR_IP));
        let with = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet.bytes[at] = value;
            packet
        };
        let cut = |length| TestPacket {
            bytes: vec![0; length],
            ..good.clone()
        };
        for (packet, reason) in [
            (with(1, 6), "bad-type"),
            (with(3, 1), "bad-type"),
            (with(4, 8), "bad-length"),
            (with(5, 16), "bad-length"),
            (with(7, 3), "bad-operation"),
            (with(7, 0), "bad-operation"),
            (
                packet(0, asks(PEER_IP, OUR_IP).sender_mac(MacAddr::BROADCAST)),
                "bad-sender-mac",
            ),
            (
                packet(0, asks(PEER_IP, OUR_IP).sender_mac(MacAddr::ZERO)),
                "bad-sender-mac",
            ),
            (
                packet(0, asks(PEER_IP, OUR_IP).sender_mac(US)),
                "own-packet",
            ),
            (packet(0, asks([224, 0, 0, 1], OUR_IP)), "bad-sender-ip"),
            (packet(0, asks([127, 0, 0, 1], OUR_IP)), "bad-sender-ip"),
            (packet(0, tells([0; 4], OUR_IP)), "bad-sender-ip"),
            (packet(9, asks(PEER_IP, OUR_IP)), "interface-down"),
            (cut(27), "truncated"),
            (cut(0), "truncated"),
            (cut(3000), "truncated"),
        ] {
            assert_eq!(fate(packet.clone()), (reason, false), "{packet:?}");
        }
    }

    proptest! {
        // Each case builds its own tables.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_packet_has_one_fate(bytes in proptest::collection::vec(any::<u8>(), 0..60), likely: bool, interface in 0u16..4) {
            let mut bytes = bytes;
            if likely && bytes.len() >= 28 {
                let operation = 1 + bytes[7] % 2;
                bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
                bytes[8] &= 0xfe;
                bytes[14..17].copy_from_slice(&[10, 0, interface as u8]);
                if bytes[27] % 2 == 0 {
                    bytes[24..28].copy_from_slice(&[10, 0, interface as u8, 1]);
                }
            }
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, interface, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            harness.audit().expect("balanced");
        }
    }
}
