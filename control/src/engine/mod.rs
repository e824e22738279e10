//! The engine as control runs it: devices, tables and workers behind the seams of [`crate::dataplane`].
//!
//! One lock guards everything that control owns of the engine; workers never take it. Three parties hold it for short
//! times: the owner of the desired state (prepare, publish), the slow path's thread (punts, timers), and whoever asks for
//! telemetry.

mod devices;
mod flows;
mod nat;
mod observe;
mod policy;
mod rules;
mod telemetry;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use dataplane::{Clock, Engine, EngineConfig, EngineError, Event, PortId, Queue, WorkerId};
pub use dataplane::{Idle, Pages};
pub use devices::{OpenDevice, Opener};
use graph_nodes::fib::{FibError, ForwardingSize, ForwardingWriter, RouteTarget, link_header};
use graph_nodes::policy::Policy;
use graph_nodes::policy::events::flow_watch;
use graph_nodes::punt::Punt;
use graph_nodes::{IcmpLimits, Snapshot, WorkerState};
use model::{Changes, DesiredState, InterfaceKind, InterfaceName, Kind, ObjectKey, SpecError};
use wire::ArpPacket;

use crate::compile::policy::PolicyInterface;
use crate::compile::{Numbering, NumberingError, PortFacts, Sections, compile};
use crate::dataplane::{Cause, Dataplane, NotLive, PrepareError};
use crate::slowpath::{Action, InterfaceFacts, NeighbourCache, NeighbourTimers};

/// How long workers have for taking up a snapshot before that is an error.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How an engine is run.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Workers, cores, buffers.
    pub engine: EngineConfig,
    /// Room in the forwarding tables.
    pub forwarding: ForwardingSize,
    /// /24 blocks with longer prefixes that an IPv4 table has room for.
    pub ip4_groups: u32,
    /// Limits on ICMP errors.
    pub icmp: IcmpLimits,
    /// The name of this node, by which endpoints of policy say where they are.
    pub node: String,
    /// What opens devices.
    pub devices: Opener,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            engine: EngineConfig::default(),
            forwarding: ForwardingSize::default(),
            ip4_groups: 16_384,
            icmp: IcmpLimits::default(),
            node: "localhost".into(),
            devices: Opener::default(),
        }
    }
}

/// The engine and what control keeps about it. A handle: clones are the same engine.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    /// Wakes the slow path's thread to look at its timers again.
    slow_path: Arc<SlowPathThread>,
}

struct SlowPathThread {
    stop: AtomicBool,
    wake: Event,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    /// `None` after the engine was stopped.
    engine: Option<Engine<Snapshot>>,
    clock: Clock,
    workers: usize,
    cores: Vec<usize>,
    opener: Opener,
    icmp: IcmpLimits,
    forwarding: ForwardingWriter,
    limits: (ForwardingSize, u32),
    neighbours: NeighbourCache,
    desired: Arc<DesiredState>,
    generation: u64,
    numbering: Numbering,
    sections: Sections,
    devices: BTreeMap<InterfaceName, Device>,
    prepared: Option<Prepared>,
    policy: policy::PolicyKeeper,
    nat: nat::NatKeeper,
    /// As policy looks at them.
    policy_interfaces: Arc<[PolicyInterface]>,
    /// Whether tables, devices and neighbours are what the sections say.
    settled: bool,
    observers: observe::Observers,
    flows: flows::FlowObservers,
}

/// An open device.
struct Device {
    port: PortId,
    spec: model::AfPacket,
    facts: PortFacts,
    name: String,
    /// The kernel's number, which no other device of the same name has; `None` for what is none of the kernel's.
    index: Option<u32>,
}

impl Device {
    /// Whether the device that was opened is still there.
    fn is_there(&self) -> bool {
        self.index
            .is_none_or(|index| nix::net::if_::if_nametoindex(self.name.as_str()) == Ok(index))
    }
}

/// A transaction between [`Dataplane::prepare`] and [`Dataplane::publish`].
struct Prepared {
    desired: Arc<DesiredState>,
    generation: u64,
    policy: Policy,
    /// `None` where it is what is live already.
    nat: Option<nat::NatKeeper>,
    /// Likewise.
    network: Option<Network>,
}

