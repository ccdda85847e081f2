//! Capabilities of threads: what is kept, by trial.

use std::fmt;
use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What a thread needs that follows events: `/proc` of others, files of others, leases.
pub const KEPT: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::LEASE);

/// Something that a kernel or a host may want more for, and whether it works without.
pub struct Trial<'t> {
    /// What it may want, the least first.
    pub wants: &'t [CapabilitySet],
    /// What it is about, for the log.
    pub what: String,
    /// Tries it.
    pub works: &'t dyn Fn() -> bool,
}

impl fmt::Debug for Trial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trial")
            .field("wants", &self.wants)
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Kept by the process.
    pub kept: CapabilitySet,
    /// The bounding set, too, has no more than that. Without CAP_SETPCAP it stays as it was.
    pub bounded: bool,
}

/// The names of a set as the manual has them, least number first.
#[must_use]
pub fn names(set: CapabilitySet) -> String {
    let names: Vec<String> = set
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

fn set(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(io::Error::from)
}

/// Drops everything but [`KEPT`] (as far as it is there) and what `trials` turn out to want, from every set of this thread;
/// threads that it starts from then on have no more.
///
/// # Errors
/// capget(2), capset(2), prctl(2).
pub fn drop_to_minimum(trials: &[Trial<'_>]) -> io::Result<Dropped> {
    let had = capabilities(None)?;
    let permitted = had.permitted;
    let mut kept = KEPT & permitted;
    for trial in trials {
        // It sees what it will be like, and can still be helped.
        set(kept, permitted)?;
        if (trial.works)() {
            continue;
        }
        let mut helped = false;
        for wanted in trial.wants.iter().filter(|one| permitted.contains(**one)) {
            set(kept | *wanted, permitted)?;
            helped = (trial.works)();
            if helped {
                kept |= *wanted;
                break;
            }
        }
        if !helped {
            tracing::warn!(
                what = trial.what,
                "does not work with any capability there is"
            );
        }
    }
    let setpcap = permitted & CapabilitySet::SETPCAP;
    set(kept | setpcap, kept | setpcap)?;
    let mut bounded = true;
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last that this kernel has.
            Err(rustix::io::Errno::INVAL) => break,
            Err(_) => bounded = false,
        }
    }
    // Kernels that lack it have nothing ambient.
    let _absent = clear_ambient_capability_set();
    set(kept, kept)?;
    Ok(Dropped { kept, bounded })
}

/// Leaves this thread what both it and `most` have, for good.
///
/// # Errors
/// capget(2), capset(2).
pub fn restrict_thread(most: CapabilitySet) -> io::Result<()> {
    let left = capabilities(None)?.permitted & most;
    set(left, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_named_as_in_the_manual() {
        assert_eq!(names(CapabilitySet::empty()), "none");
        assert_eq!(names(KEPT), "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE CAP_LEASE");
    }

    #[test]
    fn a_thread_alone_gives_up_what_it_has() {
        let before = capabilities(None).unwrap();
        let after = std::thread::spawn(|| {
            restrict_thread(CapabilitySet::LEASE).unwrap();
            capabilities(None).unwrap()
        });
        let after = after.join().unwrap();
        let left = before.permitted & CapabilitySet::LEASE;
        assert_eq!((after.effective, after.permitted), (left, left));
        assert_eq!(after.inheritable, CapabilitySet::empty());
        // This one still has its own.
        assert_eq!(capabilities(None).unwrap(), before);
    }

    #[test]
    fn what_a_trial_wants_is_kept_and_nothing_else() {
        let outcome = std::thread::spawn(|| {
            let had = capabilities(None).unwrap().permitted;
            let wanted = CapabilitySet::DAC_OVERRIDE;
            let has = || capabilities(None).unwrap().effective.contains(wanted);
            let trials = [
                Trial {
                    wants: &[CapabilitySet::NET_ADMIN],
                    what: "what works anyway".to_owned(),
                    works: &|| true,
                },
                Trial {
                    wants: &[CapabilitySet::NET_ADMIN],
                    what: "what nothing helps".to_owned(),
                    works: &|| false,
                },
                Trial {
                    wants: &[CapabilitySet::NET_ADMIN, wanted],
                    what: "what needs one more".to_owned(),
                    works: &has,
                },
            ];
            let dropped = drop_to_minimum(&trials).unwrap();
            (had, dropped, capabilities(None).unwrap())
        });
        let (had, dropped, now) = outcome.join().unwrap();
        let expected = had & (KEPT | CapabilitySet::DAC_OVERRIDE);
        assert_eq!(dropped.kept, expected);
        assert_eq!((now.effective, now.permitted), (expected, expected));
    }
}
