//! Programs of others that judge what we make for containers: skopeo, umoci, kustomize and kubernetes-validate, below the
//! target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::apt::{self, Apt};
use crate::command::quiet;
use crate::place::Place;

/// The suite that has them all; it is older than the machine or newer, they bring their own libraries.
const SUITE: &str = "trixie";
const PACKAGES: [&str; 5] = ["skopeo", "umoci", "kustomize", "python3", "python3-pip"];
/// Changed when the list of packages above changes.
const FOLDER: &str = "container-1";
/// What pip installs: the schemas of Kubernetes with a program that checks against them, and what it needs, pinned.
const PYTHON_PACKAGES: [&str; 10] = [
    "kubernetes-validate==1.37.0",
    "attrs==26.1.0",
    "importlib-resources==7.1.0",
    "jsonschema==4.26.0",
    "jsonschema-specifications==2025.9.1",
    "packaging==26.3",
    "PyYAML==6.0.3",
    "referencing==0.37.0",
    "rpds-py==2026.9.1",
    "typing-extensions==4.16.0",
];

/// The unpacked programs.
#[derive(Debug)]
pub(crate) struct ContainerTools {
    root: PathBuf,
    python: PathBuf,
}

impl ContainerTools {
    /// Fetches them unless they are there.
    pub(crate) fn find(place: &Place) -> anyhow::Result<Self> {
        let tools = place.tools();
        let root = tools.join(FOLDER);
        if !root.exists() {
            println!("fetching {}", PACKAGES.join(", "));
            let apt = Apt::open(&tools.join("apt-container"), &[SUITE])?;
            let fresh = tempfile::tempdir_in(&tools)?;
            apt.unpack_with_dependencies(SUITE, &PACKAGES, fresh.path())?;
            fs::rename(fresh.keep(), &root)?;
        }
        let version = PYTHON_PACKAGES
            .first()
            .and_then(|package| package.split_once("=="))
            .map_or("", |(_, version)| version);
        let python = tools.join(format!("kubernetes-validate-{version}"));
        let found = Self { root, python };
        if !found.python.exists() {
            println!("fetching {}", PYTHON_PACKAGES.join(", "));
            let fresh = tempfile::tempdir_in(&tools)?;
            // Wheels only: nothing is built, no script of a package runs.
            quiet(
                found
                    .python()?
                    .args(["-m", "pip", "--quiet", "--disable-pip-version-check"])
                    .args(["install", "--root-user-action", "ignore"])
                    .args(["--no-deps", "--only-binary", ":all:"])
                    .args(["--no-compile", "--target"])
                    .arg(fresh.path())
                    .args(PYTHON_PACKAGES),
            )
            .context("cannot install kubernetes-validate")?;
            fs::rename(fresh.keep(), &found.python)?;
        }
        Ok(found)
    }

    /// skopeo, which reads and copies images of every format.
    pub(crate) fn skopeo(&self) -> anyhow::Result<Command> {
        let mut command = self.program("usr/bin/skopeo")?;
        // No registry is asked and nothing is signed.
        command.arg("--insecure-policy");
        Ok(command)
    }

    /// umoci, which unpacks images as an engine does.
    pub(crate) fn umoci(&self) -> anyhow::Result<Command> {
        self.program("usr/bin/umoci")
    }

    /// kustomize, which renders overlays.
    pub(crate) fn kustomize(&self) -> anyhow::Result<Command> {
        self.program("usr/bin/kustomize")
    }

    /// Python with the packages of pip.
    pub(crate) fn python(&self) -> anyhow::Result<Command> {
        let mut command = self.program("usr/bin/python3")?;
        command
            .env("PYTHONHOME", self.root.join("usr"))
            .env(
                "PYTHONPATH",
                std::env::join_paths([
                    &self.python,
                    &self.root.join("usr/lib/python3/dist-packages"),
                ])?,
            )
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONNOUSERSITE", "1");
        Ok(command)
    }

    fn program(&self, path: &str) -> anyhow::Result<Command> {
        apt::program(&self.root, Path::new(path))
    }
}
