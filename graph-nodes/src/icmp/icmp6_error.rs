//! `icmp6-error`: tells the sender of an IPv6 packet why it did not arrive.
//!
//! The message quotes the packet as it came, as much of it as fits in 1280 bytes. It comes from the address that the packet was
//! for where that is this node's; else from an address of the interface that received the packet: a link-local one to
//! senders on the link, the first other one, where there is one, to all others.
//!
//! - Input: packets at their IPv6 header; word = [`ErrorWord`]; interface = the one that received the packet.
//! - Output: ICMPv6 errors at their IPv6 header, flag LOCAL; word unused.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: the worker's bucket of ICMP errors, shared with `icmp4-error`
//! - Standard: RFC 4443 sections 2.2 to 2.4 and 3, RFC 4884 section 4 (nothing is appended)
//! - Cost: exception path

use core::net::Ipv6Addr;

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};
use wire::checksum::Sum;
use wire::icmp6::{MAX_QUOTE_LEN, parameter_problem};
use wire::ip6::{DEFAULT_EXTENSION_LIMIT, walk_extensions};
use wire::{Header, Icmp6Header, Icmp6Type, Ip6Header, IpProtocol};

use crate::fib::{RouteAction, scoped};
use crate::icmp::{ErrorWord, TTL, errors_left, take_error};
use crate::nat::restore;
use crate::policy::packet::Ip6 as V6;
use crate::snapshot::{Interface, Snapshot};

dataplane::next_nodes! {
    /// Where `icmp6-error` sends packets.
    pub enum Next { Lookup => "ip6-lookup" }
}

dataplane::drop_reasons! {
    /// Why `icmp6-error` drops packets instead of saying something about them.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IPv6 header",
        Local = "local": "The packet was made by this node: the route back to its sender fails too",
        AboutError = "about-error": "The packet is an ICMPv6 error or redirect itself, or too short to tell",
        ToMany = "to-many": "The packet was sent to a multicast address, or in a broadcast or multicast frame",
        BadSource = "bad-source": "The packet's source address does not name one node",
        RateLimited = "rate-limited": "This worker has sent as many ICMP errors as it may",
        NoSourceAddress = "no-source-address": "The interface that received the packet has no IPv6 address to speak from",
        NoBuffer = "no-buffer": "There was no buffer for the message",
        NotAnError = "not-an-error": "The node before asked for a message that is no ICMPv6 error: a defect, please report it",
    }
}

/// See the module.
#[derive(Default)]
pub struct Icmp6Error;

/// Bytes in front of the quote: IPv6 header, ICMPv6 header.
const HEADERS: usize = Ip6Header::LEN + Icmp6Header::LEN;

