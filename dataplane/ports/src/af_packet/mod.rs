//! AF_PACKET ports: any Linux network device, through packet sockets and a receive ring that the kernel shares with us.
//!
//! ```text
//!                      ┌ ≤ a ring frame ── ring ───────── one copy into a buffer ───────────┐
//!  device ─► socket ───┤                                                                    ├─► Frame
//!                      └ longer ────────── socket queue ─ recvmsg into a chain of buffers ──┘   (version 2)
//!  Frame ─► sendmmsg straight from the buffers ─► device
//! ```
//!
//! Every packet carries a virtio-net header, so that trains of segments and packets whose checksum is still open cross
//! as they are ([`dataplane::Offload`]). Tags that the kernel takes out of received frames are put back.
//!
//! Source: packet(7), the kernel's `Documentation/networking/packet_mmap.rst`, virtio 1.2 section 5.1.6.

mod error;
mod gro;
mod queue;
mod ring;
mod steering;
mod sys;
mod vnet;

use std::io;
use std::sync::Arc;

use dataplane::{PortCapabilities, Queue};

pub use error::PortError;

use gro::Gro;
use queue::AfPacketQueue;
use ring::{BlockRing, FrameRing, Ring};
use sys::{Direction, Socket};

/// How a port is opened. `AfPacketConfig::new(device)` gives what most want.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AfPacketConfig {
    /// Name of the device in the network namespace of the calling thread.
    pub device: String,
    /// Receive and transmit queues, 1 to 64. With more than one, packets are spread by [`AfPacketConfig::fanout`].
    pub queues: u16,
    /// The kind of receive ring.
    pub ring: RingKind,
    /// Packets that a queue takes for sending at a time; what the device does not accept at once waits there.
    pub tx_packets: u16,
    /// Bytes of packets longer than a ring frame that may wait on a queue's socket, the kernel's overhead included. More than
    /// `net.core.rmem_max` needs CAP_NET_ADMIN in the initial user namespace.
    pub receive_bytes: u32,
    /// Bytes that may be on their way to the device per queue; with the same limit.
    pub send_bytes: u32,
    /// Sends past the device's queueing discipline.
    pub qdisc_bypass: bool,
    /// Receives frames for any link-layer address.
    pub promiscuous: bool,
    /// How several queues share the packets.
    pub fanout: Fanout,
    /// Says in [`PortInfo::capabilities`] that the port takes open checksums and trains. Where it does not, the graph finishes
    /// packets in software before they are sent; received packets are not affected.
    pub offloads: bool,
    /// Lets the kernel join received segments into trains before we see them (the device's generic receive offload): on a veth
    /// whose peer sends single segments, one train then crosses the graph in place of forty packets. The device's own setting
    /// returns when the port is closed; a device that cannot change it is left as it is.
    pub gro: bool,
}

impl AfPacketConfig {
    /// One queue with a ring of version 2, offloads and GRO on, queueing discipline bypassed.
    pub fn new(device: impl Into<String>) -> Self {
        Self {
            device: device.into(),
            queues: 1,
            ring: RingKind::default(),
            tx_packets: 256,
            receive_bytes: 16 << 20,
            send_bytes: 8 << 20,
            qdisc_bypass: true,
            promiscuous: true,
            fanout: Fanout::default(),
            offloads: true,
            gro: true,
        }
    }
}

/// The kinds of receive ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingKind {
    /// `TPACKET_V2`: each packet is handed over, and wakes a sleeper, by itself.
    Frames {
        /// Packets in the ring, 8 to 65536.
        count: u32,
        /// Bytes of a ring frame, about 80 of them overhead: 256 to 131072, rounded up to a multiple of 16. Longer packets
        /// come through the socket's queue. `None`: 2048, or long enough for every packet where the kernel refuses
        /// [`AfPacketConfig::receive_bytes`] and long packets would be lost.
        bytes: Option<u32>,
    },
    /// `TPACKET_V3`: packets are handed over in blocks, when a block is full or its time is over.
    Blocks {
        /// Blocks in the ring, 2 to 4096.
        count: u32,
        /// Bytes of a block: 131072 (room for any packet) to 4194304, a multiple of 4096.
        bytes: u32,
        /// Milliseconds (at least 1) after which a block that is not full is handed over.
        retire_ms: u32,
    },
}

