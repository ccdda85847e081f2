//! The table of hooks: for each kind of record the ways to get it, best first, and what each of them cannot see.
//!
//! A table and nothing else: [`crate::loader`] tries the rows, `sensor doctor` and docs/hooks.md show them. Program names
//! are those of the eBPF object. Of programs in the same place, the one that walks paths by `bpf_loop` (`_l`) is
//! tried before the bounded one (`_b`).

use std::fmt;

use sensor_common::layout::Field;
use sensor_common::record::RecordKind;
use serde::Serialize;

pub use crate::config::BackendChoice;

mod document;

pub use document::hooks_markdown;

/// A family of hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// BTF-typed tracepoints: part of every choice.
    Tracepoint,
    /// BPF trampolines on kernel functions (fentry and fexit).
    Fentry,
    /// Kprobes and kretprobes on the same functions.
    Kprobe,
    /// The `sys_exit` tracepoint, with facts from kernel objects.
    SyscallExit,
}

impl Backend {
    /// As written on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::SyscallExit => "syscall-exit",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl BackendChoice {
    /// Whether hooks of `backend` may be used; tracepoints always.
    #[must_use]
    pub const fn allows(self, backend: Backend) -> bool {
        match self {
            Self::Auto => true,
            Self::Fentry => matches!(backend, Backend::Tracepoint | Backend::Fentry),
            Self::Kprobe => matches!(backend, Backend::Tracepoint | Backend::Kprobe),
            Self::SyscallExit => matches!(backend, Backend::Tracepoint | Backend::SyscallExit),
        }
    }
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attach {
    /// `tp_btf` on this tracepoint.
    Tracepoint(&'static str),
    /// Entry of this function, by trampoline.
    Fentry(&'static str),
    /// Return of this function, by trampoline.
    Fexit(&'static str),
    /// Entry of this function, by kprobe.
    Kprobe(&'static str),
    /// Return of this function, by kretprobe.
    Kretprobe(&'static str),
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracepoint(name) => write!(f, "tp_btf/{name}"),
            Self::Fentry(name) => write!(f, "fentry/{name}"),
            Self::Fexit(name) => write!(f, "fexit/{name}"),
            Self::Kprobe(name) => write!(f, "kprobe/{name}"),
            Self::Kretprobe(name) => write!(f, "kretprobe/{name}"),
        }
    }
}

/// One place of a candidate, and the programs that can take it.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Alternatives, best first.
    pub programs: &'static [&'static str],
    /// Where: the function's names over time, newest last; a kernel has one of them.
    pub places: &'static [Attach],
    /// What is lost if none of them works; `None`: then the candidate as a whole does not.
    pub optional: Option<&'static str>,
}

/// One way to get a kind of record: programs that belong together, in the order in which they are attached.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its family.
    pub backend: Backend,
    /// Its programs; what ends a chain of hooks is attached before what begins it.
    pub parts: &'static [Part],
    /// What it cannot see, compared with the best; empty for nothing.
    pub lost: &'static str,
    /// Fields of the kernel layout without which it says nothing useful.
    pub needs: &'static [Field],
}

/// All ways to get a kind of record.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The kind.
    pub kind: RecordKind,
    /// Best first.
    pub candidates: &'static [Candidate],
    /// What is lost if none works.
    pub lost: &'static str,
}

const fn part(programs: &'static [&'static str], places: &'static [Attach]) -> Part {
    Part {
        programs,
        places,
        optional: None,
    }
}

const fn optional(
    programs: &'static [&'static str],
    places: &'static [Attach],
    lost: &'static str,
) -> Part {
    Part {
        programs,
        places,
        optional: Some(lost),
    }
}

const SYSCALL_EXIT: Part = part(
    &["sysexit_l", "sysexit_b"],
    &[Attach::Tracepoint("sys_exit")],
);

const TCP_STATE: Part = part(&["tcp_state"], &[Attach::Tracepoint("inet_sock_set_state")]);

const TASK: &[Field] = &[
    Field::TaskTgid,
    Field::TaskPid,
    Field::TaskGroupLeader,
    Field::TaskStartBoottime,
];

