//! `cargo xtask dist`: what is released, below target/dist: a Debian package, a tarball, bills of materials, sums. The same
//! commit gives the same bytes.

pub(crate) mod deb;
mod licences;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::command::output;
use crate::dist::deb::{Control, Tree, gz};
use crate::place::{Place, Toolchain};
use crate::sbom;
use crate::static_programs::StaticPrograms;

const MAINTAINER: &str = "The sensor authors <sensor@localhost>";
/// Number of the package among those of one version.
const REVISION: &str = "1";
const DESCRIPTION: &str = "\
endpoint telemetry sensor
Reports programs that run and end, files that are created, connections that
are made and kernel modules that are loaded, each with its process, user,
parents, container and hashes, and accounts for every event: delivered,
filtered on purpose, or counted as lost.

It loads eBPF programs into the kernel: Linux 5.10 or newer with BTF.";
/// Files of packaging/ and where the package has them.
const SHIPPED: [(&str, &str, u32); 2] = [
    (
        "systemd/sensor.service",
        "usr/lib/systemd/system/sensor.service",
        0o644,
    ),
    ("sensor.toml", "etc/sensor/sensor.toml", 0o640),
];
/// Completions and where shells look for them.
const COMPLETIONS: [(&str, &str); 3] = [
    (
        "sensor.bash",
        "usr/share/bash-completion/completions/sensor",
    ),
    (
        "sensor.fish",
        "usr/share/fish/vendor_completions.d/sensor.fish",
    ),
    ("_sensor", "usr/share/zsh/vendor-completions/_sensor"),
];
/// Folders that are empty at first.
const FOLDERS: [(&str, u32); 5] = [
    ("etc/sensor", 0o750),
    ("etc/sensor/conf.d", 0o750),
    ("etc/sensor/tls", 0o700),
    ("var/lib/sensor", 0o700),
    ("var/log/sensor", 0o700),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The task.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    let programs = StaticPrograms::build(place, &BTreeSet::new())?;
    let folder = release(place, &programs)?;
    print!("{}", fs::read_to_string(folder.join("SHA256SUMS"))?);
    println!("in {}", folder.display());
    Ok(())
}

/// Makes everything from programs that are there; gives the folder.
fn release(place: &Place, programs: &StaticPrograms) -> anyhow::Result<PathBuf> {
    let seconds = source_date(place)?;
    let version = env!("CARGO_PKG_VERSION");
    let toolchain = Toolchain::find(place)?;
    let machine = toolchain.host.split('-').next().context("a target")?;
    let folder = place.target.join("dist");
    fs::create_dir_all(&folder)?;
    let mut names = Vec::new();
    let mut write = |name: String, content: &[u8]| -> anyhow::Result<()> {
        let path = folder.join(&name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        names.push(name);
        Ok(())
    };
    let bill = sbom::cyclonedx(place, "sensor", seconds)?;
    write(format!("sensor-{version}.cdx.json"), bill.as_bytes())?;
    let node_bill = sbom::cyclonedx(place, "central-node", seconds)?;
    write(
        format!("central-node-{version}.cdx.json"),
        node_bill.as_bytes(),
    )?;
    let parts = Parts {
        program: fs::read(&programs.sensor)?,
        node: fs::read(&programs.node)?,
        bill,
        licences: gz(licences::texts(place)?.as_bytes())?,
    };
    let full = format!("{version}-{REVISION}");
    let architecture = architecture(machine)?;
    let package = package(place, &parts, &full, seconds)?;
    write(format!("sensor_{full}_{architecture}.deb"), &package)?;
    let base = format!("sensor-{version}-linux-{machine}");
    let tarball = tarball(place, &parts)?.tar_gz(&format!("{base}/"), unsigned(seconds)?)?;
    write(format!("{base}.tar.gz"), &tarball)?;
    names.sort();
    let mut sums = String::new();
    for name in &names {
        let digest = Sha256::digest(fs::read(folder.join(name))?);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        sums.push_str(&format!("{hex}  {name}\n"));
    }
    fs::write(folder.join("SHA256SUMS"), sums)?;
    Ok(folder)
}

/// What is made once for all archives.
#[derive(Debug)]
pub(crate) struct Parts {
    program: Vec<u8>,
    node: Vec<u8>,
    bill: String,
    licences: Vec<u8>,
}

impl Parts {
    /// Of the package alone, for tests of it.
    pub(crate) fn of(program: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            program: fs::read(program)?,
            node: Vec::new(),
            bill: String::new(),
            licences: Vec::new(),
        })
    }
}

