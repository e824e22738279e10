//! Programs: stages compiled once for all endpoints that share them.

use std::collections::HashMap;
use std::sync::Arc;

use graph_nodes::policy::{
    AccessProgram, Decision, Judgement, LogRule, Outcome, Program, RuleId, Stage,
};
use model::policy::reference::{Reason, RuleRef};
use model::policy::resolve::ResolvedRule;
use model::policy::{
    AccessDirection, AccessList, Action, Direction, EndOfTier, FailsafePort, Felix,
};
use tables::acl::{Classifier, Rule, SetClasses};

use super::plan::{List, Owner, Plan, ProgramKey};
use super::reasons::{self, Cause, Reasons};
use super::rules;
use super::sets::SetNumbering;

/// VXLAN's UDP port (RFC 7348 section 8).
const VXLAN: u16 = 4789;
const UDP: u8 = 17;
/// IP in IP (RFC 2003).
const IP_IN_IP: u8 = 4;

/// ICMPv6 types that hosts always take and send: router and neighbour solicitations and advertisements (RFC 4861 section 4).
const NEIGHBOUR_DISCOVERY: [u8; 4] = [133, 134, 135, 136];

/// A stage in the making: every rule with what it does.
#[derive(Default)]
struct Draft {
    rules: Vec<Rule>,
    decisions: Vec<Decision>,
    logs: Vec<LogRule>,
}

impl Draft {
    fn add(&mut self, rule: Rule, outcome: Outcome, id: RuleId) {
        self.rules.push(rule);
        self.decisions.push(Decision { outcome, rule: id });
    }

    fn log(&mut self, rule: Rule, id: RuleId) {
        self.logs.push(LogRule {
            // A list has at most 1024 rules in each of a bounded number of policies.
            before: u32::try_from(self.rules.len()).unwrap_or(u32::MAX),
            matches: rule,
            rule: id,
        });
    }

    fn finish(self, sets: &Arc<SetClasses>, outcome: Outcome, id: RuleId) -> Stage {
        Stage::new(
            Classifier::compile(&self.rules, sets),
            Classifier::compile(&self.rules, sets),
            self.decisions,
            self.logs,
            Decision { outcome, rule: id },
        )
    }
}

/// Rules of a policy or profile, lowered, by position.
pub(super) type Lowered = Vec<(Action, Vec<Rule>)>;

/// Lowered rules, from which programs are compiled when all sets are known.
#[derive(Default)]
pub(super) struct LoweredRules {
    /// By tier, policy and direction.
    policies: HashMap<(usize, usize, Direction), Lowered>,
    /// By name and direction; `None` for profiles that do not exist.
    profiles: HashMap<(Box<str>, Direction), Option<Lowered>>,
}

impl LoweredRules {
    /// Lowers the rules that a program needs, and asks for the numbers of their sets.
    pub(super) fn need(&mut self, plan: &mut Plan<'_>, sets: &mut SetNumbering, key: &ProgramKey) {
        let direction = key.direction;
        for (tier, policies) in &key.tiers {
            for policy in policies {
                self.policies
                    .entry((*tier, *policy, direction))
                    .or_insert_with(|| {
                        lower_all(plan.rules(*tier, *policy, direction).iter().cloned(), sets)
                    });
            }
        }
        for name in &key.profiles {
            let entry = (name.clone(), direction);
            if self.profiles.contains_key(&entry) {
                continue;
            }
            let lowered = plan.profile(name).map(|profile| {
                let rules = profile.rules(direction).iter();
                lower_all(rules.map(|rule| ResolvedRule::new(rule, None)), sets)
            });
            self.profiles.insert(entry, lowered);
        }
    }
}

fn lower_all(rules: impl Iterator<Item = ResolvedRule>, sets: &mut SetNumbering) -> Lowered {
    rules
        .map(|rule| (rule.action, rules::lower(&rule, sets)))
        .collect()
}

/// What a stage is made of.
#[derive(PartialEq, Eq, Hash)]
enum StageKey {
    Tier {
        tier: usize,
        policies: Vec<usize>,
        direction: Direction,
        early: bool,
    },
    Profiles(Vec<Box<str>>, Direction),
}

