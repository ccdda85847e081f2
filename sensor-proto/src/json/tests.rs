//! The JSON view against the descriptor: every message is filled by its descriptor, written, read back by serde_json, and
//! compared with what the documented rules say of each field.

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value as Field};
use serde_json::{Map, Value, json};

use super::*;
use crate::sample::{Filler, pool};
use crate::schema::{self, Kind};

const ROOTS: [&str; 10] = [
    "Event",
    "Process",
    "Agent",
    "Host",
    "TelemetryPacket",
    "PacketBody",
    "DeliverRequest",
    "DeliverResponse",
    "SyncRequest",
    "SyncResponse",
];

/// What the rules say of a message, computed from the descriptor and not by the generated code.
fn expected(message: &DynamicMessage) -> Value {
    let name = message.descriptor().name().to_owned();
    let described = schema::message(&name).unwrap();
    if name == "EventId" {
        return json!(expected_id(message));
    }
    let mut out = Map::new();
    if name == "Event" {
        let mut bodies = described
            .fields
            .iter()
            .filter(|field| field.oneof.is_some());
        let body = bodies.find(|field| message.has_field_by_name(field.name));
        out.insert(
            "type".to_owned(),
            json!(body.map_or("unspecified", |field| field.name)),
        );
    }
    for field in described.fields {
        let value = message.get_field_by_name(field.name).unwrap();
        let optional = field.presence
            || field.repeated
            || matches!(field.kind, Kind::Bool | Kind::Enum(_) | Kind::Message(_));
        if optional && !message.has_field_by_name(field.name) {
            continue;
        }
        if field.kind == Kind::Message("Absent") {
            out.insert("absent".to_owned(), expected_absent(&value, described));
            continue;
        }
        let parts: Vec<&Field> = value
            .as_list()
            .map_or_else(|| vec![&*value], |list| list.iter().collect());
        let wrap = |mut list: Vec<Value>| {
            if field.repeated {
                Value::Array(list)
            } else {
                list.remove(0)
            }
        };
        let values = parts
            .iter()
            .map(|part| expected_value(part, field.kind))
            .collect();
        out.insert(field.json_name.to_owned(), wrap(values));
        if field.kind == Kind::KernelText {
            let bytes = || parts.iter().map(|part| part.as_bytes().unwrap());
            if bytes().any(|bytes| std::str::from_utf8(bytes).is_err()) {
                let raw = bytes().map(|bytes| json!(hex(bytes))).collect();
                out.insert(format!("{}_raw", field.json_name), wrap(raw));
            }
        }
    }
    Value::Object(out)
}

fn expected_value(value: &Field, kind: Kind) -> Value {
    let bytes = || value.as_bytes().unwrap();
    match kind {
        Kind::Bool => json!(value.as_bool().unwrap()),
        Kind::Unsigned("u32") => json!(value.as_u32().unwrap()),
        Kind::Unsigned(_) => json!(value.as_u64().unwrap()),
        Kind::Mask(_) => json!(format!("{:016x}", value.as_u64().unwrap())),
        Kind::Signed("i32") => json!(value.as_i32().unwrap()),
        Kind::Signed(_) => json!(value.as_i64().unwrap()),
        Kind::Time => json!(rfc3339(value.as_i64().unwrap())),
        Kind::Text => json!(value.as_str().unwrap()),
        Kind::KernelText => {
            json!(std::str::from_utf8(bytes()).map_or_else(|_| lossy(bytes()), str::to_owned))
        }
        Kind::Hex => json!(hex(bytes())),
        Kind::Uuid => json!(uuid::Uuid::from_slice(bytes()).unwrap().to_string()),
        Kind::Ip => {
            let v4 = <[u8; 4]>::try_from(&bytes()[..]).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(&bytes()[..]).map(std::net::IpAddr::from);
            json!(
                v4.or(v6)
                    .map_or_else(|_| hex(bytes()), |address| address.to_string())
            )
        }
        Kind::Mac => {
            let pairs: Vec<_> = bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            json!(pairs.join(":"))
        }
        Kind::Enum(name) => {
            let number = value.as_enum_number().unwrap();
            let values = schema::enumeration(name).unwrap().values;
            match values.iter().find(|value| value.number == number) {
                Some(value) => json!(value.name),
                None => json!(number),
            }
        }
        Kind::Message(_) => expected(value.as_message().unwrap()),
    }
}

fn expected_absent(list: &Field, described: &schema::Message) -> Value {
    let mut out = Map::new();
    for absent in list.as_list().unwrap() {
        let absent = absent.as_message().unwrap();
        let number = absent.get_field_by_name("field").unwrap().as_u32().unwrap();
        let reason = absent.get_field_by_name("reason").unwrap();
        let field = described.fields.iter().find(|field| field.number == number);
        let name = field.map_or(number.to_string(), |field| field.json_name.to_owned());
        out.entry(name)
            .or_insert(expected_value(&reason, Kind::Enum("AbsentReason")));
    }
    Value::Object(out)
}

