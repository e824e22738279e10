//! Internet protocol version 6 (RFC 8200) and its extension headers.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+---------------+---------------------------------------+
//! |version| traffic class |              flow label               |
//! +-------+---------------+-------+---------------+---------------+
//! |        payload length         |  next header  |   hop limit   |
//! +-------------------------------+---------------+---------------+
//! |                    source address (16 bytes)                  |
//! +---------------------------------------------------------------+
//! |                 destination address (16 bytes)                |
//! +---------------------------------------------------------------+
//! ```
//!
//! The fragment header (RFC 8200 section 4.5):
//!
//! ```text
//! +---------------+---------------+-------------------------+---+-+
//! |  next header  |   reserved    |     fragment offset     |rsv|M|
//! +---------------+---------------+-------------------------+---+-+
//! |                         identification                        |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv6Addr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::{Ecn, Header, IpProtocol, ParseError};

/// Smallest MTU that every IPv6 link must carry, bytes (RFC 8200 section 5).
pub const MIN_MTU: u16 = 1280;
/// How many extension headers [`walk_extensions`] should step over where nothing else is configured.
pub const DEFAULT_EXTENSION_LIMIT: usize = 8;

/// The fixed IPv6 header, 40 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Ip6Header {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    /// Length of everything after this header, bytes.
    pub payload_length: U16,
    /// What follows: an extension header or the upper-layer protocol.
    pub next_header: IpProtocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address; see [`source`](Self::source).
    pub src: [u8; 16],
    /// Destination address; see [`destination`](Self::destination).
    pub dst: [u8; 16],
}

impl Header for Ip6Header {}

impl Ip6Header {
    /// The header and all bytes after it. Checks the version, not the payload length: for that see
    /// [`validate`].
    ///
    /// # Errors
    /// `Truncated`, `BadVersion`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        let (header, rest) = Self::split(bytes)?;
        if header.version() != 6 {
            return Err(ParseError::BadVersion);
        }
        Ok((header, rest))
    }

    /// Version; 6.
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_class_flow.to_bytes()[0] >> 4
    }

    /// DSCP and congestion mark together, as in the IPv4 TOS byte.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// Differentiated services code point (RFC 2474), 0 to 63.
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// Congestion mark.
    #[inline]
    pub fn ecn(&self) -> Ecn {
        Ecn::from_traffic_class(self.traffic_class())
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0x000f_ffff
    }

    /// Replaces the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        self.version_class_flow
            .set(self.version_class_flow.get() & 0xf00f_ffff | u32::from(class) << 20);
    }

    /// Source address.
    #[inline]
    pub const fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.src)
    }

    /// Destination address.
    #[inline]
    pub const fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.dst)
    }

    /// The pseudo-header of an upper-layer packet of `length` bytes (RFC 8200 section 8.1). The
    /// protocol is the one after all extension headers.
    #[inline]
    pub fn pseudo_header(&self, protocol: IpProtocol, length: u32) -> Sum {
        Sum::pseudo_header6(&self.source(), &self.destination(), protocol, length)
    }
}

/// Fills in a header with traffic class and flow label 0. A payload length that does not fit in the
/// field saturates at 65535.
#[inline]
pub fn header(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: IpProtocol,
    hop_limit: u8,
    payload_len: usize,
) -> Ip6Header {
    Ip6Header {
        version_class_flow: U32::new(6 << 28),
        payload_length: U16::new(u16::try_from(payload_len).unwrap_or(u16::MAX)),
        next_header,
        hop_limit,
        src: source.octets(),
        dst: destination.octets(),
    }
}

/// Why an IPv6 packet must be discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ip6Error {
    /// Fewer than 40 bytes received.
    TooShort,
    /// The version is not 6.
    BadVersion,
    /// The payload length is beyond the received bytes: the packet was cut short.
    Truncated,
}

