//! From the hold to filter, sinks and packets, and the patches for what came later.

use std::sync::Arc;
use std::time::Duration;

use sensor_common::record::RecordKind;
use sensor_proto::v1;
use sensor_proto::v1::event::Body;

use super::fill::{event_file, part_file, process_file, put_final, put_hash};
use super::hold::Ticket;
use super::late::{Created, FileKey, FileNumbers, Sent, Slot, Target};
use super::{HELD_BYTES, Held, Pipeline};
use crate::config::RuleAction;
use crate::enrich::hash::HashResult;
use crate::enrich::process::ProcessImage;
use crate::event::Context;
use crate::filter;
use crate::ledger::Row;

impl Pipeline {
    /// Puts an event into the hold; it leaves at once if it waits for nothing and nothing is before it.
    pub(super) fn hold_event(
        &mut self,
        kind: RecordKind,
        event: v1::Event,
        actor: Arc<ProcessImage>,
        hashes: Vec<(u64, Slot)>,
        open: Option<FileKey>,
    ) {
        // Where a process begins what it runs; its other events find the facts there, or follow it.
        let container = if kind == RecordKind::Exec {
            self.table.describer.containers.awaited(&actor.process)
        } else {
            None
        };
        let others = usize::from(open.is_some()) + usize::from(container.is_some());
        let waits = u32::try_from(hashes.len() + others).unwrap_or(u32::MAX);
        let deadline = self.now().saturating_add(self.hold_ns);
        let row = Row::Kind(kind);
        // What a process runs is told by many events, and begins with one.
        let image = if kind == RecordKind::Exec {
            actor.bytes()
        } else {
            0
        };
        let bytes = HELD_BYTES.saturating_add(image);
        let held = Held {
            event,
            row,
            actor: Some(actor),
            hashes: hashes.clone(),
            open,
            container,
        };
        let ticket = self.hold.push(Box::new(held), waits, deadline, bytes);
        if let Some(open) = open.and_then(|key| self.late.open_file(key)) {
            open.event = Some(Created::Held(ticket));
        }
        for (token, slot) in hashes {
            if let Some(result) = self.late.redirect(token, Target::Held(ticket, slot)) {
                self.hash_for_held(ticket, slot, &result);
            }
        }
    }

    pub(super) fn take_hashes(&mut self) {
        loop {
            let Some((_, results)) = &mut self.hashes else {
                return;
            };
            let Ok(result) = results.try_recv() else {
                return;
            };
            self.hash_arrived(result);
        }
    }

    pub(super) fn hash_arrived(&mut self, result: HashResult) {
        match self.late.arrive(result) {
            Some((Target::Held(ticket, slot), result)) => {
                self.hash_for_held(ticket, slot, &result);
            }
            Some((Target::Sent(sent, slot), result)) => self.patch(&sent, slot, &result),
            Some((Target::SentClosed(sent, closed), result)) => {
                self.patch_closed(sent, *closed, &result);
            }
            Some((Target::Early | Target::Nobody, _)) | None => {}
        }
    }

    pub(super) fn hash_for_held(&mut self, ticket: Ticket, slot: Slot, result: &HashResult) {
        let Some(held) = self.hold.get_mut(ticket) else {
            return;
        };
        held.hashes.retain(|(token, _)| *token != result.token);
        match slot {
            Slot::Created | Slot::Watched | Slot::Module => {
                let context = Context {
                    layout: &self.layout,
                    wall_minus_boot_ns: self.clock.offset_ns(),
                };
                if let Some(Body::FileCreate(body)) = &mut held.event.body {
                    let verified = result.verdict == v1::HashVerdict::Verified;
                    body.closed |= verified && slot == Slot::Watched;
                }
                if let Some(file) = event_file(&mut held.event, slot) {
                    if slot == Slot::Watched {
                        put_final(&context, file, result);
                    }
                    put_hash(file, result);
                }
            }
            Slot::Image | Slot::Script(_) => {
                if let Some(actor) = &held.actor {
                    let put = |process: &mut v1::Process| {
                        if let Some(file) = process_file(process, slot) {
                            put_hash(file, result);
                        }
                    };
                    self.table.update(actor.key, actor.process.exec_id, put);
                    // The row of this event stays as of its time: the process may have ended meanwhile.
                    held.actor = Some(actor.amended(put));
                }
            }
        }
        self.hold.arrived(ticket);
    }

