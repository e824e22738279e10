//! Two workers under traffic while control publishes snapshots and flips routes: packets end only in forwards and counted drops.

mod kit;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::{
    Engine, EngineConfig, Idle, InterfaceCounter, MemoryPort, MemoryWire, PortId, Queue, WorkerId,
    memory_pair,
};
use graph_nodes::WorkerState;
use graph_nodes::fib::{NextHop, RouteTarget};
use kit::{HOST, PORTS, behind, gateway_mac, mac, v4, v6};
use wire::builder::eth;

const WORKERS: usize = 2;
const FLIPS: u32 = 1000;
const WAIT: Duration = Duration::from_secs(60);

#[test]
fn routes_flip_under_traffic() {
    let mut writer = kit::writer();
    let snapshot = kit::snapshot(&writer);
    let limits = snapshot.icmp;
    let config = EngineConfig {
        workers: WORKERS,
        idle: Idle::Adaptive { spin_ns: 50_000 },
        ..EngineConfig::default()
    };
    let state = |_| WorkerState::new(limits);
    let mut engine =
        Engine::start(&config, &graph_nodes::graph(), snapshot, state).expect("two workers");
    let mut ends: Vec<Vec<MemoryPort>> = (0..WORKERS).map(|_| Vec::new()).collect();
    for port in 0..PORTS {
        let mut queues = Vec::new();
        for ends in &mut ends {
            let (ours, theirs) = memory_pair(4096).expect("event descriptors");
            ends.push(ours);
            queues.push(Some(Box::new(theirs) as Box<dyn Queue>));
        }
        engine
            .add_port(PortId(port as u16), queues, WAIT)
            .expect("workers answer");
    }
    let hop = |link, six| NextHop {
        neighbour: kit::neighbour(link, HOST, six),
        weight: 1,
    };
    let (mut offered, mut sent) = (0u64, [0u64; PORTS]);
    for flip in 0..FLIPS {
        for (worker, ends) in ends.iter_mut().enumerate() {
            for packet in 0..8u16 {
                let flow = flip as u16 ^ packet << 8 ^ worker as u16;
                let link = eth(mac(0, HOST), gateway_mac(0));
                let frame = match packet % 2 {
                    0 => link.ip4(v4(0, HOST), [20, 0, 0, 1]).udp(flow, 2).build(),
                    _ => link.ip6(v6(0, HOST), behind(20, 1)).udp(flow, 2).build(),
                };
                let wire = MemoryWire {
                    bytes: frame,
                    offload: None,
                };
                offered += u64::from(ends[0].send(wire));
            }
        }
        // One next hop, another, both, nowhere; a neighbour that comes and goes; a snapshot for all of it.
        writer.set_epoch(engine.epoch());
        for six in [false, true] {
            let network: IpAddr = if six {
                behind(20, 0).into()
            } else {
                [20, 0, 0, 0].into()
            };
            let target = match flip % 4 {
                0 => RouteTarget::Forward(vec![hop(2, six)]),
                1 => RouteTarget::Forward(vec![hop(1, six), hop(2, six)]),
                2 => RouteTarget::Blackhole,
                _ => RouteTarget::Forward(vec![hop(1, six)]),
            };
            writer
                .set_route(0, network, if six { 48 } else { 8 }, target)
                .expect("room");
            let passing = kit::neighbour(2, 77, six);
            if flip % 2 == 0 {
                writer.resolve(passing, mac(2, 77)).expect("room");
            } else {
                writer.forget(passing);
            }
        }
        writer.commit().expect("memory");
        let epoch = engine.publish(kit::snapshot(&writer));
        if flip % 16 == 0 {
            engine
                .wait_live(epoch, WAIT)
                .expect("both workers observe it");
            writer.reclaim(epoch.saturating_sub(1));
        }
        drain(&mut ends, &mut sent);
    }
    let epoch = engine.publish(kit::snapshot(&writer));
    engine
        .wait_live(epoch, WAIT)
        .expect("both workers observe it");
    // Until everything that came in has gone out or was dropped.
    let deadline = Instant::now() + WAIT;
    loop {
        drain(&mut ends, &mut sent);
        let dropped: u64 = (0..WORKERS)
            .flat_map(|worker| kit::drops(&engine, WorkerId(worker as u16)))
            .map(|(_, count)| count)
            .sum();
        let out = sent.iter().sum::<u64>() + dropped;
        if out == offered {
            break;
        }
        assert!(out < offered, "{out} of {offered} came out");
        assert!(Instant::now() < deadline, "{out} of {offered} came out");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(offered, u64::from(FLIPS) * WORKERS as u64 * 8);
    assert!(sent[1] > 0 && sent[2] > 0 && sent[0] == 0, "{sent:?}");
    for (worker, stats) in engine.all_stats().enumerate() {
        let names: Vec<_> = kit::drops(&engine, WorkerId(worker as u16));
        assert!(
            names.iter().all(|(name, _)| name.ends_with("/blackhole")),
            "{names:?}"
        );
        assert!(stats.nodes.iter().all(|node| node.panics.value() == 0));
        assert_eq!(stats.lost.value(), 0);
        let (received, _) = stats
            .interface(kit::A)
            .expect("counters")
            .value(InterfaceCounter::Rx);
        assert!(received > 0, "worker {worker} took part");
    }
    drop(ends);
    let pool = engine.stop().expect("both workers end");
    pool.audit().expect("every buffer is back in the pool");
}

fn drain(ends: &mut [Vec<MemoryPort>], sent: &mut [u64; PORTS]) {
    for ends in ends {
        for (end, sent) in ends.iter_mut().zip(&mut *sent) {
            while end.receive().is_some() {
                *sent += 1;
            }
        }
    }
}
