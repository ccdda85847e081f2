//! The kernel/userspace ABI, declared once.
//!
//! Everything that crosses the boundary between the eBPF programs and the daemon is here and only here: records,
//! counters, map keys and values, the table of kernel offsets. No IO and no policy.
//!
//! Layout rules, each checked by machine (zerocopy's derives and the size asserts beside each struct):
//! 1. only fixed-width integers, arrays of them and other ABI structs;
//! 2. no implicit padding;
//! 3. alignment of at most 8, fields in 8-byte groups, largest first;
//! 4. every truncation is visible ([`record::Text`]) and every "unknown" is documented;
//! 5. any change of layout bumps [`ABI_VERSION`]; the loader refuses an object with another one.
#![no_std]
#![deny(unsafe_code)]

pub mod counter;
pub mod layout;
pub mod map;
pub mod record;

/// Version of everything in this crate; a global of the eBPF object that the loader compares.
pub const ABI_VERSION: u32 = 2;

/// Value of a `u32` field that was not observed (uid_t, inums, device numbers).
pub const UNKNOWN: u32 = u32::MAX;
