//! What the writer does within a transaction. Refuses to decide when to commit.

use std::time::Duration;

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, params};
use sensor_proto::v1;

use super::read::counts_of;
use super::{StoreError, part_of};
use crate::account::{Account, DoesNotAddUp, Summary, signed};
use crate::agent_id::Peer;
use crate::clock::now_ns;
use crate::packet::{Digest, Packet, Place};
use crate::term;

/// Conflicting packets kept of one place; more of them say nothing new.
const CONFLICTS_PER_PLACE: i64 = 16;

/// Refusals kept of one agent; older ones give way.
const REFUSALS_PER_AGENT: i64 = 10_000;

/// A packet, with all that is stored of it worked out beforehand, so that the writer only writes.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Where it belongs.
    pub place: Place,
    /// Digest of the bytes.
    pub digest: Digest,
    bytes: Vec<u8>,
    previous: Option<Digest>,
    summary: Summary,
    version: String,
    host: String,
    first_ns: i64,
    last_ns: i64,
    counters: Vec<i64>,
    terms: Vec<i64>,
    counts: String,
    names: String,
    account: Option<Vec<u8>>,
    /// Every counter of the ledger, in the order of names: none of them goes back within a run.
    sealed: Vec<(String, u64)>,
}

impl Prepared {
    /// Works out what is stored of a packet.
    #[must_use]
    pub fn new(packet: Packet) -> Self {
        let summary = Summary::of(&packet);
        let body = packet.opened.body();
        let times = || body.events.iter().map(|event| event.time_ns);
        let accounted = summary.wall_ns(summary.last_boot_ns);
        let mut counters: Vec<i64> = body
            .events
            .iter()
            .filter_map(|event| event.id.as_ref())
            .map(|id| signed(id.counter))
            .collect();
        counters.sort_unstable();
        let rows = body.ledger.iter().flat_map(|ledger| &ledger.rows);
        let mut sealed: Vec<(String, u64)> =
            rows.map(|row| (row.name.clone(), row.sealed)).collect();
        sealed.sort_unstable();
        let names: Vec<&str> = sealed.iter().map(|(name, _)| name.as_str()).collect();
        let counts: Vec<String> = summary
            .counts
            .iter()
            .map(|(number, count)| format!("{number}:{count}"))
            .collect();
        let names = names.join(",");
        Self {
            place: packet.place,
            digest: *packet.opened.digest(),
            previous: packet.previous,
            version: body
                .agent
                .as_ref()
                .map_or_else(String::new, |agent| agent.version.clone()),
            host: body
                .host
                .as_ref()
                .map_or_else(String::new, |host| host.name.clone()),
            first_ns: times().min().unwrap_or(accounted),
            last_ns: times().max().unwrap_or(accounted),
            counters,
            terms: term::of(&packet.opened),
            counts: counts.join(","),
            names,
            account: summary.account.encode(),
            sealed,
            summary,
            bytes: packet.bytes,
        }
    }

    /// Length of the packet.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there.
    Duplicate,
    /// Another one was in its place; it is kept beside.
    Conflict,
}

/// Number of an agent's row; made when it is new.
///
/// # Errors
/// [`StoreError`].
pub fn agent(connection: &Connection, peer: &Peer) -> Result<i64, StoreError> {
    let now = now_ns();
    Ok(connection
        .prepare_cached(
            "INSERT INTO agent (id, first_seen_ns, last_seen_ns, certificate, certificate_end_ns) VALUES (?1, ?2, ?2, ?3, ?4)
             ON CONFLICT (id) DO UPDATE SET last_seen_ns = ?2, certificate = ?3, certificate_end_ns = ?4 RETURNING agent",
        )?
        .query_row(
            params![peer.agent_id.as_bytes(), now, peer.certificate, peer.not_after_ns],
            |row| row.get(0),
        )?)
}

fn epoch(connection: &Connection, agent: i64, id: &[u8; 16]) -> Result<i64, StoreError> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT epoch FROM epoch WHERE agent = ? AND id = ?")?
        .query_row(params![agent, id], |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    Ok(connection
        .prepare_cached(
            "INSERT INTO epoch (agent, id, first_seen_ns) VALUES (?, ?, ?) RETURNING epoch",
        )?
        .query_row(params![agent, id, now_ns()], |row| row.get(0))?)
}

