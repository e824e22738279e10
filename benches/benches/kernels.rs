//! Criterion benches of the kernels below the nodes: look-ups, checksums, translation, publication, buffers, flow hashes.
//!
//! `cargo bench -p benches -- --quick`; a filter follows as usual (`cargo bench -p benches -- lpm4`). Times are of one core while
//! nothing else runs. What packets cost in the whole graph is what `oncilla bench` says.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::publish::Publisher;
use dataplane::{Descriptor, FRAME_SIZE, Pages, Pool, Rng};
use graph_nodes::flow_hash;
use tables::{HugePages, Lpm4, Lpm6, TokenBucket};
use wire::builder::{ip4, ip6};
use wire::checksum::{self, Delta};
use wire::translate::{self, MAX_HEADERS, Policy, Ports, To4, To6, Tuple};
use wire::{Nptv6, Pref64};

criterion_group!(
    kernels,
    lpm4,
    lpm6,
    checksums,
    incremental_checksums,
    translations,
    publication,
    buffers,
    flow_hashes,
    token_bucket
);
criterion_main!(kernels);

/// Addresses that a look-up bench goes through, a frame's worth at a time: more than caches hold lines for.
const ADDRESSES: usize = 1 << 16;

/// Frames' worths of `keys`, for ever.
fn frames<'k, T>(keys: &'k [T]) -> impl FnMut() -> &'k [T] {
    let mut frames = keys.chunks_exact(FRAME_SIZE).cycle();
    move || frames.next().unwrap_or_default()
}

/// Times look-ups one by one and as a batch; the throughput is in look-ups.
fn look_up<K: Copy>(
    criterion: &mut Criterion,
    group: &str,
    table: &str,
    keys: &[K],
    one: impl Fn(K) -> u32,
    batch: impl Fn(&[K], &mut [u32]),
) {
    let found = keys.iter().filter(|key| one(**key) != 0).count();
    assert!(found * 10 > keys.len() * 9, "{group}/{table}: {found} hits");
    let mut group = criterion.benchmark_group(group);
    group.throughput(Throughput::Elements(FRAME_SIZE as u64));
    group.bench_function(BenchmarkId::new("one by one", table), |bencher| {
        let mut next = frames(keys);
        bencher.iter(|| next().iter().fold(0, |sum, key| sum ^ one(*key)));
    });
    group.bench_function(BenchmarkId::new("batch", table), |bencher| {
        let mut next = frames(keys);
        let mut out = [0; FRAME_SIZE];
        bencher.iter(|| {
            batch(next(), &mut out);
            black_box(&mut out);
        });
    });
    group.finish();
}

fn lpm4(criterion: &mut Criterion) {
    let mut rng = Rng::from_seed(4);
    let table = |groups| Lpm4::new(groups, HugePages::Transparent).expect("address space");

    let (mut writer, reader) = table(16);
    writer.insert(0, 0, 1).expect("room");
    let keys: Vec<u32> = (0..ADDRESSES).map(|_| rng.next_u32()).collect();
    let run = |criterion: &mut Criterion, name, keys: &[u32], reader: &Lpm4| {
        look_up(
            criterion,
            "lpm4",
            name,
            keys,
            |key| reader.lookup(key),
            |keys, out| reader.lookup_batch(keys, out),
        );
    };
    run(criterion, "1 route", &keys[..FRAME_SIZE], &reader);

    // Every address of the first million /24 blocks has a route; the addresses are anywhere in them.
    let (mut writer, reader) = table(16);
    for block in 0..1_000_000u32 {
        writer
            .insert(block << 8, 24, 1 + block % 1000)
            .expect("room");
    }
    let keys: Vec<u32> = (0..ADDRESSES).map(|_| rng.below(1_000_000 << 8)).collect();
    run(criterion, "1M of /24", &keys, &reader);

    // Two loads per look-up.
    let (mut writer, reader) = table(1 << 16);
    let prefixes: Vec<u32> = (0..60_000u32).map(|at| at << 8).collect();
    for prefix in &prefixes {
        writer.insert(*prefix, 24, 1).expect("room");
        writer.insert(*prefix | 0x80, 25, 2).expect("room");
    }
    let keys: Vec<u32> = (0..ADDRESSES).map(|_| rng.below(60_000 << 8)).collect();
    run(criterion, "60k of /24 and /25", &keys, &reader);
}

