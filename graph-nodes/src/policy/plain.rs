//! The plain twin of both nodes: lists searched rule by rule, flows in a list, no program, no table; and the property that the
//! nodes' verdicts are its verdicts.

use std::sync::Arc;

use dataplane::TestPacket;
use proptest::prelude::*;
use tables::acl::{Key, Rule, SetClasses};
use wire::TcpFlags;
use wire::builder::{ip4, ip6};

use super::testing::*;
use super::*;

/// Rules in order and what is done at their end.
#[derive(Clone, Debug)]
struct List {
    rules: Vec<(Rule, Outcome, u32)>,
    end: (bool, u32),
}

#[derive(Clone, Debug)]
struct Endpoint {
    kind: EndpointKind,
    closed: bool,
    own_source: bool,
    normal: [Option<List>; 2],
    forward: [Option<List>; 2],
    pre_dnat: Option<List>,
    untracked: Option<List>,
    access: [Option<(List, Vec<u32>)>; 2],
}

/// A packet from host 10 of one interface to host 10 of another, or to host 1 of its own: this node.
#[derive(Clone, Copy, Debug)]
struct Packet {
    from: u16,
    to: u16,
    to_host: bool,
    forged: bool,
    protocol: u8,
    ports: (u16, u16),
}

impl List {
    fn first(&self, key: &Key<u32>) -> (bool, u32) {
        let sets = SetClasses::default();
        for (rule, outcome, number) in &self.rules {
            if rule.matches(key, &sets) {
                match outcome {
                    Outcome::Allow => return (true, *number),
                    Outcome::Deny => return (false, *number),
                    Outcome::Pass => break,
                }
            }
        }
        self.end
    }

    fn compiled(&self) -> Program {
        with_end(&self.rules, self.end.0, self.end.1)
    }
}

impl Endpoint {
    fn compiled(&self, number: u16) -> InterfacePolicy {
        let arc = |list: &Option<List>| list.as_ref().map(|list| Arc::new(list.compiled()));
        let access = |of: &Option<(List, Vec<u32>)>| {
            of.as_ref().map(|(list, reflects)| {
                Arc::new(AccessProgram {
                    program: list.compiled(),
                    reflects: reflects.iter().copied().map(RuleId).collect(),
                })
            })
        };
        let own = format!("10.0.{number}.10/32");
        let own6 = format!("2001:db8:0:{number:x}::a/128");
        InterfacePolicy {
            kind: self.kind,
            closed: self.closed,
            lists: Lists {
                normal: [arc(&self.normal[0]), arc(&self.normal[1])],
                forward: [arc(&self.forward[0]), arc(&self.forward[1])],
                pre_dnat: arc(&self.pre_dnat),
                untracked: [arc(&self.untracked), None],
            },
            staged: None,
            sources4: self.own_source.then(|| net4(&own)).into_iter().collect(),
            sources6: self.own_source.then(|| net6(&own6)).into_iter().collect(),
            access: [access(&self.access[0]), access(&self.access[1])],
        }
    }
}

impl Packet {
    fn target(self) -> (u16, u8) {
        if self.to_host {
            (self.from, 1)
        } else {
            (self.to, 10)
        }
    }

    /// Addresses as interface and host: the key is the same for both versions, as no rule here looks at addresses.
    fn key(self) -> Key<u32> {
        let (to, host) = self.target();
        let source = v4(self.from, if self.forged { 11 } else { 10 }).to_bits();
        Key::with_ports(
            source,
            v4(to, host).to_bits(),
            self.protocol,
            self.ports.0,
            self.ports.1,
        )
    }

