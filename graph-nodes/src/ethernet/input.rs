//! `ethernet-input`: finds out which interface a frame belongs to and what it carries.
//!
//! - Input: frames as a port received them, at their Ethernet header; interface = port number.
//! - Output: packets at their network header (to the lookups and policy those that the input nodes' stage passed here), interface = interface number, flag LINK_BROADCAST where it was not sent to us alone.
//! - Reads: snapshot.ports, snapshot.interfaces
//! - State: none
//! - Standard: IEEE 802.3, 802.1Q, 802.1ad
//! - Cost: 4 ticks (pg-ip4base)

use dataplane::{
    BufferView, Context, Descriptor, Flags, Frame, InterfaceCounter, NO_FEATURES, Node, Verdict,
};
use tables::Lpm4;
use wire::EtherType;

use crate::snapshot::{Interface, NO_INTERFACE, Port, Snapshot};
use crate::{ip4, ip6};

dataplane::next_nodes! {
    /// Where `ethernet-input` sends packets.
    pub enum Next {
        Ip4Lookup => "ip4-lookup",
        Ip6Lookup => "ip6-lookup",
        Ip4Policy => "ip4-policy",
        Ip6Policy => "ip6-policy",
        Ip4 => "ip4-input",
        Ip6 => "ip6-input",
        Arp => "arp-input",
    }
}

dataplane::drop_reasons! {
    /// Why `ethernet-input` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The frame ends inside its Ethernet header or VLAN tags",
        InterfaceDown = "interface-down": "The interface is not configured or not up",
        UnknownVlan = "unknown-vlan": "No sub-interface has the frame's VLAN tags",
        NotForUs = "not-for-us": "The frame is for another station's Ethernet address",
        SourceMulticast = "source-multicast": "The frame's source is a multicast address",
        UnknownType = "unknown-type": "The frame carries a protocol that is not supported",
    }
}

/// See the module.
#[derive(Default)]
pub struct EthernetInput;

/// What is the same for all frames of an interface.
#[derive(Clone, Copy)]
struct Station<'a> {
    interface: Option<&'a Interface>,
    /// The first eight bytes of a frame for the interface alone, under [`Station::MASK`].
    head: u64,
    /// Where packets go behind `ip4-input`, and the table whose lines are asked for: where the arc has no feature, or policy alone.
    ip4: Option<(Next, &'a Lpm4)>,
    /// Likewise; the lookup asks for lines itself, in batches.
    ip6: Option<Next>,
}

impl<'a> Station<'a> {
    /// The destination, and the bit of the source that makes it a multicast address.
    const MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]);

    fn of(snapshot: &'a Snapshot, number: u16) -> Self {
        let interface = snapshot.interface(number);
        let head = interface.map_or(u64::MAX, |interface| {
            let [a, b, c, d, e, f] = interface.mac.octets();
            u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
        });
        let vrf = snapshot.vrf_of(number);
        let behind = |features, policy: u8, lookup, to_policy| match features {
            NO_FEATURES => Some(lookup),
            features if features == NO_FEATURES.with(policy) => Some(to_policy),
            _ => None,
        };
        let ip4 = interface.and_then(|interface| {
            let features = interface.ip4_unicast;
            behind(features, ip4::arc::POLICY, Next::Ip4Lookup, Next::Ip4Policy)
        });
        let ip6 = interface.filter(|interface| interface.ip6_enabled());
        let ip6 = ip6.and_then(|interface| {
            let features = interface.ip6_unicast;
            behind(features, ip6::arc::POLICY, Next::Ip6Lookup, Next::Ip6Policy)
        });
        Self {
            interface,
            head,
            ip4: ip4.zip(vrf.map(|vrf| &vrf.ip4)),
            ip6: ip6.filter(|_| vrf.is_some()),
        }
    }
}

/// Whether packets of a frame may still skip their input nodes.
struct Straight {
    ip4: bool,
    ip6: bool,
}

impl Default for Straight {
    fn default() -> Self {
        Self {
            ip4: true,
            ip6: true,
        }
    }
}

/// Flags of packets that the input nodes themselves must see: longer than a buffer, by broadcast, or followed.
const SPECIAL: Flags = ip4::input::SPECIAL.union(Flags::TRACED);