fn expected_id(id: &DynamicMessage) -> String {
    let counter = id.get_field_by_name("counter").unwrap().as_u64().unwrap();
    if !id.has_field_by_name("agent_id") || !id.has_field_by_name("epoch") {
        return counter.to_string();
    }
    let part = |name| {
        id.get_field_by_name(name)
            .unwrap()
            .as_bytes()
            .unwrap()
            .clone()
    };
    let agent = uuid::Uuid::from_slice(&part("agent_id")).unwrap();
    format!("{agent}/{}/{counter}", hex(&part("epoch")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text of bytes that are not UTF-8: each wrong byte as `\xHH`.
fn lossy(mut bytes: &[u8]) -> String {
    let mut out = String::new();
    while let Some(first) = bytes.first() {
        // The shortest prefix that is one character.
        let char = (1..=bytes.len().min(4)).find_map(|len| std::str::from_utf8(&bytes[..len]).ok());
        match char {
            Some(char) => out.push_str(char),
            None => out.push_str(&format!("\\x{first:02x}")),
        }
        bytes = &bytes[char.map_or(1, str::len)..];
    }
    out
}

/// Counts the years one by one, unlike the code under test.
fn rfc3339(time_ns: i64) -> String {
    const DAY: i64 = 86_400_000_000_000;
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = |year| if leap(year) { 366 } else { 365 };
    let (mut days, nanos) = (time_ns.div_euclid(DAY), time_ns.rem_euclid(DAY));
    let mut year = 1970;
    while days < 0 {
        year -= 1;
        days += length(year);
    }
    while days >= length(year) {
        days -= length(year);
        year += 1;
    }
    let mut month = 1;
    for length in [
        31,
        if leap(year) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let seconds = nanos / 1_000_000_000;
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        days + 1,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        nanos % 1_000_000_000
    )
}

/// Writes the typed form of a message and reads the text back.
fn written(name: &str, encoded: &[u8]) -> Value {
    let mut out = Vec::new();
    match name {
        "Event" => write_json(&v1::Event::decode(encoded).unwrap(), &mut out),
        "Process" => write_json(&v1::Process::decode(encoded).unwrap(), &mut out),
        "Agent" => write_json(&v1::Agent::decode(encoded).unwrap(), &mut out),
        "Host" => write_json(&v1::Host::decode(encoded).unwrap(), &mut out),
        "TelemetryPacket" => write_json(&v1::TelemetryPacket::decode(encoded).unwrap(), &mut out),
        "PacketBody" => write_json(&v1::PacketBody::decode(encoded).unwrap(), &mut out),
        "DeliverRequest" => write_json(&v1::DeliverRequest::decode(encoded).unwrap(), &mut out),
        "DeliverResponse" => write_json(&v1::DeliverResponse::decode(encoded).unwrap(), &mut out),
        "SyncRequest" => write_json(&v1::SyncRequest::decode(encoded).unwrap(), &mut out),
        "SyncResponse" => write_json(&v1::SyncResponse::decode(encoded).unwrap(), &mut out),
        other => panic!("{other} is no root of the schema"),
    }
    assert!(
        !out.iter().any(|byte| *byte < 0x20 || *byte == 0x7f),
        "raw control byte"
    );
    serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()))
}

fn check_roots(filler: &mut Filler) {
    for name in ROOTS {
        let descriptor = pool()
            .get_message_by_name(&format!("sensor.v1.{name}"))
            .unwrap();
        let message = filler.message(&descriptor);
        assert_eq!(
            written(name, &message.encode_to_vec()),
            expected(&message),
            "{name}"
        );
    }
}

/// Every message is below one of the roots that [`check_roots`] walks.
#[test]
fn roots_reach_every_message() {
    let mut reached = ROOTS.to_vec();
    let mut next = 0;
    while next < reached.len() {
        for field in schema::message(reached[next]).unwrap().fields {
            if let Kind::Message(name) = field.kind
                && !reached.contains(&name)
            {
                reached.push(name);
            }
        }
        next += 1;
    }
    for message in schema::MESSAGES {
        assert!(
            reached.contains(&message.name),
            "{} is walked by no test",
            message.name
        );
    }
}

/// With all fields set, and often enough that each row of each oneof comes up.
#[test]
fn full_messages_are_written_field_by_field() {
    for seed in 0..100 {
        check_roots(&mut Filler::new(seed, true));
    }
}

#[test]
fn empty_messages_are_written() {
    for name in ROOTS {
        let descriptor = pool()
            .get_message_by_name(&format!("sensor.v1.{name}"))
            .unwrap();
        let mut message = DynamicMessage::new(descriptor);
        // Identities that are always there have their length.
        for field in schema::message(name).unwrap().fields {
            if field.kind == Kind::Uuid && !field.presence {
                message.set_field_by_name(field.name, Field::Bytes(vec![0; 16].into()));
            }
        }
        assert_eq!(
            written(name, &message.encode_to_vec()),
            expected(&message),
            "{name}"
        );
    }
}

proptest! {
    #[test]
    fn any_message_is_written_field_by_field(seed: u64) {
        check_roots(&mut Filler::new(seed, false));
    }

    #[test]
    fn any_bytes_are_exact_or_stand_beside(path: Vec<u8>, argv: Vec<Vec<u8>>) {
        let process = v1::Process {
            unique_pid: vec![0; 16],
            image: Some(v1::FileInfo { path: Some(path.clone()), ..Default::default() }),
            argv: argv.clone(),
            ..Default::default()
        };
        let value = written("Process", &process.encode_to_vec());
        let image = &value["image"];
        match std::str::from_utf8(&path) {
            Ok(text) => prop_assert_eq!((image["path"].as_str(), image.get("path_raw")), (Some(text), None)),
            Err(_) => prop_assert_eq!(&image["path_raw"], &json!(hex(&path))),
        }
        let exact = argv.iter().all(|argument| std::str::from_utf8(argument).is_ok());
        prop_assert_eq!(value.get("argv_raw").is_none(), exact);
        for (index, argument) in argv.iter().enumerate() {
            if exact {
                prop_assert_eq!(value["argv"][index].as_str().unwrap().as_bytes(), &argument[..]);
            } else {
                prop_assert_eq!(value["argv_raw"][index].as_str().unwrap(), hex(argument));
            }
        }
    }

    #[test]
    fn text_harms_no_terminal(text: String) {
        let mut out = Vec::new();
        write_json(&v1::User { id: 0, name: Some(text.clone()), domain: None }, &mut out);
        let out = String::from_utf8(out).unwrap();
        prop_assert!(!out.chars().any(is_harmful));
        let value: Value = serde_json::from_str(&out).unwrap();
        prop_assert_eq!(value["name"].as_str().unwrap(), text);
    }

    #[test]
    fn instants_agree_with_a_calendar(time_ns: i64) {
        let mut out = Vec::new();
        push_rfc3339(&mut out, time_ns);
        prop_assert_eq!(String::from_utf8(out).unwrap(), rfc3339(time_ns));
    }
}

#[test]
fn instants() {
    for (time_ns, text) in [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
        (1_709_251_199_123_456_789, "2024-02-29T23:59:59.123456789Z"),
        (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
    ] {
        let mut out = Vec::new();
        push_rfc3339(&mut out, time_ns);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }
}

/// Escape sequences, direction overrides and line separators reach nobody's terminal; the value stays exact.
#[test]
fn harmful_text_is_escaped() {
    let mut out = Vec::new();
    let path = "/tmp/\u{1b}[2J\u{202e}gpj.exe\u{2028}\u{9b}\"\\ß"
        .as_bytes()
        .to_vec();
    let file = v1::FileInfo {
        path: Some(path),
        ..Default::default()
    };
    write_json(&file, &mut out);
    let text = r#"{"path":"/tmp/\u001b[2J\u202egpj.exe\u2028\u009b\"\\ß"}"#;
    assert_eq!(String::from_utf8(out).unwrap(), text);
}

fn process(pid: u32, path: &[u8], parent: Option<&v1::Process>) -> v1::Process {
    v1::Process {
        unique_pid: uuid::Uuid::from_u128(u128::from(pid)).into_bytes().to_vec(),
        pid,
        image: Some(v1::FileInfo {
            path: Some(path.to_vec()),
            hashes: Some(v1::Hashes {
                sha256: Some(vec![0xab; 32]),
                verdict: v1::HashVerdict::Verified.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        argv: vec![path.to_vec(), b"-x".to_vec()],
        parent: parent.map(v1::Process::reference),
        ..Default::default()
    }
}

#[test]
fn an_event_has_everything_in_place() {
    let (init, shell) = (
        process(1, b"/sbin/init", None),
        process(2, b"/bin/sh", None),
    );
    let login = process(20, b"/bin/log\xffin", Some(&shell));
    let child = process(300, b"/bin/true", Some(&login));
    let lineage = Lineage {
        process: &child,
        parent: Some(&login),
        ancestors: &[&shell, &init],
        ancestors_truncated: true,
    };
    let agent = v1::Agent {
        id: vec![0x11; 16],
        epoch: vec![0x22; 16],
        version: "1.2.3".to_owned(),
        schema_version: 1,
    };
    let host = v1::Host {
        name: "box".to_owned(),
        boot_id: vec![0x33; 16],
        ..Default::default()
    };
    let event = v1::Event {
        id: Some(v1::EventId {
            counter: 7,
            ..Default::default()
        }),
        process: Some(v1::ProcessRef {
            tid: Some(301),
            ..child.reference()
        }),
        body: Some(v1::event::Body::Exit(v1::Exit {
            code: Some(0),
            ..Default::default()
        })),
        ..Default::default()
    };
    let origin = Origin::new(&agent, &host);

    let mut out = Vec::new();
    write_event_json(&event, Actor::Row(lineage), &origin, &mut out);
    let mut rendered = Vec::new();
    render_process(lineage, &mut rendered);
    let mut again = Vec::new();
    write_event_json(&event, Actor::Rendered(&rendered), &origin, &mut again);
    assert_eq!(out, again, "a kept process is written like a fresh one");

    let value: Value = serde_json::from_slice(&out).unwrap();
    let id = format!("11111111-1111-1111-1111-111111111111/{}/7", "22".repeat(16));
    assert_eq!(value["id"], json!(id));
    assert_eq!(value["type"], json!("exit"));
    assert_eq!(value["exit"], json!({"code": 0}));
    assert_eq!(value["agent"]["version"], json!("1.2.3"));
    assert_eq!(value["host"]["name"], json!("box"));
    let actor = &value["process"];
    assert_eq!((&actor["pid"], &actor["tid"]), (&json!(300), &json!(301)));
    assert_eq!(actor["image"]["path"], json!("/bin/true"));
    assert_eq!(
        actor["parent"],
        json!({
            "unique_pid": "00000000-0000-0000-0000-000000000014",
            "exec_id": 0,
            "pid": 20,
            "start_boot_ns": 0,
            "start_time": "1970-01-01T00:00:00.000000000Z",
            "image": {
                "path": "/bin/log\\xffin",
                "path_raw": hex(b"/bin/log\xffin"),
                "hashes": {"sha256": "ab".repeat(32), "verdict": "verified"},
            },
            "argv": ["/bin/log\\xffin", "-x"],
            "argv_raw": [hex(b"/bin/log\xffin"), hex(b"-x")],
        })
    );
    let id = |pid: u32| uuid::Uuid::from_u128(u128::from(pid)).to_string();
    assert_eq!(
        actor["ancestors"],
        json!([
            {"unique_pid": id(2), "pid": 2, "name": "sh", "path": "/bin/sh"},
            {"unique_pid": id(1), "pid": 1, "name": "init", "path": "/sbin/init"},
        ])
    );
    assert_eq!(actor["ancestors_truncated"], json!(true));
}

#[test]
fn what_is_unknown_stays_a_reference() {
    let child = process(300, b"/bin/true", Some(&process(2, b"/bin/sh", None)));
    let origin = Origin::new(&v1::Agent::default(), &v1::Host::default());
    let event = v1::Event {
        process: Some(v1::ProcessRef {
            pid: 300,
            tid: Some(301),
            ..Default::default()
        }),
        ..Default::default()
    };
    let read = |event: &v1::Event, actor| {
        let mut out = Vec::new();
        write_event_json(event, actor, &origin, &mut out);
        serde_json::from_slice::<Value>(&out).unwrap()
    };
    let reference = json!({"exec_id": 0, "pid": 300, "tid": 301});
    assert_eq!(read(&event, Actor::Unknown)["process"], reference);

    let lineage = Lineage {
        process: &child,
        parent: None,
        ancestors: &[],
        ancestors_truncated: false,
    };
    let value = read(&event, Actor::Row(lineage));
    assert_eq!(value["process"]["parent"]["pid"], json!(2));
    assert_eq!(value["process"]["tid"], json!(301));

    // The row given belongs to the event's process, not to that of a sample inside.
    let aggregate = v1::Aggregate {
        sample: Some(Box::new(event)),
        ..Default::default()
    };
    let outer = v1::Event {
        body: Some(v1::event::Body::Aggregate(Box::new(aggregate))),
        ..Default::default()
    };
    let value = read(&outer, Actor::Row(lineage));
    assert_eq!(value["aggregate"]["sample"]["process"], reference);
}

#[test]
fn short_names_lead_back() {
    for value in schema::enumeration("HashVerdict").unwrap().values {
        let verdict = v1::HashVerdict::from_short_name(value.name).unwrap();
        assert_eq!(
            (i32::from(verdict), verdict.short_name()),
            (value.number, value.name)
        );
    }
    assert_eq!(v1::HashVerdict::from_short_name("Verified"), None);
}
