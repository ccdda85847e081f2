//! Keys, values, names and sizes of the maps that both sides of the boundary name.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::record::{Header, Subject};

/// Ring of [`crate::record::Lane::Process`].
pub const RING_PROCESS: &str = "ring_process";
/// Ring of [`crate::record::Lane::File`].
pub const RING_FILE: &str = "ring_file";
/// Ring of [`crate::record::Lane::Network`].
pub const RING_NETWORK: &str = "ring_network";
/// Ring of [`crate::record::Lane::Control`].
pub const RING_CONTROL: &str = "ring_control";
/// Per-CPU array of `u64`, indexed by [`crate::counter::KernelCounter::index`].
pub const COUNTERS: &str = "counters";
/// Array of `u32` per lane: 1 while the reader polls by timer and needs no wake-up, 0 while it sleeps.
pub const READER_AWAKE: &str = "reader_awake";
/// Cgroup array with the scoped cgroup at index 0.
pub const SCOPE_CGROUP: &str = "scope_cgroup";
/// Hash of sockets whose TCP connect has no result yet: socket key to [`Connecting`].
pub const CONNECTING: &str = "connecting";
/// Hash of created files that are still open: file key to [`OpenFile`].
pub const OPEN_FILES: &str = "open_files";

/// Entries of [`OPEN_FILES`] by default.
pub const OPEN_FILES_ENTRIES: u32 = 16_384;
/// Entries of [`CONNECTING`] by default.
pub const CONNECTING_ENTRIES: u32 = 16_384;

/// A created file that is still open for writing; keyed by its `struct file *`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct OpenFile {
    /// Header of the [`crate::record::FileCreateRecord`].
    pub header: Header,
    /// Its subject.
    pub subject: Subject,
}
const _: () = assert!(
    size_of::<OpenFile>() == 112,
    "layout changed: bump ABI_VERSION"
);

/// A TCP connect without a result yet; keyed by its `struct sock *`.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Connecting {
    /// Who began it; `time_boot_ns` is when.
    pub header: Header,
    /// Who.
    pub subject: Subject,
    /// As in [`crate::record::ConnectRecord`].
    pub remote_address: [u8; 16],
    /// Host order.
    pub remote_port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Network namespace.
    pub net_ns: u32,
}
const _: () = assert!(
    size_of::<Connecting>() == 136,
    "layout changed: bump ABI_VERSION"
);

/// What the daemon tells the programs at load time: the read-only global `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Settings {
    /// The daemon's own process id: its doings are counted and not reported.
    pub own_tgid: u32,
    /// 1: only tasks inside the cgroup at index 0 of [`SCOPE_CGROUP`] are recorded.
    pub scoped: u32,
    /// Bits of [`feature`].
    pub features: u32,
    /// Bit per [`crate::record::RecordKind::slot`]: kinds that the syscall-exit program must report.
    pub syscall_exit_kinds: u32,
    /// Unread bytes in a bulk ring from which its reader is woken although it polls.
    pub wake_bytes: u64,
}
const _: () = assert!(
    size_of::<Settings>() == 24,
    "layout changed: bump ABI_VERSION"
);

/// Bits of [`Settings::features`]: what this kernel's BPF can do.
pub mod feature {
    /// `bpf_get_current_task_btf` exists (5.11).
    pub const TASK_BTF: u32 = 1 << 0;
    /// `exec` must be told of scripts by a script probe that is attached.
    pub const SCRIPT_PROBE: u32 = 1 << 1;
    /// A file-close probe is attached: created files are kept in [`super::OPEN_FILES`].
    pub const FILE_CLOSE_PROBE: u32 = 1 << 2;
    /// The connect result of failed attempts comes from an entry and a return probe, not from syscall exit.
    pub const CONNECT_RETURN_PROBE: u32 = 1 << 3;
    /// The module load result comes from a return probe on `load_module`, not from syscall exit.
    pub const MODULE_RETURN_PROBE: u32 = 1 << 4;
}

/// Name of the global that holds [`Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Name of the global that holds [`crate::layout::KernelLayout`].
pub const LAYOUT: &str = "LAYOUT";
/// Name of the global that holds [`crate::ABI_VERSION`].
pub const ABI: &str = "ABI";

/// Declares that types are plain old data for aya's typed maps: `pod!(OpenFile, Connecting);` expands to one
/// `unsafe impl aya::Pod` per type, each bounded by zerocopy's derives that prove it.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($type:ty),* $(,)?) => {
        $(
            const _: () = {
                const fn proven<T: FromBytes + IntoBytes + Immutable + Copy + 'static>() {}
                proven::<$type>();
            };
            #[expect(unsafe_code, reason = "aya asks for the promise that the derives above prove")]
            // SAFETY: FromBytes and IntoBytes are derived: every bit pattern is valid and there is no padding.
            unsafe impl aya::Pod for $type {}
        )*
    };
}

#[cfg(feature = "user")]
pod!(OpenFile, Connecting);
