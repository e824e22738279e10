//! AF_PACKET sockets that carry whole frames with their offload state (packet(7), `struct virtio_net_hdr`).

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::socket_option::{enlarge_buffers, set_int};

const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const ETH_P_8021Q: u16 = 0x8100;

/// Room for the largest GSO packet (65535 bytes of IP) with its Ethernet header and tags.
pub(crate) const MAX_FRAME: usize = 65_536 + 64;
const SOCKET_BUFFER_BYTES: libc::c_int = 16 << 20;
/// cmsghdr (16) and tpacket_auxdata (20), padded to the alignment of a control message.
const CONTROL_WORDS: usize = 5;

/// Offload state of a frame: `struct virtio_net_hdr` in the machine's byte order, 10 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader(pub(crate) [u8; 10]);

impl VnetHeader {
    const NEEDS_CHECKSUM: u8 = 1;

    /// Whether the checksum at `checksum_start + offset` holds only the pseudo-header's sum.
    pub(crate) fn needs_checksum(self) -> bool {
        self.0[0] & Self::NEEDS_CHECKSUM != 0
    }

    /// Payload bytes per segment the packet is to be cut into; 0 when it is to be sent as it is.
    pub(crate) fn segment_bytes(self) -> u16 {
        if self.0[1] == 0 { 0 } else { self.word(4) }
    }

    /// The state of the same frame after `bytes` were put in behind the Ethernet addresses.
    /// `None` when an offset would leave the 16 bits it has.
    pub(crate) fn shifted(self, bytes: u16) -> Option<Self> {
        let mut shifted = self;
        // What the receiver has verified (DATA_VALID) means nothing to a sender.
        shifted.0[0] &= Self::NEEDS_CHECKSUM;
        if self.word(2) != 0 {
            shifted.set_word(2, self.word(2).checked_add(bytes)?);
        }
        if self.needs_checksum() {
            shifted.set_word(6, self.word(6).checked_add(bytes)?);
        }
        Some(shifted)
    }

    /// The state of the same frame after `bytes` were taken out behind the Ethernet addresses.
    /// `None` when the header is too short for that.
    pub(crate) fn unshifted(self, bytes: u16) -> Option<Self> {
        let mut shifted = self;
        shifted.0[0] &= Self::NEEDS_CHECKSUM;
        if self.word(2) != 0 {
            shifted.set_word(2, self.word(2).checked_sub(bytes)?);
        }
        if self.needs_checksum() {
            shifted.set_word(6, self.word(6).checked_sub(bytes)?);
        }
        Some(shifted)
    }

    fn word(self, at: usize) -> u16 {
        u16::from_ne_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
}

/// A VLAN tag that the kernel took off a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StrippedTag {
    /// 0x8100 or 0x88a8.
    pub(crate) tpid: u16,
    /// Priority, drop eligibility and VLAN id.
    pub(crate) tci: u16,
}

/// One received frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) offload: VnetHeader,
    /// The outermost tag, which is not in `bytes` any more.
    pub(crate) tag: Option<StrippedTag>,
    pub(crate) bytes: &'a [u8],
}

/// One frame to send, given in parts that are put together by the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) offload: VnetHeader,
    pub(crate) parts: [&'a [u8]; 3],
}

/// Buffers for receiving up to a fixed number of frames by one system call.
pub(crate) struct Batch {
    slots: Vec<Slot>,
    filled: usize,
}

struct Slot {
    offload: VnetHeader,
    control: [u64; CONTROL_WORDS],
    /// `MAX_FRAME` bytes.
    frame: Box<[u8]>,
    length: usize,
    control_length: usize,
    truncated: bool,
}

impl Batch {
    pub(crate) fn new(frames: usize) -> Self {
        let slot = || Slot {
            offload: VnetHeader::default(),
            control: [0; CONTROL_WORDS],
            frame: vec![0; MAX_FRAME].into_boxed_slice(),
            length: 0,
            control_length: 0,
            truncated: false,
        };
        Self {
            slots: std::iter::repeat_with(slot).take(frames).collect(),
            filled: 0,
        }
    }

