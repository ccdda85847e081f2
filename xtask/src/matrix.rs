//! The kernel matrix of tests/vm/kernels.toml.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;

use crate::place::Place;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matrix {
    kernel: Vec<Kernel>,
    suite: Vec<Suite>,
}

/// One kernel, named by Debian suite and package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kernel {
    /// What the release must start with: `5.10`, `7`.
    pub(crate) version: String,
    /// Debian suite that has it.
    pub(crate) suite: String,
    /// Meta package that always depends on the suite's current kernel.
    pub(crate) package: String,
    /// How much is run on it.
    pub(crate) role: Role,
    /// Extra words for the kernel's command line.
    #[serde(default)]
    pub(crate) command_line: String,
    /// Backend, then event type, then the hook that must be chosen.
    #[serde(default)]
    pub(crate) hooks: BTreeMap<Backend, BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Oldest,
    Smoke,
    Newest,
}

impl Role {
    /// As in the file.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Smoke => "smoke",
            Self::Newest => "newest",
        }
    }
}

/// The sensor's `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Backend {
    Auto,
    Fentry,
    Kprobe,
    SyscallExit,
}

impl Backend {
    /// As typed on the sensor's command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
            Self::SyscallExit => "syscall-exit",
        }
    }
}

/// A test target of crate sensor-tests that runs as root, in guests or here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    pub(crate) name: String,
    /// The test target's name.
    pub(crate) test: String,
    /// The roles of the kernels that run it.
    pub(crate) roles: Vec<Role>,
    /// Run once for each; once without any if empty.
    pub(crate) backends: Vec<Backend>,
    /// The same on the kernel of this machine; it does not run here if empty.
    #[serde(default)]
    pub(crate) native_backends: Vec<Backend>,
    pub(crate) timeout_seconds: u64,
    /// Arguments for the test harness.
    #[serde(default)]
    pub(crate) arguments: Vec<String>,
    /// It delivers to receivers that are not ours; on this machine only.
    #[serde(default)]
    pub(crate) receivers: bool,
    /// Further variables for it, `NAME=VALUE`; not in the file.
    #[serde(skip)]
    pub(crate) variables: Vec<String>,
    /// Extra words for the kernel's command line, in guests.
    #[serde(default)]
    pub(crate) command_line: String,
    /// What the guest has beside the kernel.
    #[serde(default)]
    pub(crate) system: System,
    /// Only on the kernels of these Debian suites; on all of its roles if empty.
    #[serde(default)]
    pub(crate) debian: Vec<String>,
    /// Further packages that the guest's Debian has.
    #[serde(default)]
    pub(crate) packages: Vec<String>,
    /// Memory of its guests.
    #[serde(default = "memory")]
    pub(crate) memory_mib: u32,
    /// The guest has the unpacked container image and the rendered manifests.
    #[serde(default)]
    pub(crate) image: bool,
    /// The central node's program is there.
    #[serde(default)]
    pub(crate) central_node: bool,
    /// The guest has a disk, is killed some time after the suite says so, and boots a second time with that disk.
    #[serde(default)]
    pub(crate) reset: bool,
}

/// What guests have unless a suite wants more.
const fn memory() -> u32 {
    1024
}

/// What a guest has beside the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// busybox and a process 1 of our own.
    #[default]
    Small,
    /// The kernel's own Debian, with dpkg and with systemd as process 1.
    Debian,
}

/// One boot: a suite on a kernel with a backend.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) kernel: Kernel,
    pub(crate) suite: Suite,
    pub(crate) backend: Option<Backend>,
}

/// What to take from the matrix.
#[derive(Debug, Default, Clone)]
pub(crate) struct Selection {
    /// Version names as in the file, `all` or empty for all.
    pub(crate) kernels: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) backends: Vec<Backend>,
    /// Every suite on every kernel, whatever its role.
    pub(crate) full: bool,
}

