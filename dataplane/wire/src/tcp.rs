//! Transmission control protocol (RFC 9293; options of RFC 7323, RFC 2018).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          source port          |       destination port        |
//! +-------------------------------+-------------------------------+
//! |                        sequence number                        |
//! +---------------------------------------------------------------+
//! |                     acknowledgment number                     |
//! +-------+-----+-+-+-+-+-+-+-+-+-+-------------------------------+
//! |  data | rsv |A|C|E|U|A|P|R|S|F|            window             |
//! | offset|     |E|W|C|R|C|S|S|Y|I|                               |
//! |       |     | |R|E|G|K|H|T|N|N|                               |
//! +-------+-----+-+-+-+-+-+-+-+-+-+-------------------------------+
//! |           checksum            |        urgent pointer         |
//! +-------------------------------+-------------------------------+
//! |                  options (data offset - 5 words)              |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::ops::BitOr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::{Header, ParseError};

/// The fixed part of a TCP header, 20 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number of the first payload byte, or of SYN.
    pub seq: U32,
    /// Next sequence number expected, if ACK is set.
    pub ack: U32,
    /// Data offset in 32-bit words (high four bits), reserved bits, AE (lowest bit).
    pub data_offset_reserved: u8,
    /// Flags.
    pub flags: TcpFlags,
    /// Receive window, in units of the negotiated scale.
    pub window: U16,
    /// Checksum over pseudo-header, header and payload.
    pub checksum: U16,
    /// Urgent pointer, if URG is set.
    pub urgent: U16,
}

impl Header for TcpHeader {}

impl TcpHeader {
    /// The header and the bytes after its options.
    ///
    /// # Errors
    /// `Truncated`; `BadHeaderLength` if the data offset is below 5 words or beyond the bytes.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        TcpSegment::parse(bytes).map(|segment| (segment.header, segment.payload))
    }

    /// Header length with options, bytes (0 to 60; below 20 is malformed).
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.data_offset_reserved >> 4) as usize * 4
    }

    /// Whether the accurate-ECN bit (once NS) is set (RFC 9768).
    #[inline]
    pub const fn accurate_ecn(&self) -> bool {
        self.data_offset_reserved & 1 != 0
    }
}

/// A TCP segment cut into its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment<'a> {
    /// The fixed part of the header.
    pub header: &'a TcpHeader,
    /// The options, 0 to 40 bytes.
    pub options: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// Cuts a segment, `bytes` being all of the IP payload, into header, options and payload.
    ///
    /// # Errors
    /// `Truncated`; `BadHeaderLength` if the data offset is below 5 words or beyond the bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = TcpHeader::view(bytes)?;
        let (head, payload) = bytes
            .split_at_checked(header.header_len())
            .ok_or(ParseError::BadHeaderLength)?;
        let options = head
            .get(TcpHeader::LEN..)
            .ok_or(ParseError::BadHeaderLength)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// The options one by one.
    #[inline]
    pub fn options(&self) -> TcpOptions<'a> {
        TcpOptions::new(self.options)
    }
}

/// Verifies the checksum of `segment` (header, options and payload), with `pseudo` from
/// [`Ip4Header::pseudo_header`](crate::Ip4Header::pseudo_header) or
/// [`Ip6Header::pseudo_header`](crate::Ip6Header::pseudo_header).
///
/// # Errors
/// `Truncated`, `BadChecksum`.
pub fn verify_checksum(pseudo: Sum, segment: &[u8]) -> Result<(), ParseError> {
    TcpHeader::view(segment)?;
    if pseudo.bytes(segment).is_valid() {
        Ok(())
    } else {
        Err(ParseError::BadChecksum)
    }
}

