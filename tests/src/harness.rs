//! Starts the sensor, collects what it reports, and waits for what a test expects.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::place::Place;
use crate::trigger;

/// What a line of the log says when the sensor observes everything that it will.
const READY: &str = "ready";
/// What tells there how long the start took.
const READY_AFTER: &str = "after_ms";
/// What begins the line of the account at the end.
const LEDGER: &str = "ledger ";
/// How many of the events are told when an expected one does not come.
const TOLD: usize = 40;

/// How to start a sensor.
#[derive(Debug)]
pub struct Options {
    /// Event types, as on its command line.
    pub events: String,
    /// Its configuration file.
    pub config: String,
    /// Cgroup that it is confined to; on hosts it must be confined.
    pub scope: Option<PathBuf>,
    /// Backend to force.
    pub backend: String,
    /// How it writes events.
    pub format: &'static str,
    /// What is kept of each event, where whole ones would take too much memory.
    pub keep: fn(Value) -> Value,
    /// Program that runs it, with arguments: a tracer.
    pub wrapper: Vec<OsString>,
    /// Where its events go; `None`: to this test.
    pub output: Option<fs::File>,
    /// Records to this file instead of telling events.
    pub record: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let place = Place::here();
        Self {
            events: "exec,exit,fork,file_create,connect,module_load".to_owned(),
            config: String::new(),
            scope: (!place.guest).then(|| place.scope.clone()),
            backend: place.backend.clone(),
            format: "json",
            keep: |event| event,
            wrapper: Vec::new(),
            output: None,
            record: None,
        }
    }
}

/// A sensor that runs.
#[derive(Debug)]
pub struct Sensor {
    child: Child,
    shared: Arc<Shared>,
    readers: Vec<std::thread::JoinHandle<()>>,
    /// Holds its configuration file.
    folder: TempDir,
}

/// What its two pipes have said until now.
#[derive(Debug, Default)]
struct Shared {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    events: Vec<Value>,
    log: Vec<String>,
    /// Lines on standard output that are not JSON objects.
    broken: Vec<String>,
    log_ended: bool,
    events_ended: bool,
}

/// How a sensor ended.
#[derive(Debug)]
pub struct End {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its account, if it gave one.
    pub ledger: Option<Ledger>,
    /// Every line of its log.
    pub log: Vec<String>,
    /// Every event.
    pub events: Vec<Value>,
}

/// The sensor's account at its end.
#[derive(Debug)]
pub struct Ledger(pub Value);

impl Sensor {
    /// Starts it and waits until it is ready; panics with its log if it ends instead.
    pub fn start(options: Options) -> Self {
        let sensor = Self::launch(options);
        sensor.wait_ready();
        sensor
    }

    /// Starts it without waiting.
    pub fn launch(options: Options) -> Self {
        let place = Place::here();
        assert!(
            place.guest || options.scope.is_some(),
            "on a host the sensor runs scoped only"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("sensor.toml");
        fs::write(&config, &options.config).expect("a configuration file");
        // It is moved out of the watched cgroup before it begins.
        let mut words = options.wrapper.clone();
        words.push(place.sensor.clone().into());
        let (program, rest) = words.split_first().expect("a program");
        let mut command = trigger::command_in(&place.outside, Path::new(program));
        command
            .args(rest)
            .args(match &options.record {
                None => vec![
                    OsStr::new("run"),
                    OsStr::new("--format"),
                    OsStr::new(options.format),
                ],
                Some(file) => vec![OsStr::new("record"), file.as_os_str()],
            })
            .arg("--stats")
            .args(["--events", &options.events])
            .args(["--backend", &options.backend])
            .arg("--config")
            .arg(&config);
        if let Some(scope) = &options.scope {
            command.arg("--scope-cgroup").arg(scope);
        }
        command.env_remove("SENSOR_LOG").env_remove("NO_COLOR");
        Self::of(command, options.keep, options.output, folder)
    }

    fn of(
        mut command: Command,
        keep: fn(Value) -> Value,
        output: Option<fs::File>,
        folder: TempDir,
    ) -> Self {
        let output = output.map_or_else(Stdio::piped, Stdio::from);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let shared = Arc::new(Shared::default());
        let log = child.stderr.take().expect("a pipe");
        let mut readers = vec![std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.read_log(BufReader::new(log))
        })];
        match child.stdout.take() {
            Some(events) => readers.push(std::thread::spawn({
                let shared = Arc::clone(&shared);
                move || shared.read_events(events, keep)
            })),
            None => shared.lock().events_ended = true,
        }
        Self {
            child,
            shared,
            readers,
            folder,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("sensor.toml")
    }

