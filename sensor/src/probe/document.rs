//! What docs/hooks.md says, made from the table itself.

use sensor_common::record::Lane;

use super::{Attach, Candidate, PROBES, Part, Probe};

const INTRODUCTION: &str = "\
# Hooks

<!-- Generated from sensor/src/probe.rs; do not edit. `cargo xtask docs` writes it anew. -->

For each kind of record the ways to get it, best first. The loader tries them in this order on the running kernel and
takes the first that loads and attaches; no version number decides. `sensor doctor` prints what it would take here, what
was refused and why. `--backend fentry`, `kprobe` or `syscall-exit` leaves out the other families; tracepoints are part
of every choice.

Of programs in the same place, the one that walks paths by `bpf_loop` (`_l`, Linux 5.17) is tried before the bounded one
(`_b`). Of several places the kernel has one: the function was renamed, the newest name is last. An *optional* part may
be refused without the rest: then only what its row says is lost. A family also needs fields of the kernel's types: where
BTF does not show one (names as in sensor-common/src/layout.rs), the family is not tried. Record kinds are those of the
[ledger](loss.md); what the events made of them carry is in [events.md](events.md).
";

/// docs/hooks.md.
#[must_use]
pub fn hooks_markdown() -> String {
    let mut page = String::from(INTRODUCTION);
    for probe in PROBES {
        section(&mut page, probe);
    }
    page
}

fn section(page: &mut String, probe: &Probe) {
    let lane = probe.kind.lane();
    page.push_str(&format!("\n## `{}`\n\n", probe.kind.name()));
    page.push_str(&format!(
        "Record {}, {} lane{}. Lost if nothing works: {}.\n\n",
        probe.kind as u16,
        lane.name(),
        if lane == Lane::Process {
            ", read first"
        } else {
            ""
        },
        probe.lost
    ));
    page.push_str("| family | hook | programs | lost without it |\n|---|---|---|---|\n");
    for candidate in probe.candidates {
        for (position, part) in candidate.parts.iter().enumerate() {
            let family = if position == 0 {
                candidate.backend.name()
            } else {
                ""
            };
            page.push_str(&format!(
                "| {family} | {} | {} | {} |\n",
                places(part),
                code(part.programs),
                part.optional
                    .map_or_else(|| "this way".to_owned(), |lost| format!("optional: {lost}"))
            ));
        }
    }
    page.push('\n');
    for candidate in probe.candidates {
        page.push_str(&reach(candidate));
    }
}

fn reach(candidate: &Candidate) -> String {
    let needs = code(candidate.needs.iter().map(|field| format!("{field:?}")));
    let cannot = if candidate.lost.is_empty() {
        "nothing known is out of its sight".to_owned()
    } else {
        format!("cannot see {}", candidate.lost)
    };
    format!(
        "- {}: {cannot}; needs the kernel's types for {needs}.\n",
        candidate.backend
    )
}

fn places(part: &Part) -> String {
    code(part.places.iter().map(Attach::to_string))
}

fn code<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    words
        .into_iter()
        .map(|word| format!("`{}`", word.as_ref()))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_program_place_and_loss_is_on_the_page() {
        let page = hooks_markdown();
        for probe in PROBES {
            assert!(page.contains(&format!("## `{}`", probe.kind.name())));
            assert!(page.contains(probe.lost));
            for candidate in probe.candidates {
                assert!(page.contains(candidate.lost));
                for part in candidate.parts {
                    for program in part.programs {
                        assert!(page.contains(&format!("`{program}`")), "{program}");
                    }
                    for place in part.places {
                        assert!(page.contains(&format!("`{place}`")), "{place}");
                    }
                    assert!(page.contains(part.optional.unwrap_or_default()));
                }
            }
        }
    }
}
