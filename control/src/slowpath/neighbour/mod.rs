//! The neighbour cache: which Ethernet address a neighbour has, and whether it is still there.
//!
//! One machine serves both families: resolution by ARP (RFC 826) and neighbour discovery (RFC 4861), neighbour
//! unreachability detection (RFC 4861 section 7.3), announcement of own addresses (RFC 5227 section 2.3, RFC 4861
//! section 7.2.6). It has no socket and no clock: packets, wishes of the data path and the time are inputs, [`Action`]s
//! are outputs. The same inputs and seed give the same actions. Requests for own addresses are answered by the graph
//! nodes; what this machine gets of them is for learning.
//!
//! ```text
//!              resolve              answer               time            used or wanted
//!   (nothing) ────────► incomplete ────────► reachable ────────► stale ────────────────► delay
//!       ▲                   │ nobody             ▲                 │ ▲ time without use    │ time
//!       │ time              ▼ answers            └──── answer ─────┼─┼──────────┐          ▼
//!       └──────────────── failed ◄─────────────────────────────────┼─┼──────── probe ◄─────┘
//!                                  nobody answers                  │ └ other address heard
//!                                                                  ▼
//!                                                              (nothing)
//! ```
//!
//! What a peer can cause is bounded. A neighbour is learned from its own packets only if it speaks to one of our
//! addresses and belongs to a prefix of the link (else a forged sender address would attract its traffic); such neighbours
//! are the first to go when there is no room, see [`NeighbourCache::resolve`]. Questions are sent at most once per
//! retransmission time and neighbour.
//!
//! ```
//! use control::slowpath::neighbour::{Action, InterfaceFacts, NeighbourCache};
//! use wire::{ArpOperation, ArpPacket, MacAddr};
//!
//! let mut cache = NeighbourCache::new(Default::default(), 1);
//! let (own, peer) = (MacAddr::local(1), MacAddr::local(2));
//! let facts = InterfaceFacts {
//!     number: 0,
//!     mac: own,
//!     ip4: vec![([10, 0, 0, 1].into(), 24)],
//!     ip6: vec![],
//!     link_local: None,
//!     up: true,
//! };
//! cache.set_interfaces([facts], 0);
//! cache.resolve(0, [10, 0, 0, 2].into(), 0);
//! let asked = cache.drain_actions(); // an announcement of 10.0.0.1, and who has 10.0.0.2?
//! assert!(matches!(asked[..], [Action::Send { .. }, Action::Send { .. }]));
//!
//! let answer = ArpPacket::new(
//!     ArpOperation::REPLY,
//!     (peer, [10, 0, 0, 2].into()),
//!     (own, [10, 0, 0, 1].into()),
//! );
//! cache.arp(0, &answer, 1_000_000);
//! assert!(matches!(cache.drain_actions()[..], [Action::Resolve { mac, .. }] if mac == peer));
//! ```

mod config;
mod entry;
mod interface;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use graph_nodes::fib::NeighbourKey;
use wire::ip6::{DEFAULT_EXTENSION_LIMIT, Ip6Packet};
use wire::nd::{self, NdMessage};
use wire::{ArpOperation, ArpPacket, EtherType, Ip6Header, IpProtocol, MacAddr, ParseError};

pub use config::{NeighbourLimits, NeighbourTimers};
pub use entry::NeighbourState;
pub use interface::{EthernetPayload, InterfaceFacts};

use config::Random;
use entry::{Advertisement, Context, Effect, Entry, Event};

/// What the cache wants done, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a frame.
    Send {
        /// The interface to send on.
        interface: u16,
        /// What goes into the frame.
        frame: EthernetPayload,
    },
    /// The neighbour has this Ethernet address: packets to it can be sent. It may be said again.
    Resolve {
        /// The neighbour.
        key: NeighbourKey,
        /// Its address.
        mac: MacAddr,
    },
    /// The Ethernet address of a neighbour that was resolved is no longer known.
    Forget {
        /// The neighbour.
        key: NeighbourKey,
    },
}

/// A neighbour as a listing shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Interface and address.
    pub key: NeighbourKey,
    /// Its Ethernet address, where it is known.
    pub mac: Option<MacAddr>,
    /// What is known about that.
    pub state: NeighbourState,
    /// It says that it is a router (IPv6).
    pub router: bool,
    /// When it last answered; `None` for never.
    pub confirmed_ns: Option<u64>,
}

