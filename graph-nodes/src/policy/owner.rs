//! Which worker a flow belongs to, where there are several: the one whose table remembers it.
//!
//! Both directions of a flow have the same owner, ICMP errors that of the packet that they quote. Fragments say nothing about ports
//! but for the first, so all fragments between two addresses meet at one worker, where the first has left what it said, and go on
//! from there to their flow's. Where a rule gives packets another destination, the flow's owner is that of the packets with this
//! destination, since its answers come from there. A packet whose flow lives elsewhere is handed over to the same node of that worker before any flow is
//! looked up; what no flow is asked about stays where it is.

use dataplane::{Context, Descriptor, Flags, Verdict, WorkerId, owner_of};
use tables::{FlowKey, FlowKey4, FlowKey6};

use super::Policy;
use super::packet::{Head, Version, question_of_flow};
use crate::snapshot::Snapshot;

/// A key whose flow has an owner.
pub trait Owned: FlowKey {
    /// The same for a key and the reversed one: exclusive or and sum of the addresses' words, and of the ports.
    fn digest(&self) -> [u32; 3];

    /// The worker that the flow belongs to.
    #[inline(always)]
    fn owner(&self, workers: u16) -> WorkerId {
        owner_of(self.digest(), workers)
    }
}

#[inline(always)]
fn ports(a: u16, b: u16) -> u32 {
    u32::from(a ^ b) << 16 | u32::from(a.wrapping_add(b))
}

impl Owned for FlowKey4 {
    #[inline(always)]
    fn digest(&self) -> [u32; 3] {
        let (a, b) = (self.src(), self.dst());
        let ports = ports(self.src_port(), self.dst_port());
        [a ^ b, a.wrapping_add(b), ports]
    }
}

impl Owned for FlowKey6 {
    #[inline(always)]
    fn digest(&self) -> [u32; 3] {
        let words = |address: u128| [0, 32, 64, 96].map(|shift| (address >> shift) as u32);
        let (a, b) = (words(self.src()), words(self.dst()));
        let both = || a.into_iter().chain(b);
        let ports = ports(self.src_port(), self.dst_port());
        [
            both().fold(0, |sum, word| sum ^ word),
            both().fold(0, u32::wrapping_add),
            ports,
        ]
    }
}

/// This worker among the others.
#[derive(Clone, Copy)]
pub(super) struct Home {
    worker: WorkerId,
    workers: u16,
    /// Rules give packets other destinations.
    redirects: bool,
}

impl Home {
    /// `None` where no packet is to be handed over: there is one worker, or no list remembers flows.
    #[inline(always)]
    pub(super) fn of<V: Version>(cx: &Context<'_, Snapshot>, policy: &Policy) -> Option<Self> {
        let redirects = || {
            let mut rules = V::translation(cx.snapshot).destination.iter().flatten();
            rules.any(|rules| rules.has_rules())
        };
        (cx.workers() > 1 && policy.tracks_flows).then(|| Self {
            worker: cx.worker,
            workers: cx.workers(),
            redirects: redirects(),
        })
    }

    /// Whether all fragments between two addresses meet at this worker.
    pub(super) fn is_meeting_point(self, key: &impl Owned) -> bool {
        key.owner(self.workers) == self.worker
    }

    /// Whether this worker owns the flow.
    #[inline(always)]
    pub(super) fn owns<V: Version>(self, key: &V::Key, snapshot: &Snapshot) -> bool {
        self.owner::<V>(key, snapshot) == self.worker
    }

    #[inline(always)]
    fn owner<V: Version>(self, key: &V::Key, snapshot: &Snapshot) -> WorkerId {
        if self.redirects {
            return redirected::<V>(key, snapshot).owner(self.workers);
        }
        key.owner(self.workers)
    }

