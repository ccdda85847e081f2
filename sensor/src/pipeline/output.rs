//! From events to lines, and to the sink in batches.

use std::io::IsTerminal;
use std::sync::Arc;

use sensor_proto::json::{Actor, Lineage, Origin, render_process, write_event_json};
use sensor_proto::v1;

use crate::config::OutputFormat;
use crate::enrich::process::ProcessImage;
use crate::format::pretty::{Pretty, Row};
use crate::format::{Complete, View, ecs, ocsf};
use crate::sink::{Batch, SinkHandle, stdout};

/// Bytes of lines that are handed over at once, at least.
const BATCH_BYTES: usize = 64 << 10;

/// Form of the lines.
#[derive(Debug)]
enum Form {
    Json,
    Ecs,
    Ocsf,
    /// The live view, as lines.
    Pretty(Box<Pretty>),
    /// The same for a sink that makes lines itself; whether in ASCII.
    Rows(bool),
    /// Nothing: standard output belongs to a sink behind the spool.
    None,
}

/// Where events go, as lines of which form.
#[derive(Debug)]
pub struct Output {
    origin: Origin,
    agent: v1::Agent,
    host: v1::Host,
    form: Form,
    batch: Batch,
    sink: SinkHandle,
}

impl Output {
    /// Lines of `format` to `sink`, of this agent on this host. `Auto` is the live view if standard output is a terminal.
    #[must_use]
    pub fn new(
        format: OutputFormat,
        to_stdout: bool,
        agent: v1::Agent,
        host: v1::Host,
        sink: SinkHandle,
    ) -> Self {
        let terminal = to_stdout && std::io::stdout().is_terminal();
        let pretty = || Form::Pretty(Box::new(Pretty::new(stdout::look(terminal))));
        let form = match format {
            OutputFormat::Auto | OutputFormat::Pretty if let Some(ascii) = sink.rows() => {
                Form::Rows(ascii)
            }
            OutputFormat::Auto if terminal => pretty(),
            OutputFormat::Pretty => pretty(),
            OutputFormat::Auto | OutputFormat::Json => Form::Json,
            OutputFormat::Ecs => Form::Ecs,
            OutputFormat::Ocsf => Form::Ocsf,
        };
        Self {
            origin: Origin::new(&agent, &host),
            agent,
            host,
            form,
            batch: Batch::default(),
            sink,
        }
    }

    /// Without lines: what they would be written to belongs to another.
    #[must_use]
    pub fn silent(mut self) -> Self {
        self.form = Form::None;
        self
    }

    /// The host's facts have changed.
    pub fn set_origin(&mut self, agent: &v1::Agent, host: &v1::Host) {
        self.origin = Origin::new(agent, host);
        self.agent = agent.clone();
        self.host = host.clone();
    }

    /// Adds an event. `ancestors` gives the parent, its parent and so on, and whether there are more.
    pub(super) fn event(
        &mut self,
        event: &v1::Event,
        actor: Option<&ProcessImage>,
        parent: Option<&v1::Process>,
        ancestors: impl FnOnce(&ProcessImage) -> (Vec<Arc<ProcessImage>>, bool),
    ) {
        // A patch names its process; whoever reads it has the row from the event that it completes. People may not.
        let row = actor.filter(|_| event.event_type() != v1::EventType::Patch);
        match &mut self.form {
            Form::Json => {
                let rendered = row.map(|image| {
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
            Form::Ecs | Form::Ocsf => {
                let (lineage, cut) = row.map_or((Vec::new(), false), ancestors);
                let rows: Vec<&v1::Process> = lineage
                    .iter()
                    .skip(1)
                    .map(|ancestor| &ancestor.process)
                    .collect();
                let complete = Complete {
                    event,
                    process: row.map(|image| &image.process),
                    parent,
                    ancestors: &rows,
                    ancestors_truncated: cut,
                    host: &self.host,
                    agent: &self.agent,
                };
                if matches!(self.form, Form::Ecs) {
                    ecs::write(&complete, &mut self.batch.lines);
                } else {
                    ocsf::write(&complete, &mut self.batch.lines);
                }
                self.batch.lines.push(b'\n');
            }
            Form::None => return,
            Form::Rows(ascii) => {
                self.batch.row(row_of(event, actor, ancestors, *ascii));
            }
            Form::Pretty(stream) => {
                if self.batch.lines.is_empty() {
                    // Asked before each batch, since people resize terminals.
                    let look = stream.look();
                    (look.width, look.height) = stdout::size();
                }
                let ascii = stream.look().ascii;
                stream.row(
                    &row_of(event, actor, ancestors, ascii),
                    &mut self.batch.lines,
                );
            }
        }
        self.batch.count(event.event_type());
        if self.batch.bytes() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Hands over what was added.
    pub(super) fn flush(&mut self) {
        if !self.batch.is_empty() {
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

/// What the live view says of an event.
fn row_of(
    event: &v1::Event,
    actor: Option<&ProcessImage>,
    ancestors: impl FnOnce(&ProcessImage) -> (Vec<Arc<ProcessImage>>, bool),
    ascii: bool,
) -> Row {
    let (lineage, lineage_cut) = actor.map_or((Vec::new(), false), ancestors);
    let lineage: Vec<&v1::Process> = lineage.iter().map(|image| &image.process).collect();
    let view = View {
        event,
        process: actor.map(|image| &image.process),
        lineage: &lineage,
        lineage_cut,
    };
    Row::of(&view, ascii)
}
