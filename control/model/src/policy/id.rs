//! What names policies and other objects in this module.

use std::fmt;

/// A name within a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: Box<str>,
    /// Unique within the namespace.
    pub name: Box<str>,
}

impl NamespacedName {
    /// Names something.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// `namespace/name`.
impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of policies, by the names that Calico gives them where it compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// Calico's, for all namespaces and hosts.
    GlobalNetworkPolicy,
    /// Calico's, for one namespace.
    NetworkPolicy,
    /// A global policy that is judged but not enforced.
    StagedGlobalNetworkPolicy,
    /// A namespace's policy that is judged but not enforced.
    StagedNetworkPolicy,
    /// A Kubernetes policy that is judged but not enforced.
    StagedKubernetesNetworkPolicy,
    /// Kubernetes' own.
    KubernetesNetworkPolicy,
    /// Kubernetes' own for clusters.
    KubernetesClusterNetworkPolicy,
}

impl PolicyKind {
    /// As Calico writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Self::KubernetesClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
        }
    }

    /// The kind that a staged kind stands for; `None` for what is enforced.
    pub fn enforced(self) -> Option<Self> {
        match self {
            Self::StagedGlobalNetworkPolicy => Some(Self::GlobalNetworkPolicy),
            Self::StagedNetworkPolicy => Some(Self::NetworkPolicy),
            Self::StagedKubernetesNetworkPolicy => Some(Self::KubernetesNetworkPolicy),
            _ => None,
        }
    }

    /// Whether it is judged but not enforced.
    pub fn is_staged(self) -> bool {
        self.enforced().is_some()
    }

    /// Whether its policies are in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(
            self,
            Self::GlobalNetworkPolicy
                | Self::StagedGlobalNetworkPolicy
                | Self::KubernetesClusterNetworkPolicy
        )
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Names one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace, if the kind has them.
    pub namespace: Option<Box<str>>,
    /// Its name.
    pub name: Box<str>,
}

impl PolicyId {
    /// Names a policy.
    pub fn new(kind: PolicyKind, namespace: Option<&str>, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.map(Box::from),
            name: name.into(),
        }
    }

    /// What decides between policies of one tier and one order: the lower text goes first.
    pub fn tie_break(&self) -> String {
        let namespace = self.namespace.as_deref().unwrap_or_default();
        format!("{}/{namespace}/{}", self.name, self.kind)
    }
}

/// `namespace/name`, or the name alone.
impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

/// A place in an order: any finite number.
#[derive(Clone, Copy, Debug)]
pub struct Order(f64);

impl Order {
    /// Takes a finite number.
    pub fn new(number: f64) -> Option<Self> {
        // The two zeros are one place.
        number.is_finite().then_some(Self(number + 0.0))
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Orders what may have no order: those go last.
    pub fn compare(left: Option<Self>, right: Option<Self>) -> std::cmp::Ordering {
        let number = |order: Option<Self>| order.map_or(f64::INFINITY, Self::get);
        number(left).total_cmp(&number(right))
    }
}

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_ties() {
        let order = |number| Order::new(number);
        assert_eq!(order(f64::NAN), None);
        assert_eq!(order(f64::INFINITY), None);
        assert_eq!(order(-0.0), order(0.0));
        let mut orders = [None, order(2.0), order(-1.5), order(10.0)];
        orders.sort_by(|a, b| Order::compare(*a, *b));
        assert_eq!(orders, [order(-1.5), order(2.0), order(10.0), None]);
        let id = PolicyId::new(PolicyKind::NetworkPolicy, Some("b"), "a");
        assert_eq!(id.tie_break(), "a/b/NetworkPolicy");
        assert_eq!(id.to_string(), "b/a");
        let id = PolicyId::new(PolicyKind::GlobalNetworkPolicy, None, "a");
        assert_eq!(id.tie_break(), "a//GlobalNetworkPolicy");
    }
}
