//! Running a case: first with every packet checked, then against the clock.

use std::fmt;
use std::time::{Duration, Instant};

use dataplane::{
    Clock, Engine, EngineConfig, EngineError, HANDOFF, Idle, Pages, PortId, Queue, WorkerId,
};
use graph_nodes::{IcmpLimits, Snapshot, WorkerState};
use ports::{GeneratorConfig, GeneratorError, GeneratorQueue, Template};
use tables::{FlowConfig, FlowTable};

use crate::case::{Case, Frames, Setup};
use crate::machine;
use crate::own_flows::OwnFlows;

/// Packets that are checked, per port.
const CHECKED: u64 = 50_000;
/// Length of a window: so short that some windows fall between the disturbances of a shared machine.
const WINDOW: Duration = Duration::from_millis(2);

/// Flows that a case wants to be known before are waited for this long.
const WARM_UP: Duration = Duration::from_secs(30);

/// How cases are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seconds against the clock, in windows of 2 ms.
    pub seconds: f64,
    /// Core of the first worker; the next workers take the following ones.
    pub core: usize,
    /// Frame size; `None` for the case's own.
    pub frames: Option<Frames>,
    /// Workers, each with its own generators.
    pub workers: usize,
    /// Each worker's generators make only packets of flows that it owns: nothing is handed over. Otherwise each makes all, and with
    /// two workers half of what is tracked is handed over.
    pub own_flows: bool,
    /// Packets per turn and port.
    pub burst: usize,
    /// Buffers in the pool in reserved huge pages where there are some.
    pub pages: Pages,
}

impl Default for Options {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            seconds: 3.0,
            core: cores - 1,
            frames: None,
            workers: 1,
            own_flows: false,
            burst: 256,
            pages: Pages::Reserved,
        }
    }
}

/// What a case cost.
#[derive(Clone, Debug)]
pub struct Report {
    /// The case.
    pub case: &'static str,
    /// Bytes of a frame with its check sequence; the mean where they differ.
    pub frame_bytes: f64,
    /// Flows generated.
    pub flows: u64,
    /// Routes in the table.
    pub routes: u64,
    /// Workers.
    pub workers: usize,
    /// Packets that one worker handed to another, as a share of those that came in, over the whole run.
    pub handed_over: f64,
    /// Packets that were to be handed over and were dropped because the other worker, which the machine may have stopped, did not
    /// take them: the same way.
    pub congested: f64,
    /// Ticks per packet in all nodes, the generator excluded: the best window.
    pub ticks_min: f64,
    /// The same: the median of the windows.
    pub ticks_median: f64,
    /// Ticks per packet of the whole loop, generator and sink included: the best window.
    pub ticks_total_min: f64,
    /// Million packets per second of all workers together, generator included: the best window.
    pub mpps: f64,
    /// By node, in the best window.
    pub nodes: Vec<NodeTicks>,
    /// Frequency of the counter in GHz.
    pub tsc_ghz: f64,
    /// Core cycles per tick while it ran.
    pub core_per_tick: f64,
    /// Whether every checked packet left as it should, and none was lost.
    pub verified: bool,
    /// What was wrong, where something was.
    pub fault: Option<String>,
}

/// One node's share.
#[derive(Clone, Debug)]
pub struct NodeTicks {
    /// Its name.
    pub name: &'static str,
    /// Ticks per packet of the case.
    pub ticks: f64,
    /// Packets per call.
    pub vectors_per_call: f64,
}

/// Why a case does not run.
#[derive(Debug)]
pub enum BenchError {
    /// The engine does not start.
    Engine(EngineError),
    /// The case's packets are wrong: a defect of the case.
    Generator(GeneratorError),
    /// The frame is too short for the case's headers.
    FrameTooShort(&'static str, u16),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::Generator(error) => write!(f, "the case's packets cannot be made: {error}"),
            Self::FrameTooShort(case, shortest) => {
                write!(f, "frames of {case} have {shortest} bytes at least")
            }
        }
    }
}
impl std::error::Error for BenchError {}
impl From<EngineError> for BenchError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}
impl From<GeneratorError> for BenchError {
    fn from(error: GeneratorError) -> Self {
        Self::Generator(error)
    }
}

