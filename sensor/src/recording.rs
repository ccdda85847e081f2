//! Kernel records in a file, and back: `sensor record` and `sensor replay`.
//!
//! Format: 8 bytes of magic, a length-prefixed JSON header ([`Header`]: the layout and coverage that the records came
//! with, and what is needed to read their times), then one frame per record (`u32` length, little endian, and the
//! bytes as they were in the ring), a frame of length 0, and a length-prefixed JSON [`Footer`]. Records carry what
//! processes were given as arguments and environment, unredacted: the file is made readable by its owner only.
//!
//! This module never interprets a record.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sensor_common::layout::KernelLayout;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"SENSREC\x01";

/// Longest header or footer that is read, bytes.
const TEXT_MAX: u32 = 1 << 20;
/// Longest record that is read, bytes; the largest that a probe makes is an exec with all its strings.
const RECORD_MAX: u32 = 1 << 18;

/// What a recording says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`sensor_common::ABI_VERSION`] of the records.
    pub abi_version: u32,
    /// `uname -r` of the kernel that made them.
    pub kernel_release: String,
    /// `uname -m`.
    pub machine: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Wall clock minus boot clock when the recording began, ns.
    pub wall_minus_boot_ns: i64,
    /// Length of a clock tick (`1 s / USER_HZ`), ns.
    pub tick_ns: u64,
    /// Values of the kernel layout by index.
    pub layout: Vec<u32>,
    /// Kind of hook per record kind, both by name.
    pub backends: BTreeMap<String, String>,
    /// Hook chosen per event type, as `sensor doctor --json` prints it.
    pub coverage: serde_json::Value,
}

impl Header {
    /// The layout that the records were made with; fields that this build does not know are dropped, those that the
    /// recording lacks are absent.
    #[must_use]
    pub fn kernel_layout(&self) -> KernelLayout {
        let mut layout = KernelLayout::EMPTY;
        for (slot, value) in layout.values.iter_mut().zip(&self.layout) {
            *slot = *value;
        }
        layout
    }
}

/// The account at the end of a recording: what happened to the records that are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Footer {
    /// Kernel counters per record kind, in `KernelCounter` order.
    pub counters: BTreeMap<String, Vec<u64>>,
    /// Records that the reader's queue dropped, per record kind; `unknown` for samples of no known kind.
    pub queue_full: BTreeMap<String, u64>,
    /// Records of the self-test's child, which were left out on purpose, per record kind.
    pub self_test: BTreeMap<String, u64>,
    /// Sequence numbers that were passed over, per lane.
    pub sequence_gaps: BTreeMap<String, u64>,
    /// What the kernel skipped at most, by program; null where it does not say.
    pub unseen_at_most: BTreeMap<String, Option<u64>>,
}

/// What is wrong with a recording, and where.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be created, opened, read or written.
    #[error("recording {path:?}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path:?} is no recording of this sensor (no magic at byte 0)")]
    Magic {
        /// The file.
        path: PathBuf,
    },
    /// Header or footer cannot be read.
    #[error("{path:?}: {part} at byte {offset} is damaged")]
    Text {
        /// The file.
        path: PathBuf,
        /// `header` or `footer`.
        part: &'static str,
        /// Where it begins.
        offset: u64,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Made by another version of the kernel interface.
    #[error(
        "{path:?} has records of ABI version {found}, this sensor reads version {known}: replay it with the sensor that \
         recorded it"
    )]
    Abi {
        /// The file.
        path: PathBuf,
        /// The recording's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A length that cannot be right.
    #[error("{path:?}: length {length} at byte {offset} is over the limit of {limit}")]
    Length {
        /// The file.
        path: PathBuf,
        /// Where the length stands.
        offset: u64,
        /// The length found.
        length: u32,
        /// The most that is allowed.
        limit: u32,
    },
    /// It ends early.
    #[error("{path:?} ends at byte {offset}, in the middle of record {record}")]
    Cut {
        /// The file.
        path: PathBuf,
        /// Where it ends, about.
        offset: u64,
        /// Number of the record that is cut, from 0.
        record: u64,
    },
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
    records: u64,
}