impl Ip6Error {
    /// The reason in words for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::TooShort => "IPv6 packet shorter than 40 bytes",
            Self::BadVersion => "IP version is not 6",
            Self::Truncated => "IPv6 payload length beyond the received bytes",
        }
    }
}

impl fmt::Display for Ip6Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Ip6Error {}

impl From<Ip6Error> for ParseError {
    fn from(error: Ip6Error) -> Self {
        match error {
            Ip6Error::TooShort => Self::Truncated,
            Ip6Error::BadVersion => Self::BadVersion,
            Ip6Error::Truncated => Self::BadTotalLength,
        }
    }
}

/// Validates a received packet (RFC 8200 section 3). `bytes` are all that the link delivered from the
/// header on; padding after the packet is allowed. Jumbograms (RFC 2675) are not supported: a payload
/// length of 0 says that there is no payload.
///
/// # Errors
/// The rule that is violated.
#[inline]
pub fn validate(bytes: &[u8]) -> Result<&Ip6Header, Ip6Error> {
    let Ok((header, rest)) = Ip6Header::split(bytes) else {
        return Err(Ip6Error::TooShort);
    };
    if header.version() != 6 {
        return Err(Ip6Error::BadVersion);
    }
    if usize::from(header.payload_length.get()) > rest.len() {
        return Err(Ip6Error::Truncated);
    }
    Ok(header)
}

/// A packet cut into header and payload; link padding is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip6Packet<'a> {
    /// The fixed header.
    pub header: &'a Ip6Header,
    /// Extension headers and upper layer, cut to the payload length.
    pub payload: &'a [u8],
}

impl<'a> Ip6Packet<'a> {
    /// Cuts a packet into header and payload.
    ///
    /// # Errors
    /// `Truncated`, `BadVersion`, `BadTotalLength`.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, rest) = Ip6Header::parse(bytes)?;
        match rest.get(..header.payload_length.get().into()) {
            Some(payload) => Ok(Self { header, payload }),
            None => Err(ParseError::BadTotalLength),
        }
    }

    /// Walks the extension headers; see [`walk_extensions`].
    #[inline]
    pub fn walk(&self, limit: usize) -> Ip6Chain<'a> {
        walk_extensions(self.header.next_header, self.payload, limit)
    }
}

/// The fragment header, 8 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FragmentHeader {
    /// First header of the fragmentable part.
    pub next_header: IpProtocol,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes (high 13 bits) and "more fragments" (lowest bit).
    pub offset_more: U16,
    /// Identification: the same in all fragments of a packet.
    pub id: U32,
}

impl Header for FragmentHeader {}

impl FragmentHeader {
    /// The header and the bytes after it. Every value of every field is legal.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        Self::split(bytes)
    }

    /// Where the payload of this fragment belongs, bytes (a multiple of 8).
    #[inline]
    pub fn offset_bytes(&self) -> usize {
        usize::from(self.offset_more.get() & 0xfff8)
    }

    /// Whether fragments follow this one.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }

    /// Whether it is a whole packet that only carries a fragment header (RFC 6946).
    #[inline]
    pub fn is_atomic(&self) -> bool {
        self.offset_more.get() & 0xfff9 == 0
    }
}

/// What [`walk_extensions`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip6Chain<'a> {
    /// The first header that is not stepped over: the upper-layer protocol, or the header at which
    /// the walk failed.
    pub protocol: IpProtocol,
    /// Where that header starts, bytes from the end of the fixed IPv6 header.
    pub offset: usize,
    /// Where the field stands that named it, bytes from the *start* of the IPv6 header: the pointer of
    /// an ICMPv6 parameter problem, and the place to rewrite when a header is inserted.
    pub next_header_at: usize,
    /// How many extension headers were stepped over.
    pub extensions: u8,
    /// The fragment header, if there is one, and where it starts, bytes from the end of the fixed header.
    pub fragment: Option<(&'a FragmentHeader, usize)>,
    /// A routing header with segments left: this node must not treat the packet as its own without
    /// processing it (RFC 8200 section 4.4).
    pub segments_left: u8,
    /// Why the walk stopped early. `Truncated`: a header reaches beyond the payload. `BadOrder`:
    /// hop-by-hop options not in the first place, or a second fragment header. `BadHeaderLength`: an
    /// authentication header below its minimum. `TooManyHeaders`: the limit was reached.
    pub fault: Option<ParseError>,
}