    /// Marks a packet that has been read where its flow lives elsewhere.
    #[inline(always)]
    pub(super) fn locate<V: Version>(
        self,
        key: &V::Key,
        head: &mut Head,
        flags: Flags,
        snapshot: &Snapshot,
    ) {
        let asks_flows = !head.is(Head::DECIDED | Head::UNTRACKED)
            && (!head.is(Head::LONE) || head.is(Head::RELATED));
        if asks_flows && !flags.contains(Flags::HANDED_OVER) && !self.owns::<V>(key, snapshot) {
            head.set(Head::DECIDED | Head::ELSEWHERE);
        }
    }

    /// Hands over the packets that are marked.
    #[inline(never)]
    pub(super) fn hand_over<V: Version>(
        self,
        heads: &[Head],
        keys: &[V::Key],
        packets: &mut [Descriptor],
        verdicts: &mut [Verdict],
        cx: &mut Context<'_, Snapshot>,
    ) {
        let each = packets.iter_mut().zip(verdicts).zip(heads.iter().zip(keys));
        for ((packet, verdict), (head, key)) in each {
            if !head.is(Head::ELSEWHERE) {
                continue;
            }
            let mut packet = packet.take();
            *verdict = Verdict::TAKEN;
            // Fragments find out at their meeting point where they belong, and are not to go there again.
            if !head.is(Head::FRAGMENT) && V::plain(cx.view.bytes(&packet), 0).is_none() {
                packet.set_flags(Flags::HANDED_OVER);
            }
            let owner = match head.is(Head::FRAGMENT) {
                true => key.owner(self.workers),
                false => self.owner::<V>(key, cx.snapshot),
            };
            cx.hand_over(owner, packet);
        }
    }
}

/// The key with the destination that a rule gives it.
#[inline(never)]
fn redirected<V: Version>(key: &V::Key, snapshot: &Snapshot) -> V::Key {
    let rules = V::translation(snapshot).destination_of(key.zone());
    let rule = rules.and_then(|rules| rules.fixed(&question_of_flow::<V>(key)));
    let Some(rule) = rule else { return *key };
    let ((source, destination), ports) = (V::ends(key), V::ports(key));
    let (destination, port) = rule.apply(destination, ports.1);
    let ends = (source, destination);
    V::key(ends, (ports.0, port), key.protocol(), key.zone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_directions_have_one_owner(a: u128, b: u128, from: u16, to: u16, protocol: u8, workers in 1..=255u16) {
            let key = FlowKey4::new(a as u32, b as u32, from, to, protocol, 0);
            prop_assert_eq!(key.owner(workers), key.reversed().owner(workers));
            prop_assert!(key.owner(workers).0 < workers);
            let key = FlowKey6::new(a, b, from, to, protocol, 7);
            prop_assert_eq!(key.owner(workers), key.reversed().owner(workers));
            prop_assert!(key.owner(workers).0 < workers);
        }
    }

    /// Flows as they are on real networks (one server, clients in a row, ports in a row) spread evenly over workers.
    #[test]
    fn flows_spread() {
        let net = 0x2001_0db8_u128 << 96;
        let four = |host: u32, port: u16| {
            FlowKey4::new(0x0a00_0000 + host, 0xc612_0202, port, 443, 6, 0).digest()
        };
        let six = |host: u32, port: u16| {
            FlowKey6::new(net | u128::from(host), net | 1 << 64 | 2, port, 443, 6, 0).digest()
        };
        let hosts = 16..16 + 64;
        let ports = 32768..32768 + 64;
        type Digest<'a> = &'a dyn Fn(u32, u16) -> [u32; 3];
        for digest in [&four as Digest<'_>, &six] {
            for workers in [2, 3, 4, 7, 8, 16] {
                let mut few = vec![0; workers];
                for host in hosts.clone() {
                    for port in ports.clone() {
                        few[usize::from(owner_of(digest(host, port), workers as u16).0)] += 1;
                    }
                }
                let even = 64 * 64 / workers;
                let near = even - even / 4..even + even / 4;
                assert!(few.iter().all(|count| near.contains(count)), "{few:?}");
            }
        }
    }
}
