//! What a flood of connections that nobody completes costs those that are there: an engine with a packet generator for a device.
//!
//! `cargo run --release -p control --example syn_flood`. Two hosts exchange packets of 10,000 established TCP connections at a rate
//! that the worker carries easily; a third port sends SYNs from random addresses as fast as the worker takes them. Each host's
//! packets wait in a ring of 4096, as a network card has it, and are lost where that is full. When the flood begins, access lists
//! deny what the connections are: so a connection that were evicted would lose every packet from then on.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use control::client::Client;
use control::compile::PortFacts;
use control::daemon::{self, Options, StoreLocation};
use control::dataplane::Telemetry;
use control::engine::{EngineOptions, Gateway, Idle, OpenDevice, Opener};
use control_api::v1;
use dataplane::{Buffers, Descriptor, Frame, PortCapabilities, Queue, QueueCounters};
use ports::{GeneratorConfig, GeneratorQueue, Template, Values};
use wire::{MacAddr, TcpFlags, builder};

type Failure = Box<dyn std::error::Error>;

const CONNECTIONS: u32 = 10_000;
/// Packets per second in each direction.
const RATE: u64 = 200_000;
/// Packets that wait.
const RING: u64 = 4096;
const TIME: Duration = Duration::from_secs(8);

/// A generator behind a ring: its packets come at a rate, and are lost where the worker is late.
struct Paced {
    generator: GeneratorQueue,
    rate: u64,
    begin: Instant,
    offered: u64,
    missed: Arc<AtomicU64>,
}

impl Queue for Paced {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        if self.rate == u64::MAX {
            return self.generator.rx(frame, max, buffers);
        }
        let due =
            (self.begin.elapsed().as_nanos() as u64).saturating_mul(self.rate) / 1_000_000_000;
        let mut waiting = due - self.offered;
        if waiting > RING {
            let lost = waiting - RING;
            self.missed.fetch_add(lost, Ordering::Relaxed);
            self.offered += lost;
            waiting = RING;
        }
        let max = max.min(usize::try_from(waiting).unwrap_or(max));
        if max == 0 {
            return 0;
        }
        let count = self.generator.rx(frame, max, buffers);
        self.offered += count as u64;
        count
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        self.generator.tx(packets, buffers)
    }

    fn flush(&mut self, buffers: &mut Buffers) {
        self.generator.flush(buffers);
    }

    fn counters(&self) -> QueueCounters {
        self.generator.counters()
    }
}

fn ours(port: usize) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, port as u8])
}

fn peer(port: usize) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 1, port as u8])
}

fn host(port: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100, port as u8, 2)
}

