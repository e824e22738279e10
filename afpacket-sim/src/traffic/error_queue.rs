//! ICMP errors that the kernel keeps for a socket (`IP_RECVERR`, ip(7), ipv6(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use crate::sys::socket_option::set_int;

/// An error about a packet that this socket sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuedError {
    /// Who sent the ICMP error; absent when this host itself refused the packet.
    pub(crate) offender: Option<IpAddr>,
    /// ICMP or ICMPv6 type; 0 from this host itself.
    pub(crate) icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub(crate) icmp_code: u8,
    /// The errno it amounts to.
    pub(crate) errno: i32,
    /// The MTU for `EMSGSIZE`.
    pub(crate) info: u32,
}

/// Makes the kernel queue ICMP errors for this socket.
pub(crate) fn enable(fd: impl AsFd, ip6: bool) -> io::Result<()> {
    if ip6 {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    } else {
        set_int(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    }
}

/// Takes the oldest queued error; `None` when there is none.
pub(crate) fn take(fd: impl AsFd) -> io::Result<Option<QueuedError>> {
    // What comes with the error is the packet that caused it; only the control message matters.
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let fd = fd.as_fd().as_raw_fd();
    let message = match recvmsg::<SockaddrStorage>(fd, &mut [], Some(&mut control), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    for part in message.cmsgs()? {
        let (error, offender) = match part {
            ControlMessageOwned::Ipv4RecvErr(error, offender) => (
                error,
                offender.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes())),
            ),
            ControlMessageOwned::Ipv6RecvErr(error, offender) => (
                error,
                offender.map(|from| IpAddr::from(from.sin6_addr.s6_addr)),
            ),
            _ => continue,
        };
        return Ok(Some(QueuedError {
            offender: offender.filter(|_| error.ee_origin != libc::SO_EE_ORIGIN_LOCAL),
            icmp_type: error.ee_type,
            icmp_code: error.ee_code,
            errno: error.ee_errno as i32,
            info: error.ee_info,
        }));
    }
    Ok(None)
}
