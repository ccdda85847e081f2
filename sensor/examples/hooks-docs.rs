//! Prints docs/hooks.md: `cargo run -p sensor --example hooks-docs`.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    io::stdout().write_all(sensor::probe::hooks_markdown().as_bytes())
}
