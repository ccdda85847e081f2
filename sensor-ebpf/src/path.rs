//! Paths: from a dentry up to the process's root, backwards into a buffer.
//!
//! The whole state of the walk lives in map memory and is read anew in each step: to the verifier every step then
//! looks like the one before, and the walk costs it a few thousand instructions instead of a million. Two variants,
//! which cannot live in one program: [`Bounded`] for every kernel, [`Looped`] with `bpf_loop` (5.17).

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::helpers::bpf_loop;
use sensor_common::layout::Field;
use sensor_common::record::PATH_MAX;

use crate::layout;
use crate::read::{self, Access, Object, Probed};
use crate::task::Place;

/// Steps of the bounded walk: components and crossings of mounts.
const BOUNDED_STEPS: u32 = 64;
/// Steps of the looped walk: each component has at least two bytes; some more for mounts.
const LOOPED_STEPS: u32 = 2048 + 256;
/// Where the path ends in the buffer.
const END: u64 = 4096 + 256;
/// What a position is masked to.
const POSITION_MASK: u64 = 8191;
/// Longest name of a directory entry (NAME_MAX).
const NAME_MASK: u64 = 255;

/// How a walk ended: values of [`Walk::end`].
mod end {
    /// Steps are left to do, or there were too few.
    pub(super) const NONE: u64 = 0;
    /// At the process's root.
    pub(super) const ROOT: u64 = 1;
    /// At a dentry that has no parent and is no mount's root: memfd and the like. The path is whole.
    pub(super) const NO_PARENT: u64 = 2;
    /// At a mount that hangs nowhere, or outside of the process's root.
    pub(super) const DETACHED: u64 = 3;
    /// The path is longer than PATH_MAX.
    pub(super) const TOO_LONG: u64 = 4;
    /// Memory could not be read.
    pub(super) const UNREADABLE: u64 = 5;
}

/// State of a walk, in map memory.
#[repr(C)]
pub(crate) struct Walk {
    dentry: u64,
    mount: u64,
    mount_root: u64,
    root_dentry: u64,
    root_mount: u64,
    position: u64,
    end: u64,
    /// `d_parent`, hash and length of the name, its address.
    link: [u64; 3],
    buffer: [u8; POSITION_MASK as usize + 1 + NAME_MASK as usize + 2],
}

/// What came of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Walked {
    /// Address of the first byte.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) length: u64,
    /// Whether the path's head is there.
    pub(crate) whole: bool,
    /// Whether nothing could be read.
    pub(crate) unreadable: bool,
}

/// A way to repeat [`step`].
pub(crate) trait Walker {
    /// Steps until the walk ends.
    ///
    /// # Safety
    /// `walk` points to a `Walk` in map memory.
    unsafe fn repeat(walk: *mut Walk);
}

/// 64 steps, on every kernel.
pub(crate) struct Bounded;

impl Walker for Bounded {
    #[inline(always)]
    unsafe fn repeat(walk: *mut Walk) {
        let mut steps = 0;
        while steps < BOUNDED_STEPS {
            // SAFETY: by this function's own condition.
            if unsafe { step(walk) } {
                break;
            }
            steps += 1;
        }
    }
}

/// As many steps as a path can need, on kernels with `bpf_loop`.
pub(crate) struct Looped;

impl Walker for Looped {
    #[inline(always)]
    unsafe fn repeat(walk: *mut Walk) {
        let mut context = walk;
        let callback = looped_step as extern "C" fn(u64, *mut *mut Walk) -> u64;
        // SAFETY: the callback takes what it is given here; the verifier checks it.
        unsafe {
            bpf_loop(
                LOOPED_STEPS,
                callback as *mut c_void,
                (&raw mut context).cast(),
                0,
            )
        };
    }
}

/// `bpf_loop` callback: 1 ends the loop.
#[inline(never)]
extern "C" fn looped_step(_index: u64, context: *mut *mut Walk) -> u64 {
    // SAFETY: `repeat` passes the address of a pointer to a walk.
    let walk = unsafe { *context };
    // SAFETY: that pointer is to map memory.
    let ended = unsafe { step(walk) };
    u64::from(ended)
}

/// Walks from `from` up to `root`.
///
/// # Safety
/// `walk` points to a `Walk` in map memory.
#[inline(always)]
pub(crate) unsafe fn walk<W: Walker>(walk: *mut Walk, from: Place, root: Place) -> Walked {
    let mount_root = mount_root(from.mount);
    // SAFETY: `walk` is valid by this function's own condition.
    let state = unsafe { &mut *walk };
    state.dentry = from.dentry;
    state.mount = from.mount;
    state.mount_root = mount_root;
    state.root_dentry = root.dentry;
    state.root_mount = root.mount;
    state.position = END;
    state.end = end::NONE;
    // SAFETY: by this function's own condition.
    unsafe { W::repeat(walk) };
    let ended = load(&raw const state.end);
    let mut position = load(&raw const state.position);
    let mut whole = ended == end::ROOT || ended == end::NO_PARENT;
    let unreadable = ended == end::UNREADABLE;
    if position == END && ended == end::ROOT {
        position = END - 1;
        state.buffer[(END - 1) as usize] = b'/';
    }
    if unreadable {
        whole = false;
    }
    let start = (&raw const state.buffer)
        .cast::<u8>()
        .wrapping_add(read::mask::<POSITION_MASK>(position) as usize);
    Walked {
        start: start.expose_provenance() as u64,
        length: END - position,
        whole,
        unreadable,
    }
}

