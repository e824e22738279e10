//! Which policies judge which endpoint, in which list and order: what programs are made of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use model::policy::resolve::ResolvedPolicy;
use model::policy::{
    Direction, EndOfTier, Felix, Labels, Policy, PolicyId, PolicyKind, PolicyState, Profile,
    StagedAction,
};

use super::finder::Finder;

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
    /// By number, with the policies of each, by number.
    pub(super) tiers: Vec<(u32, Vec<u32>)>,
    /// Of a normal list, by number.
    pub(super) profiles: Vec<u32>,
    /// The node's settings, by number.
    pub(super) felix: u32,
}

/// A policy, and where it counts.
#[derive(Debug)]
pub(super) struct PlannedPolicy {
    pub(super) resolved: ResolvedPolicy,
    lists: [bool; 4],
    /// In what is enforced.
    enforced: bool,
    /// In what staged policies would make of it.
    staged: bool,
}

const LISTS: [List; 4] = [List::Untracked, List::PreDnat, List::Normal, List::Forward];

/// All tiers, policies, profiles and settings, each with a number for what it says: whoever says the same has the same number, and
/// what changes gets another.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Names and ends of tiers, by number.
    tiers: Vec<(Box<str>, EndOfTier)>,
    /// Numbers of the tiers, in order.
    order: Vec<u32>,
    felix: Vec<Felix>,
    nodes: HashMap<Box<str>, u32>,
    profiles: HashMap<Box<str>, u32>,
    /// By number: the name, and what there is by it.
    profile_rules: HashMap<u32, (Box<str>, Option<Profile>)>,
    policies: HashMap<PolicyId, u32>,
    planned: HashMap<u32, PlannedPolicy>,
    /// By what policies select.
    finder: Finder,
    /// Where each policy stands.
    places: HashMap<u32, Place>,
    next: u32,
}

/// Where a policy stands among all: compares as they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    tier: usize,
    policy: usize,
    number: u32,
}

/// A policy that was, is, or both, by number.
pub(super) struct PolicyChange {
    pub(super) old: Option<u32>,
    pub(super) new: Option<u32>,
}

impl Plan {
    /// Takes note of policies that may have changed.
    pub(super) fn change_policies(
        &mut self,
        state: &PolicyState,
        changed: &BTreeSet<PolicyId>,
    ) -> Vec<PolicyChange> {
        let change = |id| {
            let old = self.policies.remove(id);
            if let Some(old) = old
                && let Some(planned) = self.planned.remove(&old)
            {
                self.finder.remove(&planned.resolved.selector, old);
            }
            let policy = state.policies.get(id);
            let new = policy.map(|policy| {
                let number = self.next;
                self.next += 1;
                let planned = PlannedPolicy::new(state, id, policy);
                self.finder.insert(&planned.resolved.selector, number);
                self.planned.insert(number, planned);
                self.policies.insert(id.clone(), number);
                number
            });
            PolicyChange { old, new }
        };
        changed.iter().map(change).collect()
    }

    /// Puts tiers and policies in order. Whether tiers have changed.
    pub(super) fn put_in_order(&mut self, state: &PolicyState) -> bool {
        let mut of_tier: HashMap<&str, Vec<(&PolicyId, &Arc<Policy>)>> = HashMap::new();
        for (id, policy) in &state.policies {
            of_tier.entry(&policy.tier).or_default().push((id, policy));
        }
        let mut order = Vec::new();
        self.places.clear();
        for (tier, (name, declared)) in state.tiers_in_order().into_iter().enumerate() {
            let mut policies = of_tier.remove(&*name).unwrap_or_default();
            PolicyState::put_in_order(&mut policies);
            let number = self.tier_number(name, declared.default_action);
            order.push(number);
            for (policy, (id, _)) in policies.into_iter().enumerate() {
                if let Some(planned) = self.policies.get(id) {
                    let place = Place {
                        tier,
                        policy,
                        number,
                    };
                    self.places.insert(*planned, place);
                }
            }
        }
        let changed = order != self.order;
        self.order = order;
        changed
    }

