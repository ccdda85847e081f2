//! ECS and OCSF against their schemas: every type of event, with every field, with few and with none; and every field of the
//! native view is told in both.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sensor::format::mapping::{Place, Row, context_of, row};
    use sensor::format::{Complete, ecs, ocsf};
    use sensor_proto::json::{Actor, Lineage, Origin, write_event_json};
    use sensor_proto::sample::Filler;
    use sensor_proto::schema::{self, Kind};
    use sensor_proto::v1::event::Body;
    use sensor_proto::v1::{self, Agent, Event, Host, Process};
    use sensor_tests::views::{ecs_problems, ocsf_problems, read};
    use serde_json::{Value, json};

    /// A change to an event, and what the problem found must name.
    type Change = (&'static str, fn(&mut Value));

    /// Names of the messages that a body can be.
    const BODIES: [&str; 8] = [
        "Exec",
        "Exit",
        "Fork",
        "FileCreate",
        "Connect",
        "ModuleLoad",
        "Patch",
        "Aggregate",
    ];

    /// An event with everything that it refers to.
    #[derive(Debug, Clone, Default)]
    struct Owned {
        event: Event,
        process: Option<Process>,
        parent: Option<Process>,
        ancestors: Vec<Process>,
        host: Host,
        agent: Agent,
    }

    impl Owned {
        fn view(&self, write: fn(&Complete<'_>, &mut Vec<u8>)) -> Value {
            let ancestors: Vec<&Process> = self.ancestors.iter().collect();
            let mut line = Vec::new();
            write(
                &Complete {
                    event: &self.event,
                    process: self.process.as_ref(),
                    parent: self.parent.as_ref(),
                    ancestors: &ancestors,
                    ancestors_truncated: !ancestors.is_empty(),
                    host: &self.host,
                    agent: &self.agent,
                },
                &mut line,
            );
            read(&line).unwrap_or_else(|error| {
                panic!("{error}: {}", String::from_utf8_lossy(&line));
            })
        }
    }

    fn body(filler: &mut Filler, name: &str) -> Body {
        match name {
            "Exec" => Body::Exec(filler.typed(name)),
            "Exit" => Body::Exit(filler.typed(name)),
            "Fork" => Body::Fork(filler.typed(name)),
            "FileCreate" => Body::FileCreate(filler.typed(name)),
            "Connect" => Body::Connect(filler.typed(name)),
            "ModuleLoad" => Body::ModuleLoad(filler.typed(name)),
            "Patch" => Body::Patch(filler.typed(name)),
            "Aggregate" => Body::Aggregate(Box::new(filler.typed(name))),
            other => panic!("{other}"),
        }
    }

    /// An event of that type, filled from a seed.
    fn sample(seed: u64, full: bool, name: &str) -> Owned {
        let mut filler = Filler::new(seed, full);
        let mut event: Event = filler.typed("Event");
        event.body = Some(body(&mut filler, name));
        let mut row = |there: bool| (full || there).then(|| filler.typed::<Process>("Process"));
        let (process, parent) = (row(!seed.is_multiple_of(3)), row(seed % 5 > 1));
        let ancestors = [!seed.is_multiple_of(2), seed % 7 > 3];
        let ancestors = ancestors.into_iter().filter_map(row).collect();
        // A reference and the row that it leads to agree.
        if let (Some(reference), Some(process)) = (&mut event.process, &process) {
            let tid = reference.tid;
            *reference = process.reference();
            reference.tid = tid;
        }
        Owned {
            event,
            process,
            parent,
            ancestors,
            host: filler.typed("Host"),
            agent: filler.typed("Agent"),
        }
    }

    fn check(of: &str, event: &Owned) {
        for (view, problems) in [
            ("ecs", ecs_problems(&event.view(ecs::write))),
            ("ocsf", ocsf_problems(&event.view(ocsf::write))),
        ] {
            assert!(
                problems.is_empty(),
                "{of} as {view}: {problems:#?}\n{:#?}",
                event.event
            );
        }
    }

    #[test]
    fn full_events_are_legal() {
        for name in BODIES {
            for seed in 0..60 {
                check(&format!("{name} {seed}"), &sample(seed, true, name));
            }
        }
    }

    #[test]
    fn sparse_events_are_legal() {
        for name in BODIES {
            for seed in 0..200 {
                check(&format!("{name} {seed}"), &sample(seed, false, name));
            }
        }
    }

    #[test]
    fn empty_events_are_legal() {
        check("nothing", &Owned::default());
        for name in BODIES {
            let mut filler = Filler::new(0, true);
            let mut bare = Owned::default();
            bare.event.body = Some(match body(&mut filler, name) {
                Body::Exec(_) => Body::Exec(v1::Exec::default()),
                Body::Exit(_) => Body::Exit(v1::Exit::default()),
                Body::Fork(_) => Body::Fork(v1::Fork::default()),
                Body::FileCreate(_) => Body::FileCreate(v1::FileCreate::default()),
                Body::Connect(_) => Body::Connect(v1::Connect::default()),
                Body::ModuleLoad(_) => Body::ModuleLoad(v1::ModuleLoad::default()),
                Body::Patch(_) => Body::Patch(v1::Patch::default()),
                Body::Aggregate(_) => Body::Aggregate(Box::default()),
            });
            check(name, &bare);
            bare.event.process = Some(v1::ProcessRef::default());
            check(name, &bare);
            bare.process = Some(Process::default());
            check(name, &bare);
        }
    }

    /// An event of which every field is told, and one change to it that must be found.
    fn wrong(view: fn(&Complete<'_>, &mut Vec<u8>), change: impl Fn(&mut Value)) -> Value {
        let mut event = sample(7, true, "Connect").view(view);
        change(&mut event);
        event
    }

    #[test]
    fn wrong_events_are_found_in_ocsf() {
        let changes: [Change; 10] = [
            ("severity_id", |event| event["severity_id"] = json!(77)),
            ("product", |event| {
                event["metadata"].as_object_mut().unwrap().remove("product");
            }),
            ("time", |event| {
                event["time"] = json!("2026-01-31T23:59:59Z")
            }),
            ("surprise", |event| event["surprise"] = json!(1)),
            ("surprise", |event| event["device"]["surprise"] = json!(1)),
            ("type_uid", |event| event["type_uid"] = json!(400_106)),
            ("version", |event| {
                event["metadata"]["version"] = json!("1.7.0")
            }),
            ("no schema", |event| event["class_uid"] = json!(4002)),
            ("no schema", |event| {
                event["metadata"]["profiles"] = json!(["host", "cloud"]);
            }),
            // An attribute of a profile that the event does not list.
            ("euid", |event| {
                event["metadata"]["profiles"] = json!(["host"]);
                event["actor"]["process"]["euid"] = json!(0);
            }),
        ];
        for (told, change) in changes {
            let problems = ocsf_problems(&wrong(ocsf::write, change));
            assert!(
                problems.iter().any(|problem| problem.contains(told)),
                "{told}: {problems:?}"
            );
        }
    }

    #[test]
    fn wrong_events_are_found_in_ecs() {
        let changes: [Change; 10] = [
            ("process.nonsense", |event| {
                event["process"]["nonsense"] = json!(1)
            }),
            ("process.pid", |event| event["process"]["pid"] = json!("1")),
            ("event.kind", |event| {
                event["event"]["kind"] = json!("happening")
            }),
            ("event.category", |event| {
                event["event"]["category"] = json!(["happening"]);
            }),
            ("event.category", |event| {
                event["event"]["category"] = json!("network")
            }),
            ("creation", |event| {
                event["event"]["type"] = json!(["creation"])
            }),
            ("host.ip", |event| event["host"]["ip"] = json!(["here"])),
            ("@timestamp", |event| event["@timestamp"] = json!(1)),
            ("ecs.version", |event| {
                event["ecs"]["version"] = json!("8.0.0")
            }),
            ("process.name", |event| {
                event["process"]["name"] = json!(["a", "b"])
            }),
        ];
        for (told, change) in changes {
            let problems = ecs_problems(&wrong(ecs::write, change));
            assert!(
                problems.iter().any(|problem| problem.contains(told)),
                "{told}: {problems:?}"
            );
        }
    }

    #[test]
    fn a_key_twice_is_found() {
        let error = read(br#"{"a":{"b":1,"c":2,"b":3}}"#).unwrap_err();
        assert!(error.contains("twice"), "{error}");
        assert_eq!(
            read(br#"{"a":[1,{"b":-1}]}"#),
            Ok(json!({"a": [1, {"b": -1}]}))
        );
    }

    /// Compares what the native view tells with what another view tells of it.
    struct Comparison<'a> {
        view: &'a Value,
        rest: &'a Value,
        place: fn(&Row) -> Place,
        kind: &'a str,
        /// Contexts of which the table says nothing here.
        ignored: &'a str,
        inbound: bool,
        missing: Vec<String>,
    }

    impl Comparison<'_> {
        /// Where a place is, for the object at that native path.
        fn paths(&self, place: &str, at: &str) -> Vec<String> {
            let ecs = !self.view["ecs"].is_null();
            let process = if self.view["class_uid"] == 1007 && self.kind != "fork" {
                "process"
            } else {
                "actor.process"
            };
            let file = match (ecs, at.split('.').next().unwrap_or_default()) {
                (true, _) => "file".to_owned(),
                (false, "process") => format!("{process}.file"),
                (false, _) => match self.view["class_uid"].as_u64() {
                    Some(1002) => "driver.file".to_owned(),
                    Some(1007) => "process.file".to_owned(),
                    _ => "file".to_owned(),
                },
            };
            let source = at.ends_with("local") != self.inbound;
            let endpoint = match (ecs, source) {
                (true, true) => "source",
                (true, false) => "destination",
                (false, true) => "src_endpoint",
                (false, false) => "dst_endpoint",
            };
            let path = place
                .replace("{process}", process)
                .replace("{session}", "actor.session")
                .replace("{file}", &file)
                .replace("{endpoint}", endpoint)
                .replace("[]", "");
            let of_parent = path.replacen("process.", "process.parent.", 1);
            if self.kind == "fork" {
                vec![path, of_parent]
            } else {
                vec![path]
            }
        }

        fn message(&mut self, native: &Value, context: &str, message: &str, at: &str) {
            let described = schema::message(message).unwrap();
            for field in described.fields {
                let value = &native[field.json_name];
                if value.is_null() || field.name == "absent" {
                    continue;
                }
                let at = format!("{at}.{}", field.json_name);
                let at = at.trim_start_matches('.');
                let same = found(self.rest, at).contains(&value);
                let Some(row) = row(context, field.name) else {
                    let inner = context_of(context, field).filter(|inner| inner != self.ignored);
                    let part = match field.kind {
                        Kind::Message(name) if !field.repeated && value.is_object() => Some(name),
                        Kind::Message(_)
                        | Kind::Bool
                        | Kind::Unsigned(_)
                        | Kind::Mask(_)
                        | Kind::Signed(_)
                        | Kind::Time
                        | Kind::Text
                        | Kind::KernelText
                        | Kind::Hex
                        | Kind::Uuid
                        | Kind::Ip
                        | Kind::Mac
                        | Kind::Enum(_) => None,
                    };
                    if let (Some(name), false) = (part, same) {
                        let context = inner.unwrap_or_else(|| name.to_owned());
                        self.message(value, &context, name, at);
                    } else if !same {
                        self.missing.push(format!("{at}, which has no place"));
                    }
                    continue;
                };
                let raw = format!("{}_raw", field.json_name);
                if !native[&raw].is_null() {
                    let at = format!("{at}_raw");
                    let list_at = at.rsplit_once('.').map_or("", |(head, _)| head).to_owned();
                    let kept = found(self.rest, &at).contains(&&native[&raw])
                        || found(self.rest, &list_at)
                            .iter()
                            .any(|o| o[&raw] == native[&raw]);
                    if !kept && !same {
                        self.missing.push(at);
                    }
                }
                let place = (self.place)(row);
                let there = place.path().is_some_and(|path| {
                    self.paths(path, at.rsplit_once('.').map_or("", |(head, _)| head))
                        .iter()
                        .any(|path| !found(self.view, path).is_empty())
                });
                let enough = match place {
                    Place::Rest if matches!(field.kind, Kind::Message(_)) && !same => {
                        let Kind::Message(name) = field.kind else {
                            unreachable!()
                        };
                        self.message(value, name, name, at);
                        true
                    }
                    Place::Rest | Place::Both(_) => same,
                    Place::At(_) => there || same,
                };
                if !enough {
                    self.missing.push(format!("{at}: {place:?}"));
                }
            }
        }
    }

    /// Every value at a path; lists are looked into.
    fn found<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
        let mut at = vec![value];
        for key in path.split('.').filter(|key| !key.is_empty()) {
            at = at
                .into_iter()
                .flat_map(|value| {
                    value
                        .as_array()
                        .map_or_else(|| vec![value], |list| list.iter().collect())
                })
                .filter_map(|value| value.get(key))
                .collect();
        }
        at
    }

    fn missing(event: &Owned, view: &Value, place: fn(&Row) -> Place) -> Vec<String> {
        let ancestors: Vec<&Process> = event.ancestors.iter().collect();
        let actor = match &event.process {
            Some(process) => Actor::Row(Lineage {
                process,
                parent: event.parent.as_ref(),
                ancestors: &ancestors,
                ancestors_truncated: !ancestors.is_empty(),
            }),
            None => Actor::Unknown,
        };
        let mut line = Vec::new();
        let origin = Origin::new(&event.agent, &event.host);
        write_event_json(&event.event, actor, &origin, &mut line);
        let native = read(&line).unwrap();
        // An event of many is told as its sample.
        let sample = &native["aggregate"]["sample"]["type"];
        let kind = sample.as_str().or(native["type"].as_str()).unwrap();
        let forks = [&native["fork"], &native["aggregate"]["sample"]["fork"]];
        let kind = match kind {
            // Without a child, which no fork lacks, it tells of its maker only.
            "fork" if forks.iter().all(|fork| fork["child"].is_null()) => "exit",
            kind => kind,
        };
        let ecs = !view["ecs"].is_null();
        let rest = if ecs {
            &view["sensor"]
        } else {
            &view["unmapped"]
        };
        let ignored = if ecs && kind != "exec" {
            ""
        } else {
            "Process.image"
        };
        let mut comparison = Comparison {
            view,
            rest,
            place,
            kind,
            ignored,
            inbound: native["connect"]["direction"] == "inbound",
            missing: Vec::new(),
        };
        comparison.message(&native, "Event", "Event", "");
        if event.event.process.is_some() {
            let (context, message) = if event.process.is_some() {
                ("Process", "Process")
            } else {
                ("Event.process", "ProcessRef")
            };
            comparison.message(&native["process"], context, message, "process");
        }
        // What a patch tells of the container stands for what the row told.
        if !native["patch"]["process"]["container"].is_null() {
            comparison
                .missing
                .retain(|missing| !missing.starts_with("process.container"));
        }
        comparison.message(&native["agent"], "Agent", "Agent", "agent");
        comparison.message(&native["host"], "Host", "Host", "host");
        comparison.missing
    }

    #[test]
    fn every_field_is_told() {
        let mut all = BTreeMap::new();
        for name in BODIES {
            for seed in 0..30 {
                for full in [true, false] {
                    let event = sample(seed, full, name);
                    for (view, place) in [
                        (event.view(ecs::write), (|row| row.ecs) as fn(&Row) -> Place),
                        (event.view(ocsf::write), |row| row.ocsf),
                    ] {
                        for missing in missing(&event, &view, place) {
                            let which = if view["ecs"].is_null() { "ocsf" } else { "ecs" };
                            all.entry((which, missing)).or_insert((name, seed, full));
                        }
                    }
                }
            }
        }
        assert!(all.is_empty(), "{all:#?}");
    }

    #[test]
    fn a_field_that_is_not_told_is_found() {
        let event = sample(7, true, "Exec");
        for (key, place) in [
            ("sensor", (|row| row.ecs) as fn(&Row) -> Place),
            ("unmapped", |row| row.ocsf),
        ] {
            let mut view = event.view(if key == "sensor" {
                ecs::write
            } else {
                ocsf::write
            });
            view[key].as_object_mut().unwrap().remove("time_boot_ns");
            view["process"]
                .as_object_mut()
                .unwrap()
                .remove("working_directory");
            let missing = missing(&event, &view, place);
            assert_eq!(missing.len(), 2, "{missing:?}");
        }
    }

    /// What one event costs; printed by `cargo test -p sensor-tests --release --test formats -- --ignored --nocapture cost`.
    #[test]
    #[ignore = "a measurement, not a check"]
    fn cost() {
        for name in ["Exec", "Exit", "FileCreate", "Connect"] {
            let events: Vec<Owned> = (0..50).map(|seed| sample(seed, true, name)).collect();
            let origins: Vec<Origin> = events
                .iter()
                .map(|event| Origin::new(&event.agent, &event.host))
                .collect();
            for view in ["json", "ecs", "ocsf"] {
                let (mut bytes, mut count) = (0, 0);
                let began = std::time::Instant::now();
                let mut line = Vec::new();
                while began.elapsed().as_millis() < 500 {
                    for (event, origin) in events.iter().zip(&origins) {
                        line.clear();
                        let ancestors: Vec<&Process> = event.ancestors.iter().collect();
                        let complete = Complete {
                            event: &event.event,
                            process: event.process.as_ref(),
                            parent: event.parent.as_ref(),
                            ancestors: &ancestors,
                            ancestors_truncated: false,
                            host: &event.host,
                            agent: &event.agent,
                        };
                        match view {
                            "ecs" => ecs::write(&complete, &mut line),
                            "ocsf" => ocsf::write(&complete, &mut line),
                            _ => {
                                let lineage = event.process.as_ref().map(|process| Lineage {
                                    process,
                                    parent: event.parent.as_ref(),
                                    ancestors: &ancestors,
                                    ancestors_truncated: false,
                                });
                                let actor = lineage.map_or(Actor::Unknown, Actor::Row);
                                write_event_json(&event.event, actor, origin, &mut line);
                            }
                        }
                        bytes += line.len();
                        count += 1;
                    }
                }
                let nanoseconds = began.elapsed().as_nanos() / count;
                let bytes = u128::try_from(bytes).unwrap() / count;
                println!("{name:10} {view:5} {nanoseconds:6} ns {bytes:6} bytes");
            }
        }
    }
}