/// Runs one case. `progress` is called with the seconds that remain.
///
/// # Errors
/// The engine does not start, or the options do not fit the case.
pub fn run(
    case: &Case,
    options: &Options,
    mut progress: impl FnMut(f64),
) -> Result<Report, BenchError> {
    let frames = options.frames.unwrap_or(Frames::Fixed(case.default_frame));
    if let Frames::Fixed(bytes) = frames
        && bytes < case.default_frame
    {
        return Err(BenchError::FrameTooShort(case.name, case.default_frame));
    }
    let fault = verify(case, frames)?;
    let setup = (case.build)(frames);
    let lengths = setup.ports.iter().flatten().map(|template| {
        (
            template.bytes.len() as f64 + 4.0,
            f64::from(template.weight),
        )
    });
    let (bytes, weight) = lengths.fold((0.0, 0.0), |(bytes, sum), (length, weight)| {
        (bytes + length * weight, sum + weight)
    });
    let Setup {
        ports,
        snapshot,
        writer,
        flows,
        routes,
        flow_table,
        warm_up,
        ..
    } = setup;
    let config = EngineConfig {
        workers: options.workers,
        cores: (options.core..options.core + options.workers).collect(),
        buffers: 8192 * options.workers,
        pages: options.pages,
        burst: options.burst,
        idle: Idle::Busy,
        ..EngineConfig::default()
    };
    let state = |_| worker_state(flow_table);
    let mut engine = Engine::start(&config, &graph_nodes::graph(), snapshot, state)?;
    for port in 0..ports.len() {
        let queues = (0..options.workers).map(|worker| {
            let mut generator = sending(&ports, port);
            generator.seed = 1 + worker as u64;
            let generator = GeneratorQueue::new(&generator)?;
            let (number, workers) = (WorkerId(worker as u16), options.workers as u16);
            let queue: Box<dyn Queue> = match options.own_flows {
                true => Box::new(OwnFlows::new(generator, number, workers)),
                false => Box::new(generator),
            };
            Ok(Some(queue))
        });
        let queues = queues.collect::<Result<Vec<_>, GeneratorError>>()?;
        engine.add_port(PortId(port as u16), queues, Duration::from_secs(5))?;
    }
    // Caches and branch predictors settle.
    std::thread::sleep(Duration::from_millis(300));
    let patience = Instant::now() + WARM_UP;
    while Window::now(&engine).packets < warm_up as f64 && Instant::now() < patience {
        std::thread::sleep(WINDOW);
    }
    let core_per_tick = machine::core_per_tick();
    // Ports are added one after the other: until the last is there, packets for it are dropped.
    let before = dropped(&engine);
    let windows = whole(measure(&engine, options, &mut progress));
    let mut outcome = fault;
    let dropped = dropped(&engine) - before;
    if dropped > 0 {
        outcome.get_or_insert(format!("{dropped} packets were dropped against the clock"));
    }
    let all = Window::now(&engine);
    let infos: Vec<_> = engine.nodes().iter().map(|info| info.name).collect();
    let pool = engine.stop()?;
    drop(writer);
    if let Err(error) = pool.audit() {
        outcome.get_or_insert(error);
    }
    let mut sorted: Vec<f64> = windows.iter().map(Window::node_ticks).collect();
    sorted.sort_by(f64::total_cmp);
    let best = windows
        .iter()
        .min_by(|a, b| a.node_ticks().total_cmp(&b.node_ticks()));
    let best_of = |value: fn(&Window) -> f64| windows.iter().map(value);
    Ok(Report {
        case: case.name,
        frame_bytes: bytes / weight,
        flows,
        routes,
        workers: options.workers,
        handed_over: all.handed_over / all.packets,
        congested: all.congested / all.packets,
        ticks_min: sorted.first().copied().unwrap_or(f64::NAN),
        ticks_median: sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN),
        ticks_total_min: best_of(Window::total_ticks).fold(f64::INFINITY, f64::min),
        mpps: best_of(|window| window.packets / window.seconds / 1e6).fold(0.0, f64::max),
        nodes: best
            .map(|window| window.by_node(&infos))
            .unwrap_or_default(),
        tsc_ghz: dataplane::ticks_per_second() as f64 / 1e9,
        core_per_tick,
        verified: outcome.is_none(),
        fault: outcome,
    })
}

