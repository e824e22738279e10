use serde_json::{Value as Json, json};

use super::super::access::AccessDirection;
use super::super::reference::{EndpointId, Packet, evaluate, evaluate_access};
use super::super::{Direction, PolicyState};
use super::{
    calico, document, egress, icmp, ingress, ip, state_of, tcp, tell, udp, with_labels, workload,
};

/// Two workloads and a set of networks, open by their namespace's profile.
fn surroundings() -> Vec<Json> {
    let pod = |name: &str, address: &str, v6: &str, app: &str| {
        let spec = json!({
            "node": "n1", "orchestrator": "k8s", "interfaceName": format!("cali-{app}"), "serviceAccountName": "web",
            "ipNetworks": [address, v6], "profiles": ["kns.blue", "ksa.blue.web"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        });
        with_labels(calico("WorkloadEndpoint", name, &spec), json!({"app": app}))
    };
    vec![
        with_labels(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "blue"}}),
            json!({"env": "dev"}),
        ),
        with_labels(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "blue"}}),
            json!({"role": "front"}),
        ),
        pod("blue/a", "10.0.0.1/32", "fd00::1", "a"),
        pod("blue/b", "10.0.0.2", "fd00::2/128", "b"),
        with_labels(
            calico(
                "GlobalNetworkSet",
                "office",
                &json!({"nets": ["192.0.2.0/24", "10.0.0.2"]}),
            ),
            json!({"place": "office"}),
        ),
    ]
}

pub(super) fn world(more: &[Json]) -> PolicyState {
    let mut documents = surroundings();
    documents.extend_from_slice(more);
    state_of(&documents)
}

pub(super) fn a() -> EndpointId {
    workload("blue/a")
}

pub(super) const A: &str = "10.0.0.1";
pub(super) const B: &str = "10.0.0.2";

pub(super) fn policy(name: &str, spec: Json) -> Json {
    calico("GlobalNetworkPolicy", name, &spec)
}

pub(super) fn from_b() -> Packet {
    tcp(B, A, 80)
}

#[test]
fn without_policy_the_profiles_decide() {
    let state = world(&[]);
    assert_eq!(ingress(&state, &a(), &from_b()), "allow kns.blue 0");
    let bare = |profiles: Json| {
        let spec = json!({"node": "n1", "ipNetworks": ["10.0.0.9"], "profiles": profiles});
        let profile = |rules: Json| json!({"ingress": rules});
        world(&[
            calico("WorkloadEndpoint", "blue/c", &spec),
            calico("Profile", "logs", &profile(json!([{"action": "Log"}]))),
            calico(
                "Profile",
                "denies",
                &profile(json!([{"action": "Log"}, {"action": "Deny", "protocol": "TCP"}])),
            ),
        ])
    };
    let c = workload("blue/c");
    let packet = tcp(B, "10.0.0.9", 80);
    for (profiles, expected) in [
        (json!([]), "deny no policy or profile matches"),
        (json!(["logs"]), "deny no policy or profile matches"),
        (json!(["logs", "denies", "kns.blue"]), "deny denies 1"),
        (json!(["gone", "kns.blue"]), "deny gone missing profile"),
        (json!(["kns.blue", "gone"]), "allow kns.blue 0"),
        (json!(["ksa.blue.web"]), "deny no policy or profile matches"),
        (
            json!(["projectcalico-default-allow"]),
            "allow projectcalico-default-allow 0",
        ),
    ] {
        assert_eq!(
            ingress(&bare(profiles.clone()), &c, &packet),
            expected,
            "{profiles}"
        );
    }
    assert_eq!(
        ingress(&state, &workload("blue/x"), &packet),
        "deny no such endpoint"
    );
}

