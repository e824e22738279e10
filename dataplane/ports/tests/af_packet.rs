//! AF_PACKET ports on real veth pairs. Needs root and iproute2, else the tests are skipped with a printed reason.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::{Namespace, udp, until};
use dataplane::{
    Buffers, Flags, Frame, Offload, Pages, Pool, Queue, Segmentation, WorkerId, owner_of,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use ports::{AfPacketConfig, AfPacketPort, Fanout, FanoutMode, PortError, RingKind};

const FRAMES: RingKind = RingKind::Frames {
    count: 256,
    bytes: None,
};
const LONG_FRAMES: RingKind = RingKind::Frames {
    count: 64,
    bytes: Some(69_632),
};
const BLOCKS: RingKind = RingKind::Blocks {
    count: 8,
    bytes: 262_144,
    retire_ms: 1,
};

/// Our port `r` on one end of a veth pair, `host0` in a host's namespace on the other.
struct Lab {
    host: Namespace,
    router: Namespace,
    pool: Pool,
}

impl Lab {
    fn new(mtu: u32) -> Option<Self> {
        let (host, router) = (Namespace::new()?, Namespace::new()?);
        router.connect("r", &host, "host0", mtu);
        let pool = Pool::new(4096, Pages::Transparent).expect("memory");
        Some(Self { host, router, pool })
    }

    fn open(&self, ring: RingKind) -> Box<dyn Queue> {
        let config = AfPacketConfig {
            ring,
            ..AfPacketConfig::new("r")
        };
        let port = self
            .router
            .enter(|| AfPacketPort::open(&config))
            .expect("a port");
        port.queues.into_iter().next().expect("one queue")
    }

    /// A plain packet socket on the host's end.
    fn raw(&self) -> OwnedFd {
        self.host.enter(|| {
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::EthAll,
            )
            .expect("a packet socket");
            bind(fd.as_raw_fd(), &link_address("host0")).expect("a device");
            fd
        })
    }

    /// All caches and queues must be gone.
    fn finish(self) {
        self.pool.audit().expect("balanced");
    }
}

fn link_address(device: &str) -> LinkAddr {
    let index = nix::net::if_::if_nametoindex(device).expect("a device");
    nix::ifaddrs::getifaddrs()
        .expect("devices")
        .filter_map(|entry| entry.address?.as_link_addr().copied())
        .find(|address| address.ifindex() == index as usize)
        .expect("a link address")
}

/// A frame for the other end that no stack answers (an experimental EtherType), numbered.
fn frame(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 0x88, 0xb5,
    ];
    bytes.extend(number.to_be_bytes());
    bytes.extend((18..length).map(|i| (i as u32 * 7 + number) as u8));
    bytes
}

fn receive_one(queue: &mut dyn Queue, buffers: &mut Buffers) -> Vec<u8> {
    let mut all = Vec::new();
    until("a packet", || {
        let mut frame = Frame::new();
        queue.rx(&mut frame, 1, buffers);
        all.extend(
            frame
                .packets()
                .iter()
                .map(|packet| buffers.segments(packet).collect::<Vec<_>>().concat()),
        );
        buffers.free_all(frame.packets_mut());
        !all.is_empty()
    });
    all.remove(0)
}

#[test]
fn frames_of_all_lengths_cross_in_order_both_ways() {
    let Some(lab) = Lab::new(65_000) else { return };
    for ring in [FRAMES, LONG_FRAMES, BLOCKS] {
        let mut queue = lab.open(ring);
        let mut buffers = lab.pool.cache();
        let raw = lab.raw();
        let lengths = [
            60, 61, 1514, 1900, 1960, 1970, 1971, 1972, 1973, 1974, 2047, 2048, 2049, 4096, 4097,
            9014, 20_000, 40_961, 65_014,
        ];
        for (number, length) in lengths.into_iter().cycle().take(100).enumerate() {
            let sent = frame(number as u32, length);
            assert_eq!(send(raw.as_raw_fd(), &sent, MsgFlags::empty()), Ok(length));
            if number % 5 == 4 {
                for number in number - 4..=number {
                    let expected = frame(number as u32, lengths[number % lengths.len()]);
                    assert!(
                        receive_one(&mut *queue, &mut buffers) == expected,
                        "{ring:?}, frame {number}"
                    );
                }
            }
            let mut packet = [buffers.copy_from(&sent).expect("buffers")];
            assert_eq!(queue.tx(&mut packet, &mut buffers), 1);
            queue.flush(&mut buffers);
            assert!(!queue.pending());
            let mut got = vec![0; 70_000];
            assert_eq!(
                recv(raw.as_raw_fd(), &mut got, MsgFlags::empty()),
                Ok(length)
            );
            assert!(got[..length] == sent[..], "{ring:?}, frame {number}");
        }
        assert_eq!(queue.counters(), Default::default(), "{ring:?}");
        drop((queue, buffers));
    }
    lab.finish();
}

