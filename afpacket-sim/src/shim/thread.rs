//! The shim as a thread that moves frames between two packet sockets.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::cannot;
use crate::namespace::Task;
use crate::shim::{ShimOptions, ShimStatistics, tags};
use crate::sys::packet::{Batch, Outgoing, PacketSocket, Received};
use crate::topology::Tag;
use crate::{Namespace, Result, SimError};

const ETHERNET_ADDRESSES: usize = 12;
const BATCH: usize = 16;
/// How long one frame may wait for room in the send buffer before it is dropped.
const SEND_PATIENCE_MS: u8 = 2;

#[derive(Default)]
struct Counters {
    to_trunk: AtomicU64,
    to_host: AtomicU64,
    other_vlan: AtomicU64,
    malformed: AtomicU64,
    send_failed: AtomicU64,
}

/// The running thread; it stops when dropped.
pub(super) struct ThreadShim {
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
    /// Closing it wakes the thread.
    wake: Option<PipeWriter>,
    task: Option<Task<()>>,
}

impl ThreadShim {
    /// Opens the sockets and starts the thread.
    pub(super) fn start(
        namespace: &Namespace,
        host_device: &str,
        trunk_device: &str,
        options: ShimOptions,
    ) -> Result<Self> {
        let open = |device: &str| {
            let action = format!(
                "open a packet socket on `{device}` in `{}`",
                namespace.name()
            );
            namespace
                .run(|| PacketSocket::open(device))?
                .map_err(cannot(action))
        };
        let (host, trunk) = (open(host_device)?, open(trunk_device)?);
        let (sleeper, wake) = io::pipe().map_err(cannot("open a pipe"))?;
        let counters = Arc::new(Counters::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            host,
            trunk,
            options,
            counters: Arc::clone(&counters),
            stopping: Arc::clone(&stopping),
            sleeper,
        };
        let task = namespace.spawn("vlan-shim", move || worker.run())?;
        Ok(Self {
            counters,
            stopping,
            wake: Some(wake),
            task: Some(task),
        })
    }

    pub(super) fn statistics(&self) -> ShimStatistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ShimStatistics {
            to_trunk: read(&self.counters.to_trunk),
            to_host: read(&self.counters.to_host),
            other_vlan: read(&self.counters.other_vlan),
            malformed: read(&self.counters.malformed),
            send_failed: read(&self.counters.send_failed),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }
}

impl Drop for ThreadShim {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.wake.take());
        if let Some(task) = self.task.take() {
            // A panic of the thread has been printed; there is nobody to pass it on to.
            let _: Result<(), SimError> = task.join();
        }
    }
}

struct Worker {
    host: PacketSocket,
    trunk: PacketSocket,
    options: ShimOptions,
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
    sleeper: PipeReader,
}

