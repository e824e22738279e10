//! What the numbers of rules stand for.

use std::collections::HashMap;

use graph_nodes::policy::RuleId;
use model::policy::reference::Reason;
use model::policy::{AccessDirection, Direction};

/// Why a packet is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// An endpoint's policy.
    Policy {
        /// What decided.
        reason: Reason,
        /// Which of the two directions' rules it belongs to; `None` for what has only one meaning.
        direction: Option<Direction>,
    },
    /// An interface's access lists.
    Access {
        /// The interface.
        interface: Box<str>,
        /// Which of its packets.
        direction: AccessDirection,
        /// The list and the position of the rule; `None` where no rule matched.
        rule: Option<(Box<str>, usize)>,
    },
}

/// From a workload's own host: always allowed.
pub const FROM_HOST: RuleId = RuleId(1);
/// To a workload's own host: denied behind what the policy allowed.
pub const ENDPOINT_TO_HOST: RuleId = RuleId(2);
/// Neighbour discovery and multicast listener discovery with hosts.
pub const NEIGHBOUR_DISCOVERY: RuleId = RuleId(3);
/// A port that is always open on hosts.
pub const FAILSAFE: RuleId = RuleId(4);
/// VXLAN or IP in IP that a workload may not send.
pub const ENCAPSULATION: RuleId = RuleId(5);
/// No tier decided, and no rule of a profile matched.
pub const NO_MATCH: RuleId = RuleId(6);
/// No policy decides about forwarded traffic.
pub const NO_FORWARD_POLICY: RuleId = RuleId(7);
/// There is no such endpoint.
pub const NO_ENDPOINT: RuleId = RuleId(8);

const FIXED: [Reason; 8] = [
    Reason::FromHost,
    Reason::EndpointToHost,
    Reason::NeighbourDiscovery,
    Reason::Failsafe,
    Reason::Encapsulation,
    Reason::NoMatch,
    Reason::NoForwardPolicy,
    Reason::NoEndpoint,
];

/// Numbers for everything that can decide. A number keeps its meaning as long as the table lives, so that flows and counters of the past
/// can be explained; the table grows with every rule that it has ever seen.
#[derive(Clone, Debug)]
pub struct Reasons {
    /// By number, from 1 on.
    causes: Vec<Cause>,
    numbers: HashMap<Cause, RuleId>,
}

impl Default for Reasons {
    fn default() -> Self {
        let mut reasons = Self {
            causes: Vec::new(),
            numbers: HashMap::new(),
        };
        for reason in FIXED {
            reasons.number(Cause::Policy {
                reason,
                direction: None,
            });
        }
        reasons
    }
}

impl Reasons {
    /// The number of a cause: a new one for what is new.
    ///
    /// # Panics
    ///
    /// There have been 2^32 of them.
    pub fn number(&mut self, cause: Cause) -> RuleId {
        if let Some(number) = self.numbers.get(&cause) {
            return *number;
        }
        self.causes.push(cause.clone());
        let number = RuleId(u32::try_from(self.causes.len()).expect("fewer than 2^32 rules"));
        self.numbers.insert(cause, number);
        number
    }

    pub(super) fn of_policy(&mut self, reason: Reason, direction: Direction) -> RuleId {
        self.number(Cause::Policy {
            reason,
            direction: Some(direction),
        })
    }

    /// The highest number given out.
    pub fn last(&self) -> RuleId {
        RuleId(u32::try_from(self.causes.len()).unwrap_or(u32::MAX))
    }

    /// What a number stands for; `None` for 0 and for numbers that were not given out.
    pub fn cause(&self, rule: RuleId) -> Option<&Cause> {
        let index = usize::try_from(rule.0).ok()?.checked_sub(1)?;
        self.causes.get(index)
    }

    /// What a number stands for, where that is an endpoint's policy.
    pub fn reason(&self, rule: RuleId) -> Option<&Reason> {
        match self.cause(rule)? {
            Cause::Policy { reason, .. } => Some(reason),
            Cause::Access { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_meaning() {
        let mut reasons = Reasons::default();
        for (number, reason) in [
            (FROM_HOST, Reason::FromHost),
            (ENDPOINT_TO_HOST, Reason::EndpointToHost),
            (NEIGHBOUR_DISCOVERY, Reason::NeighbourDiscovery),
            (FAILSAFE, Reason::Failsafe),
            (ENCAPSULATION, Reason::Encapsulation),
            (NO_MATCH, Reason::NoMatch),
            (NO_FORWARD_POLICY, Reason::NoForwardPolicy),
            (NO_ENDPOINT, Reason::NoEndpoint),
        ] {
            assert_eq!(reasons.reason(number), Some(&reason));
        }
        let end = Reason::EndOfTier {
            tier: "default".into(),
        };
        let ingress = reasons.of_policy(end.clone(), Direction::Ingress);
        let egress = reasons.of_policy(end.clone(), Direction::Egress);
        assert_ne!(ingress, egress, "counters of the two are apart");
        assert_eq!(reasons.of_policy(end.clone(), Direction::Ingress), ingress);
        assert_eq!(reasons.reason(egress), Some(&end));
        assert_eq!(reasons.reason(RuleId(0)), None);
        assert_eq!(reasons.reason(RuleId(99)), None);
    }
}
