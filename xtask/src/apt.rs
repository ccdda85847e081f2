//! A private apt root: Debian packages of any suite, fetched from the machine's own mirror and unpacked
//! below the target directory. It never writes to the machine's package state or configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::command::{output, quiet};

/// Debian's own keyring, of package debian-archive-keyring; newer versions of it have another suffix.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];
/// Index files younger than this are not fetched again.
const FRESH: Duration = Duration::from_secs(12 * 3600);

/// A package index of our own over some suites.
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
}

/// One version of a package in the index.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    /// Debian version.
    pub(crate) version: String,
}

impl Apt {
    /// Makes the root in `dir` and fetches the index of `suites` unless a fresh one is there.
    pub(crate) fn open(dir: &Path, suites: &[&str]) -> anyhow::Result<Self> {
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).exists()).with_context(|| {
            format!(
                "{} is missing: this needs a Debian-like machine with package debian-archive-keyring",
                KEYRINGS[0]
            )
        })?;
        let apt = Self {
            dir: dir.to_owned(),
        };
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(folder))?;
        }
        let mirror = mirror(Path::new("/etc/apt"))?;
        let mut sources = String::new();
        for suite in suites {
            sources.push_str(&format!(
                "deb [signed-by={keyring}] {mirror} {suite} main\n"
            ));
        }
        let changed = write_if_changed(&dir.join("sources.list"), &sources)?;
        // The machine's own settings (proxy, credentials) stay in force; its hooks must not run for us. No locks: this folder is
        // ours, and the lock of what is installed would lie beside /dev/null, the same for everybody on this machine.
        let path = dir.display();
        let settings = format!(
            "Dir::Etc::sourcelist \"{path}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\n\
             Dir::State::lists \"{path}/lists\";\n\
             Dir::State::status \"/dev/null\";\n\
             Dir::State::extended_states \"{path}/extended_states\";\n\
             Dir::Cache \"{path}/cache\";\n\
             Dir::Cache::archives \"{path}/cache/archives\";\n\
             Dir::Log \"{path}\";\n\
             APT::Sandbox::User \"root\";\n\
             APT::Install-Recommends \"false\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             Debug::NoLocking \"true\";\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons-small;\n\
             #clear Acquire::IndexTargets::deb::DEP-11-icons;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n\
             #clear DPkg::Pre-Install-Pkgs;\n"
        );
        write_if_changed(&dir.join("apt.conf"), &settings)?;
        let stamp = dir.join("updated");
        if changed || !is_fresh(&stamp) {
            quiet(apt.get().arg("-qq").arg("update").arg("--error-on=any")).with_context(|| {
                format!("cannot fetch the package index of {}", suites.join(", "))
            })?;
            fs::write(&stamp, "")?;
        }
        Ok(apt)
    }

    /// The versions of a package that the index holds, best first.
    pub(crate) fn candidates(&self, package: &str) -> anyhow::Result<Vec<Candidate>> {
        let table = output(self.command("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| Candidate {
                version: version.trim().to_owned(),
            })
            .collect())
    }

    /// Fetches exactly this version of a package, without what it depends on, and unpacks it into `into`.
    pub(crate) fn unpack_version(
        &self,
        package: &str,
        candidate: &Candidate,
        into: &Path,
    ) -> anyhow::Result<()> {
        self.unpack(&format!("{package}={}", candidate.version), into)
    }

    /// Fetches the best version of a package, without what it depends on, and unpacks it into `into`.
    pub(crate) fn unpack(&self, package: &str, into: &Path) -> anyhow::Result<()> {
        let folder = tempfile::tempdir_in(&self.dir)?;
        quiet(
            self.get()
                .args(["-qq", "download", package])
                .current_dir(folder.path()),
        )?;
        unpack_all(folder.path(), into)
    }

    /// Fetches packages of a release with all that they depend on, and unpacks them into `into`.
    pub(crate) fn unpack_with_dependencies(
        &self,
        release: &str,
        packages: &[&str],
        into: &Path,
    ) -> anyhow::Result<()> {
        let archives = self.dir.join("cache/archives");
        quiet(
            self.get()
                .args([
                    "-qq",
                    "-y",
                    "--download-only",
                    "--no-install-recommends",
                    "-t",
                    release,
                ])
                .arg("install")
                .args(packages),
        )?;
        unpack_all(&archives, into)?;
        quiet(self.get().arg("clean"))
    }

    /// Fetches the best versions of packages with all that they depend on into `into`, packed.
    pub(crate) fn fetch_with_dependencies(
        &self,
        packages: &[&str],
        into: &Path,
    ) -> anyhow::Result<()> {
        fs::create_dir_all(into.join("partial"))?;
        let archives = format!("Dir::Cache::archives={}", into.display());
        quiet(
            self.get()
                .args(["-qq", "-y", "--download-only", "--no-install-recommends"])
                .args(["-o", &archives])
                .arg("install")
                .args(packages),
        )
    }

    /// The names that the best version of a package depends on, alternatives included.
    pub(crate) fn depends(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let list = output(self.command("apt-cache").args(["depends", package]))?;
        Ok(list
            .lines()
            .filter_map(|line| line.split_once("Depends: "))
            .map(|(_, name)| name.trim_matches(['<', '>']).to_owned())
            .collect())
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.dir.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        command
    }
}

