//! From events to lines, and to the sink in batches.

use std::sync::Arc;

use sensor_proto::json::{Actor, Lineage, Origin, render_process, write_event_json};
use sensor_proto::v1;

use crate::enrich::process::ProcessImage;
use crate::sink::{Batch, SinkHandle};

/// Bytes of lines that are handed over at once, at least.
const BATCH_BYTES: usize = 64 << 10;

/// Where events go, as lines of which form.
#[derive(Debug)]
pub struct Output {
    origin: Origin,
    batch: Batch,
    sink: SinkHandle,
}

impl Output {
    /// JSON lines to `sink`.
    #[must_use]
    pub fn json(origin: Origin, sink: SinkHandle) -> Self {
        Self { origin, batch: Batch::default(), sink }
    }

    /// The host's facts have changed.
    pub fn set_origin(&mut self, origin: Origin) {
        self.origin = origin;
    }

    /// Adds an event. `ancestors` gives the parent, its parent and so on, and whether there are more.
    pub(super) fn event(
        &mut self,
        event: &v1::Event,
        actor: Option<&ProcessImage>,
        parent: Option<&v1::Process>,
        ancestors: impl FnOnce(&ProcessImage) -> (Vec<Arc<ProcessImage>>, bool),
    ) {
        let rendered = actor.map(|image| {
            image.rendered(|process| {
                let (lineage, cut) = ancestors(image);
                let rows: Vec<&v1::Process> =
                    lineage.iter().skip(1).map(|ancestor| &ancestor.process).collect();
                let mut text = Vec::new();
                render_process(
                    Lineage { process, parent, ancestors: &rows, ancestors_truncated: cut },
                    &mut text,
                );
                text.into_boxed_slice()
            })
        });
        let actor = rendered.map_or(Actor::Unknown, Actor::Rendered);
        write_event_json(event, actor, &self.origin, &mut self.batch.lines);
        self.batch.lines.push(b'\n');
        self.batch.count(event.event_type());
        if self.batch.lines.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hands over what was added.
    pub(super) fn flush(&mut self) {
        if !self.batch.lines.is_empty() {
            self.sink.send(std::mem::take(&mut self.batch));
        }
    }

    /// The sink.
    #[must_use]
    pub fn sink(&self) -> &SinkHandle {
        &self.sink
    }

    /// Gives the sink back, to be closed.
    #[must_use]
    pub fn into_sink(self) -> SinkHandle {
        self.sink
    }
}
