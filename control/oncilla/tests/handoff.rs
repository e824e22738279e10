//! Two workers and policy between Linux hosts: what concerns a flow passes wherever it arrives.

mod kit;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use afpacket_sim::Lab;
use afpacket_sim::traffic::{
    Integrity, PingOptions, TcpOptions, TracerouteOptions, tcp_transfer, traceroute,
};
use control::client::Client;
use kit::{Daemon, TOPOLOGY, ip, lab, object, objects, pings};

/// Sockets of each kind, so that both workers own some of their flows.
const FLOWS: usize = 24;
const WAIT: Duration = Duration::from_secs(5);
/// Bytes of a datagram that goes in three fragments.
const LONG: usize = 3600;
const ECHO_PORT: u16 = 7007;

/// Sends back what comes, until something short comes.
fn echo(address: IpAddr) {
    let socket = UdpSocket::bind(SocketAddr::new(address, ECHO_PORT)).expect("the port is free");
    socket.set_read_timeout(Some(4 * WAIT)).expect("a time");
    let mut bytes = [0; LONG];
    while let Ok((count, from)) = socket.recv_from(&mut bytes)
        && count > 1
    {
        socket.send_to(&bytes[..count], from).expect("sent");
    }
}

/// Sockets of this namespace, connected.
fn sockets(to: SocketAddr) -> Vec<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = |_| {
        let socket = UdpSocket::bind(any).expect("a port is free");
        socket.connect(to).expect("there is a way");
        socket.set_read_timeout(Some(WAIT)).expect("a time");
        socket
    };
    (0..FLOWS).map(socket).collect()
}

/// How many of many long datagrams come back as they were.
fn echoed(to: IpAddr) -> usize {
    let sockets = sockets(SocketAddr::new(to, ECHO_PORT));
    let come_back = |(number, socket): (usize, &UdpSocket)| {
        let sent: Vec<u8> = (0..LONG).map(|at| (at * 7 + number) as u8).collect();
        // The first long answer over IPv6 is lost: its sender learns the path's MTU by it.
        let times = if number == 0 && to.is_ipv6() { 2 } else { 1 };
        (0..times).any(|_| {
            socket.send(&sent).expect("sent");
            let mut bytes = [0; LONG + 1];
            socket
                .recv(&mut bytes)
                .is_ok_and(|count| bytes[..count] == sent)
        })
    };
    let count = sockets
        .iter()
        .enumerate()
        .filter(|socket| come_back(*socket))
        .count();
    sockets[0].send(&[0]).expect("sent");
    count
}

/// How many of many senders hear that nobody listens.
fn refused(to: IpAddr) -> usize {
    let hears = |socket: &UdpSocket| {
        socket.send(b"anybody?").expect("sent");
        let error = socket.recv(&mut [0; 8]).err();
        error.is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let sockets = sockets(SocketAddr::new(to, 9));
    sockets.iter().filter(|socket| hears(socket)).count()
}

fn traced(lab: &Lab, from: &str, to: &str) -> bool {
    let options = TracerouteOptions {
        max_hops: 3,
        ..TracerouteOptions::default()
    };
    let namespace = lab.namespace(from).expect("a host");
    let hops = namespace
        .run(|| traceroute(ip(to), &options))
        .expect("a thread");
    let hops = hops.expect("there is a way");
    hops.last()
        .and_then(|hop| hop.answer)
        .is_some_and(|answer| answer.reached)
}

#[test]
fn two_workers_know_each_others_flows() {
    let Some((lab, _turn)) = lab("two_workers_know_each_others_flows", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw", "--workers", "2"]);
    daemon.apply(&objects(lab.topology()));
    let far = lab.namespace("a").unwrap();
    // Hosts answer each datagram to a closed port, not one per second.
    far.set_sysctls(&[
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
    ])
    .unwrap();
    // What b begins passes, and what belongs to it: answers, fragments, errors. Nothing else reaches b.
    daemon.apply(
        &(object(
            "AccessList",
            "from-b",
            "{interface: p1, direction: Input, rules: [{action: Permit, reflect: true}]}",
        ) + &object(
            "AccessList",
            "to-b",
            "{interface: p1, direction: Output, rules: [{action: Deny}]}",
        )),
    );
    let near = lab.namespace("b").unwrap();
    for address in ["198.18.1.2", "2001:db8:1::2"] {
        let to = ip(address);
        let options = TcpOptions {
            streams: FLOWS,
            bytes_per_stream: Some(50_000),
            duration: kit::PATIENCE,
            verify: true,
            ..TcpOptions::default()
        };
        let report = tcp_transfer(near, far, to, &options).expect("connections are made");
        assert_eq!(report.integrity, Integrity::Intact, "{address}");
        let options = PingOptions {
            count: 3,
            interval: Duration::from_millis(20),
            ..PingOptions::default()
        };
        for _ in 0..8 {
            assert_eq!(pings(&lab, "b", address, &options).received, 3, "{address}");
        }
        let server = far.spawn("echo", move || echo(to)).expect("a thread");
        let wait = || std::thread::sleep(Duration::from_millis(100));
        let count = near
            .run(move || {
                wait();
                echoed(to)
            })
            .expect("a thread");
        assert_eq!(count, FLOWS, "datagrams in fragments, {address}");
        server.join().expect("the server ends");
        let count = near.run(move || refused(to)).expect("a thread");
        assert_eq!(count, FLOWS, "errors about flows, {address}");
        assert!(traced(&lab, "b", address));
    }
    assert_eq!(
        pings(&lab, "a", "198.18.2.2", &PingOptions::default()).received,
        0
    );

    // Both took part; the kernel brings plain packets to their owner, fragments and errors have to be handed over.
    let runtime = daemon.ask(Client::runtime).expect("answers");
    let of = |worker: &control_api::v1::WorkerRuntime, name: &str| {
        let node = worker.nodes.iter().find(|node| node.name == name);
        node.map_or(0, |node| node.packets)
    };
    let policed: Vec<u64> = runtime
        .workers
        .iter()
        .map(|worker| of(worker, "ip4-policy"))
        .collect();
    assert!(
        policed.len() == 2 && policed.iter().all(|packets| *packets > 100),
        "{policed:?}"
    );
    let pairs = runtime.workers.iter().flat_map(|worker| &worker.handoff);
    let sums = pairs.fold((0, 0, 0), |(sent, received, congested), pair| {
        (
            sent + pair.sent,
            received + pair.received,
            congested + pair.congested,
        )
    });
    assert!(sums.0 > 0 && sums.1 == sums.0 && sums.2 == 0, "{sums:?}");
    assert!(
        sums.0 < policed.iter().sum::<u64>() / 2,
        "{sums:?} of {policed:?}"
    );
    let (code, text, _) = daemon.cli(&["show", "runtime"]);
    assert!(code == 0 && text.contains("handed over: "), "{text}");
    daemon.stop();
}
