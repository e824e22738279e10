//! Programs: stages compiled once for all endpoints that share them, and again only when what they are made of changes.
//!
//! A program is made of stages, a stage of blocks: the lowered rules of one policy or profile in one direction. Keys say what each
//! is made of, by numbers that change with what they stand for, so that the same key means the same thing from compilation to
//! compilation.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use graph_nodes::policy::{
    AccessProgram, Decision, Judgement, LogRule, Outcome, Program, RuleId, Stage,
};
use model::policy::reference::{Reason, RuleRef};
use model::policy::resolve::ResolvedRule;
use model::policy::{
    AccessDirection, AccessList, Action, Direction, EndOfTier, FailsafePort, Felix, Order,
    PolicyId, PolicyState,
};
use tables::acl::{Classifier, Rule, SetClasses};

use super::long::{LONG, Long};
use super::plan::{List, Owner, Plan, ProgramKey};
use super::reasons::{self, Cause, Reasons};
use super::rules;
use super::sets::{AnySet, Asking, Sets};
use super::shared::Shared;
use super::tables::Learnt;

/// VXLAN's UDP port (RFC 7348 section 8).
const VXLAN: u16 = 4789;
const UDP: u8 = 17;
/// IP in IP (RFC 2003).
const IP_IN_IP: u8 = 4;

/// ICMPv6 types that hosts always take and send: router and neighbour solicitations and advertisements (RFC 4861 section 4).
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];

/// Lowered rules, each with what it does.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) entries: Vec<Entry>,
    /// Of an access list: numbers of its rules, by position.
    numbers: Vec<RuleId>,
    /// Of an access list: numbers of the rules whose flows are tracked.
    reflects: Vec<RuleId>,
    /// The sets that its rules refer to.
    asked: Vec<AnySet>,
    /// Their numbers.
    addresses: BTreeSet<u32>,
    ip_ports: BTreeSet<u32>,
}

/// A lowered rule.
#[derive(Debug)]
pub(super) enum Entry {
    Rule(Rule, Decision),
    /// Logs, and lets the search go on.
    Log(Rule, RuleId),
}

impl Block {
    fn add(&mut self, rule: Rule, outcome: Outcome, rule_id: RuleId) {
        let decision = Decision {
            outcome,
            rule: rule_id,
        };
        self.entries.push(Entry::Rule(rule, decision));
    }

    fn note_sets(&mut self) {
        for entry in &self.entries {
            let (Entry::Rule(rule, _) | Entry::Log(rule, _)) = entry;
            self.ip_ports.extend(&rule.services);
            for side in [&rule.source, &rule.destination] {
                self.addresses
                    .extend(side.all_of.iter().chain(&side.none_of));
                let ports = side.port_sets.iter().chain(&side.not_port_sets);
                self.ip_ports.extend(ports);
            }
        }
    }
}

/// What a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum BlockKey {
    /// By number.
    Policy(u32, Direction),
    /// By number.
    Profile(u32, Direction),
    Exceptions(Exceptions),
}

/// What policies have no say in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Exceptions {
    owner: Owner,
    list: List,
    direction: Direction,
    /// By number.
    felix: u32,
}

/// What a stage is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StageKey {
    blocks: Vec<BlockKey>,
    end: End,
}

/// What happens to what no rule of a stage matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Exceptions,
    Tier {
        tier: u32,
        direction: Direction,
        early: bool,
    },
    Profiles,
}

/// A stage, whatever its policies say at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lineage {
    policies: Vec<(PolicyId, Direction)>,
    end: End,
}

#[derive(Debug)]
struct StageEntry {
    blocks: Vec<u32>,
    /// Where it is long.
    lineage: Option<Lineage>,
    stage: Option<Stage>,
    /// The programs that it is part of.
    programs: BTreeSet<u32>,
}

#[derive(Debug)]
struct ProgramEntry {
    stages: Vec<u32>,
    end: Judgement,
    program: Option<Arc<Program>>,
}

/// What blocks are made from.
pub(super) struct Source<'a> {
    pub(super) plan: &'a Plan,
    pub(super) sets: &'a mut Sets,
    pub(super) reasons: &'a mut Reasons,
}

/// Stages by the sets that their rules refer to.
#[derive(Debug, Default)]
struct SetUsers {
    addresses: HashMap<u32, BTreeSet<u32>>,
    ip_ports: HashMap<u32, BTreeSet<u32>>,
}

