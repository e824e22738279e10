//! The compiled policy against the model's plain evaluator: the same verdict for the same reason, for random states and packets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use control::compile::policy::{
    Cause, CompiledPolicy, InterfaceList, PolicyCompiler, PolicyInterface, Reasons, Verdict,
    settings,
};
use graph_nodes::policy::decide::{Fate, Seen, Way, decide};
use graph_nodes::policy::{InterfacePolicy, Lists, Program, WorkerRules};
use model::policy::generate::{Random, case, documents, packet, state};
use model::policy::reference::{
    AccessVerdict, Decision, EndpointId, Packet, Reason, evaluate, evaluate_access,
    evaluate_all_interfaces,
};
use model::policy::{AccessDirection, Direction, Object, PolicyState, Resource, Value};
use tables::acl::Key;

/// Pairs of a state and a packet.
const PAIRS: u64 = if cfg!(debug_assertions) {
    40_000
} else {
    1_050_000
};
const PACKETS_OF_A_STATE: u64 = 1500;

/// Panics where the compiled policy and the reference differ about a packet.
fn compare(
    seed: (u64, u64),
    state: &PolicyState,
    compiled: &CompiledPolicy,
    reasons: &Reasons,
    (endpoint, direction, packet): &(EndpointId, Direction, Packet),
) -> Reason {
    let expected = evaluate(state, endpoint, *direction, packet);
    let verdict = compiled.judge(endpoint, *direction, packet);
    let decision = |judged: control::compile::policy::Judged| Decision {
        allow: judged.allow,
        reason: reasons
            .reason(judged.rule)
            .unwrap_or_else(|| panic!("{:?} has no reason", judged.rule))
            .clone(),
    };
    let context = || format!("seed {seed:?}, {endpoint:?} {direction:?} {packet:?}");
    assert_eq!(
        decision(verdict.enforced),
        expected.enforced,
        "{}",
        context()
    );
    assert_eq!(
        decision(verdict.staged),
        expected.staged,
        "staged, {}",
        context()
    );
    assert_eq!(verdict.untracked, expected.untracked, "{}", context());
    // Of profiles, the reference reports no logs.
    let logs: Vec<_> = verdict
        .logs
        .iter()
        .filter_map(|rule| match reasons.reason(*rule) {
            Some(Reason::Rule(rule)) => Some(rule.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(logs, expected.logs, "logs, {}", context());
    if let EndpointId::Workload(id) = endpoint {
        let around = evaluate_all_interfaces(state, id, *direction, packet);
        let host = state.host_endpoint_of_all(&state.workload_endpoints.get(id).unwrap().node);
        let judged =
            host.and_then(|(name, _)| compiled.judge_all_interfaces(name, *direction, packet));
        assert_eq!(judged.is_some(), around.is_some(), "{}", context());
        if let (Some(judged), Some(around)) = (judged, around) {
            assert_eq!(decision(judged.enforced), around.enforced, "{}", context());
            assert_eq!(decision(judged.staged), around.staged, "{}", context());
            let logs = judged
                .logs
                .iter()
                .filter_map(|rule| match reasons.reason(*rule) {
                    Some(Reason::Rule(rule)) => Some(rule.clone()),
                    _ => None,
                });
            assert_eq!(logs.collect::<Vec<_>>(), around.logs, "{}", context());
        }
    }
    expected.enforced.reason
}

#[test]
fn verdicts_and_reasons_are_the_references() {
    let begin = Instant::now();
    let next = AtomicU64::new(0);
    let pairs = AtomicU64::new(0);
    let work = || {
        let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
        while pairs.load(Ordering::Relaxed) < PAIRS {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let mut random = Random::new(seed);
            // Now and then a state with so many rules that classifiers take another form.
            let (size, packets) = match seed % 50 {
                49 => (150, 150),
                _ => (1 + random.below(14), PACKETS_OF_A_STATE),
            };
            let state = state(seed, size);
            let mut compiler = PolicyCompiler::new().expect("has memory");
            let compiled = compiler.compile(&state, None).expect("fits");
            for number in 0..packets {
                let case = case(random.draw(), &state).expect("a state has endpoints");
                let reason = compare((seed, number), &state, &compiled, &compiler.reasons, &case);
                *seen.entry(reason.as_str()).or_default() += 1;
            }
            pairs.fetch_add(packets, Ordering::Relaxed);
        }
        seen
    };
    let mut all: BTreeMap<&'static str, u64> = BTreeMap::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            for (reason, count) in thread.join().expect("compares") {
                *all.entry(reason).or_default() += count;
            }
        }
    });
    println!(
        "{} pairs of {} states agree in {:.1} s: {all:?}",
        pairs.into_inner(),
        next.into_inner(),
        begin.elapsed().as_secs_f64()
    );
    let expected = [
        "rule",
        "end of tier",
        "profile",
        "missing profile",
        "no policy or profile matches",
        "no policy for forwarded traffic",
        "failsafe port",
        "neighbour discovery",
        "from the workload's host",
        "default action towards the host",
        "encapsulated by a workload",
    ];
    for reason in expected {
        assert!(all.contains_key(reason), "no case ended with {reason}");
    }
}

