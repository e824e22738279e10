//! Every parser, walker and description of `wire` over arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| wire::fuzzing::check_all(bytes));
