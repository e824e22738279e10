//! Objects of translation in the desired state, end to end: applied, shown, compared, removed, restored, refused.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::Daemon;

const OBJECTS: &str = "
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: wan}
spec: {afPacket: {device: eth0}}
---
apiVersion: oncilla.io/v1
kind: Address
metadata: {name: wan}
spec: {interface: wan, address: 192.0.2.1/24}
---
apiVersion: oncilla.io/v1
kind: Route
metadata: {name: inside}
spec: {destination: 10.0.0.0/8, nextHops: [{via: 192.0.2.9}]}
---
apiVersion: oncilla.io/v1
kind: NatPool
metadata: {name: shared}
spec: {addresses: [203.0.113.0/28, 203.0.113.20-203.0.113.29], ports: {first: 2000, last: 65535}, pairing: arbitrary}
---
apiVersion: oncilla.io/v1
kind: NatRule
metadata: {name: hosts}
spec: {order: 10.5, outInterfaces: [wan], sources: [10.0.0.0/8], notDestinations: [10.0.0.0/8, 172.16.0.0/12], protocol: tcp, pool: shared}
---
apiVersion: oncilla.io/v1
kind: PortForward
metadata: {name: web}
spec: {interface: wan, protocol: tcp, ports: {first: 8000, last: 8010}, targetAddress: 10.0.0.9, targetPort: 80, sourcePool: shared}
---
apiVersion: oncilla.io/v1
kind: StaticNat
metadata: {name: server}
spec: {external: 203.0.113.32/30, internal: 10.0.0.32/30, outInterfaces: [wan]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.48.0.0/16, natOutgoing: true, vxlanMode: CrossSubnet}
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
async fn translation_is_made_of_objects_like_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("nat.yaml"), OBJECTS).unwrap();
    let daemon = Daemon::start(path).await;

    let (code, out, err) = oncilla(path, "validate -f nat.yaml").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out, "8 objects are valid\n");
    let (code, out, err) = oncilla(path, "apply -f nat.yaml").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "Interface/wan created\nAddress/wan created\nRoute/inside created\nNatPool/shared created\nNatRule/hosts created\n\
         PortForward/web created\nStaticNat/server created\nIPPool/pods created\nlive at generation 1\n"
    );
    let live = daemon.dataplane.live();
    assert_eq!((live.nat.pools.len(), live.policy.ip_pools.len()), (1, 1));
    assert_eq!(
        oncilla(path, "diff -f nat.yaml --exit-code").await,
        (0, String::new(), String::new())
    );
    for (kind, summary) in [
        (
            "natpools",
            "203.0.113.0/28, 203.0.113.20-203.0.113.29 ports 2000-65535",
        ),
        (
            "natrules",
            "10.5: tcp from 10.0.0.0/8 not to 10.0.0.0/8, 172.16.0.0/12 out wan pool shared",
        ),
        (
            "portforwards",
            "wan tcp 8000-8010 to 10.0.0.9 80 from shared",
        ),
        ("staticnat", "203.0.113.32/30 is 10.0.0.32/30 out wan"),
        ("ippools", "cidr 10.48.0.0/16 natOutgoing true"),
    ] {
        let out = oncilla(path, &format!("get {kind}")).await.1;
        assert!(out.contains(summary) && out.lines().count() == 2, "{out}");
    }

    // What get prints, apply reads: nothing changes.
    for format in ["yaml", "json"] {
        let file = format!("all.{format}");
        let out = oncilla(path, &format!("get all -o {format}")).await.1;
        std::fs::write(path.join(&file), out).unwrap();
        let out = oncilla(path, &format!("apply -f {file}")).await.1;
        assert!(out.ends_with("live at generation 1\n"), "{out}");
        assert_eq!(out.matches(" unchanged\n").count(), 8, "{out}");
    }

    let changed = OBJECTS.replace("targetPort: 80,", "targetPort: 81,");
    std::fs::write(path.join("nat.yaml"), changed).unwrap();
    let (code, out, _) = oncilla(path, "diff -f nat.yaml --exit-code").await;
    assert_eq!(code, 1);
    assert!(
        out.contains("+++ PortForward/web (nat.yaml, document 6)\n")
            && out.contains("-  targetPort: 80\n+  targetPort: 81\n"),
        "{out}"
    );

    // What others use does not go alone.
    let (code, _, err) = oncilla(path, "delete natpool shared").await;
    assert_eq!(code, 1);
    assert!(
        err.contains(
            "NatPool/shared: still used by NatRule/hosts (spec.pool), PortForward/web (spec.sourcePool)"
        ),
        "{err}"
    );
    let (code, out, _) = oncilla(path, "delete natrule hosts").await;
    assert_eq!(
        (code, out.as_str()),
        (0, "NatRule/hosts deleted\nlive at generation 2\n")
    );
    let live = daemon.dataplane.live();
    assert!(live.nat.rules.is_empty());
    daemon.stop().await;

    let daemon = Daemon::start(path).await;
    assert_eq!(
        daemon.dataplane.live(),
        live,
        "a restart restores translation"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_translation_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("nat.yaml"), OBJECTS).unwrap();
    let daemon = Daemon::start(path).await;
    assert_eq!(oncilla(path, "apply -f nat.yaml").await.0, 0);
    let live = daemon.dataplane.live();
    for (kind, spec, wanted) in [
        (
            "NatPool",
            "{addresses: [203.0.113.100, 203.0.113.24/29]}",
            "bad.yaml:1: document 1: NatPool/x: spec.addresses[1]: 203.0.113.24-203.0.113.31 overlaps 203.0.113.20-203.0.113.29 of \
             NatPool/shared (spec.addresses[1]) in VRF default: give each its own addresses",
        ),
        (
            "PortForward",
            "{address: 203.0.113.1, protocol: udp, port: 53, targetAddress: 172.16.0.1}",
            "PortForward/x: spec.targetAddress: 172.16.0.1 is in no connected subnet of VRF default, and no route leads to it: add an \
             Address or a Route",
        ),
        (
            "PortForward",
            "{address: 203.0.113.1, protocol: udp, port: 53, targetAddress: 10.0.0.1, hairpin: true}",
            "PortForward/x: spec.hairpin: unknown field `hairpin`",
        ),
    ] {
        let document = format!(
            "apiVersion: oncilla.io/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
        );
        std::fs::write(path.join("bad.yaml"), &document).unwrap();
        for command in ["apply", "diff"] {
            let (code, out, err) = oncilla(path, &format!("{command} -f bad.yaml")).await;
            assert_eq!((code, out.as_str()), (1, ""), "{document}: {err}");
            assert!(err.contains(wanted), "{command} {document}: {err}");
        }
    }
    let overlapping = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\nspec: {cidr: 10.0.0.0/8}\n";
    std::fs::write(path.join("bad.yaml"), overlapping).unwrap();
    let (code, _, err) = oncilla(path, "apply -f bad.yaml").await;
    assert_eq!(code, 1);
    assert!(
        err.contains("IPPool/x: spec.cidr: 10.0.0.0/8 overlaps 10.48.0.0/16 of IPPool/pods"),
        "{err}"
    );
    assert_eq!(daemon.dataplane.live(), live);
    daemon.stop().await;
}
