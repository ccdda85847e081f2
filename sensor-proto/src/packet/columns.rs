//! What events and rows of processes leave out inside a packet, and how it comes back. `take_*` and `put_*` are each other's
//! inverse for everything that a packet may hold; the schema documents each column.

use std::collections::HashMap;

use crate::identity;
use crate::v1::{self, event::Body};

/// Bits of `EventColumns.derived`.
pub(super) mod event_bit {
    pub(crate) const TIME: u32 = 1;
    pub(crate) const RUN_DURATION: u32 = 1 << 1;
    pub(crate) const PREVIOUS: u32 = 1 << 2;
}

/// Bits of `ProcessColumns.derived`.
pub(super) mod process_bit {
    pub(crate) const UNIQUE_PID: u32 = 1;
    pub(crate) const START_TIME: u32 = 1 << 1;
    pub(crate) const EXEC_TIME: u32 = 1 << 2;
    pub(crate) const END_TIME: u32 = 1 << 3;
    pub(crate) const NS_PID: u32 = 1 << 4;
}

/// Length of a clock tick in `unique_pid`: USER_HZ is 100 wherever Linux runs today.
const TICK_NS: u64 = 10_000_000;

/// What header and body say for all of them.
#[derive(Clone, Debug)]
pub(super) struct Base {
    boot_id: String,
    sealed_time_ns: i64,
    first_boot_ns: u64,
    wall_minus_boot_ns: i64,
}

impl Base {
    pub(super) fn new(
        boot_id: [u8; 16],
        sealed_time_ns: i64,
        first_boot_ns: u64,
        wall_minus_boot_ns: i64,
    ) -> Self {
        Self {
            boot_id: uuid::Uuid::from_bytes(boot_id).hyphenated().to_string(),
            sealed_time_ns,
            first_boot_ns,
            wall_minus_boot_ns,
        }
    }

    fn wall_ns(&self, boot_ns: u64) -> i64 {
        boot_ns.cast_signed().wrapping_add(self.wall_minus_boot_ns)
    }

    fn unique_pid(&self, pid: u32, start_boot_ns: u64) -> [u8; 16] {
        let ticks = start_boot_ns.checked_div(TICK_NS).unwrap_or(0);
        identity::unique_pid(&self.boot_id, pid, ticks).into_bytes()
    }
}

/// Positions of rows by (`unique_pid`, `exec_id`).
#[derive(Debug, Default)]
pub(super) struct Rows(HashMap<(Vec<u8>, u32), usize>);

impl Rows {
    /// `None` if two rows have the same key.
    pub(super) fn of(processes: &[v1::Process]) -> Option<Self> {
        let mut rows = HashMap::with_capacity(processes.len());
        for (index, process) in processes.iter().enumerate() {
            let key = (process.unique_pid.clone(), process.exec_id);
            if rows.insert(key, index).is_some() {
                return None;
            }
        }
        Some(Self(rows))
    }

    pub(super) fn find(&self, unique_pid: &[u8], exec_id: u32) -> Option<usize> {
        // A key of borrowed parts is not worth a type of its own.
        self.0.get(&(unique_pid.to_vec(), exec_id)).copied()
    }

    /// The row that a reference is like, thread apart.
    fn like(&self, processes: &[v1::Process], reference: &v1::ProcessRef) -> Option<usize> {
        let index = self.find(reference.unique_pid.as_deref()?, reference.exec_id)?;
        let row = processes.get(index)?;
        let like = reference.pid == row.pid
            && reference.start_boot_ns == Some(row.start_boot_ns)
            && !reference.out_of_scope;
        like.then_some(index)
    }
}

/// A column that says nothing is left out.
fn unless_zeros<T: Default + PartialEq>(column: Vec<T>) -> Vec<T> {
    if column.iter().all(|value| *value == T::default()) {
        Vec::new()
    } else {
        column
    }
}

