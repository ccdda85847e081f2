//! Files that were torn, are in the wrong place or belong to something else, and readers that are slow or gone.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, pipe};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::config::{ReceiverConfig, SinkConfig};
use crate::sink::delivery::tests::{Host, LONG, check_account, start, wait};
use crate::sink::messages::tests::entry;
use crate::spool::Stream;

fn config(path: &Path, format: SinkFormat) -> FileSinkConfig {
    FileSinkConfig {
        path: path.to_owned(),
        format,
        rotate_bytes: None,
        rotate_age: None,
        keep: 100,
    }
}

fn local(config: FileSinkConfig) -> Local {
    Local::file(config, Arc::new(Clock::new().unwrap()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Sends packets in one session; gives what became of them, or the fault that ended it.
fn deliver(local: &mut Local, packets: &[Entry]) -> Result<Vec<Outcome>, Fault> {
    runtime().block_on(async {
        let (mut session, _) = local.open().await?;
        for packet in packets {
            session.send(packet)?;
        }
        let mut outcomes = Vec::new();
        for packet in packets {
            let (id, outcome) = tokio::time::timeout(LONG, session.outcome())
                .await
                .unwrap()?;
            assert_eq!(id, packet.id);
            outcomes.push(outcome);
        }
        Ok(outcomes)
    })
}

fn acked(local: &mut Local, packets: &[Entry]) {
    let outcomes = deliver(local, packets).unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Acked));
}

/// Counters of the events in whole lines of JSON.
fn counters(text: &[u8]) -> Vec<u64> {
    assert!(text.is_empty() || text.ends_with(b"\n"), "a torn end");
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let event: Value = serde_json::from_slice(line).unwrap();
            let id = event["id"].as_str().unwrap();
            id.rsplit('/').next().unwrap().parse().unwrap()
        })
        .collect()
}

/// Counters of the events of packets of [`entry`].
fn of(sequences: std::ops::RangeInclusive<u64>, events: u64) -> Vec<u64> {
    sequences
        .flat_map(|sequence| (0..events).map(move |number| sequence * 10_000 + number))
        .collect()
}

fn packets(sequences: std::ops::RangeInclusive<u64>, events: u64) -> Vec<Entry> {
    sequences
        .map(|sequence| entry(sequence, events, 100))
        .collect()
}

#[test]
fn a_file_has_every_event_as_a_line_and_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    let mut local = local(config(&path, SinkFormat::Json));
    acked(&mut local, &packets(1..=3, 5));
    // A later session goes on; a heartbeat has no line.
    acked(&mut local, &[entry(4, 0, 0)]);
    acked(&mut local, &packets(5..=5, 2));
    let mut expected = of(1..=3, 5);
    expected.extend(of(5..=5, 2));
    assert_eq!(counters(&std::fs::read(&path).unwrap()), expected);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // Someone took the file away: another is made.
    std::fs::remove_file(&path).unwrap();
    acked(&mut local, &packets(6..=6, 1));
    assert_eq!(counters(&std::fs::read(&path).unwrap()), of(6..=6, 1));
}

#[test]
fn a_packet_that_cannot_be_opened_is_refused_and_the_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    let mut packets = packets(1..=3, 2);
    packets[1].bytes.truncate(30);
    let outcomes = deliver(&mut local(config(&path, SinkFormat::Json)), &packets).unwrap();
    assert!(matches!(
        outcomes.as_slice(),
        [Outcome::Acked, Outcome::Rejected { .. }, Outcome::Acked]
    ));
    let mut expected = of(1..=1, 2);
    expected.extend(of(3..=3, 2));
    assert_eq!(counters(&std::fs::read(&path).unwrap()), expected);
}

