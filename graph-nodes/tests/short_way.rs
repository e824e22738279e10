//! The oracle of the short way (docs/adr/0002-stages-at-once.md): the same packets through the stages that a node drives for the
//! next one, and through separate nodes. What comes out, what is counted and what is dropped must not differ.
//!
//! Traced packets take the separate nodes always, so three gateways get the same frames: one traces nothing, one every packet,
//! one some of each turn. Whatever way a packet takes, it stays behind those of its flow that came before.

mod kit;

use std::collections::BTreeMap;

use dataplane::{InterfaceCounter, MemoryWire, Offload, Rng, Segmentation};
use kit::frames::{self, Dice};
use kit::{HOST, INTERFACES, Lab, PORTS, behind, gateway_mac, mac, v4, v6};
use proptest::prelude::*;
use wire::builder::{eth, ip4, ip6};
use wire::{IpProtocol, MacAddr, TcpFlags};

/// Which packets a gateway traces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Traced {
    /// The short way, wherever it can be taken.
    None,
    /// Separate nodes.
    All,
    /// Both ways in the same frames.
    Some,
}

const WAYS: [Traced; 3] = [Traced::None, Traced::All, Traced::Some];

/// Frames that are on a wire together, with the port that each arrives at.
type Burst = Vec<(usize, MemoryWire)>;

/// Sends frames that arrive in one turn; what comes out. Of each burst, `some` packets are traced where some are to be.
fn pass(lab: &mut Lab, traced: Traced, some: u32, burst: &[(usize, MemoryWire)]) -> Burst {
    let count = match traced {
        Traced::None => 0,
        Traced::All => u32::MAX,
        Traced::Some => some,
    };
    lab.engine
        .trace(count, None, 0)
        .expect("room for a command");
    for (port, frame) in burst {
        lab.send_wire(*port, frame.clone());
    }
    let out = lab.turn();
    // The ring of records is bounded; they are of no interest here.
    lab.engine.traces(|_, _| ());
    out
}

/// Everything that an operator could see of a gateway's work, in an order that does not depend on the way.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    /// Frames by port, the identification of the gateway's own packets blanked out: it is random.
    frames: Vec<(usize, Vec<u8>, String)>,
    /// Packets and bytes, received, sent and dropped, by interface.
    interfaces: Vec<[(u64, u64); 3]>,
    /// By node and reason.
    drops: Vec<(String, u64)>,
    /// What the slow path is told.
    punts: Vec<(u16, u16, u32, Vec<u8>)>,
}

fn outcome(lab: &mut Lab, out: &[(usize, MemoryWire)]) -> Outcome {
    let mut frames: Vec<_> = out
        .iter()
        .map(|(port, frame)| (*port, blanked(&frame.bytes), format!("{:?}", frame.offload)))
        .collect();
    frames.sort();
    let mut punts: Vec<_> = lab
        .punts()
        .into_iter()
        .map(|(header, bytes)| (header.kind, header.interface, header.word, bytes))
        .collect();
    punts.sort();
    let counters = [
        InterfaceCounter::Rx,
        InterfaceCounter::Tx,
        InterfaceCounter::Drop,
    ];
    let interfaces = INTERFACES.map(|number| {
        let stats = lab.stats().interface(number).expect("an interface");
        counters.map(|counter| stats.value(counter))
    });
    Outcome {
        frames,
        interfaces: interfaces.to_vec(),
        drops: lab.drops(),
        punts,
    }
}

/// The length of a frame's link-layer header; 0 for what is no IP frame with tags of the kit's links.
fn link_len(frame: &[u8]) -> usize {
    let word = |at: usize| frame.get(at..at + 2).map(|two| [two[0], two[1]]);
    let is_ip = |at: usize| matches!(word(at), Some([0x08, 0x00] | [0x86, 0xdd]));
    [12, 16, 20]
        .into_iter()
        .find(|at| is_ip(*at))
        .map_or(0, |at| at + 2)
}

