//! Neighbour discovery for IPv6 (RFC 4861): messages, options, validity.
//!
//! Solicitation and advertisement of a neighbour:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     type      |   code (0)    |           checksum            |
//! +-+-+-+---------+---------------+-------------------------------+
//! |R|S|O|                  reserved (flags in advertisements)     |
//! +-+-+-+---------------------------------------------------------+
//! |                   target address (16 bytes)                   |
//! +---------------+---------------+-------------------------------+
//! |  option type  | length (by 8) |              …                |
//! +---------------+---------------+-------------------------------+
//! ```

use core::net::Ipv6Addr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ip6::Ip6Header;
use crate::{Header, Icmp6Type, IpProtocol, MacAddr, ParseError, icmp6};

/// The hop limit of every neighbour discovery message: proof that no router forwarded it.
pub const HOP_LIMIT: u8 = 255;
/// The group of all nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The group of all routers on the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The group in which the owner of `address` listens for solicitations (RFC 4291 section 2.7.1).
#[inline]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let a = address.octets();
    Ipv6Addr::from_octets([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a[13], a[14], a[15],
    ])
}

/// A neighbour solicitation, 24 bytes, options after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NeighbourSolicitation {
    /// 135.
    pub icmp_type: Icmp6Type,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub checksum: U16,
    /// 0.
    pub reserved: U32,
    /// The address whose owner is asked for.
    pub target: [u8; 16],
}

impl Header for NeighbourSolicitation {}

/// The sender is a router.
pub const ADVERTISEMENT_ROUTER: u8 = 0x80;
/// It answers a solicitation.
pub const ADVERTISEMENT_SOLICITED: u8 = 0x40;
/// It replaces what the receiver has cached.
pub const ADVERTISEMENT_OVERRIDE: u8 = 0x20;

/// A neighbour advertisement, 24 bytes, options after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct NeighbourAdvertisement {
    /// 136.
    pub icmp_type: Icmp6Type,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub checksum: U16,
    /// [`ADVERTISEMENT_ROUTER`], [`ADVERTISEMENT_SOLICITED`], [`ADVERTISEMENT_OVERRIDE`].
    pub flags: u8,
    /// 0.
    pub reserved: [u8; 3],
    /// The address whose owner speaks.
    pub target: [u8; 16],
}

impl Header for NeighbourAdvertisement {}

/// A router solicitation, 8 bytes, options after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RouterSolicitation {
    /// 133.
    pub icmp_type: Icmp6Type,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub checksum: U16,
    /// 0.
    pub reserved: U32,
}

impl Header for RouterSolicitation {}

/// A router advertisement, 16 bytes, options after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RouterAdvertisement {
    /// 134.
    pub icmp_type: Icmp6Type,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub checksum: U16,
    /// Hop limit that hosts should use; 0 says nothing.
    pub hop_limit: u8,
    /// Managed address configuration (0x80), other configuration (0x40).
    pub flags: u8,
    /// How long the sender is a default router, seconds; 0: it is none.
    pub lifetime_s: U16,
    /// How long a neighbour counts as reachable, milliseconds; 0 says nothing.
    pub reachable_ms: U32,
    /// Time between solicitations, milliseconds; 0 says nothing.
    pub retransmit_ms: U32,
}

impl Header for RouterAdvertisement {}

/// A redirect, 40 bytes, options after it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Redirect {
    /// 137.
    pub icmp_type: Icmp6Type,
    /// 0.
    pub code: u8,
    /// Checksum.
    pub checksum: U16,
    /// 0.
    pub reserved: U32,
    /// The better first hop.
    pub target: [u8; 16],
    /// The destination that is redirected.
    pub destination: [u8; 16],
}

impl Header for Redirect {}

/// A neighbour discovery message and its options.
#[derive(Debug, Clone)]
pub enum NdMessage<'a> {
    /// Router solicitation.
    RouterSolicitation(&'a RouterSolicitation, NdOptions<'a>),
    /// Router advertisement.
    RouterAdvertisement(&'a RouterAdvertisement, NdOptions<'a>),
    /// Neighbour solicitation.
    NeighbourSolicitation(&'a NeighbourSolicitation, NdOptions<'a>),
    /// Neighbour advertisement.
    NeighbourAdvertisement(&'a NeighbourAdvertisement, NdOptions<'a>),
    /// Redirect.
    Redirect(&'a Redirect, NdOptions<'a>),
}

