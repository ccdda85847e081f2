//! Filter settings of the central node on disk: one file, replaced as a whole, so that they hold from the next start on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::config::{FilterSettings, SETTINGS_FILE};

/// First line of the file, before the version.
const VERSION: &str = "# filter settings of the central node, version ";

/// Keeps settings: after a crash at any moment the file has the old ones or the new ones.
pub(super) fn store(directory: &Path, settings: &FilterSettings) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let new = directory.join(format!("{SETTINGS_FILE}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{VERSION}{}", settings.version)?;
    file.write_all(settings.document.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, directory.join(SETTINGS_FILE))?;
    File::open(directory)?.sync_all()
}

/// Version of the settings that are kept; `None`: there are none.
pub(super) fn version(directory: &Path) -> Option<u64> {
    let mut line = [0; 128];
    let mut file = File::open(directory.join(SETTINGS_FILE)).ok()?;
    let length = file.read(&mut line).ok()?;
    let text =
        std::str::from_utf8(line.get(..length)?.split(|byte| *byte == b'\n').next()?).ok()?;
    text.strip_prefix(VERSION)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("state");
        assert_eq!(version(&directory), None);
        for number in [3, 12_345_678_901] {
            let settings = FilterSettings {
                version: number,
                document: "[[filter.rule]]\nid = \"a\"\n".to_owned(),
            };
            store(&directory, &settings).unwrap();
            assert_eq!(version(&directory), Some(number));
        }
        let text = fs::read_to_string(directory.join(SETTINGS_FILE)).unwrap();
        assert!(text.ends_with("id = \"a\"\n"), "{text}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::write(directory.join(SETTINGS_FILE), "[[filter.rule]]\n").unwrap();
        assert_eq!(version(&directory), None);
    }
}
