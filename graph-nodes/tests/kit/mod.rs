//! A gateway in memory: the whole graph between three ports whose other ends are the test's.
//!
//! | interface | port, tags        | MTU  | addresses                                |
//! |-----------|-------------------|------|------------------------------------------|
//! | [`A`]     | 0                 | 9000 | 10.0.0.1/24, 2001:db8::1/64              |
//! | [`B`]     | 1                 | 1500 | 10.0.1.1/24, 2001:db8:0:1::1/64          |
//! | [`C`]     | 2, VLAN 10        | 1500 | 10.0.2.1/24, 2001:db8:0:2::1/64          |
//! | [`D`]     | 2, VLAN 100 in .. | 1280 | 10.0.3.1/24, 2001:db8:0:3::1/64          |
//!
//! Port 0 takes every offload, the others none. On each link, host 10 is resolved. Routes are in [`routes`].
#![allow(
    dead_code,
    reason = "each test program, and the fuzz target, uses a part of the kit"
)]

pub mod counted;
pub mod frames;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataplane::{
    Clock, Engine, EngineConfig, GraphSpec, Idle, MemoryPort, MemoryWire, PortCapabilities, PortId,
    PuntHeader, Queue, UNDECIDED, Worker, WorkerId, WorkerStats, memory_pair,
};
use graph_nodes::fib::{
    ForwardingSize, ForwardingWriter, Link, NeighbourKey, NextHop, RouteTarget, scoped,
};
use graph_nodes::{
    FIRST_SUB_INTERFACE, IcmpLimits, Interface, InterfaceAddress, NO_INTERFACE, Port, Snapshot,
    Tags, Vrf, WorkerState,
};
use wire::{EtherType, MacAddr};

/// Interface on port 0.
pub const A: u16 = 0;
/// Interface on port 1.
pub const B: u16 = 1;
/// VLAN 10 on port 2.
pub const C: u16 = FIRST_SUB_INTERFACE;
/// VLAN 20 in service VLAN 100 on port 2.
pub const D: u16 = FIRST_SUB_INTERFACE + 1;
/// All interfaces, in the order of their links' numbers in addresses.
pub const INTERFACES: [u16; 4] = [A, B, C, D];
/// Ports.
pub const PORTS: usize = 3;
/// The number of the resolved host on each link.
pub const HOST: u8 = 10;
/// Hop count of what the gateway says itself.
pub const OWN_TTL: u8 = 64;

/// Frames that a test end holds before it is read.
const LANE: usize = 1 << 16;
/// Longer than a neighbour is waited for.
const AFTER_HELD_NS: u64 = 2 * graph_nodes::neighbour::glean::TIMEOUT_NS;

/// The MTU of a link.
pub fn mtu(link: u8) -> u16 {
    [9000, 1500, 1500, 1280][usize::from(link)]
}

/// The gateway's Ethernet address on a port.
pub fn gateway_mac(port: usize) -> MacAddr {
    MacAddr::local(1 + port as u32)
}

/// A host's Ethernet address.
pub fn mac(link: u8, host: u8) -> MacAddr {
    MacAddr::local(0x1000 + u32::from(link) * 256 + u32::from(host))
}

/// A host's IPv4 address; host 1 is the gateway.
pub fn v4(link: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, link, host)
}

/// A host's IPv6 address; host 1 is the gateway.
pub fn v6(link: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, link.into(), 0, 0, 0, host.into())
}

/// An address behind `2001:db8:NET::/48`, whose routes are those of the IPv4 networks `NET.0.0.0/8`.
pub fn behind(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host)
}

/// A neighbour of the routing table.
pub fn neighbour(link: u8, host: u8, six: bool) -> NeighbourKey {
    let address: IpAddr = if six {
        v6(link, host).into()
    } else {
        v4(link, host).into()
    };
    NeighbourKey {
        interface: INTERFACES[usize::from(link)],
        address,
    }
}

/// The routes besides the connected ones: networks by their first byte (IPv4) or third group (IPv6).
pub fn routes(six: bool) -> Vec<(u8, RouteTarget)> {
    let via = |keys: &[(u8, u8)]| {
        let hop = |(link, host): &(u8, u8)| NextHop {
            neighbour: neighbour(*link, *host, six),
            weight: 1,
        };
        RouteTarget::Forward(keys.iter().map(hop).collect())
    };
    vec![
        (20, via(&[(1, HOST)])),
        (21, via(&[(0, HOST)])),
        (30, via(&[(1, HOST), (2, HOST)])),
        (40, RouteTarget::Blackhole),
        (50, RouteTarget::Unreachable),
        (60, RouteTarget::Prohibit),
        (70, via(&[(1, 99)])),
    ]
}

/// The gateway, one worker turned by hand, and the test's ends of its ports.
pub struct Lab {
    pub engine: Engine<Snapshot>,
    pub worker: Worker<Snapshot>,
    pub writer: ForwardingWriter,
    pub ends: Vec<MemoryPort>,
    /// Frames put on the wires.
    pub offered: u64,
    /// Frames that came out.
    pub sent: u64,
    time: Arc<AtomicU64>,
}

