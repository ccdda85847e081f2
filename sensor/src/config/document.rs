//! What the documentation of the configuration says, made from the types themselves: their doc comments, defaults and schema.

use serde_json::Value;

use crate::config::file::ConfigFile;

/// The JSON schema of the configuration file, indented.
///
/// # Errors
/// What serialisation reports; a schema is plain JSON.
pub fn schema_json() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&schemars::schema_for!(ConfigFile))
}

const INTRODUCTION: &str = "\
# Configuration

<!-- Generated from sensor/src/config/file.rs and rule.rs; do not edit. `cargo xtask docs` writes it anew. -->

`sensor` reads `/etc/sensor/sensor.toml`, then the files `/etc/sensor/conf.d/*.toml` in the order of their names; with
`--config FILE` that file alone. All may be absent. Defaults < sensor.toml < conf.d < filter settings from the central node <
flags: a value or list of a later source replaces that of an earlier one, except `[[filter.rule]]`, whose rules follow one
another. Of the environment only
`SENSOR_LOG` and `NO_COLOR` count, `CREDENTIALS_DIRECTORY` (systemd sets it) for paths `credential:NAME` of sinks, and in containers
`HOST_ROOT` and `NODE_NAME` (`[host]`), which stand where flags do. A file that anybody may write is refused.

Sizes and times are texts with a unit: `\"64MiB\"` (B, KiB, MiB, GiB, TiB), `\"5s\"` (us, ms, s, m, h, d). Paths are
absolute. `sensor config check` tells every error with file, line, column and key; `sensor config show` prints what is in
effect; `sensor config schema` prints a JSON schema for editors.

## Example

```toml
";

/// Stands in docs/config.md; a test reads and compiles it.
pub(crate) const EXAMPLE: &str = r#"[events]
enabled = ["exec", "exit", "file_create", "connect", "module_load"]

[output]
path = "/var/log/sensor/events.json"
rotate_size = "1GiB"
keep = 3

# First match wins: what is created below /etc is always reported, whoever does it,
[[filter.rule]]
id = "keep-etc"
action = "include"
event = ["file_create"]
file_path = ["/etc/**"]

# builds are not,
[[filter.rule]]
id = "builds"
action = "exclude"
event = ["file_create"]
image_path = ["/usr/bin/{cc,ld,make,cargo}", "/usr/lib/gcc/**"]
user = ["1000-59999"]

# and what the database connects to inside is counted, not listed.
[[filter.rule]]
id = "database"
action = "aggregate"
event = ["connect"]
image_path = ["/usr/lib/postgresql/**"]
remote_ip = ["loopback", "10.0.0.0/8"]
"#;

/// What is said about rules beside their table.
const RULES: &str = "
`sensor filter check FILE` tells every error of a file of rules (`[[rule]]` tables, as in `filter.rules_file`),
`sensor filter explain` prints each rule with how it is looked up and where it runs, and `sensor filter test --event JSON`
says which rule decides about an event of the sensor's own output. All rules run in the daemon, after enrichment; what
happens to processes is followed whether or not it is reported. Every dropped event is counted under its rule's id; merged
ones leave as `aggregate` events, one per process, rule and type every 10 seconds, with their exact count and the first of
them whole. An event that is dropped or merged has no patch events.
";

/// docs/config.md: every key with its type, default and meaning.
pub fn docs_markdown() -> String {
    let schema = schemars::schema_for!(ConfigFile).to_value();
    let mut out = [INTRODUCTION, EXAMPLE, "```\n"].concat();
    let defaults = serde_json::to_value(ConfigFile::default()).unwrap_or_default();
    for (name, table) in properties(&schema, &schema) {
        if let Some(entry) = table.get("additionalProperties") {
            // A map: its own words say what stands under each name.
            let mut entry = resolve(&schema, entry).clone();
            if let Some(entry) = entry.as_object_mut() {
                entry.insert("description".to_owned(), description(table).into());
            }
            section(&mut out, &schema, &format!("[{name}.NAME]"), &entry, None);
            continue;
        }
        section(
            &mut out,
            &schema,
            &format!("[{name}]"),
            table,
            defaults.get(name),
        );
    }
    if let Some(rule) = schema.pointer("/$defs/FilterRule") {
        section(&mut out, &schema, "[[filter.rule]]", rule, None);
    }
    out.push_str(RULES);
    out
}

