//! FelixConfiguration, as far as it changes verdicts and translation; other fields are refused rather than ignored.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::reader::{Fields, Node};
use super::rule::{Protocol, read_net_or_address};
use super::value::Value;
use crate::PortSpan;

/// A port that stays open on hosts whatever policies say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailsafePort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The other end's network; any if `None`.
    pub net: Option<IpNet>,
    /// The port.
    pub port: u16,
}

impl FailsafePort {
    const fn any(protocol: Protocol, port: u16) -> Self {
        Self {
            protocol,
            net: None,
            port,
        }
    }

    /// Whether a peer's packet with this port is let through.
    pub fn admits(&self, protocol: u8, peer: IpAddr, port: u16) -> bool {
        self.protocol.number() == protocol
            && self.port == port
            && self.net.is_none_or(|net| net.contains(&peer))
    }
}

/// What happens to a workload's packet to its own host that its egress policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointToHost {
    /// Dropped.
    Drop,
    /// Allowed.
    Accept,
    /// The host's own rules decide; as far as ours go it is allowed.
    Return,
}

/// How packets are denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyAction {
    /// Silently.
    Drop,
    /// With a TCP reset or an ICMP error to the sender.
    Reject,
}

/// How long flows are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// Flows younger than this are kept.
    pub creation_grace: Duration,
    /// TCP before it is established.
    pub tcp_syn_sent: Duration,
    /// TCP that is established.
    pub tcp_established: Duration,
    /// TCP after both ends have sent FIN.
    pub tcp_fins_seen: Duration,
    /// TCP after a reset.
    pub tcp_reset_seen: Duration,
    /// UDP.
    pub udp: Duration,
    /// Other protocols.
    pub generic: Duration,
    /// ICMP.
    pub icmp: Duration,
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            creation_grace: Duration::from_secs(10),
            tcp_syn_sent: Duration::from_secs(20),
            tcp_established: Duration::from_secs(3600),
            tcp_fins_seen: Duration::from_secs(30),
            tcp_reset_seen: Duration::from_secs(40),
            udp: Duration::from_secs(60),
            generic: Duration::from_secs(600),
            icmp: Duration::from_secs(5),
        }
    }
}

/// One FelixConfiguration: `default` for all nodes, `node.NAME` for one; what it leaves out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FelixConfiguration {
    /// Ports that stay open towards hosts.
    pub failsafe_inbound: Option<Vec<FailsafePort>>,
    /// Ports that stay open from hosts.
    pub failsafe_outbound: Option<Vec<FailsafePort>>,
    /// For workloads' packets to their own host.
    pub endpoint_to_host: Option<EndpointToHost>,
    /// How packets are denied.
    pub deny_action: Option<DenyAction>,
    /// Whether workloads may send VXLAN.
    pub vxlan_from_workloads: Option<bool>,
    /// Whether workloads may send IP in IP.
    pub ipip_from_workloads: Option<bool>,
    /// Whether a change of policy decides live flows again (our own field, `reevaluateLiveFlows`).
    pub reevaluate_live_flows: Option<bool>,
    /// Timeouts by field: `None` stays as it is.
    pub timeouts: [Option<Duration>; 8],
    /// What sources of pools with natOutgoing become.
    pub nat_outgoing_address: Option<IpAddr>,
    /// The ports that they get.
    pub nat_port_range: Option<PortSpan>,
}

/// What holds on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Felix {
    /// Ports that stay open towards hosts.
    pub failsafe_inbound: Vec<FailsafePort>,
    /// Ports that stay open from hosts.
    pub failsafe_outbound: Vec<FailsafePort>,
    /// For workloads' packets to their own host.
    pub endpoint_to_host: EndpointToHost,
    /// How packets are denied.
    pub deny_action: DenyAction,
    /// Whether workloads may send VXLAN.
    pub vxlan_from_workloads: bool,
    /// Whether workloads may send IP in IP.
    pub ipip_from_workloads: bool,
    /// Whether a change of policy decides live flows again.
    pub reevaluate_live_flows: bool,
    /// How long flows are remembered.
    pub timeouts: FlowTimeouts,
}

