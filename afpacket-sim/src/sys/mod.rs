//! The system calls that neither std nor nix offers safely: the only unsafe code of the package.

#![expect(
    unsafe_code,
    reason = "raw system calls; each block says why and why it is sound"
)]

pub(crate) mod bpf;
pub(crate) mod ethtool;
pub(crate) mod packet;
pub(crate) mod process;
pub(crate) mod socket_option;