/// What the cache did not do, since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NeighbourCounters {
    /// Neighbours that found no room.
    pub refused: u64,
    /// Stale neighbours that made room for others.
    pub evicted: u64,
    /// Packets that are malformed, or speak for an address that no neighbour can have.
    pub ignored: u64,
    /// Packets of another station that speak for one of our addresses (RFC 5227 section 2.4).
    pub conflicts: u64,
}

/// Why a static neighbour was refused; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NeighbourError {
    /// The interface is not there.
    #[error("there is no interface number {0}")]
    UnknownInterface(u16),
    /// The address cannot be a neighbour's.
    #[error(
        "{0} cannot be a neighbour's address: it must be unicast, and neither an address of this node nor the first or last of a connected IPv4 prefix"
    )]
    Address(IpAddr),
    /// The Ethernet address cannot be a station's.
    #[error("{0} cannot be a neighbour's Ethernet address: it must be unicast")]
    Mac(MacAddr),
}

/// The neighbours of all interfaces; see the [module](self).
///
/// Each input costs O(log n) of the number of neighbours, [`tick`](Self::tick) that for each deadline that has passed.
pub struct NeighbourCache {
    timers: NeighbourTimers,
    limits: NeighbourLimits,
    random: Random,
    interfaces: BTreeMap<u16, Interface>,
    entries: BTreeMap<NeighbourKey, Entry>,
    /// Entries that are not static.
    dynamic: usize,
    deadlines: BTreeSet<(u64, Timer)>,
    announcements: BTreeMap<NeighbourKey, Announcement>,
    actions: Vec<Action>,
    counters: NeighbourCounters,
}

impl NeighbourCache {
    /// A cache that knows no interface, with the default limits. `seed` spreads the timers; any number does.
    pub fn new(timers: NeighbourTimers, seed: u64) -> Self {
        Self {
            timers,
            limits: NeighbourLimits::default(),
            random: Random::new(seed),
            interfaces: BTreeMap::new(),
            entries: BTreeMap::new(),
            dynamic: 0,
            deadlines: BTreeSet::new(),
            announcements: BTreeMap::new(),
            actions: Vec::new(),
            counters: NeighbourCounters::default(),
        }
    }

    /// The same cache with other limits. Neighbours that are there stay, also beyond the limits.
    pub fn with_limits(self, limits: NeighbourLimits) -> Self {
        Self { limits, ..self }
    }

    /// Replaces what is known about the interfaces; of two with the same number the last counts.
    ///
    /// An interface that is no longer there loses all its neighbours, one that is down all but the static ones. Addresses
    /// that are new on an interface that is up are announced, and all of them when it comes up or its Ethernet address
    /// changes. A neighbour whose address became our own is forgotten.
    pub fn set_interfaces(&mut self, facts: impl IntoIterator<Item = InterfaceFacts>, now: u64) {
        let facts: BTreeMap<_, _> = facts.into_iter().map(|f| (f.number, f)).collect();
        let gone: Vec<_> = self
            .interfaces
            .keys()
            .copied()
            .filter(|number| !facts.contains_key(number))
            .collect();
        for number in gone {
            self.remove_entries(number, |_, _| true);
            self.interfaces.remove(&number);
            self.withdraw(number, |_| true);
        }
        for (number, new) in facts {
            let old = match self.interfaces.entry(number) {
                // The neighbours stay, and so do their counts.
                btree_map::Entry::Occupied(mut known) => {
                    Some(std::mem::replace(&mut known.get_mut().facts, new.clone()))
                }
                btree_map::Entry::Vacant(place) => {
                    place.insert(Interface::new(new.clone()));
                    None
                }
            };
            self.remove_entries(number, |key, entry| {
                let left = |old: &InterfaceFacts| {
                    old.is_on_link(key.address) && !new.is_on_link(key.address)
                };
                let is_static = entry.state == NeighbourState::Static;
                // Where a route still leads to it, packets will ask for it again.
                !is_static && (!new.up || old.as_ref().is_some_and(left)) || new.owns(key.address)
            });
            self.withdraw(number, |address| !new.up || !new.owns(address));
            if !new.up {
                continue;
            }
            let known = old.filter(|old| old.up && old.mac == new.mac);
            for address in new.addresses() {
                if known.as_ref().is_none_or(|known| !known.owns(address)) {
                    self.start_announcing(
                        NeighbourKey {
                            interface: number,
                            address,
                        },
                        now,
                    );
                }
            }
        }
    }

