//! VLAN tags (IEEE 802.1Q, IEEE 802.1ad).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-----+-+-----------------------+-------------------------------+
//! | PCP |D|         VID           |           EtherType           |
//! +-----+-+-----------------------+-------------------------------+
//! ```
//! `D` is the drop eligible indicator. The EtherType of the tag itself stands in the header before it.

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EtherType, EthernetHeader, Header, ParseError};

/// Highest VLAN id that a configuration may use; 0 is a priority tag and 4095 is reserved.
pub const MAX_VID: u16 = 4094;

/// The four bytes that follow the EtherType of a tag.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VlanTag {
    /// Tag control information: priority, drop eligible indicator, VLAN id.
    pub tci: U16,
    /// What follows the tag.
    pub ethertype: EtherType,
}

impl Header for VlanTag {}

impl VlanTag {
    /// A tag from its parts; bits of `pcp` above 3 and of `vid` above 12 are cut off.
    #[inline]
    pub const fn new(pcp: u8, dei: bool, vid: u16, ethertype: EtherType) -> Self {
        let tci = (pcp as u16 & 7) << 13 | (dei as u16) << 12 | (vid & 0x0fff);
        Self {
            tci: U16::new(tci),
            ethertype,
        }
    }

    /// The tag and the bytes after it. Every value of every field is legal.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        Self::split(bytes)
    }

    /// VLAN id, 0 to 4095.
    #[inline]
    pub fn vid(&self) -> u16 {
        self.tci.get() & 0x0fff
    }

    /// Priority code point, 0 to 7.
    #[inline]
    pub fn pcp(&self) -> u8 {
        self.tci.to_bytes()[0] >> 5
    }

    /// Drop eligible indicator.
    #[inline]
    pub fn dei(&self) -> bool {
        self.tci.to_bytes()[0] & 0x10 != 0
    }

    /// Replaces the VLAN id and keeps priority and drop eligibility.
    #[inline]
    pub fn set_vid(&mut self, vid: u16) {
        self.tci.set(self.tci.get() & 0xf000 | vid & 0x0fff);
    }
}

/// An Ethernet frame whose tags, none to two, have been found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaggedFrame<'a> {
    /// The Ethernet header; its EtherType says which kind the outer tag is.
    pub ethernet: &'a EthernetHeader,
    /// The tag next to the Ethernet header.
    pub outer: Option<&'a VlanTag>,
    /// The second tag.
    pub inner: Option<&'a VlanTag>,
    /// What follows the tags; itself a tag type if the frame carries three or more.
    pub ethertype: EtherType,
    /// Bytes from the start of the frame to [`rest`](Self::rest): 14, 18 or 22.
    pub offset: usize,
    /// The bytes after the tags.
    pub rest: &'a [u8],
}

/// Finds up to two tags after the Ethernet header of `frame`; `Truncated` if a header is cut short.
///
/// ```
/// use wire::{builder::eth, vlan::parse_vlans, EtherType, MacAddr};
///
/// let frame = eth(MacAddr::local(1), MacAddr::local(2)).vlan_ad(100).vlan(10).arp_request([10, 0, 0, 1], [10, 0, 0, 2]).build();
/// let tagged = parse_vlans(&frame).unwrap();
/// assert_eq!(tagged.outer.unwrap().vid(), 100);
/// assert_eq!(tagged.inner.unwrap().vid(), 10);
/// assert_eq!((tagged.ethertype, tagged.offset), (EtherType::ARP, 22));
/// ```
#[inline]
pub fn parse_vlans(frame: &[u8]) -> Result<TaggedFrame<'_>, ParseError> {
    let (ethernet, rest) = EthernetHeader::split(frame)?;
    let mut tagged = TaggedFrame {
        ethernet,
        outer: None,
        inner: None,
        ethertype: ethernet.ethertype,
        offset: EthernetHeader::LEN,
        rest,
    };
    if tagged.ethertype.is_vlan() {
        let (tag, rest) = VlanTag::split(tagged.rest)?;
        tagged.outer = Some(tag);
        (tagged.ethertype, tagged.rest) = (tag.ethertype, rest);
        tagged.offset += VlanTag::LEN;
        if tagged.ethertype.is_vlan() {
            let (tag, rest) = VlanTag::split(tagged.rest)?;
            tagged.inner = Some(tag);
            (tagged.ethertype, tagged.rest) = (tag.ethertype, rest);
            tagged.offset += VlanTag::LEN;
        }
    }
    Ok(tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTAGGED: [u8; 15] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, 0x45];
    const QINQ: [u8; 23] = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xa8, 0xb0, 0x64, 0x81, 0x00, 0x0f, 0xfe, 0x86,
        0xdd, 0x60,
    ];

    #[test]
    fn no_tag() {
        let frame = parse_vlans(&UNTAGGED).unwrap();
        assert_eq!((frame.outer, frame.inner), (None, None));
        assert_eq!(
            (frame.ethertype, frame.offset, frame.rest),
            (EtherType::IP4, 14, &[0x45][..])
        );
    }

    #[test]
    fn two_tags() {
        let frame = parse_vlans(&QINQ).unwrap();
        let (outer, inner) = (frame.outer.unwrap(), frame.inner.unwrap());
        assert_eq!((outer.pcp(), outer.dei(), outer.vid()), (5, true, 100));
        assert_eq!((inner.pcp(), inner.dei(), inner.vid()), (0, false, 4094));
        assert_eq!(
            (frame.ethertype, frame.offset, frame.rest),
            (EtherType::IP6, 22, &[0x60][..])
        );
        assert_eq!(*outer, VlanTag::new(5, true, 100, EtherType::VLAN));
    }

    #[test]
    fn every_cut_is_truncated() {
        for len in 0..22 {
            assert_eq!(
                parse_vlans(&QINQ[..len]),
                Err(ParseError::Truncated),
                "{len}"
            );
        }
    }

    #[test]
    fn third_tag_is_left_to_the_caller() {
        let mut frame = QINQ;
        frame[20..22].copy_from_slice(&[0x91, 0x00]);
        assert_eq!(parse_vlans(&frame).unwrap().ethertype, EtherType::VLAN_9100);
    }

    #[test]
    fn set_vid_keeps_priority() {
        let mut tag = VlanTag::new(7, true, 1, EtherType::IP4);
        tag.set_vid(0xffff);
        assert_eq!((tag.pcp(), tag.dei(), tag.vid()), (7, true, 0xfff));
    }
}
