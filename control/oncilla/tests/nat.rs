//! Translation between Linux hosts: those inside reach those outside with one address, and are reached where a rule says so.

mod kit;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use afpacket_sim::Lab;
use afpacket_sim::traffic::{
    Integrity, PathMtuOptions, PingOptions, TcpOptions, TracerouteOptions, UdpOptions, path_mtu,
    tcp_transfer, traceroute, udp_transfer,
};
use control::client::Client;
use kit::{Daemon, TOPOLOGY, assert_answered, ip, lab, object, objects};

const WAIT: Duration = Duration::from_secs(5);

fn ping_options(count: u32) -> PingOptions {
    PingOptions {
        count,
        interval: Duration::from_millis(10),
        timeout: Duration::from_secs(2),
        ..PingOptions::default()
    }
}

/// Hosts `a` and `c` are inside, `b` is outside; the gateway's own addresses are all that the outside sees.
fn masquerade() -> String {
    [
        object("NatPool", "own", "{interfaceAddress: true}"),
        object(
            "NatRule",
            "inside",
            "{outInterfaces: [p1], sources: [198.18.1.0/24, 198.18.3.0/24, '2001:db8:1::/64'], pool: own}",
        ),
    ]
    .concat()
}

fn start(lab: &Lab, directory: &std::path::Path, translation: &str) -> Daemon {
    let mut daemon = Daemon::start(lab, directory, &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    daemon.apply(translation);
    daemon
}

/// A server in one namespace and a client in another: who the server sees, where the two can talk.
fn talk(lab: &Lab, client: &str, to: SocketAddr, server: &str, at: SocketAddr) -> Option<IpAddr> {
    let (client, server) = (
        lab.namespace(client).unwrap(),
        lab.namespace(server).unwrap(),
    );
    let listener = server
        .run(|| TcpListener::bind(at))
        .unwrap()
        .expect("the port is free");
    let stream = client
        .run(|| TcpStream::connect_timeout(&to, WAIT))
        .unwrap();
    let mut stream = stream.ok()?;
    let (mut served, peer) = listener.accept().expect("a connection");
    for side in [&mut stream, &mut served] {
        side.set_read_timeout(Some(WAIT)).unwrap();
    }
    let mut bytes = [0; 5];
    stream.write_all(b"hello").unwrap();
    served.read_exact(&mut bytes).expect("the greeting");
    served.write_all(b"world").unwrap();
    stream.read_exact(&mut bytes).expect("the answer");
    assert_eq!(&bytes, b"world");
    Some(peer.ip())
}

/// A question and its answer by UDP: who the server sees.
fn asked(lab: &Lab, client: &str, to: SocketAddr, server: &str, at: SocketAddr) -> IpAddr {
    let any = |at: SocketAddr| {
        SocketAddr::new(
            if at.is_ipv4() {
                ip("0.0.0.0")
            } else {
                ip("::")
            },
            0,
        )
    };
    let server = lab.namespace(server).unwrap().run(|| UdpSocket::bind(at));
    let server = server.unwrap().expect("the port is free");
    let client = lab
        .namespace(client)
        .unwrap()
        .run(|| UdpSocket::bind(any(to)));
    let client = client.unwrap().expect("a port");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(WAIT)).unwrap();
    }
    let mut bytes = [0; 16];
    client.send_to(b"who?", to).expect("sent");
    let (count, peer) = server.recv_from(&mut bytes).expect("the question");
    assert_eq!(&bytes[..count], b"who?");
    server.send_to(b"me", peer).expect("sent");
    let (count, answers) = client.recv_from(&mut bytes).expect("the answer");
    assert_eq!((&bytes[..count], answers), (&b"me"[..], to));
    peer.ip()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

