//! What is done in the lab, and in which order.

use std::net::IpAddr;
use std::time::Duration;

use afpacket_sim::topology::{self, Prefix, Topology};
use afpacket_sim::traffic::{
    PathMtuOptions, PingOptions, PingReport, TcpOptions, TcpReport, TracerouteOptions, UdpOptions,
    path_mtu, ping, tcp_transfer, traceroute, udp_transfer,
};
use afpacket_sim::{Lab, Offloads, Privilege};
use anyhow::Context;
use control::client::Client;
use control_api::v1;

use super::Progress;
use super::configuration::{self, Behind};
use super::directory::Directory;
use super::gateway::Gateway;
use super::report::{PathMtu, Ping, Report, Step, Tcp, Traceroute, Udp};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Echo requests of each ping.
    pub(super) pings: u32,
    /// How long each TCP run lasts.
    pub(super) tcp: Duration,
    /// TCP runs of each kind, through the gateway and through the kernel: 1 or 2.
    pub(super) rounds: u32,
}

/// The lab, ready for a gateway.
pub(super) struct Stage {
    pub(super) lab: Lab,
    pub(super) privilege: Privilege,
    directory: Directory,
    behind: Behind,
}

impl Stage {
    /// Starts a gateway and configures it. To be called on a thread that lives as long as the gateway should.
    pub(super) fn gateway(&self) -> anyhow::Result<Gateway> {
        let mut gateway = Gateway::start(self.lab.router()?, &self.directory)?;
        let configured =
            gateway.configure(configuration::objects(self.lab.topology(), self.behind));
        configured.map_err(|error| gateway.explain(error))?;
        Ok(gateway)
    }
}

/// The host that everything is measured from.
const FROM: &str = "a";
/// The definition that is comparable to `ping -i 0.001`.
const PING_INTERVAL: Duration = Duration::from_millis(1);
/// Makes the one traced packet known by its length.
const TRACED_PAYLOAD: usize = 41;
/// Bytes of Ethernet, IPv4 and ICMP header in front of it.
const TRACED_HEADERS: usize = 14 + 20 + 8;
/// Packets that are followed until it comes.
const TRACED_PACKETS: u32 = 32;
/// How long the trace of a packet that was answered may take to arrive.
const TRACE_PATIENCE: Duration = Duration::from_secs(3);
/// Content that is compared byte by byte, in each TCP case.
const VERIFIED_BYTES: u64 = 32 << 20;
const VERIFIED_PATIENCE: Duration = Duration::from_secs(30);

/// Destination and settings of a measurement.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    host: &'static str,
    to: IpAddr,
    offloads: Offloads,
    /// Whether the kernel can do the same, for comparison.
    kernel: bool,
}

/// Measures the kernel, then the gateway, then the kernel again.
pub(super) fn perform(
    plan: &Plan,
    privilege: Privilege,
    progress: &Progress,
    report: &mut Report,
) -> anyhow::Result<Stage> {
    report.machine = machine();
    progress.say("building the lab: hosts a, b and c around a router");
    let topology = topology::demo();
    let behind = Behind {
        network: network([198, 18, 20, 0])?,
        via: address(&topology, "b", false)?,
    };
    let far = IpAddr::from([198, 18, 20, 1]);
    let pings = ping_cases(&topology, far)?;
    let transfers = tcp_cases(&topology)?;
    report.pings = pings
        .iter()
        .map(|case| Ping::new(case.name, FROM, case.to))
        .collect();
    report.tcp = transfers
        .iter()
        .map(|case| Tcp::new(case.name, FROM, case.to))
        .collect();
    let lab = Lab::build(&topology).context("the lab cannot be built")?;
    lab.namespace("b")?
        .rtnl()?
        .add_address("lo", host_prefix(far)?)?;
    let directory = Directory::make()?;
    let mut stage = Stage {
        lab,
        privilege,
        directory,
        behind,
    };

    kernel_round(&mut stage.lab, plan, progress, report, &pings, &transfers)?;

    progress.say("starting the gateway and configuring it over gRPC");
    let mut gateway = stage.gateway()?;
    let seen = gateway_round(
        &stage.lab,
        &mut gateway,
        plan,
        progress,
        report,
        &pings,
        &transfers,
    );
    seen.map_err(|error| gateway.explain(error))?;
    progress.say("stopping the gateway");
    gateway.stop()?;
    report.stopped = true;

    if plan.rounds > 1 {
        kernel_round(&mut stage.lab, plan, progress, report, &pings, &transfers)?;
    }
    Ok(stage)
}

