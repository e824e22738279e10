//! Adjacencies: how to reach one neighbour, one cache line each.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::PortId;
use wire::MacAddr;

/// One neighbour: the link-layer header to put in front of packets, where to send them, how long they may be.
///
/// ```text
///  word 0   first 8 bytes of the header: the destination address is among them, so a new one is one store
///  word 1   bytes 16 to 8 before its end (longer headers)      word 2   its last 8 bytes
///  word 3   length 8 | state 8 | port 16 | MTU 16 | interface 16
///  word 4,5 the neighbour's address            word 6   flags           word 7   when last used
/// ```
#[repr(C, align(64))]
#[derive(Default)]
pub struct Adjacency {
    words: [AtomicU64; 8],
}

/// What is known of the neighbour.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdjacencyState {
    /// Nothing here.
    Free = 0,
    /// The link-layer address is not known yet: packets wait.
    Incomplete = 1,
    /// Packets can be sent.
    Complete = 2,
}

/// A link-layer header of 14, 18 or 22 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite {
    bytes: [u8; 24],
    len: u8,
}

impl Rewrite {
    /// The longest header: Ethernet with two VLAN tags.
    pub const MAX_LEN: usize = 22;

    /// From a header; `None` where it is not 14 to 22 bytes long.
    pub fn new(header: &[u8]) -> Option<Self> {
        if !(14..=Self::MAX_LEN).contains(&header.len()) {
            return None;
        }
        let mut bytes = [0; 24];
        bytes[..header.len()].copy_from_slice(header);
        Some(Self {
            bytes,
            len: header.len() as u8,
        })
    }

    /// The header.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The part of an adjacency that every forwarded packet reads.
#[derive(Clone, Copy)]
pub struct Hot {
    word: u64,
}

impl Hot {
    /// Length of the header in bytes.
    #[inline(always)]
    pub const fn header_len(self) -> usize {
        (self.word & 0xff) as usize
    }
    /// True where the neighbour is on this interface and can be sent to with a header of 14 bytes: one comparison.
    #[inline(always)]
    pub const fn is_plain_on(self, interface: u16) -> bool {
        const PLAIN: u32 = (AdjacencyState::Complete as u32) << 8 | 14;
        // Both ends of the word side by side.
        self.word.rotate_left(16) as u32 == PLAIN << 16 | interface as u32
    }
    /// True where the neighbour can be sent to with a header of 14 bytes.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        self.word as u16 == (AdjacencyState::Complete as u16) << 8 | 14
    }
    /// True where the neighbour can be sent to.
    #[inline(always)]
    pub const fn is_complete(self) -> bool {
        (self.word >> 8) as u8 == AdjacencyState::Complete as u8
    }
    /// The state.
    pub const fn state(self) -> AdjacencyState {
        match (self.word >> 8) as u8 {
            1 => AdjacencyState::Incomplete,
            2 => AdjacencyState::Complete,
            _ => AdjacencyState::Free,
        }
    }
    /// The port that sends to it.
    #[inline(always)]
    pub const fn port(self) -> PortId {
        PortId((self.word >> 16) as u16)
    }
    /// The longest IP packet in bytes.
    #[inline(always)]
    pub const fn mtu(self) -> u16 {
        (self.word >> 32) as u16
    }
    /// The interface that sends to it.
    #[inline(always)]
    pub const fn interface(self) -> u16 {
        (self.word >> 48) as u16
    }
}

impl Adjacency {
    /// State, port, MTU and interface, in one load.
    #[inline(always)]
    pub fn hot(&self) -> Hot {
        Hot {
            word: self.words[3].load(Ordering::Acquire),
        }
    }

    /// Writes the header so that it ends where the window ends, at the network header; returns its length.
    #[inline(always)]
    pub fn write(&self, hot: Hot, window: &mut [u8; Rewrite::MAX_LEN]) -> usize {
        let word = |at: usize| self.words[at].load(Ordering::Relaxed).to_ne_bytes();
        let first = match hot.header_len() {
            18 => 4,
            22 => 0,
            _ => 8,
        };
        if first < 8 {
            window[6..14].copy_from_slice(&word(1));
        }
        // After word 1, which overlaps it: only this one follows the neighbour's address.
        window[first..first + 8].copy_from_slice(&word(0));
        window[14..22].copy_from_slice(&word(2));
        Rewrite::MAX_LEN - first
    }

    /// Writes a header of 14 bytes ([`Hot::is_plain`]).
    #[inline(always)]
    pub fn write_plain(&self, out: &mut [u8; 14]) {
        out[..8].copy_from_slice(&self.words[0].load(Ordering::Relaxed).to_ne_bytes());
        out[6..].copy_from_slice(&self.words[2].load(Ordering::Relaxed).to_ne_bytes());
    }

