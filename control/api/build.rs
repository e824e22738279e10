//! Compiles the .proto files (no `protoc` program needed) and decides how the generated types meet serde.

use std::error::Error;
use std::path::PathBuf;

/// Families whose messages people write as YAML or JSON.
const DECLARATIVE: &[&str] = &[
    "object",
    "interface",
    "address",
    "route",
    "neighbour",
    "vrf",
    "policy",
    "nat",
];

/// Families whose messages are only ever printed.
const PRINTED: &[&str] = &["control", "telemetry"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let path = |family: &&str| format!("oncilla/v1/{family}.proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(DECLARATIVE.iter().chain(PRINTED).map(path))?;
    let descriptors = compiler.file_descriptor_set();

    let mut config = tonic_prost_build::Config::new();
    config.btree_map(["."]);
    for file in &descriptors.file {
        let declarative = DECLARATIVE.iter().any(|family| file.name() == path(family));
        for message in &file.message_type {
            if message.name() == "Object" {
                continue; // the shape of its `spec` depends on its `kind`: written by hand
            }
            let name = format!(".{}.{}", file.package(), message.name());
            config.message_attribute(&name, "#[derive(serde::Serialize)]");
            if declarative {
                config.message_attribute(&name, "#[derive(serde::Deserialize)]");
                config.message_attribute(
                    &name,
                    r#"#[serde(rename_all = "camelCase", deny_unknown_fields, default)]"#,
                );
                config.field_attribute(
                    &name,
                    r#"#[serde(skip_serializing_if = "crate::is_default")]"#,
                );
            } else {
                config.message_attribute(&name, r#"#[serde(rename_all = "camelCase")]"#);
            }
        }
    }
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;

    // Reflection serves the descriptors at run time.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("descriptors.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    Ok(())
}