/// The flags of a TCP header.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Hand data to the application at once.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// A congestion mark was seen (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// The congestion window was reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);
    /// SYN and ACK: the second step of the handshake.
    pub const SYN_ACK: Self = Self(0x12);
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether all of `flags` are set.
    #[inline]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any of `flags` is set.
    #[inline]
    pub const fn intersects(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Whether the segment opens a connection: SYN without ACK, RST and FIN.
    #[inline]
    pub const fn is_opening(self) -> bool {
        self.0 & 0x17 == Self::SYN.0
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for TcpFlags {
    /// As tcpdump writes them: `S`, `S.`, `P.`, `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        let letters = [
            (Self::FIN, 'F'),
            (Self::SYN, 'S'),
            (Self::RST, 'R'),
            (Self::PSH, 'P'),
            (Self::ACK, '.'),
            (Self::URG, 'U'),
            (Self::ECE, 'E'),
            (Self::CWR, 'W'),
        ];
        letters
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .try_for_each(|(_, letter)| write!(f, "{letter}"))
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// Numbers of TCP options.
pub mod option {
    /// End of the list.
    pub const END: u8 = 0;
    /// No operation.
    pub const NO_OPERATION: u8 = 1;
    /// Maximum segment size (RFC 9293 section 3.7.1).
    pub const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    /// Window scale (RFC 7323 section 2).
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgment permitted (RFC 2018 section 2).
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgment (RFC 2018 section 3).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323 section 3).
    pub const TIMESTAMPS: u8 = 8;
}

/// One option of a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Padding between options.
    NoOperation,
    /// Largest segment that the sender accepts, bytes without headers.
    MaximumSegmentSize(u16),
    /// Shift of the window field, bits.
    WindowScale(u8),
    /// The sender understands selective acknowledgments.
    SackPermitted,
    /// Received blocks: pairs of 32-bit sequence numbers, 8 to 32 bytes.
    Sack(&'a [u8]),
    /// Timestamps.
    Timestamps {
        /// The sender's clock.
        value: u32,
        /// The newest clock value seen from the peer.
        echo: u32,
    },
    /// An option that this package does not interpret.
    Other {
        /// Its number.
        kind: u8,
        /// Its bytes after number and length.
        data: &'a [u8],
    },
}

/// Walks the options of a TCP header and checks each; ends at the end-of-list option, at the end of
/// the bytes, or after the first error.
#[derive(Debug, Clone)]
pub struct TcpOptions<'a> {
    options: &'a [u8],
    offset: usize,
}

impl<'a> TcpOptions<'a> {
    /// Over the bytes between the fixed header and the payload.
    #[inline]
    pub const fn new(options: &'a [u8]) -> Self {
        Self { options, offset: 0 }
    }

    /// Where the next option starts, bytes from the start of the options.
    #[inline]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Whether all options are well formed.
    ///
    /// # Errors
    /// `BadOption` at the first that is not.
    pub fn validate(mut self) -> Result<(), ParseError> {
        self.try_for_each(|option| option.map(|_| ()))
    }
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = Result<TcpOption<'a>, ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.options.get(self.offset..)?;
        let (&kind, after) = rest.split_first()?;
        match kind {
            option::END => {
                self.offset = self.options.len();
                None
            }
            option::NO_OPERATION => {
                self.offset += 1;
                Some(Ok(TcpOption::NoOperation))
            }
            _ => {
                let length = after.first().map_or(0, |&length| usize::from(length));
                let parsed = match rest.get(2..length) {
                    Some(data) => decode_option(kind, data),
                    None => Err(ParseError::BadOption),
                };
                self.offset = if parsed.is_ok() {
                    self.offset + length
                } else {
                    self.options.len()
                };
                Some(parsed)
            }
        }
    }
}