impl SetUsers {
    fn add(&mut self, block: &Block, stage: u32) {
        for set in &block.addresses {
            self.addresses.entry(*set).or_default().insert(stage);
        }
        for set in &block.ip_ports {
            self.ip_ports.entry(*set).or_default().insert(stage);
        }
    }

    fn remove(&mut self, block: &Block, stage: u32) {
        for (users, sets) in [
            (&mut self.addresses, &block.addresses),
            (&mut self.ip_ports, &block.ip_ports),
        ] {
            for set in sets {
                if let Some(stages) = users.get_mut(set) {
                    stages.remove(&stage);
                    if stages.is_empty() {
                        users.remove(set);
                    }
                }
            }
        }
    }

    /// The stages that refer to sets that new classes are in.
    fn of(&self, learnt: &Learnt) -> BTreeSet<u32> {
        let addresses = learnt.addresses.iter();
        let addresses = addresses.filter_map(|set| self.addresses.get(set));
        let ip_ports = learnt.ip_ports.iter();
        let ip_ports = ip_ports.filter_map(|set| self.ip_ports.get(set));
        addresses.chain(ip_ports).flatten().copied().collect()
    }
}

/// All programs in use.
#[derive(Debug, Default)]
pub(super) struct Programs {
    blocks: Shared<BlockKey, Arc<Block>>,
    stages: Shared<StageKey, StageEntry>,
    programs: Shared<ProgramKey, ProgramEntry>,
    users: SetUsers,
    /// Stages and programs that were not compiled yet; some may be gone again.
    new_stages: BTreeSet<u32>,
    new_programs: BTreeSet<u32>,
    long: HashMap<Lineage, Long>,
}

