//! Flow hashes: the same for all packets of a flow, so that they take the same one of several next hops (RFC 2992).

/// Spreads 64 bits: the finaliser of MurmurHash3, by multiplication and shifts.
#[inline]
const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// Hash of an IPv4 packet's addresses, protocol and, where it is no fragment, ports. Fragments of a packet all hash without
/// ports, so that they stay together.
pub fn ip4(packet: &[u8]) -> u32 {
    let Some(header) = packet.first_chunk::<20>() else {
        return 0;
    };
    let addresses = u64::from_ne_bytes([
        header[12], header[13], header[14], header[15], header[16], header[17], header[18],
        header[19],
    ]);
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let l4 = usize::from(header[0] & 15) * 4;
    let ports = ports(packet, header[9], l4, fragment);
    mix(addresses ^ mix(u64::from(ports) << 8 | u64::from(header[9]))) as u32
}

/// Hash of an IPv6 packet's addresses, flow label and next header; ports where they follow the fixed header (RFC 6438 lets the
/// label stand for them).
pub fn ip6(packet: &[u8]) -> u32 {
    let Some(header) = packet.first_chunk::<40>() else {
        return 0;
    };
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    let label = u32::from_be_bytes([0, header[1] & 15, header[2], header[3]]);
    let ports = ports(packet, header[6], 40, false);
    let rest = u64::from(ports) << 28 ^ u64::from(label) << 8 ^ u64::from(header[6]);
    let source = mix(word(8) ^ mix(word(16)));
    mix(source ^ mix(word(24) ^ mix(word(32) ^ mix(rest)))) as u32
}

/// Both ports of TCP, UDP, UDP-Lite, DCCP and SCTP; 0 for others.
fn ports(packet: &[u8], protocol: u8, at: usize, fragment: bool) -> u32 {
    if fragment || !matches!(protocol, 6 | 17 | 33 | 132 | 136) {
        return 0;
    }
    packet.get(at..at + 4).map_or(0, |bytes| {
        u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_stay_together_and_ports_spread() {
        let mut packet = [0; 24];
        packet[0] = 0x45;
        packet[9] = 17;
        let hash = |packet: &[u8; 24]| ip4(packet) & 15;
        let mut buckets = [0; 16];
        for port in 0..1600u16 {
            packet[20..22].copy_from_slice(&port.to_be_bytes());
            buckets[hash(&packet) as usize] += 1;
        }
        assert!(
            buckets.iter().all(|count| (50..200).contains(count)),
            "{buckets:?}"
        );
        let mut fragment = packet;
        fragment[6] = 0x20;
        let first = ip4(&fragment);
        fragment[20] ^= 0xff;
        assert_eq!(ip4(&fragment), first);
        assert_eq!((ip4(&[]), ip6(&[])), (0, 0));
    }
}