/// Stores a packet, or finds that it was, or that another one was.
///
/// # Errors
/// [`StoreError`].
pub fn packet(
    connection: &Connection,
    agent: i64,
    packet: &Prepared,
) -> Result<Stored, StoreError> {
    let epoch = epoch(connection, agent, &packet.place.epoch)?;
    let (stream, sequence) = (packet.place.stream, packet.place.sequence);
    let stored: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT digest FROM packet WHERE epoch = ? AND stream = ? AND sequence = ?",
        )?
        .query_row(params![epoch, stream, sequence], |row| row.get(0))
        .optional()?;
    match stored {
        Some(digest) if digest == packet.digest => {
            duplicate(connection, epoch, stream)?;
            return Ok(Stored::Duplicate);
        }
        Some(_) => {
            conflict(connection, epoch, packet)?;
            return Ok(Stored::Conflict);
        }
        None => {}
    }
    // What retention has forgotten was stored once: its place below the floor is the only thing left of it.
    let floor: Option<i64> = connection
        .prepare_cached("SELECT floor FROM stream WHERE epoch = ? AND stream = ?")?
        .query_row(params![epoch, stream], |row| row.get(0))
        .optional()?;
    if floor.is_some_and(|floor| sequence <= floor) {
        duplicate(connection, epoch, stream)?;
        return Ok(Stored::Duplicate);
    }
    insert(connection, epoch, packet)?;
    connection
        .prepare_cached("UPDATE agent SET version = ?, host = ? WHERE agent = ?")?
        .execute(params![packet.version, packet.host, agent])?;
    Ok(Stored::New)
}

fn duplicate(connection: &Connection, epoch: i64, stream: i32) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "UPDATE stream SET duplicates = duplicates + 1 WHERE epoch = ? AND stream = ?",
        )?
        .execute(params![epoch, stream])?;
    Ok(())
}

fn conflict(connection: &Connection, epoch: i64, packet: &Prepared) -> Result<(), StoreError> {
    let (stream, sequence) = (packet.place.stream, packet.place.sequence);
    let kept: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM conflict WHERE epoch = ? AND stream = ? AND sequence = ? AND digest <> ?",
        )?
        .query_row(params![epoch, stream, sequence, packet.digest], |row| row.get(0))?;
    if kept >= CONFLICTS_PER_PLACE {
        connection
            .prepare_cached(
                "DELETE FROM conflict WHERE conflict = (SELECT min(conflict) FROM conflict
                 WHERE epoch = ? AND stream = ? AND sequence = ? AND digest <> ?)",
            )?
            .execute(params![epoch, stream, sequence, packet.digest])?;
    }
    let new = connection
        .prepare_cached(
            "INSERT OR IGNORE INTO conflict (epoch, stream, sequence, digest, received_ns, bytes) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![epoch, stream, sequence, packet.digest, now_ns(), packet.bytes])?;
    connection
        .prepare_cached(
            "UPDATE stream SET conflicts = conflicts + ? WHERE epoch = ? AND stream = ?",
        )?
        .execute(params![signed_len(new), epoch, stream])?;
    Ok(())
}

