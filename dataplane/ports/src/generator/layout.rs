//! Where a template's checksums are and what they cover.

use std::ops::Range;

/// What is known of a frame's headers.
#[derive(Default)]
pub(super) struct Layout {
    /// The IPv4 header's sum.
    pub(super) ip: Option<Sum>,
    /// The layer-4 sum.
    pub(super) layer4: Option<Sum>,
    /// Where the headers end, if they were understood.
    pub(super) headers: Option<usize>,
    /// Fields that lengths and sums depend on: they stay as they are.
    rigid: Vec<Range<usize>>,
}

/// A checksum: where it is stored and what it covers.
pub(super) struct Sum {
    pub(super) at: usize,
    /// The header (and payload).
    covered: Range<usize>,
    /// The addresses that count too, for sums with a pseudo-header.
    addresses: Range<usize>,
    /// The pseudo-header's protocol and length.
    constant: u64,
    pub(super) udp: bool,
}

impl Layout {
    /// Reads Ethernet, up to three VLAN tags, IPv4 or IPv6 (without extension headers), and UDP, TCP, ICMP or ICMPv6. What
    /// it does not understand it leaves alone.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::parse(bytes).unwrap_or_default()
    }

    /// Whether a field is under the IPv4 header's sum and under the layer-4 sum; refuses fields that nobody could keep right.
    pub(super) fn place(&self, field: Range<usize>) -> Result<(bool, bool), String> {
        let meets = |range: &Range<usize>| field.start < range.end && range.start < field.end;
        for sum in [&self.ip, &self.layer4].into_iter().flatten() {
            if meets(&(sum.at..sum.at + 2)) {
                return Err("it is a checksum, which the generator sets itself".into());
            }
        }
        if self.rigid.iter().any(meets) {
            return Err("it decides about the packet's lengths or what the checksum covers".into());
        }
        let within = |sum: &Option<Sum>| {
            let Some(sum) = sum else { return Ok(false) };
            for range in [&sum.covered, &sum.addresses] {
                if field.start >= range.start && field.end <= range.end {
                    return Ok(true);
                }
                if meets(range) {
                    return Err("it crosses the border of what a checksum covers".to_owned());
                }
            }
            Ok(false)
        };
        Ok((within(&self.ip)?, within(&self.layer4)?))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| {
            let pair = bytes.get(at..at + 2)?;
            Some(u16::from_be_bytes([pair[0], pair[1]]))
        };
        let mut at = 12;
        for _ in 0..3 {
            if matches!(half(at)?, 0x8100 | 0x88a8 | 0x9100) {
                at += 4;
            }
        }
        let ip = at + 2;
        match half(at)? {
            0x0800 => {
                let header = usize::from(bytes.get(ip)? & 0x0f) * 4;
                let total = usize::from(half(ip + 2)?);
                if bytes[ip] >> 4 != 4 || header < 20 || total < header || ip + total > bytes.len()
                {
                    return None;
                }
                let mut layout = Self {
                    ip: Some(Sum {
                        at: ip + 10,
                        covered: ip..ip + header,
                        addresses: 0..0,
                        constant: 0,
                        udp: false,
                    }),
                    layer4: None,
                    headers: Some(ip + header),
                    rigid: vec![ip..ip + 1, ip + 2..ip + 4, ip + 6..ip + 8, ip + 9..ip + 10],
                };
                // A fragment's layer-4 sum covers what is not here.
                if half(ip + 6)? & 0x3fff == 0 {
                    let addresses = ip + 12..ip + 20;
                    layout.layer4(
                        bytes,
                        bytes[ip + 9],
                        ip + header..ip + total,
                        addresses,
                        true,
                    );
                }
                Some(layout)
            }
            0x86dd => {
                let end = ip + 40 + usize::from(half(ip + 4)?);
                if bytes.get(ip)? >> 4 != 6 || end > bytes.len() {
                    return None;
                }
                let mut layout = Self {
                    ip: None,
                    layer4: None,
                    headers: Some(ip + 40),
                    rigid: vec![ip..ip + 1, ip + 4..ip + 7],
                };
                let addresses = ip + 8..ip + 40;
                layout.layer4(bytes, bytes[ip + 6], ip + 40..end, addresses, false);
                Some(layout)
            }
            _ => None,
        }
    }

    fn layer4(
        &mut self,
        bytes: &[u8],
        protocol: u8,
        covered: Range<usize>,
        addresses: Range<usize>,
        ip4: bool,
    ) {
        const ICMP: u8 = 1;
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        const ICMP6: u8 = 58;
        let (field, header, pseudo) = match protocol {
            UDP => (6, 8, true),
            TCP => (16, 20, true),
            ICMP if ip4 => (2, 8, false),
            ICMP6 if !ip4 => (2, 8, true),
            _ => return,
        };
        if covered.len() < header {
            return;
        }
        self.headers = Some(covered.start + header);
        let at = covered.start + field;
        if protocol == UDP {
            // Its length is in the pseudo-header too.
            self.rigid.push(covered.start + 4..covered.start + 6);
            let length = u16::from_be_bytes([bytes[covered.start + 4], bytes[covered.start + 5]]);
            if usize::from(length) != covered.len() || (ip4 && bytes[at..at + 2] == [0, 0]) {
                return;
            }
        }
        if at + 2 > super::LONG_HEAD {
            return;
        }
        self.layer4 = Some(Sum {
            at,
            constant: if pseudo {
                u64::from(protocol) + covered.len() as u64
            } else {
                0
            },
            addresses: if pseudo { addresses } else { 0..0 },
            covered,
            udp: protocol == UDP,
        });
    }
}

impl Sum {
    /// The ones-complement sum over all that is covered, not folded.
    pub(super) fn over(&self, bytes: &[u8]) -> u64 {
        [&self.covered, &self.addresses]
            .into_iter()
            .flat_map(|range| bytes[range.clone()].chunks(2))
            .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u64::from(*byte)))
            .sum::<u64>()
            + self.constant
    }
}

/// Adds the carries of a ones-complement sum back in (RFC 1071).
#[inline(always)]
pub(super) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
