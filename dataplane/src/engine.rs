//! The engine as control sees it: starts workers, publishes snapshots, adds and removes ports, reads telemetry.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::buffer::{Pages, Pool, PoolError};
use crate::event::Event;
use crate::graph::{GraphError, GraphSpec, NodeInfo};
use crate::handoff::{self, Sleeper};
use crate::node::{PuntHeader, Snapshot, WorkerId};
use crate::port::{PortId, Queue};
use crate::publish::{Epoch, Publisher};
use crate::record::{RecordReader, RecordWriter, record_ring};
use crate::rng::Rng;
use crate::stats::WorkerStats;
use crate::time::Clock;
use crate::trace::{CaptureFilter, CaptureHeader, Tap, TraceRecord};
use crate::worker::{Command, Idle, InjectHeader, Reply, Shared, Worker};

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Workers, 1 to 255.
    pub workers: usize,
    /// The core of each worker, by index; empty to leave the placement to the kernel.
    pub cores: Vec<usize>,
    /// Packet buffers of all workers together.
    pub buffers: usize,
    /// The pages they live in.
    pub pages: Pages,
    /// Packets that a worker takes from a port per turn at the most, up to [`FRAME_SIZE`](crate::FRAME_SIZE).
    pub burst: usize,
    /// What idle workers do.
    pub idle: Idle,
    /// Nice value that workers ask for, so that packets do not wait behind programs that use the same cores. The kernel
    /// grants values below 0 to privileged processes only; without it workers run like others.
    pub nice: Option<i32>,
    /// The workers' time.
    pub clock: Clock,
    /// Decides the workers' randomness; `None` takes it from the operating system.
    pub seed: Option<u64>,
    /// Bytes that punted packets may occupy per worker until control has read them; captured packets four times that.
    pub punt_ring_bytes: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            cores: Vec::new(),
            buffers: 16_384,
            pages: Pages::Transparent,
            burst: 64,
            idle: Idle::Adaptive { spin_ns: 20_000 },
            nice: None,
            clock: Clock::real(),
            seed: None,
            punt_ring_bytes: 256 << 10,
        }
    }
}

/// Why an engine could not be started or asked for something.
#[derive(Debug)]
pub enum EngineError {
    /// The configuration asks for something impossible; the text says what.
    Config(String),
    /// The graph does not fit together.
    Graph(GraphError),
    /// The buffers could not be had.
    Pool(PoolError),
    /// The operating system refused a descriptor or a thread.
    Io(io::Error),
    /// A worker did not answer in time.
    Timeout,
    /// The worker's ring is full: try again later.
    Busy,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) => f.write_str(text),
            Self::Graph(error) => error.fmt(f),
            Self::Pool(error) => error.fmt(f),
            Self::Io(error) => write!(
                f,
                "the operating system refused a worker's thread or event: {error}"
            ),
            Self::Timeout => f.write_str(
                "a worker did not answer in time: it may be stuck, see 'oncilla show runtime'",
            ),
            Self::Busy => f.write_str("a worker's ring is full: try again"),
        }
    }
}
impl std::error::Error for EngineError {}
impl From<GraphError> for EngineError {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}
impl From<PoolError> for EngineError {
    fn from(error: PoolError) -> Self {
        Self::Pool(error)
    }
}
impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Handle {
    shared: Arc<Shared>,
    commands: rtrb::Producer<Command>,
    replies: rtrb::Consumer<Reply>,
    injected: RecordWriter,
    punts: RecordReader,
    traces: rtrb::Consumer<TraceRecord>,
    captured: RecordReader,
    sent: u64,
    thread: Option<JoinHandle<()>>,
}

/// A packet engine. Owned by one control thread; what it shares with the workers is behind it.
pub struct Engine<S: Snapshot> {
    publisher: Publisher<S>,
    workers: Vec<Handle>,
    infos: Vec<NodeInfo>,
    pool: Pool,
    notify: Arc<Event>,
    record: Vec<u8>,
}