impl Programs {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.programs.len()
    }

    /// The number of a key's program, for one more user. It is [compiled](Self::compile) when all sets are known.
    pub(super) fn acquire(&mut self, key: &ProgramKey, source: &mut Source<'_>) -> u32 {
        if let Some(number) = self.programs.acquire_known(key) {
            return number;
        }
        let keys = stage_keys(key, source.plan);
        let stages: Vec<u32> = keys
            .iter()
            .map(|key| self.acquire_stage(key, source))
            .collect();
        let number = self.programs.acquire(key, || ProgramEntry {
            stages: stages.clone(),
            end: end(key),
            program: None,
        });
        for stage in stages {
            if let Some((_, stage)) = self.stages.get_mut(stage) {
                stage.programs.insert(number);
            }
        }
        self.new_programs.insert(number);
        number
    }

    fn acquire_stage(&mut self, key: &StageKey, source: &mut Source<'_>) -> u32 {
        if let Some(number) = self.stages.acquire_known(key) {
            return number;
        }
        let keys = key.blocks.iter();
        let blocks: Vec<u32> = keys
            .map(|key| self.blocks.acquire(key, || Arc::new(source.block(*key))))
            .collect();
        let number = self.stages.acquire(key, || StageEntry {
            blocks: blocks.clone(),
            lineage: None,
            stage: None,
            programs: BTreeSet::new(),
        });
        for block in blocks.iter().filter_map(|block| self.blocks.get(*block)) {
            self.users.add(block, number);
        }
        self.new_stages.insert(number);
        number
    }

    /// One user less.
    pub(super) fn release(&mut self, program: u32, sets: &mut Sets) {
        let number = program;
        let Some(program) = self.programs.release(number) else {
            return;
        };
        for stage in program.stages {
            if let Some((_, stage)) = self.stages.get_mut(stage) {
                stage.programs.remove(&number);
            }
            let number = stage;
            let Some(stage) = self.stages.release(number) else {
                continue;
            };
            for block in &stage.blocks {
                if let Some(block) = self.blocks.get(*block) {
                    self.users.remove(block, number);
                }
            }
            for block in stage.blocks {
                if let Some(block) = self.blocks.release(block) {
                    sets.release(&block.asked);
                }
            }
        }
    }

    /// Compiles what is new, and what the classes of the sets change. Gives the programs that are not what they were.
    pub(super) fn compile(
        &mut self,
        learnt: &Learnt,
        plan: &Plan,
        reasons: &mut Reasons,
    ) -> BTreeSet<u32> {
        let Self {
            blocks,
            stages,
            programs,
            users,
            new_stages,
            new_programs,
            long,
        } = self;
        let classes = &learnt.sets.classes;
        let nothing = Arc::default();
        let adopted: HashSet<Lineage> = long
            .iter_mut()
            .filter_map(|(lineage, long)| long.adopt().then(|| lineage.clone()))
            .collect();
        let mut due = if learnt.renumbered {
            stages.iter().map(|(number, _)| number).collect()
        } else {
            users.of(learnt)
        };
        due.append(new_stages);
        if !adopted.is_empty() {
            let is_adopted = |(_, entry): &(u32, &StageEntry)| {
                entry
                    .lineage
                    .as_ref()
                    .is_some_and(|own| adopted.contains(own))
            };
            due.extend(stages.iter().filter(is_adopted).map(|(number, _)| number));
        }
        let mut stale = std::mem::take(new_programs);
        for number in due {
            let Some((key, entry)) = stages.get_mut(number) else {
                continue;
            };
            let list: Vec<Arc<Block>> = entry
                .blocks
                .iter()
                .filter_map(|block| blocks.get(*block).cloned())
                .collect();
            let with_sets = list
                .iter()
                .any(|block| !block.addresses.is_empty() || !block.ip_ports.is_empty());
            let renumbered = learnt.renumbered && with_sets;
            let is_adopted = |lineage: &Option<Lineage>| {
                lineage.as_ref().is_some_and(|own| adopted.contains(own))
            };
            if entry.stage.is_none() || renumbered {
                // Lists without sets must not keep classes alive that nobody else looks at.
                let sets = if with_sets { classes } else { &nothing };
                let end = key.end.decision(plan, reasons);
                entry.lineage = lineage(key, &list, plan);
                entry.stage = Some(match &entry.lineage {
                    None => short(&list, sets, end),
                    Some(lineage) => {
                        let known = long.remove(lineage).filter(|_| !renumbered);
                        let changed = known.and_then(|mut long| {
                            if with_sets {
                                long.extend(sets);
                            }
                            long.bring_to(list.clone()).ok().map(|()| long)
                        });
                        let now = changed.unwrap_or_else(|| Long::new(list, sets));
                        let stage = now.stage(end);
                        long.insert(lineage.clone(), now);
                        stage
                    }
                });
            } else if with_sets || is_adopted(&entry.lineage) {
                let known = entry
                    .lineage
                    .as_ref()
                    .and_then(|lineage| long.get_mut(lineage));
                match (known, &mut entry.stage) {
                    (Some(long), stage) => {
                        if with_sets {
                            long.extend(classes);
                        }
                        *stage = Some(long.stage(key.end.decision(plan, reasons)));
                    }
                    (None, Some(stage)) => stage.extend(classes),
                    (None, None) => {}
                }
            } else {
                // Other numbers of classes mean nothing to it.
                continue;
            }
            stale.extend(&entry.programs);
        }
        if !long.is_empty() {
            let lineages: HashSet<&Lineage> = stages
                .iter()
                .filter_map(|(_, entry)| entry.lineage.as_ref())
                .collect();
            long.retain(|lineage, _| lineages.contains(lineage));
        }
        let stage = |number: &u32| stages.get(*number)?.stage.clone();
        stale.retain(|number| {
            let Some((_, entry)) = programs.get_mut(*number) else {
                return false;
            };
            let stages = entry.stages.iter().filter_map(stage).collect();
            entry.program = Some(Arc::new(Program::new(stages, entry.end)));
            true
        });
        stale
    }

    /// A program by number, as it was last compiled.
    pub(super) fn get(&self, number: u32) -> Option<Arc<Program>> {
        self.programs.get(number)?.program.clone()
    }

    /// Whether lists were compiled anew in the background that the next compilation would take up.
    pub(super) fn is_outdated(&mut self) -> bool {
        // No `any`: each has to be asked, for each to take what its thread sends.
        let outdated = self
            .long
            .values_mut()
            .filter_map(|long| long.is_rebuilt().then_some(()));
        outdated.count() > 0
    }
}

