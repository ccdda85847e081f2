//! A world is made up, in which events happen, are lost, evicted, refused, vanish, and agents crash; then every span of time is asked
//! about, and the answers compared with what the world knows.

use proptest::prelude::*;

use super::*;
use crate::account::{Account, Loss};

const S: i64 = SECOND_NS;
/// Wall clock less boot clock.
const OFFSET: i64 = 1_000 * S;
const EPOCH: [u8; 16] = [7; 16];

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An event is seen; it leaves with the next packet, or with the one after.
    Event { held: bool },
    /// An event is lost and counted.
    Lose { daemon: bool },
    /// A packet is sealed.
    Seal,
    /// The oldest packets that were not sent are given up.
    Evict(usize),
    /// Packets that wait are sent; one of them may be refused, or vanish without a trace.
    Send {
        refuse: Option<usize>,
        vanish: Option<usize>,
    },
    /// The agent is killed; an event happens meanwhile; it starts again.
    Crash,
    /// The agent stops in order, an event happens, it starts again.
    Stop,
    /// The wall clock is set by so many seconds.
    Jump(i64),
    /// The machine is reset, and comes back with its clock set by so many seconds; an event happens before the agent runs.
    Reset(i64),
    /// The agent is killed, its clock is set by so many seconds, it starts again; events happen before and after the setting.
    Absent(i64),
}

/// Seconds by which clocks are set.
fn seconds() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![-86_400, -3_600, -7, -1, 1, 7, 3_600, 86_400])
}

fn step() -> impl Strategy<Value = Step> {
    let at = || prop::option::weighted(0.15, 0usize..4);
    prop_oneof![
        8 => any::<bool>().prop_map(|held| Step::Event { held }),
        2 => any::<bool>().prop_map(|daemon| Step::Lose { daemon }),
        6 => Just(Step::Seal),
        1 => (1usize..4).prop_map(Step::Evict),
        4 => (at(), at()).prop_map(|(refuse, vanish)| Step::Send { refuse, vanish }),
        1 => Just(Step::Crash),
        1 => Just(Step::Stop),
    ]
}

/// As [`step`], with a clock that is set; nothing vanishes then, since nobody knows what the clock showed meanwhile.
fn step_of_time() -> impl Strategy<Value = Step> {
    let sent = step().prop_map(|step| match step {
        Step::Send { .. } | Step::Evict(_) => Step::Seal,
        step @ (Step::Event { .. }
        | Step::Lose { .. }
        | Step::Seal
        | Step::Crash
        | Step::Stop
        | Step::Jump(_)
        | Step::Reset(_)
        | Step::Absent(_)) => step,
    });
    prop_oneof![
        8 => sent,
        1 => seconds().prop_map(Step::Jump),
        1 => seconds().prop_map(Step::Reset),
        1 => seconds().prop_map(Step::Absent),
    ]
}

/// A packet that is sealed: what it says, and the times of its events.
#[derive(Clone, Debug)]
struct Sealed {
    summary: Summary,
    events: Vec<i64>,
}

