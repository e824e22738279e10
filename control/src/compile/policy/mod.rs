//! Policy: from the objects to programs and sets, the same for the dataplane and for those who ask what it would do.
//!
//! 1. The plan says which policies judge which endpoint, in which list and order.
//! 2. Rules are lowered to what the classifier takes; the selectors, named ports and services that they name become
//!    sets with numbers.
//! 3. The members of the sets go into the tables (`SetTables`), which say what each class of addresses is in.
//! 4. Programs are compiled with these classes: a stage for each tier, one for the profiles, one in front for what policies have no say
//!    in. Endpoints with the same policies share them.
//!
//! All of it is remembered, and done again only for what has changed: the module `index` says how. What comes out is what a compilation from
//! nothing gives (`control/tests/policy.rs`).

mod finder;
mod index;
mod interfaces;
mod judge;
mod long;
mod plan;
mod programs;
mod reasons;
mod rules;
mod sets;
mod shared;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph_nodes::policy::{AccessProgram, Lists, Sets};
use model::policy::reference::EndpointId;
use model::policy::{NamespacedName, PolicyState};

pub use interfaces::{InterfaceList, PolicyInterface, settings};
pub use judge::{AccessJudged, Judged, Verdict};
pub use reasons::{
    Cause, ENCAPSULATION, ENDPOINT_TO_HOST, FAILSAFE, FROM_HOST, NEIGHBOUR_DISCOVERY, NO_ENDPOINT,
    NO_FORWARD_POLICY, NO_MATCH, Reasons,
};

use index::Index;
use tables::SetTables;

/// What is remembered from compilation to compilation.
#[derive(Debug)]
pub struct PolicyCompiler {
    /// What the numbers of rules stand for.
    pub reasons: Reasons,
    tables: SetTables,
    index: Index,
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

/// By interface: on its input, and on its output.
pub type AccessPrograms = BTreeMap<Box<str>, [Option<Arc<AccessProgram>>; 2]>;

/// Interfaces, by what a compilation changed about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// All: something about host endpoints, which may speak for any interface.
    pub all: bool,
    /// These, by name, and no other if not all.
    pub names: BTreeSet<Box<str>>,
}

/// A state, compiled.
#[derive(Clone, Debug)]
pub struct CompiledPolicy {
    /// The sets that rules refer to.
    pub sets: Sets,
    /// By name.
    pub workloads: Arc<BTreeMap<NamespacedName, Endpoint>>,
    /// By name.
    pub hosts: Arc<BTreeMap<Box<str>, Endpoint>>,
    /// By interface: on its input, and on its output.
    pub access: Arc<AccessPrograms>,
    /// Workloads by the interface that leads to them.
    by_interface: Arc<index::ByInterface>,
    /// Where interfaces may have another policy than after the compilation before.
    pub touched: Touched,
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
            tables: SetTables::new()?,
            index: Index::default(),
        })
    }

    /// Compiles a state: all of its endpoints, or those of one node. Its sets hold what all endpoints have, wherever they are.
    ///
    /// What was compiled before is used again. Beyond a look at every 64th object's address, the cost is that of what is different: for the labels of
    /// an endpoint the selectors of policies and sets that may match, and the programs whose sets it enters; for a policy its rules and the labels
    /// of all endpoints.
    ///
    /// # Errors
    ///
    /// The sets do not fit. What was compiled before stays as it was; the next compilation begins from nothing.
    pub fn compile(
        &mut self,
        state: &PolicyState,
        node: Option<&str>,
    ) -> Result<CompiledPolicy, PolicyError> {
        let Self {
            reasons,
            tables,
            index,
        } = self;
        let compiled = index.update(state, node, tables, reasons);
        if compiled.is_err() {
            *index = Index::default();
        }
        Ok(compiled?)
    }

    /// Whether long lists have been compiled anew in the background since: compiling the same state again takes them up, and makes lookups
    /// faster, not different.
    pub fn is_outdated(&mut self) -> bool {
        self.index.is_outdated()
    }

    /// What is in each set in use, by what the set is: for people and tests.
    pub fn members(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.index.members()
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
