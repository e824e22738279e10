//! What a compilation remembers for the next: each stage of the work with its results, by what they were made from. The next
//! one looks at what has changed, and goes on from there.
//!
//! ```text
//!  objects ──► items (labels, addresses) ──► members of sets ──► tables ──► new classes ─┐
//!     │              │                              ▲                                    ▼
//!     └──► policies ─┴─► which apply ──► keys of programs ──► blocks (lowered rules) ──► stages ──► programs ──► endpoints
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use graph_nodes::policy::{EGRESS, INGRESS, Lists};
use model::policy::{
    AccessDirection, Direction, EndpointToHost, NamespacedName, PolicyId, PolicyState, ResourceId,
    ResourceKind,
};
use tables::address_sets::SetsError;

use super::plan::{List, Owner, Plan, ProgramKey, replaced_by};
use super::programs::{Access, Programs, Source};
use super::reasons::Reasons;
use super::sets::{Item, ItemChange, ItemId, Items, Sets};
use super::tables::{Learnt, SetTables};
use super::{AccessPrograms, CompiledPolicy, Endpoint, Touched};

/// The programs of an endpoint, by what they are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListKeys {
    normal: [ProgramKey; 2],
    /// Of a host.
    forward: [Option<ProgramKey>; 2],
    pre_dnat: Option<ProgramKey>,
    untracked: [Option<ProgramKey>; 2],
}

/// The programs of an endpoint, by number.
#[derive(Clone, Copy, Debug)]
struct ListNumbers {
    normal: [u32; 2],
    forward: [Option<u32>; 2],
    pre_dnat: Option<u32>,
    untracked: [Option<u32>; 2],
}

/// An endpoint of this node.
#[derive(Debug)]
struct Owned {
    owner: Owner,
    node: Box<str>,
    /// Of a workload.
    interface: Box<str>,
    profiles: Vec<Box<str>>,
    /// The policies that apply to it, by number.
    applying: BTreeSet<u32>,
    programs: Option<Numbers>,
    drops_to_host: bool,
}

#[derive(Clone, Copy, Debug)]
struct Numbers {
    enforced: ListNumbers,
    /// Where it is not the same.
    staged: Option<ListNumbers>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Index {
    /// What everything here is about.
    state: PolicyState,
    node: Option<Box<str>>,
    /// Whether the tables hold the members of [`Self::sets`].
    in_step: bool,
    plan: Plan,
    items: Items,
    endpoints: BTreeMap<ItemId, Owned>,
    sets: Sets,
    programs: Programs,
    /// Endpoints by the programs that they have.
    users: HashMap<u32, BTreeSet<ItemId>>,
    access: Access,
    workloads: Arc<BTreeMap<NamespacedName, Endpoint>>,
    hosts: Arc<BTreeMap<Box<str>, Endpoint>>,
    by_interface: Arc<ByInterface>,
    access_programs: Arc<AccessPrograms>,
}

/// Workloads by the interface that leads to them.
pub(super) type ByInterface = BTreeMap<Box<str>, BTreeSet<NamespacedName>>;

/// What is different about a state.
#[derive(Default)]
struct Changed {
    tiers: bool,
    policies: BTreeSet<PolicyId>,
    /// Profiles, and what makes some.
    profiles: bool,
    items: BTreeSet<ItemId>,
    settings: bool,
    slices: bool,
    /// Names of lists by interface and direction, those that they were on and those that they are on.
    access: BTreeMap<(Box<str>, AccessDirection), BTreeSet<Box<str>>>,
}

impl Changed {
    fn between(old: &PolicyState, new: &PolicyState) -> Self {
        let mut changed = Self::default();
        let (upserted, deleted) = new.changes_since(old);
        for id in upserted.into_iter().chain(deleted) {
            changed.add(id, old, new);
        }
        if changed.profiles {
            // Labels are inherited from them.
            changed.items.extend(Item::ids(new));
        }
        changed
    }

