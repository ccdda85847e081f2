//! `sensor data-provision`: which data leaves the host with the loaded configuration: every item, what it is for, what is
//! withheld of it, where it goes and how long it is kept. Made from the schema, so that no field is missing; for who runs the
//! sensor and has to answer for it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sensor_proto::schema::{self, Field, Kind, Message};
use sensor_proto::v1::EventType;
use serde_json::{Value, json};

use crate::command::Streams;
use crate::config::{self, ConfigErrors, Loaded, Overrides, SettingsSource, Sources};
use crate::exit::ExitStatus;

/// Messages of the schema and what they are for. A message that is not here is a fault, which a test finds.
const PURPOSES: &[(&[&str], &str)] = &[
    (
        &["Event", "EventId"],
        "to put what happened in order, and to refer to it",
    ),
    (
        &["Agent", "Host", "OperatingSystem"],
        "to say on which host it happened, and what such an event means there",
    ),
    (&["Absent"], "to say what is missing, and why"),
    (
        &["Process", "ProcessRef"],
        "to say who did it, and what had started that",
    ),
    (
        &["EnvironmentVariable"],
        "to see code that is injected, and through which login and which container it came",
    ),
    (
        &["User", "Group", "Credentials", "Capabilities"],
        "to say for whom, and with which rights",
    ),
    (&["Session"], "to say through which login"),
    (
        &["Namespaces", "Container", "Label"],
        "to say in which container",
    ),
    (
        &["FileInfo", "FileCapabilities"],
        "to say exactly which file, and what it allows",
    ),
    (
        &["Hashes"],
        "to compare a content with known good and known bad ones",
    ),
    (
        &["Exec", "Exit", "Fork", "FileCreate", "ModuleLoad"],
        "to say what was done",
    ),
    (
        &["Connect", "Endpoint"],
        "to say with whom it was spoken; never what was said",
    ),
    (
        &["Patch", "ProcessPatch", "FilePatch", "ConnectPatch"],
        "to complete an event with what was known only later",
    ),
    (
        &["Aggregate"],
        "to count what a rule or a flood made one of many",
    ),
    (
        &[
            "TelemetryPacket",
            "PacketHeader",
            "PacketBody",
            "TypeCount",
            "EventColumns",
            "ProcessColumns",
        ],
        "to carry events together, each thing once",
    ),
    (
        &[
            "LedgerReport",
            "LedgerRow",
            "CauseCount",
            "ProgramMisses",
            "SinkReport",
            "Tombstone",
            "BlindInterval",
        ],
        "to prove what is complete, and to count what is not",
    ),
    (
        &["DeliverRequest", "Hello", "StreamPosition"],
        "to go on where delivery had stopped",
    ),
    (
        &[
            "SyncRequest",
            "ContentVersion",
            "Enrollment",
            "SelfProtection",
            "SettingsStatus",
            "TaskStatus",
            "FileFetch",
        ],
        "to manage the sensor",
    ),
];

/// Fields of which something is withheld: message, field, what.
const REDACTED: [(&str, &str, &str); 3] = [
    (
        "Process",
        "argv",
        "values that look secret become `***`: after options, in addresses, by the names of `environment.redact`",
    ),
    (
        "EnvironmentVariable",
        "value",
        "values of names that look secret, or that `environment.redact` has, become `***` or are left out",
    ),
    (
        "Label",
        "value",
        "as the values of environment variables; names that `container.labels` does not have are left out with their values",
    ),
];

/// Prints the statement for the configuration of these sources.
pub fn run(json: bool, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let loaded = match config::load(sources) {
        Ok(loaded) => loaded,
        Err(errors) => return streams.refuse(&errors),
    };
    let statement = statement(&loaded);
    if json {
        streams.answer(&format!("{statement:#}\n"))
    } else {
        streams.answer(&markdown(&statement))
    }
}

