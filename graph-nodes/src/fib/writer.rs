//! The writing side of forwarding: routes and groups; neighbours are in a file of their own. One writer, in control.

mod neighbours;

pub use neighbours::{Link, NeighbourKey, link_header};

use core::net::IpAddr;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::Ordering;

use tables::{HugePages, Lpm4, Lpm4Writer, Lpm6, Lpm6Writer, LpmError};

use super::{Forwarding, ForwardingSize, Group, RouteAction};
use crate::snapshot::Vrf;
use neighbours::NeighbourEntry;

/// One of a route's next hops.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NextHop {
    /// The neighbour.
    pub neighbour: NeighbourKey,
    /// Its share of the flows, relative to the others', at least 1.
    pub weight: u8,
}

/// What a route leads to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RouteTarget {
    /// To neighbours; several share the flows.
    Forward(Vec<NextHop>),
    /// To whoever has the destination address on this interface's link.
    Connected(u16),
    /// To this node.
    Local,
    /// Nowhere, silently.
    Blackhole,
    /// Nowhere: the sender is told that the destination is unreachable.
    Unreachable,
    /// Nowhere: the sender is told that it is prohibited.
    Prohibit,
}

/// Why a change was refused; nothing was changed.
#[derive(Debug)]
pub enum FibError {
    /// The VRF is not there.
    UnknownVrf(u16),
    /// The interface has no link.
    UnknownInterface(u16),
    /// A prefix length is too long for its address, or host bits are set.
    Prefix(IpAddr, u8),
    /// A forward target without next hops, or with more than 256.
    NextHops(usize),
    /// There is no room for another group, adjacency or bucket: which.
    Full(&'static str),
    /// The table refused the route.
    Table(LpmError),
    /// The operating system refused the memory of a table.
    Memory(io::Error),
}

impl fmt::Display for FibError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVrf(vrf) => write!(f, "there is no VRF number {vrf}"),
            Self::UnknownInterface(interface) => {
                write!(f, "there is no interface number {interface}")
            }
            Self::Prefix(address, len) => write!(f, "{address}/{len} is not a prefix"),
            Self::NextHops(count) => write!(f, "{count} next hops: a route has 1 to 256"),
            Self::Full(what) => {
                write!(f, "no room for another {what}: raise the forwarding limits")
            }
            Self::Table(error) => error.fmt(f),
            Self::Memory(error) => write!(f, "no memory for a routing table: {error}"),
        }
    }
}
impl std::error::Error for FibError {}
impl From<LpmError> for FibError {
    fn from(error: LpmError) -> Self {
        Self::Table(error)
    }
}

/// The routes of one VRF.
pub struct VrfWriter {
    ip4: Lpm4Writer,
    ip4_reader: Lpm4,
    ip6: Lpm6Writer,
    routes: BTreeMap<(IpAddr, u8), Entry>,
}

/// A destination's route: what was configured goes before what a neighbour's address implies.
#[derive(Default)]
struct Entry {
    configured: Option<RouteTarget>,
    neighbour: Option<RouteTarget>,
    /// The group in the table.
    group: u32,
}

impl Entry {
    fn effective(&self) -> Option<&RouteTarget> {
        self.configured.as_ref().or(self.neighbour.as_ref())
    }
}

struct GroupEntry {
    number: u32,
    references: usize,
    buckets: Option<(u32, u8)>,
}

/// The writer of all routing tables, groups and adjacencies.
pub struct ForwardingWriter {
    shared: Forwarding,
    vrfs: BTreeMap<u16, VrfWriter>,
    links: BTreeMap<u16, Link>,
    groups: BTreeMap<RouteTarget, GroupEntry>,
    neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    free_groups: Slots,
    free_adjacencies: Slots,
    free_buckets: BTreeMap<u8, Slots>,
    next_bucket: u32,
    epoch: u64,
    lpm4_groups: u32,
}

/// Numbers that can be given out, those that were given back wait for the workers to pass by.
struct Slots {
    free: Vec<u32>,
    quarantine: VecDeque<(u64, u32)>,
}

