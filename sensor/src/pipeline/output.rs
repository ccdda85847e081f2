//! From events to lines, and to the sink in batches.

use std::io::IsTerminal;
use std::sync::Arc;

use sensor_proto::json::{Actor, Lineage, Origin, render_process, write_event_json};
use sensor_proto::v1;

use crate::config::OutputFormat;
use crate::enrich::process::ProcessImage;
use crate::format::pretty::{Pretty, color_wanted};
use crate::format::{Complete, View, ecs, ocsf};
use crate::sink::{Batch, SinkHandle};

/// Bytes of lines that are handed over at once, at least.
const BATCH_BYTES: usize = 64 << 10;

/// Form of the lines.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Ecs,
    Ocsf,
    /// The live view; whether the columns have been named.
    Pretty(Pretty, bool),
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
        let pretty = || {
            let color = terminal && color_wanted(std::env::var_os("NO_COLOR").as_deref());
            Form::Pretty(Pretty::new(color, None), false)
        };
        let form = match format {
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