impl Lab {
    /// The gateway as it ships.
    pub fn new() -> Self {
        Self::with(&graph_nodes::graph(), |_| ())
    }

    /// With another graph, or with a change to the configuration.
    pub fn with(graph: &GraphSpec<Snapshot>, change: impl FnOnce(&mut Snapshot)) -> Self {
        let (clock, time) = Clock::manual();
        time.store(1_000_000_000, Ordering::Relaxed);
        let config = EngineConfig {
            buffers: 16_384,
            idle: Idle::Busy,
            clock,
            seed: Some(7),
            punt_ring_bytes: 1 << 20,
            ..EngineConfig::default()
        };
        let writer = writer();
        let mut snapshot = snapshot(&writer);
        change(&mut snapshot);
        let limits = snapshot.icmp;
        let (mut engine, mut workers) =
            Engine::new(&config, graph, snapshot, |_| WorkerState::new(limits))
                .expect("an engine of one worker");
        let mut worker = workers.pop().expect("one worker");
        let mut ends = Vec::new();
        for port in 0..PORTS {
            let (ours, theirs) = memory_pair(LANE).expect("event descriptors");
            ends.push(ours);
            let queue: Box<dyn Queue> = Box::new(theirs);
            engine
                .send_queues(PortId(port as u16), vec![Some(queue)])
                .expect("room for a command");
        }
        worker.turn();
        Self {
            engine,
            worker,
            writer,
            ends,
            offered: 0,
            sent: 0,
            time,
        }
    }

    /// Puts a frame on a port's wire.
    pub fn send(&mut self, port: usize, frame: Vec<u8>) {
        self.send_wire(
            port,
            MemoryWire {
                bytes: frame,
                offload: None,
            },
        );
    }

    /// Puts a frame with work left undone on a port's wire.
    pub fn send_wire(&mut self, port: usize, frame: MemoryWire) {
        assert!(self.ends[port].send(frame), "the lane is read every turn");
        self.offered += 1;
    }

    /// Turns the worker until everything has come in; what came out, by port.
    pub fn turn(&mut self) -> Vec<(usize, MemoryWire)> {
        let mut out = Vec::new();
        loop {
            let work = self.worker.turn();
            for (port, end) in self.ends.iter_mut().enumerate() {
                while let Some(frame) = end.receive() {
                    out.push((port, frame));
                }
            }
            if work == 0 {
                break;
            }
        }
        self.sent += out.len() as u64;
        out
    }

    /// One frame in; the frames that come out, on ports that want nothing left undone.
    pub fn run(&mut self, port: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        self.send(port, frame);
        let plain = |(port, frame): (usize, MemoryWire)| {
            assert_eq!(frame.offload, None, "nothing asked for an offload");
            (port, frame.bytes)
        };
        self.turn().into_iter().map(plain).collect()
    }

    /// Lets the worker's clock go on.
    pub fn pass(&mut self, ns: u64) {
        self.time.fetch_add(ns, Ordering::Relaxed);
    }

    /// What the nodes handed to the slow path.
    pub fn punts(&mut self) -> Vec<(PuntHeader, Vec<u8>)> {
        let mut list = Vec::new();
        self.engine
            .punts(|_, _, header, bytes| list.push((header, bytes.to_vec())));
        list
    }

    /// The worker's counters.
    pub fn stats(&self) -> &WorkerStats {
        self.engine.stats(WorkerId(0)).expect("worker 0")
    }

    /// Every drop counter that is not zero, as `node/reason`.
    pub fn drops(&self) -> Vec<(String, u64)> {
        drops(&self.engine, WorkerId(0))
    }

    /// The counters of a node: packets that came in, packets that it dropped.
    pub fn node(&self, name: &str) -> (u64, u64) {
        let index = self
            .engine
            .nodes()
            .iter()
            .position(|node| node.name == name);
        let index = index.unwrap_or_else(|| panic!("there is no node {name}"));
        let stats = &self.stats().nodes[index];
        let drops = stats.drops.iter().map(dataplane::Counter::value).sum();
        (stats.vectors.value(), drops)
    }

    /// Lets everything that waits for a neighbour go; what came out. Twice: the error about a packet that waited may itself
    /// wait for its receiver, and about an error nothing is said.
    pub fn settle(&mut self) -> Vec<(usize, MemoryWire)> {
        self.pass(AFTER_HELD_NS);
        let mut out = self.turn();
        self.pass(AFTER_HELD_NS);
        out.extend(self.turn());
        out
    }

    /// Ends the test: no buffer may be missing.
    pub fn finish(mut self) {
        self.settle();
        let pool = self.engine.pool().clone();
        drop(self.worker);
        pool.audit().expect("every buffer is back in the pool");
    }
}

