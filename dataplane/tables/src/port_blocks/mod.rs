//! Outside ports in blocks: which worker owns which, which host has which, which are in use.
//!
//! ```text
//! ports of one outside address, in blocks of 64; two workers:
//! │ 0..1023 not used │ 1024.. w0 │ 1088.. w1 │ 1152.. w0 │ ... │ 65472.. w1 │
//!                          │
//!      host 10.0.0.7 ──────┴─ bitmap of the 64 ports: which are in use
//! ```
//!
//! Terms are those of RFC 7753 (a host gets ports by the block) and RFC 6888. A host has all its ports
//! inside its blocks, so a log of blocks taken and given back answers "who had this address and port",
//! with a line per block instead of one per session (RFC 6888 REQ-14).
//!
//! **Workers.** A block belongs to the worker `(port / ports of a block) mod workers`, whatever the address. So the
//! owner of a port is arithmetic on the packet alone, which a receive filter can do too; every worker has
//! high and low ports of every address, and nobody's share depends on the limits of the range. Each worker
//! has its own [`PortBlocks`] and [`HostBlocks`], which share nothing: a host whose flows are spread over
//! workers has blocks from each of them, and limits count by worker. The outside address of a host is chosen by
//! arithmetic on its inside address, so that workers agree on it without asking each other.
//!
//! **Transports.** A port is given out once, whatever the transport. Who wants TCP, UDP and ICMP to have
//! the whole port space each makes three of these.

mod free;
mod hosts;
mod index;
mod layout;
mod request;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, RandomState},
};

use crate::flow::fold_product;

pub use self::{
    free::PortBlocks,
    hosts::HostBlocks,
    layout::{Block, PortLayout},
    request::{
        Allocated, GivenBack, HostBlocksConfig, HostUsage, Parity, PortGauges, PortRefusal,
        PortWish, Released,
    },
};

/// Why ports could not be laid out. [`field`](Self::field) says which value is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortBlocksError {
    /// Port 0, which nobody can use.
    PortZero,
    /// The last port is below the first.
    NoPorts {
        /// As configured.
        first: u16,
        /// As configured.
        last: u16,
    },
    /// A block has a power of two of ports, 2 to 4096.
    BlockPorts {
        /// As configured.
        block_ports: u16,
    },
    /// Some worker would own no block: there are fewer whole blocks than workers.
    TooFewBlocks {
        /// Blocks that begin and end within the range.
        blocks: u32,
        /// Number of workers.
        workers: u16,
    },
    /// A worker that is not among the workers.
    NoSuchWorker {
        /// The worker.
        worker: u16,
        /// Number of workers.
        workers: u16,
    },
    /// A number that must not be 0.
    Zero {
        /// Which.
        field: &'static str,
    },
    /// More blocks of one worker than can be numbered.
    TooManyBlocks {
        /// Blocks of the worker.
        blocks: u64,
    },
    /// The system refuses the memory.
    OutOfMemory,
}

impl PortBlocksError {
    /// The value that has to change.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NoPorts { .. } => "last_port",
            Self::BlockPorts { .. } => "block_ports",
            Self::PortZero | Self::TooFewBlocks { .. } => "first_port",
            Self::NoSuchWorker { .. } => "worker",
            Self::Zero { field } => field,
            Self::TooManyBlocks { .. } | Self::OutOfMemory => "addresses",
        }
    }
}

impl fmt::Display for PortBlocksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortZero => write!(f, "port 0 cannot be used: begin at 1 or higher"),
            Self::NoPorts { first, last } => {
                write!(f, "the last port, {last}, is below the first, {first}")
            }
            Self::BlockPorts { block_ports } => write!(
                f,
                "a block of {block_ports} ports: a power of two from 2 to 4096 is needed"
            ),
            Self::TooFewBlocks { blocks, workers } => write!(
                f,
                "{blocks} whole blocks between the first and the last port are too few for {workers} workers: \
                 widen the range or make blocks smaller"
            ),
            Self::NoSuchWorker { worker, workers } => {
                write!(f, "worker {worker} is none of the {workers} workers")
            }
            Self::Zero { field } => write!(f, "{field} must not be 0"),
            Self::TooManyBlocks { blocks } => write!(
                f,
                "{blocks} blocks are more than can be numbered: use fewer addresses or larger blocks"
            ),
            Self::OutOfMemory => write!(f, "the system refused memory for the port blocks"),
        }
    }
}

impl Error for PortBlocksError {}

/// Random enough that ports cannot be guessed from outside (RFC 6056); no cryptographic generator.
#[derive(Clone, Debug)]
struct Random {
    state: u64,
    secret: u64,
}

impl Random {
    /// Drawn from the system where no seed is given.
    fn new(seed: Option<u64>) -> Self {
        let [state, secret] = match seed {
            Some(seed) => [seed, !seed],
            None => [(); 2].map(|()| RandomState::new().hash_one(0)),
        };
        Self { state, secret }
    }

    #[inline(always)]
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0xa076_1d64_78bd_642f);
        fold_product(self.state, self.state ^ self.secret)
    }

    /// A number below `bound`; 0 where `bound` is 0.
    #[inline(always)]
    fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// `len` copies, or an error instead of the end of the process.
fn filled<T: Clone>(len: usize, item: T) -> Result<Box<[T]>, PortBlocksError> {
    let mut items = Vec::new();
    items
        .try_reserve_exact(len)
        .map_err(|_| PortBlocksError::OutOfMemory)?;
    items.resize(len, item);
    Ok(items.into_boxed_slice())
}
