//! `nd-input`: answers neighbour solicitations for this node's addresses, and shows the slow path what there is to learn.
//!
//! Advertisements go out at once, as a router's, and override what the neighbour knew. A solicitation without source is a
//! probe for a duplicate of one of our addresses: all nodes are told that it is taken (RFC 4862 section 5.4). What is local on the link
//! without being an interface's is translation's (a NAT pool, a forwarded port) and is answered for on that link.
//!
//! - Input: packets at their IPv6 header for this node; word = offset of the ICMPv6 header from it.
//! - Output: neighbour advertisements at their link-layer header; word = port.
//! - Punts: `NeighbourDiscovery`, word = offset of the ICMPv6 header: solicitations for our addresses that name their sender's
//!   Ethernet address, and all advertisements.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: none
//! - Standard: RFC 4861 sections 6.1, 7.1, 7.2.3, 7.2.4 and 8.1, RFC 4862 section 5.4.3, RFC 6980
//! - Cost: exception path

use core::net::Ipv6Addr;

use dataplane::{Context, Descriptor, Flags, Frame, InterfaceCounter, Node, PuntHeader, Verdict};
use wire::checksum::Sum;
use wire::nd::{self, NdMessage, NeighbourAdvertisement};
use wire::{EtherType, Header, Icmp6Type, Ip6Header, IpProtocol, MacAddr, ParseError};

use crate::fib::{Link, RouteAction, link_header};
use crate::punt::Punt;
use crate::snapshot::{Interface, Snapshot};

dataplane::next_nodes! {
    /// Where `nd-input` sends packets.
    pub enum Next { InterfaceOutput => "interface-output" }
}

dataplane::drop_reasons! {
    /// Why `nd-input` drops packets.
    pub enum Drop {
        NoInterface = "no-interface": "The receiving interface is gone or not up, or IPv6 is off there",
        Malformed = "malformed": "The message is too short, its code is not 0, or an option is malformed",
        BadHopLimit = "bad-hop-limit": "The hop limit is not 255: the message may come from beyond the link",
        BadChecksum = "bad-checksum": "The checksum is wrong",
        BadAddress = "bad-address": "An address stands where neighbour discovery does not allow it",
        Fragment = "fragment": "The message carries a fragment header, which neighbour discovery must not",
        NotOurs = "not-ours": "The solicitation is for an address that this interface does not have",
        NoLinkAddress = "no-link-address": "The solicitation does not say which Ethernet address to answer to",
        NoRoom = "no-room": "There is no room for the answer in the packet's buffer",
        Advertisement = "advertisement": "A neighbour's advertisement: shown to the slow path, done",
        RouterSolicitation = "router-solicitation": "A router solicitation: this node does not advertise itself as a router",
        RouterAdvertisement = "router-advertisement": "Another router's advertisement: a router takes no configuration from it",
        Redirect = "redirect": "A redirect: a router follows its routes alone",
    }
}

/// See the module.
#[derive(Default)]
pub struct NdInput;

