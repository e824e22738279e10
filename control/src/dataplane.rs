//! The seam to the engine: how the desired state becomes live, and what the engine tells about itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use control_api::v1;
use model::{Changes, DesiredState, ObjectKey, SpecError};
use tokio::sync::mpsc;

/// What makes the desired state live. One thread calls it, one transaction at a time, in two steps, so that a transaction is
/// stored between the last thing that can fail and the first thing that packets see.
pub trait Dataplane: Send {
    /// Does everything that can fail: opens devices, compiles, reserves memory. Packets notice nothing yet.
    ///
    /// `changes` lead from what was last published to `next`. After a success, [`Dataplane::publish`] or
    /// [`Dataplane::abandon`] follows.
    ///
    /// # Errors
    ///
    /// The object that cannot be made live, and why. Nothing is prepared then.
    fn prepare(
        &mut self,
        next: &Arc<DesiredState>,
        changes: &Changes,
        generation: u64,
    ) -> Result<(), PrepareError>;

    /// Makes the prepared state live, and returns when every worker uses it.
    ///
    /// # Errors
    ///
    /// It is published, but some worker does not take it up.
    fn publish(&mut self) -> Result<(), NotLive>;

    /// Undoes the preparation.
    fn abandon(&mut self);

    /// What was made live and has ceased to be by itself: interfaces whose device is gone, or was replaced by another of the same
    /// name. [`Dataplane::prepare`] tries to make them live again. Empty where nothing can be lost.
    fn lost(&mut self) -> BTreeSet<ObjectKey> {
        BTreeSet::new()
    }
}

/// Why the dataplane cannot make a state live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct PrepareError {
    /// Whose fault it is.
    pub cause: Cause,
    /// The object, its field, and what is wrong.
    pub error: SpecError,
}

/// Whose fault it is that a valid state cannot be made live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The machine's: a device is missing, a permission is. `FAILED_PRECONDITION`.
    Environment,
    /// A configured limit is reached. `RESOURCE_EXHAUSTED`.
    Limit,
}

/// A published state that some worker does not take up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotLive(pub String);

/// What the engine tells about itself. Called from many threads at once; may block for as long as reading counters takes.
pub trait Telemetry: Send + Sync + 'static {
    /// Worker threads.
    fn workers(&self) -> u32;

    /// Rate of the time-stamp counter, in ticks per second.
    fn ticks_per_second(&self) -> u64;

    /// State and counters of every interface, sorted by name.
    fn interfaces(&self) -> Vec<v1::InterfaceState>;

    /// The routing tables as the dataplane uses them: of one VRF, or all.
    fn routes(&self, vrf: Option<&str>) -> Vec<v1::RouteEntry>;

    /// The neighbour tables, sorted by interface, then by address.
    fn neighbours(&self) -> Vec<v1::NeighbourEntry>;

    /// Work and time by worker and node.
    fn runtime(&self) -> Vec<v1::WorkerRuntime>;

    /// Drops that are not zero, most packets first.
    fn drops(&self) -> Vec<v1::DropCounter>;

    /// What each rule allowed and denied, without those that did neither; most denied packets first, then most allowed.
    fn rule_counters(&self) -> Vec<v1::RuleCounter>;

    /// The pools of translation, by name, with what they gave out.
    fn nat_pools(&self) -> Vec<v1::NatPoolState>;

    /// Starts to dump the workers' flows. The last part says that it is complete; where none does, the reader was too slow, or the
    /// engine stopped.
    ///
    /// # Errors
    ///
    /// The filter makes no sense or names what does not exist, or too many dumps run already.
    fn flows(
        &self,
        request: &v1::FlowsRequest,
    ) -> Result<mpsc::Receiver<v1::FlowsResponse>, TelemetryError>;

    /// Starts to tell of flows. Ends when the receiver is dropped, or when there are as many records as were asked for.
    ///
    /// # Errors
    ///
    /// The request makes no sense or names what does not exist, or too many listen already.
    fn flow_log(
        &self,
        request: &v1::FlowLogRequest,
    ) -> Result<mpsc::Receiver<v1::FlowLogRecord>, TelemetryError>;

    /// Starts to follow packets. Ends when the receiver is dropped, or when the sender is: then all are there.
    ///
    /// # Errors
    ///
    /// No such interface, or too many traces at once.
    fn trace(
        &self,
        request: &v1::TraceRequest,
    ) -> Result<mpsc::Receiver<v1::PacketTrace>, TelemetryError>;

    /// Starts to copy packets. Ends as [`Telemetry::trace`] does.
    ///
    /// # Errors
    ///
    /// No such interface, or too many captures at once.
    fn capture(
        &self,
        request: &v1::CaptureRequest,
    ) -> Result<mpsc::Receiver<v1::CapturedPacket>, TelemetryError>;
}

/// Why a trace, a capture, a dump or a log does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// What the client asked for does not exist.
    #[error("{0}")]
    NotFound(String),
    /// What the client asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Too many at once.
    #[error("{0}")]
    Busy(String),
}