    /// The frames of the last receive; `None` stands for one that did not fit its buffer.
    pub(crate) fn frames(&self) -> impl Iterator<Item = Option<Received<'_>>> {
        self.slots[..self.filled].iter().map(|slot| {
            let bytes = slot.frame.get(..slot.length).filter(|_| !slot.truncated)?;
            Some(Received {
                offload: slot.offload,
                tag: slot.tag(),
                bytes,
            })
        })
    }
}

impl Slot {
    /// Reads `struct tpacket_auxdata` from the control message, the only one asked for.
    fn tag(&self) -> Option<StrippedTag> {
        let mut bytes = [0; CONTROL_WORDS * 8];
        for (to, word) in bytes.chunks_exact_mut(8).zip(&self.control) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let int = |at: usize| {
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        // cmsghdr: 8 bytes of length, level, type; then status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
        let is_auxdata = self.control_length >= 36
            && int(8) == libc::SOL_PACKET as u32
            && int(12) == PACKET_AUXDATA as u32;
        let status = int(16);
        if !is_auxdata || status & TP_STATUS_VLAN_VALID == 0 {
            return None;
        }
        let tpid = if status & TP_STATUS_VLAN_TPID_VALID == 0 {
            ETH_P_8021Q
        } else {
            short(34)
        };
        Some(StrippedTag {
            tpid,
            tci: short(32),
        })
    }
}

/// A raw packet socket bound to one device: every frame that arrives there, whole, with its offload state.
pub(crate) struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket on device `name` of the calling thread's namespace. It never blocks.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(name)?;
        // Protocol 0: nothing is received before the options are set and the socket is bound.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        for option in [
            PACKET_VNET_HDR,
            PACKET_AUXDATA,
            PACKET_IGNORE_OUTGOING,
            PACKET_QDISC_BYPASS,
        ] {
            set_int(&fd, libc::SOL_PACKET, option, 1)?;
        }
        enlarge_buffers(&fd, SOCKET_BUFFER_BYTES);
        // JUSTIFICATION: nix builds no link-layer address from an index.
        // SAFETY: `sockaddr_ll` holds integers only, for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // JUSTIFICATION: as above.
        // SAFETY: pointer and length describe `address`, which the call only reads.
        let bound = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound == 0 {
            Ok(Self { fd })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Fills `batch` with what has arrived and returns how many frames that is; 0 when there is none.
    pub(crate) fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        const MAX: usize = 32;
        batch.filled = 0;
        let count = batch.slots.len().min(MAX);
        // JUSTIFICATION: std and nix have no safe recvmmsg with per-message control data.
        // SAFETY: `iovec` and `mmsghdr` hold integers and pointers, for which zeroes are valid.
        let (mut parts, mut messages): ([[libc::iovec; 2]; MAX], [libc::mmsghdr; MAX]) =
            unsafe { (zeroed(), zeroed()) };
        for ((slot, parts), message) in batch.slots.iter_mut().zip(&mut parts).zip(&mut messages) {
            parts[0].iov_base = slot.offload.0.as_mut_ptr().cast();
            parts[0].iov_len = slot.offload.0.len();
            parts[1].iov_base = slot.frame.as_mut_ptr().cast();
            parts[1].iov_len = slot.frame.len();
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len();
            message.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of_val(&slot.control);
        }
        // JUSTIFICATION: as above; one call for a burst is the point.
        // SAFETY: the first `count` headers point to buffers of the stated lengths inside `batch` and
        // to `parts`, all alive and not otherwise used during the call.
        let received = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        for (slot, message) in batch.slots.iter_mut().zip(&messages[..received]) {
            slot.length = (message.msg_len as usize).saturating_sub(slot.offload.0.len());
            slot.control_length = message.msg_hdr.msg_controllen;
            slot.truncated = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        }
        batch.filled = received;
        Ok(received)
    }

    /// Sends frames in order and returns how many were accepted. An error concerns the first of `frames`.
    pub(crate) fn send(&self, frames: &[Outgoing<'_>]) -> io::Result<usize> {
        const MAX: usize = 32;
        let count = frames.len().min(MAX);
        // JUSTIFICATION: std and nix have no safe sendmmsg over borrowed parts.
        // SAFETY: `iovec` and `mmsghdr` hold integers and pointers, for which zeroes are valid.
        let (mut parts, mut messages): ([[libc::iovec; 4]; MAX], [libc::mmsghdr; MAX]) =
            unsafe { (zeroed(), zeroed()) };
        for ((frame, parts), message) in frames.iter().zip(&mut parts).zip(&mut messages) {
            let slices = [
                &frame.offload.0[..],
                frame.parts[0],
                frame.parts[1],
                frame.parts[2],
            ];
            for (part, slice) in parts.iter_mut().zip(slices) {
                part.iov_base = slice.as_ptr().cast_mut().cast();
                part.iov_len = slice.len();
            }
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len();
        }
        // JUSTIFICATION: as above.
        // SAFETY: the first `count` headers point to `parts`, whose slices are borrowed from `frames`
        // across the call; sending only reads them.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::{Slot, StrippedTag, VnetHeader};

    fn header(
        flags: u8,
        gso: u8,
        header_length: u16,
        segment: u16,
        start: u16,
        offset: u16,
    ) -> VnetHeader {
        let mut bytes = [0; 10];
        bytes[0] = flags;
        bytes[1] = gso;
        for (at, value) in [(2, header_length), (4, segment), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        VnetHeader(bytes)
    }

    #[test]
    fn a_tag_moves_the_offsets_and_back() {
        let tcp = header(1, 1, 54, 1448, 34, 16);
        assert_eq!(tcp.shifted(4), Some(header(1, 1, 58, 1448, 38, 16)));
        assert_eq!(
            tcp.shifted(8).and_then(|shifted| shifted.unshifted(8)),
            Some(tcp)
        );
        assert!(tcp.needs_checksum());
        assert_eq!(tcp.segment_bytes(), 1448);
    }

    #[test]
    fn a_plain_frame_keeps_its_zeroes_and_loses_data_valid() {
        assert_eq!(
            header(2, 0, 0, 0, 0, 0).shifted(4),
            Some(VnetHeader::default())
        );
        assert_eq!(VnetHeader::default().segment_bytes(), 0);
    }

    #[test]
    fn offsets_that_do_not_fit_are_refused() {
        assert_eq!(header(1, 1, 54, 1448, u16::MAX, 16).shifted(4), None);
        assert_eq!(header(1, 1, 3, 1448, 34, 16).unshifted(4), None);
        assert_eq!(header(1, 0, 0, 0, 3, 16).unshifted(4), None);
    }

    #[test]
    fn the_stripped_tag_is_read_from_the_control_message() {
        let mut bytes = [0_u8; 40];
        bytes[0] = 36;
        bytes[8..12].copy_from_slice(&263_u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&8_u32.to_ne_bytes());
        bytes[16..20].copy_from_slice(&(1_u32 | 1 << 4 | 1 << 6).to_ne_bytes());
        bytes[32..34].copy_from_slice(&10_u16.to_ne_bytes());
        bytes[34..36].copy_from_slice(&0x88a8_u16.to_ne_bytes());
        let mut slot = Slot {
            offload: VnetHeader::default(),
            control: [0; 5],
            frame: Box::default(),
            length: 0,
            control_length: 40,
            truncated: false,
        };
        for (word, chunk) in slot.control.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into().expect("eight bytes"));
        }
        assert_eq!(
            slot.tag(),
            Some(StrippedTag {
                tpid: 0x88a8,
                tci: 10
            })
        );
        slot.control_length = 0;
        assert_eq!(slot.tag(), None);
    }
}