/// A frame without identification and header checksum where it is IPv4 from the gateway itself; its checksum is right.
fn blanked(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let ip = link_len(&frame);
    let own = (0..4).any(|link| frame.get(ip + 12..ip + 16) == Some(&v4(link, 1).octets()));
    if ip > 0 && frame[ip] >> 4 == 4 && own {
        let header = usize::from(frame[ip] & 15) * 4;
        assert!(wire::checksum::is_valid(&frame[ip..ip + header]));
        frame[ip + 4..ip + 6].fill(0);
        frame[ip + 10..ip + 12].fill(0);
    }
    frame
}

/// Frames that a test's three gateways have been given, and their outcomes, which are asserted to be the same.
#[track_caller]
fn expect_same(outcomes: &[Outcome; 3]) {
    let [none, all, some] = outcomes;
    assert_eq!(none, all, "the short way (left) against separate nodes");
    assert_eq!(none, some, "the short way (left) against both in one frame");
}

/// One of the flows between hosts: where its packets come from and where they go.
#[derive(Clone, Debug)]
struct Flow {
    from: u8,
    six: bool,
    /// A network of the kit's routes, or (0 to 3) the resolved host of a link.
    to: u8,
    port: u16,
}

/// What is special about one packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Plain,
    /// Bytes of the link behind the packet.
    Padded,
    /// IPv4 options or an IPv6 destination options header.
    Options,
    /// A source route, or a routing header without segments left.
    Routed,
    /// Time to live or hop limit.
    Ttl(u8),
    /// A wrong header checksum or version.
    Broken,
    /// Cut inside its header.
    Cut,
    /// In a broadcast frame.
    Broadcast,
    /// Tagged with VLAN 0, where the link has no tags.
    PriorityTag,
    /// Longer than most MTUs; don't fragment or not.
    Long(u16, bool),
    /// A layer-4 checksum left undone.
    Unfinished,
    /// Several segments in one.
    Train,
}