fn worker_state(flow_table: u32) -> WorkerState {
    let state = WorkerState::new(IcmpLimits::default());
    if flow_table == 0 {
        return state;
    }
    match FlowTable::new(&FlowConfig::new(flow_table)) {
        Ok(flows) => state.with_flows(flows),
        // Then no flow is remembered, and the case says so.
        Err(_) => state,
    }
}

/// Counters at one moment, and their differences over a window.
#[derive(Clone, Debug, Default)]
struct Window {
    /// Calls, vectors and ticks by node.
    nodes: Vec<(f64, f64, f64)>,
    busy: f64,
    packets: f64,
    /// Packets that workers handed to others, and that these did not take.
    handed_over: f64,
    congested: f64,
    seconds: f64,
}

impl Window {
    fn now(engine: &Engine<Snapshot>) -> Self {
        let mut nodes = vec![(0.0, 0.0, 0.0); engine.nodes().len()];
        let (mut busy, mut handed_over, mut congested) = (0.0, 0.0, 0.0);
        for stats in engine.all_stats() {
            for pair in &stats.handoff {
                handed_over += pair.sent.value() as f64;
                congested += pair.congested.value() as f64;
            }
            for (sum, node) in nodes.iter_mut().zip(&stats.nodes) {
                sum.0 += node.calls.value() as f64;
                sum.1 += node.vectors.value() as f64;
                sum.2 += node.ticks.value() as f64;
            }
            busy += stats.busy_ticks.value() as f64;
        }
        // The first node sees every packet once.
        let packets = nodes.first().map_or(0.0, |node| node.1);
        Self {
            nodes,
            busy,
            packets,
            handed_over,
            congested,
            seconds: 0.0,
        }
    }

    fn since(&self, earlier: &Self, elapsed: Duration) -> Self {
        let nodes = self
            .nodes
            .iter()
            .zip(&earlier.nodes)
            .map(|(now, then)| (now.0 - then.0, now.1 - then.1, now.2 - then.2));
        Self {
            nodes: nodes.collect(),
            busy: self.busy - earlier.busy,
            packets: self.packets - earlier.packets,
            handed_over: self.handed_over - earlier.handed_over,
            congested: self.congested - earlier.congested,
            seconds: elapsed.as_secs_f64(),
        }
    }

    fn node_ticks(&self) -> f64 {
        self.nodes.iter().map(|node| node.2).sum::<f64>() / self.packets
    }

    fn total_ticks(&self) -> f64 {
        self.busy / self.packets
    }

