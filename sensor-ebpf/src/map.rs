//! Every map.
//!
//! What is owed (files still open, connections without a result) lives in preallocated hashes, never in an LRU: a
//! failed insert is a counted loss. A scratch belongs to one program, since programs interleave on one CPU; the
//! variants of a program (walk, hook) share it, since only one of them is ever attached.

use core::arch::asm;
use core::ptr;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, CgroupArray, HashMap, PerCpuArray, RingBuf};
use sensor_common::counter::{COUNTER_COUNT, KernelCounter};
use sensor_common::map::{CONNECTING_ENTRIES, Connecting, OPEN_FILES_ENTRIES, OpenFile};
use sensor_common::record::{FileIdentity, Lane, RecordKind};

use crate::emit::{EXEC_BYTES, PATH_BYTES, Scratch};

/// Threads that are inside a call of one kind at the same time. An entry that a failed call leaves behind goes with
/// the thread's next call or its end.
const CALLS: u32 = 8192;

/// Sizes are defaults; the loader sets others.
#[map(name = "ring_process")]
pub(crate) static RING_PROCESS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);
#[map(name = "ring_file")]
pub(crate) static RING_FILE: RingBuf = RingBuf::with_byte_size(16 << 20, 0);
#[map(name = "ring_network")]
pub(crate) static RING_NETWORK: RingBuf = RingBuf::with_byte_size(8 << 20, 0);
#[map(name = "ring_control")]
pub(crate) static RING_CONTROL: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

#[map(name = "reader_awake")]
static READER_AWAKE: Array<u32> = Array::with_max_entries(Lane::COUNT as u32, 0);

/// Last sequence number per lane.
#[map(name = "sequence")]
static SEQUENCE: PerCpuArray<u64> = PerCpuArray::with_max_entries(Lane::COUNT as u32, 0);

#[map(name = "scope_cgroup")]
pub(crate) static SCOPE_CGROUP: CgroupArray = CgroupArray::with_max_entries(1, 0);

#[map(name = "connecting")]
pub(crate) static CONNECTING: HashMap<u64, Connecting> =
    HashMap::with_max_entries(CONNECTING_ENTRIES, 0);

#[map(name = "open_files")]
pub(crate) static OPEN_FILES: HashMap<u64, OpenFile> =
    HashMap::with_max_entries(OPEN_FILES_ENTRIES, 0);

/// Threads whose exec that is under way has a script round reported.
#[map(name = "script_calls")]
pub(crate) static SCRIPT_CALLS: HashMap<u64, u64> = HashMap::with_max_entries(CALLS, 0);

/// A link(2) that is under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LinkCall {
    /// Address of the new name's dentry.
    pub(crate) dentry: u64,
    /// A value of [`sensor_common::record::create`].
    pub(crate) how: u64,
}

#[map(name = "link_calls")]
pub(crate) static LINK_CALLS: HashMap<u64, LinkCall> = HashMap::with_max_entries(CALLS, 0);

/// Bytes of a socket address that are kept: `sockaddr_un` and its family.
pub(crate) const ADDRESS_BYTES: usize = 110;

/// A connect(2) that is under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ConnectCall {
    pub(crate) started_boot_ns: u64,
    /// Address of the `struct socket`; 0 where only the state is known.
    pub(crate) socket: u64,
    /// How far it is: a value of `probe::connect::state`.
    pub(crate) state: u32,
    /// Bytes of the address that the caller gave.
    pub(crate) address_bytes: u32,
    pub(crate) address: [u8; ADDRESS_BYTES + 2],
}

impl ConnectCall {
    /// What an entry is before it is filled in.
    pub(crate) const EMPTY: Self = Self {
        started_boot_ns: 0,
        socket: 0,
        state: 0,
        address_bytes: 0,
        address: [0; ADDRESS_BYTES + 2],
    };
}

#[map(name = "connect_calls")]
pub(crate) static CONNECT_CALLS: HashMap<u64, ConnectCall> = HashMap::with_max_entries(CALLS, 0);

/// A module load that is under way.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct ModuleCall {
    pub(crate) file: FileIdentity,
    /// Address of the `struct vfsmount` of the file.
    pub(crate) mount: u64,
    /// Address of its `struct dentry`.
    pub(crate) dentry: u64,
    pub(crate) taints: u64,
    /// Bits of [`sensor_common::record::module_flag`].
    pub(crate) flags: u64,
    pub(crate) name: [u8; 56],
}

