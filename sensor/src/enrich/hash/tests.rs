//! The pool on real files: every digest is compared with what coreutils say.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sensor_common::record::FileIdentity;
use sensor_proto::v1::{HashSource, HashVerdict};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::clock::Clock;
use crate::procfs::Proc;

/// Tests run beside others, on machines with other work, without optimisation.
const PATIENCE: Duration = Duration::from_secs(300);

fn patient() -> HashConfig {
    HashConfig {
        timeout: PATIENCE,
        wait_limit: PATIENCE,
        ..HashConfig::default()
    }
}

struct Fixture {
    folder: TempDir,
    pool: HashPool,
    results: Receiver<HashResult>,
    clock: Arc<Clock>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.pool.stop();
    }
}

impl Fixture {
    fn new(config: HashConfig) -> Self {
        Self::below(&std::env::temp_dir(), config)
    }

    fn below(parent: &Path, config: HashConfig) -> Self {
        let clock = Arc::new(Clock::new().unwrap());
        let (pool, results) = HashPool::spawn(
            config,
            Proc::default(),
            Arc::clone(&clock),
            crate::confine::Confinement::default(),
        )
        .unwrap();
        Self {
            folder: tempfile::tempdir_in(parent).unwrap(),
            pool,
            results,
            clock,
        }
    }

    fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.path().join(name.as_ref())
    }

    fn write(&self, name: impl AsRef<OsStr>, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        unwritten(&path);
        path
    }

    /// A copy of sleep(1).
    fn program(&self) -> PathBuf {
        let path = self.path("program");
        fs::copy(sleep_program(), &path).unwrap();
        unwritten(&path);
        path
    }

    fn now(&self) -> i64 {
        self.clock.wall_now_ns().unwrap()
    }

    /// Waits until a change of the file could no longer hide, and returns its identity.
    fn settled(&self, path: &Path) -> FileIdentity {
        let identity = identity_of(path);
        wait_for(|| (!identity::within_granule(&identity, self.now())).then_some(()));
        identity
    }

    fn job(&self, what: What, path: &Path, identity: Option<FileIdentity>) -> HashJob {
        HashJob {
            token: 7,
            what,
            identity,
            event_wall_ns: self.now(),
            place: Place {
                path: Some(path.as_os_str().as_bytes().to_vec()),
                ..Place::default()
            },
            writers: Writers::Gone,
            open: None,
        }
    }

    fn next(&mut self) -> HashResult {
        let results = &mut self.results;
        wait_for(|| results.try_recv().ok())
    }

    fn run(&mut self, job: HashJob) -> HashResult {
        let token = job.token;
        self.pool.submit(job).unwrap();
        let result = self.next();
        assert_eq!(result.token, token);
        result
    }

    fn run_path(&mut self, what: What, path: &Path, identity: Option<FileIdentity>) -> HashResult {
        let mut job = self.job(what, path, identity);
        if identity.is_none() {
            // Without an identity only a process's own root will do.
            job.place.process = Some(start_of(std::process::id()));
        }
        self.run(job)
    }
}

pub(super) fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nobody has the file open for writing: a process that another test started had our descriptors until its
/// exec.
pub(super) fn unwritten(path: &Path) {
    crate::kernel::sys::ignore_sigio().unwrap();
    let file = File::open(path).unwrap();
    wait_for(|| {
        let asked = crate::kernel::sys::open_for_writing(file.as_fd());
        (!matches!(asked, Ok(true))).then_some(())
    });
}

/// The identity as the kernel would have it, by another way than the pool's.
fn identity_of(path: &Path) -> FileIdentity {
    let stat = fs::metadata(path).unwrap();
    let magic = rustix::fs::statfs(path).unwrap().f_type;
    FileIdentity {
        inode: stat.ino(),
        size: stat.size(),
        mtime_ns: stat.mtime() * 1_000_000_000 + stat.mtime_nsec(),
        ctime_ns: stat.ctime() * 1_000_000_000 + stat.ctime_nsec(),
        fs_magic: u64::try_from(magic).unwrap(),
        version: 0,
        device: identity::device_of(stat.dev()),
        generation: 0,
        mode: stat.mode(),
        uid: stat.uid(),
        gid: stat.gid(),
        nlink: u32::try_from(stat.nlink()).unwrap(),
    }
}

fn start_of(pid: u32) -> ProcessStart {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, tail) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = tail.split(' ').nth(19).unwrap().parse().unwrap();
    ProcessStart {
        tgid: pid,
        // Anywhere within the tick.
        start_boot_ns: ticks * 10_000_000 + 1_234_567,
    }
}

