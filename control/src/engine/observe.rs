//! Trace and capture: what workers tell about single packets, put together for those who asked.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use control_api::v1;
use dataplane::{
    CaptureFilter, CaptureHeader, Clock, Decision, Direction, Engine, NodeInfo, PORT_TX, PortId,
    TRACE_RX, TraceRecord, UNDECIDED, WorkerId,
};
use graph_nodes::Snapshot;
use tokio::sync::mpsc;

use crate::compile::{Numbering, Sections};
use crate::dataplane::TelemetryError;

/// Traces and captures at a time, each.
const MOST: usize = 8;

/// Results that wait for a slow reader before further ones are lost to it.
const QUEUE: usize = 1024;

/// A packet of which nothing was heard for so long has ended its way: a node holds it, or took it apart.
const QUIET_NS: u64 = 500_000_000;

/// Packets that a trace for a sub-interface may have to look at for each one it wants.
const SIEVE: u32 = 1000;

/// What is needed to name things.
pub(super) struct View<'a> {
    pub(super) numbering: &'a Numbering,
    pub(super) sections: &'a Sections,
}

/// Who asked.
#[derive(Default)]
pub(super) struct Observers {
    traces: Vec<Tracer>,
    captures: Vec<Capturer>,
    /// Steps of packets that are still on their way, by number.
    open: BTreeMap<u32, (WorkerId, Vec<TraceRecord>)>,
    next_number: u32,
}

struct Tracer {
    interface: Option<u16>,
    left: Option<u32>,
    number: u64,
    to: mpsc::Sender<v1::PacketTrace>,
}

struct Capturer {
    interface: Option<u16>,
    direction: Option<Direction>,
    snap_length: usize,
    left: Option<u32>,
    to: mpsc::Sender<v1::CapturedPacket>,
}

impl Observers {
    pub(super) fn is_active(&self) -> bool {
        !(self.traces.is_empty() && self.captures.is_empty())
    }

    pub(super) fn trace(
        &mut self,
        engine: &mut Engine<Snapshot>,
        view: &View<'_>,
        request: &v1::TraceRequest,
    ) -> Result<mpsc::Receiver<v1::PacketTrace>, TelemetryError> {
        if self.traces.len() >= MOST {
            return Err(TelemetryError::Busy(format!(
                "{MOST} traces run already: end one first"
            )));
        }
        let interface = find(view, request.interface.as_deref())?;
        let (to, receiver) = mpsc::channel(QUEUE);
        let left = (request.count > 0).then_some(request.count);
        self.traces.push(Tracer {
            interface,
            left,
            number: 0,
            to,
        });
        self.arm_trace(engine, view)?;
        Ok(receiver)
    }

    pub(super) fn capture(
        &mut self,
        engine: &mut Engine<Snapshot>,
        view: &View<'_>,
        request: &v1::CaptureRequest,
    ) -> Result<mpsc::Receiver<v1::CapturedPacket>, TelemetryError> {
        if self.captures.len() >= MOST {
            return Err(TelemetryError::Busy(format!(
                "{MOST} captures run already: end one first"
            )));
        }
        let interface = find(view, request.interface.as_deref())?;
        let direction = match request.direction.as_deref() {
            None => None,
            Some("rx") => Some(Direction::Rx),
            Some("tx") => Some(Direction::Tx),
            Some(other) => {
                return Err(TelemetryError::Invalid(format!(
                    "{other:?} is no direction; there are rx and tx"
                )));
            }
        };
        let snap_length = if request.snap_length == 0 {
            u32::MAX
        } else {
            request.snap_length
        } as usize;
        let (to, receiver) = mpsc::channel(QUEUE);
        let left = (request.count > 0).then_some(request.count);
        self.captures.push(Capturer {
            interface,
            direction,
            snap_length,
            left,
            to,
        });
        self.arm_capture(engine, view)?;
        Ok(receiver)
    }

    /// Has the workers trace for all who asked: the engine traces from one port, or from all.
    fn arm_trace(
        &mut self,
        engine: &mut Engine<Snapshot>,
        view: &View<'_>,
    ) -> Result<(), TelemetryError> {
        if self.traces.is_empty() {
            return engine.trace_end().map_err(busy);
        }
        let count = self
            .traces
            .iter()
            .map(|trace| match (trace.left, trace.interface) {
                (None, _) => u32::MAX,
                (Some(left), Some(interface)) if interface >= graph_nodes::FIRST_SUB_INTERFACE => {
                    left.saturating_mul(SIEVE)
                }
                (Some(left), _) => left,
            });
        let count = count.max().unwrap_or(0);
        let ports = self
            .traces
            .iter()
            .map(|trace| port_of(view, trace.interface));
        engine
            .trace(count, common(ports), self.next_number)
            .map_err(busy)
    }

