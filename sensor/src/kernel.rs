//! What the running kernel is and can do: its types, its features, and the raw calls that no crate wraps.
//!
//! Nothing here decides anything: [`crate::probe`] says what is wanted, [`crate::loader`] tries it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

pub mod btf;
pub mod feature;
pub mod layout;
pub mod sys;

/// An error with all that caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries print the cause in the error's own text too.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// The error of open(2) or read(2); [`io::ErrorKind::FileTooLarge`] when there is more.
pub(crate) fn read_capped(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let expected = file.metadata().map_or(0, |metadata| {
        usize::try_from(metadata.len()).unwrap_or(limit)
    });
    // One byte more than sysfs announces, so that the end is seen without growing the buffer.
    let mut bytes = Vec::with_capacity(expected.min(limit).saturating_add(1));
    let ceiling = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(ceiling).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(bytes)
}
