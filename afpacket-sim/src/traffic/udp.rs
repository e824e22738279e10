//! Numbered datagrams between two namespaces.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::pattern::Pattern;
use crate::error::cannot;
use crate::sys::socket_option::enlarge_buffers;
use crate::{Namespace, Result, SimError};

/// How to transfer.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpOptions {
    /// Datagrams to send.
    pub count: u64,
    /// Payload of each in bytes, 8 to 65 507. Above the path MTU, IP fragments it.
    pub payload_bytes: usize,
    /// Datagrams per second; unpaced when absent.
    pub packets_per_second: Option<f64>,
    /// End of sending, however many were sent.
    pub max_duration: Duration,
    /// How long the receiver waits for more after the last.
    pub linger: Duration,
}

impl Default for UdpOptions {
    /// 1000 datagrams of 1000 bytes at 10 000 a second.
    fn default() -> Self {
        Self {
            count: 1000,
            payload_bytes: 1000,
            packets_per_second: Some(10_000.0),
            max_duration: Duration::from_secs(30),
            linger: Duration::from_millis(200),
        }
    }
}

/// What was transferred, in datagrams unless it says otherwise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UdpReport {
    /// Accepted by the sender's kernel.
    pub sent: u64,
    /// Refused by the sender's kernel.
    pub send_failed: u64,
    /// Received intact, each counted once.
    pub received: u64,
    /// Sent but never received intact.
    pub lost: u64,
    /// Received after one with a higher number.
    pub reordered: u64,
    /// Received again.
    pub duplicates: u64,
    /// Received with content that was not sent.
    pub corrupted: u64,
    /// From the first to the last that was received, in seconds.
    pub seconds: f64,
    /// Payload received in that time, in 10^9 bits per second.
    pub gbit_per_s: f64,
}

const SEQUENCE_BYTES: usize = 8;
const MAX_PAYLOAD: usize = 65_507;
const SOCKET_BUFFER_BYTES: i32 = 16 << 20;
const TICK: Duration = Duration::from_millis(50);

/// Sends datagrams from `client` to the address `server_address` of `server`; each carries its number and
/// pseudo-random content that the receiver compares.
///
/// # Errors
/// [`SimError::Invalid`] for options out of range, [`SimError::System`] when sockets cannot be made.
pub fn udp_transfer(
    client: &Namespace,
    server: &Namespace,
    server_address: IpAddr,
    options: &UdpOptions,
) -> Result<UdpReport> {
    if !(SEQUENCE_BYTES..=MAX_PAYLOAD).contains(&options.payload_bytes) {
        let message = format!(
            "{} is out of range {SEQUENCE_BYTES} to {MAX_PAYLOAD}",
            options.payload_bytes
        );
        return Err(SimError::Invalid {
            what: "UDP payload size",
            message,
        });
    }
    if options
        .packets_per_second
        .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
    {
        let message = "the rate has to be a positive number".to_owned();
        return Err(SimError::Invalid {
            what: "UDP rate",
            message,
        });
    }
    let receiver = server
        .run(|| bind(server_address))?
        .map_err(cannot(format!(
            "receive on {server_address} in namespace `{}`",
            server.name()
        )))?;
    let target = receiver.local_addr().map_err(cannot("name a UDP socket"))?;
    let sender = client.run(|| connect(target))?.map_err(cannot(format!(
        "send to {target} from namespace `{}`",
        client.name()
    )))?;
    let finished = AtomicBool::new(false);
    let (mut report, sent) = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, options, &finished));
        let sending = scope.spawn(|| send(&sender, options));
        let sent = sending
            .join()
            .map_err(|_| SimError::ThreadPanicked("udp-sender".to_owned()));
        // Also when the sender panicked: the receiver must not wait for ever.
        finished.store(true, Ordering::Release);
        let report = receiving
            .join()
            .map_err(|_| SimError::ThreadPanicked("udp-receiver".to_owned()));
        Ok::<_, SimError>((report?, sent?))
    })?;
    (report.sent, report.send_failed) = sent;
    report.lost = report.sent.saturating_sub(report.received);
    Ok(report)
}

