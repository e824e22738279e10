//! Echo requests and what came back.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::icmp::{EchoSocket, header_bytes};
use super::pattern::Pattern;
use super::{RttSummary, error_queue};
use crate::error::cannot;
use crate::sys::socket_option::set_int;
use crate::{Result, SimError};

/// How to ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingOptions {
    /// Echo requests to send.
    pub count: u32,
    /// Time from one request to the next; zero sends the next as soon as the last is answered.
    pub interval: Duration,
    /// Bytes of payload behind the 8 bytes of ICMP header, at most 65 000.
    pub payload_bytes: usize,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Forbid fragmentation, here and on the way.
    pub dont_fragment: bool,
    /// Keep every round-trip time in [`PingReport::rtts_ns`].
    pub keep_rtts: bool,
}

impl Default for PingOptions {
    /// Ten requests of 56 bytes, each sent when the last is answered, one second of patience.
    fn default() -> Self {
        Self {
            count: 10,
            interval: Duration::ZERO,
            payload_bytes: 56,
            timeout: Duration::from_secs(1),
            dont_fragment: false,
            keep_rtts: false,
        }
    }
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PingReport {
    /// Requests that left this host.
    pub sent: u64,
    /// Requests that were answered.
    pub received: u64,
    /// Answers beyond the first to a request.
    pub duplicates: u64,
    /// Answers whose payload is not that of the request.
    pub corrupted: u64,
    /// ICMP errors about requests, and requests that this host could not send.
    pub errors: u64,
    /// The latest of these errors, as text.
    pub last_error: Option<String>,
    /// Round-trip times, from before sending to the kernel's receive time stamp; `None` without answers.
    pub rtt: Option<RttSummary>,
    /// Every round-trip time in nanoseconds in order of arrival, if asked for.
    pub rtts_ns: Vec<u64>,
}

const MAX_PAYLOAD: usize = 65_000;
/// Most requests that may be under way at once: a quarter of the sequence numbers.
const WINDOW: u32 = 1 << 14;

/// Pings `destination` from the calling thread's namespace. Needs `CAP_NET_RAW`.
///
/// # Errors
/// [`SimError::Invalid`] for options out of range, [`SimError::System`] when there is no raw socket or no route.
pub fn ping(destination: IpAddr, options: &PingOptions) -> Result<PingReport> {
    if options.payload_bytes > MAX_PAYLOAD {
        let message = format!(
            "{} bytes are more than {MAX_PAYLOAD}",
            options.payload_bytes
        );
        return Err(SimError::Invalid {
            what: "ping payload",
            message,
        });
    }
    let socket = EchoSocket::connect(destination, identifier())
        .map_err(cannot(format!("open a raw ICMP socket to {destination}")))?;
    set_fragmentation(&socket, destination, options.dont_fragment)
        .map_err(cannot("set the fragmentation of a raw ICMP socket"))?;
    let mut run = Run {
        socket,
        options,
        packet: vec![0; header_bytes() + options.payload_bytes],
        buffer: vec![0; 1 << 16],
        requests: Vec::new(),
        rtts_ns: Vec::new(),
        report: PingReport::default(),
        open: 0,
    };
    run.all()?;
    let mut report = run.report;
    report.rtt = RttSummary::of(&run.rtts_ns);
    if options.keep_rtts {
        report.rtts_ns = run.rtts_ns;
    }
    Ok(report)
}

struct Run<'a> {
    socket: EchoSocket,
    options: &'a PingOptions,
    packet: Vec<u8>,
    buffer: Vec<u8>,
    requests: Vec<Request>,
    rtts_ns: Vec<u64>,
    report: PingReport,
    /// Requests before this one are answered or given up.
    open: usize,
}

struct Request {
    sent_at: SystemTime,
    give_up: Instant,
    answered: bool,
}

