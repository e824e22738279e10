//! What the programs of the interfaces that a packet comes in and goes out by say about it: the order in which they are asked.
//!
//! | | in | out |
//! |---|---|---|
//! | any interface | access list on input | access list on output |
//! | workload | lists of the host endpoint for all interfaces: pre-DNAT and, not to this host, forward ingress; egress list; to this host also [`Settings::workload_to_host`] | ingress list; forward egress list of the host endpoint for all interfaces |
//! | host endpoint, to this host | untracked, pre-DNAT, ingress list | - |
//! | host endpoint, passing through | untracked, pre-DNAT, forward ingress list | forward egress list |
//!
//! All that are there must allow it. An `Allow` of an untracked or pre-DNAT list is final for the lists of the same host endpoint.
//! What no rule of these two matches is no verdict: their programs end with an allow by rule 0.
//!
//! Untracked lists are asked before flows are looked up: that on input in front of all this, that on output ([`answer`]) where this
//! host answers. What passes through meets none on its way out.

use tables::acl::{Family, Key};

use super::{
    AccessProgram, EGRESS, EndpointKind, INGRESS, INPUT, InterfacePolicy, Judgement, Lists, OUTPUT,
    Program, RuleId, SetAddress, Settings,
};
use super::{JudgedAddress, counters::WorkerRules};

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// To this host.
    Host,
    /// Out of an interface, with its policy.
    Out(Option<&'a InterfacePolicy>),
    /// No route leads on.
    Nowhere,
}

/// Who denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Denial {
    /// A policy, a tier's or a profile's end.
    Policy,
    /// An access list.
    AccessList,
    /// A workload without policy yet.
    Closed,
    /// Workloads may not reach the host.
    WorkloadToHost,
}

/// What was decided about a packet that no flow knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It may pass.
    Pass {
        /// Its flow is to be remembered, so that both directions pass.
        track: bool,
        /// A policy has allowed it, rather than access lists alone.
        by_policy: bool,
        /// The rules that allowed it where it came in and where it goes out, the last of each side.
        rules: [RuleId; 2],
    },
    /// It may not.
    Deny {
        /// Who says so.
        by: Denial,
        /// By which rule.
        rule: RuleId,
    },
}

/// A verdict against, on its way out of the chain of lists.
type Denied = (Denial, RuleId);

/// What the lists are asked about one packet.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a, A> {
    /// As it came in: for access lists on input, and lists before destination translation.
    pub before: &'a Key<A>,
    /// With its destination translated and its source not yet: for all others.
    pub after: &'a Key<A>,
    /// As it leaves; `None` where the access list on output is not to be asked yet.
    pub leaving: Option<&'a Key<A>>,
}

impl<'a, A> Seen<'a, A> {
    /// A packet that stays as it is.
    pub const fn untranslated(key: &'a Key<A>) -> Self {
        Self {
            before: key,
            after: key,
            leaving: Some(key),
        }
    }
}

/// Asks every list that concerns the packet. `untracked`: an untracked list has allowed it already.
pub fn decide<A: JudgedAddress + SetAddress>(
    seen: Seen<'_, A>,
    input: Option<&InterfacePolicy>,
    way: Way<'_>,
    untracked: bool,
    settings: &Settings,
    counters: WorkerRules<'_>,
) -> Fate {
    let asking = Counting(counters);
    decide_by(seen, input, way, untracked, settings, asking)
}

/// Who goes through the lists, and what for: the order is the same for all.
pub(super) trait Asking {
    /// Which lists of an endpoint.
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists;
    /// What one of them says.
    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement;
}

/// To enforce, and to count what decides.
pub(super) struct Counting<'a>(pub(super) WorkerRules<'a>);

impl Asking for Counting<'_> {
    #[inline(always)]
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists {
        &policy.lists
    }

    #[inline(always)]
    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement {
        let judgement = program.judge(key);
        self.0.count(judgement);
        judgement
    }
}

/// [`decide`] for anyone who asks.
#[inline(always)]
pub(super) fn decide_by<A: JudgedAddress + SetAddress>(
    seen: Seen<'_, A>,
    input: Option<&InterfacePolicy>,
    way: Way<'_>,
    untracked: bool,
    settings: &Settings,
    asking: impl Asking,
) -> Fate {
    let mut decision = Deciding {
        seen,
        asking,
        track: false,
        by_policy: false,
    };
    let mut both = || {
        let in_rule = decision.input(input, way, untracked, settings)?;
        let out_rule = decision.output(way)?;
        Ok([in_rule, out_rule])
    };
    match both() {
        Ok(rules) => Fate::Pass {
            track: decision.track && !untracked && !matches!(way, Way::Nowhere),
            by_policy: decision.by_policy,
            rules,
        },
        Err((by, rule)) => Fate::Deny { by, rule },
    }
}

struct Deciding<'a, A, Q> {
    seen: Seen<'a, A>,
    asking: Q,
    track: bool,
    by_policy: bool,
}

