//! `oncilla explain` end to end: files in, verdicts with their reasons out, and what is wrong refused with its place.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const STATE: &str = "
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 100}
---
apiVersion: v1
kind: Namespace
metadata: {name: blue, labels: {team: sea}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: quarantine}
spec:
  tier: security
  selector: quarantine == 'yes'
  ingress: [{action: Deny}]
  egress:
    - {action: Log}
    - {action: Pass, protocol: UDP, destination: {ports: [53]}}
    - {action: Deny}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: blue}
spec:
  selector: app == 'web'
  ingress:
    - action: Allow
      protocol: TCP
      source: {selector: app == 'client'}
      destination: {ports: [http, '8080:8090']}
    - {action: Deny, source: {nets: [10.9.0.0/16]}}
    - {action: Allow, protocol: ICMP, icmp: {type: 8}}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: web, namespace: blue}
spec:
  selector: app == 'web'
  ingress: [{action: Allow}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: web-1, namespace: blue, labels: {app: web}}
spec:
  node: n1
  interfaceName: cali1
  ipNetworks: [10.0.0.2/32, 'fd00::2/128']
  profiles: [kns.blue]
  ports: [{name: http, protocol: TCP, port: 80}]
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: client-1, namespace: blue, labels: {app: client, quarantine: 'yes'}}
spec: {node: n1, interfaceName: cali2, ipNetworks: [10.0.0.1], profiles: [kns.blue]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: gateway, labels: {role: gateway}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: scanners}
spec:
  selector: role == 'gateway'
  preDNAT: true
  applyOnForward: true
  ingress: [{action: Deny, destination: {nets: [192.0.2.1/32]}, source: {nets: [203.0.113.0/24]}}]
---
# Checked, and of no interest here.
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: lan}
spec: {afPacket: {device: eth0}}
---
apiVersion: oncilla.io/v1
kind: AccessList
metadata: {name: lan-in}
spec: {interface: lan, direction: Input, rules: [{action: Permit}]}
";

fn oncilla(directory: &Path, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_oncilla"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    // A command that is refused need not read.
    let _ = child
        .stdin
        .take()
        .expect("is piped")
        .write_all(input.as_bytes());
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("ends");
    let text = |bytes| String::from_utf8(bytes).expect("prints UTF-8");
    (
        status.code().expect("has an exit code"),
        text(stdout),
        text(stderr),
    )
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("has room");
    std::fs::write(directory.path().join("state.yaml"), STATE).expect("writes");
    directory
}

fn explain(directory: &Path, endpoint: &str, direction: &str, packet: &str) -> String {
    let arguments = [
        "explain",
        "-f",
        ".",
        "--endpoint",
        endpoint,
        "--direction",
        direction,
        "--packet",
        packet,
    ];
    let (code, out, err) = oncilla(directory, &arguments, "");
    assert_eq!((code, err.as_str()), (0, ""), "{packet}");
    out
}

#[test]
fn a_packet_is_judged_and_the_rule_named() {
    let directory = directory();
    let path = directory.path();
    for (endpoint, direction, packet, expected) in [
        (
            "blue/web-1",
            "ingress",
            "tcp 10.0.0.1:1234 > 10.0.0.2:80",
            "allow: rule 0 of NetworkPolicy blue/web in tier default\n\
             with staged policies: allow: rule 0 of StagedNetworkPolicy blue/web in tier default\n",
        ),
        (
            "web-1",
            "Ingress",
            "tcp 10.9.0.1:1234 > 10.0.0.2:80",
            "deny: rule 1 of NetworkPolicy blue/web in tier default\n\
             with staged policies: allow: rule 0 of StagedNetworkPolicy blue/web in tier default\n",
        ),
        (
            "web-1",
            "ingress",
            "udp [fd00::9]:53 > [fd00::2]:53",
            "deny: end of tier default: its policies apply, and no rule matches\n\
             with staged policies: allow: rule 0 of StagedNetworkPolicy blue/web in tier default\n",
        ),
        (
            "WorkloadEndpoint/blue/web-1",
            "egress",
            "icmp 10.0.0.2 > 10.0.0.1 type 8 code 0",
            "allow: rule 0 of profile kns.blue\n",
        ),
        (
            "client-1",
            "egress",
            "udp 10.0.0.1:9 > 10.0.0.3:53",
            "allow: rule 0 of profile kns.blue\n\
             logged by rule 0 of GlobalNetworkPolicy quarantine in tier security\n",
        ),
        (
            "gateway",
            "ingress",
            "tcp 10.0.0.1:9 > 192.0.2.1:22",
            "allow: failsafe port\n",
        ),
    ] {
        assert_eq!(
            explain(path, endpoint, direction, packet),
            expected,
            "{packet}"
        );
    }
}

