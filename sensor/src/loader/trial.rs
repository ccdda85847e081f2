//! Trying the rows of [`PROBES`], and remembering what the kernel refused.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::maps::MapError;
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, ProgramError};
use nix::libc;
use sensor_common::map::{Settings, feature};
use sensor_common::record::RecordKind;
use zerocopy::IntoBytes as _;

use super::coverage::{Attached, Chosen, Coverage, Degraded, KindCoverage, Refusal};
use crate::kernel::chain;
use crate::kernel::feature::{Features, Finding};
use crate::kernel::layout::Resolution;
use crate::probe::{Attach, Backend, BackendChoice, Candidate, PROBES, Part, Probe};

/// Lines of a verifier's log that are kept.
const VERIFIER_LINES: usize = 4;
/// The kernel's own errno for "not supported", which libc does not know.
const ENOTSUPP: i32 = 524;
/// How the names of programs that use `bpf_loop` end.
const LOOP_SUFFIX: &str = "_l";

/// What the programs are told when each kind of record comes from the given family.
pub(super) fn settings(base: Settings, chosen: &BTreeMap<RecordKind, Backend>) -> Settings {
    let mut settings = base;
    let backend = |kind| chosen.get(&kind).copied();
    let by_return = |kind| matches!(backend(kind), Some(Backend::Fentry | Backend::Kprobe));
    for (bit, set) in [
        (feature::SCRIPT_PROBE, backend(RecordKind::Script).is_some()),
        (
            feature::FILE_CLOSE_PROBE,
            backend(RecordKind::FileClose).is_some(),
        ),
        (
            feature::CONNECT_RETURN_PROBE,
            by_return(RecordKind::Connect),
        ),
        (
            feature::MODULE_RETURN_PROBE,
            by_return(RecordKind::ModuleLoad),
        ),
    ] {
        if set {
            settings.features |= bit;
        }
    }
    for (kind, backend) in chosen {
        if *backend == Backend::SyscallExit {
            settings.syscall_exit_kinds |= 1 << kind.slot();
        }
    }
    settings
}

/// What came of trying all rows under some settings.
pub(super) enum Outcome {
    /// The programs were told the truth.
    Settled(Coverage),
    /// They must be told this instead.
    Otherwise(Settings),
}

/// What is known of this kernel, from features and from trials.
pub(super) struct Known<'a> {
    features: &'a Features,
    layout: &'a Resolution,
    /// Refused candidates, by kind and position.
    refused: BTreeMap<(RecordKind, usize), Vec<Refusal>>,
    /// Why trampolines as such are refused.
    trampolines_refused: Option<String>,
}

impl<'a> Known<'a> {
    pub(super) fn new(features: &'a Features, layout: &'a Resolution) -> Self {
        Self {
            features,
            layout,
            refused: BTreeMap::new(),
            trampolines_refused: None,
        }
    }

    /// Why `candidate` need not be tried.
    fn hopeless(&self, kind: RecordKind, candidate: &Candidate) -> Option<Refusal> {
        let reason = match candidate.backend {
            _ if kind == RecordKind::ModuleLoad
                && self.features.modules.available == Some(false) =>
            {
                Some(self.features.modules.reason.clone())
            }
            Backend::Fentry => self.trampolines_refused.clone(),
            Backend::Kprobe if self.features.kprobes.available == Some(false) => {
                Some(self.features.kprobes.reason.clone())
            }
            Backend::Kprobe | Backend::Tracepoint | Backend::SyscallExit => None,
        };
        let reason = reason.or_else(|| {
            let absence = candidate
                .needs
                .iter()
                .find_map(|field| self.layout.absence(*field))?;
            Some(format!("the kernel's types lack what it needs: {absence}"))
        })?;
        Some(Refusal::before_trial(candidate.backend, reason))
    }

