//! Feature arcs: which nodes stand between two fixed points of the graph, decided per interface.
//!
//! An arc is a fixed order of feature nodes in front of a fixed end (`ip4-input … ip4-lookup`). An interface has a set of
//! features per arc, compiled into its record in the snapshot. The node in front of the arc and every feature node on it have
//! the arc's edges in the arc's order, the end last; a packet goes on to the first enabled feature behind the current
//! position, so that a feature that is off costs nothing.

/// The features that one interface has on one arc: bit `i` is the arc's feature number `i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features(pub u8);

/// No feature: straight to the arc's end.
pub const NO_FEATURES: Features = Features(0);

impl Features {
    /// With feature number `index` enabled; `index` is below 8.
    #[must_use]
    pub const fn with(self, index: u8) -> Self {
        Self(self.0 | 1 << index)
    }

    /// With feature number `index` disabled; `index` is below 8.
    #[must_use]
    pub const fn without(self, index: u8) -> Self {
        Self(self.0 & !(1 << index))
    }

    /// True where feature number `index` is enabled; `index` is below 8.
    #[inline(always)]
    pub const fn has(self, index: u8) -> bool {
        self.0 >> index & 1 != 0
    }

    /// True where no feature is enabled.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Index, in the arc's order, of the first enabled feature from number `from` on; `end` where there is none. `end` is the
    /// number of features of the arc, so it is also the index of the arc's end.
    #[inline(always)]
    pub const fn next(self, from: u8, end: u8) -> u8 {
        let rest = (self.0 as u32) >> from;
        if rest == 0 {
            end
        } else {
            from + rest.trailing_zeros() as u8
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_visit_enabled_features_in_order() {
        let features = NO_FEATURES.with(1).with(3);
        let mut visited = Vec::new();
        let mut at = features.next(0, 4);
        while at < 4 {
            visited.push(at);
            at = features.next(at + 1, 4);
        }
        assert_eq!((visited, at), (vec![1, 3], 4));
        assert_eq!(NO_FEATURES.next(0, 4), 4);
        assert!(features.has(3) && !features.has(2));
        assert_eq!(features.without(3).without(2), NO_FEATURES.with(1));
    }
}
