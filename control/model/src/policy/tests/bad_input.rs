use serde_json::{Value as Json, json};

use super::{calico, document, read};
use crate::policy::PolicyState;

/// A policy with this one rule.
fn with_rule(rule: Json) -> Json {
    calico(
        "GlobalNetworkPolicy",
        "p",
        &json!({"ingress": [{"action": "Allow"}, rule]}),
    )
}

fn with_source(source: Json) -> Json {
    with_rule(json!({"action": "Allow", "protocol": "TCP", "source": source}))
}

fn with_destination(destination: Json) -> Json {
    with_rule(json!({"action": "Allow", "protocol": "TCP", "destination": destination}))
}

fn global(spec: Json) -> Json {
    calico("GlobalNetworkPolicy", "p", &spec)
}

fn kubernetes(spec: Json) -> Json {
    document("networking.k8s.io/v1", "NetworkPolicy", "ns/p", &spec)
}

fn cluster(spec: Json) -> Json {
    document(
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        "p",
        &spec,
    )
}

fn access(rule: Json) -> Json {
    let spec = json!({"interface": "lan", "direction": "Input", "rules": [rule]});
    document("oncilla.io/v1", "AccessList", "a", &spec)
}

fn felix(spec: Json) -> Json {
    calico("FelixConfiguration", "default", &spec)
}

/// Exactly this one error.
#[track_caller]
fn refused(document: Json, field: &str, message: &str) {
    let error = read(&document).expect_err(&format!("{document} was taken"));
    let told: Vec<_> = error
        .errors
        .iter()
        .map(|e| (&*e.field, &*e.message))
        .collect();
    let [(at, what)] = told[..] else {
        panic!("one error expected at {field}: {error}");
    };
    assert_eq!(at, field, "{error}");
    assert!(what.contains(message), "{error}\nshould say {message:?}");
}

const RULE: &str = "spec.ingress[1]";

fn at(field: &str) -> String {
    format!("{RULE}.{field}")
}

#[test]
fn rules() {
    refused(with_rule(json!({})), &at("action"), "required");
    refused(
        with_rule(json!({"action": "Permit"})),
        &at("action"),
        "value is \"Permit\"; it must be Allow, Deny, Log or Pass",
    );
    refused(with_rule(json!({"action": 1})), &at("action"), "value is 1");
    refused(
        with_rule(json!("Allow")),
        RULE,
        "it must be a map of fields",
    );
    let allow = |field: &str, value: Json| {
        let mut rule = json!({"action": "Allow"});
        rule[field] = value;
        with_rule(rule)
    };
    for bad in [json!(5), json!("4"), json!(4.5)] {
        refused(allow("ipVersion", bad), &at("ipVersion"), "must be 4 or 6");
    }
    for field in ["protocol", "notProtocol"] {
        for bad in [
            json!("TPC"),
            json!(0),
            json!(256),
            json!(-1),
            json!("06"),
            json!(""),
            json!([]),
        ] {
            refused(allow(field, bad), &at(field), "must be TCP, UDP");
        }
    }
    for field in ["icmp", "notICMP"] {
        refused(
            allow(field, json!({"type": 255})),
            &at(&format!("{field}.type")),
            "from 0 to 254",
        );
        refused(
            allow(field, json!({"type": 8, "code": 256})),
            &at(&format!("{field}.code")),
            "from 0 to 255",
        );
        refused(
            allow(field, json!({"code": 1})),
            &at(&format!("{field}.code")),
            "needs a type",
        );
        refused(
            with_rule(json!({"action": "Deny", "protocol": "UDP", field: {"type": 8}})),
            &at(field),
            "must be ICMP",
        );
    }
    refused(
        with_rule(json!({"action": "Deny", "protocol": "ICMP", "ipVersion": 6})),
        &at("ipVersion"),
        "it must be 4",
    );
    refused(
        with_rule(json!({"action": "Deny", "notProtocol": "ICMPv6", "ipVersion": 4})),
        &at("ipVersion"),
        "it must be 6",
    );
    refused(
        with_rule(json!({"action": "Allow", "protocol": "TCP", "http": {"methods": ["GET"]}})),
        &at("http"),
        "L7 rules are not supported yet; refusing rather than enforcing only the L3/L4 part",
    );
    refused(
        with_rule(json!({"action": "Allow", "http": {}})),
        &at("http"),
        "L7 rules",
    );
    refused(
        allow("sauce", json!({})),
        &at("sauce"),
        "unknown field; the fields are action, ",
    );
    refused(
        allow("metadata", json!({"labels": {}})),
        &at("metadata.labels"),
        "unknown field",
    );
    refused(
        with_rule(json!({"action": "Allow", "protocol": "ICMP", "destination": {"ports": [80]}})),
        &at("destination.ports"),
        "protocol ICMP has no ports",
    );
    refused(
        with_rule(json!({"action": "Allow", "protocol": 47, "source": {"notPorts": ["http"]}})),
        &at("source.notPorts"),
        "protocol 47 has no ports",
    );
    refused(
        with_rule(json!({"action": "Allow", "ipVersion": 4, "source": {"notNets": ["fd00::/8"]}})),
        &at("source.notNets"),
        "fd00::/8 is not of the rule's ipVersion",
    );
}

