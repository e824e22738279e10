//! A node that panics: one frame is lost, counted and named; traffic goes on; a port that keeps feeding it is quarantined.

mod kit;

use std::panic;

use dataplane::{Context, Frame, GraphSpec, NoDrop, Node, PortId, Verdict};
use graph_nodes::Snapshot;
use kit::{HOST, Lab, counted, gateway_mac, mac, v4};
use wire::builder::eth;

dataplane::next_nodes! {
    /// On to the graph.
    enum Next { Input => "ethernet-input" }
}

/// Stands in front of the graph and panics over a magic payload, after it has decided about half of the frame.
struct Fragile;

const MAGIC: &[u8] = b"injected panic";

impl Node<Snapshot> for Fragile {
    const NAME: &'static str = "fragile";
    type Next = Next;
    type Drop = NoDrop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            let bytes = cx.buffers.bytes(packet);
            assert!(!bytes.ends_with(MAGIC), "a test's panic");
            *verdict = Verdict::next(Next::Input);
        }
    }
}

fn lab() -> Lab {
    // The default hook would print each expected panic.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>();
        if text != Some(&"a test's panic") {
            hook(info);
        }
    }));
    Lab::with(&counted::nodes(GraphSpec::new().node(|_| Fragile)), |_| ())
}

fn frame(port: usize, payload: &[u8]) -> Vec<u8> {
    let link = port as u8;
    let ip = eth(mac(link, HOST), gateway_mac(port)).ip4(v4(link, HOST), [20, 0, 0, 1]);
    ip.udp(1, 2).payload(payload).build()
}

fn panics(lab: &Lab) -> Vec<(&'static str, u64)> {
    let nodes = lab.engine.nodes().iter().zip(&lab.stats().nodes);
    let counts = nodes.map(|(info, stats)| (info.name, stats.panics.value()));
    counts.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn one_panic_costs_one_frame() {
    let mut lab = lab();
    // A frame of eight packets, the magic one in the middle.
    for at in 0..8 {
        lab.send(0, frame(0, if at == 4 { MAGIC } else { b"harmless" }));
    }
    // Another frame in the same turn, from another port.
    lab.send(1, frame(1, b"harmless"));
    let out = lab.turn();
    assert_eq!(out.len() as u64 + lab.drops()[0].1, 9);
    assert_eq!(panics(&lab), [("fragile", 1)]);
    assert_eq!(
        lab.drops(),
        [("fragile/undecided".to_string(), 9 - out.len() as u64)]
    );
    // Ports whose packets share a frame share its fate; nothing else is lost.
    assert!((8..=9).contains(&lab.drops()[0].1), "{:?}", lab.drops());
    // Traffic goes on.
    assert_eq!(lab.run(0, frame(0, b"harmless")).len(), 1);
    assert_eq!(lab.run(1, frame(1, b"harmless")).len(), 1);
    assert!(!lab.stats().port(PortId(0)).quarantined);
    lab.finish();
}

#[test]
fn a_port_that_keeps_feeding_panics_is_quarantined() {
    let mut lab = lab();
    let mut fed = 0;
    while !lab.stats().port(PortId(0)).quarantined {
        assert_eq!(lab.run(0, frame(0, MAGIC)), []);
        // The other port's packets come in turns of their own.
        assert_eq!(lab.run(1, frame(1, b"harmless")).len(), 1);
        fed += 1;
        assert!(fed < 1000, "the port is never quarantined");
    }
    assert_eq!(panics(&lab), [("fragile", fed)]);
    assert_eq!(lab.drops(), [("fragile/undecided".to_string(), fed)]);
    // It is polled no more; what is sent to it still leaves, and the other port goes on.
    assert_eq!(lab.run(0, frame(0, b"harmless")), []);
    let to_a = eth(mac(1, HOST), gateway_mac(1)).ip4(v4(1, HOST), v4(0, HOST));
    assert_eq!(lab.run(1, to_a.udp(1, 2).build())[0].0, 0);
    assert_eq!(lab.run(1, frame(1, b"harmless")).len(), 1);
    assert!(!lab.stats().port(PortId(1)).quarantined);
    lab.finish();
}
