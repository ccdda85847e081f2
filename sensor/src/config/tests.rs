use proptest::prelude::*;

use super::*;
use crate::config::Form;

struct Host(tempfile::TempDir);

impl Host {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(directory)
    }

    fn load(&self, overrides: Overrides) -> Result<Loaded, ConfigErrors> {
        load(&Sources {
            file: None,
            directory: self.0.path().to_owned(),
            settings: SettingsSource::None,
            overrides,
        })
    }

    /// The errors, without the directory.
    fn errors(&self) -> Vec<String> {
        let errors = self
            .load(Overrides::default())
            .expect_err("errors")
            .to_string();
        let directory = format!("{}/", self.0.path().display());
        errors
            .replace(&directory, "")
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

fn check(text: &str, errors: &[&str]) {
    let page = Size::kib(u32::try_from(rustix::param::page_size() / 1024).unwrap());
    let errors: Vec<String> = errors
        .iter()
        .map(|error| error.replace("(4KiB)", &format!("({page})")))
        .collect();
    assert_eq!(
        Host::new(&[("sensor.toml", text)]).errors(),
        errors,
        "{text}"
    );
}

#[test]
fn a_container_is_told_of_its_host_by_the_environment() {
    let files = Host::new(&[("sensor.toml", "[host]\nroot = \"/a\"\nname = \"b\"\n")]);
    let with = |root: &'static str, name: &'static str| {
        let variable = move |wanted: &str| match wanted {
            "HOST_ROOT" => Some(root.into()),
            "NODE_NAME" => Some(name.into()),
            _ => None,
        };
        files.load(Overrides::default().with_environment(variable))
    };
    let host = with("/host", "node-1").unwrap().config.host;
    assert_eq!(
        (host.root, host.name.as_deref()),
        (PathBuf::from("/host"), Some("node-1"))
    );
    let host = with("", "").unwrap().config.host;
    assert_eq!(
        (host.root, host.name.as_deref()),
        (PathBuf::from("/a"), Some("b"))
    );
    let text = with("host", "two words").unwrap_err().to_string();
    assert!(text.contains("HOST_ROOT: host.root"), "{text}");
    assert!(text.contains("NODE_NAME: host.name"), "{text}");
}

#[test]
fn secrets_may_be_credentials_of_the_service() {
    let sink = |key: &str| {
        format!(
            "[sink.a]\ntype = \"otlp\"\naddress = \"c:1\"\nprotocol = \"http\"\nca_file = \"/ca\"\nheaders_file = \"{key}\"\n"
        )
    };
    let headers = |typed: &str, directory: Option<&'static str>| {
        let files = Host::new(&[("sensor.toml", &sink(typed))]);
        let variable =
            move |wanted: &str| (wanted == "CREDENTIALS_DIRECTORY").then_some(directory?.into());
        let loaded = files.load(Overrides::default().with_environment(variable))?;
        Ok::<_, ConfigErrors>(loaded.file.sink["a"].headers_file.clone().unwrap())
    };
    assert_eq!(
        headers("credential:token", Some("/run/credentials/x.service")).unwrap(),
        PathBuf::from("/run/credentials/x.service/token")
    );
    assert_eq!(
        headers("credential:token", None).unwrap(),
        PathBuf::from("/run/credentials/sensor.service/token")
    );
    assert_eq!(
        headers("/etc/token", Some("/run/x")).unwrap(),
        PathBuf::from("/etc/token")
    );
    for wrong in [
        "credential:",
        "credential:..",
        "credential:a/b",
        "credential:a:b",
    ] {
        let text = headers(wrong, Some("/run/x")).unwrap_err().to_string();
        assert!(
            text.contains("sensor.toml:6:")
                && text.contains("headers_file")
                && text.contains(wrong),
            "{text}"
        );
    }
}

