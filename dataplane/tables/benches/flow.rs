//! Flow table: what a packet of a known flow costs, a new flow, a slice of the sweep.
//!
//! Times are per element; a tick of the reference machine is 0.409 ns. A lookup here is: make a random key
//! (`keys` shows what that and its hash cost alone), hash, look up in batches of 256, count.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tables::{
    FlowConfig, FlowHash, FlowIndex, FlowKey, FlowKey4, FlowKey6, FlowState, FlowTable, Inserted,
    NewFlow, TcpFlags, Tick,
};

const BATCH: usize = 256;
const NOW: Tick = Tick::from_nanos(1 << 40);
/// The largest table takes seconds to fill: it is measured for IPv4 only.
const FLOWS: [u32; 4] = [1 << 10, 1 << 16, 1 << 20, 1 << 22];

/// Flow number `i` of an address family.
trait Numbered: FlowKey {
    fn numbered(i: u32) -> Self;
}

impl Numbered for FlowKey4 {
    #[inline(always)]
    fn numbered(i: u32) -> Self {
        Self::new(
            0x0a00_0000 | i >> 8,
            0xc0a8_0001,
            1024 + (i as u8 as u16),
            443,
            6,
            0,
        )
    }
}

impl Numbered for FlowKey6 {
    #[inline(always)]
    fn numbered(i: u32) -> Self {
        let net = 0x2001_0db8 << 96;
        Self::new(
            net | u128::from(i >> 8),
            net | 1 << 64,
            1024 + (i as u8 as u16),
            443,
            6,
            0,
        )
    }
}

/// Keys in random order; the directions take turns from batch to batch, so that making a key has no
/// branch to be guessed.
struct Packets {
    seed: u64,
    flows: u32,
    reply: bool,
}

impl Packets {
    fn new(flows: u32) -> Self {
        let seed = 0x1234_5678_9abc_def1;
        let reply = false;
        Self { seed, flows, reply }
    }

    #[inline(always)]
    fn batch<K: Numbered>(&mut self, table: &FlowTable, keys: &mut [K], hashes: &mut [FlowHash]) {
        self.reply = !self.reply;
        for (key, hash) in keys.iter_mut().zip(hashes) {
            self.seed = self
                .seed
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            let number = ((self.seed >> 32) * u64::from(self.flows)) >> 32;
            let forward = K::numbered(number as u32);
            *key = if self.reply {
                forward.reversed()
            } else {
                forward
            };
            *hash = table.hash(key);
        }
    }
}

fn filled<K: Numbered>(flows: u32) -> FlowTable {
    let mut table = FlowTable::new(&FlowConfig::new(flows)).expect("memory");
    for i in 0..flows {
        let flow = NewFlow::new(K::numbered(i), FlowState::Established);
        let made = table.insert(&flow, NOW, |_, _| {});
        assert!(matches!(made, Inserted::New(_)), "{made:?}");
    }
    table
}

/// One batch, as a node does it; gives the number of packets whose flow was found.
#[inline(always)]
fn serve<K: Numbered, const N: usize>(table: &mut FlowTable, packets: &mut Packets) -> usize {
    let mut keys = [K::default(); N];
    let mut hashes = [FlowHash::default(); N];
    let mut found: [Option<FlowIndex>; N] = [None; N];
    packets.batch(table, &mut keys, &mut hashes);
    if N < BATCH {
        hashes.iter().for_each(|hash| table.prefetch(*hash));
    }
    table.lookup_batch(&keys, &hashes, &mut found);
    let mut count = 0;
    for index in found.iter().flatten() {
        black_box(table.packet(*index, TcpFlags::ACK, 64, NOW));
        count += 1;
    }
    count
}

