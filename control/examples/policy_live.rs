//! How long a change of policy takes until it is live on every worker, and what it costs the traffic: a daemon in this process with a
//! packet generator for a device, and a client at its socket.
//!
//! `cargo run --release -p control --example policy_live -- rules` changes one rule per transaction in 100 access lists of 100
//! ClassBench-shaped rules on one interface. `… -- labels` changes the labels of one endpoint per transaction, 100 times a second by the
//! clock, whether earlier ones are live or not, among 1000 policies of 10 rules each over 2000 endpoints. `file` behind it keeps the desired
//! state in a file, synced at every transaction.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::client::Client;
use control::compile::PortFacts;
use control::daemon::{self, Options, StoreLocation};
use control::dataplane::Telemetry;
use control::engine::{EngineOptions, Gateway, Idle, OpenDevice, Opener};
use control_api::v1;
use dataplane::PortCapabilities;
use model::policy::generate::Random;
use ports::{GeneratorConfig, GeneratorQueue, Template, Values};
use tables::acl::generate::{Shape, rules};
use tables::acl::{Prefix, Protocols, Rule, Side};
use wire::{MacAddr, builder};

/// As in the daemon's binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rules in all lists together, and in one.
const RULES: usize = 10_000;
const RULES_OF_A_LIST: usize = 100;
const POLICIES: usize = 1000;
const ENDPOINTS: usize = 2000;
/// Label changes per second.
const RATE: u32 = 100;
/// Windows in which packets are counted, with and without changes by turns.
const WINDOW: Duration = Duration::from_secs(2);
const WINDOWS: usize = 10;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let on_file = arguments.iter().any(|argument| argument == "file");
    let labels = arguments.iter().any(|argument| argument == "labels");
    // Everything here but the worker, which has the last core for itself.
    let cores = std::thread::available_parallelism()?.get();
    let mut others = nix::sched::CpuSet::new();
    for core in 0..(cores - 1).max(1) {
        others.set(core)?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &others)?;

    let mut options = EngineOptions::default();
    options.engine.cores = vec![cores - 1];
    options.engine.idle = Idle::Busy;
    options.engine.burst = 64;
    options.node = "here".into();
    options.devices = Opener::new(move |spec, workers| {
        let port = usize::from(spec.device.as_str() == "gen1");
        open(port, workers).map_err(|error| error.to_string())
    });
    let gateway = Gateway::start(options)?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    let store = if on_file {
        StoreLocation::File(directory.path().join("store"))
    } else {
        StoreLocation::Memory
    };
    println!("store: {store}");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let options = Options {
        socket: socket.clone(),
        store,
        config: Vec::new(),
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let telemetry = Arc::new(gateway.clone());
    let engine = Box::new(gateway.clone());
    let daemon = runtime.spawn(async move {
        let stopped = async { drop(stopped.await) };
        daemon::run(options, engine, telemetry, || (), stopped).await
    });
    let result = runtime.block_on(measure(&socket, &gateway, labels));
    drop(stop);
    runtime.block_on(daemon)??;
    gateway.stop()?.audit()?;
    result
}

/// A generator whose packets go from a host behind the one port to one behind the other.
fn open(port: usize, workers: usize) -> Result<OpenDevice, Failure> {
    let host = |port: usize| Ipv4Addr::new(10, 100, port as u8, 2);
    let bytes = builder::eth(peer(port), ours(port))
        .ip4(host(port), host(1 - port))
        .udp(1024, 80)
        .payload(&[0x42; 18])
        .build();
    // The same connections from both sides: what the one begins, the other answers.
    let field = if port == 0 { 34 } else { 36 };
    let mut template = Template::new(bytes).field(
        field,
        2,
        Values::Increment {
            first: 1024,
            last: 11_023,
            step: 1,
        },
    );
    if port == 1 {
        template = template.field(34, 2, Values::Fixed(80));
    }
    let queue = || -> Result<Box<dyn dataplane::Queue>, Failure> {
        let config = GeneratorConfig::new(vec![template.clone()]);
        Ok(Box::new(GeneratorQueue::new(&config)?))
    };
    Ok(OpenDevice {
        name: format!("gen{port}"),
        index: None,
        facts: PortFacts {
            mac: ours(port),
            mtu: 1500,
            capabilities: PortCapabilities::default(),
        },
        queues: (0..workers).map(|_| queue()).collect::<Result<_, _>>()?,
    })
}

fn ours(port: usize) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, port as u8])
}

fn peer(port: usize) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 1, port as u8])
}

