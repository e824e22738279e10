//! A plain translator: a list of sessions, packets taken apart into what they say and built anew. Random traffic through the node and
//! through this one comes out the same, bit for bit.

use core::net::Ipv4Addr;
use std::collections::HashMap;

use dataplane::TestPacket;
use proptest::prelude::*;
use wire::builder::ip4;
use wire::{TcpFlags, checksum};

use super::tests::{self, FORWARDED, OUTSIDE, PORTS, pool_addresses, rules};
use crate::policy::testing::{Gateway, v4};
use crate::policy::{Ip4Policy, Policy};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Protocol {
    Tcp,
    Udp,
    /// Without a checksum.
    BareUdp,
    Echo,
    /// Nobody translates its ports: it has none.
    Gre,
}

impl Protocol {
    const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::BareUdp, Self::Echo, Self::Gre];

    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp | Self::BareUdp => 17,
            Self::Echo => 1,
            Self::Gre => 47,
        }
    }
}

/// An address and a port, or an identifier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct End(Ipv4Addr, u16);

/// What a packet says: from, to.
type Ends = (End, End);

/// A packet of a session, built from what it says.
fn built(protocol: Protocol, (from, to): Ends, answer: bool, payload: &[u8]) -> Vec<u8> {
    let header = ip4(from.0, to.0).id(7);
    match protocol {
        Protocol::Tcp => header
            .tcp(from.1, to.1)
            .flags(TcpFlags::ACK)
            .payload(payload)
            .build(),
        Protocol::Udp => header.udp(from.1, to.1).payload(payload).build(),
        Protocol::BareUdp => header
            .udp(from.1, to.1)
            .no_checksum()
            .payload(payload)
            .build(),
        Protocol::Echo if answer => header.icmp4_echo_reply(to.1, 1).payload(payload).build(),
        Protocol::Echo => header.icmp4_echo(from.1, 1).payload(payload).build(),
        Protocol::Gre => header.raw(47, payload).build(),
    }
}

/// A packet in two fragments, cut behind `first` bytes of what the header does not take.
fn cut(packet: &[u8], first: usize) -> [Vec<u8>; 2] {
    let part = |bytes: &[u8], offset: u16, more: bool| {
        let mut part = packet[..20].to_vec();
        part[2..4].copy_from_slice(&(20 + bytes.len() as u16).to_be_bytes());
        let field = (offset / 8) | (u16::from(more) << 13);
        part[6..8].copy_from_slice(&field.to_be_bytes());
        part[10..12].fill(0);
        let sum = checksum::checksum(&part);
        part[10..12].copy_from_slice(&sum.to_be_bytes());
        part.extend_from_slice(bytes);
        part
    };
    let (head, tail) = packet[20..].split_at(first);
    [part(head, 0, true), part(tail, first as u16, false)]
}

/// Both ways of one session, each as it is in front of the gateway: what the beginner sends, and what arrives.
#[derive(Clone, Copy, Debug)]
struct Session {
    protocol: Protocol,
    sent: Ends,
    arrives: Ends,
    /// Interfaces of both sides.
    sides: [u16; 2],
}

#[derive(Default)]
struct Plain {
    sessions: Vec<Session>,
    /// The address that a host got.
    pairs: HashMap<Ipv4Addr, Ipv4Addr>,
}

/// What the plain translator says about a session's first packet.
enum Allowed {
    Nothing,
    /// As it comes out, where only one thing is possible.
    Exactly(Ends),
    /// The destination, and any address and port of the pool.
    Pool(End),
    /// This source address with any port.
    Twice(Ipv4Addr, End),
}

impl Plain {
    fn known(&self, protocol: Protocol, ends: Ends) -> Option<(Session, bool)> {
        let of = |session: &&Session| session.protocol.number() == protocol.number();
        let sessions = || self.sessions.iter().filter(of);
        let forward = sessions().find(|session| session.sent == ends);
        let back = |session: &&Session| session.arrives == (ends.1, ends.0);
        forward
            .map(|session| (*session, false))
            .or_else(|| sessions().find(back).map(|session| (*session, true)))
    }