#[test]
fn hosts_inside_reach_those_outside_with_one_address() {
    let name = "hosts_inside_reach_those_outside_with_one_address";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = start(&lab, directory.path(), &masquerade());
    for (far, own) in [
        ("198.18.2.2", "198.18.2.1"),
        ("2001:db8:2::2", "2001:db8:2::1"),
    ] {
        assert_answered(&lab, "a", far, &ping_options(100));
        assert_eq!(
            talk(&lab, "a", at(far, 80), "b", at(far, 80)),
            Some(ip(own))
        );
        assert_eq!(asked(&lab, "a", at(far, 53), "b", at(far, 53)), ip(own));
        let (a, b) = (lab.namespace("a").unwrap(), lab.namespace("b").unwrap());
        let options = TcpOptions {
            bytes_per_stream: Some(32 << 20),
            streams: 2,
            verify: true,
            ..TcpOptions::default()
        };
        let report = tcp_transfer(a, b, ip(far), &options).expect("a transfer");
        assert_eq!(report.integrity, Integrity::Intact, "{report:?}");
        println!(
            "{far}: {:.2} Gbit/s, {} sent again",
            report.gbit_per_s, report.retransmits
        );
        // The way is too narrow beyond the gateway, which says so about what was sent, not about what it became.
        let report = a
            .run(|| path_mtu(ip(far), &PathMtuOptions::default()))
            .unwrap();
        let report = report.expect("there is a way");
        assert_eq!(report.path_mtu, Some(1400), "{report:?}");
        // Long datagrams come in fragments, whose later ones have no ports.
        let options = UdpOptions {
            payload_bytes: 4000,
            packets_per_second: Some(500.0),
            ..UdpOptions::default()
        };
        let report = udp_transfer(a, b, ip(far), &options).expect("a transfer");
        assert!(
            report.sent > 0 && report.lost == 0 && report.corrupted == 0,
            "{report:?}"
        );
        // Every hop answers to who asked.
        let hops = a
            .run(|| traceroute(ip(far), &TracerouteOptions::default()))
            .unwrap();
        let hops: Vec<_> = hops
            .expect("there is a way")
            .iter()
            .map(|hop| hop.answer.map(|answer| answer.address))
            .collect();
        let near = if far.contains(':') {
            "2001:db8:1::1"
        } else {
            "198.18.1.1"
        };
        assert_eq!(hops, [Some(ip(near)), Some(ip(far))]);
    }
    // A port where nobody listens.
    let refused = lab.namespace("a").unwrap().run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.connect("198.18.2.2:9")?;
        socket.send(b"anybody?")?;
        socket.recv(&mut [0; 4])
    });
    assert_eq!(
        refused.unwrap().unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    // Nobody outside gets in, nor does a translated packet go elsewhere: between hosts inside, addresses stay.
    let inside = at("198.18.3.2", 80);
    assert_eq!(talk(&lab, "a", inside, "c", inside), Some(ip("198.18.1.2")));
    // Rules that are gone translate nothing new.
    daemon.delete(&[("NatRule", "inside"), ("NatPool", "own")]);
    let far = at("198.18.2.2", 81);
    assert_eq!(talk(&lab, "a", far, "b", far), Some(ip("198.18.1.2")));
    daemon.stop();
}

#[test]
fn a_forwarded_port_is_reached_from_outside_and_inside() {
    let name = "a_forwarded_port_is_reached_from_outside_and_inside";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let forward = object(
        "PortForward",
        "web",
        "{interface: p1, protocol: TCP, port: 8080, targetAddress: 198.18.1.2, targetPort: 80}",
    );
    let names = object(
        "PortForward",
        "names",
        "{address: 198.18.2.1, protocol: UDP, ports: {first: 5300, last: 5309}, targetAddress: 198.18.1.2, targetPort: 53}",
    );
    let daemon = start(&lab, directory.path(), &(masquerade() + &forward + &names));
    let (outside, target) = (at("198.18.2.1", 8080), at("198.18.1.2", 80));
    // From outside: the server sees who asks.
    assert_eq!(
        talk(&lab, "b", outside, "a", target),
        Some(ip("198.18.2.2"))
    );
    assert_eq!(
        asked(&lab, "b", at("198.18.2.1", 5303), "a", at("198.18.1.2", 56)),
        ip("198.18.2.2")
    );
    // From another host inside, and from the server itself: the gateway stands between, or answers would go astray.
    for client in ["c", "a"] {
        let seen = talk(&lab, client, outside, "a", target);
        let seen = seen.unwrap_or_else(|| panic!("{client} reaches the server"));
        assert!(
            seen.to_string().ends_with(".1"),
            "{client} is seen as {seen}"
        );
    }
    // A port that is not forwarded.
    assert_eq!(talk(&lab, "b", at("198.18.2.1", 8081), "a", target), None);
    daemon.stop();
}

