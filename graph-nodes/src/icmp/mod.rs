//! ICMP and ICMPv6: what this node answers and says about packets that it cannot forward.

mod error_word;

pub use error_word::ErrorWord;