impl Recorder {
    /// Creates the file (mode 0600, must not exist) and writes the header.
    ///
    /// # Errors
    /// [`RecordingError::Io`].
    pub fn create(path: &Path, header: &Header) -> Result<Self, RecordingError> {
        let io = |source| RecordingError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let mut recorder = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 18, file),
            records: 0,
        };
        recorder.put(MAGIC)?;
        recorder.put_text(header)?;
        Ok(recorder)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), RecordingError> {
        self.file
            .write_all(bytes)
            .map_err(|source| RecordingError::Io {
                path: self.path.clone(),
                source,
            })
    }

    fn put_text(&mut self, value: &impl Serialize) -> Result<(), RecordingError> {
        let text = serde_json::to_vec(value).map_err(|source| RecordingError::Text {
            path: self.path.clone(),
            part: "header",
            offset: 0,
            source,
        })?;
        self.put(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.put(&text)
    }

    /// Adds one record as it came from the ring.
    ///
    /// # Errors
    /// [`RecordingError::Io`], and [`RecordingError::Length`] for one longer than any probe makes.
    pub fn write(&mut self, sample: &[u8]) -> Result<(), RecordingError> {
        let length = u32::try_from(sample.len()).unwrap_or(u32::MAX);
        if length > RECORD_MAX {
            return Err(RecordingError::Length {
                path: self.path.clone(),
                offset: 0,
                length,
                limit: RECORD_MAX,
            });
        }
        self.put(&length.to_le_bytes())?;
        self.records += 1;
        self.put(sample)
    }

    /// Ends the recording and makes it durable; returns how many records it holds.
    ///
    /// # Errors
    /// [`RecordingError::Io`].
    pub fn finish(mut self, footer: &Footer) -> Result<u64, RecordingError> {
        self.put(&0_u32.to_le_bytes())?;
        self.put_text(footer)?;
        let io = |source| RecordingError::Io {
            path: self.path.clone(),
            source,
        };
        self.file.flush().map_err(io)?;
        self.file.get_ref().sync_all().map_err(io)?;
        Ok(self.records)
    }
}

/// Reads a recording.
#[derive(Debug)]
pub struct Recording<R> {
    path: PathBuf,
    source: R,
    offset: u64,
    records: u64,
    header: Header,
    footer: Option<Footer>,
}

impl Recording<BufReader<File>> {
    /// Opens a recording and reads its header.
    ///
    /// # Errors
    /// [`RecordingError`] for a file that is none, is damaged or of another ABI.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(|source| RecordingError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::read(path, BufReader::with_capacity(1 << 18, file))
    }
}