impl<'a> NdMessage<'a> {
    /// The message that starts with its ICMPv6 header at `message`. Looks at type and length only;
    /// [`validate`] does the rest.
    ///
    /// # Errors
    /// `Truncated`; `BadType` if it is another ICMPv6 message.
    pub fn parse(message: &'a [u8]) -> Result<Self, ParseError> {
        let &kind = message.first().ok_or(ParseError::Truncated)?;
        Ok(match Icmp6Type(kind) {
            Icmp6Type::ROUTER_SOLICITATION => {
                let (header, rest) = RouterSolicitation::split(message)?;
                Self::RouterSolicitation(header, NdOptions::new(rest))
            }
            Icmp6Type::ROUTER_ADVERTISEMENT => {
                let (header, rest) = RouterAdvertisement::split(message)?;
                Self::RouterAdvertisement(header, NdOptions::new(rest))
            }
            Icmp6Type::NEIGHBOUR_SOLICITATION => {
                let (header, rest) = NeighbourSolicitation::split(message)?;
                Self::NeighbourSolicitation(header, NdOptions::new(rest))
            }
            Icmp6Type::NEIGHBOUR_ADVERTISEMENT => {
                let (header, rest) = NeighbourAdvertisement::split(message)?;
                Self::NeighbourAdvertisement(header, NdOptions::new(rest))
            }
            Icmp6Type::REDIRECT => {
                let (header, rest) = Redirect::split(message)?;
                Self::Redirect(header, NdOptions::new(rest))
            }
            _ => return Err(ParseError::BadType),
        })
    }

    /// The options after the message.
    pub fn options(&self) -> NdOptions<'a> {
        match self {
            Self::RouterSolicitation(_, options)
            | Self::RouterAdvertisement(_, options)
            | Self::NeighbourSolicitation(_, options)
            | Self::NeighbourAdvertisement(_, options)
            | Self::Redirect(_, options) => options.clone(),
        }
    }

    /// Link address of the sender, from its option.
    pub fn source_link_layer(&self) -> Option<MacAddr> {
        self.options().find_map(|option| match option {
            Ok(NdOption::SourceLinkLayer(mac)) => Some(mac),
            _ => None,
        })
    }

    /// Link address of the target, from its option.
    pub fn target_link_layer(&self) -> Option<MacAddr> {
        self.options().find_map(|option| match option {
            Ok(NdOption::TargetLinkLayer(mac)) => Some(mac),
            _ => None,
        })
    }
}

/// Parses a message and applies the validity rules of RFC 4861 sections 6.1, 7.1 and 8.1 that need
/// nothing but the packet: hop limit 255, checksum, code 0, lengths, every option well formed, and the
/// rules about addresses of each message.
///
/// # Errors
/// `BadHopLimit`, `Truncated`, `BadType`, `BadChecksum`, `BadCode`, `BadOption`, `BadAddress`.
pub fn validate<'a>(ip: &Ip6Header, message: &'a [u8]) -> Result<NdMessage<'a>, ParseError> {
    if ip.hop_limit != HOP_LIMIT {
        return Err(ParseError::BadHopLimit);
    }
    let parsed = NdMessage::parse(message)?;
    let length = u32::try_from(message.len()).map_err(|_| ParseError::BadTotalLength)?;
    icmp6::verify_checksum(ip.pseudo_header(IpProtocol::ICMP6, length), message)?;
    if message[1] != 0 {
        return Err(ParseError::BadCode);
    }
    parsed.options().validate()?;

    let (source, destination) = (ip.source(), ip.destination());
    let has_source_option = parsed.source_link_layer().is_some();
    let addresses_are_legal = match &parsed {
        // Section 6.1.1.
        NdMessage::RouterSolicitation(..) => !(source.is_unspecified() && has_source_option),
        // Section 6.1.2.
        NdMessage::RouterAdvertisement(..) => source.is_unicast_link_local(),
        // Section 7.1.1.
        NdMessage::NeighbourSolicitation(solicitation, _) => {
            let target = Ipv6Addr::from_octets(solicitation.target);
            !target.is_multicast()
                && !(source.is_unspecified()
                    && (has_source_option || !is_solicited_node_group(destination)))
        }
        // Section 7.1.2.
        NdMessage::NeighbourAdvertisement(advertisement, _) => {
            let target = Ipv6Addr::from_octets(advertisement.target);
            let solicited = advertisement.flags & ADVERTISEMENT_SOLICITED != 0;
            !(target.is_multicast() || destination.is_multicast() && solicited)
        }
        // Section 8.1.
        NdMessage::Redirect(redirect, _) => {
            let target = Ipv6Addr::from_octets(redirect.target);
            source.is_unicast_link_local()
                && !Ipv6Addr::from_octets(redirect.destination).is_multicast()
                && (target.is_unicast_link_local() || redirect.target == redirect.destination)
        }
    };
    if addresses_are_legal {
        Ok(parsed)
    } else {
        Err(ParseError::BadAddress)
    }
}

