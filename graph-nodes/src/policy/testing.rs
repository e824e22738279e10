//! What the tests of this family have in common: a gateway of five interfaces, and policies for them.
//!
//! Interface `i` has 10.0.i.0/24 and 2001:db8:0:i::/64 connected; host 1 there is this node.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::cell::RefCell;
use std::sync::Arc;

use dataplane::{Node, NodeHarness, PortId, TestPacket};
use tables::acl::{Classifier, PortRange, Protocols, Rule, SetClasses, Side};
use tables::{FlowConfig, FlowTable, Prefix4, Prefix6};
use wire::MacAddr;

use super::events::{FlowCommand, FlowWatcher, with_rings};
use super::*;
use crate::fib::{ForwardingSize, ForwardingWriter, Link, RouteTarget};
use crate::nat::Nat;
use crate::snapshot::{IcmpLimits, Interface, Snapshot, Tags, WorkerState};

pub(crate) const INTERFACES: u16 = 5;

pub(crate) fn v4(interface: u16, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, interface as u8, host)
}

pub(crate) fn v6(interface: u16, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, interface, 0, 0, 0, host.into())
}

/// A rule for packets of a protocol to a port.
pub(crate) fn to_port(protocol: u8, port: u16) -> Rule {
    Rule {
        protocols: Protocols::from_iter([protocol]),
        destination: Side {
            ports: PortRange::new(port, port).into_iter().collect(),
            ..Side::default()
        },
        ..Rule::default()
    }
}

pub(crate) fn of_protocols(protocols: &[u8]) -> Rule {
    Rule {
        protocols: protocols.iter().copied().collect(),
        ..Rule::default()
    }
}

/// One stage; what no rule matches is denied by rule 99.
pub(crate) fn program(rules: &[(Rule, Outcome, u32)]) -> Program {
    with_end(rules, false, 99)
}

pub(crate) fn with_end(rules: &[(Rule, Outcome, u32)], allow: bool, rule: u32) -> Program {
    let list: Vec<Rule> = rules.iter().map(|(rule, ..)| rule.clone()).collect();
    let sets = Arc::new(SetClasses::default());
    let decision = |outcome, rule| Decision {
        outcome,
        rule: RuleId(rule),
    };
    let stage = Stage::new(
        Classifier::compile(&list, &sets),
        Classifier::compile(&list, &sets),
        rules
            .iter()
            .map(|(_, outcome, rule)| decision(*outcome, *rule))
            .collect(),
        Vec::new(),
        decision(Outcome::Pass, 0),
    );
    let end = Judgement {
        allow,
        rule: RuleId(rule),
    };
    Program::new(vec![stage], end)
}

/// Allows these by rules 1, 2 and so on, and nothing else.
pub(crate) fn allowing(rules: &[Rule]) -> Option<Arc<Program>> {
    let numbered = rules.iter().zip(1..);
    let rules: Vec<_> = numbered
        .map(|(rule, number)| (rule.clone(), Outcome::Allow, number))
        .collect();
    Some(Arc::new(program(&rules)))
}

pub(crate) fn everything() -> Option<Arc<Program>> {
    allowing(&[Rule::default()])
}

pub(crate) fn nothing() -> Option<Arc<Program>> {
    allowing(&[])
}

/// Permits these by rules 1, 2 and so on; those of `reflects` with tracking.
pub(crate) fn access(rules: &[Rule], reflects: &[u32]) -> Option<Arc<AccessProgram>> {
    let program = allowing(rules).map(|program| Program::clone(&program));
    program.map(|program| {
        Arc::new(AccessProgram {
            program,
            reflects: reflects.iter().copied().map(RuleId).collect(),
        })
    })
}

pub(crate) fn endpoint(kind: EndpointKind) -> InterfacePolicy {
    InterfacePolicy {
        kind,
        closed: false,
        lists: Lists::default(),
        staged: None,
        sources4: Vec::new(),
        sources6: Vec::new(),
        access: [None, None],
    }
}

pub(crate) fn workload(
    ingress: Option<Arc<Program>>,
    egress: Option<Arc<Program>>,
) -> InterfacePolicy {
    let mut policy = endpoint(EndpointKind::Workload);
    policy.lists.normal = [ingress, egress];
    policy
}

/// Policies by interface, of generation 1.
pub(crate) fn policy<const N: usize>(interfaces: [(u16, InterfacePolicy); N]) -> Policy {
    let mut policy = Policy {
        generation: 1,
        ..Policy::default()
    };
    policy.interfaces.resize_with(INTERFACES.into(), || None);
    for (number, of) in interfaces {
        policy.interfaces[usize::from(number)] = Some(Arc::new(of));
    }
    policy
}

/// A node with its tables.
pub(crate) struct Gateway {
    pub(crate) harness: NodeHarness<Snapshot>,
    pub(crate) writer: ForwardingWriter,
}

impl Gateway {
    pub(crate) fn ip4(policy: Policy) -> Self {
        Self::new(Ip4Policy::default, policy, 1000)
    }

    pub(crate) fn ip6(policy: Policy) -> Self {
        Self::new(Ip6Policy::default, policy, 1000)
    }

    pub(crate) fn new<N: Node<Snapshot>>(
        node: impl Fn() -> N + Send + Sync + 'static,
        policy: Policy,
        flows: u32,
    ) -> Self {
        Self::translating(node, policy, Nat::default(), flows)
    }

