//! The licence texts of the libraries that are linked into the programs, as their licences ask.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use crate::place::Place;
use crate::sbom;

/// Beginnings of the names of files with such texts.
const NAMES: [&str; 6] = [
    "LICENSE",
    "LICENCE",
    "COPYING",
    "COPYRIGHT",
    "NOTICE",
    "UNLICENSE",
];
/// A text is not longer.
const MOST_BYTES: u64 = 256 * 1024;

/// Every text once, below the names of the libraries that have it.
pub(crate) fn texts(place: &Place) -> anyhow::Result<String> {
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for library in sbom::libraries(place)? {
        let name = format!("{} {}", library.name, library.version);
        let mut none = true;
        for text in of(&library.folder)? {
            let names = by_text.entry(text).or_default();
            if !names.contains(&name) {
                names.push(name.clone());
            }
            none = false;
        }
        if none {
            // Its archive has no text; what it says of itself must do.
            let text = format!("Licence: {}\n", library.licence);
            by_text.entry(text).or_default().push(name);
        }
    }
    let mut blocks: Vec<(Vec<String>, String)> = by_text
        .into_iter()
        .map(|(text, names)| (names, text))
        .collect();
    blocks.sort();
    let mut out = String::new();
    for (names, text) in blocks {
        out.push_str(&format!("==== {}\n\n{}\n\n", names.join(", "), text.trim()));
    }
    Ok(out)
}

/// The texts in a folder.
fn of(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let data = entry.metadata()?;
        if NAMES.iter().any(|start| name.starts_with(start))
            && data.is_file()
            && data.len() <= MOST_BYTES
        {
            let text = fs::read(entry.path())?;
            texts.push(String::from_utf8_lossy(&text).replace('\r', ""));
        }
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_is_named_and_texts_stand_once() {
        let place = Place::find().unwrap();
        let text = texts(&place).unwrap();
        let heads: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("==== "))
            .collect();
        for library in sbom::libraries(&place).unwrap() {
            let name = format!("{} {}", library.name, library.version);
            assert!(heads.iter().any(|head| head.contains(&name)), "{name}");
        }
        assert!(text.matches("Permission is hereby granted").count() > 20);
    }
}