/// The Debian package of the sensor.
pub(crate) fn package(
    place: &Place,
    parts: &Parts,
    version: &str,
    seconds: i64,
) -> anyhow::Result<Vec<u8>> {
    let toolchain = Toolchain::find(place)?;
    let machine = toolchain.host.split('-').next().context("a target")?;
    let packaging = place.root.join("packaging");
    let mut scripts = Vec::new();
    for name in SCRIPTS {
        scripts.push((
            name,
            text(&packaging.join(format!("debian/sensor.{name}")))?,
        ));
    }
    let scripts: Vec<(&str, &str)> = scripts
        .iter()
        .map(|(name, script)| (*name, script.as_str()))
        .collect();
    let control = Control {
        package: "sensor",
        version,
        architecture: architecture(machine)?,
        maintainer: MAINTAINER,
        description: DESCRIPTION,
        scripts: &scripts,
    };
    deb::package(
        &control,
        &package_tree(place, parts, version, seconds)?,
        unsigned(seconds)?,
    )
}

/// What the package puts where.
pub(crate) fn package_tree(
    place: &Place,
    parts: &Parts,
    version: &str,
    seconds: i64,
) -> anyhow::Result<Tree> {
    let packaging = place.root.join("packaging");
    let mut tree = Tree::default();
    for (path, mode) in FOLDERS {
        tree.folder(path, mode);
    }
    tree.file("usr/sbin/sensor", 0o755, parts.program.clone());
    for (from, to, mode) in SHIPPED {
        tree.file(to, mode, bytes(&packaging.join(from))?);
    }
    for (from, to) in COMPLETIONS {
        tree.file(to, 0o644, bytes(&packaging.join("completions").join(from))?);
    }
    let page = bytes(&packaging.join("man/sensor.8"))?;
    tree.file("usr/share/man/man8/sensor.8.gz", 0o644, gz(&page)?);
    let doc = |name: &str| format!("usr/share/doc/sensor/{name}");
    tree.file(&doc("copyright"), 0o644, copyright(place)?);
    let changes = bytes(&place.root.join("CHANGELOG.md"))?;
    tree.file(&doc("changelog.gz"), 0o644, gz(&changes)?);
    let when = OffsetDateTime::from_unix_timestamp(seconds)?.format(&Rfc2822)?;
    let entry = format!(
        "sensor ({version}) unstable; urgency=medium\n\n  * Package of this version; what is new stands in changelog.gz.\n\n \
         -- {MAINTAINER}  {when}\n"
    );
    tree.file(&doc("changelog.Debian.gz"), 0o644, gz(entry.as_bytes())?);
    tree.file(&doc("sensor.cdx.json"), 0o644, parts.bill.as_bytes());
    tree.file(
        &doc("third-party-licences.gz"),
        0o644,
        parts.licences.clone(),
    );
    Ok(tree)
}

/// Programs and all that they come with, for hosts without packages: `sensor install` does the rest.
fn tarball(place: &Place, parts: &Parts) -> anyhow::Result<Tree> {
    let packaging = place.root.join("packaging");
    let mut tree = Tree::default();
    tree.file("sensor", 0o755, parts.program.clone());
    tree.file("central-node", 0o755, parts.node.clone());
    for (from, _, _) in SHIPPED {
        let name = Path::new(from).file_name().context("a name")?;
        tree.file(
            &name.to_string_lossy(),
            0o644,
            bytes(&packaging.join(from))?,
        );
    }
    for (from, _) in COMPLETIONS {
        let path = format!("completions/{from}");
        tree.file(&path, 0o644, bytes(&packaging.join(&path))?);
    }
    tree.file(
        "man/sensor.8",
        0o644,
        bytes(&packaging.join("man/sensor.8"))?,
    );
    for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        tree.file(name, 0o644, bytes(&place.root.join(name))?);
    }
    tree.file("sensor.cdx.json", 0o644, parts.bill.as_bytes());
    tree.file("third-party-licences.gz", 0o644, parts.licences.clone());
    Ok(tree)
}

