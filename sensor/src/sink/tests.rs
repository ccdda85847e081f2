use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;

use super::file::{Appender, FileError, Rotation};
use super::*;

/// What a scripted target does with one write.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Takes at most so many bytes.
    Take(usize),
    Fail(i32),
    /// Waits until the test lets it go on, then takes all.
    Hold,
}

/// Follows a script, then takes everything.
struct Scripted {
    script: VecDeque<Act>,
    written: Arc<Mutex<Vec<u8>>>,
    taken_back: Arc<Mutex<Vec<usize>>>,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Target for Scripted {
    fn begin(&mut self, _length: usize, _listener: &Listener) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match self.script.pop_front() {
            None => bytes.len(),
            Some(Act::Take(count)) => count.min(bytes.len()),
            Some(Act::Fail(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Act::Hold) => {
                let mut open = self.gate.0.lock().unwrap();
                while !*open {
                    open = self.gate.1.wait(open).unwrap();
                }
                bytes.len()
            }
        };
        self.written
            .lock()
            .unwrap()
            .extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn take_back(&mut self, written: usize) {
        self.taken_back.lock().unwrap().push(written);
    }

    fn is_final(&self, error: &io::Error) -> bool {
        error.raw_os_error() == Some(EPIPE)
    }
}

const ENOSPC: i32 = 28;
const EPIPE: i32 = 32;

struct Bench {
    sink: SinkHandle,
    written: Arc<Mutex<Vec<u8>>>,
    taken_back: Arc<Mutex<Vec<usize>>>,
    gate: Arc<(Mutex<bool>, Condvar)>,
    notices: mpsc::Receiver<Notice>,
}

impl Bench {
    fn new(capacity: usize, script: &[Act]) -> Self {
        let (tell, notices) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let taken_back = Arc::<Mutex<Vec<usize>>>::default();
        let gate = Arc::<(Mutex<bool>, Condvar)>::default();
        let target = Scripted {
            script: script.iter().copied().collect(),
            written: Arc::clone(&written),
            taken_back: Arc::clone(&taken_back),
            gate: Arc::clone(&gate),
        };
        let listener: Listener = Box::new(move |notice| drop(tell.send(notice)));
        let sink =
            SinkHandle::spawn("test", target, capacity, listener, &Confinement::default()).unwrap();
        Self {
            sink,
            written,
            taken_back,
            gate,
            notices,
        }
    }

    fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }

    /// Waits until the sink's account satisfies a condition.
    fn until(&self, what: &str, condition: impl Fn(&SinkAccount) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !condition(&self.sink.account()) {
            assert!(Instant::now() < end, "{what}: {:?}", self.sink.account());
            std::thread::yield_now();
        }
    }
}

fn batch(lines: &str) -> Batch {
    let mut batch = Batch {
        lines: lines.as_bytes().to_vec(),
        ..Batch::default()
    };
    for line in lines.lines() {
        batch.count(if line.starts_with('x') {
            EventType::Exit
        } else {
            EventType::Exec
        });
    }
    batch
}

fn balanced(account: &SinkAccount) -> bool {
    account.sealed == account.acked + account.waiting + account.lost.values().sum::<u64>()
}

#[test]
fn everything_is_written_in_order_and_counted_by_type() {
    let bench = Bench::new(1 << 20, &[Act::Take(1), Act::Take(3)]);
    for number in 0..100 {
        bench.sink.send(batch(&format!("a{number}\nx\n")));
    }
    let written = Arc::clone(&bench.written);
    let accounts = bench.sink.close_and_join(Duration::from_secs(20));
    let expected: String = (0..100).map(|number| format!("a{number}\nx\n")).collect();
    assert_eq!(
        String::from_utf8(written.lock().unwrap().clone()).unwrap(),
        expected
    );
    let all = SinkAccount {
        sealed: 100,
        acked: 100,
        ..SinkAccount::default()
    };
    assert_eq!(accounts.get(&EventType::Exec), Some(&all));
    assert_eq!(accounts.get(&EventType::Exit), Some(&all));
}

#[test]
fn a_full_disk_is_told_once_and_writing_resumes_where_it_stopped() {
    let script = [
        Act::Take(3),
        Act::Fail(ENOSPC),
        Act::Fail(ENOSPC),
        Act::Take(2),
    ];
    let bench = Bench::new(1 << 20, &script);
    bench.sink.send(batch("first\nxsecond\n"));
    bench.sink.send(batch("third\n"));
    bench.until("written", |account| account.acked == 3);
    assert_eq!(bench.text(), "first\nxsecond\nthird\n");
    let Notice::Failing(error) = bench.notices.recv().unwrap() else {
        panic!("not told")
    };
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    let Notice::Recovered { lost, after } = bench.notices.recv().unwrap() else {
        panic!("not told")
    };
    assert_eq!(lost, 0);
    assert!(after >= RETRY_FIRST);
    bench.notices.try_recv().unwrap_err();
}

#[test]
fn while_the_target_fails_the_queue_fills_and_the_rest_is_counted() {
    let mut script = vec![Act::Fail(ENOSPC); 3];
    script.insert(0, Act::Take(1));
    let bench = Bench::new(20, &script);
    bench.sink.send(batch("0123456789\n"));
    assert!(matches!(bench.notices.recv().unwrap(), Notice::Failing(_)));
    let begin = Instant::now();
    for _ in 0..50 {
        bench.sink.send(batch("abcdefg\n"));
    }
    assert!(
        begin.elapsed() < PATIENCE,
        "a failing target is not waited for"
    );
    let account = bench.sink.account();
    assert!(balanced(&account), "{account:?}");
    assert_eq!((account.waiting, account.lost[OUTPUT_FULL]), (2, 49));
    bench.until("resumed", |account| account.waiting == 0);
    assert_eq!(bench.text(), "0123456789\nabcdefg\n");
    let Notice::Recovered { lost, .. } = bench.notices.recv().unwrap() else {
        panic!("not told")
    };
    assert_eq!(lost, 49);
    // Room again: nothing more is lost.
    bench.sink.send(batch("later\n"));
    bench.until("later", |account| account.acked == 3);
}

#[test]
fn a_slow_target_is_waited_for_once() {
    let bench = Bench::new(16, &[Act::Hold]);
    bench.sink.send(batch("0123456789\n"));
    bench.until("in flight", |account| account.waiting == 1);
    let begin = Instant::now();
    bench.sink.send(batch("abcdefghij\n"));
    assert!(begin.elapsed() >= PATIENCE);
    let begin = Instant::now();
    bench.sink.send(batch("abcdefghij\n"));
    assert!(
        begin.elapsed() < PATIENCE,
        "the second time it is known to be slow"
    );
    bench.open_gate();
    bench.until("written", |account| account.acked == 1);
    let account = bench.sink.account();
    assert_eq!(account.lost[OUTPUT_FULL], 2);
    assert!(balanced(&account), "{account:?}");
}

#[test]
fn a_batch_longer_than_the_queue_is_written() {
    let bench = Bench::new(4, &[]);
    bench.sink.send(batch("longer than the queue\n"));
    bench.until("written", |account| account.acked == 1);
}

#[test]
fn a_closed_output_loses_all_that_waits_and_says_so() {
    let bench = Bench::new(1 << 20, &[Act::Take(2), Act::Fail(EPIPE)]);
    bench.sink.send(batch("first\n"));
    assert!(matches!(bench.notices.recv().unwrap(), Notice::Closed(_)));
    bench.sink.send(batch("second\nxthird\n"));
    let accounts = bench.sink.close_and_join(Duration::from_secs(20));
    let account = total(accounts.values());
    assert_eq!((account.sealed, account.acked, account.waiting), (3, 0, 0));
    assert_eq!(account.lost[OUTPUT_CLOSED], 3);
}

#[test]
fn closing_gives_up_in_time_and_takes_back_what_was_begun() {
    let mut script = vec![Act::Fail(ENOSPC); 1_000];
    script.insert(0, Act::Take(4));
    let bench = Bench::new(1 << 20, &script);
    bench.sink.send(batch("first\nsecond\n"));
    bench.sink.send(batch("third\n"));
    let begin = Instant::now();
    let taken_back = Arc::clone(&bench.taken_back);
    let account = total(
        bench
            .sink
            .close_and_join(Duration::from_millis(200))
            .values(),
    );
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!((account.sealed, account.acked, account.waiting), (3, 0, 0));
    assert_eq!(account.lost[OUTPUT_UNFINISHED], 3);
    assert_eq!(*taken_back.lock().unwrap(), [4]);
}

#[test]
fn closing_does_not_wait_for_a_write_that_never_ends() {
    let bench = Bench::new(1 << 20, &[Act::Hold]);
    bench.sink.send(batch("first\n"));
    bench.until("in flight", |account| account.waiting == 1);
    let gate = Arc::clone(&bench.gate);
    let account = total(
        bench
            .sink
            .close_and_join(Duration::from_millis(50))
            .values(),
    );
    assert_eq!(account.lost[OUTPUT_UNFINISHED], 1);
    assert!(balanced(&account));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

// The file.

const NO_ROTATION: Rotation = Rotation {
    bytes: None,
    age: None,
    keep: 3,
};

fn silent() -> Listener {
    Box::new(|notice| panic!("{notice:?}"))
}

fn file(path: &Path, rotation: Rotation) -> SinkHandle {
    file::spawn(
        path,
        rotation,
        Box::new(|| 0),
        1 << 20,
        silent(),
        &Confinement::default(),
    )
    .unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "torn line in {}: {text:?}",
        path.display()
    );
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_private_appended_to_and_mended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.json");
    std::fs::write(&path, "old\ntor").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let sink = file(&path, NO_ROTATION);
    sink.send(batch("new\n"));
    let account = total(sink.close_and_join(Duration::from_secs(20)).values());
    assert_eq!(account.acked, 1);
    assert_eq!(lines(&path), ["old", "tor", "new"]);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
}

#[test]
fn no_line_is_lost_or_torn_over_rotations() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.json");
    let rotation = Rotation {
        bytes: Some(100),
        age: None,
        keep: 40,
    };
    let sink = file(&path, rotation);
    let all: Vec<String> = (0..200).map(|number| format!("line {number:04}")).collect();
    for pair in all.chunks(2) {
        sink.send(batch(&format!("{}\n{}\n", pair[0], pair[1])));
    }
    let account = total(sink.close_and_join(Duration::from_secs(20)).values());
    assert_eq!(account.acked, 200);
    let mut found = Vec::new();
    for number in (1..=40).rev() {
        let aside = directory.path().join(format!("events.json.{number}"));
        if aside.exists() {
            let length = std::fs::metadata(&aside).unwrap().len();
            assert!((81..=100).contains(&length), "{length}");
            found.extend(lines(&aside));
        }
    }
    found.extend(lines(&path));
    assert_eq!(found, all);
}

