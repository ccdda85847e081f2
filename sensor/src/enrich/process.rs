//! The process table: who every process is, what it runs, who made it.
//!
//! It is filled by a snapshot of `/proc` at start, follows fork, exec and exit in whatever order their records come, and
//! gives every event its actor, parent and ancestors. A process is known by its id and the clock tick at which it started
//! ([`ProcessKey`]), so that an id that is used again is another process. What a process runs is an immutable
//! [`ProcessImage`], one per exec, which events hold by reference.
//!
//! Memory has a hard budget. An ended process is kept for a grace time, then, while a process that is kept names it as
//! parent, as a remnant without what only its own events need. Beyond the budget those ended longest
//! ago go first, then remnants, then living processes that nobody asked for lately; all are counted.
//!
//! Under a scope nothing is read of processes outside: a parent that is not in the table is named, and said to be outside.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sensor_common::record::{
    ExecRecord, ExitRecord, ForkRecord, Header, Parsed, ScriptRecord, Subject, exec_flag,
};
use sensor_proto::v1;

use crate::procfs::{LazyProcess, ProcError, cgroup_processes};

pub mod describe;
mod owing;
mod size;

pub use describe::Describer;
pub use owing::Settled;

/// Ancestors that an event tells of.
pub const ANCESTORS: usize = 16;
/// Rounds of `#!` that the kernel allows, and one.
const SCRIPT_ROUNDS: usize = 6;
/// Processes whose scripts are known before their exec is.
const SCRIPTS_WAITING: usize = 1024;
/// What an entry costs beside its image: its places in the maps and queues.
const ENTRY_BYTES: usize = 256;

/// Identity of a process on this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Process (thread group) id in the initial pid namespace.
    pub tgid: u32,
    /// Start in clock ticks since boot, as field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
}

/// One program in one process; never changes.
#[derive(Debug)]
pub struct ProcessImage {
    /// Which process.
    pub key: ProcessKey,
    /// Who made it, if known.
    pub parent: Option<ProcessKey>,
    /// What is told of it.
    pub process: v1::Process,
    rendered: OnceLock<Box<[u8]>>,
    rendered_bytes: Arc<AtomicUsize>,
}

impl ProcessImage {
    /// Its text in a format of the caller's choice, made at the first call and kept as long as the image. One format only:
    /// who renders decides which.
    pub fn rendered(&self, render: impl FnOnce(&v1::Process) -> Box<[u8]>) -> &[u8] {
        self.rendered.get_or_init(|| {
            let text = render(&self.process);
            self.rendered_bytes.fetch_add(text.len(), Ordering::Relaxed);
            text
        })
    }

    /// The same program with something told differently, apart from the table: for an event of a program that its
    /// process no longer runs.
    #[must_use]
    pub fn amended(&self, change: impl FnOnce(&mut v1::Process)) -> Arc<Self> {
        let mut process = self.process.clone();
        change(&mut process);
        Arc::new(Self {
            key: self.key,
            parent: self.parent,
            process,
            rendered: OnceLock::new(),
            rendered_bytes: Arc::clone(&self.rendered_bytes),
        })
    }

    /// Memory that the description takes, about; the rendered text is not counted.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size::process(&self.process)
    }

    /// A reference to it for events: without a thread.
    #[must_use]
    pub fn reference(&self) -> v1::ProcessRef {
        self.process.reference()
    }
}

impl Drop for ProcessImage {
    fn drop(&mut self) {
        if let Some(text) = self.rendered.get() {
            self.rendered_bytes.fetch_sub(text.len(), Ordering::Relaxed);
        }
    }
}

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that it may hold, rendered texts included.
    pub budget_bytes: usize,
    /// How long an ended process is kept whole.
    pub grace: Duration,
}

/// Lengths and counts, for `sensor status` and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableGauge {
    /// Processes that are kept, ended ones and remnants included.
    pub processes: usize,
    /// Those that have not ended, as far as is known.
    pub living: usize,
    /// Bytes that they hold (estimated from the lengths of all strings), rendered texts included.
    pub bytes: usize,
    /// Ended processes forgotten for the budget before their time.
    pub evicted_ended: u64,
    /// Remnants forgotten for the budget: ancestors of a living process are cut.
    pub evicted_remnants: u64,
    /// Living processes forgotten for the budget.
    pub evicted_living: u64,
    /// Processes first seen by a record that is neither their fork nor their exec.
    pub synthesised: u64,
    /// Processes whose id was used again without their end having been seen.
    pub end_unseen: u64,
    /// Processes whose scripts were forgotten before their exec came, since there were too many.
    pub scripts_forgotten: u64,
    /// Processes that lack a name, their place or facts of their container which may still come.
    pub owing: usize,
    /// Those for which nobody waits any more, since there were too many.
    pub owing_forgotten: u64,
}