impl Ip6Chain<'_> {
    /// Whether the bytes at [`offset`](Self::offset) are the upper-layer header: the chain is well
    /// formed, and the packet is not a fragment other than the first.
    #[inline]
    pub fn has_upper_layer(&self) -> bool {
        self.fault.is_none() && !self.is_later_fragment()
    }

    /// Whether the packet is a fragment other than the first.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment
            .is_some_and(|(fragment, _)| fragment.offset_bytes() != 0)
    }
}

/// Steps over the extension headers of a packet whose fixed header names `first` and whose payload is
/// `payload`.
///
/// Hop-by-hop options, routing, fragment, destination options and authentication headers are stepped
/// over, `limit` of them at most ([`DEFAULT_EXTENSION_LIMIT`]); anything else counts as upper layer. The
/// walk ends at the fragment header of a fragment other than the first, since what follows it is data.
/// Bounded by `limit` and by the payload: every header takes at least 8 bytes.
///
/// ```
/// use wire::{builder::ip6, ip6::{Ip6Packet, DEFAULT_EXTENSION_LIMIT}, IpProtocol};
///
/// let bytes = ip6("fe80::1".parse::<std::net::Ipv6Addr>().unwrap(), std::net::Ipv6Addr::LOCALHOST)
///     .hop_by_hop(&[5, 2, 0, 0])
///     .udp(1, 2)
///     .build();
/// let chain = Ip6Packet::parse(&bytes).unwrap().walk(DEFAULT_EXTENSION_LIMIT);
/// assert_eq!((chain.protocol, chain.offset, chain.fault), (IpProtocol::UDP, 8, None));
/// ```
#[inline]
pub fn walk_extensions(first: IpProtocol, payload: &[u8], limit: usize) -> Ip6Chain<'_> {
    let mut chain = Ip6Chain {
        protocol: first,
        offset: 0,
        next_header_at: 6,
        extensions: 0,
        fragment: None,
        segments_left: 0,
        fault: None,
    };
    // Packets without extension headers leave here at once.
    if first.is_ip6_extension() {
        walk_from(&mut chain, payload, limit.min(usize::from(u8::MAX)));
    }
    chain
}

fn walk_from<'a>(chain: &mut Ip6Chain<'a>, payload: &'a [u8], limit: usize) {
    while chain.protocol.is_ip6_extension() {
        if usize::from(chain.extensions) >= limit {
            chain.fault = Some(ParseError::TooManyHeaders);
            return;
        }
        if chain.protocol == IpProtocol::HOP_BY_HOP && chain.extensions > 0 {
            chain.fault = Some(ParseError::BadOrder);
            return;
        }
        let rest = payload.get(chain.offset..).unwrap_or_default();
        let &[next, length, _, last, ..] = rest else {
            chain.fault = Some(ParseError::Truncated);
            return;
        };
        let length = match chain.protocol {
            IpProtocol::FRAGMENT => FragmentHeader::LEN,
            // RFC 4302 section 2.2 counts in words of four bytes, less two.
            IpProtocol::AH => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        // The fixed part of an authentication header alone takes 12 bytes.
        if chain.protocol == IpProtocol::AH && length < 12 {
            chain.fault = Some(ParseError::BadHeaderLength);
            return;
        }
        if length > rest.len() {
            chain.fault = Some(ParseError::Truncated);
            return;
        }
        match chain.protocol {
            IpProtocol::FRAGMENT if chain.fragment.is_none() => {
                chain.fragment = FragmentHeader::view(rest).ok().map(|f| (f, chain.offset));
            }
            // Fragments of fragments cannot be reassembled by offset: nobody may send them.
            IpProtocol::FRAGMENT => {
                chain.fault = Some(ParseError::BadOrder);
                return;
            }
            IpProtocol::ROUTING => chain.segments_left = last,
            _ => {}
        }
        chain.next_header_at = Ip6Header::LEN + chain.offset;
        chain.protocol = IpProtocol(next);
        chain.offset += length;
        chain.extensions += 1;
        if chain.is_later_fragment() {
            return;
        }
    }
}

