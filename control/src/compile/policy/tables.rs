//! The tables of sets: what is in them is changed by what differs from compilation to compilation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use graph_nodes::policy::Sets;
use tables::HugePages;
use tables::acl::{ClassMembership, SetClasses};
use tables::address_sets::{
    AddressSetLimits, AddressSetsWriter, ClassId, Delta, IpPort, IpPortSetLimits, IpPortSetsWriter,
    Member, SetId, SetsError,
};

use super::sets::Members;

/// Sets of addresses, and of addresses with protocol and port, as the dataplane reads them: the writers' half.
#[derive(Debug)]
pub(super) struct SetTables {
    addresses: AddressSetsWriter,
    ip_ports: IpPortSetsWriter,
    members: Members,
    classes: Arc<SetClasses>,
    epochs: (u64, u64),
}

impl SetTables {
    /// Sets without members.
    ///
    /// # Errors
    ///
    /// The system refuses the address space.
    pub(super) fn new() -> io::Result<Self> {
        let addresses =
            AddressSetsWriter::new(AddressSetLimits::default(), HugePages::Transparent)?;
        let ip_ports = IpPortSetsWriter::new(IpPortSetLimits::default());
        let epochs = (
            addresses.view().class_epoch(),
            ip_ports.view().class_epoch(),
        );
        Ok(Self {
            addresses,
            ip_ports,
            members: Members::default(),
            classes: Arc::default(),
            epochs,
        })
    }

    /// Makes these the members, and gives the view that has them. Costs what differs from the members before.
    ///
    /// # Errors
    ///
    /// A limit would be exceeded. Nothing is changed then.
    pub(super) fn update(&mut self, members: &Members) -> Result<Learnt, SetsError> {
        let addresses = difference(&self.members.addresses, &members.addresses);
        let ip_ports = difference(&self.members.ip_ports, &members.ip_ports);
        self.change(&addresses, &ip_ports)
    }

    /// Applies these changes, and gives the view that has them. Costs what changes.
    ///
    /// # Errors
    ///
    /// A limit would be exceeded. Nothing is changed then.
    pub(super) fn change(
        &mut self,
        addresses: &[(u32, Member, bool)],
        ip_ports: &[(u32, IpPort, bool)],
    ) -> Result<Learnt, SetsError> {
        self.addresses.apply(&delta(addresses))?;
        if let Err(error) = self.ip_ports.apply(&delta(ip_ports)) {
            let back: Vec<_> = addresses
                .iter()
                .rev()
                .map(|(set, member, comes)| (*set, *member, !comes))
                .collect();
            // What was there a moment ago has room.
            self.addresses.apply(&delta(&back))?;
            return Err(error);
        }
        note(&mut self.members.addresses, addresses);
        note(&mut self.members.ip_ports, ip_ports);
        let (addresses, ip_ports) = (self.addresses.view(), self.ip_ports.view());
        let epochs = (addresses.class_epoch(), ip_ports.class_epoch());
        let renumbered = epochs != self.epochs;
        self.epochs = epochs;
        let mut learnt = Learnt {
            renumbered,
            addresses: BTreeSet::new(),
            ip_ports: BTreeSet::new(),
            sets: Sets {
                addresses,
                ip_ports,
                classes: Arc::clone(&self.classes),
            },
        };
        let Sets {
            addresses,
            ip_ports,
            ..
        } = &learnt.sets;
        let known = &self.classes;
        let complete = known.addresses.len() == addresses.class_count()
            && known.ip_ports.len() == ip_ports.class_count();
        if renumbered || !complete {
            let mut classes = SetClasses::default();
            if !renumbered {
                classes.clone_from(&self.classes);
            }
            let of = |class| addresses.sets(class);
            learn(
                &mut classes.addresses,
                addresses.class_count(),
                of,
                &mut learnt.addresses,
            );
            let of = |class| ip_ports.sets(class);
            learn(
                &mut classes.ip_ports,
                ip_ports.class_count(),
                of,
                &mut learnt.ip_ports,
            );
            self.classes = Arc::new(classes);
            learnt.sets.classes = Arc::clone(&self.classes);
        }
        Ok(learnt)
    }
}

/// The view after a change, and what is new about its classes.
pub(super) struct Learnt {
    pub(super) sets: Sets,
    /// All classes have other numbers than before.
    pub(super) renumbered: bool,
    /// Sets of addresses that new classes are in.
    pub(super) addresses: BTreeSet<u32>,
    /// Sets of addresses with protocol and port that new classes are in.
    pub(super) ip_ports: BTreeSet<u32>,
}

/// Adds the classes that have appeared, and notes their sets.
fn learn<'a>(
    known: &mut ClassMembership,
    count: u32,
    sets: impl Fn(ClassId) -> &'a [SetId],
    noted: &mut BTreeSet<u32>,
) {
    for class in known.len()..count {
        let sets: Vec<u32> = sets(ClassId(class)).iter().map(|set| set.0).collect();
        known.push(&sets);
        noted.extend(sets);
    }
}

fn delta<M: Copy>(changes: &[(u32, M, bool)]) -> Delta<M> {
    let mut delta = Delta::default();
    for (set, member, comes) in changes {
        if *comes {
            delta.add(SetId(*set), *member);
        } else {
            delta.remove(SetId(*set), *member);
        }
    }
    delta
}

fn note<M: Copy + Ord>(members: &mut BTreeMap<u32, BTreeSet<M>>, changes: &[(u32, M, bool)]) {
    for (set, member, comes) in changes {
        if *comes {
            members.entry(*set).or_default().insert(*member);
        } else if let Some(of_set) = members.get_mut(set) {
            of_set.remove(member);
            if of_set.is_empty() {
                members.remove(set);
            }
        }
    }
}

fn difference<M: Copy + Ord>(
    before: &BTreeMap<u32, BTreeSet<M>>,
    after: &BTreeMap<u32, BTreeSet<M>>,
) -> Vec<(u32, M, bool)> {
    let none = BTreeSet::new();
    let mut changes = Vec::new();
    for (number, old) in before {
        let new = after.get(number).unwrap_or(&none);
        changes.extend(old.difference(new).map(|member| (*number, *member, false)));
    }
    for (number, new) in after {
        let old = before.get(number).unwrap_or(&none);
        changes.extend(new.difference(old).map(|member| (*number, *member, true)));
    }
    changes
}