/// What coreutils say of a file.
fn oracle(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg("-z").arg(path).output().unwrap();
    assert!(output.status.success(), "{program} {path:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').next().unwrap().to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(result: &HashResult) -> String {
    hex(&result.digests.unwrap().sha256)
}

struct Sleeper(Child);

impl Sleeper {
    /// Starts a copy of sleep(1) and waits until it runs.
    fn start(path: &Path) -> Self {
        let child = Command::new(path).arg("600").spawn().unwrap();
        // Command returns after the exec.
        Self(child)
    }

    fn place(&self, path: &Path) -> Place {
        Place {
            process: Some(start_of(self.0.id())),
            path: Some(path.as_os_str().as_bytes().to_vec()),
            ..Place::default()
        }
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        std::mem::forget(self);
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn sleep_program() -> PathBuf {
    fs::canonicalize("/bin/sleep").unwrap()
}

fn executed(fixture: &Fixture, place: Place, identity: FileIdentity) -> HashJob {
    HashJob {
        place,
        ..fixture.job(What::Executed, Path::new("/"), Some(identity))
    }
}

#[test]
fn a_running_program_is_verified_and_remembered() {
    let mut fixture = Fixture::new(HashConfig {
        algorithms: Algorithms {
            md5: true,
            sha1: true,
        },
        ..patient()
    });
    let path = fixture.program();
    let identity = fixture.settled(&path);
    let sleeper = Sleeper::start(&path);
    assert_eq!(
        fixture
            .pool
            .lookup(What::Executed, &identity, fixture.now()),
        None
    );
    let job = executed(&fixture, sleeper.place(&path), identity);
    let result = fixture.run(job);
    assert_eq!(result.verdict, HashVerdict::Verified);
    assert_eq!(result.source, HashSource::ProcExe);
    assert_eq!(sha256(&result), oracle("sha256sum", &path));
    let digests = result.digests.unwrap();
    assert_eq!(hex(&digests.md5.unwrap()), oracle("md5sum", &path));
    assert_eq!(hex(&digests.sha1.unwrap()), oracle("sha1sum", &path));
    let facts = result.facts.clone().unwrap();
    assert_eq!(facts.content, sensor_proto::v1::ContentType::ElfShared);
    assert_eq!(result.identity.unwrap().inode, identity.inode);
    let known = fixture
        .pool
        .lookup(What::Executed, &identity, fixture.now())
        .unwrap();
    assert_eq!(known.digests, digests);
    assert_eq!(known.facts, facts);
    // A file changed just before the event may have been changed back unseen.
    let racy = fixture
        .pool
        .lookup(What::Executed, &identity, identity.ctime_ns + 1);
    assert_eq!(racy, None);
    let overlay = FileIdentity {
        fs_magic: 0x794c_7630,
        ..identity
    };
    assert_eq!(
        fixture.pool.lookup(What::Executed, &overlay, fixture.now()),
        None
    );
    let unobserved = FileIdentity {
        fs_magic: 0,
        ..identity
    };
    assert_eq!(
        fixture
            .pool
            .lookup(What::Executed, &unobserved, fixture.now()),
        None
    );
    let stats = fixture.pool.stats();
    assert_eq!((stats.hits, stats.misses, stats.read_files), (1, 4, 1));
    assert_eq!(stats.read_bytes, identity.size);
    let message = result.message().unwrap();
    assert_eq!(message.sha256.unwrap(), digests.sha256);
    assert_eq!(message.verdict, i32::from(HashVerdict::Verified));
}

#[test]
fn an_unlinked_running_program_is_verified() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.program();
    let identity = fixture.settled(&path);
    let expected = oracle("sha256sum", &path);
    let sleeper = Sleeper::start(&path);
    fs::remove_file(&path).unwrap();
    let job = executed(&fixture, sleeper.place(&path), identity);
    let result = fixture.run(job);
    // Unlinking moved ctime: only that the program runs proves that nobody wrote it.
    let verdict = if fixture.pool.executables_frozen() {
        HashVerdict::Verified
    } else {
        HashVerdict::Drifted
    };
    assert_eq!(result.verdict, verdict);
    assert_eq!(sha256(&result), expected);
    let place = sleeper.place(&path);
    sleeper.end();
    let job = executed(&fixture, place, identity);
    let result = fixture.run(job);
    assert_eq!(result.verdict, HashVerdict::Gone);
    assert_eq!(
        (result.digests, result.source),
        (None, HashSource::Unspecified)
    );
}

#[test]
fn a_replaced_program_is_read_while_it_runs() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.program();
    let expected = oracle("sha256sum", &path);
    let identity = fixture.settled(&path);
    let sleeper = Sleeper::start(&path);
    let other = fixture.write("other", b"other");
    fs::rename(&other, &path).unwrap();
    let job = executed(&fixture, sleeper.place(&path), identity);
    let result = fixture.run(job);
    assert_eq!(sha256(&result), expected);
    assert_eq!(result.source, HashSource::ProcExe);
    let place = sleeper.place(&path);
    sleeper.end();
    let job = executed(&fixture, place, identity);
    let result = fixture.run(job);
    // Another file has the name: its digests would be of nothing that was executed.
    assert_eq!(
        (result.verdict, result.digests),
        (HashVerdict::Drifted, None)
    );
}

#[test]
fn a_rewritten_program_is_drifted() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.program();
    let identity = fixture.settled(&path);
    let sleeper = Sleeper::start(&path);
    let place = sleeper.place(&path);
    sleeper.end();
    // The same length, the modification time put back: only ctime tells.
    let content = vec![b'x'; usize::try_from(identity.size).unwrap()];
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&content).unwrap();
    let seconds = u64::try_from(identity.mtime_ns / 1_000_000_000).unwrap();
    let nanoseconds = u32::try_from(identity.mtime_ns % 1_000_000_000).unwrap();
    let before = std::time::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    file.set_modified(before).unwrap();
    drop(file);
    assert_eq!(identity_of(&path).mtime_ns, identity.mtime_ns);
    let job = executed(&fixture, place, identity);
    let result = fixture.run(job);
    assert_eq!(
        (result.verdict, result.source),
        (HashVerdict::Drifted, HashSource::Path)
    );
    assert_eq!(sha256(&result), oracle("sha256sum", &path));
    assert_eq!(
        fixture
            .pool
            .lookup(What::Executed, &identity, fixture.now()),
        None
    );
}