/// The stages of a program, in order.
fn stage_keys(key: &ProgramKey, plan: &Plan) -> Vec<StageKey> {
    let (list, direction) = (key.list, key.direction);
    let mut stages = Vec::new();
    let exceptions = Exceptions {
        owner: key.owner,
        list,
        direction,
        felix: key.felix,
    };
    if !exceptions.block(plan).entries.is_empty() {
        stages.push(StageKey {
            blocks: vec![BlockKey::Exceptions(exceptions)],
            end: End::Exceptions,
        });
    }
    for (tier, policies) in &key.tiers {
        let policies = policies.iter();
        stages.push(StageKey {
            blocks: policies
                .map(|policy| BlockKey::Policy(*policy, direction))
                .collect(),
            end: End::Tier {
                tier: *tier,
                direction,
                early: list.is_early(),
            },
        });
    }
    if !key.profiles.is_empty() {
        let mut blocks = Vec::new();
        for profile in &key.profiles {
            blocks.push(BlockKey::Profile(*profile, direction));
            // One that does not exist denies everything.
            if !matches!(plan.profile_rules(*profile), Some((_, Some(_)))) {
                break;
            }
        }
        stages.push(StageKey {
            blocks,
            end: End::Profiles,
        });
    }
    stages
}

fn end(key: &ProgramKey) -> Judgement {
    match key.list {
        List::Untracked | List::PreDnat => Judgement::UNDECIDED,
        List::Forward => Judgement {
            allow: true,
            rule: reasons::NO_FORWARD_POLICY,
        },
        List::Normal => Judgement {
            allow: false,
            rule: reasons::NO_MATCH,
        },
    }
}

/// What a stage has in common with those before it, where it is long.
fn lineage(key: &StageKey, blocks: &[Arc<Block>], plan: &Plan) -> Option<Lineage> {
    let entries = blocks.iter().flat_map(|block| &block.entries);
    let logs = |entry| matches!(entry, &Entry::Log(..));
    if entries.clone().count() < LONG || entries.clone().any(logs) {
        return None;
    }
    let policy = |key: &BlockKey| match key {
        BlockKey::Policy(number, direction) => {
            Some((plan.policy(*number)?.resolved.id.clone(), *direction))
        }
        _ => None,
    };
    Some(Lineage {
        policies: key.blocks.iter().map(policy).collect::<Option<_>>()?,
        end: key.end,
    })
}

fn short(blocks: &[Arc<Block>], sets: &Arc<SetClasses>, end: Decision) -> Stage {
    let mut rules = Vec::new();
    let mut decisions = Vec::new();
    let mut logs = Vec::new();
    for entry in blocks.iter().flat_map(|block| &block.entries) {
        match entry {
            Entry::Rule(rule, decision) => {
                rules.push(rule.clone());
                decisions.push(*decision);
            }
            Entry::Log(rule, id) => logs.push(LogRule {
                // A list has at most 1024 rules in each of a bounded number of policies.
                before: u32::try_from(rules.len()).unwrap_or(u32::MAX),
                matches: rule.clone(),
                rule: *id,
            }),
        }
    }
    Stage::new(
        Classifier::compile(&rules, sets),
        Classifier::compile(&rules, sets),
        decisions,
        logs,
        end,
    )
}

impl End {
    fn decision(self, plan: &Plan, reasons: &mut Reasons) -> Decision {
        match self {
            Self::Exceptions => Decision {
                outcome: Outcome::Pass,
                rule: RuleId::NONE,
            },
            Self::Profiles => Decision {
                outcome: Outcome::Deny,
                rule: reasons::NO_MATCH,
            },
            Self::Tier {
                tier,
                direction,
                early,
            } => {
                let (name, end) = plan
                    .tier(tier)
                    .map_or(("", EndOfTier::Deny), |(name, end)| (name, *end));
                let reason = Reason::EndOfTier { tier: name.into() };
                Decision {
                    outcome: match end {
                        EndOfTier::Deny if !early => Outcome::Deny,
                        _ => Outcome::Pass,
                    },
                    rule: reasons.of_policy(reason, direction),
                }
            }
        }
    }
}

