//! The system calls of a packet socket, each behind a safe function.
#![expect(
    unsafe_code,
    reason = "packet sockets have no safe interface in std; every call is wrapped here"
)]

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use dataplane::{Buffers, Descriptor};

use super::vnet::VnetHeader;

/// What the kernel says about a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Device {
    pub(super) ifindex: u32,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    /// `ARPHRD_…` of `<linux/if_arp.h>`.
    pub(super) hardware: u16,
    /// Up and with a carrier.
    pub(super) up: bool,
}

/// A packet that came through the socket's queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    /// Bytes of packet stored.
    pub(super) length: usize,
    pub(super) header: VnetHeader,
    /// The tag that the kernel took out of the frame: protocol identifier and control information.
    pub(super) vlan: Option<(u16, u16)>,
    /// The packet was longer than the room for it.
    pub(super) truncated: bool,
}

/// A non-blocking packet socket (`AF_PACKET`, `SOCK_RAW`).
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// A socket that receives nothing until [`Socket::bind`].
    pub(super) fn new() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // JUSTIFICATION: std has no packet sockets.
        // SAFETY: the call takes no pointers.
        let fd = checked(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // JUSTIFICATION: wraps the descriptor so that it is closed.
        // SAFETY: the descriptor was just made and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Sets an option whose value is plain data of the type that the kernel expects for it.
    fn set<T: Copy>(&self, level: c_int, name: c_int, value: &T) -> io::Result<()> {
        // JUSTIFICATION: std has no setsockopt.
        // SAFETY: pointer and length describe `value`, which lives for the call; the kernel only reads it.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        checked(result).map(drop)
    }

    /// Reads an option of plain data: `T` is an integer or a C struct of integers.
    fn option<T: Copy>(&self, level: c_int, name: c_int, mut value: T) -> io::Result<T> {
        let mut length = size_of::<T>() as libc::socklen_t;
        // JUSTIFICATION: std has no getsockopt.
        // SAFETY: pointer and length describe `value`, which lives for the call; the kernel writes at most `length` bytes,
        // and every bit pattern is a valid T (integers only, see above).
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_mut(&mut value).cast(),
                &raw mut length,
            )
        };
        checked(result).map(|_| value)
    }

    /// Sets an integer option of packet sockets.
    pub(super) fn set_packet(&self, name: c_int, value: c_int) -> io::Result<()> {
        self.set(libc::SOL_PACKET, name, &value)
    }

    /// Asks for a receive ring with fixed frames (versions 1 and 2).
    pub(super) fn set_ring(&self, request: &libc::tpacket_req) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_RX_RING, request)
    }

    /// Asks for a receive ring with blocks (version 3).
    pub(super) fn set_block_ring(&self, request: &libc::tpacket_req3) -> io::Result<()> {
        self.set(libc::SOL_PACKET, libc::PACKET_RX_RING, request)
    }

    /// Makes room for `bytes` of waiting packets in a direction, as far as we may; returns what the kernel gives (it counts its
    /// own overhead too and so doubles the number).
    pub(super) fn set_room(&self, direction: Direction, bytes: u32) -> io::Result<u32> {
        let (force, ask) = match direction {
            Direction::Receive => (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            Direction::Send => (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        };
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        if self.set(libc::SOL_SOCKET, force, &bytes).is_err() {
            self.set(libc::SOL_SOCKET, ask, &bytes)?;
        }
        let room: c_int = self.option(libc::SOL_SOCKET, ask, 0)?;
        Ok(room.max(0) as u32)
    }

    /// Receives frames for any address, not only the device's own.
    pub(super) fn set_promiscuous(&self, ifindex: u32) -> io::Result<()> {
        // JUSTIFICATION: libc's struct has no other constructor.
        // SAFETY: zero is a valid value of every field (integers).
        let mut request: libc::packet_mreq = unsafe { zeroed() };
        request.mr_ifindex = ifindex as c_int;
        request.mr_type = libc::PACKET_MR_PROMISC as u16;
        self.set(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Begins to receive every frame of the device.
    pub(super) fn bind(&self, ifindex: u32) -> io::Result<()> {
        // JUSTIFICATION: libc's struct has no other constructor.
        // SAFETY: zero is a valid value of every field (integers).
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as c_int;
        // JUSTIFICATION: std binds internet addresses only.
        // SAFETY: pointer and length describe `address`, which lives for the call; the kernel only reads it.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        checked(result).map(drop)
    }

    /// Lets the kernel throw away every packet for this socket, or ends that.
    pub(super) fn set_deaf(&self, deaf: bool) -> io::Result<()> {
        if !deaf {
            return self.set(libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0);
        }
        // "Keep 0 bytes", in classic BPF.
        let mut program = libc::sock_filter {
            code: (libc::BPF_RET | libc::BPF_K) as u16,
            jt: 0,
            jf: 0,
            k: 0,
        };
        let program = libc::sock_fprog {
            len: 1,
            filter: &raw mut program,
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
    }

    /// The group that this socket shares its packets with, as [`Socket::set_packet`] with `PACKET_FANOUT` takes it.
    pub(super) fn fanout_group(&self) -> io::Result<u16> {
        let value: c_int = self.option(libc::SOL_PACKET, libc::PACKET_FANOUT, 0)?;
        Ok(value as u16)
    }

    /// The program that tells for the socket's group which of its sockets a packet is for.
    pub(super) fn set_fanout_program(&self, program: &mut [libc::sock_filter]) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: program.len() as libc::c_ushort,
            filter: program.as_mut_ptr(),
        };
        self.set(libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, &program)
    }

    /// Packets that found the ring full since the last call.
    pub(super) fn take_missed(&self) -> u64 {
        // The third number belongs to version 3: the kernel writes as much as there is.
        self.option(libc::SOL_PACKET, libc::PACKET_STATISTICS, [0u32; 3])
            .map_or(0, |[_, drops, _]| u64::from(drops))
    }

    /// The error that waits on the socket, which is forgotten by this: while it waits, poll(2) returns at once.
    pub(super) fn take_error(&self) -> Option<io::Error> {
        let error: c_int = self.option(libc::SOL_SOCKET, libc::SO_ERROR, 0).ok()?;
        (error != 0).then(|| io::Error::from_raw_os_error(error))
    }

    /// Asks the kernel about a device of the network namespace that the socket was made in. `None`: there is none.
    pub(super) fn device(&self, name: &str) -> io::Result<Option<Device>> {
        let Ok(name) = CString::new(name) else {
            return Ok(None);
        };
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let ask = |request: libc::Ioctl| -> io::Result<libc::ifreq> {
            // JUSTIFICATION: libc's struct has no other constructor.
            // SAFETY: zero is a valid value of every field (integers and pointers).
            let mut value: libc::ifreq = unsafe { zeroed() };
            for (to, from) in value.ifr_name.iter_mut().zip(bytes) {
                *to = *from as libc::c_char;
            }
            // JUSTIFICATION: std has no ioctl.
            // SAFETY: these requests read and write one `ifreq`, which lives for the call.
            checked(unsafe { libc::ioctl(self.fd.as_raw_fd(), request, &raw mut value) })?;
            Ok(value)
        };
        let index = match ask(libc::SIOCGIFINDEX) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            other => other?,
        };
        let (address, mtu) = (ask(libc::SIOCGIFHWADDR)?, ask(libc::SIOCGIFMTU)?);
        let flags = ask(libc::SIOCGIFFLAGS)?;
        // JUSTIFICATION: the kernel answers in a union.
        // SAFETY: each request fills the member that is read here; all of them are plain integers.
        let (index, mtu, address, flags) = unsafe {
            (
                index.ifr_ifru.ifru_ifindex,
                mtu.ifr_ifru.ifru_mtu,
                address.ifr_ifru.ifru_hwaddr,
                flags.ifr_ifru.ifru_flags,
            )
        };
        let up = libc::IFF_UP as libc::c_short | libc::IFF_RUNNING as libc::c_short;
        Ok(Some(Device {
            ifindex: index as u32,
            mac: std::array::from_fn(|i| address.sa_data[i] as u8),
            mtu: mtu.max(0) as u32,
            hardware: address.sa_family,
            up: flags & up == up,
        }))
    }

    /// Whether a device of the socket's network namespace joins received segments into trains.
    ///
    /// # Errors
    /// The kernel's: no such device, or one without the setting.
    pub(super) fn gro(&self, device: &str) -> io::Result<bool> {
        const ETHTOOL_GGRO: u32 = 0x2b;
        self.ethtool(device, [ETHTOOL_GGRO, 0])
            .map(|[_, on]| on != 0)
    }

    /// Changes what [`Socket::gro`] tells.
    ///
    /// # Errors
    /// As there, and where the process may not.
    pub(super) fn set_gro(&self, device: &str, on: bool) -> io::Result<()> {
        const ETHTOOL_SGRO: u32 = 0x2c;
        self.ethtool(device, [ETHTOOL_SGRO, on.into()]).map(drop)
    }

    /// A command on one `struct ethtool_value` (command, data) of `<linux/ethtool.h>`; what the kernel made of it.
    fn ethtool(&self, device: &str, mut value: [u32; 2]) -> io::Result<[u32; 2]> {
        const SIOCETHTOOL: libc::Ioctl = 0x8946;
        let name = device.as_bytes();
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // JUSTIFICATION: libc's struct has no other constructor.
        // SAFETY: zero is a valid value of every field (integers and pointers).
        let mut request: libc::ifreq = unsafe { zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // JUSTIFICATION: std has no ioctl.
        // SAFETY: both structs live for the call; the commands given here read and write the two words of `value` only.
        checked(unsafe { libc::ioctl(self.fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) })?;
        Ok(value)
    }

    /// Receives one packet into the parts, which are filled to their length in turn.
    ///
    /// # Errors
    /// The kernel's; `WouldBlock` where no packet waits.
    pub(super) fn receive(
        &self,
        scratch: &mut Scratch,
        parts: &mut [Descriptor],
        buffers: &Buffers,
    ) -> io::Result<Received> {
        let mut header = [0u8; VnetHeader::SIZE];
        // Room for one control message with `tpacket_auxdata`, aligned like `cmsghdr`.
        let mut control = [0u64; 8];
        scratch.iovecs.clear();
        scratch.iovecs.push(libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: header.len(),
        });
        for part in parts {
            let bytes = buffers.bytes_mut(part);
            scratch.iovecs.push(libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            });
        }
        // JUSTIFICATION: libc's struct has private padding on some targets.
        // SAFETY: zero is a valid value of every field (integers and null pointers).
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = scratch.iovecs.as_mut_ptr();
        message.msg_iovlen = scratch.iovecs.len() as _;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // JUSTIFICATION: std has no scattered receive for packet sockets.
        // SAFETY: the message points to vectors over `header` and over the parts' bytes, which are borrowed mutably and are
        // disjoint since each descriptor owns its buffer, and to `control`; all live for the call, lengths are theirs.
        let length = unsafe {
            libc::recvmsg(
                self.fd.as_raw_fd(),
                &raw mut message,
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
            )
        };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        let room: usize = scratch.iovecs.iter().map(|vector| vector.iov_len).sum();
        Ok(Received {
            length: (length as usize).min(room).saturating_sub(header.len()),
            header: VnetHeader::parse(&header),
            vlan: vlan_of(&message),
            truncated: length as usize > room,
        })
    }

    /// Sends packets from the front of the slice, each behind its header; returns how many the kernel took, at least one.
    ///
    /// # Errors
    /// The kernel's, about the first packet.
    pub(super) fn send(
        &self,
        scratch: &mut Scratch,
        packets: &[Descriptor],
        buffers: &Buffers,
        header_of: impl Fn(&Descriptor) -> VnetHeader,
    ) -> io::Result<usize> {
        scratch.iovecs.clear();
        scratch.headers.clear();
        scratch.messages.clear();
        scratch
            .headers
            .extend(packets.iter().map(|packet| header_of(packet).emit()));
        for (packet, header) in packets.iter().zip(&scratch.headers) {
            let begin = scratch.iovecs.len();
            let vector = |bytes: &[u8]| libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            scratch.iovecs.push(vector(header));
            scratch.iovecs.extend(buffers.segments(packet).map(vector));
            // JUSTIFICATION: libc's struct has private padding on some targets.
            // SAFETY: zero is a valid value of every field (integers and null pointers).
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iovlen = (scratch.iovecs.len() - begin) as _;
            scratch.messages.push(message);
        }
        // The vectors lie still only now.
        let mut at = 0;
        for message in &mut scratch.messages {
            let count = message.msg_hdr.msg_iovlen;
            message.msg_hdr.msg_iov = scratch.iovecs[at..at + count].as_mut_ptr();
            at += count;
        }
        // JUSTIFICATION: std has no sendmmsg.
        // SAFETY: each message points to its vectors in `scratch.iovecs`, which is not touched until the call returns; those
        // point to `scratch.headers`, likewise untouched, and to bytes of packets that are borrowed for the call. The
        // kernel only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                scratch.messages.as_mut_ptr(),
                scratch.messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        checked(sent).map(|sent| sent as usize)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// A direction of a socket's own memory.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Receive,
    Send,
}

/// Memory for the arguments of system calls, kept so that calls do not allocate. Holds nothing between them.
#[derive(Default)]
pub(super) struct Scratch {
    iovecs: Vec<libc::iovec>,
    headers: Vec<[u8; VnetHeader::SIZE]>,
    messages: Vec<libc::mmsghdr>,
}

// JUSTIFICATION: the vectors' elements hold raw pointers, which are not Send.
// SAFETY: every call of `Socket::send` and `Socket::receive` clears them first and nothing reads a pointer that an earlier
// call left behind.
unsafe impl Send for Scratch {}

/// Names of the devices in this network namespace, for error messages.
pub(super) fn device_names() -> Vec<String> {
    let mut names = Vec::new();
    // JUSTIFICATION: std cannot list devices, and /sys may show another namespace's.
    // SAFETY: the call returns null or an array that ends with an entry whose name is null; each name is a C string; both are
    // given back by `if_freenameindex` below and not used after it.
    unsafe {
        let list = libc::if_nameindex();
        let mut entry = list;
        while !entry.is_null() && !(*entry).if_name.is_null() {
            names.push(
                CStr::from_ptr((*entry).if_name)
                    .to_string_lossy()
                    .into_owned(),
            );
            entry = entry.add(1);
        }
        if !list.is_null() {
            libc::if_freenameindex(list);
        }
    }
    names
}

/// The kernel's major and minor version; 0.0 where it cannot be read.
pub(super) fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The tag that the kernel reports beside a received packet.
fn vlan_of(message: &libc::msghdr) -> Option<(u16, u16)> {
    // JUSTIFICATION: control messages are laid out by C macros.
    // SAFETY: `message` was filled by recvmsg over a control buffer that still lives; the macros return null or a header inside
    // it. The data is copied out unaligned, and only where the header says that the whole struct is there.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(message);
        while !at.is_null() {
            let wanted = libc::CMSG_LEN(size_of::<libc::tpacket_auxdata>() as u32) as usize;
            if (*at).cmsg_level == libc::SOL_PACKET
                && (*at).cmsg_type == libc::PACKET_AUXDATA
                && (*at).cmsg_len as usize >= wanted
            {
                let data: libc::tpacket_auxdata = libc::CMSG_DATA(at)
                    .cast::<libc::tpacket_auxdata>()
                    .read_unaligned();
                return super::ring::vlan(data.tp_status, data.tp_vlan_tci, data.tp_vlan_tpid);
            }
            at = libc::CMSG_NXTHDR(message, at);
        }
    }
    None
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
