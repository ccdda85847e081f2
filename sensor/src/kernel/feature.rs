//! What this kernel and this process can do, found out by trying, never from a version number.
//!
//! [`Features::probe`] is called once, at start; the value is handed to whoever needs it. What only the loading of
//! the real programs can tell (trampolines, `bpf_loop`) is in [`crate::loader::Coverage`].

use std::fmt;
use std::path::{Path, PathBuf};

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use serde::Serialize;

use super::btf;
use crate::procfs::{Proc, cgroup2_mount};

/// Most bytes read of a small file of sysfs or securityfs.
const SMALL_FILE_BYTES: usize = 64 << 10;

/// Whether something is there, and how we know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `None`: it could not be found out.
    pub available: Option<bool>,
    /// What was tried and what came of it; a short clause.
    pub reason: String,
}

impl Finding {
    fn yes(reason: impl Into<String>) -> Self {
        Self {
            available: Some(true),
            reason: reason.into(),
        }
    }

    fn no(reason: impl Into<String>) -> Self {
        Self {
            available: Some(false),
            reason: reason.into(),
        }
    }

    fn unknown(reason: impl Into<String>) -> Self {
        Self {
            available: None,
            reason: reason.into(),
        }
    }

    /// Whether it is there for certain.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.available == Some(true)
    }
}

/// State of the lockdown security module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// Off.
    None,
    /// Nothing that the sensor does is refused.
    Integrity,
    /// Kernel memory may not be read: `bpf_probe_read_kernel` and kprobes are refused.
    Confidentiality,
    /// It could not be read; why.
    Unknown(String),
}

impl fmt::Display for Lockdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Integrity => f.write_str("integrity"),
            Self::Confidentiality => f.write_str("confidentiality"),
            Self::Unknown(reason) => write!(f, "unknown ({reason})"),
        }
    }
}

/// The Linux capabilities that the sensor can make use of, by their bit (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// `CAP_DAC_READ_SEARCH`: reading executables and files of any owner.
    DacReadSearch = 2,
    /// `CAP_SYS_PTRACE`: `/proc/PID/exe` and the like of any process.
    SysPtrace = 19,
    /// `CAP_SYS_ADMIN`: everything; kprobes where `perf_event_paranoid` is above 2.
    SysAdmin = 21,
    /// `CAP_SYS_RESOURCE`: BPF memory before Linux 5.11.
    SysResource = 24,
    /// `CAP_LEASE`: leases on files of others.
    Lease = 28,
    /// `CAP_PERFMON`: tracing programs.
    Perfmon = 38,
    /// `CAP_BPF`: bpf(2).
    Bpf = 39,
}

impl Capability {
    /// All that [`Capability`] names.
    pub const ALL: [Self; 7] = [
        Self::Bpf,
        Self::Perfmon,
        Self::SysAdmin,
        Self::SysPtrace,
        Self::DacReadSearch,
        Self::SysResource,
        Self::Lease,
    ];

    /// Its kernel name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Lease => "CAP_LEASE",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// What is lost without it.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::DacReadSearch => "hashes of files that others may not read",
            Self::SysPtrace => "executables, roots and environments of other users' processes",
            Self::SysAdmin => "kprobes where perf_event_paranoid is above 2",
            Self::SysResource => "BPF memory before Linux 5.11 (or LimitMEMLOCK=infinity)",
            Self::Lease => "noticing the last close of created files without a close probe",
            Self::Perfmon => "tracing programs",
            Self::Bpf => "bpf(2)",
        }
    }
}

/// Effective capabilities of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// `CapEff`, a bit per capability.
    pub effective: u64,
}

impl Capabilities {
    /// Whether `capability` is effective.
    #[must_use]
    pub const fn has(self, capability: Capability) -> bool {
        self.effective >> (capability as u32) & 1 == 1
    }

    /// What is missing for loading and attaching tracing programs; empty when nothing is.
    #[must_use]
    pub fn missing_for_load(self) -> Vec<Capability> {
        if self.has(Capability::SysAdmin) {
            return Vec::new();
        }
        [Capability::Bpf, Capability::Perfmon]
            .into_iter()
            .filter(|capability| !self.has(*capability))
            .collect()
    }
}

