//! What the tests in namespaces share.

use afpacket_sim::SimError;

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