/// A program of an unpacked root, started by the root's own loader with its own libraries, whatever this machine has.
pub(crate) fn program(root: &Path, path: &Path) -> anyhow::Result<Command> {
    const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let folders: Vec<_> = LIBRARIES.iter().map(|folder| root.join(folder)).collect();
    let loader = folders
        .iter()
        .map(|folder| folder.join("ld-linux-x86-64.so.2"))
        .find(|loader| loader.exists())
        .with_context(|| format!("no loader in {}", root.display()))?;
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(std::env::join_paths(&folders)?)
        .arg(root.join(path));
    Ok(command)
}

/// Unpacks every package file of a folder.
fn unpack_all(folder: &Path, into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into)?;
    let mut count = 0_usize;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            quiet(Command::new("dpkg").arg("-x").arg(&path).arg(into))?;
            count += 1;
        }
    }
    ensure!(
        count > 0,
        "apt fetched no package into {}",
        folder.display()
    );
    Ok(())
}

fn is_fresh(stamp: &Path) -> bool {
    fs::metadata(stamp)
        .and_then(|data| data.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < FRESH))
}

/// Writes a file only if its content differs; says whether it did.
pub(crate) fn write_if_changed(path: &Path, content: &str) -> anyhow::Result<bool> {
    if fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// The Debian mirror that this machine itself uses, read from its apt sources.
fn mirror(etc_apt: &Path) -> anyhow::Result<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut parts: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        parts.sort();
        files.append(&mut parts);
    }
    let mut all = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => all.extend(uris_of_stanzas(&text)),
            Some("list") => all.extend(uris_of_lines(&text)),
            _ => {}
        }
    }
    // Third parties' sources stand beside Debian's; an archive of Debian itself is called so.
    let found = all
        .iter()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    match found {
        Some(uri) => Ok(uri.clone()),
        None => bail!(
            "no Debian mirror in the apt sources of this machine ({})",
            etc_apt.display()
        ),
    }
}

/// `URIs:` fields of a deb822 file.
fn uris_of_stanzas(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(field, _)| field.eq_ignore_ascii_case("URIs"))
        .flat_map(|(_, value)| value.split_whitespace())
        .map(str::to_owned)
        .collect()
}

/// URIs of one-line entries: `deb [options] uri suite components`.
fn uris_of_lines(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("deb "))
        .filter_map(|line| {
            let line = line.trim_start();
            let rest = match line.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => line,
            };
            rest.split_whitespace().next().map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, content: &str, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        fs::write(folder.path().join(name), content).unwrap();
        assert_eq!(mirror(folder.path()).unwrap(), expected);
    }

    #[test]
    fn the_mirror_is_read_from_a_deb822_file() {
        check(
            "sources.list.d/debian.sources",
            "Types: deb\n# URIs: http://old.example/debian\nURIs: http://mirror.example/debian\nSuites: bookworm\n",
            "http://mirror.example/debian",
        );
    }

    #[test]
    fn the_mirror_is_read_from_one_line_entries_past_other_peoples_sources() {
        check(
            "sources.list",
            "#deb http://no.example/debian x main\ndeb http://tool.example/apt stable main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main\n",
            "http://mirror.example/debian/",
        );
    }

    #[test]
    fn a_machine_without_a_debian_mirror_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            mirror(folder.path())
                .unwrap_err()
                .to_string()
                .contains("no Debian mirror")
        );
    }
}
