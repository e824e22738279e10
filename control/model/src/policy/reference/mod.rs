//! What policies mean: a plain evaluator that judges one packet straight from the objects.
//!
//! It looks at every object for every packet and shares nothing with resolution, indexes and compiled tables, which are measured by it.

mod matching;

use std::net::IpAddr;

use super::Direction;
use super::access::AccessDirection;
use super::endpoint::HostEndpoint;
use super::felix::{EndpointToHost, FailsafePort, Felix};
use super::id::{NamespacedName, PolicyId, PolicyKind};
use super::network_policy::{Policy, StagedAction};
use super::rule::{Action, IpVersion, Protocol, Rule};
use super::selector::LabelSource;
use super::state::PolicyState;
use super::tier::{EndOfTier, Tier};
use crate::Invalid;
use crate::error::invalid;
use matching::Sight;

/// Whose policy judges.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointId {
    /// A workload endpoint.
    Workload(NamespacedName),
    /// A host endpoint.
    Host(Box<str>),
}

/// The first packet of a flow, as far as policy looks at it: after destination translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// Where the protocol has ports.
    pub source_port: Option<u16>,
    /// Where the protocol has ports.
    pub destination_port: Option<u16>,
    /// Type and code, where the protocol is ICMP or ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// For host endpoints: it passes through the host, rather than coming from or going to the host itself.
    pub forwarded: bool,
    /// For workloads: the other end is the host that the workload is on.
    pub with_own_host: bool,
    /// Where it went before translation, if elsewhere.
    pub pre_nat_destination: Option<IpAddr>,
    /// The port before translation, if another.
    pub pre_nat_destination_port: Option<u16>,
}

impl Packet {
    /// A packet of a protocol without ports and types, as it was sent.
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            source_port: None,
            destination_port: None,
            icmp: None,
            forwarded: false,
            with_own_host: false,
            pre_nat_destination: None,
            pre_nat_destination_port: None,
        }
    }

    /// With ports.
    pub fn with_ports(mut self, source: u16, destination: u16) -> Self {
        (self.source_port, self.destination_port) = (Some(source), Some(destination));
        self
    }

    /// Its version of IP.
    pub fn ip_version(&self) -> IpVersion {
        IpVersion::of(self.source)
    }

    /// Checks that its parts go together.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn check(&self) -> Result<(), Invalid> {
        let version = self.ip_version();
        let same = |address: IpAddr| IpVersion::of(address) == version;
        if !same(self.destination) || !self.pre_nat_destination.is_none_or(same) {
            return Err(invalid!(
                "source and destination are of different IP versions"
            ));
        }
        let ported = Protocol::new(self.protocol).is_ok_and(Protocol::has_ports);
        if ported != self.source_port.is_some() || ported != self.destination_port.is_some() {
            return Err(invalid!(
                "protocol {} {}",
                self.protocol,
                if ported {
                    "needs both ports"
                } else {
                    "has no ports"
                }
            ));
        }
        let icmp = match version {
            IpVersion::V4 => Protocol::ICMP,
            IpVersion::V6 => Protocol::ICMPV6,
        };
        if (self.protocol == icmp.number()) != self.icmp.is_some() {
            return Err(invalid!(
                "a type belongs to ICMP in IPv4 and ICMPv6 in IPv6, and is required there"
            ));
        }
        if self.pre_nat_destination_port.is_some() && !ported {
            return Err(invalid!("protocol {} has no ports", self.protocol));
        }
        Ok(())
    }
}

