//! Internet protocol version 4 (RFC 791, RFC 1812, RFC 2474, RFC 3168).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+-----------+---+-------------------------------+
//! |version|  IHL  |   DSCP    |ECN|         total length          |
//! +-------+-------+-----------+---+-+-+-+-------------------------+
//! |         identification        |0|D|M|     fragment offset     |
//! +---------------+---------------+-+-+-+-------------------------+
//! | time to live  |   protocol    |        header checksum        |
//! +---------------+---------------+-------------------------------+
//! |                        source address                         |
//! +---------------------------------------------------------------+
//! |                      destination address                      |
//! +---------------------------------------------------------------+
//! |                  options (IHL - 5 words of 32 bits)           |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv4Addr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Sum};
use crate::{Ecn, Header, IpProtocol, ParseError};

/// First byte of a header without options: version 4, five words.
pub const VERSION_IHL_PLAIN: u8 = 0x45;
/// "Don't fragment" in [`Ip4Header::flags_fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in [`Ip4Header::flags_fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset in [`Ip4Header::flags_fragment`], units of 8 bytes.
pub const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
/// The reserved bit in [`Ip4Header::flags_fragment`].
pub const RESERVED_FLAG: u16 = 0x8000;

/// The fixed part of an IPv4 header, 20 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Ip4Header {
    /// Version (high four bits) and header length in 32-bit words (low four bits).
    pub version_ihl: u8,
    /// DSCP (high six bits) and ECN (low two bits).
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_length: U16,
    /// Identification: the same in all fragments of a packet.
    pub id: U16,
    /// Reserved bit, don't fragment, more fragments, and the fragment offset in units of 8 bytes.
    pub flags_fragment: U16,
    /// Time to live, hops.
    pub ttl: u8,
    /// What follows the header.
    pub protocol: IpProtocol,
    /// Header checksum.
    pub checksum: U16,
    /// Source address as a number; see [`source`](Self::source).
    pub src: U32,
    /// Destination address as a number; see [`destination`](Self::destination).
    pub dst: U32,
}

impl Header for Ip4Header {}

impl Ip4Header {
    /// The header and all bytes after its options. Checks version and header length, and neither
    /// total length nor checksum: for that see [`validate`].
    ///
    /// # Errors
    /// `Truncated`, `BadVersion`, `BadHeaderLength`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        let header = Self::view(bytes)?;
        if header.version() != 4 {
            return Err(ParseError::BadVersion);
        }
        let header_len = header.header_len();
        match bytes.get(header_len..) {
            Some(rest) if header_len >= Self::LEN => Ok((header, rest)),
            _ => Err(ParseError::BadHeaderLength),
        }
    }

    /// Version; 4.
    #[inline]
    pub const fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Header length, 32-bit words.
    #[inline]
    pub const fn ihl(&self) -> u8 {
        self.version_ihl & 0x0f
    }

    /// Header length with options, bytes (0 to 60; below 20 is malformed).
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Differentiated services code point (RFC 2474), 0 to 63.
    #[inline]
    pub const fn dscp(&self) -> u8 {
        self.tos >> 2
    }

    /// Congestion mark.
    #[inline]
    pub const fn ecn(&self) -> Ecn {
        Ecn::from_traffic_class(self.tos)
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.src.get())
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.dst.get())
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_fragment.get() & DONT_FRAGMENT != 0
    }

    /// Whether fragments follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.flags_fragment.get() & MORE_FRAGMENTS != 0
    }

    /// Where the payload of this fragment belongs, bytes (a multiple of 8).
    #[inline]
    pub fn fragment_offset_bytes(&self) -> usize {
        usize::from(self.flags_fragment.get() & FRAGMENT_OFFSET_MASK) * 8
    }

    /// Whether this is a part of a packet: the first, a middle or the last fragment.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment.get() & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) != 0
    }

    /// Whether the transport header is missing: a fragment that is not the first.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.flags_fragment.get() & FRAGMENT_OFFSET_MASK != 0
    }

    /// Length of the payload by the header's own fields, bytes; 0 if they contradict each other.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_length.get()).saturating_sub(self.header_len())
    }

    /// Takes one hop off the time to live and adjusts the checksum. The caller checks that it is not 0.
    #[inline]
    pub fn decrement_ttl(&mut self) {
        self.ttl = self.ttl.wrapping_sub(1);
        self.checksum
            .set(checksum::decrement_ttl(self.checksum.get()));
    }

    /// Replaces the source address and adjusts the header checksum.
    #[inline]
    pub fn set_source(&mut self, address: Ipv4Addr) {
        let new = address.to_bits();
        self.checksum
            .set(checksum::update32(self.checksum.get(), self.src.get(), new));
        self.src.set(new);
    }

    /// Replaces the destination address and adjusts the header checksum.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        let new = address.to_bits();
        self.checksum
            .set(checksum::update32(self.checksum.get(), self.dst.get(), new));
        self.dst.set(new);
    }

    /// Replaces the TOS byte and adjusts the header checksum.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        let of = |tos| u16::from_be_bytes([self.version_ihl, tos]);
        self.checksum.set(checksum::update16(
            self.checksum.get(),
            of(self.tos),
            of(tos),
        ));
        self.tos = tos;
    }

    /// Computes the checksum of a header without options and stores it.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.checksum = U16::ZERO;
        let bytes: [u8; 20] = zerocopy::transmute!(*self);
        self.checksum.set(!checksum::ip4_header_sum(&bytes));
    }

    /// The pseudo-header of a payload of `length` bytes (RFC 9293 section 3.1).
    #[inline]
    pub fn pseudo_header(&self, length: u16) -> Sum {
        Sum::pseudo_header4(self.source(), self.destination(), self.protocol, length)
    }
}

