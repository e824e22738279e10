//! Policy that changes while packets pass: through the daemon and its socket, with ports in memory, so that every packet is accounted for.
//!
//! What is provable. A worker reads the snapshot once per turn, and what one call of a queue's `rx` gives is one frame of one turn. So
//! all packets that come in one call must be judged by one and the same policy, whatever is published meanwhile; and an answered
//! transaction is live on every worker, so a packet that comes after the answer is judged by it or by what follows.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::client::Client;
use control::compile::PortFacts;
use control::daemon::{self, Options, StoreLocation};
use control::engine::{EngineOptions, Gateway, Idle, OpenDevice, Opener};
use control_api::v1;
use dataplane::{Buffers, Descriptor, Frame, PortCapabilities, Queue};
use wire::{MacAddr, builder};

const PATIENCE: Duration = Duration::from_secs(60);

/// Packets of one moment.
type Burst = Box<dyn Fn(u32) -> Vec<Vec<u8>> + Send + Sync>;

/// What all ports share.
struct Wire {
    /// How many bursts have begun.
    sent: AtomicU32,
    /// Bytes of the packets that came out, from the IP header on.
    out: Mutex<Vec<Vec<u8>>>,
}

/// Packets come in bursts, by number, at most one each 100 microseconds.
struct Source {
    wire: Arc<Wire>,
    burst: Option<Arc<Burst>>,
    last: Instant,
}

impl Queue for Source {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        let Some(burst) = &self.burst else { return 0 };
        if self.last.elapsed() < Duration::from_micros(100) {
            return 0;
        }
        let packets = burst(self.wire.sent.load(Ordering::Acquire));
        assert!(packets.len() <= max && packets.len() <= frame.room());
        self.last = Instant::now();
        self.wire.sent.fetch_add(1, Ordering::AcqRel);
        let count = packets.len();
        for packet in packets {
            let descriptor = buffers.copy_from(&packet).expect("has buffers");
            assert!(frame.push(descriptor).is_ok(), "has room");
        }
        count
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        let mut out = self.wire.out.lock().unwrap();
        for slot in packets.iter_mut() {
            let packet = slot.take();
            out.push(buffers.bytes(&packet)[14..].to_vec());
            buffers.free(packet);
        }
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {}
}

/// A daemon with two ports in memory, of the names of their devices.
struct Daemon {
    wire: Arc<Wire>,
    client: Client,
    runtime: tokio::runtime::Runtime,
    gateway: Gateway,
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), daemon::DaemonError>>,
    _directory: tempfile::TempDir,
}

