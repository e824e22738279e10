//! The records: one per direction, in pairs.
//!
//! ```text
//! IPv4, one line:   │ key 16 │ rewrite 16 │ data 32 │
//! IPv6, two lines:  │ key 40 │ spare 8 │ rewrite 48 │ data 32 │
//!
//! data: │ policy generation 4 │ routing generation 4 │ next 4 │ rule 4 │ last seen 4 │ packets 4 │ bytes 4 │
//!       │ NAT generation 2 │ flags 1 │ class and state 1 │
//! ```
//!
//! Slot `n` holds the records `2n` (forward) and `2n + 1` (reverse), so a record's peer is its
//! number with the lowest bit flipped and takes no room. What packets do not need every time stands
//! aside, one [`Origin`] per flow. Free slots are chained through their forward record.
#![expect(unsafe_code, reason = "records come zeroed from the system")]

use std::{fmt::Debug, io, num::NonZeroU32};

use crate::array::{Array, HugePages, Zeroed};

use super::{
    evict::Victims,
    key::FlowKey,
    state::{Direction, StateByte},
    timeouts::Tick,
};

const IP6: u32 = 1 << 31;

/// Names one direction of a flow in its table.
///
/// Valid until a flow is inserted, removed or swept: then its place may hold another flow. A worker
/// therefore serves the packets of a frame that have flows first, and inserts for the others after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct FlowIndex(
    /// Bit 31: IPv6. Bits 30..1: slot, from 1. Bit 0: direction.
    NonZeroU32,
);

impl FlowIndex {
    /// As a word that travels with a packet; 0 is no flow's.
    #[inline(always)]
    pub const fn to_word(self) -> u32 {
        self.0.get()
    }

    /// From the word, which must come from the same table; `None` for 0.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Option<Self> {
        match NonZeroU32::new(word) {
            Some(word) => Some(Self(word)),
            None => None,
        }
    }

    /// Whether the flow is one of IPv6.
    #[inline(always)]
    pub const fn is_ip6(self) -> bool {
        self.to_word() & IP6 != 0
    }

    /// Which direction of the flow this names.
    #[inline(always)]
    pub const fn direction(self) -> Direction {
        if self.to_word() & 1 == 0 {
            Direction::Forward
        } else {
            Direction::Reverse
        }
    }

    /// The other direction of the flow.
    #[inline(always)]
    pub const fn peer(self) -> Self {
        match NonZeroU32::new(self.to_word() ^ 1) {
            Some(word) => Self(word),
            // Record 1 belongs to slot 0, which no flow uses.
            None => self,
        }
    }

    #[inline(always)]
    pub(super) fn new<K: FlowKey>(slot: u32, direction: Direction) -> Option<Self> {
        Self::from_word(slot << 1 | direction as u32 | if K::IP6 { IP6 } else { 0 })
    }

    #[inline(always)]
    pub(super) const fn slot(self) -> u32 {
        (self.to_word() & !IP6) >> 1
    }

    /// The record's place in its family's array.
    #[inline(always)]
    pub(super) const fn record(self) -> usize {
        (self.to_word() & !IP6) as usize
    }
}

/// What one direction of a flow was decided to be, and from which generations of the configuration.
/// Most numbers get their meaning from the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// Generation of the policy domain that allowed or denied it.
    pub policy_generation: u32,
    /// Generation of the routing domain that `next` comes from.
    pub route_generation: u32,
    /// Generation of the NAT domain that the rewrite comes from. It wraps: a flow that sleeps through
    /// exactly 65536 NAT changes keeps its binding unasked.
    pub nat_generation: u16,
    /// Adjacency, next-hop group or tunnel.
    pub next: u32,
    /// The rule that decided.
    pub rule: u32,
    /// What to do.
    pub flags: LegFlags,
}

/// What to do with the packets of one direction of a flow. None set: forward as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegFlags(u8);

impl LegFlags {
    /// Drop.
    pub const DENY: Self = Self(1 << 0);
    /// Where denied: answer with a reset or an ICMP error.
    pub const REJECT: Self = Self(1 << 1);
    /// The rewrite applies.
    pub const REWRITE: Self = Self(1 << 2);
    /// A change of policy applies to this flow while it lives, not only to new ones.
    pub const REDECIDE: Self = Self(1 << 3);
    /// The flow log wants to know its end.
    pub const LOG: Self = Self(1 << 4);