#[test]
fn tiers_end_pass_and_are_skipped() {
    let tier = |name: &str, order: i64, action: &str| {
        calico(
            "Tier",
            name,
            &json!({"order": order, "defaultAction": action}),
        )
    };
    let upper = |spec: Json| {
        let mut spec = spec;
        spec["tier"] = json!("upper");
        policy("first", spec)
    };
    let below = policy(
        "below",
        json!({"ingress": [{"action": "Allow", "protocol": "TCP"}]}),
    );
    let told = |documents: &[Json]| ingress(&world(documents), &a(), &from_b());
    let upper_tier = tier("upper", 1, "Deny");
    // The end of a tier whose policies say nothing.
    let quiet = json!({"ingress": [{"action": "Allow", "protocol": "UDP"}]});
    assert_eq!(
        told(&[upper_tier.clone(), upper(quiet.clone()), below.clone()]),
        "deny upper end of tier"
    );
    assert_eq!(
        told(&[tier("upper", 1, "Pass"), upper(quiet), below.clone()]),
        "allow default below 0"
    );
    // Pass goes to the next tier, past the rest of this one.
    let pass = json!({"ingress": [{"action": "Pass"}, {"action": "Deny"}]});
    assert_eq!(
        told(&[upper_tier.clone(), upper(pass.clone()), below.clone()]),
        "allow default below 0"
    );
    // In the last tier it goes to the profiles.
    assert_eq!(told(&[upper_tier.clone(), upper(pass)]), "allow kns.blue 0");
    // A tier without a policy of the direction, or without an enforced one, or none for this endpoint, has no end.
    let egress_only = json!({"egress": [{"action": "Deny"}]});
    assert_eq!(
        told(&[upper_tier.clone(), upper(egress_only), below.clone()]),
        "allow default below 0"
    );
    let staged = calico(
        "StagedGlobalNetworkPolicy",
        "s",
        &json!({"tier": "upper", "ingress": [{"action": "Deny"}]}),
    );
    assert_eq!(
        told(&[upper_tier.clone(), staged, below.clone()]),
        "allow default below 0"
    );
    let others = json!({"selector": "app == 'z'", "ingress": [{"action": "Deny"}]});
    assert_eq!(
        told(&[upper_tier.clone(), upper(others), below.clone()]),
        "allow default below 0"
    );
    // A tier that does not exist comes last, whatever its name, and denies at its end.
    let unknown = policy(
        "aaa",
        json!({"tier": "aaa", "ingress": [{"action": "Allow", "protocol": "UDP"}]}),
    );
    assert_eq!(
        told(&[unknown.clone(), below.clone()]),
        "allow default below 0"
    );
    assert_eq!(told(&[unknown]), "deny aaa end of tier");
    // Order, then name.
    let second = policy(
        "x",
        json!({"tier": "also", "ingress": [{"action": "Deny"}]}),
    );
    assert_eq!(
        told(&[
            upper_tier,
            tier("also", 1, "Deny"),
            upper(json!({"ingress": [{"action": "Allow"}]})),
            second
        ]),
        "deny also x 0"
    );
}

#[test]
fn policies_go_by_order_and_name() {
    let rule = |action: &str| json!([{"action": action}]);
    let told = |documents: &[Json]| ingress(&world(documents), &a(), &from_b());
    let with = |name: &str, order: Json, action: &str| {
        policy(name, json!({"order": order, "ingress": rule(action)}))
    };
    assert_eq!(
        told(&[with("a", json!(2), "Deny"), with("b", json!(1.5), "Allow")]),
        "allow default b 0"
    );
    assert_eq!(
        told(&[
            with("a", Json::Null, "Deny"),
            with("b", json!(1e9), "Allow")
        ]),
        "allow default b 0"
    );
    assert_eq!(
        told(&[with("b", json!(1), "Deny"), with("a", json!(1), "Allow")]),
        "allow default a 0"
    );
    // `name/namespace/kind`: the dash is before the slash.
    assert_eq!(
        told(&[with("a", json!(1), "Deny"), with("a-b", json!(1), "Allow")]),
        "allow default a-b 0"
    );
    let namespaced = calico(
        "NetworkPolicy",
        "blue/a",
        &json!({"order": 1, "ingress": rule("Allow")}),
    );
    assert_eq!(
        told(&[with("a", json!(1), "Deny"), namespaced.clone()]),
        "deny default a 0"
    );
    let kubernetes = document(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "blue/a",
        &json!({"podSelector": {}, "ingress": [{}]}),
    );
    let later = calico(
        "NetworkPolicy",
        "blue/a",
        &json!({"order": 1000, "ingress": rule("Deny")}),
    );
    assert_eq!(told(&[kubernetes.clone(), later]), "allow default blue/a 0");
    // A namespace's policy applies there only.
    let other = calico("NetworkPolicy", "red/a", &json!({"ingress": rule("Deny")}));
    assert_eq!(told(&[other]), "allow kns.blue 0");
}

