//! The last reference to a created file is gone: `__fput(file)`.
//!
//! It may run in another task, long after; who created the file was kept at its creation.

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use sensor_common::layout::Field;
use sensor_common::record::{FileCloseRecord, file_flag};

use crate::emit::fixed;
use crate::file::{self, FMODE_CREATED, FMODE_WRITE};
use crate::map;
use crate::read::{Access, Object, Probed, Typed};
use crate::task::Kept;

#[fentry(function = "__fput")]
pub(crate) fn fput_fe(context: FEntryContext) -> Option<()> {
    closed::<Typed>(Object::new(context.arg(0))?)
}

#[kprobe(function = "__fput")]
pub(crate) fn fput_kp(context: ProbeContext) -> Option<()> {
    closed::<Probed>(Object::new(context.arg(0)?)?)
}

#[inline(always)]
fn closed<A: Access>(file: Object) -> Option<()> {
    let wanted = FMODE_CREATED | FMODE_WRITE;
    // The bit stays until here; without it the table need not be asked.
    if A::number::<u32>(file, Field::FileMode)? & wanted != wanted {
        return None;
    }
    let key = file.address();
    let open = map::lookup(&map::OPEN_FILES, key)?;
    let created_boot_ns = open.header.time_boot_ns;
    let actor = Kept {
        header: &open.header,
        subject: &open.subject,
    };
    fixed::<FileCloseRecord>(actor, |record| {
        record.file_key = key;
        record.created_boot_ns = created_boot_ns;
        record.flags = file_flag::WRITABLE;
        let Some(inode) = A::pointer(file, Field::FileInode) else {
            return;
        };
        file::identify::<A>(inode, &mut record.file);
        record.writers = A::number(inode, Field::InodeWritecount).unwrap_or(0);
        if record.writers > 1 {
            record.flags |= file_flag::WRITERS_LEFT;
        }
    });
    map::remove(&map::OPEN_FILES, key);
    Some(())
}