#[test]
fn another_process_with_the_pid_is_not_the_one() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.program();
    let identity = fixture.settled(&path);
    let sleeper = Sleeper::start(&path);
    let mut place = sleeper.place(&path);
    place.process = place.process.map(|start| ProcessStart {
        start_boot_ns: start.start_boot_ns - 50_000_000,
        ..start
    });
    let job = executed(&fixture, place.clone(), identity);
    let result = fixture.run(job);
    assert_eq!(
        (result.verdict, result.source),
        (HashVerdict::Verified, HashSource::Path)
    );
    place.path = None;
    let job = executed(&fixture, place, identity);
    assert_eq!(fixture.run(job).verdict, HashVerdict::Gone);
}

#[test]
fn a_change_within_a_tick_of_the_event_is_racy() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.write("script", b"#!/bin/sh\n");
    let identity = identity_of(&path);
    for (after_ns, verdict) in [
        (0, HashVerdict::Racy),
        (9_000_000, HashVerdict::Racy),
        (11_000_000, HashVerdict::Verified),
        (-5_000_000, HashVerdict::Racy),
    ] {
        let job = HashJob {
            event_wall_ns: identity.ctime_ns + after_ns,
            ..fixture.job(What::Script, &path, Some(identity))
        };
        let result = fixture.run(job);
        assert_eq!(result.verdict, verdict, "{after_ns}");
        assert_eq!(sha256(&result), oracle("sha256sum", &path));
    }
    // Reading waited for the tick to pass, or the content could not have been remembered.
    assert_eq!(fixture.pool.stats().read_files, 1);
}

#[test]
fn without_identity_a_script_is_racy_at_best() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.write("script", b"#!/bin/sh\necho\n");
    fixture.settled(&path);
    let result = fixture.run_path(What::Script, &path, None);
    assert_eq!(
        (result.verdict, result.source),
        (HashVerdict::Racy, HashSource::Path)
    );
    assert_eq!(sha256(&result), oracle("sha256sum", &path));
    assert_eq!(result.identity.unwrap().inode, identity_of(&path).inode);
    // Nobody's root: it cannot be said which file is meant.
    let job = fixture.job(What::Script, &path, None);
    assert_eq!(fixture.run(job).verdict, HashVerdict::Gone);
}

#[test]
fn relative_paths_are_of_the_working_directory() {
    let mut fixture = Fixture::new(patient());
    let program = fixture.program();
    let script = fixture.write("script", b"#!/bin/sh\n");
    let identity = fixture.settled(&script);
    let child = Command::new(&program)
        .arg("600")
        .current_dir(fixture.folder.path())
        .spawn()
        .unwrap();
    let sleeper = Sleeper(child);
    for (path, known) in [("./script", true), ("script", false)] {
        let place = Place {
            path: Some(path.as_bytes().to_vec()),
            ..sleeper.place(&script)
        };
        let job = HashJob {
            place,
            ..fixture.job(What::Script, &script, known.then_some(identity))
        };
        let result = fixture.run(job);
        assert_eq!(sha256(&result), oracle("sha256sum", &script));
    }
    let place = Place {
        path: Some(b"../script".to_vec()),
        ..sleeper.place(&script)
    };
    let job = HashJob {
        place,
        ..fixture.job(What::Script, &script, None)
    };
    assert_eq!(fixture.run(job).verdict, HashVerdict::Unreadable);
}

