//! The whole of what the operator wants.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::PolicyState;
use crate::{
    Address, DeviceName, Interface, InterfaceKind, InterfaceName, Invalid, Kind, NatState,
    Neighbour, ObjectKey, ObjectName, ObjectSpec, Route, SpecError, Vrf, VrfName, validate,
};

/// The whole of what the operator wants. Iteration is in a fixed order, so that what is compiled from it is too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// Declared VRFs; `default` is not among them.
    pub vrfs: BTreeMap<VrfName, Vrf>,
    /// Interfaces by name.
    pub interfaces: BTreeMap<InterfaceName, Interface>,
    /// Addresses by object name.
    pub addresses: BTreeMap<ObjectName, Address>,
    /// Routes by object name.
    pub routes: BTreeMap<ObjectName, Route>,
    /// Static neighbours by object name.
    pub neighbours: BTreeMap<ObjectName, Neighbour>,
    /// Translation of addresses.
    pub nat: NatState,
    /// What may pass: policies, endpoints, and what they speak of.
    pub policy: PolicyState,
}

impl DesiredState {
    /// Puts an object in, in place of the one with its key.
    ///
    /// # Errors
    ///
    /// The name is none that the kind allows.
    pub fn insert(&mut self, name: &str, spec: ObjectSpec) -> Result<(), Invalid> {
        match spec {
            ObjectSpec::Vrf(vrf) => {
                let name = VrfName::new(name)?;
                if name.is_default() {
                    return Err(Invalid(
                        "\"default\" always exists and is never declared".into(),
                    ));
                }
                self.vrfs.insert(name, vrf);
            }
            ObjectSpec::Interface(interface) => {
                self.interfaces.insert(InterfaceName::new(name)?, interface);
            }
            ObjectSpec::Address(address) => {
                self.addresses.insert(ObjectName::new(name)?, address);
            }
            ObjectSpec::Route(route) => {
                self.routes.insert(ObjectName::new(name)?, route);
            }
            ObjectSpec::Neighbour(neighbour) => {
                self.neighbours.insert(ObjectName::new(name)?, neighbour);
            }
            ObjectSpec::NatPool(pool) => {
                self.nat.pools.insert(ObjectName::new(name)?, pool);
            }
            ObjectSpec::NatRule(rule) => {
                self.nat.rules.insert(ObjectName::new(name)?, rule);
            }
            ObjectSpec::PortForward(forward) => {
                self.nat.forwards.insert(ObjectName::new(name)?, forward);
            }
            ObjectSpec::StaticNat(mapping) => {
                self.nat.statics.insert(ObjectName::new(name)?, mapping);
            }
            ObjectSpec::Policy(object) => {
                let own = ObjectKey::from(&object.id).name;
                if own != name {
                    return Err(Invalid(format!("the object's own name is {own:?}")));
                }
                self.policy.insert(*object);
            }
        }
        Ok(())
    }

