//! Bytes to headers and back: checked views, checksums, packet builder.
