//! Policy: Calico's kinds and Kubernetes' as validated types, the selector language, resolution of selectors, and a plain evaluator that says
//! what they mean.
//!
//! A document becomes an [`Object`] ([`Object::read`]: unknown fields, wrong values and what is not supported are refused with their paths), objects
//! make a [`PolicyState`], [`resolve`] turns its policies into rules over sets of addresses, and [`mod@reference`] judges packets straight from the
//! objects: slow, and the measure for everything faster.

mod access;
mod cluster;
mod endpoint;
mod felix;
#[cfg(any(test, feature = "generate"))]
pub mod generate;
mod id;
mod inventory;
mod ip_pool;
mod kubernetes;
mod network_policy;
mod object;
mod reader;
pub mod reference;
pub mod resolve;
mod rule;
mod selector;
mod service;
mod state;
#[cfg(test)]
mod tests;
mod tier;
mod value;

pub use access::{AccessDirection, AccessList, AccessRule, MAX_ACCESS_RULES};
pub use endpoint::{EndpointPort, HostEndpoint, Labelled, NetworkSet, Profile, WorkloadEndpoint};
pub use felix::{
    DenyAction, EndpointToHost, FailsafePort, Felix, FelixConfiguration, FlowTimeouts,
};
pub use id::{NamespacedName, Order, PolicyId, PolicyKind};
pub use ip_pool::{IpPool, NatOutgoing};
pub use network_policy::{DEFAULT_TIER, Policy, StagedAction, Types};
pub use object::{Object, ObjectError, Resource, ResourceId, ResourceKind};
pub use reader::FieldError;
pub use rule::{
    Action, Icmp, IpVersion, MAX_NETS, MAX_PORTS, MAX_RULES, Port, PortName, Protocol, Rule,
    ServiceAccounts, ServiceRef, Side,
};
pub use selector::{
    Comparison, Expression, LabelSource, MAX_LABEL, MAX_NESTING, MAX_SELECTOR, Restriction,
    Restrictions, Selector, SelectorError, set_id,
};
pub use service::EndpointSlice;
pub use state::{EffectiveLabels, PolicyState};
pub use tier::{BUILT_IN, EndOfTier, Tier};
pub use value::{Entries, Value};

use std::collections::BTreeMap;

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// The label that says in which namespace something is.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// The label that says what runs a workload: `k8s` for pods.
pub const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";
/// The label that names a workload's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";

/// A direction, as an endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// Whether a selector may name a label with this character.
fn is_label_byte(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"_./-".contains(&c)
}

fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(is_label_byte)
}
