//! `ip4-policy`: lets pass what policy and access lists allow, and the packets of flows that they have allowed; translates addresses and ports.
//!
//! - Input: packets at their IPv4 header, validated by `ip4-input`, those for groups and broadcasts too; word = destination address.
//! - Output: packets as they came or as their flow is translated, word = the destination that they have now; word = the error to `icmp4-error` where denied packets are answered, where a pool is exhausted, and where a service has no backends; denied TCP goes to `tcp4-reset` there. Packets
//!   whose flow another worker remembers go on at the same node there.
//! - Reads: snapshot.policy, snapshot.nat, snapshot.interfaces, snapshot.vrfs, snapshot.forwarding
//! - State: the worker's flow table, shared with `ip6-policy`; what first fragments of 512 packets say; which backends 4096 clients of services had; where the sweep of the table stands; what control is told of flows: denied packets of the last second, where a dump and the round of updates stand
//! - Standard: RFC 5382 and RFC 4787 timeouts are configured, Calico's by default; RFC 1858, RFC 3128 (fragments), RFC 1812 section 5.2.7.1 (prohibited); RFC 2663, RFC 4787, RFC 5382, RFC 5508 (translation)
//! - Cost: 39 ticks with 10,000 flows, 78 with a million (pg-iacl50sf-10kflows, pg-flow-1m), 1300 for a new flow in a full table (pg-policy-newflows-10krules), 43 for a packet that is not tracked (pg-iacl50sl-100kflows)

use dataplane::{Context, Frame, Node};
use wire::Icmp4Type;
use wire::icmp4::unreachable;

use super::Drop;
use super::enforce::Enforcer;
use super::housekeeping::Housekeeper;
use super::packet::Ip4;
use crate::icmp::ErrorWord;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-policy` sends packets: the end of the arc `ip4-unicast` first.
    pub enum Next { Lookup => "ip4-lookup", Local => "ip4-local", Error => "icmp4-error", Reset => "tcp4-reset" }
}

/// See the module.
pub struct Ip4Policy {
    enforcer: Enforcer<Ip4>,
    /// Of the table of both nodes.
    housekeeper: Housekeeper,
}

impl Default for Ip4Policy {
    fn default() -> Self {
        Self {
            enforcer: Enforcer::new(
                ErrorWord::new(
                    Icmp4Type::DESTINATION_UNREACHABLE.0,
                    unreachable::COMMUNICATION_PROHIBITED,
                ),
                ErrorWord::new(Icmp4Type::DESTINATION_UNREACHABLE.0, unreachable::PORT),
            ),
            housekeeper: Housekeeper::default(),
        }
    }
}

impl Node<Snapshot> for Ip4Policy {
    const NAME: &'static str = "ip4-policy";
    type Next = Next;
    type Drop = Drop;
    const POLLED: bool = true;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        self.enforcer.process(frame, cx);
    }

    fn poll(&mut self, cx: &mut Context<'_, Snapshot>) {
        self.housekeeper.turn(cx);
    }
}
