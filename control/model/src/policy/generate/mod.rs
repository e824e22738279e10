//! Random policy states and packets, for tests that compare what judges packets with the reference: the same seed gives the same state.
//!
//! Names, labels, addresses and ports come from small pools, so that selectors select, networks overlap and rules match.

mod maker;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::reference::{EndpointId, Packet};
use super::{Direction, Object, PolicyState, Protocol, Value};
use maker::Maker;

/// A small generator of random numbers (splitmix64, Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below a bound, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder is below a usize.
        #[expect(clippy::cast_possible_truncation, reason = "below the bound")]
        let number = (self.draw() % bound.max(1) as u64) as usize;
        number
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Ports that packets and rules have.
const PORTS: [u16; 12] = [0, 22, 53, 67, 68, 80, 81, 443, 4789, 8080, 9090, 65535];

/// Documents of a state with about `size` policies and twice as many workloads. All of them are valid, alone and together.
pub fn documents(seed: u64, size: usize) -> Vec<Value> {
    Maker::new(seed).documents(size)
}

/// A state, from [`documents`].
pub fn state(seed: u64, size: usize) -> PolicyState {
    let mut state = PolicyState::default();
    for document in documents(seed, size) {
        match Object::read(&document) {
            Ok(object) => drop(state.insert(object)),
            // A fault of this module's, which its test would find.
            Err(error) => unreachable!("{error}\n{document}"),
        }
    }
    state
}

/// A packet among the addresses of a state.
pub fn packet(seed: u64, state: &PolicyState) -> Packet {
    let mut random = Random::new(seed ^ 0x7061_636b_6574);
    random_packet(&mut random, state)
}

/// A packet that an endpoint of the state might meet, with the endpoint and the direction. `None` in a state without endpoints.
pub fn case(seed: u64, state: &PolicyState) -> Option<(EndpointId, Direction, Packet)> {
    let mut random = Random::new(seed ^ 0x6361_7365);
    let random = &mut random;
    let workloads = state.workload_endpoints.len();
    let hosts = state.host_endpoints.len();
    if workloads + hosts == 0 {
        return None;
    }
    let direction = *random.pick(&[Direction::Ingress, Direction::Egress]);
    let mut packet = random_packet(random, state);
    let index = random.below(workloads + hosts);
    let (endpoint, addresses) = match state.workload_endpoints.iter().nth(index) {
        Some((id, workload)) => (EndpointId::Workload(id.clone()), workload.addresses.clone()),
        None => {
            let (name, host) = state.host_endpoints.iter().nth(index - workloads)?;
            (EndpointId::Host(name.clone()), host.expected_ips.clone())
        }
    };
    if matches!(endpoint, EndpointId::Workload(_)) {
        packet.forwarded = false;
        packet.with_own_host = random.one_in(8);
    } else {
        packet.with_own_host = false;
    }
    let version = packet.ip_version();
    let own: Vec<_> = addresses
        .into_iter()
        .filter(|address| super::IpVersion::of(*address) == version)
        .collect();
    if !own.is_empty() && !random.one_in(8) {
        let own = *random.pick(&own);
        match direction {
            Direction::Ingress => packet.destination = own,
            Direction::Egress => packet.source = own,
        }
    }
    Some((endpoint, direction, packet))
}

fn random_packet(random: &mut Random, state: &PolicyState) -> Packet {
    let v6 = random.one_in(3);
    let source = address(random, state, v6);
    let destination = address(random, state, v6);
    let icmp = if v6 { Protocol::ICMPV6 } else { Protocol::ICMP };
    let protocol = match random.below(10) {
        0..4 => Protocol::TCP,
        4..6 => Protocol::UDP,
        6 => Protocol::SCTP,
        7 => icmp,
        8 => Protocol::UDPLITE,
        _ => *random.pick(&[Protocol::ICMP, Protocol::ICMPV6]),
    };
    let number = if random.one_in(40) {
        4
    } else {
        protocol.number()
    };
    let mut packet = Packet::new(source, destination, number);
    if number == icmp.number() {
        let kinds: &[u8] = if v6 {
            &[1, 128, 129, 135]
        } else {
            &[0, 3, 8, 11]
        };
        packet.icmp = Some((*random.pick(kinds), *random.pick(&[0, 1, 4])));
    }
    if Protocol::new(number).is_ok_and(Protocol::has_ports) {
        packet = packet.with_ports(port(random), port(random));
    }
    if random.one_in(3) {
        packet.forwarded = true;
    }
    if random.one_in(4) {
        packet.pre_nat_destination = Some(address(random, state, v6));
        if packet.destination_port.is_some() && random.one_in(2) {
            packet.pre_nat_destination_port = Some(port(random));
        }
    }
    packet
}

fn port(random: &mut Random) -> u16 {
    *random.pick(&PORTS)
}

/// An address of an endpoint's, or one inside or beside some network.
fn address(random: &mut Random, state: &PolicyState, v6: bool) -> IpAddr {
    if random.one_in(2) {
        let known: Vec<IpAddr> = state
            .workload_endpoints
            .values()
            .flat_map(|workload| &workload.addresses)
            .chain(
                state
                    .host_endpoints
                    .values()
                    .flat_map(|host| &host.expected_ips),
            )
            .filter(|address| address.is_ipv6() == v6)
            .copied()
            .collect();
        if !known.is_empty() {
            return *random.pick(&known);
        }
    }
    any_address(random, v6)
}

fn any_address(random: &mut Random, v6: bool) -> IpAddr {
    let byte = |random: &mut Random| u8::try_from(random.below(4)).unwrap_or(0);
    if v6 {
        let tail = u16::from_be_bytes([byte(random), byte(random)]);
        Ipv6Addr::new(0xfd00, 0, 0, u16::from(byte(random)), 0, 0, 0, tail).into()
    } else {
        Ipv4Addr::new(10, byte(random), byte(random), byte(random)).into()
    }
}

fn any_net(random: &mut Random, v6: bool) -> String {
    let lengths: &[u8] = if v6 {
        &[0, 16, 62, 64, 112, 120, 127, 128]
    } else {
        &[0, 8, 14, 16, 23, 24, 30, 31, 32]
    };
    let length = *random.pick(lengths);
    match IpNet::new(any_address(random, v6), length) {
        Ok(net) => net.trunc().to_string(),
        Err(_) => unreachable!("the lengths are of the version"),
    }
}
