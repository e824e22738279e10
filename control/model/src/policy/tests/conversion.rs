use serde_json::json;

use super::super::resolve::{ResolvedPolicy, ResolvedSide};
use super::super::{
    Action, Direction, Policy, PolicyId, Port, Protocol, Resource, ResourceKind, Rule, Types,
};
use super::{calico, document, object};

fn policy(document: &serde_json::Value) -> (PolicyId, Policy) {
    let object = object(document);
    let id = object.id.policy().expect("a policy");
    match object.resource {
        Resource::Policy(policy) => (id, *policy),
        other => panic!("{other:?} is no policy"),
    }
}

fn resolved(document: &serde_json::Value) -> ResolvedPolicy {
    let (id, policy) = policy(document);
    ResolvedPolicy::new(&id, &policy)
}

/// `nets -nets selector -selector ports`, what is there of it.
fn side(side: &ResolvedSide) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(side.nets.iter().map(ToString::to_string));
    parts.extend(side.not_nets.iter().map(|net| format!("-{net}")));
    parts.extend(side.selector.iter().map(ToString::to_string));
    parts.extend(
        side.not_selector
            .iter()
            .map(|selector| format!("-{selector}")),
    );
    parts.extend(side.ports.iter().map(|(a, b)| format!("{a}:{b}")));
    parts.extend(
        side.named_ports
            .iter()
            .map(|port| format!("{}@{}", port.name, port.selector)),
    );
    parts.extend(side.not_ports.iter().map(|(a, b)| format!("-{a}:{b}")));
    parts.extend(
        side.not_named_ports
            .iter()
            .map(|port| format!("-{}@{}", port.name, port.selector)),
    );
    parts.extend(
        side.service
            .iter()
            .map(|service| format!("{}:{}", service.service, service.with_port)),
    );
    parts.join(" ")
}

fn source(namespace: Option<&str>, source: serde_json::Value) -> String {
    let rules = json!({"ingress": [{"action": "Allow", "protocol": "TCP", "source": source}]});
    let policy = match namespace {
        Some(namespace) => calico("NetworkPolicy", &format!("{namespace}/p"), &rules),
        None => calico("GlobalNetworkPolicy", "p", &rules),
    };
    side(&resolved(&policy).ingress[0].source)
}

#[test]
fn sides_are_scoped_and_combined() {
    const NS: &str = "projectcalico.org/namespace == \"ns\"";
    for (namespace, written, expected) in [
        (None, json!({}), String::new()),
        (Some("ns"), json!({}), String::new()),
        (
            Some("ns"),
            json!({"nets": ["10.0.0.1/8"], "notNets": ["fd00::/16"]}),
            "10.0.0.0/8 -fd00::/16".into(),
        ),
        (None, json!({"selector": "a == 'b'"}), "a == \"b\"".into()),
        (
            Some("ns"),
            json!({"selector": "a == 'b'"}),
            format!("({NS} && a == \"b\")"),
        ),
        (None, json!({"notSelector": "has(a)"}), "-has(a)".into()),
        (
            Some("ns"),
            json!({"notSelector": "has(a)"}),
            format!("({NS} && !has(a))"),
        ),
        (
            None,
            json!({"selector": "has(b)", "notSelector": "has(a)"}),
            "(has(b) && !has(a))".into(),
        ),
        (
            Some("ns"),
            json!({"selector": "has(b)", "notSelector": "has(a) || has(c)"}),
            format!("(({NS} && has(b)) && !(has(a) || has(c)))"),
        ),
        (
            Some("ns"),
            json!({"namespaceSelector": "all()"}),
            "has(projectcalico.org/namespace)".into(),
        ),
        (
            None,
            json!({"namespaceSelector": "global()"}),
            "!has(projectcalico.org/namespace)".into(),
        ),
        (
            Some("ns"),
            json!({"namespaceSelector": "env == 'x' && !has(y)", "selector": "has(a)"}),
            "((pcns.env == \"x\" && !has(pcns.y)) && has(a))".into(),
        ),
        (
            None,
            json!({"serviceAccounts": {"names": ["web", "admin"]}}),
            "projectcalico.org/serviceaccount in {\"admin\", \"web\"}".into(),
        ),
        (
            Some("ns"),
            json!({"serviceAccounts": {"names": ["web"], "selector": "role == 'a'"}, "selector": "has(x)"}),
            format!(
                "({NS} && ((pcsa.role == \"a\" && projectcalico.org/serviceaccount in {{\"web\"}}) && has(x)))"
            ),
        ),
        (None, json!({"serviceAccounts": {}}), String::new()),
        (None, json!({"ports": ["http"]}), "http@all()".into()),
        (
            None,
            json!({"selector": "has(a)", "ports": ["http"]}),
            "http@has(a)".into(),
        ),
        (
            None,
            json!({"selector": "has(a)", "ports": ["http", 80]}),
            "has(a) 80:80 http@has(a)".into(),
        ),
        (
            None,
            json!({"selector": "has(a)", "notPorts": ["http", "1:9"]}),
            "has(a) -1:9 -http@has(a)".into(),
        ),
        (
            None,
            json!({"notSelector": "has(a)", "ports": ["http"]}),
            "-has(a) http@all()".into(),
        ),
        (
            Some("ns"),
            json!({"services": {"name": "web"}}),
            "ns/web:false".into(),
        ),
        (
            None,
            json!({"services": {"name": "web", "namespace": "shop"}}),
            "shop/web:false".into(),
        ),
    ] {
        assert_eq!(
            source(namespace, written.clone()),
            expected,
            "{namespace:?} {written}"
        );
    }
    let rules = json!({"egress": [{"action": "Allow", "destination": {"services": {"name": "web", "namespace": "shop"}}}]});
    let policy = resolved(&calico("GlobalNetworkPolicy", "p", &rules));
    assert_eq!(side(&policy.egress[0].destination), "shop/web:true");
    assert!(
        policy.egress[0]
            .services()
            .all(|service| service.id().starts_with("svc:"))
    );
}