    /// The families from which the kinds will come if nothing more is refused.
    pub(super) fn expected(&self, choice: BackendChoice) -> BTreeMap<RecordKind, Backend> {
        PROBES
            .iter()
            .filter_map(|probe| {
                probe
                    .candidates
                    .iter()
                    .enumerate()
                    .find(|(position, candidate)| {
                        choice.allows(candidate.backend)
                            && !self.refused.contains_key(&(probe.kind, *position))
                            && self.hopeless(probe.kind, candidate).is_none()
                    })
                    .map(|(_, candidate)| (probe.kind, candidate.backend))
            })
            .collect()
    }

    pub(super) fn try_all(
        &mut self,
        trial: &mut Trial<'_>,
        choice: BackendChoice,
        base: Settings,
        told: &Settings,
    ) -> Outcome {
        let mut kinds = Vec::with_capacity(PROBES.len());
        for probe in PROBES {
            kinds.push(self.try_probe(trial, choice, probe));
            let truth = settings(base, &self.expected(choice));
            if truth.as_bytes() != told.as_bytes() {
                return Outcome::Otherwise(truth);
            }
        }
        Outcome::Settled(Coverage {
            kinds,
            trampolines_refused: self.trampolines_refused.clone(),
        })
    }

    fn try_probe(
        &mut self,
        trial: &mut Trial<'_>,
        choice: BackendChoice,
        probe: &'static Probe,
    ) -> KindCoverage {
        let mut entry = KindCoverage {
            kind: probe.kind,
            chosen: None,
            refused: Vec::new(),
            degraded: Vec::new(),
            lost: probe.lost,
        };
        for (position, candidate) in probe.candidates.iter().enumerate() {
            if !choice.allows(candidate.backend) {
                continue;
            }
            let place = (probe.kind, position);
            if let Some(refused) = self.refused.get(&place) {
                entry.refused.extend(refused.iter().cloned());
                continue;
            }
            if let Some(refusal) = self.hopeless(probe.kind, candidate) {
                entry.refused.push(refusal);
                continue;
            }
            match trial.try_candidate(candidate) {
                Ok(placed) => {
                    entry.chosen = Some(Chosen {
                        backend: candidate.backend,
                        programs: placed.programs,
                    });
                    entry.refused.extend(placed.refused);
                    entry.degraded = placed.degraded;
                    entry.lost = candidate.lost;
                    break;
                }
                Err(refusals) => {
                    if candidate.backend == Backend::Fentry && self.trampolines_refused.is_none() {
                        self.trampolines_refused = refusals
                            .iter()
                            .find(|r| refuses_trampolines(r))
                            .map(|r| format!("the kernel refuses trampolines ({r})"));
                    }
                    entry.refused.extend(refusals.iter().cloned());
                    self.refused.insert(place, refusals);
                }
            }
        }
        entry
    }
}

/// Whether a refusal is of trampolines as such and not of one program or function: EPERM before the verifier
/// said a word, or "not supported" (arm64 before 6.4, kernels without dynamic ftrace).
fn refuses_trampolines(refusal: &Refusal) -> bool {
    match refusal.errno {
        Some(libc::EPERM) => refusal.verifier.is_empty(),
        Some(ENOTSUPP | libc::EOPNOTSUPP) => true,
        Some(_) | None => false,
    }
}

/// One loaded object while its programs are tried.
pub(super) struct Trial<'a> {
    pub(super) ebpf: Ebpf,
    types: &'a aya::Btf,
    /// Whether `bpf_loop` is there: what needs it need not be verified, twice, to be refused.
    loops: &'a Finding,
    attached: BTreeMap<&'static str, Attached>,
}

/// A candidate that works: its programs, parts that do not, and alternatives that were refused on the way.
struct Placed {
    programs: Vec<Attached>,
    degraded: Vec<Degraded>,
    refused: Vec<Refusal>,
}

impl<'a> Trial<'a> {
    pub(super) fn new(ebpf: Ebpf, types: &'a aya::Btf, loops: &'a Finding) -> Self {
        Self {
            ebpf,
            types,
            loops,
            attached: BTreeMap::new(),
        }
    }