    /// Lets go of everything in the hold that is complete or over its time.
    pub(super) fn release(&mut self, now: u64) {
        while let Some((_, held)) = self.hold.pop_ready(now) {
            let Held {
                event,
                row,
                actor,
                hashes,
                open,
                container: _,
            } = *held;
            let event_type = event.event_type();
            // The newest row of the same program: its hashes may have come with another event.
            let actor = actor.map(|actor| match self.table.find(actor.key) {
                Some(newest)
                    if newest.process.exec_id == actor.process.exec_id
                        && newest.process.end_time_ns == actor.process.end_time_ns =>
                {
                    newest
                }
                _ => actor,
            });
            let process = event.process.clone();
            let owes = actor.as_ref().filter(|actor| self.table.owes(actor));
            let begins = owes
                .filter(|_| event_type == v1::EventType::Exec)
                .map(|actor| (actor.key, actor.process.exec_id));
            let sent = self.seal(row, event, actor.clone());
            if let Some(program) = begins {
                self.begun.keep(program, sent.clone());
            }
            for (token, slot) in hashes {
                let target = match &sent {
                    Some(sent) => Target::Sent(sent.clone(), slot),
                    None if matches!(slot, Slot::Image | Slot::Script(_)) => Target::Sent(
                        Sent {
                            id: v1::EventId::default(),
                            event_type: v1::EventType::Unspecified,
                            process: process.clone(),
                            file: None,
                        },
                        slot,
                    ),
                    None => Target::Nobody,
                };
                debug_assert!(event_type != v1::EventType::Unspecified);
                self.late.expect(token, target);
            }
            if let Some(open) = open.and_then(|key| self.late.open_file(key)) {
                open.event = Some(sent.map_or(Created::Dropped, Created::Sent));
            }
        }
    }

    /// Asks the filter and sends the event on its way; `None` if it was dropped or merged on purpose.
    pub(super) fn seal(
        &mut self,
        row: Row,
        mut event: v1::Event,
        actor: Option<Arc<ProcessImage>>,
    ) -> Option<Sent> {
        let parent = actor.as_ref().and_then(|actor| self.table.parent(actor));
        let subject = filter::Subject {
            event: &event,
            process: actor.as_ref().map(|actor| &actor.process),
            parent: parent.as_ref().map(|parent| &parent.process),
        };
        let decision = self.filter.decide(&subject);
        match (decision.action(), decision) {
            (RuleAction::Include, _) => {}
            (RuleAction::Exclude, filter::Decision::Rule(rule, _)) => {
                self.ledger.filtered(row, &rule.id);
                return None;
            }
            (RuleAction::Aggregate, filter::Decision::Rule(rule, _)) => {
                self.ledger.merged(row);
                for displaced in self.aggregator.push(&rule.id, event) {
                    self.aggregates_displaced += 1;
                    self.deliver(displaced, None, None);
                }
                return None;
            }
            (RuleAction::Exclude | RuleAction::Aggregate, filter::Decision::Default) => {}
        }
        self.counter += 1;
        let id = v1::EventId {
            counter: self.counter,
            ..v1::EventId::default()
        };
        event.id = Some(id.clone());
        let sent = Sent {
            id,
            event_type: event.event_type(),
            process: event.process.clone(),
            file: match &event.body {
                Some(Body::FileCreate(body)) => body.file.as_ref(),
                Some(Body::ModuleLoad(body)) => body.file.as_ref(),
                _ => None,
            }
            .map(FileNumbers::of),
        };
        self.ledger.sealed(row);
        self.render(event, actor.as_ref(), parent.as_ref());
        Some(sent)
    }

    /// An event of the daemon's own making: a patch or an aggregate.
    pub(super) fn deliver(
        &mut self,
        mut event: v1::Event,
        actor: Option<Arc<ProcessImage>>,
        parent: Option<Arc<ProcessImage>>,
    ) {
        self.counter += 1;
        event.id = Some(v1::EventId {
            counter: self.counter,
            ..v1::EventId::default()
        });
        let row = if event.event_type() == v1::EventType::Aggregate {
            Row::Aggregate
        } else {
            Row::Patch
        };
        self.ledger.synthesised(row);
        self.ledger.sealed(row);
        self.render(event, actor.as_ref(), parent.as_ref());
    }

