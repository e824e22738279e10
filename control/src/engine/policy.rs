//! Policy of the running engine: compiled when something changes that it depends on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use control_api::v1;
use graph_nodes::policy::{Policy, RuleCounters};
use model::policy::{PolicyState, ResourceId, ResourceKind};
use model::{DesiredState, InterfaceName, ObjectKey, SpecError};

use super::{State, rules};
use crate::compile::Numbering;
use crate::compile::policy::{
    InterfaceList, PolicyCompiler, PolicyError, PolicyInterface, Reasons, settings,
};
use crate::dataplane::{Cause, PrepareError};

/// What is compiled, and what is kept for the next time.
pub(super) struct PolicyKeeper {
    /// The name of this node: endpoints of others are not ours.
    pub(super) node: String,
    /// What is published.
    pub(super) live: Policy,
    compiler: Option<PolicyCompiler>,
    list: InterfaceList,
    /// Of the last policy that was compiled, published or not.
    generation: u32,
    /// By rule, since the start. The numbers of rules keep their meaning, so it only grows.
    counters: Arc<RuleCounters>,
}

impl PolicyKeeper {
    pub(super) fn new(node: String, workers: usize) -> Self {
        Self {
            node,
            live: Policy::default(),
            compiler: None,
            list: InterfaceList::default(),
            generation: 0,
            counters: Arc::new(RuleCounters::new(workers, 0)),
        }
    }

    /// What the numbers of rules stand for; `None` where there was no policy yet.
    pub(super) fn reasons(&self) -> Option<&Reasons> {
        self.compiler.as_ref().map(|compiler| &compiler.reasons)
    }

    /// What rules have decided.
    pub(super) fn counts(&self) -> Vec<v1::RuleCounter> {
        let reasons = self.reasons();
        reasons.map_or_else(Vec::new, |reasons| rules::counts(reasons, &self.counters))
    }

    /// Whether compiling again would make lookups faster.
    pub(super) fn is_outdated(&mut self) -> bool {
        let compiler = self.compiler.as_mut();
        compiler.is_some_and(PolicyCompiler::is_outdated)
    }

    pub(super) fn compile(
        &mut self,
        state: &PolicyState,
        interfaces: &Arc<[PolicyInterface]>,
    ) -> Result<Policy, PolicyError> {
        let compiler = match &mut self.compiler {
            Some(compiler) => compiler,
            none => none.insert(PolicyCompiler::new()?),
        };
        let compiled = compiler.compile(state, Some(&self.node)).inspect_err(|_| {
            self.list = InterfaceList::default();
        })?;
        let interfaces = self.list.update(&compiled, state, &self.node, interfaces);
        if interfaces.is_empty() {
            return Ok(Policy::default());
        }
        self.generation += 1;
        let rules = compiler.reasons.last().0 as usize + 1;
        if rules > self.counters.rules() {
            self.counters = Arc::new(self.counters.grow(rules));
        }
        Ok(Policy {
            generation: self.generation,
            sets: Some(compiled.sets),
            interfaces,
            settings: settings(&state.felix_of(&self.node)),
            counters: Some(Arc::clone(&self.counters)),
            ..Policy::default()
        })
    }
}

impl State {
    /// The policy of a state that is about to be live.
    pub(super) fn prepare_policy(
        &mut self,
        next: &DesiredState,
        interfaces: &Arc<[PolicyInterface]>,
    ) -> Result<Policy, PrepareError> {
        if next.policy == self.desired.policy && *interfaces == self.policy_interfaces {
            return Ok(self.policy.live.clone());
        }
        self.policy
            .compile(&next.policy, interfaces)
            .map_err(|error| PrepareError {
                cause: Cause::Limit,
                error: SpecError::new(blamed(next, &self.desired), "", error.to_string()),
            })
    }

    /// Compiles the policy that is live once more.
    pub(super) fn live_policy_again(&mut self) {
        let generation = self.policy.live.generation;
        let interfaces = &self.policy_interfaces;
        match self.policy.compile(&self.desired.policy, interfaces) {
            // Flows need not be looked at again: what is allowed is the same.
            Ok(policy) => {
                self.policy.live = Policy {
                    generation,
                    ..policy
                }
            }
            Err(error) => tracing::warn!(%error, "policy stays as it was compiled before"),
        }
    }
}

/// Interfaces as policy looks at them.
pub(super) fn interfaces(state: &DesiredState, numbering: &Numbering) -> Arc<[PolicyInterface]> {
    let mut addresses: HashMap<&InterfaceName, Vec<IpAddr>> = HashMap::new();
    for address in state.addresses.values() {
        let of_interface = addresses.entry(&address.interface).or_default();
        of_interface.push(address.address.ip());
    }
    state
        .interfaces
        .keys()
        .filter_map(|name| {
            Some(PolicyInterface {
                number: numbering.interface(name)?,
                name: name.as_str().into(),
                addresses: addresses.remove(name).unwrap_or_default(),
            })
        })
        .collect()
}

