//! Translation of the running engine: compiled when something changes that it depends on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use control_api::v1;
use graph_nodes::nat::Nat;
use graph_nodes::policy::{RuleCounters, RuleId};
use model::policy::ResourceKind;
use model::{DesiredState, Kind, ObjectKey};

use super::{State, limit};
use crate::compile::Numbering;
use crate::compile::nat::{NatSections, PoolName, PoolNumbers, PoolRecord, compile};
use crate::dataplane::PrepareError;

/// What is compiled, and the numbers that it has.
#[derive(Clone)]
pub(super) struct NatKeeper {
    /// What workers see.
    pub(super) live: Nat,
    sections: NatSections,
    numbers: PoolNumbers,
    /// By pool, since the start. It only grows.
    counters: Arc<RuleCounters>,
}

impl NatKeeper {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            live: Nat::default(),
            sections: NatSections::default(),
            numbers: PoolNumbers::default(),
            counters: Arc::new(RuleCounters::new(workers, 0)),
        }
    }

    /// What a state makes of it. What says the same is not built again.
    fn next(
        &self,
        desired: &DesiredState,
        numbering: &Numbering,
        node: &str,
    ) -> Result<Self, PrepareError> {
        let outgoing = desired.policy.nat_outgoing_of(node);
        let outgoing = outgoing.as_ref();
        let numbers = self.numbers.next(desired, outgoing).map_err(|error| {
            limit(
                blamed(desired, &error.pool),
                format!(
                    "there are {} pools already, counting the address of each interface in a pool as one, which is the most: delete one first",
                    error.most
                ),
            )
        })?;
        let sections = compile(desired, outgoing, numbering, &numbers);
        if sections == self.sections {
            return Ok(Self {
                numbers,
                ..self.clone()
            });
        }
        // The counter of a pool is the one after its number.
        let wanted = numbers.end() + 1;
        let counters = if wanted > self.counters.rules() {
            Arc::new(self.counters.grow(wanted))
        } else {
            Arc::clone(&self.counters)
        };
        let live = Nat {
            counters: Some(Arc::clone(&counters)),
            ..sections.to_nat()
        };
        Ok(Self {
            live,
            sections,
            numbers,
            counters,
        })
    }
}

impl NatKeeper {
    /// The pools, by name, with what they gave out.
    pub(super) fn pools(&self) -> Vec<v1::NatPoolState> {
        let v4 = self.sections.ip4.pools.iter();
        let v4 = v4.map(|(number, pool)| {
            self.pool(*number, pool, |address| Ipv4Addr::from_bits(address).into())
        });
        let v6 = self.sections.ip6.pools.iter();
        let v6 = v6.map(|(number, pool)| {
            self.pool(*number, pool, |address| Ipv6Addr::from_bits(address).into())
        });
        let mut pools: Vec<_> = v4.chain(v6).collect();
        pools.sort_by(|a, b| (&a.name, &a.interface).cmp(&(&b.name, &b.interface)));
        pools
    }

    fn pool<A: Copy + PartialEq>(
        &self,
        number: u16,
        pool: &PoolRecord<A>,
        ip: impl Fn(A) -> IpAddr,
    ) -> v1::NatPoolState {
        let key = self.numbers.name(number);
        let interface = key.and_then(|key| key.interface.as_ref());
        let count = self.counters.value(RuleId(u32::from(number) + 1));
        let range = |(first, last): &(A, A)| match first == last {
            true => ip(*first).to_string(),
            false => format!("{}-{}", ip(*first), ip(*last)),
        };
        v1::NatPoolState {
            name: key.map_or_else(String::new, |key| key.pool.to_string()),
            interface: interface.map_or_else(String::new, ToString::to_string),
            addresses: pool.addresses.iter().map(range).collect(),
            first_port: pool.ports.0.into(),
            last_port: pool.ports.1.into(),
            pairing: if pool.paired { "paired" } else { "arbitrary" }.into(),
            sessions: count.allowed,
            exhausted: count.denied,
        }
    }
}

