//! Prints docs/events.md: `cargo run -p sensor-proto --example events_md > docs/events.md`.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    std::io::stdout().write_all(sensor_proto::docs::events_markdown().as_bytes())
}