fn insert(connection: &Connection, epoch: i64, packet: &Prepared) -> Result<(), StoreError> {
    let summary = &packet.summary;
    let (stream, sequence) = (packet.place.stream, packet.place.sequence);
    let received_ns = now_ns();
    let row: i64 = connection
        .prepare_cached(
            "INSERT INTO packet (epoch, stream, sequence, digest, previous, run, run_began_ns, boot, sealed_ns, received_ns,
                at_boot_ns, first_boot_ns, last_boot_ns, first_ns, last_ns, first_counter, last_counter, host, counts, bytes,
                repeated, account)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?) RETURNING packet",
        )?
        .query_row(
            params![
                epoch,
                stream,
                sequence,
                packet.digest,
                packet.previous,
                summary.run,
                summary.run_began_ns,
                packet.summary.boot,
                summary.sealed_ns,
                received_ns,
                summary.at_boot_ns,
                summary.first_boot_ns,
                summary.last_boot_ns,
                packet.first_ns,
                packet.last_ns,
                packet.counters.first(),
                packet.counters.last(),
                packet.host,
                packet.counts,
                signed_len(packet.bytes.len()),
                packet.account,
            ],
            |row| row.get(0),
        )?;
    connection
        .prepare_cached("INSERT INTO body (packet, bytes) VALUES (?, ?)")?
        .execute(params![row, packet.bytes])?;
    let repeated = events(connection, epoch, row, &packet.counters)?;
    if repeated > 0 {
        connection
            .prepare_cached("UPDATE packet SET repeated = ? WHERE packet = ?")?
            .execute(params![repeated, row])?;
    }
    let part = part_of(row);
    let mut terms = connection
        .prepare_cached("INSERT OR IGNORE INTO term (part, term, packet) VALUES (?, ?, ?)")?;
    for term in &packet.terms {
        terms.execute((part, term, row))?;
    }
    connection
        .prepare_cached(
            "INSERT INTO part (part, first_ns, last_ns) VALUES (?1, ?2, ?3) ON CONFLICT (part)
             DO UPDATE SET first_ns = min(first_ns, ?2), last_ns = max(last_ns, ?3)",
        )?
        .execute((part, packet.first_ns, packet.last_ns))?;
    let broken = chain_broken(connection, epoch, packet)?;
    let backwards = went_back(connection, epoch, packet)?;
    connection
        .prepare_cached(
            "INSERT INTO stream (epoch, stream, highest, lowest, packets, events, sealed_ns, broken, backwards, repeated, names)
             VALUES (?1, ?2, ?3, ?3, 1, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (epoch, stream) DO UPDATE SET
                names = CASE WHEN ?3 > highest THEN ?9 ELSE names END,
                highest = max(highest, ?3), lowest = min(lowest, ?3), packets = packets + 1, events = events + ?4,
                sealed_ns = max(sealed_ns, ?5), broken = broken + ?6, backwards = backwards + ?7, repeated = repeated + ?8",
        )?
        .execute(params![
            epoch,
            stream,
            sequence,
            signed_len(packet.counters.len()).saturating_sub(repeated),
            summary.sealed_ns,
            broken,
            backwards,
            repeated,
            packet.names,
        ])?;
    Ok(())
}

/// Takes the events' numbers; says how many were taken by another packet before: these events are not told twice.
fn events(
    connection: &Connection,
    epoch: i64,
    packet: i64,
    counters: &[i64],
) -> Result<i64, StoreError> {
    let mut insert = connection
        .prepare_cached("INSERT OR IGNORE INTO event (epoch, counter, packet) VALUES (?, ?, ?)")?;
    let mut repeated = 0i64;
    for counter in counters {
        if insert.execute((epoch, counter, packet))? == 0 {
            repeated = repeated.saturating_add(1);
        }
    }
    Ok(repeated)
}

/// How many of the two links, to the packet before and from the one after, do not hold.
fn chain_broken(connection: &Connection, epoch: i64, packet: &Prepared) -> Result<i64, StoreError> {
    let (stream, sequence) = (packet.place.stream, packet.place.sequence);
    let before: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT digest FROM packet WHERE epoch = ? AND stream = ? AND sequence = ?",
        )?
        .query_row(params![epoch, stream, sequence.saturating_sub(1)], |row| {
            row.get(0)
        })
        .optional()?;
    let after: Option<Option<Vec<u8>>> = connection
        .prepare_cached(
            "SELECT previous FROM packet WHERE epoch = ? AND stream = ? AND sequence = ?",
        )?
        .query_row(params![epoch, stream, sequence.saturating_add(1)], |row| {
            row.get(0)
        })
        .optional()?;
    let to_before = before.is_some_and(|digest| {
        packet
            .previous
            .is_none_or(|previous| digest.as_slice() != previous.as_slice())
    });
    let from_after = after.is_some_and(|previous| {
        previous.is_none_or(|previous| previous.as_slice() != packet.digest.as_slice())
    });
    Ok(i64::from(to_before).saturating_add(i64::from(from_after)))
}

