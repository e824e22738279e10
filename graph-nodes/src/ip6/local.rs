//! `ip6-local`: takes in IPv6 packets that are for this node.
//!
//! - Input: packets at their IPv6 header, validated by `ip6-input`, for an address of this node or a multicast group; word unused.
//! - Output: to `icmp6-input` word = offset of the ICMPv6 header from the IPv6 header, to `icmp6-error` word = `ErrorWord`.
//! - Reads: snapshot.interfaces, snapshot.nat
//! - State: none
//! - Standard: RFC 8200 section 4, RFC 5095, RFC 6946, RFC 4291 section 2.8, RFC 4443 section 2.4 (e)
//! - Cost: exception path

use core::net::Ipv6Addr;

use dataplane::{Context, Descriptor, Frame, Node, Verdict};
use wire::icmp6::{parameter_problem, unreachable};
use wire::ip6::{
    DEFAULT_EXTENSION_LIMIT, FragmentHeader, UnknownOptionAction, option, unknown_option_action,
    walk_extensions,
};
use wire::{Header, Icmp6Type, Ip6Header, IpProtocol, ParseError, nd};

use crate::icmp::ErrorWord;
use crate::snapshot::{Interface, Snapshot};

dataplane::next_nodes! {
    /// Where `ip6-local` sends packets.
    pub enum Next { Icmp6Input => "icmp6-input", Icmp6Error => "icmp6-error" }
}