#[test]
fn what_is_no_regular_file_is_never_opened() {
    let mut fixture = Fixture::new(patient());
    let fifo = fixture.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let link = fixture.path("link");
    symlink(&fifo, &link).unwrap();
    let loops = fixture.path("loop");
    symlink(&loops, &loops).unwrap();
    let folder = fixture.folder.path().to_owned();
    for path in [&fifo, &link, &loops, &folder, Path::new("/dev/zero")] {
        let result = fixture.run_path(What::Script, path, None);
        assert_eq!(result.verdict, HashVerdict::Unreadable, "{path:?}");
        assert_eq!(result.digests, None);
    }
    let identity = identity_of(&fifo);
    let result = fixture.run_path(What::Created, &fifo, Some(identity));
    assert_eq!(result.verdict, HashVerdict::Unreadable);
    assert_eq!(fixture.pool.stats().read_files, 0);
}

#[test]
fn a_link_in_the_place_of_a_created_file_is_not_followed() {
    let mut fixture = Fixture::new(patient());
    let target = fixture.write("target", b"secret");
    let path = fixture.path("created");
    symlink(&target, &path).unwrap();
    let result = fixture.run_path(What::Created, &path, None);
    assert_eq!(
        (result.verdict, result.digests),
        (HashVerdict::Unreadable, None)
    );
    let identity = FileIdentity {
        inode: identity_of(&target).inode ^ (1 << 40),
        ..identity_of(&target)
    };
    let result = fixture.run_path(What::Created, &path, Some(identity));
    assert_eq!(
        (result.verdict, result.digests),
        (HashVerdict::Drifted, None)
    );
    // A script's path is as it was given: links in it are part of it.
    let result = fixture.run_path(What::Script, &path, Some(fixture.settled(&target)));
    assert_eq!(result.verdict, HashVerdict::Verified);
}

#[test]
fn large_files_are_not_read() {
    let mut fixture = Fixture::new(HashConfig {
        file_bytes: 1 << 20,
        ..patient()
    });
    let path = fixture.path("sparse");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let identity = fixture.settled(&path);
    for known in [true, false] {
        let result = fixture.run_path(What::Script, &path, known.then_some(identity));
        assert_eq!(
            (result.verdict, result.digests),
            (HashVerdict::TooLarge, None)
        );
    }
    assert_eq!(fixture.pool.stats().read_files, 0);
    let path = fixture.path("limit");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    unwritten(&path);
    let identity = fixture.settled(&path);
    let result = fixture.run_path(What::Script, &path, Some(identity));
    assert_eq!(result.verdict, HashVerdict::Verified);
    assert_eq!(sha256(&result), oracle("sha256sum", &path));
}

#[test]
fn reading_ends_at_the_time_limit() {
    let mut fixture = Fixture::new(HashConfig {
        timeout: Duration::ZERO,
        ..patient()
    });
    let path = fixture.write("file", &[b'x'; 1 << 20]);
    let identity = fixture.settled(&path);
    let result = fixture.run_path(What::Script, &path, Some(identity));
    assert_eq!(
        (result.verdict, result.digests),
        (HashVerdict::Timeout, None)
    );
    assert_eq!(fixture.pool.stats().stuck, 0);
}

#[test]
fn file_systems_that_can_hang_are_refused_before_opening() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.write("file", b"x");
    for magic in [0x6969, 0x6573_5546, 0xff53_4d42, 0x0102_1997, 0x0187] {
        let identity = FileIdentity {
            fs_magic: magic,
            ..identity_of(&path)
        };
        let result = fixture.run_path(What::Script, &path, Some(identity));
        assert_eq!(result.verdict, HashVerdict::RefusedFs);
        assert_eq!(
            fixture.pool.lookup(What::Script, &identity, fixture.now()),
            None
        );
    }
    let result = fixture.run_path(What::Script, Path::new("/proc/version"), None);
    assert_eq!(result.verdict, HashVerdict::RefusedFs);
    assert_eq!(fixture.pool.stats().read_files, 0);
}

