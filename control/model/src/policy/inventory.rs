//! Which objects a policy state has, by their names.

use super::id::{NamespacedName, PolicyId};
use super::object::{ResourceId, ResourceKind};
use super::state::PolicyState;
use crate::SharedMap;

impl PolicyState {
    /// Whether there is such an object.
    pub fn contains(&self, id: &ResourceId) -> bool {
        let namespaced = || NamespacedName {
            namespace: id.namespace.clone().unwrap_or_default(),
            name: id.name.clone(),
        };
        let name = &id.name;
        match id.kind {
            ResourceKind::Tier => self.tiers.contains_key(name),
            ResourceKind::Policy(_) => id
                .policy()
                .is_some_and(|id| self.policies.contains_key(&id)),
            ResourceKind::Profile => self.profiles.contains_key(name),
            ResourceKind::NetworkSet => self.network_sets.contains_key(&namespaced()),
            ResourceKind::GlobalNetworkSet => self.global_network_sets.contains_key(name),
            ResourceKind::HostEndpoint => self.host_endpoints.contains_key(name),
            ResourceKind::WorkloadEndpoint => self.workload_endpoints.contains_key(&namespaced()),
            ResourceKind::FelixConfiguration => self.felix.contains_key(name),
            ResourceKind::Namespace => self.namespaces.contains_key(name),
            ResourceKind::ServiceAccount => self.service_accounts.contains_key(&namespaced()),
            ResourceKind::EndpointSlice => self.endpoint_slices.contains_key(&namespaced()),
            ResourceKind::AccessList => self.access_lists.contains_key(name),
            ResourceKind::IpPool => self.ip_pools.contains_key(name),
        }
    }

    /// How many objects there are of a kind.
    pub fn count(&self, kind: ResourceKind) -> usize {
        match kind {
            ResourceKind::Tier => self.tiers.len(),
            ResourceKind::Policy(kind) => {
                let of_kind = |id: &&PolicyId| id.kind == kind;
                self.policies.keys().filter(of_kind).count()
            }
            ResourceKind::Profile => self.profiles.len(),
            ResourceKind::NetworkSet => self.network_sets.len(),
            ResourceKind::GlobalNetworkSet => self.global_network_sets.len(),
            ResourceKind::HostEndpoint => self.host_endpoints.len(),
            ResourceKind::WorkloadEndpoint => self.workload_endpoints.len(),
            ResourceKind::FelixConfiguration => self.felix.len(),
            ResourceKind::Namespace => self.namespaces.len(),
            ResourceKind::ServiceAccount => self.service_accounts.len(),
            ResourceKind::EndpointSlice => self.endpoint_slices.len(),
            ResourceKind::AccessList => self.access_lists.len(),
            ResourceKind::IpPool => self.ip_pools.len(),
        }
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        ResourceKind::ALL
            .into_iter()
            .all(|(kind, ..)| self.count(kind) == 0)
    }

    /// What leads from a previous state to this one: objects that are new or different, and those that are gone. Costs what is different,
    /// and a look at every 64th object.
    pub fn changes_since(&self, previous: &Self) -> (Vec<ResourceId>, Vec<ResourceId>) {
        let mut changes = Changed::default();
        let policy = |id: &PolicyId| ResourceId {
            kind: ResourceKind::Policy(id.kind),
            namespace: id.namespace.clone(),
            name: id.name.clone(),
        };
        changes.compare(&previous.policies, &self.policies, policy);
        macro_rules! named {
            ($($field:ident: $kind:ident),*) => {
                $(changes.compare(&previous.$field, &self.$field, |name| ResourceId {
                    kind: ResourceKind::$kind,
                    namespace: None,
                    name: name.clone(),
                });)*
            };
        }
        named!(
            tiers: Tier,
            profiles: Profile,
            namespaces: Namespace,
            global_network_sets: GlobalNetworkSet,
            host_endpoints: HostEndpoint,
            felix: FelixConfiguration,
            access_lists: AccessList,
            ip_pools: IpPool
        );
        macro_rules! namespaced {
            ($($field:ident: $kind:ident),*) => {
                $(changes.compare(&previous.$field, &self.$field, |id| ResourceId {
                    kind: ResourceKind::$kind,
                    namespace: Some(id.namespace.clone()),
                    name: id.name.clone(),
                });)*
            };
        }
        namespaced!(
            service_accounts: ServiceAccount,
            network_sets: NetworkSet,
            workload_endpoints: WorkloadEndpoint,
            endpoint_slices: EndpointSlice
        );
        (changes.upserted, changes.deleted)
    }
}

#[derive(Default)]
struct Changed {
    upserted: Vec<ResourceId>,
    deleted: Vec<ResourceId>,
}

impl Changed {
    fn compare<K: Ord, V: PartialEq>(
        &mut self,
        previous: &SharedMap<K, V>,
        next: &SharedMap<K, V>,
        id: impl Fn(&K) -> ResourceId,
    ) {
        next.each_difference(previous, |name, _, now| {
            let list = match now {
                Some(_) => &mut self.upserted,
                None => &mut self.deleted,
            };
            list.push(id(name));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate::documents;
    use super::super::{Object, PolicyKind};
    use super::*;

    #[test]
    fn every_object_is_known_by_its_name() {
        let mut state = PolicyState::default();
        assert!(state.is_empty());
        let mut ids = Vec::new();
        for document in documents(3, 20) {
            let object = Object::read(&document).unwrap();
            let before = state.clone();
            assert_eq!(state.contains(&object.id), ids.contains(&object.id));
            state.insert(object.clone());
            assert!(state.contains(&object.id));
            let (upserted, deleted) = state.changes_since(&before);
            if !ids.contains(&object.id) {
                assert_eq!((upserted, deleted), (vec![object.id.clone()], vec![]));
                ids.push(object.id);
            }
        }
        let count = |state: &PolicyState| -> usize {
            ResourceKind::ALL
                .into_iter()
                .map(|(kind, ..)| state.count(kind))
                .sum()
        };
        assert_eq!(count(&state), ids.len());
        for id in ids {
            let before = state.clone();
            assert!(state.remove(&id) && !state.contains(&id));
            assert_eq!(state.changes_since(&before), (vec![], vec![id]));
        }
        assert!(state.is_empty());
    }

    #[test]
    fn kinds_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = ResourceKind::ALL
            .into_iter()
            .map(|(kind, ..)| kind.unique())
            .collect();
        assert_eq!(names.len(), ResourceKind::ALL.len());
        assert_eq!(
            ResourceKind::Policy(PolicyKind::KubernetesNetworkPolicy).unique(),
            "KubernetesNetworkPolicy"
        );
    }
}
