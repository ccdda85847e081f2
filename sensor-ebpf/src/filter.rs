//! What is left out on purpose: the sensor's own doings and everything outside the scoped cgroup.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use sensor_common::counter::KernelCounter;

use crate::{layout, map};

/// The counter under which the current task's doings are dropped; none: they are reported.
#[inline(always)]
pub(crate) fn verdict() -> Option<KernelCounter> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let own = layout::own_tgid();
    if own != 0 && tgid == own {
        return Some(KernelCounter::FilteredSelf);
    }
    // An error is "not inside": a scope that cannot be decided must not widen.
    if layout::scoped() && map::SCOPE_CGROUP.current_task_under_cgroup(0) != Ok(true) {
        return Some(KernelCounter::FilteredScope);
    }
    None
}
