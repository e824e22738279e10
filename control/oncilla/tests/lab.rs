//! The real daemon between Linux hosts: what it forwards, answers and shows, and how it comes and goes.

mod kit;

use std::fs::File;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use afpacket_sim::offload::active_features;
use afpacket_sim::rtnl::VethEnd;
use afpacket_sim::traffic::{
    Integrity, PathMtuOptions, PingOptions, TcpOptions, TracerouteOptions, UdpOptions, path_mtu,
    tcp_transfer, traceroute, udp_transfer,
};
use afpacket_sim::{Lab, MacAddress, Offloads};
use control::client::Client;
use control_api::v1;
use kit::{
    Daemon, FAR, TOPOLOGY, assert_all_answered, assert_answered, ip, lab, object, objects, pings,
    wait_until,
};
use pcap_file::pcap::PcapReader;

/// Few echo requests, and little patience: for when no answer is expected.
fn briefly() -> PingOptions {
    PingOptions {
        count: 3,
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(300),
        ..PingOptions::default()
    }
}

/// Echo requests with a payload that tells them from others.
fn marked(count: u32, payload_bytes: usize) -> PingOptions {
    PingOptions {
        count,
        payload_bytes,
        ..PingOptions::default()
    }
}

fn configured(lab: &Lab, directory: &std::path::Path, arguments: &[&str]) -> Daemon {
    let mut daemon = Daemon::start(lab, directory, arguments);
    daemon.apply(&objects(lab.topology()));
    daemon
}