fn lpm6(criterion: &mut Criterion) {
    let mut rng = Rng::from_seed(6);
    let mut wide = move || u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    let run = |criterion: &mut Criterion, name, keys: &[u128], reader: &Lpm6| {
        look_up(
            criterion,
            "lpm6",
            name,
            keys,
            |key| reader.lookup(key),
            |keys, out| reader.lookup_batch(keys, out),
        );
    };
    let mask = |len: u32| !(u128::MAX >> len);
    let global = |address: u128| address >> 3 | 1 << 125;

    let (mut writer, _) = Lpm6::new().expect("address space");
    writer.insert(0, 0, 1).expect("room");
    writer.commit().expect("memory");
    let keys: Vec<u128> = (0..FRAME_SIZE).map(|_| global(wide())).collect();
    run(criterion, "1 route", &keys, &writer.reader());

    // As in the Internet's table: half are /48, the others /32 to /44.
    let (mut writer, _) = Lpm6::new().expect("address space");
    let mut prefixes = Vec::new();
    for at in 0..100_000u32 {
        let len = [48, 32, 48, 36, 48, 40, 48, 44][at as usize % 8];
        let prefix = global(wide()) & mask(len);
        writer
            .insert(prefix, len as u8, 1 + at % 1000)
            .expect("room");
        prefixes.push((prefix, len));
    }
    writer.commit().expect("memory");
    let keys: Vec<u128> = (0..ADDRESSES)
        .map(|at| {
            let (prefix, len) = prefixes[at * 7919 % prefixes.len()];
            prefix | wide() & !mask(len)
        })
        .collect();
    run(criterion, "100k routes", &keys, &writer.reader());

    let (mut writer, _) = Lpm6::new().expect("address space");
    let hosts: Vec<u128> = (0..100_000).map(|_| global(wide())).collect();
    for host in &hosts {
        writer.insert(*host, 128, 1).expect("room");
    }
    writer.commit().expect("memory");
    run(
        criterion,
        "100k hosts",
        &hosts[..ADDRESSES],
        &writer.reader(),
    );
}

fn checksums(criterion: &mut Criterion) {
    let bytes: Vec<u8> = (0..65_536u32).map(|at| (at * 31) as u8).collect();
    let mut group = criterion.benchmark_group("checksum");
    for length in [20, 40, 64, 576, 1500, 9000, 65_535] {
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("bytes", length), |bencher| {
            bencher.iter(|| checksum::checksum(black_box(&bytes[..length])));
        });
    }
    let packet = ip4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1, 2).build();
    let header: [u8; 20] = *packet.first_chunk().expect("a header");
    let valid = |header: &[u8; 20]| {
        let (words, last) = header.as_chunks::<8>();
        let last = [last[0], last[1], last[2], last[3]];
        let word = |at: usize| u64::from_be_bytes(words[at]);
        checksum::ip4_header_is_valid(word(0), word(1), u32::from_be_bytes(last))
    };
    assert!(valid(&header));
    group.throughput(Throughput::Bytes(20));
    group.bench_function("IPv4 header", |bencher| {
        bencher.iter(|| valid(black_box(&header)));
    });
    group.finish();
}

/// Each starts from the last one's outcome, so that the time is a latency.
fn incremental_checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("incremental checksum");
    group.bench_function("decrement TTL", |bencher| {
        let mut sum = 0x1234;
        bencher.iter(|| {
            sum = checksum::decrement_ttl(black_box(sum));
            sum
        });
    });
    group.bench_function("16 bits", |bencher| {
        let mut sum = 0x1234;
        bencher.iter(|| {
            sum = checksum::update16(black_box(sum), 1024, 40_000);
            sum
        });
    });
    group.bench_function("32 bits", |bencher| {
        let mut sum = 0x1234;
        bencher.iter(|| {
            sum = checksum::update32(black_box(sum), 0x0a00_0001, 0xc633_6401);
            sum
        });
    });
    let delta = Delta::of32(0x0a00_0001, 0xc633_6401).and(Delta::of16(1024, 40_000));
    group.bench_function("prepared", |bencher| {
        let mut sum = 0x1234;
        bencher.iter(|| {
            sum = black_box(delta).apply(black_box(sum));
            sum
        });
    });
    let (old, new): (Ipv6Addr, Ipv6Addr) = (Ipv6Addr::LOCALHOST, Ipv6Addr::from_bits(7 << 64));
    group.bench_function("prepare for an IPv6 address", |bencher| {
        bencher.iter(|| Delta::of_ip6(black_box(&old), black_box(&new)));
    });
    group.finish();
}

