//! One packet as many messages, for receivers that take events: opened and written on a thread that may block, a part at a time,
//! so that neither a large packet nor a slow receiver takes more memory than the opened packet and two parts.
//!
//! A message has the id that its event has in every form (`id`, `event.id`, `metadata.uid`): `<agent id>/<epoch>/<counter>`; a whole packet is
//! `<agent id>/<epoch>/<stream>/<sequence>`. What is sent twice has the same id both times, so that a consumer can tell.
//!
//! A packet is acknowledged in the spool when all of its messages are ([`Tally`]); what a receiver refuses of it, the packet is
//! set aside for, since the spool knows packets only.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt::Write as _;

use sensor_proto::packet::{Limits, OpenedPacket, open};
use sensor_proto::v1::{Event, EventType};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::Form;
use crate::format::packet::write;
use crate::sink::delivery::{Outcome, printable};
use crate::spool::{Entry, PacketId};

/// Bytes of lines that are written ahead of the receiver, and as many that it holds.
const PART_BYTES: usize = 256 << 10;

/// An event, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `<agent id>/<epoch>/<counter>`.
    pub id: String,
    /// What it is.
    pub event_type: EventType,
    /// When it happened, wall clock, ns since 1970.
    pub time_ns: i64,
    /// The event as one JSON object, without line end.
    pub line: Vec<u8>,
}

/// Id of a whole packet: `<agent id>/<epoch>/<stream>/<sequence>`.
#[must_use]
pub fn packet_id(agent_id: [u8; 16], id: PacketId) -> String {
    format!(
        "{}/{}/{}/{}",
        Uuid::from_bytes(agent_id),
        id.epoch,
        id.stream.name(),
        id.sequence
    )
}

/// What comes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Some of its events, in their order.
    Messages(Vec<Message>),
    /// There are no more. A heartbeat has none at all.
    End,
    /// It cannot be opened: it never will be.
    Unreadable(String),
}

/// A packet that is being taken apart.
#[derive(Debug)]
pub struct Unpacking(mpsc::Receiver<Part>);

impl Unpacking {
    /// Begins. One at a time is enough for a sink: the next packet is opened when this one is sent. Needs a runtime.
    #[must_use]
    pub fn begin(form: Form, packet: Entry) -> Self {
        let (sender, parts) = mpsc::channel(1);
        // Ends early when nobody wants the rest: sending fails then.
        tokio::task::spawn_blocking(move || take_apart(form, &packet, &sender));
        Self(parts)
    }

    /// The next part; after [`Part::End`] and [`Part::Unreadable`] there is none. May be dropped while it waits.
    pub async fn next(&mut self) -> Part {
        let part = self.0.recv().await;
        part.unwrap_or_else(|| Part::Unreadable("it could not be taken apart".to_owned()))
    }
}

fn take_apart(form: Form, packet: &Entry, parts: &mpsc::Sender<Part>) {
    let last = match open(&packet.bytes, &Limits::default()) {
        Ok(opened) => {
            if !write_all(form, &opened, parts) {
                return;
            }
            Part::End
        }
        Err(error) => Part::Unreadable(printable(&error.to_string())),
    };
    // Nobody listens: the session has ended.
    drop(parts.blocking_send(last));
}

/// False: nobody listens any more.
fn write_all(form: Form, packet: &OpenedPacket, parts: &mpsc::Sender<Part>) -> bool {
    let mut prefix = id_prefix(packet);
    let plain = prefix.len();
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for event in packet.events() {
        let mut line = Vec::new();
        write(form, packet, event, &mut line);
        bytes += line.len();
        prefix.truncate(plain);
        messages.push(Message {
            id: event_id(&mut prefix, event),
            event_type: event.event_type(),
            time_ns: event.time_ns,
            line,
        });
        if bytes >= PART_BYTES {
            let part = Part::Messages(std::mem::take(&mut messages));
            if parts.blocking_send(part).is_err() {
                return false;
            }
            bytes = 0;
        }
    }
    messages.is_empty() || parts.blocking_send(Part::Messages(messages)).is_ok()
}

fn id_prefix(packet: &OpenedPacket) -> String {
    let header = packet.header();
    // Opening has checked that they have 16 bytes.
    let agent = Uuid::from_slice(&header.agent_id).unwrap_or_default();
    let mut prefix = format!("{agent}/");
    for byte in &header.epoch {
        write!(prefix, "{byte:02x}").unwrap_or_default();
    }
    prefix.push('/');
    prefix
}

fn event_id(prefix: &mut String, event: &Event) -> String {
    let counter = event.id.as_ref().map_or(0, |id| id.counter);
    write!(prefix, "{counter}").unwrap_or_default();
    prefix.clone()
}

/// Packets whose messages are on the way, and what became of them.
#[derive(Debug, Default)]
pub struct Tally(HashMap<PacketId, Count>);

#[derive(Debug, Default)]
struct Count {
    /// Sent and not answered.
    waiting: usize,
    /// All of it was sent.
    whole: bool,
    /// Why some of it was refused for good; the first reason.
    refused: Option<String>,
}

impl Tally {
    /// A message of the packet is on the way.
    pub fn sent(&mut self, packet: PacketId) {
        self.0.entry(packet).or_default().waiting += 1;
    }

    /// No more messages of the packet come. Says what became of it if nothing is waited for.
    pub fn whole(&mut self, packet: PacketId) -> Option<Outcome> {
        self.0.entry(packet).or_default().whole = true;
        self.settled(packet)
    }

    /// A message of the packet is safe. Says what became of the packet if that was the last answer.
    pub fn acked(&mut self, packet: PacketId) -> Option<Outcome> {
        let count = self.0.get_mut(&packet)?;
        count.waiting = count.waiting.saturating_sub(1);
        self.settled(packet)
    }

    /// A message of the packet, or the packet, is refused for good. `was_sent`: it was counted by [`Tally::sent`].
    pub fn refused(
        &mut self,
        packet: PacketId,
        why: impl Into<String>,
        was_sent: bool,
    ) -> Option<Outcome> {
        let count = self.0.entry(packet).or_default();
        count.refused.get_or_insert_with(|| why.into());
        if was_sent {
            count.waiting = count.waiting.saturating_sub(1);
        }
        self.settled(packet)
    }

    fn settled(&mut self, packet: PacketId) -> Option<Outcome> {
        let Slot::Occupied(slot) = self.0.entry(packet) else {
            return None;
        };
        let count = slot.get();
        if count.waiting > 0 || !count.whole {
            return None;
        }
        Some(match slot.remove().refused {
            None => Outcome::Acked,
            Some(why) => Outcome::Rejected { why },
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
