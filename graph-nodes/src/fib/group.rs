//! Next-hop groups: one word each.

/// What to do with packets of a route.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteAction {
    /// There is no route.
    NoRoute = 0,
    /// Out by one adjacency: the payload is its number.
    Forward = 1,
    /// Out by one of several adjacencies: the payload is the first bucket.
    Multipath = 2,
    /// The destination is on a connected link and no neighbour is known: the payload is the interface.
    Glean = 3,
    /// For this node.
    Local = 4,
    /// Drop silently.
    Blackhole = 5,
    /// Drop and say that the destination cannot be reached.
    Unreachable = 6,
    /// Drop and say that this is not allowed.
    Prohibit = 7,
}

/// A next-hop group: action in the top 8 bits, logarithm of the buckets in the next 8, payload in the low 32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group(u64);

impl Group {
    /// No route.
    pub const NO_ROUTE: Self = Self(0);

    /// A group with one action.
    pub const fn new(action: RouteAction, payload: u32) -> Self {
        Self((action as u64) << 56 | payload as u64)
    }

    /// A group of `1 << log2_buckets` buckets from `first` on.
    pub const fn multipath(first: u32, log2_buckets: u8) -> Self {
        Self((RouteAction::Multipath as u64) << 56 | (log2_buckets as u64) << 48 | first as u64)
    }

    /// From a word of the group array.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word of the group array.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What to do.
    #[inline(always)]
    pub const fn action(self) -> RouteAction {
        match (self.0 >> 56) as u8 {
            1 => RouteAction::Forward,
            2 => RouteAction::Multipath,
            3 => RouteAction::Glean,
            4 => RouteAction::Local,
            5 => RouteAction::Blackhole,
            6 => RouteAction::Unreachable,
            7 => RouteAction::Prohibit,
            _ => RouteAction::NoRoute,
        }
    }

    /// Adjacency, interface or first bucket.
    #[inline(always)]
    pub const fn payload(self) -> u32 {
        self.0 as u32
    }

    /// Buckets less one.
    #[inline(always)]
    pub const fn bucket_mask(self) -> u32 {
        (1 << ((self.0 >> 48) & 0x1f)) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_hold_what_was_put_in() {
        let actions = [
            RouteAction::NoRoute,
            RouteAction::Forward,
            RouteAction::Multipath,
            RouteAction::Glean,
            RouteAction::Local,
            RouteAction::Blackhole,
            RouteAction::Unreachable,
            RouteAction::Prohibit,
        ];
        for action in actions {
            let group = Group::from_bits(Group::new(action, 0xdead_beef).bits());
            assert_eq!((group.action(), group.payload()), (action, 0xdead_beef));
        }
        let group = Group::multipath(7, 4);
        assert_eq!(
            (group.action(), group.payload(), group.bucket_mask()),
            (RouteAction::Multipath, 7, 15)
        );
        assert_eq!(Group::from_bits(u64::MAX).action(), RouteAction::NoRoute);
    }
}
