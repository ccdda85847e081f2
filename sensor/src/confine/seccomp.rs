//! Filters of system calls: a list of refusals, compiled to the classic BPF that seccomp(2) takes.
//!
//! A list of what is refused, not of what is allowed: a C library or a kernel that does something in another way than the one at
//! hand must not make the sensor blind. What the list does not know is refused all the same: the numbers of other
//! architectures, and system calls newer than it.

use std::io;

use nix::libc::{self, c_long, sock_filter};

use crate::kernel::sys;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It fails with this errno.
    Errno(i32),
    /// The process ends by SIGSYS: nobody but an intruder does this.
    Kill,
}

const REFUSED: Verdict = Verdict::Errno(libc::EPERM);
/// As of a kernel that does not have it: who asks has another way.
const UNKNOWN: Verdict = Verdict::Errno(libc::ENOSYS);

/// Which calls of that number are meant. Arguments are ints or flags: their lower half counts.
#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    /// The argument has one of these bits.
    AnyBit(u32, u32),
    /// The argument has none of these bits.
    NoBit(u32, u32),
    /// The argument is one of these.
    OneOf(u32, &'static [u32]),
    /// The argument is none of these.
    NoneOf(u32, &'static [u32]),
    /// The argument is not the sensor's own process id.
    NotOwn(u32),
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    call: c_long,
    when: When,
    verdict: Verdict,
}

const fn rule(call: c_long, when: When, verdict: Verdict) -> Rule {
    Rule {
        call,
        when,
        verdict,
    }
}

/// mseal, Linux 6.10: later ones are not known here. x86-64 and the architectures with the common table have the same number.
const NEWEST: u32 = 462;
/// Calls of the x32 ABI have this bit; nothing here is one.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xc000_00f3;

/// bpf(2): reading and changing maps that are open already, and reading about what is. Nothing is loaded or attached any more.
const BPF_LEFT: &[u32] = &[
    1,  // BPF_MAP_LOOKUP_ELEM
    2,  // BPF_MAP_UPDATE_ELEM
    3,  // BPF_MAP_DELETE_ELEM
    4,  // BPF_MAP_GET_NEXT_KEY
    15, // BPF_OBJ_GET_INFO_BY_FD
    24, // BPF_MAP_LOOKUP_BATCH
];
/// ioctl(2) that puts keys into a terminal, as if somebody there had typed them: TIOCSTI, TIOCLINUX.
const TYPES_KEYS: &[u32] = &[0x5412, 0x541c];
/// ioctl(2) that changes a terminal, which only the live view and the main thread do: TCSETS, TCSETSW, TCSETSF, the same of the
/// second version, TIOCSPGRP, TIOCSWINSZ.
const SETS_TERMINAL: &[u32] = &[
    0x5402,
    0x5403,
    0x5404,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d,
    0x5410,
    0x5414,
];
/// AF_UNIX, AF_INET, AF_INET6.
const FAMILIES: &[u32] = &[1, 2, 10];
const STANDARD_ERROR: &[u32] = &[2];
const CLONE_THREAD: u32 = 0x0001_0000;
const PROT_EXEC: u32 = 4;
/// Flags of open(2) that write or make: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, and O_TMPFILE's own bit.
const OPEN_WRITES: u32 = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20_000_000;

/// For every thread of the process, once programs are attached.
const PROCESS: &[Rule] = &[
    // Programs are never started, other processes never taken over, the kernel never extended.
    rule(libc::SYS_execve, When::Always, Verdict::Kill),
    rule(libc::SYS_execveat, When::Always, Verdict::Kill),
    rule(libc::SYS_ptrace, When::Always, Verdict::Kill),
    rule(libc::SYS_process_vm_readv, When::Always, Verdict::Kill),
    rule(libc::SYS_process_vm_writev, When::Always, Verdict::Kill),
    rule(libc::SYS_init_module, When::Always, Verdict::Kill),
    rule(libc::SYS_finit_module, When::Always, Verdict::Kill),
    rule(libc::SYS_delete_module, When::Always, Verdict::Kill),
    rule(libc::SYS_kexec_load, When::Always, Verdict::Kill),
    #[cfg(not(target_arch = "riscv64"))]
    rule(libc::SYS_kexec_file_load, When::Always, Verdict::Kill),
    // Threads, no processes. The flags of clone3 are in memory where no filter sees them; the C library then takes clone.
    rule(libc::SYS_clone3, When::Always, UNKNOWN),
    rule(libc::SYS_clone, When::NoBit(0, CLONE_THREAD), REFUSED),
    rule(libc::SYS_unshare, When::Always, REFUSED),
    rule(libc::SYS_setns, When::Always, REFUSED),
    // Nothing becomes executable.
    rule(libc::SYS_mmap, When::AnyBit(2, PROT_EXEC), REFUSED),
    rule(libc::SYS_mprotect, When::AnyBit(2, PROT_EXEC), REFUSED),
    rule(libc::SYS_pkey_mprotect, When::AnyBit(2, PROT_EXEC), REFUSED),
    rule(libc::SYS_personality, When::Always, REFUSED),
    // Maps that are open, no new programs, maps, links or pins.
    rule(libc::SYS_bpf, When::NoneOf(0, BPF_LEFT), REFUSED),
    rule(libc::SYS_perf_event_open, When::Always, REFUSED),
    rule(libc::SYS_ioctl, When::OneOf(1, TYPES_KEYS), REFUSED),
    // Who it is.
    rule(libc::SYS_setuid, When::Always, REFUSED),
    rule(libc::SYS_setgid, When::Always, REFUSED),
    rule(libc::SYS_setreuid, When::Always, REFUSED),
    rule(libc::SYS_setregid, When::Always, REFUSED),
    rule(libc::SYS_setresuid, When::Always, REFUSED),
    rule(libc::SYS_setresgid, When::Always, REFUSED),
    rule(libc::SYS_setfsuid, When::Always, REFUSED),
    rule(libc::SYS_setfsgid, When::Always, REFUSED),
    rule(libc::SYS_setgroups, When::Always, REFUSED),
    // Other processes: no signals, no descriptors, no memory.
    rule(libc::SYS_kill, When::Always, REFUSED),
    rule(libc::SYS_tkill, When::Always, REFUSED),
    rule(libc::SYS_tgkill, When::NotOwn(0), REFUSED),
    rule(libc::SYS_rt_sigqueueinfo, When::Always, REFUSED),
    rule(libc::SYS_rt_tgsigqueueinfo, When::Always, REFUSED),
    rule(libc::SYS_pidfd_send_signal, When::Always, REFUSED),
    rule(libc::SYS_pidfd_getfd, When::Always, REFUSED),
    rule(libc::SYS_process_madvise, When::Always, REFUSED),
    rule(libc::SYS_kcmp, When::Always, REFUSED),
    rule(libc::SYS_move_pages, When::Always, REFUSED),
    rule(libc::SYS_migrate_pages, When::Always, REFUSED),
    // What is mounted where.
    rule(libc::SYS_mount, When::Always, REFUSED),
    rule(libc::SYS_umount2, When::Always, REFUSED),
    rule(libc::SYS_pivot_root, When::Always, REFUSED),
    rule(libc::SYS_chroot, When::Always, REFUSED),
    rule(libc::SYS_move_mount, When::Always, REFUSED),
    rule(libc::SYS_open_tree, When::Always, REFUSED),
    rule(libc::SYS_fsopen, When::Always, REFUSED),
    rule(libc::SYS_fsconfig, When::Always, REFUSED),
    rule(libc::SYS_fsmount, When::Always, REFUSED),
    rule(libc::SYS_fspick, When::Always, REFUSED),
    rule(libc::SYS_mount_setattr, When::Always, REFUSED),
    rule(libc::SYS_quotactl, When::Always, REFUSED),
    // Files: no owners, attributes, devices or links; those of the sensor need none.
    rule(libc::SYS_fchown, When::Always, REFUSED),
    rule(libc::SYS_fchownat, When::Always, REFUSED),
    rule(libc::SYS_setxattr, When::Always, REFUSED),
    rule(libc::SYS_lsetxattr, When::Always, REFUSED),
    rule(libc::SYS_fsetxattr, When::Always, REFUSED),
    rule(libc::SYS_removexattr, When::Always, REFUSED),
    rule(libc::SYS_lremovexattr, When::Always, REFUSED),
    rule(libc::SYS_fremovexattr, When::Always, REFUSED),
    rule(libc::SYS_mknodat, When::Always, REFUSED),
    rule(libc::SYS_linkat, When::Always, REFUSED),
    rule(libc::SYS_symlinkat, When::Always, REFUSED),
    // The machine.
    rule(libc::SYS_reboot, When::Always, REFUSED),
    rule(libc::SYS_swapon, When::Always, REFUSED),
    rule(libc::SYS_swapoff, When::Always, REFUSED),
    rule(libc::SYS_sethostname, When::Always, REFUSED),
    rule(libc::SYS_setdomainname, When::Always, REFUSED),
    rule(libc::SYS_settimeofday, When::Always, REFUSED),
    rule(libc::SYS_clock_settime, When::Always, REFUSED),
    rule(libc::SYS_clock_adjtime, When::Always, REFUSED),
    rule(libc::SYS_adjtimex, When::Always, REFUSED),
    rule(libc::SYS_acct, When::Always, REFUSED),
    rule(libc::SYS_syslog, When::Always, REFUSED),
    rule(libc::SYS_vhangup, When::Always, REFUSED),
    rule(libc::SYS_fanotify_init, When::Always, REFUSED),
    // Large parts of the kernel that it does without.
    rule(libc::SYS_io_uring_setup, When::Always, REFUSED),
    rule(libc::SYS_io_uring_enter, When::Always, REFUSED),
    rule(libc::SYS_io_uring_register, When::Always, REFUSED),
    rule(libc::SYS_userfaultfd, When::Always, REFUSED),
    rule(libc::SYS_keyctl, When::Always, REFUSED),
    rule(libc::SYS_add_key, When::Always, REFUSED),
    rule(libc::SYS_request_key, When::Always, REFUSED),
    rule(
        libc::SYS_socket,
        When::NoneOf(0, FAMILIES),
        Verdict::Errno(libc::EAFNOSUPPORT),
    ),
];

/// The old forms of some of these, which only this architecture has.
#[cfg(target_arch = "x86_64")]
const PROCESS_OLD: &[Rule] = &[
    rule(libc::SYS_fork, When::Always, REFUSED),
    rule(libc::SYS_vfork, When::Always, REFUSED),
    rule(libc::SYS_chown, When::Always, REFUSED),
    rule(libc::SYS_lchown, When::Always, REFUSED),
    rule(libc::SYS_mknod, When::Always, REFUSED),
    rule(libc::SYS_link, When::Always, REFUSED),
    rule(libc::SYS_symlink, When::Always, REFUSED),
    rule(libc::SYS_iopl, When::Always, REFUSED),
    rule(libc::SYS_ioperm, When::Always, REFUSED),
    rule(libc::SYS_modify_ldt, When::Always, REFUSED),
];
#[cfg(not(target_arch = "x86_64"))]
const PROCESS_OLD: &[Rule] = &[];

/// For threads that open and read files of others: they change no file, and talk to nobody but the log.
const READ_ONLY: &[Rule] = &[
    rule(libc::SYS_openat, When::AnyBit(2, OPEN_WRITES), REFUSED),
    rule(libc::SYS_write, When::NoneOf(0, STANDARD_ERROR), REFUSED),
    rule(libc::SYS_writev, When::NoneOf(0, STANDARD_ERROR), REFUSED),
    rule(libc::SYS_ioctl, When::OneOf(1, SETS_TERMINAL), REFUSED),
    rule(libc::SYS_pwrite64, When::Always, REFUSED),
    rule(libc::SYS_pwritev, When::Always, REFUSED),
    rule(libc::SYS_pwritev2, When::Always, REFUSED),
    rule(libc::SYS_sendfile, When::Always, REFUSED),
    rule(libc::SYS_splice, When::Always, REFUSED),
    rule(libc::SYS_tee, When::Always, REFUSED),
    rule(libc::SYS_vmsplice, When::Always, REFUSED),
    rule(libc::SYS_copy_file_range, When::Always, REFUSED),
    rule(libc::SYS_fallocate, When::Always, REFUSED),
    rule(libc::SYS_truncate, When::Always, REFUSED),
    rule(libc::SYS_ftruncate, When::Always, REFUSED),
    rule(libc::SYS_unlinkat, When::Always, REFUSED),
    rule(libc::SYS_mkdirat, When::Always, REFUSED),
    rule(libc::SYS_renameat2, When::Always, REFUSED),
    #[cfg(not(target_arch = "riscv64"))]
    rule(libc::SYS_renameat, When::Always, REFUSED),
    rule(libc::SYS_fchmod, When::Always, REFUSED),
    rule(libc::SYS_fchmodat, When::Always, REFUSED),
    // fchmodat2, newer than the names that the library knows.
    rule(452, When::Always, REFUSED),
    rule(libc::SYS_utimensat, When::Always, REFUSED),
    rule(libc::SYS_memfd_create, When::Always, REFUSED),
    rule(libc::SYS_io_setup, When::Always, REFUSED),
    rule(libc::SYS_io_submit, When::Always, REFUSED),
    rule(libc::SYS_bpf, When::Always, REFUSED),
    rule(libc::SYS_socket, When::Always, REFUSED),
    rule(libc::SYS_socketpair, When::Always, REFUSED),
    rule(libc::SYS_connect, When::Always, REFUSED),
    rule(libc::SYS_bind, When::Always, REFUSED),
    rule(libc::SYS_listen, When::Always, REFUSED),
    rule(libc::SYS_sendto, When::Always, REFUSED),
    rule(libc::SYS_sendmsg, When::Always, REFUSED),
    rule(libc::SYS_sendmmsg, When::Always, REFUSED),
];

#[cfg(target_arch = "x86_64")]
const READ_ONLY_OLD: &[Rule] = &[
    rule(libc::SYS_open, When::AnyBit(1, OPEN_WRITES), REFUSED),
    rule(libc::SYS_creat, When::Always, REFUSED),
    rule(libc::SYS_unlink, When::Always, REFUSED),
    rule(libc::SYS_rmdir, When::Always, REFUSED),
    rule(libc::SYS_mkdir, When::Always, REFUSED),
    rule(libc::SYS_rename, When::Always, REFUSED),
    rule(libc::SYS_chmod, When::Always, REFUSED),
    rule(libc::SYS_utime, When::Always, REFUSED),
    rule(libc::SYS_utimes, When::Always, REFUSED),
    rule(libc::SYS_futimesat, When::Always, REFUSED),
];
#[cfg(not(target_arch = "x86_64"))]
const READ_ONLY_OLD: &[Rule] = &[];

/// The flags of openat2 are in memory, where no filter sees them. The thread that reads needs none; the one that opens does, since
/// nothing else keeps a path within a root.
const NO_OPENAT2: &[Rule] = &[rule(libc::SYS_openat2, When::Always, UNKNOWN)];

/// Which filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Every thread's.
    Process,
    /// On top of it: a thread that opens files of others.
    Opens,
    /// On top of it: a thread that reads files of others.
    Reads,
}

