//! `sensor doctor`: what works on this host, which hook each kind of record would use, and what to do about the rest.
//!
//! Programs are loaded and attached as `sensor run` would, but watch nothing, and are gone before the answer is printed.
//! Without privilege it says what can be said without.

use std::fmt::Write as _;
use std::path::Path;

use sensor_common::layout::Field;
use sensor_common::record::{Lane, RecordKind};
use serde::Serialize;

use crate::command::Streams;
use crate::config::{self, Sources};
use crate::exit::ExitStatus;
use crate::kernel::btf::Btf;
use crate::kernel::chain;
use crate::kernel::feature::{Capability, Features, Finding, Lockdown};
use crate::kernel::layout::Resolution;
use crate::loader::{self, Coverage, KindCoverage, LoadError, LoadOptions, Watch};
use crate::probe::BackendChoice;
use crate::procfs::Proc;

/// Bytes of each ring while nothing is recorded.
const RING_BYTES: u32 = 4096;

/// The whole answer, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    /// Kernel, types, security, capabilities, cgroups.
    features: Features,
    /// `None`: it could not be tried.
    trampolines: Finding,
    capabilities: Vec<CapabilityLine>,
    layout: LayoutLine,
    /// What the sensor confines itself by.
    confinement: Layers,
    backend: BackendChoice,
    /// Why nothing was loaded.
    error: Option<String>,
    /// A kind that was not tried has no hook and nothing refused.
    kinds: Vec<KindLine>,
    /// What can be done about what does not work.
    advice: Vec<String>,
}

/// What the kernel has of the layers that a running sensor is confined by.
#[derive(Debug, Serialize)]
struct Layers {
    /// Filters of system calls.
    seccomp: Finding,
    /// Landlock, in a version that will do.
    landlock: Finding,
}

impl Layers {
    fn probe() -> Self {
        let finding = |result: Result<&str, String>| Finding {
            available: Some(result.is_ok()),
            reason: result.map_or_else(|why| why, str::to_owned),
        };
        let filters = rustix::thread::secure_computing_mode();
        Self {
            seccomp: finding(
                filters
                    .map(|_mode| "the kernel filters system calls")
                    .map_err(|error| error.to_string()),
            ),
            landlock: finding(
                crate::confine::landlock::available()
                    .map(|()| "it takes rules")
                    .map_err(|error| chain(&error)),
            ),
        }
    }
}

#[derive(Debug, Serialize)]
struct CapabilityLine {
    name: &'static str,
    effective: bool,
    purpose: &'static str,
}

#[derive(Debug, Serialize)]
struct LayoutLine {
    /// How many there are.
    fields: usize,
    /// How many this kernel lacks.
    missing: usize,
    absent: Vec<AbsentLine>,
}

#[derive(Debug, Serialize)]
struct AbsentLine {
    field: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct KindLine {
    /// Name of the family, `none` if nothing works, `not tried`.
    hook: &'static str,
    #[serde(flatten)]
    coverage: KindCoverage,
}

/// Gathers, tries, prints.
pub fn run(json: bool, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let (backend, fault) = match config::load(sources) {
        Ok(loaded) => (loaded.config.backend, false),
        Err(_faults) => (BackendChoice::Auto, true),
    };
    let features = Features::probe(&Proc::default());
    let options = LoadOptions {
        backend,
        watch: Watch::Nothing,
        ring_bytes: [RING_BYTES; Lane::COUNT],
        ..LoadOptions::default()
    };
    let (status, error, coverage) = match loader::load(&features, &options) {
        Ok(loaded) => (ExitStatus::Ok, None, loaded.coverage().clone()),
        Err(error) => {
            let status = error.status();
            let text = chain(&error);
            let coverage = match error {
                LoadError::NothingAttached { coverage, .. }
                | LoadError::LockedDown { coverage } => *coverage,
                LoadError::MissingCapability { .. }
                | LoadError::NoTypes(_)
                | LoadError::TypesNotUnderstood(_)
                | LoadError::Abi { .. }
                | LoadError::Object(_)
                | LoadError::LockedMemory { .. }
                | LoadError::NoMap { .. }
                | LoadError::Table(_)
                | LoadError::NoLogObject { .. }
                | LoadError::Log(_)
                | LoadError::ScopeUnreadable { .. }
                | LoadError::ScopeNotCgroup2 { .. }
                | LoadError::Unsettled { .. } => Coverage::default(),
            };
            (status, Some(text), coverage)
        }
    };
    let mut report = Report::new(features, backend, error, coverage);
    if fault {
        report
            .advice
            .push("the configuration has faults: see `sensor config check`".to_owned());
    }
    let text = if json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => text + "\n",
            Err(error) => {
                streams.complain(&chain(&error));
                return ExitStatus::Internal;
            }
        }
    } else {
        report.table()
    };
    let printed = streams.answer(&text);
    if printed == ExitStatus::Ok {
        status
    } else {
        printed
    }
}