/// A rule, by where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// The policy's tier.
    pub tier: Box<str>,
    /// The policy.
    pub policy: PolicyId,
    /// Position among the policy's rules of the direction, from 0.
    pub rule: usize,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A rule of a policy.
    Rule(RuleRef),
    /// Policies of a tier applied, no rule of theirs matched, and the tier's default action is Deny.
    EndOfTier {
        /// The tier.
        tier: Box<str>,
    },
    /// A rule of a profile.
    Profile {
        /// The profile.
        profile: Box<str>,
        /// Position among its rules of the direction, from 0.
        rule: usize,
    },
    /// A profile that does not exist denies everything.
    MissingProfile {
        /// The profile.
        profile: Box<str>,
    },
    /// No tier decided, and no rule of a profile matched: denied.
    NoMatch,
    /// No policy decides about forwarded traffic: allowed.
    NoForwardPolicy,
    /// A port that is always open on hosts.
    Failsafe,
    /// Neighbour discovery and multicast listener discovery, always allowed with hosts.
    NeighbourDiscovery,
    /// From a workload's own host: always allowed.
    FromHost,
    /// From a workload to its own host: what the egress policy allowed was denied by the default action.
    EndpointToHost,
    /// VXLAN or IP in IP that a workload may not send.
    Encapsulation,
    /// There is no such endpoint: denied.
    NoEndpoint,
}

impl Reason {
    /// The tier, where one decided.
    pub fn tier(&self) -> Option<&str> {
        match self {
            Self::Rule(rule) => Some(&rule.tier),
            Self::EndOfTier { tier } => Some(tier),
            _ => None,
        }
    }

    /// The policy or profile whose rule decided: `namespace/name` or `name`.
    pub fn policy(&self) -> Option<String> {
        match self {
            Self::Rule(rule) => Some(rule.policy.to_string()),
            Self::Profile { profile, .. } | Self::MissingProfile { profile } => {
                Some(profile.to_string())
            }
            _ => None,
        }
    }

    /// The position of the rule that decided.
    pub fn rule(&self) -> Option<usize> {
        match self {
            Self::Rule(rule) => Some(rule.rule),
            Self::Profile { rule, .. } => Some(*rule),
            _ => None,
        }
    }

    /// What decided, in words, where no rule did.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Rule(_) => "rule",
            Self::EndOfTier { .. } => "end of tier",
            Self::Profile { .. } => "profile",
            Self::MissingProfile { .. } => "missing profile",
            Self::NoMatch => "no policy or profile matches",
            Self::NoForwardPolicy => "no policy for forwarded traffic",
            Self::Failsafe => "failsafe port",
            Self::NeighbourDiscovery => "neighbour discovery",
            Self::FromHost => "from the workload's host",
            Self::EndpointToHost => "default action towards the host",
            Self::Encapsulation => "encapsulated by a workload",
            Self::NoEndpoint => "no such endpoint",
        }
    }
}

/// Whether a packet passes, and what decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it passes.
    pub allow: bool,
    /// What decided.
    pub reason: Reason,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What happens.
    pub enforced: Decision,
    /// What would happen if staged policies were enforced: those that are set stand beside or in place of the enforced ones of their names, and those
    /// that are deleted take them away.
    pub staged: Decision,
    /// Rules that log the packet on the way to the enforced decision.
    pub logs: Vec<RuleRef>,
    /// Whether the flow goes untracked: a doNotTrack policy allowed it.
    pub untracked: bool,
}

/// Judges the first packet of a flow by an endpoint's own policy.
pub fn evaluate(
    state: &PolicyState,
    endpoint: &EndpointId,
    direction: Direction,
    packet: &Packet,
) -> Verdict {
    let judge = |staged| {
        Judge {
            state,
            direction,
            packet,
            staged,
            logs: Vec::new(),
            untracked: false,
        }
        .endpoint(endpoint)
    };
    let (staged, ..) = judge(true);
    let (enforced, logs, untracked) = judge(false);
    Verdict {
        enforced,
        staged,
        logs,
        untracked,
    }
}

/// What the host endpoint for all interfaces (`interfaceName: "*"`) of a workload's node says about a packet on the workload's interface: its policies
/// before translation and those for forwarded traffic judge there too, beside the workload's own. `direction` is the workload's; what a workload sends
/// comes in for the host. Where none of these policies decides, the packet is allowed for want of one. `None` where there is no such endpoint, or where it
/// has no say: about packets from the workload's own host.
pub fn evaluate_all_interfaces(
    state: &PolicyState,
    workload: &NamespacedName,
    direction: Direction,
    packet: &Packet,
) -> Option<Verdict> {
    let workload = state.workload_endpoints.get(workload)?;
    let (_, host) = state.host_endpoint_of_all(&workload.node)?;
    let direction = match direction {
        Direction::Egress => Direction::Ingress,
        Direction::Ingress if packet.with_own_host => return None,
        Direction::Ingress => Direction::Egress,
    };
    let judge = |staged| {
        let mut judge = Judge {
            state,
            direction,
            packet,
            staged,
            logs: Vec::new(),
            untracked: false,
        };
        (judge.all_interfaces(host), judge.logs)
    };
    let (staged, _) = judge(true);
    let (enforced, logs) = judge(false);
    Some(Verdict {
        enforced,
        staged,
        logs,
        untracked: false,
    })
}

