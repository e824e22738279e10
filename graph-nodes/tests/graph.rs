//! The whole graph between memory ports: what goes in at one end, what comes out byte by byte at the other.

mod kit;

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::{MemoryWire, Offload, Segmentation};
use graph_nodes::fib::{NextHop, RouteTarget};
use graph_nodes::ip4::arc;
use graph_nodes::punt::Punt;
use kit::{A, B, C, HOST, Lab, OWN_TTL, behind, gateway_mac, mac, mtu, v4, v6};
use wire::builder::{Builder, Eth, Ip4, Ip6, eth, ip4, ip6};
use wire::{Ip4Header, MacAddr, TcpFlags, nd};

/// From the resolved host on link A to the gateway.
fn from_a() -> Builder<Eth> {
    eth(mac(0, HOST), gateway_mac(0))
}

/// What the gateway sends to the resolved host of an untagged link.
fn to_host(link: u8) -> Builder<Eth> {
    eth(gateway_mac(usize::from(link)), mac(link, HOST))
}

fn ip4_in(to: [u8; 4]) -> Builder<Ip4> {
    from_a().ip4(v4(0, HOST), to)
}

fn ip6_in(to: Ipv6Addr) -> Builder<Ip6> {
    from_a().ip6(v6(0, HOST), to)
}

/// The identification that the gateway chose for its own IPv4 packet.
fn id_of(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[18], frame[19]])
}

/// Asserts that the one answer is this ICMP error of interface A about `frame`.
#[track_caller]
fn expect_error4(out: &[(usize, Vec<u8>)], frame: &[u8], kind: u8, code: u8, info: u32) {
    let [(0, answer)] = out else {
        panic!("one answer, not {out:?}");
    };
    let want = to_host(0)
        .ip4(v4(0, 1), v4(0, HOST))
        .tos(0xc0)
        .ttl(OWN_TTL)
        .id(id_of(answer))
        .icmp4_error(kind, code, info, &frame[14..]);
    assert_eq!(*answer, want.build());
}

#[track_caller]
fn expect_error6(out: &[(usize, Vec<u8>)], frame: &[u8], kind: u8, code: u8, info: u32) {
    let want = to_host(0)
        .ip6(v6(0, 1), v6(0, HOST))
        .hop_limit(OWN_TTL)
        .icmp6_error(kind, code, info, &frame[14..]);
    assert_eq!(out, [(0, want.build())]);
}

#[test]
fn ip4_is_forwarded() {
    let mut lab = Lab::new();
    let packet = |link: Builder<Eth>, ttl| {
        let ip = link.ip4(v4(0, HOST), [20, 1, 2, 3]).ttl(ttl).id(7);
        ip.udp(1000, 2000).payload(b"forward me").build()
    };
    let out = lab.run(0, packet(from_a(), 9));
    assert_eq!(out, [(1, packet(to_host(1), 8))]);
    // Padding of the link is not carried on.
    let mut padded = packet(from_a(), 2);
    padded.resize(120, 0xee);
    assert_eq!(lab.run(0, padded), [(1, packet(to_host(1), 1))]);
    // Options go along; the checksum is right over them.
    let options = |link: Builder<Eth>, ttl| {
        let ip = link.ip4(v4(0, HOST), [20, 1, 2, 3]).ttl(ttl);
        ip.options(&[148, 4, 0, 0]).udp(1, 2).build()
    };
    assert_eq!(
        lab.run(0, options(from_a(), 64)),
        [(1, options(to_host(1), 63))]
    );
    lab.finish();
}

#[test]
fn ip6_is_forwarded() {
    let mut lab = Lab::new();
    let packet = |link: Builder<Eth>, hops| {
        let ip = link.ip6(v6(0, HOST), behind(20, 1)).hop_limit(hops);
        ip.tcp(1000, 2000).flags(TcpFlags::SYN).build()
    };
    assert_eq!(
        lab.run(0, packet(from_a(), 64)),
        [(1, packet(to_host(1), 63))]
    );
    let extended = |link: Builder<Eth>, hops| {
        let ip = link.ip6(v6(0, HOST), behind(20, 1)).hop_limit(hops);
        ip.destination_options(&[1, 2, 0, 0]).udp(1, 2).build()
    };
    assert_eq!(
        lab.run(0, extended(from_a(), 2)),
        [(1, extended(to_host(1), 1))]
    );
    lab.finish();
}

#[test]
fn expired_packets_are_answered() {
    let mut lab = Lab::new();
    for ttl in [0, 1] {
        let frame = ip4_in([20, 0, 0, 1])
            .ttl(ttl)
            .udp(1, 33_434)
            .payload(b"trace")
            .build();
        let out = lab.run(0, frame.clone());
        expect_error4(&out, &frame, 11, 0, 0);
        let frame = ip6_in(behind(20, 1)).hop_limit(ttl).udp(1, 33_434).build();
        let out = lab.run(0, frame.clone());
        expect_error6(&out, &frame, 3, 0, 0);
    }
    lab.finish();
}

