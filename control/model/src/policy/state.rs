//! All objects that say something about policy, and what follows from them together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::access::{AccessDirection, AccessList};
use super::endpoint::{HostEndpoint, Labelled, NetworkSet, Profile, WorkloadEndpoint};
use super::felix::{Felix, FelixConfiguration};
use super::id::{NamespacedName, Order, PolicyId};
use super::ip_pool::IpPool;
use super::network_policy::Policy;
use super::object::{Object, Resource, ResourceId, ResourceKind};
use super::rule::{Action, Rule};
use super::selector::LabelSource;
use super::service::EndpointSlice;
use super::tier::{BUILT_IN, EndOfTier, Tier};
use super::{Labels, NAMESPACE_LABEL};
use crate::SharedMap;

/// The profile that always exists and allows everything.
pub(crate) const ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// The label, below its prefix, that names a namespace or a service account.
const NAME_LABEL: &str = "projectcalico.org/name";

/// All objects, by kind and name. Iteration is in a fixed order, so that what is compiled from it is too. A clone shares
/// the objects and the maps, so that it and comparing it with what it was cloned from cost little.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyState {
    /// Declared tiers.
    pub tiers: SharedMap<Box<str>, Arc<Tier>>,
    /// Policies of all kinds.
    pub policies: SharedMap<PolicyId, Arc<Policy>>,
    /// Declared profiles.
    pub profiles: SharedMap<Box<str>, Arc<Profile>>,
    /// Namespaces, each of which makes a profile `kns.NAME`.
    pub namespaces: SharedMap<Box<str>, Arc<Labelled>>,
    /// Service accounts, each of which makes a profile `ksa.NAMESPACE.NAME`.
    pub service_accounts: SharedMap<NamespacedName, Arc<Labelled>>,
    /// Sets of networks in namespaces.
    pub network_sets: SharedMap<NamespacedName, Arc<NetworkSet>>,
    /// Sets of networks in none.
    pub global_network_sets: SharedMap<Box<str>, Arc<NetworkSet>>,
    /// Workloads.
    pub workload_endpoints: SharedMap<NamespacedName, Arc<WorkloadEndpoint>>,
    /// Hosts' interfaces.
    pub host_endpoints: SharedMap<Box<str>, Arc<HostEndpoint>>,
    /// FelixConfigurations: `default` and `node.NAME`.
    pub felix: SharedMap<Box<str>, Arc<FelixConfiguration>>,
    /// Endpoints of services.
    pub endpoint_slices: SharedMap<NamespacedName, Arc<EndpointSlice>>,
    /// Access lists.
    pub access_lists: SharedMap<Box<str>, Arc<AccessList>>,
    /// Pools of addresses for workloads.
    pub ip_pools: SharedMap<Box<str>, Arc<IpPool>>,
}

/// What something is labelled with: its own labels, then those of its profiles, in order.
#[derive(Clone, Debug)]
pub struct EffectiveLabels<'a> {
    own: &'a Labels,
    inherited: Vec<std::borrow::Cow<'a, Labels>>,
}

impl LabelSource for EffectiveLabels<'_> {
    fn label(&self, name: &str) -> Option<&str> {
        std::iter::once(self.own)
            .chain(self.inherited.iter().map(AsRef::as_ref))
            .find_map(|labels| labels.label(name))
    }
}