const FILE: &[Field] = &[
    Field::FileInode,
    Field::FileMode,
    Field::FilePathDentry,
    Field::FilePathMnt,
    Field::InodeIno,
    Field::InodeMode,
    Field::InodeSb,
    Field::SbDev,
    Field::DentryName,
    Field::DentryNameLen,
    Field::DentryParent,
];

const FDS: &[Field] = &[
    Field::RegsOrigAx,
    Field::TaskFiles,
    Field::FilesFdt,
    Field::FdtableFd,
    Field::FdtableMaxFds,
    Field::FileInode,
    Field::FileMode,
];

const SOCKET: &[Field] = &[
    Field::SocketSk,
    Field::SockFamily,
    Field::SockState,
    Field::SockDport,
    Field::SockNum,
];

const MODULE: &[Field] = &[Field::ModuleName];

/// The table. The kinds whose hooks show what this kernel admits, and cost least to try, come first.
pub const PROBES: &[Probe] = &[
    Probe {
        kind: RecordKind::FileClose,
        candidates: &[
            Candidate {
                backend: Backend::Fentry,
                parts: &[part(&["fput_fe"], &[Attach::Fentry("__fput")])],
                lost: "",
                needs: &[Field::FileInode, Field::FileMode, Field::InodeSize],
            },
            Candidate {
                backend: Backend::Kprobe,
                parts: &[part(&["fput_kp"], &[Attach::Kprobe("__fput")])],
                lost: "",
                needs: &[Field::FileInode, Field::FileMode, Field::InodeSize],
            },
        ],
        lost: "the moment at which the last writer closes a created file: before hashing, the sensor waits until \
               inotify and a lease say so",
    },
    Probe {
        kind: RecordKind::Exec,
        candidates: &[Candidate {
            backend: Backend::Tracepoint,
            parts: &[part(
                &["exec_l", "exec_b"],
                &[Attach::Tracepoint("sched_process_exec")],
            )],
            lost: "",
            needs: TASK,
        }],
        lost: "every program that is executed",
    },
    Probe {
        kind: RecordKind::Exit,
        candidates: &[Candidate {
            backend: Backend::Tracepoint,
            parts: &[part(&["exit"], &[Attach::Tracepoint("sched_process_exit")])],
            lost: "",
            needs: TASK,
        }],
        lost: "the end of processes",
    },
    Probe {
        kind: RecordKind::Fork,
        candidates: &[Candidate {
            backend: Backend::Tracepoint,
            parts: &[part(&["fork"], &[Attach::Tracepoint("task_newtask")])],
            lost: "",
            needs: TASK,
        }],
        lost: "processes that never execute a program; parents are then read from /proc",
    },
    Probe {
        kind: RecordKind::Script,
        candidates: &[
            Candidate {
                backend: Backend::Fentry,
                parts: &[part(
                    &["script_fe_l", "script_fe_b"],
                    &[Attach::Fentry("security_bprm_check")],
                )],
                lost: "",
                needs: &[Field::BprmFile, Field::BprmBuf],
            },
            Candidate {
                backend: Backend::Kprobe,
                parts: &[part(
                    &["script_kp_l", "script_kp_b"],
                    &[Attach::Kprobe("security_bprm_check")],
                )],
                lost: "",
                needs: &[Field::BprmFile, Field::BprmBuf],
            },
        ],
        lost: "identity and hash of executed scripts; their path is in the exec event",
    },
    Probe {
        kind: RecordKind::FileCreate,
        candidates: &[
            Candidate {
                backend: Backend::Fentry,
                parts: &[
                    optional(
                        &["dinst_fe_l", "dinst_fe_b"],
                        &[Attach::Fentry("security_d_instantiate")],
                        "directories, symbolic and hard links, device files, FIFOs, unix sockets, and regular files made by mknod",
                    ),
                    optional(
                        &["vcreate_fe"],
                        &[Attach::Fentry("vfs_create")],
                        "regular files made by mknod",
                    ),
                    optional(
                        &["mknod_fe"],
                        &[Attach::Fentry("security_path_mknod")],
                        "device files, FIFOs, unix sockets, and regular files made by mknod",
                    ),
                    optional(
                        &["mkdir_fe"],
                        &[Attach::Fentry("security_path_mkdir")],
                        "directories",
                    ),
                    optional(
                        &["symlink_fe"],
                        &[Attach::Fentry("security_path_symlink")],
                        "symbolic links",
                    ),
                    optional(
                        &["link_fe"],
                        &[Attach::Fentry("security_path_link")],
                        "hard links",
                    ),
                    part(
                        &["fopen_fe_l", "fopen_fe_b"],
                        &[Attach::Fentry("security_file_open")],
                    ),
                ],
                lost: "",
                needs: FILE,
            },
            Candidate {
                backend: Backend::Kprobe,
                parts: &[
                    optional(
                        &["dinst_kp_l", "dinst_kp_b"],
                        &[Attach::Kprobe("security_d_instantiate")],
                        "directories, symbolic and hard links, device files, FIFOs, unix sockets, and regular files made by mknod",
                    ),
                    optional(
                        &["vcreate_kp"],
                        &[Attach::Kprobe("vfs_create")],
                        "regular files made by mknod",
                    ),
                    optional(
                        &["mknod_kp"],
                        &[Attach::Kprobe("security_path_mknod")],
                        "device files, FIFOs, unix sockets, and regular files made by mknod",
                    ),
                    optional(
                        &["mkdir_kp"],
                        &[Attach::Kprobe("security_path_mkdir")],
                        "directories",
                    ),
                    optional(
                        &["symlink_kp"],
                        &[Attach::Kprobe("security_path_symlink")],
                        "symbolic links",
                    ),
                    optional(
                        &["link_kp"],
                        &[Attach::Kprobe("security_path_link")],
                        "hard links",
                    ),
                    part(
                        &["fopen_kp_l", "fopen_kp_b"],
                        &[Attach::Kprobe("security_file_open")],
                    ),
                ],
                lost: "",
                needs: FILE,
            },
            Candidate {
                backend: Backend::SyscallExit,
                parts: &[SYSCALL_EXIT],
                lost: "files made by mknod, mkdir, symlink, link and io_uring, and files moved into place",
                needs: FDS,
            },
        ],
        lost: "every created file",
    },
    Probe {
        kind: RecordKind::Connect,
        candidates: &[
            Candidate {
                backend: Backend::Fentry,
                parts: &[
                    TCP_STATE,
                    part(&["conn_tcp_fx"], &[Attach::Fexit("inet_stream_connect")]),
                    part(&["conn_dgr_fx"], &[Attach::Fexit("inet_dgram_connect")]),
                    optional(
                        &["conn_us_fx"],
                        &[Attach::Fexit("unix_stream_connect")],
                        "connected unix stream sockets",
                    ),
                    optional(
                        &["conn_ud_fx"],
                        &[Attach::Fexit("unix_dgram_connect")],
                        "connected unix datagram sockets",
                    ),
                    part(
                        &["conn_in_fe"],
                        &[Attach::Fentry("security_socket_connect")],
                    ),
                ],
                lost: "",
                needs: SOCKET,
            },
            Candidate {
                backend: Backend::Kprobe,
                parts: &[
                    TCP_STATE,
                    part(
                        &["conn_tcp_rp"],
                        &[Attach::Kretprobe("inet_stream_connect")],
                    ),
                    part(&["conn_dgr_rp"], &[Attach::Kretprobe("inet_dgram_connect")]),
                    optional(
                        &["conn_us_rp"],
                        &[Attach::Kretprobe("unix_stream_connect")],
                        "connected unix stream sockets",
                    ),
                    optional(
                        &["conn_ud_rp"],
                        &[Attach::Kretprobe("unix_dgram_connect")],
                        "connected unix datagram sockets",
                    ),
                    part(
                        &["conn_in_kp"],
                        &[Attach::Kprobe("security_socket_connect")],
                    ),
                ],
                lost: "",
                needs: SOCKET,
            },
            Candidate {
                backend: Backend::SyscallExit,
                parts: &[TCP_STATE, SYSCALL_EXIT],
                lost: "the remote address of failed attempts other than TCP's, and connects by io_uring other than TCP's",
                needs: SOCKET,
            },
        ],
        lost: "every connection",
    },
    Probe {
        kind: RecordKind::ModuleLoad,
        candidates: &[
            Candidate {
                backend: Backend::Fentry,
                parts: &[
                    part(&["module_tp"], &[Attach::Tracepoint("module_load")]),
                    part(
                        &["module_fx_l", "module_fx_b"],
                        &[Attach::Fexit("load_module")],
                    ),
                    optional(
                        &["loaddata_fe"],
                        &[Attach::Fentry("security_kernel_load_data")],
                        "the mark of modules that are loaded from memory",
                    ),
                    part(
                        &["readfile_fe"],
                        &[Attach::Fentry("security_kernel_read_file")],
                    ),
                ],
                lost: "",
                needs: MODULE,
            },
            Candidate {
                backend: Backend::Kprobe,
                parts: &[
                    part(&["module_tp"], &[Attach::Tracepoint("module_load")]),
                    part(
                        &["module_rp_l", "module_rp_b"],
                        &[Attach::Kretprobe("load_module")],
                    ),
                    optional(
                        &["loaddata_kp"],
                        &[Attach::Kprobe("security_kernel_load_data")],
                        "the mark of modules that are loaded from memory",
                    ),
                    part(
                        &["readfile_kp"],
                        &[Attach::Kprobe("security_kernel_read_file")],
                    ),
                ],
                lost: "",
                needs: MODULE,
            },
            Candidate {
                backend: Backend::SyscallExit,
                parts: &[
                    part(&["module_tp"], &[Attach::Tracepoint("module_load")]),
                    SYSCALL_EXIT,
                ],
                lost: "the path and hash of modules whose descriptor is closed at once",
                needs: MODULE,
            },
        ],
        lost: "loaded kernel modules",
    },
];

