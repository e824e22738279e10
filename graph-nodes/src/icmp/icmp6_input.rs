//! `icmp6-input`: answers echo requests, hands neighbour discovery on, and counts the rest.
//!
//! - Input: packets at their IPv6 header for this node; word = offset of the ICMPv6 header from it.
//! - Output: echo replies at their IPv6 header to `ip6-lookup`, or to `ip6-policy` where requests may have come in untracked, flag LOCAL, word unused; neighbour discovery as it came to `nd-input`.
//! - Reads: snapshot.interfaces, snapshot.policy
//! - State: none
//! - Standard: RFC 4443 sections 2.1, 2.3 and 4
//! - Cost: exception path

use dataplane::{Context, Descriptor, Flags, Frame, Node, Segmentation, Verdict};
use wire::checksum::{Sum, update16};
use wire::{Header, Icmp6Header, Icmp6Type, Ip6Header, IpProtocol};

use super::icmp6_error::{source_address, write_header};
use crate::icmp::TTL;
use crate::output::checksum;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `icmp6-input` sends packets.
    pub enum Next { Lookup => "ip6-lookup", NdInput => "nd-input", Policy => "ip6-policy" }
}

dataplane::drop_reasons! {
    /// Why `icmp6-input` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet ends inside its ICMPv6 header, or before its payload length says",
        BadChecksum = "bad-checksum": "The ICMPv6 checksum is wrong",
        BadOffload = "bad-offload": "The packet comes as a segment train, which ICMPv6 has none of, or its checksum cannot be placed",
        BadSource = "bad-source": "An echo request's source is no address to answer to",
        NoSourceAddress = "no-source-address": "The interface has no IPv6 address to answer a multicast echo request from",
        Error = "error": "An ICMPv6 error about a packet of this node: nothing here asked for it",
        EchoReply = "echo-reply": "An echo reply: nothing here asked for it",
        Multicast = "multicast-listener": "Multicast listener discovery: this router forwards no multicast",
        UnknownType = "unknown-type": "A message of a type that is not known",
    }
}

/// See the module.
#[derive(Default)]
pub struct Icmp6Input;

