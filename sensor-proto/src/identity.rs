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

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by another implementation (Python's `uuid.uuid5`).
    #[test]
    fn vectors() {
        let boot_id = "00112233-4455-6677-8899-aabbccddeeff";
        assert_eq!(
            unique_pid(boot_id, 4711, 123_456),
            uuid!("f478375e-0fbe-5022-9a65-766607214c82")
        );
        let btime = Some(1_700_000_000_123_456_789);
        let file = file_unique_id(0x0123_4567_89ab_cdef, 1, 42, Some(7), btime);
        assert_eq!(file, uuid!("6b52ac0b-4cb4-5962-a094-7dae54c875b0"));
        assert_eq!(
            file_unique_id(0, 0x0080_0001, 42, None, None),
            uuid!("513f1c84-c4f3-5e54-9dd0-abf1b7a71589")
        );
        assert_eq!(
            file_unique_id(0, 1, 42, None, Some(-5)),
            uuid!("5ec75784-109e-5196-bee4-748fa9b70d94")
        );
    }

    /// The device number differs from boot to boot; where the file system has an identity it does not count.
    #[test]
    fn device_counts_only_without_file_system_id() {
        let of = |fs_id, device| file_unique_id(fs_id, device, 42, None, None);
        assert_eq!(of(9, 1), of(9, 2));
        assert_ne!(of(0, 1), of(0, 2));
    }
}
