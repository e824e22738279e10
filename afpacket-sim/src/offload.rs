//! Checksum and segmentation offloads of a device, what `ethtool -K` changes.

use crate::error::cannot;
use crate::{Namespace, Result, SimError, sys};

/// Offloads of a device.
///
/// On a veth they decide what crosses the pair: with all on, TCP hands over packets of up to 64 KiB whose
/// checksum is not filled in; with all off, every frame is at most an MTU and complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums are left to the device at sending (`tx-checksum-ip-generic`, `tx-checksum-sctp`).
    pub tx_checksum: bool,
    /// Checksums are taken as verified at receiving (`rx-checksum`).
    pub rx_checksum: bool,
    /// Segmentation of TCP is left to the device (`tx-tcp-segmentation` and its kin). Needs `tx_checksum`.
    pub tso: bool,
    /// Packets stay unsegmented until they reach the device (`tx-generic-segmentation`), UDP included.
    pub gso: bool,
    /// Received segments are put together again (`rx-gro`). On a veth this also switches to NAPI.
    pub gro: bool,
}

impl Offloads {
    /// What a new veth has: all but `gro`.
    pub const ON: Self = Self {
        tx_checksum: true,
        rx_checksum: true,
        tso: true,
        gso: true,
        gro: false,
    };
    /// None.
    pub const OFF: Self = Self {
        tx_checksum: false,
        rx_checksum: false,
        tso: false,
        gso: false,
        gro: false,
    };

    fn features(self) -> [(&'static str, bool); 15] {
        [
            ("tx-checksum-ip-generic", self.tx_checksum),
            ("tx-checksum-ipv4", self.tx_checksum),
            ("tx-checksum-ipv6", self.tx_checksum),
            ("tx-checksum-sctp", self.tx_checksum),
            // Packets in pieces cannot be sent without a checksum by the device.
            ("tx-scatter-gather", self.tx_checksum),
            ("tx-scatter-gather-fraglist", self.tx_checksum),
            ("rx-checksum", self.rx_checksum),
            ("tx-tcp-segmentation", self.tso),
            ("tx-tcp-ecn-segmentation", self.tso),
            ("tx-tcp-mangleid-segmentation", self.tso),
            ("tx-tcp6-segmentation", self.tso),
            ("tx-generic-segmentation", self.gso),
            ("tx-udp-segmentation", self.gso),
            ("tx-gso-list", self.gso),
            ("rx-gro", self.gro),
        ]
    }
}

/// Sets the offloads of a device and checks that what is to be off is off.
///
/// # Errors
/// [`SimError::System`] when the device is unknown or the kernel refuses, [`SimError::Invalid`] when it keeps an
/// offload on.
pub fn set_offloads(namespace: &Namespace, device: &str, offloads: Offloads) -> Result<()> {
    let action = || {
        format!(
            "set the offloads of `{device}` in namespace `{}`",
            namespace.name()
        )
    };
    let wanted = offloads.features();
    let active = namespace
        .run(|| {
            // Devices differ in what they offer; asking for what cannot be changed is an error.
            let available: Vec<_> = sys::ethtool::features(device)?
                .into_iter()
                .filter(|feature| feature.available)
                .collect();
            let changes: Vec<_> = wanted
                .into_iter()
                .filter(|(name, _)| available.iter().any(|feature| feature.name == *name))
                .collect();
            sys::ethtool::set_features(device, &changes)?;
            sys::ethtool::features(device)
        })?
        .map_err(cannot(action()))?;
    let stuck: Vec<_> = active
        .iter()
        .filter(|feature| feature.active && wanted.contains(&(feature.name.as_str(), false)))
        .map(|feature| feature.name.as_str())
        .collect();
    if stuck.is_empty() {
        return Ok(());
    }
    let message = format!("the kernel keeps {} on for `{device}`", stuck.join(", "));
    Err(SimError::Invalid {
        what: "offloads",
        message,
    })
}

/// The names of the features that are in effect on a device, in the kernel's words.
///
/// # Errors
/// [`SimError::System`] when the device is unknown.
pub fn active_features(namespace: &Namespace, device: &str) -> Result<Vec<String>> {
    let features = namespace
        .run(|| sys::ethtool::features(device))?
        .map_err(cannot(format!(
            "read the offloads of `{device}` in namespace `{}`",
            namespace.name()
        )))?;
    Ok(features
        .into_iter()
        .filter(|feature| feature.active)
        .map(|feature| feature.name)
        .collect())
}
