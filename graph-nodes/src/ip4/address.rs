//! Kinds of IPv4 addresses, as the nodes tell them apart (RFC 1122 section 3.2.1.3, RFC 1812 sections 4.2.2.11 and 5.3.7).

use core::net::Ipv4Addr;

use crate::snapshot::{Interface, InterfaceAddress};

/// True for addresses that a single host can have: not in 0/8, 127/8, 224/4 or 240/4.
#[inline]
pub fn is_host(address: u32) -> bool {
    let top = address >> 24;
    (1..224).contains(&top) && top != 127
}

/// True for group addresses: 224/4.
#[inline]
pub fn is_multicast(address: u32) -> bool {
    address >> 28 == 0xe
}

/// True where the address is in the connected prefix.
#[inline]
pub fn is_on_link(own: &InterfaceAddress<Ipv4Addr>, address: u32) -> bool {
    (own.address.to_bits() ^ address) & !host_mask(own.prefix_len) == 0
}

/// True where the address means all hosts of one of the interface's links, or of this link whatever its prefix: host part all
/// ones, or all zeros as hosts before RFC 922 sent it. Prefixes of 31 and 32 bits have no broadcast address (RFC 3021).
pub fn is_broadcast(interface: &Interface, address: u32) -> bool {
    let directed = |own: &InterfaceAddress<Ipv4Addr>| {
        let mask = host_mask(own.prefix_len);
        let host = address & mask;
        mask > 1 && is_on_link(own, address) && (host == 0 || host == mask)
    };
    address == u32::MAX || interface.ip4.iter().any(directed)
}

/// The address of the interface with this number, where it has it.
pub fn is_own(interface: &Interface, address: u32) -> bool {
    interface
        .ip4
        .iter()
        .any(|own| own.address.to_bits() == address)
}

/// True where a host on the interface's link can have this address.
pub fn is_neighbour(interface: &Interface, address: u32) -> bool {
    is_host(address)
        && !is_broadcast(interface, address)
        && interface.ip4.iter().any(|own| is_on_link(own, address))
}

/// The bits of the host part.
#[inline]
fn host_mask(prefix_len: u8) -> u32 {
    u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(octets: [u8; 4]) -> u32 {
        u32::from_be_bytes(octets)
    }

    fn interface(addresses: &[([u8; 4], u8)]) -> Interface {
        let own = |(octets, prefix_len): &([u8; 4], u8)| InterfaceAddress {
            address: Ipv4Addr::from(*octets),
            prefix_len: *prefix_len,
        };
        Interface {
            ip4: addresses.iter().map(own).collect(),
            ..Interface::absent()
        }
    }

    #[test]
    fn hosts_and_groups() {
        for octets in [
            [1, 0, 0, 0],
            [10, 0, 0, 1],
            [126, 255, 255, 255],
            [128, 0, 0, 1],
            [223, 255, 255, 255],
        ] {
            assert!(is_host(bits(octets)), "{octets:?}");
        }
        for octets in [
            [0, 0, 0, 0],
            [0, 1, 2, 3],
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [240, 0, 0, 1],
            [255; 4],
        ] {
            assert!(!is_host(bits(octets)), "{octets:?}");
        }
        assert!(is_multicast(bits([239, 1, 1, 1])) && !is_multicast(bits([240, 0, 0, 0])));
    }

    #[test]
    fn broadcasts_follow_the_prefixes() {
        let lan = interface(&[([10, 0, 0, 1], 24), ([172, 16, 5, 1], 30)]);
        for octets in [
            [10, 0, 0, 255],
            [10, 0, 0, 0],
            [172, 16, 5, 3],
            [172, 16, 5, 0],
            [255; 4],
        ] {
            assert!(is_broadcast(&lan, bits(octets)), "{octets:?}");
            assert!(!is_neighbour(&lan, bits(octets)), "{octets:?}");
        }
        for octets in [[10, 0, 0, 7], [172, 16, 5, 2]] {
            assert!(!is_broadcast(&lan, bits(octets)) && is_neighbour(&lan, bits(octets)));
        }
        assert!(!is_neighbour(&lan, bits([10, 0, 1, 7])));
        assert!(is_own(&lan, bits([172, 16, 5, 1])) && !is_own(&lan, bits([10, 0, 0, 2])));
        // Point-to-point links and host addresses have hosts alone.
        let narrow = interface(&[([10, 0, 0, 0], 31), ([10, 9, 9, 9], 32)]);
        for octets in [[10, 0, 0, 0], [10, 0, 0, 1], [10, 9, 9, 9]] {
            assert!(!is_broadcast(&narrow, bits(octets)) && is_neighbour(&narrow, bits(octets)));
        }
        let everything = interface(&[([10, 0, 0, 1], 0)]);
        assert!(is_neighbour(&everything, bits([8, 8, 8, 8])));
    }
}