/// Whether counters of losses, or the clock of the account, went back against the packet before in the same run, or the events
/// that it packed since do not add up: then the account contradicts itself.
fn went_back(connection: &Connection, epoch: i64, packet: &Prepared) -> Result<bool, StoreError> {
    let (stream, sequence) = (packet.place.stream, packet.place.sequence);
    let before = connection
        .prepare_cached(
            "SELECT run, at_boot_ns, account, sequence, counts FROM packet WHERE epoch = ? AND stream = ? AND sequence < ?
             ORDER BY sequence DESC LIMIT 1",
        )?
        .query_row(params![epoch, stream, sequence], |row| {
            let account: Option<Vec<u8>> = row.get(2)?;
            let counts: String = row.get(4)?;
            Ok(Summary {
                run: row.get(0)?,
                at_boot_ns: row.get(1)?,
                account: Account::decode_stored(account.as_deref()),
                sequence: row.get(3)?,
                counts: counts_of(&counts).into_iter().collect(),
                ..Summary::default()
            })
        })
        .optional()?;
    let Some(before) = before.filter(|before| before.run == packet.summary.run) else {
        return Ok(false);
    };
    let follows = before.sequence.saturating_add(1) == sequence;
    let adds_up = match packet.summary.between(&before) {
        Err(DoesNotAddUp) => false,
        Ok(between) => !follows || between.is_none_or(|between| between.is_empty()),
    };
    let at_boot_ns = before.at_boot_ns;
    let before = before.account.counters();
    let now = packet.summary.account.counters();
    let less = before
        .iter()
        .any(|(key, count)| now.get(key).is_none_or(|now| now < count));
    Ok(less
        || !adds_up
        || packet.summary.at_boot_ns < at_boot_ns
        || packet.seals_less_than_it_holds())
}

impl Prepared {
    /// The ledger counts fewer sealed events of a type than this one packet holds.
    fn seals_less_than_it_holds(&self) -> bool {
        self.summary.counts.iter().any(|(number, count)| {
            let name = v1::EventType::try_from(*number).map(v1::EventType::short_name);
            let row = |name: &str| self.sealed.iter().find(|(row, _)| row == name);
            name.ok()
                .and_then(row)
                .is_some_and(|(_, sealed)| sealed < count)
        })
    }
}

/// Remembers a packet that was refused for good.
///
/// # Errors
/// [`StoreError`].
pub fn refusal(
    connection: &Connection,
    agent: i64,
    place: Option<Place>,
    digest: &Digest,
    reason: v1::RefusalReason,
    detail: &str,
) -> Result<(), StoreError> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO refusal (agent, epoch, stream, sequence, digest, reason, detail, received_ns)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            agent,
            place.map(|place| place.epoch),
            place.map(|place| place.stream),
            place.map(|place| place.sequence),
            digest,
            i32::from(reason),
            detail,
            now_ns(),
        ])?;
    connection
        .prepare_cached(
            "DELETE FROM refusal WHERE agent = ?1 AND refusal <=
                (SELECT refusal FROM refusal WHERE agent = ?1 ORDER BY refusal DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![agent, REFUSALS_PER_AGENT])?;
    Ok(())
}

