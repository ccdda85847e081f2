//! Running other programs: quiet on success, their last lines on failure.

use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, bail};

/// How many lines of a failed command's output are worth showing.
const TAIL_LINES: usize = 40;

/// Runs a command, shows its output only if it fails.
pub(crate) fn quiet(command: &mut Command) -> anyhow::Result<()> {
    captured(command).map(drop)
}

/// Runs a command and gives its standard output as text.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = name_of(command);
    String::from_utf8(captured(command)?.stdout).with_context(|| format!("output of {name}"))
}

fn captured(command: &mut Command) -> anyhow::Result<Output> {
    let name = name_of(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        bail!("{name}: {}\n{}", output.status, tail(&text, TAIL_LINES));
    }
    Ok(output)
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all.iter()
        .skip(all.len().saturating_sub(lines))
        .fold(String::new(), |mut joined, line| {
            joined.push_str(line);
            joined.push('\n');
            joined
        })
}

fn name_of(command: &Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let first: Vec<_> = command
        .get_args()
        .take(3)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    format!("`{program} {}`", first.join(" "))
}
