//! `cargo xtask dist`: what is released, below target/dist: a Debian package, a tarball, bills of materials, sums. The same
//! commit gives the same bytes.

pub(crate) mod deb;
pub(crate) mod licences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::archive::{Style, Tree, gz};
use crate::command::output;
use crate::dist::deb::Control;
use crate::place::{Place, Toolchain};
use crate::sbom;
use crate::static_programs::StaticPrograms;

const MAINTAINER: &str = "The sensor authors <sensor@localhost>";
/// Number of the package among those of one version.
const REVISION: &str = "1";
/// What a package has, and where.
#[derive(Debug)]
pub(crate) struct Kind {
    /// As dpkg calls it.
    pub(crate) name: &'static str,
    /// The program's name.
    program: &'static str,
    /// Where it is.
    place: &'static str,
    description: &'static str,
    /// Folders that are empty at first, and their modes.
    folders: &'static [(&'static str, u32)],
    /// The configuration: file of packaging/, where it is, mode.
    configuration: (&'static str, &'static str, u32),
}

pub(crate) const SENSOR: Kind = Kind {
    name: "sensor",
    program: "sensor",
    place: "usr/sbin/sensor",
    description: "\
endpoint telemetry sensor
Reports programs that run and end, files that are created, connections that
are made and kernel modules that are loaded, each with its process, user,
parents, container and hashes, and accounts for every event: delivered,
filtered on purpose, or counted as lost.

It loads eBPF programs into the kernel: Linux 5.10 or newer with BTF.",
    folders: &[
        ("etc/sensor", 0o750),
        ("etc/sensor/conf.d", 0o750),
        ("etc/sensor/tls", 0o700),
        ("var/lib/sensor", 0o700),
        ("var/log/sensor", 0o700),
    ],
    configuration: ("sensor.toml", "etc/sensor/sensor.toml", 0o640),
};

/// Its name begins with that of the whole, since "central node" alone says nothing on a machine.
pub(crate) const NODE: Kind = Kind {
    name: "sensor-central-node",
    program: "central-node",
    place: "usr/bin/central-node",
    description: "\
receiver of the telemetry packets of sensors
Takes packets from the sensors of a fleet over mutual TLS, keeps each once,
says what is complete and what is missing, and answers queries. One program,
one SQLite file, no other service.",
    folders: &[("etc/central-node", 0o755), ("etc/central-node/tls", 0o700)],
    configuration: (
        "central-node.toml",
        "etc/central-node/central-node.toml",
        0o644,
    ),
};

impl Kind {
    /// The unit below packaging/, and where packages have it.
    fn unit(&self) -> (String, String) {
        let name = format!("{}.service", self.program);
        (
            format!("systemd/{name}"),
            format!("usr/lib/systemd/system/{name}"),
        )
    }

    /// Completions below packaging/, and where shells look for them.
    fn completions(&self) -> [(String, String); 3] {
        let name = self.program;
        [
            (
                format!("completions/{name}.bash"),
                format!("usr/share/bash-completion/completions/{name}"),
            ),
            (
                format!("completions/{name}.fish"),
                format!("usr/share/fish/vendor_completions.d/{name}.fish"),
            ),
            (
                format!("completions/_{name}"),
                format!("usr/share/zsh/vendor-completions/_{name}"),
            ),
        ]
    }
}

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// The task.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    let programs = StaticPrograms::release(place)?;
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
    let licences = gz(licences::texts(place)?.as_bytes())?;
    let full = format!("{version}-{REVISION}");
    let architecture = architecture(machine)?;
    let mut all = Vec::new();
    for (kind, program) in [(SENSOR, &programs.sensor), (NODE, &programs.node)] {
        let bill = sbom::cyclonedx(place, kind.program, seconds)?;
        write(
            format!("{}-{version}.cdx.json", kind.program),
            bill.as_bytes(),
        )?;
        let parts = Parts {
            program: bytes(program)?,
            bill,
            licences: licences.clone(),
        };
        let package = package(place, &kind, &parts, &full, seconds)?;
        write(format!("{}_{full}_{architecture}.deb", kind.name), &package)?;
        all.push((kind, parts));
    }
    let base = format!("sensor-{version}-linux-{machine}");
    let tarball = tarball(place, &all)?.tar(Style::Below(&base), unsigned(seconds)?)?;
    write(format!("{base}.tar.gz"), &gz(&tarball)?)?;
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