#[test]
fn tags_survive() {
    let Some(lab) = Lab::new(9000) else { return };
    for ring in [FRAMES, BLOCKS] {
        let mut queue = lab.open(ring);
        let mut buffers = lab.pool.cache();
        let raw = lab.raw();
        for (kind, length) in [
            ([0x81, 0], 64),
            ([0x88, 0xa8], 64),
            ([0x81, 0], 1518),
            ([0x88, 0xa8], 5000),
        ] {
            let mut sent = frame(1, length);
            // Priority 7, VLAN 0x234; inside it a second tag, which the kernel leaves alone.
            sent.splice(12..12, [kind[0], kind[1], 0xe2, 0x34, 0x81, 0, 0, 9]);
            send(raw.as_raw_fd(), &sent, MsgFlags::empty()).expect("room");
            assert_eq!(receive_one(&mut *queue, &mut buffers), sent, "{ring:?}");
        }
        drop((queue, buffers));
    }
    lab.finish();
}

#[test]
fn open_checksums_and_trains_are_described() {
    let Some(lab) = Lab::new(1500) else { return };
    lab.host.ip("addr add 10.7.0.1/24 dev host0");
    lab.host
        .ip("neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev host0");
    let mut queue = lab.open(FRAMES);
    let mut buffers = lab.pool.cache();
    lab.host.enter(|| {
        let socket = udp("10.7.0.1:9");
        socket.send_to(&[1; 100], "10.7.0.9:7").expect("sent");
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &1000)
            .expect("UDP_SEGMENT");
        socket.send_to(&[2; 7300], "10.7.0.9:7").expect("sent");
    });
    let mut received = Frame::new();
    until("two packets", || {
        queue.rx(&mut received, 2, &mut buffers);
        received.len() == 2
    });
    let udp = |segmentation, segment_size| Offload {
        segmentation,
        checksum: true,
        ecn: false,
        segment_size,
        checksum_start: 128 + 34,
        checksum_field: 128 + 40,
    };
    let [single, train] = received.packets() else {
        panic!("two packets")
    };
    assert_eq!(buffers.offload(single), Some(udp(Segmentation::None, 0)));
    assert!(single.flags().contains(Flags::CHECKSUM_GOOD));
    assert_eq!(buffers.offload(train), Some(udp(Segmentation::Udp, 1000)));
    assert_eq!(buffers.total_length(train), 42 + 7300);
    assert!(
        train
            .flags()
            .contains(Flags::CHAINED.union(Flags::CHECKSUM_GOOD))
    );
    buffers.free_all(received.packets_mut());
    drop((queue, buffers));
    lab.finish();
}

/// The kernel takes the tag out before we see a packet; what it says of offsets goes with the tag back in.
#[test]
fn tagged_trains_are_described() {
    let Some(lab) = Lab::new(1500) else { return };
    let port = lab
        .host
        .enter(|| AfPacketPort::open(&AfPacketConfig::new("host0")));
    let mut sender = port.expect("a port").queues.remove(0);
    for ring in [FRAMES, LONG_FRAMES, BLOCKS] {
        let mut queue = lab.open(ring);
        let mut buffers = lab.pool.cache();
        // A packet that fits a short frame of the ring, and a train that does not.
        for (payload, segmentation, segment_size) in [
            (100, Segmentation::None, 0),
            (7300, Segmentation::Udp, 1000),
        ] {
            let described = |position: u16| Offload {
                segmentation,
                checksum: true,
                ecn: false,
                segment_size,
                checksum_start: position + 38,
                checksum_field: position + 44,
            };
            let sent = tagged_udp(payload);
            let mut packet = [buffers.copy_from(&sent).expect("buffers")];
            let offload = described(packet[0].position());
            buffers.set_offload(&mut packet[0], Some(offload));
            assert_eq!(sender.tx(&mut packet, &mut buffers), 1);
            sender.flush(&mut buffers);
            assert_eq!(sender.counters().tx_failed, 0, "{ring:?}, {payload}");
            let mut received = Frame::new();
            until("a packet", || {
                queue.rx(&mut received, 1, &mut buffers);
                received.len() == 1
            });
            let packet = &received.packets()[0];
            let bytes = buffers.segments(packet).collect::<Vec<_>>().concat();
            assert!(bytes == sent, "{ring:?}, {payload}");
            assert_eq!(
                buffers.offload(packet),
                Some(described(packet.position())),
                "{ring:?}, {payload}"
            );
            buffers.free_all(received.packets_mut());
        }
        assert_eq!(queue.counters(), Default::default(), "{ring:?}");
        drop((queue, buffers));
    }
    drop(sender);
    lab.finish();
}

