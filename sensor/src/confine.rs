//! What the sensor may still do once its programs are attached and tested: capabilities, system calls, files.
//!
//! [`Confinement::begin`] is called by the main thread after everything that needs privilege and before any thread of the pipeline
//! is started, so that all of them inherit it. [`Confinement::enter`] is called by a thread at its start and takes from it what its
//! [`Role`] does not need. All threads share their memory: what a role lacks stops mistakes and files or answers made to
//! provoke them, not code of an intruder, who goes on in another thread. What stops that one is what the whole process lacks.
//!
//! A layer that cannot be had is told and left out; it never stops the sensor. Refuses to decide where things are written.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, set_no_new_privs};
use serde::Serialize;

pub mod capability;
pub mod landlock;
pub mod seccomp;

use capability::Trial;
use landlock::Rules;
use seccomp::Filter;

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Empties rings.
    Reader,
    /// Finds and opens files that are hashed.
    HashOpen,
    /// Reads files that are hashed.
    HashRead,
    /// Reads what runtimes write down of their containers.
    Containers,
    /// Writes lines to standard output or a file.
    Output,
    /// Writes the live view to a terminal and reads keys from it; both are open already.
    View,
    /// Makes the spool durable.
    Spool,
    /// Talks to receivers.
    Delivery,
    /// Answers at the control socket.
    Control,
    /// Answers who asks for metrics. Its address is had by and by, at a port or in a folder that may not be there yet: no Landlock.
    Metrics,
}

impl Role {
    /// What a thread of this kind may keep of the process's capabilities.
    const fn capabilities(self) -> CapabilitySet {
        // Maps are read and written by system calls, which older kernels allow nobody else.
        const MAPS: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::SYS_ADMIN);
        match self {
            Self::Reader => MAPS,
            Self::HashOpen | Self::HashRead => capability::KEPT,
            Self::Containers => CapabilitySet::DAC_READ_SEARCH,
            // Kept by the process only where folders are another user's.
            Self::Output | Self::Spool | Self::Delivery => CapabilitySet::DAC_OVERRIDE,
            Self::View | Self::Control | Self::Metrics => CapabilitySet::empty(),
        }
    }

    const fn filter(self) -> Option<Filter> {
        match self {
            Self::HashOpen | Self::Containers => Some(Filter::Opens),
            Self::HashRead => Some(Filter::Reads),
            Self::Reader
            | Self::Output
            | Self::View
            | Self::Spool
            | Self::Delivery
            | Self::Control
            | Self::Metrics => None,
        }
    }

    /// The folders that it may change; `None`: it is not under Landlock, mostly since it looks into other processes.
    fn folders(self, places: &Places) -> Option<Vec<&Path>> {
        match self {
            Self::HashOpen | Self::HashRead | Self::Metrics => None,
            Self::Reader | Self::View | Self::Control | Self::Containers => Some(Vec::new()),
            Self::Output => Some(places.output.as_deref().into_iter().collect()),
            Self::Spool => Some(places.state.as_deref().into_iter().collect()),
            Self::Delivery => {
                let files = places.files.iter().map(PathBuf::as_path);
                Some(places.state.as_deref().into_iter().chain(files).collect())
            }
        }
    }

    const ALL: [Self; 10] = [
        Self::Reader,
        Self::HashOpen,
        Self::HashRead,
        Self::Containers,
        Self::Output,
        Self::View,
        Self::Spool,
        Self::Delivery,
        Self::Control,
        Self::Metrics,
    ];
}

/// Folders that the sensor writes to; they exist.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Where its events go, if they go to a file.
    pub output: Option<PathBuf>,
    /// Where its spool is, if it has one.
    pub state: Option<PathBuf>,
    /// Where files are that packets are delivered to.
    pub files: Vec<PathBuf>,
}

/// A layer, and what is in force of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// `non_dumpable`, `no_new_privs`, `capabilities`, `seccomp`, `landlock`.
    pub layer: &'static str,
    /// Whether it is.
    pub in_force: bool,
    /// What it amounts to, or why it is not.
    pub detail: String,
}

/// The confinement of the process, for its threads; cheap to clone. The default confines nothing.
#[derive(Clone, Debug, Default)]
pub struct Confinement(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    layers: Mutex<Vec<Layer>>,
    capabilities: bool,
    seccomp: bool,
    rules: BTreeMap<Role, Rules>,
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    crate::kernel::chain(error)
}

fn layer(layer: &'static str, outcome: Result<String, String>) -> Layer {
    let (in_force, detail) = match outcome {
        Ok(detail) => (true, detail),
        Err(why) => {
            tracing::warn!(layer, why, "not confined by this layer");
            (false, why)
        }
    };
    Layer {
        layer,
        in_force,
        detail,
    }
}

/// Nobody of the same user may look into this process's memory, and it leaves no core. For the start, before anything is read.
///
/// # Errors
/// prctl(2).
pub fn hide_memory() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)
}

/// Whether this thread, with the capabilities that it has now, may make and rename files in a folder. What fails for other reasons
/// than permission is found out when it is done.
#[must_use]
pub fn may_write(folder: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, folder, wanted, AtFlags::EACCESS) != Err(rustix::io::Errno::ACCESS)
}

