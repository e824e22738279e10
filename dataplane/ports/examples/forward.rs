//! A wire between two devices: what arrives at one leaves at the other. Shows how ports are used without a graph, and serves to
//! measure them.
//!
//! `forward DEVICE DEVICE [--poll] [--rounds COUNT] [--v3] [--frame BYTES] [--frames COUNT]`: `--poll` never sleeps,
//! otherwise it does after `--rounds` fruitless rounds (50); `--v3` takes rings of blocks; `--frame` and `--frames` shape the
//! ring of frames.

use std::error::Error;
use std::os::fd::BorrowedFd;

use dataplane::{Frame, Pages, Pool, Queue};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ports::{AfPacketConfig, AfPacketPort, RingKind};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut devices, mut rounds) = (Vec::new(), 50);
    let (mut spin, mut blocks, mut count, mut bytes) = (false, false, 1024, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--poll" => spin = true,
            "--rounds" => rounds = arguments.next().ok_or("--rounds COUNT")?.parse()?,
            "--v3" => blocks = true,
            "--frame" => bytes = Some(arguments.next().ok_or("--frame BYTES")?.parse()?),
            "--frames" => count = arguments.next().ok_or("--frames COUNT")?.parse()?,
            device => devices.push(device.to_owned()),
        }
    }
    let ring = if blocks {
        RingKind::Blocks {
            count: 32,
            bytes: 256 << 10,
            retire_ms: 1,
        }
    } else {
        RingKind::Frames { count, bytes }
    };
    let [left, right] = &devices[..] else {
        return Err(
            "usage: forward DEVICE DEVICE [--poll] [--rounds COUNT] [--v3] [--frame BYTES] [--frames COUNT]".into(),
        );
    };
    let mut queues = Vec::new();
    for device in [left, right] {
        let port = AfPacketPort::open(&AfPacketConfig {
            ring,
            ..AfPacketConfig::new(device)
        })?;
        println!("{:?}", port.info);
        queues.extend(port.queues);
    }
    let pool = Pool::new(16_384, Pages::Reserved)?;
    let mut buffers = pool.cache();
    let mut idle = 0;
    loop {
        idle += 1;
        for from in 0..2 {
            let mut frame = Frame::new();
            if queues[from].rx(&mut frame, 64, &mut buffers) > 0 {
                idle = 0;
                let taken = queues[1 - from].tx(frame.packets_mut(), &mut buffers);
                buffers.free_all(&mut frame.packets_mut()[taken..]);
            }
            if idle == 0 || queues[1 - from].pending() {
                queues[1 - from].flush(&mut buffers);
            }
        }
        if idle > rounds && !spin {
            sleep(&queues)?;
            idle = 0;
        }
    }
}

/// Waits until a queue has packets, or a millisecond where one has still to send.
fn sleep(queues: &[Box<dyn Queue>]) -> Result<(), Box<dyn Error>> {
    let pending = queues.iter().any(|queue| queue.pending());
    #[expect(unsafe_code, reason = "poll(2) borrows the queues' descriptors")]
    let mut fds: Vec<PollFd<'_>> = queues
        .iter()
        .filter_map(|queue| queue.readable())
        // JUSTIFICATION: `Queue::readable` gives plain numbers.
        // SAFETY: the queues own the descriptors and outlive this call.
        .map(|fd| PollFd::new(unsafe { BorrowedFd::borrow_raw(fd) }, PollFlags::POLLIN))
        .collect();
    poll(
        &mut fds,
        if pending {
            PollTimeout::from(1u8)
        } else {
            PollTimeout::NONE
        },
    )?;
    Ok(())
}
