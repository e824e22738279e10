//! Programs: ordered stages of rules, compiled, that judge the first packet of a flow.
//!
//! A stage is what Calico calls a tier (or the profiles, or the failsafe ports, or one access list): the first rule that matches
//! decides; what none matches meets the stage's end. `Pass` leads to the next stage, and behind the last stage stands the
//! program's own end. Rules that only log stand beside: they do not stop the search.

use tables::acl::{Address, Classifier, Key, NO_MATCH, Rule, SetClasses};

/// Which rule, policy or default decided: a number that control can explain. 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RuleId(pub u32);

impl RuleId {
    /// Nobody decided.
    pub const NONE: Self = Self(0);
}

/// What a rule does with what it matches, or a stage with what no rule of it matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The packet and its flow may pass.
    Allow,
    /// They may not.
    Deny,
    /// The next stage decides.
    Pass,
}

/// What to do, and who says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What.
    pub outcome: Outcome,
    /// Who.
    pub rule: RuleId,
}

/// A rule that logs what it matches and lets the search go on.
#[derive(Clone, Debug)]
pub struct LogRule {
    /// Index of the stage's first other rule behind it: it applies where the search comes this far.
    pub before: u32,
    /// What it matches.
    pub matches: Rule,
    /// Its number.
    pub rule: RuleId,
}

/// A tier, compiled.
#[derive(Clone, Debug)]
pub struct Stage {
    ip4: Classifier<u32>,
    ip6: Classifier<u128>,
    decisions: Box<[Decision]>,
    logs: Box<[LogRule]>,
    end: Decision,
}

/// A flow's verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// It may pass.
    pub allow: bool,
    /// What decided.
    pub rule: RuleId,
}

impl Judgement {
    /// Of a list before tracking or translation that says nothing about a packet: the packet goes on as if the list were not there.
    pub const UNDECIDED: Self = Self {
        allow: true,
        rule: RuleId::NONE,
    };

    /// Whether anything decided: lists before tracking or translation need not. Exceptions to them allow with [`RuleId::NONE`],
    /// and so leave the packet to the lists behind.
    #[inline]
    pub fn is_decided(self) -> bool {
        self.rule != RuleId::NONE
    }
}

/// All that decides about one direction of one endpoint.
#[derive(Clone, Debug)]
pub struct Program {
    stages: Box<[Stage]>,
    end: Judgement,
}

/// Memory for judging many packets at once.
pub(super) struct Scratch<A> {
    found: Box<[u32]>,
    /// Packets that all stages so far let pass on, and their keys.
    waiting: Box<[u16]>,
    keys: Box<[Key<A>]>,
}

impl<A: JudgedAddress> Scratch<A> {
    /// For at most `count` packets, 65,536 of them at the most.
    pub(super) fn new(count: usize) -> Self {
        Self {
            found: vec![NO_MATCH; count].into(),
            waiting: vec![0; count].into(),
            keys: vec![Key::default(); count].into(),
        }
    }
}

/// Families that a [`Stage`] has a classifier for.
pub trait JudgedAddress: Address {
    /// The stage's classifier for the family.
    fn classifier(stage: &Stage) -> &Classifier<Self>;
}

impl JudgedAddress for u32 {
    fn classifier(stage: &Stage) -> &Classifier<Self> {
        &stage.ip4
    }
}

impl JudgedAddress for u128 {
    fn classifier(stage: &Stage) -> &Classifier<Self> {
        &stage.ip6
    }
}

impl Stage {
    /// Of the two compiled forms of one list of rules, and what each of them does. `decisions` is as long as the list.
    ///
    /// # Panics
    /// It is not.
    pub fn new(
        ip4: Classifier<u32>,
        ip6: Classifier<u128>,
        decisions: Vec<Decision>,
        logs: Vec<LogRule>,
        end: Decision,
    ) -> Self {
        assert!(
            ip4.len() == decisions.len() && ip6.len() == decisions.len(),
            "every rule has a decision"
        );
        Self {
            ip4,
            ip6,
            decisions: decisions.into(),
            logs: logs.into(),
            end,
        }
    }

