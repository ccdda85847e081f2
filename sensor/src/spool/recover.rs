//! What is on the disk when the spool is opened. Nothing here is an error for the caller: what is damaged is counted, moved
//! aside and walked around.

use std::io;
use std::path::Path;

use super::entry::{Epoch, Stream};
use super::log::{LastEvent, Log, Segment, epoch_folder, parse_epoch_folder, parse_segment_name};
use super::quarantine::Quarantine;
use super::segment::{Found, Mark, Scanner, SegmentHeader};
use super::storage::{Storage, StorageFile};

/// What was found when the spool was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segment files that were looked at.
    pub segments: u64,
    /// Bytes behind the last whole packet of a stream; cut off.
    pub torn_bytes: u64,
    /// Other bytes that are no packets.
    pub damaged_bytes: u64,
    /// Packets that are missing inside a stream; each is part of a gap.
    pub lost_packets: u64,
    /// Files and folders that the system could not read.
    pub unreadable: u64,
    /// Sinks whose place was damaged: they begin with the oldest packet again.
    pub reset_sinks: Vec<String>,
    /// Sinks that are no longer configured: their place is forgotten.
    pub forgotten_sinks: Vec<String>,
}

/// Packets that are missing, by looking at what is around them.
#[derive(Debug)]
pub(super) struct FoundGap {
    pub(super) epoch: Epoch,
    pub(super) stream: Stream,
    pub(super) from: u64,
    pub(super) to: Mark,
    pub(super) counts: super::entry::Counts,
}

/// Everything found.
#[derive(Debug)]
pub(super) struct Findings<F> {
    /// By epoch, then stream.
    pub(super) logs: Vec<Log<F>>,
    /// Epochs of which a stream's end is not to be trusted.
    pub(super) doubtful: Vec<Epoch>,
    pub(super) gaps: Vec<FoundGap>,
    /// From the headers.
    pub(super) agent_id: Option<[u8; 16]>,
    pub(super) max_ordinal: u64,
    pub(super) report: Recovery,
}

/// Looks at every epoch.
pub(super) fn recover<S: Storage>(storage: &S, quarantine: &mut Quarantine) -> Findings<S::File> {
    let mut found = Findings {
        logs: Vec::new(),
        doubtful: Vec::new(),
        gaps: Vec::new(),
        agent_id: None,
        max_ordinal: 0,
        report: Recovery::default(),
    };
    let names = storage.names(Path::new(super::FOLDER)).unwrap_or_else(|_| {
        found.report.unreadable = 1;
        Vec::new()
    });
    let mut epochs: Vec<(u64, Epoch)> = names
        .iter()
        .filter_map(|name| parse_epoch_folder(name))
        .collect();
    epochs.sort_unstable();
    for (ordinal, epoch) in epochs {
        found.max_ordinal = found.max_ordinal.max(ordinal);
        for stream in Stream::ALL {
            let mut log = Log::new(epoch, ordinal, stream, false);
            let sound = recover_log(storage, quarantine, &mut log, &mut found);
            if !sound && !found.doubtful.contains(&epoch) {
                found.doubtful.push(epoch);
            }
            found.logs.push(log);
        }
    }
    found
}

/// Fills one stream; false if its end is not to be trusted.
fn recover_log<S: Storage>(
    storage: &S,
    quarantine: &mut Quarantine,
    log: &mut Log<S::File>,
    found: &mut Findings<S::File>,
) -> bool {
    log.folder = epoch_folder(log.epoch, log.ordinal).join(log.stream.name());
    let Ok(names) = storage.names(&log.folder) else {
        found.report.unreadable = found.report.unreadable.saturating_add(1);
        return false;
    };
    let mut files: Vec<((u64, u64), String)> = names
        .into_iter()
        .filter_map(|name| parse_segment_name(&name).map(|parsed| (parsed, name)))
        .collect();
    files.sort_unstable();
    let mut sound = !files.is_empty();
    for (parsed, name) in files {
        found.report.segments = found.report.segments.saturating_add(1);
        match open_segment(storage, log, parsed, &name) {
            Ok(Opened::Whole(segment, header)) => {
                found.agent_id = found.agent_id.or(Some(header.agent_id));
                log.last_event = LastEvent {
                    boot_id: header.last_event_boot,
                    boot_ns: header.last_event_boot_ns,
                    sealed_time_ns: header.last_sealed_ns,
                };
                sound = true;
                add_segment(storage, log, segment);
            }
            Ok(Opened::Salvaged(segment)) => {
                let damaged = segment.records_at;
                found.report.damaged_bytes = found.report.damaged_bytes.saturating_add(damaged);
                quarantine.keep(storage, log, &name, 0, damaged);
                sound = true;
                add_segment(storage, log, segment);
            }
            Ok(Opened::Nothing(bytes)) => {
                // No packet in it. If it is the last, nobody knows what was.
                found.report.damaged_bytes = found.report.damaged_bytes.saturating_add(bytes);
                sound = false;
                if quarantine.keep(storage, log, &name, 0, bytes) {
                    // It is in the way only; the next opening finds it again.
                    let _gone = storage.remove(&log.folder.join(&name));
                }
            }
            Err(_) => {
                found.report.unreadable = found.report.unreadable.saturating_add(1);
                sound = false;
            }
        }
    }
    sound & scan_last(storage, quarantine, log, found)
}

enum Opened {
    Whole(Segment, Box<SegmentHeader>),
    /// The header is damaged; its place tells enough.
    Salvaged(Segment),
    /// No packet in it, of so many bytes.
    Nothing(u64),
}

