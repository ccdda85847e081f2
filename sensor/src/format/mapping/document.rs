//! docs/formats.md, made from the table and from what the two views make of each type of event.

use std::fmt::Write as _;

use sensor_proto::schema::{self, Field, Kind};
use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;
use sensor_proto::v1::{self, FileSlot};
use serde_json::Value;

use super::{PLACES, Place, context_of, row};
use crate::format::{Complete, ecs, ocsf};

const HEAD: &str = "\
# Formats

Generated from `sensor/src/format/mapping` by `cargo xtask docs`; a test compares. `--format` and `output.format` choose:

| name | is |
|---|---|
| `json` | the schema itself, [events.md](events.md) |
| `ecs` | Elastic Common Schema 9.4.0 |
| `ocsf` | Open Cybersecurity Schema Framework 1.8.0 |
| `pretty` | the live view, for people |

`ecs` and `ocsf` write one JSON object a line. Both tell everything that `json` tells:

- What the other schema has a field for stands there, and there only, unless the other schema tells less (marked `+`).
- Everything else stands as it is, at its path in the native view: under `sensor.` in ECS, under `unmapped.` in OCSF (`process.exec_id` is
  `sensor.process.exec_id` and `unmapped.process.exec_id`). So do lists `absent`, and fields of newer versions of the schema.
- Text that is not UTF-8 shows each wrong byte as `\\xHH`; its raw form stands among the rest, in a field named `*_raw`.
- Numbers beyond 63 bits, values of enumerations that the sensor's build does not know, and addresses of a wrong length stand among the rest.
- Instants are RFC 3339 with nanoseconds in ECS, milliseconds since 1970 in OCSF (where `metadata.original_time` and
  `unmapped.time_boot_ns` are exact). `event.duration` of ECS is in nanoseconds, `duration` of OCSF in milliseconds.
- Values that look like secrets are redacted before any view is made. A redacted environment variable has the value `***` in ECS and an empty one
  in OCSF, and stands with `redacted` among the rest.

OCSF: `metadata.profiles` lists `host`, `container` if the process runs in one, `linux/linux_users` if its users are known; `severity_id` is
always 1: the sensor tells what happened and judges nothing. In `exec` and `exit` the acting process is that of the event itself: `actor.process` says
which it is and as whom it acted, `process` what it runs. Who began it is `process.parent_process`. File names that the kernel does not tell are empty text.

A **patch** (a hash or result that came later, [events.md](events.md)) is an event of its own in both: `sensor.patch.of` in ECS and `metadata.correlation_uid` in OCSF are
the id of the event that it completes (`event.id`, `metadata.uid`). An **aggregate** describes its sample, one of the events, with
`event.start`, `event.end` and `sensor.aggregate.count` in ECS and `start_time`, `end_time` and `count` in OCSF; without a sample it is a `base_event` of OCSF and has no category in ECS.

";

/// The text of docs/formats.md.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(HEAD);
    // Writing to a string cannot fail.
    if write_all(&mut out).is_err() {
        debug_assert!(false, "a string refused text");
    }
    out
}

fn write_all(out: &mut String) -> std::fmt::Result {
    out.push_str(
        "## Event types\n\n| event | `event.category` | `event.type` | OCSF class | activity |\n|---|---|---|---|---|\n",
    );
    for (name, event) in examples() {
        let ecs = seen(&event, ecs::write);
        let ocsf = seen(&event, ocsf::write);
        writeln!(
            out,
            "| {name} | {} | {} | {} {} | {} {} |",
            words(ecs.pointer("/event/category")),
            words(ecs.pointer("/event/type")),
            words(ocsf.get("class_uid")),
            words(ocsf.get("class_name")),
            words(ocsf.get("activity_id")),
            words(ocsf.get("activity_name")),
        )?;
    }
    out.push_str(
        "\n`event.action` is the name of the native type, `event.dataset` that after `sensor.`, `type_uid` is class × 100 + activity.\n\n\
         ## Where objects stand\n\nIn the tables below, these stand for:\n\n| name | in | ECS | OCSF |\n|---|---|---|---|\n",
    );
    for (name, place, ecs, ocsf) in PLACES {
        writeln!(out, "| `{name}` | {place} | {ecs} | {ocsf} |")?;
    }
    out.push_str(
        "\n## Fields\n\nBy message of the schema. `-`: it has no place there and stands among the rest. `+`: it stands there and among the rest. \
         Messages that are not listed have no place.\n",
    );
    for message in schema::MESSAGES {
        // Of an event that stands in another, nothing is told apart; the rest of the schema is not about events.
        if reachable().contains(&message.name) {
            write_message(out, message.name, message.name)?;
        }
    }
    write_message(out, "Parent", "Process")
}

/// Messages that are found in an event with everything that it refers to.
fn reachable() -> Vec<&'static str> {
    fn walk(name: &'static str, found: &mut Vec<&'static str>) {
        if found.contains(&name) || matches!(name, "Absent" | "EventId") {
            return;
        }
        found.push(name);
        for field in schema::message(name).map_or(&[][..], |message| message.fields) {
            if let Kind::Message(inner) = field.kind {
                walk(inner, found);
            }
        }
    }
    let mut found = Vec::new();
    for root in ["Event", "Process", "Agent", "Host"] {
        walk(root, &mut found);
    }
    found
}