impl Default for Felix {
    fn default() -> Self {
        use FailsafePort as Port;
        let common =
            [179, 2379, 2380, 5473, 6443, 6666, 6667].map(|port| Port::any(Protocol::TCP, port));
        let mut failsafe_inbound = vec![Port::any(Protocol::TCP, 22), Port::any(Protocol::UDP, 68)];
        failsafe_inbound.extend(common);
        let mut failsafe_outbound =
            vec![Port::any(Protocol::UDP, 53), Port::any(Protocol::UDP, 67)];
        failsafe_outbound.extend(common);
        Self {
            failsafe_inbound,
            failsafe_outbound,
            endpoint_to_host: EndpointToHost::Drop,
            deny_action: DenyAction::Drop,
            vxlan_from_workloads: false,
            ipip_from_workloads: false,
            reevaluate_live_flows: false,
            timeouts: FlowTimeouts::default(),
        }
    }
}

impl Felix {
    /// Takes over what a configuration says.
    pub fn apply(&mut self, other: &FelixConfiguration) {
        fn set<T: Clone>(mine: &mut T, other: Option<&T>) {
            if let Some(other) = other {
                mine.clone_from(other);
            }
        }
        set(&mut self.failsafe_inbound, other.failsafe_inbound.as_ref());
        set(
            &mut self.failsafe_outbound,
            other.failsafe_outbound.as_ref(),
        );
        set(&mut self.endpoint_to_host, other.endpoint_to_host.as_ref());
        set(&mut self.deny_action, other.deny_action.as_ref());
        set(
            &mut self.vxlan_from_workloads,
            other.vxlan_from_workloads.as_ref(),
        );
        set(
            &mut self.ipip_from_workloads,
            other.ipip_from_workloads.as_ref(),
        );
        set(
            &mut self.reevaluate_live_flows,
            other.reevaluate_live_flows.as_ref(),
        );
        let mine = &mut self.timeouts;
        for (mine, other) in [
            &mut mine.creation_grace,
            &mut mine.tcp_syn_sent,
            &mut mine.tcp_established,
            &mut mine.tcp_fins_seen,
            &mut mine.tcp_reset_seen,
            &mut mine.udp,
            &mut mine.generic,
            &mut mine.icmp,
        ]
        .into_iter()
        .zip(&other.timeouts)
        {
            set(mine, other.as_ref());
        }
    }
}

impl fmt::Display for FailsafePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.protocol)?;
        if let Some(net) = self.net {
            write!(f, "{net}:")?;
        }
        write!(f, "{}", self.port)
    }
}

fn read_failsafe(node: &Node<'_>) -> Option<FailsafePort> {
    let mut fields = node.fields()?;
    let protocol = fields.required("protocol").and_then(|node| {
        node.any_case(&[
            ("TCP", Protocol::TCP),
            ("UDP", Protocol::UDP),
            ("SCTP", Protocol::SCTP),
        ])
    });
    let net = fields
        .take("net")
        .filter(|node| *node.value != "".into())
        .map(|node| read_net_or_address(&node));
    let port = fields
        .required("port")
        .and_then(|node| node.integer(0, 65535))
        .and_then(|port| u16::try_from(port).ok());
    fields.finish();
    Some(FailsafePort {
        protocol: protocol?,
        net: match net {
            Some(None) => return None,
            Some(net) => net,
            None => None,
        },
        port: port?,
    })
}

/// A list of failsafe ports: an empty one closes them all.
fn read_failsafes(spec: &mut Fields<'_>, name: &'static str) -> Option<Vec<FailsafePort>> {
    let node = spec.take(name)?;
    Some(node.list(1024).iter().filter_map(read_failsafe).collect())
}

/// A timeout as Calico takes it: `1h30m`, `20s`, `500ms`, `1.5s`. Not `Auto`, which stands for a setting of Linux's connection
/// tracking.
fn read_timeout(node: &Node<'_>) -> Option<Duration> {
    let read = match node.value {
        Value::Text(text) => duration(text),
        _ => None,
    };
    if read.is_none() {
        if *node.value == "Auto".into() {
            node.fail(
                "Auto takes the timeout from Linux's connection tracking, which does not track what is forwarded here; \
                 write a duration such as 20s, or leave the field out for the default",
            );
        } else {
            node.must("be a duration such as 20s, 1h or 1h30m");
        }
    }
    read
}

