//! Cases of services: alone, and behind policy and in front of source NAT.

use std::sync::Arc;

use graph_nodes::nat::{
    Affinities, Affinity, Backend, Backends, ClientSource, DestinationRules, Nat, Pool, Secret,
    Service, Services, Source, SourceRules, Translation,
};
use graph_nodes::policy::Policy;
use ports::Values;
use tables::acl::{Key, Prefix, Rule, Side};
use tables::{Prefix4, Tick};
use wire::EtherType;

use crate::case::{Frames, Setup};
use crate::forwarding::{behind_link, expect};
use crate::nat::{self, FAR, INSIDE, order, templates};
use crate::policy::{self, FIRST_HOST, address};

/// The first service, each its number further.
const VIP: u32 = u32::from_be_bytes([10, 96, 0, 0]);
const SERVICES: u32 = 10;
const BACKENDS: u32 = 100;
const SERVICE_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// Flows of each client of [`balanced`].
const PORTS: u32 = 64;
const FIRST_PORT: u32 = 1024;
/// The first backend on the link of port 1.
const FIRST_BACKEND: u32 = 100;
/// The address that a client of [`stacked`] gets, each its number further.
const OUTSIDE: u32 = u32::from_be_bytes([68, 142, 68, 0]);
/// Flows of [`stacked`] that begin before the first answer comes, but for the first of all: by then it has left the nearer caches.
const LAG: usize = 4096;
const UDP: u8 = 17;
/// Always the same, so that answers can be made of what the gateway will choose.
const SECRET: Secret = Secret::new([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
]);

fn service(address: u32, first_backend: u32) -> Service<u32> {
    let backend = |number: u32| Backend {
        address: first_backend + number,
        port: BACKEND_PORT,
        identity: u64::from(first_backend + number),
        weight: 1,
        local: true,
    };
    let list: Vec<_> = (0..BACKENDS).map(backend).collect();
    Service {
        address,
        protocol: UDP,
        port: SERVICE_PORT,
        identity: address.into(),
        backends: Arc::new(expect(Backends::new(&list))),
        affinity: Affinity::None,
        allowed: None,
        source: ClientSource::Kept,
    }
}

fn rules(services: Vec<Service<u32>>) -> DestinationRules<u32> {
    let services = expect(Services::new(services, SECRET));
    DestinationRules::new(&[], &[]).with_services(services)
}

/// Which service a client's flow is for.
fn service_of(host: u32, port: u32) -> u32 {
    (host + port) % SERVICES
}

/// `HOSTS` clients with 64 flows each.
pub(crate) fn balanced<const HOSTS: u32>(frames: Frames) -> Setup {
    let order = order(HOSTS * PORTS, true);
    let list = |value: &dyn Fn(u32, u32) -> u32| {
        let of = |flow: &u32| value(flow % HOSTS, FIRST_PORT + flow / HOSTS);
        Values::List(order.iter().map(of).collect())
    };
    let there = templates(0, frames, INSIDE, VIP, [FIRST_PORT as u16, SERVICE_PORT]);
    let there = there.into_iter().map(|template| {
        template
            .field(26, 4, list(&|host, _| INSIDE + host))
            .field(30, 4, list(&|host, port| VIP + service_of(host, port)))
            .field(34, 2, list(&|_, port| port))
    });
    let services = (0..SERVICES).map(|number| service(VIP + number, FAR + (number << 8) + 1));
    let nat = Nat {
        ip4: Translation {
            destination: vec![Some(Arc::new(rules(services.collect())))],
            ..Translation::default()
        },
        ..Nat::default()
    };
    let flows = u64::from(HOSTS * PORTS);
    let ports = vec![there.collect(), Vec::new()];
    Setup {
        flow_table: HOSTS * PORTS * 4 / 3,
        warm_up: flows * 2,
        check: check_balanced,
        ..nat::setup(ports, nat, Policy::default(), flows)
    }
}

