//! Which rules of a compiled list are still in force.

use super::NO_MATCH;

/// A bit per rule; `None` while none has been taken out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live<'a>(pub Option<&'a [u64]>);

impl Live<'_> {
    /// All rules are in force.
    pub const ALL: Self = Self(None);

    #[inline(always)]
    pub fn all(self) -> bool {
        self.0.is_none()
    }

    /// Whether rule `number` is in force.
    #[inline(always)]
    pub fn contains(self, number: u32) -> bool {
        debug_assert!(number != NO_MATCH);
        self.0.is_none_or(|words| {
            let word = words.get(number as usize / 64).copied().unwrap_or(0);
            word >> (number % 64) & 1 != 0
        })
    }
}