impl EffectiveLabels<'_> {
    /// All of them in one map.
    pub fn to_labels(&self) -> Labels {
        let mut all = Labels::new();
        for labels in std::iter::once(self.own).chain(self.inherited.iter().map(AsRef::as_ref)) {
            for (name, value) in labels {
                all.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        all
    }
}

impl PolicyState {
    /// Puts an object in, in place of the one that it names. Returns whether there was one.
    pub fn insert(&mut self, object: Object) -> bool {
        let Object { id, resource } = object;
        let namespace = id.namespace.clone().unwrap_or_default();
        let namespaced = NamespacedName {
            namespace,
            name: id.name.clone(),
        };
        match (resource, id.policy()) {
            (Resource::Policy(policy), Some(id)) => {
                self.policies.insert(id, Arc::new(*policy)).is_some()
            }
            // A policy's id is always of a policy's kind.
            (Resource::Policy(_), None) => false,
            (Resource::Tier(tier), _) => self.tiers.insert(id.name, Arc::new(tier)).is_some(),
            (Resource::Profile(profile), _) => {
                self.profiles.insert(id.name, Arc::new(profile)).is_some()
            }
            (Resource::NetworkSet(set), _) if id.namespace.is_some() => self
                .network_sets
                .insert(namespaced, Arc::new(set))
                .is_some(),
            (Resource::NetworkSet(set), _) => self
                .global_network_sets
                .insert(id.name, Arc::new(set))
                .is_some(),
            (Resource::HostEndpoint(host), _) => self
                .host_endpoints
                .insert(id.name, Arc::new(host))
                .is_some(),
            (Resource::WorkloadEndpoint(workload), _) => self
                .workload_endpoints
                .insert(namespaced, Arc::new(*workload))
                .is_some(),
            (Resource::FelixConfiguration(felix), _) => {
                self.felix.insert(id.name, Arc::new(*felix)).is_some()
            }
            (Resource::Namespace(namespace), _) => self
                .namespaces
                .insert(id.name, Arc::new(namespace))
                .is_some(),
            (Resource::ServiceAccount(account), _) => self
                .service_accounts
                .insert(namespaced, Arc::new(account))
                .is_some(),
            (Resource::EndpointSlice(slice), _) => self
                .endpoint_slices
                .insert(namespaced, Arc::new(slice))
                .is_some(),
            (Resource::AccessList(list), _) => {
                self.access_lists.insert(id.name, Arc::new(list)).is_some()
            }
            (Resource::IpPool(pool), _) => self.ip_pools.insert(id.name, Arc::new(pool)).is_some(),
        }
    }

    /// Takes an object out. Whether it was there.
    pub fn remove(&mut self, id: &ResourceId) -> bool {
        let namespaced = NamespacedName {
            namespace: id.namespace.clone().unwrap_or_default(),
            name: id.name.clone(),
        };
        match id.kind {
            ResourceKind::Tier => self.tiers.remove(&id.name).is_some(),
            ResourceKind::Policy(_) => id
                .policy()
                .is_some_and(|id| self.policies.remove(&id).is_some()),
            ResourceKind::Profile => self.profiles.remove(&id.name).is_some(),
            ResourceKind::NetworkSet => self.network_sets.remove(&namespaced).is_some(),
            ResourceKind::GlobalNetworkSet => self.global_network_sets.remove(&id.name).is_some(),
            ResourceKind::HostEndpoint => self.host_endpoints.remove(&id.name).is_some(),
            ResourceKind::WorkloadEndpoint => self.workload_endpoints.remove(&namespaced).is_some(),
            ResourceKind::FelixConfiguration => self.felix.remove(&id.name).is_some(),
            ResourceKind::Namespace => self.namespaces.remove(&id.name).is_some(),
            ResourceKind::ServiceAccount => self.service_accounts.remove(&namespaced).is_some(),
            ResourceKind::EndpointSlice => self.endpoint_slices.remove(&namespaced).is_some(),
            ResourceKind::AccessList => self.access_lists.remove(&id.name).is_some(),
            ResourceKind::IpPool => self.ip_pools.remove(&id.name).is_some(),
        }
    }

    /// All tiers in the order in which they are tried: those that exist by order and name, then those that policies only refer to, by name.
    pub fn tiers_in_order(&self) -> Vec<(Box<str>, Tier)> {
        let own = self.tiers.iter().map(|(name, tier)| (name.clone(), **tier));
        let mut tiers: BTreeMap<_, _> = own.collect();
        for (name, ..) in BUILT_IN {
            if let Some(tier) = Tier::built_in(name) {
                tiers.entry(name.into()).or_insert(tier);
            }
        }
        let unknown: BTreeSet<_> = self
            .policies
            .values()
            .map(|policy| &policy.tier)
            .filter(|tier| !tiers.contains_key(*tier))
            .cloned()
            .collect();
        let mut sorted: Vec<_> = tiers.into_iter().collect();
        sorted.sort_by(|(a, left), (b, right)| {
            Order::compare(left.order, right.order).then_with(|| a.cmp(b))
        });
        sorted.extend(unknown.into_iter().map(|name| {
            let tier = Tier {
                order: None,
                default_action: EndOfTier::Deny,
            };
            (name, tier)
        }));
        sorted
    }

    /// A tier's policies in the order in which they are tried, staged ones among them.
    pub fn policies_in_order(&self, tier: &str) -> Vec<(&PolicyId, &Arc<Policy>)> {
        let mut policies: Vec<_> = self
            .policies
            .iter()
            .filter(|(_, policy)| &*policy.tier == tier)
            .collect();
        Self::put_in_order(&mut policies);
        policies
    }

    /// Sorts policies of one tier into the order in which they are tried.
    pub fn put_in_order(policies: &mut [(&PolicyId, &Arc<Policy>)]) {
        let mut keyed: Vec<_> = policies
            .iter()
            .map(|(id, policy)| (policy.order, id.tie_break(), (*id, *policy)))
            .collect();
        keyed.sort_by(|(left, a, _), (right, b, _)| {
            Order::compare(*left, *right).then_with(|| a.cmp(b))
        });
        for (place, (.., policy)) in policies.iter_mut().zip(keyed) {
            *place = policy;
        }
    }

    /// A profile: declared, made by a namespace or a service account, or the one that always exists.
    pub fn profile(&self, name: &str) -> Option<Profile> {
        if let Some(profile) = self.profiles.get(name) {
            return Some(Profile::clone(profile));
        }
        if name == ALLOW_PROFILE {
            return Some(allow_all());
        }
        if let Some(namespace) = name.strip_prefix("kns.") {
            let labels = &self.namespaces.get(namespace)?.labels;
            return Some(Profile {
                labels_to_apply: prefixed(labels, "pcns.", namespace),
                ..allow_all()
            });
        }
        let account = name.strip_prefix("ksa.")?;
        // Names may hold dots, so that the first one need not be the one between.
        let (id, account) = self.service_accounts.iter().find(|(id, _)| {
            account
                .strip_prefix(&*id.namespace)
                .and_then(|rest| rest.strip_prefix('.'))
                == Some(&*id.name)
        })?;
        Some(Profile {
            labels_to_apply: prefixed(&account.labels, "pcsa.", &id.name),
            ..Profile::default()
        })
    }

    fn effective<'a>(
        &'a self,
        own: &'a Labels,
        profiles: impl Iterator<Item = &'a str>,
    ) -> EffectiveLabels<'a> {
        EffectiveLabels {
            own,
            inherited: profiles
                .filter_map(|name| self.profile(name))
                .map(|profile| std::borrow::Cow::Owned(profile.labels_to_apply))
                .collect(),
        }
    }

    /// A workload's labels with those that it inherits.
    pub fn labels_of_workload<'a>(&'a self, workload: &'a WorkloadEndpoint) -> EffectiveLabels<'a> {
        self.effective(
            &workload.labels,
            workload.profiles.iter().map(AsRef::as_ref),
        )
    }

    /// A host endpoint's labels with those that it inherits.
    pub fn labels_of_host<'a>(&'a self, host: &'a HostEndpoint) -> EffectiveLabels<'a> {
        self.effective(&host.labels, host.profiles.iter().map(AsRef::as_ref))
    }

    /// A network set's labels with those of its namespace.
    pub fn labels_of_set<'a>(&'a self, set: &'a NetworkSet) -> EffectiveLabels<'a> {
        let profile = set
            .labels
            .label(NAMESPACE_LABEL)
            .map(|namespace| format!("kns.{namespace}"));
        let inherited = profile.and_then(|name| self.profile(&name));
        EffectiveLabels {
            own: &set.labels,
            inherited: inherited
                .map(|profile| std::borrow::Cow::Owned(profile.labels_to_apply))
                .into_iter()
                .collect(),
        }
    }

    /// What holds on a node: defaults, then `default`, then the node's own.
    pub fn felix_of(&self, node: &str) -> Felix {
        let mut felix = Felix::default();
        for name in ["default", &format!("node.{node}")] {
            if let Some(configuration) = self.felix.get(name) {
                felix.apply(configuration);
            }
        }
        felix
    }

    /// The host endpoint that speaks for a node's interface: the lowest by name of those that name the interface, or that name none and expect one of
    /// its addresses; else the lowest that names `*`.
    pub fn host_endpoint_of(
        &self,
        node: &str,
        interface: &str,
        addresses: &[IpAddr],
    ) -> Option<(&str, &Arc<HostEndpoint>)> {
        let own = |host: &HostEndpoint| {
            &*host.interface == interface && interface != "*"
                || host.interface.is_empty()
                    && host.expected_ips.iter().any(|ip| addresses.contains(ip))
        };
        self.host_endpoint_where(node, own)
            .or_else(|| self.host_endpoint_of_all(node))
    }

    /// The host endpoint for all of a node's interfaces, `*`: the lowest by name. Its policies before translation and those for forwarded traffic
    /// hold for workload interfaces too, and for host interfaces all of them where no other endpoint speaks for the interface.
    pub fn host_endpoint_of_all(&self, node: &str) -> Option<(&str, &Arc<HostEndpoint>)> {
        self.host_endpoint_where(node, |host| &*host.interface == "*")
    }

    fn host_endpoint_where(
        &self,
        node: &str,
        is: impl Fn(&HostEndpoint) -> bool,
    ) -> Option<(&str, &Arc<HostEndpoint>)> {
        self.host_endpoints
            .iter()
            .find(|(_, host)| &*host.node == node && is(host))
            .map(|(name, host)| (&**name, host))
    }

    /// The access lists of an interface and direction, first one first.
    pub fn access_lists_of(
        &self,
        interface: &str,
        direction: AccessDirection,
    ) -> Vec<(&str, &Arc<AccessList>)> {
        let mut lists: Vec<_> = self
            .access_lists
            .iter()
            .filter(|(_, list)| list.interface.as_str() == interface && list.direction == direction)
            .map(|(name, list)| (&**name, list))
            .collect();
        lists.sort_by(|(a, left), (b, right)| {
            Order::compare(left.order, right.order).then_with(|| a.cmp(b))
        });
        lists
    }

    /// Checks what objects say about each other.
    ///
    /// # Errors
    ///
    /// Each object that is wrong, with the field and what is wrong about it.
    pub fn validate(&self) -> Result<(), Vec<(ResourceId, super::FieldError)>> {
        let mut errors = Vec::new();
        for name in self.profiles.keys() {
            let other = if name
                .strip_prefix("kns.")
                .is_some_and(|namespace| self.namespaces.contains_key(namespace))
            {
                "a Namespace"
            } else if name.starts_with("ksa.") && self.made_by_account(name) {
                "a ServiceAccount"
            } else if &**name == ALLOW_PROFILE {
                "Oncilla itself"
            } else {
                continue;
            };
            let id = ResourceId {
                kind: ResourceKind::Profile,
                namespace: None,
                name: name.clone(),
            };
            let error = super::FieldError {
                field: "metadata.name".into(),
                message: format!("{other} makes the profile {name}; use another name"),
            };
            errors.push((id, error));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    fn made_by_account(&self, profile: &str) -> bool {
        self.service_accounts
            .keys()
            .any(|id| profile == format!("ksa.{}.{}", id.namespace, id.name))
    }
}

fn allow_all() -> Profile {
    Profile {
        labels_to_apply: Labels::new(),
        ingress: vec![Rule::new(Action::Allow)],
        egress: vec![Rule::new(Action::Allow)],
    }
}

fn prefixed(labels: &Labels, prefix: &str, name: &str) -> Labels {
    let mut prefixed: Labels = labels
        .iter()
        .map(|(label, value)| (format!("{prefix}{label}"), value.clone()))
        .collect();
    prefixed.insert(format!("{prefix}{NAME_LABEL}"), name.to_owned());
    prefixed
}
