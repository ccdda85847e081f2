//! Prints docs/config.md.
#![expect(clippy::print_stdout, reason = "its purpose")]

fn main() {
    print!("{}", sensor::config::docs_markdown());
}
