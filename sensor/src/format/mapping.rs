//! Which field of the schema stands where in ECS and OCSF: one table, of which the rest (what neither has a place for), the
//! page docs/formats.md and the tests are made.
//!
//! A field without a place stays what it is, under `sensor.` (ECS) or `unmapped.` (OCSF), at the path that it has in the
//! native JSON view. So does a field that is not in the table: a field added to the schema is never lost.

use sensor_proto::field;
use sensor_proto::json::{Omit, ToRest, Told, Writer};
use sensor_proto::schema::{self, Field, Kind};
use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;
use sensor_proto::v1::{self, FileSlot};

use super::Complete;

mod document;
mod rows;

pub use document::markdown;
pub use rows::{PLACES, ROWS};

/// Where a field of the schema stands in other schemas.
#[derive(Debug)]
pub struct Row {
    /// Message that has the field, or, where its place depends on who holds the message, `Holder.field`.
    pub context: &'static str,
    /// Name of the field.
    pub field: &'static str,
    /// Its place in ECS.
    pub ecs: Place,
    /// Its place in OCSF.
    pub ocsf: Place,
}

/// Where a field stands in another schema. Where it belongs to an object that stands in several places, `{file}` and the like stand for
/// that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is left as it is, in the rest.
    Rest,
    /// There.
    At(&'static str),
    /// There, and as it is in the rest, since the other schema tells less.
    Both(&'static str),
}

impl Place {
    /// Path in the other schema, if it has one.
    #[must_use]
    pub fn path(self) -> Option<&'static str> {
        match self {
            Self::Rest => None,
            Self::At(path) | Self::Both(path) => Some(path),
        }
    }

    /// The rest does not tell it.
    #[must_use]
    pub fn is_told(self) -> bool {
        matches!(self, Self::At(_))
    }
}

/// The row of a field: of its holder's context if that has one.
#[must_use]
pub fn row(context: &str, field: &str) -> Option<&'static Row> {
    ROWS.iter()
        .find(|row| row.context == context && row.field == field)
}

/// Context of what a field holds: `Holder.field` where the table has such, else the name of the message.
#[must_use]
pub fn context_of(holder: &str, field: &Field) -> Option<String> {
    let Kind::Message(name) = field.kind else {
        return None;
    };
    let own = format!("{holder}.{}", field.name);
    let has_own = ROWS.iter().any(|row| {
        let deeper = row.context.strip_prefix(own.as_str());
        deeper.is_some_and(|deeper| deeper.is_empty() || deeper.starts_with('.'))
    });
    Some(if has_own { own } else { name.to_owned() })
}

/// What is told elsewhere of each message that [`rest`] begins with.
#[derive(Debug)]
pub(super) struct Trees {
    event: Omit,
    agent: Omit,
    host: Omit,
    process: Omit,
    /// Of the process of an exec.
    executed: Omit,
    reference: Omit,
    hashes: Omit,
    exec: Omit,
    exit: Omit,
    fork: Omit,
    file_create: Omit,
    connect: Omit,
    module_load: Omit,
    patch: Omit,
    /// Of a patch whose file has no place.
    other_patch: Omit,
    aggregate: Omit,
    /// The ancestors have a place.
    ancestry: bool,
}

impl Trees {
    /// Of the schema that `place` picks.
    pub(super) fn new(place: fn(&Row) -> Place, image_is_file: bool, ancestry: bool) -> Self {
        let tree = |message| tree(place, message, message, "");
        // Where only some images stand as files, the table has a context for the others.
        let image = if image_is_file { "Process.image" } else { "" };
        let mut other_patch = self::tree(place, "Patch", "Patch", "");
        other_patch.whole(field::patch::FILE);
        Self {
            event: tree("Event"),
            agent: tree("Agent"),
            host: tree("Host"),
            process: self::tree(place, "Process", "Process", image),
            executed: self::tree(place, "Process", "Process", "Process.image"),
            reference: self::tree(place, "Event.process", "ProcessRef", ""),
            hashes: tree("Hashes"),
            exec: tree("Exec"),
            exit: tree("Exit"),
            fork: tree("Fork"),
            file_create: tree("FileCreate"),
            connect: tree("Connect"),
            module_load: tree("ModuleLoad"),
            patch: tree("Patch"),
            other_patch,
            aggregate: tree("Aggregate"),
            ancestry,
        }
    }
}

