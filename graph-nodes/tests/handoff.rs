//! Two workers between which packets arrive at random: together they say what one worker says.

mod kit;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::{
    Clock, Engine, EngineConfig, Idle, MemoryPort, MemoryWire, PortId, Queue, Worker, WorkerId,
    memory_pair,
};
use graph_nodes::policy::{
    AccessProgram, Decision, EndpointKind, InterfacePolicy, Judgement, Lists, Outcome, Policy,
    Program, RuleId, Stage,
};
use graph_nodes::{Snapshot, WorkerState};
use kit::{A, B, HOST, Lab, PORTS, behind, gateway_mac, mac};
use proptest::prelude::*;
use tables::acl::{Classifier, PortRange, Protocols, Rule, SetClasses, Side};
use wire::TcpFlags;
use wire::builder::{Builder, Eth, eth};

/// Destination ports that the workload may speak to.
const OPEN: [u16; 2] = [53, 80];
const ECHO: [u8; 2] = [1, 58];

fn program(rules: &[Rule], end: Outcome) -> Program {
    let sets = Arc::new(SetClasses::default());
    let decision = |outcome, rule| Decision {
        outcome,
        rule: RuleId(rule),
    };
    let stage = Stage::new(
        Classifier::compile(rules, &sets),
        Classifier::compile(rules, &sets),
        vec![decision(Outcome::Allow, 1); rules.len()],
        Vec::new(),
        decision(end, 2),
    );
    let never = Judgement {
        allow: false,
        rule: RuleId(0),
    };
    Program::new(vec![stage], never)
}

/// Echo requests, and UDP and TCP to a few ports; nothing else, ICMP errors of no flow least of all.
fn egress() -> Option<Arc<Program>> {
    let port = |port: &u16| Rule {
        protocols: Protocols::from_iter([6, 17]),
        destination: Side {
            ports: PortRange::new(*port, *port).into_iter().collect(),
            ..Side::default()
        },
        ..Rule::default()
    };
    let mut rules: Vec<Rule> = OPEN.iter().map(port).collect();
    rules.push(Rule {
        protocols: Protocols::from_iter(ECHO),
        ..Rule::default()
    });
    Some(Arc::new(program(&rules, Outcome::Deny)))
}

/// A workload is behind A, to which nobody may speak first.
fn guarded() -> Policy {
    let nothing = Some(Arc::new(program(&[], Outcome::Deny)));
    let of = InterfacePolicy {
        kind: EndpointKind::Workload,
        closed: false,
        lists: Lists {
            normal: [nothing, egress()],
            ..Lists::default()
        },
        staged: None,
        sources4: Vec::new(),
        sources6: Vec::new(),
        access: [None, None],
    };
    policy(of)
}

/// A has an access list that permits everything, and remembers it where `reflect` says so.
fn listed(reflect: bool) -> Policy {
    let list = AccessProgram {
        program: program(&[], Outcome::Allow),
        reflects: if reflect { vec![RuleId(2)] } else { Vec::new() },
    };
    let of = InterfacePolicy {
        kind: EndpointKind::None,
        closed: false,
        lists: Lists::default(),
        staged: None,
        sources4: Vec::new(),
        sources6: Vec::new(),
        access: [Some(Arc::new(list)), None],
    };
    policy(of)
}

fn policy(of: InterfacePolicy) -> Policy {
    let mut policy = Policy {
        generation: 1,
        ..Policy::default()
    };
    policy.interfaces.resize_with(usize::from(B) + 1, || None);
    policy.interfaces[usize::from(A)] = Some(Arc::new(of));
    policy
}

fn with(policy: Policy) -> impl FnOnce(&mut Snapshot) {
    |snapshot| {
        snapshot.policy = policy;
        snapshot.set_policy_features();
    }
}

/// The gateway of the kit with several workers, turned by hand.
struct Gateway {
    engine: Engine<Snapshot>,
    workers: Vec<Worker<Snapshot>>,
    /// By worker and port.
    ends: Vec<Vec<MemoryPort>>,
    time: Arc<AtomicU64>,
}