impl Daemon {
    /// `burst` makes what the first of the devices receives, `answers` what the second does.
    fn start(burst: Burst, answers: Option<Burst>) -> Self {
        let wire = Arc::new(Wire {
            sent: AtomicU32::new(0),
            out: Mutex::default(),
        });
        let (burst, answers) = (Arc::new(burst), answers.map(Arc::new));
        let mut options = EngineOptions::default();
        options.engine.workers = 1;
        options.engine.idle = Idle::Busy;
        options.node = "here".into();
        let ports = Arc::clone(&wire);
        options.devices = Opener::new(move |spec, workers| {
            let second = spec.device.as_str() == "dev1";
            let burst = if second {
                answers.clone()
            } else {
                Some(Arc::clone(&burst))
            };
            let queue = || -> Box<dyn Queue> {
                Box::new(Source {
                    wire: Arc::clone(&ports),
                    burst: burst.clone(),
                    last: Instant::now(),
                })
            };
            Ok(OpenDevice {
                name: spec.device.as_str().into(),
                index: None,
                facts: PortFacts {
                    mac: mac(0, u8::from(second)),
                    mtu: 1500,
                    capabilities: PortCapabilities::default(),
                },
                queues: (0..workers).map(|_| queue()).collect(),
            })
        });
        let gateway = Gateway::start(options).expect("starts");
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let options = Options {
            socket: socket.clone(),
            store: StoreLocation::Memory,
            config: Vec::new(),
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (ready, is_ready) = tokio::sync::oneshot::channel::<()>();
        let (engine, telemetry) = (Box::new(gateway.clone()), Arc::new(gateway.clone()));
        let task = runtime.spawn(async move {
            let stopped = async { drop(stopped.await) };
            let ready = || ready.send(()).unwrap_or(());
            daemon::run(options, engine, telemetry, ready, stopped).await
        });
        let client = runtime.block_on(async {
            is_ready.await.expect("starts");
            Client::connect(&socket).await.expect("connects")
        });
        Self {
            wire,
            client,
            runtime,
            gateway,
            stop,
            task,
            _directory: directory,
        }
    }

    #[track_caller]
    fn apply(&mut self, text: &str) {
        let objects = parse(text);
        let answer = self.runtime.block_on(self.client.upsert(objects));
        answer.unwrap_or_else(|error| panic!("{error}"));
    }

    #[track_caller]
    fn delete(&mut self, kind: &str, name: &str) {
        let key = v1::ObjectKey {
            kind: kind.into(),
            name: name.into(),
        };
        let answer = self.runtime.block_on(self.client.delete(vec![key]));
        answer.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The number of the next burst.
    fn now(&self) -> u32 {
        self.wire.sent.load(Ordering::Acquire)
    }

    /// Waits until so many more bursts have come. Gives the number of the next.
    #[track_caller]
    fn let_pass(&self, bursts: u32) -> u32 {
        let (until, start) = (self.now() + bursts, Instant::now());
        while self.now() < until {
            assert!(start.elapsed() < PATIENCE, "no packets come");
            std::thread::sleep(Duration::from_micros(100));
        }
        self.now()
    }

    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.wire.out.lock().unwrap())
    }

    /// Ends it, with all buffers accounted for. Gives what came out since the last look.
    fn stop(self) -> Vec<Vec<u8>> {
        drop(self.stop);
        self.runtime.block_on(self.task).unwrap().unwrap();
        self.gateway.stop().unwrap().audit().unwrap();
        std::mem::take(&mut self.wire.out.lock().unwrap())
    }
}

fn parse(text: &str) -> Vec<v1::Object> {
    let documents = control::yaml::load(text, "test").unwrap_or_else(|errors| {
        let errors: String = errors.iter().map(ToString::to_string).collect();
        panic!("{errors}")
    });
    documents
        .into_iter()
        .map(|document| document.object)
        .collect()
}

fn mac(host: u8, port: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, host, port])
}

/// A packet with a number that no other has, which makes it a flow of its own: 12 bits of it are in the source address, 16 in the source
/// port, and all of them behind the header.
fn packet(port: u8, source: [u8; 2], to: [u8; 4], destination_port: u16, number: u32) -> Vec<u8> {
    let [_, high, middle, low] = number.to_be_bytes();
    let source = Ipv4Addr::new(source[0], source[1], high, 2);
    builder::eth(mac(1, port), mac(0, port))
        .ip4(source, to)
        .udp(u16::from_be_bytes([middle, low]), destination_port)
        .payload(&number.to_be_bytes())
        .build()
}

/// Number, first two bytes of the source, destination port.
fn read(packet: &[u8]) -> Option<(u32, [u8; 2], u16)> {
    if packet[0] != 0x45 || packet[9] != 17 {
        return None;
    }
    Some((
        u32::from_be_bytes(packet[28..32].try_into().ok()?),
        [packet[12], packet[13]],
        u16::from_be_bytes([packet[22], packet[23]]),
    ))
}

fn plain(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: oncilla.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn calico(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {spec}\n"
    )
}

/// An interface on a device, the network on it, and the host in that.
fn interface(name: &str, port: u8) -> String {
    plain(
        "Interface",
        name,
        &format!("{{afPacket: {{device: dev{port}}}}}"),
    ) + &plain(
        "Address",
        name,
        &format!("{{interface: {name}, address: 10.100.{port}.1/24}}"),
    ) + &plain(
        "Neighbour",
        name,
        &format!(
            "{{interface: {name}, address: 10.100.{port}.2, macAddress: \"{}\"}}",
            mac(1, port)
        ),
    )
}

