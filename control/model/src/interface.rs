//! Interfaces: places where packets enter and leave.

use std::fmt;
use std::num::NonZeroU8;
use std::str::FromStr;

use crate::error::invalid;
use crate::{DeviceName, InterfaceName, Invalid, MacAddress, VrfName};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What is behind it.
    pub kind: InterfaceKind,
    /// Largest IP packet. Without it, the device's own or the parent's.
    pub mtu: Option<Mtu>,
    /// Its link-layer address. Without it, the device's own or the parent's.
    pub mac_address: Option<MacAddress>,
    /// Whether it carries packets.
    pub admin_up: bool,
    /// The VRF that routes what arrives here.
    pub vrf: VrfName,
    /// Answer ARP requests for addresses that are reached through another interface (RFC 1027).
    pub proxy_arp: bool,
    /// Send ICMP redirects (RFC 792, RFC 4861 section 8) to hosts whose packets leave by the interface that they came in by.
    pub redirects: bool,
}

impl Interface {
    /// An interface that is up, in the default VRF, with everything else as the device has it.
    pub fn new(kind: InterfaceKind) -> Self {
        Self {
            kind,
            mtu: None,
            mac_address: None,
            admin_up: true,
            vrf: VrfName::default(),
            proxy_arp: false,
            redirects: false,
        }
    }
}

/// What is behind an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// A Linux device.
    AfPacket(AfPacket),
    /// A VLAN of another interface.
    Vlan(Vlan),
}

/// A Linux network device, through a memory-mapped packet socket (packet(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfPacket {
    /// The device.
    pub device: DeviceName,
    /// Ring format. Without it, the one measured to be best.
    pub version: Option<RingVersion>,
    /// Receive queues: 1 to [`AfPacket::MAX_QUEUES`].
    pub queues: NonZeroU8,
    /// Let segmentation-offload and partial-checksum packets cross without being segmented.
    pub offloads: bool,
    /// Send past the kernel's queueing discipline.
    pub qdisc_bypass: bool,
    /// Let the kernel join received segments into trains before we see them.
    pub gro: bool,
}

impl AfPacket {
    /// Most receive queues of one device.
    pub const MAX_QUEUES: u8 = 64;

    /// The device with one queue and everything that makes it fast.
    pub fn new(device: DeviceName) -> Self {
        Self {
            device,
            version: None,
            queues: NonZeroU8::MIN,
            offloads: true,
            qdisc_bypass: true,
            gro: true,
        }
    }
}

/// Formats of packet rings (packet(7), PACKET_VERSION).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingVersion {
    /// TPACKET_V2: slots of one packet.
    V2,
    /// TPACKET_V3: blocks of packets.
    V3,
}

impl FromStr for RingVersion {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "v2" => Ok(Self::V2),
            "v3" => Ok(Self::V3),
            _ => Err(invalid!("{text:?} is no ring format; there are v2 and v3")),
        }
    }
}

/// A VLAN (IEEE 802.1Q) or QinQ (802.1ad) sub-interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// The interface that carries the tagged frames.
    pub parent: InterfaceName,
    /// Id of the only tag, or of the inner one.
    pub id: VlanId,
    /// The outer tag where there are two.
    pub outer: Option<(TagProtocol, VlanId)>,
}

/// The type of a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TagProtocol {
    /// 0x8100, IEEE 802.1Q.
    Dot1q,
    /// 0x88a8, IEEE 802.1ad.
    Dot1ad,
}

impl TagProtocol {
    /// The EtherType that announces the tag.
    pub fn ethertype(self) -> u16 {
        match self {
            Self::Dot1q => 0x8100,
            Self::Dot1ad => 0x88a8,
        }
    }
}

impl FromStr for TagProtocol {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "dot1q" => Ok(Self::Dot1q),
            "dot1ad" => Ok(Self::Dot1ad),
            _ => Err(invalid!(
                "{text:?} is no tag type; there are dot1ad (0x88a8) and dot1q (0x8100)"
            )),
        }
    }
}

/// A VLAN id: 1 to 4094 (IEEE 802.1Q reserves 0 and 4095).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// Checks and takes an id.
    ///
    /// # Errors
    ///
    /// Outside 1 to 4094.
    pub fn new(id: u32) -> Result<Self, Invalid> {
        match u16::try_from(id) {
            Ok(id @ 1..=4094) => Ok(Self(id)),
            _ => Err(invalid!("{id} is no VLAN id; it is 1 to 4094")),
        }
    }

    /// The id.
    pub fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The largest IP packet of a link, in bytes: 68 (RFC 791) to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u16);

impl Mtu {
    /// What every link with IPv6 carries (RFC 8200 section 5).
    pub const IPV6_MINIMUM: Self = Self(1280);

    /// Checks and takes a size in bytes.
    ///
    /// # Errors
    ///
    /// Outside 68 to 65535.
    pub fn new(bytes: u32) -> Result<Self, Invalid> {
        match u16::try_from(bytes) {
            Ok(bytes @ 68..) => Ok(Self(bytes)),
            _ => Err(invalid!("{bytes} bytes are no MTU; it is 68 to 65535")),
        }
    }

    /// In bytes.
    pub fn bytes(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_held() {
        for (id, good) in [
            (0, false),
            (1, true),
            (4094, true),
            (4095, false),
            (65537, false),
        ] {
            assert_eq!(VlanId::new(id).is_ok(), good, "{id}");
        }
        for (mtu, good) in [
            (67, false),
            (68, true),
            (65535, true),
            (65536, false),
            (65604, false),
        ] {
            assert_eq!(Mtu::new(mtu).is_ok(), good, "{mtu}");
        }
    }
}
