//! The daemon: store, desired state and server, around an engine.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_api::{Refusal, v1};
use tokio::sync::watch;

use crate::dataplane::{Dataplane, Telemetry};
use crate::desired::{Desired, StartError};
use crate::server::{DEFAULT_SOCKET, ServeError, Services, Socket};
use crate::store::{FileStore, MemoryStore, Store, StoreError};
use crate::yaml::{self, LoadError};

/// Where the desired state is kept unless told otherwise.
pub const DEFAULT_STORE: &str = "/var/lib/oncilla/desired.redb";

/// How long clients may take to finish when the daemon is told to stop: one that does not read must not keep it.
const CLIENTS_GRACE: Duration = Duration::from_secs(1);

/// How long transactions may take then that have been begun.
const OWNER_GRACE: Duration = Duration::from_secs(5);

/// How a daemon runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub socket: PathBuf,
    /// Where the desired state is kept.
    pub store: StoreLocation,
    /// Files whose objects are applied at the start, as one transaction on top of what is stored.
    pub config: Vec<PathBuf>,
}

/// The usual places.
impl Default for Options {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            store: StoreLocation::File(DEFAULT_STORE.into()),
            config: Vec::new(),
        }
    }
}

/// Where the desired state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// In a file that survives a restart.
    File(PathBuf),
    /// Nowhere: a restart begins empty.
    Memory,
}

/// A path, or `memory`.
impl From<&str> for StoreLocation {
    fn from(text: &str) -> Self {
        match text {
            "memory" => Self::Memory,
            path => Self::File(path.into()),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// Why a daemon does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration files cannot be read as objects.
    #[error("{}", join(.0))]
    Load(Vec<LoadError>),
    /// The objects of the configuration files are refused.
    #[error("the configuration is refused: {}", join(&.0.errors))]
    Config(Refusal),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored state does not come up.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The server does not run.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A bug: the owner of the desired state ended before it was told to.
    #[error("the owner of the desired state has stopped by a panic; the log says where")]
    Died,
}

/// Runs a daemon until `shutdown` resolves. When it is `ready`, the stored state and the configuration are live and clients can connect.
///
/// # Errors
///
/// It does not start, or has to stop.
pub async fn run(
    options: Options,
    dataplane: Box<dyn Dataplane>,
    telemetry: Arc<dyn Telemetry>,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let upserts = load(&options.config)?;
    // The socket first: it shows that another daemon runs before anything is touched.
    let socket = Socket::bind(&options.socket).await?;
    let store: Box<dyn Store> = match &options.store {
        StoreLocation::File(path) => Box::new(FileStore::open(path)?),
        StoreLocation::Memory => Box::new(MemoryStore::default()),
    };
    // Blocks while nothing else runs yet.
    let (desired, mut ended) = Desired::start(store, dataplane)?;
    if !upserts.is_empty() {
        let request = v1::ApplyRequest {
            upserts,
            ..v1::ApplyRequest::default()
        };
        desired.apply(request).await.map_err(DaemonError::Config)?;
    }
    let (stop, stopping) = watch::channel(false);
    let owner = desired.clone();
    let services = Services::new(desired, telemetry, &options.store.to_string(), stopping);
    let mut serving = std::pin::pin!(services.serve(socket));
    ready();
    tracing::info!(socket = %options.socket.display(), store = %options.store, "running");
    let early = tokio::select! {
        result = &mut serving => Some(result.map_err(DaemonError::from)),
        _ = &mut ended => return Err(DaemonError::Died),
        () = shutdown => None,
    };
    let result = match early {
        Some(result) => result,
        None => {
            // Told to stop: streams end, requests finish.
            let _ = stop.send(true);
            match tokio::time::timeout(CLIENTS_GRACE, serving).await {
                Ok(result) => result.map_err(DaemonError::from),
                Err(_) => {
                    tracing::warn!(
                        "clients did not finish within {CLIENTS_GRACE:?} and are cut off"
                    );
                    Ok(())
                }
            }
        }
    };
    // The owner finishes what it has and gives up dataplane and store. Clients that were cut off may still hold handles.
    let closed = async {
        owner.close().await;
        ended.await
    };
    let _ = tokio::time::timeout(OWNER_GRACE, closed).await;
    tracing::info!("stopped");
    result
}

fn load(paths: &[PathBuf]) -> Result<Vec<v1::Object>, DaemonError> {
    let documents = yaml::load_paths(paths).map_err(DaemonError::Load)?;
    Ok(documents
        .into_iter()
        .map(|document| document.object)
        .collect())
}

fn join(errors: &[impl ToString]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