fn index_plus_one(index: Option<usize>) -> u32 {
    index
        .and_then(|index| u32::try_from(index).ok()?.checked_add(1))
        .unwrap_or(0)
}

/// Takes out of the events what the columns tell. Rows are whole. Events without id, or with that of another agent, are the
/// caller's to refuse.
pub(super) fn take_events(
    events: &mut [v1::Event],
    processes: &[v1::Process],
    rows: &Rows,
    base: &Base,
) -> v1::EventColumns {
    let mut out = v1::EventColumns::default();
    let mut boot_ns = base.first_boot_ns;
    let mut counter = 0_u64;
    let mut sequences: HashMap<(i32, u32), u64> = HashMap::new();
    let all_processed = events.iter().all(|event| event.processed_time_ns.is_some());
    let mut processed_ns = base.sealed_time_ns;
    for event in events {
        let mut derived = 0;
        if event.time_ns == base.wall_ns(event.time_boot_ns) {
            derived |= event_bit::TIME;
            event.time_ns = 0;
        }
        let start = event
            .process
            .as_ref()
            .and_then(|process| process.start_boot_ns);
        match (&mut event.body, &event.process) {
            (Some(Body::Exit(exit)), _) => {
                let run = start.map(|start| event.time_boot_ns.saturating_sub(start));
                if run.is_some() && exit.run_duration_ns == run {
                    derived |= event_bit::RUN_DURATION;
                    exit.run_duration_ns = None;
                }
            }
            (Some(Body::Exec(exec)), Some(process))
                if exec.previous.is_some() && exec.previous == previous(process) =>
            {
                derived |= event_bit::PREVIOUS;
                exec.previous = None;
            }
            _ => {}
        }
        out.derived.push(derived);

        let delta = event.time_boot_ns.wrapping_sub(boot_ns).cast_signed();
        out.time_boot_delta_ns.push(delta);
        boot_ns = std::mem::take(&mut event.time_boot_ns);

        let own = event.id.take().map_or(0, |id| id.counter);
        out.counter_delta
            .push(own.wrapping_sub(counter).wrapping_sub(1).cast_signed());
        counter = own;

        let place = match (event.cpu, event.sequence) {
            (Some(cpu), Some(sequence)) => cpu.checked_add(1).map(|cpu| (cpu, sequence)),
            (_, _) => None,
        };
        if let Some((cpu, sequence)) = place {
            let last = sequences.entry((event.lane, cpu)).or_default();
            let delta = sequence.wrapping_sub(*last).wrapping_sub(1);
            *last = sequence;
            out.cpu_plus_one.push(cpu);
            out.sequence_delta.push(delta.cast_signed());
            (event.cpu, event.sequence) = (None, None);
        } else {
            out.cpu_plus_one.push(0);
            out.sequence_delta.push(0);
        }

        if all_processed && let Some(processed) = event.processed_time_ns.take() {
            out.processed_time_delta_ns
                .push(processed.wrapping_sub(processed_ns));
            processed_ns = processed;
        }

        let other = other(event).and_then(|slot| {
            let reference = slot.as_ref().filter(|reference| reference.tid.is_none())?;
            let index = rows.like(processes, reference)?;
            *slot = None;
            Some(index)
        });
        out.other_row.push(index_plus_one(other));

        let actor = event.process.as_ref().and_then(|reference| {
            let tid = reference.tid?;
            let index = rows.like(processes, reference)?;
            Some((index, i64::from(tid) - i64::from(reference.pid)))
        });
        if actor.is_some() {
            event.process = None;
        }
        out.process_row
            .push(index_plus_one(actor.map(|(index, _)| index)));
        out.tid_delta.push(actor.map_or(0, |(_, delta)| delta));
    }
    v1::EventColumns {
        derived: unless_zeros(out.derived),
        time_boot_delta_ns: unless_zeros(out.time_boot_delta_ns),
        counter_delta: unless_zeros(out.counter_delta),
        cpu_plus_one: unless_zeros(out.cpu_plus_one),
        sequence_delta: unless_zeros(out.sequence_delta),
        processed_time_delta_ns: out.processed_time_delta_ns,
        process_row: unless_zeros(out.process_row),
        tid_delta: unless_zeros(out.tid_delta),
        other_row: unless_zeros(out.other_row),
    }
}

