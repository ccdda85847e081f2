//! Process family. What a process is, is in the process table's message; the bodies here say what it did.

use sensor_common::UNKNOWN;
use sensor_common::layout::Field;
use sensor_common::record::{ExecRecord, ExitRecord, ForkRecord, Parsed};
use sensor_proto::field::{exit as exit_number, fork as fork_number};
use sensor_proto::v1;

use super::{Absences, Context};

/// Body of an exec event.
#[must_use]
pub fn exec(record: &Parsed<'_, ExecRecord>) -> v1::Exec {
    let filename = record.text(1);
    let mut absent = Absences::default();
    if filename.text.absent() {
        absent.note(
            sensor_proto::field::exec::FILENAME,
            v1::AbsentReason::ReadFailed,
        );
    }
    v1::Exec {
        filename: super::text(filename),
        filename_truncated: filename.text.truncated(),
        calling_tid: Some(record.head.old_pid).filter(|tid| *tid != record.head.header.pid),
        absent: absent.into_vec(),
        ..v1::Exec::default()
    }
}

/// Body of an exit event.
#[must_use]
pub fn exit(context: &Context<'_>, record: &ExitRecord) -> v1::Exit {
    let mut absent = Absences::default();
    let mut body = v1::Exit {
        run_duration_ns: super::known_start(record.header.start_boot_ns)
            .map(|start| record.header.time_boot_ns.saturating_sub(start)),
        ..v1::Exit::default()
    };
    if record.status == UNKNOWN {
        absent.note(exit_number::CODE, v1::AbsentReason::UnresolvedInBtf);
    } else {
        let signal = record.status & 0x7f;
        if signal == 0 {
            body.code = Some((record.status >> 8) & 0xff);
        } else {
            body.signal = Some(signal);
        }
        body.core_dumped = record.status & 0x80 != 0;
    }
    body.user_duration_ns = context.known(
        Field::SignalUtime,
        record.user_ns,
        exit_number::USER_DURATION_NS,
        &mut absent,
    );
    body.system_duration_ns = context.known(
        Field::SignalStime,
        record.system_ns,
        exit_number::SYSTEM_DURATION_NS,
        &mut absent,
    );
    body.absent = absent.into_vec();
    body
}

/// Body of a fork event; the child's `unique_pid` is given by the process table.
#[must_use]
pub fn fork(record: &ForkRecord) -> v1::Fork {
    let mut absent = Absences::default();
    let flags = (record.clone_flags != u64::MAX).then_some(record.clone_flags);
    if flags.is_none() {
        absent.note(fork_number::CLONE_FLAGS, v1::AbsentReason::NotOnThisBackend);
    }
    v1::Fork {
        child: Some(v1::ProcessRef {
            pid: record.child_tgid,
            start_boot_ns: super::known_start(record.child_start_boot_ns),
            ..v1::ProcessRef::default()
        }),
        clone_flags: flags,
        absent: absent.into_vec(),
    }
}