    /// Takes an object out. Whether it was there.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let name = key.name.as_str();
        match key.kind {
            Kind::Vrf => self.vrfs.remove(name).is_some(),
            Kind::Interface => self.interfaces.remove(name).is_some(),
            Kind::Address => self.addresses.remove(name).is_some(),
            Kind::Route => self.routes.remove(name).is_some(),
            Kind::Neighbour => self.neighbours.remove(name).is_some(),
            Kind::NatPool => self.nat.pools.remove(name).is_some(),
            Kind::NatRule => self.nat.rules.remove(name).is_some(),
            Kind::PortForward => self.nat.forwards.remove(name).is_some(),
            Kind::StaticNat => self.nat.statics.remove(name).is_some(),
            Kind::Policy(_) => key.resource().is_some_and(|id| self.policy.remove(&id)),
        }
    }

    /// Whether there is such an object.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        let name = key.name.as_str();
        match key.kind {
            Kind::Vrf => self.vrfs.contains_key(name),
            Kind::Interface => self.interfaces.contains_key(name),
            Kind::Address => self.addresses.contains_key(name),
            Kind::Route => self.routes.contains_key(name),
            Kind::Neighbour => self.neighbours.contains_key(name),
            Kind::NatPool => self.nat.pools.contains_key(name),
            Kind::NatRule => self.nat.rules.contains_key(name),
            Kind::PortForward => self.nat.forwards.contains_key(name),
            Kind::StaticNat => self.nat.statics.contains_key(name),
            Kind::Policy(_) => key.resource().is_some_and(|id| self.policy.contains(&id)),
        }
    }

    /// How many objects there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Vrf => self.vrfs.len(),
            Kind::Interface => self.interfaces.len(),
            Kind::Address => self.addresses.len(),
            Kind::Route => self.routes.len(),
            Kind::Neighbour => self.neighbours.len(),
            Kind::NatPool => self.nat.pools.len(),
            Kind::NatRule => self.nat.rules.len(),
            Kind::PortForward => self.nat.forwards.len(),
            Kind::StaticNat => self.nat.statics.len(),
            Kind::Policy(kind) => self.policy.count(kind),
        }
    }

    /// The VRF of an interface.
    pub fn vrf_of(&self, interface: &InterfaceName) -> Option<&VrfName> {
        self.interfaces
            .get(interface)
            .map(|interface| &interface.vrf)
    }

    /// The Linux device that an interface's packets use: its own, or its parent's.
    pub fn device_of(&self, interface: &InterfaceName) -> Option<&DeviceName> {
        match &self.interfaces.get(interface)?.kind {
            InterfaceKind::AfPacket(port) => Some(&port.device),
            InterfaceKind::Vlan(vlan) => match &self.interfaces.get(&vlan.parent)?.kind {
                InterfaceKind::AfPacket(port) => Some(&port.device),
                InterfaceKind::Vlan(_) => None,
            },
        }
    }

    /// Checks what objects say about each other.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in a fixed order, never empty.
    pub fn validate(&self) -> Result<(), Vec<SpecError>> {
        validate::validate(self, &Changes::default())
    }

    /// Checks as [`DesiredState::validate`] does, and blames the objects of the change that led here from a valid state: the new one of two
    /// that conflict, and a removed one that others still refer to. Changes of policy alone cost what they touch.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in a fixed order, never empty.
    pub fn validate_change(&self, changes: &Changes) -> Result<(), Vec<SpecError>> {
        validate::validate_change(self, changes)
    }

    /// What leads from a previous state to this one.
    pub fn changes_since(&self, previous: &Self) -> Changes {
        let mut changes = self.policy_changes_since(previous);
        compare(Kind::Vrf, &previous.vrfs, &self.vrfs, &mut changes);
        compare(
            Kind::Interface,
            &previous.interfaces,
            &self.interfaces,
            &mut changes,
        );
        compare(
            Kind::Address,
            &previous.addresses,
            &self.addresses,
            &mut changes,
        );
        compare(Kind::Route, &previous.routes, &self.routes, &mut changes);
        compare(
            Kind::Neighbour,
            &previous.neighbours,
            &self.neighbours,
            &mut changes,
        );
        let (nat, before) = (&self.nat, &previous.nat);
        compare(Kind::NatPool, &before.pools, &nat.pools, &mut changes);
        compare(Kind::NatRule, &before.rules, &nat.rules, &mut changes);
        compare(
            Kind::PortForward,
            &before.forwards,
            &nat.forwards,
            &mut changes,
        );
        compare(Kind::StaticNat, &before.statics, &nat.statics, &mut changes);
        changes
    }

    /// The part of [`Self::changes_since`] that is about policy: costs what is different.
    pub fn policy_changes_since(&self, previous: &Self) -> Changes {
        let mut changes = Changes::default();
        let (upserted, deleted) = self.policy.changes_since(&previous.policy);
        changes
            .upserted
            .extend(upserted.iter().map(ObjectKey::from));
        changes.deleted.extend(deleted.iter().map(ObjectKey::from));
        changes
    }

    /// Takes out an object and everything that cannot stand without it. Returns what went besides the object itself.
    pub fn remove_with_dependants(&mut self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let mut gone = BTreeSet::new();
        self.remove(key);
        // Each round takes out at least one object, so this ends.
        while let Err(errors) = self.validate() {
            for error in errors {
                self.remove(&error.object);
                gone.insert(error.object);
            }
        }
        gone
    }
}

/// Which objects a transaction changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or different.
    pub upserted: BTreeSet<ObjectKey>,
    /// Gone.
    pub deleted: BTreeSet<ObjectKey>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.upserted.is_empty() && self.deleted.is_empty()
    }

    /// Whether nothing changed but what policy is made of.
    pub fn only_policy(&self) -> bool {
        let mut changed = self.upserted.iter().chain(&self.deleted);
        changed.all(|key| matches!(key.kind, Kind::Policy(_)))
    }

    /// Whether an object of this kind changed.
    pub fn touch(&self, kind: Kind) -> bool {
        self.upserted
            .iter()
            .chain(&self.deleted)
            .any(|key| key.kind == kind)
    }
}

fn compare<N: Ord + AsRef<str>, T: PartialEq>(
    kind: Kind,
    previous: &BTreeMap<N, T>,
    next: &BTreeMap<N, T>,
    changes: &mut Changes,
) {
    let key = |name: &N| ObjectKey::new(kind, name.as_ref());
    for (name, object) in next {
        if previous.get(name) != Some(object) {
            changes.upserted.insert(key(name));
        }
    }
    changes.deleted.extend(
        previous
            .keys()
            .filter(|name| !next.contains_key(*name))
            .map(key),
    );
}
