//! Raw frames: put on a device, or taken from it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::cannot;
use crate::sys::packet::{Batch, MAX_FRAME, Outgoing, PacketSocket, Received};
use crate::{Namespace, Result, SimError};

const BATCH: usize = 16;

/// A frame that arrived at a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedFrame {
    /// From the destination address on, VLAN tags included, without frame check sequence.
    pub bytes: Vec<u8>,
    /// The sender left the transport checksum to the device: only the pseudo-header's sum is filled in.
    pub needs_checksum: bool,
    /// Payload bytes per segment, where the sender left segmentation to the device.
    pub segment_bytes: Option<u16>,
}

impl CapturedFrame {
    /// The EtherType behind all VLAN tags, if the frame is long enough.
    pub fn ether_type(&self) -> Option<u16> {
        let mut types = self.bytes.get(12..)?.chunks(4);
        loop {
            let [high, low, ..] = types.next()? else {
                return None;
            };
            match u16::from_be_bytes([*high, *low]) {
                0x8100 | 0x88a8 => {}
                ether_type => return Some(ether_type),
            }
        }
    }
}

/// Takes frames from a device, from the moment it is made.
pub struct Sniffer {
    socket: PacketSocket,
    name: String,
}

impl Sniffer {
    /// Begins to take the frames that arrive at `device`; what the device sends is not among them.
    ///
    /// # Errors
    /// [`SimError::System`] when there is no such device or raw sockets are not allowed.
    pub fn open(namespace: &Namespace, device: &str) -> Result<Self> {
        let name = format!("`{device}` in namespace `{}`", namespace.name());
        let socket = namespace
            .run(|| PacketSocket::open(device))?
            .map_err(cannot(format!("open a packet socket on {name}")))?;
        Ok(Self { socket, name })
    }

    /// Collects the frames that `filter` accepts until there are `limit` of them or `duration` has passed.
    ///
    /// # Errors
    /// [`SimError::System`] when the device went away.
    pub fn collect(
        &self,
        limit: usize,
        duration: Duration,
        mut filter: impl FnMut(&CapturedFrame) -> bool,
    ) -> Result<Vec<CapturedFrame>> {
        let start = Instant::now();
        let mut batch = Batch::new(BATCH);
        let mut frames = Vec::new();
        while frames.len() < limit {
            let received = self
                .socket
                .receive(&mut batch)
                .map_err(cannot(format!("receive from {}", self.name)))?;
            frames.extend(batch.frames().flatten().map(captured).filter(&mut filter));
            let left = duration.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            if received == 0 {
                let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                // At least one millisecond, or the last one would be spent spinning.
                let time = PollTimeout::try_from(left.max(Duration::from_millis(1)));
                match poll(&mut waiting, time.unwrap_or(PollTimeout::MAX)) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(errno) => return Err(cannot(format!("wait for {}", self.name))(errno)),
                }
            }
        }
        // Frames beyond the limit that came in the same burst.
        frames.truncate(limit);
        Ok(frames)
    }
}

/// Takes frames from `device` for `duration`. What arrives before the call is missed; to see the answer to
/// something, open a [`Sniffer`] first.
///
/// # Errors
/// As [`Sniffer::open`] and [`Sniffer::collect`].
pub fn sniff(
    namespace: &Namespace,
    device: &str,
    duration: Duration,
    filter: impl FnMut(&CapturedFrame) -> bool,
) -> Result<Vec<CapturedFrame>> {
    Sniffer::open(namespace, device)?.collect(usize::MAX, duration, filter)
}

/// Sends frames out of `device` as they are, from the destination address on, without frame check sequence.
///
/// # Errors
/// [`SimError::Invalid`] for a frame of less than 14 or more than 65 600 bytes, [`SimError::System`] when the device refuses one.
pub fn inject<F: AsRef<[u8]>>(namespace: &Namespace, device: &str, frames: &[F]) -> Result<()> {
    let action = || {
        format!(
            "send frames from `{device}` in namespace `{}`",
            namespace.name()
        )
    };
    if let Some(frame) = frames
        .iter()
        .find(|frame| !(14..=MAX_FRAME).contains(&frame.as_ref().len()))
    {
        let message = format!(
            "{} bytes are out of range 14 to {MAX_FRAME}",
            frame.as_ref().len()
        );
        return Err(SimError::Invalid {
            what: "frame",
            message,
        });
    }
    let socket = namespace
        .run(|| PacketSocket::open(device))?
        .map_err(cannot(action()))?;
    for frame in frames {
        let outgoing = Outgoing {
            offload: Default::default(),
            parts: [frame.as_ref(), &[], &[]],
        };
        let start = Instant::now();
        while let Err(error) = socket.send(&[outgoing]) {
            if error.kind() != std::io::ErrorKind::WouldBlock || start.elapsed() > PATIENCE {
                return Err(cannot(action())(error));
            }
            let mut room = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            // Whatever it returns, sending is tried again.
            let _ = poll(&mut room, PollTimeout::from(10_u8));
        }
    }
    Ok(())
}

/// How long a frame may wait for room in the send buffer.
const PATIENCE: Duration = Duration::from_secs(1);

fn captured(frame: Received<'_>) -> CapturedFrame {
    let (addresses, rest) = frame.bytes.split_at(frame.bytes.len().min(12));
    let mut bytes = addresses.to_vec();
    if let Some(tag) = frame.tag {
        bytes.extend(tag.tpid.to_be_bytes());
        bytes.extend(tag.tci.to_be_bytes());
    }
    bytes.extend(rest);
    let segment_bytes = frame.offload.segment_bytes();
    CapturedFrame {
        bytes,
        needs_checksum: frame.offload.needs_checksum(),
        segment_bytes: (segment_bytes > 0).then_some(segment_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::CapturedFrame;

    #[test]
    fn the_ether_type_is_behind_the_tags() {
        let ether_type = |bytes: &[u8]| {
            CapturedFrame {
                bytes: bytes.to_vec(),
                needs_checksum: false,
                segment_bytes: None,
            }
            .ether_type()
        };
        let addresses = [0; 12];
        assert_eq!(
            ether_type(&[&addresses[..], b"\x08\x06xx"].concat()),
            Some(0x0806)
        );
        let tagged = [
            &addresses[..],
            b"\x88\xa8\x00\x01\x81\x00\x00\x02\x86\xddxx",
        ]
        .concat();
        assert_eq!(ether_type(&tagged), Some(0x86dd));
        assert_eq!(ether_type(&tagged[..20]), None);
        assert_eq!(ether_type(&addresses), None);
    }
}
