//! Guests with a Debian of their own: packages of the kernel's Debian release, unpacked into an initramfs in which systemd is
//! process 1 and dpkg knows what is installed. Maintainer scripts do not run; the little of what they do that a guest needs is
//! done here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use tar::EntryType;

use crate::apt::Apt;
use crate::command::output;
use crate::dist::{self, Parts};
use crate::matrix::Cell;
use crate::place::Place;
use crate::static_programs::StaticPrograms;
use crate::vm::image::Image;

/// What every Debian has (the essential packages), and systemd as process 1.
const PACKAGES: [&str; 25] = [
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "login",
    "mount",
    "ncurses-base",
    "passwd",
    "perl-base",
    "sed",
    "systemd-sysv",
    "sysvinit-utils",
    "tar",
    "util-linux",
];
/// Changed when the list above or what is done with it changes.
const FOLDER: &str = "debian-1";
/// Not needed by any test, and half of all bytes.
const LEFT_OUT: [&str; 6] = [
    "usr/share/doc/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/zoneinfo/",
];
/// Folders of the root that are links into usr, as in every Debian since 12.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// The unit that runs the suite. It outlives what it starts, and powers the guest off when it ends.
const UNIT: &str = "\
[Unit]
Description=Test suite
After=multi-user.target

[Service]
Type=exec
ExecStart=/usr/lib/sensor-tests/run
ExecStopPost=/bin/systemctl poweroff --force --force

[Install]
WantedBy=multi-user.target
";
/// A version of the package that is newer than the one that is released, to upgrade to.
const NEWER: &str = "+upgrade-1";

/// Process 1 of these guests.
pub(crate) const INIT: &str = "/lib/systemd/systemd";

/// The file system for one cell: what all cells of a release share, then what is this one's.
pub(crate) fn file_system(
    place: &Place,
    built: &StaticPrograms,
    cell: &Cell,
    arguments: &[String],
) -> anyhow::Result<Vec<u8>> {
    let mut bytes = fs::read(base(place, &cell.kernel.suite, &cell.suite.packages)?)?;
    let mut image = Image::default();
    image.copy("/usr/lib/sensor-tests/run", 0o755, &built.init)?;
    let test = format!("/usr/lib/sensor-tests/{}", cell.suite.test);
    image.copy(&test, 0o755, built.test(&cell.suite.test)?)?;
    let seconds = dist::source_date_for_a_test(place);
    let version = env!("CARGO_PKG_VERSION");
    for (kind, program) in [(dist::SENSOR, &built.sensor), (dist::NODE, &built.node)] {
        let parts = Parts::of(program)?;
        for (suffix, version) in [
            ("", format!("{version}-1")),
            ("-newer", format!("{version}{NEWER}")),
        ] {
            let package = dist::package(place, &kind, &parts, &version, seconds)?;
            let path = format!("/usr/lib/sensor-tests/{}{suffix}.deb", kind.name);
            image.bytes(&path, 0o644, &package)?;
        }
    }
    image.text("/etc/systemd/system/sensor-vm.service", 0o644, UNIT)?;
    image.link(
        "/etc/systemd/system/multi-user.target.wants/sensor-vm.service",
        "../sensor-vm.service",
    )?;
    // Nobody logs in.
    image.link("/etc/systemd/system/getty.target", "/dev/null")?;
    let mut job = format!("timeout={}\n", cell.suite.timeout_seconds);
    job.push_str("env=SENSOR_GUEST=1\nenv=SENSOR_PACKAGES=/usr/lib/sensor-tests\n");
    job.push_str(&format!("argument={test}\nargument=--test-threads=1\n"));
    for argument in cell.suite.arguments.iter().chain(arguments) {
        job.push_str(&format!("argument={argument}\n"));
    }
    image.text("/etc/sensor-vm/job", 0o644, &job)?;
    bytes.extend(image.finish()?);
    Ok(bytes)
}

