//! Port blocks against maps, and the promises of their documentation one by one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;

use super::{twin::Twin, *};
use crate::Tick;

fn layout(first: u16, last: u16, block_ports: u16, workers: u16) -> PortLayout {
    PortLayout::new(first, last, block_ports, workers).unwrap()
}

fn config(hosts: u32) -> HostBlocksConfig {
    HostBlocksConfig {
        seed: Some(7),
        ..HostBlocksConfig::new(hosts)
    }
}

/// One worker's blocks of 8 ports from 1024 on.
fn small(blocks: u16, addresses: u32, config: &HostBlocksConfig) -> HostBlocks {
    let layout = layout(1024, 1024 + blocks * 8 - 1, 8, 1);
    HostBlocks::new(
        PortBlocks::new(layout, 0, addresses, Some(5)).unwrap(),
        config,
    )
    .unwrap()
}

fn yes(_: u32, _: u16) -> bool {
    true
}

fn second(n: u64) -> Tick {
    Tick::from_nanos(n * 1_000_000_000)
}

#[test]
fn every_block_has_one_worker() {
    for workers in [1, 2, 3, 5, 7, 8, 64, 1008] {
        let layout = layout(1000, 65535, 64, workers);
        assert_eq!((layout.first_port(), layout.last_port()), (1024, 65535));
        assert_eq!(layout.worker_of(1023), None);
        assert_eq!(layout.worker_of(0), None);
        for port in 1024..=65535 {
            assert_eq!(
                layout.worker_of(port),
                Some(port / 64 % workers),
                "{port} {workers}"
            );
        }
        let mut taken = HashSet::new();
        for worker in 0..workers {
            let mut blocks = PortBlocks::new(layout, worker, 2, None).unwrap();
            let share = layout.blocks_of(worker);
            assert_eq!(blocks.free(), 2 * share);
            assert_eq!(blocks.blocks(), 2 * share);
            while let Some(block) = blocks.take(1) {
                assert_eq!(layout.worker_of(block.first_port), Some(worker));
                assert!(taken.insert(block.first_port) && block.first_port % 64 == 0);
                assert_eq!((block.address, block.ports), (1, 64));
            }
            assert_eq!((blocks.free_on(0), blocks.free_on(1)), (share, 0));
        }
        assert_eq!(taken.len(), 1008);
    }
    // Every number of workers, at the ends of the port space.
    for workers in 1..=16384 {
        let layout = layout(1, 65535, 2, workers);
        for port in [2, 3, 4, 32767, 65534, 65535] {
            assert_eq!(layout.worker_of(port), Some(port / 2 % workers));
        }
    }
}

#[test]
fn bad_layouts_are_refused_by_field() {
    let error = |first, last, block_ports, workers| {
        let error = PortLayout::new(first, last, block_ports, workers).unwrap_err();
        (error.field(), error.to_string())
    };
    let is = |field, text: &str| (field, text.to_owned());
    assert_eq!(
        error(2000, 1999, 64, 1),
        is("last_port", "the last port, 1999, is below the first, 2000")
    );
    for block_ports in [0, 1, 3, 63, 8192] {
        let text =
            format!("a block of {block_ports} ports: a power of two from 2 to 4096 is needed");
        assert_eq!(error(1024, 65535, block_ports, 1), ("block_ports", text));
    }
    assert_eq!(
        error(0, 65535, 64, 1),
        is("first_port", "port 0 cannot be used: begin at 1 or higher")
    );
    assert_eq!(
        error(1024, 65535, 64, 0),
        is("workers", "workers must not be 0")
    );
    let few = |blocks, workers| {
        let text = format!(
            "{blocks} whole blocks between the first and the last port are too few for {workers} \
             workers: widen the range or make blocks smaller"
        );
        ("first_port", text)
    };
    assert_eq!(error(1025, 1151, 64, 2), few(1, 2));
    assert_eq!(error(1025, 1150, 64, 1), few(0, 1));
    assert_eq!(error(65535, 65535, 2, 1), few(0, 1));
    let fine = layout(1024, 65535, 64, 2);
    assert_eq!(fine.blocks_of(2), 0);
    let error = PortBlocks::new(fine, 2, 1, None).unwrap_err();
    assert_eq!(
        (error.field(), error.to_string()),
        is("worker", "worker 2 is none of the 2 workers")
    );
    let error = PortBlocks::new(fine, 0, 0, None).unwrap_err();
    assert_eq!(error, PortBlocksError::Zero { field: "addresses" });
    let error = PortBlocks::new(fine, 0, u32::MAX, None).unwrap_err();
    assert_eq!(error.field(), "addresses");
    for field in ["hosts", "most_blocks", "most_ports"] {
        let mut config = config(1);
        match field {
            "hosts" => config.hosts = 0,
            "most_blocks" => config.most_blocks = 0,
            _ => config.most_ports = 0,
        }
        let blocks = PortBlocks::new(fine, 0, 1, None).unwrap();
        let error = HostBlocks::new(blocks, &config).unwrap_err();
        assert_eq!(error, PortBlocksError::Zero { field });
    }
}