impl Slots {
    fn new(numbers: impl Iterator<Item = u32>) -> Self {
        Self {
            free: numbers.collect(),
            quarantine: VecDeque::new(),
        }
    }
    fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }
    fn retire(&mut self, number: u32, epoch: u64) {
        self.quarantine.push_back((epoch, number));
    }
    fn reclaim(&mut self, safe_epoch: u64) {
        while let Some((_, number)) = self
            .quarantine
            .pop_front_if(|(epoch, _)| *epoch <= safe_epoch)
        {
            self.free.push(number);
        }
    }
}

impl ForwardingWriter {
    /// No VRFs, no routes. `lpm4_groups` is the number of /24 blocks with longer prefixes that an IPv4 table has room for.
    pub fn new(size: ForwardingSize, lpm4_groups: u32) -> Self {
        Self {
            shared: Forwarding::with_size(size),
            vrfs: BTreeMap::new(),
            links: BTreeMap::new(),
            groups: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            // Number 0 of each stays unused: it is what lookups beyond the end find.
            free_groups: Slots::new((1..size.groups).rev()),
            free_adjacencies: Slots::new((1..size.adjacencies).rev()),
            free_buckets: BTreeMap::new(),
            next_bucket: 0,
            epoch: 0,
            lpm4_groups,
        }
    }

    /// The readers' side.
    pub fn forwarding(&self) -> Forwarding {
        self.shared.clone()
    }

    /// Adds an empty VRF; one that is there stays as it is.
    pub fn add_vrf(&mut self, vrf: u16) -> Result<(), FibError> {
        if self.vrfs.contains_key(&vrf) {
            return Ok(());
        }
        let (mut ip4, ip4_reader) =
            Lpm4::new(self.lpm4_groups, HugePages::Transparent).map_err(FibError::Memory)?;
        let (mut ip6, _) = Lpm6::new().map_err(FibError::Memory)?;
        ip4.set_epoch(self.epoch);
        ip6.set_epoch(self.epoch);
        self.vrfs.insert(
            vrf,
            VrfWriter {
                ip4,
                ip4_reader,
                ip6,
                routes: BTreeMap::new(),
            },
        );
        Ok(())
    }

    /// Removes a VRF and its routes. Snapshots that still hold its tables keep them alive.
    pub fn remove_vrf(&mut self, vrf: u16) {
        let Some(writer) = self.vrfs.remove(&vrf) else {
            return;
        };
        for entry in writer.routes.into_values() {
            if let Some(target) = entry.effective().cloned() {
                self.release(&target);
            }
        }
    }

    /// Fresh reader handles of a VRF's tables, for the next snapshot.
    pub fn vrf(&self, vrf: u16) -> Option<Vrf> {
        self.vrfs.get(&vrf).map(|vrf| Vrf {
            ip4: vrf.ip4_reader.clone(),
            ip6: vrf.ip6.reader(),
        })
    }

    /// Adds or replaces a configured route.
    pub fn set_route(
        &mut self,
        vrf: u16,
        address: IpAddr,
        len: u8,
        target: RouteTarget,
    ) -> Result<(), FibError> {
        self.change(vrf, address, len, |entry| {
            entry.configured = Some(target.clone())
        })
    }

    /// Removes a configured route; what a neighbour's address implies comes to light.
    pub fn remove_route(&mut self, vrf: u16, address: IpAddr, len: u8) -> Result<(), FibError> {
        self.change(vrf, address, len, |entry| entry.configured = None)
    }

    /// Makes routes that were changed since the last commit visible (IPv4 and neighbours are at once).
    pub fn commit(&mut self) -> Result<(), FibError> {
        for vrf in self.vrfs.values_mut() {
            if vrf.ip6.is_dirty() {
                vrf.ip6.commit()?;
            }
        }
        Ok(())
    }