/// Where an entry stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Living,
    /// Ended at this instant of the boot clock.
    Ended(u64),
    /// Ended, and reduced.
    Remnant(u64),
}

#[derive(Debug)]
struct Entry {
    image: Arc<ProcessImage>,
    /// The program before, with the instant until which it ran.
    previous: Option<(Arc<ProcessImage>, u64)>,
    life: Life,
    bytes: usize,
    /// Asked for since the eviction last passed by.
    used: bool,
}

/// The table. One thread owns it.
#[derive(Debug)]
pub struct ProcessTable {
    /// What descriptions are made with; the clock and the caches are shared with the other enrichers.
    pub describer: Describer,
    boot_id: String,
    scoped: bool,
    limits: Limits,
    entries: HashMap<ProcessKey, Entry>,
    /// The last process that was seen with an id.
    by_tgid: HashMap<u32, ProcessKey>,
    /// How many entries name a process as their parent, whether it is kept or not.
    children: HashMap<ProcessKey, u32>,
    /// In the order in which they ended. Keys whose entries moved on are passed over.
    ended: VecDeque<ProcessKey>,
    remnants: VecDeque<ProcessKey>,
    living: VecDeque<ProcessKey>,
    scripts: HashMap<u32, Vec<v1::FileInfo>>,
    scripts_order: VecDeque<u32>,
    owing: owing::Owing,
    bytes: usize,
    rendered_bytes: Arc<AtomicUsize>,
    gauge: TableGauge,
}

/// What the parent of a process is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ParentRef {
    tgid: u32,
    start_boot_ns: u64,
}

impl ProcessTable {
    /// An empty table for this boot (16 bytes of its UUID). `scoped`: only what records name is known, and
    /// [`ProcessTable::snapshot_cgroup`] reads the rest.
    #[must_use]
    pub fn new(limits: Limits, boot_id: [u8; 16], scoped: bool, describer: Describer) -> Self {
        Self {
            describer,
            boot_id: uuid::Uuid::from_bytes(boot_id).hyphenated().to_string(),
            scoped,
            limits,
            entries: HashMap::new(),
            by_tgid: HashMap::new(),
            children: HashMap::new(),
            ended: VecDeque::new(),
            remnants: VecDeque::new(),
            living: VecDeque::new(),
            scripts: HashMap::new(),
            scripts_order: VecDeque::new(),
            owing: owing::Owing::default(),
            bytes: 0,
            rendered_bytes: Arc::new(AtomicUsize::new(0)),
            gauge: TableGauge::default(),
        }
    }

    /// Identity of a process that started at this instant of the boot clock.
    #[must_use]
    pub fn key(&self, tgid: u32, start_boot_ns: u64) -> ProcessKey {
        ProcessKey {
            tgid,
            start_ticks: self.describer.clock.ticks(start_boot_ns),
        }
    }

    /// Reads every process there is. Processes that end meanwhile are passed over. Returns how many were read.
    ///
    /// # Errors
    /// [`ProcError`] if `/proc` itself cannot be read.
    pub fn snapshot(&mut self) -> Result<usize, ProcError> {
        let all = self.describer.proc.process_ids()?;
        Ok(self.read_all(&all))
    }

    /// Reads the processes in this cgroup and below it, and nothing else.
    ///
    /// # Errors
    /// [`ProcError`] if the cgroup cannot be read.
    pub fn snapshot_cgroup(&mut self, cgroup: &Path) -> Result<usize, ProcError> {
        let all = cgroup_processes(cgroup)?;
        Ok(self.read_all(&all))
    }