/// Reads a word of map memory, of which the compiler must not remember what was written.
#[inline(always)]
fn load(source: *const u64) -> u64 {
    // SAFETY: every caller passes the address of a field of a valid walk.
    unsafe { ptr::read_volatile(source) }
}

#[inline(always)]
fn store(destination: *mut u64, value: u64) {
    // SAFETY: every caller passes the address of a field of a valid walk.
    unsafe { ptr::write_volatile(destination, value) }
}

#[inline(always)]
fn mount_root(mount: u64) -> u64 {
    Object::from_address(mount)
        .and_then(|mount| Probed::number(mount, Field::VfsmountRoot))
        .unwrap_or(0)
}

/// One step: a component, or a mount. Whether the walk ended.
///
/// # Safety
/// `walk` points to a `Walk` in map memory.
#[inline(always)]
unsafe fn step(walk: *mut Walk) -> bool {
    // SAFETY: `walk` is valid by this function's own condition.
    let state = unsafe { &mut *walk };
    let dentry = load(&raw const state.dentry);
    let mount = load(&raw const state.mount);
    if dentry == load(&raw const state.root_dentry) && mount == load(&raw const state.root_mount) {
        store(&raw mut state.end, end::ROOT);
        return true;
    }
    if dentry == load(&raw const state.mount_root) {
        return leave_mount(state, mount);
    }
    if !read_link(state, dentry) {
        store(&raw mut state.end, end::UNREADABLE);
        return true;
    }
    let length = read::mask::<NAME_MASK>(load(&raw const state.link[1]) >> 32);
    let position = load(&raw const state.position);
    if position < END - PATH_MAX as u64 + 1 + length {
        store(&raw mut state.end, end::TOO_LONG);
        return true;
    }
    let position = read::mask::<POSITION_MASK>(position - length - 1);
    let slash = (&raw mut state.buffer)
        .cast::<u8>()
        .wrapping_add(position as usize);
    // SAFETY: a masked position is inside the buffer.
    unsafe { ptr::write_volatile(slash, b'/') };
    let name = load(&raw const state.link[2]);
    // Again, since the comparison above made 6.12 forget the bound.
    let length = read::mask::<NAME_MASK>(length);
    // SAFETY: behind every masked position there is room for a name.
    unsafe { read::probe_read_kernel(slash.wrapping_add(1), length, name) };
    store(&raw mut state.position, position);
    let parent = load(&raw const state.link[0]);
    if parent == dentry {
        store(&raw mut state.end, end::NO_PARENT);
        return true;
    }
    store(&raw mut state.dentry, parent);
    false
}

/// Reads parent, name length and name of a dentry into `link`: at once where they lie together, as they do everywhere.
#[inline(always)]
fn read_link(state: &mut Walk, dentry: u64) -> bool {
    let (Some(parent), Some(length), Some(name)) = (
        layout::offset(Field::DentryParent),
        layout::offset(Field::DentryNameLen),
        layout::offset(Field::DentryName),
    ) else {
        return false;
    };
    let link = &raw mut state.link;
    if length == parent + 12 && name == parent + 16 {
        // SAFETY: `link` has 24 bytes.
        return unsafe { read::probe_read_kernel(link.cast(), 24, dentry + parent as u64) } == 0;
    }
    let Some(object) = Object::from_address(dentry) else {
        return false;
    };
    let (Some(parent), Some(length), Some(name)) = (
        Probed::load::<u64>(object, parent),
        Probed::load::<u32>(object, length),
        Probed::load::<u64>(object, name),
    ) else {
        return false;
    };
    store(&raw mut state.link[0], parent);
    store(&raw mut state.link[1], u64::from(length) << 32);
    store(&raw mut state.link[2], name);
    true
}

/// From a mount's root to where it is mounted. Whether the walk ended.
#[inline(always)]
fn leave_mount(state: &mut Walk, mount: u64) -> bool {
    let up = layout::offset(Field::MountMnt).and_then(|inside| {
        let object = Object::from_address(mount - inside as u64)?;
        let parent = Probed::number::<u64>(object, Field::MountParent)?;
        let mountpoint = Probed::number::<u64>(object, Field::MountMountpoint)?;
        Some((object.address(), parent, parent + inside as u64, mountpoint))
    });
    let Some((own, parent, parent_mount, mountpoint)) = up else {
        store(&raw mut state.end, end::UNREADABLE);
        return true;
    };
    if parent == own {
        store(&raw mut state.end, end::DETACHED);
        return true;
    }
    store(&raw mut state.dentry, mountpoint);
    store(&raw mut state.mount, parent_mount);
    store(&raw mut state.mount_root, mount_root(parent_mount));
    false
}