    /// The data path has packets for a neighbour. Asks for it where it is not known; one that failed is asked for again
    /// at most once per retransmission time. It fails at once where the interface has no address to ask from.
    ///
    /// Where there is no room, a stale neighbour of the same interface makes place: the oldest of those that only spoke to
    /// us, then the oldest of those that packets were sent to (which a neighbour that is merely heard cannot displace).
    /// Without such a neighbour the new one is refused and counted. Nothing happens on an interface that is not there or
    /// down, or for an address that no neighbour can have.
    pub fn resolve(&mut self, interface: u16, address: IpAddr, now: u64) {
        let Some(facts) = self.facts_up(interface) else {
            return;
        };
        if !facts.can_be_neighbour(address) {
            self.counters.ignored += 1;
            return;
        }
        let key = NeighbourKey { interface, address };
        if self.entries.contains_key(&key) {
            self.apply(key, Event::Wanted, now);
        } else if self.make_room(interface, true) {
            let entry = Entry::incomplete(&mut self.context(now));
            self.finish(key, None, entry, Effect::SolicitAll, now);
        }
    }

    /// An ARP packet was received.
    ///
    /// A reply to us confirms its sender. Any other packet changes the Ethernet address of a neighbour that is there; one
    /// that asks for an address of ours also makes a new, stale neighbour of a sender on the link (RFC 826).
    pub fn arp(&mut self, interface: u16, packet: &ArpPacket, now: u64) {
        let Some(facts) = self.facts_up(interface) else {
            return;
        };
        let (mac, sender) = (packet.sender_mac, IpAddr::V4(packet.sender_ip()));
        // Our own frames come back from hubs and loops; probes (RFC 5227 section 2.1.1) say nothing about their sender.
        if mac == facts.mac || packet.is_probe() {
            return;
        }
        if !is_well_formed(packet) || !mac.is_unicast() {
            self.counters.ignored += 1;
            return;
        }
        if facts.owns(sender) {
            self.counters.conflicts += 1;
            return;
        }
        if !facts.can_be_neighbour(sender) {
            self.counters.ignored += 1;
            return;
        }
        let to_us = facts.owns(IpAddr::V4(packet.target_ip()));
        let answers =
            to_us && packet.operation == ArpOperation::REPLY && packet.target_mac == facts.mac;
        let key = NeighbourKey {
            interface,
            address: sender,
        };
        if answers && self.entries.contains_key(&key) {
            let advertisement = Advertisement {
                mac: Some(mac),
                solicited: true,
                overrides: true,
                router: None,
            };
            self.apply(key, Event::Advertised(advertisement), now);
        } else {
            self.heard(key, mac, to_us, now);
        }
    }

    /// A neighbour discovery message was received; `packet` starts with the IPv6 header and may be followed by padding.
    ///
    /// Solicitations for our addresses and router solicitations that carry their sender's Ethernet address make or update
    /// a stale neighbour (RFC 4861 sections 7.2.3 and 6.2.6), advertisements update one that is there (section 7.2.5).
    /// All else is ignored: this node is a router.
    pub fn discovery(&mut self, interface: u16, packet: &[u8], now: u64) {
        let Some(facts) = self.facts_up(interface) else {
            return;
        };
        let Ok((header, message)) = parse_discovery(packet) else {
            self.counters.ignored += 1;
            return;
        };
        match &message {
            NdMessage::NeighbourSolicitation(solicitation, _) => {
                let target = Ipv6Addr::from_octets(solicitation.target);
                if facts.owns(IpAddr::V6(target)) {
                    self.discovery_sender(interface, header.source(), &message, now);
                }
            }
            NdMessage::RouterSolicitation(..) => {
                self.discovery_sender(interface, header.source(), &message, now);
            }
            NdMessage::NeighbourAdvertisement(advertisement, _) => {
                let address = IpAddr::V6(Ipv6Addr::from_octets(advertisement.target));
                let mac = message.target_link_layer();
                if mac == Some(facts.mac) {
                    return;
                }
                if facts.owns(address) {
                    self.counters.conflicts += 1;
                    return;
                }
                if mac.is_some_and(|mac| !mac.is_unicast()) {
                    self.counters.ignored += 1;
                    return;
                }
                let flag = |bit| advertisement.flags & bit != 0;
                let advertisement = Advertisement {
                    mac,
                    solicited: flag(nd::ADVERTISEMENT_SOLICITED),
                    overrides: flag(nd::ADVERTISEMENT_OVERRIDE),
                    router: Some(flag(nd::ADVERTISEMENT_ROUTER)),
                };
                let key = NeighbourKey { interface, address };
                self.apply(key, Event::Advertised(advertisement), now);
            }
            NdMessage::RouterAdvertisement(..) | NdMessage::Redirect(..) => {}
        }
    }