/// Why an IPv4 packet must be discarded, by the clauses of RFC 1812 section 5.2.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ip4Error {
    /// Clause 1: fewer than 20 bytes received.
    TooShort,
    /// Clause 2: the header checksum does not match.
    BadChecksum,
    /// Clause 3: the version is not 4.
    BadVersion,
    /// Clause 4: the header length is below 20 bytes or beyond the received bytes.
    BadHeaderLength,
    /// Clause 5: the total length is below the header length.
    BadTotalLength,
    /// The total length is beyond the received bytes: the packet was cut short.
    Truncated,
}

impl Ip4Error {
    /// The reason in words for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooShort => "IPv4 packet shorter than 20 bytes",
            Self::BadChecksum => "IPv4 header checksum does not match",
            Self::BadVersion => "IP version is not 4",
            Self::BadHeaderLength => {
                "IPv4 header length below 20 bytes or beyond the received bytes"
            }
            Self::BadTotalLength => "IPv4 total length below the header length",
            Self::Truncated => "IPv4 total length beyond the received bytes",
        }
    }
}

impl fmt::Display for Ip4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Ip4Error {}

impl From<Ip4Error> for ParseError {
    fn from(error: Ip4Error) -> Self {
        match error {
            Ip4Error::TooShort => Self::Truncated,
            Ip4Error::BadChecksum => Self::BadChecksum,
            Ip4Error::BadVersion => Self::BadVersion,
            Ip4Error::BadHeaderLength => Self::BadHeaderLength,
            Ip4Error::BadTotalLength | Ip4Error::Truncated => Self::BadTotalLength,
        }
    }
}

/// Validates a received packet as a router must before it looks at anything else (RFC 1812
/// section 5.2.2). `bytes` are all that the link delivered from the header on; padding after the
/// packet is allowed.
///
/// The clauses are tested in the order that makes the checksum safe to compute, so a header with
/// several faults is reported by the first of: length, version, header length, checksum, total length.
///
/// # Errors
/// The clause that is violated.
#[inline]
pub fn validate(bytes: &[u8]) -> Result<&Ip4Header, Ip4Error> {
    // (1) The packet length reported by the link layer must hold the minimum legal header.
    let Ok(header) = Ip4Header::view(bytes) else {
        return Err(Ip4Error::TooShort);
    };
    let header_len = if header.version_ihl == VERSION_IHL_PLAIN {
        // (2) The checksum must be correct: five additions in the common case.
        let fixed: &[u8; 20] = zerocopy::transmute_ref!(header);
        if checksum::ip4_header_sum(fixed) != 0xffff {
            return Err(Ip4Error::BadChecksum);
        }
        Ip4Header::LEN
    } else {
        // (3) The version must be 4.
        if header.version() != 4 {
            return Err(Ip4Error::BadVersion);
        }
        // (4) The header length must hold the minimum legal header.
        let header_len = header.header_len();
        let Some(with_options) = bytes
            .get(..header_len)
            .filter(|h| h.len() >= Ip4Header::LEN)
        else {
            return Err(Ip4Error::BadHeaderLength);
        };
        // (2) again, over the options too.
        if !checksum::is_valid(with_options) {
            return Err(Ip4Error::BadChecksum);
        }
        header_len
    };
    // (5) The total length must hold the header, and the link must have delivered all of it.
    let total_length = usize::from(header.total_length.get());
    if total_length < header_len {
        return Err(Ip4Error::BadTotalLength);
    }
    if total_length > bytes.len() {
        return Err(Ip4Error::Truncated);
    }
    Ok(header)
}

