//! Which host has which blocks, and which of their ports are in use.

use super::{
    Allocated, Block, GivenBack, HostBlocksConfig, HostUsage, Parity, PortBlocks, PortBlocksError,
    PortGauges, PortRefusal, PortWish, Random, Released, filled, index::HostIndex,
};
use crate::{
    Tick,
    flow::{fold_product, ticks},
    prefetch::prefetch,
};

/// No block, no host: the end of a list.
const NONE: u32 = u32::MAX;

/// How many of a host's blocks with free ports are searched before it gets another block.
const MOST_SEARCHED: usize = 16;

/// The blocks of one worker's hosts, and the ports in use.
///
/// One worker owns it, as it does the flows whose ports these are. An allocation reads the host's place in the
/// index, its record, and the record and bitmap of the first of its blocks that has a free port; it looks at further blocks
/// (16, then takes a new one) only where the wished parity or the caller accepts nothing there. A release
/// reads the block and the host. No allocation of memory after construction: 16 to 32 bytes per host in
/// the index, 64 in its record; 32 and a bit per port for every block.
///
/// ```
/// use tables::{HostBlocks, HostBlocksConfig, Parity, PortBlocks, PortLayout, PortWish, Tick};
///
/// let layout = PortLayout::new(1024, 65535, PortLayout::BLOCK_PORTS, 1)?;
/// let blocks = PortBlocks::new(layout, 0, 4, None)?;
/// let mut hosts = HostBlocks::new(blocks, &HostBlocksConfig::new(1000))?;
/// let (now, host) = (Tick::from_nanos(0), 0x0a00_0007);
///
/// let wish = PortWish { parity: Some(Parity::Odd), ..PortWish::default() };
/// let given = hosts.allocate(host, wish, |_, _| true)?;
/// assert_eq!(Parity::of(given.port), Parity::Odd);
/// assert_eq!(hosts.host_of(given.address, given.port), Some(host));
/// let released = hosts.release(given.address, given.port, now).ok_or("in use")?;
/// assert_eq!((released.inside, released.given_back), (host, None)); // held for 120 s
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct HostBlocks {
    free: PortBlocks,
    /// By position of the block among all of the worker's.
    blocks: Box<[BlockRecord]>,
    /// Bitmaps of the ports in use, `words` of each block.
    used: Box<[u64]>,
    words: usize,
    hosts: Box<[Host]>,
    index: HostIndex,
    /// First of the records without a host; their `open` is the next one.
    vacant: u32,
    /// Oldest and newest of the blocks that are held.
    held: Ends,
    counts: PortGauges,
    most_blocks: u32,
    most_ports: u32,
    most_held: u32,
    hold_ticks: u32,
    paired: bool,
    random: Random,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// Within a line, two of them.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct BlockRecord {
    /// [`NONE`] where nobody has the block.
    host: u32,
    /// Neighbours in the host's list.
    before: u32,
    behind: u32,
    /// Neighbours among the held blocks.
    older: u32,
    newer: u32,
    /// When its last port became free.
    emptied: Tick,
    /// Ports in use.
    ports: u16,
    held: bool,
}

/// A line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Host {
    inside: u128,
    /// First of its blocks that have free ports.
    open: u32,
    /// First of those that have none.
    full: u32,
    blocks: u32,
    ports: u32,
    address: u32,
}

