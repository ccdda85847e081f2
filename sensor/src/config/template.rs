//! The configuration file that packages install: every key with its meaning and its default, made from the types as docs/config.md
//! is. Refuses to set anything but the one value that a service cannot do without.

use serde_json::Value;

use crate::config::document::{description, properties, resolve, toml_text};
use crate::config::file::ConfigFile;

/// Where events go when a service manager runs the sensor: standard output is its journal, which forgets and limits.
pub const EVENTS_FILE: &str = "/var/log/sensor/events.jsonl";
/// Longest line.
const WIDTH: usize = 118;

const HEAD: &str = "\
# Configuration of sensor, as packages and `sensor install` put it into /etc/sensor/sensor.toml.
#
# Lines that begin with # and no space are settings with their defaults: take the # away and change the value. Files
# of /etc/sensor/conf.d/*.toml are read after this one. After a change: `sensor config check`, then `systemctl restart
# sensor`; for filter rules `systemctl reload sensor` is enough.
";

const SINK: &str = r#"
# [sink.headquarters]
# type = "central_node"
# address = "node.example:8443"
# ca_file = "/etc/sensor/tls/ca.pem"
# certificate_file = "/etc/sensor/tls/agent.pem"
# key_file = "/etc/sensor/tls/agent.key"
"#;

const RULE: &str = r#"
# [[filter.rule]]
# id = "builds"
# action = "exclude"
# event = ["file_create"]
# image_path = ["/usr/bin/{cc,ld,make,cargo}", "/usr/lib/gcc/**"]
"#;

/// packaging/sensor.toml.
#[must_use]
pub fn default_file() -> String {
    let schema = schemars::schema_for!(ConfigFile).to_value();
    let defaults = serde_json::to_value(ConfigFile::default()).unwrap_or_default();
    let mut out = HEAD.to_owned();
    for (name, table) in properties(&schema, &schema) {
        out.push('\n');
        comment(&mut out, description(table));
        if table.get("additionalProperties").is_some() {
            out.push_str(SINK);
            continue;
        }
        out.push_str(&format!("[{name}]\n"));
        let table = resolve(&schema, table);
        for (key, node) in properties(&schema, table) {
            // Tables within tables have their own example.
            if name == "filter" && key == "rule" {
                continue;
            }
            let default = defaults
                .get(name)
                .and_then(|table| table.get(key))
                .filter(|value| !value.is_null());
            comment(&mut out, description(node));
            if (name, key) == ("output", "path") {
                out.push_str(&format!("{key} = \"{EVENTS_FILE}\"\n"));
            } else if let Some(value) = default {
                setting(&mut out, key, value);
            } else {
                out.push_str(&format!("# {key} is not set.\n"));
            }
        }
        if name == "filter" {
            out.push_str(RULE);
        }
    }
    out
}

/// A description, in lines.
fn comment(out: &mut String, text: &str) {
    // Links are for docs/config.md.
    let text = text.replace("[delivery.md](delivery.md)", "docs/delivery.md");
    let words: Vec<&str> = text.split_whitespace().collect();
    wrapped(out, "# ", &words, "");
}

/// A key with its default, commented out; a long list in lines.
fn setting(out: &mut String, key: &str, value: &Value) {
    let line = format!("#{key} = {}", toml_text(value));
    match value {
        Value::Array(items) if line.len() > WIDTH => {
            out.push_str(&format!("#{key} = [\n"));
            let items: Vec<String> = items.iter().map(toml_text).collect();
            let words: Vec<&str> = items.iter().map(String::as_str).collect();
            wrapped(out, "#", &words, ",");
            out.push_str("#]\n");
        }
        Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Object(_) => {
            out.push_str(&line);
            out.push('\n');
        }
    }
}

/// Words in lines that begin with `prefix`; `after` stands behind each word.
fn wrapped(out: &mut String, prefix: &str, words: &[&str], after: &str) {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() && prefix.len() + line.len() + word.len() + 1 + after.len() > WIDTH {
            out.push_str(&format!("{prefix}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        line.push_str(after);
    }
    if !line.is_empty() {
        out.push_str(&format!("{prefix}{line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, SettingsSource, Sources, load};

    const SHIPPED: &str = include_str!("../../../packaging/sensor.toml");

    fn loaded(text: &str) -> crate::config::Loaded {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("sensor.toml"), text).unwrap();
        let sources = Sources {
            file: None,
            directory: directory.path().to_owned(),
            settings: SettingsSource::None,
            overrides: Overrides::default(),
        };
        load(&sources).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
    }

    /// Every setting taken from behind its comment sign.
    fn uncommented(text: &str) -> String {
        text.lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_shipped_file_is_the_one_that_is_made() {
        assert!(
            SHIPPED == default_file(),
            "packaging/sensor.toml is stale: run `cargo xtask docs`"
        );
    }

    #[test]
    fn the_shipped_file_is_valid_and_sets_the_file_of_events_only() {
        let defaults = loaded("");
        for text in [SHIPPED.to_owned(), uncommented(SHIPPED)] {
            let shipped = loaded(&text);
            assert_eq!(shipped.differing_keys(&defaults), ["output.path"]);
            assert_eq!(shipped.file.filter, defaults.file.filter);
            assert_eq!(
                shipped.config.output.path.as_deref(),
                Some(EVENTS_FILE.as_ref())
            );
        }
    }

    #[test]
    fn every_key_of_the_defaults_stands_in_the_shipped_file() {
        let text = uncommented(SHIPPED);
        let shipped: toml::Table = text.parse().unwrap();
        let defaults: toml::Table = loaded("").to_toml().unwrap().parse().unwrap();
        let mut seen = 0;
        for (name, table) in &defaults {
            for key in table.as_table().unwrap().keys() {
                seen += 1;
                assert!(shipped[name].get(key).is_some(), "{name}.{key}");
            }
        }
        assert!(seen > 20, "only {seen} keys");
    }

    #[test]
    fn the_examples_are_valid() {
        let text = [SINK, RULE].concat().replace("# ", "");
        let example = loaded(&text);
        assert_eq!(example.config.sinks.len(), 1);
        assert_eq!(example.config.rules.len(), 1);
    }

    #[test]
    fn lines_are_short() {
        for line in SHIPPED.lines() {
            assert!(line.len() <= WIDTH, "{line}");
        }
    }
}