/// The first object of policy that is new, by which a limit is exceeded.
fn blamed(next: &DesiredState, previous: &DesiredState) -> ObjectKey {
    let (upserted, _) = next.policy.changes_since(&previous.policy);
    match upserted.first() {
        Some(id) => ObjectKey::from(id),
        None => ObjectKey::from(&ResourceId {
            kind: ResourceKind::FelixConfiguration,
            namespace: None,
            name: "default".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::WorkerId;
    use graph_nodes::policy::{EGRESS, EndpointKind, INGRESS, INPUT, Judgement, OUTPUT};
    use model::policy::{Object, Value};
    use tables::acl::Key;

    use super::*;
    use crate::compile::policy::NO_MATCH;
    use crate::yaml::load_raw;

    const STATE: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: app == 'web'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}, source: {selector: app == 'client'}}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: w, namespace: a, labels: {app: web}}
spec: {node: here, interfaceName: lan, ipNetworks: [10.0.0.2], allowSpoofedSourcePrefixes: [192.0.2.0/24]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: elsewhere, namespace: a, labels: {app: client}}
spec: {node: there, interfaceName: wan, ipNetworks: [10.0.0.1]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: any}
spec: {node: here, interfaceName: '*'}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {iptablesFilterDenyAction: Reject, defaultEndpointToHostAction: Accept}
---
apiVersion: oncilla.io/v1
kind: AccessList
metadata: {name: no-telnet}
spec: {interface: wan, direction: Input, rules: [{action: Deny, protocol: TCP, destination: {ports: [23]}}, {action: Permit, reflect: true}]}
";

    fn state() -> PolicyState {
        let mut state = PolicyState::default();
        for raw in load_raw(STATE, "test").unwrap() {
            let value: Value = raw.value;
            state.insert(Object::read(&value).unwrap());
        }
        state
    }

    fn interface(number: u16, name: &str) -> PolicyInterface {
        PolicyInterface {
            number,
            name: name.into(),
            addresses: Vec::new(),
        }
    }

    fn tcp(source: u32, port: u16) -> Key<u32> {
        Key::with_ports(0x0a00_0000 | source, 0x0a00_0002, 6, 1234, port)
    }

    #[test]
    fn interfaces_have_the_policy_of_what_is_behind_them() {
        let mut keeper = PolicyKeeper::new("here".into(), 1);
        let interfaces = [
            interface(0, "lan"),
            interface(2, "wan"),
            interface(3, "cali123"),
        ]
        .into();
        let policy = keeper.compile(&state(), &interfaces).unwrap();
        assert_eq!(policy.generation, 1);
        assert!(policy.settings.reject && policy.settings.workload_to_host);
        assert!(policy.of(1).is_none() && policy.of(9).is_none());

        let lan = policy.of(0).unwrap();
        assert_eq!((lan.kind, lan.closed), (EndpointKind::Workload, false));
        let ingress = lan.lists.normal[INGRESS].as_ref().unwrap();
        let allows = |source, port| ingress.judge(&policy.classify(tcp(source, port))).allow;
        assert!(allows(1, 80) && !allows(3, 80) && !allows(1, 81));
        assert!(lan.lists.normal[EGRESS].is_some() && lan.staged.is_none());
        let may_send = |address: [u8; 4]| {
            let address = u32::from_be_bytes(address);
            lan.sources4.iter().any(|prefix| prefix.contains(address))
        };
        assert!(may_send([10, 0, 0, 2]) && may_send([192, 0, 2, 9]) && may_send([0; 4]));
        assert!(!may_send([10, 0, 0, 1]));

        // The workload elsewhere is not behind our interface of that name.
        let wan = policy.of(2).unwrap();
        assert_eq!(wan.kind, EndpointKind::Host);
        assert!(wan.lists.forward.iter().all(Option::is_none));
        let access = wan.access[INPUT].as_ref().unwrap();
        assert!(wan.access[OUTPUT].is_none());
        assert!(!access.program.judge(&tcp(1, 23)).allow);
        let permitted = access.program.judge(&tcp(1, 24));
        assert!(permitted.allow && access.reflects.contains(&permitted.rule));

        let unknown = policy.of(3).unwrap();
        assert_eq!(
            (unknown.kind, unknown.closed),
            (EndpointKind::Workload, true)
        );
    }

    #[test]
    fn what_changes_makes_a_generation_and_leaves_the_published_one_alone() {
        let mut keeper = PolicyKeeper::new("here".into(), 1);
        let interfaces = [interface(0, "lan")].into();
        let mut state = state();
        let before = keeper.compile(&state, &interfaces).unwrap();
        // The client loses its label.
        let id = state
            .workload_endpoints
            .keys()
            .find(|id| &*id.name == "elsewhere")
            .cloned();
        let id = id.unwrap();
        let workload = state.workload_endpoints.get_mut(&id).unwrap();
        Arc::make_mut(workload).labels.remove("app");
        let after = keeper.compile(&state, &interfaces).unwrap();
        assert_eq!((before.generation, after.generation), (1, 2));
        let allows = |policy: &Policy| {
            let ingress = policy.of(0).unwrap().lists.normal[INGRESS].clone();
            ingress.unwrap().judge(&policy.classify(tcp(1, 80))).allow
        };
        assert!(allows(&before) && !allows(&after));

        // What was counted stays counted, whoever counts next.
        let count = |policy: &Policy, rule| {
            let counters = policy.counters.as_ref().unwrap();
            let judgement = Judgement { allow: false, rule };
            counters.of(WorkerId(0)).count(judgement);
        };
        count(&before, NO_MATCH);
        count(&after, NO_MATCH);
        let counts = keeper.counts();
        assert_eq!((counts.len(), counts[0].denied), (1, 2));

        // Without anything to enforce there is nothing to look at.
        let nothing = keeper
            .compile(&PolicyState::default(), &interfaces)
            .unwrap();
        assert!(nothing.interfaces.is_empty() && nothing.sets.is_none());
        let again = keeper.compile(&state, &interfaces).unwrap();
        assert_eq!(again.generation, 3);
        count(&again, NO_MATCH);
        assert_eq!(keeper.counts()[0].denied, 3);
    }
}
