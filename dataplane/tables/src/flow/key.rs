//! What names a flow in one direction, and the keyed hash over it.

use std::fmt::{self, Debug};

use super::{
    FlowTable,
    record::{Record, Slots},
    scan::Pair,
    timeouts::Limits,
};

/// Internet Control Message Protocol (IANA protocol number).
pub(crate) const ICMP: u8 = 1;
/// ICMP for IPv6.
pub(crate) const ICMP6: u8 = 58;
/// Transmission Control Protocol.
pub(crate) const TCP: u8 = 6;
/// User Datagram Protocol.
pub(crate) const UDP: u8 = 17;

/// The direction key of an IPv4 flow: 16 bytes, compared as two words.
///
/// Addresses and ports are integers in host order. A protocol without ports has both 0. The zone
/// separates address spaces that may overlap: a VRF or any other number that the caller chooses.
///
/// ```
/// use tables::{FlowKey as _, FlowKey4};
///
/// let key = FlowKey4::new(0x0a00_0001, 0x0a00_0002, 40000, 443, 6, 0);
/// assert_eq!(key.reversed(), FlowKey4::new(0x0a00_0002, 0x0a00_0001, 443, 40000, 6, 0));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey4 {
    /// Source in the low half, destination in the high half.
    addrs: u64,
    /// Source port, destination port, zone, protocol, from the low end; the top byte is 0.
    tail: u64,
}

/// The direction key of an IPv6 flow: as [`FlowKey4`], 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey6 {
    src: [u64; 2],
    dst: [u64; 2],
    tail: u64,
}

/// A flow's hash under the table's secret key: where the search for it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHash(pub(crate) u64);

impl FlowHash {
    /// All its bits: nobody who does not know the table's secret can guess them.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }
}

/// Key of one address family: [`FlowKey4`] or [`FlowKey6`].
pub trait FlowKey: Copy + Eq + Debug + Default + Family + 'static {
    /// What one direction of the family rewrites.
    type Rewrite: Copy + Debug + Default + PartialEq;

    /// The key of the packets that go the other way, as long as nothing is translated.
    fn reversed(self) -> Self;

    /// The key of this key's packets as they leave.
    fn rewritten(self, rewrite: &Self::Rewrite) -> Self;

    /// IP protocol number (IPv6: of the upper layer).
    fn protocol(&self) -> u8;

    /// Address space.
    fn zone(&self) -> u16;
}

/// What the table needs of a family; not for implementation elsewhere.
pub trait Family: Sized {
    /// The top bit of an index.
    const IP6: bool;

    /// The keyed hash.
    fn mix(&self, secret: &[u64; 4]) -> u64;

    /// Where the family's records are.
    fn slots(table: &FlowTable) -> &Slots<Self>
    where
        Self: FlowKey;

    /// The same, to change them.
    fn slots_mut(table: &mut FlowTable) -> &mut Slots<Self>
    where
        Self: FlowKey;

    /// The same, with how long flows live.
    fn parts(table: &mut FlowTable) -> (&mut Slots<Self>, &Limits)
    where
        Self: FlowKey;

    /// Both records of a flow, to be read.
    fn pair(pair: &[Record<Self>; 2]) -> Pair<'_>
    where
        Self: FlowKey;
}

impl FlowKey4 {
    /// A key from its fields.
    #[inline(always)]
    pub const fn new(
        src: u32,
        dst: u32,
        src_port: u16,
        dst_port: u16,
        protocol: u8,
        zone: u16,
    ) -> Self {
        Self {
            addrs: src as u64 | (dst as u64) << 32,
            tail: tail(src_port, dst_port, protocol, zone),
        }
    }

    /// Key of an ICMP echo request (`request`) or reply with identifier `id` (RFC 792). The
    /// identifier stands in for the asking side's port, the request's type for the other's, so that
    /// [`reversed`](FlowKey::reversed) of a request's key is its reply's key, and pings of both
    /// sides with one identifier are two flows.
    pub const fn icmp_echo(src: u32, dst: u32, id: u16, request: bool, zone: u16) -> Self {
        let (src_port, dst_port) = if request { (id, 8) } else { (8, id) };
        Self::new(src, dst, src_port, dst_port, ICMP, zone)
    }

    /// Source address.
    #[inline(always)]
    pub const fn src(&self) -> u32 {
        self.addrs as u32
    }

    /// Destination address.
    #[inline(always)]
    pub const fn dst(&self) -> u32 {
        (self.addrs >> 32) as u32
    }

    /// Source port, or 0.
    #[inline(always)]
    pub const fn src_port(&self) -> u16 {
        self.tail as u16
    }

    /// Destination port, or 0.
    #[inline(always)]
    pub const fn dst_port(&self) -> u16 {
        (self.tail >> 16) as u16
    }
}