/// Packets between IPv4 and IPv6, a frame at a time, each with the binding of its own flow.
fn translations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("translation");
    group.throughput(Throughput::Elements(FRAME_SIZE as u64));
    let policy = Policy::default();
    let (mut packets4, mut packets6) = (Vec::new(), Vec::new());
    for flow in 0..FRAME_SIZE as u16 {
        let [_, low] = flow.to_be_bytes();
        let ports = Ports {
            source: 1024 + flow,
            destination: 80,
        };
        let tuple4 = Tuple {
            source: Ipv4Addr::new(198, 51, 100, low),
            destination: Ipv4Addr::new(203, 0, 113, low),
            ports,
        };
        let tuple6 = Tuple {
            source: Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(flow)),
            destination: Ipv6Addr::from_bits(0x0064_ff9b << 96 | u128::from(flow)),
            ports,
        };
        let packet = ip4(tuple4.source, tuple4.destination)
            .udp(9, 9)
            .payload(&[7; 18]);
        packets4.push((packet.build(), To6::new(&tuple4, &tuple6)));
        let packet = ip6(tuple6.source, tuple6.destination)
            .udp(9, 9)
            .payload(&[7; 18]);
        packets6.push((packet.build(), To4::new(&tuple6, &tuple4)));
    }
    group.bench_function("UDP to IPv6", |bencher| {
        let mut out = [0; MAX_HEADERS];
        bencher.iter(|| {
            let mut replaced = 0;
            for (packet, binding) in &mut packets4 {
                let edit = translate::to6(packet, binding, &policy, black_box(&mut out));
                replaced += edit.map_or(0, |edit| edit.replaces);
            }
            assert_eq!(replaced, FRAME_SIZE * 20);
        });
    });
    group.bench_function("UDP to IPv4", |bencher| {
        let mut out = [0; MAX_HEADERS];
        bencher.iter(|| {
            let mut replaced = 0;
            for (packet, binding) in &mut packets6 {
                let edit = translate::to4(packet, binding, 7, &policy, black_box(&mut out));
                replaced += edit.map_or(0, |edit| edit.replaces);
            }
            assert_eq!(replaced, FRAME_SIZE * 40);
        });
    });
    let prefix = Pref64::new(Ipv6Addr::from_bits(0x2001_0db8 << 96), 48).expect("a prefix");
    group.bench_function("address under a prefix of 48 bits", |bencher| {
        bencher.iter(|| {
            for flow in 0..FRAME_SIZE as u32 {
                let address = prefix.embed(Ipv4Addr::from_bits(black_box(flow)));
                let back = address.and_then(|address| prefix.extract(black_box(&address)));
                assert_eq!(back, Ok(Ipv4Addr::from_bits(flow)));
            }
        });
    });
    let (inside, outside) = (
        Ipv6Addr::from_bits(0xfd << 120),
        Ipv6Addr::from_bits(0x2001 << 112),
    );
    let pair = Nptv6::new(inside, 48, outside, 48).expect("prefixes");
    group.bench_function("prefix there and back", |bencher| {
        bencher.iter(|| {
            for host in 0..FRAME_SIZE as u128 {
                let host = Ipv6Addr::from_bits(inside.to_bits() | black_box(host) << 60);
                let seen = pair.outbound(&host);
                assert_eq!(
                    seen.and_then(|seen| pair.inbound(black_box(&seen))),
                    Ok(host)
                );
            }
        });
    });
    group.finish();
}

/// What a worker pays per turn to see the newest snapshot, and what control pays to replace it.
fn publication(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publication");
    let mut publisher = Publisher::new(0u64);
    let mut reader = publisher.subscribe();
    group.bench_function("observe, nothing new", |bencher| {
        bencher.iter(|| *black_box(&mut reader).observe());
    });
    group.bench_function("publish, observe, reclaim", |bencher| {
        let mut value = 0;
        bencher.iter(|| {
            value += 1;
            publisher.publish(value);
            let seen = *reader.observe();
            publisher.reclaim();
            seen
        });
    });
    assert_eq!(publisher.retired(), 0);
    group.finish();
}

/// Buffers through a worker's cache, a burst out and back at a time.
fn buffers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("buffers");
    let pool = Pool::new(16_384, Pages::Transparent).expect("memory");
    let mut cache = pool.cache();
    // Within the cache, and through the shared list.
    for count in [1, 64, 256, 4096] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("allocate and free", count), |bencher| {
            let mut held: Vec<Descriptor> = Vec::with_capacity(count);
            bencher.iter(|| {
                held.extend(std::iter::from_fn(|| cache.alloc()).take(count));
                cache.free_all(&mut held);
                held.clear();
            });
        });
    }
    let frame = [0x5a; 60];
    group.throughput(Throughput::Elements(1));
    group.bench_function("copy a frame of 60 bytes in", |bencher| {
        bencher.iter(|| {
            if let Some(packet) = cache.copy_from(black_box(&frame)) {
                cache.free(packet);
            }
        });
    });
    drop(cache);
    pool.audit().expect("every buffer is back");
    group.finish();
}

fn flow_hashes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("flow hash");
    let four = ip4([10, 0, 0, 1], [10, 0, 0, 2]).udp(1000, 53).build();
    let six = ip6(Ipv6Addr::LOCALHOST, Ipv6Addr::from_bits(7 << 64));
    let six = six.tcp(1000, 443).build();
    group.bench_function("IPv4", |bencher| {
        bencher.iter(|| flow_hash::ip4(black_box(&four)));
    });
    group.bench_function("IPv6", |bencher| {
        bencher.iter(|| flow_hash::ip6(black_box(&six)));
    });
    group.finish();
}

fn token_bucket(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token bucket");
    group.bench_function("take one", |bencher| {
        let mut bucket = TokenBucket::new(1_000_000, 100, 0);
        let mut now_ns = 0;
        bencher.iter(|| {
            now_ns += 700;
            bucket.take(now_ns, 1)
        });
    });
    group.finish();
}