/// docs/data-provision.md: the statement for the defaults.
///
/// # Errors
/// The defaults are no configuration, which there is not.
pub fn of_the_defaults() -> Result<String, ConfigErrors> {
    let loaded = config::load(&Sources {
        settings: SettingsSource::None,
        // An empty file: nothing of this host.
        ..Sources::new(Some("/dev/null".into()), Overrides::default())
    })?;
    let statement = statement(&loaded);
    Ok(markdown(&statement).replacen(
        "# Data provision\n",
        "# Data provision\n\n<!-- Made by `cargo xtask docs`; do not edit. -->\n\n\
         This is what `sensor data-provision` prints for the default configuration, without any receiver. `sensor data-provision` on a host \
         prints the same for the configuration that is loaded there, `--json` for programs.\n",
        1,
    ))
}

/// The whole statement.
fn statement(loaded: &Loaded) -> Value {
    let config = &loaded.config;
    let destinations = destinations(loaded);
    let packets = destinations
        .iter()
        .any(|destination| ["packets", "native"].contains(&text(destination, "form")));
    let managed = destinations
        .iter()
        .any(|destination| text(destination, "type") == "central_node");
    let mut roots = vec!["Event"];
    if packets {
        roots.extend(["TelemetryPacket", "PacketHeader", "PacketBody"]);
    }
    if managed {
        roots.extend(["DeliverRequest", "Hello", "SyncRequest"]);
    }
    let messages = reachable(&roots, &config.events);
    let items: Vec<Value> = messages
        .iter()
        .flat_map(|message| {
            let fields = message.fields.iter();
            let fields = fields.filter(|field| told(message, field, &config.events));
            fields.map(|field| item(message, field, loaded))
        })
        .collect();
    let types: Vec<&str> = config.events.iter().map(|kind| kind.short_name()).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "event_types": types,
        "scope": config.scope_cgroup.as_ref().map(|path| path.to_string_lossy()),
        "filter_rules": config.rules.len(),
        "environment": {"allow": loaded.file.environment.allow, "redact": loaded.file.environment.redact},
        "container_labels": if config.container.files { loaded.file.container.labels.as_slice() } else { &[] },
        "destinations": destinations,
        "items": items,
    })
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Everywhere that data goes.
fn destinations(loaded: &Loaded) -> Vec<Value> {
    let (config, file) = (&loaded.config, &loaded.file);
    let form = serde_json::to_value(file.output.format).unwrap_or_default();
    let mut all = vec![match &config.output.path {
        Some(path) => json!({
            "name": "output", "type": "file", "address": path.to_string_lossy(), "form": form, "leaves_host": false,
            "encrypted": false,
            "retention": format!(
                "set aside at {} or after {}, {} such files kept",
                file.output.rotate_size, file.output.rotate_age, file.output.keep
            ),
        }),
        None => json!({
            "name": "output", "type": "stdout", "address": "standard output", "form": form, "leaves_host": false, "encrypted": false,
            "retention": "nothing is kept by the sensor; who reads decides",
        }),
    }];
    if !config.sinks.is_empty() {
        let spool = &file.spool;
        all.push(json!({
            "name": "spool", "type": "spool", "form": "packets", "leaves_host": false, "encrypted": false,
            "address": config.state_directory.join("spool").to_string_lossy(),
            "retention": format!(
                "until every sink has acknowledged, at most {} and {}; packets that a receiver refuses for good stand aside, 64 MiB at most, the \
                 oldest go first",
                spool.age, spool.disk
            ),
        }));
    }
    for (name, sink) in &config.sinks {
        let table = file.sink.get(name);
        let table = table
            .and_then(|table| serde_json::to_value(table).ok())
            .unwrap_or_default();
        let kind = sink.receiver.name();
        let form = match (kind, table.get("format").and_then(Value::as_str)) {
            ("central_node", _) => "packets",
            (_, Some(form)) => form,
            ("otlp" | "file" | "stdout", None) => "json",
            (_, None) => "native",
        };
        let stays = ["file", "stdout"].contains(&kind);
        let plain = stays || table.get("tls") == Some(&Value::Bool(false));
        all.push(json!({
            "name": format!("sink.{name}"), "type": kind, "address": sink.receiver.address(), "form": form,
            "leaves_host": !stays, "encrypted": !plain,
            "retention": if stays { "as its rotation says" } else { "the receiver's to decide" },
        }));
    }
    if let Some(address) = &config.metrics {
        all.push(json!({
            "name": "metrics", "type": "http", "address": address.to_string(), "form": "counts", "leaves_host": file.metrics.remote,
            "encrypted": false,
            "retention": "who asks decides; counts by type and cause, names of rules and sinks, no event",
        }));
    }
    all
}