    fn bytes(self, six: bool) -> Vec<u8> {
        let (to, host) = self.target();
        let from = if self.forged { 11 } else { 10 };
        let (a, b) = self.ports;
        match (six, self.protocol) {
            (false, 17) => ip4(v4(self.from, from), v4(to, host)).udp(a, b).build(),
            (false, _) => {
                let packet = ip4(v4(self.from, from), v4(to, host)).tcp(a, b);
                packet.flags(TcpFlags::ACK).build()
            }
            (true, 17) => ip6(v6(self.from, from), v6(to, host)).udp(a, b).build(),
            (true, _) => {
                let packet = ip6(v6(self.from, from), v6(to, host)).tcp(a, b);
                packet.flags(TcpFlags::ACK).build()
            }
        }
    }
}

/// What the documentation says, in its words and order. Flows: both directions' keys.
fn verdict(
    endpoints: &[Option<Endpoint>],
    flows: &mut Vec<Key<u32>>,
    packet: Packet,
    to_host_allowed: bool,
) -> &'static str {
    let input = endpoints[usize::from(packet.from)].as_ref();
    let output = endpoints[usize::from(packet.to)].as_ref();
    let output = output.filter(|_| !packet.to_host);
    let key = packet.key();
    let is = |end: Option<&Endpoint>, kind| end.is_some_and(|end| end.kind == kind);
    // In front of flows.
    if let Some(input) = input.filter(|end| end.kind == EndpointKind::Workload) {
        if input.closed {
            return "closed";
        }
        if input.own_source && packet.forged {
            return "spoofed";
        }
    }
    let mut untracked = false;
    if is(input, EndpointKind::Host)
        && let Some(list) = input.and_then(|end| end.untracked.as_ref())
    {
        match list.first(&key) {
            (_, 0) => {}
            (true, _) => untracked = true,
            (false, _) => return "policy-denied",
        }
    }
    if !untracked && flows.contains(&key) {
        return "pass";
    }
    let mut track = false;
    if let Some((list, reflects)) = input.and_then(|end| end.access[INPUT].as_ref()) {
        let (allow, rule) = list.first(&key);
        if !allow {
            return "access-list";
        }
        track |= reflects.contains(&rule);
    }
    // Of a host endpoint, or of the one for all interfaces where a workload is.
    if !untracked && (is(input, EndpointKind::Workload) || is(input, EndpointKind::Host)) {
        let mut settled = false;
        if let Some(list) = input.and_then(|end| end.pre_dnat.as_ref()) {
            let (allow, rule) = list.first(&key);
            if !allow {
                return "policy-denied";
            }
            settled = rule != 0;
            track = true;
        }
        let list = input.and_then(|end| match (end.kind, packet.to_host) {
            (EndpointKind::Workload, true) => None,
            (_, true) => end.normal[INGRESS].as_ref(),
            (_, false) => end.forward[INGRESS].as_ref(),
        });
        if let Some(list) = list.filter(|_| !settled) {
            if !list.first(&key).0 {
                return "policy-denied";
            }
            track = true;
        }
    }
    if is(input, EndpointKind::Workload) {
        match input.and_then(|end| end.normal[EGRESS].as_ref()) {
            None => return "closed",
            Some(list) if !list.first(&key).0 => return "policy-denied",
            Some(_) => track = true,
        }
        if packet.to_host && !to_host_allowed {
            return "workload-to-host";
        }
    }
    if is(output, EndpointKind::Workload) {
        let open = output.filter(|end| !end.closed);
        match open.and_then(|end| end.normal[INGRESS].as_ref()) {
            None => return "closed",
            Some(list) if !list.first(&key).0 => return "policy-denied",
            Some(_) => track = true,
        }
    }
    if (is(output, EndpointKind::Host) || is(output, EndpointKind::Workload))
        && let Some(list) = output.and_then(|end| end.forward[EGRESS].as_ref())
    {
        if !list.first(&key).0 {
            return "policy-denied";
        }
        track = true;
    }
    if let Some((list, reflects)) = output.and_then(|end| end.access[OUTPUT].as_ref()) {
        let (allow, rule) = list.first(&key);
        if !allow {
            return "access-list";
        }
        track |= reflects.contains(&rule);
    }
    if track && !untracked {
        let ports = key.ports().unwrap_or_default();
        let (source, destination) = (key.source(), key.destination());
        flows.push(key);
        flows.push(Key::with_ports(
            destination,
            source,
            key.protocol(),
            ports.1,
            ports.0,
        ));
    }
    "pass"
}

