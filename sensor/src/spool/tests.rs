use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::storage::{Disk, DiskError};
use super::*;

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

/// A wall clock that goes with the boot clock.
fn at(boot_ns: u64) -> Now {
    Now {
        wall_ns: 1_700_000_000_000_000_000 + i64::try_from(boot_ns).unwrap(),
        boot_ns,
    }
}

fn host() -> HostIdentity {
    HostIdentity {
        boot_id: [7; 16],
        machine_id: Some([1; 16]),
        hardware_uuid: Some([2; 16]),
        agent_id: None,
    }
}

fn open_as(
    folder: &Path,
    config: SpoolConfig,
    host: HostIdentity,
    sinks: &[&str],
    now: Now,
) -> (Spool, Opening) {
    Spool::open(Disk::lock(folder).unwrap(), config, host, sinks, now).unwrap()
}

fn open(folder: &Path, sinks: &[&str]) -> (Spool, Opening) {
    open_as(folder, SpoolConfig::default(), host(), sinks, at(0))
}

/// A packet that is next; its bytes tell who it is.
fn packet(spool: &Spool, stream: Stream, length: usize, now: Now) -> Entry {
    let next = spool.next_packet(stream);
    let mut bytes =
        format!("{} {} {}", next.id.epoch, stream.name(), next.id.sequence).into_bytes();
    bytes.resize(length.max(bytes.len()), b'.');
    Entry {
        id: next.id,
        digest: Sha256::digest(&bytes).into(),
        sealed_time_ns: now.wall_ns,
        boot_id: host().boot_id,
        last_event_boot_ns: now.boot_ns,
        counts: [(100, 2), (101, next.id.sequence)].into_iter().collect(),
        bytes,
    }
}

fn append(spool: &mut Spool, stream: Stream, count: usize, now: Now) -> Vec<Entry> {
    (0..count)
        .map(|_| {
            let entry = packet(spool, stream, 1000, now);
            spool.append(entry.clone(), now).unwrap();
            entry
        })
        .collect()
}

/// Everything that a sink can have now, acknowledged.
fn drain(spool: &mut Spool, sink: &str, now: Now) -> Vec<Item> {
    let mut all = Vec::new();
    loop {
        let items = spool.next(sink, 1 << 20, now).unwrap();
        if items.is_empty() {
            return all;
        }
        for item in &items {
            spool.ack(sink, item.id()).unwrap();
        }
        all.extend(items);
    }
}

fn packets(items: Vec<Item>) -> Vec<Entry> {
    items
        .into_iter()
        .map(|item| match item {
            Item::Packet(entry) => entry,
            Item::Gap(gap) => panic!("a gap: {gap:?}"),
        })
        .collect()
}

fn balanced(spool: &Spool) {
    for account in spool.accounts() {
        assert!(account.balances(), "{account:#?}");
    }
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for epoch in fs::read_dir(folder.join("spool")).unwrap() {
        for stream in fs::read_dir(epoch.unwrap().path()).unwrap() {
            for segment in fs::read_dir(stream.unwrap().path()).unwrap() {
                found.push(segment.unwrap().path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_is_durable_is_given_once_in_order_to_each_sink_and_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, opening) = open(folder.path(), &["a", "b"]);
    assert_eq!(opening.previous, Previous::None);
    assert_eq!(opening.new_epoch, Some(NewEpoch::Created));
    let identity = *spool.identity();
    let sealed = append(&mut spool, Stream::Process, 20, at(1));
    let bulk = append(&mut spool, Stream::Bulk, 3, at(2));
    // Not durable yet: nobody gets it.
    assert_eq!(spool.next("a", 1 << 20, at(2)).unwrap(), []);
    spool.sync(at(3));
    assert_eq!(
        packets(drain(&mut spool, "a", at(3))),
        [sealed.clone(), bulk.clone()].concat()
    );
    assert_eq!(spool.next("a", 1 << 20, at(3)).unwrap(), []);
    balanced(&spool);
    spool.close(at(4)).unwrap();

    let (mut spool, opening) = open(folder.path(), &["a", "b"]);
    assert_eq!(opening.previous, Previous::Clean);
    assert_eq!(opening.new_epoch, None);
    assert_eq!(
        opening.recovery,
        Recovery {
            segments: 2,
            ..Recovery::default()
        }
    );
    assert_eq!(*spool.identity(), identity);
    assert_eq!(drain(&mut spool, "a", at(3)), []);
    let more = append(&mut spool, Stream::Process, 1, at(5));
    assert_eq!(more[0].id.sequence, 21);
    spool.sync(at(5));
    assert_eq!(packets(drain(&mut spool, "a", at(5))), more);
    assert_eq!(
        packets(drain(&mut spool, "b", at(5))),
        [sealed, more, bulk].concat()
    );
    balanced(&spool);
}

#[test]
fn a_killed_process_loses_nothing_and_is_told_apart_from_an_orderly_end() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), &["a"]);
    let sealed = append(&mut spool, Stream::Process, 5, at(9));
    // Killed: nothing is synced or closed.
    drop(spool);
    let (mut spool, opening) = open(folder.path(), &["a"]);
    assert_eq!(opening.previous, Previous::Unclean);
    assert_eq!(opening.new_epoch, None);
    let last = opening.last_events[0].unwrap();
    assert_eq!((last.boot_id, last.boot_ns), (host().boot_id, 9));
    assert_eq!(opening.last_events[1], None);
    assert_eq!(packets(drain(&mut spool, "a", at(3))), sealed);
    assert_eq!(
        spool.next_packet(Stream::Process).previous_digest,
        sealed[4].digest
    );
}

