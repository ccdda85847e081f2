//! From a record, in its turn, to an event: one function for each kind.

use std::sync::Arc;

use sensor_common::record::{
    ConnectRecord, ExecRecord, ExitRecord, FileCloseRecord, FileCreateRecord, ForkRecord, Header,
    Lane, ModuleLoadRecord, Parsed, RecordKind, RecordRef, ScriptRecord, Subject, Text, TextRef,
    file_flag,
};
use sensor_proto::v1;
use sensor_proto::v1::event::Body;

use super::fill::{Ready, await_hash, event_file, process_file, sort};
use super::late::{Created, Sent, Slot, Target};
use super::{EarlyHash, Pipeline, SCRIPTS_CAPACITY, SCRIPTS_PER_EXEC, Waiting};
use crate::enrich::process::{ProcessImage, describe};
use crate::event;
use crate::ledger::Row;

impl Pipeline {
    pub(super) fn record(&mut self, waiting: Waiting) {
        let Waiting { kind, bytes, hash } = waiting;
        match RecordRef::parse(&bytes) {
            Ok(RecordRef::Exec(record)) => self.exec(&record, hash),
            Ok(RecordRef::Script(record)) => self.script(&record, hash),
            Ok(RecordRef::Exit(record)) => self.exit(&record.head),
            Ok(RecordRef::Fork(record)) => self.fork(&record.head),
            Ok(RecordRef::FileCreate(record)) => self.file_create(&record, hash),
            Ok(RecordRef::FileClose(record)) => self.file_close(&record.head, hash),
            Ok(RecordRef::Connect(record)) => self.connect(&record),
            Ok(RecordRef::ModuleLoad(record)) => self.module_load(&record, hash),
            // It was parsed when it came.
            Err(_) => self.ledger.lost(Row::Kind(kind), "internal_error"),
        }
    }

    /// Names the acting process in `event`, and its credentials where they are not those of the process's row.
    pub(super) fn act(
        &mut self,
        event: &mut v1::Event,
        header: &Header,
        subject: &Subject,
    ) -> Arc<ProcessImage> {
        let image = self.table.actor(header, subject);
        self.attribute(event, header, subject, &image);
        image
    }

    fn attribute(
        &mut self,
        event: &mut v1::Event,
        header: &Header,
        subject: &Subject,
        image: &ProcessImage,
    ) {
        event.process = Some(v1::ProcessRef {
            tid: Some(header.pid),
            ..image.reference()
        });
        event.io_uring = event::by_io_uring(subject);
        let mut credentials = describe::credentials(subject);
        if !describe::same_ids(image.process.credentials.as_ref(), &credentials) {
            self.table
                .describer
                .name_credentials(&mut credentials, &image.process);
            event.credentials = Some(credentials);
        }
    }

    fn wanted(&mut self, kind: RecordKind, event_type: v1::EventType) -> bool {
        let wanted = self.events.contains(&event_type);
        if !wanted {
            self.ledger.filtered(Row::Kind(kind), "not_selected");
        }
        wanted
    }

    pub(super) fn exec(&mut self, record: &Parsed<'_, ExecRecord>, hash: EarlyHash) {
        let head = &record.head;
        let before = self.table.find_tgid(head.header.tgid);
        let image = self.table.on_exec(record);
        let scripts = self.scripts.remove(&head.header.tgid).unwrap_or_default();
        let mut waits = Vec::new();
        let mut ready: Vec<(Slot, Ready)> = Vec::new();
        sort(hash, Slot::Image, &mut waits, &mut ready);
        if scripts.len() == image.process.script_chain.len() {
            for (slot, hash) in (0..).map(Slot::Script).zip(scripts) {
                sort(hash, slot, &mut waits, &mut ready);
            }
        }
        let pending = waits.clone();
        let updated = self
            .table
            .update(image.key, image.process.exec_id, |process| {
                for (slot, ready) in ready {
                    if let Some(file) = process_file(process, slot) {
                        ready.put(file);
                    }
                }
                for (_, slot) in &pending {
                    if let Some(file) = process_file(process, *slot) {
                        await_hash(file);
                    }
                }
            });
        let image = updated.unwrap_or(image);
        if !self.wanted(RecordKind::Exec, v1::EventType::Exec) {
            // The process's row still gets its hashes.
            for (token, slot) in waits {
                self.hash_to_row(token, slot, &image);
            }
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::Process,
            self.backend(RecordKind::Exec),
        );
        self.attribute(&mut event, &head.header, &head.subject, &image);
        let mut body = event::exec(record);
        body.previous = before
            .filter(|before| {
                before.key == image.key && before.process.exec_id != image.process.exec_id
            })
            .map(|before| before.reference());
        event.body = Some(Body::Exec(body));
        self.hold_event(RecordKind::Exec, event, image, waits, None);
    }