    fn render(
        &mut self,
        mut event: v1::Event,
        actor: Option<&Arc<ProcessImage>>,
        parent: Option<&Arc<ProcessImage>>,
    ) {
        if self.live {
            // A replay gives the same events each time; when it was processed says nothing there.
            event.processed_time_ns = self.clock.wall_now_ns().ok();
        }
        let table = &mut self.table;
        self.output.event(
            &event,
            actor.map(Arc::as_ref),
            parent.map(|parent| &parent.process),
            |image| table.ancestors(image),
        );
        let now = self.packet_now();
        if let Some(packets) = &mut self.packets
            && let Some(full) = packets.event(event, actor, &mut self.table, now)
        {
            self.seal_packet(full);
        }
    }

    /// Seals the packet of a stream, with the account as it stands.
    fn seal_packet(&mut self, stream: v1::Stream) {
        self.account();
        if let Some(packets) = &mut self.packets
            && let Err(error) = packets.seal(stream, &mut self.ledger)
        {
            tracing::error!(%error, ?stream, "a packet is not in the spool");
        }
    }

    /// Seals what is due and says when there will be more to seal.
    pub(super) fn seal_due(&mut self) -> Option<Duration> {
        let now = self.packet_now();
        let until = |next: u64| Duration::from_nanos(next.saturating_sub(now));
        // Two streams: a third round would find nothing.
        for _ in 0..2 {
            let (due, next_ns) = self.packets.as_ref()?.due(now);
            let Some(stream) = due else {
                return Some(until(next_ns));
            };
            self.seal_packet(stream);
        }
        self.packets
            .as_ref()
            .map(|packets| until(packets.due(now).1))
    }

    /// The hash of an event that has left.
    pub(super) fn patch(&mut self, sent: &Sent, slot: Slot, result: &HashResult) {
        let mut whole = None;
        if matches!(slot, Slot::Image | Slot::Script(_))
            && let Some(process) = &sent.process
            && let Some(start) = process.start_boot_ns
        {
            let key = self.table.key(process.pid, start);
            self.table.update(key, process.exec_id, |row| {
                if let Some(file) = process_file(row, slot) {
                    put_hash(file, result);
                    whole = Some(file.clone());
                }
            });
        }
        if sent.event_type == v1::EventType::Unspecified {
            return;
        }
        let watched = slot == Slot::Watched;
        let file = whole.unwrap_or_else(|| {
            let mut file = sent.file.map(FileNumbers::info).unwrap_or_default();
            if watched {
                put_final(&self.context(), &mut file, result);
            }
            put_hash(&mut file, result);
            file
        });
        if watched && result.verdict == v1::HashVerdict::Verified {
            // Only what nobody writes any more is verified: this is the close that no hook of this backend saw.
            return self.patch_event(sent, v1::patch::Part::ClosedFile(file));
        }
        let (slot, index) = slot.schema();
        let part = v1::FilePatch {
            slot: slot.into(),
            index,
            file: Some(file),
        };
        self.patch_event(sent, v1::patch::Part::File(part));
    }

    pub(super) fn patch_closed(
        &mut self,
        sent: Sent,
        mut closed: v1::FileInfo,
        result: &HashResult,
    ) {
        put_hash(&mut closed, result);
        self.patch_event(&sent, v1::patch::Part::ClosedFile(closed));
    }

    pub(super) fn patch_event(&mut self, sent: &Sent, mut part: v1::patch::Part) {
        if let (Some(file), Some(process)) = (part_file(&mut part), &sent.process) {
            let key = self
                .table
                .key(process.pid, process.start_boot_ns.unwrap_or(0));
            if let Some(row) = self.table.find(key) {
                self.table.describer.name_file(file, &row.process);
            }
        }
        let now = self.now();
        let event = v1::Event {
            time_ns: self.clock.wall_ns(now),
            time_boot_ns: now,
            backend: v1::Backend::Daemon.into(),
            process: sent.process.clone(),
            body: Some(Body::Patch(v1::Patch {
                // A row that no event began has no number.
                of: (sent.id.counter != 0).then(|| sent.id.clone()),
                of_type: sent.event_type.into(),
                part: Some(part),
            })),
            ..v1::Event::default()
        };
        let actor = sent.process.as_ref().and_then(|process| {
            let key = self.table.key(process.pid, process.start_boot_ns?);
            self.table.find_program(key, process.exec_id)
        });
        self.deliver(event, actor, None);
    }
}