impl HostBlocks {
    /// Nobody has a block. Blocks taken from `blocks` before stay out.
    ///
    /// # Errors
    /// A limit of 0, too many hosts, or the system refuses the memory.
    pub fn new(blocks: PortBlocks, config: &HostBlocksConfig) -> Result<Self, PortBlocksError> {
        let limits = [
            ("hosts", config.hosts),
            ("most_blocks", config.most_blocks),
            ("most_ports", config.most_ports),
        ];
        if let Some((field, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(PortBlocksError::Zero { field });
        }
        // Hosts beyond the number of blocks never get one.
        let places = config.hosts.min(blocks.blocks());
        let count = blocks.blocks() as usize;
        let words = usize::from(blocks.layout().block_ports()).div_ceil(64);
        let record = BlockRecord {
            host: NONE,
            before: NONE,
            behind: NONE,
            older: NONE,
            newer: NONE,
            emptied: Tick::default(),
            ports: 0,
            held: false,
        };
        let vacant = Host {
            inside: 0,
            open: NONE,
            full: NONE,
            blocks: 0,
            ports: 0,
            address: 0,
        };
        let mut hosts = filled(places as usize, vacant)?;
        for (host, next) in hosts.iter_mut().zip(1..places) {
            host.open = next;
        }
        Ok(Self {
            blocks: filled(count, record)?,
            used: filled(count * words, 0)?,
            words,
            hosts,
            index: HostIndex::new(places)?,
            vacant: 0,
            held: Ends {
                oldest: NONE,
                newest: NONE,
            },
            counts: PortGauges::default(),
            most_blocks: config.most_blocks,
            most_ports: config.most_ports,
            most_held: config.most_held,
            hold_ticks: ticks(config.hold),
            paired: config.paired,
            random: Random::new(config.seed),
            free: blocks,
        })
    }

    /// Asks for the line where the search for a host begins: the first of three steps, each worth calling
    /// for a whole batch of new flows before the next one, to have all their lines at hand.
    #[inline(always)]
    pub fn prefetch(&self, inside: u128) {
        self.index.prefetch(inside);
    }

    /// The second step: asks for the host's record.
    #[inline(always)]
    pub fn prefetch_host(&self, inside: u128) {
        let host = self.index.guess(inside);
        prefetch(self.hosts.as_ptr().wrapping_add(host as usize));
    }

    /// The third step: asks for the block that the host's next port is searched in first.
    #[inline(always)]
    pub fn prefetch_block(&self, inside: u128) {
        let host = self.hosts.get(self.index.guess(inside) as usize);
        self.prefetch_at(host.map_or(NONE, |host| host.open));
    }

    /// Asks for the block of a port that is to be released.
    #[inline(always)]
    pub fn prefetch_port(&self, address: u32, port: u16) {
        self.prefetch_at(self.free.position(address, port).unwrap_or(NONE));
    }

    /// The outside address where a host that has no block gets its first one, unless it is exhausted: the same
    /// on every worker. Hosts in a row are spread evenly.
    #[inline]
    pub fn preferred_address(&self, inside: u128) -> u32 {
        let upper = (inside >> 64) as u64;
        // IPv6 hosts may differ in the upper half only; IPv4 hosts have none.
        let upper = fold_product(upper, 0xa076_1d64_78bd_642f);
        // The golden ratio's multiples fall into the largest gap each time.
        let spread = (inside as u64 ^ upper).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(spread) * u128::from(self.free.addresses())) >> 64) as u32
    }

    /// Gives a port to `inside`, a host's address that the caller packs. `accept` is asked about an outside address (its
    /// number) and a free port before that is given out, until it says yes: whether a flow there is free, say, or whether
    /// answers will arrive at this worker.
    ///
    /// # Errors
    /// See [`PortRefusal`].
    #[inline]
    pub fn allocate(
        &mut self,
        inside: u128,
        wish: PortWish,
        mut accept: impl FnMut(u32, u16) -> bool,
    ) -> Result<Allocated, PortRefusal> {
        let known = self.find(inside);
        if let Some(host) = known {
            let found = self.choose_own(host, wish, &mut accept)?;
            if let Some((at, port)) = found {
                return Ok(self.give(at, port, None));
            }
        }
        match self.choose_new(known, inside, wish, &mut accept) {
            Ok((block, port)) => {
                let at = self.assign(known, inside, block)?;
                Ok(self.give(at, port, Some(block)))
            }
            Err(refusal) => {
                // Rather without the parity than not at all.
                let host = known.ok_or(refusal)?;
                let open = self.hosts[host as usize].open;
                let found = self.choose_in(open, usize::MAX, None, &mut accept);
                let (at, port) = found.ok_or(refusal)?;
                Ok(self.give(at, port, None))
            }
        }
    }

    /// Gives exactly this port to `inside`: for sessions that live on when the configuration changes.
    ///
    /// # Errors
    /// [`PortRefusal::NotAccepted`] where the port is in use, in another host's block, none of this worker's, or on another
    /// address than the host's other blocks; otherwise as for [`allocate`](Self::allocate).
    pub fn claim(
        &mut self,
        inside: u128,
        address: u32,
        port: u16,
    ) -> Result<Allocated, PortRefusal> {
        let position = self.free.position(address, port);
        let at = position.ok_or(PortRefusal::NotAccepted)?;
        let known = self.find(inside);
        if let Some(host) = known {
            let record = &self.hosts[host as usize];
            if record.ports >= self.most_ports {
                return Err(PortRefusal::PortLimit);
            }
            if self.blocks[at as usize].host == host {
                let taken = self.is_used(at, port);
                let free = (!taken).then(|| self.give(at, port, None));
                return free.ok_or(PortRefusal::NotAccepted);
            }
            if self.paired && record.address != address {
                return Err(PortRefusal::NotAccepted);
            }
            if record.blocks >= self.most_blocks {
                return Err(PortRefusal::BlockLimit);
            }
        } else if self.vacant == NONE {
            return Err(PortRefusal::TooManyHosts);
        }
        let block = self.free.take_at(address, port);
        let block = block.ok_or(PortRefusal::NotAccepted)?;
        let at = self.assign(known, inside, block)?;
        Ok(self.give(at, port, Some(block)))
    }

    /// Takes a port back. `None` where it was not in use: nothing changes.
    #[inline]
    pub fn release(&mut self, address: u32, port: u16, now: Tick) -> Option<Released> {
        let at = self.free.position(address, port)?;
        if !self.is_used(at, port) {
            return None;
        }
        let (word, bit) = self.bit(at, port);
        self.used[word] ^= bit;
        let block = &mut self.blocks[at as usize];
        let host = block.host;
        let was_full = block.ports == self.free.layout().block_ports();
        block.ports -= 1;
        let is_empty = block.ports == 0;
        let record = &mut self.hosts[host as usize];
        record.ports -= 1;
        let inside = record.inside;
        self.counts.ports -= 1;
        if was_full {
            self.unlink(at, true);
            self.link(at, false);
        }
        let mut given_back = None;
        if is_empty {
            if self.hold_ticks == 0 {
                given_back = Some(self.give_back(at));
            } else {
                self.hold(at, now);
                if self.counts.held > self.most_held {
                    given_back = Some(self.give_back(self.held.oldest));
                }
            }
        }
        Some(Released { inside, given_back })
    }

    /// Gives back up to `most` blocks whose hold is over, and says each. Takes time by the number of blocks given back.
    /// Worth calling once in a while; `now` does not run backwards.
    pub fn expire(&mut self, now: Tick, most: u32, mut gone: impl FnMut(GivenBack)) {
        for _ in 0..most {
            let oldest = self.held.oldest;
            let is_over = |block: &BlockRecord| now.since(block.emptied) > self.hold_ticks;
            if !self.blocks.get(oldest as usize).is_some_and(is_over) {
                return;
            }
            gone(self.give_back(oldest));
        }
    }

    /// The host that has the block of this port; `None` where nobody has.
    #[inline]
    pub fn host_of(&self, address: u32, port: u16) -> Option<u128> {
        let at = self.free.position(address, port)?;
        let host = self.hosts.get(self.blocks[at as usize].host as usize)?;
        Some(host.inside)
    }

    /// Whether the port is given out.
    #[inline]
    pub fn is_in_use(&self, address: u32, port: u16) -> bool {
        let at = self.free.position(address, port);
        at.is_some_and(|at| self.is_used(at, port))
    }

    /// What a host has; `None` where it has no block.
    pub fn usage(&self, inside: u128) -> Option<HostUsage> {
        self.find(inside)
            .map(|host| self.hosts[host as usize].usage())
    }

    /// The blocks of a host.
    pub fn blocks_of(&self, inside: u128) -> impl Iterator<Item = Block> {
        let host = self.find(inside).map(|host| &self.hosts[host as usize]);
        let firsts = host.map_or([NONE; 2], |host| [host.open, host.full]);
        let chains = firsts.into_iter().flat_map(|first| self.chain(first));
        chains.map(|at| self.free.at(at))
    }

    /// All hosts that have blocks, in no order.
    pub fn hosts(&self) -> impl Iterator<Item = (u128, HostUsage)> {
        let hosts = self.hosts.iter().filter(|host| host.blocks != 0);
        hosts.map(|host| (host.inside, host.usage()))
    }

    /// Where things stand.
    pub fn gauges(&self) -> PortGauges {
        PortGauges {
            free: self.free.free(),
            ..self.counts
        }
    }

    /// Which blocks are free, and how ports are cut into blocks.
    pub fn blocks(&self) -> &PortBlocks {
        &self.free
    }

    /// Bytes that all of it occupies.
    pub fn memory_bytes(&self) -> u64 {
        let records = size_of_val(&*self.blocks) + size_of_val(&*self.used);
        let hosts = size_of_val(&*self.hosts) + self.index.memory_bytes();
        self.free.memory_bytes() + (records + hosts) as u64
    }

    #[inline(always)]
    fn prefetch_at(&self, at: u32) {
        prefetch(self.blocks.as_ptr().wrapping_add(at as usize));
        let word = (at as usize).wrapping_mul(self.words);
        prefetch(self.used.as_ptr().wrapping_add(word));
    }

    #[inline(always)]
    fn find(&self, inside: u128) -> Option<u32> {
        let holds = |host: u32| self.hosts[host as usize].inside == inside;
        self.index.find(inside, holds)
    }

    /// A free port in a block that the host has.
    #[inline(always)]
    fn choose_own(
        &mut self,
        host: u32,
        wish: PortWish,
        accept: &mut impl FnMut(u32, u16) -> bool,
    ) -> Result<Option<(u32, u16)>, PortRefusal> {
        let Host {
            address,
            open,
            ports,
            ..
        } = self.hosts[host as usize];
        if ports >= self.most_ports {
            return Err(PortRefusal::PortLimit);
        }
        if let Some(port) = wish.port
            && let Some(at) = self.free.position(address, port)
            && self.blocks[at as usize].host == host
            && !self.is_used(at, port)
            && accept(address, port)
        {
            return Ok(Some((at, port)));
        }
        Ok(self.choose_in(open, MOST_SEARCHED, wish.parity, accept))
    }

    /// A free port in the blocks from `first` on.
    #[inline(always)]
    fn choose_in(
        &mut self,
        first: u32,
        most: usize,
        parity: Option<Parity>,
        accept: &mut impl FnMut(u32, u16) -> bool,
    ) -> Option<(u32, u16)> {
        let mut at = first;
        for _ in 0..most {
            if at == NONE {
                break;
            }
            if let Some(port) = self.choose_port(at, parity, accept) {
                return Some((at, port));
            }
            at = self.blocks[at as usize].behind;
        }
        None
    }

    /// A free port of a block: the next one behind a random place (RFC 6056 section 3.3.1).
    #[inline(always)]
    fn choose_port(
        &mut self,
        at: u32,
        parity: Option<Parity>,
        accept: &mut impl FnMut(u32, u16) -> bool,
    ) -> Option<u16> {
        let block = self.free.at(at);
        let start = self.random.below(block.ports.into()) as usize;
        let upper = u64::MAX << (start % 64);
        let ports = u64::MAX >> (64 - block.ports.min(64));
        let wanted = ports & parity.map_or(u64::MAX, Parity::mask);
        let used = &self.used[at as usize * self.words..][..self.words];
        for step in 0..=self.words {
            // The word of the start comes twice: first what lies behind the start, at last what lies before.
            let word = (start / 64 + step) % self.words;
            let part = match step {
                0 => upper,
                _ if step == self.words => !upper,
                _ => u64::MAX,
            };
            let mut free = !used[word] & wanted & part;
            while free != 0 {
                let offset = word as u16 * 64 + free.trailing_zeros() as u16;
                let port = block.first_port + offset;
                if accept(block.address, port) {
                    return Some(port);
                }
                free &= free - 1;
            }
        }
        None
    }

    /// A block that nobody has, taken for a host, and a port of it.
    fn choose_new(
        &mut self,
        known: Option<u32>,
        inside: u128,
        wish: PortWish,
        accept: &mut impl FnMut(u32, u16) -> bool,
    ) -> Result<(Block, u16), PortRefusal> {
        let host = known.map(|host| &self.hosts[host as usize]);
        if host.is_some_and(|host| host.blocks >= self.most_blocks) {
            return Err(PortRefusal::BlockLimit);
        }
        if self.free.free() == 0 {
            return Err(PortRefusal::Exhausted);
        }
        if host.is_none() && self.vacant == NONE {
            return Err(PortRefusal::TooManyHosts);
        }
        let first = host.map_or_else(|| self.preferred_address(inside), |host| host.address);
        let is_bound = self.paired && host.is_some();
        let others = if is_bound { 0 } else { self.free.addresses() };
        // Those behind the first, and around.
        let mut addresses =
            std::iter::once(first).chain((first + 1..others).chain(0..first.min(others)));
        let address = addresses.find(|&address| self.free.free_on(address) != 0);
        let address = address.ok_or(PortRefusal::Exhausted)?;
        let wished = wish.port.and_then(|port| self.free.take_at(address, port));
        let block = wished.or_else(|| self.free.take(address));
        let block = block.ok_or(PortRefusal::Exhausted)?;
        let port = match (wished, wish.port) {
            (Some(_), Some(port)) if accept(address, port) => Some(port),
            _ => {
                let at = self.free.position(address, block.first_port);
                let at = at.ok_or(PortRefusal::Exhausted)?;
                let port = self.choose_port(at, wish.parity, accept);
                if port.is_none() && wish.parity.is_some() {
                    self.choose_port(at, None, accept)
                } else {
                    port
                }
            }
        };
        match port {
            Some(port) => Ok((block, port)),
            None => {
                self.free.give_back(block);
                Err(PortRefusal::NotAccepted)
            }
        }
    }

    /// Makes a block the host's, who may be new. The caller has seen that there is a place for him.
    fn assign(
        &mut self,
        known: Option<u32>,
        inside: u128,
        block: Block,
    ) -> Result<u32, PortRefusal> {
        let host = match known {
            Some(host) => host,
            None => {
                let host = self.vacant;
                let vacant = self.hosts.get_mut(host as usize);
                let record = vacant.ok_or(PortRefusal::TooManyHosts)?;
                self.vacant = record.open;
                *record = Host {
                    inside,
                    open: NONE,
                    full: NONE,
                    blocks: 0,
                    ports: 0,
                    address: block.address,
                };
                self.index.insert(inside, host);
                self.counts.hosts += 1;
                host
            }
        };
        let at = self.free.position(block.address, block.first_port);
        let at = at.ok_or(PortRefusal::Exhausted)?;
        let record = &mut self.hosts[host as usize];
        record.blocks += 1;
        // Where hosts are not paired, the address that had a free block is asked first the next time.
        record.address = block.address;
        self.counts.blocks += 1;
        self.blocks[at as usize].host = host;
        self.link(at, false);
        Ok(at)
    }

    /// Marks a free port of a host's block as used.
    #[inline(always)]
    fn give(&mut self, at: u32, port: u16, new_block: Option<Block>) -> Allocated {
        let (word, bit) = self.bit(at, port);
        self.used[word] |= bit;
        let block = &mut self.blocks[at as usize];
        block.ports += 1;
        let (is_full, is_held) = (block.ports == self.free.layout().block_ports(), block.held);
        self.hosts[block.host as usize].ports += 1;
        self.counts.ports += 1;
        if is_held {
            self.end_hold(at);
        }
        if is_full {
            self.unlink(at, false);
            self.link(at, true);
        }
        Allocated {
            address: self.free.at(at).address,
            port,
            new_block,
        }
    }

    /// Takes a block without used ports from its host; the host goes with its last one.
    fn give_back(&mut self, at: u32) -> GivenBack {
        if self.blocks[at as usize].held {
            self.end_hold(at);
        }
        self.unlink(at, false);
        let block = self.free.at(at);
        let host = std::mem::replace(&mut self.blocks[at as usize].host, NONE);
        let record = &mut self.hosts[host as usize];
        record.blocks -= 1;
        self.counts.blocks -= 1;
        let inside = record.inside;
        if record.blocks == 0 {
            record.open = self.vacant;
            self.vacant = host;
            self.counts.hosts -= 1;
            self.index.remove(inside, |record| record == host);
        }
        self.free.give_back(block);
        GivenBack { inside, block }
    }

    /// Puts a block behind the other held ones.
    fn hold(&mut self, at: u32, now: Tick) {
        let newest = self.held.newest;
        let block = &mut self.blocks[at as usize];
        (block.held, block.emptied) = (true, now);
        (block.older, block.newer) = (newest, NONE);
        match self.blocks.get_mut(newest as usize) {
            Some(older) => older.newer = at,
            None => self.held.oldest = at,
        }
        self.held.newest = at;
        self.counts.held += 1;
    }

    fn end_hold(&mut self, at: u32) {
        let block = &mut self.blocks[at as usize];
        block.held = false;
        let (older, newer) = (block.older, block.newer);
        match self.blocks.get_mut(older as usize) {
            Some(block) => block.newer = newer,
            None => self.held.oldest = newer,
        }
        match self.blocks.get_mut(newer as usize) {
            Some(block) => block.older = older,
            None => self.held.newest = older,
        }
        self.counts.held -= 1;
    }

    /// Puts a block at the front of one of its host's lists.
    fn link(&mut self, at: u32, full: bool) {
        let host = self.blocks[at as usize].host;
        let first = self.hosts[host as usize].first(full);
        let behind = std::mem::replace(first, at);
        let block = &mut self.blocks[at as usize];
        (block.before, block.behind) = (NONE, behind);
        if let Some(behind) = self.blocks.get_mut(behind as usize) {
            behind.before = at;
        }
    }

    /// Takes a block out of one of its host's lists.
    fn unlink(&mut self, at: u32, full: bool) {
        let BlockRecord {
            host,
            before,
            behind,
            ..
        } = self.blocks[at as usize];
        match self.blocks.get_mut(before as usize) {
            Some(before) => before.behind = behind,
            None => *self.hosts[host as usize].first(full) = behind,
        }
        if let Some(behind) = self.blocks.get_mut(behind as usize) {
            behind.before = before;
        }
    }

    /// The blocks from `first` on.
    fn chain(&self, first: u32) -> impl Iterator<Item = u32> {
        let next = |at: &u32| Some(self.blocks.get(*at as usize)?.behind);
        std::iter::successors(Some(first), next).take_while(|at| *at != NONE)
    }

    #[inline(always)]
    fn is_used(&self, at: u32, port: u16) -> bool {
        let (word, bit) = self.bit(at, port);
        self.used[word] & bit != 0
    }

    /// Word and bit of a port of the block.
    #[inline(always)]
    fn bit(&self, at: u32, port: u16) -> (usize, u64) {
        let offset = port - self.free.layout().start(port);
        let word = at as usize * self.words + usize::from(offset / 64);
        (word, 1 << (offset % 64))
    }
}

impl Host {
    #[inline(always)]
    fn first(&mut self, full: bool) -> &mut u32 {
        if full { &mut self.full } else { &mut self.open }
    }

    fn usage(&self) -> HostUsage {
        HostUsage {
            address: self.address,
            blocks: self.blocks,
            ports: self.ports,
        }
    }
}
