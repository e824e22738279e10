//! Forwarding cases.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::{PortCapabilities, PortId};
use graph_nodes::fib::{
    ForwardingSize, ForwardingWriter, Link, NeighbourKey, NextHop, RouteTarget,
};
use graph_nodes::{FIRST_SUB_INTERFACE, IcmpLimits, Interface, NO_INTERFACE, Port, Snapshot, Tags};
use ports::{Template, Values};
use wire::{EtherType, MacAddr, builder};

use crate::case::{Frames, Setup};

/// IP protocol of the packets, as CSIT's.
const PROTOCOL: u8 = 61;

pub(crate) fn ours(port: usize) -> MacAddr {
    MacAddr::local(0x100 + port as u32)
}

pub(crate) fn peer(port: usize) -> MacAddr {
    MacAddr::local(0x200 + port as u32)
}

/// Two ports, or one VLAN on each, with their neighbour `.2` or `::2`.
pub(crate) fn two_ports(
    tag: Option<u16>,
    nets: [IpAddr; 2],
    len: u8,
) -> (Snapshot, ForwardingWriter) {
    let size = ForwardingSize {
        groups: 512,
        adjacencies: 512,
        buckets: 64,
    };
    let mut writer = ForwardingWriter::new(size, 1024);
    let number = |port: usize| match tag {
        Some(_) => FIRST_SUB_INTERFACE + port as u16,
        None => port as u16,
    };
    let tags = Tags {
        outer: None,
        inner: tag,
    };
    let mut interfaces = vec![Interface::absent(); usize::from(number(1)) + 1];
    let mut ports = Vec::new();
    expect(writer.add_vrf(0));
    for (port, net) in nets.into_iter().enumerate() {
        let id = PortId(port as u16);
        interfaces[usize::from(number(port))] = Interface {
            up: true,
            port: id,
            tags,
            mac: ours(port),
            mtu: 9000,
            link_local: Some(ours(port).link_local()),
            ..Interface::absent()
        };
        let mut vlans = Vec::new();
        if let Some(tag) = tag {
            vlans = vec![NO_INTERFACE; 4096];
            vlans[usize::from(tag)] = number(port);
        }
        ports.push(Port {
            capabilities: PortCapabilities::default(),
            vlans,
            stacked_vlans: Vec::new(),
        });
        let link = Link {
            port: id,
            mtu: 9000,
            vrf: 0,
            mac: ours(port),
            tags,
        };
        expect(writer.set_link(number(port), link));
        expect(writer.set_route(0, net, len, RouteTarget::Connected(number(port))));
        let key = NeighbourKey {
            interface: number(port),
            address: second(net),
        };
        expect(writer.resolve(key, peer(port)));
    }
    expect(writer.commit());
    let vrf = writer
        .vrf(0)
        .unwrap_or_else(|| unreachable!("it was added above"));
    let forwarding = writer.forwarding();
    (
        Snapshot {
            ports,
            interfaces,
            vrfs: vec![vrf],
            forwarding,
            icmp: IcmpLimits::default(),
            policy: graph_nodes::policy::Policy::default(),
            nat: graph_nodes::nat::Nat::default(),
        },
        writer,
    )
}

/// The address ending in 2.
fn second(net: IpAddr) -> IpAddr {
    match net {
        IpAddr::V4(net) => Ipv4Addr::from_bits(net.to_bits() + 2).into(),
        IpAddr::V6(net) => Ipv6Addr::from_bits(net.to_bits() + 2).into(),
    }
}

pub(crate) fn expect<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| unreachable!("a case of a few routes fits: {error}"))
}

pub(crate) const NETS4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 10, 10, 0)),
    IpAddr::V4(Ipv4Addr::new(20, 20, 20, 0)),
];

/// Sources .2 to .254 in turn, one destination.
fn ip4_templates(frames: Frames, tag: Option<u16>) -> Vec<Vec<Template>> {
    (0..2)
        .map(|port| {
            let (from, to) = (NETS4[port], second(NETS4[1 - port]));
            let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
                unreachable!("both are IPv4")
            };
            let head = if tag.is_some() { 18 } else { 14 };
            let make = |(length, weight): (usize, u16)| {
                let payload = vec![0x42; length - head - 20];
                let source = Ipv4Addr::from_bits(from.to_bits() + 2);
                let link = builder::eth(peer(port), ours(port));
                let bytes = match tag {
                    Some(tag) => link
                        .vlan(tag)
                        .ip4(source, to)
                        .raw(PROTOCOL, &payload)
                        .build(),
                    None => link.ip4(source, to).raw(PROTOCOL, &payload).build(),
                };
                let first = from.to_bits() + 2;
                let sources = Values::Increment {
                    first,
                    last: first + 252,
                    step: 1,
                };
                Template {
                    weight,
                    ..Template::new(bytes).field(head as u16 + 12, 4, sources)
                }
            };
            frames.lengths().into_iter().map(make).collect()
        })
        .collect()
}

pub(crate) fn ip4_base(frames: Frames) -> Setup {
    let (snapshot, writer) = two_ports(None, NETS4, 24);
    Setup {
        ports: ip4_templates(frames, None),
        snapshot,
        writer,
        check: check_ip4_base,
        flows: 506,
        routes: 2,
        flow_table: 0,
        warm_up: 0,
    }
}

