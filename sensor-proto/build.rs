//! Compiles the schema: protobuf types (prost), the descriptor set, the tables of fields and the JSON mapping, so that a
//! field added to the schema cannot be forgotten in any of them. The protobuf compiler is pure Rust; nothing beyond cargo is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

#[path = "build/json.rs"]
mod json;
#[path = "build/schema.rs"]
mod schema;

/// The files of the schema, below `proto/`.
const FILES: [&str; 3] = [
    "sensor/v1/event.proto",
    "sensor/v1/packet.proto",
    "sensor/v1/central_node.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build");
    let set = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .open_files(FILES)?
        .file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("sensor.v1.descriptor"), set.encode_to_vec())?;

    let schema = schema::Schema::read(&set)?;
    std::fs::write(out.join("sensor.v1.schema.rs"), schema.tables()?)?;
    std::fs::write(out.join("sensor.v1.field.rs"), schema.field_numbers()?)?;
    std::fs::write(out.join("sensor.v1.json.rs"), json::mapping(&schema)?)?;

    // The service is generated always and compiled by feature, so that a build script's output does not depend on features.
    tonic_prost_build::configure()
        .build_transport(false)
        // Most processes are in none, and it is large.
        .boxed(".sensor.v1.Process.container")
        .boxed(".sensor.v1.ProcessPatch.container")
        .client_mod_attribute("sensor.v1", "#[cfg(feature = \"client\")]")
        .server_mod_attribute("sensor.v1", "#[cfg(feature = \"server\")]")
        .compile_fds(set)?;
    Ok(())
}