/// Whether events of the configuration can have this field.
fn told(message: &Message, field: &Field, events: &BTreeSet<EventType>) -> bool {
    let body = message.name == "Event" && field.oneof == Some("body");
    let kind = i32::try_from(field.number)
        .ok()
        .and_then(|number| EventType::try_from(number).ok());
    // What the daemon makes of others (patch, aggregate) is there as soon as others are.
    !body || kind.is_none_or(|kind| events.contains(&kind) || field.number >= 300)
}

/// The messages that can be met from these on, each once, in the order in which they are met.
fn reachable(roots: &[&str], events: &BTreeSet<EventType>) -> Vec<&'static Message> {
    let mut found: Vec<&'static Message> = Vec::new();
    for root in roots {
        let mut open: Vec<&'static Message> = schema::message(root).into_iter().collect();
        while let Some(message) = open.pop() {
            if found.iter().any(|known| known.name == message.name) {
                continue;
            }
            found.push(message);
            let inner = message
                .fields
                .iter()
                .rev()
                .filter(|field| told(message, field, events))
                .filter_map(|field| {
                    let Kind::Message(name) = field.kind else {
                        return None;
                    };
                    schema::message(name)
                });
            open.extend(inner);
        }
    }
    found
}

fn purpose(message: &str) -> &'static str {
    let known = PURPOSES.iter().find(|(names, _)| names.contains(&message));
    known.map_or("", |(_, purpose)| purpose)
}

fn item(message: &Message, field: &Field, loaded: &Loaded) -> Value {
    let redaction = REDACTED
        .iter()
        .find(|(of, name, _)| (*of, *name) == (message.name, field.name));
    json!({
        "message": message.name,
        "about": message.doc,
        "field": field.json_name,
        "item": field.doc,
        "source": field.source,
        "purpose": purpose(message.name),
        "redaction": redaction.map(|(_, _, what)| what),
        "absent": field.absent,
        "not_collected": not_collected(message, field, loaded),
        "rows": field.rows,
    })
}

/// Which setting leaves a field out.
fn not_collected(message: &Message, field: &Field, loaded: &Loaded) -> Option<&'static str> {
    let config = &loaded.config;
    match (message.name, field.name) {
        ("Hashes", "md5") if !config.hash.md5 => Some("hash.md5 = false"),
        ("Hashes", "sha1") if !config.hash.sha1 => Some("hash.sha1 = false"),
        ("Process", "environment") | ("EnvironmentVariable", _)
            if config.environment.allow.is_empty() =>
        {
            Some("environment.allow = []")
        }
        (
            "Container",
            "image" | "image_digest" | "image_id" | "pod_name" | "pod_namespace" | "labels"
            | "labels_withheld" | "labels_truncated",
        )
        | ("Label", _)
            if !config.container.files =>
        {
            Some("container.files = false")
        }
        ("Container", "labels" | "labels_truncated") | ("Label", _)
            if config.container.labels.is_empty() =>
        {
            Some("container.labels = []")
        }
        _ => None,
    }
}

