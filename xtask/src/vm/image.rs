//! The guest's whole file system as one initramfs: a cpio archive of format "newc", written here.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written; everything in it belongs to root.
#[derive(Debug, Default)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    entries: u32,
    folders: Vec<String>,
}

impl Image {
    /// A directory with its parents; paths are absolute in the guest.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> anyhow::Result<()> {
        let path = path.trim_matches('/');
        if self.folders.iter().any(|folder| folder == path) {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent, 0o755)?;
        } else if !path.is_empty() {
            self.folder("", 0o755)?;
        }
        self.folders.push(path.to_owned());
        let name = if path.is_empty() { "." } else { path };
        self.entry(name, DIRECTORY | mode, (0, 0), &[])
    }

    /// A file with this content.
    pub(crate) fn text(&mut self, path: &str, mode: u32, content: &str) -> anyhow::Result<()> {
        self.regular(path, mode, content.as_bytes())
    }

    /// A file with this content, whatever it is.
    pub(crate) fn bytes(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.regular(path, mode, content)
    }

    /// A copy of a file of this machine.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, from: &Path) -> anyhow::Result<()> {
        let content = fs::read(from).with_context(|| from.display().to_string())?;
        self.regular(path, mode, &content)
    }

    /// Everything in a folder of this machine.
    pub(crate) fn tree(&mut self, path: &str, from: &Path) -> anyhow::Result<()> {
        self.folder(path, fs::metadata(from)?.permissions().mode() & 0o7777)?;
        let mut entries: Vec<_> = fs::read_dir(from)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let inside = format!("{path}/{}", entry.file_name().to_string_lossy());
            let data = entry.metadata()?;
            if data.is_dir() {
                self.tree(&inside, &entry.path())?;
            } else {
                ensure!(data.is_file(), "{}: no file", entry.path().display());
                self.copy(&inside, data.permissions().mode() & 0o7777, &entry.path())?;
            }
        }
        Ok(())
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) -> anyhow::Result<()> {
        self.parent_of(path)?;
        self.entry(
            path.trim_start_matches('/'),
            SYMLINK | 0o777,
            (0, 0),
            target.as_bytes(),
        )
    }

    /// A character device.
    pub(crate) fn device(
        &mut self,
        path: &str,
        mode: u32,
        number: (u32, u32),
    ) -> anyhow::Result<()> {
        self.parent_of(path)?;
        self.entry(path.trim_start_matches('/'), CHARACTER | mode, number, &[])
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn regular(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.parent_of(path)?;
        self.entry(
            path.trim_start_matches('/'),
            REGULAR | mode,
            (0, 0),
            content,
        )
    }

    fn parent_of(&mut self, path: &str) -> anyhow::Result<()> {
        match path.trim_matches('/').rsplit_once('/') {
            Some((parent, _)) => self.folder(parent, 0o755),
            None => self.folder("", 0o755),
        }
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        data: &[u8],
    ) -> anyhow::Result<()> {
        self.entries += 1;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        let (major, minor) = device;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            u32::try_from(data.len()).context("a file of over 4 GiB")?,
            0,
            0,
            major,
            minor,
            u32::try_from(name.len() + 1)?,
            0,
        ];
        self.bytes.write_all(b"070701")?;
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.write_all(name.as_bytes())?;
        self.bytes.push(0);
        self.align();
        self.bytes.write_all(data)?;
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_archives_have_aligned_entries_and_parents() {
        let mut image = Image::default();
        image.text("/etc/a", 0o644, "abc").unwrap();
        image.text("/etc/b", 0o644, "").unwrap();
        let bytes = image.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        // ".", "etc", two files and the trailer.
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.starts_with("0707010000000100"));
        assert!(text.contains("etc/a\0abc\0"), "{text:?}");
    }
}
