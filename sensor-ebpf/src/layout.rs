//! What the daemon says at load time, frozen and read-only: the kernel's layout and the settings.
//!
//! The verifier knows the values, folds them to constants and prunes what depends on an absent field. They are read
//! volatile, else the compiler would fold the defaults below instead.

use core::ptr;

use sensor_common::ABI_VERSION;
use sensor_common::layout::{ABSENT, Field, KernelLayout};
use sensor_common::map::Settings;
use sensor_common::record::RecordKind;

#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout::EMPTY;

#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    own_tgid: 0,
    scoped: 0,
    features: 0,
    syscall_exit_kinds: 0,
    wake_bytes: 0,
};

/// Not read here: the loader compares it with its own.
#[unsafe(no_mangle)]
#[used]
static ABI: u32 = ABI_VERSION;

/// The value of `field`, if this kernel has it.
#[inline(always)]
pub(crate) fn value(field: Field) -> Option<u32> {
    let entry = (&raw const LAYOUT.values)
        .cast::<u32>()
        .wrapping_add(field as usize);
    // SAFETY: the table has one entry per field, so the entry is inside it.
    let value = unsafe { ptr::read_volatile(entry) };
    if value == ABSENT { None } else { Some(value) }
}

/// The value of `field` as an offset.
#[inline(always)]
pub(crate) fn offset(field: Field) -> Option<usize> {
    value(field).map(|value| value as usize)
}

/// The daemon's own process id.
#[inline(always)]
pub(crate) fn own_tgid() -> u32 {
    // SAFETY: a valid static.
    unsafe { ptr::read_volatile(&raw const SETTINGS.own_tgid) }
}

/// Whether only one cgroup is recorded.
#[inline(always)]
pub(crate) fn scoped() -> bool {
    // SAFETY: a valid static.
    let scoped = unsafe { ptr::read_volatile(&raw const SETTINGS.scoped) };
    scoped != 0
}

/// Whether a bit of [`sensor_common::map::feature`] is set.
#[inline(always)]
pub(crate) fn feature(bit: u32) -> bool {
    // SAFETY: a valid static.
    let features = unsafe { ptr::read_volatile(&raw const SETTINGS.features) };
    features & bit != 0
}

/// Whether the syscall-exit program reports records of this kind.
#[inline(always)]
pub(crate) fn syscall_exit(kind: RecordKind) -> bool {
    // SAFETY: a valid static.
    let kinds = unsafe { ptr::read_volatile(&raw const SETTINGS.syscall_exit_kinds) };
    kinds & (1 << kind.slot()) != 0
}

/// Unread bytes from which a polling reader is woken.
#[inline(always)]
pub(crate) fn wake_bytes() -> u64 {
    // SAFETY: a valid static.
    unsafe { ptr::read_volatile(&raw const SETTINGS.wake_bytes) }
}
