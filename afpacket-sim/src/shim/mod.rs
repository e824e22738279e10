//! The tagged end of a host behind a VLAN, for kernels without 802.1Q.
//!
//! ```text
//!  host namespace            shim namespace                       router namespace
//!  ┌────────────┐  veth   ┌──────────────────────────┐   veth   ┌─────────────┐
//!  │ eth0 ──────┼─────────┼─ host ◄── tags ──► trunk ┼──────────┼─ p2         │
//!  └────────────┘ untagged└──────────────────────────┘  tagged  └─────────────┘
//! ```
//!
//! On the way to the trunk the tag is put in (IEEE 802.1Q clause 9), on the way back taken out; frames of other VLANs end
//! there. Packets cross whole, with segmentation and checksum still to be done where the sender left it so. Two tiny programs
//! do it in the kernel ([`Place::Kernel`]), within the sender's system call; where it does not let us load programs, as in
//! a user namespace, a thread does ([`Place::Thread`]), at the price of two wake-ups in each direction.

mod kernel;
mod thread;

use std::time::Duration;

use crate::topology::Tag;
use crate::{Namespace, Result, SimError};

/// TPID of a customer tag (IEEE 802.1Q).
const TPID_8021Q: u16 = 0x8100;
/// TPID of a service tag (IEEE 802.1ad).
const TPID_8021AD: u16 = 0x88a8;

/// Where a shim does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the kernel, by programs on the two devices. Needs `CAP_BPF` and `CAP_NET_ADMIN` of the whole machine.
    Kernel,
    /// In a thread of this process. Needs `CAP_NET_RAW` in the namespace.
    Thread,
}

/// How a shim works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShimOptions {
    /// The VLAN of the trunk side.
    pub tag: Tag,
    /// Where it works; when absent, in the kernel where that is allowed, else in a thread.
    pub place: Option<Place>,
    /// How long a thread looks for more frames after one before it sleeps. Longer gives shorter round trips and
    /// costs that much CPU per burst; an idle shim costs nothing either way. Without effect in the kernel.
    pub busy_poll: Duration,
}

impl ShimOptions {
    /// 50 µs.
    pub const DEFAULT_BUSY_POLL: Duration = Duration::from_micros(50);

    /// A shim for `tag` wherever it can work, with the default busy poll.
    pub fn new(tag: Tag) -> Self {
        Self {
            tag,
            place: None,
            busy_poll: Self::DEFAULT_BUSY_POLL,
        }
    }
}

/// What a shim has done so far, in frames (a whole GSO packet counts as one).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShimStatistics {
    /// Tagged and sent to the trunk.
    pub to_trunk: u64,
    /// Untagged and sent to the host.
    pub to_host: u64,
    /// From the trunk, of another VLAN or untagged.
    pub other_vlan: u64,
    /// Tagged by the host itself, too short or too long.
    pub malformed: u64,
    /// Refused by the sending device, or not accepted in time. Nobody tells a program in the kernel: there the
    /// counters of the devices say it.
    pub send_failed: u64,
}

/// A running shim; it stops when dropped.
pub struct Shim {
    worker: Worker,
}

enum Worker {
    Kernel(kernel::KernelShim),
    Thread(thread::ThreadShim),
}

impl Shim {
    /// Starts a shim between two devices of `namespace`, which must be up.
    ///
    /// # Errors
    /// [`SimError::Unknown`] and [`SimError::System`] when a device is missing, or when neither way is allowed (or not the
    /// one asked for).
    pub fn start(
        namespace: &Namespace,
        host_device: &str,
        trunk_device: &str,
        options: ShimOptions,
    ) -> Result<Self> {
        let in_kernel = || {
            kernel::KernelShim::start(namespace, host_device, trunk_device, options.tag)
                .map(Worker::Kernel)
        };
        let in_thread = || {
            thread::ThreadShim::start(namespace, host_device, trunk_device, options)
                .map(Worker::Thread)
        };
        let worker = match options.place {
            Some(Place::Kernel) => in_kernel(),
            Some(Place::Thread) => in_thread(),
            None => in_kernel().or_else(|refused| match refused {
                // Not allowed, or not built into this kernel.
                SimError::System { .. } => in_thread(),
                other => Err(other),
            }),
        };
        Ok(Self { worker: worker? })
    }

    /// Where it works.
    pub fn place(&self) -> Place {
        match self.worker {
            Worker::Kernel(_) => Place::Kernel,
            Worker::Thread(_) => Place::Thread,
        }
    }

    /// What it has done so far.
    pub fn statistics(&self) -> ShimStatistics {
        match &self.worker {
            Worker::Kernel(shim) => shim.statistics(),
            Worker::Thread(shim) => shim.statistics(),
        }
    }

    /// Whether it still forwards; it ends by itself only when a device vanishes.
    pub fn is_running(&self) -> bool {
        match &self.worker {
            Worker::Kernel(shim) => shim.is_running(),
            Worker::Thread(shim) => shim.is_running(),
        }
    }
}

/// The tags on the wire, outermost first: protocol identifier and VLAN id.
fn tags(tag: Tag) -> impl DoubleEndedIterator<Item = (u16, u16)> {
    let outer = tag.outer.map(|id| (TPID_8021AD, id));
    outer.into_iter().chain([(TPID_8021Q, tag.vlan)])
}
