//! The control plane's protobuf definitions and generated code.