impl Worker {
    fn run(self) {
        let mut batch = Batch::new(BATCH);
        let header = tag_bytes(self.options.tag);
        let mut last_activity = Instant::now();
        while !self.stopping.load(Ordering::Relaxed) {
            let moved = self
                .host_to_trunk(&mut batch, &header)
                .and_then(|to_trunk| Ok(to_trunk + self.trunk_to_host(&mut batch)?));
            match moved {
                Ok(0) if last_activity.elapsed() < self.options.busy_poll => std::hint::spin_loop(),
                Ok(0) => {
                    if self.sleep().is_err() {
                        return;
                    }
                    last_activity = Instant::now();
                }
                Ok(_) => last_activity = Instant::now(),
                // A device that went down can come up again; one that is gone cannot.
                Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => {
                    if self.sleep().is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn sleep(&self) -> io::Result<()> {
        let mut waiting = [self.sleeper.as_fd(), self.host.as_fd(), self.trunk.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn host_to_trunk(&self, batch: &mut Batch, header: &[u8]) -> io::Result<usize> {
        let received = self.host.receive(batch)?;
        if received > 0 {
            let frames = batch
                .frames()
                .map(|frame| frame.and_then(|frame| tagged(frame, header)));
            self.forward(
                frames,
                &self.trunk,
                &self.counters.to_trunk,
                &self.counters.malformed,
            );
        }
        Ok(received)
    }

    fn trunk_to_host(&self, batch: &mut Batch) -> io::Result<usize> {
        let received = self.trunk.receive(batch)?;
        if received > 0 {
            let tag = self.options.tag;
            let frames = batch
                .frames()
                .map(|frame| frame.and_then(|frame| untagged(frame, tag)));
            self.forward(
                frames,
                &self.host,
                &self.counters.to_host,
                &self.counters.other_vlan,
            );
        }
        Ok(received)
    }

    fn forward<'a>(
        &self,
        frames: impl Iterator<Item = Option<Outgoing<'a>>>,
        to: &PacketSocket,
        sent: &AtomicU64,
        refused: &AtomicU64,
    ) {
        let mut outgoing: [Option<Outgoing<'a>>; BATCH] = [None; BATCH];
        let mut count = 0;
        for frame in frames {
            match frame {
                Some(frame) => {
                    outgoing[count] = Some(frame);
                    count += 1;
                }
                None => add(refused, 1),
            }
        }
        let empty = Outgoing {
            offload: Default::default(),
            parts: [&[]; 3],
        };
        let frames = outgoing.map(|frame| frame.unwrap_or(empty));
        let mut rest = &frames[..count];
        let mut waited = false;
        while !rest.is_empty() {
            match to.send(rest) {
                Ok(accepted) => {
                    add(sent, accepted as u64);
                    rest = &rest[accepted.min(rest.len())..];
                    waited = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !waited => {
                    let mut room = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
                    // Whatever it returns, the frame is tried once more and then dropped.
                    let _ = poll(&mut room, SEND_PATIENCE_MS);
                    waited = true;
                }
                Err(_) => {
                    add(&self.counters.send_failed, 1);
                    rest = &rest[1..];
                    waited = false;
                }
            }
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// The bytes to put in behind the Ethernet addresses.
fn tag_bytes(tag: Tag) -> Vec<u8> {
    tags(tag)
        .flat_map(|(tpid, id)| [tpid.to_be_bytes(), id.to_be_bytes()].concat())
        .collect()
}

/// The frame of the host with the tag put in; `None` when it has one already or is no Ethernet frame.
fn tagged<'a>(frame: Received<'a>, header: &'a [u8]) -> Option<Outgoing<'a>> {
    let (addresses, rest) = frame.bytes.split_at_checked(ETHERNET_ADDRESSES)?;
    if frame.tag.is_some() || rest.len() < 2 {
        return None;
    }
    let offload = frame.offload.shifted(header.len() as u16)?;
    Some(Outgoing {
        offload,
        parts: [addresses, header, rest],
    })
}

/// The frame of the trunk with its tags taken out; `None` when they are not those of `tag`.
///
/// The kernel has put the outermost tag aside already, and counts offsets without it.
fn untagged(frame: Received<'_>, tag: Tag) -> Option<Outgoing<'_>> {
    let (addresses, mut rest) = frame.bytes.split_at_checked(ETHERNET_ADDRESSES)?;
    let mut aside = frame.tag.map(|tag| (tag.tpid, tag.tci));
    let mut inline = 0;
    for (tpid, id) in tags(tag) {
        let found = match aside.take() {
            Some(found) => found,
            None => {
                let (bytes, behind) = rest.split_at_checked(4)?;
                rest = behind;
                inline += 4;
                (
                    u16::from_be_bytes([bytes[0], bytes[1]]),
                    u16::from_be_bytes([bytes[2], bytes[3]]),
                )
            }
        };
        // The upper four bits are priority and drop eligibility.
        if (found.0, found.1 & 0x0fff) != (tpid, id) {
            return None;
        }
    }
    if rest.len() < 2 {
        return None;
    }
    let offload = frame.offload.unshifted(inline)?;
    Some(Outgoing {
        offload,
        parts: [addresses, &[], rest],
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{tag_bytes, tagged, untagged};
    use crate::sys::packet::{Received, StrippedTag, VnetHeader};
    use crate::topology::Tag;

    const PLAIN: &[u8] = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x08\x00payload";

    fn received(bytes: &[u8], tag: Option<StrippedTag>) -> Received<'_> {
        Received {
            offload: VnetHeader::default(),
            tag,
            bytes,
        }
    }

    #[test]
    fn the_tag_goes_in_behind_the_addresses() {
        let header = tag_bytes(Tag {
            vlan: 10,
            outer: None,
        });
        let frame = tagged(received(PLAIN, None), &header).expect("a plain frame");
        assert_eq!(
            frame.parts.concat(),
            b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x81\x00\x00\x0a\x08\x00payload"
        );
        assert_eq!(
            tag_bytes(Tag {
                vlan: 10,
                outer: Some(100)
            }),
            b"\x88\xa8\x00\x64\x81\x00\x00\x0a"
        );
    }

    #[test]
    fn a_host_may_not_tag_and_short_frames_end() {
        let header = tag_bytes(Tag {
            vlan: 10,
            outer: None,
        });
        let tag = StrippedTag {
            tpid: 0x8100,
            tci: 10,
        };
        assert!(tagged(received(PLAIN, Some(tag)), &header).is_none());
        assert!(tagged(received(&PLAIN[..13], None), &header).is_none());
    }

    #[test]
    fn only_the_own_vlan_is_untagged() {
        let tag = Tag {
            vlan: 10,
            outer: None,
        };
        let with = |tpid, tci| untagged(received(PLAIN, Some(StrippedTag { tpid, tci })), tag);
        assert_eq!(with(0x8100, 10).expect("its VLAN").parts.concat(), PLAIN);
        assert_eq!(
            with(0x8100, 0xe00a)
                .expect("with priority 7")
                .parts
                .concat(),
            PLAIN
        );
        assert!(with(0x8100, 11).is_none());
        assert!(with(0x88a8, 10).is_none());
        assert!(
            untagged(received(PLAIN, None), tag).is_none(),
            "an untagged frame"
        );
    }

    proptest! {
        #[test]
        fn what_is_tagged_is_untagged_again(
            bytes in prop::collection::vec(any::<u8>(), 14..200),
            vlan in 1_u16..4095,
            outer in prop::option::of(1_u16..4095),
            kernel_strips in any::<bool>(),
        ) {
            let tag = Tag { vlan, outer };
            let header = tag_bytes(tag);
            let wire = tagged(received(&bytes, None), &header).expect("long enough").parts.concat();
            // The kernel puts the outermost tag aside, or leaves it where it is.
            let mut arrived = wire.clone();
            let mut aside = None;
            if kernel_strips {
                aside = Some(StrippedTag {
                    tpid: u16::from_be_bytes([wire[12], wire[13]]),
                    tci: u16::from_be_bytes([wire[14], wire[15]]),
                });
                arrived.drain(12..16);
            }
            let back = untagged(received(&arrived, aside), tag).expect("its own VLAN");
            prop_assert_eq!(back.parts.concat(), bytes);
        }

        #[test]
        fn any_bytes_are_forwarded_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            outer in prop::option::of(1_u16..4095),
            aside in prop::option::of((any::<u16>(), any::<u16>())),
            offload in any::<[u8; 10]>(),
        ) {
            let tag = Tag { vlan: 1, outer };
            let aside = aside.map(|(tpid, tci)| StrippedTag { tpid, tci });
            let frame = Received { offload: VnetHeader(offload), tag: aside, bytes: &bytes };
            if let Some(out) = tagged(frame, &tag_bytes(tag)) {
                prop_assert_eq!(out.parts.concat().len(), bytes.len() + usize::from(tag.bytes()));
            }
            let _ = untagged(frame, tag);
        }
    }
}