impl<S: Snapshot> Engine<S> {
    /// Makes an engine and its workers, which the caller runs: tests and benches turn them by hand.
    pub fn new(
        config: &EngineConfig,
        graph: &GraphSpec<S>,
        initial: S,
        state: impl Fn(WorkerId) -> S::WorkerState,
    ) -> Result<(Self, Vec<Worker<S>>), EngineError> {
        check(config)?;
        let pool = Pool::new(config.buffers, config.pages)?;
        let notify = Arc::new(Event::new()?);
        let mut publisher = Publisher::new(initial);
        let infos = graph.infos();
        let (mut handles, mut workers) = (Vec::new(), Vec::new());
        let blamed = crate::worker::nobody_blamed();
        let sleepers = (0..config.workers).map(|_| Sleeper::new().map(Arc::new));
        let sleepers = sleepers.collect::<io::Result<Vec<_>>>()?;
        for (index, handoff) in handoff::rings(&sleepers).into_iter().enumerate() {
            let id = WorkerId(index as u16);
            let shared = Arc::new(Shared {
                stats: WorkerStats::new(infos.iter().map(|info| info.drops.len()), config.workers),
                sleeper: Arc::clone(&sleepers[index]),
                stop: AtomicBool::new(false),
                commands_done: AtomicU64::new(0),
            });
            let (command_tx, command_rx) = rtrb::RingBuffer::new(256);
            let (reply_tx, reply_rx) = rtrb::RingBuffer::new(2 * usize::from(PortId::MAX));
            let (inject_tx, inject_rx) = record_ring(config.punt_ring_bytes);
            let (punt_tx, punt_rx) = record_ring(config.punt_ring_bytes);
            let (capture_tx, capture_rx) = record_ring(4 * config.punt_ring_bytes);
            let (trace_tx, trace_rx) = rtrb::RingBuffer::new(4096);
            workers.push(Worker {
                id,
                graph: graph.build(id)?,
                queues: Worker::<S>::queues(&blamed),
                buffers: pool.cache(),
                pool: pool.clone(),
                reader: publisher.subscribe(),
                state: state(id),
                clock: config.clock.clone(),
                rng: config.seed.map_or_else(Rng::from_entropy, |seed| {
                    Rng::from_seed(seed ^ index as u64)
                }),
                shared: Arc::clone(&shared),
                commands: command_rx,
                replies: reply_tx,
                injected: inject_rx,
                inject_buffer: Vec::with_capacity(crate::buffer::MAX_PACKET),
                punts: punt_tx,
                tap: Tap {
                    trace_left: 0,
                    trace_port: None,
                    next_number: 0,
                    tracing: false,
                    records: trace_tx,
                    capture: None,
                    captured: capture_tx,
                    lost: 0,
                    fresh: false,
                },
                handoff,
                notify: Arc::clone(&notify),
                burst: config.burst,
                idle: config.idle,
                poll_fds: Vec::with_capacity(usize::from(PortId::MAX) + 1),
            });
            handles.push(Handle {
                shared,
                commands: command_tx,
                replies: reply_rx,
                injected: inject_tx,
                punts: punt_rx,
                traces: trace_rx,
                captured: capture_rx,
                sent: 0,
                thread: None,
            });
        }
        let engine = Self {
            publisher,
            workers: handles,
            infos,
            pool,
            notify,
            record: Vec::new(),
        };
        Ok((engine, workers))
    }