#[test]
fn routes_that_lead_nowhere_say_so() {
    let mut lab = Lab::new();
    for (net, code4, code6) in [(50, 1, 3), (60, 13, 1), (80, 0, 0)] {
        let frame = ip4_in([net, 0, 0, 1])
            .udp(1, 2)
            .payload(b"to nowhere")
            .build();
        let out = lab.run(0, frame.clone());
        expect_error4(&out, &frame, 3, code4, 0);
        let frame = ip6_in(behind(net.into(), 1)).udp(1, 2).build();
        let out = lab.run(0, frame.clone());
        expect_error6(&out, &frame, 1, code6, 0);
    }
    assert_eq!(lab.run(0, ip4_in([40, 0, 0, 1]).udp(1, 2).build()), []);
    assert_eq!(lab.run(0, ip6_in(behind(40, 1)).udp(1, 2).build()), []);
    let want = [
        ("ip4-lookup/blackhole".into(), 1),
        ("ip6-lookup/blackhole".into(), 1),
    ];
    assert_eq!(lab.drops(), want);
    lab.finish();
}

#[test]
fn errors_are_never_about_errors_nor_about_our_own() {
    let mut lab = Lab::new();
    let about = ip4([20, 0, 0, 1], v4(0, HOST)).udp(1, 2).build();
    for kind in [3, 11, 12, 4, 5] {
        let error = ip4_in([50, 0, 0, 1])
            .icmp4_error(kind, 0, 0, &about)
            .build();
        assert_eq!(lab.run(0, error), []);
        let expired = ip4_in([20, 0, 0, 1])
            .ttl(1)
            .icmp4_error(kind, 0, 0, &about)
            .build();
        assert_eq!(lab.run(0, expired), []);
    }
    let about = ip6(behind(20, 1), v6(0, HOST)).udp(1, 2).build();
    for kind in [1, 2, 3, 4, 100] {
        let error = ip6_in(behind(50, 1))
            .icmp6_error(kind, 0, 0, &about)
            .build();
        assert_eq!(lab.run(0, error), []);
    }
    let drops = lab.drops();
    assert_eq!(drops[0], ("icmp4-error/about-error".into(), 10));
    assert_eq!(drops[1], ("icmp6-error/about-error".into(), 5));
    // A reply of ours that cannot be delivered: no error, neither to the asker nor to ourselves.
    let asked = from_a()
        .ip4([50, 0, 0, 9], v4(0, 1))
        .icmp4_echo(1, 1)
        .build();
    assert_eq!(lab.run(0, asked), []);
    let asked = from_a()
        .ip6(behind(50, 9), v6(0, 1))
        .icmp6_echo(1, 1)
        .build();
    assert_eq!(lab.run(0, asked), []);
    let local: Vec<_> = lab
        .drops()
        .into_iter()
        .filter(|(name, _)| name.ends_with("/local"))
        .collect();
    assert_eq!(
        local,
        [
            ("icmp4-error/local".into(), 1),
            ("icmp6-error/local".into(), 1)
        ]
    );
    lab.finish();
}

#[test]
fn the_gateway_answers_echo() {
    let mut lab = Lab::new();
    // Its address on another link too.
    for link in [0, 1, 3] {
        let frame = ip4_in([10, 0, link, 1])
            .ttl(3)
            .id(5)
            .tos(0x20)
            .icmp4_echo(77, 3)
            .payload(&[9; 56]);
        let out = lab.run(0, frame.build());
        let want = to_host(0)
            .ip4(v4(link, 1), v4(0, HOST))
            .ttl(OWN_TTL)
            .tos(0x20)
            .id(id_of(&out[0].1))
            .icmp4_echo_reply(77, 3)
            .payload(&[9; 56]);
        assert_eq!(out, [(0, want.build())]);
        let frame = ip6_in(v6(link, 1))
            .hop_limit(1)
            .icmp6_echo(77, 3)
            .payload(&[9; 56]);
        let want = to_host(0).ip6(v6(link, 1), v6(0, HOST)).hop_limit(OWN_TTL);
        let want = want.icmp6_echo_reply(77, 3).payload(&[9; 56]);
        assert_eq!(lab.run(0, frame.build()), [(0, want.build())]);
    }
    lab.finish();
}

#[test]
fn closed_ports_are_told() {
    let mut lab = Lab::new();
    let frame = ip4_in([10, 0, 0, 1]).udp(1, 2).payload(b"anyone?").build();
    let out = lab.run(0, frame.clone());
    expect_error4(&out, &frame, 3, 3, 0);
    let frame = ip6_in(v6(0, 1)).udp(1, 2).payload(b"anyone?").build();
    let out = lab.run(0, frame.clone());
    expect_error6(&out, &frame, 1, 4, 0);
    lab.finish();
}