/// Numbers of neighbour discovery options (RFC 4861 section 4.6).
pub mod option {
    /// Source link-layer address.
    pub const SOURCE_LINK_LAYER: u8 = 1;
    /// Target link-layer address.
    pub const TARGET_LINK_LAYER: u8 = 2;
    /// Prefix information.
    pub const PREFIX_INFORMATION: u8 = 3;
    /// Redirected header.
    pub const REDIRECTED_HEADER: u8 = 4;
    /// MTU.
    pub const MTU: u8 = 5;
}

/// A prefix that a router announces, 32 bytes with type and length.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PrefixInformation {
    /// 3.
    pub option_type: u8,
    /// 4 (units of 8 bytes).
    pub option_len: u8,
    /// Leading bits of the prefix that count, 0 to 128.
    pub prefix_len: u8,
    /// On link (0x80), autonomous configuration (0x40).
    pub flags: u8,
    /// How long the prefix counts as on link, seconds; all ones: for ever.
    pub valid_s: U32,
    /// How long addresses made from it are preferred, seconds; all ones: for ever.
    pub preferred_s: U32,
    /// 0.
    pub reserved: U32,
    /// The prefix; bits beyond its length are 0.
    pub prefix: [u8; 16],
}

impl Header for PrefixInformation {}

/// One option of a neighbour discovery message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdOption<'a> {
    /// Link address of the sender.
    SourceLinkLayer(MacAddr),
    /// Link address of the target.
    TargetLinkLayer(MacAddr),
    /// A prefix of the link.
    PrefixInformation(&'a PrefixInformation),
    /// The start of the packet that caused a redirect.
    RedirectedHeader(&'a [u8]),
    /// MTU of the link, bytes.
    Mtu(u32),
    /// An option that this package does not interpret.
    Other {
        /// Its number.
        kind: u8,
        /// Its bytes after number and length.
        data: &'a [u8],
    },
}

/// Walks the options of a neighbour discovery message and checks each; ends at the end of the bytes or
/// after the first error. A length of 0 is an error (RFC 4861 section 4.6).
#[derive(Debug, Clone)]
pub struct NdOptions<'a> {
    rest: &'a [u8],
}

impl<'a> NdOptions<'a> {
    /// Over the bytes after the fixed part of the message.
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

impl<'a> Iterator for NdOptions<'a> {
    type Item = Result<NdOption<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self
            .rest
            .get(1)
            .map_or(0, |&length| usize::from(length) * 8);
        let parsed = match self.rest.split_at_checked(length) {
            Some((option, rest)) if length > 0 => {
                self.rest = rest;
                decode_option(option)
            }
            _ => Err(ParseError::BadOption),
        };
        if parsed.is_err() {
            self.rest = &[];
        }
        Some(parsed)
    }
}

/// A link-layer address option: [`option::SOURCE_LINK_LAYER`] or [`option::TARGET_LINK_LAYER`].
pub const fn link_layer_option(kind: u8, mac: MacAddr) -> [u8; 8] {
    let m = mac.0;
    [kind, 1, m[0], m[1], m[2], m[3], m[4], m[5]]
}