pub(crate) fn dot1q_ip4_base(frames: Frames) -> Setup {
    let (snapshot, writer) = two_ports(Some(100), NETS4, 24);
    let ports = ip4_templates(frames, Some(100));
    Setup {
        ports,
        snapshot,
        writer,
        check: check_dot1q,
        flows: 506,
        routes: 2,
        flow_table: 0,
        warm_up: 0,
    }
}

/// One route of 16 bits each way, destinations all over it.
pub(crate) fn ip4_many_destinations(frames: Frames) -> Setup {
    let (mut snapshot, mut writer) = two_ports(None, NETS4, 24);
    let mut ports = ip4_templates(frames, None);
    for (port, templates) in ports.iter_mut().enumerate() {
        let net = Ipv4Addr::new(30 + port as u8, 30, 0, 0);
        let hop = NextHop {
            neighbour: NeighbourKey {
                interface: 1 - port as u16,
                address: second(NETS4[1 - port]),
            },
            weight: 1,
        };
        expect(writer.set_route(0, net.into(), 16, RouteTarget::Forward(vec![hop])));
        for template in templates {
            template.fields.clear();
            let destinations = Values::Random {
                first: net.to_bits(),
                last: net.to_bits() + 0xffff,
            };
            *template = template.clone().field(30, 4, destinations);
        }
    }
    expect(writer.commit());
    snapshot.vrfs = writer.vrf(0).into_iter().collect();
    Setup {
        ports,
        snapshot,
        writer,
        check: check_ip4_many,
        flows: 131_072,
        routes: 2,
        flow_table: 0,
        warm_up: 0,
    }
}

pub(crate) fn ip6_base(frames: Frames) -> Setup {
    let nets = [
        IpAddr::V6(Ipv6Addr::new(0x2100, 0, 0, 0, 0, 0, 0, 0)),
        IpAddr::V6(Ipv6Addr::new(0x2200, 0, 0, 0, 0, 0, 0, 0)),
    ];
    let (snapshot, writer) = two_ports(None, nets, 64);
    let ports = (0..2)
        .map(|port| {
            let (IpAddr::V6(from), IpAddr::V6(to)) = (second(nets[port]), second(nets[1 - port]))
            else {
                unreachable!("both are IPv6")
            };
            let make = |(length, weight): (usize, u16)| {
                let payload = vec![0x42; length.max(74) - 14 - 40];
                let bytes = builder::eth(peer(port), ours(port))
                    .ip6(from, to)
                    .raw(PROTOCOL, &payload)
                    .build();
                let sources = Values::Increment {
                    first: 2,
                    last: 254,
                    step: 1,
                };
                // The last four bytes of the source address.
                Template {
                    weight,
                    ..Template::new(bytes).field(34, 4, sources)
                }
            };
            frames.lengths().into_iter().map(make).collect()
        })
        .collect();
    Setup {
        ports,
        snapshot,
        writer,
        check: check_ip6_base,
        flows: 506,
        routes: 2,
        flow_table: 0,
        warm_up: 0,
    }
}

/// The frame's Ethernet header is that of our port to its neighbour; what follows, with its type.
pub(crate) fn behind_link(port: usize, frame: &[u8]) -> Option<(EtherType, &[u8])> {
    let (ethernet, rest) = wire::EthernetHeader::parse(frame).ok()?;
    (ethernet.dst == peer(port) && ethernet.src == ours(port)).then_some((ethernet.ethertype, rest))
}

fn ip4_is_right(port: usize, packet: &[u8], destination: impl Fn(u32) -> bool) -> bool {
    let Ok(header) = wire::ip4::validate(packet) else {
        return false;
    };
    let IpAddr::V4(from) = NETS4[1 - port] else {
        return false;
    };
    header.ttl == 63
        && header.source().to_bits() >> 8 == from.to_bits() >> 8
        && destination(header.destination().to_bits())
        && packet[20..].iter().all(|byte| *byte == 0x42)
}

fn check_ip4_base(port: usize, frame: &[u8]) -> bool {
    let IpAddr::V4(to) = second(NETS4[port]) else {
        return false;
    };
    matches!(behind_link(port, frame), Some((EtherType::IP4, packet)) if ip4_is_right(port, packet, |is| is == to.to_bits()))
}

fn check_ip4_many(port: usize, frame: &[u8]) -> bool {
    let net = u32::from(30 + (1 - port as u8)) << 8 | 30;
    matches!(behind_link(port, frame), Some((EtherType::IP4, packet)) if ip4_is_right(port, packet, |is| is >> 16 == net))
}

fn check_dot1q(port: usize, frame: &[u8]) -> bool {
    let IpAddr::V4(to) = second(NETS4[port]) else {
        return false;
    };
    let Some((EtherType::VLAN, rest)) = behind_link(port, frame) else {
        return false;
    };
    let Ok((tag, packet)) = wire::VlanTag::parse(rest) else {
        return false;
    };
    tag.vid() == 100
        && tag.ethertype == EtherType::IP4
        && ip4_is_right(port, packet, |is| is == to.to_bits())
}

fn check_ip6_base(port: usize, frame: &[u8]) -> bool {
    let Some((EtherType::IP6, packet)) = behind_link(port, frame) else {
        return false;
    };
    let Ok(header) = wire::ip6::validate(packet) else {
        return false;
    };
    let to = Ipv6Addr::new(if port == 0 { 0x2100 } else { 0x2200 }, 0, 0, 0, 0, 0, 0, 2);
    header.hop_limit == 63
        && header.destination() == to
        && packet[40..].iter().all(|byte| *byte == 0x42)
}
