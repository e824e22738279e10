//! What concerns the whole process: its death, and its privileges. This program starts itself again in the roles
//! that `ROLE` names, and so has a `main` of its own.

mod common;

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use afpacket_sim::rtnl::VethEnd;
use afpacket_sim::shim::Place;
use afpacket_sim::traffic::{
    Integrity, PathMtuOptions, PingOptions, TcpOptions, TracerouteOptions, path_mtu, ping,
    tcp_transfer, traceroute,
};
use afpacket_sim::{
    Lab, Namespace, Offloads, Privilege, SimError, Topology, enter_user_namespace_if_needed,
    topology,
};

const ROLE: &str = "AFPACKET_SIM_TEST_ROLE";
const NOBODY: u32 = 65_534;
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Test = fn() -> TestResult;
type TestResult = Result<(), Box<dyn Error>>;

const TESTS: [(&str, Test); 3] = [
    (
        "a_killed_process_leaves_nothing",
        a_killed_process_leaves_nothing,
    ),
    ("a_plain_user_gets_a_lab", a_plain_user_gets_a_lab),
    (
        "a_second_thread_is_named_as_the_obstacle",
        a_second_thread_is_named_as_the_obstacle,
    ),
];

fn main() -> ExitCode {
    let result = match std::env::var(ROLE).as_deref() {
        Ok("hold-lab") => hold_lab(),
        Ok("sleep") => sleep(),
        Ok("plain-user") => plain_user(),
        Ok("two-threads") => two_threads(),
        _ => return run_tests(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_tests() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut code = ExitCode::SUCCESS;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        match test() {
            Ok(()) => println!("test {name} ... ok"),
            Err(error) => {
                println!("test {name} ... FAILED: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// A lab is built by a child process. Each of its namespaces has a device whose other end lies in a namespace of
/// ours: the kernel removes that end when, and only when, the lab's namespace is gone.
fn a_killed_process_leaves_nothing() -> TestResult {
    let Some(witness) = common::or_skip(Namespace::new("witness")) else {
        return Ok(());
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, "hold-lab").stdout(Stdio::piped());
    let mut child = Kill(witness.command(command)?.spawn()?);
    let mut line = String::new();
    let output = child.0.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut line)?;
    let sleeper = line
        .trim()
        .strip_prefix("ready ")
        .ok_or("the child built no lab")?;
    let sleeper = Path::new("/proc").join(sleeper);

    let names = witness_links(&witness)?;
    expect(
        names.len() == 4,
        &format!("devices of four namespaces: {names:?}"),
    )?;
    expect(sleeper.exists(), "a program runs in the lab")?;
    child.0.kill()?;
    child.0.wait()?;
    wait_for("the lab's namespaces to vanish", || {
        Ok(witness_links(&witness)?.is_empty())
    })?;
    wait_for("the program in the lab to end", || {
        Ok(!sleeper.exists() || is_zombie(&sleeper))
    })
}

/// Everything works for a user without privilege.
fn a_plain_user_gets_a_lab() -> TestResult {
    // The test's own folder may be closed to other users.
    let folder = std::env::temp_dir().join(format!("afpacket-sim-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let program = folder.join("plain-user");
    let copied = fs::copy(std::env::current_exe()?, &program);
    let status = copied.and_then(|_| as_nobody(&program, "plain-user"));
    fs::remove_dir_all(&folder)?;
    expect(status?, "the lab of a plain user works")
}

/// The kernel refuses a user namespace to a process with threads; the message has to say so.
fn a_second_thread_is_named_as_the_obstacle() -> TestResult {
    let folder = std::env::temp_dir().join(format!("afpacket-sim-t{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let program = folder.join("two-threads");
    let copied = fs::copy(std::env::current_exe()?, &program);
    let status = copied.and_then(|_| as_nobody(&program, "two-threads"));
    fs::remove_dir_all(&folder)?;
    expect(status?, "the message names the second thread")
}

fn as_nobody(program: &Path, role: &str) -> std::io::Result<bool> {
    let mut command = Command::new(program);
    command.env(ROLE, role).current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.status().map(|status| status.success())
}

fn hold_lab() -> TestResult {
    let witness = Namespace::current("witness")?;
    let lab = Lab::build(&topology::demo())?;
    for namespace in lab.namespaces() {
        let end = VethEnd::new(&format!("w-{}", namespace.name()));
        witness
            .rtnl()?
            .add_veth(&end, namespace, &VethEnd::new("witness"))?;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.env(ROLE, "sleep").stdout(Stdio::null());
    let child = lab.namespace("a")?.command(command)?.spawn()?;
    println!("ready {}", child.id());
    thread::sleep(PATIENCE);
    Ok(())
}

fn sleep() -> TestResult {
    thread::sleep(2 * PATIENCE);
    Ok(())
}

fn plain_user() -> TestResult {
    let privilege = match enter_user_namespace_if_needed() {
        Err(error @ SimError::NoUserNamespace { .. }) if std::env::var_os("CI").is_none() => {
            println!("skipped: {error}");
            return Ok(());
        }
        privilege => privilege?,
    };
    expect(
        privilege == Privilege::UserNamespace,
        "nobody has no privilege",
    )?;
    // Called again, it finds what it needs.
    expect(
        enter_user_namespace_if_needed()? == Privilege::Own,
        "the privilege is there",
    )?;

    let text = "
        router gw
        port p0 198.18.1.1/24
        port p1 2001:db8:1::1/64 198.18.2.1/24 mtu 1400
        host a to p0 198.18.1.2/24 via 198.18.1.1
        host a dev eth1 wire trunk vlan 10 outer 20 198.18.3.1/24
        host b to p1 198.18.2.2/24 via 198.18.2.1
        host c wire trunk vlan 10 outer 20 198.18.3.2/24
    ";
    let mut lab = Lab::build(&text.parse::<Topology>()?)?;
    expect(
        lab.shims().all(|(_, shim)| shim.place() == Place::Thread),
        "the kernel takes no programs from a user namespace",
    )?;
    lab.enable_kernel_forwarding()?;
    let (a, b, c) = (
        lab.namespace("a")?,
        lab.namespace("b")?,
        lab.namespace("c")?,
    );
    for offloads in [Offloads::ON, Offloads::OFF] {
        lab.set_host_offloads(offloads)?;
        for (to, host) in [("198.18.2.2", b), ("198.18.3.2", c)] {
            let to = to.parse()?;
            let report = a.run(|| ping(to, &PingOptions::default()))??;
            expect(report.received == 10, &format!("pings to {to}: {report:?}"))?;
            let options = TcpOptions {
                bytes_per_stream: Some(1 << 20),
                verify: true,
                ..TcpOptions::default()
            };
            let report = tcp_transfer(a, host, to, &options)?;
            expect(
                report.integrity == Integrity::Intact,
                &format!("TCP to {to}: {report:?}"),
            )?;
        }
    }
    let b_address = "198.18.2.2".parse()?;
    let hops = a.run(|| traceroute(b_address, &TracerouteOptions::default()))??;
    expect(hops.len() == 2, &format!("two hops: {hops:?}"))?;
    let report = a.run(|| path_mtu(b_address, &PathMtuOptions::default()))??;
    expect(
        report.path_mtu == Some(1400),
        &format!("the path MTU: {report:?}"),
    )?;
    lab.disable_kernel_forwarding()?;
    Ok(())
}

fn two_threads() -> TestResult {
    thread::spawn(|| thread::sleep(PATIENCE));
    match enter_user_namespace_if_needed() {
        Err(error) if error.to_string().contains("more than one thread") => Ok(()),
        // Where user namespaces are off, that is what the message is about.
        Err(error @ SimError::NoUserNamespace { .. }) if std::env::var_os("CI").is_none() => {
            println!("skipped: {error}");
            Ok(())
        }
        other => Err(format!("got {other:?}").into()),
    }
}

/// Ends a child however the test ends.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn witness_links(witness: &Namespace) -> Result<Vec<String>, SimError> {
    let links = witness.rtnl()?.links()?;
    Ok(links
        .into_iter()
        .map(|link| link.name)
        .filter(|name| name.starts_with("w-"))
        .collect())
}

/// Dead, but not yet collected by the process that inherited it.
fn is_zombie(process: &Path) -> bool {
    fs::read_to_string(process.join("stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool, Box<dyn Error>>) -> TestResult {
    let start = Instant::now();
    while !done()? {
        expect(
            start.elapsed() < PATIENCE,
            &format!("waited too long for {what}"),
        )?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn expect(condition: bool, what: &str) -> TestResult {
    if condition {
        Ok(())
    } else {
        Err(format!("expected: {what}").into())
    }
}
