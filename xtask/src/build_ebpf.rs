//! Builds the eBPF object reproducibly: the same sources give the same bytes on any machine and in any folder.
//!
//! Three things would make the bytes depend on the folder. Paths in debug information, and with it in BTF line
//! information: remapped. Debug sections: stripped, only BTF stays. The crates' disambiguators, which cargo derives from
//! absolute paths for crates outside the eBPF workspace: [`rustc_shim`] stands between cargo and rustc and
//! derives them from names and versions instead.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use object::build::elf::{Builder, SectionData};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::apt::write_if_changed;
use crate::command::{quiet, run_shown};
use crate::place::{Place, Toolchain};
use crate::remap;
use crate::rust_src::{self, Source, hex};

/// First argument when cargo calls this program as its compiler.
pub(crate) const SHIM: &str = "rustc-shim";
/// The last version whose default features use the LLVM 22 inside rustc 1.95 itself.
const LINKER_VERSION: &str = "0.10.3";
const TARGET: &str = "bpfel-unknown-none";
/// A folder that exists nowhere, else LLVM would look for source lines there and copy them into BTF.
const RUSTC_VARIABLE: &str = "SENSOR_SHIM_RUSTC";
const SYSROOT_VARIABLE: &str = "SENSOR_SHIM_SYSROOT";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare the committed object with fresh builds in two different folders; write nothing.
    #[arg(long, conflicts_with = "log")]
    check: bool,
    /// Build with aya-log into the target directory instead; never shipped.
    #[arg(long)]
    log: bool,
    /// Where the core library's sources come from.
    #[arg(long, value_enum, default_value = "auto")]
    rust_src: Source,
}

/// What `sensor.bpf.toml` says about the object beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    rustc: String,
    bpf_linker: String,
    core_sources_sha256: String,
    object_sha256: String,
}

/// Builds, or checks, the object.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<()> {
    let build = Build::prepare(place, args.rust_src)?;
    let home = home(place);
    if args.log {
        let bytes = build.build(&place.root, &home, true)?;
        let path = home.join("sensor-log.bpf.o");
        fs::write(&path, bytes)?;
        println!("{}", path.display());
        return Ok(());
    }
    if args.check {
        return build.check(place);
    }
    let bytes = build.build(&place.root, &home, false)?;
    let manifest = build.manifest(&bytes)?;
    let (object, manifest_path) = committed(place);
    fs::create_dir_all(place.root.join("sensor/bpf"))?;
    fs::write(&object, &bytes)?;
    let text = format!(
        "# How sensor.bpf.o was built. Written by `cargo xtask build-ebpf`, checked by its --check.\n{}",
        toml::to_string(&manifest)?
    );
    write_if_changed(&manifest_path, &text)?;
    println!(
        "{} ({} bytes, sha256 {})",
        object.display(),
        bytes.len(),
        manifest.object_sha256
    );
    Ok(())
}

/// Compares the committed object with fresh builds in two folders.
pub(crate) fn check(place: &Place) -> anyhow::Result<()> {
    Build::prepare(place, Source::Auto)?.check(place)
}

/// Clippy over the eBPF crate, for its own target; warnings are errors.
pub(crate) fn clippy(place: &Place) -> anyhow::Result<()> {
    let build = Build::prepare(place, Source::Auto)?;
    for features in ["", "log"] {
        let mut command = build.cargo(&place.root, &home(place), "clippy")?;
        command
            // The driver runs the compiler itself, past the shim.
            .env("SYSROOT", home(place).join("sysroot"))
            .args(["--features", features, "--", "--deny", "warnings"]);
        run_shown(&mut command)?;
    }
    Ok(())
}

fn home(place: &Place) -> PathBuf {
    place.target.join("ebpf")
}

/// The committed object and its manifest.
fn committed(place: &Place) -> (PathBuf, PathBuf) {
    let folder = place.root.join("sensor/bpf");
    (folder.join("sensor.bpf.o"), folder.join("sensor.bpf.toml"))
}

