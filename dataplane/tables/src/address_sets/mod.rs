//! IP sets: which of many sets contain an address, at a cost that does not depend on their sizes.
//!
//! [`AddressSets`] holds sets of prefixes (IPv4 and IPv6 mixed, nested and overlapping as they come): a set contains
//! an address when one of its members does. [`IpPortSets`] holds sets of (address, protocol, port). Both answer with
//! a *class*: the number of a combination of sets. All addresses of a class are in the same sets, so that a
//! classifier keeps one row per class and looks at no set while packets pass.
//!
//! ```text
//!            longest-prefix match             table of the view          classes of the view
//! address ──► atom: number of the  ──► class: number of a combination ──► sorted set numbers
//!             longest member prefix
//! ```
//!
//! A table has one writer and any number of *views*. A view is immutable: whoever holds it sees exactly the sets as
//! they were when it was made, whatever is changed afterwards. Views share what they have in common, so that a small
//! change makes a small copy. A view that goes into a snapshot makes a change atomic: all of it is seen, or nothing.
//!
//! ```
//! use tables::{HugePages, Prefix4, address_sets::*};
//!
//! let mut writer = AddressSetsWriter::new(AddressSetLimits::default(), HugePages::Transparent)?;
//! let (office, printers) = (SetId(0), SetId(1));
//! let mut delta = Delta::<Member>::default();
//! delta.add(office, "10.0.0.0/8".parse::<Prefix4>()?);
//! delta.add(printers, "10.1.2.3/32".parse::<Prefix4>()?);
//! writer.apply(&delta)?;
//!
//! let before = writer.view();
//! let class = before.class4(u32::from_be_bytes([10, 1, 2, 3]));
//! assert_eq!(before.sets(class), [office, printers]);
//!
//! let mut delta = Delta::<Member>::default();
//! delta.remove(office, "10.0.0.0/8".parse::<Prefix4>()?);
//! assert_eq!(writer.apply(&delta)?.removed, 1);
//! let after = writer.view();
//! assert_eq!(after.sets(after.class4(u32::from_be_bytes([10, 1, 2, 3]))), [printers]);
//! assert_eq!(after.class4(u32::from_be_bytes([10, 9, 9, 9])), ClassId::NONE);
//! assert_eq!(before.sets(before.class4(u32::from_be_bytes([10, 9, 9, 9]))), [office]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Classes
//! Class numbers are given out in order and keep their meaning from view to view, so a consumer that keeps a row
//! per class adds rows for `old.class_count()..new.class_count()` and is done. Combinations that no address has any
//! more keep their number until the table is compacted: then [`AddressSets::class_epoch`] grows and all numbers are
//! new. That happens by itself when more than half of the numbers (and more than 256) are out of use, or when the
//! limit is reached.
//!
//! # How a view stays as it is
//! The longest-prefix match is one structure for all views, changed in place. Its values are atoms, one for each
//! prefix in it; what an atom means is said by the view. Three rules make every view right at every moment, also in
//! the midst of a change:
//! 1. Every member prefix of a living view is in the match: it is inserted before the view is made, and removed
//!    when no living view has it as a member. So a lookup finds an atom whose prefix is at least as long as every
//!    member prefix around the address, and the sets around that prefix are those around the address.
//! 2. A view knows the atoms in the match when it was made, and gives each the union of the sets around its prefix.
//!    An atom that it does not know is younger, hence not one of its members: the sets around that one's prefix are
//!    those around its parent's, the longest prefix around it in the match when it was inserted. The parent is known
//!    to the view, or has a parent of its own.
//! 3. The number of a removed atom is used again when every view is gone that was made before the removal.
//!
//! So a change needs one publication, not one to announce new prefixes and one to use them. Which views live is
//! counted by the views themselves: dropping them is all that their holders have to do.

mod atoms;
mod classes;
mod error;
mod ip_port;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use core::fmt;

use crate::prefix::{Prefix4, Prefix6};

pub use error::SetsError;
pub use ip_port::{IpPort, IpPortSetLimits, IpPortSets, IpPortSetsWriter};
pub use view::AddressSets;
pub use writer::{AddressSetLimits, AddressSetsWriter};

/// The number of a set, given by the caller. Numbers of address sets and of address-and-port sets are
/// independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

/// The number of a combination of sets; what it stands for is asked of the view that gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

impl ClassId {
    /// The class of what is in no set.
    pub const NONE: Self = Self(0);
}

/// A member of an address set. Ordered by family, address, length: a prefix sorts directly in front of its
/// more-specifics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// An IPv4 prefix; a single address has length 32.
    V4(Prefix4),
    /// An IPv6 prefix; a single address has length 128.
    V6(Prefix6),
}

impl From<Prefix4> for Member {
    fn from(prefix: Prefix4) -> Self {
        Self::V4(prefix)
    }
}

impl From<Prefix6> for Member {
    fn from(prefix: Prefix6) -> Self {
        Self::V6(prefix)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

/// Members to add and to remove, in the order of the calls; applied as a whole. `M` is [`Member`] or [`IpPort`].
#[derive(Clone, Debug)]
pub struct Delta<M> {
    operations: Vec<Operation<M>>,
}

#[derive(Clone, Copy, Debug)]
struct Operation<M> {
    set: SetId,
    member: M,
    add: bool,
}

impl<M> Default for Delta<M> {
    fn default() -> Self {
        Self {
            operations: Vec::new(),
        }
    }
}

impl<M> Delta<M> {
    /// Makes `member` one of `set`. One that is there already stays, and is counted as a duplicate.
    pub fn add(&mut self, set: SetId, member: impl Into<M>) {
        let member = member.into();
        self.operations.push(Operation {
            set,
            member,
            add: true,
        });
    }

    /// Takes `member` out of `set`. Exactly this prefix: others that cover it or lie in it stay. One that is
    /// not there is counted as absent.
    pub fn remove(&mut self, set: SetId, member: impl Into<M>) {
        let member = member.into();
        self.operations.push(Operation {
            set,
            member,
            add: false,
        });
    }

    /// Number of additions and removals.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Every set number is below `limit`.
    fn check_sets(&self, limit: u32) -> Result<(), SetsError> {
        let beyond = |operation: &&Operation<M>| operation.set.0 >= limit;
        self.operations
            .iter()
            .find(beyond)
            .map_or(Ok(()), |operation| {
                Err(SetsError::SetNumber {
                    set: operation.set,
                    limit,
                })
            })
    }
}

/// What a delta did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Members that came.
    pub added: usize,
    /// Members that went.
    pub removed: usize,
    /// Additions of what was a member already.
    pub duplicates: usize,
    /// Removals of what was no member: harmless here, and a mistake of whoever asked for it.
    pub absent: usize,
}
