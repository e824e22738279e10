//! Bulk transfer over TCP between two namespaces.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::pattern::Pattern;
use crate::error::cannot;
use crate::sys::socket_option::tcp_retransmits;
use crate::{Namespace, Result, SimError};

/// How to transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// Concurrent connections, 1 to 64.
    pub streams: usize,
    /// How long to measure. Ignored when `bytes_per_stream` is given, where it limits the whole transfer.
    pub duration: Duration,
    /// How long to transfer before the measurement begins.
    pub warm_up: Duration,
    /// Stop when each stream has carried this many bytes, instead of after a time.
    pub bytes_per_stream: Option<u64>,
    /// Bytes handed to the kernel at once.
    pub write_bytes: usize,
    /// Send a pseudo-random stream and compare every byte at the receiver. Costs throughput.
    pub verify: bool,
    /// How long a connection may take to be made, and to end.
    pub timeout: Duration,
}

impl Default for TcpOptions {
    /// One stream, two seconds after 300 ms of warm-up, writes of 256 KiB, unverified.
    fn default() -> Self {
        Self {
            streams: 1,
            duration: Duration::from_secs(2),
            warm_up: Duration::from_millis(300),
            bytes_per_stream: None,
            write_bytes: 256 << 10,
            verify: false,
            timeout: Duration::from_secs(5),
        }
    }
}

/// What was transferred.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpReport {
    /// Payload bytes that the receiver read within the measured time.
    pub bytes: u64,
    /// The measured time in seconds.
    pub seconds: f64,
    /// `bytes` over `seconds`, in 10^9 bits per second.
    pub gbit_per_s: f64,
    /// Payload bytes handed to the sender's kernel over the whole transfer.
    pub total_sent: u64,
    /// Payload bytes read by the receiver over the whole transfer.
    pub total_received: u64,
    /// Segments sent again, over all streams.
    pub retransmits: u64,
    /// Whether the receiver got what was sent.
    pub integrity: Integrity,
}

/// Whether content arrived as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// Not asked for.
    Unchecked,
    /// Every byte that was sent arrived, each as it was sent.
    Intact,
    /// The first differing byte of a stream; its end when bytes are missing.
    Damaged {
        /// The stream, from 0.
        stream: usize,
        /// Position in the stream, in bytes.
        offset: u64,
    },
}

/// How often blocked reads and writes look whether the transfer is over.
const TICK: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 256 << 10;

/// Transfers from `client` to the address `server_address` of `server`, and measures at the receiver.
///
/// # Errors
/// [`SimError::Invalid`] for options out of range, [`SimError::System`] or [`SimError::TimedOut`] when the connections
/// cannot be made.
pub fn tcp_transfer(
    client: &Namespace,
    server: &Namespace,
    server_address: IpAddr,
    options: &TcpOptions,
) -> Result<TcpReport> {
    if !(1..=64).contains(&options.streams) || options.write_bytes == 0 {
        let message = "expected 1 to 64 streams and writes of at least one byte".to_owned();
        return Err(SimError::Invalid {
            what: "TCP options",
            message,
        });
    }
    let (sources, sinks) = connect(client, server, server_address, options)?;
    let transfer = Transfer {
        options,
        over: AtomicBool::new(false),
        received: AtomicU64::new(0),
    };
    let start = Instant::now();
    let (window, sent, received) = thread::scope(|scope| {
        let transfer = &transfer;
        let receivers: Vec<_> = sinks
            .into_iter()
            .enumerate()
            .map(|(stream, sink)| scope.spawn(move || transfer.receive(stream, sink)))
            .collect();
        let senders: Vec<_> = sources
            .into_iter()
            .enumerate()
            .map(|(stream, source)| scope.spawn(move || transfer.send(stream, source)))
            .collect();
        let window = options
            .bytes_per_stream
            .is_none()
            .then(|| transfer.measure());
        if window.is_some() {
            transfer.over.store(true, Ordering::Relaxed);
        }
        let mut sent = Vec::new();
        for sender in senders {
            sent.push(
                sender
                    .join()
                    .map_err(|_| SimError::ThreadPanicked("tcp-sender".to_owned()))?,
            );
        }
        let mut received = Vec::new();
        for receiver in receivers {
            received.push(
                receiver
                    .join()
                    .map_err(|_| SimError::ThreadPanicked("tcp-receiver".to_owned()))?,
            );
        }
        Ok::<_, SimError>((window, sent, received))
    })?;
    let total_received = received.iter().map(|received| received.bytes).sum();
    let (bytes, seconds) = window.unwrap_or_else(|| {
        let end = received
            .iter()
            .map(|received| received.last)
            .max()
            .unwrap_or(start);
        (total_received, (end - start).as_secs_f64())
    });
    let damaged = sent
        .iter()
        .zip(&received)
        .enumerate()
        .find_map(|(stream, (sent, received))| {
            let missing = (sent.bytes != received.bytes).then_some(received.bytes);
            let offset = received.difference.or(missing)?;
            Some(Integrity::Damaged { stream, offset })
        });
    Ok(TcpReport {
        bytes,
        seconds,
        gbit_per_s: if seconds > 0.0 {
            bytes as f64 * 8e-9 / seconds
        } else {
            0.0
        },
        total_sent: sent.iter().map(|sent| sent.bytes).sum(),
        total_received,
        retransmits: sent.iter().map(|sent| u64::from(sent.retransmits)).sum(),
        integrity: match damaged {
            _ if !options.verify => Integrity::Unchecked,
            Some(damaged) => damaged,
            None => Integrity::Intact,
        },
    })
}

