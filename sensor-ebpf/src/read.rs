//! Reading of kernel memory. Raw pointers stop here.
//!
//! Two ways, one interface: [`Typed`] loads directly through a pointer whose type the verifier knows (2 ns), [`Probed`]
//! asks `bpf_probe_read_kernel` (41 ns) and takes any address. Neither can fault: what cannot be read is `None` or 0.

use core::arch::asm;
use core::mem::{MaybeUninit, transmute};
use core::ptr::{self, NonNull};

use aya_ebpf::helpers::generated::bpf_get_current_comm;
use sensor_common::layout::Field;
use sensor_common::map::Connecting;

use crate::layout;
use crate::map::{ADDRESS_BYTES, ConnectCall, ModuleCall};

/// A kernel object: an address that came from the kernel. What is read there is checked, by the verifier or by the
/// helper, each time.
#[derive(Clone, Copy)]
pub(crate) struct Object(NonNull<u8>);

impl Object {
    /// The object that an argument of a hook points to; none if it is null.
    #[inline(always)]
    pub(crate) fn new(pointer: *const u8) -> Option<Self> {
        NonNull::new(pointer.cast_mut()).map(Self)
    }

    /// The object at an address that was kept as a number: readable by [`Probed`] only.
    #[inline(always)]
    pub(crate) fn from_address(address: u64) -> Option<Self> {
        Self::new(ptr::with_exposed_provenance(address as usize))
    }

    /// Where it is.
    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// What lies `bytes` behind its begin, as an object.
    #[inline(always)]
    pub(crate) fn within(self, bytes: usize) -> Option<Self> {
        Self::new(self.0.as_ptr().wrapping_add(bytes))
    }
}

/// A number as the kernel keeps it in a field: 1 to 8 bytes, every bit pattern valid.
pub(crate) trait Number: Copy {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for i32 {}
impl Number for u64 {}
impl Number for i64 {}

/// How the fields of an object are read.
pub(crate) trait Access: Copy {
    /// The number `offset` bytes inside `object`.
    fn load<T: Number>(object: Object, offset: usize) -> Option<T>;

    /// The object that the pointer `offset` bytes inside `object` points to.
    fn follow(object: Object, offset: usize) -> Option<Object>;

    /// The number in `field`; none if this kernel lacks it.
    #[inline(always)]
    fn number<T: Number>(object: Object, field: Field) -> Option<T> {
        Self::load(object, layout::offset(field)?)
    }

    /// The object that `field` points to; none if it is null or if this kernel lacks the field.
    #[inline(always)]
    fn pointer(object: Object, field: Field) -> Option<Object> {
        Self::follow(object, layout::offset(field)?)
    }
}

/// Direct loads, for objects whose type the verifier knows.
#[derive(Clone, Copy)]
pub(crate) struct Typed;

impl Access for Typed {
    #[inline(always)]
    fn load<T: Number>(object: Object, offset: usize) -> Option<T> {
        let source = object.0.as_ptr().wrapping_add(offset).cast::<T>();
        // SAFETY: the verifier accepts only a pointer to a kernel type and an offset inside it, and a fault reads as 0.
        Some(unsafe { ptr::read_volatile(source) })
    }

    #[inline(always)]
    fn follow(object: Object, offset: usize) -> Option<Object> {
        let source = object.0.as_ptr().wrapping_add(offset).cast::<*const u8>();
        // SAFETY: as in `load`.
        Object::new(unsafe { ptr::read_volatile(source) })
    }
}

/// Checked reads of any address.
#[derive(Clone, Copy)]
pub(crate) struct Probed;

impl Access for Probed {
    #[inline(always)]
    fn load<T: Number>(object: Object, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let source = object.address().wrapping_add(offset as u64);
        // SAFETY: the destination is as large as the length says.
        let result =
            unsafe { probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u64, source) };
        if result != 0 {
            return None;
        }
        // SAFETY: the helper wrote all of it, and every bit pattern of a number is valid.
        Some(unsafe { value.assume_init() })
    }

    #[inline(always)]
    fn follow(object: Object, offset: usize) -> Option<Object> {
        Object::from_address(Self::load::<u64>(object, offset)?)
    }
}

/// Zeroes `value` word by word: the compiler's memset would be a call of a loop over bytes.
///
/// # Safety
/// `value` is writable, and zeros are a valid `T`.
#[inline(always)]
pub(crate) unsafe fn clear<T>(value: *mut T) {
    const {
        assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() == 8);
    }
    let words = value.cast::<u64>();
    let mut index = 0;
    while index < size_of::<T>() / 8 {
        // SAFETY: inside the value, by this function's own condition. Volatile, else it becomes that memset.
        unsafe { ptr::write_volatile(words.wrapping_add(index), 0) };
        index += 1;
    }
}

/// Makes `place` a value of zeros. In place, since the compiler would make a copy by a memset again.
#[inline(always)]
pub(crate) fn zeroed<T: Zero>(place: &mut MaybeUninit<T>) -> &mut T {
    // SAFETY: zeros are valid by the trait's condition.
    unsafe { clear(place.as_mut_ptr()) };
    // SAFETY: as above.
    unsafe { place.assume_init_mut() }
}

/// Of which zeros are a valid value.
///
/// # Safety
/// That is so, and the size is a multiple of 8.
pub(crate) unsafe trait Zero: Copy {}
// SAFETY: numbers only.
unsafe impl Zero for ConnectCall {}
// SAFETY: numbers only.
unsafe impl Zero for ModuleCall {}
// SAFETY: numbers only.
unsafe impl Zero for Connecting {}

