//! What the bottom line says, and the help.

use super::state::{State, TYPES};
use crate::format::pretty::Style;

/// What only the rest of the sensor knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Records and events lost anywhere, so far.
    pub lost: u64,
    /// Event types without a hook.
    pub missing: Vec<String>,
    /// The cgroup that all is confined to.
    pub scope: Option<String>,
}

/// What the view has counted itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Events of the last second.
    pub(super) per_second: u64,
    /// Events left out by the choice of who watches.
    pub(super) hidden: u64,
    /// Events that wait while paused.
    pub(super) waiting: u64,
    /// Events for which there was no room while paused, since it began.
    pub(super) passed: u64,
}

/// Hints of keys, from long to short; the first that fits is shown.
pub(super) const HINTS: &[&str] = &[
    "q quit  space pause  / text  1-8 types  t tree  w wide  ? help",
    "q quit  space pause  / text  ? help",
    "q quit  ? help",
    "? help",
    "?",
];
/// While a text is typed.
pub(super) const PROMPT_HINTS: &[&str] = &["Enter sets it  Esc leaves it", "Enter  Esc"];

/// What stands on the left, in order of weight.
pub(super) fn words(state: &State, counts: &Counts, facts: &Facts) -> Vec<(Style, String)> {
    if let Some(text) = &state.prompt {
        return vec![(Style::Bold, format!("show only: {text}_"))];
    }
    let mut words = Vec::new();
    if state.paused {
        words.push((Style::Bold, format!("PAUSED, {} wait", counts.waiting)));
        if counts.passed > 0 {
            words.push((Style::Bad, format!("{} lost", counts.passed)));
        }
    }
    words.push((Style::Plain, format!("{}/s", counts.per_second)));
    let lost = if facts.lost > 0 {
        Style::Bad
    } else {
        Style::Plain
    };
    words.push((lost, format!("lost {}", facts.lost)));
    if !facts.missing.is_empty() {
        words.push((
            Style::Doubtful,
            format!("not seen: {}", facts.missing.join(",")),
        ));
    }
    if state.filters() {
        let mut filter = "only".to_owned();
        let types = state.types.iter().map(|chosen| chosen.short_name());
        let types: Vec<&str> = types.collect();
        if !types.is_empty() {
            filter.push_str(&format!(" {}", types.join(",")));
        }
        if !state.text.is_empty() {
            filter.push_str(&format!(" '{}'", state.text));
        }
        filter.push_str(&format!(", {} hidden", counts.hidden));
        words.push((Style::Bold, filter));
    }
    if state.wide {
        words.push((Style::Plain, "wide".to_owned()));
    }
    if !state.tree {
        words.push((Style::Plain, "list".to_owned()));
    }
    if let Some(scope) = &facts.scope {
        words.push((Style::Plain, format!("scope {scope}")));
    }
    words
}

/// Lines of the help, each a list of words in the style that they explain.
pub(super) fn help(ascii: bool) -> Vec<Vec<(Style, String)>> {
    let line = |title: &str, words: &[(Style, &str)]| {
        let title = (Dim, format!("{title:<9}"));
        let words = words
            .iter()
            .map(|(style, word)| (*style, (*word).to_owned()));
        std::iter::once(title).chain(words).collect::<Vec<_>>()
    };
    use Style::{Bad, Bold, Dim, Doubtful, File, Good, Network, Plain};
    let types = TYPES.iter().map(|(key, event_type)| {
        (
            Style::of_type(*event_type),
            format!("{key} {}", event_type.short_name()),
        )
    });
    let types = std::iter::once((Dim, format!("{:<9}", "types"))).chain(types);
    let (child, chain) = if ascii {
        (
            "`- a child of the process above",
            "a > b ancestors that are not in view",
        )
    } else {
        (
            "└ a child of the process above",
            "a → b ancestors that are not in view",
        )
    };
    vec![
        line(
            "keys",
            &[
                (Plain, "q quit"),
                (Plain, "space pause, go on"),
                (Plain, "/ show only lines with a text"),
                (Plain, "1-8 show only these types"),
                (Plain, "0 all types"),
                (Plain, "Esc no filter"),
                (Plain, "t tree or list"),
                (Plain, "w whole paths and hashes"),
                (Plain, "? this"),
            ],
        ),
        types.collect(),
        line(
            "text",
            &[
                (Plain, "/curl lines that say it"),
                (
                    Plain,
                    "/bash[4711] and lines of what descends from that process",
                ),
            ],
        ),
        line(
            "colours",
            &[
                (Bold, "bold: new code runs"),
                (Dim, "dim: ends, forks, ancestors"),
                (File, "cyan: files"),
                (Network, "magenta: connections"),
                (Good, "green: as it should be"),
                (Doubtful, "yellow: to be looked at"),
                (Bad, "red: failed, or not to be had"),
            ],
        ),
        line(
            "verdicts",
            &[
                (Good, "+ verified"),
                (Doubtful, "~ drifted, racy, open"),
                (Bad, "! too_large, unreadable, gone, refused_fs, timeout"),
            ],
        ),
        line("tree", &[(Plain, child), (Plain, chain)]),
    ]
}

#[cfg(test)]
mod tests {
    use sensor_proto::v1::EventType;

    use super::*;

    fn said(state: &State, counts: &Counts, facts: &Facts) -> String {
        let words = words(state, counts, facts);
        let texts: Vec<&str> = words.iter().map(|(_, word)| word.as_str()).collect();
        texts.join("  ")
    }

    #[test]
    fn it_says_what_is_lost_and_left_out() {
        let facts = Facts::default();
        let counts = Counts {
            per_second: 12,
            ..Counts::default()
        };
        assert_eq!(said(&State::default(), &counts, &facts), "12/s  lost 0");
        let facts = Facts {
            lost: 7,
            missing: vec!["module_load".to_owned()],
            scope: Some("/try".to_owned()),
        };
        let counts = Counts {
            per_second: 3,
            hidden: 9,
            waiting: 5,
            passed: 1,
        };
        let state = State {
            paused: true,
            types: vec![EventType::Exec, EventType::Connect],
            text: "curl".to_owned(),
            ..State::default()
        };
        assert_eq!(
            said(&state, &counts, &facts),
            "PAUSED, 5 wait  1 lost  3/s  lost 7  not seen: module_load  only exec,connect 'curl', 9 hidden  scope /try"
        );
        let state = State {
            prompt: Some("cu".to_owned()),
            ..state
        };
        assert_eq!(said(&state, &counts, &facts), "show only: cu_");
    }

    #[test]
    fn the_help_names_every_type_and_verdict() {
        let text: String = help(true)
            .into_iter()
            .flatten()
            .map(|(_, word)| word)
            .collect();
        assert!(text.is_ascii(), "{text}");
        for (_, event_type) in TYPES {
            assert!(text.contains(event_type.short_name()));
        }
        for verdict in [
            "verified",
            "drifted",
            "racy",
            "open",
            "too_large",
            "unreadable",
            "gone",
            "refused_fs",
            "timeout",
        ] {
            assert!(text.contains(verdict), "{verdict}");
        }
    }
}