impl FlowKey6 {
    /// A key from its fields.
    #[inline(always)]
    pub const fn new(
        src: u128,
        dst: u128,
        src_port: u16,
        dst_port: u16,
        protocol: u8,
        zone: u16,
    ) -> Self {
        Self {
            src: halves(src),
            dst: halves(dst),
            tail: tail(src_port, dst_port, protocol, zone),
        }
    }

    /// Key of an ICMPv6 echo request or reply (RFC 4443): see [`FlowKey4::icmp_echo`].
    pub const fn icmp_echo(src: u128, dst: u128, id: u16, request: bool, zone: u16) -> Self {
        let (src_port, dst_port) = if request { (id, 128) } else { (128, id) };
        Self::new(src, dst, src_port, dst_port, ICMP6, zone)
    }

    /// Source address.
    #[inline(always)]
    pub const fn src(&self) -> u128 {
        (self.src[0] as u128) << 64 | self.src[1] as u128
    }

    /// Destination address.
    #[inline(always)]
    pub const fn dst(&self) -> u128 {
        (self.dst[0] as u128) << 64 | self.dst[1] as u128
    }

    /// Source port, or 0.
    #[inline(always)]
    pub const fn src_port(&self) -> u16 {
        self.tail as u16
    }

    /// Destination port, or 0.
    #[inline(always)]
    pub const fn dst_port(&self) -> u16 {
        (self.tail >> 16) as u16
    }
}

impl FlowKey for FlowKey4 {
    type Rewrite = super::Rewrite4;

    #[inline(always)]
    fn reversed(self) -> Self {
        Self {
            addrs: self.addrs.rotate_left(32),
            tail: reversed_tail(self.tail),
        }
    }

    #[inline]
    fn rewritten(self, rewrite: &Self::Rewrite) -> Self {
        let or = |new, old| if new == 0 { old } else { new };
        Self::new(
            if rewrite.src == 0 {
                self.src()
            } else {
                rewrite.src
            },
            if rewrite.dst == 0 {
                self.dst()
            } else {
                rewrite.dst
            },
            or(rewrite.src_port, self.src_port()),
            or(rewrite.dst_port, self.dst_port()),
            self.protocol(),
            self.zone(),
        )
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        (self.tail >> 48) as u8
    }

    #[inline(always)]
    fn zone(&self) -> u16 {
        (self.tail >> 32) as u16
    }
}

impl FlowKey for FlowKey6 {
    type Rewrite = super::Rewrite6;

    #[inline(always)]
    fn reversed(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            tail: reversed_tail(self.tail),
        }
    }

    #[inline]
    fn rewritten(self, rewrite: &Self::Rewrite) -> Self {
        let or = |new, old| if new == 0 { old } else { new };
        Self::new(
            if rewrite.src == 0 {
                self.src()
            } else {
                rewrite.src
            },
            if rewrite.dst == 0 {
                self.dst()
            } else {
                rewrite.dst
            },
            or(rewrite.src_port, self.src_port()),
            or(rewrite.dst_port, self.dst_port()),
            self.protocol(),
            self.zone(),
        )
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        (self.tail >> 48) as u8
    }

    #[inline(always)]
    fn zone(&self) -> u16 {
        (self.tail >> 32) as u16
    }
}

impl Family for FlowKey4 {
    const IP6: bool = false;

    #[inline(always)]
    fn mix(&self, secret: &[u64; 4]) -> u64 {
        let [a, b, c, d] = *secret;
        let inner = fold_product(self.addrs ^ a, self.tail ^ b);
        fold_product(inner ^ c, d | 1)
    }

    #[inline(always)]
    fn slots(table: &FlowTable) -> &Slots<Self> {
        &table.ip4
    }

    #[inline(always)]
    fn slots_mut(table: &mut FlowTable) -> &mut Slots<Self> {
        &mut table.ip4
    }

    #[inline(always)]
    fn parts(table: &mut FlowTable) -> (&mut Slots<Self>, &Limits) {
        (&mut table.ip4, &table.limits)
    }

    fn pair(pair: &[Record<Self>; 2]) -> Pair<'_> {
        Pair::Ip4(pair)
    }
}

impl Family for FlowKey6 {
    const IP6: bool = true;

    #[inline(always)]
    fn mix(&self, secret: &[u64; 4]) -> u64 {
        let [a, b, c, d] = *secret;
        let src = fold_product(self.src[0] ^ a, self.src[1] ^ b);
        let dst = fold_product(self.dst[0] ^ c, self.dst[1] ^ d);
        // The rotation keeps the two addresses from standing in for each other.
        let inner = fold_product(src ^ a.rotate_left(32), dst.rotate_left(17) ^ self.tail ^ b);
        fold_product(inner ^ c, d | 1)
    }

    #[inline(always)]
    fn slots(table: &FlowTable) -> &Slots<Self> {
        &table.ip6
    }