/// Copies the first bytes of a field of any type.
#[inline(always)]
pub(crate) fn bytes(object: Object, field: Field, destination: &mut [u8]) -> bool {
    let Some(offset) = layout::offset(field) else {
        return false;
    };
    let source = object.address().wrapping_add(offset as u64);
    let length = destination.len() as u64;
    // SAFETY: the slice is as large as it says.
    let result = unsafe { probe_read_kernel(destination.as_mut_ptr(), length, source) };
    result == 0
}

/// Copies a NUL-terminated string in a field, which stays NUL-terminated.
#[inline(always)]
pub(crate) fn string(object: Object, field: Field, destination: &mut [u8]) {
    let Some(offset) = layout::offset(field) else {
        return;
    };
    let source = object.address().wrapping_add(offset as u64);
    let length = destination.len() as u64;
    // SAFETY: the slice is as large as it says. On failure the helper leaves zeros.
    unsafe { probe_read_kernel_str(destination.as_mut_ptr(), length, source) };
}

/// The current task's name, NUL-padded.
#[inline(always)]
pub(crate) fn current_comm(destination: &mut [u8; 16]) {
    let length = destination.len() as u32;
    // SAFETY: the array is as large as it says. aya's wrapper would copy it byte by byte.
    unsafe { bpf_get_current_comm(destination.as_mut_ptr().cast(), length) };
}

/// Copies a socket address, whose length the caller gave, and gives the length that is kept.
#[inline(always)]
pub(crate) fn address(destination: &mut [u8; ADDRESS_BYTES + 2], source: u64, length: u64) -> u32 {
    // An int, of which the register's upper half says nothing.
    let length = length & 0xffff_ffff;
    let wanted = if length > ADDRESS_BYTES as u64 {
        ADDRESS_BYTES as u64
    } else {
        length
    };
    let wanted = mask::<127>(wanted);
    if wanted > ADDRESS_BYTES as u64 {
        return 0;
    }
    // SAFETY: the destination is longer than any address.
    if unsafe { probe_read_kernel(destination.as_mut_ptr(), wanted, source) } != 0 {
        return 0;
    }
    wanted as u32
}

/// Cuts `value` to the bits of `MASK` where the verifier sees it: the compiler drops masks that it can prove.
#[inline(always)]
pub(crate) fn mask<const MASK: u64>(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: arithmetic on one register.
    unsafe { asm!("{0} &= {1}", inout(reg) value, const MASK, options(pure, nomem, nostack)) };
    value
}

/// [`mask`] for a mask that depends on a generic parameter.
#[inline(always)]
pub(crate) fn masked(value: u64, mask: u64) -> u64 {
    let mut value = value;
    // SAFETY: arithmetic on registers.
    unsafe { asm!("{0} &= {1}", inout(reg) value, in(reg) mask, options(pure, nomem, nostack)) };
    value
}

/// The same value, of which the compiler does not know that it is: it would put one register in place of another that
/// it knows to be equal, and the verifier tells pointers from numbers.
#[inline(always)]
pub(crate) fn opaque(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: arithmetic on one register. Not an empty text: it would give one instruction two lines of BTF.
    unsafe { asm!("{0} |= 0", inout(reg) value, options(pure, nomem, nostack)) };
    value
}

/// Numbers of the helpers that aya's bindings give a 32-bit length: the casts cost the verifier the bounds.
const PROBE_READ_USER: usize = 112;
const PROBE_READ_KERNEL: usize = 113;
const PROBE_READ_KERNEL_STR: usize = 115;

type ProbeRead = unsafe extern "C" fn(*mut u8, u64, u64) -> i64;

/// `bpf_probe_read_kernel`: 0, or a negative errno and zeros at the destination.
///
/// # Safety
/// `destination` is writable for `length` bytes.
#[inline(always)]
pub(crate) unsafe fn probe_read_kernel(destination: *mut u8, length: u64, source: u64) -> i64 {
    // SAFETY: calling the constant address N is how a BPF program calls helper N.
    let helper = unsafe { transmute::<usize, ProbeRead>(PROBE_READ_KERNEL) };
    // SAFETY: by this function's own condition; the helper checks the source.
    unsafe { helper(destination, length, source) }
}

/// `bpf_probe_read_kernel_str`: the length with NUL, or a negative errno.
///
/// # Safety
/// `destination` is writable for `length` bytes.
#[inline(always)]
pub(crate) unsafe fn probe_read_kernel_str(destination: *mut u8, length: u64, source: u64) -> i64 {
    // SAFETY: calling the constant address N is how a BPF program calls helper N.
    let helper = unsafe { transmute::<usize, ProbeRead>(PROBE_READ_KERNEL_STR) };
    // SAFETY: by this function's own condition; the helper checks the source.
    unsafe { helper(destination, length, source) }
}

/// `bpf_probe_read_user`: 0, or a negative errno and zeros at the destination.
///
/// # Safety
/// `destination` is writable for `length` bytes.
#[inline(always)]
pub(crate) unsafe fn probe_read_user(destination: *mut u8, length: u64, source: u64) -> i64 {
    // SAFETY: calling the constant address N is how a BPF program calls helper N.
    let helper = unsafe { transmute::<usize, ProbeRead>(PROBE_READ_USER) };
    // SAFETY: by this function's own condition; the helper checks the source.
    unsafe { helper(destination, length, source) }
}