#[derive(Debug, Default)]
struct World {
    now: i64,
    run: u8,
    run_began: i64,
    sequence: i64,
    packed: u64,
    kernel_lost: u64,
    daemon_lost: u64,
    pending: Vec<i64>,
    held: Vec<i64>,
    unsent: Vec<Sealed>,
    tombstones: Vec<v1::Tombstone>,
    blind: Option<v1::BlindInterval>,
    /// Instant up to which the last packet goes, and when it was sealed, by the wall clock of then.
    durable: Option<(i64, i64)>,
    stored: Vec<Summary>,
    rejected: Vec<i64>,
    /// Wall-clock times of events that are here, and of those that are not.
    here: Vec<i64>,
    away: Vec<i64>,
    boot: u8,
    /// By how much the wall clock was set, ns, and from when on.
    jumps: Vec<(i64, i64)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: 10 * S,
            run: 1,
            run_began: 10 * S,
            ..Self::default()
        }
    }

    /// Wall-clock time of an instant, as the clock stood then.
    fn wall(&self, instant: i64) -> i64 {
        let jumps = self.jumps.iter().filter(|(from, _)| *from <= instant);
        instant + OFFSET + jumps.map(|(_, step)| step).sum::<i64>()
    }

    fn tick(&mut self) -> i64 {
        self.now += S;
        self.now
    }

    fn seal(&mut self) {
        self.sequence += 1;
        let mut events = std::mem::take(&mut self.pending);
        events.sort_unstable();
        // A heartbeat accounts for the time up to what waits.
        let reached = self.held.first().map_or(self.now, |held| held - 1);
        let last = events.last().copied().unwrap_or(reached);
        let loss = |origin: Origin, count| Loss {
            name: "exec".to_owned(),
            origin: origin.into(),
            cause: "full".to_owned(),
            count,
        };
        let losses = [
            loss(Origin::Kernel, self.kernel_lost),
            loss(Origin::Daemon, self.daemon_lost),
        ];
        self.packed += u64::try_from(events.len()).unwrap();
        let packed = v1::TypeCount {
            r#type: 100,
            count: self.packed,
        };
        let summary = Summary {
            sequence: self.sequence,
            run: [self.run; 16],
            run_began_ns: self.wall(self.run_began),
            boot: vec![self.boot; 16],
            sealed_ns: self.wall(self.now),
            at_boot_ns: self.now,
            first_boot_ns: events.first().copied().unwrap_or(last),
            last_boot_ns: last,
            counts: vec![(100, u64::try_from(events.len()).unwrap())],
            account: Account {
                losses: losses.into_iter().filter(|loss| loss.count > 0).collect(),
                tombstones: std::mem::take(&mut self.tombstones),
                blind: self.blind.take(),
                waiting: u64::try_from(self.held.len()).unwrap(),
                unseen_at_most: 0,
                packed: Some(packed)
                    .filter(|packed| packed.count > 0)
                    .into_iter()
                    .collect(),
            },
            ..Summary::default()
        };
        self.durable = Some((last, self.wall(self.now)));
        self.unsent.push(Sealed { summary, events });
        self.pending = std::mem::take(&mut self.held);
    }

    fn lose(&mut self, times: impl IntoIterator<Item = i64>) {
        let times: Vec<i64> = times.into_iter().map(|time| self.wall(time)).collect();
        self.away.extend(times);
    }

    /// Starts the agent again, perhaps after the clock was set by so many seconds, which may have been by a reset.
    fn begin_run(&mut self, clean: bool, set: Option<(i64, bool)>) {
        let boot = self.boot;
        let (last, sealed) = self.durable.unzip();
        let unseen = self.tick();
        match set {
            Some((seconds, true)) => {
                self.boot += 1;
                self.jumps.push((unseen, seconds * S));
            }
            Some((seconds, false)) => {
                let from = self.tick();
                self.jumps.push((from, seconds * S));
                self.lose([from]);
            }
            None => {}
        }
        self.lose([unseen]);
        let attached = self.tick();
        self.run += 1;
        self.run_began = attached - S / 2;
        (self.kernel_lost, self.daemon_lost, self.packed) = (0, 0, 0);
        self.blind = Some(v1::BlindInterval {
            from_boot_id: last.map(|_| vec![boot; 16]),
            from_boot_ns: last.map(i64::unsigned_abs),
            from_time_ns: sealed,
            to_boot_ns: attached.unsigned_abs(),
            to_time_ns: self.wall(attached),
            after_clean_stop: clean,
        });
        self.now += 1;
    }

    fn step(&mut self, step: Step) {
        let now = self.tick();
        match step {
            Step::Event { held: true } => self.held.push(now),
            Step::Event { held: false } => self.pending.push(now),
            Step::Lose { daemon } => {
                if daemon {
                    self.daemon_lost += 1;
                } else {
                    self.kernel_lost += 1;
                }
                self.lose([now]);
            }
            Step::Seal => self.seal(),
            Step::Evict(count) => {
                for packet in self
                    .unsent
                    .drain(..count.min(self.unsent.len()))
                    .collect::<Vec<_>>()
                {
                    let sequence = packet.summary.sequence.unsigned_abs();
                    self.tombstones.push(v1::Tombstone {
                        epoch: EPOCH.to_vec(),
                        stream: 1,
                        first_sequence: sequence,
                        last_sequence: sequence,
                        counts: vec![v1::TypeCount {
                            r#type: 100,
                            count: u64::try_from(packet.events.len()).unwrap(),
                        }],
                        cause: v1::TombstoneCause::Bytes.into(),
                        ..v1::Tombstone::default()
                    });
                    // What it told of others is told again: the spool keeps it.
                    self.tombstones.extend(packet.summary.account.tombstones);
                    self.lose(packet.events);
                }
            }
            Step::Send { refuse, vanish } => {
                for (index, packet) in std::mem::take(&mut self.unsent).into_iter().enumerate() {
                    if vanish == Some(index) {
                        self.lose(packet.events);
                    } else if refuse == Some(index) {
                        self.rejected.push(packet.summary.sequence);
                        self.lose(packet.events);
                    } else {
                        let times: Vec<i64> =
                            packet.events.iter().map(|time| self.wall(*time)).collect();
                        self.here.extend(times);
                        self.stored.push(packet.summary);
                    }
                }
            }
            Step::Crash => {
                self.crash();
                self.begin_run(false, None);
            }
            Step::Stop => {
                self.seal();
                self.seal();
                self.begin_run(true, None);
            }
            Step::Jump(seconds) => {
                let from = self.tick();
                self.jumps.push((from, seconds * S));
            }
            Step::Reset(seconds) => {
                self.crash();
                self.begin_run(false, Some((seconds, true)));
                self.seal();
            }
            Step::Absent(seconds) => {
                self.crash();
                self.begin_run(false, Some((seconds, false)));
                self.seal();
            }
        }
    }

    /// What is in no packet is gone.
    fn crash(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let held = std::mem::take(&mut self.held);
        self.lose(pending);
        self.lose(held);
    }

    /// What has not been sent is not here.
    fn rest(&mut self) {
        self.crash();
        let unsent = std::mem::take(&mut self.unsent);
        self.lose(unsent.into_iter().flat_map(|packet| packet.events));
    }

    fn ask(&self, span: Span) -> Report {
        let question = Question {
            span,
            event_type: Some(v1::EventType::Exec),
        };
        let frame = Frame {
            epoch: EPOCH,
            stream: 1,
            rejected: self.rejected.clone(),
            ..Frame::default()
        };
        let mut judge = Judge::new(question.clone(), frame);
        for summary in &self.stored {
            judge.packet(summary.clone());
        }
        join(&question, vec![judge.finish()])
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever happens: a span that is said to be complete has every event of the world.
    #[test]
    fn complete_is_said_only_of_what_is_complete(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.rest();
        for from in (0..world.now / S + 2).step_by(2) {
            for length in [0, 1, 3, 10] {
                let span = Span {
                    from_ns: from * S + OFFSET,
                    to_ns: (from + length) * S + OFFSET,
                };
                let report = world.ask(span);
                if report.complete() {
                    let away: Vec<_> = world
                        .away
                        .iter()
                        .filter(|time| (span.from_ns..=span.to_ns).contains(*time))
                        .collect();
                    prop_assert!(away.is_empty(), "{span:?}: {away:?} are not here");
                }
            }
        }
    }

    /// The same when clocks are set and machines are reset.
    #[test]
    fn complete_is_said_only_of_what_is_complete_by_every_clock(
        steps in prop::collection::vec(step_of_time(), 1..60),
    ) {
        let mut world = World::new();
        world.step(Step::Seal);
        for step in steps {
            // Some packet has to tell what the clock was.
            let jump = matches!(step, Step::Jump(_));
            if jump {
                world.step(Step::Seal);
            }
            world.step(step);
            if jump {
                world.step(Step::Seal);
            }
        }
        world.step(Step::Seal);
        world.step(Step::Send { refuse: None, vanish: None });
        world.rest();
        for time in &world.away {
            let report = world.ask(Span { from_ns: *time, to_ns: *time });
            prop_assert!(!report.complete(), "{time} is not here");
        }
    }

    /// A clock that is set, and nothing else: everything is here, and is said to be.
    #[test]
    fn a_clock_that_is_set_leaves_no_hole(
        steps in prop::collection::vec((seconds(), any::<bool>()), 1..20),
    ) {
        let mut world = World::new();
        world.step(Step::Seal);
        for (seconds, jump) in steps {
            world.step(Step::Event { held: false });
            if jump {
                world.step(Step::Jump(seconds));
            }
            world.step(Step::Event { held: false });
            world.step(Step::Seal);
        }
        world.step(Step::Seal);
        world.step(Step::Send { refuse: None, vanish: None });
        let all = world.ask(Span::ALL);
        let (from_ns, to_ns) = (all.accounted_from_ns.unwrap(), all.accounted_to_ns.unwrap());
        let report = world.ask(Span { from_ns, to_ns });
        prop_assert!(report.complete(), "{:?}", report.findings);
        prop_assert_eq!(to_ns, world.stored.last().unwrap().sealed_ns);
        // What was told by a clock that is ahead of the present one may come again.
        prop_assert!(world.here.iter().all(|time| (from_ns..=to_ns).contains(time) || *time > to_ns));
    }

    /// Without crashes and vanished packets, every event of the world that is not here is counted, once the last packet is here.
    #[test]
    fn what_is_lost_is_counted(
        steps in prop::collection::vec(
            step().prop_filter("told by numbers", |step| {
                !matches!(step, Step::Crash | Step::Stop | Step::Send { .. })
            }),
            1..60,
        ),
        sent in prop::collection::vec(any::<bool>(), 60),
    ) {
        let mut world = World::new();
        for (step, sent) in steps.into_iter().zip(sent) {
            world.step(step);
            if sent {
                world.step(Step::Send { refuse: None, vanish: None });
            }
        }
        world.step(Step::Seal);
        world.step(Step::Seal);
        world.step(Step::Send { refuse: None, vanish: None });
        world.rest();
        let report = world.ask(Span::ALL);
        prop_assert_eq!(report.lost(), u64::try_from(world.away.len()).unwrap());
        let explained = |finding: &Finding| {
            matches!(finding.what, What::Lost { .. } | What::Evicted { .. } | What::Unknown | What::NotYet)
        };
        prop_assert!(report.findings.iter().all(explained), "{:?}", report.findings);
    }

    /// When nothing goes wrong, all the time between the first and the last packet is complete.
    #[test]
    fn what_is_complete_is_said_to_be(held in prop::collection::vec(any::<bool>(), 2..40)) {
        let mut world = World::new();
        world.step(Step::Seal);
        for held in held {
            world.step(Step::Event { held });
            world.step(Step::Seal);
        }
        world.step(Step::Seal);
        world.step(Step::Seal);
        world.step(Step::Send { refuse: None, vanish: None });
        world.rest();
        let all = world.ask(Span::ALL);
        let span = Span {
            from_ns: all.accounted_from_ns.unwrap(),
            to_ns: all.accounted_to_ns.unwrap(),
        };
        prop_assert_eq!(span.to_ns, world.stored.last().unwrap().sealed_ns);
        let report = world.ask(span);
        prop_assert!(report.complete(), "{:?}", report.findings);
    }
}

