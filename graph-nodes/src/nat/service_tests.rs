//! Services in the node, clause by clause.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dataplane::TestPacket;
use proptest::prelude::*;
use tables::acl::{Address, Key};
use tables::{MaglevError, Tick};
use wire::TcpFlags;
use wire::builder::{ip4, ip6};

use super::tests::{OUTSIDE, PORTS, bytes, from, gateway, pool, source_of};
use super::*;
use crate::icmp::ErrorWord;
use crate::policy::testing::*;
use crate::policy::{Ip6Policy, Policy};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const SECRET: Secret = Secret::new([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
]);

/// The backend at host 20 and so on behind an interface.
fn backend(interface: u16, number: u8) -> Backend<u32> {
    Backend {
        address: v4(interface, 20 + number).to_bits(),
        port: 8080,
        identity: u64::from(interface) << 8 | u64::from(number),
        weight: 1,
        local: true,
    }
}

fn three() -> [Backend<u32>; 3] {
    [0, 1, 2].map(|number| backend(1, number))
}

/// Port 80 of the address.
fn service<A: Address>(address: A, protocol: u8, backends: &[Backend<A>]) -> Service<A> {
    Service {
        address,
        protocol,
        port: 80,
        identity: 1,
        backends: Arc::new(Backends::new(backends).unwrap()),
        affinity: Affinity::None,
        allowed: None,
        source: ClientSource::Kept,
    }
}

fn vip(protocol: u8, backends: &[Backend<u32>]) -> Service<u32> {
    service(VIP.to_bits(), protocol, backends)
}

fn rules<A: Address>(services: Vec<Service<A>>) -> DestinationRules<A> {
    let services = Services::new(services, SECRET).unwrap();
    DestinationRules::new(&[], &[]).with_services(services)
}

fn nat(generation: u32, destinations: DestinationRules<u32>) -> Nat {
    Nat {
        generation,
        ip4: Translation {
            destination: vec![Some(Arc::new(destinations))],
            ..Translation::default()
        },
        ..Nat::default()
    }
}

fn nat_of(services: Vec<Service<u32>>) -> Nat {
    nat(1, rules(services))
}

fn udp(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    ip4(from, to).udp(ports.0, ports.1).payload(&[7; 9]).build()
}

fn tcp(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), flags: TcpFlags) -> Vec<u8> {
    ip4(from, to).tcp(ports.0, ports.1).flags(flags).build()
}

fn destination_of(packet: &[u8]) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::from_octets(*packet[16..].first_chunk().unwrap());
    (address, u16::from_be_bytes([packet[22], packet[23]]))
}

#[test]
fn flows_are_spread_and_each_keeps_its_backend() {
    let mut gateway = gateway(Policy::default(), nat_of(vec![vip(UDP, &three())]));
    let client = v4(0, 10);
    let mut had: HashMap<Ipv4Addr, Vec<u16>> = HashMap::new();
    for port in 3000..3300 {
        let out = bytes(&mut gateway, 0, udp(client, VIP, (port, 80))).unwrap();
        let (to, _) = destination_of(&out);
        assert_eq!(out, udp(client, to, (port, 8080)));
        had.entry(to).or_default().push(port);
    }
    let wanted: HashSet<Ipv4Addr> = (20..23).map(|host| v4(1, host)).collect();
    assert_eq!(had.keys().copied().collect::<HashSet<_>>(), wanted);
    for (to, ports) in had {
        assert!((70..130).contains(&ports.len()), "{to}: {}", ports.len());
        for port in ports {
            let again = bytes(&mut gateway, 0, udp(client, VIP, (port, 80))).unwrap();
            assert_eq!(again, udp(client, to, (port, 8080)));
            let answer = bytes(&mut gateway, 1, udp(to, client, (8080, port))).unwrap();
            assert_eq!(answer, udp(VIP, client, (80, port)));
        }
    }
    // Another port, another protocol and another address are none of its business.
    for packet in [
        udp(client, VIP, (3000, 81)),
        tcp(client, VIP, (3000, 80), TcpFlags::SYN),
        udp(client, v4(1, 9), (3000, 80)),
    ] {
        assert_eq!(bytes(&mut gateway, 0, packet.clone()), Ok(packet));
    }
    gateway.finish();
}