/// Says why the committed object is not the built one, if it is not.
fn compare(committed: &[u8], old: &Manifest, built: &[u8], new: &Manifest) -> anyhow::Result<()> {
    let actual = hex(&Sha256::digest(committed));
    ensure!(
        old.object_sha256 == actual,
        "sensor.bpf.toml names sha256 {}, but sensor.bpf.o has {actual}: commit both files together",
        old.object_sha256
    );
    if committed == built {
        ensure!(
            old == new,
            "sensor.bpf.toml is stale: run `cargo xtask build-ebpf`\nit says {old:?}\nnow    {new:?}"
        );
        return Ok(());
    }
    let mut reasons = Vec::new();
    if old.rustc != new.rustc {
        reasons.push(format!(
            "it was built by rustc {}, this one is {}",
            old.rustc, new.rustc
        ));
    }
    if old.bpf_linker != new.bpf_linker {
        reasons.push(format!(
            "it was linked by bpf-linker {}, this one is {}",
            old.bpf_linker, new.bpf_linker
        ));
    }
    if old.core_sources_sha256 != new.core_sources_sha256 {
        reasons.push("the core library's sources differ".to_owned());
    }
    if reasons.is_empty() {
        reasons.push("sensor-ebpf, sensor-common or their lock file changed since".to_owned());
    }
    bail!(
        "sensor/bpf/sensor.bpf.o ({} bytes, {actual}) is not what the sources give ({} bytes, {}): {}. \
         Run `cargo xtask build-ebpf` and commit sensor/bpf",
        committed.len(),
        built.len(),
        new.object_sha256,
        reasons.join("; ")
    )
}