impl<A: JudgedAddress + SetAddress, Q: Asking> Deciding<'_, A, Q> {
    fn input(
        &mut self,
        policy: Option<&InterfacePolicy>,
        way: Way<'_>,
        untracked: bool,
        settings: &Settings,
    ) -> Result<RuleId, Denied> {
        let Some(policy) = policy else {
            return Ok(RuleId::default());
        };
        let Seen { before, .. } = self.seen;
        let listed = self.access(policy.access[INPUT].as_deref(), before)?;
        let to_host = matches!(way, Way::Host);
        if policy.kind != EndpointKind::None && to_host && is_link_talk(before) && !policy.closed {
            return Ok(listed);
        }
        let judged = match policy.kind {
            EndpointKind::None => None,
            EndpointKind::Workload => {
                let behind = self.asking.lists(policy).forward[INGRESS].as_deref();
                self.host(policy, behind.filter(|_| !to_host))?;
                let rule = self.workload(policy, EGRESS)?;
                if to_host && !settings.workload_to_host {
                    return Err((Denial::WorkloadToHost, RuleId::default()));
                }
                Some(rule)
            }
            EndpointKind::Host if untracked => None,
            EndpointKind::Host => {
                let lists = self.asking.lists(policy);
                let behind = if to_host {
                    &lists.normal
                } else {
                    &lists.forward
                };
                self.host(policy, behind[INGRESS].as_deref())?
            }
        };
        Ok(judged.unwrap_or(listed))
    }

    fn output(&mut self, way: Way<'_>) -> Result<RuleId, Denied> {
        let Way::Out(Some(policy)) = way else {
            return Ok(RuleId::default());
        };
        let judged = match policy.kind {
            EndpointKind::None => None,
            EndpointKind::Workload => {
                let rule = self.workload(policy, INGRESS)?;
                let behind = self.asking.lists(policy).forward[EGRESS].as_deref();
                self.policy(behind, self.seen.after)?;
                Some(rule)
            }
            EndpointKind::Host => {
                let list = self.asking.lists(policy).forward[EGRESS].as_deref();
                self.policy(list, self.seen.after)?
            }
        };
        let listed = match self.seen.leaving {
            Some(leaving) => self.access(policy.access[OUTPUT].as_deref(), leaving)?,
            None => RuleId::default(),
        };
        Ok(judged.unwrap_or(listed))
    }

    /// A host endpoint's list before destination translation, or else the one behind it.
    fn host(
        &mut self,
        policy: &InterfacePolicy,
        behind: Option<&Program>,
    ) -> Result<Option<RuleId>, Denied> {
        let early = self.asking.lists(policy).pre_dnat.as_deref();
        match self.policy(early, self.seen.before)? {
            Some(rule) if rule != RuleId::NONE => Ok(Some(rule)),
            _ => self.policy(behind, self.seen.after),
        }
    }

    /// A workload without a list has no policy yet, whatever else it says.
    fn workload(&mut self, policy: &InterfacePolicy, direction: usize) -> Result<RuleId, Denied> {
        let list = self.asking.lists(policy).normal[direction].as_deref();
        match self.policy(list.filter(|_| !policy.closed), self.seen.after)? {
            Some(rule) => Ok(rule),
            None => Err((Denial::Closed, RuleId::default())),
        }
    }

    fn policy(
        &mut self,
        program: Option<&Program>,
        key: &Key<A>,
    ) -> Result<Option<RuleId>, Denied> {
        let Some(program) = program else {
            return Ok(None);
        };
        (self.track, self.by_policy) = (true, true);
        let rule = self
            .judge(program, key)
            .map_err(|rule| (Denial::Policy, rule))?;
        Ok(Some(rule))
    }

    fn access(&mut self, list: Option<&AccessProgram>, key: &Key<A>) -> Result<RuleId, Denied> {
        let Some(list) = list else {
            return Ok(RuleId::default());
        };
        let judged = self.judge(&list.program, key);
        let rule = judged.map_err(|rule| (Denial::AccessList, rule))?;
        self.track |= list.reflects.binary_search(&rule).is_ok();
        Ok(rule)
    }

    fn judge(&mut self, program: &Program, key: &Key<A>) -> Result<RuleId, RuleId> {
        let Judgement { allow, rule } = self.asking.judge(program, key);
        if allow { Ok(rule) } else { Err(rule) }
    }
}

/// Judges what this host answers to a packet without flow. A request that the untracked list of the interface that it came in by has
/// allowed is not remembered, so its answer needs a rule of its own in the untracked list of the host endpoint that it leaves by;
/// without one it belongs to no connection. All else that this host sends belongs to what it answers, and passes.
pub fn answer<A: JudgedAddress + SetAddress>(
    request: &Key<A>,
    answer: &Key<A>,
    input: Option<&InterfacePolicy>,
    output: Option<&InterfacePolicy>,
    counters: WorkerRules<'_>,
) -> Answer {
    let came = input.and_then(InterfacePolicy::untracked_input);
    let was_untracked = came.is_some_and(|list| {
        let judged = list.judge(request);
        judged.allow && judged.is_decided()
    });
    let host = output.filter(|policy| policy.kind == EndpointKind::Host);
    let Some(policy) = host.filter(|_| was_untracked) else {
        return Answer::Passes;
    };
    let list = policy.lists.untracked[EGRESS].as_deref();
    let judged = list.map_or(Judgement::UNDECIDED, |list| list.judge(answer));
    if !judged.is_decided() {
        return Answer::Untracked;
    }
    counters.count(judged);
    if judged.allow {
        Answer::Passes
    } else {
        Answer::Denied(judged.rule)
    }
}

/// What becomes of an answer of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It passes.
    Passes,
    /// An untracked list denies it.
    Denied(RuleId),
    /// It belongs to no connection, and no untracked list allows it.
    Untracked,
}

/// Neighbour discovery and listener reports, without which no IPv6 works on a link: always taken from an endpoint to this host
/// (types 130 to 133, 135 and 136).
pub fn is_link_talk<A: JudgedAddress>(key: &Key<A>) -> bool {
    A::FAMILY == Family::V6 && matches!(key.icmp_type_code(), Some((130..=133 | 135 | 136, _)))
}
