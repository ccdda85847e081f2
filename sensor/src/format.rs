//! Views of an event. They are functions of the event: they read nothing else and decide nothing.

use sensor_proto::v1::{Agent, Event, Host, Process};

pub mod ecs;
mod errno;
pub mod mapping;
pub mod ocsf;
pub mod packet;
pub mod pretty;

/// What a view for people is made of.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The event.
    pub event: &'a Event,
    /// The row of `event.process`.
    pub process: Option<&'a Process>,
    /// Its parent, its parent's parent, and so on, as far as known.
    pub lineage: &'a [&'a Process],
    /// There are more ancestors than these.
    pub lineage_cut: bool,
}

/// What a view for other programs is made of: an event with everything that it refers to.
#[derive(Clone, Copy, Debug)]
pub struct Complete<'a> {
    /// The event.
    pub event: &'a Event,
    /// The row of `event.process`; none when it is not known, or no process acted.
    pub process: Option<&'a Process>,
    /// The row of `process.parent`; none when it is not known or out of scope.
    pub parent: Option<&'a Process>,
    /// The parent's parent, its parent, and so on.
    pub ancestors: &'a [&'a Process],
    /// There are more ancestors than these.
    pub ancestors_truncated: bool,
    /// The host on which it happened.
    pub host: &'a Host,
    /// The agent that tells it.
    pub agent: &'a Agent,
}

impl<'a> Complete<'a> {
    /// The row of the acting process, if one acted and its row is known.
    fn actor(&self) -> Option<&'a Process> {
        self.event.process.as_ref().and(self.process)
    }

    /// The parent, its parent, and so on, as far as known.
    fn lineage(&self) -> impl Iterator<Item = &'a Process> + use<'a> {
        self.parent
            .into_iter()
            .chain(self.ancestors.iter().copied())
    }
}