/// What is new about interfaces, routes and neighbours.
struct Network {
    numbering: Numbering,
    sections: Sections,
    interfaces: Arc<[PolicyInterface]>,
    /// Devices opened for it.
    opened: BTreeMap<InterfaceName, (Device, Vec<Box<dyn Queue>>)>,
}

impl Gateway {
    /// Starts the workers with an empty configuration, and the slow path's thread.
    ///
    /// # Errors
    ///
    /// The operating system gives no memory, thread or event.
    pub fn start(options: EngineOptions) -> Result<Self, EngineError> {
        let config = &options.engine;
        let forwarding = ForwardingWriter::new(options.forwarding, options.ip4_groups);
        let initial = Snapshot {
            forwarding: forwarding.forwarding(),
            icmp: options.icmp,
            ..Snapshot::default()
        };
        let icmp = options.icmp;
        let (watches, watchers): (Vec<_>, Vec<_>) =
            (0..config.workers).map(|_| flow_watch()).unzip();
        // By worker, the first one last.
        let watches = RefCell::new(watches.into_iter().rev().collect::<Vec<_>>());
        let engine = Engine::start(config, &graph_nodes::graph(), initial, move |_| {
            let watch = watches.borrow_mut().pop().unwrap_or_default();
            WorkerState::new(icmp).with_watch(watch)
        })?;
        let notify = engine.notify_fd();
        let seed = config.seed.unwrap_or_else(dataplane::ticks);
        let state = State {
            engine: Some(engine),
            clock: config.clock.clone(),
            workers: config.workers,
            cores: config.cores.clone(),
            opener: options.devices,
            icmp: options.icmp,
            forwarding,
            limits: (options.forwarding, options.ip4_groups),
            neighbours: NeighbourCache::new(NeighbourTimers::default(), seed),
            desired: Arc::default(),
            generation: 0,
            numbering: Numbering::default(),
            sections: Sections::default(),
            devices: BTreeMap::new(),
            prepared: None,
            policy: policy::PolicyKeeper::new(options.node, config.workers),
            nat: nat::NatKeeper::new(config.workers),
            policy_interfaces: Arc::default(),
            settled: false,
            observers: observe::Observers::default(),
            flows: flows::FlowObservers::new(watchers),
        };
        let slow_path = Arc::new(SlowPathThread {
            stop: AtomicBool::new(false),
            wake: Event::new()?,
            thread: Mutex::new(None),
        });
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            slow_path: Arc::clone(&slow_path),
        });
        let weak = Arc::downgrade(&inner);
        let runner = Arc::clone(&slow_path);
        let thread = std::thread::Builder::new()
            .name("slow-path".into())
            .spawn(move || {
                let mut timeout_ms = 1000;
                while !runner.stop.load(Ordering::Acquire) {
                    wait_for(&[notify, runner.wake.as_raw_fd()], timeout_ms);
                    runner.wake.clear();
                    let Some(inner) = weak.upgrade() else { return };
                    timeout_ms = inner.lock().slow_path();
                }
            })?;
        *slow_path
            .thread
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(thread);
        Ok(Self { inner })
    }

    /// Stops slow path and workers and returns the buffer pool, which must be whole then ([`dataplane::Pool::audit`]).
    ///
    /// # Errors
    ///
    /// A worker died, or the engine was stopped before.
    pub fn stop(&self) -> Result<dataplane::Pool, EngineError> {
        self.inner.slow_path.end();
        let engine = self.inner.lock().engine.take();
        engine
            .ok_or_else(|| EngineError::Config("the engine was stopped before".into()))?
            .stop()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock()
    }
}

impl Inner {
    /// A panic while the lock was held leaves the state as it was between two statements; going on beats stopping to forward.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.slow_path.end();
    }
}

impl SlowPathThread {
    fn end(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.signal();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        // The thread itself may hold the last handle for a moment, and then ends by itself.
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // It ends by a panic only where a lock-holder did, which was reported.
            let _ = thread.join();
        }
    }
}

impl Dataplane for Gateway {
    fn prepare(
        &mut self,
        next: &Arc<DesiredState>,
        changes: &Changes,
        generation: u64,
    ) -> Result<(), PrepareError> {
        self.lock().prepare(next, changes, generation)
    }