/// Stores an agent's state and says which settings are newer than its own.
///
/// # Errors
/// [`StoreError`].
pub fn synchronize(
    connection: &Connection,
    agent: i64,
    request: &v1::SyncRequest,
) -> Result<Vec<v1::Settings>, StoreError> {
    let host = request.host.as_ref().map_or("", |host| host.name.as_str());
    connection
        .prepare_cached(
            "UPDATE agent SET sync = ?, sync_ns = ?, version = ?, host = iif(? = '', host, ?) WHERE agent = ?",
        )?
        .execute(params![
            request.encode_to_vec(),
            now_ns(),
            request.agent_version,
            host,
            host,
            agent,
        ])?;
    let mut newest = connection.prepare_cached(
        "SELECT type, version, document FROM settings AS s WHERE version =
            (SELECT max(version) FROM settings WHERE type = s.type AND (agent IS NULL OR agent = ?))",
    )?;
    let rows = newest.query_map([&request.agent_id], |row| {
        Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?))
    })?;
    let mut settings = Vec::new();
    for row in rows {
        let (r#type, version, document): (String, i64, String) = row?;
        let version = u64::try_from(version).unwrap_or_default();
        let reported = request
            .settings
            .iter()
            .filter(|status| status.r#type == r#type)
            .map(|status| status.version)
            .max();
        if reported != Some(version) {
            settings.push(v1::Settings {
                r#type,
                version,
                document,
            });
        }
    }
    Ok(settings)
}

/// Sets settings of a kind for one agent or all; the last that was set counts. Returns its version.
///
/// # Errors
/// [`StoreError`].
pub fn set_settings(
    connection: &Connection,
    agent: Option<[u8; 16]>,
    kind: &str,
    document: &str,
) -> Result<i64, StoreError> {
    Ok(connection.query_row(
        "INSERT INTO settings (agent, type, document, set_ns) VALUES (?, ?, ?, ?) RETURNING version",
        params![agent, kind, document, now_ns()],
        |row| row.get(0),
    )?)
}

/// Settings as they were set.
#[derive(Clone, Debug)]
pub struct SettingsRow {
    /// Whose; none: all agents'.
    pub agent: Option<uuid::Uuid>,
    /// Kind.
    pub kind: String,
    /// Version.
    pub version: i64,
    /// The document.
    pub document: String,
    /// When, ns since 1970.
    pub set_ns: i64,
}

/// All settings that count for somebody, oldest first.
///
/// # Errors
/// [`StoreError`].
pub fn all_settings(connection: &Connection) -> Result<Vec<SettingsRow>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT agent, type, version, document, set_ns FROM settings AS s
         WHERE version = (SELECT max(version) FROM settings WHERE type = s.type AND agent IS s.agent) ORDER BY version",
    )?;
    let rows = select.query_map([], |row| {
        Ok(SettingsRow {
            agent: row
                .get::<_, Option<[u8; 16]>>(0)?
                .map(uuid::Uuid::from_bytes),
            kind: row.get(1)?,
            version: row.get(2)?,
            document: row.get(3)?,
            set_ns: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The last of the packets that are stored without a gap from `from` on; if `from` itself is not stored, the last before it.
///
/// # Errors
/// [`StoreError`].
pub fn last_durable(
    connection: &Connection,
    agent: &[u8; 16],
    position: &v1::StreamPosition,
) -> Result<Option<v1::StreamPosition>, StoreError> {
    let epoch: Option<i64> = connection
        .prepare_cached(
            "SELECT epoch.epoch FROM epoch JOIN agent USING (agent) WHERE agent.id = ? AND epoch.id = ?",
        )?
        .query_row(params![agent, position.epoch], |row| row.get(0))
        .optional()?;
    let Some(epoch) = epoch else {
        return Ok(None);
    };
    let from = signed(position.sequence.max(1));
    let mut last: Option<(i64, Vec<u8>)> = None;
    let mut contiguous = connection.prepare_cached(
        "SELECT sequence, digest FROM packet WHERE epoch = ? AND stream = ? AND sequence >= ? ORDER BY sequence LIMIT 100000",
    )?;
    let mut rows = contiguous.query(params![epoch, position.stream, from])?;
    while let Some(row) = rows.next()? {
        let sequence: i64 = row.get(0)?;
        let expected = last
            .as_ref()
            .map_or(from, |(last, _)| last.saturating_add(1));
        if sequence != expected {
            break;
        }
        last = Some((sequence, row.get(1)?));
    }
    if last.is_none() {
        last = connection
            .prepare_cached(
                "SELECT sequence, digest FROM packet WHERE epoch = ? AND stream = ? AND sequence < ?
                 ORDER BY sequence DESC LIMIT 1",
            )?
            .query_row(params![epoch, position.stream, from], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
    }
    Ok(last.map(|(sequence, digest)| v1::StreamPosition {
        epoch: position.epoch.clone(),
        stream: position.stream,
        sequence: u64::try_from(sequence).unwrap_or_default(),
        digest: Some(digest),
    }))
}

fn signed_len(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Kind of settings: filter rules.
pub const FILTER: &str = "filter";

/// How long a waiting agent is told to wait when the disk takes nothing.
pub const RETRY_WHEN_FULL: Duration = Duration::from_secs(5);
