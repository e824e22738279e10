//! What all fixed-layout headers have in common: being looked at in place.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ParseError;

/// A header of fixed layout, read and written where it lies: one bounds check, no copy, no allocation.
///
/// These functions check the length only. What the fields mean is checked by each header's own
/// `parse` and by functions such as [`ip4::validate`](crate::ip4::validate).
///
/// ```
/// use wire::{EthernetHeader, Header};
///
/// let frame = [0u8; 60];
/// let (ethernet, rest) = EthernetHeader::split(&frame).unwrap();
/// assert_eq!(ethernet.ethertype.value(), 0);
/// assert_eq!(rest.len(), 46);
/// ```
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// Length of the fixed part, bytes.
    const LEN: usize = size_of::<Self>();

    /// The header at the start of `bytes`; `Truncated` if they are too few.
    #[inline]
    fn view(bytes: &[u8]) -> Result<&Self, ParseError> {
        match Self::ref_from_prefix(bytes) {
            Ok((header, _)) => Ok(header),
            Err(_) => Err(ParseError::Truncated),
        }
    }

    /// The header at the start of `bytes`, for writing; `Truncated` if they are too few.
    #[inline]
    fn view_mut(bytes: &mut [u8]) -> Result<&mut Self, ParseError> {
        match Self::mut_from_prefix(bytes) {
            Ok((header, _)) => Ok(header),
            Err(_) => Err(ParseError::Truncated),
        }
    }

    /// The header at the start of `bytes` and all bytes after its fixed part.
    #[inline]
    fn split(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        Self::ref_from_prefix(bytes).map_err(|_| ParseError::Truncated)
    }

    /// The header at the start of `bytes` and all bytes after its fixed part, for writing.
    #[inline]
    fn split_mut(bytes: &mut [u8]) -> Result<(&mut Self, &mut [u8]), ParseError> {
        Self::mut_from_prefix(bytes).map_err(|_| ParseError::Truncated)
    }
}
