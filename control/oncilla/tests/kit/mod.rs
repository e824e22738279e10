//! A lab around the real daemon: what the tests next to the binary share.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::fmt::Write;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use afpacket_sim::topology::{Prefix, Tag, Topology};
use afpacket_sim::traffic::{PingOptions, PingReport, ping};
use afpacket_sim::{Lab, Namespace};
use control::client::{Client, ClientError};
use control_api::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::{Builder, Runtime};

/// How long anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Four hosts around the gateway: `a`, `b` behind a link with an MTU of 1400 bytes, `c` behind a VLAN, `d` behind two tags.
pub const TOPOLOGY: &str = "
    router gw
    port p0 198.18.1.1/24 2001:db8:1::1/64
    port p1 198.18.2.1/24 2001:db8:2::1/64 mtu 1400
    port p2
    sub p2 vlan 10 198.18.3.1/24 2001:db8:3::1/64
    port p3
    sub p3 vlan 20 outer 100 198.18.4.1/24 2001:db8:4::1/64
    host a to p0 198.18.1.2/24 2001:db8:1::2/64 via 198.18.1.1 via 2001:db8:1::1
    host b to p1 198.18.2.2/24 2001:db8:2::2/64 via 198.18.2.1 via 2001:db8:2::1 mtu 1400
    host c to p2 vlan 10 198.18.3.2/24 2001:db8:3::2/64 via 198.18.3.1 via 2001:db8:3::1
    host d to p3 vlan 20 outer 100 198.18.4.2/24 2001:db8:4::2/64 via 198.18.4.1 via 2001:db8:4::1
";

/// Hosts of [`TOPOLOGY`] that `a` reaches through the gateway, with one address of each family.
pub const FAR: [(&str, &str, &str); 3] = [
    ("b", "198.18.2.2", "2001:db8:2::2"),
    ("c", "198.18.3.2", "2001:db8:3::2"),
    ("d", "198.18.4.2", "2001:db8:4::2"),
];

/// A lab that nobody else in this process uses the processors beside. `None`, with the reason printed, where there can be no namespaces.
///
/// # Panics
///
/// There can be none, and the environment variable `CI` is set.
pub fn lab(test: &str, topology: &str) -> Option<(Lab, MutexGuard<'static, ()>)> {
    static TURN: Mutex<()> = Mutex::new(());
    if let Err(error) = Namespace::new("probe") {
        assert!(
            std::env::var_os("CI").is_none(),
            "{test} cannot be skipped in CI: {error}"
        );
        println!("{test} is skipped: it needs network namespaces ({error})");
        return None;
    }
    // A test that failed says nothing about the others.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let topology: Topology = topology.parse().expect("a valid topology");
    Some((Lab::build(&topology).expect("builds the lab"), turn))
}

/// The objects that make a gateway of a topology's router, as text.
pub fn objects(topology: &Topology) -> String {
    let mut text = String::new();
    for port in topology.ports() {
        let mtu = port.device.mtu;
        text += &object(
            "Interface",
            &port.name,
            &format!("{{afPacket: {{device: {}}}, mtu: {mtu}}}", port.name),
        );
        text += &addresses(&port.name, &port.addresses);
        for sub in &port.sub_interfaces {
            let name = sub_interface(&port.name, sub.tag);
            let outer = sub.tag.outer.map(|outer| format!(", outerId: {outer}"));
            let (id, outer) = (sub.tag.vlan, outer.unwrap_or_default());
            let vlan = format!(
                "{{vlan: {{parent: {}, id: {id}{outer}}}, mtu: {mtu}}}",
                port.name
            );
            text += &object("Interface", &name, &vlan);
            text += &addresses(&name, &sub.addresses);
        }
    }
    text
}

fn addresses(interface: &str, addresses: &[Prefix]) -> String {
    let mut text = String::new();
    for address in addresses {
        let family = if address.address.is_ipv6() {
            "v6"
        } else {
            "v4"
        };
        let spec = format!("{{interface: {interface}, address: \"{address}\"}}");
        text += &object("Address", &format!("{interface}-{family}"), &spec);
    }
    text
}