/// What the table says of a message; of the context `ignored` the table says nothing.
fn tree(place: fn(&Row) -> Place, context: &str, message: &str, ignored: &str) -> Omit {
    let mut omit = Omit::default();
    for field in schema::message(message).map_or(&[][..], |message| message.fields) {
        if let Some(row) = row(context, field.name) {
            if place(row).is_told() {
                omit.field(field.number);
            }
            continue;
        }
        // A list is told whole or not; an event in an event is not taken apart.
        let Kind::Message(name) = field.kind else {
            continue;
        };
        if field.repeated || name == "Event" {
            continue;
        }
        let inner = context_of(context, field).filter(|inner| inner != ignored);
        let part = tree(place, inner.as_deref().unwrap_or(name), name, ignored);
        if !part.is_empty() {
            omit.part(field.number, part);
        }
    }
    omit
}

/// Appends what has no place in the other schema, as fields. The body is left whole unless `body_told`.
pub(super) fn rest(w: &mut Writer<'_>, complete: &Complete<'_>, trees: &Trees, body_told: bool) {
    let event = complete.event;
    event.write_rest(w, trees.event.told());
    w.object("agent", |w| {
        complete.agent.write_rest(w, trees.agent.told())
    });
    w.object("host", |w| complete.host.write_rest(w, trees.host.told()));
    w.object("process", |w| rest_of_process(w, complete, trees));
    let name = event.event_type().short_name();
    w.object(name, |w| match &event.body {
        Some(Body::Exec(body)) => body.write_rest(w, trees.exec.told_if(body_told)),
        Some(Body::Exit(body)) => body.write_rest(w, trees.exit.told_if(body_told)),
        Some(Body::Fork(body)) => body.write_rest(w, trees.fork.told_if(body_told)),
        Some(Body::FileCreate(body)) => body.write_rest(w, trees.file_create.told_if(body_told)),
        Some(Body::Connect(body)) => body.write_rest(w, trees.connect.told_if(body_told)),
        Some(Body::ModuleLoad(body)) => body.write_rest(w, trees.module_load.told_if(body_told)),
        Some(Body::Patch(body)) => {
            let tree = if patched_file(body).is_some() {
                &trees.patch
            } else {
                &trees.other_patch
            };
            body.write_rest(w, tree.told_if(body_told));
        }
        Some(Body::Aggregate(body)) => body.write_rest(w, trees.aggregate.told()),
        None => {}
    });
}

fn rest_of_process(w: &mut Writer<'_>, complete: &Complete<'_>, trees: &Trees) {
    let Some(reference) = &complete.event.process else {
        return;
    };
    let Some(process) = complete.actor() else {
        return reference.write_rest(w, trees.reference.told());
    };
    let exec = matches!(complete.event.body, Some(Body::Exec(_)));
    let tree = if exec {
        &trees.executed
    } else {
        &trees.process
    };
    process.write_rest(w, told_of(process, tree));
    w.object("parent", |w| match (complete.parent, &process.parent) {
        (Some(parent), Some(_)) => rest_of_parent(w, parent, trees),
        (_, Some(reference)) => reference.write_rest(w, trees.reference.told()),
        (_, None) => {}
    });
    if trees.ancestry {
        // Names and paths have a place; what their telling there has lost is kept by identity.
        let lossy = |ancestor: &&&v1::Process| {
            let path = ancestor
                .image
                .as_ref()
                .and_then(|image| image.path.as_deref());
            let texts = [ancestor.name(), path];
            texts
                .into_iter()
                .flatten()
                .any(|text| std::str::from_utf8(text).is_err())
        };
        w.list_of(
            "ancestors",
            complete.ancestors.iter().filter(lossy),
            |w, ancestor| {
                w.ancestor_value(ancestor);
            },
        );
    } else {
        w.list_of("ancestors", complete.ancestors, |w, ancestor| {
            w.ancestor_value(ancestor)
        });
    }
    if complete.ancestors_truncated {
        w.bool_field("ancestors_truncated", true);
    }
}

/// What is told of a process: its environment only where that loses nothing.
fn told_of<'a>(process: &v1::Process, tree: &'a Omit) -> Told<'a> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
    let exact = process.environment.iter().all(|variable| {
        let value = variable.value.as_deref();
        !variable.redacted && text(&variable.name) && value.is_some_and(text)
    });
    if exact {
        tree.told()
    } else {
        tree.told().but(field::process::ENVIRONMENT)
    }
}

