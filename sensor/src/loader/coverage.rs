//! What the loader chose, what the kernel refused and why: the account that `sensor doctor` shows and packets carry.

use std::fmt;

use sensor_common::record::RecordKind;
use serde::Serialize;

use crate::probe::{Attach, Backend};

/// Why a program or a whole candidate was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The candidate's family.
    pub backend: Backend,
    /// The program; `None` when the candidate was refused before any was tried.
    pub program: Option<&'static str>,
    /// Its hook as `fentry/__fput`.
    pub hook: Option<String>,
    /// Why, with everything that caused it.
    pub reason: String,
    /// errno, where the kernel gave one.
    pub errno: Option<i32>,
    /// The end of the verifier's log.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verifier: Vec<String>,
}

impl Refusal {
    pub(super) fn before_trial(backend: Backend, reason: impl Into<String>) -> Self {
        Self {
            backend,
            program: None,
            hook: None,
            reason: reason.into(),
            errno: None,
            verifier: Vec::new(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.program, &self.hook) {
            (Some(program), Some(hook)) => write!(f, "{program} at {hook}: {}", self.reason)?,
            _ => write!(f, "{}: {}", self.backend, self.reason)?,
        }
        if let Some(last) = self.verifier.last() {
            write!(f, " (verifier: {last})")?;
        }
        Ok(())
    }
}

/// A program that is loaded and attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub program: &'static str,
    /// Where.
    pub attach: Attach,
}

impl Serialize for Attached {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut fields = serializer.serialize_struct("Attached", 2)?;
        fields.serialize_field("program", self.program)?;
        fields.serialize_field("hook", &self.attach.to_string())?;
        fields.end()
    }
}

/// How one kind of record is got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// The family.
    pub backend: Backend,
    /// Its programs.
    pub programs: Vec<Attached>,
}

/// A part of a candidate that does not work here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Degraded {
    /// What is lost by it.
    pub lost: &'static str,
    /// Why.
    pub refused: Vec<Refusal>,
}

/// What became of one row of [`crate::probe::PROBES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindCoverage {
    /// The kind of record.
    #[serde(serialize_with = "kind_name")]
    pub kind: RecordKind,
    /// The hook; `None`: this kind of record is missing.
    pub chosen: Option<Chosen>,
    /// Candidates and programs that were tried before, in order.
    pub refused: Vec<Refusal>,
    /// Parts of the chosen candidate that do not work.
    pub degraded: Vec<Degraded>,
    /// What the chosen candidate cannot see; empty for nothing.
    pub lost: &'static str,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde's serialize_with passes a reference"
)]
fn kind_name<S: serde::Serializer>(kind: &RecordKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.name())
}

impl KindCoverage {
    /// The name of the hook family, `none` if there is none.
    #[must_use]
    pub fn hook(&self) -> &'static str {
        self.chosen
            .as_ref()
            .map_or("none", |chosen| chosen.backend.name())
    }
}

/// What became of every row, in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// One entry per kind of record.
    pub kinds: Vec<KindCoverage>,
    /// Why trampolines as such are refused here; `None` where they work or were not tried.
    pub trampolines_refused: Option<String>,
}

impl Coverage {
    /// The entry of `kind`; `None` only before anything was tried.
    #[must_use]
    pub fn of(&self, kind: RecordKind) -> Option<&KindCoverage> {
        self.kinds.iter().find(|entry| entry.kind == kind)
    }

    /// The family that `kind` comes from.
    #[must_use]
    pub fn backend(&self, kind: RecordKind) -> Option<Backend> {
        self.of(kind)?.chosen.as_ref().map(|chosen| chosen.backend)
    }

    /// Hook family per kind, on one line.
    #[must_use]
    pub fn brief(&self) -> String {
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|kind| format!("{}={}", kind.kind.name(), kind.hook()))
            .collect();
        kinds.join(" ")
    }

    /// Every attached program once, in the order in which they were attached.
    #[must_use]
    pub fn programs(&self) -> Vec<Attached> {
        let mut programs: Vec<Attached> = Vec::new();
        for chosen in self.kinds.iter().filter_map(|entry| entry.chosen.as_ref()) {
            for attached in &chosen.programs {
                if !programs.contains(attached) {
                    programs.push(*attached);
                }
            }
        }
        programs
    }
}
