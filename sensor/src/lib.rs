//! The daemon.
pub mod clock;
pub mod kernel;
pub mod ledger;
pub mod procfs;
pub mod recording;
