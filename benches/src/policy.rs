//! Cases of policy: access lists, tracked flows, and flows that are new.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use graph_nodes::policy::{
    AccessProgram, Decision, EGRESS, EndpointKind, INGRESS, INPUT, InterfacePolicy, Judgement,
    Lists, OUTPUT, Outcome, Policy, Program, RuleId, Sets, Stage,
};
use ports::{Template, Values};
use tables::acl::generate::csit;
use tables::acl::{Classifier, PortRange, Prefix, Rule, SetClasses, Side};
use tables::address_sets::{
    AddressSetLimits, AddressSetsWriter, Delta, IpPortSetLimits, IpPortSetsWriter, Member, SetId,
};
use tables::{HugePages, Prefix4};
use wire::builder;

use crate::case::{Frames, Setup};
use crate::forwarding::{NETS4, behind_link, expect, ours, peer, two_ports};
use graph_nodes::fib::{ForwardingWriter, NeighbourKey};

/// The first host on a link, of CSIT's 10 or 100.
pub(crate) const FIRST_HOST: u32 = 2;
/// CSIT's ports; those of the second port are the other way round.
const PORTS: [u16; 2] = [1001, 2001];
/// Members of the set that rules refer to.
const MEMBERS: u32 = 100_000;
/// The first of them.
const FIRST_MEMBER: u32 = u32::from_be_bytes([10, 200, 0, 0]);

/// An access list of `DENY` entries that do not match and two that do, on what both ports receive, or send where `OUT`; with
/// tracking where `REFLECT`. `HOSTS` times `COUNT` connections, both of whose directions come in.
pub(crate) fn access<
    const OUT: bool,
    const DENY: u32,
    const REFLECT: bool,
    const HOSTS: u32,
    const COUNT: u32,
>(
    frames: Frames,
) -> Setup {
    let policy = listed(csit(DENY), DENY, OUT, REFLECT);
    let ports = (0..2).map(|port| {
        let host = |host: u32| {
            let (from, to) = (address(port, host), address(1 - port, host));
            let mut template = udp(port, frames, from, to);
            for (field, first) in [(34, PORTS[port]), (36, PORTS[1 - port])] {
                let first = u32::from(first);
                let values = Values::Increment {
                    first,
                    last: first + COUNT - 1,
                    step: 1,
                };
                template.iter_mut().for_each(|t| {
                    *t = t.clone().field(field, 2, values.clone());
                });
            }
            template
        };
        (FIRST_HOST..FIRST_HOST + HOSTS).flat_map(host).collect()
    });
    setup(ports.collect(), policy, HOSTS, u64::from(HOSTS * COUNT))
}

/// Rules of which the first `deny` deny and the others permit, on both ports.
fn listed(rules: Vec<Rule>, deny: u32, out: bool, reflect: bool) -> Policy {
    let outcome = |index: usize| {
        if index < deny as usize {
            Outcome::Deny
        } else {
            Outcome::Allow
        }
    };
    let numbers = deny + 1..=deny + 2;
    let list = AccessProgram {
        program: program(&rules, outcome, &Arc::new(SetClasses::default())),
        reflects: if reflect {
            numbers.map(RuleId).collect()
        } else {
            Vec::new()
        },
    };
    let mut on_port = nobody();
    on_port.access[if out { OUTPUT } else { INPUT }] = Some(Arc::new(list));
    Policy {
        generation: 1,
        interfaces: vec![Some(Arc::new(on_port)); 2],
        ..Policy::default()
    }
}

/// CSIT's access list with tracking on what both ports receive, with permits for other sources.
pub(crate) fn reflecting_list(deny: u32, sources: &[(Ipv4Addr, u8); 2]) -> Policy {
    let mut rules = csit(deny);
    for (rule, (net, length)) in rules[deny as usize..].iter_mut().zip(sources) {
        let prefix = expect(Prefix4::new(net.to_bits(), *length));
        rule.source.prefixes = vec![Prefix::V4(prefix)];
    }
    listed(rules, deny, false, true)
}

