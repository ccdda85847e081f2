//! The store: one SQLite file in write-ahead mode. One writer at a time changes packets ([`write`]); any number of readers, in
//! other processes too, look.
//!
//! Packets are kept as the bytes that were sealed, so that their digest can be checked for ever. Beside each stands one row of
//! what its header says, a row per event number (so that no event is stored twice), and its terms ([`crate::term`]). Rows of packets,
//! terms and times are grouped by thousands of packets in the order of arrival ([`PART_PACKETS`]): writes touch the newest group
//! only, however large the store is, and a search skips groups by their times.
//!
//! A commit waits for the disk (`synchronous = FULL`): what is acknowledged survives a crash and power loss.

pub mod read;
pub mod retention;
pub mod write;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// Name of the file within the data folder.
pub const FILE: &str = "central-node.db";

/// Version of the tables, kept in the file as `user_version`.
pub const VERSION: i64 = 1;

/// `application_id` of the file: `sCnS`.
const APPLICATION_ID: i64 = 0x7343_6e53;

/// Packets per group. A power of two; stored terms depend on it.
pub const PART_PACKETS: i64 = 4_096;

/// How long to wait for another process's write (settings, retention) before giving up.
const BUSY: Duration = Duration::from_secs(15);

/// Pages of 8 KiB hold most headers of a batch and keep chains of large packets short.
const PAGE_BYTES: i64 = 8_192;

/// Memory of a connection for pages, in KiB: holds the newest group's terms.
const CACHE_KIB: i64 = 65_536;

/// A smaller file is looked through at start, which takes less than a second; in a larger one damage shows when it is met.
const CHECKED_BYTES: u64 = 128 << 20;

const TABLES: &str = "
CREATE TABLE agent (
    agent INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    first_seen_ns INTEGER NOT NULL,
    last_seen_ns INTEGER NOT NULL,
    version TEXT NOT NULL DEFAULT '',
    host TEXT NOT NULL DEFAULT '',
    certificate BLOB,
    certificate_end_ns INTEGER,
    sync BLOB,
    sync_ns INTEGER
) STRICT;
CREATE TABLE epoch (
    epoch INTEGER PRIMARY KEY,
    agent INTEGER NOT NULL REFERENCES agent,
    id BLOB NOT NULL,
    first_seen_ns INTEGER NOT NULL,
    UNIQUE (agent, id)
) STRICT;
CREATE TABLE stream (
    epoch INTEGER NOT NULL REFERENCES epoch,
    stream INTEGER NOT NULL,
    highest INTEGER NOT NULL,
    lowest INTEGER NOT NULL,
    packets INTEGER NOT NULL,
    events INTEGER NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0,
    sealed_ns INTEGER NOT NULL,
    conflicts INTEGER NOT NULL DEFAULT 0,
    broken INTEGER NOT NULL DEFAULT 0,
    backwards INTEGER NOT NULL DEFAULT 0,
    repeated INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    names TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (epoch, stream)
) STRICT, WITHOUT ROWID;
CREATE TABLE part (
    part INTEGER PRIMARY KEY,
    first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE packet (
    packet INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch INTEGER NOT NULL REFERENCES epoch,
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,
    previous BLOB,
    run BLOB NOT NULL,
    run_began_ns INTEGER NOT NULL,
    boot BLOB NOT NULL,
    sealed_ns INTEGER NOT NULL,
    received_ns INTEGER NOT NULL,
    at_boot_ns INTEGER NOT NULL,
    first_boot_ns INTEGER NOT NULL,
    last_boot_ns INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL,
    first_counter INTEGER,
    last_counter INTEGER,
    host TEXT NOT NULL,
    counts TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    repeated INTEGER NOT NULL,
    account BLOB
) STRICT;
CREATE UNIQUE INDEX packet_place ON packet (epoch, stream, sequence);
CREATE INDEX packet_time ON packet (epoch, stream, last_ns);
CREATE TABLE body (
    packet INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;
CREATE TABLE event (
    epoch INTEGER NOT NULL,
    counter INTEGER NOT NULL,
    packet INTEGER NOT NULL,
    PRIMARY KEY (epoch, counter)
) STRICT, WITHOUT ROWID;
CREATE TABLE term (
    part INTEGER NOT NULL,
    term INTEGER NOT NULL,
    packet INTEGER NOT NULL,
    PRIMARY KEY (part, term, packet)
) STRICT, WITHOUT ROWID;
CREATE TABLE conflict (
    conflict INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    digest BLOB NOT NULL,
    received_ns INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (epoch, stream, sequence, digest)
) STRICT;
CREATE TABLE refusal (
    refusal INTEGER PRIMARY KEY AUTOINCREMENT,
    agent INTEGER NOT NULL REFERENCES agent,
    epoch BLOB,
    stream INTEGER,
    sequence INTEGER,
    digest BLOB NOT NULL,
    reason INTEGER NOT NULL,
    detail TEXT NOT NULL,
    received_ns INTEGER NOT NULL,
    UNIQUE (agent, digest)
) STRICT;
CREATE TABLE settings (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    agent BLOB,
    type TEXT NOT NULL,
    document TEXT NOT NULL,
    set_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE number (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("{path}: no store; `central-node serve` makes it")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("{path}: cannot open")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The folder cannot be made or kept private.
    #[error("{path}: cannot make the data folder")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not ours.
    #[error("{path}: not a store of a central node")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer central node wrote it.
    #[error("{path}: has version {found}, this central node knows {VERSION}: use a newer one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Its content is damaged.
    #[error("{path}: damaged: {problem}; move it away, agents deliver again what they still have")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        problem: String,
    },
    /// The disk is full, or fails.
    #[error("the disk takes nothing more")]
    Full(#[source] rusqlite::Error),
    /// A statement failed.
    #[error("the store failed")]
    Failed(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::ReadOnly) => {
                Self::Full(error)
            }
            Some(_) | None => Self::Failed(error),
        }
    }
}

/// Whether an error says that the content is damaged.
fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

fn opened(path: &Path, error: rusqlite::Error) -> StoreError {
    if is_corrupt(&error) {
        StoreError::Corrupt {
            path: path.to_owned(),
            problem: error.to_string(),
        }
    } else {
        StoreError::Open {
            path: path.to_owned(),
            source: error,
        }
    }
}

/// Opens the store in a folder for writing; makes folder (0700) and store where there is none.
///
/// # Errors
/// [`StoreError`].
pub fn create(folder: &Path) -> Result<Connection, StoreError> {
    private_folder(folder)?;
    let path = folder.join(FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(&path, flags).map_err(|error| opened(&path, error))?;
    prepare(&connection, &path).map_err(|error| opened(&path, error))?;
    match version(&connection, &path)? {
        0 => make_tables(&connection).map_err(|error| opened(&path, error))?,
        VERSION => {}
        _ => return Err(StoreError::Foreign { path }),
    }
    let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    if length < CHECKED_BYTES {
        check(&connection, &path)?;
    }
    Ok(connection)
}

/// Opens the store in a folder for looking.
///
/// # Errors
/// [`StoreError`].
pub fn open(folder: &Path) -> Result<Connection, StoreError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Err(StoreError::Missing { path });
    }
    // Readers of a write-ahead log write its index of pages in shared memory: hence no read-only flag.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(&path, flags).map_err(|error| opened(&path, error))?;
    prepare(&connection, &path).map_err(|error| opened(&path, error))?;
    match version(&connection, &path)? {
        VERSION => Ok(connection),
        _ => Err(StoreError::Foreign { path }),
    }
}

