//! The graph with two counters more: how many packets the nodes made that make several out of one.
//!
//! Everything else in the graph passes one packet on for each that it takes, or drops it, so with these two numbers the sums must
//! match exactly ([`Ledger`]).

use std::marker::PhantomData;

use dataplane::{Context, Frame, GraphSpec, NextNode, NoDrop, Node, Verdict};
use graph_nodes::Snapshot;
use graph_nodes::ethernet::EthernetInput;
use graph_nodes::icmp::{Icmp4Error, Icmp4Input, Icmp6Error, Icmp6Input};
use graph_nodes::ip4::{Ip4Fragment, Ip4Input, Ip4Local, Ip4Lookup, Ip4Rewrite, Ip4RpfCheck};
use graph_nodes::ip6::{Ip6Input, Ip6Local, Ip6Lookup, Ip6Rewrite};
use graph_nodes::neighbour::{ArpInput, Ip4Glean, Ip6Glean, NdInput};
use graph_nodes::output::{GsoSegment, InterfaceOutput};

use super::Lab;

/// Name of the counter behind `ip4-fragment`.
pub const FRAGMENTS: &str = "fragments-made";
/// Name of the counter behind `gso-segment`.
pub const SEGMENTS: &str = "segments-made";

/// The nodes of [`graph_nodes::graph`], the two counters among them.
pub fn graph() -> GraphSpec<Snapshot> {
    nodes(GraphSpec::new())
}

/// As [`graph`], behind nodes that packets pass before.
pub fn nodes(front: GraphSpec<Snapshot>) -> GraphSpec<Snapshot> {
    front
        .node(|_| EthernetInput)
        .node(|_| ArpInput)
        .node(|_| Ip4Input)
        .node(|_| Ip6Input)
        .node(|_| Ip4RpfCheck)
        .node(|_| Ip4Local)
        .node(|_| Ip6Local)
        .node(|_| Icmp4Input)
        .node(|_| Icmp6Input)
        .node(|_| NdInput)
        .node(|_| Icmp4Error)
        .node(|_| Icmp6Error)
        .node(|_| Ip4Lookup::default())
        .node(|_| Ip6Lookup::default())
        .node(|_| Ip4Glean::default())
        .node(|_| Ip6Glean::default())
        .node(|_| Redirected::<_, ToFragments>(Ip4Fragment::default(), PhantomData))
        .node(|_| Fragments)
        .node(|_| Ip4Rewrite::default())
        .node(|_| Ip6Rewrite::default())
        .node(|_| InterfaceOutput::default())
        .node(|_| Redirected::<_, ToSegments>(GsoSegment::default(), PhantomData))
        .node(|_| Segments)
}

/// What became of everything that came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ledger {
    /// Frames put on the wires.
    pub offered: u64,
    /// Frames that control injected.
    pub injected: u64,
    /// Fragments and segments made, less the packets they were made of.
    pub made: i64,
    /// Frames that came out.
    pub sent: u64,
    /// Counted drops.
    pub dropped: u64,
}

impl Ledger {
    /// The books of a gateway with the counted graph, in which nothing waits any longer.
    pub fn of(lab: &Lab) -> Self {
        let made_by = |node: &str, counter: &str| {
            let (taken, dropped) = lab.node(node);
            lab.node(counter).0 as i64 - (taken - dropped) as i64
        };
        let dropped: u64 = lab.drops().iter().map(|(_, count)| count).sum();
        Self {
            offered: lab.offered,
            injected: lab.stats().injected.value(),
            made: made_by("ip4-fragment", FRAGMENTS) + made_by("gso-segment", SEGMENTS),
            sent: lab.sent,
            dropped: dropped + lab.stats().lost.value(),
        }
    }

    /// Checks that the sums match, that no node panicked, and that none forgot a packet.
    pub fn check(&self, lab: &Lab) {
        let went_in = (self.offered + self.injected) as i64 + self.made;
        let came_out = (self.sent + self.dropped) as i64;
        assert_eq!(went_in, came_out, "{self:?}\n{:#?}", lab.drops());
        let (to_ports, not_taken) = lab.node(dataplane::PORT_TX);
        assert_eq!(to_ports - not_taken, self.sent, "what ports took came out");
        for (info, stats) in lab.engine.nodes().iter().zip(&lab.stats().nodes) {
            assert_eq!(stats.panics.value(), 0, "{} panicked", info.name);
            let undecided = stats.drops.last().map_or(0, dataplane::Counter::value);
            assert_eq!(undecided, 0, "{} left packets without a verdict", info.name);
        }
        assert_eq!(lab.stats().port_panics.value(), 0, "a port panicked");
    }
}

/// A node whose edges lead elsewhere.
struct Redirected<N, E>(N, PhantomData<E>);

impl<N: Node<Snapshot>, E: NextNode + Send + 'static> Node<Snapshot> for Redirected<N, E> {
    const NAME: &'static str = N::NAME;
    type Next = E;
    type Drop = N::Drop;
    const POLLED: bool = N::POLLED;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        // A new edge of the node would lead nowhere, and its packets would be lost without a name.
        assert_eq!(<N::Next as NextNode>::NAMES.len(), E::NAMES.len());
        self.0.process(frame, cx);
    }

    fn poll(&mut self, cx: &mut Context<'_, Snapshot>) {
        self.0.poll(cx);
    }
}

dataplane::next_nodes! {
    /// Edges of `ip4-fragment` here.
    enum ToFragments { Made => "fragments-made" }
}

dataplane::next_nodes! {
    /// Edges of `gso-segment` here.
    enum ToSegments { Made => "segments-made" }
}

dataplane::next_nodes! {
    /// Where fragments really go.
    enum FragmentsNext { Rewrite => "ip4-rewrite" }
}

dataplane::next_nodes! {
    /// Where segments really go.
    enum SegmentsNext { PortTx => "port-tx" }
}

struct Fragments;
struct Segments;

impl Node<Snapshot> for Fragments {
    const NAME: &'static str = FRAGMENTS;
    type Next = FragmentsNext;
    type Drop = NoDrop;

    fn process(&mut self, frame: &mut Frame, _: &mut Context<'_, Snapshot>) {
        frame.set_all(Verdict::next(FragmentsNext::Rewrite));
    }
}

impl Node<Snapshot> for Segments {
    const NAME: &'static str = SEGMENTS;
    type Next = SegmentsNext;
    type Drop = NoDrop;

    fn process(&mut self, frame: &mut Frame, _: &mut Context<'_, Snapshot>) {
        frame.set_all(Verdict::next(SegmentsNext::PortTx));
    }
}
