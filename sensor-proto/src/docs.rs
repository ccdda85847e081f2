//! docs/events.md, made from the schema: the one place that tells a reader of events what each field means.

use std::fmt::Write as _;

use crate::identity::{FILE_NAMESPACE, PROCESS_NAMESPACE, file_unique_id, unique_pid};
use crate::rows::{NOT_DELIVERED, ROWS};
use crate::schema::{ENUMS, Field, Kind, MESSAGES, Message};

const HEAD: &str = "\
# Events

Generated from `sensor-proto/proto/sensor/v1/` by `cargo xtask docs`; a test compares. The protobuf schema is the single definition of
what an event is; the JSON view follows from it by the rules below.

## JSON

- Names are those of the schema. What is absent is left out; a list `absent` becomes an object, field to reason.
- Numbers are numbers, integers up to 64 bits written whole. Sets of bits are 16 hexadecimal digits, as in /proc.
- Wall-clock instants, `*time_ns`, are RFC 3339 text in UTC with nanoseconds, named without `_ns`. Instants of the kernel's boot clock
  (`*boot_ns`) and spans (`*duration_ns`) are numbers.
- Enumerations are their lower-case short name; a value that the sensor's build does not know is its number.
- Digests are lower-case hexadecimal, identities hyphenated UUID text, addresses IP text.
- Kernel strings are text. Control characters and characters that break or reorder lines are escaped as `\\uXXXX`: exact for a
  parser, harmless on a terminal. A string that is not UTF-8 shows each wrong byte as `\\xHH`, and the raw bytes stand beside it in
  hexadecimal, in a field named `*_raw`.