#[test]
fn a_file_that_anybody_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sensor.toml");
    std::fs::write(&path, "").unwrap();
    let load = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        load(&Sources {
            settings: SettingsSource::None,
            ..Sources::new(Some(path.clone()), Overrides::default())
        })
    };
    for mode in [0o600, 0o640, 0o644, 0o664] {
        load(mode).unwrap();
    }
    for mode in [0o666, 0o646, 0o602] {
        let text = load(mode).unwrap_err().to_string();
        assert_eq!(
            text,
            format!(
                "{}: anybody may write it (mode {mode:o}); take that away: chmod o-w",
                path.display()
            )
        );
    }
}

#[test]
fn keys_that_only_a_restart_takes_in_are_named() {
    let load = |text: &str| {
        Host::new(&[("sensor.toml", text)])
            .load(Overrides::default())
            .unwrap()
    };
    let old = load("[ring]\nfile = \"1MiB\"\n[hash]\nthreads = 3\n");
    let rule = "[[filter.rule]]\nid = \"a\"\naction = \"exclude\"\nevent = [\"connect\"]\n";
    let same = load(&format!(
        "[hash]\nthreads = 3\n[ring]\nfile = \"1024KiB\"\n{rule}"
    ));
    assert_eq!(same.differing_keys(&old), Vec::<String>::new());
    let other =
        load("[ring]\nfile = \"2MiB\"\n[output]\npath = \"/var/log/x\"\n[hash]\nthreads = 3\n");
    assert_eq!(other.differing_keys(&old), ["output.path", "ring.file"]);
}

#[test]
fn nothing_at_all_is_the_defaults() {
    let loaded = Host::new(&[]).load(Overrides::default()).unwrap();
    assert_eq!(loaded.file, ConfigFile::default());
    assert_eq!(loaded.config.ring.process_bytes, 4 << 20);
    assert_eq!(loaded.config.ring.control_bytes, 256 << 10);
    assert!(!loaded.config.events.contains(&EventType::Fork));
    assert_eq!(loaded.config.events.len(), 5);
    assert_eq!(loaded.config.reorder.window, Duration::from_millis(50));
}

#[test]
fn later_sources_win() {
    let host = Host::new(&[
        (
            "sensor.toml",
            "[ring]\nfile = \"64KiB\"\nnetwork = \"1MiB\"\n[events]\nenabled = [\"exec\"]\n",
        ),
        ("conf.d/10-a.toml", "[ring]\nfile = \"128KiB\"\n"),
        (
            "conf.d/20-b.toml",
            "[ring]\nfile = \"256KiB\"\n[events]\nenabled = [\"exit\", \"fork\"]\n",
        ),
        ("conf.d/ignored.txt", "nonsense"),
    ]);
    let loaded = host.load(Overrides::default()).unwrap();
    assert_eq!(loaded.config.ring.file_bytes, 256 << 10);
    assert_eq!(loaded.config.ring.network_bytes, 1 << 20);
    let events: Vec<EventType> = loaded.config.events.into_iter().collect();
    assert_eq!(events, [EventType::Exit, EventType::Fork]);
    let flags = Overrides {
        events: Some(vec![EventName(EventType::Connect)]),
        backend: Some(BackendChoice::Kprobe),
        ..Overrides::default()
    };
    let loaded = host.load(flags).unwrap();
    assert_eq!(
        loaded.config.events.into_iter().collect::<Vec<_>>(),
        [EventType::Connect]
    );
    assert_eq!(loaded.config.backend, BackendChoice::Kprobe);
}

#[test]
fn rules_follow_one_another_and_know_their_place() {
    let host = Host::new(&[
        ("rules.toml", "[[rule]]\nid = \"d\"\naction = \"include\"\n"),
        (
            "sensor.toml",
            "[[filter.rule]]\nid = \"a\"\naction = \"exclude\"\n",
        ),
        (
            "conf.d/1.toml",
            "[[filter.rule]]\nid = \"b\"\naction = \"include\"\n\n[[filter.rule]]\nid = \"c\"\naction = \"exclude\"\n",
        ),
    ]);
    let path = host.0.path().join("rules.toml");
    std::fs::write(
        host.0.path().join("conf.d/2.toml"),
        format!("[filter]\nrules_file = {path:?}\n"),
    )
    .unwrap();
    let loaded = host.load(Overrides::default()).unwrap();
    let ids: Vec<&str> = loaded
        .config
        .rules
        .iter()
        .map(|rule| rule.id.as_str())
        .collect();
    assert_eq!(ids, ["a", "b", "c", "d"]);
    let place = |key: &str| {
        loaded
            .locate(key)
            .to_string()
            .replace(&format!("{}/", host.0.path().display()), "")
    };
    assert_eq!(place("filter.rule[0].id"), "sensor.toml:2:1");
    assert_eq!(place("filter.rule[2].id"), "conf.d/1.toml:6:1");
    assert_eq!(place("filter.rule[2].image_path[0]"), "conf.d/1.toml:5:1");
    assert_eq!(place("filter.rule[3].action"), "rules.toml:3:1");
}