    /// With translation.
    pub(crate) fn translating<N: Node<Snapshot>>(
        node: impl Fn() -> N + Send + Sync + 'static,
        policy: Policy,
        nat: Nat,
        flows: u32,
    ) -> Self {
        let writer = writer();
        let table = move || FlowTable::new(&FlowConfig::new(flows)).expect("memory");
        let state = move || WorkerState::new(IcmpLimits::default()).with_flows(table());
        let harness = NodeHarness::new(node, snapshot(&writer, policy, nat), state);
        Self {
            harness: harness.expect("a harness"),
            writer,
        }
    }

    /// With somebody who hears of flows, and asks for what `listen` says.
    pub(crate) fn watched<N: Node<Snapshot>>(
        node: impl Fn() -> N + Send + Sync + 'static,
        policy: Policy,
        flows: u32,
        listen: FlowCommand,
        rings: (usize, usize),
    ) -> (Self, FlowWatcher) {
        let writer = writer();
        let (mut watch, mut watcher) = with_rings(rings.0, rings.1);
        assert!(watcher.send(listen));
        // At its turn a worker does so itself; `ip6-policy` leaves that to `ip4-policy`.
        watch.obey(0);
        let watch = RefCell::new(Some(watch));
        let table = move || FlowTable::new(&FlowConfig::new(flows)).expect("memory");
        let state = move || {
            let watch = watch.borrow_mut().take().expect("one worker");
            let state = WorkerState::new(IcmpLimits::default()).with_flows(table());
            state.with_watch(watch)
        };
        let harness = NodeHarness::new(node, snapshot(&writer, policy, Nat::default()), state);
        let gateway = Self {
            harness: harness.expect("a harness"),
            writer,
        };
        (gateway, watcher)
    }

    pub(crate) fn publish(&mut self, policy: Policy) {
        self.harness
            .publish(snapshot(&self.writer, policy, Nat::default()));
    }

    /// As [`publish`](Self::publish), without what is found out to take a shorter way.
    pub(crate) fn publish_general(&mut self, policy: Policy) {
        let mut snapshot = snapshot(&self.writer, policy, Nat::default());
        snapshot.policy.exits_are_free = false;
        self.harness.publish(snapshot);
    }

    /// What becomes of one packet on an interface: the next node, or the reason of a drop.
    pub(crate) fn fate(&mut self, interface: u16, bytes: Vec<u8>) -> &'static str {
        self.fate_of(TestPacket {
            bytes,
            interface,
            ..TestPacket::default()
        })
    }

    pub(crate) fn fate_of(&mut self, packet: TestPacket) -> &'static str {
        let before = self.harness.drops();
        let out = self.harness.run(vec![packet.clone()]);
        let count = |drops: &[(&str, u64)], name: &str| {
            let found = drops.iter().find(|(reason, _)| *reason == name);
            found.map_or(0, |(_, count)| *count)
        };
        let after = self.harness.drops();
        let fresh: Vec<_> = after
            .iter()
            .filter(|(reason, _)| count(&after, reason) > count(&before, reason))
            .collect();
        match (&out[..], &fresh[..]) {
            ([one], []) => {
                assert_eq!(one.packet.bytes, packet.bytes, "untouched");
                one.node
            }
            ([], [(reason, _)]) => reason,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn finish(self) {
        self.harness.audit().expect("balanced");
    }
}

pub(crate) fn writer() -> ForwardingWriter {
    let size = ForwardingSize {
        groups: 64,
        adjacencies: 64,
        buckets: 64,
    };
    let mut writer = ForwardingWriter::new(size, 64);
    writer.add_vrf(0).expect("memory");
    for interface in 0..INTERFACES {
        let link = Link {
            port: PortId(interface),
            mtu: 1500,
            vrf: 0,
            mac: MacAddr::local(u32::from(interface)),
            tags: Tags::default(),
        };
        writer.set_link(interface, link).expect("a new link");
        let set: [(IpAddr, u8, RouteTarget); 4] = [
            (
                v4(interface, 0).into(),
                24,
                RouteTarget::Connected(interface),
            ),
            (v4(interface, 1).into(), 32, RouteTarget::Local),
            (
                v6(interface, 0).into(),
                64,
                RouteTarget::Connected(interface),
            ),
            (v6(interface, 1).into(), 128, RouteTarget::Local),
        ];
        for (address, length, target) in set {
            writer.set_route(0, address, length, target).expect("room");
        }
    }
    writer.commit().expect("memory");
    writer
}

pub(crate) fn snapshot(writer: &ForwardingWriter, policy: Policy, nat: Nat) -> Snapshot {
    let up = |_| Interface {
        up: true,
        ..Interface::absent()
    };
    let mut snapshot = Snapshot {
        interfaces: (0..INTERFACES).map(up).collect(),
        vrfs: vec![writer.vrf(0).expect("the VRF")],
        forwarding: writer.forwarding(),
        policy,
        nat,
        ..Snapshot::default()
    };
    snapshot.set_policy_features();
    snapshot
}

pub(crate) fn net4(text: &str) -> Prefix4 {
    text.parse().expect("a prefix")
}

pub(crate) fn net6(text: &str) -> Prefix6 {
    text.parse().expect("a prefix")
}