impl RingKind {
    /// `TPACKET_V3` in a usual size.
    pub fn v3() -> Self {
        Self::Blocks {
            count: 16,
            bytes: 512 << 10,
            retire_ms: 1,
        }
    }
}

impl Default for RingKind {
    fn default() -> Self {
        Self::Frames {
            count: 4096,
            bytes: None,
        }
    }
}

/// How the kernel spreads packets over the queues of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fanout {
    /// What decides about a packet's queue.
    pub mode: FanoutMode,
    /// Puts IPv4 fragments together first, so that they follow their flow. The packets then arrive whole, maybe longer than the
    /// device's MTU.
    pub defragment: bool,
    /// Gives a packet to the next queue when its own is full.
    pub rollover: bool,
}

impl Default for Fanout {
    fn default() -> Self {
        Self {
            mode: FanoutMode::Owner,
            defragment: false,
            rollover: false,
        }
    }
}

/// What decides about a packet's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FanoutMode {
    /// The worker that owns the flow ([`dataplane::owner_of`]), whose number is the queue's: both directions of a flow meet on one
    /// queue of whatever port, and nothing has to be handed over to another worker.
    Owner,
    /// The kernel's own symmetric hash of the flow: both directions of a flow meet on one queue.
    Hash,
    /// The processor that received the packet.
    Cpu,
    /// The device's receive queue.
    DeviceQueue,
    /// One after the other: spreads well and reorders flows.
    RoundRobin,
}

/// What is known about an open port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortInfo {
    /// The device's name.
    pub device: String,
    /// The device's number in its network namespace.
    pub ifindex: u32,
    /// The device's Ethernet address.
    pub mac: [u8; 6],
    /// The longest layer-3 packet of the device, in bytes, when it was opened.
    pub mtu: u32,
    /// What the port carries. `max_frame` counts one VLAN tag, which the kernel allows on top of the MTU; an untagged frame may
    /// have 4 bytes fewer, longer ones are refused by the kernel and counted as `tx_failed`.
    pub capabilities: PortCapabilities,
}

/// An open port: its queues are for the workers, one each.
pub struct AfPacketPort {
    /// What is known about it.
    pub info: PortInfo,
    /// Its queues. The port is closed when all of them are dropped.
    pub queues: Vec<Box<dyn Queue>>,
}

impl AfPacketPort {
    /// Opens a device of the calling thread's network namespace. The queues stay with that namespace and may move to any
    /// thread.
    ///
    /// # Errors
    /// [`PortError`] says what is wrong and what to do.
    pub fn open(config: &AfPacketConfig) -> Result<Self, PortError> {
        check(config)?;
        let failed = |step: &'static str| {
            let device = config.device.clone();
            move |error: io::Error| PortError::of(device, step, error)
        };
        let first = Socket::new().map_err(failed("make a packet socket"))?;
        let device = first
            .device(&config.device)
            .map_err(failed("ask for the device's properties"))?
            .ok_or_else(|| PortError::NoDevice {
                device: config.device.clone(),
                present: sys::device_names(),
            })?;
        if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&device.hardware) {
            return Err(PortError::NotEthernet {
                device: config.device.clone(),
                hardware: device.hardware,
            });
        }
        let mut sockets = vec![first];
        while sockets.len() < usize::from(config.queues) {
            sockets.push(Socket::new().map_err(failed("make a packet socket"))?);
        }
        let mut rings = Vec::with_capacity(sockets.len());
        for socket in &sockets {
            rings.push(prepare(socket, config, device.ifindex, &failed)?);
        }
        if let [only] = &sockets[..] {
            only.bind(device.ifindex)
                .map_err(failed("bind to the device"))?;
        } else {
            join(&sockets, config.fanout, device.ifindex, &failed)?;
        }
        let gro = Gro::set(&config.device, config.gro).map(Arc::new);
        let queues = sockets
            .into_iter()
            .zip(rings)
            .map(|(socket, ring)| {
                let queue =
                    AfPacketQueue::new(socket, ring, usize::from(config.tx_packets), gro.clone());
                Box::new(queue) as Box<dyn Queue>
            })
            .collect();
        let info = PortInfo {
            device: config.device.clone(),
            ifindex: device.ifindex,
            mac: device.mac,
            mtu: device.mtu,
            capabilities: PortCapabilities {
                checksum: config.offloads,
                tcp4_segmentation: config.offloads,
                tcp6_segmentation: config.offloads,
                // Since then the virtio-net header of packet sockets knows trains of datagrams.
                udp_segmentation: config.offloads && sys::kernel_version() >= (6, 2),
                max_frame: device.mtu.saturating_add(18),
            },
        };
        Ok(Self { info, queues })
    }
}