/// The row of `kind`.
#[must_use]
pub fn of(kind: RecordKind) -> Option<&'static Probe> {
    PROBES.iter().find(|probe| probe.kind == kind)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_kind_of_record_has_one_row() {
        let kinds: Vec<_> = PROBES.iter().map(|probe| probe.kind).collect();
        let distinct: BTreeSet<_> = kinds.iter().collect();
        assert_eq!(distinct.len(), kinds.len());
        assert_eq!(distinct, RecordKind::ALL.iter().collect());
        for kind in RecordKind::ALL {
            assert_eq!(of(*kind).unwrap().kind, *kind);
        }
    }

    #[test]
    fn a_program_is_used_in_one_way_and_has_a_short_name() {
        let mut all: BTreeMap<&str, &[Attach]> = BTreeMap::new();
        for part in PROBES
            .iter()
            .flat_map(|probe| probe.candidates)
            .flat_map(|candidate| candidate.parts)
        {
            assert!(!part.programs.is_empty());
            for program in part.programs {
                // The kernel keeps 15 bytes.
                assert!(program.len() <= 15, "{program}");
                let places = all.entry(program).or_insert(part.places);
                assert_eq!(*places, part.places, "{program}");
            }
        }
    }

    #[test]
    fn attach_points_belong_to_the_backend() {
        for probe in PROBES {
            for candidate in probe.candidates {
                for place in candidate.parts.iter().flat_map(|part| part.places) {
                    let fits = match place {
                        // Tracepoints are part of every backend.
                        Attach::Tracepoint(_) => true,
                        Attach::Fentry(_) | Attach::Fexit(_) => {
                            candidate.backend == Backend::Fentry
                        }
                        Attach::Kprobe(_) | Attach::Kretprobe(_) => {
                            candidate.backend == Backend::Kprobe
                        }
                    };
                    assert!(fits, "{:?} {place}", probe.kind);
                }
            }
        }
    }

    #[test]
    fn tracepoints_are_part_of_every_choice() {
        for choice in [
            BackendChoice::Auto,
            BackendChoice::Fentry,
            BackendChoice::Kprobe,
            BackendChoice::SyscallExit,
        ] {
            assert!(choice.allows(Backend::Tracepoint));
        }
        assert!(!BackendChoice::Kprobe.allows(Backend::Fentry));
        assert!(!BackendChoice::Fentry.allows(Backend::SyscallExit));
        assert!(BackendChoice::Auto.allows(Backend::SyscallExit));
    }
}
