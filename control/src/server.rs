//! The gRPC services, and the socket they listen on.

mod stored;

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_api::v1::{self, control_server::ControlServer, telemetry_server::TelemetryServer};
use control_api::{FILE_DESCRIPTOR_SET, KINDS};
use model::Kind;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::convert;
use crate::dataplane::{Telemetry, TelemetryError};
use crate::desired::Desired;
use crate::watch::{Event, Stale, Subscription};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/oncilla/oncilla.sock";

/// Bytes of the largest request and response.
pub const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;

/// Clients at one time.
const CONNECTIONS: usize = 256;

/// Requests of one client at one time.
const REQUESTS_PER_CONNECTION: usize = 64;

/// Objects or routes in one part of a listing.
const CHUNK: usize = 1000;

/// Parts of a stream that wait for a slow client.
const STREAM_QUEUE: usize = 16;

/// What the services need.
#[derive(Clone)]
pub struct Services {
    desired: Desired,
    telemetry: Arc<dyn Telemetry>,
    started: Instant,
    store: Arc<str>,
    stopping: watch::Receiver<bool>,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another daemon listens on the socket.
    #[error("another daemon listens on {}: stop it, or choose another --socket", .0.display())]
    InUse(PathBuf),
    /// What is at the path is no socket.
    #[error("{} exists and is no socket: remove it, or choose another --socket", .0.display())]
    NoSocket(PathBuf),
    /// The file system refuses.
    #[error("cannot listen on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The transport fails.
    #[error("the server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The descriptors do not fit together.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A socket that clients can connect to. Dropping it takes it away.
#[derive(Debug)]
pub struct Socket {
    listener: Option<UnixListener>,
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Listens at a path, for its owner and group (mode 0660). Takes the place of a socket that nobody listens on any more. Must be called
    /// inside a Tokio runtime.
    ///
    /// # Errors
    ///
    /// Another daemon listens there, or the file system refuses.
    pub async fn bind(path: &Path) -> Result<Self, ServeError> {
        let listen = |source| ServeError::Listen {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            std::fs::create_dir_all(parent).map_err(listen)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ServeError::NoSocket(path.to_owned()));
            }
            Ok(_) if UnixStream::connect(path).await.is_ok() => {
                return Err(ServeError::InUse(path.to_owned()));
            }
            _ => {}
        }
        // Under another name until its mode is right; then it takes the place of a stale one in one step.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(listen)?;
        let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o660))
            .and_then(|()| std::fs::rename(&fresh, path))
            .and_then(|()| std::fs::symlink_metadata(path));
        match placed {
            Ok(metadata) => Ok(Self {
                listener: Some(listener),
                path: path.to_owned(),
                identity: (metadata.dev(), metadata.ino()),
            }),
            Err(error) => {
                let _ = std::fs::remove_file(&fresh);
                Err(listen(error))
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Only ours: another daemon may have taken the place since.
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Services {
    /// Services over a desired state and an engine. `store` says where the state is kept; streams end when `stopping` turns true.
    pub fn new(
        desired: Desired,
        telemetry: Arc<dyn Telemetry>,
        store: &str,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            desired,
            telemetry,
            started: Instant::now(),
            store: store.into(),
            stopping,
        }
    }

    /// Serves until `stopping` turns true, then lets requests finish.
    ///
    /// # Errors
    ///
    /// The transport fails.
    pub async fn serve(self, mut socket: Socket) -> Result<(), ServeError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ControlServer<Self>>().await;
        health.set_serving::<TelemetryServer<Self>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let control = ControlServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let telemetry = TelemetryServer::new(self.clone()).max_encoding_message_size(MESSAGE_LIMIT);
        let listener = socket
            .listener
            .take()
            .ok_or_else(|| ServeError::InUse(socket.path.clone()))?;
        let mut stopping = self.stopping.clone();
        drop(self);
        tonic::transport::Server::builder()
            .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION)
            .max_concurrent_streams(2 * REQUESTS_PER_CONNECTION as u32)
            .http2_keepalive_interval(Some(Duration::from_secs(60)))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(control)
            .add_service(telemetry)
            .serve_with_incoming_shutdown(connections(listener), async move {
                // A sender that is gone means the same.
                let _ = stopping.wait_for(|stopping| *stopping).await;
            })
            .await?;
        Ok(())
    }

    /// Feeds a stream to a client until it is done, the client is gone, or the daemon stops.
    fn stream<T: Send + 'static, F>(
        &self,
        feed: impl FnOnce(mpsc::Sender<Result<T, Status>>) -> F,
    ) -> Replies<T>
    where
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
        let mut stopping = self.stopping.clone();
        let work = feed(sender.clone());
        tokio::spawn(async move {
            let end = tokio::select! {
                end = work => end,
                () = sender.closed() => Ok(()),
                _ = stopping.wait_for(|stopping| *stopping) => {
                    Err(Status::unavailable("the daemon is stopping"))
                }
            };
            if let Err(status) = end {
                let _ = sender.send(Err(status)).await;
            }
        });
        ReceiverStream::new(receiver)
    }

    /// Reads from the engine off the runtime's threads.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Telemetry) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let telemetry = Arc::clone(&self.telemetry);
        tokio::task::spawn_blocking(move || read(&*telemetry))
            .await
            .map_err(|_| Status::internal("reading from the engine failed; see the daemon's log"))
    }
}

