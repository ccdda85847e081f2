//! The daemon.

pub mod clock;
pub mod event;
pub mod kernel;
pub mod ledger;
pub mod procfs;
pub mod recording;
