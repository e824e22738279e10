//! What is asked of [`HostBlocks`](super::HostBlocks), and what they answer.

use std::{error::Error, fmt, time::Duration};

use super::Block;

/// Limits of [`HostBlocks`](super::HostBlocks). They count by worker.
#[derive(Clone, Debug)]
pub struct HostBlocksConfig {
    /// Most hosts that have blocks at once; below 2^31.
    pub hosts: u32,
    /// Most blocks of a host.
    pub most_blocks: u32,
    /// Most ports that a host uses at once (RFC 6888 REQ-4).
    pub most_ports: u32,
    /// How long a block whose ports are all free stays with its host: for that time no other host gets
    /// its ports (RFC 6888 REQ-8 wants 120 s for what is not tracked TCP), and the host's next flows take no new block.
    pub hold: Duration,
    /// Most blocks that are held so. Where there are more, those held for longest go first.
    pub most_held: u32,
    /// Whether all blocks of a host are on one outside address (RFC 4787 REQ-2, RFC 6888 REQ-2 "paired"), even where that
    /// means that it gets none. Otherwise on one as long as that has free blocks.
    pub paired: bool,
    /// Makes the choice of ports reproducible: for tests. Drawn at random where `None`.
    pub seed: Option<u64>,
}

impl HostBlocksConfig {
    /// No limits by host, paired addresses, blocks held for 120 s.
    pub fn new(hosts: u32) -> Self {
        Self {
            hosts,
            most_blocks: u32::MAX,
            most_ports: u32::MAX,
            hold: Duration::from_secs(120),
            most_held: u32::MAX,
            paired: true,
            seed: None,
        }
    }
}

/// Whether a port number is even or odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Even.
    Even,
    /// Odd.
    Odd,
}

impl Parity {
    /// The parity of a port.
    pub const fn of(port: u16) -> Self {
        if port.is_multiple_of(2) {
            Self::Even
        } else {
            Self::Odd
        }
    }

    /// The ports of this parity in a word of bitmap: blocks begin at even ports.
    pub(super) const fn mask(self) -> u64 {
        match self {
            Self::Even => 0x5555_5555_5555_5555,
            Self::Odd => 0xaaaa_aaaa_aaaa_aaaa,
        }
    }
}

/// What a flow would like its outside port to be. All of it is given up sooner than the flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortWish {
    /// This port (RFC 4787 section 4.2.1 "port preservation"), if it is free in a block of the host, or in
    /// the block that the host gets now. It comes before the parity.
    pub port: Option<u16>,
    /// A port of this parity (RFC 4787 REQ-4), also at the price of another block.
    pub parity: Option<Parity>,
}

/// A port that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// Number of the outside address.
    pub address: u32,
    /// The port.
    pub port: u16,
    /// The block that the host got for it; `None` where it has had the block before.
    pub new_block: Option<Block>,
}

/// Why no port was given out. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortRefusal {
    /// [`HostBlocksConfig::hosts`] others have blocks.
    TooManyHosts,
    /// The host uses as many ports as it may.
    PortLimit,
    /// The host's blocks are full, and it may have no further one.
    BlockLimit,
    /// The host's blocks are full, and there is no free block on its outside address or, where it has none yet, anywhere.
    Exhausted,
    /// There are free ports, but the caller accepted none.
    NotAccepted,
}

/// A port was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The host that had used it.
    pub inside: u128,
    /// A block that went back: the port's, or one that had been held for longest.
    pub given_back: Option<GivenBack>,
}

/// A block that is no longer a host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenBack {
    /// The host that had it.
    pub inside: u128,
    /// The block.
    pub block: Block,
}

/// What a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostUsage {
    /// Number of its outside address.
    pub address: u32,
    /// Blocks.
    pub blocks: u32,
    /// Ports in use.
    pub ports: u32,
}

/// Where [`HostBlocks`](super::HostBlocks) stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortGauges {
    /// Hosts that have blocks.
    pub hosts: u32,
    /// Ports in use.
    pub ports: u32,
    /// Blocks that hosts have, those held included.
    pub blocks: u32,
    /// Blocks without a port in use that are kept for their hosts.
    pub held: u32,
    /// Blocks that nobody has.
    pub free: u32,
}

impl fmt::Display for PortRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooManyHosts => "as many hosts as there may be have port blocks",
            Self::PortLimit => "the host uses as many ports as it may",
            Self::BlockLimit => "the host's port blocks are full, and it may have no further one",
            Self::Exhausted => "no port block is free",
            Self::NotAccepted => "none of the free ports serves",
        })
    }
}

impl Error for PortRefusal {}
