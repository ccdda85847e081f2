//! The architecture as a test: layers, where unsafe code may stand, where /proc, the clock and processes are touched.
//! There is no list of exceptions.

#![forbid(unsafe_code)]
#![expect(
    clippy::string_slice,
    reason = "cuts source text at places that a search of ASCII text has found"
)]

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Layers of the daemon, lowest first; a module imports from its own or a lower one.
    const LAYERS: &[&[&str]] = &[
        &["clock", "config", "exit", "ledger"],
        &[
            "confine",
            "event",
            "format",
            "kernel",
            "notify",
            "procfs",
            "recording",
            "spool",
        ],
        &[
            "control", "enrich", "filter", "loader", "metrics", "packet", "probe", "reader",
            "selftest", "sink",
        ],
        &["pipeline", "run"],
        &["args", "command", "main"],
    ];

    /// Layers of the central node, lowest first.
    const NODE_LAYERS: &[&[&str]] = &[
        &["clock", "exit", "packet", "term"],
        &["account", "agent_id", "completeness"],
        &["store"],
        &["config", "query", "writer"],
        &["certificate", "listen", "notify"],
        &["server"],
        &["args", "command", "main", "testing"],
    ];

    /// Crates with layers: where their sources are, and which.
    const LAYERED: &[(&str, &[&[&str]])] =
        &[("sensor/src", LAYERS), ("central-node/src", NODE_LAYERS)];

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_owned()
    }

    fn sources(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(sources(&path));
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name().is_some_and(|name| name != "tests.rs")
            {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    /// The code of a file without comments and without its test module.
    fn code(path: &Path) -> String {
        let text = fs::read_to_string(path).unwrap();
        let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
        text[..end]
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// First component of a file's module path: `enrich` for `enrich/hash.rs`.
    fn module(src: &str, path: &Path) -> String {
        let inside = path.strip_prefix(root().join(src)).unwrap();
        let first = inside.iter().next().unwrap().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    }

    fn layer(layers: &[&[&str]], module: &str) -> Option<usize> {
        layers.iter().position(|layer| layer.contains(&module))
    }

    /// Modules that a file names by `crate::` (or the binary by `sensor::`), in groups too.
    fn imports(code: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for prefix in ["crate::", "sensor::"] {
            for (at, _) in code.match_indices(prefix) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let rest = &code[at + prefix.len()..];
                if let Some(group) = rest.strip_prefix('{') {
                    let mut depth = 0;
                    let mut name = String::new();
                    let mut at_start = true;
                    for c in group.chars() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => {
                                found.insert(std::mem::take(&mut name));
                                at_start = true;
                            }
                            c if (c.is_alphanumeric() || c == '_') && depth == 0 && at_start => {
                                name.push(c);
                            }
                            c if c.is_whitespace() => {}
                            _ => at_start = false,
                        }
                    }
                    found.insert(name);
                } else {
                    let name = rest
                        .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                        .next();
                    found.insert(name.unwrap_or_default().to_owned());
                }
            }
        }
        found.remove("");
        found
    }

    #[test]
    fn modules_import_only_from_their_own_or_a_lower_layer() {
        for (src, layers) in LAYERED {
            check_layers(src, layers);
        }
    }

    fn check_layers(src: &str, layers: &[&[&str]]) {
        let mut same_layer: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut wrong = Vec::new();
        for path in sources(&root().join(src)) {
            let from = module(src, &path);
            if from == "lib" {
                continue;
            }
            let Some(own) = layer(layers, &from) else {
                wrong.push(format!(
                    "{}: module `{from}` is in no layer",
                    path.display()
                ));
                continue;
            };
            for to in imports(&code(&path)) {
                match layer(layers, &to) {
                    Some(other) if other > own => {
                        wrong.push(format!(
                            "{}: `{from}` imports `{to}`, a layer up",
                            path.display()
                        ));
                    }
                    Some(other) if other == own && to != from => {
                        same_layer.entry(from.clone()).or_default().insert(to);
                    }
                    Some(_) | None => {}
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        for start in same_layer.keys() {
            let mut seen = BTreeSet::new();
            let mut next: Vec<&String> = same_layer[start].iter().collect();
            while let Some(module) = next.pop() {
                assert_ne!(
                    module, start,
                    "modules of one layer import each other in a circle"
                );
                if seen.insert(module) {
                    next.extend(same_layer.get(module).into_iter().flatten());
                }
            }
        }
    }

    #[test]
    fn every_layered_module_exists() {
        for (src, layers) in LAYERED {
            for module in layers.iter().flat_map(|layer| layer.iter()) {
                assert!(
                    root().join(src).join(format!("{module}.rs")).exists(),
                    "layer table of {src} names `{module}`, which is not there"
                );
            }
        }
    }

    #[test]
    fn unsafe_code_stands_only_where_it_may() {
        let allowed = [
            "read.rs",
            "task.rs",
            "path.rs",
            "layout.rs",
            "emit.rs",
            "filter.rs",
            "map.rs",
        ];
        let mut wrong = Vec::new();
        for folder in [
            "sensor/src",
            "sensor-common/src",
            "sensor-proto/src",
            "sensor-ebpf/src",
            "central-node/src",
            "xtask/src",
            "tests/fuzz/src",
        ] {
            for path in sources(&root().join(folder)) {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let text = code(&path);
                let has = text.contains("unsafe {")
                    || text.contains("unsafe fn")
                    || text.contains("unsafe impl");
                let may = match folder {
                    "sensor/src" => path.ends_with("kernel/sys.rs"),
                    "sensor-common/src" => path.ends_with("map.rs"),
                    "tests/fuzz/src" => path.ends_with("coverage.rs"),
                    "sensor-ebpf/src" => allowed.contains(&name.as_str()),
                    _ => false,
                };
                if has && !may {
                    wrong.push(path.display().to_string());
                }
            }
        }
        assert!(wrong.is_empty(), "unsafe code in {wrong:?}");
    }

    fn only_in(needles: &[&str], allowed: &[&str]) {
        only_in_crate("sensor/src", needles, allowed);
    }

    fn node_only_in(needles: &[&str], allowed: &[&str]) {
        only_in_crate("central-node/src", needles, allowed);
    }

    fn only_in_crate(src: &str, needles: &[&str], allowed: &[&str]) {
        let mut wrong = Vec::new();
        for path in sources(&root().join(src)) {
            let inside = path.strip_prefix(root().join(src)).unwrap().to_owned();
            if allowed.iter().any(|allowed| inside.starts_with(allowed)) {
                continue;
            }
            let text = code(&path);
            for needle in needles {
                if text.contains(needle) {
                    wrong.push(format!("{src}/{}: {needle}", inside.display()));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn the_wall_clock_is_read_in_clock_only() {
        only_in(&["SystemTime::now", "CLOCK_REALTIME"], &["clock.rs"]);
        node_only_in(&["SystemTime::now", "now_utc", "now_local"], &["clock.rs"]);
    }

    #[test]
    fn the_node_has_one_writer_one_opener_of_packets_and_bounded_queues() {
        node_only_in(
            &["unbounded_channel", "mpsc::channel()", "process::Command"],
            &[],
        );
        node_only_in(
            &["rusqlite::", "prepare_cached"],
            &["store.rs", "store", "writer.rs", "query.rs"],
        );
        node_only_in(&["packet::open(", "OpenError"], &["packet.rs", "server.rs"]);
    }

    #[test]
    fn the_daemon_spawns_no_process_but_the_self_test_child() {
        // `sensor install` is no daemon: it tells systemd.
        only_in(
            &["process::Command", "Command::new"],
            &["selftest.rs", "command/install.rs"],
        );
    }

    #[test]
    fn no_queue_is_unbounded_and_no_name_service_is_asked() {
        only_in(
            &[
                "unbounded_channel",
                // Without a capacity: std's own.
                "mpsc::channel()",
                "ToSocketAddrs",
                "lookup_host",
                "getaddrinfo",
                "net::TcpStream::connect(\"",
                "User::from_uid",
                "User::from_name",
                "Group::from_gid",
                "Group::from_name",
            ],
            &[],
        );
    }

    #[test]
    fn aya_is_known_to_the_loading_modules_only() {
        only_in(
            &["aya::"],
            &[
                "kernel.rs",
                "kernel",
                "probe.rs",
                "loader.rs",
                "loader",
                "filter/lower.rs",
            ],
        );
    }

    #[test]
    fn kernel_and_daemon_see_each_other_through_the_common_crate_only() {
        let daemon = fs::read_to_string(root().join("sensor/Cargo.toml")).unwrap();
        assert!(!daemon.contains("sensor-ebpf"));
        let ebpf = fs::read_to_string(root().join("sensor-ebpf/Cargo.toml")).unwrap();
        assert!(ebpf.contains("sensor-common"));
        for other in ["sensor-proto", "path = \"../sensor\""] {
            assert!(!ebpf.contains(other), "sensor-ebpf depends on {other}");
        }
    }
}
