//! Labs with the kernel's forwarding: what the topology says is what the hosts see.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use afpacket_sim::lab::LabOptions;
use afpacket_sim::offload::{Offloads, active_features};
use afpacket_sim::rtnl::VethEnd;
use afpacket_sim::shim::{Place, Shim, ShimOptions};
use afpacket_sim::traffic::{
    CapturedFrame, Integrity, PathMtuOptions, PingOptions, PingReport, Sniffer, TcpOptions,
    TracerouteOptions, UdpOptions, inject, path_mtu, ping, tcp_transfer, traceroute, udp_transfer,
};
use afpacket_sim::{Lab, MacAddress, Namespace, Topology, topology};

/// Two hosts, a router, a smaller MTU on the way to the second host.
const ROUTED: &str = "
    router gw
    port p0 198.18.1.1/24 2001:db8:1::1/64
    port p1 198.18.2.1/24 2001:db8:2::1/64 mtu 1400
    host a to p0 198.18.1.2/24 2001:db8:1::2/64 via 198.18.1.1 via 2001:db8:1::1
    host b to p1 198.18.2.2/24 2001:db8:2::2/64 via 198.18.2.1 via 2001:db8:2::1 mtu 1400
";
const A4: &str = "198.18.1.2";
const B4: &str = "198.18.2.2";
const B6: &str = "2001:db8:2::2";

/// Two hosts behind VLANs on one wire: host, shim, trunk, shim, host.
const TRUNK: &str = "
    host a wire w vlan 10 198.18.1.1/24 2001:db8:1::1/64
    host b wire w vlan 10 198.18.1.2/24 2001:db8:1::2/64
";

/// The lab of `text`; `None`, with the reason printed, where namespaces cannot be made and nobody insists on them.
fn lab_of(text: &str) -> Option<Lab> {
    let topology: Topology = text.parse().expect("a valid topology");
    common::or_skip(Lab::build(&topology))
}

/// Where shims can work.
const PLACES: [Place; 2] = [Place::Kernel, Place::Thread];

/// As [`lab_of`], with its shims at `place`.
fn lab_with_shims(text: &str, place: Place) -> Option<Lab> {
    let topology: Topology = text.parse().expect("a valid topology");
    let options = LabOptions {
        shim_place: Some(place),
        ..LabOptions::default()
    };
    let lab = common::or_skip(Lab::build_with(&topology, &options))?;
    assert!(lab.shims().all(|(_, shim)| shim.place() == place));
    Some(lab)
}

/// How long tests wait for what does not come.
const SHORT: Duration = Duration::from_millis(100);
/// How long a link may take to come up.
const PATIENCE: Duration = Duration::from_secs(5);

fn address(text: &str) -> IpAddr {
    text.parse().expect("a valid address")
}

fn ping_from(lab: &Lab, host: &str, to: &str, options: &PingOptions) -> PingReport {
    let run = || ping(address(to), options);
    lab.namespace(host)
        .expect("a host")
        .run(run)
        .expect("it can be entered")
        .expect("ping runs")
}

#[track_caller]
fn assert_all_answered(report: &PingReport, count: u64) {
    assert_eq!((report.sent, report.received), (count, count), "{report:?}");
    assert_eq!(
        (report.duplicates, report.corrupted, report.errors),
        (0, 0, 0),
        "{report:?}"
    );
    let rtt = report.rtt.expect("answers have times");
    assert!(0 < rtt.min_ns && rtt.min_ns <= rtt.median_ns, "{rtt:?}");
    assert!(
        rtt.median_ns <= rtt.p99_ns && rtt.p99_ns <= rtt.max_ns,
        "{rtt:?}"
    );
}

fn forwarding_lab() -> Option<Lab> {
    let mut lab = lab_of(ROUTED)?;
    lab.enable_kernel_forwarding().expect("the kernel forwards");
    Some(lab)
}