    fn publish(&mut self) -> Result<(), NotLive> {
        let mut state = self.lock();
        let prepared = state.prepared.as_ref();
        let has_network = prepared.is_some_and(|prepared| prepared.network.is_some());
        let result = state.publish();
        drop(state);
        if has_network {
            // New addresses are announced, new neighbours asked for.
            self.inner.slow_path.wake.signal();
        }
        result
    }

    fn abandon(&mut self) {
        self.lock().prepared = None;
    }

    fn lost(&mut self) -> BTreeSet<ObjectKey> {
        let state = self.lock();
        let lost = state
            .devices
            .iter()
            .filter(|(_, device)| !device.is_there());
        lost.map(|(name, _)| ObjectKey::new(Kind::Interface, name.as_str()))
            .collect()
    }
}

impl State {
    fn prepare(
        &mut self,
        next: &Arc<DesiredState>,
        changes: &Changes,
        generation: u64,
    ) -> Result<(), PrepareError> {
        self.prepared = None;
        let network = if self.settled && changes.only_policy() && self.devices_are_there() {
            None
        } else {
            Some(self.prepare_network(next)?)
        };
        let interfaces = match &network {
            Some(network) => Arc::clone(&network.interfaces),
            None => Arc::clone(&self.policy_interfaces),
        };
        let policy = self.prepare_policy(next, &interfaces)?;
        let numbering = network.as_ref().map(|network| &network.numbering);
        let nat = self.prepare_nat(next, numbering)?;
        self.prepared = Some(Prepared {
            desired: Arc::clone(next),
            generation,
            policy,
            nat,
            network,
        });
        Ok(())
    }

    fn devices_are_there(&self) -> bool {
        self.devices.values().all(Device::is_there)
    }

    fn prepare_network(&self, next: &DesiredState) -> Result<Network, PrepareError> {
        let numbering = self.numbering.next(next).map_err(|error| match error {
            NumberingError::Interface(name, most) => limit(
                ObjectKey::new(Kind::Interface, name.as_str()),
                format!("there are {most} interfaces of this type already, which is the most: delete one first"),
            ),
            NumberingError::Vrf(name, most) => limit(
                ObjectKey::new(Kind::Vrf, name.as_str()),
                format!("there are {most} VRFs already, which is the most: delete one first"),
            ),
        })?;
        let mut opened = BTreeMap::new();
        let mut facts = BTreeMap::new();
        for (name, interface) in &next.interfaces {
            let InterfaceKind::AfPacket(spec) = &interface.kind else {
                continue;
            };
            let port = numbering.interface(name).map(PortId);
            match self.devices.get(name) {
                Some(device)
                    if device.spec == *spec && Some(device.port) == port && device.is_there() =>
                {
                    facts.insert(name.clone(), device.facts);
                }
                _ => {
                    let Some(port) = port else { continue };
                    let (device, queues) = self.open(name, spec, port)?;
                    facts.insert(name.clone(), device.facts);
                    opened.insert(name.clone(), (device, queues));
                }
            }
        }
        let sections = compile(next, &numbering, &facts).map_err(|error| PrepareError {
            cause: Cause::Environment,
            error,
        })?;
        self.check_room(&sections)?;
        Ok(Network {
            interfaces: policy::interfaces(next, &numbering),
            numbering,
            sections,
            opened,
        })
    }

    fn open(
        &self,
        name: &InterfaceName,
        spec: &model::AfPacket,
        port: PortId,
    ) -> Result<(Device, Vec<Box<dyn Queue>>), PrepareError> {
        let key = || ObjectKey::new(Kind::Interface, name.as_str());
        let environment = |field: &str, message: String| PrepareError {
            cause: Cause::Environment,
            error: SpecError::new(key(), field, message),
        };
        let queues = usize::from(spec.queues.get());
        if queues > 1 && queues != self.workers {
            let workers = self.workers;
            let message = format!(
                "{queues} queues for {workers} workers: every worker has one queue, so leave it out, or start the daemon with as many workers"
            );
            return Err(environment("spec.afPacket.queues", message));
        }
        let OpenDevice {
            name,
            index,
            facts,
            queues,
        } = self
            .opener
            .open(spec, self.workers)
            .map_err(|message| environment("spec.afPacket.device", message))?;
        Ok((
            Device {
                port,
                spec: spec.clone(),
                facts,
                name,
                index,
            },
            queues,
        ))
    }

