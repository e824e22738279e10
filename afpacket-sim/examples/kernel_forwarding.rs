//! Measures the kernel's own forwarding between two hosts, and a pair of VLAN shims: what a dataplane in the same
//! lab is compared with.
//!
//! ```text
//! cargo run --release -p afpacket-sim --example kernel_forwarding
//! ```

use std::error::Error;
use std::time::Instant;

use afpacket_sim::traffic::{PingOptions, TcpOptions, ping, tcp_transfer};
use afpacket_sim::{Lab, Offloads, Topology, enter_user_namespace_if_needed};

const ROUTED: &str = "
    router gw
    port p0 198.18.1.1/24 2001:db8:1::1/64
    port p1 198.18.2.1/24 2001:db8:2::1/64
    host a to p0 198.18.1.2/24 2001:db8:1::2/64 via 198.18.1.1 via 2001:db8:1::1
    host b to p1 198.18.2.2/24 2001:db8:2::2/64 via 198.18.2.1 via 2001:db8:2::1
";
const SHIMS: &str = "
    host a wire w vlan 10 198.18.2.1/24 2001:db8:2::1/64
    host b wire w vlan 10 198.18.2.2/24 2001:db8:2::2/64
";

fn main() -> Result<(), Box<dyn Error>> {
    let privilege = enter_user_namespace_if_needed()?;
    println!("privilege: {privilege:?}");
    for (name, text) in [("kernel forwarding", ROUTED), ("two VLAN shims", SHIMS)] {
        let start = Instant::now();
        let mut lab = Lab::build(&text.parse::<Topology>()?)?;
        if lab.router().is_ok() {
            lab.enable_kernel_forwarding()?;
        }
        println!("{name}: lab built in {:.0?}", start.elapsed());
        let (a, b) = (lab.namespace("a")?, lab.namespace("b")?);
        for to in ["198.18.2.2", "2001:db8:2::2"] {
            let to = to.parse()?;
            let options = PingOptions {
                count: 1000,
                ..PingOptions::default()
            };
            let report = a.run(|| ping(to, &options))??;
            let rtt = report.rtt.ok_or("no ping was answered")?;
            println!(
                "  ping {to}: {} of {} answered, min {:.1} median {:.1} p99 {:.1} max {:.1} µs",
                report.received,
                report.sent,
                rtt.min_ns as f64 * 1e-3,
                rtt.median_ns as f64 * 1e-3,
                rtt.p99_ns as f64 * 1e-3,
                rtt.max_ns as f64 * 1e-3,
            );
        }
        for (label, offloads) in [("on", Offloads::ON), ("off", Offloads::OFF)] {
            lab.set_host_offloads(offloads)?;
            let report = tcp_transfer(a, b, "198.18.2.2".parse()?, &TcpOptions::default())?;
            println!(
                "  TCP, offloads {label}: {:.2} Gbit/s, {} retransmits",
                report.gbit_per_s, report.retransmits
            );
        }
        for (host, statistics) in lab.shim_statistics() {
            println!("  shim of {host}: {statistics:?}");
        }
    }
    Ok(())
}