    /// Waits until it observes.
    pub fn wait_ready(&self) {
        self.wait_log("the sensor to be ready", is_ready);
    }

    /// Waits for a line of its log.
    pub fn wait_log(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let told = self.shared.wait(Place::here().patience(), |said| {
            if said.log.iter().any(|line| wanted(line)) {
                Some(true)
            } else {
                said.log_ended.then_some(false)
            }
        });
        assert!(
            told == Some(true),
            "waited in vain for {what}; its log:\n{}",
            self.shared.lock().log.join("\n")
        );
    }

    /// Hook family that it chose for each kind of record, as its log says; `none` where there is none.
    pub fn hooks(&self) -> BTreeMap<String, String> {
        let said = self.shared.lock();
        let line = said.log.iter().find(|line| is_ready(line));
        let line = line.expect("a sensor that is ready");
        line.split(' ')
            .filter_map(|word| {
                let word = word.strip_prefix("hooks=").unwrap_or(word);
                let (kind, family) = word.trim_matches('"').split_once('=')?;
                Some((kind.to_owned(), family.trim_matches('"').to_owned()))
            })
            .filter(|(kind, _)| kind != READY_AFTER)
            .collect()
    }

    /// The `backend` of its events of a kind, which none says that has no such word in the schema.
    pub fn backend(&self, kind: &str) -> String {
        let hooks = self.hooks();
        let family = hooks
            .get(kind)
            .unwrap_or_else(|| panic!("no {kind} in {hooks:?}"));
        family.replace('-', "_")
    }

    /// How many events came until now: where a later look can begin.
    pub fn mark(&self) -> usize {
        self.shared.lock().events.len()
    }

    /// Waits for an event that `wanted` knows.
    pub fn expect(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.expect_from(0, what, wanted)
    }

    /// As [`Self::expect`], among the events after a mark.
    pub fn expect_from(&self, mark: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut looked = mark;
        let found = self.shared.wait(Place::here().patience(), |said| {
            let new = said.events.get(looked..).unwrap_or_default();
            let found = new.iter().find(|event| wanted(event)).cloned();
            looked = said.events.len();
            match found {
                Some(event) => Some(Some(event)),
                None => said.events_ended.then_some(None),
            }
        });
        match found.flatten() {
            Some(event) => event,
            None => panic!(
                "waited in vain for {what}; the last events:\n{}\nits log:\n{}",
                self.recent(mark),
                self.shared.lock().log.join("\n")
            ),
        }
    }

    /// Every event until now, after a mark, that `wanted` knows.
    pub fn all_from(&self, mark: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let said = self.shared.lock();
        let events = said.events.get(mark..).unwrap_or_default();
        events
            .iter()
            .filter(|event| wanted(event))
            .cloned()
            .collect()
    }

    /// Waits until `count` events that `wanted` knows have come after a mark.
    pub fn expect_count(
        &self,
        mark: usize,
        what: &str,
        count: usize,
        wanted: impl Fn(&Value) -> bool,
    ) {
        let found = self.count_from(mark, count, wanted);
        assert!(found >= count, "{found} of {count} came: {what}");
    }