impl<R: Read> Recording<R> {
    /// Reads the header from any source; `path` is for error messages.
    ///
    /// # Errors
    /// As [`Recording::open`].
    pub fn read(path: &Path, source: R) -> Result<Self, RecordingError> {
        let mut recording = Self {
            path: path.to_owned(),
            source,
            offset: 0,
            records: 0,
            header: Header {
                abi_version: 0,
                kernel_release: String::new(),
                machine: String::new(),
                boot_id: String::new(),
                wall_minus_boot_ns: 0,
                tick_ns: 0,
                backends: BTreeMap::new(),
                layout: Vec::new(),
                coverage: serde_json::Value::Null,
            },
            footer: None,
        };
        let mut magic = [0; MAGIC.len()];
        match recording.take(&mut magic) {
            Ok(()) if &magic == MAGIC => {}
            Ok(()) | Err(RecordingError::Cut { .. }) => {
                return Err(RecordingError::Magic {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(error),
        }
        recording.header = recording.text("header")?;
        if recording.header.abi_version != sensor_common::ABI_VERSION {
            return Err(RecordingError::Abi {
                path: path.to_owned(),
                found: recording.header.abi_version,
                known: sensor_common::ABI_VERSION,
            });
        }
        Ok(recording)
    }

    /// What the recording says of itself.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The kernel's account; there after the last record was read.
    #[must_use]
    pub fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), RecordingError> {
        match self.source.read_exact(bytes) {
            Ok(()) => {
                self.offset += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(RecordingError::Cut {
                    path: self.path.clone(),
                    offset: self.offset,
                    record: self.records,
                })
            }
            Err(source) => Err(RecordingError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }

    fn length(&mut self, limit: u32) -> Result<u32, RecordingError> {
        let offset = self.offset;
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        let length = u32::from_le_bytes(bytes);
        if length > limit {
            return Err(RecordingError::Length {
                path: self.path.clone(),
                offset,
                length,
                limit,
            });
        }
        Ok(length)
    }

    fn text<T: serde::de::DeserializeOwned>(
        &mut self,
        part: &'static str,
    ) -> Result<T, RecordingError> {
        let offset = self.offset;
        let length = self.length(TEXT_MAX)?;
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        self.take(&mut text)?;
        serde_json::from_slice(&text).map_err(|source| RecordingError::Text {
            path: self.path.clone(),
            part,
            offset,
            source,
        })
    }

    /// Appends the next record to `sample` (cleared first); `false` at the end.
    ///
    /// # Errors
    /// [`RecordingError`] for a damaged or cut file; what was read before stands.
    pub fn next_record(&mut self, sample: &mut Vec<u8>) -> Result<bool, RecordingError> {
        if self.footer.is_some() {
            return Ok(false);
        }
        let length = self.length(RECORD_MAX)?;
        if length == 0 {
            self.footer = Some(self.text("footer")?);
            return Ok(false);
        }
        sample.clear();
        sample.resize(usize::try_from(length).unwrap_or_default(), 0);
        self.take(sample)?;
        self.records += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            abi_version: sensor_common::ABI_VERSION,
            kernel_release: "6.12.0".to_owned(),
            machine: "x86_64".to_owned(),
            boot_id: "8e5f4c1e-8a3c-4a0b-9f11-3a1f6d1b2c3d".to_owned(),
            wall_minus_boot_ns: 5,
            tick_ns: 10_000_000,
            backends: [("exec".to_owned(), "tracepoint".to_owned())].into(),
            layout: vec![1, 2, 3],
            coverage: serde_json::json!({"exec": "tp_btf sched_process_exec"}),
        }
    }

    fn recorded() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut recorder = Recorder::create(&path, &header()).unwrap();
        recorder.write(b"first").unwrap();
        recorder.write(b"second record").unwrap();
        let footer = Footer {
            counters: [("exec".to_owned(), vec![2, 2])].into(),
            queue_full: [("exec".to_owned(), 1)].into(),
            ..Footer::default()
        };
        assert_eq!(recorder.finish(&footer).unwrap(), 2);
        (dir, path)
    }

    #[test]
    fn what_was_recorded_comes_back() {
        let (_dir, path) = recorded();
        let mut recording = Recording::open(&path).unwrap();
        assert_eq!(recording.header(), &header());
        assert_eq!(recording.header().kernel_layout().values[1], 2);
        let mut sample = Vec::new();
        assert!(recording.next_record(&mut sample).unwrap());
        assert_eq!(sample, b"first");
        assert!(recording.next_record(&mut sample).unwrap());
        assert_eq!(sample, b"second record");
        assert!(!recording.next_record(&mut sample).unwrap());
        assert!(!recording.next_record(&mut sample).unwrap());
        let footer = recording.footer().unwrap();
        assert_eq!(footer.counters["exec"], [2, 2]);
        assert_eq!(footer.queue_full["exec"], 1);
    }

    #[test]
    fn a_cut_at_any_byte_is_named_and_what_came_before_stands() {
        let (_dir, path) = recorded();
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            let mut seen = 0;
            let mut sample = Vec::new();
            let result = Recording::read(&path, &bytes[..cut]).and_then(|mut recording| {
                while recording.next_record(&mut sample)? {
                    seen += 1;
                }
                Ok(())
            });
            assert!(
                result.is_err(),
                "cut at {cut} went unnoticed after {seen} records"
            );
            assert!(seen <= 2);
        }
    }

    #[test]
    fn other_files_and_wild_lengths_are_refused() {
        let path = Path::new("x");
        let error = Recording::read(path, &b"#!/bin/sh\necho"[..]).unwrap_err();
        assert!(matches!(error, RecordingError::Magic { .. }), "{error}");
        let mut wild = MAGIC.to_vec();
        wild.extend_from_slice(&u32::MAX.to_le_bytes());
        let error = Recording::read(path, wild.as_slice()).unwrap_err();
        assert!(
            matches!(error, RecordingError::Length { offset: 8, .. }),
            "{error}"
        );
    }
}
