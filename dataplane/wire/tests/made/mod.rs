//! Random frames out of legal parts, together with the parts.

use proptest::prelude::*;
use wire::builder::{Builder, Eth, Ip4, Ip6, Ip6Layer, Layer, NetworkLayer, eth};
use wire::{MacAddr, TcpFlags};

/// A frame made by the builder, and what went into it.
#[derive(Debug, Clone)]
pub struct Made {
    pub frame: Vec<u8>,
    pub vids: Vec<u16>,
    pub upper: Upper,
    pub payload: Vec<u8>,
}

/// What is inside of IP.
#[derive(Debug, Clone)]
pub enum Upper {
    Udp(u16, u16),
    Tcp {
        ports: (u16, u16),
        seq: u32,
        ack: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
    },
    Echo(u16, u16),
}

/// The IP header.
#[derive(Debug, Clone)]
pub enum Net {
    V4 {
        from: [u8; 4],
        to: [u8; 4],
        ttl: u8,
        id: u16,
        tos: u8,
        df: bool,
        options: Vec<u8>,
    },
    V6 {
        from: [u8; 16],
        to: [u8; 16],
        hops: u8,
        class: u8,
        flow: u32,
        extensions: u8,
    },
}

fn net() -> impl Strategy<Value = Net> {
    let options = prop::sample::select(vec![
        vec![],
        vec![148, 4, 0, 0],
        vec![1, 7, 7, 4, 0, 0, 0, 0],
    ]);
    prop_oneof![
        (
            any::<[u8; 4]>(),
            any::<[u8; 4]>(),
            any::<(u8, u16, u8, bool)>(),
            options
        )
            .prop_map(|(from, to, (ttl, id, tos, df), options)| {
                Net::V4 {
                    from,
                    to,
                    ttl,
                    id,
                    tos,
                    df,
                    options,
                }
            }),
        (
            any::<[u8; 16]>(),
            any::<[u8; 16]>(),
            any::<(u8, u8)>(),
            0u32..1 << 20,
            0u8..32
        )
            .prop_map(|(from, to, (hops, class), flow, extensions)| {
                Net::V6 {
                    from,
                    to,
                    hops,
                    class,
                    flow,
                    extensions,
                }
            }),
    ]
}

fn upper() -> impl Strategy<Value = Upper> {
    let options = prop::sample::select(vec![
        vec![],
        vec![
            2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7,
        ],
        vec![1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9],
    ]);
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(a, b)| Upper::Udp(a, b)),
        (any::<((u16, u16), u32, u32, u8, u16)>(), options).prop_map(
            |((ports, seq, ack, flags, window), options)| {
                Upper::Tcp {
                    ports,
                    seq,
                    ack,
                    flags,
                    window,
                    options,
                }
            }
        ),
        any::<(u16, u16)>().prop_map(|(a, b)| Upper::Echo(a, b)),
    ]
}

/// Any frame that the builder makes out of legal parts.
pub fn made() -> impl Strategy<Value = (Made, Net)> {
    let vids = prop::collection::vec(0u16..4096, 0..3);
    let payload = prop::collection::vec(any::<u8>(), 0..64);
    (vids, net(), upper(), payload, 0usize..100).prop_map(|(vids, net, upper, payload, pad)| {
        let link = eth(MacAddr::local(1), MacAddr::local(2));
        let frame = assemble(link, &vids, &net, &upper, &payload, pad);
        (
            Made {
                frame,
                vids,
                upper,
                payload,
            },
            net,
        )
    })
}

fn assemble(
    link: Builder<Eth>,
    vids: &[u16],
    net: &Net,
    upper: &Upper,
    payload: &[u8],
    pad: usize,
) -> Vec<u8> {
    match net {
        Net::V4 {
            from,
            to,
            ttl,
            id,
            tos,
            df,
            options,
        } => {
            let ip = match vids {
                [] => link.ip4(*from, *to),
                [one] => link.vlan(*one).ip4(*from, *to),
                [outer, inner, ..] => link.qinq(*outer, *inner).ip4(*from, *to),
            };
            let ip = ip.ttl(*ttl).id(*id).tos(*tos).options(options);
            upper4(
                if *df { ip.dont_fragment() } else { ip },
                upper,
                payload,
                pad,
            )
        }
        Net::V6 {
            from,
            to,
            hops,
            class,
            flow,
            extensions,
        } => {
            let ip = match vids {
                [] => link.ip6(*from, *to),
                [one] => link.vlan(*one).ip6(*from, *to),
                [outer, inner, ..] => link.qinq(*outer, *inner).ip6(*from, *to),
            };
            let ip = ip.ttl(*hops).traffic_class(*class).flow_label(*flow);
            upper6(ip, *extensions, upper, payload, pad)
        }
    }
}

fn upper4(ip: Builder<Ip4>, upper: &Upper, payload: &[u8], pad: usize) -> Vec<u8> {
    match upper {
        Upper::Echo(id, sequence) => finish(ip.icmp4_echo(*id, *sequence), payload, pad),
        _ => transport(ip, upper, payload, pad),
    }
}

fn upper6(ip: Builder<Ip6>, extensions: u8, upper: &Upper, payload: &[u8], pad: usize) -> Vec<u8> {
    // Zero is no extension header at all; else the lowest bit says which comes first.
    let mut ip = match extensions {
        0 => return above6(ip, upper, payload, pad),
        odd if odd & 1 == 1 => ip.hop_by_hop(&[5, 2, 0, 0]),
        _ => ip.destination_options(&[]),
    };
    if extensions & 2 != 0 {
        ip = ip.routing(4, 0, &[1; 20]);
    }
    if extensions & 4 != 0 {
        ip = ip.fragment(77, 0, false);
    }
    if extensions & 8 != 0 {
        ip = ip.auth(1, 2, &[3; 12]);
    }
    if extensions & 16 != 0 {
        ip = ip.destination_options(&[30, 1, 9]);
    }
    above6(ip, upper, payload, pad)
}

fn above6<L: Ip6Layer>(ip: Builder<L>, upper: &Upper, payload: &[u8], pad: usize) -> Vec<u8> {
    match upper {
        Upper::Echo(id, sequence) => finish(ip.icmp6_echo(*id, *sequence), payload, pad),
        _ => transport(ip, upper, payload, pad),
    }
}

fn transport<L: NetworkLayer>(
    ip: Builder<L>,
    upper: &Upper,
    payload: &[u8],
    pad: usize,
) -> Vec<u8> {
    match upper {
        Upper::Udp(from, to) => finish(ip.udp(*from, *to), payload, pad),
        Upper::Tcp {
            ports,
            seq,
            ack,
            flags,
            window,
            options,
        } => {
            let tcp = ip.tcp(ports.0, ports.1).seq(*seq).ack(*ack).window(*window);
            finish(tcp.flags(TcpFlags(*flags)).options(options), payload, pad)
        }
        Upper::Echo(..) => unreachable!("echo is not a transport protocol"),
    }
}

fn finish<L: Layer>(packet: Builder<L>, payload: &[u8], pad: usize) -> Vec<u8> {
    packet.payload(payload).pad_to(pad).build()
}