    /// Whether a session sends this.
    fn is_sent(&self, protocol: Protocol, ends: Ends) -> bool {
        let of = |session: &Session| session.protocol.number() == protocol.number();
        let mut sessions = self.sessions.iter();
        sessions.any(|session| of(session) && session.sent == ends)
    }

    /// The rules of [`tests::rules`], clause by clause.
    fn first(&self, protocol: Protocol, (from, to): Ends) -> Allowed {
        let external = |address: Ipv4Addr| pool_addresses().contains(&address.to_bits());
        let inside =
            |address: Ipv4Addr| address.octets()[..2] == [10, 0] && address.octets()[2] < 4;
        let mut target = to;
        let mut twice = false;
        if to.0 == FORWARDED {
            match (protocol, to.1) {
                (Protocol::Tcp, 80) => target = End(v4(0, 20), 8080),
                (Protocol::Tcp, 443) => (target, twice) = (End(v4(0, 22), 443), true),
                (Protocol::Udp | Protocol::BareUdp, 5000..=5009) => {
                    target = End(v4(1, 21), 6000 + to.1 - 5000);
                }
                _ => {}
            }
        } else if to.0.octets()[..3] == [203, 0, 113] && to.0.octets()[3] & 0xf8 == 64 {
            target.0 = v4(0, to.0.octets()[3]);
        }
        let redirected = target != to;
        if !redirected && external(to.0) {
            return Allowed::Nothing;
        }
        if twice {
            return Allowed::Twice(v4(0, 250), target);
        }
        let leaves = target.0.octets()[..3] == [10, 0, OUTSIDE as u8];
        // Back inside, rules are asked about where the packet was sent.
        let asked = if leaves { target.0 } else { to.0 };
        if !(leaves || redirected) || !inside(from.0) {
            return Allowed::Exactly((from, target));
        }
        if from.0.octets()[2] == 0 && from.0.octets()[3] & 0xf8 == 64 {
            let one_to_one = Ipv4Addr::new(203, 0, 113, from.0.octets()[3]);
            return Allowed::Exactly((End(one_to_one, from.1), target));
        }
        if asked == v4(OUTSIDE, 200) {
            return Allowed::Exactly((from, target));
        }
        Allowed::Pool(target)
    }

    /// Remembers a session as the node has made it, where that is allowed.
    fn learn(&mut self, protocol: Protocol, sent: Ends, arrives: Ends, sides: [u16; 2]) {
        let pooled = match self.first(protocol, sent) {
            Allowed::Nothing => panic!("{sent:?} became {arrives:?}"),
            Allowed::Exactly(ends) => {
                assert_eq!(arrives, ends);
                None
            }
            Allowed::Twice(source, target) => {
                assert_eq!((arrives.0.0, arrives.1), (source, target));
                Some(arrives.0)
            }
            Allowed::Pool(target) => {
                assert_eq!(arrives.1, target);
                let address = *self.pairs.entry(sent.0.0).or_insert(arrives.0.0);
                assert_eq!(arrives.0.0, address, "a host keeps its address");
                assert!(pool_addresses().contains(&address.to_bits()));
                Some(arrives.0)
            }
        };
        if let Some(End(_, port)) = pooled.filter(|_| protocol != Protocol::Gre) {
            assert!((PORTS.0..=PORTS.1).contains(&port));
        }
        let same = self.known(protocol, (arrives.1, arrives.0));
        assert!(same.is_none(), "its answers are another's: {same:?}");
        self.sessions.push(Session {
            protocol,
            sent,
            arrives,
            sides,
        });
    }
}

