//! QEMU, busybox, strace and the kernels: Debian packages, unpacked below target/vm.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use object::{Object as _, ObjectSection as _};

use crate::apt::{self, Apt, write_if_changed};
use crate::command::quiet;
use crate::matrix::Kernel;
use crate::place::Place;

/// The suites with a QEMU of 10 or newer that runs with the C library of Debian 12.
const QEMU_SUITES: [&str; 2] = ["bookworm", "bookworm-backports"];
/// Changed when the list of packages below changes.
const QEMU_FOLDER: &str = "qemu-2";

/// The unpacked programs.
#[derive(Debug)]
pub(crate) struct Programs {
    root: PathBuf,
}

impl Programs {
    /// Fetches them unless they are there.
    pub(crate) fn find(place: &Place) -> anyhow::Result<Self> {
        let vm = place.target.join("vm");
        let root = vm.join(QEMU_FOLDER);
        if !root.exists() {
            println!("fetching QEMU and strace");
            fs::create_dir_all(&vm)?;
            let apt = Apt::open(&vm.join("apt-qemu"), &QEMU_SUITES)?;
            let fresh = tempfile::tempdir_in(&vm)?;
            apt.unpack_with_dependencies(
                "bookworm-backports",
                &["qemu-system-x86", "xz-utils", "busybox-static", "strace"],
                fresh.path(),
            )?;
            fs::rename(fresh.keep(), &root)?;
        }
        Ok(Self { root })
    }

    /// QEMU, run by its own loader with its own libraries, whatever this machine has.
    pub(crate) fn qemu(&self) -> anyhow::Result<Command> {
        let mut command = self.program("usr/bin/qemu-system-x86_64")?;
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        Ok(command)
    }