#[test]
fn all_errors_are_told_with_place_and_key() {
    check(
        r#"[ring]
flie = "1MiB"
process = "3MiB"
network = 5
[hash]
threads = 0
timeout = "10"
window = "5s"
[reoder]
window = "1s"
[events]
enabled = ["exec", "exce", "fork", "nonsense"]
[[filter.rule]]
id = "x"
action = "drop"
[[filter.rule]]
action = "include"
user = [0]
"#,
        &[
            "sensor.toml:2:1: ring.flie: unknown key, did you mean `ring.file`?",
            "sensor.toml:3:1: ring.process: 3MiB is not a power of two of at least one page (4KiB)",
            "sensor.toml:4:11: ring.network: invalid type: integer `5`, expected a string",
            "sensor.toml:6:1: hash.threads: 0 is out of range: 1 to 64",
            "sensor.toml:7:11: hash.timeout: `10` needs a unit: us, ms, s, m, h or d, as in \"5s\"",
            "sensor.toml:8:1: hash.window: unknown key, did you mean `reorder.window`?",
            "sensor.toml:9:2: reoder: unknown key, did you mean `reorder`?",
            "sensor.toml:12:20: events.enabled[1]: `exce` is no event type: exec, exit, fork, file_create, connect, module_load",
            "sensor.toml:12:36: events.enabled[3]: `nonsense` is no event type: exec, exit, fork, file_create, connect, module_load",
            "sensor.toml:15:10: filter.rule[0].action: unknown variant `drop`, expected one of `include`, `exclude`, `aggregate`",
            "sensor.toml:16:1: filter.rule[1]: missing field `id`",
            "sensor.toml:18:9: filter.rule[1].user[0]: invalid type: integer `0`, expected a string",
        ],
    );
}

#[test]
fn values_out_of_bounds() {
    check(
        "[output]\npath = \"events.json\"\nkeep = 0\n[events]\nenabled = []\n[environment]\nallow = [\"PATH\", \"A=B\"]\n",
        &[
            "sensor.toml:2:1: output.path: events.json is not an absolute path",
            "sensor.toml:3:1: output.keep: 0 is out of range: 1 to 10000",
            "sensor.toml:5:1: events.enabled: must not be empty",
            "sensor.toml:7:18: environment.allow[1]: `A=B` is not a name of a variable",
        ],
    );
}

#[test]
fn broken_text() {
    check(
        "[ring\nfile = \"1MiB\"\nfile = 2\n= 3\n",
        &[
            "sensor.toml:1:6: unclosed table, expected `]`",
            "sensor.toml:4:1: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`",
        ],
    );
}