dataplane::drop_reasons! {
    /// Why `ip6-local` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet ends inside its headers, or they are not whole in its first buffer",
        NoInterface = "no-interface": "The receiving interface is gone or not up",
        NotJoined = "not-joined": "The packet is for a multicast group that this node is not in",
        TooManyHeaders = "too-many-headers": "The packet has more than 8 extension headers",
        BadHeader = "bad-header": "An extension header is malformed or stands in the wrong place",
        BadOption = "bad-option": "An option reaches beyond its header",
        UnknownOption = "unknown-option": "An option that is not known asks for the packet to be discarded silently",
        Reassembly = "reassembly": "The packet is a fragment, and this node reassembles none",
        NoNextHeader = "no-next-header": "The packet carries nothing",
        Multicast = "multicast": "Nobody here takes the packet, and packets to groups are not answered by errors",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip6Local;

impl Node<Snapshot> for Ip6Local {
    const NAME: &'static str = "ip6-local";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match deliver(packet, cx) {
                Ok(Delivery::Icmp6(offset)) => {
                    packet.word = offset;
                    Next::Icmp6Input.into()
                }
                Ok(Delivery::Error(error)) => {
                    packet.word = error.to_word();
                    Next::Icmp6Error.into()
                }
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

enum Delivery {
    /// ICMPv6, this many bytes behind the start of the IPv6 header.
    Icmp6(u32),
    Error(ErrorWord),
}

/// Goes through the headers in the order in which they stand (RFC 8200 section 4).
fn deliver(packet: &Descriptor, cx: &Context<'_, Snapshot>) -> Result<Delivery, Drop> {
    let (header, rest) = Ip6Header::parse(cx.buffers.bytes(packet)).map_err(|_| Drop::Truncated)?;
    let interface = cx.snapshot.interface(packet.interface);
    let interface = interface.ok_or(Drop::NoInterface)?;
    let multicast = header.destination().is_multicast();
    if multicast {
        let group = header.destination();
        if !is_joined(interface, group) && !may_solicit(interface, group, cx.snapshot) {
            return Err(Drop::NotJoined);
        }
    }
    let payload = &rest[..rest.len().min(header.payload_length.get().into())];
    let chain = walk_extensions(header.next_header, payload, DEFAULT_EXTENSION_LIMIT);
    if let Some(error) = extensions(header.next_header, &payload[..chain.offset], multicast)? {
        return report(error, multicast);
    }
    let unknown_here = ErrorWord::new(
        Icmp6Type::PARAMETER_PROBLEM.0,
        parameter_problem::NEXT_HEADER,
    )
    .with_parameter(chain.next_header_at as u16);
    match chain.fault {
        None => {}
        // RFC 8200 section 4: hop-by-hop options behind another header are an unknown header.
        Some(ParseError::BadOrder) if chain.protocol == IpProtocol::HOP_BY_HOP => {
            return report(unknown_here, multicast);
        }
        Some(ParseError::TooManyHeaders) => return Err(Drop::TooManyHeaders),
        Some(ParseError::Truncated) => return Err(Drop::Truncated),
        Some(_) => return Err(Drop::BadHeader),
    }
    match chain.protocol {
        IpProtocol::ICMP6 => Ok(Delivery::Icmp6((Ip6Header::LEN + chain.offset) as u32)),
        IpProtocol::NO_NEXT_HEADER => Err(Drop::NoNextHeader),
        IpProtocol::UDP | IpProtocol::TCP => {
            let kind = Icmp6Type::DESTINATION_UNREACHABLE.0;
            report(ErrorWord::new(kind, unreachable::PORT), multicast)
        }
        _ => report(unknown_here, multicast),
    }
}

/// RFC 4443 section 2.4 (e): about packets to groups, only an unknown option is reported.
fn report(error: ErrorWord, multicast: bool) -> Result<Delivery, Drop> {
    let option =
        error.kind == Icmp6Type::PARAMETER_PROBLEM.0 && error.code == parameter_problem::OPTION;
    if multicast && !option {
        return Err(Drop::Multicast);
    }
    Ok(Delivery::Error(error))
}

/// Acts upon the extension headers in `headers`, which `walk_extensions` stepped over. Returns the error to report.
fn extensions(
    first: IpProtocol,
    headers: &[u8],
    multicast: bool,
) -> Result<Option<ErrorWord>, Drop> {
    let problem = |code, pointer: usize| {
        let error = ErrorWord::new(Icmp6Type::PARAMETER_PROBLEM.0, code);
        Ok(Some(error.with_parameter(pointer as u16)))
    };
    let mut protocol = first;
    // Where the field stands that named the header at hand, from the start of the IPv6 header.
    let mut named_at = 6;
    let mut at = 0;
    while let Some(&[next, length, _, segments_left]) = headers.get(at..at + 4) {
        let length = match protocol {
            IpProtocol::FRAGMENT => FragmentHeader::LEN,
            // No security association here could have checked it.
            IpProtocol::AH => return problem(parameter_problem::NEXT_HEADER, named_at),
            _ => (usize::from(length) + 1) * 8,
        };
        let header = headers.get(at..at + length).ok_or(Drop::BadHeader)?;
        let pointer = Ip6Header::LEN + at;
        match protocol {
            IpProtocol::HOP_BY_HOP | IpProtocol::DESTINATION_OPTIONS => {
                if let Some(offset) = options(header, multicast)? {
                    return problem(parameter_problem::OPTION, pointer + offset);
                }
            }
            // RFC 8200 section 4.4, RFC 5095: no type of source route is followed; one that has ended is ignored.
            IpProtocol::ROUTING if segments_left != 0 => {
                return problem(parameter_problem::HEADER_FIELD, pointer + 2);
            }
            IpProtocol::FRAGMENT => {
                let (fragment, _) = FragmentHeader::parse(header).map_err(|_| Drop::BadHeader)?;
                // RFC 6946: a fragment that is the whole packet needs no reassembly.
                if !fragment.is_atomic() {
                    return Err(Drop::Reassembly);
                }
            }
            _ => {}
        }
        protocol = IpProtocol(next);
        named_at = pointer;
        at += length;
    }
    Ok(None)
}

/// Goes through the options of a header (RFC 8200 section 4.2); returns where, from the header's start, an unknown one stands
/// that must be reported.
fn options(header: &[u8], multicast: bool) -> Result<Option<usize>, Drop> {
    let mut at = 2;
    while let Some(&kind) = header.get(at) {
        if kind == option::PAD1 {
            at += 1;
            continue;
        }
        let length = header.get(at + 1).ok_or(Drop::BadOption)?;
        let end = at + 2 + usize::from(*length);
        if end > header.len() {
            return Err(Drop::BadOption);
        }
        // Padding and router alert ask to be skipped anyway. Jumbograms are not supported, so their option is unknown.
        match unknown_option_action(kind) {
            UnknownOptionAction::Skip => {}
            UnknownOptionAction::DiscardReportUnicast if multicast => {
                return Err(Drop::UnknownOption);
            }
            UnknownOptionAction::Discard => return Err(Drop::UnknownOption),
            UnknownOptionAction::DiscardReport | UnknownOptionAction::DiscardReportUnicast => {
                return Ok(Some(at));
            }
        }
        at = end;
    }
    Ok(None)
}

/// True for the groups that a router is in on this interface (RFC 4291 section 2.8).
fn is_joined(interface: &Interface, group: Ipv6Addr) -> bool {
    const INTERFACE_NODES: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
    const INTERFACE_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 2);
    const SITE_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2);
    if matches!(
        group,
        nd::ALL_NODES | nd::ALL_ROUTERS | INTERFACE_NODES | INTERFACE_ROUTERS | SITE_ROUTERS
    ) {
        return true;
    }
    let addresses = interface.ip6.iter().map(|configured| configured.address);
    addresses
        .chain(interface.link_local)
        .any(|address| nd::solicited_node(address) == group)
}