/// Addresses that no interface has: the gateway answers for them on the link.
#[test]
fn addresses_of_pools_and_one_to_one_are_the_gateways() {
    let name = "addresses_of_pools_and_one_to_one_are_the_gateways";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let translation = [
        object(
            "NatPool",
            "few",
            "{addresses: [198.18.2.100-198.18.2.103], ports: {first: 2000, last: 2009}}",
        ),
        object(
            "NatRule",
            "inside",
            "{outInterfaces: [p1], sources: [198.18.1.0/24], pool: few}",
        ),
        object(
            "StaticNat",
            "c",
            "{external: 198.18.2.200/32, internal: 198.18.3.2/32, outInterfaces: [p1]}",
        ),
    ];
    let daemon = start(&lab, directory.path(), &translation.concat());
    let far = at("198.18.2.2", 80);
    let seen = talk(&lab, "a", far, "b", far).expect("b is reached");
    assert!((100..=103).contains(&last(seen)), "{seen}");
    // A host keeps its address; host `c` has its own, in both directions and for all protocols.
    assert_eq!(
        asked(&lab, "a", at("198.18.2.2", 53), "b", at("198.18.2.2", 53)),
        seen
    );
    assert_eq!(talk(&lab, "c", far, "b", far), Some(ip("198.18.2.200")));
    assert_answered(&lab, "b", "198.18.2.200", &ping_options(20));
    let own = at("198.18.2.200", 80);
    assert_eq!(
        talk(&lab, "b", own, "c", at("198.18.3.2", 80)),
        Some(ip("198.18.2.2"))
    );

    // Ten ports towards one endpoint, then no more: who asks is told, and who has one keeps it.
    let server = lab
        .namespace("b")
        .unwrap()
        .run(|| UdpSocket::bind("198.18.2.2:7"))
        .unwrap()
        .unwrap();
    server.set_read_timeout(Some(WAIT)).unwrap();
    let clients = lab.namespace("a").unwrap().run(|| {
        let client = |_| {
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client.set_read_timeout(Some(WAIT)).unwrap();
            client.connect("198.18.2.2:7").unwrap();
            client
        };
        (0..14).map(client).collect::<Vec<_>>()
    });
    let clients = clients.unwrap();
    let echoes = |client: &UdpSocket| {
        let mut bytes = [0; 8];
        client.send(b"echo").unwrap();
        // Either the server hears it, or the client hears that it may not.
        server
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        if let Ok((count, from)) = server.recv_from(&mut bytes) {
            server.send_to(&bytes[..count], from).unwrap();
        }
        client.recv(&mut bytes)
    };
    for (number, client) in clients.iter().enumerate() {
        let heard = echoes(client);
        assert_eq!(heard.is_ok(), number < 10, "{number}: {heard:?}");
    }
    for client in &clients[..10] {
        assert_eq!(echoes(client).expect("an answer"), 4);
    }
    daemon.stop();
}

/// Two workers: the port that a flow gets brings its replies to the worker that has it.
#[test]
fn replies_come_to_the_worker_that_has_the_flow() {
    let name = "replies_come_to_the_worker_that_has_the_flow";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--node", "gw", "--workers", "2"];
    let mut daemon = Daemon::start(&lab, directory.path(), &arguments);
    daemon.apply(&objects(lab.topology()));
    daemon.apply(&masquerade());
    let (a, b) = (lab.namespace("a").unwrap(), lab.namespace("b").unwrap());
    for far in ["198.18.2.2", "2001:db8:2::2"] {
        let options = TcpOptions {
            streams: 48,
            bytes_per_stream: Some(200_000),
            duration: kit::PATIENCE,
            verify: true,
            ..TcpOptions::default()
        };
        let report = tcp_transfer(a, b, ip(far), &options).expect("connections are made");
        assert_eq!(report.integrity, Integrity::Intact, "{far}: {report:?}");
    }
    let runtime = daemon.ask(Client::runtime).expect("answers");
    let packets = |worker: &control_api::v1::WorkerRuntime| {
        let policy = |name: &str| name == "ip4-policy" || name == "ip6-policy";
        let nodes = worker.nodes.iter().filter(|node| policy(&node.name));
        nodes.map(|node| node.packets).sum::<u64>()
    };
    let by_worker: Vec<u64> = runtime.workers.iter().map(packets).collect();
    let pairs = runtime.workers.iter().flat_map(|worker| &worker.handoff);
    let handed: u64 = pairs.map(|pair| pair.sent).sum();
    println!("packets by worker {by_worker:?}, handed over {handed}");
    assert!(
        by_worker.iter().all(|packets| *packets > 100),
        "{by_worker:?}"
    );
    assert!(
        handed * 20 <= by_worker.iter().sum::<u64>(),
        "{handed} of {by_worker:?}"
    );
    // The sessions are there to be seen.
    let (code, text, _) = daemon.cli(&["show", "nat", "sessions", "-o", "json"]);
    let sessions: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert!(code == 0 && sessions.len() >= 96, "{text}");
    let of = |session: &serde_json::Value| session["becomes"]["source"].as_str().map(str::to_owned);
    let known = ["198.18.2.1", "2001:db8:2::1"];
    assert!(
        sessions
            .iter()
            .filter_map(of)
            .all(|source| known.contains(&&*source)),
        "{text}"
    );
    let (code, text, _) = daemon.cli(&["show", "nat", "pools"]);
    assert!(
        code == 0 && text.contains("NatPool/own") && text.contains("198.18.2.1"),
        "{text}"
    );
    let (code, text, _) = daemon.cli(&["show", "nat", "usage"]);
    assert!(code == 0 && text.contains("2001:db8:2::1"), "{text}");
    daemon.stop();
}

fn last(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}
