//! The client commands end to end: the binary against a daemon around a recording dataplane.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::Daemon;

const GATEWAY: &str = "
apiVersion: oncilla.io/v1
kind: Interface
metadata: {name: lan}
spec: {afPacket: {device: eth0}}
---
apiVersion: oncilla.io/v1
kind: Address
metadata: {name: lan}
spec: {interface: lan, address: 10.0.0.1/24}
---
apiVersion: oncilla.io/v1
kind: Route
metadata: {name: default-v4}
spec: {destination: 0.0.0.0/0, nextHops: [{via: 10.0.0.254}]}
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
async fn objects_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("gateway.yaml"), GATEWAY).unwrap();
    let daemon = Daemon::start(path).await;

    assert_eq!(
        oncilla(path, "validate -f gateway.yaml").await.1,
        "3 objects are valid\n"
    );
    let (code, out, _) = oncilla(path, "diff -f gateway.yaml --exit-code").await;
    assert_eq!(code, 1, "there is a difference");
    assert!(
        out.contains("--- (none)\n+++ Route/default-v4 (gateway.yaml, document 3)\n"),
        "{out}"
    );
    let (code, out, err) = oncilla(path, "apply -f gateway.yaml").await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(
        out,
        "Interface/lan created\nAddress/lan created\nRoute/default-v4 created\nlive at generation 1\n"
    );
    assert_eq!(
        oncilla(path, "diff -f gateway.yaml --exit-code").await,
        (0, String::new(), String::new())
    );

    // What get prints, apply reads.
    for format in ["yaml", "json"] {
        let (code, out, _) = oncilla(path, &format!("get all -o {format}")).await;
        assert_eq!(code, 0);
        std::fs::write(path.join("copy"), out).unwrap();
        let (code, out, err) = oncilla(path, "apply -f copy -o json").await;
        assert_eq!(code, 0, "{err}");
        assert_eq!(out.matches("\"action\": \"unchanged\"").count(), 3, "{out}");
    }
    let (_, out, _) = oncilla(path, "get routes").await;
    let words: Vec<_> = out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        words,
        ["Route", "default-v4", "1", "0.0.0.0/0", "via", "10.0.0.254"]
    );
    let (code, _, err) = oncilla(path, "get route nowhere").await;
    assert_eq!(
        (code, err.as_str()),
        (1, "error: Route/nowhere does not exist\n")
    );

    let moved = GATEWAY.replace("10.0.0.254", "10.0.0.253");
    std::fs::write(path.join("gateway.yaml"), moved).unwrap();
    let (code, out, _) = oncilla(path, "diff -f gateway.yaml").await;
    assert_eq!(code, 0);
    let changed: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with(['+', '-']))
        .collect();
    assert_eq!(changed.len(), 4, "{out}");
    assert!(
        changed[2].starts_with('-') && changed[2].ends_with("via: \"10.0.0.254\""),
        "{out}"
    );
    assert!(
        changed[3].starts_with('+') && changed[3].ends_with("via: \"10.0.0.253\""),
        "{out}"
    );

    let (code, _, err) = oncilla(path, "delete interface lan").await;
    assert_eq!(code, 1);
    assert!(
        err.contains("Interface/lan: still used by Address/lan (spec.interface)"),
        "{err}"
    );
    let (code, out, _) = oncilla(path, "delete -f gateway.yaml").await;
    assert_eq!(code, 0);
    assert!(
        out.ends_with("Route/default-v4 deleted\nlive at generation 2\n"),
        "{out}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_where_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let daemon = Daemon::start(path).await;
    let wrong = GATEWAY.replace("via: 10.0.0.254", "interface: wan");
    std::fs::write(path.join("wrong.yaml"), wrong).unwrap();
    let expected = "error: refused, nothing has changed\n  wrong.yaml:12: document 3: Route/default-v4: \
                    spec.nextHops[0].interface: Interface/wan does not exist\n";
    for command in [
        "apply -f wrong.yaml",
        "validate -f wrong.yaml",
        "diff -f wrong.yaml",
    ] {
        assert_eq!(
            oncilla(path, command).await,
            (1, String::new(), expected.to_owned()),
            "{command}"
        );
    }
    std::fs::write(
        path.join("typo.yaml"),
        GATEWAY.replace("nextHops", "nextHop"),
    )
    .unwrap();
    let (code, _, err) = oncilla(path, "apply -f typo.yaml").await;
    assert_eq!(code, 1);
    assert!(
        err.contains("typo.yaml:15: document 3: Route/default-v4: spec.nextHop: unknown field"),
        "{err}"
    );
    let (code, _, err) = oncilla(path, "apply -f nothing.yaml").await;
    assert!(
        code == 1 && err.contains("nothing.yaml: cannot be read: No such file"),
        "{err}"
    );
    for usage in ["get port", "apply", "show", "frobnicate"] {
        assert_eq!(oncilla(path, usage).await.0, 2, "{usage}");
    }
    daemon.stop().await;
    let (code, _, err) = oncilla(path, "show version").await;
    assert!(
        code == 1 && err.contains("start one with `oncilla run`"),
        "{err}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dataplane_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let daemon = Daemon::start(path).await;
    for (command, part) in [
        ("show interfaces", "lan"),
        ("show routes", "10.9.195.0/24"),
        ("show neighbours", "0.005 s"),
        ("show runtime", "worker 1: generation 0, 9 loops"),
        ("show drops", "ip4-lookup"),
        ("show drops --by-rule", "4        5  default"),
        ("show flows", "10.0.0.2:80"),
        ("show flow-log --count 2", "start  allow"),
        ("show version", "workers 2, time-stamp counter at 3.000 GHz"),
        ("trace --count 2", "packet 2: "),
        ("completion bash", "_oncilla"),
        ("show interfaces -o json", "\"rxPackets\": 7"),
        ("show routes -o json", "\"destination\": \"10.0.0.0/24\""),
        ("show neighbours -o json", "\"ageMs\": 5"),
        ("show runtime -o json", "\"loops\": 9"),
        ("show drops -o json", "\"packets\": 3"),
        ("show drops --by-rule -o json", "\"denied\": 4"),
        ("show flows -o json", "\"timeoutMs\":3600000"),
        ("show flow-log --count 1 -o json", "{\"event\":\"start\""),
        ("show version -o json", "\"generation\": 0"),
        ("trace --count 1 -o json", "{\"number\":1,"),
    ] {
        let (code, out, err) = oncilla(path, command).await;
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
        assert!(out.contains(part), "{command}: {out}");
    }
    for command in ["show flows -i nowhere", "show flow-log -i nowhere"] {
        let (code, _, err) = oncilla(path, command).await;
        assert_eq!((code, &*err), (1, "error: there is no interface nowhere\n"));
    }
    let (code, _, err) = oncilla(path, "capture -w out.pcap").await;
    assert_eq!((code, err.as_str()), (0, "3 packets written to out.pcap\n"));
    // A header, and three packets of 60 bytes with a header each.
    assert_eq!(
        std::fs::metadata(path.join("out.pcap")).unwrap().len(),
        24 + 3 * (16 + 60)
    );
    daemon.stop().await;
}