#[test]
fn only_so_many_files_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e");
    let sink = file(
        &path,
        Rotation {
            bytes: Some(1),
            age: None,
            keep: 2,
        },
    );
    for number in 0..6 {
        sink.send(batch(&format!("{number}\n")));
    }
    sink.close_and_join(Duration::from_secs(20));
    let mut names: Vec<String> = directory
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["e", "e.1", "e.2"]);
    assert_eq!(lines(&path), ["5"]);
    assert_eq!(lines(&directory.path().join("e.2")), ["3"]);
}

#[test]
fn an_old_file_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e");
    let rotation = Rotation {
        bytes: None,
        age: Some(Duration::from_secs(60)),
        keep: 2,
    };
    let now = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let clock = Arc::clone(&now);
    let read = move || clock.load(std::sync::atomic::Ordering::SeqCst);
    let mut appender = Appender::open(&path, rotation, Box::new(read)).unwrap();
    let mut write = |second: i64, text: &[u8]| {
        now.store(second * 1_000_000_000, std::sync::atomic::Ordering::SeqCst);
        appender.begin(text.len(), &silent()).unwrap();
        assert_eq!(appender.write(text).unwrap(), text.len());
    };
    write(1_000, b"a\n");
    write(1_059, b"b\n");
    write(1_060, b"c\n");
    assert_eq!(lines(&directory.path().join("e.1")), ["a", "b"]);
    assert_eq!(lines(&path), ["c"]);
}