/// The file `copyright`, with the text of the MIT licence in its place.
fn copyright(place: &Place) -> anyhow::Result<String> {
    let form = text(&place.root.join("packaging/debian/copyright"))?;
    let licence = text(&place.root.join("LICENSE-MIT"))?;
    // Name and holder stand in the form already.
    let (_, terms) = licence
        .split_once("\n\nPermission")
        .context("the text of the MIT licence")?;
    let terms: Vec<String> = format!("Permission{terms}")
        .trim_end()
        .lines()
        .map(|line| match line {
            "" => " .".to_owned(),
            line => format!(" {line}"),
        })
        .collect();
    ensure!(form.contains("@MIT@"), "no place for the MIT licence");
    Ok(form.replace("@MIT@", &terms.join("\n")))
}

/// The time that files bear: SOURCE_DATE_EPOCH, else that of the commit.
fn source_date(place: &Place) -> anyhow::Result<i64> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return epoch.parse().context("SOURCE_DATE_EPOCH");
    }
    let text = output(
        Command::new("git")
            .args(["log", "-1", "--format=%ct"])
            .current_dir(&place.root),
    )
    .context("outside of git SOURCE_DATE_EPOCH must be set")?;
    text.trim().parse().context("the time of the commit")
}

/// The same for packages that are only tested: any time will do where there is no git to ask.
pub(crate) fn source_date_for_a_test(place: &Place) -> i64 {
    source_date(place).unwrap_or(1_700_000_000)
}

fn unsigned(seconds: i64) -> anyhow::Result<u64> {
    u64::try_from(seconds).context("a time before 1970")
}

/// A machine as Debian calls it.
fn architecture(machine: &str) -> anyhow::Result<&'static str> {
    match machine {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        _ => anyhow::bail!("Debian's name of {machine} is not known"),
    }
}

fn bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

fn text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            program: b"program".to_vec(),
            node: b"node".to_vec(),
            bill: "{}".to_owned(),
            licences: Vec::new(),
        }
    }

    #[test]
    fn the_package_has_all_that_belongs_to_a_service() {
        let place = Place::find().unwrap();
        let tree = package_tree(&place, &parts(), "1.2.3-1", 1_700_000_000).unwrap();
        let names: Vec<&str> = tree.files().map(|(path, _)| path).collect();
        for expected in [
            "etc/sensor/sensor.toml",
            "usr/lib/systemd/system/sensor.service",
            "usr/sbin/sensor",
            "usr/share/bash-completion/completions/sensor",
            "usr/share/doc/sensor/changelog.Debian.gz",
            "usr/share/doc/sensor/changelog.gz",
            "usr/share/doc/sensor/copyright",
            "usr/share/fish/vendor_completions.d/sensor.fish",
            "usr/share/man/man8/sensor.8.gz",
            "usr/share/zsh/vendor-completions/_sensor",
        ] {
            assert!(names.contains(&expected), "{expected} in {names:?}");
        }
        let copyright = copyright(&place).unwrap();
        assert!(copyright.contains("\n Permission is hereby granted"));
        assert!(copyright.contains("\n .\n THE SOFTWARE IS PROVIDED"));
    }

    #[test]
    fn the_scripts_are_sound_and_know_every_folder() {
        let place = Place::find().unwrap();
        for name in SCRIPTS {
            let path = place.root.join(format!("packaging/debian/sensor.{name}"));
            output(Command::new("sh").arg("-n").arg(&path)).unwrap();
            assert!(text(&path).unwrap().starts_with("#!/bin/sh\n"));
        }
        let postrm = text(&place.root.join("packaging/debian/sensor.postrm")).unwrap();
        for folder in ["/var/lib/sensor", "/var/log/sensor", "/etc/sensor"] {
            assert!(postrm.contains(folder), "{folder}");
        }
    }

    #[test]
    fn the_same_sources_give_the_same_package() {
        let place = Place::find().unwrap();
        let make = || package(&place, &parts(), "1.2.3-1", 1_700_000_000).unwrap();
        assert_eq!(make(), make());
    }
}
