//! Facts that are not in the record: who the process is, its users, its container, what of its arguments may leave.
mod background;
pub mod close_watch;
pub mod container;
pub mod environment;
pub mod file;
pub mod hash;
pub mod host;
pub mod process;
pub(crate) mod recent;
pub mod user;
