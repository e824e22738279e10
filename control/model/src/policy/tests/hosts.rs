use serde_json::{Value as Json, json};

use super::super::reference::{EndpointId, Packet, evaluate, evaluate_all_interfaces};
use super::super::{Direction, PolicyState};
use super::verdicts::{A, B, a, from_b, policy, world};
use super::{calico, egress, icmp, ingress, ip, state_of, tcp, tell, udp, with_labels};

const HOST: &str = "10.9.0.1";

/// A host endpoint and these policies, which all select it alone.
fn host(profiles: Json, policies: &[(&str, Json)]) -> PolicyState {
    let spec =
        json!({"node": "n1", "interfaceName": "eth0", "expectedIPs": [HOST], "profiles": profiles});
    let mut documents = vec![with_labels(
        calico("HostEndpoint", "eth", &spec),
        json!({"host": "yes"}),
    )];
    for (name, spec) in policies {
        let mut spec = spec.clone();
        spec["selector"] = json!("has(host)");
        documents.push(policy(name, spec));
    }
    world(&documents)
}

fn eth() -> EndpointId {
    EndpointId::Host("eth".into())
}

fn through(mut packet: Packet) -> Packet {
    packet.forwarded = true;
    packet
}

#[test]
fn host_endpoints_deny_but_failsafes() {
    let closed = host(json!([]), &[]);
    assert_eq!(
        ingress(&closed, &eth(), &tcp(B, HOST, 80)),
        "deny no policy or profile matches"
    );
    assert_eq!(
        ingress(&closed, &eth(), &tcp(B, HOST, 22)),
        "allow failsafe port"
    );
    assert_eq!(
        ingress(&closed, &eth(), &udp(B, HOST, 22)),
        "deny no policy or profile matches"
    );
    assert_eq!(
        ingress(&closed, &eth(), &udp(B, HOST, 68)),
        "allow failsafe port"
    );
    assert_eq!(
        egress(&closed, &eth(), &udp(HOST, B, 53)),
        "allow failsafe port"
    );
    assert_eq!(
        egress(&closed, &eth(), &tcp(HOST, B, 22)),
        "deny no policy or profile matches"
    );
    assert_eq!(
        ingress(&closed, &eth(), &icmp("fd00::2", "fd00::9", 136, 0)),
        "allow neighbour discovery"
    );
    // Failsafes go before policy, and are none of forwarded traffic's.
    let denied = host(
        json!([]),
        &[(
            "p",
            json!({"applyOnForward": true, "ingress": [{"action": "Deny"}]}),
        )],
    );
    assert_eq!(
        ingress(&denied, &eth(), &tcp(B, HOST, 22)),
        "allow failsafe port"
    );
    assert_eq!(
        ingress(&denied, &eth(), &through(tcp(B, A, 22))),
        "deny default p 0"
    );
    let open = host(json!(["projectcalico-default-allow"]), &[]);
    assert_eq!(
        ingress(&open, &eth(), &tcp(B, HOST, 80)),
        "allow projectcalico-default-allow 0"
    );
    let felix = |spec: Json| {
        let mut state = host(json!([]), &[]);
        state.insert(super::object(&calico(
            "FelixConfiguration",
            "default",
            &spec,
        )));
        state
    };
    let none = felix(json!({"failsafeInboundHostPorts": []}));
    assert_eq!(
        ingress(&none, &eth(), &tcp(B, HOST, 22)),
        "deny no policy or profile matches"
    );
    let some = felix(
        json!({"failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22, "net": "10.0.0.0/24"}]}),
    );
    assert_eq!(
        ingress(&some, &eth(), &tcp(B, HOST, 22)),
        "allow failsafe port"
    );
    assert_eq!(
        ingress(&some, &eth(), &tcp("10.1.0.1", HOST, 22)),
        "deny no policy or profile matches"
    );
}

#[test]
fn forwarded_traffic_sees_policies_for_it_only() {
    let deny = |forward: bool| json!({"applyOnForward": forward, "ingress": [{"action": "Deny", "protocol": "UDP"}]});
    let state = host(json!([]), &[("p", deny(false))]);
    assert_eq!(
        ingress(&state, &eth(), &through(udp(B, A, 80))),
        "allow no policy for forwarded traffic"
    );
    assert_eq!(
        ingress(&state, &eth(), &udp(B, HOST, 80)),
        "deny default p 0"
    );
    let state = host(json!([]), &[("p", deny(true))]);
    assert_eq!(
        ingress(&state, &eth(), &through(udp(B, A, 80))),
        "deny default p 0"
    );
    // The end of a tier counts where one of its policies is for forwarded traffic.
    assert_eq!(
        ingress(&state, &eth(), &through(from_b())),
        "deny default end of tier"
    );
    assert_eq!(
        egress(&state, &eth(), &through(from_b())),
        "allow no policy for forwarded traffic"
    );
    let pass = host(
        json!([]),
        &[(
            "p",
            json!({"applyOnForward": true, "ingress": [{"action": "Pass"}]}),
        )],
    );
    assert_eq!(
        ingress(&pass, &eth(), &through(from_b())),
        "allow no policy for forwarded traffic"
    );
}

#[test]
fn policy_before_translation_sees_the_original_destination() {
    let rules = json!([
        {"action": "Deny", "protocol": "TCP", "destination": {"nets": ["10.9.0.1/32"], "ports": [30000]}},
        {"action": "Allow", "protocol": "TCP", "destination": {"ports": [30001]}},
        {"action": "Pass", "protocol": "TCP", "destination": {"ports": [30002]}},
    ]);
    let late = json!({"applyOnForward": true, "order": 1, "ingress": [{"action": "Deny", "destination": {"nets": ["10.0.0.1/32"]}}]});
    let state = host(
        json!([]),
        &[
            ("early", json!({"preDNAT": true, "ingress": rules})),
            ("late", late),
        ],
    );
    let translated = |port| {
        let mut packet = through(tcp(B, A, 8080));
        packet.pre_nat_destination = Some(ip(HOST));
        packet.pre_nat_destination_port = Some(port);
        packet
    };
    assert_eq!(
        ingress(&state, &eth(), &translated(30000)),
        "deny default early 0"
    );
    assert_eq!(
        ingress(&state, &eth(), &translated(30001)),
        "allow default early 1"
    );
    assert_eq!(
        ingress(&state, &eth(), &translated(30002)),
        "deny default late 0"
    );
    // No end of tier: what it says nothing about goes on.
    assert_eq!(
        ingress(&state, &eth(), &translated(30003)),
        "deny default late 0"
    );
    // What goes out has no such policy.
    assert_eq!(
        egress(&state, &eth(), &translated(30000)),
        "allow no policy for forwarded traffic"
    );
    // A failsafe port passes the list over, and the next one judges.
    let all = host(
        json!([]),
        &[(
            "early",
            json!({"preDNAT": true, "ingress": [{"action": "Deny"}]}),
        )],
    );
    assert_eq!(
        ingress(&all, &eth(), &tcp(B, HOST, 22)),
        "allow failsafe port"
    );
    assert_eq!(
        ingress(&all, &eth(), &through(tcp(B, HOST, 22))),
        "allow no policy for forwarded traffic"
    );
    assert_eq!(
        ingress(&all, &eth(), &through(tcp(B, HOST, 23))),
        "deny default early 0"
    );
    // Workloads have none of it.
    let everywhere = world(&[policy(
        "p",
        json!({"preDNAT": true, "ingress": [{"action": "Deny"}]}),
    )]);
    assert_eq!(ingress(&everywhere, &a(), &from_b()), "allow kns.blue 0");
}

#[test]
fn untracked_policy_goes_first() {
    let rules = json!([{"action": "Allow", "protocol": "TCP", "destination": {"ports": [80]}}, {"action": "Deny", "protocol": "UDP"}]);
    let spec = json!({"doNotTrack": true, "ingress": rules, "egress": rules});
    let state = host(
        json!([]),
        &[
            ("raw", spec),
            ("p", json!({"ingress": [{"action": "Deny"}]})),
        ],
    );
    let verdict = evaluate(&state, &eth(), Direction::Ingress, &tcp(B, HOST, 80));
    assert_eq!(
        (tell(&verdict.enforced).as_str(), verdict.untracked),
        ("allow default raw 0", true)
    );
    let verdict = evaluate(&state, &eth(), Direction::Ingress, &udp(B, HOST, 80));
    assert_eq!(
        (tell(&verdict.enforced).as_str(), verdict.untracked),
        ("deny default raw 1", false)
    );
    assert_eq!(
        ingress(&state, &eth(), &tcp(B, HOST, 81)),
        "deny default p 0"
    );
    assert_eq!(
        egress(&state, &eth(), &tcp(HOST, B, 80)),
        "allow default raw 0"
    );
    assert_eq!(
        ingress(&state, &eth(), &through(udp(B, A, 80))),
        "deny default raw 1"
    );
    // What is forwarded out passes no such list.
    assert_eq!(
        egress(&state, &eth(), &through(udp(B, A, 80))),
        "allow no policy for forwarded traffic"
    );
    // A reply from a port that the host may reach is not judged there.
    let all = host(
        json!(["projectcalico-default-allow"]),
        &[(
            "raw",
            json!({"doNotTrack": true, "ingress": [{"action": "Deny"}]}),
        )],
    );
    let reply = Packet::new(ip(B), ip(HOST), 17).with_ports(53, 40_000);
    assert_eq!(
        ingress(&all, &eth(), &reply),
        "allow projectcalico-default-allow 0"
    );
    assert_eq!(
        ingress(&all, &eth(), &udp(B, HOST, 80)),
        "deny default raw 0"
    );
    let everywhere = world(&[policy(
        "p",
        json!({"doNotTrack": true, "ingress": [{"action": "Deny"}]}),
    )]);
    assert_eq!(ingress(&everywhere, &a(), &from_b()), "allow kns.blue 0");
}

#[test]
fn the_endpoint_for_all_interfaces_judges_workloads_too() {
    let all = |policies: &[(&str, Json)]| {
        let hep = |name: &str, node: &str| {
            with_labels(
                calico(
                    "HostEndpoint",
                    name,
                    &json!({"node": node, "interfaceName": "*"}),
                ),
                json!({"host": name}),
            )
        };
        let mut documents = vec![hep("all", "n1"), hep("other", "n2")];
        for (name, spec) in policies {
            let mut spec = spec.clone();
            spec["selector"] = json!("host == 'all'");
            documents.push(policy(name, spec));
        }
        world(&documents)
    };
    let id = |endpoint| match endpoint {
        EndpointId::Workload(id) => id,
        EndpointId::Host(name) => panic!("{name} is no workload"),
    };
    let around = |state: &PolicyState, direction, packet: &Packet| {
        let verdict = evaluate_all_interfaces(state, &id(a()), direction, packet)?;
        Some(tell(&verdict.enforced))
    };
    let told = |state: &PolicyState, direction, packet: &Packet| {
        around(state, direction, packet).expect("has a say")
    };
    let with_host = |mut packet: Packet| {
        packet.with_own_host = true;
        packet
    };
    let (out, back) = (Direction::Egress, Direction::Ingress);
    let nothing = "allow no policy for forwarded traffic";
    // Its policies for the host itself and those before tracking are none of the workload's.
    let normal = json!({"ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}]});
    let raw = json!({"doNotTrack": true, "ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}]});
    let state = all(&[("p", normal), ("raw", raw)]);
    assert_eq!(told(&state, out, &udp(A, B, 80)), nothing);
    assert_eq!(told(&state, back, &udp(B, A, 80)), nothing);
    assert_eq!(told(&state, out, &with_host(udp(A, HOST, 80))), nothing);
    // What a workload sends comes in, and what it gets goes out.
    let forward = json!({"applyOnForward": true, "order": 2,
        "ingress": [{"action": "Deny", "protocol": "UDP"}], "egress": [{"action": "Deny", "protocol": "TCP"}]});
    let early = json!({"preDNAT": true, "order": 1, "ingress": [
        {"action": "Allow", "protocol": "UDP", "destination": {"ports": [53]}},
        {"action": "Deny", "protocol": "TCP", "destination": {"ports": [22, 25]}}]});
    let state = all(&[("forward", forward), ("early", early)]);
    assert_eq!(told(&state, out, &udp(A, B, 80)), "deny default forward 0");
    assert_eq!(told(&state, out, &udp(A, B, 53)), "allow default early 0");
    assert_eq!(told(&state, back, &tcp(B, A, 25)), "deny default forward 0");
    assert_eq!(
        told(&state, back, &udp(B, A, 53)),
        "deny default end of tier"
    );
    // To its own host, only what comes before translation counts; from there, nothing.
    assert_eq!(told(&state, out, &with_host(udp(A, HOST, 80))), nothing);
    assert_eq!(
        told(&state, out, &with_host(tcp(A, HOST, 25))),
        "deny default early 1"
    );
    assert_eq!(around(&state, back, &with_host(tcp(HOST, A, 25))), None);
    // Failsafe ports pass the early list over, and the next one judges.
    assert_eq!(
        told(&state, out, &tcp(A, B, 22)),
        "deny default end of tier"
    );
    assert_eq!(told(&state, out, &with_host(tcp(A, HOST, 22))), nothing);
    // Neighbour discovery and listener reports to the host pass.
    for kind in [130, 132, 133, 136] {
        let packet = with_host(icmp("fd00::1", "fd00::9", kind, 0));
        assert_eq!(told(&state, out, &packet), "allow neighbour discovery");
    }
    // A workload's own policy says nothing of it, and other nodes have their own.
    assert_eq!(egress(&state, &a(), &udp(A, B, 80)), "allow kns.blue 0");
    let elsewhere = world(&[calico(
        "HostEndpoint",
        "all",
        &json!({"node": "n9", "interfaceName": "*"}),
    )]);
    assert_eq!(around(&elsewhere, out, &udp(A, B, 80)), None);
}

#[test]
fn one_host_endpoint_speaks_for_an_interface() {
    let hep = |name: &str, node: &str, interface: &str, ips: Json| {
        calico(
            "HostEndpoint",
            name,
            &json!({"node": node, "interfaceName": interface, "expectedIPs": ips}),
        )
    };
    let state = state_of(&[
        hep("a-all", "n1", "*", json!([])),
        hep("b-all", "n1", "*", json!([])),
        hep("c-eth0", "n1", "eth0", json!([])),
        hep("d-eth0", "n1", "eth0", json!([])),
        hep("e-address", "n1", "", json!(["10.0.0.5"])),
        hep("b-other", "n2", "eth0", json!([])),
        // Addresses of one that names an interface do not choose it.
        hep("f-eth1", "n1", "eth1", json!(["10.0.0.6"])),
        hep("b-address", "n1", "", json!(["10.0.0.7"])),
    ]);
    let chosen = |node: &str, interface: &str, addresses: &[&str]| {
        let addresses: Vec<_> = addresses.iter().map(|text| ip(text)).collect();
        state
            .host_endpoint_of(node, interface, &addresses)
            .map(|(name, _)| name)
    };
    assert_eq!(chosen("n1", "eth0", &[]), Some("c-eth0"));
    assert_eq!(chosen("n1", "eth0", &["10.0.0.5"]), Some("c-eth0"));
    assert_eq!(chosen("n1", "eth0", &["10.0.0.7"]), Some("b-address"));
    assert_eq!(chosen("n1", "eth2", &["10.0.0.5"]), Some("e-address"));
    assert_eq!(chosen("n1", "eth2", &["10.0.0.6"]), Some("a-all"));
    assert_eq!(chosen("n2", "eth0", &[]), Some("b-other"));
    assert_eq!(chosen("n2", "eth1", &[]), None);
}
