//! The kernel side: programs that turn what happens into records.
//!
//! A probe file says what is seen at a hook; it holds no `unsafe`. Everything that a probe could forget or get wrong
//! is elsewhere: scope, ledger, sequence and submission in [`emit`], reading of kernel memory in [`read`], paths in
//! [`path`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod emit;
mod file;
mod filter;
mod layout;
mod log;
mod map;
mod path;
mod probe;
mod read;
mod task;

/// `bpf_probe_read_*` and most other helpers are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: nothing here panics, and the verifier refuses a program in which this loop is reachable.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