    fn by_node(&self, names: &[&'static str]) -> Vec<NodeTicks> {
        let used = names
            .iter()
            .zip(&self.nodes)
            .filter(|(_, (calls, ..))| *calls > 0.0);
        used.map(|(name, (calls, vectors, ticks))| NodeTicks {
            name,
            ticks: ticks / self.packets,
            vectors_per_call: vectors / calls,
        })
        .collect()
    }
}

/// Leaves out windows in which the worker hardly ran, because the machine gave its core to somebody else: the counters are read
/// while a turn is under way, and a window needs many turns for that not to matter.
fn whole(mut windows: Vec<Window>) -> Vec<Window> {
    let most = windows
        .iter()
        .fold(0.0, |most: f64, window| most.max(window.packets));
    windows.retain(|window| window.packets >= most / 4.0);
    // Nor does a window count in which one of several workers stood still: what the others had for it was dropped, and cost less.
    let flows = |window: &Window| window.congested <= window.handed_over / 100.0;
    if windows.iter().any(flows) {
        windows.retain(flows);
    }
    windows
}

/// Drops of the graph's nodes. A ring between two workers is full where one of them does not run, which is the machine's doing.
fn dropped(engine: &Engine<Snapshot>) -> u64 {
    let nodes = engine.all_stats().flat_map(|stats| {
        let named = engine.nodes().iter().zip(&stats.nodes);
        named.filter(|(info, _)| info.name != HANDOFF)
    });
    let nodes = nodes.map(|(_, node)| node);
    nodes
        .flat_map(|node| &node.drops)
        .map(dataplane::Counter::value)
        .sum()
}

fn measure(
    engine: &Engine<Snapshot>,
    options: &Options,
    progress: &mut impl FnMut(f64),
) -> Vec<Window> {
    let count = ((options.seconds / WINDOW.as_secs_f64()).round() as usize).max(1);
    let mut windows = Vec::with_capacity(count);
    for index in 0..count {
        let (begin, before) = (Instant::now(), Window::now(engine));
        std::thread::sleep(WINDOW);
        let (after, elapsed) = (Window::now(engine), begin.elapsed());
        let window = after.since(&before, elapsed);
        if window.packets > 0.0 {
            windows.push(window);
        }
        if index % 50 == 0 {
            progress(options.seconds * (count - index - 1) as f64 / count as f64);
        }
    }
    windows
}

/// Sends a number of packets through with every one that leaves checked; what was wrong, where something was.
fn verify(case: &Case, frames: Frames) -> Result<Option<String>, BenchError> {
    let Setup {
        ports,
        snapshot,
        writer,
        check,
        flow_table,
        ..
    } = (case.build)(frames);
    let config = EngineConfig {
        buffers: 8192,
        idle: Idle::Busy,
        clock: Clock::real(),
        ..EngineConfig::default()
    };
    let state = |_| worker_state(flow_table);
    let (mut engine, mut workers) = Engine::new(&config, &graph_nodes::graph(), snapshot, state)?;
    let mut counters = Vec::new();
    for (port, templates) in ports.iter().enumerate() {
        let mut generator = sending(&ports, port);
        if !templates.is_empty() {
            generator.limit = Some(CHECKED);
        }
        let queue =
            GeneratorQueue::new(&generator)?.checking(Box::new(move |frame| check(port, frame)));
        counters.push(queue.sink_counters());
        engine.send_queues(PortId(port as u16), vec![Some(Box::new(queue))])?;
    }
    let Some(mut worker) = workers.pop() else {
        return Ok(Some("no worker was made".into()));
    };
    while worker.turn() > 0 {}
    drop(worker);
    drop(writer);
    let (arrived, wrong) = counters.iter().fold((0, 0), |(arrived, wrong), sink| {
        (arrived + sink.packets(), wrong + sink.wrong())
    });
    let sending = ports.iter().filter(|templates| !templates.is_empty());
    let sent = CHECKED * sending.count() as u64;
    if wrong > 0 {
        return Ok(Some(format!(
            "{wrong} of {arrived} packets left with wrong contents"
        )));
    }
    if arrived != sent {
        return Ok(Some(format!("{arrived} of {sent} packets left")));
    }
    Ok(engine.pool().audit().err())
}

/// What a port receives; a port without templates receives nothing, and is there for what leaves.
fn sending(ports: &[Vec<Template>], port: usize) -> GeneratorConfig {
    let own = &ports[port];
    if !own.is_empty() {
        return GeneratorConfig::new(own.clone());
    }
    // A generator has to have something that it could send.
    let any = ports.iter().flatten().next().cloned();
    GeneratorConfig {
        limit: Some(0),
        ..GeneratorConfig::new(any.into_iter().collect())
    }
}
