use proptest::prelude::*;
use sensor_proto::v1::*;

use super::*;

fn hashes(verdict: HashVerdict) -> Option<Hashes> {
    let sha256 = (verdict != HashVerdict::Gone).then(|| (0x10..0x30).collect());
    Some(Hashes {
        sha256,
        verdict: verdict.into(),
        ..Hashes::default()
    })
}

fn process(path: &[u8], argv: &[&[u8]], verdict: HashVerdict) -> Process {
    Process {
        image: Some(FileInfo {
            path: Some(path.to_vec()),
            hashes: hashes(verdict),
            ..FileInfo::default()
        }),
        argv: argv.iter().map(|argument| argument.to_vec()).collect(),
        credentials: Some(Credentials {
            real_user: Some(User {
                id: 1000,
                name: Some("alice".to_owned()),
                domain: None,
            }),
            effective_user: Some(User {
                id: 1000,
                name: Some("alice".to_owned()),
                domain: None,
            }),
            ..Credentials::default()
        }),
        ..Process::default()
    }
}

fn event(body: Body) -> Event {
    Event {
        time_ns: 1_700_000_000_123_456_789,
        process: Some(ProcessRef {
            pid: 4711,
            ..ProcessRef::default()
        }),
        body: Some(body),
        ..Event::default()
    }
}

fn shown(pretty: Pretty, event: &Event, process: Option<&Process>, depth: usize) -> String {
    let mut out = Vec::new();
    pretty.line(
        &View {
            event,
            process,
            depth,
        },
        &mut out,
    );
    String::from_utf8(out).unwrap()
}

fn check(body: Body, process: &Process, what: &str, hash: &str) {
    let event = event(body);
    let line = shown(Pretty::new(false, Some(140)), &event, Some(process), 2);
    let name = event.event_type().short_name();
    let expected = format!(
        "22:13:20.123 {name:<11} alice         {:<22} {what:<54} {hash}",
        "make[4711]"
    );
    assert_eq!(line, format!("{}\n", expected.trim_end()));
    assert!(columns(line.trim_end()) <= 140);
}

fn file(path: &str, verdict: HashVerdict) -> Option<FileInfo> {
    Some(FileInfo {
        path: Some(path.as_bytes().to_vec()),
        hashes: hashes(verdict),
        size: Some(1_536),
        ..FileInfo::default()
    })
}

fn inet(address: [u8; 4], port: u32) -> Option<Endpoint> {
    Some(Endpoint {
        address: Some(address.to_vec()),
        port: Some(port),
        ..Endpoint::default()
    })
}

#[test]
fn one_line_an_event() {
    let make = process(
        b"/usr/bin/make",
        &[b"make", b"-j2", b"all targets"],
        HashVerdict::Verified,
    );
    check(
        Body::Exec(Exec::default()),
        &make,
        "make -j2 'all targets'",
        "101112131415 verified",
    );
    check(
        Body::Exit(Exit {
            code: Some(2),
            run_duration_ns: Some(1_250_000_000),
            ..Exit::default()
        }),
        &make,
        "code 2 after 1.2s /usr/bin/make",
        "",
    );
    check(
        Body::Exit(Exit {
            signal: Some(11),
            core_dumped: true,
            ..Exit::default()
        }),
        &make,
        "SIGSEGV, core dumped /usr/bin/make",
        "",
    );
    check(
        Body::Fork(Fork {
            child: Some(ProcessRef {
                pid: 12,
                ..ProcessRef::default()
            }),
            ..Fork::default()
        }),
        &make,
        "child [12]",
        "",
    );
    check(
        Body::FileCreate(FileCreate {
            how: FileCreateHow::Mkdir.into(),
            file: file("/tmp/new", HashVerdict::Gone),
            closed: true,
            ..FileCreate::default()
        }),
        &make,
        "mkdir /tmp/new 1.5 KiB",
        "             gone",
    );
    check(
        Body::Connect(Connect {
            transport: Transport::Tcp.into(),
            local: inet([10, 0, 0, 5], 40_000),
            remote: inet([93, 184, 216, 34], 443),
            direction: Direction::Outbound.into(),
            result: ConnectResult::Failed.into(),
            errno: Some(13),
            ..Connect::default()
        }),
        &make,
        "tcp 10.0.0.5:40000 -> 93.184.216.34:443 failed EACCES",
        "",
    );
    check(
        Body::Connect(Connect {
            transport: Transport::Unix.into(),
            remote: Some(Endpoint {
                unix_path: Some(b"dbus".to_vec()),
                unix_abstract: true,
                ..Endpoint::default()
            }),
            direction: Direction::Inbound.into(),
            ..Connect::default()
        }),
        &make,
        "unix <- @dbus",
        "",
    );
    check(
        Body::Connect(Connect {
            transport: Transport::Unix.into(),
            direction: Direction::Outbound.into(),
            result: ConnectResult::Failed.into(),
            errno: Some(2),
            ..Connect::default()
        }),
        &make,
        "unix -> address not known failed ENOENT",
        "",
    );
    check(
        Body::ModuleLoad(ModuleLoad {
            name: Some(b"rootkit".to_vec()),
            from_memory: Some(true),
            memory_bytes: Some(40_960),
            errno: Some(1),
            ..ModuleLoad::default()
        }),
        &make,
        "rootkit from memory 40 KiB failed EPERM",
        "",
    );
    check(
        Body::Patch(Patch {
            of: Some(EventId::default()),
            of_type: EventType::FileCreate.into(),
            part: Some(Part::ClosedFile(file("/tmp/x", HashVerdict::Racy).unwrap())),
        }),
        &make,
        "of file_create /tmp/x 1.5 KiB",
        "101112131415 racy",
    );
    let late = ProcessPatch {
        credentials: process(b"/x", &[], HashVerdict::Gone).credentials,
        container: Some(Box::new(Container {
            id: "box".to_owned(),
            ..Container::default()
        })),
        ..ProcessPatch::default()
    };
    check(
        Body::Patch(Patch {
            part: Some(Part::Process(late)),
            ..Patch::default()
        }),
        &make,
        "of process user alice container box",
        "",
    );
    check(
        Body::Aggregate(Box::new(Aggregate {
            of_type: EventType::FileCreate.into(),
            count: 1_234,
            first_time_ns: 0,
            last_time_ns: 10_000_000_000,
            rule: Some("tmp".to_owned()),
            sample: Some(Box::new(event(Body::FileCreate(FileCreate {
                file: file("/tmp/x", HashVerdict::Racy),
                ..FileCreate::default()
            })))),
        })),
        &make,
        "1234 x file_create in 10s, rule tmp, as /tmp/x",
        "",
    );
}

