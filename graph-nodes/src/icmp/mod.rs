//! ICMP and ICMPv6: what this node answers and says about packets that it cannot forward.

mod error_word;
pub mod icmp4_error;
pub mod icmp4_input;
pub mod icmp4_redirect;
pub mod icmp6_error;
pub mod icmp6_input;
pub mod icmp6_redirect;
pub(crate) mod redirect;

use dataplane::Context;

use crate::snapshot::Snapshot;

pub use error_word::ErrorWord;
pub use icmp4_error::Icmp4Error;
pub use icmp4_input::Icmp4Input;
pub use icmp4_redirect::Icmp4Redirect;
pub use icmp6_error::Icmp6Error;
pub use icmp6_input::Icmp6Input;
pub use icmp6_redirect::Icmp6Redirect;

/// Time to live of ICMP messages that this node makes (RFC 1700, "Internet Protocol, default time to live").
pub(crate) const TTL: u8 = 64;

/// Errors, redirects and TCP resets that this worker may still send now.
pub(crate) fn errors_left(cx: &mut Context<'_, Snapshot>) -> u64 {
    let errors = cx.state.icmp_errors(cx.snapshot.icmp, cx.now_ns);
    errors.available(cx.now_ns)
}

/// Takes the place of one of them; false where none is left.
pub(crate) fn take_error(cx: &mut Context<'_, Snapshot>) -> bool {
    let errors = cx.state.icmp_errors(cx.snapshot.icmp, cx.now_ns);
    errors.take(cx.now_ns, 1)
}
