//! Numbers for names: what an object is called in the packet path.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{MAX_INTERFACES, PortId};
use graph_nodes::FIRST_SUB_INTERFACE;
use model::{DesiredState, InterfaceKind, InterfaceName, VrfName};

/// VRFs that there can be: each has tables of its own.
const MAX_VRFS: u16 = 256;

/// The numbers of interfaces and VRFs. An object keeps its number for as long as it exists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbering {
    /// Physical interfaces have their port's number, below [`FIRST_SUB_INTERFACE`].
    pub interfaces: BTreeMap<InterfaceName, u16>,
    /// `default` is 0.
    pub vrfs: BTreeMap<VrfName, u16>,
}

/// There are more objects of a kind than numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NumberingError {
    /// The interface that is one too many, and how many there can be.
    Interface(InterfaceName, u16),
    /// The VRF that is one too many, and how many there can be.
    Vrf(VrfName, u16),
}

impl Numbering {
    /// Numbers for a new state: those that stay keep theirs, new ones get the lowest that is free.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn next(&self, desired: &DesiredState) -> Result<Self, NumberingError> {
        let physical = |name: &InterfaceName| {
            desired
                .interfaces
                .get(name)
                .is_some_and(|interface| matches!(interface.kind, InterfaceKind::AfPacket(_)))
        };
        let mut next = Self::default();
        for (name, number) in &self.interfaces {
            let fits = (*number < FIRST_SUB_INTERFACE) == physical(name);
            if desired.interfaces.contains_key(name) && fits {
                next.interfaces.insert(name.clone(), *number);
            }
        }
        let mut used: BTreeSet<u16> = next.interfaces.values().copied().collect();
        for name in desired.interfaces.keys() {
            if next.interfaces.contains_key(name) {
                continue;
            }
            let range = if physical(name) {
                0..PortId::MAX
            } else {
                FIRST_SUB_INTERFACE..MAX_INTERFACES
            };
            let count = range.len() as u16;
            let free = range.into_iter().find(|number| !used.contains(number));
            let number = free.ok_or_else(|| NumberingError::Interface(name.clone(), count))?;
            used.insert(number);
            next.interfaces.insert(name.clone(), number);
        }
        next.vrfs.insert(VrfName::default(), 0);
        for (name, number) in &self.vrfs {
            if desired.vrfs.contains_key(name) {
                next.vrfs.insert(name.clone(), *number);
            }
        }
        let mut used: BTreeSet<u16> = next.vrfs.values().copied().collect();
        for name in desired.vrfs.keys() {
            if next.vrfs.contains_key(name) {
                continue;
            }
            let free = (1..MAX_VRFS).find(|number| !used.contains(number));
            let number = free.ok_or_else(|| NumberingError::Vrf(name.clone(), MAX_VRFS))?;
            used.insert(number);
            next.vrfs.insert(name.clone(), number);
        }
        Ok(next)
    }

    /// The number of an interface.
    pub fn interface(&self, name: &InterfaceName) -> Option<u16> {
        self.interfaces.get(name).copied()
    }

    /// The name of an interface.
    pub fn interface_name(&self, number: u16) -> Option<&InterfaceName> {
        self.interfaces
            .iter()
            .find(|(_, of)| **of == number)
            .map(|(name, _)| name)
    }

    /// The name of a VRF.
    pub fn vrf_name(&self, number: u16) -> Option<&VrfName> {
        self.vrfs
            .iter()
            .find(|(_, of)| **of == number)
            .map(|(name, _)| name)
    }
}