fn list(continues: bool) -> impl Strategy<Value = List> {
    let rule = prop_oneof![
        (prop::sample::select(vec![6, 17]), 1u16..5)
            .prop_map(|(protocol, port)| to_port(protocol, port)),
        prop::sample::select(vec![vec![6], vec![17]])
            .prop_map(|protocols| of_protocols(&protocols)),
    ];
    let outcome = prop::sample::select(vec![
        Outcome::Allow,
        Outcome::Allow,
        Outcome::Deny,
        Outcome::Pass,
    ]);
    let rules = prop::collection::vec((rule, outcome), 0..5);
    (rules, any::<bool>()).prop_map(move |(rules, end)| List {
        rules: rules
            .into_iter()
            .zip(1..)
            .map(|((rule, outcome), number)| (rule, outcome, number))
            .collect(),
        end: if continues { (true, 0) } else { (end, 77) },
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let maybe = |continues| prop::option::weighted(0.7, list(continues));
    let pair = || [maybe(false), maybe(false)];
    let access = || {
        let reflects = prop::sample::subsequence(vec![1, 2, 3, 4, 77], 0..5);
        prop::option::weighted(0.3, (list(false), reflects))
    };
    let kinds = vec![
        EndpointKind::None,
        EndpointKind::Workload,
        EndpointKind::Workload,
        EndpointKind::Host,
    ];
    (
        prop::sample::select(kinds),
        prop::bool::weighted(0.1),
        any::<bool>(),
        (pair(), pair()),
        prop::option::weighted(0.4, list(true)),
        prop::option::weighted(0.4, list(true)),
        [access(), access()],
    )
        .prop_map(
            |(kind, closed, own_source, (normal, forward), pre_dnat, untracked, access)| Endpoint {
                kind,
                closed,
                own_source,
                normal,
                forward,
                pre_dnat,
                untracked,
                access,
            },
        )
}

fn packet() -> impl Strategy<Value = Packet> {
    (
        (0u16..4, 0u16..4),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
        prop::sample::select(vec![6u8, 17]),
        (1u16..5, 1u16..5),
    )
        .prop_map(|((from, to), to_host, forged, protocol, ports)| Packet {
            from,
            to,
            to_host,
            forged,
            protocol,
            ports,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn verdicts_are_those_of_the_plain_twin(
        endpoints in prop::collection::vec(prop::option::weighted(0.8, endpoint()), 4),
        packets in prop::collection::vec(packet(), 1..400),
        to_host_allowed: bool,
        at_once: bool,
    ) {
        let compiled = || {
            let mut policy = policy([]);
            policy.settings.workload_to_host = to_host_allowed;
            for (number, endpoint) in (0..).zip(&endpoints) {
                let compiled = endpoint.as_ref().map(|of| Arc::new(of.compiled(number)));
                policy.interfaces[usize::from(number)] = compiled;
            }
            policy
        };
        for six in [false, true] {
            let mut gateway = if six {
                Gateway::ip6(compiled())
            } else {
                Gateway::ip4(compiled())
            };
            let mut flows = Vec::new();
            let expected: Vec<_> = packets
                .iter()
                .map(|packet| verdict(&endpoints, &mut flows, *packet, to_host_allowed))
                .collect();
            if at_once {
                let passed = expected.iter().filter(|verdict| **verdict == "pass").count();
                for chunk in packets.chunks(200) {
                    let frame = chunk.iter().map(|packet| TestPacket {
                        bytes: packet.bytes(six),
                        interface: packet.from,
                        ..TestPacket::default()
                    });
                    let _ = gateway.harness.run(frame.collect());
                }
                let dropped: u64 = gateway.harness.drops().iter().map(|(_, count)| count).sum();
                prop_assert_eq!(dropped as usize, expected.len() - passed);
                let mut reasons: Vec<_> = gateway.harness.drops();
                reasons.sort_unstable();
                for (reason, count) in reasons {
                    let expected = expected.iter().filter(|verdict| **verdict == reason);
                    prop_assert_eq!(count as usize, expected.count(), "{}", reason);
                }
            } else {
                for (packet, expected) in packets.iter().zip(expected) {
                    let fate = match gateway.fate(packet.from, packet.bytes(six)) {
                        "ip4-lookup" | "ip6-lookup" => "pass",
                        reason => reason,
                    };
                    prop_assert_eq!(fate, expected, "{:?}", packet);
                }
            }
            gateway.finish();
        }
    }
}

/// What came of packets: by node and contents, by drop, and how often each rule decided.
type Outcomes = (
    Vec<(&'static str, u16, Vec<u8>)>,
    Vec<(&'static str, u64)>,
    String,
);

fn outcomes(
    endpoints: &[Option<Endpoint>],
    packets: &[Packet],
    (six, general, at_once): (bool, bool, usize),
) -> Outcomes {
    let counters = Arc::new(RuleCounters::new(1, 100));
    let mut compiled = policy([]);
    for (number, endpoint) in (0..).zip(endpoints) {
        let of = endpoint.as_ref().map(|of| Arc::new(of.compiled(number)));
        compiled.interfaces[usize::from(number)] = of;
    }
    compiled.counters = Some(Arc::clone(&counters));
    let mut gateway = if six {
        Gateway::ip6(compiled.clone())
    } else {
        Gateway::ip4(compiled.clone())
    };
    if general {
        gateway.publish_general(compiled);
    }
    let mut out = Vec::new();
    for frame in packets.chunks(at_once) {
        let frame = frame.iter().map(|packet| TestPacket {
            bytes: packet.bytes(six),
            interface: packet.from,
            ..TestPacket::default()
        });
        let passed = gateway.harness.run(frame.collect());
        out.extend(
            passed
                .into_iter()
                .map(|out| (out.node, out.packet.interface, out.packet.bytes)),
        );
    }
    out.sort();
    let mut drops = gateway.harness.drops();
    drops.sort_unstable();
    gateway.finish();
    let counted = (0..100).map(|rule| counters.value(RuleId(rule)));
    (out, drops, format!("{:?}", counted.collect::<Vec<_>>()))
}

/// An access list on what it receives at most.
fn plain_port() -> impl Strategy<Value = Endpoint> {
    let reflects = prop::sample::subsequence(vec![1, 2, 3, 4, 77], 0..5);
    let list = prop::option::weighted(0.8, (list(false), reflects));
    list.prop_map(|list| Endpoint {
        kind: EndpointKind::None,
        closed: false,
        own_source: false,
        normal: [None, None],
        forward: [None, None],
        pre_dnat: None,
        untracked: None,
        access: [list, None],
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Packets that come alone and packets that come together, with and without the short way for access lists.
    #[test]
    fn every_way_through_says_and_counts_the_same(
        endpoints in prop_oneof![
            prop::collection::vec(prop::option::weighted(0.8, plain_port()), 4),
            prop::collection::vec(prop::option::weighted(0.8, endpoint()), 4),
        ],
        packets in prop::collection::vec(packet(), 1..400),
        at_once in 2usize..256,
        six: bool,
    ) {
        let expected = outcomes(&endpoints, &packets, (six, true, 1));
        for way in [(six, false, 1), (six, true, at_once), (six, false, at_once)] {
            prop_assert_eq!(&outcomes(&endpoints, &packets, way), &expected, "{:?}", way);
        }
    }
}
