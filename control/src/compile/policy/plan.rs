//! Which policies judge which endpoint, in which list and order: what programs are made of.

use std::collections::HashMap;

use model::policy::resolve::{ResolvedPolicy, ResolvedRule};
use model::policy::{
    Direction, EndOfTier, Felix, Labels, Policy, PolicyId, PolicyKind, PolicyState, Profile,
    StagedAction,
};

/// Which of an endpoint's lists of policies. Workloads have the normal one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum List {
    /// Before tracking.
    Untracked,
    /// Before destination translation.
    PreDnat,
    /// To and from a workload, or the host itself.
    Normal,
    /// Through the host.
    Forward,
}

impl List {
    fn holds(self, policy: &Policy) -> bool {
        let early = policy.do_not_track || policy.pre_dnat;
        match self {
            Self::Untracked => policy.do_not_track,
            Self::PreDnat => policy.pre_dnat,
            Self::Normal => !early,
            Self::Forward => !early && policy.apply_on_forward,
        }
    }

    /// Whether it only picks out: what no rule of it matches goes on as if it were not there.
    pub(super) fn is_early(self) -> bool {
        matches!(self, Self::Untracked | Self::PreDnat)
    }
}

/// Whose list it is, as far as programs differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Workload,
    Host,
}

/// Everything that makes a program what it is: endpoints with the same share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProgramKey {
    pub(super) owner: Owner,
    pub(super) list: List,
    pub(super) direction: Direction,
    /// By index, with the policies of each, by index.
    pub(super) tiers: Vec<(usize, Vec<usize>)>,
    /// Of a normal list.
    pub(super) profiles: Vec<Box<str>>,
    /// The node's settings, by index.
    pub(super) felix: usize,
}

/// A tier, and its policies in order.
pub(super) struct PlannedTier {
    pub(super) name: Box<str>,
    pub(super) end: EndOfTier,
    pub(super) policies: Vec<PlannedPolicy>,
}

/// A policy, and where it counts.
pub(super) struct PlannedPolicy {
    pub(super) resolved: ResolvedPolicy,
    lists: [bool; 4],
    /// In what is enforced.
    enforced: bool,
    /// In what staged policies would make of it.
    staged: bool,
}

const LISTS: [List; 4] = [List::Untracked, List::PreDnat, List::Normal, List::Forward];

/// All tiers, all that endpoints refer to.
pub(super) struct Plan<'a> {
    state: &'a PolicyState,
    pub(super) tiers: Vec<PlannedTier>,
    pub(super) felix: Vec<Felix>,
    nodes: HashMap<Box<str>, usize>,
    profiles: HashMap<Box<str>, Option<Profile>>,
}

/// Which policies apply to an endpoint: by tier and policy.
pub(super) type Applying = Vec<Vec<bool>>;

impl<'a> Plan<'a> {
    pub(super) fn new(state: &'a PolicyState) -> Self {
        let tiers = state.tiers_in_order().into_iter().map(|(name, tier)| {
            let policies = state.policies_in_order(&name);
            PlannedTier {
                end: tier.default_action,
                policies: policies
                    .into_iter()
                    .map(|(id, policy)| PlannedPolicy::new(state, id, policy))
                    .collect(),
                name,
            }
        });
        Self {
            state,
            tiers: tiers.collect(),
            felix: Vec::new(),
            nodes: HashMap::new(),
            profiles: HashMap::new(),
        }
    }

    /// The settings of a node, by index. Nodes with the same settings have the same index.
    pub(super) fn node(&mut self, node: &str) -> usize {
        if let Some(index) = self.nodes.get(node) {
            return *index;
        }
        let felix = self.state.felix_of(node);
        let index = match self.felix.iter().position(|known| *known == felix) {
            Some(index) => index,
            None => {
                self.felix.push(felix);
                self.felix.len() - 1
            }
        };
        self.nodes.insert(node.into(), index);
        index
    }

    /// A profile; `None` for one that does not exist.
    pub(super) fn profile(&mut self, name: &str) -> Option<&Profile> {
        if !self.profiles.contains_key(name) {
            let profile = self.state.profile(name);
            self.profiles.insert(name.into(), profile);
        }
        self.profiles.get(name)?.as_ref()
    }

    /// Which policies apply to what has these labels.
    pub(super) fn applying(&self, labels: &Labels) -> Applying {
        let applies = |policy: &PlannedPolicy| policy.resolved.selector.matches(labels);
        self.tiers
            .iter()
            .map(|tier| tier.policies.iter().map(applies).collect())
            .collect()
    }

    /// The tiers of a list that judge an endpoint: those with a policy in it, each with these policies.
    pub(super) fn select(
        &self,
        applying: &Applying,
        list: List,
        direction: Direction,
        staged: bool,
    ) -> Vec<(usize, Vec<usize>)> {
        let tiers = self.tiers.iter().zip(applying).enumerate();
        tiers
            .map(|(index, (tier, applying))| {
                let policies = tier.policies.iter().zip(applying).enumerate();
                let mine = policies.filter(|(_, (policy, applies))| {
                    let counts = if staged {
                        policy.staged
                    } else {
                        policy.enforced
                    };
                    **applies
                        && counts
                        && policy.is_in(list)
                        && policy.resolved.types.has(direction)
                });
                (index, mine.map(|(index, _)| index).collect::<Vec<_>>())
            })
            .filter(|(_, policies)| !policies.is_empty())
            .collect()
    }

    /// The rules of a policy that a key names.
    pub(super) fn rules(
        &self,
        tier: usize,
        policy: usize,
        direction: Direction,
    ) -> &[ResolvedRule] {
        self.tiers[tier].policies[policy].resolved.rules(direction)
    }
}

impl PlannedPolicy {
    fn new(state: &PolicyState, id: &PolicyId, policy: &Policy) -> Self {
        Self {
            resolved: ResolvedPolicy::new(id, policy),
            lists: LISTS.map(|list| list.holds(policy)),
            enforced: !id.kind.is_staged(),
            staged: counts_staged(state, id, policy),
        }
    }

    fn is_in(&self, list: List) -> bool {
        LISTS
            .iter()
            .zip(self.lists)
            .any(|(known, holds)| *known == list && holds)
    }
}

/// Whether a policy counts where staged policies are taken as enforced: they themselves do, and what they do not replace or delete.
fn counts_staged(state: &PolicyState, id: &PolicyId, policy: &Policy) -> bool {
    if id.kind.is_staged() {
        return matches!(
            policy.staged_action,
            StagedAction::Set | StagedAction::Learn
        );
    }
    let staged = [
        PolicyKind::StagedGlobalNetworkPolicy,
        PolicyKind::StagedNetworkPolicy,
        PolicyKind::StagedKubernetesNetworkPolicy,
    ]
    .into_iter()
    .find(|kind| kind.enforced() == Some(id.kind));
    let replaced = staged.is_some_and(|kind| {
        let other = PolicyId { kind, ..id.clone() };
        state
            .policies
            .get(&other)
            .is_some_and(|other| other.staged_action != StagedAction::Ignore)
    });
    !replaced
}