#[test]
fn hostile_names() {
    let mut fixture = Fixture::new(patient());
    let long = [b'n'; 255];
    for name in [
        &b"line\nbreak"[..],
        b"\xff\xfe\x80",
        b"name (deleted)",
        b" ",
        b"-z",
        b"\x1b[2J",
        b"%s%n$(true)`true`",
        &long,
    ] {
        let path = fixture.write(OsStr::from_bytes(name), name);
        let identity = fixture.settled(&path);
        let result = fixture.run_path(What::Created, &path, Some(identity));
        assert_eq!(result.verdict, HashVerdict::Verified, "{name:?}");
        assert_eq!(sha256(&result), oracle("sha256sum", &path));
    }
    let too_long = fixture.path(OsStr::from_bytes(&[b'n'; 256]));
    let identity = identity_of(fixture.folder.path());
    let identity = FileIdentity {
        mode: 0,
        ..identity
    };
    let result = fixture.run_path(What::Created, &too_long, Some(identity));
    assert_eq!(result.verdict, HashVerdict::Unreadable);
    // A name with an end in it is no name.
    let result = fixture.run_path(What::Created, Path::new("/a\0b"), Some(identity));
    assert_eq!(result.verdict, HashVerdict::Unreadable);
}

#[test]
fn a_created_file_with_a_writer_is_open() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.path("created");
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"content").unwrap();
    let identity = fixture.settled(&path);
    let result = fixture.run_path(What::Created, &path, Some(identity));
    assert_eq!(result.verdict, HashVerdict::Open);
    drop(writer);
    unwritten(&path);
    let result = fixture.run_path(What::Created, &path, Some(identity));
    assert_eq!(result.verdict, HashVerdict::Verified);
    assert_eq!(sha256(&result), oracle("sha256sum", &path));

    // Without leases it is as the job says.
    let mut fixture = Fixture::new(HashConfig {
        leases: false,
        ..patient()
    });
    let path = fixture.write("created", b"content");
    let identity = fixture.settled(&path);
    for (writers, verdict) in [
        (Writers::Left, HashVerdict::Open),
        (Writers::Unknown, HashVerdict::Open),
        (Writers::Gone, HashVerdict::Verified),
    ] {
        let job = HashJob {
            writers,
            ..fixture.job(What::Created, &path, Some(identity))
        };
        assert_eq!(fixture.run(job).verdict, verdict);
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_is_drifted() {
    let mut fixture = Fixture::new(HashConfig {
        leases: false,
        ..patient()
    });
    let path = fixture.write("growing", &vec![b'x'; 2 << 20]);
    let identity = fixture.settled(&path);
    let ended = Arc::new(AtomicBool::new(false));
    let writer = {
        let (path, ended) = (path.clone(), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            let mut grown = 0;
            while !ended.load(Ordering::Relaxed) && grown < 64 << 20 {
                file.write_all(&[b'y'; 64]).unwrap();
                grown += 64;
            }
        })
    };
    wait_for(|| (identity_of(&path).size > identity.size).then_some(()));
    let now = identity_of(&path);
    let result = fixture.run_path(What::Created, &path, Some(now));
    ended.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert_eq!(result.verdict, HashVerdict::Drifted);
    assert_eq!(fixture.pool.stats().cached, 0);
}

/// Written under one name, renamed to another: found by its inode number, if the file system has such handles.
#[test]
fn a_renamed_file_is_found() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.write("part", b"content");
    let mut identity = fixture.settled(&path);
    let Ok(generation) = crate::kernel::sys::inode_generation(File::open(&path).unwrap().as_fd())
    else {
        return;
    };
    identity.generation = generation;
    let renamed = fixture.path("whole");
    fs::rename(&path, &renamed).unwrap();
    let result = fixture.run_path(What::Created, &path, Some(identity));
    if result.verdict == HashVerdict::Gone {
        // Without CAP_DAC_READ_SEARCH, or on a file system with handles of another kind.
        let by_inode = rustix::fs::openat(
            rustix::fs::CWD,
            fixture.folder.path(),
            rustix::fs::OFlags::RDONLY,
            rustix::fs::Mode::empty(),
        )
        .map(|folder| {
            let inode = u32::try_from(identity.inode).unwrap();
            crate::kernel::sys::open_inode(folder.as_fd(), inode, generation)
        });
        by_inode.unwrap().unwrap_err();
        return;
    }
    // Renaming moved ctime: that nothing else happened cannot be told.
    assert_eq!(result.verdict, HashVerdict::Drifted);
    assert_eq!(sha256(&result), oracle("sha256sum", &renamed));
    // Also if another file took the name, and not once the file is deleted.
    fs::write(&path, b"other").unwrap();
    let result = fixture.run_path(What::Created, &path, Some(identity));
    assert_eq!(sha256(&result), oracle("sha256sum", &renamed));
    fs::remove_file(&renamed).unwrap();
    let result = fixture.run_path(What::Created, &path, Some(identity));
    assert_eq!(
        (result.verdict, result.digests),
        (HashVerdict::Drifted, None)
    );
    fs::remove_file(&path).unwrap();
    let result = fixture.run_path(What::Created, &path, Some(identity));
    assert_eq!((result.verdict, result.digests), (HashVerdict::Gone, None));
}