fn finding(report: &Report) -> Vec<&What> {
    report
        .findings
        .iter()
        .map(|finding| &finding.what)
        .collect()
}

#[test]
fn nothing_is_known_of_a_stream_without_packets() {
    assert_eq!(finding(&World::new().ask(Span::ALL)), [&What::Unknown]);
}

#[test]
fn a_gap_is_missing_refused_or_evicted_by_what_is_known_of_it() {
    let mut world = World::new();
    for _ in 0..6 {
        world.step(Step::Event { held: false });
        world.step(Step::Seal);
    }
    // 1 vanishes, 3 is refused, the rest arrives.
    world.step(Step::Send {
        refuse: Some(2),
        vanish: Some(0),
    });
    world.step(Step::Event { held: false });
    world.step(Step::Seal);
    world.step(Step::Evict(1));
    world.step(Step::Seal);
    world.step(Step::Send {
        refuse: None,
        vanish: None,
    });
    let report = world.ask(Span::ALL);
    let found = finding(&report);
    for what in [
        // Before it there is no packet whose account could be compared.
        What::Missing {
            first: 1,
            last: 1,
            count: None,
        },
        What::Rejected { first: 3, last: 3 },
        What::Evicted {
            first: 7,
            last: 7,
            cause: v1::TombstoneCause::Bytes,
            count: Some(1),
        },
    ] {
        assert!(found.contains(&&what), "{what:?} is not in {found:?}");
    }
}

