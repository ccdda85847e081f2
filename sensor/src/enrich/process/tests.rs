use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use sensor_common::layout::KernelLayout;
use sensor_common::record::{RecordKind, RecordRef, Text};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::clock::Clock;
use crate::config::file::{ENVIRONMENT_ALLOW, ENVIRONMENT_REDACT};
use crate::enrich::container::{ContainerFacts, Places};
use crate::enrich::environment::Policy;
use crate::enrich::user::Users;
use crate::procfs::Proc;

const TICK: u64 = 10_000_000;
const BOOT_ID: [u8; 16] = [7; 16];

pub(crate) fn describer(proc: &Path, live: bool) -> Describer {
    let proc = Proc::new(proc);
    Describer {
        users: Users::new("/nonexistent".into(), None, None).unwrap(),
        proc,
        clock: Arc::new(Clock::fixed(1_000, TICK)),
        layout: KernelLayout::EMPTY,
        policy: Policy::new(ENVIRONMENT_ALLOW, ENVIRONMENT_REDACT).unwrap(),
        places: Places::new(None, Vec::new()).unwrap(),
        containers: ContainerFacts::none(),
        live,
        owing: false,
    }
}

fn table_of(budget_bytes: usize, scoped: bool, proc: &Path, live: bool) -> ProcessTable {
    let limits = Limits {
        budget_bytes,
        grace: Duration::from_secs(30),
    };
    ProcessTable::new(limits, BOOT_ID, scoped, describer(proc, live))
}

/// A table without `/proc`.
fn table(budget_bytes: usize) -> ProcessTable {
    table_of(budget_bytes, false, Path::new("/nonexistent"), false)
}

fn header(kind: RecordKind, tgid: u32, start: u64, time: u64) -> Header {
    Header {
        kind: kind as u16,
        tgid,
        pid: tgid,
        start_boot_ns: start,
        time_boot_ns: time,
        ..Header::default()
    }
}

fn subject(uid: u32) -> Subject {
    Subject {
        uid,
        euid: uid,
        suid: uid,
        fsuid: uid,
        loginuid: u32::MAX,
        session_id: u32::MAX,
        comm: *b"name\0\0\0\0\0\0\0\0\0\0\0\0",
        ..Subject::default()
    }
}

fn fork(parent: (u32, u64), child: (u32, u64)) -> ForkRecord {
    ForkRecord {
        header: header(RecordKind::Fork, parent.0, parent.1, child.1),
        subject: subject(0),
        child_start_boot_ns: child.1,
        clone_flags: 0,
        parent_start_boot_ns: parent.1,
        child_tgid: child.0,
        child_ns_pid: child.0,
        parent_tgid: parent.0,
        _pad: 0,
    }
}

fn exit(of: (u32, u64), time: u64) -> ExitRecord {
    let mut record = ExitRecord::read_from_bytes(&[0; size_of::<ExitRecord>()]).unwrap();
    record.header = header(RecordKind::Exit, of.0, of.1, time);
    record.subject = subject(0);
    record
}

/// An exec record in the making.
pub(crate) struct Exec {
    of: (u32, u64),
    parent: (u32, u64),
    time: u64,
    flags: u32,
    pub(crate) uid: u32,
    pub(crate) cgroup_id: u64,
    texts: [&'static [u8]; 6],
}

impl Exec {
    pub(crate) fn new(of: (u32, u64), parent: (u32, u64), time: u64, path: &'static [u8]) -> Self {
        Self {
            of,
            parent,
            time,
            flags: 0,
            uid: 0,
            cgroup_id: 0,
            texts: [
                path,
                path,
                path,
                b"/tmp",
                b"x\0--password=y\0",
                b"PATH=/bin\0SECRET=x\0",
            ],
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = ExecRecord::read_from_bytes(&[0; size_of::<ExecRecord>()]).unwrap();
        head.header = header(RecordKind::Exec, self.of.0, self.of.1, self.time);
        head.subject = subject(self.uid);
        head.subject.cgroup_id = self.cgroup_id;
        head.parent_tgid = self.parent.0;
        head.parent_start_boot_ns = self.parent.1;
        head.ns_pid = self.of.0;
        head.flags = self.flags;
        let text = |bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap();
            Text { len, true_len: len }
        };
        let [
            path,
            filename,
            interpreter,
            directory,
            arguments,
            environment,
        ] = self.texts.map(text);
        head.path = path;
        head.filename = filename;
        head.interpreter = interpreter;
        head.working_directory = directory;
        head.arguments = arguments;
        head.environment = environment;
        let tail = self.texts.concat();
        head.header.size = u32::try_from(size_of::<ExecRecord>() + tail.len()).unwrap();
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(&tail);
        bytes
    }