impl Confinement {
    /// Confines this thread, which must be the only one, and all that are started from now on.
    /// `hidden`: what [`hide_memory`] said.
    #[must_use]
    pub fn begin(hidden: io::Result<()>, places: &Places, trials: &[Trial<'_>]) -> Self {
        let said = |result: io::Result<()>, detail: &str| {
            result
                .map(|()| detail.to_owned())
                .map_err(|error| error.to_string())
        };
        let privileges = set_no_new_privs(true).map_err(io::Error::from);
        let capabilities = capability::drop_to_minimum(trials)
            .map(|dropped| {
                let kept = capability::names(dropped.kept);
                if dropped.bounded {
                    format!("kept: {kept}")
                } else {
                    format!("kept: {kept}; the bounding set is as it was, which takes CAP_SETPCAP")
                }
            })
            .map_err(|error| error.to_string());
        let seccomp = seccomp::install(Filter::Process);
        let (rules, landlock) = rules(places);
        let (capable, filtered) = (capabilities.is_ok(), seccomp.is_ok());
        let layers = vec![
            layer(
                "non_dumpable",
                said(hidden, "no core, no other's look into memory"),
            ),
            layer("no_new_privs", said(privileges, "no program gives more")),
            layer("capabilities", capabilities),
            layer("seccomp", said(seccomp, "refused system calls")),
            layer("landlock", landlock),
        ];
        Self(Some(Arc::new(Shared {
            layers: Mutex::new(layers),
            capabilities: capable,
            seccomp: filtered,
            rules,
        })))
    }

    /// Takes from this thread what its role does not need. To be called before it looks at anything that others made.
    pub fn enter(&self, role: Role) {
        let Some(shared) = &self.0 else {
            return;
        };
        if let Some(rules) = shared.rules.get(&role)
            && let Err(error) = rules.restrict_thread()
        {
            shared.failed("landlock", role, &chain(&error));
        }
        if shared.capabilities
            && let Err(error) = capability::restrict_thread(role.capabilities())
        {
            shared.failed("capabilities", role, &error.to_string());
        }
        if shared.seccomp
            && let Some(filter) = role.filter()
            && let Err(error) = seccomp::install(filter)
        {
            shared.failed("seccomp", role, &error.to_string());
        }
    }

    /// What is in force; empty if it was switched off.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        let lock = |shared: &Arc<Shared>| {
            let layers = shared.layers.lock();
            layers.unwrap_or_else(PoisonError::into_inner).clone()
        };
        self.0.as_ref().map(lock).unwrap_or_default()
    }

    /// The same for a line of the log: layers in force.
    #[must_use]
    pub fn brief(&self) -> String {
        let layers = self.layers();
        let names: Vec<&str> = layers
            .iter()
            .filter(|layer| layer.in_force)
            .map(|layer| layer.layer)
            .collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(" ")
        }
    }
}

impl Shared {
    /// A thread goes on without the layer, visibly.
    fn failed(&self, name: &'static str, role: Role, why: &str) {
        tracing::warn!(layer = name, ?role, why, "a thread is not confined");
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in layers.iter_mut().filter(|layer| layer.layer == name) {
            layer.in_force = false;
            layer.detail = format!("thread {role:?}: {why}");
        }
    }
}

/// Rules for every role that can have some, and what to say of them.
fn rules(places: &Places) -> (BTreeMap<Role, Rules>, Result<String, String>) {
    let mut all = BTreeMap::new();
    let mut why = None;
    for role in Role::ALL {
        let Some(folders) = role.folders(places) else {
            continue;
        };
        match Rules::new(&folders) {
            Ok(rules) => {
                all.insert(role, rules);
            }
            Err(error) => {
                why.get_or_insert(chain(&error));
            }
        }
    }
    let outcome = match why {
        None => Ok("threads that follow no processes write to their own folder only".to_owned()),
        Some(why) => Err(why),
    };
    (all, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_confinement_nothing_is_taken() {
        let before = rustix::thread::capabilities(None).unwrap();
        let confinement = Confinement::default();
        for role in Role::ALL {
            confinement.enter(role);
        }
        assert_eq!(rustix::thread::capabilities(None).unwrap(), before);
        assert_eq!(confinement.layers(), []);
        assert_eq!(confinement.brief(), "none");
    }

    #[test]
    fn a_thread_without_its_layer_is_told() {
        let fine = |name| layer(name, Ok("fine".to_owned()));
        let confinement = Confinement(Some(Arc::new(Shared {
            layers: Mutex::new(vec![fine("seccomp"), fine("landlock")]),
            capabilities: false,
            seccomp: false,
            rules: BTreeMap::new(),
        })));
        assert_eq!(confinement.brief(), "seccomp landlock");
        let shared = confinement.0.as_ref().unwrap();
        shared.failed("landlock", Role::Delivery, "no memory");
        assert_eq!(confinement.brief(), "seccomp");
        let landlock = confinement.layers().pop().unwrap();
        assert!(!landlock.in_force);
        assert_eq!(landlock.detail, "thread Delivery: no memory");
    }

    #[test]
    fn who_looks_into_processes_is_not_under_landlock_and_talkers_have_no_capabilities() {
        let places = Places {
            output: Some("/var/log/sensor".into()),
            state: Some("/var/lib/sensor".into()),
            files: vec!["/srv/events".into()],
        };
        for role in Role::ALL {
            let traces = role.capabilities().contains(CapabilitySet::SYS_PTRACE);
            assert!(role.folders(&places).is_none() || !traces, "{role:?}");
        }
        let delivery = Role::Delivery.folders(&places).unwrap();
        assert_eq!(delivery, ["/var/lib/sensor", "/srv/events"].map(Path::new));
        assert!((Role::Delivery.capabilities() & capability::KEPT).is_empty());
    }
}