/// The archive of a Debian release with these further packages, made once and kept.
fn base(place: &Place, suite: &str, further: &[String]) -> anyhow::Result<PathBuf> {
    let vm = place.target.join("vm");
    let folder = vm.join(FOLDER);
    let name = [&[suite.to_owned()], further].concat().join("+");
    let path = folder.join(format!("{name}.cpio"));
    if path.exists() {
        return Ok(path);
    }
    println!("fetching a Debian {name}");
    fs::create_dir_all(&folder)?;
    let apt = Apt::open(&vm.join(format!("apt-{suite}")), &[suite])?;
    let fresh = tempfile::tempdir_in(&folder)?;
    // Its maintainer script merges a root that is not; ours is from the start. The other package only says so.
    let mut packages = PACKAGES.to_vec();
    packages.extend(further.iter().map(String::as_str));
    if !apt.candidates("usr-is-merged")?.is_empty() {
        packages.push("usr-is-merged");
    }
    apt.fetch_with_dependencies(&packages, fresh.path())?;
    let mut root = Root::default();
    for package in debs(fresh.path())? {
        root.add(&package)
            .with_context(|| package.display().to_string())?;
    }
    let unfinished = folder.join(format!("{name}.new"));
    fs::write(&unfinished, root.finish()?)?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

/// The package files of a folder, in order.
fn debs(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "apt fetched no package");
    Ok(found)
}

/// A root file system being put together.
#[derive(Debug, Default)]
struct Root {
    image: Image,
    /// Content of regular files that hard links may name, by path.
    files: BTreeMap<String, (u32, Vec<u8>)>,
    links: BTreeMap<String, String>,
    folders: BTreeMap<String, u32>,
    /// dpkg's list of what is installed.
    status: String,
    /// dpkg's lists of files.
    lists: Vec<(String, String)>,
}

impl Root {
    /// Takes what is in a package.
    fn add(&mut self, package: &Path) -> anyhow::Result<()> {
        let field = |name: &[&str]| {
            output(
                Command::new("dpkg-deb")
                    .arg("--field")
                    .arg(package)
                    .args(name),
            )
        };
        let fields = field(&[])?;
        let (first, rest) = fields.split_once('\n').context("fields")?;
        ensure!(first.starts_with("Package: "), "no name: {first:?}");
        self.status.push_str(&format!(
            "{first}\nStatus: install ok installed\n{}\n\n",
            rest.trim_end()
        ));
        let name = field(&["Package"])?.trim().to_owned();
        let architecture = field(&["Architecture"])?.trim().to_owned();
        let same = field(&["Multi-Arch"])?.trim() == "same";
        let mut list = String::from("/.\n");
        let mut reader = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start dpkg-deb")?;
        let pipe = reader.stdout.take().context("dpkg-deb's output")?;
        let mut archive = tar::Archive::new(pipe);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = plain(&entry.path()?)?;
            if path.is_empty() || LEFT_OUT.iter().any(|start| path.starts_with(start)) {
                continue;
            }
            list.push_str(&format!("/{path}\n"));
            self.entry(&merged(&path), &mut entry)?;
        }
        // What follows the archive's end is read too, so that dpkg-deb does not die of a closed pipe.
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink())?;
        ensure!(reader.wait()?.success(), "dpkg-deb failed");
        let name = if same {
            format!("{name}:{architecture}")
        } else {
            name
        };
        self.lists.push((name, list));
        Ok(())
    }

    fn entry(
        &mut self,
        path: &str,
        entry: &mut tar::Entry<'_, impl std::io::Read>,
    ) -> anyhow::Result<()> {
        let mode = entry.header().mode()? & 0o7777;
        let kind = entry.header().entry_type();
        if kind == EntryType::Directory {
            self.folders.insert(path.to_owned(), mode);
        } else if kind == EntryType::Regular {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            self.files.insert(path.to_owned(), (mode, content));
        } else if kind == EntryType::Symlink {
            self.links.insert(path.to_owned(), target(entry)?);
        } else if kind == EntryType::Link {
            let target = merged(&plain(Path::new(&target(entry)?))?);
            let file = self.files.get(&target).cloned();
            let file = file.with_context(|| format!("{path}: no {target}"))?;
            self.files.insert(path.to_owned(), file);
        } else {
            bail!("{path}: {kind:?}");
        }
        Ok(())
    }

    /// The archive.
    fn finish(self) -> anyhow::Result<Vec<u8>> {
        let mut image = self.image;
        image.folder("/", 0o755)?;
        for (path, mode) in &self.folders {
            if !MERGED.contains(&path.as_str()) {
                image.folder(path, *mode)?;
            }
        }
        for name in MERGED {
            image.folder(&format!("/usr/{name}"), 0o755)?;
            image.link(&format!("/{name}"), &format!("usr/{name}"))?;
        }
        for (path, target) in &self.links {
            image.link(&format!("/{path}"), target)?;
        }
        for (path, (mode, content)) in &self.files {
            image.bytes(&format!("/{path}"), *mode, content)?;
        }
        // From here on what maintainer scripts do.
        for (name, tester) in [
            ("passwd", "tester:x:1000:1000:tester:/home/tester:/bin/sh"),
            ("group", "tester:x:1000:"),
        ] {
            let (_, content) = self
                .files
                .get(&format!("usr/share/base-passwd/{name}.master"))
                .with_context(|| format!("the first {name}"))?;
            let mut content = content.clone();
            writeln!(content, "{tester}")?;
            image.bytes(&format!("/etc/{name}"), 0o644, &content)?;
        }
        image.text("/etc/hostname", 0o644, "guest\n")?;
        image.text(
            "/etc/hosts",
            0o644,
            "127.0.0.1 localhost guest\n::1 localhost\n",
        )?;
        // Without one this would be the first boot, and systemd would preset every unit.
        image.text(
            "/etc/machine-id",
            0o444,
            "5e4502a1f0c64b7d9b3f6d2c8a917e40\n",
        )?;
        for (path, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
            if !self.links.contains_key(path.trim_start_matches('/')) {
                image.link(path, target)?;
            }
        }
        image.text("/var/lib/dpkg/status", 0o644, &self.status)?;
        image.folder("/var/lib/dpkg/updates", 0o755)?;
        for (name, list) in &self.lists {
            image.text(&format!("/var/lib/dpkg/info/{name}.list"), 0o644, list)?;
        }
        image.finish()
    }
}

