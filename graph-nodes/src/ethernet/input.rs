//! `ethernet-input`: finds out which interface a frame belongs to and what it carries.
//!
//! - Input: frames as a port received them, at their Ethernet header; interface = port number.
//! - Output: packets at their network header, interface = interface number, flag LINK_BROADCAST where it was not sent to us alone.
//! - Reads: snapshot.ports, snapshot.interfaces
//! - State: none
//! - Standard: IEEE 802.3, 802.1Q, 802.1ad
//! - Cost: 4 ticks (pg-ip4base)

use dataplane::{Context, Descriptor, Flags, Frame, InterfaceCounter, Node, Verdict};
use wire::EtherType;

use crate::snapshot::{Interface, NO_INTERFACE, Port, Snapshot};

dataplane::next_nodes! {
    /// Where `ethernet-input` sends packets.
    pub enum Next { Ip4 => "ip4-input", Ip6 => "ip6-input", Arp => "arp-input" }
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

/// What is the same for all untagged frames of a port.
struct Untagged<'a> {
    interface: Option<&'a Interface>,
    /// The first eight bytes of a frame for the interface alone, under [`Untagged::MASK`].
    head: u64,
}

impl<'a> Untagged<'a> {
    /// The destination, and the bit of the source that makes it a multicast address.
    const MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]);

    fn of(snapshot: &'a Snapshot, port: u16) -> Self {
        let interface = snapshot.interface(port);
        let head = interface.map_or(u64::MAX, |interface| {
            let [a, b, c, d, e, f] = interface.mac.octets();
            u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
        });
        Self { interface, head }
    }
}

/// How far ahead the headers are prefetched.
const AHEAD: usize = 8;

impl Node<Snapshot> for EthernetInput {
    const NAME: &'static str = "ethernet-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for packet in packets.iter().take(AHEAD) {
            cx.view.prefetch(packet);
        }
        let mut port = packets
            .first()
            .map_or(NO_INTERFACE, |packet| packet.interface);
        let mut untagged = Untagged::of(cx.snapshot, port);
        let (mut count, mut bytes) = (0, 0);
        let view = cx.view;
        for at in 0..packets.len() {
            if let Some(ahead) = packets.get(at + AHEAD) {
                view.prefetch(ahead);
            }
            let packet = &mut packets[at];
            if packet.interface != port {
                cx.count(port, InterfaceCounter::Rx, count, bytes);
                (count, bytes) = (0, 0);
                port = packet.interface;
                untagged = Untagged::of(cx.snapshot, port);
            }
            let mut length = packet.length();
            if packet.flags().contains(Flags::CHAINED) {
                length = cx.buffers.total_length(packet);
            }
            let Some(head) = view.head::<14>(packet) else {
                verdicts[at] = Verdict::discard(Drop::Truncated);
                continue;
            };
            // Taken as one chunk, so that it is one load.
            let first = head
                .first_chunk::<8>()
                .map_or(0, |chunk| u64::from_ne_bytes(*chunk));
            if first & Untagged::MASK == untagged.head {
                let next = match [head[12], head[13]] {
                    [0x08, 0x00] => Some(Next::Ip4),
                    [0x86, 0xdd] => Some(Next::Ip6),
                    _ => None,
                };
                // The header was read, so it is there.
                if let Some(next) = next
                    && packet.advance(14)
                {
                    verdicts[at] = next.into();
                    count += 1;
                    bytes += length as u64;
                    continue;
                }
            }
            verdicts[at] = match other(packet, cx, &untagged) {
                Ok(next) => {
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

/// Everything that is not an untagged IP frame for us alone.
fn other(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    untagged: &Untagged<'_>,
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
