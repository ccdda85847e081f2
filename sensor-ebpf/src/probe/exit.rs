//! A process ended: `sched_process_exit(task)`, which fires for each thread; the last one finds `signal->live` at 0.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use sensor_common::UNKNOWN;
use sensor_common::layout::Field;
use sensor_common::record::ExitRecord;

use crate::emit::fixed;
use crate::map;
use crate::read::{Access, Object, Typed};
use crate::task::{self, CurrentArgument};

/// `signal->flags`: `group_exit_code` counts.
const SIGNAL_GROUP_EXIT: u32 = 4;

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn exit(context: BtfTracePointContext) -> Option<()> {
    forget_calls();
    let task = Object::new(context.arg(0))?;
    let signal = Typed::pointer(task, Field::TaskSignal)?;
    if Typed::number::<u32>(signal, Field::SignalLive)? != 0 {
        return None;
    }
    let leader = Typed::pointer(task, Field::TaskGroupLeader);
    // Threads that end at the same time may all find 0: the first one reports.
    let alone = Typed::number::<u32>(signal, Field::SignalNrThreads) == Some(1);
    if !map::claim_end(identity(task, leader), alone) {
        return None;
    }
    fixed::<ExitRecord>(CurrentArgument(task), |record| {
        record.status = status(signal, leader);
        record.parent_tgid = Typed::pointer(task, Field::TaskRealParent)
            .and_then(|parent| Typed::number(parent, Field::TaskTgid))
            .unwrap_or(0);
        times(record, signal);
        add_task(record, task);
        // A leader that ended before its threads is added to the sums only when it is reaped.
        if let Some(leader) = leader
            && Typed::number::<u32>(leader, Field::TaskPid) != Some(record.header.pid)
        {
            add_task(record, leader);
        }
    });
    Some(())
}

/// Tells this process from every other that ends about now.
#[inline(always)]
fn identity(task: Object, leader: Option<Object>) -> u64 {
    let tgid = Typed::number::<u32>(task, Field::TaskTgid).unwrap_or(0);
    let start = leader
        .and_then(|leader| Typed::number::<u64>(leader, Field::TaskStartBoottime))
        .unwrap_or(0);
    u64::from(tgid) << 32 ^ start
}

/// Drops what the ending thread's unfinished or failed calls left behind.
#[inline(always)]
fn forget_calls() {
    let thread = task::thread_key();
    map::forget_path_call(thread);
    map::remove(&map::CONNECT_CALLS, thread);
    map::remove(&map::MODULE_CALLS, thread);
    map::remove(&map::SCRIPT_CALLS, thread);
}

/// The status that wait(2) will give.
#[inline(always)]
fn status(signal: Object, leader: Option<Object>) -> u32 {
    let group = Typed::number::<u32>(signal, Field::SignalFlags).unwrap_or(0) & SIGNAL_GROUP_EXIT;
    if group != 0 {
        return Typed::number(signal, Field::SignalGroupExitCode).unwrap_or(UNKNOWN);
    }
    leader
        .and_then(|leader| Typed::number(leader, Field::TaskExitCode))
        .unwrap_or(UNKNOWN)
}

/// The sums of the threads that were reaped.
#[inline(always)]
fn times(record: &mut ExitRecord, signal: Object) {
    record.user_ns = Typed::number(signal, Field::SignalUtime).unwrap_or(0);
    record.system_ns = Typed::number(signal, Field::SignalStime).unwrap_or(0);
    record.cpu_ns = Typed::number(signal, Field::SignalSumSchedRuntime).unwrap_or(0);
    record.read_bytes = Typed::number(signal, Field::SignalIoReadBytes).unwrap_or(u64::MAX);
    record.write_bytes = Typed::number(signal, Field::SignalIoWriteBytes).unwrap_or(u64::MAX);
}

/// What one thread adds to them.
#[inline(always)]
fn add_task(record: &mut ExitRecord, task: Object) {
    record.user_ns += Typed::number::<u64>(task, Field::TaskUtime).unwrap_or(0);
    record.system_ns += Typed::number::<u64>(task, Field::TaskStime).unwrap_or(0);
    record.cpu_ns += Typed::number::<u64>(task, Field::TaskSumExecRuntime).unwrap_or(0);
    if record.read_bytes != u64::MAX {
        record.read_bytes += Typed::number::<u64>(task, Field::TaskIoReadBytes).unwrap_or(0);
    }
    if record.write_bytes != u64::MAX {
        record.write_bytes += Typed::number::<u64>(task, Field::TaskIoWriteBytes).unwrap_or(0);
    }
}
