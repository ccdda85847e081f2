//! A long run under mixed load: memory, descriptors and BPF objects of the sensor must stay where they are once it is warm, and its
//! account must close. `cargo xtask soak --for 30m` runs it in a guest.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sensor_tests::harness::{Options, Sensor};
use sensor_tests::runner::Test;
use serde_json::Value;

use crate::common::folder;

pub(crate) const TESTS: &[Test] = &[Test::new("soak::mixed_load", mixed_load)];

/// Seconds of load; the variable makes this program run this test instead of the others.
pub(crate) const SECONDS: &str = "SENSOR_SOAK_SECONDS";
/// Samples in all.
const SAMPLES: u32 = 60;
/// Of the samples, those that are warm-up: caches and tables fill.
const WARM_UP: usize = 20;
/// What resident memory may grow by after that, of what it was, in percent; and pages of the allocator that come and go.
const GROWTH_PERCENT: u64 = 5;
const GROWTH_KIB: u64 = 1024;

/// What the sensor has of the machine.
#[derive(Clone, Copy, Debug)]
struct Sample {
    resident_kib: u64,
    descriptors: usize,
    bpf_objects: usize,
}

impl Sample {
    /// proc_pid_status(5), proc_pid_fd(5), proc_pid_fdinfo(5).
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.unwrap().trim().trim_end_matches(" kB");
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets: Vec<_> = links
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .map(|target| target.to_string_lossy().into_owned())
            .collect();
        // Files that are being hashed come and go.
        let own = targets.iter().filter(|target| !target.starts_with('/'));
        Self {
            resident_kib: kib.parse().unwrap(),
            descriptors: own.count(),
            bpf_objects: targets
                .iter()
                .filter(|target| target.contains("bpf"))
                .count(),
        }
    }
}

/// Programs, files of unique content that are removed again, connections, until it is told to stop; gives how many of each.
fn work(folder: &Path, stop: &AtomicBool, done: &[AtomicU64; 3]) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let [programs, files, connections] = done;
    let mut count = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let status = Command::new("/bin/true")
            .arg(count.to_string())
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        programs.fetch_add(1, Ordering::Relaxed);
        for part in 0..4 {
            let path = folder.join(format!("{port}-{part}"));
            fs::write(&path, format!("content {port} {count} {part}")).unwrap();
            fs::remove_file(&path).unwrap();
            files.fetch_add(1, Ordering::Relaxed);
        }
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
        drop((listener.accept().unwrap(), stream));
        connections.fetch_add(1, Ordering::Relaxed);
        // Not a flood: what a busy server does.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn mixed_load() {
    let seconds: u64 = std::env::var(SECONDS).unwrap().parse().expect("seconds");
    let sensor = Sensor::start(Options {
        keep: |_| Value::Null,
        output: Some(fs::File::create("/dev/null").unwrap()),
        // Small enough that caches and tables are full soon.
        config: "[process_table]\nbudget = \"2MiB\"\ngrace = \"5s\"\n[hash]\ncache_entries = 512\n"
            .to_owned(),
        ..Options::default()
    });
    let folder = folder();
    let (stop, done) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| work(folder.path(), &stop, &done));
        }
        let begin = Instant::now();
        for number in 1..=SAMPLES {
            let due = begin + Duration::from_secs(seconds) * number / SAMPLES;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            samples.push(Sample::of(sensor.pid()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let [programs, files, connections] = done.map(AtomicU64::into_inner);
    let end = sensor.stop();
    let ledger = end.assert_clean();
    let (warm_up, steady) = samples.split_at(WARM_UP);
    let most = |samples: &[Sample]| {
        samples
            .iter()
            .map(|sample| sample.resident_kib)
            .max()
            .unwrap()
    };
    // The first half of what is steady, and the second.
    let (early, late) = steady.split_at(steady.len() / 2);
    println!(
        "told soaked for {seconds} s: {programs} programs, {files} files, {connections} connections; resident {} KiB in warm-up, \
         then {} and {} KiB; {:?} at the end; lost {}",
        most(warm_up),
        most(early),
        most(late),
        samples.last().unwrap(),
        ["exec", "exit", "file_create", "connect"]
            .map(|row| ledger.lost(row))
            .iter()
            .sum::<u64>(),
    );
    let limit = most(early) + most(early) * GROWTH_PERCENT / 100 + GROWTH_KIB;
    assert!(most(late) <= limit, "memory grows: {samples:#?}");
    for steady in steady {
        let first = samples[WARM_UP - 1];
        assert_eq!(steady.bpf_objects, first.bpf_objects, "{samples:#?}");
        assert!(steady.descriptors <= first.descriptors + 4, "{samples:#?}");
    }
}