#[test]
fn what_is_no_block_is_not_taken_back() {
    let mut blocks = PortBlocks::new(layout(1024, 65535, 64, 2), 1, 3, None).unwrap();
    let block = blocks.take_at(2, 1024 + 64 + 5).unwrap();
    assert_eq!((block.first_port, block.ports), (1088, 64));
    assert_eq!(blocks.take_at(2, 1088), None, "taken");
    assert_eq!(blocks.take_at(2, 1024), None, "the other worker's");
    assert_eq!(blocks.take_at(3, 1088), None, "no such address");
    assert_eq!(blocks.take(3), None);
    assert_eq!(blocks.free_on(3), 0);
    let wrong = [
        Block {
            address: 1,
            ..block
        },
        Block {
            address: 3,
            ..block
        },
        Block {
            first_port: 1089,
            ..block
        },
        Block {
            first_port: 1024,
            ..block
        },
        Block {
            first_port: 64,
            ..block
        },
        Block { ports: 32, ..block },
    ];
    for wrong in wrong {
        assert!(!blocks.give_back(wrong), "{wrong:?}");
    }
    assert_eq!(blocks.free(), 3 * 504 - 1);
    assert!(blocks.give_back(block));
    assert!(!blocks.give_back(block), "twice");
    assert_eq!(blocks.free(), 3 * 504);
}

/// Who sees one block does not know the next one: all are about as likely.
#[test]
fn blocks_and_ports_are_drawn_at_random() {
    let fine = layout(1024, 65535, 64, 1);
    let mut blocks = PortBlocks::new(fine, 0, 1, None).unwrap();
    let mut seen = HashMap::new();
    for _ in 0..20_000 {
        let block = blocks.take(0).unwrap();
        *seen.entry(block.first_port).or_insert(0) += 1;
        blocks.give_back(block);
    }
    assert!(seen.len() > 1000 && seen.values().all(|&times| times < 60));

    let blocks = PortBlocks::new(layout(1024, 2047, 1024, 1), 0, 1, None).unwrap();
    let mut hosts = HostBlocks::new(blocks, &HostBlocksConfig::new(1)).unwrap();
    let mut seen = HashMap::new();
    for _ in 0..20_000 {
        let given = hosts.allocate(1, PortWish::default(), yes).unwrap();
        *seen.entry(given.port).or_insert(0) += 1;
        hosts.release(0, given.port, Tick::default());
    }
    assert!(seen.len() > 1000 && seen.values().all(|&times| times < 60));
}

