//! A kernel module was loaded, or its load failed. In guests only, and there with a module that nothing else uses.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use sensor_tests::coverage::Expected;
use sensor_tests::harness::{Sensor, with_shared};
use sensor_tests::oracle;
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use serde_json::Value;

use crate::common::{aged, envelope, folder, one_of};

pub(crate) const TESTS: &[Test] = &[
    Test::in_guest("module_load::from_a_file", from_file),
    Test::in_guest("module_load::from_memory", from_memory),
    Test::in_guest("module_load::that_fails", failing),
];

/// A module whose parameter `numdummies` takes a number.
const NAME: &str = "dummy";

/// A copy in a folder of its own: files of an initramfs have no birth time, and some kernels give them no inode generation.
fn module(folder: &Path) -> PathBuf {
    let path = folder.join("dummy.ko");
    fs::copy(format!("/lib/test-modules/{NAME}.ko"), &path).unwrap();
    aged(&path);
    path
}

fn words<'a>(step: &'a str, path: &'a Path, parameters: &'a str) -> Vec<&'a OsStr> {
    vec![
        OsStr::new(step),
        path.as_os_str(),
        OsStr::new(parameters),
        OsStr::new("step"),
    ]
}

fn of(sensor: &Sensor, child: &Running) -> Value {
    let event = sensor.expect("the load of a module", |event| {
        event["type"] == "module_load" && event["process"]["pid"] == child.pid()
    });
    sensor.settled(&event)
}

/// What a failed test left behind is in the way of the next.
fn remove_left() {
    if Path::new("/sys/module").join(NAME).exists() {
        remove();
    }
}

fn remove() {
    let child = Running::start(["module-remove", NAME, "step"]);
    assert_eq!(child.step()["errno"], 0);
    child.finish_well();
}

/// What the kernel says of a loaded module in sysfs: the bits of its letters.
fn taints() -> u64 {
    let text = fs::read_to_string(format!("/sys/module/{NAME}/taint")).unwrap();
    text.trim()
        .chars()
        .map(|letter| match letter {
            'P' => 1,
            'O' => 1 << 12,
            'E' => 1 << 13,
            'C' => 1 << 10,
            'K' => 1 << 15,
            other => panic!("taint {other}"),
        })
        .sum()
}

fn from_file() {
    remove_left();
    with_shared(|sensor| {
        let folder = folder();
        let path = module(folder.path());
        let began = oracle::clocks();
        let child = Running::start(words("module-file", &path, "numdummies=0"));
        assert_eq!(child.step()["errno"], 0);
        let event = of(sensor, &child);
        let mut expected = Expected::new("ModuleLoad", oracle::FILE_UNCOMPARABLE);
        expected.is("name", NAME);
        oracle::file(&mut expected, "file", &path, &path);
        one_of(&mut expected, "file.hashes.source", &["path", "fd"]);
        expected.is("from_memory", false);
        expected.none("memory_bytes");
        expected.is("taints", taints());
        expected.none("errno");
        if event["module_load"]["parameters"].is_null() {
            expected.none("parameters");
        } else {
            expected.is("parameters", "numdummies=0");
        }
        expected.check(&event["module_load"]);
        let mut around = envelope(&event, child.pid(), child.pid(), "process", began);
        around.skip(
            "backend",
            "the tracepoint, or the hook that saw the content",
        );
        around.check(&event);
        child.finish_well();
        remove();
    });
}

fn from_memory() {
    remove_left();
    with_shared(|sensor| {
        let folder = folder();
        let path = module(folder.path());
        let child = Running::start(words("module-memory", &path, "numdummies=0"));
        assert_eq!(child.step()["errno"], 0);
        let event = of(sensor, &child);
        let load = &event["module_load"];
        assert_eq!(load["name"], NAME, "{load:#}");
        assert!(load["file"].is_null(), "{load:#}");
        assert_eq!(load["from_memory"], true, "{load:#}");
        let length = fs::metadata(&path).unwrap().len();
        let told = &load["memory_bytes"];
        assert!(told.is_null() || *told == length, "{load:#}");
        child.finish_well();
        remove();
    });
}

fn failing() {
    remove_left();
    with_shared(|sensor| {
        let folder = folder();
        let path = module(folder.path());
        let first = Running::start(words("module-file", &path, "numdummies=0"));
        assert_eq!(first.step()["errno"], 0);
        of(sensor, &first);
        first.finish_well();
        let broken = folder.path().join("broken.ko");
        // What is shorter than the header of an ELF file is refused before anything that could be probed.
        fs::write(&broken, "this is no module ".repeat(10)).unwrap();
        for (path, step, errno) in [
            (&path, "module-file", 17),
            (&broken, "module-file", 8),
            (&broken, "module-memory", 8),
        ] {
            let child = Running::start(words(step, path, ""));
            assert_eq!(child.step()["errno"], errno, "{step} {}", path.display());
            let event = of(sensor, &child);
            assert_eq!(event["module_load"]["errno"], errno, "{event:#}");
            let told = &event["module_load"]["file"]["path"];
            if step == "module-file" {
                assert_eq!(*told, oracle::shown_path(path), "{event:#}");
            } else {
                assert!(told.is_null(), "{event:#}");
            }
            child.finish_well();
        }
        remove();
    });
}
