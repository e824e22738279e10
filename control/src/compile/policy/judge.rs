//! What the compiled programs say about a packet, in the order in which nodes ask them.

use std::net::IpAddr;

use graph_nodes::policy::{
    EGRESS, INGRESS, INPUT, JudgedAddress, Judgement, Lists, OUTPUT, Program, RuleId, SetAddress,
    Sets,
};
use model::policy::reference::{EndpointId, Packet};
use model::policy::{AccessDirection, Direction, Protocol};
use tables::acl::Key;

use super::reasons;
use super::{CompiledPolicy, Endpoint};

/// What happens to a packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Whether it passes.
    pub allow: bool,
    /// Number of what decided; see [`super::Reasons`].
    pub rule: RuleId,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What happens.
    pub enforced: Judged,
    /// What would happen if staged policies were enforced.
    pub staged: Judged,
    /// Whether the flow goes untracked.
    pub untracked: bool,
    /// Rules that log the packet on the way to the enforced verdict.
    pub logs: Vec<RuleId>,
}

impl CompiledPolicy {
    /// Judges the first packet of a flow by an endpoint's own policy.
    pub fn judge(&self, endpoint: &EndpointId, direction: Direction, packet: &Packet) -> Verdict {
        let Some(compiled) = self.endpoint(endpoint) else {
            let nobody = deny(reasons::NO_ENDPOINT);
            return Verdict {
                enforced: nobody,
                staged: nobody,
                untracked: false,
                logs: Vec::new(),
            };
        };
        let host = matches!(endpoint, EndpointId::Host(_));
        let mut walk = Walk {
            sets: &self.sets,
            endpoint: compiled,
            direction,
            packet,
            untracked: false,
            logs: Vec::new(),
        };
        let enforced = walk.lists(&compiled.lists, host);
        let (untracked, logs) = (walk.untracked, std::mem::take(&mut walk.logs));
        let staged = match &compiled.staged {
            Some(lists) => walk.lists(lists, host),
            None => enforced,
        };
        Verdict {
            enforced,
            staged,
            untracked,
            logs,
        }
    }
}

impl CompiledPolicy {
    /// What a host endpoint for all interfaces says about a packet on a workload's interface, whose direction is the workload's. `None` where it is not here,
    /// or has no say; see [`model::policy::reference::evaluate_all_interfaces`].
    pub fn judge_all_interfaces(
        &self,
        host: &str,
        direction: Direction,
        packet: &Packet,
    ) -> Option<Verdict> {
        let endpoint = self.hosts.get(host)?;
        let direction = match direction {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress if packet.with_own_host => return None,
            Direction::Ingress => Direction::Egress,
        };
        let mut walk = Walk {
            sets: &self.sets,
            endpoint,
            direction,
            packet,
            untracked: false,
            logs: Vec::new(),
        };
        let enforced = walk.all_interfaces(&endpoint.lists);
        let logs = std::mem::take(&mut walk.logs);
        let staged = endpoint.staged.as_ref();
        Some(Verdict {
            enforced,
            staged: staged.map_or(enforced, |lists| walk.all_interfaces(lists)),
            untracked: false,
            logs,
        })
    }
}

/// What an interface's access lists say about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessJudged {
    /// Whether it passes, and what decided.
    pub judged: Judged,
    /// Whether its flow is tracked.
    pub reflect: bool,
}

impl CompiledPolicy {
    /// Judges a packet by an interface's access lists. `None` where it has none.
    pub fn judge_access(
        &self,
        interface: &str,
        direction: AccessDirection,
        packet: &Packet,
    ) -> Option<AccessJudged> {
        let at = match direction {
            AccessDirection::Input => INPUT,
            AccessDirection::Output => OUTPUT,
        };
        let access = self.access.get(interface)?[at].as_ref()?;
        let judgement = judge(&access.program, &self.sets, packet, false, &mut |_| ());
        Some(AccessJudged {
            judged: Judged {
                allow: judgement.allow,
                rule: judgement.rule,
            },
            reflect: access.reflects.binary_search(&judgement.rule).is_ok(),
        })
    }
}

struct Walk<'a> {
    sets: &'a Sets,
    endpoint: &'a Endpoint,
    direction: Direction,
    packet: &'a Packet,
    untracked: bool,
    logs: Vec<RuleId>,
}

fn allow(rule: RuleId) -> Judged {
    Judged { allow: true, rule }
}

fn deny(rule: RuleId) -> Judged {
    Judged { allow: false, rule }
}