type Replies<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl v1::control_server::Control for Services {
    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        match self.desired.apply(request.into_inner()).await {
            Ok(response) => Ok(Response::new(response)),
            Err(refusal) => Err(refusal.to_status()),
        }
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::Object>, Status> {
        let Some(key) = request.into_inner().object else {
            return Err(Status::invalid_argument("object: required"));
        };
        let typed =
            convert::to_key(&key).map_err(|error| Status::invalid_argument(error.message))?;
        let view = self.desired.hub().view();
        match view.objects.get(&typed) {
            Some(object) => Ok(Response::new(v1::Object::clone(object))),
            None => Err(Status::not_found(format!("{key} does not exist"))),
        }
    }

    type ListStream = Replies<v1::ListResponse>;

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let kinds = kinds(&request.into_inner().kinds)?;
        let view = self.desired.hub().view();
        Ok(Response::new(self.stream(|sender| async move {
            let generation = view.generation;
            for chunk in chunks(view.of_kinds(&kinds)) {
                let objects = chunk.objects;
                if sender
                    .send(Ok(v1::ListResponse {
                        generation,
                        objects,
                    }))
                    .await
                    .is_err()
                {
                    break;
                }
            }
            Ok(())
        })))
    }

    type WatchStream = Replies<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let kinds = kinds(&request.kinds)?;
        let subscription = self
            .desired
            .hub()
            .subscribe(request.from_generation)
            .map_err(|stale| resync(&stale))?;
        let listing = request.from_generation.is_none();
        Ok(Response::new(self.stream(|sender| {
            feed_watch(sender, subscription, kinds, listing)
        })))
    }
}

async fn feed_watch(
    sender: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    subscription: Subscription,
    kinds: BTreeSet<Kind>,
    listing: bool,
) -> Result<(), Status> {
    let Subscription {
        view,
        missed,
        mut events,
    } = subscription;
    let mut known = view.generation;
    if listing {
        for chunk in chunks(view.of_kinds(&kinds)) {
            let response = v1::WatchResponse {
                generation: known,
                listing: !chunk.last,
                upserts: chunk.objects,
                deletes: Vec::new(),
            };
            if sender.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
    }
    drop(view); // an idle watcher keeps no old state alive
    for event in missed {
        if sender
            .send(Ok(watch_response(&event, &kinds)))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
    loop {
        match events.recv().await {
            Ok(event) => {
                known = event.generation;
                if sender
                    .send(Ok(watch_response(&event, &kinds)))
                    .await
                    .is_err()
                {
                    return Ok(());
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                return Err(resync(&format!(
                    "the watcher fell too far behind after generation {known}: start again with a full listing"
                )));
            }
            Err(broadcast::error::RecvError::Closed) => {
                return Err(Status::unavailable("the daemon is stopping"));
            }
        }
    }
}

fn watch_response(event: &Event, kinds: &BTreeSet<Kind>) -> v1::WatchResponse {
    let wanted =
        |kind: Option<Kind>| kinds.is_empty() || kind.is_some_and(|kind| kinds.contains(&kind));
    v1::WatchResponse {
        generation: event.generation,
        listing: false,
        upserts: event
            .upserts
            .iter()
            .filter(|object| wanted(object.kind.parse().ok()))
            .map(|object| v1::Object::clone(object))
            .collect(),
        deletes: event
            .deletes
            .iter()
            .filter(|key| wanted(Some(key.kind)))
            .map(convert::from_key)
            .collect(),
    }
}

fn resync(reason: &impl ToString) -> Status {
    Status::out_of_range(reason.to_string())
}

impl From<Stale> for Status {
    fn from(stale: Stale) -> Self {
        resync(&stale)
    }
}

struct Chunk {
    objects: Vec<v1::Object>,
    last: bool,
}

/// Cuts a listing into parts; there is always at least one.
fn chunks<'a>(objects: impl Iterator<Item = &'a Arc<v1::Object>>) -> impl Iterator<Item = Chunk> {
    let mut objects = objects.peekable();
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let part = objects
            .by_ref()
            .take(CHUNK)
            .map(|object| v1::Object::clone(object))
            .collect();
        done = objects.peek().is_none();
        Some(Chunk {
            objects: part,
            last: done,
        })
    })
}