/// The route and the policy that a flow meets are those of the backend that it gets.
#[test]
fn where_a_flow_goes_is_where_its_backend_is() {
    let inside = [backend(1, 0), backend(2, 0)];
    let policy = policy([
        (1, workload(allowing(&[to_port(UDP, 8080)]), everything())),
        (2, workload(nothing(), everything())),
    ]);
    let mut gateway = gateway(policy, nat_of(vec![vip(UDP, &inside)]));
    let (mut passed, mut denied) = (0, 0);
    for port in 3000..3100 {
        match bytes(&mut gateway, 0, udp(v4(0, 10), VIP, (port, 80))) {
            Ok(out) => {
                passed += 1;
                assert_eq!(destination_of(&out).0, v4(1, 20));
            }
            Err(reason) => {
                denied += 1;
                assert_eq!(reason, "policy-denied");
            }
        }
    }
    assert!(passed > 30 && denied > 30, "{passed} {denied}");
    gateway.finish();
}

#[test]
fn clients_stay_with_a_backend() {
    let mut of_clients = vip(UDP, &three());
    of_clients.affinity = Affinity::Client { timeout_secs: 100 };
    let mut gateway = gateway(Policy::default(), nat_of(vec![of_clients.clone()]));
    let ask = |gateway: &mut Gateway, host: u8, port: u16| {
        let out = bytes(gateway, 0, udp(v4(0, host), VIP, (port, 80))).unwrap();
        destination_of(&out).0
    };
    let mut had = HashMap::new();
    for host in 10..70 {
        let first = ask(&mut gateway, host, 3000);
        had.insert(host, first);
        assert!((3001..3005).all(|port| ask(&mut gateway, host, port) == first));
    }
    assert_eq!(had.values().collect::<HashSet<_>>().len(), 3);
    // More backends: the clients that were here stay, others may go anywhere.
    let more: Vec<_> = (0..9).map(|number| backend(1, number)).collect();
    of_clients.backends = Arc::new(Backends::new(&more).unwrap());
    let changed = snapshot(&gateway.writer, Policy::default(), nat_of(vec![of_clients]));
    gateway.harness.publish(changed);
    for (host, first) in had {
        assert_eq!(ask(&mut gateway, host, 3100), first);
    }
    let others: HashSet<_> = (100..200)
        .map(|host| ask(&mut gateway, host, 3100))
        .collect();
    assert_eq!(others.len(), 9);
    gateway.finish();
}

#[test]
fn only_those_may_ask_whom_a_service_is_for() {
    let mut limited = vip(UDP, &three());
    let nets = [(v4(0, 64).to_bits(), 29), (v4(0, 200).to_bits(), 32)];
    limited.allowed = Some(Arc::new(SourceRanges::new(&nets)));
    let mut gateway = gateway(Policy::default(), nat_of(vec![limited]));
    for host in 2..=254 {
        let out = bytes(&mut gateway, 0, udp(v4(0, host), VIP, (3000, 80)));
        match host {
            64..=71 | 200 => assert!(out.is_ok(), "{host}"),
            _ => assert_eq!(out, Err("service-source"), "{host}"),
        }
    }
    gateway.finish();
}

/// Port unreachable, as kube-proxy says it, unless policy denies what was sent: then nothing is said.
#[test]
fn senders_hear_of_services_without_backends() {
    let ending = [Backend {
        weight: 0,
        ..backend(1, 0)
    }];
    for backends in [&[][..], &ending] {
        let services = [TCP, UDP].map(|protocol| vip(protocol, backends));
        let mut open = gateway(Policy::default(), nat_of(services.to_vec()));
        let packets = [
            udp(v4(0, 10), VIP, (3000, 80)),
            tcp(v4(0, 10), VIP, (3000, 80), TcpFlags::SYN),
        ];
        for packet in &packets {
            let out = open.harness.run(vec![TestPacket {
                bytes: packet.clone(),
                ..TestPacket::default()
            }]);
            assert_eq!(out[0].node, "icmp4-error");
            assert_eq!(out[0].packet.word, ErrorWord::new(3, 3).to_word());
            assert_eq!(&out[0].packet.bytes, packet);
        }
        open.finish();
        let denying = policy([(0, workload(everything(), nothing()))]);
        let mut closed = gateway(denying, nat_of(services.to_vec()));
        for packet in packets {
            assert_eq!(bytes(&mut closed, 0, packet), Err("policy-denied"));
        }
        closed.finish();
    }
}

