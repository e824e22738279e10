//! Questions to the lists beside the one that is enforced: what staged policies would do, and which rules log. Nothing is counted.

use tables::acl::{Key, SetClasses};
use tables::{AnyFlowKey, Direction, FlowView};

use super::super::decide::{Asking, Denial, Fate, Way, decide_by};
use super::super::packet::{Exit, Ip4, Ip6, question_of_flow};
use super::super::{
    EndpointKind, INGRESS, InterfacePolicy, JudgedAddress, Judgement, Lists, Policy, Program,
    RuleId, SetAddress,
};
use super::{Lone, Staged};
use crate::snapshot::NO_INTERFACE;

/// As if staged policies were enforced.
struct AsStaged;

impl Asking for AsStaged {
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists {
        policy.staged.as_ref().unwrap_or(&policy.lists)
    }

    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement {
        program.judge(key)
    }
}

/// As enforced.
struct Quiet;

impl Asking for Quiet {
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists {
        &policy.lists
    }

    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement {
        program.judge(key)
    }
}

/// As enforced, calling for every rule that logs.
struct Logging<'a, F> {
    sets: &'a SetClasses,
    log: F,
}

impl<F: FnMut(RuleId)> Asking for Logging<'_, F> {
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists {
        &policy.lists
    }

    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement {
        if program.has_logs() {
            program.logs(key, self.sets, &mut self.log);
        }
        program.judge(key)
    }
}

impl<Q: Asking> Asking for &mut Q {
    fn lists<'p>(&self, policy: &'p InterfacePolicy) -> &'p Lists {
        (**self).lists(policy)
    }

    fn judge<A: JudgedAddress>(&mut self, program: &Program, key: &Key<A>) -> Judgement {
        (**self).judge(program, key)
    }
}

/// What staged policies would do with a flow, where they concern it.
pub(super) fn staged_of(flow: &FlowView<'_>, policy: &Policy) -> Option<Staged> {
    let [input, output] =
        [Direction::Forward, Direction::Reverse].map(|direction| flow.interface(direction));
    let exit = match output {
        NO_INTERFACE => Exit::Host,
        number => Exit::Interface(number),
    };
    match flow.key(Direction::Forward) {
        AnyFlowKey::Ip4(key) => would(policy, &question_of_flow::<Ip4>(&key), input, exit, true),
        AnyFlowKey::Ip6(key) => would(policy, &question_of_flow::<Ip6>(&key), input, exit, true),
    }
}

/// What staged policies would do with a packet of no flow, where they concern it.
pub(super) fn staged<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    packet: &Lone<'_, A>,
) -> Option<Staged> {
    would(policy, packet.asked, packet.input, packet.exit, false)
}

fn would<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    asked: &Key<A>,
    input: u16,
    exit: Exit,
    classify: bool,
) -> Option<Staged> {
    let (input, way) = (policy.of(input), way(policy, exit));
    let output = match way {
        Way::Out(output) => output,
        Way::Host | Way::Nowhere => None,
    };
    let concerned = [input, output];
    if !concerned.iter().flatten().any(|end| end.staged.is_some()) {
        return None;
    }
    let asked = if classify {
        policy.classify(*asked)
    } else {
        *asked
    };
    Some(match walk(policy, &asked, input, way, AsStaged) {
        Fate::Pass { rules, .. } => Staged { allow: true, rules },
        Fate::Deny { rule, .. } => Staged {
            allow: false,
            rules: [rule, RuleId::NONE],
        },
    })
}

/// The rule that denies a packet, as enforced; none where none does.
pub(super) fn denier<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    packet: &Lone<'_, A>,
) -> RuleId {
    let (input, way) = (policy.of(packet.input), way(policy, packet.exit));
    match walk(policy, packet.asked, input, way, Quiet) {
        Fate::Pass { .. } => RuleId::NONE,
        Fate::Deny { rule, .. } => rule,
    }
}

/// Calls for every rule that logs a packet on the way to its verdict.
pub(super) fn logs<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    packet: &Lone<'_, A>,
    log: impl FnMut(RuleId),
) {
    let none = SetClasses::default();
    let sets = policy.sets.as_ref().map_or(&none, |sets| &*sets.classes);
    let (input, way) = (policy.of(packet.input), way(policy, packet.exit));
    let asking = Logging { sets, log };
    let _ = walk(policy, packet.asked, input, way, asking);
}

fn way(policy: &Policy, exit: Exit) -> Way<'_> {
    match exit {
        Exit::Host => Way::Host,
        Exit::Interface(number) => Way::Out(policy.of(number)),
        Exit::Nowhere => Way::Nowhere,
    }
}

/// All lists, the untracked one first.
fn walk<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    asked: &Key<A>,
    input: Option<&InterfacePolicy>,
    way: Way<'_>,
    mut asking: impl Asking,
) -> Fate {
    let mut untracked = false;
    if let Some(host) = input.filter(|input| input.kind == EndpointKind::Host)
        && let Some(list) = &asking.lists(host).untracked[INGRESS]
    {
        let judgement = asking.judge(list, asked);
        if judgement.is_decided() && !judgement.allow {
            return Fate::Deny {
                by: Denial::Policy,
                rule: judgement.rule,
            };
        }
        untracked = judgement.is_decided();
    }
    let settings = &policy.settings;
    decide_by(asked, input, way, untracked, settings, &mut asking)
}
