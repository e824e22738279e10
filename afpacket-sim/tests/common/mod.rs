//! What the tests in namespaces share.

use afpacket_sim::{Lab, SimError, Topology};

/// The lab of `text`; `None`, with the reason printed, where namespaces cannot be made and nobody insists on them.
pub fn lab(text: &str) -> Option<Lab> {
    let topology: Topology = text.parse().expect("a valid topology");
    or_skip(Lab::build(&topology))
}

/// The value, or `None` for want of privilege outside continuous integration.
pub fn or_skip<T>(result: Result<T, SimError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.is_permission() && std::env::var_os("CI").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
