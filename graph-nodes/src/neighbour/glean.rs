//! `ip4-glean`, `ip6-glean`: hold packets whose next hop's Ethernet address is not known yet.
//!
//! The first packet for a neighbour asks the slow path to resolve it; the question is repeated every [`ASK_NS`] while packets
//! wait. When the forwarding tables say that a neighbour was resolved, every held packet that would no longer come here goes
//! back to the lookup, in the order of arrival; the same happens when a route or an interface goes away, and the lookup finds
//! what has become of the packet. Other causes than a resolution are looked for every [`RECHECK_NS`]. What still waits
//! [`TIMEOUT_NS`] after a neighbour's first packet is answered with "host unreachable" (IPv4) or "address unreachable" (IPv6).
//!
//! The table is bounded, so that a scan of an empty network costs no more than itself: what does not fit is dropped, the newest
//! first (RFC 6583 section 7.1).
//!
//! - Input: packets at their IP header; word = an incomplete adjacency, or [`GLEAN_INTERFACE`] and the interface on whose link the
//!   destination is.
//! - Output: packets as they came; word = destination address to `ip4-lookup`, unused to `ip6-lookup`, the error to `icmp4-error`
//!   and `icmp6-error`.
//! - Reads: snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: the held packets: 256 neighbours, 16 packets for each, 1024 in all, per worker and family
//! - Standard: RFC 1122 section 2.3.2.2, RFC 4861 sections 7.2.2 and 10, RFC 6583
//! - Cost: exception path; one test per loop while nothing is held

use core::net::IpAddr;

use dataplane::{Buffers, Context, Descriptor, Frame, NextNode, Node, PuntHeader, Verdict};
use wire::{Header, Icmp4Type, Icmp6Type, Ip4Header, Ip6Header, icmp4, icmp6};

use crate::fib::{AdjacencyState, Group, RouteAction, scoped};
use crate::flow_hash;
use crate::icmp::ErrorWord;
use crate::neighbour::GLEAN_INTERFACE;
use crate::punt::Punt;
use crate::snapshot::{Snapshot, Vrf};

dataplane::next_nodes! {
    /// Where `ip4-glean` sends packets.
    pub enum Ip4Next { Lookup => "ip4-lookup", Error => "icmp4-error" }
}

dataplane::next_nodes! {
    /// Where `ip6-glean` sends packets.
    pub enum Ip6Next { Lookup => "ip6-lookup", Error => "icmp6-error" }
}

dataplane::drop_reasons! {
    /// Why `ip4-glean` and `ip6-glean` drop packets.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IP header: a defect in the node before",
        NoNeighbour = "no-neighbour": "The route leads to a neighbour that was removed meanwhile",
        InterfaceDown = "interface-down": "The interface to resolve the neighbour on is not configured or not up",
        QueueFull = "queue-full": "As many packets as may already wait for this neighbour",
        TableFull = "table-full": "As many packets as may already wait for neighbours",
        NeighboursFull = "neighbours-full": "As many neighbours as may are already being resolved",
    }
}

/// Neighbours that can be waited for at a time.
pub const MAX_NEIGHBOURS: usize = 256;
/// Packets that can wait for one neighbour.
pub const MAX_QUEUE: usize = 16;
/// Packets that can wait in all.
pub const MAX_HELD: usize = 1024;
/// Nanoseconds between two questions to the slow path about a neighbour.
pub const ASK_NS: u64 = 1_000_000_000;
/// Nanoseconds after which a neighbour is given up.
pub const TIMEOUT_NS: u64 = 3_000_000_000;
/// Nanoseconds between two looks at the tables while packets wait and no neighbour was resolved.
pub const RECHECK_NS: u64 = 10_000_000;

/// See the module.
#[derive(Default)]
pub struct Ip4Glean(Waiting);

/// See the module.
#[derive(Default)]
pub struct Ip6Glean(Waiting);

impl Node<Snapshot> for Ip4Glean {
    const NAME: &'static str = "ip4-glean";
    type Next = Ip4Next;
    type Drop = Drop;
    const POLLED: bool = true;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        self.0.process::<Ip4>(frame, cx);
    }

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_, Snapshot>) {
        if !self.0.neighbours.is_empty() {
            self.0.poll::<Ip4>(cx);
        }
    }

    fn drain(&mut self, buffers: &mut Buffers) {
        self.0.drain(buffers);
    }
}

