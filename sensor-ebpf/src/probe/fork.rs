//! A process was made: `task_newtask(task, clone_flags)`, which fires for threads too. The current task is the creator.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use sensor_common::layout::Field;
use sensor_common::record::ForkRecord;

use crate::emit::fixed;
use crate::read::{Access, Object, Typed};
use crate::task::{self, Current};

#[btf_tracepoint(function = "task_newtask")]
pub(crate) fn fork(context: BtfTracePointContext) -> Option<()> {
    let child = Object::new(context.arg(0))?;
    let clone_flags: u64 = context.arg(1);
    let tgid: u32 = Typed::number(child, Field::TaskTgid)?;
    if Typed::number::<u32>(child, Field::TaskPid)? != tgid {
        return None;
    }
    fixed::<ForkRecord>(Current, |record| {
        record.child_tgid = tgid;
        record.clone_flags = clone_flags;
        record.child_start_boot_ns = Typed::number(child, Field::TaskStartBoottime).unwrap_or(0);
        (record.child_ns_pid, _) = task::own_namespace(child);
        if let Some(parent) = Typed::pointer(child, Field::TaskRealParent) {
            record.parent_tgid = Typed::number(parent, Field::TaskTgid).unwrap_or(0);
            record.parent_start_boot_ns = task::start_boot_ns::<Typed>(parent);
        }
    });
    Some(())
}