    /// Says which epoch is current: what is freed from now on carries its number.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        for vrf in self.vrfs.values_mut() {
            vrf.ip4.set_epoch(epoch);
            vrf.ip6.set_epoch(epoch);
        }
    }

    /// Reuses what was freed while the epoch was `safe_epoch` or older: every worker has since begun a later one.
    pub fn reclaim(&mut self, safe_epoch: u64) {
        for vrf in self.vrfs.values_mut() {
            vrf.ip4.reclaim(safe_epoch);
            vrf.ip6.reclaim_unread();
        }
        self.free_groups.reclaim(safe_epoch);
        self.free_adjacencies.reclaim(safe_epoch);
        self.free_buckets
            .values_mut()
            .for_each(|slots| slots.reclaim(safe_epoch));
    }

    /// A VRF's routes in order: destination, length, target, and whether it was configured (else implied by a neighbour).
    pub fn routes(&self, vrf: u16) -> impl Iterator<Item = (IpAddr, u8, &RouteTarget, bool)> {
        let routes = self
            .vrfs
            .get(&vrf)
            .into_iter()
            .flat_map(|vrf| vrf.routes.iter());
        routes.filter_map(|((address, len), entry)| {
            Some((
                *address,
                *len,
                entry.effective()?,
                entry.configured.is_some(),
            ))
        })
    }

    /// Groups and adjacencies in use.
    pub fn in_use(&self) -> (usize, usize) {
        (self.groups.len(), self.neighbours.len())
    }

    /// Changes one destination's entry and, where that changes the route, the table.
    fn change(
        &mut self,
        vrf: u16,
        address: IpAddr,
        len: u8,
        edit: impl Fn(&mut Entry),
    ) -> Result<(), FibError> {
        check_prefix(address, len)?;
        let Some(writer) = self.vrfs.get_mut(&vrf) else {
            return Err(FibError::UnknownVrf(vrf));
        };
        let mut entry = writer.routes.remove(&(address, len)).unwrap_or_default();
        let (configured, neighbour) = (entry.configured.clone(), entry.neighbour.clone());
        let before = entry.effective().cloned();
        edit(&mut entry);
        let after = entry.effective().cloned();
        if before == after {
            if after.is_some() {
                writer.routes.insert((address, len), entry);
            }
            return Ok(());
        }
        let outcome = match &after {
            Some(target) => self.acquire(target).and_then(|group| {
                self.insert(vrf, address, len, group)
                    .inspect_err(|_| self.release(target))?;
                Ok(group)
            }),
            None => {
                self.delete(vrf, address, len);
                Ok(0)
            }
        };
        match outcome {
            Ok(group) => {
                entry.group = group;
                if let Some(target) = &before {
                    self.release(target);
                }
            }
            Err(_) => (entry.configured, entry.neighbour) = (configured, neighbour),
        }
        if entry.effective().is_some()
            && let Some(writer) = self.vrfs.get_mut(&vrf)
        {
            writer.routes.insert((address, len), entry);
        }
        outcome.map(|_| ())
    }

    fn insert(&mut self, vrf: u16, address: IpAddr, len: u8, group: u32) -> Result<(), FibError> {
        let writer = self.vrfs.get_mut(&vrf).ok_or(FibError::UnknownVrf(vrf))?;
        match address {
            IpAddr::V4(address) => writer.ip4.insert(address.to_bits(), len, group)?,
            IpAddr::V6(address) => writer.ip6.insert(address.to_bits(), len, group)?,
        }
        Ok(())
    }

    fn delete(&mut self, vrf: u16, address: IpAddr, len: u8) {
        let Some(writer) = self.vrfs.get_mut(&vrf) else {
            return;
        };
        match address {
            IpAddr::V4(address) => drop(writer.ip4.remove(address.to_bits(), len)),
            IpAddr::V6(address) => drop(writer.ip6.remove(address.to_bits(), len)),
        }
    }

    /// The group of a target, made where there is none; counts a reference.
    fn acquire(&mut self, target: &RouteTarget) -> Result<u32, FibError> {
        if let Some(group) = self.groups.get_mut(target) {
            group.references += 1;
            return Ok(group.number);
        }
        let number = self
            .free_groups
            .take()
            .ok_or(FibError::Full("next-hop group"))?;
        let made = match target {
            RouteTarget::Forward(hops) => self.forward_group(hops),
            RouteTarget::Connected(interface) => {
                Ok((Group::new(RouteAction::Glean, u32::from(*interface)), None))
            }
            RouteTarget::Local => Ok((Group::new(RouteAction::Local, 0), None)),
            RouteTarget::Blackhole => Ok((Group::new(RouteAction::Blackhole, 0), None)),
            RouteTarget::Unreachable => Ok((Group::new(RouteAction::Unreachable, 0), None)),
            RouteTarget::Prohibit => Ok((Group::new(RouteAction::Prohibit, 0), None)),
        };
        match made {
            Ok((group, buckets)) => {
                self.store_group(number, group);
                self.groups.insert(
                    target.clone(),
                    GroupEntry {
                        number,
                        references: 1,
                        buckets,
                    },
                );
                Ok(number)
            }
            Err(error) => {
                // Never visible, so it needs no quarantine.
                self.free_groups.free.push(number);
                Err(error)
            }
        }
    }

    fn store_group(&self, number: u32, group: Group) {
        if let Some(slot) = self.shared.arrays().groups.get(number as usize) {
            slot.store(group.bits(), Ordering::Release);
        }
    }

    fn forward_group(&mut self, hops: &[NextHop]) -> Result<(Group, Option<(u32, u8)>), FibError> {
        if hops.is_empty() || hops.len() > 256 {
            return Err(FibError::NextHops(hops.len()));
        }
        let mut adjacencies = Vec::new();
        for hop in hops {
            match self.acquire_neighbour(hop.neighbour) {
                Ok(adjacency) => adjacencies.push(adjacency),
                Err(error) => {
                    hops[..adjacencies.len()]
                        .iter()
                        .for_each(|hop| self.release_neighbour(hop.neighbour));
                    return Err(error);
                }
            }
        }
        if let [adjacency] = adjacencies[..] {
            return Ok((Group::new(RouteAction::Forward, adjacency), None));
        }
        let shares = shares(hops);
        let log2 = shares.len().trailing_zeros() as u8;
        let Some(first) = self.take_buckets(log2) else {
            hops.iter()
                .for_each(|hop| self.release_neighbour(hop.neighbour));
            return Err(FibError::Full("bucket of a route with several next hops"));
        };
        for (at, hop) in shares.iter().enumerate() {
            if let Some(bucket) = self.shared.arrays().buckets.get(first as usize + at) {
                bucket.store(adjacencies[*hop], Ordering::Relaxed);
            }
        }
        Ok((Group::multipath(first, log2), Some((first, log2))))
    }

    fn take_buckets(&mut self, log2: u8) -> Option<u32> {
        if let Some(first) = self.free_buckets.get_mut(&log2).and_then(Slots::take) {
            return Some(first);
        }
        let end = self.next_bucket.checked_add(1 << log2)?;
        if end as usize > self.shared.arrays().buckets.len() {
            return None;
        }
        Some(std::mem::replace(&mut self.next_bucket, end))
    }

    /// Gives up one reference to a target's group.
    fn release(&mut self, target: &RouteTarget) {
        let Some(entry) = self.groups.get_mut(target) else {
            return;
        };
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        let Some(entry) = self.groups.remove(target) else {
            return;
        };
        self.free_groups.retire(entry.number, self.epoch);
        if let Some((first, log2)) = entry.buckets {
            let slots = self
                .free_buckets
                .entry(log2)
                .or_insert_with(|| Slots::new(std::iter::empty()));
            slots.retire(first, self.epoch);
        }
        if let RouteTarget::Forward(hops) = target {
            hops.iter()
                .for_each(|hop| self.release_neighbour(hop.neighbour));
        }
    }
}