impl Node<Snapshot> for Ip6Glean {
    const NAME: &'static str = "ip6-glean";
    type Next = Ip6Next;
    type Drop = Drop;
    const POLLED: bool = true;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        self.0.process::<Ip6>(frame, cx);
    }

    #[inline]
    fn poll(&mut self, cx: &mut Context<'_, Snapshot>) {
        if !self.0.neighbours.is_empty() {
            self.0.poll::<Ip6>(cx);
        }
    }

    fn drain(&mut self, buffers: &mut Buffers) {
        self.0.drain(buffers);
    }
}

/// What differs between IPv4 and IPv6.
trait Family {
    type Next: NextNode;
    const LOOKUP: Self::Next;
    const ERROR: Self::Next;
    /// What is said about packets whose neighbour does not answer.
    const UNREACHABLE: ErrorWord;
    /// The destination of a packet.
    fn destination(packet: &[u8]) -> Option<IpAddr>;
    /// The route's group as the lookup finds it.
    fn lookup(vrf: &Vrf, destination: IpAddr, interface: u16) -> u32;
    /// The hash by which the lookup chooses one of several next hops.
    fn flow_hash(packet: &[u8]) -> u32;
}

struct Ip4;

impl Family for Ip4 {
    type Next = Ip4Next;
    const LOOKUP: Ip4Next = Ip4Next::Lookup;
    const ERROR: Ip4Next = Ip4Next::Error;
    const UNREACHABLE: ErrorWord = ErrorWord::new(
        Icmp4Type::DESTINATION_UNREACHABLE.0,
        icmp4::unreachable::HOST,
    );

    fn destination(packet: &[u8]) -> Option<IpAddr> {
        let header = Ip4Header::view(packet).ok()?;
        Some(header.destination().into())
    }

    fn lookup(vrf: &Vrf, destination: IpAddr, _: u16) -> u32 {
        match destination {
            IpAddr::V4(address) => vrf.ip4.lookup(address.to_bits()),
            IpAddr::V6(_) => 0,
        }
    }

    fn flow_hash(packet: &[u8]) -> u32 {
        flow_hash::ip4(packet)
    }
}

struct Ip6;

impl Family for Ip6 {
    type Next = Ip6Next;
    const LOOKUP: Ip6Next = Ip6Next::Lookup;
    const ERROR: Ip6Next = Ip6Next::Error;
    const UNREACHABLE: ErrorWord = ErrorWord::new(
        Icmp6Type::DESTINATION_UNREACHABLE.0,
        icmp6::unreachable::ADDRESS,
    );

    fn destination(packet: &[u8]) -> Option<IpAddr> {
        let header = Ip6Header::view(packet).ok()?;
        Some(header.destination().into())
    }

    fn lookup(vrf: &Vrf, destination: IpAddr, interface: u16) -> u32 {
        match destination {
            IpAddr::V4(_) => 0,
            IpAddr::V6(address) => vrf.ip6.lookup(scoped(address.to_bits(), interface)),
        }
    }

    fn flow_hash(packet: &[u8]) -> u32 {
        flow_hash::ip6(packet)
    }
}

/// Whom a packet waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    interface: u16,
    address: IpAddr,
}

/// A neighbour being resolved, and its packets: a list through [`Slot::next`], oldest first.
struct Neighbour {
    key: Key,
    since_ns: u64,
    asked_ns: u64,
    first: u16,
    last: u16,
    count: u16,
}

struct Slot {
    packet: Descriptor,
    next: u16,
}

/// No slot.
const NONE: u16 = u16::MAX;

/// The held packets of one family.
struct Waiting {
    /// Those with packets waiting; never beyond its capacity.
    neighbours: Vec<Neighbour>,
    slots: Box<[Slot]>,
    /// First of the free slots' list.
    free: u16,
    /// The forwarding's count of resolutions when the tables were last looked at.
    resolutions: u64,
    /// When they are looked at again whatever the count says.
    recheck_ns: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        let slot = |at: usize| Slot {
            packet: Descriptor::NONE,
            next: if at + 1 < MAX_HELD {
                (at + 1) as u16
            } else {
                NONE
            },
        };
        Self {
            neighbours: Vec::with_capacity(MAX_NEIGHBOURS),
            slots: (0..MAX_HELD).map(slot).collect(),
            free: 0,
            resolutions: 0,
            recheck_ns: 0,
        }
    }
}

