//! What readers ask. Answers are read in short steps, so that the writer's log can be cut back meanwhile.

use std::collections::BTreeMap;

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sensor_proto::v1;
use uuid::Uuid;

use super::StoreError;
use crate::account::{Account, Summary};
use crate::completeness::{Frame, Judge, Question, Report, Span, join};

/// Streams that every agent has.
pub const STREAMS: [v1::Stream; 2] = [v1::Stream::Process, v1::Stream::Bulk];

/// What the store knows of an agent.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// Number of its row.
    pub agent: i64,
    /// Its identity.
    pub id: Uuid,
    /// First and last contact, ns since 1970.
    pub seen_ns: (i64, i64),
    /// Version of the sensor; empty: not told.
    pub version: String,
    /// Name of its host; empty: not told.
    pub host: String,
    /// End of its certificate, ns since 1970.
    pub certificate_end_ns: Option<i64>,
    /// Its last state, and when it told: ns since 1970.
    pub sync: Option<(Box<v1::SyncRequest>, i64)>,
}

/// What the store knows of a stream.
#[derive(Clone, Debug)]
pub struct StreamRow {
    /// Number of the epoch's row.
    pub epoch: i64,
    /// The epoch.
    pub epoch_id: [u8; 16],
    /// Number of the stream.
    pub stream: i32,
    /// Lowest and highest sequence.
    pub sequences: (i64, i64),
    /// Packets stored.
    pub packets: i64,
    /// Events stored.
    pub events: i64,
    /// Sequences up to here are forgotten.
    pub floor: i64,
    /// When its newest packet was sealed, ns since 1970.
    pub sealed_ns: i64,
    /// Conflicting packets.
    pub conflicts: i64,
    /// Links of the chain that do not hold.
    pub broken: i64,
    /// Accounts that contradict the one before.
    pub backwards: i64,
    /// Events that another packet had brought before.
    pub repeated: i64,
    /// Packets that came again.
    pub duplicates: i64,
    /// Rows of its account, by name.
    pub names: Vec<String>,
}

/// All agents, or those that are asked for, by host and identity.
///
/// # Errors
/// [`StoreError`].
pub fn agents(connection: &Connection, only: &[Uuid]) -> Result<Vec<AgentRow>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT agent, id, first_seen_ns, last_seen_ns, version, host, certificate_end_ns, sync, sync_ns FROM agent ORDER BY host, id",
    )?;
    let rows = select.query_map([], |row| {
        let sync: Option<Vec<u8>> = row.get(7)?;
        let sync = sync.and_then(|sync| v1::SyncRequest::decode(sync.as_slice()).ok());
        Ok(AgentRow {
            agent: row.get(0)?,
            id: Uuid::from_bytes(row.get(1)?),
            seen_ns: (row.get(2)?, row.get(3)?),
            version: row.get(4)?,
            host: row.get(5)?,
            certificate_end_ns: row.get(6)?,
            sync: sync.map(Box::new).zip(row.get(8)?),
        })
    })?;
    let mut agents = Vec::new();
    for row in rows {
        let row = row?;
        if only.is_empty() || only.contains(&row.id) {
            agents.push(row);
        }
    }
    Ok(agents)
}