#[test]
fn hosts_in_a_row_are_spread_over_addresses() {
    let six = |i: u32| (0x2001_0db8 << 96) | u128::from(i) << 64 | 1;
    let stride = |i: u32| 0x0a00_0000 + u128::from(i) * 256 + 1;
    let rows: [&dyn Fn(u32) -> u128; 3] = [&|i| 0x0a00_0000 + u128::from(i), &stride, &six];
    for (row, slack) in rows.into_iter().zip([2, 5, 80]) {
        let hosts = small(2, 10, &config(100));
        let mut counts = [0; 10];
        for i in 0..1000 {
            counts[hosts.preferred_address(row(i)) as usize] += 1;
        }
        let even = |count: &u32| count.abs_diff(100) <= slack;
        assert!(counts.iter().all(even), "{counts:?}");
    }
}

#[test]
fn port_and_parity_are_kept_where_they_can_be() {
    let mut hosts = small(4, 1, &config(9));
    let wish = |port, parity| PortWish { port, parity };
    // The first block is the one with the wished port.
    let given = hosts.allocate(1, wish(Some(1037), None), yes).unwrap();
    assert_eq!(
        (given.port, given.new_block.unwrap().first_port),
        (1037, 1032)
    );
    // It is in use; the host's next port has the parity that it asks for.
    for _ in 0..3 {
        let given = hosts
            .allocate(1, wish(Some(1037), Some(Parity::Odd)), yes)
            .unwrap();
        assert!(
            given.port % 2 == 1 && given.new_block.is_none(),
            "{given:?}"
        );
    }
    // All four odd ones are given: another block.
    let given = hosts
        .allocate(1, wish(None, Some(Parity::Odd)), yes)
        .unwrap();
    assert!(given.port % 2 == 1 && given.new_block.is_some());
    // Another host cannot have a port there, and takes some other.
    let given = hosts.allocate(2, wish(Some(1038), None), yes).unwrap();
    assert!(
        given
            .new_block
            .is_some_and(|block| block.first_port != 1032)
    );
    hosts.allocate(3, PortWish::default(), yes).unwrap();
    // No block is left for the parity's sake: it is given up before the flow is.
    let mut parities = Vec::new();
    for _ in 0..11 {
        let given = hosts
            .allocate(1, wish(None, Some(Parity::Odd)), yes)
            .unwrap();
        parities.push(given.port % 2);
    }
    assert_eq!(parities, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let refusal = hosts.allocate(1, wish(None, Some(Parity::Odd)), yes);
    assert_eq!(refusal, Err(PortRefusal::Exhausted));
    assert_eq!(
        hosts.usage(1),
        Some(HostUsage {
            address: 0,
            blocks: 2,
            ports: 16
        })
    );
}

#[test]
fn refusals_have_reasons_and_change_nothing() {
    let limits = HostBlocksConfig {
        most_blocks: 1,
        most_ports: 7,
        ..config(2)
    };
    let wish = PortWish::default();
    let mut hosts = small(3, 1, &limits);
    assert_eq!(
        hosts.allocate(1, wish, |_, _| false),
        Err(PortRefusal::NotAccepted)
    );
    assert_eq!(
        hosts.gauges(),
        PortGauges {
            free: 3,
            ..PortGauges::default()
        }
    );
    for _ in 0..7 {
        hosts.allocate(1, wish, yes).unwrap();
    }
    let before = hosts.gauges();
    assert_eq!(hosts.allocate(1, wish, yes), Err(PortRefusal::PortLimit));
    hosts.allocate(2, wish, yes).unwrap();
    assert_eq!(
        hosts.allocate(2, wish, |_, _| false),
        Err(PortRefusal::BlockLimit)
    );
    assert_eq!(hosts.allocate(3, wish, yes), Err(PortRefusal::TooManyHosts));
    assert_eq!(hosts.usage(3), None);
    let after = PortGauges {
        hosts: 2,
        ports: 8,
        blocks: 2,
        free: 1,
        ..before
    };
    assert_eq!(hosts.gauges(), after);

    // More hosts than blocks.
    let mut hosts = small(1, 1, &config(100));
    hosts.allocate(1, wish, yes).unwrap();
    assert_eq!(hosts.allocate(2, wish, yes), Err(PortRefusal::Exhausted));
    for _ in 0..7 {
        hosts.allocate(1, wish, yes).unwrap();
    }
    assert_eq!(hosts.allocate(1, wish, yes), Err(PortRefusal::Exhausted));
}

#[test]
fn blocks_are_held_for_their_host() {
    let hold = Duration::from_secs(120);
    let mut hosts = small(2, 1, &HostBlocksConfig { hold, ..config(9) });
    let wish = PortWish::default();
    let first = hosts.allocate(1, wish, yes).unwrap();
    let released = hosts
        .release(first.address, first.port, second(100))
        .unwrap();
    assert_eq!(
        released,
        Released {
            inside: 1,
            given_back: None
        }
    );
    assert_eq!(
        hosts.release(first.address, first.port, second(100)),
        None,
        "twice"
    );
    assert_eq!(hosts.gauges().held, 1);
    let mut gone = Vec::new();
    hosts.expire(second(220), 10, |block| gone.push(block));
    assert_eq!(gone, []);
    assert_eq!(hosts.host_of(0, first.port), Some(1), "still its block");
    // The host's next flow ends the hold; others get another block.
    let again = hosts.allocate(1, wish, yes).unwrap();
    assert_eq!((again.new_block, hosts.gauges().held), (None, 0));
    let other = hosts.allocate(2, wish, yes).unwrap();
    assert_ne!(other.new_block, first.new_block);
    assert_eq!(hosts.allocate(3, wish, yes), Err(PortRefusal::Exhausted));
    hosts.release(0, again.port, second(300));
    hosts.release(0, other.port, second(301));
    hosts.expire(second(421), 10, |block| gone.push(block));
    let block = first.new_block.unwrap();
    assert_eq!(gone, [GivenBack { inside: 1, block }]);
    assert_eq!((hosts.host_of(0, first.port), hosts.usage(1)), (None, None));
    hosts.expire(second(10_000), 0, |_| panic!("none was asked for"));
    hosts.expire(second(10_000), 10, |block| gone.push(block));
    assert_eq!((gone.len(), hosts.gauges().free), (2, 2));

    // Too many are held: the oldest goes, whoever's it is.
    let most_held = 1;
    let mut hosts = small(
        3,
        1,
        &HostBlocksConfig {
            hold,
            most_held,
            ..config(9)
        },
    );
    let given = [1, 2].map(|host| hosts.allocate(host, wish, yes).unwrap());
    hosts.release(0, given[0].port, second(1));
    let released = hosts.release(0, given[1].port, second(2)).unwrap();
    let block = given[0].new_block.unwrap();
    let given_back = Some(GivenBack { inside: 1, block });
    assert_eq!(
        released,
        Released {
            inside: 2,
            given_back
        }
    );
    assert_eq!(hosts.gauges().held, 1);

    // No hold.
    let hold = Duration::ZERO;
    let mut hosts = small(1, 1, &HostBlocksConfig { hold, ..config(9) });
    let given = hosts.allocate(1, wish, yes).unwrap();
    let released = hosts.release(0, given.port, second(1)).unwrap();
    let block = given.new_block.unwrap();
    assert_eq!(released.given_back, Some(GivenBack { inside: 1, block }));
    assert_eq!(
        hosts.gauges(),
        PortGauges {
            free: 1,
            ..PortGauges::default()
        }
    );
}

#[test]
fn hosts_stay_on_their_address() {
    let wish = PortWish::default();
    for paired in [true, false] {
        let mut hosts = small(
            1,
            3,
            &HostBlocksConfig {
                paired,
                ..config(9)
            },
        );
        let mut addresses: Vec<u32> = (0..8)
            .map(|_| hosts.allocate(1, wish, yes).unwrap().address)
            .collect();
        addresses.dedup();
        assert_eq!(addresses, [hosts.preferred_address(1)]);
        let ninth = hosts.allocate(1, wish, yes);
        if paired {
            assert_eq!(ninth, Err(PortRefusal::Exhausted));
        } else {
            assert_ne!(ninth.unwrap().address, addresses[0]);
        }
        // Whose preferred address has nothing left begins on the next one.
        let preferred = hosts.preferred_address(1);
        let same = (2..)
            .find(|host| hosts.preferred_address(*host) == preferred)
            .unwrap();
        let given = hosts.allocate(same, wish, yes).unwrap();
        assert_ne!(given.address, preferred);
    }
}

/// Blocks of several words, and more blocks than are searched for a parity.
#[test]
fn one_host_may_use_every_port() {
    for block_ports in [64, 128, 4096] {
        let layout = layout(4096, 65535, block_ports, 1);
        let blocks = PortBlocks::new(layout, 0, 1, Some(1)).unwrap();
        let mut hosts = HostBlocks::new(blocks, &config(3)).unwrap();
        let parity = Some(Parity::Even);
        let wish = PortWish { port: None, parity };
        let ports: Vec<u16> = (0..61440)
            .map(|_| hosts.allocate(5, wish, yes).unwrap().port)
            .collect();
        let (even, odd) = ports.split_at(30720);
        assert!(even.iter().all(|port| port % 2 == 0) && odd.iter().all(|port| port % 2 == 1));
        let different: HashSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 61440);
        assert_eq!(hosts.allocate(5, wish, yes), Err(PortRefusal::Exhausted));
        for port in ports {
            assert!(hosts.release(0, port, second(1)).is_some());
        }
        assert_eq!(hosts.gauges().held, layout.blocks_of(0));
        hosts.expire(second(200), u32::MAX, |gone| assert_eq!(gone.inside, 5));
        let free = layout.blocks_of(0);
        assert_eq!(
            hosts.gauges(),
            PortGauges {
                free,
                ..PortGauges::default()
            }
        );
    }
}