/// As much as the native view tells of a parent.
fn rest_of_parent(w: &mut Writer<'_>, parent: &v1::Process, trees: &Trees) {
    w.number_field("exec_id", u64::from(parent.exec_id));
    w.number_field("start_boot_ns", parent.start_boot_ns);
    if let Some(comm) = &parent.comm {
        w.kernel_field("comm", comm);
    }
    w.object("image", |w| {
        let Some(image) = &parent.image else {
            return;
        };
        if let Some(path) = &image.path {
            w.raw_field("path", path);
        }
        if let Some(hashes) = &image.hashes {
            w.object("hashes", |w| hashes.write_rest(w, trees.hashes.told()));
        }
    });
    w.raws_field("argv", &parent.argv);
}

/// What an event is about, whether it tells of it first, adds to it, or tells of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Process,
    File,
    Network,
    Module,
    /// Not known to this build, or nothing that has a class of its own.
    Other,
}

impl Subject {
    pub(super) fn of(event: &v1::Event) -> Self {
        match &event.body {
            Some(Body::Exec(_) | Body::Exit(_) | Body::Fork(_)) => Self::Process,
            Some(Body::FileCreate(_)) => Self::File,
            Some(Body::Connect(_)) => Self::Network,
            Some(Body::ModuleLoad(_)) => Self::Module,
            Some(Body::Patch(patch)) => Self::of_patch(patch),
            Some(Body::Aggregate(aggregate)) => Self::of_aggregate(aggregate),
            None => Self::Other,
        }
    }

    fn of_patch(patch: &v1::Patch) -> Self {
        match &patch.part {
            Some(Part::File(file)) => match FileSlot::try_from(file.slot) {
                Ok(FileSlot::Image | FileSlot::Script) => Self::Process,
                Ok(FileSlot::Created) => Self::File,
                Ok(FileSlot::Module) => Self::Module,
                Ok(FileSlot::Unspecified) | Err(_) => Self::Other,
            },
            Some(Part::ClosedFile(_)) => Self::File,
            Some(Part::Process(_)) => Self::Process,
            Some(Part::Connect(_)) => Self::Network,
            None => Self::Other,
        }
    }

    /// That of the sample; nothing can be told of a class without one.
    fn of_aggregate(aggregate: &v1::Aggregate) -> Self {
        match &aggregate.sample {
            // An event of many events of many events does not exist.
            Some(sample) if !matches!(sample.body, Some(Body::Aggregate(_))) => Self::of(sample),
            _ => Self::Other,
        }
    }
}

/// The body to describe: that of the sample, for an event that tells of many.
pub(super) fn described(event: &v1::Event) -> Option<&Body> {
    match &event.body {
        Some(Body::Aggregate(aggregate)) => {
            let sample = aggregate.sample.as_ref()?.body.as_ref()?;
            (!matches!(sample, Body::Aggregate(_))).then_some(sample)
        }
        body => body.as_ref(),
    }
}

/// What a patch tells of the acting process.
pub(super) fn patched_process(event: &v1::Event) -> Option<&v1::ProcessPatch> {
    match &event.body {
        Some(Body::Patch(v1::Patch {
            part: Some(Part::Process(process)),
            ..
        })) => Some(process),
        _ => None,
    }
}

/// The users under which the event arose: its own, those that it tells anew, else those of the acting process.
pub(super) fn credentials<'a>(
    event: &'a v1::Event,
    row: Option<&'a v1::Process>,
) -> Option<&'a v1::Credentials> {
    let patched = patched_process(event).and_then(|process| process.credentials.as_ref());
    let own = event.credentials.as_ref();
    own.or(patched)
        .or_else(|| row.and_then(|row| row.credentials.as_ref()))
}

/// The image that a patch tells anew.
pub(super) fn patched_image(event: &v1::Event) -> Option<&v1::FileInfo> {
    match &event.body {
        Some(Body::Patch(v1::Patch {
            part: Some(Part::File(part)),
            ..
        })) if part.slot == i32::from(FileSlot::Image) => part.file.as_ref(),
        _ => None,
    }
}

/// The file of a patch that stands where the file of an event does.
pub(super) fn patched_file(patch: &v1::Patch) -> Option<&v1::FileInfo> {
    match &patch.part {
        Some(Part::ClosedFile(file)) => Some(file),
        Some(Part::File(part)) => match FileSlot::try_from(part.slot) {
            Ok(FileSlot::Image | FileSlot::Created | FileSlot::Module) => part.file.as_ref(),
            Ok(FileSlot::Script | FileSlot::Unspecified) | Err(_) => None,
        },
        Some(Part::Process(_) | Part::Connect(_)) | None => None,
    }
}
