//! The public schema.