    fn add(&mut self, id: ResourceId, old: &PolicyState, new: &PolicyState) {
        let policy = id.policy();
        let namespaced = NamespacedName {
            namespace: id.namespace.unwrap_or_default(),
            name: id.name.clone(),
        };
        match id.kind {
            ResourceKind::Tier => self.tiers = true,
            ResourceKind::Policy(_) => {
                if let Some(policy) = policy {
                    // Whether the enforced one counts where staged ones do may have changed.
                    self.policies.extend(replaced_by(&policy));
                    self.policies.insert(policy);
                }
            }
            ResourceKind::Profile | ResourceKind::Namespace | ResourceKind::ServiceAccount => {
                self.profiles = true;
            }
            ResourceKind::NetworkSet => {
                self.items.insert(ItemId::NetworkSet(namespaced));
            }
            ResourceKind::GlobalNetworkSet => {
                self.items.insert(ItemId::GlobalNetworkSet(id.name));
            }
            ResourceKind::HostEndpoint => {
                self.items.insert(ItemId::Host(id.name));
            }
            ResourceKind::WorkloadEndpoint => {
                self.items.insert(ItemId::Workload(namespaced));
            }
            ResourceKind::FelixConfiguration => self.settings = true,
            ResourceKind::EndpointSlice => self.slices = true,
            // Says nothing about what may pass.
            ResourceKind::IpPool => {}
            ResourceKind::AccessList => {
                for list in [&old.access_lists, &new.access_lists] {
                    if let Some(list) = list.get(&id.name) {
                        let place = (list.interface.as_str().into(), list.direction);
                        self.access
                            .entry(place)
                            .or_default()
                            .insert(id.name.clone());
                    }
                }
            }
        }
    }
}

impl Index {
    /// Brings everything up to date with a state. After an error the index is of no use.
    pub(super) fn update(
        &mut self,
        state: &PolicyState,
        node: Option<&str>,
        tables: &mut SetTables,
        reasons: &mut Reasons,
    ) -> Result<CompiledPolicy, SetsError> {
        if self.node.as_deref() != node {
            *self = Self {
                node: node.map(Into::into),
                ..Self::default()
            };
        }
        self.sets.begin();
        let changed = Changed::between(&self.state, state);
        self.state = state.clone();

        let mut touched = Touched::default();
        let mut dirty = BTreeSet::new();
        let items = self.change_items(state, &changed, &mut dirty, &mut touched);
        self.change_plan(state, &changed, &mut dirty);
        let gone: Vec<ItemId> = dirty
            .iter()
            .filter(|id| !self.endpoints.contains_key(*id))
            .cloned()
            .collect();
        self.assign(state, &dirty, reasons);

        let members = self.sets.change(&items, changed.slices, &self.items, state);
        let learnt = if self.in_step {
            tables.change(&members.addresses, &members.ip_ports)?
        } else {
            tables.update(&self.sets.members())?
        };
        self.in_step = true;
        let programs = self.programs.compile(&learnt, &self.plan, reasons);
        self.finish(dirty, &gone, &programs, &mut touched);
        self.change_access(state, &changed, reasons, &mut touched);
        Ok(self.compiled(learnt, touched))
    }

    /// What has changed about items, and endpoints of this node whose programs may be others.
    fn change_items(
        &mut self,
        state: &PolicyState,
        changed: &Changed,
        dirty: &mut BTreeSet<ItemId>,
        touched: &mut Touched,
    ) -> Vec<ItemChange> {
        let mut changes = Vec::new();
        for id in &changed.items {
            self.change_interface(state, id, touched);
            let new = Item::of(state, id);
            let old = self.items.remove(id);
            if let Some(new) = &new {
                self.items.insert(id.clone(), new.clone());
            }
            let relabelled = match (&old, &new) {
                (Some(old), Some(new)) => old.labels != new.labels,
                _ => true,
            };
            self.change_endpoint(state, id, relabelled, dirty);
            if old != new {
                changes.push(ItemChange { old, new });
            }
        }
        changes
    }