    /// The neighbour's address.
    pub fn address(&self) -> IpAddr {
        let (high, low) = (
            self.words[4].load(Ordering::Relaxed),
            self.words[5].load(Ordering::Relaxed),
        );
        if self.words[6].load(Ordering::Relaxed) & FLAG_IP6 != 0 {
            IpAddr::V6(Ipv6Addr::from_bits(
                u128::from(high) << 64 | u128::from(low),
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(low as u32))
        }
    }

    /// The number of a second for [`Adjacency::touch`] (2^30 ns, from 1 on: 0 means never).
    #[inline(always)]
    pub const fn second(now_ns: u64) -> u64 {
        (now_ns >> 30) + 1
    }

    /// Notes that it carries traffic in this second (of the worker's clock): stores at most once per second.
    #[inline(always)]
    pub fn touch(&self, second: u64) {
        if self.words[7].load(Ordering::Relaxed) != second {
            self.words[7].store(second, Ordering::Relaxed);
        }
    }

    /// The second noted last; 0 for never.
    pub fn last_used(&self) -> u64 {
        self.words[7].load(Ordering::Relaxed)
    }

    /// The Ethernet address that packets go to.
    pub fn mac(&self) -> MacAddr {
        let first = self.words[0].load(Ordering::Relaxed).to_ne_bytes();
        MacAddr::new([first[0], first[1], first[2], first[3], first[4], first[5]])
    }

    /// Fills a free adjacency; packets wait until it is complete.
    pub(crate) fn fill(
        &self,
        port: PortId,
        interface: u16,
        mtu: u16,
        address: IpAddr,
        rewrite: &Rewrite,
    ) {
        let (flags, bits) = match address {
            IpAddr::V4(address) => (0, u128::from(address.to_bits())),
            IpAddr::V6(address) => (FLAG_IP6, address.to_bits()),
        };
        self.words[4].store((bits >> 64) as u64, Ordering::Relaxed);
        self.words[5].store(bits as u64, Ordering::Relaxed);
        self.words[6].store(flags, Ordering::Relaxed);
        self.words[7].store(0, Ordering::Relaxed);
        self.store_rewrite(rewrite);
        self.store_hot(
            rewrite.len,
            AdjacencyState::Incomplete,
            port,
            mtu,
            interface,
        );
    }

    /// Makes it complete with this destination address, or changes the address: one store of the header, one of the state.
    pub(crate) fn complete(&self, mac: MacAddr) {
        let mut first = self.words[0].load(Ordering::Relaxed).to_ne_bytes();
        first[..6].copy_from_slice(&mac.octets());
        self.words[0].store(u64::from_ne_bytes(first), Ordering::Relaxed);
        self.set_state(AdjacencyState::Complete);
    }

    /// Changes the state.
    pub(crate) fn set_state(&self, state: AdjacencyState) {
        let word = self.words[3].load(Ordering::Relaxed) & !0xff00;
        self.words[3].store(word | (state as u64) << 8, Ordering::Release);
    }

    fn store_rewrite(&self, rewrite: &Rewrite) {
        let bytes = rewrite.as_slice();
        let word = |from: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&rewrite.bytes[from..from + 8]);
            u64::from_ne_bytes(word)
        };
        self.words[0].store(word(0), Ordering::Relaxed);
        self.words[1].store(word(bytes.len().saturating_sub(16)), Ordering::Relaxed);
        self.words[2].store(word(bytes.len() - 8), Ordering::Relaxed);
    }

    fn store_hot(&self, len: u8, state: AdjacencyState, port: PortId, mtu: u16, interface: u16) {
        let word = u64::from(len)
            | (state as u64) << 8
            | u64::from(port.0) << 16
            | u64::from(mtu) << 32
            | u64::from(interface) << 48;
        self.words[3].store(word, Ordering::Release);
    }
}

const FLAG_IP6: u64 = 1;

impl std::fmt::Debug for Adjacency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hot = self.hot();
        f.debug_struct("Adjacency")
            .field("state", &hot.state())
            .field("address", &self.address())
            .field("mac", &self.mac())
            .field("port", &hot.port())
            .field("mtu", &hot.mtu())
            .field("interface", &hot.interface())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_every_length_are_written() {
        for len in [14, 18, 22] {
            let header: Vec<u8> = (1..=len).collect();
            let adjacency = Adjacency::default();
            let rewrite = Rewrite::new(&header).expect("a legal length");
            let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
            adjacency.fill(PortId(3), 7, 1500, address, &rewrite);
            assert!(!adjacency.hot().is_complete());
            let mac = MacAddr::new([2, 4, 6, 8, 10, 12]);
            adjacency.complete(mac);
            let mut window = [0; Rewrite::MAX_LEN];
            assert_eq!(
                adjacency.write(adjacency.hot(), &mut window),
                usize::from(len)
            );
            if adjacency.hot().is_plain() {
                let mut plain = [0; 14];
                adjacency.write_plain(&mut plain);
                assert_eq!(plain, window[8..]);
            }
            assert_eq!(adjacency.hot().is_plain(), len == 14);
            assert_eq!(adjacency.hot().is_plain_on(7), len == 14);
            assert!(!adjacency.hot().is_plain_on(8));
            let out = &window[Rewrite::MAX_LEN - usize::from(len)..];
            assert_eq!(out[..6], mac.octets());
            assert_eq!(out[6..], header[6..]);
            let hot = adjacency.hot();
            assert_eq!(
                (hot.header_len(), hot.port(), hot.mtu(), hot.interface()),
                (usize::from(len), PortId(3), 1500, 7)
            );
            assert_eq!(
                (hot.state(), adjacency.address(), adjacency.mac()),
                (AdjacencyState::Complete, address, mac)
            );
        }
        assert!(Rewrite::new(&[0; 13]).is_none() && Rewrite::new(&[0; 23]).is_none());
    }
}
