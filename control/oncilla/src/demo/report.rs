//! What happened, as data: the JSON document of `oncilla demo --json`.
//!
//! The fields `ok`, `pings` (`name`, `sent`, `received`, `rtt_median_ms`), `tcp` (`name`, `gbit_per_s`, `kernel_gbit_per_s`),
//! `drops` (`node`, `reason`, `packets`) and `trace` (`node`, `text`) are for other programs to rely on.

use std::net::IpAddr;

use afpacket_sim::traffic::{
    Hop, Integrity, PathMtuReport, PingReport, RttSummary, TcpReport, UdpReport,
};
use control_api::v1;
use serde::Serialize;

/// Everything that was seen, whether or not it went well.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Whether there is no problem. Slowness is none.
    pub(super) ok: bool,
    /// What did not go as it should.
    pub(super) problems: Vec<String>,
    /// The kernel's release and the number of processors.
    pub(super) machine: String,
    /// `own`, or `user-namespace`: where the privilege to make namespaces comes from.
    pub(super) privilege: &'static str,
    pub(super) pings: Vec<Ping>,
    pub(super) tcp: Vec<Tcp>,
    pub(super) udp: Option<Udp>,
    pub(super) traceroute: Vec<Traceroute>,
    pub(super) path_mtu: Vec<PathMtu>,
    /// One packet's way through the nodes.
    pub(super) trace: Vec<Step>,
    pub(super) interfaces: Vec<Interface>,
    /// Work and time by node.
    pub(super) runtime: Vec<Node>,
    /// Ticks in a second, for the ticks of `runtime`.
    pub(super) ticks_per_second: u64,
    pub(super) drops: Vec<Drop>,
    /// Whether the daemon ran to the end and then stopped as it was told to.
    pub(super) stopped: bool,
    /// Panics that its workers contained.
    pub(super) panics: u64,
}

/// Echo requests, one in a millisecond. Times are from sending to the kernel's receive time stamp.
#[derive(Debug, Serialize)]
pub(super) struct Ping {
    pub(super) name: &'static str,
    pub(super) from: &'static str,
    pub(super) to: IpAddr,
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Answers with other content than their request.
    pub(super) corrupted: u64,
    pub(super) rtt_min_ms: Option<f64>,
    pub(super) rtt_median_ms: Option<f64>,
    pub(super) rtt_p99_ms: Option<f64>,
    /// With the kernel forwarding: the best run. Null where it cannot forward.
    pub(super) kernel_rtt_median_ms: Option<f64>,
    /// Why requests were not sent, or refused on the way.
    pub(super) last_error: Option<String>,
}

/// One TCP connection: the best run.
#[derive(Debug, Serialize)]
pub(super) struct Tcp {
    pub(super) name: &'static str,
    pub(super) from: &'static str,
    pub(super) to: IpAddr,
    pub(super) gbit_per_s: Option<f64>,
    /// With the kernel forwarding. Null where it cannot forward.
    pub(super) kernel_gbit_per_s: Option<f64>,
    /// Every run.
    pub(super) runs_gbit_per_s: Vec<f64>,
    pub(super) kernel_runs_gbit_per_s: Vec<f64>,
    /// Segments sent again, in all runs through the gateway.
    pub(super) retransmits: u64,
    /// Bytes whose content was compared at the receiver, in a run of their own.
    pub(super) verified_bytes: u64,
    /// Whether every byte arrived as it was sent. Null where that run did not take place.
    pub(super) intact: Option<bool>,
}

/// Numbered datagrams whose content was compared at the receiver.
#[derive(Debug, Default, Serialize)]
pub(super) struct Udp {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) corrupted: u64,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
}

/// The routers on the way.
#[derive(Debug, Serialize)]
pub(super) struct Traceroute {
    pub(super) name: &'static str,
    pub(super) hops: Vec<TracerouteHop>,
    /// The addresses that should have answered.
    pub(super) expected: Vec<IpAddr>,
}

#[derive(Debug, Serialize)]
pub(super) struct TracerouteHop {
    pub(super) distance: u8,
    /// Null where nobody answered.
    pub(super) address: Option<IpAddr>,
    pub(super) rtt_ms: Option<f64>,
}

/// The largest packet that crosses unfragmented, as a host finds it.
#[derive(Debug, Serialize)]
pub(super) struct PathMtu {
    pub(super) name: &'static str,
    pub(super) path_mtu: Option<u32>,
    pub(super) expected: u32,
    /// Who said so.
    pub(super) router: Option<IpAddr>,
    pub(super) expected_router: IpAddr,
}