    /// Waits until `count` events that `wanted` knows have come after a mark, or for a long time; gives how many came.
    pub fn count_from(&self, mark: usize, count: usize, wanted: impl Fn(&Value) -> bool) -> usize {
        let (mut looked, mut found) = (mark, 0);
        self.shared.wait(Place::here().patience() * 2, |said| {
            let new = said.events.get(looked..).unwrap_or_default();
            found += new.iter().filter(|event| wanted(event)).count();
            looked = said.events.len();
            (found >= count).then_some(())
        });
        found
    }

    /// The event with what was promised for later, once that has come.
    pub fn settled(&self, event: &Value) -> Value {
        self.patched(event, |event| !pending(event))
    }

    /// A file_create event with its final file, once the last writer has closed it.
    pub fn closed(&self, event: &Value) -> Value {
        self.patched(event, |event| {
            event["file_create"]["closed"] == true && !pending(&event["file_create"])
        })
    }

    /// The event with its patches, once it is as wanted.
    pub fn patched(&self, event: &Value, done: impl Fn(&Value) -> bool) -> Value {
        let mut event = event.clone();
        let mut looked = 0;
        let whole = self.shared.wait(Place::here().patience(), |said| {
            for patch in said.events.get(looked..).unwrap_or_default() {
                if patch["type"] == "patch" && patch["patch"]["of"] == event["id"] {
                    apply(&mut event, &patch["patch"]);
                }
            }
            looked = said.events.len();
            done(&event).then_some(())
        });
        assert!(whole.is_some(), "what was promised never came: {event:#}");
        event
    }

    fn recent(&self, mark: usize) -> String {
        let said = self.shared.lock();
        let events = said.events.get(mark..).unwrap_or_default();
        events
            .iter()
            .rev()
            .take(TOLD)
            .map(outline)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Lines of standard output that are no JSON objects.
    pub fn broken_lines(&self) -> Vec<String> {
        self.shared.lock().broken.clone()
    }

    /// Lines of its log until now.
    pub fn log(&self) -> Vec<String> {
        self.shared.lock().log.clone()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a running sensor");
    }

    /// Asks it to end as Ctrl-C does and waits for that.
    pub fn stop(self) -> End {
        self.signal(Signal::SIGINT);
        self.wait()
    }

    /// Kills it, as the kernel does when memory is short.
    pub fn kill(mut self) {
        self.child.kill().expect("a running sensor");
        self.child.wait().expect("a child");
    }

    /// Waits for its end.
    pub fn wait(mut self) -> End {
        let limit = Place::here().patience();
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the sensor did not end within {limit:?}; its log:\n{}",
                self.log().join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("a reader");
        }
        let mut said = self.shared.lock();
        assert_eq!(said.broken, Vec::<String>::new(), "lines that are no JSON");
        let (events, log) = (
            std::mem::take(&mut said.events),
            std::mem::take(&mut said.log),
        );
        End {
            status,
            ledger: ledger_in(&log),
            log,
            events,
        }
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        // A test that failed leaves it running. Its account says what the kernel kept from it.
        let Ok(None) = self.child.try_wait() else {
            return;
        };
        self.signal(Signal::SIGINT);
        let deadline = Instant::now() + LAST_WORDS;
        while Instant::now() < deadline && !self.shared.lock().log_ended {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop((self.child.kill(), self.child.wait()));
        if let Some(ledger) = ledger_in(&self.shared.lock().log) {
            SKIPPED.fetch_add(ledger.unseen(""), Ordering::Relaxed);
        }
    }
}

/// How long a sensor whose test has failed may take to give its account.
const LAST_WORDS: Duration = Duration::from_secs(20);
/// Programs that the kernel skipped below sensors whose tests failed, as their accounts say.
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// How many programs at most the kernel has skipped below the sensors of a test that failed, by their own accounts. It ends the
/// sensor that tests share.
pub fn skipped_by_the_kernel() -> u64 {
    drop(
        SHARED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take(),
    );
    SKIPPED.swap(0, Ordering::Relaxed)
}

/// The account at the end of a log.
fn ledger_in(log: &[String]) -> Option<Ledger> {
    log.iter()
        .rev()
        .find_map(|line| line.strip_prefix(LEDGER))
        .map(|text| Ledger(serde_json::from_str(text).expect("the ledger is JSON")))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read_log(&self, log: impl std::io::BufRead) {
        for line in log.split(b'\n') {
            let Ok(line) = line else { break };
            let line = plain(&String::from_utf8_lossy(&line));
            self.lock().log.push(line);
            self.more.notify_all();
        }
        self.lock().log_ended = true;
        self.more.notify_all();
    }

    fn read_events(&self, output: ChildStdout, keep: fn(Value) -> Value) {
        let mut output = BufReader::with_capacity(1 << 20, output);
        let mut line = Vec::new();
        while output
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            match serde_json::from_slice::<Value>(&line) {
                Ok(event) if event.is_object() => self.lock().events.push(keep(event)),
                Ok(_) | Err(_) => {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    self.lock().broken.push(text);
                }
            }
            self.more.notify_all();
            line.clear();
        }
        self.lock().events_ended = true;
        self.more.notify_all();
    }

