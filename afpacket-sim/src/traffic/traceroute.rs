//! The routers on the way, found by packets whose hop limit ends there (RFC 792, RFC 4443 section 3.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error_queue::{self, QueuedError};
use crate::Result;
use crate::error::cannot;
use crate::sys::socket_option::set_int;

/// How to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracerouteOptions {
    /// Hops to try at most.
    pub max_hops: u8,
    /// How long to wait for an answer to one probe.
    pub timeout: Duration,
    /// Probes for a hop until one is answered.
    pub attempts: u32,
    /// Destination port of the probes; nothing should listen there.
    pub port: u16,
}

impl Default for TracerouteOptions {
    /// 16 hops, one second, two attempts, port 33434.
    fn default() -> Self {
        Self {
            max_hops: 16,
            timeout: Duration::from_secs(1),
            attempts: 2,
            port: 33_434,
        }
    }
}

/// One hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Its distance: the TTL or hop limit of the probes.
    pub distance: u8,
    /// What it answered; `None` when it stayed silent.
    pub answer: Option<HopAnswer>,
}

/// The answer of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HopAnswer {
    /// Who answered.
    pub address: IpAddr,
    /// Time from sending the probe to reading the answer, in nanoseconds.
    pub rtt_ns: u64,
    /// It is not a router on the way: the destination was reached, or is unreachable from there.
    pub last: bool,
    /// The destination itself answered.
    pub reached: bool,
}

/// Traces the way to `destination` from the calling thread's namespace by UDP probes. Needs no privilege.
/// The list ends with the destination, with a router that knows no way on, or with the last hop tried.
///
/// # Errors
/// [`SimError::System`](crate::SimError::System) when there is no route at all.
pub fn traceroute(destination: IpAddr, options: &TracerouteOptions) -> Result<Vec<Hop>> {
    let mut hops = Vec::new();
    for distance in 1..=options.max_hops {
        let mut answer = None;
        for _ in 0..options.attempts.max(1) {
            answer = probe(destination, distance, options)
                .map_err(cannot(format!("probe hop {distance} to {destination}")))?;
            if answer.is_some() {
                break;
            }
        }
        hops.push(Hop { distance, answer });
        if answer.is_some_and(|answer| answer.last) {
            break;
        }
    }
    Ok(hops)
}

/// A socket of its own for each probe: whatever error it gets is about that probe.
fn probe(
    destination: IpAddr,
    distance: u8,
    options: &TracerouteOptions,
) -> std::io::Result<Option<HopAnswer>> {
    let ip6 = destination.is_ipv6();
    let any = if ip6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    error_queue::enable(&socket, ip6)?;
    if ip6 {
        set_int(
            &socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_UNICAST_HOPS,
            i32::from(distance),
        )?;
    } else {
        set_int(&socket, libc::IPPROTO_IP, libc::IP_TTL, i32::from(distance))?;
    }
    socket.connect(SocketAddr::new(destination, options.port))?;
    let sent = Instant::now();
    socket.send(&[0; 32])?;
    loop {
        let left = options.timeout.saturating_sub(sent.elapsed());
        // An error is signalled without being asked for.
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        let time = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut waiting, time).or_else(|errno| match errno {
            nix::errno::Errno::EINTR => Ok(0),
            errno => Err(errno),
        })?;
        let rtt_ns = sent.elapsed().as_nanos() as u64;
        if ready > 0
            && let Some(error) = error_queue::take(&socket)?
            && let Some(address) = error.offender
        {
            let last = !is_time_exceeded(&error, ip6);
            return Ok(Some(HopAnswer {
                address,
                rtt_ns,
                last,
                reached: address == destination,
            }));
        }
        if sent.elapsed() >= options.timeout {
            return Ok(None);
        }
    }
}

fn is_time_exceeded(error: &QueuedError, ip6: bool) -> bool {
    error.icmp_type == if ip6 { 3 } else { 11 }
}