impl Waiting {
    fn process<F: Family>(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        for at in 0..frame.len() {
            let (packets, verdicts) = frame.parts_mut();
            let packet = &mut packets[at];
            let outcome = next_hop::<F>(packet, cx).and_then(|(key, resolved)| {
                self.admit(key, resolved).map(|at| (key, resolved, at))
            });
            match outcome {
                Err(reason) => verdicts[at] = Verdict::discard(reason),
                Ok((_, true, place)) => {
                    // Resolved between the node in front and this one: those that came before go first.
                    if let Some(place) = place {
                        self.release::<F>(place, cx);
                        self.forget_if_empty(place);
                    }
                    let packet = &mut frame.packets_mut()[at];
                    packet.word = lookup_word::<F>(packet, cx);
                    frame.parts_mut().1[at] = Verdict::next(F::LOOKUP);
                }
                Ok((key, false, place)) => {
                    let packet = frame.take(at);
                    self.hold(key, place, packet, cx);
                }
            }
        }
    }

    /// Where a neighbour's packets are, where there are any; the reason where one more cannot be held.
    fn admit(&self, key: Key, resolved: bool) -> Result<Option<usize>, Drop> {
        let place = self
            .neighbours
            .iter()
            .position(|neighbour| neighbour.key == key);
        if resolved {
            return Ok(place);
        }
        match place {
            Some(at) if usize::from(self.neighbours[at].count) >= MAX_QUEUE => Err(Drop::QueueFull),
            None if self.neighbours.len() >= MAX_NEIGHBOURS => Err(Drop::NeighboursFull),
            _ if self.free == NONE => Err(Drop::TableFull),
            place => Ok(place),
        }
    }

    /// Holds a packet for which [`Waiting::admit`] found room.
    fn hold(
        &mut self,
        key: Key,
        place: Option<usize>,
        packet: Descriptor,
        cx: &mut Context<'_, Snapshot>,
    ) {
        let slot = self.free;
        let entry = &mut self.slots[usize::from(slot)];
        self.free = entry.next;
        *entry = Slot { packet, next: NONE };
        if let Some(at) = place {
            let neighbour = &mut self.neighbours[at];
            self.slots[usize::from(neighbour.last)].next = slot;
            neighbour.last = slot;
            neighbour.count += 1;
            return;
        }
        if self.neighbours.is_empty() {
            self.recheck_ns = cx.now_ns + RECHECK_NS;
        }
        self.neighbours.push(Neighbour {
            key,
            since_ns: cx.now_ns,
            asked_ns: cx.now_ns,
            first: slot,
            last: slot,
            count: 1,
        });
        ask(key, cx);
    }

    /// Gives every held packet back: the worker ends.
    fn drain(&mut self, buffers: &mut Buffers) {
        let slots = self.slots.iter_mut();
        slots.for_each(|slot| buffers.free(slot.packet.take()));
        *self = Self::default();
    }

    #[inline(never)]
    fn poll<F: Family>(&mut self, cx: &mut Context<'_, Snapshot>) {
        // Read before the tables, so that what is resolved meanwhile is noticed the next time.
        let resolutions = cx.snapshot.forwarding.resolutions();
        if resolutions == self.resolutions && cx.now_ns < self.recheck_ns {
            return;
        }
        self.resolutions = resolutions;
        self.recheck_ns = cx.now_ns + RECHECK_NS;
        let mut at = 0;
        while at < self.neighbours.len() {
            self.release::<F>(at, cx);
            let neighbour = &mut self.neighbours[at];
            if cx.now_ns.saturating_sub(neighbour.since_ns) >= TIMEOUT_NS {
                self.give_up::<F>(at, cx);
            } else if neighbour.count > 0 && cx.now_ns.saturating_sub(neighbour.asked_ns) >= ASK_NS
            {
                neighbour.asked_ns = cx.now_ns;
                ask(neighbour.key, cx);
            }
            if !self.forget_if_empty(at) {
                at += 1;
            }
        }
    }

    /// Sends a neighbour's packets that need not wait any longer to the lookup.
    fn release<F: Family>(&mut self, at: usize, cx: &mut Context<'_, Snapshot>) {
        let key = self.neighbours[at].key;
        self.sift(at, cx, |packet, cx| {
            if waits::<F>(packet, key, cx) {
                return None;
            }
            packet.word = lookup_word::<F>(packet, cx);
            Some(F::LOOKUP)
        });
    }

    /// Has a neighbour's packets answered with an error.
    fn give_up<F: Family>(&mut self, at: usize, cx: &mut Context<'_, Snapshot>) {
        self.sift(at, cx, |packet, _| {
            packet.word = F::UNREACHABLE.to_word();
            Some(F::ERROR)
        });
    }