/// The process one exec earlier.
fn previous(process: &v1::ProcessRef) -> Option<v1::ProcessRef> {
    Some(v1::ProcessRef {
        exec_id: process.exec_id.checked_sub(1)?,
        tid: None,
        ..process.clone()
    })
}

/// The second process that an event may refer to.
fn other(event: &mut v1::Event) -> Option<&mut Option<v1::ProcessRef>> {
    match &mut event.body {
        Some(Body::Fork(fork)) => Some(&mut fork.child),
        Some(Body::Connect(connect)) => Some(&mut connect.peer),
        _ => None,
    }
}

/// Times of the first exec (false) and the first exit (true) by each row.
pub(super) type Points = HashMap<(usize, bool), i64>;

/// Finds them; events and rows are whole.
pub(super) fn turning_points(events: &[v1::Event], rows: &Rows) -> Points {
    let mut points = HashMap::new();
    for event in events {
        let is_exit = match event.body {
            Some(Body::Exec(_)) => false,
            Some(Body::Exit(_)) => true,
            _ => continue,
        };
        let row = event
            .process
            .as_ref()
            .and_then(|reference| rows.find(reference.unique_pid.as_deref()?, reference.exec_id));
        if let Some(row) = row {
            points.entry((row, is_exit)).or_insert(event.time_ns);
        }
    }
    points
}

/// Takes out of the rows what the columns tell.
pub(super) fn take_processes(
    processes: &mut [v1::Process],
    points: &Points,
    rows: &Rows,
    base: &Base,
) -> v1::ProcessColumns {
    let mut out = v1::ProcessColumns::default();
    for process in &*processes {
        let parent = process
            .parent
            .as_ref()
            .filter(|parent| parent.tid.is_none())
            .and_then(|parent| rows.like(processes, parent));
        out.parent_row.push(index_plus_one(parent));
    }
    let (mut start_boot_ns, mut pid) = (0_u64, 0_u32);
    for (index, process) in processes.iter_mut().enumerate() {
        let mut derived = 0;
        if process.unique_pid == base.unique_pid(process.pid, process.start_boot_ns) {
            derived |= process_bit::UNIQUE_PID;
            process.unique_pid.clear();
        }
        if process.start_time_ns == base.wall_ns(process.start_boot_ns) {
            derived |= process_bit::START_TIME;
            process.start_time_ns = 0;
        }
        let exec = points.get(&(index, false)).copied();
        if exec.is_some() && process.exec_time_ns == exec {
            derived |= process_bit::EXEC_TIME;
            process.exec_time_ns = None;
        }
        let exit = points.get(&(index, true)).copied();
        if exit.is_some() && process.end_time_ns == exit {
            derived |= process_bit::END_TIME;
            process.end_time_ns = None;
        }
        if process.ns_pid == Some(process.pid) {
            derived |= process_bit::NS_PID;
            process.ns_pid = None;
        }
        out.derived.push(derived);
        let delta = process.start_boot_ns.wrapping_sub(start_boot_ns);
        out.start_boot_delta_ns.push(delta.cast_signed());
        start_boot_ns = std::mem::take(&mut process.start_boot_ns);
        out.pid_delta.push(i64::from(process.pid) - i64::from(pid));
        pid = std::mem::take(&mut process.pid);
        if out.parent_row.get(index).is_some_and(|row| *row > 0) {
            process.parent = None;
        }
    }
    v1::ProcessColumns {
        derived: unless_zeros(out.derived),
        start_boot_delta_ns: unless_zeros(out.start_boot_delta_ns),
        pid_delta: unless_zeros(out.pid_delta),
        parent_row: unless_zeros(out.parent_row),
    }
}

