//! Deterministic NAT: who has which ports is arithmetic, both ways.
//!
//! RFC 7422: "sequential" allocation of section 2. Inside addresses, in the order of their numbers, take the
//! port ranges of the first outside address from the lowest port up, then those of the second, and so on.
//! No state, no log: the configuration answers "who had this address and port at that time".

use std::{error::Error, fmt};

use crate::Prefix4;

/// What a [`DetNat`] is computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetNatConfig {
    /// The hosts: every address of the prefix is one.
    pub inside: Prefix4,
    /// Addresses that the hosts share, in the order in which they fill. They may equal inside addresses, which is
    /// sensible only in another VRF.
    pub outside: Vec<AddressRange>,
    /// First port given to hosts; 1024 leaves the well-known ones out.
    pub first_port: u16,
    /// Last port given to hosts.
    pub last_port: u16,
    /// How many ports a host gets.
    pub share: Share,
}

/// Addresses in a row, both ends included, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// First address.
    pub first: u32,
    /// Last address.
    pub last: u32,
}

/// How the ports of an outside address are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// So many ports for each host. What remains of an address's ports stays unused.
    PortsPerHost(u16),
    /// So many hosts for each outside address: the compression ratio of RFC 7422.
    HostsPerAddress(u16),
}

/// Where a host appears outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetBinding {
    /// Outside address, host order.
    pub address: u32,
    /// First port of the host.
    pub first_port: u16,
    /// Last port of the host.
    pub last_port: u16,
}

/// Why a [`DetNatConfig`] cannot be. [`field`](Self::field) says where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DetNatError {
    /// No outside address.
    NoOutside,
    /// A range that ends before it begins.
    EmptyRange {
        /// Position in [`DetNatConfig::outside`].
        range: usize,
    },
    /// Two ranges have addresses in common.
    Overlap {
        /// Position of the one.
        first: usize,
        /// Position of the other, which is later in the list.
        second: usize,
    },
    /// The last port is below the first.
    NoPorts {
        /// As configured.
        first: u16,
        /// As configured.
        last: u16,
    },
    /// Port 0, which no host can use.
    PortZero,
    /// A share of 0.
    ZeroShare {
        /// As configured.
        share: Share,
    },
    /// An outside address has fewer ports than one host, or than hosts.
    TooFewPorts {
        /// As configured.
        share: Share,
        /// Ports from the first to the last.
        ports: u32,
    },
    /// More hosts than the outside addresses have room for.
    TooManyHosts {
        /// Inside addresses.
        hosts: u64,
        /// Hosts that there is room for.
        room: u64,
    },
}

/// Deterministic NAT44 (RFC 7422): inside address to outside address and ports, and back.
///
/// Either way takes two divisions and a binary search among the outside ranges.
///
/// ```
/// use tables::{AddressRange, DetNat, DetNatConfig, Prefix4, Share};
///
/// let nat = DetNat::new(&DetNatConfig {
///     inside: Prefix4::new(0x6440_0000, 24)?, // 100.64.0.0/24
///     outside: vec![AddressRange { first: 0xc000_0201, last: 0xc000_0204 }],
///     first_port: 1024,
///     last_port: 65535,
///     share: Share::HostsPerAddress(64),
/// })?;
/// let host = 0x6440_0041; // the second host of the second address
/// let binding = nat.outside_of(host).ok_or("inside")?;
/// assert_eq!((binding.address, binding.first_port, binding.last_port), (0xc000_0202, 2032, 3039));
/// assert_eq!(nat.inside_of(0xc000_0202, 2500), Some(host));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetNat {
    inside: Prefix4,
    /// As configured, with the number of addresses before each.
    by_number: Vec<(u64, AddressRange)>,
    /// The same, in the order of the addresses.
    by_address: Vec<(u64, AddressRange)>,
    first_port: u16,
    ports_per_host: u16,
    hosts_per_address: u32,
}