/// `HOSTS` times 65,536 connections of a workload on port 0 to a service whose backends are hosts on the link of port 1, and see
/// another address of each client; packets of both directions.
pub(crate) fn stacked<const HOSTS: u32>(frames: Frames) -> Setup {
    let services = rules(vec![service(VIP, address(1, FIRST_BACKEND))]);
    let client = |flow: u32| address(0, FIRST_HOST + (flow >> 16));
    let port = |flow: u32| flow as u16;
    let mut affinities = Affinities::default();
    let mut backend = |flow: u32| {
        let key = Key::with_ports(client(flow), VIP, UDP, port(flow), SERVICE_PORT);
        let found = services.find(&key, &mut affinities, Tick::default());
        let to = (VIP, SERVICE_PORT);
        let arrival = found.and_then(|found| services.arrival(found, client(flow), to));
        arrival.map_or(0, |arrival| arrival.address)
    };
    let order = order(HOSTS << 16, true);
    // An answer is never there before what it answers.
    let late = |at: usize| order[at.checked_sub(LAG).unwrap_or(at % 256)];
    let answered: Vec<u32> = (0..order.len()).map(late).collect();
    let backends: Vec<u32> = answered.iter().map(|flow| backend(*flow)).collect();
    let list = |flows: &[u32], value: &dyn Fn(u32) -> u32| {
        Values::List(flows.iter().map(|flow| value(*flow)).collect())
    };
    let there = templates(0, frames, address(0, FIRST_HOST), VIP, [0, SERVICE_PORT]);
    let there = there.into_iter().map(|template| {
        template.field(26, 4, list(&order, &client)).field(
            34,
            2,
            list(&order, &|flow| port(flow).into()),
        )
    });
    let first = address(1, FIRST_BACKEND);
    let back = templates(1, frames, first, OUTSIDE, [BACKEND_PORT, 0]);
    let back = back.into_iter().map(|template| {
        template
            .field(26, 4, Values::List(backends.clone()))
            .field(30, 4, list(&answered, &|flow| OUTSIDE + (flow >> 16)))
            .field(36, 2, list(&answered, &|flow| port(flow).into()))
    });
    let ports = vec![there.collect(), back.collect()];
    // Each client has an address of its own, so ports stay.
    let own_address = |number: u32| {
        let host = expect(Prefix4::new(address(0, FIRST_HOST + number), 32));
        let rule = Rule {
            source: Side {
                prefixes: vec![Prefix::V4(host)],
                ..Side::default()
            },
            ..Rule::default()
        };
        let pool = Pool {
            number: number as u16,
            addresses: [(OUTSIDE + number, OUTSIDE + number)].into(),
            ports: (0, u16::MAX),
            paired: true,
        };
        (rule, Source::Pool(Arc::new(pool)))
    };
    let sources: Vec<_> = (0..HOSTS).map(own_address).collect();
    let sources = SourceRules::new(&sources);
    let flows = u64::from(HOSTS) << 16;
    let known = FIRST_BACKEND + BACKENDS - FIRST_HOST;
    let mut setup = policy::setup(ports, policy::open_workload(), known, flows);
    setup.snapshot.nat.ip4 = Translation {
        source: vec![None, Some(Arc::new(sources))],
        destination: vec![Some(Arc::new(services))],
        ..Translation::default()
    };
    setup.snapshot.set_policy_features();
    Setup {
        check: check_stacked,
        warm_up: flows * 4,
        ..setup
    }
}

/// Source and destination of a UDP packet that was forwarded: addresses and ports.
fn ends(port: usize, frame: &[u8]) -> Option<[(u32, u16); 2]> {
    let (EtherType::IP4, packet) = behind_link(port, frame)? else {
        return None;
    };
    let header = wire::ip4::validate(packet).ok()?;
    let (ports, rest) = packet.get(20..)?.split_first_chunk::<4>()?;
    let is_right = header.ttl == 63 && rest.get(4..)?.iter().all(|byte| *byte == 0x42);
    let [a, b, c, d] = *ports;
    let (from, to) = (header.source(), header.destination());
    is_right.then_some([
        (from.to_bits(), u16::from_be_bytes([a, b])),
        (to.to_bits(), u16::from_be_bytes([c, d])),
    ])
}

/// Out of port 1 to a backend of the service that the client's flow is for.
fn check_balanced(port: usize, frame: &[u8]) -> bool {
    let Some([(client, own), (backend, to)]) = ends(port, frame) else {
        return false;
    };
    let first = FAR + (service_of(client.wrapping_sub(INSIDE), own.into()) << 8) + 1;
    port == 1
        && client >> 16 == INSIDE >> 16
        && (first..first + BACKENDS).contains(&backend)
        && to == BACKEND_PORT
}

/// Out of port 1 from a client's other address to a backend, out of port 0 from the service to a client.
fn check_stacked(port: usize, frame: &[u8]) -> bool {
    let Some([from, to]) = ends(port, frame) else {
        return false;
    };
    let first = address(1, FIRST_BACKEND);
    match port {
        0 => from == (VIP, SERVICE_PORT) && to.0 >> 8 == address(0, 0) >> 8,
        _ => {
            from.0 >> 8 == OUTSIDE >> 8
                && (first..first + BACKENDS).contains(&to.0)
                && to.1 == BACKEND_PORT
        }
    }
}
