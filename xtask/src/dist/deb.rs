//! A Debian package: an ar archive around two tar archives. The same content gives the same bytes.

use anyhow::{Context as _, ensure};
use md5::{Digest as _, Md5};

use crate::archive::{Style, Tree, gz};

/// What a Debian package says of itself.
#[derive(Debug)]
pub(crate) struct Control<'c> {
    pub(crate) package: &'c str,
    /// With the package's own number: `1.2.3-1`.
    pub(crate) version: &'c str,
    /// As Debian calls it: `amd64`.
    pub(crate) architecture: &'c str,
    pub(crate) maintainer: &'c str,
    /// The first line is the summary, the others the description.
    pub(crate) description: &'c str,
    /// postinst and the like, by name.
    pub(crate) scripts: &'c [(&'c str, &'c str)],
}

/// The package of a tree; files below etc/ are configuration files, which an upgrade leaves as the administrator has them.
pub(crate) fn package(control: &Control<'_>, tree: &Tree, seconds: u64) -> anyhow::Result<Vec<u8>> {
    let mut sums = String::new();
    let mut conffiles = String::new();
    let mut bytes = 0;
    for (path, content) in tree.files() {
        if path.starts_with("etc/") {
            conffiles.push_str(&format!("/{path}\n"));
        } else {
            let digest = Md5::digest(content);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            sums.push_str(&format!("{hex}  {path}\n"));
        }
        bytes += content.len();
    }
    let mut lines = control.description.lines();
    let mut text = format!(
        "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {}\n\
         Depends: init-system-helpers (>= 1.51)\nSection: admin\nPriority: optional\nDescription: {}\n",
        control.package,
        control.version,
        control.architecture,
        control.maintainer,
        bytes.div_ceil(1024),
        lines.next().context("a summary")?,
    );
    for line in lines {
        let line = if line.is_empty() { "." } else { line };
        text.push_str(&format!(" {line}\n"));
    }
    let mut inner = Tree::default();
    inner.file("control", 0o644, text)?;
    inner.file("md5sums", 0o644, sums)?;
    if !conffiles.is_empty() {
        inner.file("conffiles", 0o644, conffiles)?;
    }
    for (name, script) in control.scripts {
        inner.file(name, 0o755, *script)?;
    }
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gz(&inner.tar(Style::Package, seconds)?)?),
        ("data.tar.gz", gz(&tree.tar(Style::Package, seconds)?)?),
    ] {
        member(&mut out, name, seconds, &content)?;
    }
    Ok(out)
}

/// One member of an ar archive: a head of 60 characters, the content, a filler to an even length.
fn member(out: &mut Vec<u8>, name: &str, seconds: u64, content: &[u8]) -> anyhow::Result<()> {
    let head = format!(
        "{name:<16}{seconds:<12}{:<6}{:<6}{:<8}{:<10}`\n",
        0,
        0,
        "100644",
        content.len()
    );
    ensure!(head.len() == 60, "a member does not fit: {head:?}");
    out.extend(head.as_bytes());
    out.extend(content);
    if content.len() % 2 == 1 {
        out.push(b'\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::command::output;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("usr/sbin/demo", 0o755, "program").unwrap();
        tree.folder("etc/demo", 0o750).unwrap();
        tree.file("etc/demo/demo.toml", 0o640, "a = 1\n").unwrap();
        // A name that does not fit into a head of tar.
        tree.file(
            &format!("usr/share/doc/demo/{}", "n".repeat(120)),
            0o644,
            "",
        )
        .unwrap();
        tree
    }

    fn demo() -> Vec<u8> {
        let control = Control {
            package: "demo",
            version: "1.0-1",
            architecture: "amd64",
            maintainer: "Somebody <somebody@example.org>",
            description: "a demo\nWhat it does.\n\nMore.",
            scripts: &[("postinst", "#!/bin/sh\nexit 0\n")],
        };
        // Noon, so that the day is the same in every time zone.
        package(&control, &tree(), 1_699_963_200).unwrap()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(demo(), demo());
    }

    #[test]
    fn heads_are_as_ar_wants_them() {
        let mut out = Vec::new();
        member(&mut out, "debian-binary", 17, b"2.0").unwrap();
        assert_eq!(
            out,
            b"debian-binary   17          0     0     100644  3         `\n2.0\n"
        );
    }

    /// dpkg is on every machine that builds packages for Debian, and on those that run guests.
    #[test]
    fn dpkg_reads_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.deb");
        std::fs::write(&path, demo()).unwrap();
        let ask = |arguments: &[&str]| {
            output(Command::new("dpkg-deb").args(arguments).arg(&path)).unwrap()
        };
        let fields = ask(&["--field"]);
        for line in [
            "Package: demo\n",
            "Version: 1.0-1\n",
            "Installed-Size: 1\n",
            "Description: a demo\n What it does.\n .\n More.\n",
        ] {
            assert!(fields.contains(line), "{line}{fields}");
        }
        let content = ask(&["--contents"]);
        for part in [
            "-rwxr-xr-x root/root         7 2023-11-14",
            "drwxr-x--- root/root         0 2023-11-14",
            " etc/demo/demo.toml\n",
            " usr/sbin/demo\n",
            &"n".repeat(120),
        ] {
            assert!(content.contains(part), "{part}\n{content}");
        }
        let names: Vec<&str> = content
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        output(
            Command::new("dpkg-deb")
                .arg("--control")
                .arg(&path)
                .arg(&inside),
        )
        .unwrap();
        let read = |name: &str| std::fs::read_to_string(inside.join(name)).unwrap();
        assert_eq!(read("conffiles"), "/etc/demo/demo.toml\n");
        let digest = "a9c449d4fa44e9e5a41c574ae55ce4d9";
        assert!(
            read("md5sums").contains(&format!("{digest}  usr/sbin/demo\n")),
            "{}",
            read("md5sums")
        );
        assert!(read("postinst").starts_with("#!/bin/sh\n"));
    }
}