/// `HOSTS` times 65,536 connections, all allowed and tracked, whose packets come in an order in which no two near each other
/// have anything to do with each other.
pub(crate) fn flows<const HOSTS: u32>(frames: Frames) -> Setup {
    let ports = (0..2usize).map(|port| {
        let host = |host: u32| {
            let (from, to) = (address(port, host), address(1 - port, host));
            let field = if port == 0 { 34 } else { 36 };
            let order = shuffled(host << 1 | port as u32);
            let templates = udp(port, frames, from, to).into_iter();
            templates.map(move |template| template.field(field, 2, Values::List(order.clone())))
        };
        (FIRST_HOST..FIRST_HOST + HOSTS).flat_map(host).collect()
    });
    let flows = u64::from(HOSTS) << 16;
    Setup {
        warm_up: flows * 4,
        ..setup(ports.collect(), open_workload(), HOSTS, flows)
    }
}

/// A workload on port 0 that may do everything.
pub(crate) fn open_workload() -> Policy {
    let everything = || {
        let all = program(&[Rule::default()], |_| Outcome::Allow, &Arc::default());
        Some(Arc::new(all))
    };
    let mut workload = nobody();
    workload.kind = EndpointKind::Workload;
    workload.lists.normal = [everything(), everything()];
    Policy {
        generation: 1,
        interfaces: vec![Some(Arc::new(workload)), None],
        ..Policy::default()
    }
}

/// Packets that all begin flows, between two workloads. `RULES` rules of the sender's egress policy are about a set of 100,000
/// addresses, of which the senders are members; the last one allows.
pub(crate) fn new_flows<const RULES: u32>(frames: Frames) -> Setup {
    let (sets, classes) = members();
    let rule = |index: u32| {
        let any = Side {
            all_of: vec![0],
            ..Side::default()
        };
        let last = index == RULES - 1;
        let nets = Prefix4::new(u32::from_be_bytes([20, 21, 0, 0]) + index, 32);
        let port = 1000 + index as u16;
        Rule {
            source: any,
            destination: Side {
                prefixes: nets.into_iter().filter(|_| !last).map(Prefix::V4).collect(),
                ports: PortRange::new(port, port)
                    .into_iter()
                    .filter(|_| !last)
                    .collect(),
                ..Side::default()
            },
            ..Rule::default()
        }
    };
    let rules: Vec<Rule> = (0..RULES).map(rule).collect();
    let mut workload = nobody();
    workload.kind = EndpointKind::Workload;
    let all = program(&[Rule::default()], |_| Outcome::Allow, &classes);
    workload.lists.normal[INGRESS] = Some(Arc::new(all));
    let egress = program(&rules, |_| Outcome::Allow, &classes);
    workload.lists.normal[EGRESS] = Some(Arc::new(egress));
    let policy = Policy {
        generation: 1,
        sets: Some(sets),
        interfaces: vec![Some(Arc::new(workload)); 2],
        ..Policy::default()
    };
    let ports = (0..2).map(|port| {
        let templates = udp(port, frames, FIRST_MEMBER, address(1 - port, FIRST_HOST));
        let random = |first, last| Values::Random { first, last };
        let fields = |template: Template| {
            template
                .field(26, 4, random(FIRST_MEMBER, FIRST_MEMBER + MEMBERS - 1))
                .field(34, 2, random(1024, 65_535))
        };
        templates.into_iter().map(fields).collect()
    });
    let table = 1 << 20;
    Setup {
        check: check_link,
        // The table is full: each flow that comes ends another.
        warm_up: table * 2,
        ..setup(ports.collect(), policy, 1, table)
    }
}

/// The first `hosts` hosts of each link are known.
pub(crate) fn setup(ports: Vec<Vec<Template>>, policy: Policy, hosts: u32, flows: u64) -> Setup {
    let (mut snapshot, mut writer) = two_ports(None, NETS4, 24);
    neighbours(&mut writer, hosts);
    snapshot.policy = policy;
    snapshot.set_policy_features();
    Setup {
        ports,
        snapshot,
        writer,
        check,
        flows,
        routes: 2,
        flow_table: u32::try_from(flows).unwrap_or(u32::MAX).max(1024),
        warm_up: flows * 2,
    }
}

fn neighbours(writer: &mut ForwardingWriter, hosts: u32) {
    for port in 0..2 {
        for host in FIRST_HOST..FIRST_HOST + hosts {
            let key = NeighbourKey {
                interface: port as u16,
                address: Ipv4Addr::from_bits(address(port, host)).into(),
            };
            expect(writer.resolve(key, peer(port)));
        }
    }
    expect(writer.commit());
}

