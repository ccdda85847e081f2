//! `sensor config check|show|schema`.

use crate::args::ConfigCommand;
use crate::command::Streams;
use crate::config::{self, Sources};
use crate::exit::ExitStatus;
use crate::filter::Filter;

/// Does what was asked.
pub fn run(command: &ConfigCommand, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    match command {
        ConfigCommand::Check => check(sources, streams),
        ConfigCommand::Show { origin } => show(*origin, sources, streams),
        ConfigCommand::Schema => match config::schema_json() {
            Ok(schema) => streams.answer(&format!("{schema}\n")),
            Err(error) => internal(streams, &error),
        },
    }
}

fn check(sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let loaded = match config::load(sources) {
        Ok(loaded) => loaded,
        Err(errors) => return streams.refuse(&errors),
    };
    match Filter::from_config(&loaded) {
        Ok(_) => streams.answer("ok\n"),
        Err(errors) => streams.refuse(&errors),
    }
}

fn show(origin: bool, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let loaded = match config::load(sources) {
        Ok(loaded) => loaded,
        Err(errors) => return streams.refuse(&errors),
    };
    let text = if origin {
        loaded.to_toml_with_origins()
    } else {
        loaded.to_toml()
    };
    match text {
        Ok(text) => streams.answer(&text),
        Err(error) => internal(streams, &error),
    }
}

fn internal(streams: &mut Streams<'_>, error: &dyn std::error::Error) -> ExitStatus {
    streams.complain(&error.to_string());
    ExitStatus::Internal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn check(command: &ConfigCommand, text: &str) -> (ExitStatus, String, String) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("sensor.toml"), text).unwrap();
        let sources = Sources {
            file: None,
            directory: directory.path().to_owned(),
            settings: config::SettingsSource::None,
            overrides: Overrides::default(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = run(
            command,
            &sources,
            &mut Streams {
                out: &mut out,
                err: &mut err,
            },
        );
        let strip = |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(&format!("{}/", directory.path().display()), "")
        };
        (status, strip(out), strip(err))
    }

    #[test]
    fn check_says_ok_or_everything() {
        let ok = check(&ConfigCommand::Check, "[ring]\nfile = \"1MiB\"\n");
        assert_eq!(ok, (ExitStatus::Ok, "ok\n".to_owned(), String::new()));
        let bad = check(
            &ConfigCommand::Check,
            "[[filter.rule]]\nid = \"a\"\naction = \"exclude\"\nremote_ip = [\"::1\", \"x\"]\nremote_port = [\"0-9\", \"9-0\"]\n\
             [[filter.rule]]\nid = \"b\"\naction = \"aggregate\"\n",
        );
        assert_eq!(bad.0, ExitStatus::Usage);
        let lines: Vec<&str> = bad.2.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines[1].starts_with("sensor.toml:5:23: filter.rule[0].remote_port[1]: `9-0` is not"),
            "{lines:?}"
        );
        assert!(
            lines[0].starts_with("sensor.toml:4:21: filter.rule[0].remote_ip[1]: `x` is not"),
            "{lines:?}"
        );
        assert!(
            lines[2].starts_with(
                "sensor.toml:8:1: filter.rule[1].action: events of type exec are never"
            ),
            "{lines:?}"
        );
    }

    #[test]
    fn show_prints_what_is_in_effect() {
        let (status, out, _) = check(
            &ConfigCommand::Show { origin: false },
            "[hash]\nthreads = 5\n",
        );
        assert_eq!(status, ExitStatus::Ok);
        assert!(
            out.contains("threads = 5\n") && out.contains("process = \"4MiB\"\n"),
            "{out}"
        );
    }

    #[test]
    fn origins_are_files_rules_and_defaults() {
        let text = "[hash]\nthreads = 5\n[sink.node]\ntype = 'central_node'\naddress = 'n:1'\nca_file = '/c'\n\
                    certificate_file = '/a'\nkey_file = '/k'\n[[filter.rule]]\nid = 'a'\naction = 'include'\nevent = ['exec']\n";
        let (status, out, err) = check(&ConfigCommand::Show { origin: true }, text);
        assert_eq!((status, err.as_str()), (ExitStatus::Ok, ""), "{out}");
        for line in [
            "hash.threads = 5  # sensor.toml:2:1",
            "hash.md5 = true  # default",
            "sink.node.address = \"n:1\"  # sensor.toml:5:1",
            "[[filter.rule]]  # sensor.toml:9:1",
            "id = \"a\"",
        ] {
            assert!(out.lines().any(|known| known == line), "{line} in\n{out}");
        }
        // It is a configuration as it stands.
        let again = check(&ConfigCommand::Check, &out);
        assert_eq!(again.1, "ok\n", "{}", again.2);
    }

    #[test]
    fn schema_is_json_of_all_tables() {
        let (status, out, _) = check(&ConfigCommand::Schema, "");
        assert_eq!(status, ExitStatus::Ok);
        let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(schema.pointer("/properties/ring").is_some());
        assert_eq!(
            schema.pointer("/additionalProperties"),
            Some(&serde_json::Value::Bool(false))
        );
    }

    #[test]
    fn a_closed_output_is_told() {
        let mut full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut err = Vec::new();
        let sources = Sources::new(Some("/dev/null".into()), Overrides::default());
        let mut streams = Streams {
            out: &mut full,
            err: &mut err,
        };
        assert_eq!(
            run(&ConfigCommand::Check, &sources, &mut streams),
            ExitStatus::Output
        );
        assert!(
            String::from_utf8(err)
                .unwrap()
                .starts_with("cannot write to standard output: No space")
        );
    }
}
