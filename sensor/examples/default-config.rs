//! Prints packaging/sensor.toml.
#![expect(clippy::print_stdout, reason = "its purpose")]

fn main() {
    print!("{}", sensor::config::template::default_file());
}
