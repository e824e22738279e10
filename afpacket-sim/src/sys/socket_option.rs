//! Socket options that nix does not name.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, socklen_t};

/// Sets an option whose value is an `int`.
pub(crate) fn set_int(fd: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // JUSTIFICATION: nix has no type for most of the packet(7), raw(7) and ip(7) options used here.
    // SAFETY: the pointer and the length describe `value`, which lives across the call and is only read.
    let result = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads an option whose value is an `int`.
pub(crate) fn int(fd: impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    // JUSTIFICATION: nix has no type for IPV6_MTU.
    // SAFETY: the kernel writes at most `length` bytes, the size of `value`; any bit pattern is an int.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many segments a TCP connection has sent again (`tcpi_total_retrans` of `TCP_INFO`).
pub(crate) fn tcp_retransmits(fd: impl AsFd) -> io::Result<u32> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as socklen_t;
    // JUSTIFICATION: neither std nor nix reads TCP_INFO.
    // SAFETY: the kernel writes at most `length` bytes, the size of the structure.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // JUSTIFICATION: the only way to read what a system call wrote into raw memory.
    // SAFETY: zeroed before the call, and the structure holds integers only, for which any bits are valid.
    Ok(unsafe { info.assume_init() }.tcpi_total_retrans)
}

/// Enlarges the receive and send buffers of a socket to `bytes`, or as far as the user may.
pub(crate) fn enlarge_buffers(fd: impl AsFd, bytes: c_int) {
    for (force, plain) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ] {
        if set_int(&fd, libc::SOL_SOCKET, force, bytes).is_err() {
            // Without CAP_NET_ADMIN outside the user namespace the system's limit applies; a
            // smaller buffer costs throughput, not correctness.
            let _ = set_int(&fd, libc::SOL_SOCKET, plain, bytes);
        }
    }
}
