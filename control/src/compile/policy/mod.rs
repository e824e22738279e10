//! Policy: from the objects to programs and sets, the same for the dataplane and for those who ask what it would do.
//!
//! 1. The plan says which policies judge which endpoint, in which list and order.
//! 2. Rules are lowered to what the classifier takes; the selectors, named ports and services that they name become
//!    sets with numbers.
//! 3. The members of the sets go into the [tables](SetTables), which say what each class of addresses is in.
//! 4. Programs are compiled with these classes: a stage for each tier, one for the profiles, one in front for what policies have no say
//!    in. Endpoints with the same policies share them.
//!
//! Steps 1, 2 and 4 depend on the state alone; only the tables remember what was in them.

mod interfaces;
mod judge;
mod plan;
mod programs;
mod reasons;
mod rules;
mod sets;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph_nodes::policy::{AccessProgram, EGRESS, INGRESS, Lists, Sets};
use model::policy::reference::EndpointId;
use model::policy::{
    AccessDirection, Direction, EndpointToHost, Felix, Labels, NamespacedName, PolicyState,
};

pub use interfaces::{PolicyInterface, settings};
pub use judge::{AccessJudged, Judged, Verdict};
pub use reasons::{
    Cause, ENCAPSULATION, ENDPOINT_TO_HOST, FAILSAFE, FROM_HOST, NEIGHBOUR_DISCOVERY, NO_ENDPOINT,
    NO_FORWARD_POLICY, NO_MATCH, Reasons,
};
pub use sets::{Members, SetNumbering};
pub use tables::SetTables;

use plan::{Applying, List, Owner, Plan, ProgramKey};
use programs::{LoweredRules, Programs};

/// What is remembered from compilation to compilation.
#[derive(Debug)]
pub struct PolicyCompiler {
    /// What the numbers of rules stand for.
    pub reasons: Reasons,
    numbering: SetNumbering,
    tables: SetTables,
}

/// Why a state cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The tables cannot be made.
    #[error("no memory for the tables of address sets: {0}")]
    Memory(#[from] std::io::Error),
    /// The sets that policies need do not fit.
    #[error("the address sets of the policies do not fit: {0}")]
    Sets(#[from] ::tables::address_sets::SetsError),
}

/// An endpoint's policy, compiled.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// What is enforced.
    pub lists: Lists,
    /// What staged policies would make of it, where that is not the same.
    pub staged: Option<Lists>,
    /// Whether a workload's packets to its own host are dropped behind what its policy allows.
    pub drops_to_host: bool,
}

/// A state, compiled.
#[derive(Clone, Debug)]
pub struct CompiledPolicy {
    /// The sets that rules refer to.
    pub sets: Sets,
    /// By name.
    pub workloads: BTreeMap<NamespacedName, Endpoint>,
    /// By name.
    pub hosts: BTreeMap<Box<str>, Endpoint>,
    /// By interface: on its input, and on its output.
    pub access: BTreeMap<Box<str>, [Option<Arc<AccessProgram>>; 2]>,
    /// How many programs the endpoints share.
    pub programs: usize,
}

impl PolicyCompiler {
    /// Nothing compiled yet.
    ///
    /// # Errors
    ///
    /// The system refuses the address space of the tables.
    pub fn new() -> Result<Self, PolicyError> {
        Ok(Self {
            reasons: Reasons::default(),
            numbering: SetNumbering::default(),
            tables: SetTables::new()?,
        })
    }

    /// Compiles a state: all of its endpoints, or those of one node. Its sets hold what all endpoints have, wherever they are.
    ///
    /// # Errors
    ///
    /// The sets do not fit. What was compiled before stays as it was.
    pub fn compile(
        &mut self,
        state: &PolicyState,
        node: Option<&str>,
    ) -> Result<CompiledPolicy, PolicyError> {
        let mut plan = Plan::new(state);
        let drafts = Drafts::of(state, node, &mut plan);
        let mut numbering = self.numbering.clone();
        numbering.begin();
        let mut lowered = LoweredRules::default();
        for key in drafts.keys() {
            lowered.need(&mut plan, &mut numbering, key);
        }
        let sets = self.tables.update(Members::of(state, &numbering))?;
        self.numbering = numbering;
        let mut programs = Programs::new(&plan, &lowered, &sets.classes, &mut self.reasons);
        let workloads = finish(drafts.workloads, &plan, &mut programs);
        let hosts = finish(drafts.hosts, &plan, &mut programs);
        let count = programs.len();
        Ok(CompiledPolicy {
            workloads,
            hosts,
            access: access(state, &mut self.reasons),
            programs: count,
            sets,
        })
    }
}

impl CompiledPolicy {
    /// An endpoint's policy.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        match id {
            EndpointId::Workload(id) => self.workloads.get(id),
            EndpointId::Host(name) => self.hosts.get(name),
        }
    }
}

/// The programs of an endpoint, before they are compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ListKeys {
    normal: [ProgramKey; 2],
    /// Of a host.
    forward: [Option<ProgramKey>; 2],
    pre_dnat: Option<ProgramKey>,
    untracked: [Option<ProgramKey>; 2],
}

struct EndpointDraft {
    felix: usize,
    enforced: ListKeys,
    staged: ListKeys,
}