/// Every drop counter of a worker that is not zero, as `node/reason`.
pub fn drops(engine: &Engine<Snapshot>, worker: WorkerId) -> Vec<(String, u64)> {
    let stats = engine.stats(worker).expect("a worker");
    let mut list = Vec::new();
    for (info, stats) in engine.nodes().iter().zip(&stats.nodes) {
        let names = info
            .drops
            .iter()
            .map(|(name, _)| *name)
            .chain([UNDECIDED.0]);
        for (name, counter) in names.zip(&stats.drops) {
            if counter.value() > 0 {
                list.push((format!("{}/{name}", info.name), counter.value()));
            }
        }
    }
    list
}

/// The configuration that the module describes, with the readers' side of its tables.
pub fn snapshot(writer: &ForwardingWriter) -> Snapshot {
    let mut interfaces = vec![Interface::absent(); usize::from(D) + 1];
    for (link, number) in INTERFACES.into_iter().enumerate() {
        let made = link_of(link as u8);
        interfaces[usize::from(number)] = Interface {
            up: true,
            port: made.port,
            tags: made.tags,
            mac: made.mac,
            mtu: made.mtu,
            ip4: vec![InterfaceAddress {
                address: v4(link as u8, 1),
                prefix_len: 24,
            }],
            ip6: vec![InterfaceAddress {
                address: v6(link as u8, 1),
                prefix_len: 64,
            }],
            link_local: Some(made.mac.link_local()),
            ..Interface::absent()
        };
    }
    let mut vlans = vec![NO_INTERFACE; 4096];
    vlans[10] = C;
    let port = |capabilities| Port {
        capabilities,
        ..Port::default()
    };
    let plain = |max_frame| PortCapabilities {
        max_frame,
        ..PortCapabilities::default()
    };
    let everything = PortCapabilities {
        checksum: true,
        tcp4_segmentation: true,
        tcp6_segmentation: true,
        udp_segmentation: true,
        max_frame: 9022,
    };
    let ports = vec![
        port(everything),
        port(plain(1522)),
        Port {
            capabilities: plain(1522),
            vlans,
            stacked_vlans: vec![(100 << 16 | 20, D)],
        },
    ];
    Snapshot {
        ports,
        interfaces,
        vrfs: vec![vrf(writer)],
        forwarding: writer.forwarding(),
        nat: graph_nodes::nat::Nat::default(),
        icmp: IcmpLimits {
            errors_per_second: 1_000_000,
            burst: 1_000_000,
        },
        policy: graph_nodes::policy::Policy::default(),
    }
}

/// Fresh handles of the one VRF's tables.
pub fn vrf(writer: &ForwardingWriter) -> Vrf {
    writer.vrf(0).expect("VRF 0")
}

/// The tables that the module describes.
pub fn writer() -> ForwardingWriter {
    let size = ForwardingSize {
        groups: 1024,
        adjacencies: 1024,
        buckets: 4096,
    };
    let mut writer = ForwardingWriter::new(size, 256);
    writer.add_vrf(0).expect("memory for tables");
    let mut set = Vec::new();
    for (link, number) in (0..).zip(INTERFACES) {
        let made = link_of(link);
        writer.set_link(number, made).expect("a new link");
        let scope =
            |address: Ipv6Addr| IpAddr::V6(Ipv6Addr::from_bits(scoped(address.to_bits(), number)));
        let local = made.mac.link_local();
        let link_prefix = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
        set.extend([
            (v4(link, 0).into(), 24, RouteTarget::Connected(number)),
            (v4(link, 0).into(), 32, RouteTarget::Blackhole),
            (v4(link, 255).into(), 32, RouteTarget::Blackhole),
            (v4(link, 1).into(), 32, RouteTarget::Local),
            (v6(link, 0).into(), 64, RouteTarget::Connected(number)),
            (v6(link, 1).into(), 128, RouteTarget::Local),
            (scope(link_prefix), 64, RouteTarget::Connected(number)),
            (scope(local), 128, RouteTarget::Local),
        ]);
    }
    for (net, target) in routes(false) {
        set.push((IpAddr::from([net, 0, 0, 0]), 8, target));
    }
    for (net, target) in routes(true) {
        set.push((behind(net.into(), 0).into(), 48, target));
    }
    for (address, len, target) in set {
        writer.set_route(0, address, len, target).expect("room");
    }
    for link in 0..4 {
        for six in [false, true] {
            writer
                .resolve(neighbour(link, HOST, six), mac(link, HOST))
                .expect("room");
        }
    }
    writer.commit().expect("memory for tables");
    writer
}

fn link_of(link: u8) -> Link {
    let tags = match link {
        2 => Tags {
            outer: None,
            inner: Some(10),
        },
        3 => Tags {
            outer: Some((EtherType::VLAN_AD, 100)),
            inner: Some(20),
        },
        _ => Tags::default(),
    };
    let port = usize::from(link).min(2);
    Link {
        port: PortId(port as u16),
        mtu: mtu(link),
        vrf: 0,
        mac: gateway_mac(port),
        tags,
    }
}
