//! Answers of a Kafka broker.

use sensor::sink::kafka::readable;

/// Reads an answer as each of those that there are.
pub fn run(bytes: &[u8]) {
    std::hint::black_box(readable(bytes));
}

/// One of each kind.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let versions = b"\0\0\0\0\0\x02\0\0\0\x03\0\x0d\0\x03\0\0\0\x0c";
    let metadata = b"\0\0\0\0\0\0\0\x01\0\0\0\x07\0\x09localhost\0\0\x23\x84\0\x04rack\xff\xff\0\0\0\x07\
        \0\0\0\x01\0\0\0\x06events\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\x07\0\0\0\x01\0\0\0\x07\0\0\0\x01\0\0\0\x07";
    let mut produced = b"\0\0\0\x01\0\x06events\0\0\0\x01\0\0\0\0\0\x0a".to_vec();
    produced.extend([0; 24]);
    produced.extend(b"\0\0\0\x01\0\0\0\x05\0\x03why\xff\xff\0\0\0\0");
    vec![versions.to_vec(), metadata.to_vec(), produced]
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_seed_is_an_answer() {
        for seed in super::seeds() {
            assert!(sensor::sink::kafka::readable(&seed) > 0, "{seed:?}");
        }
    }
}