/// What a package has that is made, not found in packaging/.
#[derive(Debug)]
pub(crate) struct Parts {
    program: Vec<u8>,
    bill: String,
    licences: Vec<u8>,
}

impl Parts {
    /// For tests of the package: without what takes long to make.
    pub(crate) fn of(program: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            program: bytes(program)?,
            bill: String::new(),
            licences: Vec::new(),
        })
    }
}

/// A Debian package.
pub(crate) fn package(
    place: &Place,
    kind: &Kind,
    parts: &Parts,
    version: &str,
    seconds: i64,
) -> anyhow::Result<Vec<u8>> {
    let toolchain = Toolchain::find(place)?;
    let machine = toolchain.host.split('-').next().context("a target")?;
    let scripts = SCRIPTS
        .iter()
        .map(|script| Ok((*script, text(&script_path(place, kind, script))?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let scripts: Vec<(&str, &str)> = scripts
        .iter()
        .map(|(name, script)| (*name, script.as_str()))
        .collect();
    let control = Control {
        package: kind.name,
        version,
        architecture: architecture(machine)?,
        maintainer: MAINTAINER,
        description: kind.description,
        scripts: &scripts,
    };
    deb::package(
        &control,
        &package_tree(place, kind, parts, version, seconds)?,
        unsigned(seconds)?,
    )
}

fn script_path(place: &Place, kind: &Kind, script: &str) -> PathBuf {
    let name = format!("packaging/debian/{}.{script}", kind.name);
    place.root.join(name)
}

/// What a package puts where.
fn package_tree(
    place: &Place,
    kind: &Kind,
    parts: &Parts,
    version: &str,
    seconds: i64,
) -> anyhow::Result<Tree> {
    let packaging = place.root.join("packaging");
    let mut tree = Tree::default();
    for (path, mode) in kind.folders {
        tree.folder(path, *mode)?;
    }
    tree.file(kind.place, 0o755, parts.program.clone())?;
    let (from, to, mode) = kind.configuration;
    tree.copy(to, mode, &packaging.join(from))?;
    let (from, to) = kind.unit();
    tree.copy(&to, 0o644, &packaging.join(from))?;
    for (from, to) in kind.completions() {
        tree.copy(&to, 0o644, &packaging.join(from))?;
    }
    let program = kind.program;
    let page = bytes(&packaging.join(format!("man/{program}.8")))?;
    tree.file(
        &format!("usr/share/man/man8/{program}.8.gz"),
        0o644,
        gz(&page)?,
    )?;
    let doc = |name: &str| format!("usr/share/doc/{}/{name}", kind.name);
    tree.file(&doc("copyright"), 0o644, copyright(place)?)?;
    let changes = bytes(&place.root.join("CHANGELOG.md"))?;
    tree.file(&doc("changelog.gz"), 0o644, gz(&changes)?)?;
    let when = OffsetDateTime::from_unix_timestamp(seconds)?.format(&Rfc2822)?;
    let entry = format!(
        "{} ({version}) unstable; urgency=medium\n\n  * Package of this version; what is new stands in changelog.gz.\n\n \
         -- {MAINTAINER}  {when}\n",
        kind.name
    );
    tree.file(&doc("changelog.Debian.gz"), 0o644, gz(entry.as_bytes())?)?;
    tree.file(
        &doc(&format!("{program}.cdx.json")),
        0o644,
        parts.bill.as_bytes(),
    )?;
    tree.file(
        &doc("third-party-licences.gz"),
        0o644,
        parts.licences.clone(),
    )?;
    Ok(tree)
}

/// Programs and all that they come with, for hosts without packages: `sensor install` does the rest.
fn tarball(place: &Place, all: &[(Kind, Parts)]) -> anyhow::Result<Tree> {
    let packaging = place.root.join("packaging");
    let mut tree = Tree::default();
    for (kind, parts) in all {
        tree.file(kind.program, 0o755, parts.program.clone())?;
        let bill = format!("{}.cdx.json", kind.program);
        tree.file(&bill, 0o644, parts.bill.as_bytes())?;
        let (unit, _) = kind.unit();
        let (configuration, _, _) = kind.configuration;
        for from in [unit.as_str(), configuration] {
            let name = Path::new(from).file_name().context("a name")?;
            tree.copy(&name.to_string_lossy(), 0o644, &packaging.join(from))?;
        }
        for (from, _) in kind.completions() {
            tree.copy(&from, 0o644, &packaging.join(&from))?;
        }
        let page = format!("man/{}.8", kind.program);
        tree.copy(&page, 0o644, &packaging.join(&page))?;
    }
    for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        tree.copy(name, 0o644, &place.root.join(name))?;
    }
    let (_, parts) = all.first().context("a program")?;
    tree.file("third-party-licences.gz", 0o644, parts.licences.clone())?;
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
            bill: "{}".to_owned(),
            licences: Vec::new(),
        }
    }

    fn check(kind: &Kind, expected: &[&str]) {
        let place = Place::find().unwrap();
        let tree = package_tree(&place, kind, &parts(), "1.2.3-1", 1_700_000_000).unwrap();
        let names: Vec<&str> = tree.files().map(|(path, _)| path).collect();
        let doc = ["changelog.Debian.gz", "changelog.gz", "copyright"]
            .map(|name| format!("usr/share/doc/{}/{name}", kind.name));
        for expected in doc
            .iter()
            .map(String::as_str)
            .chain(expected.iter().copied())
        {
            assert!(names.contains(&expected), "{expected} in {names:?}");
        }
    }

    #[test]
    fn packages_have_all_that_belongs_to_a_service() {
        check(
            &SENSOR,
            &[
                "etc/sensor/sensor.toml",
                "usr/lib/systemd/system/sensor.service",
                "usr/sbin/sensor",
                "usr/share/bash-completion/completions/sensor",
                "usr/share/doc/sensor/sensor.cdx.json",
                "usr/share/fish/vendor_completions.d/sensor.fish",
                "usr/share/man/man8/sensor.8.gz",
                "usr/share/zsh/vendor-completions/_sensor",
            ],
        );
        check(
            &NODE,
            &[
                "etc/central-node/central-node.toml",
                "usr/bin/central-node",
                "usr/lib/systemd/system/central-node.service",
                "usr/share/bash-completion/completions/central-node",
                "usr/share/doc/sensor-central-node/central-node.cdx.json",
                "usr/share/man/man8/central-node.8.gz",
            ],
        );
        let copyright = copyright(&Place::find().unwrap()).unwrap();
        assert!(copyright.contains("\n Permission is hereby granted"));
        assert!(copyright.contains("\n .\n THE SOFTWARE IS PROVIDED"));
    }

    #[test]
    fn the_scripts_are_sound_and_know_every_folder() {
        let place = Place::find().unwrap();
        for (kind, folders) in [
            (
                SENSOR,
                ["/var/lib/sensor", "/var/log/sensor", "/etc/sensor"].as_slice(),
            ),
            (
                NODE,
                [
                    "/var/lib/central-node",
                    "/var/lib/private/central-node",
                    "/etc/central-node",
                ]
                .as_slice(),
            ),
        ] {
            for name in SCRIPTS {
                let path = script_path(&place, &kind, name);
                output(Command::new("sh").arg("-n").arg(&path)).unwrap();
                assert!(text(&path).unwrap().starts_with("#!/bin/sh\n"));
            }
            let postrm = text(&script_path(&place, &kind, "postrm")).unwrap();
            for folder in folders {
                assert!(postrm.contains(folder), "{folder}");
            }
        }
    }

    #[test]
    fn the_same_sources_give_the_same_package() {
        let place = Place::find().unwrap();
        for kind in [SENSOR, NODE] {
            let make = || package(&place, &kind, &parts(), "1.2.3-1", 1_700_000_000).unwrap();
            assert_eq!(make(), make());
        }
    }
}
