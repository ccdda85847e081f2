//! Segments of a spool: from a disk that may have written anything.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use sensor::spool::storage::Disk;
use sensor::spool::{Entry, HostIdentity, Now, Spool, SpoolConfig, Stream, fuzz_open};

/// Bytes of a record without packet and counts.
const RECORD_MIN_BYTES: u64 = 108;

/// Scans a segment; what is found in it is not more than it has.
pub fn run(bytes: &[u8]) {
    let (packets, damaged) = fuzz_open(bytes);
    let length = u64::try_from(bytes.len()).expect("it is in memory");
    assert!(
        packets * RECORD_MIN_BYTES + damaged <= length,
        "{packets} packets and {damaged} damaged of {length} bytes"
    );
}

/// The checksums of the header and of all records, as far as lengths lead to them.
pub fn repair(bytes: &mut Vec<u8>) {
    let number = |bytes: &[u8], at: usize, length: usize| {
        bytes.get(at..at + length).map(|field| {
            let place = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
            field.iter().rev().fold(0_usize, place)
        })
    };
    let put = |bytes: &mut Vec<u8>, at: usize, crc: u32| {
        bytes
            .get_mut(at..at + 4)
            .map(|field| field.copy_from_slice(&crc.to_le_bytes()))
    };
    let mut at = 0;
    // The header first, which is a head without a packet.
    let mut length_at = 10;
    while let Some(length) = number(bytes, at + length_at, 2) {
        let Some(covered) = length
            .checked_sub(4)
            .and_then(|covered| bytes.get(at..at + covered))
        else {
            return;
        };
        let crc = crc32c::crc32c(covered);
        if put(bytes, at + length - 4, crc).is_none() {
            return;
        }
        if length_at == 8 {
            let body_at = at + length;
            let Some(body) = number(bytes, at + 12, 4)
                .and_then(|length| bytes.get(body_at..body_at.checked_add(length)?))
            else {
                return;
            };
            let end = body_at + body.len();
            let crc = crc32c::crc32c_append(crc32c::crc32c(&crc.to_le_bytes()), body);
            if put(bytes, end, crc).is_none() {
                return;
            }
            at = end + 4;
        } else {
            at = length;
            length_at = 8;
        }
    }
}

/// The first segments of both streams, as a spool writes them: with three packets, and with none.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let name = format!("sensor-fuzz-spool-{}-{call}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    let now = Now {
        wall_ns: 1_700_000_000_000_000_000,
        boot_ns: 5,
    };
    let host = HostIdentity {
        boot_id: [1; 16],
        ..HostIdentity::default()
    };
    let disk = Disk::lock(&folder).expect("a folder");
    let (mut spool, _) =
        Spool::open(disk, SpoolConfig::default(), host, &[], now).expect("random numbers");
    for length in [0, 10, 300] {
        let entry = Entry {
            id: spool.next_packet(Stream::Process).id,
            digest: [7; 32],
            sealed_time_ns: now.wall_ns,
            boot_id: host.boot_id,
            last_event_boot_ns: now.boot_ns,
            counts: [(100, 2), (101, 1)].into_iter().collect(),
            bytes: vec![b'.'; length],
        };
        spool.append(entry, now).expect("it is the next one");
    }
    spool.close(now).expect("the disk works");
    let mut seeds = Vec::new();
    let mut folders = vec![folder.join("spool")];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("it was made").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                seeds.push(fs::read(entry.path()).expect("it was written"));
            }
        }
    }
    fs::remove_dir_all(&folder).expect("it was made");
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_whole_and_a_repair_makes_them_so() {
        let seeds = seeds();
        assert_eq!(seeds.len(), 2);
        for seed in seeds {
            assert_eq!(fuzz_open(&seed).1, 0);
            let mut changed = seed.clone();
            // The digest of the packet before: nothing but a checksum guards it.
            changed[70] ^= 1;
            let (packets, _) = fuzz_open(&changed);
            repair(&mut changed);
            assert_eq!(fuzz_open(&changed), fuzz_open(&seed));
            assert_eq!(packets, 0, "the header was not whole");
            let mut again = seed.clone();
            repair(&mut again);
            assert_eq!(again, seed);
        }
    }
}