/// An IPv4 UDP datagram in VLAN 0x234 with priority 7, its UDP checksum still to be done.
fn tagged_udp(payload: usize) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7];
    bytes.extend([0x81, 0, 0xe2, 0x34, 8, 0]);
    let [high, low] = ((28 + payload) as u16).to_be_bytes();
    bytes.extend([0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0]);
    bytes.extend([10, 7, 0, 1, 10, 7, 0, 9]);
    let [high, low] = ((8 + payload) as u16).to_be_bytes();
    bytes.extend([0, 9, 0, 7, high, low, 0, 0]);
    bytes.extend((0..payload).map(|i| (i * 7) as u8));
    bytes
}

/// Moves packets between two queues until told to stop, and counts the trains among them.
fn forward(mut queues: [Box<dyn Queue>; 2], pool: &Pool, stop: &AtomicBool, trains: &AtomicU64) {
    let mut buffers = pool.cache();
    while !stop.load(Ordering::Relaxed) {
        let mut count = 0;
        for from in 0..2 {
            let mut frame = Frame::new();
            count += queues[from].rx(&mut frame, 64, &mut buffers);
            let long = frame.packets().iter().filter(|packet| {
                buffers
                    .offload(packet)
                    .is_some_and(|offload| offload.segmentation == Segmentation::Tcp4)
            });
            trains.fetch_add(long.count() as u64, Ordering::Relaxed);
            let taken = queues[1 - from].tx(frame.packets_mut(), &mut buffers);
            buffers.free_all(&mut frame.packets_mut()[taken..]);
            queues[1 - from].flush(&mut buffers);
        }
        if count == 0 {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

#[test]
fn a_tcp_stream_crosses_as_trains() {
    let (Some(left), Some(router), Some(right)) =
        (Namespace::new(), Namespace::new(), Namespace::new())
    else {
        return;
    };
    router.connect("r0", &left, "host0", 1500);
    router.connect("r1", &right, "host0", 1500);
    left.ip("addr add 10.7.0.1/24 dev host0");
    right.ip("addr add 10.7.0.2/24 dev host0");
    const BYTES: usize = 20_000_000;
    let content = |at: usize| ((at * 31) >> 3) as u8;
    for ring in [FRAMES, LONG_FRAMES, BLOCKS] {
        let pool = Pool::new(16_384, Pages::Transparent).expect("memory");
        let queues = router.enter(|| {
            ["r0", "r1"].map(|device| {
                let config = AfPacketConfig {
                    ring,
                    ..AfPacketConfig::new(device)
                };
                AfPacketPort::open(&config)
                    .expect("a port")
                    .queues
                    .remove(0)
            })
        });
        let (stop, trains) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| forward(queues, &pool, &stop, &trains));
            let listener = right
                .enter(|| TcpListener::bind("10.7.0.2:5000"))
                .expect("an address");
            let receiver = scope.spawn(move || {
                let mut got = Vec::with_capacity(BYTES);
                let (mut stream, _) = listener.accept().expect("a connection");
                stream
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .expect("a timeout");
                stream.read_to_end(&mut got).expect("the stream");
                got
            });
            let mut stream = left
                .enter(|| TcpStream::connect("10.7.0.2:5000"))
                .expect("a connection");
            stream
                .set_write_timeout(Some(Duration::from_secs(10)))
                .expect("a timeout");
            let sent: Vec<u8> = (0..BYTES).map(content).collect();
            stream.write_all(&sent).expect("the stream");
            drop(stream);
            let got = receiver.join().expect("no panic");
            stop.store(true, Ordering::Relaxed);
            assert!(
                got == sent,
                "{ring:?}: {} of {BYTES} bytes, or others",
                got.len()
            );
        });
        assert!(
            trains.into_inner() > 100,
            "{ring:?}: the stream came as trains"
        );
        pool.audit().expect("balanced");
    }
}

