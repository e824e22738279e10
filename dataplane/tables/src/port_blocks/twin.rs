//! Port blocks and their use in maps.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::Tick;

/// The slow twin: what is given out, in maps. It does not choose; it says whether a choice is right.
pub(super) struct Twin {
    pub(super) config: HostBlocksConfig,
    pub(super) layout: PortLayout,
    pub(super) worker: u16,
    pub(super) addresses: u32,
    /// Who has the block that begins at this port, and since when it is empty.
    pub(super) blocks: BTreeMap<(u32, u16), (u128, Option<Tick>)>,
    pub(super) used: HashMap<(u32, u16), u128>,
    /// Outside address of the newest block of each host.
    pub(super) homes: HashMap<u128, u32>,
    /// Empty blocks, the oldest first.
    pub(super) held: Vec<(u32, u16)>,
}

impl Twin {
    fn size(&self) -> u16 {
        self.layout.block_ports()
    }

    pub(super) fn start(&self, port: u16) -> u16 {
        port / self.size() * self.size()
    }

    fn all_blocks(&self) -> Vec<(u32, u16)> {
        let size = usize::from(self.size());
        let starts = (self.layout.first_port()..=self.layout.last_port()).step_by(size);
        let mine = starts.filter(|start| self.layout.worker_of(*start) == Some(self.worker));
        let mine: Vec<u16> = mine.collect();
        let addresses = 0..self.addresses;
        addresses
            .flat_map(|address| mine.iter().map(move |start| (address, *start)))
            .collect()
    }

    fn free_on(&self, address: u32) -> usize {
        let all = self.all_blocks();
        let free = all
            .iter()
            .filter(|at| at.0 == address && !self.blocks.contains_key(at));
        free.count()
    }

    pub(super) fn blocks_of(&self, inside: u128) -> Vec<(u32, u16)> {
        let mine = self.blocks.iter().filter(|(_, (host, _))| *host == inside);
        mine.map(|(at, _)| *at).collect()
    }

    pub(super) fn ports_of(&self, inside: u128) -> usize {
        self.used.values().filter(|host| **host == inside).count()
    }

    fn free_ports(&self, (address, start): (u32, u16)) -> Vec<(u32, u16)> {
        let ports = (start..=start + (self.size() - 1)).map(|port| (address, port));
        ports.filter(|at| !self.used.contains_key(at)).collect()
    }

    /// Judges an allocation and repeats it. `preferred` is where a new host begins.
    pub(super) fn allocate(
        &mut self,
        inside: u128,
        wish: PortWish,
        preferred: u32,
        accepts: impl Fn(u32, u16) -> bool,
        answer: Result<Allocated, PortRefusal>,
    ) -> Result<(), TestCaseError> {
        let blocks = self.blocks_of(inside);
        let own: Vec<_> = blocks
            .iter()
            .flat_map(|&at| self.free_ports(at))
            .filter(|at| accepts(at.0, at.1))
            .collect();
        let is_new = blocks.is_empty();
        let home = self.homes.get(&inside).copied().unwrap_or(preferred);
        let mut order: Vec<u32> = (home..self.addresses).chain(0..home).collect();
        if self.config.paired && !is_new {
            order.truncate(1);
        }
        let source = order
            .into_iter()
            .find(|address| self.free_on(*address) != 0);
        let under_limit = blocks.len() < self.config.most_blocks as usize;
        let has_place = !is_new || self.homes.len() < self.config.hosts as usize;
        let may_have_more = under_limit && has_place;
        let parity_of = |port| wish.parity.is_none_or(|parity| parity == Parity::of(port));

        let given = match answer {
            Ok(given) => given,
            Err(refusal) => {
                let at_limit = self.ports_of(inside) >= self.config.most_ports as usize;
                prop_assert_eq!(refusal == PortRefusal::PortLimit, at_limit);
                if at_limit {
                    return Ok(());
                }
                prop_assert!(own.is_empty(), "{:?}, but {:?}", refusal, own);
                let expected = if !under_limit {
                    PortRefusal::BlockLimit
                } else if self.all_blocks().len() == self.blocks.len() {
                    PortRefusal::Exhausted
                } else if !has_place {
                    PortRefusal::TooManyHosts
                } else if source.is_none() {
                    PortRefusal::Exhausted
                } else {
                    PortRefusal::NotAccepted
                };
                prop_assert_eq!(refusal, expected);
                return Ok(());
            }
        };
        let at = (given.address, given.port);
        let block = (given.address, self.start(given.port));
        prop_assert!(accepts(at.0, at.1));
        prop_assert!(self.ports_of(inside) < self.config.most_ports as usize);
        let is_wished = wish.port == Some(given.port);
        match given.new_block {
            None => {
                prop_assert!(own.contains(&at));
                // Without the wished parity only where nothing better could be had.
                if !is_wished && !parity_of(given.port) {
                    prop_assert!(own.iter().all(|at| !parity_of(at.1)));
                    prop_assert!(!may_have_more || source.is_none());
                }
                if let Some(port) = wish.port
                    && own.contains(&(home, port))
                {
                    prop_assert!(is_wished);
                }
            }
            Some(new) => {
                prop_assert_eq!(
                    (new.address, new.first_port, new.ports),
                    (block.0, block.1, self.size())
                );
                prop_assert!(may_have_more && Some(given.address) == source);
                prop_assert!(!self.blocks.contains_key(&block));
                prop_assert!(own.iter().all(|at| !parity_of(at.1)));
                if let Some(port) = wish.port {
                    let wished = (given.address, self.start(port));
                    if self.all_blocks().contains(&wished) && !self.blocks.contains_key(&wished) {
                        prop_assert_eq!(block, wished);
                        prop_assert_eq!(is_wished, accepts(given.address, port));
                    }
                }
                if !is_wished {
                    prop_assert!(parity_of(given.port));
                }
                self.homes.insert(inside, given.address);
                self.blocks.insert(block, (inside, None));
            }
        }
        self.held.retain(|held| *held != block);
        prop_assert_eq!(self.used.insert(at, inside), None, "given out twice");
        self.blocks.insert(block, (inside, None));
        Ok(())
    }

