//! The raw calls that aya, nix and rustix lack: the only unsafe code of the daemon.
#![expect(
    unsafe_code,
    reason = "raw system calls; every block says why it is sound"
)]

use std::ffi::c_long;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::libc;
use rustix::ioctl::opcode;

/// Longest digest of fs-verity: SHA-512.
const VERITY_DIGEST_MAX_BYTES: usize = 64;

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

/// Tells the allocator to hold little that is free: to be called before the first thread is started.
///
/// By default every thread gets an arena of its own, each with free pieces that the others cannot use, and each large
/// block that is given back makes the next ones of its size come from an arena, too.
pub fn set_up_heap() {
    /// Threads that allocate at the same time are two: the pipeline, and one of reader, hash pool and sink.
    #[cfg(target_env = "gnu")]
    const ARENAS: libc::c_int = 2;
    /// Blocks from this size on are mapped for themselves, and unmapped when they are freed: batches, file buffers.
    #[cfg(target_env = "gnu")]
    const MAPPED_BYTES: libc::c_int = 128 << 10;
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, MAPPED_BYTES),
    ] {
        // SAFETY: mallopt takes two integers; the parameters exist, and no other thread runs yet.
        let taken = unsafe { libc::mallopt(parameter, value) };
        if taken == 0 {
            tracing::debug!(parameter, "the allocator did not take its parameter");
        }
    }
}

/// Gives memory that start-up needed once (the kernel's types) back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition and only releases memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Generation of the inode (`FS_IOC_GETVERSION`): differs when an inode number is used again.
///
/// # Errors
/// `ENOTTY` where the file system keeps none; `EBADF` for a descriptor opened with `O_PATH`.
pub fn inode_generation(file: BorrowedFd<'_>) -> io::Result<u32> {
    let operation = opcode::read::<c_long>(b'v', 1);
    // File systems write an int or a long, whatever the number of the call says.
    let mut generation = [0_u32; 2];
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes 4 or 8 bytes, the array has 8, and any bits
    // are integers.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), operation.into(), &raw mut generation) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = generation;
    Ok(if cfg!(target_endian = "little") || high == 0 {
        low
    } else {
        high
    })
}

/// The digest by which the kernel checks each read of a file under fs-verity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerityDigest {
    /// `FS_VERITY_HASH_ALG_*`: 1 SHA-256, 2 SHA-512.
    pub algorithm: u16,
    /// The file digest: the hash of fs-verity's descriptor, not of the content.
    pub digest: Vec<u8>,
}

#[repr(C)]
struct VerityArgument {
    algorithm: u16,
    size: u16,
    digest: [u8; VERITY_DIGEST_MAX_BYTES],
}

/// Digest of a file under fs-verity (`FS_IOC_MEASURE_VERITY`).
///
/// # Errors
/// `ENODATA`: not under fs-verity; `ENOTTY`, `EOPNOTSUPP`: the file system or the kernel knows none.
pub fn verity_digest(file: BorrowedFd<'_>) -> io::Result<VerityDigest> {
    // The number is made of the argument's head alone; the digest follows it.
    let operation = opcode::read_write::<[u16; 2]>(b'f', 134);
    let mut argument = VerityArgument {
        algorithm: 0,
        size: 64,
        digest: [0; VERITY_DIGEST_MAX_BYTES],
    };
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes the head and at most `size` bytes after it,
    // which the structure has, and any bytes are valid in it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), operation.into(), &raw mut argument) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::from(argument.size);
    Ok(VerityDigest {
        algorithm: argument.algorithm,
        digest: argument.digest.get(..length).unwrap_or_default().to_vec(),
    })
}

/// `struct file_handle` with an inode number and a generation (`FILEID_INO32_GEN`).
#[repr(C)]
#[derive(Debug)]
struct InodeHandle {
    bytes: u32,
    kind: i32,
    inode: u32,
    generation: u32,
}