fn check_prefix(address: IpAddr, len: u8) -> Result<(), FibError> {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
    if len > width || bits & host != 0 && len < width {
        return Err(FibError::Prefix(address, len));
    }
    Ok(())
}

/// Which next hop each bucket leads to: a power of two of buckets, at least four per next hop, shared by weight.
fn shares(hops: &[NextHop]) -> Vec<usize> {
    let total: usize = hops.iter().map(|hop| usize::from(hop.weight.max(1))).sum();
    let count = (4 * hops.len())
        .max(total)
        .next_power_of_two()
        .clamp(16, 1024);
    let mut out = Vec::with_capacity(count);
    let mut sum = 0;
    for (at, hop) in hops.iter().enumerate() {
        sum += usize::from(hop.weight.max(1));
        // The running total decides where a share ends, so that rounding never adds up.
        out.resize((sum * count).div_ceil(total).min(count), at);
    }
    out
}

#[cfg(test)]
mod tests {
    use dataplane::PortId;
    use proptest::prelude::*;
    use wire::MacAddr;

    use super::*;
    use crate::snapshot::Tags;

    fn writer() -> ForwardingWriter {
        let mut writer = ForwardingWriter::new(
            ForwardingSize {
                groups: 64,
                adjacencies: 16,
                buckets: 64,
            },
            64,
        );
        writer.add_vrf(0).expect("memory");
        for interface in 0..2 {
            writer
                .set_link(interface, link(u16::from(interface as u8), 1500))
                .expect("a new link");
        }
        writer
    }