/// Who the backend sees: the client, or one of the pool, and then its answers come back in any case.
#[test]
fn sources_become_what_the_service_says() {
    let masks = pool(v4(0, 250), v4(0, 250), PORTS);
    let (client, other) = (v4(0, 20), v4(0, 30));
    let is = |local: bool| Backend {
        local,
        ..backend(0, 0)
    };
    // What it says, whether the backend is local, whether it translates the backend itself and another client.
    let cases = [
        (ClientSource::Kept, true, [false, false]),
        (
            ClientSource::Hairpin(Arc::clone(&masks)),
            true,
            [true, false],
        ),
        (
            ClientSource::Hairpin(Arc::clone(&masks)),
            false,
            [true, false],
        ),
        (
            ClientSource::Remote(Arc::clone(&masks)),
            true,
            [true, false],
        ),
        (
            ClientSource::Remote(Arc::clone(&masks)),
            false,
            [true, true],
        ),
        (ClientSource::Pool(masks), true, [true, true]),
    ];
    for (source, local, translated) in cases {
        let mut balanced = vip(UDP, &[is(local)]);
        balanced.source = source;
        // Rules about what goes back inside are for port forwards.
        let hairpin = [(
            from("10.0.0.0/22"),
            Source::Pool(pool(v4(0, 251), v4(0, 251), PORTS)),
        )];
        let mut nat = nat_of(vec![balanced]);
        nat.ip4.hairpin = vec![Some(Arc::new(SourceRules::new(&hairpin)))];
        let mut gateway = gateway(Policy::default(), nat);
        for (host, translated) in [client, other].into_iter().zip(translated) {
            let out = bytes(&mut gateway, 0, udp(host, VIP, (3000, 80))).unwrap();
            let (seen, port) = source_of(&out);
            assert_eq!(seen, if translated { v4(0, 250) } else { host });
            assert_eq!(out, udp(seen, client, (port, 8080)));
            let answer = bytes(&mut gateway, 0, udp(client, seen, (8080, port)));
            assert_eq!(answer, Ok(udp(VIP, host, (80, 3000))));
        }
        gateway.finish();
    }
}

/// Sources of packets to a remote backend are translated by the rules of where they leave, which see the backend.
#[test]
fn rules_about_sources_see_the_backend() {
    let outside = pool(v4(OUTSIDE, 250), v4(OUTSIDE, 250), PORTS);
    let to_backend = tables::acl::Rule {
        destination: from("10.0.4.20/32").source,
        ..tables::acl::Rule::default()
    };
    let mut nat = nat_of(vec![vip(UDP, &[backend(OUTSIDE, 0)])]);
    nat.ip4.source = vec![None; usize::from(INTERFACES)];
    let sources = SourceRules::new(&[(to_backend, Source::Pool(outside))]);
    nat.ip4.source[usize::from(OUTSIDE)] = Some(Arc::new(sources));
    let mut gateway = gateway(Policy::default(), nat);
    let out = bytes(&mut gateway, 0, udp(v4(0, 10), VIP, (3000, 80))).unwrap();
    assert_eq!(out, udp(v4(OUTSIDE, 250), v4(OUTSIDE, 20), (3000, 8080)));
    gateway.finish();
}

/// One socket that sends to two services of the same backend, and to the backend itself: the backend can tell the flows apart.
#[test]
fn flows_that_would_be_one_behind_the_service_get_other_ports() {
    let second = Ipv4Addr::new(10, 96, 0, 11);
    let services = [VIP, second].map(|address| Service {
        address: address.to_bits(),
        ..vip(UDP, &[backend(1, 0)])
    });
    let mut gateway = gateway(Policy::default(), nat_of(services.to_vec()));
    let (client, server) = (v4(0, 10), v4(1, 20));
    let mut ports = HashSet::new();
    for (address, port) in [(VIP, 80), (second, 80)] {
        let out = bytes(&mut gateway, 0, udp(client, address, (3000, port))).unwrap();
        let (seen, own) = source_of(&out);
        assert_eq!((seen, destination_of(&out)), (client, (server, 8080)));
        assert!(ports.insert(own));
        let answer = bytes(&mut gateway, 1, udp(server, client, (8080, own)));
        assert_eq!(answer, Ok(udp(address, client, (port, 3000))));
    }
    assert!(ports.contains(&3000));
    gateway.finish();
}