fn ping_cases(topology: &Topology, far: IpAddr) -> anyhow::Result<Vec<Case>> {
    let case = |name, host, to, kernel| Case {
        name,
        host,
        to,
        offloads: Offloads::ON,
        kernel,
    };
    Ok(vec![
        case("ipv4", "b", address(topology, "b", false)?, true),
        case("ipv6", "b", address(topology, "b", true)?, true),
        case("vlan", "c", address(topology, "c", false)?, false),
        case("vlan-ipv6", "c", address(topology, "c", true)?, false),
        case("ipv4-route", "b", far, false),
    ])
}

fn tcp_cases(topology: &Topology) -> anyhow::Result<Vec<Case>> {
    let (b, c) = (
        address(topology, "b", false)?,
        address(topology, "c", false)?,
    );
    let case = |name, host, to, offloads, kernel| Case {
        name,
        host,
        to,
        offloads,
        kernel,
    };
    Ok(vec![
        case("offloads-on", "b", b, Offloads::ON, true),
        case("offloads-off", "b", b, Offloads::OFF, true),
        case("vlan", "c", c, Offloads::ON, false),
    ])
}

/// The yardstick: the same traffic, forwarded by Linux.
fn kernel_round(
    lab: &mut Lab,
    plan: &Plan,
    progress: &Progress,
    report: &mut Report,
    pings: &[Case],
    transfers: &[Case],
) -> anyhow::Result<()> {
    progress.say("for comparison, the kernel forwards: pings and TCP");
    lab.enable_kernel_forwarding()?;
    for (case, result) in pings
        .iter()
        .zip(&mut report.pings)
        .filter(|(case, _)| case.kernel)
    {
        result.record_kernel(&ping_once(lab, *case, plan.pings)?);
    }
    for (case, result) in transfers
        .iter()
        .zip(&mut report.tcp)
        .filter(|(case, _)| case.kernel)
    {
        result.record_kernel(&tcp_once(lab, *case, &timed(plan))?);
    }
    lab.set_host_offloads(Offloads::ON)?;
    Ok(lab.disable_kernel_forwarding()?)
}

fn gateway_round(
    lab: &Lab,
    gateway: &mut Gateway,
    plan: &Plan,
    progress: &Progress,
    report: &mut Report,
    pings: &[Case],
    transfers: &[Case],
) -> anyhow::Result<()> {
    for (case, result) in pings.iter().zip(&mut report.pings) {
        progress.say(&format!("pinging {} from {FROM}: {}", case.to, case.name));
        result.record(ping_once(lab, *case, plan.pings)?);
        gateway.outlived(case.name)?;
    }
    progress.say("traceroute, path MTU, UDP, one packet's trace");
    look_around(lab, report)?;
    let b = address(lab.topology(), "b", false)?;
    let udp = udp_transfer(
        lab.namespace(FROM)?,
        lab.namespace("b")?,
        b,
        &UdpOptions::default(),
    )?;
    report.udp = Some(Udp::from(udp));
    report.trace = trace(lab, gateway, b)?;
    for (case, result) in transfers.iter().zip(&mut report.tcp) {
        progress.say(&format!(
            "TCP to {}, every byte compared: {}",
            case.to, case.name
        ));
        let options = TcpOptions {
            bytes_per_stream: Some(VERIFIED_BYTES),
            timeout: VERIFIED_PATIENCE,
            verify: true,
            ..TcpOptions::default()
        };
        result.record_verified(&tcp_once(lab, *case, &options)?, VERIFIED_BYTES);
        gateway.outlived(case.name)?;
    }
    for _ in 0..plan.rounds {
        for (case, result) in transfers.iter().zip(&mut report.tcp) {
            progress.say(&format!(
                "TCP to {}, as fast as it goes: {}",
                case.to, case.name
            ));
            result.record(&tcp_once(lab, *case, &timed(plan))?);
            gateway.outlived(case.name)?;
        }
    }
    lab.set_host_offloads(Offloads::ON)?;
    let interfaces = gateway.call(async |client| client.interfaces().await)?;
    let runtime = gateway.call(async |client| client.runtime().await)?;
    let drops = gateway.call(async |client| client.drops().await)?;
    report.count(interfaces, runtime, drops);
    Ok(())
}

/// Traceroute and path MTU discovery to b, for both families.
fn look_around(lab: &Lab, report: &mut Report) -> anyhow::Result<()> {
    let topology = lab.topology();
    let host = topology.host("b").context("the lab has no host b")?;
    let expected_mtu = host
        .interfaces
        .iter()
        .map(|interface| interface.device.mtu)
        .min();
    let expected_mtu = expected_mtu.context("host b has no interface")?;
    for (name, ip6) in [("ipv4", false), ("ipv6", true)] {
        let (router, b) = (
            gateway_of(topology, FROM, ip6)?,
            address(topology, "b", ip6)?,
        );
        let from = lab.namespace(FROM)?;
        let hops = from.run(|| traceroute(b, &TracerouteOptions::default()))??;
        report
            .traceroute
            .push(Traceroute::new(name, &hops, vec![router, b]));
        let found = from.run(|| path_mtu(b, &PathMtuOptions::default()))??;
        report
            .path_mtu
            .push(PathMtu::new(name, &found, expected_mtu, router));
    }
    Ok(())
}