#[test]
fn hosts_ping_through_the_kernel() {
    let Some(lab) = forwarding_lab() else { return };
    for to in [B4, B6] {
        let options = PingOptions {
            count: 50,
            keep_rtts: true,
            ..PingOptions::default()
        };
        let report = ping_from(&lab, "a", to, &options);
        assert_all_answered(&report, 50);
        assert_eq!(report.rtts_ns.len(), 50);
        let paced = PingOptions {
            count: 100,
            interval: Duration::from_micros(500),
            payload_bytes: 1000,
            ..PingOptions::default()
        };
        assert_all_answered(&ping_from(&lab, "a", to, &paced), 100);
        // Fragmented here and put together there. The first teaches this host the path MTU.
        let large = PingOptions {
            payload_bytes: 20_000,
            ..PingOptions::default()
        };
        ping_from(
            &lab,
            "a",
            to,
            &PingOptions {
                count: 1,
                timeout: SHORT,
                ..large.clone()
            },
        );
        assert_all_answered(&ping_from(&lab, "a", to, &large), 10);
    }
}

/// A raw socket hears the errors about its own destination from its first moment on, and about no other.
#[test]
fn errors_about_other_pings_are_not_heard() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let Some(lab) = forwarding_lab() else { return };
    // What a router says about an echo request from host a to nowhere: the network is unreachable (RFC 792).
    let mut error = [0; 36];
    error[0] = 3;
    error[8..18].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1]);
    error[20..24].copy_from_slice(&A4.parse::<Ipv4Addr>().expect("an address").octets());
    error[24..28].copy_from_slice(&[192, 0, 2, 1]);
    error[28] = 8;
    let words = error
        .chunks(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = words.map(u32::from).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    error[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());

    let over = AtomicBool::new(false);
    let tell = || {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Raw,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            nix::sys::socket::SockProtocol::Icmp,
        )
        .expect("a raw socket");
        let socket = std::net::UdpSocket::from(socket);
        socket.connect((A4, 0)).expect("a route");
        let start = Instant::now();
        while !over.load(Ordering::Relaxed) && start.elapsed() < PATIENCE {
            socket.send(&error).expect("sent");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| lab.namespace("b").expect("it is there").run(tell));
        let options = PingOptions {
            count: 1,
            ..PingOptions::default()
        };
        let reports = (0..2000).map(|_| ping_from(&lab, "a", B4, &options));
        let wrong = reports.into_iter().find(|report| report.errors > 0);
        over.store(true, Ordering::Relaxed);
        assert_eq!(wrong, None);
    });
}

#[test]
fn lost_pings_are_counted() {
    let Some(mut lab) = forwarding_lab() else {
        return;
    };
    let options = PingOptions {
        count: 2,
        timeout: SHORT,
        ..PingOptions::default()
    };
    let router = lab.router().expect("a router");
    router
        .rtnl()
        .expect("netlink")
        .set_up("p1", false)
        .expect("the port goes down");
    let report = ping_from(&lab, "a", B4, &options);
    assert_eq!(
        (report.sent, report.received, report.rtt),
        (2, 0, None),
        "{report:?}"
    );
    assert!(
        report.errors > 0,
        "the router says that there is no way on: {report:?}"
    );
    let router = lab.router().expect("a router");
    router
        .rtnl()
        .expect("netlink")
        .set_up("p1", true)
        .expect("the port comes up");
    for (host, device) in [("gw", "p1"), ("b", "eth0")] {
        let mut rtnl = lab
            .namespace(host)
            .expect("it is there")
            .rtnl()
            .expect("netlink");
        rtnl.wait_operational(device, Duration::from_secs(5))
            .expect("it carries packets");
    }
    assert_all_answered(&ping_from(&lab, "a", B4, &options), 2);

    // Without forwarding there is silence, and with it again everything is as before.
    lab.disable_kernel_forwarding().expect("the ports are free");
    assert_eq!(ping_from(&lab, "a", B4, &options).received, 0);
    let router = lab.router().expect("a router");
    assert_eq!(
        router
            .rtnl()
            .expect("netlink")
            .addresses("p0")
            .expect("addresses"),
        []
    );
    assert_eq!(
        router.sysctl("net/ipv4/ip_forward").expect("a setting"),
        "0"
    );
    lab.enable_kernel_forwarding()
        .expect("the kernel forwards again");
    for to in [B4, B6] {
        assert_all_answered(&ping_from(&lab, "a", to, &options), 2);
    }
}