#[test]
fn a_named_file_must_exist() {
    let sources = Sources::new(
        Some(PathBuf::from("/nonexistent/x.toml")),
        Overrides::default(),
    );
    let error = load(&sources).expect_err("must exist").to_string();
    assert!(
        error.starts_with("/nonexistent/x.toml: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn what_is_shown_reads_back_the_same() {
    let text = "[output]\npath = \"/var/log/x\"\n[hash]\nhold = \"1s\"\n[[filter.rule]]\nid = \"a\"\naction = \"exclude\"\nuser = [\"0-999\"]\n";
    let first = Host::new(&[("sensor.toml", text)])
        .load(Overrides::default())
        .unwrap();
    let shown = first.to_toml().unwrap();
    let second = Host::new(&[("sensor.toml", &shown)])
        .load(Overrides::default())
        .unwrap();
    assert_eq!(first.file, second.file);
    assert_eq!(second.to_toml().unwrap(), shown);
}

/// Secrets are given by path; were there a key for a secret itself, `config show` would print it.
#[test]
fn no_key_holds_a_secret() {
    fn keys(node: &serde_json::Value, out: &mut Vec<String>) {
        if let Some(properties) = node.get("properties").and_then(|node| node.as_object()) {
            out.extend(properties.keys().cloned());
        }
        if let Some(object) = node.as_object() {
            object.values().for_each(|node| keys(node, out));
        }
    }
    let schema = schemars::schema_for!(ConfigFile).to_value();
    let mut all = Vec::new();
    keys(&schema, &mut all);
    assert!(all.len() > 60, "{all:?}");
    for key in all {
        let secret = ["password", "secret", "token", "private_key", "passphrase"];
        assert!(
            key.ends_with("_file") || !secret.iter().any(|word| key.contains(word)),
            "{key}"
        );
    }
}

#[test]
fn the_documented_example_is_sound() {
    let loaded = Host::new(&[("sensor.toml", document::EXAMPLE)])
        .load(Overrides::default())
        .unwrap();
    assert_eq!(loaded.config.rules.len(), 3);
    assert_eq!(loaded.config.output.keep, 3);
}

#[test]
fn docs_config_md_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, docs_markdown(), "run `cargo xtask docs`");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]a-z.=\"{}0-9,\n ]{0,80}") {
        drop(Host::new(&[("sensor.toml", &text)]).load(Overrides::default()));
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused_at_its_place(
        table in prop::sample::select(vec!["ring", "hash", "events", "filter", "output", "scope"]),
        key in prop::sample::select(vec!["file", "threads", "enabled", "rule", "path", "nonsense"]),
        value in prop::sample::select(vec!["1", "\"1MiB\"", "[]", "[[1]]", "{a=1}", "true", "-1", "1.5", "\"\"", "[{}]"]),
    ) {
        let host = Host::new(&[("sensor.toml", &format!("[{table}]\n{key} = {value}\n"))]);
        if let Err(errors) = host.load(Overrides::default()) {
            for error in errors.0 {
                prop_assert!(matches!(error.place, Place::File(_, Some(Position { line: 1 | 2, .. }))), "{}", error);
            }
        }
    }
}

const NODE: &str = "[sink.node]\ntype = \"central_node\"\naddress = \"node.example:8443\"\n";

#[test]
fn a_sink_is_read_with_its_defaults() {
    let pins = format!("pins = [\"{}\"]\n", "0a".repeat(32));
    let text = format!(
        "{NODE}{pins}certificate_file = \"/a.pem\"\nkey_file = \"/a.key\"\nproxy = \"proxy:3128\"\nproxy_credentials_file = \"/p\"\n"
    );
    let loaded = Host::new(&[
        ("sensor.toml", text.as_str()),
        ("conf.d/more.toml", "[sink.node]\nwindow = \"1MiB\"\n"),
    ]);
    // A table that is completed by another file is not sound by itself: serde wants what is required in each.
    let errors = loaded.errors();
    assert!(
        errors.iter().any(|error| error.contains("missing field")),
        "{errors:?}"
    );
    let loaded = Host::new(&[("sensor.toml", text.as_str())])
        .load(Overrides::default())
        .unwrap();
    let sink = &loaded.config.sinks["node"];
    assert_eq!(sink.window_bytes, 8 << 20);
    let ReceiverConfig::CentralNode(node) = &sink.receiver else {
        panic!("{sink:?}");
    };
    assert_eq!(node.address.to_string(), "node.example:8443");
    assert_eq!(node.tls.server_name, "node.example");
    assert_eq!(node.tls.pins, [[10; 32]]);
    assert_eq!(node.tls.identity, Some(("/a.pem".into(), "/a.key".into())));
    let shown = loaded.to_toml().unwrap();
    assert!(shown.contains("[sink.node]") && shown.contains("proxy_credentials_file = \"/p\""));
}