#[test]
fn sessions_can_be_carried_over() {
    let limits = HostBlocksConfig {
        most_blocks: 2,
        most_ports: 5,
        ..config(2)
    };
    let mut hosts = small(4, 2, &limits);
    let taken = hosts.claim(7, 1, 1030).unwrap();
    assert_eq!((taken.address, taken.port), (1, 1030));
    assert_eq!(taken.new_block.unwrap().first_port, 1024);
    assert_eq!(hosts.claim(7, 1, 1031).unwrap().new_block, None);
    let refused = [
        (7, 1, 1030, PortRefusal::NotAccepted), // in use
        (7, 0, 1040, PortRefusal::NotAccepted), // another address
        (8, 1, 1025, PortRefusal::NotAccepted), // another host's block
        (8, 2, 1025, PortRefusal::NotAccepted), // no such address
        (8, 1, 80, PortRefusal::NotAccepted),
    ];
    for (inside, address, port, refusal) in refused {
        assert_eq!(hosts.claim(inside, address, port), Err(refusal), "{port}");
    }
    assert!(hosts.claim(7, 1, 1040).unwrap().new_block.is_some());
    assert_eq!(hosts.claim(7, 1, 1050), Err(PortRefusal::BlockLimit));
    hosts.claim(7, 1, 1041).unwrap();
    hosts.claim(7, 1, 1042).unwrap();
    assert_eq!(hosts.claim(7, 1, 1043), Err(PortRefusal::PortLimit));
    hosts.claim(8, 0, 1024).unwrap();
    assert_eq!(hosts.claim(9, 0, 1034), Err(PortRefusal::TooManyHosts));
    let mut blocks: Vec<u16> = hosts.blocks_of(7).map(|block| block.first_port).collect();
    blocks.sort_unstable();
    assert_eq!(blocks, [1024, 1040]);
    assert_eq!(hosts.blocks_of(9).count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        inside: u128,
        wish: PortWish,
        /// What the caller accepts: all, one in three ports, or none.
        picky: u16,
    },
    /// Of the ports in use, this one.
    Release(usize),
    /// Any port, in use or not.
    ReleaseAny(u32, u16),
    Claim(u128, u32, u16),
    Expire(u32),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let parity = prop::option::of(prop_oneof![Just(Parity::Even), Just(Parity::Odd)]);
    let wish = (prop::option::weighted(0.3, 990u16..1300), parity)
        .prop_map(|(port, parity)| PortWish { port, parity });
    let picky = prop_oneof![6 => Just(0u16), 3 => Just(3), 1 => Just(1)];
    let step = prop_oneof![
        12 => (0u128..12, wish, picky)
            .prop_map(|(inside, wish, picky)| Step::Allocate { inside, wish, picky }),
        8 => (0usize..10_000).prop_map(Step::Release),
        1 => (0u32..5, 990u16..1300).prop_map(|(address, port)| Step::ReleaseAny(address, port)),
        1 => (0u128..12, 0u32..5, 990u16..1300).prop_map(|(inside, address, port)| Step::Claim(inside, address, port)),
        2 => (0u32..4).prop_map(Step::Expire),
        2 => (0u64..200).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..300)
}