#[test]
fn a_device_that_goes_down_comes_back_and_vanishes_does_no_harm() {
    let Some(lab) = Lab::new(1500) else { return };
    let mut queue = lab.open(FRAMES);
    let mut buffers = lab.pool.cache();
    let send_ours = |queue: &mut dyn Queue, buffers: &mut Buffers| {
        let mut packet = [buffers.copy_from(&frame(3, 100)).expect("buffers")];
        assert_eq!(queue.tx(&mut packet, buffers), 1);
        queue.flush(buffers);
        queue.counters().tx_failed
    };
    // Quiet: the descriptor does not wake a sleeper.
    let quiet = |queue: &mut dyn Queue, buffers: &mut Buffers| {
        for _ in 0..200 {
            let mut frame = Frame::new();
            queue.rx(&mut frame, 64, buffers);
            buffers.free_all(frame.packets_mut());
        }
        #[expect(unsafe_code, reason = "poll(2) borrows the queue's descriptor")]
        // JUSTIFICATION: `Queue::readable` gives a plain number.
        // SAFETY: the queue owns the descriptor and outlives this use.
        let fd = unsafe { BorrowedFd::borrow_raw(queue.readable().expect("a descriptor")) };
        poll(
            &mut [PollFd::new(fd, PollFlags::POLLIN)],
            PollTimeout::from(20u8),
        ) == Ok(0)
    };
    assert_eq!(send_ours(&mut *queue, &mut buffers), 0);
    lab.router.ip("link set r down");
    assert!(quiet(&mut *queue, &mut buffers), "down");
    assert_eq!(send_ours(&mut *queue, &mut buffers), 1);
    lab.router.ip("link set r up");
    assert_eq!(send_ours(&mut *queue, &mut buffers), 1);
    let raw = lab.raw();
    send(raw.as_raw_fd(), &frame(4, 200), MsgFlags::empty()).expect("room");
    assert_eq!(receive_one(&mut *queue, &mut buffers), frame(4, 200));
    // A long packet right behind the error: it must come, and the next one too.
    lab.router.ip("link set r down");
    lab.router.ip("link set r up");
    for number in [5, 6] {
        send(raw.as_raw_fd(), &frame(number, 1514), MsgFlags::empty()).expect("room");
        assert_eq!(receive_one(&mut *queue, &mut buffers), frame(number, 1514));
    }
    lab.router.ip("link del r");
    assert!(quiet(&mut *queue, &mut buffers), "deleted");
    assert_eq!(send_ours(&mut *queue, &mut buffers), 2);
    assert_eq!(queue.counters().rx_dropped, 0);
    drop((queue, buffers));
    lab.finish();
}

#[test]
fn a_full_ring_loses_counted_packets_and_goes_on() {
    let Some(lab) = Lab::new(1500) else { return };
    for ring in [
        RingKind::Frames {
            count: 32,
            bytes: None,
        },
        RingKind::Blocks {
            count: 2,
            bytes: 131_072,
            retire_ms: 1,
        },
    ] {
        let mut queue = lab.open(ring);
        let mut buffers = lab.pool.cache();
        let raw = lab.raw();
        for number in 0..2000 {
            send(raw.as_raw_fd(), &frame(number, 1000), MsgFlags::empty()).expect("room");
        }
        let mut received = 0;
        until("the counters to explain every packet", || {
            let mut frame = Frame::new();
            received += queue.rx(&mut frame, 64, &mut buffers) as u64;
            buffers.free_all(frame.packets_mut());
            received + queue.counters().rx_missed == 2000
        });
        assert!(queue.counters().rx_missed > 0 && received >= 32, "{ring:?}");
        send(raw.as_raw_fd(), &frame(7777, 1000), MsgFlags::empty()).expect("room");
        assert_eq!(receive_one(&mut *queue, &mut buffers), frame(7777, 1000));
        drop((queue, buffers));
    }
    lab.finish();
}