#[test]
fn torn_lines_are_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    acked(
        &mut local(config(&path, SinkFormat::Json)),
        &packets(1..=1, 2),
    );
    let whole = std::fs::read(&path).unwrap();
    let long = [b"{".to_vec(), vec![b'x'; 200_000]].concat();
    let zeros = vec![0; 5_000];
    for torn in [b"{".as_slice(), b"{\"id\":\"", &long, &zeros] {
        std::fs::write(&path, [whole.as_slice(), torn].concat()).unwrap();
        acked(
            &mut local(config(&path, SinkFormat::Json)),
            &packets(2..=2, 1),
        );
        let mut expected = of(1..=1, 2);
        expected.extend(of(2..=2, 1));
        assert_eq!(counters(&std::fs::read(&path).unwrap()), expected);
    }
    // The first line of all may be torn, too.
    std::fs::write(&path, &long).unwrap();
    acked(
        &mut local(config(&path, SinkFormat::Json)),
        &packets(3..=3, 1),
    );
    assert_eq!(counters(&std::fs::read(&path).unwrap()), of(3..=3, 1));
}

#[test]
fn torn_packets_are_cut_off_at_any_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.packets");
    let sent = packets(1..=3, 1);
    let [first, second, third] = sent.as_slice() else {
        panic!("three")
    };
    for cut in 0..second.bytes.len() {
        let torn = [&first.bytes, &second.bytes[..cut]].concat();
        std::fs::write(&path, &torn).unwrap();
        acked(
            &mut local(config(&path, SinkFormat::Native)),
            std::slice::from_ref(third),
        );
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found, [first.bytes.as_slice(), &third.bytes].concat());
    }
}

#[test]
fn what_others_wrote_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let packet = entry(1, 1, 10);
    let refused = |format, text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        let fault = deliver(
            &mut local(config(&path, format)),
            std::slice::from_ref(&packet),
        )
        .unwrap_err();
        assert_eq!(fault.word, "output", "{fault}");
        assert_eq!(std::fs::read(&path).unwrap(), text);
    };
    for text in [b"root:x:0:0\n".as_slice(), b"{}\nroot", b"no line end"] {
        refused(SinkFormat::Json, text);
        refused(SinkFormat::Native, text);
    }
    // What the other forms write is something else, too.
    refused(SinkFormat::Json, &packet.bytes);
    refused(SinkFormat::Native, b"{}\n");
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    for path in [
        &link,
        &folder.path().to_owned(),
        &PathBuf::from("/dev/null"),
    ] {
        let mut local = local(config(path, SinkFormat::Json));
        let fault = deliver(&mut local, std::slice::from_ref(&packet)).unwrap_err();
        assert_eq!(fault.word, "output", "{fault}");
    }
}

#[test]
fn files_are_set_aside_between_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    // A packet of these is longer than a part, and a part about half a file.
    let sent: Vec<Entry> = (1..=3)
        .map(|sequence| entry(sequence, 600, 1_000))
        .collect();
    let limit = 600_000;
    let mut local = local(FileSinkConfig {
        rotate_bytes: Some(limit),
        ..config(&path, SinkFormat::Json)
    });
    acked(&mut local, &sent);
    let mut files: Vec<Vec<u8>> = (1..=100)
        .rev()
        .filter_map(|number| std::fs::read(format!("{}.{number}", path.display())).ok())
        .collect();
    assert!(files.len() > 1, "{}", files.len());
    files.push(std::fs::read(&path).unwrap());
    for file in &files {
        assert!(file.len() <= usize::try_from(limit).unwrap());
    }
    let found: Vec<u64> = files.iter().flat_map(|file| counters(file)).collect();
    assert_eq!(found, of(1..=3, 600));
}