/// Everything that is found out before any program is loaded.
#[derive(Clone, Debug, Serialize)]
pub struct Features {
    /// `uname -r`.
    pub release: String,
    /// `uname -m`.
    pub machine: String,
    /// The kernel shows its types.
    pub btf: Finding,
    /// The helper `bpf_get_current_task_btf`.
    pub task_btf: Finding,
    /// The helper `bpf_loop`.
    pub bpf_loop: Finding,
    /// perf's kprobes.
    pub kprobes: Finding,
    /// Lockdown.
    pub lockdown: Lockdown,
    /// Active security modules in their order, or why they cannot be read.
    pub lsm: Result<Vec<String>, String>,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// Where version 2 of the cgroups is mounted.
    pub cgroup2: Option<PathBuf>,
    /// The kernel can load modules.
    pub modules: Finding,
}

impl Features {
    /// Finds everything out. What cannot be found out says so; nothing here fails.
    #[must_use]
    pub fn probe(proc: &Proc) -> Self {
        let name = rustix::system::uname();
        let own = proc.own();
        let capabilities = Capabilities {
            effective: own
                .as_ref()
                .ok()
                .and_then(|own| own.status().ok())
                .and_then(|status| status.capabilities)
                .map_or(0, |sets| sets.effective),
        };
        Self {
            release: name.release().to_string_lossy().into_owned(),
            machine: name.machine().to_string_lossy().into_owned(),
            btf: types(Path::new(btf::VMLINUX)),
            task_btf: helper(capabilities, BpfHelper::BPF_FUNC_get_current_task_btf),
            bpf_loop: helper(capabilities, BpfHelper::BPF_FUNC_loop),
            kprobes: kprobes(Path::new("/sys/bus/event_source/devices/kprobe/type")),
            lockdown: lockdown(small_file(Path::new("/sys/kernel/security/lockdown"))),
            lsm: lsm(small_file(Path::new("/sys/kernel/security/lsm"))),
            capabilities,
            cgroup2: own.ok().and_then(|own| cgroup2_mount(&own).ok().flatten()),
            modules: modules(Path::new("/sys/module"), Path::new("/proc/modules")),
        }
    }

    /// Whether the `bpf` security module is active: programs of type LSM attach without it and never run.
    #[must_use]
    pub fn bpf_lsm(&self) -> Option<bool> {
        let list = self.lsm.as_ref().ok()?;
        Some(list.iter().any(|name| name == "bpf"))
    }
}

fn types(path: &Path) -> Finding {
    match std::fs::metadata(path) {
        Ok(_) => Finding::yes(path.display().to_string()),
        Err(error) => Finding::no(format!(
            "{}: {error}; the kernel is built without CONFIG_DEBUG_INFO_BTF",
            path.display()
        )),
    }
}

fn helper(capabilities: Capabilities, helper: BpfHelper) -> Finding {
    let missing = capabilities.missing_for_load();
    if !missing.is_empty() {
        let names: Vec<_> = missing.into_iter().map(Capability::name).collect();
        return Finding::unknown(format!("not tried without {}", names.join(" and ")));
    }
    match is_helper_supported(ProgramType::RawTracePoint, helper) {
        Ok(true) => Finding::yes("a trial program may call it"),
        Ok(false) => Finding::no("the verifier does not know it"),
        Err(error) => Finding::unknown(super::chain(&error)),
    }
}

fn kprobes(path: &Path) -> Finding {
    match std::fs::metadata(path) {
        Ok(_) => Finding::yes("perf has a kprobe event source"),
        Err(_) if !path.ancestors().nth(2).is_some_and(Path::exists) => {
            Finding::unknown("sysfs is not mounted")
        }
        Err(_) => Finding::no("perf has no kprobe event source (CONFIG_KPROBES is off)"),
    }
}