    /// Learns address classes that have appeared since it was compiled.
    pub fn extend(&mut self, sets: &std::sync::Arc<SetClasses>) {
        self.ip4.extend(sets);
        self.ip6.extend(sets);
    }

    /// What is done with a packet whose first matching rule this is.
    #[inline(always)]
    fn decision(&self, index: u32) -> Decision {
        match index {
            NO_MATCH => self.end,
            index => self.decisions[index as usize],
        }
    }
}

impl Decision {
    /// The verdict, where the next stage is not asked.
    #[inline(always)]
    fn judgement(self) -> Option<Judgement> {
        let allow = self.outcome == Outcome::Allow;
        let rule = self.rule;
        (self.outcome != Outcome::Pass).then_some(Judgement { allow, rule })
    }
}

impl Program {
    /// Stages in order; `end` is for what all of them let pass on.
    pub fn new(stages: Vec<Stage>, end: Judgement) -> Self {
        Self {
            stages: stages.into(),
            end,
        }
    }

    /// Learns address classes that have appeared since it was compiled.
    pub fn extend(&mut self, sets: &std::sync::Arc<SetClasses>) {
        self.stages.iter_mut().for_each(|stage| stage.extend(sets));
    }

    /// Judges a packet. One classifier walk per stage that it comes to.
    pub fn judge<A: JudgedAddress>(&self, key: &Key<A>) -> Judgement {
        for stage in &self.stages {
            let decision = stage.decision(A::classifier(stage).classify_one(key));
            if let Some(judgement) = decision.judgement() {
                return judgement;
            }
        }
        self.end
    }

    /// Judges many packets: `out`, as long as `keys`, gets what [`judge`](Self::judge) says of each. Each stage classifies all
    /// that come to it at once. As many as the scratch was made for.
    pub(super) fn judge_all<A: JudgedAddress>(
        &self,
        keys: &[Key<A>],
        out: &mut [Judgement],
        scratch: &mut Scratch<A>,
    ) {
        let Some((first, others)) = self.stages.split_first() else {
            out.fill(self.end);
            return;
        };
        let Scratch {
            found,
            waiting,
            keys: gathered,
        } = scratch;
        let count = keys.len().min(out.len()).min(found.len());
        A::classifier(first).classify(&keys[..count], &mut found[..count]);
        if others.is_empty() {
            for (out, index) in out.iter_mut().zip(&found[..count]) {
                *out = first.decision(*index).judgement().unwrap_or(self.end);
            }
            return;
        }
        let mut left = 0;
        for (at, (out, index)) in out.iter_mut().zip(&found[..count]).enumerate() {
            let judgement = first.decision(*index).judgement();
            waiting[left] = at as u16;
            left += usize::from(judgement.is_none());
            *out = judgement.unwrap_or(self.end);
        }
        for stage in others {
            if left == 0 {
                return;
            }
            let asked = left;
            for (key, at) in gathered.iter_mut().zip(&waiting[..asked]) {
                *key = keys[usize::from(*at)];
            }
            A::classifier(stage).classify(&gathered[..asked], &mut found[..asked]);
            left = 0;
            for slot in 0..asked {
                let at = waiting[slot];
                let judgement = stage.decision(found[slot]).judgement();
                waiting[left] = at;
                left += usize::from(judgement.is_none());
                if let Some(judgement) = judgement {
                    out[usize::from(at)] = judgement;
                }
            }
        }
    }

    /// Calls `log` for each rule that logs this packet, in order. Linear in those rules, of which there are few: most programs
    /// have none.
    pub fn logs<A: JudgedAddress>(
        &self,
        key: &Key<A>,
        sets: &SetClasses,
        mut log: impl FnMut(RuleId),
    ) {
        for stage in &self.stages {
            let index = A::classifier(stage).classify_one(key);
            for rule in stage.logs.iter().filter(|rule| rule.before <= index) {
                if rule.matches.matches(key, sets) {
                    log(rule.rule);
                }
            }
            if stage.decision(index).outcome != Outcome::Pass {
                return;
            }
        }
    }

