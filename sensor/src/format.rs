//! Views of an event. They are functions of the event: they read nothing else and decide nothing.

use sensor_proto::v1::{Event, Process};

pub mod pretty;

/// What a view is made of.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The event.
    pub event: &'a Event,
    /// The row of `event.process`.
    pub process: Option<&'a Process>,
    /// How many known ancestors the process has.
    pub depth: usize,
}