impl Report {
    fn new(
        features: Features,
        backend: BackendChoice,
        error: Option<String>,
        coverage: Coverage,
    ) -> Self {
        let trampolines = trampolines(&coverage, backend);
        let advice = advice(&features, &trampolines, &coverage);
        let tried = !coverage.kinds.is_empty();
        let kinds = RecordKind::ALL
            .iter()
            .map(|kind| match coverage.of(*kind) {
                Some(entry) => KindLine {
                    hook: entry.hook(),
                    coverage: entry.clone(),
                },
                None => KindLine {
                    hook: if tried { "none" } else { "not tried" },
                    coverage: KindCoverage {
                        kind: *kind,
                        chosen: None,
                        refused: Vec::new(),
                        degraded: Vec::new(),
                        lost: "",
                    },
                },
            })
            .collect();
        Self {
            capabilities: Capability::ALL
                .into_iter()
                .map(|capability| CapabilityLine {
                    name: capability.name(),
                    effective: features.capabilities.has(capability),
                    purpose: capability.purpose(),
                })
                .collect(),
            layout: LayoutLine::new(),
            confinement: Layers::probe(),
            trampolines,
            features,
            backend,
            error,
            kinds,
            advice,
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _infallible = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let features = &self.features;
        let mut line = |name: &str, value: String| writeln!(text, "{name:<17} {value}");
        line(
            "kernel",
            format!("{} {}", features.release, features.machine),
        )?;
        line("types (BTF)", finding(&features.btf))?;
        line("kernel layout", self.layout.summary())?;
        line("trampolines", finding(&self.trampolines))?;
        line("kprobes", finding(&features.kprobes))?;
        line("bpf_loop", finding(&features.bpf_loop))?;
        line("typed task", finding(&features.task_btf))?;
        line("modules", finding(&features.modules))?;
        line("lockdown", features.lockdown.to_string())?;
        line(
            "security modules",
            match &features.lsm {
                Ok(names) => names.join(","),
                Err(reason) => format!("unknown ({reason})"),
            },
        )?;
        line(
            "cgroup version 2",
            features
                .cgroup2
                .as_deref()
                .map_or_else(|| "not mounted".to_owned(), |at| at.display().to_string()),
        )?;
        let names = |effective: bool| {
            let names: Vec<_> = self
                .capabilities
                .iter()
                .filter(|line| line.effective == effective)
                .map(|line| line.name)
                .collect();
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(" ")
            }
        };
        line("capabilities", names(true))?;
        line("missing", names(false))?;
        line("seccomp", finding(&self.confinement.seccomp))?;
        line("landlock", finding(&self.confinement.landlock))?;
        if let Some(error) = &self.error {
            line("not loaded", error.clone())?;
        }
        writeln!(text)?;
        writeln!(text, "{:<12} {:<13} not seen", "record", "hook")?;
        for kind in &self.kinds {
            let entry = &kind.coverage;
            let lost = if entry.lost.is_empty() {
                "-"
            } else {
                entry.lost
            };
            writeln!(text, "{:<12} {:<13} {lost}", entry.kind.name(), kind.hook)?;
            for refusal in &entry.refused {
                writeln!(text, "{:13}refused: {refusal}", "")?;
            }
            for degraded in &entry.degraded {
                writeln!(text, "{:13}without {}", "", degraded.lost)?;
                for refusal in &degraded.refused {
                    writeln!(text, "{:15}refused: {refusal}", "")?;
                }
            }
        }
        if !self.advice.is_empty() {
            writeln!(text)?;
            for advice in &self.advice {
                writeln!(text, "-> {advice}")?;
            }
        }
        Ok(())
    }
}