    /// True where some rule logs.
    pub fn has_logs(&self) -> bool {
        self.stages.iter().any(|stage| !stage.logs.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tables::acl::Protocols;

    use super::*;

    fn stage(rules: &[(u8, Outcome, u32)], logs: Vec<LogRule>, end: Outcome) -> Stage {
        let list: Vec<Rule> = rules
            .iter()
            .map(|(protocol, ..)| Rule {
                protocols: Protocols::from_iter([*protocol]),
                ..Rule::default()
            })
            .collect();
        let sets = Arc::new(SetClasses::default());
        let decision = |outcome, rule| Decision {
            outcome,
            rule: RuleId(rule),
        };
        Stage::new(
            Classifier::compile(&list, &sets),
            Classifier::compile(&list, &sets),
            rules
                .iter()
                .map(|(_, outcome, rule)| decision(*outcome, *rule))
                .collect(),
            logs,
            decision(end, 99),
        )
    }

    fn judge(program: &Program, protocol: u8) -> (bool, u32) {
        let ip4 = program.judge(&Key::<u32>::opaque(1, 2, protocol));
        assert_eq!(ip4, program.judge(&Key::<u128>::opaque(1, 2, protocol)));
        (ip4.allow, ip4.rule.0)
    }

    /// Any number of packets at once are judged as one by one.
    fn judge_all<A: JudgedAddress>(program: &Program, address: impl Fn(u8) -> A) {
        let mut scratch = Scratch::new(200);
        for count in [0, 1, 3, 31, 64, 200] {
            let protocol = |at: usize| 49 + (at * 7 % 6) as u8;
            let key = |at| Key::opaque(address(1), address(2), protocol(at));
            let keys: Vec<Key<A>> = (0..count).map(key).collect();
            let mut out = vec![Judgement::UNDECIDED; count];
            program.judge_all(&keys, &mut out, &mut scratch);
            let one_by_one: Vec<_> = keys.iter().map(|key| program.judge(key)).collect();
            assert_eq!(out, one_by_one);
        }
    }

    #[test]
    fn pass_leads_to_the_next_stage_and_the_end_decides_about_the_rest() {
        let first = stage(
            &[
                (50, Outcome::Allow, 1),
                (51, Outcome::Pass, 2),
                (51, Outcome::Deny, 3),
                (52, Outcome::Deny, 4),
            ],
            Vec::new(),
            Outcome::Pass,
        );
        let second = stage(&[(51, Outcome::Deny, 5)], Vec::new(), Outcome::Pass);
        let end = Judgement {
            allow: true,
            rule: RuleId(7),
        };
        let program = Program::new(vec![first, second], end);
        assert_eq!(judge(&program, 50), (true, 1));
        assert_eq!(judge(&program, 51), (false, 5));
        assert_eq!(judge(&program, 52), (false, 4));
        assert_eq!(judge(&program, 53), (true, 7));
        judge_all(&program, u32::from);
        judge_all(&program, u128::from);
        judge_all(&Program::new(Vec::new(), end), u32::from);
        let closed = Program::new(vec![stage(&[], Vec::new(), Outcome::Deny)], end);
        assert_eq!(judge(&closed, 50), (false, 99));
        judge_all(&closed, u32::from);
    }

    #[test]
    fn rules_that_log_do_not_stop_the_search() {
        let log = |before, rule| LogRule {
            before,
            matches: Rule::default(),
            rule: RuleId(rule),
        };
        let rules = [(50, Outcome::Deny, 1), (51, Outcome::Allow, 2)];
        let program = Program::new(
            vec![stage(
                &rules,
                vec![log(0, 10), log(1, 11), log(2, 12)],
                Outcome::Deny,
            )],
            Judgement {
                allow: true,
                rule: RuleId(0),
            },
        );
        assert!(program.has_logs());
        let logged = |protocol| {
            let mut seen = Vec::new();
            let key = Key::<u32>::opaque(1, 2, protocol);
            program.logs(&key, &SetClasses::default(), |rule| seen.push(rule.0));
            seen
        };
        assert_eq!(logged(50), [10]);
        assert_eq!(logged(51), [10, 11]);
        assert_eq!(logged(52), [10, 11, 12]);
        assert_eq!(judge(&program, 50), (false, 1));
    }
}
