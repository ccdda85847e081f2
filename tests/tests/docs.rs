//! The documents: links and paths in them exist, and they name what the code has.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;
    use std::fs;
    use std::path::{Path, PathBuf};

    use sensor_common::counter::KernelCounter;
    use sensor_common::record::{ParseError, RecordKind};

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_owned()
    }

    fn read(path: &str) -> String {
        fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Every document, by path from the root: those at the root, those below `docs`, `packaging` and `tests`.
    fn documents() -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(root().join(&folder)).unwrap() {
                let entry = entry.unwrap();
                let path = folder.join(entry.file_name());
                let name = path.to_str().unwrap().to_owned();
                let below = !folder.as_os_str().is_empty()
                    || ["docs", "packaging", "tests"].contains(&name.as_str());
                if entry.file_type().unwrap().is_dir() && below {
                    folders.push(path);
                } else if name.ends_with(".md") {
                    found.push(name);
                }
            }
        }
        found.sort();
        found
    }

    /// The text without blocks of code, or these alone.
    fn parts(text: &str, blocks: bool) -> String {
        let mut inside = false;
        text.lines()
            .filter(|line| {
                let fence = line.trim_start().starts_with("```");
                inside ^= fence;
                !fence && inside == blocks
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn prose(text: &str) -> String {
        parts(text, false)
    }

    /// What stands between backticks.
    fn quoted(text: &str) -> Vec<String> {
        prose(text)
            .lines()
            .flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned))
            .collect()
    }

    /// The anchor that a heading gets where the documents are shown.
    fn anchor(heading: &str) -> String {
        heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    }

    #[test]
    fn links_resolve() {
        let mut wrong = Vec::new();
        for document in documents() {
            let text = prose(&read(&document));
            for rest in text.split("](").skip(1) {
                let target = rest.split(')').next().unwrap();
                if target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let (file, section) = target.split_once('#').unwrap_or((target, ""));
                let path = if file.is_empty() {
                    root().join(&document)
                } else {
                    root().join(&document).parent().unwrap().join(file)
                };
                if !path.exists() {
                    wrong.push(format!("{document}: {target}"));
                } else if !section.is_empty() {
                    // A line of a block of code may begin with `#`, too.
                    let headings = prose(&fs::read_to_string(&path).unwrap());
                    let known: BTreeSet<String> = headings
                        .lines()
                        .filter(|line| line.starts_with('#'))
                        .map(anchor)
                        .collect();
                    if !known.contains(section) {
                        wrong.push(format!("{document}: {target} (no such heading)"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "broken links:\n{}", wrong.join("\n"));
    }

    /// Whether something in backticks is meant as a path of this repository.
    fn is_path(word: &str, top: &BTreeSet<String>) -> bool {
        let plain = word
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
        if !plain || word.starts_with('/') {
            return false;
        }
        let source = [".rs", ".md"].iter().any(|end| word.ends_with(end));
        let first = word.split('/').next().unwrap_or_default();
        source || (word.contains('/') && top.contains(first))
    }

    #[test]
    fn paths_in_backticks_exist() {
        let top: BTreeSet<String> = fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "target")
            .collect();
        let mut wrong = Vec::new();
        let mut seen = 0;
        for document in documents() {
            let text = read(&document);
            let blocks = parts(&text, true);
            // In blocks a name that ends in `.md` or `.rs` may be somebody else's.
            let typed = blocks
                .split_ascii_whitespace()
                .filter(|word| word.contains('/'))
                .map(str::to_owned);
            for word in quoted(&text).into_iter().chain(typed) {
                if is_path(&word, &top) {
                    seen += 1;
                    if !root().join(&word).exists() {
                        wrong.push(format!("{document}: {word}"));
                    }
                }
            }
        }
        assert!(seen > 50, "only {seen} paths found: is the search broken?");
        assert!(
            wrong.is_empty(),
            "paths that are not:\n{}",
            wrong.join("\n")
        );
    }

    /// Commands of this program in blocks for a shell: what stands after its name, without what the shell makes of the rest.
    fn commands(program: &str) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        for document in documents() {
            let text = read(&document);
            let mut in_shell = false;
            let mut here: Option<String> = None;
            let mut line = String::new();
            for piece in text.lines() {
                let piece = piece.trim();
                if piece.starts_with("```") {
                    in_shell = !in_shell && piece == "```sh";
                    continue;
                }
                if let Some(end) = &here {
                    if piece == end {
                        here = None;
                    }
                    continue;
                }
                if !in_shell {
                    continue;
                }
                line.push_str(piece);
                if let Some(goes_on) = line.strip_suffix('\\') {
                    line = goes_on.to_owned();
                    continue;
                }
                let whole = std::mem::take(&mut line);
                if let Some((_, end)) = whole.split_once("<<") {
                    here = Some(end.trim_matches('\'').to_owned());
                }
                for command in whole.split('|') {
                    let mut words = command
                        .split_ascii_whitespace()
                        .take_while(|word| !word.starts_with(['#', '>', '&', ';']))
                        .skip_while(|word| *word == "sudo");
                    let named = words.next().and_then(|word| word.rsplit('/').next());
                    if named == Some(program) {
                        let words = words.map(|word| word.trim_matches('\'').to_owned());
                        found.push((format!("{document}: {}", command.trim()), words.collect()));
                    }
                }
            }
        }
        found
    }

    #[test]
    fn commands_of_the_sensor_are_understood() {
        let found = commands("sensor");
        assert!(found.len() > 10, "only {found:?}: is the search broken?");
        for (place, words) in found {
            let words = std::iter::once("sensor".to_owned()).chain(words);
            if let Err(error) = sensor::args::parse(words.map(OsString::from)) {
                panic!("{place}\n{error}");
            }
        }
    }

    /// By the names in the declaration of its command line; values are not looked at.
    #[test]
    fn commands_of_the_central_node_are_declared() {
        let declared = read("central-node/src/args.rs");
        let found = commands("central-node");
        assert!(found.len() > 10, "only {found:?}: is the search broken?");
        for (place, words) in found {
            let subcommand = words.first().unwrap_or_else(|| panic!("{place}"));
            let (initial, rest) = subcommand.split_at(1);
            let variant = format!("    {}{rest}(", initial.to_uppercase());
            assert!(declared.contains(&variant), "{place}: no {subcommand}");
            for flag in words.iter().filter_map(|word| word.strip_prefix("--")) {
                let field = format!("{}: ", flag.replace('-', "_"));
                let renamed = format!("long = \"{flag}\"");
                let known = declared.lines().any(|line| {
                    let line = line.trim_start();
                    line.trim_start_matches("pub ").starts_with(&field) || line.contains(&renamed)
                });
                assert!(known, "{place}: no --{flag}");
            }
        }
    }

    #[test]
    fn readme_and_architecture_stay_short() {
        for (document, limit) in [("README.md", 100), ("ARCHITECTURE.md", 300)] {
            let lines = read(document).lines().count();
            assert!(lines < limit, "{document} has {lines} lines");
        }
    }

    #[test]
    fn the_code_map_has_every_module() {
        let map: BTreeSet<String> = quoted(&read("ARCHITECTURE.md")).into_iter().collect();
        for folder in [
            "sensor/src",
            "sensor-ebpf/src",
            "sensor-ebpf/src/probe",
            "sensor-common/src",
            "central-node/src",
            "central-node/src/store",
        ] {
            for entry in fs::read_dir(root().join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
                if path.ends_with(".rs") {
                    assert!(map.contains(path), "ARCHITECTURE.md does not have `{path}`");
                }
            }
        }
    }

    #[test]
    fn decisions_are_numbered_and_complete() {
        let names: Vec<String> = documents()
            .into_iter()
            .filter_map(|path| path.strip_prefix("docs/decisions/").map(str::to_owned))
            .collect();
        let numbers: BTreeSet<&str> = names
            .iter()
            .map(|name| name.split_once('-').unwrap().0)
            .collect();
        assert_eq!(
            numbers.len(),
            names.len(),
            "a number is used twice: {names:?}"
        );
        for name in &names {
            let (number, _) = name.split_once('-').unwrap();
            assert_eq!(number.len(), 4, "{name}");
            let number: u32 = number.parse().unwrap();
            let text = read(&format!("docs/decisions/{name}"));
            assert!(text.starts_with(&format!("# {number}. ")), "{name}");
            for heading in ["\n## Context\n", "\n## Decision\n", "\n## Consequences\n"] {
                assert!(text.contains(heading), "{name} lacks{heading}");
            }
        }
    }

    #[test]
    fn the_page_of_kernels_has_the_matrix() {
        let page = read("docs/kernels.md");
        let matrix: toml::Table = read("tests/vm/kernels.toml").parse().unwrap();
        for kernel in matrix["kernel"].as_array().unwrap() {
            let word = |key: &str| kernel[key].as_str().unwrap();
            let row = format!(
                "| {} | Debian {} | `{}` | {} |",
                word("version"),
                word("suite"),
                word("package"),
                word("role")
            );
            assert!(page.contains(&row), "docs/kernels.md lacks the row {row}");
        }
    }

    /// String literals of a source file without its tests that look like a cause or a place of the ledger.
    fn names_in(source: &str) -> BTreeSet<String> {
        let text = read(source);
        let code = text.split("#[cfg(test)]").next().unwrap();
        code.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| line.split('"').skip(1).step_by(2))
            .filter(|word| word.contains(['_', '.']))
            .filter(|word| {
                word.chars()
                    .all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))
            })
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn the_page_of_losses_has_every_cause() {
        let page: BTreeSet<String> = quoted(&read("docs/loss.md")).into_iter().collect();
        let mut names = names_in("sensor/src/pipeline.rs");
        names.extend(names_in("sensor/src/pipeline/account.rs"));
        names.extend(names_in("sensor/src/ledger.rs"));
        names.extend(RecordKind::ALL.iter().map(|kind| kind.name().to_owned()));
        names.extend(
            KernelCounter::ALL
                .iter()
                .map(|counter| counter.name().to_owned()),
        );
        for cause in [
            sensor::sink::OUTPUT_FULL,
            sensor::sink::OUTPUT_CLOSED,
            sensor::sink::OUTPUT_UNFINISHED,
        ] {
            names.insert(cause.to_owned());
        }
        for error in [
            ParseError::Short,
            ParseError::UnknownKind(0),
            ParseError::Size,
            ParseError::Head(RecordKind::Exec),
            ParseError::Tail(RecordKind::Exec),
        ] {
            names.insert(error.name().to_owned());
        }
        let missing: Vec<_> = names.difference(&page).collect();
        assert!(missing.is_empty(), "docs/loss.md does not name {missing:?}");
    }
}
