//! Prints docs/data-provision.md: `cargo run -p sensor --example data-provision-docs`.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let text = sensor::command::data_provision::of_the_defaults()
        .map_err(|errors| io::Error::other(errors.to_string()))?;
    io::stdout().write_all(text.as_bytes())
}
