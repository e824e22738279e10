//! A client of the daemon: what the command line, the demo and tests use.

use std::path::{Path, PathBuf};

use control_api::Refusal;
use control_api::v1::{self, control_client::ControlClient, telemetry_client::TelemetryClient};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::server::MESSAGE_LIMIT;

/// A connection to a daemon. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Client {
    control: ControlClient<Channel>,
    telemetry: TelemetryClient<Channel>,
}

/// Why the daemon does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}: {reason}; start one with `oncilla run`, or name its socket with --socket", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It says what is wrong with the request.
    #[error("{}", .0.errors.first().map(ToString::to_string).unwrap_or_else(|| "refused".into()))]
    Refused(Refusal),
    /// It fails, or the connection does.
    #[error("{}", describe(.0))]
    Failed(Box<Status>),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match Refusal::from_status(&status) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Failed(Box::new(status)),
        }
    }
}

impl ClientError {
    /// The gRPC status code; `None` where nobody answered.
    pub fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Connect { .. } => None,
            Self::Refused(refusal) => Some(refusal.code),
            Self::Failed(status) => Some(status.code()),
        }
    }
}

impl Client {
    /// Connects to the daemon's unix socket.
    ///
    /// # Errors
    ///
    /// Nobody listens there.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // The address is a formality: the connector knows the socket.
        let channel = Endpoint::from_static("http://oncilla.invalid")
            .connect_with_connector(connector)
            .await
            .map_err(|error| ClientError::Connect {
                path: path.to_owned(),
                reason: innermost(&error),
            })?;
        Ok(Self::over(channel))
    }

    /// A client over any channel.
    pub fn over(channel: Channel) -> Self {
        Self {
            control: ControlClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT),
            telemetry: TelemetryClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT),
        }
    }

    /// Applies a transaction; answers when it is stored and live.
    ///
    /// # Errors
    ///
    /// It is refused, and nothing has changed.
    pub async fn apply(
        &mut self,
        request: v1::ApplyRequest,
    ) -> Result<v1::ApplyResponse, ClientError> {
        Ok(self.control.apply(request).await?.into_inner())
    }

    /// Creates or replaces objects, all or none.
    ///
    /// # Errors
    ///
    /// As [`Client::apply`].
    pub async fn upsert(
        &mut self,
        upserts: Vec<v1::Object>,
    ) -> Result<v1::ApplyResponse, ClientError> {
        self.apply(v1::ApplyRequest {
            upserts,
            ..v1::ApplyRequest::default()
        })
        .await
    }

    /// Removes objects, all or none.
    ///
    /// # Errors
    ///
    /// As [`Client::apply`].
    pub async fn delete(
        &mut self,
        deletes: Vec<v1::ObjectKey>,
    ) -> Result<v1::ApplyResponse, ClientError> {
        self.apply(v1::ApplyRequest {
            deletes,
            ..v1::ApplyRequest::default()
        })
        .await
    }

    /// One object.
    ///
    /// # Errors
    ///
    /// There is none.
    pub async fn object(&mut self, kind: &str, name: &str) -> Result<v1::Object, ClientError> {
        let object = Some(v1::ObjectKey {
            kind: kind.to_owned(),
            name: name.to_owned(),
        });
        Ok(self
            .control
            .get(v1::GetRequest { object })
            .await?
            .into_inner())
    }

    /// All objects of some kinds, or of all where `kinds` is empty, and their generation.
    ///
    /// # Errors
    ///
    /// A kind is unknown.
    pub async fn list(&mut self, kinds: &[&str]) -> Result<(u64, Vec<v1::Object>), ClientError> {
        let kinds = kinds.iter().map(ToString::to_string).collect();
        let mut chunks = self
            .control
            .list(v1::ListRequest { kinds })
            .await?
            .into_inner();
        let mut listing = (0, Vec::new());
        while let Some(chunk) = chunks.message().await? {
            listing.0 = chunk.generation;
            listing.1.extend(chunk.objects);
        }
        Ok(listing)
    }

    /// Watches changes.
    ///
    /// # Errors
    ///
    /// A kind is unknown, or the generation is not kept.
    pub async fn watch(
        &mut self,
        request: v1::WatchRequest,
    ) -> Result<Streaming<v1::WatchResponse>, ClientError> {
        Ok(self.control.watch(request).await?.into_inner())
    }

    /// Which daemon this is and how it is.
    ///
    /// # Errors
    ///
    /// The connection fails; so for all that follow.
    pub async fn info(&mut self) -> Result<v1::InfoResponse, ClientError> {
        Ok(self.telemetry.info(v1::InfoRequest {}).await?.into_inner())
    }

    /// State and counters of every interface.
    ///
    /// # Errors
    ///
    /// The connection fails.
    pub async fn interfaces(&mut self) -> Result<v1::InterfacesResponse, ClientError> {
        Ok(self
            .telemetry
            .interfaces(v1::InterfacesRequest {})
            .await?
            .into_inner())
    }

    /// The routing tables as the dataplane uses them.
    ///
    /// # Errors
    ///
    /// No such VRF, or the connection fails.
    pub async fn routes(&mut self, vrf: Option<&str>) -> Result<v1::RoutesResponse, ClientError> {
        let request = v1::RoutesRequest {
            vrf: vrf.map(str::to_owned),
        };
        let mut chunks = self.telemetry.routes(request).await?.into_inner();
        let mut dump = v1::RoutesResponse::default();
        while let Some(chunk) = chunks.message().await? {
            dump.routes.extend(chunk.routes);
        }
        Ok(dump)
    }

    /// The neighbour tables.
    ///
    /// # Errors
    ///
    /// The connection fails.
    pub async fn neighbours(&mut self) -> Result<v1::NeighboursResponse, ClientError> {
        Ok(self
            .telemetry
            .neighbours(v1::NeighboursRequest {})
            .await?
            .into_inner())
    }

    /// Work and time by worker and node.
    ///
    /// # Errors
    ///
    /// The connection fails.
    pub async fn runtime(&mut self) -> Result<v1::RuntimeResponse, ClientError> {
        Ok(self
            .telemetry
            .runtime(v1::RuntimeRequest {})
            .await?
            .into_inner())
    }

    /// Dropped packets by node and reason.
    ///
    /// # Errors
    ///
    /// The connection fails.
    pub async fn drops(&mut self) -> Result<v1::DropsResponse, ClientError> {
        Ok(self
            .telemetry
            .drops(v1::DropsRequest {})
            .await?
            .into_inner())
    }

    /// What each rule allowed and denied.
    ///
    /// # Errors
    ///
    /// The connection fails.
    pub async fn rule_counters(
        &mut self,
        denied_only: bool,
    ) -> Result<v1::RuleCountersResponse, ClientError> {
        Ok(self
            .telemetry
            .rule_counters(v1::RuleCountersRequest { denied_only })
            .await?
            .into_inner())
    }

    /// The pools of translation, and what they gave out.
    ///
    /// # Errors
    ///
    /// The connection fails.
    pub async fn nat_pools(&mut self) -> Result<v1::NatPoolsResponse, ClientError> {
        Ok(self
            .telemetry
            .nat_pools(v1::NatPoolsRequest {})
            .await?
            .into_inner())
    }

    /// The flows that the workers remember.
    ///
    /// # Errors
    ///
    /// The filter makes no sense, or too many dumps run already.
    pub async fn flows(
        &mut self,
        request: v1::FlowsRequest,
    ) -> Result<Streaming<v1::FlowsResponse>, ClientError> {
        Ok(self.telemetry.flows(request).await?.into_inner())
    }

    /// Flows as they begin and end.
    ///
    /// # Errors
    ///
    /// The filter makes no sense, or too many clients listen already.
    pub async fn flow_log(
        &mut self,
        request: v1::FlowLogRequest,
    ) -> Result<Streaming<v1::FlowLogRecord>, ClientError> {
        Ok(self.telemetry.flow_log(request).await?.into_inner())
    }

    /// Follows packets through the nodes.
    ///
    /// # Errors
    ///
    /// No such interface, or too many at once.
    pub async fn trace(
        &mut self,
        request: v1::TraceRequest,
    ) -> Result<Streaming<v1::PacketTrace>, ClientError> {
        Ok(self.telemetry.trace(request).await?.into_inner())
    }

    /// Copies packets at interfaces.
    ///
    /// # Errors
    ///
    /// No such interface, or too many at once.
    pub async fn capture(
        &mut self,
        request: v1::CaptureRequest,
    ) -> Result<Streaming<v1::CapturedPacket>, ClientError> {
        Ok(self.telemetry.capture(request).await?.into_inner())
    }
}

fn describe(status: &Status) -> String {
    match status.code() {
        tonic::Code::Unknown | tonic::Code::Unavailable
            if status.message().contains("transport") =>
        {
            "the connection to the daemon was lost".to_owned()
        }
        _ => status.message().to_owned(),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