    fn run(&self, table: &mut ProcessTable) -> Arc<ProcessImage> {
        let bytes = self.bytes();
        let RecordRef::Exec(parsed) = RecordRef::parse(&bytes).unwrap() else {
            panic!("not an exec")
        };
        table.on_exec(&parsed)
    }
}

fn script(table: &mut ProcessTable, of: (u32, u64), path: &[u8]) {
    let mut head = ScriptRecord::read_from_bytes(&[0; size_of::<ScriptRecord>()]).unwrap();
    head.header = header(RecordKind::Script, of.0, of.1, of.1);
    head.header.size = u32::try_from(size_of::<ScriptRecord>() + path.len()).unwrap();
    head.path = Text {
        len: u32::try_from(path.len()).unwrap(),
        true_len: u32::try_from(path.len()).unwrap(),
    };
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend_from_slice(path);
    let RecordRef::Script(parsed) = RecordRef::parse(&bytes).unwrap() else {
        panic!("not a script")
    };
    table.on_script(&parsed);
}

fn path(image: &ProcessImage) -> &[u8] {
    image
        .process
        .image
        .as_ref()
        .unwrap()
        .path
        .as_deref()
        .unwrap()
}

/// What the table believes to hold is what it holds.
fn check_accounts(table: &ProcessTable) {
    let held: usize = table
        .entries
        .values()
        .map(|entry| {
            let previous = entry
                .previous
                .as_ref()
                .map_or(0, |(image, _)| size::process(&image.process));
            let sum = size::process(&entry.image.process) + previous + ENTRY_BYTES;
            assert_eq!(entry.bytes, sum);
            sum
        })
        .sum();
    assert_eq!(table.bytes, held);
    let living = table
        .entries
        .values()
        .filter(|entry| entry.life == Life::Living)
        .count();
    assert_eq!(table.gauge.living, living);
    let mut children: HashMap<ProcessKey, u32> = HashMap::new();
    for entry in table.entries.values() {
        if let Some(parent) = entry.image.parent {
            *children.entry(parent).or_default() += 1;
        }
    }
    assert_eq!(table.children, children);
    assert!(table.by_tgid.len() <= table.entries.len());
}

#[test]
fn a_life() {
    let mut table = table(1 << 20);
    let (shell, child) = ((10, 5 * TICK + 3), (11, 9 * TICK + 4));
    let before = Exec::new(shell, (1, 1), 6 * TICK, b"/bin/sh").run(&mut table);
    let forked = table.on_fork(&fork(shell, child));
    assert_eq!(forked.process.exec_id, 0);
    assert_eq!(path(&forked), b"/bin/sh");
    assert_eq!(forked.process.r#type(), v1::ProcessType::Fork);
    assert_eq!(forked.parent, Some(before.key));
    let run = Exec::new(child, shell, 10 * TICK, b"/bin/ls").run(&mut table);
    assert_eq!(
        (run.process.exec_id, path(&run)),
        (1, b"/bin/ls".as_slice())
    );
    assert_eq!(run.process.parent, Some(before.reference()));
    assert_eq!(
        run.process.argv,
        [b"x".to_vec(), b"--password=***".to_vec()]
    );
    assert_eq!(run.process.argv_redacted, [1]);
    assert_eq!(run.process.environment.len(), 1);
    assert_eq!(run.process.environment_withheld, Some(1));
    assert_eq!(
        run.process.exec_time_ns,
        Some(i64::try_from(10 * TICK).unwrap() + 1_000)
    );
    assert_eq!(run.process.unique_pid, forked.process.unique_pid);
    // Anyone can recompute the identity.
    let expected =
        sensor_proto::identity::unique_pid("07070707-0707-0707-0707-070707070707", 11, 9);
    assert_eq!(run.process.unique_pid, expected.as_bytes());
    // An event from before the exec belongs to the program before.
    let late = table.actor(
        &header(RecordKind::FileCreate, 11, child.1, 10 * TICK - 1),
        &subject(0),
    );
    assert_eq!(late.process.exec_id, 0);
    let now = table.actor(
        &header(RecordKind::FileCreate, 11, child.1, 10 * TICK),
        &subject(0),
    );
    assert_eq!(now.process.exec_id, 1);
    let again = Exec::new(child, shell, 11 * TICK, b"/bin/cat").run(&mut table);
    assert_eq!(again.process.exec_id, 2);
    let ended = table.on_exit(&exit(child, 12 * TICK));
    assert_eq!(
        ended.process.end_time_ns,
        Some(i64::try_from(12 * TICK).unwrap() + 1_000)
    );
    assert_eq!(ended.process.exec_id, 2);
    check_accounts(&table);
    assert!(table.find(ended.key).is_some());
    table.expire(12 * TICK + 29_000_000_000);
    assert!(table.find(ended.key).is_some());
    table.expire(12 * TICK + 30_000_000_000);
    assert!(table.find(ended.key).is_none());
    assert_eq!(table.gauge().living, 1);
    check_accounts(&table);
}

#[test]
fn records_in_any_order_give_the_same() {
    let (shell, child) = ((10, TICK), (11, 2 * TICK));
    let mut straight = table(1 << 20);
    Exec::new(shell, (1, 1), TICK, b"/bin/sh").run(&mut straight);
    straight.on_fork(&fork(shell, child));
    let a = Exec::new(child, shell, 3 * TICK, b"/bin/ls").run(&mut straight);
    let mut crossed = table(1 << 20);
    Exec::new(shell, (1, 1), TICK, b"/bin/sh").run(&mut crossed);
    let b = Exec::new(child, shell, 3 * TICK, b"/bin/ls").run(&mut crossed);
    assert_eq!(a.process, b.process);
    let c = crossed.on_fork(&fork(shell, child));
    assert_eq!(a.process, c.process);
    // A syscall-exit backend does not tell the parent with the exec: the late fork does.
    let mut alone = table(1 << 20);
    Exec::new(shell, (1, 1), TICK, b"/bin/sh").run(&mut alone);
    let orphan = Exec::new(child, (0, 0), 3 * TICK, b"/bin/ls").run(&mut alone);
    assert_eq!(orphan.process.parent, None);
    let named = alone.on_fork(&fork(shell, child));
    assert_eq!(named.process, a.process);
    check_accounts(&alone);
}

#[test]
fn an_id_used_again_is_another_process() {
    let mut table = table(1 << 20);
    let parent = (1, TICK);
    let old = table.on_fork(&fork(parent, (50, 5 * TICK)));
    let new = table.on_fork(&fork(parent, (50, 90 * TICK)));
    assert_ne!(old.process.unique_pid, new.process.unique_pid);
    assert_eq!(table.gauge().end_unseen, 1);
    assert_eq!(table.find_tgid(50).unwrap().key, new.key);
    // The late end of the old does not touch the new.
    table.on_exit(&exit((50, 5 * TICK), 80 * TICK));
    assert_eq!(table.find(new.key).unwrap().process.end_time_ns, None);
    assert!(table.find(old.key).unwrap().process.end_time_ns.is_some());
    // Nor does a late record about it take its place.
    assert_eq!(table.find_tgid(50).unwrap().key, new.key);
    check_accounts(&table);
}

#[test]
fn an_unknown_actor_is_made_from_its_record() {
    let mut table = table(1 << 20);
    let actor = table.actor(
        &header(RecordKind::Connect, 77, 4 * TICK, 9 * TICK),
        &subject(1000),
    );
    assert_eq!(actor.process.pid, 77);
    assert_eq!(actor.process.comm.as_deref(), Some(b"name".as_slice()));
    assert_eq!(
        actor
            .process
            .credentials
            .as_ref()
            .unwrap()
            .real_user
            .as_ref()
            .unwrap()
            .id,
        1000
    );
    assert!(actor.process.snapshot);
    assert!(
        actor
            .process
            .absent
            .iter()
            .any(|absent| absent.field == sensor_proto::field::process::IMAGE)
    );
    assert_eq!(table.gauge().synthesised, 1);
    let same = table.actor(
        &header(RecordKind::Connect, 77, 4 * TICK, 9 * TICK),
        &subject(1000),
    );
    assert!(Arc::ptr_eq(&actor, &same));
    // Without a start the last process with that id is meant.
    let unstarted = table.actor(
        &header(RecordKind::Connect, 77, 0, 9 * TICK),
        &subject(1000),
    );
    assert!(Arc::ptr_eq(&actor, &unstarted));
    let ended = table.on_exit(&exit((88, TICK), 9 * TICK));
    assert_eq!(ended.process.pid, 88);
    assert_eq!(table.gauge().synthesised, 2);
}

#[test]
fn an_unknown_actor_is_completed_from_proc_if_it_is_still_the_same() {
    let own = Proc::default().own().unwrap().stat().unwrap();
    let mut table = table_of(1 << 20, false, Path::new("/proc"), true);
    table.describer.clock = Arc::new(Clock::new().unwrap());
    let start = table.describer.clock.ticks_to_boot_ns(own.start_ticks) + 1;
    let actor = table.actor(
        &header(RecordKind::Connect, own.pid, start, start + 1),
        &subject(0),
    );
    let executable = std::env::current_exe().unwrap();
    assert_eq!(path(&actor), executable.as_os_str().as_encoded_bytes());
    assert!(!actor.process.argv.is_empty());
    assert_eq!(actor.process.start_boot_ns, start);
    assert!(actor.process.namespaces.as_ref().unwrap().mnt.is_some());
    // The same id, another start.
    let tick = table.describer.clock.tick_ns();
    let other = table.actor(
        &header(RecordKind::Connect, own.pid, start + tick, start + tick),
        &subject(0),
    );
    assert_eq!(other.process.image, None);
}

#[test]
fn a_snapshot_of_this_host_has_this_process_and_its_ancestors() {
    let mut table = table_of(64 << 20, false, Path::new("/proc"), true);
    table.describer.clock = Arc::new(Clock::new().unwrap());
    assert!(table.snapshot().unwrap() > 1);
    check_accounts(&table);
    let own = Proc::default().own().unwrap().stat().unwrap();
    let image = table.find_tgid(own.pid).unwrap();
    assert_eq!(image.key.start_ticks, own.start_ticks);
    assert_eq!(image.process.exec_id, 0);
    let (ancestors, cut) = table.ancestors(&image);
    assert_eq!(ancestors[0].process.pid, own.parent_pid);
    if !cut {
        let last = ancestors.last().unwrap();
        assert_eq!(
            last.process.parent.as_ref().map_or(0, |parent| parent.pid),
            0
        );
    }
}

fn fake_process(proc: &Path, pid: u32, parent: u32, start: u64) {
    let folder = proc.join(pid.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let line = format!("{pid} (p{pid}) S {parent} 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0");
    std::fs::write(folder.join("stat"), line).unwrap();
    std::fs::write(
        folder.join("status"),
        "Uid:\t1\t1\t1\t1\nGid:\t1\t1\t1\t1\n",
    )
    .unwrap();
    std::fs::write(folder.join("cmdline"), format!("p{pid}\0")).unwrap();
}

#[test]
fn under_a_scope_nothing_outside_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let (proc, cgroup) = (folder.path().join("proc"), folder.path().join("cgroup"));
    for (pid, parent, start) in [(1, 0, 1), (20, 1, 50), (30, 20, 40), (5, 30, 60)] {
        fake_process(&proc, pid, parent, start);
    }
    std::fs::create_dir_all(cgroup.join("below")).unwrap();
    std::fs::write(cgroup.join("cgroup.procs"), "20\n").unwrap();
    std::fs::write(cgroup.join("below/cgroup.procs"), "5\n30\n").unwrap();
    let mut table = table_of(1 << 20, true, &proc, true);
    assert_eq!(table.snapshot_cgroup(&cgroup).unwrap(), 3);
    assert!(table.find_tgid(1).is_none());
    let top = table.find_tgid(20).unwrap();
    let parent = top.process.parent.as_ref().unwrap();
    assert_eq!(
        (parent.pid, parent.out_of_scope, parent.unique_pid.as_ref()),
        (1, true, None)
    );
    assert!(matches!(table.ancestors(&top), (none, false) if none.is_empty()));
    // Inside, parents resolve even where a child has the lower id or seems to have started earlier.
    let deep = table.find_tgid(5).unwrap();
    let (ancestors, cut) = table.ancestors(&deep);
    let pids: Vec<_> = ancestors.iter().map(|image| image.process.pid).collect();
    assert_eq!((pids, cut), (vec![30, 20], false));
    // An exec whose parent is outside: its id and start, as the kernel told, and no look at /proc.
    let exec = Exec::new((60, 70 * TICK), (1, TICK), 71 * TICK, b"/bin/x").run(&mut table);
    let parent = exec.process.parent.as_ref().unwrap();
    assert!(parent.out_of_scope);
    assert_eq!(
        (parent.pid, parent.start_boot_ns, parent.unique_pid.as_ref()),
        (1, Some(TICK), None)
    );
    assert!(table.find_tgid(1).is_none());
}

#[test]
fn a_parent_that_is_not_kept_is_read_without_a_scope() {
    let folder = tempfile::tempdir().unwrap();
    fake_process(folder.path(), 9, 0, 3);
    let mut table = table_of(1 << 20, false, folder.path(), true);
    let exec = Exec::new((60, 70 * TICK), (9, 3 * TICK + 5), 71 * TICK, b"/bin/x").run(&mut table);
    let parent = table.parent(&exec).unwrap();
    assert_eq!(parent.process.argv, [b"p9"]);
    assert!(parent.process.snapshot);
    // Another process has the id by now: the parent is named and nothing else.
    let exec = Exec::new((61, 70 * TICK), (9, 99 * TICK), 71 * TICK, b"/bin/x").run(&mut table);
    assert!(table.parent(&exec).is_none());
    assert!(exec.process.parent.as_ref().unwrap().unique_pid.is_some());
    assert!(matches!(table.ancestors(&exec), (none, true) if none.is_empty()));
}

#[test]
fn scripts_belong_to_the_exec_that_succeeds() {
    let mut table = table(1 << 20);
    let of = (10, TICK);
    script(&mut table, of, b"/a/failed");
    script(&mut table, of, b"/opt/run.sh");
    script(&mut table, of, b"/opt/wrapper");
    let mut exec = Exec::new(of, (1, 1), 2 * TICK, b"/bin/sh");
    exec.flags = exec_flag::INTERPRETED | exec_flag::SCRIPT_SEEN;
    exec.texts[1] = b"./run.sh";
    let image = exec.run(&mut table);
    let chain: Vec<_> = image
        .process
        .script_chain
        .iter()
        .map(|file| file.path.clone().unwrap())
        .collect();
    assert_eq!(chain, [b"/opt/run.sh".to_vec(), b"/opt/wrapper".to_vec()]);
    assert_eq!(image.process.r#type(), v1::ProcessType::ScriptExec);
    // Where no hook sees scripts, the name that was passed stands for it.
    exec.flags = exec_flag::INTERPRETED;
    exec.texts[1] = b"/opt/run.sh";
    let image = exec.run(&mut table);
    assert_eq!(image.process.script_chain.len(), 1);
    assert_eq!(
        image.process.script_chain[0].path.as_deref(),
        Some(b"/opt/run.sh".as_slice())
    );
    let plain = Exec::new(of, (1, 1), 3 * TICK, b"/bin/ls").run(&mut table);
    assert!(plain.process.script_chain.is_empty());
    // Execs that never succeed do not pile up.
    for tgid in 0..2 * u32::try_from(SCRIPTS_WAITING).unwrap() {
        for _ in 0..10 {
            script(&mut table, (tgid + 100, TICK), b"/x");
        }
    }
    assert_eq!(table.scripts.len(), SCRIPTS_WAITING);
    assert!(
        table
            .scripts
            .values()
            .all(|rounds| rounds.len() <= SCRIPT_ROUNDS)
    );
}

#[test]
fn ended_ancestors_stay_while_a_descendant_lives() {
    let mut table = table(64 << 20);
    let at = |n: u32| (100 + n, u64::from(n + 1) * TICK);
    Exec::new(at(0), (0, 0), TICK, b"/bin/first").run(&mut table);
    // Each forks the next and ends.
    for n in 0..20 {
        table.on_fork(&fork(at(n), at(n + 1)));
        table.on_exit(&exit(at(n), at(n + 1).1 + 1));
    }
    table.expire(100_000_000_000);
    let last = table.find_tgid(120).unwrap();
    let (ancestors, cut) = table.ancestors(&last);
    assert_eq!((ancestors.len(), cut), (ANCESTORS, true));
    assert_eq!(ancestors[0].process.pid, 119);
    assert_eq!(path(&ancestors[15]), b"/bin/first");
    // Remnants have what ancestors are told by, and no more.
    assert!(ancestors[0].process.environment.is_empty());
    assert_eq!(ancestors[0].process.argv.len(), 2);
    assert_eq!(table.gauge().processes, 21);
    check_accounts(&table);
    let fourth = table.find_tgid(104).unwrap();
    let (ancestors, cut) = table.ancestors(&fourth);
    assert_eq!((ancestors.len(), cut), (4, false));
    drop((last, fourth));
    // When the descendant is gone, so are they all.
    table.on_exit(&exit(at(20), 200_000_000_000));
    table.expire(300_000_000_000);
    assert_eq!(table.gauge().processes, 0);
    check_accounts(&table);
    assert!(table.children.is_empty());
}

#[test]
fn a_late_fact_makes_another_image() {
    let mut table = table(1 << 20);
    let image = Exec::new((10, TICK), (1, 1), 2 * TICK, b"/bin/x").run(&mut table);
    let text = image.rendered(|process| process.pid.to_string().into_bytes().into_boxed_slice());
    assert_eq!(text, b"10");
    assert_eq!(image.rendered(|_| unreachable!()), b"10");
    let before = table.gauge().bytes;
    let changed = table
        .update(image.key, 1, |process| {
            process.container = Some(Box::new(v1::Container {
                id: "c".repeat(4096),
                ..v1::Container::default()
            }));
        })
        .unwrap();
    assert_eq!(image.process.container, None);
    assert!(changed.process.container.is_some());
    assert!(table.gauge().bytes > before);
    check_accounts(&table);
    assert!(table.update(image.key, 7, |_| unreachable!()).is_none());
    // A rendered text counts until its image is gone.
    let with_text = table.gauge().bytes;
    drop(image);
    assert_eq!(table.gauge().bytes, with_text - 2);
}

#[test]
fn two_hundred_thousand_processes_stay_within_the_budget() {
    let budget = 24 << 20;
    let mut table = table(budget);
    let shell = (1000, TICK);
    Exec::new(shell, (1, 1), TICK, b"/bin/sh").run(&mut table);
    for n in 0..200_000_u32 {
        // A millisecond apart: all ends lie within few grace times, and ids come again.
        let start = 100 * TICK + u64::from(n) * 1_000_000;
        let child = (2000 + n % 30_000, start);
        table.on_fork(&fork(shell, child));
        Exec::new(child, shell, start + 1000, b"/usr/bin/short-lived").run(&mut table);
        table.on_exit(&exit(child, start + 500_000));
        assert!(table.gauge().bytes <= budget);
    }
    let gauge = table.gauge();
    assert!(gauge.evicted_ended > 100_000, "{gauge:?}");
    assert_eq!(
        (gauge.evicted_living, gauge.end_unseen, gauge.living),
        (0, 0, 1),
        "{gauge:?}"
    );
    assert!(gauge.processes > 5_000, "{gauge:?}");
    assert!(table.find_tgid(shell.0).is_some());
    check_accounts(&table);
    // What the maps and queues need beside the budgeted images is small, too.
    assert!(
        table.ended.len() + table.living.len() + table.remnants.len() < 4 * gauge.processes + 4096
    );
    assert!(table.children.len() <= gauge.processes + 1);
}

#[test]
fn living_processes_beyond_the_budget_go_unused_first() {
    let mut table = table(256 << 10);
    let asked_for = (1, TICK);
    Exec::new(asked_for, (0, 0), TICK, b"/sbin/init").run(&mut table);
    for n in 0..1000 {
        table.on_fork(&fork(asked_for, (10 + n, u64::from(n + 2) * TICK)));
        assert!(table.gauge().bytes <= 256 << 10);
    }
    let gauge = table.gauge();
    assert!(gauge.evicted_living > 500, "{gauge:?}");
    // Every fork asks for its creator.
    assert!(table.find_tgid(1).is_some());
    assert!(table.find_tgid(1009).is_some());
    assert_eq!(
        u64::try_from(gauge.processes).unwrap() + gauge.evicted_living,
        1001
    );
    check_accounts(&table);
}

#[test]
fn a_chain_of_remnants_beyond_the_budget_is_cut_and_said_so() {
    let mut table = table(128 << 10);
    let at = |n: u32| (100 + n, u64::from(n + 1) * TICK);
    Exec::new(at(0), (0, 0), TICK, b"/bin/first").run(&mut table);
    for n in 0..1000 {
        table.on_fork(&fork(at(n), at(n + 1)));
        table.on_exit(&exit(at(n), at(n + 1).1 + 1));
    }
    assert!(table.gauge().bytes <= 128 << 10);
    assert!(table.gauge().evicted_remnants > 500);
    assert_eq!(table.gauge().evicted_living, 0);
    let last = table.find_tgid(1100).unwrap();
    let (ancestors, cut) = table.ancestors(&last);
    assert!(cut);
    assert!(!ancestors.is_empty());
    check_accounts(&table);
}

#[test]
fn kinds_of_forks() {
    let mut table = table(1 << 20);
    let mut record = fork((1, TICK), (10, 2 * TICK));
    let mut kind = |table: &mut ProcessTable, change: &dyn Fn(&mut ForkRecord)| {
        record.child_tgid += 1;
        record.child_ns_pid = record.child_tgid;
        record.clone_flags = 0;
        change(&mut record);
        table.on_fork(&record).process.r#type()
    };
    assert_eq!(kind(&mut table, &|_| {}), v1::ProcessType::Fork);
    assert_eq!(
        kind(&mut table, &|r| r.clone_flags = 0x4111),
        v1::ProcessType::Vfork
    );
    assert_eq!(
        kind(&mut table, &|r| r.clone_flags = 0x2000_0011),
        v1::ProcessType::Clone
    );
    assert_eq!(
        kind(&mut table, &|r| r.clone_flags = 17),
        v1::ProcessType::Fork
    );
    assert_eq!(
        kind(&mut table, &|r| r.clone_flags = u64::MAX),
        v1::ProcessType::Fork
    );
    assert_eq!(
        kind(&mut table, &|r| r.child_ns_pid = 1),
        v1::ProcessType::ContainerInit
    );
    // The creator acts under another user than it executed with.
    record.child_tgid += 1;
    record.subject = subject(33);
    let image = table.on_fork(&record);
    let user = image
        .process
        .credentials
        .as_ref()
        .unwrap()
        .real_user
        .as_ref()
        .unwrap()
        .id;
    assert_eq!(user, 33);
}

/// What can happen to a small set of ids.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fork {
        creator: u8,
        child: u8,
    },
    Exec {
        of: u8,
    },
    Exit {
        of: u8,
    },
    /// The next fork record comes after the exec record of its child.
    CrossedExec {
        creator: u8,
        child: u8,
    },
    Touch {
        of: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0..6_u8;
    prop_oneof![
        (id.clone(), id.clone()).prop_map(|(creator, child)| Step::Fork { creator, child }),
        id.clone().prop_map(|of| Step::Exec { of }),
        id.clone().prop_map(|of| Step::Exit { of }),
        (id.clone(), id.clone()).prop_map(|(creator, child)| Step::CrossedExec { creator, child }),
        id.prop_map(|of| Step::Touch { of }),
    ]
}

/// The naive model: every process that ever was, never forgotten.
#[derive(Clone, Debug)]
struct Modelled {
    parent: Option<(u32, u64)>,
    exec_id: u32,
    ended: bool,
}

proptest! {
    #[test]
    fn parents_and_exec_ids_are_those_of_a_naive_model(steps in proptest::collection::vec(step(), 1..120)) {
        let mut table = table(64 << 20);
        let mut model: BTreeMap<(u32, u64), Modelled> = BTreeMap::new();
        // The living process of each id.
        let mut now: [Option<(u32, u64)>; 6] = [None; 6];
        let mut time = TICK;
        let root = (500, TICK);
        Exec::new(root, (0, 0), time, b"/sbin/init").run(&mut table);
        model.insert(root, Modelled { parent: None, exec_id: 1, ended: false });
        for step in steps {
            time += TICK;
            let living = |id: u8, now: &[Option<(u32, u64)>; 6]| now[usize::from(id)].unwrap_or(root);
            match step {
                Step::Fork { creator, child } | Step::CrossedExec { creator, child } => {
                    let by = living(creator, &now);
                    let new = (10 + u32::from(child), time);
                    if let Some(old) = now[usize::from(child)] {
                        if old == by {
                            continue;
                        }
                        // An end that nobody told.
                        model.get_mut(&old).unwrap().ended = true;
                    }
                    now[usize::from(child)] = Some(new);
                    let crossed = matches!(step, Step::CrossedExec { .. });
                    model.insert(new, Modelled { parent: Some(by), exec_id: u32::from(crossed), ended: false });
                    if crossed {
                        Exec::new(new, by, time, b"/bin/x").run(&mut table);
                    }
                    table.on_fork(&fork(by, new));
                }
                Step::Exec { of } => {
                    let of = living(of, &now);
                    let parent = model[&of].parent.unwrap_or((0, 0));
                    model.get_mut(&of).unwrap().exec_id += 1;
                    Exec::new(of, parent, time, b"/bin/y").run(&mut table);
                }
                Step::Exit { of } => {
                    if let Some(ended) = now[usize::from(of)].take() {
                        model.get_mut(&ended).unwrap().ended = true;
                        table.on_exit(&exit(ended, time));
                    }
                }
                Step::Touch { of } => {
                    let of = living(of, &now);
                    let image = table.actor(&header(RecordKind::Connect, of.0, of.1, time), &subject(0));
                    prop_assert_eq!(image.process.exec_id, model[&of].exec_id);
                }
            }
        }
        check_accounts(&table);
        prop_assert_eq!(table.gauge().synthesised, 0);
        let alive = model.values().filter(|process| !process.ended).count();
        prop_assert_eq!(table.gauge().living, alive);
        for (of, modelled) in &model {
            let image = table.find(table.key(of.0, of.1)).unwrap();
            prop_assert_eq!(image.process.exec_id, modelled.exec_id);
            let parent = image.parent.map(|key| (key.tgid, key.start_ticks * TICK));
            prop_assert_eq!(parent, modelled.parent);
            // Ancestors: the chain of the model, up to the limit.
            let mut chain = Vec::new();
            let mut next = modelled.parent;
            while let Some(ancestor) = next {
                chain.push(ancestor);
                next = model[&ancestor].parent;
            }
            let (ancestors, cut) = table.ancestors(&image);
            prop_assert_eq!(cut, chain.len() > ANCESTORS);
            chain.truncate(ANCESTORS);
            let found: Vec<_> = ancestors.iter().map(|image| (image.key.tgid, image.key.start_ticks * TICK)).collect();
            prop_assert_eq!(found, chain);
        }
        // When all have ended and the grace time is over, nothing is left.
        for of in model.iter().filter(|(_, process)| !process.ended).map(|(of, _)| *of).collect::<Vec<_>>() {
            table.on_exit(&exit(of, time + TICK));
        }
        table.expire(time + 100_000_000_000);
        prop_assert_eq!(table.gauge().processes, 0);
        prop_assert_eq!(table.gauge().bytes, 0);
        prop_assert!(table.children.is_empty() && table.by_tgid.is_empty());
    }

    #[test]
    fn any_records_keep_the_accounts(seeds in proptest::collection::vec((0..4_u8, 1..5_u32, 0..5_u64, 1..5_u32, 0..5_u64, 0..20_u64), 1..150)) {
        // Contradictory, repeated, in any order; parents that are their own children; a budget that is always too small.
        let mut table = table(40 << 10);
        for (what, a, b, c, d, time) in seeds {
            let (of, other) = ((a, b * TICK), (c, d * TICK));
            match what {
                0 => drop(table.on_fork(&fork(of, other))),
                1 => drop(Exec::new(of, other, time * TICK, b"/bin/z").run(&mut table)),
                2 => drop(table.on_exit(&exit(of, time * TICK))),
                _ => drop(table.actor(&header(RecordKind::Connect, of.0, of.1, time * TICK), &subject(0))),
            }
            if let Some(image) = table.find_tgid(a) {
                let (ancestors, _) = table.ancestors(&image);
                prop_assert!(ancestors.len() <= ANCESTORS);
            }
            check_accounts(&table);
        }
        table.expire(u64::MAX);
        check_accounts(&table);
    }
}
