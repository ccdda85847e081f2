//! A `#!` round of an exec that is under way: `security_bprm_check(bprm)`, once per binary format that is tried.

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use sensor_common::layout::Field;
use sensor_common::map::feature;
use sensor_common::record::ScriptRecord;

use crate::emit::{PATH_BYTES, tailed};
use crate::path::{Bounded, Looped, Walker};
use crate::read::{Access, Object, Probed, Typed};
use crate::task::{self, Current};
use crate::{file, layout, map};

/// "#!" as the two bytes are read.
const MAGIC: u16 = u16::from_le_bytes(*b"#!");

#[fentry(function = "security_bprm_check")]
pub(crate) fn script_fe_b(context: FEntryContext) -> Option<()> {
    script::<Bounded, Typed>(Object::new(context.arg(0))?)
}

#[fentry(function = "security_bprm_check")]
pub(crate) fn script_fe_l(context: FEntryContext) -> Option<()> {
    script::<Looped, Typed>(Object::new(context.arg(0))?)
}

#[kprobe(function = "security_bprm_check")]
pub(crate) fn script_kp_b(context: ProbeContext) -> Option<()> {
    script::<Bounded, Probed>(Object::new(context.arg(0)?)?)
}

#[kprobe(function = "security_bprm_check")]
pub(crate) fn script_kp_l(context: ProbeContext) -> Option<()> {
    script::<Looped, Probed>(Object::new(context.arg(0)?)?)
}

#[inline(always)]
fn script<W: Walker, A: Access>(bprm: Object) -> Option<()> {
    let magic: u16 = A::number(bprm, Field::BprmBuf)?;
    let first =
        A::number::<u64>(bprm, Field::BprmFilename) == A::number::<u64>(bprm, Field::BprmInterp);
    if magic != MAGIC {
        if first && layout::feature(feature::SCRIPT_PROBE) {
            // What an earlier exec of this thread, which failed, may have left.
            map::remove(&map::SCRIPT_CALLS, task::thread_key());
        }
        return None;
    }
    let script = A::pointer(bprm, Field::BprmFile)?;
    let scratch = map::SCRATCH_SCRIPT.get_ptr_mut(0);
    let emitted = tailed::<ScriptRecord, PATH_BYTES>(scratch, Current, |draft| {
        if let Some(inode) = A::pointer(script, Field::FileInode) {
            file::identify::<A>(inode, &mut draft.record().file);
        }
        let path = draft.push_path::<W>(file::place::<A>(script), task::current_root());
        draft.record().path = path;
    });
    if emitted {
        map::insert(&map::SCRIPT_CALLS, task::thread_key(), &0);
    }
    Some(())
}
