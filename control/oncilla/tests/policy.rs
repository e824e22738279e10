//! Policy between Linux hosts through the real daemon: what is applied is enforced, and what is enforced is what `explain` says.

mod kit;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use afpacket_sim::Lab;
use afpacket_sim::traffic::{Integrity, PingOptions, TcpOptions, tcp_transfer};
use kit::{Daemon, TOPOLOGY, ip, lab, object, objects, pings};
use serde_json::{Value, json};

/// Host, interface of the gateway, addresses.
const HOSTS: [(&str, &str, &str, &str); 4] = [
    ("a", "p0", "198.18.1.2", "2001:db8:1::2"),
    ("b", "p1", "198.18.2.2", "2001:db8:2::2"),
    ("c", "p2.10", "198.18.3.2", "2001:db8:3::2"),
    ("d", "p3.100.20", "198.18.4.2", "2001:db8:4::2"),
];

/// Labels by which policies know the hosts.
const ROLES: [&str; 4] = [
    "{role: client, zone: east}",
    "{role: web, zone: east}",
    "{role: web, zone: west}",
    "{role: data, zone: west}",
];

/// What may pass when nobody says so: for tests that look at something else.
const PATIENCE: Duration = Duration::from_millis(400);

fn calico(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// The four hosts as workloads of this node.
fn workloads() -> String {
    first_workloads(HOSTS.len())
}

/// Some of them.
fn first_workloads(count: usize) -> String {
    let mut text = String::new();
    for ((host, interface, ip4, ip6), labels) in HOSTS.into_iter().zip(ROLES).take(count) {
        text += &format!(
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {{name: {host}, namespace: lab, labels: {labels}}}\n\
             spec: {{node: gw, interfaceName: {interface}, ipNetworks: [\"{ip4}\", \"{ip6}\"]}}\n"
        );
    }
    text
}

/// Two tiers; ICMP, TCP, both versions of IP; selectors, networks and negations; an end of tier that denies.
fn policies() -> String {
    [
        calico("Tier", "guard", "{order: 100, defaultAction: Pass}"),
        calico(
            "GlobalNetworkPolicy",
            "guard.no-data-east",
            "{tier: guard, order: 1, selector: role == 'data', types: [Ingress], ingress: [
               {action: Deny, source: {selector: \"zone == 'east' && role != 'web'\"}},
               {action: Pass, protocol: TCP}]}",
        ),
        calico(
            "GlobalNetworkPolicy",
            "web",
            "{order: 10, selector: role == 'web', types: [Ingress], ingress: [
               {action: Allow, protocol: ICMP, icmp: {type: 8}, source: {notNets: [198.18.4.0/24]}},
               {action: Allow, protocol: TCP, source: {selector: \"role in {'client', 'data'}\"}},
               {action: Allow, ipVersion: 6, protocol: ICMPv6, source: {nets: [\"2001:db8:4::/64\"]}}]}",
        ),
        calico(
            "GlobalNetworkPolicy",
            "data",
            "{order: 20, selector: role == 'data', types: [Ingress], ingress: [
               {action: Allow, source: {selector: zone == 'west'}},
               {action: Allow, protocol: TCP, source: {selector: zone == 'east'}}]}",
        ),
        calico(
            "GlobalNetworkPolicy",
            "client",
            "{order: 30, selector: role == 'client', types: [Ingress], ingress: [{action: Allow, notProtocol: TCP}]}",
        ),
        calico(
            "GlobalNetworkPolicy",
            "leave",
            "{order: 40, selector: all(), types: [Egress], egress: [
               {action: Deny, protocol: TCP, destination: {nets: [198.18.1.0/24, \"2001:db8:1::/64\"]}},
               {action: Allow}]}",
        ),
    ]
    .concat()
}

/// One question to `explain`: may this leave there, or come here?
fn question(endpoint: &str, direction: &str, from: &str, to: &str, protocol: &str) -> Value {
    let mut packet = json!({
        "endpoint": format!("lab/{endpoint}"), "direction": direction, "source": from, "destination": to,
        "protocol": protocol, "ipVersion": if from.contains(':') { 6 } else { 4 },
    });
    let fields = match protocol {
        "tcp" => json!({"sourcePort": 40000, "destinationPort": 50000}),
        "icmp" => json!({"icmpType": 8, "icmpCode": 0}),
        _ => json!({"icmpType": 128, "icmpCode": 0}),
    };
    if let (Value::Object(packet), Value::Object(fields)) = (&mut packet, fields) {
        packet.extend(fields);
    }
    packet
}

fn explain(daemon: &Daemon, directory: &Path, questions: &[Value]) -> Vec<Value> {
    let lines: String = questions
        .iter()
        .map(|question| format!("{question}\n"))
        .collect();
    let (policy, packets) = (
        directory.join("policy.yaml"),
        directory.join("packets.jsonl"),
    );
    std::fs::write(&packets, lines).unwrap();
    let [policy, packets] = [&policy, &packets].map(|path| path.to_str().unwrap());
    let (code, answers, errors) = daemon.cli(&["explain", "-f", policy, "--packets", packets]);
    assert_eq!((code, &*errors), (0, ""));
    answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether an echo request is answered.
fn pinged(lab: &Lab, from: &str, to: &str) -> bool {
    let options = PingOptions {
        count: 2,
        interval: Duration::from_millis(20),
        timeout: PATIENCE,
        ..PingOptions::default()
    };
    pings(lab, from, to, &options).received > 0
}

/// Whether a connection is made and carries data.
fn connected(lab: &Lab, from: &str, host: &str, to: &str) -> bool {
    let options = TcpOptions {
        bytes_per_stream: Some(10_000),
        duration: kit::PATIENCE,
        verify: true,
        timeout: PATIENCE,
        ..TcpOptions::default()
    };
    let (client, server) = (lab.namespace(from).unwrap(), lab.namespace(host).unwrap());
    tcp_transfer(client, server, ip(to), &options)
        .is_ok_and(|report| report.integrity == Integrity::Intact)
}

#[test]
fn what_is_enforced_is_what_explain_says() {
    let Some((lab, _turn)) = lab("what_is_enforced_is_what_explain_says", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut daemon = Daemon::start(&lab, path, &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    assert!(pinged(&lab, "a", "198.18.2.2") && connected(&lab, "b", "a", "198.18.1.2"));

    // Workloads without any policy and profile are closed.
    daemon.apply(&workloads());
    for (host, _, ip4, ip6) in &HOSTS[1..] {
        assert!(!pinged(&lab, "a", ip4) && !pinged(&lab, "a", ip6), "{host}");
    }

    let text = workloads() + &policies();
    std::fs::write(path.join("policy.yaml"), &text).unwrap();
    daemon.apply(&text);
    let mut cases = Vec::new();
    let mut questions = Vec::new();
    for (from, _, from4, from6) in HOSTS {
        for (to, _, to4, to6) in HOSTS.into_iter().filter(|(to, ..)| *to != from) {
            for (source, destination, protocol) in [
                (from4, to4, "icmp"),
                (from4, to4, "tcp"),
                (from6, to6, "icmpv6"),
                (from6, to6, "tcp"),
            ] {
                cases.push((from, to, destination, protocol));
                questions.push(question(from, "egress", source, destination, protocol));
                questions.push(question(to, "ingress", source, destination, protocol));
            }
        }
    }
    let answers = explain(&daemon, path, &questions);
    assert_eq!(answers.len(), questions.len());
    let mut counts = [0; 2];
    for ((from, to, address, protocol), said) in cases.into_iter().zip(answers.chunks(2)) {
        let expected = said.iter().all(|answer| answer["verdict"] == "allow");
        let seen = match protocol {
            "tcp" => connected(&lab, from, to, address),
            _ => pinged(&lab, from, address),
        };
        assert_eq!(
            seen, expected,
            "{protocol} from {from} to {to} ({address}): explain says {said:?}"
        );
        counts[usize::from(seen)] += 1;
    }
    println!("{} pairs pass, {} do not", counts[1], counts[0]);
    assert!(counts[0] > 10 && counts[1] > 10, "{counts:?}");
    assert!(daemon.drops("ip4-policy", "policy-denied") > 0);
    assert!(daemon.drops("ip6-policy", "policy-denied") > 0);

    // Without the objects, all is open again.
    let names: Vec<(&str, String)> = HOSTS
        .iter()
        .map(|(host, ..)| ("WorkloadEndpoint", format!("lab/{host}")))
        .collect();
    let names: Vec<(&str, &str)> = names.iter().map(|(kind, name)| (*kind, &**name)).collect();
    daemon.delete(&names);
    assert!(pinged(&lab, "a", "198.18.4.2") && connected(&lab, "d", "a", "198.18.1.2"));
    daemon.stop();
}

#[test]
fn access_lists_judge_what_an_interface_receives_and_sends() {
    let name = "access_lists_judge_what_an_interface_receives_and_sends";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    // One way only, without tracking: answers come back by the other interface, which has no list.
    daemon.apply(&object(
        "AccessList",
        "from-a",
        "{interface: p0, direction: Input, rules: [
           {action: Deny, protocol: ICMP, destination: {nets: [198.18.2.0/24]}},
           {action: Permit}]}",
    ));
    assert!(!pinged(&lab, "a", "198.18.2.2") && pinged(&lab, "a", "198.18.3.2"));
    assert!(connected(&lab, "a", "b", "198.18.2.2"));
    assert!(daemon.drops("ip4-policy", "access-list") > 0);
    // Tracked: what b begins passes, and so do the answers; nothing else reaches b.
    daemon.delete(&[("AccessList", "from-a")]);
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
    assert!(connected(&lab, "b", "a", "198.18.1.2") && pinged(&lab, "b", "198.18.1.2"));
    assert!(!connected(&lab, "a", "b", "198.18.2.2") && !pinged(&lab, "a", "198.18.2.2"));
    assert!(pinged(&lab, "b", "2001:db8:1::2") && !pinged(&lab, "a", "2001:db8:2::2"));
    daemon.stop();
}

/// Settings of Felix for all nodes.
fn felix(spec: &str) -> String {
    calico("FelixConfiguration", "default", spec)
}

/// A UDP socket on an address of a host.
fn socket(lab: &Lab, host: &str, address: &str) -> UdpSocket {
    let address = ip(address);
    let bind = || {
        let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok::<_, std::io::Error>(socket)
    };
    let bound = lab.namespace(host).unwrap().run(bind).unwrap();
    bound.expect("the address is there")
}

/// Whether a datagram from one socket reaches the other.
fn heard(from: &UdpSocket, to: &UdpSocket, say: u8) -> bool {
    from.send_to(&[say], to.local_addr().unwrap()).unwrap();
    let mut buffer = [0];
    match to.recv(&mut buffer) {
        Ok(_) => {
            assert_eq!(buffer, [say]);
            true
        }
        Err(error) => {
            let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(silent, "{error}");
            false
        }
    }
}

#[test]
fn replies_pass_as_long_as_timeouts_say() {
    let Some((lab, _turn)) = lab("replies_pass_as_long_as_timeouts_say", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    let open = |name, types: &str, label| {
        let spec = format!(
            "{{selector: role == '{label}', types: [{types}], {}: [{{action: Allow}}]}}",
            types.to_lowercase()
        );
        calico("GlobalNetworkPolicy", name, &spec)
    };
    // The client may ask the servers, and they may not ask it.
    let rules = open("ask", "Egress", "client") + &open("answer", "Ingress", "web");
    daemon.apply(&(workloads() + &rules));
    let pairs = [
        ("198.18.1.2", "198.18.2.2"),
        ("2001:db8:1::2", "2001:db8:2::2"),
    ];
    let pairs =
        pairs.map(|(client, server)| (socket(&lab, "a", client), socket(&lab, "b", server)));
    // Asks, where there is a number for it, and tells whether the answer arrives.
    let answered = |ask: Option<u8>, say| {
        pairs.each_ref().map(|(a, b)| {
            assert!(ask.is_none_or(|ask| heard(a, b, ask)));
            heard(b, a, say)
        })
    };
    assert_eq!(answered(None, 1), [false; 2], "nobody has asked");
    assert_eq!(answered(Some(2), 3), [true; 2]);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(answered(None, 4), [true; 2], "within a minute, the default");
    daemon.apply(&felix(
        "{bpfConntrackTimeouts: {creationGracePeriod: 0s, udpTimeout: 2s}}",
    ));
    assert_eq!(answered(Some(5), 6), [true; 2]);
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(answered(None, 7), [false; 2], "the flow is over");
    assert_eq!(answered(Some(8), 9), [true; 2], "and another one begins");
    daemon.delete(&[("FelixConfiguration", "default")]);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(answered(None, 10), [true; 2], "a minute again");
    let refused = daemon.try_apply(&felix("{bpfConntrackTimeouts: {udpTimeout: Auto}}"));
    let error = kit::all_of(&refused.expect_err("is refused"));
    assert!(
        error.contains("spec.bpfConntrackTimeouts.udpTimeout"),
        "{error}"
    );
    daemon.stop();
}

#[test]
fn connections_are_refused_where_policy_rejects() {
    let Some((lab, _turn)) = lab("connections_are_refused_where_policy_rejects", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    // Nothing listens there: a connection that policy lets through is refused by the host itself.
    let allowed = "{selector: all(), types: [Ingress, Egress],
        ingress: [{action: Allow, protocol: TCP, destination: {ports: [7]}}], egress: [{action: Allow}]}";
    daemon.apply(&(workloads() + &calico("GlobalNetworkPolicy", "p", allowed)));
    let connect = |to: &str, port| {
        let to = SocketAddr::new(ip(to), port);
        let patience = 3 * PATIENCE;
        let made = lab.namespace("a").unwrap();
        let made = made
            .run(|| TcpStream::connect_timeout(&to, patience))
            .unwrap();
        made.expect_err("nobody listens").kind()
    };
    for to in ["198.18.2.2", "2001:db8:2::2"] {
        assert_eq!(connect(to, 7), ErrorKind::ConnectionRefused);
        assert_eq!(connect(to, 8), ErrorKind::TimedOut);
    }
    daemon.apply(&felix("{iptablesFilterDenyAction: Reject}"));
    for to in ["198.18.2.2", "2001:db8:2::2"] {
        assert_eq!(connect(to, 8), ErrorKind::ConnectionRefused);
        assert_eq!(connect(to, 7), ErrorKind::ConnectionRefused);
    }
    daemon.stop();
}

#[test]
fn the_host_endpoint_for_all_interfaces_judges_workloads_and_what_the_host_answers() {
    let name = "the_host_endpoint_for_all_interfaces_judges_workloads_and_what_the_host_answers";
    let Some((lab, _turn)) = lab(name, TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    // a and b are workloads with open policy; c and d are behind host interfaces.
    let workloads = first_workloads(2);
    let open = "{selector: has(role), types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Allow}]}";
    daemon.apply(
        &(workloads
            + &calico("GlobalNetworkPolicy", "open", open)
            + &felix("{defaultEndpointToHostAction: Accept}")),
    );
    assert!(pinged(&lab, "a", "198.18.2.2") && pinged(&lab, "a", "198.18.3.2"));
    let host = |interface: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {{name: all, labels: {{host: gw}}}}\n\
             spec: {{node: gw, interfaceName: \"{interface}\", profiles: [projectcalico-default-allow]}}\n"
        )
    };
    let rules = |name, spec: &str| {
        let spec = spec.replacen('{', "{selector: host == 'gw', ", 1);
        calico("GlobalNetworkPolicy", name, &spec)
    };
    let forward = rules(
        "forward",
        "{applyOnForward: true, order: 2, types: [Ingress, Egress], ingress: [
           {action: Deny, protocol: ICMP, source: {nets: [198.18.1.0/24]}, destination: {nets: [198.18.2.0/24]}},
           {action: Allow}], egress: [
           {action: Deny, protocol: ICMPv6, destination: {nets: [\"2001:db8:2::/64\"]}},
           {action: Allow}]}",
    );
    let early = rules(
        "early",
        "{preDNAT: true, applyOnForward: true, order: 1, types: [Ingress], ingress: [
           {action: Deny, protocol: ICMP, destination: {nets: [198.18.1.1/32]}}]}",
    );
    daemon.apply(&(host("*") + &forward + &early));
    // As it enters by a's interface, and as it leaves by b's.
    assert!(!pinged(&lab, "a", "198.18.2.2") && pinged(&lab, "b", "198.18.1.2"));
    assert!(!pinged(&lab, "a", "2001:db8:2::2") && pinged(&lab, "b", "2001:db8:1::2"));
    assert!(connected(&lab, "a", "b", "198.18.2.2"));
    // To the host itself: what comes before translation.
    assert!(!pinged(&lab, "a", "198.18.1.1") && pinged(&lab, "a", "2001:db8:1::1"));
    assert!(pinged(&lab, "c", "198.18.3.1"));
    // One for another interface does not judge there.
    daemon.apply(&host("p3"));
    assert!(pinged(&lab, "a", "198.18.2.2") && pinged(&lab, "a", "198.18.1.1"));

    // What the host answers to requests that it did not track needs a rule of its own.
    daemon.apply(&host("p2.10"));
    let raw = |egress| {
        let spec = format!(
            "{{doNotTrack: true, applyOnForward: true, types: [Ingress, Egress],
               ingress: [{{action: Allow, protocol: ICMP}}, {{action: Allow, protocol: ICMPv6, icmp: {{type: 128}}}}], egress: [{egress}]}}"
        );
        rules("raw", &spec)
    };
    let gateway = ["198.18.3.1", "2001:db8:3::1"];
    for address in gateway {
        assert!(pinged(&lab, "c", address));
    }
    daemon.apply(&raw(""));
    for address in gateway {
        assert!(!pinged(&lab, "c", address));
    }
    assert!(daemon.drops("ip4-policy", "invalid") > 0);
    daemon.apply(&raw(
        "{action: Allow, protocol: ICMP, icmp: {type: 0}}, {action: Allow, protocol: ICMPv6, icmp: {type: 129}}",
    ));
    for address in gateway {
        assert!(pinged(&lab, "c", address));
    }
    daemon.stop();
}