/// What becomes of flows when backends and services go.
#[test]
fn connections_outlive_changes_and_udp_ends_with_its_backend() {
    let forward = Destination {
        address: v4(0, 1).to_bits(),
        prefix_len: 32,
        protocol: Some(UDP),
        ports: Some((80, 80)),
        to: v4(2, 20).to_bits(),
        port: Some(80),
        source: None,
    };
    let with = |backends: &[Backend<u32>]| {
        let services = [TCP, UDP].map(|protocol| vip(protocol, backends));
        let services = Services::new(services.to_vec(), SECRET).unwrap();
        DestinationRules::new(std::slice::from_ref(&forward), &[]).with_services(services)
    };
    let client = v4(0, 10);
    let mut gateway = gateway(Policy::default(), nat(1, with(&three())));
    let change = |gateway: &mut Gateway, generation, rules| {
        let nat = nat(generation, rules);
        let changed = snapshot(&gateway.writer, Policy::default(), nat);
        gateway.harness.publish(changed);
        for _ in 0..50 {
            assert!(gateway.harness.turn().is_empty());
        }
    };
    let send = |gateway: &mut Gateway, port: u16, flags: Option<TcpFlags>| {
        let packet = match flags {
            Some(flags) => tcp(client, VIP, (port, 80), flags),
            None => udp(client, VIP, (port, 80)),
        };
        destination_of(&bytes(gateway, 0, packet).unwrap()).0
    };
    let mut had = HashMap::new();
    for port in 3000..3060 {
        let of_udp = send(&mut gateway, port, None);
        let of_tcp = send(&mut gateway, port, Some(TcpFlags::SYN));
        let answer = tcp(of_tcp, client, (8080, port), TcpFlags::SYN | TcpFlags::ACK);
        bytes(&mut gateway, 1, answer).unwrap();
        had.insert(port, (of_udp, of_tcp));
    }
    let forwarded = |gateway: &mut Gateway| {
        let out = bytes(gateway, 0, udp(client, v4(0, 1), (3000, 80))).unwrap();
        destination_of(&out).0
    };
    assert_eq!(forwarded(&mut gateway), v4(2, 20));
    let (gone, ending) = (v4(1, 20), v4(1, 21));
    assert!(had.values().any(|(of_udp, _)| *of_udp == gone));
    assert!(had.values().any(|(_, of_tcp)| *of_tcp == gone));
    // The first backend is gone, the second one terminates and takes no new flows.
    let mut left = [backend(1, 1), backend(1, 2)];
    left[0].weight = 0;
    change(&mut gateway, 2, with(&left));
    for (port, (of_udp, of_tcp)) in &had {
        let now = send(&mut gateway, *port, None);
        if *of_udp == gone {
            assert_eq!(now, v4(1, 22), "{port}");
        } else {
            assert_eq!(now, *of_udp, "{port}");
        }
        assert_eq!(send(&mut gateway, *port, Some(TcpFlags::ACK)), *of_tcp);
    }
    for port in 4000..4060 {
        assert_eq!(send(&mut gateway, port, Some(TcpFlags::SYN)), v4(1, 22));
    }
    assert!(had.values().any(|(of_udp, _)| *of_udp == ending));
    assert_eq!(forwarded(&mut gateway), v4(2, 20));
    // Without the service there is nobody for UDP; what a service has not begun stays.
    change(&mut gateway, 3, DestinationRules::new(&[], &[]));
    for (port, (_, of_tcp)) in had {
        assert_eq!(send(&mut gateway, port, None), VIP);
        assert_eq!(send(&mut gateway, port, Some(TcpFlags::ACK)), of_tcp);
    }
    assert_eq!(forwarded(&mut gateway), v4(2, 20));
    // A service that comes takes flows over that were its address's before.
    change(&mut gateway, 4, with(&three()));
    assert_ne!(send(&mut gateway, 3000, None), VIP);
    gateway.finish();
}

