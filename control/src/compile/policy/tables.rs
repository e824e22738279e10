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
pub struct SetTables {
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
    pub fn new() -> io::Result<Self> {
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
    pub fn update(&mut self, members: Members) -> Result<Sets, SetsError> {
        let addresses = difference::<Member>(&self.members.addresses, &members.addresses);
        let ip_ports = difference::<IpPort>(&self.members.ip_ports, &members.ip_ports);
        self.addresses.apply(&addresses)?;
        if let Err(error) = self.ip_ports.apply(&ip_ports) {
            let back = difference::<Member>(&members.addresses, &self.members.addresses);
            // What was there a moment ago has room.
            self.addresses.apply(&back)?;
            return Err(error);
        }
        self.members = members;
        let (addresses, ip_ports) = (self.addresses.view(), self.ip_ports.view());
        let epochs = (addresses.class_epoch(), ip_ports.class_epoch());
        let mut classes = SetClasses::default();
        if epochs == self.epochs {
            classes.clone_from(&self.classes);
        }
        self.epochs = epochs;
        learn(&mut classes.addresses, addresses.class_count(), |class| {
            addresses.sets(class)
        });
        learn(&mut classes.ip_ports, ip_ports.class_count(), |class| {
            ip_ports.sets(class)
        });
        self.classes = Arc::new(classes);
        Ok(Sets {
            addresses,
            ip_ports,
            classes: Arc::clone(&self.classes),
        })
    }
}

/// Adds the classes that have appeared.
fn learn<'a>(known: &mut ClassMembership, count: u32, sets: impl Fn(ClassId) -> &'a [SetId]) {
    for class in known.len()..count {
        let sets: Vec<u32> = sets(ClassId(class)).iter().map(|set| set.0).collect();
        known.push(&sets);
    }
}

fn difference<M: Copy + Ord>(
    before: &BTreeMap<u32, BTreeSet<M>>,
    after: &BTreeMap<u32, BTreeSet<M>>,
) -> Delta<M> {
    let none = BTreeSet::new();
    let mut delta = Delta::default();
    for (number, old) in before {
        let new = after.get(number).unwrap_or(&none);
        for member in old.difference(new) {
            delta.remove(SetId(*number), *member);
        }
    }
    for (number, new) in after {
        let old = before.get(number).unwrap_or(&none);
        for member in new.difference(old) {
            delta.add(SetId(*number), *member);
        }
    }
    delta
}
