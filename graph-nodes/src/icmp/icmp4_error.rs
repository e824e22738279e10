//! `icmp4-error`: tells the sender of a packet why it did not arrive.
//!
//! The message quotes the packet as it came, as much of it as fits in 576 bytes, so that the sender's kernel finds the socket
//! that it belongs to. It comes from the first address of the interface that received the packet: that is what traceroute shows.
//! An interface without an address has nothing to speak with, and stays silent.
//!
//! - Input: packets at their IPv4 header; word = [`ErrorWord`]; interface = the one that received the packet.
//! - Output: ICMP errors at their IPv4 header, flag LOCAL; word = destination address.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: the worker's bucket of ICMP errors, shared with `icmp6-error`
//! - Standard: RFC 792, RFC 1812 section 4.3.2, RFC 1122 section 3.2.2, RFC 1191 section 4
//! - Cost: exception path

use core::net::Ipv4Addr;

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};
use wire::icmp4::{MAX_QUOTE_LEN, unreachable};
use wire::{Header, Icmp4Header, Icmp4Type, Ip4Header, IpProtocol, checksum};

use crate::fib::RouteAction;
use crate::icmp::{ErrorWord, TTL, errors_left, take_error};
use crate::ip4::address;
use crate::nat::restore;
use crate::policy::packet::Ip4;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `icmp4-error` sends packets.
    pub enum Next { Lookup => "ip4-lookup" }
}

dataplane::drop_reasons! {
    /// Why `icmp4-error` drops packets instead of saying something about them.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IPv4 header",
        Local = "local": "The packet was made by this node: the route back to its sender fails too",
        AboutError = "about-error": "The packet is an ICMP error itself, or an ICMP message too short to tell",
        LaterFragment = "later-fragment": "The packet is a fragment other than the first",
        ToMany = "to-many": "The packet was sent to a broadcast or multicast address",
        BadSource = "bad-source": "The packet's source address is not a host's",
        RateLimited = "rate-limited": "This worker has sent as many ICMP errors as it may",
        NoSourceAddress = "no-source-address": "The interface that received the packet has no IPv4 address to speak from",
        NoBuffer = "no-buffer": "There was no buffer for the message",
        NotAnError = "not-an-error": "The node before asked for a message that is no ICMP error: a defect, please report it",
    }
}

/// See the module.
#[derive(Default)]
pub struct Icmp4Error;

/// Type of service of messages: precedence 6, internetwork control (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

/// The highest ICMP type that was ever given a meaning as a query; beyond it, a message may be an error that is not known here.
const LAST_KNOWN_TYPE: u8 = 18;