#[test]
fn a_removed_file_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e");
    let mut appender = Appender::open(&path, NO_ROTATION, Box::new(|| 0)).unwrap();
    std::fs::remove_file(&path).unwrap();
    appender.begin(2, &silent()).unwrap();
    appender.write(b"a\n").unwrap();
    assert_eq!(lines(&path), ["a"]);
}

#[test]
fn what_cannot_be_set_aside_grows_on_and_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e");
    // A directory that is not empty cannot be renamed over.
    std::fs::create_dir_all(directory.path().join("e.1/x")).unwrap();
    let rotation = Rotation {
        bytes: Some(3),
        age: None,
        keep: 1,
    };
    let (tell, notices) = mpsc::channel();
    let listener: Listener = Box::new(move |notice| drop(tell.send(notice)));
    let mut appender = Appender::open(&path, rotation, Box::new(|| 0)).unwrap();
    for text in [b"a\n", b"b\n", b"c\n"] {
        appender.begin(2, &listener).unwrap();
        appender.write(text).unwrap();
    }
    assert_eq!(lines(&path), ["a", "b", "c"]);
    assert!(matches!(notices.try_recv().unwrap(), Notice::NotRotated(_)));
    notices.try_recv().unwrap_err();
    std::fs::remove_dir_all(directory.path().join("e.1")).unwrap();
    appender.begin(2, &listener).unwrap();
    appender.write(b"d\n").unwrap();
    assert_eq!(lines(&path), ["d"]);
}

#[test]
fn a_batch_that_was_begun_can_be_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("e");
    let mut appender = Appender::open(&path, NO_ROTATION, Box::new(|| 0)).unwrap();
    appender.begin(9, &silent()).unwrap();
    appender.write(b"whole\n").unwrap();
    appender.write(b"tor").unwrap();
    appender.take_back(3);
    assert_eq!(lines(&path), ["whole"]);
}

#[test]
fn files_that_are_not_its_own_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("real"), "").unwrap();
    std::os::unix::fs::symlink(at("real"), at("link")).unwrap();
    let open = |path: &Path| {
        Appender::open(path, NO_ROTATION, Box::new(|| 0))
            .err()
            .unwrap()
    };
    assert!(matches!(open(&at("link")), FileError::NotOpened { .. }));
    assert!(matches!(
        open(directory.path()),
        FileError::NotOpened { .. }
    ));
    assert!(matches!(
        open(Path::new("/dev/null")),
        FileError::NotRegular { .. }
    ));
    assert!(matches!(
        open(&at("missing/e")),
        FileError::NotOpened { .. }
    ));
}
