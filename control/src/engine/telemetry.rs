//! What the engine tells: counters, tables, traces.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use control_api::v1;
use dataplane::{Engine, InterfaceCounter, PortId, UNDECIDED, WorkerStats};
use graph_nodes::Snapshot;
use graph_nodes::fib::{NeighbourKey, RouteTarget, scoped};
use model::{InterfaceKind, InterfaceName};
use tokio::sync::mpsc;

use super::flows::{FlowObservers, Names};
use super::{Gateway, State, observe};
use crate::dataplane::{Telemetry, TelemetryError};

/// How long workers have for taking up that somebody listens.
const ARMED: Duration = Duration::from_millis(200);

impl Telemetry for Gateway {
    fn workers(&self) -> u32 {
        self.lock().workers as u32
    }

    fn ticks_per_second(&self) -> u64 {
        dataplane::ticks_per_second()
    }

    fn interfaces(&self) -> Vec<v1::InterfaceState> {
        let state = self.lock();
        state
            .desired
            .interfaces
            .iter()
            .map(|(name, spec)| state.interface(name, spec))
            .collect()
    }

    fn routes(&self, vrf: Option<&str>) -> Vec<v1::RouteEntry> {
        let state = self.lock();
        let macs: BTreeMap<NeighbourKey, wire::MacAddr> = state
            .forwarding
            .neighbours()
            .filter_map(|(key, mac)| Some((key, mac?)))
            .collect();
        let wanted = state
            .numbering
            .vrfs
            .iter()
            .filter(|(name, _)| vrf.is_none_or(|only| only == name.as_str()));
        wanted
            .flat_map(|(name, number)| {
                let (state, macs) = (&state, &macs);
                state
                    .forwarding
                    .routes(*number)
                    .map(move |(address, len, target, configured)| {
                        let known = state
                            .sections
                            .routes
                            .get(&(*number, address, len))
                            .filter(|_| configured);
                        let origin = known
                            .map_or_else(|| "neighbour".to_owned(), |route| route.origin.clone());
                        state.route(name.as_str(), address, len, target, origin, macs)
                    })
            })
            .collect()
    }

    fn neighbours(&self) -> Vec<v1::NeighbourEntry> {
        let state = self.lock();
        let now = state.clock.now_ns();
        let mut list: Vec<v1::NeighbourEntry> = state
            .neighbours
            .entries()
            .map(|entry| v1::NeighbourEntry {
                address: entry.key.address.to_string(),
                mac_address: entry.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                interface: state.name_of(entry.key.interface),
                state: entry.state.as_str().into(),
                age_ms: entry
                    .confirmed_ns
                    .map_or(0, |at| now.saturating_sub(at) / 1_000_000),
            })
            .collect();
        list.sort_by(|a, b| {
            let address = |entry: &v1::NeighbourEntry| entry.address.parse::<IpAddr>().ok();
            a.interface
                .cmp(&b.interface)
                .then_with(|| address(a).cmp(&address(b)))
        });
        list
    }

    fn runtime(&self) -> Vec<v1::WorkerRuntime> {
        let state = self.lock();
        let Some(engine) = &state.engine else {
            return Vec::new();
        };
        let infos = engine.nodes();
        engine
            .all_stats()
            .enumerate()
            .map(|(worker, stats)| v1::WorkerRuntime {
                worker: worker as u32,
                core: state.cores.get(worker).map(|core| *core as u32),
                loops: stats.loops.value(),
                empty_loops: stats.loops.value().saturating_sub(stats.busy_loops.value()),
                sleeps: stats.sleeps.value(),
                busy_ticks: stats.busy_ticks.value(),
                idle_ticks: stats.idle_ticks.value(),
                generation: state.generation,
                panics: stats.port_panics.value()
                    + stats
                        .nodes
                        .iter()
                        .map(|node| node.panics.value())
                        .sum::<u64>(),
                nodes: infos
                    .iter()
                    .zip(&stats.nodes)
                    .map(|(info, node)| v1::NodeRuntime {
                        name: info.name.into(),
                        calls: node.calls.value(),
                        packets: node.vectors.value(),
                        ticks: node.ticks.value(),
                    })
                    .collect(),
                handoff: handoff(stats),
            })
            .collect()
    }