impl DetNat {
    /// Checks the configuration.
    ///
    /// # Errors
    /// See [`DetNatError`].
    pub fn new(config: &DetNatConfig) -> Result<Self, DetNatError> {
        let (first, last) = (config.first_port, config.last_port);
        if first == 0 {
            return Err(DetNatError::PortZero);
        }
        if last < first {
            return Err(DetNatError::NoPorts { first, last });
        }
        let ports = u32::from(last - first) + 1;
        let share = config.share;
        let (Share::PortsPerHost(divisor) | Share::HostsPerAddress(divisor)) = share;
        let quotient = ports
            .checked_div(divisor.into())
            .ok_or(DetNatError::ZeroShare { share })?;
        if quotient == 0 {
            return Err(DetNatError::TooFewPorts { share, ports });
        }
        // Port 0 is out, so neither exceeds 65535.
        let (ports_per_host, hosts_per_address) = match share {
            Share::PortsPerHost(_) => (divisor, quotient),
            Share::HostsPerAddress(_) => (quotient as u16, u32::from(divisor)),
        };
        let (by_number, addresses) = number(&config.outside)?;
        let mut by_address = by_number.clone();
        by_address.sort_by_key(|(_, range)| range.first);
        let hosts = u64::from(config.inside.last() - config.inside.addr()) + 1;
        let room = addresses * u64::from(hosts_per_address);
        if hosts > room {
            return Err(DetNatError::TooManyHosts { hosts, room });
        }
        Ok(Self {
            inside: config.inside,
            by_number,
            by_address,
            first_port: first,
            ports_per_host,
            hosts_per_address,
        })
    }

    /// Outside address and ports of an inside address; `None` if it is not one.
    #[inline]
    pub fn outside_of(&self, inside: u32) -> Option<DetBinding> {
        if !self.inside.contains(inside) {
            return None;
        }
        let host = inside - self.inside.addr();
        let number = u64::from(host / self.hosts_per_address);
        let place = host % self.hosts_per_address;
        let behind = self
            .by_number
            .partition_point(|(before, _)| *before <= number);
        let (before, range) = self.by_number[behind - 1];
        // The last host's range ends at the configured last port or below.
        let first_port = self.first_port + place as u16 * self.ports_per_host;
        Some(DetBinding {
            address: range.first + (number - before) as u32,
            first_port,
            last_port: first_port + (self.ports_per_host - 1),
        })
    }

    /// The inside address that has this outside address and port; `None` where nobody has.
    #[inline]
    pub fn inside_of(&self, address: u32, port: u16) -> Option<u32> {
        let behind = self
            .by_address
            .partition_point(|(_, range)| range.first <= address);
        let (before, range) = *self.by_address.get(behind.checked_sub(1)?)?;
        let place = u32::from(port.checked_sub(self.first_port)? / self.ports_per_host);
        if address > range.last || place >= self.hosts_per_address {
            return None;
        }
        let number = before + u64::from(address - range.first);
        let host = number * u64::from(self.hosts_per_address) + u64::from(place);
        let inside = u32::try_from(u64::from(self.inside.addr()) + host).ok()?;
        self.inside.contains(inside).then_some(inside)
    }

    /// Whether the address is one of the outside ones.
    pub fn is_outside(&self, address: u32) -> bool {
        let mut ranges = self.by_number.iter();
        ranges.any(|(_, range)| (range.first..=range.last).contains(&address))
    }

    /// Ports of each host.
    pub fn ports_per_host(&self) -> u16 {
        self.ports_per_host
    }

    /// Hosts that share an outside address.
    pub fn hosts_per_address(&self) -> u32 {
        self.hosts_per_address
    }
}

/// Each range with the number of addresses before it, and the number of all.
fn number(ranges: &[AddressRange]) -> Result<(Vec<(u64, AddressRange)>, u64), DetNatError> {
    if ranges.is_empty() {
        return Err(DetNatError::NoOutside);
    }
    let mut numbered = Vec::with_capacity(ranges.len());
    let mut sorted = Vec::with_capacity(ranges.len());
    let mut addresses = 0;
    for (at, range) in ranges.iter().enumerate() {
        if range.last < range.first {
            return Err(DetNatError::EmptyRange { range: at });
        }
        numbered.push((addresses, *range));
        sorted.push((range.first, range.last, at));
        addresses += u64::from(range.last - range.first) + 1;
    }
    sorted.sort_unstable();
    for two in sorted.windows(2) {
        let [(_, end, a), (start, _, b)] = [two[0], two[1]];
        if start <= end {
            let (first, second) = (a.min(b), a.max(b));
            return Err(DetNatError::Overlap { first, second });
        }
    }
    Ok((numbered, addresses))
}

impl DetNatError {
    /// The field of [`DetNatConfig`] that has to change.
    pub fn field(&self) -> String {
        match self {
            Self::NoOutside => "outside".into(),
            Self::EmptyRange { range } => format!("outside[{range}]"),
            Self::Overlap { second, .. } => format!("outside[{second}]"),
            Self::NoPorts { .. } => "last_port".into(),
            Self::PortZero => "first_port".into(),
            Self::ZeroShare { .. } | Self::TooFewPorts { .. } => "share".into(),
            Self::TooManyHosts { .. } => "inside".into(),
        }
    }
}