/// One compiler follows a state as objects come and go; what it has compiled is what a new compiler makes of the same state.
#[test]
fn a_compiler_that_has_seen_other_states_gives_the_same_verdicts() {
    let rounds = if cfg!(debug_assertions) { 60 } else { 400 };
    let mut compiler = PolicyCompiler::new().expect("has memory");
    let mut random = Random::new(7);
    let mut objects: Vec<Object> = Vec::new();
    let mut older: Option<(PolicyState, CompiledPolicy)> = None;
    for round in 0..rounds {
        // Objects of another state take the place of some.
        for document in documents(random.draw() % 40, 8) {
            let object = Object::read(&document).expect("is valid");
            if random.one_in(3) {
                objects.retain(|known| known.id != object.id);
                objects.push(object);
            }
        }
        objects.retain(|_| !random.one_in(5));
        let mut state = PolicyState::default();
        for object in &objects {
            state.insert(object.clone());
        }
        let compiled = compiler.compile(&state, None).expect("fits");
        for number in 0..100 {
            if let Some(case) = case(random.draw(), &state) {
                compare((round, number), &state, &compiled, &compiler.reasons, &case);
            }
            // The one before still says what it said: workers may be reading it.
            if let Some((state, compiled)) = &older
                && let Some(case) = case(random.draw(), state)
            {
                compare((round, number), state, compiled, &compiler.reasons, &case);
            }
        }
        older = Some((state, compiled));
    }
}

/// What the reference says about a packet that comes in by an endpoint's interface (where it leaves a workload, or enters by a host's), or goes
/// out by it: all policies that hold there.
fn passes(
    state: &PolicyState,
    (endpoint, direction, packet): &(EndpointId, Direction, Packet),
) -> bool {
    let own = evaluate(state, endpoint, *direction, packet).enforced.allow;
    let around = match endpoint {
        EndpointId::Workload(id) => evaluate_all_interfaces(state, id, *direction, packet),
        EndpointId::Host(_) => None,
    };
    own && around.is_none_or(|verdict| verdict.enforced.allow)
}

fn key<A: tables::acl::Address>(source: A, destination: A, packet: &Packet) -> Key<A> {
    match (packet.source_port, packet.destination_port, packet.icmp) {
        (Some(from), Some(to), _) => {
            Key::with_ports(source, destination, packet.protocol, from, to)
        }
        (_, _, Some((kind, code))) if packet.protocol == A::ICMP => {
            Key::icmp(source, destination, kind, code)
        }
        _ => Key::opaque(source, destination, packet.protocol),
    }
}