#[test]
fn policies_select_in_their_scope() {
    for (kind, name, spec, expected) in [
        ("GlobalNetworkPolicy", "p", json!({}), "all()"),
        (
            "NetworkPolicy",
            "ns/p",
            json!({}),
            "projectcalico.org/namespace == \"ns\"",
        ),
        (
            "NetworkPolicy",
            "ns/p",
            json!({"selector": "has(a)", "serviceAccountSelector": "all()"}),
            "(projectcalico.org/namespace == \"ns\" && has(a) && has(projectcalico.org/serviceaccount))",
        ),
        (
            "GlobalNetworkPolicy",
            "p",
            json!({"selector": "has(a)", "namespaceSelector": "all()", "serviceAccountSelector": "role == 'x'"}),
            "(has(a) && has(projectcalico.org/namespace) && pcsa.role == \"x\")",
        ),
        (
            "StagedGlobalNetworkPolicy",
            "p",
            json!({"namespaceSelector": "projectcalico.org/name == 'blue'"}),
            "pcns.projectcalico.org/name == \"blue\"",
        ),
    ] {
        let policy = resolved(&calico(kind, name, &spec));
        assert_eq!(policy.selector.as_str(), expected, "{spec}");
    }
}

#[test]
fn types_follow_the_rules_where_they_are_not_given() {
    let rule = json!([{"action": "Allow"}]);
    for (spec, ingress, egress) in [
        (json!({}), true, false),
        (json!({"ingress": rule}), true, false),
        (json!({"egress": rule}), false, true),
        (json!({"ingress": rule, "egress": rule}), true, true),
        (json!({"ingress": rule, "types": ["Egress"]}), false, true),
        (json!({"ingress": rule, "types": []}), true, false),
    ] {
        let (_, policy) = policy(&calico("NetworkPolicy", "ns/p", &spec));
        assert_eq!(policy.types, Types { ingress, egress }, "{spec}");
    }
    let kubernetes = |spec: &serde_json::Value| {
        policy(&document(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            "ns/p",
            spec,
        ))
        .1
    };
    for (spec, ingress, egress) in [
        (json!({}), true, false),
        (json!({"egress": []}), true, false),
        (json!({"egress": [{}]}), true, true),
        (
            json!({"egress": [{}], "policyTypes": ["Ingress"]}),
            true,
            false,
        ),
        (json!({"policyTypes": ["Egress"]}), false, true),
    ] {
        assert_eq!(kubernetes(&spec).types, Types { ingress, egress }, "{spec}");
    }
}

#[test]
fn kubernetes_policies_become_calicos() {
    let (id, policy) = policy(&document(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "ns/web",
        &json!({
            "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["b", "a"]},
                {"key": "old", "operator": "DoesNotExist"},
            ]},
            "ingress": [
                {
                    "from": [
                        {"podSelector": {"matchLabels": {"app": "x"}}},
                        {"namespaceSelector": {}},
                        {"namespaceSelector": {"matchLabels": {"env": "dev"}}, "podSelector": {}},
                        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    ],
                    "ports": [
                        {"port": 80},
                        {"port": 81, "protocol": "TCP"},
                        {"port": "http"},
                        {"port": 53, "protocol": "UDP"},
                        {"port": 100, "endPort": 200},
                    ],
                },
                {"ports": [{"port": 80}, {"protocol": "TCP"}, {"port": 90}]},
                {},
            ],
        }),
    ));
    assert_eq!(id.tie_break(), "web/ns/KubernetesNetworkPolicy");
    assert_eq!(
        (&*policy.tier, policy.order.map(|order| order.get())),
        ("default", Some(1000.0))
    );
    let resolved = ResolvedPolicy::new(&id, &policy);
    assert_eq!(
        resolved.selector.as_str(),
        "(projectcalico.org/namespace == \"ns\" && (projectcalico.org/orchestrator == \"k8s\" && app == \"web\" && tier not in {\"a\", \"b\"} && !has(old)))"
    );
    let rules: Vec<_> = resolved
        .ingress
        .iter()
        .map(|rule| {
            let protocol = rule
                .protocol
                .map_or("any".into(), |protocol| protocol.to_string());
            format!(
                "{protocol} {} > {}",
                side(&rule.source),
                side(&rule.destination)
            )
        })
        .collect();
    let ports = "80:81 100:200 http@all()";
    let x = "(projectcalico.org/namespace == \"ns\" && (projectcalico.org/orchestrator == \"k8s\" && app == \"x\"))";
    let any = "(has(projectcalico.org/namespace) && projectcalico.org/orchestrator == \"k8s\")";
    let dev = "(pcns.env == \"dev\" && projectcalico.org/orchestrator == \"k8s\")";
    let block = "10.0.0.0/8 -10.1.0.0/16";
    let mut expected = Vec::new();
    for peer in [x, any, dev, block] {
        expected.push(format!("TCP {peer} > {ports}"));
    }
    for peer in [x, any, dev, block] {
        expected.push(format!("UDP {peer} > 53:53"));
    }
    expected.push("TCP  > ".into());
    expected.push("any  > ".into());
    assert_eq!(rules, expected);
    assert!(
        policy
            .ingress
            .iter()
            .all(|rule| rule.action == Action::Allow)
    );
}