impl fmt::Display for DetNatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoOutside => write!(f, "no outside address"),
            Self::EmptyRange { .. } => write!(f, "the address range ends before it begins"),
            Self::Overlap { first, .. } => {
                write!(f, "the address range overlaps number {first} of the list")
            }
            Self::NoPorts { first, last } => {
                write!(f, "the last port, {last}, is below the first, {first}")
            }
            Self::PortZero => write!(f, "port 0 cannot be used: begin at 1 or higher"),
            Self::ZeroShare { share } => match share {
                Share::PortsPerHost(_) => write!(f, "a host needs at least one port"),
                Share::HostsPerAddress(_) => write!(f, "an address needs at least one host"),
            },
            Self::TooFewPorts { share, ports } => match share {
                Share::PortsPerHost(wanted) => write!(
                    f,
                    "{wanted} ports for each host, but an address has only {ports}"
                ),
                Share::HostsPerAddress(hosts) => write!(
                    f,
                    "{hosts} hosts for each address, which has only {ports} ports"
                ),
            },
            Self::TooManyHosts { hosts, room } => write!(
                f,
                "{hosts} inside addresses, but the outside addresses have room for {room} hosts: \
                 add outside addresses, or give each host fewer ports"
            ),
        }
    }
}

impl Error for DetNatError {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn range(first: u32, last: u32) -> AddressRange {
        AddressRange { first, last }
    }

    fn config() -> DetNatConfig {
        DetNatConfig {
            inside: Prefix4::new(0x0a00_0000, 24).unwrap(),
            outside: vec![range(100, 103), range(50, 53)],
            first_port: 1024,
            last_port: 65535,
            share: Share::PortsPerHost(1008),
        }
    }

    #[test]
    fn refusals_name_the_field() {
        type Change = fn(&mut DetNatConfig);
        let cases: [(Change, &str, &str); 13] = [
            (|c| c.outside.clear(), "outside", "no outside address"),
            (
                |c| c.outside[1] = range(9, 8),
                "outside[1]",
                "the address range ends before it begins",
            ),
            (
                |c| c.outside.push(range(0, 50)),
                "outside[2]",
                "the address range overlaps number 1 of the list",
            ),
            (
                |c| c.outside.push(range(0, u32::MAX)),
                "outside[2]",
                "the address range overlaps number 1 of the list",
            ),
            (
                |c| c.outside[1] = range(100, 103),
                "outside[1]",
                "the address range overlaps number 0 of the list",
            ),
            (
                |c| c.last_port = 1023,
                "last_port",
                "the last port, 1023, is below the first, 1024",
            ),
            (
                |c| c.first_port = 0,
                "first_port",
                "port 0 cannot be used: begin at 1 or higher",
            ),
            (
                |c| c.share = Share::PortsPerHost(0),
                "share",
                "a host needs at least one port",
            ),
            (
                |c| c.share = Share::HostsPerAddress(0),
                "share",
                "an address needs at least one host",
            ),
            (
                |c| c.share = Share::PortsPerHost(64513),
                "share",
                "64513 ports for each host, but an address has only 64512",
            ),
            (
                |c| c.share = Share::HostsPerAddress(64513),
                "share",
                "64513 hosts for each address, which has only 64512 ports",
            ),
            (
                |c| c.share = Share::HostsPerAddress(31),
                "inside",
                "256 inside addresses, but the outside addresses have room for 248 hosts: \
                 add outside addresses, or give each host fewer ports",
            ),
            (
                |c| c.inside = Prefix4::DEFAULT,
                "inside",
                "4294967296 inside addresses, but the outside addresses have room for 512 hosts: \
                 add outside addresses, or give each host fewer ports",
            ),
        ];
        for (change, field, text) in cases {
            let mut config = config();
            change(&mut config);
            let error = DetNat::new(&config).unwrap_err();
            assert_eq!(
                (error.field().as_str(), error.to_string().as_str()),
                (field, text)
            );
        }
        assert!(DetNat::new(&config()).is_ok());
    }