/// Columns and list contradict each other: which column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradiction(pub(super) &'static str);

/// A column beside a list of so many.
struct Column<'a, T>(&'a [T]);

impl<'a, T: Copy + Default> Column<'a, T> {
    fn of(column: &'a [T], length: usize, name: &'static str) -> Result<Self, Contradiction> {
        if column.is_empty() || column.len() == length {
            Ok(Self(column))
        } else {
            Err(Contradiction(name))
        }
    }

    fn at(&self, index: usize) -> T {
        self.0.get(index).copied().unwrap_or_default()
    }
}

fn row_at<'a>(
    processes: &'a [v1::Process],
    plus_one: u32,
    name: &'static str,
) -> Result<Option<&'a v1::Process>, Contradiction> {
    let Some(index) = plus_one.checked_sub(1) else {
        return Ok(None);
    };
    let row = usize::try_from(index)
        .ok()
        .and_then(|index| processes.get(index));
    row.map(Some).ok_or(Contradiction(name))
}

/// Puts back what the columns tell of rows, but for the times of exec and exit, which follow when the events are whole
/// ([`put_turning_points`]).
pub(super) fn put_processes(
    processes: &mut [v1::Process],
    columns: &v1::ProcessColumns,
    base: &Base,
) -> Result<(), Contradiction> {
    let length = processes.len();
    let derived = Column::of(&columns.derived, length, "process_columns.derived")?;
    let starts = Column::of(
        &columns.start_boot_delta_ns,
        length,
        "process_columns.start_boot_delta_ns",
    )?;
    let pids = Column::of(&columns.pid_delta, length, "process_columns.pid_delta")?;
    let parents = Column::of(&columns.parent_row, length, "process_columns.parent_row")?;
    let (mut start_boot_ns, mut pid) = (0_u64, 0_i64);
    for (index, process) in processes.iter_mut().enumerate() {
        start_boot_ns = start_boot_ns.wrapping_add(starts.at(index).cast_unsigned());
        process.start_boot_ns = start_boot_ns;
        pid = pid.wrapping_add(pids.at(index));
        process.pid =
            u32::try_from(pid).map_err(|_range| Contradiction("process_columns.pid_delta"))?;
        let derived = derived.at(index);
        if derived & process_bit::UNIQUE_PID != 0 {
            process.unique_pid = base.unique_pid(process.pid, start_boot_ns).to_vec();
        }
        if derived & process_bit::START_TIME != 0 {
            process.start_time_ns = base.wall_ns(start_boot_ns);
        }
        if derived & process_bit::NS_PID != 0 {
            process.ns_pid = Some(process.pid);
        }
    }
    for index in 0..length {
        let parent = row_at(processes, parents.at(index), "process_columns.parent_row")?;
        if let Some(reference) = parent.map(v1::Process::reference)
            && let Some(process) = processes.get_mut(index)
        {
            process.parent = Some(reference);
        }
    }
    Ok(())
}

/// Puts back the times of exec and exit of rows.
pub(super) fn put_turning_points(
    processes: &mut [v1::Process],
    columns: &v1::ProcessColumns,
    events: &[v1::Event],
    rows: &Rows,
) -> Result<(), Contradiction> {
    let derived = Column::of(&columns.derived, processes.len(), "process_columns.derived")?;
    let points = turning_points(events, rows);
    for (index, process) in processes.iter_mut().enumerate() {
        let derived = derived.at(index);
        for (bit, is_exit, time) in [
            (process_bit::EXEC_TIME, false, &mut process.exec_time_ns),
            (process_bit::END_TIME, true, &mut process.end_time_ns),
        ] {
            if derived & bit != 0 {
                let point = points.get(&(index, is_exit)).copied();
                *time = Some(point.ok_or(Contradiction("process_columns.derived"))?);
            }
        }
    }
    Ok(())
}