fn sub_interface(port: &str, tag: Tag) -> String {
    match tag.outer {
        None => format!("{port}.{}", tag.vlan),
        Some(outer) => format!("{port}.{outer}.{}", tag.vlan),
    }
}

/// One object as a YAML document; `spec` in braces.
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: oncilla.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// Objects from their text.
pub fn parse(text: &str) -> Vec<v1::Object> {
    let documents = control::yaml::load(text, "test").unwrap_or_else(|errors| {
        panic!(
            "{}",
            errors.iter().map(ToString::to_string).collect::<String>()
        )
    });
    documents
        .into_iter()
        .map(|document| document.object)
        .collect()
}

/// Names one object.
pub fn key(kind: &str, name: &str) -> v1::ObjectKey {
    v1::ObjectKey {
        kind: kind.into(),
        name: name.into(),
    }
}

/// A running daemon. It ends with this value, and with the thread that started it.
pub struct Daemon {
    process: Option<Child>,
    directory: PathBuf,
    client: Client,
    runtime: Runtime,
}

impl Daemon {
    /// Starts `oncilla run` in the lab's router, its files in `directory`, without objects. It begins empty unless `arguments` name a store.
    pub fn start(lab: &Lab, directory: &Path, arguments: &[&str]) -> Self {
        let router = lab.router().expect("has a router");
        let command = router.command(command(directory, arguments));
        Self::connect(
            command.expect("a descriptor is left").spawn(),
            directory.to_owned(),
        )
    }

    /// Starts it here, where it may have no devices.
    pub fn start_without_lab(directory: &Path, arguments: &[&str]) -> Self {
        Self::connect(command(directory, arguments).spawn(), directory.to_owned())
    }

    fn connect(process: std::io::Result<Child>, directory: PathBuf) -> Self {
        let mut process = process.expect("starts");
        // One thread that always runs: the connection is served between calls too.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("starts a thread");
        let start = Instant::now();
        let socket = directory.join("oncilla.sock");
        let client = loop {
            let ready = runtime.block_on(async {
                let mut client = Client::connect(&socket).await?;
                client.info().await.map(|_| client)
            });
            match ready {
                Ok(client) => break client,
                Err(error) => {
                    let ended = process.try_wait().expect("is ours");
                    if ended.is_some() || start.elapsed() > PATIENCE {
                        let _ = process.kill();
                        panic!(
                            "the daemon does not start ({ended:?}): {error}\n{}",
                            log(&directory)
                        );
                    }
                }
            }
            thread::sleep(Duration::from_millis(2));
        };
        Self {
            process: Some(process),
            directory,
            client,
            runtime,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        let id = self.process.as_ref().expect("runs").id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        log(&self.directory)
    }

    /// A further client, for another thread.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Asks it something.
    pub fn ask<T>(&mut self, ask: impl AsyncFnOnce(&mut Client) -> T) -> T {
        let client = &mut self.client;
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, ask(client)).await });
        answer.unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}\n{}", log(&self.directory)))
    }

    /// Applies the text of objects.
    pub fn try_apply(&mut self, text: &str) -> Result<v1::ApplyResponse, ClientError> {
        let objects = parse(text);
        self.ask(async |client| client.upsert(objects).await)
    }

    /// Applies the text of objects, which must be accepted.
    #[track_caller]
    pub fn apply(&mut self, text: &str) {
        if let Err(error) = self.try_apply(text) {
            panic!("{}\n{}", all_of(&error), self.log());
        }
    }

    /// Deletes objects, which must be accepted.
    #[track_caller]
    pub fn delete(&mut self, names: &[(&str, &str)]) {
        let keys = names.iter().map(|(kind, name)| key(kind, name)).collect();
        if let Err(error) = self.ask(async |client| client.delete(keys).await) {
            panic!("{}\n{}", all_of(&error), self.log());
        }
    }

    /// All objects with their generation.
    pub fn objects(&mut self) -> (u64, Vec<v1::Object>) {
        self.ask(async |client| client.list(&[]).await)
            .expect("lists")
    }

    /// The routes, as the dataplane has them.
    pub fn routes(&mut self) -> Vec<v1::RouteEntry> {
        self.ask(async |client| client.routes(None).await)
            .expect("dumps")
            .routes
    }

    /// State and counters of an interface.
    pub fn interface(&mut self, name: &str) -> v1::InterfaceState {
        let all = self.ask(Client::interfaces).expect("answers").interfaces;
        let found = all.iter().find(|interface| interface.name == name);
        found
            .unwrap_or_else(|| panic!("no {name} in {all:?}"))
            .clone()
    }

    /// Packets dropped by a node for a reason.
    pub fn drops(&mut self, node: &str, reason: &str) -> u64 {
        let all = self.ask(Client::drops).expect("answers").drops;
        let of_reason = all
            .iter()
            .filter(|drop| drop.node == node && drop.reason == reason);
        of_reason.map(|drop| drop.packets).sum()
    }

    /// Runs the command line against it and returns exit code, output and errors.
    pub fn cli(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = self.cli_command(arguments).output().expect("starts");
        let text = |bytes| String::from_utf8(bytes).expect("prints UTF-8");
        let code = output.status.code().expect("has an exit code");
        (code, text(output.stdout), text(output.stderr))
    }

    /// A command line against it, to be started.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oncilla"));
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("ONCILLA_SOCKET", self.directory.join("oncilla.sock"))
            .stdin(Stdio::null());
        command
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        let mut process = self.process.take().expect("runs");
        process.kill().expect("is ours");
        process.wait().expect("is ours");
    }

    /// Ends it with SIGTERM. It then audits its buffers and says by its exit code whether all are there.
    #[track_caller]
    pub fn stop(mut self) {
        let pid = self.pid();
        let mut process = self.process.take().expect("runs");
        kill(pid, Signal::SIGTERM).expect("is ours");
        let status = wait(&mut process);
        assert!(
            status.is_some_and(|status| status.success()),
            "ended with {status:?}\n{}",
            self.log()
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
            if thread::panicking() {
                println!("log of the daemon:\n{}", log(&self.directory));
            }
        }
    }
}