/// A packet cut into its parts; link padding is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip4Packet<'a> {
    /// The fixed part of the header.
    pub header: &'a Ip4Header,
    /// The options, 0 to 40 bytes.
    pub options: &'a [u8],
    /// The payload, cut to the total length.
    pub payload: &'a [u8],
}

impl<'a> Ip4Packet<'a> {
    /// Cuts a packet into header, options and payload. Checks all lengths and no checksum.
    ///
    /// # Errors
    /// `Truncated`, `BadVersion`, `BadHeaderLength`, `BadTotalLength`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, _) = Ip4Header::parse(bytes)?;
        let packet = bytes
            .get(..header.total_length.get().into())
            .ok_or(ParseError::BadTotalLength)?;
        let (head, payload) = packet
            .split_at_checked(header.header_len())
            .ok_or(ParseError::BadTotalLength)?;
        Ok(Self {
            header,
            options: &head[Ip4Header::LEN..],
            payload,
        })
    }

    /// The options one by one.
    #[inline]
    pub fn options(&self) -> Ip4Options<'a> {
        Ip4Options::new(self.options)
    }
}

/// Numbers of IPv4 options (RFC 791 section 3.1, RFC 2113).
pub mod option {
    /// End of the list.
    pub const END: u8 = 0;
    /// No operation.
    pub const NO_OPERATION: u8 = 1;
    /// Record route.
    pub const RECORD_ROUTE: u8 = 7;
    /// Internet timestamp.
    pub const TIMESTAMP: u8 = 68;
    /// Loose source and record route.
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    /// Router alert.
    pub const ROUTER_ALERT: u8 = 148;
}

/// One option of an IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip4Option<'a> {
    /// Padding between options.
    NoOperation,
    /// Record route: the next slot to fill (a pointer counted from 1 at the option's first byte, 4
    /// or more) and the slots of four bytes.
    RecordRoute {
        /// Position of the next slot.
        pointer: u8,
        /// The slots.
        route: &'a [u8],
    },
    /// Loose or strict source route.
    SourceRoute {
        /// Whether every hop is prescribed.
        strict: bool,
        /// Position of the next address.
        pointer: u8,
        /// The addresses.
        route: &'a [u8],
    },
    /// Internet timestamp.
    Timestamp {
        /// Position of the next slot, 5 or more.
        pointer: u8,
        /// Overflow count (high four bits) and format (low four bits).
        overflow_flag: u8,
        /// The slots.
        slots: &'a [u8],
    },
    /// Routers should look closer (RFC 2113).
    RouterAlert(u16),
    /// An option that this package does not interpret.
    Other {
        /// Its number.
        kind: u8,
        /// Its bytes after number and length.
        data: &'a [u8],
    },
}

/// Walks the options of an IPv4 header and checks each; ends at the end-of-list option, at the end
/// of the bytes, or after the first error.
#[derive(Debug, Clone)]
pub struct Ip4Options<'a> {
    rest: &'a [u8],
}

impl<'a> Ip4Options<'a> {
    /// Over the bytes between the fixed header and the payload.
    #[inline]
    pub const fn new(options: &'a [u8]) -> Self {
        Self { rest: options }
    }

    /// Whether all options are well formed.
    ///
    /// # Errors
    /// `BadOption` at the first that is not.
    pub fn validate(mut self) -> Result<(), ParseError> {
        self.try_for_each(|option| option.map(|_| ()))
    }
}

impl<'a> Iterator for Ip4Options<'a> {
    type Item = Result<Ip4Option<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, after) = self.rest.split_first()?;
        match kind {
            option::END => {
                self.rest = &[];
                None
            }
            option::NO_OPERATION => {
                self.rest = after;
                Some(Ok(Ip4Option::NoOperation))
            }
            _ => {
                let length = after.first().map_or(0, |&length| usize::from(length));
                let parsed = match self.rest.split_at_checked(length) {
                    Some((option, rest)) if length >= 2 => {
                        self.rest = rest;
                        decode_option(kind, &option[2..])
                    }
                    _ => Err(ParseError::BadOption),
                };
                if parsed.is_err() {
                    self.rest = &[];
                }
                Some(parsed)
            }
        }
    }
}

