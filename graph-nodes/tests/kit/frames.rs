//! Frames of every kind for the whole graph: valid ones, and what becomes of them when bytes are changed, cut or made up.
//!
//! One generator, two drivers: a seed in the tests, a fuzzer's bytes in the fuzz target.

use dataplane::{MemoryWire, Offload, Rng, Segmentation};
use wire::builder::{Builder, Carrier, Eth, Extension, Ip4, Ip6, NetworkLayer, Vlan, eth};
use wire::{MacAddr, TcpFlags, nd};

use super::{HOST, behind, gateway_mac, mac, v4, v6};

/// Where decisions come from.
pub enum Dice<'a> {
    /// A seeded generator: never ends.
    Seed(Rng),
    /// Bytes; zeros when they are used up.
    Bytes(&'a [u8]),
}

impl Dice<'_> {
    /// True where there is nothing left to decide by.
    pub fn is_spent(&self) -> bool {
        matches!(self, Dice::Bytes([]))
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u32) -> u32 {
        match self {
            Dice::Seed(rng) => rng.below(bound),
            Dice::Bytes(_) if bound <= 256 => u32::from(self.byte()) % bound,
            Dice::Bytes(_) => {
                u32::from_be_bytes([0, self.byte(), self.byte(), self.byte()]) % bound
            }
        }
    }

    fn byte(&mut self) -> u8 {
        match self {
            Dice::Seed(rng) => rng.next_u32() as u8,
            Dice::Bytes(bytes) => match bytes.split_first() {
                Some((first, rest)) => {
                    *bytes = rest;
                    *first
                }
                None => 0,
            },
        }
    }

    fn one_in(&mut self, chances: u32) -> bool {
        self.below(chances) + 1 == chances
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u32) as usize]
    }

    fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }
}

/// A frame and the port that it arrives at.
pub fn next(dice: &mut Dice<'_>) -> (usize, MemoryWire) {
    let port = dice.below(super::PORTS as u32) as usize;
    if dice.one_in(24) {
        return (port, train(dice, port));
    }
    let mut bytes = if dice.one_in(16) {
        noise(dice)
    } else {
        valid(dice, port)
    };
    if dice.one_in(2) {
        mutate(dice, &mut bytes);
    }
    let offload = dice.one_in(64).then(|| any_offload(dice));
    (port, MemoryWire { bytes, offload })
}

/// Changes, cuts, lengthens or overwrites bytes of a frame. Headers are hit more often than what follows them.
pub fn mutate(dice: &mut Dice<'_>, bytes: &mut Vec<u8>) {
    let place = |dice: &mut Dice<'_>, len: usize| {
        let reach = if dice.one_in(4) { len } else { len.min(82) };
        dice.below(reach.max(1) as u32) as usize
    };
    for _ in 0..=dice.below(3) {
        let at = place(dice, bytes.len());
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 => {
                let more = 1 + dice.below(64) as usize;
                bytes.resize(bytes.len() + more, 0xa5);
            }
            2 => {
                let to = (at + dice.below(8) as usize).min(bytes.len());
                bytes
                    .get_mut(at..to)
                    .into_iter()
                    .flatten()
                    .for_each(|byte| *byte = dice.byte());
            }
            3 => {
                let value = dice.pick(&[0, 0xff, 0x7f, 0x80, 1]);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
            }
            4 if at + 1 < bytes.len() => drop(bytes.remove(at)),
            _ => {
                let bit = 1 << dice.below(8);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= bit);
            }
        }
    }
}

/// Bytes that are no frame, or only begin like one.
fn noise(dice: &mut Dice<'_>) -> Vec<u8> {
    let length = match dice.below(4) {
        0 => dice.below(24),
        1 => dice.below(9100),
        _ => dice.below(200),
    };
    let mut bytes: Vec<u8> = (0..length).map(|_| dice.byte()).collect();
    if dice.one_in(2) && bytes.len() >= 16 {
        bytes[..6].copy_from_slice(&gateway_mac(dice.below(3) as usize).octets());
        bytes[6] &= 0xfe;
        bytes[12..14].copy_from_slice(&dice.pick(&[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]]));
    }
    bytes
}