impl LayoutLine {
    fn new() -> Self {
        match Btf::from_kernel() {
            Ok(btf) => {
                let absent: Vec<_> = Resolution::new(&btf)
                    .missing()
                    .map(|(field, absence)| AbsentLine {
                        field: format!("{field:?}"),
                        reason: absence.to_string(),
                    })
                    .collect();
                Self {
                    fields: Field::COUNT,
                    missing: absent.len(),
                    absent,
                }
            }
            Err(error) => Self {
                fields: Field::COUNT,
                missing: Field::COUNT,
                absent: vec![AbsentLine {
                    field: "all".to_owned(),
                    reason: chain(&error),
                }],
            },
        }
    }

    fn summary(&self) -> String {
        let mut text = format!("{} of {} fields missing", self.missing, self.fields);
        for (index, line) in self.absent.iter().enumerate() {
            text.push_str(if index == 0 { ": " } else { ", " });
            text.push_str(&line.reason);
        }
        text
    }
}

fn finding(finding: &Finding) -> String {
    let word = match finding.available {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    format!("{word}: {}", finding.reason)
}

/// Whether fentry and fexit work, as the trial of the real programs showed.
fn trampolines(coverage: &Coverage, backend: BackendChoice) -> Finding {
    use crate::probe::Backend;
    let works = coverage
        .kinds
        .iter()
        .any(|entry| coverage.backend(entry.kind) == Some(Backend::Fentry));
    let (available, reason) = if let Some(reason) = &coverage.trampolines_refused {
        (Some(false), reason.clone())
    } else if works {
        (Some(true), "programs are attached by them".to_owned())
    } else if !backend.allows(Backend::Fentry) {
        (None, "not tried: another backend is configured".to_owned())
    } else {
        (None, "not tried".to_owned())
    };
    Finding { available, reason }
}

fn advice(features: &Features, trampolines: &Finding, coverage: &Coverage) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |text: &str| advice.push(text.to_owned());
    if !features.capabilities.missing_for_load().is_empty() {
        say(
            "run as root, or give the program CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH \
             (setcap cap_bpf,cap_perfmon,cap_sys_ptrace,cap_dac_read_search+ep)",
        );
    } else {
        for capability in [Capability::SysPtrace, Capability::DacReadSearch] {
            if !features.capabilities.has(capability) {
                say(&format!(
                    "grant {}: {}",
                    capability.name(),
                    capability.purpose()
                ));
            }
        }
    }
    if features.btf.available == Some(false) {
        say("boot a kernel with CONFIG_DEBUG_INFO_BTF=y: distributions have it since about 2020");
    }
    if trampolines.available == Some(false) && features.kprobes.available == Some(false) {
        say(
            "for scripts, all ways of creating files and the last close of created files, boot a kernel that allows \
             trampolines (CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS) or has kprobes (CONFIG_KPROBES)",
        );
    }
    let kprobe_denied = coverage
        .kinds
        .iter()
        .flat_map(|entry| &entry.refused)
        .any(|refusal| {
            refusal.backend == crate::probe::Backend::Kprobe
                && refusal.errno == Some(nix::libc::EACCES)
        });
    if kprobe_denied && !features.capabilities.has(Capability::SysAdmin) {
        say("kprobes need CAP_SYS_ADMIN here, or kernel.perf_event_paranoid of 2 or less");
    }
    if features.lockdown == Lockdown::Confidentiality {
        say("lockdown=confidentiality refuses to read kernel memory: lockdown=integrity does not");
    }
    if features.cgroup2.is_none() {
        say(
            "--scope-cgroup needs version 2 of the cgroups: mount -t cgroup2 none /sys/fs/cgroup/unified",
        );
    }
    if !Path::new("/sys/kernel/security/lsm").exists() {
        say("to see lockdown and security modules: mount -t securityfs none /sys/kernel/security");
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::kernel::feature::Capabilities;

    fn features() -> Features {
        let mut features = Features::probe(&Proc::default());
        features.capabilities = Capabilities { effective: 0 };
        features.btf.available = Some(true);
        features.kprobes = Finding {
            available: Some(false),
            reason: "no event source".to_owned(),
        };
        features
    }

    #[test]
    fn without_privilege_it_says_what_is_missing_and_lists_every_kind() {
        let report = Report::new(
            features(),
            BackendChoice::Auto,
            Some("CAP_BPF missing".to_owned()),
            Coverage::default(),
        );
        let text = report.table();
        for kind in RecordKind::ALL {
            assert!(
                text.contains(&format!("{:<12} not tried", kind.name())),
                "{text}"
            );
        }
        assert!(text.contains("not loaded        CAP_BPF missing"), "{text}");
        assert!(text.contains("-> run as root"), "{text}");
    }

    #[test]
    fn refusals_and_what_is_lost_are_in_table_and_json() {
        let refusal = loader::Refusal {
            backend: crate::probe::Backend::Fentry,
            program: Some("fput_fe"),
            hook: Some("fentry/__fput".to_owned()),
            reason: "loading failed: EPERM".to_owned(),
            errno: Some(nix::libc::EPERM),
            verifier: Vec::new(),
        };
        let coverage = Coverage {
            kinds: vec![KindCoverage {
                kind: RecordKind::FileClose,
                chosen: None,
                refused: vec![refusal],
                degraded: Vec::new(),
                lost: "the last close",
            }],
            trampolines_refused: Some("EPERM".to_owned()),
        };
        let report = Report::new(features(), BackendChoice::Auto, None, coverage);
        let text = report.table();
        assert!(text.contains("file_close   none          the last close"));
        assert!(text.contains("refused: fput_fe at fentry/__fput: loading failed: EPERM"));
        assert!(text.contains("CONFIG_KPROBES"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        let close = json["kinds"]
            .as_array()
            .unwrap()
            .iter()
            .find(|kind| kind["kind"] == "file_close")
            .unwrap();
        assert_eq!(close["hook"], "none");
        assert_eq!(close["refused"][0]["errno"], nix::libc::EPERM);
        assert_eq!(json["trampolines"]["available"], false);
    }

    #[test]
    fn each_failure_to_load_has_its_exit_code() {
        let missing = LoadError::MissingCapability {
            missing: vec![Capability::Bpf],
        };
        assert_eq!(missing.status(), ExitStatus::Privilege);
        let abi = LoadError::Abi {
            found: None,
            expected: 1,
        };
        assert_eq!(abi.status(), ExitStatus::Internal);
        let scope = LoadError::ScopeNotCgroup2 {
            path: "/tmp".into(),
        };
        assert_eq!(scope.status(), ExitStatus::Usage);
    }

    #[test]
    fn a_faulty_configuration_is_no_reason_to_say_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sensor.toml");
        std::fs::write(&file, "nonsense = true\n").unwrap();
        let sources = Sources::new(Some(file), Overrides::default());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams {
            out: &mut out,
            err: &mut err,
        };
        run(true, &sources, &mut streams);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let advice = json["advice"].as_array().unwrap();
        assert!(
            advice
                .iter()
                .any(|line| line.as_str().unwrap().contains("config check"))
        );
    }
}
