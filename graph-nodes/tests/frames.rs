//! A million frames, valid and mutated, through the whole graph: each ends as a forward, an answer or a counted drop.

mod kit;

use dataplane::{Counter, Rng, WorkerId};
use kit::counted::{self, Ledger};
use kit::frames::{self, Dice};
use kit::{A, C, Lab};

/// Frames of one run; `ONCILLA_FRAMES` asks for another number. Without optimization a tenth, for time's sake.
fn count() -> u64 {
    let asked = std::env::var("ONCILLA_FRAMES").ok();
    let default = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    asked.map_or(default, |text| {
        text.parse().expect("ONCILLA_FRAMES is a number of frames")
    })
}

#[test]
fn every_frame_is_accounted_for() {
    // Packets between neighbours on link A turn around there.
    let mut lab = Lab::with(&counted::graph(), |snapshot| {
        snapshot.interfaces[usize::from(A)].redirects = true;
    });
    let mut dice = Dice::Seed(Rng::from_seed(0x0c11));
    let (mut left, mut turns, mut punts) = (count(), 0u64, 0u64);
    while left > 0 {
        for _ in 0..left.min(500) {
            let (port, frame) = frames::next(&mut dice);
            lab.send_wire(port, frame);
            left -= 1;
        }
        if turns.is_multiple_of(7) {
            let frame =
                wire::builder::eth(kit::gateway_mac(2), kit::mac(2, 9)).raw(0x88b5, b"injected");
            let injected = lab
                .engine
                .inject(WorkerId(0), "interface-output", C, 2, &frame.build());
            injected.expect("room in an empty ring");
        }
        lab.turn();
        punts += lab.punts().len() as u64;
        lab.pass(20_000_000);
        turns += 1;
    }
    lab.settle();
    punts += lab.punts().len() as u64;
    let ledger = Ledger::of(&lab);
    ledger.check(&lab);
    assert_eq!(
        punts + lab.stats().punts_lost.value(),
        lab.stats().punts.value()
    );
    // The mixture reaches every part of the graph but the features, which are off, so that the sums mean something.
    let features = [
        "ip4-rpf-check",
        "ip4-policy",
        "ip6-policy",
        "tcp4-reset",
        "tcp6-reset",
        "handoff",
    ];
    for (info, stats) in lab.engine.nodes().iter().zip(&lab.stats().nodes) {
        if !features.contains(&info.name) {
            assert!(
                stats.vectors.value() > 0,
                "no packet ever came to {}",
                info.name
            );
        }
    }
    assert!(
        ledger.sent * 4 > ledger.offered,
        "a good part is forwarded or answered: {ledger:?}"
    );
    let silent: u64 = lab
        .stats()
        .nodes
        .iter()
        .map(|node| node.vectors.value())
        .sum();
    assert!(silent > ledger.offered, "packets pass several nodes");
    println!(
        "{ledger:?}, punts {punts}, lost {}",
        Counter::value(&lab.stats().lost)
    );
    for (name, count) in lab.drops() {
        println!("{count:>9} {name}");
    }
    lab.finish();
}

#[test]
fn the_counted_graph_is_the_graph_and_its_counters() {
    let (plain, counted) = (graph_nodes::graph().infos(), counted::graph().infos());
    let counted: Vec<_> = counted
        .iter()
        .filter(|info| !counted::COUNTERS.contains(&info.name))
        .map(|info| (info.name, info.drops))
        .collect();
    let plain: Vec<_> = plain.iter().map(|info| (info.name, info.drops)).collect();
    assert_eq!(
        counted, plain,
        "tests/kit/counted.rs lists the nodes of src/graph.rs"
    );
}

/// Nobody panics, and the books balance, when buffers run out in the middle.
#[test]
fn an_exhausted_pool_loses_no_count() {
    let mut lab = Lab::with(&counted::graph(), |_| ());
    // Held by the test, so that few are left.
    let mut held = lab.engine.pool().cache();
    let mut kept: Vec<_> = std::iter::from_fn(|| held.alloc()).collect();
    for _ in 0..256 {
        held.free(kept.pop().expect("the pool had more than these"));
    }
    drop(held);
    let mut dice = Dice::Seed(Rng::from_seed(0xdead));
    for _ in 0..40 {
        for _ in 0..200 {
            let (port, frame) = frames::next(&mut dice);
            lab.send_wire(port, frame);
        }
        lab.turn();
        lab.pass(20_000_000);
    }
    lab.settle();
    // A memory port drops what it finds no buffer for, so only the graph's own sum is known: nothing is left in it.
    for (info, stats) in lab.engine.nodes().iter().zip(&lab.stats().nodes) {
        assert_eq!(stats.panics.value(), 0, "{} panicked", info.name);
    }
    let drops = lab.drops();
    assert!(
        drops.iter().any(|(name, _)| name.contains("no-buffer")),
        "{drops:#?}"
    );
    let mut cache = lab.engine.pool().cache();
    kept.into_iter().for_each(|packet| cache.free(packet));
    drop(cache);
    lab.finish();
}
