//! Sets of integers as sorted lists of disjoint ranges, first and last included.

/// An integer with neighbours.
pub trait Point: Copy + Ord {
    /// Smallest value.
    const FIRST: Self;
    /// Largest value.
    const LAST: Self;

    /// The next larger value.
    fn after(self) -> Option<Self>;
    /// The next smaller value.
    fn before(self) -> Option<Self>;
}

macro_rules! point {
    ($($int:ty),*) => {$(
        impl Point for $int {
            const FIRST: Self = <$int>::MIN;
            const LAST: Self = <$int>::MAX;

            #[inline(always)]
            fn after(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline(always)]
            fn before(self) -> Option<Self> {
                self.checked_sub(1)
            }
        }
    )*};
}

point!(u8, u16, u32, u128);

/// From first to last.
pub(super) type Span<T> = (T, T);

/// The union of any ranges: sorted, disjoint, not even adjacent.
pub(super) fn union<T: Point>(mut spans: Vec<Span<T>>) -> Vec<Span<T>> {
    spans.sort_unstable();
    let mut merged: Vec<Span<T>> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match merged.last_mut() {
            Some(open) if open.1.after().is_none_or(|next| first <= next) => {
                open.1 = open.1.max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// What is in `from` and not in `holes`; both as [`union`] gives them.
pub(super) fn subtract<T: Point>(from: &[Span<T>], holes: &[Span<T>]) -> Vec<Span<T>> {
    let mut left = Vec::new();
    let mut holes = holes.iter().copied().peekable();
    'spans: for &(mut first, last) in from {
        while let Some(&(hole_first, hole_last)) = holes.peek() {
            if hole_last < first {
                holes.next();
                continue;
            }
            if last < hole_first {
                break;
            }
            if let Some(end) = hole_first.before().filter(|&end| first <= end) {
                left.push((first, end));
            }
            match hole_last.after() {
                Some(next) if next <= last => first = next,
                _ => continue 'spans,
            }
        }
        left.push((first, last));
    }
    left
}

/// Whether `value` is in one of `spans`, sorted and disjoint.
pub(super) fn contains<T: Point>(spans: &[Span<T>], value: T) -> bool {
    let behind = spans.partition_point(|span| span.0 <= value);
    behind != 0 && value <= spans[behind - 1].1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans() -> impl Strategy<Value = Vec<Span<u8>>> {
        let span = (any::<u8>(), any::<u8>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        let short = (any::<u8>(), 0u8..4).prop_map(|(a, n)| (a, a.saturating_add(n)));
        prop::collection::vec(prop_oneof![1 => span, 3 => short], 0..8)
    }

    proptest! {
        #[test]
        fn set_operations(a in spans(), b in spans()) {
            let (merged, holes) = (union(a.clone()), union(b.clone()));
            prop_assert!(merged.windows(2).all(|w| u16::from(w[0].1) + 1 < u16::from(w[1].0)));
            let left = subtract(&merged, &holes);
            for value in 0..=u8::MAX {
                let inside = |list: &[Span<u8>]| list.iter().any(|s| s.0 <= value && value <= s.1);
                prop_assert_eq!(contains(&merged, value), inside(&a));
                prop_assert_eq!(contains(&left, value), inside(&a) && !inside(&b));
            }
        }
    }
}