#[test]
fn a_sink_of_jetstream_is_read() {
    let read = |text: &str| {
        let text = format!("[sink.bus]\ntype = \"jetstream\"\nstream = \"SENSOR\"\n{text}");
        let host = Host::new(&[("sensor.toml", text.as_str())]);
        let mut loaded = host.load(Overrides::default()).unwrap();
        let sink = loaded.config.sinks.remove("bus").unwrap();
        let ReceiverConfig::JetStream(config) = sink.receiver else {
            panic!("another kind");
        };
        config
    };
    let plain = read("address = \"127.0.0.1:4222\"\ntls = false\n");
    let address = &plain.remote.addresses[0];
    assert_eq!(plain.remote.tls(address), None);
    assert_eq!(
        (plain.format, plain.create_stream),
        (SinkFormat::Native, false)
    );
    assert_eq!(plain.subject.pattern(), "sensor.*.*");
    let full = read(
        "addresses = [\"one:4222\", \"two:4222\"]\nca_file = \"/ca\"\nformat = \"ecs\"\nsubject = \"logs.{type}\"\nauthentication = \"nkey\"\ncredentials_file = \"/seed\"\n",
    );
    assert_eq!(
        full.credentials,
        Some((Authentication::Nkey, "/seed".into()))
    );
    let names = full.remote.addresses.iter();
    let names: Vec<_> = names
        .map(|address| full.remote.tls(address).unwrap().server_name)
        .collect();
    assert_eq!(names, ["one", "two"]);
    let named =
        read("addresses = [\"one:1\", \"two:1\"]\nca_file = \"/ca\"\nserver_name = \"bus\"\n");
    let second = &named.remote.addresses[1];
    assert_eq!(named.remote.tls(second).unwrap().server_name, "bus");
}

#[test]
fn what_is_wrong_with_a_sink_of_jetstream_is_told_at_its_key() {
    check(
        "[sink.bus]\ntype = \"jetstream\"\naddress = \"a:1\"\naddresses = [\"b:1\", \"c\"]\ntls = false\nca_file = \"/ca\"\nsubject = \"{type}\"\nstream = \"a.b\"\nauthentication = \"token\"\nproxy = \"p:1\"\n",
        &[
            "sensor.toml:4:1: sink.bus.addresses: makes no sense with `address`",
            "sensor.toml:6:1: sink.bus.ca_file: makes no sense with `tls = false`",
            "sensor.toml:7:1: sink.bus.subject: `{type}` is no subject: words with dots between, and {agent}, {stream} or, with a message per event, {type} in them",
            "sensor.toml:8:1: sink.bus.stream: `a.b` is no name of a stream",
            "sensor.toml:9:1: sink.bus.authentication: `credentials_file` is missing",
            "sensor.toml:10:1: sink.bus.proxy: a sink of type `jetstream` has no such key",
        ],
    );
    check(
        "[sink.bus]\ntype = \"jetstream\"\naddresses = [\"b:1\", \"c\"]\n",
        &[
            "sensor.toml:1:7: sink.bus: `stream` is missing",
            "sensor.toml:1:7: sink.bus.ca_file: what says whom to trust, `ca_file` or `pins`, is missing",
            "sensor.toml:3:21: sink.bus.addresses[1]: `c` is not host:port",
        ],
    );
}

