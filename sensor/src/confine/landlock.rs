//! Landlock for threads that need nothing of other processes.
//!
//! A thread under Landlock may look into `/proc/PID` of processes of its own domain only, whatever its capabilities: who
//! follows processes cannot be confined by it (docs/decisions/0045-confinement.md). Rules are of folders in the sensor's own mount
//! namespace, so reading is left alone altogether: files of containers lie in other ones.

use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    RulesetStatus, Scope,
};

/// What is known here; a kernel that has less does less.
const KNOWN: ABI = ABI::V6;

/// Why a thread is not under Landlock.
#[derive(Debug, thiserror::Error)]
pub enum LandlockError {
    /// The kernel lacks it, or has its first version, which lets no file be renamed into another folder.
    #[error(
        "the kernel has no Landlock that would do (version 2, Linux 5.19, and enabled at boot)"
    )]
    Absent,
    /// A folder that may be written cannot be opened.
    #[error("folder of a rule")]
    Folder(#[source] landlock::PathFdError),
    /// The kernel refuses the rules.
    #[error("rules of Landlock")]
    Rules(#[from] RulesetError),
    /// The rules cannot be copied for a thread.
    #[error("rules of Landlock")]
    Copy(#[source] std::io::Error),
}

/// Rules, made where there was the privilege to open their folders.
#[derive(Debug)]
pub(super) struct Rules(RulesetCreated);

/// Everything that changes a file system or starts a program.
fn changes() -> BitFlags<AccessFs> {
    AccessFs::from_write(KNOWN) | AccessFs::Execute
}

/// The rules without which none are made: files may be renamed into other folders.
fn beginning() -> Result<Ruleset, LandlockError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .map_err(|_error| LandlockError::Absent)
}

/// Whether this kernel takes rules.
///
/// # Errors
/// [`LandlockError::Absent`].
pub fn available() -> Result<(), LandlockError> {
    beginning().map(drop)
}

impl Rules {
    /// Nothing may be changed but below these folders; no TCP port may be bound, nothing outside be signalled, as far as
    /// the kernel can tell.
    pub(super) fn new(folders: &[&Path]) -> Result<Self, LandlockError> {
        let mut rules = beginning()?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(changes())?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(KNOWN))?
            .create()?;
        for folder in folders {
            let folder = PathFd::new(folder).map_err(LandlockError::Folder)?;
            let rule = PathBeneath::new(folder, AccessFs::from_write(KNOWN));
            rules = rules.add_rule(rule)?;
        }
        Ok(Self(rules))
    }

    /// Puts this thread, and those that it starts, under them.
    pub(super) fn restrict_thread(&self) -> Result<(), LandlockError> {
        let rules = self.0.try_clone().map_err(LandlockError::Copy)?;
        match rules.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err(LandlockError::Absent),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }
}
