//! Recorded streams of every kernel and backend, replayed: the account closes, and the events are those that are expected.
//!
//! `tests/golden/NAME.rec.zst` is a recording, `NAME.jsonl` what a replay of it tells, one event a line, in the form that
//! [`tests::brief`] gives it. Of one stream the first event of each kind also stands there as ECS and OCSF have it, byte for
//! byte (`NAME.ecs.jsonl`, `NAME.ocsf.jsonl`). With `UPDATE_GOLDEN` in the environment (`cargo xtask golden --update`) all but
//! the recordings are written anew. What a stream must have whatever stands there, and what must never be told, is asserted beside that.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashMap};
    use std::fs;
    use std::path::{Path, PathBuf};

    use sensor::config::{Overrides, Sources};
    use sensor::exit::ExitStatus;
    use sensor::filter::Filter;
    use sensor::recording::{Recorder, Recording};
    use sensor::run::{self, RunError, Summary};
    use sensor_common::record::{RecordKind, RecordRef};
    use serde_json::Value;
    use tempfile::TempDir;

    /// In the environment and the arguments of a process of the scenario (tests/vm/record.rs).
    const SECRET: &str = "hunter2-of-the-golden-scenario";
    /// The scenario's processes run a copy of the suite from here.
    const FOLDER: &str = "/tmp/sensor-golden";
    /// What is written shorter when it comes again: values whose JSON is longer than this.
    const LONG: usize = 40;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
    }

    /// Name and unpacked bytes of every recording.
    fn recordings() -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(folder()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if let Some(name) = name.strip_suffix(".rec.zst") {
                let bytes = zstd::decode_all(fs::File::open(&path).unwrap()).unwrap();
                found.insert(name.to_owned(), bytes);
            }
        }
        found
    }

    /// A recording as a file, and what comes of it.
    struct Replayed {
        folder: TempDir,
        summary: Result<Summary, RunError>,
    }

    impl Replayed {
        fn of(bytes: &[u8]) -> Self {
            Self::with(bytes, "json")
        }

        fn with(bytes: &[u8], format: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (file, config) = (folder.path().join("file.rec"), folder.path().join("config"));
            fs::write(&file, bytes).unwrap();
            let output = folder.path().join("events.jsonl");
            let text = format!(
                "[events]\nenabled = [\"exec\", \"exit\", \"fork\", \"file_create\", \"connect\", \"module_load\"]\n\
                 [output]\nformat = \"{format}\"\npath = {:?}\n",
                output.to_str().unwrap()
            );
            fs::write(&config, text).unwrap();
            let loaded =
                sensor::config::load(&Sources::new(Some(config), Overrides::default())).unwrap();
            let filter = Filter::from_config(&loaded).unwrap();
            let summary = run::replay(&loaded.config, filter, &file, false);
            Self { folder, summary }
        }

        fn text(&self) -> String {
            fs::read_to_string(self.folder.path().join("events.jsonl")).unwrap()
        }

        fn events(&self) -> Vec<Value> {
            let text = self.text();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    /// Samples of a recording.
    fn samples(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut recording = Recording::read(Path::new("golden"), bytes).unwrap();
        let (mut samples, mut sample) = (Vec::new(), Vec::new());
        while recording.next_record(&mut sample).unwrap() {
            samples.push(sample.clone());
        }
        samples
    }

    /// The events in a form in which a change can be read: without what is the same on every line or differs between
    /// versions of the sensor (agent, host), with long values that come again as a reference to where they came first, and of
    /// a process that came before only what is not as it was.
    fn brief(events: &[Value]) -> String {
        let mut seen = HashMap::new();
        let mut processes = HashMap::new();
        let mut text = String::new();
        for (index, event) in events.iter().enumerate() {
            let mut event = event.clone();
            let fields = event.as_object_mut().unwrap();
            for name in ["agent", "host"] {
                fields.remove(name);
            }
            if let Some(process) = fields.get_mut("process") {
                let whole = process.clone();
                if let Some((line, before)) = processes.get(&whole["unique_pid"].to_string()) {
                    difference(process, before, *line);
                }
                processes.insert(whole["unique_pid"].to_string(), (index + 1, whole));
            }
            for (name, value) in fields.iter_mut() {
                shorten(value, &format!("{}/{name}", index + 1), &mut seen);
            }
            text.push_str(&event.to_string());
            text.push('\n');
        }
        text
    }

    /// Leaves what is not as it was in `line`, and names what is not there any more.
    fn difference(process: &mut Value, before: &Value, line: usize) {
        let now = process.as_object_mut().unwrap();
        let before = before.as_object().unwrap();
        let gone: Vec<Value> = before
            .keys()
            .filter(|name| !now.contains_key(*name))
            .map(|name| Value::String(name.clone()))
            .collect();
        now.retain(|name, value| before.get(name) != Some(value));
        now.insert("as".to_owned(), Value::String(format!("{line}/process")));
        if !gone.is_empty() {
            now.insert("gone".to_owned(), Value::Array(gone));
        }
    }

    fn shorten(value: &mut Value, place: &str, seen: &mut HashMap<String, String>) {
        let whole = value.to_string();
        if whole.len() > LONG {
            if let Some(first) = seen.get(&whole) {
                *value = Value::String(format!("as {first}"));
                return;
            }
            seen.insert(whole, place.to_owned());
        }
        match value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    shorten(field, &format!("{place}/{name}"), seen);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    shorten(item, &format!("{place}/{index}"), seen);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn there_is_a_stream_of_every_kernel_and_backend() {
        let matrix = fs::read_to_string(folder().join("../vm/kernels.toml")).unwrap();
        let matrix: toml::Table = matrix.parse().unwrap();
        let mut wanted = BTreeSet::from(["6.18-syscall-exit".to_owned()]);
        for kernel in matrix["kernel"].as_array().unwrap() {
            for backend in ["fentry", "kprobe", "syscall-exit"] {
                wanted.insert(format!("{}-{backend}", kernel["version"].as_str().unwrap()));
            }
        }
        let found: BTreeSet<String> = recordings().into_keys().collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn replays_tell_what_is_expected() {
        let mut wrong = Vec::new();
        for (name, bytes) in recordings() {
            let told = brief(&Replayed::of(&bytes).events());
            let path = folder().join(format!("{name}.jsonl"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&path, &told).unwrap();
                continue;
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            if told != expected {
                let (told, expected): (Vec<_>, Vec<_>) =
                    (told.lines().collect(), expected.lines().collect());
                let at = told
                    .iter()
                    .zip(&expected)
                    .take_while(|(a, b)| a == b)
                    .count();
                wrong.push(format!(
                    "{name}: {} events, expected {}; the first difference is in line {}:\n  told     {}\n  expected {}",
                    told.len(),
                    expected.len(),
                    at + 1,
                    told.get(at).unwrap_or(&"nothing"),
                    expected.get(at).unwrap_or(&"nothing")
                ));
            }
        }
        assert!(
            wrong.is_empty(),
            "replays differ; if that is meant, `cargo xtask golden --update` and look at the difference\n{}",
            wrong.join("\n")
        );
    }

    /// The first line of each kind of event, which these values tell apart. The sensor's version is not the view's doing.
    fn first_of_each(text: &str, kind: [&str; 3]) -> String {
        let version = format!("\"{}\"", env!("CARGO_PKG_VERSION"));
        let mut known = BTreeSet::new();
        let mut told = String::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let kind = kind.map(|place| event.pointer(place).map(ToString::to_string));
            assert!(kind[0].is_some(), "{line}");
            if known.insert(kind) {
                told.push_str(&line.replace(&version, "\"(version)\""));
                told.push('\n');
            }
        }
        told
    }

    #[test]
    fn views_are_what_is_expected() {
        let name = "7-fentry";
        let stream = &recordings()[name];
        for (format, kind) in [
            (
                "ecs",
                ["/event/action", "/event/outcome", "/network/transport"],
            ),
            ("ocsf", ["/type_uid", "/status_id", "/severity_id"]),
        ] {
            let text = Replayed::with(stream, format).text();
            let told = first_of_each(&text, kind);
            // A view that loses a kind of event is not shortened to what is left.
            assert!(told.lines().count() > 6, "{format}: {told}");
            let path = folder().join(format!("{name}.{format}.jsonl"));
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&path, &told).unwrap();
                continue;
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            for (index, (told, expected)) in told.lines().zip(expected.lines()).enumerate() {
                assert_eq!(
                    told,
                    expected,
                    "line {} of {}; if that is meant, `cargo xtask golden --update`",
                    index + 1,
                    path.display()
                );
            }
            assert_eq!(told.len(), expected.len(), "{}", path.display());
        }
    }

    #[test]
    fn accounts_close_from_the_kernel_to_the_sink() {
        for (name, bytes) in recordings() {
            let replayed = Replayed::of(&bytes);
            let summary = replayed.summary.as_ref().unwrap();
            assert!(summary.fault.is_none(), "{name}: {:?}", summary.fault);
            let ledger = &summary.ledger;
            assert_eq!(ledger.imbalances(Some(0)), [], "{name}");
            assert_eq!(ledger.lost_in_all(), 0, "{name}:\n{ledger}");
            let json = ledger.to_json(Some(0));
            for kind in RecordKind::ALL {
                let attempted = &json["rows"][kind.name()]["kernel"]["attempted"];
                assert!(
                    attempted.is_u64(),
                    "{name}: {} has no kernel side",
                    kind.name()
                );
            }
            let left_out = &json["rows"]["exec"]["daemon"]["filtered"]["self_test"];
            assert!(left_out.as_u64() > Some(0), "{name}: the self-test's child");
            let told = replayed.events().len();
            assert_eq!(json["sinks"]["output"]["acked"], told, "{name}");
        }
    }

    #[test]
    fn streams_have_what_the_scenario_did() {
        for (name, bytes) in recordings() {
            let events = Replayed::of(&bytes).events();
            let of = |kind: &str| -> Vec<&Value> {
                let found = events.iter().filter(|event| event["type"] == kind);
                found.collect()
            };
            let hows: BTreeSet<&str> = of("file_create")
                .iter()
                .filter_map(|event| event["file_create"]["how"].as_str())
                .collect();
            let all = ["link", "link_unnamed", "mkdir", "mknod", "open", "symlink"];
            let wanted: BTreeSet<&str> = if name.ends_with("syscall-exit") {
                BTreeSet::from(["open"])
            } else {
                BTreeSet::from(all)
            };
            assert_eq!(hows, wanted, "{name}");
            let script = of("exec").into_iter().find(|event| {
                let argv = &event["process"]["argv"];
                argv[0] == "/bin/sh" && argv[2] == "two words"
            });
            let script = script.unwrap_or_else(|| panic!("{name}: no script"));
            let chain = script["process"]["script_chain"][0]["path"].as_str();
            assert_eq!(chain, Some("/tmp/sensor-golden/files/script"), "{name}");
            let ends: BTreeSet<String> = of("exit")
                .iter()
                .map(|event| {
                    let exit = &event["exit"];
                    format!("{} {}", exit["code"], exit["signal"])
                })
                .collect();
            for end in ["3 null", "7 null", "null 15", "null 9"] {
                assert!(ends.contains(end), "{name}: no end {end} in {ends:?}");
            }
            let results: BTreeSet<&str> = of("connect")
                .iter()
                .filter_map(|event| event["connect"]["result"].as_str())
                .collect();
            for result in ["established", "refused"] {
                assert!(
                    results.contains(result),
                    "{name}: no {result} in {results:?}"
                );
            }
            assert!(of("fork").len() > 5, "{name}");
            let guest = !name.starts_with("6.18-");
            assert_eq!(of("module_load").is_empty(), !guest, "{name}");
            if let Some(event) = of("patch").first() {
                panic!("{name}: a replay has nothing late: {event:#}");
            }
        }
    }

    #[test]
    fn secrets_and_kernel_addresses_are_never_told() {
        for (name, bytes) in recordings() {
            let samples = samples(&bytes);
            let recorded = samples.iter().any(|sample| {
                let secret = SECRET.as_bytes();
                sample.windows(secret.len()).any(|window| window == secret)
            });
            assert!(recorded, "{name}: the scenario has no secret");
            let told = Replayed::of(&bytes).text();
            assert!(!told.contains(SECRET), "{name} tells the secret");
            let mut addresses = BTreeSet::new();
            for sample in &samples {
                addresses.extend(match RecordRef::parse(sample).unwrap() {
                    RecordRef::FileCreate(record) => Some(record.head.file_key),
                    RecordRef::FileClose(record) => Some(record.head.file_key),
                    RecordRef::Connect(record) => Some(record.head.socket_key),
                    RecordRef::Exec(_)
                    | RecordRef::Exit(_)
                    | RecordRef::Fork(_)
                    | RecordRef::Script(_)
                    | RecordRef::ModuleLoad(_) => None,
                });
            }
            addresses.remove(&0);
            assert!(!addresses.is_empty(), "{name}: no address to look for");
            for address in addresses {
                for form in [format!("{address}"), format!("{address:x}")] {
                    assert!(!told.contains(&form), "{name} tells address {form}");
                }
            }
        }
    }

    #[test]
    fn nothing_but_the_scenario_is_recorded() {
        for (name, bytes) in recordings() {
            for event in Replayed::of(&bytes).events() {
                let folder = event["process"]["working_directory"].as_str();
                assert!(matches!(folder, None | Some("/")), "{name}: {event:#}");
                let path = event["process"]["image"]["path"]
                    .as_str()
                    .unwrap_or_default();
                let known = path.is_empty()
                    || path.starts_with(FOLDER)
                    || path.starts_with("/bin/")
                    || path.starts_with("/usr/bin/");
                assert!(known, "{name}: {event:#}");
                let created = event["file_create"]["file"]["path"].as_str();
                assert!(
                    created.is_none_or(|path| path.starts_with(FOLDER)),
                    "{name}: {event:#}"
                );
            }
        }
    }

    #[test]
    fn a_stream_of_another_abi_is_refused_with_both_versions() {
        let (_, bytes) = recordings().pop_first().unwrap();
        let mut recording = Recording::read(Path::new("golden"), bytes.as_slice()).unwrap();
        let known = sensor_common::ABI_VERSION;
        let mut header = recording.header().clone();
        header.abi_version = known - 1;
        let mut sample = Vec::new();
        while recording.next_record(&mut sample).unwrap() {}
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old");
        let recorder = Recorder::create(&path, &header).unwrap();
        recorder.finish(recording.footer().unwrap()).unwrap();
        let replayed = Replayed::of(&fs::read(&path).unwrap());
        let error = replayed.summary.unwrap_err();
        assert_eq!(error.status(), ExitStatus::Usage);
        let text = error.to_string();
        for part in [
            format!("ABI version {}", known - 1),
            format!("reads version {known}"),
            "replay it with the sensor that recorded it".to_owned(),
        ] {
            assert!(text.contains(&part), "{text}");
        }
    }

    #[test]
    fn a_cut_stream_is_replayed_as_far_as_it_goes() {
        let (_, bytes) = recordings().pop_first().unwrap();
        let whole = Replayed::of(&bytes).events();
        let replayed = Replayed::of(&bytes[..bytes.len() / 2]);
        let fault = replayed.summary.as_ref().unwrap().fault.as_ref().unwrap();
        assert_eq!(fault.status(), ExitStatus::Usage);
        let events = replayed.events();
        assert!(!events.is_empty() && events.len() < whole.len());
    }
}
