//! Numbers of pools.

use std::collections::{BTreeMap, BTreeSet};

use model::{DesiredState, InterfaceName, NatAction, ObjectName, PoolAddresses};

/// What has a number: a pool of addresses, or a pool's address of one interface, in one family.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PoolKey {
    /// The name of the NatPool.
    pub pool: ObjectName,
    /// The interface whose address it is; `None` for a pool of addresses.
    pub interface: Option<InterfaceName>,
    /// Whether the addresses are IPv6.
    pub v6: bool,
}

/// The numbers of pools. What has one keeps it for as long as it exists; no two of either family have the same.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolNumbers {
    numbers: BTreeMap<PoolKey, u16>,
}

/// There are more pools than numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TooManyPools {
    /// The pool that is one too many.
    pub pool: ObjectName,
    /// How many there can be.
    pub most: u32,
}

impl PoolNumbers {
    /// How many there are.
    const COUNT: u32 = u16::MAX as u32 + 1;

    /// Numbers for a new state: what stays keeps its own, what is new gets the lowest that is free.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn next(&self, desired: &DesiredState) -> Result<Self, TooManyPools> {
        let wanted = wanted(desired);
        let mut numbers: BTreeMap<PoolKey, u16> = self
            .numbers
            .iter()
            .filter(|(key, _)| wanted.contains(*key))
            .map(|(key, number)| (key.clone(), *number))
            .collect();
        let used: BTreeSet<u16> = numbers.values().copied().collect();
        let mut free = (0..=u16::MAX).filter(|number| !used.contains(number));
        for key in wanted {
            if numbers.contains_key(&key) {
                continue;
            }
            let number = free.next().ok_or_else(|| TooManyPools {
                pool: key.pool.clone(),
                most: Self::COUNT,
            })?;
            numbers.insert(key, number);
        }
        Ok(Self { numbers })
    }

    /// The number of a pool, or of its address of an interface.
    pub(super) fn number(
        &self,
        pool: &ObjectName,
        interface: Option<&InterfaceName>,
        v6: bool,
    ) -> Option<u16> {
        let key = PoolKey {
            pool: pool.clone(),
            interface: interface.cloned(),
            v6,
        };
        self.numbers.get(&key).copied()
    }

    /// What has a number.
    pub fn name(&self, number: u16) -> Option<&PoolKey> {
        let mut numbers = self.numbers.iter();
        numbers.find(|(_, of)| **of == number).map(|(key, _)| key)
    }
}

/// All pools of addresses, and for each pool of interfaces those that a rule which uses it lets packets leave by.
fn wanted(desired: &DesiredState) -> BTreeSet<PoolKey> {
    let nat = &desired.nat;
    let mut wanted = BTreeSet::new();
    for (name, pool) in &nat.pools {
        if let PoolAddresses::Ranges(ranges) = &pool.addresses {
            wanted.extend(ranges.first().map(|range| PoolKey {
                pool: name.clone(),
                interface: None,
                v6: range.is_v6(),
            }));
        }
    }
    for rule in nat.rules.values() {
        let NatAction::Pool(name) = &rule.action else {
            continue;
        };
        let of_interfaces = |name| {
            let pool = nat.pools.get::<ObjectName>(name);
            pool.is_some_and(|pool| pool.addresses == PoolAddresses::Interface)
        };
        if !of_interfaces(name) {
            continue;
        }
        let exits = desired
            .interfaces
            .iter()
            .filter(|(exit, interface)| interface.vrf == rule.vrf && rule.leaves_by(exit));
        for (exit, _) in exits {
            for v6 in [false, true].into_iter().filter(|v6| rule.has_family(*v6)) {
                wanted.insert(PoolKey {
                    pool: name.clone(),
                    interface: Some(exit.clone()),
                    v6,
                });
            }
        }
    }
    wanted
}