#[test]
fn arp_and_solicitations_are_answered() {
    let mut lab = Lab::new();
    let station = mac(0, 33);
    let request = eth(station, MacAddr::BROADCAST).arp_request(v4(0, 33), v4(0, 1));
    let reply = eth(gateway_mac(0), station)
        .arp_reply(v4(0, 1), v4(0, 33))
        .build();
    assert_eq!(lab.run(0, request.pad_to(60).build()), [(0, reply)]);
    // On a VLAN the answer has the tag.
    let request = eth(mac(2, 33), MacAddr::BROADCAST)
        .vlan(10)
        .arp_request(v4(2, 33), v4(2, 1));
    let reply = eth(gateway_mac(2), mac(2, 33))
        .vlan(10)
        .arp_reply(v4(2, 1), v4(2, 33))
        .build();
    assert_eq!(lab.run(2, request.build()), [(2, reply)]);
    // Somebody else's address.
    let other = eth(station, MacAddr::BROADCAST)
        .arp_request(v4(0, 33), v4(0, 34))
        .build();
    assert_eq!(lab.run(0, other), []);
    let group = nd::solicited_node(v6(0, 1));
    let solicitation = eth(station, MacAddr::from_ip6_multicast(group))
        .ip6(v6(0, 33), group)
        .neighbour_solicitation(v6(0, 1), Some(station));
    let flags = nd::ADVERTISEMENT_ROUTER | nd::ADVERTISEMENT_SOLICITED | nd::ADVERTISEMENT_OVERRIDE;
    let advertisement = eth(gateway_mac(0), station)
        .ip6(v6(0, 1), v6(0, 33))
        .neighbour_advertisement(v6(0, 1), flags, Some(gateway_mac(0)));
    assert_eq!(
        lab.run(0, solicitation.build()),
        [(0, advertisement.build())]
    );
    let kinds: Vec<_> = lab
        .punts()
        .iter()
        .map(|(header, _)| (header.kind, header.interface))
        .collect();
    let (arp, nd) = (Punt::Arp as u16, Punt::NeighbourDiscovery as u16);
    assert_eq!(kinds, [(arp, A), (arp, C), (nd, A)]);
    lab.finish();
}

#[test]
fn tags_are_popped_and_pushed() {
    let mut lab = Lab::new();
    let inner4 = |ttl| {
        ip4(v4(2, HOST), v4(3, HOST))
            .ttl(ttl)
            .udp(1, 2)
            .payload(b"tagged")
            .build()
    };
    let inner6 = |hops| {
        ip6(v6(2, HOST), v6(3, HOST))
            .hop_limit(hops)
            .udp(1, 2)
            .payload(b"tagged")
            .build()
    };
    let outside = |host, out: bool| match out {
        true => eth(gateway_mac(2), host),
        false => eth(host, gateway_mac(2)),
    };
    for (number, before, after) in [
        (0x0800, inner4(64), inner4(63)),
        (0x86dd, inner6(64), inner6(63)),
    ] {
        let arrives = outside(mac(2, HOST), false)
            .vlan(10)
            .raw(number, &before)
            .build();
        let leaves = outside(mac(3, HOST), true)
            .qinq(100, 20)
            .raw(number, &after)
            .build();
        assert_eq!(lab.run(2, arrives), [(2, leaves)]);
    }
    // From one tag to none, and from none to one.
    let packet = |link: Builder<Eth>, ttl| {
        link.ip4(v4(0, HOST), v4(2, HOST))
            .ttl(ttl)
            .udp(3, 4)
            .build()
    };
    let tagged = |ttl| {
        let link = eth(gateway_mac(2), mac(2, HOST)).vlan(10);
        link.ip4(v4(0, HOST), v4(2, HOST))
            .ttl(ttl)
            .udp(3, 4)
            .build()
    };
    assert_eq!(lab.run(0, packet(from_a(), 64)), [(2, tagged(63))]);
    let back = |ttl| ip4(v4(2, HOST), v4(0, HOST)).ttl(ttl).udp(4, 3).build();
    let arrives = eth(mac(2, HOST), gateway_mac(2))
        .vlan(10)
        .raw(0x0800, &back(64))
        .build();
    assert_eq!(
        lab.run(2, arrives),
        [(0, to_host(0).raw(0x0800, &back(63)).build())]
    );
    // A VLAN that nobody has.
    let stray = eth(mac(2, HOST), gateway_mac(2))
        .vlan(11)
        .raw(0x0800, &back(64))
        .build();
    assert_eq!(lab.run(2, stray), []);
    assert_eq!(lab.drops(), [("ethernet-input/unknown-vlan".into(), 1)]);
    lab.finish();
}