    fn read_all(&mut self, tgids: &[u32]) -> usize {
        let mut read = Vec::with_capacity(tgids.len());
        for tgid in tgids {
            let Ok(folder) = self.describer.proc.process(*tgid) else {
                continue;
            };
            let Ok(stat) = folder.stat() else {
                continue;
            };
            // A zombie has nothing left to read; its end was before our start.
            if matches!(stat.state, b'Z' | b'X') {
                continue;
            }
            let process = self.describer.snapshot(&folder, &stat);
            read.push((stat, process, self.describer.take_owing()));
        }
        // Parents by the ids that this very reading saw: an id alone would not tell which process it is.
        let starts: HashMap<u32, u64> = read
            .iter()
            .map(|(stat, process, _)| (stat.pid, process.start_boot_ns))
            .collect();
        let count = read.len();
        // Parents first: they started earlier, or in the same tick.
        read.sort_by_key(|(stat, ..)| (stat.start_ticks, stat.pid));
        let mut waiting: HashSet<u32> = read.iter().map(|(stat, ..)| stat.pid).collect();
        while !read.is_empty() {
            let (ready, rest): (Vec<_>, Vec<_>) = read
                .into_iter()
                .partition(|(stat, ..)| !waiting.contains(&stat.parent_pid));
            // A process cannot descend from itself; a lying `/proc` must not hold us.
            let (now, later) = if ready.is_empty() {
                (rest, ready)
            } else {
                (ready, rest)
            };
            for (stat, process, owing) in now {
                waiting.remove(&stat.pid);
                let parent = (stat.parent_pid != 0).then(|| ParentRef {
                    tgid: stat.parent_pid,
                    start_boot_ns: starts.get(&stat.parent_pid).copied().unwrap_or(0),
                });
                let key = ProcessKey {
                    tgid: stat.pid,
                    start_ticks: stat.start_ticks,
                };
                // Records that came before the snapshot know more.
                if !self.entries.contains_key(&key) {
                    self.insert(key, process, parent, 0);
                    if owing {
                        self.owing.add(key, 0);
                    }
                }
            }
            read = later;
        }
        count
    }

    /// A process was made.
    pub fn on_fork(&mut self, record: &ForkRecord) -> Arc<ProcessImage> {
        let creator = self.actor(&record.header, &record.subject);
        let parent = ParentRef {
            tgid: record.parent_tgid,
            start_boot_ns: record.parent_start_boot_ns,
        };
        let parent = if parent.tgid == 0 {
            ParentRef {
                tgid: record.header.tgid,
                start_boot_ns: record.header.start_boot_ns,
            }
        } else {
            parent
        };
        let key = self.key(record.child_tgid, record.child_start_boot_ns);
        if let Some(entry) = self.entries.get(&key) {
            // Its exec, or another record of it, was faster.
            let image = Arc::clone(&entry.image);
            if image.parent.is_none() {
                let mut process = image.process.clone();
                let parent_key = self.name_parent(&mut process, Some(parent));
                return self.replace(key, process, parent_key);
            }
            return image;
        }
        let mut process = self.describer.fork(&creator.process, record);
        if !describe::same_ids(
            creator.process.credentials.as_ref(),
            &describe::credentials(&record.subject),
        ) {
            self.describer.complete(&mut process, false);
        }
        if self.owing.has(creator.key, creator.process.exec_id) {
            // What its maker lacks it lacks, too.
            self.describer.owing = true;
        }
        self.insert(key, process, Some(parent), 0)
    }

    /// A script was opened on the way to an exec that may still fail.
    pub fn on_script(&mut self, record: &Parsed<'_, ScriptRecord>) {
        let tgid = record.head.header.tgid;
        let script = self.describer.script(record);
        let rounds = self.scripts.entry(tgid).or_default();
        if rounds.is_empty() {
            self.scripts_order.push_back(tgid);
        }
        if rounds.len() == SCRIPT_ROUNDS {
            // Left over from execs that failed.
            rounds.remove(0);
        }
        rounds.push(script);
        while self.scripts_order.len() > SCRIPTS_WAITING {
            if let Some(oldest) = self.scripts_order.pop_front()
                && self.scripts.remove(&oldest).is_some()
            {
                self.gauge.scripts_forgotten = self.gauge.scripts_forgotten.saturating_add(1);
            }
        }
    }

