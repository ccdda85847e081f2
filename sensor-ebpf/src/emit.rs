//! From a found fact to a record in its ring. The only file that touches the rings.
//!
//! [`fixed`] and [`tailed`] own the order: count the attempt, drop what is filtered, take a sequence number, describe
//! the actor, let the probe fill in the rest, submit, count the outcome. Exactly one outcome follows each attempt.

use core::marker::PhantomData;
use core::{ptr, slice};

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::RingBuf;
use sensor_common::counter::KernelCounter;
use sensor_common::map::OpenFile;
use sensor_common::record::{ARGS_MAX, Lane, Record, Text};

use crate::path::{self, Walk, Walker};
use crate::task::{Actor, Place};
use crate::{layout, map, read};

/// Flags of `bpf_ringbuf_submit` and `bpf_ringbuf_output`.
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
/// Query of `bpf_ringbuf_query`: unread bytes.
const AVAILABLE_BYTES: u64 = 0;

/// Longest string, with its NUL, and longest piece of arguments: what may be written behind a masked offset.
const PIECE: usize = 4096;
/// Room for a head and one path.
pub(crate) const PATH_BYTES: usize = 8192 + PIECE;
/// Room for a head and two paths.
pub(crate) const NAMES_BYTES: usize = 16384 + PIECE;
/// Room for a head, four paths, arguments and environment.
pub(crate) const EXEC_BYTES: usize = (128 << 10) + PIECE;
/// Pages that [`ARGS_MAX`] bytes can touch.
const ARGS_PAGES: u32 = (ARGS_MAX / PIECE) as u32 + 1;

/// What every record starts with.
type Start = OpenFile;

/// Where one program builds its records with tails.
#[repr(C)]
pub(crate) struct Scratch<const BYTES: usize> {
    walk: Walk,
    /// Bytes of `data` in use: head and tail.
    used: u64,
    /// Bytes of arguments read so far.
    done: u64,
    data: [u8; BYTES],
}

/// A record with a tail that is being built.
pub(crate) struct Draft<R, const BYTES: usize> {
    scratch: *mut Scratch<BYTES>,
    record: PhantomData<R>,
}

/// Bytes that the kernel gave for a user range, and whether all that was wanted could be read.
pub(crate) struct UserText {
    pub(crate) text: Text,
    pub(crate) partial: bool,
}

/// Of a string that could not be read.
pub(crate) const ABSENT_TEXT: Text = Text {
    len: 0,
    true_len: Text::ABSENT,
};

/// Emits a record of fixed size; whether it is in its ring.
#[inline(always)]
pub(crate) fn fixed<R: Record + 'static>(actor: impl Actor, fill: impl FnOnce(&mut R)) -> bool {
    let Some(sequence) = begin::<R>(actor) else {
        return false;
    };
    let ring = ring(R::LANE);
    let Some(mut entry) = ring.reserve::<R>(0) else {
        map::count(R::KIND, KernelCounter::LostRingFull);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the entry has room for one record.
    unsafe { read::clear(record) };
    // SAFETY: the entry is zeroed, and zeros are a valid record.
    let record = unsafe { &mut *record };
    describe(record, actor, sequence, size_of::<R>() as u64);
    fill(record);
    entry.submit(wake_flag(R::LANE, ring));
    map::count(R::KIND, KernelCounter::Submitted);
    true
}

/// Emits a record with a tail; whether it is in its ring.
#[inline(always)]
pub(crate) fn tailed<R: Record, const BYTES: usize>(
    scratch: Option<*mut Scratch<BYTES>>,
    actor: impl Actor,
    fill: impl FnOnce(&mut Draft<R, BYTES>),
) -> bool {
    let Some(sequence) = begin::<R>(actor) else {
        return false;
    };
    let Some(scratch) = scratch else {
        map::count(R::KIND, KernelCounter::LostMapFull);
        return false;
    };
    let mut draft = Draft::<R, BYTES>::new(scratch);
    describe(draft.record(), actor, sequence, 0);
    fill(&mut draft);
    draft.submit()
}

/// Counts a record that cannot be made.
#[inline(always)]
pub(crate) fn lost<R: Record>(cause: KernelCounter) {
    map::count(R::KIND, KernelCounter::Attempted);
    map::next_sequence(R::LANE);
    map::count(R::KIND, cause);
}

/// Whether the current task's doings are reported, for a record that is made later. A drop is counted here.
#[inline(always)]
pub(crate) fn admit<R: Record>() -> bool {
    let Some(filtered) = crate::filter::verdict() else {
        return true;
    };
    map::count(R::KIND, KernelCounter::Attempted);
    map::count(R::KIND, filtered);
    false
}