    /// Which interface leads to a workload.
    fn change_interface(&mut self, state: &PolicyState, id: &ItemId, touched: &mut Touched) {
        let name = match id {
            ItemId::Workload(name) => name,
            // Which interfaces it speaks for depends on others, too.
            ItemId::Host(_) => {
                touched.all = true;
                return;
            }
            ItemId::NetworkSet(_) | ItemId::GlobalNetworkSet(_) => return,
        };
        let here = |node: &str| self.node.as_deref().is_none_or(|own| own == node);
        let now = state.workload_endpoints.get(name);
        let now = now.filter(|workload| here(&workload.node));
        let now = now.map(|workload| &workload.interface);
        let before = self.endpoints.get(id).map(|endpoint| &endpoint.interface);
        touched.names.extend(before.into_iter().chain(now).cloned());
        if before == now {
            return;
        }
        let by_interface = Arc::make_mut(&mut self.by_interface);
        if let Some(before) = before
            && let Some(names) = by_interface.get_mut(before)
        {
            names.remove(name);
            if names.is_empty() {
                by_interface.remove(before);
            }
        }
        if let Some(now) = now {
            by_interface
                .entry(now.clone())
                .or_default()
                .insert(name.clone());
        }
    }

    fn change_endpoint(
        &mut self,
        state: &PolicyState,
        id: &ItemId,
        relabelled: bool,
        dirty: &mut BTreeSet<ItemId>,
    ) {
        let (owner, now) = match id {
            ItemId::Workload(name) => {
                let workload = state.workload_endpoints.get(name);
                let now = workload
                    .map(|workload| (&workload.node, &workload.interface, &workload.profiles));
                (Owner::Workload, now)
            }
            ItemId::Host(name) => {
                let host = state.host_endpoints.get(name);
                let now = host.map(|host| (&host.node, &host.interface, &host.profiles));
                (Owner::Host, now)
            }
            ItemId::NetworkSet(_) | ItemId::GlobalNetworkSet(_) => return,
        };
        let here = |node: &str| self.node.as_deref().is_none_or(|own| own == node);
        let Some((node, interface, profiles)) = now.filter(|(node, ..)| here(node)) else {
            if let Some(gone) = self.endpoints.remove(id) {
                if let Some(programs) = gone.programs {
                    programs
                        .all()
                        .for_each(|program| forget_user(&mut self.users, program, id));
                    programs.release(&mut self.programs, &mut self.sets);
                }
                dirty.insert(id.clone());
            }
            return;
        };
        let known = self.endpoints.get_mut(id);
        if let Some(known) = known
            && !relabelled
        {
            known.interface.clone_from(interface);
            if known.node != *node || known.profiles != *profiles {
                known.node.clone_from(node);
                known.profiles.clone_from(profiles);
                dirty.insert(id.clone());
            }
            return;
        }
        let item = self.items.get(id);
        let applying = item.map(|item| self.plan.applying(&item.labels));
        let applying = applying.unwrap_or_default();
        let before = self.endpoints.remove(id);
        let same = before.as_ref().is_some_and(|before| {
            before.applying == applying && before.node == *node && before.profiles == *profiles
        });
        if !same {
            dirty.insert(id.clone());
        }
        let owned = Owned {
            owner,
            node: node.clone(),
            interface: interface.clone(),
            profiles: profiles.clone(),
            applying,
            programs: before.as_ref().and_then(|before| before.programs),
            drops_to_host: before.is_some_and(|before| before.drops_to_host),
        };
        self.endpoints.insert(id.clone(), owned);
    }

    /// Policies, tiers, profiles and settings.
    fn change_plan(
        &mut self,
        state: &PolicyState,
        changed: &Changed,
        dirty: &mut BTreeSet<ItemId>,
    ) {
        let changes = self.plan.change_policies(state, &changed.policies);
        let endpoints = (!changes.is_empty()).then_some(&mut self.endpoints);
        for (id, endpoint) in endpoints.into_iter().flatten() {
            let Some(item) = self.items.get(id) else {
                continue;
            };
            let mut touched = false;
            for change in &changes {
                if let Some(old) = change.old {
                    touched |= endpoint.applying.remove(&old);
                }
                if let Some(new) = change.new
                    && let Some(policy) = self.plan.policy(new)
                    && policy.resolved.selector.matches(&item.labels)
                {
                    touched = true;
                    endpoint.applying.insert(new);
                }
            }
            if touched {
                dirty.insert(id.clone());
            }
        }
        let mut all = changed.settings || changed.profiles;
        if changed.tiers || !changed.policies.is_empty() {
            all |= self.plan.put_in_order(state);
        }
        if changed.profiles {
            self.plan.change_profiles(state);
        }
        if changed.settings {
            self.plan.forget_settings();
        }
        if all {
            dirty.extend(self.endpoints.keys().cloned());
        }
    }