impl Walk<'_> {
    fn lists(&mut self, lists: &Lists, host: bool) -> Judged {
        if host {
            self.host(lists)
        } else {
            self.workload(lists)
        }
    }

    fn at(&self) -> usize {
        match self.direction {
            Direction::Ingress => INGRESS,
            Direction::Egress => EGRESS,
        }
    }

    fn workload(&mut self, lists: &Lists) -> Judged {
        let with_host = self.packet.with_own_host;
        if with_host && self.direction == Direction::Ingress {
            return allow(reasons::FROM_HOST);
        }
        // Multicast listener and neighbour discovery: RFC 2710, RFC 4861.
        if with_host && self.is_icmp6(&[130, 131, 132, 133, 135, 136]) {
            return allow(reasons::NEIGHBOUR_DISCOVERY);
        }
        let judged = self
            .ask(lists.normal[self.at()].as_deref(), false)
            .unwrap_or_else(|| deny(reasons::NO_MATCH));
        if judged.allow && with_host && self.endpoint.drops_to_host {
            return deny(reasons::ENDPOINT_TO_HOST);
        }
        judged
    }

    fn host(&mut self, lists: &Lists) -> Judged {
        let at = self.at();
        let incoming = self.direction == Direction::Ingress;
        // What is forwarded out passes no untracked list.
        if (incoming || !self.packet.forwarded)
            && let Some(judged) = self.ask(lists.untracked[at].as_deref(), true)
        {
            self.untracked = judged.allow;
            return judged;
        }
        if incoming && let Some(judged) = self.ask(lists.pre_dnat.as_deref(), true) {
            return judged;
        }
        if !self.packet.forwarded {
            return self
                .ask(lists.normal[at].as_deref(), false)
                .unwrap_or_else(|| deny(reasons::NO_MATCH));
        }
        let undecided = if self.is_icmp6(&[133, 134, 135, 136]) {
            reasons::NEIGHBOUR_DISCOVERY
        } else {
            reasons::NO_FORWARD_POLICY
        };
        self.ask(lists.forward[at].as_deref(), false)
            .unwrap_or_else(|| allow(undecided))
    }

    fn all_interfaces(&mut self, lists: &Lists) -> Judged {
        let to_host = self.packet.with_own_host;
        let discovery = self.is_icmp6(&[133, 134, 135, 136]);
        if discovery || to_host && self.is_icmp6(&[130, 131, 132]) {
            return allow(reasons::NEIGHBOUR_DISCOVERY);
        }
        let at = self.at();
        if at == INGRESS
            && let Some(judged) = self.ask(lists.pre_dnat.as_deref(), true)
        {
            return judged;
        }
        self.ask(lists.forward[at].as_deref().filter(|_| !to_host), false)
            .unwrap_or_else(|| allow(reasons::NO_FORWARD_POLICY))
    }

    fn is_icmp6(&self, kinds: &[u8]) -> bool {
        self.packet.source.is_ipv6()
            && self.packet.protocol == Protocol::ICMPV6.number()
            && self
                .packet
                .icmp
                .is_some_and(|(kind, _)| kinds.contains(&kind))
    }

    /// `None` where there is no program, or it does not decide.
    fn ask(&mut self, program: Option<&Program>, early: bool) -> Option<Judged> {
        let judgement = judge(program?, self.sets, self.packet, early, &mut |rule| {
            self.logs.push(rule);
        });
        judgement.is_decided().then_some(Judged {
            allow: judgement.allow,
            rule: judgement.rule,
        })
    }
}

/// Before destination translation if `early`, after it otherwise.
fn judge(
    program: &Program,
    sets: &Sets,
    packet: &Packet,
    early: bool,
    log: &mut dyn FnMut(RuleId),
) -> Judgement {
    let before = packet.pre_nat_destination.filter(|_| early);
    match (packet.source, before.unwrap_or(packet.destination)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            judge_of::<u32>(program, sets, packet, early, (from.into(), to.into()), log)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            judge_of::<u128>(program, sets, packet, early, (from.into(), to.into()), log)
        }
        // No packet has addresses of both versions.
        _ => Judgement::UNDECIDED,
    }
}

fn judge_of<A: SetAddress + JudgedAddress>(
    program: &Program,
    sets: &Sets,
    packet: &Packet,
    early: bool,
    (source, destination): (A, A),
    log: &mut dyn FnMut(RuleId),
) -> Judgement {
    let before = packet.pre_nat_destination_port.filter(|_| early);
    let key = match (
        packet.source_port,
        before.or(packet.destination_port),
        packet.icmp,
    ) {
        (Some(from), Some(to), _) => {
            Key::with_ports(source, destination, packet.protocol, from, to)
        }
        (_, _, Some((kind, code))) if packet.protocol == A::ICMP => {
            Key::icmp(source, destination, kind, code)
        }
        _ => Key::opaque(source, destination, packet.protocol),
    };
    let key = sets.classify(key);
    if program.has_logs() {
        program.logs(&key, &sets.classes, log);
    }
    program.judge(&key)
}