/// Packets with an event each, and how many are in each.
fn sealed(events: &[u64]) -> World {
    let mut world = World::new();
    for count in events {
        for _ in 0..*count {
            world.step(Step::Event { held: false });
        }
        world.step(Step::Seal);
    }
    world
}

#[test]
fn the_account_tells_how_many_events_were_in_packets_that_vanished() {
    let mut world = sealed(&[1, 4, 2, 1]);
    let packets = std::mem::take(&mut world.unsent);
    world
        .stored
        .extend([&packets[0], &packets[3]].map(|packet| packet.summary.clone()));
    let missing = What::Missing {
        first: 2,
        last: 3,
        count: Some(6),
    };
    let report = world.ask(Span::ALL);
    assert!(finding(&report).contains(&&missing), "{report:?}");
    // One of them is given up: what is left is of the other.
    world.stored[1].account.tombstones = vec![v1::Tombstone {
        epoch: EPOCH.to_vec(),
        stream: 1,
        first_sequence: 2,
        last_sequence: 2,
        counts: vec![v1::TypeCount {
            r#type: 100,
            count: 4,
        }],
        ..v1::Tombstone::default()
    }];
    let missing = What::Missing {
        first: 3,
        last: 3,
        count: Some(2),
    };
    let report = world.ask(Span::ALL);
    assert!(finding(&report).contains(&&missing), "{report:?}");
    // A tombstone that counts more, or one that leaves events over, contradicts the account.
    for (last, count) in [(2, 7), (3, 5)] {
        let stone = &mut world.stored[1].account.tombstones[0];
        (stone.last_sequence, stone.counts[0].count) = (last, count);
        let report = world.ask(Span::ALL);
        let contradiction = What::Contradiction { sequence: 4 };
        assert!(finding(&report).contains(&&contradiction), "{report:?}");
    }
}