    /// Gives endpoints the programs that they have now.
    fn assign(&mut self, state: &PolicyState, dirty: &BTreeSet<ItemId>, reasons: &mut Reasons) {
        let mut old = Vec::new();
        for id in dirty {
            let Some(endpoint) = self.endpoints.get_mut(id) else {
                continue;
            };
            let felix = self.plan.settings(state, &endpoint.node);
            let profiles: Vec<u32> = endpoint
                .profiles
                .iter()
                .map(|name| self.plan.profile(state, name))
                .collect();
            let felix_settings = self.plan.felix(felix);
            endpoint.drops_to_host =
                felix_settings.is_some_and(|felix| felix.endpoint_to_host == EndpointToHost::Drop);
            let keys = |staged| ListKeys::new(&self.plan, endpoint, &profiles, felix, staged);
            let (enforced, staged) = (keys(false), keys(true));
            let mut source = Source {
                plan: &self.plan,
                sets: &mut self.sets,
                reasons,
            };
            let mut acquire =
                |keys: &ListKeys| keys.each(|key| self.programs.acquire(key, &mut source));
            let now = Numbers {
                enforced: acquire(&enforced),
                staged: (staged != enforced).then(|| acquire(&staged)),
            };
            let before = endpoint.programs.replace(now);
            before
                .iter()
                .flat_map(Numbers::all)
                .for_each(|program| forget_user(&mut self.users, program, id));
            for program in now.all() {
                self.users.entry(program).or_default().insert(id.clone());
            }
            old.extend(before);
        }
        // Behind all that is new, so that nothing goes that stays in use.
        for numbers in old {
            numbers.release(&mut self.programs, &mut self.sets);
        }
    }

    /// Endpoints with what was compiled.
    fn finish(
        &mut self,
        mut dirty: BTreeSet<ItemId>,
        gone: &[ItemId],
        programs: &BTreeSet<u32>,
        touched: &mut Touched,
    ) {
        let workloads = Arc::make_mut(&mut self.workloads);
        let hosts = Arc::make_mut(&mut self.hosts);
        for id in gone {
            match id {
                ItemId::Workload(name) => drop(workloads.remove(name)),
                ItemId::Host(name) => drop(hosts.remove(name)),
                ItemId::NetworkSet(_) | ItemId::GlobalNetworkSet(_) => {}
            }
        }
        let users = programs
            .iter()
            .filter_map(|program| self.users.get(program));
        dirty.extend(users.flatten().cloned());
        for id in &dirty {
            let Some(endpoint) = self.endpoints.get(id) else {
                continue;
            };
            let Some(numbers) = &endpoint.programs else {
                continue;
            };
            let lists = |numbers: &ListNumbers| numbers.lists(&self.programs);
            let compiled = Endpoint {
                lists: lists(&numbers.enforced),
                staged: numbers.staged.as_ref().map(lists),
                drops_to_host: endpoint.drops_to_host,
            };
            match id {
                ItemId::Workload(name) => {
                    touched.names.insert(endpoint.interface.clone());
                    workloads.insert(name.clone(), compiled);
                }
                ItemId::Host(name) => {
                    touched.all = true;
                    hosts.insert(name.clone(), compiled);
                }
                ItemId::NetworkSet(_) | ItemId::GlobalNetworkSet(_) => {}
            }
        }
    }