#[test]
fn a_default_access_list_comes_with_a_created_file() {
    let mut fixture = Fixture::new(patient());
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, bits) in [(1_u16, 7_u16), (4, 5), (0x20, 0)] {
        list.extend(tag.to_le_bytes());
        list.extend(bits.to_le_bytes());
        list.extend(u32::MAX.to_le_bytes());
    }
    let folder = File::open(fixture.folder.path()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let has_lists =
        rustix::fs::fsetxattr(&folder, "system.posix_acl_default", &list, flags).is_ok();
    let path = fixture.write("created", b"x");
    let identity = fixture.settled(&path);
    let result = fixture.run_path(What::Created, &path, Some(identity));
    let expected = has_lists.then(|| "user::rwx,group::r-x,other::---".to_owned());
    assert_eq!(result.default_acl, expected);
}

#[test]
fn one_reading_serves_all_of_one_content() {
    let mut fixture = Fixture::new(patient());
    let path = fixture.write("file", &vec![b'x'; 8 << 20]);
    let identity = fixture.settled(&path);
    let expected = oracle("sha256sum", &path);
    for token in 0..50 {
        let job = HashJob {
            token,
            ..fixture.job(What::Script, &path, Some(identity))
        };
        fixture.pool.submit(job).unwrap();
    }
    let mut tokens: Vec<u64> = (0..50)
        .map(|_| {
            let result = fixture.next();
            assert_eq!(result.verdict, HashVerdict::Verified);
            assert_eq!(sha256(&result), expected);
            result.token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..50).collect::<Vec<_>>());
    let stats = fixture.pool.stats();
    assert_eq!(stats.read_files, 1);
    assert_eq!(stats.merged + stats.hits_open, 49);
    assert_eq!((stats.waiting, stats.pinned), (0, 0));
}

#[test]
fn every_job_gives_one_result_whatever_the_bounds() {
    let mut fixture = Fixture::new(HashConfig {
        waiting: 8,
        pinned: 2,
        threads: 1,
        outstanding: 400,
        cache_entries: 16,
        ..patient()
    });
    let paths: Vec<PathBuf> = (0..100)
        .map(|number| fixture.write(number.to_string(), &vec![b'x'; 100_000 + number]))
        .collect();
    let mut refused = 0;
    let mut accepted = Vec::new();
    for token in 0..500_usize {
        let path = &paths[token % 100];
        let job = HashJob {
            token: u64::try_from(token).unwrap(),
            ..fixture.job(What::Created, path, Some(identity_of(path)))
        };
        match fixture.pool.submit(job) {
            Ok(()) => accepted.push(u64::try_from(token).unwrap()),
            Err(job) => {
                assert_eq!(job.token, u64::try_from(token).unwrap());
                refused += 1;
            }
        }
    }
    // Nobody fetched: exactly as many as results can be kept.
    assert_eq!((accepted.len(), refused), (400, 100));
    let mut released = 0;
    let mut tokens: Vec<u64> = (0..400)
        .map(|_| {
            let result = fixture.next();
            if result.released.is_some() {
                assert_eq!(result.released, Some(Released::QueueFull));
                assert_eq!(result.message(), None);
                released += 1;
            } else {
                assert_eq!(result.verdict, HashVerdict::Verified);
            }
            result.token
        })
        .collect();
    tokens.sort_unstable();
    assert_eq!(tokens, accepted);
    let stats = fixture.pool.stats();
    assert_eq!((stats.accepted, stats.refused), (400, 100));
    assert_eq!(stats.results.iter().sum::<u64>(), 400);
    assert_eq!(
        (stats.results[0], stats.released_full),
        (released, released)
    );
    assert!(released > 0);
    assert!(stats.cached <= 16, "{stats:?}");
}

#[test]
fn stopping_releases_what_waits() {
    let mut fixture = Fixture::new(HashConfig {
        threads: 1,
        pinned: 1,
        ..patient()
    });
    let path = fixture.write("file", &vec![b'x'; 8 << 20]);
    let identity = fixture.settled(&path);
    for token in 0..20 {
        let job = HashJob {
            token,
            ..fixture.job(What::Created, &path, Some(identity))
        };
        fixture.pool.submit(job).unwrap();
    }
    fixture.pool.stop();
    let mut tokens: Vec<u64> = (0..20).map(|_| fixture.next().token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..20).collect::<Vec<_>>());
    assert!(fixture.pool.stats().released_stopped > 0);
    let job = fixture.job(What::Created, &path, Some(identity));
    fixture.pool.submit(job).unwrap_err();
}

