//! Telemetry packets: from a batch of events to the bytes that are kept and sent, and back.
//!
//! The bytes of a packet are made once, by [`Packer::pack`], and never changed on the way. Their SHA-256 is the packet's digest:
//! the chain's link in the next packet and what a receiver acknowledges. [`open`] takes them apart again and refuses what is
//! malformed, too large or contradicts itself; it never panics and uses no more memory than its [`Limits`] allow, whatever
//! the bytes are.
//!
//! Inside a packet, events and rows of processes leave out what other fields tell (`EventColumns`, `ProcessColumns` in the schema);
//! who opens a packet gets them whole. This module knows neither clock nor disk nor network.

use sha2::{Digest as _, Sha256};

mod budget;
mod columns;
mod open;
mod pack;
#[cfg(test)]
mod tests;
mod wire;

pub use open::{Limits, OpenError, OpenedPacket, open, read_header};
pub use pack::{Label, PackError, Packed, Packer};

use crate::v1;

/// SHA-256 of the bytes of a packet.
pub type Digest = [u8; 32];

/// The digest of the bytes of a packet.
#[must_use]
pub fn digest(packet: &[u8]) -> Digest {
    Sha256::digest(packet).into()
}

/// The stream that an event belongs to: exec, exit, fork, module loads and what patches them are urgent, the rest comes in
/// masses. A patch of a process's row is urgent. What this reader does not know is bulk.
#[must_use]
pub fn stream_of(event: &v1::Event) -> v1::Stream {
    let mut event_type = event.event_type();
    if let Some(v1::event::Body::Patch(patch)) = &event.body {
        event_type = patch.of_type();
        if event_type == v1::EventType::Unspecified {
            event_type = v1::EventType::Exec;
        }
    }
    stream_of_type(event_type)
}

/// The stream of events of a type. Patches go with what they patch: see [`stream_of`].
#[must_use]
pub fn stream_of_type(event_type: v1::EventType) -> v1::Stream {
    match event_type {
        v1::EventType::Exec
        | v1::EventType::Exit
        | v1::EventType::Fork
        | v1::EventType::ModuleLoad => v1::Stream::Process,
        v1::EventType::FileCreate
        | v1::EventType::Connect
        | v1::EventType::Aggregate
        | v1::EventType::Patch
        | v1::EventType::Unspecified => v1::Stream::Bulk,
    }
}
