//! Forwarding: what a route leads to.
//!
//! ```text
//!  Lpm4 / Lpm6 ── group number ──► group (8 B) ──► adjacency (64 B): rewrite, MTU, port
//!                                     └─ several next hops ──► buckets ──► adjacency
//! ```
//!
//! A route's value is a next-hop group. Groups and adjacencies live in arrays of atomics that one writer changes in place with
//! single aligned stores while workers read: a neighbour that changes its Ethernet address is one store, whatever the number
//! of routes through it. What is freed is reused only when every worker has passed a quiescent point.
//!
//! A reader that follows a stale number finds another entry of the same array, never undefined memory: a wrong next hop
//! for packets that were already on their way at worst, and the quarantine of freed entries excludes even that.

mod adjacency;
mod group;
mod writer;

pub use adjacency::{Adjacency, AdjacencyState, Hot, Rewrite};
pub use group::{Group, RouteAction};
pub use writer::{
    FibError, ForwardingWriter, Link, NeighbourKey, NextHop, RouteTarget, link_header,
};

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The readers' side of the groups and adjacencies; cheap to clone.
#[derive(Clone)]
pub struct Forwarding(Arc<Arrays>);

pub(crate) struct Arrays {
    pub(crate) groups: Box<[AtomicU64]>,
    pub(crate) buckets: Box<[AtomicU32]>,
    pub(crate) adjacencies: Box<[Adjacency]>,
    pub(crate) resolutions: AtomicU64,
}

/// How many of each a [`Forwarding`] can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardingSize {
    /// Next-hop groups: one per distinct set of next hops, per neighbour and per connected prefix.
    pub groups: u32,
    /// Neighbours.
    pub adjacencies: u32,
    /// Buckets of groups with several next hops.
    pub buckets: u32,
}

impl Default for ForwardingSize {
    fn default() -> Self {
        Self {
            groups: 65_536,
            adjacencies: 16_384,
            buckets: 65_536,
        }
    }
}

/// Groups and adjacencies, borrowed for one frame.
#[derive(Clone, Copy)]
pub struct ForwardingView<'a> {
    groups: &'a [AtomicU64],
    adjacencies: &'a [Adjacency],
}

impl<'a> ForwardingView<'a> {
    /// As [`Forwarding::group`].
    #[inline(always)]
    pub fn group(self, number: u32) -> Group {
        match self.groups.get(number as usize) {
            Some(group) => Group::from_bits(group.load(Ordering::Acquire)),
            None => Group::NO_ROUTE,
        }
    }

    /// As [`Forwarding::adjacency`].
    #[inline(always)]
    pub fn adjacency(self, number: u32) -> &'a Adjacency {
        self.adjacencies
            .get(number as usize)
            .unwrap_or(&self.adjacencies[0])
    }

    /// Begins to load an adjacency's line.
    #[inline(always)]
    pub fn prefetch_adjacency(self, number: u32) {
        dataplane::prefetch(self.adjacencies.as_ptr().wrapping_add(number as usize));
    }
}

/// The key under which an IPv6 address stands in a VRF's table: link-local addresses mean something on one link only, so the
/// interface's number takes the place of the second group of 16 bits, which is zero in all of them (RFC 4291 section 2.5.6).
#[inline(always)]
pub fn scoped(address: u128, interface: u16) -> u128 {
    const LINK_LOCAL: u128 = 0xfe80 << 112;
    if address >> 118 == LINK_LOCAL >> 118 {
        address & !(0xffff << 96) | u128::from(interface) << 96
    } else {
        address
    }
}

impl Default for Forwarding {
    /// No room for anything: every lookup is a drop.
    fn default() -> Self {
        Self::with_size(ForwardingSize {
            groups: 1,
            adjacencies: 1,
            buckets: 1,
        })
    }
}

impl Forwarding {
    pub(crate) fn with_size(size: ForwardingSize) -> Self {
        fn fill<T: Default>(count: u32) -> Box<[T]> {
            (0..count.max(1)).map(|_| T::default()).collect()
        }
        Self(Arc::new(Arrays {
            groups: fill(size.groups),
            buckets: fill(size.buckets),
            adjacencies: fill(size.adjacencies),
            resolutions: AtomicU64::new(0),
        }))
    }

    pub(crate) fn arrays(&self) -> &Arrays {
        &self.0
    }

    /// The arrays themselves, for loops that look up many packets.
    #[inline(always)]
    pub fn view(&self) -> ForwardingView<'_> {
        ForwardingView {
            groups: &self.0.groups,
            adjacencies: &self.0.adjacencies,
        }
    }

    /// The group with this number; [`RouteAction::NoRoute`] for number 0 and beyond the end.
    #[inline(always)]
    pub fn group(&self, number: u32) -> Group {
        match self.0.groups.get(number as usize) {
            Some(group) => Group::from_bits(group.load(Ordering::Acquire)),
            None => Group::NO_ROUTE,
        }
    }

    /// The adjacency that a group of several next hops gives to flows with this hash.
    #[inline]
    pub fn bucket(&self, group: Group, hash: u32) -> u32 {
        let index = group.payload() as usize + (hash & group.bucket_mask()) as usize;
        self.0
            .buckets
            .get(index)
            .map_or(0, |bucket| bucket.load(Ordering::Relaxed))
    }

    /// The adjacency with this number; number 0, which is never resolved, beyond the end.
    #[inline(always)]
    pub fn adjacency(&self, number: u32) -> &Adjacency {
        self.0
            .adjacencies
            .get(number as usize)
            .unwrap_or(&self.0.adjacencies[0])
    }

    /// Grows whenever a neighbour was resolved: packets that wait for one look again when it has changed.
    #[inline]
    pub fn resolutions(&self) -> u64 {
        self.0.resolutions.load(Ordering::Acquire)
    }

    /// Begins to load an adjacency's line.
    #[inline(always)]
    pub fn prefetch_adjacency(&self, number: u32) {
        dataplane::prefetch(self.0.adjacencies.as_ptr().wrapping_add(number as usize));
    }
}
