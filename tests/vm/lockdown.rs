//! A guest of `cargo xtask vm` booted with `lockdown=confidentiality`, which lets no program read kernel memory: the sensor
//! says so and ends, and never goes on as if nothing was wrong. Run there only.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Output};

    use serde_json::Value;

    fn sensor(arguments: &[&str]) -> (Output, String) {
        let program = std::env::var("SENSOR_BIN").unwrap();
        let output = Command::new(program).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        (output, said)
    }

    fn is_locked_down() {
        let text = fs::read_to_string("/sys/kernel/security/lockdown").unwrap();
        assert!(text.contains("[confidentiality]"), "{text}");
    }

    #[test]
    fn doctor_says_it_and_what_to_do() {
        is_locked_down();
        let (output, said) = sensor(&["doctor", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert_eq!(told["features"]["lockdown"], "confidentiality", "{told:#}");
        let kinds = told["kinds"].as_array().unwrap();
        for kind in ["exec", "file_create", "connect", "module_load"] {
            let told = kinds.iter().find(|told| told["kind"] == kind).unwrap();
            assert_eq!(told["hook"], "none", "{told:#}");
            let refused = told["refused"].as_array().unwrap();
            assert!(!refused.is_empty(), "{told:#}");
            for refused in refused {
                let verifier = refused["verifier"].as_array();
                let last = verifier.and_then(|lines| lines.last()?.as_str());
                let reason = refused["reason"].as_str().unwrap();
                // By trial: the helper that reads kernel memory is refused, or `bpf_loop` is not there.
                let told = format!("{reason} {}", last.unwrap_or(""));
                assert!(
                    told.contains("probe_read") || told.contains("bpf_loop"),
                    "{told}"
                );
            }
        }
        let (output, said) = sensor(&["doctor"]);
        let table = String::from_utf8_lossy(&output.stdout);
        for part in [
            "lockdown          confidentiality",
            "-> lockdown=confidentiality refuses to read kernel memory: lockdown=integrity does not",
        ] {
            assert!(table.contains(part), "no {part:?} in {table}{said}");
        }
    }

    #[test]
    fn a_run_ends_and_says_it() {
        is_locked_down();
        let (output, said) = sensor(&["run", "--format", "json", "--duration", "60s"]);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert_eq!(output.stdout, b"");
        assert!(
            said.contains("the kernel is locked down (confidentiality)"),
            "{said}"
        );
        assert!(said.contains("lockdown=integrity"), "{said}");
        assert!(!said.contains("ready"), "{said}");
    }
}