    fn wait<T>(&self, limit: Duration, mut look: impl FnMut(&Said) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut said = self.lock();
        loop {
            if let Some(found) = look(&said) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            said = self
                .more
                .wait_timeout(said, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
    }
}

impl End {
    /// It ended as asked, and its account is closed.
    pub fn assert_clean(&self) -> &Ledger {
        let log = self.log.join("\n");
        assert_eq!(self.status.code(), Some(0), "{}\n{log}", self.status);
        let ledger = self
            .ledger
            .as_ref()
            .unwrap_or_else(|| panic!("no ledger in the log:\n{log}"));
        assert_eq!(
            ledger.0["imbalances"],
            serde_json::json!([]),
            "the account is open: {:#}",
            ledger.0
        );
        assert!(!log.contains("panicked"), "{log}");
        ledger
    }
}

impl Ledger {
    /// A number of the kernel's side of a row.
    pub fn kernel(&self, row: &str, term: &str) -> u64 {
        self.number(&format!("/rows/{row}/kernel/{term}"))
    }

    /// A number of the daemon's side of a row.
    pub fn daemon(&self, row: &str, term: &str) -> u64 {
        self.number(&format!("/rows/{row}/daemon/{term}"))
    }

    /// How often at most the kernel skipped the programs whose names begin so.
    pub fn unseen(&self, program: &str) -> u64 {
        let counts = self.0["unseen_at_most"].as_object();
        let ours = counts
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with(program));
        ours.filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// Sum of the losses of a row: in the kernel, in the reader and behind it.
    pub fn lost(&self, row: &str) -> u64 {
        ["kernel/lost", "daemon/lost_in_reader", "daemon/lost"]
            .iter()
            .map(|term| self.number(&format!("/rows/{row}/{term}")))
            .sum()
    }

    /// A number, or the sum of an object of numbers.
    fn number(&self, pointer: &str) -> u64 {
        match self.0.pointer(pointer) {
            Some(Value::Object(causes)) => causes.values().filter_map(Value::as_u64).sum(),
            Some(value) => value
                .as_u64()
                .unwrap_or_else(|| panic!("{pointer} is {value}")),
            None => panic!("the ledger has no {pointer}: {:#}", self.0),
        }
    }
}

fn is_ready(line: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric())
        .any(|word| word == READY)
}

/// A line without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    text
}

/// Something in the event is still to come.
fn pending(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, inner)| {
            if name == "absent" {
                inner
                    .as_object()
                    .is_some_and(|absent| absent.values().any(|reason| reason == "pending"))
            } else {
                pending(inner)
            }
        }),
        Value::Array(list) => list.iter().any(pending),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Puts a patch into the event that it completes.
