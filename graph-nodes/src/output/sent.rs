//! Counting what leaves by an interface, once per run of packets.

use dataplane::{Context, InterfaceCounter};

use crate::snapshot::{NO_INTERFACE, Snapshot};

/// Packets and bytes that left by one interface and are not yet counted.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    interface: u16,
    packets: u64,
    bytes: u64,
}

impl Sent {
    /// By no interface.
    pub(crate) const NONE: Self = Self {
        interface: NO_INTERFACE,
        packets: 0,
        bytes: 0,
    };

    /// Counts what was sent, and begins anew with another interface.
    #[cold]
    #[inline(never)]
    pub(crate) fn next(self, interface: u16, cx: &Context<'_, Snapshot>) -> Self {
        if self.packets > 0 {
            let (packets, bytes) = (self.packets, self.bytes);
            cx.count(self.interface, InterfaceCounter::Tx, packets, bytes);
        }
        let up = cx.snapshot.interface(interface).is_some();
        Self {
            interface: if up { interface } else { NO_INTERFACE },
            ..Self::NONE
        }
    }

    /// Whether it counts for this interface, which then is up.
    #[inline(always)]
    pub(crate) fn is_for(self, interface: u16) -> bool {
        self.interface == interface
    }

    /// With one more packet of so many bytes.
    #[inline(always)]
    #[must_use]
    pub(crate) fn plus(self, bytes: u64) -> Self {
        Self {
            packets: self.packets + 1,
            bytes: self.bytes + bytes,
            ..self
        }
    }
}