impl Gateway {
    fn new(workers: usize, change: impl FnOnce(&mut Snapshot)) -> Self {
        let (clock, time) = Clock::manual();
        time.store(1_000_000_000, Ordering::Relaxed);
        let config = EngineConfig {
            workers,
            buffers: 16_384,
            idle: Idle::Busy,
            clock,
            seed: Some(7),
            ..EngineConfig::default()
        };
        let writer = kit::writer();
        let mut snapshot = kit::snapshot(&writer);
        change(&mut snapshot);
        let limits = snapshot.icmp;
        let (mut engine, made) = Engine::new(&config, &graph_nodes::graph(), snapshot, |_| {
            WorkerState::new(limits)
        })
        .expect("workers");
        let mut ends: Vec<Vec<MemoryPort>> = (0..workers).map(|_| Vec::new()).collect();
        for port in 0..PORTS {
            let queues = ends.iter_mut().map(|ends| {
                let (ours, theirs) = memory_pair(1 << 16).expect("event descriptors");
                ends.push(ours);
                Some(Box::new(theirs) as Box<dyn Queue>)
            });
            let queues = queues.collect();
            engine
                .send_queues(PortId(port as u16), queues)
                .expect("room");
        }
        let mut gateway = Self {
            engine,
            workers: made,
            ends,
            time,
        };
        gateway.settle();
        gateway
    }

    fn send(&mut self, worker: usize, port: usize, bytes: Vec<u8>) {
        let wire = MemoryWire {
            bytes,
            offload: None,
        };
        assert!(self.ends[worker][port].send(wire));
    }

    /// Turns the workers until nothing is on its way.
    fn settle(&mut self) {
        while self.workers.iter_mut().map(Worker::turn).sum::<usize>() > 0 {}
    }

    /// What has come out: worker, port, frame.
    fn out(&mut self) -> Vec<(usize, usize, Vec<u8>)> {
        let mut out = Vec::new();
        for (worker, ends) in self.ends.iter_mut().enumerate() {
            for (port, end) in ends.iter_mut().enumerate() {
                while let Some(wire) = end.receive() {
                    out.push((worker, port, wire.bytes));
                }
            }
        }
        out
    }

    fn handed_over(&self) -> u64 {
        let pairs = self.engine.all_stats().flat_map(|stats| &stats.handoff);
        pairs.map(|pair| pair.sent.value()).sum()
    }

    /// Drops of all workers together.
    fn drops(&self) -> Vec<(String, u64)> {
        let mut sums = std::collections::BTreeMap::new();
        for worker in 0..self.workers.len() as u16 {
            for (name, count) in kit::drops(&self.engine, WorkerId(worker)) {
                *sums.entry(name).or_insert(0) += count;
            }
        }
        sums.into_iter().collect()
    }

    fn finish(self) {
        let panics = self.engine.all_stats().flat_map(|stats| &stats.nodes);
        assert_eq!(panics.map(|node| node.panics.value()).sum::<u64>(), 0);
        let lost = self.engine.all_stats().map(|stats| stats.lost.value());
        assert_eq!(lost.sum::<u64>(), 0);
        let pool = self.engine.pool().clone();
        drop(self.workers);
        pool.audit().expect("every buffer is back in the pool");
    }
}

/// A flow from behind A to behind B.
#[derive(Clone, Copy, Debug)]
struct Flow {
    six: bool,
    protocol: u8,
    ends: (u8, u8),
    ports: (u16, u16),
}

/// What happens to it.
#[derive(Clone, Debug)]
enum Event {
    /// A packet, from A or from B, with TCP flags.
    Packet { back: bool, flags: u8 },
    /// A UDP packet in three fragments, each of which arrives somewhere.
    Fragments { back: bool, at: [usize; 3] },
    /// A router on the way reports an error about a packet.
    Error { back: bool, kind: u8 },
    /// Nothing comes for so many seconds.
    Silence(u64),
}

