//! A dataplane that records what it is told, and what a test needs around it.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use control::client::Client;
use control::daemon::{self, DaemonError, Options, StoreLocation};
use control::dataplane::{Cause, Dataplane, NotLive, PrepareError, Telemetry, TelemetryError};
use control_api::v1::{self, AddressSpec, AfPacketSpec, InterfaceSpec, Object, object::Spec};
use model::{Changes, DesiredState, InterfaceKind, Kind, ObjectKey, SpecError};
use tokio::sync::{mpsc, oneshot};

/// What a [`RecordingDataplane`] was told, and what it should refuse.
#[derive(Debug, Default)]
pub struct Record {
    pub live: Arc<DesiredState>,
    pub prepared: Option<(Arc<DesiredState>, u64)>,
    pub published: Vec<u64>,
    pub abandoned: usize,
    /// Devices that the machine does not have.
    pub missing_devices: BTreeSet<String>,
    /// What has ceased to work by itself.
    pub lost: BTreeSet<ObjectKey>,
    /// Routes that fit.
    pub route_limit: Option<usize>,
}

/// Takes what it can and remembers it.
#[derive(Clone, Debug, Default)]
pub struct RecordingDataplane(pub Arc<Mutex<Record>>);

impl RecordingDataplane {
    pub fn live(&self) -> Arc<DesiredState> {
        Arc::clone(&self.0.lock().unwrap().live)
    }
}

impl Dataplane for RecordingDataplane {
    fn prepare(
        &mut self,
        next: &Arc<DesiredState>,
        changes: &Changes,
        generation: u64,
    ) -> Result<(), PrepareError> {
        let mut record = self.0.lock().unwrap();
        assert!(record.prepared.is_none(), "prepared twice");
        assert_eq!(
            *changes,
            next.changes_since(&record.live),
            "changes lead from live to next"
        );
        assert_eq!(next.validate(), Ok(()), "only valid states are prepared");
        for (name, interface) in &next.interfaces {
            if let InterfaceKind::AfPacket(port) = &interface.kind
                && record.missing_devices.contains(port.device.as_str())
            {
                let key = ObjectKey::new(Kind::Interface, name.as_str());
                let message = format!("device {} does not exist", port.device);
                let error = SpecError::new(key, "spec.afPacket.device", message);
                return Err(PrepareError {
                    cause: Cause::Environment,
                    error,
                });
            }
        }
        if let Some(limit) = record.route_limit
            && let Some(name) = next.routes.keys().nth(limit)
        {
            let key = ObjectKey::new(Kind::Route, name.as_str());
            let error = SpecError::new(key, "", format!("the limit is {limit} routes"));
            return Err(PrepareError {
                cause: Cause::Limit,
                error,
            });
        }
        record.prepared = Some((Arc::clone(next), generation));
        Ok(())
    }

    fn publish(&mut self) -> Result<(), NotLive> {
        let mut record = self.0.lock().unwrap();
        let (next, generation) = record.prepared.take().expect("publish follows prepare");
        record.live = next;
        record.published.push(generation);
        Ok(())
    }

    fn abandon(&mut self) {
        let mut record = self.0.lock().unwrap();
        assert!(record.prepared.take().is_some(), "abandon follows prepare");
        record.abandoned += 1;
    }

    fn lost(&mut self) -> BTreeSet<ObjectKey> {
        self.0.lock().unwrap().lost.clone()
    }
}

fn refuse_nowhere(filter: Option<&v1::FlowFilter>) -> Result<(), TelemetryError> {
    let interface = filter.and_then(|filter| filter.interface.as_deref());
    match interface {
        Some("nowhere") => Err(TelemetryError::NotFound(
            "there is no interface nowhere".into(),
        )),
        _ => Ok(()),
    }
}

/// Answers with fixed numbers.
#[derive(Debug, Default)]
pub struct FixedTelemetry;

impl Telemetry for FixedTelemetry {
    fn workers(&self) -> u32 {
        2
    }

    fn ticks_per_second(&self) -> u64 {
        3_000_000_000
    }

    fn interfaces(&self) -> Vec<v1::InterfaceState> {
        let counters = v1::InterfaceCounters {
            rx_packets: 7,
            ..Default::default()
        };
        vec![v1::InterfaceState {
            name: "lan".into(),
            counters: Some(counters),
            ..Default::default()
        }]
    }

    fn routes(&self, _vrf: Option<&str>) -> Vec<v1::RouteEntry> {
        let entry = |n: u32| v1::RouteEntry {
            destination: format!("10.{}.{}.0/24", n / 256, n % 256),
            ..Default::default()
        };
        (0..2500).map(entry).collect()
    }

    fn neighbours(&self) -> Vec<v1::NeighbourEntry> {
        vec![v1::NeighbourEntry {
            address: "10.0.0.2".into(),
            age_ms: 5,
            ..Default::default()
        }]
    }

    fn runtime(&self) -> Vec<v1::WorkerRuntime> {
        vec![v1::WorkerRuntime {
            worker: 1,
            loops: 9,
            ..Default::default()
        }]
    }

    fn drops(&self) -> Vec<v1::DropCounter> {
        vec![v1::DropCounter {
            node: "ip4-lookup".into(),
            packets: 3,
            ..Default::default()
        }]
    }

