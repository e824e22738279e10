//! `ip6-input`: decides whether an IPv6 packet is one.
//!
//! - Input: packets at their IPv6 header.
//! - Output: packets without link-layer padding; word unused.
//! - Reads: snapshot.interfaces
//! - State: none
//! - Standard: RFC 8200 section 3, RFC 4291 sections 2.5 to 2.7
//! - Cost: 4 ticks (pg-ip6base)

use dataplane::{Context, Descriptor, Flags, Frame, Node, Verdict};

use super::arc;
use crate::snapshot::{NO_INTERFACE, Snapshot};

dataplane::next_nodes! {
    /// Where `ip6-input` sends packets: the arc `ip6-unicast` in its order first.
    pub enum Next { Policy => "ip6-policy", Lookup => "ip6-lookup", Local => "ip6-local" }
}

dataplane::drop_reasons! {
    /// Why `ip6-input` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet is shorter than an IPv6 header or than its payload length says",
        BadVersion = "bad-version": "The version is not 6",
        Disabled = "disabled": "The interface has no IPv6 address, so IPv6 is off there",
        SourceMartian = "source-martian": "The source address cannot be a host's: multicast or loopback",
        DestinationMartian = "destination-martian": "The destination address is never forwarded: unspecified or loopback",
        LinkBroadcast = "link-broadcast": "A unicast packet came in a broadcast or multicast frame",
        ScopeExceeded = "scope-exceeded": "A packet with a link-local source is for another link (RFC 4291 section 2.5.6)",
        Jumbogram = "jumbogram": "Jumbograms (RFC 2675) are not supported",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip6Input;

impl Node<Snapshot> for Ip6Input {
    const NAME: &'static str = "ip6-input";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let view = cx.view;
        let mut current = NO_INTERFACE;
        let (mut enabled, mut on, mut to_us) = (false, Next::Lookup, Next::Local);
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            if packet.interface != current {
                current = packet.interface;
                let interface = cx.snapshot.interface(current);
                enabled = interface.is_some_and(|interface| interface.ip6_enabled());
                (on, to_us) = match interface {
                    Some(interface) if interface.ip6_unicast.has(arc::POLICY) => {
                        (Next::Policy, Next::Policy)
                    }
                    _ => (Next::Lookup, Next::Local),
                };
            }
            let Some(header) = view.head::<40>(packet) else {
                *verdict = Verdict::discard(Drop::Truncated);
                continue;
            };
            if enabled
                && !packet.flags().intersects(crate::ip4::input::SPECIAL)
                && let Some(total_length) = plain(header, packet.length())
            {
                packet.truncate(total_length);
                *verdict = on.into();
                continue;
            }
            *verdict = match other(packet, cx, enabled) {
                Ok(Next::Lookup) => on.into(),
                Ok(_) => to_us.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// The stage of this node that almost all packets pass: version 6, lengths, global unicast addresses both (2000::/3 has no
/// special ones to care about). For packets without the flags of `ip4::input::SPECIAL`. Returns the total length.
#[inline(always)]
pub(crate) fn plain(header: &[u8; 40], available: usize) -> Option<usize> {
    let total_length = usize::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    let plain = (header[0] >> 4 == 6)
        & (header[8] >> 5 == 1)
        & (header[24] >> 5 == 1)
        & (total_length > 40)
        & (total_length <= available);
    plain.then_some(total_length)
}

/// The destination address in host order.
#[inline(always)]
pub(crate) fn destination(header: &[u8; 40]) -> u128 {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&header[24..40]);
    u128::from_be_bytes(bytes)
}

/// Validates clause by clause, with a reason for each.
#[cold]
#[inline(never)]
fn other(
    packet: &mut Descriptor,
    cx: &mut Context<'_, Snapshot>,
    enabled: bool,
) -> Result<Next, Drop> {
    if !enabled {
        return Err(Drop::Disabled);
    }
    let available = cx.buffers.total_length(packet);
    let header = cx.buffers.head::<40>(packet).ok_or(Drop::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Drop::BadVersion);
    }
    let payload_length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let hop_by_hop = header[6] == 0;
    if payload_length == 0 && hop_by_hop && available > 40 {
        return Err(Drop::Jumbogram);
    }
    if payload_length + 40 > available {
        return Err(Drop::Truncated);
    }
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..24]);
    let (source, destination) = (u128::from_be_bytes(source), destination(header));
    if source >> 120 == 0xff || source == 1 {
        return Err(Drop::SourceMartian);
    }
    if destination <= 1 {
        return Err(Drop::DestinationMartian);
    }
    if payload_length + 40 < available {
        cx.buffers.truncate_total(packet, payload_length + 40);
    }
    if destination >> 120 == 0xff {
        return Ok(Next::Local);
    }
    if packet.flags().contains(Flags::LINK_BROADCAST) {
        return Err(Drop::LinkBroadcast);
    }
    let link_local = |address: u128| address >> 118 == 0xfe80 >> 6;
    if link_local(source) && !link_local(destination) && !is_ours(destination, packet.interface, cx)
    {
        return Err(Drop::ScopeExceeded);
    }
    // Our link-local address, if it is this interface's, and no other: link-local packets are never forwarded.
    if link_local(destination) {
        return Ok(Next::Local);
    }
    Ok(Next::Lookup)
}

fn is_ours(address: u128, interface: u16, cx: &Context<'_, Snapshot>) -> bool {
    let Some(vrf) = cx.snapshot.vrf_of(interface) else {
        return false;
    };
    let group = cx.snapshot.forwarding.group(vrf.ip6.lookup(address));
    group.action() == crate::fib::RouteAction::Local
}