    /// Attaches all parts of a candidate, or none.
    fn try_candidate(&mut self, candidate: &Candidate) -> Result<Placed, Vec<Refusal>> {
        let mut programs = Vec::with_capacity(candidate.parts.len());
        let mut fresh: Vec<Attached> = Vec::new();
        let mut degraded = Vec::new();
        let mut passed_over = Vec::new();
        for part in candidate.parts {
            match self.place(candidate.backend, part) {
                Ok((attached, refused)) => {
                    passed_over.extend(refused);
                    programs.push(attached);
                    if self.attached.insert(attached.program, attached).is_none() {
                        fresh.push(attached);
                    }
                }
                Err(refused) => match part.optional {
                    Some(lost) => degraded.push(Degraded { lost, refused }),
                    None => {
                        for attached in fresh.into_iter().rev() {
                            unload(&mut self.ebpf, attached);
                            self.attached.remove(attached.program);
                        }
                        return Err(refused);
                    }
                },
            }
        }
        Ok(Placed {
            programs,
            degraded,
            refused: passed_over,
        })
    }

    /// Attaches the first program of a part that works; one that is attached already will do.
    fn place(
        &mut self,
        backend: Backend,
        part: &Part,
    ) -> Result<(Attached, Vec<Refusal>), Vec<Refusal>> {
        if let Some(attached) = part
            .programs
            .iter()
            .find_map(|program| self.attached.get(program))
        {
            return Ok((*attached, Vec::new()));
        }
        let mut refusals = Vec::new();
        for program in part.programs {
            if program.ends_with(LOOP_SUFFIX) && self.loops.available == Some(false) {
                refusals.push(Refusal {
                    program: Some(program),
                    hook: part.places.first().map(ToString::to_string),
                    ..Refusal::before_trial(backend, format!("bpf_loop: {}", self.loops.reason))
                });
                continue;
            }
            for attach in part.places {
                let attached = Attached {
                    program,
                    attach: *attach,
                };
                match attach_one(&mut self.ebpf, self.types, attached) {
                    Ok(()) => return Ok((attached, refusals)),
                    Err(error) => {
                        let refusal = refusal(backend, attached, &error);
                        tracing::debug!(%refusal, "refused");
                        unload(&mut self.ebpf, attached);
                        refusals.push(refusal);
                    }
                }
            }
        }
        Err(refusals)
    }
}