#[test]
fn too_long_packets_are_refused_or_cut() {
    let mut lab = Lab::new();
    let payload: Vec<u8> = (0..4000u32).map(|at| (at * 7) as u8).collect();
    let whole = ip4_in([20, 0, 0, 1]).id(99).udp(5, 6).payload(&payload);
    // With DF: fragmentation needed, with the next hop's MTU.
    let refused = ip4_in([20, 0, 0, 1])
        .id(99)
        .dont_fragment()
        .udp(5, 6)
        .payload(&payload)
        .build();
    let out = lab.run(0, refused.clone());
    expect_error4(&out, &refused, 3, 4, mtu(1).into());
    // Without: fragments that make up the packet.
    let out = lab.run(0, whole.build());
    assert_eq!(out.len(), 3);
    let mut together = vec![0; 4008];
    for (at, (port, fragment)) in out.iter().enumerate() {
        assert_eq!(*port, 1);
        assert!(
            fragment.len() <= 14 + usize::from(mtu(1)),
            "{} bytes",
            fragment.len()
        );
        let (header, part) = Ip4Header::parse(&fragment[14..]).expect("an IPv4 header");
        wire::ip4::validate(&fragment[14..]).expect("with a right checksum");
        assert_eq!((header.ttl, header.id.get()), (63, 99));
        assert_eq!(header.more_fragments(), at < 2);
        let offset = header.fragment_offset_bytes();
        together[offset..offset + part.len()].copy_from_slice(part);
    }
    assert_eq!(together, whole.build()[34..]);
    // IPv6 is never cut.
    let frame = ip6_in(behind(20, 1)).udp(5, 6).payload(&payload).build();
    let out = lab.run(0, frame.clone());
    expect_error6(&out, &frame, 2, 0, mtu(1).into());
    // A packet of exactly the MTU goes through.
    let fits = ip4_in([20, 0, 0, 1])
        .dont_fragment()
        .udp(5, 6)
        .payload(&payload[..1472])
        .build();
    assert_eq!(fits.len(), 1514);
    assert_eq!(lab.run(0, fits)[0].1.len(), 1514);
    lab.finish();
}

#[test]
fn jumbo_packets_in_several_buffers_go_through() {
    let mut lab = Lab::new();
    let payload: Vec<u8> = (0..8900u32).map(|at| (at * 13) as u8).collect();
    // In and out on the jumbo link.
    let packet = |link: Builder<Eth>, ttl| {
        let ip = link.ip4(v4(0, 22), [21, 0, 0, 1]).ttl(ttl);
        ip.udp(1, 2).payload(&payload).build()
    };
    let arrives = packet(eth(mac(0, 22), gateway_mac(0)), 64);
    assert_eq!(lab.run(0, arrives), [(0, packet(to_host(0), 63))]);
    let packet = |link: Builder<Eth>, hops| {
        let ip = link.ip6(v6(0, 22), behind(21, 1)).hop_limit(hops);
        ip.udp(1, 2).payload(&payload).build()
    };
    let arrives = packet(eth(mac(0, 22), gateway_mac(0)), 64);
    assert_eq!(lab.run(0, arrives), [(0, packet(to_host(0), 63))]);
    // A long ping to the gateway itself.
    let ping = ip4_in([10, 0, 0, 1])
        .icmp4_echo(1, 1)
        .payload(&payload)
        .build();
    let out = lab.run(0, ping);
    let want = to_host(0)
        .ip4(v4(0, 1), v4(0, HOST))
        .ttl(OWN_TTL)
        .id(id_of(&out[0].1));
    assert_eq!(
        out,
        [(0, want.icmp4_echo_reply(1, 1).payload(&payload).build())]
    );
    lab.finish();
}

#[test]
fn flows_are_spread_and_kept_together() {
    let mut lab = Lab::new();
    let mut counts = [0; 3];
    for flow in 0..256u16 {
        let frames = [
            ip4_in([30, 0, 0, 1]).udp(flow, 443).build(),
            ip6_in(behind(30, 1)).udp(flow, 443).build(),
        ];
        for frame in frames {
            let ports: Vec<_> = (0..4).map(|_| lab.run(0, frame.clone())[0].0).collect();
            assert!(
                ports.iter().all(|port| *port == ports[0]),
                "flow {flow} is split: {ports:?}"
            );
            counts[ports[0]] += 1;
        }
    }
    assert_eq!(counts[0], 0);
    assert!(
        counts[1] > 128 && counts[2] > 128,
        "{counts:?} of 512 flows"
    );
    lab.finish();
}

