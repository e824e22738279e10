//! Output: what stands between a rewritten packet and its port.
