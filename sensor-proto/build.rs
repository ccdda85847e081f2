//! Compiles the schema: protobuf types (prost), the descriptor set, the tables of fields and the JSON mapping.
//! The protobuf compiler is pure Rust; nothing beyond cargo is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let set = protox::Compiler::new(["proto"])?
        .include_source_info(true)
        .open_files(["sensor/v1/event.proto"])?
        .file_descriptor_set();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("sensor.v1.descriptor"), set.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.compile_fds(set)?;
    Ok(())
}