#[test]
fn sides() {
    for field in ["nets", "notNets"] {
        for bad in [
            "10.0.0.0/33",
            "10.0.0.0",
            "10.0.0/8",
            "x",
            "",
            "10.0.0.0/-1",
            "010.0.0.0/8",
            "fd00::/129",
            "10.0.0.0/8 ",
        ] {
            refused(
                with_source(json!({field: ["10.0.0.0/8", bad]})),
                &at(&format!("source.{field}[1]")),
                &format!("value is {bad:?}; it must be a network such as"),
            );
        }
    }
    refused(
        with_source(json!({"nets": [1]})),
        &at("source.nets[0]"),
        "must be a string",
    );
    refused(
        with_source(json!({"nets": "10.0.0.0/8"})),
        &at("source.nets"),
        "must be a list",
    );
    for field in ["ports", "notPorts"] {
        for bad in [
            json!(65536),
            json!(-1),
            json!("65536"),
            json!("80:"),
            json!(":80"),
            json!("80-90"),
            json!("080"),
            json!("+80"),
            json!("a--b"),
            json!("-a"),
            json!("http_s"),
            json!("averyverylongname"),
            json!(""),
            json!(80.5),
            json!(true),
            json!("80:http"),
        ] {
            refused(
                with_destination(json!({field: [80, bad]})),
                &at(&format!("destination.{field}[1]")),
                "must be a port from 0 to 65535",
            );
        }
        refused(
            with_destination(json!({field: ["90:80"]})),
            &at(&format!("destination.{field}[0]")),
            "value is \"90:80\"; it must be a range whose first port is not above the last",
        );
    }
    for field in ["selector", "notSelector", "namespaceSelector"] {
        refused(
            with_source(json!({field: "app = 'a'"})),
            &at(&format!("source.{field}")),
            "expected an operator: ==, !=, in, not in, contains, starts with or ends with, found '=' (at byte 4)",
        );
        refused(
            with_source(json!({field: format!("a == '{}'", "x".repeat(1024))})),
            &at(&format!("source.{field}")),
            "at most 1024 characters",
        );
        refused(
            with_source(json!({field: 7})),
            &at(&format!("source.{field}")),
            "must be a string",
        );
    }
    refused(
        with_source(json!({"selector": "global()"})),
        &at("source.selector"),
        "namespaceSelector only",
    );
    refused(
        with_source(json!({"namespaceSelector": "global() || has(a)"})),
        &at("source.namespaceSelector"),
        "global() must stand alone",
    );
    refused(
        with_source(json!({"selectors": "all()"})),
        &at("source.selectors"),
        "unknown field",
    );
    refused(
        with_source(json!({"serviceAccounts": {"names": ["A"]}})),
        &at("source.serviceAccounts.names[0]"),
        "\"A\" is no name",
    );
    refused(
        with_source(json!({"serviceAccounts": {"selector": "a ="}})),
        &at("source.serviceAccounts.selector"),
        "(at byte 2)",
    );
    let service = json!({"name": "web", "namespace": "shop"});
    refused(
        with_source(json!({"services": {"name": "web"}})),
        &at("source.services.namespace"),
        "required",
    );
    refused(
        with_source(json!({"services": {"namespace": "web"}})),
        &at("source.services.name"),
        "required",
    );
    refused(
        with_destination(json!({"services": service})),
        &at("destination.services"),
        "an ingress rule may name a service in its source only",
    );
    for (field, other) in [
        ("nets", json!(["10.0.0.0/8"])),
        ("notNets", json!(["10.0.0.0/8"])),
        ("selector", json!("all()")),
        ("notSelector", json!("has(a)")),
        ("namespaceSelector", json!("all()")),
        ("serviceAccounts", json!({"names": ["a"]})),
    ] {
        refused(
            with_source(json!({"services": service, field: other})),
            &at(&format!("source.{field}")),
            "must not stand beside services",
        );
    }
    let out = |destination: Json| {
        global(
            json!({"egress": [{"action": "Allow", "protocol": "TCP", "destination": destination}]}),
        )
    };
    assert!(read(&out(json!({"services": service}))).is_ok());
    refused(
        out(json!({"services": service, "ports": [80]})),
        "spec.egress[0].destination.ports",
        "must not stand beside services",
    );
    refused(
        global(json!({"egress": [{"action": "Allow", "source": {"services": service}}]})),
        "spec.egress[0].source.services",
        "an egress rule may name a service in its destination only",
    );
}