/// 0 and 1: the hosts. 2: the flood.
fn template(port: usize) -> Template {
    let (to, flags) = if port == 2 {
        (1, TcpFlags::SYN)
    } else {
        (1 - port, TcpFlags::ACK)
    };
    let source_port = if port == 1 { 80 } else { 1024 };
    let destination_port = if port == 1 { 1024 } else { 80 };
    let bytes = builder::eth(peer(port), ours(port))
        .ip4(host(port), host(to))
        .tcp(source_port, destination_port)
        .flags(flags)
        .payload(&[0x42; 6])
        .build();
    let connections = Values::Increment {
        first: 1024,
        last: 1024 + CONNECTIONS - 1,
        step: 1,
    };
    match port {
        0 => Template::new(bytes).field(34, 2, connections),
        1 => Template::new(bytes).field(36, 2, connections),
        _ => Template::new(bytes)
            .field(
                26,
                4,
                Values::Random {
                    first: 0x0b00_0000,
                    last: 0x0bff_ffff,
                },
            )
            .field(
                34,
                2,
                Values::Random {
                    first: 1024,
                    last: 65_535,
                },
            ),
    }
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: oncilla.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn interface(port: usize) -> String {
    let name = format!("p{port}");
    document(
        "Interface",
        &name,
        &format!("{{afPacket: {{device: gen{port}}}}}"),
    ) + &document(
        "Address",
        &name,
        &format!("{{interface: p{port}, address: 10.100.{port}.1/24}}"),
    ) + &document(
        "Neighbour",
        &name,
        &format!(
            "{{interface: p{port}, address: {}, macAddress: \"{}\"}}",
            host(port),
            peer(port)
        ),
    )
}

/// What a port receives: everything, tracked, or nothing new.
fn list(port: usize, open: bool) -> String {
    let rule = if open {
        "{action: Permit, reflect: true}"
    } else {
        "{action: Deny}"
    };
    document(
        "AccessList",
        &format!("in{port}"),
        &format!("{{interface: p{port}, direction: Input, rules: [{rule}]}}"),
    )
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

fn main() -> Result<(), Failure> {
    let missed = Arc::new(AtomicU64::new(0));
    let cores = std::thread::available_parallelism()?.get();
    let mut options = EngineOptions::default();
    options.engine.cores = vec![cores - 1];
    options.engine.idle = Idle::Busy;
    options.engine.burst = 64;
    let counter = Arc::clone(&missed);
    options.devices = Opener::new(move |spec, workers| {
        let port = match spec.device.as_str() {
            "gen0" => 0,
            "gen1" => 1,
            _ => 2,
        };
        let queue = || -> Result<Box<dyn Queue>, String> {
            let config = GeneratorConfig::new(vec![template(port)]);
            Ok(Box::new(Paced {
                generator: GeneratorQueue::new(&config).map_err(|error| error.to_string())?,
                rate: if port == 2 { u64::MAX } else { RATE },
                begin: Instant::now(),
                offered: 0,
                missed: Arc::clone(&counter),
            }))
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
    });
    let gateway = Gateway::start(options)?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    let options = Options {
        socket: socket.clone(),
        store: StoreLocation::Memory,
        config: Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = tokio::sync::oneshot::channel::<()>();
    let (engine, telemetry) = (Box::new(gateway.clone()), Arc::new(gateway.clone()));
    let daemon = runtime.spawn(async move {
        let stopped = async { drop(stopped.await) };
        let ready = || ready.send(()).unwrap_or(());
        daemon::run(options, engine, telemetry, ready, stopped).await
    });
    let result = runtime.block_on(async {
        is_ready.await?;
        let mut client = Client::connect(&socket).await?;
        flood(&mut client, &gateway, &missed).await
    });
    drop(stop);
    runtime.block_on(daemon)??;
    gateway.stop()?.audit()?;
    result
}

async fn flood(client: &mut Client, gateway: &Gateway, missed: &AtomicU64) -> Result<(), Failure> {
    let hosts = interface(0) + &interface(1) + &list(0, true) + &list(1, true);
    client.upsert(parse(&hosts)?).await?;
    // Every connection has had its packets in both directions by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    client
        .upsert(parse(&(list(0, false) + &list(1, false)))?)
        .await?;
    report("connections alone", gateway, missed).await;
    let before = memory();
    client
        .upsert(parse(&(interface(2) + &list(2, true)))?)
        .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let full = memory();
    report("with the flood", gateway, missed).await;
    println!(
        "memory: {before} MiB before, {full} MiB after a second of the flood, {} MiB after {} more",
        memory(),
        TIME.as_secs()
    );
    let drops = Telemetry::drops(gateway);
    for drop in drops.iter().take(5) {
        println!(
            "dropped by {}: {} ({})",
            drop.node, drop.packets, drop.reason
        );
    }
    Ok(())
}

/// Received and discarded packets of the two hosts, and received ones of the flood.
fn counts(gateway: &Gateway) -> [u64; 3] {
    let mut counts = [0; 3];
    for state in gateway.interfaces() {
        let Some(counters) = state.counters else {
            continue;
        };
        if state.name == "p2" {
            counts[2] += counters.rx_packets;
        } else {
            counts[0] += counters.rx_packets;
            counts[1] += counters.rx_discards;
        }
    }
    counts
}

async fn report(what: &str, gateway: &Gateway, missed: &AtomicU64) {
    let now = || (counts(gateway), missed.load(Ordering::Relaxed));
    let ([received, discarded, flood], lost) = now();
    tokio::time::sleep(TIME).await;
    let ([received2, discarded2, flood2], lost2) = now();
    let (lost, discarded) = (lost2 - lost, discarded2 - discarded);
    let received = received2 - received;
    let offered = received + lost;
    println!(
        "{what}: {offered} packets of connections offered, {lost} lost in the rings, {discarded} discarded: {:.3} % loss; {:.2} million SYNs per second",
        (lost + discarded) as f64 / offered as f64 * 100.0,
        (flood2 - flood) as f64 / TIME.as_secs_f64() / 1e6
    );
}

/// Resident memory of this process in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4 / 1024
}