/// Nanoseconds since boot.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no argument, no condition.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Header and subject of a record: what is kept of it until its end.
#[inline(always)]
pub(crate) fn start_of<R: Record>(record: &R) -> &OpenFile {
    const {
        assert!(size_of::<R>() >= size_of::<Start>() && align_of::<R>() == align_of::<Start>());
    }
    let start = ptr::from_ref(record).cast::<Start>();
    // SAFETY: every record begins with header and subject.
    unsafe { &*start }
}

/// The sequence number, unless the actor is filtered.
#[inline(always)]
fn begin<R: Record>(actor: impl Actor) -> Option<u64> {
    map::count(R::KIND, KernelCounter::Attempted);
    if let Some(filtered) = actor.verdict() {
        map::count(R::KIND, filtered);
        return None;
    }
    Some(map::next_sequence(R::LANE))
}

#[inline(always)]
fn describe<R: Record>(record: &mut R, actor: impl Actor, sequence: u64, size: u64) {
    const {
        assert!(size_of::<R>() >= size_of::<Start>() && align_of::<R>() == align_of::<Start>());
    }
    let start = ptr::from_mut(record).cast::<Start>();
    // SAFETY: every record begins with header and subject.
    let start = unsafe { &mut *start };
    start.header.kind = R::KIND as u16;
    start.header.cpu = map::processor() as u16;
    start.header.size = size as u32;
    start.header.sequence = sequence;
    start.header.time_boot_ns = now();
    actor.describe(&mut start.header, &mut start.subject);
}

#[inline(always)]
fn ring(lane: Lane) -> &'static RingBuf {
    match lane {
        Lane::Process => &map::RING_PROCESS,
        Lane::File => &map::RING_FILE,
        Lane::Network => &map::RING_NETWORK,
        Lane::Control => &map::RING_CONTROL,
    }
}

/// A reader that sleeps is woken; one that polls only when its ring fills.
#[inline(always)]
fn wake_flag(lane: Lane, ring: &RingBuf) -> u64 {
    if map::reader_awake(lane) && ring.query(AVAILABLE_BYTES) < layout::wake_bytes() {
        NO_WAKEUP
    } else {
        FORCE_WAKEUP
    }
}

impl<R: Record, const BYTES: usize> Draft<R, BYTES> {
    /// Largest offset that a string may begin at.
    const MASK: u64 = {
        let room = BYTES - PIECE;
        assert!(room.is_power_of_two());
        room as u64 - 1
    };

    #[inline(always)]
    fn new(scratch: *mut Scratch<BYTES>) -> Self {
        let mut draft = Self {
            scratch,
            record: PhantomData,
        };
        let record = ptr::from_mut(draft.record());
        // SAFETY: the scratch has room for one record.
        unsafe { read::clear(record) };
        draft.set_used(size_of::<R>() as u64);
        draft
    }

    /// The head.
    #[inline(always)]
    pub(crate) fn record(&mut self) -> &mut R {
        // SAFETY: map memory, larger than every record, 8-aligned, and any bytes are a valid record.
        unsafe { &mut *self.data().cast::<R>() }
    }

    #[inline(always)]
    fn data(&self) -> *mut u8 {
        // SAFETY: the scratch is valid map memory.
        let data = unsafe { &raw mut (*self.scratch).data };
        data.cast()
    }

    #[inline(always)]
    fn used(&self) -> u64 {
        // SAFETY: the scratch is valid map memory.
        let used = unsafe { &raw const (*self.scratch).used };
        // SAFETY: as above. Volatile, so that the verifier sees a number of which it knows nothing.
        unsafe { ptr::read_volatile(used) }
    }

    #[inline(always)]
    fn set_used(&mut self, value: u64) {
        // SAFETY: the scratch is valid map memory.
        let used = unsafe { &raw mut (*self.scratch).used };
        // SAFETY: as above.
        unsafe { ptr::write_volatile(used, value) };
    }

    /// Where the next string goes: an offset that leaves room for one.
    #[inline(always)]
    fn tail(&self) -> (u64, *mut u8) {
        let used = read::masked(self.used(), Self::MASK);
        (used, self.data().wrapping_add(used as usize))
    }