    fn link(port: u16, mtu: u16) -> Link {
        Link {
            port: PortId(port),
            mtu,
            vrf: 0,
            mac: MacAddr::local(u32::from(port)),
            tags: Tags::default(),
        }
    }

    fn key(interface: u16, last: u8) -> NeighbourKey {
        NeighbourKey {
            interface,
            address: IpAddr::from([10, 0, interface as u8, last]),
        }
    }

    fn via(keys: &[NeighbourKey]) -> RouteTarget {
        RouteTarget::Forward(
            keys.iter()
                .map(|neighbour| NextHop {
                    neighbour: *neighbour,
                    weight: 1,
                })
                .collect(),
        )
    }

    fn lookup(writer: &ForwardingWriter, address: [u8; 4]) -> Group {
        let vrf = writer.vrf(0).expect("the VRF");
        writer
            .forwarding()
            .group(vrf.ip4.lookup(u32::from_be_bytes(address)))
    }

    #[test]
    fn a_neighbour_makes_its_host_route_and_takes_it_back() {
        let mut writer = writer();
        let subnet = IpAddr::from([10, 0, 0, 0]);
        writer
            .set_route(0, subnet, 24, RouteTarget::Connected(0))
            .expect("room");
        assert_eq!(
            lookup(&writer, [10, 0, 0, 9]),
            Group::new(RouteAction::Glean, 0)
        );
        writer.resolve(key(0, 9), MacAddr::local(9)).expect("room");
        let group = lookup(&writer, [10, 0, 0, 9]);
        let adjacency = writer.forwarding().adjacency(group.payload()).hot();
        assert!(
            group.action() == RouteAction::Forward
                && adjacency.is_complete()
                && adjacency.port() == PortId(0)
        );
        writer.forget(key(0, 9));
        assert_eq!(lookup(&writer, [10, 0, 0, 9]).action(), RouteAction::Glean);
        assert_eq!(writer.in_use(), (1, 0));
    }

    #[test]
    fn a_configured_host_route_goes_before_the_neighbours() {
        let mut writer = writer();
        let host = IpAddr::from([10, 0, 0, 9]);
        writer
            .set_route(0, host, 32, RouteTarget::Blackhole)
            .expect("room");
        writer.resolve(key(0, 9), MacAddr::local(9)).expect("room");
        assert_eq!(
            lookup(&writer, [10, 0, 0, 9]).action(),
            RouteAction::Blackhole
        );
        writer.remove_route(0, host, 32).expect("it is there");
        assert_eq!(
            lookup(&writer, [10, 0, 0, 9]).action(),
            RouteAction::Forward
        );
    }

