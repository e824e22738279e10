//! Random changes of the configuration, valid and invalid, while traffic runs: what they do not concern goes on without a loss, the
//! end is as configured, and no buffer is lost.

mod kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use afpacket_sim::Lab;
use afpacket_sim::traffic::{
    Integrity, PingOptions, TcpOptions, UdpOptions, ping, tcp_transfer, udp_transfer,
};
use control::client::{Client, ClientError};
use control_api::v1;
use kit::{Daemon, TOPOLOGY, all_of, assert_all_answered, ip, key, lab, object, objects, parse};

/// How long it goes on, unless `SOAK_SECONDS` says otherwise.
const SECONDS: u64 = 10;
/// Objects of each kind that come and go.
const EACH: u64 = 8;

#[test]
fn forwarding_survives_a_storm_of_configuration() {
    let Some((lab, _turn)) = lab("forwarding_survives_a_storm_of_configuration", TOPOLOGY) else {
        return;
    };
    storm(&lab, &["--workers", "1"]);
}

#[test]
fn two_workers_survive_a_storm_of_configuration() {
    let Some((lab, _turn)) = lab("two_workers_survive_a_storm_of_configuration", TOPOLOGY) else {
        return;
    };
    storm(&lab, &["--workers", "2"]);
}

fn storm(lab: &Lab, arguments: &[&str]) {
    let number = |name: &str| {
        std::env::var(name).ok().map(|text| {
            text.parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is a number"))
        })
    };
    let duration = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(SECONDS));
    let seed = number("ONCILLA_SEED").unwrap_or_else(|| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(0)
    });
    println!("ONCILLA_SEED={seed} repeats the changes");
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("desired.redb");
    let arguments = [
        arguments,
        &["--store", store.to_str().expect("UTF-8"), "--log", "warn"],
    ]
    .concat();
    let mut daemon = Daemon::start(lab, directory.path(), &arguments);
    let base = objects(lab.topology());
    daemon.apply(&base);
    assert_all_answered(lab, 3);

    let over = Arc::new(AtomicBool::new(false));
    let lost = thread::scope(|scope| {
        // However this ends, the traffic does.
        let _end = Raise(&over);
        let calm = [
            scope.spawn(|| calm_pings(lab, "198.18.2.2", &over)),
            scope.spawn(|| calm_pings(lab, "2001:db8:2::2", &over)),
        ];
        let streams = scope.spawn(|| calm_streams(lab, &over));
        let rough = scope.spawn(|| rough_traffic(lab, &over));
        let done = changes(&mut daemon, &mut Random(seed), duration);
        over.store(true, Ordering::Relaxed);
        let mut sent = 0;
        let mut lost = 0;
        for pings in calm {
            let (of, missing) = pings.join().expect("no panic");
            sent += of;
            lost += missing;
        }
        let streams = streams.join().expect("no panic");
        let rough = rough.join().expect("no panic");
        println!(
            "{} transactions taken and {} refused; beside them {sent} echo requests, {lost} lost, and {streams} TCP transfers; \
             on what they changed, {rough} datagrams and echoes arrived",
            done.taken, done.refused
        );
        assert!(done.taken > 20 && done.refused > 5 && sent > 100 && streams > 0 && rough > 0);
        lost
    });
    // Only the kernel's rings may have lost what nobody touched: they are finite, and TCP fills them.
    let full: u64 = ["p0", "p1"]
        .map(|port| {
            let counters = daemon.interface(port).counters.expect("counts");
            counters.rx_drops + counters.tx_drops
        })
        .iter()
        .sum();
    let drops = daemon.ask(Client::drops).unwrap().drops;
    assert!(
        lost <= full,
        "{lost} echo requests were lost and rings dropped {full}: {drops:?}"
    );

    // The configuration of the beginning, and everything forwards.
    let wanted = parse(&base);
    let (_, all) = daemon.objects();
    let is_wanted = |object: &v1::Object| wanted.iter().any(|wanted| wanted.key() == object.key());
    let deletes = all
        .iter()
        .filter(|object| !is_wanted(object))
        .map(v1::Object::key)
        .collect();
    let request = v1::ApplyRequest {
        upserts: wanted.clone(),
        deletes,
        ..v1::ApplyRequest::default()
    };
    if let Err(error) = daemon.ask(async |client| client.apply(request).await) {
        panic!("{}\n{}", all_of(&error), daemon.log());
    }
    lab.forget_learnt().unwrap();
    assert_all_answered(lab, 50);
    let info = daemon.ask(Client::info).unwrap();
    assert_eq!(info.not_live, []);
    let runtime = daemon.ask(Client::runtime).unwrap();
    assert!(
        runtime.workers.iter().all(|worker| worker.panics == 0),
        "a node panicked: {}",
        daemon.log()
    );
    let routes = daemon.routes();
    daemon.stop();

    // What was stored meanwhile makes the same gateway.
    let mut daemon = Daemon::start(lab, directory.path(), &arguments);
    let names = |routes: Vec<v1::RouteEntry>| -> Vec<_> {
        routes
            .into_iter()
            // Who was heard of on the links is not stored.
            .filter(|route| route.origin != "neighbour")
            .map(|route| (route.destination, route.r#type, route.origin))
            .collect()
    };
    assert_eq!(names(daemon.routes()), names(routes));
    assert_all_answered(lab, 3);
    daemon.stop();
}

/// What the daemon said to the changes.
#[derive(Default)]
struct Done {
    taken: u64,
    refused: u64,
}

/// Changes at random until the time is over.
fn changes(daemon: &mut Daemon, random: &mut Random, duration: Duration) -> Done {
    let start = Instant::now();
    let mut done = Done::default();
    while start.elapsed() < duration {
        let valid = random.below(4) > 0;
        let request = if valid {
            valid_change(daemon, random)
        } else {
            invalid_change(random)
        };
        let before = daemon.objects();
        match daemon.ask(async |client| client.apply(request.clone()).await) {
            Ok(answer) => {
                assert!(valid, "accepted: {request:?}");
                assert!(answer.generation >= before.0);
                done.taken += 1;
            }
            Err(ClientError::Refused(refusal)) if !valid => {
                assert!(!refusal.errors.is_empty());
                assert_eq!(daemon.objects(), before, "a refusal changes nothing");
                done.refused += 1;
            }
            Err(error) => panic!("{}: {request:?}\n{}", all_of(&error), daemon.log()),
        }
        thread::sleep(Duration::from_millis(random.below(15)));
    }
    done
}

/// Something that can always be done. Nothing here concerns what goes from `p0` to `p1`.
fn valid_change(daemon: &mut Daemon, random: &mut Random) -> v1::ApplyRequest {
    let n = random.below(EACH);
    let upsert = |text: String| v1::ApplyRequest {
        upserts: parse(&text),
        ..v1::ApplyRequest::default()
    };
    let (_, present) = daemon.objects();
    let has = |kind: &str, name: &str| {
        let wanted = key(kind, name);
        present.iter().any(|object| object.key() == wanted)
    };
    let delete = |names: &[(&str, &str)]| v1::ApplyRequest {
        deletes: names
            .iter()
            .filter(|(kind, name)| has(kind, name))
            .map(|(kind, name)| key(kind, name))
            .collect(),
        ..v1::ApplyRequest::default()
    };
    match random.below(10) {
        0 => {
            let name = format!("extra-{n}");
            if has("Address", &name) {
                return delete(&[("Address", &name)]);
            }
            let interface = random.one_of(&["p0", "p1", "p2.10"]);
            let address =
                random.one_of(&[format!("10.{n}.0.1/24"), format!("2001:db8:f{n}::1/64")]);
            upsert(object(
                "Address",
                &name,
                &format!("{{interface: {interface}, address: \"{address}\"}}"),
            ))
        }
        1 | 2 => {
            let name = format!("route-{n}");
            if random.below(3) == 0 && has("Route", &name) {
                return delete(&[("Route", &name)]);
            }
            let destination = random.one_of(&[
                format!("10.{}.0.0/16", 100 + n),
                format!("203.0.113.{}/32", 16 * n),
                format!("2001:db8:e{n}::/48"),
            ]);
            let (one, other) = if destination.contains(':') {
                ("2001:db8:1::2", "2001:db8:2::77")
            } else {
                ("198.18.1.2", "198.18.2.77")
            };
            let how = random.one_of(&[
                "type: blackhole".to_owned(),
                "type: unreachable".to_owned(),
                format!("nextHops: [{{via: \"{one}\"}}]"),
                format!("nextHops: [{{via: \"{one}\", weight: 3}}, {{via: \"{other}\"}}]"),
            ]);
            upsert(object(
                "Route",
                &name,
                &format!("{{destination: \"{destination}\", {how}}}"),
            ))
        }
        3 => {
            let name = format!("neighbour-{n}");
            if has("Neighbour", &name) {
                return delete(&[("Neighbour", &name)]);
            }
            let address = random.one_of(&[
                format!("198.18.1.{}", 100 + n),
                format!("2001:db8:2::{n}00"),
            ]);
            let interface = if address.contains(':') { "p1" } else { "p0" };
            upsert(object(
                "Neighbour",
                &name,
                &format!(
                    "{{interface: {interface}, address: \"{address}\", macAddress: \"02:00:00:00:88:0{n}\"}}"
                ),
            ))
        }
        4 => {
            let (name, address) = (format!("p0.{}", 200 + n), format!("sub-{n}"));
            if has("Interface", &name) {
                return delete(&[("Address", &address), ("Interface", &name)]);
            }
            let outer = random.one_of(&[String::new(), ", outerId: 300".to_owned()]);
            let vlan = format!(
                "{{vlan: {{parent: p0, id: {}{outer}}}, mtu: 1400}}",
                200 + n
            );
            upsert(
                object("Interface", &name, &vlan)
                    + &object(
                        "Address",
                        &address,
                        &format!("{{interface: {name}, address: 10.{}.0.1/24}}", 50 + n),
                    ),
            )
        }
        5 | 6 => {
            let (mtu, up) = (1280 + random.below(221), random.below(3) > 0);
            let vlan = format!("{{vlan: {{parent: p2, id: 10}}, mtu: {mtu}, adminUp: {up}}}");
            let address = "{interface: p2.10, address: 198.18.3.1/24}";
            upsert(object("Interface", "p2.10", &vlan) + &object("Address", "p2.10-v4", address))
        }
        7 => delete(&[
            ("Address", "p2.10-v4"),
            ("Address", "p2.10-v6"),
            ("Address", "p3.100.20-v4"),
        ]),
        8 => {
            // The device is opened anew.
            let (version, offloads) = (random.one_of(&["v2", "v3"]), random.below(2) == 0);
            let p2 = format!(
                "{{afPacket: {{device: p2, version: {version}, offloads: {offloads}}}, mtu: 1500}}"
            );
            upsert(object("Interface", "p2", &p2))
        }
        _ => {
            if has("Interface", "p3") {
                return delete(&[
                    ("Address", "p3.100.20-v4"),
                    ("Address", "p3.100.20-v6"),
                    ("Interface", "p3.100.20"),
                    ("Interface", "p3"),
                ]);
            }
            let vlan = "{vlan: {parent: p3, id: 20, outerId: 100}, mtu: 1500}";
            let address = "{interface: p3.100.20, address: 198.18.4.1/24}";
            upsert(
                object("Interface", "p3", "{afPacket: {device: p3}, mtu: 1500}")
                    + &object("Interface", "p3.100.20", vlan)
                    + &object("Address", "p3.100.20-v4", address),
            )
        }
    }
}

/// Something good and something that must be refused with it.
fn invalid_change(random: &mut Random) -> v1::ApplyRequest {
    let good = object(
        "Route",
        "good",
        "{destination: 192.0.2.0/24, type: blackhole}",
    );
    let bad = random.one_of(&[
        ("Address", "bad", "{interface: p1, address: 198.18.1.77/25}"),
        ("Interface", "bad", "{afPacket: {device: nowhere}}"),
        ("Interface", "bad", "{vlan: {parent: p0, id: 5000}}"),
        ("Interface", "p0", "{afPacket: {device: p0}, mtu: 10}"),
        ("Interface", "p1", "{afPacket: {device: p1}, mtu: 9000}"),
        (
            "Route",
            "bad",
            "{destination: 10.9.0.0/16, nextHops: [{interface: p9}]}",
        ),
        (
            "Neighbour",
            "bad",
            "{interface: p0, address: 192.0.2.1, macAddress: \"02:00:00:00:00:01\"}",
        ),
    ]);
    let deletes = random.one_of(&[vec![], vec![key("Interface", "p0")], vec![key("Vrf", "no")]]);
    let clash = deletes.iter().any(|gone| gone.name == bad.1);
    v1::ApplyRequest {
        upserts: parse(&(good + &object(bad.0, bad.1, bad.2))),
        deletes: if clash { Vec::new() } else { deletes },
        ..v1::ApplyRequest::default()
    }
}

/// Pings where nothing changes, and counts requests and losses.
fn calm_pings(lab: &Lab, to: &str, over: &AtomicBool) -> (u64, u64) {
    let a = lab.namespace("a").unwrap();
    let options = PingOptions {
        count: 100,
        interval: Duration::from_millis(2),
        ..PingOptions::default()
    };
    let (mut sent, mut lost) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let report = a.run(|| ping(ip(to), &options)).unwrap().unwrap();
        assert_eq!(
            (report.duplicates, report.corrupted, report.errors),
            (0, 0, 0),
            "{to}: {report:?}"
        );
        sent += report.sent;
        lost += report.sent - report.received;
    }
    (sent, lost)
}

