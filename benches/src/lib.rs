//! Scenarios behind `oncilla bench`: a generator, the gateway's graph and a sink in one process, on pinned cores.
//!
//! The figures are ticks of the time-stamp counter per packet, by node and in total, over many short windows. Other
//! work on the machine only ever adds to a window, so the minimum says what the code costs; the median says what one gets.
#![forbid(unsafe_code)]

mod case;
mod classbench;
mod forwarding;
mod machine;
mod measure;
mod nat;
mod own_flows;
mod policy;
mod services;
mod test_acl;

pub use case::{Case, Frames, cases, find};
pub use classbench::{
    ClassifierCase, ClassifierReport, classifier_cases, find_classifier, run_classifier,
};
pub use machine::{core_per_tick, fingerprint};
pub use measure::{BenchError, NodeTicks, Options, Report, run};
pub use test_acl::Peer;