#[test]
fn policies() {
    for bad in [json!("10"), json!(true), json!([1])] {
        refused(
            global(json!({"order": bad})),
            "spec.order",
            "must be a finite number",
        );
    }
    let infinite = super::super::Value::Float(f64::INFINITY);
    let mut raw = super::value(&global(json!({})));
    if let super::super::Value::Map(map) = &mut raw {
        map.insert(
            "spec".into(),
            super::super::Value::map([("order", infinite)]),
        );
    }
    let error = super::Object::read(&raw).expect_err("no finite number");
    assert_eq!(error.errors[0].field, "spec.order");
    refused(global(json!({"tier": "Upper"})), "spec.tier", "is no name");
    refused(
        global(json!({"types": ["ingress"]})),
        "spec.types[0]",
        "must be Ingress or Egress",
    );
    refused(
        global(json!({"types": ["Egress", "Egress"]})),
        "spec.types[1]",
        "is there twice",
    );
    refused(
        global(json!({"selector": "a =="})),
        "spec.selector",
        "(at byte 4)",
    );
    refused(
        global(json!({"selector": "global()"})),
        "spec.selector",
        "namespaceSelector only",
    );
    refused(
        global(json!({"serviceAccountSelector": "global()"})),
        "spec.serviceAccountSelector",
        "namespaceSelector only",
    );
    refused(
        global(json!({"namespaceSelector": "("})),
        "spec.namespaceSelector",
        "(at byte 1)",
    );
    refused(
        global(json!({"doNotTrack": "yes"})),
        "spec.doNotTrack",
        "must be true or false",
    );
    refused(
        global(json!({"doNotTrack": true, "preDNAT": true})),
        "spec.preDNAT",
        "together with doNotTrack",
    );
    refused(
        global(json!({"doNotTrack": true, "applyOnForward": false})),
        "spec.applyOnForward",
        "must be true",
    );
    refused(
        global(json!({"preDNAT": true, "egress": [{"action": "Allow"}]})),
        "spec.egress",
        "no egress rules",
    );
    refused(
        global(json!({"preDNAT": true, "types": ["Ingress", "Egress"]})),
        "spec.types",
        "Ingress alone",
    );
    refused(
        global(json!({"performanceHints": ["Fast"]})),
        "spec.performanceHints[0]",
        "AssumeNeededOnEveryNode",
    );
    refused(
        global(json!({"ingres": []})),
        "spec.ingres",
        "unknown field; the fields are applyOnForward, ",
    );
    refused(
        global(json!({"stagedAction": "Set"})),
        "spec.stagedAction",
        "unknown field",
    );
    for field in ["doNotTrack", "preDNAT", "applyOnForward"] {
        refused(
            calico("NetworkPolicy", "ns/p", &json!({field: true})),
            &format!("spec.{field}"),
            "unknown field",
        );
    }
    refused(
        calico(
            "NetworkPolicy",
            "ns/p",
            &json!({"namespaceSelector": "all()"}),
        ),
        "spec.namespaceSelector",
        "unknown field",
    );
    refused(
        calico(
            "StagedNetworkPolicy",
            "ns/p",
            &json!({"stagedAction": "Remove"}),
        ),
        "spec.stagedAction",
        "must be Set, Delete, Learn or Ignore",
    );
    refused(
        calico("NetworkPolicy", "p", &json!({})),
        "metadata.namespace",
        "required",
    );
    refused(
        calico("GlobalNetworkPolicy", "ns/p", &json!({})),
        "metadata.namespace",
        "is in no namespace",
    );
    let many: Vec<_> = (0..1025).map(|_| json!({"action": "Allow"})).collect();
    refused(
        global(json!({"egress": many})),
        "spec.egress",
        "has 1025 entries; it must have at most 1024",
    );
    let nets: Vec<_> = (0..257)
        .map(|n| format!("10.0.{}.{}/32", n / 256, n % 256))
        .collect();
    refused(
        with_source(json!({"nets": nets})),
        &at("source.nets"),
        "at most 256",
    );
    let ports: Vec<_> = (0..51).collect();
    refused(
        with_source(json!({"ports": ports})),
        &at("source.ports"),
        "at most 50",
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once_in_lines() {
    let error = read(&with_rule(json!({
        "action": "Maybe",
        "source": {"nets": ["10.0.0.0/40"], "selector": "a b"},
        "http": {},
    })))
    .expect_err("four errors");
    assert_eq!(
        error.to_string(),
        "GlobalNetworkPolicy/p: spec.ingress[1].action: value is \"Maybe\"; it must be Allow, Deny, Log or Pass\n\
         GlobalNetworkPolicy/p: spec.ingress[1].http: L7 rules are not supported yet; refusing rather than enforcing only the L3/L4 part\n\
         GlobalNetworkPolicy/p: spec.ingress[1].source.nets[0]: value is \"10.0.0.0/40\"; it must be a network such as 10.0.0.0/8 or 2001:db8::/32\n\
         GlobalNetworkPolicy/p: spec.ingress[1].source.selector: value is \"a b\"; expected an operator: ==, !=, in, not in, contains, starts with or ends with, found 'b' (at byte 2)"
    );
}

#[test]
fn documents_and_metadata() {
    let kind = |version: &str, kind: &str| document(version, kind, "ns/p", &json!({}));
    refused(
        kind("projectcalico.org/v3", "NetPolicy"),
        "kind",
        "value is \"NetPolicy\"",
    );
    refused(
        kind("projectcalico.org/v1", "NetworkPolicy"),
        "apiVersion",
        "it must be projectcalico.org/v3 or networking.k8s.io/v1",
    );
    refused(
        json!({"kind": "Tier", "metadata": {"name": "a"}}),
        "apiVersion",
        "required",
    );
    refused(
        json!({"apiVersion": "v1", "metadata": {"name": "a"}}),
        "kind",
        "required",
    );
    refused(json!([]), "", "must be a map of fields");
    let mut policy = global(json!({}));
    policy["metadata"]["name"] = json!("A_b");
    refused(policy, "metadata.name", "is no name");
    let mut policy = global(json!({}));
    policy["metadata"] = json!({});
    refused(policy, "metadata.name", "required");
    let mut policy = global(json!({}));
    policy["metadata"]["labels"] = json!({"a b": "c"});
    refused(policy, "metadata.labels", "\"a b\" is no label");
    let mut policy = global(json!({}));
    policy["metadata"]["labels"] = json!({"a": 1});
    refused(policy, "metadata.labels.a", "must be a string");
    let mut policy = global(json!({}));
    policy["metadata"]["lables"] = json!({});
    refused(policy, "metadata.lables", "unknown field");
    let mut policy = global(json!({}));
    policy["spek"] = json!({});
    refused(policy, "spek", "unknown field");
}

#[test]
fn other_kinds_of_calico() {
    refused(
        calico("Tier", "a.b", &json!({})),
        "metadata.name",
        "a tier's name must",
    );
    refused(
        calico("Tier", "a", &json!({"order": "1"})),
        "spec.order",
        "finite number",
    );
    refused(
        calico("Tier", "a", &json!({"defaultAction": "Allow"})),
        "spec.defaultAction",
        "must be Deny or Pass",
    );
    refused(
        calico("Tier", "default", &json!({"order": 5})),
        "spec.order",
        "must be 1000000",
    );
    refused(
        calico("Tier", "kube-admin", &json!({"defaultAction": "Deny"})),
        "spec.defaultAction",
        "must be Pass",
    );
    refused(
        calico("Profile", "a", &json!({"ingress": [{"action": "Pass"}]})),
        "spec.ingress[0].action",
        "in a profile",
    );
    refused(
        calico("Profile", "a", &json!({"labelsToApply": {"a=": "b"}})),
        "spec.labelsToApply",
        "is no label",
    );
    refused(
        calico("NetworkSet", "ns/a", &json!({"nets": ["10.0.0.300"]})),
        "spec.nets[0]",
        "must be a network",
    );
    refused(
        calico(
            "GlobalNetworkSet",
            "a",
            &json!({"allowedEgressDomains": ["x"]}),
        ),
        "spec.allowedEgressDomains",
        "not supported",
    );
    refused(
        calico("HostEndpoint", "a", &json!({"node": "n"})),
        "spec.interfaceName",
        "required",
    );
    refused(
        calico("HostEndpoint", "a", &json!({"interfaceName": "*"})),
        "spec.node",
        "required",
    );
    refused(
        calico(
            "HostEndpoint",
            "a",
            &json!({"node": "n", "expectedIPs": ["10.0.0.1/24"]}),
        ),
        "spec.expectedIPs[0]",
        "must be an address",
    );
    let port = |port: Json| {
        calico(
            "HostEndpoint",
            "a",
            &json!({"node": "n", "interfaceName": "e", "ports": [port]}),
        )
    };
    refused(
        port(json!({"name": "http", "protocol": "ICMP", "port": 1})),
        "spec.ports[0].protocol",
        "must be TCP, UDP or SCTP",
    );
    refused(
        port(json!({"name": "8", "protocol": "TCP", "port": 1})),
        "spec.ports[0].name",
        "must be a port's name",
    );
    refused(
        port(json!({"name": "a", "protocol": "TCP", "port": 0})),
        "spec.ports[0].port",
        "from 1 to 65535",
    );
    let workload = |spec: Json| calico("WorkloadEndpoint", "ns/a", &spec);
    refused(workload(json!({})), "spec.node", "required");
    refused(
        workload(json!({"node": "n", "ipNetworks": ["10.0.0.0/24"]})),
        "spec.ipNetworks[0]",
        "prefix length must be 32 or 128",
    );
    refused(
        workload(json!({"node": "n", "ipNATs": []})),
        "spec.ipNATs",
        "not supported",
    );
    refused(
        workload(json!({"node": "n", "allowSpoofedSourcePrefixes": ["x"]})),
        "spec.allowSpoofedSourcePrefixes[0]",
        "must be a network",
    );
    refused(
        workload(
            json!({"node": "n", "ports": [{"name": "a", "protocol": "TCP", "port": 1, "hostPort": 80}]}),
        ),
        "spec.ports[0].hostPort",
        "not supported",
    );
}

#[test]
fn felix_configurations() {
    refused(
        felix(json!({"bpfEnabled": true})),
        "spec.bpfEnabled",
        "unknown field; the fields are allowIPIPPacketsFromWorkloads, ",
    );
    refused(
        felix(json!({"defaultEndpointToHostAction": "Deny"})),
        "spec.defaultEndpointToHostAction",
        "must be Drop, Accept or Return",
    );
    refused(
        felix(json!({"iptablesFilterDenyAction": "Accept"})),
        "spec.iptablesFilterDenyAction",
        "must be Drop or Reject",
    );
    let port = |port: Json| felix(json!({"failsafeInboundHostPorts": [port]}));
    refused(
        port(json!({"protocol": "ICMP", "port": 1})),
        "spec.failsafeInboundHostPorts[0].protocol",
        "must be TCP, UDP or SCTP",
    );
    refused(
        port(json!({"port": 1})),
        "spec.failsafeInboundHostPorts[0].protocol",
        "required",
    );
    refused(
        port(json!({"protocol": "TCP"})),
        "spec.failsafeInboundHostPorts[0].port",
        "required",
    );
    refused(
        port(json!({"protocol": "TCP", "port": 65536})),
        "spec.failsafeInboundHostPorts[0].port",
        "from 0 to 65535",
    );
    refused(
        port(json!({"protocol": "TCP", "port": 1, "net": "x"})),
        "spec.failsafeInboundHostPorts[0].net",
        "must be a network",
    );
    refused(
        felix(json!({"bpfConntrackTimeouts": {"udpTimeout": "soon"}})),
        "spec.bpfConntrackTimeouts.udpTimeout",
        "must be a duration",
    );
    refused(
        felix(json!({"bpfConntrackTimeouts": {"tcpFinsSeen": "Auto"}})),
        "spec.bpfConntrackTimeouts.tcpFinsSeen",
        "write a duration such as 20s",
    );
    refused(
        felix(json!({"bpfConntrackTimeouts": {"tcpPreEstablished": "20s"}})),
        "spec.bpfConntrackTimeouts.tcpPreEstablished",
        "",
    );
    refused(
        felix(json!({"natOutgoingAddress": "127.0.0.1"})),
        "spec.natOutgoingAddress",
        "loopback",
    );
    for (range, message) in [
        (json!("1024-2048"), "must be a port or a range such as"),
        (json!(0), "0 is no port"),
        (json!("2000:1000"), "ends before it begins"),
        (json!("1:65536"), "65536 is no port"),
        (json!([1]), "must be a port or a range such as"),
    ] {
        let document = felix(json!({"natPortRange": range}));
        refused(document, "spec.natPortRange", message);
    }
    refused(
        felix(json!({"natOutgoingExclusions": "IPPoolsAndHostIPs"})),
        "spec.natOutgoingExclusions",
        "use a NatRule with exempt",
    );
    refused(
        felix(json!({"natOutgoingExclusions": "None"})),
        "spec.natOutgoingExclusions",
        "must be IPPoolsOnly",
    );
    refused(
        calico("FelixConfiguration", "other", &json!({})),
        "metadata.name",
        "must be \"default\" or",
    );
}

#[test]
fn ip_pools() {
    let pool = |spec: Json| calico("IPPool", "p", &spec);
    let with = |field: &str, value: Json| {
        let mut spec = json!({"cidr": "10.0.0.0/16"});
        spec[field] = value;
        pool(spec)
    };
    for (spec, field, message) in [
        (json!({}), "cidr", "required"),
        (json!({"cidr": "x"}), "cidr", "must be a network"),
        (
            json!({"cidr": "10.0.0.1/16"}),
            "cidr",
            "without host bits: 10.0.0.0/16",
        ),
        (
            json!({"cidr": "169.254.0.0/16"}),
            "cidr",
            "not be link-local",
        ),
        (
            json!({"cidr": "10.0.0.0/27"}),
            "cidr",
            "set blockSize to 27 or more",
        ),
        (
            json!({"cidr": "10.0.0.0/27", "blockSize": 26}),
            "blockSize",
            "larger than the pool",
        ),
        (
            json!({"cidr": "2001:db8::/64", "blockSize": 64}),
            "blockSize",
            "from 116 to 128",
        ),
        (
            json!({"cidr": "2001:db8::/64", "ipipMode": "Always"}),
            "ipipMode",
            "IPv4 only",
        ),
    ] {
        refused(pool(spec), &format!("spec.{field}"), message);
    }
    for (field, value, message) in [
        ("natOutgoing", json!("yes"), "must be true or false"),
        ("disabled", json!(1), "must be true or false"),
        ("disableBGPExport", json!(1), "must be true or false"),
        (
            "vxlanMode",
            json!("Sometimes"),
            "must be Always, CrossSubnet or Never",
        ),
        ("blockSize", json!(19), "from 20 to 32"),
        ("nodeSelector", json!("all("), ""),
        (
            "assignmentMode",
            json!("Random"),
            "must be Automatic or Manual",
        ),
        ("nat-outgoing", json!(true), "unknown field"),
    ] {
        refused(with(field, value), &format!("spec.{field}"), message);
    }
    refused(
        with("allowedUses", json!(["Workload", "Pod"])),
        "spec.allowedUses[1]",
        "must be Workload, Tunnel or LoadBalancer",
    );
    let both = json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet"});
    refused(pool(both), "spec.vxlanMode", "one of them must be Never");
}

/// What is translated on which node.
#[test]
fn outgoing_translation() {
    let mut state = PolicyState::default();
    let mut add = |document: Json| {
        let object = read(&document).expect("is valid");
        state.insert(object);
        state.clone()
    };
    let full = json!({
        "cidr": "10.1.0.0/16", "natOutgoing": true, "disabled": true, "ipipMode": "Never", "vxlanMode": "CrossSubnet",
        "blockSize": 26, "nodeSelector": "all()", "namespaceSelector": "a == 'b'", "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic", "disableBGPExport": false
    });
    let none = add(calico("IPPool", "without", &json!({"cidr": "10.2.0.0/16"})));
    assert_eq!(none.nat_outgoing_of("a"), None);
    add(calico("IPPool", "with", &full));
    add(calico(
        "IPPool",
        "with6",
        &json!({"cidr": "2001:db8::/64", "natOutgoing": true}),
    ));
    add(felix(
        json!({"natPortRange": "2000:3000", "natOutgoingExclusions": "IPPoolsOnly"}),
    ));
    let node = json!({"natOutgoingAddress": "192.0.2.1", "natPortRange": 4000});
    let state = add(calico("FelixConfiguration", "node.a", &node));
    let nets = |texts: &[&str]| -> Vec<ipnet::IpNet> {
        texts
            .iter()
            .map(|text| text.parse().expect("valid"))
            .collect()
    };
    let outgoing = state.nat_outgoing_of("b").expect("is there");
    let span = |first, last| crate::PortSpan::new(first, last).expect("valid");
    assert_eq!(outgoing.sources, nets(&["10.1.0.0/16", "2001:db8::/64"]));
    assert_eq!(
        outgoing.not_destinations,
        nets(&["10.1.0.0/16", "2001:db8::/64", "10.2.0.0/16"])
    );
    assert_eq!((outgoing.address, outgoing.ports), (None, span(2000, 3000)));
    let outgoing = state.nat_outgoing_of("a").expect("is there");
    assert_eq!(outgoing.address, Some("192.0.2.1".parse().expect("valid")));
    assert_eq!(outgoing.ports, span(4000, 4000));
}

#[test]
fn kubernetes_policies() {
    refused(
        kubernetes(json!({"podSelector": {"matchLabels": {"a": "b c"}}})),
        "spec.podSelector.matchLabels",
        "is no label's value",
    );
    let expression =
        |expression: Json| kubernetes(json!({"podSelector": {"matchExpressions": [expression]}}));
    refused(
        expression(json!({"key": "a", "operator": "in", "values": ["b"]})),
        "spec.podSelector.matchExpressions[0].operator",
        "must be In, NotIn, Exists or DoesNotExist",
    );
    refused(
        expression(json!({"key": "a", "operator": "In"})),
        "spec.podSelector.matchExpressions[0].values",
        "required",
    );
    refused(
        expression(json!({"key": "a", "operator": "Exists", "values": ["b"]})),
        "spec.podSelector.matchExpressions[0].values",
        "left out",
    );
    refused(
        expression(json!({"operator": "Exists"})),
        "spec.podSelector.matchExpressions[0].key",
        "required",
    );
    let peer = |peer: Json| kubernetes(json!({"podSelector": {}, "ingress": [{"from": [peer]}]}));
    refused(
        peer(json!({})),
        "spec.ingress[0].from[0]",
        "must have a podSelector",
    );
    refused(
        peer(json!({"ipBlock": {"cidr": "10.0.0.0/40"}})),
        "spec.ingress[0].from[0].ipBlock.cidr",
        "must be a network",
    );
    refused(
        peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
        "spec.ingress[0].from[0].ipBlock.except[0]",
        "must be a part of 10.0.0.0/8",
    );
    refused(
        peer(json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}})),
        "spec.ingress[0].from[0].ipBlock",
        "must stand alone",
    );
    let port = |port: Json| kubernetes(json!({"podSelector": {}, "egress": [{"ports": [port]}]}));
    refused(
        port(json!({"protocol": "ICMP"})),
        "spec.egress[0].ports[0].protocol",
        "must be TCP, UDP or SCTP",
    );
    refused(
        port(json!({"port": 0})),
        "spec.egress[0].ports[0].port",
        "from 1 to 65535",
    );
    refused(
        port(json!({"port": "80"})),
        "spec.egress[0].ports[0].port",
        "must be a port's name",
    );
    refused(
        port(json!({"port": 80, "endPort": 79})),
        "spec.egress[0].ports[0].endPort",
        "from 80 to 65535",
    );
    refused(
        port(json!({"port": "http", "endPort": 79})),
        "spec.egress[0].ports[0].endPort",
        "needs a port that is a number",
    );
    refused(
        kubernetes(json!({"policyTypes": ["Both"]})),
        "spec.policyTypes[0]",
        "must be Ingress or Egress",
    );
    refused(
        kubernetes(json!({"order": 1})),
        "spec.order",
        "unknown field",
    );
}