impl Matrix {
    pub(crate) fn read(place: &Place) -> anyhow::Result<Self> {
        let path = place.root.join("tests/vm/kernels.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Every kernel, the oldest first.
    pub(crate) fn kernels(&self) -> &[Kernel] {
        &self.kernel
    }

    /// The cells that a selection names; a name that the matrix does not have is an error.
    pub(crate) fn cells(&self, selection: &Selection) -> anyhow::Result<Vec<Cell>> {
        self.check_names(selection)?;
        let all_kernels =
            selection.kernels.is_empty() || selection.kernels.iter().any(|one| one == "all");
        if !all_kernels {
            for name in &selection.kernels {
                ensure!(
                    self.kernel.iter().any(|kernel| kernel.is(name)),
                    "no kernel {name:?} in tests/vm/kernels.toml"
                );
            }
        }
        let mut cells = Vec::new();
        for kernel in &self.kernel {
            if !all_kernels && !selection.kernels.iter().any(|name| kernel.is(name)) {
                continue;
            }
            for suite in &self.suite {
                // Who names suites or kernels means just these, whatever their role.
                let named = selection.suites.contains(&suite.name);
                if !suite.debian.is_empty() && !suite.debian.contains(&kernel.suite) {
                    continue;
                }
                if !named && !selection.suites.is_empty() {
                    continue;
                }
                if !named && !selection.full && !suite.roles.contains(&kernel.role) {
                    continue;
                }
                let cell = |backend| Cell {
                    kernel: kernel.clone(),
                    suite: suite.clone(),
                    backend,
                };
                if suite.backends.is_empty() {
                    cells.push(cell(None));
                }
                for backend in &suite.backends {
                    if selection.backends.is_empty() || selection.backends.contains(backend) {
                        cells.push(cell(Some(*backend)));
                    }
                }
            }
        }
        if cells.is_empty() {
            bail!("nothing in tests/vm/kernels.toml fits");
        }
        Ok(cells)
    }
}

impl Matrix {
    /// The suites with their backends that run on this machine.
    pub(crate) fn native(&self, selection: &Selection) -> anyhow::Result<Vec<(Suite, Backend)>> {
        self.check_names(selection)?;
        let mut cells = Vec::new();
        for suite in &self.suite {
            if selection.suites.is_empty() || selection.suites.contains(&suite.name) {
                for backend in &suite.native_backends {
                    if selection.backends.is_empty() || selection.backends.contains(backend) {
                        cells.push((suite.clone(), *backend));
                    }
                }
            }
        }
        Ok(cells)
    }

    fn check_names(&self, selection: &Selection) -> anyhow::Result<()> {
        for name in &selection.suites {
            ensure!(
                self.suite.iter().any(|suite| suite.name == *name),
                "no suite {name:?} in tests/vm/kernels.toml"
            );
        }
        Ok(())
    }
}

impl Kernel {
    /// Whether a name typed by a person means this kernel: `5.10`, `7`, `7.x`.
    fn is(&self, name: &str) -> bool {
        name.strip_suffix(".x").unwrap_or(name) == self.version
    }

    /// Whether a kernel release is one of this row's.
    pub(crate) fn fits(&self, release: &str) -> bool {
        release
            .strip_prefix(&self.version)
            .is_some_and(|rest| rest.starts_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(selection: &Selection) -> Vec<String> {
        let matrix: Matrix = toml::from_str(
            r#"
            kernel = [
                { version = "5.10", suite = "a", package = "p", role = "oldest" },
                { version = "7", suite = "b", package = "p", role = "smoke", hooks.auto.exec = "tp_btf" },
            ]
            suite = [
                { name = "one", test = "t", roles = ["oldest", "smoke"], backends = [], timeout_seconds = 1 },
                { name = "two", test = "t", roles = ["oldest"], backends = ["auto", "syscall-exit"], timeout_seconds = 1 },
            ]
            "#,
        )
        .unwrap();
        let name = |cell: &Cell| {
            let backend = cell.backend.map_or("-", Backend::name);
            format!("{} {} {backend}", cell.kernel.version, cell.suite.name)
        };
        matrix.cells(selection).unwrap().iter().map(name).collect()
    }

    #[test]
    fn roles_decide_what_runs_where() {
        assert_eq!(
            cells(&Selection::default()),
            [
                "5.10 one -",
                "5.10 two auto",
                "5.10 two syscall-exit",
                "7 one -"
            ]
        );
        assert_eq!(
            cells(&Selection {
                full: true,
                ..Selection::default()
            })
            .len(),
            6
        );
    }

    #[test]
    fn a_named_suite_runs_on_every_selected_kernel() {
        let selection = Selection {
            kernels: vec!["7.x".to_owned()],
            suites: vec!["two".to_owned()],
            backends: vec![Backend::Auto],
            full: false,
        };
        assert_eq!(cells(&selection), ["7 two auto"]);
    }

    #[test]
    fn a_release_fits_by_whole_numbers() {
        let kernel: Kernel =
            toml::from_str("version='5.1'\nsuite='s'\npackage='p'\nrole='oldest'").unwrap();
        assert!(kernel.fits("5.1.3-1-amd64"));
        assert!(!kernel.fits("5.10.3-1-amd64"));
    }
}