impl Node<Snapshot> for EthernetInput {
    const NAME: &'static str = "ethernet-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let mut port = packets
            .first()
            .map_or(NO_INTERFACE, |packet| packet.interface);
        let mut untagged = Station::of(cx.snapshot, port);
        let mut tagged = (NO_INTERFACE, untagged);
        // Once a packet of this frame goes by its input node, those behind it do too: no packet may overtake another of its flow.
        let mut straight = Straight::default();
        let (mut count, mut bytes) = (0, 0);
        let view = cx.view;
        let mut at = 0;
        while at < packets.len() {
            if packets[at].interface != port {
                cx.count(port, InterfaceCounter::Rx, count, bytes);
                (count, bytes) = (0, 0);
                port = packets[at].interface;
                untagged = Station::of(cx.snapshot, port);
            }
            if let Some((next, table)) = untagged.ip4.filter(|_| straight.ip4) {
                let (packets, verdicts) = (&mut packets[at..], &mut verdicts[at..]);
                let run = plain_ip4(packets, port, untagged.head, table, view);
                verdicts[..run.0].fill(next.into());
                at += run.0;
                count += run.0 as u64;
                bytes += run.1;
                if packets.len() == run.0 || packets[run.0].interface != port {
                    continue;
                }
            }
            if let Some(next) = untagged.ip6.filter(|_| straight.ip6) {
                let (packets, verdicts) = (&mut packets[at..], &mut verdicts[at..]);
                let run = plain_ip6(packets, port, untagged.head, view);
                verdicts[..run.0].fill(next.into());
                at += run.0;
                count += run.0 as u64;
                bytes += run.1;
                if run.0 > 0 {
                    continue;
                }
            }
            let (packet, verdict) = (&mut packets[at], &mut verdicts[at]);
            at += 1;
            let mut length = packet.length();
            if packet.flags().contains(Flags::CHAINED) {
                length = cx.buffers.total_length(packet);
            }
            // Tags and the rest of IP, without a feature in between or with one.
            if let Some(head) = view.head::<18>(packet) {
                let first = u64::from_ne_bytes([
                    head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7],
                ]) & Station::MASK;
                let (outer, inner) = ([head[12], head[13]], [head[16], head[17]]);
                let vid = usize::from(u16::from_be_bytes([head[14] & 15, head[15]]));
                if first == untagged.head
                    && let Some(next) = plain(outer, 14, packet, view, &untagged, &mut straight)
                {
                    *verdict = next.into();
                    count += 1;
                    bytes += length as u64;
                    continue;
                }
                if outer == [0x81, 0x00]
                    && let Some(ports) = cx.snapshot.ports.get(usize::from(port))
                    && let Some(number) = ports.vlans.get(vid)
                    && *number != NO_INTERFACE
                {
                    if tagged.0 != *number {
                        tagged = (*number, Station::of(cx.snapshot, *number));
                    }
                    if first == tagged.1.head
                        && let Some(next) = plain(inner, 18, packet, view, &tagged.1, &mut straight)
                    {
                        packet.interface = *number;
                        cx.count(*number, InterfaceCounter::Rx, 1, length as u64);
                        *verdict = next.into();
                        continue;
                    }
                }
            }
            *verdict = match other(packet, cx, &untagged) {
                Ok(next) => {
                    straight.ip4 &= next != Next::Ip4;
                    straight.ip6 &= next != Next::Ip6;
                    if packet.interface == port {
                        count += 1;
                        bytes += length as u64;
                    } else {
                        cx.count(packet.interface, InterfaceCounter::Rx, 1, length as u64);
                    }
                    next.into()
                }
                Err(reason) => Verdict::discard(reason),
            };
        }
        cx.count(port, InterfaceCounter::Rx, count, bytes);
    }
}

