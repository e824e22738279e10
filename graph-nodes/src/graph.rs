//! The graph: every node, in the order that packets take.

use dataplane::GraphSpec;

use crate::ethernet::EthernetInput;
use crate::icmp::{Icmp4Error, Icmp4Input, Icmp4Redirect, Icmp6Error, Icmp6Input, Icmp6Redirect};
use crate::ip4::{Ip4Fragment, Ip4Input, Ip4Local, Ip4Lookup, Ip4Rewrite, Ip4RpfCheck};
use crate::ip6::{Ip6Input, Ip6Local, Ip6Lookup, Ip6Rewrite};
use crate::neighbour::{ArpInput, Ip4Glean, Ip6Glean, NdInput};
use crate::output::{GsoSegment, InterfaceOutput};
use crate::policy::{Ip4Policy, Ip6Policy};
use crate::snapshot::Snapshot;
use crate::tcp::{Tcp4Reset, Tcp6Reset};

/// The graph that a gateway runs. Packets from ports enter at the first node.
pub fn graph() -> GraphSpec<Snapshot> {
    GraphSpec::new()
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
        .node(|_| Icmp4Redirect)
        .node(|_| Icmp6Redirect)
        .node(|_| Ip4Glean::default())
        .node(|_| Ip6Glean::default())
        .node(|_| Ip4Fragment::default())
        .node(|_| Ip4Rewrite::default())
        .node(|_| Ip6Rewrite::default())
        .node(|_| InterfaceOutput::default())
        .node(|_| GsoSegment::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_leads_somewhere() {
        graph().check().expect("a complete graph");
    }
}
