//! The packet engine: buffers, frames, a graph of nodes, workers, ports, and the publication of snapshots.
//!
//! It knows no protocol. Packets enter at a port, travel as [`Descriptor`]s in [`Frame`]s from node to node, and leave
//! at a port or in a counted drop:
//!
//! ```text
//! Queue::rx ─► Frame ─► first node ─► … nodes … ─► port-tx ─► Queue::tx          one worker; never blocks
//!                          ▲ reads only
//!               Snapshot ──┘ published by control through Publisher / Reader
//! ```
//!
//! - [`Pool`], [`Buffers`], [`Descriptor`]: memory of packets, and the handle that owns one.
//! - [`Node`], [`Context`], [`Frame`], [`Verdict`]: what a network function is.
//! - [`GraphSpec`]: which nodes there are; edges are checked by name.
//! - [`Engine`], [`Worker`]: running it all. [`Queue`]: what a port must do.
#![deny(unsafe_code)]

mod buffer;
mod engine;
mod event;
mod feature;
mod frame;
mod graph;
mod handoff;
mod harness;
mod node;
mod port;
pub mod publish;
mod record;
mod rng;
mod stats;
mod sync;
mod testing;
mod time;
mod trace;
mod worker;

pub use buffer::{
    BufferView, Buffers, ChainBuilder, DATA_SIZE, Descriptor, Flags, HEADROOM, MAX_PACKET, Offload,
    Pages, Pool, PoolError, STRIDE, Segmentation, Segments,
};
pub use engine::{Engine, EngineConfig, EngineError};
pub use event::{Event, set_nice, wait_readable};
pub use feature::{Features, NO_FEATURES};
pub use frame::{Decision, DropReason, FRAME_SIZE, Frame, NextNode, NoDrop, NoNext, Verdict};
pub use graph::{GraphError, GraphSpec, NodeInfo, PORT_TX, PORT_TX_DROPS, UNDECIDED};
pub use handoff::{HANDOFF, HANDOFF_DROPS, HandoffStats, OWNER_FACTORS, owner_of};
pub use harness::{Collected, NodeHarness, TestPacket};
pub use node::{Context, Node, PuntHeader, Snapshot, WorkerId};
pub use port::{PortCapabilities, PortId, Queue, QueueCounters};
pub use record::{RecordReader, RecordWriter, record_ring};
pub use rng::Rng;
pub use stats::{
    Counter, InterfaceCounter, InterfaceStats, MAX_INTERFACES, NodeStats, PortStats, WorkerStats,
};
pub use testing::{MemoryPort, MemoryWire, NullQueue, memory_pair};
pub use time::{Clock, ticks, ticks_per_second};
pub use trace::{CaptureFilter, CaptureHeader, Direction, TRACE_BYTES, TRACE_RX, TraceRecord};
pub use worker::{Idle, Worker};

/// Begins to load the cache line at an address, which may be any.
#[inline(always)]
#[expect(unsafe_code, reason = "prefetching is an intrinsic")]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // JUSTIFICATION: there is no safe prefetch on stable Rust.
    // SAFETY: a prefetch of any address, mapped or not, has no effect but on caches.
    unsafe {
        core::arch::x86_64::_mm_prefetch(address.cast::<i8>(), core::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(target_arch = "aarch64")]
    // JUSTIFICATION: as above.
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