/// On tmpfs, opening for writing may change content without moving any time: what was remembered is forgotten then.
#[test]
fn memory_file_systems_are_remembered_while_nobody_writes() {
    let mut fixture = Fixture::below(Path::new("/dev/shm"), patient());
    let path = fixture.program();
    let identity = fixture.settled(&path);
    let sleeper = Sleeper::start(&path);
    let job = executed(&fixture, sleeper.place(&path), identity);
    let result = fixture.run(job);
    assert_eq!(sha256(&result), oracle("sha256sum", &path));
    if !fixture.pool.executables_frozen() {
        assert_eq!(result.verdict, HashVerdict::Racy);
        return;
    }
    assert_eq!(result.verdict, HashVerdict::Verified);
    let known = fixture
        .pool
        .lookup(What::Executed, &identity, fixture.now())
        .unwrap();
    assert_eq!(Some(known.digests), result.digests);
    // Not for an event before the watch began, nor for created files, whose writers are not kept out.
    let before = identity.ctime_ns + 1;
    assert_eq!(fixture.pool.lookup(What::Executed, &identity, before), None);
    assert_eq!(
        fixture.pool.lookup(What::Created, &identity, fixture.now()),
        None
    );
    let place = sleeper.place(&path);
    sleeper.end();
    let job = executed(&fixture, place.clone(), identity);
    let result = fixture.run(job);
    assert_eq!(
        (result.verdict, result.cached),
        (HashVerdict::Verified, true)
    );
    drop(OpenOptions::new().write(true).open(&path).unwrap());
    unwritten(&path);
    assert_eq!(identity_of(&path), identity);
    assert_eq!(
        fixture
            .pool
            .lookup(What::Executed, &identity, fixture.now()),
        None
    );
    // The process is gone: nothing proves that the file is as it was.
    let job = executed(&fixture, place, identity);
    let result = fixture.run(job);
    assert_eq!((result.verdict, result.cached), (HashVerdict::Racy, false));
}

#[test]
fn a_program_without_a_name_is_verified() {
    let mut fixture = Fixture::new(patient());
    let memory = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut memory = File::from(memory);
    memory
        .write_all(&fs::read(sleep_program()).unwrap())
        .unwrap();
    let link = PathBuf::from(crate::enrich::file::descriptor_path(&memory));
    // Executing fails while a writer is left.
    let reader = File::open(&link).unwrap();
    drop(memory);
    unwritten(Path::new(&crate::enrich::file::descriptor_path(&reader)));
    let link = PathBuf::from(crate::enrich::file::descriptor_path(&reader));
    let identity = fixture.settled(&link);
    let sleeper = Sleeper::start(&link);
    let place = sleeper.place(Path::new("/memfd:program (deleted)"));
    let job = executed(&fixture, place, identity);
    let result = fixture.run(job);
    assert_eq!(sha256(&result), oracle("sha256sum", &sleep_program()));
    assert_eq!(result.source, HashSource::ProcExe);
    if fixture.pool.executables_frozen() {
        assert_eq!(result.verdict, HashVerdict::Verified);
    }
}

/// 200 distinct programs that end at once, four at a time, some unlinked or replaced right after they began.
#[test]
fn short_lived_programs() {
    let mut fixture = Fixture::new(patient());
    let program = fs::read(fs::canonicalize("/bin/true").unwrap()).unwrap();
    let mut expected = HashMap::new();
    let mut paths = Vec::new();
    for number in 0..200_u64 {
        let path = fixture.path(format!("program{number}"));
        let mut content = program.clone();
        content.extend(number.to_le_bytes());
        fs::write(&path, content).unwrap();
        unwritten(&path);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        expected.insert(number, oracle("sha256sum", &path));
        paths.push(path);
    }
    let other = fixture.write("other", b"other");
    let mut running = Vec::new();
    for (number, path) in (0_u64..).zip(&paths) {
        let identity = fixture.settled(path);
        let child = Command::new(path).stdin(Stdio::null()).spawn().unwrap();
        let place = Place {
            process: Some(start_of(child.id())),
            path: Some(path.as_os_str().as_bytes().to_vec()),
            ..Place::default()
        };
        let job = HashJob {
            token: number,
            ..executed(&fixture, place, identity)
        };
        fixture.pool.submit(job).unwrap();
        match number % 20 {
            3 => fs::remove_file(path).unwrap(),
            13 => {
                let copy = fixture.path("copy");
                fs::copy(&other, &copy).unwrap();
                fs::rename(&copy, path).unwrap();
            }
            _ => {}
        }
        running.push(child);
        if running.len() == 4 {
            for mut child in running.drain(..) {
                child.wait().unwrap();
            }
        }
    }
    let mut verified = 0;
    for _ in 0..200 {
        let result = fixture.next();
        if result.verdict == HashVerdict::Verified {
            verified += 1;
            assert_eq!(sha256(&result), expected[&result.token]);
        }
        match result.token % 20 {
            3 => assert!(
                matches!(
                    result.verdict,
                    HashVerdict::Verified | HashVerdict::Gone | HashVerdict::Drifted
                ),
                "{result:?}"
            ),
            13 => assert!(
                matches!(result.verdict, HashVerdict::Verified | HashVerdict::Drifted),
                "{result:?}"
            ),
            _ => assert_eq!(result.verdict, HashVerdict::Verified, "{result:?}"),
        }
        if result.verdict == HashVerdict::Drifted
            && let Some(digests) = result.digests
        {
            // Same content after all: unlinking moved ctime.
            assert_eq!(hex(&digests.sha256), expected[&result.token]);
        }
    }
    assert!(verified >= 180, "{verified}");
}