/// True for groups of solicitations where there may be addresses of translation: those are too many to know the groups of all, so
/// `nd-input` finds out whether one is meant.
fn may_solicit(interface: &Interface, group: Ipv6Addr, snapshot: &Snapshot) -> bool {
    nd::solicited_node(group) == group && snapshot.nat.ip6.destination_of(interface.vrf).is_some()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dataplane::{NodeHarness, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Builder, Ip6, ip6};

    use super::*;
    use crate::nat::{DestinationRules, Nat};
    use crate::snapshot::{IcmpLimits, InterfaceAddress, WorkerState};

    const HOST: &str = "2001:db8::99";
    const ROUTER: &str = "2001:db8::1";

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    fn harness(nat: Nat) -> NodeHarness<Snapshot> {
        let interface = Interface {
            up: true,
            ip6: vec![InterfaceAddress {
                address: address(ROUTER),
                prefix_len: 64,
            }],
            link_local: Some(address("fe80::1")),
            ..Interface::absent()
        };
        let snapshot = Snapshot {
            interfaces: vec![interface, Interface::absent()],
            nat,
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(Ip6Local::default, snapshot, state).expect("a harness")
    }

    fn to(destination: &str) -> Builder<Ip6> {
        ip6(address(HOST), address(destination))
    }

    /// Where one packet goes: node and word, or drop.
    fn fate(bytes: Vec<u8>) -> (&'static str, u32) {
        fate_with(Nat::default(), bytes)
    }

    fn fate_with(nat: Nat, bytes: Vec<u8>) -> (&'static str, u32) {
        let mut harness = harness(nat);
        let packet = TestPacket {
            bytes: bytes.clone(),
            ..TestPacket::default()
        };
        let out = harness.run(vec![packet]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match (&out[..], &drops[..]) {
            ([out], []) => {
                assert_eq!(out.packet.bytes, bytes);
                (out.node, out.packet.word)
            }
            ([], [(name, 1)]) => (name, 0),
            _ => panic!("{out:?} {drops:?}"),
        }
    }

    fn error(kind: u8, code: u8, parameter: u16) -> (&'static str, u32) {
        let error = ErrorWord::new(kind, code).with_parameter(parameter);
        ("icmp6-error", error.to_word())
    }

    #[test]
    fn icmp6_is_found_behind_any_headers() {
        let padding = [1, 4, 0, 0, 0, 0];
        assert_eq!(
            fate(to(ROUTER).icmp6_echo(1, 1).build()),
            ("icmp6-input", 40)
        );
        let packet = to(ROUTER)
            .hop_by_hop(&padding)
            .routing(4, 0, &[0; 20])
            .fragment(7, 0, false)
            .destination_options(&[0x1e, 1, 9, 0, 0, 0])
            .icmp6_echo(1, 1);
        assert_eq!(fate(packet.build()), ("icmp6-input", 40 + 8 + 24 + 8 + 8));
        // What lies behind the payload length is link padding and no part of the packet.
        let short = to(ROUTER).payload_length(8).destination_options(&[0; 14]);
        assert_eq!(fate(short.build()).0, "truncated");
    }

    #[test]
    fn groups_of_a_router_are_joined_and_no_others() {
        let joined = [
            "ff02::1",
            "ff02::2",
            "ff01::1",
            "ff01::2",
            "ff05::2",
            "ff02::1:ff00:1",
        ];
        for group in joined {
            assert_eq!(fate(to(group).icmp6_echo(1, 1).build()).0, "icmp6-input");
        }
        for group in ["ff02::16", "ff02::1:ff00:2", "ff0e::1"] {
            assert_eq!(fate(to(group).icmp6_echo(1, 1).build()).0, "not-joined");
        }
        // With addresses of translation, any of them may be asked for.
        let mut nat = Nat::default();
        let externals = [(0x2001_0db8 << 96, 0x2001_0db8 << 96 | 0xffff)];
        let rules = DestinationRules::new(&[], &externals);
        nat.ip6.destination = vec![Some(Arc::new(rules))];
        for (group, expected) in [
            ("ff02::1:ff00:2", "icmp6-input"),
            ("ff02::1:2", "not-joined"),
            ("ff02::16", "not-joined"),
        ] {
            let packet = to(group).icmp6_echo(1, 1).build();
            assert_eq!(fate_with(nat.clone(), packet).0, expected, "{group}");
        }
    }

    #[test]
    fn what_nobody_takes_is_unreachable() {
        assert_eq!(fate(to(ROUTER).udp(1, 2).build()), error(1, 4, 0));
        assert_eq!(fate(to(ROUTER).tcp(1, 2).build()), error(1, 4, 0));
        assert_eq!(fate(to(ROUTER).raw(89, &[0; 8]).build()), error(4, 1, 6));
        let behind = to(ROUTER).destination_options(&[0; 6]).raw(50, &[0; 8]);
        assert_eq!(fate(behind.build()), error(4, 1, 40));
        let auth = to(ROUTER).auth(1, 2, &[0; 12]).icmp6_echo(1, 1);
        assert_eq!(fate(auth.build()), error(4, 1, 6));
        for packet in [
            to("ff02::1").udp(1, 2).build(),
            to("ff02::1").raw(89, &[0; 8]).build(),
        ] {
            assert_eq!(fate(packet).0, "multicast");
        }
        assert_eq!(fate(to(ROUTER).raw(59, &[]).build()).0, "no-next-header");
    }

    #[test]
    fn unknown_options_do_what_their_number_says() {
        let with = |destination: &str, kind: u8| {
            let options = [0, 0, kind, 2, 0, 0];
            let packet = to(destination).destination_options(&options);
            packet.icmp6_echo(1, 1).build()
        };
        let hop = to(ROUTER).hop_by_hop(&[5, 2, 0, 0, 0xc2, 0]);
        assert_eq!(fate(with(ROUTER, 0x1e)).0, "icmp6-input");
        assert_eq!(fate(with(ROUTER, 0x5e)).0, "unknown-option");
        assert_eq!(fate(with(ROUTER, 0x9e)), error(4, 2, 44));
        assert_eq!(fate(with(ROUTER, 0xde)), error(4, 2, 44));
        assert_eq!(fate(with("ff02::1", 0x9e)), error(4, 2, 44));
        assert_eq!(fate(with("ff02::1", 0xde)).0, "unknown-option");
        assert_eq!(fate(hop.icmp6_echo(1, 1).build()), error(4, 2, 46));
        let long = to(ROUTER).destination_options(&[1, 200, 0, 0, 0, 0]);
        assert_eq!(fate(long.icmp6_echo(1, 1).build()).0, "bad-option");
    }

    #[test]
    fn headers_that_cannot_be_followed_end_there() {
        let route = to(ROUTER).routing(0, 1, &[0; 20]).icmp6_echo(1, 1);
        assert_eq!(fate(route.build()), error(4, 0, 42));
        let group = to("ff02::1").routing(0, 1, &[0; 20]).icmp6_echo(1, 1);
        assert_eq!(fate(group.build()).0, "multicast");
        let late = to(ROUTER).destination_options(&[0; 6]).hop_by_hop(&[0; 6]);
        assert_eq!(fate(late.icmp6_echo(1, 1).build()), error(4, 1, 40));
        for (offset, more) in [(0, true), (8, true), (8, false)] {
            let fragment = to(ROUTER).fragment(7, offset, more).icmp6_echo(1, 1);
            assert_eq!(fate(fragment.build()).0, "reassembly");
        }
        let twice = to(ROUTER).fragment(7, 0, false).fragment(7, 0, false);
        assert_eq!(fate(twice.icmp6_echo(1, 1).build()).0, "bad-header");
        let mut many = to(ROUTER).destination_options(&[0; 6]);
        for _ in 0..8 {
            many = many.destination_options(&[0; 6]);
        }
        assert_eq!(fate(many.icmp6_echo(1, 1).build()).0, "too-many-headers");
        assert_eq!(fate(vec![0x60; 39]).0, "truncated");
        let gone = TestPacket {
            bytes: to(ROUTER).icmp6_echo(1, 1).build(),
            interface: 1,
            ..TestPacket::default()
        };
        let mut harness = harness(Nat::default());
        assert_eq!(harness.run(vec![gone]), []);
        assert_eq!(harness.drops(), [("no-interface", 1)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_packet_leaves_once(
            packets in prop::collection::vec(
                (prop::sample::select(vec![0u8, 43, 44, 51, 58, 60, 200]), prop::collection::vec(any::<u8>(), 0..200),
                 any::<bool>(), prop::option::of(any::<u16>())), 1..30)
        ) {
            let mut harness = harness(Nat::default());
            let count = packets.len();
            let packets = packets.into_iter().map(|(next, payload, multicast, length)| {
                let group = if multicast { "ff02::1" } else { ROUTER };
                let mut bytes = to(group).raw(next, &payload).build();
                if let Some(length) = length {
                    bytes[4..6].copy_from_slice(&(length % 256).to_be_bytes());
                }
                TestPacket { bytes, ..TestPacket::default() }
            });
            let out = harness.run(packets.collect());
            let dropped: u64 = harness.drops().iter().map(|(_, count)| *count).sum();
            prop_assert_eq!(out.len() + dropped as usize, count);
            prop_assert!(!harness.drops().iter().any(|(name, _)| *name == "undecided"));
            for out in out.iter().filter(|out| out.node == "icmp6-input") {
                prop_assert!(out.packet.word >= 40);
            }
            prop_assert_eq!(harness.audit(), Ok(()));
        }
    }
}