const NORTH: [u8; 2] = [11, 1];
const SOUTH: [u8; 2] = [11, 2];
/// Bursts at the most: each leaves one flow, and the table has room for them.
const MOST_BURSTS: u32 = 200_000;

/// One of two policies in two objects that only make sense together: the ports that are open, and to whom. Two more are mixtures
/// that never were.
fn version(south: bool) -> String {
    let (port, net) = if south {
        (2, "11.2.0.0/16")
    } else {
        (1, "11.1.0.0/16")
    };
    calico(
        "GlobalNetworkPolicy",
        "name: who",
        &format!(
            "{{selector: all(), types: [Ingress], ingress: [{{action: Allow, protocol: UDP, source: {{selector: friend == 'yes'}}, destination: {{ports: [{port}]}}}}]}}"
        ),
    ) + &calico(
        "GlobalNetworkSet",
        "name: friends, labels: {friend: 'yes'}",
        &format!("{{nets: [{net}]}}"),
    )
}

#[test]
fn no_packet_sees_half_of_a_change() {
    // Of four packets that come at once, either policy passes one; and each mixture another.
    let burst = |number: u32| -> Vec<Vec<u8>> {
        if number >= MOST_BURSTS {
            return Vec::new();
        }
        let packets = [(NORTH, 1), (NORTH, 2), (SOUTH, 1), (SOUTH, 2)];
        let packets = packets.into_iter();
        packets
            .map(|(source, port)| packet(0, source, [10, 100, 1, 2], port, number))
            .collect()
    };
    let mut daemon = Daemon::start(Box::new(burst), None);
    let endpoint = calico(
        "WorkloadEndpoint",
        "name: w, namespace: n",
        "{node: here, interfaceName: cali1, ipNetworks: [10.100.1.2]}",
    );
    // The workload first: its port is open for nobody before it has its policy.
    daemon.apply(&(version(false) + &endpoint + &interface("cali1", 1)));
    daemon.apply(&interface("p0", 0));
    let first = daemon.let_pass(100);
    daemon.take();
    let mut states = Vec::new();
    for flip in 0..1000 {
        let south = flip % 2 == 0;
        daemon.apply(&version(south));
        // What begins now is judged by what was just answered, until the next begins to be applied.
        let from = daemon.now();
        let until = daemon.let_pass(2);
        states.push((from, until, south));
    }
    let last = daemon.let_pass(10);
    std::thread::sleep(Duration::from_millis(50));
    assert!(last < MOST_BURSTS, "{last} bursts: the machine is too slow");
    let mut passed: BTreeMap<u32, Vec<([u8; 2], u16)>> = BTreeMap::new();
    for packet in daemon.stop() {
        if let Some((number, source, port)) = read(&packet) {
            passed.entry(number).or_default().push((source, port));
        }
    }
    let mut seen = [0u32; 2];
    for number in first + 1..last - 1 {
        let south = match passed.get(&number).map(Vec::as_slice) {
            Some([(NORTH, 1)]) => false,
            Some([(SOUTH, 2)]) => true,
            other => panic!("of burst {number} passed {other:?}"),
        };
        seen[usize::from(south)] += 1;
    }
    // `from` may have been judged before the answer; those behind it not.
    for (from, until, south) in states {
        for number in from + 1..until {
            let expected = if south { (SOUTH, 2) } else { (NORTH, 1) };
            assert_eq!(
                passed[&number],
                [expected],
                "burst {number} comes after the answer"
            );
        }
    }
    println!("{} bursts, {seen:?} by either policy", last - first);
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
}

/// A workload and a policy that opens port 1 to and from it, with a name for the one and the other.
fn workload() -> String {
    calico(
        "WorkloadEndpoint",
        "name: w, namespace: n, labels: {app: web}",
        "{node: here, interfaceName: cali0, ipNetworks: [10.100.0.2], allowSpoofedSourcePrefixes: [11.1.0.0/16]}",
    )
}

