//! Device features through the `SIOCETHTOOL` ioctl (linux/ethtool.h).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_WORDS: usize = 8;

/// One feature of a device as the driver reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Feature {
    /// The kernel's name, such as `tx-tcp-segmentation`.
    pub(crate) name: String,
    /// Whether it can be changed.
    pub(crate) available: bool,
    /// Whether it is in effect.
    pub(crate) active: bool,
}

/// The features of `device` in the calling thread's namespace, in the kernel's order.
pub(crate) fn features(device: &str) -> io::Result<Vec<Feature>> {
    let socket = Ethtool::open(device)?;
    let names = socket.feature_names()?;
    let blocks = names.len().div_ceil(32);
    // struct ethtool_gfeatures: cmd, number of blocks, blocks of { available, requested, active, never_changed }.
    let mut request = vec![0; 2 + 4 * blocks];
    request[0] = ETHTOOL_GFEATURES;
    request[1] = blocks as u32;
    socket.call(&mut request)?;
    let bit =
        |word: usize, index: usize| request[2 + 4 * (index / 32) + word] >> (index % 32) & 1 == 1;
    Ok(names
        .into_iter()
        .enumerate()
        .map(|(index, name)| Feature {
            name,
            available: bit(0, index),
            active: bit(2, index),
        })
        .collect())
}

/// Asks for features of `device` by the kernel's names. Names that this kernel does not have are passed over.
pub(crate) fn set_features(device: &str, wanted: &[(&str, bool)]) -> io::Result<()> {
    let socket = Ethtool::open(device)?;
    let names = socket.feature_names()?;
    let blocks = names.len().div_ceil(32);
    // struct ethtool_sfeatures: cmd, number of blocks, blocks of { valid, requested }.
    let mut request = vec![0; 2 + 2 * blocks];
    request[0] = ETHTOOL_SFEATURES;
    request[1] = blocks as u32;
    for (name, on) in wanted {
        if let Some(index) = names.iter().position(|known| known == name) {
            let block = 2 + 2 * (index / 32);
            request[block] |= 1 << (index % 32);
            request[block + 1] |= u32::from(*on) << (index % 32);
        }
    }
    socket.call(&mut request)
}

struct Ethtool {
    socket: UdpSocket,
    device: [libc::c_char; libc::IFNAMSIZ],
}

impl Ethtool {
    fn open(device: &str) -> io::Result<Self> {
        if device.is_empty() || device.len() >= libc::IFNAMSIZ {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut name = [0; libc::IFNAMSIZ];
        for (to, from) in name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        // Any socket of the namespace serves; this one is never connected.
        Ok(Self {
            socket: UdpSocket::bind(("0.0.0.0", 0))?,
            device: name,
        })
    }

    fn feature_names(&self) -> io::Result<Vec<String>> {
        // struct ethtool_sset_info: cmd, reserved, 64-bit mask of sets, one count per set.
        let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
        self.call(&mut info)?;
        let count = info[4] as usize;
        // struct ethtool_gstrings: cmd, set, count, then names of 32 bytes.
        let mut strings = vec![0; 3 + ETH_GSTRING_WORDS * count];
        strings[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        self.call(&mut strings)?;
        Ok(strings[3..]
            .chunks_exact(ETH_GSTRING_WORDS)
            .map(|words| {
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                let end = bytes
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(bytes.len());
                String::from_utf8_lossy(&bytes[..end]).into_owned()
            })
            .collect())
    }

    /// Runs the command in `request`, whose counts must say how long it is: the kernel writes the answer into it.
    fn call(&self, request: &mut [u32]) -> io::Result<()> {
        // JUSTIFICATION: the ioctl takes a C structure with a pointer; no safe wrapper exists.
        // SAFETY: `ifreq` holds plain data, for which zeroes are valid.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        ifreq.ifr_name = self.device;
        ifreq.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // JUSTIFICATION: as above.
        // SAFETY: both structures live across the call. The kernel writes as many words as the
        // counts in `request` say, or as the set has when that is less: every caller in this module
        // sized the slice by the count that it wrote there. The set's size does not change at run time.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) };
        if result >= 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