#[test]
fn log_goes_on_and_is_told() {
    let state = world(&[policy(
        "p",
        json!({"ingress": [{"action": "log"}, {"action": "LOG", "protocol": "UDP"}, {"action": "deny"}]}),
    )]);
    let verdict = evaluate(&state, &a(), Direction::Ingress, &from_b());
    assert_eq!(tell(&verdict.enforced), "deny default p 2");
    let logs: Vec<_> = verdict.logs.iter().map(|log| log.rule).collect();
    assert_eq!(logs, [0]);
}

#[test]
fn staged_policies_are_judged_apart() {
    let enforced = policy("p", json!({"order": 5, "ingress": [{"action": "Allow"}]}));
    let staged = |name: &str, action: &str, rule: &str| {
        let spec = json!({"stagedAction": action, "order": 9, "ingress": [{"action": rule}]});
        calico("StagedGlobalNetworkPolicy", name, &spec)
    };
    let told = |documents: &[Json]| {
        let verdict = evaluate(&world(documents), &a(), Direction::Ingress, &from_b());
        (tell(&verdict.enforced), tell(&verdict.staged))
    };
    let both = |enforced: &str, staged: &str| (enforced.to_owned(), staged.to_owned());
    for action in ["Set", "Learn"] {
        assert_eq!(
            told(&[staged("p", action, "Deny")]),
            both("allow kns.blue 0", "deny default p 0")
        );
        // In place of the enforced one, though it goes later.
        assert_eq!(
            told(&[enforced.clone(), staged("p", action, "Deny")]),
            both("allow default p 0", "deny default p 0")
        );
        assert_eq!(
            told(&[enforced.clone(), staged("q", action, "Deny")]),
            both("allow default p 0", "allow default p 0")
        );
    }
    assert_eq!(
        told(&[enforced.clone(), staged("p", "Delete", "Deny")]),
        both("allow default p 0", "allow kns.blue 0")
    );
    assert_eq!(
        told(&[enforced.clone(), staged("p", "Ignore", "Deny")]),
        both("allow default p 0", "allow default p 0")
    );
    let kubernetes = calico(
        "StagedKubernetesNetworkPolicy",
        "blue/k",
        &json!({"podSelector": {}}),
    );
    assert_eq!(
        told(&[kubernetes]),
        both("allow kns.blue 0", "deny default end of tier")
    );
    let namespaced = calico(
        "StagedNetworkPolicy",
        "blue/n",
        &json!({"ingress": [{"action": "Deny"}]}),
    );
    assert_eq!(
        told(&[namespaced]),
        both("allow kns.blue 0", "deny default blue/n 0")
    );
}

/// Whether a rule matches a packet to `a`.
fn hits(rule: Json, packet: &Packet) -> bool {
    hits_in("GlobalNetworkPolicy", "p", rule, packet)
}

fn hits_in(kind: &str, name: &str, mut rule: Json, packet: &Packet) -> bool {
    rule["action"] = json!("Allow");
    let documents = [
        calico(
            kind,
            name,
            &json!({"ingress": [rule], "types": ["Ingress"]}),
        ),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "s-1", "namespace": "blue", "labels": {"kubernetes.io/service-name": "s"}},
            "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": true}}],
            "ports": [{"port": 80}],
        }),
    ];
    let told = ingress(&world(&documents), &a(), packet);
    assert!(
        told.starts_with("allow default") || told == "deny default end of tier",
        "{told}"
    );
    told.starts_with("allow")
}