fn apply(event: &mut Value, patch: &Value) {
    if let Some(part) = patch.get("file") {
        let place = match part["slot"].as_str() {
            Some("image") => &mut event["process"]["image"],
            Some("script") => {
                let index = part["index"].as_u64().expect("an index");
                &mut event["process"]["script_chain"][usize::try_from(index).expect("small")]
            }
            Some("created") => &mut event["file_create"]["file"],
            Some("module") => &mut event["module_load"]["file"],
            slot => panic!("slot {slot:?} of {patch:#}"),
        };
        renew(place, &part["file"]);
    }
    if let Some(file) = patch.get("closed_file") {
        renew(&mut event["file_create"]["file"], file);
        event["file_create"]["closed"] = Value::Bool(true);
    }
    if let Some(process) = patch.get("process") {
        renew(&mut event["process"], process);
    }
    if let Some(known) = patch.get("connect") {
        renew(&mut event["connect"], known);
    }
}

/// Fields that a patch tells stand for those that were sent; with them goes what was said of their absence.
fn renew(message: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        panic!("a patch is a message: {patch:#}")
    };
    for (name, value) in fields {
        if name == "absent" {
            for (field, reason) in value.as_object().expect("reasons") {
                message["absent"][field] = reason.clone();
            }
        } else {
            message[name] = value.clone();
            if let Some(Value::Object(absent)) = message.get_mut("absent") {
                absent.remove(name);
            }
        }
    }
}

/// One line that tells what an event is.
fn outline(event: &Value) -> String {
    let what = [
        "/file_create/file/path",
        "/process/image/path",
        "/connect/remote",
        "/patch/of",
    ]
    .iter()
    .filter_map(|pointer| event.pointer(pointer))
    .map(ToString::to_string)
    .collect::<Vec<_>>()
    .join(" ");
    format!(
        "{} {} pid {} {what}",
        event["id"], event["type"], event["process"]["pid"]
    )
}

/// The sensor that tests share.
static SHARED: Mutex<Option<Sensor>> = Mutex::new(None);

/// Runs `test` with the sensor that tests share; starts it if it does not run.
pub fn with_shared<T>(test: impl FnOnce(&Sensor) -> T) -> T {
    let mut shared = SHARED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let sensor = shared.get_or_insert_with(|| Sensor::start(shared_options()));
    test(sensor)
}

/// Ends the sensor that tests share, if it runs; its account must be closed, and nothing may be lost.
pub fn end_shared() {
    let sensor = SHARED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .take();
    if let Some(sensor) = sensor {
        let end = sensor.stop();
        let ledger = end.assert_clean();
        for row in ["exec", "exit", "fork", "file_create", "connect"] {
            assert_eq!(ledger.lost(row), 0, "{row}: {:#}", ledger.0);
        }
    }
}

/// Environment variables that the shared sensor tells, and what the tests compare it with.
pub const ALLOWED_VARIABLES: [&str; 4] = ["PATH", "LD_*", "SSH_*", "SUDO_*"];

fn shared_options() -> Options {
    Options {
        config: format!("[environment]\nallow = {ALLOWED_VARIABLES:?}\n"),
        ..Options::default()
    }
}

/// Runs the sensor to its end with these arguments; gives status, standard output and log. For what needs no observation.
pub fn run_to_end(arguments: &[&str]) -> (ExitStatus, String, String) {
    let place = Place::here();
    let mut child = trigger::command_in(&place.outside, &place.sensor)
        .args(arguments)
        .env_remove("SENSOR_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the sensor");
    let mut log = child.stderr.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        log.read_to_end(&mut text).map(|_| text)
    });
    let mut output = Vec::new();
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_end(&mut output)
        .expect("its output");
    let log = reader.join().expect("a reader").expect("its log");
    let status = child.wait().expect("a child");
    (
        status,
        String::from_utf8_lossy(&output).into_owned(),
        plain(&String::from_utf8_lossy(&log)),
    )
}