#[test]
fn a_sink_of_kafka_is_read() {
    let read = |text: &str| {
        let text = format!("[sink.k]\ntype = \"kafka\"\ntopic = \"a.b_c-D\"\n{text}");
        let host = Host::new(&[("sensor.toml", text.as_str())]);
        let mut loaded = host.load(Overrides::default()).unwrap();
        let sink = loaded.config.sinks.remove("k").unwrap();
        let ReceiverConfig::Kafka(config) = sink.receiver else {
            panic!("another kind");
        };
        config
    };
    let packets = read("address = \"k:9092\"\ntls = false\n");
    assert_eq!(packets.topic, "a.b_c-D");
    assert_eq!(packets.remote.tls(&packets.remote.addresses[0]), None);
    assert_eq!(packets.format, SinkFormat::Native);
    assert_eq!(packets.compression, KafkaCompression::None);
    assert_eq!(packets.sasl, None);
    let events = read(
        "addresses = [\"k:9093\", \"[::1]:9093\"]\nca_file = \"/c\"\nformat = \"ocsf\"\nsasl = \"scram_sha_256\"\ncredentials_file = \"/p\"\n",
    );
    assert_eq!(events.remote.address(), "k:9093,[::1]:9093");
    assert_eq!(events.compression, KafkaCompression::Zstd);
    assert_eq!(events.sasl, Some((SaslMechanism::ScramSha256, "/p".into())));
    // Each broker has a name of its own.
    let name = |index: usize| {
        events
            .remote
            .tls(&events.remote.addresses[index])
            .unwrap()
            .server_name
    };
    assert_eq!((name(0).as_str(), name(1).as_str()), ("k", "::1"));
    let plain = read(
        "address = \"k:1\"\npins = []\nca_file = \"/c\"\nformat = \"json\"\ncompression = \"none\"\n",
    );
    assert_eq!(plain.compression, KafkaCompression::None);
}

#[test]
fn a_sink_of_otlp_is_read() {
    let read = |text: &str| {
        let text = format!("[sink.otel]\ntype = \"otlp\"\naddress = \"otel:4317\"\n{text}");
        let host = Host::new(&[("sensor.toml", text.as_str())]);
        let mut loaded = host.load(Overrides::default()).unwrap();
        let sink = loaded.config.sinks.remove("otel").unwrap();
        let ReceiverConfig::Otlp(config) = sink.receiver else {
            panic!("{:?}", sink.receiver)
        };
        config
    };
    let plain = read("protocol = \"http\"\ntls = false\n");
    assert_eq!((plain.tls, plain.path.as_str()), (None, "/v1/logs"));
    assert_eq!(
        (plain.form, plain.gzip, plain.requests),
        (Form::Json, true, 4)
    );
    let full = read(
        "protocol = \"grpc\"\nca_file = \"/ca\"\nheaders_file = \"/headers\"\nformat = \"ocsf\"\ngzip = false\nrequests = 8\nproxy = \"p:1\"\n",
    );
    assert_eq!(full.tls.unwrap().server_name, "otel");
    assert_eq!(
        (full.form, full.gzip, full.requests),
        (Form::Ocsf, false, 8)
    );
    assert_eq!(full.headers_file, Some("/headers".into()));
    assert!(full.proxy.is_some());
}

#[test]
fn what_is_wrong_with_a_sink_of_otlp_is_told_at_its_key() {
    check(
        "[sink.otel]\ntype = \"otlp\"\naddress = \"a:1\"\nprotocol = \"grpc\"\npins = [\"\"]\npath = \"/x\"\nformat = \"native\"\nrequests = 0\nheaders_file = \"h\"\nsubject = \"x\"\n",
        &[
            "sensor.toml:5:9: sink.otel.pins[0]: `` is not 64 hexadecimal digits",
            "sensor.toml:6:1: sink.otel.path: makes no sense with `protocol = \"grpc\"`",
            "sensor.toml:7:1: sink.otel.format: makes no sense with `type = \"otlp\"`",
            "sensor.toml:8:1: sink.otel.requests: 0 is out of range: 1 to 64",
            "sensor.toml:9:1: sink.otel.headers_file: h is not an absolute path",
            "sensor.toml:10:1: sink.otel.subject: a sink of type `otlp` has no such key",
        ],
    );
    check(
        "[sink.otel]\ntype = \"otlp\"\naddress = \"a:1\"\ntls = false\n",
        &["sensor.toml:1:7: sink.otel: `protocol` is missing"],
    );
    check(
        "[sink.otel]\ntype = \"otlp\"\naddress = \"a:1\"\nprotocol = \"http\"\npath = \"v1 logs\"\ntls = false\n",
        &[
            "sensor.toml:5:1: sink.otel.path: `v1 logs` is no path: it begins with / and has plain characters only",
        ],
    );
}