/// A command that starts the daemon.
pub fn command(directory: &Path, arguments: &[&str]) -> Command {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncilla"));
    command
        .arg("--socket")
        .arg(directory.join("oncilla.sock"))
        .arg("run")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("can be written"));
    if !arguments.contains(&"--store") {
        command.args(["--store", "memory"]);
    }
    command
}

/// Waits for a process with patience; kills it and returns `None` when that is at an end.
fn wait(process: &mut Child) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait().expect("is ours") {
            return Some(status);
        }
        if start.elapsed() > PATIENCE {
            let _ = process.kill();
            let _ = process.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// Everything that is wrong, not just the first.
pub fn all_of(error: &ClientError) -> String {
    let mut text = error.to_string();
    if let ClientError::Refused(refusal) = error {
        for error in refusal.errors.iter().skip(1) {
            let _ = write!(text, "\n{error}");
        }
    }
    text
}

/// An address from its text.
pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Pings from a host.
pub fn pings(lab: &Lab, from: &str, to: &str, options: &PingOptions) -> PingReport {
    let host = lab.namespace(from).expect("is in the lab");
    let report = host.run(|| ping(ip(to), options)).expect("enters");
    report.unwrap_or_else(|error| panic!("ping {to} from {from}: {error}"))
}

/// Pings from a host; every request must be answered once, with its own content.
#[track_caller]
pub fn assert_answered(lab: &Lab, from: &str, to: &str, options: &PingOptions) {
    let report = pings(lab, from, to, options);
    assert_eq!(report.sent, u64::from(options.count), "{to}: {report:?}");
    assert_eq!(report.received, report.sent, "{to}: {report:?}");
    assert_eq!(
        (report.duplicates, report.corrupted, report.errors),
        (0, 0, 0),
        "{to}: {report:?}"
    );
}

/// Pings all hosts of [`FAR`] from `a`, in both families.
#[track_caller]
pub fn assert_all_answered(lab: &Lab, count: u32) {
    let options = PingOptions {
        count,
        ..PingOptions::default()
    };
    for (_, v4, v6) in FAR {
        assert_answered(lab, "a", v4, &options);
        assert_answered(lab, "a", v6, &options);
    }
}

/// Waits with patience until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