    /// A process executed a program. The image that is returned is the new one.
    pub fn on_exec(&mut self, record: &Parsed<'_, ExecRecord>) -> Arc<ProcessImage> {
        let head = &record.head;
        let scripts = self.take_scripts(record);
        let mut process = self.describer.exec(record, scripts);
        let key = self.key(head.header.tgid, head.header.start_boot_ns);
        let parent = ParentRef {
            tgid: head.parent_tgid,
            start_boot_ns: head.parent_start_boot_ns,
        };
        let parent = (parent.tgid != 0).then_some(parent);
        let Some(before) = self.entries.get(&key).map(|entry| Arc::clone(&entry.image)) else {
            self.describer.complete(&mut process, false);
            return self.insert(key, process, parent, 1);
        };
        let groups_known = inherit(&mut process, &before.process);
        self.describer.complete(&mut process, groups_known);
        if self.describer.take_owing() {
            self.owing.add(key, process.exec_id);
        }
        let parent_key = if before.process.parent.is_some() {
            process.parent.clone_from(&before.process.parent);
            before.parent
        } else {
            self.name_parent(&mut process, parent)
        };
        let image = self.replace(key, process, parent_key);
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.life == Life::Living
        {
            let old = self.bytes_of_previous(key);
            let added = size::process(&before.process);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.previous = Some((before, head.header.time_boot_ns));
                entry.bytes = entry.bytes.saturating_sub(old).saturating_add(added);
            }
            self.bytes = self.bytes.saturating_sub(old).saturating_add(added);
            self.shrink(key);
        }
        image
    }

    fn bytes_of_previous(&self, key: ProcessKey) -> usize {
        self.entries
            .get(&key)
            .and_then(|entry| entry.previous.as_ref())
            .map_or(0, |(image, _)| size::process(&image.process))
    }

    /// A process ended; it is kept for the grace time.
    pub fn on_exit(&mut self, record: &ExitRecord) -> Arc<ProcessImage> {
        let seen = self.actor(&record.header, &record.subject);
        let (key, parent) = (seen.key, seen.parent);
        if self.scripts.remove(&key.tgid).is_some() {
            self.scripts_order.retain(|tgid| *tgid != key.tgid);
        }
        let current = self.entries.get(&key).map_or(&seen, |entry| &entry.image);
        let mut process = current.process.clone();
        process.end_time_ns = Some(self.describer.clock.wall_ns(record.header.time_boot_ns));
        let image = self.replace(key, process, parent);
        self.end(key, record.header.time_boot_ns);
        self.expire(record.header.time_boot_ns);
        image
    }

    /// The process that a record names as the one who acted, as it was at the time of the record. If it is not known it is
    /// made from the record, and completed from `/proc` if it is still there.
    pub fn actor(&mut self, header: &Header, subject: &Subject) -> Arc<ProcessImage> {
        let known = (header.start_boot_ns == 0)
            .then(|| self.by_tgid.get(&header.tgid).copied())
            .flatten();
        let key = known.unwrap_or_else(|| self.key(header.tgid, header.start_boot_ns));
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.used = true;
            if let Some((previous, until)) = &entry.previous
                && header.time_boot_ns < *until
            {
                return Arc::clone(previous);
            }
            return Arc::clone(&entry.image);
        }
        self.gauge.synthesised = self.gauge.synthesised.saturating_add(1);
        let mut process = self.describer.minimal(header, subject);
        let mut parent = None;
        // The actor of a record is in scope: the record would not be here otherwise.
        if let Some((mut read, read_parent)) = self.read(key) {
            read.cgroup_id = process.cgroup_id;
            read.start_boot_ns = process.start_boot_ns;
            read.start_time_ns = process.start_time_ns;
            process = read;
            parent = read_parent;
        } else {
            self.describer.complete(&mut process, false);
        }
        self.insert(key, process, parent, 0)
    }

    /// A process by its identity, if it is kept.
    pub fn find(&mut self, key: ProcessKey) -> Option<Arc<ProcessImage>> {
        let entry = self.entries.get_mut(&key)?;
        entry.used = true;
        Some(Arc::clone(&entry.image))
    }

    /// The last process seen with this id, if it is kept.
    pub fn find_tgid(&mut self, tgid: u32) -> Option<Arc<ProcessImage>> {
        let key = self.by_tgid.get(&tgid).copied()?;
        self.find(key)
    }

    /// Who made it, if kept.
    pub fn parent(&mut self, image: &ProcessImage) -> Option<Arc<ProcessImage>> {
        self.find(image.parent?)
    }

    /// Parent, its parent and so on, up to [`ANCESTORS`]; true if there are more that are not told (too many, or forgotten).
    /// What lies outside the scope does not count.
    pub fn ancestors(&mut self, image: &ProcessImage) -> (Vec<Arc<ProcessImage>>, bool) {
        let mut all: Vec<Arc<ProcessImage>> = Vec::new();
        let mut next = (
            image.parent,
            image.process.parent.is_some(),
            outside(&image.process),
        );
        while all.len() < ANCESTORS {
            let Some(found) = next.0.and_then(|key| self.find(key)) else {
                // Named, in scope, and not kept: forgotten or never seen.
                return (all, next.1 && !next.2);
            };
            next = (
                found.parent,
                found.process.parent.is_some(),
                outside(&found.process),
            );
            all.push(found);
        }
        (all, next.1 && !next.2)
    }

    /// Changes what is told of one program of a process: a hash, a name or a container that came late. `None` if the
    /// process runs another program by now or is not kept.
    pub fn update(
        &mut self,
        key: ProcessKey,
        exec_id: u32,
        change: impl FnOnce(&mut v1::Process),
    ) -> Option<Arc<ProcessImage>> {
        let image = Arc::clone(&self.entries.get(&key)?.image);
        if image.process.exec_id != exec_id {
            return None;
        }
        let mut process = image.process.clone();
        change(&mut process);
        Some(self.replace(key, process, image.parent))
    }

    /// A program of a process, if that is kept and runs it, or ran it before the present one.
    #[must_use]
    pub fn find_program(&self, key: ProcessKey, exec_id: u32) -> Option<Arc<ProcessImage>> {
        let entry = self.entries.get(&key)?;
        let previous = entry.previous.as_ref().map(|(image, _)| image);
        [Some(&entry.image), previous]
            .into_iter()
            .flatten()
            .find(|image| image.process.exec_id == exec_id)
            .cloned()
    }

    /// Whether a name, the place or facts of the container of this program may still come.
    #[must_use]
    pub fn owes(&self, image: &ProcessImage) -> bool {
        self.owing.has(image.key, image.process.exec_id)
    }

    /// Takes in names, places and facts of containers that were asked for in the background. Gives the programs whose rows they changed.
    pub fn settle(&mut self) -> Vec<Settled> {
        let answered = self.describer.settle();
        let mut settled = Vec::new();
        for (key, exec_id) in self.owing.due(answered) {
            let Some(before) = self
                .entries
                .get(&key)
                .map(|entry| Arc::clone(&entry.image))
                .filter(|image| image.process.exec_id == exec_id)
            else {
                continue;
            };
            let mut process = before.process.clone();
            self.describer.complete_late(&mut process);
            if self.describer.take_owing() {
                self.owing.add(key, exec_id);
            }
            if process != before.process {
                let image = self.replace(key, process, before.parent);
                settled.extend(Settled::new(&before, image));
            }
        }
        settled
    }

    /// Forgets what ended longer ago than the grace time, reckoned from this instant of the boot clock.
    pub fn expire(&mut self, now_boot_ns: u64) {
        let grace = u64::try_from(self.limits.grace.as_nanos()).unwrap_or(u64::MAX);
        while let Some(&key) = self.ended.front() {
            match self.entries.get(&key).map(|entry| entry.life) {
                Some(Life::Ended(at)) if at.saturating_add(grace) > now_boot_ns => break,
                Some(Life::Ended(at)) => {
                    self.ended.pop_front();
                    self.retire(key, at);
                }
                Some(Life::Living | Life::Remnant(_)) | None => {
                    self.ended.pop_front();
                }
            }
        }
    }

    /// Gives back room in its maps and queues that nothing needs now.
    pub fn shrink_to_fit(&mut self) {
        self.entries.shrink_to_fit();
        self.by_tgid.shrink_to_fit();
        self.children.shrink_to_fit();
        self.ended.shrink_to_fit();
        self.remnants.shrink_to_fit();
        self.living.shrink_to_fit();
    }

    /// Lengths and counts.
    #[must_use]
    pub fn gauge(&self) -> TableGauge {
        TableGauge {
            processes: self.entries.len(),
            bytes: self.held(),
            owing: self.owing.len(),
            owing_forgotten: self.owing.forgotten(),
            ..self.gauge
        }
    }

    /// Puts a process in. `exec_id` and identity are set here.
    fn insert(
        &mut self,
        key: ProcessKey,
        mut process: v1::Process,
        parent: Option<ParentRef>,
        exec_id: u32,
    ) -> Arc<ProcessImage> {
        process.exec_id = exec_id;
        process.unique_pid = self.unique_pid(key);
        process.parent = None;
        // Now: its parent may be described next.
        if self.describer.take_owing() {
            self.owing.add(key, exec_id);
        }
        let parent = self.name_parent(&mut process, parent);
        // The same id with another start: that one has ended, though nobody told.
        if let Some(old) = self.by_tgid.insert(key.tgid, key)
            && old != key
        {
            if old.start_ticks > key.start_ticks {
                // A late record of an older process.
                self.by_tgid.insert(key.tgid, old);
            } else if self
                .entries
                .get(&old)
                .is_some_and(|entry| entry.life == Life::Living)
            {
                self.gauge.end_unseen = self.gauge.end_unseen.saturating_add(1);
                self.end(old, process.start_boot_ns);
            }
        }
        let image = self.image(key, parent, process);
        let bytes = size::process(&image.process).saturating_add(ENTRY_BYTES);
        self.adopt(parent);
        self.bytes = self.bytes.saturating_add(bytes);
        self.gauge.living += 1;
        self.living.push_back(key);
        self.entries.insert(
            key,
            Entry {
                image: Arc::clone(&image),
                previous: None,
                life: Life::Living,
                bytes,
                used: false,
            },
        );
        self.compact();
        self.shrink(key);
        image
    }

    /// Another image for a process that is kept; it keeps its place in life.
    fn replace(
        &mut self,
        key: ProcessKey,
        process: v1::Process,
        parent: Option<ProcessKey>,
    ) -> Arc<ProcessImage> {
        let image = self.image(key, parent, process);
        let Some(entry) = self.entries.get_mut(&key) else {
            return image;
        };
        let before = entry.bytes;
        let old_parent = entry.image.parent;
        let grown = size::process(&image.process);
        let shrunk = size::process(&entry.image.process);
        entry.bytes = before.saturating_sub(shrunk).saturating_add(grown);
        entry.image = Arc::clone(&image);
        self.bytes = self.bytes.saturating_sub(shrunk).saturating_add(grown);
        if old_parent != parent {
            self.adopt(parent);
            self.orphan(old_parent);
        }
        self.shrink(key);
        image
    }

    fn image(
        &self,
        key: ProcessKey,
        parent: Option<ProcessKey>,
        process: v1::Process,
    ) -> Arc<ProcessImage> {
        Arc::new(ProcessImage {
            key,
            parent,
            process,
            rendered: OnceLock::new(),
            rendered_bytes: Arc::clone(&self.rendered_bytes),
        })
    }

    /// Writes the reference to the parent and returns its key. A parent that is not kept is looked up in `/proc`; under a
    /// scope it is outside instead.
    fn name_parent(
        &mut self,
        process: &mut v1::Process,
        parent: Option<ParentRef>,
    ) -> Option<ProcessKey> {
        let parent = parent?;
        let known = if parent.start_boot_ns == 0 {
            self.by_tgid.get(&parent.tgid).copied()
        } else {
            Some(self.key(parent.tgid, parent.start_boot_ns))
        };
        if let Some(entry) = known.and_then(|key| self.entries.get_mut(&key)) {
            entry.used = true;
            process.parent = Some(entry.image.reference());
            return known;
        }
        let start = (parent.start_boot_ns != 0).then_some(parent.start_boot_ns);
        if self.scoped {
            process.parent = Some(v1::ProcessRef {
                pid: parent.tgid,
                start_boot_ns: start,
                out_of_scope: true,
                ..v1::ProcessRef::default()
            });
            return None;
        }
        if let Some((read, grandparent)) = known.and_then(|key| self.read(key)) {
            let image = self.insert(known?, read, grandparent, 0);
            process.parent = Some(image.reference());
            return known;
        }
        process.parent = Some(v1::ProcessRef {
            unique_pid: known.map(|key| self.unique_pid(key)),
            pid: parent.tgid,
            start_boot_ns: start,
            ..v1::ProcessRef::default()
        });
        known
    }

    /// A process from `/proc`, if it is there and is this one, with its parent. The parent's start is not known this way; it is
    /// named by its id if that is kept and older.
    fn read(&mut self, key: ProcessKey) -> Option<(v1::Process, Option<ParentRef>)> {
        if !self.describer.live {
            return None;
        }
        let (folder, stat) =
            LazyProcess::new(&self.describer.proc, key.tgid, key.start_ticks).into_open()?;
        let process = self.describer.snapshot(&folder, &stat);
        let parent = self
            .by_tgid
            .get(&stat.parent_pid)
            .filter(|parent| parent.start_ticks <= key.start_ticks)
            .map(|parent| ParentRef {
                tgid: parent.tgid,
                start_boot_ns: self.describer.clock.ticks_to_boot_ns(parent.start_ticks),
            });
        Some((process, parent))
    }

    fn unique_pid(&self, key: ProcessKey) -> Vec<u8> {
        sensor_proto::identity::unique_pid(&self.boot_id, key.tgid, key.start_ticks)
            .into_bytes()
            .to_vec()
    }

    /// The scripts of this exec, among those that were seen: an exec that failed before may have left others.
    fn take_scripts(&mut self, record: &Parsed<'_, ExecRecord>) -> Vec<v1::FileInfo> {
        let seen = self
            .scripts
            .remove(&record.head.header.tgid)
            .unwrap_or_default();
        if !seen.is_empty() {
            self.scripts_order
                .retain(|tgid| *tgid != record.head.header.tgid);
        }
        if record.head.flags & exec_flag::SCRIPT_SEEN != 0 && !seen.is_empty() {
            let name = last_part(record.text(1).bytes);
            let first = seen
                .iter()
                .rposition(|script| script.name() == Some(name))
                .unwrap_or(0);
            return seen.into_iter().skip(first).collect();
        }
        if record.head.flags & exec_flag::INTERPRETED == 0 {
            return Vec::new();
        }
        // No hook saw the script; its name was passed to execve.
        let filename = record.text(1);
        vec![v1::FileInfo {
            path: filename
                .bytes
                .starts_with(b"/")
                .then(|| filename.bytes.to_vec()),
            path_truncated: filename.text.truncated(),
            absent: vec![v1::Absent::new(
                sensor_proto::field::file_info::INODE,
                v1::AbsentReason::NotOnThisBackend,
            )],
            ..v1::FileInfo::default()
        }]
    }

    fn adopt(&mut self, parent: Option<ProcessKey>) {
        if let Some(parent) = parent {
            let count = self.children.entry(parent).or_insert(0);
            *count = count.saturating_add(1);
        }
    }

    /// One entry less names this parent; remnants that nobody names go, and their parents likewise.
    fn orphan(&mut self, parent: Option<ProcessKey>) {
        let mut next = parent;
        while let Some(key) = next.take() {
            let Some(count) = self.children.get_mut(&key) else {
                return;
            };
            *count -= 1;
            if *count > 0 {
                return;
            }
            self.children.remove(&key);
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| matches!(entry.life, Life::Remnant(_)))
            {
                next = self.take_out(key).and_then(|entry| entry.image.parent);
            }
        }
    }

    fn end(&mut self, key: ProcessKey, at_boot_ns: u64) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.life != Life::Living {
            return;
        }
        entry.life = Life::Ended(at_boot_ns);
        let previous = entry
            .previous
            .take()
            .map_or(0, |(image, _)| size::process(&image.process));
        entry.bytes = entry.bytes.saturating_sub(previous);
        self.bytes = self.bytes.saturating_sub(previous);
        self.gauge.living = self.gauge.living.saturating_sub(1);
        self.ended.push_back(key);
    }

    /// The grace time is over, or the budget: what nobody names goes, the rest becomes a remnant.
    fn retire(&mut self, key: ProcessKey, ended_boot_ns: u64) {
        if !self.children.contains_key(&key) {
            self.remove(key);
            return;
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.life = Life::Remnant(ended_boot_ns);
        let (process, parent) = (remnant(&entry.image.process), entry.image.parent);
        self.remnants.push_back(key);
        self.replace_quietly(key, process, parent);
    }

    fn replace_quietly(
        &mut self,
        key: ProcessKey,
        process: v1::Process,
        parent: Option<ProcessKey>,
    ) {
        let image = self.image(key, parent, process);
        if let Some(entry) = self.entries.get_mut(&key) {
            let bytes = size::process(&image.process).saturating_add(ENTRY_BYTES);
            self.bytes = self.bytes.saturating_sub(entry.bytes).saturating_add(bytes);
            entry.bytes = bytes;
            entry.image = image;
        }
    }

    fn remove(&mut self, key: ProcessKey) {
        if let Some(entry) = self.take_out(key) {
            self.orphan(entry.image.parent);
        }
    }

    fn take_out(&mut self, key: ProcessKey) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        if entry.life == Life::Living {
            self.gauge.living = self.gauge.living.saturating_sub(1);
        }
        if self.by_tgid.get(&key.tgid) == Some(&key) {
            self.by_tgid.remove(&key.tgid);
        }
        Some(entry)
    }

    fn held(&self) -> usize {
        self.bytes
            .saturating_add(self.rendered_bytes.load(Ordering::Relaxed))
    }

    /// Brings the table under its budget; this process, if living, stays.
    fn shrink(&mut self, key: ProcessKey) {
        while self.held() > self.limits.budget_bytes {
            if !(self.evict_ended() || self.evict_remnant() || self.evict_living(key)) {
                return;
            }
        }
    }

    fn evict_ended(&mut self) -> bool {
        while let Some(key) = self.ended.pop_front() {
            if let Some(Life::Ended(at)) = self.entries.get(&key).map(|entry| entry.life) {
                self.gauge.evicted_ended = self.gauge.evicted_ended.saturating_add(1);
                self.retire(key, at);
                return true;
            }
        }
        false
    }

    fn evict_remnant(&mut self) -> bool {
        while let Some(key) = self.remnants.pop_front() {
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| matches!(entry.life, Life::Remnant(_)))
            {
                self.gauge.evicted_remnants = self.gauge.evicted_remnants.saturating_add(1);
                self.remove(key);
                return true;
            }
        }
        false
    }

    /// The living that was not asked for since the last round.
    fn evict_living(&mut self, stays: ProcessKey) -> bool {
        let mut rounds = self.living.len().saturating_mul(2);
        while rounds > 0 {
            rounds -= 1;
            let Some(key) = self.living.pop_front() else {
                return false;
            };
            let Some(entry) = self
                .entries
                .get_mut(&key)
                .filter(|entry| entry.life == Life::Living)
            else {
                continue;
            };
            if entry.used || key == stays {
                entry.used = false;
                self.living.push_back(key);
                continue;
            }
            self.gauge.evicted_living = self.gauge.evicted_living.saturating_add(1);
            self.remove(key);
            return true;
        }
        false
    }

    /// Keys of entries that moved on stay in the queues; when they are most of one it is cleaned.
    fn compact(&mut self) {
        let most = self.entries.len().saturating_mul(2).saturating_add(1024);
        let life = |key: &ProcessKey| self.entries.get(key).map(|entry| entry.life);
        if self.living.len() > most {
            self.living.retain(|key| life(key) == Some(Life::Living));
        }
        if self.ended.len() > most {
            self.ended
                .retain(|key| matches!(life(key), Some(Life::Ended(_))));
        }
        if self.remnants.len() > most {
            self.remnants
                .retain(|key| matches!(life(key), Some(Life::Remnant(_))));
        }
    }
}