    /// Ranges fill in the order of the list; what is no host's is nobody's.
    #[test]
    fn edges() {
        let nat = DetNat::new(&config()).unwrap();
        assert_eq!((nat.ports_per_host(), nat.hosts_per_address()), (1008, 64));
        let binding = |address, first_port, last_port| DetBinding {
            address,
            first_port,
            last_port,
        };
        let cases = [
            (0x0a00_0000, binding(100, 1024, 2031)),
            (0x0a00_003f, binding(100, 64528, 65535)),
            (0x0a00_0040, binding(101, 1024, 2031)),
            (0x0a00_00ff, binding(103, 64528, 65535)),
        ];
        for (inside, outside) in cases {
            assert_eq!(nat.outside_of(inside), Some(outside));
            for port in [outside.first_port, outside.last_port] {
                assert_eq!(nat.inside_of(outside.address, port), Some(inside));
            }
        }
        assert_eq!(nat.outside_of(0x09ff_ffff), None);
        assert_eq!(nat.outside_of(0x0a00_0100), None);
        for (address, port) in [
            (99, 2000),
            (104, 2000),
            (100, 1023),
            (100, 0),
            (50, 2000),
            (0, 2000),
        ] {
            assert_eq!(nat.inside_of(address, port), None, "{address} {port}");
        }
        assert!(nat.is_outside(50) && nat.is_outside(103) && !nat.is_outside(54));
        // All of IPv4 behind all of IPv4.
        let whole = DetNat::new(&DetNatConfig {
            inside: Prefix4::DEFAULT,
            outside: vec![range(0, u32::MAX)],
            first_port: 1,
            last_port: 65535,
            share: Share::HostsPerAddress(1),
        })
        .unwrap();
        assert_eq!(
            whole.outside_of(u32::MAX),
            Some(binding(u32::MAX, 1, 65535))
        );
        assert_eq!(whole.inside_of(u32::MAX, 65535), Some(u32::MAX));
        assert_eq!(whole.inside_of(0, 0), None);
    }

    proptest! {
        /// Against ranges handed out one after the other: every host has its own, and every port of every
        /// outside address leads back to the host that has it or to nobody.
        #[test]
        fn both_ways_are_inverse_and_ranges_disjoint(
            len in 22u8..=32,
            inside: u32,
            // Gaps and lengths, so that ranges do not overlap; then mixed up.
            spans in prop::collection::vec((1u32..5, 1u32..20), 1..6).prop_shuffle(),
            turn in 0usize..6,
            first_port in 1u16..=3000,
            ports in 1u16..500,
            divisor in 1u16..40,
            ratio: bool,
        ) {
            let mut end = 1000;
            let mut outside: Vec<_> = spans.iter().map(|(gap, len)| {
                let first = end + gap;
                end = first + len;
                range(first, first + len - 1)
            }).collect();
            let count = outside.len();
            outside.rotate_left(turn % count);
            let last_port = first_port + ports - 1;
            let share = if ratio { Share::HostsPerAddress(divisor) } else { Share::PortsPerHost(divisor) };
            let inside = Prefix4::around(inside, len).unwrap();
            let config = DetNatConfig { inside, outside, first_port, last_port, share };

            let per_host = match share {
                Share::PortsPerHost(ports) => ports,
                Share::HostsPerAddress(hosts) => ports / hosts,
            };
            // The twin hands out.
            let mut hosts = inside.addr()..=inside.last();
            let mut owners = HashMap::new();
            let mut bindings = HashMap::new();
            if per_host != 0 {
                for address in config.outside.iter().flat_map(|range| range.first..=range.last) {
                    let mut port = first_port;
                    let mut here = 0;
                    while port + (per_host - 1) <= last_port && (!ratio || here < divisor) {
                        let Some(host) = hosts.next() else { break };
                        let last = port + (per_host - 1);
                        bindings.insert(host, DetBinding { address, first_port: port, last_port: last });
                        for port in port..=last {
                            prop_assert_eq!(owners.insert((address, port), host), None);
                        }
                        (port, here) = (port + per_host, here + 1);
                    }
                }
            }
            match DetNat::new(&config) {
                Err(DetNatError::TooFewPorts { .. }) => prop_assert!(ports < divisor),
                Err(error) => {
                    prop_assert!(matches!(error, DetNatError::TooManyHosts { .. }), "{}", error);
                    prop_assert!(hosts.next().is_some());
                }
                Ok(nat) => {
                    prop_assert_eq!(hosts.next(), None);
                    for host in inside.addr()..=inside.last() {
                        prop_assert_eq!(nat.outside_of(host), bindings.get(&host).copied());
                    }
                    for address in 1000..=end {
                        for port in first_port - 1..=last_port + 1 {
                            let owner = owners.get(&(address, port)).copied();
                            prop_assert_eq!(nat.inside_of(address, port), owner);
                        }
                    }
                }
            }
        }
    }
}
