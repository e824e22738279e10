//! Lookup tables of the packet path: longest-prefix match, token bucket.
