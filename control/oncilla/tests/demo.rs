//! `oncilla demo` end to end: the program, its lab, and what is left of both.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use afpacket_sim::Namespace;

const NOBODY: u32 = 65_534;
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn everything_shown_works() {
    let Some(_turn) = turn("everything_shown_works") else {
        return;
    };
    let directory = tempfile::tempdir().expect("makes a directory");
    let json = demo(
        Path::new(env!("CARGO_BIN_EXE_oncilla")),
        directory.path(),
        None,
    );
    check(&json, "own");
    assert_empty(directory.path());
}

#[test]
fn a_plain_user_sees_the_same() {
    let Some(_turn) = turn("a_plain_user_sees_the_same") else {
        return;
    };
    let nobody = Nobody::new();
    let json = demo(&nobody.program, &nobody.scratch, Some(NOBODY));
    check(&json, "user-namespace");
    assert_empty(&nobody.scratch);
}

#[test]
fn a_killed_demo_leaves_nothing() {
    let Some(_turn) = turn("a_killed_demo_leaves_nothing") else {
        return;
    };
    let directory = tempfile::tempdir().expect("makes a directory");
    let (mut demo, _) = kept(
        Path::new(env!("CARGO_BIN_EXE_oncilla")),
        directory.path(),
        None,
    );
    let processes = processes_of(directory.path());
    // The demo, the daemon, and the process that tidies up.
    assert!(processes.len() >= 2, "{processes:?}");
    let namespaces = namespaces_of(demo.0.id());
    assert!(
        namespaces.len() >= 5,
        "three hosts, a shim and the router: {namespaces:?}"
    );

    demo.0.kill().expect("kills");
    demo.0.wait().expect("reaps");
    wait_until("no process is left", || {
        processes_of(directory.path()).is_empty()
    });
    wait_until("no namespace is left", || {
        let used = all_namespaces();
        !namespaces.iter().any(|namespace| used.contains(namespace))
    });
    wait_until("no file is left", || is_empty(directory.path()));
}

#[test]
fn a_kept_lab_can_be_entered_and_ends_when_told() {
    let Some(_turn) = turn("a_kept_lab_can_be_entered_and_ends_when_told") else {
        return;
    };
    let directory = tempfile::tempdir().expect("makes a directory");
    enter_and_end(
        Path::new(env!("CARGO_BIN_EXE_oncilla")),
        directory.path(),
        None,
    );
}

#[test]
fn a_plain_users_kept_lab_can_be_entered_and_ends_when_told() {
    let Some(_turn) = turn("a_plain_users_kept_lab_can_be_entered_and_ends_when_told") else {
        return;
    };
    let nobody = Nobody::new();
    enter_and_end(&nobody.program, &nobody.scratch, Some(NOBODY));
}

/// Does what the demo says can be done with its lab.
fn enter_and_end(program: &Path, scratch: &Path, user: Option<u32>) {
    let (mut demo, text) = kept(program, scratch, user);
    let command = |start: &str| {
        let found = text
            .lines()
            .find_map(|line| Some(&line[line.find(start)?..]));
        found
            .unwrap_or_else(|| panic!("no line with {start:?} in:\n{text}"))
            .to_owned()
    };
    // What iproute2 would say, without needing it.
    let enter = command("nsenter").replace("ip -brief address", "cat /proc/self/net/dev");
    assert!(
        run(&enter, user).contains("eth0:"),
        "the first namespace is that of host a"
    );
    let show = command(&format!("{} --socket", program.display()));
    assert!(show.ends_with("show interfaces"), "{show}");
    assert!(run(&show, user).contains("p2.10"));

    let pid = i32::try_from(demo.0.id()).expect("a process id");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGTERM,
    )
    .expect("signals");
    let status = demo.0.wait().expect("reaps");
    assert!(status.success(), "{status}");
    assert_empty(scratch);
    assert!(processes_of(scratch).is_empty());
}

/// Runs a line of shell and returns what it prints.
fn run(line: &str, user: Option<u32>) -> String {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .current_dir("/")
        .stdin(Stdio::null());
    become_user(&mut shell, user);
    let output = shell.output().expect("starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{line}: {}\n{errors}",
        output.status
    );
    String::from_utf8(output.stdout).expect("prints UTF-8")
}

fn become_user(command: &mut Command, user: Option<u32>) {
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
}

/// What a plain user needs: the folder of the build may be closed to other users, and so may the default one for temporary files.
struct Nobody {
    program: PathBuf,
    scratch: PathBuf,
    _directory: tempfile::TempDir,
}

impl Nobody {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/tmp").expect("makes a directory");
        let program = directory.path().join("oncilla");
        fs::copy(env!("CARGO_BIN_EXE_oncilla"), &program).expect("copies the program");
        let scratch = directory.path().join("s");
        fs::create_dir(&scratch).expect("makes a directory");
        std::os::unix::fs::chown(&scratch, Some(NOBODY), Some(NOBODY)).expect("is root");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("is ours");
        Self {
            program,
            scratch,
            _directory: directory,
        }
    }
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo(program: &Path, scratch: &Path, user: Option<u32>) -> serde_json::Value {
    let mut command = Command::new(program);
    command
        .args(["demo", "--quick", "--json"])
        .env("TMPDIR", scratch)
        .current_dir("/")
        .stdin(Stdio::null());
    become_user(&mut command, user);
    let output = command.output().expect("starts");
    let (out, progress) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{}\n{progress}\n{out}",
        output.status
    );
    assert!(
        progress.contains("building the lab"),
        "tells what it does: {progress}"
    );
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in:\n{out}"))
}

