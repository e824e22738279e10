//! Numbers of pools.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use model::policy::NatOutgoing;
use model::{DesiredState, InterfaceName, NatAction, ObjectName, PoolAddresses};

/// What has a number: a pool of addresses, or a pool's address of one interface, in one family.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PoolKey {
    /// What has the addresses.
    pub pool: PoolName,
    /// The interface whose address it is; `None` for a pool of addresses.
    pub interface: Option<InterfaceName>,
    /// Whether the addresses are IPv6.
    pub v6: bool,
}

/// What makes a pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PoolName {
    /// A NatPool.
    Object(ObjectName),
    /// The natOutgoing of IPPools.
    Outgoing,
}

/// `NatPool/name`, or `natOutgoing`.
impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(name) => write!(f, "NatPool/{name}"),
            Self::Outgoing => f.write_str("natOutgoing"),
        }
    }
}

/// The numbers of pools. What has one keeps it for as long as it exists, no two of either family have the same, and a number that was
/// given back rests for as long as there are others: what was counted for it stays what it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolNumbers {
    numbers: BTreeMap<PoolKey, u16>,
    /// All below have been given out.
    unused: u32,
}

/// There are more pools than numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TooManyPools {
    /// The pool that is one too many.
    pub pool: PoolName,
    /// How many there can be.
    pub most: u32,
}

impl PoolNumbers {
    /// How many there are.
    const COUNT: u32 = u16::MAX as u32 + 1;

    /// Numbers for a new state.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn next(
        &self,
        desired: &DesiredState,
        outgoing: Option<&NatOutgoing>,
    ) -> Result<Self, TooManyPools> {
        let wanted = wanted(desired, outgoing);
        let mut next = Self {
            numbers: self.numbers.clone(),
            unused: self.unused,
        };
        next.numbers.retain(|key, _| wanted.contains(key));
        let used: BTreeSet<u16> = next.numbers.values().copied().collect();
        let given_back = (0..=u16::MAX).filter(|number| u32::from(*number) < self.unused);
        let mut given_back = given_back.filter(|number| !used.contains(number));
        for key in wanted {
            if next.numbers.contains_key(&key) {
                continue;
            }
            let number = match u16::try_from(next.unused) {
                Ok(number) => {
                    next.unused += 1;
                    Some(number)
                }
                Err(_) => given_back.next(),
            };
            let number = number.ok_or_else(|| TooManyPools {
                pool: key.pool.clone(),
                most: Self::COUNT,
            })?;
            next.numbers.insert(key, number);
        }
        Ok(next)
    }

    /// All numbers that were ever given out are below.
    pub fn end(&self) -> usize {
        self.unused as usize
    }

    /// The number of a pool, or of its address of an interface.
    pub(super) fn number(
        &self,
        pool: &PoolName,
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

/// All pools of addresses, and for each pool of interfaces those that a rule which uses it lets packets leave by; the same for natOutgoing.
fn wanted(desired: &DesiredState, outgoing: Option<&NatOutgoing>) -> BTreeSet<PoolKey> {
    let nat = &desired.nat;
    let mut wanted = BTreeSet::new();
    for (name, pool) in &nat.pools {
        if let PoolAddresses::Ranges(ranges) = &pool.addresses {
            wanted.extend(ranges.first().map(|range| PoolKey {
                pool: PoolName::Object(name.clone()),
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
                    pool: PoolName::Object(name.clone()),
                    interface: Some(exit.clone()),
                    v6,
                });
            }
        }
    }
    let Some(outgoing) = outgoing else {
        return wanted;
    };
    for v6 in [false, true] {
        if !outgoing
            .sources
            .iter()
            .any(|net| net.addr().is_ipv6() == v6)
        {
            continue;
        }
        let mut want = |interface| {
            wanted.insert(PoolKey {
                pool: PoolName::Outgoing,
                interface,
                v6,
            });
        };
        if outgoing
            .address
            .is_some_and(|address| address.is_ipv6() == v6)
        {
            want(None);
            continue;
        }
        let exits = desired.interfaces.iter();
        exits
            .filter(|(_, interface)| interface.vrf.is_default())
            .for_each(|(exit, _)| want(Some(exit.clone())));
    }
    wanted
}
