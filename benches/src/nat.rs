//! Cases of address translation: CSIT's hosts and ports, sources translated endpoint-dependently to one address per 1024 hosts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use graph_nodes::fib::{NeighbourKey, NextHop, RouteTarget};
use graph_nodes::nat::{Nat, Pool, Source, SourceRules, Translation};
use graph_nodes::policy::Policy;
use ports::{Template, Values};
use tables::acl::Rule;
use wire::{EtherType, builder};

use crate::case::{Frames, Setup};
use crate::forwarding::{NETS4, behind_link, expect, ours, peer, two_ports};
use crate::policy;

/// The first host inside, the first address outside, the first host far away, each its number further.
pub(crate) const INSIDE: u32 = u32::from_be_bytes([192, 168, 0, 0]);
const OUTSIDE: u32 = u32::from_be_bytes([68, 142, 68, 0]);
pub(crate) const FAR: u32 = u32::from_be_bytes([20, 0, 0, 0]);
/// Where more than 65,536 hosts begin.
const MANY_INSIDE: u32 = u32::from_be_bytes([172, 16, 0, 0]);
/// Ports of each host.
const PORTS: u32 = 63;
const FIRST_PORT: u32 = 1024;
/// The port far away.
const FAR_PORT: u16 = 8080;
/// Hosts that share an address.
const SHARING: u32 = 1024;

/// The order of packets: all hosts with their first port, then all with their second, as CSIT's generator; or none, so that no two
/// packets near each other have anything to do with each other.
pub(crate) fn order(flows: u32, random: bool) -> Vec<u32> {
    let mut order: Vec<u32> = (0..flows).collect();
    if random {
        let mut random = tables::acl::generate::Random::new(7);
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at as u32 + 1) as usize);
        }
    }
    order
}

fn pool(hosts: u32) -> Arc<Pool<u32>> {
    let addresses = hosts.div_ceil(SHARING);
    Arc::new(Pool {
        number: 0,
        addresses: [(OUTSIDE, OUTSIDE + addresses - 1)].into(),
        ports: (1024, 65_535),
        paired: true,
    })
}

/// Everything that leaves by port 1 gets an address of the pool.
fn translation(pool: &Arc<Pool<u32>>) -> Nat {
    let all = SourceRules::new(&[(Rule::default(), Source::Pool(Arc::clone(pool)))]);
    Nat {
        ip4: Translation {
            source: vec![None, Some(Arc::new(all))],
            ..Translation::default()
        },
        ..Nat::default()
    }
}

/// `HOSTS` times 63 sessions; packets of both directions where `BOTH`.
pub(crate) fn sessions<const HOSTS: u32, const BOTH: bool, const RANDOM: bool>(
    frames: Frames,
) -> Setup {
    let pool = pool(HOSTS);
    let order = order(HOSTS * PORTS, RANDOM);
    let list = |value: &dyn Fn(u32, u32) -> u32| {
        let of = |flow: &u32| value(flow % HOSTS, FIRST_PORT + flow / HOSTS);
        Values::List(order.iter().map(of).collect())
    };
    let outside = |host: u32| pool.addresses_for(INSIDE + host).next().unwrap_or(0);
    let port = |_: u32, port: u32| port;
    let out = templates(0, frames, INSIDE, FAR, [FIRST_PORT as u16, FAR_PORT]);
    let out = out.into_iter().map(|template| {
        template
            .field(26, 4, list(&|host, _| INSIDE + host))
            .field(30, 4, list(&|host, _| FAR + host))
            .field(34, 2, list(&port))
    });
    let mut ports = vec![out.collect(), Vec::new()];
    if BOTH {
        // Each host has its own far end, so its ports stay what they are.
        let back = templates(1, frames, FAR, OUTSIDE, [FAR_PORT, FIRST_PORT as u16]);
        let back = back.into_iter().map(|template| {
            template
                .field(26, 4, list(&|host, _| FAR + host))
                .field(30, 4, list(&|host, _| outside(host)))
                .field(36, 2, list(&port))
        });
        ports[1] = back.collect();
    }
    let flows = u64::from(HOSTS * PORTS);
    Setup {
        flow_table: HOSTS * PORTS * 4 / 3,
        warm_up: flows * if BOTH { 4 } else { 2 },
        ..setup(ports, translation(&pool), Policy::default(), flows)
    }
}

