//! An interface as the neighbour cache sees it: its addresses, and what it says on its link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::builder::{eth, ip6};
use wire::{EtherType, EthernetHeader, Header, MacAddr, nd};

/// What the neighbour cache needs to know about an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceFacts {
    /// Its number.
    pub number: u16,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// IPv4 addresses with the lengths of their prefixes.
    pub ip4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses without the link-local one, with the lengths of their prefixes.
    pub ip6: Vec<(Ipv6Addr, u8)>,
    /// The link-local address; `None` where IPv6 is off.
    pub link_local: Option<Ipv6Addr>,
    /// Packets are let in and out.
    pub up: bool,
}

impl InterfaceFacts {
    /// All own addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ip4 = self.ip4.iter().map(|(address, _)| IpAddr::V4(*address));
        let ip6 = self.ip6.iter().map(|(address, _)| *address);
        ip4.chain(ip6.chain(self.link_local).map(IpAddr::V6))
    }

    /// Whether the address is one of its own.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ip4.iter().any(|(own, _)| *own == address),
            IpAddr::V6(address) => {
                self.link_local == Some(address) || self.ip6.iter().any(|(own, _)| *own == address)
            }
        }
    }

    /// Whether the address belongs to a prefix of the link.
    pub(super) fn is_on_link(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ip4.iter().any(|own| holds4(*own, address)),
            IpAddr::V6(address) => {
                address.is_unicast_link_local() || self.ip6.iter().any(|own| holds6(*own, address))
            }
        }
    }

    /// Whether a neighbour can have this address: unicast, no loopback, not an own one, and neither first nor last of a
    /// connected IPv4 prefix.
    pub(super) fn can_be_neighbour(&self, address: IpAddr) -> bool {
        let unicast = match address {
            IpAddr::V4(address) => {
                // "This network" (RFC 1122 section 3.2.1.3) is no station's address.
                address.octets()[0] != 0
                    && !address.is_loopback()
                    && !address.is_multicast()
                    && !address.is_broadcast()
                    && !self.ip4.iter().any(|own| is_edge(*own, address))
            }
            IpAddr::V6(address) => {
                !address.is_unspecified()
                    && !address.is_loopback()
                    && !address.is_multicast()
                    && address.to_ipv4_mapped().is_none()
            }
        };
        unicast && !self.owns(address)
    }

    /// The question who has `target`: to everybody, or to the station `to` alone. `None` where the interface has no
    /// address to ask from.
    pub(super) fn solicitation(
        &self,
        target: IpAddr,
        to: Option<MacAddr>,
    ) -> Option<EthernetPayload> {
        match target {
            IpAddr::V4(target) => {
                let source = self
                    .ip4
                    .iter()
                    .find(|own| holds4(**own, target))
                    .or(self.ip4.first())?
                    .0;
                Some(self.arp_request(source, target, to.unwrap_or(MacAddr::BROADCAST)))
            }
            IpAddr::V6(target) => {
                let source = self.source6(target)?;
                let group = nd::solicited_node(target);
                let (station, address) = match to {
                    Some(mac) => (mac, target),
                    None => (MacAddr::from_ip6_multicast(group), group),
                };
                let packet = ip6(source, address).neighbour_solicitation(target, Some(self.mac));
                Some(EthernetPayload {
                    destination: station,
                    ethertype: EtherType::IP6,
                    payload: packet.build(),
                })
            }
        }
    }

    /// Tells everybody that an own address is here: an ARP announcement (RFC 5227 section 2.3) or an unsolicited
    /// neighbour advertisement (RFC 4861 section 7.2.6).
    pub(super) fn announcement(&self, own: IpAddr) -> EthernetPayload {
        match own {
            IpAddr::V4(own) => self.arp_request(own, own, MacAddr::BROADCAST),
            IpAddr::V6(own) => {
                let flags = nd::ADVERTISEMENT_ROUTER | nd::ADVERTISEMENT_OVERRIDE;
                let packet = ip6(own, nd::ALL_NODES);
                EthernetPayload {
                    destination: MacAddr::from_ip6_multicast(nd::ALL_NODES),
                    ethertype: EtherType::IP6,
                    payload: packet
                        .neighbour_advertisement(own, flags, Some(self.mac))
                        .build(),
                }
            }
        }
    }

    fn source6(&self, target: Ipv6Addr) -> Option<Ipv6Addr> {
        if target.is_unicast_link_local() {
            return self.link_local;
        }
        let on_link = self.ip6.iter().find(|own| holds6(**own, target));
        let global = on_link.or(self.ip6.first()).map(|(own, _)| *own);
        global.or(self.link_local)
    }

    fn arp_request(&self, from: Ipv4Addr, target: Ipv4Addr, to: MacAddr) -> EthernetPayload {
        let frame = eth(self.mac, to).arp_request(from, target).build();
        EthernetPayload {
            destination: to,
            ethertype: EtherType::ARP,
            payload: frame
                .get(EthernetHeader::LEN..)
                .unwrap_or_default()
                .to_vec(),
        }
    }
}

