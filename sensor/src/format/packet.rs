//! Events of a packet that was opened, each as a line in the format that is asked for.

use sensor_proto::packet::OpenedPacket;
use sensor_proto::v1::{Agent, Event, Host};

use super::{Complete, ecs, ocsf};
use crate::config::Form;

/// Appends an event of the packet as one JSON object without line end: process, parent, ancestors, host and agent in place.
pub fn write(form: Form, packet: &OpenedPacket, event: &Event, out: &mut Vec<u8>) {
    let view = match form {
        Form::Json => return packet.write_event_json(event, out),
        Form::Ecs => ecs::write,
        Form::Ocsf => ocsf::write,
    };
    // Who opens a packet puts both in.
    let (no_host, no_agent) = (Host::default(), Agent::default());
    let process = packet.actor(event);
    let (lineage, ancestors_truncated) =
        process.map_or((Vec::new(), false), |process| packet.ancestors(process));
    let (parent, ancestors) = match lineage.split_first() {
        Some((parent, ancestors)) => (Some(*parent), ancestors),
        None => (None, lineage.as_slice()),
    };
    let complete = Complete {
        event,
        process,
        parent,
        ancestors,
        ancestors_truncated,
        host: packet.body().host.as_ref().unwrap_or(&no_host),
        agent: packet.body().agent.as_ref().unwrap_or(&no_agent),
    };
    view(&complete, out);
}