    #[test]
    fn a_changed_link_reaches_every_route() {
        let mut writer = writer();
        let (a, b) = (key(0, 1), key(1, 1));
        writer
            .set_route(0, IpAddr::from([20, 0, 0, 0]), 8, via(&[a]))
            .expect("room");
        writer
            .set_route(0, IpAddr::from([30, 0, 0, 0]), 8, via(&[a, b]))
            .expect("room");
        writer.resolve(a, MacAddr::local(1)).expect("room");
        writer.set_link(0, link(0, 9000)).expect("room");
        let forwarding = writer.forwarding();
        let mtu = |adjacency: u32| forwarding.adjacency(adjacency).hot().mtu();
        assert_eq!(mtu(lookup(&writer, [20, 1, 1, 1]).payload()), 9000);
        let group = lookup(&writer, [30, 1, 1, 1]);
        let mtus: Vec<_> = (0..=group.bucket_mask())
            .map(|hash| mtu(forwarding.bucket(group, hash)))
            .collect();
        assert_eq!(mtus.iter().filter(|mtu| **mtu == 9000).count(), 8);
        assert_eq!(mtus.iter().filter(|mtu| **mtu == 1500).count(), 8);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut writer = ForwardingWriter::new(
            ForwardingSize {
                groups: 3,
                adjacencies: 3,
                buckets: 16,
            },
            4,
        );
        writer.add_vrf(0).expect("memory");
        writer.set_link(0, link(0, 1500)).expect("a new link");
        let net = |n| IpAddr::from([n, 0, 0, 0]);
        writer
            .set_route(0, net(20), 8, via(&[key(0, 1)]))
            .expect("room");
        writer
            .set_route(0, net(21), 8, via(&[key(0, 1), key(0, 2)]))
            .expect("room");
        assert!(matches!(
            writer.set_route(0, net(22), 8, RouteTarget::Local),
            Err(FibError::Full(_))
        ));
        assert!(matches!(
            writer.set_route(0, net(20), 8, via(&[key(0, 3)])),
            Err(FibError::Full(_))
        ));
        assert!(matches!(
            writer.set_route(0, net(20), 8, via(&[key(9, 1)])),
            Err(FibError::Full(_))
        ));
        assert!(matches!(
            writer.set_route(7, net(20), 8, RouteTarget::Local),
            Err(FibError::UnknownVrf(7))
        ));
        assert!(matches!(
            writer.set_route(0, IpAddr::from([20, 0, 0, 1]), 8, RouteTarget::Local),
            Err(FibError::Prefix(..))
        ));
        assert_eq!(
            lookup(&writer, [20, 0, 0, 1]).action(),
            RouteAction::Forward
        );
        assert_eq!(
            lookup(&writer, [22, 0, 0, 1]).action(),
            RouteAction::NoRoute
        );
        // Freed numbers come back when the workers have passed by.
        writer.set_epoch(5);
        writer.remove_route(0, net(21), 8).expect("it is there");
        writer.reclaim(4);
        assert!(writer.set_route(0, net(22), 8, RouteTarget::Local).is_err());
        writer.reclaim(5);
        writer
            .set_route(0, net(22), 8, RouteTarget::Local)
            .expect("room again");
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(1u8..20, 1..12)) {
            let hops: Vec<_> = weights.iter().map(|weight| NextHop { neighbour: key(0, 1), weight: *weight }).collect();
            let shares = shares(&hops);
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            prop_assert!(shares.len().is_power_of_two());
            for (at, weight) in weights.iter().enumerate() {
                let got = shares.iter().filter(|hop| **hop == at).count() as f64;
                let want = shares.len() as f64 * f64::from(*weight) / total as f64;
                prop_assert!((got - want).abs() <= 1.0, "{got} against {want}");
            }
        }

        #[test]
        fn random_changes_leave_nothing_behind(steps in proptest::collection::vec((0u8..5, 0u8..6, 0u8..4), 0..120)) {
            let mut writer = writer();
            for (epoch, (what, net, hop)) in steps.into_iter().enumerate() {
                writer.set_epoch(epoch as u64);
                let prefix = IpAddr::from([20 + net, 0, 0, 0]);
                let (a, b) = (key(0, hop), key(1, hop));
                // A full table refuses; that is an outcome like others here.
                let _ = match what {
                    0 => writer.set_route(0, prefix, 8, via(&[a])),
                    1 => writer.set_route(0, prefix, 8, via(&[a, b])),
                    2 => writer.remove_route(0, prefix, 8),
                    3 => writer.resolve(a, MacAddr::local(u32::from(hop))),
                    _ => { writer.forget(a); Ok(()) }
                };
                writer.reclaim(epoch as u64 - u64::from(epoch > 0));
            }
            for net in 0..6 {
                writer.remove_route(0, IpAddr::from([20 + net, 0, 0, 0]), 8).expect("removing is always possible");
            }
            (0..4).for_each(|hop| writer.forget(key(0, hop)));
            prop_assert_eq!(writer.in_use(), (0, 0));
            writer.reclaim(u64::MAX);
            prop_assert_eq!(writer.free_groups.free.len(), 63);
            prop_assert_eq!(writer.free_adjacencies.free.len(), 15);
        }
    }
}