    fn tier_number(&mut self, name: Box<str>, end: EndOfTier) -> u32 {
        let tier = (name, end);
        let known = self.tiers.iter().position(|known| *known == tier);
        let number = known.unwrap_or_else(|| {
            self.tiers.push(tier);
            self.tiers.len() - 1
        });
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    /// Forgets which node has which settings.
    pub(super) fn forget_settings(&mut self) {
        self.nodes.clear();
    }

    /// The number of a node's settings.
    pub(super) fn settings(&mut self, state: &PolicyState, node: &str) -> u32 {
        if let Some(number) = self.nodes.get(node) {
            return *number;
        }
        let felix = state.felix_of(node);
        let known = self.felix.iter().position(|known| *known == felix);
        let number = known.unwrap_or_else(|| {
            self.felix.push(felix);
            self.felix.len() - 1
        });
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        self.nodes.insert(node.into(), number);
        number
    }

    /// Takes note that profiles may have changed.
    pub(super) fn change_profiles(&mut self, state: &PolicyState) {
        let Self {
            profiles,
            profile_rules,
            next,
            ..
        } = self;
        for (name, number) in profiles {
            let profile = state.profile(name);
            if profile_rules.get(number).map(|(_, known)| known) != Some(&profile) {
                profile_rules.remove(number);
                *number = *next;
                *next += 1;
                profile_rules.insert(*number, (name.clone(), profile));
            }
        }
    }

    /// The number of a profile, whether it exists or not.
    pub(super) fn profile(&mut self, state: &PolicyState, name: &str) -> u32 {
        if let Some(number) = self.profiles.get(name) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.profiles.insert(name.into(), number);
        self.profile_rules
            .insert(number, (name.into(), state.profile(name)));
        number
    }

    /// Name and end of a tier.
    pub(super) fn tier(&self, number: u32) -> Option<&(Box<str>, EndOfTier)> {
        self.tiers.get(number as usize)
    }

    /// Settings by number.
    pub(super) fn felix(&self, number: u32) -> Option<&Felix> {
        self.felix.get(number as usize)
    }

    /// A policy by number.
    pub(super) fn policy(&self, number: u32) -> Option<&PlannedPolicy> {
        self.planned.get(&number)
    }

    /// The policies that apply to what has these labels, by number.
    pub(super) fn applying(&self, labels: &Labels) -> BTreeSet<u32> {
        let mut applying = BTreeSet::new();
        self.finder.candidates(labels, &mut applying);
        applying.retain(|number| {
            let policy = self.planned.get(number);
            policy.is_some_and(|policy| policy.resolved.selector.matches(labels))
        });
        applying
    }

    /// A profile by number: its name, and what there is by it.
    pub(super) fn profile_rules(&self, number: u32) -> Option<(&str, Option<&Profile>)> {
        let (name, profile) = self.profile_rules.get(&number)?;
        Some((name, profile.as_ref()))
    }

    /// The tiers of a list that judge an endpoint to which these policies apply: those with a policy in it, each with these policies,
    /// all in order.
    pub(super) fn select(
        &self,
        applying: &BTreeSet<u32>,
        list: List,
        direction: Direction,
        staged: bool,
    ) -> Vec<(u32, Vec<u32>)> {
        let counts = |number: &u32| {
            let policy = self.planned.get(number)?;
            let counts = if staged {
                policy.staged
            } else {
                policy.enforced
            };
            let is_in = counts && policy.is_in(list) && policy.resolved.types.has(direction);
            let place = self.places.get(number).filter(|_| is_in)?;
            Some((*place, *number))
        };
        let mut all: Vec<(Place, u32)> = applying.iter().filter_map(counts).collect();
        all.sort_unstable();
        let mut tiers: Vec<(u32, Vec<u32>)> = Vec::new();
        for (place, policy) in all {
            match tiers.last_mut().filter(|(tier, _)| *tier == place.number) {
                Some((_, policies)) => policies.push(policy),
                None => tiers.push((place.number, vec![policy])),
            }
        }
        tiers
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

/// The policy that a staged one of the id would replace, and so would be counted or not by it.
pub(super) fn replaced_by(id: &PolicyId) -> Option<PolicyId> {
    let kind = id.kind.enforced().filter(|kind| *kind != id.kind)?;
    Some(PolicyId { kind, ..id.clone() })
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