impl Source<'_> {
    fn block(&mut self, key: BlockKey) -> Block {
        let mut block = Block::default();
        match key {
            BlockKey::Exceptions(exceptions) => return exceptions.block(self.plan),
            BlockKey::Policy(number, direction) => {
                // All that keys name is planned.
                let Some(policy) = self.plan.policy(number) else {
                    return block;
                };
                let resolved = &policy.resolved;
                let reason = |rule| {
                    Reason::Rule(RuleRef {
                        tier: resolved.tier.clone(),
                        policy: resolved.id.clone(),
                        rule,
                    })
                };
                let rules = resolved.rules(direction).iter().enumerate();
                let rules: Vec<_> = rules.map(|(at, rule)| (rule.clone(), reason(at))).collect();
                self.lower(&mut block, rules, direction, false);
            }
            BlockKey::Profile(number, direction) => match self.plan.profile_rules(number) {
                Some((name, Some(profile))) => {
                    let reason = |rule| Reason::Profile {
                        profile: name.into(),
                        rule,
                    };
                    let rules = profile.rules(direction).iter().enumerate();
                    let rules = rules.map(|(at, rule)| (ResolvedRule::new(rule, None), reason(at)));
                    self.lower(&mut block, rules.collect(), direction, true);
                }
                missing => {
                    let reason = Reason::MissingProfile {
                        profile: missing.map_or("", |(name, _)| name).into(),
                    };
                    let number = self.reasons.of_policy(reason, direction);
                    block.add(Rule::default(), Outcome::Deny, number);
                }
            },
        }
        block.note_sets();
        block
    }

    /// Nothing comes behind the `last` rules that a packet could be passed to.
    fn lower(
        &mut self,
        block: &mut Block,
        rules: Vec<(ResolvedRule, Reason)>,
        direction: Direction,
        last: bool,
    ) {
        let mut sets = Asking::new(self.sets);
        for (rule, reason) in rules {
            let number = self.reasons.of_policy(reason, direction);
            for lowered in rules::lower(&rule, &mut sets) {
                match rule.action {
                    Action::Allow => block.add(lowered, Outcome::Allow, number),
                    Action::Pass if !last => block.add(lowered, Outcome::Pass, number),
                    Action::Deny | Action::Pass => block.add(lowered, Outcome::Deny, number),
                    Action::Log => block.entries.push(Entry::Log(lowered, number)),
                }
            }
        }
        block.asked = sets.into_asked();
    }
}

impl Exceptions {
    fn block(self, plan: &Plan) -> Block {
        match (self.owner, plan.felix(self.felix)) {
            (Owner::Host, Some(felix)) => host_exceptions(self, felix),
            (Owner::Workload, Some(felix)) => workload_exceptions(self, felix),
            (_, None) => Block::default(),
        }
    }
}

/// What hosts take and send whatever policies say. In an early list such packets are passed over, and the lists behind it still judge.
fn host_exceptions(of: Exceptions, felix: &Felix) -> Block {
    let mut block = Block::default();
    let early = of.list.is_early();
    let mut open = |rule: Rule, number| {
        let number = if early { RuleId::NONE } else { number };
        block.add(rule, Outcome::Allow, number);
    };
    for icmp_type in NEIGHBOUR_DISCOVERY {
        open(rules::icmp6(icmp_type), reasons::NEIGHBOUR_DISCOVERY);
    }
    if of.list == List::Forward {
        return block;
    }
    let incoming = of.direction == Direction::Ingress;
    let (opened, replies): (&[FailsafePort], _) = if incoming {
        (&felix.failsafe_inbound, &felix.failsafe_outbound)
    } else {
        (&felix.failsafe_outbound, &felix.failsafe_inbound)
    };
    for port in opened {
        open(rules::failsafe(port, incoming, false), reasons::FAILSAFE);
    }
    if of.list == List::Untracked {
        // Without tracking, replies have to be let through by their source port.
        for port in replies {
            open(rules::failsafe(port, incoming, true), reasons::FAILSAFE);
        }
    }
    block
}

/// What workloads may not send whatever policies say.
fn workload_exceptions(of: Exceptions, felix: &Felix) -> Block {
    let mut block = Block::default();
    if of.direction == Direction::Egress {
        let mut refuse = |rule| block.add(rule, Outcome::Deny, reasons::ENCAPSULATION);
        if !felix.vxlan_from_workloads {
            refuse(rules::protocol_and_port(UDP, Some(VXLAN)));
        }
        if !felix.ipip_from_workloads {
            refuse(rules::protocol_and_port(IP_IN_IP, None));
        }
    }
    block
}

/// The access lists of all interfaces and directions.
#[derive(Debug, Default)]
pub(super) struct Access {
    lists: HashMap<(Box<str>, AccessDirection), AccessEntry>,
}

#[derive(Debug)]
struct AccessEntry {
    /// First one first.
    lists: Vec<KnownList>,
    long: Option<Long>,
    end: Decision,
    reflects: Vec<RuleId>,
}

#[derive(Debug)]
struct KnownList {
    name: Box<str>,
    order: Option<Order>,
    block: Arc<Block>,
}

