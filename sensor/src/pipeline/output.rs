//! From events to lines, and to the sink in batches.

use std::io::IsTerminal;
use std::sync::Arc;

use sensor_proto::json::{Actor, Lineage, Origin, render_process, write_event_json};
use sensor_proto::v1;

use crate::config::OutputFormat;
use crate::enrich::process::ProcessImage;
use crate::format::View;
use crate::format::pretty::{Pretty, color_wanted};
use crate::sink::{Batch, SinkHandle};

/// Bytes of lines that are handed over at once, at least.
const BATCH_BYTES: usize = 64 << 10;

/// Form of the lines.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    /// The live view; whether the columns have been named.
    Pretty(Pretty, bool),
}

/// Where events go, as lines of which form.
#[derive(Debug)]
pub struct Output {
    origin: Origin,
    form: Form,
    batch: Batch,
    sink: SinkHandle,
}

impl Output {
    /// Lines of `format` to `sink`. `Auto` is the live view if standard output is a terminal.
    #[must_use]
    pub fn new(format: OutputFormat, to_stdout: bool, origin: Origin, sink: SinkHandle) -> Self {
        let terminal = to_stdout && std::io::stdout().is_terminal();
        let pretty = match format {
            OutputFormat::Auto => terminal,
            OutputFormat::Pretty => true,
            OutputFormat::Json => false,
        };
        let form = if pretty {
            let color = terminal && color_wanted(std::env::var_os("NO_COLOR").as_deref());
            Form::Pretty(Pretty::new(color, None), false)
        } else {
            Form::Json
        };
        Self {
            origin,
            form,
            batch: Batch::default(),
            sink,
        }
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
        match &mut self.form {
            Form::Json => {
                let rendered = actor.map(|image| {
                    image.rendered(|process| {
                        let (lineage, cut) = ancestors(image);
                        let rows: Vec<&v1::Process> = lineage
                            .iter()
                            .skip(1)
                            .map(|ancestor| &ancestor.process)
                            .collect();
                        let mut text = Vec::new();
                        render_process(
                            Lineage {
                                process,
                                parent,
                                ancestors: &rows,
                                ancestors_truncated: cut,
                            },
                            &mut text,
                        );
                        text.into_boxed_slice()
                    })
                });
                let actor = rendered.map_or(Actor::Unknown, Actor::Rendered);
                write_event_json(event, actor, &self.origin, &mut self.batch.lines);
                self.batch.lines.push(b'\n');
            }
            Form::Pretty(pretty, named) => {
                if self.batch.lines.is_empty() {
                    // Asked before each batch, since people resize terminals.
                    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
                    let width = size
                        .map(|size| usize::from(size.ws_col))
                        .filter(|width| *width > 0);
                    *pretty = pretty.with_width(width);
                }
                if !*named {
                    pretty.header(&mut self.batch.lines);
                    *named = true;
                }
                let depth = actor.map_or(0, |image| ancestors(image).0.len());
                let process = actor.map(|image| &image.process);
                pretty.line(
                    &View {
                        event,
                        process,
                        depth,
                    },
                    &mut self.batch.lines,
                );
            }
        }
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
