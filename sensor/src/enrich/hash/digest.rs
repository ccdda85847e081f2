//! Digests of one content, all in one pass over it.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Which digests are made. SHA-256 always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithms {
    /// MD5, for the older lists of known files.
    pub md5: bool,
    /// SHA-1.
    pub sha1: bool,
}

impl Default for Algorithms {
    fn default() -> Self {
        Self {
            md5: true,
            sha1: false,
        }
    }
}

/// Digests of one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// MD5, unless turned off.
    pub md5: Option<[u8; 16]>,
    /// SHA-1, if turned on.
    pub sha1: Option<[u8; 20]>,
    /// SHA-256.
    pub sha256: [u8; 32],
}

/// Digests in the making.
#[derive(Debug)]
pub(super) struct Hasher {
    md5: Option<Md5>,
    sha1: Option<Sha1>,
    sha256: Sha256,
}

impl Hasher {
    pub(super) fn new(algorithms: Algorithms) -> Self {
        Self {
            md5: algorithms.md5.then(Md5::new),
            sha1: algorithms.sha1.then(Sha1::new),
            sha256: Sha256::new(),
        }
    }

    pub(super) fn update(&mut self, chunk: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(chunk);
        }
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(chunk);
        }
        self.sha256.update(chunk);
    }

    pub(super) fn finish(self) -> Digests {
        Digests {
            md5: self.md5.map(|md5| md5.finalize().into()),
            sha1: self.sha1.map(|sha1| sha1.finalize().into()),
            sha256: self.sha256.finalize().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The vectors of RFC 1321, RFC 3174 and FIPS 180-2, whole and cut anywhere.
    #[test]
    fn published_vectors() {
        let all = Algorithms {
            md5: true,
            sha1: true,
        };
        for cut in 0..=3 {
            let mut hasher = Hasher::new(all);
            let (head, tail) = b"abc".split_at(cut);
            hasher.update(head);
            hasher.update(tail);
            let digests = hasher.finish();
            assert_eq!(
                hex(&digests.md5.unwrap()),
                "900150983cd24fb0d6963f7d28e17f72"
            );
            assert_eq!(
                hex(&digests.sha1.unwrap()),
                "a9993e364706816aba3e25717850c26c9cd0d89d"
            );
            assert_eq!(
                hex(&digests.sha256),
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            );
        }
        let digests = Hasher::new(Algorithms {
            md5: false,
            sha1: false,
        })
        .finish();
        assert_eq!((digests.md5, digests.sha1), (None, None));
        assert_eq!(
            hex(&digests.sha256),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
