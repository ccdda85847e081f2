//! The central node: the reference receiver of telemetry packets.
//!
//! Agents deliver over gRPC with mutual TLS ([`server`]); what they send is verified ([`packet`]), stored by one writer
//! ([`store`]) and acknowledged after it is durable. [`completeness`] says of every agent and span of time whether all is here,
//! and if not, what is missing and why. The node holds no policy about events: it keeps what was sealed.
//!
//! docs/central-node.md says what is guaranteed.
#![forbid(unsafe_code)]

pub mod account;
pub mod agent_id;
pub mod args;
pub mod certificate;
pub mod clock;
pub mod command;
pub mod completeness;
pub mod config;
pub mod exit;
pub mod listen;
mod notify;
pub mod packet;
pub mod query;
pub mod server;
pub mod store;
pub mod term;
#[cfg(feature = "testing")]
pub mod testing;
pub mod writer;