/// What comes in.
#[derive(Clone, Debug)]
enum Step {
    /// From a host inside, or outside, to somewhere.
    Sends {
        from: (u16, u8),
        port: u16,
        to: usize,
        to_port: u16,
        protocol: Protocol,
        cut: bool,
    },
    /// A packet of a session that is there.
    Goes {
        session: usize,
        back: bool,
        cut: bool,
    },
    /// An error about a packet of a session, from its receiver or from a router on the way.
    Fails {
        session: usize,
        back: bool,
        router: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let host = prop_oneof![
        4 => (0u16..2, prop::sample::select(vec![10u8, 11, 20, 64, 66])),
        1 => (Just(OUTSIDE), prop::sample::select(vec![30u8, 31])),
    ];
    let ports = prop::sample::select(vec![53u16, 1024, 1025, 40_000, 40_001]);
    let to_ports = prop::sample::select(vec![80u16, 443, 53, 5000, 5003, 5009, 5010]);
    let sends = (
        host,
        ports,
        0..TARGETS,
        to_ports,
        prop::sample::select(Protocol::ALL.to_vec()),
        any::<bool>(),
    );
    let sends = sends.prop_map(|(from, port, to, to_port, protocol, cut)| Step::Sends {
        from,
        port,
        to,
        to_port,
        protocol,
        cut,
    });
    let goes = (any::<usize>(), any::<bool>(), any::<bool>());
    let goes = goes.prop_map(|(session, back, cut)| Step::Goes { session, back, cut });
    let fails = (any::<usize>(), any::<bool>(), any::<bool>());
    let fails = fails.prop_map(|(session, back, router)| Step::Fails {
        session,
        back,
        router,
    });
    prop::collection::vec(prop_oneof![2 => sends, 2 => goes, 2 => fails], 1..60)
}

const TARGETS: usize = 8;

fn target(number: usize) -> Ipv4Addr {
    match number {
        0 => v4(OUTSIDE, 30),
        1 => v4(OUTSIDE, 31),
        // Exempt.
        2 => v4(OUTSIDE, 200),
        3 => FORWARDED,
        // One to one.
        4 => Ipv4Addr::new(203, 0, 113, 66),
        5 => v4(1, 11),
        // The pool's own.
        6 => Ipv4Addr::new(203, 0, 113, 1),
        _ => v4(0, 10),
    }
}

struct Run {
    gateway: Gateway,
    plain: Plain,
}

impl Run {
    /// What leaves, or the reason of a drop.
    fn pass(&mut self, interface: u16, bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
        tests::pass(
            &mut self.gateway,
            TestPacket {
                bytes,
                interface,
                ..TestPacket::default()
            },
        )
        .map(|packet| packet.bytes)
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Sends {
                from: (side, host),
                port,
                to,
                to_port,
                protocol,
                cut,
            } => {
                let (port, to_port) = match protocol {
                    Protocol::Gre => (0, 0),
                    Protocol::Echo => (port, 0),
                    _ => (port, to_port),
                };
                let ends = (End(v4(side, host), port), End(target(to), to_port));
                if ends.0.0 != ends.1.0 {
                    self.send(side, protocol, ends, cut);
                }
            }
            Step::Goes { session, back, cut } => {
                let Some(session) = self.nth(session) else {
                    return;
                };
                let (side, ends) = if back {
                    (session.sides[1], (session.arrives.1, session.arrives.0))
                } else {
                    (session.sides[0], session.sent)
                };
                self.send(side, session.protocol, ends, cut);
            }
            Step::Fails {
                session,
                back,
                router,
            } => {
                if let Some(session) = self.nth(session) {
                    self.fail(&session, back, router);
                }
            }
        }
    }

    fn nth(&self, number: usize) -> Option<Session> {
        let count = self.plain.sessions.len();
        (count > 0).then(|| self.plain.sessions[number % count])
    }

