//! The public schema `sensor.v1`: the single definition of what an event is.
//!
//! The generated types are the events that the daemon works on; there is no parallel hierarchy. The build script makes from the
//! same files the types ([`v1`]), the field numbers ([`field`]), the tables with all documentation ([`schema`]) and the JSON
//! view ([`json`]). This crate does no input or output and holds no policy.
#![forbid(unsafe_code)]

#[cfg(test)]
mod compatibility;
pub mod docs;
mod event;
pub mod identity;
pub mod json;
#[cfg(feature = "packet")]
pub mod packet;
pub mod rows;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
pub mod schema;

/// The messages and enumerations of `proto/sensor/v1/`, made by the protobuf compiler; with the features `client` and
/// `server` also the two sides of the service `CentralNode`.
#[cfg_attr(
    any(feature = "client", feature = "server"),
    expect(
        clippy::allow_attributes_without_reason,
        unused_qualifications,
        reason = "made by the protobuf compiler"
    )
)]
#[cfg_attr(
    feature = "server",
    expect(
        clippy::allow_attributes,
        clippy::clone_on_ref_ptr,
        reason = "made by the protobuf compiler"
    )
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/sensor.v1.rs"));
}

/// Numbers of the fields of every message, for lists of absent fields: `field::process::IMAGE`.
pub mod field {
    include!(concat!(env!("OUT_DIR"), "/sensor.v1.field.rs"));
}

/// The compiled schema with its comments: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/sensor.v1.descriptor"));

/// Version of the schema, sent as `Agent.schema_version`: raised when fields are added.
pub const SCHEMA_VERSION: u32 = 1;