#[test]
fn the_host_endpoint_for_all_interfaces_is_named_beside_a_workloads_own_policy() {
    let directory = directory();
    let path = directory.path();
    let all = "
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: any, labels: {host: any}}
spec: {node: n1, interfaceName: '*'}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: no-mail}
spec:
  selector: host == 'any'
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny, protocol: TCP, destination: {ports: [25]}}, {action: Pass}]
";
    std::fs::write(path.join("all.yaml"), all).expect("writes");
    let told = |packet| explain(path, "blue/web-1", "egress", packet);
    let own = "allow: rule 0 of profile kns.blue\n";
    let judges = "host endpoint any, for all interfaces, judges here too: deny: rule 0 of GlobalNetworkPolicy no-mail in tier default\n";
    assert_eq!(
        told("tcp 10.0.0.2:1 > 10.0.0.9:25"),
        format!("{own}{judges}")
    );
    assert_eq!(told("tcp 10.0.0.2:1 > 10.0.0.9:80"), own);
    // In bulk, an endpoint's own policy answers; the other endpoint is asked by its name.
    let packets = r#"{"endpoint": "blue/web-1", "direction": "egress", "protocol": "tcp", "source": "10.0.0.2", "destination": "10.0.0.9", "sourcePort": 1, "destinationPort": 25}
{"endpoint": "any", "direction": "ingress", "forwarded": true, "protocol": "tcp", "source": "10.0.0.2", "destination": "10.0.0.9", "sourcePort": 1, "destinationPort": 25}
"#;
    let arguments = ["explain", "-f", ".", "--packets", "-"];
    let (code, out, _) = oncilla(path, &arguments, packets);
    let verdicts: Vec<_> = out
        .lines()
        .map(|line| line.contains(r#""verdict":"allow""#))
        .collect();
    assert_eq!((code, &verdicts[..]), (0, &[true, false][..]), "{out}");
}

#[test]
fn packets_in_bulk_are_answered_line_by_line() {
    let directory = directory();
    let packets = r#"{"endpoint": "blue/web-1", "direction": "ingress", "ipVersion": 4, "protocol": "tcp", "source": "10.0.0.1", "destination": "10.0.0.2", "sourcePort": 1234, "destinationPort": 8085}
{"endpoint": "web-1", "direction": "ingress", "ipVersion": 4, "protocol": 1, "source": "10.8.0.1", "destination": "10.0.0.2", "icmpType": 8, "icmpCode": 0, "sourcePort": null}

{"endpoint": "web-1", "direction": "ingress", "ipVersion": 6, "protocol": "ICMPv6", "source": "fd00::1", "destination": "fd00::2", "icmpType": 128, "icmpCode": 0}
{"endpoint": "gateway", "direction": "ingress", "ipVersion": 4, "protocol": "udp", "source": "203.0.113.5", "destination": "10.0.0.2", "sourcePort": 1, "destinationPort": 80, "forwarded": true, "preNatDestination": "192.0.2.1", "preNatDestinationPort": 8080}
{"endpoint": "gateway", "direction": "ingress", "ipVersion": 4, "protocol": "udp", "source": "203.0.113.5", "destination": "10.0.0.2", "sourcePort": 1, "destinationPort": 80, "forwarded": true}
{"endpoint": "gateway", "direction": "egress", "ipVersion": 4, "protocol": 47, "source": "192.0.2.1", "destination": "10.0.0.2", "forwarded": false}
{"endpoint": "client-1", "direction": "ingress", "protocol": "sctp", "source": "10.0.0.2", "destination": "10.0.0.1", "sourcePort": 1, "destinationPort": 2}
"#;
    let expected = r#"{"verdict":"allow","tier":"default","policy":"blue/web","rule":0,"stagedVerdict":"allow"}
{"verdict":"allow","tier":"default","policy":"blue/web","rule":2,"stagedVerdict":"allow"}
{"verdict":"deny","tier":"default","policy":null,"rule":null,"stagedVerdict":"allow"}
{"verdict":"deny","tier":"default","policy":"scanners","rule":0,"stagedVerdict":"deny"}
{"verdict":"allow","tier":null,"policy":null,"rule":null,"stagedVerdict":"allow"}
{"verdict":"deny","tier":null,"policy":null,"rule":null,"stagedVerdict":"deny"}
{"verdict":"deny","tier":"security","policy":"quarantine","rule":0,"stagedVerdict":"deny"}
"#;
    let path = directory.path();
    std::fs::write(path.join("packets.jsonl"), packets).expect("writes");
    for (file, input) in [("packets.jsonl", ""), ("-", packets)] {
        let arguments = ["explain", "-f", "state.yaml", "--packets", file];
        let (code, out, err) = oncilla(path, &arguments, input);
        assert_eq!((code, err.as_str(), out.as_str()), (0, "", expected));
    }
    // One packet's answer for programs is the same line.
    let arguments = [
        "explain",
        "-f",
        "state.yaml",
        "-o",
        "json",
        "--endpoint",
        "web-1",
        "--direction",
        "ingress",
        "--packet",
        "tcp 10.0.0.1:1 > 10.0.0.2:8080",
    ];
    let (_, out, _) = oncilla(path, &arguments, "");
    assert_eq!(out.lines().next(), expected.lines().next());
}

#[test]
fn lists_and_json_files_are_read() {
    let directory = tempfile::tempdir().expect("has room");
    let path = directory.path();
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "a"},
         "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]}},
        {"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"name": "w", "namespace": "a"},
         "spec": {"node": "n", "orchestrator": "k8s", "ipNetworks": ["10.0.0.1/32"], "profiles": ["kns.a"]}}]}"#;
    std::fs::write(path.join("all.json"), list).expect("writes");
    // Of other files in a directory nothing is said.
    std::fs::write(path.join("notes.txt"), "none of ours").expect("writes");
    let out = explain(path, "w", "ingress", "tcp 10.0.0.9:1 > 10.0.0.1:80");
    assert_eq!(
        out,
        "allow: rule 0 of KubernetesNetworkPolicy a/p in tier default\n"
    );
}