    /// Appends at most [`PIECE`] - 1 bytes of kernel memory.
    #[inline(always)]
    pub(crate) fn push(&mut self, source: u64, length: u64) -> bool {
        let (used, tail) = self.tail();
        let length = read::mask::<{ PIECE as u64 - 1 }>(length);
        // SAFETY: behind a masked offset there is room for a piece.
        if unsafe { read::probe_read_kernel(tail, length, source) } != 0 {
            return false;
        }
        self.set_used(used + length);
        true
    }

    /// Appends a NUL-terminated string of the kernel, without its NUL.
    #[inline(always)]
    pub(crate) fn push_string(&mut self, source: Option<u64>) -> Text {
        let Some(source) = source else {
            return ABSENT_TEXT;
        };
        let (used, tail) = self.tail();
        // SAFETY: behind a masked offset there is room for a piece.
        let length = unsafe { read::probe_read_kernel_str(tail, PIECE as u64, source) };
        if length <= 0 {
            return ABSENT_TEXT;
        }
        let len = length as u64 - 1;
        self.set_used(used + len);
        Text {
            len: len as u32,
            true_len: if len == PIECE as u64 - 1 {
                Text::LONGER
            } else {
                len as u32
            },
        }
    }

    /// Appends the path of `place` as a task with `root` sees it.
    #[inline(always)]
    pub(crate) fn push_path<W: Walker>(&mut self, place: Place, root: Place) -> Text {
        // SAFETY: the scratch is valid map memory.
        let walk = unsafe { &raw mut (*self.scratch).walk };
        // SAFETY: it is map memory.
        let walked = unsafe { path::walk::<W>(walk, place, root) };
        if walked.unreadable || !self.push(walked.start, walked.length) {
            return ABSENT_TEXT;
        }
        let len = walked.length as u32;
        Text {
            len,
            true_len: if walked.whole { len } else { Text::LONGER },
        }
    }

    /// Appends up to [`ARGS_MAX`] bytes of the current task's own memory, page by page: what is not resident stops it.
    #[inline(always)]
    pub(crate) fn push_user(&mut self, start: u64, end: u64) -> UserText {
        let total = end.wrapping_sub(start);
        if start == 0 || end < start {
            return UserText {
                text: ABSENT_TEXT,
                partial: false,
            };
        }
        let wanted = if total > ARGS_MAX as u64 {
            ARGS_MAX as u64
        } else {
            total
        };
        self.set_done(0);
        let mut pages = 0;
        let mut partial = false;
        while pages < ARGS_PAGES {
            pages += 1;
            let done = self.done();
            if done >= wanted {
                break;
            }
            let address = start + done;
            let mut length = PIECE as u64 - (address & (PIECE as u64 - 1));
            if length > wanted - done {
                length = wanted - done;
            }
            let (used, tail) = self.tail();
            let length = read::mask::<{ 2 * PIECE as u64 - 1 }>(length);
            if length > PIECE as u64 {
                break;
            }
            // SAFETY: behind a masked offset there is room for a piece.
            if unsafe { read::probe_read_user(tail, length, address) } != 0 {
                partial = true;
                break;
            }
            self.set_used(used + length);
            self.set_done(done + length);
        }
        UserText {
            text: Text {
                len: self.done() as u32,
                true_len: if total >= u64::from(Text::ABSENT) {
                    Text::LONGER
                } else {
                    total as u32
                },
            },
            partial,
        }
    }

    #[inline(always)]
    fn done(&self) -> u64 {
        // SAFETY: the scratch is valid map memory.
        let done = unsafe { &raw const (*self.scratch).done };
        // SAFETY: as above. Volatile for the reason given in `used`.
        unsafe { ptr::read_volatile(done) }
    }

    #[inline(always)]
    fn set_done(&mut self, value: u64) {
        // SAFETY: the scratch is valid map memory.
        let done = unsafe { &raw mut (*self.scratch).done };
        // SAFETY: as above.
        unsafe { ptr::write_volatile(done, value) };
    }

    #[inline(always)]
    fn submit(mut self) -> bool {
        let size = self.used();
        let start = ptr::from_mut(self.record()).cast::<Start>();
        // SAFETY: every record begins with a header.
        let header = unsafe { &mut (*start).header };
        header.size = size as u32;
        let size = read::masked(size, Self::MASK);
        let ring = ring(R::LANE);
        // SAFETY: a masked size is inside the scratch.
        let sample = unsafe { slice::from_raw_parts(self.data(), size as usize) };
        if ring
            .output::<[u8]>(sample, wake_flag(R::LANE, ring))
            .is_err()
        {
            map::count(R::KIND, KernelCounter::LostRingFull);
            return false;
        }
        map::count(R::KIND, KernelCounter::Submitted);
        true
    }
}