#[test]
fn an_exhausted_pool_drops_counted_packets_and_goes_on() {
    let Some(mut lab) = Lab::new(9000) else {
        return;
    };
    lab.pool = Pool::new(8, Pages::Transparent).expect("memory");
    let mut queue = lab.open(FRAMES);
    let mut buffers = lab.pool.cache();
    let raw = lab.raw();
    // Five buffers each: the second long one finds three.
    for (number, length) in [(1, 9014), (2, 9014), (3, 60), (4, 60)] {
        send(raw.as_raw_fd(), &frame(number, length), MsgFlags::empty()).expect("room");
    }
    let mut frame_held = Frame::new();
    until("all packets", || {
        queue.rx(&mut frame_held, 64, &mut buffers);
        frame_held.len() as u64 + queue.counters().rx_dropped == 4
    });
    let numbers: Vec<u8> = frame_held
        .packets()
        .iter()
        .map(|packet| buffers.bytes(packet)[17])
        .collect();
    assert_eq!(numbers, [1, 3, 4]);
    let held: Vec<_> = std::iter::from_fn(|| buffers.alloc()).collect();
    for number in 5..9 {
        send(
            raw.as_raw_fd(),
            &frame(number, if number == 6 { 5000 } else { 60 }),
            MsgFlags::empty(),
        )
        .expect("room");
    }
    until("all packets", || {
        assert_eq!(queue.rx(&mut frame_held, 64, &mut buffers), 0);
        queue.counters().rx_dropped == 5
    });
    held.into_iter().for_each(|packet| buffers.free(packet));
    buffers.free_all(frame_held.packets_mut());
    send(raw.as_raw_fd(), &frame(9, 9014), MsgFlags::empty()).expect("room");
    assert_eq!(receive_one(&mut *queue, &mut buffers), frame(9, 9014));
    drop((queue, buffers, frame_held));
    lab.finish();
}

#[test]
fn packets_that_the_device_refuses_are_counted() {
    let Some(lab) = Lab::new(1500) else { return };
    let mut queue = lab.open(FRAMES);
    let mut buffers = lab.pool.cache();
    let raw = lab.raw();
    let nonsense = Offload {
        segmentation: Segmentation::Tcp4,
        checksum: true,
        segment_size: 100,
        checksum_start: 60_000,
        checksum_field: 1,
        ecn: true,
    };
    let mut packets = [frame(1, 1600), frame(2, 60), frame(3, 60), vec![1; 5]]
        .map(|bytes| buffers.copy_from(&bytes).expect("buffers"));
    buffers.set_offload(&mut packets[1], Some(nonsense));
    assert_eq!(queue.tx(&mut packets, &mut buffers), 4);
    queue.flush(&mut buffers);
    assert_eq!((queue.counters().tx_failed, queue.pending()), (3, false));
    let mut got = vec![0; 2000];
    assert_eq!(recv(raw.as_raw_fd(), &mut got, MsgFlags::empty()), Ok(60));
    assert_eq!(got[..60], frame(3, 60));
    // More than a queue takes at a time.
    let mut many: Vec<_> = (0..1000)
        .map(|number| buffers.copy_from(&frame(number, 60)).expect("buffers"))
        .collect();
    let taken = queue.tx(&mut many, &mut buffers);
    assert!((1..=256).contains(&taken) && many[..taken].iter().all(|packet| packet.is_none()));
    buffers.free_all(&mut many);
    // Dropped with packets waiting: they go back to the pool.
    drop((queue, buffers));
    lab.finish();
}

/// The worker that owns the flow of a UDP packet over IPv4.
fn owner(frame: &[u8], workers: u16) -> WorkerId {
    let word = |at: usize| {
        frame[at..at + 4]
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte))
    };
    let (from, to, ports) = (word(26), word(30), word(34));
    let (a, b) = ((ports >> 16) as u16, ports as u16);
    let ports = u32::from(a ^ b) << 16 | u32::from(a.wrapping_add(b));
    owner_of([from ^ to, from.wrapping_add(to), ports], workers)
}