    fn nat_pools(&self) -> Vec<v1::NatPoolState> {
        Vec::new()
    }

    fn rule_counters(&self) -> Vec<v1::RuleCounter> {
        let counter = |allowed, denied| v1::RuleCounter {
            rule: Some(v1::RuleReason {
                tier: "default".into(),
                rule: Some(1),
                ..Default::default()
            }),
            allowed,
            denied,
        };
        vec![counter(5, 4), counter(6, 0)]
    }

    fn flows(
        &self,
        request: &v1::FlowsRequest,
    ) -> Result<mpsc::Receiver<v1::FlowsResponse>, TelemetryError> {
        refuse_nowhere(request.filter.as_ref())?;
        let (sender, receiver) = mpsc::channel(4);
        for complete in [false, true] {
            let flow = v1::Flow {
                source: "10.0.0.1".into(),
                destination: "10.0.0.2".into(),
                protocol: "tcp".into(),
                destination_port: 80,
                timeout_ms: 3_600_000,
                ..Default::default()
            };
            let flows = vec![flow; 2];
            let _ = sender.try_send(v1::FlowsResponse { flows, complete });
        }
        Ok(receiver)
    }

    fn flow_log(
        &self,
        request: &v1::FlowLogRequest,
    ) -> Result<mpsc::Receiver<v1::FlowLogRecord>, TelemetryError> {
        refuse_nowhere(request.filter.as_ref())?;
        let (sender, receiver) = mpsc::channel(4);
        let count = if request.count == 0 {
            u32::MAX
        } else {
            request.count
        };
        tokio::runtime::Handle::current().spawn(async move {
            for number in 0..count {
                let record = v1::FlowLogRecord {
                    event: "start".into(),
                    timestamp_ns: u64::from(number),
                    verdict: "allow".into(),
                    flow: Some(v1::Flow::default()),
                    ..Default::default()
                };
                if sender.send(record).await.is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }

    fn trace(
        &self,
        request: &v1::TraceRequest,
    ) -> Result<mpsc::Receiver<v1::PacketTrace>, TelemetryError> {
        if request.interface.as_deref() == Some("nowhere") {
            return Err(TelemetryError::NotFound(
                "Interface/nowhere does not exist".into(),
            ));
        }
        let (sender, receiver) = mpsc::channel(4);
        tokio::runtime::Handle::current().spawn(async move {
            for number in 1.. {
                let trace = v1::PacketTrace {
                    number,
                    ..Default::default()
                };
                if sender.send(trace).await.is_err() {
                    break;
                }
            }
        });
        Ok(receiver)
    }

    fn capture(
        &self,
        _: &v1::CaptureRequest,
    ) -> Result<mpsc::Receiver<v1::CapturedPacket>, TelemetryError> {
        let (sender, receiver) = mpsc::channel(4);
        for _ in 0..3 {
            let packet = v1::CapturedPacket {
                data: vec![0xaa; 60],
                original_length: 60,
                ..Default::default()
            };
            let _ = sender.try_send(packet);
        }
        Ok(receiver)
    }
}

/// A daemon around a [`RecordingDataplane`], in a directory of its own.
pub struct Daemon {
    pub socket: PathBuf,
    pub dataplane: RecordingDataplane,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), DaemonError>>,
}

impl Daemon {
    pub async fn start(directory: &Path) -> Self {
        Self::start_with(directory, RecordingDataplane::default(), Vec::new()).await
    }

    pub async fn start_with(
        directory: &Path,
        dataplane: RecordingDataplane,
        config: Vec<PathBuf>,
    ) -> Self {
        let socket = directory.join("oncilla.sock");
        let store = StoreLocation::File(directory.join("desired.redb"));
        let options = Options {
            socket: socket.clone(),
            store,
            config,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel::<()>();
        let engine = Box::new(dataplane.clone());
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            let ready = || ready.send(()).unwrap_or(());
            daemon::run(options, engine, Arc::new(FixedTelemetry), ready, shutdown).await
        });
        is_ready.await.expect("the daemon starts");
        Self {
            socket,
            dataplane,
            stop: Some(stop),
            task,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.socket).await.expect("connects")
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.expect("no panic").expect("stops in order");
    }
}

pub fn interface(name: &str) -> Object {
    let port = AfPacketSpec {
        device: name.into(),
        ..Default::default()
    };
    Object::new(
        name,
        Spec::Interface(InterfaceSpec {
            af_packet: Some(port),
            ..Default::default()
        }),
    )
}

pub fn address(name: &str, interface: &str, address: &str) -> Object {
    Object::new(
        name,
        Spec::Address(AddressSpec {
            interface: interface.into(),
            address: address.into(),
        }),
    )
}

pub fn route(name: &str, destination: &str, via: &str) -> Object {
    let next_hop = v1::NextHop {
        via: Some(via.into()),
        ..Default::default()
    };
    let spec = v1::RouteSpec {
        destination: destination.into(),
        next_hops: vec![next_hop],
        ..Default::default()
    };
    Object::new(name, Spec::Route(spec))
}

pub fn key(kind: &str, name: &str) -> v1::ObjectKey {
    v1::ObjectKey {
        kind: kind.into(),
        name: name.into(),
    }
}