#[test]
fn what_was_written_in_part_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.json");
    let mut journal = Journal {
        config: FileSinkConfig {
            rotate_bytes: Some(20),
            ..config(&path, SinkFormat::Json)
        },
        clock: Arc::new(Clock::new().unwrap()),
        appender: None,
    };
    let appender = journal.open().unwrap();
    append(appender, b"{\"a\":1}\n").unwrap();
    let before = appender.place();
    append(appender, b"{\"b\":2}\n").unwrap();
    appender.set_back(before).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"{\"a\":1}\n");
    // A file that was begun in between is emptied; what was set aside meanwhile is whole.
    append(appender, b"{\"c\":3}\n").unwrap();
    append(appender, b"{\"d\":4}\n").unwrap();
    appender.set_back(before).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    let aside = std::fs::read(folder.path().join("events.json.1")).unwrap();
    assert_eq!(aside, b"{\"a\":1}\n{\"c\":3}\n");
}

#[test]
fn a_folder_that_is_not_there_is_waited_for() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/events.packets");
    let sealed = host.seal(Stream::Process, 20, 1_000);
    let delivery = start(
        &host,
        SinkConfig {
            window_bytes: 8 << 20,
            ack_timeout: LONG,
            retry_max: Duration::from_secs(1),
            receiver: ReceiverConfig::File(config(&path, SinkFormat::Native)),
        },
    );
    let seen = wait(&delivery, "a fault", |health| {
        health.faults.contains_key("output")
    });
    assert!(seen.last_fault.unwrap().contains("events.packets"));
    std::fs::create_dir(folder.path().join("later")).unwrap();
    wait(&delivery, "all", |health| health.acked_packets == 20);
    delivery.stop(LONG);
    check_account(&host, 20, 0);
    assert_eq!(std::fs::read(&path).unwrap(), sealed.concat());
}

#[test]
fn a_reader_that_has_gone_is_told() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut local = Local::descriptor(SinkFormat::Json, Ok(writer.into()));
    let fault = deliver(&mut local, &packets(1..=1, 1)).unwrap_err();
    assert_eq!(
        (fault.word, fault.why.as_str()),
        ("output", "the reader has gone")
    );
}

/// A session ends in the middle of a line since nobody reads; the next one writes the rest of the line first.
#[test]
fn no_line_is_torn_for_a_reader_that_is_slow() {
    let (reader, writer) = pipe().unwrap();
    let mut local = Local::descriptor(SinkFormat::Json, Ok(writer.into()));
    // More than a pipe holds.
    let sent = [entry(1, 500, 1_000), entry(2, 5, 10)];
    let first = &sent[..1];
    runtime().block_on(async {
        let (mut session, _) = local.open().await.unwrap();
        session.send(&first[0]).unwrap();
        let unheard = tokio::time::timeout(Duration::from_millis(300), session.outcome()).await;
        unheard.unwrap_err();
    });
    let (told, lines) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n') {
            told.send(line.unwrap()).unwrap();
        }
    });
    // The thread of the session before may still be on its way back.
    let until = std::time::Instant::now() + LONG;
    loop {
        match deliver(&mut local, &sent) {
            Ok(outcomes) => {
                assert_eq!(outcomes, [Outcome::Acked, Outcome::Acked]);
                break;
            }
            Err(fault) => assert_eq!(fault.word, "silent", "{fault}"),
        }
        assert!(std::time::Instant::now() < until);
    }
    drop(local);
    reading.join().unwrap();
    let mut text: Vec<u8> = Vec::new();
    for line in lines {
        text.extend(line);
        text.push(b'\n');
    }
    let found: BTreeSet<u64> = counters(&text).into_iter().collect();
    let expected = of(1..=1, 500).into_iter().chain(of(2..=2, 5)).collect();
    assert_eq!(found, expected);
}

#[test]
fn packets_on_standard_output_are_whole() {
    let (reader, writer) = pipe().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut { reader }, &mut bytes).unwrap();
        bytes
    });
    let mut local = Local::descriptor(SinkFormat::Native, Ok(writer.into()));
    let sent = packets(1..=3, 200);
    acked(&mut local, &sent);
    drop(local);
    let expected: Vec<u8> = sent
        .iter()
        .flat_map(|packet| packet.bytes.clone())
        .collect();
    assert_eq!(reading.join().unwrap(), expected);
}
