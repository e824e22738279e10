//! The arc `ip4-unicast`: which nodes may stand between `ip4-input` and `ip4-lookup`, in their order.
//!
//! A feature's number is its bit in [`Interface::ip4_unicast`](crate::Interface) and the index of its edge in `ip4-input`, whose
//! edges begin with the arc. A feature node's own edges begin with what stands behind it on the arc, so the arc's feature
//! number `i` is its edge `i - 1 - own number`.

use dataplane::{Features, Verdict};

/// Number of `ip4-rpf-check`.
pub const RPF_CHECK: u8 = 0;

/// Number of `ip4-policy`. Packets for groups and broadcasts, which otherwise leave `ip4-input` for `ip4-local`, take it too.
pub const POLICY: u8 = 1;

/// Number of features, and so the index of the arc's end, `ip4-lookup`.
pub const END: u8 = 2;

/// The verdict of the feature with this number about a packet that it lets through: on to the next enabled feature, or to the
/// arc's end.
#[inline(always)]
pub fn next_after(feature: u8, features: Features) -> Verdict {
    let behind = feature + 1;
    Verdict::edge(features.next(behind, END) - behind)
}

#[cfg(test)]
mod tests {
    use dataplane::NextNode;

    use super::*;
    use crate::ip4::{input, rpf_check};
    use crate::policy::ip4_policy;

    #[test]
    fn edges_are_in_the_order_of_the_arc() {
        let order = ["ip4-rpf-check", "ip4-policy", "ip4-lookup"];
        assert_eq!(order.len(), usize::from(END) + 1);
        assert_eq!(input::Next::NAMES[..order.len()], order);
        let behind = &order[usize::from(RPF_CHECK) + 1..];
        assert_eq!(rpf_check::Next::NAMES[..behind.len()], *behind);
        let behind = &order[usize::from(POLICY) + 1..];
        assert_eq!(ip4_policy::Next::NAMES[..behind.len()], *behind);
        let all = Features(0xff);
        assert_eq!(
            next_after(RPF_CHECK, Features(0)),
            rpf_check::Next::Lookup.into()
        );
        assert_eq!(next_after(RPF_CHECK, all), rpf_check::Next::Policy.into());
        assert_eq!(next_after(POLICY, all), ip4_policy::Next::Lookup.into());
    }
}