#[test]
fn traceroute_sees_the_router() {
    let Some(lab) = forwarding_lab() else { return };
    for (to, router) in [(B4, "198.18.1.1"), (B6, "2001:db8:1::1")] {
        let hops = lab
            .namespace("a")
            .expect("a host")
            .run(|| traceroute(address(to), &TracerouteOptions::default()))
            .expect("it can be entered")
            .expect("traceroute runs");
        let seen: Vec<_> = hops
            .iter()
            .map(|hop| {
                hop.answer
                    .map(|answer| (hop.distance, answer.address, answer.reached))
            })
            .collect();
        assert_eq!(
            seen,
            [
                Some((1, address(router), false)),
                Some((2, address(to), true))
            ]
        );
    }
    // Nobody there: the router says so after it has looked, or stays silent as long as we wait.
    let options = TracerouteOptions {
        max_hops: 2,
        timeout: Duration::from_millis(50),
        attempts: 1,
        ..Default::default()
    };
    let hops = lab
        .namespace("a")
        .expect("a host")
        .run(|| traceroute(address("198.18.2.99"), &options))
        .expect("it can be entered")
        .expect("traceroute runs");
    assert!(
        hops.iter()
            .all(|hop| !hop.answer.is_some_and(|answer| answer.reached)),
        "{hops:?}"
    );
}

#[test]
fn path_mtu_is_discovered() {
    let Some(lab) = forwarding_lab() else { return };
    let a = lab.namespace("a").expect("a host");
    for (to, router) in [(B4, "198.18.1.1"), (B6, "2001:db8:1::1")] {
        // Twice: what the kernel has learnt does not change what the probe sees.
        for _ in 0..2 {
            let report = a
                .run(|| path_mtu(address(to), &PathMtuOptions::default()))
                .expect("it can be entered")
                .expect("the probe runs");
            assert_eq!(report.path_mtu, Some(1400), "{report:?}");
            assert_eq!(report.kernel_mtu, Some(1400), "{report:?}");
            assert_eq!(report.too_big.len(), 1, "{report:?}");
            let error = report.too_big[0];
            assert_eq!(
                (error.router, error.mtu, error.refused),
                (address(router), 1400, 1500)
            );
        }
        let options = PathMtuOptions {
            start: Some(1300),
            ..PathMtuOptions::default()
        };
        let report = a
            .run(|| path_mtu(address(to), &options))
            .expect("it can be entered")
            .expect("the probe runs");
        assert_eq!((report.path_mtu, report.too_big.len()), (Some(1300), 0));
    }
}

#[test]
fn transfers_are_intact_with_and_without_offloads() {
    let Some(lab) = forwarding_lab() else { return };
    let (a, b) = (
        lab.namespace("a").expect("a host"),
        lab.namespace("b").expect("a host"),
    );
    for offloads in [
        Offloads::ON,
        Offloads::OFF,
        Offloads {
            gro: true,
            ..Offloads::ON
        },
    ] {
        lab.set_host_offloads(offloads)
            .expect("offloads can be set");
        for to in [B4, B6] {
            // A datagram lost to path MTU discovery is no fault of anybody; a change of the device forgets it.
            a.run(|| path_mtu(address(to), &PathMtuOptions::default()))
                .expect("it can be entered")
                .expect("the probe runs");
            assert_tcp_intact(a, b, to);
            assert_udp_intact(a, b, to, 1000);
            assert_udp_intact(a, b, to, 8);
            // Five fragments each.
            assert_udp_intact(a, b, to, 6000);
        }
    }
}