    /// Any eight bits; 5 to 7 are the caller's.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The eight bits.
    #[inline(always)]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// Both.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What an IPv4 packet's header becomes. An address or port of 0 stays as it is, and a delta of 0
/// changes nothing; a value that is all zeros therefore is no rewrite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rewrite4 {
    /// New source address, host order.
    pub src: u32,
    /// New destination address, host order.
    pub dst: u32,
    /// New source port, or ICMP identifier.
    pub src_port: u16,
    /// New destination port.
    pub dst_port: u16,
    /// What the change adds to the IPv4 header checksum: the bits of `wire::checksum::Delta`
    /// (RFC 1624 equation 3).
    pub l3_delta: u16,
    /// The same for the transport checksum: addresses (pseudo-header) and ports.
    pub l4_delta: u16,
}

/// What an IPv6 packet's header becomes: as [`Rewrite4`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rewrite6 {
    /// New source address, host order.
    pub src: u128,
    /// New destination address, host order.
    pub dst: u128,
    /// New source port, or ICMPv6 identifier.
    pub src_port: u16,
    /// New destination port.
    pub dst_port: u16,
    /// What the change adds to the transport checksum: addresses (pseudo-header) and ports.
    pub l4_delta: u16,
    /// For the caller.
    pub spare: u16,
}

/// One direction of one flow.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Record<K: FlowKey> {
    pub(super) key: K,
    pub(super) rewrite: K::Rewrite,
    pub(super) data: Data,
}

impl<K: FlowKey> Record<K> {
    /// The key of the other direction, without a look at it.
    #[inline]
    pub(super) fn reply(&self) -> K {
        self.key.rewritten(&self.rewrite).reversed()
    }
}

/// What the records of both families have.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Data {
    policy_generation: u32,
    route_generation: u32,
    next: u32,
    rule: u32,
    pub(super) last_seen: Tick,
    /// Low halves of the counters; the carries go to [`Origin`].
    pub(super) packets: u32,
    pub(super) bytes: u32,
    nat_generation: u16,
    flags: LegFlags,
    pub(super) state: StateByte,
}

/// What a flow has that its packets do not need: the cold side.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Origin {
    pub(super) created: Tick,
    /// By direction: where its packets come in.
    pub(super) interfaces: [u16; 2],
    /// By direction: multiples of 2^32 packets.
    pub(super) packets_high: [u16; 2],
    /// By direction: multiples of 2^32 bytes.
    pub(super) bytes_high: [u32; 2],
}

// JUSTIFICATION: records come zeroed from the system, untouched until used.
// SAFETY: a key, a rewrite and the data of either family are integers in structs: zero bytes are a
// value, nothing to drop; alignment 64. `FlowKey` cannot be implemented outside this package's two.
unsafe impl<K: FlowKey> Zeroed for Record<K> {}
// JUSTIFICATION: as above.
// SAFETY: integers only, alignment 4.
unsafe impl Zeroed for Origin {}

/// All flows of one address family.
#[derive(Debug)]
pub struct Slots<K: FlowKey> {
    /// Two per slot; slot 0 is not used.
    pub(super) records: Array<Record<K>>,
    pub(super) origins: Array<Origin>,
    /// First of the chain of slots that were used and are free, or 0.
    free: u32,
    /// Slots from this one on were never used, nor was their memory touched.
    fresh: u32,
    live: u32,
    /// Flows that are to make room in a full table.
    pub(super) victims: Victims,
}

impl<K: FlowKey> Slots<K> {
    pub(super) fn new(capacity: u32, pages: HugePages) -> io::Result<Self> {
        let slots = capacity as usize + 1;
        Ok(Self {
            records: Array::new_hot(slots * 2, pages)?,
            origins: Array::new(slots, pages)?,
            free: 0,
            fresh: 1,
            live: 0,
            victims: Victims::default(),
        })
    }

    pub(super) fn live(&self) -> u32 {
        self.live
    }

    /// One past the last slot that was ever used.
    pub(super) fn used(&self) -> u32 {
        self.fresh
    }

