//! Services' endpoints, as far as rules that name a service need them.

use std::net::IpAddr;

use super::id::NamespacedName;
use super::object::Metadata;
use super::reader::{Fields, Node};
use super::rule::{Protocol, read_address};

/// The label by which a slice says whose endpoints it holds.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A part of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Whose endpoints they are; nobody's if `None`.
    pub service: Option<NamespacedName>,
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// Protocol and number of each port.
    pub ports: Vec<(Protocol, u16)>,
}

/// Reads an EndpointSlice, whose fields stand beside its metadata. What load balancing alone needs is not looked at.
pub(crate) fn read_slice(fields: &mut Fields<'_>, metadata: &Metadata) -> EndpointSlice {
    let domain = fields
        .required("addressType")
        .and_then(|node| node.word(&[("IPv4", false), ("IPv6", false), ("FQDN", true)]))
        .unwrap_or(false);
    let addresses = fields.list("endpoints", 1000, |node| {
        let mut fields = node.fields()?;
        let addresses = if domain {
            fields.skip(&["addresses"]);
            Vec::new()
        } else {
            fields.list("addresses", 100, |node| read_address(&node))
        };
        fields.skip(&[
            "conditions",
            "hostname",
            "targetRef",
            "nodeName",
            "zone",
            "hints",
            "deprecatedTopology",
        ]);
        fields.finish();
        Some(addresses)
    });
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    EndpointSlice {
        service: metadata
            .labels
            .get(SERVICE_LABEL)
            .map(|name| NamespacedName::new(namespace, name)),
        addresses: addresses.into_iter().flatten().collect(),
        ports: fields
            .list("ports", 20_000, |node| read_port(&node))
            .into_iter()
            .flatten()
            .collect(),
    }
}

/// A port; `Some(None)` for one without a number, which stands for all ports and is in no set.
fn read_port(node: &Node<'_>) -> Option<Option<(Protocol, u16)>> {
    let mut fields = node.fields()?;
    let protocol = match fields.take("protocol") {
        None => Some(Protocol::TCP),
        Some(node) => node.word(&[
            ("TCP", Protocol::TCP),
            ("UDP", Protocol::UDP),
            ("SCTP", Protocol::SCTP),
        ]),
    };
    let port = fields.take("port").map(|node| {
        node.integer(0, 65535)
            .and_then(|port| u16::try_from(port).ok())
    });
    fields.skip(&["name", "appProtocol"]);
    fields.finish();
    match port {
        None => Some(None),
        Some(port) => Some(Some((protocol?, port?))),
    }
}
