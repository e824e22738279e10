//! Shadow routing table of a writer: what is installed, which prefix covers which.

use std::{
    collections::BTreeMap,
    ops::{
        Bound::{Excluded, Included},
        RangeInclusive,
    },
};

use crate::error::LpmError;

/// An address as an integer in host order.
pub(crate) trait Address: Copy + Ord {
    const WIDTH: u8;
    fn mask(len: u8) -> Self;
    fn masked(self, len: u8) -> Self;
    fn last(self, len: u8) -> Self;
    fn common_len(self, other: Self) -> u8;
    fn successor(self) -> Self;
    fn predecessor(self) -> Self;
}

macro_rules! address {
    ($int:ty) => {
        impl Address for $int {
            const WIDTH: u8 = <$int>::BITS as u8;

            fn mask(len: u8) -> Self {
                if len == 0 {
                    0
                } else {
                    <$int>::MAX << (Self::WIDTH - len)
                }
            }
            fn masked(self, len: u8) -> Self {
                self & Self::mask(len)
            }
            fn last(self, len: u8) -> Self {
                self | !Self::mask(len)
            }
            fn common_len(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
            fn successor(self) -> Self {
                self + 1
            }
            fn predecessor(self) -> Self {
                self - 1
            }
        }
    };
}

address!(u32);
address!(u128);

/// Prefixes ordered by address, then length: a prefix is directly followed by its more-specifics.
#[derive(Debug, Default)]
pub(crate) struct Rib<A> {
    routes: BTreeMap<(A, u8), u32>,
}

impl<A: Address> Rib<A> {
    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    pub(crate) fn exact(&self, prefix: A, len: u8) -> Option<u32> {
        self.routes.get(&(prefix, len)).copied()
    }

    pub(crate) fn insert(&mut self, prefix: A, len: u8, value: u32) -> Option<u32> {
        self.routes.insert((prefix, len), value)
    }

    pub(crate) fn remove(&mut self, prefix: A, len: u8) -> Option<u32> {
        self.routes.remove(&(prefix, len))
    }

    /// Prefix, length and value of every route, ordered by prefix, then length.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (A, u8, u32)> + '_ {
        self.routes
            .iter()
            .map(|(&(prefix, len), &value)| (prefix, len, value))
    }

    /// Value of the longest prefix of at most `max_len` bits that contains `addr`; 0 if there is none.
    ///
    /// Each step looks at the greatest prefix not behind the candidate. If that one does not contain
    /// `addr`, whatever does contain `addr` contains it too, so only their common bits remain possible.
    pub(crate) fn longest(&self, addr: A, max_len: u8) -> u32 {
        let mut candidate = (addr.masked(max_len), max_len);
        loop {
            let Some((&(prefix, len), &value)) = self.routes.range(..=candidate).next_back() else {
                return 0;
            };
            let common = prefix.common_len(addr);
            if common >= len {
                return value;
            }
            candidate = (addr.masked(common), common);
        }
    }

    /// Value that holds inside `prefix/len` where neither it nor a more-specific prefix speaks.
    pub(crate) fn covering(&self, prefix: A, len: u8) -> u32 {
        if len == 0 {
            0
        } else {
            self.longest(prefix, len - 1)
        }
    }

    /// Prefix, length and value of every route behind `after` up to the address `end`, in order. Inside
    /// `prefix/len`: from `(prefix, len)` to its last address.
    pub(crate) fn between(
        &self,
        after: (A, u8),
        end: A,
    ) -> impl Iterator<Item = (A, u8, u32)> + '_ {
        self.routes
            .range((Excluded(after), Included((end, A::WIDTH))))
            .map(|(&(prefix, len), &value)| (prefix, len, value))
    }

    /// Gives `paint` every maximal address range inside `prefix/len` that no more-specific prefix covers.
    pub(crate) fn gaps(&self, prefix: A, len: u8, mut paint: impl FnMut(RangeInclusive<A>)) {
        let end = prefix.last(len);
        let mut next = prefix;
        for &(inner, inner_len) in self
            .routes
            .range((Excluded((prefix, len)), Included((end, A::WIDTH))))
            .map(|(key, _)| key)
        {
            if inner < next {
                continue; // inside a more-specific that was already skipped
            }
            if inner > next {
                paint(next..=inner.predecessor());
            }
            let inner_last = inner.last(inner_len);
            if inner_last == end {
                return;
            }
            next = inner_last.successor();
        }
        paint(next..=end);
    }
}

/// Checks what every writer checks before it changes anything.
pub(crate) fn check_prefix<A: Address>(prefix: A, len: u8) -> Result<(), LpmError> {
    if len > A::WIDTH || prefix.masked(len) != prefix {
        return Err(LpmError::InvalidPrefix {
            len,
            bits: A::WIDTH,
        });
    }
    Ok(())
}

/// Values are 1 to [`VALUE_LIMIT`](crate::VALUE_LIMIT) - 1.
pub(crate) fn check_value(value: u32) -> Result<(), LpmError> {
    if value == 0 || value >= crate::VALUE_LIMIT {
        return Err(LpmError::InvalidValue(value));
    }
    Ok(())
}