#[test]
fn packets_wait_for_their_neighbour() {
    let mut lab = Lab::new();
    // By the connected route, and by the next hop of a route; each asked for once.
    let direct =
        |link: Builder<Eth>, ttl| link.ip4(v4(0, HOST), v4(1, 50)).ttl(ttl).udp(1, 2).build();
    let six = |link: Builder<Eth>, hops| {
        link.ip6(v6(0, HOST), v6(1, 50))
            .hop_limit(hops)
            .udp(1, 2)
            .build()
    };
    for _ in 0..2 {
        assert_eq!(lab.run(0, direct(from_a(), 64)), []);
        assert_eq!(lab.run(0, six(from_a(), 64)), []);
    }
    let routed = |link: Builder<Eth>, ttl| {
        link.ip4(v4(0, HOST), [70, 0, 0, 1])
            .ttl(ttl)
            .udp(1, 2)
            .build()
    };
    assert_eq!(lab.run(0, routed(from_a(), 64)), []);
    let asked: Vec<_> = lab
        .punts()
        .into_iter()
        .map(|(header, bytes)| {
            assert_eq!((header.kind, header.interface), (Punt::Resolve as u16, B));
            bytes
        })
        .collect();
    let want = [
        v4(1, 50).octets().to_vec(),
        v6(1, 50).octets().to_vec(),
        v4(1, 99).octets().to_vec(),
    ];
    assert_eq!(asked, want);
    for (host, six) in [(50, false), (50, true), (99, false)] {
        lab.writer
            .resolve(kit::neighbour(1, host, six), mac(1, host))
            .expect("room");
    }
    lab.writer.commit().expect("memory");
    let snapshot = kit::snapshot(&lab.writer);
    lab.engine.publish(snapshot);
    let mut out: Vec<_> = lab
        .turn()
        .into_iter()
        .map(|(port, frame)| (port, frame.bytes))
        .collect();
    let link = |host| eth(gateway_mac(1), mac(1, host));
    let mut want = vec![
        (1, direct(link(50), 63)),
        (1, direct(link(50), 63)),
        (1, six(link(50), 63)),
        (1, six(link(50), 63)),
        (1, routed(link(99), 63)),
    ];
    out.sort();
    want.sort();
    assert_eq!(out, want);
    // One that never answers: the sender is told.
    let frame = from_a().ip4(v4(0, HOST), v4(1, 51)).udp(1, 2).build();
    assert_eq!(lab.run(0, frame.clone()), []);
    let out: Vec<_> = lab
        .settle()
        .into_iter()
        .map(|(port, frame)| (port, frame.bytes))
        .collect();
    expect_error4(&out, &frame, 3, 1, 0);
    lab.finish();
}

#[test]
fn a_train_is_segmented_for_a_port_that_wants_it() {
    let mut lab = Lab::new();
    let payload: Vec<u8> = (0..10_000u32).map(|at| (at * 31) as u8).collect();
    let segment = 1400;
    let train = |six: bool, net: u8| {
        let tcp = if six {
            ip6_in(behind(net.into(), 1)).tcp(40_000, 80)
        } else {
            ip4_in([net, 0, 0, 1]).id(500).tcp(40_000, 80)
        };
        let flags = TcpFlags(TcpFlags::ACK.0 | TcpFlags::PSH.0);
        let bytes = tcp.seq(1_000_000).flags(flags).payload(&payload).build();
        let start = if six { 54 } else { 34 };
        let offload = Offload {
            segmentation: if six {
                Segmentation::Tcp6
            } else {
                Segmentation::Tcp4
            },
            checksum: true,
            ecn: false,
            segment_size: segment,
            checksum_start: start,
            checksum_field: start + 16,
        };
        MemoryWire {
            bytes,
            offload: Some(offload),
        }
    };
    for six in [false, true] {
        lab.send_wire(0, train(six, 20));
        let out = lab.turn();
        assert_eq!(out.len(), 8);
        for (at, (port, frame)) in out.iter().enumerate() {
            let part = payload
                .chunks(usize::from(segment))
                .nth(at)
                .expect("a segment's payload");
            let seq = 1_000_000 + at as u32 * u32::from(segment);
            let last = at == 7;
            let flags = TcpFlags(TcpFlags::ACK.0 | if last { TcpFlags::PSH.0 } else { 0 });
            let tcp = if six {
                to_host(1)
                    .ip6(v6(0, HOST), behind(20, 1))
                    .hop_limit(63)
                    .tcp(40_000, 80)
            } else {
                let ip = to_host(1).ip4(v4(0, HOST), [20, 0, 0, 1]);
                ip.id(500 + at as u16).ttl(63).tcp(40_000, 80)
            };
            let want = tcp.seq(seq).flags(flags).payload(part).build();
            assert_eq!(
                (*port, &frame.bytes, frame.offload),
                (1, &want, None),
                "segment {at}"
            );
        }
        // A port that takes trains gets it whole, with the work still to be done.
        let sent = train(six, 21);
        lab.send_wire(0, sent.clone());
        let out = lab.turn();
        assert_eq!(out.len(), 1);
        assert_eq!((out[0].0, out[0].1.offload), (0, sent.offload));
        assert_eq!(out[0].1.bytes[60..], sent.bytes[60..]);
    }
    lab.finish();
}

