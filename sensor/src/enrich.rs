//! Facts that are not in the record: who the process is, its users, its container, what of its arguments may leave.
pub mod environment;