/// Numbers of hop-by-hop and destination options. The two highest bits say what a node does that does
/// not know the option: 00 skip it, 01 discard, 10 discard and report, 11 report unless multicast.
pub mod option {
    /// One byte of padding.
    pub const PAD1: u8 = 0;
    /// Two or more bytes of padding.
    pub const PADN: u8 = 1;
    /// Router alert (RFC 2711).
    pub const ROUTER_ALERT: u8 = 5;
    /// Jumbo payload (RFC 2675).
    pub const JUMBO: u8 = 0xc2;
}

/// One option of a hop-by-hop or destination options header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip6Option<'a> {
    /// Padding of this many bytes in all.
    Padding(usize),
    /// Routers should look closer (RFC 2711).
    RouterAlert(u16),
    /// Payload length of a jumbogram, bytes (RFC 2675).
    Jumbo(u32),
    /// An option that this package does not interpret.
    Other {
        /// Its number; see [`unknown_option_action`].
        kind: u8,
        /// Its bytes after number and length.
        data: &'a [u8],
    },
}

/// What a node does with a packet whose option it does not know (RFC 8200 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownOptionAction {
    /// Step over it.
    Skip,
    /// Discard the packet.
    Discard,
    /// Discard the packet and send a parameter problem.
    DiscardReport,
    /// Discard the packet and send a parameter problem unless the destination is multicast.
    DiscardReportUnicast,
}

/// What the number of an unknown option asks for.
pub const fn unknown_option_action(kind: u8) -> UnknownOptionAction {
    match kind >> 6 {
        0 => UnknownOptionAction::Skip,
        1 => UnknownOptionAction::Discard,
        2 => UnknownOptionAction::DiscardReport,
        _ => UnknownOptionAction::DiscardReportUnicast,
    }
}

/// Walks the options of a hop-by-hop or destination options header and checks each; ends at the end of
/// the bytes or after the first error.
#[derive(Debug, Clone)]
pub struct Ip6Options<'a> {
    rest: &'a [u8],
}

impl<'a> Ip6Options<'a> {
    /// Over the bytes after "next header" and "length" of the options header.
    #[inline]
    pub const fn new(options: &'a [u8]) -> Self {
        Self { rest: options }
    }

    /// Over the options of the options header that starts at `header`.
    ///
    /// # Errors
    /// `Truncated` if the header reaches beyond the bytes.
    pub fn of_header(header: &'a [u8]) -> Result<Self, ParseError> {
        let length = header
            .get(1)
            .map_or(usize::MAX, |&length| (usize::from(length) + 1) * 8);
        header
            .get(2..length)
            .map(Self::new)
            .ok_or(ParseError::Truncated)
    }

    /// Whether all options are well formed.
    ///
    /// # Errors
    /// `BadOption` at the first that is not.
    pub fn validate(mut self) -> Result<(), ParseError> {
        self.try_for_each(|option| option.map(|_| ()))
    }
}

