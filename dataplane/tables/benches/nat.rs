//! What a new flow asks once: service, backend, outside port. Times are per element.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tables::{
    AddressRange, DetNat, DetNatConfig, ExactMap, HostBlocks, HostBlocksConfig, Maglev, PortBlocks,
    PortLayout, PortWish, Prefix4, Share, Tick,
};

const BATCH: usize = 256;

/// Numbers that look random and are the same in every run.
struct Sequence(u64);

impl Sequence {
    fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 32
    }

    fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// VRF, protocol and port beside addresses in a row.
fn service(i: u32) -> u128 {
    u128::from(0x0a60_0000 + i / 2) << 32 | u128::from(6_u32) << 16 | u128::from(80 + i % 2)
}

fn exact(c: &mut Criterion) {
    let mut group = c.benchmark_group("exact/lookup, 256 keys");
    group.throughput(Throughput::Elements(BATCH as u64));
    for entries in [1_000, 100_000, 1_000_000] {
        let map = ExactMap::build((0..entries).map(|i| (service(i), i))).expect("no duplicates");
        for (name, first) in [("hit", 0), ("miss", entries)] {
            let mut sequence = Sequence(1);
            let keys: Vec<u128> = (0..1 << 16)
                .map(|_| service(first + sequence.below(entries)))
                .collect();
            let mut batches = keys.chunks(BATCH).cycle();
            group.bench_function(BenchmarkId::new(name, entries), |b| {
                b.iter(|| {
                    let batch = batches.next().expect("a cycle");
                    batch.iter().for_each(|key| map.prefetch(*key));
                    let found = batch.iter().filter_map(|key| map.get(*key));
                    black_box(found.fold(0, u32::wrapping_add))
                });
            });
        }
    }
    group.finish();
    let mut group = c.benchmark_group("exact/build");
    for entries in [1_000, 100_000] {
        let entries: Vec<_> = (0..entries).map(|i| (service(i), i)).collect();
        group.bench_function(BenchmarkId::from_parameter(entries.len()), |b| {
            b.iter(|| ExactMap::build(entries.iter().copied()).expect("no duplicates"));
        });
    }
    group.finish();
}

fn maglev(c: &mut Criterion) {
    let mut sequence = Sequence(1);
    let backends: Vec<(u64, u32)> = (0..1000).map(|_| (sequence.bits(), 1)).collect();
    let mut group = c.benchmark_group("maglev/build");
    for count in [3, 100, 1000] {
        let mut backends = backends[..count].to_vec();
        let size = Maglev::size_for(count);
        let name = |weights| format!("{count} backends, {size} slots, {weights}");
        group.bench_function(name("equal weights"), |b| {
            b.iter(|| Maglev::build(&backends, size).expect("a table"));
        });
        for (backend, weight) in backends.iter_mut().zip((1..=4).cycle()) {
            backend.1 = weight;
        }
        group.bench_function(name("weights of 1 to 4"), |b| {
            b.iter(|| Maglev::build(&backends, size).expect("a table"));
        });
    }
    group.finish();

    let table = Maglev::build(&backends[..100], 65537).expect("a table");
    let mut group = c.benchmark_group("maglev/pick");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut hashes = [0; BATCH];
    group.bench_function("100 backends, 65537 slots", |b| {
        b.iter(|| {
            hashes.iter_mut().for_each(|hash| *hash = sequence.bits());
            black_box(hashes.iter().map(|hash| table.pick(*hash)).sum::<usize>())
        });
    });
    group.finish();
}

fn det_nat(c: &mut Criterion) {
    let nat = DetNat::new(&DetNatConfig {
        inside: Prefix4::new(0x0a00_0000, 16).expect("a prefix"),
        outside: vec![AddressRange {
            first: 0xc633_6400,
            last: 0xc633_67ff,
        }],
        first_port: 1024,
        last_port: 65535,
        share: Share::HostsPerAddress(64),
    })
    .expect("room for all");
    let mut sequence = Sequence(1);
    let mut group = c.benchmark_group("det-nat");
    group.throughput(Throughput::Elements(1));
    group.bench_function("outside of", |b| {
        b.iter(|| black_box(nat.outside_of(0x0a00_0000 + sequence.below(1 << 16))));
    });
    group.bench_function("inside of", |b| {
        b.iter(|| {
            let word = sequence.below(1 << 26);
            black_box(nat.inside_of(0xc633_6400 + (word >> 16), word as u16))
        });
    });
    group.finish();
}

/// All hosts get ports in random order, 32 at most each, until half of the ports are in use; then all go, in the order in which
/// they came. Blocks are held, as they are in use.
fn ports(c: &mut Criterion) {
    let mut group = c.benchmark_group("ports");
    group.throughput(Throughput::Elements(1));
    for (hosts, addresses) in [(1_000, 1), (64_000, 64)] {
        let layout = PortLayout::new(1024, 65535, PortLayout::BLOCK_PORTS, 1).expect("a layout");
        let blocks = PortBlocks::new(layout, 0, addresses, Some(1)).expect("memory");
        let mut table = HostBlocks::new(blocks, &HostBlocksConfig::new(hosts)).expect("memory");
        let mut sequence = Sequence(1);
        let all: Vec<u128> = (0..hosts * 20)
            .map(|_| 0x0a00_0000 + u128::from(sequence.below(hosts)))
            .collect();
        let mut given = Vec::with_capacity(all.len());
        let now = Tick::from_nanos(1 << 40);
        for timed in ["allocate", "release"] {
            let name = format!("{timed}, {hosts} hosts");
            group.bench_function(name, |b| {
                b.iter_custom(|rounds| {
                    let (mut left, mut spent) = (rounds, Duration::ZERO);
                    while left > 0 {
                        let count = left.min(all.len() as u64) as usize;
                        let start = Instant::now();
                        for batch in all[..count].chunks(32) {
                            batch.iter().for_each(|host| table.prefetch(*host));
                            batch.iter().for_each(|host| table.prefetch_host(*host));
                            batch.iter().for_each(|host| table.prefetch_block(*host));
                            for host in batch {
                                let port = table.allocate(*host, PortWish::default(), |_, _| true);
                                given.extend(port.map(|given| (given.address, given.port)));
                            }
                        }
                        let middle = Instant::now();
                        let refused = count - given.len();
                        assert!(refused * 50 <= count, "{refused} of {count} refused");
                        let again = Instant::now();
                        for batch in given.chunks(32) {
                            for (address, port) in batch {
                                table.prefetch_port(*address, *port);
                            }
                            for (address, port) in batch {
                                table.release(*address, *port, now).expect("in use");
                            }
                        }
                        spent += match timed {
                            "allocate" => middle - start,
                            _ => again.elapsed(),
                        };
                        given.clear();
                        left -= count as u64;
                    }
                    spent
                });
            });
        }
    }
    group.finish();

    let layout = PortLayout::new(1024, 65535, PortLayout::BLOCK_PORTS, 2).expect("a layout");
    let mut blocks = PortBlocks::new(layout, 0, 64, Some(1)).expect("memory");
    let mut sequence = Sequence(1);
    let mut group = c.benchmark_group("ports");
    group.throughput(Throughput::Elements(1));
    group.bench_function("take a block, give it back", |b| {
        b.iter(|| {
            let block = blocks.take(sequence.below(64)).expect("free blocks");
            blocks.give_back(black_box(block))
        });
    });
    group.bench_function("worker of a port", |b| {
        b.iter(|| black_box(layout.worker_of(sequence.below(1 << 16) as u16)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20);
    targets = exact, maglev, det_nat, ports
}
criterion_main!(benches);