#[test]
fn a_second_process_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_spool, _) = open(folder.path(), &[]);
    let error = Disk::lock(folder.path()).unwrap_err();
    assert!(matches!(error, DiskError::InUse { .. }), "{error}");
}

#[test]
fn clones_and_restored_directories_begin_an_epoch_and_still_deliver_the_old_one() {
    for (change, reason) in [
        (
            HostIdentity {
                machine_id: Some([9; 16]),
                ..host()
            },
            NewEpoch::MachineId,
        ),
        (
            HostIdentity {
                hardware_uuid: Some([9; 16]),
                ..host()
            },
            NewEpoch::Hardware,
        ),
        (host(), NewEpoch::Restored),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(folder.path(), &["a"]);
        let old = append(&mut spool, Stream::Bulk, 3, at(1));
        let agent_id = spool.identity().agent_id;
        spool.close(at(2)).unwrap();
        if reason == NewEpoch::Restored {
            // What a backup does: the same content in another file.
            let path = folder.path().join("identity");
            let content = fs::read(&path).unwrap();
            fs::write(folder.path().join("copy"), content).unwrap();
            fs::rename(folder.path().join("copy"), path).unwrap();
        }
        let (mut spool, opening) =
            open_as(folder.path(), SpoolConfig::default(), change, &["a"], at(3));
        assert_eq!(opening.new_epoch, Some(reason));
        assert_eq!(spool.identity().agent_id, agent_id);
        assert_ne!(spool.identity().epoch, old[0].id.epoch);
        let new = append(&mut spool, Stream::Bulk, 2, at(4));
        assert_eq!(new[0].id.sequence, 1);
        spool.sync(at(5));
        assert_eq!(packets(drain(&mut spool, "a", at(5))), [old, new].concat());
        balanced(&spool);
        // The old epoch goes when everybody has it.
        spool.sync(at(5 + 2 * SECOND));
        assert_eq!(spool.status(at(6)).epochs, 1);
        balanced(&spool);
        spool.close(at(7)).unwrap();
        let (_, opening) = open_as(folder.path(), SpoolConfig::default(), change, &["a"], at(8));
        assert_eq!(opening.new_epoch, None);
    }
    // What cannot be read is no difference.
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), &[]));
    let unknown = HostIdentity {
        machine_id: None,
        hardware_uuid: None,
        ..host()
    };
    let (_, opening) = open_as(folder.path(), SpoolConfig::default(), unknown, &[], at(1));
    assert_eq!(opening.new_epoch, None);
}