    /// The exec event is not wanted: the result goes to the process's row alone.
    fn hash_to_row(&mut self, token: u64, slot: Slot, image: &Arc<ProcessImage>) {
        let sent = Sent {
            id: v1::EventId::default(),
            event_type: v1::EventType::Unspecified,
            process: Some(image.reference()),
            file: None,
        };
        if let Some(result) = self.late.redirect(token, Target::Sent(sent.clone(), slot)) {
            self.patch(&sent, slot, &result);
        }
    }

    fn script(&mut self, record: &Parsed<'_, ScriptRecord>, hash: EarlyHash) {
        self.table.on_script(record);
        self.ledger.merged(Row::Kind(RecordKind::Script));
        if self.scripts.len() >= SCRIPTS_CAPACITY {
            // Execs that failed: their scripts are of no use any more.
            for (_, stale) in std::mem::take(&mut self.scripts) {
                self.scripts_forgotten += 1;
                self.abandon(stale);
            }
        }
        let rounds = self.scripts.entry(record.head.header.tgid).or_default();
        rounds.push(hash);
        if rounds.len() > SCRIPTS_PER_EXEC {
            let stale = vec![rounds.remove(0)];
            self.abandon(stale);
        }
    }

    fn abandon(&mut self, hashes: Vec<EarlyHash>) {
        for hash in hashes {
            if let EarlyHash::Asked(token) = hash {
                self.late.redirect(token, Target::Nobody);
            }
        }
    }

