//! Records of the network family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, Subject, Text};

/// How a connection attempt stands: values of [`ConnectRecord::result`].
pub mod connect_result {
    /// Established (TCP), connected (UDP, unix).
    pub const ESTABLISHED: u32 = 1;
    /// It failed; `error` says how.
    pub const FAILED: u32 = 2;
    /// Not decided yet.
    pub const IN_PROGRESS: u32 = 3;
    /// The socket was closed before an answer came.
    pub const ABORTED: u32 = 4;
}

/// A socket connected, or failed to.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ConnectRecord {
    /// The process that called connect; `time_boot_ns` is when the result was known.
    pub header: Header,
    /// Who.
    pub subject: Subject,
    /// When the attempt began, ns since boot.
    pub started_boot_ns: u64,
    /// Names the socket as long as it lives; opaque.
    pub socket_key: u64,
    /// Local address: 4 bytes (IPv4, the rest 0) or 16, network order. All 0: not bound yet or not observed.
    pub local_address: [u8; 16],
    /// Remote address likewise.
    pub remote_address: [u8; 16],
    /// Local port, host order. 0: not bound.
    pub local_port: u16,
    /// Remote port, host order.
    pub remote_port: u16,
    /// `AF_INET`, `AF_INET6`, `AF_UNIX`, ...
    pub family: u16,
    /// `IPPROTO_TCP`, `IPPROTO_UDP`, ...; 0 for unix.
    pub protocol: u16,
    /// `SOCK_STREAM`, `SOCK_DGRAM`, ...
    pub socket_type: u16,
    /// 1: the remote address is not known to this backend (a failed attempt under the syscall-exit backend).
    pub remote_unknown: u16,
    /// A value of [`connect_result`].
    pub result: u32,
    /// errno of the failure, positive. 0: none.
    pub error: u32,
    /// Inode number of the network namespace. 0: not observed.
    pub net_ns: u32,
    /// `sun_path` of a unix peer; an abstract name starts with NUL.
    pub path: Text,
}
const _: () = assert!(
    size_of::<ConnectRecord>() == 192,
    "layout changed: bump ABI_VERSION"
);