#[test]
fn a_full_spool_evicts_of_the_class_over_its_share_and_tells_who_missed_what() {
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        disk_bytes: 64 << 10,
        segment_bytes: 4 << 10,
        ..SpoolConfig::default()
    };
    let (mut spool, _) = open_as(folder.path(), config, host(), &["fast", "slow"], at(0));
    let process = append(&mut spool, Stream::Process, 8, at(1));
    spool.sync(at(1));
    drain(&mut spool, "fast", at(1));
    for _ in 0..200 {
        append(&mut spool, Stream::Bulk, 1, at(2));
        spool.sync(at(2));
        assert_eq!(packets(drain(&mut spool, "fast", at(2))).len(), 1);
    }
    let status = spool.status(at(3));
    assert!(status.classes[0].disk_bytes + status.classes[1].disk_bytes <= config.disk_bytes);
    let told: Vec<Tombstone> = spool.untold_tombstones().cloned().collect();
    assert_eq!(told.len(), 1, "one growing tombstone: {told:?}");
    assert_eq!(
        (told[0].stream, told[0].from, told[0].cause),
        (Stream::Bulk, 1, Cause::Bytes)
    );
    assert_eq!(told[0].unread_by, ["slow"]);
    assert_eq!(told[0].counts.of(100), 2 * told[0].to);
    balanced(&spool);

    let slow = drain(&mut spool, "slow", at(4));
    assert_eq!(packets(slow[..8].to_vec()), process);
    let Item::Gap(gap) = &slow[8] else {
        panic!("{:?}", slow[8]);
    };
    assert_eq!((gap.from, gap.to), (1, told[0].to));
    assert_eq!(gap.last_digest, told[0].last_digest);
    let rest = packets(slow[9..].to_vec());
    assert_eq!(rest[0].id.sequence, gap.to + 1);
    assert_eq!(rest.last().unwrap().id.sequence, 200);
    balanced(&spool);
    let accounts = spool.accounts();
    assert_eq!(accounts[0].evicted.len(), 0);
    assert_eq!(accounts[1].evicted[&Cause::Bytes], told[0].counts);
    // It is forgotten when it was told and everybody is behind it.
    spool.sync(at(4 + 2 * SECOND));
    assert_eq!(spool.status(at(5)).tombstones, 1);
    spool.told_tombstones(told[0].id);
    spool.sync(at(5 + 4 * SECOND));
    assert_eq!(spool.status(at(5)).tombstones, 0);
}

#[test]
fn what_is_too_old_goes_with_a_tombstone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), &["a"]);
    append(&mut spool, Stream::Bulk, 3, at(1));
    spool.sync(at(1));
    append(&mut spool, Stream::Bulk, 2, at(20 * DAY));
    spool.sync(at(21 * DAY));
    let kept = drain(&mut spool, "a", at(21 * DAY));
    assert_eq!(kept.len(), 5);
    spool.rewind("a").unwrap();
    drop(spool);
    let (mut spool, _) = open(folder.path(), &["b"]);
    spool.sync(at(21 * DAY + 2 * SECOND));
    let items = drain(&mut spool, "b", at(21 * DAY + 2 * SECOND));
    let Item::Gap(gap) = &items[0] else {
        panic!("{items:?}");
    };
    assert_eq!((gap.from, gap.to, gap.cause), (1, 3, Cause::Age));
    assert_eq!(packets(items[1..].to_vec()).len(), 2);
    balanced(&spool);
}

