//! Objects of any kind.

use std::fmt;
use std::str::FromStr;

use crate::error::invalid;
use crate::{Address, Interface, Invalid, Neighbour, Route, Vrf};

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
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Vrf,
        Self::Interface,
        Self::Address,
        Self::Route,
        Self::Neighbour,
    ];

    /// As objects write it: `Interface`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vrf => "Vrf",
            Self::Interface => "Interface",
            Self::Address => "Address",
            Self::Route => "Route",
            Self::Neighbour => "Neighbour",
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

    /// Exactly as objects write it.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                invalid!("{text:?} is no kind; there are {known}")
            })
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name, unique within the kind.
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
        }
    }
}