    fn exit(&mut self, record: &ExitRecord) {
        let image = self.table.on_exit(record);
        if let Some(stale) = self.scripts.remove(&record.header.tgid) {
            self.abandon(stale);
        }
        if !self.wanted(RecordKind::Exit, v1::EventType::Exit) {
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&record.header),
            &record.header,
            Lane::Process,
            self.backend(RecordKind::Exit),
        );
        self.attribute(&mut event, &record.header, &record.subject, &image);
        event.body = Some(Body::Exit(event::exit(&self.context(), record)));
        self.hold_event(RecordKind::Exit, event, image, Vec::new(), None);
    }

    fn fork(&mut self, record: &ForkRecord) {
        let child = self.table.on_fork(record);
        if !self.wanted(RecordKind::Fork, v1::EventType::Fork) {
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&record.header),
            &record.header,
            Lane::Process,
            self.backend(RecordKind::Fork),
        );
        let actor = self.act(&mut event, &record.header, &record.subject);
        let mut body = event::fork(record);
        body.child = Some(child.reference());
        event.body = Some(Body::Fork(body));
        self.hold_event(RecordKind::Fork, event, actor, Vec::new(), None);
    }

    fn file_create(&mut self, record: &Parsed<'_, FileCreateRecord>, hash: EarlyHash) {
        let head = &record.head;
        let key = (head.file_key, head.header.time_boot_ns);
        let follows = head.flags & file_flag::CLOSE_FOLLOWS != 0;
        if !self.wanted(RecordKind::FileCreate, v1::EventType::FileCreate) {
            self.abandon(vec![hash]);
            if let Some(open) = self.late.open_file(key) {
                open.event = Some(Created::Dropped);
            }
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::File,
            self.backend(RecordKind::FileCreate),
        );
        let actor = self.act(&mut event, &head.header, &head.subject);
        let mut body = event::file_create(&self.context(), record);
        let (mut waits, mut ready) = (Vec::new(), Vec::new());
        let slot = if follows {
            Slot::Created
        } else {
            Slot::Watched
        };
        sort(hash, slot, &mut waits, &mut ready);
        if let Some(file) = &mut body.file {
            self.table.describer.name_file(file, &actor.process);
            for (_, ready) in ready {
                ready.put(file);
            }
            if follows || !waits.is_empty() {
                await_hash(file);
            }
        }
        event.body = Some(Body::FileCreate(body));
        self.hold_event(
            RecordKind::FileCreate,
            event,
            actor,
            waits,
            follows.then_some(key),
        );
    }

    fn file_close(&mut self, record: &FileCloseRecord, hash: EarlyHash) {
        let row = Row::Kind(RecordKind::FileClose);
        let created = self.late.closed(record).and_then(|open| open.event);
        let Some(created) = created else {
            // The creation was lost, or forgotten: there is nothing to add to.
            self.abandon(vec![hash]);
            self.ledger.lost(row, "creation_unknown");
            return;
        };
        self.ledger.merged(row);
        let path = TextRef {
            bytes: b"",
            text: Text {
                len: 0,
                true_len: Text::ABSENT,
            },
        };
        let mut closed = event::file_info(&self.context(), &record.file, path);
        match created {
            Created::Dropped => self.abandon(vec![hash]),
            Created::Held(ticket) => {
                if let Some(held) = self.hold.get_mut(ticket) {
                    held.open = None;
                    if let Some(Body::FileCreate(body)) = &mut held.event.body {
                        body.closed = true;
                        if let Some(file) = &mut body.file {
                            event::merge_closed(file, closed);
                        }
                    }
                }
                match hash {
                    EarlyHash::Asked(token) => {
                        if let Some(held) = self.hold.get_mut(ticket) {
                            held.hashes.push((token, Slot::Created));
                        }
                        if let Some(result) = self
                            .late
                            .redirect(token, Target::Held(ticket, Slot::Created))
                        {
                            self.hash_for_held(ticket, Slot::Created, &result);
                        }
                    }
                    EarlyHash::Known(..) | EarlyHash::None | EarlyHash::Refused => {
                        if let (Some(held), Some(ready)) =
                            (self.hold.get_mut(ticket), Ready::of(hash))
                            && let Some(file) = event_file(&mut held.event, Slot::Created)
                        {
                            ready.put(file);
                        }
                        self.hold.arrived(ticket);
                    }
                }
            }
            Created::Sent(sent) => match hash {
                EarlyHash::Asked(token) => {
                    let target = Target::SentClosed(sent.clone(), Box::new(closed.clone()));
                    if let Some(result) = self.late.redirect(token, target) {
                        self.patch_closed(sent, closed, &result);
                    }
                }
                EarlyHash::Known(..) | EarlyHash::None | EarlyHash::Refused => {
                    if let Some(ready) = Ready::of(hash) {
                        ready.put(&mut closed);
                    }
                    self.patch_event(&sent, v1::patch::Part::ClosedFile(closed));
                }
            },
        }
    }

    fn connect(&mut self, record: &Parsed<'_, ConnectRecord>) {
        let head = &record.head;
        let kind = RecordKind::Connect;
        let body = event::connect(record);
        let attempt = (head.socket_key, head.started_boot_ns);
        if let Some(Some(sent)) = self.attempts.remove(&attempt) {
            // The attempt was reported as in progress: this is its result.
            self.ledger.merged(Row::Kind(kind));
            let part = v1::ConnectPatch {
                result: body.result,
                errno: body.errno,
                duration_ns: body.duration_ns,
                local: body.local,
            };
            self.patch_event(&sent, v1::patch::Part::Connect(part));
            return;
        }
        if !self.wanted(kind, v1::EventType::Connect) {
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::Network,
            self.backend(kind),
        );
        let actor = self.act(&mut event, &head.header, &head.subject);
        event.body = Some(Body::Connect(body));
        self.hold_event(kind, event, actor, Vec::new(), None);
    }

    fn module_load(&mut self, record: &Parsed<'_, ModuleLoadRecord>, hash: EarlyHash) {
        let head = &record.head;
        let kind = RecordKind::ModuleLoad;
        if !self.wanted(kind, v1::EventType::ModuleLoad) {
            self.abandon(vec![hash]);
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::Process,
            self.backend(kind),
        );
        let actor = self.act(&mut event, &head.header, &head.subject);
        let mut body = event::module_load(&self.context(), record);
        let (mut waits, mut ready) = (Vec::new(), Vec::new());
        sort(hash, Slot::Module, &mut waits, &mut ready);
        if let Some(file) = &mut body.file {
            self.table.describer.name_file(file, &actor.process);
            for (_, ready) in ready {
                ready.put(file);
            }
            if !waits.is_empty() {
                await_hash(file);
            }
        }
        event.body = Some(Body::ModuleLoad(body));
        self.hold_event(kind, event, actor, waits, None);
    }
}