#[derive(Debug, Serialize)]
pub(super) struct Step {
    pub(super) node: String,
    pub(super) text: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) rx_packets: u64,
    pub(super) rx_bytes: u64,
    /// Lost before the gateway got them.
    pub(super) rx_drops: u64,
    /// Dropped by the gateway.
    pub(super) rx_discards: u64,
    pub(super) tx_packets: u64,
    pub(super) tx_bytes: u64,
    pub(super) tx_drops: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Node {
    pub(super) worker: u32,
    pub(super) name: String,
    pub(super) calls: u64,
    pub(super) packets: u64,
    pub(super) ticks: u64,
    pub(super) ticks_per_packet: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Drop {
    pub(super) node: String,
    pub(super) reason: String,
    pub(super) text: String,
    pub(super) packets: u64,
}

impl Report {
    /// Looks for what did not go as it should, adds it to the problems, and says whether all went well.
    pub(super) fn judge(&mut self) {
        let mut problems: Vec<String> = std::mem::take(&mut self.problems);
        // An error ended the demo early: what is missing then is no problem of its own.
        if problems.is_empty() {
            problems.extend(self.pings.iter().filter_map(Ping::problem));
            problems.extend(self.tcp.iter().filter_map(Tcp::problem));
            problems.extend(
                self.udp
                    .as_ref()
                    .map_or(Some("no UDP".into()), Udp::problem),
            );
            problems.extend(self.traceroute.iter().filter_map(Traceroute::problem));
            problems.extend(self.path_mtu.iter().filter_map(PathMtu::problem));
            if self.trace.is_empty() {
                problems.push("trace: the gateway reported no step of the packet's way".into());
            }
            if self.panics > 0 {
                problems.push(format!(
                    "the daemon contained {} panics; its log names them",
                    self.panics
                ));
            }
            if !self.stopped {
                problems.push("the daemon was not stopped".into());
            }
        }
        self.ok = problems.is_empty();
        self.problems = problems;
    }

    /// Takes over what the daemon counted.
    pub(super) fn count(
        &mut self,
        interfaces: v1::InterfacesResponse,
        runtime: v1::RuntimeResponse,
        drops: v1::DropsResponse,
    ) {
        self.interfaces = interfaces
            .interfaces
            .into_iter()
            .map(Interface::from)
            .collect();
        self.ticks_per_second = runtime.ticks_per_second;
        self.panics = runtime.workers.iter().map(|worker| worker.panics).sum();
        self.runtime = runtime.workers.into_iter().flat_map(nodes).collect();
        self.drops = drops
            .drops
            .into_iter()
            .map(|drop| Drop {
                node: drop.node,
                reason: drop.reason,
                text: drop.text,
                packets: drop.packets,
            })
            .collect();
    }
}

impl Ping {
    /// Not done yet.
    pub(super) fn new(name: &'static str, from: &'static str, to: IpAddr) -> Self {
        Self {
            name,
            from,
            to,
            sent: 0,
            received: 0,
            corrupted: 0,
            rtt_min_ms: None,
            rtt_median_ms: None,
            rtt_p99_ms: None,
            kernel_rtt_median_ms: None,
            last_error: None,
        }
    }

    pub(super) fn record(&mut self, report: PingReport) {
        let ms = |pick: fn(&RttSummary) -> u64| report.rtt.as_ref().map(|rtt| ms(pick(rtt)));
        self.rtt_min_ms = ms(|rtt| rtt.min_ns);
        self.rtt_median_ms = ms(|rtt| rtt.median_ns);
        self.rtt_p99_ms = ms(|rtt| rtt.p99_ns);
        // What could not even be sent is as bad as lost.
        self.sent = report.sent + report.errors;
        self.received = report.received;
        self.corrupted = report.corrupted;
        self.last_error = report.last_error;
    }

    pub(super) fn record_kernel(&mut self, report: &PingReport) {
        if let Some(rtt) = report.rtt {
            let median = ms(rtt.median_ns);
            self.kernel_rtt_median_ms = Some(
                self.kernel_rtt_median_ms
                    .map_or(median, |best| best.min(median)),
            );
        }
    }

    fn problem(&self) -> Option<String> {
        let Self {
            name,
            sent,
            received,
            corrupted,
            ..
        } = self;
        if *sent > 0 && received == sent && *corrupted == 0 {
            return None;
        }
        let why = self
            .last_error
            .as_ref()
            .map(|error| format!(" ({error})"))
            .unwrap_or_default();
        let damaged = if *corrupted > 0 {
            format!(", {corrupted} answers damaged")
        } else {
            String::new()
        };
        Some(format!(
            "ping {name} from {} to {}: {} of {sent} lost{damaged}{why}",
            self.from,
            self.to,
            sent.saturating_sub(*received)
        ))
    }
}

impl Tcp {
    /// Not done yet.
    pub(super) fn new(name: &'static str, from: &'static str, to: IpAddr) -> Self {
        Self {
            name,
            from,
            to,
            gbit_per_s: None,
            kernel_gbit_per_s: None,
            runs_gbit_per_s: Vec::new(),
            kernel_runs_gbit_per_s: Vec::new(),
            retransmits: 0,
            verified_bytes: 0,
            intact: None,
        }
    }

    pub(super) fn record(&mut self, report: &TcpReport) {
        self.runs_gbit_per_s.push(report.gbit_per_s);
        self.gbit_per_s = best(&self.runs_gbit_per_s);
        self.retransmits += report.retransmits;
    }

    pub(super) fn record_kernel(&mut self, report: &TcpReport) {
        self.kernel_runs_gbit_per_s.push(report.gbit_per_s);
        self.kernel_gbit_per_s = best(&self.kernel_runs_gbit_per_s);
    }

    pub(super) fn record_verified(&mut self, report: &TcpReport, wanted: u64) {
        self.verified_bytes = report.total_received;
        self.intact =
            Some(report.integrity == Integrity::Intact && report.total_received == wanted);
    }

    fn problem(&self) -> Option<String> {
        let Self { name, from, to, .. } = self;
        if self.intact != Some(true) {
            let bytes = self.verified_bytes;
            return Some(format!(
                "TCP {name} from {from} to {to}: the content is damaged or missing after {bytes} bytes"
            ));
        }
        self.runs_gbit_per_s
            .iter()
            .any(|run| *run <= 0.0)
            .then(|| format!("TCP {name} from {from} to {to}: a run moved nothing"))
    }
}

impl Udp {
    fn problem(&self) -> Option<String> {
        let Self {
            sent,
            lost,
            corrupted,
            ..
        } = self;
        (*sent == 0 || *lost > 0 || *corrupted > 0)
            .then(|| format!("UDP: {lost} of {sent} datagrams lost, {corrupted} damaged"))
    }
}

impl From<UdpReport> for Udp {
    fn from(report: UdpReport) -> Self {
        Self {
            sent: report.sent,
            received: report.received,
            lost: report.lost,
            corrupted: report.corrupted,
            duplicates: report.duplicates,
            reordered: report.reordered,
        }
    }
}

impl Traceroute {
    pub(super) fn new(name: &'static str, hops: &[Hop], expected: Vec<IpAddr>) -> Self {
        let hops = hops.iter().map(|hop| TracerouteHop {
            distance: hop.distance,
            address: hop.answer.map(|answer| answer.address),
            rtt_ms: hop.answer.map(|answer| ms(answer.rtt_ns)),
        });
        Self {
            name,
            hops: hops.collect(),
            expected,
        }
    }

    fn problem(&self) -> Option<String> {
        let seen: Vec<_> = self.hops.iter().map(|hop| hop.address).collect();
        let expected: Vec<_> = self.expected.iter().copied().map(Some).collect();
        (seen != expected).then(|| {
            let addresses = |list: &[Option<IpAddr>]| {
                let texts = list.iter().map(|address| {
                    address.map_or_else(|| "nobody".to_owned(), |address| address.to_string())
                });
                texts.collect::<Vec<_>>().join(", ")
            };
            let (name, seen, expected) = (self.name, addresses(&seen), addresses(&expected));
            format!("traceroute {name}: expected {expected} to answer, but it was {seen}")
        })
    }
}

impl PathMtu {
    pub(super) fn new(
        name: &'static str,
        report: &PathMtuReport,
        expected: u32,
        expected_router: IpAddr,
    ) -> Self {
        Self {
            name,
            path_mtu: report.path_mtu,
            expected,
            router: report.too_big.last().map(|too_big| too_big.router),
            expected_router,
        }
    }

    fn problem(&self) -> Option<String> {
        let right =
            self.path_mtu == Some(self.expected) && self.router == Some(self.expected_router);
        let found = self
            .path_mtu
            .map_or("nothing".to_owned(), |mtu| format!("{mtu} bytes"));
        let from = self
            .router
            .map_or("nobody".to_owned(), |router| router.to_string());
        (!right).then(|| {
            format!(
                "path MTU {}: expected {} bytes said by {}, but found {found} said by {from}",
                self.name, self.expected, self.expected_router
            )
        })
    }
}

impl From<v1::InterfaceState> for Interface {
    fn from(state: v1::InterfaceState) -> Self {
        let counters = state.counters.unwrap_or_default();
        Self {
            name: state.name,
            mtu: state.mtu,
            rx_packets: counters.rx_packets,
            rx_bytes: counters.rx_bytes,
            rx_drops: counters.rx_drops,
            rx_discards: counters.rx_discards,
            tx_packets: counters.tx_packets,
            tx_bytes: counters.tx_bytes,
            tx_drops: counters.tx_drops,
        }
    }
}

/// The nodes of a worker that were called.
fn nodes(worker: v1::WorkerRuntime) -> impl Iterator<Item = Node> {
    let index = worker.worker;
    let called = worker.nodes.into_iter().filter(|node| node.calls > 0);
    called.map(move |node| Node {
        worker: index,
        name: node.name,
        calls: node.calls,
        packets: node.packets,
        ticks: node.ticks,
        ticks_per_packet: (node.packets > 0).then(|| node.ticks as f64 / node.packets as f64),
    })
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn best(runs: &[f64]) -> Option<f64> {
    runs.iter().copied().reduce(f64::max)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use afpacket_sim::traffic::{HopAnswer, TooBig};

    /// As after a demo in which all went well.
    pub(in super::super) fn good() -> Report {
        let (gw, b) = (IpAddr::from([198, 18, 1, 1]), IpAddr::from([198, 18, 2, 2]));
        let mut ping = Ping::new("ipv4", "a", b);
        let rtt = |median_ns| RttSummary {
            min_ns: 40_000,
            median_ns,
            p99_ns: 90_000,
            max_ns: 100_000,
        };
        let answered = |median_ns| PingReport {
            sent: 1000,
            received: 1000,
            rtt: Some(rtt(median_ns)),
            ..PingReport::default()
        };
        ping.record_kernel(&answered(80_000));
        ping.record_kernel(&answered(73_000));
        ping.record(answered(50_000));
        let mut tcp = Tcp::new("offloads-on", "a", b);
        let transfer = |gbit_per_s, integrity| TcpReport {
            bytes: 1,
            seconds: 1.0,
            gbit_per_s,
            total_sent: 64,
            total_received: 64,
            retransmits: 2,
            integrity,
        };
        tcp.record_kernel(&transfer(16.0, Integrity::Unchecked));
        tcp.record(&transfer(12.0, Integrity::Unchecked));
        tcp.record(&transfer(11.0, Integrity::Unchecked));
        tcp.record_verified(&transfer(3.0, Integrity::Intact), 64);
        let vlan = Ping {
            kernel_rtt_median_ms: None,
            name: "vlan",
            ..good_ping(&answered(60_000), b)
        };
        let answer = |address, last| {
            Some(HopAnswer {
                address,
                rtt_ns: 60_000,
                last,
                reached: last,
            })
        };
        let hops = [
            Hop {
                distance: 1,
                answer: answer(gw, false),
            },
            Hop {
                distance: 2,
                answer: answer(b, true),
            },
        ];
        let found = PathMtuReport {
            path_mtu: Some(1400),
            too_big: vec![TooBig {
                router: gw,
                mtu: 1400,
                refused: 1500,
            }],
            kernel_mtu: Some(1400),
        };
        let mut report = Report {
            machine: "Linux 6.18, 2 processors".into(),
            privilege: "own",
            pings: vec![ping, vlan],
            tcp: vec![tcp],
            udp: Some(Udp {
                sent: 10,
                received: 10,
                ..Udp::default()
            }),
            traceroute: vec![Traceroute::new("ipv4", &hops, vec![gw, b])],
            path_mtu: vec![PathMtu::new("ipv4", &found, 1400, gw)],
            trace: vec![Step {
                node: "ip4-lookup".into(),
                text: "adjacency 3".into(),
            }],
            stopped: true,
            ..Report::default()
        };
        report.count(
            v1::InterfacesResponse {
                interfaces: vec![v1::InterfaceState {
                    name: "p0".into(),
                    mtu: 1500,
                    counters: Some(v1::InterfaceCounters {
                        rx_packets: 7,
                        ..Default::default()
                    }),
                    ..Default::default()
                }],
            },
            v1::RuntimeResponse {
                ticks_per_second: 2_000_000_000,
                workers: vec![v1::WorkerRuntime {
                    nodes: vec![
                        v1::NodeRuntime {
                            name: "ip4-lookup".into(),
                            calls: 4,
                            packets: 8,
                            ticks: 100,
                        },
                        v1::NodeRuntime {
                            name: "never".into(),
                            ..Default::default()
                        },
                    ],
                    ..Default::default()
                }],
            },
            v1::DropsResponse {
                drops: vec![v1::DropCounter {
                    node: "ip4-lookup".into(),
                    reason: "no-route".into(),
                    text: "no route to the destination".into(),
                    packets: 3,
                }],
            },
        );
        report
    }

    fn good_ping(answered: &PingReport, to: IpAddr) -> Ping {
        let mut ping = Ping::new("ipv4", "a", to);
        ping.record(answered.clone());
        ping
    }

    #[test]
    fn the_document_has_the_fields_that_others_rely_on() {
        let mut report = good();
        report.judge();
        let json = serde_json::to_value(&report).expect("serializes");
        assert_eq!(json["ok"], true, "{:?}", report.problems);
        let ping = &json["pings"][0];
        assert_eq!(ping["name"], "ipv4");
        assert_eq!(
            (&ping["sent"], &ping["received"]),
            (&1000.into(), &1000.into())
        );
        assert_eq!(ping["rtt_median_ms"], 0.05);
        assert_eq!(ping["kernel_rtt_median_ms"], 0.073, "the better run");
        assert_eq!(
            json["pings"][1]["kernel_rtt_median_ms"],
            serde_json::Value::Null
        );
        let tcp = &json["tcp"][0];
        assert_eq!(tcp["name"], "offloads-on");
        assert_eq!(
            (&tcp["gbit_per_s"], &tcp["kernel_gbit_per_s"]),
            (&12.0.into(), &16.0.into())
        );
        let drop = &json["drops"][0];
        assert_eq!(
            (&drop["node"], &drop["reason"]),
            (&"ip4-lookup".into(), &"no-route".into())
        );
        assert_eq!(drop["packets"], 3);
        let step = &json["trace"][0];
        assert_eq!(
            (&step["node"], &step["text"]),
            (&"ip4-lookup".into(), &"adjacency 3".into())
        );
        assert_eq!(
            json["runtime"].as_array().map(Vec::len),
            Some(1),
            "only nodes that worked"
        );
        assert_eq!(json["runtime"][0]["ticks_per_packet"], 12.5);
    }

    #[test]
    fn each_failure_is_named() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, Spoil); 11] = [
            ("ping ipv4 from a to 198.18.2.2: 1 of 1000 lost", |r| {
                r.pings[0].received = 999
            }),
            ("2 answers damaged", |r| r.pings[1].corrupted = 2),
            ("ping ipv4 from a to 198.18.2.2: 0 of 0 lost", |r| {
                (r.pings[0].sent, r.pings[0].received) = (0, 0);
            }),
            ("TCP offloads-on", |r| r.tcp[0].intact = Some(false)),
            ("a run moved nothing", |r| r.tcp[0].runs_gbit_per_s[1] = 0.0),
            ("UDP: 1 of 10", |r| {
                r.udp = Some(Udp {
                    sent: 10,
                    lost: 1,
                    ..Udp::default()
                })
            }),
            (
                "expected 198.18.1.1, 198.18.2.2 to answer, but it was nobody, 198.18.2.2",
                |r| {
                    r.traceroute[0].hops[0].address = None;
                },
            ),
            (
                "expected 1400 bytes said by 198.18.1.1, but found nothing",
                |r| {
                    r.path_mtu[0].path_mtu = None;
                },
            ),
            ("no step", |r| r.trace.clear()),
            ("contained 1 panics", |r| r.panics = 1),
            ("not stopped", |r| r.stopped = false),
        ];
        for (expected, spoil) in cases {
            let mut report = good();
            spoil(&mut report);
            report.judge();
            assert!(!report.ok);
            assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
            assert!(
                report.problems[0].contains(expected),
                "{:?}",
                report.problems
            );
        }
    }

    #[test]
    fn an_early_end_is_one_problem() {
        let mut report = Report {
            problems: vec!["no privilege".into()],
            ..Report::default()
        };
        report.judge();
        assert!(!report.ok);
        assert_eq!(report.problems, ["no privilege"]);
    }

    #[test]
    fn a_slow_gateway_is_no_problem() {
        let mut report = good();
        report.pings[0].rtt_median_ms = Some(900.0);
        report.tcp[0].runs_gbit_per_s = vec![0.001];
        report.judge();
        assert!(report.ok, "{:?}", report.problems);
    }
}