    /// Sets a neighbour's Ethernet address by configuration; it stays until it is removed, or the interface is.
    ///
    /// # Errors
    /// The interface is not there, or an address cannot be a neighbour's.
    pub fn set_static(&mut self, key: NeighbourKey, mac: MacAddr) -> Result<(), NeighbourError> {
        let known = self
            .interfaces
            .get(&key.interface)
            .ok_or(NeighbourError::UnknownInterface(key.interface))?;
        if !known.facts.can_be_neighbour(key.address) {
            return Err(NeighbourError::Address(key.address));
        }
        if !mac.is_unicast() {
            return Err(NeighbourError::Mac(mac));
        }
        let before = self.detach(key).and_then(|entry| entry.mac);
        self.attach(key, Entry::fixed(mac));
        self.report(key, before, Some(mac));
        Ok(())
    }

    /// Removes a static neighbour; false where there is none. It is asked for again when the data path wants it.
    pub fn remove_static(&mut self, key: NeighbourKey) -> bool {
        let found = self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.state == NeighbourState::Static);
        if found {
            self.remove(key);
        }
        found
    }

    /// Does what is due at `now`, nanoseconds. `used` says whether the data path has sent to a neighbour since it was last
    /// asked about it, or within the last [`use_check_ns`](NeighbourTimers::use_check_ns); it is asked about reachable
    /// neighbours whose confirmation runs out, and about stale ones.
    pub fn tick(&mut self, now: u64, mut used: impl FnMut(&NeighbourKey) -> bool) {
        let due: Vec<_> = self
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, timer)| *timer)
            .collect();
        for timer in due {
            match timer {
                Timer::Neighbour(key) => {
                    let asks = self.entries.get(&key).is_some_and(Entry::asks_for_use);
                    let used = asks && used(&key);
                    self.apply(key, Event::Timeout { used }, now);
                }
                Timer::Announcement(key) => self.announce(key, now),
            }
        }
    }

    /// When [`tick`](Self::tick) is needed next, nanoseconds; `None` while nothing is pending.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes the actions since the last call. To be called after each input or batch of inputs.
    pub fn drain_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The neighbours, by interface and address.
    pub fn entries(&self) -> impl Iterator<Item = Neighbour> {
        self.entries.iter().map(|(key, entry)| Neighbour {
            key: *key,
            mac: entry.mac,
            state: entry.state,
            router: entry.router,
            confirmed_ns: entry.confirmed_ns,
        })
    }

    /// What was refused, evicted and ignored so far.
    pub fn counters(&self) -> NeighbourCounters {
        self.counters
    }

    fn facts_up(&self, interface: u16) -> Option<&InterfaceFacts> {
        let facts = &self.interfaces.get(&interface)?.facts;
        facts.up.then_some(facts)
    }

    fn context(&mut self, now: u64) -> Context<'_> {
        Context {
            now,
            timers: &self.timers,
            random: &mut self.random,
        }
    }

    /// The sender of a valid solicitation that concerns us.
    fn discovery_sender(
        &mut self,
        interface: u16,
        source: Ipv6Addr,
        message: &NdMessage<'_>,
        now: u64,
    ) {
        let (Some(facts), Some(mac)) = (self.facts_up(interface), message.source_link_layer())
        else {
            return;
        };
        let address = IpAddr::V6(source);
        if mac == facts.mac {
            return;
        }
        if facts.owns(address) {
            self.counters.conflicts += 1;
        } else if !mac.is_unicast() || !facts.can_be_neighbour(address) {
            self.counters.ignored += 1;
        } else {
            self.heard(NeighbourKey { interface, address }, mac, true, now);
        }
    }

    /// A neighbour named its Ethernet address; `to_us` says that it spoke to us, so that we are about to answer.
    fn heard(&mut self, key: NeighbourKey, mac: MacAddr, to_us: bool, now: u64) {
        if self.entries.contains_key(&key) {
            self.apply(key, Event::Heard(mac), now);
            return;
        }
        let on_link = self
            .facts_up(key.interface)
            .is_some_and(|facts| facts.is_on_link(key.address));
        if to_us && on_link && self.make_room(key.interface, false) {
            let entry = Entry::heard(mac, &mut self.context(now));
            self.finish(key, None, entry, Effect::Nothing, now);
        }
    }

    /// Takes an entry through a transition; nothing happens where there is none.
    fn apply(&mut self, key: NeighbourKey, event: Event, now: u64) {
        let Some(mut entry) = self.detach(key) else {
            return;
        };
        let before = entry.mac;
        let effect = entry.on(event, &mut self.context(now));
        self.finish(key, before, entry, effect, now);
    }

    /// Does what a transition demands, and keeps the entry.
    fn finish(
        &mut self,
        key: NeighbourKey,
        before: Option<MacAddr>,
        mut entry: Entry,
        effect: Effect,
        now: u64,
    ) {
        let question = match effect {
            Effect::SolicitAll => Some(None),
            Effect::SolicitOne(mac) => Some(Some(mac)),
            Effect::Repeat => {
                self.report(key, None, entry.mac);
                None
            }
            Effect::Nothing => None,
            Effect::Remove => {
                self.report(key, before, None);
                return;
            }
        };
        if let Some(to) = question {
            let facts = self.facts_up(key.interface);
            match facts.and_then(|facts| facts.solicitation(key.address, to)) {
                Some(frame) => self.send(key.interface, frame),
                None => entry.fail(&mut self.context(now)),
            }
        }
        self.report(key, before, entry.mac);
        self.attach(key, entry);
    }

    fn send(&mut self, interface: u16, frame: EthernetPayload) {
        self.actions.push(Action::Send { interface, frame });
    }

    /// Tells the data path how a neighbour's Ethernet address changed.
    fn report(&mut self, key: NeighbourKey, before: Option<MacAddr>, after: Option<MacAddr>) {
        match after {
            Some(mac) if before != after => self.actions.push(Action::Resolve { key, mac }),
            None if before.is_some() => self.actions.push(Action::Forget { key }),
            _ => {}
        }
    }

    /// Whether another dynamic neighbour may be added; see [`resolve`](Self::resolve).
    fn make_room(&mut self, interface: u16, wanted: bool) -> bool {
        let Some(of) = self.interfaces.get(&interface) else {
            return false;
        };
        let scanned = wanted && of.unresolved >= self.limits.unresolved_per_interface;
        let full = of.dynamic >= self.limits.per_interface || self.dynamic >= self.limits.total;
        let victim = of.evictable.first().filter(|rank| wanted || !rank.wanted);
        let victim = match (scanned, full, victim) {
            (false, false, _) => return true,
            (false, true, Some(rank)) => rank.address,
            _ => {
                self.counters.refused += 1;
                return false;
            }
        };
        self.counters.evicted += 1;
        self.remove(NeighbourKey {
            interface,
            address: victim,
        });
        true
    }

    fn remove(&mut self, key: NeighbourKey) {
        if let Some(entry) = self.detach(key) {
            self.report(key, entry.mac, None);
        }
    }

    fn remove_entries(
        &mut self,
        interface: u16,
        mut condition: impl FnMut(&NeighbourKey, &Entry) -> bool,
    ) {
        let keys: Vec<_> = of_interface(&self.entries, interface)
            .filter(|(key, entry)| condition(key, entry))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.remove(key);
        }
    }

    /// Adds an entry to the map and to everything that is kept about it. The only way in.
    fn attach(&mut self, key: NeighbourKey, entry: Entry) {
        if let Some(at) = entry.deadline_ns {
            self.deadlines.insert((at, Timer::Neighbour(key)));
        }
        if entry.state != NeighbourState::Static {
            self.dynamic += 1;
            if let Some(of) = self.interfaces.get_mut(&key.interface) {
                of.dynamic += 1;
                of.unresolved += usize::from(!entry.state.is_resolved());
                if entry.is_evictable() {
                    of.evictable.insert(Rank::of(key, &entry));
                }
            }
        }
        self.entries.insert(key, entry);
    }

    /// Takes an entry out of the map and of everything that is kept about it. The only way out.
    fn detach(&mut self, key: NeighbourKey) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        if let Some(at) = entry.deadline_ns {
            self.deadlines.remove(&(at, Timer::Neighbour(key)));
        }
        if entry.state != NeighbourState::Static {
            self.dynamic -= 1;
            if let Some(of) = self.interfaces.get_mut(&key.interface) {
                of.dynamic -= 1;
                of.unresolved -= usize::from(!entry.state.is_resolved());
                of.evictable.remove(&Rank::of(key, &entry));
            }
        }
        Some(entry)
    }

    fn start_announcing(&mut self, own: NeighbourKey, now: u64) {
        self.stop_announcing(own);
        let announcement = Announcement {
            left: self.timers.announcements,
            due_ns: now,
        };
        self.announcements.insert(own, announcement);
        self.announce(own, now);
    }

    /// Sends an announcement that is due, and plans the next.
    fn announce(&mut self, own: NeighbourKey, now: u64) {
        let Some(Announcement { left, .. }) = self.stop_announcing(own) else {
            return;
        };
        let Some(left) = left.checked_sub(1) else {
            return;
        };
        let Some(facts) = self.facts_up(own.interface) else {
            return;
        };
        let frame = facts.announcement(own.address);
        self.send(own.interface, frame);
        if left > 0 {
            let due_ns = now.saturating_add(self.timers.retransmit_ns.max(1));
            self.deadlines.insert((due_ns, Timer::Announcement(own)));
            self.announcements
                .insert(own, Announcement { left, due_ns });
        }
    }

    fn stop_announcing(&mut self, own: NeighbourKey) -> Option<Announcement> {
        let announcement = self.announcements.remove(&own)?;
        self.deadlines
            .remove(&(announcement.due_ns, Timer::Announcement(own)));
        Some(announcement)
    }

    /// Ends the announcements of addresses that are no longer ours.
    fn withdraw(&mut self, interface: u16, mut condition: impl FnMut(IpAddr) -> bool) {
        let keys: Vec<_> = of_interface(&self.announcements, interface)
            .map(|(key, _)| *key)
            .filter(|key| condition(key.address))
            .collect();
        for key in keys {
            self.stop_announcing(key);
        }
    }
}