#[test]
fn events_that_are_not_in_the_packets_that_follow_each_other_are_a_contradiction() {
    let mut world = sealed(&[1, 4, 2]);
    world.step(Step::Send {
        refuse: None,
        vanish: None,
    });
    let contradiction = What::Contradiction { sequence: 2 };
    assert!(!finding(&world.ask(Span::ALL)).contains(&&contradiction));
    for packed in [4, 6] {
        let mut world = World {
            stored: world.stored.clone(),
            ..World::new()
        };
        world.stored[1].account.packed[0].count = packed;
        let report = world.ask(Span::ALL);
        assert!(finding(&report).contains(&&contradiction), "{report:?}");
    }
}

#[test]
fn a_type_that_lost_nothing_is_complete_while_another_is_not() {
    let mut world = World::new();
    world.step(Step::Seal);
    world.step(Step::Lose { daemon: false });
    world.step(Step::Seal);
    world.step(Step::Send {
        refuse: None,
        vanish: None,
    });
    let span = Span {
        from_ns: world.stored[0].sealed_ns,
        to_ns: world.stored[1].sealed_ns,
    };
    assert!(!world.ask(span).complete());
    let question = Question {
        span,
        event_type: Some(v1::EventType::Exit),
    };
    let mut judge = Judge::new(question.clone(), Frame::default());
    for summary in &world.stored {
        judge.packet(summary.clone());
    }
    assert!(join(&question, vec![judge.finish()]).complete());
}

#[test]
fn between_two_epochs_nothing_is_known() {
    let question = Question {
        span: Span::ALL,
        event_type: None,
    };
    let epoch = |from_ns, to_ns| Report {
        accounted_from_ns: Some(from_ns),
        accounted_to_ns: Some(to_ns),
        ..Report::default()
    };
    let joined = join(&question, vec![epoch(50, 90), epoch(10, 40)]);
    let spans: Vec<_> = joined
        .findings
        .iter()
        .map(|finding| (finding.from_ns, finding.to_ns))
        .collect();
    assert_eq!(spans, [(i64::MIN, 9), (41, 49), (91, i64::MAX)]);
    assert!(
        join(
            &Question {
                span: Span {
                    from_ns: 55,
                    to_ns: 80
                },
                ..question
            },
            vec![epoch(50, 90)]
        )
        .complete()
    );
}

#[test]
fn a_machine_that_comes_back_with_an_old_clock_is_blind_up_to_the_time_that_it_is_set_to() {
    let mut world = sealed(&[1, 1]);
    let before = world.wall(world.now);
    world.step(Step::Reset(-86_400));
    for _ in 0..2 {
        world.step(Step::Event { held: false });
        world.step(Step::Seal);
    }
    // The network's time comes a day later by this clock.
    world.step(Step::Jump(86_400 + 3_600));
    let set = world.wall(world.now);
    world.step(Step::Event { held: false });
    world.step(Step::Seal);
    world.step(Step::Send {
        refuse: None,
        vanish: None,
    });
    for time in [before + S, before + 1_800 * S, set - 10 * S] {
        let report = world.ask(Span {
            from_ns: time,
            to_ns: time,
        });
        let blind = What::Blind {
            after_clean_stop: false,
        };
        assert!(finding(&report).contains(&&blind), "{report:?}");
    }
    for time in &world.here {
        let report = world.ask(Span {
            from_ns: *time,
            to_ns: *time,
        });
        assert!(!finding(&report).contains(&&What::Unknown), "{report:?}");
    }
}
