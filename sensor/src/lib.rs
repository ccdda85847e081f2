//! The daemon.
pub mod clock;
pub mod ledger;
pub mod procfs;
pub mod recording;