/// All endpoints, before their programs are compiled.
struct Drafts {
    workloads: BTreeMap<NamespacedName, EndpointDraft>,
    hosts: BTreeMap<Box<str>, EndpointDraft>,
}

impl Drafts {
    fn of(state: &PolicyState, node: Option<&str>, plan: &mut Plan<'_>) -> Self {
        let here = |other: &str| node.is_none_or(|node| node == other);
        let workloads = state.workload_endpoints.iter();
        let workloads = workloads
            .filter(|(_, workload)| here(&workload.node))
            .map(|(id, workload)| {
                let labels = state.labels_of_workload(workload).to_labels();
                let felix = plan.node(&workload.node);
                let draft =
                    EndpointDraft::new(plan, Owner::Workload, &labels, &workload.profiles, felix);
                (id.clone(), draft)
            })
            .collect();
        let hosts = state.host_endpoints.iter();
        let hosts = hosts
            .filter(|(_, host)| here(&host.node))
            .map(|(name, host)| {
                let labels = state.labels_of_host(host).to_labels();
                let felix = plan.node(&host.node);
                let draft = EndpointDraft::new(plan, Owner::Host, &labels, &host.profiles, felix);
                (name.clone(), draft)
            })
            .collect();
        Self { workloads, hosts }
    }

    fn keys(&self) -> impl Iterator<Item = &ProgramKey> {
        self.workloads
            .values()
            .chain(self.hosts.values())
            .flat_map(|draft| [&draft.enforced, &draft.staged])
            .flat_map(ListKeys::keys)
    }
}

impl EndpointDraft {
    fn new(
        plan: &Plan<'_>,
        owner: Owner,
        labels: &Labels,
        profiles: &[Box<str>],
        felix: usize,
    ) -> Self {
        let applying = plan.applying(labels);
        let keys = |staged| ListKeys::new(plan, owner, &applying, profiles, felix, staged);
        Self {
            felix,
            enforced: keys(false),
            staged: keys(true),
        }
    }
}

impl ListKeys {
    fn new(
        plan: &Plan<'_>,
        owner: Owner,
        applying: &Applying,
        profiles: &[Box<str>],
        felix: usize,
        staged: bool,
    ) -> Self {
        let key = |list, direction| ProgramKey {
            owner,
            list,
            direction,
            tiers: plan.select(applying, list, direction, staged),
            profiles: if list == List::Normal {
                profiles.to_vec()
            } else {
                Vec::new()
            },
            felix,
        };
        // A list without policies does not judge.
        let optional = |list, direction| {
            Some(key(list, direction)).filter(|key| owner == Owner::Host && !key.tiers.is_empty())
        };
        let both = [Direction::Ingress, Direction::Egress];
        Self {
            normal: both.map(|direction| key(List::Normal, direction)),
            forward: both.map(|direction| optional(List::Forward, direction)),
            pre_dnat: optional(List::PreDnat, Direction::Ingress),
            untracked: both.map(|direction| optional(List::Untracked, direction)),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &ProgramKey> {
        let forward = self.forward.iter().flatten();
        let untracked = self.untracked.iter().flatten();
        self.normal
            .iter()
            .chain(forward)
            .chain(&self.pre_dnat)
            .chain(untracked)
    }

    fn compile(&self, programs: &mut Programs<'_>) -> Lists {
        let mut program = |key: &Option<ProgramKey>| key.as_ref().map(|key| programs.program(key));
        Lists {
            forward: [
                program(&self.forward[INGRESS]),
                program(&self.forward[EGRESS]),
            ],
            pre_dnat: program(&self.pre_dnat),
            untracked: [
                program(&self.untracked[INGRESS]),
                program(&self.untracked[EGRESS]),
            ],
            normal: [
                Some(programs.program(&self.normal[INGRESS])),
                Some(programs.program(&self.normal[EGRESS])),
            ],
        }
    }
}

fn finish<K: Ord>(
    drafts: BTreeMap<K, EndpointDraft>,
    plan: &Plan<'_>,
    programs: &mut Programs<'_>,
) -> BTreeMap<K, Endpoint> {
    let compile = |draft: EndpointDraft| Endpoint {
        lists: draft.enforced.compile(programs),
        staged: (draft.staged != draft.enforced).then(|| draft.staged.compile(programs)),
        drops_to_host: drops_to_host(&plan.felix[draft.felix]),
    };
    let mut compile = compile;
    drafts
        .into_iter()
        .map(|(id, draft)| (id, compile(draft)))
        .collect()
}

fn drops_to_host(felix: &Felix) -> bool {
    felix.endpoint_to_host == EndpointToHost::Drop
}

fn access(
    state: &PolicyState,
    reasons: &mut Reasons,
) -> BTreeMap<Box<str>, [Option<Arc<AccessProgram>>; 2]> {
    let interfaces: BTreeSet<&str> = state
        .access_lists
        .values()
        .map(|list| list.interface.as_str())
        .collect();
    let mut program = |interface: &str, direction| {
        let lists = state.access_lists_of(interface, direction);
        let compiled = || programs::access(interface, direction, &lists, reasons);
        (!lists.is_empty()).then(compiled).map(Arc::new)
    };
    interfaces
        .into_iter()
        .map(|interface| {
            let both = [AccessDirection::Input, AccessDirection::Output];
            (
                interface.into(),
                both.map(|direction| program(interface, direction)),
            )
        })
        .collect()
}