/// Why a program is not attached.
#[derive(Debug, thiserror::Error)]
enum AttachError {
    #[error("the eBPF object has no such program")]
    NoProgram,
    #[error("loading failed")]
    Load(#[source] ProgramError),
    #[error("attaching failed")]
    Attach(#[source] ProgramError),
}

fn attach_one(ebpf: &mut Ebpf, types: &aya::Btf, what: Attached) -> Result<(), AttachError> {
    use AttachError::{Attach as AttachFailed, Load};
    let program = ebpf
        .program_mut(what.program)
        .ok_or(AttachError::NoProgram)?;
    match what.attach {
        Attach::Tracepoint(name) => {
            let program: &mut BtfTracePoint = program.try_into().map_err(Load)?;
            program.load(name, types).map_err(Load)?;
            program.attach().map_err(AttachFailed)?;
        }
        Attach::Fentry(name) => {
            let program: &mut FEntry = program.try_into().map_err(Load)?;
            program.load(name, types).map_err(Load)?;
            program.attach().map_err(AttachFailed)?;
        }
        Attach::Fexit(name) => {
            let program: &mut FExit = program.try_into().map_err(Load)?;
            program.load(name, types).map_err(Load)?;
            program.attach().map_err(AttachFailed)?;
        }
        Attach::Kprobe(name) | Attach::Kretprobe(name) => {
            let program: &mut KProbe = program.try_into().map_err(Load)?;
            program.load().map_err(Load)?;
            program.attach(name, 0).map_err(AttachFailed)?;
        }
    }
    Ok(())
}

/// Detaches and unloads; a program that is not loaded stays so.
pub(super) fn unload(ebpf: &mut Ebpf, what: Attached) {
    let Some(program) = ebpf.program_mut(what.program) else {
        return;
    };
    let unloaded = match what.attach {
        Attach::Tracepoint(_) => {
            <&mut BtfTracePoint>::try_from(program).and_then(BtfTracePoint::unload)
        }
        Attach::Fentry(_) => <&mut FEntry>::try_from(program).and_then(FEntry::unload),
        Attach::Fexit(_) => <&mut FExit>::try_from(program).and_then(FExit::unload),
        Attach::Kprobe(_) | Attach::Kretprobe(_) => {
            <&mut KProbe>::try_from(program).and_then(KProbe::unload)
        }
    };
    match unloaded {
        Ok(()) | Err(ProgramError::NotLoaded) => {}
        Err(error) => tracing::warn!(program = what.program, %error, "unloading failed"),
    }
}

fn refusal(backend: Backend, what: Attached, error: &AttachError) -> Refusal {
    let (reason, verifier) = match error {
        AttachError::Load(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => {
            let log = verifier_log.to_string();
            tracing::debug!(program = what.program, %log, "verifier");
            (
                format!("loading failed: {}", describe(io_error)),
                last_lines(&log),
            )
        }
        AttachError::NoProgram | AttachError::Load(_) | AttachError::Attach(_) => {
            let text = match errno(error) {
                // The kernel's own number, which the system library prints as "Unknown error 524".
                Some(ENOTSUPP) => format!("{error}: ENOTSUPP: not supported by the kernel"),
                Some(_) | None => chain(error),
            };
            (text, Vec::new())
        }
    };
    Refusal {
        backend,
        program: Some(what.program),
        hook: Some(what.attach.to_string()),
        reason,
        errno: errno(error),
        verifier,
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(ENOTSUPP) => "ENOTSUPP: not supported by the kernel".to_owned(),
        Some(number) => nix::errno::Errno::from_raw(number).to_string(),
        None => error.to_string(),
    }
}

/// The errno at the bottom of a chain of errors.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut current = Some(error);
    while let Some(error) = current {
        // aya's transparent variants hide the error that they hold from the chain.
        let io = match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::IOError(io)) => Some(io),
            Some(_) | None => match error.downcast_ref::<MapError>() {
                Some(MapError::IoError(io)) => Some(io),
                Some(_) | None => error.downcast_ref::<io::Error>(),
            },
        };
        if let Some(number) = io.and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        current = error.source();
    }
    None
}

