//! Address sets: lookups, single changes, loading. Figures are per address where a group says so.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tables::{HugePages, Prefix4, Prefix6, address_sets::*};

const MEMBERS: u32 = 100_000;

/// Numbers that look random and are the same in every run.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

fn host4(addr: u32) -> Member {
    Prefix4::around(addr, 32).expect("a length").into()
}

/// Single addresses in the /26 blocks of nodes, out of 10.0.0.0/8.
fn hosts4() -> Vec<Member> {
    let address = |i: u32| 0x0a00_0000 + i / 40 * 64 + i % 40;
    (0..MEMBERS).map(|i| host4(address(i))).collect()
}

/// Prefixes of lengths 16 to 32 anywhere in 10.0.0.0/7, nested and overlapping.
fn mixed4() -> Vec<Member> {
    let mut sequence = Sequence(7);
    let mut prefix = || {
        let len = [32, 32, 32, 32, 28, 26, 24, 24, 24, 22, 20, 16][sequence.below(12) as usize];
        Prefix4::around(0x0a00_0000 + sequence.below(1 << 25), len).expect("a length")
    };
    (0..MEMBERS).map(|_| prefix().into()).collect()
}

/// Single addresses in /122 blocks.
fn hosts6() -> Vec<Member> {
    let address = |i: u32| 0xfd00 << 112 | u128::from(i / 40) << 6 | u128::from(i % 40);
    let hosts = (0..MEMBERS).map(address);
    hosts
        .map(|addr| Prefix6::around(addr, 128).expect("a length").into())
        .collect()
}

fn delta(members: &[Member]) -> Delta<Member> {
    let mut delta = Delta::default();
    for &member in members {
        delta.add(SetId(0), member);
    }
    delta
}

fn writer() -> AddressSetsWriter {
    AddressSetsWriter::new(AddressSetLimits::default(), HugePages::Transparent)
        .expect("address space")
}

fn loaded(members: &[Member]) -> AddressSetsWriter {
    let mut writer = writer();
    // Besides the large set, a few small ones.
    let mut delta = delta(members);
    for (i, &member) in members.iter().enumerate().step_by(100) {
        delta.add(SetId(1 + i as u32 / 100 % 40), member);
    }
    writer.apply(&delta).expect("room");
    writer
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup, 256 addresses");
    group.throughput(Throughput::Elements(256));
    for (name, members) in [("100k v4 /32", hosts4()), ("100k v4 mixed", mixed4())] {
        let writer = loaded(&members);
        let view = writer.view();
        // Seven of eight are members.
        let mut sequence = Sequence(1);
        let addrs: Vec<u32> = (0..1 << 16)
            .map(|i| match members[sequence.below(MEMBERS) as usize] {
                Member::V4(prefix) if i % 8 != 0 => prefix.addr(),
                _ => sequence.below(u32::MAX),
            })
            .collect();
        let mut out = [ClassId::NONE; 256];
        let mut batches = addrs.chunks(256).cycle();
        group.bench_function(format!("{name}, batch"), |b| {
            b.iter(|| {
                view.classes4(batches.next().expect("a cycle"), &mut out);
                black_box(&out);
            });
        });
        let mut batches = addrs.chunks(256).cycle();
        group.bench_function(format!("{name}, one by one"), |b| {
            b.iter(|| {
                for (&addr, out) in batches.next().expect("a cycle").iter().zip(&mut out) {
                    *out = view.class4(addr);
                }
                black_box(&out);
            });
        });
    }
    let members = hosts6();
    let writer = loaded(&members);
    let view = writer.view();
    let mut sequence = Sequence(1);
    let addrs: Vec<u128> = (0..1 << 16)
        .map(|i| match members[sequence.below(MEMBERS) as usize] {
            Member::V6(prefix) if i % 8 != 0 => prefix.addr(),
            _ => u128::from(sequence.below(u32::MAX)),
        })
        .collect();
    let mut out = [ClassId::NONE; 256];
    let mut batches = addrs.chunks(256).cycle();
    group.bench_function("100k v6 /128, batch", |b| {
        b.iter(|| {
            view.classes6(batches.next().expect("a cycle"), &mut out);
            black_box(&out);
        });
    });
    group.finish();
}

/// One member comes, then goes: two changes, each with a new view.
fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("two changes of one member");
    let host6 = Prefix6::around(0xfe00 << 112, 128).expect("a length");
    let cases = [
        ("v4 /32 beside 100k v4 /32", hosts4(), host4(0x0b00_0001)),
        ("v4 /32 among 100k v4 mixed", mixed4(), host4(0x0a12_3456)),
        ("v6 /128 beside 100k v6 /128", hosts6(), host6.into()),
    ];
    for (name, members, member) in cases {
        let mut writer = loaded(&members);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut delta = Delta::<Member>::default();
                delta.add(SetId(3), member);
                writer.apply(&delta).expect("room");
                black_box(writer.view());
                let mut delta = Delta::<Member>::default();
                delta.remove(SetId(3), member);
                writer.apply(&delta).expect("room");
                black_box(writer.view());
            });
        });
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load 100k members");
    group.sample_size(10);
    let cases = [
        ("v4 /32", hosts4()),
        ("v4 mixed", mixed4()),
        ("v6 /128", hosts6()),
    ];
    for (name, members) in cases {
        let delta = delta(&members);
        group.bench_function(name, |b| {
            b.iter_batched(
                writer,
                |mut writer| {
                    writer.apply(&delta).expect("room");
                    writer
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn ip_port(c: &mut Criterion) {
    let member = |i: u32| IpPort {
        addr: std::net::Ipv4Addr::from(0x0a60_0000 + i).into(),
        protocol: 6,
        port: 80,
    };
    let mut writer = IpPortSetsWriter::new(IpPortSetLimits::default());
    let mut delta = Delta::default();
    for i in 0..10_000 {
        delta.add(SetId(i / 4), member(i));
    }
    writer.apply(&delta).expect("room");
    let view = writer.view();
    let mut sequence = Sequence(1);
    c.bench_function("lookup in 10k address-and-port members", |b| {
        b.iter(|| black_box(view.class4(0x0a60_0000 + sequence.below(11_000), 6, 80)));
    });
    c.bench_function("two changes of one of 10k address-and-port members", |b| {
        b.iter(|| {
            let mut delta = Delta::default();
            delta.add(SetId(1), member(20_000));
            writer.apply(&delta).expect("room");
            let mut delta = Delta::default();
            delta.remove(SetId(1), member(20_000));
            writer.apply(&delta).expect("room");
            black_box(writer.view());
        });
    });
}

criterion_group!(benches, lookup, change, load, ip_port);
criterion_main!(benches);