/// Whether a device of the calling thread's network namespace is up and has a carrier; `None` where it is not there or the
/// kernel does not say.
pub fn link_up(device: &str) -> Option<bool> {
    let facts = Socket::new().ok()?.device(device).ok()??;
    Some(facts.up)
}

/// Refuses numbers out of range.
fn check(config: &AfPacketConfig) -> Result<(), PortError> {
    let within = |field, value: u32, low: u32, high: u32| {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(PortError::Config {
            field,
            problem: format!("{value} is not in {low} to {high}"),
        })
    };
    within("queues", config.queues.into(), 1, 64)?;
    within("tx_packets", config.tx_packets.into(), 1, 1024)?;
    match config.ring {
        RingKind::Frames { count, bytes } => {
            within("ring.count", count, 8, 65_536)?;
            within("ring.bytes", bytes.unwrap_or(2048), 256, 131_072)
        }
        RingKind::Blocks {
            count,
            bytes,
            retire_ms,
        } => {
            within("ring.count", count, 2, 4096)?;
            within("ring.bytes", bytes, 131_072, 4 << 20)?;
            within("ring.retire_ms", retire_ms, 1, 60_000)?;
            if bytes % 4096 != 0 {
                return Err(PortError::Config {
                    field: "ring.bytes",
                    problem: format!("{bytes} is not a multiple of 4096"),
                });
            }
            Ok(())
        }
    }
}