    fn drops(&self) -> Vec<v1::DropCounter> {
        let state = self.lock();
        let Some(engine) = &state.engine else {
            return Vec::new();
        };
        let mut list = Vec::new();
        for (index, info) in engine.nodes().iter().enumerate() {
            let reasons = info.drops.iter().copied().chain([UNDECIDED]);
            for (at, (reason, text)) in reasons.enumerate() {
                let packets = engine
                    .all_stats()
                    .filter_map(|stats| stats.nodes.get(index)?.drops.get(at));
                let packets: u64 = packets.map(dataplane::Counter::value).sum();
                list.push(v1::DropCounter {
                    node: info.name.into(),
                    reason: reason.into(),
                    text: text.into(),
                    packets,
                });
            }
        }
        let mut engine_counter = |reason: &str, text: &str, value: fn(&WorkerStats) -> u64| {
            let packets = engine.all_stats().map(value).sum();
            list.push(v1::DropCounter {
                node: "engine".into(),
                reason: reason.into(),
                text: text.into(),
                packets,
            });
        };
        engine_counter(
            "no-frame",
            "The engine ran out of frames or buffers for packets made here",
            |stats| stats.lost.value(),
        );
        engine_counter(
            "punt-full",
            "The slow path did not keep up with punted packets",
            |stats| stats.punts_lost.value(),
        );
        list.retain(|drop| drop.packets > 0);
        list.sort_by(|a, b| {
            b.packets
                .cmp(&a.packets)
                .then_with(|| (&a.node, &a.reason).cmp(&(&b.node, &b.reason)))
        });
        list
    }

    fn rule_counters(&self) -> Vec<v1::RuleCounter> {
        self.lock().policy.counts()
    }

    fn nat_pools(&self) -> Vec<v1::NatPoolState> {
        self.lock().nat.pools()
    }

    fn flows(
        &self,
        request: &v1::FlowsRequest,
    ) -> Result<mpsc::Receiver<v1::FlowsResponse>, TelemetryError> {
        let receiver = self.lock().flows(|flows, _, names, now| {
            flows.dump(names, request, now) // it begins when the slow path's thread comes by
        })?;
        self.inner.slow_path.wake.signal();
        Ok(receiver)
    }

    fn flow_log(
        &self,
        request: &v1::FlowLogRequest,
    ) -> Result<mpsc::Receiver<v1::FlowLogRecord>, TelemetryError> {
        let receiver = self
            .lock()
            .flows(|flows, engine, names, _| flows.listen(engine, names, request))?;
        self.inner.slow_path.wake.signal();
        // Who has the answer hears of all that happens from then on, unless a worker is stuck.
        let start = Instant::now();
        while !self.lock().flows.is_armed() && start.elapsed() < ARMED {
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(receiver)
    }

    fn trace(
        &self,
        request: &v1::TraceRequest,
    ) -> Result<mpsc::Receiver<v1::PacketTrace>, TelemetryError> {
        let receiver = self
            .lock()
            .observe(|observers, engine, view| observers.trace(engine, view, request))?;
        self.inner.slow_path.wake.signal();
        Ok(receiver)
    }

    fn capture(
        &self,
        request: &v1::CaptureRequest,
    ) -> Result<mpsc::Receiver<v1::CapturedPacket>, TelemetryError> {
        let receiver = self
            .lock()
            .observe(|observers, engine, view| observers.capture(engine, view, request))?;
        self.inner.slow_path.wake.signal();
        Ok(receiver)
    }
}

impl State {
    fn observe<T>(
        &mut self,
        ask: impl FnOnce(
            &mut observe::Observers,
            &mut Engine<Snapshot>,
            &observe::View<'_>,
        ) -> Result<T, TelemetryError>,
    ) -> Result<T, TelemetryError> {
        let Some(engine) = &mut self.engine else {
            return Err(TelemetryError::Busy("the engine is stopped".into()));
        };
        let view = observe::View {
            numbering: &self.numbering,
            sections: &self.sections,
        };
        ask(&mut self.observers, engine, &view)
    }

    fn flows<T>(
        &mut self,
        ask: impl FnOnce(
            &mut FlowObservers,
            &Engine<Snapshot>,
            &Names<'_>,
            u64,
        ) -> Result<T, TelemetryError>,
    ) -> Result<T, TelemetryError> {
        let Some(engine) = &self.engine else {
            return Err(TelemetryError::Busy("the engine is stopped".into()));
        };
        let names = Names {
            numbering: &self.numbering,
            desired: &self.desired,
            generation: self.generation,
            policy: &self.policy,
        };
        ask(&mut self.flows, engine, &names, self.clock.now_ns())
    }

    fn name_of(&self, interface: u16) -> String {
        self.numbering
            .interface_name(interface)
            .map_or_else(|| format!("#{interface}"), |name| name.as_str().into())
    }