    /// A statically linked busybox for the guest.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.root.join("bin/busybox")
    }

    /// Writes a script that starts strace with its own libraries, whatever this machine has.
    pub(crate) fn strace(&self, script: &Path) -> anyhow::Result<()> {
        let command = self.program("usr/bin/strace")?;
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        write_if_changed(
            script,
            &format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
        )?;
        fs::set_permissions(script, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    fn program(&self, path: &str) -> anyhow::Result<Command> {
        apt::program(&self.root, Path::new(path))
    }

    fn unxz(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        quiet(
            self.program("usr/bin/xz")?
                .args(["--decompress", "--keep", "--stdout"])
                .arg(from)
                .stdout(fs::File::create(to)?),
        )
    }
}

/// A kernel image with its modules.
#[derive(Debug)]
pub(crate) struct KernelFiles {
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// `uname -r` of it.
    pub(crate) release: String,
    modules: PathBuf,
}

impl KernelFiles {
    /// Fetches the current kernel of a matrix row unless it is there.
    pub(crate) fn find(place: &Place, kernel: &Kernel) -> anyhow::Result<Self> {
        let kernels = place.target.join("vm/kernels");
        fs::create_dir_all(&kernels)?;
        let release = match Self::fetch(place, kernel, &kernels) {
            Ok(release) => release,
            // Without the mirror an older one of the same row is as good a test, if it is named.
            Err(error) => match unpacked(&kernels, kernel)? {
                Some(release) => {
                    println!(
                        "no newer Linux {}: {error:#}; using {release}",
                        kernel.version
                    );
                    release
                }
                None => return Err(error),
            },
        };
        let root = kernels.join(&release);
        let first = |candidates: [PathBuf; 2]| candidates.into_iter().find(|path| path.exists());
        let image = first([
            root.join(format!("boot/vmlinuz-{release}")),
            root.join(format!("usr/lib/modules/{release}/vmlinuz")),
        ])
        .with_context(|| format!("no kernel image in {}", root.display()))?;
        let modules = first([
            root.join(format!("lib/modules/{release}")),
            root.join(format!("usr/lib/modules/{release}")),
        ])
        .with_context(|| format!("no modules in {}", root.display()))?;
        Ok(Self {
            image,
            release,
            modules,
        })
    }

    /// Unpacks the suite's current kernel into a folder named after its release.
    fn fetch(place: &Place, kernel: &Kernel, kernels: &Path) -> anyhow::Result<String> {
        let folder = place.target.join(format!("vm/apt-{}", kernel.suite));
        let apt = Apt::open(&folder, &[kernel.suite.as_str()])?;
        let packages = closure(&apt, &kernel.package)?;
        // The image package's name holds the release: "linux-image-6.1.0-50-cloud-amd64".
        let release = packages
            .iter()
            .find_map(|package| {
                let release = package.strip_prefix("linux-image-")?;
                release
                    .starts_with(|first: char| first.is_ascii_digit())
                    .then(|| release.to_owned())
            })
            .with_context(|| {
                format!("{} of {} has no kernel image", kernel.package, kernel.suite)
            })?;
        ensure!(
            kernel.fits(&release),
            "{} of {} is now {release}, tests/vm/kernels.toml expects {}",
            kernel.package,
            kernel.suite,
            kernel.version
        );
        let root = kernels.join(&release);
        if !root.exists() {
            println!("fetching Linux {release}");
            let fresh = tempfile::tempdir_in(kernels)?;
            for package in &packages {
                apt.unpack(package, fresh.path())?;
            }
            fs::rename(fresh.keep(), &root)?;
        }
        Ok(release)
    }

    /// The files of modules with all that they depend on, in order of loading, decompressed into `into`.
    /// A module that is part of the kernel image is left out.
    pub(crate) fn modules(
        &self,
        programs: &Programs,
        names: &[&str],
        into: &Path,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let builtin = fs::read_to_string(self.modules.join("modules.builtin"))
            .with_context(|| format!("{}/modules.builtin", self.modules.display()))?;
        let mut files = Vec::new();
        walk(&self.modules.join("kernel"), &mut files)?;
        fs::create_dir_all(into)?;
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.module(
                programs, name, &builtin, &files, into, &mut seen, &mut found,
            )?;
        }
        Ok(found)
    }

    #[expect(clippy::too_many_arguments, reason = "the state of one recursive walk")]
    fn module(
        &self,
        programs: &Programs,
        name: &str,
        builtin: &str,
        files: &[PathBuf],
        into: &Path,
        seen: &mut BTreeSet<String>,
        found: &mut Vec<PathBuf>,
    ) -> anyhow::Result<()> {
        let name = name.replace('-', "_");
        if !seen.insert(name.clone())
            || builtin
                .lines()
                .any(|line| stem(Path::new(line)).is_some_and(|stem| stem == name))
        {
            return Ok(());
        }
        let file = files
            .iter()
            .find(|file| stem(file).is_some_and(|stem| stem == name))
            .with_context(|| format!("Linux {} has no module {name}", self.release))?;
        let target = into.join(format!("{name}.ko"));
        if file.extension().is_some_and(|extension| extension == "xz") {
            programs.unxz(file, &target)?;
        } else {
            fs::copy(file, &target)?;
        }
        for needed in
            dependencies(&fs::read(&target)?).with_context(|| file.display().to_string())?
        {
            self.module(programs, &needed, builtin, files, into, seen, found)?;
        }
        found.push(target);
        Ok(())
    }
}

/// The last by name of the releases of a row that are there already.
fn unpacked(kernels: &Path, kernel: &Kernel) -> anyhow::Result<Option<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(kernels)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.retain(|name| kernel.fits(name));
    Ok(names.into_iter().max())
}

/// The kernel's own packages that a meta package stands for.
fn closure(apt: &Apt, meta: &str) -> anyhow::Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    let mut open = vec![meta.to_owned()];
    while let Some(package) = open.pop() {
        for needed in apt.depends(&package)? {
            let ours = [
                "linux-image-",
                "linux-binary-",
                "linux-modules-",
                "linux-base-",
            ]
            .iter()
            .any(|prefix| needed.starts_with(prefix));
            if ours && !all.contains(&needed) {
                open.push(needed.clone());
                all.push(needed);
            }
        }
    }
    Ok(all)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// `nf_tables` of `net/nf-tables.ko.xz`.
fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, _) = name.split_once(".ko")?;
    Some(stem.replace('-', "_"))
}

/// What a module says it needs: `depends=a,b` in its section .modinfo.
fn dependencies(module: &[u8]) -> anyhow::Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file
        .section_by_name(".modinfo")
        .context("no section .modinfo")?;
    Ok(section
        .data()?
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}