/// Gives a socket its options and its ring: all that must be there before it is bound.
fn prepare<F: FnOnce(io::Error) -> PortError>(
    socket: &Socket,
    config: &AfPacketConfig,
    ifindex: u32,
    failed: &impl Fn(&'static str) -> F,
) -> Result<Ring, PortError> {
    // The kernel refuses this one (EBUSY) when there is a ring.
    socket
        .set_packet(libc::PACKET_VNET_HDR, 1)
        .map_err(failed("ask for virtio-net headers"))?;
    socket
        .set_packet(libc::PACKET_AUXDATA, 1)
        .map_err(failed("ask for VLAN tags"))?;
    socket
        .set_packet(libc::PACKET_IGNORE_OUTGOING, 1)
        .map_err(failed("leave out sent packets"))?;
    if config.qdisc_bypass {
        socket
            .set_packet(libc::PACKET_QDISC_BYPASS, 1)
            .map_err(failed("bypass the queueing discipline"))?;
    }
    if config.promiscuous {
        socket
            .set_promiscuous(ifindex)
            .map_err(failed("receive frames for any address"))?;
    }
    let room = socket
        .set_room(Direction::Receive, config.receive_bytes)
        .map_err(failed("set the receive buffer's size"))?;
    socket
        .set_room(Direction::Send, config.send_bytes)
        .map_err(failed("set the send buffer's size"))?;
    match config.ring {
        RingKind::Frames { count, bytes } => {
            // Longer than the longest train of segments (65536 bytes) with its headers, and 15 of them fit a block.
            const ANY_PACKET: usize = 69_632;
            // Room for the trains that one TCP flow has on its way; with less, memory in the ring does better.
            const ENOUGH: u32 = 4 << 20;
            let (frames, bytes) = match bytes {
                Some(bytes) => (count as usize, (bytes as usize).next_multiple_of(16)),
                None if room >= config.receive_bytes.min(ENOUGH) => (count as usize, 2048),
                None => ((count as usize / 4).max(8), ANY_PACKET),
            };
            socket
                .set_packet(
                    libc::PACKET_VERSION,
                    libc::tpacket_versions::TPACKET_V2 as _,
                )
                .map_err(failed("choose TPACKET_V2"))?;
            socket
                .set_packet(libc::PACKET_COPY_THRESH, 1)
                .map_err(failed("queue packets longer than a ring frame"))?;
            FrameRing::new(socket, frames, bytes)
                .map(Ring::Frames)
                .map_err(failed("set up the receive ring"))
        }
        RingKind::Blocks {
            count,
            bytes,
            retire_ms,
        } => {
            socket
                .set_packet(
                    libc::PACKET_VERSION,
                    libc::tpacket_versions::TPACKET_V3 as _,
                )
                .map_err(failed("choose TPACKET_V3"))?;
            BlockRing::new(socket, count as usize, bytes as usize, retire_ms)
                .map(Ring::Blocks)
                .map_err(failed("set up the receive ring"))
        }
    }
}

/// Binds several sockets so that each packet arrives at exactly one of them.
fn join<F: FnOnce(io::Error) -> PortError>(
    sockets: &[Socket],
    fanout: Fanout,
    ifindex: u32,
    failed: &impl Fn(&'static str) -> F,
) -> Result<(), PortError> {
    let mode = match fanout.mode {
        FanoutMode::Owner => libc::PACKET_FANOUT_CBPF,
        FanoutMode::Hash => libc::PACKET_FANOUT_HASH,
        FanoutMode::Cpu => libc::PACKET_FANOUT_CPU,
        FanoutMode::DeviceQueue => libc::PACKET_FANOUT_QM,
        FanoutMode::RoundRobin => libc::PACKET_FANOUT_LB,
    };
    // `PACKET_FANOUT_FLAG_IGNORE_OUTGOING` of <linux/if_packet.h>: the group has its own hook, which does not look at the
    // sockets' option.
    const IGNORE_OUTGOING: u32 = 0x4000;
    let mut kind = mode | IGNORE_OUTGOING;
    if fanout.defragment {
        kind |= libc::PACKET_FANOUT_FLAG_DEFRAG;
    }
    if fanout.rollover {
        kind |= libc::PACKET_FANOUT_FLAG_ROLLOVER;
    }
    // Between binding and joining, a socket would receive every packet of the device.
    for socket in sockets {
        socket
            .set_deaf(true)
            .map_err(failed("hold back packets until all queues are there"))?;
        socket.bind(ifindex).map_err(failed("bind to the device"))?;
    }
    let mut group = 0;
    for (index, socket) in sockets.iter().enumerate() {
        let unique = if index == 0 {
            libc::PACKET_FANOUT_FLAG_UNIQUEID
        } else {
            0
        };
        let argument = u32::from(group) | (kind | unique) << 16;
        socket
            .set_packet(libc::PACKET_FANOUT, argument as libc::c_int)
            .map_err(failed("share packets between the queues"))?;
        if index == 0 {
            group = socket
                .fanout_group()
                .map_err(failed("share packets between the queues"))?;
        }
    }
    if fanout.mode == FanoutMode::Owner
        && let Some(socket) = sockets.first()
        && let Some(mut program) = steering::program(sockets.len() as u16)
    {
        socket
            .set_fanout_program(&mut program)
            .map_err(failed("tell the kernel which queue owns a flow"))?;
    }
    for socket in sockets {
        socket.set_deaf(false).map_err(failed("let packets in"))?;
    }
    Ok(())
}
