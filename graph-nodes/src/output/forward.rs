//! The stage that `ip4-rewrite` and `ip6-rewrite` drive for almost all packets, and that the lookups drive at once where
//! nothing stands between: time to live, MTU, link-layer header.

use dataplane::{BufferView, Descriptor, Flags};
use wire::checksum;

use crate::fib::{Adjacency, Hot, Rewrite};

/// Flags of packets that must not be given to this stage: they need more than it does.
pub(crate) const SPECIAL: Flags = Flags::OFFLOAD.union(Flags::LOCAL);

const LINK: usize = Rewrite::MAX_LEN;

/// Makes a frame of an IPv4 packet: up to its link-layer header, word = port. Returns the frame's bytes; `None`, with the packet
/// as it was, where the neighbour is not resolved or the packet needs another look.
#[inline(always)]
pub(crate) fn ip4(
    packet: &mut Descriptor,
    view: BufferView<'_>,
    adjacency: &Adjacency,
    hot: Hot,
) -> Option<u64> {
    if hot.is_plain() {
        return ip4_plain(packet, view, adjacency, hot);
    }
    if !hot.is_complete() {
        return None;
    }
    let frame = view.window_mut::<LINK, { LINK + 20 }>(packet)?;
    let (window, header) = frame.split_first_chunk_mut::<LINK>()?;
    let length = age4(header, hot)?;
    let link = adjacency.write(hot, window);
    finish(packet, hot, link);
    Some(u64::from(length) + link as u64)
}

/// As [`ip4`], for IPv6.
#[inline(always)]
pub(crate) fn ip6(
    packet: &mut Descriptor,
    view: BufferView<'_>,
    adjacency: &Adjacency,
    hot: Hot,
) -> Option<u64> {
    if hot.is_plain() {
        return ip6_plain(packet, view, adjacency, hot);
    }
    if !hot.is_complete() {
        return None;
    }
    let frame = view.window_mut::<LINK, { LINK + 40 }>(packet)?;
    let (window, header) = frame.split_first_chunk_mut::<LINK>()?;
    let length = age6(header, hot)?;
    let link = adjacency.write(hot, window);
    finish(packet, hot, link);
    Some(u64::from(length) + link as u64)
}

/// As [`ip4`], for neighbours with a header of 14 bytes ([`Hot::is_plain`]).
#[inline(always)]
pub(crate) fn ip4_plain(
    packet: &mut Descriptor,
    view: BufferView<'_>,
    adjacency: &Adjacency,
    hot: Hot,
) -> Option<u64> {
    let frame = view.window_mut::<14, 34>(packet)?;
    let (link, header) = frame.split_first_chunk_mut::<14>()?;
    let length = age4(header, hot)?;
    adjacency.write_plain(link);
    finish(packet, hot, 14);
    Some(u64::from(length) + 14)
}

/// As [`ip6`], for neighbours with a header of 14 bytes ([`Hot::is_plain`]).
#[inline(always)]
pub(crate) fn ip6_plain(
    packet: &mut Descriptor,
    view: BufferView<'_>,
    adjacency: &Adjacency,
    hot: Hot,
) -> Option<u64> {
    let frame = view.window_mut::<14, 54>(packet)?;
    let (link, header) = frame.split_first_chunk_mut::<14>()?;
    let length = age6(header, hot)?;
    adjacency.write_plain(link);
    finish(packet, hot, 14);
    Some(u64::from(length) + 14)
}

/// Time to live and checksum of an IPv4 header of 20 bytes; its total length, `None` where it is expired or too long.
#[inline(always)]
fn age4(header: &mut [u8], hot: Hot) -> Option<u32> {
    let header = header.first_chunk_mut::<20>()?;
    let length = u16::from_be_bytes([header[2], header[3]]);
    if header[8] <= 1 || length > hot.mtu() {
        return None;
    }
    let sum = checksum::decrement_ttl(u16::from_be_bytes([header[10], header[11]]));
    let sum = sum.to_be_bytes();
    // One store.
    let aged = [header[8] - 1, header[9], sum[0], sum[1]];
    header[8..12].copy_from_slice(&aged);
    Some(u32::from(length))
}

/// Hop limit of an IPv6 header; the packet's length, `None` where it is expired or too long.
#[inline(always)]
fn age6(header: &mut [u8], hot: Hot) -> Option<u32> {
    let header = header.first_chunk_mut::<40>()?;
    let length = u32::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    if header[7] <= 1 || length > u32::from(hot.mtu()) {
        return None;
    }
    header[7] -= 1;
    Some(length)
}

#[inline(always)]
fn finish(packet: &mut Descriptor, hot: Hot, link: usize) {
    // There is room: the window in front was longer.
    let retreated = packet.retreat(link);
    debug_assert!(retreated);
    packet.word = u32::from(hot.port().0);
}

/// As the stages above, for packets that were looked at before: no checks, no time to live. `None` where there is no room.
pub(crate) fn link_header(
    packet: &mut Descriptor,
    view: BufferView<'_>,
    adjacency: &Adjacency,
    hot: Hot,
) -> Option<u64> {
    let window = view.window_mut::<LINK, LINK>(packet)?;
    let link = adjacency.write(hot, window);
    finish(packet, hot, link);
    Some(link as u64)
}