/// Almost all packets: no tag, IPv4 for us alone, nothing between input and lookup. Decides about them from the front of the slice up to
/// the first that is something else; returns how many there were and their bytes. A function of its own keeps what its loop needs in
/// registers.
#[inline(never)]
fn plain_ip4(
    packets: &mut [Descriptor],
    port: u16,
    station: u64,
    table: &Lpm4,
    view: BufferView<'_>,
) -> (usize, u64) {
    let table = table.view();
    let (mut count, mut bytes) = (0, 0);
    for packet in packets.iter_mut() {
        let Some(head) = view.head::<34>(packet) else {
            break;
        };
        let (Some(first), Some(ip)) = (head.first_chunk::<8>(), head.last_chunk::<20>()) else {
            break;
        };
        let length = packet.length();
        let for_us = u64::from_ne_bytes(*first) & Station::MASK == station;
        let Some(plain) = ip4::input::plain(ip, length - 14) else {
            break;
        };
        if !for_us
            || packet.interface != port
            || packet.flags().intersects(SPECIAL)
            || [head[12], head[13]] != [0x08, 0x00]
        {
            break;
        }
        packet.word = plain.destination;
        table.prefetch(plain.destination);
        bytes += length as u64;
        // The header was read, so it is there.
        let advanced = packet.advance(14);
        debug_assert!(advanced);
        packet.truncate(plain.total_length);
        count += 1;
    }
    (count, bytes)
}

/// As [`plain_ip4`], for IPv6.
#[inline(never)]
fn plain_ip6(
    packets: &mut [Descriptor],
    port: u16,
    station: u64,
    view: BufferView<'_>,
) -> (usize, u64) {
    let (mut count, mut bytes) = (0, 0);
    for packet in packets.iter_mut() {
        let Some(head) = view.head::<54>(packet) else {
            break;
        };
        let (Some(first), Some(ip)) = (head.first_chunk::<8>(), head.last_chunk::<40>()) else {
            break;
        };
        let length = packet.length();
        let for_us = u64::from_ne_bytes(*first) & Station::MASK == station;
        let Some(total_length) = ip6::input::plain(ip, length - 14) else {
            break;
        };
        if !for_us
            || packet.interface != port
            || packet.flags().intersects(SPECIAL)
            || [head[12], head[13]] != [0x86, 0xdd]
        {
            break;
        }
        bytes += length as u64;
        // The header was read, so it is there.
        let advanced = packet.advance(14);
        debug_assert!(advanced);
        packet.truncate(total_length);
        count += 1;
    }
    (count, bytes)
}

/// An IP packet behind `header` bytes of link-layer header: its input node's stage at once, where nothing needs to see the packet in
/// between; else to its input node. `None` for other protocols.
#[inline(always)]
fn plain(
    ethertype: [u8; 2],
    header: usize,
    packet: &mut Descriptor,
    view: BufferView<'_>,
    station: &Station<'_>,
    straight: &mut Straight,
) -> Option<Next> {
    match ethertype {
        [0x08, 0x00] => {
            if !packet.advance(header) {
                return None;
            }
            if !packet.flags().intersects(SPECIAL)
                && straight.ip4
                && let Some((next, table)) = station.ip4
                && let Some(ip) = view.head::<20>(packet)
                && let Some(plain) = ip4::input::plain(ip, packet.length())
            {
                packet.word = plain.destination;
                table.prefetch(plain.destination);
                packet.truncate(plain.total_length);
                return Some(next);
            }
            straight.ip4 = false;
            Some(Next::Ip4)
        }
        [0x86, 0xdd] => {
            if !packet.advance(header) {
                return None;
            }
            if !packet.flags().intersects(SPECIAL)
                && straight.ip6
                && let Some(next) = station.ip6
                && let Some(ip) = view.head::<40>(packet)
                && let Some(total_length) = ip6::input::plain(ip, packet.length())
            {
                packet.truncate(total_length);
                return Some(next);
            }
            straight.ip6 = false;
            Some(Next::Ip6)
        }
        _ => None,
    }
}

