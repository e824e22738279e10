//! The control plane's protobuf definitions and generated code.
//!
//! The `.proto` files are the single schema: the specification messages also derive serde's traits, so that YAML and
//! JSON have the same fields, in camelCase, with unknown ones refused.
#![forbid(unsafe_code)]

mod object;
mod status;

pub use object::{API_VERSION, KINDS};
pub use status::Refusal;

/// Package `oncilla.v1`: generated.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "generated: the documentation of every message and field comes from the .proto files"
    )]
    tonic::include_proto!("oncilla.v1");
}

/// The encoded `google.protobuf.FileDescriptorSet` of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Whether a field can be left out of YAML and JSON, because reading it back gives the same.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