- An event has its type as `type` and its body in a field named like the type. Its `id` is one text, `agent/epoch/counter`. `process` is
  the whole row of the process, with the acting thread (`tid`), its `parent` (identity, image path and hashes, arguments) and `ancestors`
  (`unique_pid`, `pid`, `name`, `path`; from the parent's parent upwards, `ancestors_truncated` when there are more); `agent` and `host` stand in every event.
- Fields marked *always* are in every message of their kind; a false flag and an unspecified enumeration are left out.

";

/// The text of docs/events.md.
#[must_use]
pub fn events_markdown() -> String {
    let mut out = String::from(HEAD);
    // Writing to a string cannot fail.
    if write_all(&mut out).is_err() {
        debug_assert!(false, "a string refused text");
    }
    out
}

/// Places that deliver a row: every field that says so, as `Message.field`.
#[must_use]
pub fn delivered_by(row: u16) -> Vec<String> {
    let fields = MESSAGES
        .iter()
        .flat_map(|message| message.fields.iter().map(move |field| (message, field)));
    fields
        .filter(|(_, field)| field.rows.contains(&row))
        .map(|(message, field)| format!("{}.{}", message.name, field.name))
        .collect()
}

fn write_all(out: &mut String) -> std::fmt::Result {
    write_identities(out)?;
    out.push_str("## Event types\n\n| number | name | what happened |\n|---|---|---|\n");
    for message in MESSAGES.iter().filter(|message| message.name == "Event") {
        for field in message.fields.iter().filter(|field| field.oneof.is_some()) {
            writeln!(
                out,
                "| {} | `{}` | {} |",
                field.number, field.name, field.doc
            )?;
        }
        let reserved = message.reserved.iter();
        let reserved: Vec<_> = reserved
            .map(|(number, name)| format!("{number} `{name}`"))
            .collect();
        writeln!(
            out,
            "\nNumbers kept for types to come: {}.\n",
            reserved.join(", ")
        )?;
    }
    out.push_str("## Messages\n\n");
    for message in MESSAGES {
        write_message(out, message)?;
    }
    out.push_str("## Enumerations\n\n");
    for declared in ENUMS {
        writeln!(out, "### {}\n\n{}\n", declared.name, cell(declared.doc))?;
        out.push_str("| number | name | meaning |\n|---|---|---|\n");
        for value in declared.values {
            writeln!(
                out,
                "| {} | `{}` | {} |",
                value.number,
                value.name,
                cell(value.doc)
            )?;
        }
        out.push('\n');
    }
    write_rows(out)
}

fn write_identities(out: &mut String) -> std::fmt::Result {
    let boot_id = "00112233-4455-6677-8899-aabbccddeeff";
    writeln!(
        out,
        "## Identities\n\n\
         `unique_pid` is UUIDv5 in the namespace `{PROCESS_NAMESPACE}` of the ASCII text `<boot_id>:<tgid>:<start>`: the text of\n\
         /proc/sys/kernel/random/boot_id, the process id in the initial namespace, field 22 of /proc/PID/stat.\n\n\
         Test vector: `{boot_id}:4711:123456` gives `{}`.\n",
        unique_pid(boot_id, 4711, 123_456),
    )?;
    writeln!(
        out,
        "The `unique_id` of a file is UUIDv5 in the namespace `{FILE_NAMESPACE}` of the ASCII text `<fs>:<inode>:<generation>:<btime>`: f_fsid of\n\
         statfs(2) as 16 hexadecimal digits, low word first (where it is 0: `dev-` and the device number, 8 hexadecimal digits), inode number, inode\n\
         generation and birth time in nanoseconds since 1970, decimal; `-` for what the file system does not have.\n\n\
         Test vectors: `0123456789abcdef:42:7:1700000000123456789` gives `{}`;\n`dev-00800001:42:-:-` gives `{}`.\n",
        file_unique_id(
            0x0123_4567_89ab_cdef,
            0,
            42,
            Some(7),
            Some(1_700_000_000_123_456_789)
        ),
        file_unique_id(0, 0x0080_0001, 42, None, None),
    )
}

fn write_message(out: &mut String, message: &Message) -> std::fmt::Result {
    writeln!(out, "### {}\n\n{}\n", message.name, cell(message.doc))?;
    out.push_str("| # | field | type | meaning | unit | source | absent when | rows |\n");
    out.push_str("|---|---|---|---|---|---|---|---|\n");
    for field in message.fields {
        let rows: Vec<_> = field.rows.iter().map(u16::to_string).collect();
        writeln!(
            out,
            "| {} | `{}` | {} | {} | {} | {} | {} | {} |",
            field.number,
            field.json_name,
            type_of(field),
            cell(field.doc),
            cell(field.unit),
            cell(field.source),
            cell(field.absent),
            rows.join(", "),
        )?;
    }
    if message.name != "Event" && !message.reserved.is_empty() {
        let reserved = message.reserved.iter();
        let reserved: Vec<_> = reserved
            .map(|(number, name)| format!("{number} `{name}`"))
            .collect();
        writeln!(out, "\nNumbers kept: {}.", reserved.join(", "))?;
    }
    out.push('\n');
    Ok(())
}

fn write_rows(out: &mut String) -> std::fmt::Result {
    out.push_str(
        "## Rows of the data model\n\nWhat an event must tell, where it stands, and what of it this version does not deliver, with the reason.\n\n\
         | row | asks for | delivered by | not delivered, and why |\n|---|---|---|---|\n",
    );
    for (row, asked) in ROWS {
        let fields: Vec<_> = delivered_by(*row)
            .iter()
            .map(|field| format!("`{field}`"))
            .collect();
        let reasons = NOT_DELIVERED.iter().filter(|(of, _)| of == row);
        let reasons: Vec<_> = reasons.map(|(_, reason)| cell(reason)).collect();
        writeln!(
            out,
            "| {row} | {asked} | {} | {} |",
            fields.join(", "),
            reasons.join("; ")
        )?;
    }
    Ok(())
}

fn type_of(field: &Field) -> String {
    let name = match field.kind {
        Kind::Bool => "flag".to_owned(),
        Kind::Unsigned(name) | Kind::Signed(name) => name.to_owned(),
        Kind::Mask(_) => "hexadecimal".to_owned(),
        Kind::Time => "RFC 3339".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::KernelText => "kernel text".to_owned(),
        Kind::Hex => "hexadecimal".to_owned(),
        Kind::Uuid => "UUID".to_owned(),
        Kind::Ip => "IP address".to_owned(),
        Kind::Mac => "hardware address".to_owned(),
        Kind::Enum(name) | Kind::Message(name) => {
            format!("[{name}](#{})", name.to_lowercase())
        }
    };
    if field.repeated {
        format!("list of {name}")
    } else {
        name
    }
}

/// Text that fits into a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{self, Value};

    /// General, process start and stop, file creation, modules, ports and connections, synchronisation, images of containers.
    fn wanted() -> impl Iterator<Item = u16> {
        (1..=48)
            .chain(113..=117)
            .chain(83..=94)
            .chain(151..=151)
            .chain(165..=166)
    }

    #[test]
    fn every_row_is_delivered_or_accounted_for() {
        for row in wanted() {
            assert!(
                ROWS.iter().any(|(known, _)| *known == row),
                "row {row} has no name"
            );
            let delivered = !delivered_by(row).is_empty();
            let accounted = NOT_DELIVERED.iter().any(|(of, _)| *of == row);
            assert!(
                delivered || accounted,
                "row {row} is neither delivered nor accounted for"
            );
        }
    }

    #[test]
    fn rows_that_are_named_exist() {
        for message in MESSAGES {
            for field in message.fields {
                for row in field.rows {
                    assert!(
                        wanted().any(|known| known == *row),
                        "{}.{}",
                        message.name,
                        field.name
                    );
                }
            }
        }
        let named = ROWS.iter().chain(NOT_DELIVERED).map(|(row, _)| *row);
        assert!(
            named
                .into_iter()
                .all(|row| wanted().any(|known| known == row))
        );
    }

    #[test]
    fn types_and_their_rows_have_the_same_number_and_name() {
        let event = schema::message("Event").unwrap();
        let types = schema::enumeration("EventType").unwrap().values;
        let known = |number: u32, name: &str| {
            let is =
                |value: &&Value| value.name == name && i64::from(value.number) == i64::from(number);
            types.iter().any(|value| is(&value))
        };
        let bodies: Vec<_> = event
            .fields
            .iter()
            .filter(|field| field.oneof.is_some())
            .collect();
        for body in &bodies {
            assert!(
                known(body.number, body.name),
                "{} is no event type",
                body.name
            );
        }
        assert_eq!(bodies.len() + 1, types.len(), "and unspecified");
    }

    /// The types of events to come (data model, sections E to I and L) have their numbers.
    #[test]
    fn numbers_of_types_to_come_are_kept() {
        let kept: Vec<_> = schema::message("Event")
            .unwrap()
            .reserved
            .iter()
            .map(|(_, name)| *name)
            .collect();
        for name in [
            "file_change",
            "os_log",
            "logon",
            "session",
            "system_change",
            "config_change",
            "detection",
            "library_load",
            "port_listen",
            "process_blocked",
            "file_open_blocked",
            "script_run",
            "console_input",
        ] {
            assert!(kept.contains(&name), "{name} has no number");
        }
    }

    #[test]
    fn the_committed_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.md");
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(
            committed == events_markdown(),
            "docs/events.md is stale: `cargo run -p sensor-proto --example events_md > docs/events.md`"
        );
    }
}
