//! The daemon.

#![deny(unsafe_code)]

pub mod args;
pub mod clock;
pub mod command;
pub mod config;
pub mod confine;
pub mod control;
pub mod enrich;
pub mod event;
pub mod exit;
pub mod filter;
pub mod format;
pub mod kernel;
pub mod ledger;
pub mod loader;
pub mod metrics;
pub mod notify;
pub mod packet;
pub mod pipeline;
pub mod probe;
pub mod procfs;
pub mod reader;
pub mod recording;
pub mod run;
pub mod selftest;
pub mod sink;
pub mod spool;