impl Filter {
    fn rules(self) -> Vec<Rule> {
        let lists: &[&[Rule]] = match self {
            Self::Process => &[PROCESS, PROCESS_OLD],
            Self::Opens => &[READ_ONLY, READ_ONLY_OLD],
            Self::Reads => &[READ_ONLY, READ_ONLY_OLD, NO_OPENAT2],
        };
        lists.concat()
    }

    fn program(self, own_tgid: u32) -> io::Result<Vec<sock_filter>> {
        let mut program = Program::default();
        for rule in self.rules() {
            program.rule(&rule, own_tgid)?;
        }
        Ok(program.finish())
    }
}

/// Puts a filter into force: the one of the process for all threads that there are and will be, others for this thread and those
/// that it starts. `no_new_privs` must be set.
///
/// # Errors
/// seccomp(2): the kernel has none, or another filter refuses it.
pub fn install(filter: Filter) -> io::Result<()> {
    let program = filter.program(std::process::id())?;
    sys::install_filter(&program, filter == Filter::Process)
}

/// Offset of the number in `struct seccomp_data`, and of the architecture.
const AT_NUMBER: u32 = 0;
const AT_ARCHITECTURE: u32 = 4;

/// Offset of an argument's lower half.
const fn at_argument(argument: u32) -> u32 {
    let half = if cfg!(target_endian = "little") { 0 } else { 4 };
    16 + 8 * argument + half
}

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