fn small_file(path: &Path) -> Result<String, String> {
    let reason = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            format!(
                "{} does not exist: securityfs is not mounted",
                path.display()
            )
        } else {
            format!("{}: {error}", path.display())
        }
    };
    let bytes = super::read_capped(path, SMALL_FILE_BYTES).map_err(reason)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The state in brackets of `none [integrity] confidentiality`.
fn lockdown(text: Result<String, String>) -> Lockdown {
    let text = match text {
        Ok(text) => text,
        Err(reason) => return Lockdown::Unknown(reason),
    };
    let active = text
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match active {
        Some("none") => Lockdown::None,
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        Some(_) | None => Lockdown::Unknown(format!("\"{text}\" names no state that we know")),
    }
}

fn lsm(text: Result<String, String>) -> Result<Vec<String>, String> {
    Ok(text?
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

fn modules(sysfs: &Path, list: &Path) -> Finding {
    if list.exists() {
        Finding::yes("the kernel lists its modules")
    } else if sysfs.exists() {
        Finding::no("the kernel has no list of modules (CONFIG_MODULES is off)")
    } else {
        Finding::unknown("sysfs is not mounted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lockdown_is_the_word_in_brackets() {
        let of = |text: &str| lockdown(Ok(text.to_owned()));
        assert_eq!(of("[none] integrity confidentiality"), Lockdown::None);
        assert_eq!(of("none [integrity] confidentiality"), Lockdown::Integrity);
        assert_eq!(
            of("none integrity [confidentiality]"),
            Lockdown::Confidentiality
        );
        assert!(matches!(of("[paranoia]"), Lockdown::Unknown(_)));
        assert_eq!(
            lockdown(Err("why".to_owned())),
            Lockdown::Unknown("why".to_owned())
        );
    }

    #[test]
    fn security_modules_keep_their_order() {
        assert_eq!(
            lsm(Ok("capability,yama,bpf".to_owned())).unwrap(),
            ["capability", "yama", "bpf"]
        );
        let missing = small_file(Path::new("/nonexistent/lsm"));
        assert!(missing.unwrap_err().contains("securityfs is not mounted"));
    }

    #[test]
    fn loading_needs_two_capabilities_or_one() {
        let bit = |capability: Capability| 1_u64 << (capability as u32);
        let missing = |effective| Capabilities { effective }.missing_for_load();
        assert_eq!(missing(0), [Capability::Bpf, Capability::Perfmon]);
        assert_eq!(missing(bit(Capability::Bpf)), [Capability::Perfmon]);
        assert_eq!(missing(bit(Capability::SysAdmin)), []);
        assert_eq!(missing(bit(Capability::Bpf) | bit(Capability::Perfmon)), []);
        let finding = helper(Capabilities { effective: 0 }, BpfHelper::BPF_FUNC_loop);
        assert_eq!(finding.available, None);
        assert!(finding.reason.contains("CAP_BPF and CAP_PERFMON"));
    }

    #[test]
    fn what_sysfs_lacks_is_told_from_no_sysfs() {
        let folder = tempfile::tempdir().unwrap();
        let type_file = folder.path().join("devices/kprobe/type");
        assert_eq!(kprobes(&type_file).available, None);
        std::fs::create_dir_all(type_file.parent().unwrap().parent().unwrap()).unwrap();
        assert_eq!(kprobes(&type_file).available, Some(false));
        std::fs::create_dir_all(type_file.parent().unwrap()).unwrap();
        std::fs::write(&type_file, "6\n").unwrap();
        assert_eq!(kprobes(&type_file).available, Some(true));

        let list = folder.path().join("modules");
        assert_eq!(modules(&folder.path().join("no"), &list).available, None);
        assert_eq!(modules(folder.path(), &list).available, Some(false));
        std::fs::write(&list, "").unwrap();
        assert_eq!(modules(folder.path(), &list).available, Some(true));
    }

    #[test]
    fn this_machine_is_described() {
        let features = Features::probe(&Proc::default());
        assert!(features.release.contains('.'));
        assert_eq!(
            features.btf.is_available(),
            Path::new(btf::VMLINUX).exists()
        );
        assert!(
            serde_json::to_string(&features)
                .unwrap()
                .contains("release")
        );
    }
}