/// Compiles programs and shares what they have in common.
pub(super) struct Programs<'a> {
    plan: &'a Plan<'a>,
    lowered: &'a LoweredRules,
    sets: &'a Arc<SetClasses>,
    reasons: &'a mut Reasons,
    stages: HashMap<StageKey, Stage>,
    programs: HashMap<ProgramKey, Arc<Program>>,
}

impl<'a> Programs<'a> {
    pub(super) fn new(
        plan: &'a Plan<'a>,
        lowered: &'a LoweredRules,
        sets: &'a Arc<SetClasses>,
        reasons: &'a mut Reasons,
    ) -> Self {
        Self {
            plan,
            lowered,
            sets,
            reasons,
            stages: HashMap::new(),
            programs: HashMap::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.programs.len()
    }

    /// The program of a key.
    pub(super) fn program(&mut self, key: &ProgramKey) -> Arc<Program> {
        if let Some(program) = self.programs.get(key) {
            return Arc::clone(program);
        }
        let program = Arc::new(self.build(key));
        self.programs.insert(key.clone(), Arc::clone(&program));
        program
    }

    fn build(&mut self, key: &ProgramKey) -> Program {
        let felix = &self.plan.felix[key.felix];
        let exceptions = match key.owner {
            Owner::Host => host_exceptions(key, felix),
            Owner::Workload => workload_exceptions(key, felix),
        };
        let mut stages = Vec::new();
        if !exceptions.rules.is_empty() {
            stages.push(exceptions.finish(self.sets, Outcome::Pass, RuleId::NONE));
        }
        for (tier, policies) in &key.tiers {
            stages.push(self.tier(*tier, policies, key));
        }
        let end = match key.list {
            List::Untracked | List::PreDnat => Judgement::UNDECIDED,
            List::Forward => Judgement {
                allow: true,
                rule: reasons::NO_FORWARD_POLICY,
            },
            List::Normal => {
                if !key.profiles.is_empty() {
                    stages.push(self.profiles(key));
                }
                Judgement {
                    allow: false,
                    rule: reasons::NO_MATCH,
                }
            }
        };
        Program::new(stages, end)
    }

    fn tier(&mut self, tier: usize, policies: &[usize], key: &ProgramKey) -> Stage {
        let early = key.list.is_early();
        let direction = key.direction;
        let stage = StageKey::Tier {
            tier,
            policies: policies.to_vec(),
            direction,
            early,
        };
        if let Some(known) = self.stages.get(&stage) {
            return known.clone();
        }
        let planned = &self.plan.tiers[tier];
        let mut draft = Draft::default();
        for policy in policies {
            // All that keys name has been lowered.
            let Some(rules) = self.lowered.policies.get(&(tier, *policy, direction)) else {
                continue;
            };
            let id = &planned.policies[*policy].resolved.id;
            for (index, (action, rules)) in rules.iter().enumerate() {
                let reason = Reason::Rule(RuleRef {
                    tier: planned.name.clone(),
                    policy: id.clone(),
                    rule: index,
                });
                let number = self.reasons.of_policy(reason, direction);
                for rule in rules {
                    match action {
                        Action::Allow => draft.add(rule.clone(), Outcome::Allow, number),
                        Action::Deny => draft.add(rule.clone(), Outcome::Deny, number),
                        Action::Pass => draft.add(rule.clone(), Outcome::Pass, number),
                        Action::Log => draft.log(rule.clone(), number),
                    }
                }
            }
        }
        let reason = Reason::EndOfTier {
            tier: planned.name.clone(),
        };
        let number = self.reasons.of_policy(reason, direction);
        let outcome = match planned.end {
            EndOfTier::Deny if !early => Outcome::Deny,
            _ => Outcome::Pass,
        };
        let compiled = draft.finish(self.sets, outcome, number);
        self.stages.insert(stage, compiled.clone());
        compiled
    }

    fn profiles(&mut self, key: &ProgramKey) -> Stage {
        let direction = key.direction;
        let stage = StageKey::Profiles(key.profiles.clone(), direction);
        if let Some(known) = self.stages.get(&stage) {
            return known.clone();
        }
        let mut draft = Draft::default();
        for name in &key.profiles {
            let lowered = self.lowered.profiles.get(&(name.clone(), direction));
            let Some(Some(rules)) = lowered else {
                let reason = Reason::MissingProfile {
                    profile: name.clone(),
                };
                let number = self.reasons.of_policy(reason, direction);
                draft.add(Rule::default(), Outcome::Deny, number);
                break;
            };
            for (index, (action, rules)) in rules.iter().enumerate() {
                let reason = Reason::Profile {
                    profile: name.clone(),
                    rule: index,
                };
                let number = self.reasons.of_policy(reason, direction);
                for rule in rules {
                    match action {
                        Action::Allow => draft.add(rule.clone(), Outcome::Allow, number),
                        // Nothing comes behind the profiles that a packet could be passed to.
                        Action::Deny | Action::Pass => {
                            draft.add(rule.clone(), Outcome::Deny, number);
                        }
                        Action::Log => draft.log(rule.clone(), number),
                    }
                }
            }
        }
        let compiled = draft.finish(self.sets, Outcome::Deny, reasons::NO_MATCH);
        self.stages.insert(stage, compiled.clone());
        compiled
    }
}

/// What hosts take and send whatever policies say. In an early list such packets are passed over, and the lists behind it still judge.
fn host_exceptions(key: &ProgramKey, felix: &Felix) -> Draft {
    let mut draft = Draft::default();
    let early = key.list.is_early();
    let mut open = |rule: Rule, number| {
        let number = if early { RuleId::NONE } else { number };
        draft.add(rule, Outcome::Allow, number);
    };
    for icmp_type in NEIGHBOUR_DISCOVERY {
        open(rules::icmp6(icmp_type), reasons::NEIGHBOUR_DISCOVERY);
    }
    if key.list == List::Forward {
        return draft;
    }
    let incoming = key.direction == Direction::Ingress;
    let (opened, replies): (&[FailsafePort], _) = if incoming {
        (&felix.failsafe_inbound, &felix.failsafe_outbound)
    } else {
        (&felix.failsafe_outbound, &felix.failsafe_inbound)
    };
    for port in opened {
        open(rules::failsafe(port, incoming, false), reasons::FAILSAFE);
    }
    if key.list == List::Untracked {
        // Without tracking, replies have to be let through by their source port.
        for port in replies {
            open(rules::failsafe(port, incoming, true), reasons::FAILSAFE);
        }
    }
    draft
}

/// What workloads may not send whatever policies say.
fn workload_exceptions(key: &ProgramKey, felix: &Felix) -> Draft {
    let mut draft = Draft::default();
    if key.direction == Direction::Egress {
        let mut refuse = |rule| draft.add(rule, Outcome::Deny, reasons::ENCAPSULATION);
        if !felix.vxlan_from_workloads {
            refuse(rules::protocol_and_port(UDP, Some(VXLAN)));
        }
        if !felix.ipip_from_workloads {
            refuse(rules::protocol_and_port(IP_IN_IP, None));
        }
    }
    draft
}

/// Compiles the access lists of an interface and direction, first one first.
pub(super) fn access(
    interface: &str,
    direction: AccessDirection,
    lists: &[(&str, &AccessList)],
    reasons: &mut Reasons,
) -> AccessProgram {
    let mut cause = |rule| {
        reasons.number(Cause::Access {
            interface: interface.into(),
            direction,
            rule,
        })
    };
    let mut draft = Draft::default();
    let mut reflects = Vec::new();
    for (name, list) in lists {
        for (index, rule) in list.rules.iter().enumerate() {
            let number = cause(Some(((*name).into(), index)));
            let outcome = if rule.permit {
                Outcome::Allow
            } else {
                Outcome::Deny
            };
            for lowered in rules::lower_access(rule) {
                draft.add(lowered, outcome, number);
            }
            if rule.reflect {
                reflects.push(number);
            }
        }
    }
    let number = cause(None);
    let sets = Arc::default();
    let stage = draft.finish(&sets, Outcome::Deny, number);
    reflects.sort_unstable();
    AccessProgram {
        program: Program::new(
            vec![stage],
            Judgement {
                allow: false,
                rule: number,
            },
        ),
        reflects,
    }
}