/// Builds a copy of the needed crates in another folder, with another sysroot: the bytes must be the same.
fn check_other_folder(place: &Place, builder: &Build, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("sensor-ebpf-check-")
        .tempdir()?;
    let copy = folder.path().join("a/longer/path/to/the/clone");
    fs::create_dir_all(&copy)?;
    fs::copy(place.root.join("Cargo.toml"), copy.join("Cargo.toml"))?;
    for part in ["sensor-common", "sensor-ebpf"] {
        copy_tree(&place.root.join(part), &copy.join(part))?;
    }
    let other = builder.build(&copy, &folder.path().join("out"), false)?;
    if other != bytes {
        let kept = place.target.join("ebpf/other-folder.bpf.o");
        fs::write(&kept, &other)?;
        bail!(
            "the object depends on the folder that it is built in: compare {} with {}",
            kept.display(),
            place.target.join("ebpf/sensor.bpf.o").display()
        );
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                copy_tree(&entry.path(), &target)?;
            }
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Gives the linker's path, installing it first if it is not there.
fn install_linker(place: &Place, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let home = place.tools().join(format!("bpf-linker-{LINKER_VERSION}"));
    let linker = home.join("bin/bpf-linker");
    if !linker.exists() {
        println!(
            "installing bpf-linker {LINKER_VERSION} into {}",
            home.display()
        );
        quiet(
            Command::new(toolchain.program("cargo"))
                .args([
                    "install",
                    "--quiet",
                    "--locked",
                    "--version",
                    LINKER_VERSION,
                    "--root",
                ])
                .arg(&home)
                .arg("bpf-linker")
                .env("RUSTC", toolchain.program("rustc"))
                .env(
                    "CARGO_TARGET_DIR",
                    place.target.join("tools/build-bpf-linker"),
                )
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_ENCODED_RUSTFLAGS"),
        )?;
    }
    Ok(linker)
}

/// What every build has in common.
struct Build {
    linker: PathBuf,
    rust_src: PathBuf,
    toolchain: Toolchain,
}

impl Build {
    /// Finds or installs what a build needs.
    fn prepare(place: &Place, source: Source) -> anyhow::Result<Self> {
        let toolchain = Toolchain::find(place)?;
        Ok(Self {
            linker: install_linker(place, &toolchain)?,
            rust_src: rust_src::find(place, &toolchain, source)?,
            toolchain,
        })
    }

    fn manifest(&self, bytes: &[u8]) -> anyhow::Result<Manifest> {
        Ok(Manifest {
            rustc: self.toolchain.version.clone(),
            bpf_linker: LINKER_VERSION.to_owned(),
            core_sources_sha256: rust_src::digest(&self.rust_src)?,
            object_sha256: hex(&Sha256::digest(bytes)),
        })
    }

    fn check(&self, place: &Place) -> anyhow::Result<()> {
        let bytes = self.build(&place.root, &home(place), false)?;
        check_other_folder(place, self, &bytes)?;
        let (object, manifest) = committed(place);
        let missing = |path: &Path| {
            format!(
                "{} is missing: run `cargo xtask build-ebpf`",
                path.display()
            )
        };
        let text = fs::read_to_string(&manifest).with_context(|| missing(&manifest))?;
        let old: Manifest =
            toml::from_str(&text).with_context(|| manifest.display().to_string())?;
        let there = fs::read(&object).with_context(|| missing(&object))?;
        compare(&there, &old, &bytes, &self.manifest(&bytes)?)?;
        println!(
            "ok: {} is what the sources give, from two folders",
            object.display()
        );
        Ok(())
    }

    /// Cargo in the tree at `root`, set up for the eBPF target, with everything temporary below `home`.
    fn cargo(&self, root: &Path, home: &Path, task: &str) -> anyhow::Result<Command> {
        fs::create_dir_all(home)?;
        let sysroot = self.private_sysroot(&home.join("sysroot"))?;
        let shim = home.join("rustc");
        write_if_changed(
            &shim,
            &format!(
                "#!/bin/sh\nexec '{}' {SHIM} \"$@\"\n",
                std::env::current_exe()?.display()
            ),
        )?;
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755))?;
        let cargo = || {
            let mut command = Command::new(self.toolchain.program("cargo"));
            command.current_dir(root.join("sensor-ebpf"));
            command
        };
        // The sources must be there before the flags are made: each registry's folder is remapped.
        quiet(cargo().args(["fetch", "--quiet", "--locked"]))?;
        let mut path = self.toolchain.sysroot.join("bin").into_os_string();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let mut command = cargo();
        command
            .arg(task)
            .args(["--quiet", "--release", "--locked", "--target", TARGET])
            .args(["-Z", "build-std=core"])
            .env("PATH", path)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", &shim)
            .env(RUSTC_VARIABLE, self.toolchain.program("rustc"))
            .env(SYSROOT_VARIABLE, &sysroot)
            // bpf-linker loads the LLVM that is part of rustc.
            .env("LD_LIBRARY_PATH", self.toolchain.sysroot.join("lib"))
            .env("CARGO_TARGET_DIR", home.join("build"))
            .env("CARGO_INCREMENTAL", "0")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(root, &sysroot)?)
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        Ok(command)
    }

    /// Builds the tree at `root`, with everything temporary below `home`, and gives the stripped object.
    fn build(&self, root: &Path, home: &Path, log: bool) -> anyhow::Result<Vec<u8>> {
        let mut command = self.cargo(root, home, "build")?;
        if log {
            command.args(["--features", "log"]);
        }
        run_shown(&mut command).context("the eBPF programs do not build")?;
        let sysroot = home.join("sysroot");
        let target = home.join("build");
        let raw = fs::read(target.join(TARGET).join("release/sensor-ebpf"))?;
        let bytes = strip(&raw)?;
        remap::none_inside(
            &bytes,
            &[root, &self.rust_src, &sysroot, &remap::cargo_home()?],
        )
        .context("the object")?;
        if !log {
            fs::write(home.join("sensor.bpf.o"), &bytes)?;
        }
        Ok(bytes)
    }

    fn flags(&self, root: &Path, sysroot: &Path) -> anyhow::Result<OsString> {
        let mut flags: Vec<OsString> = vec![
            // aya-ebpf's bindings ask for it.
            "--cfg=bpf_target_arch=\"x86_64\"".into(),
            // BTF is made from debug information.
            "-Cdebuginfo=2".into(),
            "-Clink-arg=--btf".into(),
        ];
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        flags.push(linker);
        flags.extend(remap::cargo()?);
        flags.push(remap::flag(root, "sensor"));
        flags.push(remap::flag(&self.rust_src, "rust-src"));
        flags.push(remap::flag(
            &sysroot.join("lib/rustlib/src/rust"),
            "rust-src",
        ));
        Ok(flags.join(&OsString::from("\x1f")))
    }

    /// A sysroot of links: the toolchain's own files and our core sources. The toolchain's folder stays as it is.
    fn private_sysroot(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        let real = &self.toolchain.sysroot;
        let mut here = PathBuf::new();
        for part in ["", "lib", "lib/rustlib"] {
            here = folder.join(part);
            fs::create_dir_all(&here)?;
            for entry in fs::read_dir(real.join(part))? {
                let name = entry?.file_name();
                let skipped = match part {
                    "" => "lib",
                    "lib" => "rustlib",
                    _ => "src",
                };
                if name != skipped {
                    symlink(real.join(part).join(&name), here.join(&name))?;
                }
            }
        }
        fs::create_dir(here.join("src"))?;
        symlink(&self.rust_src, here.join("src/rust"))?;
        Ok(folder.to_owned())
    }
}