fn bind(address: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 0))?;
    enlarge_buffers(&socket, SOCKET_BUFFER_BYTES);
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = match target {
        SocketAddr::V4(_) => IpAddr::from([0_u8; 4]),
        SocketAddr::V6(_) => IpAddr::from([0_u8; 16]),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(target)?;
    socket.set_write_timeout(Some(TICK))?;
    Ok(socket)
}

fn content(sequence: u64) -> Pattern {
    Pattern::new(sequence)
}

/// Counts what was accepted and what was refused.
fn send(socket: &UdpSocket, options: &UdpOptions) -> (u64, u64) {
    let start = Instant::now();
    let mut datagram = vec![0; options.payload_bytes];
    let (mut sent, mut failed) = (0, 0);
    for sequence in 0..options.count {
        if let Some(rate) = options.packets_per_second {
            wait_until(
                start,
                Duration::try_from_secs_f64(sequence as f64 / rate).unwrap_or(Duration::MAX),
                options,
            );
        }
        if start.elapsed() > options.max_duration {
            break;
        }
        datagram[..SEQUENCE_BYTES].copy_from_slice(&sequence.to_be_bytes());
        content(sequence).fill(0, &mut datagram[SEQUENCE_BYTES..]);
        match socket.send(&datagram) {
            Ok(_) => sent += 1,
            Err(_) => failed += 1,
        }
    }
    (sent, failed)
}

/// Sleeps while the time is far, then spins: sleeping is too coarse for the last stretch.
fn wait_until(start: Instant, due: Duration, options: &UdpOptions) {
    const SPIN: Duration = Duration::from_micros(100);
    let due = due.min(options.max_duration + TICK);
    while let Some(left) = due.checked_sub(start.elapsed()) {
        if left > SPIN {
            thread::sleep(left - SPIN);
        } else {
            std::hint::spin_loop();
        }
        if left.is_zero() {
            return;
        }
    }
}

fn receive(socket: &UdpSocket, options: &UdpOptions, finished: &AtomicBool) -> UdpReport {
    let mut report = UdpReport::default();
    let mut seen = vec![0_u64; usize::try_from(options.count.div_ceil(64)).unwrap_or(0)];
    let mut highest = None;
    let mut buffer = vec![0; MAX_PAYLOAD + 1];
    // When the first and the last datagram came, and since when there is nothing to wait for.
    let (mut first, mut last, mut quiet_since) = (None, Instant::now(), None);
    loop {
        if finished.load(Ordering::Acquire) {
            let quiet_since: &mut Instant = quiet_since.get_or_insert_with(Instant::now);
            if quiet_since.elapsed() > options.linger {
                break;
            }
        }
        // Errors are timeouts, to look again whether it is over, or ICMP errors of no concern here.
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        quiet_since = None;
        let datagram = &buffer[..length];
        let sequence = datagram
            .first_chunk()
            .map(|bytes| u64::from_be_bytes(*bytes));
        let intact = sequence.filter(|sequence| {
            length == options.payload_bytes
                && *sequence < options.count
                && content(*sequence)
                    .first_difference(0, &datagram[SEQUENCE_BYTES..])
                    .is_none()
        });
        let Some(sequence) = intact else {
            report.corrupted += 1;
            continue;
        };
        let (word, bit) = ((sequence / 64) as usize, 1 << (sequence % 64));
        if seen[word] & bit != 0 {
            report.duplicates += 1;
            continue;
        }
        seen[word] |= bit;
        report.received += 1;
        last = Instant::now();
        first.get_or_insert(last);
        if highest.is_some_and(|highest| sequence < highest) {
            report.reordered += 1;
        } else {
            highest = Some(sequence);
        }
    }
    report.seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    if report.seconds > 0.0 {
        let bits = (report.received * options.payload_bytes as u64 * 8) as f64;
        report.gbit_per_s = bits * 1e-9 / report.seconds;
    }
    report
}
