//! The public schema `sensor.v1`: the single definition of what an event is. The generated types are the events that
//! the daemon works on; there is no parallel hierarchy. This crate does no input or output and holds no policy.
#![forbid(unsafe_code)]

/// The schema, version 1: the messages and enumerations of `proto/sensor/v1/`.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/sensor.v1.rs"));
}

/// The compiled schema with its comments: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/sensor.v1.descriptor"));

/// Version of the schema, sent as `Agent.schema_version`: raised when fields are added.
pub const SCHEMA_VERSION: u32 = 1;