/// Work left undone that has nothing to do with the frame.
fn any_offload(dice: &mut Dice<'_>) -> Offload {
    let kinds = [
        Segmentation::None,
        Segmentation::Tcp4,
        Segmentation::Tcp6,
        Segmentation::Udp,
    ];
    Offload {
        segmentation: dice.pick(&kinds),
        checksum: dice.one_in(2),
        ecn: dice.one_in(2),
        segment_size: dice.pick(&[0, 1, 100, 1448, 9000, u16::MAX]),
        checksum_start: dice.pick(&[0, 14, 34, 38, 54, 60, 2000, u16::MAX]),
        checksum_field: dice.pick(&[0, 16, 40, 50, 70, 2500, u16::MAX]),
    }
}

/// The link a frame comes from, its header, and whether the gateway has an interface for it.
struct Origin {
    link: u8,
    station: MacAddr,
    gateway: MacAddr,
}

fn origin(dice: &mut Dice<'_>, port: usize) -> Origin {
    let link = if port == 2 {
        2 + dice.below(2) as u8
    } else {
        port as u8
    };
    let host = dice.pick(&[HOST, HOST, HOST, 11, 99]);
    let gateway = match dice.below(12) {
        0 => MacAddr::BROADCAST,
        1 => MacAddr::from_ip6_multicast(nd::ALL_NODES),
        _ => gateway_mac(port),
    };
    Origin {
        link,
        station: mac(link, host),
        gateway,
    }
}

/// The frame's tags, then what `inner` puts behind them.
fn framed(dice: &mut Dice<'_>, origin: &Origin, inner: impl Inner) -> Vec<u8> {
    let frame = eth(origin.station, origin.gateway);
    match (origin.link, dice.below(20)) {
        (_, 0) => inner.behind(dice, frame.vlan(dice_vid(origin))),
        (2, _) => inner.behind(dice, frame.vlan(10)),
        (3, _) => inner.behind(dice, frame.qinq(100, 20)),
        (_, 1) => inner.behind(dice, frame.vlan(0)),
        _ => inner.behind(dice, frame),
    }
}

fn dice_vid(origin: &Origin) -> u16 {
    u16::from(origin.link) + 9
}

