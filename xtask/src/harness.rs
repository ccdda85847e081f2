//! What Rust's test harness prints, read line by line.

/// How a suite went.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    /// One line each: a test that failed, a guest that died.
    pub(crate) problems: Vec<String>,
    /// Tests with the milliseconds between their line and the one before.
    pub(crate) tests: Vec<(String, u64)>,
}

impl Tally {
    /// Takes one line: `test NAME ... ok`; others are passed over.
    pub(crate) fn line(&mut self, said: &str, milliseconds: u64) {
        let Some((name, verdict)) = said
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "))
        else {
            return;
        };
        match verdict.split([',', ' ']).next() {
            Some("ok") => self.passed += 1,
            Some("FAILED") => {
                self.failed += 1;
                self.problems.push(format!("test {name} failed"));
            }
            Some("ignored") => self.ignored += 1,
            _ => return,
        }
        self.tests.push((name.to_owned(), milliseconds));
    }

    /// Something that is no test went wrong: counts as one failure at least.
    pub(crate) fn fail(&mut self, problem: String) {
        self.failed = self.failed.max(1);
        self.problems.push(problem);
    }

    /// Compares with how the test program ended: nothing is good by silence.
    pub(crate) fn ended(&mut self, code: Option<i32>) {
        match code {
            Some(0) if self.passed + self.failed == 0 => self.fail("no test ran".to_owned()),
            Some(0) => {}
            // The failed tests have been named.
            Some(101) if self.failed > 0 => {}
            Some(code) => self.fail(format!("the test program ended with code {code}")),
            None => self.fail("the test program was ended by a signal".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_failures_named() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test a::b ... ok",
            "test c ... FAILED",
            "test d ... ignored, needs x",
            "test e - should panic ... ok",
            "test result: FAILED. 2 passed; 1 failed",
        ] {
            tally.line(line, 5);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (2, 1, 1));
        assert_eq!(tally.problems, ["test c failed"]);
        assert_eq!(tally.tests.len(), 4);
    }

    #[test]
    fn an_empty_or_broken_run_is_a_failure() {
        for code in [Some(0), Some(101), Some(134), None] {
            let mut tally = Tally::default();
            tally.ended(code);
            assert_eq!(tally.failed, 1, "{code:?}");
        }
    }
}