    #[inline(always)]
    fn slots_mut(table: &mut FlowTable) -> &mut Slots<Self> {
        &mut table.ip6
    }

    #[inline(always)]
    fn parts(table: &mut FlowTable) -> (&mut Slots<Self>, &Limits) {
        (&mut table.ip6, &table.limits)
    }

    fn pair(pair: &[Record<Self>; 2]) -> Pair<'_> {
        Pair::Ip6(pair)
    }
}

impl Debug for FlowKey4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (
            std::net::Ipv4Addr::from(self.src()),
            std::net::Ipv4Addr::from(self.dst()),
        );
        write!(
            f,
            "{src}:{} > {dst}:{} protocol {} zone {}",
            self.src_port(),
            self.dst_port(),
            self.protocol(),
            self.zone()
        )
    }
}

impl Debug for FlowKey6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (
            std::net::Ipv6Addr::from(self.src()),
            std::net::Ipv6Addr::from(self.dst()),
        );
        write!(
            f,
            "[{src}]:{} > [{dst}]:{} protocol {} zone {}",
            self.src_port(),
            self.dst_port(),
            self.protocol(),
            self.zone()
        )
    }
}

const fn tail(src_port: u16, dst_port: u16, protocol: u8, zone: u16) -> u64 {
    src_port as u64 | (dst_port as u64) << 16 | (zone as u64) << 32 | (protocol as u64) << 48
}

#[inline(always)]
const fn reversed_tail(tail: u64) -> u64 {
    tail & !0xffff_ffff | (tail as u32).rotate_left(16) as u64
}

const fn halves(addr: u128) -> [u64; 2] {
    [(addr >> 64) as u64, addr as u64]
}

/// Both halves of the product, one over the other.
#[inline(always)]
pub(crate) const fn fold_product(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_come_back_and_reversing_twice_changes_nothing(
            src: u128, dst: u128, src_port: u16, dst_port: u16, protocol: u8, zone: u16,
        ) {
            let key = FlowKey6::new(src, dst, src_port, dst_port, protocol, zone);
            prop_assert_eq!((key.src(), key.dst()), (src, dst));
            prop_assert_eq!((key.src_port(), key.dst_port()), (src_port, dst_port));
            prop_assert_eq!((key.protocol(), key.zone()), (protocol, zone));
            prop_assert_eq!(key.reversed(), FlowKey6::new(dst, src, dst_port, src_port, protocol, zone));
            let (src, dst) = (src as u32, dst as u32);
            let key = FlowKey4::new(src, dst, src_port, dst_port, protocol, zone);
            prop_assert_eq!((key.src(), key.dst()), (src, dst));
            prop_assert_eq!((key.src_port(), key.dst_port()), (src_port, dst_port));
            prop_assert_eq!((key.protocol(), key.zone()), (protocol, zone));
            prop_assert_eq!(key.reversed(), FlowKey4::new(dst, src, dst_port, src_port, protocol, zone));
        }
    }

    #[test]
    fn a_reply_reverses_its_request_and_no_other() {
        let request = FlowKey4::icmp_echo(1, 2, 77, true, 3);
        assert_eq!(request.reversed(), FlowKey4::icmp_echo(2, 1, 77, false, 3));
        assert_ne!(request.reversed(), FlowKey4::icmp_echo(2, 1, 77, true, 3));
        let request = FlowKey6::icmp_echo(1, 2, 77, true, 3);
        assert_eq!(request.reversed(), FlowKey6::icmp_echo(2, 1, 77, false, 3));
        assert_ne!(request.reversed(), FlowKey6::icmp_echo(2, 1, 77, true, 3));
    }

    /// Every field reaches the hash, and the secret decides it.
    #[test]
    fn hashes_differ_by_field_and_secret() {
        let mut seen = HashSet::new();
        let digits: [u64; 4] = [
            0x243f6a8885a308d3,
            0x13198a2e03707344,
            0xa4093822299f31d0,
            0x082efa98ec4e6c89,
        ];
        // Five secrets: these, and each with another word.
        for other in 0..5 {
            let mut secret = digits;
            if let Some(word) = secret.get_mut(other) {
                *word = word.swap_bytes();
            }
            for bit in 0..120 {
                let mut key = FlowKey4::default();
                if bit < 64 {
                    key.addrs = 1 << bit;
                } else {
                    key.tail = 1 << (bit - 64);
                }
                assert!(seen.insert(key.mix(&secret)), "bit {bit}, {secret:?}");
            }
            for bit in 0..312u32 {
                let mut key = FlowKey6::default();
                match bit / 64 {
                    word @ 0..2 => key.src[word as usize] = 1 << (bit % 64),
                    word @ 2..4 => key.dst[word as usize - 2] = 1 << (bit % 64),
                    _ => key.tail = 1 << (bit % 64),
                }
                assert!(seen.insert(key.mix(&secret)), "bit {bit}, {secret:?}");
            }
        }
    }
}
