//! What can go wrong when a route is written.

use std::{error::Error, fmt};

/// Why a longest-prefix-match writer refused a change. A refused change leaves the table as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LpmError {
    /// The length exceeds the address width, or address bits behind the length are set.
    InvalidPrefix {
        /// Prefix length as given.
        len: u8,
        /// Address width in bits: 32 or 128.
        bits: u8,
    },
    /// Values are 1 to 2^31 - 1: 0 means "no route" and the top bit is the table's own.
    InvalidValue(u32),
    /// Every group for prefixes longer than /24 is in use or awaits [`reclaim`](crate::Lpm4Writer::reclaim).
    Full {
        /// Groups the table was created with.
        capacity_groups: u32,
        /// How many of them only wait for readers to move on.
        quarantined: u32,
    },
    /// The system refused memory for a larger table.
    OutOfMemory,
}

impl fmt::Display for LpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidPrefix { len, bits } if len > bits => {
                write!(
                    f,
                    "prefix length /{len} exceeds the address width of {bits} bits"
                )
            }
            Self::InvalidPrefix { len, .. } => {
                write!(
                    f,
                    "address bits behind the prefix length /{len} are set: clear them"
                )
            }
            Self::InvalidValue(value) => {
                write!(f, "route value {value} is outside 1..=2147483647")
            }
            Self::Full {
                capacity_groups,
                quarantined,
            } => write!(
                f,
                "no group left for a prefix longer than /24: {capacity_groups} configured, \
                 {quarantined} of them waiting for readers; create the table with more groups"
            ),
            Self::OutOfMemory => {
                write!(
                    f,
                    "the system refused memory for a larger route table; the change was not made"
                )
            }
        }
    }
}

impl Error for LpmError {}
