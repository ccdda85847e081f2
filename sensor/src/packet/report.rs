//! The account as packets carry it.

use std::collections::BTreeMap;

use sensor_common::record::RecordKind;
use sensor_proto::v1;

use crate::ledger::{Causes, Ledger, Row};
use crate::spool::{Cause, Counts, SinkAccount, Stream, Tombstone};

/// Whether a row is reported in packets of this stream; patches and what is no record concern both.
fn is_of(row: Row, stream: v1::Stream) -> bool {
    let own = match row {
        Row::Kind(
            RecordKind::Exec
            | RecordKind::Exit
            | RecordKind::Fork
            | RecordKind::Script
            | RecordKind::ModuleLoad,
        ) => v1::Stream::Process,
        Row::Kind(RecordKind::FileCreate | RecordKind::FileClose | RecordKind::Connect)
        | Row::Aggregate => v1::Stream::Bulk,
        Row::Patch | Row::Unknown => stream,
    };
    own == stream
}

fn causes(causes: &Causes) -> Vec<v1::CauseCount> {
    causes
        .iter()
        .map(|(cause, count)| v1::CauseCount {
            cause: cause.clone(),
            count: *count,
        })
        .collect()
}

/// The account of a stream's event types; `packed` is the sealer's to enter.
pub(super) fn report(
    ledger: &Ledger,
    stream: v1::Stream,
    began_time_ns: i64,
    boot_ns: u64,
    sinks: &[SinkAccount],
) -> v1::LedgerReport {
    let rows = Row::all()
        .filter(|row| is_of(*row, stream))
        .map(|row| {
            let account = ledger.account(row);
            let (kernel, daemon) = (account.kernel, account.daemon);
            let in_kernel = kernel.is_some();
            let kernel = kernel.unwrap_or_default();
            v1::LedgerRow {
                name: row.name().to_owned(),
                in_kernel,
                attempted: kernel.attempted,
                submitted: kernel.submitted,
                filtered_in_kernel: causes(&kernel.filtered),
                throttled: kernel.throttled,
                lost_in_kernel: causes(&kernel.lost),
                lost_in_reader: causes(&daemon.lost_in_reader),
                decoded: daemon.decoded,
                synthesised: daemon.synthesised,
                sealed: daemon.sealed,
                filtered: causes(&daemon.filtered),
                merged: daemon.merged,
                lost: causes(&daemon.lost),
                waiting: causes(&daemon.waiting),
                packed: 0,
            }
        })
        .collect();
    v1::LedgerReport {
        run_began_time_ns: began_time_ns,
        at_boot_ns: boot_ns,
        rows,
        sinks: sinks.iter().map(sink).collect(),
        unseen_at_most: ledger
            .unseen_at_most()
            .iter()
            .filter(|(_, misses)| **misses != Some(0))
            .map(|(program, misses)| v1::ProgramMisses {
                program: program.clone(),
                misses: *misses,
            })
            .collect(),
    }
}

fn sum(counts: &BTreeMap<Cause, Counts>) -> u64 {
    counts
        .values()
        .fold(0, |sum, counts| sum.saturating_add(counts.total()))
}

fn sink(account: &SinkAccount) -> v1::SinkReport {
    v1::SinkReport {
        name: account.name.clone(),
        sealed: account.sealed.total(),
        acked: account.acked.total(),
        evicted: sum(&account.evicted),
        rejected: account.rejected.total(),
        waiting: account.waiting.total(),
    }
}

/// The schema's name of a stream.
pub(super) const fn stream(stream: Stream) -> v1::Stream {
    match stream {
        Stream::Process => v1::Stream::Process,
        Stream::Bulk => v1::Stream::Bulk,
    }
}

/// A gap as packets tell it.
pub(super) fn tombstone(gap: &Tombstone) -> v1::Tombstone {
    v1::Tombstone {
        epoch: gap.epoch.0.to_vec(),
        stream: stream(gap.stream).into(),
        first_sequence: gap.from,
        last_sequence: gap.to,
        last_digest: gap.last_digest.map(|digest| digest.to_vec()),
        counts: gap
            .counts
            .iter()
            .map(|(event_type, count)| v1::TypeCount {
                r#type: event_type.into(),
                count,
            })
            .collect(),
        cause: match gap.cause {
            Cause::Bytes => v1::TombstoneCause::Bytes,
            Cause::Age => v1::TombstoneCause::Age,
            Cause::Corrupt => v1::TombstoneCause::Corrupt,
            Cause::Memory => v1::TombstoneCause::Memory,
            Cause::Epochs => v1::TombstoneCause::Epochs,
            Cause::Missing => v1::TombstoneCause::Missing,
        }
        .into(),
        unread_by: gap.unread_by.clone(),
        evicted_time_ns: gap.time_ns,
    }
}
