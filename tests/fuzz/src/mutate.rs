//! Changes of inputs.

/// A small generator (xorshift64*): the same sequence everywhere from the same seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; 0 is as good a seed as others.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5e45_0a11_d00d_0001)
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let number = self.word().checked_rem(limit).unwrap_or(0);
        usize::try_from(number).unwrap_or(0)
    }

    /// One of several.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }

    fn byte(&mut self) -> u8 {
        self.word().to_le_bytes()[0]
    }
}

/// Numbers at which code changes its mind.
const EDGES: [u64; 14] = [
    0,
    1,
    7,
    8,
    0x7f,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x10000,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];
/// Longest piece that is inserted, doubled or removed at once.
const PIECE: usize = 64;

/// What a mutation may draw from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Words of the format.
    pub words: &'a [&'a [u8]],
    /// What a run of this input compared: both sides.
    pub compared: &'a [(u64, u64)],
    /// Another input.
    pub other: &'a [u8],
}

/// Changes `input` one to eight times.
pub fn mutate(input: &mut Vec<u8>, random: &mut Random, sources: Sources<'_>, max_bytes: usize) {
    for _ in 0..=random.below(8) {
        once(input, random, sources);
    }
    input.truncate(max_bytes);
}

fn once(input: &mut Vec<u8>, random: &mut Random, sources: Sources<'_>) {
    let at = random.below(input.len());
    match random.below(12) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.byte();
            }
        }
        2 => {
            let count = random.below(PIECE).min(8);
            let bytes: Vec<u8> = (0..=count).map(|_| random.byte()).collect();
            insert(input, at, &bytes);
        }
        3 => {
            let end = input.len().min(at + 1 + random.below(PIECE));
            input.drain(at.min(end)..end);
        }
        4 => {
            let end = input.len().min(at + 1 + random.below(PIECE));
            let piece = input.get(at..end).unwrap_or_default().to_vec();
            let to = random.below(input.len() + 1);
            insert(input, to, &piece);
        }
        5 => {
            let edge = *random.one(&EDGES).unwrap_or(&0);
            overwrite(input, at, edge, 1 << random.below(4));
        }
        6 => {
            let width = 1 << random.below(4);
            let delta = random.word() % 32;
            let old = number(input, at, width);
            let new = if random.below(2) == 0 {
                old.wrapping_add(delta)
            } else {
                old.wrapping_sub(delta)
            };
            overwrite(input, at, new, width);
        }
        7 => {
            if let Some(word) = random.one(sources.words) {
                insert(input, at, word);
            }
        }
        8 => {
            if let Some(word) = random.one(sources.words) {
                let end = input.len().min(at + word.len());
                input.splice(at.min(end)..end, word.iter().copied());
            }
        }
        9 | 10 => compared(input, random, sources.compared),
        _ => {
            let from = random.below(sources.other.len());
            let end = sources.other.len().min(from + 1 + random.below(4 * PIECE));
            let piece = sources.other.get(from..end).unwrap_or_default();
            if random.below(2) == 0 {
                input.truncate(at);
                input.extend_from_slice(piece);
            } else {
                insert(input, at, piece);
            }
        }
    }
}

/// Puts one side of a comparison where the input has the other: as a number of 2, 4 or 8 bytes.
fn compared(input: &mut [u8], random: &mut Random, pairs: &[(u64, u64)]) {
    let Some((left, right)) = random.one(pairs) else {
        return;
    };
    let (old, new) = if random.below(2) == 0 {
        (left, right)
    } else {
        (right, left)
    };
    let width = 2 << random.below(3);
    let places: Vec<usize> = (0..input.len().saturating_sub(width - 1))
        .filter(|at| number(input, *at, width) == *old)
        .collect();
    if let Some(at) = random.one(&places) {
        overwrite(input, *at, *new, width);
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let at = at.min(input.len());
    input.splice(at..at, bytes.iter().copied());
}

fn number(input: &[u8], at: usize, width: usize) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(input.iter().skip(at).take(width)) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

fn overwrite(input: &mut [u8], at: usize, number: u64, width: usize) {
    let bytes = number.to_le_bytes();
    for (to, from) in input.iter_mut().skip(at).zip(bytes.iter().take(width)) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_stay_within_their_limit_and_do_not_repeat() {
        let mut random = Random::new(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let mut input = b"some input".to_vec();
            let sources = Sources {
                words: &[b"word"],
                compared: &[(1, 2)],
                other: b"another",
            };
            mutate(&mut input, &mut random, sources, 32);
            assert!(input.len() <= 32);
            seen.insert(input);
        }
        assert!(seen.len() > 1500, "{} different", seen.len());
        let nothing = Sources {
            words: &[],
            compared: &[],
            other: &[],
        };
        for _ in 0..2000 {
            mutate(&mut Vec::new(), &mut random, nothing, 32);
        }
    }

    #[test]
    fn a_compared_number_is_put_in_place() {
        let mut random = Random::new(2);
        let mut input = [9, 0x34, 0x12, 0, 0, 9];
        for _ in 0..100 {
            compared(&mut input, &mut random, &[(0x1234, 0xabcd)]);
        }
        let at = u16::from_le_bytes([input[1], input[2]]);
        assert!(at == 0x1234 || at == 0xabcd, "{input:?}");
        assert_eq!((input[0], input[5]), (9, 9));
    }
}
