//! Prints docs/formats.md: `cargo run -p sensor --example formats-docs`.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    io::stdout().write_all(sensor::format::mapping::markdown().as_bytes())
}
