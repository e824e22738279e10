//! Ethernet, VLAN tags, ARP.

use std::net::Ipv4Addr;

use zerocopy::IntoBytes;

use super::sealed::Sealed;
use super::{Builder, Carrier, Layer, LinkLayer, prepend};
use crate::{ArpOperation, ArpPacket, EtherType, EthernetHeader, MacAddr, VlanTag};

/// An Ethernet header.
#[derive(Debug, Clone)]
pub struct Eth {
    source: MacAddr,
    destination: MacAddr,
    ethertype: EtherType,
    ethertype_override: Option<u16>,
}

impl Eth {
    pub(super) fn new(source: MacAddr, destination: MacAddr) -> Self {
        Self {
            source,
            destination,
            ethertype: EtherType::new(0),
            ethertype_override: None,
        }
    }
}

impl Sealed for Eth {}

impl Layer for Eth {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let header = EthernetHeader {
            dst: self.destination,
            src: self.source,
            ethertype: self
                .ethertype_override
                .map_or(self.ethertype, EtherType::new),
        };
        prepend(header.as_bytes(), inner)
    }
}

impl LinkLayer for Eth {
    fn set_ethertype(&mut self, ethertype: EtherType) {
        self.ethertype = ethertype;
    }

    fn stations(&self) -> (MacAddr, MacAddr) {
        (self.source, self.destination)
    }
}

impl Carrier for Eth {
    type Number = u16;

    fn set_number(&mut self, number: u16) {
        self.ethertype = EtherType::new(number);
    }

    fn set_ip_version(&mut self, version: u8) {
        self.ethertype = ethertype_of_ip(version);
    }
}

impl Builder<Eth> {
    /// Overrides the EtherType.
    pub fn ethertype(self, ethertype: u16) -> Self {
        self.with(|layer| layer.ethertype_override = Some(ethertype))
    }
}

/// A VLAN tag.
#[derive(Debug, Clone)]
pub struct Vlan {
    stations: (MacAddr, MacAddr),
    vid: u16,
    pcp: u8,
    dei: bool,
    ethertype: EtherType,
    ethertype_override: Option<u16>,
}

impl Sealed for Vlan {}

impl Layer for Vlan {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let ethertype = self
            .ethertype_override
            .map_or(self.ethertype, EtherType::new);
        prepend(
            VlanTag::new(self.pcp, self.dei, self.vid, ethertype).as_bytes(),
            inner,
        )
    }
}

impl LinkLayer for Vlan {
    fn set_ethertype(&mut self, ethertype: EtherType) {
        self.ethertype = ethertype;
    }

    fn stations(&self) -> (MacAddr, MacAddr) {
        self.stations
    }
}

impl Carrier for Vlan {
    type Number = u16;

    fn set_number(&mut self, number: u16) {
        self.ethertype = EtherType::new(number);
    }

    fn set_ip_version(&mut self, version: u8) {
        self.ethertype = ethertype_of_ip(version);
    }
}

impl Builder<Vlan> {
    /// Priority code point, 0 to 7.
    pub fn pcp(self, pcp: u8) -> Self {
        self.with(|layer| layer.pcp = pcp)
    }

    /// Sets the drop eligible indicator.
    pub fn dei(self) -> Self {
        self.with(|layer| layer.dei = true)
    }

    /// Overrides the EtherType inside the tag: what is said to follow it.
    pub fn ethertype(self, ethertype: u16) -> Self {
        self.with(|layer| layer.ethertype_override = Some(ethertype))
    }

    /// Overrides the EtherType that announces this tag, which stands in the header before it.
    pub fn tpid(mut self, ethertype: u16) -> Self {
        // The announcement is the last two bytes of whatever comes before the tag.
        if let Some(before) = self.outer.pop() {
            self.outer
                .push(std::sync::Arc::new(Announced { before, ethertype }));
        }
        self
    }
}

/// A link header whose announcement of the next tag was overridden after the fact.
struct Announced {
    before: std::sync::Arc<dyn Layer>,
    ethertype: u16,
}

impl Sealed for Announced {}

impl Layer for Announced {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let inner_len = inner.len();
        let mut bytes = self.before.wrap(inner);
        let end = bytes.len() - inner_len;
        bytes[end - 2..end].copy_from_slice(&self.ethertype.to_be_bytes());
        bytes
    }
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone)]
pub struct Arp(ArpPacket);

impl Sealed for Arp {}

impl Layer for Arp {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        prepend(self.0.as_bytes(), inner)
    }
}

impl Builder<Arp> {
    /// Overrides the operation.
    pub fn operation(self, operation: u16) -> Self {
        self.with(|layer| layer.0.operation = ArpOperation::new(operation))
    }

    /// Overrides the sender's link address, by default the source of the frame.
    pub fn sender_mac(self, mac: impl Into<MacAddr>) -> Self {
        self.with(|layer| layer.0.sender_mac = mac.into())
    }

    /// Overrides the target's link address, by default zero in requests and the destination of the
    /// frame in replies.
    pub fn target_mac(self, mac: impl Into<MacAddr>) -> Self {
        self.with(|layer| layer.0.target_mac = mac.into())
    }
}

impl<L: LinkLayer> Builder<L> {
    /// An IEEE 802.1Q tag (EtherType 0x8100).
    pub fn vlan(self, vid: u16) -> Builder<Vlan> {
        self.tag(EtherType::VLAN, vid)
    }

    /// An IEEE 802.1ad service tag (EtherType 0x88a8).
    pub fn vlan_ad(self, vid: u16) -> Builder<Vlan> {
        self.tag(EtherType::VLAN_AD, vid)
    }

    /// Two tags: a service tag outside and a customer tag inside; overrides apply to the inner.
    pub fn qinq(self, outer_vid: u16, inner_vid: u16) -> Builder<Vlan> {
        self.vlan_ad(outer_vid).vlan(inner_vid)
    }

    /// `sender` (at the source of the frame) asks for `target`.
    pub fn arp_request(
        self,
        sender: impl Into<Ipv4Addr>,
        target: impl Into<Ipv4Addr>,
    ) -> Builder<Arp> {
        let (mac, _) = self.layer.stations();
        self.arp(ArpPacket::new(
            ArpOperation::REQUEST,
            (mac, sender.into()),
            (MacAddr::ZERO, target.into()),
        ))
    }

    /// `sender` (at the source of the frame) answers `target` (at its destination).
    pub fn arp_reply(
        self,
        sender: impl Into<Ipv4Addr>,
        target: impl Into<Ipv4Addr>,
    ) -> Builder<Arp> {
        let (from, to) = self.layer.stations();
        self.arp(ArpPacket::new(
            ArpOperation::REPLY,
            (from, sender.into()),
            (to, target.into()),
        ))
    }

    fn arp(self, packet: ArpPacket) -> Builder<Arp> {
        self.with(|layer| layer.set_ethertype(EtherType::ARP))
            .push(Arp(packet))
    }

    fn tag(self, tpid: EtherType, vid: u16) -> Builder<Vlan> {
        let stations = self.layer.stations();
        self.with(|layer| layer.set_ethertype(tpid)).push(Vlan {
            stations,
            vid,
            pcp: 0,
            dei: false,
            ethertype: EtherType::new(0),
            ethertype_override: None,
        })
    }
}

const fn ethertype_of_ip(version: u8) -> EtherType {
    if version == 4 {
        EtherType::IP4
    } else {
        EtherType::IP6
    }
}