#[test]
fn rules_match_by_protocol_and_type() {
    let v6 = tcp("fd00::2", "fd00::1", 80);
    let ping = icmp(B, A, 8, 0);
    let ping6 = icmp("fd00::2", "fd00::1", 128, 0);
    for (rule, packet, expected) in [
        (json!({}), from_b(), true),
        (json!({"ipVersion": 4}), from_b(), true),
        (json!({"ipVersion": 4}), v6, false),
        (json!({"ipVersion": 6}), v6, true),
        (json!({"protocol": "tcp"}), from_b(), true),
        (json!({"protocol": 6}), from_b(), true),
        (json!({"protocol": "UDP"}), from_b(), false),
        (json!({"notProtocol": "TCP"}), from_b(), false),
        (
            json!({"protocol": "TCP", "notProtocol": "UDP"}),
            from_b(),
            true,
        ),
        (
            json!({"protocol": "TCP", "notProtocol": "TCP"}),
            from_b(),
            false,
        ),
        (json!({"protocol": "ICMP"}), ping, true),
        (json!({"protocol": "ICMP", "icmp": {"type": 8}}), ping, true),
        (
            json!({"protocol": "ICMP", "icmp": {"type": 8, "code": 0}}),
            ping,
            true,
        ),
        (
            json!({"protocol": "ICMP", "icmp": {"type": 8, "code": 1}}),
            ping,
            false,
        ),
        (
            json!({"protocol": "ICMP", "icmp": {"type": 0}}),
            ping,
            false,
        ),
        (
            json!({"protocol": "ICMP", "notICMP": {"type": 8}}),
            ping,
            false,
        ),
        (
            json!({"protocol": "ICMP", "notICMP": {"type": 8, "code": 1}}),
            ping,
            true,
        ),
        (
            json!({"protocol": "ICMP", "notICMP": {"type": 0}}),
            ping,
            true,
        ),
        (
            json!({"protocol": "ICMP", "icmp": {"type": 128}}),
            ping6,
            false,
        ),
        (
            json!({"protocol": "ICMPv6", "icmp": {"type": 128}}),
            ping6,
            true,
        ),
        (json!({"icmp": {"type": 128}}), ping6, true),
        (json!({"icmp": {"type": 8}}), tcp(B, A, 8), false),
        (json!({"notICMP": {"type": 8}}), tcp(B, A, 80), false),
    ] {
        assert_eq!(hits(rule.clone(), &packet), expected, "{rule} {packet:?}");
    }
}

#[test]
fn rules_match_by_network() {
    let v4 = from_b();
    let v6 = tcp("fd00::2", "fd00::1", 80);
    for (source, packet, expected) in [
        (json!({"nets": ["10.0.0.0/24"]}), v4, true),
        (json!({"nets": ["10.1.0.0/24", "10.0.0.2/32"]}), v4, true),
        (json!({"nets": ["10.1.0.0/24"]}), v4, false),
        (json!({"notNets": ["10.1.0.0/24"]}), v4, true),
        (json!({"notNets": ["10.0.0.0/8"]}), v4, false),
        (
            json!({"nets": ["10.0.0.0/8"], "notNets": ["10.0.0.2/32"]}),
            v4,
            false,
        ),
        // Networks of the other family alone leave the rule out, also where they are negated.
        (json!({"nets": ["fd00::/8"]}), v4, false),
        (json!({"notNets": ["fd00::/8"]}), v4, false),
        (json!({"notNets": ["10.0.0.0/8"]}), v6, false),
        (json!({"notNets": ["fe80::/10"]}), v6, true),
        (json!({"nets": ["fd00::/8", "11.0.0.0/8"]}), v4, false),
        (json!({"nets": ["fd00::/8", "10.0.0.0/8"]}), v4, true),
        (json!({"notNets": ["fd00::/8", "11.0.0.0/8"]}), v4, true),
        (json!({"notNets": ["0.0.0.0/0"]}), v4, false),
        (json!({"notNets": ["::/0", "11.0.0.0/8"]}), v4, true),
        (
            json!({"nets": ["10.0.0.0/8"], "notNets": ["fd00::/8"]}),
            v4,
            false,
        ),
    ] {
        assert_eq!(
            hits(json!({"source": source}), &packet),
            expected,
            "{source} {packet:?}"
        );
    }
}

