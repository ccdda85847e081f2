//! What is asked before records are put in order, so that files are opened while they are still what they were: hashes, places,
//! the last close of created files.

use sensor_common::record::{
    FileCreateRecord, FileIdentity, Header, RecordRef, Subject, file_flag, module_flag,
};

use super::fill::unread;
use super::late::Target;
use super::{EarlyHash, Pipeline, path_of, regular};
use crate::enrich::close_watch::CloseRequest;
use crate::enrich::hash::{HashJob, Place, ProcessStart, What, Writers};

impl Pipeline {
    /// Asks for the hash of a record's file at once: who opens first keeps the content.
    pub(super) fn hash_early(&mut self, record: &RecordRef<'_>) -> EarlyHash {
        match record {
            RecordRef::Exec(exec) => {
                let head = &exec.head;
                self.ask(
                    What::Executed,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path_of(exec.text(0))),
                    Writers::Gone,
                )
            }
            RecordRef::Script(script) => {
                let head = &script.head;
                self.ask(
                    What::Script,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path_of(script.text(0))),
                    Writers::Gone,
                )
            }
            RecordRef::ModuleLoad(module) => {
                let head = &module.head;
                if head.flags & module_flag::FILE_KNOWN == 0 {
                    return EarlyHash::None;
                }
                self.ask(
                    What::Module,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path_of(module.text(0))),
                    Writers::Gone,
                )
            }
            RecordRef::FileCreate(created) => {
                let head = &created.head;
                let path = path_of(created.text(0));
                if head.flags & file_flag::CLOSE_FOLLOWS != 0 {
                    self.late.created(head, path);
                    return EarlyHash::None;
                }
                if !regular(&head.file) {
                    return EarlyHash::None;
                }
                if self.closes.is_some() {
                    let head = *head;
                    return self.watch(&head, path);
                }
                // Nobody tells when its writers are gone.
                self.ask(
                    What::Created,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path),
                    Writers::Unknown,
                )
            }
            RecordRef::FileClose(closed) => {
                let head = closed.head;
                let Some(open) = self.late.open_file((head.file_key, head.created_boot_ns)) else {
                    return EarlyHash::None;
                };
                let path = open.path.clone();
                if !regular(&head.file) {
                    return EarlyHash::None;
                }
                let writers = if head.flags & file_flag::WRITERS_LEFT == 0 {
                    Writers::Gone
                } else {
                    Writers::Left
                };
                self.ask(
                    What::Created,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path),
                    writers,
                )
            }
            RecordRef::Exit(_) | RecordRef::Fork(_) | RecordRef::Connect(_) => EarlyHash::None,
        }
    }

    fn ask(
        &mut self,
        what: What,
        identity: Option<FileIdentity>,
        header: &Header,
        subject: &Subject,
        path: Option<Option<Vec<u8>>>,
        writers: Writers,
    ) -> EarlyHash {
        let event_wall_ns = self.clock.wall_ns(header.time_boot_ns);
        let Some((pool, _)) = &self.hashes else {
            return EarlyHash::None;
        };
        if let Some(identity) = &identity
            && let Some(known) = pool.lookup(what, identity, event_wall_ns)
        {
            return EarlyHash::Known(Box::new(known.message()), known.facts);
        }
        let token = self.late.token();
        let place = self.place(header, subject, path.flatten());
        let Some((pool, _)) = &self.hashes else {
            return EarlyHash::None;
        };
        let job = HashJob {
            token,
            what,
            identity,
            event_wall_ns,
            place,
            writers,
            open: None,
        };
        match pool.submit(job) {
            Ok(()) => {
                self.late.expect(token, Target::Early);
                EarlyHash::Asked(token)
            }
            Err(_job) => EarlyHash::Refused,
        }
    }

    /// Where the file of a record may be reached.
    pub(super) fn place(
        &mut self,
        header: &Header,
        subject: &Subject,
        path: Option<Vec<u8>>,
    ) -> Place {
        let fallback = self.table.find_tgid(header.tgid).and_then(|image| {
            let parent = image.process.parent.as_ref()?;
            Some(ProcessStart {
                tgid: parent.pid,
                start_boot_ns: parent.start_boot_ns?,
            })
        });
        Place {
            process: Some(ProcessStart {
                tgid: header.tgid,
                start_boot_ns: header.start_boot_ns,
            }),
            fallback,
            mount_namespace: subject.mnt_ns,
            path,
        }
    }

    /// Watches a created file until its last writer is gone; it is hashed then, under the same token.
    fn watch(&mut self, record: &FileCreateRecord, path: Option<Vec<u8>>) -> EarlyHash {
        let place = self.place(&record.header, &record.subject, path);
        let token = self.late.token();
        let Some((watch, _)) = &self.closes else {
            return EarlyHash::None;
        };
        let request = CloseRequest {
            token,
            identity: record.file,
            place: place.clone(),
        };
        if watch.submit(request).is_err() {
            return EarlyHash::Refused;
        }
        self.places.insert(token, place);
        self.late.expect(token, Target::Early);
        EarlyHash::Asked(token)
    }

    /// Created files that were closed, or that nobody can say more of, go on to the hash pool.
    pub(super) fn take_closes(&mut self) {
        loop {
            let Some((_, closes)) = &mut self.closes else {
                return;
            };
            let Ok(closed) = closes.try_recv() else {
                return;
            };
            let (token, end) = (closed.token, closed.end);
            let place = self.places.remove(&token).unwrap_or_default();
            let now_wall_ns = self.clock.wall_ns(self.now());
            let job = closed.into_job(place, now_wall_ns);
            let refused = match (job, &self.hashes) {
                (Some(job), Some((pool, _))) => pool.submit(job).is_err(),
                (Some(_), None) | (None, _) => true,
            };
            if refused {
                self.hash_arrived(unread(token, end));
            }
        }
    }
}