/// Opens the file that has this inode number and generation, with `O_PATH`, whatever its name. `mount`: any open file or
/// folder of the same file system, not opened with `O_PATH`.
///
/// Only for file systems whose handles are made so: ext2 to ext4, XFS, F2FS.
///
/// # Errors
/// `ESTALE`: there is no such file (any more); `EPERM`: CAP_DAC_READ_SEARCH is missing.
pub fn open_inode(mount: BorrowedFd<'_>, inode: u32, generation: u32) -> io::Result<OwnedFd> {
    const FILEID_INO32_GEN: i32 = 1;
    let mut handle = InodeHandle {
        bytes: 8,
        kind: FILEID_INO32_GEN,
        inode,
        generation,
    };
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the handle has the 8 bytes that its head announces and lives across the call, which only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            flags,
        )
    };
    let descriptor = i32::try_from(result)
        .ok()
        .filter(|descriptor| *descriptor >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Whether anyone has the file open (or mapped) for writing, by asking for a read lease and giving it back at once.
///
/// In the microseconds between, someone opening the file for writing waits, or fails with `EWOULDBLOCK` if he asked not
/// to. The kernel then sends SIGIO: see [`ignore_sigio`].
///
/// # Errors
/// `EACCES`: not the owner, and without CAP_LEASE; `EINVAL`: the file system has no leases, or leases are off.
pub fn open_for_writing(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: takes two integers and touches no memory of ours; the descriptor is open while it is borrowed.
    let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if asked == 0 {
        // SAFETY: as above.
        let returned = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        // A lease that cannot be given back ends with the descriptor: the caller closes it.
        return if returned == 0 {
            Ok(false)
        } else {
            Err(io::Error::last_os_error())
        };
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EAGAIN) {
        Ok(true)
    } else {
        Err(error)
    }
}

/// Ignores SIGIO, which would end the process when someone breaks a lease of ours.
///
/// # Errors
/// Does not happen: the signal exists and can be ignored.
pub fn ignore_sigio() -> io::Result<()> {
    // SAFETY: no handler is installed, so no code runs on a signal.
    let previous = unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    if previous == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts a filter of system calls into force for this thread and those that it starts, or for all threads of the process.
///
/// # Errors
/// `ENOSYS`, `EINVAL`: the kernel has no filters, or refuses this one; `EACCES`: `no_new_privs` is not set and CAP_SYS_ADMIN is
/// missing; `ESRCH`: a thread has a filter that this one has not.
pub fn install_filter(program: &[libc::sock_filter], all_threads: bool) -> io::Result<()> {
    let invalid = |_error| io::Error::from(io::ErrorKind::InvalidInput);
    let mut argument = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(invalid)?,
        filter: program.as_ptr().cast_mut(),
    };
    // With TSYNC, a thread that cannot follow is told by ESRCH instead of its number.
    let flags = if all_threads {
        libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
    } else {
        0
    };
    // SAFETY: the argument points to `len` instructions that live across the call, and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw mut argument,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
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

    #[test]
    fn a_lease_tells_writers() {
        ignore_sigio().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(open_for_writing(reader.as_fd()).unwrap());
        let second = writer.try_clone().unwrap();
        drop(writer);
        assert!(open_for_writing(reader.as_fd()).unwrap());
        drop(second);
        assert!(!open_for_writing(reader.as_fd()).unwrap());
        // The lease was given back: a writer need not wait.
        let again = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(open_for_writing(reader.as_fd()).unwrap());
        drop(again);
    }

    #[test]
    fn no_verity_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"plain").unwrap();
        let file = File::open(&path).unwrap();
        let error = verity_digest(file.as_fd()).unwrap_err();
        let known = [libc::ENODATA, libc::ENOTTY, libc::EOPNOTSUPP];
        assert!(known.contains(&error.raw_os_error().unwrap()), "{error}");
    }

    #[test]
    fn generation_is_stable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let first = inode_generation(File::open(&path).unwrap().as_fd());
        let second = inode_generation(File::open(&path).unwrap().as_fd());
        match (first, second) {
            (Ok(first), Ok(second)) => assert_eq!(first, second),
            (Err(first), Err(second)) => {
                assert_eq!(first.raw_os_error(), Some(libc::ENOTTY));
                assert_eq!(second.raw_os_error(), Some(libc::ENOTTY));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_inode_is_opened_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        let file = File::open(&path).unwrap();
        let Ok(generation) = inode_generation(file.as_fd()) else {
            return;
        };
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        let inode32 = u32::try_from(inode).unwrap();
        std::fs::rename(&path, folder.path().join("renamed")).unwrap();
        match open_inode(file.as_fd(), inode32, generation) {
            Ok(found) => assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, inode),
            Err(error) => {
                // Without the capability, or on a file system with handles of another kind.
                let known = [libc::EPERM, libc::EOPNOTSUPP, libc::ESTALE];
                assert!(known.contains(&error.raw_os_error().unwrap()), "{error}");
                return;
            }
        }
        let error = open_inode(file.as_fd(), inode32, generation ^ 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    }
}