    /// What may be needed at the most while old and new routes exist side by side.
    fn check_room(&self, next: &Sections) -> Result<(), PrepareError> {
        let targets: BTreeSet<&RouteTarget> = next
            .routes
            .values()
            .chain(self.sections.routes.values())
            .map(|route| &route.target)
            .collect();
        let hops = targets.iter().filter_map(|target| match target {
            RouteTarget::Forward(hops) => Some(hops),
            _ => None,
        });
        let adjacencies: BTreeSet<_> = hops
            .clone()
            .flatten()
            .map(|hop| hop.neighbour)
            .chain(next.neighbours.keys().copied())
            .collect();
        let buckets: usize = hops
            .filter(|hops| hops.len() > 1)
            .map(|hops| (8 * hops.len()).next_power_of_two().max(16))
            .sum();
        let blocks: BTreeSet<_> = next
            .routes
            .keys()
            .filter_map(|(vrf, address, len)| match address {
                std::net::IpAddr::V4(address) if *len > 24 => Some((*vrf, address.to_bits() >> 8)),
                _ => None,
            })
            .collect();
        let (size, groups) = self.limits;
        let known = self.forwarding.in_use().1;
        let checks = [
            (
                "next-hop groups",
                targets.len() + known,
                size.groups as usize,
            ),
            (
                "neighbours",
                adjacencies.len() + known,
                size.adjacencies as usize,
            ),
            (
                "buckets of routes with several next hops",
                buckets,
                size.buckets as usize / 2,
            ),
            (
                "IPv4 blocks with prefixes longer than /24",
                blocks.len(),
                groups as usize,
            ),
        ];
        for (what, needed, room) in checks {
            if needed >= room {
                let message =
                    format!("{needed} {what} would be needed and there is room for {room}");
                let object = next
                    .routes
                    .values()
                    .last()
                    .map(|route| route.origin.clone())
                    .unwrap_or_default();
                let name = object.strip_prefix("Route/").unwrap_or(&object).to_owned();
                return Err(limit(ObjectKey::new(Kind::Route, name), message));
            }
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), NotLive> {
        let Some(prepared) = self.prepared.take() else {
            return Ok(());
        };
        let Prepared {
            desired,
            generation,
            policy,
            nat,
            network,
        } = prepared;
        self.desired = desired;
        self.generation = generation;
        self.policy.live = policy;
        if let Some(nat) = nat {
            self.nat = nat;
        }
        match network {
            Some(network) => {
                self.settled = false;
                self.publish_network(network)?;
                self.settled = true;
            }
            None => self.publish_snapshot()?,
        }
        let Some(engine) = &mut self.engine else {
            return Err(NotLive("the engine is stopped".into()));
        };
        self.forwarding.reclaim(engine.observed().saturating_sub(1));
        self.forwarding.set_epoch(engine.epoch());
        Ok(())
    }

    fn publish_network(&mut self, network: Network) -> Result<(), NotLive> {
        let Network {
            numbering,
            sections,
            interfaces,
            opened,
        } = network;
        let old = std::mem::replace(&mut self.sections, sections);
        self.numbering = numbering;
        self.policy_interfaces = interfaces;
        let gone: Vec<(InterfaceName, PortId)> = self
            .devices
            .iter()
            .filter(|(name, device)| self.numbering.interface(name) != Some(device.port.0))
            .map(|(name, device)| (name.clone(), device.port))
            .collect();
        let incomplete =
            |error: FibError| NotLive(format!("the routing tables are incomplete: {error}"));
        self.apply_tables(&old).map_err(incomplete)?;
        let Some(engine) = &mut self.engine else {
            return Err(NotLive("the engine is stopped".into()));
        };
        let not_live = |error: EngineError| NotLive(error.to_string());
        // New devices before the snapshot that lets packets in from them and out to them: nothing passes until then.
        for (name, (device, queues)) in opened {
            let queues = queues.into_iter().map(Some).collect();
            engine
                .add_port(device.port, queues, LIVE_TIMEOUT)
                .map_err(not_live)?;
            self.devices.insert(name, device);
        }
        self.publish_snapshot()?;
        self.apply_neighbours(&old).map_err(incomplete)?;
        let Some(engine) = &mut self.engine else {
            return Err(NotLive("the engine is stopped".into()));
        };
        for (name, port) in gone {
            // Dropping the queues closes the device.
            engine.remove_port(port, LIVE_TIMEOUT).map_err(not_live)?;
            if self
                .devices
                .get(&name)
                .is_some_and(|device| device.port == port)
            {
                self.devices.remove(&name);
            }
        }
        Ok(())
    }

    /// Returns when every worker uses it.
    fn publish_snapshot(&mut self) -> Result<(), NotLive> {
        let snapshot = self.snapshot();
        let Some(engine) = &mut self.engine else {
            return Err(NotLive("the engine is stopped".into()));
        };
        let epoch = engine.publish(snapshot);
        let live = engine.wait_live(epoch, LIVE_TIMEOUT);
        live.map_err(|error| NotLive(error.to_string()))
    }

    /// What workers are to see.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot {
            ports: self.sections.port_list(),
            interfaces: self.sections.interface_list(),
            vrfs: vrf_list(&self.numbering, &self.forwarding),
            forwarding: self.forwarding.forwarding(),
            icmp: self.icmp,
            policy: self.policy.live.clone(),
            nat: self.nat.live.clone(),
        };
        snapshot.set_policy_features();
        snapshot
    }

    /// Brings links, routes and neighbours from what `old` says to what the sections say.
    fn apply_tables(&mut self, old: &Sections) -> Result<(), FibError> {
        let epoch = self.engine.as_ref().map_or(0, Engine::epoch);
        self.forwarding.set_epoch(epoch);
        for vrf in self.numbering.vrfs.values() {
            self.forwarding.add_vrf(*vrf)?;
        }
        for (number, link) in &self.sections.links {
            self.forwarding.set_link(*number, *link)?;
        }
        for (key, route) in &self.sections.routes {
            if old.routes.get(key).map(|old| &old.target) != Some(&route.target) {
                self.forwarding
                    .set_route(key.0, key.1, key.2, route.target.clone())?;
            }
        }
        let vrfs: Vec<u16> = self.numbering.vrfs.values().copied().collect();
        for key in old
            .routes
            .keys()
            .filter(|key| !self.sections.routes.contains_key(*key))
        {
            if vrfs.contains(&key.0) {
                self.forwarding.remove_route(key.0, key.1, key.2)?;
            }
        }
        let old_vrfs: BTreeSet<u16> = old.routes.keys().map(|key| key.0).collect();
        for vrf in old_vrfs.iter().filter(|vrf| !vrfs.contains(vrf)) {
            self.forwarding.remove_vrf(*vrf);
        }
        for number in old
            .links
            .keys()
            .filter(|number| !self.sections.links.contains_key(number))
        {
            self.forwarding.remove_link(*number);
        }
        self.forwarding.commit()
    }

    /// Tells the neighbour cache what there is now. Announcements go out, so the devices must be there.
    fn apply_neighbours(&mut self, old: &Sections) -> Result<(), FibError> {
        let now = self.clock.now_ns();
        let facts = self
            .sections
            .interfaces
            .iter()
            .map(|(number, record)| InterfaceFacts {
                number: *number,
                mac: record.mac,
                ip4: record.ip4.clone(),
                ip6: record.ip6.clone(),
                link_local: record.link_local,
                up: record.up,
            });
        self.neighbours.set_interfaces(facts, now);
        for key in old
            .neighbours
            .keys()
            .filter(|key| !self.sections.neighbours.contains_key(key))
        {
            self.neighbours.remove_static(*key);
        }
        for (key, mac) in &self.sections.neighbours {
            if let Err(error) = self.neighbours.set_static(*key, *mac) {
                tracing::warn!(interface = key.interface, address = %key.address, "a static neighbour is not used: {error}");
            }
        }
        self.act();
        self.forwarding.commit()
    }

    /// Punts, timers, observers. Returns the milliseconds until it wants to be called again.
    fn slow_path(&mut self) -> i32 {
        let now = self.clock.now_ns();
        let Some(engine) = &mut self.engine else {
            return 1000;
        };
        engine.clear_notify();
        let neighbours = &mut self.neighbours;
        engine.punts(|_, _, header, bytes| match Punt::from_kind(header.kind) {
            Some(Punt::Resolve) => {
                if let Some(address) = address_of(bytes) {
                    neighbours.resolve(header.interface, address, now);
                }
            }
            Some(Punt::Arp) => {
                if let Ok((packet, _)) = ArpPacket::parse(bytes) {
                    neighbours.arp(header.interface, packet, now);
                }
            }
            Some(Punt::NeighbourDiscovery) => neighbours.discovery(header.interface, bytes, now),
            None => {}
        });
        let forwarding = &self.forwarding;
        // The data path notes the second (2^30 ns) in which it last used a neighbour, counted from 1.
        let recent = now >> 30;
        neighbours.tick(now, |key| forwarding.last_used(*key) >= recent);
        self.act();
        self.refresh_policy();
        let mut flows_ms = None;
        if let Some(engine) = &mut self.engine {
            let safe = engine.observed().saturating_sub(1);
            self.forwarding.reclaim(safe);
            engine.reclaim();
            let view = observe::View {
                numbering: &self.numbering,
                sections: &self.sections,
            };
            self.observers.collect(engine, &view, &self.clock);
            let names = flows::Names {
                numbering: &self.numbering,
                desired: &self.desired,
                generation: self.generation,
                policy: &self.policy,
            };
            flows_ms = self.flows.collect(engine, &names, now);
        }
        let deadline = self
            .neighbours
            .next_deadline()
            .map_or(1000, |at| at.saturating_sub(now) / 1_000_000 + 1);
        let observers_ms = if self.observers.is_active() { 50 } else { 1000 };
        deadline
            .min(observers_ms)
            .min(flows_ms.unwrap_or(observers_ms)) as i32
    }

    /// Publishes programs that were compiled anew in the background. What they say is what those before them say.
    fn refresh_policy(&mut self) {
        // A compilation between prepare and publish would not be that of what is live.
        if self.prepared.is_some() || !self.policy.is_outdated() {
            return;
        }
        self.live_policy_again();
        let snapshot = self.snapshot();
        if let Some(engine) = &mut self.engine {
            let epoch = engine.publish(snapshot);
            self.forwarding.set_epoch(epoch);
        }
    }

    /// Does what the neighbour cache asks for.
    fn act(&mut self) {
        let mut resolved = false;
        for action in self.neighbours.drain_actions() {
            match action {
                Action::Send { interface, frame } => {
                    let Some(link) = self.sections.links.get(&interface) else {
                        continue;
                    };
                    let header = link_header(frame.destination, link, frame.ethertype);
                    let bytes = [header.as_slice(), &frame.payload].concat();
                    let port = u32::from(link.port.0);
                    if let Some(engine) = &mut self.engine {
                        // A full ring loses a solicitation, which is sent again.
                        let _ =
                            engine.inject(WorkerId(0), "interface-output", interface, port, &bytes);
                    }
                }
                Action::Resolve { key, mac } => {
                    resolved = true;
                    if let Err(error) = self.forwarding.resolve(key, mac) {
                        tracing::warn!(interface = key.interface, address = %key.address, "a neighbour cannot be used: {error}");
                    }
                }
                Action::Forget { key } => self.forwarding.forget(key),
            }
        }
        if resolved && let Some(engine) = &mut self.engine {
            // Workers hold packets for the neighbour; a new epoch also lets freed entries be reused.
            let epoch = engine.advance();
            self.forwarding.set_epoch(epoch);
        }
    }
}

fn vrf_list(numbering: &Numbering, forwarding: &ForwardingWriter) -> Vec<graph_nodes::Vrf> {
    let count = numbering.vrfs.values().max().map_or(0, |last| *last + 1);
    // A number without a VRF has the default's tables; no interface refers to it.
    (0..count)
        .filter_map(|number| forwarding.vrf(number).or_else(|| forwarding.vrf(0)))
        .collect()
}

fn limit(object: ObjectKey, message: String) -> PrepareError {
    PrepareError {
        cause: Cause::Limit,
        error: SpecError::new(object, "", message),
    }
}

fn address_of(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// Waits until one of the descriptors is readable.
fn wait_for(fds: &[RawFd], timeout_ms: i32) {
    dataplane::wait_readable(fds, timeout_ms);
}