/// By the same code.
#[test]
fn services_of_ip6() {
    let vip = Ipv6Addr::new(0x2001, 0xdb8, 0x96, 0, 0, 0, 0, 10);
    let backends: Vec<_> = (0..3)
        .map(|number| Backend {
            address: v6(1, 20 + number).to_bits(),
            port: 8080,
            identity: number.into(),
            weight: 1,
            local: true,
        })
        .collect();
    let masks = Pool {
        number: 0,
        addresses: [(v6(1, 250).to_bits(), v6(1, 250).to_bits())].into(),
        ports: PORTS,
        paired: true,
    };
    let balanced = Service {
        source: ClientSource::Hairpin(Arc::new(masks)),
        ..service(vip.to_bits(), TCP, &backends)
    };
    let none = service(vip.to_bits() + 1, TCP, &[]);
    let nat = Nat {
        ip6: Translation {
            destination: vec![Some(Arc::new(rules(vec![balanced, none])))],
            ..Translation::default()
        },
        ..Nat::default()
    };
    let mut gateway = Gateway::translating(Ip6Policy::default, Policy::default(), nat, 1000);
    let tcp = |from: Ipv6Addr, to: Ipv6Addr, ports: (u16, u16), flags| {
        ip6(from, to).tcp(ports.0, ports.1).flags(flags).build()
    };
    let host =
        |packet: &[u8], at: usize| Ipv6Addr::from_octets(*packet[at..].first_chunk().unwrap());
    let mut chosen = HashSet::new();
    for (client, port) in (3000..3060).map(|port| (v6(0, 10), port)) {
        let out = bytes(&mut gateway, 0, tcp(client, vip, (port, 80), TcpFlags::SYN)).unwrap();
        let to = host(&out, 24);
        chosen.insert(to);
        assert_eq!(out, tcp(client, to, (port, 8080), TcpFlags::SYN));
        let both = TcpFlags::SYN | TcpFlags::ACK;
        let answer = bytes(&mut gateway, 1, tcp(to, client, (8080, port), both));
        assert_eq!(answer, Ok(tcp(vip, client, (80, port), both)));
    }
    assert_eq!(chosen.len(), 3);
    // A backend that asks its own service.
    let own = v6(1, 20);
    let mut masked = 0;
    for port in 3000..3060 {
        let out = bytes(&mut gateway, 1, tcp(own, vip, (port, 80), TcpFlags::SYN)).unwrap();
        let hairpin = host(&out, 24) == own;
        masked += usize::from(hairpin);
        assert_eq!(host(&out, 8), if hairpin { v6(1, 250) } else { own });
    }
    assert!((5..40).contains(&masked), "{masked}");
    let nobody = Ipv6Addr::from_bits(vip.to_bits() + 1);
    let packet = tcp(v6(0, 10), nobody, (3000, 80), TcpFlags::SYN);
    let out = gateway.harness.run(vec![TestPacket {
        bytes: packet,
        ..TestPacket::default()
    }]);
    assert_eq!(out[0].node, "icmp6-error");
    assert_eq!(out[0].packet.word, ErrorWord::new(1, 4).to_word());
    gateway.finish();
}

#[test]
fn wrong_services_are_refused_by_name() {
    let built = |services: &[Service<u32>]| Services::new(services.to_vec(), SECRET).map(|_| ());
    let good = vip(UDP, &three());
    let with = |change: &dyn Fn(&mut Service<u32>)| {
        let mut service = good.clone();
        change(&mut service);
        service
    };
    assert_eq!(built(&[]), Ok(()));
    assert_eq!(built(&[good.clone(), vip(TCP, &three())]), Ok(()));
    let no_port = ServiceError::NoPort { service: 1 };
    assert_eq!(
        built(&[good.clone(), with(&|of| of.port = 0)]),
        Err(no_port)
    );
    assert_eq!(
        built(&[good.clone(), with(&|of| of.protocol = 1)]),
        Err(no_port)
    );
    assert_eq!(
        built(&[with(&|of| of.protocol = SCTP)]),
        Err(ServiceError::PortChanges {
            service: 0,
            backend: 0
        })
    );
    assert_eq!(
        built(&[with(&|of| (of.protocol, of.port) = (SCTP, 8080))]),
        Ok(())
    );
    let twice = ServiceError::Twice {
        first: 0,
        second: 2,
    };
    let other = with(&|of| of.port = 81);
    assert_eq!(built(&[good.clone(), other, good]), Err(twice));
    assert!(twice.to_string().starts_with("services 0 and 2"));
    let same = Backends::new(&[backend(1, 0), backend(1, 1), backend(1, 0)]).map(|_| ());
    let same_identity = MaglevError::SameIdentity {
        first: 0,
        second: 2,
    };
    assert_eq!(same, Err(same_identity));
}

/// The secret decides, and nothing else that differs between processes.
#[test]
fn who_has_the_secret_chooses_alike() {
    let chosen = |secret: Secret| {
        let backends: Vec<_> = (0..10).map(|number| backend(1, number)).collect();
        let services = Services::new(vec![vip(UDP, &backends)], secret).unwrap();
        let mut affinities = Affinities::default();
        let ask = |port| {
            let key = Key::with_ports(v4(0, 10).to_bits(), VIP.to_bits(), UDP, port, 80);
            services.redirect(&key, &mut affinities, Tick::default())
        };
        (1000..1100).map(ask).collect::<Vec<_>>()
    };
    assert_eq!(chosen(SECRET), chosen(SECRET));
    assert_ne!(chosen(SECRET), chosen(Secret::new([1, 2, 3, 4])));
    assert_eq!(chosen(Secret::of_process()), chosen(Secret::of_process()));
    assert_ne!(chosen(Secret::of_process()), chosen(SECRET));
}