fn opening() -> String {
    calico(
        "GlobalNetworkPolicy",
        "name: one",
        "{selector: app == 'web', types: [Ingress, Egress], ingress: [{action: Allow, protocol: UDP, destination: {ports: [1]}}], egress: [{action: Allow, protocol: UDP, destination: {ports: [1]}}]}",
    )
}

/// Both directions, each with a packet to port 1 and one to port 2 per burst, from before anything is configured.
fn both_ways() -> Daemon {
    let out = |number: u32| -> Vec<Vec<u8>> {
        [1, 2]
            .map(|port| packet(0, NORTH, [10, 100, 1, 2], port, number))
            .into()
    };
    let back = |number: u32| -> Vec<Vec<u8>> {
        [1, 2]
            .map(|port| packet(1, SOUTH, [10, 100, 0, 2], port, number))
            .into()
    };
    let mut daemon = Daemon::start(Box::new(out), Some(Box::new(back)));
    daemon.apply(&interface("p1", 1));
    daemon
}

/// What passed since the last look: numbers by direction (from the workload, to it). Never anything to port 2.
#[track_caller]
fn passed(daemon: &Daemon) -> [Vec<u32>; 2] {
    std::thread::sleep(Duration::from_millis(20));
    let mut numbers = [Vec::new(), Vec::new()];
    for packet in daemon.take() {
        if let Some((number, source, port)) = read(&packet) {
            assert_eq!(port, 1, "packet {number} from {source:?} may never pass");
            numbers[usize::from(source == SOUTH)].push(number);
        }
    }
    numbers
}

#[track_caller]
fn nothing_passes(daemon: &Daemon) {
    daemon.let_pass(200);
    assert_eq!(passed(daemon), [Vec::<u32>::new(), Vec::new()]);
}

/// Packets pass both ways, and none that came before `from`.
#[track_caller]
fn passes_from(daemon: &Daemon, from: u32) {
    daemon.let_pass(400);
    for numbers in passed(daemon) {
        assert!(numbers.len() > 50, "{} passed", numbers.len());
        let early: Vec<_> = numbers.iter().filter(|number| **number < from).collect();
        assert!(early.is_empty(), "{early:?} came before {from} and passed");
    }
}

#[test]
fn a_port_is_closed_until_its_policy_is_live() {
    // Interface, endpoint, policy.
    let mut daemon = both_ways();
    daemon.apply(&interface("cali0", 0));
    nothing_passes(&daemon);
    daemon.apply(&workload());
    nothing_passes(&daemon);
    let from = daemon.now();
    daemon.apply(&opening());
    passes_from(&daemon, from);

    // The endpoint goes, and its flows with it; and comes again.
    daemon.delete("WorkloadEndpoint", "n/w");
    let gone = daemon.let_pass(2);
    let late = |numbers: &Vec<u32>| numbers.iter().any(|number| *number > gone);
    daemon.let_pass(200);
    assert!(
        !passed(&daemon).iter().any(late),
        "passes without an endpoint"
    );
    nothing_passes(&daemon);
    let from = daemon.now();
    daemon.apply(&workload());
    passes_from(&daemon, from);
    daemon.stop();
}

#[test]
fn a_port_opens_with_its_policy_whatever_comes_first() {
    let orders: [&[&dyn Fn() -> String]; 4] = [
        &[&workload, &opening, &|| interface("cali0", 0)],
        &[&opening, &|| interface("cali0", 0), &workload],
        &[&opening, &workload, &|| interface("cali0", 0)],
        &[&|| interface("cali0", 0) + &workload() + &opening()],
    ];
    for order in orders {
        let mut daemon = both_ways();
        let (last, first) = order.split_last().expect("is not empty");
        for part in first {
            daemon.apply(&part());
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(passed(&daemon), [Vec::<u32>::new(), Vec::new()]);
        }
        let from = daemon.now();
        daemon.apply(&last());
        passes_from(&daemon, from);
        daemon.stop();
    }
}
