//! Identities that anyone can recompute from public facts.

use uuid::{Uuid, uuid};

/// Namespace of [`unique_pid`].
pub const PROCESS_NAMESPACE: Uuid = uuid!("9c385941-0b14-4614-aeef-dc62ba43c844");

/// Namespace of [`file_unique_id`].
pub const FILE_NAMESPACE: Uuid = uuid!("4aa5e29c-1086-4321-ab26-21eb4a6e0d8c");

/// Public identity of a process: UUIDv5 in [`PROCESS_NAMESPACE`] of the ASCII text `<boot_id>:<tgid>:<start_ticks>`.
///
/// `boot_id` is the text of /proc/sys/kernel/random/boot_id (36 characters, without the line end), `tgid` the process id in the
/// initial pid namespace, `start_ticks` field 22 of /proc/PID/stat: the start since boot in clock ticks (USER_HZ, 100 a second).
#[must_use]
pub fn unique_pid(boot_id: &str, tgid: u32, start_ticks: u64) -> Uuid {
    Uuid::new_v5(
        &PROCESS_NAMESPACE,
        format!("{boot_id}:{tgid}:{start_ticks}").as_bytes(),
    )
}

/// Identity of a file: UUIDv5 in [`FILE_NAMESPACE`] of the ASCII text `<fs>:<inode>:<generation>:<btime>`.
///
/// `<fs>` is the file system's identity (f_fsid of statfs(2), read as one number, low word first: 16 hexadecimal digits) or, where
/// that is 0, `dev-` and the device number (8 hexadecimal digits). Inode and generation are decimal, the birth time is
/// decimal nanoseconds since 1970; what the file system does not have is `-`.
#[must_use]
pub fn file_unique_id(
    fs_id: u64,
    device: u32,
    inode: u64,
    generation: Option<u32>,
    btime_ns: Option<i64>,
) -> Uuid {
    let fs = if fs_id == 0 {
        format!("dev-{device:08x}")
    } else {
        format!("{fs_id:016x}")
    };
    let generation = generation.map_or("-".to_owned(), |generation| generation.to_string());
    let btime = btime_ns.map_or("-".to_owned(), |btime| btime.to_string());
    Uuid::new_v5(
        &FILE_NAMESPACE,
        format!("{fs}:{inode}:{generation}:{btime}").as_bytes(),
    )
}