/// The lists that interfaces get, asked in the order in which the nodes ask them, against the reference: what an interface is, which lists hold on it, the
/// host endpoint for all interfaces among them.
#[test]
fn interfaces_enforce_what_the_reference_says() {
    let states = if cfg!(debug_assertions) { 40 } else { 200 };
    let (mut workloads, mut hosts) = (BTreeMap::new(), BTreeMap::new());
    for seed in 0..states {
        let state = state(seed, 1 + usize::try_from(seed % 12).unwrap());
        let mut random = Random::new(seed);
        let mut compiler = PolicyCompiler::new().expect("has memory");
        let compiled = compiler.compile(&state, Some("n1")).expect("fits");
        let names: Vec<Box<str>> = state
            .workload_endpoints
            .values()
            .map(|workload| workload.interface.clone())
            .chain(["eth0", "eth1", "eth2"].map(Into::into))
            .collect();
        let interfaces: Vec<_> = (0_u16..)
            .zip(&names)
            .map(|(number, name)| PolicyInterface {
                number,
                name: name.clone(),
                addresses: Vec::new(),
            })
            .collect();
        let policies = compiled.interfaces(&state, "n1", &interfaces);
        let settings = settings(&state.felix_of("n1"));
        for _ in 0..500 {
            let Some((endpoint, direction, mut packet)) = case(random.draw(), &state) else {
                continue;
            };
            // Nothing translates here yet.
            packet.pre_nat_destination = None;
            packet.pre_nat_destination_port = None;
            let (name, to_host) = match &endpoint {
                EndpointId::Workload(id) => {
                    let workload = state.workload_endpoints.get(id).unwrap();
                    if &*workload.node != "n1" {
                        continue;
                    }
                    (workload.interface.clone(), packet.with_own_host)
                }
                EndpointId::Host(name) => {
                    let speaks = |interface: &&str| {
                        let host = state.host_endpoint_of("n1", interface, &[]);
                        host.is_some_and(|(other, _)| *other == **name)
                    };
                    match ["eth0", "eth1", "eth2"].into_iter().find(speaks) {
                        Some(interface) => (interface.into(), !packet.forwarded),
                        None => continue,
                    }
                }
            };
            let incoming = matches!(
                (&endpoint, direction),
                (EndpointId::Workload(_), Direction::Egress)
                    | (EndpointId::Host(_), Direction::Ingress)
            );
            // What hosts send themselves is not asked about.
            if !incoming && to_host {
                continue;
            }
            let number = names.iter().position(|other| *other == name).unwrap();
            let policy = policies[number].as_deref().expect("an endpoint's");
            // Lists before tracking are asked in front of these.
            if policy.untracked_input().is_some() {
                continue;
            }
            let (input, way) = match (incoming, to_host) {
                (true, true) => (Some(policy), Way::Host),
                (true, false) => (Some(policy), Way::Out(None)),
                (false, _) => (None, Way::Out(Some(policy))),
            };
            let none = WorkerRules::NONE;
            let fate = match (packet.source, packet.destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let key = key(u32::from(from), to.into(), &packet);
                    let key = compiled.sets.classify(key);
                    decide(Seen::untranslated(&key), input, way, false, &settings, none)
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let key = key(u128::from(from), to.into(), &packet);
                    let key = compiled.sets.classify(key);
                    decide(Seen::untranslated(&key), input, way, false, &settings, none)
                }
                _ => unreachable!("of one version"),
            };
            let passed = matches!(fate, Fate::Pass { .. });
            let case = (endpoint, direction, packet);
            assert_eq!(passed, passes(&state, &case), "seed {seed}, {case:?}");
            let counts = match &case.0 {
                EndpointId::Workload(id) => {
                    let around = evaluate_all_interfaces(&state, id, direction, &case.2);
                    let around = around.is_some_and(|verdict| !verdict.enforced.allow);
                    let own = evaluate(&state, &case.0, direction, &case.2).enforced.allow;
                    workloads.entry((own, around)).or_insert(0)
                }
                EndpointId::Host(_) => hosts.entry((passed, to_host)).or_insert(0),
            };
            *counts += 1;
        }
    }
    println!("workloads {workloads:?}, hosts {hosts:?}");
    assert_eq!(
        workloads.len(),
        4,
        "both, one or none of the endpoints deny"
    );
    assert_eq!(hosts.len(), 4, "to the host and through it");
}

