//! Network namespaces with veth pairs for these tests, through iproute2.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that lives as long as this.
pub struct Namespace(File);

impl Namespace {
    /// A new namespace with loopback up, or `None` (with a printed reason) where this process may not make one or iproute2 is not
    /// installed. In CI, that is an error.
    pub fn new() -> Option<Self> {
        let made = thread::spawn(|| -> Result<Self, String> {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("unshare: {error} (needs root)"))?;
            run_ip("link set lo up")?;
            // No router solicitations or duplicate address detection between a test's packets.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            let file = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
            Ok(Self(file))
        })
        .join()
        .expect("no panic");
        match made {
            Ok(namespace) => Some(namespace),
            Err(reason) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: {reason}");
                None
            }
            Err(reason) => panic!("{reason}"),
        }
    }

    /// Runs `f` on a thread in this namespace.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0, CloneFlags::CLONE_NEWNET).expect("our own namespace");
                    f()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` with these words.
    pub fn ip(&self, words: &str) {
        self.enter(|| run_ip(words)).expect(words);
    }

    /// Connects two namespaces by a veth pair, both ends up, segmentation and checksum offloads as the kernel sets them.
    pub fn connect(&self, mine: &str, other: &Self, theirs: &str, mtu: u32) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!(
            "link add {mine} mtu {mtu} type veth peer name {theirs} mtu {mtu} netns {path}"
        ));
        self.ip(&format!("link set {mine} up"));
        other.ip(&format!("link set {theirs} up"));
    }
}

/// Calls `f` until it is true, ten seconds at the most.
pub fn until(what: &str, mut f: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !f() {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "waited too long: {what}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// A UDP socket that gives up after ten seconds.
pub fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("an address of ours");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    socket
}

fn run_ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .map_err(|error| format!("ip: {error} (install iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .next()
            .unwrap_or_default()
    ))
}