impl<'a> Iterator for Ip6Options<'a> {
    type Item = Result<Ip6Option<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, after) = self.rest.split_first()?;
        if kind == option::PAD1 {
            self.rest = after;
            return Some(Ok(Ip6Option::Padding(1)));
        }
        let length = after
            .first()
            .map_or(usize::MAX, |&length| usize::from(length) + 2);
        let Some((whole, rest)) = self.rest.split_at_checked(length) else {
            self.rest = &[];
            return Some(Err(ParseError::BadOption));
        };
        self.rest = rest;
        let parsed = match (kind, &whole[2..]) {
            (option::PADN, _) => Ok(Ip6Option::Padding(length)),
            (option::ROUTER_ALERT, &[a, b]) => {
                Ok(Ip6Option::RouterAlert(u16::from_be_bytes([a, b])))
            }
            (option::JUMBO, &[a, b, c, d]) => {
                Ok(Ip6Option::Jumbo(u32::from_be_bytes([a, b, c, d])))
            }
            (option::ROUTER_ALERT | option::JUMBO, _) => {
                self.rest = &[];
                Err(ParseError::BadOption)
            }
            (_, data) => Ok(Ip6Option::Other { kind, data }),
        };
        Some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: [u8; 44] = [
        0x6a, 0xb1, 0x23, 0x45, 0x00, 0x04, 0x3a, 0x40, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 1, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2, 3, 4,
    ];

    #[test]
    fn parse_literal() {
        let header = validate(&HEADER).unwrap();
        assert_eq!((header.version(), header.traffic_class()), (6, 0xab));
        assert_eq!(
            (header.dscp(), header.ecn()),
            (0x2a, Ecn::CongestionExperienced)
        );
        assert_eq!(header.flow_label(), 0x12345);
        assert_eq!(
            (header.next_header, header.hop_limit),
            (IpProtocol::ICMP6, 64)
        );
        assert_eq!(header.source().to_string(), "2001:db8::1");
        assert_eq!(header.destination().to_string(), "2001:db8::2");
        assert_eq!(Ip6Packet::parse(&HEADER).unwrap().payload, [1, 2, 3, 4]);
        let mut header = *header;
        header.set_traffic_class(0);
        assert_eq!(header.version_class_flow.get(), 0x6001_2345);
    }

    #[test]
    fn faults() {
        assert_eq!(validate(&HEADER[..39]), Err(Ip6Error::TooShort));
        assert_eq!(validate(&HEADER[..43]), Err(Ip6Error::Truncated));
        let mut bytes = HEADER;
        bytes[0] = 0x4a;
        assert_eq!(validate(&bytes), Err(Ip6Error::BadVersion));
        assert_eq!(
            Ip6Packet::parse(&HEADER[..43]),
            Err(ParseError::BadTotalLength)
        );
    }

    #[test]
    fn walk_over_every_kind() {
        let payload = [
            43, 0, 1, 4, 0, 0, 0, 0, // hop-by-hop
            60, 0, 0, 2, 0, 0, 0, 0, // routing, two segments left
            51, 0, 1, 4, 0, 0, 0, 0, // destination options
            44, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, // authentication, 12 bytes
            17, 0, 0, 1, 0, 0, 0, 9, // first fragment
            0, 1, 0, 2, 0, 8, 0, 0,
        ];
        let chain = walk_extensions(IpProtocol::HOP_BY_HOP, &payload, 8);
        assert_eq!(
            (chain.protocol, chain.offset, chain.extensions),
            (IpProtocol::UDP, 44, 5)
        );
        assert_eq!(
            (chain.segments_left, chain.next_header_at, chain.fault),
            (2, 76, None)
        );
        let (fragment, at) = chain.fragment.unwrap();
        assert_eq!((fragment.id.get(), fragment.offset_bytes(), at), (9, 0, 36));
        assert!(fragment.more_fragments() && !fragment.is_atomic() && chain.has_upper_layer());

        for len in 0..44 {
            let chain = walk_extensions(IpProtocol::HOP_BY_HOP, &payload[..len], 8);
            assert_eq!(chain.fault, Some(ParseError::Truncated), "{len}");
            assert!(!chain.has_upper_layer());
        }
        let chain = walk_extensions(IpProtocol::HOP_BY_HOP, &payload, 4);
        assert_eq!(
            (chain.fault, chain.extensions),
            (Some(ParseError::TooManyHeaders), 4)
        );
    }

    #[test]
    fn later_fragment_ends_the_walk() {
        // What follows would be a hop-by-hop header in the wrong place, but is data.
        let payload = [0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff];
        let chain = walk_extensions(IpProtocol::FRAGMENT, &payload, 8);
        assert_eq!((chain.protocol, chain.offset), (IpProtocol::HOP_BY_HOP, 8));
        assert!(chain.is_later_fragment() && !chain.has_upper_layer() && chain.fault.is_none());
    }

    #[test]
    fn order() {
        let twice = [0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
        let chain = walk_extensions(IpProtocol::HOP_BY_HOP, &twice, 8);
        assert_eq!(
            (chain.fault, chain.next_header_at),
            (Some(ParseError::BadOrder), 40)
        );
        let fragments = [44, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 0, 0, 0, 0, 1];
        let chain = walk_extensions(IpProtocol::FRAGMENT, &fragments, 8);
        assert_eq!(chain.fault, Some(ParseError::BadOrder));
        let chain = walk_extensions(IpProtocol::AH, &[17, 0, 0, 0, 0, 0, 0, 0], 8);
        assert_eq!(chain.fault, Some(ParseError::BadHeaderLength));
        let chain = walk_extensions(IpProtocol::ESP, &[], 0);
        assert_eq!((chain.protocol, chain.fault), (IpProtocol::ESP, None));
    }

    #[test]
    fn options() {
        let header = [17, 1, 0, 1, 1, 9, 5, 2, 0, 0, 0xc2, 4, 0, 1, 0, 0];
        let all: Vec<_> = Ip6Options::of_header(&header)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            all,
            [
                Ip6Option::Padding(1),
                Ip6Option::Padding(3),
                Ip6Option::RouterAlert(0),
                Ip6Option::Jumbo(65536),
            ]
        );
        for bad in [
            &[1][..],
            &[1, 1],
            &[5, 1, 0],
            &[0xc2, 3, 0, 0, 0],
            &[30, 9, 0],
        ] {
            assert_eq!(Ip6Options::new(bad).validate(), Err(ParseError::BadOption));
            assert_eq!(Ip6Options::new(bad).filter(Result::is_err).count(), 1);
        }
        assert_eq!(
            Ip6Options::of_header(&header[..15]).err(),
            Some(ParseError::Truncated)
        );
        assert_eq!(
            Ip6Options::of_header(&[]).err(),
            Some(ParseError::Truncated)
        );
        assert_eq!(
            unknown_option_action(0xc2),
            UnknownOptionAction::DiscardReportUnicast
        );
        assert_eq!(unknown_option_action(0x3e), UnknownOptionAction::Skip);
    }

    proptest! {
        #[test]
        fn any_chain_is_bounded(
            first in prop::sample::select(vec![0u8, 43, 44, 51, 60, 17]),
            payload in prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 17, 43, 44, 51, 60]), 0..200),
            limit in 0usize..20,
        ) {
            let chain = walk_extensions(IpProtocol(first), &payload, limit);
            prop_assert!(chain.offset <= payload.len());
            prop_assert!(usize::from(chain.extensions) <= limit);
            if let Some((fragment, at)) = chain.fragment {
                prop_assert_eq!(Ok(fragment), FragmentHeader::view(&payload[at..]));
            }
            // Only a later fragment ends before something that could be stepped over.
            if chain.has_upper_layer() {
                prop_assert!(!chain.protocol.is_ip6_extension());
            }
        }

        #[test]
        fn any_options_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(Ip6Options::new(&bytes).count() <= bytes.len());
            let _ = Ip6Options::of_header(&bytes).map(Ip6Options::validate);
        }
    }
}
