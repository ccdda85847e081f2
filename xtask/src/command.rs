//! Running other programs: quiet on success, their last lines on failure.

use std::fs;
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

/// Runs a command with its output on ours.
pub(crate) fn run_shown(command: &mut Command) -> anyhow::Result<()> {
    let name = name_of(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Ends every process below this one; what has already ended is passed over.
pub(crate) fn end_descendants() {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // "PID (NAME) STATE PARENT ...", and the name may hold anything.
        let pid = stat
            .split(' ')
            .next()
            .and_then(|field| field.parse::<u32>().ok());
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split(' ').nth(2)?.parse::<u32>().ok());
        if let (Some(pid), Some(parent)) = (pid, parent) {
            parents.push((pid, parent));
        }
    }
    let mut ours = vec![std::process::id()];
    let mut at = 0;
    while let Some(above) = ours.get(at).copied() {
        ours.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    for pid in ours.iter().skip(1) {
        // From the top down; one that is gone already is no error.
        drop(
            Command::new("kill")
                .args(["-KILL", &pid.to_string()])
                .stderr(Stdio::null())
                .status(),
        );
    }
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