pub(crate) fn address(port: usize, host: u32) -> u32 {
    match NETS4[port] {
        IpAddr::V4(net) => net.to_bits() + host,
        IpAddr::V6(_) => 0,
    }
}

fn udp(port: usize, frames: Frames, from: u32, to: u32) -> Vec<Template> {
    let make = |(length, weight): (usize, u16)| {
        let bytes = builder::eth(peer(port), ours(port))
            .ip4(Ipv4Addr::from_bits(from), Ipv4Addr::from_bits(to))
            .udp(PORTS[port], PORTS[1 - port])
            .payload(&vec![0x42; length - 42])
            .build();
        Template {
            weight,
            ..Template::new(bytes)
        }
    };
    frames.lengths().into_iter().map(make).collect()
}

/// All values of 16 bits, in an order that `seed` decides.
fn shuffled(seed: u32) -> Vec<u32> {
    let mut random = tables::acl::generate::Random::new(seed.into());
    let mut values: Vec<u32> = (0..1 << 16).collect();
    for at in (1..values.len()).rev() {
        values.swap(at, random.below(at as u32 + 1) as usize);
    }
    values
}

fn nobody() -> InterfacePolicy {
    InterfacePolicy {
        kind: EndpointKind::None,
        closed: false,
        lists: Lists::default(),
        staged: None,
        sources4: Vec::new(),
        sources6: Vec::new(),
        access: [None, None],
    }
}

/// One stage; rules are numbered from 1, and what none matches is denied.
fn program(rules: &[Rule], outcome: impl Fn(usize) -> Outcome, sets: &Arc<SetClasses>) -> Program {
    let decision = |index| Decision {
        outcome: outcome(index),
        rule: RuleId(index as u32 + 1),
    };
    let nothing = Decision {
        outcome: Outcome::Deny,
        rule: RuleId(0),
    };
    let stage = Stage::new(
        Classifier::compile(rules, sets),
        Classifier::compile(rules, sets),
        (0..rules.len()).map(decision).collect(),
        Vec::new(),
        nothing,
    );
    let end = Judgement {
        allow: false,
        rule: RuleId(0),
    };
    Program::new(vec![stage], end)
}

/// Set 0, and what its class means.
fn members() -> (Sets, Arc<SetClasses>) {
    let mut writer = expect(AddressSetsWriter::new(
        AddressSetLimits::default(),
        HugePages::Transparent,
    ));
    let mut delta = Delta::<Member>::default();
    for member in 0..MEMBERS {
        delta.add(SetId(0), expect(Prefix4::new(FIRST_MEMBER + member, 32)));
    }
    expect(writer.apply(&delta));
    let addresses = writer.view();
    let mut classes = SetClasses::default();
    for class in 1..addresses.class_count() {
        let sets = addresses.sets(tables::address_sets::ClassId(class));
        let sets: Vec<u32> = sets.iter().map(|set| set.0).collect();
        classes.addresses.push(&sets);
    }
    let classes = Arc::new(classes);
    let ip_ports = IpPortSetsWriter::new(IpPortSetLimits::default()).view();
    let sets = Sets {
        addresses,
        ip_ports,
        classes: Arc::clone(&classes),
    };
    (sets, classes)
}

/// Between hosts with the same number.
fn check(port: usize, frame: &[u8]) -> bool {
    let Some((_, packet)) = behind_link(port, frame) else {
        return false;
    };
    let Ok(header) = wire::ip4::validate(packet) else {
        return false;
    };
    let (from, to) = (header.source().to_bits(), header.destination().to_bits());
    header.ttl == 63
        && from >> 8 == address(1 - port, 0) >> 8
        && to >> 8 == address(port, 0) >> 8
        && from as u8 == to as u8
        && packet[28..].iter().all(|byte| *byte == 0x42)
}

fn check_link(port: usize, frame: &[u8]) -> bool {
    let Some((_, packet)) = behind_link(port, frame) else {
        return false;
    };
    let Ok(header) = wire::ip4::validate(packet) else {
        return false;
    };
    let members = FIRST_MEMBER..FIRST_MEMBER + MEMBERS;
    header.ttl == 63
        && members.contains(&header.source().to_bits())
        && header.destination().to_bits() == address(port, FIRST_HOST)
        && packet[28..].iter().all(|byte| *byte == 0x42)
}
