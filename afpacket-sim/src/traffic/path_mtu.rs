//! Path MTU discovery as a host does it (RFC 1191, RFC 8201).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error_queue::{self, QueuedError};
use crate::error::cannot;
use crate::sys::socket_option::{int, set_int};
use crate::{Result, SimError};

/// How to look for the path MTU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtuOptions {
    /// Size of the first probe in bytes of IP packet; the MTU of the outgoing device when absent.
    pub start: Option<u32>,
    /// How long to wait for an answer to one probe.
    pub timeout: Duration,
    /// Destination port of the probes; nothing should listen there, so that the destination answers each.
    pub port: u16,
}

impl Default for PathMtuOptions {
    /// From the device's MTU, one second, port 33434.
    fn default() -> Self {
        Self {
            start: None,
            timeout: Duration::from_secs(1),
            port: 33_434,
        }
    }
}

/// What a router said about a packet that was too big for its next link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig {
    /// The router.
    pub router: IpAddr,
    /// The MTU it named, in bytes of IP packet.
    pub mtu: u32,
    /// The size of the packet it refused.
    pub refused: u32,
}

/// What is known about the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathMtuReport {
    /// Size of the largest probe that arrived, in bytes of IP packet; `None` when none arrived.
    pub path_mtu: Option<u32>,
    /// The ICMP errors that led there, in order.
    pub too_big: Vec<TooBig>,
    /// What the kernel of this host takes for the path MTU afterwards.
    pub kernel_mtu: Option<u32>,
}

/// Looks for the path MTU to `destination` from the calling thread's namespace: UDP probes that no router may fragment,
/// at first as large as the outgoing device allows, then as large as the last ICMP error said. The destination's
/// "port unreachable" proves that a probe arrived.
///
/// # Errors
/// [`SimError::System`] when there is no route, [`SimError::Invalid`] when `start` is out of range.
pub fn path_mtu(destination: IpAddr, options: &PathMtuOptions) -> Result<PathMtuReport> {
    let overhead = if destination.is_ipv6() { 48 } else { 28 };
    let socket = connect(destination, options)
        .map_err(cannot(format!("open a UDP socket to {destination}")))?;
    let mut size = match options.start {
        Some(size) if (overhead..=65_535).contains(&size) => size,
        Some(size) => {
            let message = format!("{size} is out of range {overhead} to 65535");
            return Err(SimError::Invalid {
                what: "path MTU probe",
                message,
            });
        }
        None => device_mtu(&socket).map_err(cannot("find the MTU of the outgoing device"))?,
    };
    let mut report = PathMtuReport {
        path_mtu: None,
        too_big: Vec::new(),
        kernel_mtu: None,
    };
    loop {
        let answer = probe(&socket, size - overhead, options.timeout).map_err(cannot(format!(
            "send a probe of {size} bytes to {destination}"
        )))?;
        match answer {
            // EMSGSIZE names a smaller MTU: try that. A router that names none ends the search.
            Some(error) if error.errno == libc::EMSGSIZE => {
                if let Some(router) = error.offender {
                    report.too_big.push(TooBig {
                        router,
                        mtu: error.info,
                        refused: size,
                    });
                }
                if !(overhead..size).contains(&error.info) {
                    break;
                }
                size = error.info;
            }
            Some(error) if error.offender == Some(destination) => {
                report.path_mtu = Some(size);
                break;
            }
            _ => break,
        }
    }
    report.kernel_mtu = mtu_option(&socket, destination.is_ipv6()).ok();
    Ok(report)
}

fn connect(destination: IpAddr, options: &PathMtuOptions) -> std::io::Result<UdpSocket> {
    let ip6 = destination.is_ipv6();
    let any = if ip6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    error_queue::enable(&socket, ip6)?;
    // PROBE forbids fragmentation and ignores what the kernel has learnt, so that every run asks the network.
    if ip6 {
        let mode = libc::IPV6_PMTUDISC_PROBE;
        set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, mode)?;
        set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
    } else {
        set_int(
            &socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_PROBE,
        )?;
    }
    socket.connect(SocketAddr::new(destination, options.port))?;
    Ok(socket)
}

/// The MTU of the device that has the socket's own address.
fn device_mtu(socket: &UdpSocket) -> std::io::Result<u32> {
    let own = socket.local_addr()?.ip();
    let mut devices = nix::ifaddrs::getifaddrs()?.filter(|device| {
        device.address.as_ref().is_some_and(|address| {
            let ip4 = address
                .as_sockaddr_in()
                .map(|address| IpAddr::V4(address.ip()));
            ip4.or_else(|| {
                address
                    .as_sockaddr_in6()
                    .map(|address| IpAddr::V6(address.ip()))
            }) == Some(own)
        })
    });
    let name = devices
        .next()
        .map(|device| device.interface_name)
        .ok_or_else(|| {
            std::io::Error::new(
                std::io::ErrorKind::NotFound,
                format!("no device has the address {own}"),
            )
        })?;
    // Over netlink rather than /sys, which shows the namespace it was mounted in.
    let link = crate::rtnl::Rtnl::open("this thread").and_then(|mut rtnl| rtnl.link(&name));
    link.map(|link| link.mtu.min(65_535))
        .map_err(std::io::Error::other)
}

fn mtu_option(socket: &UdpSocket, ip6: bool) -> std::io::Result<u32> {
    let mtu = if ip6 {
        int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU)
    } else {
        int(socket, libc::IPPROTO_IP, libc::IP_MTU)
    };
    mtu.map(|mtu| mtu.unsigned_abs())
}

/// Sends `payload` bytes and returns the error that answers them; `None` when nothing answers in time.
fn probe(
    socket: &UdpSocket,
    payload: u32,
    timeout: Duration,
) -> std::io::Result<Option<QueuedError>> {
    let sent = Instant::now();
    // The first call after an error returns that error and clears it; the queue has the details.
    for _ in 0..2 {
        match socket.send(&vec![0; payload as usize]) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ECONNREFUSED | libc::EMSGSIZE | libc::EHOSTUNREACH)
                ) => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
        if let Some(error) = error_queue::take(socket)? {
            return Ok(Some(error));
        }
    }
    loop {
        let left = timeout.saturating_sub(sent.elapsed());
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut waiting, time).or_else(|errno| match errno {
            nix::errno::Errno::EINTR => Ok(0),
            errno => Err(errno),
        })?;
        if ready > 0 {
            if let Some(error) = error_queue::take(socket)? {
                // Takes the pending error off the socket, so that the next send is not refused for it.
                let _ = socket.take_error();
                return Ok(Some(error));
            }
            let _ = socket.take_error();
        }
        if sent.elapsed() >= timeout {
            return Ok(None);
        }
    }
}