    fn interface(&self, name: &InterfaceName, spec: &model::Interface) -> v1::InterfaceState {
        let record = self
            .numbering
            .interface(name)
            .and_then(|number| self.sections.interfaces.get(&number));
        let device = self
            .desired
            .device_of(name)
            .map(|device| device.as_str().to_owned());
        let mut state = v1::InterfaceState {
            name: name.as_str().into(),
            admin_up: spec.admin_up,
            vrf: spec.vrf.as_str().into(),
            ..v1::InterfaceState::default()
        };
        match &spec.kind {
            InterfaceKind::AfPacket(_) => {
                state.r#type = "afPacket".into();
                state.device = device.clone().unwrap_or_default();
            }
            InterfaceKind::Vlan(vlan) => {
                state.r#type = "vlan".into();
                state.device = vlan.parent.as_str().into();
                state.vlan_ids = vlan
                    .outer
                    .iter()
                    .map(|(_, id)| *id)
                    .chain([vlan.id])
                    .map(|id| u32::from(id.value()))
                    .collect();
            }
        }
        state.link_up = device.is_some_and(|device| self.link_up(&device));
        let of_interface = self
            .desired
            .addresses
            .values()
            .filter(|address| address.interface == *name);
        state.addresses = of_interface
            .map(|address| address.address.to_string())
            .collect();
        let Some(record) = record else {
            state.fault = "not live: the log and 'oncilla show version' say why".into();
            return state;
        };
        state.mac_address = record.mac.to_string();
        state.mtu = u32::from(record.mtu);
        if let Some(link_local) = record.link_local {
            state.addresses.push(format!("{link_local}/64"));
        }
        state.counters = Some(self.interface_counters(name, record.port));
        let quarantined = self
            .engine
            .iter()
            .flat_map(|engine| engine.all_stats())
            .any(|stats| stats.port(record.port).quarantined);
        if quarantined {
            state.fault = "quarantined: packets from here made nodes panic again and again; delete and apply the interface to try again".into();
        }
        state
    }

    fn interface_counters(&self, name: &InterfaceName, port: PortId) -> v1::InterfaceCounters {
        let number = self.numbering.interface(name).unwrap_or(u16::MAX);
        let mut counters = v1::InterfaceCounters::default();
        for stats in self.engine.iter().flat_map(|engine| engine.all_stats()) {
            let Some(interface) = stats.interface(number) else {
                continue;
            };
            let (packets, bytes) = interface.value(InterfaceCounter::Rx);
            counters.rx_packets += packets;
            counters.rx_bytes += bytes;
            let (packets, bytes) = interface.value(InterfaceCounter::Tx);
            counters.tx_packets += packets;
            counters.tx_bytes += bytes;
            counters.rx_discards += interface.value(InterfaceCounter::Drop).0;
            if number == port.0 {
                let queue = stats.port(port).queue;
                counters.rx_drops += queue.rx_missed + queue.rx_dropped;
                counters.tx_drops += queue.tx_failed;
            }
        }
        counters
    }

    /// As the kernel says, asked in the namespace that the device was opened in.
    fn link_up(&self, device: &str) -> bool {
        self.devices.values().any(|open| open.name == device)
            && ports::link_up(device).unwrap_or(false)
    }

    fn route(
        &self,
        vrf: &str,
        address: IpAddr,
        len: u8,
        target: &RouteTarget,
        origin: String,
        macs: &BTreeMap<NeighbourKey, wire::MacAddr>,
    ) -> v1::RouteEntry {
        let mut entry = v1::RouteEntry {
            vrf: vrf.into(),
            destination: format!("{}/{len}", unscoped(address)),
            origin,
            ..v1::RouteEntry::default()
        };
        entry.r#type = match target {
            RouteTarget::Forward(hops) => {
                entry.next_hops = hops
                    .iter()
                    .map(|hop| {
                        let mac = macs.get(&hop.neighbour);
                        let up = self
                            .sections
                            .interfaces
                            .get(&hop.neighbour.interface)
                            .is_some_and(|record| record.up);
                        let state = match mac {
                            _ if !up => "down",
                            Some(_) => "resolved",
                            None => "incomplete",
                        };
                        v1::NextHopEntry {
                            via: hop.neighbour.address.to_string(),
                            interface: self.name_of(hop.neighbour.interface),
                            weight: u32::from(hop.weight),
                            state: state.into(),
                            mac_address: mac.map(ToString::to_string).unwrap_or_default(),
                        }
                    })
                    .collect();
                "unicast"
            }
            RouteTarget::Connected(interface) => {
                let hop = v1::NextHopEntry {
                    interface: self.name_of(*interface),
                    weight: 1,
                    ..v1::NextHopEntry::default()
                };
                entry.next_hops.push(hop);
                "connected"
            }
            RouteTarget::Local => "local",
            RouteTarget::Blackhole => "blackhole",
            RouteTarget::Unreachable => "unreachable",
            RouteTarget::Prohibit => "prohibit",
        }
        .into();
        entry
    }
}

/// A link-local address as people know it: without the interface that stands in it in the tables.
fn unscoped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => std::net::Ipv6Addr::from_bits(scoped(address.to_bits(), 0)).into(),
        address => address,
    }
}

/// What a worker and others have handed over, without those that have nothing to do with each other.
fn handoff(stats: &WorkerStats) -> Vec<v1::HandoffRuntime> {
    let pairs = stats.handoff.iter().enumerate();
    pairs
        .map(|(worker, pair)| v1::HandoffRuntime {
            worker: worker as u32,
            sent: pair.sent.value(),
            received: pair.received.value(),
            congested: pair.congested.value(),
        })
        .filter(|pair| pair.sent + pair.received + pair.congested > 0)
        .collect()
}