struct Transfer<'a> {
    options: &'a TcpOptions,
    /// Senders are to end their streams.
    over: AtomicBool,
    received: AtomicU64,
}

struct Sent {
    bytes: u64,
    retransmits: u32,
}

struct ReceivedStream {
    bytes: u64,
    difference: Option<u64>,
    last: Instant,
}

impl Transfer<'_> {
    /// Bytes received and seconds passed, after the warm-up.
    fn measure(&self) -> (u64, f64) {
        thread::sleep(self.options.warm_up);
        let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        thread::sleep(self.options.duration);
        let bytes = self.received.load(Ordering::Relaxed) - before;
        (bytes, start.elapsed().as_secs_f64())
    }

    fn send(&self, stream: usize, mut socket: TcpStream) -> Sent {
        let pattern = Pattern::new(stream as u64);
        let mut buffer = vec![0; self.options.write_bytes];
        let limit = self.options.bytes_per_stream.unwrap_or(u64::MAX);
        let deadline = Instant::now() + self.options.duration.max(self.options.timeout);
        let (mut bytes, mut filled) = (0_u64, 0..0_usize);
        while bytes < limit && !self.over.load(Ordering::Relaxed) {
            if self.options.bytes_per_stream.is_some() && Instant::now() > deadline {
                break;
            }
            if filled.is_empty() {
                let left = usize::try_from(limit - bytes).unwrap_or(usize::MAX);
                filled = 0..buffer.len().min(left);
                if self.options.verify {
                    pattern.fill(bytes, &mut buffer[filled.clone()]);
                }
            }
            match socket.write(&buffer[filled.clone()]) {
                Ok(written) => {
                    bytes += written as u64;
                    filled.start += written;
                }
                Err(error) if is_tick(&error) => {}
                // The other end is gone; the counts of both sides tell how much is missing.
                Err(_) => break,
            }
        }
        // An error means that the connection is gone already.
        let _ = socket.shutdown(Shutdown::Write);
        // Until the receiver has everything and closes: what is sent again at the very end counts too.
        let patience = Instant::now() + self.options.timeout;
        while Instant::now() < patience {
            match socket.read(&mut [0; 1]) {
                Err(error) if is_tick(&error) => {}
                _ => break,
            }
        }
        Sent {
            bytes,
            retransmits: tcp_retransmits(&socket).unwrap_or(0),
        }
    }

    fn receive(&self, stream: usize, mut socket: TcpStream) -> ReceivedStream {
        let pattern = Pattern::new(stream as u64);
        let mut buffer = vec![0; READ_BYTES];
        let mut result = ReceivedStream {
            bytes: 0,
            difference: None,
            last: Instant::now(),
        };
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => return result,
                Ok(length) => {
                    if self.options.verify && result.difference.is_none() {
                        result.difference =
                            pattern.first_difference(result.bytes, &buffer[..length]);
                    }
                    result.bytes += length as u64;
                    result.last = Instant::now();
                    self.received.fetch_add(length as u64, Ordering::Relaxed);
                }
                Err(error) if is_tick(&error) => {
                    // A path that carries nothing any more does not hold the transfer up.
                    let idle = result.last.elapsed();
                    if idle > self.options.timeout && self.over.load(Ordering::Relaxed)
                        || idle > self.options.timeout + self.options.duration
                    {
                        return result;
                    }
                }
                Err(_) => return result,
            }
        }
    }
}

/// Makes the connections; the ends of a stream have the same place in both lists.
fn connect(
    client: &Namespace,
    server: &Namespace,
    address: IpAddr,
    options: &TcpOptions,
) -> Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = server
        .run(|| TcpListener::bind(SocketAddr::new(address, 0)))?
        .map_err(cannot(format!(
            "listen on {address} in namespace `{}`",
            server.name()
        )))?;
    let target = listener
        .local_addr()
        .map_err(cannot("name a TCP listener"))?;
    listener
        .set_nonblocking(true)
        .map_err(cannot("set up a TCP listener"))?;
    let (mut sources, mut sinks) = (Vec::new(), Vec::new());
    for _ in 0..options.streams {
        // Sockets keep the namespace they were made in.
        let source = client.run(|| TcpStream::connect_timeout(&target, options.timeout))?;
        let action = format!("connect from namespace `{}` to {target}", client.name());
        let source = source.map_err(cannot(action))?;
        let sink = accept(&listener, options.timeout)?;
        for socket in [&source, &sink] {
            set_up(socket).map_err(cannot("set up a TCP connection"))?;
        }
        sources.push(source);
        sinks.push(sink);
    }
    Ok((sources, sinks))
}

fn set_up(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(TICK))?;
    socket.set_write_timeout(Some(TICK))
}

fn accept(listener: &TcpListener, timeout: Duration) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((socket, _)) => return Ok(socket),
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(cannot("accept a TCP connection")(error));
            }
            Err(_) if start.elapsed() > timeout => {
                let what = "the last step of a TCP handshake".to_owned();
                return Err(SimError::TimedOut {
                    what,
                    after: timeout,
                });
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn is_tick(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
