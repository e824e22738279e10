//! Why a change of sets is refused.

use core::fmt;
use std::error::Error;

use super::SetId;
use crate::error::LpmError;

/// Why a delta was refused. A refused delta changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetsError {
    /// Set numbers are below the configured number of sets.
    SetNumber {
        /// The number as given.
        set: SetId,
        /// How many sets are configured.
        limit: u32,
    },
    /// All sets together would have more members than configured.
    Members {
        /// How many members are configured, a member of two sets counted twice.
        limit: usize,
    },
    /// There would be more distinct members than configured.
    Distinct {
        /// How many distinct prefixes (or addresses with protocol and port) are configured.
        limit: u32,
        /// How many of them are removed and only wait for old views to go.
        waiting: u32,
    },
    /// There would be more different combinations of sets than configured.
    Classes {
        /// How many classes are configured.
        limit: u32,
    },
    /// The longest-prefix match refused a prefix.
    Lpm(LpmError),
}

impl fmt::Display for SetsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetNumber { set, limit } => {
                write!(
                    f,
                    "set number {} is beyond the limit of {limit} sets",
                    set.0
                )
            }
            Self::Members { limit } => {
                write!(
                    f,
                    "the sets would have more than {limit} members: raise the limit"
                )
            }
            Self::Distinct { limit, waiting } => write!(
                f,
                "the sets would have more than {limit} distinct members ({waiting} of them are removed and wait \
                 for readers): raise the limit"
            ),
            Self::Classes { limit } => write!(
                f,
                "addresses would be in more than {limit} different combinations of sets: raise the limit"
            ),
            Self::Lpm(error) => error.fmt(f),
        }
    }
}

impl Error for SetsError {}

impl From<LpmError> for SetsError {
    fn from(error: LpmError) -> Self {
        Self::Lpm(error)
    }
}