fn limits() -> impl Strategy<Value = HostBlocksConfig> {
    let hold = prop_oneof![Just(0), Just(1), Just(120)].prop_map(Duration::from_secs);
    let held = prop_oneof![2 => Just(u32::MAX), 1 => 0u32..4];
    (
        1u32..12,
        1u32..5,
        1u32..40,
        hold,
        held,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(
            |(hosts, most_blocks, most_ports, hold, most_held, paired, seed)| HostBlocksConfig {
                hosts,
                most_blocks,
                most_ports,
                hold,
                most_held,
                paired,
                seed: Some(seed),
            },
        )
}

proptest! {
    /// Whatever comes: no port is given out twice, limits hold, refusals are right, and in the end everything is back.
    #[test]
    fn agrees_with_maps(
        config in limits(),
        shift in 3u32..8,
        workers in 1u16..3,
        addresses in 1u32..5,
        steps in steps(),
    ) {
        let layout = layout(1000, 1290, 1 << shift, workers);
        let worker = layout.workers() - 1;
        let blocks = PortBlocks::new(layout, worker, addresses, config.seed).unwrap();
        let mut hosts = HostBlocks::new(blocks, &config).unwrap();
        let mut twin = Twin {
            config,
            layout,
            worker,
            addresses,
            blocks: BTreeMap::new(),
            used: HashMap::new(),
            homes: HashMap::new(),
            held: Vec::new(),
        };
        let all = hosts.gauges();
        let mut now = Tick::from_nanos(u64::MAX << 30);
        let mut elapsed = u64::MAX << 30;
        for step in steps {
            match step {
                Step::Allocate { inside, wish, picky } => {
                    let accepts = |address: u32, port: u16| match picky {
                        0 => true,
                        1 => false,
                        n => (port / 2 + address as u16).is_multiple_of(n),
                    };
                    let answer = hosts.allocate(inside, wish, accepts);
                    let preferred = hosts.preferred_address(inside);
                    twin.allocate(inside, wish, preferred, accepts, answer)?;
                }
                Step::Release(number) => {
                    let mut used: Vec<_> = twin.used.keys().copied().collect();
                    used.sort_unstable();
                    if !used.is_empty() {
                        let at = used[number % used.len()];
                        prop_assert_eq!(hosts.release(at.0, at.1, now), twin.release(at, now));
                    }
                }
                Step::ReleaseAny(address, port) => {
                    prop_assert_eq!(hosts.is_in_use(address, port), twin.used.contains_key(&(address, port)));
                    let owner = twin.blocks.get(&(address, twin.start(port)));
                    prop_assert_eq!(hosts.host_of(address, port), owner.map(|owner| owner.0));
                    prop_assert_eq!(hosts.release(address, port, now), twin.release((address, port), now));
                }
                Step::Claim(inside, address, port) => {
                    // A claim is an allocation with one acceptable port, but for where new hosts begin.
                    let block = (address, twin.start(port));
                    let owner = twin.blocks.get(&block).map(|owner| owner.0);
                    let answer = hosts.claim(inside, address, port);
                    if let Ok(given) = answer {
                        prop_assert_eq!((given.address, given.port), (address, port));
                        prop_assert_eq!(owner, given.new_block.is_none().then_some(inside));
                        let home = *twin.homes.entry(inside).or_insert(address);
                        prop_assert!(!twin.config.paired || home == address);
                        if given.new_block.is_some() {
                            twin.homes.insert(inside, address);
                        }
                        twin.blocks.insert(block, (inside, None));
                        twin.held.retain(|held| *held != block);
                        prop_assert_eq!(twin.used.insert((address, port), inside), None);
                    } else if owner == Some(inside) && !twin.used.contains_key(&(address, port)) {
                        prop_assert_eq!(answer, Err(PortRefusal::PortLimit));
                    }
                    prop_assert!(twin.ports_of(inside) <= twin.config.most_ports as usize);
                    prop_assert!(twin.blocks_of(inside).len() <= twin.config.most_blocks as usize);
                }
                Step::Expire(most) => {
                    let mut gone = Vec::new();
                    hosts.expire(now, most, |block| gone.push(block));
                    prop_assert_eq!(gone, twin.expire(now, most));
                }
                Step::Wait(seconds) => {
                    elapsed = elapsed.wrapping_add(seconds * 1_000_000_000);
                    now = Tick::from_nanos(elapsed);
                }
            }
            twin.compare(&hosts)?;
        }
        let used: Vec<_> = twin.used.keys().copied().collect();
        for at in used {
            prop_assert_eq!(hosts.release(at.0, at.1, now), twin.release(at, now));
        }
        let later = Tick::from_nanos(elapsed.wrapping_add(1_000_000_000_000));
        hosts.expire(later, u32::MAX, |_| {});
        prop_assert_eq!(hosts.gauges(), all);
        prop_assert_eq!(hosts.hosts().count(), 0);
    }

    /// Free blocks against a set.
    #[test]
    fn free_blocks_agree_with_a_set(
        workers in 1u16..4,
        steps in prop::collection::vec((0u8..4, 0u32..4, 1000u16..6000), 0..600),
    ) {
        let layout = layout(1100, 5900, 16, workers);
        let mut blocks = PortBlocks::new(layout, 0, 3, None).unwrap();
        let mine = |port: u16| (1104..5888).contains(&port) && (port / 16).is_multiple_of(workers);
        let all: HashSet<_> = (0..3)
            .flat_map(|address| (1104..5888).step_by(16).map(move |start| (address, start)))
            .filter(|at| mine(at.1))
            .collect();
        let mut free = all.clone();
        for (step, address, port) in steps {
            let at = (address, port / 16 * 16);
            let block = Block { address, first_port: at.1, ports: 16 };
            match step {
                0 | 1 => match blocks.take(address) {
                    Some(block) => {
                        prop_assert_eq!((block.address, block.ports), (address, 16));
                        prop_assert!(free.remove(&(address, block.first_port)));
                    }
                    None => prop_assert!(free.iter().all(|at| at.0 != address)),
                },
                2 => {
                    let taken = free.remove(&at).then_some(block);
                    prop_assert_eq!(blocks.take_at(address, port), taken);
                }
                _ => {
                    let is_taken = all.contains(&at) && free.insert(at);
                    prop_assert_eq!(blocks.give_back(block), is_taken);
                }
            }
            prop_assert_eq!(blocks.free() as usize, free.len());
            let here = free.iter().filter(|at| at.0 == address);
            prop_assert_eq!(blocks.free_on(address) as usize, here.count());
        }
    }
}
