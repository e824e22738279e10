//! Objects of policy in the desired state, end to end: applied, shown, compared, removed, restored, refused.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::Daemon;

const POLICY: &str = "
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: lan}
spec: {afPacket: {device: eth0}}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: blue, annotations: {a: b}}
spec: {order: 10, selector: app == 'web', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: blue}
spec: {podSelector: {}, policyTypes: [Egress]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: w, namespace: blue, labels: {app: web}}
spec: {node: here, interfaceName: lan, ipNetworks: [10.0.0.2]}
---
apiVersion: oncilla.io/v1
kind: AccessList
metadata: {name: lan-in}
spec: {interface: lan, direction: Input, rules: [{action: Permit}]}
";

async fn oncilla(directory: &Path, line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncilla"));
    command
        .args(line.split_whitespace())
        .current_dir(directory)
        .env("ONCILLA_SOCKET", directory.join("oncilla.sock"))
        .stdin(Stdio::null());
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("prints UTF-8");
    (
        status.code().expect("has an exit code"),
        text(stdout),
        text(stderr),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_are_objects_like_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("policy.yaml"), POLICY).unwrap();
    let daemon = Daemon::start(path).await;

    assert_eq!(
        oncilla(path, "validate -f policy.yaml").await.1,
        "5 objects are valid\n"
    );
    let (code, out, err) = oncilla(path, "apply -f policy.yaml").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "Interface/lan created\nNetworkPolicy/blue/web created\nKubernetesNetworkPolicy/blue/web created\n\
         WorkloadEndpoint/blue/w created\nAccessList/lan-in created\nlive at generation 1\n"
    );
    let live = daemon.dataplane.live();
    assert_eq!(live.policy.policies.len(), 2);
    assert_eq!(
        oncilla(path, "diff -f policy.yaml --exit-code").await,
        (0, String::new(), String::new())
    );
    let out = oncilla(path, "get networkpolicies").await.1;
    assert!(
        out.contains("blue/web") && out.contains("order 10 selector app == 'web'"),
        "{out}"
    );
    assert_eq!(out.lines().count(), 2, "Kubernetes' is another kind: {out}");

    // The daemon's objects answer too.
    let packet = r#"{"endpoint": "w", "direction": "ingress", "protocol": "tcp", "source": "10.0.0.1", "destination": "10.0.0.2", "sourcePort": 1, "destinationPort": 80}"#;
    std::fs::write(path.join("packets.jsonl"), packet).unwrap();
    assert_eq!(
        oncilla(path, "explain --packets packets.jsonl").await.1,
        "{\"verdict\":\"allow\",\"tier\":\"default\",\"policy\":\"blue/web\",\"rule\":0,\"stagedVerdict\":\"allow\"}\n"
    );

    // What get prints, apply reads: nothing changes.
    for format in ["yaml", "json"] {
        let file = format!("all.{format}");
        let out = oncilla(path, &format!("get all -o {format}")).await.1;
        std::fs::write(path.join(&file), out).unwrap();
        let out = oncilla(path, &format!("apply -f {file}")).await.1;
        assert!(out.ends_with("live at generation 1\n"), "{out}");
        assert_eq!(out.matches(" unchanged\n").count(), 5, "{out}");
    }

    std::fs::write(
        path.join("policy.yaml"),
        POLICY.replace("order: 10", "order: 11"),
    )
    .unwrap();
    let (code, out, _) = oncilla(path, "diff -f policy.yaml --exit-code").await;
    assert_eq!(code, 1);
    assert!(
        out.contains("+++ NetworkPolicy/blue/web (policy.yaml, document 2)\n")
            && out.contains("-  order: 10\n+  order: 11\n"),
        "{out}"
    );

    // An interface with an access list does not go without it.
    let (code, _, err) = oncilla(path, "delete interface lan").await;
    assert_eq!(code, 1);
    assert!(
        err.contains("still used by AccessList/lan-in (spec.interface)"),
        "{err}"
    );
    let (code, out, _) = oncilla(path, "delete networkpolicy blue/web").await;
    assert_eq!(
        (code, out.as_str()),
        (0, "NetworkPolicy/blue/web deleted\nlive at generation 2\n")
    );
    let live = daemon.dataplane.live();
    assert_eq!(live.policy.policies.len(), 1);
    daemon.stop().await;

    let daemon = Daemon::start(path).await;
    assert_eq!(daemon.dataplane.live(), live, "a restart restores policy");
    let (code, out, _) = oncilla(path, "delete -f all.yaml").await;
    assert_eq!(code, 1, "one of them is gone: {out}");
    let (code, ..) = oncilla(path, "get KubernetesNetworkPolicy blue/web -o yaml").await;
    assert_eq!(code, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_policy_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let daemon = Daemon::start(path).await;
    for (document, wanted) in [
        (
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: a}\nspec: {ingress: [{action: Permit}]}\n",
            "bad.yaml:1: document 1: NetworkPolicy/a/p: spec.ingress[0].action: value is \"Permit\"",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\nspec: {ingress: [{action: Allow, http: {methods: [GET]}}]}\n",
            "GlobalNetworkPolicy/p: spec.ingress[0].http: L7 rules are not supported yet",
        ),
        (
            "apiVersion: oncilla.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: a}\n",
            "apiVersion: for kind NetworkPolicy it must be projectcalico.org/v3",
        ),
        (
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {}\n",
            "metadata.name: required",
        ),
        (
            "kind: List\nitems:\n- {apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: t}, spec: {order: .nan}}\n",
            "items[0].spec.order: non-finite",
        ),
        (
            "apiVersion: oncilla.io/v1\nkind: AccessList\nmetadata: {name: l}\nspec: {interface: nowhere, direction: Input}\n",
            "AccessList/l: spec.interface: Interface/nowhere does not exist",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a}\n",
            "kind: \"Pod\" is no kind",
        ),
    ] {
        std::fs::write(path.join("bad.yaml"), document).unwrap();
        for command in ["validate", "apply"] {
            let (code, out, err) = oncilla(path, &format!("{command} -f bad.yaml")).await;
            assert_eq!((code, out.as_str()), (1, ""), "{document}: {err}");
            assert!(err.contains(wanted), "{command} {document}: {err}");
        }
    }
    assert!(daemon.dataplane.live().policy.is_empty());

    // A client that says one thing in the object and another in its document.
    let mut client = daemon.client().await;
    let json =
        r#"{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "t"}}"#;
    let object = |kind: &str, name: &str, version: &str, json: &str| {
        let key = control_api::v1::ObjectKey {
            kind: kind.into(),
            name: name.into(),
        };
        control_api::v1::Object::document(key, version, json.into())
    };
    let version = "projectcalico.org/v3";
    for (object, wanted) in [
        (
            object("Profile", "t", version, json),
            "kind: \"Profile\", but the document is of kind Tier",
        ),
        (
            object("Tier", "u", version, json),
            "metadata.name: \"u\", but",
        ),
        (object("Tier", "t", "v1", json), "apiVersion: \"v1\", but"),
        (object("Tier", "t", version, "{"), "the document is no JSON"),
        (object("Tier", "t", version, "[]"), "Tier/t: "),
    ] {
        let error = client.upsert(vec![object]).await.expect_err("is refused");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    let good = object("Tier", "t", version, json);
    client.upsert(vec![good]).await.expect("is fine");
    daemon.stop().await;
}