fn kinds(names: &[String]) -> Result<BTreeSet<Kind>, Status> {
    names
        .iter()
        .map(|name| {
            name.parse()
                .map_err(|error| Status::invalid_argument(format!("kinds: {error}")))
        })
        .collect()
}

#[tonic::async_trait]
impl v1::telemetry_server::Telemetry for Services {
    async fn info(
        &self,
        _request: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        let view = self.desired.hub().view();
        let mut objects: std::collections::BTreeMap<String, u64> =
            KINDS.iter().map(|kind| (kind.to_string(), 0)).collect();
        for key in view.objects.keys() {
            *objects.entry(key.kind.to_string()).or_default() += 1;
        }
        Ok(Response::new(v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: view.generation,
            objects,
            not_live: view.not_live.clone(),
            workers: self.telemetry.workers(),
            ticks_per_second: self.telemetry.ticks_per_second(),
            store: self.store.to_string(),
        }))
    }

    async fn interfaces(
        &self,
        _request: Request<v1::InterfacesRequest>,
    ) -> Result<Response<v1::InterfacesResponse>, Status> {
        let mut interfaces = self.read(|telemetry| telemetry.interfaces()).await?;
        stored::add_stored(&mut interfaces, &self.desired.hub().view());
        Ok(Response::new(v1::InterfacesResponse { interfaces }))
    }

    type RoutesStream = Replies<v1::RoutesResponse>;

    async fn routes(
        &self,
        request: Request<v1::RoutesRequest>,
    ) -> Result<Response<Self::RoutesStream>, Status> {
        let vrf = request.into_inner().vrf;
        if let Some(name) = vrf
            .as_deref()
            .filter(|name| *name != model::VrfName::DEFAULT)
        {
            let key = model::ObjectKey::new(Kind::Vrf, name);
            if !self.desired.hub().view().objects.contains_key(&key) {
                return Err(Status::not_found(format!("{key} does not exist")));
            }
        }
        let routes = self
            .read(move |telemetry| telemetry.routes(vrf.as_deref()))
            .await?;
        Ok(Response::new(self.stream(|sender| async move {
            let mut routes = routes.into_iter().peekable();
            loop {
                let chunk = v1::RoutesResponse {
                    routes: routes.by_ref().take(CHUNK).collect(),
                };
                if sender.send(Ok(chunk)).await.is_err() || routes.peek().is_none() {
                    return Ok(());
                }
            }
        })))
    }

    async fn neighbours(
        &self,
        _request: Request<v1::NeighboursRequest>,
    ) -> Result<Response<v1::NeighboursResponse>, Status> {
        let neighbours = self.read(|telemetry| telemetry.neighbours()).await?;
        Ok(Response::new(v1::NeighboursResponse { neighbours }))
    }

    async fn runtime(
        &self,
        _request: Request<v1::RuntimeRequest>,
    ) -> Result<Response<v1::RuntimeResponse>, Status> {
        let ticks_per_second = self.telemetry.ticks_per_second();
        let workers = self.read(|telemetry| telemetry.runtime()).await?;
        Ok(Response::new(v1::RuntimeResponse {
            workers,
            ticks_per_second,
        }))
    }

    async fn drops(
        &self,
        _request: Request<v1::DropsRequest>,
    ) -> Result<Response<v1::DropsResponse>, Status> {
        let drops = self.read(|telemetry| telemetry.drops()).await?;
        Ok(Response::new(v1::DropsResponse { drops }))
    }

    async fn rule_counters(
        &self,
        request: Request<v1::RuleCountersRequest>,
    ) -> Result<Response<v1::RuleCountersResponse>, Status> {
        let mut rules = self.read(|telemetry| telemetry.rule_counters()).await?;
        if request.into_inner().denied_only {
            rules.retain(|rule| rule.denied > 0);
        }
        Ok(Response::new(v1::RuleCountersResponse { rules }))
    }

    async fn nat_pools(
        &self,
        _request: Request<v1::NatPoolsRequest>,
    ) -> Result<Response<v1::NatPoolsResponse>, Status> {
        let pools = self.read(|telemetry| telemetry.nat_pools()).await?;
        Ok(Response::new(v1::NatPoolsResponse { pools }))
    }

    type FlowsStream = Replies<v1::FlowsResponse>;

    async fn flows(
        &self,
        request: Request<v1::FlowsRequest>,
    ) -> Result<Response<Self::FlowsStream>, Status> {
        let request = request.into_inner();
        let parts = self
            .read(move |telemetry| telemetry.flows(&request))
            .await?
            .map_err(refused)?;
        Ok(Response::new(
            self.stream(|sender| forward(parts, sender, 0)),
        ))
    }

    type FlowLogStream = Replies<v1::FlowLogRecord>;

    async fn flow_log(
        &self,
        request: Request<v1::FlowLogRequest>,
    ) -> Result<Response<Self::FlowLogStream>, Status> {
        let request = request.into_inner();
        let records = self
            .read(move |telemetry| telemetry.flow_log(&request))
            .await?
            .map_err(refused)?;
        Ok(Response::new(
            self.stream(|sender| forward(records, sender, 0)),
        ))
    }

    type TraceStream = Replies<v1::PacketTrace>;

    async fn trace(
        &self,
        request: Request<v1::TraceRequest>,
    ) -> Result<Response<Self::TraceStream>, Status> {
        let request = request.into_inner();
        let count = request.count;
        let packets = self
            .read(move |telemetry| telemetry.trace(&request))
            .await?
            .map_err(refused)?;
        Ok(Response::new(
            self.stream(|sender| forward(packets, sender, count)),
        ))
    }

    type CaptureStream = Replies<v1::CapturedPacket>;

    async fn capture(
        &self,
        request: Request<v1::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let request = request.into_inner();
        if let Some(direction) = &request.direction
            && !matches!(direction.as_str(), "rx" | "tx")
        {
            return Err(Status::invalid_argument(format!(
                "direction: {direction:?} is none; there are rx and tx"
            )));
        }
        let count = request.count;
        let packets = self
            .read(move |telemetry| telemetry.capture(&request))
            .await?
            .map_err(refused)?;
        Ok(Response::new(
            self.stream(|sender| forward(packets, sender, count)),
        ))
    }
}

/// Passes on what the engine sends, up to `count` where that is not 0.
async fn forward<T>(
    mut packets: mpsc::Receiver<T>,
    sender: mpsc::Sender<Result<T, Status>>,
    count: u32,
) -> Result<(), Status> {
    let mut sent = 0;
    while let Some(packet) = packets.recv().await {
        if sender.send(Ok(packet)).await.is_err() {
            break;
        }
        sent += 1;
        if sent == count {
            break;
        }
    }
    Ok(())
}

fn refused(error: TelemetryError) -> Status {
    match error {
        TelemetryError::NotFound(message) => Status::not_found(message),
        TelemetryError::Invalid(message) => Status::invalid_argument(message),
        TelemetryError::Busy(message) => Status::resource_exhausted(message),
    }
}

/// Accepts clients, [`CONNECTIONS`] at one time; more wait in the kernel's backlog.
fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    if sender
                        .send(Ok(Connection {
                            stream,
                            _place: place,
                        }))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    ReceiverStream::new(receiver).map(|connection| connection)
}

/// A client's connection, and its place among those that are allowed.
struct Connection {
    stream: UnixStream,
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = tonic::transport::server::UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl tokio::io::AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