/// Fills in a header without options, checksum included.
///
/// `payload_len` is in bytes; a length that does not fit in the field saturates at 65535.
#[inline]
pub fn header(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpProtocol,
    ttl: u8,
    payload_len: usize,
) -> Ip4Header {
    let total = u16::try_from(payload_len.saturating_add(Ip4Header::LEN)).unwrap_or(u16::MAX);
    let mut header = Ip4Header {
        version_ihl: VERSION_IHL_PLAIN,
        tos: 0,
        total_length: U16::new(total),
        id: U16::ZERO,
        flags_fragment: U16::ZERO,
        ttl,
        protocol,
        checksum: U16::ZERO,
        src: U32::new(source.to_bits()),
        dst: U32::new(destination.to_bits()),
    };
    header.fill_checksum();
    header
}

/// Decodes one option whose bytes after number and length are `data`.
fn decode_option(kind: u8, data: &[u8]) -> Result<Ip4Option<'_>, ParseError> {
    match kind {
        option::RECORD_ROUTE => {
            route(data).map(|(pointer, route)| Ip4Option::RecordRoute { pointer, route })
        }
        option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE => {
            let strict = kind == option::STRICT_SOURCE_ROUTE;
            route(data).map(|(pointer, route)| Ip4Option::SourceRoute {
                strict,
                pointer,
                route,
            })
        }
        option::TIMESTAMP => match data {
            [pointer, overflow_flag, slots @ ..] if *pointer >= 5 && slots.len() % 4 == 0 => {
                Ok(Ip4Option::Timestamp {
                    pointer: *pointer,
                    overflow_flag: *overflow_flag,
                    slots,
                })
            }
            _ => Err(ParseError::BadOption),
        },
        option::ROUTER_ALERT => match data {
            [high, low] => Ok(Ip4Option::RouterAlert(u16::from_be_bytes([*high, *low]))),
            _ => Err(ParseError::BadOption),
        },
        _ => Ok(Ip4Option::Other { kind, data }),
    }
}