impl Node<Snapshot> for NdInput {
    const NAME: &'static str = "nd-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match receive(packet, cx) {
                Ok(next) => next.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// An advertisement to be sent.
struct Answer {
    target: Ipv6Addr,
    /// Who asked; `None` for a probe.
    to: Option<Ipv6Addr>,
    mac: MacAddr,
}

fn receive(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<Next, Drop> {
    let snapshot = cx.snapshot;
    let interface = snapshot
        .interface(packet.interface)
        .filter(|interface| interface.ip6_enabled())
        .ok_or(Drop::NoInterface)?;
    let frame_source = frame_source(packet, cx, interface);
    let offset = packet.word as usize;
    let bytes = cx.buffers.bytes(packet);
    let (header, rest) = Ip6Header::parse(bytes).map_err(|_| Drop::Malformed)?;
    let end = Ip6Header::LEN + usize::from(header.payload_length.get());
    let message = bytes.get(offset..end).ok_or(Drop::Malformed)?;
    let extensions = rest.get(..offset.wrapping_sub(Ip6Header::LEN));
    let chain = wire::ip6::walk_extensions(
        header.next_header,
        extensions.ok_or(Drop::Malformed)?,
        wire::ip6::DEFAULT_EXTENSION_LIMIT,
    );
    // RFC 6980 section 5.
    if chain.fragment.is_some() {
        return Err(Drop::Fragment);
    }
    match nd::validate(header, message).map_err(reason)? {
        ref message @ NdMessage::NeighbourSolicitation(solicitation, _) => {
            let target = Ipv6Addr::from_octets(solicitation.target);
            let link_address = message.source_link_layer();
            // Only solicitations to one node may leave their sender's link address out (section 4.3).
            let mac = link_address.or(frame_source);
            let ours = is_own(interface, target)
                || is_translated(packet.interface, interface, target, snapshot);
            let answer = solicited(ours, header, target, mac)?;
            if link_address.is_some() {
                punt(packet, cx);
            }
            advertise(packet, cx, interface, &answer)
        }
        NdMessage::NeighbourAdvertisement(..) => {
            punt(packet, cx);
            Err(Drop::Advertisement)
        }
        NdMessage::RouterSolicitation(..) => Err(Drop::RouterSolicitation),
        NdMessage::RouterAdvertisement(..) => Err(Drop::RouterAdvertisement),
        NdMessage::Redirect(..) => Err(Drop::Redirect),
    }
}

fn reason(error: ParseError) -> Drop {
    match error {
        ParseError::BadHopLimit => Drop::BadHopLimit,
        ParseError::BadChecksum => Drop::BadChecksum,
        ParseError::BadAddress => Drop::BadAddress,
        _ => Drop::Malformed,
    }
}

fn is_own(interface: &Interface, target: Ipv6Addr) -> bool {
    interface.link_local == Some(target)
        || interface
            .ip6
            .iter()
            .any(|configured| configured.address == target)
}

/// True for an address of the link that is this node's, but no interface's. Not for those of subnets, which all routers on the link have
/// (RFC 4291 section 2.6.1).
fn is_translated(
    number: u16,
    interface: &Interface,
    target: Ipv6Addr,
    snapshot: &Snapshot,
) -> bool {
    let bits = target.to_bits();
    let on_link = interface.ip6.iter().any(|own| {
        let hosts = u128::MAX.checked_shr(own.prefix_len.into()).unwrap_or(0);
        (own.address.to_bits() ^ bits) & !hosts == 0 && (bits & hosts != 0 || hosts <= 1)
    });
    on_link
        && snapshot.vrf_of(number).is_some_and(|vrf| {
            let group = snapshot.forwarding.group(vrf.ip6.lookup(bits));
            group.action() == RouteAction::Local
        })
}

/// RFC 4861 section 7.2.3: whether and whom to answer.
fn solicited(
    ours: bool,
    header: &Ip6Header,
    target: Ipv6Addr,
    mac: Option<MacAddr>,
) -> Result<Answer, Drop> {
    let (source, destination) = (header.source(), header.destination());
    // A solicitation to a group is for the group of its target (section 4.3); a sender that is a group is none.
    let astray = destination.is_multicast() && destination != nd::solicited_node(target);
    if astray || source.is_multicast() || source.is_loopback() {
        return Err(Drop::BadAddress);
    }
    if !ours {
        return Err(Drop::NotOurs);
    }
    if source.is_unspecified() {
        return Ok(Answer {
            target,
            to: None,
            mac: MacAddr::from_ip6_multicast(nd::ALL_NODES),
        });
    }
    let mac = mac
        .filter(|mac| mac.is_unicast())
        .ok_or(Drop::NoLinkAddress)?;
    Ok(Answer {
        target,
        to: Some(source),
        mac,
    })
}

/// Builds the advertisement (RFC 4861 sections 4.4, 7.2.4) where the solicitation stood.
fn advertise(
    packet: &mut Descriptor,
    cx: &mut Context<'_, Snapshot>,
    interface: &Interface,
    answer: &Answer,
) -> Result<Next, Drop> {
    const MESSAGE: usize = NeighbourAdvertisement::LEN + 8;
    const LENGTH: usize = Ip6Header::LEN + MESSAGE;
    let link = Link {
        port: interface.port,
        mtu: interface.mtu,
        vrf: interface.vrf,
        mac: interface.mac,
        tags: interface.tags,
    };
    let link_header = link_header(answer.mac, &link, EtherType::IP6);
    let link_header = link_header.as_slice();
    cx.buffers.truncate_total(packet, LENGTH);
    let missing = LENGTH.saturating_sub(packet.length());
    if !packet.extend(missing) || !packet.retreat(link_header.len()) {
        return Err(Drop::NoRoom);
    }
    let to = answer.to.unwrap_or(nd::ALL_NODES);
    let mut flags = nd::ADVERTISEMENT_ROUTER | nd::ADVERTISEMENT_OVERRIDE;
    if answer.to.is_some() {
        flags |= nd::ADVERTISEMENT_SOLICITED;
    }
    let out = cx.buffers.bytes_mut(packet);
    let (link_layer, out) = out.split_at_mut(link_header.len());
    link_layer.copy_from_slice(link_header);
    let header = wire::ip6::header(answer.target, to, IpProtocol::ICMP6, nd::HOP_LIMIT, MESSAGE);
    if let Ok(place) = Ip6Header::view_mut(out) {
        *place = header;
    }
    let message = &mut out[Ip6Header::LEN..];
    message.fill(0);
    message[0] = Icmp6Type::NEIGHBOUR_ADVERTISEMENT.0;
    message[4] = flags;
    message[8..24].copy_from_slice(&answer.target.octets());
    let option = nd::link_layer_option(nd::option::TARGET_LINK_LAYER, interface.mac);
    message[24..].copy_from_slice(&option);
    let pseudo = Sum::pseudo_header6(&answer.target, &to, IpProtocol::ICMP6, MESSAGE as u32);
    let sum = pseudo.bytes(message).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    cx.buffers.set_offload(packet, None);
    packet.clear_flags(Flags::LINK_BROADCAST);
    packet.set_flags(Flags::LOCAL);
    packet.word = u32::from(interface.port.0);
    let length = packet.length() as u64;
    cx.count(packet.interface, InterfaceCounter::Tx, 1, length);
    Ok(Next::InterfaceOutput)
}

/// The source of the frame that the packet came in, where its link-layer header still stands in front of it and the frame was
/// for this interface alone.
fn frame_source(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    interface: &Interface,
) -> Option<MacAddr> {
    // Untagged, tagged, and with two tags: a priority tag may be one more than the interface's own.
    [14, 18, 22].into_iter().find_map(|length| {
        if !packet.retreat(length) {
            return None;
        }
        let ethernet = wire::EthernetHeader::view(cx.buffers.bytes(packet)).ok();
        let source = ethernet
            .filter(|ethernet| ethernet.dst == interface.mac)
            .map(|ethernet| ethernet.src);
        let back = packet.advance(length);
        debug_assert!(back, "it came from there");
        source
    })
}

fn punt(packet: &Descriptor, cx: &mut Context<'_, Snapshot>) {
    let header = PuntHeader {
        kind: Punt::NeighbourDiscovery as u16,
        interface: packet.interface,
        word: packet.word,
    };
    // A full ring is counted by the engine; the neighbour asks again.
    let _ = cx.punt_packet(header, packet);
}

#[cfg(test)]
mod tests {
    use dataplane::{NodeHarness, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Builder, Eth, Ip6, eth, ip6};

    use super::*;
    use crate::fib::{ForwardingSize, ForwardingWriter, RouteTarget};
    use crate::snapshot::{IcmpLimits, InterfaceAddress, Tags, WorkerState};

    const HOST: &str = "2001:db8::99";
    const ROUTER: &str = "2001:db8::1";
    const GROUP: &str = "ff02::1:ff00:1";
    const POOL: &str = "2001:db8::7:0";
    const HOST_MAC: MacAddr = MacAddr::local(9);
    const ROUTER_MAC: MacAddr = MacAddr::local(1);

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    /// Interface 0 is untagged on port 0, 1 has two tags on port 3, 2 has no IPv6. [`POOL`]/112 is translation's.
    fn harness() -> NodeHarness<Snapshot> {
        let plain = Interface {
            up: true,
            port: PortId(0),
            mac: ROUTER_MAC,
            ip6: vec![InterfaceAddress {
                address: address(ROUTER),
                prefix_len: 64,
            }],
            link_local: Some(address("fe80::1")),
            ..Interface::absent()
        };
        let tagged = Interface {
            port: PortId(3),
            tags: Tags {
                outer: Some((EtherType::VLAN_AD, 6)),
                inner: Some(7),
            },
            ..plain.clone()
        };
        let without = Interface {
            link_local: None,
            ..plain.clone()
        };
        let size = ForwardingSize {
            groups: 8,
            adjacencies: 8,
            buckets: 16,
        };
        let mut writer = ForwardingWriter::new(size, 16);
        writer.add_vrf(0).expect("memory");
        for (net, length) in [("2001:db8::", 128), (POOL, 112), ("2001:db8:9::", 64)] {
            let net = address(net).into();
            writer
                .set_route(0, net, length, RouteTarget::Local)
                .expect("room");
        }
        writer.commit().expect("memory");
        let snapshot = Snapshot {
            interfaces: vec![plain, tagged, without],
            vrfs: vec![writer.vrf(0).expect("the VRF")],
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(NdInput::default, snapshot, state).expect("a harness")
    }

    fn link(destination: MacAddr) -> Builder<Eth> {
        eth(HOST_MAC, destination)
    }

    fn packet(bytes: Vec<u8>) -> TestPacket {
        TestPacket {
            bytes,
            word: 40,
            ..TestPacket::default()
        }
    }

    fn from(source: &str, destination: &str) -> Builder<Ip6> {
        ip6(address(source), address(destination))
    }

    fn solicitation(source: &str, destination: &str, target: &str, mac: bool) -> TestPacket {
        let mac = mac.then_some(MacAddr::local(77));
        let message = from(source, destination).neighbour_solicitation(address(target), mac);
        packet(message.build())
    }

    /// What is sent, or why not; and how many punts.
    fn fate(packet: TestPacket) -> (Result<TestPacket, &'static str>, usize) {
        let mut harness = harness();
        let mut out = harness.run(vec![packet.clone()]);
        let drops = harness.drops();
        let punts = harness.punts();
        for (header, bytes) in &punts {
            assert_eq!(Punt::from_kind(header.kind), Some(Punt::NeighbourDiscovery));
            assert_eq!(
                (header.interface, header.word),
                (packet.interface, packet.word)
            );
            assert_eq!(*bytes, packet.bytes);
        }
        let result = match (out.pop(), &drops[..]) {
            (Some(out), []) => {
                assert_eq!(out.node, "interface-output");
                let sent = harness.interface(packet.interface, InterfaceCounter::Tx);
                assert_eq!(sent, (1, out.packet.bytes.len() as u64));
                Ok(out.packet)
            }
            (None, [(name, 1)]) => Err(*name),
            other => panic!("{other:?}"),
        };
        harness.audit().expect("balanced");
        (result, punts.len())
    }

    const ANSWER: u8 =
        nd::ADVERTISEMENT_ROUTER | nd::ADVERTISEMENT_SOLICITED | nd::ADVERTISEMENT_OVERRIDE;

    #[test]
    fn solicitations_for_our_addresses_are_answered() {
        for (source, group, target) in [
            (HOST, GROUP, ROUTER),
            (HOST, ROUTER, ROUTER),
            ("fe80::99", "ff02::1:ff00:1", "fe80::1"),
        ] {
            let (sent, punts) = fate(solicitation(source, group, target, true));
            let expected = eth(ROUTER_MAC, MacAddr::local(77))
                .ip6(address(target), address(source))
                .neighbour_advertisement(address(target), ANSWER, Some(ROUTER_MAC));
            let sent = sent.expect("an advertisement");
            assert_eq!(sent.bytes, expected.build());
            assert_eq!((sent.word, punts), (0, 1));
            assert!(sent.flags.contains(Flags::LOCAL));
        }
    }

    #[test]
    fn answers_carry_the_interfaces_tags() {
        let asked = TestPacket {
            interface: 1,
            ..solicitation(HOST, GROUP, ROUTER, true)
        };
        let sent = fate(asked).0.expect("an advertisement");
        let expected = eth(ROUTER_MAC, MacAddr::local(77))
            .qinq(6, 7)
            .ip6(address(ROUTER), address(HOST))
            .neighbour_advertisement(address(ROUTER), ANSWER, Some(ROUTER_MAC));
        assert_eq!((sent.bytes, sent.word), (expected.build(), 3));
    }

    #[test]
    fn addresses_of_translation_are_answered_for_on_their_link() {
        for target in [POOL, "2001:db8::7:1", "2001:db8::7:ffff"] {
            let group = nd::solicited_node(address(target)).to_string();
            let (sent, punts) = fate(solicitation(HOST, &group, target, true));
            let expected = eth(ROUTER_MAC, MacAddr::local(77))
                .ip6(address(target), address(HOST))
                .neighbour_advertisement(address(target), ANSWER, Some(ROUTER_MAC));
            assert_eq!(sent.expect("an advertisement").bytes, expected.build());
            assert_eq!(punts, 1);
        }
        // The subnet's own address, the one behind the pool, and a local one that is not on the link.
        for target in ["2001:db8::", "2001:db8::8:0", "2001:db8:9::1"] {
            let group = nd::solicited_node(address(target)).to_string();
            let (sent, _) = fate(solicitation(HOST, &group, target, true));
            assert_eq!(sent.err(), Some("not-ours"), "{target}");
        }
    }

    #[test]
    fn a_probe_for_our_address_is_answered_to_all() {
        let (sent, punts) = fate(solicitation("::", GROUP, ROUTER, false));
        let flags = nd::ADVERTISEMENT_ROUTER | nd::ADVERTISEMENT_OVERRIDE;
        let expected = eth(ROUTER_MAC, [0x33, 0x33, 0, 0, 0, 1])
            .ip6(address(ROUTER), nd::ALL_NODES)
            .neighbour_advertisement(address(ROUTER), flags, Some(ROUTER_MAC));
        assert_eq!(sent.expect("an advertisement").bytes, expected.build());
        assert_eq!(punts, 0, "there is nobody to learn");
    }

    #[test]
    fn without_an_option_the_frame_says_whom_to_answer() {
        let asked = || solicitation(HOST, ROUTER, ROUTER, false);
        let frames = [
            link(ROUTER_MAC).raw(0x86dd, &[]).build(),
            link(ROUTER_MAC).vlan(0).raw(0x86dd, &[]).build(),
            link(ROUTER_MAC).qinq(6, 7).raw(0x86dd, &[]).build(),
        ];
        for before in frames {
            let (sent, punts) = fate(TestPacket { before, ..asked() });
            assert_eq!(
                sent.expect("an advertisement").bytes[..6],
                HOST_MAC.octets()
            );
            assert_eq!(punts, 0);
        }
        let group = MacAddr::from_ip6_multicast(address(GROUP));
        let before = link(group).raw(0x86dd, &[]).build();
        let (dropped, _) = fate(TestPacket { before, ..asked() });
        assert_eq!(dropped.err(), Some("no-link-address"));
    }

    #[test]
    fn what_is_not_for_us_is_not_answered() {
        let drop_of = |packet| fate(packet).0.err();
        let others = "2001:db8::2";
        let asked = solicitation(HOST, "ff02::1:ff00:2", others, true);
        assert_eq!(drop_of(asked), Some("not-ours"));
        for (source, destination) in [(HOST, "ff02::1"), ("ff02::1", ROUTER), ("::1", ROUTER)] {
            let asked = solicitation(source, destination, ROUTER, true);
            assert_eq!(drop_of(asked), Some("bad-address"));
        }
        let gone = TestPacket {
            interface: 2,
            ..solicitation(HOST, GROUP, ROUTER, true)
        };
        assert_eq!(drop_of(gone), Some("no-interface"));
        let broadcast =
            from(HOST, GROUP).neighbour_solicitation(address(ROUTER), Some(MacAddr::BROADCAST));
        assert_eq!(drop_of(packet(broadcast.build())), Some("no-link-address"));
    }

    #[test]
    fn rfc_4861_is_enforced() {
        let drop_of = |packet| fate(packet).0.err();
        let ns = || from(HOST, GROUP);
        let far = ns()
            .hop_limit(64)
            .neighbour_solicitation(address(ROUTER), None);
        assert_eq!(drop_of(packet(far.build())), Some("bad-hop-limit"));
        let sum = ns()
            .neighbour_solicitation(address(ROUTER), None)
            .checksum(1);
        assert_eq!(drop_of(packet(sum.build())), Some("bad-checksum"));
        let empty = ns()
            .neighbour_solicitation(address(ROUTER), None)
            .option(&[9, 0]);
        assert_eq!(drop_of(packet(empty.build())), Some("malformed"));
        let code = ns().hop_limit(255).icmp6(135, 1, [0; 4]).payload(&[1; 16]);
        assert_eq!(drop_of(packet(code.build())), Some("malformed"));
        let short = ns().hop_limit(255).icmp6(135, 0, [0; 4]).payload(&[1; 15]);
        assert_eq!(drop_of(packet(short.build())), Some("malformed"));
        let group = ns().neighbour_solicitation(address("ff02::1"), None);
        assert_eq!(drop_of(packet(group.build())), Some("bad-address"));
        for probe in [
            solicitation("::", GROUP, ROUTER, true),
            solicitation("::", ROUTER, ROUTER, false),
        ] {
            assert_eq!(drop_of(probe), Some("bad-address"));
        }
        let fragment = ns()
            .fragment(1, 0, false)
            .neighbour_solicitation(address(ROUTER), None);
        let fragment = TestPacket {
            word: 48,
            ..packet(fragment.build())
        };
        assert_eq!(drop_of(fragment), Some("fragment"));
        let words = [0, 39, 41, 64, 72, u32::MAX];
        for word in words {
            let asked = TestPacket {
                word,
                ..solicitation(HOST, GROUP, ROUTER, true)
            };
            assert_eq!(drop_of(asked), Some("malformed"));
        }
    }

    #[test]
    fn options_in_front_do_not_lengthen_the_answer() {
        let asked = from(HOST, ROUTER)
            .destination_options(&[0; 30])
            .neighbour_solicitation(address(ROUTER), Some(HOST_MAC));
        let mut asked = TestPacket {
            word: 40 + 32,
            ..packet(asked.build())
        };
        // The builder gives hop limits to what stands directly behind IPv6 alone.
        asked.bytes[7] = 255;
        let (sent, punts) = fate(asked);
        assert_eq!(
            (sent.expect("an advertisement").bytes.len(), punts),
            (86, 1)
        );
    }

    #[test]
    fn other_messages_are_counted_and_advertisements_shown() {
        let host = address(HOST);
        let messages = [
            (
                from(HOST, ROUTER)
                    .neighbour_advertisement(host, 0x60, Some(HOST_MAC))
                    .build(),
                "advertisement",
                1,
            ),
            (
                from(HOST, "ff02::1")
                    .neighbour_advertisement(host, 0x20, None)
                    .build(),
                "advertisement",
                1,
            ),
            (
                from(HOST, "ff02::1")
                    .neighbour_advertisement(host, 0x40, None)
                    .build(),
                "bad-address",
                0,
            ),
            (
                from(HOST, "ff02::2").router_solicitation().build(),
                "router-solicitation",
                0,
            ),
            (
                from("fe80::9", "ff02::1")
                    .router_advertisement(0, 9)
                    .build(),
                "router-advertisement",
                0,
            ),
            (
                from("fe80::9", ROUTER).redirect6(host, host).build(),
                "redirect",
                0,
            ),
        ];
        for (bytes, name, count) in messages {
            let (dropped, punts) = fate(packet(bytes));
            assert_eq!((dropped.err(), punts), (Some(name), count));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_packet_leaves_once(
            packets in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..120), any::<bool>(), 0u32..100, 0u16..4,
                 prop::collection::vec((0usize..80, any::<u8>()), 0..4)), 1..30)
        ) {
            let mut harness = harness();
            let count = packets.len();
            let packets = packets.into_iter().map(|(bytes, valid, word, interface, changes)| {
                let mut packet = solicitation(HOST, GROUP, ROUTER, word % 2 == 0);
                if !valid {
                    packet.bytes = bytes;
                    packet.word = word;
                }
                for (at, value) in changes {
                    if let Some(byte) = packet.bytes.get_mut(at) {
                        *byte = value;
                    }
                }
                TestPacket { interface, ..packet }
            });
            let out = harness.run(packets.collect());
            let dropped: u64 = harness.drops().iter().map(|(_, count)| *count).sum();
            prop_assert_eq!(out.len() + dropped as usize, count);
            prop_assert!(!harness.drops().iter().any(|(name, _)| *name == "undecided"));
            prop_assert_eq!(harness.audit(), Ok(()));
        }
    }
}
