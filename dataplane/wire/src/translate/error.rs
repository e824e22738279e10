//! ICMP errors: what both directions do in the same way (RFC 7915 sections 4.2, 4.3, 5.2, 5.3).
//!
//! ```text
//!        icmp_at    quote_at      body                      end
//!           |<- 8 ->|<-inner_len->|                          |
//! +---------+-------+-------------+-------------+------------+
//! | IP      | ICMP  | IP          | transport … | extensions |
//! +---------+-------+-------------+-------------+------------+
//!                   |<----- quote_len --------->|
//! ```

use core::ops::Range;

use super::icmp::ErrorHeader;
use crate::checksum::{Delta, Sum};

/// Length of the ICMP header of an error, bytes.
pub(super) const ICMP_LEN: usize = 8;
/// How much of a quoted packet's transport header can change, bytes: up to the checksum of TCP.
const CHANGED_LEN: usize = 18;
/// The least length of a quoted packet that extensions follow, bytes (RFC 4884 section 3).
const MIN_EXTENDED_QUOTE: usize = 128;

/// Where the parts of an ICMP error are.
pub(super) struct Layout {
    /// Where the ICMP header starts.
    pub(super) icmp_at: usize,
    /// Length of the IP headers of the quoted packet, bytes; even.
    pub(super) inner_len: usize,
    /// Length of the quoted packet as far as it is there, bytes.
    pub(super) quote_len: usize,
    /// Where the message ends. If that is not where the quoted packet ends, extensions follow.
    pub(super) end: usize,
}

impl Layout {
    /// Length of the quoted packet in a message whose length field holds `units` of `unit` bytes
    /// and that has `available` bytes after the ICMP header. A field that is zero, or that no sender of
    /// extensions would write, says that there are none (RFC 4884 section 4).
    pub(super) fn quote_len(units: u8, unit: usize, available: usize) -> usize {
        let length = usize::from(units) * unit;
        if (MIN_EXTENDED_QUOTE..available).contains(&length) {
            length
        } else {
            available
        }
    }
}

impl Layout {
    /// Where the quoted packet's payload is, as far as it is there. By its header it is `payload_len` bytes
    /// long; padding in front of extensions is no part of it.
    pub(super) fn quoted_payload(&self, payload_len: usize) -> Range<usize> {
        let at = self.icmp_at + ICMP_LEN + self.inner_len;
        at..at + payload_len.min(self.quote_len - self.inner_len)
    }
}

/// The sizes that messages of a version have.
pub(super) struct Format {
    /// What the length field of extended messages counts, bytes; a power of two (RFC 4884 section 3).
    pub(super) unit: usize,
    /// The longest message, bytes; even.
    pub(super) max_message: usize,
}

/// A message in its new form.
pub(super) struct Message {
    /// Its length, bytes.
    pub(super) len: usize,
    /// Its checksum by the old pseudo-header, if there was one.
    pub(super) checksum: u16,
    /// How many bytes at the start of the packet are replaced by new headers.
    pub(super) replaces: usize,
    /// Where the packet ends.
    pub(super) end: usize,
}

/// Brings an error into its new form: `header`, the quoted packet with `inner` as its IP headers and with
/// its transport header changed by `rewrite`, and the extensions, if they fit. Writes the ICMP header
/// and `inner` to `out`, with the checksum to be filled in.
pub(super) fn assemble(
    packet: &mut [u8],
    layout: &Layout,
    mut header: ErrorHeader,
    inner: &[u8],
    format: &Format,
    rewrite: impl FnOnce(&mut [u8]),
    out: &mut [u8],
) -> Message {
    let quote_at = layout.icmp_at + ICMP_LEN;
    let body = quote_at + layout.inner_len;
    let payload_len = layout.quote_len - layout.inner_len;
    let extension_len = layout.end - quote_at - layout.quote_len;
    let quote_len = inner.len() + payload_len;

    // Extensions come after a whole number of units, and no less than 128 bytes.
    let extended = quote_len
        .next_multiple_of(format.unit)
        .max(MIN_EXTENDED_QUOTE);
    let units = u8::try_from(extended / format.unit).ok();
    let with_extension = ICMP_LEN + extended + extension_len;
    let (kept, padding, end, len) = match (header.length_at, units) {
        (Some(at), Some(units)) if extension_len > 0 && with_extension <= format.max_message => {
            header.rest[at] = units;
            (
                payload_len,
                extended - quote_len,
                layout.end,
                with_extension,
            )
        }
        _ => {
            let kept = payload_len.min(format.max_message - ICMP_LEN - inner.len());
            (kept, 0, body + kept, ICMP_LEN + inner.len() + kept)
        }
    };

    // The sum loses what is replaced and what is cut off. All parts start at even offsets, so padding and
    // moves do not count.
    let changed = body..body + kept.min(CHANGED_LEN);
    let cut = Sum::new().bytes(&packet[end..layout.end]);
    let old = Sum::new()
        .bytes(&packet[layout.icmp_at..layout.icmp_at + 2])
        .bytes(&packet[layout.icmp_at + 4..body])
        .word16(cut.folded())
        .bytes(&packet[changed.clone()]);
    let checksum = u16::from_be_bytes([packet[layout.icmp_at + 2], packet[layout.icmp_at + 3]]);
    rewrite(&mut packet[body..body + kept]);
    let new = Sum::new()
        .bytes(&[header.icmp_type, header.code])
        .bytes(&header.rest)
        .bytes(inner)
        .bytes(&packet[changed]);
    let checksum = Delta::of16(old.folded(), new.folded()).apply(checksum);

    // Padding goes between the quoted packet and its extensions. The quoted packet moves towards the old
    // headers, of which there is more than enough: there are 48 bytes or more, and 108 minus the length
    // of the quoted payload is the most that is ever missing.
    if padding > 0 {
        packet.copy_within(body..body + kept, body - padding);
        packet[body + kept - padding..body + kept].fill(0);
    }

    out[..2].copy_from_slice(&[header.icmp_type, header.code]);
    out[2..4].fill(0);
    out[4..ICMP_LEN].copy_from_slice(&header.rest);
    out[ICMP_LEN..ICMP_LEN + inner.len()].copy_from_slice(inner);
    Message {
        len,
        checksum,
        replaces: body - padding,
        end,
    }
}
