//! Forms of events as text, which sinks and `sensor decode` are told to write.

/// Form of an event's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The sensor's own JSON.
    Json,
    /// Elastic Common Schema.
    Ecs,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
}
