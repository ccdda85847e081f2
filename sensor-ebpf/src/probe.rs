//! One file per event type, with all its hooks.
//!
//! Suffixes of the programs: `_fe` fentry, `_fx` fexit, `_kp` kprobe, `_rp` kretprobe, none: BTF tracepoint; and for
//! those that resolve a path `_b` the bounded walk of every kernel, `_l` the one with `bpf_loop`. Of the variants of a
//! program the daemon attaches one.

mod connect;
mod exec;
mod exit;
mod file_close;
mod file_create;
mod fork;
mod module_load;
mod script;
mod syscall_exit;
