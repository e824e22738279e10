//! Devices below interfaces: AF_PACKET sockets, or whatever a bench or test puts in their place.

use std::fmt;
use std::sync::Arc;

use dataplane::Queue;
use model::{AfPacket, RingVersion};
use ports::{AfPacketConfig, AfPacketPort, RingKind};
use wire::MacAddr;

use crate::compile::PortFacts;

/// A device that was opened.
pub struct OpenDevice {
    /// Its name.
    pub name: String,
    /// The kernel's number of it, by which it is noticed when it goes; `None` for what stays as long as the engine.
    pub index: Option<u32>,
    /// What it is like.
    pub facts: PortFacts,
    /// One queue for each worker.
    pub queues: Vec<Box<dyn Queue>>,
}

type Open = dyn Fn(&AfPacket, usize) -> Result<OpenDevice, String> + Send + Sync;

/// Opens devices: as AF_PACKET sockets, unless it is given another way.
#[derive(Clone)]
pub struct Opener(Arc<Open>);

impl Default for Opener {
    fn default() -> Self {
        Self::new(open)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

impl Opener {
    /// With a function that is given what an interface asks for and the number of workers, and says what is wrong where it cannot open
    /// the device.
    pub fn new(
        open: impl Fn(&AfPacket, usize) -> Result<OpenDevice, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }

    pub(super) fn open(&self, spec: &AfPacket, workers: usize) -> Result<OpenDevice, String> {
        (self.0)(spec, workers)
    }
}

fn open(spec: &AfPacket, workers: usize) -> Result<OpenDevice, String> {
    let mut config = AfPacketConfig::new(spec.device.as_str());
    config.queues = workers as u16;
    config.ring = match spec.version {
        Some(RingVersion::V3) => RingKind::v3(),
        _ => RingKind::default(),
    };
    config.qdisc_bypass = spec.qdisc_bypass;
    config.offloads = spec.offloads;
    config.gro = spec.gro;
    let AfPacketPort { info, queues } =
        AfPacketPort::open(&config).map_err(|error| error.to_string())?;
    Ok(OpenDevice {
        name: info.device,
        index: Some(info.ifindex),
        facts: PortFacts {
            mac: MacAddr::new(info.mac),
            mtu: info.mtu,
            capabilities: info.capabilities,
        },
        queues,
    })
}
