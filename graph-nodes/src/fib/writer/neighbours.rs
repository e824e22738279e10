//! Neighbours: the links that they are on, their adjacencies, and the host routes that follow from their addresses.

use core::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering;

use dataplane::PortId;
use wire::{EtherType, MacAddr};

use super::{FibError, ForwardingWriter, NextHop, RouteTarget};
use crate::fib::{AdjacencyState, Group, Rewrite, RouteAction, scoped};
use crate::snapshot::Tags;

/// A neighbour: an address on an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NeighbourKey {
    /// The interface's number.
    pub interface: u16,
    /// The neighbour's address.
    pub address: IpAddr,
}

/// What an interface puts in front of the packets that it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// The port.
    pub port: PortId,
    /// The longest IP packet in bytes.
    pub mtu: u16,
    /// The VRF in which the interface's neighbours are reached.
    pub vrf: u16,
    /// The source address of its frames.
    pub mac: MacAddr,
    /// The tags on its frames.
    pub tags: Tags,
}

pub(super) struct NeighbourEntry {
    adjacency: u32,
    mac: Option<MacAddr>,
    /// Groups through it, and one for each time it was resolved by hand.
    references: usize,
}

impl ForwardingWriter {
    /// Says what an interface puts in front of packets. Its neighbours' adjacencies follow at once.
    pub fn set_link(&mut self, interface: u16, link: Link) -> Result<(), FibError> {
        let Some(old) = self.links.insert(interface, link) else {
            return Ok(());
        };
        if old == link {
            return Ok(());
        }
        let on_interface = |key: &NeighbourKey| key.interface == interface;
        let keys: Vec<_> = self
            .neighbours
            .keys()
            .copied()
            .filter(on_interface)
            .collect();
        for key in keys {
            if old.vrf != link.vrf {
                self.set_host_route(old.vrf, key, None)?;
            }
            self.replace_adjacency(key, &link)?;
            if old.vrf != link.vrf
                && self
                    .neighbours
                    .get(&key)
                    .is_some_and(|entry| entry.mac.is_some())
            {
                self.set_host_route(link.vrf, key, Some(()))?;
            }
        }
        Ok(())
    }

    /// Removes an interface: its neighbours are forgotten. Routes through them must be gone or replaced before; those that
    /// are not lead to an adjacency that never becomes complete.
    pub fn remove_link(&mut self, interface: u16) {
        let keys: Vec<_> = self
            .neighbours
            .keys()
            .copied()
            .filter(|key| key.interface == interface)
            .collect();
        for key in keys {
            self.forget(key);
        }
        self.links.remove(&interface);
    }

    /// Notes a neighbour's Ethernet address: packets that its routes attract can be sent from now on.
    pub fn resolve(&mut self, key: NeighbourKey, mac: MacAddr) -> Result<(), FibError> {
        let vrf = self.link(key)?.vrf;
        if self
            .neighbours
            .get(&key)
            .is_none_or(|entry| entry.mac.is_none())
        {
            let adjacency = self.acquire_neighbour(key)?;
            self.shared.adjacency(adjacency).complete(mac);
            if let Some(entry) = self.neighbours.get_mut(&key) {
                entry.mac = Some(mac);
            }
            if let Err(error) = self.set_host_route(vrf, key, Some(())) {
                self.forget(key);
                return Err(error);
            }
        } else if let Some(entry) = self.neighbours.get_mut(&key) {
            entry.mac = Some(mac);
            self.shared.adjacency(entry.adjacency).complete(mac);
        }
        self.shared
            .arrays()
            .resolutions
            .fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Forgets a neighbour's Ethernet address: packets to it wait for a new resolution.
    pub fn forget(&mut self, key: NeighbourKey) {
        let Some(entry) = self.neighbours.get_mut(&key) else {
            return;
        };
        if entry.mac.take().is_none() {
            return;
        }
        self.shared
            .adjacency(entry.adjacency)
            .set_state(AdjacencyState::Incomplete);
        if let Some(vrf) = self.links.get(&key.interface).map(|link| link.vrf) {
            // Removing a route fails only for a VRF that is gone, and its routes with it.
            let _ = self.set_host_route(vrf, key, None);
        }
        self.release_neighbour(key);
    }

    /// The neighbours that routes lead through or that were resolved, with their Ethernet address.
    pub fn neighbours(&self) -> impl Iterator<Item = (NeighbourKey, Option<MacAddr>)> {
        self.neighbours.iter().map(|(key, entry)| (*key, entry.mac))
    }

    /// The second of the worker's clock in which a neighbour was last sent to; 0 for never.
    pub fn last_used(&self, key: NeighbourKey) -> u64 {
        self.neighbours.get(&key).map_or(0, |entry| {
            self.shared.adjacency(entry.adjacency).last_used()
        })
    }

    fn link(&self, key: NeighbourKey) -> Result<Link, FibError> {
        self.links
            .get(&key.interface)
            .copied()
            .ok_or(FibError::UnknownInterface(key.interface))
    }

    fn set_host_route(
        &mut self,
        vrf: u16,
        key: NeighbourKey,
        present: Option<()>,
    ) -> Result<(), FibError> {
        let len = if key.address.is_ipv4() { 32 } else { 128 };
        let address = match key.address {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(scoped(address.to_bits(), key.interface)).into()
            }
            address => address,
        };
        let target = present.map(|()| {
            RouteTarget::Forward(vec![NextHop {
                neighbour: key,
                weight: 1,
            }])
        });
        self.change(vrf, address, len, |entry| entry.neighbour = target.clone())
    }

