//! How the ports of an address are cut into blocks, and which worker owns which block.

use super::PortBlocksError;

/// Ports in a row on one outside address, as many as the layout's blocks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    /// Number of the outside address in the caller's list.
    pub address: u32,
    /// First port.
    pub first_port: u16,
    /// Number of ports.
    pub ports: u16,
}

/// How ports are cut into blocks and blocks are dealt to workers: the same on every worker.
///
/// Blocks are aligned: a block begins at a multiple of its size, and only blocks that lie in the range
/// as a whole are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLayout {
    /// log2 of the ports of a block.
    shift: u32,
    first_port: u16,
    last_port: u16,
    workers: u16,
    /// 2^32 / workers, rounded up: multiplying by it divides numbers below 2^16 exactly.
    reciprocal: u64,
}

impl PortLayout {
    /// Ports of a block unless there is a reason: one word of bitmap.
    pub const BLOCK_PORTS: u16 = 64;

    /// Cuts the ports from `first_port` to `last_port` into blocks of `block_ports`, a power of two from 2 to 4096, and deals
    /// them to `workers`.
    ///
    /// # Errors
    /// The range has fewer whole blocks than there are workers, or an argument is not what it has to be.
    pub fn new(
        first_port: u16,
        last_port: u16,
        block_ports: u16,
        workers: u16,
    ) -> Result<Self, PortBlocksError> {
        let (first, last) = (first_port, last_port);
        if first == 0 {
            return Err(PortBlocksError::PortZero);
        }
        if last < first {
            return Err(PortBlocksError::NoPorts { first, last });
        }
        if !block_ports.is_power_of_two() || !(2..=4096).contains(&block_ports) {
            return Err(PortBlocksError::BlockPorts { block_ports });
        }
        if workers == 0 {
            return Err(PortBlocksError::Zero { field: "workers" });
        }
        let shift = block_ports.trailing_zeros();
        let first_block = u32::from(first).div_ceil(block_ports.into());
        let behind = (u32::from(last) + 1) >> shift;
        let blocks = behind.saturating_sub(first_block);
        if blocks < u32::from(workers) {
            return Err(PortBlocksError::TooFewBlocks { blocks, workers });
        }
        Ok(Self {
            shift,
            first_port: (first_block << shift) as u16,
            last_port: ((behind << shift) - 1) as u16,
            workers,
            reciprocal: (1_u64 << 32).div_ceil(workers.into()),
        })
    }

    /// The worker that owns the block of `port`, on every address: where packets to that port belong. `None` for
    /// ports of no block.
    #[inline(always)]
    pub fn worker_of(&self, port: u16) -> Option<u16> {
        self.has(port).then(|| self.deal(port).1)
    }

    /// Whether `port` belongs to a block.
    #[inline(always)]
    pub fn has(&self, port: u16) -> bool {
        (self.first_port..=self.last_port).contains(&port)
    }

    /// Ports of a block.
    pub fn block_ports(&self) -> u16 {
        1 << self.shift
    }

    /// First port of the first block.
    pub fn first_port(&self) -> u16 {
        self.first_port
    }

    /// Last port of the last block.
    pub fn last_port(&self) -> u16 {
        self.last_port
    }

    /// Number of workers.
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// How many blocks `worker` owns on every address.
    pub fn blocks_of(&self, worker: u16) -> u32 {
        if worker >= self.workers {
            return 0;
        }
        let last = u32::from(self.last_port >> self.shift);
        (last - self.first_of(worker)) / u32::from(self.workers) + 1
    }

    /// Number of the worker's first block. The worker exists.
    pub(super) fn first_of(&self, worker: u16) -> u32 {
        let (round, first_worker) = self.deal(self.first_port);
        let round = round + u16::from(worker < first_worker);
        u32::from(round) * u32::from(self.workers) + u32::from(worker)
    }

    /// The round in which the block of `port` is dealt, and the worker who gets it.
    #[inline(always)]
    pub(super) fn deal(&self, port: u16) -> (u16, u16) {
        let block = port >> self.shift;
        let round = ((u64::from(block) * self.reciprocal) >> 32) as u16;
        (round, block - round * self.workers)
    }

    /// First port of the block of `port`.
    #[inline(always)]
    pub(super) fn start(&self, port: u16) -> u16 {
        port >> self.shift << self.shift
    }

    /// log2 of the ports of a block.
    #[inline(always)]
    pub(super) fn shift(&self) -> u32 {
        self.shift
    }
}
