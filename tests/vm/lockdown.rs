//! A guest of `cargo xtask vm` booted with `lockdown=confidentiality`, which lets no program read kernel memory: the sensor
//! says so, and ends or goes on with what is left, but never as if nothing was wrong. Run there only.

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
        eprintln!("{told:#}\n{said}\n{}", output.status);
        let (output, said) = sensor(&["doctor"]);
        eprintln!(
            "{}\n{said}\n{}",
            String::from_utf8_lossy(&output.stdout),
            output.status
        );
        panic!("x");
    }

    #[test]
    fn a_run_says_it() {
        is_locked_down();
        let (output, said) = sensor(&["run", "--format", "json", "--duration", "2s"]);
        panic!(
            "{}\n{said}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
