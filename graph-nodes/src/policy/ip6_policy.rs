//! `ip6-policy`: lets pass what policy and access lists allow, and the packets of flows that they have allowed; translates addresses and ports.
//!
//! - Input: packets at their IPv6 header, validated by `ip6-input`, those for groups and link-local addresses too; word unused.
//! - Output: packets as they came or as their flow is translated; word = the error to `icmp6-error` where denied packets are answered, where a pool is exhausted, and where a service has no backends; denied TCP goes to `tcp6-reset` there. Packets
//!   whose flow another worker remembers go on at the same node there.
//! - Reads: snapshot.policy, snapshot.nat, snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: the worker's flow table, shared with `ip4-policy`, which sweeps it; what first fragments of 512 packets say; which backends 4096 clients of services had
//! - Standard: as `ip4-policy`; RFC 4890 (ICMPv6 that must pass), RFC 4443 section 3.1 (prohibited)
//! - Cost: two lines of the flow table where IPv4 has one

use dataplane::{Context, Frame, Node};
use wire::Icmp6Type;
use wire::icmp6::unreachable;

use super::Drop;
use super::enforce::Enforcer;
use super::packet::Ip6;
use crate::icmp::ErrorWord;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip6-policy` sends packets: the end of the arc `ip6-unicast` first.
    pub enum Next { Lookup => "ip6-lookup", Local => "ip6-local", Error => "icmp6-error", Reset => "tcp6-reset" }
}

/// See the module.
pub struct Ip6Policy(Enforcer<Ip6>);

impl Default for Ip6Policy {
    fn default() -> Self {
        Self(Enforcer::new(
            ErrorWord::new(
                Icmp6Type::DESTINATION_UNREACHABLE.0,
                unreachable::PROHIBITED,
            ),
            ErrorWord::new(Icmp6Type::DESTINATION_UNREACHABLE.0, unreachable::PORT),
        ))
    }
}

impl Node<Snapshot> for Ip6Policy {
    const NAME: &'static str = "ip6-policy";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        self.0.process(frame, cx);
    }
}
