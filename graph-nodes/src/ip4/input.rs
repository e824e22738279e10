//! `ip4-input`: decides whether an IPv4 packet is one, and asks for the route's line.
//!
//! - Input: packets at their IPv4 header.
//! - Output: packets without link-layer padding; word = destination address.
//! - Reads: snapshot.interfaces, snapshot.vrfs
//! - State: none
//! - Standard: RFC 1812 sections 5.2.2, 5.3.4 and 5.3.7, RFC 791
//! - Cost: 6 ticks (pg-ip4base)

use dataplane::{Context, Descriptor, Flags, Frame, NO_FEATURES, Node, Verdict};
use wire::checksum;

use crate::icmp::ErrorWord;
use crate::ip4::arc;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-input` sends packets: the arc `ip4-unicast` in its order first.
    pub enum Next {
        RpfCheck => "ip4-rpf-check",
        Policy => "ip4-policy",
        Lookup => "ip4-lookup",
        Local => "ip4-local",
        Error => "icmp4-error",
    }
}

dataplane::drop_reasons! {
    /// Why `ip4-input` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet is shorter than an IPv4 header or than its total length says",
        BadVersion = "bad-version": "The version is not 4",
        BadHeaderLength = "bad-header-length": "The header length is less than 20 bytes or beyond the packet",
        BadTotalLength = "bad-total-length": "The total length is less than the header's",
        BadChecksum = "bad-checksum": "The header checksum is wrong",
        SourceMartian = "source-martian": "The source address cannot be a host's: this network, loopback, multicast or reserved",
        DestinationMartian = "destination-martian": "The destination address is never forwarded: this network, loopback or reserved",
        SourceRoute = "source-route": "The packet carries a source route, which is not obeyed (RFC 7126)",
        LinkBroadcast = "link-broadcast": "A unicast packet came in a broadcast or multicast frame",
        NoVrf = "no-vrf": "The interface has no routing table",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip4Input;

impl Node<Snapshot> for Ip4Input {
    const NAME: &'static str = "ip4-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let view = cx.view;
        let mut at = 0;
        while at < packets.len() {
            // A run of packets of one interface has one table and one set of features.
            let interface = packets[at].interface;
            let features = cx
                .snapshot
                .interfaces
                .get(usize::from(interface))
                .map_or(NO_FEATURES, |interface| interface.ip4_unicast);
            let on = Verdict::edge(features.next(0, arc::END));
            let table = cx.snapshot.vrf_of(interface).map(|vrf| &vrf.ip4);
            let begin = at;
            for (packet, verdict) in packets[begin..].iter_mut().zip(&mut verdicts[begin..]) {
                if packet.interface != interface {
                    break;
                }
                at += 1;
                let Some(table) = table else {
                    *verdict = Verdict::discard(Drop::NoVrf);
                    continue;
                };
                let Some(header) = view.head::<20>(packet) else {
                    *verdict = Verdict::discard(Drop::Truncated);
                    continue;
                };
                let destination =
                    u32::from_be_bytes([header[16], header[17], header[18], header[19]]);
                if !packet.flags().intersects(SPECIAL)
                    && let Some(plain) = plain(header, packet.length())
                {
                    packet.word = plain.destination;
                    table.prefetch(plain.destination);
                    packet.truncate(plain.total_length);
                    *verdict = on;
                    continue;
                }
                packet.word = destination;
                *verdict = match other(packet, cx) {
                    Ok(Next::Lookup) => on,
                    // Groups and broadcasts have no route to check, but policy is asked.
                    Ok(Next::Local) if features.has(arc::POLICY) => Next::Policy.into(),
                    Ok(next) => next.into(),
                    Err(reason) => Verdict::discard(reason),
                };
            }
        }
    }
}

/// Flags of packets that need more than a look: longer than a buffer, or not sent to us alone.
pub(crate) const SPECIAL: Flags = Flags::CHAINED.union(Flags::LINK_BROADCAST);

/// What a plain header says.
#[derive(Clone, Copy)]
pub(crate) struct Plain {
    pub(crate) total_length: usize,
    pub(crate) destination: u32,
}

/// The stage of this node that almost all packets pass: version 4 without options, checksum, lengths, addresses of
/// hosts. For packets without [`SPECIAL`] flags.
///
/// The header is read as three words and each field taken from them: read byte by byte, it costs twice the instructions.
#[inline(always)]
pub(crate) fn plain(header: &[u8; 20], available: usize) -> Option<Plain> {
    let (words, last) = header.as_chunks::<8>();
    let (first, second) = (u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]));
    let third = u32::from_be_bytes([last[0], last[1], last[2], last[3]]);
    let total_length = usize::from((first >> 32) as u16);
    let plain = (first >> 56 == 0x45)
        & checksum::ip4_header_is_valid(first, second, third)
        & (total_length >= 20)
        & (total_length <= available)
        & is_host(second as u32)
        & is_host(third);
    plain.then_some(Plain {
        total_length,
        destination: third,
    })
}

/// By an address's first byte: 1 where no host can have it (0/8, 127/8, 224/4, 240/4).
static NOT_A_HOST: [u8; 256] = {
    let mut table = [0; 256];
    let mut top = 0;
    while top < 256 {
        table[top] = (top == 0 || top == 127 || top >= 224) as u8;
        top += 1;
    }
    table
};

/// True for addresses that hosts can have.
#[inline(always)]
fn is_host(address: u32) -> bool {
    NOT_A_HOST[(address >> 24) as usize] == 0
}

/// Validates clause by clause, with a reason for each.
#[cold]
#[inline(never)]
fn other(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) -> Result<Next, Drop> {
    let available = cx.buffers.total_length(packet);
    let bytes = cx.buffers.bytes(packet);
    // RFC 1812 section 5.2.2 (1): room for a header.
    let head: &[u8; 20] = bytes.first_chunk().ok_or(Drop::Truncated)?;
    // (3) The version.
    if head[0] >> 4 != 4 {
        return Err(Drop::BadVersion);
    }
    // (4) The header length.
    let header_len = usize::from(head[0] & 15) * 4;
    if header_len < 20 || header_len > bytes.len() {
        return Err(Drop::BadHeaderLength);
    }
    // (2) The checksum.
    if !checksum::is_valid(&bytes[..header_len]) {
        return Err(Drop::BadChecksum);
    }
    // (5) The total length.
    let total_length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if total_length < header_len {
        return Err(Drop::BadTotalLength);
    }
    if total_length > available {
        return Err(Drop::Truncated);
    }
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (source, destination) = (word(12), word(16));
    let mut next = Next::Lookup;
    // Source 0.0.0.0 is a host that does not know its address yet; nothing here answers it, but it may speak to us.
    let unnumbered = source == 0 && destination >> 28 >= 0xe;
    if !is_host(source) && !unnumbered {
        return Err(Drop::SourceMartian);
    }
    if destination == u32::MAX || destination >> 28 == 0xe {
        next = Next::Local;
    } else if !is_host(destination) {
        return Err(Drop::DestinationMartian);
    } else if packet.flags().contains(Flags::LINK_BROADCAST) {
        return Err(Drop::LinkBroadcast);
    }
    if header_len > 20 && next == Next::Lookup {
        let options = wire::ip4::Ip4Options::new(&bytes[20..header_len]);
        if options.clone().validate().is_err() {
            let error = ErrorWord::new(wire::Icmp4Type::PARAMETER_PROBLEM.0, 0).with_parameter(20);
            packet.word = error.to_word();
            return Ok(Next::Error);
        }
        let source_route = |option| matches!(option, Ok(wire::ip4::Ip4Option::SourceRoute { .. }));
        if options.into_iter().any(source_route) {
            return Err(Drop::SourceRoute);
        }
    }
    if total_length < available {
        cx.buffers.truncate_total(packet, total_length);
    }
    Ok(next)
}
