//! What is given up, oldest first: bodies by age and bytes, then rows of accounts by their own age. Refuses to guess: what is gone
//! is known to be gone (`expired`), so that no report takes it for missing.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{PART_PACKETS, StoreError, number, part_of, set_number};
use crate::clock::{duration_ns, now_ns};

/// Name of the number: last packet whose body is gone.
pub const EXPIRED: &str = "expired";
/// Name of the number: last packet whose row is gone.
pub const FORGOTTEN: &str = "forgotten";

/// Packets per step: a step is a transaction, between which packets are stored.
const STEP: i64 = 128;

/// How long what is kept, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events are kept so long after they arrived.
    pub age: Duration,
    /// The store's file uses at most so many bytes.
    pub bytes: u64,
    /// Headers and accounts, by which completeness is judged and duplicates are known, are kept so long.
    pub account_age: Duration,
}

/// Bytes of the file that are in use.
///
/// # Errors
/// [`StoreError`].
pub fn used_bytes(connection: &Connection) -> Result<u64, StoreError> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(u64::try_from(pages.saturating_mul(pragma("page_size")?)).unwrap_or_default())
}

/// Bytes that are free on the disk of a folder.
#[must_use]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Gives up one step of what is too old or too much. Returns whether more is to be done.
///
/// # Errors
/// [`StoreError`].
pub fn step(connection: &mut Connection, retention: &Retention) -> Result<bool, StoreError> {
    let now = now_ns();
    let oldest = |age: Duration| now.saturating_sub(duration_ns(age));
    let expired = number(connection, EXPIRED)?;
    let over = used_bytes(connection)? > retention.bytes;
    let last: i64 = connection.query_row(
        "SELECT ifnull(max(packet), 0) FROM (SELECT packet FROM packet WHERE packet > ?1 AND (?2 OR received_ns < ?3)
         ORDER BY packet LIMIT ?4)",
        (expired, over, oldest(retention.age), STEP),
        |row| row.get(0),
    )?;
    if last > expired {
        let transaction = connection.transaction()?;
        expire(&transaction, expired, last)?;
        transaction.commit()?;
        return Ok(true);
    }
    let forgotten = number(connection, FORGOTTEN)?;
    let last: i64 = connection.query_row(
        "SELECT ifnull(max(packet), 0) FROM (SELECT packet FROM packet WHERE packet > ?1 AND packet <= ?2 AND received_ns < ?3
         ORDER BY packet LIMIT ?4)",
        (forgotten, expired, oldest(retention.account_age), STEP),
        |row| row.get(0),
    )?;
    if last > forgotten {
        let transaction = connection.transaction()?;
        forget(&transaction, last)?;
        transaction.commit()?;
        return Ok(true);
    }
    // Conflicts count among the bytes, too, and nothing else bounds their number.
    let conflicts = connection.execute(
        "DELETE FROM conflict WHERE received_ns < ?1 OR (?2 AND conflict IN
            (SELECT conflict FROM conflict ORDER BY conflict LIMIT ?3))",
        (oldest(retention.age), over, STEP),
    )?;
    Ok(conflicts > 0)
}

/// Gives up the bodies after `from` up to `to`.
fn expire(connection: &Connection, from: i64, to: i64) -> Result<(), StoreError> {
    let mut packets = connection.prepare_cached(
        "SELECT packet, epoch, first_counter, last_counter FROM packet WHERE packet > ? AND packet <= ? AND first_counter IS NOT NULL",
    )?;
    let mut events = connection.prepare_cached(
        "DELETE FROM event WHERE epoch = ? AND counter BETWEEN ? AND ? AND packet = ?",
    )?;
    let rows = packets.query_map((from, to), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    for row in rows {
        let (packet, epoch, first, last): (i64, i64, i64, i64) = row?;
        events.execute((epoch, first, last, packet))?;
    }
    connection.execute(
        "DELETE FROM body WHERE packet > ? AND packet <= ?",
        (from, to),
    )?;
    // A group's terms go when its last packet has gone.
    let whole = part_of(to.saturating_add(1));
    connection.execute("DELETE FROM term WHERE part < ?", [whole])?;
    connection.execute("DELETE FROM part WHERE part < ?", [whole])?;
    set_number(connection, EXPIRED, to)
}

/// Gives up the rows of packets up to `to`, and remembers up to which sequence.
fn forget(connection: &Connection, to: i64) -> Result<(), StoreError> {
    connection.execute(
        "UPDATE stream SET floor = max(floor, ifnull((SELECT max(sequence) FROM packet
            WHERE packet.epoch = stream.epoch AND packet.stream = stream.stream AND packet <= ?1), 0))",
        [to],
    )?;
    connection.execute("DELETE FROM packet WHERE packet <= ?", [to])?;
    set_number(connection, FORGOTTEN, to)
}

const _: () = assert!(STEP < PART_PACKETS, "a step stays within two groups");