#[test]
fn rules_match_by_label() {
    let stranger = tcp("198.51.100.1", A, 80);
    let office = tcp("192.0.2.7", A, 80);
    let both = [("GlobalNetworkPolicy", "p"), ("NetworkPolicy", "blue/p")];
    for (source, packet, global, namespaced) in [
        (json!({"selector": "app == 'b'"}), from_b(), true, true),
        (json!({"selector": "app == 'a'"}), from_b(), false, false),
        (json!({"selector": "all()"}), from_b(), true, true),
        (json!({"selector": "all()"}), stranger, false, false),
        // Not in the namespace.
        (
            json!({"selector": "place == 'office'"}),
            office,
            true,
            false,
        ),
        // The address is in the set too, whose label says so.
        (json!({"selector": "has(place)"}), from_b(), true, false),
        (json!({"notSelector": "app == 'b'"}), from_b(), false, false),
        (json!({"notSelector": "app == 'x'"}), from_b(), true, true),
        // Unknown addresses are not selected: alone that holds, in a namespace it does not count as one of its own.
        (json!({"notSelector": "app == 'x'"}), stranger, true, false),
        (
            json!({"selector": "has(app)", "notSelector": "app == 'a'"}),
            from_b(),
            true,
            true,
        ),
        // Each of the two things with the address is looked at on its own.
        (
            json!({"selector": "has(app)", "notSelector": "has(place)"}),
            from_b(),
            true,
            true,
        ),
        (
            json!({"namespaceSelector": "env == 'dev'"}),
            from_b(),
            true,
            true,
        ),
        (
            json!({"namespaceSelector": "env == 'prod'"}),
            from_b(),
            false,
            false,
        ),
        (
            json!({"namespaceSelector": "projectcalico.org/name == 'blue'"}),
            from_b(),
            true,
            true,
        ),
        (json!({"namespaceSelector": "all()"}), from_b(), true, true),
        (json!({"namespaceSelector": "all()"}), office, false, false),
        (json!({"namespaceSelector": "global()"}), office, true, true),
        (
            json!({"namespaceSelector": "env != 'prod'"}),
            office,
            true,
            true,
        ),
        (
            json!({"namespaceSelector": "all()", "selector": "app == 'b'"}),
            from_b(),
            true,
            true,
        ),
        (
            json!({"selector": "projectcalico.org/namespace == 'blue'"}),
            from_b(),
            true,
            true,
        ),
        (
            json!({"serviceAccounts": {"names": ["web"]}}),
            from_b(),
            true,
            true,
        ),
        (
            json!({"serviceAccounts": {"names": ["admin"]}}),
            from_b(),
            false,
            false,
        ),
        (
            json!({"serviceAccounts": {"selector": "role == 'front'"}}),
            from_b(),
            true,
            true,
        ),
        (
            json!({"serviceAccounts": {"selector": "role == 'back'"}}),
            from_b(),
            false,
            false,
        ),
        (
            json!({"serviceAccounts": {"names": ["web"], "selector": "role == 'back'"}}),
            from_b(),
            false,
            false,
        ),
    ] {
        let told = both.map(|(kind, name)| hits_in(kind, name, json!({"source": source}), &packet));
        assert_eq!(told, [global, namespaced], "{source} {packet:?}");
    }
    // What an endpoint inherits, its own label overrides.
    let own = with_labels(
        calico(
            "WorkloadEndpoint",
            "blue/b",
            &json!({"node": "n1", "ipNetworks": [B], "profiles": ["kns.blue"]}),
        ),
        json!({"pcns.env": "own"}),
    );
    let rule = |value: &str| {
        policy(
            "p",
            json!({"ingress": [{"action": "Allow", "source": {"namespaceSelector": format!("env == '{value}'")}}]}),
        )
    };
    assert_eq!(
        ingress(&world(&[own.clone(), rule("own")]), &a(), &from_b()),
        "allow default p 0"
    );
    assert_eq!(
        ingress(&world(&[own, rule("dev")]), &a(), &from_b()),
        "deny default end of tier"
    );
}