/// What an exec leaves as it was: identity, end, where the session came from, and, if the ids are the same, their names and
/// the further groups (then true).
fn inherit(process: &mut v1::Process, before: &v1::Process) -> bool {
    process.exec_id = before.exec_id.saturating_add(1);
    process.unique_pid.clone_from(&before.unique_pid);
    process.end_time_ns = before.end_time_ns;
    if let Some((session, old)) = process.session.as_mut().zip(before.session.as_ref())
        && session.remote_address.is_none()
    {
        session.remote_address.clone_from(&old.remote_address);
        session.remote_port = old.remote_port;
    }
    let Some((new, old)) = process
        .credentials
        .as_mut()
        .zip(before.credentials.as_ref())
    else {
        return false;
    };
    let unread = sensor_proto::field::credentials::SUPPLEMENTARY_GROUPS;
    if !describe::same_ids(Some(old), new) || old.absent.iter().any(|absent| absent.field == unread)
    {
        return false;
    }
    new.clone_from(old);
    true
}

fn outside(process: &v1::Process) -> bool {
    process
        .parent
        .as_ref()
        .is_some_and(|parent| parent.out_of_scope)
}

fn last_part(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// What a parent or ancestor is told by, without what only its own events tell.
fn remnant(process: &v1::Process) -> v1::Process {
    let mut kept = process.clone();
    kept.environment = Vec::new();
    kept.script_chain = Vec::new();
    kept.working_directory = None;
    kept.capabilities = None;
    kept.namespaces = None;
    kept.session = None;
    kept.cgroup_path = None;
    if let Some(container) = &mut kept.container {
        container.labels = Vec::new();
    }
    if let Some(credentials) = &mut kept.credentials {
        credentials.supplementary_groups = Vec::new();
    }
    kept
}

#[cfg(test)]
pub(crate) mod tests;