#[test]
fn cluster_policies() {
    let valid = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
    assert!(read(&cluster(valid.clone())).is_ok());
    let with = |field: &str, value: Json| {
        let mut spec = valid.clone();
        spec[field] = value;
        cluster(spec)
    };
    refused(
        with("tier", json!("admin")),
        "spec.tier",
        "must be Admin or Baseline",
    );
    refused(
        with("priority", json!(1001)),
        "spec.priority",
        "from 0 to 1000",
    );
    refused(with("priority", json!(null)), "spec.priority", "required");
    refused(
        with("subject", json!({})),
        "spec.subject",
        "either namespaces or pods",
    );
    refused(
        with("subject", json!({"pods": {"podSelector": {}}})),
        "spec.subject.pods.namespaceSelector",
        "required",
    );
    let rule = |rule: Json| with("egress", json!([rule]));
    let anywhere = json!([{"namespaces": {}}]);
    refused(
        rule(json!({"action": "Allow", "to": anywhere})),
        "spec.egress[0].action",
        "must be Accept, Deny or Pass",
    );
    refused(
        rule(json!({"action": "Deny"})),
        "spec.egress[0].to",
        "at least one peer",
    );
    refused(
        rule(json!({"action": "Deny", "to": []})),
        "spec.egress[0].to",
        "at least one peer",
    );
    refused(
        rule(json!({"action": "Deny", "to": [{"networks": ["x"]}]})),
        "spec.egress[0].to[0].networks[0]",
        "must be a network",
    );
    refused(
        rule(json!({"action": "Deny", "to": [{"namespaces": {}, "networks": ["10.0.0.0/8"]}]})),
        "spec.egress[0].to[0]",
        "exactly one",
    );
    refused(
        with(
            "ingress",
            json!([{"action": "Deny", "from": [{"namespaces": {}, "networks": ["10.0.0.0/8"]}]}]),
        ),
        "spec.ingress[0].from[0].networks",
        "unknown field",
    );
    let protocol =
        |protocol: Json| rule(json!({"action": "Deny", "to": anywhere, "protocols": [protocol]}));
    refused(
        protocol(json!({"tcp": {"destinationPort": {"number": 0}}})),
        "spec.egress[0].protocols[0].tcp.destinationPort.number",
        "from 1 to 65535",
    );
    refused(
        protocol(json!({"udp": {"destinationPort": {"range": {"start": 5, "end": 4}}}})),
        "spec.egress[0].protocols[0].udp.destinationPort.range",
        "must not be below start",
    );
    refused(
        protocol(json!({"udp": {"destinationPort": {}}})),
        "spec.egress[0].protocols[0].udp.destinationPort",
        "either a number or a range",
    );
    refused(
        protocol(json!({"tcp": {}, "udp": {}})),
        "spec.egress[0].protocols[0]",
        "exactly one",
    );
}

