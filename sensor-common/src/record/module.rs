//! Records of the kernel module family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{FileIdentity, Header, Subject, Text};

/// Bits of [`ModuleLoadRecord::flags`].
pub mod module_flag {
    /// Loaded by init_module(2) from memory: there is no file.
    pub const FROM_MEMORY: u32 = 1 << 0;
    /// `file` and `path` were observed.
    pub const FILE_KNOWN: u32 = 1 << 1;
    /// The module was announced by `module_load` (name and taints were observed).
    pub const ANNOUNCED: u32 = 1 << 2;
}

/// A kernel module was loaded, or failed to be.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ModuleLoadRecord {
    /// The process that called (f)init_module.
    pub header: Header,
    /// Who.
    pub subject: Subject,
    /// The module's file; all 0 unless [`module_flag::FILE_KNOWN`].
    pub file: FileIdentity,
    /// `mod->taints`: bits of Documentation/admin-guide/tainted-kernels.rst.
    pub taints: u64,
    /// errno of a failed load, positive. 0: loaded.
    pub error: u32,
    /// Bits of [`module_flag`].
    pub flags: u32,
    /// `mod->name`, NUL-padded; all 0: not observed.
    pub name: [u8; 56],
    /// Path of the file in the process's view.
    pub path: Text,
}
const _: () = assert!(
    size_of::<ModuleLoadRecord>() == 264,
    "layout changed: bump ABI_VERSION"
);