fn flow() -> impl Strategy<Value = Flow> {
    let to = prop::sample::select(vec![0, 1, 2, 3, 20, 21, 30, 40, 50, 60, 70, 80]);
    (0u8..4, any::<bool>(), to, 1000u16..1100).prop_map(|(from, six, to, port)| Flow {
        from,
        six,
        to,
        port,
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        12 => Just(Kind::Plain),
        2 => Just(Kind::Padded),
        1 => Just(Kind::Options),
        1 => Just(Kind::Routed),
        2 => prop::sample::select(vec![0, 1, 2, 3, 255]).prop_map(Kind::Ttl),
        1 => Just(Kind::Broken),
        1 => Just(Kind::Cut),
        1 => Just(Kind::Broadcast),
        1 => Just(Kind::PriorityTag),
        2 => (1200u16..8900, any::<bool>()).prop_map(|(length, whole)| Kind::Long(length, whole)),
        1 => Just(Kind::Unfinished),
        1 => Just(Kind::Train),
    ]
}

/// Starts the payload of every packet of a flow; the packet's number follows.
const MARK: &[u8; 4] = b"flow";

impl Flow {
    /// The `number`th packet of a test.
    fn packet(&self, kind: Kind, number: u32) -> (usize, MemoryWire) {
        let mut payload = MARK.to_vec();
        payload.extend(number.to_be_bytes());
        match kind {
            Kind::Long(length, _) => payload.resize(usize::from(length), 0x11),
            Kind::Train => payload.resize(3000, 0x22),
            _ => payload.resize(8 + number as usize % 50, 0x33),
        }
        let ip = if self.six {
            self.packet6(kind, &payload)
        } else {
            self.packet4(kind, &payload)
        };
        let port = usize::from(self.from).min(2);
        let gateway = match kind {
            Kind::Broadcast => MacAddr::BROADCAST,
            _ => gateway_mac(port),
        };
        let link = eth(mac(self.from, HOST), gateway);
        let number = if self.six { 0x86dd } else { 0x0800 };
        let mut bytes = match self.from {
            2 => link.vlan(10).raw(number, &ip).build(),
            3 => link.qinq(100, 20).raw(number, &ip).build(),
            _ if kind == Kind::PriorityTag => link.vlan(0).raw(number, &ip).build(),
            _ => link.raw(number, &ip).build(),
        };
        let l4 = link_len(&bytes) + if self.six { 40 } else { 20 };
        let undone = |segmentation, field, segment_size| Offload {
            segmentation,
            checksum: true,
            segment_size,
            checksum_start: l4 as u16,
            checksum_field: l4 as u16 + field,
            ..Offload::default()
        };
        let offload = match (kind, self.six) {
            (Kind::Unfinished, _) => Some(undone(Segmentation::None, 6, 0)),
            (Kind::Train, false) => Some(undone(Segmentation::Tcp4, 16, 1000)),
            (Kind::Train, true) => Some(undone(Segmentation::Tcp6, 16, 1000)),
            _ => None,
        };
        match kind {
            Kind::Padded => bytes.resize(bytes.len() + 30, 0xee),
            Kind::Cut => bytes.truncate(l4 - 4),
            _ => {}
        }
        (port, MemoryWire { bytes, offload })
    }

    fn packet4(&self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let to = match self.to {
            link @ 0..4 => v4(link, HOST).octets(),
            net => [net, 0, 0, 1],
        };
        let mut ip = ip4(v4(self.from, HOST), to).ttl(64).id(self.port);
        match kind {
            Kind::Options => ip = ip.options(&[7, 7, 4, 0, 0, 0, 0]),
            Kind::Routed => ip = ip.options(&[131, 7, 4, 1, 2, 3, 4]),
            Kind::Ttl(ttl) => ip = ip.ttl(ttl),
            Kind::Long(_, true) => ip = ip.dont_fragment(),
            _ => {}
        }
        let mut bytes = match kind {
            Kind::Train => {
                let tcp = ip.tcp(self.port, 80).flags(TcpFlags::ACK);
                tcp.payload(payload).build()
            }
            _ => ip.udp(self.port, 80).payload(payload).build(),
        };
        if kind == Kind::Broken {
            bytes[10] ^= 1;
        }
        bytes
    }

    fn packet6(&self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let to = match self.to {
            link @ 0..4 => v6(link, HOST),
            net => behind(net.into(), 1),
        };
        let ip = ip6(v6(self.from, HOST), to).hop_limit(match kind {
            Kind::Ttl(hops) => hops,
            _ => 64,
        });
        let mut bytes = match kind {
            Kind::Options => {
                let ip = ip.destination_options(&[1, 2, 0, 0]);
                ip.udp(self.port, 80).payload(payload).build()
            }
            Kind::Routed => {
                let ip = ip.routing(0, 0, &[0; 20]);
                ip.udp(self.port, 80).payload(payload).build()
            }
            Kind::Train => {
                let tcp = ip.tcp(self.port, 80).flags(TcpFlags::ACK);
                tcp.payload(payload).build()
            }
            _ => ip.udp(self.port, 80).payload(payload).build(),
        };
        if kind == Kind::Broken {
            bytes[0] ^= 0x20;
        }
        bytes
    }
}

/// The number of a flow's packet in a frame that was forwarded; `None` for what the gateway says itself and for later parts of
/// packets.
fn number_of(frame: &[u8]) -> Option<u32> {
    let ip = link_len(frame);
    let protocol = match frame[ip] >> 4 {
        4 => frame[ip + 9],
        _ => frame[ip + 6],
    };
    if [IpProtocol::ICMP4.0, IpProtocol::ICMP6.0].contains(&protocol) {
        return None;
    }
    let at = frame.windows(4).position(|four| four == MARK)?;
    let number = frame.get(at + 4..at + 8)?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

/// The numbers of forwarded packets in the order in which they left, by flow and port. Those that are cut take a detour.
fn orders(
    packets: &[(usize, Kind)],
    out: &[(usize, MemoryWire)],
) -> BTreeMap<(usize, usize), Vec<u32>> {
    let mut orders = BTreeMap::<_, Vec<u32>>::new();
    for (port, frame) in out {
        let Some(number) = number_of(&frame.bytes) else {
            continue;
        };
        let (flow, kind) = packets[number as usize];
        if !matches!(kind, Kind::Long(_, false)) {
            orders.entry((flow, *port)).or_default().push(number);
        }
    }
    orders
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A few flows, their packets mixed, in several turns.
    #[test]
    fn flows_fare_the_same_on_both_ways(
        flows in prop::collection::vec(flow(), 1..5),
        redirects in any::<bool>(),
        bursts in prop::collection::vec(
            (prop::collection::vec((any::<prop::sample::Index>(), kind()), 1..60), 0u32..40), 1..6),
    ) {
        let mut packets = Vec::new();
        let mut sent = Vec::new();
        for (burst, some) in &bursts {
            let frames: Burst = burst.iter().map(|(flow, kind)| {
                let flow = flow.index(flows.len());
                packets.push((flow, *kind));
                flows[flow].packet(*kind, packets.len() as u32 - 1)
            }).collect();
            sent.push((frames, *some));
        }
        let outcomes = WAYS.map(|traced| {
            let mut lab = Lab::with(&graph_nodes::graph(), |snapshot| {
                for interface in INTERFACES {
                    snapshot.interfaces[usize::from(interface)].redirects = redirects;
                }
            });
            for host in [false, true] {
                // More packets than a queue holds would wait otherwise, and which of them are dropped may depend on the way.
                lab.writer.resolve(kit::neighbour(1, 99, host), mac(1, 99)).expect("room");
            }
            let mut out = Vec::new();
            for (frames, some) in &sent {
                out.extend(pass(&mut lab, traced, *some, frames));
            }
            for ((flow, port), order) in orders(&packets, &out) {
                assert!(order.is_sorted(), "{traced:?}: {:?} leaves port {port} as {order:?}", flows[flow]);
            }
            let outcome = outcome(&mut lab, &out);
            lab.finish();
            outcome
        });
        expect_same(&outcomes);
    }
}

/// The mixture of the whole-graph tests: valid, mutated and made-up frames, packets for the gateway, packets that wait.
#[test]
fn any_frames_fare_the_same_on_both_ways() {
    let mut labs = WAYS.map(|traced| (traced, Lab::new()));
    let mut dice = Dice::Seed(Rng::from_seed(0x0002));
    let mut mixture = Rng::from_seed(3);
    let bursts = if cfg!(debug_assertions) { 300 } else { 3000 };
    for _ in 0..bursts {
        let burst: Burst = (0..=mixture.below(63))
            .map(|_| frames::next(&mut dice))
            .collect();
        let some = mixture.below(64);
        let outcomes = labs.each_mut().map(|(traced, lab)| {
            let mut out = pass(lab, *traced, some, &burst);
            out.extend(lab.settle());
            outcome(lab, &out)
        });
        expect_same(&outcomes);
    }
    // The comparison means something only if both ways were taken.
    let [short, separate, mixed] = &labs;
    let visits = |(_, lab): &(Traced, Lab), node| lab.node(node).0;
    for node in ["ip4-input", "ip6-input", "ip4-rewrite", "ip6-rewrite"] {
        let [few, most, between] = [short, separate, mixed].map(|lab| visits(lab, node));
        assert!(
            few < between && between < most,
            "{node}: {few}, {between}, {most}"
        );
    }
    for (_, lab) in labs {
        lab.finish();
    }
}

/// What nothing needs to see in between takes the short way, all of it; a traced packet takes none.
#[test]
fn plain_packets_take_the_short_way_and_traced_ones_do_not() {
    for (six, nodes) in [
        (false, ["ip4-input", "ip4-rewrite"]),
        (true, ["ip6-input", "ip6-rewrite"]),
    ] {
        for (traced, expected) in [(Traced::None, 0), (Traced::All, 50 * PORTS as u64)] {
            let mut lab = Lab::new();
            for from in 0..PORTS as u8 {
                let flow = Flow {
                    from,
                    six,
                    to: 20,
                    port: 1,
                };
                let burst: Burst = (0..50).map(|at| flow.packet(Kind::Plain, at)).collect();
                assert_eq!(pass(&mut lab, traced, 0, &burst).len(), 50);
            }
            assert_eq!(
                nodes.map(|node| lab.node(node).0),
                [expected; 2],
                "{traced:?}"
            );
            lab.finish();
        }
    }
}
