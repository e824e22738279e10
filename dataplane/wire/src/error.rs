//! Why bytes are not the header that was asked for.

use core::fmt;

/// Why a parser refused its input. One byte, so that a node can count by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ParseError {
    /// Fewer bytes than the header needs.
    Truncated,
    /// The version field does not name this protocol.
    BadVersion,
    /// A header length field is below the minimum or reaches beyond the bytes.
    BadHeaderLength,
    /// A packet length field is below the header length or reaches beyond the bytes.
    BadTotalLength,
    /// The checksum does not match. Only functions that verify return this.
    BadChecksum,
    /// An option has an illegal length, reaches beyond its header or contradicts its own definition.
    BadOption,
    /// A type or format field names something else than what was asked for.
    BadType,
    /// A code field holds a value that the protocol does not allow here.
    BadCode,
    /// An extension header stands where the protocol does not allow it.
    BadOrder,
    /// More nested headers than the caller's limit.
    TooManyHeaders,
    /// An address that the protocol does not allow in this place.
    BadAddress,
    /// A hop limit other than the one that the protocol demands.
    BadHopLimit,
}

impl ParseError {
    /// The reason in words for people, without the name of the protocol.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Truncated => "fewer bytes than the header needs",
            Self::BadVersion => "version field names another protocol",
            Self::BadHeaderLength => "header length is too small or reaches beyond the packet",
            Self::BadTotalLength => {
                "packet length is too small or reaches beyond the received bytes"
            }
            Self::BadChecksum => "checksum does not match",
            Self::BadOption => "malformed option",
            Self::BadType => "type field names something else",
            Self::BadCode => "code is not allowed here",
            Self::BadOrder => "extension header out of order",
            Self::TooManyHeaders => "too many nested headers",
            Self::BadAddress => "address is not allowed here",
            Self::BadHopLimit => "hop limit is not the one that the protocol demands",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_byte_even_inside_a_result() {
        assert_eq!(size_of::<ParseError>(), 1);
        assert_eq!(size_of::<Result<(), ParseError>>(), 1);
        assert_eq!(
            ParseError::BadChecksum.to_string(),
            "checksum does not match"
        );
    }
}