fn flow() -> impl Strategy<Value = Flow> {
    let port = prop::sample::select(vec![53, 80, 81]);
    let protocol = prop::sample::select(vec![6, 17, 1]);
    let hosts = (1..4u8, 1..4u8);
    (any::<bool>(), protocol, hosts, 1000..1004u16, port).prop_map(
        |(six, protocol, ends, from, to)| Flow {
            six,
            protocol,
            ends,
            ports: (from, to),
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop::sample::select(vec![0x02, 0x12, 0x10, 0x18, 0x11, 0x04]);
    let at = [0..2usize, 0..2, 0..2];
    let kind = prop::sample::select(vec![1u8, 2, 3, 4, 11, 5]);
    prop_oneof![
        8 => (any::<bool>(), flags).prop_map(|(back, flags)| Event::Packet { back, flags }),
        3 => (any::<bool>(), at).prop_map(|(back, at)| Event::Fragments { back, at }),
        3 => (any::<bool>(), kind).prop_map(|(back, kind)| Event::Error { back, kind }),
        1 => prop::sample::select(vec![5, 70, 4000]).prop_map(Event::Silence),
    ]
}

fn link(back: bool) -> Builder<Eth> {
    let port = u8::from(back);
    eth(mac(port, HOST), gateway_mac(port.into()))
}

fn net4(net: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(net, 0, 0, host)
}

fn net6(net: u16, host: u8) -> Ipv6Addr {
    behind(net, host.into())
}

impl Flow {
    /// Hosts behind A and B in the order of the packet's direction, and ports.
    fn way(self, back: bool) -> ((u8, u8), (u8, u8), (u16, u16)) {
        match back {
            false => ((21, self.ends.0), (20, self.ends.1), self.ports),
            true => (
                (20, self.ends.1),
                (21, self.ends.0),
                (self.ports.1, self.ports.0),
            ),
        }
    }

    fn packet(self, back: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (from, to, ports) = self.way(back);
        let (id, sequence) = (self.ports.0, 7);
        if self.six {
            let ip = link(back).ip6(net6(from.0.into(), from.1), net6(to.0.into(), to.1));
            return match (self.protocol, back) {
                (6, _) => ip
                    .tcp(ports.0, ports.1)
                    .flags(TcpFlags(flags))
                    .payload(payload)
                    .build(),
                (17, _) => ip.udp(ports.0, ports.1).payload(payload).build(),
                (_, false) => ip.icmp6_echo(id, sequence).payload(payload).build(),
                (_, true) => ip.icmp6_echo_reply(id, sequence).payload(payload).build(),
            };
        }
        let ip = link(back).ip4(net4(from.0, from.1), net4(to.0, to.1));
        match (self.protocol, back) {
            (6, _) => ip
                .tcp(ports.0, ports.1)
                .flags(TcpFlags(flags))
                .payload(payload)
                .build(),
            (17, _) => ip.udp(ports.0, ports.1).payload(payload).build(),
            (_, false) => ip.icmp4_echo(id, sequence).payload(payload).build(),
            (_, true) => ip.icmp4_echo_reply(id, sequence).payload(payload).build(),
        }
    }

    /// The packet's three fragments; those of TCP and of ICMP as well.
    fn fragments(self, back: bool, id: u16) -> [Vec<u8>; 3] {
        let whole = self.packet(back, 0x10, &[7; 72]);
        let payload = &whole[14 + if self.six { 40 } else { 20 }..];
        let (from, to, _) = self.way(back);
        [0, 1, 2].map(|part| {
            let more = part < 2;
            let (begin, end) = (part * 24, if more { part * 24 + 24 } else { payload.len() });
            let (bytes, offset) = (&payload[begin..end], (begin / 8) as u16);
            if self.six {
                let protocol = if self.protocol == 1 {
                    58
                } else {
                    self.protocol
                };
                let ip = link(back).ip6(net6(from.0.into(), from.1), net6(to.0.into(), to.1));
                let fragment = ip.fragment(id.into(), offset, more);
                return fragment.raw(protocol, bytes).build();
            }
            let ip = link(back)
                .ip4(net4(from.0, from.1), net4(to.0, to.1))
                .id(id);
            let ip = if more { ip.more_fragments() } else { ip };
            let ip = ip.fragment_offset(offset);
            ip.raw(self.protocol, bytes).build()
        })
    }

    /// An error about the flow's packet in one direction comes from the other side, from a router of which nobody has heard.
    fn error(self, about_back: bool, kind: u8) -> Vec<u8> {
        let about = self.packet(about_back, 0x10, b"quoted");
        let (from, ..) = self.way(about_back);
        let (link, net) = (link(!about_back), if about_back { 21 } else { 20 });
        let quote = &about[14..];
        if self.six {
            let ip = link.ip6(net6(net.into(), 99), net6(from.0.into(), from.1));
            return ip.icmp6_error(kind, 0, 1280, quote).build();
        }
        let ip = link.ip4(net4(net, 99), net4(from.0, from.1));
        ip.icmp4_error(kind, 4, 1280, quote).build()
    }
}

/// Frames that an event puts on the wires: worker, port, frame.
fn frames(flow: Flow, event: &Event, worker: usize, id: u16) -> Vec<(usize, usize, Vec<u8>)> {
    match *event {
        Event::Packet { back, flags } => {
            vec![(worker, back.into(), flow.packet(back, flags, b"payload"))]
        }
        Event::Fragments { back, at } => {
            let parts = flow.fragments(back, id).into_iter().zip(at);
            parts.map(|(bytes, at)| (at, back.into(), bytes)).collect()
        }
        Event::Error { back, kind } => {
            vec![(worker, usize::from(!back), flow.error(back, kind))]
        }
        Event::Silence(_) => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Flows, fragments and errors that arrive at workers at random: what comes out of two is what comes out of one, frame by frame,
    /// and so are the reasons of what does not.
    #[test]
    fn two_workers_are_as_one(
        flows in prop::collection::vec(flow(), 1..12),
        events in prop::collection::vec((any::<prop::sample::Index>(), event(), 0..2usize), 1..120),
    ) {
        let mut oracle = Lab::with(&graph_nodes::graph(), with(guarded()));
        let mut gateway = Gateway::new(2, with(guarded()));
        for (number, (which, event, worker)) in events.iter().enumerate() {
            if let Event::Silence(seconds) = event {
                oracle.pass(seconds * 1_000_000_000);
                gateway.time.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
            }
            let flow = *which.get(&flows);
            for (worker, port, bytes) in frames(flow, event, *worker, number as u16) {
                let expected = oracle.run(port, bytes.clone());
                gateway.send(worker, port, bytes);
                gateway.settle();
                let out: Vec<_> = gateway.out().into_iter().map(|(_, port, bytes)| (port, bytes)).collect();
                prop_assert_eq!(out, expected, "{:?} {:?} at {}", flow, event, worker);
            }
        }
        let mut drops = oracle.drops();
        drops.sort();
        prop_assert_eq!(gateway.drops(), drops);
        oracle.finish();
        gateway.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Bursts of many flows whose directions arrive at either worker, turned in any order: packets of a flow's direction come out at
    /// one worker and in order.
    #[test]
    fn order_is_kept(
        flows in prop::collection::vec((1000..60_000u16, 0..2usize, 0..2usize, any::<bool>()), 2..40),
        turns in prop::collection::vec(0..2usize, 0..30),
    ) {
        let mut gateway = Gateway::new(2, with(guarded()));
        let of = |port: u16, six| Flow { six, protocol: 17, ends: (1, 2), ports: (port, 53) };
        let mut known = std::collections::BTreeSet::new();
        let flows: Vec<_> = flows.into_iter().filter(|flow| known.insert(flow.0)).collect();
        for (port, there, _, six) in &flows {
            gateway.send(*there, 0, of(*port, *six).packet(false, 0, b"first"));
        }
        gateway.settle();
        prop_assert_eq!(gateway.out().len(), flows.len());
        let mut turns = turns.into_iter();
        for number in 0..16u8 {
            for (port, there, back, six) in &flows {
                let flow = of(*port, *six);
                gateway.send(*there, 0, flow.packet(false, 0, &[number]));
                gateway.send(*back, 1, flow.packet(true, 0, &[number]));
            }
            for turn in turns.by_ref().take(2) {
                gateway.workers[turn].turn();
            }
        }
        gateway.settle();
        let mut next = std::collections::BTreeMap::new();
        for (worker, port, bytes) in gateway.out() {
            let transport = 14 + if bytes[12] == 0x86 { 40 } else { 20 };
            let ports = [bytes[transport..transport + 4].to_vec(), vec![port as u8]].concat();
            let (at, count) = next.entry(ports).or_insert((worker, 0));
            prop_assert_eq!((*at, *count), (worker, bytes[transport + 8]), "one worker, in order");
            *count += 1;
        }
        prop_assert_eq!(next.len(), 2 * flows.len());
        prop_assert!(next.values().all(|(_, count)| *count == 16));
        gateway.finish();
    }
}

/// What one worker is asked about is handed to it, errors and fragments as well, and only that.
#[test]
fn what_belongs_elsewhere_is_handed_over() {
    let flow = Flow {
        six: false,
        protocol: 17,
        ends: (1, 2),
        ports: (1000, 53),
    };
    let mut gateway = Gateway::new(2, with(guarded()));
    // Where it lives: the worker at which nothing had to be handed over.
    gateway.send(0, 0, flow.packet(false, 0, b""));
    gateway.settle();
    let owner = usize::from(gateway.handed_over() > 0);
    let before = gateway.handed_over();
    let other = 1 - owner;
    for (number, bytes) in [flow.packet(true, 0, b""), flow.error(false, 3)]
        .into_iter()
        .enumerate()
    {
        gateway.send(owner, 1, bytes.clone());
        gateway.settle();
        assert_eq!(gateway.handed_over(), before + number as u64);
        gateway.send(other, 1, bytes);
        gateway.settle();
        assert_eq!(gateway.handed_over(), before + number as u64 + 1);
    }
    let passed = gateway.out().into_iter().map(|(at, port, _)| (at, port));
    let expected = [(owner, 1), (owner, 0), (owner, 0), (owner, 0), (owner, 0)];
    let mut passed: Vec<_> = passed.collect();
    passed.sort_by_key(|(_, port)| std::cmp::Reverse(*port));
    assert_eq!(passed, expected);
    // An error about a flow that nobody knows belongs to nobody, wherever it comes.
    let stranger = Flow {
        ports: (1, 2),
        ..flow
    };
    for worker in 0..2 {
        gateway.send(worker, 1, stranger.error(false, 3));
    }
    gateway.settle();
    assert!(gateway.out().is_empty());
    assert_eq!(gateway.drops(), [("ip4-policy/policy-denied".into(), 2)]);
    gateway.finish();
}

#[test]
fn what_is_not_remembered_stays_where_it_is() {
    for (reflect, six) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut gateway = Gateway::new(2, with(listed(reflect)));
        for port in 0..100 {
            let flow = Flow {
                six,
                protocol: 17,
                ends: (1, 2),
                ports: (port, 53),
            };
            gateway.send(usize::from(port % 2), 0, flow.packet(false, 0, b""));
            let [first, ..] = flow.fragments(true, port);
            gateway.send(usize::from(port % 2), 1, first);
        }
        gateway.settle();
        assert_eq!(gateway.out().len(), 200);
        assert_eq!(gateway.handed_over() > 0, reflect);
        gateway.finish();
    }
}

/// One worker has nobody to hand over to.
#[test]
fn one_worker_keeps_everything() {
    let mut gateway = Gateway::new(1, with(guarded()));
    for port in 0..100 {
        let flow = Flow {
            six: false,
            protocol: 17,
            ends: (1, 2),
            ports: (port, 53),
        };
        for bytes in flow.fragments(false, port) {
            gateway.send(0, 0, bytes);
        }
    }
    gateway.settle();
    assert_eq!((gateway.out().len(), gateway.handed_over()), (300, 0));
    gateway.finish();
}

/// What a frame says about a UDP packet: addresses and ports, source first.
fn ends(frame: &[u8]) -> [(Ipv4Addr, u16); 2] {
    let address = |at: usize| Ipv4Addr::from_octets(*frame[at..].first_chunk().expect("a header"));
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    [(address(26), port(34)), (address(30), port(36))]
}

/// A service keeps sources, and answers reach their flow whichever worker they arrive at: where the one that chose the backend would
/// not own them, the source's port has changed.
#[test]
fn answers_of_backends_find_their_flow() {
    use graph_nodes::nat::{
        Affinity, Backend, Backends, ClientSource, DestinationRules, Nat, Secret, Service, Services,
    };

    let (client, vip) = (net4(21, 1), Ipv4Addr::new(10, 96, 0, 10));
    let backend = |host: u8| Backend {
        address: net4(20, host).to_bits(),
        port: 8080,
        identity: host.into(),
        weight: 1,
        local: true,
    };
    let service = Service {
        address: vip.to_bits(),
        protocol: 17,
        port: 80,
        identity: 1,
        backends: Arc::new(Backends::new(&[1, 2, 3].map(backend)).expect("a table")),
        affinity: Affinity::None,
        allowed: None,
        source: ClientSource::Kept,
    };
    let services = Services::new(vec![service], Secret::of_process()).expect("services");
    let rules = Arc::new(DestinationRules::new(&[], &[]).with_services(services));
    for workers in [1, 2, 3] {
        let mut nat = Nat::default();
        nat.ip4.destination = vec![Some(Arc::clone(&rules))];
        let mut gateway = Gateway::new(workers, |snapshot| {
            snapshot.nat = nat;
            snapshot.set_policy_features();
        });
        let mut through = |worker: u16, port: u8, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
            let frame = link(port == 1).ip4(from.0, to.0).udp(from.1, to.1).build();
            gateway.send(usize::from(worker) % workers, port.into(), frame);
            gateway.settle();
            let [(_, out, frame)] = &gateway.out()[..] else {
                panic!("one packet: {:?}", gateway.drops());
            };
            assert_eq!(*out, usize::from(1 - port));
            ends(frame)
        };
        let mut changed = 0;
        let mut seen = std::collections::HashSet::new();
        for port in 3000..3200 {
            let [from, backend] = through(port, 0, (client, port), (vip, 80));
            assert_eq!((from.0, backend.1), (client, 8080));
            assert!(seen.insert((from, backend)));
            changed += usize::from(from.1 != port);
            for worker in 0..3 {
                let answer = through(worker, 1, backend, from);
                assert_eq!(answer, [(vip, 80), (client, port)]);
                let again = through(worker, 0, (client, port), (vip, 80));
                assert_eq!(again, [from, backend]);
            }
        }
        assert_eq!(changed > 0, workers > 1, "{changed}");
        assert_eq!(gateway.handed_over() > 0, workers > 1);
        gateway.finish();
    }
}

/// What rules give another destination or source whose port must stay: both directions of it meet, whichever worker they arrive at.
#[test]
fn answers_of_forwarded_ports_and_of_one_to_one_find_their_flow() {
    use graph_nodes::nat::{Destination, DestinationRules, Nat, Source, SourceRules};
    use tables::acl::{Prefix, Rule, Side};

    let (client, server) = (net4(21, 1), net4(20, 7));
    let (outside, external) = (Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 1, 0));
    let own = Ipv4Addr::new(10, 96, 1, 7);
    let internal = Ipv4Addr::from_bits(server.to_bits() & !0xff);
    let forward = Destination {
        address: outside.to_bits(),
        prefix_len: 32,
        protocol: Some(17),
        ports: Some((80, 89)),
        to: server.to_bits(),
        port: Some(8080),
        source: None,
    };
    let one_to_one = Destination {
        address: external.to_bits(),
        prefix_len: 24,
        protocol: None,
        ports: None,
        to: internal.to_bits(),
        port: None,
        source: None,
    };
    let inside = tables::Prefix4::new(internal.to_bits(), 24).expect("a prefix");
    let from_inside = Rule {
        source: Side {
            prefixes: vec![Prefix::V4(inside)],
            ..Side::default()
        },
        ..Rule::default()
    };
    let becomes = Source::Prefix {
        internal: internal.to_bits(),
        external: external.to_bits(),
        prefix_len: 24,
    };
    for workers in [1, 2, 3] {
        let mut nat = Nat::default();
        let rules = DestinationRules::new(&[forward.clone(), one_to_one.clone()], &[]);
        nat.ip4.destination = vec![Some(Arc::new(rules))];
        let sources = SourceRules::new(&[(from_inside.clone(), becomes.clone())]);
        nat.ip4.source = vec![Some(Arc::new(sources))];
        let mut gateway = Gateway::new(workers, |snapshot| {
            snapshot.nat = nat;
            snapshot.set_policy_features();
        });
        let mut through = |worker: u16, port: u8, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
            let frame = link(port == 1).ip4(from.0, to.0).udp(from.1, to.1).build();
            gateway.send(usize::from(worker) % workers, port.into(), frame);
            gateway.settle();
            let [(_, _, frame)] = &gateway.out()[..] else {
                panic!("one packet: {:?}", gateway.drops());
            };
            ends(frame)
        };
        for port in 3000..3060 {
            let (begins, answers) = (port % 3, (port + 1) % 3);
            // A forwarded port, one of several.
            let (there, to) = ((client, port), (outside, 80 + port % 10));
            let target = (server, 8080 + port % 10);
            assert_eq!(through(begins, 0, there, to), [there, target]);
            assert_eq!(through(answers, 1, target, there), [to, there]);
            assert_eq!(through(answers, 0, there, to), [there, target]);
            // One to one, begun outside.
            let (to, target) = ((own, 53), (server, 53));
            assert_eq!(through(begins, 0, there, to), [there, target]);
            assert_eq!(through(answers, 1, target, there), [to, there]);
            // One to one, begun inside.
            let (host, seen, far) = ((server, port), (own, port), (client, 123));
            assert_eq!(through(begins, 1, host, far), [seen, far]);
            assert_eq!(through(answers, 0, far, seen), [far, host]);
            assert_eq!(through(answers, 1, host, far), [seen, far]);
        }
        assert_eq!(gateway.handed_over() > 0, workers > 1);
        gateway.finish();
    }
}