fn found_as_listed<A: Address>(
    at: impl Fn(u32) -> A,
    list: &[(u32, u8, u16)],
    probes: &[(u32, u8, u16)],
) {
    let protocol = |number: u8| [TCP, UDP, SCTP, 136][usize::from(number % 4)];
    let nobody = Arc::new(Backends::new(&[]).unwrap());
    let mut plain = HashMap::new();
    for (address, number, port) in list {
        plain
            .entry((at(*address), protocol(*number), *port))
            .or_insert(());
    }
    let services: Vec<_> = plain
        .keys()
        .map(|(address, protocol, port)| Service {
            address: *address,
            protocol: *protocol,
            port: *port,
            backends: Arc::clone(&nobody),
            ..service(*address, *protocol, &[])
        })
        .collect();
    let services = Services::new(services, SECRET).unwrap();
    for (address, number, port) in probes.iter().chain(list) {
        let asked = (at(*address), protocol(*number), *port);
        let found = services.at(asked.0, asked.1, asked.2);
        assert_eq!(found.is_some(), plain.contains_key(&asked));
        if let Some((number, service)) = found {
            assert_eq!((service.address, service.protocol, service.port), asked);
            let same = services.service(number).unwrap();
            assert_eq!((same.address, same.protocol, same.port), asked);
        }
    }
}

/// As many as a large cluster has.
#[test]
fn ten_thousand_services_are_found() {
    let list: Vec<_> = (0..10_000)
        .map(|number| (number / 3, 1, 1 + number as u16 % 3))
        .collect();
    let probes: Vec<_> = (0..1000)
        .map(|number| (number * 7, 0, 1 + number as u16 % 5))
        .collect();
    found_as_listed(|number| VIP.to_bits() + number, &list, &probes);
    found_as_listed(|number| u128::from(number) << 64 | 0xfd, &list, &probes);
}

proptest! {
    #[test]
    fn services_are_found_as_in_a_list(
        list in prop::collection::vec((0..6_u32, 0..4_u8, 1..5_u16), 0..60),
        probes in prop::collection::vec((0..8_u32, 0..4_u8, 0..6_u16), 0..60),
    ) {
        found_as_listed(|number| number << 24 | 1, &list, &probes);
        found_as_listed(|number| u128::from(number) << 120 | u128::from(number), &list, &probes);
    }

    #[test]
    fn source_ranges_contain_what_their_prefixes_do(
        prefixes in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..8),
        few in prop::collection::vec((0..64_u32, 24..=32_u8), 0..8),
        probes in prop::collection::vec(any::<u32>(), 20),
    ) {
        let prefixes: Vec<_> = prefixes.into_iter().filter(|(_, length)| *length > 3).chain(few).collect();
        let ranges = SourceRanges::new(&prefixes);
        let wide: Vec<_> = prefixes.iter().map(|(of, length)| (u128::from(*of) << 96, *length)).collect();
        let wide = SourceRanges::new(&wide);
        let edges = prefixes.iter().flat_map(|(of, _)| [*of, of.wrapping_add(1), of.wrapping_sub(1)]);
        for address in probes.into_iter().chain(edges).chain(0..66) {
            let plain = prefixes.iter().any(|(of, length)| {
                let host = 32 - u32::from(*length);
                u64::from(*of) >> host == u64::from(address) >> host
            });
            prop_assert_eq!(ranges.contains(address), plain);
            prop_assert_eq!(wide.contains(u128::from(address) << 96 | 5), plain);
        }
    }
}

#[test]
fn everybody_is_in_the_prefix_of_all() {
    let all = SourceRanges::new(&[(7_u32, 32), (0, 0)]);
    let all6 = SourceRanges::new(&[(0_u128, 0), (9, 128)]);
    for address in [0, 7, 8, u32::MAX] {
        assert!(all.contains(address) && all6.contains(u128::from(address) << 90));
    }
    assert!(all6.contains(u128::MAX) && !SourceRanges::<u128>::new(&[]).contains(0));
}