fn section(out: &mut String, schema: &Value, title: &str, table: &Value, defaults: Option<&Value>) {
    let mut line = |text: std::fmt::Arguments<'_>| {
        out.push_str(&text.to_string());
        out.push('\n');
    };
    line(format_args!(
        "\n## `{title}`\n\n{}\n",
        description(table).trim()
    ));
    line(format_args!(
        "| key | type | default | meaning |\n|---|---|---|---|"
    ));
    let required = |name: &str| {
        let names = table.get("required").and_then(Value::as_array);
        names.is_some_and(|names| names.iter().any(|required| required == name))
    };
    let mut keys: Vec<_> = properties(schema, table).collect();
    keys.sort_by_key(|(name, _)| !required(name));
    for (name, key) in keys {
        let default = defaults
            .and_then(|table| table.get(name))
            .or_else(|| key.get("default"))
            .filter(|value| !value.is_null());
        let default = match default {
            _ if required(name) => "required".to_owned(),
            Some(value) => format!("`{}`", toml_text(value)),
            None => "absent".to_owned(),
        };
        let meaning = cell(description(key));
        line(format_args!(
            "| `{name}` | {} | {} | {meaning} |",
            cell(&type_text(schema, key)),
            cell(&default)
        ));
    }
}

pub(super) fn properties<'a>(
    schema: &'a Value,
    table: &'a Value,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let properties = resolve(schema, table)
        .get("properties")
        .and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, key)| (name.as_str(), key))
}

pub(super) fn resolve<'a>(schema: &'a Value, node: &'a Value) -> &'a Value {
    let any = node
        .get("anyOf")
        .and_then(Value::as_array)
        .and_then(|any| any.first());
    let node = any.unwrap_or(node);
    let reference = node.get("$ref").and_then(Value::as_str);
    let target = reference.and_then(|reference| reference.strip_prefix('#'));
    target
        .and_then(|pointer| schema.pointer(pointer))
        .unwrap_or(node)
}

pub(super) fn description(node: &Value) -> &str {
    node.get("description")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Text for one cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn type_text(schema: &Value, key: &Value) -> String {
    let node = resolve(schema, key);
    let words = |values: &mut dyn Iterator<Item = &Value>| {
        let words: Vec<String> = values
            .filter_map(Value::as_str)
            .map(|word| format!("`\"{word}\"`"))
            .collect();
        words.join(" ")
    };
    if let Some(values) = node.get("enum").and_then(Value::as_array) {
        return words(&mut values.iter());
    }
    if let Some(variants) = node.get("oneOf").and_then(Value::as_array) {
        return words(&mut variants.iter().filter_map(|variant| variant.get("const")));
    }
    match node.get("format").and_then(Value::as_str) {
        Some("size") => return "size".to_owned(),
        Some("time") => return "time".to_owned(),
        _ => {}
    }
    let kind = node.get("type").map(|kind| match kind {
        // `Option`: the type itself and null, which TOML does not have.
        Value::Array(kinds) => kinds.first().and_then(Value::as_str).unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            kind.as_str().unwrap_or_default()
        }
    });
    match kind {
        Some("array") => {
            let inner = node.get("items").map(|items| type_text(schema, items));
            format!("list of {}", inner.unwrap_or_default())
        }
        Some("boolean") => "true or false".to_owned(),
        Some("integer") => "number".to_owned(),
        Some("object") => "table".to_owned(),
        Some("string") => "text".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    }
}

pub(super) fn toml_text(value: &Value) -> String {
    match value {
        Value::String(text) => format!("\"{text}\""),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_text).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}