/// What stands behind a link-layer header, whatever that is.
trait Inner {
    fn behind<L: LinkLike>(self, dice: &mut Dice<'_>, link: Builder<L>) -> Vec<u8>;
}

trait LinkLike: Carrier<Number = u16> + wire::builder::LinkLayer {}
impl LinkLike for Eth {}
impl LinkLike for Vlan {}

fn valid(dice: &mut Dice<'_>, port: usize) -> Vec<u8> {
    let origin = origin(dice, port);
    let link = origin.link;
    match dice.below(16) {
        0 => framed(dice, &origin, Arp { link }),
        1..=8 => framed(dice, &origin, Packet4 { link }),
        _ => framed(dice, &origin, Packet6 { link }),
    }
}

struct Arp {
    link: u8,
}

impl Inner for Arp {
    fn behind<L: LinkLike>(self, dice: &mut Dice<'_>, link: Builder<L>) -> Vec<u8> {
        let host = dice.pick(&[0, 1, HOST, 12, 255]);
        let (from, to) = (
            v4(self.link, host),
            v4(self.link, dice.pick(&[1, 1, 1, 7, host])),
        );
        if dice.one_in(3) {
            link.arp_reply(from, to).pad_to(60).build()
        } else {
            link.arp_request(from, to).pad_to(60).build()
        }
    }
}

struct Packet4 {
    link: u8,
}

impl Inner for Packet4 {
    fn behind<L: LinkLike>(self, dice: &mut Dice<'_>, link: Builder<L>) -> Vec<u8> {
        let from = match dice.below(16) {
            0 => [0, 0, 0, 0],
            1 => [127, 0, 0, 1],
            2 => [224, 0, 0, 5],
            3 => [10, 0, self.link, 255],
            4 => [10, 0, self.link, 1],
            5 => [10, 0, self.link, 11],
            _ => [10, 0, self.link, HOST],
        };
        let to = match dice.below(12) {
            0 => [10, 0, dice.below(4) as u8, 1],
            1 => [10, 0, dice.below(4) as u8, dice.byte()],
            2 => [10, 0, self.link, 255],
            3 => dice.pick(&[
                [224, 0, 0, 1],
                [255; 4],
                [127, 0, 0, 1],
                [240, 0, 0, 1],
                [0; 4],
            ]),
            _ => [
                dice.pick(&[20, 20, 21, 30, 40, 50, 60, 70, 80]),
                1,
                2,
                dice.below(8) as u8,
            ],
        };
        let mut ip = link
            .ip4(from, to)
            .ttl(dice.pick(&[64, 64, 64, 1, 0, 2, 255]))
            .id(dice.word());
        if dice.one_in(3) {
            ip = ip.dont_fragment();
        }
        match dice.below(16) {
            0 => ip = ip.more_fragments(),
            1 => ip = ip.fragment_offset(dice.pick(&[1, 185, 8000, 8191])),
            2 => ip = ip.options(&[7, 7, 4, 0, 0, 0, 0]),
            3 => ip = ip.options(&[131, 7, 4, 1, 2, 3, 4]),
            4 => ip = ip.options(&[148, 4, 0, 0]),
            _ => {}
        }
        match dice.below(8) {
            0 => {
                let length = length(dice);
                ip.icmp4_echo(1, 2).payload(&vec![7; length]).build()
            }
            1 => {
                let about = wire::builder::ip4(to, from)
                    .udp(5, 6)
                    .payload(&[1; 20])
                    .build();
                let kind = dice.pick(&[3, 4, 5, 11, 12]);
                ip.icmp4_error(kind, dice.below(4) as u8, 0, &about).build()
            }
            2 => ip
                .icmp4(dice.pick(&[0, 9, 10, 13, 14, 42]), 0, [0; 4])
                .build(),
            _ => upper(dice, ip),
        }
    }
}

struct Packet6 {
    link: u8,
}

impl Inner for Packet6 {
    fn behind<L: LinkLike>(self, dice: &mut Dice<'_>, link: Builder<L>) -> Vec<u8> {
        let station = mac(self.link, HOST).link_local();
        let from = match dice.below(16) {
            0 => std::net::Ipv6Addr::UNSPECIFIED,
            1 => std::net::Ipv6Addr::LOCALHOST,
            2 => nd::ALL_NODES,
            3 | 4 => station,
            5 => v6(self.link, 11),
            _ => v6(self.link, HOST),
        };
        let ours = v6(dice.below(4) as u8, 1);
        let to = match dice.below(12) {
            0 | 1 => ours,
            2 => v6(dice.below(4) as u8, dice.byte()),
            3 => dice.pick(&[nd::ALL_NODES, nd::ALL_ROUTERS, nd::solicited_node(ours)]),
            4 => gateway_mac(usize::from(self.link).min(2)).link_local(),
            5 => dice.pick(&[station, std::net::Ipv6Addr::LOCALHOST]),
            6 => v6(self.link, HOST),
            _ => behind(
                dice.pick(&[20, 20, 21, 30, 40, 50, 60, 70, 80]),
                dice.below(8) as u16,
            ),
        };
        let ip = link.ip6(from, to);
        match dice.below(6) {
            0 => {
                let ip = ip.hop_limit(if dice.one_in(8) { 64 } else { 255 });
                let target = dice.pick(&[to, ours, v6(self.link, 1)]);
                let own = (!dice.one_in(4)).then(|| mac(self.link, HOST));
                match dice.below(6) {
                    0 | 1 => ip.neighbour_solicitation(target, own).build(),
                    2 | 3 => ip.neighbour_advertisement(target, dice.byte(), own).build(),
                    4 => ip.router_solicitation().build(),
                    _ => ip.redirect6(target, from).build(),
                }
            }
            1 => {
                let length = length(dice);
                ip.icmp6_echo(1, 2).payload(&vec![7; length]).build()
            }
            2 => {
                let about = wire::builder::ip6(to, from)
                    .udp(5, 6)
                    .payload(&[1; 20])
                    .build();
                ip.icmp6_error(dice.pick(&[1, 2, 3, 4, 127]), 0, 0, &about)
                    .build()
            }
            3 => extended(dice, ip),
            _ => {
                let ttl = dice.pick(&[64, 64, 1, 0, 2, 255]);
                upper(dice, ip.hop_limit(ttl))
            }
        }
    }
}

fn extended(dice: &mut Dice<'_>, ip: Builder<Ip6>) -> Vec<u8> {
    let option = dice.pick(&[
        [5, 2, 0, 0],
        [1, 2, 0, 0],
        [0x42, 2, 0, 0],
        [0x82, 2, 0, 0],
        [0xc2, 4, 1, 1],
    ]);
    let ip: Builder<Extension> = match dice.below(4) {
        0 => ip.hop_by_hop(&option),
        1 => ip.destination_options(&option),
        2 => ip.routing(dice.pick(&[0, 2, 4]), dice.below(3) as u8, &[0; 20]),
        _ => ip.fragment(9, dice.pick(&[0, 1, 100]), dice.one_in(2)),
    };
    match dice.below(4) {
        0 => ip
            .destination_options(&option)
            .udp(9, 9)
            .payload(b"extended")
            .build(),
        1 => ip.icmp6_echo(3, 4).build(),
        _ => upper(dice, ip),
    }
}

fn upper<L: NetworkLayer + Carrier<Number = u8>>(dice: &mut Dice<'_>, ip: Builder<L>) -> Vec<u8> {
    let payload = vec![0x5a; length(dice)];
    let ports = (dice.word(), dice.pick(&[53, 80, 4789, 0]));
    match dice.below(6) {
        0 => ip
            .tcp(ports.0, ports.1)
            .flags(TcpFlags::SYN)
            .payload(&payload)
            .build(),
        1 => ip
            .tcp(ports.0, ports.1)
            .flags(TcpFlags::ACK)
            .payload(&payload)
            .build(),
        2 => ip.raw(dice.byte(), &payload).build(),
        _ => ip.udp(ports.0, ports.1).payload(&payload).build(),
    }
}

/// Payload lengths around what matters: nothing, MTUs, one buffer, several.
fn length(dice: &mut Dice<'_>) -> usize {
    match dice.below(10) {
        0 => 1200 + dice.below(300) as usize,
        1 => 1980 + dice.below(80) as usize,
        2 => dice.below(9000) as usize,
        _ => dice.below(120) as usize,
    }
}

/// A train of segments as a host's stack hands it over, right or slightly wrong.
fn train(dice: &mut Dice<'_>, port: usize) -> MemoryWire {
    let origin = origin(dice, port);
    let link = origin.link;
    let tcp = dice.one_in(2);
    let six = dice.one_in(2);
    let size = dice.pick(&[1448, 1428, 536, 8948, 100]);
    let length = 1 + dice.below(40_000.min(u32::from(size) * 60)) as usize;
    let payload = vec![0x42; length];
    let net = dice.pick(&[20, 21, 30, 50, 70]);
    let bytes = framed(
        dice,
        &origin,
        Train {
            link,
            tcp,
            six,
            net,
            payload,
        },
    );
    let tags = match bytes[12..14] {
        [0x81, 0] => 4,
        [0x88, 0xa8] => 8,
        _ => 0,
    };
    let start = 14 + tags + if six { 40 } else { 20 };
    let mut offload = Offload {
        segmentation: match (tcp, six) {
            (true, false) => Segmentation::Tcp4,
            (true, true) => Segmentation::Tcp6,
            (false, _) => Segmentation::Udp,
        },
        checksum: true,
        ecn: dice.one_in(4),
        segment_size: size,
        checksum_start: start,
        checksum_field: start + if tcp { 16 } else { 6 },
    };
    if dice.one_in(8) {
        offload = any_offload(dice);
    }
    MemoryWire {
        bytes,
        offload: Some(offload),
    }
}

struct Train {
    link: u8,
    tcp: bool,
    six: bool,
    net: u8,
    payload: Vec<u8>,
}

impl Inner for Train {
    fn behind<L: LinkLike>(self, _: &mut Dice<'_>, link: Builder<L>) -> Vec<u8> {
        if self.six {
            self.upper::<Ip6>(link.ip6(v6(self.link, HOST), behind(self.net.into(), 1)))
        } else {
            self.upper::<Ip4>(link.ip4(v4(self.link, HOST), [self.net, 0, 0, 1]))
        }
    }
}

impl Train {
    fn upper<L: NetworkLayer>(&self, ip: Builder<L>) -> Vec<u8> {
        if self.tcp {
            let tcp = ip.tcp(40_000, 80).flags(TcpFlags::ACK);
            tcp.payload(&self.payload).build()
        } else {
            ip.udp(40_000, 80).payload(&self.payload).build()
        }
    }
}