    pub(super) fn release(&mut self, at: (u32, u16), now: Tick) -> Option<Released> {
        let inside = self.used.remove(&at)?;
        let block = (at.0, self.start(at.1));
        let mut given_back = None;
        if self.free_ports(block).len() == usize::from(self.size()) {
            self.blocks.insert(block, (inside, Some(now)));
            self.held.push(block);
            if self.config.hold.is_zero() || self.held.len() > self.config.most_held as usize {
                given_back = Some(self.give_back(0));
            }
        }
        Some(Released { inside, given_back })
    }

    fn give_back(&mut self, number: usize) -> GivenBack {
        let (address, first_port) = self.held.remove(number);
        let (inside, _) = self.blocks.remove(&(address, first_port)).unwrap();
        if self.blocks_of(inside).is_empty() {
            self.homes.remove(&inside);
        }
        let ports = self.size();
        let block = Block {
            address,
            first_port,
            ports,
        };
        GivenBack { inside, block }
    }

    pub(super) fn expire(&mut self, now: Tick, most: u32) -> Vec<GivenBack> {
        let mut gone = Vec::new();
        while let Some(oldest) = self.held.first() {
            let emptied = self.blocks[oldest].1.unwrap();
            // The tick in which it became empty may not have been a whole one.
            let whole_ticks = now.since(emptied).saturating_sub(1);
            let age = Duration::from_nanos(u64::from(whole_ticks) * Tick::NANOS);
            if gone.len() == most as usize || age < self.config.hold {
                break;
            }
            gone.push(self.give_back(0));
        }
        gone
    }

    pub(super) fn compare(&self, hosts: &HostBlocks) -> Result<(), TestCaseError> {
        let gauges = PortGauges {
            hosts: self.homes.len() as u32,
            ports: self.used.len() as u32,
            blocks: self.blocks.len() as u32,
            held: self.held.len() as u32,
            free: (self.all_blocks().len() - self.blocks.len()) as u32,
        };
        prop_assert_eq!(hosts.gauges(), gauges);
        let mut listed: Vec<_> = hosts.hosts().collect();
        listed.sort_unstable_by_key(|host| host.0);
        let mut expected: Vec<_> = self
            .homes
            .iter()
            .map(|(inside, address)| {
                let blocks = self.blocks_of(*inside).len() as u32;
                let ports = self.ports_of(*inside) as u32;
                (
                    *inside,
                    HostUsage {
                        address: *address,
                        blocks,
                        ports,
                    },
                )
            })
            .collect();
        expected.sort_unstable_by_key(|host| host.0);
        prop_assert_eq!(listed, expected);
        for inside in 0..12 {
            let mut blocks: Vec<_> = hosts
                .blocks_of(inside)
                .map(|block| (block.address, block.first_port))
                .collect();
            blocks.sort_unstable();
            prop_assert_eq!(blocks, self.blocks_of(inside));
        }
        Ok(())
    }
}