#[test]
fn several_queues_keep_flows_together() {
    let Some(lab) = Lab::new(1500) else { return };
    lab.host.ip("addr add 10.7.0.1/24 dev host0");
    lab.host
        .ip("neigh add 10.7.0.9 lladdr 02:00:00:00:00:09 dev host0");
    for (ring, mode) in [(FRAMES, FanoutMode::Hash), (BLOCKS, FanoutMode::Owner)] {
        let config = AfPacketConfig {
            queues: 2,
            ring,
            fanout: Fanout {
                mode,
                defragment: true,
                rollover: false,
            },
            ..AfPacketConfig::new("r")
        };
        let mut port = lab
            .router
            .enter(|| AfPacketPort::open(&config))
            .expect("a port");
        assert_eq!(port.queues.len(), 2);
        let mut buffers = lab.pool.cache();
        const FLOWS: usize = 64;
        lab.host.enter(|| {
            for flow in 0..FLOWS {
                let socket = udp("10.7.0.1:0");
                for _ in 0..3 {
                    socket
                        .send_to(&[flow as u8; 10], "10.7.0.9:7")
                        .expect("sent");
                }
            }
        });
        let mut seen = [[0; FLOWS]; 2];
        until("every packet", || {
            for (number, (queue, seen)) in port.queues.iter_mut().zip(&mut seen).enumerate() {
                let mut frame = Frame::new();
                queue.rx(&mut frame, 64, &mut buffers);
                for packet in frame.packets() {
                    let bytes = buffers.bytes(packet);
                    seen[usize::from(bytes[42])] += 1;
                    if mode == FanoutMode::Owner {
                        assert_eq!(usize::from(owner(bytes, 2).0), number);
                    }
                }
                buffers.free_all(frame.packets_mut());
            }
            seen.iter().flatten().sum::<u32>() == 3 * FLOWS as u32
        });
        for (flow, counts) in seen[0].iter().zip(&seen[1]).enumerate() {
            assert!(matches!(counts, (3, 0) | (0, 3)), "flow {flow}: {counts:?}");
        }
        assert!(
            seen.iter()
                .all(|queue| queue.iter().any(|count| *count > 0)),
            "both queues take part"
        );
        // What we send on one queue comes back on neither.
        let mut packet = [buffers.copy_from(&frame(1, 60)).expect("buffers")];
        port.queues[0].tx(&mut packet, &mut buffers);
        port.queues[0].flush(&mut buffers);
        thread::sleep(Duration::from_millis(20));
        assert!(
            port.queues
                .iter_mut()
                .all(|queue| queue.rx(&mut Frame::new(), 64, &mut buffers) == 0)
        );
        drop((port, buffers));
    }
    lab.finish();
}

#[test]
fn wrong_configurations_are_refused_with_what_to_do() {
    let Some(lab) = Lab::new(1500) else { return };
    let refuse = |config: AfPacketConfig| {
        let error: PortError = lab
            .router
            .enter(|| AfPacketPort::open(&config))
            .err()
            .expect("an error");
        error.to_string()
    };
    let text = refuse(AfPacketConfig::new("eth7"));
    assert!(
        text.contains("\"eth7\"") && text.contains("lo, r"),
        "{text}"
    );
    for name in ["", "a-name-that-is-too-long", "nul\0"] {
        assert!(refuse(AfPacketConfig::new(name)).contains("no network device"));
    }
    assert!(
        refuse(AfPacketConfig {
            queues: 0,
            ..AfPacketConfig::new("r")
        })
        .contains("queues: 0 is not in 1 to 64")
    );
    let ring = RingKind::Blocks {
        count: 8,
        bytes: 131_073,
        retire_ms: 1,
    };
    assert!(
        refuse(AfPacketConfig {
            ring,
            ..AfPacketConfig::new("r")
        })
        .contains("not a multiple of 4096")
    );
    lab.router.ip("tuntap add mode tun name t0");
    assert!(refuse(AfPacketConfig::new("t0")).contains("does not carry Ethernet"));
    let info = lab
        .router
        .enter(|| AfPacketPort::open(&AfPacketConfig::new("r")))
        .expect("a port")
        .info;
    assert_eq!(
        (info.mtu, info.capabilities.max_frame, info.mac == [0; 6]),
        (1500, 1518, false)
    );
    let denied = lab.router.enter(|| {
        // An ordinary user, on this thread alone (the raw call: libc's changes all threads).
        #[expect(unsafe_code, reason = "nix changes the user of the whole process")]
        // JUSTIFICATION: only the raw system call changes one thread.
        // SAFETY: the call takes no pointers.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        assert_eq!(result, 0);
        AfPacketPort::open(&AfPacketConfig::new("r"))
            .err()
            .expect("an error")
            .to_string()
    });
    assert!(denied.contains("CAP_NET_RAW"), "{denied}");
    lab.finish();
}