#[test]
fn access_lists() {
    let spec = |field: &str, value: Json| {
        let mut spec = json!({"interface": "lan", "direction": "Input"});
        spec[field] = value;
        document("oncilla.io/v1", "AccessList", "a", &spec)
    };
    refused(
        spec("interface", json!("a b")),
        "spec.interface",
        "is no interface name",
    );
    refused(spec("interface", json!(null)), "spec.interface", "required");
    refused(
        spec("direction", json!("Both")),
        "spec.direction",
        "must be Input or Output",
    );
    refused(spec("order", json!("x")), "spec.order", "finite number");
    refused(
        access(json!({"action": "Allow"})),
        "spec.rules[0].action",
        "must be Permit or Deny",
    );
    refused(
        access(json!({"action": "Deny", "reflect": true})),
        "spec.rules[0].reflect",
        "only a rule that permits",
    );
    refused(
        access(json!({"action": "Deny", "icmp": {"type": 8}})),
        "spec.rules[0].icmp",
        "must be ICMP",
    );
    refused(
        access(json!({"action": "Deny", "source": {"nets": ["10/8"]}})),
        "spec.rules[0].source.nets[0]",
        "must be a network",
    );
    refused(
        access(json!({"action": "Deny", "source": {"ports": [80]}})),
        "spec.rules[0].source.ports",
        "protocol must be TCP",
    );
    refused(
        access(json!({"action": "Deny", "protocol": "TCP", "source": {"ports": ["http"]}})),
        "spec.rules[0].source.ports[0]",
        "knows no endpoints' names",
    );
    refused(
        access(json!({"action": "Deny", "source": {"selector": "all()"}})),
        "spec.rules[0].source.selector",
        "unknown field",
    );
}

#[test]
fn profiles_have_one_maker() {
    let state = super::state_of(&[
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "blue"}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "blue"}}),
        calico("Profile", "kns.blue", &json!({})),
        calico("Profile", "kns.green", &json!({})),
        calico("Profile", "ksa.blue.web", &json!({})),
        calico("Profile", "projectcalico-default-allow", &json!({})),
    ]);
    let errors = state.validate().expect_err("three profiles made twice");
    let told: Vec<_> = errors
        .iter()
        .map(|(id, error)| format!("{id}: {}: {}", error.field, error.message))
        .collect();
    assert_eq!(
        told,
        [
            "Profile/kns.blue: metadata.name: a Namespace makes the profile kns.blue; use another name",
            "Profile/ksa.blue.web: metadata.name: a ServiceAccount makes the profile ksa.blue.web; use another name",
            "Profile/projectcalico-default-allow: metadata.name: Oncilla itself makes the profile projectcalico-default-allow; use another name",
        ]
    );
}