/// An MTU option.
pub const fn mtu_option(mtu: u32) -> [u8; 8] {
    let m = mtu.to_be_bytes();
    [option::MTU, 1, 0, 0, m[0], m[1], m[2], m[3]]
}

/// Decodes one whole option of at least 8 bytes.
fn decode_option(bytes: &[u8]) -> Result<NdOption<'_>, ParseError> {
    let (kind, data) = match bytes {
        [kind, _, data @ ..] => (*kind, data),
        _ => return Err(ParseError::BadOption),
    };
    Ok(match (kind, data) {
        (option::SOURCE_LINK_LAYER, &[a, b, c, d, e, f]) => {
            NdOption::SourceLinkLayer(MacAddr([a, b, c, d, e, f]))
        }
        (option::TARGET_LINK_LAYER, &[a, b, c, d, e, f]) => {
            NdOption::TargetLinkLayer(MacAddr([a, b, c, d, e, f]))
        }
        (option::PREFIX_INFORMATION, _) if bytes.len() == PrefixInformation::LEN => {
            let prefix = PrefixInformation::view(bytes)?;
            if prefix.prefix_len > 128 {
                return Err(ParseError::BadOption);
            }
            NdOption::PrefixInformation(prefix)
        }
        (option::MTU, &[_, _, a, b, c, d]) => NdOption::Mtu(u32::from_be_bytes([a, b, c, d])),
        // Type, length and six reserved bytes stand before the packet.
        (option::REDIRECTED_HEADER, _) => NdOption::RedirectedHeader(&bytes[8..]),
        (
            option::SOURCE_LINK_LAYER
            | option::TARGET_LINK_LAYER
            | option::PREFIX_INFORMATION
            | option::MTU,
            _,
        ) => return Err(ParseError::BadOption),
        _ => NdOption::Other { kind, data },
    })
}

