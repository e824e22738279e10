//! What the nodes hand to the control plane's slow path.

/// Kinds of punts; the number travels in [`dataplane::PuntHeader::kind`].
#[repr(u16)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Punt {
    /// A neighbour is needed: the bytes are its address (4 or 16 bytes), the interface is the one to ask on.
    Resolve = 1,
    /// An ARP packet worth learning from: the bytes are the packet from the ARP header on.
    Arp = 2,
    /// A neighbour-discovery message: the bytes are the packet from the IPv6 header on; its checksum and hop limit were
    /// verified.
    NeighbourDiscovery = 3,
}

impl Punt {
    /// From the number in a punt's header.
    pub fn from_kind(kind: u16) -> Option<Self> {
        [Self::Resolve, Self::Arp, Self::NeighbourDiscovery]
            .into_iter()
            .find(|punt| *punt as u16 == kind)
    }
}