    fn change_access(
        &mut self,
        state: &PolicyState,
        changed: &Changed,
        reasons: &mut Reasons,
        touched: &mut Touched,
    ) {
        let mut programs: Vec<_> = self
            .access
            .adopt()
            .into_iter()
            .map(|(interface, direction, program)| (interface, direction, Some(program)))
            .collect();
        for ((interface, direction), names) in &changed.access {
            let access = &mut self.access;
            let program = access.change(state, interface, *direction, names, reasons);
            programs.push((interface.clone(), *direction, program));
        }
        if programs.is_empty() {
            return;
        }
        let all = Arc::make_mut(&mut self.access_programs);
        for (interface, direction, program) in programs {
            let at = match direction {
                AccessDirection::Input => graph_nodes::policy::INPUT,
                AccessDirection::Output => graph_nodes::policy::OUTPUT,
            };
            touched.names.insert(interface.clone());
            all.entry(interface).or_default()[at] = program;
        }
        all.retain(|_, programs| programs.iter().any(Option::is_some));
    }

    fn compiled(&self, learnt: Learnt, touched: Touched) -> CompiledPolicy {
        CompiledPolicy {
            sets: learnt.sets,
            workloads: Arc::clone(&self.workloads),
            hosts: Arc::clone(&self.hosts),
            access: Arc::clone(&self.access_programs),
            by_interface: Arc::clone(&self.by_interface),
            touched,
            programs: self.programs.len(),
        }
    }

    /// Whether compiling the same state again would give faster programs.
    pub(super) fn is_outdated(&mut self) -> bool {
        self.programs.is_outdated() | self.access.is_outdated()
    }

    /// What is in all sets, by what they are.
    pub(super) fn members(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.sets.by_meaning()
    }
}

impl ListKeys {
    fn new(plan: &Plan, endpoint: &Owned, profiles: &[u32], felix: u32, staged: bool) -> Self {
        let owner = endpoint.owner;
        let key = |list, direction| ProgramKey {
            owner,
            list,
            direction,
            tiers: plan.select(&endpoint.applying, list, direction, staged),
            profiles: if list == List::Normal {
                profiles.to_vec()
            } else {
                Vec::new()
            },
            felix,
        };
        // A list without policies does not judge.
        let optional = |list, direction| {
            (owner == Owner::Host)
                .then(|| key(list, direction))
                .filter(|key| !key.tiers.is_empty())
        };
        let both = [Direction::Ingress, Direction::Egress];
        Self {
            normal: both.map(|direction| key(List::Normal, direction)),
            forward: both.map(|direction| optional(List::Forward, direction)),
            pre_dnat: optional(List::PreDnat, Direction::Ingress),
            untracked: both.map(|direction| optional(List::Untracked, direction)),
        }
    }

    fn each(&self, mut number: impl FnMut(&ProgramKey) -> u32) -> ListNumbers {
        let normal = [number(&self.normal[INGRESS]), number(&self.normal[EGRESS])];
        let mut optional = |key: &Option<ProgramKey>| key.as_ref().map(&mut number);
        ListNumbers {
            normal,
            forward: [
                optional(&self.forward[INGRESS]),
                optional(&self.forward[EGRESS]),
            ],
            pre_dnat: optional(&self.pre_dnat),
            untracked: [
                optional(&self.untracked[INGRESS]),
                optional(&self.untracked[EGRESS]),
            ],
        }
    }
}

impl Numbers {
    fn all(&self) -> impl Iterator<Item = u32> {
        let staged = self.staged.iter().flat_map(ListNumbers::all);
        self.enforced.all().chain(staged)
    }

    fn release(&self, programs: &mut Programs, sets: &mut Sets) {
        for number in self.all() {
            programs.release(number, sets);
        }
    }
}

fn forget_user(users: &mut HashMap<u32, BTreeSet<ItemId>>, program: u32, id: &ItemId) {
    if let Some(of_program) = users.get_mut(&program) {
        of_program.remove(id);
        if of_program.is_empty() {
            users.remove(&program);
        }
    }
}

impl ListNumbers {
    fn all(&self) -> impl Iterator<Item = u32> {
        let optional = self.forward.iter().chain(&self.untracked).flatten();
        self.normal
            .iter()
            .chain(optional)
            .chain(&self.pre_dnat)
            .copied()
    }

    fn lists(&self, programs: &Programs) -> Lists {
        let program = |number: Option<u32>| number.and_then(|number| programs.get(number));
        Lists {
            normal: self.normal.map(|number| programs.get(number)),
            forward: self.forward.map(program),
            pre_dnat: program(self.pre_dnat),
            untracked: self.untracked.map(program),
        }
    }
}
