//! The word that a node leaves for `icmp4-error` and `icmp6-error`: which error to send.

/// Type, code and the low 16 bits of the message's second word (the MTU, or a parameter problem's pointer).
///
/// ICMPv6's packet-too-big and pointer fields are 32 bits wide; no value above 65535 occurs here, because no interface's MTU
/// and no header is longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorWord {
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// MTU or pointer; 0 where the type has neither.
    pub parameter: u16,
}

impl ErrorWord {
    /// An error without parameter.
    pub const fn new(kind: u8, code: u8) -> Self {
        Self {
            kind,
            code,
            parameter: 0,
        }
    }

    /// With an MTU or a pointer.
    #[must_use]
    pub const fn with_parameter(self, parameter: u16) -> Self {
        Self { parameter, ..self }
    }

    /// As a descriptor's word.
    #[inline]
    pub const fn to_word(self) -> u32 {
        (self.kind as u32) << 24 | (self.code as u32) << 16 | self.parameter as u32
    }

    /// From a descriptor's word.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        Self {
            kind: (word >> 24) as u8,
            code: (word >> 16) as u8,
            parameter: word as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let error = ErrorWord::new(3, 4).with_parameter(1400);
        assert_eq!(ErrorWord::from_word(error.to_word()), error);
    }
}