/// The fields that other programs rely on.
fn check(json: &serde_json::Value, privilege: &str) {
    assert_eq!(json["ok"], true, "{json:#}");
    assert_eq!(json["privilege"], privilege);
    let list = |field: &str| {
        json[field]
            .as_array()
            .unwrap_or_else(|| panic!("{field}: {json:#}"))
    };
    let named = |field: &str, name: &str| {
        let found = list(field).iter().find(|item| item["name"] == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {field}: {json:#}"))
            .clone()
    };
    for name in ["ipv4", "ipv6", "vlan"] {
        let ping = named("pings", name);
        assert_eq!(
            (&ping["sent"], &ping["received"]),
            (&100.into(), &100.into())
        );
        assert!(
            ping["rtt_median_ms"].as_f64().is_some_and(|ms| ms > 0.0),
            "{ping}"
        );
    }
    for (name, compared) in [
        ("offloads-on", true),
        ("offloads-off", true),
        ("vlan", false),
    ] {
        let tcp = named("tcp", name);
        assert!(
            tcp["gbit_per_s"].as_f64().is_some_and(|rate| rate > 0.0),
            "{tcp}"
        );
        assert_eq!(tcp["kernel_gbit_per_s"].is_number(), compared, "{tcp}");
    }
    for drop in list("drops") {
        assert!(
            drop["node"].is_string() && drop["reason"].is_string(),
            "{drop}"
        );
        assert!(
            drop["packets"].as_u64().is_some_and(|packets| packets > 0),
            "{drop}"
        );
    }
    let nodes: Vec<_> = list("trace")
        .iter()
        .filter_map(|step| step["node"].as_str())
        .collect();
    assert!(nodes.contains(&"ip4-lookup"), "{nodes:?}");
    let p0 = named("interfaces", "p0");
    assert!(
        p0["rx_packets"]
            .as_u64()
            .is_some_and(|packets| packets > 300),
        "{p0}"
    );
}

/// A demo whose lab is up, and what it says.
fn kept(program: &Path, scratch: &Path, user: Option<u32>) -> (Running, String) {
    let mut command = Command::new(program);
    command
        .args([
            "demo",
            "--quick",
            "--keep",
            "--pings",
            "10",
            "--seconds",
            "0.1",
        ])
        .env("TMPDIR", scratch)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    become_user(&mut command, user);
    let mut demo = Running(command.spawn().expect("starts"));
    let errors = demo.0.stderr.take().expect("piped");
    let progress = thread::spawn(move || std::io::read_to_string(errors));
    let mut lines = BufReader::new(demo.0.stdout.take().expect("piped")).lines();
    let mut out = String::new();
    while let Some(Ok(line)) = lines.next() {
        if line.starts_with("Ctrl-C ends") {
            return (demo, out);
        }
        out.push_str(&line);
        out.push('\n');
    }
    panic!("the lab did not stay up:\n{out}\n{:?}", progress.join());
}

/// Processes whose command line names something in a directory, or whose environment does.
fn processes_of(directory: &Path) -> Vec<String> {
    let needle = directory.to_str().expect("UTF-8");
    let of_process = |file: PathBuf| {
        let bytes = fs::read(file).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    processes()
        .filter(|process| {
            of_process(process.join("cmdline")).contains(needle)
                || of_process(process.join("environ")).contains(needle)
        })
        .map(|process| process.display().to_string())
        .collect()
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").expect("is mounted").flatten();
    entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// `net:[4026532512]` of each namespace of a process that is not ours too.
fn namespaces_of(process: u32) -> Vec<String> {
    let mut found = net_links(&Path::new("/proc").join(process.to_string()));
    found.sort();
    found.dedup();
    let own = fs::read_link("/proc/self/ns/net")
        .expect("is mounted")
        .display()
        .to_string();
    found.retain(|namespace| *namespace != own);
    found
}

/// Every namespace of any process.
fn all_namespaces() -> Vec<String> {
    processes()
        .flat_map(|process| net_links(&process))
        .collect()
}

/// The namespaces that a process has descriptors of, and those that its threads are in. It may end meanwhile.
fn net_links(process: &Path) -> Vec<String> {
    let entries = |directory: PathBuf| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    };
    let threads = entries(process.join("task")).map(|thread| thread.join("ns/net"));
    let links = entries(process.join("fd"))
        .chain(threads)
        .filter_map(|link| fs::read_link(link).ok());
    links
        .map(|link| link.display().to_string())
        .filter(|link| link.starts_with("net:["))
        .collect()
}

/// Waits until no other demo of these tests runs: they would take each other's processors. `None` without privilege.
fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    if let Err(error) = Namespace::new("probe") {
        println!("{test} is skipped: it needs root ({error})");
        return None;
    }
    // A test that failed says nothing about the others.
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).expect("reads").next().is_none()
}

fn assert_empty(directory: &Path) {
    assert!(
        is_empty(directory),
        "something is left in {}",
        directory.display()
    );
}