#[track_caller]
fn assert_tcp_intact(client: &Namespace, server: &Namespace, to: &str) {
    let options = TcpOptions {
        streams: 2,
        bytes_per_stream: Some(2 << 20),
        verify: true,
        ..TcpOptions::default()
    };
    let report = tcp_transfer(client, server, address(to), &options).expect("a transfer");
    assert_eq!(report.integrity, Integrity::Intact, "{report:?}");
    assert_eq!(
        (report.total_sent, report.total_received),
        (4 << 20, 4 << 20),
        "{report:?}"
    );
    assert!(report.gbit_per_s > 0.0);
}

#[track_caller]
fn assert_udp_intact(client: &Namespace, server: &Namespace, to: &str, payload_bytes: usize) {
    let options = UdpOptions {
        count: 500,
        payload_bytes,
        packets_per_second: Some(20_000.0),
        linger: Duration::from_millis(20),
        ..UdpOptions::default()
    };
    let report = udp_transfer(client, server, address(to), &options).expect("a transfer");
    assert_eq!(
        (report.sent, report.received, report.lost),
        (500, 500, 0),
        "{report:?}"
    );
    assert_eq!(
        (report.duplicates, report.reordered, report.corrupted),
        (0, 0, 0),
        "{report:?}"
    );
}

#[test]
fn timed_transfer_measures_at_the_receiver() {
    let Some(lab) = forwarding_lab() else { return };
    let options = TcpOptions {
        duration: Duration::from_millis(200),
        warm_up: Duration::from_millis(50),
        ..TcpOptions::default()
    };
    let (a, b) = (
        lab.namespace("a").expect("a host"),
        lab.namespace("b").expect("a host"),
    );
    let report = tcp_transfer(a, b, address(B4), &options).expect("a transfer");
    assert_eq!(report.integrity, Integrity::Unchecked);
    assert_eq!(report.total_sent, report.total_received, "{report:?}");
    assert!(
        0 < report.bytes && report.bytes < report.total_received,
        "{report:?}"
    );
    assert!(report.seconds >= 0.2, "{report:?}");
}

#[test]
fn a_transfer_into_the_void_ends() {
    let Some(lab) = lab_of(ROUTED) else {
        return;
    };
    let (a, b) = (
        lab.namespace("a").expect("a host"),
        lab.namespace("b").expect("a host"),
    );
    let tcp = TcpOptions {
        timeout: Duration::from_millis(200),
        ..TcpOptions::default()
    };
    tcp_transfer(a, b, address(B4), &tcp).expect_err("nobody forwards");
    let udp = UdpOptions {
        count: 10,
        linger: Duration::from_millis(20),
        ..UdpOptions::default()
    };
    let report = udp_transfer(a, b, address(B4), &udp).expect("it ends");
    assert_eq!((report.received, report.lost), (0, report.sent));
}

/// A ping that fills the MTU, TCP and UDP, in both families.
fn assert_carries(lab: &Lab) {
    let (a, b) = (
        lab.namespace("a").expect("a host"),
        lab.namespace("b").expect("a host"),
    );
    for offloads in [Offloads::ON, Offloads::OFF] {
        lab.set_host_offloads(offloads)
            .expect("offloads can be set");
        for (to, headers) in [("198.18.1.2", 28), ("2001:db8:1::2", 48)] {
            let full = PingOptions {
                count: 50,
                payload_bytes: 1500 - headers,
                ..PingOptions::default()
            };
            assert_all_answered(&ping_from(lab, "a", to, &full), 50);
            assert_tcp_intact(a, b, to);
            assert_tcp_intact(b, a, &to.replace("1.2", "1.1").replace("::2", "::1"));
            // A datagram that fills the MTU, and one of several fragments.
            assert_udp_intact(a, b, to, 1500 - headers);
            assert_udp_intact(a, b, to, 6000);
        }
    }
}

