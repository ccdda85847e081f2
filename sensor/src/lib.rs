//! The daemon.
pub mod ledger;
pub mod recording;
