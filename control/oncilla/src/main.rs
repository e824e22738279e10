//! Oncilla: the userspace network dataplane; daemon, client, demo and bench in one binary.
fn main() {}