#[test]
fn shims_carry_a_vlan() {
    for place in PLACES {
        for trunk in [
            TRUNK.to_owned(),
            TRUNK.replace("vlan 10", "vlan 10 outer 100"),
        ] {
            let Some(lab) = lab_with_shims(&trunk, place) else {
                continue;
            };
            assert_carries(&lab);
            for (host, statistics) in lab.shim_statistics() {
                assert!(
                    statistics.to_trunk > 0 && statistics.to_host > 0,
                    "{place:?}, {host}: {statistics:?}"
                );
                assert_eq!(
                    (statistics.malformed, statistics.other_vlan),
                    (0, 0),
                    "{place:?}, {host}: {statistics:?}"
                );
            }
        }
    }
}

/// What a shim leaves on the wire is the same wherever it works.
#[test]
fn shims_of_both_kinds_understand_each_other() {
    let wire = "host a wire w 198.18.1.1/24 2001:db8:1::1/64\nhost b wire w 198.18.1.2/24 2001:db8:1::2/64";
    for outer in [None, Some(100)] {
        // The shims between the hosts are made by hand, each at its own place.
        let Some(lab) = lab_of(wire) else { return };
        let (a, b) = (
            lab.namespace("a").expect("a host"),
            lab.namespace("b").expect("a host"),
        );
        a.rtnl()
            .expect("netlink")
            .delete_link("eth0")
            .expect("the wire is cut");
        let Some(middle) = common::or_skip(Namespace::new("middle")) else {
            return;
        };
        middle
            .set_sysctls(&[("net/ipv6/conf/default/disable_ipv6", "1")])
            .expect("a namespace that stays out of the way");
        let mut rtnl = middle.rtnl().expect("netlink");
        let end = |device: &str, mtu| VethEnd {
            mtu,
            ..VethEnd::new(device)
        };
        for (host, device) in [(a, "host-a"), (b, "host-b")] {
            rtnl.add_veth(&end(device, 1500), host, &end("eth0", 1500))
                .expect("made");
        }
        rtnl.add_veth(
            &end("trunk-a", 1508),
            &middle.clone(),
            &end("trunk-b", 1508),
        )
        .expect("made");
        for device in ["host-a", "host-b", "trunk-a", "trunk-b"] {
            rtnl.set_up(device, true).expect("up");
        }
        for (host, end) in [(a, "1"), (b, "2")] {
            let mut rtnl = host.rtnl().expect("netlink");
            rtnl.set_up("eth0", true).expect("up");
            for address in [
                format!("198.18.1.{end}/24"),
                format!("2001:db8:1::{end}/64"),
            ] {
                rtnl.add_address("eth0", address.parse().expect("a prefix"))
                    .expect("added");
            }
            rtnl.wait_operational("eth0", PATIENCE).expect("it is up");
            host.wait_addresses_answer(PATIENCE).expect("they answer");
        }
        for device in ["host-a", "host-b", "trunk-a", "trunk-b"] {
            rtnl.wait_operational(device, PATIENCE).expect("it is up");
        }
        let shim = |side, place| {
            let options = ShimOptions {
                place: Some(place),
                ..ShimOptions::new(topology::Tag { vlan: 10, outer })
            };
            let (host, trunk) = (format!("host-{side}"), format!("trunk-{side}"));
            Shim::start(&middle, &host, &trunk, options)
        };
        let Some(kernel) = common::or_skip(shim("a", Place::Kernel)) else {
            return;
        };
        let thread = shim("b", Place::Thread).expect("a thread can do it");
        assert_carries(&lab);
        for shim in [&kernel, &thread] {
            assert!(shim.is_running());
            let statistics = shim.statistics();
            assert_eq!(
                (statistics.malformed, statistics.other_vlan),
                (0, 0),
                "{statistics:?}"
            );
        }
        // Dropped, it forwards no more, and its devices are free for another one.
        drop(kernel);
        let silent = PingOptions {
            count: 1,
            timeout: SHORT,
            ..PingOptions::default()
        };
        assert_eq!(ping_from(&lab, "a", "198.18.1.2", &silent).received, 0);
        let again = shim("a", Place::Kernel).expect("the devices are free");
        assert_all_answered(
            &ping_from(&lab, "a", "198.18.1.2", &PingOptions::default()),
            10,
        );
        rtnl.delete_link("trunk-a").expect("removed");
        assert!(!again.is_running());
        drop(again);
        shim("a", Place::Kernel).err().expect("the trunk is gone");
    }
}