fn is_solicited_node_group(address: Ipv6Addr) -> bool {
    solicited_node(address) == address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder;
    use crate::ip6::Ip6Packet;
    use proptest::prelude::*;

    fn addr(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn literal_solicitation() {
        let message = [
            135, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            9, // fixed
            1, 1, 2, 0, 0, 0, 0, 7, // source link-layer address
        ];
        let parsed = NdMessage::parse(&message).unwrap();
        assert_eq!(parsed.source_link_layer(), Some(MacAddr::local(7)));
        assert_eq!(parsed.target_link_layer(), None);
        match parsed {
            NdMessage::NeighbourSolicitation(solicitation, _) => {
                assert_eq!(Ipv6Addr::from_octets(solicitation.target), addr("fe80::9"));
            }
            other => panic!("{other:?}"),
        }
        for len in 0..24 {
            assert_eq!(
                NdMessage::parse(&message[..len]).err(),
                Some(ParseError::Truncated)
            );
        }
        assert_eq!(
            NdMessage::parse(&[128; 40]).err(),
            Some(ParseError::BadType)
        );
    }

    #[test]
    fn literal_options() {
        let mut options = vec![5, 1, 0, 0, 0, 0, 5, 0xdc];
        options.extend([3, 4, 64, 0xc0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0]);
        options.extend(addr("2001:db8::").octets());
        options.extend([2, 1, 2, 0, 0, 0, 0, 7]);
        options.extend([4, 2, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        options.extend([25, 1, 0, 0, 0, 0, 0, 0]);
        let all: Vec<_> = NdOptions::new(&options).map(Result::unwrap).collect();
        assert_eq!(all[0], NdOption::Mtu(1500));
        match all[1] {
            NdOption::PrefixInformation(p) => {
                assert_eq!(
                    (p.prefix_len, p.valid_s.get(), p.preferred_s.get()),
                    (64, 1, 2)
                );
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(all[2], NdOption::TargetLinkLayer(MacAddr::local(7)));
        assert_eq!(
            all[3],
            NdOption::RedirectedHeader(&[1, 2, 3, 4, 5, 6, 7, 8])
        );
        assert_eq!(
            all[4],
            NdOption::Other {
                kind: 25,
                data: &[0; 6]
            }
        );
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn malformed_options() {
        for options in [
            &[1][..],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0, 0, 0, 0],
            &[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[3, 1, 0, 0, 0, 0, 0, 0],
            &[5, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(
                NdOptions::new(options).validate(),
                Err(ParseError::BadOption)
            );
        }
        let mut prefix = [0; 32];
        prefix[..3].copy_from_slice(&[3, 4, 129]);
        assert_eq!(
            NdOptions::new(&prefix).validate(),
            Err(ParseError::BadOption)
        );
    }

    /// Validates the payload of a packet made by the builder, perhaps damaged.
    fn check(packet: &[u8]) -> Result<(), ParseError> {
        let packet = Ip6Packet::parse(packet)?;
        validate(packet.header, packet.payload).map(|_| ())
    }

    #[test]
    fn validity_rules() {
        let (a, b) = (addr("fe80::1"), addr("2001:db8::2"));
        let mac = MacAddr::local(1);
        let group = solicited_node(b);
        assert_eq!(group, addr("ff02::1:ff00:2"));

        let good = builder::ip6(a, group)
            .neighbour_solicitation(b, Some(mac))
            .build();
        assert_eq!(check(&good), Ok(()));
        let mut forwarded = good.clone();
        forwarded[7] = 254;
        assert_eq!(check(&forwarded), Err(ParseError::BadHopLimit));
        let mut damaged = good.clone();
        damaged[50] ^= 1;
        assert_eq!(check(&damaged), Err(ParseError::BadChecksum));

        // Duplicate address detection: from "::", to the group, without an option.
        let any = Ipv6Addr::UNSPECIFIED;
        let probe = |to, mac| check(&builder::ip6(any, to).neighbour_solicitation(b, mac).build());
        assert_eq!(probe(group, None), Ok(()));
        assert_eq!(probe(group, Some(mac)), Err(ParseError::BadAddress));
        assert_eq!(probe(b, None), Err(ParseError::BadAddress));

        let advertise = |to, flags| {
            check(
                &builder::ip6(a, to)
                    .neighbour_advertisement(b, flags, Some(mac))
                    .build(),
            )
        };
        assert_eq!(advertise(a, ADVERTISEMENT_SOLICITED), Ok(()));
        assert_eq!(advertise(ALL_NODES, ADVERTISEMENT_OVERRIDE), Ok(()));
        assert_eq!(
            advertise(ALL_NODES, ADVERTISEMENT_SOLICITED),
            Err(ParseError::BadAddress)
        );

        let target = builder::ip6(a, group)
            .neighbour_solicitation(ALL_NODES, None)
            .build();
        assert_eq!(check(&target), Err(ParseError::BadAddress));
        let code = builder::ip6(a, b)
            .ttl(255)
            .icmp6(135, 1, [0; 4])
            .payload(&[0; 16])
            .build();
        assert_eq!(check(&code), Err(ParseError::BadCode));
        let option = builder::ip6(a, b)
            .ttl(255)
            .icmp6(135, 0, [0; 4])
            .payload(&[0; 24])
            .build();
        assert_eq!(check(&option), Err(ParseError::BadOption));
        let from_far = builder::ip6(b, a)
            .ttl(255)
            .icmp6(134, 0, [0; 4])
            .payload(&[0; 8])
            .build();
        assert_eq!(check(&from_far), Err(ParseError::BadAddress));
    }

    #[test]
    fn option_emitters_round_trip() {
        let mac = MacAddr::local(3);
        let all = |bytes: &[u8]| {
            NdOptions::new(bytes)
                .map(Result::unwrap)
                .map(|o| format!("{o:?}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            all(&link_layer_option(2, mac)),
            [format!("{:?}", NdOption::TargetLinkLayer(mac))]
        );
        assert_eq!(
            all(&mtu_option(9000)),
            [format!("{:?}", NdOption::Mtu(9000))]
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(kind in 130u8..140, mut bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(NdOptions::new(&bytes).count() <= bytes.len() / 8 + 1);
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = NdMessage::parse(&bytes).map(|m| (m.options().validate(), m.target_link_layer()));
        }
    }
}