#[test]
fn a_checksum_left_undone_is_filled_in() {
    let mut lab = Lab::new();
    let packet = |link: Builder<Eth>, ttl| {
        link.ip4(v4(0, HOST), [20, 0, 0, 1])
            .ttl(ttl)
            .udp(1, 2)
            .payload(b"sum")
    };
    let mut bytes = packet(from_a(), 64).build();
    // The pseudo-header's sum alone, as a sender with checksum offload leaves it.
    let pseudo = wire::checksum::Sum::pseudo_header4(
        v4(0, HOST),
        Ipv4Addr::new(20, 0, 0, 1),
        wire::IpProtocol::UDP,
        11,
    );
    bytes[40..42].copy_from_slice(&pseudo.folded().to_be_bytes());
    let offload = Offload {
        checksum: true,
        checksum_start: 34,
        checksum_field: 40,
        ..Offload::default()
    };
    lab.send_wire(
        0,
        MemoryWire {
            bytes,
            offload: Some(offload),
        },
    );
    let out = lab.turn();
    let want = MemoryWire {
        bytes: packet(to_host(1), 63).build(),
        offload: None,
    };
    assert_eq!(out, [(1, want)]);
    lab.finish();
}

/// The arc `ip4-unicast`: strict reverse-path check on one interface.
#[test]
fn a_feature_works_on_its_interface_alone() {
    let mut lab = Lab::with(&graph_nodes::graph(), |snapshot| {
        let interface = &mut snapshot.interfaces[usize::from(A)];
        interface.ip4_unicast = interface.ip4_unicast.with(arc::RPF_CHECK);
        interface.rpf_strict = true;
    });
    let packet = |link: Builder<Eth>, from: [u8; 4], ttl| {
        link.ip4(from, [20, 0, 0, 1]).ttl(ttl).udp(1, 2).build()
    };
    // What could have come this way.
    for from in [[10, 0, 0, HOST], [21, 0, 0, 5]] {
        let out = lab.run(0, packet(from_a(), from, 64));
        assert_eq!(out, [(1, packet(to_host(1), from, 63))]);
    }
    // What could not: another link, the route of another link, no route, the gateway itself.
    for from in [
        [10, 0, 1, HOST],
        [20, 0, 0, 7],
        [80, 0, 0, 1],
        [40, 0, 0, 1],
        [10, 0, 0, 1],
    ] {
        assert_eq!(lab.run(0, packet(from_a(), from, 64)), []);
    }
    let drops = lab.drops();
    let count: u64 = drops.iter().map(|(_, count)| count).sum();
    assert_eq!(count, 5, "{drops:?}");
    assert!(
        drops
            .iter()
            .all(|(name, _)| name.starts_with("ip4-rpf-check/")),
        "{drops:?}"
    );
    // On another interface the same packets pass.
    let from_b = || eth(mac(1, HOST), gateway_mac(1));
    let out = lab.run(1, packet(from_b(), [80, 0, 0, 1], 64));
    assert_eq!(out, [(1, packet(to_host(1), [80, 0, 0, 1], 63))]);
    assert_eq!(lab.node("ip4-rpf-check").0, 7);
    lab.finish();
}

#[test]
fn a_route_that_changes_is_followed_at_once() {
    let mut lab = Lab::new();
    let frame = || ip4_in([20, 0, 0, 1]).udp(1, 2).build();
    assert_eq!(lab.run(0, frame())[0].0, 1);
    let hop = NextHop {
        neighbour: kit::neighbour(2, HOST, false),
        weight: 1,
    };
    lab.writer
        .set_route(0, [20, 0, 0, 0].into(), 8, RouteTarget::Forward(vec![hop]))
        .expect("room");
    assert_eq!(lab.run(0, frame())[0].0, 2);
    lab.writer
        .resolve(hop.neighbour, MacAddr::local(0xabc))
        .expect("room");
    assert_eq!(
        lab.run(0, frame())[0].1[..6],
        MacAddr::local(0xabc).octets()
    );
    lab.finish();
}

/// A redirect of the gateway to the resolved host of link A, as a builder up to its ICMP layer.
fn redirect4(frame: &[u8], answer: &[u8], next_hop: [u8; 4]) -> Vec<u8> {
    let ip = to_host(0).ip4(v4(0, 1), v4(0, 22)).tos(0xc0).ttl(OWN_TTL);
    let gateway = u32::from_be_bytes(next_hop);
    let message = ip
        .id(id_of(answer))
        .icmp4_error(5, 1, gateway, &frame[14..]);
    with_destination(message.build(), mac(0, 22))
}

fn with_destination(mut frame: Vec<u8>, mac: MacAddr) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac.octets());
    frame
}