impl Node<Snapshot> for Icmp6Error {
    const NAME: &'static str = "icmp6-error";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            restore::<V6>(packet, cx);
            let message = may_answer(packet, cx).and_then(|()| build(packet, cx));
            *verdict = match message {
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

/// The address that an interface speaks from to `peer`: of the same scope where it has one.
pub(super) fn source_address(interface: &Interface, peer: Ipv6Addr) -> Option<Ipv6Addr> {
    let global = interface.ip6.first().map(|configured| configured.address);
    if peer.is_unicast_link_local() {
        interface.link_local
    } else {
        global.or(interface.link_local)
    }
}

/// RFC 4443 section 2.4 (e) and (f): when nothing is said.
fn may_answer(packet: &Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<(), Drop> {
    let error = ErrorWord::from_word(packet.word);
    let kind = Icmp6Type(error.kind);
    if !kind.is_error() {
        return Err(Drop::NotAnError);
    }
    if packet.flags().contains(Flags::LOCAL) {
        return Err(Drop::Local);
    }
    let (header, rest) = Ip6Header::parse(cx.buffers.bytes(packet)).map_err(|_| Drop::Truncated)?;
    let payload = &rest[..rest.len().min(header.payload_length.get().into())];
    let chain = walk_extensions(header.next_header, payload, DEFAULT_EXTENSION_LIMIT);
    // (e.1), (e.2). What follows a later fragment's header is data; such a fragment may be reported.
    if chain.protocol == IpProtocol::ICMP6 && chain.has_upper_layer() {
        let about = payload.get(chain.offset).map(|kind| Icmp6Type(*kind));
        if about.is_none_or(|kind| kind.is_error() || kind == Icmp6Type::REDIRECT) {
            return Err(Drop::AboutError);
        }
    }
    // (e.3) to (e.5): path MTU discovery for groups, and options that ask for it, are the exceptions.
    let even_to_many = kind == Icmp6Type::PACKET_TOO_BIG
        || kind == Icmp6Type::PARAMETER_PROBLEM && error.code == parameter_problem::OPTION;
    let to_many =
        header.destination().is_multicast() || packet.flags().contains(Flags::LINK_BROADCAST);
    if to_many && !even_to_many {
        return Err(Drop::ToMany);
    }
    // (e.6).
    if header.source().is_unspecified() || header.source().is_multicast() {
        return Err(Drop::BadSource);
    }
    // (f): looked at before work is done, taken when the message is certain.
    if errors_left(cx) == 0 {
        return Err(Drop::RateLimited);
    }
    Ok(())
}

/// The message about a packet, in a buffer of its own.
fn build(packet: &Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<Descriptor, Drop> {
    let header = Ip6Header::view(cx.buffers.bytes(packet)).map_err(|_| Drop::Truncated)?;
    let (to, about) = (header.source(), header.destination());
    let length = Ip6Header::LEN + usize::from(header.payload_length.get());
    let quote = length
        .min(cx.buffers.total_length(packet))
        .min(MAX_QUOTE_LEN);
    let from = if is_ours(packet.interface, about, cx.snapshot) {
        about
    } else {
        let interface = cx.snapshot.interface(packet.interface);
        interface
            .and_then(|interface| source_address(interface, to))
            .ok_or(Drop::NoSourceAddress)?
    };
    let mut message = cx.buffers.alloc().ok_or(Drop::NoBuffer)?;
    if !message.extend(HEADERS + quote) || !take_error(cx) {
        cx.buffers.free(message);
        return Err(Drop::RateLimited);
    }
    let error = ErrorWord::from_word(packet.word);
    let out = cx.buffers.bytes_mut(&mut message);
    cx.buffers.copy_out(packet, 0, &mut out[HEADERS..]);
    let header = wire::ip6::header(from, to, IpProtocol::ICMP6, TTL, Icmp6Header::LEN + quote);
    write_header(&header, out);
    let icmp = &mut out[Ip6Header::LEN..];
    icmp[0] = error.kind;
    icmp[1] = error.code;
    icmp[2..4].fill(0);
    icmp[4..8].copy_from_slice(&u32::from(error.parameter).to_be_bytes());
    let pseudo = Sum::pseudo_header6(&from, &to, IpProtocol::ICMP6, icmp.len() as u32);
    let sum = pseudo.bytes(icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    message.interface = packet.interface;
    message.set_flags(Flags::LOCAL);
    if let Some(trace) = cx.buffers.trace_number(packet) {
        cx.buffers.set_trace_number(&mut message, trace);
    }
    Ok(message)
}

/// RFC 4443 section 2.2 (a): an answer to a packet for one of this node's addresses comes from that address.
fn is_ours(interface: u16, address: Ipv6Addr, snapshot: &Snapshot) -> bool {
    let Some(vrf) = snapshot.vrf_of(interface) else {
        return false;
    };
    let group = vrf.ip6.lookup(scoped(address.to_bits(), interface));
    !address.is_multicast() && snapshot.forwarding.group(group).action() == RouteAction::Local
}

/// Writes a fixed header to the start of `out`, which must have room for it.
pub(super) fn write_header(header: &Ip6Header, out: &mut [u8]) {
    if let Ok(place) = Ip6Header::view_mut(out) {
        *place = *header;
    }
}

#[cfg(test)]
mod tests {
    use dataplane::{NodeHarness, TestPacket};
    use proptest::prelude::*;
    use wire::builder::{Builder, Ip6, ip6};

    use super::*;
    use crate::fib::{ForwardingSize, ForwardingWriter, RouteTarget};
    use crate::snapshot::{IcmpLimits, InterfaceAddress, WorkerState};

    const HOST: &str = "2001:db8::99";
    const FAR: &str = "2001:db8:5::5";
    const ROUTER: &str = "2001:db8::1";

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    /// Interface 0 has a global and a link-local address, 1 a link-local one alone, 2 none. 2001:db8:9::9 is ours elsewhere.
    fn harness(limits: IcmpLimits) -> NodeHarness<Snapshot> {
        let size = ForwardingSize {
            groups: 16,
            adjacencies: 16,
            buckets: 16,
        };
        let mut writer = ForwardingWriter::new(size, 16);
        writer.add_vrf(0).expect("memory");
        let ours = [ROUTER, "2001:db8:9::9"].map(address);
        for address in ours {
            writer
                .set_route(0, address.into(), 128, RouteTarget::Local)
                .expect("room");
        }
        writer.commit().expect("memory");
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
            ip6: Vec::new(),
            link_local: Some(address("fe80::2")),
            ..first.clone()
        };
        let third = Interface {
            link_local: None,
            ..second.clone()
        };
        let snapshot = Snapshot {
            icmp: limits,
            interfaces: vec![first, second, third],
            vrfs: vec![writer.vrf(0).expect("there")],
            forwarding: writer.forwarding(),
            ..Snapshot::default()
        };
        let state = move || WorkerState::new(limits);
        NodeHarness::new(Icmp6Error::default, snapshot, state).expect("a harness")
    }

    const PORT: ErrorWord = ErrorWord::new(1, 4);
    const TOO_BIG: ErrorWord = ErrorWord::new(2, 0).with_parameter(1400);
    const OPTION: ErrorWord = ErrorWord::new(4, 2).with_parameter(44);

    fn packet(bytes: Vec<u8>, error: ErrorWord) -> TestPacket {
        TestPacket {
            bytes,
            word: error.to_word(),
            ..TestPacket::default()
        }
    }

    fn to(destination: &str) -> Builder<Ip6> {
        ip6(address(HOST), address(destination))
    }

    /// What is sent, or why not.
    fn fate(packet: TestPacket) -> Result<TestPacket, &'static str> {
        let mut harness = harness(IcmpLimits::default());
        let mut out = harness.run(vec![packet]);
        let drops = harness.drops();
        harness.audit().expect("balanced");
        match (out.pop(), &drops[..]) {
            (Some(out), []) => {
                assert_eq!(out.node, "ip6-lookup");
                Ok(out.packet)
            }
            (None, [(name, 1)]) => Err(name),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_message_is_the_builders() {
        let about = to(FAR).udp(1, 2).payload(b"hello").build();
        for (error, info) in [
            (PORT, 0),
            (TOO_BIG, 1400),
            (ErrorWord::new(4, 1).with_parameter(6), 6),
        ] {
            let mut input = packet(about.clone(), error);
            // Link padding is not quoted.
            input.bytes.extend_from_slice(&[0; 7]);
            let sent = fate(input).expect("a message");
            let expected = ip6(address(ROUTER), address(HOST))
                .icmp6_error(error.kind, error.code, info, &about)
                .build();
            assert_eq!(sent.bytes, expected);
            assert!(sent.flags.contains(Flags::LOCAL));
            assert_eq!(sent.interface, 0);
        }
    }

    #[test]
    fn long_packets_are_quoted_up_to_1280_bytes() {
        for length in [1184, 1185, 30_000] {
            let about = to(FAR).udp(1, 2).payload(&vec![5; length]).build();
            let sent = fate(packet(about.clone(), TOO_BIG)).expect("a message");
            assert_eq!(sent.bytes.len(), 1280);
            let expected = ip6(address(ROUTER), address(HOST)).icmp6_error(2, 0, 1400, &about);
            assert_eq!(sent.bytes, expected.build());
        }
    }

    #[test]
    fn the_source_is_of_the_receivers_scope() {
        let source = |interface, from: &str, about: &str| {
            let bytes = ip6(address(from), address(about)).udp(1, 2).build();
            let sent = fate(TestPacket {
                interface,
                ..packet(bytes, PORT)
            });
            sent.map(|sent| Ip6Header::view(&sent.bytes).expect("a header").source())
        };
        assert_eq!(source(0, HOST, FAR), Ok(address(ROUTER)));
        assert_eq!(source(0, "fe80::99", FAR), Ok(address("fe80::1")));
        assert_eq!(source(1, HOST, FAR), Ok(address("fe80::2")));
        assert_eq!(source(2, HOST, FAR), Err("no-source-address"));
        assert_eq!(source(7, HOST, FAR), Err("no-source-address"));
        // The packet was for an address of ours, on another interface.
        let ours = "2001:db8:9::9";
        assert_eq!(source(0, HOST, ours), Ok(address(ours)));
    }

    #[test]
    fn nothing_is_said_where_rfc_4443_forbids_it() {
        let udp = || to(FAR).udp(1, 2).build();
        let with = |bytes: Vec<u8>, error, flags| {
            fate(TestPacket {
                flags,
                ..packet(bytes, error)
            })
        };
        let none = Flags::default();
        assert_eq!(with(udp(), PORT, Flags::LOCAL).err(), Some("local"));
        assert_eq!(
            with(udp(), PORT, Flags::LINK_BROADCAST).err(),
            Some("to-many")
        );
        let group = || to("ff02::1").udp(1, 2).build();
        assert_eq!(with(group(), PORT, none).err(), Some("to-many"));
        let header = ErrorWord::new(4, 0);
        assert_eq!(with(group(), header, none).err(), Some("to-many"));
        assert!(with(group(), TOO_BIG, Flags::LINK_BROADCAST).is_ok());
        assert!(with(group(), OPTION, Flags::LINK_BROADCAST).is_ok());
        for source in ["::", "ff02::1"] {
            let bytes = ip6(address(source), address(FAR)).udp(1, 2).build();
            assert_eq!(with(bytes, PORT, none).err(), Some("bad-source"));
        }
        let about = [
            to(FAR).icmp6_error(1, 0, 0, &udp()).build(),
            to(FAR)
                .destination_options(&[0; 6])
                .icmp6_error(3, 0, 0, &udp())
                .build(),
            to(FAR).redirect6(address(FAR), address(FAR)).build(),
            // Cut in front of the ICMPv6 header: nobody can tell.
            to(FAR).raw(58, &[]).build(),
        ];
        for about in about {
            assert_eq!(with(about, PORT, none).err(), Some("about-error"));
        }
        assert!(with(to(FAR).icmp6_echo(1, 1).build(), PORT, none).is_ok());
        let fragment = to(FAR).fragment(7, 8, false).raw(58, &[1; 8]).build();
        assert!(with(fragment, PORT, none).is_ok());
        assert_eq!(with(vec![0x60; 20], PORT, none).err(), Some("truncated"));
        let echo = ErrorWord::new(128, 0);
        assert_eq!(with(udp(), echo, none).err(), Some("not-an-error"));
    }

    #[test]
    fn messages_are_limited() {
        let limits = IcmpLimits {
            errors_per_second: 10,
            burst: 3,
        };
        let mut harness = harness(limits);
        let flood = || vec![packet(to(FAR).udp(1, 2).build(), PORT); 5];
        assert_eq!(harness.run(flood()).len(), 3);
        assert_eq!(harness.drops(), [("rate-limited", 2)]);
        harness.set_time(200_000_000);
        assert_eq!(harness.run(flood()).len(), 2);
        harness.audit().expect("balanced");
    }

    #[test]
    fn an_exhausted_pool_is_a_counted_drop() {
        let limits = IcmpLimits {
            errors_per_second: 1,
            burst: 100_000,
        };
        let mut harness = harness(limits);
        // 256 packets of 16 buffers each are the whole pool of 4096.
        let about = to(FAR).udp(1, 2).payload(&[1; 15 * 2048 + 100]).build();
        let out = harness.run(vec![packet(about, PORT); 256]);
        let drops: u64 = harness.drops().iter().map(|(_, count)| *count).sum();
        // The first finds no buffer; those behind it live on what was freed, or not at all.
        assert_eq!(out.len() as u64 + drops, 256);
        assert_eq!(harness.drops()[0].0, "no-buffer");
        harness.audit().expect("balanced");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_packet_leaves_once(
            packets in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..200), any::<bool>(), any::<u32>(), 0u16..4), 1..30)
        ) {
            let mut harness = harness(IcmpLimits::default());
            let count = packets.len();
            let packets = packets.into_iter().map(|(mut bytes, version, word, interface)| {
                if version && !bytes.is_empty() {
                    bytes[0] = 0x60;
                }
                TestPacket { bytes, word: word % (5 << 24), interface, ..TestPacket::default() }
            });
            let out = harness.run(packets.collect());
            let dropped: u64 = harness.drops().iter().map(|(_, count)| *count).sum();
            prop_assert_eq!(out.len() + dropped as usize, count);
            prop_assert!(!harness.drops().iter().any(|(name, _)| *name == "undecided"));
            for out in &out {
                let header = wire::ip6::validate(&out.packet.bytes).expect("an IPv6 packet");
                let icmp = &out.packet.bytes[40..];
                let pseudo = header.pseudo_header(IpProtocol::ICMP6, icmp.len() as u32);
                prop_assert!(pseudo.bytes(icmp).is_valid());
            }
            prop_assert_eq!(harness.audit(), Ok(()));
        }
    }
}
