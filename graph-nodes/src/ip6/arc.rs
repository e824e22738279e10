//! The arc `ip6-unicast`: which nodes may stand between `ip6-input` and `ip6-lookup`, in their order; as `ip4::arc`.

/// Number of `ip6-policy`. Packets for groups and link-local addresses, which otherwise leave `ip6-input` for `ip6-local`, take it
/// too.
pub const POLICY: u8 = 0;

/// Number of features, and so the index of the arc's end, `ip6-lookup`.
pub const END: u8 = 1;

#[cfg(test)]
mod tests {
    use dataplane::NextNode;

    use super::*;
    use crate::ip6::input;
    use crate::policy::ip6_policy;

    #[test]
    fn edges_are_in_the_order_of_the_arc() {
        let order = ["ip6-policy", "ip6-lookup"];
        assert_eq!(order.len(), usize::from(END) + 1);
        assert_eq!(input::Next::NAMES[..order.len()], order);
        let behind = &order[usize::from(POLICY) + 1..];
        assert_eq!(ip6_policy::Next::NAMES[..behind.len()], *behind);
    }
}