fn hits<K: Numbered, const N: usize>(c: &mut Criterion, name: &str, sizes: &[u32]) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(N as u64));
    for &flows in sizes {
        let id = BenchmarkId::from_parameter(flows);
        let mut table = None;
        group.bench_function(id, |b| {
            let table = table.get_or_insert_with(|| filled::<K>(flows));
            let mut packets = Packets::new(flows);
            b.iter(|| assert_eq!(serve::<K, N>(table, &mut packets), N));
        });
    }
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow/keys");
    group.throughput(Throughput::Elements(BATCH as u64));
    let table = filled::<FlowKey4>(8);
    group.bench_function("ip4", |b| {
        let mut packets = Packets::new(1 << 20);
        b.iter(|| {
            let mut keys = [FlowKey4::default(); BATCH];
            let mut hashes = [FlowHash::default(); BATCH];
            packets.batch(&table, &mut keys, &mut hashes);
            black_box((&keys, &hashes));
        });
    });
    group.finish();
    hits::<FlowKey4, BATCH>(c, "flow/hit4", &FLOWS);
    hits::<FlowKey4, 64>(c, "flow/hit4-by-64", &FLOWS);
    hits::<FlowKey6, BATCH>(c, "flow/hit6", &FLOWS[1..3]);

    let mut group = c.benchmark_group("flow/miss4");
    group.throughput(Throughput::Elements(BATCH as u64));
    for flows in [1 << 16, 1 << 20] {
        let mut table = None;
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            let table = table.get_or_insert_with(|| filled::<FlowKey4>(flows));
            let mut keys = [FlowKey4::default(); BATCH];
            let mut hashes = [FlowHash::default(); BATCH];
            let mut found = [None; BATCH];
            let mut packets = Packets::new(flows);
            b.iter(|| {
                packets.batch(table, &mut keys, &mut hashes);
                for (key, hash) in keys.iter_mut().zip(&mut hashes) {
                    *key = FlowKey4::new(key.src(), key.dst(), 7, 7, 6, 9);
                    *hash = table.hash(key);
                }
                table.lookup_batch(&keys, &hashes, &mut found);
                assert!(found.iter().all(Option::is_none));
            });
        });
    }
    group.finish();
}

/// New flows into a table that fills from empty, its memory touched before; hashes are known and lines
/// asked for a batch ahead, as a node does with the misses of a frame.
fn insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("flow/insert4");
    group.throughput(Throughput::Elements(1));
    for flows in [1 << 16, 1 << 20] {
        let mut table = None;
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            let table = table.get_or_insert_with(|| filled::<FlowKey4>(flows));
            b.iter_custom(|rounds| {
                let (mut left, mut spent) = (rounds, Duration::ZERO);
                while left > 0 {
                    let all: Vec<FlowIndex> = table.iter().map(|flow| flow.index()).collect();
                    all.into_iter()
                        .for_each(|at| assert!(table.remove(at, |_, _| {})));
                    let count = left.min(flows.into()) as u32;
                    let start = Instant::now();
                    for first in (0..count).step_by(BATCH) {
                        let batch = first..count.min(first + BATCH as u32);
                        for i in batch.clone() {
                            let key = FlowKey4::numbered(i);
                            table.prefetch(table.hash(&key));
                            table.prefetch(table.hash(&key.reversed()));
                        }
                        for i in batch {
                            let flow = NewFlow::new(FlowKey4::numbered(i), FlowState::SynSent);
                            let made = table.insert(&flow, NOW, |_, _| {});
                            assert!(matches!(made, Inserted::New(_)), "{made:?}");
                        }
                    }
                    spent += start.elapsed();
                    left -= u64::from(count);
                }
                spent
            });
        });
    }
    group.finish();

    // A SYN flood against a full table: half of it established, half half-open.
    let mut group = c.benchmark_group("flow/flood4");
    group.throughput(Throughput::Elements(1));
    let mut flood = None;
    group.bench_function("1048576", |b| {
        let (table, next) = flood.get_or_insert_with(|| {
            let flows = 1 << 20;
            let mut table = FlowTable::new(&FlowConfig::new(flows)).expect("memory");
            for i in 0..flows {
                let state = if i % 2 == 0 {
                    FlowState::Established
                } else {
                    FlowState::SynSent
                };
                let _ = table.insert(&NewFlow::new(FlowKey4::numbered(i), state), NOW, |_, _| {});
            }
            (table, flows)
        });
        b.iter(|| {
            *next += 1;
            let flow = NewFlow::new(FlowKey4::numbered(*next), FlowState::SynSent);
            table.insert(&flow, NOW, |_, _| {})
        });
    });
    group.finish();
}

fn sweep(c: &mut Criterion) {
    const SLICE: u32 = 4096;
    let mut group = c.benchmark_group("flow/sweep4");
    group.throughput(Throughput::Elements(SLICE.into()));
    for flows in [1 << 16, 1 << 20] {
        let mut table = None;
        group.bench_function(BenchmarkId::from_parameter(flows), |b| {
            let table = table.get_or_insert_with(|| filled::<FlowKey4>(flows));
            b.iter(|| assert_eq!(table.sweep(NOW, SLICE, |_, _| {}).examined, SLICE));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = lookup, insert, sweep
}
criterion_main!(benches);