    fn arm_capture(
        &mut self,
        engine: &mut Engine<Snapshot>,
        view: &View<'_>,
    ) -> Result<(), TelemetryError> {
        let snap_length = self
            .captures
            .iter()
            .map(|capture| capture.snap_length)
            .max();
        let filter = snap_length.map(|snap_length| CaptureFilter {
            port: common(
                self.captures
                    .iter()
                    .map(|capture| port_of(view, capture.interface)),
            ),
            snap_length: u32::try_from(snap_length).unwrap_or(u32::MAX),
        });
        engine.capture(filter).map_err(busy)
    }

    /// Fetches what the workers have told and passes it on.
    pub(super) fn collect(
        &mut self,
        engine: &mut Engine<Snapshot>,
        view: &View<'_>,
        clock: &Clock,
    ) {
        if !self.is_active() && self.open.is_empty() {
            return;
        }
        let now = clock.now_ns();
        let (traces, captures) = (self.traces.len(), self.captures.len());
        self.collect_captures(engine, view, now);
        self.collect_traces(engine, view, now);
        // Failures mean a worker's command ring is full: the next call tries again.
        if self.traces.len() != traces {
            let _ = self.arm_trace(engine, view);
        }
        if self.captures.len() != captures {
            let _ = self.arm_capture(engine, view);
        }
    }

    fn collect_captures(&mut self, engine: &mut Engine<Snapshot>, view: &View<'_>, now: u64) {
        let captures = &mut self.captures;
        engine.captured(|_, header, bytes| {
            for capture in captures.iter_mut() {
                capture.offer(header, bytes, view, now);
            }
        });
        self.captures
            .retain(|capture| capture.left != Some(0) && !capture.to.is_closed());
    }

    fn collect_traces(&mut self, engine: &mut Engine<Snapshot>, view: &View<'_>, now: u64) {
        let open = &mut self.open;
        let mut last = self.next_number;
        engine.traces(|worker, record| {
            last = last.max(record.number & 0x00ff_ffff);
            // The upper bits name the worker that received the packet; another one may have taken it over from there.
            let first = WorkerId((record.number >> 24) as u16);
            let (_, records) = open
                .entry(record.number)
                .or_insert_with(|| (first, Vec::new()));
            let at = if worker == first {
                let mine = |other: &TraceRecord| other.time_ns <= record.time_ns;
                records.iter().rposition(mine).map_or(0, |at| at + 1)
            } else {
                records.len()
            };
            records.insert(at, *record);
        });
        self.next_number = (last + 1) & 0x00ff_ffff;
        let nodes = engine.nodes();
        let ended = |records: &[TraceRecord]| {
            records.last().is_none_or(|last| {
                is_last(last, nodes) || now.saturating_sub(last.time_ns) > QUIET_NS
            })
        };
        let numbers: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, (_, records))| ended(records))
            .map(|(n, _)| *n)
            .collect();
        for number in numbers {
            let Some((worker, records)) = self.open.remove(&number) else {
                continue;
            };
            for trace in &mut self.traces {
                trace.offer(worker, &records, nodes, view, now);
            }
        }
        self.traces
            .retain(|trace| trace.left != Some(0) && !trace.to.is_closed());
    }
}

impl Tracer {
    fn offer(
        &mut self,
        worker: WorkerId,
        records: &[TraceRecord],
        nodes: &[NodeInfo],
        view: &View<'_>,
        now: u64,
    ) {
        let Some(first) = records.first() else { return };
        let interface = interface_of(
            view,
            first.interface,
            &first.bytes[..usize::from(first.captured)],
        );
        if self.left == Some(0) || self.interface.is_some_and(|only| Some(only) != interface) {
            return;
        }
        self.number += 1;
        let trace = v1::PacketTrace {
            number: self.number,
            worker: u32::from(worker.0),
            timestamp_ns: wall_clock(now, first.time_ns),
            interface: name_of(view, interface.unwrap_or(first.interface)),
            length: first.length,
            steps: records
                .iter()
                .map(|record| step(record, nodes, view))
                .collect(),
        };
        // A reader that is too slow loses packets, never delays them.
        if self.to.try_send(trace).is_ok() {
            self.left = self.left.map(|left| left - 1);
        }
    }
}

impl Capturer {
    fn offer(&mut self, header: CaptureHeader, bytes: &[u8], view: &View<'_>, now: u64) {
        let interface = interface_of(view, header.port.0, bytes);
        let wanted = self
            .interface
            .is_none_or(|only| Some(only) == interface || header.port.0 == only)
            && self.direction.is_none_or(|only| only == header.direction);
        if self.left == Some(0) || !wanted {
            return;
        }
        let packet = v1::CapturedPacket {
            timestamp_ns: wall_clock(now, header.time_ns),
            interface: name_of(view, interface.unwrap_or(header.port.0)),
            direction: if header.direction == Direction::Rx {
                "rx"
            } else {
                "tx"
            }
            .into(),
            data: bytes[..bytes.len().min(self.snap_length)].to_vec(),
            original_length: header.length,
        };
        if self.to.try_send(packet).is_ok() {
            self.left = self.left.map(|left| left - 1);
        }
    }
}

