//! The network functions: one folder per family, one file per node, and the Snapshot they read.