/// Follows one ping through the gateway.
fn trace(lab: &Lab, gateway: &mut Gateway, to: IpAddr) -> anyhow::Result<Vec<Step>> {
    // More than one: somebody else's packet may come first.
    let request = v1::TraceRequest {
        count: TRACED_PACKETS,
        ..v1::TraceRequest::default()
    };
    let mut packets = gateway.call(async |client| client.trace(request).await)?;
    let options = PingOptions {
        count: 1,
        payload_bytes: TRACED_PAYLOAD,
        ..PingOptions::default()
    };
    lab.namespace(FROM)?.run(|| ping(to, &options))??;
    let wanted = (TRACED_HEADERS + TRACED_PAYLOAD) as u32;
    let steps = gateway.call(async |_| {
        let found = async {
            while let Some(packet) = packets.message().await? {
                if packet.length == wanted {
                    return Ok(packet.steps);
                }
            }
            Ok(Vec::new())
        };
        // Without an answer there is no trace to show, and the report says so.
        tokio::time::timeout(TRACE_PATIENCE, found)
            .await
            .unwrap_or_else(|_| Ok(Vec::new()))
    })?;
    // The daemon learns from the next exchange that nobody listens any more. Until then it would go on tracing, and
    // slow down what is measured next.
    drop(packets);
    gateway.call(Client::info)?;
    Ok(steps
        .into_iter()
        .map(|step| Step {
            node: step.node,
            text: step.text,
        })
        .collect())
}

fn ping_once(lab: &Lab, case: Case, count: u32) -> anyhow::Result<PingReport> {
    let options = PingOptions {
        count,
        interval: PING_INTERVAL,
        ..PingOptions::default()
    };
    Ok(lab.namespace(FROM)?.run(|| ping(case.to, &options))??)
}

fn tcp_once(lab: &Lab, case: Case, options: &TcpOptions) -> anyhow::Result<TcpReport> {
    lab.set_host_offloads(case.offloads)?;
    let (from, host) = (lab.namespace(FROM)?, lab.namespace(case.host)?);
    tcp_transfer(from, host, case.to, options)
        .with_context(|| format!("TCP {} from {FROM} to {}", case.name, case.to))
}

fn timed(plan: &Plan) -> TcpOptions {
    TcpOptions {
        duration: plan.tcp,
        ..TcpOptions::default()
    }
}

/// A host's first address of a family.
fn address(topology: &Topology, host: &str, ip6: bool) -> anyhow::Result<IpAddr> {
    let host = topology
        .host(host)
        .with_context(|| format!("the lab has no host {host}"))?;
    let mut addresses = host
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses);
    addresses
        .find(|prefix| prefix.address.is_ipv6() == ip6)
        .map(|prefix| prefix.address)
        .with_context(|| format!("host {} lacks an address", host.name))
}

/// A host's default gateway.
fn gateway_of(topology: &Topology, host: &str, ip6: bool) -> anyhow::Result<IpAddr> {
    let host = topology
        .host(host)
        .with_context(|| format!("the lab has no host {host}"))?;
    let mut gateways = host
        .interfaces
        .iter()
        .flat_map(|interface| &interface.gateways);
    gateways
        .find(|gateway| gateway.is_ipv6() == ip6)
        .copied()
        .with_context(|| format!("host {} lacks a gateway", host.name))
}

fn network(address: [u8; 4]) -> anyhow::Result<Prefix> {
    Prefix::new(address.into(), 24).context("24 bits fit an IPv4 address")
}

fn host_prefix(address: IpAddr) -> anyhow::Result<Prefix> {
    Prefix::new(address, 32).context("32 bits fit an IPv4 address")
}

fn machine() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {processors} processors", release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_fit_the_lab() {
        let topology = topology::demo();
        let far = IpAddr::from([198, 18, 20, 1]);
        let pings = ping_cases(&topology, far).expect("all addresses are there");
        let names: Vec<_> = pings.iter().map(|case| case.name).collect();
        assert_eq!(names[..3], ["ipv4", "ipv6", "vlan"]);
        assert_eq!(pings[1].to.to_string(), "2001:db8:2::2");
        assert!(network([198, 18, 20, 0]).expect("valid").contains(far));
        let names: Vec<_> = tcp_cases(&topology)
            .expect("valid")
            .iter()
            .map(|case| case.name)
            .collect();
        assert_eq!(names, ["offloads-on", "offloads-off", "vlan"]);
        assert_eq!(
            gateway_of(&topology, "a", true).expect("valid").to_string(),
            "2001:db8:1::1"
        );
        assert!(address(&topology, "nobody", false).is_err());
    }
}
