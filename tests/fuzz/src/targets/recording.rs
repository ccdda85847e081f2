//! A recording from somebody else's machine.

use std::path::Path;

use sensor::recording::{Footer, Header, Recorder, Recording};

/// Reads a recording to its end or its first defect; each record is what it says to be in length, none too long.
pub fn run(bytes: &[u8]) {
    let Ok(mut recording) = Recording::read(Path::new("recording"), bytes) else {
        return;
    };
    std::hint::black_box(recording.header().kernel_layout());
    let mut sample = Vec::new();
    let mut total = 0;
    loop {
        match recording.next_record(&mut sample) {
            Ok(true) => {
                total += sample.len();
                assert!(total <= bytes.len(), "more records than bytes");
                super::decode::run(&sample);
            }
            Ok(false) => {
                assert!(recording.footer().is_some(), "an end without a footer");
                return;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        }
    }
}

/// What the format has.
pub const WORDS: &[&[u8]] = &[
    b"SENSREC\x01",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x01\0\0\0",
    b"{}",
    b"{\"counters\":{}}",
    b"null",
    b"[]",
    b"\"layout\":[",
    b"\"backends\":{",
    b"\"abi_version\":2",
];

/// A whole recording, and one without records.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let folder = std::env::temp_dir().join(format!("sensor-fuzz-seed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let header = Header {
        abi_version: sensor_common::ABI_VERSION,
        kernel_release: "6.12.0".to_owned(),
        machine: "x86_64".to_owned(),
        boot_id: "8e5f4c1e-8a3c-4a0b-9f11-3a1f6d1b2c3d".to_owned(),
        wall_minus_boot_ns: 5,
        tick_ns: 10_000_000,
        layout: vec![1, 2, 3],
        backends: [("exec".to_owned(), "tracepoint".to_owned())].into(),
        coverage: serde_json::Value::Null,
    };
    let records = super::decode::seeds();
    let files = [records.as_slice(), &[]].map(|records| {
        let path = folder.join("recording");
        let mut recorder = Recorder::create(&path, &header).expect("a recording");
        for record in records {
            recorder.write(record).expect("a record");
        }
        recorder.finish(&Footer::default()).expect("an end");
        let bytes = std::fs::read(&path).expect("the recording");
        std::fs::remove_file(&path).expect("the recording");
        bytes
    });
    std::fs::remove_dir(&folder).expect("the folder");
    files.to_vec()
}