    /// Goes through a neighbour's packets from the oldest on: those with an edge leave, the others stay in their order.
    fn sift<N: NextNode>(
        &mut self,
        at: usize,
        cx: &mut Context<'_, Snapshot>,
        judge: impl Fn(&mut Descriptor, &Context<'_, Snapshot>) -> Option<N>,
    ) {
        let neighbour = &mut self.neighbours[at];
        let mut slot = std::mem::replace(&mut neighbour.first, NONE);
        (neighbour.last, neighbour.count) = (NONE, 0);
        while slot != NONE {
            let entry = &mut self.slots[usize::from(slot)];
            let next = std::mem::replace(&mut entry.next, NONE);
            match judge(&mut entry.packet, cx) {
                Some(edge) => {
                    cx.emit(edge, entry.packet.take());
                    entry.next = self.free;
                    self.free = slot;
                }
                None => {
                    match neighbour.last {
                        NONE => neighbour.first = slot,
                        last => self.slots[usize::from(last)].next = slot,
                    }
                    neighbour.last = slot;
                    neighbour.count += 1;
                }
            }
            slot = next;
        }
    }

    /// Removes a neighbour without packets; another one takes its place. False where it has some.
    fn forget_if_empty(&mut self, at: usize) -> bool {
        let empty = self.neighbours[at].count == 0;
        if empty {
            self.neighbours.swap_remove(at);
        }
        empty
    }
}

/// Whom a packet is to wait for, and whether that is already resolved.
fn next_hop<F: Family>(
    packet: &Descriptor,
    cx: &Context<'_, Snapshot>,
) -> Result<(Key, bool), Drop> {
    let destination = F::destination(cx.buffers.bytes(packet)).ok_or(Drop::Truncated)?;
    let (key, resolved) = if packet.word & GLEAN_INTERFACE != 0 {
        let interface = u16::try_from(packet.word & !GLEAN_INTERFACE);
        let key = Key {
            interface: interface.map_err(|_| Drop::InterfaceDown)?,
            address: destination,
        };
        (key, false)
    } else {
        let adjacency = cx.snapshot.forwarding.adjacency(packet.word);
        let hot = adjacency.hot();
        if hot.state() == AdjacencyState::Free {
            return Err(Drop::NoNeighbour);
        }
        let key = Key {
            interface: hot.interface(),
            address: adjacency.address(),
        };
        (key, hot.is_complete())
    };
    let there = cx.snapshot.interface(key.interface).is_some();
    there.then_some((key, resolved)).ok_or(Drop::InterfaceDown)
}

/// True where the lookup would send a held packet back to wait for the same neighbour.
fn waits<F: Family>(packet: &Descriptor, key: Key, cx: &Context<'_, Snapshot>) -> bool {
    let snapshot = cx.snapshot;
    let bytes = cx.buffers.bytes(packet);
    let (Some(vrf), Some(destination)) = (snapshot.vrf_of(packet.interface), F::destination(bytes))
    else {
        return false;
    };
    if snapshot.interface(key.interface).is_none() {
        return false;
    }
    let forwarding = &snapshot.forwarding;
    let group: Group = forwarding.group(F::lookup(vrf, destination, packet.interface));
    let adjacency = match group.action() {
        RouteAction::Glean => {
            return group.payload() == u32::from(key.interface) && destination == key.address;
        }
        RouteAction::Forward => group.payload(),
        RouteAction::Multipath => forwarding.bucket(group, F::flow_hash(bytes)),
        _ => return false,
    };
    let adjacency = forwarding.adjacency(adjacency);
    let hot = adjacency.hot();
    hot.state() == AdjacencyState::Incomplete
        && hot.interface() == key.interface
        && adjacency.address() == key.address
}

/// The word that the lookup expects.
fn lookup_word<F: Family>(packet: &Descriptor, cx: &Context<'_, Snapshot>) -> u32 {
    match F::destination(cx.buffers.bytes(packet)) {
        Some(IpAddr::V4(address)) => address.to_bits(),
        _ => 0,
    }
}

/// Asks the slow path to resolve a neighbour.
fn ask(key: Key, cx: &mut Context<'_, Snapshot>) {
    let header = PuntHeader {
        kind: Punt::Resolve as u16,
        interface: key.interface,
        word: 0,
    };
    // A full ring is counted there, and the question repeated.
    match key.address {
        IpAddr::V4(address) => cx.punt(header, [address.octets().as_slice()]),
        IpAddr::V6(address) => cx.punt(header, [address.octets().as_slice()]),
    };
}

#[cfg(test)]
mod tests;