    fn send(&mut self, side: u16, protocol: Protocol, ends: Ends, fragments: bool) {
        let payload = [0xa5; 41];
        let known = self.plain.known(protocol, ends);
        let answer = known.is_some_and(|(_, back)| back);
        let packet = built(protocol, ends, answer, &payload);
        let parts = if fragments {
            cut(&packet, 24).to_vec()
        } else {
            vec![packet]
        };
        let mut passed = Vec::new();
        for part in parts {
            match self.pass(side, part) {
                Ok(bytes) => passed.push(bytes),
                Err(reason) => {
                    assert!(known.is_none(), "{reason}: {ends:?} of a session");
                    if protocol == Protocol::Gre && reason == "icmp4-error" {
                        // Two hosts with one address cannot both speak to one endpoint without ports.
                        continue;
                    }
                    let allowed = self.plain.first(protocol, ends);
                    if let Allowed::Exactly((from, to)) = allowed
                        && self.plain.is_sent(protocol, (to, from))
                    {
                        // Its answers would be taken for another session's packets.
                        assert_eq!(reason, "flow-table-full");
                        continue;
                    }
                    assert!(
                        matches!(allowed, Allowed::Nothing),
                        "{reason}: {ends:?} {protocol:?}"
                    );
                    assert_eq!(reason, "nat-no-session");
                }
            }
        }
        let Some(first) = passed.first() else { return };
        let wanted = match known {
            Some((session, true)) => (session.sent.1, session.sent.0),
            Some((session, false)) => session.arrives,
            None => {
                let arrives = read(protocol, first, ends);
                let far = arrives.1.0.octets();
                let other = if far[0] == 10 { far[2].into() } else { OUTSIDE };
                self.plain.learn(protocol, ends, arrives, [side, other]);
                arrives
            }
        };
        let whole = built(protocol, wanted, answer, &payload);
        let wanted = if fragments {
            cut(&whole, 24).to_vec()
        } else {
            vec![whole]
        };
        assert_eq!(passed, wanted, "{ends:?} {protocol:?}");
    }

    /// The receiver of a packet of the session, or a router in front of it, says that something is wrong.
    fn fail(&mut self, session: &Session, back: bool, router: bool) {
        let Session {
            protocol,
            sent,
            arrives,
            sides,
        } = *session;
        let payload = [0x5a; 30];
        let reversed = |(from, to): Ends| (to, from);
        // The packet as its receiver sees it, and as its sender has sent it.
        let (seen, was, side) = if back {
            (reversed(sent), reversed(arrives), sides[0])
        } else {
            (arrives, sent, sides[1])
        };
        let speaker = if router { v4(side, 77) } else { seen.1.0 };
        let about = built(protocol, seen, back, &payload);
        let error = ip4(speaker, seen.0.0).icmp4_error(3, 1, 0, &about).build();
        let out = self.pass(side, error);
        let about = built(protocol, was, back, &payload);
        // Where the answers' source is another's, so is the error's (RFC 5508 REQ-4 and REQ-5).
        let speaker = if seen.1.0 == was.1.0 {
            speaker
        } else {
            was.1.0
        };
        let wanted = ip4(speaker, was.0.0).icmp4_error(3, 1, 0, &about).build();
        assert_eq!(
            out.as_ref(),
            Ok(&wanted),
            "{session:?} back {back} router {router}"
        );
    }
}

/// What a packet says that came out, about which this came in.
fn read(protocol: Protocol, packet: &[u8], before: Ends) -> Ends {
    let address = |at: usize| Ipv4Addr::from_octets(*packet[at..].first_chunk().expect("a header"));
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let ports = match protocol {
        Protocol::Gre => (0, 0),
        Protocol::Echo => (port(24), before.1.1),
        _ => (port(20), port(22)),
    };
    (End(address(12), ports.0), End(address(16), ports.1))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_traffic_is_what_the_plain_translator_makes_of_it(steps in steps()) {
        let gateway = Gateway::translating(Ip4Policy::default, Policy::default(), rules(), 1000);
        let mut run = Run { gateway, plain: Plain::default() };
        for step in &steps {
            run.step(step);
        }
        run.gateway.finish();
    }
}