/// What a link names.
fn target(entry: &tar::Entry<'_, impl std::io::Read>) -> anyhow::Result<String> {
    let target = entry.link_name()?.context("a link's target")?;
    Ok(target.to_str().context("a link's target")?.to_owned())
}

/// A path without the signs at its ends: `usr/bin` for `./usr/bin/`.
fn plain(path: &Path) -> anyhow::Result<String> {
    let path = path.to_str().context("a path that is no text")?;
    let path = path.trim_start_matches("./").trim_matches('/');
    ensure!(!path.split('/').any(|part| part == ".."), "{path:?}");
    Ok(if path == "." { "" } else { path }.to_owned())
}

/// Where a file is in a root whose folders are merged: `usr/bin/sh` for `bin/sh`.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) && path != first {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Tree;

    #[test]
    fn paths_are_made_plain_and_merged() {
        for (path, expected) in [
            ("./", ""),
            ("./bin/sh", "usr/bin/sh"),
            ("./lib/systemd/systemd", "usr/lib/systemd/systemd"),
            ("./lib64/", "lib64"),
            ("./usr/bin/env", "usr/bin/env"),
            ("./libexec/x", "libexec/x"),
            ("./etc/", "etc"),
        ] {
            assert_eq!(merged(&plain(Path::new(path)).unwrap()), expected, "{path}");
        }
        plain(Path::new("./usr/../etc")).unwrap_err();
    }

    #[test]
    fn a_package_ends_up_in_the_archive_and_in_dpkgs_list() {
        let mut tree = Tree::default();
        tree.file("bin/demo", 0o755, "program").unwrap();
        tree.file("usr/share/doc/demo/readme", 0o644, "left out")
            .unwrap();
        for name in ["passwd", "group"] {
            tree.file(
                &format!("usr/share/base-passwd/{name}.master"),
                0o644,
                "root:x:0:\n",
            )
            .unwrap();
        }
        let control = dist::deb::Control {
            package: "demo",
            version: "1.0-1",
            architecture: "amd64",
            maintainer: "Somebody <somebody@example.org>",
            description: "a demo",
            scripts: &[],
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.deb");
        fs::write(&path, dist::deb::package(&control, &tree, 1).unwrap()).unwrap();
        let mut root = Root::default();
        for package in debs(folder.path()).unwrap() {
            root.add(&package).unwrap();
        }
        assert!(
            root.status
                .starts_with("Package: demo\nStatus: install ok installed\nVersion: 1.0-1\n"),
            "{}",
            root.status
        );
        assert_eq!(root.files["usr/bin/demo"], (0o755, b"program".to_vec()));
        let bytes = root.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("usr/bin/demo\0") && text.contains("tester:x:1000:"));
        assert!(!text.contains("left out"));
    }
}
