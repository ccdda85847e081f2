//! From records to events: what the kernel said, in the words of the public schema.
//!
//! Pure: no `/proc`, no clock but the offset that is handed in. A field that the running kernel's layout lacks is left
//! out and named in `absent` with its reason, never guessed.

use sensor_common::UNKNOWN;
use sensor_common::layout::{Field, KernelLayout};
use sensor_common::record::{Header, Lane, Subject, TextRef, subject_flag};
use sensor_proto::v1;

mod file;
mod module;
mod network;
mod process;

pub use file::{file_create, file_info, merge_closed, user_device};
pub use module::module_load;
pub use network::{connect, in_progress};
pub use process::{exec, exit, fork};

/// What is needed to read records: the layout that they were made with and the clock of their host.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Fields that the kernel lacked are absent from events.
    pub layout: &'a KernelLayout,
    /// Wall clock minus boot clock when the record was made, ns.
    pub wall_minus_boot_ns: i64,
}

impl Context<'_> {
    /// A time of the boot clock by the wall clock, ns since 1970; saturates.
    #[must_use]
    pub fn wall_ns(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns)
            .unwrap_or(i64::MAX)
            .saturating_add(self.wall_minus_boot_ns)
    }

    /// `value` where the layout has `field`; otherwise notes `number` as unresolved.
    fn known<T>(&self, field: Field, value: T, number: u32, absent: &mut Absences) -> Option<T> {
        if self.layout.has(field) {
            Some(value)
        } else {
            absent.note(number, v1::AbsentReason::UnresolvedInBtf);
            None
        }
    }
}

/// Collects the fields that a message lacks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences(Vec<v1::Absent>);

impl Absences {
    /// Field `number` is missing for `reason`.
    pub(crate) fn note(&mut self, number: u32, reason: v1::AbsentReason) {
        self.0.push(v1::Absent::new(number, reason));
    }

    /// What was noted.
    pub(crate) fn into_vec(self) -> Vec<v1::Absent> {
        self.0
    }
}

/// The event around a body: times, lane, who.
///
/// The id and the process reference's `unique_pid` and `exec_id` are given later, by those who number events and keep
/// the process table.
#[must_use]
pub fn envelope(
    context: &Context<'_>,
    header: &Header,
    lane: Lane,
    backend: v1::Backend,
) -> v1::Event {
    v1::Event {
        time_ns: context.wall_ns(header.time_boot_ns),
        time_boot_ns: header.time_boot_ns,
        cpu: Some(header.cpu.into()),
        sequence: Some(header.sequence),
        lane: lane_of(lane).into(),
        backend: backend.into(),
        process: Some(v1::ProcessRef {
            pid: header.tgid,
            tid: Some(header.pid),
            start_boot_ns: known_start(header.start_boot_ns),
            ..v1::ProcessRef::default()
        }),
        ..v1::Event::default()
    }
}

fn lane_of(lane: Lane) -> v1::Lane {
    match lane {
        Lane::Process => v1::Lane::Process,
        Lane::File => v1::Lane::File,
        Lane::Network => v1::Lane::Network,
        Lane::Control => v1::Lane::Control,
    }
}

fn known_start(start_boot_ns: u64) -> Option<u64> {
    (start_boot_ns != 0).then_some(start_boot_ns)
}

/// Whether the work was done by an io_uring worker.
#[must_use]
pub fn by_io_uring(subject: &Subject) -> bool {
    subject.flags & subject_flag::IO_URING != 0
}

/// A string as the schema has it: `None` if it was not read.
#[must_use]
pub fn text(text: TextRef<'_>) -> Option<Vec<u8>> {
    (!text.text.absent()).then(|| text.bytes.to_vec())
}

/// A NUL-padded array as bytes; `None` if it is empty.
#[must_use]
pub fn padded(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    (!text.is_empty()).then(|| text.to_vec())
}

/// An id that the record may not have.
#[must_use]
pub fn id(value: u32) -> Option<u32> {
    (value != UNKNOWN).then_some(value)
}
