//! The table `[spool]`: how much waits for sinks, how long, and what a power cut may cost. Where it lies is `state.directory`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Checks;
use crate::config::unit::{Size, Span};

/// Days of an ordinary host (50 events a second of 60 bytes are 260 MB a day), and a quarter of an hour of a flood of 20,000 a
/// second; a small part of a small server's disk.
pub const SPOOL_DISK: Size = Size::mib(1024);
/// Longer than a holiday; what is older is of little use to who watches, and may be personal data.
pub const SPOOL_AGE: Span = Span::secs(21 * 24 * 3600);
/// Minutes of an ordinary host while its disk is full or read-only.
pub const SPOOL_MEMORY: Size = Size::mib(32);
/// What goes at once when room is needed, and what has to be read at most to find a packet.
pub const SPOOL_SEGMENT: Size = Size::mib(8);
/// Some packets of a burst; disks write as much in some ten milliseconds.
pub const SPOOL_UNSYNCED: Size = Size::mib(4);
/// Two syncs a second are nothing to a disk; who wants to lose less to a power cut pays with more of them.
pub const SPOOL_SYNC_PERIOD: Span = Span::millis(500);

/// Least that is kept on the disk and in memory: some of the longest packets.
const LEAST: Size = Size::mib(16);

/// `[spool]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolTable {
    /// Most that packets may take on the disk, both streams together. Beyond it the oldest segment of the stream that is furthest
    /// over its half goes, and every sink is told of what it had not read.
    pub disk: Size,
    /// Packets go unread when they are older.
    pub age: Span,
    /// Most that packets may take in memory while the disk is full, read-only or broken. Beyond it the oldest go, and every sink
    /// is told.
    pub memory: Size,
    /// Length at which a file of the spool is closed and another begun; never more than an eighth of `disk`. Room is made by
    /// whole files.
    pub segment: Size,
    /// Packets that are not yet on the disk for sure (fdatasync), at most: with `sync_period`, what a power cut can cost.
    pub unsynced: Size,
    /// How often packets are made durable. Sinks are given what is durable, so this is also how long a packet waits before it is
    /// sent.
    pub sync_period: Span,
}

impl Default for SpoolTable {
    fn default() -> Self {
        Self {
            disk: SPOOL_DISK,
            age: SPOOL_AGE,
            memory: SPOOL_MEMORY,
            segment: SPOOL_SEGMENT,
            unsynced: SPOOL_UNSYNCED,
            sync_period: SPOOL_SYNC_PERIOD,
        }
    }
}

/// The spool's limits as meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Bytes of packets on the disk.
    pub disk_bytes: u64,
    /// Age at which packets go unread.
    pub age: Duration,
    /// Bytes of packets in memory while the disk cannot be written.
    pub memory_bytes: u64,
    /// Length at which a segment is closed, bytes.
    pub segment_bytes: u64,
    /// Bytes of packets that are not durable.
    pub unsynced_bytes: u64,
    /// Time between two syncs.
    pub sync_period: Duration,
}

/// Checks the table.
pub(super) fn check(table: &SpoolTable, checks: &mut Checks) -> SpoolLimits {
    let mut size = |key: &str, value: Size, least: Size, most: Size| {
        checks.range(key, value, least..=most);
        value.bytes()
    };
    let most = Size::mib(1 << 20);
    let disk_bytes = size("spool.disk", table.disk, LEAST, most);
    let memory_bytes = size("spool.memory", table.memory, LEAST, Size::mib(4096));
    let segment_bytes = size(
        "spool.segment",
        table.segment,
        Size::kib(256),
        Size::mib(256),
    );
    let unsynced_bytes = size(
        "spool.unsynced",
        table.unsynced,
        Size::kib(64),
        Size::mib(256),
    );
    SpoolLimits {
        disk_bytes,
        age: checks.time(
            "spool.age",
            table.age,
            Span::secs(60)..=Span::secs(366 * 24 * 3600),
        ),
        memory_bytes,
        segment_bytes,
        unsynced_bytes,
        sync_period: checks.time(
            "spool.sync_period",
            table.sync_period,
            Span::millis(10)..=Span::secs(10),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::ConfigFile;
    use crate::config::{Config, ConfigProblem};

    #[test]
    fn three_weeks_and_a_gibibyte_unless_told_otherwise() {
        let spool = Config::try_from(ConfigFile::default()).unwrap().spool;
        assert_eq!(spool.age, Duration::from_secs(21 * 86_400));
        assert_eq!((spool.disk_bytes, spool.memory_bytes), (1 << 30, 32 << 20));
        assert_eq!(spool.sync_period, Duration::from_millis(500));
        let text = "[spool]\ndisk = '16MiB'\nage = '2d'\nmemory = '64MiB'\nsegment = '1MiB'\nunsynced = '128KiB'\nsync_period = '1s'\n";
        let file: ConfigFile = toml::from_str(text).unwrap();
        assert_eq!(
            Config::try_from(file).unwrap().spool,
            SpoolLimits {
                disk_bytes: 16 << 20,
                age: Duration::from_secs(2 * 86_400),
                memory_bytes: 64 << 20,
                segment_bytes: 1 << 20,
                unsynced_bytes: 128 << 10,
                sync_period: Duration::from_secs(1),
            }
        );
    }

    #[test]
    fn every_limit_that_makes_no_sense_is_named() {
        let text = "[spool]\ndisk = '1MiB'\nage = '1s'\nmemory = '1MiB'\nsegment = '1KiB'\nunsynced = '1GiB'\nsync_period = '1m'\n";
        let file: ConfigFile = toml::from_str(text).unwrap();
        let problems = Config::try_from(file).unwrap_err();
        let mut keys: Vec<&str> = problems
            .iter()
            .inspect(|problem| {
                assert!(
                    matches!(problem.problem, ConfigProblem::OutOfRange { .. }),
                    "{problem:?}"
                );
            })
            .map(|problem| problem.key.as_str())
            .collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "spool.age",
                "spool.disk",
                "spool.memory",
                "spool.segment",
                "spool.sync_period",
                "spool.unsynced"
            ]
        );
    }
}
