//! What several suites do alike.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use sensor_tests::coverage::Expected;
use sensor_tests::harness::Sensor;
use sensor_tests::{oracle, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Fields of FileInfo that nothing else tells.
pub(crate) const INFO_UNCOMPARABLE: &[(&str, &str)] = &[(
    "generation",
    "no file system call tells it but an ioctl that safe code cannot make; it is compared through unique_id",
)];

/// A folder of its own for a test, which other users may enter.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("sensor-e2e-")
        .tempdir()
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Waits until a file was last changed long enough ago that its digests are not called racy.
pub(crate) fn aged(path: &Path) {
    let meta = fs::metadata(path).unwrap();
    let changed = i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
    wait_for("a clock tick", Duration::from_secs(10), || {
        (oracle::clocks().0 - changed > 30_000_000).then_some(())
    });
}

/// The exec of a program (its path, as shown) by a process.
pub(crate) fn exec_of(sensor: &Sensor, pid: u32, image: &str) -> Value {
    let event = sensor.expect(&format!("the exec of {image} by {pid}"), |event| {
        event["type"] == "exec"
            && event["process"]["pid"] == pid
            && event["process"]["image"]["path"] == image
    });
    sensor.settled(&event)
}

/// The end of a process.
pub(crate) fn exit_of(sensor: &Sensor, unique_pid: &Value) -> Value {
    let event = sensor.expect(&format!("the end of {unique_pid}"), |event| {
        event["type"] == "exit" && event["process"]["unique_pid"] == *unique_pid
    });
    sensor.settled(&event)
}

/// The creation of a file (its path, as shown).
pub(crate) fn created(sensor: &Sensor, path: &str) -> Value {
    sensor.expect(&format!("the creation of {path}"), |event| {
        event["type"] == "file_create" && event["file_create"]["file"]["path"] == path
    })
}

/// Creates a file and waits for its event: by then every earlier event has come, since they come in the order of time.
pub(crate) fn wait_until_told(sensor: &Sensor, folder: &Path) {
    let path = folder.join(format!("sentinel-{}", oracle::clocks().1));
    fs::write(&path, "").unwrap();
    created(sensor, &oracle::shown_path(&path));
}

/// Compares a file of an event with the one on disk.
pub(crate) fn check_file(told: &Value, view: &Path, path: &Path, sources: &'static [&'static str]) {
    let mut expected = Expected::new("FileInfo", INFO_UNCOMPARABLE);
    // Fields of the message itself stand without a prefix.
    let mut nested = Expected::new("FileCreate", oracle::FILE_UNCOMPARABLE);
    oracle::file(&mut nested, "file", view, path);
    one_of(&mut nested, "file.hashes.source", sources);
    if oracle::in_memory(view) {
        // Who had the file mapped may have written it between the exec and the hash without moving any time, and a script
        // is not kept from being written as a program is: it is verified only if its creation had been hashed and it was
        // watched since (docs/decisions/0020-hash-verdicts.md).
        one_of(&mut nested, "file.hashes.verdict", &["verified", "racy"]);
    }
    expected.take_below(nested, "file");
    expected.check(told);
    oracle::check_unique_id(told, view);
}

/// The field is one of these texts.
pub(crate) fn one_of(expected: &mut Expected, path: &str, texts: &'static [&'static str]) {
    expected.holds(path, move |value| {
        if texts.iter().any(|text| value == text) {
            Ok(())
        } else {
            Err(format!("{value} is none of {texts:?}"))
        }
    });
}

/// What must be told around any body of an event: when, where, who.
pub(crate) fn envelope(
    event: &Value,
    pid: u32,
    tid: u32,
    lane: &str,
    began: (i128, i128),
) -> Expected {
    let now = oracle::clocks();
    let mut expected = Expected::new(
        "Event",
        &[("sequence", "nothing else counts the records of a processor")],
    );
    let kind = event["type"].as_str().unwrap().to_owned();
    let tolerance = 50_000_000;
    expected.none("id");
    expected.between("time", began.0 - tolerance, now.0 + tolerance);
    expected.between("time_boot_ns", began.1, now.1);
    expected.between("processed_time", began.0 - tolerance, now.0 + tolerance);
    let processors = i128::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    expected.between("cpu", 0, processors - 1);
    expected.is("lane", lane);
    expected.is("process.unique_pid", oracle::unique_pid(pid));
    expected.holds("process.exec_id", |id| {
        id.as_u64().map(drop).ok_or_else(|| "no number".to_owned())
    });
    expected.is("process.pid", pid);
    expected.is("process.tid", tid);
    let start = i128::from(oracle::start_ticks(pid)) * 10_000_000;
    expected.between("process.start_boot_ns", start, start + 9_999_999);
    expected.none("process.out_of_scope");
    expected.none("credentials");
    expected.none("io_uring");
    let mut seen = Vec::new();
    for body in [
        "exec",
        "exit",
        "fork",
        "file_create",
        "connect",
        "module_load",
        "patch",
        "aggregate",
    ] {
        if body == kind {
            seen.push(body);
            expected.skip(body, "the body is compared as a message of its own");
        } else {
            expected.none(body);
        }
    }
    assert_eq!(seen.len(), 1, "type {kind}");
    // The id is one text: agent/epoch/counter.
    let id = event["id"].as_str().unwrap();
    let parts: Vec<&str> = id.split('/').collect();
    assert_eq!(parts.len(), 3, "{id}");
    assert_eq!(json!(parts[0]), event["agent"]["id"]);
    assert_eq!(json!(parts[1]), event["agent"]["epoch"]);
    assert!(parts[2].parse::<u64>().unwrap() > 0, "{id}");
    expected
}

/// Words for a trigger, of texts and paths alike.
pub(crate) fn words<'a>(texts: &[&'static str], path: &'a Path) -> Vec<&'a OsStr> {
    let mut words: Vec<&OsStr> = texts.iter().map(|text| OsStr::new(*text)).collect();
    words.push(path.as_os_str());
    words
}

/// Names of the files in a folder; panics if one comes twice.
pub(crate) fn names_in<'a>(
    paths: impl Iterator<Item = &'a str>,
    folder: &Path,
) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for path in paths {
        if let Some(name) = path
            .strip_prefix(folder.to_str().unwrap())
            .and_then(|rest| rest.strip_prefix('/'))
        {
            assert!(names.insert(name), "{name} is told twice");
        }
    }
    names
}