/// Whether a rule of a policy in a namespace, or of one in none, matches a packet: before destination translation if `early`, after it otherwise.
pub fn rule_matches(
    state: &PolicyState,
    rule: &Rule,
    namespace: Option<&str>,
    packet: &Packet,
    early: bool,
) -> bool {
    matching::rule(state, rule, namespace, &Sight::new(packet, early))
}

/// What an interface's access lists say about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessVerdict {
    /// Whether it passes.
    pub allow: bool,
    /// Whether its flow is tracked.
    pub reflect: bool,
    /// The list and the position of the rule that decided; `None` where no rule matched.
    pub rule: Option<(Box<str>, usize)>,
}

/// Judges a packet by an interface's access lists. `None` where it has none.
pub fn evaluate_access(
    state: &PolicyState,
    interface: &str,
    direction: AccessDirection,
    packet: &Packet,
) -> Option<AccessVerdict> {
    let lists = state.access_lists_of(interface, direction);
    if lists.is_empty() {
        return None;
    }
    for (name, list) in lists {
        for (index, rule) in list.rules.iter().enumerate() {
            if matching::access_rule(rule, packet) {
                return Some(AccessVerdict {
                    allow: rule.permit,
                    reflect: rule.reflect,
                    rule: Some((name.into(), index)),
                });
            }
        }
    }
    Some(AccessVerdict {
        allow: false,
        reflect: false,
        rule: None,
    })
}

/// Which of a host endpoint's lists a policy is in. Workloads have the normal one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum List {
    Untracked,
    PreDnat,
    Normal,
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

    /// Before translation the destination is the original one.
    fn is_early(self) -> bool {
        matches!(self, Self::Untracked | Self::PreDnat)
    }
}

struct Judge<'a> {
    state: &'a PolicyState,
    direction: Direction,
    packet: &'a Packet,
    staged: bool,
    logs: Vec<RuleRef>,
    untracked: bool,
}

/// VXLAN's UDP port (RFC 7348 section 8).
const VXLAN: u16 = 4789;

/// IP in IP (RFC 2003).
const IP_IN_IP: u8 = 4;

fn allow(reason: Reason) -> Decision {
    Decision {
        allow: true,
        reason,
    }
}

fn deny(reason: Reason) -> Decision {
    Decision {
        allow: false,
        reason,
    }
}