/// CSIT's access list of 50 denials that do not match and a permit with tracking on both ports, in front of translation.
pub(crate) fn behind_access_list<const HOSTS: u32>(frames: Frames) -> Setup {
    let inside = Ipv4Addr::from_bits(INSIDE);
    let far = Ipv4Addr::from_bits(FAR);
    let policy = policy::reflecting_list(50, &[(inside, 16), (far, 8)]);
    let of = sessions::<HOSTS, false, true>(frames);
    let nat = of.snapshot.nat.clone();
    Setup {
        flow_table: of.flow_table,
        warm_up: of.warm_up,
        ..setup(of.ports, nat, policy, of.flows)
    }
}

/// Packets that all begin sessions, in a table that is full: each that comes ends another.
pub(crate) fn new_sessions(frames: Frames) -> Setup {
    const HOSTS: u32 = 1 << 18;
    let pool = pool(HOSTS);
    let random = |first, last| Values::Random { first, last };
    let out = templates(0, frames, MANY_INSIDE, FAR, [FIRST_PORT as u16, FAR_PORT]);
    let out = out.into_iter().map(|template| {
        template
            .field(26, 4, random(MANY_INSIDE, MANY_INSIDE + HOSTS - 1))
            .field(30, 4, random(FAR, FAR + 0xffff))
            .field(34, 2, random(1024, 65_535))
    });
    let table = 1 << 20;
    Setup {
        flow_table: table,
        warm_up: u64::from(table) * 2,
        ..setup(
            vec![out.collect(), Vec::new()],
            translation(&pool),
            Policy::default(),
            table.into(),
        )
    }
}

pub(crate) fn setup(ports: Vec<Vec<Template>>, nat: Nat, policy: Policy, flows: u64) -> Setup {
    let (mut snapshot, mut writer) = two_ports(None, NETS4, 24);
    let nets = [(INSIDE, 16, 0), (MANY_INSIDE, 12, 0), (FAR, 8, 1)];
    for (net, len, port) in nets {
        let net: IpAddr = Ipv4Addr::from_bits(net).into();
        let hop = NextHop {
            neighbour: NeighbourKey {
                interface: port,
                address: second_of(usize::from(port)),
            },
            weight: 1,
        };
        expect(writer.set_route(0, net, len, RouteTarget::Forward(vec![hop])));
    }
    expect(writer.commit());
    snapshot.vrfs = writer.vrf(0).into_iter().collect();
    snapshot.policy = policy;
    snapshot.nat = nat;
    snapshot.set_policy_features();
    Setup {
        ports,
        snapshot,
        writer,
        check,
        flows,
        routes: 5,
        flow_table: 0,
        warm_up: 0,
    }
}

fn second_of(port: usize) -> IpAddr {
    match NETS4[port] {
        IpAddr::V4(net) => Ipv4Addr::from_bits(net.to_bits() + 2).into(),
        other => other,
    }
}

pub(crate) fn templates(
    port: usize,
    frames: Frames,
    from: u32,
    to: u32,
    ports: [u16; 2],
) -> Vec<Template> {
    let make = |(length, weight): (usize, u16)| {
        let bytes = builder::eth(peer(port), ours(port))
            .ip4(Ipv4Addr::from_bits(from), Ipv4Addr::from_bits(to))
            .udp(ports[0], ports[1])
            .payload(&vec![0x42; length - 42])
            .build();
        Template {
            weight,
            ..Template::new(bytes)
        }
    };
    frames.lengths().into_iter().map(make).collect()
}

/// Out of port 1 with an address of the pool, out of port 0 to a host inside.
fn check(port: usize, frame: &[u8]) -> bool {
    let Some((EtherType::IP4, packet)) = behind_link(port, frame) else {
        return false;
    };
    let Ok(header) = wire::ip4::validate(packet) else {
        return false;
    };
    let (from, to) = (header.source().to_bits(), header.destination().to_bits());
    let is_right = match port {
        0 => from >> 24 == FAR >> 24 && to >> 16 == INSIDE >> 16,
        _ => from >> 8 == OUTSIDE >> 8 && to >> 24 == FAR >> 24,
    };
    is_right && header.ttl == 63 && packet[28..].iter().all(|byte| *byte == 0x42)
}
