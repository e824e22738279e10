//! Whether IPv6 addresses answer yet, from `/proc/net/if_inet6` and `/proc/net/igmp6`.

use std::collections::HashSet;

/// Flag of an address that is not used yet (`IFA_F_TENTATIVE`).
const TENTATIVE: u32 = 0x40;

/// Whether every address of every device answers neighbour solicitations: it is not tentative, and the device has
/// joined its solicited-node group (RFC 4861 section 7.2.1). The kernel does the latter later, on a thread of its own.
///
/// `addresses` is the text of `if_inet6` (address, index, prefix length, scope, flags, device), `groups` that of
/// `igmp6` (index, device, group, …). Lines of other shape are passed over.
pub(crate) fn all_answer(addresses: &str, groups: &str) -> bool {
    let joined: HashSet<(&str, &str)> = groups
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?, words.next()?))
        })
        .collect();
    addresses.lines().all(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [address, _, _, _, flags, device] = words[..] else {
            return true;
        };
        let Some(low) = address.get(26..) else {
            return true;
        };
        let tentative = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & TENTATIVE != 0);
        let group = format!("ff0200000000000000000001ff{low}");
        device == "lo" || !tentative && joined.contains(&(device, group.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::all_answer;

    const LOOPBACK: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";
    const GROUPS: &str = "2    eth0            ff0200000000000000000001ff000002     1 00000004 0\n\
                          2    eth0            ff020000000000000000000000000001     1 0000000C 0\n";

    #[test]
    fn an_address_answers_when_its_group_is_joined() {
        let own = "20010db8000100000000000000000002 02 40 00 82     eth0\n";
        assert!(all_answer(&format!("{LOOPBACK}{own}"), GROUPS));
        assert!(!all_answer(own, ""));
        assert!(
            !all_answer(&own.replace("eth0", "eth1"), GROUPS),
            "joined on another device"
        );
        assert!(
            !all_answer(&own.replace(" 82 ", " c2 "), GROUPS),
            "tentative"
        );
        assert!(!all_answer(&own.replace("0002 02", "0003 02"), GROUPS));
    }

    #[test]
    fn nothing_to_wait_for() {
        assert!(all_answer("", ""));
        assert!(all_answer(LOOPBACK, ""));
        assert!(all_answer("garbage\na b c d e f", "garbage"));
    }
}