/// Pointer and slots of a route option: the pointer counts from 1 at the option's first byte, and
/// the first slot is at 4 (RFC 791 section 3.1).
fn route(data: &[u8]) -> Result<(u8, &[u8]), ParseError> {
    match data {
        [pointer, slots @ ..] if *pointer >= 4 && pointer % 4 == 0 && slots.len() % 4 == 0 => {
            Ok((*pointer, slots))
        }
        _ => Err(ParseError::BadOption),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKET: [u8; 24] = [
        0x45, 0xb9, 0x00, 0x17, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x12, 0xe7, 10, 0, 0, 1, 10, 0,
        1, 2, b'a', b'b', b'c', 0xee,
    ];

    #[test]
    fn parse_literal() {
        let header = validate(&PACKET).unwrap();
        assert_eq!((header.dscp(), header.ecn()), (46, Ecn::Capable1));
        assert_eq!((header.total_length.get(), header.id.get()), (23, 0x1234));
        assert!(header.dont_fragment() && !header.is_fragment());
        assert_eq!((header.ttl, header.protocol), (64, IpProtocol::UDP));
        assert_eq!(header.source(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(header.destination(), Ipv4Addr::new(10, 0, 1, 2));
        let packet = Ip4Packet::parse(&PACKET).unwrap();
        assert_eq!((packet.options, packet.payload), (&[][..], &b"abc"[..]));
        assert_eq!(packet.header.payload_len(), 3);
    }

    #[test]
    fn clauses_of_rfc_1812() {
        let with = |changes: &[(usize, u8)], repair: bool| {
            let mut bytes = PACKET;
            for &(at, value) in changes {
                bytes[at] = value;
            }
            if repair {
                bytes[10..12].fill(0);
                let checksum = checksum::checksum(&bytes[..20]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            validate(&bytes).map(|_| ())
        };
        assert_eq!(validate(&PACKET[..19]), Err(Ip4Error::TooShort));
        assert_eq!(with(&[(11, 0)], false), Err(Ip4Error::BadChecksum));
        assert_eq!(with(&[(0, 0x65)], true), Err(Ip4Error::BadVersion));
        assert_eq!(with(&[(0, 0x44)], true), Err(Ip4Error::BadHeaderLength));
        assert_eq!(with(&[(0, 0x47)], true), Err(Ip4Error::BadHeaderLength));
        assert_eq!(with(&[(3, 19)], true), Err(Ip4Error::BadTotalLength));
        assert_eq!(with(&[(3, 25)], true), Err(Ip4Error::Truncated));
        assert_eq!(with(&[(3, 24)], true), Ok(()));
        assert_eq!(with(&[(3, 20)], true), Ok(()));
        // With options the checksum covers them.
        assert_eq!(with(&[(0, 0x46)], true), Err(Ip4Error::BadChecksum));
    }

    #[test]
    fn rewriting_keeps_the_checksum_right() {
        let mut bytes = PACKET;
        let header = Ip4Header::view_mut(&mut bytes).unwrap();
        header.decrement_ttl();
        header.set_source(Ipv4Addr::new(198, 51, 100, 7));
        header.set_destination(Ipv4Addr::new(203, 0, 113, 9));
        header.set_tos(0x03);
        assert_eq!(header.ttl, 63);
        let header = *validate(&bytes).unwrap();
        assert_eq!(header.ecn(), Ecn::CongestionExperienced);
        let mut again = header;
        again.fill_checksum();
        assert_eq!(again, header);
    }

    #[test]
    fn options_literal() {
        let options = [
            1, // no operation
            148, 4, 0, 0, // router alert
            7, 7, 4, 0, 0, 0, 0, // record route
            68, 8, 5, 0, 0, 0, 0, 0, // timestamp
            137, 3, 4, // strict source route, empty
            200, 3, 9, // unknown
            0, 99, // end: nothing after it counts
        ];
        let all: Vec<_> = Ip4Options::new(&options).map(Result::unwrap).collect();
        assert_eq!(
            all,
            [
                Ip4Option::NoOperation,
                Ip4Option::RouterAlert(0),
                Ip4Option::RecordRoute {
                    pointer: 4,
                    route: &[0; 4]
                },
                Ip4Option::Timestamp {
                    pointer: 5,
                    overflow_flag: 0,
                    slots: &[0; 4]
                },
                Ip4Option::SourceRoute {
                    strict: true,
                    pointer: 4,
                    route: &[]
                },
                Ip4Option::Other {
                    kind: 200,
                    data: &[9]
                },
            ]
        );
        assert_eq!(Ip4Options::new(&options).validate(), Ok(()));
    }

    #[test]
    fn malformed_options() {
        for options in [
            &[7][..],               // no length
            &[7, 0, 4, 0],          // length 0
            &[7, 1, 4, 0],          // length below 2
            &[200, 5, 0, 0],        // beyond the header
            &[7, 7, 3, 0, 0, 0, 0], // pointer into the option's head
            &[7, 6, 4, 0, 0, 0],    // slots not a multiple of four
            &[148, 3, 0],           // router alert of the wrong size
            &[68, 4, 4, 0],         // timestamp pointer too small
            &[1, 1, 1, 131, 2, 1],  // source route without a pointer
        ] {
            assert_eq!(
                Ip4Options::new(options).validate(),
                Err(ParseError::BadOption)
            );
            assert_eq!(Ip4Options::new(options).filter(Result::is_err).count(), 1);
        }
    }

    #[test]
    fn header_function_is_valid() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let header = header(a, b, IpProtocol::TCP, 64, 0);
        assert_eq!(validate(header.as_bytes()), Ok(&header));
    }

    proptest! {
        #[test]
        fn fragment_fields(flags: u16) {
            let mut header = header(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, IpProtocol::UDP, 1, 0);
            header.flags_fragment = U16::new(flags);
            prop_assert_eq!(header.fragment_offset_bytes(), usize::from(flags % 0x2000) * 8);
            prop_assert_eq!(header.is_later_fragment(), flags % 0x2000 != 0);
            prop_assert_eq!(header.is_fragment(), flags % 0x4000 != 0);
        }

        #[test]
        fn validate_implies_parse(bytes in proptest::collection::vec(any::<u8>(), 0..80), ihl in 5u8..16) {
            let mut bytes = bytes;
            let _ = validate(&bytes);
            let _ = Ip4Packet::parse(&bytes).map(|p| p.options().validate());
            // Steer towards valid headers, then both must agree.
            let header_len = usize::from(ihl) * 4;
            if bytes.len() >= header_len {
                bytes[0] = 0x40 | ihl;
                let total = bytes.len() as u16;
                bytes[2..4].copy_from_slice(&total.to_be_bytes());
                bytes[10..12].fill(0);
                let checksum = checksum::checksum(&bytes[..header_len]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
                prop_assert!(validate(&bytes).is_ok());
                let packet = Ip4Packet::parse(&bytes).unwrap();
                prop_assert_eq!(packet.options.len(), header_len - 20);
                prop_assert_eq!(packet.payload, &bytes[header_len..]);
            }
        }
    }
}