const fn word(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Errno(errno) => ERRNO | errno.unsigned_abs(),
        Verdict::Kill => KILL_PROCESS,
    }
}

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Instructions; the number of the call is loaded between rules.
struct Program(Vec<sock_filter>);

impl Default for Program {
    fn default() -> Self {
        let mut steps = vec![
            step(LOAD, AT_ARCHITECTURE, 0, 0),
            step(JUMP_EQUAL, ARCHITECTURE, 1, 0),
            step(RETURN, KILL_PROCESS, 0, 0),
            step(LOAD, AT_NUMBER, 0, 0),
        ];
        #[cfg(target_arch = "x86_64")]
        steps.extend([
            step(JUMP_ANY_BIT, X32, 0, 1),
            step(RETURN, KILL_PROCESS, 0, 0),
        ]);
        steps.extend([
            step(JUMP_GREATER, NEWEST, 0, 1),
            step(RETURN, word(UNKNOWN), 0, 0),
        ]);
        Self(steps)
    }
}

impl Program {
    fn rule(&mut self, rule: &Rule, own_tgid: u32) -> io::Result<()> {
        let invalid = |_error| io::Error::from(io::ErrorKind::InvalidInput);
        let number = u32::try_from(rule.call).map_err(invalid)?;
        let verdict = step(RETURN, word(rule.verdict), 0, 0);
        let reload = step(LOAD, AT_NUMBER, 0, 0);
        let (argument, tests) = match rule.when {
            When::Always => {
                self.0.extend([step(JUMP_EQUAL, number, 0, 1), verdict]);
                return Ok(());
            }
            When::AnyBit(argument, bits) => (argument, vec![step(JUMP_ANY_BIT, bits, 0, 1)]),
            When::NoBit(argument, bits) => (argument, vec![step(JUMP_ANY_BIT, bits, 1, 0)]),
            When::OneOf(argument, refused) => {
                // Each jumps over those after it; the last, if it is not the one, over the verdict.
                let last = refused.len().saturating_sub(1);
                let test = |(index, value): (usize, &u32)| {
                    let over = u8::try_from(last - index).map_err(invalid)?;
                    Ok(step(JUMP_EQUAL, *value, over, u8::from(index == last)))
                };
                let tests: io::Result<Vec<_>> = refused.iter().enumerate().map(test).collect();
                (argument, tests?)
            }
            When::NoneOf(argument, allowed) => {
                // Each that is allowed jumps over those after it and the verdict.
                let last = allowed.len();
                let test = |(index, value): (usize, &u32)| {
                    let over = u8::try_from(last - index).map_err(invalid)?;
                    Ok(step(JUMP_EQUAL, *value, over, 0))
                };
                let tests: io::Result<Vec<_>> = allowed.iter().enumerate().map(test).collect();
                (argument, tests?)
            }
            When::NotOwn(argument) => (argument, vec![step(JUMP_EQUAL, own_tgid, 1, 0)]),
        };
        // Over the load of the argument, the tests, the verdict and the load of the number.
        let over = u8::try_from(tests.len() + 3).map_err(invalid)?;
        self.0.push(step(JUMP_EQUAL, number, 0, over));
        self.0.push(step(LOAD, at_argument(argument), 0, 0));
        self.0.extend(tests);
        self.0.extend([verdict, reload]);
        Ok(())
    }