impl ModuleCall {
    /// What an entry is before it is filled in.
    pub(crate) const EMPTY: Self = Self {
        file: FileIdentity {
            inode: 0,
            size: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            fs_magic: 0,
            version: 0,
            device: 0,
            generation: 0,
            mode: 0,
            uid: 0,
            gid: 0,
            nlink: 0,
        },
        mount: 0,
        dentry: 0,
        taints: 0,
        flags: 0,
        name: [0; 56],
    };
}

#[map(name = "module_calls")]
pub(crate) static MODULE_CALLS: HashMap<u64, ModuleCall> = HashMap::with_max_entries(1024, 0);

/// Too large for a per-CPU array: indexed by CPU, one entry for each possible CPU, which the loader must set.
#[map(name = "scratch_exec")]
pub(crate) static SCRATCH_EXEC: Array<Scratch<EXEC_BYTES>> = Array::with_max_entries(1, 0);
#[map(name = "scratch_script")]
pub(crate) static SCRATCH_SCRIPT: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);
#[map(name = "scratch_open")]
pub(crate) static SCRATCH_OPEN: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);
#[map(name = "scratch_made")]
pub(crate) static SCRATCH_MADE: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);
#[map(name = "scratch_unix_s")]
pub(crate) static SCRATCH_UNIX_STREAM: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);
#[map(name = "scratch_unix_d")]
pub(crate) static SCRATCH_UNIX_DATAGRAM: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);
#[map(name = "scratch_module")]
pub(crate) static SCRATCH_MODULE: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);
#[map(name = "scratch_sysexit")]
pub(crate) static SCRATCH_SYSCALL_EXIT: PerCpuArray<Scratch<PATH_BYTES>> =
    PerCpuArray::with_max_entries(1, 0);

/// Adds one to a counter of the ledger.
#[inline(always)]
pub(crate) fn count(kind: RecordKind, counter: KernelCounter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.index(kind)) {
        add_one(value);
    }
}

/// The next sequence number of a lane on this CPU.
///
/// A program that interrupts another right here gives both the same number, and leaves out the one before: kernels
/// before 5.12 have no atomic addition that returns the sum. The highest number is exact all the same.
#[inline(always)]
pub(crate) fn next_sequence(lane: Lane) -> u64 {
    let Some(value) = SEQUENCE.get_ptr_mut(lane as u32) else {
        return 0;
    };
    add_one(value);
    // SAFETY: the map's memory is valid, and aligned for its value.
    unsafe { ptr::read_volatile(value) }
}

/// Whether the reader of a lane polls and needs no wake-up.
#[inline(always)]
pub(crate) fn reader_awake(lane: Lane) -> bool {
    READER_AWAKE.get_ptr(lane as u32).is_some_and(|value| {
        // SAFETY: the map's memory is valid, and aligned for its value.
        let awake = unsafe { ptr::read_volatile(value) };
        awake != 0
    })
}

#[inline(always)]
fn add_one(value: *mut u64) {
    // In assembly: core has no atomic addition for this target, as its first version had none that gives a result.
    // SAFETY: the map's memory is valid and aligned for its value; everybody adds atomically.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) value, in(reg) 1_u64, options(nostack))
    };
}

/// Number of this CPU, the index into arrays that have an entry per CPU.
#[inline(always)]
pub(crate) fn processor() -> u32 {
    // SAFETY: no argument, no condition.
    unsafe { bpf_get_smp_processor_id() }
}

/// Inserts a copy of `value` under `key`; whether there was room.
#[inline(always)]
pub(crate) fn insert<V>(map: &HashMap<u64, V>, key: u64, value: &V) -> bool {
    map.insert(key, value, 0).is_ok()
}

/// The entry of `key`. It may be changed by its own thread only, or once by the last that sees it.
#[inline(always)]
pub(crate) fn lookup<V>(map: &HashMap<u64, V>, key: u64) -> Option<&mut V> {
    let entry = map.get_ptr_mut(key)?;
    // SAFETY: the memory of a preallocated map stays valid while a program runs; keys are threads, or objects that the
    // hook holds, so nobody else changes the entry meanwhile.
    Some(unsafe { &mut *entry })
}

/// Removes the entry of `key`, if there is one.
#[inline(always)]
pub(crate) fn remove<V>(map: &HashMap<u64, V>, key: u64) {
    // An absent key is no error here.
    if map.remove(key).is_err() {}
}