/// Everything that is not an IP frame for us alone with one tag at the most.
#[cold]
#[inline(never)]
fn other(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    untagged: &Station<'_>,
) -> Result<Next, Drop> {
    let bytes = cx.buffers.bytes(packet);
    let tagged = wire::vlan::parse_vlans(bytes).map_err(|_| Drop::Truncated)?;
    let port = packet.interface;
    let (number, interface) = match (tagged.outer, tagged.inner) {
        (None, _) => (port, untagged.interface),
        // A priority tag says nothing about the VLAN.
        (Some(tag), None) if tag.vid() == 0 => (port, untagged.interface),
        (outer, inner) => {
            let ports = cx
                .snapshot
                .ports
                .get(usize::from(port))
                .ok_or(Drop::InterfaceDown)?;
            let number = sub_interface(
                ports,
                outer.map_or(0, |tag| tag.vid()),
                inner.map(|tag| tag.vid()),
            );
            let number = number.ok_or(Drop::UnknownVlan)?;
            (number, cx.snapshot.interface(number))
        }
    };
    let interface = interface.ok_or(Drop::InterfaceDown)?;
    if number != port && !tags_match(interface, bytes) {
        return Err(Drop::UnknownVlan);
    }
    let (destination, source) = (tagged.ethernet.dst, tagged.ethernet.src);
    if source.is_multicast() {
        return Err(Drop::SourceMulticast);
    }
    let next = match tagged.ethertype {
        EtherType::IP4 => Next::Ip4,
        EtherType::IP6 => Next::Ip6,
        EtherType::ARP => Next::Arp,
        _ => return Err(Drop::UnknownType),
    };
    let link_broadcast = destination.is_multicast();
    if !link_broadcast && destination != interface.mac {
        return Err(Drop::NotForUs);
    }
    let header = tagged.offset;
    if !packet.advance(header) {
        return Err(Drop::Truncated);
    }
    packet.interface = number;
    if link_broadcast {
        packet.set_flags(Flags::LINK_BROADCAST);
    }
    Ok(next)
}

fn sub_interface(port: &Port, outer: u16, inner: Option<u16>) -> Option<u16> {
    match inner {
        None => port.vlans.get(usize::from(outer)).copied(),
        Some(inner) => {
            let key = u32::from(outer) << 16 | u32::from(inner);
            let at = port
                .stacked_vlans
                .binary_search_by_key(&key, |(key, _)| *key)
                .ok()?;
            Some(port.stacked_vlans[at].1)
        }
    }
    .filter(|number| *number != NO_INTERFACE)
}

