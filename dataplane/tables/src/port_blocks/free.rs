//! The free blocks of one worker.

use super::{Block, PortBlocksError, PortLayout, Random, filled};

/// Which of a worker's blocks are free, on every outside address: a bitmap each.
///
/// Every search begins at a random block (RFC 6056 section 3.3.1), so that who knows one host's block
/// does not know the next one's. It reads 1 word as long as free blocks are not rare, at most all of an
/// address (16 for the blocks of 64 ports above 1023).
///
/// No allocation after construction. Memory: a bit per block and 4 bytes per address.
///
/// ```
/// use tables::{PortBlocks, PortLayout};
///
/// let layout = PortLayout::new(1024, 65535, PortLayout::BLOCK_PORTS, 2)?;
/// let mut mine = PortBlocks::new(layout, 1, 8, None)?;
/// assert_eq!(mine.free_on(7), 504);
/// let block = mine.take(7).ok_or("exhausted")?;
/// assert_eq!(layout.worker_of(block.first_port), Some(1));
/// assert!(mine.give_back(block));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PortBlocks {
    layout: PortLayout,
    worker: u16,
    addresses: u32,
    /// Blocks on each address.
    per_address: u32,
    /// Number of the first block: number `i` of an address is block `first + i * workers`.
    first: u32,
    /// Words of bitmap of each address.
    words: usize,
    /// A set bit is a free block.
    bits: Box<[u64]>,
    /// Free blocks by address.
    free: Box<[u32]>,
    all_free: u32,
    random: Random,
}

impl PortBlocks {
    /// All blocks that `worker` owns on so many addresses, all free. With a seed, blocks are taken in a reproducible order:
    /// for tests.
    ///
    /// # Errors
    /// No address, a worker that is not there, more than 2^31 blocks, or the system refuses the memory.
    pub fn new(
        layout: PortLayout,
        worker: u16,
        addresses: u32,
        seed: Option<u64>,
    ) -> Result<Self, PortBlocksError> {
        let workers = layout.workers();
        if worker >= workers {
            return Err(PortBlocksError::NoSuchWorker { worker, workers });
        }
        if addresses == 0 {
            return Err(PortBlocksError::Zero { field: "addresses" });
        }
        let per_address = layout.blocks_of(worker);
        let blocks = u64::from(addresses) * u64::from(per_address);
        if blocks > 1 << 31 {
            return Err(PortBlocksError::TooManyBlocks { blocks });
        }
        let words = per_address.div_ceil(64) as usize;
        let mut bits = filled(words * addresses as usize, u64::MAX)?;
        let rest = per_address % 64;
        if rest != 0 {
            for last in bits.iter_mut().skip(words - 1).step_by(words) {
                *last = (1 << rest) - 1;
            }
        }
        Ok(Self {
            layout,
            worker,
            addresses,
            per_address,
            first: layout.first_of(worker),
            words,
            bits,
            free: filled(addresses as usize, per_address)?,
            all_free: blocks as u32,
            random: Random::new(seed),
        })
    }

    /// Takes a free block of this address; `None` where it has none, or is not there.
    #[inline]
    pub fn take(&mut self, address: u32) -> Option<Block> {
        if self.free_on(address) == 0 {
            return None;
        }
        let start = self.random.below(self.per_address) as usize;
        let first = address as usize * self.words;
        let bits = &self.bits[first..first + self.words];
        let upper = u64::MAX << (start % 64);
        let from_start = bits[start / 64] & upper;
        let (word, found) = if from_start != 0 {
            (start / 64, from_start)
        } else {
            // The word of the start comes again at the end, with what lies before the start.
            let words = (start / 64 + 1..self.words).chain(0..=start / 64);
            let mut words = words.map(|word| (word, bits[word]));
            words.find(|(_, bits)| *bits != 0)?
        };
        let number = word as u32 * 64 + found.trailing_zeros();
        self.mark(address, number, false);
        Some(self.block(address, number))
    }

    /// Takes the block of `port` on this address if it is free and the worker's.
    pub fn take_at(&mut self, address: u32, port: u16) -> Option<Block> {
        let number = self.number(address, port)?;
        if !self.is_free(address, number) {
            return None;
        }
        self.mark(address, number, false);
        Some(self.block(address, number))
    }

    /// Takes a block back. `false` where it was not taken, or is none of this worker's: nothing changes.
    pub fn give_back(&mut self, block: Block) -> bool {
        let number = self.number(block.address, block.first_port);
        match number {
            Some(number)
                if self.block(block.address, number) == block
                    && !self.is_free(block.address, number) =>
            {
                self.mark(block.address, number, true);
                true
            }
            _ => false,
        }
    }

    /// Free blocks of this address.
    #[inline(always)]
    pub fn free_on(&self, address: u32) -> u32 {
        self.free.get(address as usize).copied().unwrap_or(0)
    }

    /// Free blocks of all addresses.
    #[inline(always)]
    pub fn free(&self) -> u32 {
        self.all_free
    }

    /// All blocks, free or not.
    pub fn blocks(&self) -> u32 {
        self.addresses * self.per_address
    }

    /// Number of outside addresses.
    #[inline(always)]
    pub fn addresses(&self) -> u32 {
        self.addresses
    }

    /// How ports are cut into blocks.
    #[inline(always)]
    pub fn layout(&self) -> &PortLayout {
        &self.layout
    }

    /// Bytes that the bitmaps occupy.
    pub fn memory_bytes(&self) -> u64 {
        (size_of_val(&*self.bits) + size_of_val(&*self.free)) as u64
    }

    /// Position of a port's block among all of the worker's: below [`blocks`](Self::blocks).
    #[inline(always)]
    pub(super) fn position(&self, address: u32, port: u16) -> Option<u32> {
        let number = self.number(address, port)?;
        Some(address * self.per_address + number)
    }

    /// The block at a position.
    #[inline(always)]
    pub(super) fn at(&self, position: u32) -> Block {
        self.block(position / self.per_address, position % self.per_address)
    }

    /// Which of the address's blocks has the port; `None` if none of the worker's.
    #[inline(always)]
    fn number(&self, address: u32, port: u16) -> Option<u32> {
        if address >= self.addresses || !self.layout.has(port) {
            return None;
        }
        let (round, worker) = self.layout.deal(port);
        let first_round = self.first / u32::from(self.layout.workers());
        (worker == self.worker).then(|| u32::from(round) - first_round)
    }

    #[inline(always)]
    fn block(&self, address: u32, number: u32) -> Block {
        let block = self.first + number * u32::from(self.layout.workers());
        Block {
            address,
            first_port: (block << self.layout.shift()) as u16,
            ports: self.layout.block_ports(),
        }
    }

    fn is_free(&self, address: u32, number: u32) -> bool {
        self.bits[self.word(address, number)] >> (number % 64) & 1 != 0
    }

    #[inline(always)]
    fn mark(&mut self, address: u32, number: u32, free: bool) {
        let word = self.word(address, number);
        self.bits[word] ^= 1 << (number % 64);
        let change = if free { 1 } else { u32::MAX };
        self.free[address as usize] = self.free[address as usize].wrapping_add(change);
        self.all_free = self.all_free.wrapping_add(change);
    }

    #[inline(always)]
    fn word(&self, address: u32, number: u32) -> usize {
        address as usize * self.words + number as usize / 64
    }
}
