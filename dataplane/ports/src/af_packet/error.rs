//! Why a port could not be opened.

use std::fmt;
use std::io;

/// Why a port could not be opened: each variant says whose turn it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum PortError {
    /// The network namespace has no device of this name.
    NoDevice {
        /// The name.
        device: String,
        /// The names that there are.
        present: Vec<String>,
    },
    /// The process lacks a capability.
    Permission {
        /// The device to be opened.
        device: String,
        /// What was refused.
        step: &'static str,
    },
    /// The device does not carry Ethernet frames.
    NotEthernet {
        /// The device.
        device: String,
        /// Its `ARPHRD_…` number.
        hardware: u16,
    },
    /// The configuration is out of range.
    Config {
        /// The field of [`AfPacketConfig`](super::AfPacketConfig).
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The kernel refused a step.
    System {
        /// The device.
        device: String,
        /// What was refused.
        step: &'static str,
        /// The kernel's answer.
        error: io::Error,
    },
}

impl PortError {
    pub(super) fn of(device: String, step: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Permission { device, step },
            _ => Self::System {
                device,
                step,
                error,
            },
        }
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { device, present } => write!(
                f,
                "there is no network device {device:?} in this network namespace; it has: {}",
                present.join(", ")
            ),
            Self::Permission { device, step } => write!(
                f,
                "cannot {step} for device {device:?}: not permitted; run as root or give the program CAP_NET_RAW in the \
                 device's network namespace"
            ),
            Self::NotEthernet { device, hardware } => write!(
                f,
                "device {device:?} does not carry Ethernet frames (its hardware type is {hardware}, Ethernet is 1); choose \
                 an Ethernet device"
            ),
            Self::Config { field, problem } => {
                write!(f, "AF_PACKET port: {field}: {problem}")
            }
            Self::System {
                device,
                step,
                error,
            } => {
                write!(f, "cannot {step} for device {device:?}: {error}")?;
                match error.raw_os_error() {
                    Some(libc::ENOMEM) => f.write_str("; ask for a smaller ring"),
                    Some(libc::EAFNOSUPPORT) => {
                        f.write_str("; this kernel is built without packet sockets")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for PortError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { error, .. } => Some(error),
            _ => None,
        }
    }
}
