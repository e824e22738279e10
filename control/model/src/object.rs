//! Objects of any kind.

use std::fmt;
use std::str::FromStr;

use crate::error::invalid;
use crate::policy::{self, ResourceId, ResourceKind};
use crate::{
    Address, Interface, Invalid, NatPool, NatRule, Neighbour, PortForward, Route, StaticNat, Vrf,
};

/// The kinds of objects, in the order in which they depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A routing domain.
    Vrf,
    /// A place where packets enter and leave.
    Interface,
    /// An address of ours on an interface.
    Address,
    /// Where packets to a destination go.
    Route,
    /// A static neighbour.
    Neighbour,
    /// What sources are translated to.
    NatPool,
    /// Which sources are translated.
    NatRule,
    /// What is sent to us goes to a host inside.
    PortForward,
    /// One-to-one translation.
    StaticNat,
    /// Something that policy is made of.
    Policy(ResourceKind),
}

impl Kind {
    /// Those that are not [`Kind::Policy`].
    pub const PLAIN: [Self; 9] = [
        Self::Vrf,
        Self::Interface,
        Self::Address,
        Self::Route,
        Self::Neighbour,
        Self::NatPool,
        Self::NatRule,
        Self::PortForward,
        Self::StaticNat,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let policy = ResourceKind::ALL.into_iter().map(|(kind, ..)| kind);
        Self::PLAIN.into_iter().chain(policy.map(Self::Policy))
    }

    /// As keys write it: `Interface`. No two kinds have the same: Kubernetes' policies have theirs in front.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vrf => "Vrf",
            Self::Interface => "Interface",
            Self::Address => "Address",
            Self::Route => "Route",
            Self::Neighbour => "Neighbour",
            Self::NatPool => "NatPool",
            Self::NatRule => "NatRule",
            Self::PortForward => "PortForward",
            Self::StaticNat => "StaticNat",
            Self::Policy(kind) => kind.unique(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Invalid;

    /// Exactly as keys write it.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::all()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                let known: Vec<_> = Self::all().map(Self::as_str).collect();
                invalid!("{text:?} is no kind; there are {}", known.join(", "))
            })
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name, unique within the kind; `namespace/name` where the kind has namespaces.
    pub name: String,
}

impl ObjectKey {
    /// Names an object.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }

    /// What the policy state calls the object; `None` for other kinds.
    pub fn resource(&self) -> Option<ResourceId> {
        let Kind::Policy(kind) = self.kind else {
            return None;
        };
        let (namespace, name) = match self.name.split_once('/') {
            Some((namespace, name)) => (Some(namespace.into()), name),
            None => (None, self.name.as_str()),
        };
        Some(ResourceId {
            kind,
            namespace,
            name: name.into(),
        })
    }
}

impl From<&ResourceId> for ObjectKey {
    fn from(id: &ResourceId) -> Self {
        let name = match &id.namespace {
            Some(namespace) => format!("{namespace}/{}", id.name),
            None => id.name.to_string(),
        };
        Self::new(Kind::Policy(id.kind), name)
    }
}

/// `Kind/name`.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectSpec {
    /// Of kind [`Kind::Vrf`].
    Vrf(Vrf),
    /// Of kind [`Kind::Interface`].
    Interface(Interface),
    /// Of kind [`Kind::Address`].
    Address(Address),
    /// Of kind [`Kind::Route`].
    Route(Route),
    /// Of kind [`Kind::Neighbour`].
    Neighbour(Neighbour),
    /// Of kind [`Kind::NatPool`].
    NatPool(NatPool),
    /// Of kind [`Kind::NatRule`].
    NatRule(NatRule),
    /// Of kind [`Kind::PortForward`].
    PortForward(PortForward),
    /// Of kind [`Kind::StaticNat`].
    StaticNat(StaticNat),
    /// Of kind [`Kind::Policy`], with its own name.
    Policy(Box<policy::Object>),
}

impl ObjectSpec {
    /// The kind that it belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Vrf(_) => Kind::Vrf,
            Self::Interface(_) => Kind::Interface,
            Self::Address(_) => Kind::Address,
            Self::Route(_) => Kind::Route,
            Self::Neighbour(_) => Kind::Neighbour,
            Self::NatPool(_) => Kind::NatPool,
            Self::NatRule(_) => Kind::NatRule,
            Self::PortForward(_) => Kind::PortForward,
            Self::StaticNat(_) => Kind::StaticNat,
            Self::Policy(object) => Kind::Policy(object.id.kind),
        }
    }
}
