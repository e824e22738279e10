//! The graph with counters more: how many packets the nodes made that make several out of one.
//!
//! Everything else in the graph passes one packet on for each that it takes, or drops it, so with these numbers the sums must
//! match exactly ([`Ledger`]).

use std::marker::PhantomData;

use dataplane::{Context, Frame, GraphSpec, NextNode, NoDrop, Node, Verdict};
use graph_nodes::Snapshot;
use graph_nodes::ethernet::EthernetInput;
use graph_nodes::icmp::{
    Icmp4Error, Icmp4Input, Icmp4Redirect, Icmp6Error, Icmp6Input, Icmp6Redirect,
};
use graph_nodes::ip4::{Ip4Fragment, Ip4Input, Ip4Local, Ip4Lookup, Ip4Rewrite, Ip4RpfCheck};
use graph_nodes::ip6::{Ip6Input, Ip6Local, Ip6Lookup, Ip6Rewrite};
use graph_nodes::neighbour::{ArpInput, Ip4Glean, Ip6Glean, NdInput};
use graph_nodes::output::{GsoSegment, InterfaceOutput};
use graph_nodes::policy::{Ip4Policy, Ip6Policy};
use graph_nodes::tcp::{Tcp4Reset, Tcp6Reset};

use super::Lab;

/// Name of the counter behind `ip4-fragment`.
pub const FRAGMENTS: &str = "fragments-made";
/// Name of the counter behind `gso-segment`.
pub const SEGMENTS: &str = "segments-made";
/// Name of the counter behind `icmp4-redirect`.
pub const REDIRECTS4: &str = "redirects4-made";
/// Name of the counter behind `icmp6-redirect`.
pub const REDIRECTS6: &str = "redirects6-made";
/// Names of all counters.
pub const COUNTERS: [&str; 4] = [REDIRECTS4, REDIRECTS6, FRAGMENTS, SEGMENTS];

/// The nodes of [`graph_nodes::graph`], the counters among them.
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
        .node(|_| Ip4Policy::default())
        .node(|_| Ip6Policy::default())
        .node(|_| Ip4Local)
        .node(|_| Ip6Local)
        .node(|_| Icmp4Input)
        .node(|_| Icmp6Input)
        .node(|_| NdInput)
        .node(|_| Icmp4Error)
        .node(|_| Icmp6Error)
        .node(|_| Tcp4Reset)
        .node(|_| Tcp6Reset)
        .node(|_| Ip4Lookup::default())
        .node(|_| Ip6Lookup::default())
        .node(|_| Rerouted::<_, ToRedirects4>(Icmp4Redirect, PhantomData))
        .node(|_| Redirects4)
        .node(|_| Rerouted::<_, ToRedirects6>(Icmp6Redirect, PhantomData))
        .node(|_| Redirects6)
        .node(|_| Ip4Glean::default())
        .node(|_| Ip6Glean::default())
        .node(|_| Rerouted::<_, ToFragments>(Ip4Fragment::default(), PhantomData))
        .node(|_| Fragments)
        .node(|_| Ip4Rewrite::default())
        .node(|_| Ip6Rewrite::default())
        .node(|_| InterfaceOutput::default())
        .node(|_| Rerouted::<_, ToSegments>(GsoSegment::default(), PhantomData))
        .node(|_| Segments)
}

/// What became of everything that came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ledger {
    /// Frames put on the wires.
    pub offered: u64,
    /// Frames that control injected.
    pub injected: u64,
    /// Fragments and segments made, less the packets they were made of, and redirects.
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
        // These are made beside the packets that they are about.
        let beside = |counter: &str| lab.node(counter).0 as i64;
        let dropped: u64 = lab.drops().iter().map(|(_, count)| count).sum();
        Self {
            offered: lab.offered,
            injected: lab.stats().injected.value(),
            made: made_by("ip4-fragment", FRAGMENTS)
                + made_by("gso-segment", SEGMENTS)
                + beside(REDIRECTS4)
                + beside(REDIRECTS6),
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
struct Rerouted<N, E>(N, PhantomData<E>);

impl<N: Node<Snapshot>, E: NextNode + Send + 'static> Node<Snapshot> for Rerouted<N, E> {
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
    /// Edges of `icmp4-redirect` here.
    enum ToRedirects4 {
        Rewrite => "ip4-rewrite",
        Made => "redirects4-made",
    }
}

dataplane::next_nodes! {
    /// Edges of `icmp6-redirect` here.
    enum ToRedirects6 {
        Rewrite => "ip6-rewrite",
        Made => "redirects6-made",
    }
}

/// A node that sends on what comes to it: its count of packets is the counter.
macro_rules! counter {
    ($node:ident = $name:expr, $next:ident => $target:literal) => {
        dataplane::next_nodes! {
            /// Where the packets really go.
            enum $next { On => $target }
        }

        struct $node;

        impl Node<Snapshot> for $node {
            const NAME: &'static str = $name;
            type Next = $next;
            type Drop = NoDrop;

            fn process(&mut self, frame: &mut Frame, _: &mut Context<'_, Snapshot>) {
                frame.set_all(Verdict::next($next::On));
            }
        }
    };
}

counter!(Fragments = FRAGMENTS, FragmentsNext => "ip4-rewrite");
counter!(Segments = SEGMENTS, SegmentsNext => "port-tx");
counter!(Redirects4 = REDIRECTS4, Redirects4Next => "ip4-lookup");
counter!(Redirects6 = REDIRECTS6, Redirects6Next => "ip6-lookup");
