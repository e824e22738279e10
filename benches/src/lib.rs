//! Scenarios behind 'oncilla bench' and criterion benches of the kernels.