/// The two interfaces, and the hosts behind them.
fn network() -> String {
    let mut text = String::new();
    for port in 0..2 {
        for (kind, name, spec) in [
            (
                "Interface",
                format!("p{port}"),
                format!("{{afPacket: {{device: gen{port}}}}}"),
            ),
            (
                "Address",
                format!("p{port}"),
                format!("{{interface: p{port}, address: 10.100.{port}.1/24}}"),
            ),
            (
                "Neighbour",
                format!("p{port}"),
                format!(
                    "{{interface: p{port}, address: 10.100.{port}.2, macAddress: \"{}\"}}",
                    peer(port)
                ),
            ),
        ] {
            text += &document("oncilla.io/v1", kind, &format!("name: {name}"), &spec);
        }
    }
    text
}

fn document(version: &str, kind: &str, metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {spec}\n")
}

fn parse(text: &str) -> Result<Vec<v1::Object>, Failure> {
    let documents = control::yaml::load(text, "generated").map_err(|errors| {
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    })?;
    Ok(documents
        .into_iter()
        .map(|document| document.object)
        .collect())
}

async fn measure(socket: &Path, gateway: &Gateway, labels: bool) -> Result<(), Failure> {
    let mut client = loop {
        match Client::connect(socket).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    client.upsert(parse(&network())?).await?;
    if labels {
        change_labels(&mut client, gateway).await
    } else {
        change_rules(&mut client, gateway).await
    }
}

/// Access list `list`: its share of the rules, the first of them to another destination for each `version`.
fn access_list(all: &[Rule], list: usize, version: usize) -> String {
    let mut spec = format!("{{interface: p0, direction: Input, order: {list}, rules: [");
    let own = &all[list * RULES_OF_A_LIST..(list + 1) * RULES_OF_A_LIST];
    for (index, rule) in own.iter().enumerate() {
        let mut fields = format!("action: {}", if index % 3 == 0 { "Deny" } else { "Permit" });
        if rule.protocols != Protocols::ALL
            && let Some(protocol) = rule.protocols.iter().next()
        {
            let _ = write!(fields, ", protocol: {protocol}");
        }
        let changed = (index == version % RULES_OF_A_LIST).then(|| {
            format!(
                "{{nets: [192.0.{}.{}/32]}}",
                version / 256 % 256,
                version % 256
            )
        });
        let destination = changed.unwrap_or_else(|| side(&rule.destination));
        let source = side(&rule.source);
        let _ = write!(
            spec,
            "{{{fields}, source: {source}, destination: {destination}}}, "
        );
    }
    spec += "]}";
    document(
        "oncilla.io/v1",
        "AccessList",
        &format!("name: list{list:03}"),
        &spec,
    )
}

fn side(side: &Side) -> String {
    let mut fields = Vec::new();
    if let Some(Prefix::V4(prefix)) = side.prefixes.first() {
        fields.push(format!("nets: [{prefix}]"));
    }
    if let Some(range) = side.ports.first() {
        fields.push(format!("ports: [\"{}:{}\"]", range.first(), range.last()));
    }
    format!("{{{}}}", fields.join(", "))
}

async fn change_rules(client: &mut Client, gateway: &Gateway) -> Result<(), Failure> {
    let all = rules(Shape::Acl1, RULES, 1);
    let lists = RULES / RULES_OF_A_LIST;
    let mut text: String = (0..lists).map(|list| access_list(&all, list, 0)).collect();
    text += &document(
        "oncilla.io/v1",
        "AccessList",
        "name: z-rest",
        "{interface: p0, direction: Input, rules: [{action: Permit, reflect: true}]}",
    );
    let begin = Instant::now();
    client.upsert(parse(&text)?).await?;
    println!(
        "{RULES} rules live after {:.1} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    let mut random = Random::new(1);
    let mut versions = vec![0; lists];
    let mut times = Vec::new();
    for round in 0..1000 {
        let list = random.below(lists);
        versions[list] += 1;
        let objects = parse(&access_list(&all, list, versions[list]))?;
        let begin = Instant::now();
        client.upsert(objects).await?;
        times.push(begin.elapsed());
        // Ten a second would be much; here the lists are compiled anew every 16 changes.
        if round % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    print_times(
        "one rule of 10,000 changed, live on every worker",
        &mut times,
    );
    println!("{} packets passed meanwhile", passed(gateway));
    Ok(())
}

fn policies() -> String {
    let mut text = String::new();
    for policy in 0..POLICIES {
        let other = |by: usize| (policy + by) % POLICIES;
        let mut ingress = format!(
            "{{action: Allow, protocol: UDP, source: {{selector: \"app == 'a{policy}'\"}}, destination: {{ports: [80]}}}}"
        );
        for rule in 1..6 {
            let _ = write!(
                ingress,
                ", {{action: Allow, protocol: TCP, source: {{selector: \"app == 'a{}'\"}}, destination: {{ports: [{}]}}}}",
                other(rule * 37),
                8000 + rule
            );
        }
        let mut egress = format!(
            "{{action: Allow, destination: {{selector: \"app == 'a{policy}'\"}}}}, \
             {{action: Deny, protocol: TCP, destination: {{nets: [10.200.{}.0/24], ports: [22]}}}}",
            policy % 256
        );
        for rule in 1..3 {
            let _ = write!(
                egress,
                ", {{action: Allow, protocol: TCP, destination: {{selector: \"zone == 'z{}' && role == 'r{}'\", ports: [{}]}}}}",
                other(rule) % 8,
                other(rule) % 3,
                9000 + rule
            );
        }
        text += &document(
            "projectcalico.org/v3",
            "GlobalNetworkPolicy",
            &format!("name: p{policy:04}"),
            &format!(
                "{{selector: \"app == 'a{policy}'\", types: [Ingress, Egress], ingress: [{ingress}], egress: [{egress}]}}"
            ),
        );
    }
    text
}

fn endpoint(number: usize, app: usize) -> String {
    let (interface, address) = match number {
        0 | 1 => (format!("p{number}"), format!("10.100.{number}.2")),
        _ => (
            format!("cali{number}"),
            format!("10.{}.{}.2", 101 + number / 200, number % 200),
        ),
    };
    let (zone, role) = (number % 8, number % 3);
    document(
        "projectcalico.org/v3",
        "WorkloadEndpoint",
        &format!(
            "name: w{number:04}, namespace: n, labels: {{app: a{app}, zone: z{zone}, role: r{role}}}"
        ),
        &format!("{{node: here, interfaceName: {interface}, ipNetworks: [{address}]}}"),
    )
}

async fn change_labels(client: &mut Client, gateway: &Gateway) -> Result<(), Failure> {
    let mut text = policies();
    for number in 0..ENDPOINTS {
        text += &endpoint(number, number / 2);
    }
    let begin = Instant::now();
    client.upsert(parse(&text)?).await?;
    println!(
        "{POLICIES} policies and {ENDPOINTS} endpoints live after {:.1} ms",
        begin.elapsed().as_secs_f64() * 1e3
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut random = Random::new(1);
    let mut times = Vec::new();
    let (mut calm, mut busy) = (Vec::new(), Vec::new());
    let mut busy_time = Duration::ZERO;
    for window in 0..WINDOWS {
        let (before, begin) = (passed(gateway), Instant::now());
        if window % 2 == 0 {
            tokio::time::sleep(WINDOW).await;
        } else {
            let mut changes = tokio::task::JoinSet::new();
            let mut due = begin;
            while due < begin + WINDOW {
                // The first two are those whose packets are counted.
                let number = 2 + random.below(ENDPOINTS - 2);
                let objects = parse(&endpoint(number, random.below(POLICIES)))?;
                tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
                let mut client = client.clone();
                changes.spawn(async move {
                    let applied = client.upsert(objects).await;
                    applied.map(|_| due.elapsed())
                });
                due += Duration::from_secs(1) / RATE;
            }
            while let Some(change) = changes.join_next().await {
                times.push(change??);
            }
            busy_time += begin.elapsed();
        }
        let rate = (passed(gateway) - before) as f64 / begin.elapsed().as_secs_f64() / 1e6;
        if window % 2 == 0 {
            calm.push(rate);
        } else {
            busy.push(rate);
        }
    }
    print_times(
        "labels of one endpoint changed, live on every worker, from the time when it was due",
        &mut times,
    );
    let achieved = times.len() as f64 / busy_time.as_secs_f64();
    println!("{RATE} changes per second offered, {achieved:.1} live");
    let (calm, busy) = (median(&mut calm), median(&mut busy));
    println!(
        "{calm:.3} million packets per second without changes, {busy:.3} with them: {:.1} % less",
        (1.0 - busy / calm) * 100.0
    );
    Ok(())
}

/// Packets that have left the two ports.
fn passed(gateway: &Gateway) -> u64 {
    let interfaces = gateway.interfaces();
    let counters = interfaces
        .iter()
        .filter_map(|state| state.counters.as_ref());
    counters.map(|counters| counters.tx_packets).sum()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() - 1) as f64 * share) as usize;
        times[index].as_secs_f64() * 1e3
    };
    println!(
        "{what}: median {:.3} ms, p99 {:.3} ms, most {:.3} ms, of {}",
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
}
