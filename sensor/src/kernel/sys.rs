//! The raw calls that aya, nix and rustix lack: the only unsafe code of the daemon.
#![expect(
    unsafe_code,
    reason = "raw system calls; every block says why it is sound"
)]

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc;

/// `BPF_OBJ_GET_INFO_BY_FD` of `enum bpf_cmd`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// `union bpf_attr` as that command reads it.
#[repr(C)]
#[derive(Debug)]
struct InfoRequest {
    descriptor: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to the field that is wanted. The kernel fills as much as it has and says how much.
#[repr(C)]
#[derive(Debug, Default)]
struct ProgramInfo {
    /// Everything from `type` to `run_time_ns`: not looked at. All zero on the way in, so that the kernel writes no array.
    before: [u64; 25],
    run_cnt: u64,
    recursion_misses: u64,
}
const _: () = assert!(offset_of!(ProgramInfo, recursion_misses) == 208);

/// How often the kernel skipped a BPF program because it was already running on that CPU
/// (`bpf_prog_info.recursion_misses`); `None` before Linux 5.12, which does not count it.
///
/// # Errors
/// The errno of bpf(2): a descriptor that is no program, or a missing capability.
pub fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut info = ProgramInfo::default();
    let invalid = |_error| io::Error::from(io::ErrorKind::InvalidInput);
    let mut request = InfoRequest {
        descriptor: u32::try_from(program.as_raw_fd()).map_err(invalid)?,
        length: u32::try_from(size_of::<ProgramInfo>()).map_err(invalid)?,
        info: u64::try_from((&raw mut info).expose_provenance()).map_err(invalid)?,
    };
    // SAFETY: the request is a valid prefix of `union bpf_attr` (the kernel takes the rest as zero) and lives across
    // the call; `info` points to `length` writable bytes of integers, of which the kernel writes at most that many.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw mut request,
            size_of::<InfoRequest>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let end = offset_of!(ProgramInfo, recursion_misses) + size_of::<u64>();
    let counted = usize::try_from(request.length).is_ok_and(|length| length >= end);
    Ok(counted.then_some(info.recursion_misses))
}

/// Gives memory that start-up needed once (the kernel's types) back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition and only releases memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_descriptor_that_is_no_program_is_refused() {
        let file = File::open("/dev/null").unwrap();
        let error = recursion_misses(file.as_fd()).unwrap_err();
        // EINVAL from the command itself, EPERM where bpf(2) is refused altogether.
        assert!(matches!(
            error.raw_os_error(),
            Some(libc::EINVAL | libc::EPERM)
        ));
    }
}
