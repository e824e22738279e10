//! `oncilla run`: the daemon around an engine.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use control::daemon::{self, DEFAULT_STORE, Options, StoreLocation};
use control::engine::{EngineOptions, Gateway, Idle, Pages};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Arguments of `oncilla run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file or directory of objects to apply at the start, on top of what is stored; may be repeated.
    #[arg(short, long, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// Where the desired state is kept: a path, or `memory` to begin empty each time.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_STORE)]
    store: String,
    /// Worker threads, each with its share of every device.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=255))]
    workers: u16,
    /// Cores of the workers in order, such as `2,3`; without it, the kernel places them.
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Packet buffers of 2 KiB, for all workers together.
    #[arg(long, value_name = "COUNT", default_value_t = 32_768, value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    buffers: u32,
    /// Use reserved 2 MiB pages for the buffers where there are some.
    #[arg(long)]
    hugepages: bool,
    /// Packets that a worker takes from a device at a time.
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=256))]
    burst: u16,
    /// Microseconds that an idle worker polls before it sleeps; `busy` for a worker that never sleeps.
    #[arg(long, value_name = "MICROSECONDS", default_value = "20", value_parser = idle)]
    poll: Idle,
    /// Nice value of the workers, so that packets do not wait behind programs on the same cores; where the kernel does not
    /// allow it, workers run like others.
    #[arg(long, value_name = "NICE", default_value_t = -10, allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: i32,
    /// The name of this node, by which endpoints of policy say where they are; the host's name without it.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// What to log: `error`, `warn`, `info`, `debug`, or a filter such as `warn,control=debug`.
    #[arg(long, default_value = "info")]
    log: EnvFilter,
}

/// Runs the daemon until SIGINT or SIGTERM.
pub(crate) fn run(args: Args, socket: PathBuf) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(args.log)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let workers = usize::from(args.workers);
    if !args.cores.is_empty() && args.cores.len() != workers {
        let cores = args.cores.len();
        anyhow::bail!("--cores names {cores} cores for {workers} workers: name one for each");
    }
    let mut engine = EngineOptions::default();
    engine.engine.workers = workers;
    engine.engine.cores = args.cores;
    engine.engine.buffers = args.buffers as usize;
    engine.engine.burst = usize::from(args.burst);
    engine.engine.idle = args.poll;
    engine.engine.nice = Some(args.nice);
    engine.node = match args.node {
        Some(node) => node,
        None => host_name().context("the host has no name: give one with --node")?,
    };
    if args.hugepages {
        engine.engine.pages = Pages::Reserved;
    }
    let gateway = Gateway::start(engine).context("the packet engine does not start")?;
    let store = StoreLocation::from(args.store.as_str());
    let options = Options {
        socket,
        store,
        config: args.config,
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let shutdown = async move {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            let dataplane = Box::new(gateway.clone());
            daemon::run(
                options,
                dataplane,
                Arc::new(gateway.clone()),
                || (),
                shutdown,
            )
            .await?;
            anyhow::Ok(())
        })?;
    // A buffer that is missing now was lost on its way: a defect that must not go unnoticed.
    let pool = gateway.stop().context("the packet engine does not stop")?;
    pool.audit()
        .map_err(anyhow::Error::msg)
        .context("the buffer pool is not balanced")
}

fn host_name() -> std::io::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    Ok(name.trim().to_lowercase())
}

fn idle(text: &str) -> Result<Idle, String> {
    if text == "busy" {
        return Ok(Idle::Busy);
    }
    let spin_us: u64 = text
        .parse()
        .map_err(|_| "give microseconds, or `busy`".to_owned())?;
    Ok(Idle::Adaptive {
        spin_ns: spin_us.saturating_mul(1000),
    })
}