#[test]
fn acknowledgements_come_in_any_order_and_lies_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), &["a"]);
    let sealed = append(&mut spool, Stream::Process, 4, at(1));
    spool.sync(at(1));
    assert_eq!(spool.next("a", 1 << 20, at(1)).unwrap().len(), 4);
    spool.ack("a", sealed[2].id).unwrap();
    spool.ack("a", sealed[0].id).unwrap();
    for id in [
        sealed[0].id,
        sealed[2].id,
        PacketId {
            sequence: 99,
            ..sealed[0].id
        },
        PacketId {
            epoch: Epoch([5; 16]),
            ..sealed[1].id
        },
    ] {
        let error = spool.ack("a", id).unwrap_err();
        assert!(matches!(error, SinkError::NotGiven { .. }), "{error}");
    }
    assert_eq!(spool.accounts()[0].false_acks, 4);
    spool.rewind("a").unwrap();
    let again = packets(spool.next("a", 1 << 20, at(1)).unwrap());
    assert_eq!(again, [sealed[1].clone(), sealed[3].clone()]);
    spool
        .reject("a", &sealed[1], "no such topic", at(2))
        .unwrap();
    spool.ack("a", sealed[3].id).unwrap();
    balanced(&spool);
    let account = &spool.accounts()[0];
    assert_eq!(account.rejected, sealed[1].counts);
    assert_eq!(account.waiting, Counts::new());
    assert_eq!(account.in_flight_bytes, 0);
    // An operator finds the packet and the reason.
    let mut names: Vec<PathBuf> = fs::read_dir(folder.path().join("rejected"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    assert_eq!(fs::read_to_string(&names[0]).unwrap(), "no such topic");
    let file = fs::File::open(&names[1]).unwrap();
    let mut shown = Vec::new();
    inspect(&file, file.metadata().unwrap().len(), |found| {
        shown.push(found);
        true
    })
    .unwrap();
    assert!(
        matches!(&shown[1], Inspected::Packet { entry, .. } if *entry == sealed[1]),
        "{shown:?}"
    );
}

#[test]
fn a_sink_gets_no_more_than_its_read_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        read_ahead_bytes: 5000,
        ..SpoolConfig::default()
    };
    let (mut spool, _) = open_as(folder.path(), config, host(), &["a"], at(0));
    append(&mut spool, Stream::Process, 20, at(1));
    append(&mut spool, Stream::Bulk, 20, at(1));
    spool.sync(at(1));
    let first = packets(spool.next("a", 1 << 20, at(1)).unwrap());
    assert!((4..=6).contains(&first.len()), "{}", first.len());
    assert!(first.iter().any(|entry| entry.id.stream == Stream::Bulk));
    assert_eq!(spool.next("a", 1 << 20, at(1)).unwrap(), []);
    for entry in &first {
        spool.ack("a", entry.id).unwrap();
    }
    assert_eq!(drain(&mut spool, "a", at(1)).len(), 40 - first.len());
}

#[test]
fn only_what_is_next_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), &[]);
    let entry = packet(&spool, Stream::Bulk, 10, at(1));
    let mut later = entry.clone();
    later.id.sequence = 2;
    let error = spool.append(later, at(1)).unwrap_err();
    assert!(matches!(error, AppendError::NotNext { .. }), "{error}");
    let mut large = entry.clone();
    large.bytes = vec![0; PACKET_MAX_BYTES + 1];
    let error = spool.append(large, at(1)).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }), "{error}");
    let mut colourful = entry.clone();
    colourful.counts = (0..=128).map(|number| (number, 1)).collect();
    let error = spool.append(colourful, at(1)).unwrap_err();
    assert!(matches!(error, AppendError::TooManyTypes { .. }), "{error}");
    spool.append(entry, at(1)).unwrap();
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), &["a"]);
    append(&mut spool, Stream::Bulk, 1, at(1));
    spool.close(at(2)).unwrap();
    let mut left = vec![folder.path().to_owned()];
    let mut files = 0;
    while let Some(path) = left.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{path:?}");
            left.extend(
                fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            assert_eq!(mode, 0o600, "{path:?}");
            files += 1;
        }
    }
    assert_eq!(
        files, 6,
        "identity, clean, a cursor, tombstones, two segments"
    );
    assert_eq!(segments(folder.path()).len(), 2);
}

#[test]
fn what_the_disk_did_not_take_is_told_by_sink_at_the_end() {
    // Nothing can be made below /proc.
    let folder = Path::new("/proc/sensor-none/state");
    let (mut spool, _) = open(folder, &["fast", "slow"]);
    assert!(
        matches!(spool.state(), State::Memory { .. }),
        "{:?}",
        spool.state()
    );
    append(&mut spool, Stream::Bulk, 3, at(1));
    let first = packets(spool.next("fast", 1, at(2)).unwrap()).remove(0);
    spool.ack("fast", first.id).unwrap();
    balanced(&spool);
    let waiting: BTreeMap<String, Counts> = spool
        .accounts()
        .into_iter()
        .map(|account| (account.name, account.waiting))
        .collect();
    let unsaved = spool.close(at(3)).unwrap_err();
    assert_eq!(unsaved.packets, 3);
    assert_eq!(unsaved.unacknowledged, waiting);
    // Packets 2 and 3, and 1 to 3: see `packet`.
    assert_eq!(waiting["fast"].total(), 2 * 2 + 2 + 3);
    assert_eq!(waiting["slow"].total(), 3 * 2 + 1 + 2 + 3);
}
