use std::collections::BTreeSet;

use ipnet::IpNet;
use proptest::prelude::*;

use super::super::generate::{self, Random};
use super::super::reference::{Packet, Reason, evaluate, rule_matches};
use super::super::resolve::{
    NamedPort, ResolvedPolicy, ResolvedRule, ResolvedSide, ServiceMatch, scoped_selector,
};
use super::super::{Direction, IpVersion, Object, PolicyState, Protocol, ResourceId, Selector};

/// What a resolved rule's references stand for, and how it matches: as a dataplane would have it, with sets of addresses instead of labels.
struct Sets<'a>(&'a PolicyState);

impl Sets<'_> {
    fn nets(&self, selector: &Selector) -> Vec<IpNet> {
        let state = self.0;
        let mut nets = Vec::new();
        for workload in state.workload_endpoints.values() {
            if selector.matches(&state.labels_of_workload(workload).to_labels()) {
                nets.extend(workload.addresses.iter().copied().map(IpNet::from));
            }
        }
        for host in state.host_endpoints.values() {
            if selector.matches(&state.labels_of_host(host).to_labels()) {
                nets.extend(host.expected_ips.iter().copied().map(IpNet::from));
            }
        }
        for set in state
            .network_sets
            .values()
            .chain(state.global_network_sets.values())
        {
            if selector.matches(&state.labels_of_set(set)) {
                nets.extend(&set.nets);
            }
        }
        nets
    }

    fn ports(&self, named: &NamedPort) -> BTreeSet<(std::net::IpAddr, u8, u16)> {
        let state = self.0;
        let wanted = |protocol: Protocol| named.protocol.is_none_or(|only| only == protocol);
        let workloads = state.workload_endpoints.values().map(|workload| {
            let labels = state.labels_of_workload(workload);
            (labels, &workload.addresses, &workload.ports)
        });
        let hosts = state.host_endpoints.values().map(|host| {
            let labels = state.labels_of_host(host);
            (labels, &host.expected_ips, &host.ports)
        });
        let mut set = BTreeSet::new();
        for (labels, addresses, ports) in workloads.chain(hosts) {
            if !named.selector.matches(&labels) {
                continue;
            }
            for port in ports {
                if port.name == named.name && wanted(port.protocol) {
                    set.extend(
                        addresses
                            .iter()
                            .map(|address| (*address, port.protocol.number(), port.port)),
                    );
                }
            }
        }
        set
    }

    fn service(&self, wanted: &ServiceMatch, address: std::net::IpAddr, port: (u8, u16)) -> bool {
        self.0.endpoint_slices.values().any(|slice| {
            slice
                .service
                .as_ref()
                .is_some_and(|service| service.to_string() == wanted.service.to_string())
                && slice.addresses.contains(&address)
                && (!wanted.with_port
                    || slice
                        .ports
                        .iter()
                        .any(|(protocol, number)| (protocol.number(), *number) == port))
        })
    }

    fn matches(&self, rule: &ResolvedRule, packet: &Packet) -> bool {
        let version = packet.ip_version();
        let is = |protocol: Protocol| protocol.number() == packet.protocol;
        if rule.ip_version.is_some_and(|wanted| wanted != version)
            || rule.protocol.is_some_and(|wanted| !is(wanted))
            || rule.not_protocol.is_some_and(is)
        {
            return false;
        }
        for (wanted, hit) in [(rule.icmp, true), (rule.not_icmp, false)] {
            let Some(wanted) = wanted else { continue };
            match packet.icmp {
                Some((kind, code)) if wanted.matches(kind, code) == hit => {}
                _ => return false,
            }
        }
        let source = (packet.source, packet.source_port);
        let destination = (packet.destination, packet.destination_port);
        self.side(&rule.source, packet, version, source)
            && self.side(&rule.destination, packet, version, destination)
    }

    fn side(
        &self,
        side: &ResolvedSide,
        packet: &Packet,
        version: IpVersion,
        (address, port): (std::net::IpAddr, Option<u16>),
    ) -> bool {
        let inside = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        let family = |nets: &[IpNet]| {
            nets.is_empty() || nets.iter().any(|net| IpVersion::of_net(net) == version)
        };
        if !family(&side.nets) || !family(&side.not_nets) {
            return false;
        }
        if !side.nets.is_empty() && !inside(&side.nets) || inside(&side.not_nets) {
            return false;
        }
        if side
            .selector
            .as_ref()
            .is_some_and(|selector| !inside(&self.nets(selector)))
            || side
                .not_selector
                .as_ref()
                .is_some_and(|selector| inside(&self.nets(selector)))
        {
            return false;
        }
        let ranges = |ranges: &[(u16, u16)]| {
            port.is_some_and(|port| ranges.iter().any(|(a, b)| (*a..=*b).contains(&port)))
        };
        let named = |sets: &[NamedPort]| {
            port.is_some_and(|port| {
                sets.iter()
                    .any(|set| self.ports(set).contains(&(address, packet.protocol, port)))
            })
        };
        let any = side.ports.is_empty() && side.named_ports.is_empty();
        (any || ranges(&side.ports) || named(&side.named_ports))
            && !ranges(&side.not_ports)
            && !named(&side.not_named_ports)
            && side.service.as_ref().is_none_or(|service| {
                self.service(service, address, (packet.protocol, port.unwrap_or(0)))
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Resolution says in sets of addresses what the reference reads from the objects.
    #[test]
    fn resolved_rules_match_what_rules_match(seed in any::<u64>(), size in 1usize..12) {
        let state = generate::state(seed, size);
        let sets = Sets(&state);
        for (id, policy) in &state.policies {
            let resolved = ResolvedPolicy::new(id, policy);
            for workload in state.workload_endpoints.values() {
                let labels = state.labels_of_workload(workload);
                let applies = super::super::reference::policy_applies(id, policy, &labels);
                prop_assert_eq!(resolved.selector.matches(&labels), applies, "{} {}", id, resolved.selector);
            }
            for direction in [Direction::Ingress, Direction::Egress] {
                for (rule, resolved) in policy.rules(direction).iter().zip(resolved.rules(direction)) {
                    for packet in 0..12 {
                        let mut packet = generate::packet(seed.wrapping_add(packet), &state);
                        if let (Some(protocol), true) = (rule.protocol, packet.protocol != 1) {
                            // Half of the packets have the rule's protocol, or most rules match nothing.
                            if protocol.has_ports() {
                                packet.protocol = protocol.number();
                                packet.icmp = None;
                                packet = packet.with_ports(packet.source_port.unwrap_or(80), packet.destination_port.unwrap_or(80));
                            }
                        }
                        let expected = rule_matches(&state, rule, id.namespace.as_deref(), &packet, false);
                        prop_assert_eq!(sets.matches(resolved, &packet), expected, "{:?}\n{:?}\n{:?}", rule, resolved, packet);
                    }
                }
            }
        }
    }

    /// Every canonical selector of a resolved policy is read back as itself.
    #[test]
    fn resolved_selectors_are_canonical(seed in any::<u64>()) {
        let state = generate::state(seed, 8);
        for (id, policy) in &state.policies {
            for rule in policy.ingress.iter().chain(&policy.egress) {
                for side in [&rule.source, &rule.destination] {
                    if let Some(selector) = scoped_selector(side, id.namespace.as_deref()) {
                        let again = Selector::of_any_length(selector.as_str()).expect("canonical");
                        prop_assert_eq!(again, selector);
                    }
                }
            }
        }
    }

    /// What is generated is valid, well formed, and the same for the same seed; what is put in can be taken out.
    #[test]
    fn generated_states_are_valid(seed in any::<u64>(), size in 0usize..20) {
        let documents = generate::documents(seed, size);
        prop_assert_eq!(&documents, &generate::documents(seed, size));
        let mut state = PolicyState::default();
        let mut ids: Vec<ResourceId> = Vec::new();
        for document in &documents {
            let json: serde_json::Value = serde_json::from_str(&document.to_string()).expect("JSON");
            prop_assert_eq!(&super::value(&json), document);
            let object = Object::read(document).expect("valid");
            ids.push(object.id.clone());
            state.insert(object);
        }
        prop_assert_eq!(&state, &generate::state(seed, size));
        prop_assert!(state.validate().is_ok());
        for packet in 0..20 {
            prop_assert_eq!(generate::packet(packet, &state).check(), Ok(()));
            let (_, _, packet) = generate::case(packet, &state).expect("has endpoints");
            prop_assert_eq!(packet.check(), Ok(()));
        }
        for id in &ids {
            state.remove(id);
            prop_assert!(!state.remove(id));
        }
        prop_assert_eq!(state, PolicyState::default());
    }
}

/// Random cases come to every kind of decision: a generator that stopped to reach one would test less without saying so.
#[test]
fn random_cases_come_to_every_decision() {
    let mut seen = BTreeSet::new();
    let (mut allowed, mut logged, mut untracked, mut differ) = (0, 0, 0, 0);
    let mut random = Random::new(7);
    let cases = 20_000;
    for _ in 0..200 {
        let state = generate::state(random.draw(), 10);
        for _ in 0..cases / 200 {
            let Some((endpoint, direction, packet)) = generate::case(random.draw(), &state) else {
                continue;
            };
            let verdict = evaluate(&state, &endpoint, direction, &packet);
            let reason = &verdict.enforced.reason;
            seen.insert(match reason {
                Reason::Rule(rule) => rule.policy.kind.as_str(),
                reason => reason.as_str(),
            });
            allowed += usize::from(verdict.enforced.allow);
            logged += usize::from(!verdict.logs.is_empty());
            untracked += usize::from(verdict.untracked);
            differ += usize::from(verdict.enforced != verdict.staged);
        }
    }
    let expected = [
        "GlobalNetworkPolicy",
        "KubernetesClusterNetworkPolicy",
        "KubernetesNetworkPolicy",
        "NetworkPolicy",
        "default action towards the host",
        "encapsulated by a workload",
        "end of tier",
        "failsafe port",
        "from the workload's host",
        "missing profile",
        "neighbour discovery",
        "no policy for forwarded traffic",
        "no policy or profile matches",
        "profile",
    ];
    assert_eq!(seen, BTreeSet::from(expected));
    assert!(allowed > cases / 5 && allowed < cases * 4 / 5, "{allowed}");
    assert!(logged > cases / 100, "{logged}");
    assert!(untracked > 0);
    assert!(differ > cases / 50, "{differ}");
}