#[test]
fn rules_match_by_port_and_service() {
    let http = tcp(B, A, 8080);
    for (rule, packet, expected) in [
        (
            json!({"protocol": "TCP", "destination": {"ports": [80]}}),
            from_b(),
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["70:90"]}}),
            from_b(),
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": [81, "90:99"]}}),
            from_b(),
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"notPorts": [81]}}),
            from_b(),
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"notPorts": ["80:81"]}}),
            from_b(),
            false,
        ),
        (
            json!({"protocol": "TCP", "source": {"ports": [40000]}}),
            from_b(),
            true,
        ),
        (json!({"destination": {"ports": [80]}}), from_b(), true),
        (
            json!({"destination": {"ports": [0, "0:65535"]}}),
            icmp(B, A, 8, 0),
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["http"]}}),
            http,
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["http"]}}),
            from_b(),
            false,
        ),
        (
            json!({"protocol": "UDP", "destination": {"ports": ["http"]}}),
            udp(B, A, 8080),
            false,
        ),
        (json!({"destination": {"ports": ["http"]}}), http, true),
        (
            json!({"destination": {"ports": ["http"]}}),
            udp(B, A, 8080),
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"ports": ["http", 80]}}),
            from_b(),
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"notPorts": ["http"]}}),
            http,
            false,
        ),
        (
            json!({"protocol": "TCP", "destination": {"notPorts": ["http"]}}),
            from_b(),
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"selector": "app == 'a'", "ports": ["http"]}}),
            http,
            true,
        ),
        (
            json!({"protocol": "TCP", "destination": {"selector": "app == 'b'", "ports": ["http"]}}),
            http,
            false,
        ),
        (
            json!({"source": {"services": {"name": "s", "namespace": "blue"}}}),
            from_b(),
            true,
        ),
        (
            json!({"source": {"services": {"name": "t", "namespace": "blue"}}}),
            from_b(),
            false,
        ),
        (
            json!({"source": {"services": {"name": "s", "namespace": "blue"}}}),
            tcp(A, A, 80),
            false,
        ),
    ] {
        assert_eq!(hits(rule.clone(), &packet), expected, "{rule} {packet:?}");
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s-1", "namespace": "blue", "labels": {"kubernetes.io/service-name": "s"}},
        "endpoints": [{"addresses": [B]}], "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}, {"name": "any"}],
    });
    let rule = json!({"egress": [{"action": "Allow", "destination": {"services": {"name": "s"}}}]});
    let state = world(&[slice, calico("NetworkPolicy", "blue/p", &rule)]);
    assert_eq!(
        egress(&state, &a(), &tcp(A, B, 80)),
        "allow default blue/p 0"
    );
    assert_eq!(
        egress(&state, &a(), &udp(A, B, 53)),
        "allow default blue/p 0"
    );
    assert_eq!(
        egress(&state, &a(), &udp(A, B, 80)),
        "deny default end of tier"
    );
    assert_eq!(
        egress(&state, &a(), &tcp(A, "10.0.0.3", 80)),
        "deny default end of tier"
    );
}

#[test]
fn workloads_and_their_own_host() {
    let open = world(&[]);
    let with_host = |mut packet: Packet| {
        packet.with_own_host = true;
        packet
    };
    let felix = |spec: Json| calico("FelixConfiguration", "default", &spec);
    let deny = policy(
        "p",
        json!({"ingress": [{"action": "Deny"}], "egress": [{"action": "Deny"}]}),
    );
    let denied = world(std::slice::from_ref(&deny));
    assert_eq!(
        ingress(&denied, &a(), &with_host(from_b())),
        "allow from the workload's host"
    );
    assert_eq!(
        egress(&open, &a(), &with_host(tcp(A, B, 80))),
        "deny default action towards the host"
    );
    assert_eq!(egress(&open, &a(), &tcp(A, B, 80)), "allow kns.blue 0");
    for action in ["Accept", "RETURN"] {
        let state = world(&[felix(json!({"defaultEndpointToHostAction": action}))]);
        assert_eq!(
            egress(&state, &a(), &with_host(tcp(A, B, 80))),
            "allow kns.blue 0"
        );
    }
    let state = world(&[
        felix(json!({"defaultEndpointToHostAction": "Accept"})),
        deny.clone(),
    ]);
    assert_eq!(
        egress(&state, &a(), &with_host(tcp(A, B, 80))),
        "deny default p 0"
    );
    // The node's own configuration overrides the general one.
    let own = calico(
        "FelixConfiguration",
        "node.n1",
        &json!({"defaultEndpointToHostAction": "Drop"}),
    );
    let state = world(&[felix(json!({"defaultEndpointToHostAction": "Accept"})), own]);
    assert_eq!(
        egress(&state, &a(), &with_host(tcp(A, B, 80))),
        "deny default action towards the host"
    );
    let solicitation = icmp("fd00::1", "fd00::2", 135, 0);
    assert_eq!(
        egress(&denied, &a(), &with_host(solicitation)),
        "allow neighbour discovery"
    );
    assert_eq!(egress(&denied, &a(), &solicitation), "deny default p 0");
    assert_eq!(
        egress(
            &denied,
            &a(),
            &with_host(icmp("fd00::1", "fd00::2", 134, 0))
        ),
        "deny default p 0"
    );
    assert_eq!(
        egress(&open, &a(), &udp(A, B, 4789)),
        "deny encapsulated by a workload"
    );
    assert_eq!(ingress(&open, &a(), &udp(B, A, 4789)), "allow kns.blue 0");
    let ipip = Packet::new(ip(A), ip(B), 4);
    assert_eq!(
        egress(&open, &a(), &ipip),
        "deny encapsulated by a workload"
    );
    let state = world(&[felix(json!({"allowVXLANPacketsFromWorkloads": true}))]);
    assert_eq!(egress(&state, &a(), &udp(A, B, 4789)), "allow kns.blue 0");
    assert_eq!(
        egress(&state, &a(), &ipip),
        "deny encapsulated by a workload"
    );
    let state = world(&[felix(json!({"allowIPIPPacketsFromWorkloads": true}))]);
    assert_eq!(egress(&state, &a(), &ipip), "allow kns.blue 0");
}

