//! `icmp4-input`: answers echo requests; counts every other ICMP message by what it is.
//!
//! The reply is the request turned round in its own buffer: addresses exchanged, type 0, the ICMP checksum adjusted, a fresh
//! IPv4 header with the request's DSCP and without congestion mark. Options of the request are not sent back: a source route is
//! not obeyed anywhere in this node (RFC 7126), and a record of a route that ends in the request would be wrong in the reply.
//!
//! - Input: ICMP packets for this node at their IPv4 header; word unused.
//! - Output: echo replies at their IPv4 header, flag LOCAL; word = destination address. To `ip4-policy` where requests may have come in untracked.
//! - Reads: snapshot.interfaces, snapshot.policy
//! - State: none
//! - Standard: RFC 792, RFC 1122 sections 3.2.2.6 and 3.2.1.6, RFC 1812 section 4.3.3.6, RFC 1624
//! - Cost: exception path

use core::net::Ipv4Addr;

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};
use wire::checksum::{self, Sum};
use wire::{Header, Icmp4Header, Icmp4Type, Ip4Header, IpProtocol};

use crate::icmp::TTL;
use crate::ip4::{address, payload};
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `icmp4-input` sends packets.
    pub enum Next { Lookup => "ip4-lookup", Policy => "ip4-policy" }
}

dataplane::drop_reasons! {
    /// Why `icmp4-input` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet is shorter than its headers say",
        BadChecksum = "bad-checksum": "The ICMP checksum is wrong",
        BadSource = "bad-source": "An echo request whose source address is not a host's",
        EchoToMany = "echo-to-many": "An echo request that was sent to a broadcast or multicast address",
        EchoReply = "echo-reply": "An echo reply: this node sends no requests of its own on this path",
        Error = "error": "An ICMP error about a packet that this node sent",
        Redirect = "redirect": "A redirect: routers do not follow them",
        Timestamp = "timestamp": "A timestamp request or reply: not answered",
        RouterDiscovery = "router-discovery": "A router advertisement or solicitation (RFC 1256): not supported",
        UnknownType = "unknown-type": "An ICMP message of another type",
    }
}

/// See the module.
#[derive(Default)]
pub struct Icmp4Input;