    /// The adjacency of a neighbour, made (incomplete) where there is none; counts a reference.
    pub(super) fn acquire_neighbour(&mut self, key: NeighbourKey) -> Result<u32, FibError> {
        let link = self.link(key)?;
        if let Some(entry) = self.neighbours.get_mut(&key) {
            entry.references += 1;
            return Ok(entry.adjacency);
        }
        let adjacency = self
            .free_adjacencies
            .take()
            .ok_or(FibError::Full("adjacency"))?;
        self.fill(adjacency, key, &link);
        self.neighbours.insert(
            key,
            NeighbourEntry {
                adjacency,
                mac: None,
                references: 1,
            },
        );
        Ok(adjacency)
    }

    pub(super) fn release_neighbour(&mut self, key: NeighbourKey) {
        let Some(entry) = self.neighbours.get_mut(&key) else {
            return;
        };
        entry.references -= 1;
        if entry.references == 0 {
            self.free_adjacencies.retire(entry.adjacency, self.epoch);
            self.neighbours.remove(&key);
        }
    }

    fn fill(&self, adjacency: u32, key: NeighbourKey, link: &Link) {
        let ethertype = if key.address.is_ipv4() {
            EtherType::IP4
        } else {
            EtherType::IP6
        };
        let rewrite = link_header(MacAddr::ZERO, link, ethertype);
        self.shared.adjacency(adjacency).fill(
            link.port,
            key.interface,
            link.mtu,
            key.address,
            &rewrite,
        );
    }

    /// Gives a neighbour a new adjacency after its link changed: written whole before any group leads to it, so that no packet
    /// sees half of it.
    fn replace_adjacency(&mut self, key: NeighbourKey, link: &Link) -> Result<(), FibError> {
        let new = self
            .free_adjacencies
            .take()
            .ok_or(FibError::Full("adjacency"))?;
        self.fill(new, key, link);
        let Some(entry) = self.neighbours.get_mut(&key) else {
            return Ok(());
        };
        let old = std::mem::replace(&mut entry.adjacency, new);
        if let Some(mac) = entry.mac {
            self.shared.adjacency(new).complete(mac);
        }
        for entry in self.groups.values() {
            let arrays = self.shared.arrays();
            let Some(slot) = arrays.groups.get(entry.number as usize) else {
                continue;
            };
            let group = Group::from_bits(slot.load(Ordering::Relaxed));
            if group.action() == RouteAction::Forward && group.payload() == old {
                slot.store(
                    Group::new(RouteAction::Forward, new).bits(),
                    Ordering::Release,
                );
            }
            if let Some((first, log2)) = entry.buckets {
                for bucket in arrays.buckets.iter().skip(first as usize).take(1 << log2) {
                    if bucket.load(Ordering::Relaxed) == old {
                        bucket.store(new, Ordering::Release);
                    }
                }
            }
        }
        self.free_adjacencies.retire(old, self.epoch);
        Ok(())
    }
}

/// The link-layer header of frames on a link. Allocates nothing.
pub fn link_header(destination: MacAddr, link: &Link, ethertype: EtherType) -> Rewrite {
    let mut header = [0; Rewrite::MAX_LEN];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        header[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    put(&destination.octets());
    put(&link.mac.octets());
    if let Some((tpid, vid)) = link.tags.outer {
        put(&tpid.value().to_be_bytes());
        put(&vid.to_be_bytes());
    }
    if let Some(vid) = link.tags.inner {
        put(&EtherType::VLAN.value().to_be_bytes());
        put(&vid.to_be_bytes());
    }
    put(&ethertype.value().to_be_bytes());
    // 14, 18 or 22 bytes by construction.
    Rewrite::new(&header[..len]).unwrap_or_else(|| unreachable!("a header of {len} bytes"))
}