/// Looks through the whole file.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let problem: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| opened(path, error))?;
    if problem == "ok" {
        return Ok(());
    }
    Err(StoreError::Corrupt {
        path: path.to_owned(),
        problem,
    })
}

fn private_folder(folder: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let failed = |source| StoreError::Folder {
        path: folder.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    // Made here, so that SQLite takes over its mode for the log beside it.
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .create(true)
        .append(true)
        .open(folder.join(FILE))
        .map(drop)
        .map_err(failed)
}

fn prepare(connection: &Connection, path: &Path) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        tracing::warn!(path = %path.display(), mode, "the file system allows no write-ahead log; the store is slower");
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // After a burst the log is cut back to this.
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

/// Version of the tables; 0 for an empty file.
fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let pragma = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|error| opened(path, error))
    };
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| opened(path, error))?;
    if tables == 0 && application == 0 && version == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
        });
    }
    if version > VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
        });
    }
    Ok(version)
}

fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; COMMIT;"
    ))
}

/// Group of a packet.
#[must_use]
pub const fn part_of(packet: i64) -> i64 {
    packet.div_euclid(PART_PACKETS)
}

/// A kept number of the store, such as the last packet whose body was given up.
///
/// # Errors
/// [`StoreError::Failed`].
pub fn number(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    use rusqlite::OptionalExtension as _;
    Ok(connection
        .prepare_cached("SELECT value FROM number WHERE name = ?")?
        .query_row([name], |row| row.get(0))
        .optional()?
        .unwrap_or(0))
}

/// Sets a kept number.
///
/// # Errors
/// [`StoreError`].
pub fn set_number(connection: &Connection, name: &str, value: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO number (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2")?
        .execute((name, value))?;
    Ok(())
}
