//! Counting what leaves by an interface, once per run of packets.

use dataplane::{Context, InterfaceCounter};

use crate::snapshot::{NO_INTERFACE, Snapshot};

/// Packets and bytes that left by one interface and are not yet counted.
pub(crate) struct Sent {
    pub(crate) interface: u16,
    /// Whether the interface is up.
    pub(crate) up: bool,
    packets: u64,
    bytes: u64,
}

impl Default for Sent {
    /// By no interface.
    fn default() -> Self {
        Self {
            interface: NO_INTERFACE,
            up: false,
            packets: 0,
            bytes: 0,
        }
    }
}

impl Sent {
    /// Nothing yet, by this interface.
    pub(crate) fn on(interface: u16, snapshot: &Snapshot) -> Self {
        let up = snapshot.interface(interface).is_some();
        Self {
            interface,
            up,
            ..Self::default()
        }
    }

    /// One packet of so many bytes.
    #[inline(always)]
    pub(crate) fn count(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }

    /// Counts what was sent.
    pub(crate) fn flush(&self, cx: &Context<'_, Snapshot>) {
        if self.packets > 0 {
            cx.count(
                self.interface,
                InterfaceCounter::Tx,
                self.packets,
                self.bytes,
            );
        }
    }
}