/// A gateway that sends redirects on link A, where hosts 22 and 10 are resolved.
fn redirecting(redirects: bool) -> Lab {
    let mut lab = Lab::with(&graph_nodes::graph(), |snapshot| {
        snapshot.interfaces[usize::from(A)].redirects = redirects;
    });
    for six in [false, true] {
        lab.writer
            .resolve(kit::neighbour(0, 22, six), mac(0, 22))
            .expect("room");
    }
    let link_local = kit::neighbour(0, HOST, true).interface;
    let host = |host| mac(0, host).link_local();
    for number in [HOST, 22] {
        let neighbour = graph_nodes::fib::NeighbourKey {
            interface: link_local,
            address: host(number).into(),
        };
        lab.writer.resolve(neighbour, mac(0, number)).expect("room");
        if number == HOST {
            let hop = NextHop {
                neighbour,
                weight: 1,
            };
            let to = behind(22, 0).into();
            lab.writer
                .set_route(0, to, 48, RouteTarget::Forward(vec![hop]))
                .expect("room");
        }
    }
    lab.writer.commit().expect("memory");
    let mut snapshot = kit::snapshot(&lab.writer);
    snapshot.interfaces[usize::from(A)].redirects = redirects;
    lab.engine.publish(snapshot);
    lab
}

/// The packet goes on, and its sender hears of the better hop: byte by byte.
#[test]
fn ip4_packets_that_turn_around_are_redirected() {
    let mut lab = redirecting(true);
    let packet = |link: Builder<Eth>, to: [u8; 4], ttl| {
        let ip = link.ip4(v4(0, 22), to).ttl(ttl).udp(1, 2);
        ip.payload(&[7; 600]).build()
    };
    let from_host = || eth(mac(0, 22), gateway_mac(0));
    // By a router on the link, and straight to a host there.
    for to in [[21, 0, 0, 1], v4(0, HOST).octets()] {
        let frame = packet(from_host(), to, 64);
        let mut out = lab.run(0, frame.clone());
        out.sort_by_key(|(_, frame)| frame.len());
        let [(0, answer), (0, forwarded)] = &out[..] else {
            panic!("the packet and a redirect, not {out:?}");
        };
        assert_eq!(*forwarded, packet(to_host(0), to, 63));
        assert_eq!(*answer, redirect4(&frame, answer, v4(0, HOST).octets()));
        let (_, icmp) = Ip4Header::parse(&answer[14..]).expect("an IPv4 header");
        wire::icmp4::verify_checksum(icmp).expect("a right checksum");
    }
    // Others go on in silence: to another link, expired, from no neighbour, and answers of the gateway itself.
    let silent = |frame: Vec<u8>, lab: &mut Lab| {
        let out = lab.run(0, frame);
        let kinds: Vec<_> = out.iter().map(|(port, frame)| (*port, frame[23])).collect();
        (kinds, out)
    };
    let (kinds, _) = silent(packet(from_host(), [20, 0, 0, 1], 64), &mut lab);
    assert_eq!(kinds, [(1, 17)]);
    let expired = packet(from_host(), [21, 0, 0, 1], 1);
    let (kinds, out) = silent(expired, &mut lab);
    assert_eq!((&kinds[..], out[0].1[34]), (&[(0, 1)][..], 11));
    for source in [v4(1, HOST), v4(0, HOST), v4(0, 1), v4(0, 255)] {
        let frame = from_host().ip4(source, [21, 0, 0, 1]).udp(1, 2).build();
        assert_eq!(silent(frame, &mut lab).0, [(0, 17)], "from {source}");
    }
    let echo = from_host().ip4(v4(0, 22), v4(0, 1)).icmp4_echo(1, 1);
    let (kinds, out) = silent(echo.build(), &mut lab);
    assert_eq!((&kinds[..], out[0].1[34]), (&[(0, 1)][..], 0));
    // Nothing is said about errors, broadcasts and later fragments, but unicast among them is forwarded.
    let about = ip4([21, 0, 0, 1], v4(0, 22)).udp(1, 2).build();
    let error = from_host().ip4(v4(0, 22), [21, 0, 0, 1]);
    let out = lab.run(0, error.icmp4_error(3, 1, 0, &about).build());
    assert_eq!(out.len(), 1);
    let fragment = from_host().ip4(v4(0, 22), [21, 0, 0, 1]);
    let out = lab.run(0, fragment.fragment_offset(10).udp(1, 2).build());
    assert_eq!(out.len(), 1);
    lab.finish();
}

