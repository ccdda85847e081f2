//! What is fuzzed: [`TARGETS`].

pub mod btf;
pub mod config;
pub mod decode;
pub mod kafka;
pub mod packet;
pub mod procfs;
pub mod recording;
pub mod spool;

/// Every target. A further one is a line here and a function that takes bytes and must not panic.
pub const TARGETS: &[Target] = &[
    Target::new("decode", decode::run)
        .seeds(decode::seeds)
        .repair(decode::repair),
    Target::new("procfs", procfs::run)
        .seeds(procfs::seeds)
        .words(procfs::WORDS),
    Target::new("config", config::run)
        .seeds(config::seeds)
        .words(config::WORDS),
    Target::new("recording", recording::run)
        .seeds(recording::seeds)
        .words(recording::WORDS),
    Target::new("btf", btf::run).seeds(btf::seeds),
    Target::new("packet", packet::run).seeds(packet::seeds),
    Target::new("kafka", kafka::run).seeds(kafka::seeds),
    Target::new("spool", spool::run)
        .seeds(spool::seeds)
        .repair(spool::repair),
];

/// Something that reads bytes from elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line and of its folder.
    pub name: &'static str,
    /// Runs one input; panics if something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with; better ones lead further.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format, to be strewn in.
    pub words: &'static [&'static [u8]],
    /// Puts right after a mutation what would otherwise be all that is looked at: lengths, checksums.
    pub repair: fn(&mut Vec<u8>),
    /// Longest input.
    pub max_bytes: usize,
}

impl Target {
    /// A target without seeds, words and repair.
    #[must_use]
    pub const fn new(name: &'static str, run: fn(&[u8])) -> Self {
        Self {
            name,
            run,
            seeds: Vec::new,
            words: &[],
            repair: |_| {},
            max_bytes: 8192,
        }
    }

    /// With inputs to begin with.
    #[must_use]
    pub const fn seeds(self, seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Self { seeds, ..self }
    }

    /// With words of its format.
    #[must_use]
    pub const fn words(self, words: &'static [&'static [u8]]) -> Self {
        Self { words, ..self }
    }

    /// With a repair.
    #[must_use]
    pub const fn repair(self, repair: fn(&mut Vec<u8>)) -> Self {
        Self { repair, ..self }
    }
}

/// The target of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{Random, Sources, mutate};

    #[test]
    fn names_differ() {
        for target in TARGETS {
            assert_eq!(
                by_name(target.name).unwrap().run as usize,
                target.run as usize
            );
        }
    }

    /// Without counters too: what the seeds are for, they do, and the nearest around them do no harm.
    #[test]
    fn seeds_and_their_neighbours_run() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            let mut random = Random::new(7);
            for seed in &seeds {
                assert!(
                    seed.len() <= target.max_bytes,
                    "{}: a seed is too long",
                    target.name
                );
                (target.run)(seed);
                for _ in 0..20 {
                    let mut input = seed.clone();
                    let sources = Sources {
                        words: target.words,
                        compared: &[],
                        other: seeds.first().map_or(&[], Vec::as_slice),
                    };
                    mutate(&mut input, &mut random, sources, target.max_bytes);
                    (target.repair)(&mut input);
                    (target.run)(&input);
                }
            }
        }
    }
}