impl Node<Snapshot> for Icmp6Input {
    const NAME: &'static str = "icmp6-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match answer(packet, cx) {
                Ok(next) => next.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

fn answer(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<Next, Drop> {
    let offset = packet.word as usize;
    let bytes = cx.buffers.bytes(packet);
    let (header, _) = Ip6Header::parse(bytes).map_err(|_| Drop::Truncated)?;
    let icmp = bytes.get(offset..).ok_or(Drop::Truncated)?;
    let kind = Icmp6Header::view(icmp)
        .map_err(|_| Drop::Truncated)?
        .icmp_type;
    let end = Ip6Header::LEN + usize::from(header.payload_length.get());
    // The message, by the header's length; the pseudo-header counts no extension headers (RFC 8200 section 8.1).
    let length = end.checked_sub(offset).ok_or(Drop::Truncated)?;
    if offset < Ip6Header::LEN || length < Icmp6Header::LEN || cx.buffers.total_length(packet) < end
    {
        return Err(Drop::Truncated);
    }
    let pseudo = header.pseudo_header(IpProtocol::ICMP6, length as u32);
    cx.buffers.truncate_total(packet, end);
    verify(packet, cx, offset, pseudo)?;
    match kind {
        Icmp6Type::ECHO_REQUEST => {
            echo(packet, cx, offset, length)?;
            Ok(if cx.snapshot.policy.judges_answers(packet.interface) {
                Next::Policy
            } else {
                Next::Lookup
            })
        }
        kind if kind.is_neighbour_discovery() => Ok(Next::NdInput),
        kind if kind.is_error() => Err(Drop::Error),
        Icmp6Type::ECHO_REPLY => Err(Drop::EchoReply),
        Icmp6Type::MULTICAST_LISTENER_QUERY
        | Icmp6Type::MULTICAST_LISTENER_REPORT
        | Icmp6Type::MULTICAST_LISTENER_DONE
        | Icmp6Type::MULTICAST_LISTENER_REPORT_V2 => Err(Drop::Multicast),
        _ => Err(Drop::UnknownType),
    }
}

/// Verifies the checksum over all segments, or fills it in where the sender, on this machine, left that to us.
fn verify(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    offset: usize,
    pseudo: Sum,
) -> Result<(), Drop> {
    if let Some(offload) = cx.buffers.offload(packet) {
        let field = checksum::positions(packet, &offload).map(|(_, field)| field);
        if offload.segmentation != Segmentation::None
            || offload.checksum && field != Some(offset + 2)
            || offload.checksum && !checksum::fill(cx.buffers, packet, &offload)
        {
            return Err(Drop::BadOffload);
        }
        cx.buffers.set_offload(packet, None);
        if offload.checksum {
            return Ok(());
        }
    }
    if packet.flags().contains(Flags::CHECKSUM_GOOD) {
        return Ok(());
    }
    let mut sum = pseudo;
    let mut skip = offset;
    for segment in cx.buffers.segments(packet) {
        sum = sum.bytes(segment.get(skip..).unwrap_or_default());
        skip = 0;
    }
    if sum.is_valid() {
        Ok(())
    } else {
        Err(Drop::BadChecksum)
    }
}

/// Turns a request into its reply (RFC 4443 section 4.2): the same data, without the request's extension headers.
fn echo(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    offset: usize,
    length: usize,
) -> Result<(), Drop> {
    let bytes = cx.buffers.bytes(packet);
    let request = *Ip6Header::view(bytes).map_err(|_| Drop::Truncated)?;
    let to = request.source();
    if to.is_unspecified() || to.is_multicast() {
        return Err(Drop::BadSource);
    }
    let from = if request.destination().is_multicast() {
        let interface = cx.snapshot.interface(packet.interface);
        interface
            .and_then(|interface| source_address(interface, to))
            .ok_or(Drop::NoSourceAddress)?
    } else {
        request.destination()
    };
    if !packet.advance(offset - Ip6Header::LEN) {
        return Err(Drop::Truncated);
    }
    let bytes = cx.buffers.bytes_mut(packet);
    let mut reply = wire::ip6::header(from, to, IpProtocol::ICMP6, TTL, length);
    reply.set_traffic_class(request.traffic_class());
    write_header(&reply, bytes);
    let icmp = Icmp6Header::view_mut(&mut bytes[Ip6Header::LEN..]).map_err(|_| Drop::Truncated)?;
    let (kind, code) = (icmp.icmp_type, icmp.code);
    icmp.icmp_type = Icmp6Type::ECHO_REPLY;
    icmp.code = 0;
    let first = |kind: Icmp6Type, code| u16::from_be_bytes([kind.0, code]);
    let sum = update16(
        icmp.checksum.get(),
        first(kind, code),
        first(Icmp6Type::ECHO_REPLY, 0),
    );
    // The pseudo-header's addresses changed places, which its sum does not show, unless the source is another.
    let delta = wire::checksum::Delta::of_ip6(&request.destination(), &from);
    icmp.checksum.set(delta.apply(sum));
    packet.clear_flags(Flags::LINK_BROADCAST);
    packet.set_flags(Flags::LOCAL);
    Ok(())
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use dataplane::{NodeHarness, Offload, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Builder, Ip6, ip6};

    use super::*;
    use crate::snapshot::{IcmpLimits, Interface, InterfaceAddress, WorkerState};

    const HOST: &str = "2001:db8::99";
    const ROUTER: &str = "2001:db8::1";

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    /// Interface 0 has a global and a link-local address, 1 none.
    fn harness() -> NodeHarness<Snapshot> {
        let first = Interface {
            up: true,
            ip6: vec![InterfaceAddress {
                address: address(ROUTER),
                prefix_len: 64,
            }],
            link_local: Some(address("fe80::1")),
            ..Interface::absent()
        };
        let second = Interface {
            up: true,
            ..Interface::absent()
        };
        let snapshot = Snapshot {
            interfaces: vec![first, second],
            ..Snapshot::default()
        };
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(Icmp6Input::default, snapshot, state).expect("a harness")
    }

    fn to(destination: &str) -> Builder<Ip6> {
        ip6(address(HOST), address(destination))
    }

    fn packet(bytes: Vec<u8>) -> TestPacket {
        TestPacket {
            bytes,
            word: 40,
            ..TestPacket::default()
        }
    }

    /// Node and packet, or drop.
    fn fate(packet: TestPacket) -> Result<(&'static str, TestPacket), &'static str> {
        let mut harness = harness();
        let mut out = harness.run(vec![packet]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match (out.pop(), &drops[..]) {
            (Some(out), []) => Ok((out.node, out.packet)),
            (None, [(name, 1)]) => Err(name),
            other => panic!("{other:?}"),
        }
    }

    fn reply(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        ip6(address(from), address(to))
            .icmp6_echo_reply(7, 9)
            .payload(payload)
            .build()
    }

    #[test]
    fn echo_requests_are_answered_from_their_destination() {
        for length in [0, 1, 56, 1400, 9000, 60_000] {
            let payload: Vec<u8> = (0..length).map(|i| (i * 3) as u8).collect();
            let mut request = packet(to(ROUTER).icmp6_echo(7, 9).payload(&payload).build());
            request.bytes.extend_from_slice(&[0; 3]);
            let (node, sent) = fate(request).expect("a reply");
            assert_eq!(node, "ip6-lookup");
            assert_eq!(sent.bytes, reply(ROUTER, HOST, &payload));
            assert!(sent.flags.contains(Flags::LOCAL));
        }
    }

    #[test]
    fn requests_to_groups_are_answered_from_the_interface() {
        let request = |from: &str, interface| {
            let bytes = ip6(address(from), address("ff02::1")).icmp6_echo(7, 9);
            fate(TestPacket {
                interface,
                flags: Flags::LINK_BROADCAST,
                ..packet(bytes.payload(b"x").build())
            })
        };
        let (_, sent) = request(HOST, 0).expect("a reply");
        assert_eq!(sent.bytes, reply(ROUTER, HOST, b"x"));
        assert!(!sent.flags.contains(Flags::LINK_BROADCAST));
        let (_, sent) = request("fe80::99", 0).expect("a reply");
        assert_eq!(sent.bytes, reply("fe80::1", "fe80::99", b"x"));
        assert_eq!(request(HOST, 1).err(), Some("no-source-address"));
        assert_eq!(request("::", 0).err(), Some("bad-source"));
        assert_eq!(request("ff02::9", 0).err(), Some("bad-source"));
    }

    #[test]
    fn a_reply_has_the_requests_class_and_none_of_its_extension_headers() {
        let request = to(ROUTER)
            .hop_limit(3)
            .traffic_class(0xb8)
            .flow_label(0x12345)
            .destination_options(&[0; 14])
            .fragment(1, 0, false)
            .icmp6_echo(7, 9)
            .payload(b"data");
        let request = TestPacket {
            word: 40 + 16 + 8,
            ..packet(request.build())
        };
        let (_, sent) = fate(request).expect("a reply");
        let expected = ip6(address(ROUTER), address(HOST))
            .traffic_class(0xb8)
            .icmp6_echo_reply(7, 9)
            .payload(b"data");
        assert_eq!(sent.bytes, expected.build());
    }

    #[test]
    fn checksums_count() {
        let bytes = to(ROUTER).icmp6_echo(7, 9).checksum(0x1234).build();
        assert_eq!(fate(packet(bytes.clone())).err(), Some("bad-checksum"));
        let good = TestPacket {
            flags: Flags::CHECKSUM_GOOD,
            ..packet(bytes)
        };
        assert!(fate(good).is_ok(), "the port has verified it");
        // A sender on this machine left the sum to us.
        let mut left = packet(to(ROUTER).icmp6_echo(7, 9).payload(b"x").build());
        let pseudo = Sum::pseudo_header6(&address(HOST), &address(ROUTER), IpProtocol::ICMP6, 9);
        left.bytes[42..44].copy_from_slice(&pseudo.folded().to_be_bytes());
        let offload = Offload {
            checksum: true,
            checksum_start: 40,
            checksum_field: 42,
            ..Offload::default()
        };
        left.offload = Some(offload);
        let (_, sent) = fate(left.clone()).expect("a reply");
        assert_eq!(
            (sent.bytes, sent.offload),
            (reply(ROUTER, HOST, b"x"), None)
        );
        for offload in [
            Offload {
                checksum_field: 44,
                ..offload
            },
            Offload {
                segmentation: Segmentation::Tcp6,
                ..offload
            },
        ] {
            left.offload = Some(offload);
            assert_eq!(fate(left.clone()).err(), Some("bad-offload"));
        }
    }

    #[test]
    fn everything_else_is_handed_on_or_counted() {
        let solicitation = to("ff02::1:ff00:1").neighbour_solicitation(address(ROUTER), None);
        let solicitation = packet(solicitation.build());
        let (node, sent) = fate(solicitation.clone()).expect("handed on");
        assert_eq!(
            (node, &sent.bytes, sent.word),
            ("nd-input", &solicitation.bytes, 40)
        );
        let kinds = [
            (1, "error"),
            (4, "error"),
            (129, "echo-reply"),
            (130, "multicast-listener"),
            (143, "multicast-listener"),
            (139, "unknown-type"),
            (255, "unknown-type"),
        ];
        for (kind, reason) in kinds {
            let message = packet(to(ROUTER).icmp6(kind, 0, [0; 4]).build());
            assert_eq!(fate(message).err(), Some(reason));
        }
        let echo = to(ROUTER).icmp6_echo(7, 9).build();
        let cut = |word, length: usize| TestPacket {
            word,
            ..packet(echo[..length].to_vec())
        };
        for short in [
            cut(40, 47),
            cut(40, 30),
            cut(48, 48),
            cut(u32::MAX, 48),
            cut(44, 48),
            cut(0, 48),
        ] {
            assert_eq!(fate(short).err(), Some("truncated"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_packet_leaves_once(
            packets in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..3000), any::<bool>(), 0u32..80, any::<bool>(), any::<u8>()), 1..20)
        ) {
            let mut harness = harness();
            let count = packets.len();
            let packets = packets.into_iter().map(|(payload, valid, word, good, kind)| {
                let bytes = if valid { to(ROUTER).icmp6(kind, 0, [0; 4]).payload(&payload).build() } else { payload };
                let flags = if good { Flags::CHECKSUM_GOOD } else { Flags::default() };
                TestPacket { bytes, word, flags, ..TestPacket::default() }
            });
            let out = harness.run(packets.collect());
            let dropped: u64 = harness.drops().iter().map(|(_, count)| *count).sum();
            prop_assert_eq!(out.len() + dropped as usize, count);
            prop_assert!(!harness.drops().iter().any(|(name, _)| *name == "undecided"));
            prop_assert_eq!(harness.audit(), Ok(()));
        }
    }
}
