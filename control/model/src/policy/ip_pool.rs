//! Calico's pools of addresses for workloads, as far as packets are concerned: which of them leave translated. Who gets which address is for
//! Calico's address management to say, so those fields are checked and kept in the document.

use std::net::IpAddr;

use ipnet::IpNet;

use super::reader::{Fields, Node};
use super::rule::read_selector;
use super::state::PolicyState;
use super::value::Value;
use crate::PortSpan;
use crate::address::parse_net;

/// Addresses of workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    /// Which addresses. Pools have no address in common.
    pub cidr: IpNet,
    /// Whether packets to destinations in no pool leave with an address of the node. It holds for a disabled pool, too: `disabled` only says that
    /// no more of its addresses are given to workloads.
    pub nat_outgoing: bool,
}

/// What translates packets of pools with [`IpPool::nat_outgoing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatOutgoing {
    /// The source is in one of these.
    pub sources: Vec<IpNet>,
    /// The destination is in none of these: all pools.
    pub not_destinations: Vec<IpNet>,
    /// What the source of packets of its family becomes; that of the interface that they leave by if `None`.
    pub address: Option<IpAddr>,
    /// The ports that are given out.
    pub ports: PortSpan,
}

impl PolicyState {
    /// What is translated on a node, as felix's `natOutgoing` rule does: sources in a pool that has it, destinations in no pool at all. `None` where
    /// no pool has it.
    pub fn nat_outgoing_of(&self, node: &str) -> Option<NatOutgoing> {
        let pools = || self.ip_pools.values();
        let sources: Vec<IpNet> = pools()
            .filter(|pool| pool.nat_outgoing)
            .map(|pool| pool.cidr)
            .collect();
        if sources.is_empty() {
            return None;
        }
        let mut outgoing = NatOutgoing {
            sources,
            not_destinations: pools().map(|pool| pool.cidr).collect(),
            address: None,
            ports: PortSpan::ALL,
        };
        for name in ["default", &format!("node.{node}")] {
            if let Some(felix) = self.felix.get(name) {
                outgoing.address = felix.nat_outgoing_address.or(outgoing.address);
                outgoing.ports = felix.nat_port_range.unwrap_or(outgoing.ports);
            }
        }
        Some(outgoing)
    }
}

pub(crate) fn read_ip_pool(spec: &mut Fields<'_>) -> Option<IpPool> {
    let cidr = spec.required("cidr").and_then(|node| read_cidr(&node));
    let nat_outgoing = spec.bool("natOutgoing").unwrap_or(false);
    spec.bool("disabled");
    spec.bool("disableBGPExport");
    let mode = |spec: &mut Fields<'_>, name| {
        let modes = [("Always", true), ("CrossSubnet", true), ("Never", false)];
        let node = spec.take(name).filter(|node| *node.value != "".into());
        node.and_then(|node| node.word(&modes)).unwrap_or(false)
    };
    let (ipip, vxlan) = (mode(spec, "ipipMode"), mode(spec, "vxlanMode"));
    if ipip && vxlan {
        spec.fail("vxlanMode", "ipipMode is on too; one of them must be Never");
    }
    if ipip && cidr.is_some_and(|cidr| cidr.addr().is_ipv6()) {
        spec.fail("ipipMode", "IPIP carries IPv4 only; it must be Never");
    }
    if let Some(cidr) = cidr {
        read_block_size(spec, cidr);
    } else {
        spec.skip(&["blockSize"]);
    }
    read_selector(spec, "nodeSelector");
    read_selector(spec, "namespaceSelector");
    let uses = [("Workload", ()), ("Tunnel", ()), ("LoadBalancer", ())];
    spec.list("allowedUses", uses.len(), |node| node.word(&uses));
    if let Some(node) = spec.take("assignmentMode") {
        node.word(&[("Automatic", ()), ("Manual", ())]);
    }
    Some(IpPool {
        cidr: cidr?,
        nat_outgoing,
    })
}

fn read_cidr(node: &Node<'_>) -> Option<IpNet> {
    let Some(cidr) = parse_net(node.text()?) else {
        node.must("be a network such as 10.0.0.0/16 or 2001:db8::/64");
        return None;
    };
    if cidr.addr() != cidr.network() {
        node.must(format!("be without host bits: {}", cidr.trunc()));
        return None;
    }
    let link_local = match cidr {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    };
    if link_local {
        node.must("not be link-local");
        return None;
    }
    Some(cidr)
}

/// Blocks of addresses are handed to nodes: IPv4 /20 to /32, IPv6 /116 to /128, as Calico has it, and none larger than the pool.
fn read_block_size(spec: &mut Fields<'_>, cidr: IpNet) {
    let (least, most) = match cidr {
        IpNet::V4(_) => (20, 32),
        IpNet::V6(_) => (116, 128),
    };
    let node = spec
        .take("blockSize")
        .filter(|node| *node.value != Value::Integer(0));
    let (size, written) = match &node {
        Some(node) => match node.integer(least, most) {
            Some(size) => (size, true),
            None => return,
        },
        None => (most - 6, false),
    };
    if size < i64::from(cidr.prefix_len()) {
        let message = format!(
            "blocks of /{size} are larger than the pool {cidr}: set blockSize to {} or more",
            cidr.prefix_len()
                .max(u8::try_from(least).unwrap_or_default())
        );
        spec.fail(if written { "blockSize" } else { "cidr" }, message);
    }
}