/// Ports as Calico writes them: a number, or `1024:65535`.
fn read_port_range(node: &Node<'_>) -> Option<PortSpan> {
    let port = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| plain)
    };
    let ends = match node.value {
        Value::Integer(number) => u32::try_from(*number).ok().map(|port| (port, port)),
        Value::Text(text) => match text.split_once(':') {
            Some((first, last)) => port(first).zip(port(last)),
            None => port(text).map(|port| (port, port)),
        },
        _ => None,
    };
    let Some((first, last)) = ends else {
        node.must("be a port or a range such as 1024:65535");
        return None;
    };
    node.check(PortSpan::new(first, last))
}

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(number);
        // The longer unit first: `ms` is not `m`.
        let (unit, nanos) = [
            ("ms", 1_000_000),
            ("us", 1000),
            ("s", 1_000_000_000),
            ("m", 60_000_000_000),
            ("h", 3_600_000_000_000),
        ]
        .into_iter()
        .find(|(unit, _)| tail.starts_with(unit))?;
        rest = &tail[unit.len()..];
        total = total.checked_add(times(number, nanos)?)?;
    }
    Some(total).filter(|_| !text.is_empty())
}

/// A decimal number of units; what is below a nanosecond is cut off.
fn times(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut total = whole.checked_mul(nanos)?;
    let mut place = nanos;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(u64::from(digit - b'0') * place)?;
    }
    Some(Duration::from_nanos(total))
}

pub(crate) fn read_felix(spec: &mut Fields<'_>) -> FelixConfiguration {
    let mut felix = FelixConfiguration {
        failsafe_inbound: read_failsafes(spec, "failsafeInboundHostPorts"),
        failsafe_outbound: read_failsafes(spec, "failsafeOutboundHostPorts"),
        endpoint_to_host: spec.take("defaultEndpointToHostAction").and_then(|node| {
            node.any_case(&[
                ("Drop", EndpointToHost::Drop),
                ("Accept", EndpointToHost::Accept),
                ("Return", EndpointToHost::Return),
            ])
        }),
        deny_action: spec.take("iptablesFilterDenyAction").and_then(|node| {
            node.any_case(&[("Drop", DenyAction::Drop), ("Reject", DenyAction::Reject)])
        }),
        vxlan_from_workloads: spec.bool("allowVXLANPacketsFromWorkloads"),
        ipip_from_workloads: spec.bool("allowIPIPPacketsFromWorkloads"),
        reevaluate_live_flows: spec.bool("reevaluateLiveFlows"),
        timeouts: [None; 8],
        nat_outgoing_address: spec.take("natOutgoingAddress").and_then(|node| {
            let address = node.text().filter(|text| !text.is_empty())?;
            node.check(crate::nat_host(address))
        }),
        nat_port_range: spec
            .take("natPortRange")
            .and_then(|node| read_port_range(&node)),
    };
    if let Some(node) = spec.take("natOutgoingExclusions") {
        if *node.value == "IPPoolsAndHostIPs".into() {
            node.must("be IPPoolsOnly: addresses of other hosts are not known here; for those, use a NatRule with exempt");
        } else {
            node.word(&[("IPPoolsOnly", ())]);
        }
    }
    if let Some(mut fields) = spec
        .take("bpfConntrackTimeouts")
        .and_then(|node| node.fields())
    {
        for (name, timeout) in [
            "creationGracePeriod",
            "tcpSynSent",
            "tcpEstablished",
            "tcpFinsSeen",
            "tcpResetSeen",
            "udpTimeout",
            "genericTimeout",
            "icmpTimeout",
        ]
        .into_iter()
        .zip(&mut felix.timeouts)
        {
            *timeout = fields.take(name).and_then(|node| read_timeout(&node));
        }
        fields.finish();
    }
    felix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in [
            ("20s", 20_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1m2s3ms", 62_003),
            ("0s", 0),
            ("1.5s", 1500),
            (".25m", 15_000),
            ("2.s3000us", 2003),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "20",
            "s",
            "-1s",
            "1d",
            "1h 2m",
            "9999999999999h",
            ".s",
            "1.2.3s",
            "1.5",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
