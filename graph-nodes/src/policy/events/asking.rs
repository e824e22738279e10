//! Questions to the lists beside the one that is enforced: what staged policies would do, and which rules log. Nothing is counted.

use tables::acl::{Key, SetClasses};
use tables::{AnyFlowKey, Direction, FlowView};

use super::super::decide::{Asking, Denial, Fate, Seen, Way, decide_by};
use super::super::packet::{Exit, Ip4, Ip6, Version, question_of_flow, redirected};
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
    match (flow.key(Direction::Forward), flow.key(Direction::Reverse)) {
        (AnyFlowKey::Ip4(key), AnyFlowKey::Ip4(reply)) => {
            would_of::<Ip4>(policy, &key, &reply, input, exit)
        }
        (AnyFlowKey::Ip6(key), AnyFlowKey::Ip6(reply)) => {
            would_of::<Ip6>(policy, &key, &reply, input, exit)
        }
        _ => None,
    }
}

fn would_of<V: Version>(
    policy: &Policy,
    key: &V::Key,
    reply: &V::Key,
    input: u16,
    exit: Exit,
) -> Option<Staged> {
    let before = question_of_flow::<V>(key);
    let after = question_of_flow::<V>(&redirected::<V>(key, reply));
    would(policy, &before, &after, input, exit, true)
}

/// What staged policies would do with a packet of no flow, where they concern it.
pub(super) fn staged<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    packet: &Lone<'_, A>,
) -> Option<Staged> {
    would(
        policy,
        packet.asked,
        packet.after,
        packet.input,
        packet.exit,
        false,
    )
}

fn would<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    before: &Key<A>,
    after: &Key<A>,
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
    let classified = |key: &Key<A>| match classify {
        true => policy.classify(*key),
        false => *key,
    };
    let (before, after) = (classified(before), classified(after));
    Some(
        match walk(policy, [&before, &after], input, way, AsStaged) {
            Fate::Pass { rules, .. } => Staged { allow: true, rules },
            Fate::Deny { rule, .. } => Staged {
                allow: false,
                rules: [rule, RuleId::NONE],
            },
        },
    )
}

/// The rule that denies a packet, as enforced; none where none does.
pub(super) fn denier<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    packet: &Lone<'_, A>,
) -> RuleId {
    let (input, way) = (policy.of(packet.input), way(policy, packet.exit));
    match walk(policy, [packet.asked, packet.after], input, way, Quiet) {
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
    let _ = walk(policy, [packet.asked, packet.after], input, way, asking);
}

fn way(policy: &Policy, exit: Exit) -> Way<'_> {
    match exit {
        Exit::Host => Way::Host,
        Exit::Interface(number) => Way::Out(policy.of(number)),
        Exit::Nowhere => Way::Nowhere,
    }
}

/// All lists, the untracked one first, about a packet before and after its destination is translated.
fn walk<A: JudgedAddress + SetAddress>(
    policy: &Policy,
    [before, after]: [&Key<A>; 2],
    input: Option<&InterfacePolicy>,
    way: Way<'_>,
    mut asking: impl Asking,
) -> Fate {
    let mut untracked = false;
    if let Some(host) = input.filter(|input| input.kind == EndpointKind::Host)
        && let Some(list) = &asking.lists(host).untracked[INGRESS]
    {
        let judgement = asking.judge(list, before);
        if judgement.is_decided() && !judgement.allow {
            return Fate::Deny {
                by: Denial::Policy,
                rule: judgement.rule,
            };
        }
        untracked = judgement.is_decided();
    }
    let settings = &policy.settings;
    let seen = Seen {
        before,
        after,
        leaving: Some(after),
    };
    decide_by(seen, input, way, untracked, settings, &mut asking)
}