/// As in a container: another mount namespace, an overlay whose lower layer lies on another file system, so that stat(2)
/// gives a device that is not the kernel's.
#[test]
fn overlay_in_another_mount_namespace() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let mut fixture = Fixture::new(patient());
    let lower = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["upper", "work", "merged"] {
        fs::create_dir(fixture.path(name)).unwrap();
    }
    fs::copy(sleep_program(), lower.path().join("program")).unwrap();
    unwritten(&lower.path().join("program"));
    let options = format!(
        "lowerdir={},upperdir={},workdir={},xino=off",
        lower.path().display(),
        fixture.path("upper").display(),
        fixture.path("work").display()
    );
    let target = fixture.path("merged");
    // A thread of its own: the namespace is the thread's, and its children's.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).ok()?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).ok()?;
        let flags = MsFlags::empty();
        mount(
            Some("overlay"),
            &target,
            Some("overlay"),
            flags,
            Some(options.as_str()),
        )
        .ok()?;
        let path = target.join("program");
        let identity = identity_of(&path);
        let sleeper = Sleeper::start(&path);
        let mountinfo = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mountinfo
            .lines()
            .find(|line| line.contains(&*target.to_string_lossy()))
            .unwrap();
        let device = line.split(' ').nth(2).unwrap();
        let (major, minor) = device.split_once(':').unwrap();
        let device = (major.parse::<u32>().unwrap() << 20) | minor.parse::<u32>().unwrap();
        Some((
            sleeper,
            FileIdentity { device, ..identity },
            identity.device,
            target,
        ))
    });
    // Not permitted without CAP_SYS_ADMIN; the guests run this as root.
    let Some((sleeper, identity, stat_device, target)) = thread.join().unwrap() else {
        assert!(!rustix::process::geteuid().is_root());
        return;
    };
    assert_ne!(identity.device, stat_device);
    assert!(
        !target.join("program").exists(),
        "the mount is in another namespace"
    );
    wait_for(|| (!identity::within_granule(&identity, fixture.now())).then_some(()));
    let expected = oracle("sha256sum", &sleep_program());
    let place = sleeper.place(&target.join("program"));
    for cached in [false, true] {
        assert_eq!(
            fixture
                .pool
                .lookup(What::Executed, &identity, fixture.now()),
            None
        );
        let job = executed(&fixture, place.clone(), identity);
        let result = fixture.run(job);
        assert_eq!(
            (result.verdict, result.source, result.cached),
            (HashVerdict::Verified, HashSource::ProcExe, cached)
        );
        assert_eq!(sha256(&result), expected);
    }
    // By the path in the process's root.
    let job = HashJob {
        what: What::Script,
        ..executed(&fixture, place.clone(), identity)
    };
    let result = fixture.run(job);
    assert_eq!(
        (result.verdict, result.source),
        (HashVerdict::Verified, HashSource::Path)
    );
    // The same numbers on another device are another file.
    let other = FileIdentity {
        device: identity.device + 1,
        ..identity
    };
    let job = executed(&fixture, place.clone(), other);
    let result = fixture.run(job);
    assert_eq!(
        (result.verdict, result.digests),
        (HashVerdict::Drifted, None)
    );
    // The lower file is rewritten from outside while the program runs, its modification time put back.
    let file = lower.path().join("program");
    let stat = fs::metadata(&file).unwrap();
    let content = vec![b'x'; usize::try_from(stat.len()).unwrap()];
    let rewritten = OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut open| {
            open.write_all(&content)?;
            open.set_modified(stat.modified().unwrap())
        });
    if rewritten.is_ok() {
        let job = executed(&fixture, place.clone(), identity);
        assert_eq!(fixture.run(job).verdict, HashVerdict::Drifted);
    }
    // In the daemon's own namespace there is no such file.
    sleeper.end();
    let job = executed(&fixture, place, identity);
    assert_eq!(fixture.run(job).verdict, HashVerdict::Gone);
}
