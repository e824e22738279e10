//! `oncilla run`: the daemon around an engine.

use std::path::PathBuf;
use std::sync::Arc;

use control::daemon::{self, DEFAULT_STORE, Options, StoreLocation};
use control::dataplane::{Dataplane, Telemetry};
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
    /// What to log: `error`, `warn`, `info`, `debug`, or a filter such as `warn,control=debug`.
    #[arg(long, default_value = "info")]
    log: EnvFilter,
}

/// Runs the daemon until SIGINT or SIGTERM.
pub(crate) fn run(
    args: Args,
    socket: PathBuf,
    dataplane: Box<dyn Dataplane>,
    telemetry: Arc<dyn Telemetry>,
) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(args.log)
        .with_writer(std::io::stderr)
        .init();
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
            daemon::run(options, dataplane, telemetry, || (), shutdown).await?;
            Ok(())
        })
}