/// An interface and the counts of its neighbours.
struct Interface {
    facts: InterfaceFacts,
    /// Entries that are not static.
    dynamic: usize,
    /// Of these, those that are incomplete or failed.
    unresolved: usize,
    /// Entries that may make room for others; the first goes first.
    evictable: BTreeSet<Rank>,
}

impl Interface {
    fn new(facts: InterfaceFacts) -> Self {
        Self {
            facts,
            dynamic: 0,
            unresolved: 0,
            evictable: BTreeSet::new(),
        }
    }
}

/// How soon an entry makes room for another: those that were never wanted before those that were, then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    wanted: bool,
    since_ns: u64,
    address: IpAddr,
}

impl Rank {
    fn of(key: NeighbourKey, entry: &Entry) -> Self {
        Self {
            wanted: entry.wanted,
            since_ns: entry.since_ns,
            address: key.address,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    Neighbour(NeighbourKey),
    Announcement(NeighbourKey),
}

/// An own address that is being announced.
struct Announcement {
    /// Frames still to be sent.
    left: u8,
    /// When the next one is.
    due_ns: u64,
}

/// What a map holds about an interface.
fn of_interface<V>(
    map: &BTreeMap<NeighbourKey, V>,
    interface: u16,
) -> impl Iterator<Item = (&NeighbourKey, &V)> {
    let first = NeighbourKey {
        interface,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    map.range(first..)
        .take_while(move |(key, _)| key.interface == interface)
}

/// Whether this is a request or reply for IPv4 over Ethernet; a packet need not have come through its parser.
fn is_well_formed(packet: &ArpPacket) -> bool {
    packet.hardware_type.get() == wire::arp::HARDWARE_ETHERNET
        && packet.protocol_type == EtherType::IP4
        && (packet.hardware_len, packet.protocol_len) == (6, 4)
        && matches!(
            packet.operation,
            ArpOperation::REQUEST | ArpOperation::REPLY
        )
}

/// A valid neighbour discovery message. Not in a fragment (RFC 6980 section 5).
fn parse_discovery(packet: &[u8]) -> Result<(&Ip6Header, NdMessage<'_>), ParseError> {
    let packet = Ip6Packet::parse(packet)?;
    let chain = packet.walk(DEFAULT_EXTENSION_LIMIT);
    if let Some(fault) = chain.fault {
        return Err(fault);
    }
    if chain.fragment.is_some() {
        return Err(ParseError::BadOrder);
    }
    if chain.protocol != IpProtocol::ICMP6 {
        return Err(ParseError::BadType);
    }
    let message = packet.payload.get(chain.offset..).unwrap_or_default();
    Ok((packet.header, nd::validate(packet.header, message)?))
}
