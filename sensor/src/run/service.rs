//! When the service manager is told what. A sign of life is sent only after the pipeline has answered the main thread, so that
//! the manager ends a sensor of which either hangs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sensor_common::record::RecordKind;
use sensor_proto::v1::EventType;

use crate::clock;
use crate::ledger::{Ledger, Row};
use crate::loader::Coverage;
use crate::notify::Notifier;

/// The service manager, as the main thread sees it.
pub(super) struct Service<'n> {
    notifier: &'n Notifier,
    /// What is watched, and how.
    watching: String,
    /// The last account, in words.
    account: String,
    due: Option<Instant>,
}

impl<'n> Service<'n> {
    /// For a sensor that reports these types of events.
    pub(super) fn new(
        notifier: &'n Notifier,
        events: &BTreeSet<EventType>,
        coverage: &Coverage,
    ) -> Self {
        Self {
            notifier,
            watching: watching(events, coverage),
            account: "no account yet".to_owned(),
            due: None,
        }
    }

    /// All is attached, or the rules have been read again.
    pub(super) fn ready(&mut self) {
        self.notifier.ready(&self.status());
        self.due = self.next(Instant::now());
    }

    /// The rules are about to be read again.
    pub(super) fn reloading(&self) {
        match clock::monotonic_us() {
            Ok(now) => self.notifier.reloading(now),
            Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
        }
    }

    /// When [`Service::look`] wants to be called; `None`: nobody listens.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Sends a sign of life if it is due and the pipeline gave its account; without one, the next is due as usual, and
    /// the service manager's patience shortens.
    pub(super) fn look(&mut self, now: Instant, ledger: Option<&Ledger>) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = self.next(now);
        match ledger {
            Some(ledger) => {
                self.account = account(ledger);
                self.notifier.alive(&self.status());
            }
            None => tracing::error!("the pipeline does not answer, no sign of life is given"),
        }
    }

    /// The sensor ends.
    pub(super) fn stopping(&self) {
        self.notifier
            .stopping(&format!("stopping; {}", self.account));
    }

    fn status(&self) -> String {
        format!("{}; {}", self.watching, self.account)
    }

    fn next(&self, now: Instant) -> Option<Instant> {
        self.notifier.every().map(|every: Duration| now + every)
    }
}

/// `watching 5 event types by fentry, tracepoint`, and what is missing.
fn watching(events: &BTreeSet<EventType>, coverage: &Coverage) -> String {
    let (mut hooks, mut missing) = (BTreeSet::new(), Vec::new());
    for event in events {
        let kind = RecordKind::ALL
            .iter()
            .find(|kind| kind.name() == event.short_name());
        match kind.and_then(|kind| coverage.backend(*kind)) {
            Some(backend) => {
                hooks.insert(backend.name());
            }
            None => missing.push(event.short_name()),
        }
    }
    let count = events.len().saturating_sub(missing.len());
    let types = if count == 1 { "type" } else { "types" };
    let hooks: Vec<&str> = hooks.into_iter().collect();
    let mut text = format!("watching {count} event {types} by {}", hooks.join(", "));
    if !missing.is_empty() {
        text.push_str(&format!("; missing: {}", missing.join(", ")));
    }
    text
}

/// `12,345 events, 0 lost`.
fn account(ledger: &Ledger) -> String {
    let sealed = Row::all()
        .map(|row| ledger.account(row).daemon.sealed)
        .sum::<u64>();
    format!(
        "{} events, {} lost",
        grouped(sealed),
        grouped(ledger.lost_in_all())
    )
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::loader::{Chosen, KindCoverage};
    use crate::notify::Environment;
    use crate::probe::Backend;

    fn coverage(kinds: &[(RecordKind, Option<Backend>)]) -> Coverage {
        let kinds = kinds.iter().map(|(kind, backend)| KindCoverage {
            kind: *kind,
            chosen: backend.map(|backend| Chosen {
                backend,
                programs: Vec::new(),
            }),
            refused: Vec::new(),
            degraded: Vec::new(),
            lost: "",
        });
        Coverage {
            kinds: kinds.collect(),
            ..Coverage::default()
        }
    }

    fn events() -> BTreeSet<EventType> {
        [EventType::Exec, EventType::Exit, EventType::Connect].into()
    }

    fn received(server: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = server.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn what_is_watched_and_what_is_missing_are_told() {
        let coverage = coverage(&[
            (RecordKind::Exec, Some(Backend::Tracepoint)),
            (RecordKind::Exit, Some(Backend::Tracepoint)),
            (RecordKind::Connect, None),
        ]);
        assert_eq!(
            watching(&events(), &coverage),
            "watching 2 event types by tracepoint; missing: connect"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn no_sign_of_life_without_an_answer_of_the_pipeline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let server = UnixDatagram::bind(&path).unwrap();
        server.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(Environment {
            socket: Some(path.as_os_str()),
            watchdog_usec: Some(OsStr::new("8000000")),
            watchdog_pid: None,
        })
        .unwrap();
        let coverage = coverage(&[
            (RecordKind::Exec, Some(Backend::Tracepoint)),
            (RecordKind::Exit, Some(Backend::Tracepoint)),
            (RecordKind::Connect, Some(Backend::Fentry)),
        ]);
        let mut service = Service::new(&notifier, &events(), &coverage);
        assert_eq!(service.due(), None);
        service.ready();
        assert_eq!(
            received(&server),
            "READY=1\nSTATUS=watching 3 event types by fentry, tracepoint; no account yet"
        );
        let due = service.due().unwrap();
        let mut ledger = Ledger::new();
        let row = Row::Kind(RecordKind::Exec);
        for _ in 0..1_234 {
            ledger.sealed(row);
        }
        ledger.lost(row, "hold");
        // Too early; then without an answer: silence.
        service.look(due - Duration::from_millis(1), Some(&ledger));
        service.look(due, None);
        server.recv(&mut [0; 8]).unwrap_err();
        let next = service.due().unwrap();
        assert_eq!(next, due + Duration::from_secs(2));
        service.look(next, Some(&ledger));
        assert_eq!(
            received(&server),
            "WATCHDOG=1\nSTATUS=watching 3 event types by fentry, tracepoint; 1,234 events, 1 lost"
        );
        service.stopping();
        assert_eq!(
            received(&server),
            "STOPPING=1\nSTATUS=stopping; 1,234 events, 1 lost"
        );
    }
}
