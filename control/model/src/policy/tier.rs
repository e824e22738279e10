//! Tiers: groups of policies that are tried one after the other.

use super::id::Order;
use super::object::Metadata;
use super::reader::Fields;

/// What happens to a packet that reaches the end of a tier whose policies apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndOfTier {
    /// It is dropped.
    #[default]
    Deny,
    /// The next tier decides.
    Pass,
}

/// A tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Where it stands; last if `None`.
    pub order: Option<Order>,
    /// What happens at its end.
    pub default_action: EndOfTier,
}

/// The tiers that always exist: name, order, end.
pub const BUILT_IN: [(&str, f64, EndOfTier); 3] = [
    ("kube-admin", 1_000.0, EndOfTier::Pass),
    ("default", 1_000_000.0, EndOfTier::Deny),
    ("kube-baseline", 10_000_000.0, EndOfTier::Pass),
];

impl Tier {
    /// The built-in tier of a name.
    pub fn built_in(name: &str) -> Option<Self> {
        BUILT_IN
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|(_, order, default_action)| Self {
                order: Order::new(*order),
                default_action: *default_action,
            })
    }
}

pub(crate) fn read_tier(spec: &mut Fields<'_>, metadata: &Metadata) -> Tier {
    if metadata.name.len() > 63 || metadata.name.contains('.') {
        spec.errors.push(
            "metadata.name",
            format!(
                "value is {:?}; a tier's name must have at most 63 of a-z, 0-9 and '-'",
                metadata.name
            ),
        );
    }
    let order = spec
        .take("order")
        .and_then(|node| node.number())
        .and_then(Order::new);
    let default_action = spec
        .take("defaultAction")
        .and_then(|node| node.any_case(&[("Deny", EndOfTier::Deny), ("Pass", EndOfTier::Pass)]));
    let mut tier = Tier {
        order,
        default_action: default_action.unwrap_or_default(),
    };
    if let Some(fixed) = Tier::built_in(&metadata.name) {
        if order.is_some_and(|order| Some(order) != fixed.order) {
            spec.fail(
                "order",
                format!(
                    "the tier {} is built in: its order must be {}",
                    metadata.name,
                    fixed.order.map_or(0.0, Order::get)
                ),
            );
        }
        if default_action.is_some_and(|action| action != fixed.default_action) {
            spec.fail(
                "defaultAction",
                format!(
                    "the tier {} is built in: its default action must be {:?}",
                    metadata.name, fixed.default_action
                ),
            );
        }
        tier = fixed;
    }
    tier
}
