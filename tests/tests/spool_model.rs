//! The spool against a model, over a file system that stops in the middle of any operation, loses what was not synced and
//! tears what it was writing; and against damaged bytes and lost files.
//!
//! Held at every step:
//! - what a sink gets is what was appended under that identity, in order, without holes that no gap explains;
//! - the events of a gap are those of the packets in it;
//! - nothing is given twice between two starts; after a start nothing whose acknowledgement was durable;
//! - no identity is ever given with two contents, whatever happened in between;
//! - every sink's account balances.
//!
//! And when nothing was damaged or evicted: everything that was durable arrives.
#![forbid(unsafe_code)]

#[cfg(test)]
#[path = "spool_model/disk.rs"]
mod disk;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use sensor::spool::storage::Disk;
    use sensor::spool::{
        Cause, Counts, DiskFault, Entry, Epoch, HostIdentity, Item, NewEpoch, Now, Opening,
        PacketId, Previous, Spool, SpoolConfig, State, Stream, Tombstone,
    };
    use sha2::{Digest, Sha256};

    use super::disk::{Fault, Random, World};

    const SINKS: [&str; 2] = ["quick", "slow"];

    fn config(disk_bytes: u64) -> SpoolConfig {
        SpoolConfig {
            disk_bytes,
            memory_bytes: 1 << 20,
            segment_bytes: 1500,
            unsynced_bytes: 6000,
            cursor_interval_ns: 0,
            read_ahead_bytes: 20_000,
            ..SpoolConfig::default()
        }
    }

    type Key = (Epoch, Stream);

    /// What a sink has seen.
    #[derive(Debug, Default)]
    struct Seen {
        /// Up to here everything was acknowledged; in a new life, as far as that is known to be durable.
        acked: BTreeMap<Key, u64>,
        /// The same, when a sync had written it.
        saved: BTreeMap<Key, u64>,
        /// Up to here everything was acknowledged in the life before.
        limit: BTreeMap<Key, u64>,
        /// Up to here everything was given in this life.
        given: BTreeMap<Key, u64>,
        /// Acknowledged out of order.
        early: BTreeMap<Key, BTreeMap<u64, u64>>,
        /// Given and not acknowledged.
        open: Vec<Item>,
        /// Every packet that it ever got.
        got: BTreeSet<PacketId>,
        /// Every packet that a gap told it of.
        told: BTreeSet<PacketId>,
    }

    /// The spool and what should be in it.
    struct Run {
        name: String,
        world: World,
        random: Random,
        config: SpoolConfig,
        spool: Option<Spool<World>>,
        now: Now,
        /// What was last appended under an identity.
        sealed: BTreeMap<PacketId, Entry>,
        /// What was given under it, to whomever.
        given: BTreeMap<PacketId, [u8; 32]>,
        durable: BTreeSet<PacketId>,
        /// Appended in a life before and not durable when it ended: there or not.
        doubtful: BTreeSet<PacketId>,
        seen: BTreeMap<&'static str, Seen>,
        /// Something was damaged on purpose.
        damaged: bool,
        closed_clean: bool,
        /// Longest filling of a packet.
        length_max: usize,
    }

    impl Run {
        fn new(name: String, seed: u64, config: SpoolConfig) -> Self {
            let world = World::new(seed);
            let mut run = Self {
                name,
                world,
                random: Random::new(seed ^ 0x5eed),
                config,
                spool: None,
                now: Now {
                    wall_ns: 1_700_000_000_000_000_000,
                    boot_ns: 1_000_000_000,
                },
                sealed: BTreeMap::new(),
                given: BTreeMap::new(),
                durable: BTreeSet::new(),
                doubtful: BTreeSet::new(),
                seen: SINKS
                    .into_iter()
                    .map(|sink| (sink, Seen::default()))
                    .collect(),
                damaged: false,
                closed_clean: false,
                length_max: 700,
            };
            let opening = run.open().unwrap();
            assert_eq!(opening.previous, Previous::None);
            assert_eq!(opening.new_epoch, Some(NewEpoch::Created));
            run
        }

        /// Opens the spool; `None` if everything stopped meanwhile.
        fn open(&mut self) -> Option<Opening> {
            let host = HostIdentity {
                boot_id: [1; 16],
                ..HostIdentity::default()
            };
            let (spool, opening) =
                Spool::open(self.world.clone(), self.config, host, &SINKS, self.now).unwrap();
            if self.world.stopped() {
                return None;
            }
            let durable = &self.durable;
            self.doubtful
                .extend(self.sealed.keys().filter(|id| !durable.contains(id)));
            for seen in self.seen.values_mut() {
                seen.open.clear();
                seen.early.clear();
                // Where it goes on it has to show; not before what was saved.
                seen.given.clear();
                for (key, acked) in std::mem::replace(&mut seen.acked, seen.saved.clone()) {
                    let limit = seen.limit.entry(key).or_default();
                    *limit = acked.max(*limit);
                }
            }
            self.spool = Some(spool);
            self.check_balance();
            Some(opening)
        }

        fn check_balance(&self) {
            for account in self.spool.as_ref().unwrap().accounts() {
                assert!(account.balances(), "{}: {account:#?}", self.name);
            }
        }

        fn tick(&mut self) {
            let step = self.random.next() % 2_000_000_000;
            self.now.boot_ns += step;
            self.now.wall_ns += i64::try_from(step).unwrap();
        }

        /// The process or the machine dies, and comes back; what was not in order is looked at.
        fn die(&mut self) {
            self.world.set_fault(Fault::None);
            loop {
                drop(self.spool.take());
                if self.random.one_in(2) {
                    self.world.cut_power();
                } else {
                    self.world.kill();
                }
                if self.random.one_in(4) {
                    let changes = 1 + self.random.next() % 12;
                    self.world.stop_in(changes);
                }
                if let Some(opening) = self.open() {
                    assert!(
                        self.closed_clean || opening.previous != Previous::Clean,
                        "{}",
                        self.name
                    );
                    break;
                }
            }
            self.world.kill();
            self.closed_clean = false;
        }

        /// After each call: did everything stop in it?
        fn alive(&mut self) -> bool {
            if self.world.stopped() {
                self.die();
                return false;
            }
            self.check_balance();
            true
        }

        fn append(&mut self) {
            let stream = Stream::ALL[self.random.below(2)];
            let length = self.random.below(self.length_max);
            let content = self.random.next();
            let spool = self.spool.as_mut().unwrap();
            let next = spool.next_packet(stream);
            let mut bytes = format!("{:?} {content} ", next.id).into_bytes();
            bytes.resize(bytes.len() + length, 7);
            let entry = Entry {
                id: next.id,
                digest: Sha256::digest(&bytes).into(),
                sealed_time_ns: self.now.wall_ns,
                boot_id: [1; 16],
                last_event_boot_ns: self.now.boot_ns,
                counts: (0..=content % 4)
                    .map(|number| (u16::try_from(number).unwrap(), 1 + content % 7))
                    .collect(),
                bytes,
            };
            let before = next
                .id
                .sequence
                .checked_sub(1)
                .filter(|sequence| *sequence > 0)
                .map(|sequence| {
                    self.sealed[&PacketId {
                        sequence,
                        ..next.id
                    }]
                        .digest
                });
            assert_eq!(
                next.previous_digest,
                before.unwrap_or_default(),
                "{}",
                self.name
            );
            self.sealed.insert(entry.id, entry.clone());
            self.doubtful.remove(&entry.id);
            spool.append(entry, self.now).unwrap();
            self.alive();
        }

        fn sync(&mut self) {
            let spool = self.spool.as_mut().unwrap();
            if self.random.one_in(3) {
                // In parts, as threads do it, with a packet between.
                let sync = spool.begin_sync();
                let result = sync.run();
                if self.world.stopped() {
                    self.die();
                    return;
                }
                self.append();
                if let Some(spool) = self.spool.as_mut() {
                    spool.finish_sync(&sync, result, self.now);
                }
                self.alive();
                return;
            }
            spool.sync(self.now);
            if !self.alive() {
                return;
            }
            let spool = self.spool.as_ref().unwrap();
            if spool.state() == State::Disk {
                let appended = self.appended();
                self.durable.extend(appended);
                for seen in self.seen.values_mut() {
                    seen.saved = seen.acked.clone();
                }
            }
        }

        /// What the current epoch has. What died with its process is not in it, nor is it ever durable in an older one.
        fn appended(&self) -> Vec<PacketId> {
            let spool = self.spool.as_ref().unwrap();
            let ends = Stream::ALL.map(|stream| spool.next_packet(stream).id);
            self.sealed
                .keys()
                .filter(|id| !self.doubtful.contains(id))
                .filter(|id| {
                    ends.iter().any(|end| {
                        (id.epoch, id.stream) == (end.epoch, end.stream)
                            && id.sequence < end.sequence
                    })
                })
                .copied()
                .collect()
        }

        /// A sink asks for more; everything that it gets is checked.
        fn next(&mut self, sink: &'static str) -> bool {
            let budget = 1 + self.random.below(3000);
            let result = self.spool.as_mut().unwrap().next(sink, budget, self.now);
            if !self.alive() {
                return false;
            }
            let items = match result {
                Ok(items) => items,
                Err(error) => {
                    let fails = self.world.fault() == Fault::ReadFails;
                    assert!(fails, "{}: {error:?}", self.name);
                    return false;
                }
            };
            let any = !items.is_empty();
            for item in items {
                self.check(sink, item);
            }
            any
        }

        fn check(&mut self, sink: &'static str, item: Item) {
            let name = &self.name;
            let id = item.id();
            let key = (id.epoch, id.stream);
            let seen = self.seen.get_mut(sink).unwrap();
            let early = seen.early.entry(key).or_default();
            let (from, to) = match &item {
                Item::Packet(entry) => {
                    assert_eq!(Some(entry), self.sealed.get(&id), "{name}: {sink}");
                    let digest = *self.given.entry(id).or_insert(entry.digest);
                    assert_eq!(digest, entry.digest, "{name}: {id:?} has two contents");
                    seen.got.insert(id);
                    (id.sequence, id.sequence)
                }
                Item::Gap(gap) => {
                    let mut counts = Counts::new();
                    for sequence in gap.from..=gap.to {
                        let id = PacketId { sequence, ..id };
                        counts.add_all(&self.sealed[&id].counts);
                        seen.told.insert(id);
                    }
                    assert_eq!(gap.counts, counts, "{name}: {sink}: {gap:?}");
                    if let Some(digest) = gap.last_digest {
                        let last = &self.sealed[&PacketId {
                            sequence: gap.to,
                            ..id
                        }];
                        assert_eq!(digest, last.digest, "{name}: {gap:?}");
                    }
                    // What was torn when it was not durable is damage too.
                    let never_durable = (gap.from..=gap.to)
                        .all(|sequence| !self.durable.contains(&PacketId { sequence, ..id }));
                    assert!(
                        self.damaged
                            || match gap.cause {
                                Cause::Bytes | Cause::Memory => true,
                                // From memory to another sink, and gone with the process.
                                Cause::Corrupt | Cause::Missing => never_durable,
                                Cause::Age | Cause::Epochs => false,
                            },
                        "{name}: {sink}: {gap:?}"
                    );
                    (gap.from, gap.to)
                }
            };
            match seen.given.get(&key) {
                Some(last) => {
                    // What it acknowledged out of order is left out.
                    let mut expected = 1 + *last.max(&seen.acked[&key]);
                    while let Some(to) = early.get(&expected) {
                        expected = to + 1;
                    }
                    assert_eq!(from, expected, "{name}: {sink}: {item:?}");
                    assert!(from > seen.acked[&key], "{name}: {sink}: {item:?} again");
                }
                None => {
                    let acked = seen.limit.get(&key).copied().unwrap_or(0);
                    let saved = seen.saved.get(&key).copied().unwrap_or(0);
                    assert!(
                        self.damaged || from > saved,
                        "{name}: {sink}: {item:?} was acknowledged durably ({saved})"
                    );
                    // Epochs that nobody had before begin with 1.
                    assert!(from <= acked + 1, "{name}: {sink}: {item:?} after {acked}");
                    seen.acked.insert(key, from - 1);
                }
            }
            seen.given.insert(key, to);
            seen.open.push(item);
        }

        fn acknowledge(&mut self, sink: &'static str, index: usize) {
            let spool = self.spool.as_mut().unwrap();
            let seen = self.seen.get_mut(sink).unwrap();
            let item = seen.open.remove(index);
            let id = item.id();
            spool.ack(sink, id).unwrap();
            spool.ack(sink, id).unwrap_err();
            let key = (id.epoch, id.stream);
            let to = match &item {
                Item::Packet(_) => id.sequence,
                Item::Gap(gap) => gap.to,
            };
            let early = seen.early.entry(key).or_default();
            early.insert(id.sequence, to);
            let acked = seen.acked.entry(key).or_insert(0);
            while let Some(to) = early.remove(&(*acked + 1)) {
                *acked = to;
            }
            self.check_balance();
        }

        fn rewind(&mut self, sink: &'static str) {
            self.spool.as_mut().unwrap().rewind(sink).unwrap();
            let seen = self.seen.get_mut(sink).unwrap();
            seen.open.clear();
            for (key, given) in &mut seen.given {
                *given = seen.acked[key];
            }
        }

        fn close(&mut self) {
            let appended = self.appended();
            let result = self.spool.take().unwrap().close(self.now);
            if self.world.stopped() {
                // Perhaps in the very last change, the mark of an orderly end.
                self.closed_clean = true;
                self.die();
                return;
            }
            let well = self.world.fault() == Fault::None;
            if result.is_ok() {
                self.durable.extend(appended);
                self.closed_clean = true;
                for seen in self.seen.values_mut() {
                    seen.saved = seen.acked.clone();
                }
            }
            assert!(result.is_ok() || !well, "{}: {result:?}", self.name);
            if self.random.one_in(3) {
                self.world.cut_power();
            }
            match self.open() {
                Some(opening) => {
                    self.closed_clean = false;
                    if result.is_ok() && well {
                        assert_eq!(opening.previous, Previous::Clean, "{}", self.name);
                        assert_eq!(opening.new_epoch, None, "{}", self.name);
                    }
                }
                None => self.die(),
            }
        }

        fn step(&mut self) {
            self.tick();
            match self.random.below(20) {
                0..=7 => self.append(),
                8..=10 => self.sync(),
                11..=14 => {
                    self.next("quick");
                }
                15 => {
                    self.next("slow");
                }
                16 | 17 => {
                    for sink in SINKS {
                        while !self.seen[sink].open.is_empty() && !self.random.one_in(6) {
                            let index = self.random.below(self.seen[sink].open.len());
                            self.acknowledge(sink, index);
                        }
                    }
                }
                18 => {
                    let sink = SINKS[self.random.below(2)];
                    if self.random.one_in(3) {
                        self.rewind(sink);
                    }
                }
                _ => {
                    if self.random.one_in(4) {
                        self.close();
                    }
                }
            }
        }

        /// The disk is well again, everything is synced, every sink takes all that there is; then the books are compared.
        fn settle(&mut self) {
            self.world.set_fault(Fault::None);
            self.now.boot_ns += 120_000_000_000;
            self.now.wall_ns += 120_000_000_000;
            self.world.kill();
            self.sync();
            self.now.boot_ns += 120_000_000_000;
            self.spool.as_mut().unwrap().sync(self.now);
            assert_eq!(
                self.spool.as_ref().unwrap().state(),
                State::Disk,
                "{}",
                self.name
            );
            for sink in SINKS {
                self.rewind(sink);
                let mut idle = 0;
                while idle < 8 {
                    idle = if self.next(sink) { 0 } else { idle + 1 };
                    while !self.seen[sink].open.is_empty() {
                        self.acknowledge(sink, 0);
                    }
                }
            }
            let missing: Vec<String> = SINKS
                .into_iter()
                .flat_map(|sink| {
                    let seen = &self.seen[sink];
                    self.durable
                        .iter()
                        .filter(|id| !seen.got.contains(id) && !seen.told.contains(id))
                        .map(move |id| format!("{sink}: {id:?}"))
                })
                .collect();
            assert!(
                self.damaged || missing.is_empty(),
                "{}: durable and never given: {missing:#?}",
                self.name
            );
            self.check_balance();
            for account in self.spool.as_ref().unwrap().accounts() {
                assert_eq!(account.waiting, Counts::new(), "{}: {account:?}", self.name);
                assert_eq!(account.in_flight_bytes, 0, "{}: {account:?}", self.name);
            }
            // Everybody has everything: what is left is what is being written.
            self.now.boot_ns += 10_000_000_000;
            self.spool.as_mut().unwrap().sync(self.now);
            let status = self.spool.as_ref().unwrap().status(self.now);
            assert_eq!(status.epochs, 1, "{}", self.name);
            assert!(
                status.classes.iter().all(|class| class.segments == 1),
                "{}: {status:?}",
                self.name
            );
        }
    }

    /// Lives of a hundred steps with deaths at random.
    fn random_runs(seeds: std::ops::Range<u64>, disk_bytes: u64, faults: &[Fault]) {
        for seed in seeds {
            let name = format!("seed {seed} of {disk_bytes} bytes with {faults:?}");
            let mut run = Run::new(name, seed, config(disk_bytes));
            for _ in 0..120 {
                if run.random.one_in(10) {
                    let changes = 1 + run.random.next() % 40;
                    run.world.stop_in(changes);
                }
                if !faults.is_empty() && run.random.one_in(8) {
                    let fault = faults[run.random.below(faults.len())];
                    run.world.set_fault(fault);
                }
                run.step();
            }
            run.settle();
        }
    }

    #[test]
    fn what_is_durable_survives_death_at_random() {
        random_runs(1..150, 1 << 20, &[]);
    }

    #[test]
    fn with_a_disk_that_fails_at_random() {
        let faults = [Fault::None, Fault::Full, Fault::ReadOnly, Fault::SyncFails];
        random_runs(1000..1080, 1 << 20, &faults);
    }

    #[test]
    fn with_a_budget_that_is_too_small() {
        random_runs(2000..2050, 20_000, &[]);
        random_runs(2100..2120, 20_000, &[Fault::None, Fault::None, Fault::Full]);
    }

    /// The same life, ended in each of its changes of the disk in turn.
    #[test]
    fn death_in_every_change_of_the_disk() {
        for seed in [3, 4] {
            let script = |run: &mut Run, changes: Option<u64>| {
                if let Some(changes) = changes {
                    run.world.stop_in(changes);
                }
                for _ in 0..90 {
                    run.step();
                }
            };
            let mut whole = Run::new(format!("seed {seed}"), seed, config(15_000));
            let before = whole.world.changes();
            script(&mut whole, None);
            let changes = whole.world.changes() - before;
            assert!(changes > 60, "{changes} changes are no test");
            whole.settle();
            for stop in 1..=changes {
                let name = format!("seed {seed}, death in change {stop} of {changes}");
                let mut run = Run::new(name, seed, config(15_000));
                script(&mut run, Some(stop));
                run.settle();
            }
        }
    }

    fn is_segment(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "seg")
    }

    fn damaged_run(whole: &Run, name: String) -> Run {
        Run {
            name,
            world: whole.world.fork(),
            random: whole.random.clone(),
            config: whole.config,
            spool: None,
            now: whole.now,
            sealed: whole.sealed.clone(),
            given: BTreeMap::new(),
            durable: whole.durable.clone(),
            doubtful: whole.doubtful.clone(),
            seen: SINKS
                .into_iter()
                .map(|sink| {
                    let seen = Seen {
                        acked: whole.seen[sink].acked.clone(),
                        got: whole.seen[sink].got.clone(),
                        ..Seen::default()
                    };
                    (sink, seen)
                })
                .collect(),
            damaged: true,
            closed_clean: false,
            length_max: whole.length_max,
        }
    }

    fn number(bytes: &[u8], at: usize, length: usize) -> usize {
        bytes[at..at + length]
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    /// Where the fields of a segment begin, as the documentation of the spool has them; and where it ends.
    fn fields_of_segment(bytes: &[u8]) -> Vec<usize> {
        let counts = |at: &mut usize, fields: &mut Vec<usize>| {
            fields.push(*at);
            let types = number(bytes, *at, 2);
            *at += 2;
            for _ in 0..types {
                fields.extend([*at, *at + 2]);
                *at += 10;
            }
        };
        let mut fields = vec![
            0, 8, 10, 12, 13, 16, 32, 48, 56, 64, 96, 104, 112, 128, 136, 152,
        ];
        let mut at = 160;
        counts(&mut at, &mut fields);
        fields.push(at);
        at += 4;
        assert_eq!(at, number(bytes, 10, 2));
        while at < bytes.len() {
            let (begin, length) = (at, number(bytes, at + 12, 4));
            assert_eq!(bytes[at..at + 8], bytes[48..56]);
            fields.extend([0, 8, 10, 12, 16, 24, 56, 64, 72, 88].map(|field| begin + field));
            at += 96;
            counts(&mut at, &mut fields);
            counts(&mut at, &mut fields);
            assert_eq!(at + 4 - begin, number(bytes, begin + 8, 2));
            fields.extend([at, at + 4, at + 4 + length]);
            at += 8 + length;
        }
        fields.push(at);
        fields
    }

    /// The same of the halves of a file that is rewritten in place.
    fn fields_of_slot(bytes: &[u8]) -> Vec<usize> {
        let half = bytes.len() / 2;
        [0, half]
            .into_iter()
            .flat_map(|half| {
                let length = number(bytes, half + 16, 4);
                [0, 8, 16, 20, 20 + length, 24 + length].map(|field| half + field)
            })
            .chain([bytes.len()])
            .collect()
    }

    /// One byte anywhere: at most the packet that it is in is lost, and that is told; everything else arrives.
    #[test]
    fn a_flipped_byte_anywhere_costs_at_most_one_packet() {
        let small = SpoolConfig {
            segment_bytes: 700,
            ..config(1 << 20)
        };
        let mut random = Random::new(79);
        let mut tried = 0;
        for orderly in [false, true] {
            let mut whole = Run::new(format!("whole, orderly {orderly}"), 77, small);
            whole.length_max = 60;
            for round in 0..10 {
                whole.tick();
                whole.append();
                if round % 3 == 0 {
                    whole.sync();
                }
                if round == 7 {
                    whole.next("quick");
                    while !whole.seen["quick"].open.is_empty() {
                        whole.acknowledge("quick", 0);
                    }
                }
            }
            whole.sync();
            whole.sync();
            assert!(!whole.seen["quick"].saved.is_empty());
            let spool = whole.spool.take().unwrap();
            if orderly {
                spool.close(whole.now).unwrap();
            } else {
                drop(spool);
            }
            let files = whole.world.files();
            let segments = files.iter().filter(|(path, _)| is_segment(path)).count();
            assert!(segments >= 4, "{files:?}");
            let clean = files.iter().any(|(path, _)| path == Path::new("clean"));
            assert_eq!(clean, orderly, "{files:?}");
            for (path, _) in files {
                let bytes = whole.world.content(&path);
                let fields = match is_segment(&path) {
                    true if orderly => continue,
                    true => fields_of_segment(&bytes),
                    false => fields_of_slot(&bytes),
                };
                for (field, next) in fields.iter().zip(&fields[1..]) {
                    // A byte of each field.
                    if next > field {
                        let at = field + random.below(next - field);
                        let by = 1 << random.below(8);
                        flipped(&whole, &path, at, by);
                        tried += 1;
                    }
                }
            }
        }
        assert!(tried > 400, "{tried}");
    }

    fn flipped(whole: &Run, path: &Path, at: usize, by: u8) {
        let mut run = damaged_run(whole, format!("bits {by:#x} of byte {at} of {path:?}"));
        run.given = whole.given.clone();
        run.world.flip(path, at, by);
        run.open().unwrap();
        run.append();
        run.settle();
        for sink in SINKS {
            let got = &run.seen[sink].got;
            let lost = run.durable.iter().filter(|id| !got.contains(id)).count();
            let most = usize::from(is_segment(path));
            assert!(lost <= most, "{}: {sink}: {lost} lost", run.name);
        }
    }

    /// A segment that is gone is a gap with the right events; the last one of a stream is the end of an epoch.
    #[test]
    fn a_lost_file_is_a_gap_or_the_end_of_an_epoch() {
        let mut whole = Run::new("whole".to_owned(), 78, config(1 << 20));
        for _ in 0..30 {
            whole.tick();
            whole.append();
        }
        whole.sync();
        whole.sync();
        // One sink has all: the cursor knows how far the streams went.
        while whole.next("quick") {
            while !whole.seen["quick"].open.is_empty() {
                whole.acknowledge("quick", 0);
            }
        }
        whole.spool.as_mut().unwrap().sync(whole.now);
        drop(whole.spool.take());
        for (path, _) in whole.world.files() {
            let mut run = damaged_run(&whole, format!("without {path:?}"));
            run.world.lose(&path);
            run.given = whole.given.clone();
            let opening = run.open().unwrap();
            run.append();
            run.settle();
            let seen = &run.seen["slow"];
            let lost: Vec<_> = run
                .durable
                .iter()
                .filter(|id| !seen.got.contains(id))
                .collect();
            if is_segment(&path) {
                let told = lost.iter().all(|id| seen.told.contains(id));
                assert!(
                    told || opening.new_epoch == Some(NewEpoch::Tail),
                    "{}: {lost:?} {opening:?}",
                    run.name
                );
            } else {
                assert!(lost.is_empty(), "{}: {lost:?}", run.name);
            }
        }
    }

    /// Reads that fail for a while lose nothing.
    #[test]
    fn a_read_that_fails_is_tried_again() {
        let mut run = Run::new("reads".to_owned(), 5, config(1 << 20));
        for _ in 0..10 {
            run.append();
        }
        run.sync();
        run.sync();
        run.world.set_fault(Fault::ReadFails);
        let error = run.spool.as_mut().unwrap().next("quick", 1000, run.now);
        error.unwrap_err();
        run.settle();
        assert_eq!(run.seen["quick"].told.len(), 0);
    }

    /// Without a disk and with memory full the oldest packets go, and that is told.
    #[test]
    fn a_full_memory_forgets_the_oldest_and_says_so() {
        let small = SpoolConfig {
            memory_bytes: 3000,
            ..config(1 << 20)
        };
        let mut run = Run::new("memory".to_owned(), 6, small);
        run.append();
        run.sync();
        run.sync();
        run.world.set_fault(Fault::ReadOnly);
        for _ in 0..40 {
            run.append();
        }
        let spool = run.spool.as_ref().unwrap();
        let status = spool.status(run.now);
        assert!(
            matches!(
                status.state,
                State::Memory {
                    why: DiskFault::ReadOnly,
                    ..
                }
            ),
            "{status:?}"
        );
        let kept: u64 = status.classes.iter().map(|class| class.memory_bytes).sum();
        assert!((1500..=3000).contains(&kept), "{status:?}");
        let evicted = status.evicted[&Cause::Memory].clone();
        assert_ne!(evicted, Counts::new());
        run.settle();
        for account in run.spool.as_ref().unwrap().accounts() {
            assert_eq!(account.evicted[&Cause::Memory], evicted, "{account:?}");
        }
        for sink in SINKS {
            let seen = &run.seen[sink];
            assert!(!seen.told.is_empty());
            assert_eq!(seen.told.len() + seen.got.len(), run.sealed.len());
        }
    }

    /// Fills a disk that is one; as root, since it is mounted.
    #[test]
    fn a_disk_that_is_full() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("not root: nothing is mounted");
            return;
        }
        // Mounts of its own, which go with the thread.
        std::thread::spawn(|| {
            let folder = tempfile::tempdir().unwrap();
            if let Err(error) = unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS) {
                eprintln!("root without mounts: {error}");
                return;
            }
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
            mount(kind, folder.path(), kind, flags, Some("size=2560k")).unwrap();
            fill(folder.path());
        })
        .join()
        .unwrap();
    }

    fn fill(folder: &Path) {
        const SECOND: u64 = 1_000_000_000;
        let config = SpoolConfig {
            segment_bytes: 256 << 10,
            memory_bytes: 1 << 20,
            ..SpoolConfig::default()
        };
        let mut now = Now {
            wall_ns: 1_700_000_000_000_000_000,
            boot_ns: SECOND,
        };
        let disk = Disk::lock(folder).unwrap();
        let (mut spool, opening) =
            Spool::open(disk, config, HostIdentity::default(), &["a"], now).unwrap();
        assert_eq!(opening.new_epoch, Some(NewEpoch::Created));
        // More than the disk, less than disk and memory together; then more than both, and again what fits: it has to recover.
        let mut sealed = BTreeMap::new();
        let mut gone: BTreeMap<Cause, Counts> = BTreeMap::new();
        for (packets, fits) in [(36_u64, true), (100, false), (36, true), (200, false)] {
            let mut full = false;
            let mut waiting = BTreeSet::new();
            for number in 0..packets {
                let next = spool.next_packet(Stream::Process);
                let mut bytes = format!("{:?}", next.id).into_bytes();
                bytes.resize(64 << 10, b'.');
                let counts: Counts = [(100, 1 + number)].into_iter().collect();
                sealed.insert(next.id, counts.clone());
                waiting.insert(next.id);
                let entry = Entry {
                    id: next.id,
                    digest: Sha256::digest(&bytes).into(),
                    sealed_time_ns: now.wall_ns,
                    boot_id: [0; 16],
                    last_event_boot_ns: now.boot_ns,
                    counts,
                    bytes,
                };
                spool.append(entry, now).unwrap();
                now.boot_ns += SECOND / 4;
                spool.sync(now);
                full |= matches!(
                    spool.state(),
                    State::Memory {
                        why: DiskFault::Full,
                        ..
                    }
                );
            }
            assert!(full, "{packets} packets fit");
            // What the packer would tell now: nothing twice.
            let mut buried = BTreeSet::new();
            for tombstone in spool.untold_tombstones() {
                assert_eq!(told(&sealed, tombstone, &mut buried), tombstone.counts);
            }
            let (mut lost, mut idle) = (BTreeSet::new(), 0);
            while idle < 3 {
                let items = spool.next("a", 1 << 20, now).unwrap();
                idle = if items.is_empty() { idle + 1 } else { 0 };
                for item in items {
                    match &item {
                        Item::Packet(entry) => {
                            let name = format!("{:?}", entry.id);
                            assert!(entry.bytes.starts_with(name.as_bytes()));
                            assert!(waiting.remove(&entry.id), "{name} is given twice");
                        }
                        Item::Gap(gap) => {
                            assert!(matches!(gap.cause, Cause::Bytes | Cause::Memory), "{gap:?}");
                            assert_eq!(told(&sealed, gap, &mut lost), gap.counts);
                            let sum = gone.entry(gap.cause).or_default();
                            sum.add_all(&gap.counts);
                        }
                    }
                    spool.ack("a", item.id()).unwrap();
                }
                // There is room again.
                now.boot_ns += 120 * SECOND;
                spool.sync(now);
            }
            assert_eq!(lost.is_empty(), fits, "{packets}: {lost:?}");
            assert_eq!(waiting, lost, "neither given nor told, or both");
            assert_eq!(buried, lost, "the packer tells something else");
            assert_eq!(spool.state(), State::Disk);
            let status = spool.status(now);
            assert_eq!(status.evicted, gone);
            let account = &status.sinks[0];
            assert!(account.balances(), "{account:?}");
            assert_eq!(account.waiting, Counts::new());
            assert_eq!(account.evicted, gone);
            let last = spool.untold_tombstones().map(|tombstone| tombstone.id);
            if let Some(last) = last.max() {
                spool.told_tombstones(last);
            }
        }
        spool.close(now).unwrap();
    }

    /// Counts of the packets that a tombstone tells of, none of which was told before.
    fn told(
        sealed: &BTreeMap<PacketId, Counts>,
        tombstone: &Tombstone,
        before: &mut BTreeSet<PacketId>,
    ) -> Counts {
        let mut counts = Counts::new();
        for sequence in tombstone.from..=tombstone.to {
            let id = PacketId {
                epoch: tombstone.epoch,
                stream: tombstone.stream,
                sequence,
            };
            assert!(before.insert(id), "{id:?} is told twice: {tombstone:?}");
            counts.add_all(&sealed[&id]);
        }
        counts
    }
}
