//! Kernel module family.

use sensor_common::record::{ModuleLoadRecord, Parsed, module_flag};
use sensor_proto::field::module_load as number;
use sensor_proto::v1;

use super::{Absences, Context};

/// Body of a module load event.
#[must_use]
pub fn module_load(context: &Context<'_>, record: &Parsed<'_, ModuleLoadRecord>) -> v1::ModuleLoad {
    let head = &record.head;
    let has = |bit| head.flags & bit != 0;
    let mut absent = Absences::default();
    let mut body = v1::ModuleLoad {
        name: super::padded(&head.name),
        errno: (head.error != 0).then_some(head.error),
        from_memory: Some(has(module_flag::FROM_MEMORY)),
        ..v1::ModuleLoad::default()
    };
    if has(module_flag::ANNOUNCED) {
        body.taints = Some(head.taints);
    } else {
        // A load that failed before the kernel announced the module.
        absent.note(number::TAINTS, v1::AbsentReason::NotSet);
    }
    if body.name.is_none() {
        absent.note(number::NAME, v1::AbsentReason::NotSet);
    }
    if has(module_flag::FILE_KNOWN) {
        body.file = Some(super::file_info(context, &head.file, record.text(0)));
    } else if has(module_flag::FROM_MEMORY) {
        absent.note(number::FILE, v1::AbsentReason::NotSet);
    } else {
        absent.note(number::FILE, v1::AbsentReason::NotOnThisBackend);
    }
    body.absent = absent.into_vec();
    body
}