impl Access {
    /// Compiles what an interface has now, where the lists of these names may have changed. The others are not looked into.
    pub(super) fn change(
        &mut self,
        state: &PolicyState,
        interface: &str,
        direction: AccessDirection,
        names: &BTreeSet<Box<str>>,
        reasons: &mut Reasons,
    ) -> Option<Arc<AccessProgram>> {
        let key = (Box::from(interface), direction);
        let (mut lists, known) = match self.lists.remove(&key) {
            Some(before) => (before.lists, before.long),
            None => (Vec::new(), None),
        };
        let mut cause = |rule| {
            reasons.number(Cause::Access {
                interface: interface.into(),
                direction,
                rule,
            })
        };
        for name in names {
            let before = lists
                .iter()
                .position(|known| known.name == *name)
                .map(|at| lists.remove(at).block);
            let list = state
                .access_lists
                .get(name)
                .filter(|list| list.interface.as_str() == interface && list.direction == direction);
            let Some(list) = list else { continue };
            let numbers = before.as_ref().map_or(&[][..], |before| &before.numbers);
            let now = KnownList {
                name: name.clone(),
                order: list.order,
                block: Arc::new(access_block(name, list, numbers, &mut cause)),
            };
            // As in `PolicyState::access_lists_of`.
            let is_before = |other: &KnownList| {
                let by_order = Order::compare(other.order, now.order);
                by_order.then_with(|| other.name.cmp(&now.name)).is_lt()
            };
            lists.insert(lists.partition_point(is_before), now);
        }
        if lists.is_empty() {
            return None;
        }
        let end = Decision {
            outcome: Outcome::Deny,
            rule: cause(None),
        };
        let blocks: Vec<_> = lists.iter().map(|list| Arc::clone(&list.block)).collect();
        let mut reflects: Vec<RuleId> = blocks
            .iter()
            .flat_map(|block| block.reflects.iter().copied())
            .collect();
        reflects.sort_unstable();
        let rules: usize = blocks.iter().map(|block| block.entries.len()).sum();
        let long = (rules >= LONG).then(|| {
            let changed = known.and_then(|mut long| {
                long.adopt();
                long.bring_to(blocks.clone()).ok().map(|()| long)
            });
            changed.unwrap_or_else(|| Long::new(blocks.clone(), &Arc::default()))
        });
        let stage = match &long {
            Some(long) => long.stage(end),
            None => short(&blocks, &Arc::default(), end),
        };
        let entry = AccessEntry {
            lists,
            long,
            end,
            reflects,
        };
        let program = entry.program(stage);
        self.lists.insert(key, entry);
        Some(program)
    }

    /// Takes up lists that were compiled anew in the background.
    pub(super) fn adopt(&mut self) -> Vec<(Box<str>, AccessDirection, Arc<AccessProgram>)> {
        let mut changed = Vec::new();
        for ((interface, direction), entry) in &mut self.lists {
            if let Some(long) = &mut entry.long
                && long.adopt()
            {
                let stage = long.stage(entry.end);
                changed.push((interface.clone(), *direction, entry.program(stage)));
            }
        }
        changed
    }

    /// Whether there are such lists.
    pub(super) fn is_outdated(&mut self) -> bool {
        let long = self
            .lists
            .values_mut()
            .filter_map(|entry| entry.long.as_mut());
        long.filter_map(|long| long.is_rebuilt().then_some(()))
            .count()
            > 0
    }
}

impl AccessEntry {
    fn program(&self, stage: Stage) -> Arc<AccessProgram> {
        let end = Judgement {
            allow: false,
            rule: self.end.rule,
        };
        Arc::new(AccessProgram {
            program: Program::new(vec![stage], end),
            reflects: self.reflects.clone(),
        })
    }
}

/// `known` are numbers that rules of this list have, by position.
fn access_block(
    name: &str,
    list: &AccessList,
    known: &[RuleId],
    cause: &mut impl FnMut(Option<(Box<str>, usize)>) -> RuleId,
) -> Block {
    let mut block = Block::default();
    for (index, rule) in list.rules.iter().enumerate() {
        let number = match known.get(index) {
            Some(number) => *number,
            None => cause(Some((name.into(), index))),
        };
        block.numbers.push(number);
        let outcome = if rule.permit {
            Outcome::Allow
        } else {
            Outcome::Deny
        };
        for lowered in rules::lower_access(rule) {
            block.add(lowered, outcome, number);
        }
        if rule.reflect {
            block.reflects.push(number);
        }
    }
    block
}
