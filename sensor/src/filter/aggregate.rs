//! Events that a rule merges: counted per process, rule and type, and told as `aggregate` events.
//!
//! Nothing is hidden: the first event of each group travels whole inside the aggregate, the count is exact, and a group leaves
//! when its window ends, when its memory is needed for another, and when the sensor stops.

use std::collections::HashMap;

use sensor_proto::v1::event::Body;
use sensor_proto::v1::{Aggregate, Event, EventType, ProcessRef};

/// How long events are merged into one, by their own clock.
const WINDOW_NS: u64 = 10_000_000_000;
/// Groups kept at once; a whole event each, so a few MiB.
const MAX_GROUPS: usize = 4_096;

/// Groups that are being counted.
#[derive(Debug, Default)]
pub struct Aggregator {
    groups: HashMap<Key, Group>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Empty: no process acted.
    unique_pid: Vec<u8>,
    exec_id: u32,
    event_type: EventType,
    rule: String,
}

#[derive(Debug)]
struct Group {
    begin_boot_ns: u64,
    last_boot_ns: u64,
    process: Option<ProcessRef>,
    aggregate: Aggregate,
}

impl Aggregator {
    /// Takes an event that a rule merges. Returns the groups that had to leave for it: none, or the older half.
    pub fn push(&mut self, rule: &str, event: Event) -> Vec<Event> {
        let process = event.process.as_ref();
        let key = Key {
            unique_pid: process
                .and_then(|process| process.unique_pid.clone())
                .unwrap_or_default(),
            exec_id: process.map_or(0, |process| process.exec_id),
            event_type: event.event_type(),
            rule: rule.to_owned(),
        };
        if let Some(group) = self.groups.get_mut(&key) {
            group.aggregate.count += 1;
            group.aggregate.first_time_ns = group.aggregate.first_time_ns.min(event.time_ns);
            group.aggregate.last_time_ns = group.aggregate.last_time_ns.max(event.time_ns);
            group.last_boot_ns = group.last_boot_ns.max(event.time_boot_ns);
            return Vec::new();
        }
        let displaced = if self.groups.len() >= MAX_GROUPS {
            self.older_half()
        } else {
            Vec::new()
        };
        let group = Group {
            begin_boot_ns: event.time_boot_ns,
            last_boot_ns: event.time_boot_ns,
            process: event.process.clone(),
            aggregate: Aggregate {
                of_type: event.event_type().into(),
                count: 1,
                first_time_ns: event.time_ns,
                last_time_ns: event.time_ns,
                rule: Some(rule.to_owned()),
                sample: Some(Box::new(event)),
            },
        };
        self.groups.insert(key, group);
        displaced
    }

    /// The groups whose window has ended at this instant of the boot clock, oldest first.
    pub fn due(&mut self, now_boot_ns: u64) -> Vec<Event> {
        self.take(|group| now_boot_ns.saturating_sub(group.begin_boot_ns) >= WINDOW_NS)
    }

    /// All groups, oldest first; at the end, and before the rules change.
    pub fn drain(&mut self) -> Vec<Event> {
        self.take(|_| true)
    }

    /// Groups that are being counted.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether nothing is being counted.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    fn take(&mut self, due: impl Fn(&Group) -> bool) -> Vec<Event> {
        let mut taken: Vec<Group> = self
            .groups
            .extract_if(|_, group| due(group))
            .map(|(_, group)| group)
            .collect();
        taken.sort_by_key(|group| group.begin_boot_ns);
        taken.into_iter().map(Group::event).collect()
    }

    /// Half at once, so that a flood of new groups does not look for the oldest one each time.
    fn older_half(&mut self) -> Vec<Event> {
        let mut begins: Vec<u64> = self
            .groups
            .values()
            .map(|group| group.begin_boot_ns)
            .collect();
        let half = begins.len() / 2;
        let (_, median, _) = begins.select_nth_unstable(half);
        let median = *median;
        self.take(|group| group.begin_boot_ns <= median)
    }
}

impl Group {
    /// The aggregate as an event; its id and processing time are given by whoever sends it.
    fn event(self) -> Event {
        Event {
            time_ns: self.aggregate.last_time_ns,
            time_boot_ns: self.last_boot_ns,
            backend: self
                .aggregate
                .sample
                .as_ref()
                .map_or(0, |sample| sample.backend),
            process: self.process,
            body: Some(Body::Aggregate(Box::new(self.aggregate))),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(process: u8, time_boot_ns: u64) -> Event {
        Event {
            time_ns: i64::try_from(time_boot_ns).unwrap() + 1_000,
            time_boot_ns,
            process: Some(ProcessRef {
                unique_pid: Some(vec![process; 16]),
                ..ProcessRef::default()
            }),
            body: Some(Body::FileCreate(sensor_proto::v1::FileCreate::default())),
            ..Event::default()
        }
    }

    fn aggregate(event: &Event) -> &Aggregate {
        match &event.body {
            Some(Body::Aggregate(aggregate)) => aggregate,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events_of_one_process_and_rule_become_one() {
        let mut aggregator = Aggregator::default();
        for at in [5, 3, 9] {
            assert_eq!(aggregator.push("a", event(1, at)), []);
        }
        assert_eq!(aggregator.push("a", event(2, 4)), []);
        assert_eq!(aggregator.push("b", event(1, 4)), []);
        assert_eq!(aggregator.len(), 3);
        assert_eq!(aggregator.due(WINDOW_NS + 3), []);
        let due = aggregator.due(WINDOW_NS + 4);
        assert_eq!(due.len(), 2);
        let rest = aggregator.drain();
        assert_eq!(rest.len(), 1);
        let merged = aggregate(&rest[0]);
        assert_eq!(
            (merged.count, merged.first_time_ns, merged.last_time_ns),
            (3, 1_003, 1_009)
        );
        assert_eq!(merged.rule.as_deref(), Some("a"));
        assert_eq!(merged.of_type(), EventType::FileCreate);
        assert_eq!(merged.sample.as_deref(), Some(&event(1, 5)));
        assert_eq!(rest[0].process, event(1, 5).process);
        assert_eq!(rest[0].time_boot_ns, 9);
        assert!(aggregator.is_empty());
    }

    #[test]
    fn groups_are_bounded_and_none_is_lost() {
        let mut aggregator = Aggregator::default();
        let mut count = 0;
        let total = MAX_GROUPS * 3;
        for at in 0..total {
            let mut event = event(0, u64::try_from(at).unwrap());
            event.process.as_mut().unwrap().exec_id = u32::try_from(at).unwrap();
            count += aggregator
                .push("a", event)
                .iter()
                .map(|event| aggregate(event).count)
                .sum::<u64>();
            assert!(aggregator.len() <= MAX_GROUPS);
        }
        assert!(count > 0);
        count += aggregator
            .drain()
            .iter()
            .map(|event| aggregate(event).count)
            .sum::<u64>();
        assert_eq!(count, u64::try_from(total).unwrap());
    }
}