    /// Makes an engine and runs each worker on a thread of its own, pinned where the configuration names its core.
    pub fn start(
        config: &EngineConfig,
        graph: &GraphSpec<S>,
        initial: S,
        state: impl Fn(WorkerId) -> S::WorkerState,
    ) -> Result<Self, EngineError> {
        let (mut engine, workers) = Self::new(config, graph, initial, state)?;
        for (index, worker) in workers.into_iter().enumerate() {
            let (core, nice) = (config.cores.get(index).copied(), config.nice);
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    if let Some(id) = core {
                        // Refused where a container's mask excludes the core: the worker runs unpinned, as `cores` says.
                        core_affinity::set_for_current(core_affinity::CoreId { id });
                    }
                    if let Some(nice) = nice {
                        crate::event::set_nice(nice);
                    }
                    worker.run();
                })?;
            engine.workers[index].thread = Some(thread);
        }
        Ok(engine)
    }

    /// Workers of this engine.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The nodes by index, as the counters and trace records number them.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.infos
    }

    /// The packet buffers.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Replaces the snapshot and wakes the workers. It is live when [`Engine::is_live`] says so of the epoch returned.
    pub fn publish(&mut self, snapshot: S) -> Epoch {
        let epoch = self.publisher.publish(snapshot);
        self.wake();
        epoch
    }

    /// Begins an epoch after tables were changed in place, and wakes the workers.
    pub fn advance(&mut self) -> Epoch {
        let epoch = self.publisher.advance();
        self.wake();
        epoch
    }

    /// The current epoch, with which garbage is marked.
    pub fn epoch(&self) -> Epoch {
        self.publisher.epoch()
    }

    /// The oldest epoch that a worker may be in: garbage of earlier epochs is out of sight.
    pub fn observed(&self) -> Epoch {
        self.publisher.observed()
    }

    /// True when every worker has passed the beginning of the epoch.
    pub fn is_live(&self, epoch: Epoch) -> bool {
        self.publisher.observed() >= epoch
    }

    /// Waits until every worker has passed the beginning of the epoch, then frees what was retired before.
    pub fn wait_live(&mut self, epoch: Epoch, timeout: Duration) -> Result<(), EngineError> {
        wait(timeout, || self.publisher.observed() >= epoch)?;
        self.publisher.reclaim();
        Ok(())
    }

    /// Frees retired snapshots that are out of sight.
    pub fn reclaim(&mut self) {
        self.publisher.reclaim();
    }

    /// Wakes workers that sleep.
    pub fn wake(&self) {
        self.workers
            .iter()
            .for_each(|worker| worker.shared.sleeper.wake().signal());
    }

    /// Gives each worker its queue of a port; returns when all poll it. Workers without a queue are given `None`.
    ///
    /// # Errors
    /// [`EngineError::Config`] for a port number out of range or a wrong number of queues; [`EngineError::Timeout`].
    pub fn add_port(
        &mut self,
        port: PortId,
        queues: Vec<Option<Box<dyn Queue>>>,
        timeout: Duration,
    ) -> Result<(), EngineError> {
        self.send_queues(port, queues)?;
        self.wait_commands(timeout)
    }

    /// As [`Engine::add_port`] without waiting: for workers that are turned by hand.
    pub fn send_queues(
        &mut self,
        port: PortId,
        queues: Vec<Option<Box<dyn Queue>>>,
    ) -> Result<(), EngineError> {
        if port.0 >= PortId::MAX {
            return Err(EngineError::Config(format!(
                "port {} is out of range: use 0 to {}",
                port.0,
                PortId::MAX - 1
            )));
        }
        if queues.len() != self.workers.len() {
            let (got, want) = (queues.len(), self.workers.len());
            return Err(EngineError::Config(format!(
                "{got} queues for {want} workers: give each worker one"
            )));
        }
        for (worker, queue) in self.workers.iter_mut().zip(queues) {
            if let Some(queue) = queue {
                worker.send(Command::AddQueue(port, queue))?;
            }
        }
        Ok(())
    }

    /// Takes a port away from all workers and returns its queues, by worker; dropping them closes the device.
    pub fn remove_port(
        &mut self,
        port: PortId,
        timeout: Duration,
    ) -> Result<Vec<Box<dyn Queue>>, EngineError> {
        for worker in &mut self.workers {
            worker.send(Command::RemoveQueue(port))?;
        }
        self.wait_commands(timeout)?;
        let mut queues = Vec::new();
        for worker in &mut self.workers {
            while let Ok(Reply::Queue(returned, queue)) = worker.replies.pop() {
                if returned == port {
                    queues.push(queue);
                }
            }
        }
        Ok(queues)
    }

    /// Waits until every worker has done what it was told.
    pub fn wait_commands(&self, timeout: Duration) -> Result<(), EngineError> {
        let done =
            |worker: &Handle| worker.shared.commands_done.load(Ordering::Acquire) >= worker.sent;
        wait(timeout, || self.workers.iter().all(done))
    }

    /// Puts a packet on a node's input, as if made by this host. The bytes begin with what the node expects.
    ///
    /// # Errors
    /// [`EngineError::Config`] where there is no such node or worker; [`EngineError::Busy`].
    pub fn inject(
        &mut self,
        worker: WorkerId,
        node: &str,
        interface: u16,
        word: u32,
        bytes: &[u8],
    ) -> Result<(), EngineError> {
        let Some(index) = self.infos.iter().position(|info| info.name == node) else {
            return Err(EngineError::Config(format!(
                "there is no node {node} to inject packets into"
            )));
        };
        let Some(worker) = self.workers.get_mut(usize::from(worker.0)) else {
            return Err(EngineError::Config(format!(
                "there is no worker {}",
                worker.0
            )));
        };
        let header = InjectHeader {
            node: index as u16,
            interface,
            word,
        };
        if bytes.len() > crate::buffer::MAX_PACKET
            || !worker.injected.write(&header.encode(), [bytes])
        {
            return Err(EngineError::Busy);
        }
        worker.shared.sleeper.wake().signal();
        Ok(())
    }

    /// Calls `f` with every punted packet that waits: worker, node index, header, bytes.
    pub fn punts(&mut self, mut f: impl FnMut(WorkerId, u16, PuntHeader, &[u8])) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            while worker.punts.read(&mut self.record) {
                if let Some((header, node, bytes)) = PuntHeader::decode(&self.record) {
                    f(WorkerId(index as u16), node, header, bytes);
                }
            }
        }
    }

    /// Traces the next `count` packets that each worker receives, from one port or from all.
    pub fn trace(
        &mut self,
        count: u32,
        port: Option<PortId>,
        first_number: u32,
    ) -> Result<(), EngineError> {
        self.tell(|| Command::Trace {
            count,
            port,
            number: first_number,
        })
    }

    /// Ends tracing.
    pub fn trace_end(&mut self) -> Result<(), EngineError> {
        self.tell(|| Command::TraceEnd)
    }

    /// Calls `f` with every trace record that waits.
    pub fn traces(&mut self, mut f: impl FnMut(WorkerId, &TraceRecord)) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            while let Ok(record) = worker.traces.pop() {
                f(WorkerId(index as u16), &record);
            }
        }
    }

    /// Captures packets at the ports from now on, or ends it.
    pub fn capture(&mut self, filter: Option<CaptureFilter>) -> Result<(), EngineError> {
        self.tell(|| Command::Capture(filter))
    }

    /// Calls `f` with every captured packet that waits.
    pub fn captured(&mut self, mut f: impl FnMut(WorkerId, CaptureHeader, &[u8])) {
        for (index, worker) in self.workers.iter_mut().enumerate() {
            while worker.captured.read(&mut self.record) {
                if let Some((header, bytes)) = CaptureHeader::decode(&self.record) {
                    f(WorkerId(index as u16), header, bytes);
                }
            }
        }
    }

    /// A descriptor that becomes readable when punts, traces, captures or replies wait; clear it with
    /// [`Engine::clear_notify`] before reading them.
    pub fn notify_fd(&self) -> RawFd {
        self.notify.as_raw_fd()
    }

    /// See [`Engine::notify_fd`].
    pub fn clear_notify(&self) {
        self.notify.clear();
    }

    /// A worker's counters.
    pub fn stats(&self, worker: WorkerId) -> Option<&WorkerStats> {
        self.workers
            .get(usize::from(worker.0))
            .map(|worker| &worker.shared.stats)
    }

    /// All workers' counters in order.
    pub fn all_stats(&self) -> impl Iterator<Item = &WorkerStats> {
        self.workers.iter().map(|worker| &worker.shared.stats)
    }

    /// Stops the workers and waits for their threads. All packets on their way are freed, so the pool must be whole
    /// afterwards ([`Pool::audit`]); queues close their devices. A worker's thread that died is told.
    pub fn stop(mut self) -> Result<Pool, EngineError> {
        self.stop_threads()?;
        Ok(self.pool.clone())
    }

    fn stop_threads(&mut self) -> Result<(), EngineError> {
        for worker in &self.workers {
            worker.shared.stop.store(true, Ordering::Relaxed);
            worker.shared.sleeper.wake().signal();
        }
        let mut outcome = Ok(());
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                outcome = Err(EngineError::Config(
                    "a worker's thread died of a panic outside a node: a defect".into(),
                ));
            }
        }
        outcome
    }

    fn tell(&mut self, command: impl Fn() -> Command) -> Result<(), EngineError> {
        self.workers
            .iter_mut()
            .try_for_each(|worker| worker.send(command()))
    }
}