/// True where the packet goes nowhere from here.
fn is_last(record: &TraceRecord, nodes: &[NodeInfo]) -> bool {
    if record.node == TRACE_RX {
        return false;
    }
    let tx = nodes
        .get(usize::from(record.node))
        .is_some_and(|node| node.name == PORT_TX);
    tx || matches!(record.verdict.decode(), Decision::Drop(_))
}

fn step(record: &TraceRecord, nodes: &[NodeInfo], view: &View<'_>) -> v1::TraceStep {
    let bytes = &record.bytes[..usize::from(record.captured)];
    let Some(node) = nodes.get(usize::from(record.node)) else {
        let text = format!(
            "{} bytes: {}",
            record.length,
            wire::describe::describe(bytes)
        );
        return v1::TraceStep {
            node: "rx".into(),
            text,
        };
    };
    let text = match record.verdict.decode() {
        _ if node.name == PORT_TX => {
            let port = u16::try_from(record.word).unwrap_or(u16::MAX);
            format!(
                "sent to {}: {}",
                name_of(view, port),
                wire::describe::describe(bytes)
            )
        }
        Decision::Taken => "kept, replaced or handed to another worker by the node".into(),
        Decision::Drop(reason) => {
            let (name, text) = node
                .drops
                .get(usize::from(reason))
                .copied()
                .unwrap_or(UNDECIDED);
            format!("dropped: {name}: {text}")
        }
        Decision::Next(edge) => {
            let next = node.nexts.get(usize::from(edge)).copied().unwrap_or("?");
            format!("to {next}: {}", describe_for(next, bytes))
        }
    };
    v1::TraceStep {
        node: node.name.into(),
        text,
    }
}

/// A packet as the next node gets it.
fn describe_for(next: &str, bytes: &[u8]) -> String {
    match next {
        PORT_TX | "interface-output" | "gso-segment" | "ethernet-input" => {
            wire::describe::describe(bytes)
        }
        "arp-input" => match wire::ArpPacket::parse(bytes) {
            Ok((arp, _)) => format!(
                "ARP {} asks or tells about {}",
                arp.sender_ip(),
                arp.target_ip()
            ),
            Err(error) => format!("ARP: {error}"),
        },
        _ => wire::describe::describe_l3(bytes),
    }
}

fn find(view: &View<'_>, name: Option<&str>) -> Result<Option<u16>, TelemetryError> {
    let Some(name) = name else { return Ok(None) };
    let number = view
        .numbering
        .interfaces
        .iter()
        .find(|(interface, _)| interface.as_str() == name);
    let missing = || {
        TelemetryError::NotFound(format!(
            "there is no interface {name}: 'oncilla show interfaces' lists them"
        ))
    };
    number.map(|(_, number)| Some(*number)).ok_or_else(missing)
}

/// The one port that all want, if they agree.
fn common(mut ports: impl Iterator<Item = Option<PortId>>) -> Option<PortId> {
    let first = ports.next()??;
    ports.all(|port| port == Some(first)).then_some(first)
}

fn port_of(view: &View<'_>, interface: Option<u16>) -> Option<PortId> {
    view.sections
        .interfaces
        .get(&interface?)
        .map(|record| record.port)
}

/// The interface that a frame at a port belongs to, by its tags.
fn interface_of(view: &View<'_>, port: u16, frame: &[u8]) -> Option<u16> {
    let tagged = wire::vlan::parse_vlans(frame).ok()?;
    let section = view.sections.ports.get(usize::from(port))?;
    match (tagged.outer, tagged.inner) {
        (None, _) => view.sections.interfaces.contains_key(&port).then_some(port),
        (Some(tag), None) if tag.vid() == 0 => Some(port),
        (Some(tag), None) => section.vlans.get(&tag.vid()).copied(),
        (Some(outer), Some(inner)) => section
            .stacked_vlans
            .get(&(outer.vid(), inner.vid()))
            .copied(),
    }
}

fn name_of(view: &View<'_>, interface: u16) -> String {
    view.numbering
        .interface_name(interface)
        .map_or_else(|| format!("#{interface}"), |name| name.as_str().into())
}

/// Nanoseconds since 1970 of a moment that the worker's clock calls `then`.
pub(super) fn wall_clock(now: u64, then: u64) -> u64 {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos() as u64);
    wall.saturating_sub(now.saturating_sub(then))
}

fn busy(error: dataplane::EngineError) -> TelemetryError {
    TelemetryError::Busy(error.to_string())
}