impl Run<'_> {
    fn all(&mut self) -> Result<()> {
        let start = Instant::now();
        let count = self.options.count as usize;
        loop {
            let now = Instant::now();
            self.give_up(now);
            let next = self.requests.len();
            let under_way = next - self.open;
            // When the next request is due; `None` while it has to wait for an answer.
            let due = if next == count {
                None
            } else if self.options.interval.is_zero() {
                (under_way == 0).then_some(now)
            } else {
                let schedule = start + self.options.interval * next as u32;
                (under_way < WINDOW as usize).then_some(schedule)
            };
            if due.is_some_and(|due| due <= now) {
                self.send();
                continue;
            }
            if next == count && under_way == 0 {
                return Ok(());
            }
            let patience = self.requests.get(self.open).map(|request| request.give_up);
            let wake = due.into_iter().chain(patience).min().unwrap_or(now);
            self.wait(wake.saturating_duration_since(now))?;
            self.receive();
        }
    }

    fn send(&mut self) {
        let sequence = self.requests.len();
        pattern(sequence).fill(0, &mut self.packet[header_bytes()..]);
        let sent_at = SystemTime::now();
        let sent = self.socket.send(sequence as u16, &mut self.packet);
        let give_up = Instant::now() + self.options.timeout;
        // What could not be sent needs no waiting for.
        self.requests.push(Request {
            sent_at,
            give_up,
            answered: sent.is_err(),
        });
        match sent {
            Ok(()) => self.report.sent += 1,
            Err(error) => self.note(&error),
        }
    }

    fn give_up(&mut self, now: Instant) {
        while let Some(request) = self.requests.get(self.open) {
            if !request.answered && request.give_up > now {
                return;
            }
            self.open += 1;
        }
    }

    fn wait(&self, time: Duration) -> Result<()> {
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut waiting, Some(TimeSpec::from_duration(time)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(cannot("wait for an echo reply")(errno)),
        }
    }

    fn receive(&mut self) {
        loop {
            let reply = match self.socket.receive(&mut self.buffer) {
                Ok(reply) => reply,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    // A readable socket without a packet has an error for us.
                    while let Ok(Some(_)) = error_queue::take(&self.socket) {}
                    return;
                }
                Err(error) => {
                    // The error belongs to some request under way; that one runs into its timeout.
                    while let Ok(Some(_)) = error_queue::take(&self.socket) {}
                    self.note(&error);
                    continue;
                }
            };
            // The latest request with these low 16 bits.
            let Some(last) = self.requests.len().checked_sub(1) else {
                continue;
            };
            let back = (last as u16).wrapping_sub(reply.sequence);
            let Some(index) = last.checked_sub(usize::from(back)) else {
                continue;
            };
            let (from, to) = reply.payload;
            let payload = &self.buffer[from..to];
            let intact = payload.len() == self.options.payload_bytes
                && pattern(index).first_difference(0, payload).is_none();
            let request = &mut self.requests[index];
            if !intact {
                self.report.corrupted += 1;
            } else if request.answered {
                self.report.duplicates += 1;
            } else {
                request.answered = true;
                self.report.received += 1;
                // The clock may be set back meanwhile; then the time is unknown and taken as 0.
                let rtt = reply
                    .arrived
                    .duration_since(request.sent_at)
                    .unwrap_or_default();
                self.rtts_ns.push(rtt.as_nanos() as u64);
            }
        }
    }

    fn note(&mut self, error: &std::io::Error) {
        self.report.errors += 1;
        self.report.last_error = Some(error.to_string());
    }
}

fn pattern(sequence: usize) -> Pattern {
    Pattern::new(sequence as u64)
}

/// Tells the requests of concurrent runs in one namespace apart.
fn identifier() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = (std::process::id() as u16).wrapping_mul(251);
    base.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn set_fragmentation(
    socket: &EchoSocket,
    destination: IpAddr,
    forbid: bool,
) -> std::io::Result<()> {
    if destination.is_ipv6() {
        let mode = if forbid {
            libc::IPV6_PMTUDISC_DO
        } else {
            libc::IPV6_PMTUDISC_DONT
        };
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, mode)?;
        set_int(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_DONTFRAG,
            i32::from(forbid),
        )
    } else {
        let mode = if forbid {
            libc::IP_PMTUDISC_DO
        } else {
            libc::IP_PMTUDISC_DONT
        };
        set_int(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
    }
}
