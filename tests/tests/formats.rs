//! ECS and OCSF against their schemas: every type of event, with every field, with few and with none; and every field of the
//! native view is told in both.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use sensor::format::{Complete, ecs, ocsf};
    use sensor_proto::sample::Filler;
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
}
