//! Every map.
//!
//! What is owed (files still open, connections without a result) lives in preallocated hashes, never in an LRU: a
//! failed insert is a counted loss. A scratch belongs to one program, since programs interleave on one CPU; the
//! variants of a program (walk, hook) share it, since only one of them is ever attached.

use core::arch::asm;
use core::ptr;

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, CgroupArray, HashMap, LruHashMap, PerCpuArray, RingBuf};
use sensor_common::counter::{COUNTER_COUNT, KernelCounter};
use sensor_common::map::{CONNECTING_ENTRIES, Connecting, OPEN_FILES_ENTRIES, OpenFile};
use sensor_common::record::{FileIdentity, Lane, RecordKind};

use crate::emit::{EXEC_BYTES, NAMES_BYTES, PATH_BYTES, Scratch};
use crate::read;

/// Threads that are inside a call of one kind at the same time. An entry that a failed call leaves behind goes with
/// the thread's next call or its end.
const CALLS: u32 = 8192;
/// Flag of `bpf_map_update_elem`.
const BPF_NOEXIST: u64 = 1;

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

/// The making of a name (mknod, mkdir, symlink, link) that is under way.
#[repr(C)]
pub(crate) struct PathCall {
    /// Whose; 0: nobody's.
    thread: u64,
    mount: u64,
    dentry: u64,
    how: u64,
    /// Exclusive or of the others: two threads that wrote at the same time are found out.
    check: u64,
    /// What else the call was given: the target of a symbolic link, the dentry of a link's old name. Set only for
    /// these, so that an open that creates a file does not pay for it.
    given: u64,
    /// Exclusive or of thread, dentry and `given`.
    given_check: u64,
}

/// One entry per thread as long as thread ids do not collide: opens that create a file pass here too, for whom a hash
/// would cost more than all the rest. A collision within the microseconds that an entry is needed is a counted loss
/// (but for mknod of a regular file, which looks like an open until it goes on).
#[map(name = "path_calls")]
static PATH_CALLS: Array<PathCall> = Array::with_max_entries(PATH_CALL_MASK + 1, 0);

const PATH_CALL_MASK: u32 = 8191;

/// Processes of several threads whose end was reported: threads that end at the same time may all see that none lives.
/// An LRU: an entry is needed for microseconds.
#[map(name = "ended")]
static ENDED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

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
pub(crate) static SCRATCH_MADE: PerCpuArray<Scratch<NAMES_BYTES>> =
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
    crate::log::outcome(kind, counter);
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

/// Keeps what the current thread is about to make; `dentry` and `mount` are addresses. Gives the `how` of another
/// thread's entry that had to give way.
#[inline(always)]
pub(crate) fn keep_path_call(thread: u64, mount: u64, dentry: u64, how: u32) -> Option<u32> {
    let call = path_call(thread)?;
    let displaced = (call.thread != 0 && call.thread != thread).then_some(call.how as u32);
    set(&mut call.thread, thread);
    set(&mut call.mount, mount);
    set(&mut call.dentry, dentry);
    set(&mut call.how, u64::from(how));
    call.check = sum(call);
    displaced
}

/// What the current thread is about to make, if it is `dentry`: mount and how.
#[inline(always)]
pub(crate) fn kept_path_call(thread: u64, dentry: u64) -> Option<(u64, u32)> {
    let call = path_call(thread)?;
    let whole = call.check == sum(call);
    if call.thread != thread || call.dentry != dentry || !whole {
        return None;
    }
    Some((call.mount, call.how as u32))
}

/// Keeps what else the current thread's call was given, an address; after [`keep_path_call`].
#[inline(always)]
pub(crate) fn keep_given(thread: u64, given: u64) {
    if let Some(call) = path_call(thread) {
        set(&mut call.given, given);
        call.given_check = given_sum(call);
    }
}

/// What else the call was given, if nobody wrote in between.
#[inline(always)]
pub(crate) fn kept_given(thread: u64) -> Option<u64> {
    let call = path_call(thread)?;
    let whole = call.given_check == given_sum(call);
    if call.thread != thread || !whole {
        return None;
    }
    Some(call.given)
}

#[inline(always)]
fn given_sum(call: &PathCall) -> u64 {
    get(&call.thread) ^ get(&call.dentry) ^ get(&call.given)
}

/// Of numbers as they lie in the map: the arguments that they came from are pointers to the verifier.
#[inline(always)]
fn sum(call: &PathCall) -> u64 {
    get(&call.thread) ^ get(&call.mount) ^ get(&call.dentry) ^ get(&call.how)
}

#[inline(always)]
fn get(word: &u64) -> u64 {
    // SAFETY: a reference is valid.
    let value = unsafe { ptr::read_volatile(word) };
    read::opaque(value)
}

#[inline(always)]
fn set(word: &mut u64, value: u64) {
    // SAFETY: a reference is valid.
    unsafe { ptr::write_volatile(word, value) };
}

/// Ends what the current thread was about to make.
#[inline(always)]
pub(crate) fn forget_path_call(thread: u64) {
    if let Some(call) = path_call(thread)
        && call.thread == thread
    {
        call.thread = 0;
    }
}

#[inline(always)]
fn path_call(thread: u64) -> Option<&'static mut PathCall> {
    let call = PATH_CALLS.get_ptr_mut(thread as u32 & PATH_CALL_MASK)?;
    // SAFETY: the map's memory stays valid while a program runs; a torn entry is found out by its check.
    Some(unsafe { &mut *call })
}

/// Whether nobody reported the end of `process` yet. `alone`: no other thread of it is left, so that none can come
/// after, and only one before.
#[inline(always)]
pub(crate) fn claim_end(process: u64, alone: bool) -> bool {
    if alone {
        ENDED.get_ptr(process).is_none()
    } else {
        ENDED.insert(process, 0, BPF_NOEXIST).is_ok()
    }
}

/// Inserts a copy of `value` under `key`; whether there was room.
#[inline(always)]
pub(crate) fn insert<V>(map: &HashMap<u64, V>, key: u64, value: &V) -> bool {
    map.insert(key, value, 0).is_ok()
}

/// The entry of `key`. It may be changed by its own thread only, or once by the last that sees it.
#[inline(always)]
#[expect(
    clippy::mut_from_ref,
    reason = "the entry is memory of the kernel's, not of the map's handle"
)]
pub(crate) fn lookup<V>(map: &'static HashMap<u64, V>, key: u64) -> Option<&'static mut V> {
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