/// The streams of an agent, oldest epoch first.
///
/// # Errors
/// [`StoreError`].
pub fn streams(connection: &Connection, agent: i64) -> Result<Vec<StreamRow>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT epoch, id, stream, lowest, highest, packets, events, floor, sealed_ns, conflicts, broken, backwards, repeated,
            duplicates, names
         FROM epoch JOIN stream USING (epoch) WHERE agent = ? ORDER BY epoch, stream",
    )?;
    let rows = select.query_map([agent], |row| {
        let names: String = row.get(14)?;
        Ok(StreamRow {
            epoch: row.get(0)?,
            epoch_id: row.get(1)?,
            stream: row.get(2)?,
            sequences: (row.get(3)?, row.get(4)?),
            packets: row.get(5)?,
            events: row.get(6)?,
            floor: row.get(7)?,
            sealed_ns: row.get(8)?,
            conflicts: row.get(9)?,
            broken: row.get(10)?,
            backwards: row.get(11)?,
            repeated: row.get(12)?,
            duplicates: row.get(13)?,
            names: names.split(',').map(str::to_owned).collect(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Judges an agent's streams; one report per stream that concerns what is asked.
///
/// # Errors
/// [`StoreError`].
pub fn completeness(
    connection: &Connection,
    agent: &AgentRow,
    question: &Question,
) -> Result<Vec<(v1::Stream, Report)>, StoreError> {
    let rows = streams(connection, agent.agent)?;
    let mut reports = Vec::new();
    for stream in STREAMS {
        let of_stream: Vec<&StreamRow> = rows
            .iter()
            .filter(|row| row.stream == i32::from(stream))
            .collect();
        let concerned = question.event_type.is_none_or(|asked| {
            asked == v1::EventType::Patch
                || asked == v1::EventType::Aggregate
                || sensor_proto::packet::stream_of_type(asked) == stream
        });
        if !concerned {
            continue;
        }
        let mut epochs = Vec::new();
        for row in of_stream {
            epochs.push(judge(connection, agent, row, question)?);
        }
        reports.push((stream, join(question, epochs)));
    }
    Ok(reports)
}

fn judge(
    connection: &Connection,
    agent: &AgentRow,
    stream: &StreamRow,
    question: &Question,
) -> Result<Report, StoreError> {
    let place = (stream.epoch, stream.stream);
    // The packet before the first that the span may touch tells from where the account goes on.
    let touched: Option<i64> = connection
        .prepare_cached(
            "SELECT min(sequence) FROM packet WHERE epoch = ? AND stream = ? AND last_ns >= ?",
        )?
        .query_row((place.0, place.1, question.span.from_ns), |row| row.get(0))?;
    let from: Option<i64> = connection
        .prepare_cached(
            "SELECT max(sequence) FROM packet WHERE epoch = ? AND stream = ? AND sequence < ?",
        )?
        .query_row((place.0, place.1, touched.unwrap_or(i64::MAX)), |row| {
            row.get(0)
        })?;
    let from = from.or(touched).unwrap_or_default();
    let looked_at_before = from > stream.sequences.0.max(stream.floor.saturating_add(1));
    let floor = if looked_at_before {
        from.saturating_sub(1)
    } else {
        stream.floor
    };
    let rejected = connection
        .prepare_cached(
            "SELECT sequence FROM refusal WHERE agent = ? AND epoch = ? AND stream = ? AND sequence >= ? ORDER BY sequence",
        )?
        .query_map(params![agent.agent, stream.epoch_id, stream.stream, from], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let frame = Frame {
        epoch: stream.epoch_id,
        stream: stream.stream,
        floor,
        forgotten: !looked_at_before && stream.floor > 0,
        rejected,
    };
    let mut judge = Judge::new(question.clone(), frame);
    let mut packets = connection.prepare_cached(
        "SELECT sequence, run, run_began_ns, sealed_ns, at_boot_ns, first_boot_ns, last_boot_ns, counts, account, digest, previous,
            EXISTS (SELECT 1 FROM conflict WHERE conflict.epoch = packet.epoch AND conflict.stream = packet.stream
                AND conflict.sequence = packet.sequence), boot
         FROM packet WHERE epoch = ? AND stream = ? AND sequence >= ? ORDER BY sequence",
    )?;
    let mut rows = packets.query((place.0, place.1, from))?;
    let mut before: Option<(i64, Vec<u8>)> = None;
    while let Some(row) = rows.next()? {
        let mut summary = summary(row)?;
        let (digest, previous): (Vec<u8>, Option<Vec<u8>>) = (row.get(9)?, row.get(10)?);
        summary.chain_broken = before.as_ref().is_some_and(|(sequence, digest)| {
            sequence.saturating_add(1) == summary.sequence && previous.as_ref() != Some(digest)
        });
        before = Some((summary.sequence, digest));
        judge.packet(summary);
    }
    Ok(judge.finish())
}

fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    let counts: String = row.get(7)?;
    let account: Option<Vec<u8>> = row.get(8)?;
    Ok(Summary {
        sequence: row.get(0)?,
        run: row.get(1)?,
        boot: row.get(12)?,
        run_began_ns: row.get(2)?,
        sealed_ns: row.get(3)?,
        at_boot_ns: row.get(4)?,
        first_boot_ns: row.get(5)?,
        last_boot_ns: row.get(6)?,
        counts: counts_of(&counts).into_iter().collect(),
        account: Account::decode_stored(account.as_deref()),
        chain_broken: false,
        conflict: row.get(11)?,
    })
}

/// Counts by number of the type, as the store writes them: `100:3,101:2`.
#[must_use]
pub fn counts_of(text: &str) -> BTreeMap<i32, u64> {
    text.split(',')
        .filter_map(|pair| pair.split_once(':'))
        .filter_map(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)))
        .collect()
}

/// A stored packet with its bytes.
#[derive(Clone, Debug)]
pub struct PacketRow {
    /// Position in the order of arrival.
    pub packet: i64,
    /// Number of the epoch's row.
    pub epoch: i64,
    /// The agent.
    pub agent_id: Uuid,
    /// Name of the host.
    pub host: String,
    /// Counts by number of the type.
    pub counts: BTreeMap<i32, u64>,
    /// Events of it that another packet had brought before.
    pub repeated: i64,
    /// The packet.
    pub bytes: Vec<u8>,
}

/// The next packet after a position, up to another, that touches a span of time; its body must still be there.
///
/// # Errors
/// [`StoreError`].
pub fn next_packet(
    connection: &Connection,
    after: i64,
    to: i64,
    span: Span,
) -> Result<Option<PacketRow>, StoreError> {
    one(
        connection,
        "packet.packet > ?1 AND packet.packet <= ?2 AND last_ns >= ?3 AND first_ns <= ?4 ORDER BY packet.packet LIMIT 1",
        (after, to, span),
    )
}

/// The packet before a position, down to another, that touches a span of time.
///
/// # Errors
/// [`StoreError`].
pub fn packet_before(
    connection: &Connection,
    before: i64,
    from: i64,
    span: Span,
) -> Result<Option<PacketRow>, StoreError> {
    one(
        connection,
        "packet.packet < ?1 AND packet.packet >= ?2 AND last_ns >= ?3 AND first_ns <= ?4 ORDER BY packet.packet DESC LIMIT 1",
        (before, from, span),
    )
}

fn one(
    connection: &Connection,
    which: &str,
    (at, bound, span): (i64, i64, Span),
) -> Result<Option<PacketRow>, StoreError> {
    Ok(connection
        .prepare_cached(&format!(
            "SELECT packet.packet, packet.epoch, agent.id, packet.host, counts, repeated, body.bytes
             FROM packet JOIN body ON body.packet = packet.packet JOIN epoch ON epoch.epoch = packet.epoch
                JOIN agent ON agent.agent = epoch.agent WHERE {which}"
        ))?
        .query_row((at, bound, span.from_ns, span.to_ns), |row| {
            let counts: String = row.get(4)?;
            Ok(PacketRow {
                packet: row.get(0)?,
                epoch: row.get(1)?,
                agent_id: Uuid::from_bytes(row.get(2)?),
                host: row.get(3)?,
                counts: counts_of(&counts),
                repeated: row.get(5)?,
                bytes: row.get(6)?,
            })
        })
        .optional()?)
}

/// Whether an event's number belongs to a packet: of repeated events, one packet alone has it.
///
/// # Errors
/// [`StoreError`].
pub fn owns_event(
    connection: &Connection,
    epoch: i64,
    counter: i64,
    packet: i64,
) -> Result<bool, StoreError> {
    Ok(connection
        .prepare_cached("SELECT packet = ? FROM event WHERE epoch = ? AND counter = ?")?
        .query_row((packet, epoch, counter), |row| row.get(0))
        .optional()?
        .unwrap_or(false))
}

/// Groups that touch a span of time, ascending.
///
/// # Errors
/// [`StoreError`].
pub fn parts(connection: &Connection, span: Span) -> Result<Vec<i64>, StoreError> {
    let mut select = connection.prepare_cached(
        "SELECT part FROM part WHERE last_ns >= ? AND first_ns <= ? ORDER BY part",
    )?;
    let rows = select.query_map((span.from_ns, span.to_ns), |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Packets of a group that have a term, ascending.
///
/// # Errors
/// [`StoreError`].
pub fn with_term(connection: &Connection, part: i64, term: i64) -> Result<Vec<i64>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT packet FROM term WHERE part = ? AND term = ? ORDER BY packet")?;
    let rows = select.query_map((part, term), |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