/// Where the value of the maximum segment size stands, bytes from the start of the options; for
/// clamping it in place. `None` if there is none or an option before it is malformed.
pub fn maximum_segment_size_offset(options: &[u8]) -> Option<usize> {
    let mut walk = TcpOptions::new(options);
    loop {
        let start = walk.offset();
        match walk.next()? {
            Ok(TcpOption::MaximumSegmentSize(_)) => return Some(start + 2),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Decodes one option whose bytes after number and length are `data`.
fn decode_option(kind: u8, data: &[u8]) -> Result<TcpOption<'_>, ParseError> {
    Ok(match (kind, data) {
        (option::MAXIMUM_SEGMENT_SIZE, [high, low]) => {
            TcpOption::MaximumSegmentSize(u16::from_be_bytes([*high, *low]))
        }
        (option::WINDOW_SCALE, [shift]) => TcpOption::WindowScale(*shift),
        (option::SACK_PERMITTED, []) => TcpOption::SackPermitted,
        (option::SACK, blocks) if matches!(blocks.len(), 8 | 16 | 24 | 32) => {
            TcpOption::Sack(blocks)
        }
        (option::TIMESTAMPS, [a, b, c, d, e, f, g, h]) => TcpOption::Timestamps {
            value: u32::from_be_bytes([*a, *b, *c, *d]),
            echo: u32::from_be_bytes([*e, *f, *g, *h]),
        },
        (
            option::MAXIMUM_SEGMENT_SIZE
            | option::WINDOW_SCALE
            | option::SACK_PERMITTED
            | option::SACK
            | option::TIMESTAMPS,
            _,
        ) => return Err(ParseError::BadOption),
        _ => TcpOption::Other { kind, data },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SYN: [u8; 41] = [
        0xc0, 0x00, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 0, 0xa0, 0x02, 0xfa, 0xf0, 0, 0, 0,
        0, // fixed
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9, 1, 3, 3, 7, // options
        b'x',
    ];

    #[test]
    fn parse_literal() {
        let segment = TcpSegment::parse(&SYN).unwrap();
        assert_eq!(
            (segment.header.src_port.get(), segment.header.dst_port.get()),
            (49152, 80)
        );
        assert_eq!(
            (segment.header.seq.get(), segment.header.window.get()),
            (1, 64240)
        );
        assert!(segment.header.flags.is_opening());
        assert_eq!(segment.payload, b"x");
        let options: Vec<_> = segment.options().map(Result::unwrap).collect();
        assert_eq!(
            options,
            [
                TcpOption::MaximumSegmentSize(1460),
                TcpOption::SackPermitted,
                TcpOption::Timestamps { value: 7, echo: 9 },
                TcpOption::NoOperation,
                TcpOption::WindowScale(7),
            ]
        );
        assert_eq!(maximum_segment_size_offset(segment.options), Some(2));
        assert_eq!(TcpHeader::parse(&SYN).unwrap().1, b"x");
    }

    #[test]
    fn lengths() {
        assert_eq!(TcpSegment::parse(&SYN[..19]), Err(ParseError::Truncated));
        assert_eq!(
            TcpSegment::parse(&SYN[..39]),
            Err(ParseError::BadHeaderLength)
        );
        let mut bytes = SYN;
        bytes[12] = 0x4f;
        assert_eq!(TcpSegment::parse(&bytes), Err(ParseError::BadHeaderLength));
    }

    #[test]
    fn malformed_options() {
        for options in [
            &[2][..],
            &[2, 0],
            &[2, 1, 0, 0],
            &[2, 3, 0],
            &[2, 5, 0, 0],
            &[4, 3, 0],
            &[5, 9, 0, 0, 0, 0, 0, 0, 0],
            &[99, 5, 0, 0],
            &[3, 4, 0, 0],
            &[8, 9, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(
                TcpOptions::new(options).validate(),
                Err(ParseError::BadOption)
            );
            assert_eq!(TcpOptions::new(options).filter(Result::is_err).count(), 1);
            assert_eq!(maximum_segment_size_offset(options), None);
        }
        assert_eq!(TcpOptions::new(&[0, 2, 0]).count(), 0);
        assert_eq!(
            maximum_segment_size_offset(&[1, 3, 3, 7, 2, 4, 5, 0xb4]),
            Some(6)
        );
    }

    #[test]
    fn flags() {
        assert_eq!(TcpFlags::SYN | TcpFlags::ACK, TcpFlags::SYN_ACK);
        assert_eq!(
            (TcpFlags::SYN_ACK.to_string(), TcpFlags::NONE.to_string()),
            ("S.".into(), "none".into())
        );
        assert!(!TcpFlags::SYN_ACK.is_opening() && TcpFlags::SYN_ACK.contains(TcpFlags::SYN));
        assert!(TcpFlags(0xc2).is_opening() && TcpFlags(0x14).intersects(TcpFlags::RST));
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(segment) = TcpSegment::parse(&bytes) {
                prop_assert_eq!(20 + segment.options.len() + segment.payload.len(), bytes.len());
                prop_assert!(segment.options().count() <= 40);
            }
            prop_assert!(TcpOptions::new(&bytes).count() <= bytes.len());
        }
    }
}
