//! Names, places and facts of containers that were asked for in the background and came when their events were on the way or
//! gone.

use sensor_common::record::RecordKind;
use sensor_proto::v1;

use super::Pipeline;
use super::late::Sent;
use crate::enrich::container::Question;
use crate::ledger::Row;

impl Pipeline {
    /// Whether the next event in the hold waits for the facts of its container.
    pub(super) fn awaits_container(&self) -> bool {
        let front = self.hold.items().next();
        front.is_some_and(|held| held.container.is_some())
    }

    /// Facts of containers for which events wait. Nothing is done when none does.
    pub(super) fn take_containers(&mut self) {
        if !self.awaits_container() {
            return;
        }
        self.settle();
        let containers = &self.table.describer.containers;
        self.hold.arrived_where(|held| {
            let came = |question: &mut Question| !containers.is_awaited(question);
            held.container.take_if(came).is_some()
        });
    }

    /// What came late: into the rows of events in the hold, and as patches of those that have left.
    pub(super) fn settle(&mut self) {
        for settled in self.table.settle() {
            let (key, exec_id) = (settled.image.key, settled.image.process.exec_id);
            let mut held_exec = false;
            for held in self.hold.items_mut() {
                if let Some(actor) = &held.actor
                    && actor.key == key
                    && actor.process.exec_id == exec_id
                {
                    held_exec |= held.row == Row::Kind(RecordKind::Exec);
                    held.actor = Some(actor.amended(|process| settled.apply(process)));
                }
            }
            if held_exec {
                continue;
            }
            let sent = match self.begun.find(&(key, exec_id)) {
                Some(Some(sent)) => sent.clone(),
                // Its exec was dropped on purpose.
                Some(None) => continue,
                // Seen at start, or execs are not reported.
                None => Sent {
                    id: v1::EventId::default(),
                    event_type: v1::EventType::Unspecified,
                    process: Some(settled.image.reference()),
                    file: None,
                },
            };
            if settled.patch != v1::ProcessPatch::default() {
                self.patch_event(&sent, v1::patch::Part::Process(settled.patch));
            }
            if let Some(file) = settled.file {
                let part = v1::FilePatch {
                    slot: v1::FileSlot::Image.into(),
                    index: None,
                    file: Some(file),
                };
                self.patch_event(&sent, v1::patch::Part::File(part));
            }
        }
    }
}