impl State {
    /// The translation of a state that is about to be live, with the numbers of its interfaces where these are not those that are
    /// live; `None` where it stays what it is.
    pub(super) fn prepare_nat(
        &self,
        next: &DesiredState,
        numbering: Option<&Numbering>,
    ) -> Result<Option<NatKeeper>, PrepareError> {
        let (policy, live) = (&next.policy, &self.desired.policy);
        let none = |state: &DesiredState| state.nat.is_empty() && state.policy.ip_pools.is_empty();
        let nothing = none(next) && none(&self.desired);
        let same = nothing
            || next.nat == self.desired.nat
                && policy.ip_pools == live.ip_pools
                && policy.felix == live.felix
                && numbering.is_none_or(|numbering| {
                    *numbering == self.numbering
                        && next.addresses == self.desired.addresses
                        && next.interfaces == self.desired.interfaces
                });
        if same {
            return Ok(None);
        }
        let numbering = numbering.unwrap_or(&self.numbering);
        self.nat.next(next, numbering, &self.policy.node).map(Some)
    }
}

/// The object that a pool comes from.
fn blamed(desired: &DesiredState, pool: &PoolName) -> ObjectKey {
    match pool {
        PoolName::Object(name) => ObjectKey::new(Kind::NatPool, name.as_str()),
        PoolName::Outgoing => {
            let mut pools = desired.policy.ip_pools.iter();
            let pool = pools.find(|(_, pool)| pool.nat_outgoing);
            let name = pool.map_or("", |(name, _)| name);
            ObjectKey::new(Kind::Policy(ResourceKind::IpPool), name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::to_model;
    use crate::yaml;

    const BASE: &str = "
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: wan}
spec: {afPacket: {device: eth0}}
---
apiVersion: oncilla.io/v1
kind: Address
metadata: {name: wan}
spec: {interface: wan, address: 192.0.2.1/24}
---
apiVersion: oncilla.io/v1
kind: NatPool
metadata: {name: masquerade}
spec: {interfaceAddress: true}
---
apiVersion: oncilla.io/v1
kind: NatRule
metadata: {name: all}
spec: {outInterfaces: [wan], sources: [10.0.0.0/8], pool: masquerade}
";

    fn state(text: &str) -> DesiredState {
        let mut state = DesiredState::default();
        for document in yaml::load(text, "test").unwrap() {
            let (key, spec) = to_model(&document.object).unwrap();
            state.insert(&key.name, spec).unwrap();
        }
        state.validate().unwrap();
        state
    }

    #[test]
    fn what_says_the_same_is_not_built_again() {
        let base = state(BASE);
        let numbering = Numbering::default().next(&base).unwrap();
        let first = NatKeeper::new(1).next(&base, &numbering, "here").unwrap();
        let rules = |keeper: &NatKeeper| Arc::clone(keeper.live.ip4.source[0].as_ref().unwrap());
        // A second address changes what translation depends on, but not what it does.
        let more = BASE.to_owned()
            + "---\napiVersion: oncilla.io/v1\nkind: Address\nmetadata: {name: z}\nspec: {interface: wan, address: 198.51.100.1/24}\n";
        let second = first.next(&state(&more), &numbering, "here").unwrap();
        assert!(Arc::ptr_eq(&rules(&first), &rules(&second)));
        let another = BASE.replace("192.0.2.1/24", "192.0.2.2/24");
        let third = second.next(&state(&another), &numbering, "here").unwrap();
        assert!(!Arc::ptr_eq(&rules(&first), &rules(&third)));
        assert!(third.live.is_on() && third.counters.rules() > 1);
        let none = third
            .next(&DesiredState::default(), &numbering, "here")
            .unwrap();
        assert!(!none.live.is_on());
    }
}