/// The statement for people.
fn markdown(statement: &Value) -> String {
    let mut out = String::new();
    match write(&mut out, statement) {
        Ok(()) => out,
        // Writing to a string does not fail.
        Err(error) => error.to_string(),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn list<'v>(value: &'v Value, pointer: &str) -> Vec<&'v str> {
    let entries = value.pointer(pointer).and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn names(list: &[&str]) -> String {
    if list.is_empty() {
        return "none".to_owned();
    }
    let quoted: Vec<String> = list
        .iter()
        .map(|name| format!("`{}`", cell(name)))
        .collect();
    quoted.join(", ")
}

fn array<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    let entries = value.get(key).and_then(Value::as_array);
    entries.into_iter().flatten()
}

fn flag(value: &Value, key: &str) -> &'static str {
    if value.get(key) == Some(&Value::Bool(true)) {
        "yes"
    } else {
        "no"
    }
}

fn write(out: &mut String, statement: &Value) -> std::fmt::Result {
    writeln!(
        out,
        "# Data provision\n\nOf sensor {}. Event types: {}.",
        text(statement, "version"),
        names(&list(statement, "/event_types"))
    )?;
    if let Some(scope) = statement.get("scope").and_then(Value::as_str) {
        writeln!(
            out,
            "\nNothing outside the cgroup `{scope}` is recorded, read or told."
        )?;
    }
    let rules = statement
        .get("filter_rules")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    if rules > 0 {
        writeln!(
            out,
            "\n{rules} filter rules leave out or merge some of it: `sensor filter explain`."
        )?;
    }
    writeln!(
        out,
        "\n## Where it goes\n\n| name | type | where | form | leaves the host | encrypted | kept |\n|---|---|---|---|---|---|---|"
    )?;
    for destination in array(statement, "destinations") {
        writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} | {} |",
            cell(text(destination, "name")),
            text(destination, "type"),
            cell(text(destination, "address")),
            text(destination, "form"),
            flag(destination, "leaves_host"),
            flag(destination, "encrypted"),
            cell(text(destination, "retention")),
        )?;
    }
    writeln!(
        out,
        "\nThe forms `ecs` and `ocsf` carry the same items under other names ([formats.md](formats.md)).\n\n\
         ## What is withheld\n\n\
         - Contents of files and of connections are never told. Files are read to be hashed; digests are told, and by the first bytes \
         the kind of content.\n\
         - Environment variables whose names may be told: {}. Of all others only the number is.\n\
         - Labels of containers whose names may be told: {}. Of all others only the number is. Of the files that container runtimes \
         keep, which also hold arguments and environment, nothing is taken but what stands under Container.\n\
         - Names of variables, labels and options whose values are secret, beside those that the sensor knows itself: {}.\n\
         - Secrets of the sensor itself (keys, passwords, tokens) stand in files of their own and are never told.",
        names(&list(statement, "/environment/allow")),
        names(&list(statement, "/container_labels")),
        names(&list(statement, "/environment/redact")),
    )?;
    let mut last = "";
    for item in array(statement, "items") {
        let message = text(item, "message");
        if message != last {
            writeln!(
                out,
                "\n## {message}\n\n{} Why it is told: {}.\n\n| field | item | source | withheld |\n|---|---|---|---|",
                cell(text(item, "about")),
                text(item, "purpose"),
            )?;
            last = message;
        }
        let withheld = item
            .get("not_collected")
            .and_then(Value::as_str)
            .map_or_else(
                || cell(text(item, "redaction")),
                |setting| format!("not collected: `{setting}`"),
            );
        writeln!(
            out,
            "| `{}` | {} | {} | {withheld} |",
            text(item, "field"),
            cell(text(item, "item")),
            cell(text(item, "source")),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sensor.toml"), text).unwrap();
        config::load(&Sources {
            file: None,
            directory: folder.path().to_owned(),
            settings: SettingsSource::None,
            overrides: Overrides::default(),
        })
        .unwrap()
    }

    const NODE: &str = "[sink.node]\ntype = 'central_node'\naddress = 'n:1'\nca_file = '/c'\ncertificate_file = '/a'\nkey_file = '/k'\n\
                        [sink.bus]\ntype = 'otlp'\nprotocol = 'http'\naddress = 'o:2'\ntls = false\n[sink.archive]\ntype = 'file'\npath = '/x.json'\n";

    fn messages(statement: &Value) -> BTreeSet<String> {
        array(statement, "items")
            .map(|item| text(item, "message").to_owned())
            .collect()
    }

    #[test]
    fn every_item_has_a_purpose_and_a_source() {
        let all = with(&format!(
            "[events]\nenabled = ['exec', 'exit', 'fork', 'file_create', 'connect', 'module_load']\n{NODE}"
        ));
        let statement = statement(&all);
        assert!(array(&statement, "items").count() > 200);
        for item in array(&statement, "items") {
            for key in ["purpose", "item", "source", "field"] {
                assert_ne!(text(item, key), "", "{key} of {item:#}");
            }
        }
        // A purpose that nothing has is a message that was renamed.
        let met = messages(&statement);
        for name in PURPOSES.iter().flat_map(|(names, _)| *names) {
            assert!(met.contains(*name), "{name}");
        }
    }

    #[test]
    fn every_field_of_the_view_is_an_item() {
        let all = with(
            "[events]\nenabled = ['exec', 'exit', 'fork', 'file_create', 'connect', 'module_load']\n",
        );
        let statement = statement(&all);
        let told: BTreeSet<(String, String)> = array(&statement, "items")
            .map(|item| {
                (
                    text(item, "message").to_owned(),
                    text(item, "field").to_owned(),
                )
            })
            .collect();
        for leaf in schema::leaves("Event") {
            let known = told.iter().any(|(_, field)| *field == leaf.field.json_name);
            assert!(known, "{}", leaf.path);
        }
    }

    #[test]
    fn what_is_withheld_exists() {
        for (message, field, _) in REDACTED {
            let message = schema::message(message).unwrap();
            assert!(
                message.fields.iter().any(|known| known.name == field),
                "{field}"
            );
        }
    }

    #[test]
    fn it_follows_the_configuration() {
        let lean = statement(&with(
            "[events]\nenabled = ['exec']\n[hash]\nmd5 = false\n[environment]\nallow = []\n[container]\nfiles = false\n",
        ));
        let met = messages(&lean);
        assert!(met.contains("Exec") && met.contains("Patch"), "{met:?}");
        for absent in ["Connect", "FileCreate", "PacketHeader", "SyncRequest"] {
            assert!(!met.contains(absent), "{absent}");
        }
        let page = markdown(&lean);
        assert!(page.contains("not collected: `hash.md5 = false`"), "{page}");
        assert!(page.contains("names may be told: none."), "{page}");
        assert!(
            page.contains("not collected: `container.files = false`"),
            "{page}"
        );
        let unlabelled = markdown(&statement(&with("[container]\nlabels = []\n")));
        assert!(unlabelled.contains("not collected: `container.labels = []`"));

        let sent = statement(&with(&format!(
            "{NODE}[metrics]\nlisten = '127.0.0.1:9464'\n"
        )));
        let rows: Vec<String> = array(&sent, "destinations")
            .map(|row| {
                format!(
                    "{} {} {} {} {}",
                    text(row, "name"),
                    text(row, "address"),
                    text(row, "form"),
                    flag(row, "leaves_host"),
                    flag(row, "encrypted")
                )
            })
            .collect();
        assert_eq!(
            rows,
            [
                "output standard output auto no no",
                "spool /var/lib/sensor/spool packets no no",
                "sink.archive /x.json json no no",
                "sink.bus o:2 json yes no",
                "sink.node n:1 packets yes yes",
                "metrics http://127.0.0.1:9464 counts no no",
            ]
        );
        assert!(messages(&sent).contains("SyncRequest"));
    }

    #[test]
    fn the_shipped_statement_is_of_the_defaults() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/data-provision.md");
        let shipped = std::fs::read_to_string(path).unwrap();
        assert!(
            shipped == of_the_defaults().unwrap(),
            "docs/data-provision.md is stale: cargo xtask docs"
        );
    }
}
