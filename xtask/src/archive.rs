//! Trees of files in memory, and tar archives of them as images and packages need: sorted, of one time, without anything of who
//! built them. The same content gives the same bytes. Refuses paths that lead elsewhere, and two things in one place.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// Folders and files by their path without leading slash; every parent stands in it, too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree(BTreeMap<String, Node>);

#[derive(Debug, Clone)]
struct Node {
    mode: u32,
    /// Uid and gid.
    owner: u32,
    /// `None`: a folder.
    content: Option<Vec<u8>>,
}

/// How names and owners stand in an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Style<'s> {
    /// A layer of an image: owners by number only.
    Layer,
    /// Of a package: the root comes first, owners have their name.
    Package,
    /// To unpack anywhere: everything below a folder of this name.
    Below(&'s str),
}

impl Tree {
    /// A folder of root's, with its parents (0755 unless they were added before).
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> anyhow::Result<()> {
        self.folder_of(0, path, mode)
    }

    /// The same of another owner; new parents are root's.
    pub(crate) fn folder_of(&mut self, owner: u32, path: &str, mode: u32) -> anyhow::Result<()> {
        self.add(
            path,
            Node {
                mode,
                owner,
                content: None,
            },
        )
    }

    /// A file of root's, with the folders above it.
    pub(crate) fn file(
        &mut self,
        path: &str,
        mode: u32,
        content: impl Into<Vec<u8>>,
    ) -> anyhow::Result<()> {
        self.add(
            path,
            Node {
                mode,
                owner: 0,
                content: Some(content.into()),
            },
        )
    }

    /// A copy of a file of this machine.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, from: &Path) -> anyhow::Result<()> {
        self.file(
            path,
            mode,
            fs::read(from).with_context(|| from.display().to_string())?,
        )
    }

    fn add(&mut self, path: &str, node: Node) -> anyhow::Result<()> {
        let path = path.trim_matches('/');
        ensure!(
            !path
                .split('/')
                .any(|part| part.is_empty() || part == "." || part == ".."),
            "a path of an archive: {path:?}"
        );
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            let folder = self.0.entry(parent.to_owned()).or_insert(Node {
                mode: 0o755,
                owner: 0,
                content: None,
            });
            ensure!(
                folder.content.is_none(),
                "{parent} is a file and has {path}"
            );
        }
        if self.0.insert(path.to_owned(), node).is_some() {
            bail!("{path} is there already");
        }
        Ok(())
    }

    /// Paths and contents of the files.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .filter_map(|(path, node)| Some((path.as_str(), node.content.as_deref()?)))
    }

    /// The archive, not compressed: parents before what is in them. Every entry has this time, in seconds of the Unix epoch.
    pub(crate) fn tar(&self, style: Style<'_>, seconds: u64) -> anyhow::Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        let named = !matches!(style, Style::Layer);
        let start = match style {
            Style::Layer => String::new(),
            Style::Package => {
                let root = Node {
                    mode: 0o755,
                    owner: 0,
                    content: None,
                };
                // What dpkg writes first.
                root.write(&mut archive, "./", named, seconds)?;
                String::new()
            }
            Style::Below(folder) => format!("{folder}/"),
        };
        for (path, node) in &self.0 {
            let end = if node.content.is_some() { "" } else { "/" };
            node.write(&mut archive, &format!("{start}{path}{end}"), named, seconds)?;
        }
        Ok(archive.into_inner()?)
    }
}

impl Node {
    fn write<W: std::io::Write>(
        &self,
        archive: &mut Builder<W>,
        name: &str,
        named: bool,
        seconds: u64,
    ) -> anyhow::Result<()> {
        let content = self.content.as_deref().unwrap_or_default();
        let mut header = Header::new_ustar();
        header.set_entry_type(match self.content {
            Some(_) => EntryType::Regular,
            None => EntryType::Directory,
        });
        header.set_mode(self.mode);
        header.set_uid(self.owner.into());
        header.set_gid(self.owner.into());
        if named && self.owner == 0 {
            header.set_username("root")?;
            header.set_groupname("root")?;
        }
        header.set_mtime(seconds);
        header.set_size(content.len().try_into()?);
        archive
            .append_data(&mut header, name, content)
            .with_context(|| name.to_owned())
    }
}

/// Compressed, without name and time in the header.
pub(crate) fn gz(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut writer = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    writer.write_all(content)?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.file("/usr/bin/one", 0o755, "program").unwrap();
        tree.folder_of(65532, "/var/lib/one", 0o700).unwrap();
        tree.file("etc/passwd", 0o644, "root:x:0:0::/:/x\n")
            .unwrap();
        tree
    }

    fn told(style: Style<'_>) -> Vec<String> {
        let bytes = tree().tar(style, 1_700_000_000).unwrap();
        assert_eq!(bytes, tree().tar(style, 1_700_000_000).unwrap());
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut told = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 1_700_000_000);
            told.push(format!(
                "{} {:o} {}{}",
                String::from_utf8_lossy(&entry.path_bytes()),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.username().unwrap().unwrap_or_default()
            ));
        }
        told
    }

    #[test]
    fn a_layer_has_parents_first_and_nothing_of_who_built_it() {
        assert_eq!(
            told(Style::Layer),
            [
                "etc/ 755 0",
                "etc/passwd 644 0",
                "usr/ 755 0",
                "usr/bin/ 755 0",
                "usr/bin/one 755 0",
                "var/ 755 0",
                "var/lib/ 755 0",
                "var/lib/one/ 700 65532",
            ]
        );
    }

    #[test]
    fn a_package_begins_with_the_root_and_a_tarball_with_a_folder() {
        let package = told(Style::Package);
        assert_eq!(package[..2], ["./ 755 0root", "etc/ 755 0root"]);
        assert_eq!(package[8], "var/lib/one/ 700 65532");
        let below = told(Style::Below("one-1"));
        assert_eq!(below[0], "one-1/etc/ 755 0root");
        assert_eq!(below.len(), 8);
    }

    #[test]
    fn what_cannot_be_in_an_archive_is_refused() {
        let mut tree = tree();
        for path in ["/etc/passwd", "/etc/passwd/x", "/a/../b", "", "/a//b"] {
            tree.file(path, 0o644, "x").unwrap_err();
        }
    }
}