/// Removes the debug sections; BTF stays.
fn strip(object: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker's output")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        if name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") {
            section.delete = true;
        }
    }
    for symbol in &mut builder.symbols {
        // Section symbols of what goes away.
        if let Some(section) = symbol.section
            && builder.sections.get(section).delete
        {
            symbol.delete = true;
        }
    }
    ensure!(
        builder
            .sections
            .iter()
            .any(|section| section.name.as_slice() == b".BTF"),
        "the object has no BTF: fentry and BTF tracepoints would not load"
    );
    // LLVM keeps the names of sections and of symbols in one table, the writer wants two.
    if !builder
        .sections
        .iter()
        .any(|section| matches!(section.data, SectionData::SectionString))
    {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut bytes = Vec::new();
    builder
        .write(&mut bytes)
        .context("cannot write the stripped object")?;
    Ok(bytes)
}

/// rustc with a private sysroot, and with crate disambiguators that do not depend on folders.
pub(crate) fn rustc_shim(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let variable = |name| std::env::var_os(name).with_context(|| format!("{name} is not set"));
    let package = ["CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
        .map(|name| std::env::var(name).unwrap_or_default())
        .join(" ");
    let error = Command::new(variable(RUSTC_VARIABLE)?)
        .arg("--sysroot")
        .arg(variable(SYSROOT_VARIABLE)?)
        .args(stable_metadata(arguments, &package))
        .exec();
    Err(error).context("cannot start rustc")
}

/// Replaces the value of `-C metadata=` by a digest of package, version, crate name and features.
fn stable_metadata(mut arguments: Vec<OsString>, package: &str) -> Vec<OsString> {
    let mut digest = Sha256::new();
    digest.update(package);
    let mut previous = "";
    for argument in arguments.iter().filter_map(|argument| argument.to_str()) {
        if matches!(
            previous,
            "--crate-name" | "--crate-type" | "--cfg" | "--target"
        ) {
            digest.update([0]);
            digest.update(argument);
        }
        previous = argument;
    }
    let metadata = hex(&digest.finalize()).split_off(48);
    for argument in &mut arguments {
        if argument
            .to_str()
            .is_some_and(|text| text.starts_with("metadata="))
        {
            *argument = format!("metadata={metadata}").into();
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(arguments: &[&str], package: &str) -> Vec<OsString> {
        stable_metadata(arguments.iter().map(OsString::from).collect(), package)
    }

    #[test]
    fn metadata_depends_on_names_and_features_but_not_on_what_cargo_gave() {
        let one = rewritten(&["--crate-name", "a", "-C", "metadata=1"], "a 1.0.0");
        assert_eq!(
            one,
            rewritten(&["--crate-name", "a", "-C", "metadata=2"], "a 1.0.0")
        );
        assert_ne!(
            one,
            rewritten(&["--crate-name", "a", "-C", "metadata=1"], "a 1.0.1")
        );
        assert_ne!(
            one.last(),
            rewritten(
                &[
                    "--crate-name",
                    "a",
                    "--cfg",
                    "feature=\"x\"",
                    "-C",
                    "metadata=1"
                ],
                "a 1.0.0"
            )
            .last()
        );
    }

    #[test]
    fn other_arguments_are_left_alone() {
        assert_eq!(rewritten(&["-vV"], ""), ["-vV"]);
    }
}