#[test]
fn shims_keep_vlans_apart() {
    for place in PLACES {
        for (here, there) in [
            ("vlan 10", "vlan 11"),
            ("vlan 10", "vlan 10 outer 100"),
            ("vlan 10 outer 100", "vlan 10 outer 101"),
            ("vlan 10 outer 100", "vlan 11 outer 100"),
            ("vlan 10 outer 100", "vlan 100"),
        ] {
            let text = TRUNK.replacen("vlan 10", here, 1).replacen(
                "w vlan 10 198.18.1.2",
                &format!("w {there} 198.18.1.2"),
                1,
            );
            let Some(lab) = lab_with_shims(&text, place) else {
                continue;
            };
            let options = PingOptions {
                count: 1,
                timeout: SHORT,
                ..PingOptions::default()
            };
            for to in ["198.18.1.2", "2001:db8:1::2"] {
                assert_eq!(ping_from(&lab, "a", to, &options).received, 0);
            }
            let statistics = lab.shim_statistics();
            assert!(
                statistics[1].1.other_vlan > 0 && statistics[1].1.to_host == 0,
                "{place:?}, {here} to {there}: the far shim saw the request: {statistics:?}"
            );
        }
    }
}

#[test]
fn the_wire_of_a_shim_is_tagged() {
    for place in PLACES {
        for (words, tag) in [
            ("vlan 10", &b"\x81\x00\x00\x0a"[..]),
            (
                "vlan 10 outer 100",
                &b"\x88\xa8\x00\x64\x81\x00\x00\x0a"[..],
            ),
        ] {
            assert_tagged(place, words, tag);
        }
    }
}

fn assert_tagged(place: Place, words: &str, tag: &[u8]) {
    let text = format!(
        "router gw\nport p0\nsub p0 {words} 198.18.1.1/24\nhost a to p0 {words} 198.18.1.2/24"
    );
    let Some(lab) = lab_with_shims(&text, place) else {
        return;
    };
    let (router, a) = (
        lab.router().expect("a router"),
        lab.namespace("a").expect("a host"),
    );
    let frame = |tag: &[u8]| {
        [
            b"\x02\0\0\0\0\x01\x02\0\0\0\0\x99",
            tag,
            b"\x88\xb5",
            &[7; 50][..],
        ]
        .concat()
    };
    let ours = |frames: &[CapturedFrame]| -> Vec<Vec<u8>> {
        frames.iter().map(|seen| seen.bytes.clone()).collect()
    };
    let sniffer = Sniffer::open(router, "p0").expect("a sniffer");
    // A host that tags by itself is not heard; what it sends untagged arrives tagged.
    let own_tag = frame(b"\x81\x00\x00\x0a");
    inject(a, "eth0", &[own_tag, frame(b"")]).expect("sent");
    let seen = sniffer
        .collect(1, Duration::from_secs(2), |seen| {
            seen.bytes.ends_with(&[7; 50])
        })
        .expect("collected");
    assert_eq!(ours(&seen), [frame(tag)], "{place:?}, {words}");

    let sniffer = Sniffer::open(a, "eth0").expect("a sniffer");
    // Untagged and foreign frames end in the shim, as does one with the priority alone; the one of its VLAN arrives, of
    // whatever priority.
    let foreign = frame(b"\x81\x00\x00\x0b");
    let priority_only = frame(b"\x81\x00\xe0\x00");
    let mut urgent = tag.to_vec();
    urgent[2] |= 0xe0;
    let sent = [frame(b""), foreign, priority_only, frame(&urgent)];
    inject(router, "p0", &sent).expect("sent");
    let seen = sniffer
        .collect(1, Duration::from_secs(2), |seen| {
            seen.bytes.ends_with(&[7; 50])
        })
        .expect("collected");
    assert_eq!(ours(&seen), [frame(b"")], "{place:?}, {words}");
    let statistics = lab.shim_statistics()[0].1;
    assert_eq!(
        (statistics.other_vlan, statistics.malformed),
        (3, 1),
        "{place:?}, {words}"
    );
}