/// True where the types in front of the frame's VLAN tags are those of the interface.
fn tags_match(interface: &Interface, frame: &[u8]) -> bool {
    let tpid = |at: usize| {
        frame
            .get(at..at + 2)
            .map(|bytes| EtherType::new(u16::from_be_bytes([bytes[0], bytes[1]])))
    };
    match interface.tags.outer {
        Some((outer, _)) => tpid(12) == Some(outer) && tpid(16) == Some(EtherType::VLAN),
        None => tpid(12) == Some(EtherType::VLAN),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::{NodeHarness, PortId, TestPacket};
    use proptest::prelude::*;
    use wire::MacAddr;

    use super::*;
    use crate::snapshot::{IcmpLimits, Tags, WorkerState};

    const US: MacAddr = MacAddr::local(1);
    const PEER: MacAddr = MacAddr::local(2);

    fn snapshot() -> Snapshot {
        let up = |port: u16| Interface {
            up: true,
            port: PortId(port),
            mac: US,
            mtu: 1500,
            ..Interface::absent()
        };
        let mut interfaces = vec![up(0), Interface::absent()];
        interfaces.resize_with(1024, Interface::absent);
        interfaces.push(Interface {
            tags: Tags {
                outer: None,
                inner: Some(10),
            },
            ..up(0)
        });
        interfaces.push(Interface {
            tags: Tags {
                outer: Some((EtherType::VLAN_AD, 20)),
                inner: Some(10),
            },
            ..up(0)
        });
        let mut vlans = vec![NO_INTERFACE; 4096];
        vlans[10] = 1024;
        let port = Port {
            vlans,
            stacked_vlans: vec![(20 << 16 | 10, 1025)],
            ..Port::default()
        };
        Snapshot {
            ports: vec![port],
            interfaces,
            ..Snapshot::default()
        }
    }

    fn harness() -> NodeHarness<Snapshot> {
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(EthernetInput::default, snapshot(), state).expect("a harness")
    }

    fn frame(dst: MacAddr, src: MacAddr, rest: &[u8], interface: u16) -> TestPacket {
        let bytes = [&dst.octets()[..], &src.octets(), rest].concat();
        TestPacket {
            bytes,
            interface,
            ..TestPacket::default()
        }
    }

    /// One frame through the node: where it went with which interface and flags, or the drop.
    fn one(packet: TestPacket) -> Result<(&'static str, u16, Vec<u8>, bool), &'static str> {
        let mut harness = harness();
        let out = harness.run(vec![packet]);
        let result = match out.first() {
            Some(out) => {
                let broadcast = out.packet.flags.contains(Flags::LINK_BROADCAST);
                Ok((
                    out.node,
                    out.packet.interface,
                    out.packet.bytes.clone(),
                    broadcast,
                ))
            }
            None => Err(harness.drops()[0].0),
        };
        harness.audit().expect("balanced");
        result
    }

    #[test]
    fn frames_find_their_interface_and_node() {
        let broadcast = MacAddr::BROADCAST;
        assert_eq!(
            one(frame(US, PEER, &[8, 0, 1], 0)),
            Ok(("ip4-input", 0, vec![1], false))
        );
        assert_eq!(
            one(frame(US, PEER, &[0x86, 0xdd, 1], 0)),
            Ok(("ip6-input", 0, vec![1], false))
        );
        assert_eq!(
            one(frame(broadcast, PEER, &[8, 6, 1], 0)),
            Ok(("arp-input", 0, vec![1], true))
        );
        assert_eq!(
            one(frame(US, PEER, &[8, 6, 1], 0)),
            Ok(("arp-input", 0, vec![1], false))
        );
        assert_eq!(
            one(frame(US, PEER, &[0x81, 0, 0, 10, 8, 0, 1], 0)),
            Ok(("ip4-input", 1024, vec![1], false))
        );
        assert_eq!(
            one(frame(US, PEER, &[0x81, 0, 0xe0, 0, 8, 0, 1], 0)),
            Ok(("ip4-input", 0, vec![1], false))
        );
        let stacked = [0x88, 0xa8, 0, 20, 0x81, 0, 0, 10, 0x86, 0xdd, 1];
        assert_eq!(
            one(frame(US, PEER, &stacked, 0)),
            Ok(("ip6-input", 1025, vec![1], false))
        );
    }

    #[test]
    fn what_is_not_for_us_is_dropped_by_name() {
        assert_eq!(one(frame(PEER, PEER, &[8, 0, 1], 0)), Err("not-for-us"));
        assert_eq!(
            one(frame(US, MacAddr::BROADCAST, &[8, 0, 1], 0)),
            Err("source-multicast")
        );
        assert_eq!(one(frame(US, PEER, &[8, 0, 1], 1)), Err("interface-down"));
        assert_eq!(
            one(frame(US, PEER, &[8, 0, 1], 9999)),
            Err("interface-down")
        );
        assert_eq!(
            one(frame(US, PEER, &[0x81, 0, 0, 11, 8, 0, 1], 0)),
            Err("unknown-vlan")
        );
        assert_eq!(
            one(frame(US, PEER, &[0x88, 0xa8, 0, 10, 8, 0, 1], 0)),
            Err("unknown-vlan")
        );
        assert_eq!(
            one(frame(US, PEER, &[0x81, 0, 0, 20, 0x81, 0, 0, 10, 8, 0], 0)),
            Err("unknown-vlan")
        );
        assert_eq!(
            one(frame(US, PEER, &[0x88, 0xcc, 1], 0)),
            Err("unknown-type")
        );
        assert_eq!(one(frame(US, PEER, &[8], 0)), Err("truncated"));
        assert_eq!(one(frame(US, PEER, &[0x81, 0, 0], 0)), Err("truncated"));
    }

    #[test]
    fn frames_are_counted_for_their_interface() {
        let mut harness = harness();
        let tagged = frame(US, PEER, &[0x81, 0, 0, 10, 8, 0, 1], 0);
        harness.run(vec![
            frame(US, PEER, &[8, 0, 1], 0),
            tagged,
            frame(US, PEER, &[8, 0, 1, 2], 0),
        ]);
        assert_eq!(harness.interface(0, InterfaceCounter::Rx), (2, 31));
        assert_eq!(harness.interface(1024, InterfaceCounter::Rx), (1, 19));
    }

    proptest! {
        #[test]
        fn any_bytes_come_out_once(frames in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), 0u16..3), 1..20)) {
            let mut harness = harness();
            let count = frames.len() as u64;
            let packets = frames.into_iter().map(|(bytes, interface)| TestPacket { bytes, interface, ..TestPacket::default() });
            let out = harness.run(packets.collect()).len() as u64;
            let drops: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            prop_assert_eq!(out + drops, count);
            prop_assert!(harness.audit().is_ok());
        }
    }
}