#[test]
fn what_is_not_known_is_said() {
    let bare = Event {
        body: None,
        ..Event::default()
    };
    let line = shown(Pretty::new(false, None), &bare, None, 0);
    assert_eq!(
        line,
        format!(
            "00:00:00.000 unspecified {:37}event of a newer schema\n",
            ""
        )
    );
    let line = shown(
        Pretty::new(false, None),
        &event(Body::Exec(Exec::default())),
        None,
        0,
    );
    assert!(
        line.contains("?[4711]") && line.contains("process not known"),
        "{line}"
    );
}

#[test]
fn another_effective_user_is_shown() {
    let mut sudo = process(b"/usr/bin/sudo", &[b"sudo"], HashVerdict::Verified);
    sudo.credentials.as_mut().unwrap().effective_user = Some(User {
        id: 0,
        name: Some("root".to_owned()),
        domain: None,
    });
    sudo.secure_exec = Some(true);
    let line = shown(
        Pretty::new(false, Some(140)),
        &event(Body::Exec(Exec::default())),
        Some(&sudo),
        0,
    );
    assert!(
        line.contains(" alice>root ") && line.contains(" raised sudo "),
        "{line}"
    );
}

#[test]
fn long_paths_keep_their_tail_and_long_commands_their_head() {
    let path = format!("/{}/the-name", "directory/".repeat(50));
    let body = Body::FileCreate(FileCreate {
        file: file(&path, HashVerdict::Verified),
        ..FileCreate::default()
    });
    let make = process(
        b"/usr/bin/make",
        &[b"make", &b"x".repeat(40_000)],
        HashVerdict::Verified,
    );
    for width in 1..300 {
        let pretty = Pretty::new(false, Some(width));
        let line = shown(pretty, &event(body.clone()), Some(&make), 5);
        assert!(
            columns(line.trim_end_matches('\n')) <= width,
            "{width}: {line}"
        );
        if width >= 90 {
            assert!(
                line.contains('…') && line.contains("/the-name"),
                "{width}: {line}"
            );
        }
        let line = shown(pretty, &event(Body::Exec(Exec::default())), Some(&make), 5);
        assert!(
            columns(line.trim_end_matches('\n')) <= width,
            "{width}: {line}"
        );
        if width >= 90 {
            assert!(
                line.contains(" make xxx") && line.contains('…'),
                "{width}: {line}"
            );
        }
        let mut header = Vec::new();
        pretty.header(&mut header);
        assert!(columns(std::str::from_utf8(&header).unwrap().trim_end()) <= width);
    }
}