/// A random rule of an access list.
fn access_rule(random: &mut Random) -> Value {
    let mut rule = vec![("action", Value::from(*random.pick(&["Permit", "deny"])))];
    let protocol = *random.pick(&["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "47"]);
    let permits = rule[0].1 == Value::from("Permit");
    if random.one_in(2) {
        rule.push(("protocol", protocol.into()));
        let icmp = protocol.starts_with("ICMP");
        if icmp && random.one_in(2) {
            let types = match random.below(3) {
                0 => Value::map::<&str>([]),
                1 => Value::map([("type", (*random.pick(&[8, 128])).into())]),
                _ => Value::map([("type", 8.into()), ("code", 0.into())]),
            };
            rule.push(("icmp", types));
        }
    }
    let ported = rule.len() > 1 && !protocol.starts_with("ICMP") && protocol != "47";
    for side in ["source", "destination"] {
        let mut fields = Vec::new();
        if random.one_in(2) {
            let nets = [
                "10.0.0.0/8",
                "10.1.0.0/16",
                "10.2.3.1",
                "fd00::/16",
                "0.0.0.0/0",
            ];
            fields.push((
                "nets",
                Value::texts([*random.pick(&nets), *random.pick(&nets)]),
            ));
        }
        if ported && random.one_in(2) {
            let ports = ["80", "0:81", "443:65535"];
            fields.push(("ports", Value::texts([*random.pick(&ports)])));
        }
        rule.push((side, Value::map(fields)));
    }
    if random.one_in(6) {
        rule.push(("ipVersion", (*random.pick(&[4, 6])).into()));
    }
    if permits && random.one_in(3) {
        rule.push(("reflect", true.into()));
    }
    Value::map(rule)
}

#[test]
fn access_lists_are_the_references() {
    let states = if cfg!(debug_assertions) { 20 } else { 200 };
    let mut outcomes = BTreeMap::new();
    for seed in 0..states {
        let mut random = Random::new(seed);
        let mut state = state(seed, 3);
        for index in 0..random.below(5) {
            // Now and then so many that the classifier takes another form.
            let rules = if random.one_in(10) { 700 } else { 8 };
            let rules: Vec<_> = (0..rules).map(|_| access_rule(&mut random)).collect();
            let mut spec = vec![
                ("interface", Value::from(*random.pick(&["lan", "wan"]))),
                (
                    "direction",
                    (*random.pick(&["Input", "Output", "Input"])).into(),
                ),
                ("rules", rules.into()),
            ];
            if random.one_in(2) {
                spec.push((
                    "order",
                    Value::Integer(i64::try_from(random.below(3)).unwrap()),
                ));
            }
            let name = format!("list{index}");
            let document = Value::map([
                ("apiVersion", "oncilla.io/v1".into()),
                ("kind", "AccessList".into()),
                ("metadata", Value::map([("name", name.into())])),
                ("spec", Value::map(spec)),
            ]);
            state.insert(Object::read(&document).unwrap_or_else(|error| panic!("{error}")));
        }
        let mut compiler = PolicyCompiler::new().expect("has memory");
        let compiled = compiler.compile(&state, None).expect("fits");
        for _ in 0..1000 {
            let packet = packet(random.draw(), &state);
            for interface in ["lan", "wan", "other"] {
                for direction in [AccessDirection::Input, AccessDirection::Output] {
                    let expected = evaluate_access(&state, interface, direction, &packet);
                    let judged = compiled.judge_access(interface, direction, &packet);
                    let judged = judged.map(|access| AccessVerdict {
                        allow: access.judged.allow,
                        reflect: access.reflect,
                        rule: match compiler.reasons.cause(access.judged.rule) {
                            Some(Cause::Access { rule, .. }) => rule.clone(),
                            other => panic!("{other:?} is no rule of an access list"),
                        },
                    });
                    assert_eq!(judged, expected, "seed {seed}, {interface}, {packet:?}");
                    let outcome = expected.map(|verdict| (verdict.allow, verdict.reflect));
                    *outcomes.entry(outcome).or_insert(0) += 1;
                }
            }
        }
    }
    println!("{outcomes:?}");
    assert_eq!(outcomes.len(), 4, "nothing, denied, permitted, tracked");
}

/// A random change of one or a few objects, as clients make them: most of them small.
fn change(random: &mut Random, objects: &mut Vec<Object>, pool: &[Object]) {
    for _ in 0..1 + random.below(3) {
        match random.below(6) {
            // Another state's object takes the place of the one of its name, or is new.
            0..3 => {
                let object = random.pick(pool).clone();
                objects.retain(|known| known.id != object.id);
                objects.push(object);
            }
            3 if !objects.is_empty() => {
                let gone = random.below(objects.len());
                objects.swap_remove(gone);
            }
            // The labels of one workload.
            _ => {
                let index = random.below(objects.len().max(1));
                let workloads = objects.iter_mut().skip(index);
                let mut workloads = workloads.filter_map(|object| match &mut object.resource {
                    Resource::WorkloadEndpoint(workload) => Some(workload),
                    _ => None,
                });
                if let Some(workload) = workloads.next() {
                    let value = *random.pick(&["a", "b", "web", "db"]);
                    let label = *random.pick(&["app", "role", "env"]);
                    workload.labels.insert(label.into(), value.into());
                }
            }
        }
    }
}

/// What an interface has: whose policy it is, and the very programs.
fn whole(
    policy: &Option<Arc<InterfacePolicy>>,
) -> Option<impl PartialEq + std::fmt::Debug + use<>> {
    let policy = policy.as_ref()?;
    let number = |program: &Option<Arc<Program>>| program.as_ref().map(Arc::as_ptr);
    let of = |lists: &Lists| {
        let early = lists.untracked.iter().chain([&lists.pre_dnat]);
        let all = lists.normal.iter().chain(&lists.forward).chain(early);
        all.map(number).collect::<Vec<_>>()
    };
    let access = policy.access.each_ref();
    Some((
        (policy.kind, policy.closed),
        (of(&policy.lists), policy.staged.as_ref().map(of)),
        (policy.sources4.clone(), policy.sources6.clone()),
        access.map(|program| program.as_ref().map(Arc::as_ptr)),
    ))
}

/// After each of many small changes, what one compiler has made of them is what another makes of the state from nothing: the same
/// endpoints, sets and interfaces, and the same verdict for the same reason.
#[test]
fn changes_give_what_a_compilation_from_nothing_gives() {
    let (sequences, rounds) = if cfg!(debug_assertions) {
        (3, 20)
    } else {
        (12, 60)
    };
    for sequence in 0..sequences {
        let mut random = Random::new(1000 + sequence);
        let mut pool = Vec::new();
        for seed in 0..6 {
            let documents = documents(sequence * 100 + seed, 10);
            pool.extend(
                documents
                    .iter()
                    .map(|document| Object::read(document).expect("is valid")),
            );
        }
        let mut objects: Vec<Object> = Vec::new();
        for object in pool.iter().take(60) {
            objects.retain(|known| known.id != object.id);
            objects.push(object.clone());
        }
        let node = random.one_in(2).then_some("n1");
        let mut compiler = PolicyCompiler::new().expect("has memory");
        let mut before = PolicyState::default();
        let mut list = InterfaceList::default();
        for round in 0..rounds {
            change(&mut random, &mut objects, &pool);
            let mut next = PolicyState::default();
            for object in &objects {
                next.insert(object.clone());
            }
            // As the owner of the desired state does it: objects that are the same are shared.
            let (upserted, deleted) = next.changes_since(&before);
            for id in upserted.iter().chain(&deleted) {
                match objects.iter().find(|object| object.id == *id) {
                    Some(object) => drop(before.insert(object.clone())),
                    None => drop(before.remove(id)),
                }
            }
            assert_eq!(before, next);
            let compiled = compiler.compile(&before, node).expect("fits");
            let mut fresh = PolicyCompiler::new().expect("has memory");
            let expected = fresh.compile(&next, node).expect("fits");
            let context = format!("sequence {sequence}, round {round}");
            assert_eq!(compiler.members(), fresh.members(), "{context}");
            assert_eq!(compiled.programs, expected.programs, "{context}");
            let names = |policy: &CompiledPolicy| {
                let workloads: Vec<_> = policy.workloads.keys().cloned().collect();
                let hosts: Vec<_> = policy.hosts.keys().cloned().collect();
                let access: Vec<_> = policy.access.keys().cloned().collect();
                (workloads, hosts, access)
            };
            assert_eq!(names(&compiled), names(&expected), "{context}");
            let interfaces: Vec<_> = ["cali1", "cali2", "eth0", "eth1", "lan"]
                .iter()
                .zip(0..)
                .map(|(name, number)| PolicyInterface {
                    number,
                    name: (*name).into(),
                    addresses: Vec::new(),
                })
                // One comes and goes.
                .filter(|interface| interface.number != 4 || round % 16 < 13)
                .collect();
            let all = compiled.interfaces(&next, "n1", &interfaces);
            let listed = list.update(&compiled, &next, "n1", &interfaces.clone().into());
            let wholes =
                |list: &[Option<Arc<InterfacePolicy>>]| list.iter().map(whole).collect::<Vec<_>>();
            assert_eq!(wholes(&listed), wholes(&all), "{context}");
            let kinds = |policy: &CompiledPolicy| {
                let policies = policy.interfaces(&next, "n1", &interfaces);
                let look = |policy: &Option<_>| {
                    let policy: &InterfacePolicy = Arc::as_ref(policy.as_ref()?);
                    Some((
                        policy.kind,
                        policy.closed,
                        policy.staged.is_some(),
                        policy.sources4.clone(),
                        policy.access.each_ref().map(Option::is_some),
                    ))
                };
                policies.iter().map(look).collect::<Vec<_>>()
            };
            assert_eq!(kinds(&compiled), kinds(&expected), "{context}");
            for _ in 0..60 {
                let Some((endpoint, direction, packet)) = case(random.draw(), &next) else {
                    continue;
                };
                let left = compiled.judge(&endpoint, direction, &packet);
                let right = expected.judge(&endpoint, direction, &packet);
                let told = |verdict: &Verdict, reasons: &Reasons| {
                    let why = |rule| reasons.cause(rule).cloned();
                    (
                        (verdict.enforced.allow, why(verdict.enforced.rule)),
                        (verdict.staged.allow, why(verdict.staged.rule)),
                        verdict.untracked,
                        verdict
                            .logs
                            .iter()
                            .map(|rule| why(*rule))
                            .collect::<Vec<_>>(),
                    )
                };
                assert_eq!(
                    told(&left, &compiler.reasons),
                    told(&right, &fresh.reasons),
                    "{context}: {endpoint:?} {direction:?} {packet:?}"
                );
            }
        }
    }
}

/// Long lists are changed in place, and compiled anew in the background: the answers stay those of the reference.
#[test]
fn long_lists_change_in_place() {
    let mut random = Random::new(5);
    let mut lists: Vec<Vec<Value>> = (0..4)
        .map(|_| (0..150).map(|_| access_rule(&mut random)).collect())
        .collect();
    let mut compiler = PolicyCompiler::new().expect("has memory");
    let mut state = state(5, 3);
    let mut orders = [1; 4];
    let mut was_outdated = false;
    for round in 0..400 {
        let list = random.below(lists.len());
        let rules = &mut lists[list];
        // Far from each other, several make a new list; alone, each is made beside the list.
        let edits = if random.one_in(40) { 3 } else { 1 };
        for _ in 0..edits {
            let at = random.below(rules.len());
            match random.below(3) {
                0 => rules[at] = access_rule(&mut random),
                1 => rules.insert(at, access_rule(&mut random)),
                _ => drop(rules.remove(at)),
            }
        }
        if round == 300 {
            // What was begun in the background ends some time, however busy the machine is.
            let deadline = Instant::now() + Duration::from_secs(60);
            while !was_outdated && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
                was_outdated |= compiler.is_outdated();
            }
        }
        // Lists in another order are a new list, mostly.
        if round > 300 && random.one_in(10) {
            orders[list] = random.below(3);
        }
        let changed = if round == 0 { 0..4 } else { list..list + 1 };
        for list in changed {
            let spec = [
                ("interface", Value::from("lan")),
                ("direction", "Input".into()),
                // Two of the same go by their names.
                ("order", (orders[list] as i64).into()),
                ("rules", lists[list].clone().into()),
            ];
            let document = Value::map([
                ("apiVersion", "oncilla.io/v1".into()),
                ("kind", "AccessList".into()),
                (
                    "metadata",
                    Value::map([("name", format!("list{list}").into())]),
                ),
                ("spec", Value::map(spec)),
            ]);
            state.insert(Object::read(&document).unwrap_or_else(|error| panic!("{error}")));
        }
        if random.one_in(8) {
            // Time for what is compiled in the background.
            std::thread::sleep(Duration::from_millis(30));
            was_outdated |= compiler.is_outdated();
        }
        let compiled = compiler.compile(&state, None).expect("fits");
        for _ in 0..100 {
            let packet = packet(random.draw(), &state);
            let expected = evaluate_access(&state, "lan", AccessDirection::Input, &packet);
            let judged = compiled.judge_access("lan", AccessDirection::Input, &packet);
            let judged = judged.map(|access| AccessVerdict {
                allow: access.judged.allow,
                reflect: access.reflect,
                rule: match compiler.reasons.cause(access.judged.rule) {
                    Some(Cause::Access { rule, .. }) => rule.clone(),
                    other => panic!("{other:?} is no rule of an access list"),
                },
            });
            assert_eq!(judged, expected, "round {round}, {packet:?}");
        }
    }
    assert!(was_outdated, "no list was compiled anew");
}
