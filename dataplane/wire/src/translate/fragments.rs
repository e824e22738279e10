//! Pieces of a translated packet that is too long for IPv6 (RFC 7915 section 4.1).

use core::ops::Range;

use zerocopy::IntoBytes;
use zerocopy::big_endian::U16;

use crate::ip6::{self, FragmentHeader};
use crate::{Header, Ip6Header};

/// Length of the headers of every piece, bytes.
const HEADERS_LEN: usize = Ip6Header::LEN + FragmentHeader::LEN;
/// "More fragments" in the fragment header.
const MORE: u16 = 1;

/// The pieces of a packet that [`to6`](super::to6) marked with [`Edit::fragment`](super::Edit::fragment): for each, the
/// bytes of the payload that go into it, and its headers.
///
/// ```
/// use wire::translate::{self, Ip6Fragments, MAX_HEADERS, Policy, To6, Tuple};
///
/// let mut packet = wire::builder::ip4([198, 51, 100, 1], [203, 0, 113, 1]).id(7)
///     .icmp4_echo(1, 2).payload(&[0; 1400]).build();
/// let seen = translate::inspect4(&packet)?.tuple;
/// let (source, destination) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
/// let binding = To6::new(&seen, &Tuple { source, destination, ports: seen.ports });
/// let mut out = [0; MAX_HEADERS];
/// let policy = Policy::default();
/// let edit = translate::to6(&mut packet, &binding, &policy, &mut out)?;
/// assert!(edit.fragment);
///
/// let pieces = Ip6Fragments::new(&out[..edit.header_len], policy.lowest_ip6_mtu).unwrap();
/// let lengths: Vec<usize> = pieces.map(|(part, headers)| headers.len() + part.len()).collect();
/// assert_eq!(lengths, [1280, 48 + 1408 - 1232]);
/// # Ok::<(), translate::Refusal>(())
/// ```
#[derive(Debug, Clone)]
pub struct Ip6Fragments {
    header: Ip6Header,
    fragment: FragmentHeader,
    /// Payload after the headers, bytes.
    payload_len: usize,
    /// How much of it has been given out.
    done: usize,
    /// The most that goes into one piece, a multiple of 8.
    step: usize,
}

impl Ip6Fragments {
    /// The pieces of the packet whose headers, IPv6 and fragment header, are `headers`, none longer than
    /// `mtu` bytes. An `mtu` below 1280 counts as 1280. `None` if `headers` are something else.
    pub fn new(headers: &[u8], mtu: u16) -> Option<Self> {
        let (header, rest) = Ip6Header::split(headers).ok()?;
        let (fragment, _) = FragmentHeader::split(rest).ok()?;
        if header.next_header != crate::IpProtocol::FRAGMENT {
            return None;
        }
        Some(Self {
            header: *header,
            fragment: *fragment,
            payload_len: usize::from(header.payload_length.get())
                .checked_sub(FragmentHeader::LEN)?,
            done: 0,
            step: (usize::from(mtu.max(ip6::MIN_MTU)) - HEADERS_LEN) & !7,
        })
    }
}

impl Iterator for Ip6Fragments {
    type Item = (Range<usize>, [u8; HEADERS_LEN]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.done >= self.payload_len {
            return None;
        }
        let end = self.payload_len.min(self.done + self.step);
        let part = self.done..end;
        let (mut header, mut fragment) = (self.header, self.fragment);
        header.payload_length = U16::new((FragmentHeader::LEN + part.len()) as u16);
        // The last piece is followed by more if the packet itself was a fragment before the last.
        let more = end < self.payload_len || fragment.more_fragments();
        let offset = (fragment.offset_bytes() + self.done) as u16;
        fragment.offset_more = U16::new(offset | if more { MORE } else { 0 });
        self.done = end;
        let mut headers = [0; HEADERS_LEN];
        headers[..Ip6Header::LEN].copy_from_slice(header.as_bytes());
        headers[Ip6Header::LEN..].copy_from_slice(fragment.as_bytes());
        Some((part, headers))
    }
}