#[test]
fn pings_cross_in_both_families_and_through_tags() {
    let Some((lab, _turn)) = lab("pings_cross_in_both_families_and_through_tags", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let daemon = configured(&lab, directory.path(), &[]);
    assert_all_answered(&lab, 200);
    // Between tagged links, one of them with two tags.
    assert_answered(&lab, "c", "198.18.4.2", &marked(50, 1400));
    assert_answered(&lab, "d", "2001:db8:3::2", &marked(50, 1400));
    // The gateway itself.
    for own in ["198.18.1.1", "2001:db8:1::1", "198.18.4.1", "2001:db8:3::1"] {
        assert_answered(&lab, "a", own, &marked(10, 56));
    }
    daemon.stop();
}

#[test]
fn content_arrives_with_offloads_on_and_off() {
    let Some((lab, _turn)) = lab("content_arrives_with_offloads_on_and_off", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let daemon = configured(&lab, directory.path(), &[]);
    for offloads in [Offloads::ON, Offloads::OFF] {
        lab.set_host_offloads(offloads).unwrap();
        contents_arrive(&lab, &format!("{offloads:?}"));
    }
    daemon.stop();
}

#[test]
fn segments_are_joined_on_receive_and_the_devices_setting_returns() {
    let name = "segments_are_joined_on_receive_and_the_devices_setting_returns";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let router = lab.router().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &[]);
    let device = daemon.interface("p0").device;
    let joins = || {
        let features = active_features(router, &device).unwrap();
        features.iter().any(|feature| feature == "rx-gro")
    };
    assert!(joins(), "the port asked for it");
    lab.set_host_offloads(Offloads::OFF).unwrap();
    const BYTES: u64 = 8 << 20;
    let options = TcpOptions {
        bytes_per_stream: Some(BYTES),
        duration: kit::PATIENCE,
        verify: true,
        ..TcpOptions::default()
    };
    let (a, b) = (lab.namespace("a").unwrap(), lab.namespace("b").unwrap());
    let before = daemon.interface("p0").counters.unwrap().rx_packets;
    let report = tcp_transfer(a, b, ip("198.18.2.2"), &options).unwrap();
    assert_eq!(report.integrity, Integrity::Intact, "{report:?}");
    let packets = daemon.interface("p0").counters.unwrap().rx_packets - before;
    // One by one, segments of 1448 bytes, there were four times as many at least.
    assert!(packets < BYTES / 1448 / 4, "{packets} packets");
    daemon.stop();
    assert!(!joins(), "the device is as it was");
}

/// Compares TCP streams and datagrams to all hosts, byte by byte.
fn contents_arrive(lab: &Lab, context: &str) {
    let a = lab.namespace("a").unwrap();
    for (host, v4, v6) in FAR {
        let server = lab.namespace(host).unwrap();
        for to in [v4, v6] {
            let options = TcpOptions {
                streams: 2,
                bytes_per_stream: Some(4 << 20),
                duration: kit::PATIENCE,
                verify: true,
                ..TcpOptions::default()
            };
            let report = tcp_transfer(a, server, ip(to), &options).unwrap();
            assert_eq!(
                report.integrity,
                Integrity::Intact,
                "{context}, {to}: {report:?}"
            );
            assert_eq!(
                (report.total_sent, report.total_received),
                (8 << 20, 8 << 20),
                "{context}, {to}"
            );
            // The second size is fragmented by the host, and for b by the gateway once more.
            for payload_bytes in [1000, 2900] {
                if payload_bytes > 1400 && to == "2001:db8:2::2" {
                    // The host has to learn the path MTU before its fragments fit.
                    a.run(|| path_mtu(ip(to), &PathMtuOptions::default()))
                        .unwrap()
                        .unwrap();
                }
                let options = UdpOptions {
                    count: 300,
                    payload_bytes,
                    packets_per_second: Some(3000.0),
                    ..UdpOptions::default()
                };
                let report = udp_transfer(a, server, ip(to), &options).unwrap();
                assert_eq!(
                    (report.sent, report.received, report.corrupted),
                    (300, 300, 0),
                    "{context}, {to}: {report:?}"
                );
                assert_eq!(report.duplicates, 0, "{context}, {to}: {report:?}");
            }
        }
    }
}

#[test]
fn the_gateway_answers_as_a_router_does() {
    let Some((lab, _turn)) = lab("the_gateway_answers_as_a_router_does", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &[]);
    let a = lab.namespace("a").unwrap();
    for (own, far) in [
        ("198.18.1.1", "198.18.3.2"),
        ("2001:db8:1::1", "2001:db8:3::2"),
    ] {
        let hops = a.run(|| traceroute(ip(far), &TracerouteOptions::default()));
        let hops: Vec<IpAddr> = hops
            .unwrap()
            .unwrap()
            .iter()
            .filter_map(|hop| hop.answer.map(|answer| answer.address))
            .collect();
        assert_eq!(hops, [ip(own), ip(far)]);
    }
    for (own, far) in [
        ("198.18.1.1", "198.18.2.2"),
        ("2001:db8:1::1", "2001:db8:2::2"),
    ] {
        let found = a.run(|| path_mtu(ip(far), &PathMtuOptions::default()));
        let found = found.unwrap().unwrap();
        assert_eq!(found.path_mtu, Some(1400), "{found:?}");
        let told: Vec<_> = found
            .too_big
            .iter()
            .map(|told| (told.router, told.mtu))
            .collect();
        assert_eq!(told, [(ip(own), 1400)]);
        // The hosts fragment to what they have learnt.
        assert_answered(&lab, "a", far, &marked(20, 4000));
    }
    // Nothing is known about the path, so the gateway itself has to fragment.
    lab.forget_learnt().unwrap();
    assert_answered(&lab, "a", "198.18.2.2", &marked(20, 4000));
    // Forbidden to, it says so.
    let forbidden = PingOptions {
        payload_bytes: 1400,
        dont_fragment: true,
        ..briefly()
    };
    let report = pings(&lab, "a", "198.18.2.2", &forbidden);
    assert_eq!(report.received, 0, "{report:?}");
    assert!(report.errors > 0, "{report:?}");

    // Nobody has this address: the hosts are told, in both families.
    for nobody in ["198.18.3.77", "2001:db8:3::77"] {
        let patient = PingOptions {
            count: 1,
            timeout: Duration::from_secs(8),
            ..PingOptions::default()
        };
        let report = pings(&lab, "a", nobody, &patient);
        assert_eq!(
            (report.received, report.errors),
            (0, 1),
            "{nobody}: {report:?}"
        );
    }
    // Nor is there a route here.
    let report = pings(&lab, "a", "203.0.113.1", &briefly());
    assert_eq!((report.received, report.errors), (0, 3), "{report:?}");
    assert!(daemon.drops("ip4-lookup", "no-route") + daemon.drops("icmp4-error", "no-route") <= 3);

    // What to do with a destination is configured.
    let route = |kind: &str| {
        object(
            "Route",
            "test-net",
            &format!("{{destination: 203.0.113.0/24, type: {kind}}}"),
        )
    };
    daemon.apply(&route("blackhole"));
    let report = pings(&lab, "a", "203.0.113.1", &briefly());
    assert_eq!((report.received, report.errors), (0, 0), "{report:?}");
    for kind in ["unreachable", "prohibit"] {
        daemon.apply(&route(kind));
        let report = pings(&lab, "a", "203.0.113.1", &briefly());
        assert_eq!(
            (report.received, report.errors),
            (0, 3),
            "{kind}: {report:?}"
        );
    }
    daemon.stop();
}

#[test]
fn two_workers_share_the_traffic() {
    let Some((lab, _turn)) = lab("two_workers_share_the_traffic", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &["--workers", "2"]);
    assert_all_answered(&lab, 100);
    let (a, b) = (lab.namespace("a").unwrap(), lab.namespace("b").unwrap());
    for to in ["198.18.2.2", "2001:db8:2::2"] {
        // So many flows that both workers get some.
        let options = TcpOptions {
            streams: 32,
            bytes_per_stream: Some(256 << 10),
            duration: kit::PATIENCE,
            verify: true,
            ..TcpOptions::default()
        };
        let report = tcp_transfer(a, b, ip(to), &options).unwrap();
        assert_eq!(report.integrity, Integrity::Intact, "{to}: {report:?}");
    }
    let runtime = daemon.ask(Client::runtime).unwrap();
    assert_eq!(runtime.workers.len(), 2);
    for worker in &runtime.workers {
        for node in ["ip4-lookup", "ip6-lookup"] {
            let packets: u64 = worker
                .nodes
                .iter()
                .filter(|found| found.name == node)
                .map(|found| found.packets)
                .sum();
            assert!(packets > 0, "worker {} has no {node}", worker.worker);
        }
    }
    // Configuration reaches both.
    daemon.delete(&[("Address", "p1-v4")]);
    assert_eq!(pings(&lab, "a", "198.18.2.2", &briefly()).received, 0);
    daemon.apply(&objects(lab.topology()));
    assert_all_answered(&lab, 20);
    daemon.stop();
}

#[test]
fn neighbours_and_routes_are_shown() {
    let Some((lab, _turn)) = lab("neighbours_and_routes_are_shown", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &[]);
    assert_all_answered(&lab, 3);
    let mac_of = |host: &str| {
        let mut rtnl = lab.namespace(host).unwrap().rtnl().unwrap();
        rtnl.link("eth0").unwrap().mac.expect("has one").to_string()
    };
    let shown = |daemon: &mut Daemon, address: &str| {
        let all = daemon.ask(Client::neighbours).unwrap().neighbours;
        all.into_iter().find(|found| found.address == address)
    };
    for (host, address, interface) in [
        ("a", "198.18.1.2", "p0"),
        ("b", "2001:db8:2::2", "p1"),
        ("c", "198.18.3.2", "p2.10"),
        ("d", "2001:db8:4::2", "p3.100.20"),
    ] {
        let found = shown(&mut daemon, address).unwrap_or_else(|| panic!("{address} is not there"));
        assert_eq!(
            (found.mac_address, found.interface.as_str()),
            (mac_of(host), interface)
        );
        let known = ["reachable", "stale", "delay", "probe"];
        assert!(
            known.contains(&found.state.as_str()),
            "{address}: {}",
            found.state
        );
    }

    // A static neighbour that is wrong leads into the void, and gone, the right one is found again.
    let wrong = "{interface: p1, address: 198.18.2.2, macAddress: \"02:00:00:00:77:77\"}";
    daemon.apply(&object("Neighbour", "b", wrong));
    let found = shown(&mut daemon, "198.18.2.2").expect("is there");
    assert_eq!(
        (found.state.as_str(), found.mac_address.as_str()),
        ("static", "02:00:00:00:77:77")
    );
    assert_eq!(pings(&lab, "a", "198.18.2.2", &briefly()).received, 0);
    daemon.delete(&[("Neighbour", "b")]);
    assert_answered(&lab, "a", "198.18.2.2", &marked(3, 56));
    let right = format!(
        "{{interface: p1, address: 198.18.2.2, macAddress: \"{}\"}}",
        mac_of("b")
    );
    daemon.apply(&object("Neighbour", "b", &right));
    assert_answered(&lab, "a", "198.18.2.2", &marked(3, 56));

    let through = "{destination: 203.0.113.0/24, nextHops: [{via: 198.18.2.2}]}";
    daemon.apply(&object("Route", "test-net", through));
    let routes = daemon.routes();
    let route = |destination: &str| {
        let found = routes.iter().find(|route| route.destination == destination);
        found.unwrap_or_else(|| panic!("no {destination} in {routes:?}"))
    };
    let test_net = route("203.0.113.0/24");
    assert_eq!(
        (test_net.r#type.as_str(), test_net.origin.as_str()),
        ("unicast", "Route/test-net")
    );
    let hop = &test_net.next_hops[0];
    assert_eq!(
        (hop.via.as_str(), hop.interface.as_str(), hop.state.as_str()),
        ("198.18.2.2", "p1", "resolved")
    );
    assert_eq!(hop.mac_address, mac_of("b"));
    assert_eq!(route("198.18.1.0/24").r#type, "connected");
    assert_eq!(route("198.18.1.0/24").origin, "Address/p0-v4");
    assert_eq!(route("198.18.1.1/32").r#type, "local");
    assert_eq!(route("2001:db8:4::/64").next_hops[0].interface, "p3.100.20");
    daemon.stop();
}

#[test]
fn traces_and_captures_show_what_was_sent() {
    let Some((lab, _turn)) = lab("traces_and_captures_show_what_was_sent", TOPOLOGY) else {
        return;
    };
    const PAYLOAD: usize = 123;
    const FRAME: u32 = 14 + 20 + 8 + PAYLOAD as u32;
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &[]);
    assert_all_answered(&lab, 1);

    let request = v1::TraceRequest {
        count: 5,
        interface: Some("p0".into()),
    };
    let mut traces = daemon
        .ask(async |client| client.trace(request).await)
        .unwrap();
    let request = v1::CaptureRequest {
        count: 10,
        ..v1::CaptureRequest::default()
    };
    let mut copies = daemon
        .ask(async |client| client.capture(request).await)
        .unwrap();
    assert_answered(&lab, "a", "198.18.3.2", &marked(10, PAYLOAD));

    let mut sent = 0;
    while let Some(trace) = daemon.ask(async |_| traces.message().await).unwrap() {
        assert_eq!(trace.interface, "p0");
        if trace.length == FRAME {
            let nodes: Vec<_> = trace.steps.iter().map(|step| step.node.as_str()).collect();
            for node in ["ethernet-input", "ip4-lookup", "ip4-rewrite"] {
                assert!(nodes.contains(&node), "{trace:?}");
            }
            assert!(trace.timestamp_ns > 1_700_000_000_000_000_000);
            sent += 1;
        }
    }
    assert!(sent >= 4, "{sent} of 5 traces are of the echo requests");

    let mut all = Vec::new();
    while let Some(copy) = daemon.ask(async |_| copies.message().await).unwrap() {
        all.push(copy);
    }
    assert_eq!(all.len(), 10);
    let requests_of = |interface: &str, direction: &str, header: usize| {
        let of_place = all
            .iter()
            .filter(|copy| copy.interface == interface && copy.direction == direction);
        of_place
            .filter(|copy| copy.original_length as usize == header + 28 + PAYLOAD)
            .filter(|copy| {
                let packet = &copy.data[header..];
                packet[9] == 1
                    && packet[12..16] == [198, 18, 1, 2]
                    && packet[16..20] == [198, 18, 3, 2]
                    && packet[20] == 8
            })
            .count()
    };
    assert!(requests_of("p0", "rx", 14) >= 2, "{all:?}");
    // The same packets leave with a tag.
    let tagged = requests_of("p2", "tx", 18) + requests_of("p2.10", "tx", 18);
    assert!(tagged >= 2, "{all:?}");

    // The command line writes a file that others read.
    let arguments = [
        "capture",
        "-w",
        "out.pcap",
        "--count",
        "8",
        "--interface",
        "p0",
        "--direction",
        "rx",
    ];
    let mut writer = daemon.cli_command(&arguments);
    let mut writer = writer.stderr(Stdio::piped()).spawn().unwrap();
    let host = lab.namespace("a").unwrap().clone();
    let path = directory.path().join("out.pcap");
    wait_until("the capture begins", || path.exists());
    wait_until("eight packets are captured", || {
        let ping = || afpacket_sim::traffic::ping(ip("198.18.3.2"), &marked(4, PAYLOAD));
        host.run(ping).unwrap().unwrap();
        writer.try_wait().unwrap().is_some()
    });
    assert!(writer.wait().unwrap().success());
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = 0;
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        assert_eq!(packet.data.len(), packet.orig_len as usize);
        if packet.orig_len == FRAME {
            assert_eq!(packet.data[12..14], [8, 0]);
            assert_eq!(packet.data[26..30], [198, 18, 1, 2]);
            packets += 1;
        }
    }
    assert!(packets >= 6, "{packets} of 8");
    daemon.stop();
}

#[test]
fn an_interface_goes_and_comes_back() {
    let Some((lab, _turn)) = lab("an_interface_goes_and_comes_back", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &[]);
    for _ in 0..3 {
        assert_all_answered(&lab, 5);
        daemon.delete(&[
            ("Address", "p1-v4"),
            ("Address", "p1-v6"),
            ("Interface", "p1"),
        ]);
        for gone in ["198.18.2.2", "2001:db8:2::2"] {
            let report = pings(&lab, "a", gone, &briefly());
            assert_eq!((report.received, report.errors), (0, 3), "{report:?}");
        }
        assert_answered(&lab, "a", "198.18.3.2", &marked(5, 56));
        daemon.apply(&objects(lab.topology()));
    }
    assert_all_answered(&lab, 5);

    // Taken out of service, it carries nothing.
    let p1 = |up: bool| {
        object(
            "Interface",
            "p1",
            &format!("{{afPacket: {{device: p1}}, mtu: 1400, adminUp: {up}}}"),
        )
    };
    daemon.apply(&p1(false));
    assert!(!daemon.interface("p1").admin_up);
    assert_eq!(pings(&lab, "a", "198.18.2.2", &briefly()).received, 0);
    assert_eq!(pings(&lab, "b", "198.18.2.1", &briefly()).received, 0);
    assert_answered(&lab, "a", "198.18.4.2", &marked(5, 56));
    daemon.apply(&p1(true));
    assert_all_answered(&lab, 5);

    // And a smaller MTU counts at once.
    daemon.apply(&object(
        "Interface",
        "p1",
        "{afPacket: {device: p1}, mtu: 1300}",
    ));
    lab.forget_learnt().unwrap();
    let found = lab.namespace("a").unwrap();
    let found = found.run(|| path_mtu(ip("198.18.2.2"), &PathMtuOptions::default()));
    assert_eq!(found.unwrap().unwrap().path_mtu, Some(1300));
    daemon.stop();
}

#[test]
fn a_device_goes_and_comes_back() {
    let Some((lab, _turn)) = lab("a_device_goes_and_comes_back", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = configured(&lab, directory.path(), &[]);
    assert_all_answered(&lab, 5);
    let (router, b) = (lab.router().unwrap(), lab.namespace("b").unwrap());
    router.rtnl().unwrap().delete_link("p1").unwrap();
    wait_until("the lost device is reported", || {
        let not_live = daemon.ask(Client::info).unwrap().not_live;
        let keys = not_live.iter().filter_map(|error| error.object.as_ref());
        keys.map(ToString::to_string)
            .any(|key| key == "Interface/p1")
    });
    // It is still listed, with the reason.
    let lost = daemon.interface("p1");
    assert!(lost.fault.starts_with("not live: "), "{:?}", lost.fault);
    // The rest can be changed meanwhile.
    daemon.apply(&object(
        "Route",
        "test-net",
        "{destination: 203.0.113.0/24, type: blackhole}",
    ));
    assert_eq!(pings(&lab, "a", "198.18.2.2", &briefly()).received, 0);
    assert_answered(&lab, "a", "198.18.3.2", &marked(20, 56));

    // Another device of the same name, with another Ethernet address.
    let here = VethEnd {
        mac: Some(MacAddress([2, 0, 0, 0, 0x99, 1])),
        mtu: 1400,
        index: Some(101),
        ..VethEnd::new("p1")
    };
    let there = VethEnd {
        mac: Some(MacAddress([2, 0, 0, 0, 0x99, 2])),
        mtu: 1400,
        index: Some(102),
        ..VethEnd::new("eth0")
    };
    let mut rtnl = router.rtnl().unwrap();
    rtnl.add_veth(&here, b, &there).unwrap();
    rtnl.set_up("p1", true).unwrap();
    let mut host = b.rtnl().unwrap();
    host.set_up("eth0", true).unwrap();
    host.wait_operational("eth0", kit::PATIENCE).unwrap();
    host.add_address("eth0", "198.18.2.2/24".parse().unwrap())
        .unwrap();
    host.add_route("0.0.0.0/0".parse().unwrap(), ip("198.18.2.1"))
        .unwrap();
    wait_until("the new device is in use", || {
        pings(&lab, "a", "198.18.2.2", &briefly()).received == 3
    });
    assert_eq!(daemon.ask(Client::info).unwrap().not_live, []);
    assert!(daemon.interface("p1").link_up);
    assert_eq!(daemon.interface("p1").mac_address, "02:00:00:00:99:01");
    daemon.stop();
}

#[test]
fn a_restart_restores_everything() {
    let Some((lab, _turn)) = lab("a_restart_restores_everything", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("desired.redb");
    let arguments = ["--store", store.to_str().expect("UTF-8")];
    let mut daemon = configured(&lab, directory.path(), &arguments);
    daemon.apply(&object(
        "Route",
        "test-net",
        "{destination: 203.0.113.0/24, type: blackhole}",
    ));
    assert_all_answered(&lab, 5);
    let before = daemon.objects();
    let destinations = |daemon: &mut Daemon| -> Vec<_> {
        let routes = daemon.routes();
        routes
            .into_iter()
            // Who was heard of on the links is not stored.
            .filter(|route| route.origin != "neighbour")
            .map(|route| (route.destination, route.r#type, route.origin))
            .collect()
    };
    let routes = destinations(&mut daemon);
    daemon.stop();
    assert_eq!(pings(&lab, "a", "198.18.2.2", &briefly()).received, 0);

    let mut daemon = Daemon::start(&lab, directory.path(), &arguments);
    assert_all_answered(&lab, 5);
    assert_eq!(daemon.objects(), before);
    assert_eq!(destinations(&mut daemon), routes);
    daemon.kill();

    let mut daemon = Daemon::start(&lab, directory.path(), &arguments);
    assert_all_answered(&lab, 5);
    assert_eq!(daemon.objects(), before);
    assert_eq!(destinations(&mut daemon), routes);
    daemon.stop();
}
