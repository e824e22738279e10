//! What the numbers of rules stand for, as clients are told, and what the rules decided.

use control_api::v1;
use graph_nodes::policy::{RuleCounters, RuleId};
use model::policy::reference::Reason;
use model::policy::{AccessDirection, Direction};

use crate::compile::policy::{Cause, Reasons};

/// A rule's name; `None` for 0 and for numbers that were not given out.
pub(super) fn name(reasons: &Reasons, rule: RuleId) -> Option<v1::RuleReason> {
    let named = match reasons.cause(rule)? {
        Cause::Policy { reason, direction } => v1::RuleReason {
            tier: reason.tier().unwrap_or_default().into(),
            kind: kind(reason),
            policy: reason.policy().unwrap_or_default(),
            rule: reason.rule().map(position),
            direction: direction
                .map(|direction| match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                })
                .unwrap_or_default()
                .into(),
            interface: String::new(),
            reason: reason.as_str().into(),
        },
        Cause::Access {
            interface,
            direction,
            rule,
        } => v1::RuleReason {
            kind: "AccessList".into(),
            policy: rule
                .as_ref()
                .map(|(list, _)| String::from(&**list))
                .unwrap_or_default(),
            rule: rule.as_ref().map(|(_, rule)| position(*rule)),
            direction: match direction {
                AccessDirection::Input => "input",
                AccessDirection::Output => "output",
            }
            .into(),
            interface: String::from(&**interface),
            reason: match rule {
                Some(_) => "rule",
                None => "end of access list",
            }
            .into(),
            ..v1::RuleReason::default()
        },
    };
    Some(named)
}

fn kind(reason: &Reason) -> String {
    match reason {
        Reason::Rule(rule) => rule.policy.kind.as_str().into(),
        Reason::Profile { .. } | Reason::MissingProfile { .. } => "Profile".into(),
        _ => String::new(),
    }
}

/// A list has at most 1024 rules.
fn position(rule: usize) -> u32 {
    u32::try_from(rule).unwrap_or(u32::MAX)
}

/// What rules have allowed and denied, without those that did neither; most denied packets first, then most allowed.
pub(super) fn counts(reasons: &Reasons, counters: &RuleCounters) -> Vec<v1::RuleCounter> {
    let counted = |number| {
        let rule = RuleId(number);
        let count = counters.value(rule);
        (count.allowed + count.denied > 0).then(|| v1::RuleCounter {
            rule: name(reasons, rule),
            allowed: count.allowed,
            denied: count.denied,
        })
    };
    let mut list: Vec<_> = (1..=reasons.last().0).filter_map(counted).collect();
    // Stable: rules with the same counts stay in the order of their numbers.
    list.sort_by_key(|rule| std::cmp::Reverse((rule.denied, rule.allowed)));
    list
}

#[cfg(test)]
mod tests {
    use dataplane::WorkerId;
    use graph_nodes::policy::Judgement;
    use model::policy::reference::RuleRef;
    use model::policy::{PolicyId, PolicyKind};

    use super::*;
    use crate::compile::policy::FAILSAFE;

    fn rule(index: usize, direction: Direction) -> Cause {
        Cause::Policy {
            reason: Reason::Rule(RuleRef {
                tier: "default".into(),
                policy: PolicyId::new(PolicyKind::NetworkPolicy, Some("a"), "web"),
                rule: index,
            }),
            direction: Some(direction),
        }
    }

    #[test]
    fn numbers_are_named() {
        let mut reasons = Reasons::default();
        let number = reasons.number(rule(3, Direction::Egress));
        let named = name(&reasons, number).expect("known");
        let expected = v1::RuleReason {
            tier: "default".into(),
            kind: "NetworkPolicy".into(),
            policy: "a/web".into(),
            rule: Some(3),
            direction: "egress".into(),
            interface: String::new(),
            reason: "rule".into(),
        };
        assert_eq!(named, expected);
        let failsafe = name(&reasons, FAILSAFE).expect("known");
        assert_eq!((&*failsafe.reason, failsafe.rule), ("failsafe port", None));
        let list = |rule: Option<(Box<str>, usize)>| Cause::Access {
            interface: "lan".into(),
            direction: AccessDirection::Output,
            rule,
        };
        let number = reasons.number(list(Some(("no-telnet".into(), 0))));
        let named = name(&reasons, number).expect("known");
        assert_eq!((&*named.kind, &*named.policy), ("AccessList", "no-telnet"));
        assert_eq!((&*named.interface, &*named.direction), ("lan", "output"));
        assert_eq!(named.rule, Some(0));
        let number = reasons.number(list(None));
        let named = name(&reasons, number).expect("known");
        assert_eq!((named.rule, &*named.reason), (None, "end of access list"));
        assert_eq!(name(&reasons, RuleId::NONE), None);
        assert_eq!(name(&reasons, RuleId(reasons.last().0 + 1)), None);
    }

    #[test]
    fn counts_are_those_of_rules_that_decided() {
        let mut reasons = Reasons::default();
        let numbers: Vec<_> = (0..4)
            .map(|index| reasons.number(rule(index, Direction::Ingress)))
            .collect();
        let counters = RuleCounters::new(2, reasons.last().0 as usize + 1);
        for (worker, rule, allow, times) in [
            (0, 1, true, 9),
            (1, 2, false, 2),
            (0, 2, false, 3),
            (0, 3, false, 1),
            (1, 3, true, 1),
        ] {
            for _ in 0..times {
                let rule = numbers[rule];
                counters
                    .of(WorkerId(worker))
                    .count(Judgement { allow, rule });
            }
        }
        let list = counts(&reasons, &counters);
        let seen: Vec<_> = list
            .iter()
            .map(|count| {
                let rule = count.rule.as_ref().and_then(|rule| rule.rule);
                (rule, count.allowed, count.denied)
            })
            .collect();
        assert_eq!(seen, [(Some(2), 0, 5), (Some(3), 1, 1), (Some(1), 9, 0)]);
    }
}
