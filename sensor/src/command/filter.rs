//! `sensor filter check|explain|test`.

use std::io::{BufRead, Read as _};
use std::path::{Path, PathBuf};

use crate::args::FilterCommand;
use crate::command::Streams;
use crate::command::filter::event::Line;
use crate::config::{self, RuleAction, Sources};
use crate::exit::ExitStatus;
use crate::filter::{Decision, Filter, RuleInfo, RulePlace, Subject};

mod event;

/// Longest line that is read as an event: the longest that the sensor writes is shorter.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Does what was asked. Events of `filter test --event -` are read from `input`.
pub fn run(
    command: &FilterCommand,
    sources: &Sources,
    input: &mut dyn BufRead,
    streams: &mut Streams<'_>,
) -> ExitStatus {
    let (FilterCommand::Check { file }
    | FilterCommand::Explain { file }
    | FilterCommand::Test { file, .. }) = command;
    let filter = match compile(file.as_ref(), sources) {
        Ok(filter) => filter,
        Err(faults) => return streams.refuse(&faults),
    };
    match command {
        FilterCommand::Check { .. } => streams.answer("ok\n"),
        FilterCommand::Explain { .. } => streams.answer(&explanation(&filter)),
        FilterCommand::Test { event, .. } if event == "-" => test_lines(&filter, input, streams),
        FilterCommand::Test { event, .. } => match event.to_str() {
            Some(line) => test(&filter, line, streams),
            None => streams.refuse(&"--event: not UTF-8 text"),
        },
    }
}

fn compile(file: Option<&PathBuf>, sources: &Sources) -> Result<Filter, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    match file.map(PathBuf::as_path) {
        Some(path) => {
            let rules = config::load_rules(Path::new(path)).map_err(text)?;
            Filter::from_rules(&rules).map_err(text)
        }
        None => {
            let loaded = config::load(sources).map_err(text)?;
            Filter::from_config(&loaded).map_err(text)
        }
    }
}

const fn action(action: RuleAction) -> &'static str {
    match action {
        RuleAction::Include => "include",
        RuleAction::Exclude => "exclude",
        RuleAction::Aggregate => "aggregate",
    }
}

const fn place(place: RulePlace) -> &'static str {
    match place {
        RulePlace::Userspace => "userspace",
    }
}

fn explanation(filter: &Filter) -> String {
    let mut text = String::new();
    for (number, (rule, _)) in filter.rules().enumerate() {
        explain(&mut text, number + 1, rule);
    }
    text.push_str("default: include, userspace\n");
    text
}

fn explain(text: &mut String, number: usize, rule: &RuleInfo) {
    let events: Vec<&str> = rule.events.iter().map(|event| event.short_name()).collect();
    let RuleInfo { id, criteria, .. } = rule;
    let (action, place) = (action(rule.action), place(rule.place));
    let mut line = format!(
        "{number}. {id}: {action}, {place}\n   events: {}\n",
        events.join(", ")
    );
    for criterion in criteria {
        line.push_str(&format!("   {criterion}\n"));
    }
    text.push_str(&line);
}

fn test(filter: &Filter, line: &str, streams: &mut Streams<'_>) -> ExitStatus {
    let read = match Line::parse(line) {
        Ok(read) => read,
        Err(error) => return streams.refuse(&format!("--event: {error}")),
    };
    streams.answer(&verdict(filter, &read))
}

fn verdict(filter: &Filter, line: &Line) -> String {
    let subject = Subject {
        event: &line.event,
        process: line.process.as_ref(),
        parent: line.parent.as_ref(),
    };
    match filter.first_match(&subject) {
        Decision::Default => "include (no rule matches)\n".to_owned(),
        Decision::Rule(rule, index) => {
            format!(
                "{} by rule {} ({})\n",
                action(rule.action),
                index + 1,
                rule.id
            )
        }
    }
}

fn test_lines(filter: &Filter, input: &mut dyn BufRead, streams: &mut Streams<'_>) -> ExitStatus {
    let mut status = ExitStatus::Ok;
    for number in 1_u64.. {
        let mut bytes = Vec::new();
        let mut faulty = |what: String| streams.refuse(&format!("line {number}: {what}"));
        let mut limited = (&mut *input).take(MAX_LINE_BYTES);
        match limited.read_until(b'\n', &mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return faulty(format!("cannot be read: {error}")),
        }
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => {
                status = faulty(error.to_string());
                continue;
            }
        };
        match Line::parse(text) {
            Ok(line) => {
                let answered = streams.answer(&verdict(filter, &line));
                if answered != ExitStatus::Ok {
                    return answered;
                }
            }
            Err(error) => status = faulty(error.to_string()),
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn check(
        command: impl FnOnce(Option<PathBuf>) -> FilterCommand,
        rules: &str,
        input: &str,
    ) -> (ExitStatus, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.toml");
        std::fs::write(&path, rules).unwrap();
        let sources = Sources {
            file: None,
            directory: "/nonexistent".into(),
            settings: config::SettingsSource::None,
            overrides: Overrides::default(),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
        };
        let status = run(
            &command(Some(path)),
            &sources,
            &mut input.as_bytes(),
            &mut streams,
        );
        let strip = |bytes| {
            String::from_utf8(bytes)
                .unwrap()
                .replace(&format!("{}/", directory.path().display()), "")
        };
        (status, strip(out), strip(err))
    }

    const RULES: &str = "[[rule]]\nid = 'quiet'\naction = 'exclude'\nevent = ['file_create']\nfile_path = ['/tmp/**']\n";

    #[test]
    fn check_tells_place_and_key() {
        let (status, _, err) = check(
            |file| FilterCommand::Check { file },
            "[[rule]]\nid = 'a'\naction = 'exclude'\nuser = ['-']\n",
            "",
        );
        assert_eq!(status, ExitStatus::Usage);
        assert_eq!(
            err,
            "rules.toml:4:9: rule[0].user[0]: `-` is not a name, an id or a range of ids\n"
        );
        let (status, out, _) = check(|file| FilterCommand::Check { file }, RULES, "");
        assert_eq!((status, out.as_str()), (ExitStatus::Ok, "ok\n"));
    }

    #[test]
    fn explain_tells_each_rule() {
        let (_, out, _) = check(|file| FilterCommand::Explain { file }, RULES, "");
        assert_eq!(
            out,
            "1. quiet: exclude, userspace\n   events: file_create\n   file_path: /tmp/** (prefix)\ndefault: include, userspace\n"
        );
    }

    #[test]
    fn test_says_which_rule_decides() {
        let event = |line: &str| {
            let event = line.into();
            move |file| FilterCommand::Test { event, file }
        };
        let line = r#"{"type":"file_create","file_create":{"file":{"path":"/tmp/x"}}}"#;
        let (status, out, _) = check(event(line), RULES, "");
        assert_eq!(
            (status, out.as_str()),
            (ExitStatus::Ok, "exclude by rule 1 (quiet)\n")
        );
        let (status, _, err) = check(event("{}"), RULES, "");
        assert_eq!(
            (status, err.as_str()),
            (ExitStatus::Usage, "--event: type should be a text\n")
        );
        let lines = format!("{line}\n{{}}\n{}\n", line.replace("/tmp", "/etc"));
        let (status, out, err) = check(event("-"), RULES, &lines);
        assert_eq!(
            out,
            "exclude by rule 1 (quiet)\ninclude (no rule matches)\n"
        );
        assert_eq!(
            (status, err.as_str()),
            (ExitStatus::Usage, "line 2: type should be a text\n")
        );
    }
}