/// Transfers where nothing changes, and counts the transfers.
fn calm_streams(lab: &Lab, over: &AtomicBool) -> u64 {
    let (a, b) = (lab.namespace("a").unwrap(), lab.namespace("b").unwrap());
    let mut transfers = 0;
    while !over.load(Ordering::Relaxed) {
        let options = TcpOptions {
            streams: 2,
            bytes_per_stream: Some(8 << 20),
            duration: kit::PATIENCE,
            verify: true,
            ..TcpOptions::default()
        };
        let report = tcp_transfer(a, b, ip("198.18.2.2"), &options).unwrap();
        assert_eq!(report.integrity, Integrity::Intact, "{report:?}");
        transfers += 1;
        thread::sleep(Duration::from_millis(50));
    }
    transfers
}

/// Uses what is being changed. Much is lost; nothing arrives damaged. Returns what arrived.
fn rough_traffic(lab: &Lab, over: &AtomicBool) -> u64 {
    let (a, c) = (lab.namespace("a").unwrap(), lab.namespace("c").unwrap());
    let mut arrived = 0;
    while !over.load(Ordering::Relaxed) {
        // Fragments and large packets too.
        let options = UdpOptions {
            count: 200,
            payload_bytes: 4000,
            packets_per_second: Some(2000.0),
            linger: Duration::from_millis(20),
            ..UdpOptions::default()
        };
        // Sending fails while an ICMP error says that there is no way.
        if let Ok(report) = udp_transfer(a, c, ip("198.18.3.2"), &options) {
            assert_eq!(report.corrupted, 0, "{report:?}");
            arrived += report.received;
        }
        let options = PingOptions {
            count: 20,
            interval: Duration::from_millis(1),
            payload_bytes: 3000,
            timeout: Duration::from_millis(50),
            ..PingOptions::default()
        };
        for to in ["198.18.4.2", "198.18.3.2", "2001:db8:3::2"] {
            if let Ok(report) = a.run(|| ping(ip(to), &options)).unwrap() {
                assert_eq!(report.corrupted, 0, "{report:?}");
                arrived += report.received;
            }
        }
    }
    arrived
}

/// Raises a flag when it is dropped.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// SplitMix64: small, and repeats from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}
