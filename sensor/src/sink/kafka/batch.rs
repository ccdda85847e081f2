//! A batch of records as Kafka stores it (format 2), and the partition of a key as the Java client chooses it, so that a
//! topic may be shared with other producers.

use std::io;

use crate::spool::Stream;

/// A record with its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// When it happened, wall clock, ms since 1970.
    pub(super) time_ms: i64,
    /// Names and values.
    pub(super) headers: Vec<(&'static str, String)>,
    /// What is told.
    pub(super) value: Vec<u8>,
}

impl Record {
    /// Bytes that it takes in a batch, at most.
    pub(super) fn size(&self, key: &[u8]) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 2 * MAX_VARINT)
            .sum();
        key.len() + self.value.len() + headers + 7 * MAX_VARINT
    }
}

/// A number of the record takes at most so many bytes.
const MAX_VARINT: usize = 10;
/// Bytes of a batch before its first record.
pub(super) const HEAD_BYTES: usize = 61;
/// Where the checksum begins to count: after it.
const CHECKED_FROM: usize = 21;
/// Attribute of a batch that is compressed with zstd.
const ZSTD: i16 = 4;
/// Text of events shrinks to a tenth at any level; the lowest is the cheapest.
const ZSTD_LEVEL: i32 = 1;

/// Whether records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// They are not.
    Plain,
    /// With zstd.
    Zstd,
}

/// Writes a batch. `key` is that of all of its records.
pub(super) fn encode(key: &[u8], records: &[Record], codec: Codec) -> io::Result<Vec<u8>> {
    let first_ms = records.first().map_or(0, |record| record.time_ms);
    let last_ms = records.iter().map(|record| record.time_ms).max();
    let mut body = Vec::new();
    let mut count = 0_i32;
    for record in records {
        write_record(
            &mut body,
            key,
            record,
            record.time_ms.wrapping_sub(first_ms),
            count,
        );
        count = count.saturating_add(1);
    }
    let attributes = match codec {
        Codec::Plain => 0,
        Codec::Zstd => {
            body = zstd::bulk::compress(&body, ZSTD_LEVEL)?;
            ZSTD
        }
    };
    let mut checked = Vec::with_capacity(HEAD_BYTES + body.len());
    checked.extend_from_slice(&attributes.to_be_bytes());
    checked.extend_from_slice(&count.saturating_sub(1).to_be_bytes());
    checked.extend_from_slice(&first_ms.to_be_bytes());
    checked.extend_from_slice(&last_ms.unwrap_or(first_ms).to_be_bytes());
    // Producer, its epoch and first sequence: none, since consumers tell records apart by their headers.
    checked.extend_from_slice(&(-1_i64).to_be_bytes());
    checked.extend_from_slice(&(-1_i16).to_be_bytes());
    checked.extend_from_slice(&(-1_i32).to_be_bytes());
    checked.extend_from_slice(&count.to_be_bytes());
    checked.append(&mut body);

    let mut batch = Vec::with_capacity(CHECKED_FROM + checked.len());
    // First offset: the broker's to say.
    batch.extend_from_slice(&0_i64.to_be_bytes());
    // What follows: leader's epoch, format, checksum, and what is checked.
    let length = i32::try_from(checked.len() + 4 + 1 + 4).map_err(io::Error::other)?;
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&crc32c::crc32c(&checked).to_be_bytes());
    batch.append(&mut checked);
    Ok(batch)
}

fn write_record(out: &mut Vec<u8>, key: &[u8], record: &Record, after_ms: i64, offset: i32) {
    let mut body = Vec::with_capacity(record.size(key));
    // Attributes: none are defined.
    body.push(0);
    varint(&mut body, after_ms);
    varint(&mut body, offset.into());
    blob(&mut body, key);
    blob(&mut body, &record.value);
    length(&mut body, record.headers.len());
    for (name, value) in &record.headers {
        blob(&mut body, name.as_bytes());
        blob(&mut body, value.as_bytes());
    }
    length(out, body.len());
    out.append(&mut body);
}

fn blob(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn length(out: &mut Vec<u8>, length: usize) {
    varint(out, i64::try_from(length).unwrap_or(i64::MAX));
}

/// Zigzag, seven bits a byte, the lowest first.
fn varint(out: &mut Vec<u8>, number: i64) {
    let mut left = (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned();
    loop {
        let [low, ..] = left.to_le_bytes();
        left >>= 7;
        if left == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Key of a stream: what has the same key is in one partition, and so in order.
pub(super) fn key(agent: &str, stream: Stream) -> String {
    format!("{agent}/{}", stream.name())
}

/// Partition of a key among so many.
pub(super) fn partition(key: &[u8], count: usize) -> usize {
    let positive = murmur2(key) & 0x7fff_ffff;
    usize::try_from(positive)
        .unwrap_or_default()
        .checked_rem(count)
        .unwrap_or_default()
}

/// The hash of the Java client's partitioner.
fn murmur2(bytes: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MIX);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MIX) ^ word.wrapping_mul(MIX);
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        for (slot, byte) in last.iter_mut().zip(rest) {
            *slot = *byte;
        }
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the tests of the Java client (`UtilsTest.testMurmur2`).
    #[test]
    fn the_hash_is_that_of_the_java_client() {
        for (text, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
        assert_eq!(partition(b"21", 0), 0);
        assert_eq!(partition(b"abc", 1000), 107);
    }

    #[test]
    fn numbers_are_zigzag() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (1, &[2]),
            (63, &[126]),
            (64, &[128, 1]),
            (-65, &[129, 1]),
            (i64::MAX, &[254, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            (i64::MIN, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut out = Vec::new();
            varint(&mut out, number);
            assert_eq!(out, bytes, "{number}");
        }
    }

    #[test]
    fn a_batch_is_no_longer_than_its_records_say() {
        let record = |time_ms| Record {
            time_ms,
            headers: vec![("id", "x".repeat(200)), ("stream", String::new())],
            value: vec![7; 70_000],
        };
        let records = [record(i64::MAX), record(0), record(i64::MIN)];
        let room: usize = records.iter().map(|record| record.size(b"key")).sum();
        let batch = encode(b"key", &records, Codec::Plain).unwrap();
        assert!(batch.len() <= HEAD_BYTES + room, "{}", batch.len());
        assert!(batch.len() > 210_000);
        // Length, format, checksum, count.
        assert_eq!(
            batch[8..12],
            (i32::try_from(batch.len()).unwrap() - 12).to_be_bytes()
        );
        assert_eq!(batch[16], 2);
        assert_eq!(batch[17..21], crc32c::crc32c(&batch[21..]).to_be_bytes());
        assert_eq!(batch[57..61], 3_i32.to_be_bytes());
        let packed = encode(b"key", &records, Codec::Zstd).unwrap();
        assert_eq!(packed[21..23], 4_i16.to_be_bytes());
        assert!(packed.len() < 1_000);
        let body = zstd::bulk::decompress(&packed[61..], 1 << 20).unwrap();
        assert_eq!(body, batch[61..]);
    }
}
