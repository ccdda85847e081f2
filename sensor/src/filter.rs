//! Which events are dropped or merged on purpose: the configured rules, compiled once, asked per event.
//!
//! Rules stand in order, the first that matches decides, and what no rule matches is reported. A filter never changes an event
//! and never hides that it acted: every decision names its rule, and every rule counts. What happens to processes is
//! followed whether or not their events are filtered, so the filter is asked after enrichment.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use sensor_proto::v1::{Event, EventType, Process};

pub mod aggregate;
pub mod rule;

pub use rule::{RuleError, RuleProblem};

use crate::config::{FilterRule, Loaded, LoadedRules, Place, RuleAction};
use crate::filter::rule::Rule;

/// Most rules of a filter: beyond it, asking every event costs more than what is saved.
pub const MAX_RULES: usize = 4_096;

/// What a filter looks at: an event and what is known about its process.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The event.
    pub event: &'a Event,
    /// The row of `event.process`.
    pub process: Option<&'a Process>,
    /// The row of that process's parent.
    pub parent: Option<&'a Process>,
}

/// What shall happen to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'f> {
    /// No rule matches: report it.
    Default,
    /// A rule matches; what it does stands in it.
    Rule(&'f RuleInfo, usize),
}

impl Decision<'_> {
    /// What to do: report, drop or merge.
    pub fn action(&self) -> RuleAction {
        match self {
            Self::Default => RuleAction::Include,
            Self::Rule(rule, _) => rule.action,
        }
    }
}

/// What is said about a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its name; drops are counted under it.
    pub id: String,
    /// What it does.
    pub action: RuleAction,
    /// Event types that it can match, in the order of the schema.
    pub events: Vec<EventType>,
    /// Its criteria for people, each with the way in which it is looked up.
    pub criteria: Vec<String>,
    /// Where it runs.
    pub place: RulePlace,
}

/// Where a rule runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulePlace {
    /// In the daemon, after enrichment.
    Userspace,
}

/// A set of rules, ready to be asked.
#[derive(Debug)]
pub struct Filter {
    rules: Vec<Rule>,
    /// For each event type that any rule can match, those rules, in order.
    by_type: Vec<(EventType, Vec<usize>)>,
    /// Events that each rule decided about.
    counts: Vec<AtomicU64>,
}

/// Everything that is wrong with configured rules: one line each, with the place in the file.
#[derive(Debug)]
pub struct FilterErrors(pub Vec<(Place, String, RuleError)>);

impl fmt::Display for FilterErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (place, table, error)) in self.0.iter().enumerate() {
            let line = if index > 0 { "\n" } else { "" };
            let separator = if error.key.is_empty() { ": " } else { "." };
            write!(out, "{line}{place}: {table}{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for FilterErrors {}

impl FilterErrors {
    fn new(errors: Vec<RuleError>, list: &str, locate: impl Fn(&str) -> Place) -> Self {
        let placed = errors.into_iter().map(|error| {
            let table = format!("{list}[{}]", error.rule);
            let key = if error.key.is_empty() {
                table.clone()
            } else {
                format!("{table}.{}", error.key)
            };
            (locate(&key), table, error)
        });
        let mut placed: Vec<_> = placed.collect();
        placed.sort_by(|one: &(Place, String, RuleError), other| one.0.cmp(&other.0));
        Self(placed)
    }
}

impl Filter {
    /// Compiles the rules of the configuration.
    ///
    /// # Errors
    /// Everything that is wrong with them, with its place.
    pub fn from_config(loaded: &Loaded) -> Result<Self, FilterErrors> {
        Self::compile(&loaded.config.rules)
            .map_err(|errors| FilterErrors::new(errors, "filter.rule", |key| loaded.locate(key)))
    }

    /// Compiles the rules of a file of rules.
    ///
    /// # Errors
    /// Everything that is wrong with them, with its place.
    pub fn from_rules(loaded: &LoadedRules) -> Result<Self, FilterErrors> {
        Self::compile(&loaded.rules)
            .map_err(|errors| FilterErrors::new(errors, "rule", |key| loaded.locate(key)))
    }

    /// Compiles rules: all or, when any is wrong, none.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the rules.
    pub fn compile(rules: &[FilterRule]) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut ids = HashSet::new();
        if rules.len() > MAX_RULES {
            errors.push(RuleError::new(MAX_RULES, "", RuleProblem::TooMany));
        }
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, typed) in rules.iter().enumerate().take(MAX_RULES) {
            if !ids.insert(typed.id.as_str()) {
                errors.push(RuleError::new(
                    index,
                    "id",
                    RuleProblem::Duplicate(typed.id.clone()),
                ));
            }
            match Rule::compile(index, typed) {
                Ok(rule) => compiled.push(rule),
                Err(faults) => errors.extend(faults),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut by_type: Vec<(EventType, Vec<usize>)> = Vec::new();
        for (index, rule) in compiled.iter().enumerate() {
            for event_type in &rule.info.events {
                match by_type.iter_mut().find(|(known, _)| known == event_type) {
                    Some((_, indices)) => indices.push(index),
                    None => by_type.push((*event_type, vec![index])),
                }
            }
        }
        let counts = compiled.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            rules: compiled,
            by_type,
            counts,
        })
    }

    /// Decides about an event, and counts the decision.
    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let decision = self.first_match(subject);
        if let Decision::Rule(_, index) = decision
            && let Some(count) = self.counts.get(index)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
        decision
    }

    /// Decides about an event without counting.
    pub fn first_match(&self, subject: &Subject<'_>) -> Decision<'_> {
        let event_type = subject.event.event_type();
        let Some((_, indices)) = self.by_type.iter().find(|(known, _)| *known == event_type) else {
            return Decision::Default;
        };
        let rules = indices
            .iter()
            .filter_map(|index| Some((*index, self.rules.get(*index)?)));
        for (index, rule) in rules {
            if rule.matches(subject) {
                return Decision::Rule(&rule.info, index);
            }
        }
        Decision::Default
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Each rule in order, with the number of events that it decided about since it was compiled.
    pub fn rules(&self) -> impl Iterator<Item = (&RuleInfo, u64)> {
        let counts = self
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        self.rules.iter().map(|rule| &rule.info).zip(counts)
    }
}

#[cfg(test)]
mod tests;