#[test]
fn shims_work_in_the_kernel_where_they_may() {
    // That it may is what the forced one shows.
    let Some(_) = lab_with_shims(TRUNK, Place::Kernel) else {
        return;
    };
    let lab = lab_of(TRUNK).expect("the same lab");
    let places: Vec<_> = lab
        .shims()
        .map(|(host, shim)| (host, shim.place(), shim.is_running()))
        .collect();
    assert_eq!(
        places,
        [("a", Place::Kernel, true), ("b", Place::Kernel, true)]
    );
}

#[test]
fn offloads_decide_what_crosses_a_pair() {
    let Some(lab) = lab_of("host a wire w 198.18.1.1/24\nhost b wire w 198.18.1.2/24") else {
        return;
    };
    let (a, b) = (
        lab.namespace("a").expect("a host"),
        lab.namespace("b").expect("a host"),
    );
    for (offloads, whole) in [(Offloads::ON, true), (Offloads::OFF, false)] {
        lab.set_host_offloads(offloads)
            .expect("offloads can be set");
        let active = active_features(a, "eth0").expect("features");
        assert_eq!(
            active.iter().any(|name| name == "tx-tcp-segmentation"),
            whole,
            "{active:?}"
        );
        let sniffer = Sniffer::open(b, "eth0").expect("a sniffer");
        assert_tcp_intact(a, b, "198.18.1.2");
        let frames = sniffer
            .collect(usize::MAX, Duration::ZERO, |_| true)
            .expect("collected");
        assert!(!frames.is_empty());
        let large = frames
            .iter()
            .any(|frame| frame.bytes.len() > 1514 && frame.segment_bytes.is_some());
        assert_eq!(large, whole, "GSO packets with {offloads:?}");
        assert_eq!(
            frames.iter().any(|frame| frame.needs_checksum),
            whole,
            "checksums with {offloads:?}"
        );
    }
}

#[test]
fn the_lab_is_what_the_topology_says() {
    let text = "
        router gw
        port p0 mtu 9000 queues 2 mac 02:00:00:00:00:aa
        host a to p0 198.18.1.2/24 2001:db8:1::2/64 via 198.18.1.1 route 198.18.9.0/24 via 198.18.1.3 mtu 9000 queues 2 neighbour 198.18.1.1 02:00:00:00:00:aa
    ";
    let Some(lab) = lab_of(text) else { return };
    let router = lab.router().expect("a router");
    let port = router
        .rtnl()
        .expect("netlink")
        .link("p0")
        .expect("the port");
    assert_eq!(
        (port.mtu, port.up, port.tx_queues, port.rx_queues),
        (9000, true, 2, 2)
    );
    assert_eq!(port.mac, Some(MacAddress([2, 0, 0, 0, 0, 0xaa])));
    assert_eq!(
        router
            .sysctl("net/ipv6/conf/p0/disable_ipv6")
            .expect("a setting"),
        "1"
    );
    let a = lab.namespace("a").expect("a host");
    let addresses = a
        .rtnl()
        .expect("netlink")
        .addresses("eth0")
        .expect("addresses");
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    for own in ["198.18.1.2/24", "2001:db8:1::2/64"] {
        assert!(
            addresses.iter().any(|address| address == own),
            "{addresses:?}"
        );
    }
    let error = lab.namespace("b").expect_err("no such host").to_string();
    assert!(error.contains("a, gw"), "{error}");
    let error = a
        .rtnl()
        .expect("netlink")
        .link("eth7")
        .expect_err("no such device")
        .to_string();
    assert!(error.contains("eth0"), "{error}");
}