#[test]
fn what_is_wrong_with_a_sink_is_told_at_its_key() {
    check(
        &format!(
            "{NODE}certificat_file = \"/x\"\ncertificate_file = \"x\"\nwindow = \"1KiB\"\npins = [\"12\"]\nproxy_credentials_file = \"/p\"\nserver_name = \"a b\"\n"
        ),
        &[
            "sensor.toml:4:1: sink.node.certificat_file: unknown key, did you mean `sink.node.certificate_file`?",
            "sensor.toml:5:1: sink.node.certificate_file: x is not an absolute path",
            "sensor.toml:5:1: sink.node.certificate_file: `key_file` is missing",
            "sensor.toml:6:1: sink.node.window: 1KiB is out of range: 64KiB to 256MiB",
            "sensor.toml:7:9: sink.node.pins[0]: `12` is not 64 hexadecimal digits",
            "sensor.toml:8:1: sink.node.proxy_credentials_file: `proxy` is missing",
            "sensor.toml:9:1: sink.node.server_name: `a b` is neither a host name nor an address",
        ],
    );
    check(
        "[sink.Node]\ntype = \"central_node\"\naddress = \"node\"\n",
        &[
            "sensor.toml:1:7: sink.Node: a sink's name is small letters, digits, `-` and `_`, at most 32",
            "sensor.toml:1:7: sink.Node.ca_file: what says whom to trust, `ca_file` or `pins`, is missing",
            "sensor.toml:1:7: sink.Node: `certificate_file` is missing",
            "sensor.toml:3:1: sink.Node.address: `node` is not host:port",
        ],
    );
    check(
        "[sink.node]\ntype = \"central_node\"\ncertificate_file = \"/a\"\nkey_file = \"/b\"\nca_file = \"/c\"\ntls = false\nformat = \"ecs\"\n",
        &[
            "sensor.toml:1:7: sink.node: `address` is missing",
            "sensor.toml:6:1: sink.node.tls: a sink of type `central_node` has no such key",
            "sensor.toml:7:1: sink.node.format: a sink of type `central_node` has no such key",
        ],
    );
    check(
        "[sink.k]\ntype = \"kafka\"\naddress = \"k:9092\"\ntls = false\ntopic = \"a b\"\nsasl = \"plain\"\ncompression = \"zstd\"\nproxy = \"p:1\"\n",
        &[
            "sensor.toml:5:1: sink.k.topic: `a b` is no name of a topic",
            "sensor.toml:6:1: sink.k.sasl: `credentials_file` is missing",
            "sensor.toml:6:1: sink.k.sasl: makes no sense with `tls = false`",
            "sensor.toml:7:1: sink.k.compression: makes no sense with `format = \"native\"`",
            "sensor.toml:8:1: sink.k.proxy: a sink of type `kafka` has no such key",
        ],
    );
    check(
        "[sink.k]\ntype = \"kafka\"\naddresses = [\"k:9092\"]\npins = []\nca_file = \"/c\"\ncredentials_file = \"/p\"\n",
        &[
            "sensor.toml:1:7: sink.k: `topic` is missing",
            "sensor.toml:6:1: sink.k.credentials_file: `sasl` is missing",
        ],
    );
    check(
        "[sink.node]\ntype = \"pigeon\"\naddress = \"node:1\"\n",
        &[
            "sensor.toml:2:8: sink.node.type: unknown variant `pigeon`, expected one of `central_node`, `jetstream`, `kafka`, `otlp`, `file`, `stdout`",
        ],
    );
}