fn write_message(out: &mut String, context: &str, message: &str) -> std::fmt::Result {
    // Nothing of it has a place.
    if context == message && !has_places(message) {
        return Ok(());
    }
    let mut lines = String::new();
    let fields = schema::message(message).map_or(&[][..], |message| message.fields);
    for field in fields.iter().filter(|field| field.name != "absent") {
        // Of a parent only some fields are told at all.
        if context != "Parent" || row(context, field.name).is_some() {
            write_field(&mut lines, context, field, "")?;
        }
    }
    writeln!(
        out,
        "\n### {context}\n\n| field | ECS | OCSF |\n|---|---|---|\n{lines}"
    )?;
    out.truncate(out.trim_end().len());
    out.push('\n');
    Ok(())
}

fn write_field(out: &mut String, context: &str, field: &Field, prefix: &str) -> std::fmt::Result {
    let name = format!("{prefix}{}", field.json_name);
    if let Some(row) = row(context, field.name) {
        return writeln!(
            out,
            "| `{name}` | {} | {} |",
            shown(row.ecs),
            shown(row.ocsf)
        );
    }
    match (field.kind, context_of(context, field)) {
        // A context of its own, in place.
        (Kind::Message(inner), Some(own)) if own != inner => {
            let fields = schema::message(inner).map_or(&[][..], |message| message.fields);
            let small = matches!(inner, "User" | "Group");
            for field in fields.iter().filter(|field| field.name != "absent") {
                let deeper = context_of(&own, field).is_some_and(|deeper| deeper.contains('.'));
                if small || deeper || row(&own, field.name).is_some() {
                    write_field(out, &own, field, &format!("{name}."))?;
                }
            }
            if small {
                return Ok(());
            }
            let else_place = if own == "Process.image" || context == "Process.image" {
                "- (with `exec` see FileInfo)"
            } else {
                "-"
            };
            writeln!(out, "| `{name}`, all else | {else_place} | see {inner} |")
        }
        (Kind::Message(inner), _) if has_places(inner) && !field.repeated => {
            writeln!(out, "| `{name}` | see {inner} | see {inner} |")
        }
        _ => writeln!(out, "| `{name}` | - | - |"),
    }
}

/// Some field of the message, or below, has a place by the message's own name.
fn has_places(message: &str) -> bool {
    let prefix = format!("{message}.");
    super::ROWS
        .iter()
        .any(|row| row.context == message || row.context.starts_with(&prefix))
        || matches!(message, "FilePatch" | "FileCreate" | "Event")
}

fn shown(place: Place) -> String {
    match place {
        Place::Rest => "-".to_owned(),
        Place::At(path) => format!("`{path}`"),
        Place::Both(path) => format!("+ `{path}`"),
    }
}

fn words(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(list)) => {
            let list: Vec<String> = list.iter().map(|value| words(Some(value))).collect();
            list.join(", ")
        }
        Some(Value::Null | Value::Bool(_) | Value::Object(_)) | None => "-".to_owned(),
    }
}

fn seen(event: &v1::Event, view: fn(&Complete<'_>, &mut Vec<u8>)) -> Value {
    let mut line = Vec::new();
    let (host, agent) = (v1::Host::default(), v1::Agent::default());
    let complete = Complete {
        event,
        process: None,
        parent: None,
        ancestors: &[],
        ancestors_truncated: false,
        host: &host,
        agent: &agent,
    };
    view(&complete, &mut line);
    serde_json::from_slice(&line).unwrap_or_default()
}

/// An event of each kind that the views tell apart, with its name.
fn examples() -> Vec<(String, v1::Event)> {
    let mut out = Vec::new();
    let mut add = |name: &str, body: Body| {
        let event = v1::Event {
            process: Some(v1::ProcessRef::default()),
            body: Some(body),
            ..v1::Event::default()
        };
        out.push((name.to_owned(), event));
    };
    add("`exec`", Body::Exec(v1::Exec::default()));
    add("`exit`", Body::Exit(v1::Exit::default()));
    add("`fork`", Body::Fork(v1::Fork::default()));
    add("`file_create`", Body::FileCreate(v1::FileCreate::default()));
    for (name, result) in [
        (
            "`connect`, also in progress",
            v1::ConnectResult::Established,
        ),
        ("`connect`, refused", v1::ConnectResult::Refused),
        ("`connect`, failed otherwise", v1::ConnectResult::Failed),
    ] {
        let connect = v1::Connect {
            result: result.into(),
            ..v1::Connect::default()
        };
        add(name, Body::Connect(connect));
    }
    add(
        "`module_load`, also failed (`event.outcome`, `status_id`)",
        Body::ModuleLoad(v1::ModuleLoad::default()),
    );
    let file = |slot: FileSlot| {
        Part::File(v1::FilePatch {
            slot: slot.into(),
            file: Some(v1::FileInfo::default()),
            ..v1::FilePatch::default()
        })
    };
    for (name, part) in [
        ("`patch` of an image or script", file(FileSlot::Image)),
        (
            "`patch` of users or container",
            Part::Process(v1::ProcessPatch::default()),
        ),
        ("`patch` of a created file", file(FileSlot::Created)),
        ("`patch` of a module", file(FileSlot::Module)),
        (
            "`patch` of a connection",
            Part::Connect(v1::ConnectPatch::default()),
        ),
    ] {
        let patch = v1::Patch {
            part: Some(part),
            ..v1::Patch::default()
        };
        add(name, Body::Patch(patch));
    }
    add(
        "`aggregate` without sample",
        Body::Aggregate(Box::default()),
    );
    let sample = v1::Event {
        body: Some(Body::FileCreate(v1::FileCreate::default())),
        ..v1::Event::default()
    };
    let aggregate = v1::Aggregate {
        sample: Some(Box::new(sample)),
        ..v1::Aggregate::default()
    };
    add(
        "`aggregate`, as its sample: of `file_create`",
        Body::Aggregate(Box::new(aggregate)),
    );
    out
}