#[test]
fn ip6_packets_that_turn_around_are_redirected() {
    let mut lab = redirecting(true);
    let from_host = || eth(mac(0, 22), gateway_mac(0));
    let packet = |link: Builder<Eth>, from: Ipv6Addr, to: Ipv6Addr, hops, length| {
        let ip = link.ip6(from, to).hop_limit(hops).udp(1, 2);
        ip.payload(&vec![7; length]).build()
    };
    let router = mac(0, HOST).link_local();
    for (from, to, target, length) in [
        (v6(0, 22), behind(22, 1), router, 3),
        (v6(0, 22), behind(22, 1), router, 16),
        (v6(0, 22), v6(0, HOST), v6(0, HOST), 1400),
    ] {
        let frame = packet(from_host(), from, to, 64, length);
        let mut out = lab.run(0, frame.clone());
        out.sort_by_key(|(_, frame)| frame[20] != 58);
        let [(0, answer), (0, forwarded)] = &out[..] else {
            panic!("the packet and a redirect, not {out:?}");
        };
        assert_eq!(*forwarded, packet(to_host(0), from, to, 63, length));
        // The quote is filled up to a unit of eight bytes, and ends where the message has 1280.
        let mut quote = frame[14..].to_vec();
        quote.truncate(1280 - 96);
        quote.resize(quote.len().next_multiple_of(8), 0);
        let mut redirected = vec![4, 1 + (quote.len() / 8) as u8, 0, 0, 0, 0, 0, 0];
        redirected.extend(quote);
        let message = to_host(0)
            .ip6(gateway_mac(0).link_local(), from)
            .redirect6(target, to)
            .option(&nd::link_layer_option(2, mac(0, HOST)))
            .option(&redirected);
        assert_eq!(*answer, with_destination(message.build(), mac(0, 22)));
        let (header, icmp) = wire::Ip6Header::parse(&answer[14..]).expect("an IPv6 header");
        nd::validate(header, icmp).expect("a host believes it");
    }
    // A router whose link-local address is not known cannot be named; the rest as for IPv4.
    let quiet = [
        (v6(0, 22), behind(21, 1), 64),
        (v6(1, 22), behind(22, 1), 64),
        (v6(0, HOST), behind(21, 1), 64),
        (v6(0, 1), behind(22, 1), 64),
    ];
    for (from, to, hops) in quiet {
        let out = lab.run(0, packet(from_host(), from, to, hops, 9));
        let kinds: Vec<_> = out.iter().map(|(port, frame)| (*port, frame[20])).collect();
        assert_eq!(kinds, [(0, 17)], "from {from} to {to}");
    }
    let out = lab.run(0, packet(from_host(), v6(0, 22), behind(22, 1), 1, 9));
    assert_eq!((out.len(), out[0].1[54]), (1, 3), "time exceeded alone");
    lab.finish();
}

/// Off, as it is by default, nothing is said, and the packets take the short way.
#[test]
fn redirects_are_off_unless_asked_for() {
    let mut lab = redirecting(false);
    let from_host = || eth(mac(0, 22), gateway_mac(0));
    let frame = from_host().ip4(v4(0, 22), [21, 0, 0, 1]).udp(1, 2).build();
    assert_eq!(lab.run(0, frame).len(), 1);
    let frame = from_host().ip6(v6(0, 22), behind(22, 1)).udp(1, 2).build();
    assert_eq!(lab.run(0, frame).len(), 1);
    for node in [
        "icmp4-redirect",
        "icmp6-redirect",
        "ip4-rewrite",
        "ip6-rewrite",
    ] {
        assert_eq!(lab.node(node).0, 0, "{node}");
    }
    lab.finish();
}

/// The limit on errors holds for redirects too; every packet goes on.
#[test]
fn redirects_are_limited() {
    let mut lab = Lab::with(&graph_nodes::graph(), |snapshot| {
        snapshot.interfaces[usize::from(A)].redirects = true;
        snapshot.icmp.errors_per_second = 10;
        snapshot.icmp.burst = 3;
    });
    for _ in 0..20 {
        let ip4 = eth(mac(0, 22), gateway_mac(0)).ip4(v4(0, 22), [21, 0, 0, 1]);
        lab.send(0, ip4.udp(1, 2).build());
        let ip6 = eth(mac(0, 22), gateway_mac(0)).ip6(v6(0, 22), v6(0, HOST));
        lab.send(0, ip6.udp(1, 2).build());
    }
    let out = lab.turn();
    let forwarded = out
        .iter()
        .filter(|(_, frame)| frame.bytes[..6] == mac(0, HOST).octets());
    assert_eq!(forwarded.count(), 40);
    // Their receiver is not resolved: all that were made wait for it.
    assert_eq!(out.len(), 40);
    assert_eq!(lab.node("ip4-glean").0 + lab.node("ip6-glean").0, 3);
    lab.finish();
}

/// New limits hold from the snapshot on that brings them.
#[test]
fn limits_on_errors_change_while_packets_flow() {
    let limited = |snapshot: &mut graph_nodes::Snapshot, burst| {
        snapshot.icmp.errors_per_second = 1;
        snapshot.icmp.burst = burst;
    };
    let mut lab = Lab::with(&graph_nodes::graph(), |snapshot| limited(snapshot, 2));
    let answers = |lab: &mut Lab| {
        for _ in 0..10 {
            lab.send(0, ip4_in([50, 0, 0, 1]).udp(1, 2).build());
            lab.send(0, ip6_in(behind(50, 1)).udp(1, 2).build());
        }
        lab.turn().len()
    };
    assert_eq!((answers(&mut lab), answers(&mut lab)), (2, 0));
    for burst in [7, 0, 3] {
        let mut snapshot = kit::snapshot(&lab.writer);
        limited(&mut snapshot, burst);
        lab.engine.publish(snapshot);
        let all = (answers(&mut lab), answers(&mut lab));
        assert_eq!(all, (burst as usize, 0));
    }
    lab.finish();
}