fn open_segment<S: Storage>(
    storage: &S,
    log: &Log<S::File>,
    (first, marker): (u64, u64),
    name: &str,
) -> io::Result<Opened> {
    let file = storage.open(&log.folder.join(name), false)?;
    let bytes = file.length()?;
    // A header that cannot be read is one that is damaged.
    if let Ok(Some((header, records_at))) = SegmentHeader::read(&file)
        && header.epoch == log.epoch
        && header.stream == log.stream
        && header.marker == marker
        && header.start.sequence.saturating_add(1) == first
    {
        let records_at = u64::try_from(records_at).unwrap_or(u64::MAX);
        return Ok(Opened::Whole(
            Segment::new(name.to_owned(), &header, records_at, bytes),
            Box::new(header),
        ));
    }
    let mut scanner = Scanner::new(&file, marker, 0, bytes, true);
    let mut records_at = 0;
    loop {
        match scanner.step()? {
            Found::Record { head, .. } if head.sequence >= first => {
                return Ok(Opened::Salvaged(Segment::salvaged(
                    name.to_owned(),
                    (first, marker),
                    &head,
                    records_at,
                    bytes,
                )));
            }
            Found::Record { end, .. } => records_at = end,
            Found::Damage { to, .. } => records_at = to,
            Found::End => return Ok(Opened::Nothing(bytes)),
        }
    }
}

/// Of two segments with the same first packet, the one with more is it.
fn add_segment<S: Storage>(storage: &S, log: &mut Log<S::File>, segment: Segment) {
    if let Some(last) = log.segments.back_mut()
        && last.first == segment.first
    {
        if last_sequence(storage, &log.folder, &segment) > last_sequence(storage, &log.folder, last)
        {
            *last = segment;
        }
        return;
    }
    log.segments.push_back(segment);
}

fn last_sequence<S: Storage>(storage: &S, folder: &Path, segment: &Segment) -> u64 {
    let Ok(file) = storage.open(&folder.join(&segment.name), false) else {
        return 0;
    };
    let mut scanner = Scanner::new(
        &file,
        segment.marker,
        segment.records_at,
        segment.bytes,
        true,
    );
    let mut last = segment.start.sequence;
    while let Ok(step) = scanner.step() {
        match step {
            Found::Record { head, .. } => last = last.max(head.sequence),
            Found::Damage { .. } => {}
            Found::End => break,
        }
    }
    last
}

/// Where the stream ends; false if there is something behind its last packet.
fn scan_last<S: Storage>(
    storage: &S,
    quarantine: &mut Quarantine,
    log: &mut Log<S::File>,
    found: &mut Findings<S::File>,
) -> bool {
    log.proven = false;
    let Some(mut segment) = log.segments.pop_back() else {
        log.proven = true;
        return true;
    };
    log.stored = segment.start.clone();
    let path = log.folder.join(&segment.name);
    let file = match storage.open(&path, false) {
        Ok(file) => file,
        Err(_) => {
            found.report.unreadable = found.report.unreadable.saturating_add(1);
            log.end = log.stored.clone();
            return false;
        }
    };
    let mut scanner = Scanner::new(
        &file,
        segment.marker,
        segment.records_at,
        segment.bytes,
        true,
    );
    let mut sound = true;
    let mut end = segment.start.clone();
    let mut whole_to = segment.records_at;
    // `tolerant` leaves no error to the scanner.
    while let Ok(step) = scanner.step() {
        match step {
            Found::Record {
                head, end: next, ..
            } => {
                whole_to = next;
                if head.sequence <= end.sequence {
                    continue;
                }
                if head.sequence > end.sequence.saturating_add(1) {
                    let before = Mark {
                        sequence: head.sequence.saturating_sub(1),
                        digest: [0; 32],
                        totals: head.totals.minus(&head.counts),
                    };
                    found.gap(log, &end, before);
                }
                end = head.mark();
                segment.newest = head.stamp();
                log.last_event = LastEvent {
                    boot_id: head.boot_id,
                    boot_ns: head.last_event_boot_ns,
                    sealed_time_ns: head.sealed_time_ns,
                };
            }
            Found::Damage { from, to, head } => {
                let bytes = to.saturating_sub(from);
                quarantine.keep(storage, log, &segment.name, from, to);
                if to < segment.bytes {
                    found.report.damaged_bytes = found.report.damaged_bytes.saturating_add(bytes);
                    continue;
                }
                found.report.torn_bytes = found.report.torn_bytes.saturating_add(bytes);
                sound = false;
                if let Some(head) = head.filter(|head| head.sequence > end.sequence) {
                    found.gap(log, &end, head.mark());
                    end = head.mark();
                }
            }
            Found::End => break,
        }
    }
    if whole_to < segment.bytes {
        segment.bytes = whole_to;
        // So that it is not found again; it harms nobody where it stays.
        let cut = storage.open(&path, true).and_then(|file| {
            file.truncate(whole_to)?;
            file.sync()
        });
        if cut.is_err() {
            found.report.unreadable = found.report.unreadable.saturating_add(1);
        }
    }
    log.stored = end.clone();
    log.end = end;
    log.segments.push_back(segment);
    sound
}

impl<F> Findings<F> {
    fn gap(&mut self, log: &Log<F>, after: &Mark, to: Mark) {
        let lost = to.sequence.saturating_sub(after.sequence);
        self.report.lost_packets = self.report.lost_packets.saturating_add(lost);
        self.gaps.push(FoundGap {
            epoch: log.epoch,
            stream: log.stream,
            from: after.sequence.saturating_add(1),
            counts: to.totals.minus(&after.totals),
            to,
        });
    }
}
