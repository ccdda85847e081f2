//! The live view as the main thread sees it: what its bottom line is told, and when; stopping and going on.

use std::time::{Duration, Instant};

use super::signal::Signals;
use crate::config::Config;
use crate::ledger::Ledger;
use crate::loader::Coverage;
use crate::sink::view::{Facts, Screen};

/// How often the bottom line is told what was lost.
const EVERY: Duration = Duration::from_secs(2);

/// The view, if there is one.
pub(super) struct View {
    screen: Option<Screen>,
    facts: Facts,
    due: Option<Instant>,
}

impl View {
    /// Of a run with this configuration and these hooks.
    pub(super) fn new(screen: Option<Screen>, config: &Config, coverage: &Coverage) -> Self {
        let missing = coverage.kinds.iter().filter(|kind| kind.chosen.is_none());
        let wanted = config.events.iter().map(|wanted| wanted.short_name());
        let wanted: Vec<&str> = wanted.collect();
        let facts = Facts {
            lost: 0,
            missing: missing
                .map(|kind| kind.kind.name().to_owned())
                .filter(|name| wanted.contains(&name.as_str()))
                .collect(),
            scope: config
                .scope_cgroup
                .as_ref()
                .and_then(|path| path.file_name())
                .map(|name| {
                    use std::os::unix::ffi::OsStrExt as _;
                    crate::format::pretty::clean(name.as_bytes()).into_owned()
                }),
        };
        if let Some(screen) = &screen {
            screen.tell(facts.clone());
        }
        let due = screen.is_some().then(|| Instant::now() + EVERY);
        Self { screen, facts, due }
    }

    /// When [`Self::look`] wants to be called; `None`: nobody watches.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Tells the bottom line what the account says, if it is time.
    pub(super) fn look(&mut self, now: Instant, ledger: Option<&Ledger>) {
        let Some(screen) = self.screen.as_ref().filter(|_| self.due <= Some(now)) else {
            return;
        };
        self.due = Some(now + EVERY);
        if let Some(ledger) = ledger {
            self.facts.lost = ledger.lost_in_all();
            screen.tell(self.facts.clone());
        }
    }

    /// Whether who watches wants to leave.
    pub(super) fn left(&self) -> bool {
        self.screen.as_ref().is_some_and(Screen::left)
    }

    /// The terminal has another size.
    pub(super) fn resized(&self) {
        if let Some(screen) = &self.screen {
            screen.resized();
        }
    }

    /// Gives the terminal back, stops the process, and takes it again afterwards.
    pub(super) fn suspend(&self, signals: &Signals) {
        let Some(screen) = &self.screen else {
            return;
        };
        screen.hide();
        if let Err(errno) = signals.suspend() {
            tracing::warn!(%errno, "cannot be stopped by the terminal");
        }
        screen.show();
    }

    /// The process goes on after it was stopped, by whatever signal.
    pub(super) fn continued(&self) {
        if let Some(screen) = &self.screen {
            screen.again();
        }
    }
}