#[test]
fn settings_of_the_central_node_are_rules_behind_the_others() {
    let rule = |id: &str| format!("[[filter.rule]]\nid = \"{id}\"\naction = \"exclude\"\n");
    let state = tempfile::tempdir().unwrap();
    let main = format!(
        "[state]\ndirectory = \"{}\"\n{}",
        state.path().display(),
        rule("local")
    );
    let host = Host::new(&[
        ("sensor.toml", main.as_str()),
        ("conf.d/more.toml", &rule("more")),
    ]);
    let load = |settings| {
        load(&Sources {
            file: None,
            directory: host.0.path().to_owned(),
            settings,
            overrides: Overrides::default(),
        })
    };
    let ids = |settings| -> Vec<String> {
        let rules = load(settings).unwrap().config.rules;
        rules.into_iter().map(|rule| rule.id).collect()
    };
    let candidate = |document: String| {
        SettingsSource::Candidate(FilterSettings {
            version: 7,
            document,
        })
    };
    assert_eq!(ids(SettingsSource::Stored), ["local", "more"]);
    std::fs::write(state.path().join(SETTINGS_FILE), rule("stored")).unwrap();
    assert_eq!(ids(SettingsSource::Stored), ["local", "more", "stored"]);
    assert_eq!(ids(candidate(rule("new"))), ["local", "more", "new"]);
    assert_eq!(ids(SettingsSource::None), ["local", "more"]);
    // Rules and nothing else, as a whole or not at all.
    for (document, told) in [
        (
            "[output]\nkeep = 1\n".to_owned(),
            "filter settings 7 of the central node:1:2: output: unknown key",
        ),
        (
            "[filter]\nrules_file = \"/etc/shadow\"\n".to_owned(),
            "filter.rules_file: unknown key",
        ),
        (
            rule("a") + "[[filter.rule]]\nid = 3\n",
            "central node:5:6: filter.rule[1].id: invalid type",
        ),
        ("x".repeat(1 << 21), "longer than"),
    ] {
        let error = load(candidate(document)).expect_err(told).to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn sinks_of_this_host_are_read() {
    let read = |text: &str| {
        let host = Host::new(&[("sensor.toml", text)]);
        host.load(Overrides::default()).unwrap().config.sinks
    };
    let sinks = read(
        "[output]\npath = \"/o\"\n[sink.a]\ntype = \"file\"\npath = \"/a\"\n[sink.b]\ntype = \"file\"\npath = \"/b\"\nformat = \"native\"\n\
         rotate_size = \"0B\"\nrotate_age = \"0s\"\nkeep = 3\n[sink.c]\ntype = \"stdout\"\nformat = \"ocsf\"\n",
    );
    let plain = FileSinkConfig {
        path: "/a".into(),
        format: SinkFormat::Json,
        rotate_bytes: Some(256 << 20),
        rotate_age: Some(Duration::from_secs(86_400)),
        keep: 7,
    };
    assert_eq!(sinks["a"].receiver, ReceiverConfig::File(plain));
    let endless = FileSinkConfig {
        path: "/b".into(),
        format: SinkFormat::Native,
        rotate_bytes: None,
        rotate_age: None,
        keep: 3,
    };
    assert_eq!(sinks["b"].receiver, ReceiverConfig::File(endless));
    assert_eq!(
        sinks["c"].receiver,
        ReceiverConfig::Stdout(SinkFormat::Ocsf)
    );
    assert_eq!(sinks["c"].receiver.address(), "standard output");
}

#[test]
fn what_is_wrong_with_sinks_of_this_host_is_told_at_its_key() {
    let host = Host::new(&[(
        "sensor.toml",
        "[output]\npath = \"/o\"\n[sink.a]\ntype = \"file\"\npath = \"/o\"\nkeep = 0\n[sink.b]\ntype = \"file\"\npath = \"b\"\ntopic = \"x\"\n\
         [sink.c]\ntype = \"stdout\"\npath = \"/c\"\n[sink.d]\ntype = \"stdout\"\n[sink.e]\ntype = \"file\"\n",
    )]);
    let errors = host.errors().join("\n");
    for told in [
        "sensor.toml:6:1: sink.a.keep: 0 is out of range: 1 to 10000",
        "sensor.toml:5:1: sink.a.path: makes no sense with another sink or `output.path`",
        "sensor.toml:9:1: sink.b.path: b is not an absolute path",
        "sensor.toml:10:1: sink.b.topic: a sink of type `file` has no such key",
        "sensor.toml:13:1: sink.c.path: a sink of type `stdout` has no such key",
        "sensor.toml:15:1: sink.d.type: makes no sense with another sink of type `stdout`",
        "sensor.toml:16:7: sink.e: `path` is missing",
    ] {
        assert!(errors.contains(told), "{told} is not in\n{errors}");
    }
}
