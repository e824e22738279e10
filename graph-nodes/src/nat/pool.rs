//! Addresses and ports that sources become.

use tables::acl::Address;

/// Ports that are tried for one flow on one address before it counts as exhausted. In a range where 95 of 100 are taken by flows to
/// the same endpoint, one flow in 700 finds none.
const TRIES: u32 = 128;
/// Addresses that are tried for one flow where hosts need not keep theirs.
const ADDRESSES: u64 = 4;
/// Ports below this one are the system's (RFC 6335 section 6).
const SYSTEM_PORTS: u16 = 1024;

/// Addresses and ports that sources become.
///
/// A port of a pool may be used by any number of flows, as long as their remote endpoints differ (address and port dependent mapping,
/// RFC 4787 section 4.1): whether one is free is asked of the flow table, so a pool holds no state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool<A> {
    /// Its number, for counters and logs.
    pub number: u16,
    /// Ranges from first to last, sorted and disjoint.
    pub addresses: Box<[(A, A)]>,
    /// First and last port.
    pub ports: (u16, u16),
    /// All flows of a host have one address (RFC 4787 section 4.1, REQ-2). Else another one is tried where the first has no port.
    pub paired: bool,
}

impl<A: Address> Pool<A> {
    /// How many addresses.
    fn count(&self) -> u64 {
        let size = |(first, last): &(A, A)| {
            let size = last.widen().saturating_sub(first.widen());
            u64::try_from(size).unwrap_or(u64::MAX).saturating_add(1)
        };
        self.addresses.iter().map(size).fold(0, u64::saturating_add)
    }

    fn nth(&self, mut index: u64) -> Option<A> {
        for (first, last) in &self.addresses {
            let size = last.widen().saturating_sub(first.widen());
            if u128::from(index) <= size {
                return Some(A::narrow(first.widen() + u128::from(index)));
            }
            index -= (size + 1) as u64;
        }
        None
    }

    /// The addresses for a host's flows, best first. Every worker, and every run, has the same.
    pub fn addresses_for(&self, host: A) -> impl Iterator<Item = A> + '_ {
        let count = self.count();
        let tries = if self.paired { 1 } else { ADDRESSES }.min(count);
        let start = mix(host.widen() as u64 ^ (host.widen() >> 64) as u64);
        let first = start.checked_rem(count).unwrap_or(0);
        (0..tries).filter_map(move |at| self.nth((first + at) % count))
    }

    /// Ports to be tried for a flow, best first: the one that it has (RFC 4787 REQ-3), then those of its parity (REQ-4), chosen by
    /// `seed`, which nobody outside can guess (RFC 6056), then any.
    pub fn ports_for(&self, port: u16, seed: u64) -> impl Iterator<Item = u16> + use<A> {
        let (first, last) = self.ports;
        // A system port becomes one where there are any.
        let (first, last) = match port {
            0..SYSTEM_PORTS => (first, last.min(SYSTEM_PORTS - 1)),
            _ => (first.max(SYSTEM_PORTS), last),
        };
        let (first, last) = if first > last {
            self.ports
        } else {
            (first, last)
        };
        let own = (first..=last).contains(&port).then_some(port);
        let size = u32::from(last) - u32::from(first) + 1;
        let random = move |at: u32| {
            let bits = mix(seed.wrapping_add(at.into())) >> 32;
            ((bits * u64::from(size)) >> 32) as u32
        };
        let others = (0..TRIES.min(size * 2)).map(move |at| {
            let offset = if size <= TRIES {
                // Each of them, in turn.
                (random(0) + at) % size
            } else {
                random(at)
            };
            // The first half has the parity of the port that the host uses, as far as the range goes.
            let candidate = u32::from(first) + offset;
            let even = candidate & !1 | u32::from(port) & 1;
            let same_parity = at < TRIES / 2 && size > TRIES;
            let chosen = if same_parity && (u32::from(first)..=last.into()).contains(&even) {
                even
            } else {
                candidate
            };
            chosen as u16
        });
        own.into_iter().chain(others)
    }
}

/// Spreads bits (the finaliser of SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pool(addresses: &[(u32, u32)], ports: (u16, u16), paired: bool) -> Pool<u32> {
        Pool {
            number: 0,
            addresses: addresses.into(),
            ports,
            paired,
        }
    }

    #[test]
    fn hosts_keep_an_address_and_use_all_of_them() {
        let pool = pool(&[(10, 13), (20, 20), (30, 40)], (1024, 65535), true);
        let chosen = |host: u32| pool.addresses_for(host).collect::<Vec<_>>();
        let mut all = HashSet::new();
        for host in 0..10_000 {
            assert_eq!((chosen(host).len(), chosen(host)), (1, chosen(host)));
            all.extend(chosen(host));
        }
        let wanted: HashSet<u32> = (10..=13).chain([20]).chain(30..=40).collect();
        assert_eq!(all, wanted);
        let every = self::pool(&[(0, u32::MAX)], (1, 2), true);
        assert_eq!(every.addresses_for(7).count(), 1);
        assert_eq!(self::pool(&[], (1, 2), false).addresses_for(7).count(), 0);
    }

    #[test]
    fn other_addresses_are_tried_where_hosts_need_not_keep_theirs() {
        let tried = |addresses: &[(u32, u32)]| {
            let pool = pool(addresses, (1024, 65535), false);
            pool.addresses_for(5).collect::<HashSet<_>>().len()
        };
        assert_eq!(tried(&[(10, 13), (20, 20)]), 4);
        assert_eq!(tried(&[(10, 11)]), 2);
    }

    #[test]
    fn a_port_stays_where_it_can_and_keeps_its_parity() {
        let pool = pool(&[(10, 10)], (1024, 65535), true);
        for (port, seed) in (1024..=65535).step_by(97).zip(0..) {
            let ports: Vec<u16> = pool.ports_for(port, seed).collect();
            assert_eq!(ports[0], port);
            assert!(ports.len() > 100 && ports.iter().all(|port| *port >= 1024));
            let half = &ports[1..TRIES as usize / 2];
            assert!(half.iter().all(|other| other % 2 == port % 2));
            assert!(half.iter().collect::<HashSet<_>>().len() > 50, "{half:?}");
        }
        // Where the range begins above the system's ports, theirs become others.
        assert!(pool.ports_for(53, 1).all(|port| port >= 1024));
        let with_system = self::pool(&[(10, 10)], (1, 65535), true);
        assert_eq!(with_system.ports_for(53, 1).next(), Some(53));
        assert!(
            with_system
                .ports_for(53, 1)
                .all(|port| (1..1024).contains(&port))
        );
        assert!(with_system.ports_for(5300, 1).all(|port| port >= 1024));
    }

    /// In a small range every port is tried.
    #[test]
    fn small_ranges_are_used_up() {
        for ports in [(2000, 2000), (2000, 2001), (2001, 2063), (65_500, 65_535)] {
            let pool = pool(&[(10, 10)], ports, true);
            for (port, seed) in [(1, 3), (2000, 4), (2001, 5), (65_535, 6)] {
                let tried: HashSet<u16> = pool.ports_for(port, seed).collect();
                assert_eq!(tried, (ports.0..=ports.1).collect(), "{ports:?} {port}");
            }
        }
    }
}
