//! The kernel/userspace ABI.
#![no_std]