/// A policy with something wrong in it, and what is said about it.
fn policy(rule: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: bad}}\nspec:\n  ingress:\n    - {rule}\n"
    )
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let spec = |spec: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: bad}}\nspec: {spec}\n"
        )
    };
    let cases: Vec<(String, &str)> = vec![
        (policy("{action: Allow, source: {selector: \"app = 'x'\"}}"), "spec.ingress[0].source.selector: value is \"app = 'x'\""),
        (policy("{action: Allow, source: {selector: 'has(app'}}"), "spec.ingress[0].source.selector: "),
        (policy("{action: Allow, source: {nets: [10.0.0.0/33]}}"), "spec.ingress[0].source.nets[0]: value is \"10.0.0.0/33\""),
        (policy("{action: Allow, source: {nets: [10.0.0]}}"), "spec.ingress[0].source.nets[0]: "),
        (policy("{action: Allow, protocol: TCP, destination: {ports: [65536]}}"), "spec.ingress[0].destination.ports[0]: value is 65536"),
        (policy("{action: Allow, protocol: TCP, destination: {ports: ['9:1']}}"), "spec.ingress[0].destination.ports[0]: "),
        (policy("{action: Allow, protocol: TCP, destination: {ports: [-1]}}"), "spec.ingress[0].destination.ports[0]: "),
        (policy("{action: Allow, protocol: ICMP, destination: {ports: [1]}}"), "spec.ingress[0].destination.ports: "),
        (policy("{action: Permit}"), "spec.ingress[0].action: value is \"Permit\""),
        (policy("{protocol: TCP}"), "spec.ingress[0].action: required"),
        (policy("{action: Allow, sources: {}}"), "spec.ingress[0].sources: unknown field"),
        (policy("{action: Allow, protocol: TCP, http: {methods: [GET]}}"), "spec.ingress[0].http: L7 rules are not supported yet"),
        (policy("{action: Allow, protocol: 256}"), "spec.ingress[0].protocol: value is 256"),
        (policy("{action: Allow, protocol: ICMP, icmp: {type: 300}}"), "spec.ingress[0].icmp.type: value is 300"),
        (policy("{action: Allow, ipVersion: 5}"), "spec.ingress[0].ipVersion: value is 5"),
        (spec("{order: first}"), "spec.order: value is \"first\""),
        (spec("{order: .nan}"), "spec.order: "),
        (spec("{order: .inf}"), "spec.order: "),
        (spec("{selector: 'a &&'}"), "spec.selector: "),
        (spec("{types: [Inward]}"), "spec.types[0]: "),
        (spec("{doNotTrack: true, preDNAT: true}"), "spec.preDNAT: "),
        (spec("{colour: red}"), "spec.colour: unknown field"),
        (
            "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: bad}\n".into(),
            "metadata.namespace: required",
        ),
        (
            "---\napiVersion: projectcalico.org/v4\nkind: NetworkPolicy\nmetadata: {name: bad, namespace: a}\n".into(),
            "apiVersion: value is \"projectcalico.org/v4\"",
        ),
        (
            "---\napiVersion: v1\nkind: Pod\nmetadata: {name: bad, namespace: a}\n".into(),
            "kind: value is \"Pod\"",
        ),
        (
            "---\napiVersion: oncilla.io/v1\nkind: AccessList\nmetadata: {name: bad}\nspec: {interface: lan, direction: Sideways}\n".into(),
            "spec.direction: value is \"Sideways\"",
        ),
        (
            "---\napiVersion: oncilla.io/v1\nkind: Interface\nmetadata: {name: bad}\nspec: {colour: red}\n".into(),
            "Interface/bad: spec.colour: unknown field",
        ),
        (
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: bad}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: bad}\n".into(),
            "Namespace/bad: metadata.name: is there twice",
        ),
        ("---\nkind: [\n".into(), "document 2: "),
        ("---\njust text\n".into(), "document 2: "),
        (
            "---\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {}}\n".into(),
            "items[0].metadata.name: required",
        ),
    ];
    let good = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: w, namespace: a}\nspec: {node: n}\n";
    let directory = tempfile::tempdir().expect("has room");
    let path = directory.path();
    for (text, wanted) in cases {
        std::fs::write(path.join("bad.yaml"), format!("{good}{text}")).expect("writes");
        let arguments = [
            "explain",
            "-f",
            "bad.yaml",
            "--endpoint",
            "w",
            "--direction",
            "ingress",
            "--packet",
            "tcp 10.0.0.1:1 > 10.0.0.2:2",
        ];
        let (code, out, err) = oncilla(path, &arguments, "");
        assert_eq!((code, out.as_str()), (1, ""), "{text}: {err}");
        assert!(
            err.starts_with("error: bad.yaml:") && err.contains(wanted),
            "{text}: {err} has not {wanted}"
        );
    }
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let directory = directory();
    let path = directory.path();
    let ask = |endpoint, direction, packet| {
        [
            "explain",
            "-f",
            "state.yaml",
            "--endpoint",
            endpoint,
            "--direction",
            direction,
            "--packet",
            packet,
        ]
    };
    let packet = "tcp 10.0.0.1:1 > 10.0.0.2:2";
    for (arguments, wanted) in [
        (
            ask("nobody", "ingress", packet),
            "no WorkloadEndpoint or HostEndpoint \"nobody\"",
        ),
        (ask("web-1", "inward", packet), "must be ingress or egress"),
        (
            ask("web-1", "ingress", "tcp 10.0.0.1 10.0.0.2"),
            "--packet: write",
        ),
        (
            ask("web-1", "ingress", "tcp 10.0.0.1:1 > [fd00::1]:2"),
            "destination: ",
        ),
    ] {
        let (code, out, err) = oncilla(path, &arguments, "");
        assert_eq!((code, out.as_str()), (1, ""));
        assert!(err.contains(wanted), "{err}");
    }
    let good = r#"{"endpoint": "web-1", "direction": "ingress", "protocol": "tcp", "source": "10.0.0.1", "destination": "10.0.0.2", "sourcePort": 1, "destinationPort": 2}"#;
    for (line, wanted) in [
        (
            good.replace("tcp", "tpc"),
            "-:2: protocol: value is \"tpc\"",
        ),
        (
            good.replace("\"tcp\"", "300"),
            "-:2: protocol: value is 300",
        ),
        (good.replace("web-1", "web-2"), "-:2: endpoint: "),
        (
            good.replace("10.0.0.2", "10.0.0"),
            "-:2: destination: value is \"10.0.0\"",
        ),
        (good.replace("10.0.0.2", "fd00::1"), "-:2: destination: "),
        (
            good.replace("sourcePort\": 1", "sourcePort\": 70000"),
            "-:2: sourcePort: ",
        ),
        (
            good.replace("sourcePort", "sourcePorts"),
            "-:2: sourcePorts: unknown field",
        ),
        (good.replace("ingress", "in"), "-:2: direction: "),
        (
            good.replace("\"tcp\"", "\"tcp\", \"ipVersion\": 6"),
            "-:2: ipVersion: value is 6",
        ),
        (
            good.replace("\"direction\": \"ingress\", ", ""),
            "-:2: missing field `direction`",
        ),
        ("[]".into(), "-:2: "),
        (format!("{good} {good}"), "-:2: trailing characters"),
        ("x".repeat(70_000), "-:2: more than 65536 bytes"),
    ] {
        let arguments = ["explain", "-f", "state.yaml", "--packets", "-"];
        let (code, out, err) = oncilla(path, &arguments, &format!("{good}\n{line}\n{good}\n"));
        assert_eq!(code, 1, "{line}");
        assert_eq!(
            out.lines().count(),
            1,
            "what came before is answered: {out}"
        );
        assert!(err.contains(wanted), "{line}: {err}");
    }
    // Wrong usage.
    for arguments in [
        vec!["explain", "-f", "state.yaml", "--endpoint", "web-1"],
        vec![
            "explain",
            "-f",
            "state.yaml",
            "--packets",
            "-",
            "--endpoint",
            "web-1",
        ],
    ] {
        assert_eq!(oncilla(path, &arguments, "").0, 2, "{arguments:?}");
    }
    let (code, _, err) = oncilla(path, &["explain", "-f", "missing", "--packets", "-"], "");
    assert_eq!(code, 1);
    assert!(err.contains("missing: cannot be read"), "{err}");
}