    fn finish(mut self) -> Vec<sock_filter> {
        self.0.push(step(RETURN, ALLOW, 0, 0));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 4711;

    /// What the kernel's interpreter makes of a program; panics on an instruction that is none of ours, or a jump out of it.
    fn judge(program: &[sock_filter], number: c_long, arguments: [u64; 6]) -> u32 {
        judge_of(
            program,
            ARCHITECTURE,
            u32::try_from(number).unwrap(),
            arguments,
        )
    }

    fn judge_of(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> u32 {
        let mut data = [0_u8; 64];
        data[0..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&architecture.to_ne_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_ne_bytes());
        }
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let step = program[at];
            at += 1;
            let holds = match step.code {
                LOAD => {
                    let place = usize::try_from(step.k).unwrap();
                    let bytes = data[place..place + 4].try_into().unwrap();
                    accumulator = u32::from_ne_bytes(bytes);
                    continue;
                }
                RETURN => return step.k,
                JUMP_EQUAL => accumulator == step.k,
                JUMP_GREATER => accumulator > step.k,
                JUMP_ANY_BIT => accumulator & step.k != 0,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    fn program(filter: Filter) -> Vec<sock_filter> {
        filter.program(OWN).unwrap()
    }

    const DENIED: u32 = ERRNO | 1;

    #[test]
    fn every_rule_refuses_what_it_names_and_lets_the_rest_pass() {
        for filter in [Filter::Process, Filter::Opens, Filter::Reads] {
            let program = program(filter);
            assert!(program.len() < 4096);
            for rule in filter.rules() {
                let refused = word(rule.verdict);
                let (argument, hits, misses): (u32, Vec<u32>, Vec<u32>) = match rule.when {
                    When::Always => (0, vec![0, u32::MAX], vec![]),
                    When::AnyBit(argument, bits) => {
                        let each = (0..32).map(|bit| 1 << bit).filter(|bit| bits & bit != 0);
                        (argument, each.collect(), vec![0, !bits])
                    }
                    When::NoBit(argument, bits) => (argument, vec![0, !bits], vec![bits, u32::MAX]),
                    When::OneOf(argument, values) => (argument, values.to_vec(), vec![0, 0x5401]),
                    When::NoneOf(argument, allowed) => {
                        let other = (0..).find(|value| !allowed.contains(value)).unwrap();
                        (argument, vec![other, u32::MAX], allowed.to_vec())
                    }
                    When::NotOwn(argument) => (argument, vec![1, OWN + 1], vec![OWN]),
                };
                let with = |value: u32| {
                    let mut arguments = [0; 6];
                    // What is above the lower half does not count.
                    arguments[usize::try_from(argument).unwrap()] =
                        u64::from(value) | 0x5555_5555 << 32;
                    judge(&program, rule.call, arguments)
                };
                for hit in hits {
                    assert_eq!(with(hit), refused, "{filter:?} {rule:?} {hit:#x}");
                }
                for miss in misses {
                    assert_eq!(with(miss), ALLOW, "{filter:?} {rule:?} {miss:#x}");
                }
            }
        }
    }

    #[test]
    fn what_no_list_knows_is_refused() {
        let program = program(Filter::Process);
        let unknown = word(UNKNOWN);
        assert_eq!(judge(&program, 463, [0; 6]), unknown);
        assert_eq!(judge(&program, 100_000, [0; 6]), unknown);
        // Another architecture: the numbers mean something else there.
        let other = judge_of(&program, 0x4000_0003, 11, [0; 6]);
        assert_eq!(other, KILL_PROCESS);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(
            judge_of(&program, ARCHITECTURE, X32 | 520, [0; 6]),
            KILL_PROCESS
        );
    }

    #[test]
    fn what_the_sensor_does_all_day_passes() {
        let program = program(Filter::Process);
        for call in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_futex,
            libc::SYS_fsync,
            libc::SYS_renameat,
            libc::SYS_epoll_pwait,
            libc::SYS_prctl,
            libc::SYS_capset,
            libc::SYS_seccomp,
            libc::SYS_sendmsg,
            libc::SYS_exit_group,
            libc::SYS_setpriority,
            libc::SYS_inotify_add_watch,
        ] {
            assert_eq!(judge(&program, call, [0; 6]), ALLOW, "{call}");
        }
    }

    #[test]
    fn a_thread_that_reads_opens_for_nothing_else() {
        let program = program(Filter::Reads);
        let open = |flags: i32| {
            let flags = u64::from(flags.unsigned_abs());
            judge(&program, libc::SYS_openat, [0, 0, flags, 0, 0, 0])
        };
        for flags in [
            libc::O_RDONLY,
            libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC,
            libc::O_RDONLY | libc::O_NOATIME | libc::O_NONBLOCK | libc::O_NOCTTY,
            libc::O_DIRECTORY,
        ] {
            assert_eq!(open(flags), ALLOW, "{flags:#o}");
        }
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_RDONLY | libc::O_TRUNC,
            libc::O_RDONLY | libc::O_CREAT,
            libc::O_TMPFILE | libc::O_RDWR,
        ] {
            assert_eq!(open(flags), DENIED, "{flags:#o}");
        }
        let write = |descriptor| judge(&program, libc::SYS_write, [descriptor, 0, 0, 0, 0, 0]);
        assert_eq!(write(2), ALLOW);
        assert_eq!(write(1), DENIED);
    }
}