/// Puts back what the columns tell of events. Rows have their identity by now.
pub(super) fn put_events(
    events: &mut [v1::Event],
    columns: &v1::EventColumns,
    processes: &[v1::Process],
    base: &Base,
) -> Result<(), Contradiction> {
    let length = events.len();
    let derived = Column::of(&columns.derived, length, "event_columns.derived")?;
    let times = Column::of(
        &columns.time_boot_delta_ns,
        length,
        "event_columns.time_boot_delta_ns",
    )?;
    let counters = Column::of(
        &columns.counter_delta,
        length,
        "event_columns.counter_delta",
    )?;
    let cpus = Column::of(&columns.cpu_plus_one, length, "event_columns.cpu_plus_one")?;
    let sequences = Column::of(
        &columns.sequence_delta,
        length,
        "event_columns.sequence_delta",
    )?;
    let processed = Column::of(
        &columns.processed_time_delta_ns,
        length,
        "event_columns.processed_time_delta_ns",
    )?;
    let actors = Column::of(&columns.process_row, length, "event_columns.process_row")?;
    let tids = Column::of(&columns.tid_delta, length, "event_columns.tid_delta")?;
    let others = Column::of(&columns.other_row, length, "event_columns.other_row")?;
    let mut boot_ns = base.first_boot_ns;
    let mut counter = 0_u64;
    let mut last: HashMap<(i32, u32), u64> = HashMap::new();
    let mut processed_ns = base.sealed_time_ns;
    for (index, event) in events.iter_mut().enumerate() {
        boot_ns = boot_ns.wrapping_add(times.at(index).cast_unsigned());
        event.time_boot_ns = boot_ns;
        counter = counter
            .wrapping_add(counters.at(index).cast_unsigned())
            .wrapping_add(1);
        event.id = Some(v1::EventId {
            counter,
            ..v1::EventId::default()
        });
        let derived = derived.at(index);
        if derived & event_bit::TIME != 0 {
            event.time_ns = base.wall_ns(boot_ns);
        }
        let cpu = cpus.at(index);
        if cpu > 0 {
            let last = last.entry((event.lane, cpu)).or_default();
            *last = last
                .wrapping_add(sequences.at(index).cast_unsigned())
                .wrapping_add(1);
            event.cpu = cpu.checked_sub(1);
            event.sequence = Some(*last);
        }
        if !processed.0.is_empty() {
            processed_ns = processed_ns.wrapping_add(processed.at(index));
            event.processed_time_ns = Some(processed_ns);
        }
        if let Some(row) = row_at(processes, actors.at(index), "event_columns.process_row")? {
            let tid = i64::from(row.pid).wrapping_add(tids.at(index));
            let tid =
                u32::try_from(tid).map_err(|_range| Contradiction("event_columns.tid_delta"))?;
            event.process = Some(v1::ProcessRef {
                tid: Some(tid),
                ..row.reference()
            });
        }
        if let Some(row) = row_at(processes, others.at(index), "event_columns.other_row")? {
            let slot = other(event).ok_or(Contradiction("event_columns.other_row"))?;
            *slot = Some(row.reference());
        }
        let contradiction = Contradiction("event_columns.derived");
        if derived & event_bit::RUN_DURATION != 0 {
            let start = event
                .process
                .as_ref()
                .and_then(|process| process.start_boot_ns)
                .ok_or(contradiction)?;
            let Some(Body::Exit(exit)) = &mut event.body else {
                return Err(contradiction);
            };
            exit.run_duration_ns = Some(boot_ns.saturating_sub(start));
        }
        if derived & event_bit::PREVIOUS != 0 {
            let before = event
                .process
                .as_ref()
                .and_then(previous)
                .ok_or(contradiction)?;
            let Some(Body::Exec(exec)) = &mut event.body else {
                return Err(contradiction);
            };
            exec.previous = Some(before);
        }
    }
    Ok(())
}