/// The end of a verifier's log without its statistics.
fn last_lines(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .filter(|line| {
            ![
                "processed ",
                "verification time ",
                "stack depth ",
                "subprog ",
            ]
            .iter()
            .any(|statistic| line.starts_with(statistic))
        })
        .collect();
    let from = lines.len().saturating_sub(VERIFIER_LINES);
    lines
        .get(from..)
        .unwrap_or_default()
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kernel::feature::{Capabilities, Lockdown};
    use crate::kernel::layout::Absence;

    pub(in crate::loader) fn features(kprobes: Option<bool>) -> Features {
        let finding = |available| Finding {
            available,
            reason: "tried".to_owned(),
        };
        Features {
            release: "6.1.0".to_owned(),
            machine: "x86_64".to_owned(),
            btf: finding(Some(true)),
            task_btf: finding(Some(true)),
            bpf_loop: finding(Some(true)),
            kprobes: finding(kprobes),
            lockdown: Lockdown::None,
            lsm: Ok(Vec::new()),
            capabilities: Capabilities {
                effective: u64::MAX,
            },
            cgroup2: None,
            modules: finding(Some(true)),
        }
    }

    /// Every field there, at offset 0.
    fn everything() -> Resolution {
        let mut resolution = Resolution::absent(&Absence::NoTypes);
        for (field, outcome) in &mut resolution.report {
            *outcome = Ok(crate::kernel::layout::Resolved {
                value: 0,
                path: "any",
            });
            resolution.layout.values[*field as usize] = 0;
        }
        resolution
    }

    fn told(known: &Known<'_>, choice: BackendChoice) -> Settings {
        settings(Settings::default(), &known.expected(choice))
    }

    #[test]
    fn programs_are_told_what_the_expected_hooks_need() {
        let (features, layout) = (features(Some(true)), everything());
        let known = Known::new(&features, &layout);
        let best = told(&known, BackendChoice::Auto);
        assert_eq!(best.syscall_exit_kinds, 0);
        assert_eq!(
            best.features,
            feature::SCRIPT_PROBE
                | feature::FILE_CLOSE_PROBE
                | feature::CONNECT_RETURN_PROBE
                | feature::MODULE_RETURN_PROBE
        );
        let last = told(&known, BackendChoice::SyscallExit);
        assert_eq!(last.features, 0);
        let bit = |kind: RecordKind| 1 << kind.slot();
        assert_eq!(
            last.syscall_exit_kinds,
            bit(RecordKind::FileCreate) | bit(RecordKind::Connect) | bit(RecordKind::ModuleLoad)
        );
    }

    #[test]
    fn refused_trampolines_and_missing_kprobes_leave_syscall_exit() {
        let (features, layout) = (features(Some(false)), everything());
        let mut known = Known::new(&features, &layout);
        known.trampolines_refused = Some("EPERM".to_owned());
        let expected = known.expected(BackendChoice::Auto);
        assert_eq!(expected.get(&RecordKind::FileClose), None);
        assert_eq!(expected.get(&RecordKind::Script), None);
        assert_eq!(
            expected.get(&RecordKind::Connect),
            Some(&Backend::SyscallExit)
        );
        assert_eq!(expected.get(&RecordKind::Exec), Some(&Backend::Tracepoint));
    }

    #[test]
    fn a_candidate_without_its_fields_is_refused_with_the_reason() {
        let features = features(Some(true));
        let layout = Resolution::absent(&Absence::NoType("task_struct"));
        let known = Known::new(&features, &layout);
        assert!(known.expected(BackendChoice::Auto).is_empty());
        let refusal = known
            .hopeless(PROBES[0].kind, &PROBES[0].candidates[0])
            .unwrap()
            .to_string();
        assert!(refusal.contains("no type task_struct"), "{refusal}");
    }

    #[test]
    fn only_general_refusals_count_against_trampolines() {
        let refusal = |errno, verifier: &[&str]| Refusal {
            errno,
            verifier: verifier.iter().map(|line| (*line).to_owned()).collect(),
            ..Refusal::before_trial(Backend::Fentry, "")
        };
        assert!(refuses_trampolines(&refusal(Some(libc::EPERM), &[])));
        assert!(!refuses_trampolines(&refusal(
            Some(libc::EPERM),
            &["R1 !read_ok"]
        )));
        assert!(refuses_trampolines(&refusal(Some(ENOTSUPP), &[])));
        assert!(!refuses_trampolines(&refusal(Some(libc::EINVAL), &[])));
        assert!(!refuses_trampolines(&refusal(None, &[])));
    }

    #[test]
    fn the_last_lines_of_the_verifier_are_kept() {
        let log = "0: r1\n1: r2\n2: r3\n3: r4\nR0 invalid mem access\n\nprocessed 5 insns (limit 1000000)\nsubprog 0 (exec_b) main insns_self 5 insns_total 5 stack 0\n";
        assert_eq!(
            last_lines(log),
            ["1: r2", "2: r3", "3: r4", "R0 invalid mem access"]
        );
        assert!(last_lines("").is_empty());
    }

    #[test]
    fn the_errno_is_found_at_the_bottom() {
        let error = AttachError::Load(ProgramError::IOError(io::Error::from_raw_os_error(
            libc::EBUSY,
        )));
        assert_eq!(errno(&error), Some(libc::EBUSY));
        let refused = refusal(
            Backend::Fentry,
            Attached {
                program: "fput_fe",
                attach: Attach::Fentry("__fput"),
            },
            &error,
        );
        assert!(
            refused
                .to_string()
                .starts_with("fput_fe at fentry/__fput: ")
        );
        assert_eq!(refused.errno, Some(libc::EBUSY));
        assert_eq!(errno(&AttachError::NoProgram), None);
        assert!(describe(&io::Error::from_raw_os_error(ENOTSUPP)).contains("ENOTSUPP"));
    }
}