impl Judge<'_> {
    fn endpoint(mut self, endpoint: &EndpointId) -> (Decision, Vec<RuleRef>, bool) {
        let decision = match endpoint {
            EndpointId::Workload(id) => self.workload(id),
            EndpointId::Host(name) => self.host(name),
        };
        (decision, self.logs, self.untracked)
    }

    fn workload(&mut self, id: &NamespacedName) -> Decision {
        let Some(workload) = self.state.workload_endpoints.get(id) else {
            return deny(Reason::NoEndpoint);
        };
        let felix = self.state.felix_of(&workload.node);
        let packet = self.packet;
        if packet.with_own_host && self.direction == Direction::Ingress {
            return allow(Reason::FromHost);
        }
        if self.direction == Direction::Egress {
            // MLD and ND: RFC 2710, RFC 4861.
            if packet.with_own_host && self.is_icmp6(&[130, 131, 132, 133, 135, 136]) {
                return allow(Reason::NeighbourDiscovery);
            }
            let vxlan =
                packet.protocol == Protocol::UDP.number() && packet.destination_port == Some(VXLAN);
            let ipip = packet.protocol == IP_IN_IP;
            if vxlan && !felix.vxlan_from_workloads || ipip && !felix.ipip_from_workloads {
                return deny(Reason::Encapsulation);
            }
        }
        let labels = self.state.labels_of_workload(workload);
        let decision = self
            .tiers(List::Normal, &labels)
            .unwrap_or_else(|| self.profiles(&workload.profiles));
        if decision.allow && packet.with_own_host && felix.endpoint_to_host == EndpointToHost::Drop
        {
            return deny(Reason::EndpointToHost);
        }
        decision
    }

    fn host(&mut self, name: &str) -> Decision {
        let Some(host) = self.state.host_endpoints.get(name) else {
            return deny(Reason::NoEndpoint);
        };
        let labels = self.state.labels_of_host(host);
        let felix = self.state.felix_of(&host.node);
        // Router and neighbour solicitations and advertisements: RFC 4861 section 4.
        if self.is_icmp6(&[133, 134, 135, 136]) {
            return allow(Reason::NeighbourDiscovery);
        }
        // What is forwarded out passes no untracked list: those stand where the host sends and where packets come in.
        let incoming = self.direction == Direction::Ingress;
        if (incoming || !self.packet.forwarded)
            && !self.failsafe(&felix, List::Untracked)
            && let Some(decision) = self.tiers(List::Untracked, &labels)
        {
            self.untracked = decision.allow;
            return decision;
        }
        if incoming
            && !self.failsafe(&felix, List::PreDnat)
            && let Some(decision) = self.tiers(List::PreDnat, &labels)
        {
            return decision;
        }
        if self.packet.forwarded {
            return self
                .tiers(List::Forward, &labels)
                .unwrap_or_else(|| allow(Reason::NoForwardPolicy));
        }
        if self.failsafe(&felix, List::Normal) {
            return allow(Reason::Failsafe);
        }
        self.tiers(List::Normal, &labels)
            .unwrap_or_else(|| self.profiles(&host.profiles))
    }

    /// The part of a host endpoint's policy that holds on workload interfaces.
    fn all_interfaces(&mut self, host: &HostEndpoint) -> Decision {
        let labels = self.state.labels_of_host(host);
        let felix = self.state.felix_of(&host.node);
        let to_host = self.packet.with_own_host;
        let discovery = self.is_icmp6(&[133, 134, 135, 136]);
        if discovery || to_host && self.is_icmp6(&[130, 131, 132]) {
            return allow(Reason::NeighbourDiscovery);
        }
        let early = self.direction == Direction::Ingress && !self.failsafe(&felix, List::PreDnat);
        let early = early.then(|| self.tiers(List::PreDnat, &labels)).flatten();
        early
            .or_else(|| (!to_host).then(|| self.tiers(List::Forward, &labels))?)
            .unwrap_or_else(|| allow(Reason::NoForwardPolicy))
    }

    /// Whether the packet's port is one that is always open. An early list is then passed over, and the lists behind it still judge.
    fn failsafe(&self, felix: &Felix, list: List) -> bool {
        let sight = Sight::new(self.packet, list.is_early());
        let admits = |ports: &[FailsafePort], peer, port: Option<u16>| {
            port.is_some_and(|port| {
                ports
                    .iter()
                    .any(|failsafe| failsafe.admits(sight.protocol, peer, port))
            })
        };
        let (opened, peer, replies) = match self.direction {
            Direction::Ingress => (
                &felix.failsafe_inbound,
                sight.source,
                &felix.failsafe_outbound,
            ),
            Direction::Egress => (
                &felix.failsafe_outbound,
                sight.destination,
                &felix.failsafe_inbound,
            ),
        };
        admits(opened, peer, sight.destination_port)
            // Without tracking, replies have to be let through by their source port.
            || list == List::Untracked && admits(replies, peer, sight.source_port)
    }

    fn is_icmp6(&self, kinds: &[u8]) -> bool {
        self.packet.ip_version() == IpVersion::V6
            && self.packet.protocol == Protocol::ICMPV6.number()
            && self
                .packet
                .icmp
                .is_some_and(|(kind, _)| kinds.contains(&kind))
    }

    /// Walks the tiers. `None` where no tier decides.
    fn tiers(&mut self, list: List, labels: &impl LabelSource) -> Option<Decision> {
        let state = self.state;
        for (name, tier) in state.tiers_in_order() {
            if let Some(decision) = self.tier(&name, tier, list, labels) {
                return Some(decision);
            }
        }
        None
    }

    fn tier(
        &mut self,
        name: &str,
        tier: Tier,
        list: List,
        labels: &impl LabelSource,
    ) -> Option<Decision> {
        let state = self.state;
        let mut applies = false;
        for (id, policy) in state.policies_in_order(name) {
            let mine = self.counts(id, policy)
                && list.holds(policy)
                && policy.types.has(self.direction)
                && policy_applies(id, policy, labels);
            if !mine {
                continue;
            }
            applies = true;
            for (index, rule) in policy.rules(self.direction).iter().enumerate() {
                if !self.matches(rule, id.namespace.as_deref(), list.is_early()) {
                    continue;
                }
                let here = RuleRef {
                    tier: name.into(),
                    policy: id.clone(),
                    rule: index,
                };
                match rule.action {
                    Action::Allow => return Some(allow(Reason::Rule(here))),
                    Action::Deny => return Some(deny(Reason::Rule(here))),
                    Action::Pass => return None,
                    Action::Log => self.logs.push(here),
                }
            }
        }
        // The early lists only pick out: what they say nothing about goes on.
        let ends = applies && !list.is_early() && tier.default_action == EndOfTier::Deny;
        ends.then(|| deny(Reason::EndOfTier { tier: name.into() }))
    }

    /// Whether a policy counts in what is judged: what is enforced, or what would be.
    fn counts(&self, id: &PolicyId, policy: &Policy) -> bool {
        if id.kind.is_staged() {
            return self.staged
                && matches!(
                    policy.staged_action,
                    StagedAction::Set | StagedAction::Learn
                );
        }
        // Another one that is staged takes its place, or takes it away.
        let replaced = |kind: PolicyKind| {
            let staged = PolicyId { kind, ..id.clone() };
            self.state
                .policies
                .get(&staged)
                .is_some_and(|policy| policy.staged_action != StagedAction::Ignore)
        };
        let staged = [
            PolicyKind::StagedGlobalNetworkPolicy,
            PolicyKind::StagedNetworkPolicy,
            PolicyKind::StagedKubernetesNetworkPolicy,
        ]
        .into_iter()
        .find(|kind| kind.enforced() == Some(id.kind));
        !(self.staged && staged.is_some_and(replaced))
    }

    fn profiles(&mut self, profiles: &[Box<str>]) -> Decision {
        for name in profiles {
            let Some(profile) = self.state.profile(name) else {
                return deny(Reason::MissingProfile {
                    profile: name.clone(),
                });
            };
            for (index, rule) in profile.rules(self.direction).iter().enumerate() {
                if !self.matches(rule, None, false) {
                    continue;
                }
                let reason = Reason::Profile {
                    profile: name.clone(),
                    rule: index,
                };
                match rule.action {
                    Action::Allow => return allow(reason),
                    Action::Deny | Action::Pass => return deny(reason),
                    Action::Log => {}
                }
            }
        }
        deny(Reason::NoMatch)
    }

    fn matches(&self, rule: &Rule, namespace: Option<&str>, early: bool) -> bool {
        matching::rule(self.state, rule, namespace, &Sight::new(self.packet, early))
    }
}

/// Whether a policy applies to something with these labels.
pub(crate) fn policy_applies(id: &PolicyId, policy: &Policy, labels: &impl LabelSource) -> bool {
    let in_namespace = match &id.namespace {
        Some(namespace) => labels.label(super::NAMESPACE_LABEL) == Some(namespace),
        None => true,
    };
    in_namespace
        && policy.selector.matches(labels)
        && policy
            .namespace_selector
            .as_ref()
            .is_none_or(|selector| matching::namespaces(selector, labels))
        && policy
            .service_account_selector
            .as_ref()
            .is_none_or(|selector| matching::any_service_account(selector, labels))
}