#[test]
fn access_lists_are_first_match_and_end_in_deny() {
    let list = |name: &str, order: Json, rules: Json| {
        let spec =
            json!({"interface": "lan", "direction": "input", "order": order, "rules": rules});
        document("oncilla.io/v1", "AccessList", name, &spec)
    };
    let state = state_of(&[
        list(
            "a",
            Json::Null,
            json!([{"action": "deny", "protocol": "UDP"}, {"action": "permit", "protocol": "UDP"}]),
        ),
        list(
            "b",
            json!(1),
            json!([
                {"action": "permit", "reflect": true, "protocol": "TCP", "source": {"nets": ["10.0.0.0/24"]}, "destination": {"ports": ["80:90", 443]}},
                {"action": "permit", "protocol": "ICMP", "icmp": {"type": 8}},
                {"action": "permit", "ipVersion": 6, "destination": {"nets": ["fd00::1"]}},
            ]),
        ),
    ]);
    let told = |packet: &Packet| {
        let verdict =
            evaluate_access(&state, "lan", AccessDirection::Input, packet).expect("has lists");
        let rule = verdict
            .rule
            .map_or("end".to_owned(), |(list, rule)| format!("{list} {rule}"));
        format!(
            "{}{} {rule}",
            verdict.allow,
            if verdict.reflect { " reflect" } else { "" }
        )
    };
    assert_eq!(told(&from_b()), "true reflect b 0");
    assert_eq!(told(&tcp(B, A, 443)), "true reflect b 0");
    assert_eq!(told(&tcp(B, A, 91)), "false end");
    assert_eq!(told(&tcp("10.0.1.2", A, 80)), "false end");
    assert_eq!(told(&icmp(B, A, 8, 0)), "true b 1");
    assert_eq!(told(&icmp(B, A, 0, 0)), "false end");
    assert_eq!(told(&udp(B, A, 80)), "false a 0");
    assert_eq!(told(&udp("fd00::2", "fd00::1", 80)), "true b 2");
    assert_eq!(
        evaluate_access(&state, "lan", AccessDirection::Output, &from_b()),
        None
    );
    assert_eq!(
        evaluate_access(&state, "wan", AccessDirection::Input, &from_b()),
        None
    );
}

#[test]
fn packets_are_checked() {
    assert!(from_b().check().is_ok());
    let mut wrong = from_b();
    wrong.destination = ip("fd00::1");
    assert!(wrong.check().is_err());
    assert!(Packet::new(ip(B), ip(A), 6).check().is_err());
    assert!(
        Packet::new(ip(B), ip(A), 47)
            .with_ports(1, 2)
            .check()
            .is_err()
    );
    assert!(Packet::new(ip(B), ip(A), 1).check().is_err());
    assert!(icmp(B, A, 8, 0).check().is_ok());
    let mut wrong = from_b();
    wrong.pre_nat_destination = Some(ip("fd00::1"));
    assert!(wrong.check().is_err());
}
