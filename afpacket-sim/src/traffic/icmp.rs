//! A raw socket for echo requests (RFC 792, RFC 4443 section 4).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, recvmsg, setsockopt, socket, sockopt,
};

use super::error_queue;
use crate::sys::socket_option::set_int;

/// Bytes of type, code, checksum, identifier and sequence number.
const HEADER_BYTES: usize = 8;
const ICMP_FILTER: libc::c_int = 1;

/// A raw ICMP socket connected to one destination, which it hears alone. It never blocks.
pub(crate) struct EchoSocket {
    socket: UdpSocket,
    ip6: bool,
    identifier: u16,
}

/// An answer to one of our requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EchoReply {
    pub(crate) sequence: u16,
    /// When the kernel received it.
    pub(crate) arrived: SystemTime,
    /// Where the payload begins in the buffer, and where it ends.
    pub(crate) payload: (usize, usize),
}

impl EchoSocket {
    pub(crate) fn connect(destination: IpAddr, identifier: u16) -> io::Result<Self> {
        let ip6 = destination.is_ipv6();
        let (family, protocol) = if ip6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(family, SockType::Raw, flags, protocol)?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        if !ip6 {
            // A set bit is a type that is not wanted: all but echo reply, type 0.
            set_int(&fd, libc::SOL_RAW, ICMP_FILTER, !1)?;
        }
        // The datagram operations of std serve a raw socket as well; the port is not used.
        let socket = UdpSocket::from(fd);
        socket.connect(SocketAddr::new(destination, 0))?;
        // Not earlier: until it is connected, a raw socket is told errors about everybody's ICMP packets.
        error_queue::enable(&socket, ip6)?;
        Ok(Self {
            socket,
            ip6,
            identifier,
        })
    }

    /// Sends an echo request. `packet` holds room for the header, then the payload.
    pub(crate) fn send(&self, sequence: u16, packet: &mut [u8]) -> io::Result<()> {
        let [kind, code, ..] = if self.ip6 { [128, 0] } else { [8, 0] };
        packet[..2].copy_from_slice(&[kind, code]);
        packet[2..4].fill(0);
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        if !self.ip6 {
            // The kernel fills in the checksum of ICMPv6 alone.
            let checksum = checksum(packet);
            packet[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        self.socket.send(packet).map(drop)
    }

    /// Takes one answer to a request of this socket out of what has arrived; other packets are passed over.
    ///
    /// # Errors
    /// `WouldBlock` when nothing more is there; other errors are ICMP errors about a request.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<EchoReply> {
        loop {
            let (length, arrived) = self.receive_packet(buffer)?;
            let start = match buffer[..length].first() {
                // Raw IPv4 sockets give the IP header too; raw IPv6 sockets do not.
                Some(first) if !self.ip6 => usize::from(first & 0x0f) * 4,
                _ => 0,
            };
            let Some(header) = buffer[..length].get(start..start + HEADER_BYTES) else {
                continue;
            };
            let is_reply = header[0] == if self.ip6 { 129 } else { 0 };
            let identifier = u16::from_be_bytes([header[4], header[5]]);
            if is_reply && identifier == self.identifier {
                let sequence = u16::from_be_bytes([header[6], header[7]]);
                return Ok(EchoReply {
                    sequence,
                    arrived,
                    payload: (start + HEADER_BYTES, length),
                });
            }
        }
    }

    fn receive_packet(&self, buffer: &mut [u8]) -> io::Result<(usize, SystemTime)> {
        let mut control = cmsg_space!(libc::timespec);
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let stamp = message.cmsgs()?.find_map(|part| match part {
            ControlMessageOwned::ScmTimestampns(time) => {
                let seconds = u64::try_from(time.tv_sec()).ok()?;
                let nanos = u32::try_from(time.tv_nsec()).ok()?;
                Some(UNIX_EPOCH + Duration::new(seconds, nanos))
            }
            _ => None,
        });
        Ok((message.bytes, stamp.unwrap_or_else(SystemTime::now)))
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Room for the header in front of the payload of a request.
pub(crate) const fn header_bytes() -> usize {
    HEADER_BYTES
}

/// The Internet checksum (RFC 1071) of `bytes`, whose checksum field is zero.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    sum += words
        .remainder()
        .first()
        .map_or(0, |last| u32::from(*last) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn the_example_of_rfc_1071() {
        // RFC 1071 section 3: the sum of these bytes is ddf2.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(checksum(&[0xff]), 0x00ff);
        assert_eq!(checksum(&[]), 0xffff);
    }
}