#[test]
fn columns_line_up_below_their_header() {
    let make = process(b"/usr/bin/make", &[b"make"], HashVerdict::Verified);
    for width in [100, 140, 200] {
        let pretty = Pretty::new(false, Some(width));
        let mut header = Vec::new();
        pretty.header(&mut header);
        let header = String::from_utf8(header).unwrap();
        let line = shown(pretty, &event(Body::Exec(Exec::default())), Some(&make), 0);
        for (title, value) in [
            ("TYPE", "exec"),
            ("USER", "alice"),
            ("PROCESS", "make["),
            ("WHAT", "make "),
            ("SHA-256", "1011"),
            ("VERDICT", "verified"),
        ] {
            if header.contains(title) {
                let at = format!("{} ", line.trim_end()).rfind(value);
                assert_eq!(header.find(title), at, "{title}\n{header}{line}");
            }
        }
        assert_eq!(header.contains("VERDICT"), width > 100);
    }
}

#[test]
fn colours_mean_something() {
    let pretty = Pretty::new(true, Some(140));
    for (verdict, code) in [
        (HashVerdict::Verified, "\x1b[32mverified\x1b[0m"),
        (HashVerdict::Racy, "\x1b[33mracy\x1b[0m"),
        (HashVerdict::Gone, "\x1b[31mgone\x1b[0m"),
    ] {
        let make = process(b"/usr/bin/make", &[b"make"], verdict);
        let line = shown(pretty, &event(Body::Exec(Exec::default())), Some(&make), 0);
        assert!(line.contains(code), "{line:?}");
        assert!(line.contains("\x1b[1mexec\x1b[0m"), "{line:?}");
    }
    let make = process(b"/usr/bin/make", &[b"make"], HashVerdict::Verified);
    let exit = Exit {
        code: Some(0),
        ..Exit::default()
    };
    let line = shown(pretty, &event(Body::Exit(exit)), Some(&make), 0);
    assert!(line.contains("\x1b[2mexit\x1b[0m"), "{line:?}");
}

#[test]
fn no_color_counts_when_it_is_not_empty() {
    assert!(color_wanted(None));
    assert!(color_wanted(Some(OsStr::new(""))));
    assert!(!color_wanted(Some(OsStr::new("1"))));
}

#[test]
fn hostile_names_stay_text() {
    for (bytes, text) in [
        (b"plain".as_slice(), "plain"),
        (
            b"\x1b[2J\x1b]0;owned\x07",
            "\\u{1b}[2J\\u{1b}]0;owned\\u{7}",
        ),
        (b"a\nb\tc\r", "a\\nb\\tc\\r"),
        (b"\xc2\x9b31m", "\\u{9b}31m"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("gpj.\u{202e}exe".as_bytes(), "gpj.\\u{202e}exe"),
        ("a\u{200b}b".as_bytes(), "a\\u{200b}b"),
        ("Käse 漢字".as_bytes(), "Käse 漢字"),
        ("e\u{301}".as_bytes(), "e\u{301}"),
        (
            "e\u{301}\u{301}\u{301}".as_bytes(),
            "e\u{301}\u{301}\\u{301}",
        ),
        ("\u{301}".as_bytes(), "\\u{301}"),
    ] {
        assert_eq!(clean(bytes), text, "{bytes:?}");
    }
}

#[test]
fn numbers_for_people() {
    for (ns, text) in [
        (0, "0ns"),
        (999, "999ns"),
        (1_500, "1.5us"),
        (25_000_000, "25ms"),
        (59_999_999_999, "59s"),
        (90_000_000_000, "1.5m"),
        (u64::MAX, "5124095h"),
    ] {
        assert_eq!(span(ns), text);
    }
    assert_eq!(bytes(1_023), "1023 B");
    assert_eq!(bytes(5 << 20), "5.0 MiB");
}

proptest! {
    #[test]
    fn nothing_escapes_and_nothing_wraps(
        path in prop::collection::vec(any::<u8>(), 0..80),
        text in "\\PC{0,40}",
        controls in "[\\x00-\\x1f\\x7f-\\x9f\u{202a}-\u{202e}漢a]{0,40}",
        width in 1_usize..200,
        depth in 0_usize..20,
    ) {
        let process = process(&path, &[&path, text.as_bytes(), controls.as_bytes()], HashVerdict::Racy);
        let endpoint = Some(Endpoint { unix_path: Some(path.clone()), ..Endpoint::default() });
        for body in [
            Body::Exec(Exec::default()),
            Body::Exit(Exit::default()),
            Body::FileCreate(FileCreate { file: process.image.clone(), ..FileCreate::default() }),
            Body::Connect(Connect { remote: endpoint.clone(), ..Connect::default() }),
            Body::ModuleLoad(ModuleLoad { name: Some(controls.as_bytes().to_vec()), file: process.image.clone(), ..ModuleLoad::default() }),
        ] {
            let line = shown(Pretty::new(false, Some(width)), &event(body), Some(&process), depth);
            let line = line.strip_suffix('\n').unwrap();
            prop_assert!(columns(line) <= width, "{} > {}: {}", columns(line), width, line);
            prop_assert!(!line.chars().any(|character| character.is_control() || is_format(character)), "{:?}", line);
        }
    }
}