#[test]
fn the_demo_can_be_built() {
    let Some(lab) = common::or_skip(Lab::build(&topology::demo())) else {
        return;
    };
    for name in ["a", "b", "c", "gw"] {
        lab.namespace(name).expect("it is there");
    }
    assert_eq!(lab.shim_statistics().len(), 1);
}

#[test]
fn threads_and_programs_run_inside() {
    let Some(namespace) = common::or_skip(Namespace::new("inside")) else {
        return;
    };
    let inode = namespace.inode().expect("an inode");
    let here = || {
        Namespace::current("here")
            .expect("the own namespace")
            .inode()
            .expect("an inode")
    };
    assert_ne!(here(), inode);
    assert_eq!(namespace.run(here).expect("entered"), inode);
    let task = namespace.spawn("inside", here).expect("started");
    assert_eq!(task.join().expect("no panic"), inode);

    let mut command = std::process::Command::new("readlink");
    command.arg("/proc/self/ns/net");
    let output = namespace
        .command(command)
        .expect("prepared")
        .output()
        .expect("started");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        format!("net:[{inode}]")
    );

    namespace
        .set_sysctls(&[("net/ipv4/ip_default_ttl", "63")])
        .expect("set");
    assert_eq!(
        namespace
            .sysctl("net/ipv4/ip_default_ttl")
            .expect("a setting"),
        "63"
    );
    namespace
        .set_sysctls(&[("net/ipv4/no_such_setting", "1")])
        .expect_err("unknown");
}

#[test]
fn links_can_be_changed_and_removed() {
    let Some(a) = common::or_skip(Namespace::new("a")) else {
        return;
    };
    let b = Namespace::new("b").expect("a second one");
    let mut rtnl = a.rtnl().expect("netlink");
    rtnl.add_veth(&VethEnd::new("x"), &b, &VethEnd::new("y"))
        .expect("made");
    rtnl.add_veth(&VethEnd::new("x"), &b, &VethEnd::new("z"))
        .expect_err("the name is taken");
    let mac = MacAddress([2, 1, 2, 3, 4, 5]);
    rtnl.set_mac("x", mac).expect("set");
    rtnl.set_mtu("x", 1280).expect("set");
    rtnl.set_mtu("x", 1).expect_err("too small");
    rtnl.set_up("x", true).expect("up");
    let link = rtnl.link("x").expect("the link");
    assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 1280, true));
    let address = "198.18.1.1/24".parse().expect("a prefix");
    rtnl.add_address("x", address).expect("added");
    rtnl.add_address("x", address).expect_err("it is there");
    rtnl.add_route(
        "198.18.9.0/24".parse().expect("a prefix"),
        "198.18.7.1".parse().expect("an address"),
    )
    .expect_err("the gateway is off-link");
    rtnl.flush_addresses("x").expect("flushed");
    let left = rtnl.addresses("x").expect("addresses");
    assert!(!left.contains(&address), "{left:?}");
    rtnl.delete_link("x").expect("removed");
    let names: Vec<_> = b
        .rtnl()
        .expect("netlink")
        .links()
        .expect("links")
        .into_iter()
        .map(|link| link.name)
        .collect();
    assert_eq!(names, ["lo"], "the other end went with it");
}