impl Node<Snapshot> for Icmp4Error {
    const NAME: &'static str = "icmp4-error";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            *verdict = match error(packet, cx) {
                Ok(message) => {
                    let original = std::mem::replace(packet, message);
                    cx.buffers.free(original);
                    Next::Lookup.into()
                }
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// The message that the node before asked for, where one may be sent.
fn error(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<Descriptor, Drop> {
    let error = ErrorWord::from_word(packet.word);
    let kind = Icmp4Type(error.kind);
    // A redirect is an error by name, but its gateway does not fit the word: `icmp4-redirect` makes it.
    if !kind.is_error() || kind == Icmp4Type::REDIRECT {
        return Err(Drop::NotAnError);
    }
    restore::<Ip4>(packet, cx);
    may_answer(packet, cx)?;
    let interface = cx.snapshot.interface(packet.interface);
    let own = interface.and_then(|interface| interface.ip4.first());
    let from = own.ok_or(Drop::NoSourceAddress)?.address;
    let message = Message {
        from,
        kind,
        code: error.code,
        rest: rest_of_header(error),
    };
    build(packet, message, cx)
}

/// RFC 1812 section 4.3.2.7: when nothing is said about a packet.
pub(super) fn may_answer(packet: &Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<(), Drop> {
    if packet.flags().contains(Flags::LOCAL) {
        return Err(Drop::Local);
    }
    let bytes = cx.buffers.bytes(packet);
    let (header, transport) = Ip4Header::parse(bytes).map_err(|_| Drop::Truncated)?;
    if header.is_later_fragment() {
        return Err(Drop::LaterFragment);
    }
    if header.protocol == IpProtocol::ICMP4 {
        let query = |kind: u8| kind <= LAST_KNOWN_TYPE && !Icmp4Type(kind).is_error();
        if !transport.first().is_some_and(|kind| query(*kind)) {
            return Err(Drop::AboutError);
        }
    }
    let (source, destination) = (header.src.get(), header.dst.get());
    if packet.flags().contains(Flags::LINK_BROADCAST)
        || address::is_multicast(destination)
        || destination == u32::MAX
    {
        return Err(Drop::ToMany);
    }
    if !address::is_host(source) {
        return Err(Drop::BadSource);
    }
    // Before the look into tables, so that a flood costs little; taken only when the message is certain.
    if errors_left(cx) == 0 {
        return Err(Drop::RateLimited);
    }
    if is_broadcast(packet.interface, source, cx.snapshot) {
        return Err(Drop::BadSource);
    }
    if is_broadcast_anywhere(packet.interface, destination, cx.snapshot) {
        return Err(Drop::ToMany);
    }
    Ok(())
}

/// Whether an address is a broadcast on an interface's link.
pub(crate) fn is_broadcast(interface: u16, address: u32, snapshot: &Snapshot) -> bool {
    let interface = snapshot.interface(interface);
    interface.is_some_and(|interface| address::is_broadcast(interface, address))
}

/// Whether an address is a broadcast on an interface's link, or on the one that it would be forwarded to.
pub(crate) fn is_broadcast_anywhere(interface: u16, address: u32, snapshot: &Snapshot) -> bool {
    is_broadcast(interface, address, snapshot)
        || connected(interface, address, snapshot)
            .is_some_and(|interface| is_broadcast(interface, address, snapshot))
}

/// The interface on whose link an address is to be found, where that is one.
fn connected(from: u16, address: u32, snapshot: &Snapshot) -> Option<u16> {
    let table = &snapshot.vrf_of(from)?.ip4;
    let group = snapshot.forwarding.group(table.lookup(address));
    (group.action() == RouteAction::Glean).then_some(group.payload() as u16)
}

/// What a message says besides its quote.
#[derive(Clone, Copy)]
pub(super) struct Message {
    /// Its source address.
    pub(super) from: Ipv4Addr,
    /// Its type.
    pub(super) kind: Icmp4Type,
    /// Its code.
    pub(super) code: u8,
    /// The four bytes behind the checksum.
    pub(super) rest: [u8; 4],
}

/// The message about a packet, in a buffer of its own, with the sender's address as its word.
pub(super) fn build(
    packet: &Descriptor,
    say: Message,
    cx: &mut Context<'_, Snapshot>,
) -> Result<Descriptor, Drop> {
    let header = Ip4Header::view(cx.buffers.bytes(packet)).map_err(|_| Drop::Truncated)?;
    let (to, total_length) = (header.src.get(), usize::from(header.total_length.get()));
    let quote = total_length
        .min(cx.buffers.total_length(packet))
        .min(MAX_QUOTE_LEN);
    let mut message = cx.buffers.alloc().ok_or(Drop::NoBuffer)?;
    let filled = message.extend(HEADERS + quote)
        && fill(cx.buffers.bytes_mut(&mut message), |out| {
            cx.buffers.copy_out(packet, 0, out) == out.len()
        });
    if !filled || !head(cx, &mut message, say, to) {
        cx.buffers.free(message);
        return Err(Drop::Truncated);
    }
    if !take_error(cx) {
        cx.buffers.free(message);
        return Err(Drop::RateLimited);
    }
    message.interface = packet.interface;
    message.word = to;
    message.set_flags(Flags::LOCAL);
    if let Some(trace) = cx.buffers.trace_number(packet) {
        cx.buffers.set_trace_number(&mut message, trace);
    }
    Ok(message)
}

/// Bytes in front of the quote.
const HEADERS: usize = Ip4Header::LEN + Icmp4Header::LEN;

/// Puts the quote behind the headers.
fn fill(bytes: &mut [u8], quote: impl FnOnce(&mut [u8]) -> bool) -> bool {
    bytes.get_mut(HEADERS..).is_some_and(quote)
}

/// Writes both headers in front of the quote that is there.
fn head(cx: &mut Context<'_, Snapshot>, message: &mut Descriptor, say: Message, to: u32) -> bool {
    let id = cx.rng.next_u32() as u16;
    let bytes = cx.buffers.bytes_mut(message);
    let length = bytes.len();
    let Ok((header, rest)) = Ip4Header::split_mut(bytes) else {
        return false;
    };
    *header = wire::ip4::header(
        say.from,
        Ipv4Addr::from_bits(to),
        IpProtocol::ICMP4,
        TTL,
        length - Ip4Header::LEN,
    );
    header.tos = TOS;
    header.id.set(id);
    header.fill_checksum();
    let Ok(icmp) = Icmp4Header::view_mut(rest) else {
        return false;
    };
    icmp.icmp_type = say.kind;
    icmp.code = say.code;
    icmp.checksum.set(0);
    icmp.rest = say.rest;
    let sum = checksum::checksum(rest);
    if let Ok(icmp) = Icmp4Header::view_mut(rest) {
        icmp.checksum.set(sum);
    }
    true
}

/// The four bytes behind the checksum.
fn rest_of_header(error: ErrorWord) -> [u8; 4] {
    let [high, low] = error.parameter.to_be_bytes();
    match (Icmp4Type(error.kind), error.code) {
        // RFC 1191 section 4: the MTU in the low half.
        (Icmp4Type::DESTINATION_UNREACHABLE, unreachable::FRAGMENTATION_NEEDED) => {
            [0, 0, high, low]
        }
        // The pointer in the first byte; a header has no byte beyond 255.
        (Icmp4Type::PARAMETER_PROBLEM, _) => [low, 0, 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use dataplane::{NodeHarness, Offload, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::MacAddr;
    use wire::builder::ip4;

    use super::*;
    use crate::fib::{ForwardingSize, ForwardingWriter, Link, RouteTarget};
    use crate::snapshot::{IcmpLimits, Interface, InterfaceAddress, Tags, WorkerState};

    const PEER: [u8; 4] = [10, 0, 0, 2];
    const US: [u8; 4] = [10, 0, 0, 1];
    const FAR: [u8; 4] = [20, 0, 0, 9];
    const HOST: ErrorWord = ErrorWord::new(3, 1);

    /// Interface 0 has 10.0.0.1/24 and 10.0.8.1/24, interface 1 has none, interface 2 has 10.0.2.1/24 and a connected route.
    fn harness() -> NodeHarness<Snapshot> {
        let own = |address: [u8; 4]| InterfaceAddress {
            address: Ipv4Addr::from(address),
            prefix_len: 24,
        };
        let up = |ip4| Interface {
            up: true,
            ip4,
            ..Interface::absent()
        };
        let size = ForwardingSize {
            groups: 16,
            adjacencies: 16,
            buckets: 16,
        };
        let mut writer = ForwardingWriter::new(size, 16);
        writer.add_vrf(0).expect("memory");
        let link = Link {
            port: PortId(2),
            mtu: 1500,
            vrf: 0,
            mac: MacAddr::local(2),
            tags: Tags::default(),
        };
        writer.set_link(2, link).expect("a new link");
        writer
            .set_route(
                0,
                IpAddr::from([10, 0, 2, 0]),
                24,
                RouteTarget::Connected(2),
            )
            .expect("room");
        let limits = IcmpLimits {
            errors_per_second: 10,
            burst: 3,
        };
        let snapshot = Snapshot {
            icmp: limits,
            interfaces: vec![
                up(vec![own(US), own([10, 0, 8, 1])]),
                up(Vec::new()),
                up(vec![own([10, 0, 2, 1])]),
            ],
            vrfs: vec![writer.vrf(0).expect("the VRF")],
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        NodeHarness::new(|| Icmp4Error, snapshot, move || WorkerState::new(limits))
            .expect("a harness")
    }

    fn packet(bytes: Vec<u8>, error: ErrorWord) -> TestPacket {
        TestPacket {
            bytes,
            word: error.to_word(),
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

    fn udp(length: usize) -> Vec<u8> {
        ip4(PEER, FAR)
            .ttl(9)
            .udp(40000, 33434)
            .payload(&vec![7; length])
            .build()
    }

    #[test]
    fn the_message_quotes_the_packet_as_it_came() {
        for (length, error, info) in [
            (0, HOST, 0),
            (10, ErrorWord::new(11, 0), 0),
            (519, ErrorWord::new(3, 3), 0),
            (520, ErrorWord::new(3, 4).with_parameter(1400), 1400),
            (521, ErrorWord::new(12, 0).with_parameter(20), 20 << 24),
            (1472, ErrorWord::new(3, 13), 0),
            (9000, ErrorWord::new(3, 4).with_parameter(0xffff), 0xffff),
        ] {
            let original = udp(length);
            let got = run(packet(original.clone(), error)).expect("a message");
            let id = u16::from_be_bytes([got.bytes[4], got.bytes[5]]);
            let expected = ip4(US, PEER).ttl(64).tos(0xc0).id(id);
            let expected = expected.icmp4_error(error.kind, error.code, info, &original);
            assert_eq!(got.bytes, expected.build(), "{length}");
            assert!(got.bytes.len() <= 576 && got.flags.contains(Flags::LOCAL));
            assert_eq!(
                (got.word, got.interface, got.offload),
                (u32::from_be_bytes(PEER), 0, None)
            );
        }
    }

    #[test]
    fn padding_is_not_quoted_and_options_are() {
        let original = ip4(PEER, FAR)
            .options(&[1, 1, 1, 0])
            .udp(1, 2)
            .payload(b"x");
        let got = run(packet(original.clone().pad_to(60).build(), HOST)).expect("a message");
        assert_eq!(got.bytes[28..], original.build());
    }

    #[test]
    fn trains_and_partial_checksums_are_quoted_as_they_are() {
        let offload = Some(Offload {
            checksum: true,
            checksum_start: 20,
            checksum_field: 26,
            ..Offload::default()
        });
        let original = udp(30_000);
        let got = run(TestPacket {
            offload,
            ..packet(original.clone(), HOST)
        });
        let got = got.expect("a message");
        assert_eq!((&got.bytes[28..], got.offload), (&original[..548], None));
        assert!(wire::icmp4::verify_checksum(&got.bytes[20..]).is_ok());
    }

    #[test]
    fn when_nothing_is_said() {
        let about = |bytes: Vec<u8>| packet(bytes, HOST);
        let from = |source: [u8; 4]| about(ip4(source, FAR).udp(1, 2).build());
        let to = |destination: [u8; 4]| about(ip4(PEER, destination).udp(1, 2).build());
        let icmp = |kind: u8| about(ip4(PEER, FAR).icmp4(kind, 0, [0; 4]).build());
        let flagged = |flags| TestPacket {
            flags,
            ..about(udp(1))
        };
        for (packet, reason) in [
            (icmp(3), "about-error"),
            (icmp(4), "about-error"),
            (icmp(5), "about-error"),
            (icmp(11), "about-error"),
            (icmp(12), "about-error"),
            (icmp(40), "about-error"),
            (about(ip4(PEER, FAR).raw(1, &[]).build()), "about-error"),
            (
                about(ip4(PEER, FAR).fragment_offset(1).raw(17, &[0; 8]).build()),
                "later-fragment",
            ),
            (
                about(ip4(PEER, FAR).fragment_offset(1).raw(1, &[8; 8]).build()),
                "later-fragment",
            ),
            (to([224, 0, 0, 1]), "to-many"),
            (to([255; 4]), "to-many"),
            (to([10, 0, 0, 255]), "to-many"),
            (to([10, 0, 8, 255]), "to-many"),
            (to([10, 0, 2, 255]), "to-many"),
            (to([10, 0, 2, 0]), "to-many"),
            (flagged(Flags::LINK_BROADCAST), "to-many"),
            (from([0; 4]), "bad-source"),
            (from([127, 0, 0, 1]), "bad-source"),
            (from([224, 0, 0, 1]), "bad-source"),
            (from([255; 4]), "bad-source"),
            (from([10, 0, 0, 255]), "bad-source"),
            (flagged(Flags::LOCAL), "local"),
            (
                TestPacket {
                    interface: 1,
                    ..about(udp(1))
                },
                "no-source-address",
            ),
            (
                TestPacket {
                    interface: 9,
                    ..about(udp(1))
                },
                "no-source-address",
            ),
            (packet(udp(1), ErrorWord::new(8, 0)), "not-an-error"),
            (packet(udp(1), ErrorWord::new(5, 1)), "not-an-error"),
            (about(vec![0x45; 19]), "truncated"),
            (about(Vec::new()), "truncated"),
        ] {
            assert_eq!(run(packet.clone()), Err(reason), "{packet:?}");
        }
        // First fragments and queries are answered, and so are addresses that only look like broadcasts.
        assert!(run(about(ip4(PEER, FAR).more_fragments().udp(1, 2).build())).is_ok());
        assert!(run(icmp(8)).is_ok() && run(icmp(0)).is_ok() && run(icmp(13)).is_ok());
        assert!(run(to([20, 0, 0, 255])).is_ok());
    }

    #[test]
    fn messages_are_limited_and_silence_costs_nothing() {
        let mut harness = harness();
        let quiet = || packet(ip4(PEER, [10, 0, 2, 255]).udp(1, 2).build(), HOST);
        assert!(
            harness
                .run(vec![quiet(), quiet(), quiet(), quiet()])
                .is_empty()
        );
        let burst = || vec![packet(udp(1), HOST); 5];
        assert_eq!(harness.run(burst()).len(), 3);
        assert_eq!(harness.drops(), [("to-many", 4), ("rate-limited", 2)]);
        harness.set_time(100_000_000);
        assert_eq!(harness.run(burst()).len(), 1);
        harness.audit().expect("balanced");
    }

    proptest! {
        // Each case builds its own tables.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_packet_has_one_fate(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), likely: bool, word: u32, plain: bool) {
            if let (true, Some(first)) = (likely, bytes.first_mut()) {
                *first = 0x45 | *first & 3;
            }
            let word = if plain { HOST.to_word() } else { word };
            let mut harness = harness();
            let out = harness.run(vec![TestPacket { bytes, word, ..TestPacket::default() }]);
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out.len() as u64 + dropped, 1);
            prop_assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            for message in out {
                prop_assert!(message.packet.bytes.len() <= 576);
                prop_assert!(wire::ip4::validate(&message.packet.bytes).is_ok());
                prop_assert!(wire::icmp4::verify_checksum(&message.packet.bytes[20..]).is_ok());
            }
            harness.audit().expect("balanced");
        }
    }
}