/// What goes into an Ethernet frame; whoever sends it adds source address and VLAN tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EthernetPayload {
    /// The station or group that it is for.
    pub destination: MacAddr,
    /// What the payload is.
    pub ethertype: EtherType,
    /// The bytes after the Ethernet header, from the ARP or IPv6 header on, without padding.
    pub payload: Vec<u8>,
}

fn holds4((own, len): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let host_bits = 32_u32.saturating_sub(len.into());
    let difference = own.to_bits() ^ address.to_bits();
    difference.checked_shr(host_bits).unwrap_or(0) == 0
}

fn holds6((own, len): (Ipv6Addr, u8), address: Ipv6Addr) -> bool {
    let host_bits = 128_u32.saturating_sub(len.into());
    let difference = own.to_bits() ^ address.to_bits();
    difference.checked_shr(host_bits).unwrap_or(0) == 0
}

/// Whether the address is the first or last of the prefix, where these are special (RFC 3021: not in /31).
fn is_edge((own, len): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let host_mask = u32::MAX.checked_shr(len.into()).unwrap_or(0);
    let host = address.to_bits() & host_mask;
    len <= 30 && holds4((own, len), address) && (host == 0 || host == host_mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::ArpPacket;
    use wire::ip6::Ip6Packet;

    fn facts() -> InterfaceFacts {
        InterfaceFacts {
            number: 1,
            mac: MacAddr::local(1),
            ip4: vec![
                ([10, 0, 0, 1].into(), 24),
                ([10, 1, 0, 1].into(), 31),
                ([10, 2, 0, 1].into(), 32),
            ],
            ip6: vec![
                ("2001:db8::1".parse().unwrap(), 64),
                ("2001:db8:1::1".parse().unwrap(), 64),
            ],
            link_local: Some("fe80::1".parse().unwrap()),
            up: true,
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn which_addresses_neighbours_have() {
        let facts = facts();
        for good in [
            "10.0.0.2",
            "10.1.0.0",
            "192.0.2.0",
            "2001:db8::",
            "fe80::2",
            "2001:db8:9::",
        ] {
            assert!(facts.can_be_neighbour(ip(good)), "{good}");
        }
        for bad in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "10.0.0.0",
            "10.0.0.255",
            "10.0.0.1",
            "10.2.0.1",
            "::",
            "::1",
            "ff02::1",
            "::ffff:10.0.0.2",
            "2001:db8::1",
            "fe80::1",
        ] {
            assert!(!facts.can_be_neighbour(ip(bad)), "{bad}");
        }
        for (address, on_link) in [
            ("10.0.0.200", true),
            ("10.0.1.2", false),
            ("10.2.0.2", false),
            ("2001:db8:1::9", true),
            ("2001:db8:2::9", false),
            ("fe80::9", true),
        ] {
            assert_eq!(facts.is_on_link(ip(address)), on_link, "{address}");
        }
        // Any length is handled.
        assert!(holds4(([1, 1, 1, 1].into(), 0), [2, 2, 2, 2].into()));
        assert!(!holds4(([1, 1, 1, 1].into(), 255), [2, 2, 2, 2].into()));
        assert!(holds6(
            (Ipv6Addr::LOCALHOST, 0),
            Ipv6Addr::from_bits(u128::MAX)
        ));
        assert!(is_edge(([1, 1, 1, 1].into(), 0), [0, 0, 0, 0].into()));
    }

    #[test]
    fn questions_come_from_the_fitting_address() {
        let facts = facts();
        for (target, source) in [
            ("10.0.0.9", "10.0.0.1"),
            ("10.1.0.0", "10.1.0.1"),
            ("192.0.2.1", "10.0.0.1"),
        ] {
            let frame = facts.solicitation(ip(target), None).unwrap();
            assert_eq!(frame.destination, MacAddr::BROADCAST);
            assert_eq!((frame.ethertype, frame.payload.len()), (EtherType::ARP, 28));
            let (packet, _) = ArpPacket::parse(&frame.payload).unwrap();
            assert_eq!(IpAddr::V4(packet.sender_ip()), ip(source));
            assert_eq!(IpAddr::V4(packet.target_ip()), ip(target));
            assert_eq!(
                (packet.sender_mac, packet.target_mac),
                (facts.mac, MacAddr::ZERO)
            );
        }
        for (target, source) in [
            ("2001:db8::9", "2001:db8::1"),
            ("2001:db8:1::9", "2001:db8:1::1"),
            ("2001:db8:2::9", "2001:db8::1"),
            ("fe80::9", "fe80::1"),
        ] {
            let frame = facts.solicitation(ip(target), None).unwrap();
            assert_eq!(frame.destination, MacAddr([0x33, 0x33, 0xff, 0, 0, 9]));
            let packet = Ip6Packet::parse(&frame.payload).unwrap();
            assert_eq!(IpAddr::V6(packet.header.source()), ip(source));
            assert_eq!(
                IpAddr::V6(packet.header.destination()),
                ip("ff02::1:ff00:9")
            );
            let message = nd::validate(packet.header, packet.payload).unwrap();
            assert_eq!(message.source_link_layer(), Some(facts.mac));
        }
    }

    #[test]
    fn probes_go_to_the_neighbour_alone() {
        let (facts, to) = (facts(), MacAddr::local(9));
        for target in ["10.0.0.9", "fe80::9"] {
            let frame = facts.solicitation(ip(target), Some(to)).unwrap();
            assert_eq!(frame.destination, to);
            if frame.ethertype == EtherType::IP6 {
                let packet = Ip6Packet::parse(&frame.payload).unwrap();
                assert_eq!(IpAddr::V6(packet.header.destination()), ip(target));
                nd::validate(packet.header, packet.payload).unwrap();
            }
        }
    }

    #[test]
    fn nobody_asks_without_an_address() {
        let mut facts = facts();
        facts.ip4.clear();
        facts.ip6.clear();
        assert_eq!(facts.solicitation(ip("10.0.0.2"), None), None);
        // The link-local address may ask for all.
        assert!(facts.solicitation(ip("2001:db8::2"), None).is_some());
        facts.link_local = None;
        assert_eq!(facts.solicitation(ip("2001:db8::2"), None), None);
        assert_eq!(facts.solicitation(ip("fe80::2"), None), None);
    }

    #[test]
    fn announcements_are_valid() {
        let facts = facts();
        for own in facts.addresses() {
            let frame = facts.announcement(own);
            match own {
                IpAddr::V4(own) => {
                    let (packet, _) = ArpPacket::parse(&frame.payload).unwrap();
                    assert!(packet.is_gratuitous() && packet.sender_ip() == own);
                    assert_eq!(packet.operation, wire::ArpOperation::REQUEST);
                    assert_eq!(frame.destination, MacAddr::BROADCAST);
                }
                IpAddr::V6(own) => {
                    let packet = Ip6Packet::parse(&frame.payload).unwrap();
                    assert_eq!(packet.header.source(), own);
                    let message = nd::validate(packet.header, packet.payload).unwrap();
                    assert_eq!(message.target_link_layer(), Some(facts.mac));
                    assert_eq!(frame.destination, MacAddr([0x33, 0x33, 0, 0, 0, 1]));
                }
            }
        }
        assert_eq!(facts.addresses().count(), 6);
    }
}