impl<S: Snapshot> Drop for Engine<S> {
    fn drop(&mut self) {
        // `stop` reports what goes wrong; here nobody listens.
        let _ = self.stop_threads();
    }
}

impl Handle {
    fn send(&mut self, command: Command) -> Result<(), EngineError> {
        self.commands.push(command).map_err(|_| EngineError::Busy)?;
        self.sent += 1;
        self.shared.sleeper.wake().signal();
        Ok(())
    }
}

fn check(config: &EngineConfig) -> Result<(), EngineError> {
    if config.workers == 0 || config.workers > 255 {
        return Err(EngineError::Config(format!(
            "{} workers are not possible: use 1 to 255",
            config.workers
        )));
    }
    if config.burst == 0 || config.burst > crate::FRAME_SIZE {
        let max = crate::FRAME_SIZE;
        return Err(EngineError::Config(format!(
            "a burst of {} is not possible: use 1 to {max}",
            config.burst
        )));
    }
    Ok(())
}

/// Waits with short sleeps: control may wait, workers never do.
fn wait(timeout: Duration, done: impl Fn() -> bool) -> Result<(), EngineError> {
    // A busy worker comes by within a turn, sooner than a thread that sleeps or yields is back.
    const SPIN: Duration = Duration::from_micros(50);
    let begin = Instant::now();
    while !done() {
        let waited = begin.elapsed();
        if waited > timeout {
            return Err(EngineError::Timeout);
        }
        if waited < SPIN {
            std::hint::spin_loop();
        } else {
            std::thread::sleep(SPIN);
        }
    }
    Ok(())
}