#[test]
fn cluster_policies_become_calicos() {
    let (id, policy) = policy(&document(
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        "admin",
        &json!({
            "tier": "Admin",
            "priority": 30,
            "subject": {"pods": {"namespaceSelector": {"matchLabels": {"env": "dev"}}, "podSelector": {"matchLabels": {"app": "web"}}}},
            "ingress": [{"name": "in", "action": "Pass", "from": [{"namespaces": {}}], "protocols": [
                {"tcp": {"destinationPort": {"number": 80}}},
                {"tcp": {"destinationPort": {"range": {"start": 81, "end": 90}}}},
                {"udp": {}},
            ]}],
            "egress": [
                {"action": "Accept", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]},
                {"action": "Accept", "to": [{"nodes": {}}]},
                {"action": "Deny", "to": [{"namespaces": {}}, {"domainNames": ["x.example"]}]},
                {"action": "Pass", "to": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "http"}]},
            ],
        }),
    ));
    assert_eq!(id.tie_break(), "admin//KubernetesClusterNetworkPolicy");
    assert_eq!(
        (&*policy.tier, policy.order.map(|order| order.get())),
        ("kube-admin", Some(30.0))
    );
    let resolved = ResolvedPolicy::new(&id, &policy);
    assert_eq!(
        resolved.selector.as_str(),
        "((projectcalico.org/orchestrator == \"k8s\" && app == \"web\") && pcns.env == \"dev\")"
    );
    let told = |direction| -> Vec<String> {
        let rules = policy
            .rules(direction)
            .iter()
            .zip(resolved.rules(direction));
        rules
            .map(|(rule, resolved)| {
                let protocol = rule
                    .protocol
                    .map_or("any".into(), |protocol| protocol.to_string());
                format!(
                    "{} {protocol} {} > {}",
                    rule.action,
                    side(&resolved.source),
                    side(&resolved.destination)
                )
            })
            .collect()
    };
    assert_eq!(
        told(Direction::Ingress),
        [
            "Pass TCP has(projectcalico.org/namespace) > 80:90",
            "Pass UDP has(projectcalico.org/namespace) > ",
        ]
    );
    assert_eq!(
        told(Direction::Egress),
        [
            "Allow any  > 10.0.0.0/8 fd00::/8",
            "Deny any  > ",
            "Deny any  > "
        ]
    );
    assert_eq!(policy.egress[1], Rule::new(Action::Deny));
    assert_eq!(
        policy.notes,
        [
            "spec.egress[1]: nodes are not supported; the rule is left out",
            "spec.egress[2]: domainNames are not supported; the rule denies everything",
            "spec.egress[3]: destinationNamedPort is not supported; the rule denies everything",
        ]
    );
}

#[test]
fn kinds_are_told_apart_by_version() {
    for (kind, version, name) in ResourceKind::ALL {
        assert_eq!(ResourceKind::of(version, name), Some(kind));
        assert_eq!((kind.api_version(), kind.as_str()), (version, name));
    }
    let both = ["projectcalico.org/v3", "networking.k8s.io/v1"]
        .map(|version| ResourceKind::of(version, "NetworkPolicy"));
    assert_ne!(both[0], both[1]);
}

#[test]
fn ports_and_protocols_are_read_as_they_are_written() {
    for (text, port) in [
        ("0", Port::Range(0, 0)),
        ("80", Port::Range(80, 80)),
        ("0:65535", Port::Range(0, 65535)),
        ("http", Port::Named("http".parse().expect("a name"))),
        ("9p", Port::Named("9p".parse().expect("a name"))),
    ] {
        assert_eq!(text.parse(), Ok(port.clone()));
        assert_eq!(port.to_string(), text);
    }
    for (text, protocol) in [
        ("tcp", Protocol::TCP),
        ("IcmpV6", Protocol::ICMPV6),
        ("17", Protocol::UDP),
    ] {
        assert_eq!(text.parse(), Ok(protocol));
    }
    assert_eq!(
        "47".parse::<Protocol>()
            .map(|protocol| protocol.to_string()),
        Ok("47".into())
    );
}