    /// Takes a slot; `None` when there is none. The caller writes both of its records.
    pub(super) fn take(&mut self) -> Option<u32> {
        let slot = if self.free != 0 {
            let slot = self.free;
            self.free = self.records[slot as usize * 2].data.next;
            slot
        } else if (self.fresh as usize) < self.origins.len() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.live += 1;
        Some(slot)
    }

    /// Gives a slot back.
    pub(super) fn give_back(&mut self, slot: u32) {
        for record in &mut self.records[slot as usize * 2..][..2] {
            record.data.state = StateByte::FREE;
        }
        self.records[slot as usize * 2].data.next = self.free;
        self.free = slot;
        self.live -= 1;
    }
}

impl Data {
    pub(super) fn new(leg: Leg, state: StateByte, now: Tick) -> Self {
        Self {
            policy_generation: leg.policy_generation,
            route_generation: leg.route_generation,
            next: leg.next,
            rule: leg.rule,
            last_seen: now,
            packets: 0,
            bytes: 0,
            nat_generation: leg.nat_generation,
            flags: leg.flags,
            state,
        }
    }

    #[inline(always)]
    pub(super) fn leg(&self) -> Leg {
        Leg {
            policy_generation: self.policy_generation,
            route_generation: self.route_generation,
            nat_generation: self.nat_generation,
            next: self.next,
            rule: self.rule,
            flags: self.flags,
        }
    }

    #[inline]
    pub(super) fn set_leg(&mut self, leg: Leg) {
        let kept = *self;
        *self = Self {
            packets: kept.packets,
            bytes: kept.bytes,
            ..Self::new(leg, kept.state, kept.last_seen)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{super::key::*, *};

    /// One line per direction for IPv4, two for IPv6.
    #[test]
    fn records_are_whole_lines() {
        assert_eq!(
            (
                size_of::<Record<FlowKey4>>(),
                align_of::<Record<FlowKey4>>()
            ),
            (64, 64)
        );
        assert_eq!(
            (
                size_of::<Record<FlowKey6>>(),
                align_of::<Record<FlowKey6>>()
            ),
            (128, 64)
        );
        assert_eq!((size_of::<FlowKey4>(), size_of::<FlowKey6>()), (16, 40));
        assert_eq!((size_of::<Data>(), size_of::<Origin>()), (32, 20));
    }

    #[test]
    fn a_leg_comes_back_as_it_was_written() {
        let leg = Leg {
            policy_generation: 1,
            route_generation: 2,
            nat_generation: 3,
            next: 4,
            rule: 5,
            flags: LegFlags::DENY.and(LegFlags::LOG),
        };
        let mut data = Data::new(Leg::default(), StateByte(0x12), Tick(7));
        (data.packets, data.bytes) = (8, 9);
        data.set_leg(leg);
        assert_eq!(data.leg(), leg);
        assert_eq!((data.state, data.last_seen), (StateByte(0x12), Tick(7)));
        assert_eq!((data.packets, data.bytes), (8, 9));
    }

    #[test]
    fn slots_are_used_again_before_fresh_ones() {
        let mut slots = Slots::<FlowKey4>::new(3, HugePages::Transparent).unwrap();
        assert_eq!([slots.take(), slots.take()], [Some(1), Some(2)]);
        slots.give_back(1);
        assert_eq!((slots.live(), slots.used()), (1, 3));
        assert_eq!(
            [slots.take(), slots.take(), slots.take()],
            [Some(1), Some(3), None]
        );
        assert_eq!(slots.live(), 3);
    }

    #[test]
    fn an_index_knows_its_flow_and_peer() {
        let index = FlowIndex::new::<FlowKey6>(5, Direction::Forward).unwrap();
        assert!(index.is_ip6() && index.slot() == 5 && index.record() == 10);
        assert_eq!(index.peer().direction(), Direction::Reverse);
        assert_eq!((index.peer().peer(), index.peer().slot()), (index, 5));
        assert_eq!(FlowIndex::from_word(index.to_word()), Some(index));
        assert_eq!(FlowIndex::from_word(0), None);
        assert_eq!(size_of::<Option<FlowIndex>>(), 4);
    }
}