impl Node<Snapshot> for Icmp4Input {
    const NAME: &'static str = "icmp4-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match answer(packet, cx) {
                Ok(()) if cx.snapshot.policy.judges_answers(packet.interface) => {
                    Next::Policy.into()
                }
                Ok(()) => Next::Lookup.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// Turns an echo request into its reply, or says why there is none.
fn answer(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<(), Drop> {
    let bytes = cx.buffers.bytes(packet);
    let (header, message) = Ip4Header::parse(bytes).map_err(|_| Drop::Truncated)?;
    let icmp = Icmp4Header::view(message).map_err(|_| Drop::Truncated)?;
    let length = header.payload_len();
    let total_length = usize::from(header.total_length.get());
    if length < Icmp4Header::LEN || total_length > cx.buffers.total_length(packet) {
        return Err(Drop::Truncated);
    }
    let flags = packet.flags();
    // A checksum that was never computed is not looked at, and whoever sends the packet on computes it.
    let undone = flags.contains(Flags::OFFLOAD);
    if !undone && !flags.contains(Flags::CHECKSUM_GOOD) {
        let skip = header.header_len();
        let sum = payload::add(Sum::new(), cx.buffers, packet, skip, length);
        if !sum.is_valid() {
            return Err(Drop::BadChecksum);
        }
    }
    match icmp.icmp_type {
        Icmp4Type::ECHO_REQUEST => {}
        Icmp4Type::ECHO_REPLY => return Err(Drop::EchoReply),
        Icmp4Type::REDIRECT => return Err(Drop::Redirect),
        Icmp4Type::TIMESTAMP | Icmp4Type::TIMESTAMP_REPLY => return Err(Drop::Timestamp),
        Icmp4Type::ROUTER_ADVERTISEMENT | Icmp4Type::ROUTER_SOLICITATION => {
            return Err(Drop::RouterDiscovery);
        }
        other if other.is_error() => return Err(Drop::Error),
        _ => return Err(Drop::UnknownType),
    }
    let (source, destination) = (header.src.get(), header.dst.get());
    let interface = cx.snapshot.interface(packet.interface);
    let to_many = |address| {
        address::is_multicast(address)
            || address == u32::MAX
            || interface.is_some_and(|interface| address::is_broadcast(interface, address))
    };
    if flags.contains(Flags::LINK_BROADCAST) || to_many(destination) {
        return Err(Drop::EchoToMany);
    }
    if !address::is_host(source) || to_many(source) {
        return Err(Drop::BadSource);
    }
    // The 20 bytes in front of the message become the header; options in front of them are left behind.
    let (tos, options) = (header.tos, header.header_len() - Ip4Header::LEN);
    let mut reply = wire::ip4::header(
        Ipv4Addr::from_bits(destination),
        Ipv4Addr::from_bits(source),
        IpProtocol::ICMP4,
        TTL,
        length,
    );
    // RFC 1122 section 3.2.1.6: the reply's type of service is the request's. Its congestion mark was about the way here.
    reply.tos = tos & !3;
    reply.id.set(cx.rng.next_u32() as u16);
    reply.fill_checksum();
    if !packet.advance(options) {
        return Err(Drop::Truncated);
    }
    let bytes = cx.buffers.bytes_mut(packet);
    let (header, message) = Ip4Header::split_mut(bytes).map_err(|_| Drop::Truncated)?;
    *header = reply;
    let icmp = Icmp4Header::view_mut(message).map_err(|_| Drop::Truncated)?;
    icmp.icmp_type = Icmp4Type::ECHO_REPLY;
    if !undone {
        let word = |kind: Icmp4Type| u16::from_be_bytes([kind.0, icmp.code]);
        let sum = checksum::update16(
            icmp.checksum.get(),
            word(Icmp4Type::ECHO_REQUEST),
            word(Icmp4Type::ECHO_REPLY),
        );
        // Zero and ones are the same number, but over a message of zeros only ones are right.
        icmp.checksum.set(if sum == 0 { 0xffff } else { sum });
    }
    packet.set_flags(Flags::LOCAL);
    packet.word = source;
    Ok(())
}

#[cfg(test)]
mod tests {
    use dataplane::{NodeHarness, Offload, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Builder, Icmp4, ip4};

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
        NodeHarness::new(|| Icmp4Input, snapshot, state).expect("a harness")
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

    fn request() -> Builder<Icmp4> {
        ip4(PEER, US)
            .ttl(3)
            .tos(0xbb)
            .dont_fragment()
            .icmp4_echo(0x1234, 7)
    }

    /// The reply that the builder makes, with the identification that the node chose.
    fn expected(got: &TestPacket, body: &[u8]) -> Vec<u8> {
        let id = u16::from_be_bytes([got.bytes[4], got.bytes[5]]);
        let reply = ip4(US, PEER).ttl(64).tos(0xb8).id(id);
        reply.icmp4_echo_reply(0x1234, 7).payload(body).build()
    }

    #[test]
    fn echo_requests_are_answered() {
        for length in [0, 1, 56, 1472, 2020, 9001] {
            let body: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let got = run(packet(request().payload(&body).build())).expect("a reply");
            assert_eq!(got.bytes, expected(&got, &body), "{length}");
            assert!(got.flags.contains(Flags::LOCAL));
            assert_eq!((got.word, got.interface), (u32::from_be_bytes(PEER), 0));
        }
    }

    #[test]
    fn options_are_left_behind() {
        let record = [7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0];
        let bytes = ip4(PEER, US)
            .tos(0xbb)
            .options(&record)
            .icmp4_echo(0x1234, 7)
            .payload(b"hi")
            .build();
        let got = run(packet(bytes)).expect("a reply");
        assert_eq!(got.bytes, expected(&got, b"hi"));
    }

    #[test]
    fn a_reply_of_zeros_has_a_valid_checksum() {
        let bytes = ip4(PEER, US).icmp4_echo(0, 0).payload(&[0; 8]).build();
        let got = run(packet(bytes)).expect("a reply");
        assert_eq!(wire::icmp4::verify_checksum(&got.bytes[20..]), Ok(()));
        assert_eq!(got.bytes[22..24], [0xff, 0xff]);
    }

    #[test]
    fn a_checksum_left_undone_stays_so() {
        let mut bytes = request().payload(b"hi").build();
        bytes[22..24].fill(0);
        let offload = Some(Offload {
            checksum: true,
            checksum_start: 20,
            checksum_field: 22,
            ..Offload::default()
        });
        let got = run(TestPacket {
            offload,
            ..packet(bytes)
        });
        let got = got.expect("a reply");
        assert_eq!((got.offload, &got.bytes[22..24]), (offload, &[0, 0][..]));
    }

    #[test]
    fn every_drop_has_its_reason() {
        let kind = |kind| {
            packet(
                ip4(PEER, US)
                    .icmp4(kind, 0, [0; 4])
                    .payload(&[0; 28])
                    .build(),
            )
        };
        let to = |address: [u8; 4]| packet(ip4(PEER, address).icmp4_echo(1, 1).build());
        let from = |address: [u8; 4]| packet(ip4(address, US).icmp4_echo(1, 1).build());
        let mut damaged = request().payload(&[1; 3000]).build();
        *damaged.last_mut().expect("bytes") ^= 1;
        for (packet, reason) in [
            (kind(0), "echo-reply"),
            (kind(3), "error"),
            (kind(4), "error"),
            (kind(5), "redirect"),
            (kind(9), "router-discovery"),
            (kind(10), "router-discovery"),
            (kind(11), "error"),
            (kind(12), "error"),
            (kind(13), "timestamp"),
            (kind(14), "timestamp"),
            (kind(17), "unknown-type"),
            (kind(255), "unknown-type"),
            (to([224, 0, 0, 1]), "echo-to-many"),
            (to([255; 4]), "echo-to-many"),
            (to([10, 0, 0, 255]), "echo-to-many"),
            (
                TestPacket {
                    flags: Flags::LINK_BROADCAST,
                    ..to(US)
                },
                "echo-to-many",
            ),
            (from([0; 4]), "bad-source"),
            (from([127, 0, 0, 1]), "bad-source"),
            (from([224, 0, 0, 1]), "bad-source"),
            (from([255; 4]), "bad-source"),
            (from([10, 0, 0, 255]), "bad-source"),
            (packet(damaged), "bad-checksum"),
            (packet(request().checksum(1).build()), "bad-checksum"),
            (
                packet(ip4(PEER, US).raw(1, &[8, 0, 0xf7, 0xff, 0, 0, 0]).build()),
                "truncated",
            ),
            (
                packet(ip4(PEER, US).total_length(29).icmp4_echo(1, 1).build()),
                "truncated",
            ),
            (
                packet(ip4(PEER, US).total_length(27).icmp4_echo(1, 1).build()),
                "truncated",
            ),
            (packet(Vec::new()), "truncated"),
        ] {
            assert_eq!(run(packet.clone()), Err(reason), "{packet:?}");
        }
    }

    #[test]
    fn a_checksum_that_the_port_verified_is_not_summed() {
        let flags = Flags::CHECKSUM_GOOD;
        let bytes = request().checksum(1).build();
        assert!(
            run(TestPacket {
                flags,
                ..packet(bytes)
            })
            .is_ok()
        );
    }

    proptest! {
        #[test]
        fn every_packet_has_one_fate(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), likely: bool, good: bool) {
            if likely && bytes.len() > 28 {
                bytes[0] = 0x45;
                let length = (bytes.len() as u16).to_be_bytes();
                bytes[2..4].copy_from_slice(&length);
                bytes[20] &= 8;
            }
            let flags = if good { Flags::CHECKSUM_GOOD } else { Flags::default() };
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, flags, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            for reply in out {
                prop_assert!(wire::ip4::validate(&reply.packet.bytes).is_ok());
            }
            harness.audit().expect("balanced");
        }

        #[test]
        fn replies_to_valid_requests_are_valid(
            id: u16, sequence: u16, body in proptest::collection::vec(any::<u8>(), 0..64), words in 0usize..11
        ) {
            let options = vec![1; words * 4];
            let bytes = ip4(PEER, US).options(&options).icmp4_echo(id, sequence).payload(&body).build();
            let got = run(packet(bytes)).expect("a reply");
            let (header, message) = Ip4Header::parse(&got.bytes).expect("a header");
            prop_assert_eq!(header.header_len(), 20);
            prop_assert!(wire::ip4::validate(&got.bytes).is_ok());
            prop_assert_eq!(wire::icmp4::verify_checksum(message), Ok(()));
            prop_assert_eq!(&message[8..], &body[..]);
        }
    }
}
